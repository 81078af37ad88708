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
from xaiutils.reproduce._options import names
from xaiutils.reproduce._provenance import provenance, write_json
from xaiutils.reproduce._work import keep_plan, kept

OUT = Path(__file__).parents[1] / "results" / "known-truth-others"
LIBRARIES = {"Quantus": "0.6.0", "TorchCAM": "0.5.0"}

# ------------------------------------------------------------------------------------- Quantus


def quantus_metrics(name: str) -> dict[str, tuple[Any, int]]:
    """Measures of Quantus, its own defaults but for sizes, and the sign that makes large good.

    Quantus takes single pixels; here as many at a time as a region has. On the large pictures of
    DiFull two of the four are left out: they ask the network most often.
    """
    import quantus

    if not hasattr(np, "trapz"):  # Quantus asks for a name that numpy 2.4 has no longer
        np.trapz = np.trapezoid
    options: dict[str, Any] = {"disable_warnings": True, "display_progressbar": False}
    options |= {"perturb_baseline": "uniform", "return_aggregate": False}
    pixels = _known_measures.region(name) ** 2
    step = {"features_in_step": pixels if name != "DiFull" else 4 * pixels}
    correlation = quantus.FaithfulnessCorrelation(nr_runs=50, subset_size=4 * pixels, **options)
    estimate = quantus.FaithfulnessEstimate(**step, **options)
    found = {"faithfulness correlation": (correlation, 1), "faithfulness estimate": (estimate, 1)}
    if name == "DiFull":
        return found
    flipping = quantus.PixelFlipping(return_auc_per_sample=True, **step, **options)
    monotone = quantus.MonotonicityCorrelation(nr_samples=5, **step, **options)
    return found | {"pixel flipping": (flipping, -1), "monotonicity correlation": (monotone, 1)}


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
    found = sign * torch.as_tensor(np.array(scores, dtype=np.float64)).flatten()
    if found.shape != (len(x),):
        raise ValueError(f"{len(found)} scores for {len(x)} pictures")
    return found


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
    regions = (known.x.shape[-1] // _known_measures.region(known.name)) ** 2
    steps = regions if known.name != "DiFull" else regions // 4
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
    by_quantus = quantus_metrics(known.name).items()
    found = {f"Quantus: {name}": partial(of_quantus, *given) for name, given in by_quantus}
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
    parser.add_argument("--instruments", type=names, default=_known_measures.JUDGING)
    parser.add_argument("--judging", type=int, default=1, help="networks of each")
    parser.add_argument("--judging-grids", type=int, default=2, help="grids of DiFull; even")
    parser.add_argument("--pictures", type=int, default=12)
    options = parser.parse_args()
    options.model, options.seeds, options.grids = "squeezenet1_1", 5, options.judging_grids
    plan = {"pictures": options.pictures}
    keep_plan(options.work, plan)

    def judge(case: Case) -> dict[str, Tensor]:
        path = options.work / f"others-{case[0]}-{case[1]}.safetensors"
        return kept(path, partial(_known_measures.judge, options, case, others))

    _known_measures.write(OUT, _known_measures.judged(options, judge))
    command = "python benchmarks/known_truth_others.py --work work/known-truth"
    facts = {"libraries": LIBRARIES, "judging": options.judging}
    facts |= {"judging_grids": options.judging_grids}
    write_json(OUT.with_suffix(".json"), provenance(command, **plan, **facts))


if __name__ == "__main__":
    main()
