"""What methods share that replace parts of a picture and watch what becomes of the output.

They run many pictures of the same few images, and ask of each only the number that is explained. A
network that cannot be read is run as it is. Where one can be read, and pictures differ in one
region only, :mod:`xaiutils.windows` computes the early layers around that region alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from xaiutils import graph
from xaiutils.attribution._autograd import Differentiated, prepare_slopes
from xaiutils.attribution._baselines import Baseline, Maker, Units, makers
from xaiutils.attribution._common import (
    Explained,
    Network,
    Target,
    check_positive,
    settled,
    values_of,
)
from xaiutils.graph.outputs import Output
from xaiutils.windows import in_question, only_classes, pictures_at_once


@dataclass(frozen=True, eq=False)
class Perturbed:
    """A network, some images, and what stands in place of what is taken from them.

    Attributes:
        network: What is run; of a graph and plain targets only the outputs that are explained.
        x: The images (N, ...).
        baseline: What replaces their pixels, likewise.
        explained: What is explained of each of them.
        batch_size: How many pictures at a time; None chooses by their size.
    """

    network: graph.Graph | Differentiated
    x: Tensor
    baseline: Tensor
    explained: Explained | Tensor
    batch_size: int | None

    def size(self, largest: int | None = None, share: float = 1.0) -> int:
        """As :func:`xaiutils.windows.pictures_at_once`, unless the user says it."""
        return self.batch_size or pictures_at_once(self.x, largest, share)

    def read(self, outputs: Tensor, numbers: Tensor) -> Tensor:
        """Return what is explained (P,), from outputs of pictures of the images `numbers` (P,).

        In float64 on the CPU, where differences are taken and means are built.

        Raises:
            ValueError: If one is not finite.
        """
        found = values_of(self.explained[numbers.to(self.x.device)], outputs).double().cpu()
        if not bool(torch.isfinite(found).all()):
            image = int(numbers[int((~torch.isfinite(found)).int().argmax())])
            raise ValueError(
                f"the network's output is not finite for a picture of image {image}: it overflows "
                "where pixels are replaced; check the baselines"
            )
        return found

    def values(self, pictures: Tensor, numbers: Tensor) -> Tensor:
        """Return what is explained (P,) of pictures (P, ...) of the images `numbers` (P,)."""
        return self.read(self.network(pictures), numbers)

    @cached_property
    def changed(self) -> Tensor:
        """Which pixels differ from the baseline, (N, H, W) bool on the CPU."""
        return (self.x != self.baseline).any(1).cpu()

    @cached_property
    def ends(self) -> tuple[Tensor, Tensor]:
        """What is explained of the baselines (N,) and of the images as they are (N,)."""
        before, after = (
            torch.cat([self.values(part[n], n) for n in batches(len(part), self.size())])
            for part in (self.baseline, self.x)
        )
        return before, after


def perturbed(
    model: Network,
    x: Tensor,
    target: Target,
    baselines: Baseline,
    units: Units | None,
    output: Output,
    batch_size: int | None,
    seed: int = 0,
) -> Perturbed:
    """Check what the methods have in common.

    Args:
        model: A network in evaluation mode, or its graph.
        x: Images (N, C, H, W).
        target: What is explained.
        baselines: What stands in place of pixels, one for each image or for all.
        units: What black and white are, for baselines that are told by name.
        output: Which of several outputs.
        batch_size: How many pictures at a time.
        seed: Of a baseline that is drawn.

    Raises:
        TypeError: As in :func:`xaiutils.attribution.gradient`.
        ValueError: As in :func:`xaiutils.attribution.gradient`, or if the baselines do not fit or
            are not finite.
    """
    if batch_size is not None:
        check_positive("batch_size", batch_size)
    network, x, explained = prepare_slopes(model, x, target, output)
    if x.ndim != 4:
        raise ValueError(f"x must be images (N, C, H, W), not of shape {tuple(x.shape)}")
    baseline = _one(baselines, x, units)(x, torch.Generator().manual_seed(seed))
    known = settled(network, x, explained, batch_size)
    if isinstance(network, graph.Graph) and isinstance(known, Tensor):
        classes, places = torch.unique(known, return_inverse=True)
        if (fewer := only_classes(network, classes)) is not None:
            network, known = fewer, places
    return Perturbed(network, x, baseline, known, batch_size)


def _one(baselines: Baseline, x: Tensor, units: Units | None) -> Maker:
    found = makers(baselines, x, units)
    if len(found) != 1:
        raise ValueError(
            f"baselines is a set of {len(found)}, but pixels are replaced by one; hand over one "
            f"for all images or one for each of the {len(x)}, and average the maps yourself"
        )
    return found[0]


def batches(length: int, size: int) -> Iterator[Tensor]:
    """Numbers below `length`, so many at a time."""
    yield from torch.split(torch.arange(length), size)


def side_of(region_size: int | None, x: Tensor, pieces: int) -> int:
    """Check the side of a region, in pixels; None is the shorter side of an image in `pieces`.

    Raises:
        ValueError: If it is not positive, or larger than the images.
    """
    shorter = min(x.shape[2:])
    if region_size is None:
        return max(1, round(shorter / pieces))
    check_positive("region_size", region_size)
    if region_size > shorter:
        raise ValueError(
            f"regions of {region_size} x {region_size} pixels are larger than the images of "
            f"{x.shape[2]} x {x.shape[3]}; take a smaller region_size"
        )
    return region_size


def asks_windows(game: Perturbed, windowed: bool | None) -> bool:
    """Whether windows are thought of.

    Raises:
        ValueError: If the user insists on windows where there can be none.
    """
    readable = isinstance(game.network, graph.Graph)
    if windowed and not readable:
        raise ValueError(
            "windowed=True needs a network that can be traced (graph.trace says why this one "
            "cannot); leave windowed=None"
        )
    return readable and in_question(windowed, game.x)
