"""The command that runs methods and measures where the truth is known."""

import argparse
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

from xaiutils import attribution, data
from xaiutils.evaluation import truth
from xaiutils.reproduce import __main__ as command
from xaiutils.reproduce import _known_measures, _known_truth

SETTINGS = [
    "--instruments=additive,patch", "--methods=gradient,lrp,random", "--seeds=1", "--pictures=3",
    "--judging=2",
]  # fmt: skip
FAST = (  # a network that saw too little to follow the rule, and two measures
    "from functools import partial; from xaiutils.evaluation import truth;"
    "train = truth.planted_network;"
    "truth.planted_network = lambda rule, seed: train(rule, seed, 64);"
    "every = truth.metrics;"
    "truth.metrics = lambda *a, **k: {n: every(*a, **k)[n] for n in ('MoRF', 'SaCo')};"
)
TABLES = ("table-scores.csv", "table-networks.csv", "table-metrics.csv")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        for name in ("planted_network", "metrics"):
            patch.setattr(truth, name, getattr(truth, name))  # is put back at the end
        exec(FAST, {})
        yield folder, known_truth(folder)


def places(folder):
    return [f"--work={folder / 'work'}", f"--out={folder / 'table'}"]


def known_truth(folder, *more):
    return command.main(["known-truth", *places(folder), *SETTINGS, *more])


def blocks(folder):
    return {path.name: path for path in (folder / "work").glob("*.safetensors")}


def test_tables_say_what_the_instruments_say(whole):
    folder, code = whole
    assert code == 0
    scores = pd.read_csv(folder / "table-scores.csv")
    assert set(scores["instrument"]) == {"additive"}, "the network of patch does not follow"
    assert (scores["networks"] == 4).all(), "these need no training"
    assert (scores["oracle"] >= scores["mean"]).all()
    assert scores["oracle"].to_numpy() == pytest.approx(1)
    digits = data.mnist("test", source="embedded", per_class=10, sample=0)
    first = truth.additive_instrument(torch.as_tensor(digits.images), 0).subset(slice(3))
    maps = attribution.lrp(first.model, first.x, first.target)
    kept = load_file(folder / "work" / "additive-0.safetensors")
    torch.testing.assert_close(kept["score/lrp"], first.score(maps))
    networks = pd.read_csv(folder / "table-networks.csv")
    assert not networks.query("instrument == 'patch'")["passed"].all()
    judged = pd.read_csv(folder / "table-metrics.csv").set_index("metric")
    assert set(judged.index) == {"MoRF", "SaCo"}
    assert judged.loc["SaCo", ["pictures", "networks"]].tolist() == [6, 2]
    assert judged.loc["MoRF", "highest"] == "truth"
    record = json.loads((folder / "table.json").read_text())
    assert record["methods"] == ["gradient", "lrp", "random"]
    assert str(folder) not in json.dumps(record)


@pytest.mark.parametrize("until", ["additive-0.safetensors", "measures-additive-0.safetensors"])
def test_a_killed_run_goes_on_with_nothing_lost(whole, tmp_path, until):
    """Killed while the methods are measured, and while the measures are judged."""
    slow = (
        "import sys, time;" + FAST + "from xaiutils.reproduce import _known_truth as known;"
        "from xaiutils.reproduce import __main__ as command;"
        "heatmap, judge = known.heatmap, known._known_measures.judge;"
        "known.heatmap = lambda *a: (time.sleep(0.2), heatmap(*a))[1];"
        "known._known_measures.judge = lambda *a: (time.sleep(0.2), judge(*a))[1];"
        "command.main(sys.argv[1:])"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", slow, "known-truth", *places(tmp_path), *SETTINGS],
        stderr=subprocess.DEVNULL,
        env=os.environ | {"OMP_NUM_THREADS": str(torch.get_num_threads())},  # rounding
    )
    while process.poll() is None and until not in blocks(tmp_path):
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    kept = {path: path.stat().st_mtime_ns for path in blocks(tmp_path).values()}
    assert 1 <= len(kept) < len(blocks(whole[0]))
    assert known_truth(tmp_path) == 0
    assert all(path.stat().st_mtime_ns == time_ns for path, time_ns in kept.items())
    for name in TABLES:
        assert (tmp_path / name).read_text() == (whole[0] / name).read_text()


def test_methods_are_added_to_what_is_there(whole, tmp_path, monkeypatch):
    """A folder that knows two of the methods asks the third alone; one that refuses has no row."""
    assert known_truth(tmp_path, "--methods=gradient,lrp", "--judging=0") == 0
    asked, heatmap = [], _known_truth.heatmap
    monkeypatch.setattr(
        _known_truth, "heatmap", lambda name, *given: (asked.append(name), heatmap(name, *given))[1]
    )
    assert known_truth(tmp_path) == 0
    assert set(asked) == {"random"}
    for name in TABLES:
        assert (tmp_path / name).read_text() == (whole[0] / name).read_text()

    def refuses(name, *given):
        raise ValueError(f"{name} cannot be asked")

    monkeypatch.setattr(_known_truth, "heatmap", refuses)
    assert known_truth(tmp_path, "--methods=lrp,dmbp", "--judging=0") == 0
    assert set(pd.read_csv(tmp_path / "table-scores.csv")["method"]) == {"lrp"}
    monkeypatch.setattr(_known_truth, "heatmap", None)  # is not asked again
    assert known_truth(tmp_path, "--methods=lrp,dmbp", "--judging=0") == 0


def test_a_folder_of_another_run_is_refused(whole, tmp_path):
    (tmp_path / "work").mkdir()
    plan = whole[0] / "work" / "plan.json"
    (tmp_path / "work" / "plan.json").write_text(plan.read_text())
    with pytest.raises(SystemExit, match="its pictures is 3, this one's 4"):
        known_truth(tmp_path, "--pictures=4")
    with pytest.raises(SystemExit, match="--instruments"):
        known_truth(tmp_path, "--instruments=lie")


def test_the_measures_are_judged_by_so_many_sound_networks():
    options = argparse.Namespace(
        instruments=("GridPG", "DiFull", "watermark", "decoy"),
        seeds=4,
        grids=8,
        judging=2,
        judging_grids=6,
    )
    asked = []

    def judge(case):
        asked.append(case)
        return {"not sound" if case == ("decoy", 1) else "MoRF/truth": torch.zeros(1)}

    grids = [("DiFull", 0), ("DiFull", 1), ("DiFull", 2)]
    found = _known_measures.judged(options, judge)
    assert list(found) == [*grids, ("decoy", 0), ("decoy", 2)]
    assert asked == [*grids, *(("decoy", seed) for seed in range(3))], "two are enough"
