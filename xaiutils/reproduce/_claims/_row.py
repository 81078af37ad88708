"""What a claim is: data. `_verdict` says what becomes of it."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

Kind = Literal["order", "equivalence", "not testable", "theorem"]


@dataclass(frozen=True)
class Effect:
    """A measured number with its interval over images, signed so that a claim of order is > 0.

    Attributes:
        measure: What it is, with its unit and its network.
        mean: The number.
        low: Lower end of the 95 % interval.
        high: Upper end.
        images: How many images, or other cases, it rests on.
        cases: What these are.
        of_kind: Whether the network is of the paper's kind. Others are shown, and decide nothing.
        margin: For a claim of equality, how far apart two equal things may lie, in units of `mean`.
    """

    measure: str
    mean: float
    low: float
    high: float
    images: int
    cases: str = "images"
    of_kind: bool = True
    margin: float | None = None

    def __str__(self) -> str:
        mean, low, high = (_three_digits(v) for v in (self.mean, self.low, self.high))
        margin = f", margin {_three_digits(self.margin)[1:]}" if self.margin is not None else ""
        return f"{mean} [{low}, {high}], {self.measure}{margin} ({self.images} {self.cases})"

    @classmethod
    def of(
        cls,
        measure: str,
        row: Mapping[str, Any],
        mean: str = "mean",
        images: int = 0,
        cases: str = "images",
        of_kind: bool = True,
    ) -> "Effect":
        """Read an effect from a row of a table in results/."""
        number = int(row["images"]) if "images" in row else images
        ends = float(row["low"]), float(row["high"])
        return cls(measure, float(row[mean]), *ends, number, cases, of_kind)

    def turned(self) -> "Effect":
        """The same with the other sign."""
        return replace(self, mean=-self.mean, low=-self.high, high=-self.low)


def _three_digits(value: float) -> str:
    """With a sign, and with the zeros at the end: +2.10; from a thousand on whole: +4,704."""
    if abs(value) >= 1000:
        return f"{value:+,.0f}"
    return f"{value:+#.3g}".removesuffix(".")


@dataclass(frozen=True)
class Claim:
    """A row of the ledger, before it is judged.

    Attributes:
        paper: The key of the paper in the bibliography; empty for what this book claims itself.
        statement: What is claimed, in our words.
        where: Where it stands.
        there: The set-up that the claim was made for.
        here: Ours.
        kind: "order" (something is larger), "equivalence" (two things are equal within a margin),
            "not testable" (by anything we could measure), or "theorem" (proved, and checked).
        effects: What we measured; it may be empty if the claim is not testable.
        remark: A caveat; for "not testable" what is missing.
        subject: What was tested, if not the paper's own method.
        best_chance: Whether what was tested had its best chance here. If it had not, what speaks
            against the claim speaks against our reconstruction alone, and can refute nothing.
    """

    paper: str
    statement: str
    where: str
    there: str
    here: str
    kind: Kind
    effects: tuple[Effect, ...]
    remark: str = ""
    subject: str = ""
    best_chance: bool = True
