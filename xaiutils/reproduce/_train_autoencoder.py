"""``train mnist-ae-16`` and its kin: the autoencoders that the package embeds."""

import argparse
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from xaiutils import data, models
from xaiutils.reproduce._weights_record import describe, refuse_embedded, store


@dataclass(frozen=True)
class Recipe:
    """What an autoencoder is trained on, and for how long.

    Attributes:
        data: "MNIST" (60,000 and 10,000 digits) or "Tiny ImageNet" (its "train" and "val" parts).
        epochs: Passes over the training part.
        peak_lr: Highest learning rate.
        batch_size: Images per step.
    """

    data: str
    epochs: int
    peak_lr: float = 4e-3
    batch_size: int = 128


RECIPES = {
    "mnist_ae_2": Recipe("MNIST", 30),
    "mnist_ae_8": Recipe("MNIST", 30),
    "mnist_ae_16": Recipe("MNIST", 30),
    "mnist_ae_32": Recipe("MNIST", 30),
    "mnist_vae_16": Recipe("MNIST", 30),
    "natural_ae_64": Recipe("Tiny ImageNet", 10, 2e-3),
}


def train_autoencoder(options: argparse.Namespace) -> int:
    """Train on the training part, measure on the other one, store weights and record."""
    recipe = RECIPES[options.name]
    train, test = _PARTS[recipe.data]()
    refuse_embedded(train, test)
    images, others = as_bytes(train), as_bytes(test)
    module = models.load_autoencoder(options.name, weights="random").to(options.device)
    plan = models.TrainingPlan(options.epochs, recipe.batch_size, recipe.peak_lr, seed=options.seed)
    on_device = images.to(options.device)
    history = models.fit(
        module, loss_of_bytes, on_device, on_device, plan, checkpoint=options.checkpoint
    )
    module = module.cpu()
    error = models.reconstruction_error(module, _brightness(others)).mean().item()
    facts = {
        "error": {"test": round(error, 6), "images": len(test)},
        "loss": [round(value, 6) for value in history],
        "data": {
            "train": {"part": train.name} | describe(images, train.labels),
            "test": {"part": test.name} | describe(others, test.labels),
        },
        "plan": vars(plan),
        "device": options.device,
    }
    store(module, options.out, facts)
    print(f"test error {error:.5f} on {len(test)} images; weights in {options.out.name}")
    return 0


def loss_of_bytes(module: nn.Module, images: Tensor, targets: Tensor) -> Tensor:
    """The network's own loss, on pixels that are kept as bytes: a quarter of the memory."""
    variational = isinstance(module, models.VariationalAutoencoder)
    loss = models.variational_loss if variational else models.reconstruction_loss
    return loss(module, _brightness(images), _brightness(targets))


def _brightness(pixels: Tensor) -> Tensor:
    return pixels.float() / 255


def as_bytes(images: data.ImageSet) -> Tensor:
    """All images of a set as one uint8 tensor (N, C, H, W)."""
    if isinstance(images.images, Tensor):
        return (images.images * 255).round().to(torch.uint8)
    pixels = np.stack([np.asarray(image) for image in images.images])
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous()


def _mnist() -> tuple[data.ImageSet, data.ImageSet]:
    return data.mnist("train"), data.mnist("test")


def _tiny_imagenet() -> tuple[data.ImageSet, data.ImageSet]:
    return data.tiny_imagenet("train"), data.tiny_imagenet("val")


_PARTS = {"MNIST": _mnist, "Tiny ImageNet": _tiny_imagenet}
