"""Rows of the tables in results/, and how a table is written."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import rankdata
from torch import Tensor, float64, from_numpy, ones

from xaiutils import evaluation
from xaiutils.reproduce._provenance import write_text


def interval(values: Tensor, resamples: int = 10_000) -> dict[str, Any]:
    """Mean over images with its bootstrap interval; a single image has a mean alone."""
    if len(values) < 2:
        return {"mean": values.mean().item(), "low": None, "high": None, "images": len(values)}
    found = evaluation.bootstrap(values.double(), resamples=resamples)
    return {"mean": found.mean, "low": found.low, "high": found.high, "images": found.images}


def reliability(values: Tensor, resamples: int = 1000, seed: int = 0) -> dict[str, Any]:
    """How well the images agree on a ranking of the methods: Krippendorff's alpha.

    Each image ranks the methods, and the ranks are what is rated (Tomsett et al. 2020). With n
    images, m methods and no rank missing, alpha for interval data is 1 less the mean over the
    methods of the variance of their ranks over the images, divided by the variance of all ranks:
    1 if all images rank alike, about 0 if they rank by chance.

    Args:
        values: (methods, N), one number for each image.
        resamples: Of the images, for the interval.
        seed: Of their draws.

    Returns:
        `alpha`, its percentile interval `low` and `high`, and the number of `images`; nothing but
        the number if there is one image or one method.
    """
    methods, images = values.shape
    if min(methods, images) < 2:
        return {"alpha": None, "low": None, "high": None, "images": images}
    ranks = from_numpy(rankdata(values.double().numpy(), axis=0))
    low, high = np.quantile(_alpha(ranks, drawn(images, resamples, seed)), [0.025, 0.975])
    alpha = _alpha(ranks, ones(images, 1, dtype=float64)).item()
    return {"alpha": alpha, "low": low, "high": high, "images": images}


def drawn(images: int, resamples: int, seed: int = 0) -> Tensor:
    """How often each image is drawn, with replacement, in each resample: (images, resamples)."""
    rows = np.random.default_rng(seed).integers(images, size=(resamples, images))
    counts = [np.bincount(row, minlength=images) for row in rows]
    return from_numpy(np.stack(counts, axis=1).astype(np.float64))


def _alpha(ranks: Tensor, counts: Tensor) -> Tensor:
    """Alpha for ranks (methods, N) where the images count so often, (N, R): (R,)."""
    images = counts.sum(dim=0)
    mean, square = ranks @ counts / images, ranks**2 @ counts / images
    within = (square - mean**2).mean(dim=0) * images / (images - 1)
    number = len(ranks) * images
    whole = (square.mean(dim=0) - mean.mean(dim=0) ** 2) * number / (number - 1)
    return 1 - within / whole


def pair_row(pair: evaluation.Comparison, p_holm: float | None = None) -> dict[str, Any]:
    """A paired comparison; Holm's p-value is the pair's own unless given."""
    return {
        "first": pair.first,
        "second": pair.second,
        "difference": pair.difference.mean,
        "low": pair.difference.low,
        "high": pair.difference.high,
        "images": pair.difference.images,
        "p_value": pair.p_value,
        "p_holm": pair.p_adjusted if p_holm is None else p_holm,
    }


def write_table(out: Path, name: str, rows: list[dict[str, Any]]) -> Path:
    """Write the table `out`-`name`.csv, whole or not at all; six digits."""
    path = out.with_name(f"{out.name}-{name}.csv")
    write_text(path, pd.DataFrame(rows).to_csv(index=False, float_format="%.6g"))
    return path
