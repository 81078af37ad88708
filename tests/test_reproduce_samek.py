"""Long runs of region perturbation: shards, kills, and the tables that come out."""

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
from xaiutils.reproduce import _explained, _samek_tables, _work

SETTINGS = [
    "--model=mnist_cnn",
    "--data=mnist",
    "--source=embedded",
    "--methods=gradient,input_x_gradient,random",
    "--region-size=7",
    "--steps=6",
    "--repeats=2",
    "--block=2",
]


def run(work, *more, images="3:10"):
    return command.main(["samek", "run", f"--work={work}", *SETTINGS, f"--images={images}", *more])


def merge(work, out, *more):
    places = [f"--work={work}", f"--out={out}"]
    return command.main(["samek", "merge", *places, "--resamples=200", *more])


def contents(work):
    return {path.name: load_file(path) for path in sorted(work.glob("*.safetensors"))}


def assert_same(first, second):
    assert list(first) == list(second)
    for name in first:
        assert first[name].keys() == second[name].keys()
        for key, tensor in first[name].items():
            torch.testing.assert_close(tensor, second[name][key])


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    work = tmp_path_factory.mktemp("whole")
    assert run(work) == 0
    return work


def test_blocks_hold_what_region_perturbation_gives(whole):
    classifier = models.load_classifier("mnist_cnn")
    x = data.mnist("test", source="embedded").images[3:10]
    maps = attribution.input_x_gradient(classifier.module, x)
    noise = evaluation.Uniform(0.0, 1.0)
    expected = evaluation.region_perturbation(
        classifier.module, x, None, maps, 7, 6, "lerf", noise, 2, first_image=3
    )
    found = [block["uniform/lerf/input_x_gradient"] for block in contents(whole).values()]
    assert [len(part) for part in found] == [2, 2, 2, 1]
    torch.testing.assert_close(torch.cat(found), expected.scores, atol=1e-5, rtol=1e-5)


def test_the_constant_is_the_mean_of_the_whole_plan(tmp_path):
    run(tmp_path, "--fills=constant", "--orders=random", "--steps=16", images="0:4")
    x = data.mnist("test", source="embedded").images[:4]
    module = models.load_classifier("mnist_cnn").module
    with torch.no_grad():
        targets, end = module(x).argmax(1), module(x.mean(0, keepdim=True))[0]
    found = torch.cat([b["constant/random/(none)"] for b in contents(tmp_path).values()])
    expected = end[targets][:, None].expand(4, 2)
    torch.testing.assert_close(found[..., -1], expected, atol=1e-4, rtol=1e-4)


def test_shards_together_are_the_whole_run(whole, tmp_path):
    run(tmp_path, "--shard=2/3")
    assert len(contents(tmp_path)) == 1
    run(tmp_path, "--shard=1/3")
    with pytest.raises(SystemExit, match=r"1 of 4 blocks are missing.*image 7"):
        merge(tmp_path, tmp_path / "table")
    assert not list(tmp_path.glob("table*"))
    run(tmp_path, "--shard=3/3", "--batch-size=5")
    assert_same(contents(tmp_path), contents(whole))


def test_a_killed_run_goes_on_with_nothing_lost_or_counted_twice(whole, tmp_path):
    arguments = ["samek", "run", f"--work={tmp_path}", *SETTINGS, "--images=3:10"]
    slow = (
        "import sys, time; from xaiutils import evaluation;"
        "from xaiutils.reproduce import __main__ as command;"
        "work = evaluation.region_perturbation;"
        "evaluation.region_perturbation = lambda *a, **k: (time.sleep(0.1), work(*a, **k))[1];"
        "command.main(sys.argv[1:])"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", slow, *arguments],
        stderr=subprocess.DEVNULL,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    while process.poll() is None and len(list(tmp_path.glob("*.safetensors"))) < 2:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    kept = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*.safetensors")}
    assert 2 <= len(kept) < 4
    (tmp_path / "images-000009-000010.safetensors.1.part").write_bytes(b"half a file")
    run(tmp_path)
    assert all(path.stat().st_mtime_ns == time_ns for path, time_ns in kept.items())
    assert_same(contents(tmp_path), contents(whole))
    before = contents(tmp_path)
    run(tmp_path)  # nothing is left to do
    assert_same(contents(tmp_path), before)


def test_a_failed_write_leaves_no_block(monkeypatch, tmp_path):
    def full_disk(tensors, path, metadata):
        path.write_bytes(b"half")
        raise OSError("no space left on device")

    monkeypatch.setattr(_work, "save_file", full_disk)
    with pytest.raises(OSError, match="space"):
        run(tmp_path)
    assert not contents(tmp_path)


def test_the_tables_and_their_record(whole, tmp_path):
    out = tmp_path / "samek-mnist"
    merge(whole, out)
    areas = pd.read_csv(f"{out}-areas.csv").set_index(["fill", "measure", "method"])
    parts = contents(whole).values()
    scores = {
        order: torch.cat([p[f"uniform/{order}/gradient"] for p in parts]).double()
        for order in ("morf", "lerf")
    }
    aopc = {k: (s[..., :1] - s).mean((1, 2)) for k, s in scores.items()}
    row = areas.loc[("uniform", "abpc", "gradient")]
    assert row["mean"] == pytest.approx((aopc["morf"] - aopc["lerf"]).mean().item(), rel=1e-4)
    assert row["low"] < row["mean"] < row["high"]
    assert row["images"] == 7
    assert set(areas.index.get_level_values("method")) == {
        "gradient", "input_x_gradient", "random", "(none)"}  # fmt: skip
    curves = pd.read_csv(f"{out}-curves.csv")
    mean = curves.query("order == 'morf' and method == 'gradient' and step == 6")["mean_score"]
    assert mean.item() == pytest.approx(scores["morf"][..., 6].mean().item(), rel=1e-4)
    pairs = pd.read_csv(f"{out}-comparisons.csv")
    assert len(pairs.query("measure == 'abpc'")) == 3
    assert (pairs["p_holm"] >= pairs["p_value"]).all()
    record = json.loads((tmp_path / "samek-mnist.json").read_text())
    assert record["plan"]["seed"] == 0
    assert record["data"]["images"] == 7
    assert len(record["data"]["sha256"]) == len(record["weights"]["sha256"]) == 64
    assert {"torch", "python"} <= set(record["versions"])
    assert record["date"]
    assert str(whole) not in json.dumps(record)
    assert not list(tmp_path.glob("*.part"))


def test_the_epsilons_of_the_paper_are_in_the_scale_of_its_pixels():
    classifier = models.load_classifier("mnist_cnn")
    assert _explained.pixel_units(classifier) == 255
    x = data.mnist("test", source="embedded").images[:2]
    extra = _explained.extra_methods(classifier)
    found = _explained.heatmap("lrp_epsilon_100", classifier.module, x, None, 0, extra)
    rule = attribution.Epsilon(100 / 255)
    everywhere = attribution.Composite(rule, rule, affine=rule, other=rule)
    assert torch.equal(found, attribution.lrp(classifier.module, x, composite=everywhere))
    plain = _explained.heatmap("lrp_epsilon_100_as_is", classifier.module, x, None, 0, extra)
    assert plain.abs().sum() < found.abs().sum()  # a larger epsilon absorbs more


def test_photographs_come_in_units_of_their_own_normalisation():
    photographs = models.load_classifier("efficientnet_lite0")
    assert _explained.pixel_units(photographs) == pytest.approx(128, abs=0.6)


def test_the_absolute_relevance_is_that_of_the_summed_channels():
    classifier = models.load_classifier("mnist_cnn")
    x = data.mnist("test", source="embedded").images[:2]
    extra = _explained.extra_methods(classifier)
    found = _explained.heatmap("input_x_gradient_abs", classifier.module, x, None, 0, extra)
    signed = attribution.input_x_gradient(classifier.module, x)
    torch.testing.assert_close(found, signed.sum(1, keepdim=True).abs())


def test_ties_are_counted_and_gains_are_tested(whole, tmp_path):
    merge(whole, tmp_path / "t")
    areas = pd.read_csv(tmp_path / "t-areas.csv").set_index(["measure", "method"])
    assert (areas.loc["aopc_random", "tied_regions"] == 0).all()
    assert areas.loc[("aopc_morf", "random"), "tied_regions"] == 0
    assert areas.loc[("aopc_morf", "input_x_gradient"), "tied_regions"] > 0  # the empty page
    pairs = pd.read_csv(tmp_path / "t-comparisons.csv").query("measure == 'aopc_morf_minus_random'")
    assert set(pairs["first"]) == {"gradient", "input_x_gradient", "random"}
    assert set(pairs["second"]) == {"(none)"}
    expected = areas.loc["aopc_morf_minus_random", "mean"]
    assert pairs.set_index("first")["difference"].to_dict() == pytest.approx(
        expected.to_dict(), rel=1e-3
    )


def test_ties_can_be_counted_without_a_run(tmp_path, monkeypatch):
    digits = data.mnist("test", source="embedded")
    monkeypatch.setattr(data, "mnist", lambda split, source: digits)
    places = [f"--out={tmp_path / 't'}", "--model=mnist_cnn", "--data=mnist", "--images=0:3"]
    methods = "--methods=random,input_x_gradient"
    command.main(["samek", "ties", *places, methods, "--region-size=7"])
    found = pd.read_csv(tmp_path / "t-ties.csv").set_index("method")
    x = digits.images[:3]
    maps = attribution.input_x_gradient(models.load_classifier("mnist_cnn").module, x, None)
    scores = evaluation.Regions(28, 28, 7).scores(maps.double().sum(dim=1))
    expected = evaluation.count_ties(scores).double().mean().item()
    assert found["tied_regions"].to_dict() == {
        "random": 0,
        "input_x_gradient": pytest.approx(expected),
    }
    assert json.loads((tmp_path / "t-ties.json").read_text())["command"]


def test_differences_are_those_of_compare():
    generator = torch.Generator().manual_seed(0)
    methods = {name: torch.randn(9, generator=generator).double() + 0.3 * i
               for i, name in enumerate("abc")}  # fmt: skip
    pairs = {(a, b): methods[a] - methods[b] for a, b in (("a", "b"), ("a", "c"), ("b", "c"))}
    rows = _samek_tables._differences(["set"], {("all",): pairs}, resamples=1500)
    expected = evaluation.compare(methods, resamples=1500)
    for row, pair in zip(rows, expected, strict=True):
        assert (row["first"], row["second"]) == (pair.first, pair.second)
        found = row["difference"], row["low"], row["high"]
        wanted = pair.difference.mean, pair.difference.low, pair.difference.high
        assert found == pytest.approx(wanted)
        assert row["p_value"] == pytest.approx(pair.p_value, abs=0.02)
    column = methods["a"].numpy()[:, None]
    assert _samek_tables._sign_flips(column, 1500, 0) == [
        evaluation.sign_flip(methods["a"], resamples=1500)
    ]


def test_an_area_of_fewer_steps_and_the_axis(whole, tmp_path, monkeypatch):
    monkeypatch.setattr(_samek_tables, "PAPER", ("gradient", "random"))
    merge(whole, tmp_path / "two", "--steps=2", "--axis=2,6")
    parts = contents(whole).values()
    scores = torch.cat([p["uniform/morf/gradient"] for p in parts]).double()
    expected = (scores[..., :1] - scores[..., :3]).mean((1, 2)).mean().item()
    areas = pd.read_csv(tmp_path / "two-areas.csv").set_index(["measure", "method"])
    assert areas.loc[("aopc_morf", "gradient"), "mean"] == pytest.approx(expected, rel=1e-4)
    steps = pd.read_csv(tmp_path / "two-steps.csv").query("measure == 'aopc_morf'")
    assert steps["steps"].tolist() == [2, 6]
    whole_areas = areas["mean"]["aopc_morf"]
    assert steps["difference"].iloc[0] == pytest.approx(
        whole_areas["gradient"] - whole_areas["random"], abs=1e-4
    )
    assert json.loads((tmp_path / "two.json").read_text())["steps"] == 2
    with pytest.raises(SystemExit, match="1 to 6"):
        merge(whole, tmp_path / "three", "--steps=7")


def test_how_well_the_images_agree_on_the_paper_s_three_methods():
    generator = torch.Generator().manual_seed(0)
    methods = [*_samek_tables.PAPER, "random"]
    areas = {
        ("blur", order, method): torch.rand(20, generator=generator, dtype=torch.float64)
        for order in ("morf", "lerf")
        for method in methods
    }
    rows = {row["measure"]: row for row in _samek_tables._agreed(areas)}
    assert set(rows) == {"aopc_morf", "aopc_lerf", "abpc"}
    three = torch.stack([areas["blur", "morf", method] for method in methods[:3]])
    ranks = three.argsort(dim=0).argsort(dim=0).double()
    expected = 1 - sum(ranks[k].var() for k in range(3)) / 3 / ranks.var()
    assert rows["aopc_morf"]["alpha"] == pytest.approx(expected.item())
    assert rows["aopc_morf"]["images"] == 20
    assert _samek_tables._agreed({k: v for k, v in areas.items() if k[2] != methods[0]}) == []


def test_other_methods_are_added_to_tables_of_the_same_pictures(whole, tmp_path):
    merge(whole, tmp_path / "t")
    before = pd.read_csv(tmp_path / "t-areas.csv")
    run(tmp_path / "more", "--methods=sensitivity,gradient")
    merge(tmp_path / "more", tmp_path / "t", "--add")
    after = pd.read_csv(tmp_path / "t-areas.csv")
    keys = ["fill", "measure", "method"]
    both = before.merge(after, on=keys, suffixes=("", "_after"))
    assert len(both) == len(before)
    assert both["mean"].to_numpy() == pytest.approx(both["mean_after"].to_numpy(), abs=1e-4)
    assert set(after["method"]) == set(before["method"]) | {"sensitivity"}
    pairs = pd.read_csv(tmp_path / "t-comparisons.csv").query("measure == 'aopc_morf'")
    assert len(pairs) == 4  # three of the first run, and one of the second
    assert list(pairs["p_holm"]) == pytest.approx(evaluation.holm(list(pairs["p_value"])), rel=1e-4)
    record = json.loads((tmp_path / "t.json").read_text())
    assert [one["plan"]["methods"] for one in record["added"]] == [["sensitivity", "gradient"]]
    run(tmp_path / "others", images="4:11")
    with pytest.raises(SystemExit, match="first, images, last differ"):
        merge(tmp_path / "others", tmp_path / "t", "--add")


def test_fills_are_compared_image_by_image(tmp_path):
    run(tmp_path / "work", "--fills=uniform,constant", "--methods=gradient", images="0:3")
    merge(tmp_path / "work", tmp_path / "two")
    rows = pd.read_csv(tmp_path / "two-fills.csv").set_index(["measure", "method"])
    row = rows.loc[("abpc", "gradient")]
    assert (row["first"], row["second"]) == ("constant", "uniform")
    areas = pd.read_csv(tmp_path / "two-areas.csv").set_index(["measure", "method", "fill"])["mean"]
    expected = areas["abpc", "gradient", "constant"] - areas["abpc", "gradient", "uniform"]
    assert row["difference"] == pytest.approx(expected, abs=1e-4)
    assert ("aopc_random", "(none)") in rows.index


def test_the_recorded_command_names_no_place_and_no_shard(tmp_path, monkeypatch):
    typed = ["samek", "run", "--work", str(tmp_path), *SETTINGS, "--images", "0:1", "--shard=1/2"]
    monkeypatch.setattr(sys, "argv", ["xaiutils.reproduce", *typed])
    command.main(typed)
    kept = json.loads((tmp_path / "plan.json").read_text())["command"]
    expected = f"python -m xaiutils.reproduce samek run {' '.join(SETTINGS)} --images 0:1"
    assert kept == expected


@pytest.mark.parametrize("change", ["--seed=1", "--weights=random", "--steps=5"])
def test_a_folder_of_another_run_is_refused(whole, change):
    before = contents(whole)
    with pytest.raises(SystemExit, match="another run"):
        run(whole, change)
    assert_same(contents(whole), before)


def test_every_third_image_only(tmp_path):
    run(tmp_path, images="2:15:3")
    found = {path.name: load_file(path) for path in tmp_path.glob("*.safetensors")}
    labels = torch.cat([found[name]["label"] for name in sorted(found)])
    assert torch.equal(labels, data.mnist("test", source="embedded").labels[2:15:3])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("--methods=gradient,grab_cam", "grab_cam"),
        ("--orders=", "orders"),
        ("--fills=black", "uniform"),
        ("--images=5:5", "5:5"),
        ("--images=0:2000", "0:1000"),
        ("--images=0:10:0", "0:10:0"),
        ("--steps=17", "16 regions"),
        ("--block=0", "block"),
        ("--region-size=0", "region-size"),
        ("--repeats=0", "repeats"),
        ("--data=folder", "belong together"),
    ],
)
def test_bad_options_are_refused_before_the_folder_is_made(tmp_path, change, words):
    with pytest.raises(SystemExit, match=words):
        run(tmp_path / "new", change)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("change", ["--shard=3/2", "--shard=0/1", "--images=4", "--shard=one"])
def test_malformed_options_are_refused(tmp_path, change, capsys):
    with pytest.raises(SystemExit):
        run(tmp_path / "new", change)
    assert change.split("=")[0] in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


def test_merging_an_empty_folder_is_refused(tmp_path):
    with pytest.raises(SystemExit, match=r"plan\.json"):
        merge(tmp_path, tmp_path / "table")
