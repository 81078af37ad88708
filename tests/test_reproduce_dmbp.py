"""The comparison of DMBP's objectives: resumable, refused early, and what its tables hold."""

import json

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from xaiutils import attribution, data, models
from xaiutils.reproduce import __main__ as command
from xaiutils.reproduce import _dmbp

SETTINGS = [
    "--model=mnist_cnn",
    "--images=2:7",
    "--candidates=greedy,purity_window",
    "--iterations=3",
    "--region-size=7",
    "--steps=5",
]


@pytest.fixture(autouse=True)
def digits(monkeypatch):
    """Embedded digits in the place of the photographs, which cannot be had everywhere."""
    images = data.mnist("test", source="embedded")
    monkeypatch.setattr(_dmbp.data, "imagenet_sample", lambda: images)


def run(folder, *more):
    places = [f"--work={folder / 'work'}", f"--out={folder / 'table'}"]
    return command.main(["dmbp", "search", *places, *SETTINGS, *more])


@pytest.fixture(scope="module")
def module():
    return models.load_classifier("mnist_cnn").module


def test_the_tables_hold_what_the_methods_give(tmp_path, module):
    assert run(tmp_path, "--stability") == 0
    x = data.mnist("test", source="embedded").images[2:7]
    options = {"iterations": 3, **_dmbp.CANDIDATES["purity_window"]}
    found = attribution.dmbp(module, x, None, **options)
    table = pd.read_csv(tmp_path / "table-measures.csv").set_index(["measure", "candidate", "map"])
    purity = _dmbp.qualities(found)["purity/positive"].mean().item()
    row = table.loc[("purity", "purity_window", "positive")]
    assert row["mean"] == pytest.approx(purity, rel=1e-3)
    assert row["images"] == 5
    area = {m: table.loc[(m, "greedy", "both"), "mean"] for m in ("abpc", "aopc_morf", "aopc_lerf")}
    assert area["abpc"] == pytest.approx(area["aopc_morf"] - area["aopc_lerf"], abs=1e-4)
    chance = table.loc[("aopc_random", "(none)", "map"), "mean"]
    gain = table.loc[("morf_minus_random", "greedy", "both"), "mean"]
    assert gain == pytest.approx(area["aopc_morf"] - chance, abs=1e-4)
    assert 0 < table.loc[("stability", "greedy", "positive"), "mean"] <= 1
    pairs = pd.read_csv(tmp_path / "table-comparisons.csv")
    assert not pairs[["first", "second"]].stack().str.endswith("/negative").any()
    record = json.loads((tmp_path / "table.json").read_text())
    assert record["iterations"] == 3
    assert str(tmp_path) not in json.dumps(record)


def test_a_run_goes_on_where_it_stopped(tmp_path):
    run(tmp_path)
    blocks = sorted((tmp_path / "work").glob("*.safetensors"))
    before = {path: load_file(path) for path in blocks}
    blocks[1].unlink()
    times = {path: path.stat().st_mtime_ns for path in blocks if path.exists()}
    run(tmp_path)
    assert all(path.stat().st_mtime_ns == time for path, time in times.items())
    again = load_file(blocks[1])
    for key, values in before[blocks[1]].items():
        torch.testing.assert_close(again[key], values, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("--candidates=greed", "greed"),
        ("--maps=negative,norm", "norm"),
        ("--images=3:4", "at least 2"),
        ("--iterations=0", "iterations"),
    ],
)
def test_bad_options_are_refused_before_the_folder_is_made(tmp_path, change, words):
    with pytest.raises(SystemExit, match=words):
        run(tmp_path, change)
    assert not (tmp_path / "work").exists()


def test_a_folder_of_another_run_is_refused(tmp_path):
    run(tmp_path, "--candidates=greedy")
    with pytest.raises(SystemExit, match="another run"):
        run(tmp_path, "--candidates=greedy", "--steps=4")


def test_the_account_of_an_output_closes_and_is_that_of_the_method(tmp_path, module):
    out = tmp_path / "account"
    command.main(["dmbp", "account", f"--out={out}", "--model=mnist_cnn", "--images=2:7"])
    table = pd.read_csv(tmp_path / "account-parts.csv").set_index("part")["mean"]
    x = data.mnist("test", source="embedded").images[2:7]
    found = attribution.dmbp(module, x, None, 0)
    assert table["biases"] == pytest.approx(found.bias.mean().item(), rel=1e-4)
    assert table["biases"] + table["sum of J*x"] == pytest.approx(table["output"], rel=1e-4)
    exceeds = (found.bias > found.output).double().mean().item()
    assert table["share of images whose biases exceed the output"] == pytest.approx(exceeds)
    assert json.loads((tmp_path / "account.json").read_text())["model"] == "mnist_cnn"


def samek(work, methods, *more):
    options = ["--model=mnist_cnn", "--data=mnist", "--source=embedded", "--images=0:5"]
    options += ["--steps=4", "--region-size=7", "--repeats=1", "--block=2"]
    methods = f"--methods={methods}"
    return command.main(["samek", "run", f"--work={work}", methods, *options, *more])


def join(folder, *works):
    places = [f"--out={folder / 'joined'}", "--works", *map(str, works)]
    return command.main(["dmbp", "join", "--resamples=100", *places])


def test_runs_apart_are_joined_as_if_they_had_been_one(tmp_path):
    first, second, both = (tmp_path / name for name in ("first", "second", "both"))
    samek(first, "gradient")
    samek(second, "dmbp_greedy", "--orders=morf,lerf")
    samek(both, "gradient,dmbp_greedy")
    assert join(tmp_path, first, second) == 0
    command.main(
        ["samek", "merge", f"--work={both}", f"--out={tmp_path / 'whole'}", "--resamples=100"]
    )
    keys = ["fill", "measure", "method"]
    joined = pd.read_csv(tmp_path / "joined-areas.csv").set_index(keys)["mean"].sort_index()
    whole = pd.read_csv(tmp_path / "whole-areas.csv").set_index(keys)["mean"].sort_index()
    assert list(joined.index) == list(whole.index)
    assert joined.to_list() == pytest.approx(whole.to_list(), rel=1e-3, abs=1e-4)
    record = (tmp_path / "joined.json").read_text()
    assert json.loads(record)["images"] == 5
    assert str(tmp_path) not in record


def test_only_blocks_that_every_run_has_are_joined(tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    samek(first, "gradient")
    samek(second, "dmbp_greedy", "--shard=1/3")
    join(tmp_path, first, second)
    assert json.loads((tmp_path / "joined.json").read_text())["images"] == 2


def test_runs_that_differ_are_not_joined(tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    samek(first, "gradient")
    samek(second, "gradient", "--seed=1")
    with pytest.raises(SystemExit, match="differ"):
        join(tmp_path, first, second)
    with pytest.raises(SystemExit, match=r"plan\.json"):
        join(tmp_path, first, tmp_path / "third")
