"""Judges measures of Quantus and TorchCAM by maps of known worth, as `known-truth` does ours.

Run with xaiutils, ``quantus==0.6.0`` and ``torchcam==0.5.0``, which are no dependencies:
``python benchmarks/known_truth_others.py --work work/known-truth``. With the work folder of
`known-truth` its networks are used again; what was judged lies there too, and a run that was
stopped goes on. Writes results/known-truth-others.csv and its record.
"""

import argparse
import warnings
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from xaiutils.evaluation import truth
from xaiutils.reproduce import _known_measures
from xaiutils.reproduce._known_instruments import Case
from xaiutils.reproduce._provenance import provenance, write_json
from xaiutils.reproduce._work import keep_plan, kept

OUT = Path(__file__).parents[1] / "results" / "known-truth-others"
LIBRARIES = {"Quantus": "0.6.0", "TorchCAM": "0.5.0"}

# ------------------------------------------------------------------------------------- Quantus


def quantus_metrics(side: int) -> dict[str, tuple[Any, int]]:
    """Measures of Quantus, its own defaults but for sizes, and the sign that makes large good.

    Args:
        side: Of a region, in pixels. Quantus takes single pixels, as many as a region has.
    """
    import quantus

    if not hasattr(np, "trapz"):  # Quantus asks for a name that numpy 2.4 has no longer
        np.trapz = np.trapezoid
    options: dict[str, Any] = {"disable_warnings": True, "display_progressbar": False}
    options |= {"perturb_baseline": "uniform"}
    step = {"features_in_step": side**2}
    return {
        "Quantus: pixel flipping": (
            quantus.PixelFlipping(return_auc_per_sample=True, **step, **options), -1
        ),
        "Quantus: faithfulness correlation": (
            quantus.FaithfulnessCorrelation(nr_runs=50, subset_size=4 * side**2, **options), 1
        ),
        "Quantus: faithfulness estimate": (quantus.FaithfulnessEstimate(**step, **options), 1),
        "Quantus: monotonicity correlation": (
            quantus.MonotonicityCorrelation(nr_samples=5, **step, **options), 1
        ),
    }  # fmt: skip


def of_quantus(
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


# ------------------------------------------------------------------------------------ TorchCAM


class Given:
    """A map that is there, in the way in which TorchCAM asks for one: from 0 to 1."""

    def __init__(self, model: nn.Module, found: Tensor) -> None:
        positive = found.clamp(min=0)
        low, high = positive.aminmax()
        self.model, self._map = model, (positive - low) / (high - low)

    def __call__(self, class_idx: Any = None, scores: Any = None, **named: Any) -> list[Tensor]:
        """The map (1, H, W), whatever is asked."""
        return [self._map]

    def fuse_cams(self, cams: list[Tensor]) -> Tensor:
        """The one."""
        return cams[0]

    def _hooks_off(self) -> Any:
        return nullcontext()


def of_torchcam(
    make: Callable[..., Any],
    part: str,
    sign: int,
    model: nn.Module,
    x: Tensor,
    target: Tensor,
    maps: Tensor,
    seed: int,
) -> Tensor:
    """The signed scores of one of TorchCAM's measures, (N,), asked for picture by picture."""
    scores = []
    for image, wanted, found in zip(x, target.tolist(), maps.sum(1), strict=True):
        metric = make(Given(model, found[None]))
        metric.update(image[None], int(wanted))
        scores.append(sign * float(metric.summary()[part]))
    return torch.tensor(scores, dtype=torch.float64)


def torchcam_metrics(known: truth.Instrument) -> dict[str, truth.Metric]:
    """TorchCAM's four measures of the probability, as its own examples have it.

    On a network cut apart they watch the logit, which is positive there: see `ours`. A network with
    one output has the probability 1 whatever comes in, and is left out.
    """
    from torchcam.metrics import ClassificationMetric, DeletionInsertionMetric

    if known.name == "additive":
        return {}
    softmax = None if known.name == "DiFull" else partial(torch.softmax, dim=-1)
    drop = partial(ClassificationMetric, logits_fn=softmax)
    steps = (known.x.shape[-1] // _known_measures.region(known.name)) ** 2
    curves = partial(DeletionInsertionMetric, logits_fn=softmax, steps=steps)
    return {
        "TorchCAM: average drop": partial(of_torchcam, drop, "avg_drop", -1),
        "TorchCAM: increase in confidence": partial(of_torchcam, drop, "conf_increase", 1),
        "TorchCAM: deletion": partial(of_torchcam, curves, "deletion_auc", -1),
        "TorchCAM: insertion": partial(of_torchcam, curves, "insertion_auc", 1),
    }


# --------------------------------------------------------------------------------------- table


def others(known: truth.Instrument) -> Mapping[str, truth.Metric]:
    """The measures of both."""
    by_quantus = quantus_metrics(_known_measures.region(known.name))
    found = {name: partial(of_quantus, *given) for name, given in by_quantus.items()}
    return {name: refusing(m) for name, m in (found | torchcam_metrics(known)).items()}


def refusing(metric: truth.Metric) -> truth.Metric:
    """A foreign measure, whose errors of any kind count as "it refuses this instrument"."""

    def measured(*given: Any) -> Tensor:
        try:
            return metric(*given)
        except Exception as error:
            warnings.warn(f"{metric}: {type(error).__name__}: {error}", stacklevel=1)
            raise ValueError(str(error)) from error

    return measured


def main() -> None:
    """Judge what is not there yet; write the table and its record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--judging", type=int, default=2)
    parser.add_argument("--pictures", type=int, default=12)
    parser.add_argument("--grids", type=int, default=4)
    options = parser.parse_args()
    options.model, options.seeds = "squeezenet1_1", 5
    options.instruments = _known_measures.JUDGING
    plan = {"pictures": options.pictures}
    keep_plan(options.work, plan)

    def judge(case: Case) -> dict[str, Tensor]:
        path = options.work / f"others-{case[0]}-{case[1]}.safetensors"
        return kept(path, partial(_known_measures.judge, options, case, others))

    _known_measures.write(OUT, _known_measures.judged(options, judge))
    command = "python benchmarks/known_truth_others.py --work work/known-truth"
    facts = {"libraries": LIBRARIES, "judging": options.judging, "grids": options.grids}
    write_json(OUT.with_suffix(".json"), provenance(command, **plan, **facts))


if __name__ == "__main__":
    main()
