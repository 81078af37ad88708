"""The code in the README runs as it stands, and prints what a reader expects."""

import re
from pathlib import Path

import matplotlib.pyplot as plt
import pytest

from xaiutils import data, evaluation

README = Path(__file__).parents[1] / "README.md"
BLOCKS = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)


@pytest.fixture
def namespace(monkeypatch):
    monkeypatch.setenv("XAIUTILS_OFFLINE", "1")
    yield {}
    plt.close("all")


def test_the_code_in_the_readme_runs(namespace, capsys):
    assert len(BLOCKS) == 2
    exec(BLOCKS[0], namespace)
    with pytest.warns(evaluation.FewImagesWarning, match="6 images are few"):
        exec(BLOCKS[1], namespace)
    printed = capsys.readouterr().out
    assert printed.startswith("image 1, picture and maps.")
    lead = namespace["lead"].loc["LRP"]
    assert f"{lead['gain']:.2f}" in printed
    assert list(namespace["lead"].index) == list(namespace["maps"])
    assert lead["value"] > 0
    assert 0.35 < lead["control_value"] / lead["value"] < 0.65, "about half as much"
    assert lead["gain_low"] < 0 < lead["gain_high"]


def test_photographs_of_the_overview_are_credited():
    """Those under a licence that asks for it, wherever the README shows them."""
    credit = {found.name: found for found in data.photos().credits}["china"]
    caption = README.read_text(encoding="utf-8").split("overview.png")[1].split("##")[0]
    name, address = credit.author.split(", ")
    assert name in caption
    assert address in caption
    assert credit.licence in caption


def test_all_photographs_are_credited_on_a_page():
    page = (README.parent / "book/how_to_use.md").read_text(encoding="utf-8")
    table = page.split("## Photographs")[1]
    for credit in data.photos().credits:
        row = next(line for line in table.splitlines() if line.startswith(f"| {credit.name} |"))
        assert credit.licence in row
        assert credit.author.split(", flickr")[0] in row
