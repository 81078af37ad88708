"""Marking submissions: honest ones get what they earn, malicious ones no point, and do no harm."""

import csv
import json
import os
import pickle
import re
import struct
import textwrap
from fractions import Fraction

import chapters
import grade
import nbformat
import numpy as np
import pandas as pd
import pytest
import teach
import torch
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook
from teaching import editions, examination, exchange, nbgrader, sandbox

needs_sandbox = pytest.mark.skipif(bool(sandbox.complaint()), reason=sandbox.complaint())
SETTINGS = examination.Settings(seconds=3, megabytes=200)


def _exercise(number, points, answer, check):
    title = f"{{exercise}} Code · level {points} · 5 min · {points} point{'s' * (points > 1)}"
    cells = [new_code_cell(answer), new_code_cell(check)] if check else [new_markdown_cell("So.")]
    for cell, tag in zip(cells, ("answer", "check"), strict=False):
        cell.metadata.tags = [tag]
    start, end = f"````{{solution-start}} ex-{number}\n````", "````{solution-end}\n````"
    question = f"```{title}\n:label: ex-{number}\nDo it.\n```\n\n{start}"
    return [new_markdown_cell(question), *cells, new_markdown_cell(end)]


SOLUTIONS = [
    ("total = sum(numbers)", "assert total == 5, 'Add!'"),
    ("def double(x):\n    return 2 * x", "assert double(4) == double(2) * 2 == 8"),
    ("squares = np.array(numbers) ** 2", "assert (squares > 3).all()"),
    ("", ""),
]
POINTS = {"10.1": 1, "10.2": 2, "10.3": 3, "10.4": 3}
PERFECT = {f"10.{place}": answer for place, (answer, _) in enumerate(SOLUTIONS, 1) if answer}
NBGRADER_KEYS = {"schema_version", "grade_id", "cell_type", "grade", "solution", "locked", "task"}
NOTHING = dict.fromkeys(POINTS, "not answered")
PASSED = NOTHING | dict.fromkeys(PERFECT, "passed")


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A book of one chapter."""
    root = tmp_path_factory.mktemp("book")
    (root / "notebooks").mkdir()
    (root / "book").mkdir()
    (root / "book/references.bib").touch()
    cells = [new_markdown_cell("# Sums"), new_code_cell("import numpy as np\nnumbers = [2, 3]")]
    cells[1].id = "the-numbers"
    for (number, points), solution in zip(POINTS.items(), SOLUTIONS, strict=True):
        cells += _exercise(number, points, *solution)
    nbformat.write(
        new_notebook(cells=cells, metadata=chapters.METADATA), root / "notebooks/10_sums.ipynb"
    )
    return root


@pytest.fixture(scope="module")
def edition(root):
    book = teach.chapters(root)
    return grade.material(book, teach.names(book, root))[10].edition


def _submit(path, edition, answers, change=None):
    """Write a submission with code in answer cells, then changed by a function."""
    notebook = nbformat.from_dict(json.loads(nbformat.writes(edition)))
    for number, code in answers.items():
        (cell,) = [c for c in notebook.cells if c.id == f"10-answer-{number.split('.')[1]}"]
        cell.source += textwrap.dedent(code)
    if change:
        change(notebook)
    path.parent.mkdir(exist_ok=True)
    nbformat.write(notebook, path)


# What a submission may try. None of it may harm anything, nor bring the point of 10.1.
ATTACKS = {
    "always-equal": "class Yes(int):\n    __eq__ = lambda *_: True\n    __hash__ = int.__hash__\n"
    "total = Yes(7)",
    "patches": """
        import builtins, json, sys
        builtins.AssertionError = type('Never', (BaseException,), {})
        builtins.sum = builtins.abs = lambda *_: 5
        json.dumps = lambda *_, **__: '{"total": 5}'
        sys.modules['teaching.examiner'].PASSED = 'failed'
        sys.modules['teaching.examiner']._examine = lambda *_: ('passed', '')
        total = 7""",
    "changes-the-question": "numbers[:] = [5]\nimport chapter\nchapter.numbers = [7]\ntotal = 7",
    "prints-a-mark": "print('10.1: right')\nprint('passed', flush=True)\ntotal = 7",
    "exits": "import sys\nsys.exit(0)",
    "dies": "import os\nos._exit(0)",
    "endless": "while True:\n    pass",
    "sleeps-in-a-message": "class Slow(Exception):\n    def __str__(self):\n        while True:\n"
    "            time.sleep(1)\nimport time\nraise Slow",
    "forks": "import os\nwhile True:\n    os.fork()",
    "runs-a-program": "import subprocess\nsubprocess.run(['touch', '{outside}/made'])",
    "kills": "import os, signal\nos.kill(os.getppid(), signal.SIGKILL)",
    "deletes": "import shutil\nshutil.rmtree('{book}')",
    "writes": "open('{book}/notebooks/10_sums.ipynb', 'w').write('{{}}')",
    "overwrites-marks": "open('{outside}/marks.csv', 'a').write('deletes,10.1,1,1,passed')",
    "reads-the-book": "text = open('{book}/notebooks/10_sums.ipynb').read()\ntotal = 5",
    "reads-another": "text = open('{folder}/perfect.ipynb').read()\ntotal = 5",
    "reads-memory": "import os\nopen(f'/proc/{{os.getppid()}}/mem', 'rb')\ntotal = 5",
    "calls-home": "import socket\nsocket.create_connection(('127.0.0.1', 9))\ntotal = 5",
    "eats-memory": "total = bytearray(1 << 30)",
    "fills-the-disk": "open('big', 'wb').write(bytes(100 << 20))\ntotal = 5",
    "forges-a-pickle": """
        import contextlib, gc, os, pickle
        from multiprocessing.connection import Connection
        class Bomb:
            def __reduce__(self):
                return os.system, ("touch {outside}/made",)
        for thing in gc.get_objects():
            if isinstance(thing, Connection) and not thing.closed:
                with contextlib.suppress(OSError):
                    thing.send_bytes(b'+' + pickle.dumps(Bomb()))
                    thing.send(Bomb())""",
    "forges-a-verdict": """
        import contextlib, gc, sys
        from multiprocessing.connection import Connection
        examiner = sys.modules['teaching.examiner']
        for thing in gc.get_objects():
            if isinstance(thing, Connection) and not thing.closed:
                with contextlib.suppress(OSError):
                    for verdict in (examiner.Verdict('passed'), examiner.End(None)) * 5:
                        thing.send(verdict)""",
}
# Nothing to be seen: the result is wrong or takes too long, and that is all
UNSEEN = {"prints-a-mark", "endless", "eats-memory", "sleeps-in-a-message"}
# These have spoilt for themselves what their next answer needs
SPOILT = {"patches", "changes-the-question", "forges-a-pickle", "forges-a-verdict"}


def _fake(notebook):
    """Change the chapter and its check."""
    for cell in notebook.cells:
        if cell.id == "the-numbers":
            cell.source = "numbers = [7]\ndef check(*_, **__):\n    return 'passed'"
        if cell.id == "10-check-1":
            cell.source = "check = print\ncheck('10.1: right')\nassert True"


def _hand_over(notebook):
    """Give the result of another name to the check, and answer a question in text."""
    for place, cell in reversed(list(enumerate(notebook.cells))):
        if cell.id == "10-check-1":
            cell.source = 'check("10.1", total=mine)'
            notebook.cells.insert(place, new_code_cell("%time\nmine = 2 + helper"))
        if cell.id == "10-answer-4":
            notebook.cells.insert(place + 1, new_markdown_cell("Because it is so."))


def _nameless(notebook):
    """As a program writes a notebook that knows no names of cells."""
    for cell in notebook.cells:
        del cell["id"]
    notebook.nbformat_minor = 4


BOX = """
import dataclasses
@dataclasses.dataclass
class Box:
    side: int
squares = Box(4)"""
OTHERS = {
    "empty": ({}, None),
    "perfect": (PERFECT, None),
    "nameless": (PERFECT, _nameless),
    "faked": ({"10.1": "total = 7"}, _fake),
    "handed-over": ({"10.1": "helper = 3"}, _hand_over),
    "group/wrong": ({"10.1": "total = 7", "10.3": "raise ValueError('<script>')"}, None),
    "endless": (PERFECT | {"10.2": "import time\nwhile True:\n    time.sleep(1)"}, None),
    "late": (PERFECT | {"10.2": "import time\ndouble = lambda x: time.sleep(99)"}, None),
    "raises": ({"10.2": "def double(x):\n    return x / 0"}, None),
    "own-class": ({"10.1": "class Sum:\n    pass\ntotal = Sum()", "10.2": "double = 8"}, None),
    "own-dataclass": ({"10.3": BOX}, None),
    "lies": (
        {"10.2": "class Yes(int):\n    __eq__ = bool\ndef double(x):\n    return Yes(x)"},
        None,
    ),
    "hollow": ({"10.3": "squares = np.zeros(0)"}, None),
}


@pytest.fixture(scope="module")
def graded(root, edition, tmp_path_factory):
    """A folder with all kinds of submissions, marked once: the results' folder, and the marks."""
    folder, output = tmp_path_factory.mktemp("submissions"), tmp_path_factory.mktemp("marks")
    outside = tmp_path_factory.mktemp("outside")
    for name, (answers, change) in OTHERS.items():
        _submit(folder / f"{name}.ipynb", edition, answers, change)
    for name, code in ATTACKS.items():
        code = textwrap.dedent(code).replace("{book}", str(root)).replace("{folder}", str(folder))
        code = code.replace("{outside}", str(outside)).replace("{{", "{").replace("}}", "}")
        _submit(folder / f"attack-{name}.ipynb", edition, {"10.1": code, "10.3": PERFECT["10.3"]})
    (folder / "=1+1.ipynb").write_text("[" * 100_000)
    (folder / "linked.ipynb").symlink_to(folder / "perfect.ipynb")
    os.mkfifo(folder / "pipe.ipynb")
    before = _state(root, folder, outside)
    found = grade.grade(folder, output, root, SETTINGS)
    assert _state(root, folder, outside) == before
    return output, found


def _state(*folders):
    return {p: p.read_bytes() for f in folders for p in f.rglob("*") if p.is_file()}


def _of(graded, name):
    return {mark.exercise: mark for mark in graded[1] if mark.submission == name}


def _statuses(graded, name):
    return {exercise: mark.status for exercise, mark in _of(graded, name).items()}


@needs_sandbox
@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("perfect", PASSED),
        ("nameless", PASSED),
        ("empty", NOTHING),
        ("group/wrong", NOTHING | {"10.1": "failed", "10.3": "error"}),
        ("faked", NOTHING | {"10.1": "failed"}),
        ("handed-over", NOTHING | {"10.1": "passed", "10.4": "by hand"}),
        ("endless", PASSED | {"10.2": "timed out"}),
        ("late", PASSED | {"10.2": "timed out"}),
        ("raises", NOTHING | {"10.2": "error"}),
        ("own-class", NOTHING | {"10.1": "by hand", "10.2": "error"}),
        ("own-dataclass", NOTHING | {"10.3": "by hand"}),
        ("lies", NOTHING | {"10.2": "failed"}),
        ("hollow", NOTHING | {"10.3": "by hand"}),
    ],
)
def test_submissions_get_what_they_earn(graded, name, expected):
    assert _statuses(graded, name) == expected
    points = {"passed": POINTS, "by hand": dict.fromkeys(POINTS)}
    for exercise, mark in _of(graded, name).items():
        assert mark.points == points.get(mark.status, dict.fromkeys(POINTS, 0))[exercise]


@needs_sandbox
@pytest.mark.parametrize("name", ATTACKS)
def test_attacks_bring_no_point_and_are_seen(graded, name):
    mark = _of(graded, f"attack-{name}")["10.1"]
    assert mark.status in ("failed", "error", "timed out")
    assert mark.points == 0
    assert bool(mark.look) == (name not in UNSEEN)


@needs_sandbox
@pytest.mark.parametrize("name", sorted(ATTACKS.keys() - SPOILT))
def test_what_follows_an_attack_is_still_judged(graded, name):
    assert _statuses(graded, f"attack-{name}")["10.3"] == "passed"


@needs_sandbox
def test_a_changed_chapter_is_told(graded):
    assert "the chapter's cell the-numbers was changed" in _of(graded, "faked")["10.1"].look
    assert not any(mark.look for mark in _of(graded, "perfect").values())


@needs_sandbox
def test_table_of_marks(graded):
    output, found = graded
    with (output / "marks.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(found) == 4 * (len(OTHERS) + len(ATTACKS)) + 3
    perfect = [row for row in rows if row["submission"] == "perfect"]
    assert [row["points"] for row in perfect] == ["1", "2", "3", "0"]
    assert [row["of"] for row in perfect] == ["1", "2", "3", "3"]
    (by_hand,) = [r for r in rows if (r["submission"], r["exercise"]) == ("handed-over", "10.4")]
    assert by_hand["points"] == ""
    files = {row["submission"]: row["message"] for row in rows if not row["exercise"]}
    assert files.keys() == {"'=1+1", "linked", "pipe"}
    assert "no notebook" in files["'=1+1"]


@needs_sandbox
def test_pages_for_students(graded):
    output, found = graded
    pages = {path.stem: path.read_text(encoding="utf-8") for path in output.glob("*.html")}
    assert len(pages) == len({mark.submission for mark in found})
    for page in pages.values():
        assert 'name="viewport"' in page
        assert "color-scheme: light dark" in page
        assert not re.search(r"<script|<link|<img|https?:|url\(", page)
    assert "<strong>6 of 9 points</strong>." in pages["perfect"]
    assert (
        "<strong>1 of 9 points</strong>, and 3 more to be marked by hand." in pages["handed-over"]
    )
    assert "&lt;script&gt;" in pages["group_wrong"]
    assert not any("was changed" in page or "imports" in page for page in pages.values())


def test_no_code_is_run_where_it_cannot_be_shut_in(monkeypatch, root, edition, tmp_path):
    _submit(tmp_path / "in/perfect.ipynb", edition, PERFECT)
    monkeypatch.setattr(sandbox.sys, "platform", "win32")
    with pytest.raises(examination.ExaminationError, match="on Linux only"):
        grade.grade(tmp_path / "in", tmp_path / "out", root)


def test_results_do_not_replace_anything_else(root, tmp_path):
    (tmp_path / "thesis.odt").touch()
    with pytest.raises(grade.GradeError, match="something else than marks"):
        grade.grade(tmp_path, tmp_path, root)
    assert (tmp_path / "thesis.odt").exists()


@needs_sandbox
def test_a_chapter_that_does_not_run_is_named(root):
    broken = examination.Examination(["1 / 0"], root, SETTINGS)
    with pytest.raises(examination.ExaminationError, match="ZeroDivisionError"), broken:
        pass


def test_the_command_line_says_what_is_wrong(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr("sys.argv", ["grade.py", str(tmp_path / "none"), "--output", str(tmp_path)])
    assert grade.main() == 1
    assert "none is no folder" in capsys.readouterr().err


# For those who mark with nbgrader


def test_source_version_for_nbgrader(root, edition):
    (chapter,) = teach.chapters(root)
    checks = editions.checks(chapter)
    notebook = nbgrader.source_version(chapter, edition, checks)
    nbformat.validate(notebook)
    cells = {c.metadata.nbgrader.grade_id: c for c in notebook.cells if "nbgrader" in c.metadata}
    assert sum(c.metadata.nbgrader.get("points", 0) for c in cells.values()) == sum(POINTS.values())
    for cell in cells.values():
        mark = cell.metadata.nbgrader
        assert mark.keys() - {"points"} == NBGRADER_KEYS
        assert (mark.schema_version, mark.cell_type, mark.task) == (3, "code", False)
        assert ("points" in mark) == mark.grade
        assert mark.locked == (not mark.solution)
        assert ("### BEGIN SOLUTION\n" in cell.source) == mark.solution
        assert ("### BEGIN HIDDEN TESTS\n" in cell.source) == (mark.grade and not mark.solution)
    code = "\n".join(c.source for c in notebook.cells if c.cell_type == "code")
    exec(code, {})  # the book's answers pass; nothing calls what is not there
    assert code.count("assert") == len(PERFECT)


# Results as data

TABLE = pd.DataFrame({"a": [1, 2], "b": ["x", "y"]}, index=pd.Index([3, 4], name="n"))


def _same(value):
    return exchange.unpack(exchange.pack(value, lambda _: 0), lambda number: number)


@pytest.mark.parametrize(
    "value",
    [
        *(None, True, 3, -(10**30), 2.5, float("inf"), 1j, "é\ud800", b"\0", ..., Fraction(1, 3)),
        *([1, (2, {3})], {(1, "a"): [None]}, range(1, 9, 2), frozenset({1})),
        *(np.float32(0.1), np.int64(7)),
    ],
)
def test_data_comes_through(value):
    result = _same(value)
    assert type(result) is type(value)
    assert result == value


def test_arrays_and_tables_come_through():
    for array in (np.eye(3)[:, ::2], np.array([[True]]), np.zeros((0, 2)), np.array(["a", None])):
        assert _same(array).dtype == array.dtype
        np.testing.assert_array_equal(_same(array), array)
    pd.testing.assert_frame_equal(_same(TABLE), TABLE)
    pd.testing.assert_series_equal(_same(TABLE["a"]), TABLE["a"])
    pd.testing.assert_index_equal(
        _same(TABLE.set_index("b", append=True).index), TABLE.set_index("b", append=True).index
    )


def test_tensors_and_layers_come_through():
    network = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3, padding=1), torch.nn.ReLU()).double()
    x = torch.rand(2, 1, 4, 4).double()
    assert torch.equal(_same(network)(x), network(x))
    for tensor in (x.transpose(1, 3), torch.zeros(0, 3), torch.tensor(True), torch.tensor(1j)):
        assert torch.equal(_same(tensor), tensor)
        assert _same(tensor).dtype == tensor.dtype


def test_subclasses_come_through_without_their_code():
    class Yes(int):
        __eq__ = bool
        __hash__ = int.__hash__

    assert type(_same(Yes(7))) is int
    assert _same(Yes(7)) != 5


class Own:
    pass


@pytest.mark.parametrize(
    "value", [Own(), Own, [Own()], {"a": Own()}, type("Net", (torch.nn.Module,), {})()]
)
def test_other_objects_are_refused(value):
    with pytest.raises(exchange.NotDataError, match="a result of the kind"):
        _same(value)


@pytest.mark.parametrize(
    "tree",
    [
        ["object", "subprocess", "Popen", ["dict", [["args", "true"]]]],
        ["object", "torch.nn.modules.module", "torch.serialization.load", ["dict", []]],
        ["object", "teaching.sandbox", "Limits", ["dict", []]],
        ["array", "|O", [1], 0, False],
        ["array", "<f8", [10**9], 0, False],
        ["tensor", "torch.float32", [3], ["bytes", 0], False],
        ["tensor", "torch.float32", [-1, -1], ["bytes", 0], False],
        ["torch", "ops"],
        ["bytes", 7],
        ["set", [["list", []]]],
        ["no such kind"],
        [],
    ],
)
def test_what_pack_does_not_write_is_refused(tree):
    text = json.dumps(tree).encode()
    data = struct.pack("<3Q", 1, len(text), 4) + text + b"1234"
    with pytest.raises(ValueError, match="what came is no result"):
        exchange.unpack(data, lambda number: number)


def test_objects_of_unknown_classes_are_told_apart():
    text = json.dumps(["object", exchange.CHAPTER, "Net", ["dict", []]]).encode()
    data = struct.pack("<2Q", 0, len(text)) + text
    with pytest.raises(exchange.NotDataError, match="kind Net, which the book does not know"):
        exchange.unpack(data, lambda number: number)


def test_pickles_are_not_read():
    for data in (pickle.dumps(Own), b"", b"\xff" * 99):
        with pytest.raises(ValueError, match="what came is no result"):
            exchange.unpack(data, lambda number: number)
