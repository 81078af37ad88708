"""Intervals over images and paired comparisons."""

import itertools

import pytest
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
