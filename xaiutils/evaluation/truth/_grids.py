"""Pictures side by side: GridPG, DiPart and DiFull (Rao, Boehle and Schiele 2022; 2024)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, cast, get_args

import torch
from torch import Tensor, nn

from xaiutils.evaluation.truth._instrument import Certainty, Instrument

Connection = Literal["joint", "part", "full"]
_CONNECTIONS: tuple[Connection, ...] = get_args(Connection)
_NAMES: dict[Connection, str] = {"joint": "GridPG", "part": "DiPart", "full": "DiFull"}
_CERTAIN: dict[Connection, tuple[Certainty, str]] = {
    "joint": (
        "construction",
        "The class stands in one cell; the network sees all cells, and may use them.",
    ),
    "part": (
        "construction",
        "The output reads the feature maps of one cell; what these see of the neighbours is as far "
        "as the receptive field reaches.",
    ),
    "full": ("proof", "The output does not depend on any pixel outside of the cell."),
}


class GridNetwork(nn.Module):
    """A fully convolutional classifier that looks at a grid of pictures.

    "joint" is the classifier itself, on the whole grid: (N, K) logits. "part" computes feature maps
    of the whole grid, and pools each cell's by themselves: (N, cells^2 K) logits, those of the
    first cell first, row by row. "full" computes the feature maps of each cell by itself, too, and
    puts them together to maps of the grid before the head reads them, so that methods that need
    feature maps find those of all cells. The names of the paper: GridPG, DiPart, DiFull.

    A grid of two cells a side may have feature maps with an odd side; the row in the middle then
    belongs to no cell in "part".

    Args:
        features: Pictures (N, C, H, W) to feature maps (N, F, h, w), of any size.
        head: Feature maps to class maps (N, K, h, w), place by place; their mean is the logit.
        connection: "joint", "part" or "full".
        cells: Cells a side.

    Raises:
        ValueError: An unknown connection, or fewer than 2 cells a side.
    """

    def __init__(
        self, features: nn.Module, head: nn.Module, connection: Connection = "full", cells: int = 2
    ) -> None:
        super().__init__()
        if connection not in _CONNECTIONS:
            raise ValueError(f"connection is {connection!r}: choose from 'joint', 'part', 'full'")
        if cells < 2:
            raise ValueError(f"cells must be at least 2 a side, not {cells}")
        self.features, self.head = features, head
        self.connection, self.cells = connection, cells
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        """Map grids (N, C, cells s, cells s) to logits."""
        if self.connection == "joint":
            return cast(Tensor, self.head(self.features(x)).mean((2, 3)))
        maps = self._apart(x) if self.connection == "full" else self.features(x)
        classes = self.head(maps)
        side = self._side(x, classes)
        starts = [k * (classes.shape[-1] - side) // (self.cells - 1) for k in range(self.cells)]
        logits = [
            classes[:, :, row : row + side, column : column + side].mean((2, 3))
            for row in starts
            for column in starts
        ]
        return torch.cat(logits, dim=1)

    def _apart(self, x: Tensor) -> Tensor:
        """Feature maps of each cell by itself, put together as the cells are."""
        cell = x.shape[-1] // self.cells
        rows = []
        for top in range(0, cell * self.cells, cell):
            row = [
                self.features(x[:, :, top : top + cell, left : left + cell])
                for left in range(0, cell * self.cells, cell)
            ]
            rows.append(torch.cat(row, dim=3))
        return torch.cat(rows, dim=2)

    def _side(self, x: Tensor, classes: Tensor) -> int:
        """The side of the part of the class maps that belongs to a cell."""
        return int(classes.shape[-1]) // self.cells


def grid_parts(module: nn.Module) -> tuple[nn.Module, nn.Module]:
    """Take a classifier apart into `features` and `head` of a `GridNetwork`.

    Args:
        module: torchvision's SqueezeNet; or a network of timm that pools by the mean and has one
            linear layer after it, such as EfficientNet-Lite0. The layers are shared, not copied.

    Raises:
        ValueError: It is built in another way; build a `GridNetwork` yourself.
    """
    parts = dict(module.named_children())
    last = parts.get("classifier")
    if set(parts) == {"features", "classifier"} and isinstance(last, nn.Sequential):
        convolution = [layer for layer in last if isinstance(layer, nn.Conv2d)]
        if convolution:
            return parts["features"], nn.Sequential(*convolution, nn.ReLU())
    if {"conv_stem", "blocks", "conv_head", "global_pool"} <= set(parts) and isinstance(
        last, nn.Linear
    ):
        before = [part for name, part in parts.items() if name not in ("global_pool", "classifier")]
        return nn.Sequential(*before), _as_convolution(last)
    raise ValueError(
        f"{type(module).__name__} is not built as expected; give GridNetwork feature layers and "
        "a head that maps feature maps to class maps"
    )


def _as_convolution(linear: nn.Linear) -> nn.Conv2d:
    """A linear layer after a mean over places is a 1 x 1 convolution before it."""
    layer = nn.Conv2d(linear.in_features, linear.out_features, 1, bias=linear.bias is not None)
    layer.weight = nn.Parameter(linear.weight.detach()[:, :, None, None].clone())
    if linear.bias is not None:
        layer.bias = nn.Parameter(linear.bias.detach().clone())
    return layer.eval()


def grid(pictures: Tensor) -> Tensor:
    """Put pictures side by side, row by row.

    Args:
        pictures: (cells^2, C, s, s), or (N, cells^2, C, s, s) for several grids.

    Returns:
        (C, cells s, cells s), or (N, C, cells s, cells s).

    Raises:
        ValueError: Their number is no square, or they are not square themselves.
    """
    batched = pictures[None] if pictures.ndim == 4 else pictures
    if batched.ndim != 5:
        raise ValueError(f"pictures must be (K, C, s, s) or (N, K, C, s, s), not {pictures.shape}")
    number, count, channels, height, width = batched.shape
    cells = round(count**0.5)
    if cells < 2 or cells**2 != count or height != width:
        raise ValueError(
            f"{count} pictures of {height} x {width} pixels make no square grid; give 4, 9, ... "
            "square ones"
        )
    rows = batched.view(number, cells, cells, channels, height, width)
    whole = rows.permute(0, 3, 1, 4, 2, 5).reshape(number, channels, cells * height, -1)
    return whole[0] if pictures.ndim == 4 else whole


def grid_instrument(
    module: nn.Module,
    pictures: Tensor,
    classes: Tensor,
    connection: Connection = "full",
    first: int = 0,
) -> Instrument:
    """GridPG, DiPart or DiFull: does a map point at the picture whose class it is asked for?

    Each grid is explained once, for one of its cells; the cells take turns over the grids.

    Args:
        module: A classifier that `grid_parts` can take apart; or a `GridNetwork`'s two parts as an
            ``nn.ModuleList``.
        pictures: (N, cells^2, C, s, s), preprocessed, those of a grid of different classes.
        classes: Their classes, (N, cells^2) int64.
        connection: As in `GridNetwork`.
        first: The cell that the first grid is explained for, from 0, row by row; the next grid is
            explained for the next cell. For grids that are made block by block.

    Returns:
        The instrument; its truth is the cell of the class, so that chance is 1 / cells^2.

    Raises:
        ValueError: The shapes do not fit, a class occurs twice in a grid, or `first` is negative.
    """
    whole = grid(pictures)
    if pictures.ndim != 5 or classes.shape != pictures.shape[:2]:
        raise ValueError(
            f"classes {tuple(classes.shape)} must be one for each picture {tuple(pictures.shape)}"
        )
    for index, row in enumerate(classes.tolist()):
        if len(set(row)) < len(row):
            raise ValueError(
                f"grid {index} has a class twice, {row}; put pictures of different classes together"
            )
    if first < 0:
        raise ValueError(f"first must be 0 or more, the number of a cell, not {first}")
    number, count = classes.shape
    cells, asked = round(count**0.5), (first + torch.arange(number)) % count
    parts: Sequence[nn.Module] = (
        list(module) if isinstance(module, nn.ModuleList) else grid_parts(module)
    )
    network = GridNetwork(parts[0], parts[1], connection, cells)
    wanted = classes[torch.arange(number), asked]
    if connection != "joint":
        outputs = _outputs(network, whole[:1]) // count
        wanted = wanted + asked * outputs
    certainty, statement = _CERTAIN[connection]
    truth = cell_masks(asked, cells, whole.shape[-1])
    return Instrument(_NAMES[connection], network, whole, wanted, truth, certainty, statement)


def cell_masks(which: Tensor, cells: int, side: int) -> Tensor:
    """The pixels of one cell of each grid, (N, side, side) bool."""
    line = torch.arange(side) // (side // cells)
    row, column = which // cells, which % cells
    return (line == row[:, None])[:, :, None] & (line == column[:, None])[:, None]


@torch.no_grad()
def _outputs(network: nn.Module, x: Tensor) -> int:
    outputs: Tensor = network(x)
    return outputs.shape[1]
