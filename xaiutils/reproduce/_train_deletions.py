"""``train mnist-deletions``: the digit classifier, made used to pictures with replaced regions.

A network that has never met noise in place of a stroke may answer to the noise. Retraining on what
a map took away (ROAR, Hooker et al. 2019) cures that and lets the mask itself teach the class; so
IDSDS (Hesse et al. 2024) and F-Fidelity (Zheng et al. 2025) fine-tune one network for all methods,
on regions that the lot takes away. Here the lot also chooses their size, their share, whether they
are scattered or one block, and what replaces them.
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from xaiutils import data, evaluation, models
from xaiutils.reproduce._explained import weights
from xaiutils.reproduce._supervised import accuracy, cross_entropy, random_shift
from xaiutils.reproduce._weights_record import describe, refuse_embedded, store

START = "mnist_cnn"
_SIZES = (2, 4, 7)  # sides of a region, in pixels
_MOST = 0.5  # of the regions of a digit
_OTHERS = 1000  # digits that Patches takes regions from


@dataclass(frozen=True, eq=False)
class Deletions:
    """An augmentation: some regions of each digit are replaced, all of a batch by the same fill.

    Attributes:
        fills: One of them is drawn for each batch.
        most: The share of the regions is drawn for each digit, from 0 to this.
    """

    fills: Sequence[evaluation.Fill]
    most: float = _MOST

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Digits (N, 1, 28, 28), shifted and with regions replaced."""
        images = random_shift(images, generator)
        fill = self.fills[_drawn(len(self.fills), generator)]
        gone = _random_masks(images, _SIZES[_drawn(len(_SIZES), generator)], self.most, generator)
        if getattr(fill, "sees_mask", False):
            filled = cast(evaluation.SeeingFill, fill)(images, generator, gone)
        else:
            filled = cast(evaluation.BlindFill, fill)(images, generator)
        return torch.where(gone, filled, images)


def digit_fills(train: Tensor) -> dict[str, evaluation.Fill]:
    """All fills for digits by name, made from training digits (N, 1, 28, 28) in [0, 1]."""
    return {
        "uniform": evaluation.Uniform(0.0, 1.0),
        "constant": evaluation.Constant.mean_of(train),
        "dirichlet": evaluation.Dirichlet(),
        "blur": evaluation.Blur(),
        "noisy_linear": evaluation.NoisyLinear(),
        "histogram": evaluation.Histogram(),
        "patches": evaluation.Patches(train[:_OTHERS]),
        "decoded": evaluation.Decoded(models.load_autoencoder("mnist_ae_16")),
    }


def train_deletions(options: argparse.Namespace) -> int:
    """Fine-tune the embedded digit classifier on the 60,000 digits, test on the 10,000, store."""
    train, test = data.mnist("train"), data.mnist("test")
    refuse_embedded(train, test)
    inputs, digits = (torch.as_tensor(split.images) for split in (train, test))
    start = models.load_classifier(START)
    before = weights(start.module, START)
    right_before = accuracy(start.module, digits, test.labels).item()
    fills = digit_fills(inputs)
    plan = models.TrainingPlan(options.epochs, 128, 1e-3, seed=options.seed)
    models.fit(
        start.module,
        cross_entropy,
        inputs,
        train.labels,
        plan,
        augment=Deletions(list(fills.values())),
        checkpoint=options.checkpoint,
    )
    right = accuracy(start.module, digits, test.labels).item()
    facts = {
        "accuracy": {
            "test": round(right, 4),
            "before": round(right_before, 4),
            "digits": len(test),
        },
        "start": before,
        "deletions": {"fills": list(fills), "sizes": list(_SIZES), "most": _MOST},
        "data": {"train": describe(inputs, train.labels), "test": describe(digits, test.labels)},
        "plan": vars(plan) | {"augmentation": "shift by up to 2 pixels, then deletions"},
        "device": "cpu",
    }
    store(start.module, options.out, facts)
    print(f"test accuracy {right:.4f} (before {right_before:.4f}); weights in {options.out.name}")
    return 0


def _random_masks(images: Tensor, size: int, most: float, generator: torch.Generator) -> Tensor:
    """What is gone, (N, 1, H, W) bool: of each image some regions, scattered or in one block."""
    number, _, height, width = images.shape
    regions = evaluation.Regions(height, width, size)
    centre = torch.rand(number, 2, 1, generator=generator)
    rows, columns = (torch.linspace(0, 1, n) for n in (regions.rows, regions.columns))
    away = (rows - centre[:, 0])[:, :, None] ** 2 + (columns - centre[:, 1])[:, None] ** 2
    scattered = torch.rand(number, regions.count, generator=generator)
    block = torch.rand(number, 1, generator=generator) < 0.5
    ranks = evaluation.morf_ranks(-torch.where(block, away.flatten(1), scattered))
    share = most * torch.rand(number, 1, generator=generator)
    taken = ranks < (share * regions.count).round()
    return taken[:, regions.index.flatten()].view(number, 1, height, width)


def _drawn(many: int, generator: torch.Generator) -> int:
    return int(torch.randint(many, (), generator=generator))
