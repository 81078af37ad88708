"""Try many regions from one state: recompute only the windows in which they differ from it.

Region perturbation goes on from step to step, and `Incremental` keeps the latest value of every
pixel. Here nothing is kept: each alternative is the state with one region replaced, and the next
alternative starts from the same state again. Recomputing windows for occlusion is due to Nakandala,
Kumar and Papakonstantinou 2019, who report up to five times fewer seconds for exact results.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from xaiutils.graph.running import Graph
from xaiutils.windows._passing import hand_over
from xaiutils.windows._pixels import as_images, as_pixels
from xaiutils.windows._plan import Side, Span, Spread, Windows

_LARGEST = 0.8  # of a layer: windows that cover more are not worth their overhead
_OUTSIDE = 2  # pixels of each state that stand for what is outside: zeros, minus infinity
_REST = -1  # stands for the part of the network that is run whole
_MOST_CLASSES = 3  # of rows and of columns, by their distance from the border
_AT_ONCE = 4_000_000  # numbers of a layer that is run whole: more would not fit into the cache
# What a window and a weight cost for each batch, in multiplications, by rough measurement.
_PER_WINDOW = 4_000_000
_PER_WEIGHT = 32


class Branches:
    """The network's outputs for inputs that each differ from a known one in one rectangle.

    The layers of a state are held once. A window reads the pixels that its own alternative computed
    anew, and the state's pixels around them, so that the memory grows with the windows and with
    nothing else.

    Near the border windows are smaller: beyond it there is nothing to change. So the regions are
    tried in groups by their distance from the border, each with a plan of its own, which computes
    no more than those regions need.
    """

    def __init__(
        self,
        network: Graph,
        rows: Sequence[Span],
        columns: Sequence[Span],
        x: Tensor,
        states: int,
        batch: int,
    ) -> None:
        """Reserve memory.

        Args:
            network: The network.
            rows: The spans of rows that may change, as in `Windows`.
            columns: The same for columns. Region i lies in row i // len(columns) of the regions.
            x: Inputs (N, C, H, W) like those to come.
            states: How many there are at a time, at most.
            batch: How many alternatives are computed at a time, at most.
        """
        self._network, self._batch = network, batch
        self._groups = _grouped(Spread(network, rows, columns), states, batch)
        self._group_of = torch.empty(len(rows), len(columns), dtype=torch.int64)
        for number, group in enumerate(self._groups):
            self._group_of[group.rows[:, None], group.columns] = number
        kept = frozenset[int]().union(*(group.plan.kept for group in self._groups))
        self._layers = {
            i: _Layer(network.nodes[i].shape, x, states, self._most_new(i))
            for i in sorted(kept - {0})
        }
        self._layers[0] = _Layer(network.input_shape, x, states, x[0, 0].numel() * states)
        self._tables = dict[tuple[int, bytes, bytes], _Tables]()

    def saving(self) -> float:
        """How many times less work it is to try each region once than whole passes; an estimate."""
        tries = self._group_of.numel()
        return tries / (1 + sum(group.work(self._batch) for group in self._groups))

    def begin(self, x: Tensor, y: Tensor) -> None:
        """Take states from which alternatives branch off.

        Args:
            x: The inputs as they are, (B, C, H, W).
            y: What stands in a region that is replaced, likewise.

        Raises:
            ValueError: There are more states than memory was reserved for.
        """
        hand_over(self._network, x, {i: layer.begin for i, layer in self._layers.items()})
        self._layers[0].write(y)

    def outputs(self, states: Tensor, regions: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """The outputs of alternatives, a batch at a time.

        Args:
            states: The state from which each branches off, (S,) int64, on the CPU.
            regions: The region that is replaced in it, likewise.

        Yields:
            Which of the alternatives these are, (P,) int64, and their outputs (P, ...).
        """
        # All tables first: they stay, and would break up the memory of what comes and goes.
        for part, group, tables in list(self._jobs(states, regions)):
            yield part, self._outputs(group.plan, tables)

    def _jobs(self, states: Tensor, regions: Tensor) -> Iterator[tuple[Tensor, _Group, _Tables]]:
        """Batches of alternatives of like size, each of one group."""
        rows = regions.div(self._group_of.shape[1], rounding_mode="floor")
        columns = regions % self._group_of.shape[1]
        of_group = self._group_of[rows, columns]
        before, self._tables = self._tables, {}
        for number, group in enumerate(self._groups):
            of_this, size = (of_group == number).nonzero()[:, 0], min(self._batch, group.tries)
            for part in of_this.tensor_split(math.ceil(len(of_this) / size) or 1):
                if len(part):
                    key = number, _bytes(states[part]), _bytes(regions[part])
                    if (tables := before.get(key)) is None:
                        tables = _Tables(
                            group, self._layers, states[part], rows[part], columns[part]
                        )
                    self._tables[key] = tables  # mostly the same are asked for again and again
                    yield part, group, tables

    @torch.no_grad()
    def _outputs(self, plan: Windows, tables: _Tables) -> Tensor:
        patches: dict[int, Tensor] = {}
        for index, window in plan.windows.items():
            inputs = [
                patches[source]
                if source in window.direct
                else self._layers[source].read(tables.reads(index, source))
                for source in window.node.inputs
            ]
            patches[index] = window.compute(inputs)
            if index in plan.kept:
                self._layers[index].write(patches[index])
            plan.forget(patches, index)
        whole = [tables.whole(i) for i in plan.frontier]
        parts = self._parts(plan, tables.number)
        split = zip(*(numbers.tensor_split(parts) for numbers in whole), strict=True)
        return torch.cat(
            [self._complete(plan, dict(zip(plan.frontier, p, strict=True))) for p in split]
        )

    def _complete(self, plan: Windows, whole: Mapping[int, Tensor]) -> Tensor:
        return plan.graph.complete({i: self._layers[i].read(places) for i, places in whole.items()})

    def _parts(self, plan: Windows, number: int) -> int:
        """In how many parts so many alternatives run through the rest of the network."""
        if self._layers[0].device.type != "cpu":
            return 1
        late = [node for node in plan.graph.nodes[1:] if node.index not in plan.shares]
        largest = max((math.prod(node.shape) for node in late), default=1)
        return min(number, math.ceil(number * largest / _AT_ONCE))

    def _most_new(self, index: int) -> int:
        """How many pixels of a node are computed at a time, at most."""
        windows = [(g, w) for g in self._groups if (w := g.plan.windows.get(index)) is not None]
        return max(
            min(self._batch, group.tries) * window.sides[0].size * window.sides[1].size
            for group, window in windows
        )


class _Places(NamedTuple):
    """What each row or column of regions reads of a layer along one side.

    Attributes:
        numbers: (spans, h) int32; those outside are numbered from the length of the side on, as in
            `Window`.
        own: Which of them pass through what it changed, (spans, h) bool.
        outside: How far each lies outside, (spans, h) int32; -1 inside.
    """

    numbers: Tensor
    own: Tensor
    outside: Tensor

    def some(self, spans: Tensor) -> _Places:
        """Those of some spans."""
        return _Places(*(each.index_select(0, spans) for each in self))


class _Group:
    """Regions of one distance from the border, and the plan for them.

    Attributes:
        plan: Which nodes are computed in windows.
        rows: Which rows of regions they are, int64.
        columns: Which columns.
        tries: How many alternatives there are of all states.
    """

    def __init__(self, plan: Windows, rows: Tensor, columns: Tensor, states: int) -> None:
        self.plan, self.rows, self.columns = plan, rows, columns
        self.tries = len(rows) * len(columns) * states
        self._read: dict[tuple[int, int], tuple[_Places, _Places]] = {}

    def work(self, batch: int) -> float:
        """What it costs to try all its regions once, in whole forward passes; an estimate."""
        each = self.plan.work(min(batch, self.tries), _PER_WINDOW, _PER_WEIGHT)
        return len(self.rows) * len(self.columns) * each

    def sides(self, index: int) -> tuple[Side, Side]:
        """Where a node changes."""
        return self.plan.windows[index].sides if index else self.plan.changed

    @cached_property
    def asked(self) -> list[tuple[int, int]]:
        """What is read of layers that are held: by which node, `_REST` for all later, of which."""
        windows = self.plan.windows.items()
        around = [(i, s) for i, w in windows for s in w.node.inputs if s not in w.direct]
        return [*around, *((_REST, source) for source in self.plan.frontier)]

    def reads(self, index: int, source: int) -> tuple[_Places, _Places]:
        """What the window of a node reads of one of its inputs; all of it for the node `_REST`."""
        if (index, source) not in self._read:
            window = self.plan.windows.get(index)
            sides = self.sides(source)
            read = [torch.arange(side.length)[None] for side in sides]
            rows, columns = (
                _places(side, places.expand(len(side.first), -1), widened=source > 0)
                for side, places in zip(sides, window.reads if window else read, strict=True)
            )
            self._read[index, source] = rows, columns
        return self._read[index, source]


def _places(side: Side, read: Tensor, *, widened: bool) -> _Places:
    # A window that is wider than what changes is right too, but not where regions are read.
    first = side.starts if widened else side.first
    last = first + side.size - 1 if widened else side.last
    own = (read >= first[:, None]) & (read <= last[:, None])
    return _Places(read.int(), own, (read - side.length).clamp(min=-1).int())


class _Tables:
    """The numbers of the pixels that some alternatives read.

    Attributes:
        number: How many alternatives there are.
    """

    def __init__(
        self,
        group: _Group,
        layers: Mapping[int, _Layer],
        states: Tensor,
        rows: Tensor,
        columns: Tensor,
    ) -> None:
        self.number = len(states)
        self._group, self._layers, self._states = group, layers, states
        found = torch.searchsorted(group.rows, rows), torch.searchsorted(group.columns, columns)
        self._spans = found
        self._known = {
            (index, source): self._numbers(index, source).to(layers[source].device)
            for index, source in group.asked
        }

    def reads(self, index: int, source: int) -> Tensor:
        """What the windows of a node read of one of its inputs, (S, h, w) int32."""
        return self._known[index, source]

    def whole(self, index: int) -> Tensor:
        """All of a node, (S, H, W) int32."""
        return self.reads(_REST, index)

    def _numbers(self, index: int, source: int) -> Tensor:
        layer, (of_rows, of_columns) = self._layers[source], self._group.reads(index, source)
        rows, columns = of_rows.some(self._spans[0]), of_columns.some(self._spans[1])
        first, width = self._changed(source)
        states = layer.first_of(self._states)
        old = (states[:, None] + rows.numbers * layer.width).int()[:, :, None]
        new = (first[:, None] + rows.numbers * width).int()[:, :, None]
        own = rows.own[:, :, None] & columns.own[:, None]
        numbers = torch.where(own, new, old).add_(columns.numbers[:, None])
        beyond = torch.maximum(rows.outside[:, :, None], columns.outside[:, None])
        return torch.where(beyond < 0, numbers, beyond) if bool((beyond >= 0).any()) else numbers

    def _changed(self, index: int) -> tuple[Tensor, int]:
        """Where each alternative has what it changed of a node: `first` (S,), and `width`.

        The pixel in row r and column c has the number first + r * width + c.
        """
        layer = self._layers[index]
        if not index:  # what stands in a region that is replaced is there from the start
            return layer.new + self._states * layer.height * layer.width, layer.width
        rows, columns = self._group.sides(index)
        tops, lefts = rows.starts[self._spans[0]], columns.starts[self._spans[1]]
        area = rows.size * columns.size
        first = layer.new + torch.arange(0, self.number * area, area)
        return first - tops * columns.size - lefts, columns.size


def _grouped(spread: Spread, states: int, batch: int) -> list[_Group]:
    """The regions in groups: as many as make the work the least, by estimate."""
    rows, columns = (len(side.first) for side in spread.sides[0])
    best, least = list[_Group](), float("inf")
    for number in range(1, _MOST_CLASSES + 1):
        groups = [
            _Group(Windows.of(spread, top, left, _LARGEST), top, left, states)
            for top in _by_distance(rows, number)
            for left in _by_distance(columns, number)
        ]
        work = sum(group.work(batch) for group in groups)
        if work >= least:
            break
        best, least = groups, work
    return best


def _bytes(numbers: Tensor) -> bytes:
    return numbers.numpy().tobytes()


def _by_distance(length: int, classes: int) -> list[Tensor]:
    """The numbers below `length` in classes of like distance from both ends, each in order."""
    numbers = torch.arange(length)
    near = torch.minimum(numbers, length - 1 - numbers).argsort(stable=True)
    return [part.sort().values for part in near.tensor_split(classes) if len(part)]


class _Layer:
    """A layer's pixels, as rows of channels: of the states, and of what branches off from them.

    Of each state first come two that stand for what is outside.

    Attributes:
        height: Of the layer.
        width: Of the layer.
        new: The number of the first pixel that alternatives computed.
        device: Where the pixels are.
    """

    def __init__(self, shape: tuple[int, ...], like: Tensor, states: int, new: int) -> None:
        channels, self.height, self.width = shape
        self._each, self._most = _OUTSIDE + self.height * self.width, states
        self.new, self.device = states * self._each, like.device
        self._pixels = like.new_empty(self.new + new, channels)
        self._states = self._pixels[: self.new].view(states, self._each, channels)
        self._states[:, 0], self._states[:, 1] = 0, -torch.inf

    def begin(self, whole: Tensor) -> None:
        """Take the outputs (B, C, H, W) of states."""
        if len(whole) > self._most:
            raise ValueError(f"{len(whole)} states, but memory is reserved for {self._most}")
        self._states[: len(whole), _OUTSIDE:] = whole.permute(0, 2, 3, 1).flatten(1, 2)

    def first_of(self, states: Tensor) -> Tensor:
        """The number of the first pixel of each state."""
        return states * self._each + _OUTSIDE

    def read(self, numbers: Tensor) -> Tensor:
        """Windows (S, C, h, w), of the pixels with these numbers (S, h, w)."""
        return as_images(self._pixels, numbers.flatten(1), numbers.shape[1])

    def write(self, patches: Tensor) -> None:
        """Keep what the alternatives computed, (S, C, h, w)."""
        pixels = as_pixels(patches)
        self._pixels[self.new : self.new + len(pixels)] = pixels
