"""The code on the page about accounts that do not add up runs, from the top down."""

import re
import warnings
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[1] / "book/account.md"
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)


@pytest.fixture(scope="module")
def namespace():
    """What all blocks have defined, each run after the one before."""
    found = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XAIUTILS_OFFLINE", "1")
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # a page that warns of itself would puzzle its readers
            for block in BLOCKS:
                exec(block, found)
    return found


def test_every_symptom_has_code(namespace):
    titles = re.split(r"^## ", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:-1]
    assert [title for title in titles if "```python" not in title] == []


def test_what_the_page_says_of_the_examples_holds(namespace):
    report, of_probability = namespace["report"], namespace["of_probability"]
    assert max(namespace["kept"], key=namespace["kept"].get) == "remainder"
    assert (abs(namespace["class_token"]) < abs(namespace["positions"])).float().mean() > 0.5
    assert of_probability.remainder.sum() > 0.8 * of_probability.start.sum()
    assert report.relative_gap.max() < 1e-4
    assert namespace["of_pairs"].dead.abs().sum() > 0


def test_an_explosion_is_seen_in_the_column_named(namespace):
    assert namespace["loud"].to_frame(namespace["worst"])["gain"].max() > 10
