"""The order of regions by their scores, and how many of these are equal."""

from __future__ import annotations

import torch
from torch import Tensor


def morf_ranks(scores: Tensor, lot: Tensor | None = None) -> Tensor:
    """The place of each region when the most relevant goes first.

    Samek et al. 2017, eqs 8 and 9. The paper does not say what becomes of equal scores. On pictures
    with an empty page there are many, and the order of the page is no neutral choice for them.

    Args:
        scores: Region scores, shape (N, count).
        lot: A random order as ranks, (N, count) or (count,), by which regions of equal score are
            sorted; None keeps the order of their numbers (row by row).

    Returns:
        (N, count) int64; 0 for the region that goes first.
    """
    if lot is None:
        return scores.argsort(dim=1, descending=True, stable=True).argsort(dim=1)
    by_lot = lot.expand_as(scores).argsort(dim=1)
    order = scores.gather(1, by_lot).argsort(dim=1, descending=True, stable=True)
    return by_lot.gather(1, order).argsort(dim=1)


def count_ties(scores: Tensor) -> Tensor:
    """How many regions of an image share their score with another region of it.

    Args:
        scores: Region scores, shape (N, count).

    Returns:
        (N,) int64, from 0 to count.
    """
    ranked = scores.sort(dim=1).values
    equal = ranked[:, 1:] == ranked[:, :-1]
    alone = torch.zeros(len(scores), 1, dtype=torch.bool, device=scores.device)
    return (torch.cat([alone, equal], dim=1) | torch.cat([equal, alone], dim=1)).sum(dim=1)
