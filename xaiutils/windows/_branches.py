"""Try many regions from one state: recompute only the windows in which they differ from it.

Region perturbation goes on from step to step, and `Incremental` keeps the latest value of every
pixel. Here nothing is kept: each alternative is the state with one region replaced, and the next
alternative starts from the same state again. Recomputing windows for occlusion is due to Nakandala,
Kumar and Papakonstantinou 2019, who report up to five times fewer seconds for exact results.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from xaiutils.graph.running import Graph
from xaiutils.windows._pixels import as_images, as_pixels
from xaiutils.windows._plan import Places, Side, Span, Windows, chosen

_OUTSIDE = 2  # pixels of each state that stand for what is outside: zeros, minus infinity
_MOST_CLASSES = 3  # of rows and of columns, by their distance from the border
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
        self._groups = _grouped(network, rows, columns, x.device, states, batch)
        self._group_of = torch.empty(len(rows), len(columns), dtype=torch.int64)
        for number, group in enumerate(self._groups):
            self._group_of[group.rows[:, None], group.columns] = number
        kept = frozenset[int]().union(*(group.plan.kept for group in self._groups))
        self._layers: dict[int, _Inputs | _Layer] = {
            i: _Layer(network.nodes[i].shape, x, states, batch * self._largest(i))
            for i in sorted(kept - {0})
        }
        self._layers[0] = _Inputs(network.input_shape, x, states, x[0, 0].numel() * states)

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
        record = self._network.record(x, keep=frozenset(self._layers))
        for index, layer in self._layers.items():
            layer.begin(record.value(index))
        inputs = self._layers[0]
        assert isinstance(inputs, _Inputs)
        inputs.replace_by(y)

    def outputs(self, states: Tensor, regions: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """The outputs of alternatives, a batch at a time.

        Args:
            states: The state from which each branches off, (S,) int64, on the CPU.
            regions: The region that is replaced in it, likewise.

        Yields:
            Which of the alternatives these are, (P,) int64, and their outputs (P, ...).
        """
        rows = regions.div(self._group_of.shape[1], rounding_mode="floor")
        columns = regions % self._group_of.shape[1]
        of_group = self._group_of[rows, columns]
        for number, group in enumerate(self._groups):
            for part in torch.split((of_group == number).nonzero()[:, 0], self._batch):
                if len(part):
                    spans = group.spans(rows[part], columns[part])
                    yield part, self._outputs(group, states[part], spans)

    @torch.no_grad()
    def _outputs(self, group: _Group, states: Tensor, spans: Places) -> Tensor:
        plan, patches = group.plan, dict[int, Tensor]()
        states = states.to(spans[0].device)
        self._layers[0].branch(states, group.changes(0, spans))
        for index, window in plan.windows.items():
            inputs = [
                patches.pop(source)
                if source in patches
                else self._layers[source].read(group.reads(index, source, spans))
                for source in window.node.inputs
            ]
            patch = window.compute(inputs)
            layer = self._layers.get(index) if index in plan.kept else None
            if isinstance(layer, _Layer):
                layer.branch(states, group.changes(index, spans))
                layer.write(patch)
            else:
                patches[index] = patch
        whole = {i: self._layers[i].read(group.whole(i, spans)) for i in plan.frontier}
        return plan.graph.complete(whole)

    def _largest(self, index: int) -> int:
        """How many pixels the largest window of a node has."""
        windows = [w for g in self._groups if (w := g.plan.windows.get(index)) is not None]
        return max(w.sides[0].size * w.sides[1].size for w in windows)


class _Changed(NamedTuple):
    """Where each alternative changes a layer: its first row and column, (S,), and the sizes."""

    tops: Tensor
    lefts: Tensor
    height: int
    width: int


class _Places(NamedTuple):
    """What each alternative reads of a layer, and what of that it has changed itself.

    Attributes:
        rows: (S, h) int32; those outside are numbered from the number of rows on, as in `Window`.
        columns: (S, w) likewise.
        own_rows: Which rows pass through what it changed, (S, h) bool.
        own_columns: Likewise, (S, w).
        outside: Whether any are outside.
    """

    rows: Tensor
    columns: Tensor
    own_rows: Tensor
    own_columns: Tensor
    outside: bool


class _Group:
    """Regions of one distance from the border, and the plan for them.

    Attributes:
        plan: Which nodes are computed in windows.
        rows: Which rows of regions they are, int64.
        columns: Which columns.
    """

    def __init__(
        self, plan: Windows, rows: Tensor, columns: Tensor, device: torch.device, states: int
    ) -> None:
        self.plan, self.rows, self.columns = plan, rows, columns
        self._device, self._tries = device, len(rows) * len(columns) * states
        self._changes: dict[int, _Changed] = {}
        self._reads: dict[tuple[int, int], _Places] = {}
        self._whole: dict[int, _Places] = {}

    def work(self, batch: int) -> float:
        """What it costs to try all its regions once, in whole forward passes; an estimate."""
        each = self.plan.work(min(batch, self._tries), _PER_WINDOW, _PER_WEIGHT)
        return len(self.rows) * len(self.columns) * each

    def spans(self, rows: Tensor, columns: Tensor) -> Places:
        """The places of regions in the plan's lists of spans."""
        found = torch.searchsorted(self.rows, rows), torch.searchsorted(self.columns, columns)
        return found[0].to(self._device), found[1].to(self._device)

    def changes(self, index: int, spans: Places) -> _Changed:
        """What alternatives change of a node."""
        if index not in self._changes:
            rows, columns = self._sides(index)
            tops, lefts = rows.starts.to(self._device), columns.starts.to(self._device)
            self._changes[index] = _Changed(tops, lefts, rows.size, columns.size)
        tops, lefts, *sizes = self._changes[index]
        return _Changed(tops[spans[0]], lefts[spans[1]], *sizes)

    def reads(self, index: int, source: int, spans: Places) -> _Places:
        """What the window of a node reads of one of its inputs."""
        if (index, source) not in self._reads:
            self._reads[index, source] = self._places(source, self.plan.windows[index].reads)
        return self._chosen(self._reads[index, source], spans)

    def whole(self, index: int, spans: Places) -> _Places:
        """All of a node's output."""
        if index not in self._whole:
            shape = self.plan.graph.nodes[index].shape[1:]
            lengths = (len(self.rows), len(self.columns))
            rows, columns = (
                torch.arange(length).expand(number, -1)
                for length, number in zip(shape, lengths, strict=True)
            )
            self._whole[index] = self._places(index, (rows, columns))
        return self._chosen(self._whole[index], spans)

    def _sides(self, index: int) -> tuple[Side, Side]:
        return self.plan.windows[index].sides if index else self.plan.changed

    def _places(self, source: int, read: Places) -> _Places:
        sides = self._sides(source)
        own, outside = [], False
        for side, places in zip(sides, read, strict=True):
            # A window that is wider than what changes is right too, but not where regions are read.
            first = side.starts if source else side.first
            last = first + side.size - 1 if source else side.last
            own.append((places >= first[:, None]) & (places <= last[:, None]))
            outside = outside or bool((places >= side.length).any())
        rows, columns = (places.int().to(self._device) for places in read)
        own_rows, own_columns = (inside.to(self._device) for inside in own)
        return _Places(rows, columns, own_rows, own_columns, outside)

    @staticmethod
    def _chosen(places: _Places, spans: Places) -> _Places:
        rows, columns, own_rows, own_columns, outside = places
        rows, columns = chosen((rows, columns), spans)
        own_rows, own_columns = chosen((own_rows, own_columns), spans)
        return _Places(rows, columns, own_rows, own_columns, outside)


def _grouped(
    network: Graph,
    rows: Sequence[Span],
    columns: Sequence[Span],
    device: torch.device,
    states: int,
    batch: int,
) -> list[_Group]:
    """The regions in groups: as many as make the work the least, by estimate."""
    best, least = list[_Group](), float("inf")
    for number in range(1, _MOST_CLASSES + 1):
        groups = [
            _Group(
                Windows(network, [rows[i] for i in top], [columns[i] for i in left]),
                top,
                left,
                device,
                states,
            )
            for top in _by_distance(len(rows), number)
            for left in _by_distance(len(columns), number)
        ]
        work = sum(group.work(batch) for group in groups)
        if work >= least:
            break
        best, least = groups, work
    return best


def _by_distance(length: int, classes: int) -> list[Tensor]:
    """The numbers below `length` in classes of like distance from both ends, each in order."""
    numbers = torch.arange(length)
    near = torch.minimum(numbers, length - 1 - numbers).argsort(stable=True)
    return [part.sort().values for part in near.tensor_split(classes) if len(part)]


class _Around:
    """A layer's pixels, as rows of channels: of the states, and of what branches off from them.

    Of each state first come two that stand for what is outside.
    """

    def __init__(self, shape: tuple[int, ...], like: Tensor, states: int, new: int) -> None:
        channels, self._height, self._width = shape
        self._each, self._most = _OUTSIDE + self._height * self._width, states
        self._pixels = like.new_zeros(states * self._each + new, channels)
        self._pixels[1 : states * self._each : self._each] = -torch.inf

    def begin(self, whole: Tensor) -> None:
        """Take the outputs (B, C, H, W) of states."""
        if len(whole) > self._most:
            raise ValueError(f"{len(whole)} states, but memory is reserved for {self._most}")
        self._first_new = len(whole) * self._each
        states = self._pixels[: self._first_new].view(len(whole), self._each, -1)
        states[:, _OUTSIDE:] = whole.permute(0, 2, 3, 1).flatten(1, 2)

    def _branch(self, states: Tensor, first: Tensor, width: int) -> None:
        """Go on from these states: the new pixel in row r and column c is first + r * width + c."""
        self._old, self._new, self._row = states * self._each + _OUTSIDE, first, width

    def read(self, places: _Places) -> Tensor:
        """Windows (S, C, h, w)."""
        rows, columns = places.rows, places.columns
        old = (self._old[:, None] + rows * self._width).int()[:, :, None]
        new = (self._new[:, None] + rows * self._row).int()[:, :, None]
        own = places.own_rows[:, :, None] & places.own_columns[:, None]
        numbers = torch.where(own, new, old).add_(columns[:, None])
        if places.outside:
            beyond = torch.maximum(
                (rows - self._height)[:, :, None], (columns - self._width)[:, None]
            )
            numbers = torch.where(beyond < 0, numbers, beyond)
        return as_images(self._pixels, numbers.flatten(1), numbers.shape[1])


class _Layer(_Around):
    """The outputs of a node."""

    def branch(self, states: Tensor, changed: _Changed) -> None:
        """Go on from these states, (S,), with windows at these places."""
        tops, lefts, height, width = changed
        area = height * width
        self._count = len(states) * area
        first = self._first_new + torch.arange(0, self._count, area, device=states.device)
        self._branch(states, first - tops * width - lefts, width)

    def write(self, patch: Tensor) -> None:
        """Keep what the alternatives computed, (S, C, h, w)."""
        self._pixels[self._first_new : self._first_new + self._count] = as_pixels(patch)


class _Inputs(_Around):
    """The inputs; what stands in a region that is replaced is there from the start."""

    def replace_by(self, y: Tensor) -> None:
        """Take the inputs (B, C, H, W) that replace those of the states."""
        self._pixels[self._first_new : self._first_new + y[:, 0].numel()] = as_pixels(y)

    def branch(self, states: Tensor, changed: _Changed) -> None:
        """Go on from these states, (S,); where they change is what their regions say."""
        first = self._first_new + states * (self._each - _OUTSIDE)
        self._branch(states, first, self._width)
