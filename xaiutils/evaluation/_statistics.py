"""How sure a mean over images is, and which methods differ by more than chance explains."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import combinations, product
from statistics import NormalDist
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

IntervalMethod = Literal["percentile", "bca", "t"]
Tail = Literal["draws", "normal"]

INTERVAL_METHODS: tuple[IntervalMethod, ...] = ("percentile", "bca", "t")
FEW_IMAGES = 10

_TAILS: tuple[Tail, ...] = ("draws", "normal")
_RESAMPLES_AT_ONCE = 500
_ENOUGH = 10  # draws as extreme as the sum that was found: from here on they are counted
_NORMAL = NormalDist()

Numbers = NDArray[np.float64]


class FewImagesWarning(UserWarning):
    """So few images that the interval over them is too short, or rests on an assumption."""


@dataclass(frozen=True)
class Interval:
    """A mean over images with its confidence interval.

    Attributes:
        mean: Over the images.
        low: Lower end.
        high: Upper end.
        level: Confidence, such as 0.95.
        images: How many images it rests on.
        groups: How many groups, such as trainings, the images lie in; None without groups.
    """

    mean: float
    low: float
    high: float
    level: float
    images: int
    groups: int | None = None

    def __str__(self) -> str:
        return f"{self.mean:.4g} [{self.low:.4g}, {self.high:.4g}]"


@dataclass(frozen=True)
class Comparison:
    """Two methods on the same images.

    Attributes:
        first: Name of one method.
        second: Name of the other.
        difference: Mean of first minus second over the images, with an interval for this pair
            alone.
        p_value: Of the hypothesis that the differences are symmetric about zero.
        p_adjusted: The same after Holm's correction for all pairs that were compared.
    """

    first: str
    second: str
    difference: Interval
    p_value: float
    p_adjusted: float


def bootstrap(
    values: Tensor,
    level: float = 0.95,
    resamples: int = 10_000,
    seed: int = 0,
    *,
    method: IntervalMethod = "percentile",
    groups: Tensor | Sequence[int] | Sequence[str] | None = None,
) -> Interval:
    """Mean over images, with an interval: the bootstrap over images, or Student's t.

    Images are drawn with replacement; repetitions were averaged before and are not.

    "percentile" (Efron 1979) takes quantiles of the means that were drawn. With few images it is
    too short: with six, a 95 % interval covers the mean of normally distributed values about 85
    times in a hundred. "bca" (Efron 1987) moves the quantiles by the bias of the drawn means and by
    the skewness of the values, and is the better one for skewed values; few images make it too
    short as well. "t" draws nothing: mean plus and minus the quantile of Student's distribution
    times the standard error. It is right for normally distributed values however few there are,
    and the one to take below ten images, where nothing can tell whether they are.

    With `groups` the question is how the mean moves with other groups, say other trainings of the
    network, and not only with other images in these. The mean is that of the groups' means. Groups
    are drawn with replacement, then the images within each; "t" takes the groups' means as values.
    With few groups even this is too short but for "t".

    Args:
        values: One number for each image, shape (N,), such as `Curves.aopc()`.
        level: Confidence, in (0, 1).
        resamples: How many samples are drawn; not used by "t".
        seed: Of the draws. The same seed draws the same images, so that equal numbers of images
            are resampled alike.
        method: "percentile", "bca" or "t".
        groups: The group of each image, N labels; None if images alone are drawn.

    Returns:
        The mean and its interval, in units of `values`.

    Raises:
        ValueError: Fewer than two images or two groups, labels that are not one for each image, a
            value that is not finite, an unknown method, or a level outside (0, 1).

    Warns:
        FewImagesWarning: Fewer than ten images (or groups) and a method that is too short then.
    """
    units = _units(values, groups)
    found = _interval(units, level, resamples, seed, method, grouped=groups is not None)
    if method != "t" and len(units) < FEW_IMAGES:
        what = "images" if groups is None else "groups"
        warnings.warn(
            f"an interval over {len(units)} {what} by {method!r} is too short: it covers less "
            f'often than it says. Take more {what}, or method="t"',
            FewImagesWarning,
            stacklevel=2,
        )
    return found


def _interval(
    units: list[Numbers],
    level: float,
    resamples: int,
    seed: int,
    method: IntervalMethod,
    grouped: bool = False,
) -> Interval:
    """The interval over units: images, each a number alone, or groups of images."""
    if not 0 < level < 1:
        raise ValueError(f"level must lie between 0 and 1, not {level}")
    if resamples < 1:
        raise ValueError(f"resamples must be at least 1, not {resamples}")
    if method not in INTERVAL_METHODS:
        raise ValueError(f"method is {method!r}: choose from 'percentile', 'bca', 't'")
    means = np.array([unit.mean() for unit in units])
    if method == "t":
        low, high = _student(means, level)
    else:
        many = _drawn_in_groups(units, resamples, seed) if grouped else None
        drawn = _drawn(means, resamples, seed) if many is None else many
        shares = [(1 - level) / 2, (1 + level) / 2]
        low, high = np.quantile(drawn, _moved(shares, drawn, means) if method == "bca" else shares)
    count = len(means) if grouped else None
    return Interval(
        float(means.mean()), float(low), float(high), level, sum(map(len, units)), count
    )


def _drawn(numbers: Numbers, resamples: int, seed: int) -> Numbers:
    """Means of images drawn with replacement, (resamples,)."""
    parts = _counts(len(numbers), resamples, seed)
    return np.concatenate([counts @ numbers / len(numbers) for counts in parts])


def _drawn_in_groups(groups: list[Numbers], resamples: int, seed: int) -> Numbers:
    """Means of groups drawn with replacement, of images drawn with replacement in each."""
    random = np.random.default_rng(seed)
    chosen = random.integers(len(groups), size=(resamples, len(groups)))
    means = np.empty(chosen.shape)
    for number, group in enumerate(groups):
        rows = chosen == number
        for part in np.array_split(np.flatnonzero(rows), 1 + rows.sum() // _RESAMPLES_AT_ONCE):
            images = random.integers(len(group), size=(len(part), len(group)))
            means.flat[part] = group[images].mean(axis=1)
    found: Numbers = means.mean(axis=1)
    return found


def _student(means: Numbers, level: float) -> tuple[float, float]:
    from scipy.special import stdtrit  # slow to import

    error = means.std(ddof=1) / np.sqrt(len(means))
    half = float(stdtrit(len(means) - 1, (1 + level) / 2)) * error
    return float(means.mean() - half), float(means.mean() + half)


def _moved(shares: Sequence[float], drawn: Numbers, means: Numbers) -> list[float]:
    """Which quantiles BCa takes: Efron 1987, with the acceleration from the jackknife.

    Drawn means that equal the mean but for rounding count half: means of few images often do.
    """
    near = 1e-12 * max(float(abs(means).max()), 1e-300)
    middle = means.mean()
    below = ((drawn < middle - near).mean() + (drawn <= middle + near).mean()) / 2
    bias = _NORMAL.inv_cdf(float(np.clip(below, 0.5 / len(drawn), 1 - 0.5 / len(drawn))))
    off = middle - (means.sum() - means) / (len(means) - 1)  # of the mean without each of them
    spread = float((off**2).sum()) ** 1.5
    skew = float((off**3).sum()) / (6 * spread) if spread > 0 else 0.0
    moved = (bias + _NORMAL.inv_cdf(share) for share in shares)
    return [_NORMAL.cdf(bias + z / (1 - skew * z)) for z in moved]


def compare(
    methods: Mapping[str, Tensor],
    level: float = 0.95,
    resamples: int = 10_000,
    seed: int = 0,
    *,
    method: IntervalMethod = "percentile",
    tail: Tail = "draws",
) -> list[Comparison]:
    """Compare every pair of methods on the same images.

    Each image gives a difference. If the methods did not differ, its sign would be as likely one
    way as the other: the test flips signs at random and counts how often the mean gets as far from
    zero as the one that was found (Fisher 1935). With m pairs compared, Holm's step-down procedure
    (Holm 1979) multiplies the smallest p-value by m, the next by m - 1, and so on, and keeps their
    order; all pairs below 0.05 after it differ with a probability of at most 0.05 that any of them
    does so by chance.

    Args:
        methods: For each method one number per image, shape (N,), of the same images in the same
            order.
        level: Confidence of each pair's own interval, in (0, 1).
        resamples: Draws of the bootstrap, and of the signs; unless `tail` is "normal", no p-value
            is below 1 / (resamples + 1).
        seed: Of the draws.
        method: Of the intervals, as in `bootstrap`.
        tail: Of the p-values, as in `sign_flip`.

    Returns:
        One comparison for each pair, in the order of the mapping.

    Raises:
        ValueError: Fewer than two methods or images, numbers of images that differ, a value that is
            not finite, or a level outside (0, 1).

    Warns:
        FewImagesWarning: As in `bootstrap`.
    """
    if len(methods) < 2:
        raise ValueError(f"a comparison needs at least two methods, not {list(methods)}")
    sizes = {name: tuple(values.shape) for name, values in methods.items()}
    if len(set(sizes.values())) > 1:
        raise ValueError(f"methods must be measured on the same images, not on {sizes}")
    found = []
    for first, second in combinations(methods, 2):
        differences = methods[first].double() - methods[second].double()
        interval = bootstrap(differences, level, resamples, seed, method=method)
        p_value = sign_flip(differences, resamples, seed, tail=tail)
        found.append(Comparison(first, second, interval, p_value, p_value))
    adjusted = holm([pair.p_value for pair in found])
    return [replace(pair, p_adjusted=p) for pair, p in zip(found, adjusted, strict=True)]


def sign_flip(
    differences: Tensor, resamples: int = 10_000, seed: int = 0, *, tail: Tail = "draws"
) -> float:
    """Two-sided p-value that paired differences are symmetric about zero.

    A share of draws cannot fall below 1 / (resamples + 1), which Holm's correction then multiplies:
    all strong effects read the same. With ``tail="normal"`` all patterns of signs are counted where
    there are no more than `resamples`; and where fewer than ten draws got as far, the tail is that
    of a normal distribution with the standard deviation of the flipped sums, the root of the sum of
    squares. No p-value is below 2 / 2^N, the share of the two most extreme patterns.

    Args:
        differences: One for each image, shape (N,).
        resamples: How many draws of N signs.
        seed: Of the draws.
        tail: "draws" counts draws; "normal" is finer, as said above.

    Returns:
        The share of draws, the observed signs counted in, whose mean is as far from zero.

    Raises:
        ValueError: Fewer than two images, a value that is not finite, or an unknown tail.
    """
    if tail not in _TAILS:
        raise ValueError(f"tail is {tail!r}: choose from 'draws', 'normal'")
    numbers = _checked(differences)
    reached = abs(numbers.sum()) - _rounding(numbers)
    if tail == "normal" and 2 ** len(numbers) <= resamples:
        patterns = np.array(list(product((-1, 1), repeat=len(numbers))))
        return float((abs(patterns @ numbers) >= reached).mean())
    extreme = 1
    for signs in _signs(len(numbers), resamples, seed):
        extreme += int((abs(signs @ numbers) >= reached).sum())
    if tail == "draws" or extreme > _ENOUGH:
        return extreme / (resamples + 1)
    far = 2 * _NORMAL.cdf(-reached / float(np.sqrt((numbers**2).sum())))
    return max(far, 2.0 ** (1 - len(numbers)))


def equivalence(
    differences: Tensor, margin: float, resamples: int = 10_000, seed: int = 0
) -> float:
    """P-value that paired differences are not within a margin of zero: two one-sided tests.

    A difference that is not shown to be there may still be large. To show that two things are
    *equal*, say within which margin, and reject both that the mean lies below -margin and that it
    lies above +margin (Schuirmann 1987). Each is tested by flipping the signs of the differences,
    moved by the margin, about zero; the larger of the two p-values counts.

    Args:
        differences: One for each image, shape (N,).
        margin: Above 0, in units of `differences`. To be chosen before looking at them.
        resamples: How many draws of N signs.
        seed: Of the draws.

    Returns:
        A p-value. Below 0.05 both are rejected, and the mean lies within the margin.

    Raises:
        ValueError: Fewer than two images, a value that is not finite, or a margin not above 0.
    """
    numbers = _checked(differences)
    if not 0 < margin < np.inf:
        raise ValueError(f"margin must be a positive number, not {margin}")
    return max(_above_zero(side, resamples, seed) for side in (numbers + margin, margin - numbers))


def _above_zero(numbers: Numbers, resamples: int, seed: int) -> float:
    """One-sided p-value that the numbers are symmetric about zero, or about less."""
    reached = numbers.sum() - _rounding(numbers)
    extreme = 1
    for signs in _signs(len(numbers), resamples, seed):
        extreme += int((signs @ numbers >= reached).sum())
    return extreme / (resamples + 1)


def _rounding(numbers: Numbers) -> float:
    """Sums that are equal but for the rounding of float32 scores count as equal."""
    return float(1e-7 * abs(numbers).sum())


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's (1979) adjusted p-values, in the order given, at most 1."""
    adjusted = [0.0] * len(p_values)
    largest = 0.0
    for place, number in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        largest = max(largest, min(1.0, (len(p_values) - place) * p_values[number]))
        adjusted[number] = largest
    return adjusted


def _units(values: Tensor, groups: Tensor | Sequence[int] | Sequence[str] | None) -> list[Numbers]:
    """What is drawn: the images, or the groups of them in the order of their first image."""
    numbers = _checked(values)
    if groups is None:
        return list(numbers[:, None])
    labels = groups.tolist() if isinstance(groups, Tensor) else list(groups)
    if len(labels) != len(numbers):
        raise ValueError(
            f"groups must have one label for each of {len(numbers)} images, not {len(labels)}; "
            f"{len(set(labels))} groups are named"
        )
    names = list(dict.fromkeys(labels))
    if len(names) < 2:
        raise ValueError(
            f"all images are of one group, {names[0]!r}: how a mean moves with other groups needs "
            "at least two of them; leave groups out to ask about other images alone"
        )
    which = np.array([names.index(label) for label in labels])
    return [numbers[which == number] for number in range(len(names))]


def _checked(values: Tensor) -> Numbers:
    numbers = values.detach().cpu().double().numpy()
    if numbers.ndim != 1 or len(numbers) < 2:
        raise ValueError(
            f"values must be (N,) with one number for each of at least two images, not "
            f"{tuple(values.shape)}"
        )
    if not np.isfinite(numbers).all():
        raise ValueError("values hold NaN or infinity")
    return numbers


@lru_cache(maxsize=2)
def _counts(images: int, resamples: int, seed: int) -> list[NDArray[np.uint16]]:
    """How often each image is drawn in each resample: the same for all pairs of methods."""
    random = np.random.default_rng(seed)
    drawn = (random.integers(images, size=(part, images)) for part in _parts(resamples))
    return [np.stack([np.bincount(row, minlength=images) for row in rows]).astype(np.uint16)
            for rows in drawn]  # fmt: skip


@lru_cache(maxsize=2)
def _signs(images: int, resamples: int, seed: int) -> list[NDArray[np.int8]]:
    """Random signs, one for each image in each draw, likewise."""
    random = np.random.default_rng(seed)
    drawn = (random.integers(2, size=(part, images)) for part in _parts(resamples))
    return [(2 * signs - 1).astype(np.int8) for signs in drawn]


def _parts(resamples: int) -> list[int]:
    """Sizes of the parts in which resamples are drawn, to bound the memory."""
    whole, rest = divmod(resamples, _RESAMPLES_AT_ONCE)
    return [_RESAMPLES_AT_ONCE] * whole + [rest] * (rest > 0)
