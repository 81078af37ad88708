"""The search for the best order: against naive loops, all orders there are, and known networks."""

from itertools import permutations
from typing import ClassVar

import numpy as np
import pytest
import torch
from torch import nn

from xaiutils import evaluation, graph
from xaiutils.windows import only_classes

REGIONS = evaluation.Regions(12, 12, 4)


@pytest.fixture
def network():
    torch.manual_seed(0)
    layers = nn.Conv2d(3, 4, 3), nn.Tanh(), nn.Flatten(), nn.Linear(400, 5)
    return nn.Sequential(*layers).eval()


@pytest.fixture
def images():
    return torch.rand(2, 3, 12, 12, generator=torch.Generator().manual_seed(0))


class Grey:
    """A fill that sees the mask: the brighter, the more is gone."""

    random: ClassVar[bool] = False
    sees_mask: ClassVar[bool] = True

    def __call__(self, images, generator, gone):
        share = gone.float().mean((1, 2, 3), keepdim=True)
        return share.expand_as(images).clone()


def filled(x, fill, gone):
    """`x` (C, H, W) with these regions replaced by a fill that draws nothing."""
    mask = torch.isin(REGIONS.index, torch.tensor(gone))[None, None]
    seeing = (mask,) if getattr(fill, "sees_mask", False) else ()
    return torch.where(mask, fill(x[None], torch.Generator(), *seeing), x[None])


def curve(network, x, fill, order):
    """The scores of class 2 after each region of an order, one forward pass for each."""
    steps = [filled(x, fill, order[:k]) for k in range(len(order) + 1)]
    return torch.cat([network(step)[:, 2] for step in steps]).detach()


def naive(network, x, fill, steps, goal):
    """Greedy search with one forward pass for each region that is tried."""
    order, pick = [], min if goal == "morf" else max
    for _ in range(steps):
        left = [r for r in range(REGIONS.count) if r not in order]
        tried = {r: network(filled(x, fill, [*order, r]))[0, 2].item() for r in left}
        order.append(pick(tried, key=tried.get))
    return order


def order_of(curves, image, steps):
    return curves.perturbation.region_order(image, 0)[:steps].tolist()


@pytest.mark.parametrize("goal", evaluation.GOALS)
@pytest.mark.parametrize(
    ("fill", "windowed"),
    [(evaluation.Constant(0.1), True), (evaluation.Constant(0.1), None), (Grey(), None)],
)
def test_each_step_is_that_of_a_naive_loop(network, images, fill, windowed, goal):
    found = evaluation.search(
        network, images, 2, 4, 5, fill, 2, goal=goal, batch_size=4, windowed=windowed
    )
    assert found.order == {"morf": "best", "lerf": "worst"}[goal]
    for i, x in enumerate(images):
        order = naive(network, x, fill, 5, goal)
        assert order_of(found, i, 5) == order
        for repeat in range(2):
            wanted = curve(network, x, fill, order)
            torch.testing.assert_close(found.scores[i, repeat], wanted, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("goal", evaluation.GOALS)
@pytest.mark.parametrize("edge", ["keep", "drop"])
def test_the_order_as_a_map_gives_the_same_curve(network, images, goal, edge):
    options = {"fill": "uniform", "repeats": 3, "seed": 4, "edge": edge, "first_image": 2}
    found = evaluation.search(network, images, 2, 5, 3, goal=goal, **options)
    maps = evaluation.order_map(found)
    assert maps.shape == (2, 1, 12, 12)
    judged = evaluation.region_perturbation(network, images, 2, maps, 5, 3, goal, **options)
    torch.testing.assert_close(judged.scores, found.scores, atol=1e-5, rtol=1e-5)
    assert (judged.tied == 0).all()


@pytest.mark.filterwarnings("ignore::xaiutils.evaluation.ConstantHeatmapWarning")
def test_no_map_beats_the_first_step_of_the_search(network, images):
    options = {"region_size": 4, "steps": 1, "fill": "uniform", "repeats": 3}
    best = evaluation.search(network, images, 2, **options).aopc()
    for region in range(REGIONS.count):
        maps = (REGIONS.index == region).float().expand(2, -1, -1)
        one = evaluation.region_perturbation(network, images, 2, maps, **options)
        assert (one.aopc() <= best + 1e-6).all()


def test_a_beam_as_wide_as_all_sets_finds_the_best_of_all_orders(network, images):
    fill, steps = evaluation.Constant(0.1), 3
    found = evaluation.search(network, images[:1], 2, 4, steps, fill, beam=1000)
    every = {
        order: curve(network, images[0], fill, list(order)).double()
        for order in permutations(range(REGIONS.count), steps)
    }
    areas = {order: (scores[0] - scores).mean().item() for order, scores in every.items()}
    best = max(areas, key=areas.get)
    assert found.aopc().item() == pytest.approx(areas[best], abs=1e-6)
    assert order_of(found, 0, steps) == list(best)


class Both(nn.Module):
    """Falls by 9 when regions 0 and 8 are both gone, and by 1 for region 4 alone."""

    def forward(self, x):
        first, middle, last = x[:, 0, 0, 0], x[:, 0, 5, 5], x[:, 0, 11, 11]
        return torch.stack([9 * torch.maximum(first, last) + middle], dim=1)


def test_greedy_search_misses_what_a_beam_finds():
    x, fill = torch.ones(1, 1, 12, 12), evaluation.Constant(0.0)
    greedy, wide = (
        evaluation.search(Both().eval(), x, 0, 4, 2, fill, beam=beam) for beam in (1, 20)
    )
    assert order_of(greedy, 0, 1) == [4]
    assert sorted(order_of(wide, 0, 2)) == [0, 8]
    assert wide.scores[0, 0].tolist() == [10, 10, 1]
    assert wide.aopc() > greedy.aopc()


@pytest.mark.parametrize("goal", evaluation.GOALS)
def test_of_an_additive_network_it_finds_the_order_of_the_contributions(images, goal):
    network = evaluation.AdditiveNetwork(3, side=12, region_size=4, seed=1)
    fill = evaluation.Constant(0.5)
    falls = evaluation.region_occlusion(network, images, 0, 4, fill).flatten(1)
    found = evaluation.search(network, images, 0, 4, 9, fill, goal=goal)
    wanted = falls.argsort(dim=1, descending=goal == "morf")
    assert [order_of(found, i, 9) for i in range(2)] == wanted.tolist()


def test_the_area_between_both_ends_is_above_any_map_s_of_an_additive_network(images):
    network = evaluation.AdditiveNetwork(3, side=12, region_size=4, seed=1)
    grey = evaluation.Constant(0.5)
    best, worst = (
        evaluation.search(network, images, 0, 4, 9, grey, goal=goal) for goal in ("morf", "lerf")
    )
    area = evaluation.abpc(best, worst)
    assert torch.allclose(area, best.aopc() - worst.aopc())
    noise = torch.rand(2, 12, 12, generator=torch.Generator().manual_seed(0))
    pair = [
        evaluation.region_perturbation(network, images, 0, noise, 4, 9, order, grey, repeats=1)
        for order in ("morf", "lerf")
    ]
    assert (area > evaluation.abpc(*pair)).all()
    with pytest.raises(ValueError, match="'best' and 'worst', not 'worst' and 'best'"):
        evaluation.abpc(worst, best)


def test_regions_that_were_not_reached_follow_by_their_last_scores(network, images):
    fill = evaluation.Constant(0.1)
    found = evaluation.search(network, images[:1], 2, 4, 2, fill)
    order = order_of(found, 0, 9)
    assert sorted(order) == list(range(9))
    tried = [network(filled(images[0], fill, [order[0], r]))[0, 2].item() for r in order[1:]]
    assert tried == sorted(tried)


def test_a_network_of_nan_is_refused(images):
    class Broken(nn.Module):
        def forward(self, x):
            mean = x.mean((1, 2, 3))
            return torch.stack([(mean - 0.4).sqrt()], dim=1)

    with pytest.raises(FloatingPointError, match=r"NaN or infinite, the first of image \d"):
        evaluation.search(Broken().eval(), images, 0, 4, 9, evaluation.Constant(0.0))


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"goal": "best"}, ValueError, "goal is 'best'"),
        ({"beam": 0}, ValueError, "beam must be at least 1"),
        ({"beam": 1.0}, TypeError, "beam must be an int"),
        ({"steps": 10}, ValueError, "10 steps need as many regions"),
        ({"fill": Grey(), "windowed": True}, ValueError, "a fill that stays as it is"),
    ],
)
def test_unusable_arguments_are_refused(network, images, change, error, message):
    arguments = {"x": images, "target": 0, "region_size": 4, "steps": 2, "repeats": 1} | change
    with pytest.raises(error, match=message):
        evaluation.search(network, **arguments)


def test_only_the_classes_that_are_watched_are_computed():
    torch.manual_seed(0)
    layers = nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 6, 1), nn.ReLU()
    network = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()
    x, classes = torch.rand(2, 3, 9, 9), torch.tensor([1, 4])
    traced = graph.trace(network, x)
    fewer = only_classes(traced, classes)
    torch.testing.assert_close(fewer(x), network(x)[:, classes])
    assert max(node.shape[0] for node in fewer.nodes[3:]) == 2
    assert traced.output_shape == (6,)  # the other one is as it was
    softmax = nn.Sequential(network, nn.Softmax(dim=1)).eval()
    assert only_classes(graph.trace(softmax, x), classes) is None


# ------------------------------------------------------------------------- share of the ceiling


def curves_of(areas, order):
    """Curves of one step whose areas are these."""
    scores = torch.zeros(len(areas), 1, 2)
    scores[..., 1] = -2 * torch.as_tensor(areas)[:, None]
    return evaluation.Curves(scores, order, None)


AREAS = {"map": [3.0, 1, 4, 1], "best": [5.0, 9, 2, 6], "random": [1.0, 1, 0, 2]}


def few(*given, **named):
    with pytest.warns(evaluation.FewImagesWarning):
        return evaluation.share_of_ceiling(*given, **named)


def test_the_share_is_a_ratio_of_means_with_an_interval_over_images():
    method, best = curves_of(AREAS["map"], "morf"), curves_of(AREAS["best"], "best")
    random = curves_of(AREAS["random"], "random")
    found = few(method, random, best, resamples=4000)
    gain, most = (np.subtract(AREAS[name], AREAS["random"]) for name in ("map", "best"))
    assert found.mean == pytest.approx(100 * gain.sum() / most.sum())  # 5 / 18
    draw = np.random.default_rng(1)
    drawn = []
    for _ in range(4000):
        chosen = draw.integers(4, size=4)
        drawn.append(100 * gain[chosen].sum() / most[chosen].sum())
    assert [found.low, found.high] == pytest.approx(np.quantile(drawn, [0.025, 0.975]), abs=3)
    whole = few(best, random, best)
    assert (whole.mean, whole.low, whole.high) == (100, 100, 100)


def test_the_share_of_an_order_that_keeps_and_of_a_pair():
    random = curves_of([2.0, 2, 2], "random")
    lerf, worst = curves_of([1.0, 2, 0], "lerf"), curves_of([0.0, 0, 0], "worst")
    assert few(lerf, random, worst).mean == pytest.approx(50)
    morf, best = curves_of([3.0, 2, 4], "morf"), curves_of([5.0, 5, 5], "best")
    assert few((morf, lerf), None, (best, worst)).mean == pytest.approx(100 * 6 / 15)
    judged = curves_of([5.0, 5, 5], "morf"), curves_of([0.0, 0, 0], "lerf")  # on other draws
    assert few((morf, lerf), None, judged).mean == pytest.approx(100 * 6 / 15)


def test_an_end_without_bound_is_infinite():
    random = curves_of([0.0, 0, 0], "random")
    found = few(curves_of([1.0, 1, 1], "morf"), random, curves_of([3.0, -1, -1], "best"))
    assert found.high == np.inf


@pytest.mark.filterwarnings("ignore::xaiutils.evaluation.FewImagesWarning")
@pytest.mark.parametrize(
    ("curves", "random", "best", "message"),
    [
        (("morf", "map"), "random", ("best", "random"), "gains 0 over chance"),
        (("morf", "map"), None, ("best", "best"), "order 'random'; only a pair"),
        (("morf", "map"), "best", ("best", "best"), "order 'random'; only a pair"),
        (("lerf", "map"), "random", ("best", "best"), "for the same goal"),
        (("random", "map"), "random", ("best", "best"), "for the same goal"),
    ],
)
def test_a_share_that_has_no_meaning_is_refused(curves, random, best, message):
    given = curves_of(AREAS[curves[1]], curves[0]), curves_of(AREAS[best[1]], best[0])
    chance = None if random is None else curves_of(AREAS["random"], random)
    with pytest.raises(ValueError, match=message):
        evaluation.share_of_ceiling(given[0], chance, given[1])


def test_an_order_by_lot_is_no_map(network, images):
    random = evaluation.region_perturbation(network, images, 0, None, 4, 2, "random", repeats=1)
    with pytest.raises(ValueError, match="drawn anew"):
        evaluation.order_map(random)
