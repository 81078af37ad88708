"""Does a heatmap depend on what the network has learned? Adebayo et al. 2018, and after them.

Weights of a copy are put in random order, layer by layer, and the maps of the copy are compared
with those of the network. A map that stays as it was cannot be explaining what was learned.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from xaiutils import graph
from xaiutils.attribution import Target
from xaiutils.attribution._common import resolve_target
from xaiutils.evaluation._complexity import _pixels

Method = Callable[..., Tensor]
Mode = Literal["cascading", "independent"]

_MODES = ("cascading", "independent")
_SSIM_WINDOW = 7
_ROUNDING = 1e-12
_BINS = 100


@dataclass(frozen=True, eq=False)
class EntropyRise:
    """How much less orderly the maps of one method are without what was learned.

    Attributes:
        rise: (H(after) - H(before)) / H(before), (N,), H being the entropy of a map's values. 0 for
            a map that does not ask the network.
        by_chance: What `rise` comes to if the map after is Gaussian noise on the pixels where it is
            not zero. One draw.
    """

    rise: Tensor = field(repr=False)
    by_chance: Tensor = field(repr=False)


@dataclass(frozen=True, eq=False)
class Randomisation:
    """How alike the maps of one method are before and after.

    Attributes:
        layers: What was randomised, one entry for each step, the layer nearest the output first.
        rank: Spearman's correlation over pixels, (len(layers), N), from -1 to 1.
        rank_absolute: The same of absolute values, which do not ask for the sign.
        ssim: Structural similarity of maps scaled by their largest absolute value, likewise.
        rank_by_chance: What `rank` comes to if the map after has its values dealt anew, by lot,
            among the pixels where it is not zero. It keeps which pixels are zero, and how many are
            positive, and loses the rest: a method scores so much for these two alone, and may
            score more for other things that no network has learned (the ink as a factor, edges, a
            map that is smooth). One draw; the mean over many images is what counts.
        rank_absolute_by_chance: The same of `rank_absolute`.
    """

    layers: tuple[str, ...]
    rank: Tensor = field(repr=False)
    rank_absolute: Tensor = field(repr=False)
    ssim: Tensor = field(repr=False)
    rank_by_chance: Tensor = field(repr=False)
    rank_absolute_by_chance: Tensor = field(repr=False)


def parameter_randomisation(
    model: nn.Module,
    x: Tensor,
    target: Target,
    methods: Mapping[str, Method],
    mode: Mode = "cascading",
    layers: Sequence[str] | None = None,
    seed: int = 0,
) -> dict[str, Randomisation]:
    """Compare maps of a network with those of copies whose weights are in random order.

    Adebayo et al. 2018, section 3. "cascading" randomises from the output down: step k has the
    first k layers randomised. "independent" randomises one layer at a time and leaves the others as
    they were learned. The paper draws weights anew; here those of a layer change places (our
    choice), so that their number, size and spread stay, and with them the scale of the activations.

    With maps that are averaged over noise, by `smoothed`, this is smooth MPRT (Hedstroem et al.
    2024).

    A similarity of 0 is not what a map scores that explains nothing: two maps that are zero on the
    same empty page correlate. `Randomisation.rank_by_chance` has that part of it.

    Args:
        model: A network in evaluation mode; it stays as it is.
        x: Images, shape (N, C, H, W).
        target: As in `region_perturbation`. None is the class that the network names before
            anything is randomised; the copies are asked for the same class.
        methods: By name, ``f(model, x, target)`` that gives maps (N, C, H, W).
        mode: "cascading" or "independent".
        layers: Paths in the model, the one nearest the output first; each stands for all weights
            below it. None takes every convolution and linear layer, in reverse order of execution.
        seed: Of the random orders.

    Returns:
        A `Randomisation` for each method.

    Raises:
        ValueError: An unknown mode or layer, no method, a layer without weights, or maps of an
            unusable shape.
    """
    if mode not in _MODES:
        raise ValueError(f"mode is {mode!r}: choose from 'cascading', 'independent'")
    names, targets = _layers_and_targets(model, x, target, methods, layers)
    before = {name: method(model, x, targets) for name, method in methods.items()}
    found: dict[str, list[tuple[Tensor, ...]]] = {name: [] for name in methods}
    for step in range(len(names)):
        chosen = names[: step + 1] if mode == "cascading" else names[step : step + 1]
        changed = randomised(model, chosen, seed)
        for name, method in methods.items():
            after = method(changed, x, targets)
            by_lot = torch.Generator().manual_seed(seed * 100_003 + step)
            chance = _correlations(before[name], _dealt_anew(after, by_lot))
            likeness = map_similarity(before[name], after)
            found[name].append((*_correlations(before[name], after), likeness, *chance))
    return {
        name: Randomisation(names, *map(torch.stack, zip(*steps, strict=True)))
        for name, steps in found.items()
    }


def efficient_randomisation(
    model: nn.Module,
    x: Tensor,
    target: Target,
    methods: Mapping[str, Method],
    bins: int = _BINS,
    layers: Sequence[str] | None = None,
    seed: int = 0,
) -> dict[str, EntropyRise]:
    """Compare the entropy of maps with and without what the network has learned.

    Efficient MPRT (Hedstroem et al. 2024): all layers are randomised at once, and the
    relative rise of the map's entropy is the score, large if the map depends on the weights. The
    entropy is that of the histogram of a map's values between its smallest and its largest. So the
    score cannot see where anything is: a map whose pixels change places keeps its entropy.

    Args:
        model: As in `parameter_randomisation`, like all other arguments but `bins`.
        x: Likewise.
        target: Likewise.
        methods: Likewise.
        bins: Of the histogram; 100 in the paper's code.
        layers: Likewise.
        seed: Likewise.

    Returns:
        An `EntropyRise` for each method.

    Raises:
        ValueError: As in `parameter_randomisation`; or a map has the same value everywhere, and so
            no entropy that could rise.
    """
    names, targets = _layers_and_targets(model, x, target, methods, layers)
    if bins < 2:
        raise ValueError(f"bins must be at least 2, not {bins}")
    changed = randomised(model, names, seed)
    found = {}
    for name, method in methods.items():
        before, after = (_pixels(method(one, x, targets)) for one in (model, changed))
        start = _entropies(before, bins)
        if not bool((start > 0).all()):
            raise ValueError(
                f"the map of {name!r} for image {int(start.argmin())} has the same value "
                "everywhere, and no entropy that could rise"
            )
        noise = _noise_on(after, torch.Generator().manual_seed(seed))
        ends = (_entropies(maps, bins) for maps in (after, noise))
        found[name] = EntropyRise(*(end / start - 1 for end in ends))
    return found


def _layers_and_targets(
    model: nn.Module,
    x: Tensor,
    target: Target,
    methods: Mapping[str, Method],
    layers: Sequence[str] | None,
) -> tuple[tuple[str, ...], Tensor]:
    """What is to be randomised, and the classes that the network names before it is."""
    graph.check_model(model)
    if not methods:
        raise ValueError("methods is empty; give at least one")
    names = tuple(layers) if layers is not None else _weighted_layers(model, x)
    with torch.no_grad():
        return names, resolve_target(target, graph.outputs_of(model, x))


def _entropies(maps: Tensor, bins: int) -> Tensor:
    """Entropy in nats of the histogram of each map's (H, W) values: (N,) float64."""
    counts = torch.stack([torch.histc(one, bins) for one in maps])
    shares = counts / counts.sum(dim=1, keepdim=True)
    entropies: Tensor = torch.special.entr(shares).sum(dim=1)
    return entropies


def _noise_on(maps: Tensor, generator: torch.Generator) -> Tensor:
    """Gaussian noise where a map is not zero."""
    noise = torch.randn(maps.shape, generator=generator, dtype=maps.dtype)
    return torch.where(maps != 0, noise, 0.0)


def randomised(model: nn.Module, layers: Iterable[str], seed: int = 0) -> nn.Module:
    """Return a copy whose weights in some layers have changed places at random.

    Args:
        model: The network; it stays as it is.
        layers: Paths in the model; each stands for all parameters at it and below. The numbers of
            a parameter tensor are exchanged within it.
        seed: Of the random orders; that of a layer does not depend on which others are randomised.

    Returns:
        The copy, in the mode that the network is in.

    Raises:
        ValueError: There is no such layer, or it has no weights.
    """
    changed = copy.deepcopy(model)
    paths = dict(changed.named_modules())
    for path in layers:
        parameters = list(paths[path].parameters()) if path in paths else []
        if not parameters:
            raise ValueError(f"{path!r} is not a layer of the network that has weights")
        number = list(paths).index(path)
        generator = torch.Generator().manual_seed(seed * 100_003 + number)
        for parameter in parameters:
            order = torch.randperm(parameter.numel(), generator=generator).to(parameter.device)
            parameter.data = parameter.data.flatten()[order].view_as(parameter)
    return changed


def rank_correlation(first: Tensor, second: Tensor) -> Tensor:
    """Spearman's rank correlation of two maps over their pixels.

    Args:
        first: Maps (N, C, H, W), whose channels are summed, or (N, H, W).
        second: Maps that have the same pixels.

    Returns:
        (N,) float64, from -1 to 1; 0 if one of the maps is constant and ranks nothing.

    Raises:
        ValueError: The shapes do not fit, or a map holds NaN or infinity.
    """
    from scipy.stats import rankdata  # slow to import

    ranks = [torch.from_numpy(rankdata(m.flatten(1), axis=1)) for m in _pair(first, second)]
    return correlation(*ranks)


def correlation(first: Tensor, second: Tensor) -> Tensor:
    """Pearson's correlation of rows (N, K): (N,) float64; 0 where a row is constant.

    Constant up to rounding: sums that are equal on paper differ in their last digits.
    """
    one, two = (values - values.mean(dim=1, keepdim=True) for values in (first, second))
    spread = [
        centred.norm(dim=1).where(centred.norm(dim=1) > _ROUNDING * values.norm(dim=1), 0.0)
        for centred, values in ((one, first), (two, second))
    ]
    size = spread[0] * spread[1]
    return torch.where(size > 0, (one * two).sum(dim=1) / size.where(size > 0, 1.0), 0.0)


def map_similarity(first: Tensor, second: Tensor) -> Tensor:
    """Structural similarity (Wang et al. 2004) of two maps, by scikit-image.

    Each map is divided by its largest absolute value, so that zero stays zero; windows of 7 x 7.

    Args:
        first: As in `rank_correlation`; at least 7 pixels wide and high.
        second: Likewise.

    Returns:
        (N,) float64, from -1 to 1.

    Raises:
        ValueError: As in `rank_correlation`, or the maps are too small.
    """
    from skimage.metrics import structural_similarity  # slow to import

    one, two = (
        m / m.abs().amax((1, 2), keepdim=True).clamp(min=1e-300) for m in _pair(first, second)
    )
    if min(one.shape[1:]) < _SSIM_WINDOW:
        raise ValueError(f"maps must have at least {_SSIM_WINDOW} pixels a side, not {one.shape}")
    pairs = zip(one.numpy(), two.numpy(), strict=True)
    values = [
        structural_similarity(a, b, win_size=_SSIM_WINDOW, data_range=2.0)  # type: ignore[no-untyped-call]
        for a, b in pairs
    ]
    return torch.from_numpy(np.array(values, dtype=np.float64))


def _correlations(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """Rank correlation, with and without the sign."""
    one, two = _pair(first, second)
    return rank_correlation(one, two), rank_correlation(one.abs(), two.abs())


def _dealt_anew(maps: Tensor, generator: torch.Generator) -> Tensor:
    """Maps (N, H, W) whose values that are not zero have changed places with each other."""
    pixels = _pixels(maps).clone()
    for one in pixels:
        values = one[one != 0]
        one[one != 0] = values[torch.randperm(len(values), generator=generator)]
    return pixels


def _pair(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    one, two = _pixels(first), _pixels(second)
    if one.shape != two.shape:
        raise ValueError(f"the maps differ in shape: {tuple(one.shape)} and {tuple(two.shape)}")
    return one, two


def _weighted_layers(model: nn.Module, x: Tensor) -> tuple[str, ...]:
    """Paths of the convolutions and linear layers, in reverse order of execution."""
    weighted = (graph.Convolution, graph.Dense)
    paths = [
        node.module for node in graph.trace(model, x).nodes if isinstance(node.operation, weighted)
    ]
    return tuple(reversed(dict.fromkeys(paths)))
