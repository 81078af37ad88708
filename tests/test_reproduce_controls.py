"""``controls``: own and borrowed maps under every fill; and the network that has met deletions."""

import json

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file
from scipy.stats import spearmanr

from xaiutils import attribution, data, evaluation, models
from xaiutils.models._classifiers import _WEIGHTS
from xaiutils.reproduce import __main__ as command
from xaiutils.reproduce import _controls, _train_deletions

METHODS = ("sensitivity", "input_x_gradient", "lrp_epsilon_plus")


@pytest.fixture
def digits(monkeypatch):
    """`data.mnist` gives a few embedded digits that claim to be the whole."""
    found = data.mnist("test", source="embedded", per_class=4)
    source = data.Source("env", "the folder that XAIUTILS_DATA names")
    few = data.ImageSet("MNIST", found.images, found.labels, found.categories, source)
    monkeypatch.setattr(data, "mnist", lambda split, per_class=None: few)
    return few


def controls(folder, *more, model="mnist_cnn"):
    places = [f"--work={folder / 'work'}", f"--out={folder / 'table'}", f"--model={model}"]
    options = ["--data=mnist", "--region-size=7", "--images=0:12", "--block=6", "--lots=2"]
    methods = f"--methods={','.join(METHODS)}"
    return command.main(["controls", *places, *options, methods, "--fills=uniform,blur", *more])


def tables(folder):
    return {path.name: path.read_text() for path in sorted(folder.glob("table-*.csv"))}


def test_a_run_that_is_killed_goes_on_where_it_was(digits, tmp_path, monkeypatch):
    controls(tmp_path / "whole")
    measure, calls = evaluation.region_perturbation, []

    def killed(*given, **options):
        calls.append(given)
        if len(calls) == 11:  # in the second block
            raise KeyboardInterrupt
        return measure(*given, **options)

    monkeypatch.setattr(evaluation, "region_perturbation", killed)
    with pytest.raises(KeyboardInterrupt):
        controls(tmp_path / "killed")
    assert len(list((tmp_path / "killed/work").glob("images-*.safetensors"))) == 1
    assert not tables(tmp_path / "killed")
    controls(tmp_path / "killed", "--there")  # what there is so far
    record = json.loads((tmp_path / "killed/table.json").read_text())
    assert record["measured"] == list(range(6))
    assert set(pd.read_csv(tmp_path / "killed/table-areas.csv")["images"]) == {6}
    calls.clear()
    monkeypatch.setattr(evaluation, "region_perturbation", measure)
    controls(tmp_path / "killed")
    assert len(tables(tmp_path / "whole")) == 4
    assert tables(tmp_path / "killed") == tables(tmp_path / "whole")
    record = json.loads((tmp_path / "killed/table.json").read_text())
    assert record["methods"] == list(METHODS)
    assert str(tmp_path) not in json.dumps(record)
    monkeypatch.setattr(evaluation, "region_perturbation", None)  # nothing is computed again
    controls(tmp_path / "killed")
    with pytest.raises(SystemExit, match="its seed is 0, this one's 1"):
        controls(tmp_path / "killed", "--seed=1")


def test_the_tables_are_those_of_direct_calls(digits, tmp_path):
    controls(tmp_path, "--images=0:6")
    stored = load_file(tmp_path / "work/images-000000.safetensors")
    classifier, x = models.load_classifier("mnist_cnn"), digits.images[:6]
    maps = attribution.METHODS["lrp_epsilon_plus"](classifier.module, x, None)
    given = {"own": maps, "borrowed": maps[stored["lender"]], "random": maps}
    areas = {}
    for name, order in (("own", "morf"), ("own", "lerf"), ("borrowed", "morf"),
                        ("borrowed", "lerf"), ("random", "random")):  # fmt: skip
        curves = evaluation.region_perturbation(
            classifier.module, x, None, given[name], 7, 3, order, evaluation.Uniform(0.0, 1.0),
            2 if order == "random" else 1,
        )  # fmt: skip
        areas[name, order] = curves.aopc()
    abpc = {n: areas[n, "morf"] - areas[n, "lerf"] for n in ("own", "borrowed")}
    expected = {
        ("borrowed", "abpc"): abpc["own"] - abpc["borrowed"],
        ("borrowed", "aopc_lerf"): areas["borrowed", "lerf"] - areas["own", "lerf"],
        ("random", "aopc_morf"): areas["own", "morf"] - areas["random", "random"],
    }
    rows = pd.read_csv(tmp_path / "table-differences.csv")
    rows = rows[(rows["fill"] == "uniform") & (rows["method"] == "lrp_epsilon_plus")]
    rows = rows[rows["first"] == "own"].set_index(["second", "measure"])
    for key, values in expected.items():
        assert rows.loc[key, "mean"] == pytest.approx(values.mean().item(), rel=1e-4)
        assert rows.loc[key, "p_value"] == pytest.approx(evaluation.sign_flip(values), abs=1e-6)
    assert (rows["p_holm"] >= rows["p_value"]).all()


def test_unsigned_maps_of_a_method_without_a_sign_are_its_own(digits, tmp_path):
    controls(tmp_path)
    rows = pd.read_csv(tmp_path / "table-differences.csv")
    rows = rows[(rows["second"] == "unsigned") & (rows["measure"] == "abpc")]
    means = rows.groupby("method")["mean"].apply(lambda values: values.abs().max())
    assert means["sensitivity"] == 0
    assert means["input_x_gradient"] > 0


def test_a_map_that_knows_nothing_scores_zero_and_one_that_does_does_not(digits, tmp_path):
    controls(tmp_path, "--images=0:40", "--block=20", "--methods=random,lrp_epsilon_plus")
    rows = pd.read_csv(tmp_path / "table-differences.csv")
    rows = rows[(rows["measure"] == "abpc") & (rows["second"] == "borrowed")]
    rows = rows.set_index(["first", "method", "fill"]).sort_index()
    for fill in ("uniform", "blur"):
        known = rows.loc[("own", "lrp_epsilon_plus", fill)]
        assert known["low"] > 0
        for nothing in (("own", "random", fill), ("second", "lrp_epsilon_plus", fill)):
            # Four questions; of honest ones, each has a chance of 0.05 to be below 0.05.
            assert rows.loc[nothing, "p_holm"] > 0.01


def test_maps_lose_their_sign_at_the_pixel_the_channel_or_the_square():
    maps = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    found = {
        form: _controls._in_form({"one": maps}, f"one{form}", 4)[:, 0]
        for form in ("_abs", "_abs_each", "_abs_squares")
    }
    assert _controls._in_form({"one": maps}, "one", 4) is maps
    for n, row, column in ((0, 0, 0), (1, 3, 5), (1, 7, 7)):
        pixel = maps[n, :, row, column].tolist()
        assert found["_abs"][n, row, column].item() == pytest.approx(abs(sum(pixel)), abs=1e-6)
        each = sum(abs(value) for value in pixel)
        assert found["_abs_each"][n, row, column].item() == pytest.approx(each)
        top, left = row // 4 * 4, column // 4 * 4
        square = sum(maps[n, :, top : top + 4, left : left + 4].flatten().tolist())
        assert found["_abs_squares"][n, row, column].item() == pytest.approx(abs(square), abs=1e-5)


def test_a_method_without_its_sign_is_borrowed_without_it_too(digits, tmp_path):
    names = "input_x_gradient,input_x_gradient_abs,input_x_gradient_abs_each"
    controls(tmp_path, "--images=0:6", f"--methods={names}")
    areas = pd.read_csv(tmp_path / "table-areas.csv")
    areas = areas.set_index(["fill", "map", "whose", "measure"]).sort_index()
    for fill in ("uniform", "blur"):
        unsigned = areas.loc[fill, "input_x_gradient", "unsigned"]["mean"]
        alone = areas.loc[fill, "input_x_gradient_abs", "own"]["mean"]
        assert alone.to_dict() == pytest.approx(unsigned.to_dict())
        each = areas.loc[fill, "input_x_gradient_abs_each"]["mean"]  # a digit has one channel
        assert each.to_dict() == pytest.approx(
            areas.loc[fill, "input_x_gradient_abs"]["mean"].to_dict()
        )


def test_an_ending_alone_is_no_method(digits, tmp_path):
    with pytest.raises(SystemExit, match=r"--methods.*nonsense"):
        controls(tmp_path, "--methods=nonsense_abs")


def test_borrowed_maps_are_always_measured(digits, tmp_path):
    controls(tmp_path, "--images=0:6", "--whose=own")
    areas = pd.read_csv(tmp_path / "table-areas.csv").query("map == 'sensitivity'")
    assert set(areas["whose"]) == {"own", "borrowed", "second"}
    assert "unsigned" not in set(pd.read_csv(tmp_path / "table-differences.csv")["second"])


@pytest.mark.parametrize("seed", range(5))
def test_maps_are_lent_twice_to_other_images_of_other_classes(seed):
    targets = torch.arange(20) % 10
    first, second = _controls.lending(targets, seed)
    number = torch.arange(20)
    for way in (first, second):
        assert torch.equal(way.sort().values, number)
        assert (targets[way] != targets).all()
    assert (first != second).all()


def test_lending_is_by_lot_and_does_what_it_can_within_a_class():
    ways = {tuple(_controls.lending(torch.arange(10), seed)[0].tolist()) for seed in range(5)}
    assert len(ways) == 5
    first, second = _controls.lending(torch.zeros(3, dtype=torch.int64), 0)
    assert sorted([first.tolist(), second.tolist()]) == [[1, 2, 0], [2, 0, 1]]


def test_agreement_is_spearmans_of_the_means():
    values = np.random.default_rng(0).normal(size=(3, 5, 40)) + np.arange(5.0)[:, None] / 4
    rows = _controls._agreement_rows(["a", "b", "c"], {"aopc_morf": values})
    means = values.mean(axis=2)
    pairs = {("a", "b"): (0, 1), ("a", "c"): (0, 2), ("b", "c"): (1, 2)}
    expected = {k: spearmanr(means[i], means[j]).statistic for k, (i, j) in pairs.items()}
    found = {(row["first"], row["second"]): row["spearman"] for row in rows}
    for pair, value in expected.items():
        assert found[pair] == pytest.approx(value)
    assert found["(mean)", "(mean)"] == pytest.approx(np.mean(list(expected.values())))
    assert found["(minimum)", "(minimum)"] == pytest.approx(min(expected.values()))
    assert all(row["low"] <= row["high"] for row in rows)


def test_halves_tell_few_images_from_a_fill_that_decides():
    random = np.random.default_rng(0)
    noisy = random.normal(size=(1, 6, 30)) * 3 + np.arange(6.0)[:, None]
    alike = np.repeat(noisy, 3, axis=0)
    other = alike + random.permuted(np.tile(5 * np.arange(6.0), (3, 1)), axis=1)[..., None]
    rows = _controls._half_rows({"same": alike, "other": other})
    assert rows[0]["same_fill"] == pytest.approx(rows[0]["other_fill"])
    assert rows[0]["same_fill"] < 0.95  # though the fills are one and the same
    assert rows[1]["same_fill"] > rows[1]["other_fill"] + 0.2


def test_every_fill_can_be_asked_for(digits, tmp_path):
    fills = ",".join(_controls.FILLS)
    controls(tmp_path, "--images=0:6", "--methods=sensitivity", f"--fills={fills}", "--lots=1")
    rows = pd.read_csv(tmp_path / "table-areas.csv").query("measure == 'abpc' and whose == 'own'")
    assert set(rows["fill"]) == set(_controls.FILLS)
    found = rows.query("map == 'sensitivity'")["mean"]
    assert found.nunique() == len(_controls.FILLS)
    assert found.notna().all()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("--methods=grab_cam", "grab_cam"),
        ("--fills=", "choose from uniform"),
        ("--fills=nose", "nose"),
        ("--region-size=0", "--region-size"),
        ("--images=0:3", "at least 6"),
        ("--images=0:8", "fewer than three"),
        ("--block=2", "--block 2"),
        ("--there", "no block is in"),
    ],
)
def test_bad_options_are_refused(digits, tmp_path, change, said):
    with pytest.raises(SystemExit, match=said):
        controls(tmp_path, change)
    assert not list(tmp_path.glob("work/images-*"))


def test_a_training_on_deletions_begins_with_the_digit_network(digits, tmp_path):
    out = tmp_path / "weights.safetensors"
    command.main(["train", "mnist-deletions", "--epochs=1", f"--out={out}"])
    record = json.loads(out.with_suffix(".json").read_text())
    assert record["accuracy"]["digits"] == len(digits)
    assert record["start"]["source"] == "mnist_cnn"
    assert "decoded" in record["deletions"]["fills"]
    trained = models.load_classifier("mnist_cnn_deletions", weights=out).module.state_dict()
    before = models.load_classifier("mnist_cnn").module.state_dict()
    moved = [(trained[n] - before[n]).abs().max().item() for n in before]
    assert 0 < max(moved) < 0.1


def test_deletions_replace_regions_and_nothing_else():
    ones = torch.ones(200, 1, 28, 28)
    generator = torch.Generator().manual_seed(0)
    zero = evaluation.Constant(0.0)
    shares = []
    for _ in range(9):
        found = _train_deletions.Deletions([zero])(ones, generator)
        assert set(found.unique().tolist()) == {0.0, 1.0}
        shares.append(1 - found.mean(dim=(1, 2, 3)))
    shares = torch.cat(shares)
    assert shares.max() <= 0.5 + 1 / 32
    assert shares.mean().item() == pytest.approx(0.25, abs=0.02)


def test_the_embedded_network_is_used_to_deletions():
    digits = data.mnist("test", source="embedded", per_class=10)
    record = json.loads((_WEIGHTS / "mnist_cnn_deletions.json").read_text())
    assert record["accuracy"]["test"] > 0.98
    falls = {}
    for name in ("mnist_cnn", "mnist_cnn_deletions"):
        module = models.load_classifier(name).module
        with torch.no_grad():
            right = (module(digits.images).argmax(dim=1) == digits.labels).double().mean()
        assert right > 0.97
        noise = evaluation.Uniform(0.0, 1.0)
        curves = evaluation.region_perturbation(
            module, digits.images, None, None, 4, 8, "random", noise, 2, "probability"
        )
        falls[name] = curves.aopc()
    assert evaluation.bootstrap(falls["mnist_cnn"] - falls["mnist_cnn_deletions"]).low > 0
