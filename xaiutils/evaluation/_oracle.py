"""Networks whose true relevance is known, against which a measure of heatmaps can be measured."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from xaiutils.evaluation._fills import BlindFill


class AdditiveNetwork(nn.Module):
    """f(x) is a sum over square regions; no region looks at another.

    Each region r adds g(x_r) = v . relu(W x_r + b), with the same random W, b and v for all, so
    that `contributions` is the only way to share out the output that leaves nothing to argue about,
    except what a region would have added had it shown something else.

    Args:
        channels: Of the images.
        side: Of the images, in pixels; a multiple of `region_size`.
        region_size: In pixels.
        hidden: Number of hidden units for each region.
        seed: Of the weights.

    Raises:
        ValueError: The regions do not tile the image.
    """

    def __init__(
        self, channels: int, side: int, region_size: int, hidden: int = 16, seed: int = 0
    ) -> None:
        super().__init__()
        if side % region_size:
            raise ValueError(f"regions of {region_size} pixels do not tile a side of {side}")
        self.side = side // region_size
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.parts = nn.Sequential(
                nn.Conv2d(channels, hidden, region_size, stride=region_size),
                nn.ReLU(),
                nn.Conv2d(hidden, 1, 1),
                nn.Flatten(),
            )
        self.total = nn.Linear(self.side**2, 1, bias=False)
        nn.init.ones_(self.total.weight)
        self.eval()

    def contributions(self, x: Tensor) -> Tensor:
        """What each region adds: images (N, C, H, W) give (N, rows, columns)."""
        parts: Tensor = self.parts(x)
        return parts.view(-1, self.side, self.side)

    def forward(self, x: Tensor) -> Tensor:
        """The sum of the contributions: images (N, C, H, W) give (N, 1)."""
        total: Tensor = self.total(self.parts(x))
        return total


@torch.no_grad()
def expected_falls(
    network: AdditiveNetwork, x: Tensor, fill: BlindFill, draws: int = 64, seed: int = 0
) -> Tensor:
    """The true relevance of each region under a fill: by how much f falls on average without it.

    With c_r = g(x_r) - E g(fill), the order of c has the largest expected AOPC of all orders, since
    f loses the sum of c over the regions that are replaced (the rearrangement inequality).

    Args:
        network: The network.
        x: Images, shape (N, C, H, W).
        fill: What replaces a region.
        draws: How many replacements the expectation is taken over.
        seed: Of these.

    Returns:
        (N, rows, columns), in units of the output.
    """
    generator = torch.Generator().manual_seed(seed)
    filled = [network.contributions(fill(x.clone(), generator)) for _ in range(draws)]
    return network.contributions(x) - torch.stack(filled).mean(dim=0)
