"""The question bank: read, check, and hand out folded or for Moodle.

A file ``book/questions/11.yml`` has the questions of chapter 11: a list whose entries hold

    id:        a name that never changes its meaning
    level:     1 (read), 2 (apply) or 3 (judge)
    where:     the heading in the chapter under which the answer stands
    question:  Markdown with formulas in dollars
    check:     a Python expression that is true, which works out the number of the right answer;
               asked for if that has one
    answers:   two or more, each with text and why; exactly one says `right: true`
"""

import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import yaml
from jinja2 import Environment

from teaching.pages import to_html

LEVELS = {1: "read", 2: "apply", 3: "judge"}
_FIELDS = {"id", "level", "where", "question", "check", "answers"}
_FOLDED = Environment(trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True).from_string(
    """\
# Questions on chapter {{ chapter }}

{% for question in questions %}
## {{ chapter }}, question {{ loop.index }}

{{ question.text }}

{% for answer in question.answers %}
- **{{ "ABCDE"[loop.index0] }}.** {{ answer.text }}
{% endfor %}

<details>
<summary>Which one, and why not the others?</summary>

{% for answer in question.answers %}
- **{{ "ABCDE"[loop.index0] }}**, {{ "right" if answer.right else "wrong" }}. {{ answer.why }}
{% endfor %}

See "{{ question.where }}" in the chapter.

</details>

{% endfor %}
"""
)


class QuestionError(ValueError):
    """A question does not keep to the schema; the message names it."""


@dataclass(frozen=True)
class Answer:
    """One of the answers to choose from, with the reason why it is right or wrong."""

    text: str
    why: str
    right: bool = False


@dataclass(frozen=True)
class Question:
    """A question with one right answer."""

    name: str
    level: int
    where: str
    text: str
    answers: tuple[Answer, ...]
    check: str = ""


def read(path: Path) -> list[Question]:
    """The questions of a chapter.

    Raises:
        QuestionError: An entry does not keep to the schema.
    """
    entries = yaml.safe_load(path.read_text(encoding="utf-8"))
    if not isinstance(entries, list):
        raise QuestionError(f"{path.name} holds no list of questions")
    questions = [
        _question(entry, f"{path.name}, question {n}") for n, entry in enumerate(entries, 1)
    ]
    names = [question.name for question in questions]
    if twice := {name for name in names if names.count(name) > 1}:
        raise QuestionError(f"{path.name} has {', '.join(sorted(twice))} twice")
    return questions


def _question(entry: Any, place: str) -> Question:
    if not isinstance(entry, dict) or not _FIELDS - {"check"} <= entry.keys() <= _FIELDS:
        raise QuestionError(f"{place}: its fields must be {', '.join(sorted(_FIELDS))}")
    answers = tuple(_answer(answer, place) for answer in entry["answers"])
    right = [answer for answer in answers if answer.right]
    if len(right) != 1 or not 2 <= len(answers) <= 5:
        raise QuestionError(
            f"{place}: two to five answers are asked for, exactly one of them right"
        )
    if len({answer.text for answer in answers}) < len(answers):
        raise QuestionError(f"{place}: two answers are the same")
    if entry["level"] not in LEVELS:
        raise QuestionError(f"{place}: the level must be one of {list(LEVELS)}")
    check = str(entry.get("check", ""))
    if re.search(r"\d", right[0].text) and not check:
        raise QuestionError(f"{place}: its right answer has a number, but no check works it out")
    text = str(entry["question"]).strip()
    return Question(entry["id"], entry["level"], entry["where"], text, answers, check)


def _answer(entry: Any, place: str) -> Answer:
    known = isinstance(entry, dict) and {"text", "why"} <= entry.keys() <= {"text", "why", "right"}
    if not known or not all(str(entry[key]).strip() for key in ("text", "why")):
        raise QuestionError(f"{place}: each answer has a text and says why it is right or wrong")
    return Answer(str(entry["text"]), str(entry["why"]).strip(), entry.get("right", False))


def folded(chapter: int, questions: Iterable[Question]) -> str:
    """Questions as Markdown, their answers folded away without a script, in an order by lot."""
    drawn = [replace(q, answers=answers) for q, answers in in_order(list(questions))]
    return _FOLDED.render(chapter=chapter, questions=drawn)


def in_order(questions: list[Question]) -> Iterator[tuple[Question, tuple[Answer, ...]]]:
    """Each question with its answers by lot, but always in the same order.

    Among questions in a row the right answer stands in each place equally often: nobody learns
    where it mostly is.
    """
    seen = Counter[int]()
    for question in questions:
        places = range(len(question.answers))
        place = min(places, key=lambda p: (seen[p], _lot(f"{question.name} {p}")))
        seen[place] += 1
        right = next(answer for answer in question.answers if answer.right)
        answers = sorted(set(question.answers) - {right}, key=lambda answer: _lot(answer.text))
        yield question, (*answers[:place], right, *answers[place:])


def _lot(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def moodle(chapter: int, questions: Iterable[Question]) -> str:
    """Questions as Moodle XML, which learning platforms import."""
    quiz = ET.Element("quiz")
    category = ET.SubElement(quiz, "question", type="category")
    _text(category, "category", f"$course$/Heatmaps Under Test/Chapter {chapter}")
    for question in questions:
        _add(quiz, question)
    ET.indent(quiz)
    return ET.tostring(quiz, encoding="unicode", xml_declaration=True) + "\n"


def _add(quiz: ET.Element, question: Question) -> None:
    element = ET.SubElement(quiz, "question", type="multichoice")
    _text(element, "name", question.name)
    _text(element, "questiontext", to_html(question.text), format="html")
    _text(element, "generalfeedback", to_html(f'See "{question.where}".'), format="html")
    settings = {"defaultgrade": "1", "penalty": "0.3333333", "hidden": "0", "single": "true"}
    settings |= {"shuffleanswers": "true", "answernumbering": "abc"}
    for name, value in settings.items():
        ET.SubElement(element, name).text = value
    for answer in question.answers:
        fraction = "100" if answer.right else "0"
        chosen = _text(element, "answer", to_html(answer.text), fraction=fraction, format="html")
        _text(chosen, "feedback", to_html(answer.why), format="html")


def _text(parent: ET.Element, name: str, text: str, **attributes: str) -> ET.Element:
    element = ET.SubElement(parent, name, attributes)
    ET.SubElement(element, "text").text = text
    return element
