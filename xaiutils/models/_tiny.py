"""Classifiers of natural images at 64 x 64 pixels: a small one, and torchvision's larger ones."""

from typing import cast

import torchvision
from torch import Tensor, nn


class TinyCNN(nn.Module):
    """Three convolutions, poolings and one linear layer; 131,000 parameters for 50 classes.

    Takes images of shape (N, 3, 64, 64) and returns logits of shape (N, classes). ReLU throughout
    and no BatchNorm, so that each step of its training gives a network that can be read backwards
    as it stands.

    Args:
        classes: Number of classes.
    """

    def __init__(self, classes: int = 50) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 24, 5, stride=2, padding=2),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(24, 48, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(48, 96, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
        )
        self.classifier = nn.Sequential(nn.Flatten(), nn.Linear(96 * 4 * 4, classes))

    def forward(self, x: Tensor) -> Tensor:
        """Map images (N, 3, 64, 64) to logits (N, classes)."""
        return cast(Tensor, self.classifier(self.features(x)))


def tiny_network(architecture: str, classes: int) -> nn.Module:
    """A torchvision classifier for images of 64 x 64 pixels, with random weights.

    A VGG ends in three wide layers that read 7 x 7 features and hold most of its parameters. At 64
    pixels 2 x 2 features are left, and one linear layer reads them; all else is torchvision's.

    Args:
        architecture: A name that torchvision knows, such as "resnet18".
        classes: Number of logits.
    """
    module = torchvision.models.get_model(architecture, weights=None, num_classes=classes)
    if isinstance(module, torchvision.models.VGG):
        module.avgpool = nn.AdaptiveAvgPool2d(2)
        module.classifier = nn.Sequential(nn.Linear(512 * 4, classes))
    return cast(nn.Module, module)
