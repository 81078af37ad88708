"""The engine of the long runs: what a command need not think of."""

import argparse
import json
import pickle
import sys

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file, save_file

from xaiutils.reproduce import _dask, _long_run
from xaiutils.reproduce.__main__ import parser

LONG = (
    "ceiling", "choices", "class-blindness", "complexity", "controls", "dmbp search",
    "dmbp separation", "grad-lam", "grad-lam-matched", "measure",
)  # fmt: skip


def prepare(options):
    """The squares of the numbers from 0 to 9, in blocks of four."""
    plan = {"power": options.power, "numbers": (0, 10)}

    def compute(block):
        if options.power == 0:
            raise ArithmeticError("no power")
        return {"powers": torch.tensor([float(n) ** options.power for n in block])}

    return _long_run.over_images(plan, range(10), 4, compute, base="ten")


def write(options, found):
    pd.DataFrame({"power": found["powers"].numpy()}).to_csv(f"{options.out}.csv", index=False)
    return {"sum": found["powers"].sum().item()}


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.setattr(
        sys, "argv", ["xaiutils.reproduce", "powers", "--power=2", "--shard", "1/2"]
    )

    def run(*typed):
        command = argparse.ArgumentParser()
        command.add_argument("--power", type=int, default=2)
        command.add_argument("--add", action="store_true")
        _long_run.add_options(command, prepare, write)
        places = [f"--work={tmp_path / 'work'}", f"--out={tmp_path / 'table'}"]
        options = command.parse_args([*places, *typed])
        return options.run(options)

    return run


def record(folder):
    return json.loads((folder / "table.json").read_text())


def test_the_record_says_what_there_is_to_say(run, tmp_path):
    assert run() == 0
    found = record(tmp_path)
    assert (found["power"], found["base"], found["sum"]) == (2, "ten", 285)
    assert found["command"] == "python -m xaiutils.reproduce powers --power=2"
    assert found["computed_with"].endswith("cpu")
    assert "measured" not in found
    assert found["cpu_seconds"] >= 0
    assert pd.read_csv(tmp_path / "table.csv")["power"].tolist() == [n**2 for n in range(10)]


def test_shards_leave_no_tables_and_together_are_the_whole(run, tmp_path):
    run("--shard=1/2")
    run("--shard=4/4")  # of three blocks: nothing is left for it
    assert not list(tmp_path.glob("table*"))
    run("--there")
    assert record(tmp_path)["measured"] == [0, 1, 2, 3, 8, 9]
    run("--shard=2/2")
    run("--there")
    assert "measured" not in record(tmp_path)
    assert record(tmp_path)["sum"] == 285


def test_what_an_error_stopped_goes_on(run, tmp_path):
    run("--shard=1/3")
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "work").glob("*.safetensors")}
    assert len(kept) == 1
    run()
    assert all(path.stat().st_mtime_ns == written for path, written in kept.items())


def test_an_error_leaves_neither_block_nor_table(run, tmp_path):
    with pytest.raises(ArithmeticError):
        run("--power=0")
    assert not list(tmp_path.glob("**/*.safetensors"))
    assert not list(tmp_path.glob("table*"))


def test_what_does_not_fit_is_refused(run, tmp_path):
    with pytest.raises(SystemExit, match="no block is in"):
        run("--there")
    run("--shard=1/3")
    for ways in ([], ["--there"]):
        with pytest.raises(SystemExit, match="its power is 2, this one's 3"):
            run("--power=3", *ways)


def test_blocks_without_notes_have_a_place_and_no_cost(run, tmp_path):
    run()
    wanted, first = record(tmp_path), tmp_path / "work/images-000000.safetensors"
    save_file(load_file(first), first)  # as they were before blocks had notes
    run("--there")
    found = record(tmp_path)
    assert found == {name: value for name, value in wanted.items() if name != "cpu_seconds"}


def test_tables_of_what_is_there_need_nothing_that_computes_it(run, tmp_path, monkeypatch):
    run()
    before, compute = record(tmp_path), _long_run.over_images

    def never():
        raise AssertionError("made, though nothing is computed")

    def over_images(plan, numbers, size, _, **facts):
        return compute(plan, numbers, size, _long_run.lazily(never), **facts)

    monkeypatch.setattr(_long_run, "over_images", over_images)
    run("--there")
    run()
    assert record(tmp_path) == before


def test_what_computes_is_made_once():
    made = []
    compute = _long_run.lazily(lambda: made.append(1) or (lambda block: {"sum": sum(block)}))
    assert not made
    assert [compute(range(n))["sum"] for n in (3, 4)] == [3, 6]
    assert made == [1]


def test_added_records_stand_below_the_first(run, tmp_path):
    run()
    first = record(tmp_path)
    run("--add", "--there")
    assert record(tmp_path) == first | {"added": [first]}


def test_workers_compute_what_this_process_would(run, tmp_path, monkeypatch):
    def cluster(address, function, tasks):
        there = pickle.loads(pickle.dumps(function))
        return (there(task) for task in reversed(tasks))

    monkeypatch.setattr(_dask, "results", cluster)
    run("--dask=tcp://somewhere")
    assert record(tmp_path)["sum"] == 285


def test_a_worker_that_read_something_else_is_refused():
    given = pickle.dumps({"power": 2})
    with pytest.raises(RuntimeError, match="not what was asked for"):
        _long_run._on_worker(prepare, given, {"power": 3, "numbers": [0, 10]}, "images-000000")


@pytest.mark.parametrize("command", LONG)
def test_every_long_command_can_be_shared_out(command, capsys):
    with pytest.raises(SystemExit):
        parser().parse_args([*command.split(), "--help"])
    said = capsys.readouterr().out
    for option in ("--work", "--out", "--shard", "--dask", "--there"):
        assert option in said
