"""HTML as Sphinx writes it, turned into Markdown that reads well as plain text.

Only what the pages of the book have is known: headings, paragraphs, lists, tables, code, formulas,
quotes, pictures and links. What only works on screen is left out.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from html.parser import HTMLParser

_EMPTY = {"area", "br", "col", "hr", "img", "input", "link", "meta", "source", "wbr"}
_LEFT_OUT = {"button", "canvas", "input", "label", "noscript", "script", "select", "style", "svg"}
_ON_SCREEN = {"headerlink", "fd-live", "fd-lens", "rx-controls", "ph-live"}
_BLOCKS = {
    *("address", "article", "aside", "blockquote", "dd", "details", "div", "dl", "dt"),
    *(
        "figcaption",
        "figure",
        "h1",
        "h2",
        "h3",
        "h4",
        "h5",
        "h6",
        "hr",
        "li",
        "main",
        "ol",
        "p",
        "pre",
    ),
    *("section", "summary", "table", "ul"),
}
_MARKS = {"em": "*", "i": "*", "cite": "*", "strong": "**", "b": "**"}


@dataclass
class Node:
    """An element with what it holds: elements and text."""

    tag: str
    attributes: dict[str, str] = field(default_factory=dict)
    children: list["Node | str"] = field(default_factory=list)
    is_block: bool = False  # it stands by itself, or holds something that does

    @property
    def classes(self) -> set[str]:
        """Its classes."""
        return set(self.attributes.get("class", "").split())

    @property
    def text(self) -> str:
        """All of its text, as it stands."""
        return "".join(each if isinstance(each, str) else each.text for each in self.children)

    def find(self, *tags: str) -> Iterator["Node"]:
        """The elements of some kinds inside it, not looking into those found."""
        for each in self.children:
            if isinstance(each, Node):
                if each.tag in tags:
                    yield each
                else:
                    yield from each.find(*tags)


class _Reader(HTMLParser):
    """Builds the tree. An end tag without a start is passed over."""

    def __init__(self) -> None:
        super().__init__()
        self.open = [Node("main")]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        node = Node(tag, {name: value or "" for name, value in attrs})
        self.open[-1].children.append(node)
        if tag not in _EMPTY:
            self.open.append(node)
        if tag in _BLOCKS:
            for around in [node, *self.open]:
                around.is_block = True

    def handle_endtag(self, tag: str) -> None:
        if tag in (node.tag for node in self.open[1:]):
            while self.open.pop().tag != tag:
                pass

    def handle_data(self, data: str) -> None:
        self.open[-1].children.append(data)


def to_markdown(html: str, address: Callable[[str], str] = str) -> str:
    """A piece of HTML as Markdown.

    Args:
        html: The piece.
        address: What a link's address becomes; where it is empty, the words stay alone.
    """
    reader = _Reader()
    reader.feed(html)
    reader.close()
    return "\n\n".join(_Writer(address).blocks(reader.open[0])) + "\n"


@dataclass
class _Writer:
    address: Callable[[str], str]

    def blocks(self, node: Node) -> list[str]:
        """The blocks inside an element; text that stands between them is a paragraph."""
        found: list[str] = []
        line: list[Node | str] = []
        for each in [*node.children, Node("hr", is_block=True)]:
            if isinstance(each, str) or not each.is_block:
                line.append(each)
                continue
            found += filter(None, [self.line(Node("p", {}, line))])
            line = []
            found += filter(None, self.block(each))
        return found

    def block(self, node: Node) -> list[str]:
        """An element that stands by itself, as blocks."""
        if node.tag == "hr" or _is_left_out(node):
            return []
        if re.fullmatch(r"h[1-6]", node.tag):
            return [f"{'#' * int(node.tag[1])} {self.line(node)}"]
        if node.tag == "pre" or any(name.startswith("highlight-") for name in node.classes):
            return [_fenced(node)]
        if "math" in node.classes:
            return [_formula(node)]
        if node.tag in ("p", "dt", "summary", "figcaption"):
            return [self.definition(node) if node.tag in ("dt", "summary") else self.line(node)]
        if node.tag in ("ul", "ol"):
            return ["\n".join(self.items(node))]
        if node.tag == "dd":
            return [_indented("\n\n".join(self.blocks(node)), "  ")]
        if node.tag == "table":
            return [self.table(node)]
        if node.tag == "blockquote" or "admonition" in node.classes:
            return [_indented("\n\n".join(self.blocks(node)), "> ")]
        return self.blocks(node)

    def definition(self, node: Node) -> str:
        """A term that is explained, in bold; the head of a function as code."""
        if "sig" in node.classes:
            return f"- `{' '.join(node.text.replace('#', '').split())}`"
        words = self.line(node)
        return f"**{words}**" if words and "*" not in words else words

    def items(self, node: Node) -> Iterator[str]:
        """The items of a list."""
        for number, item in enumerate(node.find("li"), int(node.attributes.get("start") or 1)):
            mark = f"{number}. " if node.tag == "ol" else "- "
            text = _indented("\n".join(self.blocks(item)), " " * len(mark))
            yield mark + text.lstrip()

    def table(self, node: Node) -> str:
        """A table with its first row as the head."""
        rows = [
            [self.cell(cell) for cell in row.find("td", "th") for _ in range(_span(cell))]
            for row in node.find("tr")
        ]
        width = max(map(len, rows), default=0)
        lines = ["| " + " | ".join(row + [""] * (width - len(row))) + " |" for row in rows]
        return "\n".join([*lines[:1], "|" + "---|" * width, *lines[1:]])

    def cell(self, node: Node) -> str:
        """What stands in a cell, on one line."""
        return " ".join(" ".join(self.blocks(node)).split()).replace("|", r"\|")

    def line(self, node: Node) -> str:
        """The text of an element on one line."""
        words = "".join(map(self.words, node.children))
        return "\n".join(" ".join(part.split()) for part in words.split("\0")).strip()

    def words(self, node: Node | str) -> str:
        """A piece of a line."""
        if isinstance(node, str):
            return node
        if _is_left_out(node):
            return ""
        if node.tag == "br":
            return "\0"
        if node.tag == "img":
            return f" [Picture: {node.attributes.get('alt') or 'without words'}] "
        if "math" in node.classes:
            return f"${node.text.strip().removeprefix(chr(92) + '(').removesuffix(chr(92) + ')')}$"
        if node.tag == "code":
            return f"`{node.text}`"
        inside = "".join(map(self.words, node.children))
        address = self.address(node.attributes.get("href", "")) if node.tag == "a" else ""
        if address and inside.strip():
            return f"[{inside.strip()}]({address})"
        mark = _MARKS.get(node.tag, "") if re.search(r"\w", inside) else ""
        return f"{mark}{inside}{mark}"


def _is_left_out(node: Node) -> bool:
    return node.tag in _LEFT_OUT or bool(node.classes & _ON_SCREEN)


def _fenced(node: Node) -> str:
    named = [name.removeprefix("highlight-") for name in node.classes if name[:10] == "highlight-"]
    language = "" if not named or named[0] in ("default", "none") else named[0]
    code = node.text.strip("\n")
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", code)), default=0))
    return f"{fence}{language}\n{code}\n{fence}"


def _formula(node: Node) -> str:
    number = re.search(r"\((\d+)\)", next((n.text for n in node.find("span")), ""))
    tex = re.search(r"\\\[(.*)\\\]", node.text, re.DOTALL)
    tag = f" \\tag{{{number[1]}}}" if number else ""
    return f"$$\n{tex[1].strip() if tex else node.text.strip()}{tag}\n$$"


def _span(cell: Node) -> int:
    return int(cell.attributes.get("colspan") or 1)


def _indented(text: str, by: str) -> str:
    return "\n".join((by + line).rstrip() for line in text.split("\n"))
