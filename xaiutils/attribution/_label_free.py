"""Maps of an encoder without labels, by other people: what Grad-LAM has to be compared with.

All of them are called as ``method(encoder, x, **options)`` and give (N, H, W); none asks a decoder,
and none changes the images. For an encoder in half precision they compute and return float32.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from xaiutils.attribution import _modified
from xaiutils.attribution._cam import enlarged, feature_layer
from xaiutils.attribution._common import Network, check_positive, in_chunks, joined, precise
from xaiutils.attribution._grad_lam import grad_lam, trace_encoder


def lafam(
    encoder: Network,
    x: Tensor,
    layer: str | None = None,
    *,
    batch_size: int | None = None,
) -> Tensor:
    r"""Return the label-free activation map (LaFAM; Karjauv and Albayrak 2024).

    The mean :math:`\frac1K \sum_k A^k(u, v)` of a layer's feature maps, scaled to [0, 1] in each
    image and enlarged to the input bilinearly. An image whose mean is the same everywhere gets 0.

    Args:
        encoder: A network in evaluation mode that gives codes (N, J), or its
            :class:`~xaiutils.graph.Graph`, as in :func:`xaiutils.attribution.grad_lam`.
        x: Inputs (N, C, H, W).
        layer: The path in ``encoder`` of the module whose output is read; None takes the last maps
            that the code is computed from.
        batch_size: How many images at a time; bounds the memory.

    Returns:
        (N, H, W), in [0, 1].

    Raises:
        TypeError: As in :func:`xaiutils.attribution.grad_lam`.
        ValueError: As in :func:`xaiutils.attribution.grad_lam`.
    """
    traced = trace_encoder(encoder, x)
    node = feature_layer(traced, layer)

    def one_chunk(x: Tensor) -> Tensor:
        mean = traced.record(x, keep=(node.index,)).value(node.index).mean(dim=1, keepdim=True)
        low, high = mean.amin(dim=(2, 3), keepdim=True), mean.amax(dim=(2, 3), keepdim=True)
        scaled = ((mean - low) / (high - low)).nan_to_num(0.0)
        return enlarged(scaled, x.shape[2:])[:, 0]

    return joined(in_chunks(one_chunk, batch_size, precise(x)))


def relax(
    encoder: Network,
    x: Tensor,
    *,
    samples: int = 1000,
    cells: int = 7,
    probability: float = 0.5,
    seed: int = 0,
    batch_size: int = 64,
) -> Tensor:
    r"""Return the RELAX importance (Wickstrøm et al. 2023): which pixels keep the code as it is.

    .. math:: R(u, v) = \frac1S \sum_{s=1}^S \cos\bigl(e(x), e(x \odot m_s)\bigr)\, m_s(u, v)

    The masks are those of RISE (Petsiuk et al. 2018): a grid of zeros and ones, enlarged
    bilinearly and shifted at random. All images meet the same masks. The size of the grid and the
    number of masks are our choices.

    Args:
        encoder: A network in evaluation mode that gives codes (N, J), or its
            :class:`~xaiutils.graph.Graph`, as in :func:`xaiutils.attribution.grad_lam`.
        x: Inputs (N, C, H, W). A masked pixel becomes 0.
        samples: *S*, how many masks.
        cells: Side of the grid.
        probability: That a cell stays, in (0, 1).
        seed: Of the masks.
        batch_size: How many masked copies of one image at a time; bounds the memory.

    Returns:
        (N, H, W), from -1 to 1.

    Raises:
        TypeError: As in :func:`xaiutils.attribution.grad_lam`.
        ValueError: As in :func:`xaiutils.attribution.grad_lam`, or if an option is out of range.
    """
    check_positive("samples", samples)
    check_positive("cells", cells)
    check_positive("batch_size", batch_size)
    if not 0 < probability < 1:
        raise ValueError(f"probability must lie between 0 and 1, not at {probability}")
    traced = trace_encoder(encoder, x)
    masks = random_masks(samples, cells, probability, x.shape[2:], seed).to(precise(x))

    def one_image(image: Tensor) -> Tensor:
        code, total = traced(image), torch.zeros_like(image[:, 0])
        for part in torch.split(masks, batch_size):
            similarity = F.cosine_similarity(traced(image * part[:, None]), code)
            total += torch.einsum("s,shw->hw", similarity, part)
        return total / samples

    return joined(in_chunks(one_image, 1, precise(x)))


def random_masks(
    samples: int, cells: int, probability: float, size: torch.Size, seed: int
) -> Tensor:
    """Return the masks of RISE (Petsiuk et al. 2018), (samples, H, W) in [0, 1], on the CPU."""
    generator = torch.Generator().manual_seed(seed)
    height, width = (-(-side // cells) for side in size)  # of one cell, rounded up
    grid = (torch.rand(samples, 1, cells, cells, generator=generator) < probability).float()
    large = enlarged(grid, torch.Size(((cells + 1) * height, (cells + 1) * width)))[:, 0]
    rows = torch.randint(0, height, (samples,), generator=generator).tolist()
    columns = torch.randint(0, width, (samples,), generator=generator).tolist()
    shifts = zip(large, rows, columns, strict=True)
    return torch.stack([m[r : r + size[0], c : c + size[1]] for m, r, c in shifts])


def label_free_gradient(encoder: Network, x: Tensor, *, batch_size: int | None = None) -> Tensor:
    r"""Return the label-free saliency of a code (Crabbé and van der Schaar 2022).

    Their label-free wrapper turns the encoder *e* into one number, the inner product
    :math:`\langle e(x), e(\tilde x) \rangle` of a varied picture's code with the picture's own;
    this is its gradient in :math:`\tilde x` at :math:`\tilde x = x`. Absolute values are summed
    over the colours.

    Args:
        encoder: A network in evaluation mode that gives codes (N, J), or its
            :class:`~xaiutils.graph.Graph`, as in :func:`xaiutils.attribution.grad_lam`.
        x: Inputs (N, C, H, W).
        batch_size: How many images at a time; bounds the memory.

    Returns:
        (N, H, W), not negative.

    Raises:
        TypeError: As in :func:`xaiutils.attribution.grad_lam`.
        ValueError: As in :func:`xaiutils.attribution.grad_lam`.
    """
    traced = trace_encoder(encoder, x)

    def one_chunk(x: Tensor) -> Tensor:
        record = traced.record(x, keep="gates")
        return traced.backward(record, record.output).abs().sum(dim=1)

    return joined(in_chunks(one_chunk, batch_size, precise(x)))


def exp_vae(
    encoder: Network, x: Tensor, layer: str | None = None, *, batch_size: int = 32
) -> Tensor:
    r"""Return the attention of expVAE (Liu et al. 2020), as far as it is publicly described.

    :math:`\frac1J \sum_j \max(0, l_j(u, v))` with the pooled map :math:`l_j` of each latent: it is
    Grad-LAM with equal weights and a ReLU. That the code is the mean of the posterior, not a draw
    from it, is our choice.

    Args:
        encoder: A network in evaluation mode that gives codes (N, J), or its
            :class:`~xaiutils.graph.Graph`, as in :func:`xaiutils.attribution.grad_lam`; of a
            variational autoencoder the mean.
        x: Inputs (N, C, H, W).
        layer: The path in ``encoder`` of the module whose output is read; None takes the last maps
            that the code is computed from.
        batch_size: How many latents at a time; bounds the memory.

    Returns:
        (N, H, W), not negative. It is 0 everywhere for an image on which no map speaks for a
        latent.

    Raises:
        TypeError: As in :func:`xaiutils.attribution.grad_lam`.
        ValueError: As in :func:`xaiutils.attribution.grad_lam`.
    """
    found = grad_lam(
        encoder, None, x, layer, "uniform", rectify="relu", latent_batch_size=batch_size
    )
    return found.aggregate / found.latents.shape[1]


def random_map(encoder: Network, x: Tensor, *, seed: int = 0) -> Tensor:
    """Return standard normal noise: the baseline that every map must beat.

    Args:
        encoder: Checked as by the other methods, and otherwise unused.
        x: Inputs (N, C, H, W).
        seed: Of the noise; image *n* of a batch gets the same noise whatever the batch size is.

    Returns:
        (N, H, W).

    Raises:
        TypeError: As in :func:`xaiutils.attribution.grad_lam`.
        ValueError: As in :func:`xaiutils.attribution.grad_lam`.
    """
    trace_encoder(encoder, x)
    return _modified.random(encoder, x, seed=seed)[:, 0]
