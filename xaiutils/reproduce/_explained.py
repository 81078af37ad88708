"""What the long runs explain: the inputs of a network, its weights, and the maps of them."""

import hashlib
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from xaiutils import attribution, data, models

# The methods that draw, by a seed.
_DRAWN = ("random", "smoothgrad", "smoothgrad_squared", "vargrad", "shapley", "rise")
_PAPER_EPSILONS = (0.01, 100.0)


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


def pixel_units(classifier: models.Classifier) -> float:
    """How many of the 255 steps of a pixel make one unit of the network's input."""
    std = classifier.preprocess.std
    return 255 * sum(std) / len(std)


def extra_methods(classifier: models.Classifier) -> dict[str, Callable[..., Any]]:
    """What `samek` can run beside `attribution.METHODS`.

    ``"lrp_epsilon_0.01"`` and ``"lrp_epsilon_100"`` are the stabilisers of Samek et al. 2017, whose
    networks take pixels from 0 to 255 less a mean; ours take them divided by `pixel_units`. A ReLU
    network without biases is homogeneous, so that all its activations shrink by the same factor:
    epsilon is divided by it. ``"..._as_is"`` takes the plain number. ``"..._abs"`` takes the
    absolute value of what a pixel's channels sum to: a ranking that does not ask for the sign.
    """
    methods: dict[str, Callable[..., Any]] = {}
    for epsilon in _PAPER_EPSILONS:
        name, scaled = f"lrp_epsilon_{epsilon:g}", epsilon / pixel_units(classifier)
        methods[name] = partial(attribution.lrp, composite=_everywhere(scaled))
        methods[f"{name}_as_is"] = partial(attribution.lrp, composite=_everywhere(epsilon))
    for name in ("input_x_gradient", "lrp_alpha2_beta1"):
        methods[f"{name}_abs"] = partial(_unsigned, attribution.METHODS[name])
    return methods


def _everywhere(epsilon: float) -> attribution.Composite:
    rule = attribution.Epsilon(epsilon)
    return attribution.Composite(rule, rule, affine=rule, other=rule)


def _unsigned(method: Callable[..., Any], *given: Any, **options: Any) -> Tensor:
    found: Tensor = method(*given, **options)
    return found.sum(dim=1, keepdim=True).abs()


def heatmap(
    name: str,
    module: nn.Module,
    x: Tensor,
    target: Tensor | None,
    seed: int,
    extra: Mapping[str, Callable[..., Any]] | None = None,
) -> Tensor:
    """The maps of one method of `attribution.METHODS` or `extra`; the seed is for what is drawn."""
    given = {"seed": seed} if name in _DRAWN else {}
    method = (attribution.METHODS | dict(extra or {}))[name]
    found: Tensor = method(module, x, target, **given)
    return found


def weights(module: nn.Module, source: str) -> dict[str, Any]:
    """Where the weights came from, and a hash of them all."""
    content = hashlib.sha256()
    for name, tensor in module.state_dict().items():
        content.update(name.encode() + tensor.cpu().contiguous().numpy().tobytes())
    return {"source": source, "sha256": content.hexdigest()}
