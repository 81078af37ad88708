"""The ledger's rows on Samek et al.: signs, networks, epsilon and fills."""

from itertools import combinations

import pandas as pd
import pytest

from xaiutils.reproduce._claims import _samek
from xaiutils.reproduce._claims._verdict import judge

METHODS = ("lrp_alpha2_beta1", "lrp_epsilon", "input_x_gradient", "deconvnet_l2", "sensitivity")
LEAD = "LRP finds what the network uses better than deconvolution does"
EPSILON = "The epsilon rule is slightly ahead of alpha-beta"
EQUAL = "Uniform noise and the Dirichlet fill give nearly the same area"
TRAINING = "Over a training, the area over the perturbation curve rises with accuracy"


def write(folder, name, rows):
    pd.DataFrame(rows).to_csv(folder / f"{name}.csv", index=False)


def write_tables(folder, network, gap, methods=METHODS, fill_gap=None, width=1):
    """Tables in which each method leads the next by `gap`, give or take 1, by every measure."""

    def ends(value, half=1):
        return {"low": value - half, "high": value + half}

    pairs = [
        {"fill": "uniform", "measure": m, "first": a, "second": b, "difference": gap} | ends(gap)
        for m in ("aopc_morf", "abpc")
        for a, b in combinations(methods, 2)
    ]
    write(folder, f"samek-{network}-comparisons", pairs)
    areas = [
        {"fill": "uniform", "measure": measure, "method": m, "mean": mean, "images": 700}
        | ends(mean)
        for measure, mean in (("aopc_morf_minus_random", gap), ("abpc", 10.0))
        for m in methods
    ]
    write(folder, f"samek-{network}-areas", areas)
    apart = gap if fill_gap is None else fill_gap
    fills = [
        {"measure": "abpc", "method": METHODS[0], "first": a, "second": b, "difference": -apart}
        | ends(-apart, width)
        for a, b in (("blur", "uniform"), ("dirichlet", "uniform"))
    ]
    write(folder, f"samek-{network}-fills", fills)
    sizes = [
        {"measure": m, "setting": "grey", "first": a, "second": b, "difference": s * gap,
         "images": 900} | ends(s * gap)
        for m in ("png", "jpeg", "entropy")
        for a, b, s in (("sensitivity", "deconvnet_l2", 1), (METHODS[0], "deconvnet_l2", -1),
                        (METHODS[0], "sensitivity", -1))
    ]  # fmt: skip
    write(folder, f"complexity-{network}-comparisons", sizes)
    write_training(folder, "tiny_cnn")
    write_training(folder, "mnist_cnn")


def write_training(folder, network):
    correlations = [
        {"output": "logit", "measure": "aopc", "method": m, "correlation": c, "mean": 0.9,
         "low": 0.8, "high": 1.0, "images": 900}
        for m in (METHODS[0], "(none)")
        for c in ("pearson", "spearman")
    ]  # fmt: skip
    write(folder, f"training-{network}-correlations", correlations)


def judged(folder):
    return {row.claim.statement: row for row in judge(_samek.rows(folder))}


def test_a_pair_is_read_whichever_way_round_it_stands(tmp_path):
    write_tables(tmp_path, "squeezenet1_1", gap=3)
    rows = judged(tmp_path)
    assert (rows[LEAD].claim.effects[0].mean, rows[LEAD].verdict) == (3, "supported")
    fills = rows["The stronger the fill, the larger the area: uniform noise before blur"]
    assert (fills.claim.effects[0].low, fills.claim.effects[0].high) == (2, 4)
    for pair in ("sensitivity above deconvolution", "deconvolution above LRP"):
        assert rows[f"PNG files: {pair}"].claim.effects[0].mean == 3
    assert [effect.mean for effect in rows["Entropy: lowest for LRP"].claim.effects] == [3, 3]
    better = rows["Deconvolution finds it better than sensitivity does"].claim.effects[0]
    assert (better.mean, better.low, better.high, better.images) == (3, 2, 4, 700)


def test_the_digit_classifier_refutes_nothing_that_was_said_of_networks_for_photographs(tmp_path):
    write_tables(tmp_path, "squeezenet1_1", gap=3)
    write_tables(tmp_path, "mnist_cnn", gap=-3)
    row = judged(tmp_path)[LEAD]
    assert row.verdict == "supported"
    assert [found.says for found in row.findings] == ["for", "against"]


def test_networks_that_disagree_make_a_verdict_mixed(tmp_path):
    write_tables(tmp_path, "squeezenet1_1", gap=3)
    write_tables(tmp_path, "efficientnet_lite0", gap=-3)
    assert judged(tmp_path)[LEAD].verdict == "mixed"
    write_tables(tmp_path, "efficientnet_lite0", gap=0.5)
    assert judged(tmp_path)[LEAD].verdict == "inconclusive"
    write_tables(tmp_path, "squeezenet1_1", gap=-3)
    write_tables(tmp_path, "efficientnet_lite0", gap=-3)
    assert judged(tmp_path)[LEAD].verdict == "contradicted"


@pytest.mark.parametrize(
    ("apart", "width", "verdict"),
    [(0.2, 0.1, "supported"), (0.2, 2, "inconclusive"), (5, 0.1, "contradicted")],
)
def test_equal_fills_differ_by_less_than_a_tenth_of_the_area(tmp_path, apart, width, verdict):
    write_tables(tmp_path, "squeezenet1_1", gap=3, fill_gap=apart, width=width)
    row = judged(tmp_path)[EQUAL]
    assert row.claim.effects[0].margin == pytest.approx(1.0)  # of an area of 10
    assert row.verdict == verdict
    assert "within 10 % of the area" in row.claim.here


def test_epsilon_near_zero_is_gradient_times_input_and_tests_no_claim(tmp_path):
    write_tables(tmp_path, "squeezenet1_1", gap=3)
    row = judged(tmp_path)[EPSILON]
    assert row.verdict == "not testable here"
    assert row.claim.effects[0].mean == -3
    assert "Gradient x input" in row.claim.here


@pytest.mark.parametrize(
    "named", [("lrp_epsilon_0.01", "lrp_epsilon_100"), ("lrp_epsilon_100", "lrp_epsilon_0_01")]
)
def test_the_paper_s_epsilon_is_what_its_claim_is_judged_by(tmp_path, named):
    write_tables(tmp_path, "squeezenet1_1", gap=3, methods=(*named, *METHODS, "lrp_epsilon_plus"))
    row = judged(tmp_path)[EPSILON]
    assert row.verdict == "supported"
    assert [effect.measure.split(",")[0] for effect in row.claim.effects] == [
        "epsilon 0.01",
        "epsilon 100",
    ]


def test_epsilon_on_digits_alone_decides_nothing(tmp_path):
    write_tables(tmp_path, "squeezenet1_1", gap=3)
    write_tables(tmp_path, "mnist_cnn", gap=3, methods=("lrp_epsilon_100", *METHODS))
    row = judged(tmp_path)[EPSILON]
    assert row.verdict == "not testable here"
    assert "No network of the paper's kind" in row.claim.remark
    assert [effect.of_kind for effect in row.claim.effects] == [False]


def test_what_was_said_of_one_set_of_photographs_is_not_testable_on_another(tmp_path):
    write_tables(tmp_path, "squeezenet1_1", gap=3)
    row = judged(tmp_path)["Sensitivity is no better than a random order on SUN397"]
    assert row.verdict == "not testable here"
    assert row.claim.effects[0].mean == -3
    assert "SUN397" in row.claim.there


def test_a_training_is_judged_by_both_coefficients_beside_those_of_a_random_order(tmp_path):
    write_tables(tmp_path, "squeezenet1_1", gap=3)
    row = judged(tmp_path)[TRAINING]
    assert row.verdict == "supported"
    assert [effect.of_kind for effect in row.claim.effects] == [True, True, False, False]
    assert "Pearson 0.90 (digits), Spearman 0.90 (digits)" in row.claim.here


def test_the_set_up_of_each_claim_is_its_own(tmp_path):
    write_tables(tmp_path, "squeezenet1_1", gap=3)
    for statement, row in judged(tmp_path).items():
        if statement.startswith(("PNG", "JPEG", "Entropy")):
            assert "noise" not in row.claim.there, statement
        if "fill" in statement:
            assert row.claim.there.startswith("One data set, SUN397")


def test_maps_with_and_without_a_sign_are_drawn_on_one_scale_where_that_was_run(tmp_path):
    write_tables(tmp_path, "squeezenet1_1", gap=3)
    before = judged(tmp_path)["PNG files: deconvolution above LRP"]
    assert "half of the grey levels" in before.claim.here
    file = tmp_path / "complexity-squeezenet1_1-comparisons.csv"
    table = pd.read_csv(file)
    fair = table.assign(setting="grey, one scale for all")
    fair[["difference", "low", "high"]] = fair[["difference", "low", "high"]] * 2
    pd.concat([table, fair]).to_csv(file, index=False)
    after = judged(tmp_path)["PNG files: deconvolution above LRP"]
    assert (before.claim.effects[0].mean, after.claim.effects[0].mean) == (3, 6)
    assert "on one scale" in after.claim.here


def test_without_tables_there_is_no_ledger(tmp_path):
    with pytest.raises(FileNotFoundError, match="no table for the claim"):
        _samek.rows(tmp_path)
