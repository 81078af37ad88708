"""One claim of a paper, and what became of it here."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

Verdict = Literal["confirmed", "not confirmed", "not testable"]


@dataclass(frozen=True)
class Effect:
    """A measured number with its interval over images.

    Attributes:
        measure: What it is, with its unit.
        mean: The number.
        low: Lower end of the 95 % interval.
        high: Upper end.
        images: How many images, or other cases, it rests on.
        cases: What these are.
    """

    measure: str
    mean: float
    low: float
    high: float
    images: int
    cases: str = "images"

    def __str__(self) -> str:
        mean, low, high = (_three_digits(v) for v in (self.mean, self.low, self.high))
        return f"{mean} [{low}, {high}], {self.measure} ({self.images} {self.cases})"

    @classmethod
    def of(
        cls,
        measure: str,
        row: Mapping[str, Any],
        mean: str = "mean",
        images: int = 0,
        cases: str = "images",
    ) -> "Effect":
        """Read an effect from a row of a table in results/."""
        number = int(row["images"]) if "images" in row else images
        ends = float(row["low"]), float(row["high"])
        return cls(measure, float(row[mean]), *ends, number, cases)


def _three_digits(value: float) -> str:
    """With a sign, and with the zeros at the end: +2.10; from a thousand on whole: +4,704."""
    if abs(value) >= 1000:
        return f"{value:+,.0f}"
    return f"{value:+#.3g}".removesuffix(".")


@dataclass(frozen=True)
class Claim:
    """A row of the ledger.

    Attributes:
        paper: The key of the paper in the bibliography.
        statement: What the paper claims, in our words.
        where: Where it stands there.
        there: Their set-up.
        here: Ours.
        effects: What we measured; empty if nothing could be.
        verdict: "confirmed", "not confirmed" or "not testable".
        reason: Why, in a sentence: for "not testable" what is missing.
    """

    paper: str
    statement: str
    where: str
    there: str
    here: str
    effects: tuple[Effect, ...]
    verdict: Verdict
    reason: str


def judged(*effects: Effect) -> Verdict:
    """Confirmed if every effect, signed so that the paper expects it positive, excludes zero."""
    return "confirmed" if all(effect.low > 0 for effect in effects) else "not confirmed"
