"""The perturbed pictures: random draws that all methods share, and one picture per step.

Every draw depends on the seed, the image's number and the repetition, and on nothing else: not on
the method, the order, the batch size or the device, and not on which other images are evaluated.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from typing import cast

import numpy as np
import torch
from torch import Tensor

from xaiutils.evaluation._fills import BlindFill, Fill, SeeingFill
from xaiutils.evaluation._ranks import count_ties, morf_ranks
from xaiutils.windows import Regions

Replacement = Tensor | Callable[[Tensor], Tensor]

_PURPOSES = ("fill", "order", "block", "subsets")


def generator(seed: int, image: int, repeat: int, purpose: str) -> torch.Generator:
    """A generator on the CPU for one image, one repetition and one of the purposes above."""
    entropy = np.random.SeedSequence([seed, image, repeat, _PURPOSES.index(purpose)])
    return torch.Generator().manual_seed(int(entropy.generate_state(1)[0]))


@dataclass(frozen=True, eq=False)
class Draws:
    """The images, and everything random that is done to them.

    Attributes:
        x: Images, shape (N, C, H, W), on the device of the model.
        regions: How an image is cut.
        fill: What replaces a region.
        seed: Of all draws.
        first_image: Number of the first image, if these are a part of a larger set.
    """

    x: Tensor
    regions: Regions
    fill: Fill
    seed: int
    first_image: int

    @property
    def sees_mask(self) -> bool:
        """Whether the fill asks which pixels are gone: then each step has its own replacement."""
        return bool(getattr(self.fill, "sees_mask", False))

    def replacement(self, image: int, repeat: int) -> Tensor:
        """What replaces the regions of one image, (C, H, W), drawn on the CPU."""
        one = self.x[image : image + 1].detach().cpu().clone()  # a fill may work in place
        fill = cast(BlindFill, self.fill)
        return self._checked(image, fill(one, self._noise(image, repeat)), one)[0]

    def replacements(self, image: int, repeat: int, gone: Tensor) -> Tensor:
        """The same where the fill sees the mask: for gone (K, 1, H, W) it is (K, C, H, W)."""
        one = self.x[image : image + 1].detach().cpu()
        many = one.expand(len(gone), -1, -1, -1).clone()
        drawn = cast(SeeingFill, self.fill)(many, self._noise(image, repeat), gone.cpu())
        return self._checked(image, drawn, many)

    def _noise(self, image: int, repeat: int) -> torch.Generator:
        return generator(self.seed, self.first_image + image, repeat, "fill")

    def _checked(self, image: int, drawn: object, images: Tensor) -> Tensor:
        if not isinstance(drawn, Tensor) or drawn.shape != images.shape:
            shape = tuple(drawn.shape) if isinstance(drawn, Tensor) else type(drawn).__name__
            raise ValueError(
                f"fill must return a tensor of the images' shape {tuple(images.shape)}, not {shape}"
            )
        if not bool(torch.isfinite(drawn).all()):
            raise ValueError(f"fill returned NaN or infinite values for image {image}")
        return drawn.to(self.x)

    def replacer(self, image: int, repeat: int) -> Replacement:
        """What replaces the regions of one image, whichever kind of fill it is."""
        if self.sees_mask:
            return partial(self.replacements, image, repeat)
        return self.replacement(image, repeat)

    def random_ranks(self, image: int, repeat: int) -> Tensor:
        """A random order of the regions of one image, (count,) int64, on the CPU."""
        drawn = generator(self.seed, self.first_image + image, repeat, "order")
        return torch.randperm(self.regions.count, generator=drawn)

    def block_ranks(self, image: int, repeat: int) -> Tensor:
        """Regions by their distance from a place that the lot chooses, likewise.

        Distances are in sides of the image, so that the block has its shape.
        """
        drawn = generator(self.seed, self.first_image + image, repeat, "block")
        centre = torch.rand(2, generator=drawn, dtype=torch.float64)
        regions = self.regions
        rows, columns = (
            (torch.tensor(spans, dtype=torch.float64).mean(dim=1) / side - place) ** 2
            for spans, side, place in (
                (regions.row_spans, regions.height, centre[0]),
                (regions.column_spans, regions.width, centre[1]),
            )
        )
        return morf_ranks(-(rows[:, None] + columns).view(1, -1))[0]


@dataclass(frozen=True, eq=False)
class Perturbation:
    """One way of ordering the regions of the images.

    Attributes:
        draws: What all orders share.
        scores: What the regions are ordered by, (N, count) float64, on the CPU. Equal scores are
            ordered by lot, anew in each repetition; where all are equal, the lot decides alone.
        least_first: Whether the order is read from its end.
    """

    draws: Draws
    scores: Tensor
    least_first: bool = False

    @cached_property
    def tied(self) -> Tensor:
        """How many regions of each image the lot has a say in, (N,) int64."""
        return count_ties(self.scores)

    @property
    def constant(self) -> Tensor:
        """Whether all regions of an image, if there are several, score alike: (N,) bool."""
        alike = (self.scores == self.scores[:, :1]).all(dim=1)
        return alike & (self.scores.shape[1] > 1)

    def is_random(self, image: int) -> bool:
        """Whether repetitions of this image differ from each other."""
        return bool(self.tied[image]) or getattr(self.draws.fill, "random", True)

    def pixel_ranks(self, image: int, repeat: int) -> Tensor:
        """At which place each pixel is replaced, (H, W) int64, on the device of the images.

        Pixel p differs from the image from step rank(p) + 1 on; in the rim the rank is `count`.
        """
        regions = self.draws.regions
        padded = torch.cat([self._region_ranks(image, repeat), torch.tensor([regions.count])])
        return padded[regions.index].to(self.draws.x.device)

    def region_order(self, image: int, repeat: int) -> Tensor:
        """The numbers of the regions in the order of their replacement, (count,) int64."""
        ranks = self._region_ranks(image, repeat)
        return torch.empty_like(ranks).scatter_(0, ranks, torch.arange(len(ranks)))

    def _region_ranks(self, image: int, repeat: int) -> Tensor:
        scores = self.scores[image : image + 1]
        lot = self.draws.random_ranks(image, repeat) if self.tied[image] else None
        ranks = morf_ranks(scores, lot)[0]
        return len(ranks) - 1 - ranks if self.least_first else ranks

    def pictures(self, image: int, repeat: int, steps: Tensor) -> Tensor:
        """One image after some numbers of replaced regions: steps (K,) give (K, C, H, W)."""
        replacement = self.draws.replacer(image, repeat)
        return replaced(self.draws.x[image], replacement, self.pixel_ranks(image, repeat), steps)


@dataclass(frozen=True, eq=False)
class Block(Perturbation):
    """A compact block that grows from a place chosen by lot; it asks no heatmap."""

    def _region_ranks(self, image: int, repeat: int) -> Tensor:
        return self.draws.block_ranks(image, repeat)


def replaced(
    picture: Tensor,
    replacement: Replacement,
    ranks: Tensor,
    steps: Tensor,
    out: Tensor | None = None,
) -> Tensor:
    """Samek et al. 2017, eq. 10, for many steps at once.

    Regions do not overlap, so that x(k) is the picture with every pixel of rank below k replaced.

    Args:
        picture: The image, (C, H, W).
        replacement: What to put there, (C, H, W); or what gives it, (K, C, H, W), if told which
            pixels are gone, (K, 1, H, W).
        ranks: When each pixel is replaced, (H, W).
        steps: Numbers of replaced regions, (K,).
        out: Where to write, (K, C, H, W); a new tensor if omitted.
    """
    gone = ranks < steps.to(ranks.device)[:, None, None, None]
    filled = replacement(gone) if callable(replacement) else replacement
    if out is None:
        return torch.where(gone, filled, picture)
    return torch.where(gone, filled, picture, out=out)
