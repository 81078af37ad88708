"""The scores that a perturbation explorer shows, and the thread in which they are computed."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from xaiutils.evaluation import Output, Regions, region_perturbation
from xaiutils.models import Preprocess
from xaiutils.widgets._common import pack
from xaiutils.widgets._pictures import PageFill, lots, without_ties

Answer = dict[str, Any]
Watch = Callable[[int], None]

RANDOM = "random order"
"""Stands in the place of a method where the regions go by lot."""

EXPLAINED = ("class", "margin")
"""What heatmaps explain and curves watch: a class's output, or that less the runner-up's."""

_TOP = 5


class Cancelled(Exception):  # noqa: N818 - it is no error
    """Somebody asked for something else meanwhile."""


@dataclass
class _Reader:
    """The `output` of region_perturbation: reads the score and keeps the most probable classes."""

    target: int
    rival: int | None
    output: str
    watch: Watch
    found: list[tuple[Tensor, Tensor]] = field(default_factory=list)

    def __call__(self, outputs: Tensor, numbers: Tensor) -> Tensor:
        self.watch(len(outputs))
        probabilities = outputs.softmax(dim=1)
        top = probabilities.topk(min(_TOP, outputs.shape[1]))
        self.found.append((top.indices.cpu(), top.values.cpu()))
        values = probabilities if self.output == "probability" else outputs
        own = values[:, self.target]
        return own if self.rival is None else own - values[:, self.rival]

    def top(self) -> tuple[Tensor, Tensor]:
        """Classes and probabilities, each (pictures, 5), of the pictures in their order."""
        indices, values = zip(*self.found, strict=True)
        return torch.cat(indices), torch.cat(values)


@dataclass(frozen=True, eq=False)
class Scorer:
    """Answers to what can be asked about some images.

    Attributes:
        module: The network, in evaluation mode.
        preprocess: Its preprocessing.
        x: The images, (N, C, H, W), of 256 levels each.
        targets: The class that is watched in each image.
        rivals: The runner-up in each image; empty if the network has one output only.
        heatmaps: By what is explained (`EXPLAINED`) and by method, (N, H, W).
        steps: How many regions are replaced at most.
        output: "logit" or "probability".
        seed: Of noise and lots.
    """

    module: nn.Module
    preprocess: Preprocess
    x: Tensor
    targets: tuple[int, ...]
    rivals: tuple[int, ...]
    heatmaps: Mapping[str, Mapping[str, Tensor]]
    steps: int
    output: str
    seed: int

    def regions(self, size: int) -> Regions:
        """How the images are cut into regions of this many pixels a side."""
        return Regions(self.x.shape[2], self.x.shape[3], size)

    def curves(
        self,
        image: int,
        order: str,
        fill: str,
        size: int,
        watch: Watch,
        explained: str = "class",
    ) -> Answer:
        """Perturb one image in the order of every method, or by lot.

        Args:
            image: Its number.
            order: "morf", "lerf" or "random". Regions of equal score go by the same lot as
                "random", which the page draws too.
            fill: One of `PAGE_FILLS`.
            size: Of a region, in pixels.
            watch: Told how many more pictures were scored; whatever it raises ends the job.
            explained: One of `EXPLAINED`; its maps give the order, and its value is the score.

        Returns:
            For M methods and L steps, packed: `order` (M, L), the numbers of the regions; `scores`
            (M, L + 1); `classes` and `probabilities` (M, L + 1, 5), the most probable first. And
            the names of the `methods`.
        """
        regions = self.regions(size)
        if order == "random":
            maps = {RANDOM: lots(regions, self.seed)[None]}
        else:
            shown = self.heatmaps[explained]
            found = {name: one[image : image + 1] for name, one in shown.items()}
            maps = {name: without_ties(one, regions, self.seed) for name, one in found.items()}
        steps = min(self.steps, regions.count)
        direction = "lerf" if order == "lerf" else "morf"
        reader = self._reader(image, watch, explained)
        curves = self._perturb(image, maps, fill, size, steps, direction, reader)
        sequences = [one.perturbation.region_order(0, 0)[:steps] for one in curves.values()]
        return {
            "methods": list(maps),
            "order": pack(torch.stack(sequences)),
            "scores": pack(torch.stack([one.scores[0, 0] for one in curves.values()])),
            **_packed_top(reader, len(maps), steps),
        }

    def alone(
        self, image: int, fill: str, size: int, watch: Watch, explained: str = "class"
    ) -> Answer:
        """Perturb each region of one image by itself.

        Returns:
            For R regions, packed: `scores` (R,), `classes` and `probabilities` (R, 5).
        """
        index = self.regions(size).index
        maps = {str(region): (index == region)[None] for region in range(int(index.max()) + 1)}
        reader = self._reader(image, watch, explained)
        curves = self._perturb(image, maps, fill, size, 1, "morf", reader)
        classes, probabilities = (part[1:] for part in reader.top())
        return {
            "scores": pack(torch.stack([one.scores[0, 0, 1] for one in curves.values()])),
            "classes": pack(classes),
            "probabilities": pack(probabilities),
        }

    def together(
        self,
        image: int,
        fill: str,
        size: int,
        chosen: Sequence[int],
        watch: Watch,
        explained: str = "class",
    ) -> Answer:
        """Perturb some regions of one image at once: one score, five classes."""
        x = self.x[image : image + 1]
        gone = torch.isin(self.regions(size).index, torch.as_tensor(list(chosen)))
        picture = torch.where(gone.to(x.device), self._fill(fill)(x.cpu()).to(x), x)
        reader = self._reader(image, watch, explained)
        with torch.no_grad():
            score = reader(self.module(picture), torch.zeros(1))
        classes, probabilities = reader.top()
        return {
            "scores": pack(score.cpu()),
            "classes": pack(classes),
            "probabilities": pack(probabilities),
        }

    def _reader(self, image: int, watch: Watch, explained: str) -> _Reader:
        rival = self.rivals[image] if explained == "margin" else None
        return _Reader(self.targets[image], rival, self.output, watch)

    def _fill(self, name: str) -> PageFill:
        return PageFill(name, self.preprocess, self.seed)

    def _perturb(
        self,
        image: int,
        maps: Mapping[str, Tensor],
        fill: str,
        size: int,
        steps: int,
        order: Any,
        output: Output,
    ) -> dict[str, Any]:
        """One image: its pictures reach `output` untouched first, then curve by curve."""
        return region_perturbation(
            self.module,
            self.x[image : image + 1],
            self.targets[image],
            maps,
            size,
            steps,
            order,
            self._fill(fill),
            repeats=1,
            output=output,
            windowed=False,  # windows would mix the curves, and `output` must know their order
        )


def _packed_top(reader: _Reader, methods: int, steps: int) -> Answer:
    """The most probable classes of each step of each curve, that of no step first."""
    packed = {}
    for name, found in zip(("classes", "probabilities"), reader.top(), strict=True):
        start = found[:1].expand(methods, 1, -1)
        packed[name] = pack(torch.cat([start, found[1:].view(methods, steps, -1)], dim=1))
    return packed


_turn = (
    threading.Lock()
)  # of the jobs: tracing a network (torch.export) bears no other work beside it
_PAUSE = 0.001  # seconds in which another job may take its turn


class Background:
    """One job at a time, in a thread of its own; a new one cancels the one before.

    Jobs of several `Background` take turns: each lets the others in whenever it calls its check.
    """

    def __init__(self) -> None:
        self._cancelled = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self, job: Callable[[Callable[[], None]], None]) -> None:
        """Run ``job(check)``; it calls ``check``, which raises `Cancelled` when it should end."""
        self.cancel()
        cancelled = self._cancelled = threading.Event()

        def check() -> None:
            _turn.release()
            time.sleep(_PAUSE)
            _turn.acquire()
            if cancelled.is_set():
                raise Cancelled

        def run() -> None:
            with _turn:
                job(check)

        self._thread = threading.Thread(target=run, daemon=True)
        self._thread.start()

    def cancel(self) -> None:
        """Let the running job end at its next picture."""
        self._cancelled.set()

    def join(self) -> None:
        """Wait until the job has ended."""
        if self._thread is not None:
            self._thread.join()
