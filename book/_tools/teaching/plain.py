"""Turn MyST into Markdown that any program shows: Jupyter, Colab, VS Code, a page on GitHub.

Boxes, definitions and theorems become block quotes with a bold title, proofs and exercises headed
paragraphs, references readable text. Numbers count by chapter: the second theorem of chapter 13 is
13.2 everywhere, wherever one refers to it.
"""

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from pybtex.database import Entry, parse_file
from pybtex.richtext import Text

from teaching.marks import Chapter, Exercise, MarkError

_FENCE = re.compile(r"^(?P<fence>`{3,}|:{3,})\{(?P<name>[\w:-]+)\}[ ]*(?P<title>.*)$")
_OPTION = re.compile(r"^[ ]*:(\w+):[ ]*(.*)$")
_NUMBERED_MATH = re.compile(r"\$\$(?P<tex>(?:(?!\$\$).)+?)\$\$[ ]*\((?P<label>[\w-]+)\)", re.DOTALL)
_MATH = re.compile(r"\$\$(?:(?!\$\$).)+?\$\$", re.DOTALL)
_ROLE = re.compile(r"\{(?P<role>[a-z:]+)\}`(?P<target>[^`]+)`")
_TARGET = re.compile(r"^\([\w-]+\)=[ ]*\n", re.MULTILINE)
_PAGE = re.compile(r"\]\(\.\./book/(?P<name>\w+)\.md")
LEFTOVERS = re.compile(
    r":::|`{3,}\{|\{(?:cite|eq|ref|prf|numref|doc|term)[:\w]*\}`|^:label:", re.MULTILINE
)


@dataclass
class Names:
    """What every label of the book is called, and every reference.

    Attributes:
        labels: By label, for instance ``Theorem 13.2``; of an equation, ``(13.5)``.
        works: By key, the family name of the first author, the names as one cites them, the year.
        pages: Where the pages of the book are: a prefix for ``book/notation.html``.
    """

    labels: dict[str, str] = field(default_factory=dict)
    works: dict[str, tuple[str, str, str]] = field(default_factory=dict)
    pages: str = ""


def name_all(chapters: Iterable[Chapter], bibliography: Path, pages: str = "") -> Names:
    """Number every label of the book, by chapter, and read the references."""
    names = Names(pages=pages)
    for chapter in chapters:
        names.labels |= {e.label: f"Exercise {e.number}" for e in chapter.exercises}
        _number(chapter, names.labels)
    names.works = {key: _work(entry) for key, entry in parse_file(bibliography).entries.items()}
    return names


def _number(chapter: Chapter, labels: dict[str, str]) -> None:
    whole = chapter.text + "".join(
        f"\n\n{cell.source}"
        for exercise in chapter.exercises
        for cell in exercise.solution
        if cell.cell_type == "markdown"
    )
    counts: Counter[str] = Counter()
    for kind, label in re.findall(r"^`{3,}\{prf:(\w+)\}.*\n:label:[ ]*(\S+)", whole, re.MULTILINE):
        counts[kind] += 1
        labels[label] = f"{kind.capitalize()} {chapter.number}.{counts[kind]}"
    for place, match in enumerate(_NUMBERED_MATH.finditer(whole), 1):
        labels[match["label"]] = f"({chapter.number}.{place})"


def _work(entry: Entry) -> tuple[str, str, str]:
    people = entry.persons.get("author") or entry.persons.get("editor") or []
    family = [str(Text.from_latex(" ".join(p.prelast_names + p.last_names))) for p in people]
    first = family[0] if family else str(Text.from_latex(entry.fields.get("title", "?")))
    shown = {2: " and ".join(family), 1: first, 0: first}.get(len(family), f"{first} et al.")
    return first, shown, entry.fields.get("year", "no year")


def plain(source: str, names: Names) -> str:
    """A cell's text without MyST.

    Raises:
        MarkError: A directive, role or label that has no plain form, by its name.
    """
    text = _directives(_TARGET.sub("", source).split("\n"), names)
    text = _NUMBERED_MATH.sub(lambda m: _tagged(m, names), text)
    text = _ROLE.sub(lambda m: _role(m, names), text)
    text = _PAGE.sub(lambda m: f"]({names.pages}book/{m['name']}.html", text)
    if left := LEFTOVERS.search(text):
        raise MarkError(f"{left[0]!r} has no plain form")
    return text


def _directives(lines: list[str], names: Names) -> str:
    """Lines with every fenced directive put into words."""
    shown: list[str] = []
    rest = iter(lines)
    for line in rest:
        match = _FENCE.match(line)
        if not match:
            shown.append(line)
            continue
        body: list[str] = []
        for inner in rest:
            if inner.strip() == match["fence"]:
                break
            body.append(inner)
        else:
            raise MarkError(f"{{{match['name']}}} is not closed")
        shown.append(_directive(match["name"], match["title"].strip(), body, names))
    return "\n".join(shown)


def _directive(name: str, title: str, body: list[str], names: Names) -> str:
    options: dict[str, str] = {}
    while body and (option := _OPTION.match(body[0])):
        options[option[1]] = option[2].strip()
        body = body[1:]
    text = _directives(body, names).strip()
    called = names.labels.get(options.get("label", ""), name.removeprefix("prf:").capitalize())
    if name == "exercise":
        return f"### {called}\n\n" + (f"*{title}*\n\n" if title else "") + text
    if name == "prf:proof":
        end = "\n\n∎" if text.endswith("$$") else " ∎"  # a line of its own
        return f"**Proof.** {text}{end}"
    if name.startswith("prf:"):
        return _quote(f"**{called}{f' ({title})' if title else ''}.**\n\n{text}", names)
    if name in ("admonition", "note", "tip", "warning"):
        return _quote(f"**{title or called}**\n\n{text}", names)
    raise MarkError(f"the directive {{{name}}} has no plain form")


def _quote(text: str, names: Names) -> str:
    """A block quote. Its formulas stand on one line each: else Jupyter takes the marks for TeX."""
    text = _NUMBERED_MATH.sub(lambda m: _tagged(m, names), text)
    text = _MATH.sub(lambda m: "$$ " + " ".join(m[0].strip("$").split()) + " $$", text)
    return "\n".join(f"> {line}".rstrip() for line in text.split("\n"))


def _tagged(match: re.Match[str], names: Names) -> str:
    number = names.labels[match["label"]].strip("()")
    return f"$$\n{match['tex'].strip()} \\tag{{{number}}}\n$$"


def _role(match: re.Match[str], names: Names) -> str:
    role, target = match["role"], match["target"]
    if role.startswith("cite"):
        return _cite(target.split(","), match.string[: match.start()], names)
    if role == "term":
        return _term(target, names)
    if role not in ("eq", "ref", "prf:ref") or target not in names.labels:
        raise MarkError(f"{match[0]} has no plain form")
    return names.labels[target]


def _term(target: str, names: Names) -> str:
    """A link into the glossary. The text ``gates <gate>`` shows another form of the term."""
    shown, _, term = target.removesuffix(">").partition(" <")
    place = re.sub(r"[^a-zA-Z0-9._]+", "-", term or shown)  # as Sphinx names it
    return f"[{shown}]({names.pages}book/glossary.html#term-{place})"


def _cite(keys: list[str], before: str, names: Names) -> str:
    """The year alone where the sentence has just named the first author."""
    unknown = [key for key in keys if key.strip() not in names.works]
    if unknown:
        raise MarkError(f"no reference has the key {', '.join(unknown)}")
    works = [names.works[key.strip()] for key in keys]
    if len(works) == 1 and works[0][0] in before[-80:]:
        return f"({works[0][2]})"
    return "(" + "; ".join(f"{shown}, {year}" for _, shown, year in works) + ")"


def exercise_text(exercise: Exercise, names: Names) -> str:
    """What an exercise asks, in plain Markdown, without its heading."""
    return plain(exercise.text, names)
