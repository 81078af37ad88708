"""Whoever's licence asks for it is named in every chapter that shows the photograph."""

import chapters
import nbformat
import pytest

from xaiutils import data


@pytest.mark.parametrize("path", chapters.paths(), ids=lambda path: path.stem)
def test_photographers_are_named_where_their_photographs_are_shown(path):
    cells = nbformat.read(path, as_version=4).cells
    shows = any("photos(" in cell.source for cell in cells if cell.cell_type == "code")
    text = "\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
    owed = [c for c in data.photos().credits if c.licence.startswith("CC BY")]
    assert len(owed) == 2
    for credit in owed if shows else ():
        assert credit.author.split(",")[0] in text
        assert credit.licence in text
