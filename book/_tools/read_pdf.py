"""Read as much of a PDF by Chromium as the checks of printed.py need.

Chromium writes its objects one after the other and packs none of them, so that a few patterns find
them. A PDF of another origin may have none of this.
"""

import re
import zlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

_STREAM = re.compile(rb" stream\r?\n.*?\r?\nendstream", re.DOTALL)
_CONTENT = re.compile(rb"\n(\d+) 0 obj\n<</Filter /FlateDecode\n/Length (\d+)>> stream\n")
_PAGE = re.compile(r"\n(\d+) 0 obj\n<</Type /Page\n(.*?)\nendobj", re.DOTALL)
_STRING = r"(\((?:\\.|[^\\)])*\)|<[0-9A-F]*>)"
_ENTRY = re.compile(rf"<</Title {_STRING}\n/Dest \[(\d+) 0 R")
_PLACE = re.compile(r"/(\S+) \[(\d+) 0 R /XYZ")
_LINK = re.compile(r"/Subtype /Link\n(?:(?!endobj).)*?/Dest /(\S+)", re.DOTALL)
_WIDE_FONT = re.compile(r"\n(\d+) 0 obj\n<</Type /Font\n/Subtype /Type0\n")
_WRITTEN = re.compile(rb"/F(\d+) [-.\d]+ Tf|<([0-9A-F]+)> Tj")
_SHOWN = re.compile(rb"<(\w+)> Tj| Do\b")


@dataclass(frozen=True)
class Pdf:
    """A PDF by Chromium.

    Attributes:
        data: Its bytes.
    """

    data: bytes

    @classmethod
    def read(cls, path: Path) -> "Pdf":
        """Read a file."""
        return cls(path.read_bytes())

    @cached_property
    def _objects(self) -> str:
        return _STREAM.sub(b"", self.data).decode("latin-1")

    @cached_property
    def _pages(self) -> dict[str, int]:
        """The number of each page, from 1, by its object."""
        return {found[1]: i for i, found in enumerate(_PAGE.finditer(self._objects), 1)}

    def __len__(self) -> int:
        """How many pages there are."""
        return len(self._pages)

    @cached_property
    def outline(self) -> dict[str, int]:
        """The page of each bookmark, by its words; of several with the same the first."""
        found: dict[str, int] = {}
        for entry in _ENTRY.finditer(self._objects):
            found.setdefault(_text(entry[1]), self._pages[entry[2]])
        return found

    @cached_property
    def places(self) -> dict[str, int]:
        """The page of each anchor that something links to, by its name."""
        dests = re.search(r"\n\d+ 0 obj\n<<(/\S+ \[\d+ 0 R /XYZ.*?)>>\nendobj", self._objects, re.S)
        found = _PLACE.findall(dests[1]) if dests else []
        return {_name(name): self._pages[page] for name, page in found}

    @cached_property
    def links(self) -> list[str]:
        """The anchors that the links inside the document name."""
        return [_name(name) for name in _LINK.findall(self._objects)]

    @cached_property
    def pictures(self) -> int:
        """How many different pictures it holds, masks not counted."""
        return self._objects.count("/Subtype /Image\n") - self._objects.count("/SMask ")

    @cached_property
    def _contents(self) -> list[bytes]:
        """What is drawn on each page."""
        packed = {
            found[1].decode(): self.data[found.end() : found.end() + int(found[2])]
            for found in _CONTENT.finditer(self.data)
        }
        pages = (page[2] for page in _PAGE.finditer(self._objects))
        drawn = [re.search(r"/Contents (\d+) 0 R", page) for page in pages]
        return [zlib.decompress(packed[found[1]]) if found else b"" for found in drawn]

    def missing(self) -> dict[int, int]:
        """How many characters without a glyph in any font stand on which page, where there are."""
        wide = set(_WIDE_FONT.findall(self._objects))
        found = {i: _without_glyph(c, wide) for i, c in enumerate(self._contents, 1)}
        return {number: missing for number, missing in found.items() if missing}

    def bare(self, fewest: int) -> list[int]:
        """The pages on which fewer than so many pieces of text and pictures stand."""
        shown = [len(_SHOWN.findall(content)) for content in self._contents]
        return [number for number, pieces in enumerate(shown, 1) if pieces < fewest]


def _text(string: str) -> str:
    """The words of a PDF's string."""
    if string.startswith("<"):
        return bytes.fromhex(string[1:-1]).decode("utf-16")
    return re.sub(r"\\(\d{3}|.)", lambda m: _unescaped(m[1]), string[1:-1])


def _unescaped(sign: str) -> str:
    return chr(int(sign, 8)) if sign.isdigit() else sign


def _name(name: str) -> str:
    """A PDF's name without its escapes."""
    return re.sub(r"#([0-9A-Fa-f]{2})", lambda m: chr(int(m[1], 16)), name)


def _without_glyph(content: bytes, wide: set[str]) -> int:
    """How often what is drawn shows glyph 0, of fonts with two bytes a glyph or with one."""
    digits, count = 4, 0
    for font, glyphs in _WRITTEN.findall(content):
        if font:
            digits = 4 if font.decode() in wide else 2
        pieces = [glyphs[i : i + digits] for i in range(0, len(glyphs), digits)]
        count += pieces.count(b"0" * digits)
    return count
