"""The code in the README runs as it stands, and prints what a reader expects."""

import re
from pathlib import Path

import matplotlib.pyplot as plt
import pytest
import torch

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
    for block in BLOCKS:
        exec(block, namespace)
    words, *measured = capsys.readouterr().out.splitlines()
    assert words.startswith("image 1, picture and maps.")
    assert [line.split(":")[0] for line in measured] == list(namespace["maps"])
    assert all(", ahead of a borrowed map by " in line for line in measured)
    assert len(namespace["photos"].images) == len(namespace["morf"]["LRP"].scores)
    own, borrowed = (namespace["area"][name] for name in ("LRP", "LRP, borrowed"))
    assert all(evaluation.bootstrap(found).low > 0 for found in (own, borrowed))
    lead = evaluation.bootstrap(own - borrowed)
    assert lead.low < 0 < lead.high


def test_a_borrowed_map_is_that_of_another_picture(namespace):
    """Each picture's own map stands at the next picture, and none at its own."""
    heat = torch.arange(3.0)
    line = next(line for line in BLOCKS[1].splitlines() if line.startswith("borrowed"))
    exec(line, namespace | {"maps": {"LRP": heat}}, found := {})
    assert found["borrowed"]["LRP, borrowed"].tolist() == [2, 0, 1]


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


def test_commands_for_a_class_without_a_network_are_whole():
    """No dots to be filled in, the project itself among the wheels, and what builds it."""
    page = (README.parent / "book/how_to_use.md").read_text(encoding="utf-8")
    commands = "".join(page.split("## Teach from it")[1].split("```")[1::2])
    assert "..." not in commands
    assert "pip wheel --no-deps -w wheels ." in commands
    assert "--no-index --find-links wheels" in commands
