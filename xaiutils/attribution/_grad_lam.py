r"""Grad-LAM: where in the picture an autoencoder reads each of its latents, and all together.

Of the paper (Bartler, Hinderer and Yang 2020) only the abstract could be read: it adapts Grad-CAM
to autoencoders and weights the latents by what the decoder knows. Everything beyond that is our
reconstruction, and so are the names of the weightings.

The map of latent *j* is Grad-CAM's with the latent in the place of a class score,
:math:`l_j(u, v) = \sum_k \alpha_{jk} A^k(u, v)`. Scaling a latent by *c* scales its map by *c*
although the autoencoder, its decoder undoing it, has not changed. So a map has to be multiplied by
a weight that scales with :math:`1/c`, and the slope of the decoder is one.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from xaiutils import graph
from xaiutils.attribution._cam import enlarged, feature_layer
from xaiutils.attribution._common import (
    Network,
    check_choice,
    check_positive,
    check_scale,
    in_chunks,
    precise,
    precise_graph,
    read,
)

Weighting = Literal["jacobian", "gram", "removal", "abs_latent", "uniform"]
Rectify = Literal["abs", "relu", "square"]

WEIGHTINGS: tuple[Weighting, ...] = get_args(Weighting)
WITHOUT_DECODER = ("abs_latent", "uniform")


@dataclass(frozen=True, eq=False)
class LatentMaps:
    """What Grad-LAM finds.

    Attributes:
        maps: The signed map of each latent, (N, J, h, w), at the resolution of the layer.
        weights: What each map counts for in the aggregate, (N, J), not negative. For ``"gram"``
            they are the norms of the decoder's columns, and tell only a part of it.
        aggregate: All latents together, (N, H, W), at the resolution of the input, not negative.
        latents: The latent code, (N, J).
        layer: The layer that was read.
    """

    maps: Tensor
    weights: Tensor
    aggregate: Tensor
    latents: Tensor
    layer: str


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
    reference: Tensor | None = None,
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
        reference: *r* of ``"removal"``, (J,), such as the mean code of a data set; zeros if None.
        latent_batch_size: How many latents at a time; bounds the memory.
        batch_size: How many images at a time; bounds the memory.

    Returns:
        The maps, their weights, and the aggregate; for networks in half precision in float32, in
        which they are computed.

    Raises:
        TypeError: If a network is no module, or ``x`` is no tensor of the encoder's type.
        ValueError: If a network is in training mode, the code is not (N, J), the decoder does not
            take it, the layer is unknown or has no feature maps, or an option is out of range.
    """
    check_choice("weighting", weighting, WEIGHTINGS)
    check_choice("rectify", rectify, get_args(Rectify))
    check_positive("latent_batch_size", latent_batch_size)
    traced = trace_encoder(encoder, x)
    latents = traced.output_shape[0]
    g = _checked_decoder(decoder, weighting, x.new_zeros(1, latents))
    x = precise(x)
    reference = x.new_zeros(latents) if reference is None else reference.to(x)
    if reference.shape != (latents,):
        raise ValueError(
            f"reference must be ({latents},), a number for each latent, not "
            f"{tuple(reference.shape)}"
        )

    def one_chunk(part: Tensor) -> LatentMaps:
        found = latent_maps(traced, part, layer, pooled, latent_batch_size)
        if weighting == "gram":
            gram = decoder_gram(g, found.latents, latent_batch_size)
            weights = gram.diagonal(dim1=1, dim2=2).clamp(min=0).sqrt()
            aggregate = _gram_aggregate(found.maps, gram, rectify)
        else:
            weights = _weights(g, found.latents, weighting, reference, latent_batch_size)
            aggregate = _aggregate(found.maps, weights, rectify)
        aggregate = enlarged(aggregate[:, None], x.shape[2:])[:, 0]
        return replace(found, weights=weights, aggregate=aggregate)

    return _joined(in_chunks(one_chunk, batch_size, x))


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
    _check_module("encoder", encoder)
    graph.check_input(encoder, x)
    with torch.no_grad():
        code = encoder(x[:1].clone())  # a copy: the first operation may work in place
    if isinstance(code, (tuple, list)) and len(code) > 1:
        raise ValueError(
            f"the encoder returns {len(code)} values; wrap it as attribution.LatentMean(encoder), "
            "which keeps the first"
        )


def latent_maps(
    traced: graph.Graph, x: Tensor, layer: str | None, pooled: bool, batch_size: int
) -> LatentMaps:
    """Return the signed map of each latent; the weights are 1 and the aggregate is empty.

    The slopes of many latents are found in one pass: the images are repeated for each of them.

    Raises:
        ValueError: If the layer is unknown or has no feature maps, or the code is not finite.
    """
    node = feature_layer(traced, layer)
    if len(node.shape) != 3:  # of an encoder that reads no images
        raise ValueError(f"layer {node.name!r} has no feature maps (K, h, w): {node.shape}")
    later = _read_behind(traced, node)
    record = traced.record(x, keep=later | {node.index})
    latents = record.output
    if not bool(torch.isfinite(latents).all()):
        raise ValueError("the encoder's code is not finite: it overflows on this input")
    features = record.value(node.index)
    found = []
    for start in torch.split(torch.eye(latents.shape[1]).to(latents), batch_size):
        signal = start[:, None].expand(-1, *latents.shape).reshape(-1, latents.shape[1])
        repeated = _repeated(record, len(start), later)
        slopes = traced.backward(repeated, signal, until=node.index)
        slopes = slopes.reshape(len(start), *features.shape)
        if pooled:
            slopes = slopes.mean(dim=(-2, -1), keepdim=True)
        found.append((slopes * features).sum(dim=2))
    maps = torch.cat(found).transpose(0, 1).contiguous()
    return LatentMaps(maps, torch.ones_like(latents), x.new_empty(len(x), 0, 0), latents, node.name)


def _read_behind(traced: graph.Graph, node: graph.Node) -> frozenset[int]:
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


# ------------------------------------------------------------------------------------ the decoder


@torch.no_grad()
def decoder_norms(decoder: nn.Module, z: Tensor, batch_size: int = 32) -> Tensor:
    r"""Return the length of each column of the decoder's Jacobian.

    One forward pass carries the derivatives in many directions along (forward-mode automatic
    differentiation), and only their lengths are kept.

    Args:
        decoder: Maps (N, J) to (N, ...).
        z: Codes (N, J).
        batch_size: How many latents at a time; bounds the memory.

    Returns:
        :math:`\lVert \partial g / \partial z_j \rVert_2`, (N, J).
    """
    return _over_latents(lambda e: _norm(_push(decoder, z, e)), z, batch_size)


@torch.no_grad()
def decoder_gram(decoder: nn.Module, z: Tensor, batch_size: int = 32) -> Tensor:
    r"""Return the Gram matrix of the decoder's Jacobian, column by column :math:`J^\top (J e_j)`.

    The Jacobian itself, J times the size of a reconstruction, is never held.

    Args:
        decoder: Maps (N, J) to (N, ...).
        z: Codes (N, J).
        batch_size: How many latents at a time; bounds the memory.

    Returns:
        :math:`J_g^\top J_g`, (N, J, J), symmetric up to rounding.
    """
    pull = torch.func.vjp(decoder, z)[1]
    return _over_latents(lambda e: pull(_push(decoder, z, e))[0], z, batch_size)


def _push(decoder: nn.Module, z: Tensor, direction: Tensor) -> Tensor:
    """Return the derivative of the reconstructions in one direction (J,) of the latent space."""
    change: Tensor = torch.func.jvp(decoder, (z,), (direction.expand_as(z),))[1]
    return change


def _over_latents(function: Callable[[Tensor], Tensor], z: Tensor, batch_size: int) -> Tensor:
    """Call ``function`` with each unit vector, vectorised; the latents are dimension 1 of all."""
    directions = torch.eye(z.shape[1], dtype=z.dtype, device=z.device)
    found: Tensor = torch.vmap(function, chunk_size=batch_size)(directions)
    return found.transpose(0, 1).contiguous()


def _norm(images: Tensor) -> Tensor:
    length: Tensor = torch.linalg.vector_norm(images.flatten(1), dim=1)
    return length


@torch.no_grad()
def _weights(
    decoder: nn.Module, z: Tensor, weighting: Weighting, reference: Tensor, batch_size: int
) -> Tensor:
    if weighting == "jacobian":
        return decoder_norms(decoder, z, batch_size)
    if weighting == "removal":
        return _removal(decoder, z, reference, batch_size)
    return z.abs() if weighting == "abs_latent" else torch.ones_like(z)


def _removal(decoder: nn.Module, z: Tensor, reference: Tensor, batch_size: int) -> Tensor:
    """Return how far the reconstruction moves per unit when a latent goes to its reference."""
    step, whole = reference - z, decoder(z)
    change = _over_latents(lambda e: _norm(decoder(z + step * e) - whole), z, batch_size)
    size = torch.maximum(z.abs(), reference.abs())
    still = step.abs() <= torch.finfo(z.dtype).eps ** 0.5 * size  # rounding, or nothing at all
    if not bool(still.any()):
        return change / step.abs()
    return torch.where(still, decoder_norms(decoder, z, batch_size), change / step.abs())


# ------------------------------------------------------------------------------------ together


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


def _joined(parts: list[LatentMaps]) -> LatentMaps:
    """Return the results of several chunks of a batch as one."""
    if len(parts) == 1:
        return parts[0]
    tensors = ("maps", "weights", "aggregate", "latents")
    whole = {name: torch.cat([getattr(part, name) for part in parts]) for name in tensors}
    return LatentMaps(**whole, layer=parts[0].layer)


# ------------------------------------------------------------------------------------ the checks


def _check_module(name: str, module: nn.Module) -> None:
    if isinstance(module, graph.Graph):
        raise TypeError(f"the {name} must be the torch.nn.Module itself, not a Graph of it")
    try:
        graph.check_model(module)
    except (TypeError, ValueError) as error:
        raise type(error)(f"{name}: {error}") from None


def _checked_decoder(decoder: nn.Module | None, weighting: Weighting, code: Tensor) -> nn.Module:
    """Return a decoder for codes like ``code`` (1, J), made precise; where none is asked, any."""
    if decoder is None and weighting in WITHOUT_DECODER:
        return nn.Identity()
    if decoder is None:
        raise ValueError(f"weighting={weighting!r} asks the decoder, so give one, not None")
    _check_module("decoder", decoder)
    try:
        with torch.no_grad():
            picture = decoder(code)
    except RuntimeError as error:
        reason = str(error).split("\n")[0]
        raise ValueError(
            f"the decoder does not take the encoder's codes (N, {code.shape[1]}): {reason}; give "
            "the decoder that was trained with this encoder"
        ) from error
    if not isinstance(picture, Tensor) or picture.shape[:1] != (1,):
        raise ValueError("the decoder must return one tensor (N, ...) for codes (N, J)")
    wanted = precise(code).dtype
    return decoder if wanted == code.dtype else copy.deepcopy(decoder).to(wanted)
