"""The code in the README runs as it stands, and prints what a reader expects."""

import re
from pathlib import Path

import matplotlib.pyplot as plt
import pytest

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
    assert [line.rsplit(" ", 3)[0] for line in measured] == list(namespace["maps"])
    assert len(namespace["photos"].images) == len(namespace["morf"]["LRP"].scores)
