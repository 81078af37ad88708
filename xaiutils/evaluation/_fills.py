"""What replaces a region: noise, the image's own colours, a constant, or a blurred copy.

A fill is called with images (N, C, H, W) and a generator, and returns a whole replacement for each;
region perturbation takes from it the regions that it replaces. Samek et al. 2017 use uniform noise
in the main text and name the four kinds in their appendix. Fills that guess what could have been
there are in :mod:`xaiutils.evaluation._imputers`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from xaiutils.evaluation._imputers import Histogram, Inpaint, NoisyLinear

BlindFill = Callable[[Tensor, torch.Generator], Tensor]
"""``fill(images, generator)`` gives replacements of the same shape, drawn with the generator."""

SeeingFill = Callable[[Tensor, torch.Generator, Tensor], Tensor]
"""``fill(images, generator, gone)``, with an attribute ``sees_mask = True``, is told what is gone.

That is (N, 1, H, W) bool, True where a pixel is replaced; see `region_perturbation`.
"""

Fill = BlindFill | SeeingFill


@dataclass(frozen=True, eq=False)
class Uniform:
    """Independent uniform noise at each pixel and in each channel.

    Attributes:
        low: Lowest value, in the network's units; a number, or a tensor that fits (C, H, W).
        high: Highest value, likewise.
    """

    low: float | Tensor = 0.0
    high: float | Tensor = 1.0
    random: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not bool((torch.as_tensor(self.low) <= torch.as_tensor(self.high)).all()):
            raise ValueError(f"low {self.low} must not exceed high {self.high}")

    @classmethod
    def of(cls, images: Tensor) -> Uniform:
        """Noise in the range of each channel of these images (N, C, H, W)."""
        low, high = images.aminmax(dim=0)
        return cls(low.amin((1, 2), keepdim=True).cpu(), high.amax((1, 2), keepdim=True).cpu())

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Noise of the images' shape; its pixels take nothing else from them."""
        noise = torch.rand(images.shape, generator=generator, dtype=images.dtype)
        return torch.lerp(
            torch.as_tensor(self.low).to(noise).expand_as(noise),
            torch.as_tensor(self.high).to(noise).expand_as(noise),
            noise,
        )


@dataclass(frozen=True)
class Dirichlet:
    """Noise with the colours of the image: each pixel is a random mixture of a few of its pixels.

    The paper names a Dirichlet distribution that keeps the image's statistics, and leaves the rest
    open; this is our reconstruction. The weights of the mixture are drawn from the flat Dirichlet
    distribution. The mean colour is kept, the covariance of the channels is that of the image times
    2 / (points + 1), and no colour leaves the convex hull of the image's colours.

    Attributes:
        points: How many pixels are mixed, at least 1. One pixel keeps the covariance whole.
    """

    points: int = 3
    random: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.points < 1:
            raise ValueError(f"points must be at least 1, not {self.points}")

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Mixtures of the colours of each of the images (N, C, H, W)."""
        colours = images.flatten(2)
        number, channels, pixels = colours.shape
        chosen = torch.randint(pixels, (number, 1, self.points * pixels), generator=generator)
        mixed = colours.gather(2, chosen.expand(-1, channels, -1)).view(
            number, channels, self.points, pixels
        )
        # Exponential variables divided by their sum follow the flat Dirichlet distribution.
        weights = torch.empty(number, 1, self.points, pixels, dtype=images.dtype)
        weights.exponential_(generator=generator)
        weights /= weights.sum(dim=2, keepdim=True)
        replacement: Tensor = (weights * mixed).sum(dim=2).view_as(images)
        return replacement


@dataclass(frozen=True, eq=False)
class Constant:
    """Always the same: one colour, or one colour for each place, such as a data set's mean image.

    Attributes:
        value: In the network's units; a number, or a tensor that fits (C, H, W).
    """

    value: float | Tensor = 0.0
    random: ClassVar[bool] = False

    @classmethod
    def mean_of(cls, images: Tensor) -> Constant:
        """The mean of these images (N, C, H, W) at each place."""
        return cls(images.double().mean(dim=0).to(images.dtype).cpu())

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """The constant for each of the images (N, C, H, W)."""
        return torch.as_tensor(self.value).to(images).expand_as(images)


@dataclass(frozen=True)
class Blur:
    """The image itself, blurred by a Gaussian; beyond the edge its outermost pixels go on.

    Attributes:
        sigma: Standard deviation of the Gaussian, in pixels; 3 in the paper.
    """

    sigma: float = 3.0
    random: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if not self.sigma > 0:
            raise ValueError(f"sigma must be positive, not {self.sigma}")

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """A blurred copy of each of the images (N, C, H, W)."""
        from scipy.ndimage import gaussian_filter  # slow to import

        sigmas = (0, 0, self.sigma, self.sigma)
        return torch.from_numpy(gaussian_filter(images.numpy(), sigmas, mode="nearest"))


FILLS: dict[str, Callable[[Tensor], Fill]] = {
    "uniform": Uniform.of,
    "dirichlet": lambda images: Dirichlet(),
    "constant": Constant.mean_of,
    "blur": lambda images: Blur(),
    "noisy_linear": lambda images: NoisyLinear(),
    "histogram": lambda images: Histogram(),
    "inpaint": lambda images: Inpaint(),
}
"""Fills by name, each made from the images that are to be perturbed."""
