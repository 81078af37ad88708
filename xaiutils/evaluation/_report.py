"""One call for maps that are to be judged: measures, what they are held against, and how surely.

>>> from xaiutils import evaluation
>>> found = evaluation.report(model, x, {"LRP": maps}, seed=1)    # doctest: +SKIP
>>> found.frame                                                   # doctest: +SKIP
>>> plot.show(found.figure())                                     # doctest: +SKIP
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple, Unpack, get_args, get_origin

import pandas as pd
import torch
from torch import Tensor, nn

from xaiutils import graph
from xaiutils.attribution import Target
from xaiutils.attribution._common import resolve_target
from xaiutils.evaluation._controls import borrowed, centre_prior, picture_as_map, unsigned
from xaiutils.evaluation._curves import BY_LOT, Curves, abpc
from xaiutils.evaluation._faithfulness import (
    deletion,
    faithfulness_correlation,
    infidelity,
    insertion,
    saco,
    sensitivity_n,
)
from xaiutils.evaluation._options import PerturbationOptions, check_names
from xaiutils.evaluation._perturbation import (
    ConstantHeatmapWarning,
    Order,
    _summed,
    checked_draws,
    checked_regions,
    region_perturbation,
)
from xaiutils.evaluation._pictures import Draws
from xaiutils.evaluation._ranks import count_ties
from xaiutils.evaluation._segments import irof
from xaiutils.evaluation._statistics import (
    FEW_IMAGES,
    FewImagesWarning,
    Interval,
    IntervalMethod,
    bootstrap,
    holm,
    sign_flip,
)
from xaiutils.windows import Regions

if TYPE_CHECKING:
    import matplotlib.figure

_PAPER_SIDE = 9  # pixels a region, of images that are at least so large:
_LARGE = 96
_ACROSS = 7  # regions from side to side of a smaller image
_SHARE = 0.16  # of the regions are replaced, as in Samek et al. 2017
_ENOUGH_FOR_BCA = 20
_OWN = "own"


class Key(NamedTuple):
    """Whose maps: those of a method, or what they are held against.

    Attributes:
        method: Its name; "" for a control that is the same for all methods.
        control: A name of `CONTROLS`, or "own" for the maps themselves.
    """

    method: str
    control: str


@dataclass(frozen=True, eq=False)
class Trial:
    """Everything that a measure may look at. Curves are computed once and for all methods.

    Attributes:
        model: The network.
        x: Images, (N, C, H, W).
        target: The classes that are watched, (N,); None where a callable `output` watches.
        maps: By method, (N, H, W) float64, finite.
        draws: Repetitions of what is drawn by lot.
        seed: Of all draws.
        options: Of `region_perturbation`.
        controls: Those that were asked for.
    """

    model: nn.Module
    x: Tensor
    target: Tensor | None
    maps: Mapping[str, Tensor]
    draws: int
    seed: int
    options: PerturbationOptions
    controls: Collection[str]
    _curves: dict[Order, dict[Key, Curves]] = field(default_factory=dict, repr=False)

    @cached_property
    def regions(self) -> Regions:
        """How the images are cut."""
        size, steps = self.options["region_size"], self.options["steps"]
        return checked_regions(self.x, size, steps, self.options.get("edge", "keep"))

    @cached_property
    def lots(self) -> Draws:
        """What is drawn for these images."""
        fill, first = self.options.get("fill", "uniform"), self.options.get("first_image", 0)
        return checked_draws(self.x, self.regions, fill, self.seed, first)

    @cached_property
    def keys(self) -> list[Key]:
        """All methods, and the controls that are maps."""
        made = [control for control in self.controls if control not in BY_LOT]
        own = [Key(method, _OWN) for method in self.maps]
        return own + list(dict.fromkeys(key_of(m, c) for m in self.maps for c in made))

    def maps_of(self, key: Key) -> list[Tensor]:
        """The maps (N, H, W) of this name; several draws of them where the lot makes them."""
        if key.control == _OWN:
            return [self.maps[key.method]]
        if key.control in BY_LOT:
            return [self._by_lot(key.control, draw) for draw in range(self.draws)]
        made = CONTROLS[key.control](self, self.maps.get(key.method, self.x))
        return [made.sum(dim=1) if made.ndim == 4 else made]

    def curves(self, key: Key, order: Order) -> Curves:
        """The curves of these maps in the order "morf" or "lerf"; an order by lot has but one."""
        wanted = order if key.control not in BY_LOT else _order_of(key.control)
        if wanted not in self._curves:
            self._curves[wanted] = self._perturbed(wanted)
        return self._curves[wanted][key]

    def _perturbed(self, order: Order) -> dict[Key, Curves]:
        if order in BY_LOT:
            options = PerturbationOptions(**{**self.options, "repeats": self.draws})
            found = region_perturbation(
                self.model, self.x, self.target, None, order=order, seed=self.seed, **options
            )
            return {Key("", order): found}
        named = {str(i): self.maps_of(key)[0] for i, key in enumerate(self.keys)}
        with warnings.catch_warnings():  # the frame counts them
            warnings.simplefilter("ignore", ConstantHeatmapWarning)
            curves = region_perturbation(
                self.model, self.x, self.target, named, order=order, seed=self.seed, **self.options
            )
        return {key: curves[str(i)] for i, key in enumerate(self.keys)}

    def _by_lot(self, control: str, draw: int) -> Tensor:
        """Maps that rank the regions as the lot does, (N, H, W)."""
        ranks = self.lots.block_ranks if control == "block" else self.lots.random_ranks
        last = torch.tensor([self.regions.count])  # the rim, which no order replaces
        padded = [torch.cat([ranks(image, draw), last]) for image in range(len(self.x))]
        return -torch.stack([ranked[self.regions.index] for ranked in padded]).double()


Control = Callable[[Trial, Tensor], Tensor]

CONTROLS: dict[str, Control] = {
    "borrowed": lambda trial, maps: borrowed(maps, trial.target, trial.seed),
    "unsigned": lambda trial, maps: unsigned(maps),
    "centre": lambda trial, maps: centre_prior(trial.x).cpu().double(),
    "picture": lambda trial, maps: picture_as_map(trial.x).cpu().double(),
}
"""Maps to hold a method's maps against; the orders by lot, "random" and "block", need none."""

_ALIKE_FOR_ALL = ("centre", "picture", *BY_LOT)


@dataclass(frozen=True)
class Measure:
    """A number for each image.

    Attributes:
        label: What it is, for a figure.
        of: Gives (N,) for the maps of a key.
        larger_is_better: Whether a good map has large values.
    """

    label: str
    of: Callable[[Trial, Key], Tensor]
    larger_is_better: bool = True


def measure_of_maps(
    metric: Callable[..., Tensor], label: str, larger_is_better: bool = True, **options: Any
) -> Measure:
    """Make a measure of any ``metric(model, x, target, maps, ...)`` that gives (N,).

    The trial's seed and those of its options that the metric takes are handed on. Of controls by
    lot the metric's mean over the draws is taken.

    >>> evaluation.MEASURES["my own"] = evaluation.measure_of_maps(mine, "mine")  # doctest: +SKIP

    Args:
        metric: The function; maps are given as (N, 1, H, W).
        label: What it is, for a figure.
        larger_is_better: Whether a good map has large values.
        **options: Handed on to the metric, before those of the trial.

    Returns:
        The measure, to be put into `MEASURES`.
    """

    def of(trial: Trial, key: Key) -> Tensor:
        shared = {**_known_options(trial), **options}
        return torch.stack(
            [
                metric(trial.model, trial.x, trial.target, maps[:, None].to(trial.x), **shared)
                for maps in trial.maps_of(key)
            ]
        ).mean(dim=0)

    taken = _taken(metric)

    def _known_options(trial: Trial) -> dict[str, Any]:
        known: dict[str, Any] = {**trial.options, "seed": trial.seed}
        return {name: value for name, value in known.items() if name in taken}

    return Measure(label, of, larger_is_better)


def _taken(metric: Callable[..., Tensor]) -> set[str]:
    """The names of what a function takes, and of what it unpacks."""
    taken = dict(inspect.signature(metric).parameters)
    if any(one.kind is one.VAR_KEYWORD for one in taken.values()):
        taken = dict(inspect.signature(metric, eval_str=True).parameters)
    unpacked = [one.annotation for one in taken.values() if get_origin(one.annotation) is Unpack]
    return set(taken).union(*(get_args(one)[0].__optional_keys__ for one in unpacked))


def _aopc(order: Order) -> Callable[[Trial, Key], Tensor]:
    return lambda trial, key: trial.curves(key, order).aopc()


def _between(trial: Trial, key: Key) -> Tensor:
    if key.control in BY_LOT:  # the same order read from either end, for the lot knows no ends
        return torch.zeros(len(trial.x), dtype=torch.float64)
    return abpc(trial.curves(key, "morf"), trial.curves(key, "lerf"))


MEASURES: dict[str, Measure] = {
    "aopc_morf": Measure("AOPC, most relevant first", _aopc("morf")),
    "aopc_lerf": Measure("AOPC, least relevant first", _aopc("lerf"), larger_is_better=False),
    "abpc": Measure("area between the curves", _between),
    "insertion": measure_of_maps(insertion, "insertion"),
    "deletion": measure_of_maps(deletion, "deletion", larger_is_better=False),
    "sensitivity_n": measure_of_maps(sensitivity_n, "Sensitivity-n"),
    "faithfulness_correlation": measure_of_maps(
        faithfulness_correlation, "faithfulness correlation"
    ),
    "infidelity": measure_of_maps(infidelity, "infidelity", larger_is_better=False),
    "saco": measure_of_maps(saco, "SaCo"),
    "irof": measure_of_maps(irof, "IROF"),
}
"""What `report` can measure, by name. One of your own is added by `measure_of_maps`."""


@dataclass(frozen=True, eq=False)
class Report:
    """What was measured, from `report`.

    Attributes:
        frame: A row for each method, measure and control. *value*, *low* and *high* are the mean
            over the images and its interval. *control_value* is the control's mean, and *gain* the
            mean lead over it (own minus control, with the sign turned where small values are good,
            so that positive speaks for the map) with *gain_low* and *gain_high*. *p* is the
            sign-flip test's for the gain, and *p_holm* is corrected for all rows of the frame.
            *images* counts them, *tied* is the mean number of regions that the lot ordered, and
            *constant* counts maps that rank nothing.
        per_image: By (method, measure, control), the numbers behind it, (N,) float64; the maps'
            own have the control "own".
        level: Confidence of the intervals.
    """

    frame: pd.DataFrame
    per_image: Mapping[tuple[str, str, str], Tensor] = field(repr=False)
    level: float = 0.95

    def figure(self) -> matplotlib.figure.Figure:
        """Draw every measure: on the left the maps and their controls, on the right the gains.

        Returns:
            A figure with its alternative text, for `xaiutils.plot.show`.
        """
        from xaiutils.evaluation._report_figure import draw  # seaborn is slow to import

        return draw(self.frame, self.level, {name: m.label for name, m in MEASURES.items()})


def report(
    model: nn.Module,
    x: Tensor,
    maps: Tensor | Mapping[str, Tensor],
    target: Target = None,
    *,
    measures: Sequence[str] = ("aopc_morf", "aopc_lerf", "abpc"),
    controls: Sequence[str] = ("borrowed", "random", "unsigned"),
    seed: int = 0,
    draws: int = 10,
    level: float = 0.95,
    interval: IntervalMethod | None = None,
    **options: Unpack[PerturbationOptions],
) -> Report:
    """Measure maps, hold each measure against controls, and say how surely they differ.

    *Own minus borrowed* of "abpc" is the one to look at: another picture's map is as compact and
    lies where objects lie, so that an order that knows nothing of *this* picture scores zero.

    Args:
        model: A network in evaluation mode, as in `region_perturbation`.
        x: Images, (N, C, H, W); at least two, and ten or more for an interval that holds.
        maps: (N, C, H, W), (N, 1, H, W) or (N, H, W), or a mapping from names of methods to such.
        target: The class that is watched, as in `region_perturbation`. The maps should explain it.
        measures: Names of `MEASURES`.
        controls: Names of `CONTROLS`, "random" or "block". "borrowed" are maps of other images, if
            possible of other classes; "unsigned" are the maps without their sign, and tell what the
            sign is worth; "centre" and "picture" know no network.
        seed: Of all draws.
        draws: How often the orders by lot are drawn; 10 in Samek et al. 2017.
        level: Confidence of the intervals, in (0, 1).
        interval: "percentile", "bca" or "t", as in `bootstrap`; None takes "bca" from twenty images
            on and "t" below.
        **options: Of `region_perturbation`. Unless given, a region has 9 pixels a side on images of
            at least 96, and a seventh of the side on smaller ones; 16 % of the regions are
            replaced; and `repeats` is 1: the fill is drawn once.

    Returns:
        The `Report`, with a frame and a figure.

    Raises:
        TypeError: An option of an unknown name.
        ValueError: A single image, an unknown measure or control, maps of the wrong shape or with
            NaN or infinity, or anything that `region_perturbation` refuses.

    Warns:
        FewImagesWarning: Fewer than ten images.
    """
    _check_names("measure", measures, MEASURES)
    _check_names("control", controls, (*CONTROLS, *BY_LOT))
    trial = _trial(model, x, maps, target, controls, seed, draws, options)
    if len(x) < FEW_IMAGES:
        warnings.warn(
            f"{len(x)} images are few: below {FEW_IMAGES} an interval rests on the assumption that "
            "the values are normally distributed, and small gains are not seen",
            FewImagesWarning,
            stacklevel=2,
        )
    way: IntervalMethod = interval or ("bca" if len(x) >= _ENOUGH_FOR_BCA else "t")
    per_image: dict[tuple[str, str, str], Tensor] = {}
    rows: list[dict[str, Any]] = []
    for measure, method in ((measure, method) for measure in measures for method in trial.maps):
        own = MEASURES[measure].of(trial, Key(method, _OWN))
        per_image[method, measure, _OWN] = own
        start: dict[str, Any] = {"method": method, "measure": measure, "control": None}
        start |= _ends(own, "value", "", level, way)
        if not controls:
            rows.append(start)
        for control in controls:
            held = MEASURES[measure].of(trial, key_of(method, control))
            per_image[method, measure, control] = held
            gain = own - held if MEASURES[measure].larger_is_better else held - own
            against = {"control": control, "control_value": held.mean().item()}
            against |= _ends(gain, "gain", "gain_", level, way)
            rows.append(start | against | {"p": sign_flip(gain, tail="normal")})
    return Report(_frame(trial, rows), per_image, level)


def key_of(method: str, control: str) -> Key:
    """The key of a method's control; of one that all methods share there is a single one."""
    return Key("" if control in _ALIKE_FOR_ALL else method, control)


def _order_of(control: str) -> Order:
    return "block" if control == "block" else "random"


def _trial(
    model: nn.Module,
    x: Tensor,
    maps: Tensor | Mapping[str, Tensor],
    target: Target,
    controls: Sequence[str],
    seed: int,
    draws: int,
    options: PerturbationOptions,
) -> Trial:
    """All that was given, checked before anything is computed."""
    check_names(options, PerturbationOptions.__optional_keys__)
    graph.check_model(model)
    graph.check_input(model, x)
    if len(x) < 2:
        raise ValueError(
            "a report needs at least two images: with one there is nothing to borrow a map from, "
            "and no interval"
        )
    if draws < 1:
        raise ValueError(f"draws must be at least 1, not {draws}")
    named = dict(maps) if isinstance(maps, Mapping) else {"maps": maps}
    if not named:
        raise ValueError("maps is an empty mapping; give at least one method")
    flat = {name: _summed(f"maps[{name!r}]", found, x) for name, found in named.items()}
    watched = None if callable(options.get("output")) else _classes(model, x, target)
    filled = _with_defaults(x, options)
    return Trial(model, x, watched, flat, draws, seed, filled, tuple(dict.fromkeys(controls)))


@torch.no_grad()
def _classes(model: nn.Module, x: Tensor, target: Target) -> Tensor:
    return resolve_target(target, graph.outputs_of(model, x))


def _with_defaults(x: Tensor, options: PerturbationOptions) -> PerturbationOptions:
    side = min(x.shape[2:])
    size = options.get("region_size", _PAPER_SIDE if side >= _LARGE else max(1, side // _ACROSS))
    regions = checked_regions(x, size, 1, options.get("edge", "keep"))
    steps = max(1, round(_SHARE * regions.count))
    defaults = PerturbationOptions(region_size=size, steps=steps, repeats=1)
    return PerturbationOptions(**{**defaults, **options})


def _ends(
    values: Tensor, name: str, prefix: str, level: float, way: IntervalMethod
) -> dict[str, Any]:
    with warnings.catch_warnings():  # once for the whole report is enough
        warnings.simplefilter("ignore", FewImagesWarning)
        found: Interval = bootstrap(values, level, method=way)
    return {name: found.mean, f"{prefix}low": found.low, f"{prefix}high": found.high}


def _frame(trial: Trial, rows: list[dict[str, Any]]) -> pd.DataFrame:
    """The rows with Holm's correction, and with what the lot decided."""
    if tested := [row for row in rows if "p" in row]:
        for row, p in zip(tested, holm([row["p"] for row in tested]), strict=True):
            row["p_holm"] = p
    lot = {name: _lot(trial, maps) for name, maps in trial.maps.items()}
    return pd.DataFrame([row | lot[row["method"]] for row in rows])


def _lot(trial: Trial, maps: Tensor) -> dict[str, float]:
    """How much of the order of these maps is decided by lot."""
    scores = trial.regions.scores(maps, trial.options.get("region_score", "sum"))
    flat = maps.flatten(1)
    scores[flat.amax(dim=1) == flat.amin(dim=1)] = 0
    tied = count_ties(scores)
    constant = (scores == scores[:, :1]).all(dim=1)
    found = {"images": len(maps), "tied": tied.double().mean().item()}
    return found | {"constant": int(constant.sum())}


def _check_names(kind: str, given: Sequence[str], known: Collection[str]) -> None:
    if isinstance(given, str):
        raise TypeError(f"{kind}s must be a list of names, such as [{given!r}]")
    if unknown := [name for name in given if name not in known]:
        raise ValueError(f"unknown {kind} {unknown[0]!r}; there are {', '.join(known)}")
    if kind == "measure" and not given:
        raise ValueError("give at least one measure")
