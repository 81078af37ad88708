"""FullGrad: the gradient times the input, and what the biases contribute, layer by layer.

A network of ReLUs is linear around an input, and its output is the gradient times the input plus
what the biases contribute. Whoever shows the first part alone leaves out the second, which is often
the larger one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from xaiutils import graph
from xaiutils.attribution._cam import enlarged
from xaiutils.attribution._common import (
    Network,
    Resolved,
    Target,
    in_chunks,
    joined,
    prepare,
    start_signal,
)
from xaiutils.graph import Gate, Graph, LinearOperation, Node, Nonlinear, Record, Switch
from xaiutils.graph.outputs import Output

_SMALLEST = 1e-6  # as in the authors' code: what a layer without any part is divided by


@dataclass(frozen=True, eq=False)
class FullGradients:
    """The parts of an output: of the pixels, and of the biases of each layer.

    Attributes:
        pixels: The input times the gradient, (N, C, H, W), in units of the output.
        biases: For each layer with a bias, by the name of its node in the graph, the bias times the
            gradient there, (N, ...) in the shape of the layer's output. What a smooth or a clamped
            activation adds to its slope times its input is an implicit bias of it.
    """

    pixels: Tensor
    biases: dict[str, Tensor]

    def total(self) -> Tensor:
        """The sum of all parts (N,): the number that is explained."""
        parts = [self.pixels, *self.biases.values()]
        return torch.stack([part.flatten(1).sum(1) for part in parts]).sum(0)


def full_gradients(
    model: Network,
    x: Tensor,
    target: Target = None,
    *,
    output: Output = None,
    batch_size: int | None = None,
) -> FullGradients:
    r"""Return the full-gradient representation (Srinivas and Fleuret 2019, proposition 1).

    :math:`f_t(x) = x^\top \nabla_x f_t + \sum_l b_l^\top \nabla_{z_l} f_t` for a network of ReLUs,
    with :math:`z_l` the output of layer *l*, to which its bias :math:`b_l` was added. BatchNorm is
    folded into the layer before it, so that its shift is part of that layer's bias. An activation
    :math:`\sigma` that is not linear on both sides of 0 has an implicit bias :math:`\sigma(z) -
    z\,\sigma'(z)`, as in the paper: a ReLU6 that has reached its ceiling adds 6. So does what is
    neither linear nor an activation, as a product or a softmax of computed numbers. The sum is
    therefore complete to rounding for every network that can be read.

    Args:
        model: A network in evaluation mode, or its :class:`~xaiutils.graph.Graph`.
        x: Inputs (N, C, H, W), as the network takes them.
        target: The output to explain, as in :func:`xaiutils.attribution.gradient`. The number that
            is complete is the weighted sum of outputs of which it has the derivative: an output, a
            difference, a margin, but not a probability.
        output: Which of several outputs: a key, a position, or a function.
        batch_size: How many images at a time; bounds the memory.

    Returns:
        All parts, in units of the output.

    Raises:
        TypeError: As in :func:`xaiutils.attribution.gradient`.
        ValueError: As in :func:`xaiutils.attribution.gradient`.
        GraphError: If the network cannot be read, and so its biases are not known.
    """
    traced, x, explained = prepare(model, x, target, output=output)
    parts = in_chunks(partial(_decomposed, traced), batch_size, x, explained)
    biases = {name: joined([part.biases[name] for part in parts]) for name in parts[0].biases}
    return FullGradients(joined([part.pixels for part in parts]), biases)


def fullgrad(
    model: Network,
    x: Tensor,
    target: Target = None,
    *,
    signed: bool = False,
    output: Output = None,
    batch_size: int | None = None,
) -> Tensor:
    r"""Return the FullGrad map (Srinivas and Fleuret 2019), of the pixels and of all biases.

    As published (eq. 2, and the authors' code) it adds up magnitudes: for the pixels and for each
    layer that has maps, :math:`\psi` takes the absolute values, brings them between 0 and 1 (the
    smallest and the largest of the whole layer), and enlarges them bilinearly, corner to corner.
    Every layer so weighs the same, whatever its part was. The authors count a convolution's bias
    and that of the BatchNorm behind it as two layers, here they are one; and they leave implicit
    biases out, which are there in a network with clamped or smooth activations.

    The maps of a layer are laid over the whole picture, signed or not. Where a layer sees a part of
    it only, in a network that cuts the picture up, what it adds lies in the wrong place.

    With ``signed`` it is the decomposition itself, see :func:`full_gradients`: each place of a
    layer hands its part in equal shares to the pixels below it, and what has no place (the biases
    of the last linear layer) is spread over all pixels alike. The map sums to the output.

    Args:
        model: A network in evaluation mode, or its :class:`~xaiutils.graph.Graph`.
        x: Inputs (N, C, H, W), as the network takes them.
        target: The output to explain, as in :func:`full_gradients`.
        signed: Whether to keep signs and magnitudes.
        output: Which of several outputs: a key, a position, or a function.
        batch_size: How many images at a time; bounds the memory.

    Returns:
        (N, 1, H, W), not negative and without a unit; if signed, in units of the output.

    Raises:
        TypeError: As in :func:`xaiutils.attribution.gradient`.
        ValueError: As in :func:`xaiutils.attribution.gradient`.
        GraphError: If the network cannot be read, and so its biases are not known.
    """
    traced, x, explained = prepare(model, x, target, output=output)
    one_chunk = partial(_signed_map if signed else _published_map, traced)
    return joined(in_chunks(one_chunk, batch_size, x, explained))


def _decomposed(traced: Graph, x: Tensor, explained: Resolved) -> FullGradients:
    """Go back from the output, and multiply the biases of each node with what arrives there."""
    record = traced.record(x, keep=_kept(traced))
    signals = {len(traced.nodes) - 1: start_signal(explained, record.output)}
    biases: dict[str, Tensor] = {}
    for node in reversed(traced.nodes[1:]):
        signal = signals.pop(node.index, None)
        if signal is None:
            continue
        bias = _bias(node, record)
        if bias is not None:
            biases[node.name] = bias * signal
        leaving = traced._back(node, signal, record, graph.gated)
        for source, part in zip(node.inputs, leaving, strict=True):
            if part is not None:
                signals[source] = graph.add_signal(signals.get(source), part, node.operation)
    gradient = signals.get(0, torch.zeros_like(x))
    return FullGradients(x * gradient, dict(reversed(biases.items())))


def _bent(operation: graph.Operation) -> bool:
    """Whether an operation has an implicit bias: the output is not its slope times its input."""
    straight = (LinearOperation, Switch, graph.ReLU, graph.LeakyReLU, graph.Input)
    return not isinstance(operation, straight)


def _kept(traced: Graph) -> frozenset[int]:
    """The nodes whose outputs are needed, on the way back or for an implicit bias."""
    bent = [node for node in traced.nodes if _bent(node.operation)]
    return traced.needed.union(*({node.index, *node.inputs} for node in bent))


def _bias(node: Node, record: Record) -> Tensor | None:
    """The bias of a node's output, broadcastable to it, or None."""
    operation = node.operation
    if isinstance(operation, LinearOperation):
        return operation.shift()
    if not _bent(operation):
        return None
    inputs = [record.value(source) for source in node.inputs]
    if isinstance(operation, Nonlinear):
        linear = operation.tangent(inputs, inputs)
    else:
        assert isinstance(operation, Gate)
        linear = graph.gated(node, inputs[0], record)
    return record.value(node.index) - linear


def _published_map(traced: Graph, x: Tensor, explained: Resolved) -> Tensor:
    parts = _decomposed(traced, x, explained)
    total = _rescaled(parts.pixels).sum(1, keepdim=True)
    for part in parts.biases.values():
        if _has_maps(part, x):
            total += enlarged(_rescaled(part).sum(1, keepdim=True), x.shape[2:], corners=True)
    return total


def _rescaled(part: Tensor) -> Tensor:
    """The absolute values, from 0 to 1 within each image."""
    found = part.abs().flatten(1)
    found = found - found.amin(1, keepdim=True)
    return (found / (found.amax(1, keepdim=True) + _SMALLEST)).view(part.shape)


def _signed_map(traced: Graph, x: Tensor, explained: Resolved) -> Tensor:
    parts = _decomposed(traced, x, explained)
    total = parts.pixels.sum(1, keepdim=True)
    pixels = total[0].numel()
    for part in parts.biases.values():
        if _has_maps(part, x):
            total += _shared_out(part.sum(1, keepdim=True), x.shape[2:])
        else:
            total += part.reshape(len(x), -1).sum(1).view(-1, *[1] * (x.ndim - 1)) / pixels
    return total


def _has_maps(part: Tensor, x: Tensor) -> bool:
    return part.ndim == x.ndim > 2


def _shared_out(part: Tensor, size: Sequence[int]) -> Tensor:
    """Maps (N, 1, ...) at another size: each place in equal shares over the pixels it covers.

    Places that cover a fraction of a pixel give it a share for the fraction. The sums stay.
    """
    for dim, length in enumerate(size, start=2):
        shares = _shares(part.shape[dim], length).to(part)
        part = (part.movedim(dim, -1) @ shares).movedim(-1, dim)
    return part


def _shares(places: int, pixels: int) -> Tensor:
    """The share of each place along a side for each pixel, (places, pixels); rows sum to 1."""
    edges = torch.arange(places + 1, dtype=torch.float64) * (pixels / places)
    first = torch.arange(pixels, dtype=torch.float64)
    low = torch.maximum(edges[:-1, None], first)
    high = torch.minimum(edges[1:, None], first + 1)
    return (high - low).clamp(min=0) * (places / pixels)
