"""What the long runs explain: the inputs of a network, its weights, and the maps of them."""

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from xaiutils import attribution, data, models

_DRAWN = ("random", "smoothgrad")  # the methods that take a seed


def image_set(
    name: str, classifier: models.Classifier, source: str = "auto", folder: Path | None = None
) -> data.ImageSet:
    """The data set of this name on the command line.

    Raises:
        SystemExit: The network tells other classes apart than those of Tiny ImageNet that are here.
    """
    if name == "mnist":
        return data.mnist("test", source=source)
    if name == "photos":
        return data.photos()
    if name == "folder":
        assert folder is not None
        return data.imagenet_folder(folder)
    if name == "tiny-imagenet":
        images = data.tiny_imagenet("val", source=source)
        if images.categories != classifier.categories:
            raise SystemExit(
                f"{classifier.name} tells {len(classifier.categories)} classes apart, which are "
                f"not the {len(images.categories)} of {images.name}. Give a network that "
                "'train tiny-imagenet' trained on the same classes."
            )
        return images
    return data.imagenet_sample(source=source)


def inputs(images: data.ImageSet, classifier: models.Classifier, numbers: Iterable[int]) -> Tensor:
    """The network's inputs for the images of these numbers, (N, C, H, W), on the CPU."""
    if isinstance(images.images, Tensor):
        return images.images[list(numbers)]
    return classifier.batch([images.images[i] for i in numbers])


def mean_input(images: data.ImageSet, classifier: models.Classifier, numbers: range) -> Tensor:
    """The mean of these inputs, (C, H, W)."""
    total = sum(inputs(images, classifier, [i])[0].double() for i in numbers)
    return (torch.as_tensor(total) / len(numbers)).float()


def heatmap(name: str, module: nn.Module, x: Tensor, target: Tensor | None, seed: int) -> Tensor:
    """The maps of one method; the seed is for methods that draw at random."""
    given = {"seed": seed} if name in _DRAWN else {}
    found: Tensor = attribution.METHODS[name](module, x, target, **given)
    return found


def weights(module: nn.Module, source: str) -> dict[str, Any]:
    """Where the weights came from, and a hash of them all."""
    content = hashlib.sha256()
    for name, tensor in module.state_dict().items():
        content.update(name.encode() + tensor.cpu().contiguous().numpy().tobytes())
    return {"source": source, "sha256": content.hexdigest()}
