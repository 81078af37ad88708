"""Look at the digits that a chapter measures on: which classes are they, and how many of each?"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from xaiutils import data

FEWEST = 10  # of fewer digits nobody expects all classes


def unbalanced(namespace: dict[str, Any], exempt: list[str]) -> Iterator[str]:
    """A sentence for each set of digits that does not hold all classes in about equal numbers.

    Args:
        namespace: A chapter's variables. Its sets of digits are the tensors (N, 1, 28, 28) with at
            least `FEWEST` images, all of which are digits of the embedded part of MNIST.
        exempt: Names that may hold what they like.
    """
    known = _classes()
    for name, value in list(namespace.items()):
        if name.startswith("_") or name in exempt or not _are_images(value):
            continue
        labels = [known.get(image.numpy().tobytes()) for image in value.detach().float().cpu()]
        if None not in labels:
            counts = torch.bincount(torch.tensor(labels), minlength=10)
            if not about_equal(counts):
                yield f"{name} holds {counts.tolist()} digits of the classes 0 to 9"


def about_equal(counts: Tensor) -> bool:
    """Whether each count is from half to twice the mean, or they differ by 1 at most."""
    mean = counts.double().mean()
    within = bool((counts >= mean / 2).all() and (counts <= mean * 2).all())
    return within or int(counts.max() - counts.min()) <= 1


def _are_images(value: object) -> bool:
    return isinstance(value, Tensor) and value.shape[1:] == (1, 28, 28) and len(value) >= FEWEST


def _classes() -> dict[bytes, int]:
    """The class of each embedded digit, by its pixels."""
    sets = [data.mnist(split, source="embedded") for split in ("train", "test")]
    return {
        image.numpy().tobytes(): int(label)
        for digits in sets
        for image, label in zip(digits.images, digits.labels, strict=True)
    }
