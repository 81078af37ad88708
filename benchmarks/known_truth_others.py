"""Judges measures of Quantus by maps of known worth, as `known-truth` does ours.

Run with xaiutils, ``quantus==0.6.0``, which is no dependency:
``python benchmarks/known_truth_others.py``. Writes results/known-truth-others.csv and its record.
"""

import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from xaiutils import data
from xaiutils.evaluation import truth
from xaiutils.reproduce._provenance import provenance, write_json

OUT = Path(__file__).parents[1] / "results" / "known-truth-others"
REGION, PICTURES = 4, 12


def quantus_metrics() -> dict[str, tuple[Any, int]]:
    """Measures of Quantus, its own defaults but for sizes, and the sign that makes large good."""
    import quantus

    options: dict[str, Any] = {"disable_warnings": True, "display_progressbar": False}
    options |= {"perturb_baseline": "uniform"}
    return {
        "pixel flipping": (
            quantus.PixelFlipping(features_in_step=16, return_auc_per_sample=True, **options), -1
        ),
        "faithfulness correlation": (
            quantus.FaithfulnessCorrelation(nr_runs=50, subset_size=64, **options), 1
        ),
        "faithfulness estimate": (quantus.FaithfulnessEstimate(features_in_step=16, **options), 1),
        "monotonicity correlation": (
            quantus.MonotonicityCorrelation(nr_samples=5, features_in_step=16, **options), 1
        ),
    }  # fmt: skip


def measured(
    metric: Any, sign: int, model: nn.Module, x: Tensor, target: Tensor, maps: Tensor, seed: int
) -> Tensor:
    """The signed scores of one of Quantus' measures, (N,); its draws are numpy's global ones."""
    np.random.seed(seed)
    scores = metric(
        model=model,
        x_batch=x.numpy(),
        y_batch=target.numpy(),
        a_batch=maps.numpy(),
        softmax=False,
        device="cpu",
    )
    return sign * torch.as_tensor(np.array(scores, dtype=np.float64)).flatten()


def row(instrument: truth.Instrument, name: str, metric: Callable[..., Tensor]) -> dict[str, Any]:
    """One row of the table; what the measure refuses is said in it."""
    try:
        judged = truth.judge_metric(metric, instrument, REGION)
    except Exception as error:  # whatever a foreign measure raises is its result here
        return {"instrument": instrument.name, "metric": name, "refused": type(error).__name__}
    return {
        "instrument": instrument.name,
        "metric": name,
        "pictures": len(instrument.x),
        "reactive": judged.reactive,
        "truth_over_noise": judged.beats("truth", "noise"),
        "truth_over_moved": judged.beats("truth", "moved"),
    } | {part: judged.change(part) for part in ("scaled", "shifted", "drawn_again")}


def main() -> None:
    """Write the table and its record."""
    warnings.simplefilter("ignore")
    digits = data.mnist("test", source="embedded", per_class=2).images[:PICTURES]
    instruments = [
        truth.planted_instrument("patch", PICTURES),
        truth.planted_instrument("decoy", PICTURES),
        truth.planted_instrument("interaction", PICTURES),
        truth.additive_instrument(torch.as_tensor(digits)),
    ]
    metrics = quantus_metrics()
    rows = [
        row(instrument, name, partial(measured, metric, sign))
        for instrument in instruments
        for name, (metric, sign) in metrics.items()
    ]
    table = pd.DataFrame(rows)
    table.to_csv(OUT.with_suffix(".csv"), index=False, float_format="%.6g")
    facts = {"library": "quantus 0.6.0", "pictures": PICTURES, "seed": 0}
    write_json(
        OUT.with_suffix(".json"), provenance("python benchmarks/known_truth_others.py", **facts)
    )
    print(table.to_string())


if __name__ == "__main__":
    main()
