"""RISE: look at the picture through many random masks, and average the masks by what is seen."""

from __future__ import annotations

import math
from typing import Literal, overload

import torch
import torch.nn.functional as F
from torch import Tensor

from xaiutils import graph
from xaiutils.attribution._baselines import Baseline, Units
from xaiutils.attribution._common import Network, Target, check_choice, check_positive
from xaiutils.attribution._perturbed import Perturbed, batches, perturbed
from xaiutils.graph.outputs import Output

Normalise = Literal["probability", "masks"]
NORMALISATIONS = ("probability", "masks")


@overload
def rise(
    model: Network,
    x: Tensor,
    target: Target = None,
    *,
    masks: int = 2000,
    grid: int = 7,
    keep: float = 0.5,
    normalise: Normalise = "probability",
    baselines: Baseline = 0.0,
    units: Units | None = None,
    seed: int = 0,
    return_standard_error: Literal[False] = False,
    output: Output = None,
    batch_size: int | None = None,
) -> Tensor: ...


@overload
def rise(
    model: Network,
    x: Tensor,
    target: Target = None,
    *,
    masks: int = 2000,
    grid: int = 7,
    keep: float = 0.5,
    normalise: Normalise = "probability",
    baselines: Baseline = 0.0,
    units: Units | None = None,
    seed: int = 0,
    return_standard_error: Literal[True],
    output: Output = None,
    batch_size: int | None = None,
) -> tuple[Tensor, Tensor]: ...


def rise(
    model: Network,
    x: Tensor,
    target: Target = None,
    *,
    masks: int = 2000,
    grid: int = 7,
    keep: float = 0.5,
    normalise: Normalise = "probability",
    baselines: Baseline = 0.0,
    units: Units | None = None,
    seed: int = 0,
    return_standard_error: bool = False,
    output: Output = None,
    batch_size: int | None = None,
) -> Tensor | tuple[Tensor, Tensor]:
    r"""Return the RISE heatmap (Petsiuk et al. 2018): random masks, averaged by the output.

    .. math:: S(p) = \frac1{E[M]\, n} \sum_{i=1}^n f_t(x \odot M_i)\, M_i(p),

    an estimate of the mean output of the pictures in which pixel *p* is to be seen. The masks are
    made as in the authors' code: a grid of ``grid`` x ``grid`` cells, each 1 with the probability
    ``keep`` and 0 otherwise, is enlarged bilinearly to one cell more than the picture has, and cut
    out at a place by lot. The one difference is the rim: outside the grid its outermost cells go
    on, where the authors mirror the grid at their centres, which changes half a cell there.

    The paper explains a probability (``target=Probability()``, or ``output=lambda y: y.softmax(1)``
    for one class). A number with a large mean, as a logit may have, lays a pedestal under the map:
    a pixel that does nothing has the mean output, not 0, times how often it happened to be seen.
    ``normalise="masks"`` divides by that, and leaves less noise.

    Args:
        model: A network in evaluation mode, or its :class:`~xaiutils.graph.Graph`. It need not be
            differentiable.
        x: Inputs (N, C, H, W), as the network takes them.
        target: The output to explain, as in :func:`xaiutils.attribution.gradient`.
        masks: n, how many. All images see the same ones.
        grid: Cells along each side of the picture.
        keep: The probability that a cell is to be seen.
        normalise: ``"probability"`` divides by the expectation of a mask, which is ``keep``, as the
            paper does; ``"masks"`` by the mean of the masks that were drawn, pixel by pixel.
        baselines: What is seen where a mask is 0, in the units of ``x``: a number, a tensor
            broadcastable to ``x``, or the name of one, as in
            :func:`xaiutils.attribution.integrated_gradients`. 0 dims the picture, as in the paper.
        units: What black and white are, for ``baselines="black"``; ``clf.preprocess`` knows.
        seed: Of the masks, which do not depend on the batch.
        return_standard_error: Whether to return the standard errors as well.
        output: Which of several outputs: a key, a position, or a function.
        batch_size: How many pictures at a time; None chooses by their size.

    Returns:
        (N, 1, H, W), in units of the output. With ``return_standard_error`` also the standard
        errors (N, 1, H, W), from the spread over the masks. Those of neighbouring pixels go
        together, as the masks do.

    Raises:
        TypeError: As in :func:`xaiutils.attribution.gradient`.
        ValueError: As in :func:`xaiutils.attribution.gradient`, or if numbers are out of range, a
            grid has more cells than the picture has pixels, one mask is to have a standard error,
            a pixel is never seen, the baselines do not fit, or the output is not finite.
    """
    check_positive("masks", masks)
    check_positive("grid", grid)
    if not 0 < keep <= 1:
        raise ValueError(f"keep must be above 0 and at most 1, not {keep}")
    check_choice("normalise", normalise, NORMALISATIONS)
    if return_standard_error and masks < 2:
        raise ValueError("a standard error needs at least 2 masks")
    game = perturbed(model, x, target, baselines, units, output, batch_size, seed)
    _check_grid(grid, x)
    drawn = _Masks(masks, grid, keep, seed, game.x)
    sums = _sums(game, drawn)
    both = _by_masks(sums, masks) if normalise == "masks" else _by_probability(sums, masks, keep)
    heatmaps, errors = (each.view(len(x), 1, *x.shape[2:]).to(game.x) for each in both)
    return (heatmaps, errors) if return_standard_error else heatmaps


def _check_grid(grid: int, x: Tensor) -> None:
    if grid > min(x.shape[2:]):
        raise ValueError(
            f"a grid of {grid} x {grid} cells is finer than images of {x.shape[2]} x {x.shape[3]} "
            "pixels"
        )


class _Masks:
    """Random masks: their cells and places at hand, themselves made where they are needed."""

    def __init__(self, number: int, grid: int, keep: float, seed: int, x: Tensor) -> None:
        generator = torch.Generator().manual_seed(seed)
        self._cells = (torch.rand(number, 1, grid, grid, generator=generator) < keep).float()
        self._size = tuple(x.shape[2:])
        self._cell = [math.ceil(side / grid) for side in self._size]
        self._whole = [(grid + 1) * cell for cell in self._cell]
        self._places = torch.stack(
            [torch.randint(cell, (number,), generator=generator) for cell in self._cell], dim=1
        )
        self._like = x

    def __len__(self) -> int:
        return len(self._cells)

    def __getitem__(self, numbers: Tensor) -> Tensor:
        """Some masks, (n, 1, H, W) from 0 to 1, like the images."""
        cells = self._cells[numbers].to(self._like.device)
        large = F.interpolate(cells, size=self._whole, mode="bilinear", align_corners=False)
        height, width = self._size
        found = [
            one[:, row : row + height, column : column + width]
            for one, (row, column) in zip(large, self._places[numbers].tolist(), strict=True)
        ]
        return torch.stack(found).to(self._like.dtype)


class _Sums:
    """What is added up over the masks at each pixel, in float64 on the CPU.

    Attributes:
        seen: The masks, (H * W,).
        scored: Scores times masks, (N, H * W).
        squares: The squares of the masks, and of these times scores, and of scores times masks.
    """

    def __init__(self, images: int, pixels: int) -> None:
        self.seen = torch.zeros(pixels, dtype=torch.float64)
        self.scored = torch.zeros(images, pixels, dtype=torch.float64)
        self.squares = (self.seen.clone(), self.scored.clone(), self.scored.clone())

    def add(self, masks: Tensor, scores: Tensor) -> None:
        """Add some masks (n, H * W), and the scores (N, n) of what is seen through them."""
        square = masks.square()
        self.seen += masks.sum(0)
        self.scored += scores @ masks
        self.squares[0].add_(square.sum(0))
        self.squares[1].add_(scores @ square)
        self.squares[2].add_(scores.square() @ square)


@graph.undisturbed
def _sums(game: Perturbed, masks: _Masks) -> _Sums:
    """Run all images through all masks."""
    found = _Sums(len(game.x), game.x[0, 0].numel())
    for few in batches(len(masks), game.size()):
        seen = masks[few]
        scores = torch.stack([_scores(game, image, seen) for image in range(len(game.x))])
        found.add(seen.flatten(1).double().cpu(), scores)
    return found


def _scores(game: Perturbed, image: int, seen: Tensor) -> Tensor:
    """What is explained of an image through each mask, (n,)."""
    baseline = game.baseline[image]
    pictures = torch.lerp(baseline, game.x[image], seen)
    return game.values(pictures, torch.full((len(seen),), image))


def _by_probability(sums: _Sums, number: int, keep: float) -> tuple[Tensor, Tensor]:
    """The heatmaps (N, H * W) and their standard errors; NaN from a single mask."""
    mean = sums.scored / number
    spread = (sums.squares[2] / number - mean.square()).clamp(min=0)
    return mean / keep, _root(spread, number) / keep


def _by_masks(sums: _Sums, number: int) -> tuple[Tensor, Tensor]:
    """The same for a ratio of two means, whose error is that of its first-order expansion."""
    if bool((sums.seen == 0).any()):
        raise ValueError("a pixel is seen through none of the masks; draw more of them")
    ratio = sums.scored / sums.seen
    masks, scored, squared = sums.squares
    spread = (squared - 2 * ratio * scored + ratio.square() * masks).clamp(min=0) / number
    return ratio, _root(spread, number) / (sums.seen / number)


def _root(spread: Tensor, number: int) -> Tensor:
    """The standard error of a mean, from the mean square deviation from it."""
    return (spread / (number - 1)).sqrt() if number > 1 else torch.full_like(spread, torch.nan)
