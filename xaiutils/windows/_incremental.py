"""Follow inputs that change step by step: each step recomputes its window and keeps the rest."""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor

from xaiutils.windows._passing import hand_over
from xaiutils.windows._pixels import as_images, as_pixels
from xaiutils.windows._plan import Places, Window, Windows, chosen


class Incremental:
    """The network's outputs for inputs that change step by step, in one rectangle at each step.

    An input turns from x into y, each pixel at a step of its own. Layer by layer, the windows of
    many steps are computed at once: what a window reads lies in the layer below, where all these
    steps are known by then. No pixel of a layer is held twice; each step knows where the latest
    value of every pixel stands. The memory is reserved once.
    """

    def __init__(self, plan: Windows, x: Tensor, batch: int, steps: int) -> None:
        """Reserve memory for at most so many inputs like those in `x` and steps at a time."""
        self._plan, self._most = plan, (batch, steps)
        self._memory = {i: _Memory(plan.windows[i], x, batch, steps) for i in plan.kept if i}
        places = sum(memory.places for memory in self._memory.values())
        self._reserved = torch.empty(steps * batch * places, dtype=torch.int32, device=x.device)

    def restart(self, x: Tensor, y: Tensor, when: Tensor) -> None:
        """Go back to the start, with other inputs.

        Args:
            x: The inputs before the first step, (B, C, H, W).
            y: What they turn into, likewise.
            when: The step, counted from 0, at which each pixel is y and no longer x, (B, H, W).

        Raises:
            ValueError: There are more inputs than memory was reserved for.
        """
        self._check(0, len(x), "inputs")
        hand_over(self._plan.graph, x, {i: memory.begin for i, memory in self._memory.items()})
        self._inputs = _Inputs(x, y, when)

    @torch.no_grad()
    def update(self, rows: Tensor, columns: Tensor) -> Tensor:
        """Return the outputs (S * B, ...) at the next S steps.

        Args:
            rows: In which of the plan's spans of rows the pixels of each step lie, (S, B) int64 on
                the CPU.
            columns: The same for columns.

        Raises:
            ValueError: There are more steps than memory was reserved for.
        """
        self._check(1, len(rows), "steps")
        spans = rows.flatten(), columns.flatten()
        self._inputs.advance(len(rows))
        self._locate(len(rows), spans)
        layers: dict[int, _Inputs | _Memory] = {0: self._inputs, **self._memory}
        patches: dict[int, Tensor] = {}
        for index, window in self._plan.windows.items():
            places = chosen(window.reads, spans)
            inputs = [
                patches[source] if source in window.direct else layers[source].read(places)
                for source in window.node.inputs
            ]
            patches[index] = window.compute(inputs)
            if index in self._memory:
                self._memory[index].write(patches[index])
            self._plan.forget(patches, index)
        known = {index: layers[index].outputs() for index in self._plan.frontier}
        return self._plan.graph.complete(known)

    def _check(self, side: int, number: int, what: str) -> None:
        if number > self._most[side]:
            raise ValueError(f"{number} {what}, but memory is reserved for {self._most[side]}")

    def _locate(self, steps: int, spans: Places) -> None:
        """Find where every layer has the latest value of each pixel, at each of the next steps."""
        sizes = [memory.advance() for memory in self._memory.values()]
        latest = self._reserved[: steps * sum(sizes)].view(steps, -1)
        parts = torch.split(latest, sizes, dim=1)
        for (index, memory), part in zip(self._memory.items(), parts, strict=True):
            memory.locate(part, chosen(self._plan.windows[index].writes, spans))
        for before, after in pairwise(latest.unbind()):
            torch.maximum(before, after, out=after)


def _flat(places: Places, grid: Tensor) -> Tensor:
    """Places (N, h * w) in a grid (..., H + 2, W + 2), counted row by row."""
    rows, columns = (of_side.to(grid.device) for of_side in places)
    return (rows[:, :, None] * grid.shape[-1] + columns[:, None, :]).flatten(1)


def _framed(images: Tensor, zero: float = 0.0, infinity: float = -torch.inf) -> Tensor:
    """Images with two more rows and columns for what is outside: of zeros, then of -infinity."""
    return F.pad(F.pad(images, (0, 1, 0, 1), value=zero), (0, 1, 0, 1), value=infinity)


class _Inputs:
    """The inputs at some steps, from what they turn into and when."""

    def __init__(self, x: Tensor, y: Tensor, when: Tensor) -> None:
        self._before, self._after = _framed(x), _framed(y)
        self._when = _framed(when[:, None], infinity=0)
        self._steps = torch.arange(0)

    def advance(self, steps: int) -> None:
        """Go on to so many steps more."""
        first = int(self._steps[-1]) + 1 if len(self._steps) else 0
        self._steps = torch.arange(first, first + steps, device=self._when.device)

    def read(self, places: Places) -> Tensor:
        """A window at each step, (S * B, C, h, w)."""
        where = _flat(places, self._when).view(len(self._steps), len(self._when), 1, -1)
        due = _picked(self._when, where) <= self._steps[:, None, None, None]
        found = torch.where(due, _picked(self._after, where), _picked(self._before, where))
        return found.flatten(0, 1).view(len(places[0]), -1, places[0].shape[1], places[1].shape[1])

    def outputs(self) -> Tensor:
        """All of the inputs at each step, (S * B, C, H, W)."""
        due = self._when <= self._steps[:, None, None, None, None]
        return torch.where(due, self._after, self._before)[..., :-2, :-2].flatten(0, 1)


def _picked(images: Tensor, where: Tensor) -> Tensor:
    """Pixels of images (B, C, H, W) at places (S, B, 1, P): (S, B, C, P)."""
    pixels = images.flatten(2).expand(len(where), -1, -1, -1)
    return pixels.gather(3, where.expand(-1, -1, pixels.shape[2], -1))


class _Memory:
    """The outputs of a node at each step: pixels, and for each step the number of each pixel.

    First come two that stand for what is outside, then the pixels as they were before these steps,
    then what each step computed anew, so that of a pixel's values the latest has the highest
    number.
    """

    def __init__(self, window: Window, like: Tensor, batch: int, steps: int) -> None:
        channels, height, width = window.node.shape
        rows, columns = (side.size for side in window.sides)
        self.places = (height + 2) * (width + 2)  # of each input: see `_framed`
        pixels = 2 + batch * (height * width + steps * rows * columns)
        self._pixels = like.new_zeros(pixels, channels)
        self._pixels[1] = -torch.inf
        self._numbers = torch.arange(pixels, dtype=torch.int32, device=like.device)

    def begin(self, whole: Tensor) -> None:
        """Take the outputs (B, C, H, W) before the first step."""
        pixels = as_pixels(whole)
        self._first_new = 2 + len(pixels)
        self._pixels[2 : self._first_new] = pixels
        settled = self._numbers[2 : self._first_new].view(len(whole), *whole.shape[2:])
        self._settled = _framed(settled, zero=0, infinity=1)  # (B, H + 2, W + 2)
        self._latest = self._settled[None]  # (S, B, H + 2, W + 2)

    def advance(self) -> int:
        """Go on from the last of the steps so far; return how many places there are."""
        last = self._latest[-1, :, :-2, :-2].flatten()
        self._pixels[2 : self._first_new] = self._pixels.index_select(0, last)
        return self._settled.numel()

    def locate(self, latest: Tensor, places: Places) -> None:
        """Note in `latest` (S, B * places) what each of the next steps will compute anew."""
        self._latest = latest.view(-1, *self._settled.shape)
        self._latest.copy_(self._settled)
        where = self._where(places)
        self._new = slice(self._first_new, self._first_new + where.numel())
        numbers = self._numbers[self._new].view(where.shape)
        self._latest.flatten(2).scatter_(2, where, numbers)

    def write(self, patch: Tensor) -> None:
        """Keep what the steps computed, (S * B, C, h, w)."""
        self._pixels[self._new] = as_pixels(patch)

    def read(self, places: Places) -> Tensor:
        """A window at each step, (S * B, C, h, w)."""
        numbers = self._latest.flatten(2).gather(2, self._where(places))
        return self._images(numbers.flatten(0, 1), places[0].shape[1])

    def outputs(self) -> Tensor:
        """All outputs at each step, (S * B, C, H, W)."""
        inside = self._latest[..., :-2, :-2].flatten(0, 1)
        return self._images(inside, inside.shape[1])

    def _where(self, places: Places) -> Tensor:
        """Places of `_latest`, (S, B, h * w)."""
        return _flat(places, self._latest).view(*self._latest.shape[:2], -1)

    def _images(self, numbers: Tensor, height: int) -> Tensor:
        return as_images(self._pixels, numbers, height)
