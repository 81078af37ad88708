"""DMBP with masks at every layer and with biases as masked inputs: nothing is put aside."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_networks import SMALL, random_network, small
from test_dmbp import assert_gradient_is_that_of_differences, masked, random_masks
from torch import nn

from xaiutils import attribution, graph
from xaiutils.attribution import FilterExtraction, Purity
from xaiutils.attribution._dmbp_masked import BIASES
from xaiutils.attribution._dmbp_objectives import Evidence
from xaiutils.attribution._dmbp_places import PLACES, Ground, last_maps, placed

seeds = st.integers(0, 10_000)
few = settings(max_examples=10, deadline=None)
GATED = [name for name in SMALL if name != "autoencoder"]  # its output is an image
FULL = {"places": "layers", "biases": "masked"}


def sums(values):
    return values.flatten(1).sum(1)


def units(network):
    """The convolutions and linear layers in their order, each with the BatchNorm behind it."""
    modules = [*network.modules(), nn.Identity()]
    for module, behind in itertools.pairwise(modules):
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            yield module, behind if isinstance(behind, nn.BatchNorm2d) else None


def by_autograd(network, x, target, masks):
    """The masked mapping, and what all biases contribute: hooks on the layers, in their order."""
    hooks, parameters = [], []
    for mask, (layer, norm) in zip(masks, units(network), strict=True):

        def scale(_, __, output, mask=mask):
            output.register_hook(lambda s: s * mask.reshape(*mask.shape, *[1] * (s.ndim - 2)))

        hooks.append((norm or layer).register_forward_hook(scale))
        parameters.append((layer.bias, layer.bias))
        if norm is not None:
            scaled = norm.running_mean * norm.weight / (norm.running_var + norm.eps).sqrt()
            parameters.append((norm.bias, norm.bias - scaled))
    x = x.detach().clone().requires_grad_()
    parameters = [pair for pair in parameters if pair[0] is not None]
    output = network(x)[:, target].sum()
    wanted = [x, *(parameter for parameter, _ in parameters)]
    mapping, *slopes = torch.autograd.grad(output, wanted)
    for hook in hooks:
        hook.remove()
    shifts = (shift for _, shift in parameters)
    return mapping, sum((s * b).sum().detach() for s, b in zip(slopes, shifts, strict=True))


# ------------------------------------------------------------------------------- the account


@few
@given(seeds)
def test_masks_at_layers_and_biases_are_what_autograd_says(seed):
    """Random networks with biases, BatchNorm and residual additions; one image at a time."""
    network, x = random_network(seed, signed=True)
    x = x[:1]
    parts = masked(network, x, 1, False, **FULL)
    masks = random_masks(parts, seed)
    assert len(parts.gates) == len(list(units(network)))
    mappings, evidence = parts.backward(masks)
    for branch in range(2):
        split = parts.split(masks[branch])
        mapping, biases = by_autograd(network, x, 1, split)
        torch.testing.assert_close(mappings[branch], mapping)
        torch.testing.assert_close(parts.bias_maps[branch].sum(), biases)
        total = (mapping * x).sum() + biases
        torch.testing.assert_close(evidence.pixels[branch].sum(), total)


@few
@given(seeds, st.sampled_from(PLACES), st.booleans())
def test_nothing_is_put_aside(seed, places, searched):
    network, x = random_network(seed, signed=True)
    if not placed(graph.trace(network, x), places, False)[1] or (
        places == "activations" and not graph.trace(network, x).gates
    ):
        return
    found = attribution.dmbp(network, x, None, 3 * searched, places=places, biases="masked")
    logits = network(x).detach().max(1).values
    branches = (found.positive, found.negative, found.nuisance)
    total = sum(map(sums, branches)) + found.bias_maps.flatten(2).sum((0, 2))
    torch.testing.assert_close(total, logits)
    assert float(found.gap.abs().max()) < 1e-10
    assert not found.bias.any()
    assert found.bias_maps.shape == (3, 2, 1, 8, 8)


@pytest.mark.parametrize("places", PLACES)
@pytest.mark.parametrize("name", GATED)
def test_nothing_is_put_aside_on_any_kind_of_network(name, places):
    """Clamps, leaky and saturated activations, concatenations; one to three dimensions."""
    network, x = small(name)
    found = attribution.dmbp(
        network, x, 1, 2, objective=Purity(), places=places, biases="masked", batch_size=2
    )
    outputs = network(x).detach()[:, 1]
    parts = sum(sums(part) for part in (found.positive, found.negative, found.nuisance))
    biases = found.bias_maps.flatten(2).sum((0, 2))
    torch.testing.assert_close(parts + biases, outputs)
    assert bool(biases.abs().min() > 1e-3)


@pytest.mark.parametrize("name", GATED)
def test_the_unmasked_evidence_is_the_full_gradient(name):
    network, x = small(name)
    whole = masked(network, x, 1, False, **FULL).whole.pixels[0]
    if x.ndim == 2:
        return
    expected = attribution.fullgrad(network, x, 1, signed=True)
    torch.testing.assert_close(whole.sum(1, keepdim=True), expected.sum(1, keepdim=True))


def test_what_a_saturated_relu6_adds_has_the_mask_of_its_filter():
    """Two units, one at its ceiling: 6 times its weight is in the branch that keeps the unit."""
    network = nn.Sequential(nn.Linear(1, 2, bias=False), nn.ReLU6(), nn.Linear(2, 1)).double()
    network.eval()[0].weight.data[:] = torch.tensor([[1.0], [10.0]])
    network[2].weight.data[:], network[2].bias.data[:] = torch.tensor([[2.0, -3.0]]), 5.0
    x = torch.ones(1, 1, dtype=torch.float64)
    found = attribution.dmbp(network, x, 0, 0, start="greedy_slope", **FULL)
    assert found.masks["1"].tolist() == [[[1.0, 0.0]], [[0.0, 1.0]]]
    assert found.masks["2"].tolist() == [[[1.0]], [[1.0]]]  # the logit, which stays in both
    assert found.positive.tolist() == [[2.0]]
    assert found.bias_maps.flatten().tolist() == [5.0, -18.0 + 5.0, -5.0]


# ----------------------------------------------------------------------------- where masks sit


def test_what_no_activation_follows_has_masks_of_its_own():
    network, x = small("bottleneck")
    names = {
        places: list(attribution.dmbp(network, x, 0, 0, places=places).masks) for places in PLACES
    }
    assert names["activations"] == ["2", "5", "9"]
    assert names["layers"] == names["both"] == ["2", "5", "6", "9", "12"]
    network, x = small("residual")  # the sum in each block is no layer, its activation is masked
    masks = {places: attribution.dmbp(network, x, 0, 0, places=places).masks for places in PLACES}
    assert [len(masks[places]) for places in PLACES] == [4, 6, 8]
    assert set(masks["both"]) == set(masks["layers"]) | set(masks["activations"])
    assert masks["layers"]["1"].shape == (2, 3, 6)
    assert masks["layers"]["7"].shape == (2, 3, 4)


def test_a_layer_behind_its_activation_has_the_mask_of_the_activation():
    """Every layer but the last one is followed by one: with a mask of 1 there, the same maps."""
    network, x = small("used_twice")
    before, behind = masked(network, x, 0, False), masked(network, x, 0, False, places="layers")
    assert len(behind.gates) == len(before.gates) + 1
    masks = random_masks(before)
    ones = behind.ones()[..., masks.shape[-1] :]
    found, _ = behind.backward(torch.cat([masks, ones], -1))
    torch.testing.assert_close(found, before.backward(masks)[0])


@few
@given(seeds)
def test_a_batch_norm_belongs_to_its_layer(seed):
    network, x = small(("residual", "bottleneck", "used_twice")[seed % 3], seed)
    folded = masked(network, x, 0, False, **FULL)
    unfolded = masked(network, x, 0, False, fold=False, **FULL)
    masks = random_masks(folded, seed)
    mappings, _ = folded.backward(masks)
    expected, _ = unfolded.backward(masks)
    torch.testing.assert_close(mappings, expected)
    totals = [parts.bias_maps.flatten(2).sum(2) for parts in (folded, unfolded)]
    torch.testing.assert_close(*totals)


def test_masks_of_a_linear_network_sit_at_its_layers():
    network = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2)).double().eval()
    x = torch.randn(2, 3, dtype=torch.float64)
    found = attribution.dmbp(network, x, 0, 0, **FULL)
    assert list(found.masks) == ["0", "1"]
    flat = nn.Sequential(nn.Flatten()).eval()
    with pytest.raises(ValueError, match="no layer"):
        attribution.dmbp(flat, x, 0, 0, places="layers")


# ------------------------------------------------------------------------------- the gradient


@pytest.mark.parametrize("biases", BIASES)
@pytest.mark.parametrize("name", GATED)
def test_the_mask_gradient_by_finite_differences(name, biases):
    network, x = small(name)
    for objective in (Purity(0.5, 3 if x.ndim == 4 else None), FilterExtraction(overlap=0.3)):
        parts = masked(network, x, places="both", biases=biases)
        assert_gradient_is_that_of_differences(parts, objective)


@few
@given(seeds)
def test_slopes_are_all_that_a_search_needs(seed):
    network, x = random_network(seed, signed=True)
    parts = masked(network, x, 0, False, **FULL)
    masks = random_masks(parts)

    def found():
        mappings, evidence = parts.backward(masks)
        return mappings, parts.mask_gradient(masks, Evidence(evidence.pixels.square()))

    before = found()
    parts.keep_slopes()
    torch.testing.assert_close(found(), before)


@few
@given(seeds, st.integers(1, 12), st.integers(1, 12))
def test_places_spread_to_pixels_and_back(seed, height, width):
    """<Q b, g> = <b, Q' g>, and nothing is lost on the way."""
    torch.manual_seed(seed)
    ground = Ground((3, 7, 9))
    parts = {
        (height, width): torch.randn(2, 3, 1, height, width, dtype=torch.float64),
        None: torch.randn(2, 3, dtype=torch.float64),
    }
    like = torch.zeros(2, 3, 3, 7, 9, dtype=torch.float64)
    found, g = ground.spread(parts, like), torch.randn(2, 3, 1, 7, 9, dtype=torch.float64)
    torch.testing.assert_close(found.sum(), sum(part.sum() for part in parts.values()))
    back = sum((part * ground.gather(g, size)).sum() for size, part in parts.items())
    torch.testing.assert_close((found * g).sum(), back)


# ---------------------------------------------------------------------------- the greedy start


def test_where_the_activation_misleads_the_slope_does_not():
    """W x = -1, b = 2, w = 1: the unit is open and contributes 1, but brings a branch -1."""
    network = nn.Sequential(nn.Linear(1, 2), nn.ReLU(), nn.Linear(2, 1, bias=False)).double()
    network.eval()[0].weight.data[:] = torch.tensor([[-1.0], [2.0]])
    network[0].bias.data[:], network[2].weight.data[:] = torch.tensor([2.0, 0.0]), 1.0
    x = torch.ones(1, 1, dtype=torch.float64)
    misled = attribution.dmbp(network, x, 0, 0)
    assert misled.masks["1"].tolist() == [[[1.0, 1.0]], [[0.0, 0.0]]]
    assert misled.positive.item() == 1.0
    sorted_ = attribution.dmbp(network, x, 0, 0, start="greedy_slope")
    assert sorted_.masks["1"].tolist() == [[[0.0, 1.0]], [[1.0, 0.0]]]
    assert (sorted_.positive.item(), sorted_.negative.item()) == (2.0, -1.0)


@few
@given(seeds, st.sampled_from(BIASES), st.booleans())
def test_one_hidden_layer_with_biases_has_an_oracle(seed, biases, clamped):
    """Of all hard masks those sorted by slope extract most, in both branches."""
    torch.manual_seed(seed)
    activation = nn.Hardtanh(0.0, 0.7) if clamped else nn.ReLU()
    network = nn.Sequential(
        nn.Conv2d(2, 6, 3), activation, nn.Flatten(), nn.Linear(54, 2)
    ).double().eval()  # fmt: skip
    network[0].bias.data.mul_(5)
    x = torch.randn(1, 2, 5, 5, dtype=torch.float64)
    parts = masked(network, x, 0, False, biases=biases)
    choices = torch.tensor(list(itertools.product([0.0, 1.0], repeat=6)), dtype=x.dtype)
    held = [parts.backward(c.expand(2, 1, 6))[1].pixels[0].sum() for c in choices]
    masks = parts.greedy_slopes()
    _, evidence = parts.backward(masks)
    torch.testing.assert_close(evidence.pixels[0].sum(), torch.stack(held).max())
    torch.testing.assert_close(evidence.pixels[1].sum(), torch.stack(held).min())


@few
@given(seeds)
def test_the_two_greedy_starts_agree_where_the_activation_is_the_slope(seed):
    network, x = random_network(seed)
    inputs = masked(network, x, 0, False, **FULL)
    assert torch.equal(inputs.greedy(), inputs.greedy_slopes())
    network, x = random_network(seed, batch_norm=False, bias=False)
    without = masked(network, x, 0, False)
    assert torch.equal(without.greedy(), without.greedy_slopes())


# --------------------------------------------------------------------------- the net evidence


def test_the_net_evidence_is_hires_cam_at_the_last_maps():
    """By hand at maps of 4 x 4, each cell over the 2 x 2 pixels below it; it sums to the logit."""
    network, x = small("bottleneck")
    net = masked(network, x, 1, False, needs_net=True).whole.net
    head = network[-1]
    cells = network[:10](x).detach() * head.weight[1, :, None, None].detach() / 16
    pooled = nn.functional.avg_pool2d(net, 2, divisor_override=1)
    torch.testing.assert_close(pooled, cells.sum(1, keepdim=True))
    torch.testing.assert_close(sums(net), (network(x)[:, 1] - head.bias[1]).detach())


def test_the_last_maps_are_what_the_last_layer_reads():
    """Before the convolution whose activation is averaged; before pooling; else the last there."""
    x = torch.randn(1, 3, 8, 8)
    body = [nn.Conv2d(3, 5, 3), nn.ReLU(), nn.MaxPool2d(2)]
    convolved = nn.Sequential(*body, nn.Conv2d(5, 2, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1))
    averaged = nn.Sequential(*body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(5, 2))
    dense = nn.Sequential(*body, nn.Flatten(), nn.Linear(45, 4), nn.ReLU(), nn.Linear(4, 2))
    for network in (convolved, averaged, dense):
        assert last_maps(graph.trace(network.eval(), x)).name == "2"
    flat = nn.Sequential(nn.Flatten(), nn.Linear(192, 4), nn.ReLU(), nn.Linear(4, 2)).eval()
    assert last_maps(graph.trace(flat, x)).name == "input"


def test_bad_options_are_refused():
    network, x = small("residual")
    for options in ({"places": "filters"}, {"biases": "out"}):
        with pytest.raises(ValueError, match=next(iter(options))):
            attribution.dmbp(network, x, **options)
