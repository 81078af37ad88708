"""Rows of the tables in results/, and how a table is written."""

from pathlib import Path
from typing import Any

import pandas as pd
from torch import Tensor

from xaiutils import evaluation
from xaiutils.reproduce._provenance import write_text


def interval(values: Tensor, resamples: int = 10_000) -> dict[str, Any]:
    """Mean over images with its bootstrap interval; a single image has a mean alone."""
    if len(values) < 2:
        return {"mean": values.mean().item(), "low": None, "high": None, "images": len(values)}
    found = evaluation.bootstrap(values.double(), resamples=resamples)
    return {"mean": found.mean, "low": found.low, "high": found.high, "images": found.images}


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
