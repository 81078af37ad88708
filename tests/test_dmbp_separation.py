"""DMBP's objective without a free direction, and a search whose masks can travel all the way."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_networks import random_network, small
from test_dmbp import assert_gradient_is_that_of_differences, masked
from torch import nn

from xaiutils import attribution
from xaiutils.attribution import Purity, Separation
from xaiutils.attribution._dmbp_objectives import Evidence, _overlapping

seeds = st.integers(0, 10_000)
few = settings(max_examples=10, deadline=None)
many = settings(max_examples=100, deadline=None)
SEARCH = {
    "iterations": 200,
    "places": "layers",
    "biases": "masked",
    "softness": 0.1,
    "parameters": "logits",
    "learning_rate": 0.2,
}
ENTRIES = Separation(windows=None, net="inputs")


def window_sums(pixels, side, offset):
    """Sums (N, ...) over colours and windows, of a list of windows, by loops."""
    height, width = pixels.shape[-2:]

    def spans(length):
        edges = [0, *range(side - offset, length, side), length]
        return [slice(*pair) for pair in itertools.pairwise(edges)]

    found = [pixels[..., r, c].sum((1, 2, 3)) for r in spans(height) for c in spans(width)]
    return torch.stack(found, 1)


def plain_loss(objective, evidence, whole):
    """The objective written out, window by window."""
    if objective.net == "maps":
        target = (whole.net / evidence.shape[2]).expand(evidence.shape[1:])
    else:
        target = whole.pixels[0]
    scale = window_sums(target, objective.coarse, 0).abs().sum(1)
    loss = objective.sparsity * evidence.abs().sum((0, 2, 3, 4))
    grids = [(w, o) for w in objective.windows for o in {0, w // 2}]
    for side, offset in grids:
        plus, minus = (window_sums(branch, side, offset) for branch in evidence)
        wrong = [(-plus).clamp(min=0).sum(1), minus.clamp(min=0).sum(1)]
        both = torch.minimum(plus.clamp(min=0), (-minus).clamp(min=0)).sum(1)
        if objective.relative:  # times the scale, by which all is divided in the end
            sizes = [branch.abs().sum(1) for branch in (plus, minus)]
            wrong = [scale * part / size for part, size in zip(wrong, sizes, strict=True)]
            both = scale * both / torch.minimum(*sizes)
        loss = loss + (sum(wrong) + objective.overlap * both) / len(grids)
    offsets = {0, objective.coarse // 2}
    for offset in offsets:
        wanted = window_sums(target, objective.coarse, offset)
        held = window_sums(evidence.sum(0), objective.coarse, offset)
        loss = loss + objective.fidelity * (wanted - held).abs().sum(1) / len(offsets)
    return loss / scale


# ------------------------------------------------------------------------------ the objective


@few
@given(
    seeds,
    st.integers(4, 9),
    st.integers(4, 9),
    st.sampled_from(["maps", "inputs"]),
    st.booleans(),
)
def test_the_loss_and_its_gradient_are_those_of_a_plain_loop(seed, height, width, net, relative):
    torch.manual_seed(seed)
    weights = {"overlap": 0.7, "fidelity": 1.3, "sparsity": 0.2}
    objective = Separation((1, 2, 3, 5), 3, net=net, relative=relative, **weights)
    pixels = torch.randn(2, 2, 3, height, width, dtype=torch.float64, requires_grad=True)
    whole = Evidence(torch.randn_like(pixels[:1]), (), torch.randn_like(pixels[0, :, :1]))
    loss, slopes = objective.evaluate(Evidence(pixels.detach()), whole)
    expected = plain_loss(objective, pixels, whole)
    torch.testing.assert_close(loss, expected.detach())
    torch.testing.assert_close(slopes.pixels, torch.autograd.grad(expected.sum(), pixels)[0])


@many
@given(seeds)
def test_the_size_of_pure_branches_exceeds_jordans_by_twice_the_overlap(seed):
    torch.manual_seed(seed)
    plus, minus = torch.rand(2, 1, 9, dtype=torch.float64)[:, None].unbind()
    minus = -minus
    net = plus + minus
    excess = plus.abs().sum() + minus.abs().sum() - net.abs().sum()
    overlap, _ = _overlapping(torch.cat([plus, minus]))
    torch.testing.assert_close(excess, 2 * overlap.sum())
    jordan = torch.cat([net.clamp(min=0), net.clamp(max=0)])
    assert not _overlapping(jordan)[0].any()


def of_entries(*branches):
    """Evidence of one image whose entries are windows of their own, (B, 1, F)."""
    return Evidence(torch.tensor(branches, dtype=torch.float64)[:, None])


@many
@given(seeds)
def test_the_loss_bounds_the_distance_from_the_jordan_decomposition(seed):
    """Whatever the branches are; so no direction is free, and only Jordan's costs nothing."""
    torch.manual_seed(seed)
    target = torch.randn(6, dtype=torch.float64)
    spread = 10 ** torch.randint(-3, 2, (1,)).item()
    branches = torch.stack([target.clamp(min=0), target.clamp(max=0)])
    whole = Evidence(target[None, None])
    assert ENTRIES.evaluate(Evidence(branches[:, None]), whole)[0].item() == 0
    moved = branches + spread * torch.randn(2, 6, dtype=torch.float64)
    heavy = Separation(windows=None, net="inputs", overlap=2 / 3, fidelity=2 / 3)
    loss = heavy.evaluate(Evidence(moved[:, None]), whole)[0] * target.abs().sum()
    assert (moved - branches).abs().sum() <= 3 * loss.item() * (1 + 1e-12)


def test_claiming_the_same_place_twice_is_free_for_purity_and_costs_here():
    whole = of_entries([1.0, -1.0])
    jordan, twice = of_entries([1.0, 0.0], [0.0, -1.0]), of_entries([6.0, 5.0], [-5.0, -6.0])
    free = [Purity().evaluate(found, whole)[0].item() for found in (jordan, twice)]
    assert free == [-2.0, -2.0]
    cost = [ENTRIES.evaluate(found, whole)[0].item() for found in (jordan, twice)]
    assert cost == [0.0, 5.0]  # 10 claimed twice, over a net size of 2


@many
@given(seeds, st.floats(0.01, 100))
def test_the_present_objective_has_a_free_direction_and_this_one_has_none(seed, more):
    """From any pure branches that account for the net, claim more of each place in both."""
    torch.manual_seed(seed)
    plus, minus = torch.rand(2, 5, dtype=torch.float64)
    extra = more * torch.rand(5, dtype=torch.float64)
    before = Evidence(torch.stack([plus, -minus])[:, None])
    after = Evidence(torch.stack([plus + extra, -minus - extra])[:, None])
    whole = Evidence((plus - minus)[None, None])
    free = [Purity().evaluate(found, whole)[0] for found in (before, after)]
    torch.testing.assert_close(*free)
    cost = [ENTRIES.evaluate(found, whole)[0] for found in (before, after)]
    expected = extra.sum() / (plus - minus).abs().sum()
    torch.testing.assert_close(cost[1] - cost[0], expected[None])


@many
@given(seeds, st.floats(0.01, 0.99))
def test_shares_reward_no_shrinking_and_are_zero_for_jordans_branches(seed, factor):
    """Without the fidelity: both branches smaller by one factor, or one of them alone."""
    torch.manual_seed(seed)
    branches, target = torch.randn(2, 1, 6, dtype=torch.float64), torch.randn(1, 1, 6).double()
    shares = Separation(windows=None, net="inputs", fidelity=0.0, relative=True)
    loss = shares.evaluate(Evidence(branches), Evidence(target))[0]
    smaller = shares.evaluate(Evidence(factor * branches), Evidence(target))[0]
    torch.testing.assert_close(smaller, loss)
    jordan = torch.cat([target.clamp(min=0), target.clamp(max=0)])
    assert shares.evaluate(Evidence(jordan), Evidence(target))[0].item() == 0
    plain = Separation(windows=None, net="inputs", fidelity=0.0)
    cost = [plain.evaluate(Evidence(f * branches), Evidence(target))[0] for f in (1, factor)]
    torch.testing.assert_close(cost[1], factor * cost[0])


def test_shares_of_empty_branches_are_finite():
    shares = Separation(windows=None, net="inputs", relative=True)
    for target in (torch.zeros(1, 1, 6), torch.randn(1, 1, 6)):
        loss, slopes = shares.evaluate(Evidence(torch.zeros(2, 1, 6)), Evidence(target))
        assert loss.item() == pytest.approx(float(target.any()))
        assert bool(torch.isfinite(slopes.pixels).all())


def test_empty_branches_cost_the_fidelity():
    objective = Separation((1, 2), 2, overlap=5.0, fidelity=1.7, net="inputs")
    pixels = torch.randn(1, 2, 3, 4, 4, dtype=torch.float64)
    pixels[:, 1] = 0  # nothing to decompose: no loss, no slope
    empty = Evidence(torch.zeros(2, *pixels.shape[1:], dtype=torch.float64))
    loss, slopes = Separation((1,), 1, fidelity=1.7, net="inputs").evaluate(empty, Evidence(pixels))
    torch.testing.assert_close(loss, torch.tensor([1.7, 0.0], dtype=torch.float64))
    loss, slopes = objective.evaluate(empty, Evidence(pixels))
    assert loss[0] > 0
    assert loss[1] == 0
    assert not slopes.pixels[:, 1].any()
    assert bool(torch.isfinite(slopes.pixels).all())


@few
@given(seeds, st.sampled_from(["maps", "inputs"]), st.booleans())
def test_the_mask_gradient_by_finite_differences(seed, net, relative):
    network, x = random_network(seed)
    objective = Separation((1, 3), 4, sparsity=0.1, net=net, relative=relative)
    options = {"places": "layers", "biases": "masked", "needs_net": objective.needs_net()}
    parts = masked(network, x, 0, False, **options)
    assert_gradient_is_that_of_differences(parts, objective, seed, 1e-7, rtol=1e-4, atol=1e-6)


# --------------------------------------------------------------------------------- the search


def planted(seed):
    """A network and an image with evidence for (2 cells), against (2) and clutter (2 cells).

    The filters of the first layer see stripes (for the output), stripes across (against it) and
    checks, which two filters see alike, with three times the weight and opposite signs. Two more
    layers pass each of the four on through units of their own. What is in a cell is known.
    """
    pick = torch.Generator().manual_seed(seed)

    def weights(*shape):
        return torch.rand(shape, generator=pick) + 0.5

    halves, ones = torch.tensor([1.0, 1, -1, -1]), torch.ones(4)
    patterns = torch.stack(
        [torch.outer(halves, ones), torch.outer(ones, halves), torch.outer(halves, halves)]
    )
    network = nn.Sequential(
        nn.Conv2d(1, 4, 4, 4), nn.ReLU(), nn.Conv2d(4, 8, 1, bias=False), nn.ReLU(),
        nn.Conv2d(8, 4, 1, bias=False), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(4, 1, bias=False),
    )  # fmt: skip
    own = torch.eye(4).repeat_interleave(2, 0)
    up, down = own * weights(8, 1), own.T * weights(1, 8)
    network[0].weight.data = patterns[[0, 1, 2, 2], None] / 16
    network[0].bias.data = -0.25 * weights(1).repeat(4)
    network[2].weight.data = up[..., None, None]
    network[4].weight.data = (down / (down @ up).diagonal()[:, None])[..., None, None]
    network[8].weight.data = 9 * torch.tensor([[1.0, -1, 3, -3]])
    order = torch.randperm(9, generator=pick)[:6]
    cells = torch.zeros(9, 4, 4)
    cells[order] = patterns.repeat_interleave(2, 0) * (0.5 + weights(6, 1, 1))
    image = cells.view(3, 3, 4, 4).permute(0, 2, 1, 3).reshape(1, 1, 12, 12)
    return network.double().eval(), image.double(), order


def in_cells(values, order):
    """Sums over the six cells with something in them: two for, two against, two of clutter."""
    return nn.functional.avg_pool2d(values, 4, divisor_override=1).flatten()[order]


def both_branches(found, order):
    biases = [0, 0] if found.bias_maps is None else found.bias_maps
    return in_cells(found.positive + biases[0], order), -in_cells(found.negative + biases[1], order)


def crossed(found, start):
    """How many masks have changed sides."""
    pairs = zip(found.masks.values(), start.masks.values(), strict=True)
    return sum(int(((now > 0.5) != (before > 0.5)).sum()) for now, before in pairs)


def likeness(plus, minus):
    return torch.cosine_similarity(plus, minus, 0).item()


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("net", ["maps", "inputs"])
def test_masks_cross_and_the_branches_separate(seed, net):
    network, image, order = planted(seed)
    objective = Separation((1, 2, 4), 4, net=net)
    found = attribution.dmbp(network, image, 0, objective=objective, **SEARCH)
    start = attribution.dmbp(network, image, 0, objective=objective, **SEARCH | {"iterations": 0})
    plus, minus = both_branches(found, order)
    assert crossed(found, start) >= 2
    assert likeness(*both_branches(start, order)) > 0.8
    assert abs(likeness(plus, minus)) < 0.05
    gross = network[:6](image)[0].detach().flatten(1)[:, order]  # of each unit, in each cell
    torch.testing.assert_close(plus[:2], gross[0, :2], rtol=0.15, atol=0)
    torch.testing.assert_close(minus[2:4], gross[1, 2:4], rtol=0.15, atol=0)
    assert bool((plus[4:].abs() < 0.1).all())
    assert bool((minus[4:].abs() < 0.1).all())


@pytest.mark.parametrize("seed", [0, 1])
def test_in_the_present_search_no_mask_crosses_and_the_clutter_stays(seed):
    network, image, order = planted(seed)
    for options in ({}, {"objective": Separation((1, 2, 4), 4)}):
        found = attribution.dmbp(network, image, 0, **options)
        start = attribution.dmbp(network, image, 0, 0)
        assert crossed(found, start) == 0
        assert likeness(*both_branches(found, order)) > 0.3


def test_a_soft_start_lies_inside_and_logits_can_travel_from_there():
    network, x = small("residual")
    hard = attribution.dmbp(network, x, 0, 0)
    soft = attribution.dmbp(network, x, 0, 0, softness=0.1)
    for name, mask in soft.masks.items():
        torch.testing.assert_close(mask, 0.1 + 0.8 * hard.masks[name])
    flat = attribution.dmbp(network, x, 0, 0, start="ones", softness=0.5)
    assert all(bool((mask == 0.5).all()) for mask in flat.masks.values())
    first = attribution.dmbp(network, x, 0, 1, softness=0.1, parameters="logits", learning_rate=5.0)
    for name, mask in first.masks.items():  # the first step moves each logit by the rate
        far = (mask.logit() - soft.masks[name].logit()).abs()
        assert bool(((far - 5).abs() < 0.1)[far > 0.1].all())
        assert bool(((mask > 0) & (mask < 1)).all())


def test_the_search_lowers_the_loss_and_treats_images_alone():
    network, x = small("bottleneck")
    options = SEARCH | {"iterations": 20, "objective": Separation((1, 2), 4)}
    together = attribution.dmbp(network, x, [0, 1, 2], batch_size=2, **options)
    assert bool((together.history.amin(1) < 0.8 * together.history[:, 0]).all())
    alone = attribution.dmbp(network, x[2:], 2, **options)
    torch.testing.assert_close(together.positive[2:], alone.positive)
    torch.testing.assert_close(together.bias_maps[:, 2:], alone.bias_maps)
    torch.testing.assert_close(together.history[2:], alone.history)


def test_bad_options_are_refused():
    network, x = small("residual")
    for options in ({"softness": 0.6}, {"softness": -0.1}, {"parameters": "logits"}):
        with pytest.raises(ValueError, match="softness"):
            attribution.dmbp(network, x, **options)
    with pytest.raises(ValueError, match="parameters"):
        attribution.dmbp(network, x, parameters="theta")
    bad = [{"windows": ()}, {"windows": (0,)}, {"coarse": 0}, {"net": "x"}, {"fidelity": -1.0}]
    for options in bad:
        with pytest.raises(ValueError, match=next(iter(options))):
            Separation(**options)
    network, x = small("sequence")
    with pytest.raises(ValueError, match="windows need images"):
        attribution.dmbp(network, x, 0, objective=Separation())
