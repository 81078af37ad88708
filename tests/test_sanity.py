"""Sanity checks of heatmaps: randomised weights, networks with known relevance, boxes."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from xaiutils import attribution, evaluation


def network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(4, 4, 3, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(4 * 8 * 8, 3),
    ).eval()


X = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(1))


def test_randomised_weights_change_places_and_nothing_else():
    model = network()
    kept = copy.deepcopy(model.state_dict())
    changed = evaluation.randomised(model, ["2"])
    for name, tensor in changed.state_dict().items():
        assert torch.equal(model.state_dict()[name], kept[name])
        moved = not torch.equal(tensor, kept[name])
        assert moved == name.startswith("2.")
        assert torch.equal(tensor.flatten().sort().values, kept[name].flatten().sort().values)


def test_the_order_of_a_layer_does_not_depend_on_the_others():
    alone = evaluation.randomised(network(), ["2"]).state_dict()["2.weight"]
    together = evaluation.randomised(network(), ["5", "2", "0"]).state_dict()["2.weight"]
    assert torch.equal(alone, together)
    other = evaluation.randomised(network(), ["2"], seed=1).state_dict()["2.weight"]
    assert not torch.equal(alone, other)


def test_a_block_stands_for_all_weights_below_it():
    model = nn.Sequential(network())
    changed = evaluation.randomised(model, ["0"]).state_dict()
    weights = {name: t for name, t in model.state_dict().items() if name.endswith("weight")}
    assert len(weights) == 3
    assert not any(torch.equal(changed[name], t) for name, t in weights.items())


@pytest.mark.parametrize("layer", ["1", "7", "conv"])
def test_a_layer_without_weights_is_refused(layer):
    with pytest.raises(ValueError, match="weights"):
        evaluation.randomised(network(), [layer])


def test_layers_go_from_the_output_down():
    found = evaluation.parameter_randomisation(
        network(), X, None, {"gradient": attribution.gradient}
    )
    assert found["gradient"].layers == ("5", "2", "0")
    assert found["gradient"].rank.shape == (3, 2)


def test_a_map_of_the_image_alone_never_changes_and_noise_always_does():
    def picture(model, x, target):
        return x.abs()

    def lottery(model, x, target):
        seed = int(model[0].weight.abs().sum() * 1e6) + int(model[5].weight[0, 0] * 1e6)
        return torch.randn(x.shape, generator=torch.Generator().manual_seed(abs(seed)))

    found = evaluation.parameter_randomisation(
        network(), X, 0, {"picture": picture, "lottery": lottery}
    )
    ones = torch.ones(3, 2, dtype=torch.float64)
    for measure in ("rank", "rank_absolute", "ssim"):
        torch.testing.assert_close(getattr(found["picture"], measure), ones)
    assert found["lottery"].rank.abs().max() < 0.5


def test_cascading_adds_up_and_independent_does_not():
    methods = {"gradient": attribution.gradient}
    both = {
        mode: evaluation.parameter_randomisation(network(), X, 1, methods, mode)["gradient"].rank
        for mode in ("cascading", "independent")
    }
    torch.testing.assert_close(both["cascading"][0], both["independent"][0])
    assert not torch.allclose(both["cascading"][1:], both["independent"][1:])
    changed = evaluation.randomised(network(), ["5", "2", "0"])
    expected = evaluation.rank_correlation(
        attribution.gradient(network(), X, 1), attribution.gradient(changed, X, 1)
    )
    torch.testing.assert_close(both["cascading"][2], expected)


def test_chance_keeps_the_empty_page_and_the_signs_and_nothing_else():
    ink = torch.rand(60, 1, 8, 8, generator=torch.Generator().manual_seed(2))
    ink = torch.where(ink > 0.6, ink, 0.0)
    empty = (ink == 0).double().mean(dim=(1, 2, 3))

    def anything(model, x, target):
        """Values by lot where there is ink; three of four positive."""
        seed = int(model[0].weight[0, 0, 0, 0].item() * 1e6) % 1000
        drawn = torch.rand(x.shape, generator=torch.Generator().manual_seed(seed))
        return torch.where(x > 0, drawn - 0.25, 0.0)

    def picture(model, x, target):
        return x

    found = evaluation.parameter_randomisation(
        network(), ink, 0, {"anything": anything, "picture": picture}
    )
    one = found["anything"]
    assert one.rank_by_chance.shape == one.rank_absolute_by_chance.shape == (3, 60)
    # a map by lot scores what chance scores; the first steps leave the seed of the map as it is
    assert abs(one.rank[-1].mean() - one.rank_by_chance[-1].mean()) < 0.05
    assert abs(one.rank_absolute[-1].mean() - one.rank_absolute_by_chance[-1].mean()) < 0.03
    assert one.rank_by_chance[-1].mean() > 0.1
    # and that is the theorem of the chapter on sanity checks
    wanted = (3 * empty / (3 * empty + (1 - empty) ** 2)).mean()
    assert abs(one.rank_absolute_by_chance[-1].mean() - wanted) < 0.03
    assert (found["picture"].rank > 0.999).all()
    assert abs(found["picture"].rank_by_chance[-1].mean() - wanted) < 0.03


def test_the_class_is_that_of_the_network_before():
    targets = []

    def note(model, x, target):
        targets.append(target)
        return x

    model = network()
    evaluation.parameter_randomisation(model, X, None, {"note": note})
    assert len(targets) == 4
    assert all(torch.equal(t, model(X).argmax(1)) for t in targets)


def test_bad_arguments_are_refused():
    methods = {"gradient": attribution.gradient}
    with pytest.raises(ValueError, match="cascading"):
        evaluation.parameter_randomisation(network(), X, 0, methods, "top-down")
    with pytest.raises(ValueError, match="at least one"):
        evaluation.parameter_randomisation(network(), X, 0, {})
    with pytest.raises(ValueError, match="training"):
        evaluation.parameter_randomisation(network().train(), X, 0, methods)


def test_rank_correlation_of_known_maps():
    line = torch.arange(9.0).view(1, 3, 3)
    assert evaluation.rank_correlation(line, line**3).item() == pytest.approx(1)
    assert evaluation.rank_correlation(line, -line).item() == pytest.approx(-1)
    assert evaluation.rank_correlation(line, torch.ones(1, 3, 3)).item() == 0
    # ranks 1 2 3 and 1 3 2: 1 - 6 (0 + 1 + 1) / (3 (9 - 1)) = 1/2
    three = torch.tensor([[[1.0, 2.0, 3.0]]]), torch.tensor([[[1.0, 9.0, 2.0]]])
    assert evaluation.rank_correlation(*three).item() == pytest.approx(0.5)


def test_map_similarity_asks_for_the_sign_and_not_for_the_scale():
    maps = torch.randn(2, 12, 12, generator=torch.Generator().manual_seed(3))
    same, opposite = (evaluation.map_similarity(maps, f * maps) for f in (7.0, -1.0))
    torch.testing.assert_close(same, torch.ones(2, dtype=torch.float64))
    assert (opposite < 0.5).all()
    with pytest.raises(ValueError, match="7 pixels"):
        evaluation.map_similarity(maps[:, :5, :5], maps[:, :5, :5])
    with pytest.raises(ValueError, match="differ"):
        evaluation.map_similarity(maps, maps[:, :10])


def additive():
    return evaluation.AdditiveNetwork(channels=2, side=12, region_size=4, seed=2)


IMAGES = torch.rand(3, 2, 12, 12, generator=torch.Generator().manual_seed(4))


def test_contributions_add_up_and_see_one_region_each():
    model = additive()
    parts = model.contributions(IMAGES)
    assert parts.shape == (3, 3, 3)
    torch.testing.assert_close(parts.sum((1, 2))[:, None], model(IMAGES))
    other = IMAGES.clone()
    other[:, :, 4:8, 8:] = 0
    changed = (model.contributions(other) - parts).abs() > 0
    assert changed[:, 1, 2].all()
    assert changed.sum() == 3


def test_the_true_order_under_a_fill_wins_under_that_fill():
    model, black = additive(), evaluation.Constant(0.0)
    truth = evaluation.expected_falls(model, IMAGES, black, draws=1)
    maps = {"true": truth, "other": truth.flip(1), "opposite": -truth}
    big = {name: m.repeat_interleave(4, 1).repeat_interleave(4, 2) for name, m in maps.items()}
    areas = {
        name: curves.aopc()
        for name, curves in evaluation.region_perturbation(
            model, IMAGES, 0, big, 4, 9, "morf", black, 1
        ).items()
    }
    # sum of (L + 1 - j) c_(j) over L + 1, for the falls in falling order
    falls = truth.flatten(1).sort(dim=1, descending=True).values.double()
    expected = (falls * torch.arange(9, 0, -1)).sum(1) / 10
    torch.testing.assert_close(areas["true"], expected, atol=1e-5, rtol=1e-4)
    assert (areas["true"] > areas["other"]).all()
    assert (areas["other"] > areas["opposite"]).all()


def test_the_mean_of_noise_is_met_by_enough_draws():
    noise = evaluation.Uniform(0.0, 1.0)
    few, many = (
        evaluation.expected_falls(additive(), IMAGES, noise, d, s) for d, s in ((400, 1), (400, 2))
    )
    torch.testing.assert_close(few, many, atol=0.05, rtol=0)


def test_regions_must_tile_the_image():
    with pytest.raises(ValueError, match="tile"):
        evaluation.AdditiveNetwork(1, 10, 4)


def test_the_additive_network_can_be_explained():
    found = attribution.gradient(additive(), IMAGES, 0)
    x = IMAGES.clone().requires_grad_()
    (expected,) = torch.autograd.grad(additive()(x).sum(), x)
    torch.testing.assert_close(found, expected)


def test_energy_inside_a_box():
    maps = torch.zeros(3, 4, 6)
    maps[0, 1:3, 2:4] = 2.0  # all inside
    maps[1] = 1.0  # the share of the area: 4 of 24
    maps[2, 1, 2], maps[2, 0, 0], maps[2, 3, 5] = 1.0, 3.0, -9.0
    boxes = torch.tensor([[2, 1, 3, 2]]).expand(3, -1)
    found = evaluation.energy_inside(maps, boxes)
    assert found.tolist() == pytest.approx([1.0, 4 / 24, 0.25])
    assert evaluation.energy_inside(-maps[:2], boxes[:2]).tolist() == [0, 0]
    torch.testing.assert_close(evaluation.energy_inside(maps[:, None], boxes), found)


@pytest.mark.parametrize("box", [[2, 1, 6, 2], [-1, 0, 2, 2], [3, 1, 2, 2], [0, 0, 2, 4]])
def test_boxes_must_lie_in_the_map(box):
    with pytest.raises(ValueError, match="box 1"):
        evaluation.energy_inside(torch.ones(2, 4, 6), torch.tensor([[0, 0, 1, 1], box]))
    with pytest.raises(ValueError, match=r"\(2, 4\)"):
        evaluation.energy_inside(torch.ones(2, 4, 6), torch.tensor([box]))


def test_pointing_game_shares_a_tie():
    maps = torch.zeros(3, 4, 6)
    maps[0, 1, 3], maps[0, 0, 0] = 2.0, -5.0  # the maximum is inside
    maps[1] = 1.0  # the share of the area: 4 of 24
    maps[2, 1, 2], maps[2, 0, 0] = 3.0, 3.0  # one of two
    boxes = torch.tensor([[2, 1, 3, 2]]).expand(3, -1)
    assert evaluation.pointing_game(maps, boxes).tolist() == pytest.approx([1.0, 4 / 24, 0.5])
    assert evaluation.pointing_game(-maps[:1], boxes[:1]).tolist() == [0.0]
    with pytest.raises(ValueError, match="box 0"):
        evaluation.pointing_game(maps, boxes + 4)


def test_efficient_randomisation_equals_numpys_entropy():
    from scipy.stats import entropy

    model, methods = network(), {"gradient": attribution.gradient}
    found = evaluation.efficient_randomisation(model, X, None, methods, bins=20)["gradient"]
    changed = evaluation.randomised(model, ["5", "2", "0"])
    targets = model(X).argmax(1)
    for n in range(2):
        before, after = (
            entropy(np.histogram(attribution.gradient(m, X, targets)[n, 0].double(), 20)[0])
            for m in (model, changed)
        )
        assert found.rise[n].item() == pytest.approx((after - before) / before, abs=1e-5)


def test_what_efficient_randomisation_gives_by_chance():
    ink = torch.rand(20, 1, 8, 8, generator=torch.Generator().manual_seed(2))
    ink = torch.where(ink > 0.6, ink, 0.0)
    seeds = iter(range(100))

    def anything(model, x, target):
        """Noise on the ink, anew at each call."""
        drawn = torch.randn(x.shape, generator=torch.Generator().manual_seed(next(seeds)))
        return torch.where(x > 0, drawn, 0.0)

    methods = {"picture": lambda model, x, target: x, "anything": anything}
    found = evaluation.efficient_randomisation(network(), ink, 0, methods)
    assert found["picture"].rise.tolist() == [0] * 20
    assert abs(found["anything"].rise.mean()) < 0.05
    assert abs(found["anything"].by_chance.mean()) < 0.05
    # the page is all that `by_chance` knows: a picture of few grey levels rises to noise
    two = evaluation.efficient_randomisation(
        network(), ink, 0, {"mask": lambda model, x, target: (x > 0).float()}
    )["mask"]
    assert (two.rise == 0).all()
    assert (two.by_chance > 0.5).all()


def test_efficient_randomisation_does_not_see_where_anything_is():
    def moved(model, x, target):
        return attribution.gradient(model, x, target).roll(3, -1).flip(-2)

    methods = {"gradient": attribution.gradient, "moved": moved}
    found = evaluation.efficient_randomisation(network(), X, 0, methods)
    torch.testing.assert_close(found["moved"].rise, found["gradient"].rise)


def test_smooth_randomisation_is_randomisation_of_smoothed_maps():
    smooth = evaluation.smoothed(attribution.gradient, 4)
    found = evaluation.parameter_randomisation(network(), X, 1, {"smooth": smooth})["smooth"]
    changed = evaluation.randomised(network(), ["5", "2", "0"])
    expected = evaluation.rank_correlation(smooth(network(), X, 1), smooth(changed, X, 1))
    torch.testing.assert_close(found.rank[-1], expected)
    # the noise is the same before and after: a map that asks the picture alone stays the same
    picture = evaluation.smoothed(lambda model, x, target: x**2, 4)
    found = evaluation.parameter_randomisation(network(), X, 1, {"picture": picture})["picture"]
    torch.testing.assert_close(found.rank, torch.ones(3, 2, dtype=torch.float64))


def test_efficient_randomisation_refuses():
    with pytest.raises(ValueError, match="no entropy"):
        evaluation.efficient_randomisation(
            network(), X, 0, {"flat": lambda model, x, target: torch.ones_like(x)}
        )
    with pytest.raises(ValueError, match="at least one"):
        evaluation.efficient_randomisation(network(), X, 0, {})
    with pytest.raises(ValueError, match="bins"):
        evaluation.efficient_randomisation(
            network(), X, 0, {"gradient": attribution.gradient}, bins=1
        )
    with pytest.raises(ValueError, match="NaN"):
        evaluation.efficient_randomisation(
            network(), X, 0, {"broken": lambda model, x, target: x * torch.nan}
        )


@pytest.mark.parametrize("measure", ["energy_inside", "pointing_game"])
def test_boxes_refuse_broken_maps(measure):
    boxes = torch.tensor([[0, 0, 1, 1]])
    with pytest.raises(ValueError, match="NaN"):
        getattr(evaluation, measure)(torch.full((1, 4, 6), torch.nan), boxes)
    with pytest.raises(ValueError, match="NaN"):
        getattr(evaluation, measure)(torch.full((1, 4, 6), torch.inf), boxes)
