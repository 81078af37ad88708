"""The one function that draws a heatmap, and the grid that compares several."""

from collections.abc import Mapping, Sequence
from typing import Literal

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from numpy.typing import NDArray
from torch import Tensor

from xaiutils.plot._colours import MAGNITUDE, SIGNED
from xaiutils.plot._describe import describe
from xaiutils.plot._show import set_alternative_text

Scale = Literal["each", "row", "shared"]


def _check_tensor(what: str, found: object) -> None:
    if not isinstance(found, Tensor):
        cure = "; torch.from_numpy(array) makes one" if isinstance(found, np.ndarray) else ""
        raise TypeError(f"{what} is a torch.Tensor, not {type(found).__name__}{cure}.")


def pixel_relevance(relevance: Tensor) -> Tensor:
    """Reduce a map to one number per pixel: the sum over its channels (Samek et al. 2017).

    Args:
        relevance: Shape (H, W) or (C, H, W).

    Returns:
        Shape (H, W), on the CPU, float64.

    Raises:
        TypeError: It is no tensor.
        ValueError: Another shape, or a value that is NaN or infinite.
    """
    _check_tensor("A heatmap", relevance)
    if relevance.ndim not in (2, 3):
        shape = tuple(relevance.shape)
        raise ValueError(f"A heatmap has shape (H, W) or (C, H, W), not {shape}: pass one at once.")
    if not torch.isfinite(relevance).all():
        raise ValueError("The heatmap holds NaN or infinity; look at the method that made it.")
    values = relevance.detach().cpu().double()
    return values.sum(dim=0) if values.ndim == 3 else values


def colour_limit(pixels: Tensor, percentile: float = 99.5) -> float:
    """The value at which the colours saturate: a percentile of the absolute relevance.

    A percentile rather than the largest value, because single pixels of a gradient can be so
    strong that everything else would look like zero.

    Args:
        pixels: Relevance, any shape.
        percentile: In (0, 100]; 100 takes the largest absolute value.

    Returns:
        A positive number; 1.0 for a map that is zero everywhere.
    """
    if not 0 < percentile <= 100:
        raise ValueError(f"percentile must be in (0, 100], not {percentile}.")
    strength = pixels.abs().double().flatten().numpy()
    limit = float(np.percentile(strength, percentile)) or float(strength.max())
    return limit or 1.0


def heatmap(
    relevance: Tensor,
    image: Tensor | None = None,
    *,
    ax: Axes | None = None,
    title: str = "",
    limit: float | None = None,
    percentile: float = 99.5,
    signed: bool = True,
) -> Axes:
    """Draw one heatmap; zero is always the neutral colour.

    Args:
        relevance: Shape (H, W) or (C, H, W); channels are summed.
        image: The picture, shape (C, H, W), brightness in [0, 1]. If given, the map lies over its
            greyscale version, the more opaque the stronger.
        ax: Where to draw; a new figure if omitted.
        title: Stands above the map and begins its description.
        limit: Absolute relevance at which the colours saturate; from `percentile` if omitted.
        percentile: See `colour_limit`.
        signed: True for the diverging map around zero; False for a map without negative values.

    Returns:
        The axes. The description of the map is the label of the drawn image.

    Raises:
        ValueError: Wrong shape, NaN, or a negative value in a map that is said to have no sign.
    """
    pixels = pixel_relevance(relevance)
    if not signed and pixels.min() < 0:
        raise ValueError("A map with negative values needs signed=True.")
    if ax is None:
        _, ax = plt.subplots(figsize=(3, 3), layout="constrained")
    limit = colour_limit(pixels, percentile) if limit is None else limit
    drawn = _draw(ax, pixels, image, limit, signed)
    drawn.set_label(describe(pixels, title or "heatmap"))
    ax.set_title(title, fontsize="medium")
    ax.set_axis_off()
    return ax


def _draw(ax: Axes, pixels: Tensor, image: Tensor | None, limit: float, signed: bool) -> AxesImage:
    opacity = None
    if image is not None:
        _check_size(pixels, image)
        ax.imshow(image.detach().cpu().mean(dim=0).numpy(), cmap="gray", vmin=0, vmax=1)
        opacity = (pixels.abs() / limit).clamp(0, 1).sqrt().numpy()
    colours, lowest = (SIGNED, -limit) if signed else (MAGNITUDE, 0.0)
    return ax.imshow(pixels.numpy(), cmap=colours, vmin=lowest, vmax=limit, alpha=opacity)


def _check_size(pixels: Tensor, image: Tensor) -> None:
    _check_tensor("The image", image)
    if image.ndim != 3 or image.shape[1:] != pixels.shape:
        raise ValueError(
            f"The image has shape {tuple(image.shape)}, the map {tuple(pixels.shape)}: pass the "
            "picture as (C, H, W), of the size that the network saw."
        )


def grid(
    maps: Mapping[str, Tensor],
    images: Tensor,
    names: Sequence[str] | None = None,
    *,
    scale: Scale = "each",
    percentile: float = 99.5,
    unsigned: Sequence[str] = (),
    overlay: bool = False,
    size: float = 1.5,
) -> Figure:
    """Compare methods: a row for each image, the picture first, then a column for each method.

    Args:
        maps: Method names with their maps, each of shape (N, C, H, W), (N, 1, H, W) or (N, H, W).
        images: The pictures, shape (N, C, H, W), brightness in [0, 1].
        names: A name for each image.
        scale: Where the colours saturate: ``"each"`` map by itself, one limit for a ``"row"``
            (only for methods in the same unit), or one ``"shared"`` by all.
        percentile: See `colour_limit`.
        unsigned: Names of the methods whose maps have no sign.
        overlay: Lay each map over the greyscale picture.
        size: Side of one picture, in inches.

    Returns:
        The figure, with an alternative text made from the maps; pass it to `show`.

    Raises:
        TypeError: The maps have no names, or something is no tensor.
        ValueError: Numbers or sizes that do not fit, an unknown scale, no maps.
    """
    if not isinstance(maps, Mapping):
        raise TypeError(f"maps is a dict of names and maps, not {type(maps).__name__}.")
    for name, stack in {"The pictures": images, **maps}.items():
        _check_tensor(name, stack)
    names = [f"image {i + 1}" for i in range(len(images))] if names is None else names
    _check_grid(maps, images, names, scale)
    pixels = {method: [pixel_relevance(m) for m in stack] for method, stack in maps.items()}
    limits = _limits(pixels, scale, percentile)
    figure, axes = plt.subplots(
        len(images),
        len(maps) + 1,
        figsize=((len(maps) + 1) * size, len(images) * size + 0.3),
        layout="constrained",
        squeeze=False,
    )
    for row, (image, name) in enumerate(zip(images, names, strict=True)):
        picture(image, ax=axes[row, 0], title=name)
        for column, method in enumerate(maps, start=1):
            heatmap(
                pixels[method][row],
                image if overlay else None,
                ax=axes[row, column],
                title=method if row == 0 else "",
                limit=limits[method][row],
                signed=method not in unsigned,
            )
    return set_alternative_text(figure, _describe_grid(pixels, names))


def picture(image: Tensor, *, ax: Axes, title: str = "") -> Axes:
    """Draw a picture of shape (C, H, W), brightness in [0, 1], greyscale if C is 1.

    Raises:
        TypeError: It is no tensor.
        ValueError: Another shape.
    """
    _check_tensor("A picture", image)
    if image.ndim != 3 or image.shape[0] not in (1, 3):
        raise ValueError(f"A picture has shape (C, H, W) with C 1 or 3, not {tuple(image.shape)}.")
    ax.imshow(image.detach().cpu().permute(1, 2, 0).numpy(), cmap="gray", vmin=0, vmax=1)
    ax.set_title(title, fontsize="medium")
    ax.set_axis_off()
    return ax


def row(pictures: Mapping[str, Tensor], size: float = 2.2) -> tuple[Figure, NDArray[np.object_]]:
    """Draw named pictures side by side, each of shape (C, H, W), brightness in [0, 1].

    Returns:
        The figure, without an alternative text, and its axes.
    """
    figure, axes = plt.subplots(
        1, len(pictures), figsize=(len(pictures) * size, size + 0.2), layout="constrained"
    )
    for ax, (name, image) in zip(np.atleast_1d(axes), pictures.items(), strict=True):
        picture(image, ax=ax, title=name)
    return figure, axes


def colour_bar(figure: Figure, ax: Axes, limit: float, label: str, signed: bool = True) -> None:
    """Add the colour bar that belongs to maps drawn with this limit."""
    norm = Normalize(-limit if signed else 0, limit)
    colours = ScalarMappable(norm, SIGNED if signed else MAGNITUDE)
    figure.colorbar(colours, ax=ax, label=label, extend="both" if signed else "max", shrink=0.8)


def _limits(
    pixels: Mapping[str, list[Tensor]], scale: Scale, percentile: float
) -> dict[str, list[float]]:
    """The saturation of every map, by method and image."""
    each = {m: [colour_limit(p, percentile) for p in stack] for m, stack in pixels.items()}
    if scale == "each":
        return each
    by_row = [max(row) for row in zip(*each.values(), strict=True)]
    return dict.fromkeys(each, by_row if scale == "row" else [max(by_row)] * len(by_row))


def _describe_grid(pixels: Mapping[str, list[Tensor]], names: Sequence[str]) -> str:
    rows = []
    for row, name in enumerate(names):
        maps = "; ".join(describe(stack[row], method) for method, stack in pixels.items())
        rows.append(f"{name}, picture and maps. {maps}.")
    return " ".join(rows)


def _check_grid(
    maps: Mapping[str, Tensor], images: Tensor, names: Sequence[str], scale: str
) -> None:
    if not maps or len(images) == 0:
        raise ValueError("A grid needs at least one method and one image.")
    if scale not in ("each", "row", "shared"):
        raise ValueError(f"scale must be 'each', 'row' or 'shared', not {scale!r}.")
    if len(names) != len(images):
        raise ValueError(f"{len(names)} names do not fit {len(images)} images.")
    for method, stack in maps.items():
        if len(stack) != len(images):
            raise ValueError(f"{method} has {len(stack)} maps for {len(images)} images.")
