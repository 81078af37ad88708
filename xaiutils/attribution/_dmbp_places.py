"""Where the masks of DMBP sit, and where the biases of a network enter.

What is masked is a node of the graph with one rule for signals, as activations have. A layer that
no activation follows has none, so it is given one that lets everything through.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import torch
from torch import Tensor

from xaiutils import graph
from xaiutils.attribution._fullgrad import _shared_out, _shares
from xaiutils.graph import Gate, Graph, LinearOperation, Node, Shape

Places = Literal["activations", "layers", "both"]
PLACES = ("activations", "layers", "both")
_LAYERS = (graph.Convolution, graph.Dense)


@dataclass(frozen=True, eq=False)
class Place(Gate):
    """An activation that changes nothing: where a mask or a bias sits behind a layer."""

    fresh: ClassVar[bool] = False

    def forward(self, *inputs: Tensor) -> Tensor:
        """Return the input."""
        return inputs[0]

    def slope(self, output: Tensor, x: Tensor | None = None) -> Tensor:
        """Return 1 everywhere."""
        return torch.ones_like(output)

    def backward(self, signal: Tensor, output: Tensor, x: Tensor | None = None) -> Tensor:
        """Return a copy of the signal."""
        return signal.clone()


def placed(traced: Graph, places: Places, biased: bool) -> tuple[Graph, frozenset[int]]:
    """Return the network with a node wherever a mask or a bias sits, and which nodes are masked.

    A layer's filter is masked behind the activation that follows the layer, if nothing else reads
    it: on every path through the filter that is the same factor, and what the activation adds when
    it is saturated is masked with it. A BatchNorm or another factor and offset of each number in
    between belongs to the layer. Otherwise the mask sits at the layer's own output.

    Args:
        traced: The network; it is returned itself if nothing is missing.
        places: ``"activations"``: after each of them. ``"layers"``: at the output channels of every
            convolution and linear layer. ``"both"``: at all of these.
        biased: Whether each bias needs a node that it enters at, see :func:`shift_before`.
    """
    layers = set() if places == "activations" else _ends(traced)
    biases = {n.index for n in traced.nodes if _shift(n) is not None} if biased else set[int]()
    gates = traced.gates if places != "layers" else frozenset[int]()
    bare = {index for index in layers | biases if _activation(traced, index) is None}
    opened, moved = _with_places(traced, bare) if bare else (traced, list(range(len(traced.nodes))))
    behind = {index: _activation(traced, index) for index in layers}
    masked = {moved[i] for i in gates}
    masked |= {moved[i] + 1 if gate is None else moved[gate] for i, gate in behind.items()}
    return opened, frozenset(masked)


def _ends(traced: Graph) -> set[int]:
    """The convolutions and linear layers; in place of one with a factor behind it, the factor."""
    ends = set[int]()
    for node in traced.nodes:
        if not isinstance(node.operation, _LAYERS):
            continue
        end = node.index
        while (reader := _only_reader(traced, end)) and isinstance(reader.operation, graph.Affine):
            end = reader.index
        ends.add(end)
    return ends


def _only_reader(traced: Graph, index: int) -> Node | None:
    readers = traced.consumers[index]
    return traced.nodes[readers[0]] if len(readers) == 1 else None


def _activation(traced: Graph, index: int) -> int | None:
    """The position of the activation that alone reads a node, or None."""
    reader = _only_reader(traced, index)
    return reader.index if reader is not None and isinstance(reader.operation, Gate) else None


def _with_places(traced: Graph, bare: set[int]) -> tuple[Graph, list[int]]:
    """Put a :class:`Place` behind some nodes; return where each node has gone, too."""
    nodes, moved, read = list[Node](), list[int](), list[int]()
    for node in traced.nodes:
        moved.append(len(nodes))
        inputs = tuple(read[source] for source in node.inputs)
        nodes.append(replace(node, index=len(nodes), inputs=inputs))
        if node.index in bare:
            place = replace(node, index=len(nodes), operation=Place(), inputs=(len(nodes) - 1,))
            nodes.append(place)
        read.append(len(nodes) - 1)
    opened = Graph(nodes)
    opened._weights = traced._weights
    return opened, moved


def _shift(node: Node) -> Tensor | None:
    return node.operation.shift() if isinstance(node.operation, LinearOperation) else None


def shift_before(opened: Graph, gate: Node) -> Tensor | None:
    """The bias, broadcastable, that enters at a gate: that of the operation which it alone reads.

    In what :func:`placed` returns for biases, every bias enters at exactly one gate.
    """
    source = gate.inputs[0]
    return _shift(opened.nodes[source]) if len(opened.consumers[source]) == 1 else None


def last_maps(traced: Graph) -> Node:
    """The last maps before the classifier: what its last layer reads, before any pooling.

    That is the last node with more than one place, up to what the last convolution or linear layer
    reads; the input if none has.
    """
    layers = [node for node in traced.nodes if isinstance(node.operation, _LAYERS)]
    end = layers[-1].inputs[0] if layers else len(traced.nodes) - 1
    candidates = [node for node in traced.nodes[: end + 1] if _has_places(node.shape)]
    return candidates[-1] if candidates else traced.nodes[0]


def _has_places(shape: Shape) -> bool:
    return len(shape) > 1 and math.prod(shape[1:]) > 1


class Ground:
    r"""The pixels over which the parts of hidden places are spread, without colours.

    A place at a hidden layer hands its part in equal shares to the pixels below it, as in
    :func:`xaiutils.attribution.fullgrad` with signs; what has no place is shared out by all pixels.
    With :math:`Q_l` for that, :meth:`spread` is :math:`Q_l b` and :meth:`gather` its transpose.

    Attributes:
        colours: How many numbers of the input share a pixel.
        shape: That of a map without batch, (1, H, W) for images; for vectors that of the input.
    """

    def __init__(self, shape: Shape) -> None:
        self.colours = shape[0] if len(shape) > 1 else 1
        self.shape: Shape = (1, *shape[1:]) if len(shape) > 1 else shape

    def over_colours(self, ground: Tensor) -> Tensor:
        """Share maps (B, N, 1, ...) out over the colours, as a tensor that broadcasts."""
        return ground / self.colours

    def under_colours(self, pixels: Tensor) -> Tensor:
        """The transpose: the mean over the colours, (B, N, 1, ...), of (B, N, C, ...)."""
        return pixels.mean(2, keepdim=True) if self.colours > 1 else pixels

    def size(self, node: Node) -> Shape | None:
        """The places of a node, or None if it has no maps as the input has."""
        alike = len(node.shape) == len(self.shape) > 1
        return tuple(node.shape[1:]) if alike else None

    def spread(self, parts: dict[Shape | None, Tensor], like: Tensor) -> Tensor:
        """Add up parts (B, N, 1, ...) of several sizes, None for (B, N), as maps (B, N, ...)."""
        total = like.new_zeros(like.shape[:2] + self.shape)
        for size, part in parts.items():
            if size is None:
                every = part / math.prod(self.shape)
                total += every.view(*every.shape, *[1] * len(self.shape))
            else:
                flat = part.reshape(-1, 1, *size)
                total += _shared_out(flat, self.shape[1:]).view_as(total)
        return total

    def gather(self, ground: Tensor, size: Shape | None) -> Tensor:
        """The transpose of :meth:`spread`: maps (B, N, ...) to (B, N, 1, ...), or (B, N)."""
        if size is None:
            return ground.flatten(2).mean(2)
        return _gathered(ground, size)


def _gathered(ground: Tensor, size: Sequence[int]) -> Tensor:
    for dim, places in enumerate(size, start=ground.ndim - len(size)):
        shares = _shares(places, ground.shape[dim]).to(ground)
        ground = (ground.movedim(dim, -1) @ shares.T).movedim(-1, dim)
    return ground
