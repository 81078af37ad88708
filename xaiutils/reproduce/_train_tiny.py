"""``train tiny-imagenet``: a torchvision network on Tiny ImageNet, whose objects have boxes."""

import argparse

import torch
from torch import Tensor, nn

from xaiutils import data, models
from xaiutils.reproduce._supervised import accuracy, mirror
from xaiutils.reproduce._train_autoencoder import as_bytes
from xaiutils.reproduce._weights_record import describe, store

ARCHITECTURES = tuple(name.removeprefix("tiny_") for name in models.TINY_NETWORKS)

_PEAK_LR = {"vgg16": 2e-4}  # without BatchNorm its loss grows beyond bounds at larger steps


def train_tiny_imagenet(options: argparse.Namespace) -> int:
    """Train on the training part, test on the validation part, store weights and record."""
    train, test = data.tiny_imagenet("train"), data.tiny_imagenet("val")
    generator = torch.Generator().manual_seed(options.seed)
    chosen = torch.randperm(len(train), generator=generator)[: options.train_images]
    labels = train.labels[chosen]
    images = as_bytes(train)[chosen]
    torch.manual_seed(options.seed)
    module = models.tiny_network(options.architecture, len(train.categories))
    module = module.to(options.device).to(memory_format=torch.channels_last)
    peak_lr = _PEAK_LR.get(options.architecture, 2e-3)
    plan = models.TrainingPlan(
        epochs=options.epochs, peak_lr=peak_lr, weight_decay=0.05, seed=options.seed
    )
    history = models.fit(
        module,
        loss_of_bytes,
        images.to(options.device),
        labels.to(options.device),
        plan,
        augment=mirror,
        checkpoint=options.checkpoint,
    )
    module = module.cpu()
    others = as_bytes(test)
    right = {
        "test": round(accuracy(module, in_units(others), test.labels).item(), 4),
        "train": round(accuracy(module, in_units(images[:2500]), labels[:2500]).item(), 4),
    }
    facts = {
        "architecture": options.architecture,
        "parameters": sum(p.numel() for p in module.parameters()),
        "accuracy": right | {"images": len(test), "classes": len(test.categories)},
        "loss": [round(value, 4) for value in history],
        "data": {
            "train": {"part": train.name} | describe(images, labels),
            "test": {"part": test.name} | describe(others, test.labels),
        },
        "plan": vars(plan) | {"augmentation": "mirror by lot, shift by up to 4 pixels"},
        "precision": "products in bfloat16, the rest in float32",
        "device": options.device,
    }
    store(module, options.out, facts, {"categories": "\n".join(train.categories)})
    print(f"test accuracy {right['test']:.4f} on {len(test)} images; weights in {options.out.name}")
    return 0


def loss_of_bytes(module: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """Cross entropy on pixels that are kept as bytes; bfloat16 halves the time on new CPUs."""
    inputs = in_units(images).contiguous(memory_format=torch.channels_last)
    with torch.autocast(images.device.type, torch.bfloat16):
        logits = module(inputs)
    return nn.functional.cross_entropy(logits.float(), labels)


def in_units(images: Tensor) -> Tensor:
    """Bytes (N, 3, 64, 64) in the network's units, from -1 for black to 1 for white."""
    return images.float() / 127.5 - 1
