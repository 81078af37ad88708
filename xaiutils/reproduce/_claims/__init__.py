"""``claims``: the ledger, one row for each claim of each paper, filled from the tables alone.

A paper's module has ``rows(results)``, which reads tables in the folder `results` and returns its
claims; ``_verdict`` judges them together. No number is typed into any of them.
"""

import argparse
import dataclasses
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import pandas as pd

from xaiutils.reproduce._claims import (
    _bluecher,
    _dmbp,
    _dmbp_moving,
    _grad_lam,
    _ours,
    _samek,
)
from xaiutils.reproduce._claims._page import as_markdown, reason
from xaiutils.reproduce._claims._row import Claim
from xaiutils.reproduce._claims._verdict import Judged, judge
from xaiutils.reproduce._provenance import provenance, write_json, write_text
from xaiutils.reproduce.results import folder

PAPERS: dict[str, Callable[[Path], list[Claim]]] = {
    "Samek et al. 2017": _samek.rows,
    "Bartler et al. 2020": _grad_lam.rows,
    "Ruiz et al. 2021": lambda results: [*_dmbp_moving.rows(results), *_dmbp.rows(results)],
    "Blücher et al. 2024, on rankings and fills": _bluecher.rows,
}


def add_command(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add ``claims`` to the command line."""
    claims = commands.add_parser("claims", help="fill the ledger of claims from the tables")
    claims.add_argument("--out", type=Path, help="folder; results/ of the repository if omitted")
    claims.set_defaults(run=write_claims)


def write_claims(options: argparse.Namespace) -> int:
    """Write claims.csv, claims.md (which the book shows) and their record."""
    results = folder()
    out: Path = options.out or results
    papers = {title: judge(rows(results)) for title, rows in PAPERS.items()}
    ours = judge(_ours.rows(results))
    every = [row for rows in (*papers.values(), ours) for row in rows]
    write_text(out / "claims.csv", pd.DataFrame(_records(every)).to_csv(index=False))
    write_text(out / "claims.md", as_markdown(papers, ours))
    write_json(out / "claims.json", provenance("python -m xaiutils.reproduce claims"))
    verdicts = pd.Series([row.verdict for rows in papers.values() for row in rows])
    print(", ".join(f"{count} {verdict}" for verdict, count in verdicts.value_counts().items()))
    return 0


def _records(claims: Sequence[Judged]) -> Iterable[dict[str, object]]:
    """One record for each measured effect, and one without numbers where nothing was measured."""
    for row in claims:
        facts = {k: v for k, v in vars(row.claim).items() if k not in ("effects", "remark")}
        facts |= {"verdict": row.verdict, "reason": reason(row)}
        for finding in row.findings or (None,):
            if finding is None:
                yield facts
            else:
                judged = {"says": finding.says, "p_holm": finding.p_holm}
                yield facts | dataclasses.asdict(finding.effect) | judged
