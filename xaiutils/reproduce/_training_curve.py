"""``training-curve``: does the area over the perturbation curve tell how good a network is?

Samek et al. 2017, section IV-D: over the training of a network on CIFAR-10, AOPC and accuracy rise
together, so that heatmaps could judge a network without labels. Here a small network is trained,
checkpoints are kept from the first step on, and AOPC is set against accuracy. What could be behind
the correlation is measured beside it: logits that grow, a random order that does as well, the
network's own confidence, and a network that learns shuffled labels by heart.
"""

import argparse
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from scipy.stats import rankdata
from torch import Tensor, nn

from xaiutils import attribution, data, evaluation, models
from xaiutils.reproduce._options import names, require_known, require_positive
from xaiutils.reproduce._provenance import command_line, provenance, write_json
from xaiutils.reproduce._supervised import accuracy, cross_entropy, mirror, random_shift
from xaiutils.reproduce._tables import write_table
from xaiutils.reproduce._work import keep_plan, kept

RANDOM_ORDER = "(none)"
SHARE = 0.157  # of the regions: what the paper's 100 steps of 9 x 9 pixels cover of 227 x 227
_REGION = 4
_CHECKPOINTS = 14
_NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "mnist-cnn": models.MnistCNN,
    "tiny-cnn": models.TinyCNN,
}


@dataclass(frozen=True)
class Plan:
    """Everything that decides the result. A work folder holds the parts of one plan."""

    network: str
    labels: str
    train_images: int
    epochs: int
    batch_size: int
    images: int
    methods: tuple[str, ...]
    repeats: int
    seed: int
    augment: bool = True

    @property
    def training(self) -> models.TrainingPlan:
        """The plan of the training."""
        return models.TrainingPlan(self.epochs, self.batch_size, seed=self.seed)

    @property
    def checkpoints(self) -> list[int]:
        """Numbers of optimiser steps, from 0 to the last, spaced evenly on a logarithmic scale."""
        last = self.epochs * -(-self.train_images // self.batch_size)
        spaced = np.geomspace(min(4, last), last, _CHECKPOINTS - 1).round()
        return sorted({0, *map(int, spaced)})


@dataclass(frozen=True, eq=False)
class Split:
    """Images in the network's units, (N, C, H, W) float32, with their labels (N,)."""

    images: Tensor
    labels: Tensor


def add_command(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add ``training-curve`` to the command line."""
    curve = commands.add_parser("training-curve", help="AOPC against accuracy over a training")
    curve.add_argument("--work", type=Path, required=True, help="folder of checkpoints and scores")
    curve.add_argument("--out", type=Path, required=True, help="tables begin with this path")
    curve.add_argument("--network", choices=tuple(_NETWORKS), required=True)
    curve.add_argument("--labels", choices=("true", "shuffled"), default="true")
    curve.add_argument(
        "--augment",
        choices=("yes", "no"),
        help="shift or mirror the images; default: yes for true labels, no for shuffled ones",
    )
    curve.add_argument("--train-images", type=int, default=25_000)
    curve.add_argument("--epochs", type=int, default=10)
    curve.add_argument("--batch-size", type=int, default=128)
    curve.add_argument("--images", type=int, default=500, help="test images that are perturbed")
    curve.add_argument(
        "--methods",
        type=names,
        default=("lrp_alpha2_beta1", "lrp_epsilon"),
    )
    curve.add_argument("--repeats", type=int, default=1)
    curve.add_argument("--seed", type=int, default=0)
    curve.add_argument("--resamples", type=int, default=2000, help="draws of the bootstrap")
    curve.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Train, or go on; score the checkpoints that are not scored yet; write the tables."""
    require_known(options, methods=attribution.METHODS)
    require_positive(options, "train_images", "epochs", "batch_size", "repeats")
    if options.images < 2:
        raise SystemExit("--images must be at least 2: there is no interval over one image.")
    given = {name: found for name, found in vars(options).items() if name in Plan.__annotations__}
    # Who has to learn labels by heart is shown every image as it is.
    given["augment"] = options.augment == "yes" or (
        options.augment is None and options.labels == "true"
    )
    plan = Plan(**given)
    train, test, facts = _load(plan)
    keep_plan(options.work, asdict(plan) | {"data": facts})
    _train(plan, train, options.work)
    chosen = torch.linspace(0, len(test.labels) - 1, plan.images).long()
    part = Split(test.images[chosen], test.labels[chosen])
    found = {}
    for step in plan.checkpoints:
        path = options.work / f"scores-{step:06}.safetensors"
        found[step] = kept(path, partial(_score, plan, step, part, test, train, options.work))
        print(f"step {step}: accuracy {found[step]['test_accuracy'].item():.3f}", flush=True)
    _write(plan, found, facts, options)
    return 0


def _load(plan: Plan) -> tuple[Split, Split, dict[str, Any]]:
    """Training part, whole test part, and which data these are."""
    if plan.network == "mnist-cnn":
        sets = data.mnist("train"), data.mnist("test")
    else:
        sets = data.tiny_imagenet("train"), data.tiny_imagenet("val")
    if sets[0].source.kind == "embedded":
        raise SystemExit(
            f"training and test digits would overlap ({sets[0].source.note}). Let XAIUTILS_DATA "
            "name a folder with MNIST/raw, or connect to the network."
        )
    generator = torch.Generator().manual_seed(plan.seed)
    chosen = torch.randperm(len(sets[0]), generator=generator)[: plan.train_images]
    labels = sets[0].labels[chosen]
    if plan.labels == "shuffled":
        labels = labels[torch.randperm(len(labels), generator=generator)]
    facts = {
        "train": f"{sets[0].name}, {len(labels)} of {len(sets[0])} images",
        "test": f"{sets[1].name}, {len(sets[1])} images",
        "classes": len(sets[0].categories),
        "source": sets[0].source.description,
    }
    train = Split(_tensor(sets[0], chosen), labels)
    return train, Split(_tensor(sets[1], torch.arange(len(sets[1]))), sets[1].labels), facts


def _tensor(images: data.ImageSet, chosen: Tensor) -> Tensor:
    """Digits as they are; colours as (brightness - 1/2) * 2, from -1 to 1."""
    if isinstance(images.images, Tensor):
        return images.images[chosen]
    pictures = [torch.from_numpy(np.array(images.images[i])) for i in chosen.tolist()]
    return torch.stack(pictures).permute(0, 3, 1, 2).float() / 127.5 - 1


def _network(plan: Plan) -> nn.Module:
    """The network as it is initialised, the same at every call."""
    with torch.random.fork_rng():
        torch.manual_seed(plan.seed)
        return _NETWORKS[plan.network]().eval()


def _train(plan: Plan, train: Split, work: Path) -> None:
    """Train unless the last checkpoint is there; keep the state at each checkpoint."""
    wanted = set(plan.checkpoints)
    if _checkpoint(work, max(wanted)).exists():
        return
    module = _network(plan)

    def keep(step: int, module: nn.Module) -> None:
        if step in wanted:
            kept(_checkpoint(work, step), module.state_dict)

    keep(0, module)
    models.fit(
        module,
        cross_entropy,
        train.images,
        train.labels,
        plan.training,
        augment=_augment(plan) if plan.augment else None,
        after_step=keep,
        checkpoint=work / "training.pt",
    )


def _augment(plan: Plan) -> Callable[[Tensor, torch.Generator], Tensor]:
    return random_shift if plan.network == "mnist-cnn" else mirror


def _checkpoint(work: Path, step: int) -> Path:
    return work / f"checkpoint-{step:06}.safetensors"


def _score(
    plan: Plan, step: int, part: Split, test: Split, train: Split, work: Path
) -> dict[str, Tensor]:
    """Accuracies, and for each image the outputs at x(0) and the areas."""
    module = _network(plan)
    module.load_state_dict(load_file(_checkpoint(work, step)))
    with torch.no_grad():
        outputs = module(part.images)
    target = outputs.argmax(dim=1)
    heatmaps = {
        name: attribution.METHODS[name](module, part.images, target, batch_size=50)
        for name in plan.methods
    }
    side = part.images.shape[-1]
    regions = evaluation.Regions(side, side, _REGION)
    # Black and white in the units of the network: ink for digits, -1 to 1 for colours.
    noise = evaluation.Uniform(0.0 if plan.network == "mnist-cnn" else -1.0, 1.0)
    found = {
        "start/logit": outputs.amax(dim=1),
        "start/probability": outputs.softmax(dim=1).amax(dim=1),
        "test_accuracy": accuracy(module, test.images, test.labels),
        "train_accuracy": accuracy(module, train.images[:2500], train.labels[:2500]),
    }
    for output in evaluation.OUTPUTS:
        ways: dict[evaluation.Order, Any] = {"morf": heatmaps, "random": {RANDOM_ORDER: None}}
        for order, maps in ways.items():
            curves = evaluation.region_perturbation(
                module,
                part.images,
                target,
                maps,
                _REGION,
                round(SHARE * regions.count),
                order,
                noise,
                plan.repeats,
                output,
                seed=plan.seed,
            )
            found |= {f"aopc/{output}/{name}": one.aopc() for name, one in curves.items()}
    return found


def _write(
    plan: Plan, found: Mapping[int, dict[str, Tensor]], facts: dict[str, Any], options: Any
) -> None:
    accuracies = torch.stack([scores["test_accuracy"] for scores in found.values()]).numpy()
    signals = _signals(plan, list(found.values()))
    draws = np.random.default_rng(plan.seed).integers(
        plan.images, size=(options.resamples, plan.images)
    )
    checkpoints, correlations = [], []
    for (output, measure, method), signal in signals.items():
        whole = signal(np.arange(plan.images)[None])[0]
        resampled = np.stack([signal(rows[None])[0] for rows in draws])
        which = {"output": output, "measure": measure, "method": method}
        low, high = np.quantile(resampled, [0.025, 0.975], axis=0)
        checkpoints += [
            {"step": step, "test_accuracy": a, "train_accuracy": s["train_accuracy"].item()}
            | which
            | {"mean": m, "low": lo, "high": hi, "images": plan.images}
            for (step, s), a, m, lo, hi in zip(
                found.items(), accuracies, whole, low, high, strict=True
            )
        ]
        for kind, prepare in (("pearson", _values), ("spearman", _ranks)):
            value = correlation(prepare(accuracies), prepare(whole[None]))[0]
            others = correlation(prepare(accuracies), prepare(resampled))
            ends = dict(zip(("low", "high"), np.quantile(others, [0.025, 0.975]), strict=True))
            row = which | {"correlation": kind, "mean": value} | ends
            correlations.append(row | {"checkpoints": len(found), "images": plan.images})
    out = options.out
    write_table(out, "checkpoints", checkpoints)
    write_table(out, "correlations", correlations)
    record = provenance(command_line(), plan=asdict(plan), data=facts)
    write_json(out.with_name(f"{out.name}.json"), record)


Signal = Callable[[NDArray[np.int64]], NDArray[np.float64]]


def _signals(plan: Plan, found: list[dict[str, Tensor]]) -> dict[tuple[str, str, str], Signal]:
    """What might tell the accuracy without labels, as functions of the images that are drawn.

    Each takes numbers of images (B, n) and gives a value for each checkpoint, (B, K).
    """
    signals: dict[tuple[str, str, str], Signal] = {}
    for output in evaluation.OUTPUTS:
        start = _stacked(found, f"start/{output}")
        chance = _stacked(found, f"aopc/{output}/{RANDOM_ORDER}")
        signals[output, "start", RANDOM_ORDER] = _mean(start)
        for method in (*plan.methods, RANDOM_ORDER):
            area = _stacked(found, f"aopc/{output}/{method}")
            signals[output, "aopc", method] = _mean(area)
            signals[output, "aopc_relative", method] = _ratio(area, start)
            if method != RANDOM_ORDER:
                signals[output, "aopc_minus_random", method] = _mean(area - chance)
    return signals


def _stacked(found: list[dict[str, Tensor]], name: str) -> NDArray[np.float64]:
    """(images, K)."""
    return torch.stack([scores[name].double() for scores in found], dim=1).numpy()


def _mean(values: NDArray[np.float64]) -> Signal:
    return lambda rows: values[rows].mean(axis=1)


def _ratio(values: NDArray[np.float64], start: NDArray[np.float64]) -> Signal:
    """The share of the mean output that is lost: a ratio of means, which no single image rules."""
    return lambda rows: values[rows].mean(axis=1) / start[rows].mean(axis=1)


def _values(values: NDArray[np.float64]) -> NDArray[np.float64]:
    return values


def _ranks(values: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(rankdata(values, axis=-1), dtype=np.float64)


def correlation(first: NDArray[np.float64], second: NDArray[np.float64]) -> NDArray[np.float64]:
    """Pearson's correlation of one row (K,) with many rows (B, K); 0 for a row that is constant."""
    a, b = first - first.mean(), second - second.mean(axis=1, keepdims=True)
    size = np.sqrt((a**2).sum() * (b**2).sum(axis=1))
    return np.asarray(np.divide(b @ a, size, out=np.zeros(len(b)), where=size > 0))
