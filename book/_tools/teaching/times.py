"""How long a chapter takes, what it needs, and the tables of the page on teaching.

The time to read is a model, not a measurement: nobody has timed a class. Its constants stand below,
and on the page. The time to run is measured: `chapters.py` prints it.
"""

import csv
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from teaching.marks import Chapter
from teaching.plain import LEFTOVERS

# English non-fiction is read at 238 words a minute on average (Brysbaert 2019). A text with a proof
# in it, and a pencil beside it, we put at half of that. The others are guesses too, as are the
# minutes of an exercise, which stand in its title.
WORDS_PER_MINUTE = 119
MINUTES_PER_FORMULA = 3
MINUTES_PER_CELL = 1
_RAN = re.compile(r"Executing notebooks/(\w+)\.ipynb \.\.\. (\d+) s")
_NEEDS = re.compile(r"^## What you need first\n(.+?)(?=^\*\*Reading)", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\]\((\d\d)_\w+\.ipynb\)")


@dataclass(frozen=True)
class Duration:
    """Minutes for a reader with a pencil and for the exercises, and seconds of the machine."""

    reading: int
    exercises: int
    seconds: int | None


def duration(chapter: Chapter, seconds: dict[str, int]) -> Duration:
    """How long a chapter takes, by the model above and by measured seconds."""
    words, formulas = measure(chapter.text)
    cells = sum(cell.cell_type == "code" for cell in chapter.cells)
    minutes = words / WORDS_PER_MINUTE + formulas * MINUTES_PER_FORMULA + cells * MINUTES_PER_CELL
    exercises = sum(exercise.minutes for exercise in chapter.exercises)
    return Duration(_quarters(minutes), exercises, seconds.get(chapter.path.stem))


def measure(text: str) -> tuple[int, int]:
    """The words of a text without its formulas, and the number of its displayed formulas."""
    displayed = re.findall(r"\$\$.+?\$\$", text, re.DOTALL)
    without = re.sub(r"\$\$.+?\$\$|^:\w+:[^\n]*", " ", text, flags=re.DOTALL | re.MULTILINE)
    without = LEFTOVERS.sub(" ", re.sub(r"\$[^$\n]+\$", " formula ", without))
    return len(re.findall(r"\w[\w'-]*", without)), len(displayed)


def _quarters(minutes: float) -> int:
    return max(15, round(minutes / 15) * 15)


def needs(chapter: Chapter) -> list[int]:
    """The chapters that a chapter names under "What you need first"."""
    section = _NEEDS.search(chapter.text)
    return sorted({int(number) for number in _LINK.findall(section[1])}) if section else []


def read_seconds(path: Path) -> dict[str, int]:
    """Measured seconds by notebook; empty if there is no such file."""
    if not path.is_file():
        return {}
    with path.open(encoding="utf-8", newline="") as file:
        return {row["notebook"]: int(row["seconds"]) for row in csv.DictReader(file)}


def write_seconds(logs: Iterable[Path], path: Path) -> None:
    """Keep the seconds that `chapters.py` printed into some logs, beside those known before.

    Raises:
        ValueError: The logs hold no such line.
    """
    found = [pair for log in logs for pair in _RAN.findall(log.read_text(encoding="utf-8"))]
    if not found:
        raise ValueError(
            "no line of the kind 'Executing notebooks/NAME.ipynb ... 60 s' in the logs"
        )
    seconds = read_seconds(path) | {name: int(number) for name, number in found}
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows(
            [("notebook", "seconds"), *sorted(seconds.items())]
        )


def blocks(chapters: Sequence[Chapter], courses: Path, seconds: dict[str, int]) -> dict[str, str]:
    """The generated parts of the page on teaching, by name."""
    times = {chapter.number: duration(chapter, seconds) for chapter in chapters}
    plans = yaml.safe_load(courses.read_text(encoding="utf-8"))
    shown = {f"course-{len(plan['sessions'])}": _course(plan, chapters, times) for plan in plans}
    return {"model": _model(), "order": _order(chapters), "times": _times(chapters, times), **shown}


def _order(chapters: Sequence[Chapter]) -> str:
    """The chapters in steps: each needs only what stands in the lines above it."""
    waiting = {chapter.number: set(needs(chapter)) for chapter in chapters}
    lines: list[str] = []
    while waiting:
        ready = [number for number, needed in waiting.items() if not needed & waiting.keys()]
        if not ready:
            raise ValueError(f"the chapters {sorted(waiting)} need each other")
        lines.append("   ".join(map(str, ready)))
        waiting = {number: needed for number, needed in waiting.items() if number not in ready}
    return "```text\n" + "\n".join(lines) + "\n```"


def _model() -> str:
    return (
        f"- a word of text at {WORDS_PER_MINUTE} words in a minute;\n"
        f"- a displayed formula: {MINUTES_PER_FORMULA} minutes;\n"
        f"- a code cell: {MINUTES_PER_CELL} minute;\n"
        "- an exercise: the minutes that its title gives."
    )


def _times(chapters: Sequence[Chapter], times: dict[int, Duration]) -> str:
    rows = [
        "| chapter | needs | read with a pencil | exercises | points | run |",
        "|---|---|---|---|---|---|",
    ]
    for chapter in chapters:
        time = times[chapter.number]
        ran = "not measured" if time.seconds is None else f"{time.seconds} s"
        needed = ", ".join(map(str, needs(chapter))) or "none"
        tasks = f"{len(chapter.exercises)}, {time.exercises} min" if chapter.exercises else "none"
        worth = sum(exercise.points for exercise in chapter.exercises) or "none"
        name = f"{chapter.number} [{chapter.title}](../notebooks/{chapter.path.name})"
        rows.append(f"| {name} | {needed} | {time.reading} min | {tasks} | {worth} | {ran} |")
    reading = sum(time.reading for time in times.values())
    working = sum(time.exercises for time in times.values())
    worth = sum(exercise.points for chapter in chapters for exercise in chapter.exercises)
    rows.append(f"| all | | {reading / 60:.0f} h | {working / 60:.0f} h | {worth} | |")
    return "\n".join(rows)


def _course(plan: dict[str, Any], chapters: Sequence[Chapter], times: dict[int, Duration]) -> str:
    rows = ["| | read before | in class | after it one can | at home |", "|---|---|---|---|---|"]
    total = 0
    of_all = {e.number: e for chapter in chapters for e in chapter.exercises}
    for place, session in enumerate(plan["sessions"], 1):
        read = session.get("chapters", [])
        tasks = session.get("exercises", [])
        minutes = sum(times[n].reading for n in read) + sum(of_all[t].minutes for t in tasks)
        total += minutes
        worth = sum(of_all[t].points for t in tasks)
        home = f"exercises {', '.join(tasks)} ({worth} points); " if tasks else ""
        home += f"{minutes} min in all" if minutes else ""
        before = ", ".join(map(str, read)) or "nothing"
        before += "".join(f" ({n} on trust: {why})" for n, why in session.get("trust", {}).items())
        rows.append(
            f"| {place} | {before} | {session['class']} | {session['goal']} | {home or 'nothing'} |"
        )
    return "\n".join(rows) + (f"\n\nAt home in all: about {total / 60:.0f} h." if total else "")
