"""How many pictures go through a network at a time, and when windows are asked: by measurement."""

from __future__ import annotations

from torch import Tensor

WORTHWHILE = 1.3
"""Windows must save so much by estimate, or whole pictures are run."""

# Numbers of a batch: on a CPU with two cores it should fit into the cache, a GPU wants work.
_NUMBERS = {"cpu": 2_500_000, "cuda": 50_000_000}
_PICTURES = {"cpu": 32, "cuda": 512}  # more whole ones at a time gain nothing


def pictures_at_once(x: Tensor, largest: int | None = None, share: float = 1.0) -> int:
    """Return how many pictures like `x` (N, C, H, W) are run at a time, at least 1.

    Args:
        x: The pictures; only their shape and device are asked.
        largest: Not more than so many; None for what suits whole pictures.
        share: Of the numbers that fit, where something else must be held as well.
    """
    kind = "cpu" if x.device.type == "cpu" else "cuda"
    most = _PICTURES[kind] if largest is None else largest
    return max(1, min(most, int(share * _NUMBERS[kind]) // x[0].numel()))


def in_question(windowed: bool | None, x: Tensor) -> bool:
    """Whether windows are thought of at all.

    Args:
        windowed: What the user says: True insists, False forbids, None leaves it to us.
        x: The pictures. An accelerator runs whole ones faster, for windows are much small work: on
            an H200 they took 1.6 to 2.1 times as long.
    """
    return x.device.type == "cpu" if windowed is None else windowed
