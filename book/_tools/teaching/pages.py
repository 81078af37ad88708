"""Pages to print or hand out: Markdown, and HTML that needs no script but MathJax for formulas."""

import html
import shutil
from pathlib import Path
from typing import Any

import vendor
from jinja2 import Environment
from markdown_it import MarkdownIt
from mdit_py_plugins.dollarmath import dollarmath_plugin
from sphinx.ext.mathjax import MATHJAX_URL

from teaching.marks import Chapter
from teaching.plain import Names, exercise_text

_JINJA = Environment(trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True)
_SHEET = _JINJA.from_string("""\
# Exercises of chapter {{ chapter.number }}: {{ chapter.title }}

Name: ________________________ &nbsp; Date: ______________

All exercises: {{ exercises | sum(attribute="0.points") }} points, about \
{{ exercises | sum(attribute="0.minutes") }} minutes.

{% for exercise, text in exercises %}
## Exercise {{ exercise.number }}

*{{ exercise.mark }}*

{{ text }}

<div class="room"></div>

{% endfor %}
""")
_PAGE = Environment(autoescape=True).from_string("""\
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ title }}</title>
<style>
body { font: 1rem/1.5 sans-serif; max-width: 44rem; margin: 1.5rem auto; padding: 0 1rem; }
details { margin: 0.5rem 0 1.5rem; }
summary { cursor: pointer; }
h2 { margin-top: 2.5rem; break-after: avoid; }
@media print { h2 + p { break-inside: avoid; } .room { height: 9rem; } }
</style>
<script src="{{ mathjax }}" defer></script>
</head>
<body>
{{ body | safe }}
</body>
</html>
""")


def _formula(tex: str, options: dict[str, Any]) -> str:
    opened, closed = (r"\[", r"\]") if options["display_mode"] else (r"\(", r"\)")
    return f"{opened}{html.escape(tex.strip())}{closed}"


_MARKDOWN = (
    MarkdownIt("commonmark", {"html": True})
    .enable("table")
    .use(dollarmath_plugin, allow_labels=False, renderer=_formula)
)


def to_html(markdown: str) -> str:
    r"""Markdown as HTML; formulas stand in ``\(...\)``, which MathJax and Moodle understand."""
    return str(_MARKDOWN.render(markdown))


def page(title: str, markdown: str, mathjax: str) -> str:
    """A whole page of HTML."""
    return _PAGE.render(title=title, body=to_html(markdown), mathjax=mathjax)


def sheet(chapter: Chapter, names: Names) -> str:
    """A chapter's exercises as Markdown.

    Args:
        chapter: The chapter.
        names: What labels are called.
    """
    rows = [(exercise, exercise_text(exercise, names)) for exercise in chapter.exercises]
    return _SHEET.render(chapter=chapter, exercises=rows)


def put_mathjax(root: Path, folder: Path) -> str:
    """Copy the vendored MathJax into a folder; its address from a folder beside it.

    Where none is vendored, the address of the public copy.
    """
    if not vendor.is_filled(root):
        return str(MATHJAX_URL)
    shutil.copytree(root / "assets/vendor/mathjax", folder / "mathjax", dirs_exist_ok=True)
    return "../mathjax/tex-mml-chtml.js"
