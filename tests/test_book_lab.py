"""A chapter in a live JupyterLab: theorems, boxes, exercises and citations, not their source."""

import re
from pathlib import Path

import jupyter_lab
import pytest

CHAPTER = Path(__file__).parents[1] / "notebooks/41_region_perturbation.ipynb"
SOURCE = re.compile(
    r"```|:::|^:\w+:|\{(prf|cite|eq|numref|ref|doc|admonition|exercise|solution|term)\b", re.M
)


@pytest.fixture(scope="module")
def texts(browser, lab):
    """What a reader sees of each cell of text."""
    pytest.importorskip("jupyterlab_myst", reason="it comes with the extra `book`")
    with lab.chapter(browser, CHAPTER) as page:
        page.set_default_timeout(300_000)
        return page.evaluate(jupyter_lab.TEXTS)


def test_no_source_is_shown(texts):
    shown = {found.group(): text for text in texts for found in SOURCE.finditer(text)}
    assert len(texts) > 20
    assert not shown


@pytest.mark.parametrize(
    "words",
    [
        "Definition 1 (Orders)",
        "Theorem 1 (What AOPC rewards on an additive network)",
        "Proof 1",
        "What the paper says",
        "What we measured",
        "Exercise 1",
        "Solution to Exercise\u00a01",
    ],
)
def test_theorems_boxes_and_exercises_are_shown(texts, words):
    assert any(words in text for text in texts)


def test_formulas_are_set_and_equations_numbered(texts):
    derivation = next(text for text in texts if "Theorem 1" in text)
    assert "\\frac" not in derivation.replace("$", "")
    assert "(1)" in derivation


def test_a_citation_shows_its_key(texts):
    """The extension reads no bibliography; the key tells first author, year and first word."""
    references = next(text for text in texts if text.startswith("References"))
    assert "samek2017evaluating" in references
    assert "`" not in references
