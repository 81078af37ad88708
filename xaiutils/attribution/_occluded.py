"""Occlusion: cover one place after another, and see how the output falls."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from xaiutils import graph
from xaiutils.attribution._baselines import Baseline, Units
from xaiutils.attribution._common import Network, Target, check_positive
from xaiutils.attribution._perturbed import (
    Perturbed,
    asks_windows,
    batches,
    perturbed,
    side_of,
)
from xaiutils.graph.outputs import Output
from xaiutils.windows import WORTHWHILE, Branches, Span

_PIECES = 14  # of the shorter side, where no region_size is given
_LARGEST_BATCH = 64  # windows of one size; more would not fit into the cache of a CPU
_SHARE = 0.75  # of the numbers of a batch; the rest are the layers of the picture itself


def occlusion(
    model: Network,
    x: Tensor,
    target: Target = None,
    region_size: int | None = None,
    stride: int | None = None,
    *,
    baselines: Baseline = 0.0,
    units: Units | None = None,
    output: Output = None,
    batch_size: int | None = None,
    windowed: bool | None = None,
) -> Tensor:
    r"""Return how far the target falls when a square around each pixel is covered.

    Zeiler and Fergus 2014, section 4.2, slide a grey square over the picture. Here, as in Captum, a
    pixel that several squares cover gets the mean of their falls, :math:`f_t(x) - f_t(x_{-S})`. The
    first square stands in the upper left corner; where squares would reach beyond the right or the
    lower edge they are cut off. With a stride as large as the square they are a grid, and the map
    holds what :func:`xaiutils.evaluation.region_occlusion` gives for a constant fill.

    There are as many pictures as squares for each image; where it pays, only the windows in which
    they differ from it go through the early layers.

    Args:
        model: A network in evaluation mode, or its :class:`~xaiutils.graph.Graph`. It need not be
            differentiable.
        x: Inputs (N, C, H, W), as the network takes them.
        target: The output to explain, as in :func:`xaiutils.attribution.gradient`.
        region_size: Side of the square, in pixels; None for a fourteenth of the shorter side.
        stride: How far it moves, at most its side; None for its side.
        baselines: What it is covered with, in the units of ``x``: a number (0 is the mean grey for
            most networks of photographs), a tensor broadcastable to ``x``, or the name of one, as
            in :func:`xaiutils.attribution.integrated_gradients`.
        units: What black and white are, for ``baselines="black"``; ``clf.preprocess`` knows.
        output: Which of several outputs: a key, a position, or a function.
        batch_size: How many pictures at a time; None chooses by their size.
        windowed: Whether to recompute windows only; None where that is estimated to pay.

    Returns:
        (N, 1, H, W), in units of the output. The falls do not sum to anything. A square in
        which the picture is what it would be covered with has exactly 0.

    Raises:
        TypeError: As in :func:`xaiutils.attribution.gradient`.
        ValueError: As in :func:`xaiutils.attribution.gradient`, or if the square is larger than the
            picture, the stride larger than the square, the baselines do not fit, the output of a
            picture is not finite, or windows are asked for and impossible.
    """
    if stride is not None:
        check_positive("stride", stride)
    game = perturbed(model, x, target, baselines, units, output, batch_size)
    size = side_of(region_size, x, _PIECES)
    if stride is not None and stride > size:
        raise ValueError(
            f"stride {stride} is larger than the square of {size}: pixels are left out"
        )
    rows, columns = (_spans(side, size, stride or size) for side in x.shape[2:])
    falls = _falls(game, rows, columns, windowed).view(len(x), len(rows), len(columns))
    return _averaged(falls, rows, columns, game.x)


def _spans(side: int, size: int, stride: int) -> list[Span]:
    """First pixel of each square along a side, and the one after its last."""
    number = math.ceil((side - size) / stride) + 1
    return [(i * stride, min(i * stride + size, side)) for i in range(number)]


@graph.undisturbed
def _falls(
    game: Perturbed, rows: Sequence[Span], columns: Sequence[Span], windowed: bool | None
) -> Tensor:
    """How far the value falls for each square of each image, (N, squares) float64."""
    start = game.ends[1]
    values = start[:, None].repeat(1, len(rows) * len(columns))
    inside = (_inside(rows, game.x.shape[2]), _inside(columns, game.x.shape[3]))
    todo = torch.einsum("nhw,rh,cw->nrc", game.changed.double(), *inside).flatten(1) > 0
    branches = _branches(game, rows, columns, windowed)
    if branches is None:
        _whole(game, rows, columns, todo, values)
    else:
        _windowed(game, branches, todo, values)
    return start[:, None] - values


def _batch(game: Perturbed) -> int:
    return game.size(_LARGEST_BATCH if game.x.device.type == "cpu" else None, _SHARE)


def _states(game: Perturbed, count: int) -> int:
    """How many images are held at a time, so that their squares fill a batch."""
    return max(1, min(len(game.x), -(-_batch(game) // count)))


def _branches(
    game: Perturbed, rows: Sequence[Span], columns: Sequence[Span], windowed: bool | None
) -> Branches | None:
    """What recomputes windows, or None if whole pictures are better."""
    if not asks_windows(game, windowed):
        return None
    assert isinstance(game.network, graph.Graph)
    count = len(rows) * len(columns)
    states = _states(game, count)
    batch = min(_batch(game), states * count)
    branches = Branches(game.network, rows, columns, game.x, states, batch)
    return branches if windowed or branches.saving() >= WORTHWHILE else None


def _windowed(game: Perturbed, branches: Branches, todo: Tensor, values: Tensor) -> None:
    """Write the value of each picture in which a square changes anything, (N, squares)."""
    for images in batches(len(game.x), _states(game, todo.shape[1])):
        branches.begin(game.x[images], game.baseline[images])
        states, squares = todo[images].nonzero(as_tuple=True)
        for places, outputs in branches.outputs(states, squares):
            numbers = images[states[places]]
            values[numbers, squares[places]] = game.read(outputs, numbers)


def _whole(
    game: Perturbed, rows: Sequence[Span], columns: Sequence[Span], todo: Tensor, values: Tensor
) -> None:
    """The same, of whole pictures."""
    pairs = todo.nonzero()
    for jobs in batches(len(pairs), game.size()):
        images, squares = pairs[jobs].T
        pictures = game.x[images]
        for picture, image, square in zip(pictures, images, squares.tolist(), strict=True):
            row, column = divmod(square, len(columns))
            covered = (slice(None), slice(*rows[row]), slice(*columns[column]))
            picture[covered] = game.baseline[image][covered]
        values[images, squares] = game.values(pictures, images)


def _averaged(falls: Tensor, rows: Sequence[Span], columns: Sequence[Span], x: Tensor) -> Tensor:
    """The mean of the falls (N, rows, columns) at each pixel, (N, 1, H, W) like `x`."""
    inside = [
        _inside(spans, side) for spans, side in zip((rows, columns), x.shape[2:], strict=True)
    ]
    total = torch.einsum("nrc,rh,cw->nhw", falls, *inside)
    times = inside[0].sum(0)[:, None] * inside[1].sum(0)
    return (total / times)[:, None].to(x)


def _inside(spans: Sequence[Span], side: int) -> Tensor:
    """Which pixels along a side lie in each span, (spans, side) float64 of 0 and 1."""
    pixels = torch.arange(side)
    return torch.stack([(pixels >= first) & (pixels < end) for first, end in spans]).double()
