"""How far a map moves when the picture hardly does; and maps that were smoothed against it."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from xaiutils import graph
from xaiutils.attribution import Target
from xaiutils.attribution._common import resolve_target
from xaiutils.evaluation._perturbation import _check_whole
from xaiutils.evaluation._pictures import generator
from xaiutils.evaluation._sanity import Method


def max_sensitivity(
    model: nn.Module,
    x: Tensor,
    target: Target,
    method: Method,
    radius: float = 0.02,
    draws: int = 10,
    seed: int = 0,
    *,
    first_image: int = 0,
) -> Tensor:
    """The largest change of a map within a small cube around the picture, relative to the map.

    Yeh et al. 2019, by draws: the largest ||R(x + d) - R(x)|| / ||R(x)|| over
    draws of d, independent and uniform from -radius to radius at each value. Division by the size
    of the map is not in the definition, but in their code; without it, a map twice as large would
    be half as stable. The largest of a few draws is a lower bound of the largest of all.

    It asks nothing about the network: a map that is the same for every picture gets 0, the best
    there is. A map drawn anew at each call gets about the square root of 2.

    Args:
        model: A network in evaluation mode.
        x: Images (N, C, H, W).
        target: As in `region_perturbation`; None is the class named at `x`, for all draws.
        method: ``f(model, x, target)`` that gives maps (N, ...).
        radius: Above 0, in the units of `x`.
        draws: How many pictures are drawn around each.
        seed: Of the draws, which depend on it, the image's number and the draw's alone.
        first_image: Number of the first image.

    Returns:
        (N,) float64 from 0 up; small if the map is stable.

    Raises:
        TypeError: An argument is of the wrong type.
        ValueError: The radius is not above 0; a map holds NaN or infinity, or is zero everywhere.
    """
    graph.check_model(model)
    graph.check_input(model, x)
    _check_spread("radius", radius)
    _check_whole("draws", draws, least=1)
    targets = _targets(model, x, target)
    before = _flat(method(model, x, targets))
    size: Tensor = before.norm(dim=1)
    if not bool((size > 0).all()):
        raise ValueError(
            f"the map of image {int(size.argmin())} is zero everywhere; relative to it no change "
            "has a size"
        )
    largest = torch.zeros_like(size)
    for k in range(draws):
        noise = radius * (2 * _uniform(x, seed, first_image, k) - 1)
        change = (_flat(method(model, x + noise, targets)) - before).norm(dim=1)
        largest = torch.maximum(largest, change)
    return largest / size


def smoothed(method: Method, samples: int = 50, spread: float = 0.1, seed: int = 0) -> Method:
    """A method whose map is the mean over pictures with noise.

    With it `parameter_randomisation` is smooth MPRT (Hedstroem et al. 2024): maps
    before and after are averaged, so that the noise of a single map does not pass for a change.
    The noise is the same before and after; it depends on the seed and on the image's place in `x`.

    Args:
        method: ``f(model, x, target)`` that gives maps.
        samples: Over how many pictures; 50 in the paper's code.
        spread: Standard deviation of the noise, as a share of the range of the picture's values;
            0.1 in the paper's code.
        seed: Of the noise.

    Returns:
        ``f(model, x, target)`` that gives maps of the same shape.

    Raises:
        TypeError: `samples` is not an int.
        ValueError: There are no samples, or `spread` is not above 0.
    """
    _check_whole("samples", samples, least=1)
    _check_spread("spread", spread)

    def smooth(model: nn.Module, x: Tensor, target: Target) -> Tensor:
        targets = _targets(model, x, target)
        low, high = x.flatten(1).aminmax(dim=1)
        scale = (spread * (high - low)).view(-1, *[1] * (x.ndim - 1))
        total = torch.zeros(())
        for k in range(samples):
            total = total + method(model, x + scale * _normal(x, seed, k), targets).double()
        return (total / samples).to(x)

    return smooth


def _targets(model: nn.Module, x: Tensor, target: Target) -> Tensor:
    with torch.no_grad():
        return resolve_target(target, graph.outputs_of(model, x))


def _flat(maps: Tensor) -> Tensor:
    """(N, pixels) float64, checked; channels stay apart, as in the definition."""
    if not bool(torch.isfinite(maps).all()):
        raise ValueError("maps hold NaN or infinity; look at the method that made them")
    return maps.detach().cpu().double().flatten(1)


def _uniform(x: Tensor, seed: int, first_image: int, draw: int) -> Tensor:
    drawn = [
        torch.rand(x.shape[1:], generator=generator(seed, first_image + n, draw, "fill"))
        for n in range(len(x))
    ]
    return torch.stack(drawn).to(x)


def _normal(x: Tensor, seed: int, draw: int) -> Tensor:
    drawn = [
        torch.randn(x.shape[1:], generator=generator(seed, n, draw, "fill")) for n in range(len(x))
    ]
    return torch.stack(drawn).to(x)


def _check_spread(name: str, found: float) -> None:
    if not 0 < found < math.inf:
        raise ValueError(f"{name} must be a number above 0, not {found}")
