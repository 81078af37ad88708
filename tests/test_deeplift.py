"""DeepLIFT: by hand, by naive loops over units, against Captum, and its axioms."""

from itertools import pairwise

import captum.attr
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from small_networks import SMALL, prepared, random_network, small
from torch import nn

from xaiutils import attribution, graph
from xaiutils.attribution import Epsilon, Gamma, LogOdds, LogProbability, Margin, deeplift
from xaiutils.attribution._deeplift import quotient

RULES = ("rescale", "reveal_cancel")
SEEDS = st.integers(0, 10_000)
FEW = settings(max_examples=5, deadline=None)


def dense(*widths, gate=nn.ReLU, seed=0):
    torch.manual_seed(seed)
    layers = [m for a, b in pairwise(widths) for m in (nn.Linear(a, b), gate())]
    return nn.Sequential(*layers[:-1]).double().eval()


# ------------------------------------------------------------------------------------ by hand


def minimum():
    """min(a, b) as a - relu(a - b)."""

    class Minimum(nn.Module):
        def __init__(self):
            super().__init__()
            self.both = nn.Linear(2, 2, bias=False)
            self.last = nn.Linear(2, 1, bias=False)
            self.both.weight.data = torch.tensor([[1.0, 0.0], [1.0, -1.0]])
            self.last.weight.data = torch.tensor([[1.0, -1.0]])

        def forward(self, x):
            return self.last(torch.relu(self.both(x)))

    return Minimum().eval()


def test_the_minimum_of_two():
    """The authors' example: the smaller input alone gets all under rescale, both share else."""
    x = torch.tensor([[3.0, 1.0], [1.0, 3.0]])
    network = minimum()
    assert deeplift(network, x, 0).tolist() == [[0.0, 1.0], [1.0, 0.0]]
    # relu(a - b) with 3 and -1: the positive part adds (3 + 2) / 2, the negative one -1 / 2
    found = deeplift(network, x, 0, rule="reveal_cancel")
    torch.testing.assert_close(found, torch.tensor([[0.5, 0.5], [0.5, 0.5]]))


class First(nn.Module):
    """relu(a - 1 - b) of two units a and b, in one layer."""

    def __init__(self):
        super().__init__()
        self.last = nn.Linear(2, 1)
        self.last.weight.data = torch.tensor([[1.0, -1.0]])
        self.last.bias.data.fill_(-1.0)

    def forward(self, x):
        return torch.relu(self.last(torch.relu(x)))


class Second(nn.Module):
    """The same function: what is below 1 becomes 0 one step earlier."""

    def forward(self, x):
        return torch.relu(torch.relu(x[:, :1] - 1) - torch.relu(x[:, 1:]))


def test_the_same_function_in_two_networks_has_two_maps():
    """The example of Sundararajan et al. 2017; integrated gradients do not tell them apart."""
    x = torch.tensor([[3.0, 1.0]])
    networks = First().eval(), Second().eval()
    several = 4 * torch.randn(200, 2)
    torch.testing.assert_close(networks[0](several), networks[1](several))
    maps = [deeplift(network, x, 0)[0].tolist() for network in networks]
    assert maps == [[1.5, -0.5], pytest.approx([2.0, -1.0])]
    for network in networks:
        found = attribution.integrated_gradients(network, x, 0, n_steps=500)[0].tolist()
        assert found == pytest.approx([1.5, -0.5], abs=0.01)


def test_lrp_tells_them_apart_too_but_for_the_rule_that_is_input_times_gradient():
    x = torch.tensor([[3.0, 1.0]])
    networks = First().eval(), Second().eval()
    # 3 counts twice: 6 - 1 - 1, then 4 - 1 of 2 and 1, of which 6 - 1 of 3 and the bias
    for rule, expected in (
        (Gamma(1.0), [[6 / 4, -1 / 4], [6 / 5 * 4 / 3, -1 / 3]]),
        (Epsilon(0.0), [[3.0, -1.0], [3.0, -1.0]]),
    ):
        composite = attribution.Composite(rule, rule, affine=rule, other=rule)
        for network, wanted in zip(networks, expected, strict=True):
            found = attribution.lrp(network, x, 0, composite)[0].tolist()
            assert found == pytest.approx(wanted), rule


# ------------------------------------------------------------------- naive loops over all units


def shapley_of_two(gate, base, up, down):
    """What positive and negative contributions add, each with the other one there and not there."""
    g = lambda z: gate(torch.tensor(z, dtype=torch.float64)).item()  # noqa: E731
    plus = (g(base + up) - g(base) + g(base + down + up) - g(base + down)) / 2
    minus = (g(base + down) - g(base) + g(base + up + down) - g(base + up)) / 2
    return plus, minus


def naive(network, x, start, target, rule):
    """DeepLIFT of a chain of linear layers and gates for one input, unit by unit."""
    values, bases = [x], [start]
    for layer in network:
        values.append(layer(values[-1]).detach())
        bases.append(layer(bases[-1]).detach())
    plus = torch.zeros(len(values[-1]), dtype=torch.float64)
    plus[target] = 1.0
    minus = plus.clone()  # the multipliers of positive and of negative contributions
    for number in reversed(range(len(network))):
        layer, change = network[number], values[number] - bases[number]
        if isinstance(layer, nn.Linear):
            found = torch.zeros(len(change), dtype=torch.float64)
            for i in range(len(change)):
                for j in range(len(plus)):
                    weight = layer.weight[j, i].item()
                    sign = weight * change[i].item()
                    by_sign = plus[j] if sign > 0 else minus[j]
                    found[i] += weight * (by_sign if sign else (plus[j] + minus[j]) / 2)
            plus = minus = found
            continue
        rise = values[number + 1] - bases[number + 1]
        new_plus, new_minus = plus.clone(), minus.clone()
        for j in range(len(plus)):
            if rule == "rescale":
                new_plus[j] = new_minus[j] = plus[j] * rise[j] / change[j]
                continue
            before = values[number - 1] - bases[number - 1]
            each = (network[number - 1].weight[j].detach() * before).tolist()
            up, down = sum(c for c in each if c > 0), sum(c for c in each if c < 0)
            rises = shapley_of_two(layer, bases[number][j].item(), up, down)
            new_plus[j] = plus[j] * rises[0] / up if up else plus[j]
            new_minus[j] = plus[j] * rises[1] / down if down else plus[j]
        plus, minus = new_plus, new_minus
    return plus * (x - start)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("gate", [nn.ReLU, nn.Tanh, nn.Hardtanh, lambda: nn.LeakyReLU(0.2)])
def test_a_loop_over_units_comes_to_the_same(rule, gate):
    network = dense(4, 6, 5, 3, gate=gate)
    x, start = torch.randn(2, 4).double(), torch.randn(2, 4).double()
    found = deeplift(network, x, 2, baselines=start, rule=rule)
    expected = [naive(network, a, b, 2, rule) for a, b in zip(x, start, strict=True)]
    torch.testing.assert_close(found, torch.stack(expected))


# --------------------------------------------------------------------------------- completeness


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("name", SMALL)
def test_it_is_complete_up_to_rounding(name, rule):
    network, x = small(name)
    output = network(x)
    target = 1 if output.ndim == 2 else (0, 1, 2)
    for start in (0.0, torch.randn_like(x), torch.randn_like(x[:1])):
        found, gap = deeplift(
            network, x, target, baselines=start, rule=rule, return_convergence_delta=True
        )
        base = network(torch.as_tensor(start, dtype=x.dtype).expand_as(x))
        place = (slice(None), *target) if isinstance(target, tuple) else (slice(None), target)
        rise = (output - base)[place].detach()
        torch.testing.assert_close(found.flatten(1).sum(1), rise)
        torch.testing.assert_close(gap, found.flatten(1).sum(1) - rise)


@FEW
@given(SEEDS)
def test_it_is_complete_for_every_target(seed):
    network, x = random_network(seed)
    for target in (Margin(), LogOdds(1), LogProbability(), torch.randn(4)):
        for rule in RULES:
            _, gap = deeplift(
                network, x, target, baselines=1.0, rule=rule, return_convergence_delta=True
            )
            assert float(gap.abs().max()) < 1e-6


class Smooth(nn.Module):
    """Smooth gates and a product, one of them squeeze and excitation."""

    def __init__(self):
        super().__init__()
        self.conv, self.gate = nn.Conv2d(3, 6, 3), nn.Linear(6, 6)
        self.head = nn.Linear(6, 3)

    def forward(self, x):
        x = F.silu(self.conv(x))
        x = x * torch.sigmoid(self.gate(F.gelu(x.mean((2, 3)))))[:, :, None, None]
        return self.head(F.softplus(x).mean((2, 3)))


@pytest.mark.parametrize("rule", RULES)
def test_smooth_gates_and_products(rule):
    torch.manual_seed(0)
    network, x = prepared(Smooth()), torch.randn(2, 3, 6, 6).double()
    _, gap = deeplift(network, x, 1, baselines=0.5, rule=rule, return_convergence_delta=True)
    assert float(gap.abs().max()) < 1e-12


def test_a_product_is_shared_as_shapley_has_it():
    class Times(nn.Module):
        def forward(self, x):
            return x[:, :1] * x[:, 1:]

    x, start = torch.tensor([[3.0, 5.0]]), torch.tensor([[1.0, 2.0]])
    # alone the first adds (3 - 1) 2, after the second (3 - 1) 5
    found = deeplift(Times().eval(), x, 0, baselines=start)
    assert found.tolist() == [[2 * (2 + 5) / 2, 3 * (1 + 3) / 2]]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    "gate", [nn.ReLU(), nn.Tanh(), nn.SiLU(), nn.Sigmoid(), nn.LeakyReLU(0.1), nn.ReLU6()]
)
def test_quotients_of_near_inputs_do_not_blow_up(gate, dtype):
    """From far to near, and at last the same, they come to the derivative."""
    x = torch.linspace(-3.05, 6.95, 101, dtype=dtype)[None]  # no kink between the nearest ones
    operation = graph.trace(nn.Sequential(gate).eval(), x).nodes[-1].operation
    given = x.clone().requires_grad_()
    (slopes,) = torch.autograd.grad(gate(given).sum(), given)
    for power in range(1, 13):
        base = x - x.new_tensor(10.0) ** -power
        change = (x - base).double()
        exact = (gate(x.double()) - gate(base.double())) / change
        exact = torch.where(change.abs() < 1e-5, slopes.double(), exact)
        found = quotient(operation, x, base).double()
        tolerance = 2e-4 if dtype == torch.float32 else 1e-5
        torch.testing.assert_close(found, exact, rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(quotient(operation, x, x), slopes)


def test_an_image_that_is_its_baseline_gets_nothing():
    network, x = small("residual")
    assert torch.equal(deeplift(network, x, 0, baselines=x), torch.zeros_like(x))


# --------------------------------------------------------------------------------- max pooling


def pooled(*before, stride=2):
    torch.manual_seed(0)
    pixels = {1: 25, 2: 9}[stride]
    pool = nn.MaxPool2d(2, stride)
    return prepared(nn.Sequential(*before, pool, nn.Flatten(), nn.Linear(6 * pixels, 3)))


def captums(network, x, start, target):
    found, delta = captum.attr.DeepLift(network).attribute(
        x.clone(), start, target, return_convergence_delta=True
    )
    return found.detach(), delta.detach()


@pytest.mark.filterwarnings("ignore:Setting forward, backward hooks", "ignore:Input Tensor")
@pytest.mark.parametrize(
    ("before", "stride", "agrees"),
    [
        ((nn.Conv2d(3, 6, 3),), 2, True),
        ((nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Conv2d(6, 6, 1)), 2, True),
        ((nn.Conv2d(3, 6, 3), nn.ReLU()), 2, False),  # it changes the signal after the ReLU has it
        ((nn.Conv2d(3, 6, 3),), 1, False),  # windows overlap
    ],
)
def test_captum_comes_to_the_same_at_max_pooling_where_it_is_complete(before, stride, agrees):
    torch.manual_seed(1)
    network, x = pooled(*before, stride=stride), torch.randn(3, 3, 8, 8).double()
    start = torch.randn_like(x)
    found, gap = deeplift(network, x, 1, baselines=start, return_convergence_delta=True)
    expected, delta = captums(network, x, start, 1)
    assert float(gap.abs().max()) < 1e-12
    if agrees:
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-10)
        assert float(delta.abs().max()) < 1e-12
    else:
        assert float(delta.abs().max()) > 1e-3


@pytest.mark.filterwarnings("ignore:Setting forward, backward hooks", "ignore:Input Tensor")
@pytest.mark.parametrize("gate", [nn.ReLU, nn.Tanh, nn.Sigmoid, nn.Softplus, nn.ELU, nn.LeakyReLU])
def test_captum_comes_to_the_same_for_every_gate_that_it_knows(gate):
    torch.manual_seed(0)
    network = prepared(
        nn.Sequential(
            nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), gate(), nn.Conv2d(4, 5, 3, 2), gate(),
            nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(5, 3),
        )
    )  # fmt: skip
    x, start = torch.randn(2, 3, 3, 9, 9).double()
    found = deeplift(network, x, [0, 1, 2], baselines=start)
    expected, _ = captums(network, x, start, torch.tensor([0, 1, 2]))
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-10)


def test_a_difference_of_maxima_goes_to_the_winner_that_differs_enough():
    """Grown: to the winner in the image; fallen: to the one in the baseline."""
    network = nn.Sequential(nn.MaxPool1d(3), nn.Flatten()).eval()
    x = torch.tensor([[[1.0, 5.0, 2.0]], [[1.0, 3.0, 2.0]]])
    start = torch.tensor([[[4.0, 0.0, 2.0]]])
    assert deeplift(network, x, 0, baselines=start).tolist() == [[[0, 1, 0]], [[-1, 0, 0]]]


# -------------------------------------------------------------------------------------- axioms


@FEW
@given(SEEDS)
def test_dummy(seed):
    network, x = random_network(seed)
    alike = (torch.rand(x.shape[1:]) < 0.5).to(x)
    start = x * alike + torch.randn_like(x) * (1 - alike)
    for rule in RULES:
        found = deeplift(network, x, 0, baselines=start, rule=rule)
        assert torch.equal(found * alike, torch.zeros_like(x))


@FEW
@given(SEEDS)
def test_linear_in_the_outputs(seed):
    """Of weights over the outputs of one network; rescale only."""
    network, x = random_network(seed)
    weights = torch.randn(4, dtype=x.dtype)
    each = torch.stack([deeplift(network, x, k, baselines=0.5) for k in range(4)])
    found = deeplift(network, x, weights, baselines=0.5)
    torch.testing.assert_close(found, torch.tensordot(weights, each, 1), rtol=1e-8, atol=1e-12)


# ------------------------------------------------------------------------- arguments and errors


def test_several_baselines_are_averaged_and_chunks_change_nothing():
    network, x = small("residual")
    several = torch.randn(5, *x.shape[1:], dtype=x.dtype)
    expected = torch.stack([deeplift(network, x, 0, baselines=b) for b in several]).mean(0)
    for batch_size in (None, 1, 2):
        found = deeplift(network, x, 0, baselines=several, batch_size=batch_size)
        torch.testing.assert_close(found, expected)
    traced = graph.trace(network, x)
    torch.testing.assert_close(deeplift(traced, x, 0, baselines=list(several)), expected)


def test_what_cannot_be_done_is_refused():
    network, x = small("residual")
    with pytest.raises(ValueError, match="rule must be 'rescale' or 'reveal_cancel'"):
        deeplift(network, x, 0, rule="linear")
    with pytest.raises(ValueError, match="do not fit x"):
        deeplift(network, x, 0, baselines=torch.zeros(2, 2))
    with_norm = nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4), nn.Linear(4, 2)).eval()
    with pytest.raises(graph.UnsupportedOperation, match=r"no rule for .*integrated_gradients"):
        deeplift(with_norm, torch.randn(2, 4), 0)
