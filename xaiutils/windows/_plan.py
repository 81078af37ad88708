"""Plan which nodes of a network are computed in windows, and where these lie."""

from __future__ import annotations

from collections.abc import Sequence
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

    @property
    def starts(self) -> Tensor:
        """Where each window starts, (spans,): moved inwards where it would not fit."""
        return self.first.clamp(max=self.length - self.size)


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
    """

    node: Node
    operation: Operation | None
    reaches: tuple[Reach, Reach]
    sides: tuple[Side, Side]
    lengths: tuple[int, int]

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
        """The window (N, C, h, w), of what it reads; the first input may be overwritten."""
        operation = self.operation
        if operation is None:
            return inputs[0]
        if isinstance(operation, ops.Gate):
            return operation.forward_(inputs[0])
        return operation.forward(*inputs)


class Windows:
    """A plan: which nodes of a graph are computed in windows, and what that saves.

    Attributes:
        graph: The network.
        changed: Where the input changes, along the rows and the columns.
        windows: The nodes that are computed in windows, by position, in the order of execution.
        kept: The nodes whose whole outputs must be remembered, the input among them.
        frontier: Those of them that the rest of the network reads.
    """

    def __init__(self, graph: Graph, rows: Sequence[Span], columns: Sequence[Span]) -> None:
        """Plan for inputs (N, C, H, W) that change in one rectangle at a time.

        Args:
            graph: The network.
            rows: The spans of rows that may change, each its first row and the one after its last.
            columns: The same for columns.
        """
        self.graph = graph
        self.changed = _sides(rows, columns, graph.input_shape)
        self.windows = self._plan(self.changed)
        inside, output = {0, *self.windows}, len(graph.nodes) - 1
        self.frontier = frozenset(
            i for i in inside if i == output or not inside.issuperset(graph.consumers[i])
        )
        self.kept = self.frontier | {0} | {i for i in inside if not self._passed_on(i)}

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
        costs = [_cost(node) for node in self.graph.nodes]
        shares = [w.share if (w := self.windows.get(i)) else 1.0 for i in range(len(costs))]
        work = sum(cost * share for cost, share in zip(costs, shares, strict=True))
        weights = sum(_weights(node) for node in self.graph.nodes)
        return (work + (per_window * len(self.windows) + per_weight * weights) / batch) / sum(costs)

    def _plan(self, sides: tuple[Side, Side]) -> dict[int, Window]:
        planned: dict[int, Window] = {}
        everywhere = {0: sides}
        for node in self.graph.nodes[1:]:
            reaches = _reaches(node.operation, node.shape)
            if reaches is None or any(source not in everywhere for source in node.inputs):
                continue
            read = [everywhere[source] for source in node.inputs]
            sides = _affected(read, reaches, node.shape)
            lengths = read[0][0].length, read[0][1].length
            window = Window(node, _unpadded(node.operation), reaches, sides, lengths)
            if window.share <= _LARGEST:
                planned[node.index], everywhere[node.index] = window, sides
        return planned

    def _passed_on(self, index: int) -> bool:
        """Whether only the next operation needs the window, and nothing more than the window."""
        readers = self.graph.consumers[index]
        return len(readers) == 1 and _elementwise(self.graph.nodes[readers[0]].operation)


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
    operation, numbers = node.operation, torch.Size(node.shape).numel()
    each = _PER_NUMBER
    if isinstance(operation, ops.Convolution):
        each += operation.weight[0].numel()
    if isinstance(operation, ops.Dense):
        each += operation.weight.shape[1]
    return float(numbers * each)
