"""Run the network on all perturbed pictures: one list of jobs, cut into batches of fixed size.

A curve is one image, one repetition and one order; a job is one step of a curve. There are two ways
to cut them. *Whole pictures*: the jobs of all curves stand in one row, a batch takes the next
pictures of the row, whichever curves they belong to, and they are written into the same memory
again and again. *Windows*: a batch takes consecutive steps of some curves, and since each picture
differs from the one before in one region, the early layers are recomputed around it only.

Either way the network runs as a traced graph with BatchNorm folded, if it can be traced.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from itertools import groupby, islice
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from xaiutils import graph
from xaiutils.attribution import Target
from xaiutils.attribution._common import resolve_target
from xaiutils.evaluation._pictures import Draws, Perturbation, Replacement, replaced
from xaiutils.windows import WORTHWHILE, Incremental, Windows, in_question, pictures_at_once

OutputName = Literal["logit", "probability"]
Output = OutputName | Callable[[Tensor, Tensor], Tensor]

Network = nn.Module | graph.Graph

OUTPUTS: tuple[OutputName, ...] = ("logit", "probability")
_LARGEST_WINDOWED_BATCH = 1024  # a window of a small image is little work: many are needed
_SLACK = 10  # times the root of the rounding error: 0.003 in float32, for two ways of computing


class _Curve(NamedTuple):
    image: int
    repeat: int
    way: int


class _Jobs(NamedTuple):
    """All perturbed pictures: `steps` for each curve, in the order of the curves."""

    draws: Draws
    ways: Sequence[Perturbation]
    curves: Sequence[_Curve]
    steps: int
    targets: Tensor  # (N,) which outputs are watched


@dataclass(frozen=True)
class Runner:
    """How pictures become scores.

    Attributes:
        model: The network, in evaluation mode.
        target: The classes that are watched; see `region_perturbation`.
        output: What is read from the network's outputs; likewise.
        batch_size: Pictures per forward pass; None chooses by the size of the images.
        progress: Show a progress bar.
        windowed: Whether to recompute windows only; None where that is estimated to pay.
    """

    model: nn.Module
    target: Target
    output: Output
    batch_size: int | None = None
    progress: bool = False
    windowed: bool | None = None

    def run(self, draws: Draws, ways: Sequence[Perturbation], steps: int, repeats: int) -> Tensor:
        """Scores of every picture.

        Args:
            draws: The images and what is drawn for them.
            ways: The orders in which the regions are replaced.
            steps: L, how many regions are replaced.
            repeats: How often everything random is drawn.

        Returns:
            (len(ways), N, repeats, L + 1) float32 on the CPU; [..., 0] is the unperturbed output.

        Raises:
            FloatingPointError: An output is NaN or infinite.
        """
        curves = _curves(ways, len(draws.x), repeats)
        with torch.no_grad(), _full_precision():
            start, targets, outputs = self._unperturbed(draws.x)
            jobs = _Jobs(draws, ways, curves, steps, targets)
            plain = isinstance(outputs, Tensor)  # else only the callable knows what to do with it
            network = _folded(self.model, draws.x) if plain else self.model
            _check_start(network, draws.x, outputs)
            plan = self._window_plan(network, jobs)
            with tqdm(total=len(curves) * steps, unit="pictures", disable=not self.progress) as bar:
                if plan is None:
                    rows = self._whole_pictures(network, jobs, bar)
                else:
                    rows = self._windows(plan, jobs, bar)
        scores = torch.empty(len(ways), len(draws.x), repeats, steps + 1)
        scores[..., 0] = start[:, None]
        for curve, row in zip(curves, rows, strict=True):
            # Later repetitions overwrite this, unless they would only repeat it and were not run.
            scores[curve.way, curve.image, curve.repeat :, 1:] = row
        _check_finite(scores)
        return scores

    def _unperturbed(self, x: Tensor) -> tuple[Tensor, Tensor, Any]:
        """Scores (N,) of the images as they are, and the position of each target in the output.

        By the user's own network, so that what is wrong with it comes to light. And the network's
        outputs for the first batch.
        """
        targets = torch.zeros(len(x), dtype=torch.int64, device=x.device)
        found: list[Tensor] = []
        first = x  # if there is no image; but then there is nothing to compare
        for numbers in torch.split(torch.arange(len(x), device=x.device), self._size(x)):
            outputs = self._outputs(self.model, x[numbers])
            first = first if found else outputs
            if not callable(self.output):
                targets[numbers] = self._targets(outputs, numbers, len(x))
            found.append(self._read(outputs, numbers, targets))
        return torch.cat(found).cpu(), targets, first

    def _outputs(self, network: Network, x: Tensor) -> Any:
        """What the network returns: one tensor, or whatever a callable `output` takes."""
        if isinstance(network, graph.Graph) or callable(self.output):
            return network(x)
        return graph.outputs_of(network, x)

    def _targets(self, outputs: Tensor, numbers: Tensor, images: int) -> Tensor:
        if self.output == "probability" and outputs.ndim != 2:
            raise ValueError(
                f"output='probability' needs class scores (N, K), not {tuple(outputs.shape)}; "
                "give a callable"
            )
        if self.target is None:
            return resolve_target(None, outputs)
        everything = outputs.new_empty(1).expand(images, *outputs.shape[1:])
        return resolve_target(self.target, everything)[numbers]

    def _window_plan(self, network: Network, jobs: _Jobs) -> Windows | None:
        """How to recompute windows only, or None if whole pictures are better."""
        if not in_question(self.windowed, jobs.draws.x):
            return None
        if jobs.draws.sees_mask:
            if self.windowed:
                raise ValueError(
                    "windowed=True needs a fill that stays as it is from step to step; this one "
                    "sees the mask, so leave windowed=None"
                )
            return None
        if not isinstance(network, graph.Graph):
            if self.windowed:
                raise ValueError(
                    "windowed=True needs a network that can be traced (graph.trace says why this "
                    "one cannot); leave windowed=None"
                )
            return None
        regions = jobs.draws.regions
        plan = Windows(network, regions.row_spans, regions.column_spans)
        batch = min(len(jobs.curves) * jobs.steps, self._windowed_size(jobs.draws.x))
        return plan if self.windowed or plan.saving(batch, jobs.steps) >= WORTHWHILE else None

    def _whole_pictures(self, network: Network, jobs: _Jobs, bar: tqdm[Any]) -> Tensor:
        """Scores of the perturbed pictures, (len(curves), steps)."""
        x, steps = jobs.draws.x, jobs.steps
        images = torch.tensor([curve.image for curve in jobs.curves], device=x.device)
        numbers = images.repeat_interleave(steps)
        rows = torch.empty(len(numbers), device=x.device)
        done = 0
        for pictures in _batches(jobs, self._size(x), _memory_format(network, x)):
            part = slice(done, done + len(pictures))
            outputs = self._outputs(network, pictures)
            rows[part] = self._read(outputs, numbers[part], jobs.targets)
            done += len(pictures)
            bar.update(len(pictures))
        return rows.view(-1, steps).cpu()

    def _windows(self, plan: Windows, jobs: _Jobs, bar: tqdm[Any]) -> Tensor:
        """The same scores, what a step leaves as it was being kept from the step before."""
        x, columns = jobs.draws.x, jobs.draws.regions.columns
        size = self._windowed_size(x)
        rows = torch.empty(jobs.steps, len(jobs.curves), device=x.device)
        groups = _parts(len(jobs.curves), max(1, size // jobs.steps))
        parts = _parts(jobs.steps, max(1, size // groups[0].stop))
        state = Incremental(plan, x, groups[0].stop, parts[0].stop)
        drawn = _drawn(jobs)
        for group in groups:
            together = zip(*islice(drawn, group.stop - group.start), strict=True)
            images, before, after, ranks, order = (torch.stack(each) for each in together)
            state.restart(before, after, ranks)
            for part in parts:
                regions = order[:, part].T
                outputs = state.update(regions // columns, regions % columns)
                numbers = images.repeat(len(regions)).to(x.device)
                found = self._read(outputs, numbers, jobs.targets)
                rows[part, group] = found.view(regions.shape)
                bar.update(len(outputs))
        return rows.T.cpu()

    def _read(self, outputs: Tensor, numbers: Tensor, targets: Tensor) -> Tensor:
        """One score for each picture: (B,) float32."""
        if callable(self.output):
            scores = self.output(outputs, numbers)
            if not isinstance(scores, Tensor) or scores.shape != numbers.shape:
                shape = tuple(scores.shape) if isinstance(scores, Tensor) else type(scores).__name__
                raise ValueError(f"output must return scores ({len(numbers)},), not {shape}")
            return scores.detach().float()
        scores = outputs.softmax(dim=1) if self.output == "probability" else outputs
        flat = scores.reshape(len(scores), -1)  # one number for each image stands alone
        return flat.gather(1, targets[numbers, None])[:, 0].float()

    def _size(self, x: Tensor) -> int:
        return self.batch_size or pictures_at_once(x)

    def _windowed_size(self, x: Tensor) -> int:
        return self.batch_size or pictures_at_once(x, _LARGEST_WINDOWED_BATCH)


class _Drawn(NamedTuple):
    """A curve: an image, what replaces its regions, and when."""

    image: Tensor  # (), its number
    picture: Tensor  # (C, H, W)
    replacement: Replacement  # (C, H, W), or what gives it where the fill sees the mask
    ranks: Tensor  # (H, W) at which place each pixel is replaced
    order: Tensor  # (count,) the regions in their order, on the CPU

    def write(self, steps: slice, out: Tensor) -> None:
        """Write the pictures after these steps, the first being number 0, to `out`."""
        numbers = torch.arange(steps.start + 1, steps.stop + 1)
        replaced(self.picture, self.replacement, self.ranks, numbers, out=out)


def _drawn(jobs: _Jobs) -> Iterator[_Drawn]:
    """One curve after another; those of one image and repetition share what is drawn."""
    for (image, repeat), curves in groupby(jobs.curves, key=lambda curve: curve[:2]):
        replacement = jobs.draws.replacer(image, repeat)
        for curve in curves:
            way = jobs.ways[curve.way]
            ranks, order = way.pixel_ranks(image, repeat), way.region_order(image, repeat)
            yield _Drawn(torch.tensor(image), jobs.draws.x[image], replacement, ranks, order)


def _parts(length: int, most: int) -> list[slice]:
    """Cut a length into equal parts of at most so many; the last one may be smaller."""
    size = math.ceil(length / math.ceil(length / most))
    return [slice(start, min(start + size, length)) for start in range(0, length, size)]


def _folded(model: nn.Module, x: Tensor) -> Network:
    """The traced network, which is faster where it has BatchNorm; or the model as it is."""
    try:
        return graph.trace(model, x[:1])
    except (graph.UnsupportedOperation, graph.TraceError):
        return model


def _check_start(network: Network, x: Tensor, wanted: Tensor) -> None:
    """Hold the traced network, which scores the steps, against the user's own at step 0.

    By its outputs and not by the scores: a callable `output` is called for scores alone.
    """
    if not isinstance(network, graph.Graph):
        return
    found = network(x[: len(wanted)])
    apart = (found - wanted).abs().flatten()
    slack = _SLACK * torch.finfo(found.dtype).eps ** 0.5 * (1 + wanted.abs().max())
    worst = int(apart.argmax())
    if not bool(apart[worst] <= slack) and bool(wanted.isfinite().all()):
        image = worst // wanted[0].numel()
        raise graph.TraceError(
            f"for image {image} the traced network gives {found.flatten()[worst]:.6g} and the "
            f"model {wanted.flatten()[worst]:.6g}: does it draw at random, or keep something "
            "between calls?"
        )


def _curves(ways: Sequence[Perturbation], images: int, repeats: int) -> list[_Curve]:
    """All curves that differ, those with the same replacement side by side."""
    return [
        _Curve(image, repeat, way)
        for image in range(images)
        for repeat in range(repeats)
        for way, perturbation in enumerate(ways)
        if repeat == 0 or perturbation.is_random(image)
    ]


def _batches(jobs: _Jobs, size: int, memory_format: torch.memory_format) -> Iterator[Tensor]:
    """The pictures of all jobs, `size` at a time, in one buffer that is overwritten each time."""
    draws, steps = jobs.draws, jobs.steps
    shape = (size, *draws.x.shape[1:])
    buffer = torch.empty(
        shape, dtype=draws.x.dtype, device=draws.x.device, memory_format=memory_format
    )
    filled = 0
    for curve in _drawn(jobs):
        done = 0
        while done < steps:
            taken = min(steps - done, size - filled)
            curve.write(slice(done, done + taken), out=buffer[filled : filled + taken])
            done, filled = done + taken, filled + taken
            if filled == size:
                yield buffer
                filled = 0
    if filled:
        yield buffer[:filled]


def _memory_format(network: Network, x: Tensor) -> torch.memory_format:
    """The memory format of pictures that suits the network and the device.

    CPUs run convolutions and poolings faster in channels_last: by a factor of two on squeezenet1_1
    and of three to four on the digit classifier, by measurement. A network that flattens its
    features with ``view`` cannot take it. Elsewhere the format of the network's own filters, or
    they would be converted at every call.
    """
    if x.device.type != "cpu":
        filters = _filters(network)
        last = all(w.is_contiguous(memory_format=torch.channels_last) for w in filters)
        return torch.channels_last if filters and last else torch.contiguous_format
    try:
        network(torch.empty_like(x[:1], memory_format=torch.channels_last).copy_(x[:1]))
    except RuntimeError:
        return torch.contiguous_format
    return torch.channels_last


def _filters(network: Network) -> list[Tensor]:
    if isinstance(network, nn.Module):
        return [weight for weight in network.parameters() if weight.ndim == 4]
    operations = [node.operation for node in network.nodes]
    return [o.weight for o in operations if isinstance(o, graph.Convolution)]


def _full_precision() -> AbstractContextManager[None]:
    """Convolutions in float32 as they are on the CPU, also where the device would round inputs."""
    return torch.backends.cudnn.flags(
        enabled=torch.backends.cudnn.enabled, deterministic=True, allow_tf32=False
    )


def _check_finite(scores: Tensor) -> None:
    broken = (~scores.isfinite()).nonzero()
    if len(broken):
        _, image, repeat, step = broken[0].tolist()
        raise FloatingPointError(
            f"{len(broken)} of {scores.numel()} outputs are NaN or infinite, the first of image "
            f"{image} at step {step} of repetition {repeat}; check the model and the fill's range"
        )
