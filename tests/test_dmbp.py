"""Disentangled masked backpropagation: what must hold for any masks, and for those it finds."""

import copy
import itertools
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_networks import REAL, SMALL, Residual, prepared, random_network, real, small
from torch import nn

from xaiutils import attribution, graph
from xaiutils.attribution import Extraction, FilterExtraction, Purity
from xaiutils.attribution._common import resolve_target
from xaiutils.attribution._dmbp import default_objective
from xaiutils.attribution._dmbp_masked import Masked
from xaiutils.attribution._dmbp_objectives import Evidence, pool, unpool

seeds = st.integers(0, 10_000)
few = settings(max_examples=10, deadline=None)
GATED = [name for name in SMALL if name != "autoencoder"]  # its output is an image
OBJECTIVES = [
    Extraction(),
    Extraction(purity=0.2, nuisance=0.0, overlap=0.7, window=3),
    Purity(),
    Purity(nuisance=0.5, window=3),
    FilterExtraction(overlap=0.3),
]


def masked(network, x, target=0, needs_filters=True, fold=True, **options):
    traced = graph.trace(network, x, fold=fold)
    return Masked(traced, x, resolve_target(target, traced(x)), needs_filters, **options)


def random_masks(network, seed=0):
    generator = torch.Generator().manual_seed(seed)
    ones = network.ones()
    return torch.rand(ones.shape, generator=generator, dtype=ones.dtype)


def assert_gradient_is_that_of_differences(parts, objective, seed=0, by=1e-6, rtol=1e-5, atol=1e-7):
    """The gradient at random masks, in a random direction, is that of central differences."""
    masks, direction = random_masks(parts, seed), random_masks(parts, seed + 1) - 0.5

    def loss(step):
        _, evidence = parts.backward(masks + step * direction)
        return objective.evaluate(evidence, parts.whole)

    _, slopes = loss(0.0)
    found = (parts.mask_gradient(masks, slopes) * direction).sum((0, 2))
    expected = (loss(by)[0] - loss(-by)[0]) / (2 * by)
    torch.testing.assert_close(found, expected, rtol=rtol, atol=atol)


def totals(values):
    """Sum over all but branches and images."""
    return values.flatten(2).sum(2)


def autograd_mappings(network, x, target, masks):
    """The masked mappings by autograd: hooks on the outputs of the activations, in their order."""
    order = iter(masks)

    def mask_signal(_, __, output):
        mask = next(order)
        output.register_hook(lambda s: s * mask.reshape(*mask.shape, *[1] * (s.ndim - 2)))

    kinds = (nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.Hardtanh)
    gates = [module for module in network.modules() if isinstance(module, kinds)]
    hooks = [gate.register_forward_hook(mask_signal) for gate in gates]
    x = x.detach().clone().requires_grad_()
    try:
        output = network(x)[:, target].sum()
        return torch.autograd.grad(output, x, create_graph=True)[0]
    finally:
        for hook in hooks:
            hook.remove()


def plain_gradient(network, x, target, masks, objective, split, whole):
    """Losses, and their gradient with respect to the masks, by autograd through autograd."""
    masks = masks.clone().requires_grad_()
    branches = [autograd_mappings(network, x, target, split(branch)) for branch in masks]
    loss, _ = objective.evaluate(Evidence(torch.stack(branches) * x), whole)
    return loss.detach(), torch.autograd.grad(loss.sum(), masks)[0]


# ----------------------------------------------------------------------------- for any masks


@pytest.mark.parametrize("name", GATED)
def test_masks_of_one_give_the_gradient_and_of_zero_nothing(name):
    network, x = small(name)
    parts = masked(network, x)
    mappings, evidence = parts.backward(parts.ones())
    for mapping, pixels in zip(mappings, evidence.pixels, strict=True):
        torch.testing.assert_close(mapping, attribution.gradient(network, x, 0))
        torch.testing.assert_close(pixels, attribution.input_x_gradient(network, x, 0))
    torch.testing.assert_close(parts.whole.pixels[0], evidence.pixels[0])
    if name != "dense":  # there a path leads around the only activation
        assert not parts.backward(0 * parts.ones())[0].any()


def test_a_path_around_the_activations_is_never_masked():
    network, x = small("dense")
    parts = masked(network, x)
    left = parts.backward(0 * parts.ones())[0]
    assert bool(left.any())
    assert not torch.allclose(left, parts.backward(parts.ones())[0])


@few
@given(seeds)
def test_parts_and_bias_add_up_to_the_output(seed):
    network, x = random_network(seed, signed=True)
    if not graph.trace(network, x).gates:
        return
    found = attribution.dmbp(network, x, None, 3)
    logits = network(x).detach().max(1).values
    torch.testing.assert_close(found.output, logits)
    assert float(found.gap.abs().max()) < 1e-10
    torch.testing.assert_close(found.positive, found.positive_mapping * x)
    torch.testing.assert_close(found.negative, found.negative_mapping * x)
    whole = attribution.input_x_gradient(network, x)
    torch.testing.assert_close(found.map + found.nuisance, whole)


def test_the_bias_is_what_zeroed_biases_take_away():
    """On a network with open gates only, where it can be computed by running the network."""
    network, x = random_network(1, batch_norm=False)
    for parameter in network.parameters():
        parameter.data.abs_()
    bias = masked(network, x.abs()).bias
    expected = network(torch.zeros_like(x)).detach()[:, 0]
    torch.testing.assert_close(bias, expected)


def test_a_saturated_relu6_puts_its_six_into_the_bias():
    network = (
        nn.Sequential(nn.Linear(1, 2, bias=False), nn.ReLU6(), nn.Linear(2, 1)).double().eval()
    )
    network.eval()[0].weight.data[:] = torch.tensor([[1.0], [10.0]])
    network[2].weight.data[:], network[2].bias.data[:] = torch.tensor([[2.0, 3.0]]), 5.0
    found = attribution.dmbp(network, torch.ones(1, 1, dtype=torch.float64), 0, 0)
    assert found.bias.tolist() == [3 * 6 + 5]
    assert found.output.tolist() == [2 + 18 + 5]
    assert found.positive.tolist() == [[2.0]]


@few
@given(seeds)
def test_the_masked_mapping_is_dual_to_the_masked_forward_pass(seed):
    """<J^s, v> is the masked pass of v: its gates are those of the image, whatever v is."""
    network, x = random_network(seed)
    parts = masked(network, x)
    traced, masks = graph.trace(network, x), random_masks(parts, seed)
    mappings, _ = parts.backward(masks)
    v = torch.randn_like(x)
    for mapping, branch in zip(mappings, masks, strict=True):
        given = {n.index: m for n, m in zip(parts.gates, parts.split(branch), strict=True)}

        def gate(node, signal, record, given=given):
            mask = given[node.index]
            return graph.gated(node, signal, record) * mask[..., None, None]

        forwards = traced.tangent(traced.record(x), v, gate)[:, 0]
        torch.testing.assert_close((mapping * v).flatten(1).sum(1), forwards)


@few
@given(seeds)
def test_each_branch_is_affine_in_each_mask(seed):
    network, x = random_network(seed)
    parts = masked(network, x)
    masks = random_masks(parts, seed)
    entry = seed % masks.shape[-1]

    def at(value):
        changed = masks.clone()
        changed[..., entry] = value
        return parts.backward(changed)[0]

    torch.testing.assert_close(at(0.3), 0.7 * at(0.0) + 0.3 * at(1.0))


@few
@given(seeds)
def test_filters_may_be_rescaled_and_permuted(seed):
    """Filters times a > 0, and what reads them divided by it; filters in another order."""
    torch.manual_seed(seed)
    network = prepared(
        nn.Sequential(
            nn.Conv2d(3, 5, 3), nn.ReLU(), nn.Conv2d(5, 4, 3), nn.ReLU(), nn.Flatten(),
            nn.Linear(36, 3),
        ), seed)  # fmt: skip
    x = torch.randn(2, 3, 7, 7, dtype=torch.float64)
    scale, order = torch.rand(5, dtype=torch.float64) + 0.5, torch.randperm(5)
    other = copy.deepcopy(network)
    other[0].weight.data = (network[0].weight.data * scale[:, None, None, None])[order]
    other[0].bias.data = (network[0].bias.data * scale)[order]
    other[2].weight.data = (network[2].weight.data / scale[:, None, None])[:, order]
    for options in ({"iterations": 0}, {"iterations": 4}):
        found = attribution.dmbp(network, x, 0, **options)
        changed = attribution.dmbp(other, x, 0, **options)
        close = partial(torch.testing.assert_close, rtol=1e-4, atol=1e-5)  # Adam amplifies rounding
        close(changed.positive, found.positive)
        close(changed.negative, found.negative)
        close(changed.masks["1"], found.masks["1"][..., order])
        close(changed.masks["3"], found.masks["3"])


@few
@given(seeds)
def test_folding_batch_norm_changes_nothing(seed):
    network, x = small(("residual", "bottleneck", "functional")[seed % 3], seed)
    folded, unfolded = masked(network, x), masked(network, x, fold=False)
    masks = random_masks(folded, seed)
    mappings, evidence = folded.backward(masks)
    expected, other = unfolded.backward(masks)
    torch.testing.assert_close(mappings, expected)
    for own, theirs in zip(evidence.filters, other.filters, strict=True):
        torch.testing.assert_close(own, theirs)
    torch.testing.assert_close(folded.bias, unfolded.bias)


def test_relevance_of_filters_is_what_passes_their_masks():
    """At the last gate of a network that has one between any input and output, it sums to f."""
    network, x = small("residual")
    parts = masked(network, x)
    masks = random_masks(parts)
    _, evidence = parts.backward(masks)
    last = parts.gates[-1]
    head = network[7]
    features = network[:4](x).detach().mean((2, 3))
    expected = parts.split(masks)[-1] * features * head.weight[0].detach()
    torch.testing.assert_close(evidence.filters[-1], expected)
    assert last.module.startswith("3")


# ------------------------------------------------------------------------------- the gradient


@pytest.mark.parametrize("objective", OBJECTIVES, ids=lambda o: type(o).__name__)
@pytest.mark.parametrize("name", GATED)
def test_the_mask_gradient_by_finite_differences(name, objective):
    network, x = small(name)
    if getattr(objective, "window", None) and x.ndim != 4:
        return
    assert_gradient_is_that_of_differences(masked(network, x), objective)


@few
@given(seeds, st.sampled_from([o for o in OBJECTIVES if not o.needs_filters]))
def test_the_mask_gradient_is_autograd_through_autograd(seed, objective):
    network, x = random_network(seed)
    assert_gradient_is_autograds(network, x, objective, seed)


@pytest.mark.parametrize("objective", OBJECTIVES, ids=lambda o: type(o).__name__)
def test_an_image_with_no_open_path_has_no_evidence_and_spoils_no_other(objective):
    network, x = small("residual")
    x = torch.cat([x[:1], 0 * x[:1]])  # nothing times a gradient is nothing
    parts = masked(network, x)
    masks = random_masks(parts)
    _, evidence = parts.backward(masks)
    loss, slopes = objective.evaluate(evidence, parts.whole)
    assert not evidence.pixels[:, 1].any()
    assert torch.isfinite(loss).all()
    assert torch.isfinite(parts.mask_gradient(masks, slopes)).all()
    found = attribution.dmbp(network, x, 0, 3, objective=objective)
    alone = attribution.dmbp(network, x[:1], 0, 3, objective=objective)
    assert not found.map[1].any()
    torch.testing.assert_close(found.map[:1], alone.map)


@pytest.mark.parametrize("name", ["residual", "bottleneck"])
@pytest.mark.parametrize("objective", OBJECTIVES[:4], ids=lambda o: type(o).__name__)
def test_the_same_with_residual_additions_and_relu6(name, objective):
    network, x = small(name)
    assert_gradient_is_autograds(network, 3 * x, objective, 0)


def assert_gradient_is_autograds(network, x, objective, seed):
    parts = masked(network, x)
    masks = random_masks(parts, seed)
    _, evidence = parts.backward(masks)
    loss, slopes = objective.evaluate(evidence, parts.whole)
    found = parts.mask_gradient(masks, slopes)
    arguments = (network, x, 0, masks, objective, parts.split, parts.whole)
    expected_loss, expected = plain_gradient(*arguments)
    torch.testing.assert_close(loss, expected_loss)
    torch.testing.assert_close(found, expected)


@few
@given(seeds, st.booleans())
def test_slopes_are_all_that_a_search_needs(seed, signed):
    network, x = random_network(seed, signed=signed)
    parts = masked(network, x, needs_filters=False)
    masks = random_masks(parts)

    def found():
        mappings, evidence = parts.backward(masks)
        return mappings, parts.mask_gradient(masks, Evidence(evidence.pixels.square()))

    before = found()
    parts.keep_slopes()
    torch.testing.assert_close(found(), before)
    for node in parts.gates:
        one_byte = parts._record.value(node.index).dtype == torch.bool
        assert one_byte or isinstance(node.operation, graph.LeakyReLU)


@pytest.mark.parametrize("name", REAL)
def test_the_gradient_and_the_account_on_real_networks(name):
    network = real(name)
    x = torch.rand(1, 3, 64, 64, dtype=torch.float64) * 2 - 1
    target = int(network(x).argmax())
    parts = masked(network, x, target, needs_filters=False)
    masks, direction = random_masks(parts), random_masks(parts, 1)
    weights = torch.randn_like(x)  # a linear objective: no kinks, and no scale to lose digits in
    parts.backward(masks)
    found = parts.mask_gradient(masks, Evidence(torch.stack([weights, -weights])))
    step = 1e-6 * direction
    ahead, behind = parts.backward(masks + step)[0], parts.backward(masks - step)[0]
    slopes = (ahead - behind) * x * weights / 2e-6
    expected = (slopes[0] - slopes[1]).sum()
    torch.testing.assert_close((found * direction).sum(), expected, rtol=1e-4, atol=1e-8)
    result = attribution.dmbp(network, x, target, 2)
    assert float((result.gap / result.output).abs()) < 1e-9
    assert bool((result.history.amin(1) <= result.history[:, 0]).all())


@few
@given(seeds, st.integers(1, 5), st.integers(4, 11), st.integers(4, 11))
def test_windows_sum_and_spread(seed, window, height, width):
    torch.manual_seed(seed)
    pixels = torch.randn(2, 1, 3, height, width, dtype=torch.float64, requires_grad=True)
    sums = pool(pixels, window)
    torch.testing.assert_close(sums.sum(2), totals(pixels))
    first = pixels[:, :, :, :window, :window].sum((2, 3, 4))
    torch.testing.assert_close(sums[..., 0], first)
    slope = torch.randn_like(sums)
    expected = torch.autograd.grad(sums, pixels, slope)[0]
    torch.testing.assert_close(unpool(slope, window, pixels.shape), expected)


# -------------------------------------------------------------------------------- the search


@few
@given(seeds)
def test_one_hidden_layer_has_an_oracle(seed):
    """Of all hard masks the greedy ones extract most, in both branches."""
    torch.manual_seed(seed)
    network = nn.Sequential(
        nn.Conv2d(2, 6, 3, bias=False), nn.ReLU(), nn.Flatten(), nn.Linear(54, 2)
    ).double().eval()  # fmt: skip
    x = torch.randn(1, 2, 5, 5, dtype=torch.float64)
    parts = masked(network, x)
    choices = torch.tensor(list(itertools.product([0.0, 1.0], repeat=6)), dtype=x.dtype)
    sums = [totals(parts.backward(choice.expand(2, 1, 6))[1].pixels)[0] for choice in choices]
    found = attribution.dmbp(network, x, 0, 0)
    torch.testing.assert_close(found.positive.sum(), torch.stack(sums).max())
    torch.testing.assert_close(found.negative.sum(), torch.stack(sums).min())
    activations = network[:2](x).detach().flatten(2)[0]
    signals = network[3].weight[0].detach().unflatten(0, (6, 9))
    contributions = (activations * signals).sum(1)
    torch.testing.assert_close(found.masks["1"][0, 0], (contributions > 0).to(x.dtype))
    torch.testing.assert_close(found.masks["1"][1, 0], (contributions < 0).to(x.dtype))
    searched = attribution.dmbp(network, x, 0, 60, objective=Extraction(0.0, 0.0), start="ones")
    torch.testing.assert_close(searched.positive.sum(), found.positive.sum())
    torch.testing.assert_close(searched.negative.sum(), found.negative.sum())


def test_a_rectified_logit_is_not_masked_away():
    """An activation of the output itself: one filter contributes, so it stays in both branches."""
    network = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2), nn.ReLU()).double().eval()
    network[2].bias.data[:] = 5.0
    found = attribution.dmbp(network, torch.randn(2, 3, dtype=torch.float64), 0, 0)
    assert bool((found.masks["3"] == 1).all())


@few
@given(seeds, st.sampled_from(OBJECTIVES), st.sampled_from(["greedy", "ones"]))
def test_the_best_iterate_is_returned(seed, objective, start):
    network, x = random_network(seed)
    found = attribution.dmbp(network, x, 0, 6, objective=objective, start=start)
    assert found.history.shape == (2, 7)
    parts = masked(network, x)
    mappings, evidence = parts.backward(torch.cat(list(found.masks.values()), -1))
    loss, _ = objective.evaluate(evidence, parts.whole)
    torch.testing.assert_close(loss, found.history.amin(1))
    torch.testing.assert_close(mappings[0], found.positive_mapping)
    torch.testing.assert_close(mappings[1], found.negative_mapping)
    for mask in found.masks.values():
        assert bool(((mask >= 0) & (mask <= 1)).all())


def test_a_branch_that_is_empty_has_a_finite_loss_and_gradient():
    objective = Purity(window=2)
    pixels = torch.zeros(2, 1, 1, 4, 4, dtype=torch.float64)
    loss, slopes = objective.evaluate(Evidence(pixels), Evidence(torch.ones_like(pixels[:1])))
    assert loss.tolist() == [1.0]  # all is nuisance, and neither branch has any purity
    assert bool(torch.isfinite(slopes.pixels).all())


def test_windows_follow_the_size_of_the_images():
    assert default_objective((3, 224, 224)) == Purity(window=16)
    assert default_objective((1, 28, 28)) == Purity(window=2)
    assert default_objective((5,)) == Purity()


def test_the_heatmap_is_the_positive_attribution():
    network, x = small("residual")
    found = attribution.dmbp(network, x, 1, 3)
    assert torch.equal(attribution.dmbp_heatmap(network, x, 1, 3), found.positive)
    norm = found.positive_mapping.square().sum(1, keepdim=True).sqrt()
    torch.testing.assert_close(attribution.dmbp_heatmap(network, x, 1, 3, norm="l2"), norm)
    with pytest.raises(ValueError, match="'l2' or 'linf'"):
        attribution.dmbp_heatmap(network, x, norm="l1")


def test_the_search_lowers_every_objective():
    network, x = small("residual")
    for objective in OBJECTIVES:
        found = attribution.dmbp(network, x, 0, 20, objective=objective, start="ones")
        assert bool((found.history.amin(1) < found.history[:, 0]).all()), objective


def test_scaling_the_output_scales_the_attributions_alone():
    network, x = small("residual")
    found = attribution.dmbp(network, x, 1, 8)
    network[7].weight.data *= 8.0  # a power of two: no digit is rounded differently
    network[7].bias.data *= 8.0
    scaled = attribution.dmbp(network, x, 1, 8)
    torch.testing.assert_close(scaled.positive, 8 * found.positive)
    torch.testing.assert_close(scaled.negative, 8 * found.negative)
    torch.testing.assert_close(scaled.history, found.history)
    for name, mask in found.masks.items():
        torch.testing.assert_close(scaled.masks[name], mask)


def test_images_do_not_see_each_other_and_nothing_is_drawn_by_lot():
    network, x = small("bottleneck")
    together = attribution.dmbp(network, x, [0, 1, 2], 5)
    again = attribution.dmbp(network, x, [0, 1, 2], 5)
    assert torch.equal(together.positive, again.positive)
    chunked = attribution.dmbp(network, x, torch.tensor([0, 1, 2]), 5, batch_size=2)
    for i in range(3):
        alone = attribution.dmbp(network, x[i : i + 1], i, 5)
        for part in (together, chunked):
            torch.testing.assert_close(part.positive[i : i + 1], alone.positive)
            torch.testing.assert_close(part.negative[i : i + 1], alone.negative)
            torch.testing.assert_close(part.history[i : i + 1], alone.history)
            for name, mask in alone.masks.items():
                torch.testing.assert_close(part.masks[name][:, i : i + 1], mask)


def test_the_network_and_the_images_are_left_alone():
    network, x = small("residual", dtype=torch.float32)
    before, kept = copy.deepcopy(network.state_dict()), x.clone()
    found = attribution.dmbp(network, x, None, 2)
    last = attribution.dmbp(network, x.contiguous(memory_format=torch.channels_last), None, 2)
    torch.testing.assert_close(last.positive, found.positive, rtol=1e-3, atol=1e-5)
    assert torch.equal(x, kept)
    assert all(torch.equal(before[name], now) for name, now in network.state_dict().items())
    assert not any(module._forward_hooks for module in network.modules())


def test_the_addition_in_a_residual_block_has_masks_of_its_own():
    network, x = small("residual")
    found = attribution.dmbp(network, x, 0, 1)
    assert [mask.shape for mask in found.masks.values()] == [(2, 3, 6)] * 4
    assert len([m for m in network.modules() if isinstance(m, Residual)]) * 2 == len(found.masks)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"iterations": -1}, "iterations"),
        ({"start": "random"}, "start"),
        ({"learning_rate": 0.0}, "learning_rate"),
        ({"batch_size": 0}, "batch_size"),
        ({"target": 4}, "0 to 3"),
    ],
)
def test_bad_options_are_refused(options, words):
    network, x = small("residual")
    with pytest.raises(ValueError, match=words):
        attribution.dmbp(network, x, **options)


def test_bad_objectives_and_networks_are_refused():
    for wrong in ({"purity": 1.5}, {"nuisance": -1.0}, {"overlap": float("nan")}, {"window": 0}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            Extraction(**wrong)
    with pytest.raises(ValueError, match="window"):
        Purity(window=2.5)
    network, x = small("sequence")
    with pytest.raises(ValueError, match="windows need images"):
        attribution.dmbp(network, x, 0, objective=Purity(window=3))
    with pytest.raises(TypeError, match="objective"):
        attribution.dmbp(network, x, 0, objective="purity")
    linear = nn.Sequential(nn.Flatten(), nn.Linear(3, 2)).eval()
    with pytest.raises(ValueError, match="no activation"):
        attribution.dmbp(linear, torch.randn(1, 3, 1, 1), 0)
