"""Fills that guess what was there: against dense systems and loops written out here."""

import numpy as np
import pytest
import torch
from skimage.restoration import inpaint_biharmonic
from torch import nn

from xaiutils import evaluation, models
from xaiutils.evaluation import Decoded, Histogram, Inpaint, NoisyLinear, Patches
from xaiutils.evaluation._pictures import replaced

SIDE = 12


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(0)


@pytest.fixture
def picture():
    return torch.rand(1, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def gone():
    """Steps of one order: holes that stay, that grow, that reach a corner, and none at first."""
    drawn = torch.Generator().manual_seed(2)
    ranks = torch.randperm(16, generator=drawn).view(1, 1, 4, 4)
    ranks = ranks.repeat_interleave(3, 2).repeat_interleave(3, 3)
    return ranks < torch.arange(15).view(-1, 1, 1, 1)


def dense_imputation(picture, missing):
    """ROAD's equations for all pixels at once: known ones equal themselves."""
    height, width = missing.shape
    system = np.eye(height * width)
    for row, column in zip(*np.nonzero(missing), strict=True):
        weights = np.zeros((height, width))
        for other_row in range(max(row - 1, 0), min(row + 2, height)):
            for other in range(max(column - 1, 0), min(column + 2, width)):
                apart = abs(other_row - row) + abs(other - column)
                weights[other_row, other] = {0: 0, 1: 1 / 6, 2: 1 / 12}[apart]
        system[row * width + column] -= weights.ravel() / weights.sum()
    known = np.where(missing, 0, picture).reshape(len(picture), -1)
    return np.linalg.solve(system, known.T).T.reshape(picture.shape)


def test_noisy_linear_solves_the_system_of_road(picture, gone, generator):
    gone = gone[::3]
    many = picture.expand(len(gone), -1, -1, -1)
    found = NoisyLinear(noise=0)(many, generator, gone)
    for one, missing in zip(found, gone[:, 0], strict=True):
        expected = dense_imputation(picture[0].double().numpy(), missing.numpy())
        np.testing.assert_allclose(one.numpy(), expected, atol=1e-5)


def test_holes_of_different_pictures_are_not_taken_for_each_other(generator):
    pictures = torch.rand(3, 1, SIDE, SIDE, generator=generator)
    gone = torch.zeros(3, 1, SIDE, SIDE, dtype=torch.bool)
    gone[:, :, 3:7, 4:9] = True
    found = NoisyLinear(noise=0)(pictures, generator, gone)
    for one, picture in zip(found, pictures, strict=True):
        expected = dense_imputation(picture.double().numpy(), gone[0, 0].numpy())
        np.testing.assert_allclose(one.numpy(), expected, atol=1e-5)


def test_a_slope_that_is_cut_out_of_the_middle_is_restored(generator):
    slope = torch.arange(float(SIDE)).expand(1, 1, SIDE, SIDE)
    gone = torch.zeros(1, 1, SIDE, SIDE, dtype=torch.bool)
    gone[..., 3:9, 3:9] = True
    for fill in (NoisyLinear(noise=0), Inpaint()):
        torch.testing.assert_close(fill(slope, generator, gone), slope, atol=1e-4, rtol=0)


def test_the_noise_is_of_its_size_and_the_same_at_each_step(generator):
    grey = torch.zeros(2, 1, 100, 100)
    gone = torch.zeros(2, 1, 100, 100, dtype=torch.bool)
    gone[0, :, :50], gone[1, :, :80] = True, True
    found = NoisyLinear(noise=0.3)(grey, generator, gone)
    assert found[1, :, :80].std().item() == pytest.approx(0.3, rel=0.05)
    torch.testing.assert_close(found[0, :, :50], found[1, :, :50])
    assert (found[~gone] == 0).all()
    assert NoisyLinear(0.3).random
    assert not NoisyLinear(0).random


def test_inpaint_is_that_of_scikit_image(picture, gone, generator):
    found = Inpaint()(picture.expand(len(gone), -1, -1, -1), generator, gone)
    torch.testing.assert_close(found[0], picture[0])
    for one, missing in list(zip(found, gone[:, 0], strict=True))[1:4]:
        layers = [
            inpaint_biharmonic(layer.double().numpy(), missing.numpy()) for layer in picture[0]
        ]
        np.testing.assert_allclose(one.numpy(), np.stack(layers), atol=1e-5)


class Halved(nn.Module):
    """An "autoencoder" whose answer is half the picture."""

    def forward(self, x):
        return x / 2


@pytest.mark.parametrize("rounds", [1, 3])
def test_decoded_begins_with_the_mean_of_the_rest_and_keeps_only_the_hole(
    picture, gone, generator, rounds
):
    low, high = -2.0, 3.0
    fill = Decoded(Halved(), low, high, rounds)
    found = fill(picture.expand(len(gone), -1, -1, -1), generator, gone)
    bright = (picture[0] - low) / (high - low)
    for one, missing in zip(found, gone, strict=True):
        mean = torch.stack([layer[~missing[0]].mean() for layer in bright])[:, None, None]
        expected = torch.where(missing, low + (high - low) * mean / 2**rounds, picture[0])
        torch.testing.assert_close(one, expected)


def test_decoded_guesses_a_digit_better_than_the_mean_and_better_for_more_rounds(generator):
    from xaiutils import data

    digits = data.mnist("test", source="embedded", per_class=3).images
    gone = torch.zeros(len(digits), 1, 28, 28, dtype=torch.bool)
    gone[..., 12:20, 10:18] = True
    autoencoder = models.load_autoencoder("mnist_ae_16")
    errors = {"mean": [], "once": [], "often": []}
    mean = Decoded(nn.Identity())
    for name, fill in {
        "mean": mean,
        "once": Decoded(autoencoder, rounds=1),
        "often": Decoded(autoencoder, rounds=5),
    }.items():
        filled = fill(digits, generator, gone)
        errors[name] = (filled - digits)[gone].square().mean().item()
    assert errors["often"] < errors["once"] < errors["mean"]


def test_decoded_serves_other_sizes_and_sees_nothing_of_the_hole(generator):
    autoencoder = models.load_autoencoder("natural_ae_64")
    pictures = torch.rand(1, 3, 100, 90, generator=generator)
    gone = torch.zeros(1, 1, 100, 90, dtype=torch.bool)
    gone[..., 33:58, 20:47] = True
    changed = torch.where(gone, 1 - pictures, pictures)
    fill = Decoded(autoencoder)
    found, other = (fill(x, generator, gone) for x in (pictures, changed))
    assert found.shape == pictures.shape
    torch.testing.assert_close(found, other)
    assert (found[gone.expand_as(found)] != pictures[gone.expand_as(found)]).all()


@pytest.mark.parametrize("fill", [NoisyLinear(0), Inpaint(), Decoded(Halved())])
def test_no_fill_sees_what_it_replaces(picture, gone, generator, fill):
    many = picture.expand(len(gone), -1, -1, -1)
    hidden = torch.where(gone, 7 * torch.rand(many.shape, generator=generator), many)
    first, second = (fill(x, generator, gone) for x in (many, hidden))
    torch.testing.assert_close(first, second, atol=1e-4, rtol=1e-4)
    assert torch.equal(first[~gone.expand_as(many)], many[~gone.expand_as(many)])


@pytest.mark.parametrize("fill", [NoisyLinear(), Inpaint(), Decoded(Halved())])
def test_masks_that_leave_nothing_or_do_not_fit_are_refused(picture, generator, fill):
    with pytest.raises(ValueError, match="nothing is left of 1 of 1 pictures"):
        fill(picture, generator, torch.ones(1, 1, SIDE, SIDE, dtype=torch.bool))
    with pytest.raises(ValueError, match="gone must be"):
        fill(picture, generator, torch.ones(1, SIDE, SIDE, dtype=torch.bool))
    with pytest.raises(ValueError, match="gone must be"):
        fill(picture, generator, torch.ones(1, 1, SIDE, SIDE))


def test_patches_are_other_pictures_each_as_often(generator):
    others = torch.arange(4.0).view(4, 1, 1, 1).expand(4, 1, 2, 2)
    many = others[:1].expand(3000, -1, -1, -1)
    found = Patches(others)(many, generator)[:, 0]
    assert (found == found[:, :1, :1]).all()  # one picture, not pieces of several
    counts = found[:, 0, 0].long().bincount()
    assert counts[0] == 0
    assert counts[1:].tolist() == pytest.approx([1000] * 3, abs=110)


def test_histogram_draws_colours_as_often_as_they_occur(generator):
    # Two colours, 3 : 1; in each channel another bin, so that mixed colours would show.
    picture = torch.tensor([[0.0, 0.0, 0.0, 1.0], [1.0, 1.0, 1.0, 0.0]]).view(1, 2, 2, 2)
    found = Histogram()(picture.expand(4000, -1, -1, -1), generator)
    assert (found == found[..., :1, :1]).all()
    colours = found[..., 0, 0]
    torch.testing.assert_close(colours.sum(dim=1), torch.ones(4000))
    assert colours[:, 0].mean().item() == pytest.approx(0.25, abs=0.03)


def test_histogram_is_the_mean_of_each_bin_by_a_loop(picture, generator):
    found = Histogram(bins=2)(picture, generator)[0, :, 0, 0]
    pixels = picture[0].flatten(1).T
    middle = (pixels.amin(0) + pixels.amax(0)) / 2
    bins = {}
    for pixel in pixels:
        bins.setdefault(tuple((pixel >= middle).tolist()), []).append(pixel)
    means = [torch.stack(members).mean(0) for members in bins.values()]
    assert min((mean - found).abs().max().item() for mean in means) < 1e-6
    mean = Histogram(bins=1)(picture, generator)
    torch.testing.assert_close(mean[0, :, 0, 0], pixels.mean(0))


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: NoisyLinear(-1),
        lambda: NoisyLinear(float("nan")),
        lambda: Histogram(0),
        lambda: Patches(torch.zeros(0, 1, 2, 2)),
        lambda: Decoded(Halved(), rounds=0),
        lambda: Decoded(Halved(), 1.0, 0.0),
        lambda: Patches(torch.zeros(2, 1, 3, 3))(torch.zeros(1, 1, 2, 2), torch.Generator()),
        lambda: Patches(torch.zeros(2, 1, 2, 2))(torch.zeros(1, 1, 2, 2), torch.Generator()),
    ],
)
def test_options_without_sense_are_refused(wrong):
    with pytest.raises(ValueError, match=r"must|same shape|no other picture"):
        wrong()


class Mean(nn.Module):
    """A "network" of one class: the mean of the picture, less its corner."""

    def __init__(self):
        super().__init__()
        self.read = nn.Linear(SIDE * SIDE * 3, 1)

    def forward(self, x):
        return self.read(x.flatten(1))


@pytest.mark.parametrize("name", ["noisy_linear", "histogram", "inpaint"])
def test_region_perturbation_takes_them_by_name(name, generator):
    x = torch.rand(3, 3, SIDE, SIDE, generator=generator)
    maps = torch.rand(3, 1, SIDE, SIDE, generator=generator)
    model = Mean().eval()
    curves = [
        evaluation.region_perturbation(model, x, 0, maps, 3, 15, "morf", name, 1, batch_size=size)
        for size in (4, 60)
    ]
    torch.testing.assert_close(curves[0].scores, curves[1].scores)
    # The pictures that the curve says it showed give its scores.
    shown = curves[0].perturbed([0, 7])
    torch.testing.assert_close(model(shown[1])[:, 0], curves[0].scores[1, 0, [0, 7]])


def test_each_step_is_filled_from_its_own_mask():
    x = torch.rand(1, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(4))
    maps = torch.rand(1, 1, SIDE, SIDE, generator=torch.Generator().manual_seed(5))
    curves = evaluation.region_perturbation(
        Mean().eval(), x, 0, maps, 3, 9, "lerf", NoisyLinear(0), 1
    )
    ranks = curves.perturbation.pixel_ranks(0, 0)
    for steps in (1, 4, 9):
        expected = dense_imputation(x[0].double().numpy(), (ranks < steps).numpy())
        found = curves.perturbed([steps])[0, 0]
        np.testing.assert_allclose(found.numpy(), expected, atol=1e-5)


def test_a_mask_that_covers_all_is_an_error_of_the_run_too():
    x, maps = torch.rand(2, 1, 3, SIDE, SIDE)
    with pytest.raises(ValueError, match="lower steps"):
        evaluation.region_perturbation(Mean().eval(), x, 0, maps, 3, 16, "morf", "noisy_linear", 1)


def test_replaced_shows_nothing_but_the_picture_outside_the_hole(picture, gone, generator):
    ranks = torch.arange(SIDE * SIDE).view(SIDE, SIDE)
    many = picture.expand(2, -1, -1, -1)
    shown = replaced(
        picture[0],
        lambda mask: NoisyLinear()(many, generator, mask),
        ranks,
        torch.tensor([5, 50]),
    )
    assert torch.equal(shown[0, :, 1:], picture[0, :, 1:])
