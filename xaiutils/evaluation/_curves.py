"""What region perturbation gives: every score, and the areas over and between the curves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from xaiutils.evaluation._pictures import Perturbation

BY_LOT = ("random", "block")  # these orders ask no heatmap


@dataclass(frozen=True, eq=False)
class Curves:
    """The scores of one method in one order, from `region_perturbation`.

    Attributes:
        scores: (N, repeats, L + 1) float32, in units of the output that was watched;
            ``scores[..., k]`` after k replaced regions, ``scores[..., 0]`` for the images as they
            are. Each repetition has a draw of its own of the fill, of a random order, and of the
            order of regions that score alike; where an image has none of these, its repetitions
            are equal.
        order: "morf" (most relevant first), "lerf" (least relevant first), "random" or "block", or
            what a search calls its orders.
        perturbation: How the pictures were made, from which `perturbed` makes them again.
    """

    scores: Tensor = field(repr=False)
    order: str
    perturbation: Perturbation = field(repr=False)

    @property
    def steps(self) -> int:
        """L, the number of regions that were replaced."""
        return self.scores.shape[2] - 1

    @property
    def constant(self) -> Tensor:
        """Heatmaps that score all regions alike, so that the lot alone ordered them, (N,) bool.

        All False for an order by lot, which asks no heatmap.
        """
        constant = self.perturbation.constant
        return torch.zeros_like(constant) if self.order in BY_LOT else constant

    @property
    def tied(self) -> Tensor:
        """How many regions share their score with others and were ordered by lot, (N,) int64.

        0 for an order by lot, which asks no heatmap.
        """
        tied = self.perturbation.tied
        return torch.zeros_like(tied) if self.order in BY_LOT else tied

    def falls(self) -> Tensor:
        """f(x(0)) - f(x(k)), the mean over the repetitions: (N, L + 1) float64."""
        scores = self.scores.double()
        return (scores[..., :1] - scores).mean(dim=1)

    def aopc(self, steps: int | None = None) -> Tensor:
        """The area over the perturbation curve of each image.

        Samek et al. 2017, eq. 11, before the mean over images: the sum of f(x(0)) - f(x(k)) over
        k = 0, ..., L, divided by L + 1.

        Args:
            steps: Take the first so many steps as L; all of them if None.

        Returns:
            (N,) float64, in units of the output; the mean over the repetitions.

        Raises:
            ValueError: `steps` is not between 0 and the number of steps that were run.
        """
        last = self.steps if steps is None else steps
        if not 0 <= last <= self.steps:
            raise ValueError(f"steps must be from 0 to {self.steps}, not {steps}")
        return self.falls()[:, : last + 1].mean(dim=1)

    def to_frame(self) -> pd.DataFrame:
        """All scores as a long table: a row for each image, repetition and step.

        Returns:
            The columns image, repeat, step (from 0 to L), order, and score in units of the output.
            Images are numbered from `first_image`.
        """
        images, repeats, steps = np.indices(self.scores.shape).reshape(3, -1)
        return pd.DataFrame(
            {
                "image": images + self.perturbation.draws.first_image,
                "repeat": repeats,
                "step": steps,
                "order": self.order,
                "score": self.scores.flatten().numpy(),
            }
        )

    def perturbed(
        self, steps: Sequence[int], repeat: int = 0, images: Sequence[int] | None = None
    ) -> Tensor:
        """The pictures that the network was shown, made once more from the same draws.

        Args:
            steps: Numbers of replaced regions, each from 0 to the number of all regions.
            repeat: Which repetition; the fill, and the order of tied regions, are those of it.
            images: Which images; all if None.

        Returns:
            (N, len(steps), C, H, W), in the network's units, on the device of the images.

        Raises:
            ValueError: There is no such step, repetition or image.
        """
        shared = self.perturbation.draws
        chosen = range(len(shared.x)) if images is None else images
        _check_within("steps", steps, shared.regions.count)
        _check_within("repeat", [repeat], self.scores.shape[1] - 1)
        _check_within("images", chosen, len(shared.x) - 1)
        numbers = torch.as_tensor(list(steps))
        return torch.stack([self.perturbation.pictures(n, repeat, numbers) for n in chosen])


def abpc(morf: Curves, lerf: Curves) -> Tensor:
    """The area between the perturbation curves of each image.

    Samek et al. 2017, eq. 13, before the mean over images: the sum of f(x_LeRF(k)) - f(x_MoRF(k))
    over k = 0, ..., L, divided by L + 1.

    Args:
        morf: Most relevant regions first; or the best order that `search` has found.
        lerf: Least relevant regions first, of the same images, heatmaps and settings; or the worst
            order.

    Returns:
        (N,) float64, in units of the output; large if the heatmap ranks well.

    Raises:
        ValueError: The orders are others, or the curves do not belong together.
    """
    if (morf.order, lerf.order) not in (("morf", "lerf"), ("best", "worst")):
        raise ValueError(
            "abpc takes curves of the orders 'morf' and 'lerf', or 'best' and 'worst', not "
            f"{morf.order!r} and {lerf.order!r}"
        )
    _check_same_images(morf, lerf)
    return morf.aopc() - lerf.aopc()


def gain_over_random(curves: Curves, random: Curves) -> Tensor:
    """AOPC of a method less that of a random order, for each image; Samek et al. 2017, Fig. 4.

    Args:
        curves: A method in the order "morf" (good if positive) or "lerf" (good if negative).
        random: The order "random" of the same images and settings.

    Returns:
        (N,) float64, in units of the output.

    Raises:
        ValueError: `random` is another order, or the curves do not belong together.
    """
    if random.order != "random":
        raise ValueError(f"random must be of the order 'random', not {random.order!r}")
    _check_same_images(curves, random)
    return curves.aopc() - random.aopc()


def gain_over(curves: Curves, control: Curves) -> Tensor:
    """How much better an order does than a control, for each image; positive is better.

    AOPC of the method less that of the control; for "lerf", where a small fall is good, the other
    way round.

    Args:
        curves: A method in the order "morf" or "lerf".
        control: The same images and settings in the same order for another map (a `borrowed` one,
            `centre_prior`, `picture_as_map`), or in an order by lot ("random", "block"), which may
            have more repetitions.

    Returns:
        (N,) float64, in units of the output.

    Raises:
        ValueError: An order that cannot be a method's or its control, or the curves do not belong
            together.
    """
    if curves.order not in ("morf", "lerf"):
        raise ValueError(f"curves must be of the order 'morf' or 'lerf', not {curves.order!r}")
    if control.order not in (curves.order, *BY_LOT):
        raise ValueError(
            f"control must be of the order {curves.order!r}, like the curves, or by lot, not "
            f"{control.order!r}"
        )
    _check_same_images(curves, control, repeats=control.order not in BY_LOT)
    gain = curves.aopc() - control.aopc()
    return -gain if curves.order == "lerf" else gain


def own_minus_borrowed(
    own_morf: Curves, own_lerf: Curves, borrowed_morf: Curves, borrowed_lerf: Curves
) -> Tensor:
    """What a map knows of *this* image: its `abpc` less that of the map of another image.

    A borrowed map is as compact as one's own, and lies where objects lie in photographs. So an
    order that knows nothing of the image scores zero on average, whatever it knows of images.

    Args:
        own_morf: A method's maps, most relevant regions first.
        own_lerf: The same, least relevant first.
        borrowed_morf: The same images with the maps of other images (`borrowed`), likewise.
        borrowed_lerf: Likewise.

    Returns:
        (N,) float64, in units of the output.

    Raises:
        ValueError: As in `abpc`, or the curves are of different images.
    """
    _check_same_images(own_morf, borrowed_morf)
    return abpc(own_morf, own_lerf) - abpc(borrowed_morf, borrowed_lerf)


def _check_same_images(first: Curves, second: Curves, repeats: bool = True) -> None:
    one, two = (tuple(c.scores.shape) for c in (first, second))
    if one != two and (repeats or (one[0], one[2]) != (two[0], two[2])):
        raise ValueError(
            "the curves differ in images, repetitions or steps: "
            f"{tuple(first.scores.shape)} and {tuple(second.scores.shape)}"
        )
    if not torch.equal(first.scores[:, 0, 0], second.scores[:, 0, 0]):
        raise ValueError("the curves start at different scores: they are of different images")


def _check_within(name: str, found: Sequence[int], most: int) -> None:
    wrong = [number for number in found if not 0 <= number <= most]
    if wrong:
        raise ValueError(f"{name} must be from 0 to {most}, not {wrong[0]}")
