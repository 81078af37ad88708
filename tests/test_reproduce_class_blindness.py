"""The command class-blindness: likeness by loops, questions that share no class, its tables."""

from argparse import Namespace
from itertools import product

import pandas as pd
import pytest
import torch
from scipy.stats import pearsonr, spearmanr
from torch import nn

from xaiutils import attribution, evaluation
from xaiutils.attribution import Difference
from xaiutils.reproduce import _class_blindness as blindness


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_likeness_against_loops():
    first, second = drawn(3, 28, 28), drawn(3, 28, 28, seed=1)
    found = blindness.likeness(first, second)
    for n in range(3):
        one, other = first[n].double(), second[n].double()
        cosine = float((one * other).sum() / (one.square().sum() * other.square().sum()).sqrt())
        squares = [
            [[float(m[2 * r : 2 * r + 2, 2 * c : 2 * c + 2].sum()) for c in range(14)]
             for r in range(14)]
            for m in (one, other, one.abs(), other.abs())
        ]  # fmt: skip
        flat = [[value for row in rows for value in row] for rows in squares]
        positive = pearsonr(*[[max(v, 0) for v in values] for values in flat[:2]]).statistic
        expected = {"cosine": cosine, "size_of_cosine": abs(cosine), "positive_places": positive}
        expected["places"] = spearmanr(*flat[2:]).statistic
        assert {k: v[n].item() for k, v in found.items()} == pytest.approx(expected)


def test_a_turned_sign_is_seen_by_two_measures_only():
    maps = drawn(2, 28, 28)
    found = blindness.likeness(maps, -maps)
    assert found["cosine"].tolist() == pytest.approx([-1, -1])
    for measure in ("size_of_cosine", "places"):
        assert found[measure].tolist() == pytest.approx([1, 1])
    assert bool((found["positive_places"] < 0).all())
    empty = blindness.likeness(maps, torch.zeros_like(maps))
    assert all(bool((v == 0).all()) for v in empty.values())


def test_maps_however_small_are_as_alike_as_their_multiples():
    """A map whose norm is below 1e-8 is not pulled towards zero."""
    first, second = drawn(2, 28, 28).double(), drawn(2, 28, 28, seed=1).double()
    found, small = blindness.likeness(first, second), blindness.likeness(1e-15 * first, second)
    for measure, expected in found.items():
        torch.testing.assert_close(small[measure], expected, msg=measure)


def test_questions_share_no_class():
    outputs = drawn(8, 30)
    near, far = blindness.asked_classes(outputs)
    assert torch.equal(near, outputs.topk(4).indices)
    for n in range(8):
        lenders = [j for j in range(8) if far[n].tolist() == near[j, :2].tolist()]
        assert lenders
        assert n not in lenders
        assert not set(far[n].tolist()) & set(near[n].tolist())


@pytest.fixture(scope="module")
def block():
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 6, 3, 2), nn.ReLU(), nn.Conv2d(6, 8, 3, 2), nn.ReLU()]
    network = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 12)).eval()
    images = Namespace(images=drawn(5, 3, 28, 28))
    options = Namespace(
        device="cpu",
        methods=("gradient", "grad_cam", "lrp_z_plus"),
        contrastive=("clrp", "sglrp"),
        erased=("grad_cam",),
        watched=("difference", "logit"),
        region_size=7,
        seed=0,
    )
    fill = evaluation.Constant(0.0)
    found = blindness._block(options, Namespace(module=network), images, fill, range(5))
    return options, network, images.images, found


def test_a_block_holds_what_it_says(block):
    _, network, x, found = block
    near, far = blindness.asked_classes(network(x))
    maps = [
        attribution.gradient(network, x, target).sum(1)
        for target in (Difference(near[:, 0], near[:, 1]), Difference(near[:, 2], near[:, 3]))
    ]
    expected = blindness.likeness(*maps)
    lent = blindness.likeness(maps[0], maps[0].roll(1, 0))
    for measure in blindness.MEASURES:
        key = "like/gradient/difference/{}/" + measure
        torch.testing.assert_close(found[key.format("near")], expected[measure])
        torch.testing.assert_close(found[key.format("picture")], lent[measure])
    contrast = [attribution.sglrp(network, x, c).sum(1) for c in (near[:, 0], far[:, 0])]
    torch.testing.assert_close(
        found["like/sglrp/contrast/far/cosine"], blindness.likeness(*contrast)["cosine"]
    )


def test_the_difference_is_what_is_watched(block):
    _, network, x, found = block
    near, _ = blindness.asked_classes(network(x))
    cam = attribution.grad_cam(network, x, Difference(near[:, 0], near[:, 1]), relu=False)[:, 0]
    for n in range(5):
        a, b = near[n, :2].tolist()
        squares = cam[n].reshape(4, 7, 4, 7).sum((1, 3)).flatten()
        order = squares.argsort(descending=True)
        areas = []
        for ranks in (order, order.flip(0)):
            picture, scores = x[n : n + 1].clone(), []
            for k in (None, *ranks[:3].tolist()):
                if k is not None:
                    row, column = divmod(k, 4)
                    picture[..., 7 * row : 7 * row + 7, 7 * column : 7 * column + 7] = 0
                outputs = network(picture)[0].detach()
                scores.append(float(outputs[a] - outputs[b]))
            areas.append(sum(scores[0] - s for s in scores) / len(scores))
        value = found["area/difference/grad_cam/difference/abpc"][n].item()
        assert value == pytest.approx(areas[0] - areas[1], abs=1e-4)


def test_the_tables(block, tmp_path):
    options, _, _, found = block
    options.out = tmp_path / "t"
    blindness.write(options, found)
    tables = {
        name: pd.read_csv(tmp_path / f"t-{name}.csv").set_index
        for name in ("likeness", "gains", "areas", "differences")
    }
    like = tables["likeness"](["method", "target", "exchanged", "measure"])["mean"]
    key = ("grad_cam", "logit", "far", "places")
    assert like[key] == pytest.approx(found["/".join(("like", *key))].mean().item(), rel=1e-4)
    less = ("grad_cam", "logit", "far less picture", "places")
    null = like["grad_cam", "logit", "picture", "places"]
    assert like[less] == pytest.approx(like[key] - null, abs=1e-4)
    gains = tables["gains"](["method", "target", "exchanged", "measure"])
    assert len(gains) == 5 * 2 * 4
    for measure, exchanged in product(blindness.MEASURES, ("near", "far")):
        got = gains.loc["sglrp", "contrast", exchanged, measure]
        above = like["lrp_z_plus", "logit", f"{exchanged} less picture", measure]
        above -= like["sglrp", "contrast", f"{exchanged} less picture", measure]
        assert got["mean"] == pytest.approx(above, abs=1e-4)
        assert got["p_holm"] >= got["p_value"]
    rows = tables["differences"](["watched", "method", "first", "second"])
    areas = tables["areas"](["watched", "method", "map", "measure"])["mean"]
    expected = areas["logit", "grad_cam", "difference", "abpc"]
    expected -= areas["logit", "grad_cam", "logit", "abpc"]
    assert rows.loc["logit", "grad_cam", "difference", "logit"]["mean"] == pytest.approx(
        expected, abs=1e-4
    )


def test_a_part_may_be_left_out_but_not_both(block, tmp_path):
    options, _, _, found = block
    likeness = Namespace(**vars(options) | {"erased": (), "out": tmp_path / "a"})
    areas = Namespace(**vars(options) | {"methods": (), "contrastive": (), "out": tmp_path / "b"})
    for part in (likeness, areas):
        blindness._require_known(part)
        blindness.write(part, found)
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["a-gains.csv", "a-likeness.csv", "b-areas.csv", "b-differences.csv"]
    for nothing in ({"erased": ()}, {"watched": ()}):
        with pytest.raises(SystemExit, match="nothing to do"):
            blindness._require_known(Namespace(**vars(areas) | nothing))
    with pytest.raises(SystemExit, match="unknown"):
        blindness._require_known(Namespace(**vars(options) | {"methods": ("lime",)}))


def test_names_on_the_command_line():
    assert blindness._names_or_none("none") == ()
    assert blindness._names_or_none("clrp,sglrp,clrp") == ("clrp", "sglrp")
