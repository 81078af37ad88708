"""Shapley values: against all subsets, Captum, and the axioms that single them out."""

import itertools
import math

import captum.attr
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_networks import prepared, random_network, small
from torch import nn

from xaiutils import attribution, data, evaluation, graph, models
from xaiutils.attribution import shapley

few = settings(max_examples=6, deadline=None)
seeds = st.integers(0, 10_000)


def close(found, wanted, tolerance=1e-9):
    torch.testing.assert_close(found, wanted, atol=tolerance, rtol=0)


def in_regions(heatmap, region_size):
    """The values of the regions (N, count), which the map holds in shares."""
    regions = evaluation.Regions(*heatmap.shape[2:], region_size)
    return regions.scores(heatmap[:, 0])


def with_regions(x, baseline, regions, present):
    shown = torch.zeros(x.shape[2:], dtype=torch.bool)
    for region in present:
        shown |= regions.index == region
    return torch.where(shown, x, baseline)


@torch.no_grad()
def over_all_orders(network, x, target, region_size, baseline):
    """The definition, for one image: the mean over all n! orders, written as loops."""
    regions = evaluation.Regions(*x.shape[2:], region_size)
    baseline = torch.as_tensor(baseline, dtype=x.dtype).expand_as(x)
    known = {}

    def value(present):
        key = frozenset(present)
        if key not in known:
            known[key] = network(with_regions(x, baseline, regions, key))[0, target].item()
        return known[key]

    found = torch.zeros(regions.count, dtype=torch.float64)
    for order in itertools.permutations(range(regions.count)):
        for place, region in enumerate(order):
            found[region] += value(order[: place + 1]) - value(order[:place])
    return found / math.factorial(regions.count)


def network_of_four():
    """Pictures (1, 4, 6) in regions of 3: two of three rows, two of one."""
    torch.manual_seed(1)
    layers = [nn.Conv2d(1, 4, 3, padding=1), nn.Tanh(), nn.MaxPool2d(2), nn.Flatten()]
    network = prepared(nn.Sequential(*layers, nn.Linear(24, 3)))
    return network, torch.rand(2, 1, 4, 6, dtype=torch.float64)


# -------------------------------------------------------------------------------- the definition


def test_exact_is_the_mean_over_all_orders():
    network, x = network_of_four()
    found = in_regions(shapley(network, x, 1, 3, exact=True, baselines=0.3), 3)
    for image in range(2):
        close(found[image], over_all_orders(network, x[image : image + 1], 1, 3, 0.3))


def test_three_players_by_hand():
    """v = 6 a b + 12 a b c: a pair shares in halves, a trio in thirds."""

    class Game(nn.Module):
        def forward(self, x):
            a, b, c = x[:, 0, 0].unbind(1)
            return (6 * a * b + 12 * a * b * c)[:, None]

    ones = torch.ones(1, 1, 1, 3)
    found = shapley(Game().eval(), ones, 0, 1, exact=True)
    close(found.flatten(), torch.tensor([7.0, 7.0, 4.0]), 1e-6)
    drawn, error = shapley(Game().eval(), ones, 0, 1, permutations=600, return_standard_error=True)
    assert ((drawn - found).abs() < 3 * error).all()


def test_a_pair_of_orders_is_exact_where_regions_interact_in_pairs():
    class Pairs(nn.Module):
        def forward(self, x):
            x = x.flatten(1)
            return (x.sum(1).square() + x @ torch.arange(6.0, dtype=x.dtype))[:, None]

    x = torch.randn(2, 1, 2, 3, dtype=torch.float64)
    exact = shapley(Pairs().eval(), x, 0, 1, exact=True)
    close(shapley(Pairs().eval(), x, 0, 1, permutations=2, seed=4), exact)
    alone = shapley(Pairs().eval(), x, 0, 1, permutations=2, antithetic=False, seed=4)
    assert (alone - exact).abs().max() > 0.1


@pytest.mark.parametrize("antithetic", [True, False])
def test_drawn_orders_are_orders_and_every_second_is_the_first_backwards(antithetic):
    orders = attribution._shapley._orders(7, 6, antithetic, 0)
    assert (orders.sort(1).values == torch.arange(7)).all()
    assert torch.equal(orders[1::2], orders[::2].flip(1)) == antithetic
    assert not torch.equal(orders, attribution._shapley._orders(7, 6, antithetic, 1))


# -------------------------------------------------------------------------------- sampling


@pytest.mark.parametrize("antithetic", [True, False])
def test_the_standard_error_is_that_of_repeated_draws(antithetic):
    network, x = network_of_four()
    exact = in_regions(shapley(network, x, 1, 2, exact=True), 2)
    found = [
        shapley(
            network, x, 1, 2, permutations=16, seed=seed, antithetic=antithetic,
            return_standard_error=True, windowed=False,
        )
        for seed in range(60)
    ]  # fmt: skip
    off = torch.stack([in_regions(values, 2) - exact for values, _ in found])
    errors = torch.stack([in_regions(error, 2) for _, error in found])
    ratio = off.square().mean((0, 1)).sqrt() / errors.square().mean((0, 1)).sqrt()
    assert ((ratio > 0.75) & (ratio < 1.3)).all()
    assert (off.mean(0).abs() < 4 * errors.square().mean(0).sqrt() / 60**0.5).all()


def test_the_error_falls_as_one_over_the_root_of_the_orders():
    network, x = network_of_four()
    exact = shapley(network, x, 1, 2, exact=True)

    def off(permutations):
        found = [
            shapley(network, x, 1, 2, permutations=permutations, seed=seed, windowed=False) - exact
            for seed in range(30)
        ]
        return torch.stack(found).square().mean().sqrt()

    slope = torch.log(off(4) / off(64)) / math.log(16)
    assert 0.4 < slope < 0.6


def test_pairs_of_orders_pay_on_digits():
    """At equal work the variance is less than two thirds; how much less depends on the picture."""
    classifier = models.load_classifier("mnist_cnn")
    x = data.mnist("test", source="embedded").images[:4]
    options = {"region_size": 7, "permutations": 40, "return_standard_error": True}
    paired, alone = (
        shapley(classifier.module, x, antithetic=antithetic, **options)[1].square().mean()
        for antithetic in (True, False)
    )
    assert paired < 2 / 3 * alone


def test_captums_sampling_agrees_within_three_standard_errors():
    network, x = network_of_four()
    regions = evaluation.Regions(4, 6, 2)
    torch.manual_seed(0)
    samples = 400
    theirs = captum.attr.ShapleyValueSampling(network).attribute(
        x, 0.3, 1, feature_mask=regions.index[None, None], n_samples=samples,
        perturbations_per_eval=8,
    )  # fmt: skip
    found, error = shapley(
        network, x, 1, 2, permutations=samples, antithetic=False, baselines=0.3,
        return_standard_error=True,
    )  # fmt: skip
    area = 4  # captum gives each pixel the value of its region
    assert ((found - theirs / area).abs() < 3 * 2**0.5 * error).all()
    exact = shapley(network, x, 1, 2, exact=True, baselines=0.3)
    assert ((exact - theirs / area).abs() < 3 * error).all()


# -------------------------------------------------------------------------------- axioms


@given(seeds, st.booleans())
@few
def test_efficiency_of_every_order(seed, exact):
    network, x = random_network(seed)
    found = shapley(network, x, None, 3, exact=exact, permutations=1, antithetic=False, seed=seed)
    with torch.no_grad():
        whole, empty = network(x), network(torch.zeros_like(x))
    rise = (whole - empty).gather(1, whole.argmax(1, keepdim=True))[:, 0]
    close(found.sum((1, 2, 3)), rise)


@given(seeds, st.booleans())
@few
def test_dummy(seed, exact):
    """Who changes nothing gets nothing: a region that looks like the baseline, or is not read."""
    network, x = random_network(seed)
    x[:, :, :4, 4:] = 0.5
    found = shapley(network, x, 0, 4, exact=exact, permutations=2, baselines=0.5)
    assert (found[:, :, :4, 4:] == 0).all()
    blind = nn.Sequential(Blind(), network).eval()
    found = shapley(blind, x, 0, 4, exact=exact, permutations=2)
    assert (found[:, :, 4:, :4].abs() < 1e-12).all()
    others = in_regions(shapley(network, x, 0, 4, exact=exact, permutations=2), 4)
    assert (others.abs() > 1e-12).any()


class Blind(nn.Module):
    """Does not see the lower left."""

    def __init__(self):
        super().__init__()
        seen = torch.ones(1, 1, 8, 8, dtype=torch.float64)
        seen[:, :, 4:, :4] = 0
        self.register_buffer("seen", seen)

    def forward(self, x):
        return x * self.seen


@given(seeds)
@few
def test_linearity(seed):
    """In the target, order by order: all targets see the same orders."""
    network, x = random_network(seed)
    weights = torch.tensor([1.0, -2.0, 0.5, 0.0], dtype=torch.float64)
    options = {"region_size": 3, "permutations": 2, "seed": seed}
    each = [w * shapley(network, x, k, **options) for k, w in enumerate(weights)]
    close(shapley(network, x, weights, **options), sum(each))
    close(
        shapley(network, x, attribution.Difference(0, 3), **options),
        shapley(network, x, 0, **options) - shapley(network, x, 3, **options),
    )


@given(seeds)
@few
def test_symmetry(seed):
    """Who can be exchanged gets the same, over all orders."""
    torch.manual_seed(seed)
    head = prepared(nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 1)), seed)

    class Symmetric(nn.Module):
        def forward(self, x):
            a, b, c, d = x.flatten(1).unbind(1)
            return head(torch.stack([a * b, c, d], dim=1))

    x = torch.tensor([[[[1.0, 1.0], [2.0, 3.0]]]], dtype=torch.float64)
    exact = shapley(Symmetric().eval(), x, 0, 1, exact=True).flatten()
    close(exact[0], exact[1])


def test_symmetry_of_a_single_order_fails():
    class Both(nn.Module):
        def forward(self, x):
            return x.flatten(1).prod(1, keepdim=True)

    found = shapley(Both().eval(), torch.ones(1, 1, 1, 2), 0, 1, permutations=1, antithetic=False)
    assert sorted(found.flatten().tolist()) == [0, 1]
    found = shapley(Both().eval(), torch.ones(1, 1, 1, 2), 0, 1, permutations=2)
    assert found.flatten().tolist() == [0.5, 0.5]


# -------------------------------------------------------------------------------- ways to compute


@pytest.mark.parametrize("name", ["residual", "functional", "bottleneck", "dense", "used_twice"])
@pytest.mark.filterwarnings("ignore:Using padding='same'")
def test_windows_batches_and_graphs_change_nothing(name):
    network, x = small(name)
    options = {"region_size": 2, "permutations": 4, "return_standard_error": True}
    wanted = shapley(network, x, windowed=False, **options)
    assert wanted[0].shape == wanted[1].shape == (len(x), 1, *x.shape[2:])
    assert wanted[0].dtype == x.dtype
    traced = graph.trace(network, x)
    for batch_size in (1, 7, None):
        for windowed in (True, None):
            found = shapley(traced, x, batch_size=batch_size, windowed=windowed, **options)
            for each, other in zip(found, wanted, strict=True):
                close(each, other)
    close(shapley(network, x[1:2], **options)[0], wanted[0][1:2])


def test_the_digit_network():
    classifier = models.load_classifier("mnist_cnn")
    x = data.mnist("test", source="embedded").images[:2]
    whole = shapley(classifier.module, x, None, 5, permutations=4, windowed=False)
    found = shapley(classifier.module, x, None, 5, permutations=4, windowed=True)
    close(found, whole, 1e-5)
    with torch.no_grad():
        logits = classifier.module(x)
        rise = logits.amax(1) - classifier.module(torch.zeros_like(x))[[0, 1], logits.argmax(1)]
    close(found.sum((1, 2, 3)), rise, 1e-4)
    close(shapley(classifier.module, x), shapley(classifier.module, x, None, 4))  # a seventh


def test_one_region():
    network, x = network_of_four()
    x = x[..., :4]
    head = prepared(nn.Sequential(network[0], nn.Tanh(), nn.Flatten(), nn.Linear(64, 3)))
    with torch.no_grad():
        rise = (head(x) - head(torch.zeros_like(x)))[:, 2]
    for exact in (True, False):
        found = shapley(head, x, 2, 4, exact=exact, permutations=2)
        close(found, (rise / 16).view(2, 1, 1, 1).expand(2, 1, 4, 4))


class Deciding(nn.Module):
    """No graph can hold it, and nobody can differentiate it."""

    def forward(self, x):
        with torch.no_grad():
            return (x if bool((x < 1e9).all()) else -x).round().flatten(1).cumsum(1)[:, 1:]


def test_networks_that_cannot_be_read_or_differentiated_are_run_whole():
    x = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]])
    assert shapley(Deciding().eval(), x, 1, 1).flatten().tolist() == [1, 2, 3, 0]
    with pytest.raises(ValueError, match="windowed=True needs a network that can be traced"):
        shapley(Deciding().eval(), x, 1, 1, windowed=True)


def test_exact_has_no_error():
    network, x = network_of_four()
    found, error = shapley(network, x, 0, 3, exact=True, return_standard_error=True)
    assert found.shape == error.shape
    assert (error == 0).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"region_size": 5}, "larger than the images of 4 x 6"),
        ({"region_size": -1}, "region_size must be a whole number"),
        ({"region_size": 1, "exact": True}, r"24 regions have 2\*\*24 subsets"),
        ({"permutations": 0}, "permutations must be a whole number"),
        ({"permutations": -2}, "permutations must be a whole number"),
        ({"permutations": 3}, "come in pairs"),
        ({"permutations": 2, "return_standard_error": True}, "at least 4 permutations"),
        (
            {"permutations": 1, "antithetic": False, "return_standard_error": True},
            "at least 2 permutations",
        ),
        ({"baselines": float("inf")}, "baselines hold NaN"),
        ({"baselines": torch.zeros(3, 1, 4, 6)}, "a set of 3"),
        ({"batch_size": 0}, "batch_size must be"),
        ({"target": 3}, "from 0 to 2"),
    ],
)
def test_bad_input(options, message):
    network, x = network_of_four()
    with pytest.raises(ValueError, match=message):
        shapley(network, x, **options)
