"""Regions of any shape: segments that follow the picture, and the metric that deletes them."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from xaiutils import graph
from xaiutils.attribution import Target
from xaiutils.evaluation._fills import Fill
from xaiutils.evaluation._jobs import Output
from xaiutils.evaluation._perturbation import (
    FillName,
    _check_whole,
    _summed,
    checked_draws,
    checked_runner,
)
from xaiutils.evaluation._pictures import Perturbation
from xaiutils.windows import Regions


def slic_segments(x: Tensor, segments: int = 100, compactness: float = 10.0) -> Tensor:
    """Cut each image into segments of like colour that hang together.

    SLIC (Achanta et al. 2012), by scikit-image, which puts each image on a scale from 0 to 1.

    Args:
        x: Images (N, C, H, W); three channels are taken for red, green and blue.
        segments: About how many segments an image gets.
        compactness: How much a segment's shape counts against its colour, above 0.

    Returns:
        The number of each pixel's segment, from 0 in each image; (N, H, W) int64 on the CPU.

    Raises:
        ValueError: `x` is of another shape, or holds NaN or infinity.
    """
    from skimage.segmentation import slic  # slow to import

    if x.ndim != 4 or not bool(x.isfinite().all()):
        raise ValueError(f"x must be finite images (N, C, H, W); it is {tuple(x.shape)}")
    _check_whole("segments", segments, least=1)
    pictures = x.detach().cpu().double().movedim(1, -1).numpy()
    cut = [slic(one, segments, compactness, start_label=0) for one in pictures]
    return torch.stack([_from_zero(torch.from_numpy(labels)) for labels in cut])


def irof(
    model: nn.Module,
    x: Tensor,
    target: Target,
    maps: Tensor,
    segments: int | Tensor = 100,
    fill: FillName | Fill = "constant",
    repeats: int = 1,
    output: Output = "probability",
    batch_size: int | None = None,
    seed: int = 0,
    *,
    first_image: int = 0,
) -> Tensor:
    """Iterative removal of features: segments that follow the picture, most relevant first.

    Rieger and Hansen 2020: segments by SLIC are ordered by their mean relevance and deleted one
    after another; the area over the curve of f(x(l)) / f(x), against the share of the segments that
    are gone, by the trapezoidal rule. They put the mean colour for a segment and watch the
    probability. With squares for segments and without the division it is one minus `deletion`.

    Args:
        model: As in `region_perturbation`, like all arguments that are not named here.
        x: Images (N, C, H, W).
        target: The class whose output is watched; None for the one that is named at `x`.
        maps: (N, C, H, W), whose channels are summed, (N, 1, H, W) or (N, H, W).
        segments: About how many SLIC makes of each image; or segments of your own, (N, H, W) whole
            numbers.
        fill: What replaces a segment.
        repeats: How often everything random is drawn; the curves are averaged over it.
        output: Likewise. It must be positive at `x`, since it is divided by.
        batch_size: Pictures per forward pass.
        seed: Of all draws; segments of equal relevance are ordered by lot.
        first_image: Number of the first image.

    Returns:
        (N,) float64, 1 if the output vanishes with the first segment, 0 if it stays as it is;
        large if the map ranks well.

    Raises:
        TypeError: An argument is of the wrong type.
        ValueError: As in `region_perturbation`; the segments do not fit `x`, an image has fewer
            than two, or its output is not positive.
    """
    graph.check_model(model)
    graph.check_input(model, x)
    if x.ndim != 4:
        raise ValueError(f"x must be images (N, C, H, W), not of shape {tuple(x.shape)}")
    runner = checked_runner(model, target, output, batch_size, repeats, windowed=False)
    labels = slic_segments(x, segments) if isinstance(segments, int) else _checked(segments, x)
    counts = labels.flatten(1).amax(dim=1) + 1
    if int(counts.min()) < 2:
        raise ValueError(
            f"image {int(counts.argmin())} has a single segment, and there is nothing to order; "
            "ask for more segments"
        )
    most = int(counts.max())
    # Of the regions the draws are asked for nothing but their number: a row of as many pixels.
    draws = checked_draws(x, Regions(1, most, 1), fill, seed, first_image)
    scores = _means(_summed("maps", maps, x), labels, most)
    way = Segmented(draws, scores, labels=labels)
    found = runner.run(draws, [way], most, repeats)[0].double().mean(dim=1)
    if not bool((found[:, 0] > 0).all()):
        worst = int(found[:, 0].argmin())
        raise ValueError(
            f"the output for image {worst} is {float(found[worst, 0]):.4g}, and irof divides by "
            'it; watch what is positive, such as output="probability"'
        )
    shares = found / found[:, :1]
    areas = [torch.trapezoid(one[: n + 1]) / n for one, n in zip(shares, counts, strict=True)]
    return 1 - torch.stack(areas)


@dataclass(frozen=True, eq=False)
class Segmented(Perturbation):
    """An order of segments, which differ from image to image, and so does their number.

    Images with fewer segments than others have slots to spare; these come last in the order, when
    the whole image is gone.

    Attributes:
        labels: The number of each pixel's segment, (N, H, W) int64.
    """

    labels: Tensor = field(kw_only=True)

    def pixel_ranks(self, image: int, repeat: int) -> Tensor:
        """At which place each pixel is replaced, (H, W) int64."""
        return self._region_ranks(image, repeat)[self.labels[image]].to(self.draws.x.device)


def _means(maps: Tensor, labels: Tensor, most: int) -> Tensor:
    """Mean relevance of each segment, (N, most) float64; less than all others in spare slots."""
    means = maps.new_full((len(maps), most), -torch.inf)
    return means.scatter_reduce(1, labels.flatten(1), maps.flatten(1), "mean", include_self=False)


def _checked(segments: object, x: Tensor) -> Tensor:
    wanted = (len(x), *x.shape[2:])
    if not isinstance(segments, Tensor) or segments.is_floating_point():
        raise TypeError("segments must be an int or a tensor of whole numbers (N, H, W)")
    if tuple(segments.shape) != wanted:
        raise ValueError(f"segments must be {wanted} to fit x, not {tuple(segments.shape)}")
    return torch.stack([_from_zero(one) for one in segments.cpu()])


def _from_zero(labels: Tensor) -> Tensor:
    """The same segments, numbered from 0 without a gap."""
    numbers: Tensor = torch.unique(labels, return_inverse=True)[1]
    return numbers
