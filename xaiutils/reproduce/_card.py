"""A measured card as Markdown: the ten attributes of a saliency card, each with what was measured.

The form is that of Boggust et al. 2023: methodology, sensitivity and perceptibility. Where theirs
say in words what is known of a method, these have numbers, intervals and controls.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

ATTRIBUTES = {
    "Methodology": {
        "Determinism": "Does the same call give the same map?",
        "Hyperparameter dependence": "Which settings does it have?",
        "Model agnosticism": "Which networks does it take?",
        "Computational efficiency": "What does a map cost?",
        "Semantic directness": "What does a value of the map mean?",
    },
    "Sensitivity": {
        "Input sensitivity": "Does it mark what the network uses in *this* picture?",
        "Label sensitivity": "Is the map of another class another map?",
        "Model sensitivity": "Does it change when the weights are lost?",
    },
    "Perceptibility": {
        "Minimality": "How little of the picture does it mark?",
        "Perceptual correspondence": "Does it mark what we would have marked?",
    },
}
_UNMEASURED = {
    "Semantic directness": "Not measured: its definition says it, or nothing does.",
}
_SURE = 0.05
TOGETHER = "\N{NO-BREAK SPACE}"  # an interval is not torn apart on a narrow page
_FEW = 10


def as_card(frame: pd.DataFrame, record: Mapping[str, Any]) -> str:
    """The card of one method as a page of its own.

    Args:
        frame: Its lines, from `card_frame`.
        record: Its provenance.
    """
    versions = ", ".join(f"{name} {number}" for name, number in record["versions"].items())
    return (
        f"# Measured card: `{record['method']}`\n\n{summary(frame)}\n\n{body(frame, record)}\n"
        f"Made by `{record['command']}` on {record['date']}, with {versions}. "
        f"The method's origin: {record['origin']}.\n"
    )


def summary(frame: pd.DataFrame) -> str:
    """How many lines are ahead of their control, after the correction."""
    said = verdicts(frame)
    ahead, behind, undecided = ((said == word).sum() for word in ("ahead", "behind", "open"))
    return (
        f"Of {ahead + behind + undecided} lines that have a better and a worse, {ahead} are ahead "
        f"of their control, {behind} behind it, and {undecided} open (sign-flip test over images, "
        "Student's t over networks; corrected for all of them by Holm's procedure)."
    )


def verdicts(frame: pd.DataFrame) -> pd.Series:
    """For each line "ahead", "behind" or "open"; "" where no side is the better one."""

    def verdict(row: Mapping[str, Any]) -> str:
        if not isinstance(row.get("better"), str) or not row["better"]:
            return ""
        if not row["p_holm"] < _SURE:
            return "open"
        return "ahead" if row["lead"] > 0 else "behind"

    return pd.Series([verdict(row) for row in frame.to_dict("records")], index=frame.index)


def body(frame: pd.DataFrame, record: Mapping[str, Any], level: int = 2) -> str:
    """All attributes with their lines; without headings at level 0."""
    parts = []
    for category, attributes in ATTRIBUTES.items():
        parts.append(f"{'#' * level} {category}\n" if level else f"*{category}*\n")
        parts += [
            _attribute(name, question, frame, record) for name, question in attributes.items()
        ]
    return "\n".join(parts)


def _attribute(name: str, question: str, frame: pd.DataFrame, record: Mapping[str, Any]) -> str:
    rows = frame[frame["attribute"] == name]
    start = f"**{name}.** {question}"
    if name in _UNMEASURED:
        return f"{start} {_UNMEASURED[name]}\n"
    if name == "Hyperparameter dependence":
        given = record.get("options") or ""
        text = f"`{given}`" if given else "None that a caller sees"
        return f"{start} {text}. Not measured: each setting is a method, and gets its own card.\n"
    if rows.empty:
        return f"{start} {_refusal(name, record) or 'Not measured.'}\n"
    if name == "Model agnosticism":
        taken = [f"`{row.what}` {'yes' if row.value else 'no'}" for row in rows.itertuples()]
        return f"{start} {', '.join(taken)}.\n"
    said = verdicts(rows)
    lines = [_line(row, said[index]) for index, row in rows.iterrows()]
    table = "| what | value, control | lead |\n|---|---|---|\n" + "\n".join(lines)
    return f"{start}\n\n{table}\n" + (f"\n{note}\n" if (note := _refusal(name, record)) else "")


def _refusal(attribute: str, record: Mapping[str, Any]) -> str:
    from xaiutils.reproduce._judge_tests import TESTS  # it names the lines of this card

    mine = {
        test: why
        for test, why in record.get("refused", {}).items()
        if any(line.attribute == attribute for line in TESTS[test].lines.values())
    }
    return " ".join(f"Refused in the test *{test}*: {why}." for test, why in mine.items())


def _line(row: pd.Series, verdict: str) -> str:
    few = f", {row['images']:.0f} images" if row["images"] < _FEW else ""
    what = f"{row['what']} ({row['on']}{few})"
    value = _interval(row["value"], row["low"], row["high"])
    lead = _interval(row["lead"], row["lead_low"], row["lead_high"], signed=True)
    held = f"{row['control']} {_number(row['control_value'])}"
    return f"| {what} | {value} against {held} | {lead} {verdict}".rstrip() + " |"


def _interval(mean: float, low: float, high: float, signed: bool = False) -> str:
    """A mean with its interval, three digits each."""
    mark = "+" if signed and mean > 0 else ""
    return f"{mark}{_number(mean)} [{_number(low)},{TOGETHER}{_number(high)}]"


def _number(value: float) -> str:
    if abs(value) < 5e-4:
        return "0"
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"
