"""The numbers of exercises, which stay once given: sheets and marks of a class name them."""

import csv
from collections.abc import Iterable
from pathlib import Path

from teaching.marks import Chapter, MarkError


def read(path: Path) -> dict[str, str]:
    """The labels of the exercises by number; empty if there is no such file."""
    if not path.is_file():
        return {}
    with path.open(encoding="utf-8", newline="") as file:
        return {row["number"]: row["label"] for row in csv.DictReader(file)}


def numbers(chapters: Iterable[Chapter]) -> dict[str, str]:
    """The labels of the exercises by number, as the chapters are now."""
    return {e.number: e.label for chapter in chapters for e in chapter.exercises}


def keep(chapters: Iterable[Chapter], path: Path) -> None:
    """Write down the numbers of new exercises.

    Raises:
        MarkError: An exercise has another number than before, or is gone.
    """
    now, before = numbers(chapters), read(path)
    for number, label in before.items():
        if now.get(number) != label:
            raise MarkError(
                f"exercise {number} was {label} and is {now.get(number)}; new ones come behind the "
                f"others of their chapter. If it has to be so, take its line out of {path.name}"
            )
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([("number", "label"), *now.items()])
