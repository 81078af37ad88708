"""The small digit classifiers: small enough to read, to train on a laptop, and to run in a page."""

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F


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


class MnistViT(nn.Module):
    """A vision transformer of four blocks that read 7 x 7 patches of 4 x 4 pixels; 139,018 numbers.

    The architecture is that of Dosovitskiy et al. (ICLR 2021) at the size of a digit: patches
    become tokens by one linear map, a class token goes in front, a learned position is added to
    each token, and the logits are read off the class token after the last block. LayerNorm comes
    before attention and before the two layers with GELU ("pre-norm"). No dropout.

    Takes digits of shape (N, 1, 28, 28) with ink in [0, 1] and returns logits of shape (N, 10). No
    normalisation of the input, as in `MnistCNN`: zero is the empty page.
    """

    def __init__(self) -> None:
        super().__init__()
        width, depth, heads, hidden, patch = 64, 4, 4, 128, 4
        self.patches = nn.Conv2d(1, width, patch, stride=patch)
        self.class_token = nn.Parameter(torch.empty(1, 1, width))
        self.positions = nn.Parameter(torch.empty(1, 1 + (28 // patch) ** 2, width))
        self.blocks = nn.Sequential(*[_Block(width, heads, hidden) for _ in range(depth)])
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, 10)
        for token in (self.class_token, self.positions):
            nn.init.trunc_normal_(token, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        """Map digits (N, 1, 28, 28) to logits (N, 10)."""
        tokens = self.patches(x).flatten(2).transpose(1, 2)  # (N, 49, 64)
        class_token = self.class_token.expand(x.shape[0], -1, -1)
        tokens = torch.cat([class_token, tokens], dim=1) + self.positions
        tokens = self.norm(self.blocks(tokens))
        return cast(Tensor, self.head(tokens[:, 0]))


class _Block(nn.Module):
    """Tokens (N, T, width) look at each other, then each is changed by itself; both are added."""

    def __init__(self, width: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attention = _Attention(width, heads)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x))
        return cast(Tensor, x + self.mlp(self.norm2(x)))


class _Attention(nn.Module):
    """Self-attention of several heads; each token becomes a mean of all, weighted by softmax."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.projection = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        n, tokens, width = x.shape
        parts = self.qkv(x).reshape(n, tokens, 3, self.heads, width // self.heads)
        query, key, value = parts.permute(2, 0, 3, 1, 4).unbind()  # each (N, heads, T, width/heads)
        mixed = F.scaled_dot_product_attention(query, key, value)
        return cast(Tensor, self.projection(mixed.transpose(1, 2).reshape(n, tokens, width)))
