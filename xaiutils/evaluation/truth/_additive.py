"""The network that is a sum over regions, as an instrument."""

from __future__ import annotations

import torch
from torch import Tensor

from xaiutils.evaluation._fills import BlindFill, Uniform
from xaiutils.evaluation._oracle import AdditiveNetwork, expected_falls
from xaiutils.evaluation.truth._instrument import Instrument


def additive_instrument(
    x: Tensor, seed: int = 0, region_size: int = 4, fill: BlindFill | None = None
) -> Instrument:
    """A random additive network, whose regions give what they give: which order do maps have?

    Args:
        x: Pictures (N, C, s, s).
        seed: Of the weights; and of the draws of the fill.
        region_size: In pixels; divides s.
        fill: What a region is compared with; None is uniform noise in [0, 1]. The truth depends on
            it: how much a region gives is how much is lost without it, and something must stand in
            its place.

    Returns:
        The instrument; its truth is `expected_falls`.

    Raises:
        ValueError: The regions do not tile the pictures.
    """
    network = AdditiveNetwork(x.shape[1], x.shape[-1], region_size, seed=seed)
    truth = expected_falls(network, x, fill or Uniform(), seed=seed)
    return Instrument(
        name="additive",
        model=network,
        x=x,
        target=torch.zeros(len(x), dtype=torch.long),
        truth=truth,
        certainty="proof",
        statement="The output is a sum over regions; each one's part is known.",
    )
