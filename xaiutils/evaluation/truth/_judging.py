"""Measures of heatmaps, judged by maps of which it is known how right they are.

Two questions of Hedstroem et al. 2023 (MetaQuantus): does a measure react when the map gets worse,
and does it stay when nothing happened? Here the truth is known, so that "worse" is, too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from xaiutils.evaluation import _faithfulness
from xaiutils.evaluation._controls import borrowed
from xaiutils.evaluation._curves import Curves, abpc, own_minus_borrowed
from xaiutils.evaluation._fills import Fill, Uniform
from xaiutils.evaluation._jobs import OutputName
from xaiutils.evaluation._perturbation import region_perturbation
from xaiutils.evaluation._segments import irof
from xaiutils.evaluation.truth._instrument import Instrument
from xaiutils.windows import Regions

Metric = Callable[[nn.Module, Tensor, Tensor, Tensor, int], Tensor]
"""``metric(model, x, target, maps, seed)`` gives (N,), larger for better maps."""


@dataclass(frozen=True, eq=False)
class Judgement:
    """How a measure rates maps of known worth on the pictures of an instrument.

    Attributes:
        scores: Of each of the maps of `ladder`, (N,) float64 each.
        scaled: The score of the truth if all maps are three times as large, (N,).
        shifted: The same if the network's outputs are all larger by a constant.
        drawn_again: The same with other draws.
    """

    scores: Mapping[str, Tensor]
    scaled: Tensor
    shifted: Tensor
    drawn_again: Tensor

    def beats(self, better: str, worse: str) -> float:
        """Share of the pictures on which one map scores more than another; ties count one half."""
        one, two = self.scores[better], self.scores[worse]
        return ((one > two).double() + (one == two).double() / 2).mean().item()

    @property
    def reactive(self) -> float:
        """Share of pictures on which truth > noisy truth > noise; one in six by chance."""
        truth, noisy, noise = (self.scores[name] for name in ("truth", "noisy", "noise"))
        return ((truth > noisy) & (noisy > noise)).double().mean().item()

    @property
    def first(self) -> float:
        """Share of pictures on which the truth scores more than every other map of the ladder."""
        others = torch.stack([scores for name, scores in self.scores.items() if name != "truth"])
        return (self.scores["truth"] > others).all(0).double().mean().item()

    @property
    def highest(self) -> str:
        """The map that scores most on average; "truth" if it shares the first place."""
        means = {name: scores.mean().item() for name, scores in self.scores.items()}
        return max(means, key=lambda name: (means[name], name == "truth"))

    def change(self, what: str) -> float:
        """Mean change of the truth's score, in units of what it is ahead of noise by.

        Args:
            what: "scaled", "shifted" or "drawn_again".

        Returns:
            0 if the measure does not look at what was changed; infinity if it does not tell the
            truth from noise.

        Raises:
            ValueError: There is no such change.
        """
        if what not in ("scaled", "shifted", "drawn_again"):
            raise ValueError(f"what is {what!r}: choose 'scaled', 'shifted' or 'drawn_again'")
        ahead = (self.scores["truth"] - self.scores["noise"]).mean().abs().item()
        moved = (getattr(self, what) - self.scores["truth"]).abs().mean().item()
        return 0.0 if moved < 1e-9 else moved / ahead if ahead > 0 else float("inf")


def ladder(instrument: Instrument, region_size: int, seed: int = 0) -> dict[str, Tensor]:
    """Maps of known worth: the truth, with noise, noise alone, at a wrong place, and leaking.

    The noise is the same for all pixels of a region, so that it does not average out when a measure
    sums over regions; in "noisy" its standard deviation is half of the largest truth. "moved" is
    the truth, shifted cyclically by half of the picture's sides: as compact as it is, and wrong.
    "leaky" is the truth, and relevance outside of it: the absolute value of the noise of "noisy".
    Where it is proved that nothing outside can reach the output (DiFull), this is provably worse
    than the truth, since nothing else is different.

    Args:
        instrument: Its pictures are the maps' pictures.
        region_size: Side of a region, in pixels.
        seed: Of the noise.

    Returns:
        "truth", "noisy", "noise" and "moved", each (N, 1, H, W); "leaky" if the truth is a mask.
    """
    truth = instrument.oracle()
    noise = _noise(truth, region_size, seed)
    size = truth.abs().amax((1, 2, 3), keepdim=True)
    height, width = truth.shape[-2:]
    maps = {
        "truth": truth,
        "noisy": truth + size / 2 * noise,
        "noise": _noise(truth, region_size, seed + 1),
        "moved": truth.roll((height // 2, width // 2), (2, 3)),
    }
    leaky = {"leaky": torch.where(truth > 0, truth, size / 2 * noise.abs())}
    return maps | leaky if instrument.is_mask else maps


def judge_metric(
    metric: Metric, instrument: Instrument, region_size: int, seed: int = 0, shift: float = 10.0
) -> Judgement:
    """Run a measure on maps of known worth, and again with nothing changed that should matter.

    Args:
        metric: ``metric(model, x, target, maps, seed)``, larger for better maps.
        instrument: What is known.
        region_size: Of the noise; that of the measure, if it has regions.
        seed: Of the noise and of the measure.
        shift: The constant that is added to the network's outputs.

    Returns:
        The scores.

    Raises:
        ValueError: The instrument is not sound: its truth is none.
    """
    if not instrument.sound:
        failed = [check.what for check in instrument.checks if not check.passed]
        raise ValueError(f"{instrument.name} is not sound ({'; '.join(failed)}): train another")
    maps = ladder(instrument, region_size, seed)
    x, target = instrument.x, instrument.target
    shifted = _Shifted(instrument.model, shift)
    return Judgement(
        scores={name: metric(instrument.model, x, target, m, seed) for name, m in maps.items()},
        scaled=metric(instrument.model, x, target, 3 * maps["truth"], seed),
        shifted=metric(shifted, x, target, maps["truth"], seed),
        drawn_again=metric(instrument.model, x, target, maps["truth"], seed + 1),
    )


def metrics(
    region_size: int,
    fill: Fill | None = None,
    subsets: int = 50,
    irof_output: OutputName = "probability",
) -> dict[str, Metric]:
    """The measures of this package, each larger for better maps, with the same regions and fill.

    Args:
        region_size: In pixels.
        fill: What replaces a region; None is uniform noise in [0, 1].
        subsets: How many sets of regions the correlations are taken over.
        irof_output: What IROF watches; it divides by it, so that it must be positive.

    Returns:
        The measures by name, which are the areas of MoRF and of LeRF (its sign turned) at 16 % of
        the regions, ABPC, own minus borrowed, deletion (its sign turned), insertion, faithfulness
        correlation, Sensitivity-n, infidelity (its sign turned), SaCo and IROF. All but IROF watch
        the logit.
    """
    common: dict[str, Any] = {"fill": fill or Uniform()}
    sets = common | {"region_size": region_size, "subsets": subsets}
    with_regions = common | {"region_size": region_size}
    halves = partial(_halves, region_size, common["fill"])

    def wrapped(function: Callable[..., Tensor], sign: int, **options: Any) -> Metric:
        def metric(model: nn.Module, x: Tensor, target: Tensor, maps: Tensor, seed: int) -> Tensor:
            return sign * function(model, x, target, maps, seed=seed, **options)

        return metric

    return {
        "MoRF": lambda *given: halves(*given)[0].aopc(),
        "LeRF": lambda *given: -halves(*given)[1].aopc(),
        "ABPC": lambda *given: abpc(*halves(*given)),
        "own minus borrowed": partial(_own_minus_borrowed, halves),
        "deletion": wrapped(_faithfulness.deletion, -1, **with_regions),
        "insertion": wrapped(_faithfulness.insertion, 1, **with_regions),
        "faithfulness correlation": wrapped(_faithfulness.faithfulness_correlation, 1, **sets),
        "Sensitivity-n": wrapped(_faithfulness.sensitivity_n, 1, sizes=(2, 8), **sets),
        "infidelity": wrapped(_faithfulness.infidelity, -1, **sets),
        "SaCo": wrapped(_faithfulness.saco, 1, **with_regions),
        "IROF": wrapped(irof, 1, segments=49, output=irof_output, **common),
    }


def _halves(
    region_size: int,
    fill: Fill,
    model: nn.Module,
    x: Tensor,
    target: Tensor,
    maps: Tensor,
    seed: int,
) -> tuple[Curves, Curves]:
    """MoRF and LeRF of 16 % of the regions."""
    count = Regions(x.shape[-2], x.shape[-1], region_size).count
    steps = max(1, round(0.16 * count))
    options: dict[str, Any] = {"fill": fill, "repeats": 1, "seed": seed}
    morf, lerf = (
        region_perturbation(model, x, target, maps, region_size, steps, order, **options)
        for order in ("morf", "lerf")
    )
    return morf, lerf


def _own_minus_borrowed(
    halves: Callable[..., tuple[Curves, Curves]],
    model: nn.Module,
    x: Tensor,
    target: Tensor,
    maps: Tensor,
    seed: int,
) -> Tensor:
    own = halves(model, x, target, maps, seed)
    other = halves(model, x, target, borrowed(maps, seed=seed), seed)
    return own_minus_borrowed(*own, *other)


class _Shifted(nn.Module):
    """A network whose outputs are all larger by a constant."""

    def __init__(self, model: nn.Module, shift: float) -> None:
        super().__init__()
        self.model, self.shift = model, shift
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        return cast(Tensor, self.model(x)) + self.shift


def _noise(maps: Tensor, region_size: int, seed: int) -> Tensor:
    """Standard normal noise, one number for each region."""
    generator = torch.Generator().manual_seed(seed)
    number, _, height, width = maps.shape
    rows, columns = -(-height // region_size), -(-width // region_size)
    coarse = torch.randn(number, 1, rows, columns, generator=generator)
    whole = F.interpolate(coarse, scale_factor=region_size)
    return whole[:, :, :height, :width]
