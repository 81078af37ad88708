"""A small classifier of natural images at 64 x 64 pixels, in the style of the digit classifier."""

from typing import cast

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
