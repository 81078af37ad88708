"""``known-truth``: all methods on instruments whose truth is known, and the measures judged."""

import argparse
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm.auto import tqdm

from xaiutils import attribution, data, evaluation, models
from xaiutils.evaluation import truth
from xaiutils.reproduce._explained import heatmap, weights
from xaiutils.reproduce._options import names, require_known, require_positive
from xaiutils.reproduce._provenance import command_line, provenance, write_json
from xaiutils.reproduce._tables import write_table
from xaiutils.reproduce._work import keep_plan, kept

Case = tuple[str, int]
"""An instrument and the seed of its network; of a grid, which block of pictures."""

_GRIDS: dict[str, truth.Connection] = {"GridPG": "joint", "DiPart": "part", "DiFull": "full"}
_DIGITS = ("additive", "backdoor", "watermark")
INSTRUMENTS = (*data.RULES, *_DIGITS, *_GRIDS)
_JUDGED = ("additive", *data.RULES, "backdoor")  # by these the measures are judged
_REGION, _CELL, _BLOCK = 4, 112, 2  # pixels, pixels, grids
_WATERMARKS = 2  # networks: an autoencoder takes minutes
_SLOW = ("dmbp", "dmbp_l2")  # are left out on the grids, where their search takes minutes
_SURE = 0.5  # the least probability of a picture's class at the size of a cell


def add_command(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add ``known-truth`` to the command line."""
    known = commands.add_parser("known-truth", help="methods and measures where truth is known")
    known.add_argument("--work", type=Path, required=True, help="folder of the blocks")
    known.add_argument("--out", type=Path, required=True, help="tables begin with this path")
    known.add_argument("--instruments", type=names, default=INSTRUMENTS)
    known.add_argument("--methods", type=names, default=tuple(attribution.METHODS))
    known.add_argument("--seeds", type=int, default=5, help="networks of an instrument")
    known.add_argument("--pictures", type=int, default=12, help="of each network")
    known.add_argument("--grids", type=int, default=8, help="a multiple of 2")
    known.add_argument("--model", default="squeezenet1_1", help="that looks at the grids")
    known.add_argument(
        "--judging", type=int, default=2, help="networks of an instrument that judge the measures"
    )
    known.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Measure the cases that are not there yet, then write the tables."""
    require_known(options, methods=attribution.METHODS, instruments=INSTRUMENTS)
    require_positive(options, "seeds", "pictures", "grids")
    plan: dict[str, Any] = {"methods": list(options.methods), "pictures": options.pictures}
    facts: dict[str, Any] = {
        "instruments": list(options.instruments),
        "seeds": options.seeds,
        "judging": options.judging,
    }
    if set(options.instruments) & set(_GRIDS):
        classifier = models.load_classifier(options.model)
        facts |= {"grids": options.grids, "model": options.model, "cell": _CELL}
        facts["weights"] = weights(classifier.module, classifier.source)
    keep_plan(options.work, plan)
    cases = list(_cases(options))
    found = {case: _methods_of(options, case) for case in tqdm(cases, unit="cases")}
    _write_methods(options.out, found)
    if options.judging:
        judged = [case for case in cases if case[0] in _JUDGED and case[1] < options.judging]
        _write_metrics(options.out, {c: _metrics_of(options, c) for c in tqdm(judged)})
    record = provenance(command_line(), **plan, **facts)
    write_json(options.out.with_name(f"{options.out.name}.json"), record)
    return 0


def _cases(options: argparse.Namespace) -> Iterator[Case]:
    for name in options.instruments:
        many = -(-options.grids // _BLOCK) if name in _GRIDS else options.seeds
        most = _WATERMARKS if name == "watermark" else many
        yield from ((name, seed) for seed in range(min(many, most)))


# --------------------------------------------------------------------------------- instruments


def _instrument(options: argparse.Namespace, case: Case) -> truth.Instrument:
    name, seed = case
    if name in _GRIDS:
        return _grid(options, _GRIDS[name], seed)
    if name in _DIGITS:
        digits = data.mnist("test", source="embedded", per_class=10, sample=seed % 10)
        x, labels = torch.as_tensor(digits.images), torch.as_tensor(digits.labels)
        if name == "additive":
            found = truth.additive_instrument(x, seed)
        elif name == "backdoor":
            network = _trained(options, case, truth.backdoored_classifier)
            found = truth.backdoor_instrument(x, labels, seed, network)
        else:
            found = truth.watermark_instrument(x, labels, seed)
        return found.subset(slice(options.pictures))
    rule = next(rule for rule in data.RULES if rule == name)
    network = _trained(options, case, partial(truth.planted_network, rule))
    return truth.planted_instrument(rule, options.pictures, seed, network)


def _trained(
    options: argparse.Namespace, case: Case, train: Callable[[int], nn.Module]
) -> nn.Module:
    """The network of a case, trained once: methods and measures ask for it."""
    name, seed = case
    path = options.work / f"network-{name}-{seed}.pt"
    if not path.exists():
        network = train(seed)
        part = path.with_suffix(".part")
        torch.save(network, part)
        part.replace(path)
    found: nn.Module = torch.load(path, weights_only=False)
    return found.eval()


def _grid(
    options: argparse.Namespace, connection: truth.Connection, block: int
) -> truth.Instrument:
    """Grids of pictures of an ImageNet sample that the network is sure of, block by block."""
    classifier = models.load_classifier(options.model)
    path = options.work / f"sure-{options.model}.safetensors"
    sure = kept(path, partial(_sure, classifier))
    wanted = slice(4 * _BLOCK * block, 4 * _BLOCK * (block + 1))
    numbers, classes = sure["numbers"][wanted], sure["classes"][wanted]
    if len(numbers) < 4 * _BLOCK:
        raise SystemExit(f"--grids: only {len(sure['numbers']) // 4} grids can be made.")
    images = data.imagenet_sample()
    small = _small(classifier, [images.images[i] for i in numbers.tolist()])
    pictures = small.view(_BLOCK, 4, *small.shape[1:])
    labels = classes.view(_BLOCK, 4)
    return truth.grid_instrument(classifier.module, pictures, labels, connection)


@torch.no_grad()
def _sure(classifier: models.Classifier) -> dict[str, Tensor]:
    """Numbers and classes of the pictures that are named rightly, and surely, when small."""
    images = data.imagenet_sample()
    numbers, classes = [], []
    for number in range(0, len(images), 7):  # the classes stand in order: far apart, no kin
        probability = classifier.module(_small(classifier, [images.images[number]])).softmax(1)[0]
        label = int(images.labels[number])
        if probability.argmax() == label and probability[label] > _SURE:
            numbers.append(number)
            classes.append(label)
    by_lot = torch.randperm(len(numbers), generator=torch.Generator().manual_seed(0))
    return {"numbers": torch.tensor(numbers)[by_lot], "classes": torch.tensor(classes)[by_lot]}


def _small(classifier: models.Classifier, pictures: list[Any]) -> Tensor:
    x = classifier.batch(pictures)
    return F.interpolate(x, size=(_CELL, _CELL), mode="bilinear", antialias=True)


# ------------------------------------------------------------------------------------- measured


def _methods_of(options: argparse.Namespace, case: Case) -> dict[str, Tensor]:
    """Scores of all methods on one case, with and without the sign; chance; and the checks."""
    return kept(options.work / f"{case[0]}-{case[1]}.safetensors", partial(_score, options, case))


def _score(options: argparse.Namespace, case: Case) -> dict[str, Tensor]:
    instrument = _instrument(options, case)
    found = {"chance": instrument.chance(), "oracle": instrument.score(instrument.oracle())}
    for check in instrument.checks:
        found[f"check/{check.what}"] = torch.tensor([check.value, check.low, check.high])
    for name in options.methods:
        if case[0] in _GRIDS and name in _SLOW:
            continue
        try:
            maps = heatmap(name, instrument.model, instrument.x, instrument.target, case[1])
        except ValueError:  # a method that refuses the network has no score
            continue
        found[f"score/{name}"] = instrument.score(maps)
        found[f"unsigned/{name}"] = instrument.score(evaluation.unsigned(maps))
    return found


def _metrics_of(options: argparse.Namespace, case: Case) -> dict[str, Tensor]:
    path = options.work / f"metrics-{case[0]}-{case[1]}.safetensors"
    return kept(path, partial(_judge, options, case))


def _judge(options: argparse.Namespace, case: Case) -> dict[str, Tensor]:
    """Scores of the ladder of maps by every measure, on one case; nothing if it is not sound."""
    instrument, found = _instrument(options, case), dict[str, Tensor]()
    measures = truth.metrics(_REGION) if instrument.sound else {}
    for name, metric in measures.items():
        try:
            judged = truth.judge_metric(metric, instrument, _REGION, case[1])
        except ValueError:  # IROF cannot divide by an output that is not positive
            continue
        found |= {f"{name}/{rung}": scores for rung, scores in judged.scores.items()}
        for change in ("scaled", "shifted", "drawn_again"):
            found[f"{name}/{change}"] = getattr(judged, change)
    return found or {"not sound": torch.zeros(1)}


# --------------------------------------------------------------------------------------- tables


def _passed(found: Mapping[str, Tensor]) -> bool:
    """Whether all interventions on a network found what they should."""
    checks = [value for key, value in found.items() if key.startswith("check/")]
    return all(bool(low <= value <= high) for value, low, high in checks)


def _write_methods(out: Path, found: Mapping[Case, Mapping[str, Tensor]]) -> None:
    """Every method's score on every instrument, and what the interventions on networks found."""
    networks = [
        {"instrument": name, "seed": seed, "check": key.removeprefix("check/")}
        | dict(zip(("value", "low", "high"), value.tolist(), strict=True))
        | {"passed": _passed({key: value})}
        for (name, seed), case in found.items()
        for key, value in case.items()
        if key.startswith("check/")
    ]
    write_table(out, "networks", networks)
    sound = {case: values for case, values in found.items() if _passed(values)}
    rows = [
        row
        for name in dict.fromkeys(name for name, _ in sound)
        for row in _rows(name, [values for case, values in sound.items() if case[0] == name])
    ]
    corrected = evaluation.holm([row["p_value"] for row in rows])
    write_table(out, "scores", [r | {"p_holm": p} for r, p in zip(rows, corrected, strict=True)])


def _rows(name: str, cases: list[Mapping[str, Tensor]]) -> Iterator[dict[str, Any]]:
    """One row for each method, with and without its sign, over all networks of an instrument."""
    chance = torch.cat([case["chance"] for case in cases])
    groups = [str(k) for k, case in enumerate(cases) for _ in case["chance"]]
    keys = dict.fromkeys(
        key for case in cases for key in case if key.startswith(("score/", "unsigned/"))
    )
    for key in keys:
        scores = torch.cat([case[key] for case in cases])
        kind, method = key.split("/")
        over = groups if len(cases) > 1 and name not in _GRIDS else None
        found = evaluation.bootstrap(scores, method="t", groups=over)
        yield {
            "instrument": name,
            "method": method,
            "sign": "as given" if kind == "score" else "absolute",
            "mean": found.mean,
            "low": found.low,
            "high": found.high,
            "chance": chance.mean().item(),
            "right": (scores > (1 + chance) / 2).double().mean().item(),
            "pictures": len(scores),
            "networks": 1 if name in _GRIDS else len(cases),
            "p_value": evaluation.sign_flip(scores - chance, tail="normal"),
        }


def _write_metrics(out: Path, found: Mapping[Case, Mapping[str, Tensor]]) -> None:
    """How each measure rates the truth, over all networks of an instrument."""
    rows = []
    for name in dict.fromkeys(name for name, _ in found):
        cases = [values for case, values in found.items() if case[0] == name]
        cases = [values for values in cases if "not sound" not in values]
        for metric in dict.fromkeys(key.split("/")[0] for case in cases for key in case):
            rows.append({"instrument": name, "metric": metric} | _judgement_row(cases, metric))
    write_table(out, "metrics", rows)


def _judgement_row(cases: list[Mapping[str, Tensor]], metric: str) -> dict[str, Any]:
    parts = [key.split("/")[1] for key in cases[0] if key.split("/")[0] == metric]
    values = {part: torch.cat([case[f"{metric}/{part}"] for case in cases]) for part in parts}
    changed = ("scaled", "shifted", "drawn_again")
    judged = truth.Judgement(
        {part: v for part, v in values.items() if part not in changed},
        **{part: values[part] for part in changed},
    )
    return {
        "pictures": len(values["truth"]),
        "networks": len(cases),
        "reactive": judged.reactive,
        "truth_over_noisy": judged.beats("truth", "noisy"),
        "truth_over_noise": judged.beats("truth", "noise"),
        "truth_over_moved": judged.beats("truth", "moved"),
    } | {part: judged.change(part) for part in changed}
