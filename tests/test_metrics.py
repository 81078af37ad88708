"""The other metrics: against naive loops, Captum, Quantus, and what can be proved of them."""

import itertools

import numpy as np
import pytest
import quantus_numbers as recorded
import torch
from captum.metrics import infidelity as captum_infidelity
from captum.metrics import sensitivity_max
from torch import nn

from xaiutils import attribution, evaluation
from xaiutils.evaluation._options import with_defaults
from xaiutils.evaluation._pictures import generator
from xaiutils.evaluation._stability import _uniform
from xaiutils.evaluation._subsets import SubsetFalls, falls_without, prepared

NOISE = evaluation.Uniform(-0.5, 1.0)
QUANTUS = dict(np.load(recorded.FILE))


@pytest.fixture(scope="module")
def net():
    torch.manual_seed(0)
    layers = [nn.Conv2d(2, 4, 3, padding=1), nn.Tanh(), nn.AdaptiveAvgPool2d(3), nn.Flatten()]
    found = nn.Sequential(*layers, nn.Linear(36, 5)).eval()
    found[-1].weight.data *= 20  # outputs of the size of logits
    return found


@pytest.fixture(scope="module")
def x():
    return torch.randn(3, 2, 10, 13, generator=torch.Generator().manual_seed(5))


@pytest.fixture(scope="module")
def maps():
    return torch.randn(3, 2, 10, 13, generator=torch.Generator().manual_seed(6))


TARGETS = [3, 0, 2]
REGIONS = evaluation.Regions(10, 13, 4)


def replacement(x, n, repeat, seed=0, fill=NOISE):
    return fill(x[n : n + 1].clone(), generator(seed, n, repeat, "fill"))[0]


@torch.no_grad()
def output(net, picture, n):
    return net(picture[None])[0, TARGETS[n]].item()


def without(x, n, regions, filled):
    """The picture with some regions, given by their numbers, replaced."""
    return torch.where(torch.isin(REGIONS.index, torch.tensor(regions)), filled, x[n])


def relevance(maps, n):
    return [maps[n].double().sum(0)[REGIONS.index == r].sum().item() for r in range(REGIONS.count)]


def lot(n, repeat, seed=0):
    return torch.randperm(REGIONS.count, generator=generator(seed, n, repeat, "order")).tolist()


def subset(n, k, size, subsets, seed=0):
    """The k-th of the subsets that the lot draws for image n."""
    drawn = torch.rand(subsets, REGIONS.count, generator=generator(seed, n, 0, "subsets"))[k]
    return drawn.argsort()[:size].tolist()


def trapezoids(values):
    return sum((a + b) / 2 for a, b in itertools.pairwise(values)) / (len(values) - 1)


# ------------------------------------------------------------------ insertion and deletion


def test_deletion_equals_a_naive_loop(net, x, maps):
    found = evaluation.deletion(net, x, TARGETS, maps, 4, NOISE, repeats=2)
    for n in range(3):
        worth, areas = relevance(maps, n), []
        for repeat in range(2):
            filled = replacement(x, n, repeat)
            first = sorted(range(REGIONS.count), key=lambda r: -worth[r])
            pictures = [without(x, n, first[:k], filled) for k in range(REGIONS.count + 1)]
            areas.append(trapezoids([output(net, one, n) for one in pictures]))
        assert found[n].item() == pytest.approx(np.mean(areas), abs=1e-5)


def test_insertion_equals_a_naive_loop_that_puts_regions_on_the_canvas(net, x, maps):
    found = evaluation.insertion(net, x, TARGETS, maps, 4, NOISE)
    for n in range(3):
        worth, canvas = relevance(maps, n), replacement(x, n, 0)
        scores = [output(net, canvas, n)]
        for region in sorted(range(REGIONS.count), key=lambda r: -worth[r]):
            here = REGIONS.index == region
            canvas[:, here] = x[n][:, here]
            scores.append(output(net, canvas, n))
        assert scores[-1] == pytest.approx(output(net, x[n], n), abs=1e-6)
        assert found[n].item() == pytest.approx(trapezoids(scores), abs=1e-5)


@pytest.mark.parametrize("edge", ["keep", "drop"])
def test_insertion_less_deletion_is_the_area_between_the_curves(net, x, maps, edge):
    count = evaluation.Regions(10, 13, 4, edge).count
    tied = torch.where(maps > 0, 1.0, 0.0)  # with ties the lot must be the same one
    settings = {"fill": NOISE, "repeats": 3, "edge": edge}
    morf, lerf = (
        evaluation.region_perturbation(net, x, 1, tied, 4, count, order=order, **settings)
        for order in ("morf", "lerf")
    )
    metrics = [
        f(net, x, 1, tied, 4, **settings) for f in (evaluation.insertion, evaluation.deletion)
    ]
    wanted = evaluation.abpc(morf, lerf) * (count + 1) / count
    torch.testing.assert_close(metrics[0] - metrics[1], wanted)


# ------------------------------------------------------------------ subsets by lot


@pytest.mark.parametrize("size", [1, 3, 7])
def test_faithfulness_correlation_equals_a_naive_loop(net, x, maps, size):
    found = evaluation.faithfulness_correlation(
        net, x, TARGETS, maps, 4, size, 15, NOISE, repeats=2, seed=4
    )
    for n in range(3):
        worth, start, sums, falls = relevance(maps, n), output(net, x[n], n), [], []
        filled = [replacement(x, n, repeat, 4) for repeat in range(2)]
        for k in range(15):
            gone = subset(n, k, size, 15, seed=4)
            assert len(set(gone)) == size
            sums.append(sum(worth[r] for r in gone))
            after = [output(net, without(x, n, gone, one), n) for one in filled]
            falls.append(start - np.mean(after))
        assert found[n].item() == pytest.approx(np.corrcoef(sums, falls)[0, 1], abs=1e-5)


def test_sensitivity_n_is_the_mean_over_the_sizes(net, x, maps):
    found = evaluation.sensitivity_n(net, x, 1, maps, 4, [1, 4, 9], 20, NOISE)
    each = [
        evaluation.faithfulness_correlation(net, x, 1, maps, 4, n, 20, NOISE) for n in (1, 4, 9)
    ]
    torch.testing.assert_close(found, torch.stack(each).mean(0))
    assert (torch.stack(each).std(0) > 0.01).all()


def test_sizes_go_from_one_region_to_four_fifths(net, x, maps, monkeypatch):
    sizes = []

    def note(*arguments, **options):
        sizes.append(arguments[5])
        return torch.zeros(3)

    monkeypatch.setattr(evaluation._faithfulness, "faithfulness_correlation", note)
    evaluation.sensitivity_n(net, x, 1, maps, 2)
    assert (sizes[0], sizes[-1]) == (1, 28)  # of 35
    assert sizes == sorted(set(sizes))
    assert 6 <= len(sizes) <= 8


@pytest.mark.parametrize("scaled", [True, False])
def test_infidelity_equals_a_naive_loop(net, x, maps, scaled):
    found = evaluation.infidelity(
        net, x, TARGETS, maps, 4, 3, 12, NOISE, repeats=2, seed=2, scaled=scaled
    )
    for n in range(3):
        worth, start, pairs = relevance(maps, n), output(net, x[n], n), []
        filled = [replacement(x, n, repeat, 2) for repeat in range(2)]
        for k, repeat in itertools.product(range(12), range(2)):
            gone = subset(n, k, 3, 12, seed=2)
            after = output(net, without(x, n, gone, filled[repeat]), n)
            pairs.append((sum(worth[r] for r in gone), start - after))
        beta = sum(s * f for s, f in pairs) / sum(s * s for s, _ in pairs) if scaled else 1
        wanted = np.mean([(beta * s - f) ** 2 for s, f in pairs])
        assert found[n].item() == pytest.approx(wanted, rel=1e-5, abs=1e-5)


def test_infidelity_of_slopes_multiplies_them_with_the_change(net, x, maps):
    found = evaluation.infidelity(net, x, TARGETS, maps, 4, 3, 12, NOISE, scaled=False, slopes=True)
    for n in range(3):
        squares = []
        for k in range(12):
            after = without(x, n, subset(n, k, 3, 12), replacement(x, n, 0))
            fall = output(net, x[n], n) - output(net, after, n)
            squares.append((((x[n] - after) * maps[n]).sum().item() - fall) ** 2)
        assert found[n].item() == pytest.approx(np.mean(squares), rel=1e-5, abs=1e-5)


@pytest.mark.parametrize("scaled", [True, False])
@pytest.mark.parametrize("slopes", [True, False])
def test_infidelity_equals_captums(net, x, maps, scaled, slopes):
    found = evaluation.subset_falls(net, x, TARGETS, 4, 3, 12, NOISE)
    masks = [(found.gone[:, n].float() @ one_hot().float()).view(12, 1, 10, 13) for n in range(3)]
    wanted = []
    for n in range(3):  # one image at a time: Captum hands the function no number

        def perturb(inputs, n=n):
            after = torch.where(masks[n] > 0, replacement(x, n, 0), inputs)
            return (inputs - after) if slopes else masks[n].expand_as(inputs), after

        one = slice(n, n + 1)
        wanted.append(
            captum_infidelity(
                net, perturb, x[one], maps[one], target=TARGETS[n], n_perturb_samples=12,
                normalize=scaled,
            )
        )  # fmt: skip
    value = found.infidelity(maps, scaled=scaled, slopes=slopes)
    torch.testing.assert_close(value, torch.cat(wanted).double(), atol=1e-5, rtol=1e-4)


def one_hot():
    """(count, H * W): the pixels of each region."""
    return nn.functional.one_hot(REGIONS.index.flatten(), REGIONS.count).T


def test_one_run_serves_all_maps(net, x, maps):
    settings = (net, x, 1)
    found = evaluation.subset_falls(*settings, 4, 3, 12, NOISE, batch_size=5)
    for one in (maps, -maps, maps[:, :1]):
        alone = evaluation.faithfulness_correlation(*settings, one, 4, 3, 12, NOISE)
        torch.testing.assert_close(found.correlation(one), alone)
        alone = evaluation.infidelity(*settings, one, 4, 3, 12, NOISE)
        torch.testing.assert_close(found.infidelity(one), alone)
    part = evaluation.faithfulness_correlation(
        net, x[1:], 1, maps[1:], 4, 3, 12, NOISE, first_image=1
    )
    torch.testing.assert_close(found.correlation(maps)[1:], part, atol=1e-5, rtol=0)


def test_what_does_not_change_a_correlation_and_an_infidelity(net, x, maps):
    found = evaluation.subset_falls(net, x, 1, 4, 3, 12, NOISE)
    flat = maps.sum(1)
    lifted = flat + 5 / REGIONS.scores(torch.ones(1, 10, 13))[0][REGIONS.index]  # 5 a region
    torch.testing.assert_close(found.correlation(lifted), found.correlation(7 * flat))
    torch.testing.assert_close(found.correlation(-flat), -found.correlation(flat))
    for factor in (-1, 0.01):
        torch.testing.assert_close(found.infidelity(factor * flat), found.infidelity(flat))
    assert (found.infidelity(lifted) / found.infidelity(flat) - 1).abs().min() > 0.01
    nothing = found.infidelity(torch.zeros_like(flat))
    torch.testing.assert_close(nothing, (found.falls**2).mean((1, 2)))
    assert (found.infidelity(flat) <= nothing).all()
    assert found.correlation(torch.ones(3, 10, 13)).tolist() == [0, 0, 0]


# ------------------------------------------------------------------ SaCo


@pytest.mark.parametrize("groups", [2, 4, 5])
def test_saco_equals_a_naive_loop(net, x, maps, groups):
    found = evaluation.saco(net, x, TARGETS, maps, 4, groups, NOISE)
    for n in range(3):
        worth, start, filled = relevance(maps, n), output(net, x[n], n), replacement(x, n, 0)
        first = sorted(range(REGIONS.count), key=lambda r: -worth[r])
        cut = [[] for _ in range(groups)]
        for rank, region in enumerate(first):
            cut[rank * groups // REGIONS.count].append(region)
        salience = [np.mean([worth[r] for r in group]) for group in cut]
        fall = [start - output(net, without(x, n, group, filled), n) for group in cut]
        total = weight = 0
        for i, j in itertools.combinations(range(groups), 2):
            difference = salience[i] - salience[j]
            total += difference if fall[i] >= fall[j] else -difference
            weight += abs(difference)
        assert found[n].item() == pytest.approx(total / weight, abs=1e-5)


def test_saco_turns_with_the_sign_and_asks_for_no_scale(net, x, maps):
    found = evaluation.saco(net, x, 1, maps, 4, 4, NOISE)
    torch.testing.assert_close(evaluation.saco(net, x, 1, 3 * maps, 4, 4, NOISE), found)
    torch.testing.assert_close(evaluation.saco(net, x, 1, -maps, 4, 4, NOISE), -found)
    assert evaluation.saco(net, x, 1, torch.ones(3, 10, 13), 4, 4, NOISE).tolist() == [0, 0, 0]


# ------------------------------------------------------------------ IROF


def stripes():
    """Segments of one image more than of another, numbered with gaps."""
    labels = torch.zeros(3, 10, 13, dtype=torch.int64)
    labels[0, :, 4:], labels[0, 5:, 7:] = 5, 9
    labels[1, 3:], labels[1, 6:], labels[1, :, 10:] = 2, 3, 7
    labels[2, :, ::2] = 1
    return labels


def test_irof_equals_a_naive_loop(net, x, maps):
    found = evaluation.irof(net, x, TARGETS, maps, stripes(), NOISE, repeats=2)
    for n in range(3):
        labels, flat, ratios = stripes()[n], maps[n].double().sum(0), []
        worth = {s: flat[labels == s].mean().item() for s in labels.unique().tolist()}
        for repeat in range(2):
            picture, filled = x[n].clone(), replacement(x, n, repeat)
            scores = [net(picture[None]).softmax(1)[0, TARGETS[n]].item()]
            for segment in sorted(worth, key=lambda s: -worth[s]):
                picture[:, labels == segment] = filled[:, labels == segment]
                scores.append(net(picture[None]).softmax(1)[0, TARGETS[n]].item())
            ratios.append(np.array(scores) / scores[0])
        wanted = 1 - trapezoids(np.mean(ratios, axis=0).tolist())
        assert found[n].item() == pytest.approx(wanted, abs=1e-5)


def test_irof_of_squares_is_one_less_deletion(net, x, maps):
    chance = {"fill": NOISE, "output": "probability"}
    squares = REGIONS.index.expand(3, -1, -1)
    area = torch.ones(3, 10, 13) / REGIONS.scores(torch.ones(1, 10, 13))[0][REGIONS.index]
    means = maps.sum(1) * area  # deletion orders by the sum, irof by the mean
    found = evaluation.irof(net, x, TARGETS, maps, squares, **chance)
    deletion = evaluation.deletion(net, x, TARGETS, means, 4, **chance)
    start = net(x).softmax(1)[torch.arange(3), TARGETS].double().detach()
    torch.testing.assert_close(found, 1 - deletion / start, atol=1e-5, rtol=0)


def test_slic_segments_hang_together_and_follow_an_edge():
    from skimage.measure import label

    x = torch.zeros(2, 3, 20, 24)
    x[:, :, :, 13:] = 1.0
    found = evaluation.slic_segments(x, 12)
    assert found.shape == (2, 20, 24)
    for one in found:
        assert one.unique().tolist() == list(range(int(one.max()) + 1))
        assert all(label((one == s).numpy()).max() == 1 for s in one.unique())
        assert not set(one[:, :13].unique().tolist()) & set(one[:, 13:].unique().tolist())


# ------------------------------------------------------------------ stability


def test_max_sensitivity_equals_captums_and_a_naive_loop(net, x):
    found = evaluation.max_sensitivity(net, x, TARGETS, attribution.gradient, 0.3, 6, seed=1)
    noise = torch.stack([0.3 * (2 * _uniform(x, 1, 0, k) - 1) for k in range(6)], dim=1)

    def explain(inputs, target):
        several = isinstance(inputs, tuple)
        maps = attribution.gradient(net, inputs[0] if several else inputs, target)
        return (maps,) if several else maps

    captum = sensitivity_max(
        explain, x, perturb_func=lambda inputs: inputs + noise.flatten(0, 1),
        n_perturb_samples=6, target=torch.tensor(TARGETS),
    )  # fmt: skip
    torch.testing.assert_close(found, captum.double(), atol=1e-5, rtol=0)
    for n in range(3):
        before = attribution.gradient(net, x[n : n + 1], TARGETS[n])
        changes = [
            (attribution.gradient(net, (x[n] + noise[n, k])[None], TARGETS[n]) - before).norm()
            for k in range(6)
        ]
        assert found[n].item() == pytest.approx((max(changes) / before.norm()).item(), abs=1e-5)


def test_max_sensitivity_of_maps_that_explain_nothing(net, x):
    same = evaluation.max_sensitivity(net, x, 0, lambda m, images, t: torch.ones_like(images))
    assert same.tolist() == [0, 0, 0]
    lottery = torch.Generator().manual_seed(0)

    def anew(model, images, target):
        return torch.randn(len(images), 1, 60, 60, generator=lottery)

    found = evaluation.max_sensitivity(net, x, 0, anew, draws=3)
    torch.testing.assert_close(found, torch.full((3,), 2.0**0.5).double(), atol=0.05, rtol=0)


def test_the_class_stays_when_the_picture_moves(net, x):
    asked = []

    def note(model, images, target):
        asked.append(target.tolist())
        return images

    evaluation.max_sensitivity(net, x, None, note, radius=3.0, draws=4)
    assert asked == [net(x).argmax(1).tolist()] * 5


def test_smoothed_is_the_mean_over_noise(net, x):
    found = evaluation.smoothed(attribution.gradient, 5, 0.2, seed=3)(net, x, 1)
    wanted = torch.zeros_like(x)
    for n, k in itertools.product(range(3), range(5)):
        noise = torch.randn(2, 10, 13, generator=generator(3, n, k, "fill"))
        moved = x[n] + 0.2 * (x[n].max() - x[n].min()) * noise
        wanted[n] += attribution.gradient(net, moved[None], 1)[0] / 5
    torch.testing.assert_close(found, wanted, atol=1e-6, rtol=0)
    again = evaluation.smoothed(attribution.gradient, 5, 0.2, seed=3)(net, x, 1)
    assert torch.equal(found, again)


# ------------------------------------------------------------------ Quantus 0.6.0


BLACK = evaluation.Constant(recorded.BLACK)


def of_quantus():
    return recorded.network(), recorded.images(), recorded.targets()


def close(found, name):
    torch.testing.assert_close(found, torch.from_numpy(QUANTUS[name]), atol=1e-5, rtol=1e-4)


def test_faithfulness_correlation_equals_quantus():
    found = evaluation.faithfulness_correlation(
        *of_quantus(), recorded.maps(), 1, recorded.SIZE, recorded.SUBSETS, BLACK
    )
    close(found, "faithfulness_correlation")


def test_max_sensitivity_equals_quantus():
    found = evaluation.max_sensitivity(
        *of_quantus(), attribution.gradient, recorded.RADIUS, recorded.DRAWS
    )
    close(found, "max_sensitivity")


def test_the_entropy_of_efficient_randomisation_equals_quantus():
    from xaiutils.evaluation._sanity import _entropies

    close(_entropies(recorded.maps().double()[:, 0], 100), "discrete_entropy")


def test_quantus_leaves_out_the_start_of_a_deletion_and_the_share_of_a_step():
    morf = evaluation.region_perturbation(*of_quantus(), recorded.maps(), 1, 64, fill=BLACK)
    curve = morf.scores[:, 0].double()
    close(curve[:, 1:], "pixel_flipping")
    found = evaluation.deletion(*of_quantus(), recorded.maps(), 1, BLACK)
    close(64 * found - (curve[:, 0] + curve[:, 1]) / 2, "pixel_flipping_auc")


def test_quantus_irof_lacks_the_start_and_the_share_and_depends_on_the_batch():
    """Images with fewer segments than another get half of their last ratio taken off too."""
    net, x, targets = of_quantus()
    found = evaluation.irof(net, x, targets, recorded.maps(), recorded.labels(), BLACK)
    first, last = [], []
    for n, labels in enumerate(recorded.labels()):
        flat = recorded.maps()[n, 0]
        best = max(labels.unique().tolist(), key=lambda s: flat[labels == s].mean().item())
        gone = torch.where(labels == best, torch.tensor(recorded.BLACK), x[n])
        pictures = torch.stack([x[n], gone, torch.full_like(gone, recorded.BLACK)])
        start, one, everything = net(pictures).softmax(1)[:, targets[n]].tolist()
        first.append(one / start)
        last.append(everything / start)
    number = recorded.labels().flatten(1).amax(1) + 1
    assert number.tolist() == [15, 14, 13, 12]
    ends = torch.tensor(last).double() * (number < 15)
    close(number * found + (1 + torch.tensor(first).double() - ends) / 2, "irof")


def test_quantus_nests_the_squares_of_infidelity():
    """It takes one square after another, row by row, and leaves those before them gone."""
    net, x, targets = of_quantus()
    runner, draws = prepared(net, x, targets, 4, BLACK, with_defaults({}))
    nested = torch.ones(4, 4).tril().bool()[:, None].expand(-1, 4, -1)
    found = SubsetFalls(draws, nested, falls_without(runner, draws, nested, 1))
    slopes = attribution.gradient(net, x, targets)
    close(found.infidelity(slopes, scaled=False, slopes=True), "infidelity")


def test_quantus_sensitivity_n_does_not_know_the_truth():
    """On a linear network the contributions have Sensitivity-n for every n.

    Quantus orders by the map and removes one step after another; it compares the relevance of the
    step with the fall of all steps so far, and correlates over the images of a batch.
    """
    net, x = recorded.linear(), recorded.images()
    truth = attribution.gradient(net, x, recorded.targets()) * (x - recorded.BLACK)
    found = evaluation.sensitivity_n(net, x, recorded.targets(), truth, 1, [4, 20, 48], 30, BLACK)
    torch.testing.assert_close(found, torch.ones(4).double(), atol=1e-5, rtol=0)
    assert QUANTUS["sensitivity_n_of_the_truth"].min() < 0.5
    order = truth.flatten(1).argsort(dim=1, descending=True)
    steps = truth.flatten(1).double().gather(1, order).view(4, 16, 4).sum(2)
    falls = steps.cumsum(1)
    over_images = [np.corrcoef(steps[:, k], falls[:, k])[0, 1] for k in range(12)]
    close(torch.tensor(over_images), "sensitivity_n_of_the_truth")


def test_boxes_equal_quantus_but_for_ties_and_signs():
    maps, boxes = recorded.maps(), recorded.boxes()
    close(evaluation.pointing_game(maps.abs(), boxes), "pointing_game")
    close(evaluation.energy_inside(maps.abs(), boxes), "mass_accuracy")
    # a tie counts as a hit there, and as the share of it that lies inside here
    inside = recorded.inside()
    assert inside[:, 0, 3, 3].tolist() == [1, 1, 1, 1]
    assert inside[:, 0, 0, 7].tolist() == [0, 0, 0, 0]
    assert QUANTUS["pointing_game_of_a_tie"].tolist() == [1, 1, 1, 1]
    assert evaluation.pointing_game(recorded.tied(), boxes).tolist() == [0.5] * 4
    # negative relevance counts against the whole there, so that a share can exceed 1
    assert QUANTUS["mass_accuracy_with_signs"].max() > 1
    assert (evaluation.energy_inside(maps, boxes) <= 1).all()


# ------------------------------------------------------------------ the additive network


@pytest.fixture
def additive():
    return evaluation.AdditiveNetwork(channels=2, side=12, region_size=4, seed=2)


def test_the_truth_of_the_additive_network_is_perfect(additive):
    x = torch.rand(3, 2, 12, 12, generator=torch.Generator().manual_seed(4))
    fill = evaluation.Constant(0.0)
    truth = evaluation.expected_falls(additive, x, fill, 1)
    spread = truth.repeat_interleave(4, 1).repeat_interleave(4, 2) / 16
    settings = {"region_size": 4, "fill": fill}
    ones, nothing = torch.ones(3).double(), torch.zeros(3).double()
    found = evaluation.faithfulness_correlation(additive, x, 0, spread, size=3, **settings)
    torch.testing.assert_close(found, ones, atol=1e-5, rtol=0)
    found = evaluation.saco(additive, x, 0, spread, groups=9, **settings)
    torch.testing.assert_close(found, ones)
    found = evaluation.infidelity(additive, x, 0, spread, size=3, scaled=False, **settings)
    torch.testing.assert_close(found, nothing, atol=1e-9, rtol=0)
    best = evaluation.deletion(additive, x, 0, spread, **settings)
    for order in (spread.flip(1), -spread, torch.ones_like(spread)):
        assert (evaluation.deletion(additive, x, 0, order, **settings) > best).all()


def test_a_map_by_lot_scores_nothing_on_average(additive):
    x = torch.rand(1, 2, 12, 12, generator=torch.Generator().manual_seed(4)).expand(100, -1, -1, -1)
    maps = torch.randn(100, 3, 3, generator=torch.Generator().manual_seed(7))
    maps = maps.repeat_interleave(4, 1).repeat_interleave(4, 2)
    settings = {"region_size": 4, "fill": evaluation.Constant(0.0)}
    for found in (
        evaluation.faithfulness_correlation(additive, x, 0, maps, size=3, subsets=10, **settings),
        evaluation.saco(additive, x, 0, maps, groups=9, **settings),
    ):
        assert abs(found.mean()) < 4 * found.std() / 10
        assert found.std() > 0.1


# ------------------------------------------------------------------ what is refused


METRICS = {
    "deletion": evaluation.deletion,
    "insertion": evaluation.insertion,
    "faithfulness_correlation": evaluation.faithfulness_correlation,
    "sensitivity_n": evaluation.sensitivity_n,
    "infidelity": evaluation.infidelity,
    "saco": evaluation.saco,
    "irof": evaluation.irof,
}


@pytest.mark.parametrize("name", METRICS)
@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"maps": torch.full((3, 2, 10, 13), torch.nan)}, ValueError, "NaN"),
        ({"maps": torch.zeros(3, 9, 13)}, ValueError, "to fit x"),
        ({"maps": {"one": torch.zeros(3, 10, 13)}}, TypeError, "tensor"),
        ({"x": torch.zeros(2, 10, 13)}, ValueError, "batch|images"),
        ({"fill": "noise"}, ValueError, "fill is 'noise'"),
        ({"output": "logits"}, ValueError, "output is 'logits'"),
        ({"repeats": 0}, ValueError, "repeats"),
        ({"repeat": 2}, TypeError, "no option 'repeat'; there are .*repeats|keyword .* 'repeat'"),
        ({"windowed": True}, TypeError, "no option 'windowed'|keyword .* 'windowed'"),
        ({"seed": -1}, ValueError, "seed"),
        ({"batch_size": 0}, ValueError, "batch_size"),
        ({"target": 9}, ValueError, "target"),
    ],
)
def test_unusable_arguments_are_refused(net, x, maps, name, change, error, message):
    arguments = {"x": x, "target": 1, "maps": maps} | change
    arguments |= {} if name == "irof" else {"region_size": 4}
    with pytest.raises(error, match=message):
        METRICS[name](net, **arguments)


def test_subsets_must_leave_something_and_be_several(net, x, maps):
    with pytest.raises(ValueError, match="leave some"):
        evaluation.faithfulness_correlation(net, x, 1, maps, 4, REGIONS.count)
    with pytest.raises(ValueError, match="at least two"):
        evaluation.faithfulness_correlation(net, x, 1, maps, 4, 2, 1)
    with pytest.raises(ValueError, match="there are 12"):
        evaluation.infidelity(net, x, 1, maps, 4, 13)
    with pytest.raises(ValueError, match="sizes is empty"):
        evaluation.sensitivity_n(net, x, 1, maps, 4, [])
    with pytest.raises(ValueError, match="shape of x"):
        evaluation.infidelity(net, x, 1, maps[:, :1], 4, slopes=True)
    with pytest.raises(ValueError, match="13 groups"):
        evaluation.saco(net, x, 1, maps, 4, 13)


def test_infidelity_may_replace_the_whole_picture(net, x, maps):
    found = evaluation.infidelity(
        net, x, 1, maps, 4, REGIONS.count, 1, NOISE, repeats=5, slopes=True
    )
    assert (found > 0).all()


def test_segments_must_fit_and_be_several(net, x, maps):
    with pytest.raises(ValueError, match="single segment"):
        evaluation.irof(net, x, 1, maps, torch.zeros(3, 10, 13, dtype=torch.int64))
    with pytest.raises(ValueError, match="to fit x"):
        evaluation.irof(net, x, 1, maps, stripes()[:, :9])
    with pytest.raises(TypeError, match="whole numbers"):
        evaluation.irof(net, x, 1, maps, stripes().float())
    with pytest.raises(ValueError, match="positive"):
        evaluation.irof(net, x, 1, maps, stripes(), output=lambda outputs, n: -outputs[:, 1].exp())
    with pytest.raises(ValueError, match="finite images"):
        evaluation.slic_segments(torch.full((1, 3, 8, 8), torch.nan))


def test_unusable_methods_are_refused(net, x):
    def ask(maps, **options):
        return evaluation.max_sensitivity(net, x, 1, lambda m, i, t: maps(i), **options)

    with pytest.raises(ValueError, match="zero everywhere"):
        ask(torch.zeros_like)
    with pytest.raises(ValueError, match="NaN"):
        ask(lambda images: images * torch.nan)
    with pytest.raises(ValueError, match="radius"):
        ask(torch.ones_like, radius=0.0)
    with pytest.raises(ValueError, match="draws"):
        ask(torch.ones_like, draws=0)
    with pytest.raises(ValueError, match="spread"):
        evaluation.smoothed(attribution.gradient, spread=-1.0)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("name", METRICS)
def test_numbers_on_the_gpu_equal_those_on_the_cpu(net, x, maps, name):
    import copy

    here = METRICS[name](net, x, 1, maps, fill=NOISE)
    there = METRICS[name](copy.deepcopy(net).cuda(), x.cuda(), 1, maps.cuda(), fill=NOISE)
    torch.testing.assert_close(there, here, atol=1e-4, rtol=1e-4)
