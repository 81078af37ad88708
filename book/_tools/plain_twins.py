"""The pages as plain Markdown beside the HTML, and llms.txt, a list of them.

A Sphinx extension. Whoever reads with a program, or prefers text, finds ``13_lrp_rules.md`` beside
``13_lrp_rules.html``, and the page names it in its head, as https://llmstxt.org asks for. The twin
of a chapter is made from the notebook, by the same rules as the editions for teaching, with the
numbers that its page has; the twin of another page from its HTML, because much of that is written
while the book is built.
"""

import re
from html import unescape
from pathlib import Path
from posixpath import relpath
from typing import Any

import yaml
from docutils import nodes
from html_to_markdown import to_markdown
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from teaching import marks, plain

LONGEST = 3000  # characters of an output; what is cut can be had by running the chapter
LIST = "llms.txt"
_HEAD = (
    '<link rel="alternate" type="text/markdown" href="{twin}" />\n'
    '<link rel="describedby" type="text/plain" href="{list}" />\n'
)
_PAGE = re.compile(r"\]\((?!\w+:)([^()#]*)\.(?:ipynb|html)(?:#[^()]*)?\)")  # a link to a page
_NOTE = """\
Each page is plain Markdown with formulas in TeX. A chapter has its code, the text of its outputs, \
what its figures show in words, and the solutions of its exercises."""


def write_twin(
    app: Sphinx, page: str, template: str, context: dict[str, Any], document: nodes.document | None
) -> None:
    """Write the twin of a page, and name it in the page's head."""
    if document is None:  # the index or the search
        return
    here = page.rpartition("/")[0]
    twin, listed = f"{page.rpartition('/')[2]}.md", relpath(LIST, here or ".")
    context["metatags"] += _HEAD.format(twin=twin, list=listed)
    source = Path(document["source"])
    if source.suffix == ".ipynb":
        text = chapter(source, names(app.env))
    else:
        text = to_markdown(context["body"], twin_of)
    target = Path(app.outdir, f"{page}.md")
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(text, encoding="utf-8")


def twin_of(address: str) -> str:
    """The address of a page's twin; other addresses stay. Inside a twin there are no places."""
    path = address.partition("#")[0]
    if ":" in path or not path.endswith(".html"):
        return address if path else ""
    return path.removesuffix(".html") + ".md"


def names(env: BuildEnvironment) -> plain.Names:
    """What labels and references are called in the pages; made once."""
    if not hasattr(env, "names_in_twins"):
        root = Path(env.srcdir)
        book = [marks.read(path) for path in sorted((root / "notebooks").glob("*.ipynb"))]
        called = plain.name_all(book, root / "book/references.bib", pages="../")
        called.labels |= numbers_in_pages(env)
        env.names_in_twins = called
    return env.names_in_twins


def numbers_in_pages(env: BuildEnvironment) -> dict[str, str]:
    """The number that Sphinx gave to each equation, definition, theorem and exercise."""
    found: dict[str, str] = {}
    for kinds in env.toc_fignumbers.values():
        for kind, numbers in kinds.items():
            for place, levels in numbers.items():
                number = ".".join(map(str, levels))
                if kind == "displaymath":
                    found[place.removeprefix("equation-")] = f"({number})"
                else:
                    found[place] = f"{kind.capitalize()} {number}"
    return found


def chapter(path: Path, called: plain.Names) -> str:
    """A notebook as Markdown: text, code, and of the outputs the text and what pictures show."""
    read = marks.read(path)
    pieces: list[str] = []
    figures = 0
    for part in [*read.parts, *read.closing]:
        solution = part.solution if isinstance(part, marks.Exercise) else None
        if solution:
            pieces.append(f"#### Solution of exercise {part.number}")
        for cell in solution or [part]:
            if cell.cell_type == "markdown":
                pieces.append(plain.plain(cell.source, called))
                continue
            pieces.append(f"```python\n{cell.source}\n```")
            for output in cell.outputs:
                figures += is_figure(output)
                pieces.append(shown(output, f"{read.number}.{figures}"))
    return _PAGE.sub(r"](\1.md)", "\n\n".join(pieces) + "\n")


def is_figure(output: Any) -> bool:
    """Whether an output has a picture; a widget has one that stands for it, a stack has several."""
    data = output.get("data", {})
    return "image/png" in data or "<img" in data.get("text/html", "")


def shown(output: Any, number: str) -> str:
    """An output in words."""
    data = output.get("data", {})
    if "image/png" in data:
        return f"[Figure {number}: {output.metadata['image/png']['alt']}]"
    text = output.get("text") or data["text/plain"]
    if text.startswith("<IPython"):
        name = f"[Figure {number}, a stack of pictures:]\n\n" if is_figure(output) else ""
        return name + bounded(to_markdown(data["text/html"]).strip())
    return f"```text\n{bounded(text.rstrip())}\n```"


def bounded(text: str) -> str:
    """A text, cut where it is too long for a reader of plain text."""
    if len(text) <= LONGEST:
        return text
    return f"{text[:LONGEST]}\n[... cut: {len(text)} characters in all]"


def write_list(app: Sphinx, error: Exception | None) -> None:
    """Write llms.txt: the name of the book, what it is, and its pages by part."""
    if error or app.builder.format != "html":
        return
    out, titles = Path(app.outdir), app.builder.env.titles
    toc = yaml.safe_load(Path(app.srcdir, "_toc.yml").read_text(encoding="utf-8"))
    lines = [f"# {titles[toc['root']].astext()}", "", f"> {about(out, toc['root'])}", "", _NOTE]
    first = {"caption": "Start", "chapters": [{"file": toc["root"]}]}
    parts = toc.get("parts") or [{"caption": "Chapters", "chapters": toc["chapters"]}]
    for part in [first, *parts]:
        lines += ["", f"## {part['caption']}", ""]
        for file in (each["file"] for each in part["chapters"]):
            lines.append(f"- [{titles[file].astext()}]({file}.md): {about(out, file)}")
    (out / LIST).write_text("\n".join(lines) + "\n", encoding="utf-8")


def about(out: Path, page: str) -> str:
    """What a built page says of itself in its head."""
    head = (out / f"{page}.html").read_text(encoding="utf-8").partition("</head>")[0]
    found = re.search(r'<meta[^>]*name="description"[^>]*>', head)
    content = re.search(r'content="([^"]*)"', found[0]) if found else None
    return unescape(content[1]) if content else "no description"


def setup(app: Sphinx) -> dict[str, Any]:
    """Register it with Sphinx."""
    app.connect("html-page-context", write_twin, priority=900)
    app.connect("build-finished", write_list)
    return {"version": "1", "parallel_read_safe": True}
