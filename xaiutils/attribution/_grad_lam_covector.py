r"""Grad-LAM of a number: the signed sum of the maps of all latents, and nothing but it.

The slopes :math:`d_j = \partial \varphi / \partial z_j` of a number :math:`\varphi` of the
reconstruction are a *covector*: if the code is changed to :math:`z' = T z`, they become
:math:`d\, T^{-1}`, while the maps of the latents become :math:`T l`. So :math:`d\, l` does not
change, and needs no absolute value. It is Grad-CAM (Selvaraju et al. 2017) of that number.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from xaiutils import graph
from xaiutils.attribution._baselines import Baselines, Units
from xaiutils.attribution._cam import enlarged
from xaiutils.attribution._common import (
    Network,
    Resolved,
    Target,
    check_positive,
    explained_of,
    in_chunks,
    joined_fields,
    precise,
    settled,
    start_signal,
)
from xaiutils.attribution._grad_lam import (
    layer_with_maps,
    record_behind,
    trace_encoder,
)
from xaiutils.attribution._grad_lam_decoder import checked_decoder
from xaiutils.attribution._grad_lam_reference import ReferenceFeatures, compared_with, mean_of
from xaiutils.attribution._paths import gauss_legendre

Number = Callable[[Tensor, Tensor], Tensor]
"""``number(reconstructions, numbers)`` returns (B,) for (B, ...) and the images' numbers (B,)."""


@dataclass(frozen=True, eq=False)
class CovectorMap:
    """What :func:`grad_lam_covector` finds.

    Attributes:
        map: The signed map, (N, h, w), at the resolution of the layer, in units of the number; the
            mean over the reference pictures, if there are several.
        aggregate: The same at the resolution of the input, (N, H, W), interpolated.
        covector: The slopes of the number with respect to the latents, (N, J); with ``n_steps``
            their mean on the way from the reference.
        latents: The latent code, (N, J).
        reference: The code of the reference picture, (N, J), or the mean code of several; None if
            there is none.
        layer: The layer that was read.
    """

    map: Tensor
    aggregate: Tensor
    covector: Tensor
    latents: Tensor
    reference: Tensor | None
    layer: str


def grad_lam_covector(
    encoder: Network,
    decoder: nn.Module,
    x: Tensor,
    target: Target | Number,
    layer: str | None = None,
    *,
    pooled: bool = True,
    reference: Baselines | None = None,
    n_steps: int | None = None,
    units: Units | None = None,
    seed: int = 0,
    batch_size: int | None = None,
) -> CovectorMap:
    r"""Return the signed sum of the maps of all latents that explains a number.

    With a number :math:`\varphi` of the reconstruction :math:`g(z)` and the maps :math:`l_j` of
    :func:`grad_lam`, or :math:`\Delta l_j` where there is a reference,

    .. math:: M_\varphi(u, v) = \sum_j d_j\, l_j(u, v), \qquad
              d_j = \frac{\partial \varphi(g(z))}{\partial z_j}

    It is our reconstruction of what a weighting "by the decoder" (Bartler, Hinderer and Yang 2020)
    can be if the signs are to stay: slopes :math:`d` are a covector and maps :math:`l` a vector of
    the latent space, so their product is the same for all changes of the latent space that the
    decoder undoes: units, signs, order, rotations. No single pass for each latent is needed:
    :math:`\sum_j d_j\, \partial z_j / \partial A^k = \partial \varphi / \partial A^k`.

    - Pooled and without a reference it is Grad-CAM (Selvaraju et al. 2017, eqs. 1 and 2) of
      :math:`\varphi`, before the ReLU, at a layer of the encoder.
    - The norm of the maps of all pixels of the reconstruction is the aggregate of ``"gram"``.
    - Not pooled, and with a linear head, it sums to :math:`\sum_j d_j (z_j - z'_j)`, where
      :math:`z'` is the code of the reference, or of feature maps of zero.
    - That is :math:`\varphi(g(z)) - \varphi(g(z'))` to first order, and exactly so if the number
      is linear in the code. With ``n_steps`` the slopes are averaged over the straight line
      from :math:`z'` to :math:`z`, as integrated gradients do in the picture (Sundararajan et al.
      2017, eq. 1), and it is exact up to the quadrature for any differentiable number. The
      averaged slopes are a covector as long as the change of the latent space is linear.

    For a number that is linear in the code, its product with the vector of a concept, the slopes
    in the picture make the concept saliency maps of Brocki and Chung 2019; here they are taken at
    a layer. Take ``decoder=nn.Identity()`` for such a number.

    Args:
        encoder: As in :func:`grad_lam`.
        decoder: As in :func:`grad_lam`, differentiable.
        x: Inputs (N, C, H, W).
        target: The number :math:`\varphi`: of reconstructions (N, C, H, W) a tuple, one pixel; a
            tensor of floats of their shape, weights over the pixels; or all that ``target`` of
            :func:`xaiutils.attribution.gradient` may be but None. Or a function
            ``number(reconstructions, numbers)``, as ``output`` of
            :func:`xaiutils.evaluation.region_perturbation`: it is called with some
            reconstructions (B, ...) and the numbers (B,) of the images in ``x`` that they belong
            to, and returns (B,), each from its own reconstruction; it must be differentiable by
            PyTorch.
        layer: As in :func:`grad_lam`.
        pooled: Whether the slopes are averaged over space, as in :func:`grad_lam`.
        reference: None for feature maps of zero, or what stands for pictures, as in
            :func:`grad_lam`.
        n_steps: None for the slopes at the code; or how many points of Gauss and Legendre's rule
            they are averaged over, which needs a reference.
        units: What black and white are, for ``reference="black"``.
        seed: Of a reference that is drawn.
        batch_size: How many images at a time; bounds the memory.

    Returns:
        The map in both resolutions, and the covector; for networks in half precision in float32.

    Raises:
        TypeError: As in :func:`grad_lam`, or if the target is None.
        ValueError: As in :func:`grad_lam`, or if the target does not fit the reconstruction, a
            function does not return a number for each image, slopes are not finite, or
            ``n_steps`` is not positive or without a reference.
    """
    traced = trace_encoder(encoder, x)
    code = x.new_zeros(1, traced.output_shape[0])
    g = checked_decoder(decoder, code)
    x, node = precise(x), layer_with_maps(traced, layer)
    _check_reference(reference, n_steps)
    pictures = compared_with(reference, x, code.shape[1], units, seed).pictures
    features_of = ReferenceFeatures(traced, node)
    explained = _explained(target, traced, g, x, batch_size)

    def one_chunk(part: Tensor, numbers: Tensor, some: Resolved, *others: Tensor) -> CovectorMap:
        def covector(z: Tensor) -> Tensor:
            return _covector(g, z, target if callable(target) else some, numbers)

        compared = [features_of(other) for other in others]
        return _of_number(traced, node, part, covector, compared, n_steps, pooled)

    numbers = torch.arange(len(x), device=x.device)
    return joined_fields(in_chunks(one_chunk, batch_size, x, numbers, explained, *pictures))


def _check_reference(reference: Baselines | None, n_steps: int | None) -> None:
    if isinstance(reference, Tensor) and reference.ndim == 1:
        raise ValueError(
            "reference must be pictures here, with the dimensions of x: a code has no feature maps"
        )
    if n_steps is None:
        return
    check_positive("n_steps", n_steps)
    if reference is None:
        raise ValueError(
            "n_steps asks for the way from the code of a reference picture, so give one by "
            "reference, e.g. reference=0.0"
        )


def _explained(
    target: Target | Number, traced: graph.Graph, g: nn.Module, x: Tensor, batch_size: int | None
) -> Resolved:
    """Check a target against the reconstructions; None for a function."""
    if target is None:
        raise TypeError(
            "target is None, but a reconstruction has no largest class: name a pixel by a tuple, "
            "weights over the pixels by a tensor, or a function of reconstructions and numbers"
        )
    if callable(target):
        return None

    @torch.no_grad()
    def rebuilt(part: Tensor) -> Tensor:
        return g(traced.record(part, keep=frozenset()).output)  # type: ignore[no-any-return]

    explained = explained_of(target, x, rebuilt(x[:1]).shape[1:])
    return settled(rebuilt, x, explained, batch_size)


def _covector(g: nn.Module, z: Tensor, target: Number | Resolved, numbers: Tensor) -> Tensor:
    """Return the slopes (N, J) of the number with respect to the latents."""
    output, pull = torch.func.vjp(g, z)[:2]
    if callable(target):
        signal = torch.func.grad(lambda y: _sum(target(y, numbers), len(numbers)))(output)
    else:
        signal = start_signal(target, output)
    slopes: Tensor = pull(signal)[0]
    if not bool(torch.isfinite(slopes).all()):
        raise ValueError("the slopes of the number are not finite at the code of an image")
    return slopes


def _sum(values: Tensor, count: int) -> Tensor:
    """Return the sum of a number for each image, whose derivative holds that of each."""
    if not isinstance(values, Tensor) or values.shape != (count,):
        found = tuple(values.shape) if isinstance(values, Tensor) else type(values).__name__
        raise ValueError(
            f"target must return a tensor (B,), one number for each of {count} images, not {found}"
        )
    return values.sum()


def _of_number(
    traced: graph.Graph,
    node: graph.Node,
    x: Tensor,
    covector: Callable[[Tensor], Tensor],
    compared: list[tuple[Tensor, Tensor]],
    n_steps: int | None,
    pooled: bool,
) -> CovectorMap:
    """Return the map of one chunk.

    Args:
        traced: The encoder.
        node: The layer that is read.
        x: The images.
        covector: The slopes (N, J) of the number at codes (N, J).
        compared: Feature maps and code of each reference.
        n_steps: How many points of the way from a reference to the code, or None.
        pooled: Whether the slopes are averaged over space.
    """
    record = record_behind(traced, node, x)
    z, features = record.output, record.value(node.index)
    if n_steps is None:
        slopes = [covector(z)]  # the same for all references
        changes = [features - mean_of([maps for maps, _ in compared]) if compared else features]
    else:
        slopes = [_on_the_way(covector, code.expand_as(z), z, n_steps) for _, code in compared]
        changes = [features - maps for maps, _ in compared]
    found = []
    for d, change in zip(slopes, changes, strict=True):
        back = traced.backward(record, d, until=node.index)
        if pooled:
            back = back.mean(dim=(-2, -1), keepdim=True)
        found.append((back * change).sum(dim=1))
    code = mean_of([code for _, code in compared]).expand_as(z) if compared else None
    small = mean_of(found)
    large = enlarged(small[:, None], x.shape[2:])[:, 0]
    return CovectorMap(small, large, mean_of(slopes), z, code, node.name)


def _on_the_way(
    covector: Callable[[Tensor], Tensor], start: Tensor, end: Tensor, n_steps: int
) -> Tensor:
    """Return the mean slopes (N, J) on the straight line from one code to another."""
    places, weights = (each.to(end) for each in gauss_legendre(n_steps))
    total = torch.zeros_like(end)
    for place, weight in zip(places, weights, strict=True):
        total += weight * covector(torch.lerp(start, end, place))
    return total
