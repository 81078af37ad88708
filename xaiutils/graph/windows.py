"""Recompute a network's output after its input changed in one small window.

What one pixel changes in the early layers lies in a small window too, a few pixels wider after each
convolution. So their outputs are remembered, and only the windows computed anew; once the windows
cover most of a layer, the rest of the network runs as usual. The numbers are those of a whole
forward pass, but for rounding: nothing is left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from xaiutils.graph import operations as ops
from xaiutils.graph.operations import Operation
from xaiutils.graph.running import Graph, Node

Span = tuple[int, int]

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

    @property
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
    """

    node: Node
    operation: Operation | None
    reaches: tuple[Reach, Reach]
    sides: tuple[Side, Side]

    @property
    def share(self) -> float:
        """The share of the node's outputs in the window."""
        rows, columns = self.sides
        return (rows.size * columns.size) / (rows.length * columns.length)

    @property
    def patch(self) -> tuple[int, int]:
        """Rows and columns of what the window reads."""
        pairs = zip(self.sides, self.reaches, strict=True)
        height, width = ((side.size - 1) * reach.stride + reach.extent for side, reach in pairs)
        return height, width

    def corner(self, spans: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """Where the windows of a batch start, given the spans that changed: two tensors (B,)."""
        top, left = (side.starts[span] for side, span in zip(self.sides, spans, strict=True))
        return top, left

    def reading(self, corner: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """Where that which the windows read starts; outside the input, it is padding."""
        pairs = zip(corner, self.reaches, strict=True)
        top, left = (start * reach.stride - reach.before for start, reach in pairs)
        return top, left


class Windows:
    """A plan: which nodes of a graph are computed in windows, and what that saves.

    Attributes:
        graph: The network.
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
        self.windows = self._plan(_sides(rows, columns, graph.input_shape))
        inside, output = {0, *self.windows}, len(graph.nodes) - 1
        self.frontier = frozenset(
            i for i in inside if i == output or not inside.issuperset(graph.consumers[i])
        )
        self.kept = self.frontier | {0} | {i for i in inside if not self._passed_on(i)}

    def saving(self, batch: int, updates: int) -> float:
        """How many times less work updates are than whole forward passes, by a rough count.

        Args:
            batch: How many inputs are updated at a time; they share what each window costs.
            updates: How many follow each other; before the first stands one whole pass, the
                restart, so that a single update saves nothing.
        """
        costs = [_cost(node) for node in self.graph.nodes]
        shares = [w.share if (w := self.windows.get(i)) else 1.0 for i in range(len(costs))]
        work = sum(cost * share for cost, share in zip(costs, shares, strict=True))
        update = work + _PER_WINDOW * len(self.windows) / batch
        return updates * sum(costs) / (sum(costs) + updates * update)

    def _plan(self, sides: tuple[Side, Side]) -> dict[int, Window]:
        planned: dict[int, Window] = {}
        everywhere = {0: sides}
        for node in self.graph.nodes[1:]:
            reaches = _reaches(node.operation, node.shape)
            if reaches is None or any(source not in everywhere for source in node.inputs):
                continue
            read = [everywhere[source] for source in node.inputs]
            sides = _affected(read, reaches, node.shape)
            window = Window(node, _unpadded(node.operation), reaches, sides)
            if window.share <= _LARGEST:
                planned[node.index], everywhere[node.index] = window, sides
        return planned

    def _passed_on(self, index: int) -> bool:
        """Whether only the next operation needs the window, and nothing more than the window."""
        readers = self.graph.consumers[index]
        return len(readers) == 1 and _elementwise(self.graph.nodes[readers[0]].operation)


class Incremental:
    """A batch of inputs that change little by little, and the network's outputs for them.

    Attributes:
        x: The inputs (B, C, H, W), to be written to before each call of `restart` or `update`.
    """

    def __init__(self, plan: Windows, x: Tensor) -> None:
        """Reserve the memory for a batch of the shape, type and device of `x`."""
        self._plan = plan
        shapes = {index: plan.graph.nodes[index].shape for index in plan.kept}
        self._memory = {index: _Memory(shape, x) for index, shape in shapes.items()}
        self.x = self._memory[0].whole

    def restart(self) -> None:
        """Remember what the early layers make of `x`."""
        record = self._plan.graph.record(self.x, keep=self._plan.kept)
        for index, memory in self._memory.items():
            if index:
                memory.whole.copy_(record.value(index))

    @torch.no_grad()
    def update(self, rows: Tensor, columns: Tensor) -> Tensor:
        """Return the outputs after a change of `x`.

        Args:
            rows: Which of the plan's spans of rows changed in each input, (B,) int64.
            columns: The same for columns.
        """
        patches: dict[int, Tensor] = {}
        for index, window in self._plan.windows.items():
            corner = window.corner((rows, columns))
            patch = self._compute(window, corner, patches)
            if index in self._memory:
                self._memory[index].write(corner, window, patch)
            else:
                patches[index] = patch
        return self._plan.graph.complete({i: self._memory[i].whole for i in self._plan.frontier})

    def _compute(
        self, window: Window, corner: tuple[Tensor, Tensor], patches: dict[int, Tensor]
    ) -> Tensor:
        operation = window.operation
        start = window.reading(corner)
        row = _MINUS_INFINITY if isinstance(operation, ops.MaxPool) else _ZERO
        inputs = [
            patches.pop(source)
            if source in patches
            else self._memory[source].read(start, window.patch, row)
            for source in window.node.inputs
        ]
        if operation is None:
            return inputs[0]
        if isinstance(operation, ops.Gate):
            return operation.forward_(inputs[0])
        return operation.forward(*inputs)


_ZERO, _MINUS_INFINITY = -2, -1


class _Memory:
    """The outputs of a node for a batch: a row for each pixel, and two rows for what is outside."""

    def __init__(self, shape: tuple[int, ...], x: Tensor) -> None:
        self.batch, (channels, self.height, self.width) = len(x), shape
        self.rows = x.new_zeros(self.batch * self.height * self.width + 2, channels)
        self.rows[_MINUS_INFINITY] = -torch.inf

    @property
    def whole(self) -> Tensor:
        """The outputs (B, C, H, W), in channels_last."""
        pixels = self.rows[:_ZERO].view(self.batch, self.height, self.width, -1)
        return pixels.permute(0, 3, 1, 2)

    def read(self, corner: tuple[Tensor, Tensor], size: tuple[int, int], outside: int) -> Tensor:
        """A window of each output, (B, C, *size); `outside` is the row that stands for padding."""
        places = self._places(corner, size, outside)
        found = self.rows.index_select(0, places.flatten())
        return found.view(*places.shape, -1).permute(0, 3, 1, 2)

    def write(self, corner: tuple[Tensor, Tensor], window: Window, patch: Tensor) -> None:
        """Replace a window of each output."""
        rows, columns = window.sides
        places = self._places(corner, (rows.size, columns.size), _ZERO)
        self.rows.index_copy_(0, places.flatten(), patch.permute(0, 2, 3, 1).flatten(0, 2))

    def _places(self, corner: tuple[Tensor, Tensor], size: tuple[int, int], outside: int) -> Tensor:
        """The rows of the pixels of each window, (B, *size)."""
        device = self.rows.device
        top, left = (start.to(device)[:, None] for start in corner)
        down = (top + torch.arange(size[0], device=device))[:, :, None]
        along = (left + torch.arange(size[1], device=device))[:, None, :]
        images = torch.arange(self.batch, device=device)[:, None, None]
        places = (images * self.height + down) * self.width + along
        inside = (down >= 0) & (down < self.height) & (along >= 0) & (along < self.width)
        return torch.where(inside, places, len(self.rows) + outside)


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
        first = torch.stack([sides[side].first for sides in read]).amin(0)
        last = torch.stack([sides[side].last for sides in read]).amax(0)
        found.append(Side(*reach.affected(first, last, length), length))
    return found[0], found[1]


def _elementwise(operation: Operation) -> bool:
    return isinstance(operation, (ops.Gate, ops.Affine))


def _reaches(operation: Operation, shape: tuple[int, ...]) -> tuple[Reach, Reach] | None:
    """Where an operation reads, or None if it cannot be computed in windows."""
    if len(shape) != 3:
        return None
    if isinstance(operation, ops.Convolution) and not operation.transposed:
        kernel, dilation = tuple(operation.weight.shape[2:]), operation.dilation
        return _sliding(kernel, operation.stride, operation.padding, dilation)
    if isinstance(operation, ops.MaxPool):
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


def _cost(node: Node) -> float:
    """Multiplications of a node, and what it costs to move its numbers."""
    operation, numbers = node.operation, torch.Size(node.shape).numel()
    each = _PER_NUMBER
    if isinstance(operation, ops.Convolution):
        each += operation.weight[0].numel()
    if isinstance(operation, ops.Dense):
        each += operation.weight.shape[1]
    return float(numbers * each)
