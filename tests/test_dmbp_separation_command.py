"""The command that asks whether masks that can move separate the branches, and rightly."""

import json

import pandas as pd
import pytest
import torch

from xaiutils import attribution, data, evaluation, models
from xaiutils.reproduce import __main__ as command
from xaiutils.reproduce import _dmbp_separation as separation

SETTINGS = [
    "--model=mnist_cnn",
    "--images=2:7",
    "--candidates=default,shares",
    "--iterations=3",
    "--region-size=4",
    "--steps=12",
]


@pytest.fixture(autouse=True)
def digits(monkeypatch):
    """Embedded digits in the place of the photographs, which cannot be had everywhere."""
    images = data.mnist("test", source="embedded")
    monkeypatch.setattr(separation.data, "imagenet_sample", lambda: images)


def run(folder, *more):
    places = [f"--work={folder / 'work'}", f"--out={folder / 'table'}"]
    return command.main(["dmbp", "separation", *places, *SETTINGS, *more])


def test_the_tables_hold_what_the_measures_are_said_to_be(tmp_path):
    assert run(tmp_path, "--areas") == 0
    classifier = models.load_classifier("mnist_cnn")
    x = data.mnist("test", source="embedded").images[2:6]  # the fifth has no neighbour
    options = {"iterations": 3, **separation.SEPARATIONS["shares"]}
    found = attribution.dmbp(classifier.module, x, None, **options)
    plus, minus = (found.positive + found.bias_maps[0], found.negative + found.bias_maps[1])
    table = pd.read_csv(tmp_path / "table-measures.csv")
    table = table.set_index(["measure", "fill", "candidate", "map"])
    row = table.loc[("sum_negative", "(none)", "shares", "both")]
    logits = classifier.module(x).amax(1)
    expected = (minus.sum((1, 2, 3)) / logits).mean().item()
    assert float(row["mean"]) == pytest.approx(expected, rel=1e-3)
    assert int(row["images"]) == 4
    windows = [  # 12 pixels, the grid moved by 5
        part[..., r0:r1, c0:c1].sum((1, 2, 3))
        for part in (plus, -minus)
        for r0, r1 in ((0, 7), (7, 19), (19, 28))
        for c0, c1 in ((0, 7), (7, 19), (19, 28))
    ]
    sums = torch.stack(windows, 1).double()
    cosine = torch.cosine_similarity(sums[:, :9], sums[:, 9:]).mean().item()
    row = table.loc[("cosine, 12 px, moved by 5", "(none)", "shares", "both")]
    assert float(row["mean"]) == pytest.approx(cosine, rel=1e-3)
    own, over = (
        float(table.loc[(measure, "blur", "shares", "negative"), "mean"])
        for measure in ("rise", "rise_over_random")
    )
    chance = float(table.loc[("rise", "blur", "random", "negative"), "mean"])
    assert over == pytest.approx(own - chance, abs=1e-4)
    record = json.loads((tmp_path / "table.json").read_text())
    assert record["measured"] == [2, 3, 4, 5]
    assert str(tmp_path) not in json.dumps(record)
    pairs = pd.read_csv(tmp_path / "table-comparisons.csv")
    assert {"shares/positive", "lrp_epsilon_plus/map"} <= {*pairs["first"], *pairs["second"]}


def test_a_map_that_marks_what_speaks_against_makes_the_output_rise():
    """Of an additive network, the regions with the lowest contributions."""
    network = evaluation.AdditiveNetwork(channels=3, side=24, region_size=4)
    x = torch.randn(1, 3, 24, 24, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        lost = (network.contributions(x) - network.contributions(torch.zeros_like(x))).flatten()
    heat = lost.view(1, 1, 6, 6).repeat_interleave(4, 2).repeat_interleave(4, 3)
    fill = evaluation.Constant(0.0)
    curves = evaluation.region_perturbation(network, x, 0, -heat, 4, 10, fill=fill, repeats=1)
    expected = -lost.sort().values[: separation.MARKED].sum().item()
    assert separation._risen(curves).item() == pytest.approx(expected, rel=1e-4)


def test_a_run_goes_on_where_it_stopped_and_tables_can_be_made_of_what_is_there(
    tmp_path, monkeypatch
):
    typed = ["reproduce", "dmbp", "separation", "--there", "--work", "a", "--out", "b", "--steps=2"]
    monkeypatch.setattr("sys.argv", typed)
    run(tmp_path)
    blocks = sorted((tmp_path / "work").glob("*.safetensors"))
    blocks[1].unlink()
    time = blocks[0].stat().st_mtime_ns
    run(tmp_path, "--there")
    record = json.loads((tmp_path / "table.json").read_text())
    assert record["measured"] == [2, 3]
    assert record["command"] == "python -m xaiutils.reproduce dmbp separation --steps=2"
    run(tmp_path)
    assert blocks[0].stat().st_mtime_ns == time
    assert blocks[1].exists()
    with pytest.raises(SystemExit, match="another run"):
        run(tmp_path, "--iterations=4")


def test_unknown_candidates_are_refused(tmp_path):
    with pytest.raises(SystemExit, match="shares_maps"):
        run(tmp_path, "--candidates=share")
