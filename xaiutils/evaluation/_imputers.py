"""What else can replace a region: what the rest of the picture, or another picture, makes likely.

Noise, grey and blur are nothing that a network has met, so that it may fall for the fill and not
for what was taken away. A fill that guesses what could have been there stays nearer to pictures.
Some guess from what is left: they *see the mask*, `sees_mask = True`, and are called with copies of
one picture and what is gone from each (see `region_perturbation`). Then the picture after a step is
not the picture before it with one more region replaced: windows of the network cannot be kept, and
each step costs a whole pass besides the guess.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

# Rong et al. 2022: direct neighbours count twice as much as diagonal ones, all together once.
_NEIGHBOURS = {
    (down, right): 1 / 6 if 0 in (down, right) else 1 / 12
    for down in (-1, 0, 1)
    for right in (-1, 0, 1)
    if (down, right) != (0, 0)
}


@dataclass(frozen=True)
class NoisyLinear:
    """Each missing pixel is the weighted mean of its neighbours, plus a little noise.

    The noisy linear imputation of ROAD (Rong et al. 2022). Direct neighbours weigh 1/6, diagonal
    ones 1/12, and at the edge those that exist share the whole; neighbours that are missing as well
    are unknowns of the same sparse linear system. So the hole is spanned by a membrane that is
    fixed at its rim, and its shape, which is a trace of the mask, is hard to see. It is solved
    exactly, for the missing pixels alone, and once for each hole: a hole that stays as it is from
    one step to the next is not solved again.

    What it costs, by trial on one core: for a photograph of 224 x 224 pixels, 16 % of which are
    replaced in 31 steps, 0.2 (scattered regions) to 0.7 (one block that grows) of the time of the
    passes of SqueezeNet 1.1 through the same pictures; for a digit, in 8 steps, 11 times the passes
    of its small CNN.

    Attributes:
        noise: Standard deviation of the noise, in the network's units; 0.01 in the authors' code.
            Without it a network could read off where a surface is too smooth.
    """

    noise: float = 0.01
    sees_mask: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not 0 <= self.noise < float("inf"):
            raise ValueError(f"noise must be a number from 0 on, not {self.noise}")

    @property
    def random(self) -> bool:
        """Whether anything is drawn."""
        return self.noise > 0

    def __call__(self, images: Tensor, generator: torch.Generator, gone: Tensor) -> Tensor:
        """Fill what is gone (N, 1, H, W) from images (N, C, H, W); the same noise for all."""
        masks = _checked(images, gone)
        filled = _inside(images, masks)
        noise = torch.randn(images.shape[1:], generator=generator, dtype=images.dtype)
        return torch.where(gone, filled + self.noise * noise, images)


@dataclass(frozen=True)
class Inpaint:
    """The smoothest surface that goes on from what is left: biharmonic inpainting.

    Unlike the membrane of `NoisyLinear` it keeps the slope at the rim of the hole too. By
    scikit-image (Damelin and Hoang 2018), which solves a sparse system for each mask and cuts off
    what leaves the range of the known pixels. Nothing is drawn.

    What it costs, by the same trial as in `NoisyLinear`: 1.4 to 1.5 times the passes of SqueezeNet
    1.1 through the same pictures; for a digit 10 to 25 times those of its small CNN.
    """

    random: ClassVar[bool] = False
    sees_mask: ClassVar[bool] = True

    def __call__(self, images: Tensor, generator: torch.Generator, gone: Tensor) -> Tensor:
        """Fill what is gone (N, 1, H, W) from images (N, C, H, W)."""
        from skimage.restoration import inpaint_biharmonic  # slow to import

        masks = _checked(images, gone)
        pictures = images.permute(0, 2, 3, 1).double().numpy()
        filled = [
            inpaint_biharmonic(picture, mask, channel_axis=-1) if mask.any() else picture
            for picture, mask in zip(pictures, masks, strict=True)
        ]
        return torch.from_numpy(np.stack(filled)).permute(0, 3, 1, 2).to(images.dtype)


@dataclass(frozen=True, eq=False)
class Decoded:
    """What an autoencoder makes of the rest: the hole is decoded, again and again.

    The hole begins as the mean colour of what is left. Then the picture is encoded and decoded, and
    of the answer only the hole is kept; a few rounds of this move it towards pictures that the
    network can make. That is a point estimate, not a draw: two likely digits give their mean. And
    what an autoencoder of few latents knows of photographs is a blur.

    An autoencoder with a `shape` (C, h, w) of its own, like those of
    :func:`xaiutils.models.load_autoencoder`, serves images of other sizes too: they are shrunk to
    it (where anything is gone, all is), and the answer is stretched.

    What it costs, by the same trial as in `NoisyLinear`: five rounds of ``natural_ae_64`` 0.3 of
    the passes of SqueezeNet 1.1 through the same pictures; of ``mnist_ae_16`` 11 to 16 times the
    passes of the small CNN of digits.

    Attributes:
        autoencoder: In evaluation mode; maps pictures (N, C, h, w) in [0, 1] to pictures.
        low: The network's input for a black pixel; a number, or a tensor that fits (C, H, W).
        high: The network's input for a white pixel, likewise.
        rounds: How often the hole is decoded, at least 1.
    """

    autoencoder: nn.Module
    low: float | Tensor = 0.0
    high: float | Tensor = 1.0
    rounds: int = 5
    random: ClassVar[bool] = False
    sees_mask: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.rounds < 1:
            raise ValueError(f"rounds must be at least 1, not {self.rounds}")
        if not bool((torch.as_tensor(self.low) < torch.as_tensor(self.high)).all()):
            raise ValueError(f"low {self.low} must be below high {self.high}")

    @torch.no_grad()
    def __call__(self, images: Tensor, generator: torch.Generator, gone: Tensor) -> Tensor:
        """Fill what is gone (N, 1, H, W) from images (N, C, H, W)."""
        _checked(images, gone)
        low, high = (torch.as_tensor(value).to(images) for value in (self.low, self.high))
        pictures = (images - low) / (high - low)
        left = ~gone
        mean = (pictures * left).sum((2, 3), keepdim=True) / left.sum((2, 3), keepdim=True)
        decoded = self._decoded(torch.where(gone, mean, pictures), gone)
        return torch.where(gone, low + decoded * (high - low), images)

    def _decoded(self, pictures: Tensor, gone: Tensor) -> Tensor:
        sides = tuple(pictures.shape[2:])
        wanted = tuple(getattr(self.autoencoder, "shape", pictures.shape[1:]))[1:]
        parameter = next(iter(self.autoencoder.parameters()), torch.empty(0))
        small, hole = pictures.to(parameter), gone.to(parameter.device)
        resized = wanted != sides
        if resized:
            small = nn.functional.adaptive_avg_pool2d(small, wanted)
            hole = nn.functional.adaptive_max_pool2d(hole.to(small), wanted) > 0
        answer = small
        for _ in range(self.rounds):
            answer = torch.where(hole, self.autoencoder(answer), small)
        if resized:
            answer = nn.functional.interpolate(answer, sides, mode="bilinear", align_corners=False)
        return answer.to(pictures)


@dataclass(frozen=True, eq=False)
class Patches:
    """What is at the same place in another picture, which is drawn anew for each repetition.

    The train-set imputer of Bluecher et al. 2024, and what Shapley values are mostly computed with.
    All regions of a repetition come from the same picture, so that they fit each other, and may
    well show another object. It does not look at the mask: windows of the network can be kept.

    Attributes:
        images: The other pictures, (M, C, H, W), in the network's units. The picture itself may be
            among them; it is never drawn.
    """

    images: Tensor
    random: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.images.ndim != 4 or len(self.images) == 0:
            raise ValueError(f"images must be (M, C, H, W), not {tuple(self.images.shape)}")

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Another picture for each of the images (N, C, H, W)."""
        if images.shape[1:] != self.images.shape[1:]:
            raise ValueError(
                f"the other pictures are of shape {tuple(self.images.shape[1:])}, these of "
                f"{tuple(images.shape[1:])}; give Patches pictures of the same shape"
            )
        others = self.images.to(images)
        return torch.stack([_another(image, others, generator) for image in images])


@dataclass(frozen=True)
class Histogram:
    """One colour for the whole picture, drawn from the picture's own histogram.

    The colour-histogram imputer of Bluecher et al. 2024 (in their code 8 splits of each channel,
    and the mean of the pixels in the bin that was drawn). A bin is as likely as it has pixels.
    `Dirichlet` with one point draws from the same colours, but for each pixel anew: noise with the
    picture's statistics. Here all is of one colour: a flat patch, with no edge within. It does not
    look at the mask: windows of the network can be kept.

    Attributes:
        bins: Of each channel, between the picture's lowest and highest value in it; at least 1. One
            bin gives the mean colour.
    """

    bins: int = 8
    random: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.bins < 1:
            raise ValueError(f"bins must be at least 1, not {self.bins}")

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """A colour for each of the images (N, C, H, W), all over it."""
        colours = images.flatten(2)
        low, high = colours.aminmax(dim=2, keepdim=True)
        width = torch.where(high > low, high - low, 1) / self.bins
        binned = ((colours - low) / width).floor().clamp(max=self.bins - 1)
        chosen = torch.randint(colours.shape[2], (len(images), 1, 1), generator=generator)
        drawn = binned.gather(2, chosen.expand(-1, colours.shape[1], -1))
        alike = (binned == drawn).all(dim=1, keepdim=True)
        colour = (colours * alike).sum(dim=2) / alike.sum(dim=2)
        return colour[:, :, None, None].expand_as(images).clone()


def _another(image: Tensor, others: Tensor, generator: torch.Generator) -> Tensor:
    different = (others != image).flatten(1).any(dim=1).nonzero()[:, 0]
    if len(different) == 0:
        raise ValueError("Patches holds no other picture than the one to be filled; give it more")
    chosen = different[torch.randint(len(different), (), generator=generator)]
    return others[chosen]


def _checked(images: Tensor, gone: Tensor) -> NDArray[np.bool_]:
    """The masks (N, H, W), which fit the images and leave something of each."""
    wanted = (len(images), 1, *images.shape[2:])
    if tuple(gone.shape) != wanted or gone.dtype != torch.bool:
        raise ValueError(
            f"gone must be {wanted} bool to fit the images, not {tuple(gone.shape)} {gone.dtype}"
        )
    whole = gone.flatten(1).all(dim=1)
    if whole.any():
        raise ValueError(
            f"nothing is left of {int(whole.sum())} of {len(images)} pictures to fill the rest "
            "from; replace fewer regions (lower steps), or take a fill that does not see the mask"
        )
    return gone[:, 0].numpy()


def _inside(images: Tensor, masks: NDArray[np.bool_]) -> Tensor:
    """The images with all holes spanned; equal holes of equal pictures are solved once."""
    height, width = images.shape[2:]
    pictures = images.double().flatten(2).transpose(1, 2).numpy()
    filled = pictures.copy()
    alike = bool((images == images[:1]).all())
    known: dict[tuple[int, bytes], NDArray[np.float64]] = {}
    for number, mask in enumerate(masks):
        for hole in _holes(mask):
            key = (0 if alike else number, hole.tobytes())
            if key not in known:
                known[key] = _membrane(pictures[number], hole, height, width)
            filled[number, hole] = known[key]
    return torch.from_numpy(filled).transpose(1, 2).reshape(images.shape).to(images.dtype)


def _holes(mask: NDArray[np.bool_]) -> Iterator[NDArray[np.int64]]:
    """The numbers of the pixels of each hole; those that touch by a corner are of one hole."""
    from scipy.ndimage import label  # slow to import

    labels = label(mask, np.ones((3, 3)))[0].ravel()
    pixels = np.flatnonzero(labels)
    pixels = pixels[labels[pixels].argsort(kind="stable")]
    ends = np.bincount(labels)[1:].cumsum()
    yield from np.split(pixels, ends[:-1]) if len(ends) else ()


def _membrane(
    picture: NDArray[np.float64], hole: NDArray[np.int64], height: int, width: int
) -> NDArray[np.float64]:
    """Values (n, C) in a hole: each the weighted mean of the neighbours that it has.

    Times the weights that exist, an equation for each pixel of the hole: its value times their sum,
    less its neighbours in the hole, is its neighbours outside. The matrix is symmetric and positive
    definite, since every hole has a rim.
    """
    from scipy.sparse import coo_array, diags_array  # slow to import
    from scipy.sparse.linalg import splu

    rows, columns = np.divmod(hole, width)
    place = np.full(height * width, -1)
    place[hole] = np.arange(len(hole))
    weights, outside = np.zeros(len(hole)), np.zeros((len(hole), picture.shape[1]))
    links: list[tuple[Any, Any, Any]] = []
    for (down, right), weight in _NEIGHBOURS.items():
        row, column = rows + down, columns + right
        pixel = np.flatnonzero((row >= 0) & (row < height) & (column >= 0) & (column < width))
        neighbour = row[pixel] * width + column[pixel]
        missing = place[neighbour] >= 0
        weights[pixel] += weight
        outside[pixel[~missing]] += weight * picture[neighbour[~missing]]
        links.append((pixel[missing], place[neighbour[missing]], np.full(missing.sum(), -weight)))
    first, second, values = (np.concatenate(part) for part in zip(*links, strict=True))
    between = coo_array((values, (first, second)), shape=(len(hole), len(hole)))
    system = (diags_array(weights) + between).tocsc()
    solver = splu(system, "MMD_AT_PLUS_A", 0.0, options={"SymmetricMode": True})
    found: NDArray[np.float64] = solver.solve(outside)
    return found
