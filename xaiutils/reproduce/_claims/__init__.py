"""``claims``: the ledger, one row for each claim of each paper, filled from the tables alone.

A paper's module has ``rows(results)``, which reads tables in the folder `results` and returns its
claims. No number is typed into it.
"""

import argparse
import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

import pandas as pd

from xaiutils.reproduce._claims import _dmbp, _grad_lam, _samek
from xaiutils.reproduce._claims._row import Claim
from xaiutils.reproduce._provenance import provenance, write_json, write_text
from xaiutils.reproduce.results import folder

PAPERS: tuple[Callable[[Path], list[Claim]], ...] = (_samek.rows, _grad_lam.rows, _dmbp.rows)


def add_command(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add ``claims`` to the command line."""
    claims = commands.add_parser("claims", help="fill the ledger of claims from the tables")
    claims.add_argument("--out", type=Path, help="folder; results/ of the repository if omitted")
    claims.set_defaults(run=write_claims)


def write_claims(options: argparse.Namespace) -> int:
    """Write claims.csv, claims.md (which the book shows) and their record."""
    results = folder()
    out: Path = options.out or results
    claims = [claim for rows in PAPERS for claim in rows(results)]
    write_text(out / "claims.csv", _table(claims).to_csv(index=False))
    write_text(out / "claims.md", as_markdown(claims))
    write_json(out / "claims.json", provenance("python -m xaiutils.reproduce claims"))
    counts = pd.Series([claim.verdict for claim in claims]).value_counts()
    print(", ".join(f"{count} {verdict}" for verdict, count in counts.items()))
    return 0


def _table(claims: Sequence[Claim]) -> pd.DataFrame:
    """One row for each measured effect, and one without numbers where nothing was measured."""
    rows = []
    for claim in claims:
        facts = {k: v for k, v in vars(claim).items() if k != "effects"}
        for effect in claim.effects or (None,):
            numbers = dataclasses.asdict(effect) if effect else {}
            rows.append(facts | numbers)
    return pd.DataFrame(rows)


def as_markdown(claims: Sequence[Claim]) -> str:
    """The ledger as a page shows it: a heading for each claim, and under it the two set-ups."""
    return "\n".join(_section(claim) for claim in claims)


def _section(claim: Claim) -> str:
    measured = "\n  ".join(f"- {effect}" for effect in claim.effects) or "nothing"
    return (
        f"### {claim.statement}\n\n"
        f"{{cite:p}}`{claim.paper}`, {claim.where}. **Verdict here: {claim.verdict}.** "
        f"{claim.reason}\n\n"
        f"There\n: {claim.there}\n\nHere\n: {claim.here}\n\nMeasured\n: {measured}\n"
    )
