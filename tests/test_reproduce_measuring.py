"""The commands that measure heatmaps, on data small enough for a test."""

import json
from itertools import permutations

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file
from scipy.stats import rankdata

from xaiutils import attribution, data, evaluation, models
from xaiutils.reproduce import __main__ as command
from xaiutils.reproduce import _choices, _tables, _training_curve, _work


@pytest.fixture
def digits(monkeypatch):
    """`data.mnist` gives a few embedded digits that claim to be the whole."""
    found = data.mnist("test", source="embedded")
    source = data.Source("env", "the folder that XAIUTILS_DATA names")
    few = data.ImageSet("MNIST", found.images[::8], found.labels[::8], found.categories, source)
    monkeypatch.setattr(data, "mnist", lambda split: few)
    return few


@pytest.fixture
def photographs(monkeypatch):
    monkeypatch.setattr(data, "imagenet_sample", data.photos)
    random = models.load_classifier("squeezenet1_1", weights="random")
    monkeypatch.setattr(models, "load_classifier", lambda name: random)


CURVE = ["--network=mnist-cnn", "--train-images=64", "--epochs=2", "--batch-size=16"]


def curve(folder, *more):
    places = [f"--work={folder / 'work'}", f"--out={folder / 'table'}"]
    options = [*CURVE, "--images=6", "--resamples=20", "--methods=lrp_epsilon"]
    return command.main(["training-curve", *places, *options, *more])


def test_a_training_becomes_tables(digits, tmp_path):
    assert curve(tmp_path) == 0
    points = pd.read_csv(tmp_path / "table-checkpoints.csv")
    assert sorted(points["step"].unique()) == [0, 4, 5, 6, 7, 8]
    assert (points["low"] <= points["mean"] + 1e-9).all()
    correlations = pd.read_csv(tmp_path / "table-correlations.csv")
    assert correlations["mean"].between(-1, 1).all()
    assert set(correlations["method"]) == {"lrp_epsilon", "(none)"}
    record = json.loads((tmp_path / "table.json").read_text())
    assert record["plan"]["labels"] == "true"
    assert str(tmp_path) not in json.dumps(record)


def test_a_second_start_trains_and_scores_nothing_again(digits, tmp_path, monkeypatch):
    curve(tmp_path)
    before = {p.name: p.stat().st_mtime_ns for p in (tmp_path / "work").iterdir()}
    table = (tmp_path / "table-correlations.csv").read_text()
    monkeypatch.setattr(models, "fit", None)
    monkeypatch.setattr(evaluation, "region_perturbation", None)
    curve(tmp_path)
    assert before == {p.name: p.stat().st_mtime_ns for p in (tmp_path / "work").iterdir()}
    assert (tmp_path / "table-correlations.csv").read_text() == table
    with pytest.raises(SystemExit, match="its seed is 0, this one's 1"):
        curve(tmp_path, "--seed=1")


def test_scores_are_those_of_region_perturbation(digits, tmp_path):
    curve(tmp_path)
    module = models.MnistCNN().eval()
    module.load_state_dict(load_file(tmp_path / "work" / "checkpoint-000008.safetensors"))
    x = torch.as_tensor(digits.images)[torch.linspace(0, len(digits) - 1, 6).long()]
    noise = evaluation.Uniform(0.0, 1.0)
    expected = evaluation.region_perturbation(module, x, None, None, 4, 8, "random", noise, 1)
    found = load_file(tmp_path / "work" / "scores-000008.safetensors")
    torch.testing.assert_close(found["aopc/logit/(none)"], expected.aopc(), atol=1e-5, rtol=1e-4)


def test_shuffled_labels_are_the_same_labels_in_another_order(digits):
    plans = [
        _training_curve.Plan("mnist-cnn", labels, 100, 1, 16, 2, (), 1, 0)
        for labels in ("true", "shuffled")
    ]
    true, shuffled = (_training_curve._load(plan)[0] for plan in plans)
    assert torch.equal(true.images, shuffled.images)
    assert not torch.equal(true.labels, shuffled.labels)
    assert torch.equal(true.labels.sort().values, shuffled.labels.sort().values)


@pytest.mark.parametrize(
    ("options", "expected"),
    [([], True), (["--labels=shuffled"], False), (["--augment=no"], False)],
)
def test_images_are_augmented_unless_labels_are_shuffled(
    digits, tmp_path, monkeypatch, options, expected
):
    fit, seen = models.fit, []

    def watched(*given, **named):
        seen.append(named["augment"] is not None)
        return fit(*given, **named)

    monkeypatch.setattr(models, "fit", watched)
    curve(tmp_path, *options)
    assert seen == [expected]
    assert json.loads((tmp_path / "table.json").read_text())["plan"]["augment"] is expected


def test_correlation_of_known_rows():
    first = np.array([1.0, 2.0, 3.0])
    rows = np.array([[2.0, 4.0, 6.0], [3.0, 2.0, 1.0], [5.0, 5.0, 5.0]])
    assert _training_curve.correlation(first, rows) == pytest.approx([1, -1, 0])


@pytest.mark.parametrize("change", ["--methods=grab_cam", "--epochs=0", "--images=1"])
def test_bad_options_of_a_training_are_refused(digits, tmp_path, change):
    with pytest.raises(SystemExit, match=change[2:8]):
        curve(tmp_path, change)
    assert not (tmp_path / "work").exists()


def complexity(folder, *more):
    places = [f"--work={folder / 'work'}", f"--out={folder / 'table'}", "--model=squeezenet1_1"]
    methods = "--methods=sensitivity,lrp_epsilon,random"
    return command.main(["complexity", *places, methods, "--images=0:6:2", *more])


def test_complexity_becomes_tables(photographs, tmp_path):
    assert complexity(tmp_path) == 0
    sizes = pd.read_csv(tmp_path / "table-sizes.csv").set_index(["measure", "setting", "method"])
    assert (sizes["images"] == 3).all()
    noise, lrp = (sizes.loc[("png", "grey", m), "mean"] for m in ("random", "lrp_epsilon"))
    assert noise > lrp
    pairs = pd.read_csv(tmp_path / "table-comparisons.csv")
    assert len(pairs.query("measure == 'entropy' and setting == 'grey'")) == 3
    assert set(pairs["setting"]) == {
        "grey", "grey, 99.5th percentile", "jet", "grey, one scale for all"}  # fmt: skip
    kept = {p: p.stat().st_mtime_ns for p in (tmp_path / "work").glob("*.safetensors")}
    complexity(tmp_path)
    assert all(path.stat().st_mtime_ns == time_ns for path, time_ns in kept.items())
    with pytest.raises(SystemExit, match="images"):
        complexity(tmp_path, "--images=0:1")


def test_a_way_of_drawing_is_added_to_tables_that_are_there(photographs, tmp_path):
    complexity(tmp_path, "--settings=grey")
    before = pd.read_csv(tmp_path / "table-sizes.csv")
    places = [f"--work={tmp_path / 'more'}", "--settings=grey, one scale for all", "--add"]
    complexity(tmp_path, *places)
    after = pd.read_csv(tmp_path / "table-sizes.csv")
    pd.testing.assert_frame_equal(after[: len(before)], before)
    assert set(after["setting"][len(before) :]) == {"grey, one scale for all"}
    sizes = after.query("measure == 'png' and method == 'sensitivity'")["mean"].tolist()
    assert sizes[1] < sizes[0]  # half as many levels
    with pytest.raises(SystemExit, match="data, seed differ"):
        complexity(tmp_path, f"--work={tmp_path / 'new'}", "--images=0:4:2", "--seed=1", "--add")


def choices(folder, part, *more):
    places = [f"--work={folder / part}", f"--out={folder / 'table'}"]
    options = ["--model=mnist_cnn", "--data=mnist", "--images=0:4", "--methods=lrp_epsilon,random"]
    return command.main(["choices", part, *places, *options, *more])


@pytest.fixture(scope="module")
def verdicts(tmp_path_factory):
    """The tables of a small run over eight digits, and these digits."""
    found = data.mnist("test", source="embedded")
    source = data.Source("env", "the folder that XAIUTILS_DATA names")
    few = data.ImageSet("MNIST", found.images[::8], found.labels[::8], found.categories, source)
    folder = tmp_path_factory.mktemp("verdicts")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(data, "mnist", lambda split: few)
        more = ["--images=0:8", "--methods=lrp_epsilon,sensitivity,random"]
        assert choices(folder, "verdicts", *more) == 0
    names = ("verdicts", "agreement", "reliability")
    tables = {name: pd.read_csv(folder / f"table-{name}.csv") for name in names}
    return tables, torch.as_tensor(few.images)[:8]


SETTING = ["fill", "size", "share", "output"]


def test_verdicts_agree_with_region_perturbation(verdicts):
    tables, x = verdicts
    table = tables["verdicts"].set_index([*SETTING, "measure", "method"])["mean"]
    module = models.load_classifier("mnist_cnn").module
    expected = evaluation.region_perturbation(module, x, None, None, 4, 8, "random", "blur", 1)
    found = table["blur", "middle", 0.16, "logit", "aopc_random", "(none)"]
    assert found == pytest.approx(expected.aopc().mean().item(), rel=1e-4)
    agreement = tables["agreement"].query("fill == 'uniform' and size == 'middle'")
    same = agreement.query("output == 'logit' and share == 0.16")["spearman"]
    assert same.tolist() == [1, 1, 1, 1]


def test_own_minus_borrowed_is_what_evaluation_says(verdicts):
    tables, x = verdicts
    table = tables["verdicts"].set_index([*SETTING, "measure", "method"])["mean"]
    module = models.load_classifier("mnist_cnn").module
    own = attribution.METHODS["sensitivity"](module, x)
    lent = evaluation.borrowed(own, module(x).argmax(dim=1))
    noise = evaluation.Uniform(0.0, 1.0)
    curves = [
        evaluation.region_perturbation(module, x, None, maps, 7, 1, order, noise, 1, "probability")
        for maps in (own, lent)
        for order in ("morf", "lerf")
    ]
    expected = evaluation.own_minus_borrowed(*curves).mean().item()
    found = table["uniform", "large", 0.08, "probability", "own_minus_borrowed", "sensitivity"]
    assert found == pytest.approx(expected, abs=1e-5)


def test_places_follow_the_means_and_the_small_fall_is_first_in_lerf_order(verdicts):
    rows = verdicts[0]["verdicts"].query("measure != 'aopc_random'")
    for (*_, measure), fork in rows.groupby([*SETTING, "measure"]):
        by_place = fork.sort_values("place")["mean"].to_numpy()
        gaps = np.diff(by_place) * (1 if measure == "aopc_lerf" else -1)
        assert (gaps >= 0).all()
        assert sorted(fork["place"]) == [1, 2, 3]
        others = fork.query("place > 1")["p_holm"]
        assert fork.query("place == 1")["p_holm"].item() == others.max()


def test_who_is_surely_first_by_hand():
    scores = torch.tensor([[1.0] * 8, [9.0] * 8, [9.0, 8.0] * 4])
    first = _choices._places(scores)
    assert [row["place"] for row in first] == [3, 1, 2]
    exact = [2 / 2**8, 2 / 2**8, 2 / 2**4]  # all signs alike; four of the eight differ
    assert first[0]["p_holm"] == pytest.approx(3 * exact[0])
    assert first[2]["p_holm"] == pytest.approx(exact[2])
    assert first[1]["p_holm"] == pytest.approx(exact[2])


def test_reliability_is_krippendorff_s_alpha_by_pairs():
    values = torch.rand(4, 6, generator=torch.Generator().manual_seed(1)).double()
    values[0, 2] = values[1, 2]  # two methods that one image can't tell apart
    ranks = np.stack([rankdata(column) for column in values.T.numpy()])  # a row for each image
    within, all_pairs = [], []
    for method in range(4):
        for i, j in permutations(range(6), 2):
            within.append((ranks[i, method] - ranks[j, method]) ** 2)
    for one, two in permutations(ranks.flatten(), 2):
        all_pairs.append((one - two) ** 2)
    found = _tables.reliability(values)
    assert found["alpha"] == pytest.approx(1 - np.mean(within) / np.mean(all_pairs))
    assert found["low"] <= found["alpha"] <= found["high"]
    assert _tables.reliability(torch.arange(4.0)[:, None].expand(4, 5))["alpha"] == 1
    assert _tables.reliability(values[:, :1])["alpha"] is None
    noise = torch.rand(8, 4000, generator=torch.Generator().manual_seed(0))
    assert abs(_tables.reliability(noise, resamples=2)["alpha"]) < 0.01


def test_places_are_the_map_s_own_borrowed_and_random(digits, tmp_path):
    assert choices(tmp_path, "placement") == 0
    table = pd.read_csv(tmp_path / "table-placement.csv")
    orders = {"scattered", "block", "start", "random, morf", "random, morf, borrowed"}
    assert orders < set(table["order"])
    differences = pd.read_csv(tmp_path / "table-differences.csv")
    mean = table.set_index(["fill", "order", "share"])["mean"]
    row = differences.iloc[0]
    found = mean[row["fill"], row["first"], row["share"]]
    found -= mean[row["fill"], row["second"], row["share"]]
    assert row["mean"] == pytest.approx(found, abs=1e-4)


def test_orders_are_orders_and_borrowed_ones_belong_to_the_neighbour():
    x = torch.rand(3, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    regions = evaluation.Regions(8, 8, 2)
    orders = _choices._orders(regions, x, {"map": x}, seed=0)
    for ranks in orders.values():
        assert torch.equal(ranks.sort(dim=1).values, torch.arange(16).expand(3, -1))
    assert torch.equal(orders["map, morf, borrowed"][1], orders["map, morf"][0])
    assert torch.equal(orders["map, lerf"], 15 - orders["map, morf"])
    first = (orders["block"] == 0).nonzero()[:, 1], (orders["block"] == 1).nonzero()[:, 1]
    apart = (first[0] // 4 - first[1] // 4).abs() + (first[0] % 4 - first[1] % 4).abs()
    assert apart.tolist() == [1, 1, 1]  # the first two regions of a block are neighbours


def test_a_part_is_stored_whole_or_not(tmp_path, monkeypatch):
    def fail(tensors, path, metadata):
        path.write_bytes(b"half")
        raise OSError("no space left on device")

    monkeypatch.setattr(_work, "save_file", fail)
    with pytest.raises(OSError, match="space"):
        _work.kept(tmp_path / "part.safetensors", lambda: {"a": torch.ones(2)})
    monkeypatch.undo()
    assert not (tmp_path / "part.safetensors").exists()
    stored = _work.kept(tmp_path / "part.safetensors", lambda: {"a": torch.ones(2)})
    again = _work.kept(tmp_path / "part.safetensors", lambda: {"a": torch.zeros(2)})
    assert torch.equal(stored["a"], again["a"])
