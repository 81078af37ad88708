"""The command that sets heatmaps beside the best order that can be found."""

import json
import os
import signal
import subprocess
import sys
import time

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from xaiutils import attribution, data, evaluation, models
from xaiutils.reproduce import __main__ as command
from xaiutils.reproduce import _ceiling

SETTINGS = [
    "--model=mnist_cnn", "--data=photos", "--images=0:12:2", "--region-size=7", "--steps=3",
    "--methods=sensitivity,lrp_epsilon_plus", "--random=2",
]  # fmt: skip
DIGITS = (  # "photos" are digits here, so that a new process needs no download
    "from xaiutils import data; digits = data.mnist('test', source='embedded');"
    "data.photos = lambda: digits;"
)


@pytest.fixture(autouse=True)
def digits(monkeypatch):
    found = data.mnist("test", source="embedded")
    monkeypatch.setattr(data, "photos", lambda: found)
    return found


def ceiling(folder, *more):
    places = [f"--work={folder / 'work'}", f"--out={folder / 'table'}"]
    return command.main(["ceiling", *places, *SETTINGS, *more])


def contents(folder):
    found = sorted((folder / "work").glob("*.safetensors"))
    return {path.name: load_file(path) for path in found}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        found = data.mnist("test", source="embedded")
        patch.setattr(data, "photos", lambda: found)
        assert ceiling(folder) == 0
    return folder


def test_shares_are_those_of_the_library(whole, digits):
    x = digits.images[0:12:2]
    classifier = models.load_classifier("mnist_cnn")
    fill = evaluation.Uniform(classifier.preprocess.low, classifier.preprocess.high)
    maps = attribution.METHODS["lrp_epsilon_plus"](classifier.module, x, None)
    options = {"region_size": 7, "steps": 3, "fill": fill, "seed": 0}
    random = evaluation.region_perturbation(
        classifier.module, x, None, None, order="random", repeats=2, **options
    )
    pairs = []
    for goal in evaluation.GOALS:
        best = evaluation.search(classifier.module, x, None, repeats=1, goal=goal, **options)
        one = evaluation.region_perturbation(
            classifier.module, x, None, maps, order=goal, repeats=1, **options
        )
        pairs.append((one, best))
    shares = pd.read_csv(whole / "table-shares.csv")
    rows = shares.set_index(["fill", "draws", "measure", "method"])
    methods, best = zip(*pairs, strict=True)
    with pytest.warns(evaluation.FewImagesWarning):
        wanted = {
            "aopc_morf": evaluation.share_of_ceiling(methods[0], random, best[0]),
            "aopc_lerf": evaluation.share_of_ceiling(methods[1], random, best[1]),
            "abpc": evaluation.share_of_ceiling(methods, None, best),
        }
    for measure, interval in wanted.items():
        row = rows.loc["uniform", "same", measure, "lrp_epsilon_plus"]
        found = row[["share", "low", "high"]].tolist()
        assert found == pytest.approx([interval.mean, interval.low, interval.high], rel=1e-3)
        assert row["images"] == 6


def test_tables_hold_every_method_and_the_searched_orders_on_other_noise(whole):
    shares = pd.read_csv(whole / "table-shares.csv")
    methods = {"sensitivity", "lrp_epsilon_plus", _ceiling.ALONE}
    same = shares.query("draws == 'same'")
    assert set(same["method"]) == methods
    assert len(same) == 2 * 3 * 3  # fills, measures, methods
    assert (same["share"] <= 100 + 1e-6).all()
    assert (same["p_half_holm"] >= same["p_half"]).all()
    other = shares.query("draws == 'other'")
    assert set(other["fill"]) == {"uniform"}  # a blur is what it is, whatever the seed
    assert set(other["method"]) == methods | {_ceiling.SEARCHED}
    areas = pd.read_csv(whole / "table-areas.csv").set_index(["fill", "draws", "order", "method"])
    best = areas.loc["blur", "same", "morf", _ceiling.SEARCHED]["mean"]
    assert (areas.loc["blur", "same", "morf"]["mean"] <= best + 1e-6).all()
    record = json.loads((whole / "table.json").read_text())
    assert record["images"] == 6
    assert str(whole) not in json.dumps(record)


def test_a_killed_run_goes_on_with_nothing_lost(whole, tmp_path):
    places = [f"--work={tmp_path / 'work'}", f"--out={tmp_path / 'table'}"]
    slow = (
        "import sys, time; from xaiutils import evaluation;"
        + DIGITS
        + "from xaiutils.reproduce import __main__ as command;"
        "work = evaluation.search;"
        "evaluation.search = lambda *a, **k: (time.sleep(0.1), work(*a, **k))[1];"
        "command.main(sys.argv[1:])"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", slow, "ceiling", *places, *SETTINGS],
        stderr=subprocess.DEVNULL,
        env=os.environ | {"OMP_NUM_THREADS": str(torch.get_num_threads())},  # rounding
    )
    while process.poll() is None and not contents(tmp_path):
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "work").glob("*.safetensors")}
    assert 1 <= len(kept) < 3
    ceiling(tmp_path)
    assert all(path.stat().st_mtime_ns == time_ns for path, time_ns in kept.items())
    for name in ("table-areas.csv", "table-shares.csv"):
        assert (tmp_path / name).read_text() == (whole / name).read_text()


def test_shards_together_are_the_whole_run(whole, tmp_path):
    ceiling(tmp_path, "--shard=1/2")
    assert not list(tmp_path.glob("table*"))
    ceiling(tmp_path, "--there")
    shares = pd.read_csv(tmp_path / "table-shares.csv")
    assert set(shares["images"]) == {json.loads((tmp_path / "table.json").read_text())["images"]}
    assert set(shares["images"]) == {4}  # two of three blocks
    ceiling(tmp_path, "--shard=2/2")
    found, wanted = contents(tmp_path), contents(whole)
    assert list(found) == list(wanted)
    for name, block in wanted.items():
        for key, areas in block.items():
            torch.testing.assert_close(found[name][key], areas)
    with pytest.raises(SystemExit, match="no block is in"):
        ceiling(tmp_path / "empty", "--there")


def test_a_map_of_falls_sums_to_them():
    falls, x = torch.rand(2, 3, 3).double(), torch.zeros(2, 1, 7, 8)
    maps = _ceiling.spread(falls, 3, x)
    assert maps.shape == (2, 1, 7, 8)
    scores = evaluation.Regions(7, 8, 3).scores(maps[:, 0])
    torch.testing.assert_close(scores, falls.flatten(1))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("--fills=grey", "--fills"),
        ("--methods=grab_cam", "--methods"),
        ("--beam=0", "--beam must be at least 1"),
        ("--images=0:1", "too few"),
    ],
)
def test_bad_options_are_refused(tmp_path, change, message):
    with pytest.raises(SystemExit, match=message):
        ceiling(tmp_path, change)
    assert not (tmp_path / "work").exists()
