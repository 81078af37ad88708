"""What every training with labels shares: its loss, its augmentation, its accuracy."""

import torch
from torch import Tensor, nn


def cross_entropy(module: nn.Module, inputs: Tensor, labels: Tensor) -> Tensor:
    """The mean cross entropy of a batch of logits (N, K) and labels (N,)."""
    return nn.functional.cross_entropy(module(inputs), labels)


def random_shift(images: Tensor, generator: torch.Generator, most: int = 2) -> Tensor:
    """Shift a whole batch by the same random number of pixels; what leaves comes in opposite."""
    rows, columns = torch.randint(-most, most + 1, (2,), generator=generator).tolist()
    return images.roll((rows, columns), dims=(2, 3))


def mirror(images: Tensor, generator: torch.Generator) -> Tensor:
    """Mirror each image or not, by lot, after a shift of the whole batch by up to 4 pixels."""
    chosen = torch.rand(len(images), 1, 1, 1, generator=generator) < 0.5
    chosen = chosen.to(images.device)
    return random_shift(torch.where(chosen, images.flip(3), images), generator, most=4)


@torch.no_grad()
def accuracy(module: nn.Module, inputs: Tensor, labels: Tensor) -> Tensor:
    """Share of inputs (N, C, H, W) whose largest logit is at their label, a scalar in [0, 1]."""
    found = torch.cat([module(batch).argmax(dim=1) for batch in torch.split(inputs, 500)])
    return (found == labels).double().mean()
