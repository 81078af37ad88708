"""Maps that know nothing of what the network saw in an image: what a heatmap is to be held against.

An order by lot needs no map; it is an order of `region_perturbation`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

import torch
from torch import Tensor

Maps = TypeVar("Maps", Tensor, Mapping[str, Tensor])


def borrowed(heatmaps: Maps, targets: Tensor | None = None, seed: int = 0) -> Maps:
    """Give each image the map of another one, each map to one image, by lot.

    A borrowed map is of the same method and network, with the same clusters and the same liking for
    the middle of a photograph. It knows nothing of the image that it is given to.

    Args:
        heatmaps: (N, ...), or a mapping of such tensors, which are all lent in the same way.
        targets: (N,) the classes that the maps explain. Given, maps are lent to images of other
            classes, as far as there are some: what a map knows of a class is then not lent.
        seed: Of the lot.

    Returns:
        Maps of the same shape.

    Raises:
        ValueError: A single image, or numbers of maps and targets that differ.
    """
    if isinstance(heatmaps, Mapping):
        lent: Mapping[str, Tensor] = {
            name: borrowed(maps, targets, seed) for name, maps in heatmaps.items()
        }
        return lent
    number = len(heatmaps)
    if number < 2:
        raise ValueError(f"a map can only be borrowed from another image; there is {number}")
    if targets is not None and tuple(targets.shape) != (number,):
        raise ValueError(f"targets must be ({number},), one a map, not {tuple(targets.shape)}")
    return heatmaps[lenders(number, targets, seed).to(heatmaps.device)]


def lenders(number: int, targets: Tensor | None = None, seed: int = 0) -> Tensor:
    """Whose map each image borrows, (number,) int64: a permutation that leaves none in its place.

    The images stand in a circle in random order, and each borrows from the next. Where two
    neighbours are of one class, the borrower changes lenders with somebody for whom both fit.
    """
    generator = torch.Generator().manual_seed(seed)
    circle = torch.randperm(number, generator=generator)
    found = torch.empty_like(circle)
    found[circle] = circle.roll(-1)
    if targets is None:
        return found
    lender, classes = found.tolist(), targets.tolist()

    def fits(borrower: int, from_whom: int) -> bool:
        return borrower != from_whom and classes[borrower] != classes[from_whom]

    for one in range(number):
        if fits(one, lender[one]):
            continue
        for other in torch.randperm(number, generator=generator).tolist():
            if fits(one, lender[other]) and fits(other, lender[one]):
                lender[one], lender[other] = lender[other], lender[one]
                break
    return torch.tensor(lender)


def centre_prior(x: Tensor) -> Tensor:
    """A map that knows where photographers put things: the nearer to the middle, the larger.

    Args:
        x: Images, (N, C, H, W); only their shape is looked at.

    Returns:
        (N, 1, H, W), 1 in the middle, 0 in the corners, less with the square of the distance.

    Raises:
        ValueError: `x` is of another shape.
    """
    _check_images(x)
    rows, columns = (torch.linspace(-1, 1, side, device=x.device) ** 2 for side in x.shape[2:])
    prior = 1 - (rows[:, None] + columns) / 2
    return prior.expand(len(x), 1, -1, -1).clone()


def picture_as_map(x: Tensor, reference: float | Tensor = 0.0) -> Tensor:
    """The picture itself as a heatmap: how far each pixel is from a colour.

    On digits that is the ink, which no network is needed to find.

    Args:
        x: Images, (N, C, H, W).
        reference: The colour of nothing, in the units of `x`; a number, or a tensor that fits
            (C, H, W), such as the mean image.

    Returns:
        (N, 1, H, W), the Euclidean norm of the difference over the channels.

    Raises:
        ValueError: `x` is of another shape.
    """
    _check_images(x)
    difference = x - torch.as_tensor(reference).to(x)
    length: Tensor = difference.norm(dim=1, keepdim=True)
    return length


def unsigned(heatmaps: Tensor) -> Tensor:
    """A map that has lost its sign: the absolute value of what the channels of a pixel sum to.

    If it ranks no worse than the map, the sign was of no use to the ranking.

    Args:
        heatmaps: (N, C, H, W), or (N, H, W).

    Returns:
        (N, 1, H, W).
    """
    flat = heatmaps.sum(dim=1) if heatmaps.ndim == 4 else heatmaps
    return flat.abs()[:, None]


def _check_images(x: Tensor) -> None:
    if x.ndim != 4:
        raise ValueError(f"x must be images (N, C, H, W), not of shape {tuple(x.shape)}")
