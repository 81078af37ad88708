"""Occlusion as a method: against a naive loop, Captum, and the measure of the same name."""

import captum.attr
import pytest
import torch
from small_networks import prepared, small
from torch import nn

from xaiutils import attribution, data, evaluation, graph, models
from xaiutils.attribution import occlusion


def close(found, wanted, tolerance=1e-6):
    torch.testing.assert_close(found, wanted, atol=tolerance, rtol=0)


def smooth():
    """A network that nobody can read as gates, and that is no function of few pixels."""
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 4, 3), nn.Tanh(), nn.Flatten(), nn.Linear(4 * 8 * 7, 5)]
    return nn.Sequential(*layers).double().eval()


def pictures():
    return torch.rand(2, 3, 10, 9, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def naive(network, x, targets, size, stride, baseline):
    """Square by square, pixel by pixel."""
    total, times = torch.zeros(len(x), *x.shape[2:]).double(), torch.zeros(x.shape[2:]).double()
    tops = range(0, max(x.shape[2] - size + stride, 1), stride)
    lefts = range(0, max(x.shape[3] - size + stride, 1), stride)
    with torch.no_grad():
        whole = network(x)[range(len(x)), targets]
        for top in tops:
            for left in lefts:
                covered = x.clone()
                square = (..., slice(top, top + size), slice(left, left + size))
                covered[square] = baseline.expand_as(x)[square]
                total[square] += (whole - network(covered)[range(len(x)), targets])[:, None, None]
                times[square] += 1
    return (total / times)[:, None]


@pytest.mark.parametrize(("size", "stride"), [(3, 3), (4, 2), (5, 1), (9, 9), (4, 3), (1, 1)])
@pytest.mark.parametrize("windowed", [None, True, False])
def test_it_is_a_naive_loop_and_captums(size, stride, windowed):
    network, x, targets = smooth(), pictures(), torch.tensor([3, 1])
    baseline = torch.full((1, 3, 1, 1), 0.2, dtype=torch.float64)
    found = occlusion(network, x, targets, size, stride, baselines=baseline, windowed=windowed)
    close(found, naive(network, x, targets, size, stride, baseline))
    theirs = captum.attr.Occlusion(network).attribute(
        x, (3, size, size), (3, stride, stride), 0.2, targets
    )
    close(found.expand_as(theirs), theirs.double())


@pytest.mark.parametrize("region_size", [3, 4, 5])
def test_on_a_grid_it_is_what_region_occlusion_measures(region_size):
    classifier = models.load_classifier("mnist_cnn")
    x = data.mnist("test", source="embedded").images[:3]
    falls = evaluation.region_occlusion(
        classifier.module, x, None, region_size, evaluation.Constant(0.0)
    )
    found = occlusion(classifier.module, x, None, region_size)
    close(found[:, 0, ::region_size, ::region_size].double(), falls, 1e-5)
    unchanged = evaluation.Regions(28, 28, region_size).scores(x[:, 0], "max") == 0
    assert unchanged.any()
    assert (found[:, 0, ::region_size, ::region_size].flatten(1)[unchanged] == 0).all()


def test_covered_pixels_that_do_nothing_have_no_fall():
    network = evaluation.AdditiveNetwork(3, side=12, region_size=4, seed=1)
    x = torch.rand(2, 3, 12, 12, generator=torch.Generator().manual_seed(0))
    x[:, :, 4:8, 8:] = 0.0  # what they are covered with
    found = occlusion(network, x, 0, 4)
    assert (found[:, :, 4:8, 8:].abs() < 1e-6).all()
    wanted = network.contributions(x) - network.contributions(torch.zeros_like(x))
    close(found[:, 0, ::4, ::4], wanted, 1e-5)
    close(found.sum((1, 2, 3)) / 16, (network(x) - network(torch.zeros_like(x)))[:, 0], 1e-4)


def test_the_falls_do_not_sum_to_the_output():
    """The counter-example: of a maximum of two pixels neither is missed alone."""

    class Largest(nn.Module):
        def forward(self, x):
            return x.flatten(1).amax(1, keepdim=True)

    found = occlusion(Largest().eval(), torch.ones(1, 1, 1, 2), 0, 1)
    assert found.abs().sum() == 0


@pytest.mark.parametrize("name", ["residual", "functional", "bottleneck", "dense", "used_twice"])
@pytest.mark.filterwarnings("ignore:Using padding='same'")
def test_windows_batches_and_graphs_change_nothing(name):
    network, x = small(name)
    wanted = occlusion(network, x, region_size=2, windowed=False)
    assert wanted.shape == (len(x), 1, *x.shape[2:])
    assert wanted.dtype == x.dtype
    traced = graph.trace(network, x)
    for batch_size in (1, 5, None):
        close(occlusion(network, x, None, 2, batch_size=batch_size, windowed=True), wanted)
        close(occlusion(traced, x, None, 2, batch_size=batch_size), wanted)
    close(occlusion(network, x[1:2], None, 2), wanted[1:2])


def test_targets_baselines_and_outputs():
    network, x = smooth(), pictures()
    pair = occlusion(network, x, attribution.Difference(2, 4), 3)
    close(pair, occlusion(network, x, 2, 3) - occlusion(network, x, 4, 3))
    same = occlusion(network, x, attribution.Probability(1), 3)
    close(same, occlusion(network, x, 1, 3, output=lambda y: y.softmax(1)))
    each = occlusion(network, x, 0, 3, baselines=x.flip(0))
    close(each[:1], occlusion(network, x[:1], 0, 3, baselines=x[1:]))
    colour = occlusion(network, x, 0, 3, baselines="mean")
    close(colour, occlusion(network, x, 0, 3, baselines=x.mean((2, 3), keepdim=True)))


class Deciding(nn.Module):
    """No graph can hold it, and nobody can differentiate it."""

    def forward(self, x):
        with torch.no_grad():
            return (x if bool((x < 1e9).all()) else -x).round().flatten(1)[:, :4]


def test_networks_that_cannot_be_read_or_differentiated_are_run_whole():
    x = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]])
    assert occlusion(Deciding().eval(), x, 2, 1).flatten().tolist() == [0, 0, 3, 0]
    with pytest.raises(ValueError, match="windowed=True needs a network that can be traced"):
        occlusion(Deciding().eval(), x, 2, 1, windowed=True)


def test_the_default_is_a_fourteenth():
    network, x = small("residual")  # 9 pixels
    close(occlusion(network, x), occlusion(network, x, None, 1, 1))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"region_size": 10}, "larger than the images of 10 x 9"),
        ({"region_size": 0}, "region_size must be a whole number"),
        ({"region_size": 2.5}, "region_size must be a whole number"),
        ({"region_size": 3, "stride": 4}, "pixels are left out"),
        ({"stride": -1}, "stride must be a whole number"),
        ({"baselines": float("nan")}, "baselines hold NaN"),
        ({"baselines": torch.zeros(4, 3, 10, 9)}, "a set of 4"),
        ({"baselines": torch.zeros(3, 2)}, "do not fit x"),
        ({"batch_size": 0}, "batch_size must be"),
        ({"target": 5}, "from 0 to 4"),
    ],
)
def test_bad_input(options, message):
    with pytest.raises(ValueError, match=message):
        occlusion(smooth(), pictures(), **options)


def test_outputs_that_overflow_where_pixels_are_covered_are_named():
    class Reciprocal(nn.Module):
        def forward(self, x):
            return (1 / x).flatten(1)

    with pytest.raises(ValueError, match="not finite for a picture of image 0"):
        occlusion(Reciprocal().eval(), torch.ones(1, 1, 2, 2), 0, 1)


def test_images_only():
    network = prepared(nn.Sequential(nn.Linear(4, 2)))
    with pytest.raises(ValueError, match=r"must be images \(N, C, H, W\)"):
        occlusion(network, torch.ones(2, 4, dtype=torch.float64), 0, 1)
