r"""What a map of Grad-LAM compares the picture with: feature maps of zero, a code, or pictures.

A map :math:`\sum_k A^k\, \partial z_j / \partial A^k` compares with feature maps of zero, whether
anybody has thought of it or not. With a picture :math:`x'` in their place it becomes
:math:`\sum_k (A^k(x) - A^k(x'))\, \partial z_j / \partial A^k`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from xaiutils import graph
from xaiutils.attribution._baselines import Baselines, Units, makers
from xaiutils.attribution._common import check_positive


@dataclass(frozen=True, eq=False)
class Compared:
    """What the images of a batch are compared with.

    Attributes:
        code: A reference code (J,); zeros where none was named.
        pictures: Reference pictures, each (N, C, H, W) and as many as there are references; none
            where the feature maps are compared with zero.
    """

    code: Tensor
    pictures: list[Tensor]


def compared_with(
    reference: Baselines | None, x: Tensor, latents: int, units: Units | None, seed: int
) -> Compared:
    """Check a reference and draw its pictures, for the whole batch at once.

    Drawn so, they do not depend on how many images are then treated at a time.

    Args:
        reference: None, a code (J,), or what stands for pictures.
        x: The images (N, C, H, W), in float32 at least.
        latents: How many numbers a code has, J.
        units: What black and white are.
        seed: Of what is drawn.

    Raises:
        TypeError: If it is of no type that a baseline may have.
        ValueError: If it does not fit, is not finite, or has to see a mask.
    """
    code = x.new_zeros(latents)
    if reference is None:
        return Compared(code, [])
    if isinstance(reference, Tensor) and reference.ndim == 1:
        return Compared(_checked_code(reference.to(x), latents), [])
    several = reference if isinstance(reference, (list, tuple)) else [reference]
    if any(getattr(each, "sees_mask", False) for each in several):
        raise ValueError(
            "reference is a fill that sees the mask: it makes another picture for each region, "
            "and a reference is one picture; take a fill that does not ask what is gone"
        )
    generator = torch.Generator().manual_seed(seed)
    return Compared(code, [make(x, generator) for make in makers(reference, x, units)])


def _checked_code(code: Tensor, latents: int) -> Tensor:
    if code.shape != (latents,):
        raise ValueError(
            f"reference must be ({latents},), a number for each latent, not {tuple(code.shape)}; "
            "or pictures, which have the dimensions of x"
        )
    if not bool(torch.isfinite(code).all()):
        raise ValueError("reference holds NaN or infinite values")
    return code


class ReferenceFeatures:
    """Runs the encoder on reference pictures; on one picture for the whole batch only once.

    Args:
        traced: The encoder.
        node: The layer that is read.
    """

    def __init__(self, traced: graph.Graph, node: graph.Node) -> None:
        self.traced, self.node = traced, node
        self._shared: dict[int, tuple[Tensor, Tensor]] = {}

    def __call__(self, picture: Tensor) -> tuple[Tensor, Tensor]:
        """Return the feature maps and the code of a reference picture.

        Args:
            picture: (N, C, H, W), a part of the batch; of one picture expanded every part is the
                same, so what was found for the first part serves the others.

        Returns:
            (N, K, h, w) and (N, J), or (1, ...) for one picture.

        Raises:
            ValueError: If they are not finite.
        """
        if picture.stride(0) != 0:
            return self._run(picture)
        key = picture.data_ptr()  # the caller holds the picture as long as this is used
        if key not in self._shared:
            self._shared[key] = self._run(picture[:1])
        return self._shared[key]

    def _run(self, picture: Tensor) -> tuple[Tensor, Tensor]:
        record = self.traced.record(picture, keep=frozenset({self.node.index}))
        features, code = record.value(self.node.index), record.output
        if not bool(torch.isfinite(features).all() and torch.isfinite(code).all()):
            raise ValueError("the encoder overflows on the reference: its code is not finite")
        return features, code


def mean_of(parts: Sequence[Tensor]) -> Tensor:
    """Return the mean of tensors for one reference each; of one, itself, to the last bit.

    Some may be for one picture, (1, ...), and some for each image, (N, ...).
    """
    if len(parts) == 1:
        return parts[0]
    images = max(len(part) for part in parts)
    return torch.stack([part.expand(images, *part.shape[1:]) for part in parts]).mean(dim=0)


# ---------------------------------------------------------------------------------- regions


def check_regions(region_size: int | None, size: Sequence[int], places: Sequence[int]) -> None:
    """Check that square regions tile the picture, and that each is made of whole places.

    Args:
        region_size: Side of a region in pixels; None for no regions.
        size: Height and width of the picture, in pixels.
        places: Height and width of the layer's maps, in places.

    Raises:
        ValueError: If they do not.
    """
    if region_size is None:
        return
    check_positive("region_size", region_size)
    for pixels, count in zip(size, places, strict=True):
        if pixels % region_size or region_size * count % pixels:
            raise ValueError(
                f"region_size must divide the picture, {tuple(size)} pixels, and hold whole places "
                f"of the layer, which has {tuple(places)}; {region_size} does not"
            )


def over_regions(maps: Tensor, region_size: int | None, size: Sequence[int]) -> Tensor:
    """Return the sums of maps (N, J, h, w) over the regions, or the maps where there are none."""
    if region_size is None:
        return maps
    sides = [region_size * n // pixels for n, pixels in zip(maps.shape[2:], size, strict=True)]
    return F.avg_pool2d(maps, sides, divisor_override=1)
