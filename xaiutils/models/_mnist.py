"""The small digit classifier: small enough to read, to train on a laptop, and to run in a page."""

from typing import cast

from torch import Tensor, nn


class MnistCNN(nn.Module):
    """Two convolutions, two poolings, two linear layers; 106,000 parameters, ReLU throughout.

    Takes digits of shape (N, 1, 28, 28) with ink in [0, 1] and returns logits of shape (N, 10).
    No normalisation of the input: zero is the empty page, so that a relevance of zero for a pixel
    without ink (gradient x input) means what it says.
    """

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(16, 32, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
        )
        self.classifier = nn.Sequential(
            nn.Flatten(), nn.Linear(32 * 7 * 7, 64), nn.ReLU(), nn.Linear(64, 10)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map digits (N, 1, 28, 28) to logits (N, 10)."""
        return cast(Tensor, self.classifier(self.features(x)))
