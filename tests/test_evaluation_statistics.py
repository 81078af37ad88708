"""Intervals over images and paired comparisons."""

import itertools
import warnings

import numpy as np
import pytest
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from xaiutils import evaluation


def test_holm_by_hand():
    # 4 x 0.01, 3 x 0.02, then 2 x 0.02 raised to the one before, then 1 x 0.5.
    assert evaluation.holm([0.02, 0.01, 0.5, 0.022]) == pytest.approx([0.06, 0.04, 0.5, 0.06])
    assert evaluation.holm([0.6, 0.7]) == [1.0, 1.0]


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_lies_between_nothing_and_bonferroni_and_keeps_the_order(p_values):
    adjusted = evaluation.holm(p_values)
    for p, q in zip(p_values, adjusted, strict=True):
        assert p <= q <= min(1, len(p_values) * p)
    pairs = sorted(zip(p_values, adjusted, strict=True))
    assert all(a[1] <= b[1] for a, b in itertools.pairwise(pairs))


def test_the_sign_flip_test_equals_all_sign_patterns():
    differences = torch.tensor([0.9, 1.4, -0.2, 0.7, 0.4, 1.1, 0.3, -0.5]).double()
    patterns = torch.tensor(list(itertools.product([-1.0, 1.0], repeat=8))).double()
    exact = ((patterns @ differences).abs() >= differences.sum() - 1e-6).double().mean().item()
    assert evaluation.sign_flip(differences, resamples=40_000) == pytest.approx(exact, abs=0.005)


def test_the_sign_flip_test_of_no_difference_is_one():
    assert evaluation.sign_flip(torch.zeros(10)) == 1.0


def test_the_bootstrap_interval_has_the_standard_error_of_the_mean():
    values = torch.randn(400, generator=torch.Generator().manual_seed(1)).double() + 2
    found = evaluation.bootstrap(values)
    assert found.mean == pytest.approx(values.mean().item())
    assert found.images == 400
    half = 1.96 * values.std().item() / 20
    assert found.high - found.low == pytest.approx(2 * half, rel=0.05)
    assert evaluation.bootstrap(values, level=0.5).high < found.high
    assert evaluation.bootstrap(values) == found
    assert str(found).startswith(f"{found.mean:.4g} [")


def test_the_bootstrap_interval_covers_the_truth_about_as_often_as_it_says():
    draw = torch.Generator().manual_seed(3)
    intervals = [
        evaluation.bootstrap(torch.randn(60, generator=draw), resamples=500, seed=i)
        for i in range(200)
    ]
    covered = sum(i.low <= 0 <= i.high for i in intervals)
    assert 178 <= covered <= 199  # 95 % of 200 is 190


def test_with_six_images_the_bootstrap_interval_is_too_short():
    draw = torch.Generator().manual_seed(4)
    intervals = [
        evaluation.bootstrap(torch.randn(6, generator=draw), resamples=500, seed=i)
        for i in range(400)
    ]
    assert 0.80 <= sum(i.low <= 0 <= i.high for i in intervals) / 400 <= 0.90


def test_equivalence_equals_both_one_sided_tests_over_all_sign_patterns():
    differences = torch.tensor([0.3, -0.2, 0.1, 0.4, -0.1, 0.2, 0.05, -0.3]).double()
    patterns = torch.tensor(list(itertools.product([-1.0, 1.0], repeat=8))).double()
    both = (differences + 0.3, 0.3 - differences)
    exact = max(((patterns @ side) >= side.sum() - 1e-9).double().mean().item() for side in both)
    found = evaluation.equivalence(differences, 0.3, resamples=40_000)
    assert found == pytest.approx(exact, abs=0.005)
    assert found == evaluation.equivalence(-differences, 0.3, resamples=40_000)


def test_equivalence_is_shown_by_small_differences_and_by_nothing_else():
    draw = torch.Generator().manual_seed(5)
    noise = torch.randn(100, generator=draw)
    noise -= noise.mean()
    assert evaluation.equivalence(noise, margin=0.5) < 0.001
    assert evaluation.equivalence(noise, margin=0.05) > 0.05  # the margin is a half error wide
    assert evaluation.sign_flip(noise) > 0.05  # no difference is shown either
    for shift in (0.5, -0.5, 50.0):  # at the margin and beyond it
        assert evaluation.equivalence(noise + shift, margin=0.5) > 0.05


def test_equivalence_at_the_margin_is_claimed_at_most_as_often_as_it_says():
    draw = torch.Generator().manual_seed(6)
    samples = 0.4 + torch.randn(300, 40, generator=draw)
    wrong = sum(evaluation.equivalence(s, 0.4, resamples=400, seed=1) < 0.05 for s in samples)
    assert wrong <= 26  # 5 % of 300 is 15, three standard errors more are 26


@pytest.mark.parametrize("margin", [0, -1, float("nan"), float("inf")])
def test_a_margin_is_a_positive_number(margin):
    with pytest.raises(ValueError, match="margin must be a positive number"):
        evaluation.equivalence(torch.arange(3.0), margin)


def test_methods_are_compared_in_pairs_on_the_same_images():
    draw = torch.Generator().manual_seed(2)
    difficulty = 10 * torch.randn(50, generator=draw)  # shared by all methods, hence no matter
    methods = {
        "good": difficulty + 1 + torch.randn(50, generator=draw),
        "poor": difficulty + torch.randn(50, generator=draw),
        "also poor": difficulty + torch.randn(50, generator=draw),
    }
    found = {(c.first, c.second): c for c in evaluation.compare(methods)}
    assert list(found) == [("good", "poor"), ("good", "also poor"), ("poor", "also poor")]
    assert found["good", "poor"].p_adjusted < 0.01
    assert found["good", "poor"].difference.low > 0
    assert found["poor", "also poor"].p_adjusted > 0.05
    assert [c.p_adjusted for c in found.values()] == evaluation.holm(
        [c.p_value for c in found.values()]
    )
    expected = (methods["good"] - methods["poor"]).double().mean().item()
    assert found["good", "poor"].difference.mean == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (torch.ones(1), "two images"),
        (torch.ones(3, 2), r"\(3, 2\)"),
        (torch.tensor([1.0, torch.nan]), "NaN"),
    ],
)
def test_bad_values_are_refused(values, words):
    with pytest.raises(ValueError, match=words):
        evaluation.bootstrap(values)
    with pytest.raises(ValueError, match=words):
        evaluation.sign_flip(values)
    with pytest.raises(ValueError, match=words):
        evaluation.equivalence(values, 1.0)


def test_bad_comparisons_are_refused():
    with pytest.raises(ValueError, match="two methods"):
        evaluation.compare({"one": torch.ones(3)})
    with pytest.raises(ValueError, match="same images"):
        evaluation.compare({"one": torch.ones(3), "other": torch.ones(4)})
    with pytest.raises(ValueError, match="level"):
        evaluation.bootstrap(torch.arange(3.0), level=95)
    with pytest.raises(ValueError, match="resamples"):
        evaluation.bootstrap(torch.arange(3.0), resamples=0)


def _skewed(number, seed=7):
    """Values whose mean is far from their median."""
    return torch.randn(number, generator=torch.Generator().manual_seed(seed)).double().exp()


def test_bca_equals_the_formula_written_out():
    values = _skewed(15).numpy()
    found = evaluation.bootstrap(torch.from_numpy(values), resamples=500, seed=3, method="bca")
    picks = np.random.default_rng(3).integers(15, size=(500, 15))
    drawn = [values[pick].mean() for pick in picks]
    normal = scipy.stats.norm
    bias = normal.ppf(sum(mean < values.mean() for mean in drawn) / 500)
    without = [np.delete(values, i).mean() for i in range(15)]
    off = [np.mean(without) - one for one in without]
    skew = sum(d**3 for d in off) / (6 * sum(d**2 for d in off) ** 1.5)
    ends = [
        normal.cdf(bias + (bias + z) / (1 - skew * (bias + z))) for z in normal.ppf([0.025, 0.975])
    ]
    assert (found.low, found.high) == pytest.approx(tuple(np.quantile(drawn, ends)), abs=1e-9)


def test_bca_agrees_with_scipy():
    values = _skewed(25)
    found = evaluation.bootstrap(values, resamples=20_000, method="bca")
    theirs = scipy.stats.bootstrap(
        (values.numpy(),), np.mean, n_resamples=20_000, method="BCa", rng=1
    ).confidence_interval
    width = theirs.high - theirs.low
    assert found.low == pytest.approx(theirs.low, abs=0.03 * width)
    assert found.high == pytest.approx(theirs.high, abs=0.03 * width)
    plain = evaluation.bootstrap(values, resamples=20_000)
    assert found.high - plain.high > 0.05 * width  # the long tail is to the right


def test_bca_of_equal_values_is_that_value():
    found = evaluation.bootstrap(torch.full((12,), 0.1), method="bca")
    assert (found.low, found.high) == pytest.approx((0.1, 0.1))


def test_the_t_interval_is_students():
    values = _skewed(6)
    theirs = scipy.stats.ttest_1samp(values.numpy(), 0).confidence_interval(0.9)
    found = evaluation.bootstrap(values, level=0.9, method="t")
    assert (found.low, found.high) == pytest.approx((theirs.low, theirs.high))


def test_with_six_images_the_t_interval_covers_as_often_as_it_says():
    draw = torch.Generator().manual_seed(4)
    samples = torch.randn(400, 6, generator=draw)
    intervals = [evaluation.bootstrap(sample, method="t") for sample in samples]
    assert 0.925 <= sum(i.low <= 0 <= i.high for i in intervals) / 400 <= 0.975


def test_too_few_images_are_warned_of_unless_t_is_asked_for():
    with pytest.warns(evaluation.FewImagesWarning, match="9 images by 'percentile'"):
        evaluation.bootstrap(torch.arange(9.0))
    with pytest.warns(evaluation.FewImagesWarning, match="3 groups by 'bca'"):
        evaluation.bootstrap(torch.arange(30.0), method="bca", groups=[0, 1, 2] * 10)
    with pytest.warns(evaluation.FewImagesWarning):
        evaluation.compare({"one": torch.arange(4.0), "other": torch.ones(4)})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        evaluation.bootstrap(torch.arange(10.0))
        evaluation.bootstrap(torch.arange(9.0), method="t")


def _trainings(groups, images, seed=8):
    """Values of images in trainings that differ more than the images do, and their trainings."""
    draw = torch.Generator().manual_seed(seed)
    shifts = 3 * torch.randn(groups, 1, generator=draw)
    values = shifts + torch.randn(groups, images, generator=draw)
    return values.double().flatten(), torch.arange(groups).repeat_interleave(images)


def test_groups_are_the_unit_where_they_differ():
    values, groups = _trainings(12, 30)
    alone = evaluation.bootstrap(values)
    found = evaluation.bootstrap(values, groups=groups)
    assert found.mean == pytest.approx(alone.mean)
    assert (found.images, found.groups, alone.groups) == (360, 12, None)
    error = values.view(12, 30).mean(dim=1).std().item() / 12**0.5
    assert found.high - found.low == pytest.approx(2 * 1.96 * error, rel=0.1)
    assert found.high - found.low > 4 * (alone.high - alone.low)


def test_the_bootstrap_of_groups_equals_a_naive_loop():
    values, groups = _trainings(10, 4)
    random, drawn = np.random.default_rng(5), []
    for _ in range(4000):
        means = []
        for group in random.integers(10, size=10):
            images = values[groups == group].numpy()
            means.append(images[random.integers(4, size=4)].mean())
        drawn.append(np.mean(means))
    found = evaluation.bootstrap(values, groups=[f"training {i}" for i in groups.tolist()])
    low, high = np.quantile(drawn, [0.025, 0.975])
    assert found.low == pytest.approx(low, abs=0.03 * (high - low))
    assert found.high == pytest.approx(high, abs=0.03 * (high - low))


def test_each_group_counts_alike_and_t_takes_their_means():
    values, groups = torch.tensor([1.0, 1.0, 1.0, 4.0, 2.0, 4.0]), [0, 0, 0, 1, 2, 2]
    found = evaluation.bootstrap(values, method="t", groups=groups)
    theirs = scipy.stats.ttest_1samp([1.0, 4.0, 3.0], 0).confidence_interval(0.95)
    assert found.mean == pytest.approx(8 / 3)
    assert (found.low, found.high) == pytest.approx((theirs.low, theirs.high))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"groups": [0] * 12}, "of one group, 0: .* at least two"),
        ({"groups": list(range(15))}, "12 images, not 15; 15 groups"),
        ({"groups": torch.zeros(2)}, "12 images, not 2; 1 groups"),
        ({"method": "BCa"}, "method is 'BCa': choose from 'percentile', 'bca', 't'"),
    ],
)
def test_bad_groups_and_methods_are_refused(options, words):
    with pytest.raises(ValueError, match=words):
        evaluation.bootstrap(torch.arange(12.0), **options)


def test_few_patterns_of_signs_are_all_counted():
    differences = torch.tensor([0.9, 1.4, -0.2, 0.7, 0.4, 1.1, 0.3, -0.5]).double()
    patterns = torch.tensor(list(itertools.product([-1.0, 1.0], repeat=8))).double()
    exact = ((patterns @ differences).abs() >= differences.sum() - 1e-6).double().mean().item()
    assert evaluation.sign_flip(differences, tail="normal") == exact


@pytest.mark.parametrize(("number", "every", "share"), [(30, 8, 0.6), (100, 4, 0.9)])
def test_far_tails_of_the_sign_flip_test_are_near_the_exact_ones(number, every, share):
    # Flipped signs of 1, 2, 3, ... are Wilcoxon's signed ranks, whose distribution is known.
    ranks = np.array([-i if i % every == 0 else i for i in range(1, number + 1)], dtype=float)
    exact = scipy.stats.wilcoxon(ranks, method="exact").pvalue
    found = evaluation.sign_flip(torch.from_numpy(ranks), tail="normal")
    assert evaluation.sign_flip(torch.from_numpy(ranks)) <= 2 / 10_001
    assert exact < found < exact**share  # on the safe side, with most of the digits


def test_near_tails_are_counted_as_before_and_no_p_value_is_impossible():
    near = torch.randn(40, generator=torch.Generator().manual_seed(9)).double() + 0.3
    assert evaluation.sign_flip(near, tail="normal") == evaluation.sign_flip(near)
    assert evaluation.sign_flip(torch.ones(15).double(), tail="normal") >= 2.0**-14
    with pytest.raises(ValueError, match="tail is 'exact'"):
        evaluation.sign_flip(near, tail="exact")
    far = {"one": near + 5, "other": near, "third": near - 5}
    assert all(pair.p_adjusted < 1e-6 for pair in evaluation.compare(far, tail="normal"))
