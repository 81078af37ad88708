"""The gradient, averaged along straight paths from baselines to the image."""

from __future__ import annotations

from typing import Literal, overload

import torch
from torch import Tensor

from xaiutils import graph
from xaiutils.attribution._autograd import prepare_slopes
from xaiutils.attribution._baselines import Baselines, Maker, Units, makers
from xaiutils.attribution._common import (
    Explained,
    Network,
    Resolved,
    Target,
    check_positive,
    settled,
)
from xaiutils.attribution._variants import (
    Moments,
    Runs,
    blocks,
    rows_at_once,
    slopes_at,
    values_at,
)
from xaiutils.graph.errors import warn
from xaiutils.graph.outputs import Output

_FIRST_STEPS = 8


class CompletenessWarning(UserWarning):
    """A map does not sum to the difference that it explains, by more than was asked for."""


@overload
def integrated_gradients(
    model: Network,
    x: Tensor,
    target: Target = None,
    *,
    baselines: Baselines = 0.0,
    units: Units | None = None,
    n_steps: int | None = 50,
    tolerance: float = 0.01,
    max_steps: int = 512,
    seed: int = 0,
    return_convergence_delta: Literal[False] = False,
    output: Output = None,
    batch_size: int | None = None,
) -> Tensor: ...


@overload
def integrated_gradients(
    model: Network,
    x: Tensor,
    target: Target = None,
    *,
    baselines: Baselines = 0.0,
    units: Units | None = None,
    n_steps: int | None = 50,
    tolerance: float = 0.01,
    max_steps: int = 512,
    seed: int = 0,
    return_convergence_delta: Literal[True],
    output: Output = None,
    batch_size: int | None = None,
) -> tuple[Tensor, Tensor]: ...


def integrated_gradients(
    model: Network,
    x: Tensor,
    target: Target = None,
    *,
    baselines: Baselines = 0.0,
    units: Units | None = None,
    n_steps: int | None = 50,
    tolerance: float = 0.01,
    max_steps: int = 512,
    seed: int = 0,
    return_convergence_delta: bool = False,
    output: Output = None,
    batch_size: int | None = None,
) -> Tensor | tuple[Tensor, Tensor]:
    r"""Return the gradient averaged along a straight path, times the path (Sundararajan 2017).

    :math:`(x - x') \odot \int_0^1 \partial f_t(x' + a (x - x'))/\partial x \, da` (their eq. 1),
    with the integral by Gauss-Legendre quadrature. It is complete: its sum is
    :math:`f_t(x) - f_t(x')` up to the error of the quadrature, the completeness gap. For a network
    of straight pieces the integrand jumps at every crease that the path crosses, and the gap falls
    no faster than one over the number of steps, whatever the quadrature.

    Steps and images go through the network together, ``batch_size`` pictures in a pass.

    Args:
        model: A network in evaluation mode, or its :class:`~xaiutils.graph.Graph`.
        x: Inputs (N, C, H, W), as the network takes them.
        target: What to explain, as in :func:`xaiutils.attribution.gradient`.
        baselines: The start :math:`x'` of the path: a number, a tensor that expands to ``x``,
            ``"black"``, ``"white"``, ``"mean"``, ``"blur"`` or ``"uniform"``, or a function of the
            images and a generator. Over several, a list or a tensor (B, C, H, W), the maps are
            averaged, and explain :math:`f_t(x)` less the mean of the :math:`f_t(x')`.
        units: What black and white are for the network: ``clf.preprocess``, or anything with
            ``low`` and ``high`` (C, 1, 1).
        n_steps: The number of points on each path; None doubles it from 8 on, image by image, until
            the gap is small enough.
        tolerance: With ``n_steps=None``: how large the gap may be, as a share of
            :math:`|f_t(x) - f_t(x')|`.
        max_steps: With ``n_steps=None``: the largest number of points.
        seed: Of the baseline ``"uniform"``, and of functions.
        return_convergence_delta: Whether to return the completeness gap as well.
        output: Which of several outputs: a key, a position, or a function; see :func:`gradient`.
        batch_size: How many pictures, images times steps, at a time; bounds the memory. None: as
            many as there are images, or more if they are small.

    Returns:
        (N, C, H, W), in units of the output. With ``return_convergence_delta`` also the gap (N,):
        the sum of the map minus ``f(x) - f(baselines)``.

    Raises:
        TypeError: As in :func:`gradient`, or if a baseline is of an unknown type.
        ValueError: As in :func:`gradient`, or if a number of steps or the tolerance is not
            positive, baselines do not fit, or one needs ``units``.

    Warns:
        CompletenessWarning: With ``n_steps=None``, if the gap of an image is still too large at
            ``max_steps``.
    """
    for name, steps in (("n_steps", n_steps), ("max_steps", max_steps)):
        if steps is not None:
            check_positive(name, steps)
    if not tolerance > 0:
        raise ValueError(f"tolerance must be positive, not {tolerance}")
    network, x, explained = prepare_slopes(model, x, target, output)
    starts, rows = makers(baselines, x, units), rows_at_once(x, batch_size)
    explained = settled(network, x, explained, batch_size)
    generator = torch.Generator().manual_seed(seed)
    asks_gap = n_steps is None or return_convergence_delta
    top = values_at(network, x, explained, batch_size) if asks_gap else None
    heatmaps, gap, missed = torch.zeros_like(x), x.new_zeros(len(x)), 0.0
    for make in starts:
        start = make(x, generator)
        rise = None if top is None else top - values_at(network, start, explained, batch_size)
        if n_steps is not None or rise is None:
            found = _integral(network, start, x, explained, n_steps or max_steps, rows)
        else:
            found, share = _refined(network, start, x, explained, rise, rows, tolerance, max_steps)
            missed = max(missed, share)
        heatmaps += found / len(starts)
        if rise is not None:
            gap += (found.flatten(1).sum(1) - rise) / len(starts)
    if missed > tolerance:
        warn(
            f"after {max_steps} steps the map of an image still misses {missed:.2g} of the "
            f"difference that it explains, more than the tolerance {tolerance:g}; allow more by "
            "max_steps, or take a baseline at which the output is further away",
            CompletenessWarning,
        )
    return (heatmaps, gap) if return_convergence_delta else heatmaps


@graph.undisturbed
def _integral(
    network: Runs, start: Tensor, x: Tensor, explained: Resolved, steps: int, rows: int
) -> Tensor:
    """Return integrated gradients (N, ...) by a fixed number of points."""
    path, total = x - start, torch.zeros_like(x)
    places, weights = (each.to(x) for each in gauss_legendre(steps))
    for some, few in blocks(steps, len(x), rows):
        at = places[some].reshape(-1, *[1] * x.ndim)
        slopes = slopes_at(network, torch.addcmul(start[few], at, path[few]), explained, few)
        total[few] += torch.tensordot(weights[some], slopes, 1)
    return path * total


def _refined(
    network: Runs,
    start: Tensor,
    x: Tensor,
    explained: Explained | Tensor,
    rise: Tensor,
    rows: int,
    tolerance: float,
    max_steps: int,
) -> tuple[Tensor, float]:
    """Double the steps of each image until its gap is small enough.

    Returns:
        The maps, and the largest gap as a share of the difference.
    """
    heatmaps, steps = torch.zeros_like(x), min(_FIRST_STEPS, max_steps)
    left = torch.arange(len(x), device=x.device)
    while True:
        heatmaps[left] = _integral(network, start[left], x[left], explained[left], steps, rows)
        gap = (heatmaps[left].flatten(1).sum(1) - rise[left]).abs()
        share = torch.where(gap == 0, 0.0, gap / rise[left].abs())
        left = left[share > tolerance]
        if not len(left) or steps >= max_steps:
            return heatmaps, float(share.max())
        steps = min(2 * steps, max_steps)


def gauss_legendre(points: int) -> tuple[Tensor, Tensor]:
    """Return places in (0, 1) and weights that sum to 1, in float64."""
    from scipy.special import roots_legendre  # slow to import

    places, weights = map(torch.from_numpy, roots_legendre(points))
    return (places + 1) / 2, weights / 2


@overload
def expected_gradients(
    model: Network,
    x: Tensor,
    target: Target = None,
    *,
    baselines: Baselines,
    units: Units | None = None,
    samples: int = 100,
    seed: int = 0,
    return_standard_error: Literal[False] = False,
    output: Output = None,
    batch_size: int | None = None,
) -> Tensor: ...


@overload
def expected_gradients(
    model: Network,
    x: Tensor,
    target: Target = None,
    *,
    baselines: Baselines,
    units: Units | None = None,
    samples: int = 100,
    seed: int = 0,
    return_standard_error: Literal[True],
    output: Output = None,
    batch_size: int | None = None,
) -> tuple[Tensor, Tensor]: ...


def expected_gradients(
    model: Network,
    x: Tensor,
    target: Target = None,
    *,
    baselines: Baselines,
    units: Units | None = None,
    samples: int = 100,
    seed: int = 0,
    return_standard_error: bool = False,
    output: Output = None,
    batch_size: int | None = None,
) -> Tensor | tuple[Tensor, Tensor]:
    r"""Return integrated gradients over a set of baselines, by random pairs (Erion et al. 2021).

    :math:`E_{x', a} [(x - x') \odot \partial f_t(x' + a (x - x'))/\partial x]` with a baseline
    drawn from the set and a place :math:`a` drawn from 0 to 1, anew for each sample; the same
    for all images of a batch. It is an estimate without bias of the mean of
    :func:`integrated_gradients` over the set, and its error falls as one over the root of
    ``samples``.

    Args:
        model: A network in evaluation mode, or its :class:`~xaiutils.graph.Graph`.
        x: Inputs (N, C, H, W), as the network takes them.
        target: What to explain, as in :func:`xaiutils.attribution.gradient`.
        baselines: The set, as in :func:`integrated_gradients`; ``"uniform"`` is drawn anew for each
            sample.
        units: What black and white are for the network: ``clf.preprocess``.
        samples: The number of pairs.
        seed: Of the draws.
        return_standard_error: Whether to return the standard error of each value as well.
        output: Which of several outputs: a key, a position, or a function; see :func:`gradient`.
        batch_size: How many pictures, images times samples, at a time; bounds the memory.

    Returns:
        (N, C, H, W), in units of the output; with ``return_standard_error`` also its standard
        error, in the same shape and unit.

    Raises:
        TypeError: As in :func:`integrated_gradients`.
        ValueError: As in :func:`integrated_gradients`, or if ``samples`` is not positive, or less
            than 2 where an error is asked for.
    """
    check_samples(samples, return_standard_error)
    network, x, explained = prepare_slopes(model, x, target, output)
    starts, rows = makers(baselines, x, units), rows_at_once(x, batch_size)
    explained = settled(network, x, explained, batch_size)
    moments = _sampled(
        network, x, explained, starts, samples, seed, rows, 1 + return_standard_error
    )
    return (moments.mean, moments.error_of_mean()) if return_standard_error else moments.mean


def check_samples(samples: int, spread: bool) -> None:
    """Raise ValueError unless there are samples enough to average, or to see how they scatter."""
    check_positive("samples", samples)
    if spread and samples < 2:
        raise ValueError(f"samples must be at least 2 to see how they scatter, not {samples}")


@graph.undisturbed
def _sampled(
    network: Runs,
    x: Tensor,
    explained: Resolved,
    starts: list[Maker],
    samples: int,
    seed: int,
    rows: int,
    order: int,
) -> Moments:
    generator, moments = torch.Generator().manual_seed(seed), Moments(order)
    at_once = max(1, rows // len(x))
    for first in range(0, samples, at_once):
        pairs = [_pair(starts, x, generator) for _ in range(min(at_once, samples - first))]
        paths = torch.stack([x - start for start, _ in pairs])
        points = torch.stack([torch.lerp(start, x, place) for start, place in pairs])
        for _, few in blocks(1, len(x), rows):
            paths[:, few] *= slopes_at(network, points[:, few], explained, few)
        for sample in paths:
            moments.add(sample)
    return moments


def _pair(starts: list[Maker], x: Tensor, generator: torch.Generator) -> tuple[Tensor, float]:
    """Draw a baseline and a place on the way from it."""
    number = int(torch.randint(len(starts), (1,), generator=generator))
    place = float(torch.rand(1, generator=generator, dtype=torch.float64))
    return starts[number](x, generator), place
