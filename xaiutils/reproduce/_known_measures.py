"""Measures of heatmaps, judged on the instruments of ``known-truth``: ours and others."""

import argparse
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from xaiutils import data, evaluation
from xaiutils.evaluation import truth
from xaiutils.reproduce._known_instruments import BLOCK, CELL, Case, cases, instrument
from xaiutils.reproduce._tables import write_table

Measures = Callable[[truth.Instrument], Mapping[str, truth.Metric]]
"""Which measures an instrument judges; one that makes no sense on it is left out."""

JUDGING = ("additive", *data.RULES, "backdoor", "DiFull")
_NOT_SOUND = "not sound"
_CHANGES = ("scaled", "shifted", "drawn_again")
_BETTER = ("noisy", "noise", "moved", "leaky")  # the truth should be rated above each of these


def judged(
    options: argparse.Namespace, judge_case: Callable[[Case], dict[str, Tensor]]
) -> dict[Case, dict[str, Tensor]]:
    """What is judged: by so many sound networks of each instrument, and so many grids of DiFull."""
    blocks = -(-options.judging_grids // BLOCK)
    found: dict[Case, dict[str, Tensor]] = {}
    for case in tqdm([case for case in cases(options) if case[0] in JUDGING]):
        enough = blocks if case[0] == "DiFull" else options.judging
        if sum(name == case[0] for name, _ in found) < enough:
            values = judge_case(case)
            found |= {} if _NOT_SOUND in values else {case: values}
    return found


def region(name: str) -> int:
    """Side of a region, in pixels: a quarter of a grid's cell, a seventh of a small picture."""
    return CELL // 4 if name == "DiFull" else 4


def ours(known: truth.Instrument) -> Mapping[str, truth.Metric]:
    """Our measures, with noise in the range of the pictures.

    Of a network cut apart the logit is watched throughout, which is positive there: a probability
    is shared out over the classes of all cells, and so changes with pixels that cannot matter.
    """
    if known.name != "DiFull":
        return truth.metrics(region(known.name))
    fill = evaluation.Uniform.of(known.x)
    return truth.metrics(region(known.name), fill, irof_output="logit")


def judge(options: argparse.Namespace, case: Case, measures: Measures) -> dict[str, Tensor]:
    """Scores of the ladder of maps by every measure, on one case; nothing if it is not sound."""
    known, found = instrument(options, case), dict[str, Tensor]()
    for name, metric in measures(known).items() if known.sound else ():
        try:
            verdict = truth.judge_metric(metric, known, region(case[0]), case[1])
        except ValueError:  # IROF cannot divide by an output that is not positive
            continue
        found |= {f"{name}/{rung}": scores for rung, scores in verdict.scores.items()}
        found |= {f"{name}/{change}": getattr(verdict, change) for change in _CHANGES}
    return found or {_NOT_SOUND: torch.zeros(1)}


def write(out: Path, found: Mapping[Case, Mapping[str, Tensor]]) -> None:
    """Write how each measure rates the truth, over all networks of an instrument."""
    rows = []
    for name in dict.fromkeys(name for name, _ in found):
        sound = [values for case, values in found.items() if case[0] == name]
        for metric in sorted({key.split("/")[0] for values in sound for key in values}):
            rows.append({"instrument": name, "metric": metric} | _row(sound, metric))
    write_table(out, "metrics", rows)


def _row(cases: list[Mapping[str, Tensor]], metric: str) -> dict[str, Any]:
    parts = [key.split("/")[1] for key in cases[0] if key.split("/")[0] == metric]
    values = {part: torch.cat([case[f"{metric}/{part}"] for case in cases]) for part in parts}
    verdict = truth.Judgement(
        {part: v for part, v in values.items() if part not in _CHANGES},
        **{part: values[part] for part in _CHANGES},
    )
    over = {
        f"truth_over_{worse}": verdict.beats("truth", worse)
        for worse in _BETTER
        if worse in verdict.scores
    }
    row: dict[str, Any] = {"pictures": len(values["truth"]), "networks": len(cases)}
    row |= {"reactive": verdict.reactive, "first": verdict.first, "highest": verdict.highest}
    return row | over | {change: verdict.change(change) for change in _CHANGES}
