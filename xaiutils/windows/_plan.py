"""Plan which nodes of a network are computed in windows, and where these lie."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from xaiutils.graph import operations as ops
from xaiutils.graph.operations import Operation
from xaiutils.graph.running import Graph, Node

Span = tuple[int, int]
Places = tuple[Tensor, Tensor]

_LARGEST = 0.6  # of a layer: windows that cover more are not worth their overhead
# What moving a number and handling a window cost, in multiplications, by rough measurement.
_PER_NUMBER = 24
_PER_WINDOW = 12_000_000


@dataclass(frozen=True)
class Reach:
    """Along one side, output ``o`` reads inputs ``o * stride - before`` and following."""

    stride: int = 1
    before: int = 0
    extent: int = 1

    def affected(self, first: Tensor, last: Tensor, length: int) -> tuple[Tensor, Tensor]:
        """First and last output that read any of the inputs from first to last."""
        low = (first + self.before - self.extent).div(self.stride, rounding_mode="floor") + 1
        high = (last + self.before).div(self.stride, rounding_mode="floor")
        return low.clamp(0, length - 1), high.clamp(0, length - 1)

    def inputs(self, side: Side, length: int, outside: int) -> Tensor:
        """The inputs that a window of outputs reads, (spans, inputs), `outside` for padding."""
        number = (side.size - 1) * self.stride + self.extent
        read = side.starts[:, None] * self.stride - self.before + torch.arange(number)
        return torch.where((read >= 0) & (read < length), read, outside)


_AT_ITS_PLACE = Reach(), Reach()


@dataclass(frozen=True, eq=False)
class Side:
    """The windows of one node along one side, for each span of the input that may change.

    Attributes:
        first: The first output that changes, (spans,).
        last: The last output that changes, (spans,).
        length: Of the side.
    """

    first: Tensor
    last: Tensor
    length: int

    @cached_property
    def size(self) -> int:
        """The width of the window, the same for every span."""
        return int((self.last - self.first).max()) + 1

    @cached_property
    def starts(self) -> Tensor:
        """Where each window starts, (spans,): moved inwards where it would not fit."""
        return self.first.clamp(max=self.length - self.size)

    def some(self, spans: Tensor) -> Side:
        """The windows for these spans alone."""
        return Side(self.first[spans], self.last[spans], self.length)


@dataclass(frozen=True, eq=False)
class Window:
    """What is computed anew of one node.

    Attributes:
        node: The node.
        operation: What it does, for inputs that bring their padding with them; None for a node
            that only pads.
        reaches: Where it reads, for the rows and the columns.
        sides: Its windows along the rows and the columns.
        lengths: How many rows and columns its inputs have.
        direct: The inputs whose windows are what it reads, no more and no less.
        overwrites: Whether it may write into its first input.
    """

    node: Node
    operation: Operation | None
    reaches: tuple[Reach, Reach]
    sides: tuple[Side, Side]
    lengths: tuple[int, int]
    direct: frozenset[int]
    overwrites: bool

    @property
    def share(self) -> float:
        """The share of the node's outputs in the window."""
        rows, columns = self.sides
        return (rows.size * columns.size) / (rows.length * columns.length)

    @cached_property
    def reads(self) -> Places:
        """Which rows and columns of its inputs the window reads, for each span of the input.

        What lies outside is numbered like a row or column beyond the last: the first of these
        stands for zeros, the second for minus infinity, which is the padding of a maximum.
        """
        beyond = isinstance(self.operation, ops.MaxPool)
        rows, columns = (
            reach.inputs(side, length, length + beyond)
            for reach, side, length in zip(self.reaches, self.sides, self.lengths, strict=True)
        )
        return rows, columns

    @cached_property
    def writes(self) -> Places:
        """Which rows and columns of its own output it is, likewise."""
        rows, columns = (side.starts[:, None] + torch.arange(side.size) for side in self.sides)
        return rows, columns

    def compute(self, inputs: Sequence[Tensor]) -> Tensor:
        """The window (N, C, h, w), of what it reads."""
        operation = self.operation
        if operation is None:
            return inputs[0]
        if self.overwrites and isinstance(operation, ops.Gate):
            return operation.forward_(inputs[0])
        return operation.forward(*inputs)


class Spread:
    """How far a change of the input reaches in every node, for each span of rows and of columns.

    Attributes:
        graph: The network.
        reaches: Where the nodes read that can be computed in windows, by position.
        sides: Where these change, and the input.
        costs: What each node costs, in multiplications.
        weights: How many weights there are.
    """

    def __init__(self, graph: Graph, rows: Sequence[Span], columns: Sequence[Span]) -> None:
        """Follow the spans, as in `Windows`, through the network."""
        self.graph = graph
        self.sides = {0: _sides(rows, columns, graph.input_shape)}
        self.reaches: dict[int, tuple[Reach, Reach]] = {}
        for node in graph.nodes[1:]:
            reaches = _reaches(node.operation, node.shape)
            if reaches is not None and all(source in self.sides for source in node.inputs):
                read = [self.sides[source] for source in node.inputs]
                self.reaches[node.index] = reaches
                self.sides[node.index] = _affected(read, reaches, node.shape)
        self.costs = [_cost(node) for node in graph.nodes]
        self.weights = sum(_weights(node) for node in graph.nodes)

    def sizes(self, side: int, spans: Tensor) -> Iterator[tuple[int, int]]:
        """How wide the window for some spans is in each node of `sides`, and how long the side."""
        sides = [both[side] for both in self.sides.values()]
        widths = torch.stack([s.last - s.first for s in sides])[:, spans].amax(dim=1) + 1
        return zip(widths.tolist(), [s.length for s in sides], strict=True)


class Windows:
    """A plan: which nodes of a graph are computed in windows, and what that saves.

    Attributes:
        graph: The network.
        shares: The share of each node's outputs in its window, by position, in the order of
            execution; only of the nodes that are computed in windows.
    """

    def __init__(self, graph: Graph, rows: Sequence[Span], columns: Sequence[Span]) -> None:
        """Plan for inputs (N, C, H, W) that change in one rectangle at a time.

        Args:
            graph: The network.
            rows: The spans of rows that may change, each its first row and the one after its last.
            columns: The same for columns.
        """
        spans = torch.arange(len(rows)), torch.arange(len(columns))
        self._choose(Spread(graph, rows, columns), spans, _LARGEST)

    @classmethod
    def of(cls, spread: Spread, rows: Tensor, columns: Tensor, largest: float) -> Windows:
        """The plan for some of the spans of rows and of columns.

        Args:
            spread: How far the spans reach.
            rows: The numbers of the spans of rows, int64.
            columns: The same for columns.
            largest: The largest share of a node's outputs that is computed as a window.
        """
        plan = cls.__new__(cls)
        plan._choose(spread, (rows, columns), largest)
        return plan

    def _choose(self, spread: Spread, spans: Places, largest: float) -> None:
        self.graph, self._spread, self._spans = spread.graph, spread, spans
        self.shares: dict[int, float] = {}
        inside = {0}
        sizes = zip(*(spread.sizes(side, some) for side, some in enumerate(spans)), strict=True)
        for index, ((rows, height), (columns, width)) in zip(spread.sides, sizes, strict=True):
            share = rows * columns / (height * width)
            if index and share <= largest and inside.issuperset(self.graph.nodes[index].inputs):
                self.shares[index] = share
                inside.add(index)

    @cached_property
    def frontier(self) -> frozenset[int]:
        """The nodes among the windows, or the input, that the rest of the network reads."""
        inside, output = {0, *self.shares}, len(self.graph.nodes) - 1
        return frozenset(
            i for i in inside if i == output or not inside.issuperset(self.graph.consumers[i])
        )

    @cached_property
    def kept(self) -> frozenset[int]:
        """The nodes whose whole outputs must be remembered, the input among them."""
        around = {i for w in self.windows.values() for i in w.node.inputs if i not in w.direct}
        return self.frontier | around | {0}

    @cached_property
    def changed(self) -> tuple[Side, Side]:
        """Where the input changes, along the rows and the columns."""
        return self._sides(0)

    @cached_property
    def windows(self) -> dict[int, Window]:
        """The nodes that are computed in windows, by position, in the order of execution."""
        sides = {index: self._sides(index) for index in (0, *self.shares)}
        for index in self.shares:
            self._widen(index, sides)
        return {index: self._window(index, sides) for index in self.shares}

    def saving(self, batch: int, updates: int) -> float:
        """How many times less work updates are than whole forward passes, by a rough count.

        Args:
            batch: How many outputs are computed at a time; they share what each window costs.
            updates: How many follow each other; before the first stands one whole pass, the
                restart, so that a single update saves nothing.
        """
        return updates / (1 + updates * self.work(batch))

    def work(self, batch: int, per_window: float = _PER_WINDOW, per_weight: float = 0) -> float:
        """What an update costs, in whole forward passes, by a rough count.

        Args:
            batch: As above.
            per_window: What a window costs for each batch, in multiplications.
            per_weight: The same for a weight that is read.
        """
        costs = self._spread.costs
        work = sum(cost * self.shares.get(index, 1.0) for index, cost in enumerate(costs))
        once = per_window * len(self.shares) + per_weight * self._spread.weights
        return (work + once / batch) / sum(costs)

    def forget(self, patches: dict[int, Tensor], index: int) -> None:
        """Drop the windows by position that nothing after this one reads as they are."""
        for done in (index, *self.graph.nodes[index].inputs):
            if self._last_readers.get(done, 0) <= index:
                patches.pop(done, None)

    @cached_property
    def _last_readers(self) -> dict[int, int]:
        return {source: i for i, window in self.windows.items() for source in window.direct}

    def _sides(self, index: int) -> tuple[Side, Side]:
        rows, columns = self._spread.sides[index]
        return rows.some(self._spans[0]), columns.some(self._spans[1])

    def _window(self, index: int, sides: dict[int, tuple[Side, Side]]) -> Window:
        node, reaches, nodes = (
            self.graph.nodes[index],
            self._spread.reaches[index],
            self.graph.nodes,
        )
        rows, columns = sides[node.inputs[0]]
        operation, direct = _unpadded(node.operation), frozenset[int]()
        if reaches == _AT_ITS_PLACE and operation is not None:
            inside = [source for source in node.inputs if source]
            direct = frozenset(i for i in inside if _alike(sides[i], sides[index]))
        first = node.inputs[0]
        alone = len(self.graph.consumers[first]) == 1 and nodes[first].operation.fresh
        return Window(
            node,
            operation,
            reaches,
            sides[index],
            (rows.length, columns.length),
            direct,
            alone or first not in direct,
        )

    def _widen(self, index: int, sides: dict[int, tuple[Side, Side]]) -> None:
        """Let the inputs of a sum or of channels side by side have its windows.

        Theirs may be smaller, and then what is around would have to be remembered and read. Where
        that is more work than to compute it anew, from what lies before, it is computed anew.
        """
        node = self.graph.nodes[index]
        for source in node.inputs if len(node.inputs) > 1 else ():
            chain = list(self._pointwise(source, index))
            if not chain:
                continue
            narrow, wide = (_area(sides[i]) for i in (source, index))
            anew = sum(_multiplications(self.graph.nodes[i]) for i in chain) * (wide - narrow)
            if anew <= _PER_NUMBER * (wide + narrow):
                sides.update(dict.fromkeys(chain, sides[index]))

    def _pointwise(self, index: int, reader: int) -> Iterator[int]:
        """This node and those before it, as long as each reads one pixel for nobody else."""
        while index in self.shares and self.graph.consumers[index] == (reader,):
            node = self.graph.nodes[index]
            if self._spread.reaches[index] != _AT_ITS_PLACE or len(node.inputs) > 1:
                return
            yield index
            index, reader = node.inputs[0], index


def chosen(places: Places, spans: Places) -> Places:
    """Rows (N, h) and columns (N, w) of the windows of N spans."""
    rows, columns = (of_all.index_select(0, n) for of_all, n in zip(places, spans, strict=True))
    return rows, columns


def _sides(
    rows: Sequence[Span], columns: Sequence[Span], shape: tuple[int, ...]
) -> tuple[Side, Side]:
    first_row, end_row = torch.tensor(rows).T
    first_column, end_column = torch.tensor(columns).T
    return Side(first_row, end_row - 1, shape[1]), Side(first_column, end_column - 1, shape[2])


def _affected(
    read: Sequence[tuple[Side, Side]], reaches: tuple[Reach, Reach], shape: tuple[int, ...]
) -> tuple[Side, Side]:
    """The windows of a node whose inputs change in the windows `read`."""
    found = []
    for side, (reach, length) in enumerate(zip(reaches, shape[1:], strict=True)):
        first, last = read[0][side].first, read[0][side].last
        for sides in read[1:]:
            first = torch.minimum(first, sides[side].first)
            last = torch.maximum(last, sides[side].last)
        found.append(Side(*reach.affected(first, last, length), length))
    return found[0], found[1]


def _alike(one: tuple[Side, Side], two: tuple[Side, Side]) -> bool:
    """Whether windows are the same."""
    return all(
        a.size == b.size and torch.equal(a.starts, b.starts) for a, b in zip(one, two, strict=True)
    )


def _area(sides: tuple[Side, Side]) -> int:
    return sides[0].size * sides[1].size


def _elementwise(operation: Operation) -> bool:
    """Whether an operation does the same at each place, and reads nothing but that place."""
    return isinstance(operation, (ops.Gate, ops.Affine)) and not _varies(operation)


def _varies(operation: Operation) -> bool:
    """Whether a constant in it differs from place to place, as a position embedding does."""
    sides: list[int] = []

    def see(constant: Any) -> Any:
        if isinstance(constant, Tensor) and constant.ndim > 1:
            sides.extend(constant.shape[-2:])
        return constant

    ops.with_tensors(operation, see)
    return any(side > 1 for side in sides)


def _reaches(operation: Operation, shape: tuple[int, ...]) -> tuple[Reach, Reach] | None:
    """Where an operation reads, or None if it cannot be computed in windows."""
    if len(shape) != 3:
        return None
    if isinstance(operation, ops.Convolution) and not operation.transposed:
        kernel, dilation = tuple(operation.weight.shape[2:]), operation.dilation
        return _sliding(kernel, operation.stride, operation.padding, dilation)
    if isinstance(operation, ops.MaxPool) and not operation.border:
        return _sliding(operation.kernel, operation.stride, operation.padding, operation.dilation)
    if isinstance(operation, ops.AveragePool) and _plain(operation):
        return _sliding(operation.kernel, operation.stride, operation.padding, (1, 1))
    if isinstance(operation, ops.Pad) and operation.mode == "constant":
        left, _, top, _, *more = (*operation.widths, 0, 0)[:6]
        return None if any(more) else (Reach(before=top), Reach(before=left))
    alike = _elementwise(operation) or isinstance(operation, ops.Add)
    side_by_side = isinstance(operation, ops.Concatenate) and operation.dim == 1
    return (Reach(), Reach()) if alike or side_by_side else None


def _plain(pool: ops.AveragePool) -> bool:
    """Whether every output is divided by the same number."""
    return not pool.ceil_mode and (pool.count_include_pad or not any(pool.padding))


def _sliding(
    kernel: Sequence[int], stride: Sequence[int], padding: Sequence[int], dilation: Sequence[int]
) -> tuple[Reach, Reach]:
    rows, columns = (
        Reach(stride[i], padding[i], dilation[i] * (kernel[i] - 1) + 1) for i in range(2)
    )
    return rows, columns


def _unpadded(operation: Operation) -> Operation | None:
    if isinstance(operation, ops.Pad):
        return None
    if isinstance(operation, ops.Convolution):
        return replace(operation, padding=(0, 0))
    if isinstance(operation, (ops.MaxPool, ops.AveragePool)):
        return replace(operation, padding=(0, 0), ceil_mode=False)
    return operation


def _weights(node: Node) -> int:
    operation = node.operation
    if isinstance(operation, (ops.Convolution, ops.Dense)):
        return operation.weight.numel()
    return 0


def _cost(node: Node) -> float:
    """Multiplications of a node, and what it costs to move its numbers."""
    return float(torch.Size(node.shape).numel() * (_PER_NUMBER + _multiplications(node)))


def _multiplications(node: Node) -> int:
    """For each number of the output."""
    operation = node.operation
    if isinstance(operation, ops.Convolution):
        return operation.weight[0].numel()
    return operation.weight.shape[1] if isinstance(operation, ops.Dense) else 0
