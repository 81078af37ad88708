"""``judge``: put a method through every test, and write its measured card.

``judge my_method.py:function`` is all that is needed: the pictures and networks are what installed
packages ship. Each test is cut into blocks. A block is a file in the work folder, whole or not
there; a run that is started again goes on where it was. With ``--dask`` the workers of a cluster
compute the blocks.
"""

from __future__ import annotations

import argparse
import json
import re
import warnings
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from xaiutils import attribution, evaluation, models
from xaiutils.evaluation._search import share_of_gain
from xaiutils.reproduce._card import as_card
from xaiutils.reproduce._explained import weights
from xaiutils.reproduce._judge_method import MethodError, Refused, Subject, load_subject
from xaiutils.reproduce._judge_tests import LINES, PER_CLASS, SETTINGS, TESTS, Found
from xaiutils.reproduce._long_run import Found as Tensors
from xaiutils.reproduce._long_run import (
    Notes,
    Run,
    block_path,
    compute_missing,
    read_block,
    write_record,
)
from xaiutils.reproduce._options import names
from xaiutils.reproduce._provenance import provenance, write_json, write_text

_FIRST_LOOK = 2  # digits, before anything long is begun
_ENOUGH_FOR_BCA = 20

Task = tuple[str, int]


def add_command(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add ``judge`` to the command line."""
    judge = commands.add_parser("judge", help="measure a method of yours, and write its card")
    judge.add_argument("methods", nargs="*", help="file.py:function, module:Class, or a name")
    judge.add_argument("--all", action="store_true", help="every method of this package instead")
    judge.add_argument("--work", type=Path, default=Path("judged"), help="folder of the blocks")
    judge.add_argument("--out", type=Path, help="the card, or the table of several, begins so")
    judge.add_argument("--add", action="store_true", help="to the table that --out names")
    judge.add_argument("--tests", type=names, default=tuple(TESTS), help="some of the tests only")
    judge.add_argument("--dask", metavar="ADDRESS", help="scheduler whose workers compute")
    judge.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Judge the methods one after another, and write what was found."""
    if bool(options.methods) == options.all:
        raise SystemExit("give a method (file.py:function, module:Class, a name), or --all.")
    if options.add and not (options.out and Path(f"{options.out}.csv").exists()):
        raise SystemExit("--add needs --out: the table that is there, without its ending .csv.")
    if unknown := [name for name in options.tests if name not in TESTS]:
        raise SystemExit(f"--tests: {unknown[0]!r} unknown; choose from {', '.join(TESTS)}.")
    wanted = list(attribution.METHODS) if options.all else options.methods
    judged = []
    for name in wanted:
        subject = load_subject(name)
        work = options.work / slug(subject.name)
        found, refused = _judge(subject, name, work, options)
        frame, facts = card_frame(subject, found), _facts(subject, options.tests, refused)
        command = _command([name], options.tests)
        alone = options.out and len(wanted) == 1 and not options.add
        out = options.out if alone else work / "card"
        write_card(out, frame, _record(command, **facts))
        judged.append((frame, facts))
        print(f"{subject.name}: {len(frame)} lines, in {out}.md")
    if options.out and (len(wanted) > 1 or options.add):
        command = _command(["--all"] if options.all else wanted, options.tests)
        methods = {facts["method"]: facts for _, facts in judged}
        frame = pd.concat([frame for frame, _ in judged])
        write_cards(options.out, frame, _record(command, methods=methods), add=options.add)
    return 0


def slug(name: str) -> str:
    """A name as a part of a file's name."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name)


def _judge(
    subject: Subject, name: str, work: Path, options: argparse.Namespace
) -> tuple[Found, dict[str, str]]:
    """All values by line, and which tests the method refused."""
    given = argparse.Namespace(
        method=name, tests=options.tests, work=work, dask=options.dask, shard=None
    )
    run = _run(subject, options.tests)
    try:
        if not all(block_path(work, block).exists() for block in run.blocks):
            _first_look(subject)
        compute_missing(prepare, run, given)
    except MethodError as error:
        raise SystemExit(f"{error}.") from None
    return _merged(work, run.blocks)


def prepare(options: argparse.Namespace) -> Run[Task]:
    """All tests of one method, which is loaded anew."""
    return _run(load_subject(options.method), options.tests)


def _run(subject: Subject, tests: Sequence[str]) -> Run[Task]:
    plan = {
        "method": subject.name,
        "origin": subject.origin,
        "settings": {kind: dict(found) for kind, found in SETTINGS.items()},
        "digits_per_class": PER_CLASS,
    }
    tasks = [(test, number) for test in tests for number in range(TESTS[test].blocks)]
    blocks = {f"{test}-{number:02}": (test, number) for test, number in tasks}
    return Run(plan, blocks, partial(_block, subject))


def _first_look(subject: Subject) -> None:
    """Find within a second what is wrong with a method everywhere."""
    from xaiutils import data

    x = torch.as_tensor(data.mnist("test", source="embedded").images)[:_FIRST_LOOK]
    try:
        subject(models.load_classifier("mnist_cnn").module, x, torch.arange(_FIRST_LOOK))
    except Refused as error:
        reason = error.__cause__
        raise SystemExit(f"{subject.name} raised an error on two digits: {error}") from reason


def _block(subject: Subject, task: Task) -> tuple[Tensors, Notes]:
    test, number = task
    with warnings.catch_warnings():  # what there is to say of a map, the card says
        warnings.simplefilter("ignore")
        try:
            found, notes = TESTS[test].run(subject, number), {}
        except Refused as error:
            found, notes = {}, {"refused": str(error).splitlines()[0]}
    flat = {f"{line}|{k}": values for line, pair in found.items() for k, values in pair.items()}
    return flat, notes


def _merged(work: Path, blocks: Mapping[str, Task]) -> tuple[Found, dict[str, str]]:
    """The blocks put together. A test of which a block was refused has no values."""
    found: Found = {}
    refused = dict[str, str]()
    for block, (test, number) in blocks.items():
        stored, notes = read_block(work, block)
        if note := notes.get("refused"):
            refused[test] = note
        for name, new in stored.items():
            line, kind = name.split("|")
            values = found.setdefault(line, {})
            values[kind] = torch.cat([values[kind], new]) if kind in values else new
            if kind == "own":
                numbers = torch.full((len(new),), number)
                values["block"] = torch.cat([values.get("block", numbers[:0]), numbers])
    gone = {line for test in refused for line in TESTS[test].lines}
    return {line: values for line, values in found.items() if line not in gone}, refused


def card_frame(subject: Subject, found: Mapping[str, Mapping[str, Tensor]]) -> pd.DataFrame:
    """A row for each line of the card, in their order, with Holm's correction over the card."""
    grouped = {line for test in TESTS.values() if test.grouped for line in test.lines}
    rows = [_row(line, found[line], line in grouped) for line in LINES if line in found]
    tested = [row for row in rows if row.get("p") is not None]
    corrected = evaluation.holm([row["p"] for row in tested])
    for row, p in zip(tested, corrected, strict=True):
        row["p_holm"] = p
    return pd.DataFrame([{"method": subject.name} | row for row in rows])


def _row(name: str, values: Mapping[str, Tensor], grouped: bool) -> dict[str, Any]:
    line = LINES[name]
    start = {"attribute": line.attribute, "line": name, "what": line.what, "on": line.on}
    own, held = values["own"], values["control"]
    if len(own) < 2:
        return start | {"value": own.mean().item(), "images": len(own)}
    lead = held - own if line.better == "less" else own - held
    groups = values["block"] if grouped else None
    most = values.get("most")
    row = start | _ends("value", "", own, most, groups)
    row |= {"control": line.control, "control_value": _ends("v", "", held, most, groups)["v"]}
    row |= _ends("lead", "lead_", lead, most, groups)
    row |= {"better": line.better, "images": len(own)}
    if line.better:
        row["p"] = _p_value(lead, groups)
    return row


def _p_value(lead: Tensor, groups: Tensor | None) -> float:
    """Of the sign-flip test over images; of Student's t over networks, as their interval is."""
    if groups is None:
        return evaluation.sign_flip(lead, tail="normal")
    from scipy.stats import ttest_1samp  # slow to import

    means = [lead[groups == number].mean().item() for number in set(groups.tolist())]
    return float(ttest_1samp(means, 0.0).pvalue) if any(means) else 1.0


def _ends(
    name: str, prefix: str, values: Tensor, most: Tensor | None, groups: Tensor | None
) -> dict[str, float]:
    """Mean and interval; of a share of the ceiling, the ratio of the means."""
    with warnings.catch_warnings():  # the card says how many images there are
        warnings.simplefilter("ignore", evaluation.FewImagesWarning)
        if most is not None:
            found = share_of_gain(values, most)
        else:
            few = groups is not None or len(values) < _ENOUGH_FOR_BCA
            way: evaluation.IntervalMethod = "t" if few else "bca"
            found = evaluation.bootstrap(values, method=way, groups=groups)
    return {name: found.mean, f"{prefix}low": found.low, f"{prefix}high": found.high}


def _facts(subject: Subject, tests: Sequence[str], refused: Mapping[str, str]) -> dict[str, Any]:
    return {
        "method": subject.name,
        "origin": subject.origin,
        "options": subject.options,
        "tests": list(tests),
        "refused": dict(refused),
    }


def _command(methods: Sequence[str], tests: Sequence[str]) -> str:
    """What is typed for this again; where the blocks lie and who computes them changes no card."""
    some = [] if list(tests) == list(TESTS) else [f"--tests={','.join(tests)}"]
    return " ".join(["python -m xaiutils.reproduce judge", *methods, *some])


def _record(command: str, **facts: Any) -> dict[str, Any]:
    networks = ("mnist_cnn", "efficientnet_lite0")
    used = {name: models.load_classifier(name) for name in networks}
    about = {name: weights(found.module, found.source) for name, found in used.items()}
    settings = {kind: dict(found) for kind, found in SETTINGS.items()}
    return provenance(command, **facts, settings=settings, weights=about)


def write_cards(out: Path, frame: pd.DataFrame, record: dict[str, Any], *, add: bool) -> None:
    """Write the table of several methods, or add them to one in place of their rows there."""
    path = Path(f"{out}.csv")
    if add:
        there = pd.read_csv(path)
        _refuse_another(out, record)
        frame = pd.concat([there[~there["method"].isin(frame["method"])], frame])
    write_text(path, frame.to_csv(index=False, float_format="%.6g"))
    write_record(out, record, add=add)


def _refuse_another(out: Path, record: Mapping[str, Any]) -> None:
    """Cards stand side by side only if nothing but the method differs."""
    before = json.loads(Path(f"{out}.json").read_text(encoding="utf-8"))
    differing = [key for key in ("settings", "weights") if before[key] != record[key]]
    if _tests(before) != _tests(record):
        differing.append("tests")
    if differing:
        raise SystemExit(
            f"{out}.csv is of another run: {', '.join(differing)} differ. Give another --out."
        )


def _tests(record: Mapping[str, Any]) -> set[str]:
    """All tests that the methods of a run were put through."""
    return {test for facts in record["methods"].values() for test in facts["tests"]}


def write_card(out: Path, frame: pd.DataFrame, record: dict[str, Any]) -> None:
    """Write the card: Markdown to read, csv with all digits, json with how it came about."""
    write_text(Path(f"{out}.csv"), frame.to_csv(index=False, float_format="%.6g"))
    write_json(Path(f"{out}.json"), record)
    written = json.loads(json.dumps(record))
    write_text(Path(f"{out}.md"), as_card(frame, written))
