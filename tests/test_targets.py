"""Targets that are made of several outputs: their value, their derivative, and every method."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_networks import CONTRASTIVE, FAST, random_network, small
from torch import nn

from xaiutils import attribution, evaluation, graph
from xaiutils.attribution import (
    METHODS,
    Composite,
    Difference,
    Epsilon,
    LogOdds,
    LogProbability,
    Margin,
    Probability,
    ZPlus,
)
from xaiutils.attribution._common import settled, values_of
from xaiutils.attribution._targets import explained_of, start_signal

seeds = st.integers(0, 10_000)
few = settings(max_examples=5, deadline=None)

OF_A_CLASS = (Margin, LogOdds, LogProbability, Probability)
CONTRASTED = [name for name in METHODS if name not in CONTRASTIVE]
# These compute the last layer for the class alone, if it is one: the sum has another order then.
ASKING = {"occlusion", "shapley", "rise"}
# The map of weights is the weighted sum of the maps; the others cut off, choose, or take a size.
LINEAR = {
    "gradient",
    "input_x_gradient",
    "smoothgrad",
    "integrated_gradients",
    *(name for name in METHODS if "lrp" in name and name not in CONTRASTIVE),
}
NOT_LINEAR = ("sensitivity", "deconvnet", "guided_backprop", "grad_cam", "dmbp_greedy")


class Deciding(nn.Module):
    """Decides by the numbers in a tensor what to compute, which no graph can hold."""

    def __init__(self):
        super().__init__()
        self.inner = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 4))

    def forward(self, x):
        return self.inner(x) if bool((x < 1e9).all()) else x


def plain_network(dtype=torch.float64):
    torch.manual_seed(0)
    return Deciding().inner.to(dtype).eval(), torch.randn(3, 3, 8, 8).to(dtype)


def targets_for(batch, classes):
    """One target of every kind, with a class for each image and without."""
    own = [n % classes for n in range(batch)]
    second = [(n + 1) % classes for n in range(batch)]
    generator = torch.Generator().manual_seed(0)
    return [
        Difference(0, 1),
        Difference(own, torch.tensor(second)),
        *(kind(own) for kind in OF_A_CLASS),
        *(kind() for kind in OF_A_CLASS),
        torch.randn(classes, generator=generator),
        torch.randn(batch, classes, generator=generator).double(),
    ]


def explained(name, network, x, target, **options):
    return METHODS[name](network, x, target, **FAST.get(name, {}), **options)


def by_autograd(network, x, target):
    x = x.detach().clone().requires_grad_()
    return torch.autograd.grad(attribution.value_of(target, network(x)).sum(), x)[0]


def naive_value(target, outputs):
    """The number of one image from its definition, in plain Python."""
    f = outputs.tolist()
    if isinstance(target, Difference):
        return f[target.first] - f[target.second]
    own = f.index(max(f)) if target.own is None else target.own
    others = [value for k, value in enumerate(f) if k != own]
    p = math.exp(f[own]) / sum(map(math.exp, f))
    if isinstance(target, Margin):
        return f[own] - max(others)
    if isinstance(target, LogOdds):
        return math.log(p / (1 - p))
    return math.log(p) if isinstance(target, LogProbability) else p


# ----------------------------------------------------------------------- the number and its signal


@few
@given(seeds, st.integers(2, 6), st.integers(1, 4))
def test_the_value_is_as_defined_and_the_signal_its_derivative(seed, classes, batch):
    generator = torch.Generator().manual_seed(seed)
    outputs = torch.randn(batch, classes, generator=generator, dtype=torch.float64)
    own = seed % classes
    kinds = [Difference(own, (own + 1) % classes)]
    kinds += [kind(each) for kind in OF_A_CLASS for each in (own, None)]
    for target in kinds:
        found = attribution.value_of(target, outputs)
        expected = [naive_value(target, row) for row in outputs]
        torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64))
    for target in targets_for(batch, classes):
        given_outputs = outputs.clone().requires_grad_()
        value = attribution.value_of(target, given_outputs)
        (slopes,) = torch.autograd.grad(value.sum(), given_outputs)
        resolved = explained_of(target, outputs, outputs.shape[1:])
        torch.testing.assert_close(start_signal(resolved, outputs), slopes)
        torch.testing.assert_close(values_of(resolved, outputs), value.detach())


def test_the_softmax_family_is_one_direction_and_exact_where_the_network_is_certain():
    outputs = torch.tensor([[60.0, 1.0, 0.0], [0.3, 0.2, 0.1]])
    signals = [
        start_signal(explained_of(kind(0), outputs, (3,)), outputs)
        for kind in (LogOdds, LogProbability, Probability)
    ]
    rest = (outputs.double()[:, 1:] - outputs.double()[:, :1]).logsumexp(1).exp()  # (1 - p) / p
    for signal, factor in zip(signals, (1, rest / (1 + rest), rest / (1 + rest) ** 2), strict=True):
        expected = (factor * torch.ones(2, dtype=torch.float64))[:, None] * signals[0].double()
        torch.testing.assert_close(signal.double(), expected, rtol=1e-5, atol=0)
        assert bool((signal.sum(1).abs() <= 1e-6 * signal[:, 0]).all())
    assert 0 < signals[1][0, 0] < 1e-25  # not rounded to 0
    assert 0 > float(attribution.value_of(LogProbability(0), outputs)[0]) > -1e-25


def test_a_number_added_to_all_logits_changes_no_contrast_but_every_logit():
    outputs = torch.randn(3, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    for target in targets_for(3, 5)[:-2]:
        for found, moved in (
            (attribution.value_of(target, outputs), attribution.value_of(target, outputs + 7)),
        ):
            torch.testing.assert_close(found, moved)
    assert bool((attribution.value_of(2, outputs + 7) - attribution.value_of(2, outputs) > 6).all())


def test_what_is_explained_can_be_cut_and_picked():
    outputs = torch.randn(4, 3, generator=torch.Generator().manual_seed(2))
    for target in [0, *targets_for(4, 3)]:
        whole = explained_of(target, outputs, (3,))
        for rows in (slice(1, 3), torch.tensor([2, 2, 0])):
            part = whole[rows]
            torch.testing.assert_close(
                values_of(part, outputs[rows]), values_of(whole, outputs)[rows]
            )
            torch.testing.assert_close(
                start_signal(part, outputs[rows]), start_signal(whole, outputs)[rows]
            )


def test_open_classes_are_settled_on_the_image_itself():
    network, x = plain_network()
    own = network(x).argmax(1)
    varied = network(x + 3 * torch.randn(x.shape, generator=torch.Generator().manual_seed(0)))
    assert not torch.equal(varied.argmax(1), own)
    for kind in OF_A_CLASS:
        found = settled(network, x, explained_of(kind(), x, (4,)), 2)
        torch.testing.assert_close(
            values_of(found, varied), attribution.value_of(kind(own), varied)
        )
        for name in ("smoothgrad", "integrated_gradients"):
            torch.testing.assert_close(
                explained(name, network, x, kind()), explained(name, network, x, kind(own))
            )
    assert torch.equal(settled(network, x, None, 1), own)
    known = explained_of(Difference(0, 1), x, (4,))
    assert settled(network, x, known, None) is known


# ----------------------------------------------------------------------------------- every method


def test_plain_targets_start_as_before_bit_for_bit():
    network, x = small("residual")
    traced = graph.trace(network, x)
    record = traced.record(x, keep="gates")
    for target, places in ((None, record.output.argmax(1)), (2, [2, 2, 2]), ([0, 3, 1], [0, 3, 1])):
        start = torch.zeros_like(record.output)
        for row, place in enumerate(places):
            start[row, int(place)] = 1
        expected = traced.backward(record, start)
        assert torch.equal(attribution.gradient(traced, x, target), expected)


@pytest.mark.parametrize("name", CONTRASTED)
def test_weights_of_one_output_are_that_output(name):
    network, x = small("bottleneck")
    weights = torch.zeros(4).index_fill(0, torch.tensor(2), 1.0)
    plain = explained(name, network, x, 2)
    for form in (weights, weights.expand(3, 4), weights.double()):
        found = explained(name, network, x, form)
        if name in ASKING:
            assert torch.allclose(found, plain, rtol=0, atol=1e-12)
        else:
            assert torch.equal(found, plain)


@pytest.mark.parametrize("name", CONTRASTED)
def test_every_method_takes_every_target_in_batches(name):
    network, x = small("residual")
    for target in targets_for(3, 4):
        whole = explained(name, network, x, target)
        assert bool(torch.isfinite(whole).all())
        if name != "random":
            torch.testing.assert_close(explained(name, network, x, target, batch_size=2), whole)


@few
@given(seeds)
def test_the_gradient_is_that_of_autograd(seed):
    network, x = random_network(seed, signed=True)
    for target in targets_for(2, 4):
        found = attribution.gradient(network, x, target, batch_size=1)
        torch.testing.assert_close(found, by_autograd(network, x, target))


def test_a_network_that_only_autograd_takes_and_a_graph_of_the_same():
    torch.manual_seed(0)
    network, x = Deciding().double().eval(), torch.randn(3, 3, 8, 8, dtype=torch.float64)
    traced = graph.trace(network.inner, x)
    for target in targets_for(3, 4):
        expected = by_autograd(network, x, target)
        torch.testing.assert_close(attribution.gradient(network, x, target), expected)
        torch.testing.assert_close(attribution.gradient(traced, x, target), expected)
        torch.testing.assert_close(
            attribution.grad_cam(network, x, target, "inner.1"),
            attribution.grad_cam(network.inner, x, target, "1"),
        )


@pytest.mark.parametrize("name", sorted(LINEAR))
@settings(max_examples=3, deadline=None)
@given(seed=seeds)
def test_linear_methods_are_linear_in_the_weights(name, seed):
    network, x = random_network(seed)
    one, other = torch.randn(2, 2, 4, dtype=torch.float64, generator=torch.manual_seed(seed))
    maps = [explained(name, network, x, w) for w in (one, other, 2 * one - 3 * other)]
    scale = maps[0].abs().max() + maps[1].abs().max() or 1.0  # a network may be asleep
    torch.testing.assert_close(
        maps[2] / scale, (2 * maps[0] - 3 * maps[1]) / scale, rtol=0, atol=1e-9
    )
    difference = explained(name, network, x, Difference(3, [0, 1]))
    expected = explained(name, network, x, 3) - explained(name, network, x, [0, 1])
    torch.testing.assert_close(difference / scale, expected / scale, rtol=0, atol=1e-9)


def test_without_its_relu_grad_cam_is_linear():
    network, x = small("residual")
    maps = [attribution.grad_cam(network, x, t, relu=False) for t in (Difference(0, 2), 0, 2)]
    torch.testing.assert_close(maps[0], maps[1] - maps[2])


@pytest.mark.parametrize("name", NOT_LINEAR)
def test_the_others_are_not(name):
    network, x = small("residual")
    maps = [explained(name, network, x, target) for target in (Difference(0, 2), 0, 2)]
    assert float((maps[0] - (maps[1] - maps[2])).abs().max()) > 1e-3 * float(maps[0].abs().max())


@few
@given(seeds)
def test_integrated_gradients_are_complete_for_every_number(seed):
    network, x = random_network(seed)
    for target in (Difference(0, 1), LogOdds(2), LogProbability(1), Probability()):
        maps, gap = attribution.integrated_gradients(
            network, x, target, n_steps=100, return_convergence_delta=True
        )
        own = network(x).argmax(1)
        known = Probability(own) if target == Probability() else target
        ends = [attribution.value_of(known, network(each)) for each in (x, torch.zeros_like(x))]
        torch.testing.assert_close(maps.flatten(1).sum(1) - gap, ends[0] - ends[1])
        assert float(gap.abs().max()) < 0.05


def test_integrated_gradients_of_a_log_probability_are_captums():
    captum = pytest.importorskip("captum.attr", reason="captum is not installed")
    network, x = small("residual")

    def log_probability(x):
        return network(x).log_softmax(1)[:, 1]

    oracle = captum.IntegratedGradients(log_probability)
    expected = oracle.attribute(x, 0.0 * x, n_steps=30, method="gausslegendre")
    found = attribution.integrated_gradients(network, x, LogProbability(1), n_steps=30)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-8)


def test_networks_in_half_precision():
    network, x = plain_network(torch.bfloat16)
    full, exact = plain_network(torch.float32)[0], x.float()
    full.load_state_dict({k: v.float() for k, v in network.state_dict().items()})
    for target in [*targets_for(3, 4)[:-1], torch.randn(4).half()]:
        for name in ("gradient", "lrp", "grad_cam"):
            found = explained(name, network, x, target)
            assert found.dtype == torch.float32
            torch.testing.assert_close(found, explained(name, full, exact, target))


# --------------------------------------------------------------------------------------------- LRP


@few
@given(seeds)
def test_the_account_of_lrp_closes_and_starts_with_the_number(seed):
    network, x = random_network(seed)
    outputs = network(x).detach()
    for target in targets_for(2, 4):
        _, report = attribution.lrp(network, x, target, return_report=True)
        resolved = explained_of(target, x, (4,))
        start = (start_signal(resolved, outputs) * outputs).sum(1)
        torch.testing.assert_close(report.start, start)
        assert bool((report.gap.abs() < 1e-9).all())
        if isinstance(target, (Difference, Margin, torch.Tensor)):
            torch.testing.assert_close(report.start, attribution.value_of(target, outputs))
        if isinstance(target, LogProbability):
            p = outputs.softmax(1)
            entropy = -(p * p.log()).sum(1)
            torch.testing.assert_close(
                report.start, attribution.value_of(target, outputs) + entropy
            )


def subtracting(network):
    """The network with one more linear layer, which subtracts output 1 from output 0."""
    layer = nn.Linear(4, 1, bias=False).double()
    layer.weight.data = torch.tensor([[1.0, -1, 0, 0]]).double()
    return nn.Sequential(*network, layer).eval()


def merged(network):
    """The same with the subtraction in the weights of the last layer."""
    last = network[-1]
    layer = nn.Linear(last.in_features, 1).double()
    layer.weight.data = last.weight.data[:1] - last.weight.data[1:2]
    layer.bias.data = last.bias.data[:1] - last.bias.data[1:2]
    return nn.Sequential(*network[:-1], layer).eval()


def test_lrp_of_a_difference_is_that_of_one_more_layer_under_lrp_0_only():
    network, x = small("residual")
    plain = Composite(ZPlus(), Epsilon(0.0), affine=ZPlus(), other=ZPlus())
    found = attribution.lrp(network, x, Difference(0, 1), plain)
    for other in (subtracting(network), merged(network)):
        torch.testing.assert_close(attribution.lrp(other, x, 0, plain), found)
    network[-1].bias.data += 5  # both logits are positive now, whatever the input
    found = attribution.lrp(network, x, Difference(0, 1), "z_plus")
    for other in (subtracting(network), merged(network)):
        by_layer = attribution.lrp(other, x, 0, "z_plus")
        assert float((by_layer - found).abs().max()) > 0.1 * float(found.abs().max())


def naive_contrast(network, x, own, dual_start, rectify):
    """CLRP and SGLRP image by image, from two passes that start as given."""
    found = []
    for image, c, dual in zip(x, own, dual_start, strict=True):
        own_start = torch.zeros(1, 4).to(dual)
        own_start[0, c], rest = dual[c], dual.clone()
        rest[c] = 0
        maps = [
            attribution.lrp(network, image[None], start=start, composite="z_plus")[0]
            for start in (own_start, rest[None])
        ]
        sizes = [float(each.abs().sum()) for each in maps]
        contrast = maps[0] - sizes[0] / sizes[1] * maps[1]
        found.append(contrast.clamp(min=0) if rectify else contrast)
    return torch.stack(found)


def test_contrastive_lrp_against_a_loop():
    network, x = small("residual")
    outputs, own = network(x).detach(), [1, 0, 3]
    uniform, scores, slopes = (torch.zeros(3, 4).double() for _ in range(3))
    for n, c in enumerate(own):
        p = outputs[n].softmax(0)
        for k in range(4):
            uniform[n, k] = outputs[n, c] if k == c else outputs[n, c] / 3
            scores[n, k] = outputs[n, c] if k == c else outputs[n, k].abs()
            slopes[n, k] = p[c] * (1 - p[c]) if k == c else p[c] * p[k]
    for found, start, rectify in (
        (attribution.clrp(network, x, own), uniform, True),
        (attribution.clrp(network, x, own, dual="scores", batch_size=2), scores, True),
        (attribution.sglrp(network, x, own), slopes, False),
        (attribution.sglrp(graph.trace(network, x), x, own, rectify=True), slopes, True),
    ):
        torch.testing.assert_close(found, naive_contrast(network, x, own, start, rectify))


def test_contrastive_lrp_without_balance_is_one_pass():
    network, x = small("bottleneck")
    outputs = network(x).detach()
    (slopes,) = torch.autograd.grad(outputs.requires_grad_().softmax(1)[:, 2].sum(), outputs)
    outputs = outputs.detach()
    found = attribution.sglrp(network, x, 2, balance=False)
    torch.testing.assert_close(found, attribution.lrp(network, x, start=slopes, composite="z_plus"))
    shares = torch.tensor([-1 / 3, -1 / 3, 1, -1 / 3]).double() * outputs[:, 2:3]
    found = attribution.clrp(network, x, 2, balance=False, rectify=False)
    torch.testing.assert_close(found, attribution.lrp(network, x, start=shares, composite="z_plus"))
    torch.testing.assert_close(
        attribution.clrp(network, x), attribution.clrp(network, x, outputs.argmax(1))
    )


def test_contrastive_lrp_with_two_classes_is_blind_under_symmetric_weights():
    """What is the same for all classes cancels: with equal last weights nothing is left."""
    network, x = small("residual")
    network[-1].weight.data[:] = network[-1].weight.data[:1]
    network[-1].bias.data[:] = 0.1
    for method in (attribution.clrp, attribution.sglrp):
        left = method(network, x, 0)
        own = attribution.lrp(network, x, 0, "z_plus")
        assert float(left.abs().max()) <= 1e-9 * float(own.abs().max())


# ------------------------------------------------------------------------------------ bad targets


def test_wrong_targets_say_what_to_do():
    network, x = small("residual")
    for target, error, words in (
        (Difference(1, 1), ValueError, r"with itself.*Margin"),
        (Difference([0, 1, 2], [1, 1, 3]), ValueError, "with itself"),
        (Difference(None, 1), TypeError, "two classes"),
        (Difference(0, 4), ValueError, "0 to 3"),
        (Difference("cat", 1), TypeError, "categories"),
        (Margin([0, 1]), ValueError, "one int or 3"),
        (LogOdds(-1), ValueError, "0 to 3"),
        (torch.tensor([1.0, math.nan, 0, 0]), ValueError, "NaN"),
        (torch.ones(3), ValueError, r"\(4,\) for all.*not \(3,\)"),
        (torch.ones(2, 4), ValueError, r"\(3, 4\) for each"),
        (torch.tensor(1.0), ValueError, "shape"),
        (1.5, TypeError, "must be integers"),
    ):
        for name in ("gradient", "lrp", "grad_cam", "random"):
            with pytest.raises(error, match=words):
                explained(name, network, x, target)


def test_outputs_that_are_no_class_scores():
    decoder, x = small("autoencoder")
    for kind in OF_A_CLASS:
        with pytest.raises(ValueError, match=r"class scores \(N, K\).*output="):
            attribution.gradient(decoder, x, kind())
    found = attribution.gradient(decoder, x, Difference((1, 2, 3), [(0, 0, 0)] * 3))
    weights = torch.zeros(3, 8, 8)
    weights[1, 2, 3], weights[0, 0, 0] = 1, -1
    torch.testing.assert_close(found, attribution.gradient(decoder, x, weights))
    each = weights.expand(3, 3, 8, 8)
    torch.testing.assert_close(found, attribution.gradient(decoder, x, each))
    one = nn.Sequential(nn.Flatten(), nn.Linear(192, 1), nn.Flatten(0)).double().eval()
    for kind in OF_A_CLASS:
        with pytest.raises(ValueError, match="one output"):
            attribution.gradient(one, x, kind())
    slopes = attribution.gradient(one, x, 0)
    for weights in (torch.tensor([2.0]), torch.tensor([2.0, 2, 2]), torch.full((3, 1), 2.0)):
        torch.testing.assert_close(attribution.gradient(one, x, weights), 2 * slopes)
    for method in (attribution.clrp, attribution.sglrp):
        with pytest.raises(ValueError, match="two classes or more"):
            method(one, x)


def test_contrastive_lrp_says_what_it_takes():
    network, x = small("residual")
    with pytest.raises(ValueError, match="dual must be"):
        attribution.clrp(network, x, 0, dual="both")
    for method in (attribution.clrp, attribution.sglrp):
        for target in (Difference(0, 1), torch.ones(4)):
            with pytest.raises(TypeError, match="must be integers"):
                method(network, x, target)


def test_region_perturbation_watches_the_number_or_says_how():
    network, x = small("residual", dtype=torch.float32)
    maps = attribution.gradient(network, x, Difference(0, 1)).sum(1, keepdim=True)
    with pytest.raises(TypeError, match=r"value_of\(target"):
        evaluation.region_perturbation(network, x, Difference(0, 1), maps, steps=2, region_size=3)
    curves = evaluation.region_perturbation(
        network,
        x,
        None,
        maps,
        steps=2,
        region_size=3,
        output=lambda outputs, images: attribution.value_of(Difference(0, 1), outputs),
    )
    start = (network(x)[:, 0] - network(x)[:, 1]).detach()
    torch.testing.assert_close(curves.scores[..., 0].reshape(3, -1)[:, 0].float(), start)
