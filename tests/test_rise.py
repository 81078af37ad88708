"""RISE: masks by the authors' recipe, and the estimate against all masks there are."""

import itertools

import pytest
import torch
from skimage.transform import resize
from small_networks import prepared, small
from torch import nn

from xaiutils import attribution, graph
from xaiutils.attribution import rise
from xaiutils.attribution._rise import _Masks


def close(found, wanted, tolerance=1e-9):
    torch.testing.assert_close(found, wanted, atol=tolerance, rtol=0)


def network_and_input():
    torch.manual_seed(1)
    layers = [nn.Conv2d(2, 4, 3, padding=1), nn.Tanh(), nn.MaxPool2d(2), nn.Flatten()]
    network = prepared(nn.Sequential(*layers, nn.Linear(24, 3)))
    return network, torch.rand(2, 2, 4, 6, dtype=torch.float64)


def of_cells(masks, numbers):
    """Masks that skimage enlarges and this test cuts out, as the authors' code does."""
    found = []
    for number in numbers:
        large = resize(
            masks._cells[number, 0].numpy(), masks._whole, order=1, mode="edge", anti_aliasing=False
        )
        row, column = masks._places[number].tolist()
        height, width = masks._size
        found.append(torch.from_numpy(large[row : row + height, column : column + width]))
    return torch.stack(found)


# -------------------------------------------------------------------------------- the masks


@pytest.mark.parametrize(("size", "grid"), [((28, 28), 7), ((30, 21), 8), ((9, 9), 9), ((5, 7), 2)])
def test_masks_are_grids_enlarged_and_shifted(size, grid):
    masks = _Masks(40, grid, 0.4, 3, torch.zeros(1, 1, *size, dtype=torch.float64))
    found = masks[torch.arange(40)]
    assert found.shape == (40, 1, *size)
    close(found[:, 0], of_cells(masks, range(40)).double(), 1e-6)
    assert masks._whole == [(grid + 1) * -(-side // grid) for side in size]
    for dim, side in enumerate(size):
        places = masks._places[:, dim]
        assert places.min() >= 0
        assert places.max() < -(-side // grid)  # a cell


def test_masks_have_their_probability_everywhere():
    masks = _Masks(4000, 4, 0.3, 0, torch.zeros(1, 1, 12, 12))
    mean = masks[torch.arange(4000)].mean((0, 1))
    assert (mean - 0.3).abs().max() < 5 * (0.3 * 0.7 / 4000) ** 0.5


def test_the_rim_alone_differs_from_the_authors_recipe():
    """They mirror the grid at the centres of its outermost cells: half a cell at the rim."""
    masks = _Masks(20, 4, 0.5, 0, torch.zeros(1, 1, 12, 12))
    inside = 0
    for cells in masks._cells[:, 0].numpy():
        edge, mirror = (
            resize(cells, (15, 15), order=1, mode=mode, anti_aliasing=False)
            for mode in ("edge", "reflect")
        )
        inside = max(inside, abs(edge - mirror)[2:-2, 2:-2].max())
    assert inside < 1e-12


# -------------------------------------------------------------------------------- the estimate


def naive(network, x, target, masks, keep, baseline):
    """The formula, mask by mask."""
    seen = masks[torch.arange(len(masks))]
    found, errors = [], []
    with torch.no_grad():
        for image in x:
            terms = [network(baseline + m * (image - baseline)[None])[0, target] * m for m in seen]
            terms = torch.stack(terms) / keep
            found.append(terms.mean(0))
            errors.append(terms.std(0) / len(terms) ** 0.5)
    return torch.stack(found), torch.stack(errors)


@pytest.mark.parametrize(("baseline", "keep"), [(0.0, 0.5), (0.4, 0.25)])
def test_it_is_the_published_mean(baseline, keep):
    network, x = network_and_input()
    options = {"masks": 50, "grid": 3, "keep": keep, "baselines": baseline, "seed": 2}
    found, error = rise(network, x, 1, return_standard_error=True, **options)
    wanted = naive(network, x, 1, _Masks(50, 3, keep, 2, x), keep, baseline)
    close(found, wanted[0])
    close(error, wanted[1])
    close(rise(network, x, 1, **options), found)


def test_divided_by_the_masks_a_constant_has_no_noise():
    class Constant(nn.Module):
        def forward(self, x):
            return 3.0 + 0 * x.flatten(1)[:, :2]

    x = torch.rand(1, 1, 6, 6)
    found, error = rise(
        Constant().eval(), x, 0, masks=30, grid=2, normalise="masks", return_standard_error=True
    )
    close(found, torch.full_like(found, 3), 1e-5)
    assert (error < 1e-3).all()
    published = rise(Constant().eval(), x, 0, masks=30, grid=2)
    assert published.std() > 0.05


def all_masks(network, x, target, grid):
    """The expectation: over all grids and all places, each as likely as the others."""
    cells = torch.tensor(list(itertools.product([0.0, 1.0], repeat=grid * grid)))
    side = -(-x.shape[2] // grid)
    masks = _Masks(len(cells) * side * side, grid, 0.5, 0, x)
    masks._cells = cells.view(-1, 1, grid, grid).repeat_interleave(side * side, 0)
    places = torch.cartesian_prod(torch.arange(side), torch.arange(side))
    masks._places = places.repeat(len(cells), 1)
    seen = masks[torch.arange(len(masks))]
    with torch.no_grad():
        scores = network(seen * x)[:, target]
    return (scores[:, None, None, None] * seen).mean(0) / 0.5, seen.mean(0)


@pytest.mark.parametrize("normalise", ["probability", "masks"])
def test_it_estimates_the_mean_over_all_masks(normalise):
    network, x = network_and_input()
    network = prepared(nn.Sequential(network[0], nn.Tanh(), nn.Flatten(), nn.Linear(64, 3)))
    x = x[:1, :, :, :4]
    wanted, mean = all_masks(network, x, 2, 2)
    close(mean, torch.full_like(mean, 0.5), 1e-7)
    z = []
    for seed in range(40):
        found, error = rise(
            network, x, 2, masks=100, grid=2, seed=seed, normalise=normalise,
            return_standard_error=True,
        )  # fmt: skip
        z.append((found[0] - wanted) / error)
    z = torch.stack(z)
    assert 0.7 < z.square().mean().sqrt() < 1.3
    assert (z.mean(0).abs() < 4 / 40**0.5).all()
    few, many = (
        rise(network, x, 2, masks=n, grid=2, normalise=normalise, return_standard_error=True)[1]
        for n in (100, 1600)
    )
    assert 3.2 < (few / many).mean() < 4.8  # one over the root


# -------------------------------------------------------------------------------- ways to compute


@pytest.mark.parametrize("name", ["residual", "bottleneck", "dense"])
def test_usual_interface(name):
    network, x = small(name)
    options = {"masks": 20, "grid": 4}
    wanted = rise(network, x, **options)
    assert wanted.shape == (len(x), 1, *x.shape[2:])
    assert wanted.dtype == x.dtype
    named = network(x).argmax(1)
    for batch_size in (1, 7, None):
        close(rise(graph.trace(network, x), x, named, batch_size=batch_size, **options), wanted)
    close(rise(network, x[1:], **options), wanted[1:])
    assert not torch.equal(rise(network, x, seed=1, **options), wanted)


def test_probabilities():
    network, x = network_and_input()
    found = rise(network, x, attribution.Probability(1), masks=20, grid=2)
    close(found, rise(network, x, 1, masks=20, grid=2, output=lambda y: y.softmax(1)))
    assert (found > 0).all()


class Deciding(nn.Module):
    """No graph can hold it, and nobody can differentiate it."""

    def forward(self, x):
        with torch.no_grad():
            return (x if bool((x < 1e9).all()) else -x).flatten(1).round()


def test_networks_that_cannot_be_read_or_differentiated_are_run():
    x = 9 * torch.ones(1, 1, 4, 4)
    found = rise(Deciding().eval(), x, 5, masks=400, grid=4, normalise="masks")
    assert found.flatten().argmax() == 5


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"masks": 0}, "masks must be a whole number"),
        ({"masks": -5}, "masks must be a whole number"),
        ({"masks": 1, "return_standard_error": True}, "at least 2 masks"),
        ({"grid": 0}, "grid must be a whole number"),
        ({"grid": 5}, "finer than images of 4 x 6"),
        ({"keep": 0.0}, "keep must be above 0"),
        ({"keep": 1.5}, "keep must be above 0"),
        ({"keep": float("nan")}, "keep must be above 0"),
        ({"normalise": "sum"}, "normalise must be"),
        ({"masks": 1, "grid": 2, "keep": 0.01, "normalise": "masks"}, "seen through none"),
        ({"baselines": float("nan")}, "baselines hold NaN"),
        ({"target": 3}, "from 0 to 2"),
        ({"batch_size": 0}, "batch_size must be"),
    ],
)
def test_bad_input(options, message):
    network, x = network_and_input()
    with pytest.raises(ValueError, match=message):
        rise(network, x, **{"grid": 3, **options})
