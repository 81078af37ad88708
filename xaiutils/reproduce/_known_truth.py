"""``known-truth``: all methods on instruments whose truth is known, and the measures judged."""

import argparse
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor
from tqdm.auto import tqdm

from xaiutils import attribution, evaluation, models
from xaiutils.evaluation import truth
from xaiutils.reproduce import _known_measures
from xaiutils.reproduce._explained import heatmap, weights
from xaiutils.reproduce._known_instruments import CELL, GRIDS, INSTRUMENTS, Case, cases, instrument
from xaiutils.reproduce._options import names, require_known, require_positive
from xaiutils.reproduce._provenance import command_line, provenance, write_json
from xaiutils.reproduce._tables import write_table
from xaiutils.reproduce._work import keep_plan, kept, save

_KINDS = ("score", "unsigned", "refused")


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
    known.add_argument(
        "--judging-grids", type=int, default=4, help="grids of DiFull that judge them; even"
    )
    known.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Measure the cases that are not there yet, then write the tables."""
    require_known(options, methods=attribution.METHODS, instruments=INSTRUMENTS)
    require_positive(options, "seeds", "pictures", "grids")
    plan: dict[str, Any] = {"pictures": options.pictures}
    facts: dict[str, Any] = {
        "methods": list(options.methods),
        "instruments": list(options.instruments),
        "seeds": options.seeds,
        "judging": options.judging,
        "judging_grids": options.judging_grids,
    }
    if set(options.instruments) & set(GRIDS):
        classifier = models.load_classifier(options.model)
        facts |= {"grids": options.grids, "model": options.model, "cell": CELL}
        facts["weights"] = weights(classifier.module, classifier.source)
    keep_plan(options.work, plan)
    wanted = list(cases(options))
    _write_methods(options.out, {c: _methods_of(options, c) for c in tqdm(wanted, unit="cases")})
    if options.judging:
        judged = _known_measures.judged(options, partial(_metrics_of, options))
        _known_measures.write(options.out, judged)
    record = provenance(command_line(), **plan, **facts)
    write_json(options.out.with_name(f"{options.out.name}.json"), record)
    return 0


# ------------------------------------------------------------------------------------- measured


def _methods_of(options: argparse.Namespace, case: Case) -> dict[str, Tensor]:
    """Scores of all methods on one case, with and without the sign; chance; and the checks.

    What the work folder has of them is read; methods that it has not are measured and added.
    """
    path = options.work / f"{case[0]}-{case[1]}.safetensors"
    found = load_file(path) if path.exists() else {}
    missing = [
        name for name in options.methods if not {f"score/{name}", f"refused/{name}"} & set(found)
    ]
    if missing or not found:
        found |= _scores(instrument(options, case), missing, case[1])
        save(path, found)
    others = {key for key in found if key.split("/")[0] in _KINDS} - _keys(options.methods)
    return {key: value for key, value in found.items() if key not in others}


def _keys(methods: Sequence[str]) -> set[str]:
    return {f"{kind}/{name}" for kind in _KINDS for name in methods}


def _scores(known: truth.Instrument, methods: Sequence[str], seed: int) -> dict[str, Tensor]:
    found = {"chance": known.chance(), "oracle": known.score(known.oracle())}
    for check in known.checks:
        found[f"check/{check.what}"] = torch.tensor([check.value, check.low, check.high])
    for name in methods:
        try:
            maps = heatmap(name, known.model, known.x, known.target, seed)
        except ValueError:  # a method that refuses the network has no score
            found[f"refused/{name}"] = torch.ones(1)
            continue
        found[f"score/{name}"] = known.score(maps)
        found[f"unsigned/{name}"] = known.score(evaluation.unsigned(maps))
    return found


def _metrics_of(options: argparse.Namespace, case: Case) -> dict[str, Tensor]:
    """What the measures say of the ladder of maps on one case."""
    path = options.work / f"measures-{case[0]}-{case[1]}.safetensors"
    return kept(path, partial(_known_measures.judge, options, case, _known_measures.ours))


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
        for key, value in sorted(case.items())  # a file that is read again has its own order
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
    keys = {key for case in cases for key in case if key.startswith(("score/", "unsigned/"))}
    for key in sorted(keys):
        scores = torch.cat([case[key] for case in cases])
        kind, method = key.split("/")
        over = groups if len(cases) > 1 and name not in GRIDS else None
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
            "oracle": torch.cat([case["oracle"] for case in cases]).min().item(),
            "pictures": len(scores),
            "networks": 1 if name in GRIDS else len(cases),
            "p_value": evaluation.sign_flip(scores - chance, tail="normal"),
        }
