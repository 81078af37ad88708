"""One call that measures maps, holds them against controls, and says how surely they differ."""

import subprocess
import sys
import warnings
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from matplotlib.collections import PathCollection

from xaiutils import evaluation, plot
from xaiutils.evaluation import AdditiveNetwork, Constant, region_perturbation, report

ROOT = Path(__file__).parents[1]
IMAGES = 12
OPTIONS = {"region_size": 4, "steps": 4, "fill": "uniform", "repeats": 2}


@pytest.fixture(scope="module")
def network():
    return AdditiveNetwork(1, 16, 4, seed=2)


@pytest.fixture(scope="module")
def x():
    return torch.rand(IMAGES, 1, 16, 16, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def maps(network, x):
    noise = torch.randn(IMAGES, 1, 16, 16, generator=torch.Generator().manual_seed(2))
    truth = network.contributions(x)[:, None]
    return {"truth": torch.nn.functional.interpolate(truth, scale_factor=4), "noise": noise}


@pytest.fixture(scope="module")
def found(network, x, maps):
    return report(network, x, maps, 0, seed=5, draws=3, **OPTIONS)


def _row(found, *names):
    frame = found.frame.set_index(["method", "measure", "control"])
    return frame.loc[names]


def test_every_row_equals_a_naive_loop(network, x, maps, found):
    def areas(order, given, repeats=2):
        options = OPTIONS | {"repeats": repeats}
        return region_perturbation(network, x, 0, given, order=order, seed=5, **options).aopc()

    lent = {name: evaluation.borrowed(found, seed=5) for name, found in maps.items()}
    size = {name: found.abs() for name, found in maps.items()}
    for name in maps:
        by_lot = areas("random", None, repeats=3)
        morf = [areas("morf", one[name]) for one in (maps, lent, size)] + [by_lot]
        lerf = [areas("lerf", one[name]) for one in (maps, lent, size)] + [by_lot]
        for place, control in enumerate(("borrowed", "unsigned", "random"), start=1):
            expected = {
                "aopc_morf": morf[0] - morf[place],
                "aopc_lerf": lerf[place] - lerf[0],
                "abpc": morf[0] - lerf[0] - (morf[place] - lerf[place]),
            }
            for measure, gain in expected.items():
                row = _row(found, name, measure, control)
                assert row["gain"] == pytest.approx(gain.mean().item(), abs=1e-6)
                interval = evaluation.bootstrap(gain, method="t")
                assert row["gain_low"] == pytest.approx(interval.low, abs=1e-6)
                assert row["gain_high"] == pytest.approx(interval.high, abs=1e-6)
                assert row["p"] == pytest.approx(evaluation.sign_flip(gain, tail="normal"))
        value = evaluation.bootstrap(morf[0] - lerf[0], method="t")
        row = _row(found, name, "abpc", "borrowed")
        assert (row["value"], row["low"], row["high"]) == pytest.approx(
            (value.mean, value.low, value.high), abs=1e-6
        )


def test_p_values_are_corrected_for_all_rows(found):
    assert len(found.frame) == 2 * 3 * 3
    assert found.frame["p_holm"].tolist() == evaluation.holm(found.frame["p"].tolist())
    assert (found.frame["images"] == IMAGES).all()


def test_the_truth_is_ahead_of_every_control_and_noise_is_not(found):
    for control in ("borrowed", "random"):
        assert _row(found, "truth", "abpc", control)["gain_low"] > 0
        row = _row(found, "noise", "abpc", control)
        assert row["gain_low"] < 0 < row["gain_high"]


def test_maps_that_know_nothing_of_the_picture_gain_nothing_over_borrowed_ones(network, x):
    same = evaluation.centre_prior(x)
    row = report(network, x, same, 0, controls=["borrowed"], **OPTIONS).frame.iloc[2]
    assert row["measure"] == "abpc"
    assert (row["gain"], row["gain_low"], row["gain_high"], row["p"]) == (0, 0, 0, 1)


def test_ties_and_constant_maps_are_counted_and_not_warned_of(network, x):
    flat = torch.zeros_like(x)
    flat[0, 0, :4, :4] = 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        frame = report(network, x, flat, 0, controls=[], **OPTIONS).frame
    assert frame["constant"].tolist() == [IMAGES - 1] * 3
    assert frame["tied"].iloc[0] == pytest.approx((15 + 16 * (IMAGES - 1)) / IMAGES)
    assert frame["control"].isna().all()


def test_shared_controls_are_the_same_for_all_methods(network, x, maps):
    chosen = ["centre", "picture", "block"]
    found = report(network, x, maps, 0, measures=["aopc_morf"], controls=chosen, **OPTIONS)
    for control in chosen:
        one, other = (found.per_image[name, "aopc_morf", control] for name in maps)
        assert torch.equal(one, other)
    block = region_perturbation(network, x, 0, None, order="block", **OPTIONS | {"repeats": 10})
    assert torch.equal(found.per_image["noise", "aopc_morf", "block"], block.aopc())


def test_the_defaults_suit_the_size_of_the_images(network, x, maps):
    # A seventh of 16 pixels is 2: 64 regions, of which 16 % are 10.
    found = report(network, x, maps["truth"], 0, fill=Constant(torch.zeros(1, 16, 16)), controls=[])
    again = region_perturbation(
        network, x, 0, maps["truth"], 2, 10, fill=Constant(torch.zeros(1, 16, 16)), repeats=1
    )
    assert torch.equal(found.per_image["maps", "aopc_morf", "own"], again.aopc())


def test_a_measure_of_ones_own_is_one_line(network, x, maps, monkeypatch):
    def correlation(model, x, target, maps, region_size, seed):
        assert (region_size, seed) == (4, 0)
        truth = model.contributions(x)
        scores = torch.nn.functional.avg_pool2d(maps, region_size)
        return evaluation.rank_correlation(scores, truth)

    mine = evaluation.measure_of_maps(correlation, "rank correlation")
    monkeypatch.setitem(evaluation.MEASURES, "mine", mine)
    found = report(network, x, maps, 0, measures=["mine"], draws=2, **OPTIONS)
    assert _row(found, "truth", "mine", "borrowed")["value"] == pytest.approx(1)
    assert _row(found, "truth", "mine", "random")["gain_low"] > 0.5
    # The lot's map ranks the regions as the lot does.
    lots = region_perturbation(network, x, 0, None, 4, 4, "random", repeats=2).perturbation.draws
    by_lot = torch.stack(
        [-torch.stack([lots.random_ranks(i, k) for i in range(IMAGES)]) for k in range(2)]
    ).view(2, IMAGES, 4, 4)
    truth = network.contributions(x)
    expected = sum(evaluation.rank_correlation(one, truth) for one in by_lot) / 2
    assert found.per_image["truth", "mine", "random"] == pytest.approx(expected)


def test_few_images_are_warned_of_once(network, x, maps):
    with pytest.warns(evaluation.FewImagesWarning, match="9 images are few") as caught:
        report(network, x[:9], maps["noise"][:9], 0, interval="bca", **OPTIONS)
    assert len(caught) == 1


def test_the_interval_is_bca_where_there_are_enough_images(network, maps):
    x = torch.rand(20, 1, 16, 16, generator=torch.Generator().manual_seed(3))
    found = report(network, x, x, 0, measures=["abpc"], controls=["random"], **OPTIONS)
    own = found.per_image["maps", "abpc", "own"]
    assert found.frame["low"][0] == evaluation.bootstrap(own, method="bca").low
    again = report(network, x, x, 0, measures=["abpc"], controls=[], interval="t", **OPTIONS)
    assert again.frame["low"][0] == evaluation.bootstrap(own, method="t").low


def test_the_figure_draws_every_row_and_says_it(found):
    figure = found.figure()
    words = plot.alternative_text(figure)
    assert "area between the curves, truth: " in words
    assert words.count("ahead of borrowed by") == 2 * 3
    assert len(figure.axes) == 2 * 3
    left, right = figure.axes[4:]
    drawn = [c for c in right.collections if isinstance(c, PathCollection)]
    dots = np.concatenate([dot.get_offsets() for dot in drawn])
    gains = found.frame[found.frame["measure"] == "abpc"]["gain"]
    assert sorted(dots[:, 0].tolist()) == pytest.approx(sorted(gains))
    assert [label.get_text() for label in left.get_yticklabels()] == ["truth", "noise"]
    plt.close(figure)


@pytest.mark.parametrize(
    ("given", "error", "words"),
    [
        ({"maps": torch.full((12, 1, 16, 16), torch.nan)}, ValueError, "'maps'.* NaN .* 12 of 12"),
        ({"maps": torch.zeros(12, 1, 8, 8)}, ValueError, r"shape \(12, 16, 16\)"),
        ({"maps": {}}, ValueError, "at least one method"),
        ({"measures": ["aopc"]}, ValueError, "unknown measure 'aopc'; there are aopc_morf"),
        ({"measures": []}, ValueError, "at least one measure"),
        ({"measures": "abpc"}, TypeError, r"measures must be a list .*\['abpc'\]"),
        ({"controls": ["lent"]}, ValueError, "unknown control 'lent'; there are borrowed"),
        ({"region_sise": 4}, TypeError, "no option 'region_sise'; there are batch_size"),
        ({"draws": 0}, ValueError, "draws must be at least 1"),
        ({"steps": 100}, ValueError, "100 steps need as many regions"),
        ({"interval": "BCa"}, ValueError, "method is 'BCa'"),
    ],
)
def test_bad_input_is_refused(network, x, maps, given, error, words):
    options = OPTIONS | {"maps": maps} | given
    with pytest.raises(error, match=words):
        report(network, x, target=0, **options)


def test_a_single_image_has_nothing_to_borrow_from(network, x, maps):
    with pytest.raises(ValueError, match=r"at least two images: .* nothing to borrow"):
        report(network, x[:1], maps["noise"][:1], 0, **OPTIONS)


def test_a_misspelt_option_fails_in_mypy(tmp_path):
    snippet = tmp_path / "snippet.py"
    modules = [ROOT / f"xaiutils/evaluation/_{n}.py" for n in ("report", "faithfulness", "options")]
    calls = {
        "report(None, None, None, region_size=4)": None,
        "report(None, None, None, region_sise=4)": "region_sise",
        "deletion(None, None, None, None, repeats=4)": None,
        "deletion(None, None, None, None, repeat=4)": "repeat",
        "infidelity(None, None, None, None, edge='keep')": None,
        "infidelity(None, None, None, None, egde='keep')": "egde",
    }
    start = [
        "from xaiutils.evaluation._faithfulness import deletion, infidelity",
        "from xaiutils.evaluation._report import report",
    ]
    snippet.write_text("\n".join([*start, *calls]))
    # Nothing else is followed, torch least of all, so that this takes seconds.
    arguments = ["--follow-imports=skip", "--config-file=", f"--cache-dir={tmp_path}"]
    checked = subprocess.run(
        [sys.executable, "-m", "mypy", *arguments, str(snippet), *map(str, modules)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    errors = [line for line in checked.stdout.splitlines() if f"{snippet}" in line]
    errors = [line for line in errors if "error" in line]
    misspelt = {len(start) + i: word for i, word in enumerate(calls.values(), 1) if word}
    assert len(errors) == len(misspelt), checked.stdout + checked.stderr
    for error, (line, word) in zip(errors, misspelt.items(), strict=True):
        assert f":{line}: " in error
        assert f'Unexpected keyword argument "{word}"' in error


def test_the_other_metrics_are_measures_too(network, x, maps):
    names = ["insertion", "deletion", "saco"]
    options = OPTIONS | {"fill": "uniform"}
    found = report(network, x, maps, 0, measures=names, controls=["borrowed"], **options)
    given = (network, x, 0, maps["noise"])
    expected = {
        "insertion": evaluation.insertion(*given, region_size=4, repeats=2),
        "deletion": evaluation.deletion(*given, region_size=4, repeats=2),
        "saco": evaluation.saco(*given, region_size=4, repeats=2),
    }
    for name, values in expected.items():
        assert found.per_image["noise", name, "own"] == pytest.approx(values, abs=1e-5)
    rows = found.frame.set_index(["measure", "method"])
    lower = rows.loc["deletion", "truth"]
    assert lower["gain"] == pytest.approx(lower["control_value"] - lower["value"])
    for name in names:
        assert rows.loc[(name, "truth"), "gain_low"] > 0
