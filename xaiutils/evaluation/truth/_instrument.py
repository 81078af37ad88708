"""An instrument: a network, pictures, and what is known of where the answer comes from."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from xaiutils.evaluation._complexity import _pixels
from xaiutils.evaluation._sanity import rank_correlation

Certainty = Literal["proof", "intervention", "construction"]


@dataclass(frozen=True)
class Check:
    """What an intervention on a network found, and what it should have found.

    Attributes:
        what: The question, in words.
        value: The answer, a share of the pictures unless `what` says otherwise.
        low: The least that is asked for.
        high: The most that is allowed.
    """

    what: str
    value: float
    low: float = 0.0
    high: float = 1.0

    @property
    def passed(self) -> bool:
        """Whether the value lies within its bounds."""
        return self.low <= self.value <= self.high


@dataclass(frozen=True, eq=False)
class Instrument:
    """A network whose answer is known to come from certain places, and pictures to explain.

    Every method is run as ``method(instrument.model, instrument.x, instrument.target)`` and can be
    right or wrong: `score` says how right. A mask says *where* the answer comes from and leaves
    open how much comes from each of its pixels; a ranking says how much each region gives.

    Attributes:
        name: Which instrument.
        model: The network, in evaluation mode.
        x: Pictures, (N, C, H, W).
        target: The explained output of each, (N,) int64.
        truth: A mask (N, H, W) bool, the pixels that may have relevance; or a ranking
            (N, rows, columns) of floats, the relevance of each region.
        certainty: "proof": nothing outside the mask can reach the output, or the ranking is the
            network's own sum. "intervention": the mask was planted, and the network was changed at
            it and beside it to see that it looks there. "construction": the mask was planted, or
            put there, and that is all.
        statement: What is certain, in a sentence.
        checks: What the interventions found.
    """

    name: str
    model: nn.Module = field(repr=False)
    x: Tensor = field(repr=False)
    target: Tensor = field(repr=False)
    truth: Tensor = field(repr=False)
    certainty: Certainty
    statement: str = field(repr=False)
    checks: tuple[Check, ...] = ()

    def __post_init__(self) -> None:
        number, (height, width) = len(self.x), self.x.shape[-2:]
        if self.x.ndim != 4 or self.target.shape != (number,) or len(self.truth) != number:
            raise ValueError(
                f"{self.name}: {number} pictures {tuple(self.x.shape)}, targets "
                f"{tuple(self.target.shape)} and truths {tuple(self.truth.shape)} do not fit; give "
                "(N, C, H, W), (N,) and (N, ..., ...)"
            )
        if not self.is_mask:
            rows, columns = self.truth.shape[1:]
            if height % rows or width % columns:
                raise ValueError(f"{self.name}: {rows} x {columns} regions do not tile the picture")
            return
        if self.truth.shape[1:] != (height, width):
            raise ValueError(f"{self.name}: a mask must be as large as a picture")
        check_mask(self.truth)

    @property
    def is_mask(self) -> bool:
        """Whether `truth` is a mask; else it is a ranking of regions."""
        return self.truth.dtype == torch.bool

    @property
    def sound(self) -> bool:
        """Whether all interventions found what they should. If not, leave the network out."""
        return all(check.passed for check in self.checks)

    def score(self, maps: Tensor) -> Tensor:
        """How right maps are.

        For a mask: the share of the positive relevance that lies in it, as `energy_inside` for a
        box. For a ranking: Spearman's correlation over regions, of the truth and of the sum of the
        relevance in each.

        Args:
            maps: (N, C, H, W), whose channels are summed, or (N, H, W).

        Returns:
            (N,) float64; for a mask from 0 to 1, for a ranking from -1 to 1. A map that has no
            positive relevance scores 0.

        Raises:
            ValueError: The maps are not as many or as large as the pictures, or hold NaN.
        """
        pixels = _pixels(maps)
        wanted = (len(self.x), *self.x.shape[-2:])
        if pixels.shape != wanted:
            raise ValueError(f"maps must be {wanted}, not {tuple(pixels.shape)}")
        if self.is_mask:
            return energy_in_mask(pixels, self.truth)
        return rank_correlation(_region_sums(pixels, self.truth), self.truth)

    def chance(self) -> Tensor:
        """The score of a map that knows nothing, (N,) float64.

        For a mask, its share of the picture: what a constant map gets, and on average one whose
        values are dealt by lot. For a ranking 0.
        """
        if self.is_mask:
            return self.truth.double().mean((1, 2)).cpu()
        return torch.zeros(len(self.x), dtype=torch.float64)

    def oracle(self) -> Tensor:
        """The truth as maps (N, 1, H, W), which score 1 and no map scores more."""
        truth = self.truth.float()[:, None]
        return truth if self.is_mask else F.interpolate(truth, size=self.x.shape[-2:])

    def subset(self, numbers: slice) -> Instrument:
        """The same instrument on some of its pictures."""
        return Instrument(
            self.name,
            self.model,
            self.x[numbers],
            self.target[numbers],
            self.truth[numbers],
            self.certainty,
            self.statement,
            self.checks,
        )


def energy_in_mask(heatmaps: Tensor, mask: Tensor) -> Tensor:
    """Share of the positive relevance that lies in a mask; `energy_inside` has it for boxes.

    Args:
        heatmaps: (N, C, H, W), whose channels are summed, or (N, H, W).
        mask: (N, H, W) bool.

    Returns:
        (N,) float64 in [0, 1]; 0 for a map without positive relevance.

    Raises:
        ValueError: The shapes do not fit, a map holds NaN, or a mask covers all of a picture or
            nothing.
    """
    pixels = _pixels(heatmaps).clamp(min=0)
    check_mask(mask)
    if mask.shape != pixels.shape:
        raise ValueError(f"maps {tuple(pixels.shape)} and masks {tuple(mask.shape)} do not fit")
    inside, total = (pixels * mask.cpu()).sum((1, 2)), pixels.sum((1, 2))
    share: Tensor = inside / total.where(total > 0, torch.ones_like(total))
    return share


def check_mask(mask: Tensor) -> None:
    """Refuse masks that say nothing.

    Raises:
        ValueError: It is no (N, H, W) of bool, or covers all of a picture or nothing of it.
    """
    if mask.ndim != 3 or mask.dtype != torch.bool:
        raise ValueError(f"a mask must be (N, H, W) bool, not {tuple(mask.shape)} {mask.dtype}")
    covered = mask.flatten(1).double().mean(1)
    for extreme, word in ((1.0, "all"), (0.0, "nothing")):
        if bool((covered == extreme).any()):
            number = int((covered == extreme).nonzero()[0])
            raise ValueError(
                f"mask {number} covers {word} of the picture, so that every map would score the "
                "same; leave that picture out"
            )


def _region_sums(pixels: Tensor, regions: Tensor) -> Tensor:
    """Sums of maps (N, H, W) over regions, in the shape of `regions`."""
    number, rows, columns = regions.shape
    return pixels.view(number, rows, pixels.shape[1] // rows, columns, -1).sum((2, 4))
