"""``cards``: the page with the cards of all methods, from the table that ``judge`` wrote.

``judge --all --out results/cards`` measures them and writes ``cards.csv`` and ``cards.json``
(``judge NAME --add --out results/cards`` adds one later); this makes ``cards.md``, which the book
shows, and the score board ``cards.png``.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import pandas as pd

from xaiutils import attribution
from xaiutils.reproduce._card import TOGETHER, body, summary, verdicts
from xaiutils.reproduce._provenance import write_text
from xaiutils.reproduce.results import folder, record, table

SHOWN = {
    "digits/uniform/abpc/borrowed": "digits",
    "photographs/uniform/abpc/borrowed": "photographs",
    "truth/backdoor": "trigger",
    "truth/suppressor": "suppressor",
}
"""The lines of the score board, with the heads of their columns."""
_AXES = {
    "digits/uniform/abpc/borrowed": "digits: lead over\na borrowed map, logits",
    "photographs/uniform/abpc/borrowed": "photographs: lead over\na borrowed map, logits",
    "truth/backdoor": "trigger of a backdoor:\nshare above chance",
    "truth/suppressor": "signal and suppressor:\nshare above chance",
}
_DASH = "–"
_OF_LOGITS, _OF_SHARES = 1, 2  # digits after the point


def add_command(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add ``cards`` to the command line."""
    cards = commands.add_parser("cards", help="write the page of cards from the table of judge")
    cards.add_argument("--out", type=Path, help="folder; results/ of the repository if omitted")
    cards.set_defaults(run=write_cards)


def write_cards(options: argparse.Namespace) -> int:
    """Write cards.md, which the book shows, and cards.png."""
    out: Path = options.out or folder()
    frame, about = table("cards"), record("cards")
    write_text(out / "cards.md", page(frame, about))
    draw(frame, out / "cards.png")
    print(f"{frame['method'].nunique()} cards, in {out / 'cards.md'}")
    return 0


def page(frame: pd.DataFrame, about: Mapping[str, Any]) -> str:
    """The score board, and below it a card for each method, folded.

    Args:
        frame: All lines of all methods, as ``judge`` wrote them.
        about: The record beside it.
    """
    methods = ranked(frame)
    parts = [_board(frame, methods), _counted(frame), _missing(frame), "## The cards\n"]
    for name in methods:
        mine = frame[frame["method"] == name]
        run = run_of(name, about)
        facts = {**run["methods"][name], **{k: run[k] for k in ("date", "versions")}}
        parts.append(
            f"::::{{dropdown}} {name}\n{summary(mine)}\n\n{body(mine, facts, level=0)}\n::::\n"
        )
    return "\n".join(parts)


def run_of(method: str, about: Mapping[str, Any]) -> Mapping[str, Any]:
    """The run that a method's card comes from: the first one, or one added to it (``--add``)."""
    added: list[Mapping[str, Any]] = about.get("added", [])
    return next((run for run in reversed(added) if method in run["methods"]), about)


def _counted(frame: pd.DataFrame) -> str:
    """How many methods are surely ahead or behind, by column."""
    said = frame.assign(said=verdicts(frame))
    parts = []
    for line, head in SHOWN.items():
        words = said[said["line"] == line]["said"]
        if len(words):
            ahead, behind = ((words == word).sum() for word in ("ahead", "behind"))
            parts.append(f"{head}: {ahead} of {len(words)} ahead, {behind} behind")
    return f"After the correction, {'; '.join(parts)}. The others are open.\n"


def _missing(frame: pd.DataFrame) -> str:
    """What was not run is said, and not left to be noticed."""
    methods = [name for name in attribution.METHODS if name not in set(frame["method"])]
    columns = [head for line, head in SHOWN.items() if line not in set(frame["line"])]
    said = []
    if methods:
        count = f"{len(methods)} of the {len(attribution.METHODS)} methods have no card yet"
        said.append(f"{count}: {', '.join(name.replace('_', ' ') for name in methods)}.")
    if columns:
        said.append(f"Not run yet for any of these cards: {', '.join(columns)}.")
    return " ".join(said) + "\n" if said else ""


def ranked(frame: pd.DataFrame) -> list[str]:
    """The methods, by the first line of the score board."""
    first = frame[frame["line"] == next(iter(SHOWN))].sort_values("lead", ascending=False)
    rest = [name for name in dict.fromkeys(frame["method"]) if name not in set(first["method"])]
    return [*first["method"], *rest]


def _board(frame: pd.DataFrame, methods: list[str]) -> str:
    """A table that fits a phone: few digits, and an interval below its mean where it is narrow."""
    there = {line: head for line, head in SHOWN.items() if line in set(frame["line"])}
    lines = [f"| method | {' | '.join(there.values())} |", "|---" * (len(there) + 1) + "|"]
    leads = frame.assign(said=verdicts(frame)).set_index(["method", "line"])
    for name in methods:
        cells = [_cell(leads, name, line) for line in there]
        lines.append(f"| {name.replace('_', ' ')} | {' | '.join(cells)} |")
    return ":::{div} score-board\n" + "\n".join(lines) + "\n:::\n"


def _cell(leads: pd.DataFrame, method: str, line: str) -> str:
    if (method, line) not in leads.index:
        return _DASH
    row = cast("pd.Series", leads.loc[(method, line)])
    digits = _OF_SHARES if line.startswith("truth/") else _OF_LOGITS
    mean, low, high = (f"{row[name]:z.{digits}f}" for name in ("lead", "lead_low", "lead_high"))
    lead = f"{'+' if float(mean) > 0 else ''}{mean}"
    lead = f"**{lead}**" if row["said"] == "ahead" else lead
    return f"{lead} [{low},{TOGETHER}{high}]"


def draw(frame: pd.DataFrame, path: Path) -> None:
    """The score board as a picture: a dot with whiskers for each method and line."""
    import matplotlib.pyplot as plt
    import seaborn as sns

    from xaiutils import plot

    methods = ranked(frame)
    there = [line for line in SHOWN if line in set(frame["line"])]
    size = (2 + 2 * len(there), 0.9 + 0.24 * len(methods))
    figure, axes = plt.subplots(
        1, len(there), figsize=size, sharey=True, layout="constrained", squeeze=False
    )
    for ax, line in zip(axes[0], there, strict=True):
        rows = frame[frame["line"] == line]
        places = rows["method"].map(methods.index)
        ax.axvline(0, color="0.6", linewidth=0.8)
        ax.hlines(places, rows["lead_low"], rows["lead_high"], color=plot.PALETTE[0], lw=1.5)
        sns.scatterplot(x=rows["lead"], y=places, color=plot.PALETTE[0], s=30, ax=ax, zorder=3)
        ax.set(xlabel=_AXES[line], ylabel="")
        ax.spines[["top", "right", "left"]].set_visible(False)
        ax.tick_params(axis="y", length=0)
    names = [name.replace("_", " ") for name in methods]
    axes[0, 0].set(yticks=range(len(methods)), yticklabels=names)
    axes[0, 0].set_ylim(len(methods) - 0.5, -0.5)
    plot.save(figure, path)
