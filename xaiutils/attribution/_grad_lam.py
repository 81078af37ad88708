r"""Grad-LAM: where in the picture an autoencoder reads each of its latents, and all together.

Of the paper (Bartler, Hinderer and Yang 2020) only the abstract could be read: it adapts Grad-CAM
to autoencoders and weights the latents by what the decoder knows. Everything beyond that is our
reconstruction, and so are the names of the weightings, the reference and the sums over regions.

The map of latent *j* is Grad-CAM's with the latent in the place of a class score,
:math:`l_j(u, v) = \sum_k \alpha_{jk} A^k(u, v)`. Scaling a latent by *c* scales its map by *c*
although the autoencoder, its decoder undoing it, has not changed. So a map has to be multiplied by
a weight that scales with :math:`1/c`, and the slope of the decoder is one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from xaiutils import graph
from xaiutils.attribution._baselines import Baselines, Units
from xaiutils.attribution._cam import enlarged, feature_layer
from xaiutils.attribution._common import (
    Network,
    check_choice,
    check_positive,
    check_scale,
    in_chunks,
    joined_fields,
    precise,
    precise_graph,
    read,
)
from xaiutils.attribution._grad_lam_decoder import (
    check_module,
    checked_decoder,
    decoder_gram,
    decoder_norms,
    removal_weights,
)
from xaiutils.attribution._grad_lam_reference import (
    ReferenceFeatures,
    check_regions,
    compared_with,
    mean_of,
    over_regions,
)

Weighting = Literal["jacobian", "gram", "removal", "abs_latent", "uniform"]
Rectify = Literal["abs", "relu", "square"]

WEIGHTINGS: tuple[Weighting, ...] = get_args(Weighting)
WITHOUT_DECODER = ("abs_latent", "uniform")


@dataclass(frozen=True, eq=False)
class LatentMaps:
    """What Grad-LAM finds.

    Attributes:
        maps: The signed map of each latent, (N, J, h, w), at the resolution of the layer; the mean
            over the reference pictures, if there are several.
        weights: What each map counts for in the aggregate, (N, J), not negative. For ``"gram"``
            they are the norms of the decoder's columns, and tell only a part of it.
        aggregate: All latents together, (N, H, W), at the resolution of the input, not negative.
        latents: The latent code, (N, J).
        layer: The layer that was read.
        reference: The code of the reference picture, (N, J), or the mean code of several; None if
            there is none. Not pooled, and with a linear head, the maps sum to ``latents`` minus
            this.
    """

    maps: Tensor
    weights: Tensor
    aggregate: Tensor
    latents: Tensor
    layer: str
    reference: Tensor | None = None


class LatentMean(nn.Module):
    """An encoder that returns several values, such as mean and log variance, by its first alone.

    Layers are then named from here: ``"encoder.features.2"``.

    Args:
        encoder: A module that returns a tuple. What it does to the other values still has to be
            made of operations that :func:`xaiutils.graph.trace` knows.
    """

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder
        self.train(encoder.training)

    def forward(self, x: Tensor) -> Tensor:
        """Return the first value, (N, J)."""
        mean: Tensor = self.encoder(x)[0]
        return mean


def grad_lam(
    encoder: Network,
    decoder: nn.Module | None,
    x: Tensor,
    layer: str | None = None,
    weighting: Weighting = "jacobian",
    *,
    rectify: Rectify = "abs",
    pooled: bool = True,
    reference: Baselines | None = None,
    region_size: int | None = None,
    units: Units | None = None,
    seed: int = 0,
    latent_batch_size: int = 32,
    batch_size: int | None = None,
) -> LatentMaps:
    r"""Return Grad-LAM's map of every latent, and their aggregate.

    The idea of Bartler, Hinderer and Yang 2020, of which we know the abstract; the equations are
    our reconstruction. With the feature maps :math:`A^k` of a layer of the encoder,

    .. math:: l_j(u, v) = \sum_k \alpha_{jk} A^k(u, v), \qquad
              M(u, v) = \sum_j w_j\,|l_j(u, v)|

    where :math:`\alpha_{jk}` is the spatial mean of :math:`\partial z_j / \partial A^k`. With *g*
    the decoder and :math:`J_g` its Jacobian at *z*, the weights are

    - ``"jacobian"``: :math:`w_j = \lVert J_{g,j} \rVert_2`, how far the reconstruction moves with
      the latent;
    - ``"gram"``: no weights but :math:`M = \sqrt{l^\top J_g^\top J_g\, l}`, which does not depend
      on the basis of the latent space and is Grad-CAM of the reconstruction as a vector;
    - ``"removal"``: :math:`\lVert g(z) - g(z_j \to r_j) \rVert_2 / |z_j - r_j|` with a reference
      *r*, the finite slope; where the latent stands at its reference, the slope's limit;
    - ``"abs_latent"``: :math:`|z_j|`, and ``"uniform"``: 1. They depend on the units of the
      latents, do not ask the decoder, and are there to be compared with.

    These maps compare with feature maps of zero. With a picture :math:`x'` as ``reference`` they
    are those of a comparison, and the aggregates are made of them in the same way,

    .. math:: \Delta l_j(u, v) = \sum_k \alpha_{jk} \bigl(A^k(x) - A^k(x')\bigr)(u, v), \qquad
              M(u, v) = \lVert J_g\, \Delta l(u, v) \rVert_2

    (here for ``"gram"``). *Theorem, ours: occlusion in one pass.* Let the code be linear in
    :math:`A` and the maps not pooled, and let :math:`x_R` be :math:`x` with :math:`x'` in a region
    *R*. Then

    .. math:: z(x) - z(x_R) = \sum_{(u, v)\ \text{sees only}\ R} \Delta l(u, v)
              + \sum_{(u, v)\ \text{sees both}} \bigl(l(u, v; x) - l(u, v; x_R)\bigr)

    because the slopes of a linear head are the same for all three pictures, a place that sees
    nothing of *R* has the feature maps of :math:`x`, and one that sees only *R* those of
    :math:`x'`. The second sum is the margin; it is empty if *R* is the whole picture, or if no
    receptive field crosses its edge. So :math:`\lVert J_g \sum_R \Delta l \rVert_2`, which
    ``region_size`` gives for a grid of squares, is what replacing each square by the reference
    does to the reconstruction, to first order in the decoder, up to the margin; a square smaller
    than the receptive fields is all margin. For other heads the slopes are those at :math:`x`,
    and the map is of first order in the head too.

    Args:
        encoder: A network in evaluation mode that maps (N, C, H, W) to codes (N, J) and is made of
            what :func:`xaiutils.graph.trace` knows; or the :class:`~xaiutils.graph.Graph` of one,
            read with ``fold=False``. For one that returns mean and variance see
            :class:`LatentMean`.
        decoder: A differentiable network in evaluation mode that maps (N, J) to (N, ...): the
            module, since autograd carries directions through it. None is enough for
            ``"abs_latent"`` and ``"uniform"``.
        x: Inputs (N, C, H, W).
        layer: The path in ``encoder`` of the module whose output is :math:`A`, as in
            :func:`xaiutils.attribution.grad_cam`; None takes the last maps that are read.
        weighting: See above.
        rectify: What makes a weighted map count: ``"abs"``, ``"relu"``, which depends on the sign
            that training has given to a latent, or ``"square"``, the sum of the squares of the
            weighted maps (for ``"gram"``: no root).
        pooled: Whether the slopes are averaged over space; if not, each place has its own,
            :math:`l_j(u, v) = \sum_k A^k(u, v)\, \partial z_j / \partial A^k(u, v)`.
        reference: None for feature maps of zero. What stands for pictures :math:`x'` in the units
            of ``x``, in the forms of ``baselines`` in
            :func:`xaiutils.attribution.integrated_gradients`: a number, a name, a tensor that fits
            ``x``, a function of images and generator such as the fill of a test, or several. Then
            the maps are means over them, and the aggregates roots of mean squares (for
            ``"square"``: means); ``[fill] * 4`` takes four draws. *r* is the code of :math:`x'`.
            Or (J,), a code, such as the mean of a data set: it is *r* of ``"removal"``, zeros if
            None, and the maps compare with zero.
        region_size: Side in pixels of squares over which the maps are summed before the aggregate
            is made, which then is one number in each square; None for no squares. The maps stay
            as they are.
        units: What black and white are, for ``reference="black"``; ``clf.preprocess`` knows.
        seed: Of a reference that is drawn.
        latent_batch_size: How many latents at a time; bounds the memory.
        batch_size: How many images at a time; bounds the memory.

    Returns:
        The maps, their weights, and the aggregate; for networks in half precision in float32, in
        which they are computed.

    Raises:
        TypeError: If a network is no module, or ``x`` is no tensor of the encoder's type.
        ValueError: If a network is in training mode, the code is not (N, J), the decoder does not
            take it, the layer is unknown or has no feature maps, the reference does not fit, is
            not finite or is a fill that sees the mask, the regions do not tile the picture in
            whole places, or an option is out of range.
    """
    check_choice("weighting", weighting, WEIGHTINGS)
    check_choice("rectify", rectify, get_args(Rectify))
    check_positive("latent_batch_size", latent_batch_size)
    traced = trace_encoder(encoder, x)
    latents = traced.output_shape[0]
    g = _decoder_for(decoder, weighting, x.new_zeros(1, latents))
    x = precise(x)
    node, size = layer_with_maps(traced, layer), x.shape[2:]
    check_regions(region_size, size, node.shape[1:])
    compared = compared_with(reference, x, latents, units, seed)
    features_of = ReferenceFeatures(traced, node)

    def one_chunk(part: Tensor, *pictures: Tensor) -> LatentMaps:
        others = [features_of(picture) for picture in pictures]
        z, maps = latent_maps(
            traced, part, node, pooled, latent_batch_size, [features for features, _ in others]
        )
        codes = [code for _, code in others]
        summed = [over_regions(each, region_size, size) for each in maps]
        weights, aggregate = _together(
            g, z, summed, codes or [compared.code], weighting, rectify, latent_batch_size
        )
        large = _enlarged(aggregate[:, None], size, region_size)[:, 0]
        mean_code = mean_of(codes).expand_as(z) if codes else None
        return LatentMaps(mean_of(maps), weights, large, z, node.name, mean_code)

    return joined_fields(in_chunks(one_chunk, batch_size, x, *compared.pictures))


def _enlarged(aggregate: Tensor, size: torch.Size, region_size: int | None) -> Tensor:
    """Return an aggregate (N, 1, ...) at the size of the input; regions stay squares."""
    if region_size is None:
        return enlarged(aggregate, size)
    return F.interpolate(aggregate, size, mode="nearest")


# ------------------------------------------------------------------------------------ the encoder


def trace_encoder(encoder: Network, x: Tensor) -> graph.Graph:
    """Read an encoder, and check that it gives codes (N, J) for images (N, C, H, W).

    The graph's numbers are in float32 at least, and so must be what it reads.

    Raises:
        TypeError: As :func:`grad_lam`.
        ValueError: As :func:`grad_lam`.
    """
    if not isinstance(encoder, graph.Graph):
        _check_returns_one(encoder, x)
    traced = read(encoder, x, fold=False)  # unfolded: every module's output is there
    if len(traced.output_shape) != 1:
        shape = ", ".join(("N", *map(str, traced.output_shape)))
        raise ValueError(
            f"the encoder's code must be (N, J), not of shape ({shape}); end the encoder "
            "with nn.Flatten(), and begin the decoder with nn.Unflatten()"
        )
    check_scale(traced, x)
    return precise_graph(traced, x.dtype)


def _check_returns_one(encoder: nn.Module, x: Tensor) -> None:
    check_module("encoder", encoder)
    graph.check_input(encoder, x)
    with torch.no_grad():
        code = encoder(x[:1].clone())  # a copy: the first operation may work in place
    if isinstance(code, (tuple, list)) and len(code) > 1:
        raise ValueError(
            f"the encoder returns {len(code)} values; wrap it as attribution.LatentMean(encoder), "
            "which keeps the first"
        )


def layer_with_maps(traced: graph.Graph, layer: str | None) -> graph.Node:
    """Return the node of an encoder whose output holds the feature maps (K, h, w).

    Raises:
        ValueError: If the layer is unknown or has no feature maps.
    """
    node = feature_layer(traced, layer)
    if len(node.shape) != 3:  # of an encoder that reads no images
        raise ValueError(f"layer {node.name!r} has no feature maps (K, h, w): {node.shape}")
    return node


def record_behind(traced: graph.Graph, node: graph.Node, x: Tensor) -> graph.Record:
    """Run an encoder, and keep what the way back from its code to a layer reads.

    Raises:
        ValueError: If the code is not finite.
    """
    record = traced.record(x, keep=read_behind(traced, node) | {node.index})
    if not bool(torch.isfinite(record.output).all()):
        raise ValueError("the encoder's code is not finite: it overflows on this input")
    return record


def latent_maps(
    traced: graph.Graph,
    x: Tensor,
    node: graph.Node,
    pooled: bool,
    batch_size: int,
    others: Sequence[Tensor] = (),
) -> tuple[Tensor, list[Tensor]]:
    """Return the codes (N, J), and the signed maps (N, J, h, w) of all latents.

    The slopes of many latents are found in one pass: the images are repeated for each of them.

    Args:
        traced: The encoder.
        x: The images (N, C, H, W).
        node: The layer that is read.
        pooled: Whether the slopes are averaged over space.
        batch_size: How many latents at a time.
        others: Feature maps (N, K, h, w) or (1, K, h, w) to compare with; zeros if there are none.

    Returns:
        The codes, and one set of maps for each of the others.

    Raises:
        ValueError: If the code is not finite.
    """
    record, later = record_behind(traced, node, x), read_behind(traced, node)
    latents, features = record.output, record.value(node.index)
    changes = [features - other for other in others] or [features]
    found: list[list[Tensor]] = [[] for _ in changes]
    for start in torch.split(torch.eye(latents.shape[1]).to(latents), batch_size):
        signal = start[:, None].expand(-1, *latents.shape).reshape(-1, latents.shape[1])
        repeated = _repeated(record, len(start), later)
        slopes = traced.backward(repeated, signal, until=node.index)
        slopes = slopes.reshape(len(start), *features.shape)
        if pooled:
            slopes = slopes.mean(dim=(-2, -1), keepdim=True)
        for parts, change in zip(found, changes, strict=True):
            parts.append((slopes * change).sum(dim=2))
    return latents, [torch.cat(parts).transpose(0, 1).contiguous() for parts in found]


def read_behind(traced: graph.Graph, node: graph.Node) -> frozenset[int]:
    """Return the nodes whose outputs are read on the way back from the output to a node."""
    return frozenset(
        index for index in traced.needed if max((index, *traced.consumers[index])) > node.index
    )


def _repeated(record: graph.Record, times: int, wanted: frozenset[int]) -> graph.Record:
    """Return a part of a record, with the batch repeated."""

    def again(kept: Tensor) -> Tensor:
        return kept.repeat(times, *[1] * (kept.ndim - 1))

    values = [
        again(value) if index in wanted and value is not None else None
        for index, value in enumerate(record.values)
    ]
    indices = {index: again(kept) for index, kept in record.indices.items()}
    return replace(record, values=values, indices=indices)


# ------------------------------------------------------------------------------------ together


def _together(
    decoder: nn.Module,
    z: Tensor,
    maps: Sequence[Tensor],
    codes: Sequence[Tensor],
    weighting: Weighting,
    rectify: Rectify,
    batch_size: int,
) -> tuple[Tensor, Tensor]:
    """Return weights (N, J) and aggregate (N, h, w) of the maps for each reference."""
    if weighting == "gram":
        gram = decoder_gram(decoder, z, batch_size)
        aggregates = [_gram_aggregate(each, gram, rectify) for each in maps]
        weights = gram.diagonal(dim1=1, dim2=2).clamp(min=0).sqrt()
        return weights, _over_references(aggregates, rectify)
    if weighting == "removal":
        every = [removal_weights(decoder, z, code, batch_size) for code in codes]
    else:
        every = [_weights(decoder, z, weighting, batch_size)] * len(maps)
    aggregates = [_aggregate(each, w, rectify) for each, w in zip(maps, every, strict=True)]
    return mean_of(every), _over_references(aggregates, rectify)


def _weights(decoder: nn.Module, z: Tensor, weighting: Weighting, batch_size: int) -> Tensor:
    """Return weights (N, J) that ask no reference."""
    if weighting == "jacobian":
        return decoder_norms(decoder, z, batch_size)
    return z.abs() if weighting == "abs_latent" else torch.ones_like(z)


def _aggregate(maps: Tensor, weights: Tensor, rectify: Rectify) -> Tensor:
    """Return the sum of the weighted maps (N, h, w)."""
    weighted = weights[:, :, None, None] * maps
    counted = {"abs": torch.abs, "relu": torch.relu, "square": torch.square}[rectify]
    return counted(weighted).sum(dim=1)


def _gram_aggregate(maps: Tensor, gram: Tensor, rectify: Rectify) -> Tensor:
    """Return the length of the reconstruction's change along the maps, (N, h, w)."""
    kept = maps.relu() if rectify == "relu" else maps
    squares = (kept * torch.einsum("njk,nkhw->njhw", gram, kept)).sum(dim=1).clamp(min=0)
    return squares if rectify == "square" else squares.sqrt()


def _over_references(aggregates: Sequence[Tensor], rectify: Rectify) -> Tensor:
    """Return the root of the mean square over the references; of what is squared, the mean."""
    if len(aggregates) == 1 or rectify == "square":
        return mean_of(aggregates)
    return mean_of([each.square() for each in aggregates]).sqrt()


def _decoder_for(decoder: nn.Module | None, weighting: Weighting, code: Tensor) -> nn.Module:
    """Return the decoder, checked; where none is asked, any."""
    if decoder is None and weighting in WITHOUT_DECODER:
        return nn.Identity()
    if decoder is None:
        raise ValueError(f"weighting={weighting!r} asks the decoder, so give one, not None")
    return checked_decoder(decoder, code)
