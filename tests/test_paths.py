"""Integrated and expected gradients: baselines, completeness, axioms, and Captum."""

import captum.attr
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_networks import prepared, random_network, small
from torch import nn

from xaiutils import attribution, graph, models
from xaiutils.attribution import (
    CompletenessWarning,
    expected_gradients,
    integrated_gradients,
)

SEEDS = st.integers(0, 10_000)
FEW = settings(max_examples=5, deadline=None)


class Range:
    """What black and white are for a network."""

    low = torch.tensor([-2.0, -1.5, -1.0]).reshape(3, 1, 1)
    high = torch.tensor([2.0, 2.5, 3.0]).reshape(3, 1, 1)


def value(network, x, target):
    return network(x)[:, target].detach()


def naive(network, x, target, start, places, weights):
    """One step after another, by autograd."""
    total = torch.zeros_like(x)
    for place, weight in zip(places, weights, strict=True):
        point = (start + place * (x - start)).requires_grad_()
        (slope,) = torch.autograd.grad(network(point)[:, target].sum(), point)
        total += weight * slope
    return (x - start) * total


# ---------------------------------------------------------------------------- steps and passes


@pytest.mark.parametrize("batch_size", [None, 1, 2, 5, 100])
def test_passes_of_any_size_give_what_a_loop_gives(batch_size):
    network, x = small("residual")
    places, weights = (torch.tensor([0.5 - 15**0.5 / 10, 0.5, 0.5 + 15**0.5 / 10]).double(), 0)
    weights = torch.tensor([5 / 18, 8 / 18, 5 / 18]).double()
    start = 0.3 * torch.ones_like(x)
    expected = naive(network, x, 1, start, places, weights)
    options = {"baselines": 0.3, "n_steps": 3, "batch_size": batch_size}
    found, gap = integrated_gradients(network, x, 1, return_convergence_delta=True, **options)
    torch.testing.assert_close(found, expected)
    rise = value(network, x, 1) - value(network, start, 1)
    torch.testing.assert_close(gap, expected.sum((1, 2, 3)) - rise)


@pytest.mark.parametrize(("batch_size", "largest"), [(1, 1), (2, 2), (7, 6)])
def test_no_pass_is_larger_than_allowed(batch_size, largest, monkeypatch):
    """Three images: seven pictures at a time are two variants of each."""
    network, x = small("residual")
    network = graph.trace(network, x)
    seen = []
    whole = graph.Graph.record

    def spied(self, x, keep="all"):
        seen.append(len(x))
        return whole(self, x, keep)

    monkeypatch.setattr(graph.Graph, "record", spied)
    integrated_gradients(network, x, n_steps=7, batch_size=batch_size)
    expected_gradients(network, x, baselines=["uniform"], samples=5, batch_size=batch_size)
    attribution.smoothgrad(network, x, samples=5, batch_size=batch_size)
    assert max(seen) == largest
    assert sum(seen) == 3 * (3 + 7 + 5 + 5)  # the targets of all three, and the variants


def test_integrated_gradients_equal_captum_over_several_baselines():
    network, x = small("residual")
    several = [torch.full_like(x, each) for each in (-0.5, 0.0, 1.0)]
    oracle = captum.attr.IntegratedGradients(network)
    each = [oracle.attribute(x, start, 2, n_steps=11) for start in several]
    expected = torch.stack(each).mean(0)
    for handed in (several, [-0.5, 0.0, torch.ones(1, 1, 1)], [0.0, 1, -0.5]):
        found = integrated_gradients(network, x, 2, baselines=handed, n_steps=11)
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-12)


def test_a_tensor_of_another_number_of_baselines_is_a_set():
    network, x = small("residual")
    several = torch.randn(5, *x.shape[1:], dtype=x.dtype)
    found, gap = integrated_gradients(
        network, x, 0, baselines=several, n_steps=60, return_convergence_delta=True
    )
    listed = integrated_gradients(network, x, 0, baselines=list(several), n_steps=60)
    torch.testing.assert_close(found, listed)
    rise = value(network, x, 0) - value(network, several, 0).mean()
    torch.testing.assert_close(found.sum((1, 2, 3)) - rise, gap)
    own = torch.randn_like(x)  # as many as images: each has its own
    found = integrated_gradients(network, x, 0, baselines=own)
    alone = integrated_gradients(network, x[1:2], 0, baselines=own[1:2])
    torch.testing.assert_close(found[1:2], alone)
    assert not torch.allclose(found, integrated_gradients(network, x, 0, baselines=list(own)))


# ------------------------------------------------------------------------------- step counts


def test_steps_are_doubled_until_the_gap_is_small_enough(recwarn):
    network, x = small("dense")
    found, gap = integrated_gradients(
        network, x, 1, n_steps=None, tolerance=1e-3, return_convergence_delta=True
    )
    rise = value(network, x, 1) - value(network, torch.zeros_like(x), 1)
    assert bool((gap.abs() <= 1e-3 * rise.abs()).all())
    assert not [w for w in recwarn if issubclass(w.category, CompletenessWarning)]
    tries = [8 * 2**k for k in range(7)]
    fixed = {n: integrated_gradients(network, x, 1, n_steps=n) for n in tries}
    chosen = [
        next(n for n in tries if torch.allclose(fixed[n][i], found[i])) for i in range(len(x))
    ]
    for i, n in enumerate(chosen):
        missed = (fixed[n][i].sum() - rise[i]).abs() / rise[i].abs()
        assert missed <= 1e-3
        if n > 8:  # and half as many were not enough
            assert (fixed[n // 2][i].sum() - rise[i]).abs() / rise[i].abs() > 1e-3


def test_too_few_steps_are_warned_of():
    network, x = small("dense")
    with pytest.warns(CompletenessWarning, match="after 8 steps .* misses .* tolerance 1e-09"):
        integrated_gradients(network, x, 1, n_steps=None, tolerance=1e-9, max_steps=8)


def test_nothing_is_to_be_explained_where_the_baseline_is_the_image(recwarn):
    network, x = small("dense")
    found = integrated_gradients(network, x, 1, baselines=x, n_steps=None)
    assert torch.equal(found, torch.zeros_like(x))
    assert not [w for w in recwarn if issubclass(w.category, CompletenessWarning)]


# --------------------------------------------------------------------------------- baselines


def at(baselines, x, units=None, seed=0):
    """Return the one baseline that a linear network shows: the map is weight times x - x'."""
    network = nn.Sequential(nn.Flatten(), nn.Linear(x[0].numel(), 1, bias=False)).double().eval()
    network[1].weight.data.fill_(1.0)
    found = integrated_gradients(
        network, x, 0, baselines=baselines, units=units, n_steps=1, seed=seed
    )
    return x - found


def test_baselines_by_name_are_what_they_say():
    from scipy.ndimage import gaussian_filter

    x = torch.randn(2, 3, 20, 30, dtype=torch.float64)
    torch.testing.assert_close(at("black", x, Range()), Range.low.double().expand_as(x))
    torch.testing.assert_close(at("white", x, Range()), Range.high.double().expand_as(x))
    torch.testing.assert_close(at("mean", x), x.mean((2, 3), keepdim=True).expand_as(x))
    blurred = torch.stack(
        [torch.from_numpy(gaussian_filter(c.numpy(), 2.0, mode="nearest")) for c in x.flatten(0, 1)]
    )
    torch.testing.assert_close(at("blur", x), blurred.view_as(x))
    noise = at("uniform", x, Range())
    assert bool(((noise >= Range.low) & (noise <= Range.high)).all())
    middle, width = (Range.low + Range.high).flatten() / 2, (Range.high - Range.low).flatten()
    off = (noise[0].mean((1, 2)) - middle).abs() / (width / 12**0.5)
    assert bool((off < 4 / 600**0.5).all())  # of 600 pixels
    torch.testing.assert_close(at("uniform", x[1:], Range()), noise[1:])  # whatever the others are
    assert not torch.equal(at("uniform", x, Range(), seed=1), noise)
    own = at("uniform", x)
    assert bool((own <= x.amax((2, 3), keepdim=True)).all())
    assert bool((own >= x.amin((2, 3), keepdim=True)).all())
    torch.testing.assert_close(at(lambda images, generator: images / 2, x), x / 2)


def test_the_preprocessing_of_a_classifier_knows_where_black_is():
    clf = models.load_classifier("efficientnet_lite0", weights="random")
    x = torch.randn(1, 3, 16, 16)
    black = clf.preprocess.normalize(torch.zeros(3, 16, 16))[None]
    torch.testing.assert_close(at("black", x.double(), clf.preprocess), black.double())


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"baselines": "black"}, ValueError, "units=clf.preprocess"),
        ({"baselines": "blak"}, ValueError, "'black', 'white'"),
        ({"baselines": []}, ValueError, "empty"),
        ({"baselines": [{}]}, TypeError, "not dict"),
        ({"baselines": torch.zeros(2, 2)}, ValueError, "do not fit x"),
        ({"baselines": float("nan")}, ValueError, "NaN"),
        ({"baselines": lambda x, g: x[..., :3]}, ValueError, "do not fit x"),
        ({"n_steps": 0}, ValueError, "n_steps"),
        ({"n_steps": None, "max_steps": 0}, ValueError, "max_steps"),
        ({"n_steps": None, "tolerance": 0.0}, ValueError, "tolerance"),
        ({"batch_size": 0}, ValueError, "batch_size"),
    ],
)
def test_bad_options_are_refused(options, error, words):
    network, x = small("residual")
    with pytest.raises(error, match=words):
        integrated_gradients(network, x, 0, **options)


def test_a_blur_of_vectors_is_refused():
    network = prepared(nn.Sequential(nn.Linear(4, 2)))
    with pytest.raises(ValueError, match="'blur' is for pictures"):
        integrated_gradients(network, torch.randn(2, 4).double(), 0, baselines="blur")


# ------------------------------------------------------------------------- expected gradients


def test_expected_gradients_are_the_mean_of_their_pairs():
    """Against a loop with the same draws; passes of any size."""
    network, x = small("residual")
    starts = torch.randn(4, *x.shape[1:], dtype=x.dtype)
    generator = torch.Generator().manual_seed(3)
    samples = []
    for _ in range(6):
        start = starts[int(torch.randint(4, (1,), generator=generator))].expand_as(x)
        place = float(torch.rand(1, generator=generator, dtype=torch.float64))
        samples.append(naive(network, x, 1, start, [place], [1.0]))
    samples = torch.stack(samples)
    for batch_size in (None, 1, 7):
        found, error = expected_gradients(
            network,
            x,
            1,
            baselines=starts,
            samples=6,
            seed=3,
            return_standard_error=True,
            batch_size=batch_size,
        )
        torch.testing.assert_close(found, samples.mean(0))
        torch.testing.assert_close(error, samples.std(0) / 6**0.5)


def test_expected_gradients_come_near_and_their_error_falls_as_one_over_the_root():
    network, x = small("residual", batch=1)
    starts = list(torch.randn(3, *x.shape[1:], dtype=x.dtype))
    exact = integrated_gradients(network, x, 0, baselines=starts, n_steps=400)
    missed, errors = [], []
    for samples in (100, 1600):
        found, error = expected_gradients(
            network, x, 0, baselines=starts, samples=samples, return_standard_error=True
        )
        missed.append(float((found - exact).square().mean().sqrt()))
        errors.append(float(error.square().mean().sqrt()))
        inside = ((found - exact).abs() <= 3 * error).double().mean()
        assert inside > 0.95
    assert 3 < errors[0] / errors[1] < 5  # four times less for sixteen times the samples
    for off, error in zip(missed, errors, strict=True):
        assert 0.4 < off / error < 2.5


def test_expected_gradients_need_two_samples_for_an_error():
    network, x = small("residual")
    with pytest.raises(ValueError, match="at least 2"):
        expected_gradients(network, x, baselines=[0.0], samples=1, return_standard_error=True)
    with pytest.raises(ValueError, match="samples"):
        expected_gradients(network, x, baselines=[0.0], samples=0)


# ------------------------------------------------------------------------------------ axioms


@FEW
@given(SEEDS)
def test_completeness(seed):
    """The steps that it took keep the gap below the tolerance, or it says so."""
    network, x = random_network(seed)
    start = torch.randn_like(x)
    rise = value(network, x, 0) - value(network, start, 0)
    found, gap = integrated_gradients(
        network, x, 0, baselines=start, n_steps=400, return_convergence_delta=True
    )
    torch.testing.assert_close(found.sum((1, 2, 3)) - rise, gap, rtol=1e-9, atol=1e-12)
    assert bool((gap.abs() < 0.01 * found.abs().sum((1, 2, 3))).all())


class WithoutSome(nn.Module):
    """A network that never looks at some of the pixels."""

    def __init__(self, network, seen):
        super().__init__()
        self.network = network
        self.register_buffer("seen", seen)

    def forward(self, x):
        return self.network(x * self.seen)


@FEW
@given(SEEDS)
def test_dummy(seed):
    """What the network does not look at gets nothing, and so does what does not differ."""
    network, x = random_network(seed)
    seen = (torch.rand(x.shape[1:]) < 0.5).to(x)
    found = integrated_gradients(WithoutSome(network, seen).eval(), x, 0, n_steps=5)
    assert torch.equal(found * (1 - seen), torch.zeros_like(x))
    alike = (torch.rand(x.shape[1:]) < 0.5).to(x)
    start = x * alike + torch.randn_like(x) * (1 - alike)
    found = integrated_gradients(network, x, 0, baselines=start, n_steps=5)
    torch.testing.assert_close(found * alike, torch.zeros_like(x))


class Sum(nn.Module):
    """A weighted sum of two networks."""

    def __init__(self, first, second, a, b):
        super().__init__()
        self.first, self.second, self.a, self.b = first, second, a, b

    def forward(self, x):
        return self.a * self.first(x) + self.b * self.second(x)


@FEW
@given(SEEDS, SEEDS)
def test_linearity(one, other):
    (first, x), (second, _) = random_network(one), random_network(other)
    options = {"baselines": 0.4, "n_steps": 7}
    found = integrated_gradients(Sum(first, second, 2.0, -3.0).eval(), x, 1, **options)
    a, b = (integrated_gradients(each, x, 1, **options) for each in (first, second))
    torch.testing.assert_close(found, 2.0 * a - 3.0 * b, rtol=1e-9, atol=1e-12)


class Mirrored(nn.Module):
    """A network that cannot tell a picture from its mirror image."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, x):
        return self.network(x) + self.network(x.flip(3))


@FEW
@given(SEEDS)
def test_symmetry(seed):
    """Pixels that the network treats alike, and that are alike, get the same."""
    network, x = random_network(seed)
    x, start = (each + each.flip(3) for each in (x, torch.randn_like(x)))
    found = integrated_gradients(Mirrored(network).eval(), x, 0, baselines=start, n_steps=9)
    torch.testing.assert_close(found, found.flip(3), rtol=1e-9, atol=1e-12)


class SplitTwice(nn.Module):
    """The same function by other operations: relu(z) = z + relu(-z), half of each unit by each."""

    def __init__(self, first, last):
        super().__init__()
        self.first, self.last = first, last

    def forward(self, x):
        z = self.first(x)
        return self.last(0.5 * (z + torch.relu(-z)) + 0.5 * torch.relu(z))


def two_ways(seed):
    """Return a small network, one that is the same function, and inputs."""
    torch.manual_seed(seed)
    first, last = nn.Linear(5, 9).double(), nn.Linear(9, 3).double()
    plain = nn.Sequential(first, nn.ReLU(), last).eval()
    return plain, SplitTwice(first, last).eval(), torch.randn(4, 5, dtype=torch.float64)


@FEW
@given(SEEDS)
def test_implementation_invariance(seed):
    plain, other, x = two_ways(seed)
    torch.testing.assert_close(plain(x), other(x))
    for target in range(3):
        a, b = (integrated_gradients(n, x, target, baselines=0.1) for n in (plain, other))
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)


def test_input_times_gradient_is_not_complete():
    """The textbook example: 1 - relu(1 - x) does not change any more beyond 1."""
    network = nn.Sequential(nn.Linear(1, 1), nn.ReLU(), nn.Linear(1, 1)).eval()
    network[0].weight.data.fill_(-1.0), network[0].bias.data.fill_(1.0)
    network[2].weight.data.fill_(-1.0), network[2].bias.data.fill_(1.0)
    x = torch.tensor([[2.0]])
    assert network(x) - network(0 * x) == 1.0
    assert attribution.input_x_gradient(network, x, 0).item() == 0.0
    found = integrated_gradients(network, x, 0, n_steps=400).item()
    assert found == pytest.approx(1.0, abs=0.005)


def test_an_input_that_is_shifted_keeps_its_map_if_the_baseline_is_shifted_too():
    """Kindermans et al. 2019: f(x) = g(x + m), the same function of a picture in other units."""
    network, x = small("residual")
    first = network[1]
    shift = torch.randn(3, dtype=x.dtype)
    shifted, _ = small("residual")
    with torch.no_grad():
        shifted[1].bias -= first.weight.sum((2, 3)) @ shift  # reflected padding: no border
    moved = x + shift.reshape(3, 1, 1)
    torch.testing.assert_close(network(x), shifted(moved))
    start = torch.zeros_like(x)
    a = integrated_gradients(network, x, 0, baselines=start)
    b = integrated_gradients(shifted, moved, 0, baselines=start + shift.reshape(3, 1, 1))
    c = integrated_gradients(shifted, moved, 0, baselines=start)
    torch.testing.assert_close(a, b)
    assert (a - c).abs().max() > 0.1 * a.abs().max()
