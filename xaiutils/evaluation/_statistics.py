"""How sure a mean over images is, and which methods differ by more than chance explains."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import combinations

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

_RESAMPLES_AT_ONCE = 500


@dataclass(frozen=True)
class Interval:
    """A mean over images with its confidence interval.

    Attributes:
        mean: Over the images.
        low: Lower end.
        high: Upper end.
        level: Confidence, such as 0.95.
        images: How many images it rests on.
    """

    mean: float
    low: float
    high: float
    level: float
    images: int

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
    values: Tensor, level: float = 0.95, resamples: int = 10_000, seed: int = 0
) -> Interval:
    """Mean over images, with the percentile bootstrap interval (Efron 1979) over images.

    Images are drawn with replacement; repetitions were averaged before and are not. With few
    images such an interval is too short: with six, a 95 % interval covers the mean of normally
    distributed values about 85 times in a hundred.

    Args:
        values: One number for each image, shape (N,), such as `Curves.aopc()`.
        level: Confidence, in (0, 1).
        resamples: How many samples of N images are drawn.
        seed: Of the draws. The same seed draws the same images, so that equal numbers of images
            are resampled alike.

    Returns:
        The mean and its interval, in units of `values`.

    Raises:
        ValueError: Fewer than two images, a value that is not finite, or a level outside (0, 1).
    """
    numbers = _checked(values)
    if not 0 < level < 1:
        raise ValueError(f"level must lie between 0 and 1, not {level}")
    if resamples < 1:
        raise ValueError(f"resamples must be at least 1, not {resamples}")
    means = [counts @ numbers / len(numbers) for counts in _counts(len(numbers), resamples, seed)]
    low, high = np.quantile(np.concatenate(means), [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(numbers.mean()), float(low), float(high), level, len(numbers))


def compare(
    methods: Mapping[str, Tensor],
    level: float = 0.95,
    resamples: int = 10_000,
    seed: int = 0,
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
        resamples: Draws of the bootstrap, and of the signs; no p-value is below
            1 / (resamples + 1).
        seed: Of the draws.

    Returns:
        One comparison for each pair, in the order of the mapping.

    Raises:
        ValueError: Fewer than two methods or images, numbers of images that differ, a value that is
            not finite, or a level outside (0, 1).
    """
    if len(methods) < 2:
        raise ValueError(f"a comparison needs at least two methods, not {list(methods)}")
    sizes = {name: tuple(values.shape) for name, values in methods.items()}
    if len(set(sizes.values())) > 1:
        raise ValueError(f"methods must be measured on the same images, not on {sizes}")
    found = []
    for first, second in combinations(methods, 2):
        differences = methods[first].double() - methods[second].double()
        interval = bootstrap(differences, level, resamples, seed)
        p_value = sign_flip(differences, resamples, seed)
        found.append(Comparison(first, second, interval, p_value, p_value))
    adjusted = holm([pair.p_value for pair in found])
    return [replace(pair, p_adjusted=p) for pair, p in zip(found, adjusted, strict=True)]


def sign_flip(differences: Tensor, resamples: int = 10_000, seed: int = 0) -> float:
    """Two-sided p-value that paired differences are symmetric about zero.

    Args:
        differences: One for each image, shape (N,).
        resamples: How many draws of N signs.
        seed: Of the draws.

    Returns:
        The share of draws, the observed signs counted in, whose mean is as far from zero.

    Raises:
        ValueError: Fewer than two images, or a value that is not finite.
    """
    numbers = _checked(differences)
    reached = abs(numbers.sum()) - _rounding(numbers)
    extreme = 1
    for signs in _signs(len(numbers), resamples, seed):
        extreme += int((abs(signs @ numbers) >= reached).sum())
    return extreme / (resamples + 1)


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


def _above_zero(numbers: NDArray[np.float64], resamples: int, seed: int) -> float:
    """One-sided p-value that the numbers are symmetric about zero, or about less."""
    reached = numbers.sum() - _rounding(numbers)
    extreme = 1
    for signs in _signs(len(numbers), resamples, seed):
        extreme += int((signs @ numbers >= reached).sum())
    return extreme / (resamples + 1)


def _rounding(numbers: NDArray[np.float64]) -> float:
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


def _checked(values: Tensor) -> NDArray[np.float64]:
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
