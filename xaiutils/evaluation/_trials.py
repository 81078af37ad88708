"""Scores of many pictures that each differ in one region from a picture that is known.

What `region_occlusion` and `search` ask of a network: all regions tried from one state. A state is
an image with some of its regions replaced, in one repetition of the draws.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from xaiutils import graph
from xaiutils.evaluation._jobs import (
    Network,
    Runner,
    _check_start,
    _folded,
    _full_precision,
    _memory_format,
)
from xaiutils.evaluation._pictures import Draws, Replacement
from xaiutils.windows import WORTHWHILE, Branches, in_question, only_classes

_LARGEST_BATCH = 64  # windows of one size; more would not fit into the cache


@dataclass(frozen=True, eq=False)
class States:
    """Images with some regions replaced.

    Attributes:
        images: Their numbers, B of them.
        replacements: What replaces their regions, B times.
        gone: Which regions are replaced, (B, count) bool, on the CPU.
    """

    images: Sequence[int]
    replacements: Sequence[Replacement]
    gone: Tensor

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, part: slice) -> States:
        return States(self.images[part], self.replacements[part], self.gone[part])


class Trials:
    """A network that is asked for the scores of alternatives; see the module.

    Attributes:
        start: The scores (N,) of the images as they are, float32 on the CPU.
        most: How many states are held at a time.
    """

    def __init__(self, runner: Runner, draws: Draws, states: int) -> None:
        """Run the images as they are, and reserve memory for so many states at a time.

        Raises:
            ValueError: The runner insists on windows, and there can be none.
            FloatingPointError: An output is NaN or infinite.
        """
        self._runner, self._draws = runner, draws
        with torch.no_grad(), _full_precision():
            self.start, self._targets, outputs = runner._unperturbed(draws.x)
            self._network: Network = runner.model
            if isinstance(outputs, Tensor):
                self._network = _folded(runner.model, draws.x)
                _check_start(self._network, draws.x, outputs)
            if isinstance(self._network, graph.Graph) and runner.output == "logit":
                classes, places = torch.unique(self._targets, return_inverse=True)
                if (fewer := only_classes(self._network, classes)) is not None:
                    self._network, self._targets = fewer, places
            check_finite(self.start, torch.arange(len(self.start)))
        self.most = max(1, min(states, -(-self._batch // draws.regions.count)))
        self._branches = self._windows()

    @cached_property
    def _batch(self) -> int:
        runner = self._runner
        size = runner._windowed_size(self._draws.x)
        return size if runner.batch_size is not None else max(size, _LARGEST_BATCH)

    @torch.no_grad()
    def scores(self, states: States, which: Tensor, regions: Tensor) -> Tensor:
        """Scores (S,) of alternatives, float32 on the CPU.

        Args:
            states: From what they branch off, B of them.
            which: From which of them each does, (S,) int64, rising.
            regions: The region that is replaced in it, (S,).

        Raises:
            FloatingPointError: An output is NaN or infinite.
        """
        found = torch.empty(len(which))
        with _full_precision():
            if self._branches is None:
                self._whole(states, which, regions, found)
            else:
                self._windowed(self._branches, states, which, regions, found)
        check_finite(found, torch.tensor(states.images)[which])
        return found

    def _windows(self) -> Branches | None:
        runner, draws = self._runner, self._draws
        if not in_question(runner.windowed, draws.x):
            return None
        if draws.sees_mask or not isinstance(self._network, graph.Graph):
            if runner.windowed:
                raise ValueError(
                    "windowed=True needs a network that can be traced (graph.trace says why one "
                    "cannot), and a fill that stays as it is whatever is gone; leave windowed=None"
                )
            return None
        regions = draws.regions
        branches = Branches(
            self._network,
            regions.row_spans,
            regions.column_spans,
            draws.x,
            self.most,
            min(self._batch, self.most * regions.count),
        )
        return branches if runner.windowed or branches.saving() >= WORTHWHILE else None

    def _windowed(
        self, branches: Branches, states: States, which: Tensor, regions: Tensor, found: Tensor
    ) -> None:
        for first in range(0, len(states), self.most):
            part = states[first : first + self.most]
            replacements = torch.stack([r for r in part.replacements if isinstance(r, Tensor)])
            x = self._draws.x[list(part.images)]
            branches.begin(torch.where(self._pixels(part.gone), replacements, x), replacements)
            mine = ((which >= first) & (which < first + len(part))).nonzero()[:, 0]
            numbers = torch.tensor(part.images)[which[mine] - first].to(x.device)
            for places, outputs in branches.outputs(which[mine] - first, regions[mine]):
                scores = self._runner._read(outputs, numbers[places], self._targets)
                found[mine[places]] = scores.cpu()

    def _whole(self, states: States, which: Tensor, regions: Tensor, found: Tensor) -> None:
        x, size = self._draws.x, self._runner._size(self._draws.x)
        memory_format = _memory_format(self._network, x)
        for first in range(0, len(which), size):
            part = slice(first, first + size)
            gone = states.gone[which[part]]
            gone[torch.arange(len(gone)), regions[part]] = True
            pictures = self._pictures(states, which[part], self._pixels(gone))
            outputs = self._runner._outputs(
                self._network, pictures.contiguous(memory_format=memory_format)
            )
            numbers = torch.tensor(states.images)[which[part]].to(x.device)
            found[part] = self._runner._read(outputs, numbers, self._targets).cpu()

    def _pixels(self, gone: Tensor) -> Tensor:
        """Which pixels are gone, (B, 1, H, W), if these regions are, (B, count)."""
        rim = torch.zeros(len(gone), 1, dtype=torch.bool)
        return torch.cat([gone, rim], 1)[:, self._draws.regions.index][:, None].to(
            self._draws.x.device
        )

    def _pictures(self, states: States, which: Tensor, gone: Tensor) -> Tensor:
        pictures = self._draws.x[[states.images[i] for i in which.tolist()]]
        for state in sorted(set(which.tolist())):
            rows = which == state
            replacement = states.replacements[state]
            filled = replacement(gone[rows]) if callable(replacement) else replacement
            pictures[rows] = torch.where(gone[rows], filled, pictures[rows])
        return pictures


def check_finite(scores: Tensor, images: Tensor) -> None:
    """Refuse scores (S,) of these images (S,) that are not finite.

    Raises:
        FloatingPointError: Some are NaN or infinite.
    """
    broken = images[~scores.isfinite()]
    if len(broken):
        raise FloatingPointError(
            f"{len(broken)} of {len(scores)} outputs are NaN or infinite, the first of image "
            f"{int(broken[0])}; check the model and the fill's range"
        )
