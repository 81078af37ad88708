"""Regions taken away one at a time, on networks whose answer is known."""

import warnings
from typing import ClassVar

import pytest
import torch
from torch import nn

from xaiutils import data, evaluation, models


@pytest.fixture
def network():
    return evaluation.AdditiveNetwork(3, side=12, region_size=4, seed=1)


@pytest.fixture
def images():
    return torch.rand(2, 3, 12, 12, generator=torch.Generator().manual_seed(0))


def test_fall_is_the_contribution_that_is_lost(network, images):
    falls = evaluation.region_occlusion(network, images, 0, 4, evaluation.Constant(0.5))
    grey = network.contributions(torch.full_like(images, 0.5))
    assert torch.allclose(falls, (network.contributions(images) - grey).double(), atol=1e-5)


@pytest.mark.parametrize("output", evaluation.OUTPUTS)
@pytest.mark.parametrize(("edge", "rows"), [("keep", 3), ("drop", 2)])
def test_falls_equal_a_naive_loop(images, output, edge, rows):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(400, 5)).eval()
    fill = evaluation.Constant(0.2)
    falls = evaluation.region_occlusion(model, images, 2, 5, fill, output=output, edge=edge)
    regions = evaluation.Regions(12, 12, 5, edge)

    def score(x):
        outputs = model(x)
        return (outputs if output == "logit" else outputs.softmax(1))[:, 2]

    assert falls.shape == (2, rows, rows)
    for region in range(regions.count):
        without = images.masked_fill(regions.index == region, 0.2)
        naive = (score(images) - score(without)).detach().double()
        assert torch.allclose(falls.flatten(1)[:, region], naive, atol=1e-5)


@pytest.mark.parametrize("windowed", [False, True])
def test_a_region_that_looks_as_before_has_no_fall(windowed):
    """Rounding would rank the empty page around a digit; a fill that differs there is no such."""
    digits = data.mnist("test", source="embedded", per_class=1).images[:3]
    classifier = models.load_classifier("mnist_cnn")
    x = classifier.batch(digits) if not isinstance(digits, torch.Tensor) else digits
    empty = evaluation.Constant(float(x.min()))
    falls = evaluation.region_occlusion(classifier.module, x, None, 4, empty, windowed=windowed)
    untouched = evaluation.Regions(28, 28, 4).scores((x != x.min())[:, 0].double()) == 0
    assert untouched.any(dim=1).all()
    assert torch.equal(falls.flatten(1) == 0, untouched)


def test_noise_is_that_of_region_perturbation(network, images):
    falls = evaluation.region_occlusion(network, images, 0, 4, repeats=3, seed=5)
    region = torch.zeros(2, 12, 12)
    region[:, :4, 4:8] = 1
    curves = evaluation.region_perturbation(
        network, images, 0, region, 4, 1, fill="uniform", repeats=3, seed=5
    )
    assert torch.allclose(falls[:, 0, 1], curves.falls()[:, 1].double(), atol=1e-6)


@pytest.mark.parametrize("edge", ["keep", "drop"])
@pytest.mark.parametrize("fill", ["uniform", "constant"])
@pytest.mark.parametrize("output", [*evaluation.OUTPUTS, lambda outputs, numbers: outputs[:, 1]])
def test_it_is_the_first_step_of_region_perturbation_of_one_map_for_each_region(
    images, output, fill, edge
):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(400, 5)).eval()
    regions = evaluation.Regions(12, 12, 5, edge)
    alone = {
        str(number): (regions.index == number).float().expand(2, -1, -1)
        for number in range(regions.count)
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", evaluation.ConstantHeatmapWarning)
        curves = evaluation.region_perturbation(
            model, images, None, alone, 5, 1, fill=fill, repeats=2, output=output, seed=3,
            edge=edge, first_image=7,
        )  # fmt: skip
    wanted = torch.stack([one.falls()[:, 1] for one in curves.values()], dim=1)
    found = evaluation.region_occlusion(
        model, images, None, 5, fill, 2, output, batch_size=3, seed=3, edge=edge, first_image=7
    )
    assert torch.allclose(found.flatten(1), wanted, atol=1e-6)


@pytest.mark.parametrize("edge", ["keep", "drop"])
def test_windows_give_the_same_falls(edge):
    classifier = models.load_classifier("mnist_cnn")
    x = data.mnist("test", source="embedded").images[:3]
    options = {"region_size": 5, "repeats": 2, "seed": 1, "edge": edge}
    whole = evaluation.region_occlusion(classifier.module, x, None, windowed=False, **options)
    for batch_size in (None, 7, 1):
        found = evaluation.region_occlusion(
            classifier.module, x, None, batch_size=batch_size, windowed=True, **options
        )
        torch.testing.assert_close(found, whole, atol=1e-5, rtol=1e-5)


class Seeing:
    """A fill that sees the mask: the row of the first pixel that is gone."""

    random: ClassVar[bool] = False
    sees_mask: ClassVar[bool] = True

    def __call__(self, images, generator, gone):
        first = gone[:, 0].any(dim=2).int().argmax(dim=1)
        return first.float()[:, None, None, None].expand_as(images).clone()


def test_a_fill_that_sees_the_mask_sees_one_region_at_a_time(network, images):
    falls = evaluation.region_occlusion(network, images, 0, 4, Seeing(), batch_size=4)
    for row in range(3):
        grey = network.contributions(torch.full_like(images, 4.0 * row))
        wanted = (network.contributions(images) - grey).double()[:, row]
        torch.testing.assert_close(falls[:, row], wanted, atol=1e-5, rtol=1e-5)
    with pytest.raises(ValueError, match="a fill that stays as it is"):
        evaluation.region_occlusion(network, images, 0, 4, Seeing(), windowed=True)


def test_a_network_that_cannot_be_traced_is_run_whole_or_refused():
    class Deciding(nn.Module):
        def forward(self, x):
            return x if x.sum() > 0 else -x

    network = nn.Sequential(Deciding(), nn.Flatten()).eval()
    x = torch.ones(1, 1, 4, 4)
    falls = evaluation.region_occlusion(network, x, 0, 2, evaluation.Constant(0.0))
    assert falls.tolist() == [[[1, 0], [0, 0]]]
    with pytest.raises(ValueError, match="can be traced"):
        evaluation.region_occlusion(network, x, 0, 2, evaluation.Constant(0.0), windowed=True)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"x": torch.rand(3, 12, 12)}, ValueError, r"x\[None\] makes a batch"),
        ({"region_size": 4.0}, TypeError, "region_size must be an int, not float"),
        ({"region_size": 0}, ValueError, "region_size must be at least 1"),
        ({"repeats": 0}, ValueError, "repeats"),
        ({"fill": "noise"}, ValueError, "fill is 'noise'"),
        ({"output": "logits"}, ValueError, "output is 'logits'"),
        ({"edge": "cut"}, ValueError, "edge is 'cut'"),
        ({"seed": -1}, ValueError, "seed"),
        ({"first_image": 1.5}, TypeError, "first_image"),
        ({"batch_size": 0}, ValueError, "batch_size"),
    ],
)
def test_unusable_arguments_are_refused(network, images, change, error, message):
    arguments = {"x": images, "target": 0, "region_size": 4} | change
    with pytest.raises(error, match=message):
        evaluation.region_occlusion(network, **arguments)


def test_contributions_agree_with_occlusion_and_their_negative_disagrees(network, images):
    falls = evaluation.region_occlusion(network, images, 0, 4, evaluation.Constant(0.0))
    true = falls.repeat_interleave(4, 1).repeat_interleave(4, 2)
    for maps, wanted in ((true, 1.0), (-true, -1.0), (torch.ones(2, 3, 12, 12), 0.0)):
        found = evaluation.occlusion_agreement(maps, falls, 4)
        assert found.tolist() == pytest.approx([wanted, wanted])


def test_falls_of_other_regions_are_refused(network, images):
    falls = evaluation.region_occlusion(network, images, 0, 4)
    with pytest.raises(ValueError, match="same region_size and edge"):
        evaluation.occlusion_agreement(images, falls, 3)
