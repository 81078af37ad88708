"""Baselines: the picture in which nothing is to be seen, from which a path or a difference starts.

A method that explains a difference :math:`f(x) - f(x')` needs an :math:`x'`. It is in the network's
units, like *x*. Some can be told by name, and of these black, white and uniform noise need to know
what the darkest and the brightest pixel are in these units. The network does not know; its
preprocessing does.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from torch import Tensor

from xaiutils.attribution._common import check_choice

Maker = Callable[[Tensor, torch.Generator], Tensor]
"""``make(x, generator)`` returns baselines for images (N, C, H, W), like them."""

Baseline = float | str | Tensor | Maker
Baselines = Baseline | Sequence[Baseline]
"""A number, a name, a tensor, a function, or several of them, over which methods average.

- A number: that value everywhere. 0 is the mean picture of the training set in the units of most
  networks of photographs, a grey, and black in those of the digit networks.
- ``"black"``, ``"white"``: needs ``units``. ``"mean"``: the mean colour of the picture itself.
  ``"blur"``: the picture itself, blurred with a standard deviation of a tenth of its shorter side.
  ``"uniform"``: noise at each pixel, from black to white, or without ``units`` within the range of
  each channel of the picture; all images of a batch get the same draw.
- A tensor of the shape of ``x``, or that expands to it: one for each image, or for all. A tensor
  (B, C, H, W) of B others, where B is neither 1 nor the number of images: a set. To be sure that
  it is taken for a set, hand over ``list(tensor)``.
- A function of the images and a random generator.
"""

NAMES = ("black", "white", "mean", "blur", "uniform")


class Units(Protocol):
    """What black and white are for a network; ``clf.preprocess`` of a classifier knows."""

    @property
    def low(self) -> Tensor:
        """The network's input for a black pixel, (C, 1, 1)."""

    @property
    def high(self) -> Tensor:
        """The network's input for a white pixel, (C, 1, 1)."""


def makers(baselines: Baselines, x: Tensor, units: Units | None) -> list[Maker]:
    """Return one function for each baseline, after every check that can be made.

    Args:
        baselines: What the user handed over.
        x: The images (N, C, H, W).
        units: What black and white are, where somebody said so.

    Raises:
        ValueError: If a name is unknown or needs ``units``, there are none, or a tensor does not
            fit ``x`` or is not finite.
        TypeError: If a baseline is of none of these types.
    """
    if isinstance(baselines, Tensor) and _is_set(baselines, x):
        return [_fixed(one, x) for one in baselines]
    if isinstance(baselines, (list, tuple)):
        if not baselines:
            raise ValueError("baselines is empty; hand over one baseline at least")
        return [_maker(one, x, units) for one in baselines]
    return [_maker(baselines, x, units)]


def _is_set(given: Tensor, x: Tensor) -> bool:
    return given.shape[1:] == x.shape[1:] and given.ndim == x.ndim and len(given) not in (1, len(x))


def _maker(given: object, x: Tensor, units: Units | None) -> Maker:
    if isinstance(given, str):
        return _named(given, x, units)
    if isinstance(given, Tensor) or (isinstance(given, (int, float)) and given is not True):
        return _fixed(given, x)
    if callable(given):
        return lambda x, generator: _checked(given(x, generator), x)
    raise TypeError(
        "a baseline is a number, a tensor, a function of images and generator, or one of "
        f"{', '.join(NAMES)}, not {type(given).__name__}"
    )


def _fixed(given: Tensor | float, x: Tensor) -> Maker:
    number = torch.float64  # a number keeps its digits where x has more than float32
    start = _checked(given if isinstance(given, Tensor) else torch.tensor(given, dtype=number), x)
    return lambda x, generator: start


def _checked(given: Tensor, x: Tensor) -> Tensor:
    given = given.detach().to(x)
    try:
        start = given.expand_as(x)
    except RuntimeError as error:
        raise ValueError(
            f"baselines of shape {tuple(given.shape)} do not fit x of shape {tuple(x.shape)}"
        ) from error
    if not bool(torch.isfinite(given).all()):
        raise ValueError("baselines hold NaN or infinite values")
    return start


def _named(name: str, x: Tensor, units: Units | None) -> Maker:
    check_choice("a baseline's name", name, NAMES)
    if name in ("black", "white"):
        if units is None:
            raise ValueError(
                f"where {name} is in the network's units, only its preprocessing knows: hand over "
                "units=clf.preprocess, or the baseline itself as a number or tensor"
            )
        return _fixed(units.low if name == "black" else units.high, x)
    if name == "uniform":
        return lambda x, generator: _noise(x, generator, units)
    if x.ndim < 3:
        raise ValueError(f"the baseline {name!r} is for pictures, not for x {tuple(x.shape)}")
    return _mean_colour if name == "mean" else _blurred


def _mean_colour(x: Tensor, generator: torch.Generator) -> Tensor:
    return x.mean(tuple(range(2, x.ndim)), keepdim=True).expand_as(x)


def _blurred(x: Tensor, generator: torch.Generator) -> Tensor:
    from scipy.ndimage import gaussian_filter  # slow to import

    sigmas = (0, 0, *[min(x.shape[2:]) / 10] * (x.ndim - 2))
    return torch.from_numpy(gaussian_filter(x.cpu().numpy(), sigmas, mode="nearest")).to(x)


def _noise(x: Tensor, generator: torch.Generator, units: Units | None) -> Tensor:
    if units is None:
        inside = tuple(range(2, x.ndim)) or (1,)
        low, high = x.amin(inside, keepdim=True), x.amax(inside, keepdim=True)
    else:
        low, high = units.low.to(x), units.high.to(x)
    noise = torch.rand(x.shape[1:], generator=generator, dtype=x.dtype).to(x.device)
    return torch.lerp(low.expand_as(x), high.expand_as(x), noise.expand_as(x))
