"""Layer-wise relevance propagation: what every rule must do, on random and on real networks."""

import itertools
import math
import warnings

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_networks import REAL, SMALL, autoencoder, prepared, random_network, real, small
from torch import nn

from xaiutils import attribution, graph
from xaiutils.attribution import (
    COMPOSITES,
    AlphaBeta,
    Composite,
    Epsilon,
    Flat,
    Gamma,
    Pass,
    WithBias,
    WSquare,
    ZBox,
    Zero,
    ZPlus,
)

MAIN = ("epsilon", "z_plus", "gamma", "alpha2_beta1")
seeds = st.integers(0, 10_000)
few = settings(max_examples=10, deadline=None)


def explain(network, x, target=0, composite="epsilon_plus", **options):
    return attribution.lrp(network, x, target, composite, **options)


def assert_account_closes(network, x, target, composite, tolerance=1e-9, **options):
    heatmaps, report = explain(network, x, target, composite, return_report=True, **options)
    torch.testing.assert_close(heatmaps.flatten(1).sum(1), report.at_input)
    assert bool((report.relative_gap < tolerance).all()), report.relative_gap
    for layer in report.layers:
        assert bool((layer.gap.abs() <= tolerance * report.start.abs()).all()), layer
    return report


# --------------------------------------------------------------------------------- conservation


@pytest.mark.parametrize("name", REAL)
def test_the_account_closes_on_real_networks(name):
    network = real(name)
    x = torch.rand(1, 3, 64, 64, dtype=torch.float64) * 2 - 1
    logits = network(x).detach()
    for composite in MAIN:
        report = assert_account_closes(network, x, None, composite)
        torch.testing.assert_close(report.start, logits.max(1).values)


def test_the_account_closes_on_a_larger_autoencoder():
    network = prepared(autoencoder())
    x = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    for composite in COMPOSITES:
        assert_account_closes(network, x, (1, 5, 7), composite)


@given(seed=seeds)
@few
def test_the_account_closes_on_random_networks(seed):
    network, x = random_network(seed, signed=True)
    for bias, composite in itertools.product(("absorb", "ignore", "redistribute"), COMPOSITES):
        report = assert_account_closes(network, x, 1, composite, bias=bias)
        if bias != "absorb":
            assert not bool(report.bias.any())


@given(seed=seeds)
@few
def test_without_biases_and_epsilon_the_input_alone_conserves(seed):
    network, x = random_network(seed, batch_norm=False, bias=False)
    logits = network(x)[:, 1].detach()
    for rule in (Epsilon(0.0), ZPlus(), Gamma(0.5)):
        composite = Composite(rule, rule, other=rule)
        heatmaps, report = explain(network, x, 1, composite, return_report=True)
        torch.testing.assert_close(heatmaps.sum((1, 2, 3)), logits, rtol=1e-9, atol=1e-18)
        assert not bool(report.bias.any())
        assert not bool(report.stabiliser.any())


@given(seed=seeds)
@few
def test_alpha_beta_without_biases_loses_only_what_is_counted_as_dead(seed):
    network, x = random_network(seed, batch_norm=False, bias=False)
    _, report = explain(network, x, 1, "alpha2_beta1", return_report=True)
    torch.testing.assert_close(report.at_input + report.dead, report.start, rtol=1e-9, atol=1e-15)


@given(seed=seeds)
@few
def test_ignored_biases_leave_everything_at_the_input(seed):
    """All but what arrives at outputs that read nothing but zeros."""
    network, x = random_network(seed, signed=True)
    logits = network(x)[:, 1].detach()
    for rule in (ZPlus(), Gamma(0.5)):
        composite = Composite(rule, rule, affine=rule, other=rule)
        _, report = explain(network, x, 1, composite, bias="ignore", return_report=True)
        assert not bool(report.bias.any())
        torch.testing.assert_close(report.at_input + report.dead, logits, rtol=1e-9, atol=1e-12)


@given(seed=seeds)
@few
def test_redistributed_biases_leave_everything_at_the_input(seed):
    network, x = random_network(seed)
    for rule in (ZPlus(), Gamma(0.5), Epsilon(0.0)):
        composite = Composite(rule, rule, affine=rule, other=rule)
        heatmaps, report = explain(
            network, x, 1, composite, bias="redistribute", return_report=True
        )
        total = heatmaps.sum((1, 2, 3)) + report.dead
        torch.testing.assert_close(total, network(x)[:, 1].detach(), rtol=1e-9, atol=1e-12)


def test_an_output_to_which_nothing_contributes_is_dead():
    """A kernel that is negative throughout, positive by its bias: nothing to share by under z+."""
    network = nn.Sequential(nn.Linear(2, 1), nn.ReLU(), nn.Linear(1, 1, bias=False)).eval()
    network[0].weight.data.fill_(-1.0)
    network[0].bias.data.fill_(5.0)
    network[2].weight.data.fill_(2.0)
    x = torch.ones(1, 2)
    _, report = explain(network, x, 0, "z_plus", return_report=True)
    assert (float(report.bias), float(report.dead), float(report.at_input)) == (6.0, 0.0, 0.0)
    literal = {nn.Linear: ZPlus(follow_sign=False)}
    _, report = explain(network, x, 0, literal, bias="ignore", return_report=True)
    assert (float(report.bias), float(report.dead), float(report.at_input)) == (0.0, 6.0, 0.0)
    for bias in ("ignore", "redistribute"):
        heatmap, report = explain(network, x, 0, "z_plus", bias=bias, return_report=True)
        assert heatmap.tolist() == [[3.0, 3.0]]
        assert float(report.absorbed) == 0.0


# --------------------------------------------------------------------------------- invariants


@given(seed=seeds)
@few
def test_lrp_0_with_biases_is_input_times_gradient(seed):
    network, x = random_network(seed)
    composite = Composite(*[Epsilon(0.0)] * 2, affine=Epsilon(0.0), other=Epsilon(0.0))
    torch.testing.assert_close(
        explain(network, x, 2, composite), attribution.input_x_gradient(network, x, 2)
    )


@given(seed=seeds)
@few
def test_gamma_lies_between_lrp_0_and_z_plus(seed):
    network, x = random_network(seed, signed=True)

    def with_rule(rule):
        return explain(network, x, 1, Composite(rule, rule, affine=rule, other=rule))

    torch.testing.assert_close(with_rule(Gamma(0.0)), with_rule(Epsilon(0.0)))
    torch.testing.assert_close(with_rule(Gamma(1e9)), with_rule(ZPlus()), rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(with_rule(AlphaBeta(1.0, 0.0)), with_rule(ZPlus()))


@given(seed=seeds)
@few
def test_batches_formats_and_start_signals(seed):
    network, x = random_network(seed, signed=True)
    for composite in COMPOSITES:
        assert_batched_and_linear(network, x, composite)


def assert_batched_and_linear(network, x, composite):
    heatmaps = explain(network, x, 1, composite)
    one_by_one = torch.cat([explain(network, image[None], 1, composite) for image in x])
    torch.testing.assert_close(heatmaps, one_by_one)
    last = explain(network, x.contiguous(memory_format=torch.channels_last), 1, composite)
    torch.testing.assert_close(heatmaps, last)
    assert last.is_contiguous(memory_format=torch.channels_last)
    start = torch.randn(2, 4, dtype=torch.float64)
    other = torch.randn(2, 4, dtype=torch.float64)
    parts = [explain(network, x, 1, composite, start=s) for s in (start, other)]
    mixed = explain(network, x, 1, composite, start=2 * start - 3 * other)
    torch.testing.assert_close(2 * parts[0] - 3 * parts[1], mixed)


FREE_OF_SCALE = {
    **{name: COMPOSITES[name] for name in ("z_plus", "gamma", "alpha2_beta1")},
    "epsilon": Composite(Epsilon(0.0), Epsilon(0.0)),  # a stabiliser has the unit of the outputs
    "box": Composite(Gamma(), Epsilon(0.0), first=ZBox()),
}


@given(seed=seeds, factor=st.floats(0.1, 10))
@few
def test_rescaling_and_permuting_filters_changes_nothing(seed, factor):
    """A filter times a and the next layer's weights over a; channels in another order."""
    torch.manual_seed(seed)
    make = [nn.Conv2d(3, 5, 3), nn.ReLU(), nn.Conv2d(5, 4, 3), nn.ReLU(), nn.Flatten()]
    network = prepared(nn.Sequential(*make, nn.Linear(16, 3)), seed)
    x = torch.randn(2, 3, 6, 6, dtype=torch.float64)
    heatmaps = {name: explain(network, x, 1, c) for name, c in FREE_OF_SCALE.items()}
    order = torch.randperm(5)
    first, second = network[0], network[2]
    first.weight.data = first.weight.data[order] * factor
    first.bias.data = first.bias.data[order] * factor
    second.weight.data = second.weight.data[:, order] / factor
    for name, composite in FREE_OF_SCALE.items():
        torch.testing.assert_close(explain(network, x, 1, composite), heatmaps[name])


@given(seed=seeds)
@few
def test_folding_by_hand_changes_nothing(seed):
    torch.manual_seed(seed)
    layers = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, eps=0.1), nn.ReLU(), nn.Flatten())
    network = prepared(nn.Sequential(*layers, nn.Linear(64, 3)), seed)
    x = torch.randn(2, 3, 6, 6, dtype=torch.float64)
    convolution, norm = network[0], network[1]
    scale = norm.weight.data / torch.sqrt(norm.running_var + norm.eps)
    folded = nn.Conv2d(3, 4, 3).double()
    folded.weight.data = convolution.weight.data * scale[:, None, None, None]
    folded.bias.data = (convolution.bias.data - norm.running_mean) * scale + norm.bias.data
    by_hand = nn.Sequential(folded, *list(network)[2:]).eval()
    for composite in MAIN:
        torch.testing.assert_close(
            explain(network, x, 1, composite), explain(by_hand, x, 1, composite)
        )


@pytest.mark.parametrize("name", SMALL)
def test_every_composite_on_every_kind_of_network(name):
    network, x = small(name)
    target = (0, 0, 0) if name == "autoencoder" else None
    for composite in COMPOSITES:
        assert_account_closes(network, x, target, composite)


# -------------------------------------------------------------------------- composites and report


def rules_of(network, x, composite):
    _, report = explain(network, x, 0, composite, return_report=True)
    return {layer.name: layer.rule for layer in report.layers if layer.rule != "copy"}


def test_a_rule_finds_its_layer_by_position_name_and_type():
    network, x = small("residual")
    convolutions = {"1", "2.conv1", "2.conv2", "3.conv1", "3.conv2"}
    by_type = rules_of(network, x, {nn.Conv2d: ZPlus()})
    assert {name for name, rule in by_type.items() if rule == repr(ZPlus())} == convolutions
    assert by_type["7"] == repr(Epsilon())
    mixed = rules_of(network, x, {0: Flat(), "2": Gamma(), nn.Conv2d: ZPlus(), -1: WSquare()})
    assert mixed["1"] == repr(Flat())
    assert mixed["2.conv1"] == mixed["2.conv2"] == mixed["2/add"] == repr(Gamma())
    assert mixed["3.conv1"] == repr(ZPlus())
    assert mixed["7"] == repr(WSquare())
    by_operation = rules_of(network, x, {graph.Add: ZPlus()})
    assert by_operation["2/add"] == by_operation["3/add"] == repr(ZPlus())
    changed = COMPOSITES["epsilon_plus"].override({"7": Gamma()})
    assert rules_of(network, x, changed)["7"] == repr(Gamma())


def test_the_named_composites_are_what_their_names_say():
    network, x = small("residual")
    expected = {
        "epsilon_plus_flat": (Flat(), ZPlus(), Epsilon()),
        "epsilon_gamma_box": (ZBox(), Gamma(), Epsilon()),
        "alpha2_beta1_flat": (Flat(), AlphaBeta(), AlphaBeta()),
        "alpha2_beta1": (AlphaBeta(), AlphaBeta(), AlphaBeta()),
        "epsilon": (Epsilon(), Epsilon(), Epsilon()),
        "epsilon_plus": (ZPlus(), ZPlus(), Epsilon()),
    }
    for name, rules in expected.items():
        found = rules_of(network, x, name)
        assert (found["1"], found["2.conv2"], found["7"]) == tuple(map(repr, rules))


def test_wrong_composites_are_refused():
    network, x = small("residual")
    for composite, error, words in (
        ("epsilom", ValueError, "no composite 'epsilom'"),
        ({"features": ZPlus()}, ValueError, "'features' fits no layer"),
        ({nn.Conv3d: ZPlus()}, ValueError, "fits no layer"),
        ({99: ZPlus()}, ValueError, "99 fits no layer"),
        ({nn.Conv2d: ZPlus}, TypeError, "must be an instance of a rule"),
        ({"1": Pass()}, ValueError, "Pass needs one input of the output's shape"),
        ({0: ZBox(0.0, 1.0)}, ValueError, "not between low=0.0"),
    ):
        with pytest.raises(error, match=words):
            explain(network, x, 0, composite)
    with pytest.raises(ValueError, match="bias must be 'absorb', 'ignore' or 'redistribute'"):
        explain(network, x, 0, bias="zero")
    for start in (torch.ones(3, 3), torch.full((3, 4), math.nan)):
        with pytest.raises(ValueError, match="start must hold"):
            explain(network, x, 0, start=start)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Epsilon(-1.0),
        lambda: Gamma(-0.1),
        lambda: Gamma(math.inf),
        lambda: AlphaBeta(2.0, 1.0),
        lambda: AlphaBeta(0.5, 0.5),
    ],
)
def test_rules_refuse_parameters_out_of_range(make):
    with pytest.raises(ValueError, match="must"):
        make()


def test_the_report_is_the_same_in_chunks_and_reads_as_a_table():
    network, x = small("bottleneck")
    whole = explain(network, x, 0, "alpha2_beta1", return_report=True)[1]
    parts = explain(network, x, 0, "alpha2_beta1", return_report=True, batch_size=2)[1]
    for name in ("start", "at_input", "bias", "stabiliser", "dead"):
        torch.testing.assert_close(getattr(whole, name), getattr(parts, name))
    table = whole.to_frame(1)
    assert list(table.columns[:3]) == ["layer", "kind", "rule"]
    assert table["layer"].iloc[0] == "12"
    assert table["layer"].iloc[-1] == "0"
    flow = table["at_output"].iloc[1:].to_numpy() - table["at_input"].iloc[:-1].to_numpy()
    assert abs(flow).max() < 1e-12  # a chain: what leaves one layer arrives at the next


def test_zero_and_pass():
    network, x = small("dense")
    heatmaps, report = explain(network, x, 0, {"conv": Zero(), "norm": Pass()}, return_report=True)
    layers = {layer.name: layer for layer in report.layers}
    assert not bool(layers["conv"].at_input.any())
    torch.testing.assert_close(layers["conv"].dead, layers["conv"].at_output)
    torch.testing.assert_close(heatmaps.sum((1, 2, 3)) + report.absorbed, report.start)


# --------------------------------------------------------------------------- signed activations


def test_relevance_keeps_its_sign_under_z_plus():
    for seed in range(5):
        network, x = random_network(seed, signed=True)
        heatmaps = explain(network, x, 1, "z_plus")
        signs = network(x)[:, 1].detach().sign().reshape(-1, 1, 1, 1)
        rounding = 1e-12 * heatmaps.abs().max()
        assert bool((heatmaps * signs >= -rounding).all())


def test_gamma_is_bounded_where_the_literal_rule_explodes():
    """Two inputs that almost cancel, and an output below zero."""
    network = nn.Sequential(nn.Linear(2, 1, bias=False)).double().eval()
    network[0].weight.data = torch.tensor([[1.0, -1.0]], dtype=torch.float64)
    x = torch.tensor([[1.0, 1.25 - 1e-9]], dtype=torch.float64)  # 1.25 * 1 - x[1] = 1e-9
    bound = (2 + 0.25) / 0.25
    for rule, limit in ((Gamma(0.25), bound), (Gamma(0.25, follow_sign=False), math.inf)):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", attribution.RelevanceExplosionWarning)
            _, report = explain(network, x, 0, {nn.Linear: rule}, return_report=True)
        gain = float(report.layers[0].gain)
        assert gain <= limit
        assert gain > bound or limit == bound


def test_an_explosion_is_warned_of_and_named():
    network = (
        nn.Sequential(nn.Linear(2, 1, bias=False), nn.Linear(1, 1, bias=False)).double().eval()
    )
    network[0].weight.data = torch.tensor([[1.0, -1.0]], dtype=torch.float64)
    x = torch.tensor([[1.0, 1.0 - 1e-8]], dtype=torch.float64)
    with pytest.warns(
        attribution.RelevanceExplosionWarning, match=r"'0' \(Epsilon.*x 2e\+08"
    ) as caught:
        attribution.lrp(network, x, 0, {nn.Linear: Epsilon(0.0)})
    assert caught[0].filename == __file__  # it points to the call, not into the package
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        explain(network, x, 0, "z_plus")


def test_an_overflow_is_an_error():
    network = nn.Sequential(nn.Linear(2, 1, bias=False)).eval()
    network[0].weight.data = torch.tensor([[1e30, -1e30]])
    x = torch.tensor([[1e30, 1e30]])
    with pytest.raises(ValueError, match="output is not finite"):
        explain(network, x, 0, "epsilon")


@pytest.mark.parametrize("bias", ["absorb", "ignore"])
@pytest.mark.parametrize("follow_sign", [True, False])
@given(seed=seeds)
@few
def test_rules_on_signed_values_from_their_definition(seed, follow_sign, bias):
    """One dense layer: the shares computed contribution by contribution."""
    torch.manual_seed(seed)
    layer = nn.Linear(6, 4).double().eval()
    a, relevance = torch.randn(3, 6).double(), torch.randn(3, 4).double()
    z = layer.weight.detach() * a[:, None]  # (N, j, i)
    b = layer.bias.detach().expand(3, 4)[..., None] * (bias == "absorb")
    sign = torch.where(z.sum(-1, keepdim=True) + b >= 0, 1.0, -1.0)
    sign = sign if follow_sign else torch.ones_like(sign)

    def agreeing(t):
        return torch.where(t * sign > 0, t, 0.0)

    def shared(numerator, bias):
        total = numerator.sum(-1, keepdim=True) + bias
        return torch.where(total == 0, 0.0, numerator / total)

    gamma = shared(z + 0.3 * agreeing(z), b + 0.3 * agreeing(b))
    z_plus = shared(agreeing(z), agreeing(b))
    opposing = shared(z - agreeing(z), b - agreeing(b))
    for rule, shares in (
        (Gamma(0.3, follow_sign), gamma),
        (ZPlus(follow_sign), z_plus),
        (AlphaBeta(3.0, -2.0, follow_sign), 3 * z_plus - 2 * opposing),
    ):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", attribution.RelevanceExplosionWarning)
            found = explain(layer, a, 0, {nn.Linear: rule}, start=relevance, bias=bias)
        torch.testing.assert_close(found, (shares * relevance[..., None]).sum(1))


def test_a_rule_may_treat_biases_in_its_own_way():
    network, x = small("residual")
    whole = explain(network, x, 1, "gamma", bias="ignore")
    each = COMPOSITES["gamma"].override({nn.Module: WithBias(Gamma(), "ignore")})
    torch.testing.assert_close(explain(network, x, 1, each), whole)
    last = COMPOSITES["gamma"].override({-1: WithBias(Gamma(), "redistribute")})
    _, report = explain(network, x, 1, last, return_report=True)
    by_layer = {layer.name: layer for layer in report.layers}
    assert not bool(by_layer["7"].bias.any())
    assert bool(by_layer["1"].bias.any())
    assert float(report.relative_gap.max()) < 1e-9
    with pytest.raises(ValueError, match="bias must be one of 'absorb'"):
        WithBias(Gamma(), "zero")
