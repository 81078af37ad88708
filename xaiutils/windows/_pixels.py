"""Images as rows of channels, one for each pixel, and back."""

from torch import Tensor


def as_images(pixels: Tensor, numbers: Tensor, height: int) -> Tensor:
    """Images (N, C, H, W) of the pixels, rows of channels, with these numbers (N, H * W)."""
    found = pixels.index_select(0, numbers.flatten())
    return found.view(len(numbers), height, -1, found.shape[1]).permute(0, 3, 1, 2)


def as_pixels(images: Tensor) -> Tensor:
    """Images (N, C, H, W) as rows of channels, (N * H * W, C)."""
    return images.permute(0, 2, 3, 1).flatten(0, 2)
