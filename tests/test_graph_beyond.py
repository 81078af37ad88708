"""Smooth gates, products, normalisation, attention, and what does not depend on the input."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from test_graph import Lines, assert_computes
from torch import nn
from torch.nn.utils import parametrizations, parametrize, prune, spectral_norm, weight_norm

from xaiutils import attribution, graph
from xaiutils.attribution import COMPOSITES, lrp

CLOSE = {"rtol": 1e-5, "atol": 1e-9}  # the stabiliser is not nothing
FOUR = ("epsilon", "z_plus", "alpha2_beta1", "attn_lrp")


def assert_account_closes(network, x, composites=FOUR):
    for composite in composites:
        heatmap, report = lrp(network, x, 0, composite, return_report=True)
        assert float(report.relative_gap.max()) < 1e-9, composite
        total = heatmap.flatten(1).sum(1) + report.absorbed
        torch.testing.assert_close(total, report.start, rtol=1e-9, atol=1e-12)


def lines(function):
    torch.manual_seed(0)
    network = nn.Sequential(Lines(function), nn.Flatten(), nn.LazyLinear(3)).double().eval()
    x = torch.randn(3, 3, 6, 6, dtype=torch.float64)
    network(x)
    return network, x


def assert_read(network, x):
    assert_computes(network, x)
    assert_account_closes(network, x)


# ----------------------------------------------------------------------------------- smooth gates


@pytest.mark.parametrize(
    "gate",
    [
        nn.SiLU(inplace=True),
        nn.GELU(),
        nn.GELU("tanh"),
        nn.Hardswish(inplace=True),
        nn.Hardsigmoid(),
        nn.Sigmoid(),
        nn.Tanh(),
        nn.ELU(0.7, inplace=True),
        nn.SELU(),
        nn.CELU(0.3),
        nn.PReLU(4),
        nn.Mish(),
        nn.Softplus(2.0),
        nn.LogSigmoid(),
        nn.Softsign(),
        nn.LeakyReLU(-0.2),
    ],
    ids=lambda gate: str(gate),
)
def test_smooth_gates(gate):
    network, x = lines(gate)
    if isinstance(gate, nn.PReLU):
        nn.init.uniform_(gate.weight, 0.1, 0.9)
    assert_read(network, x)


@pytest.mark.parametrize(
    "function",
    [torch.exp, torch.square, torch.abs, lambda y: y**3, lambda y: (y.abs() + 1).log()],
)
def test_functions_of_each_number(function):
    assert_read(*lines(function))


def test_a_smooth_gate_needs_its_input():
    network, x = lines(F.gelu)
    gate = next(n for n in graph.trace(network, x).nodes if n.operation.kind == "gelu")
    with pytest.raises(ValueError, match="slope of gelu depends on its input"):
        gate.operation.slope(torch.ones(2))


# --------------------------------------------------------------------------- products, quotients


def three(y):
    return torch.arange(12.0, dtype=y.dtype).reshape(3, 4) - 5


def by_hand_without_gradient(y):
    with torch.no_grad():
        scale = 1 / (1 + y.abs().amax(1, keepdim=True))
    return y * scale


@pytest.mark.parametrize(
    "function",
    [
        lambda y: y * y.mean((2, 3), keepdim=True).sigmoid(),
        lambda y: F.adaptive_avg_pool2d(y, 1).relu() * y,
        lambda y: y * y.flip(3),
        lambda y: y * y,
        lambda y: F.glu(y, 1),
        lambda y: y[:, :2] * F.silu(y[:, 2:]),
        lambda y: y / (y.abs().mean((1, 2, 3), keepdim=True) + 0.1),
        lambda y: y / y.norm(dim=1, keepdim=True).clamp(min=0.1),
        lambda y: 1 / (y.square() + 1),
        lambda y: torch.ones(4, 1, 1, dtype=y.dtype) / (y.square() + 1),
        lambda y: y / y,
        lambda y: y.detach() * 2 + y,
        lambda y: y * y.mean((2, 3), keepdim=True).detach(),
        by_hand_without_gradient,
        lambda y: y.flatten(2) @ y.flatten(2).transpose(1, 2),
        lambda y: torch.einsum("nchw,nchv->ncwv", y, y.relu()),
        lambda y: torch.bmm(y[:, 0], y[:, 1]),
        lambda y: y * torch.where(y > 0, 1.0, 0.25).to(y.dtype),
        lambda y: torch.where(y > 0, y, 0.1 * y),
        lambda y: torch.maximum(y, y.flip(2)),
        lambda y: y.amax((2, 3)),
        lambda y: y.max(1)[0],
        lambda y: torch.addcmul(y, y.flip(2), y.flip(3)),
        lambda y: torch.addcmul(y, torch.eye(4, dtype=y.dtype), torch.eye(4, dtype=y.dtype)),
        lambda y: torch.addmm(y[:, :3, 0, 0], y.new_ones(y.shape[0], 4), three(y).T),
        lambda y: y.std((2, 3)),
        lambda y: y.softmax(1),
        lambda y: y.log_softmax(-1),
        lambda y: y.masked_fill(torch.eye(4, dtype=torch.bool), -math.inf).softmax(-1),
    ],
)
def test_operations_in_which_signals_meet(function):
    network, x = lines(function)
    assert_computes(network, x)
    assert_account_closes(network, x, ("epsilon", "attn_lrp"))


def normalised(layer):
    torch.manual_seed(1)
    for parameter in layer.parameters():
        nn.init.normal_(parameter)
    return lines(layer)


@pytest.mark.parametrize(
    "layer",
    [
        nn.LayerNorm([4, 4, 4]),
        nn.LayerNorm(4, elementwise_affine=False),
        nn.LayerNorm([4, 4], bias=False),
        nn.GroupNorm(2, 4),
        nn.GroupNorm(1, 4, affine=False),
        nn.InstanceNorm2d(4, affine=True),
        nn.InstanceNorm2d(4),
        nn.RMSNorm([4, 4]),
        nn.LocalResponseNorm(3),
    ],
    ids=lambda layer: str(layer),
)
def test_normalisation(layer):
    network, x = normalised(layer)
    assert_computes(network, x)
    assert_account_closes(network, x)


def test_normalisation_with_its_deviation_held_conserves():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.LayerNorm(12, elementwise_affine=False))
    network.append(nn.Linear(12, 3, bias=False)).double().eval()
    x = torch.randn(2, 3, 2, 2, dtype=torch.float64)
    assert float(lrp(network, x, 1, "epsilon").sum()) == pytest.approx(
        float(network(x)[:, 1].sum()), abs=1e-5
    )
    # the gradient, to which the deviation belongs, sees no scale: x * gradient sums to nothing
    gradient = attribution.input_x_gradient(network, x, 1).flatten(1).sum(1)
    assert float(gradient.abs().max()) < 1e-4


@pytest.mark.parametrize("name", ["abs", "square", "ones_like", "relu"])
def test_the_weights_of_a_held_normalisation_are_those_of_its_matrix(name):
    function = getattr(torch, name)
    norm = graph.Normalisation(2, 1e-5, groups=2)
    x = torch.randn(1, 4, 3, dtype=torch.float64)
    held = norm.held(0, (x,))
    unit = torch.eye(12, dtype=x.dtype).reshape(12, 4, 3)

    def matrix(operation):
        return torch.stack([operation.linear(u[None]).flatten() for u in unit], 1)

    whole = matrix(held)
    same_group = torch.block_diag(*[torch.ones(6, 6, dtype=x.dtype)] * 2)
    torch.testing.assert_close(matrix(held.reweighted(function)), function(whole) * same_group)
    torch.testing.assert_close(held.linear(x), norm.forward(x))


# --------------------------------------------------------------------------------- linear in a way


@pytest.mark.parametrize(
    "function",
    [
        lambda y: y.sum((2, 3)),
        lambda y: y.sum(1, keepdim=True) * 2,
        lambda y: torch.stack([y, 2 * y, y.flip(2)], 1),
        lambda y: sum(y.unbind(1)),
        lambda y: y.narrow(2, 1, 2),
        lambda y: y.repeat(1, 2, 1, 3),
        lambda y: y.repeat_interleave(2, 1),
        lambda y: y.roll((1, -2), (2, 3)),
        lambda y: y.movedim(1, 3),
        lambda y: F.pixel_unshuffle(y, 2),
        lambda y: F.channel_shuffle(y, 2),
        lambda y: 1 - y,
        lambda y: 2.0 - 3 * y,
        lambda y: torch.rsub(y, 1.5, alpha=2),
        lambda y: F.interpolate(y, scale_factor=2, mode="bicubic"),
        lambda y: F.interpolate(y, size=(7, 3), mode="bicubic", align_corners=True),
        lambda y: F.interpolate(y, size=(3, 3), mode="bicubic", antialias=True),
        lambda y: F.interpolate(y, size=(3, 3), mode="bilinear", antialias=True),
        lambda y: y @ torch.arange(12.0, dtype=y.dtype).reshape(4, 3),
        lambda y: torch.ones(2, 4, dtype=y.dtype) @ y,
        lambda y: torch.einsum("nchw,cd->ndhw", y, torch.eye(4, 3, dtype=y.dtype) - 0.5),
        lambda y: y.cumsum(2),
        lambda y: y[:, [2, 0, 0]],
        lambda y: y[:, :, torch.arange(3), torch.arange(3)],
        lambda y: y.index_select(1, torch.tensor([1, 1])),
        lambda y: F.unfold(y, 2),
        lambda y: F.fold(F.unfold(y, 2), (4, 4), 2),
        lambda y: F.pad(y, (1, 2), value=0.7),
        lambda y: F.max_pool2d(F.pad(y, (0, 1, 1, 1), value=-math.inf), 2, 2),
        lambda y: F.max_pool1d(F.pad(y.flatten(2), (1, 2), value=-math.inf), 3, 2),
        lambda y: torch.cat([torch.ones(len(y), 1, 4, 4, dtype=y.dtype), y], 1),
        lambda y: y.tril(),
        lambda y: y.diagonal(dim1=2, dim2=3),
        lambda y: y.transpose(0, 1).flatten(2).transpose(0, 1),
        lambda y: y.permute(1, 0, 2, 3).reshape(-1, 16).reshape(4, -1, 16).permute(1, 2, 0),
        lambda y: y.reshape(-1, 2, 4, 4).mean((2, 3)).reshape(-1, 4),
        lambda y: torch.relu(y.flatten(0, 1)).unflatten(0, (-1, 4)),
        lambda y: y.flatten(0, 1)[:, None].expand(-1, 3, -1, -1).reshape(len(y), -1),
        lambda y: torch.zeros_like(y) + y,
        lambda y: y.new_ones(y.shape[0], 4, 1, 1) + y,
        lambda y: y.type_as(y).to(torch.float64),
        lambda y: y.new_tensor(2.0).expand_as(y) * y,
        lambda y: y - y.new_ones(y.shape[0], 4, 1, 1),
        lambda y: y.new_ones(y.shape[0], 4, 1, 1) - 2 * y,
        lambda y: y * y.new_full((y.shape[0], 4, 1, 1), -2.0),
        lambda y: y / y.new_full((y.shape[0], 4, 1, 1), -2.0),
        lambda y: torch.addcmul(torch.eye(4, dtype=y.dtype), y, -torch.eye(4, dtype=y.dtype)),
        lambda y: torch.addmm(torch.ones(3, dtype=y.dtype), y[:, :, 0, 0], three(y).T),
        lambda y: y.flatten(1).index_fill(1, torch.tensor([0, 3]), 2.0),
        lambda y: (z := y.clone(), z[:, 0].fill_(1.5), z)[-1],
        lambda y: y[:, None].repeat_interleave(2, 0).reshape(-1, 2, 4, 4, 4).sum(1),
    ],
)
def test_linear_operations_of_every_kind(function):
    network, x = lines(function)
    assert_read(network, x)


class InImages(nn.Module):
    """Frames of a film, each seen by one convolution: times and images share a dimension."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)
        self.pool, self.fc = nn.MaxPool2d(2), nn.Linear(2 * 16, 3)

    def forward(self, x):
        frames = x.reshape(-1, 3, 6, 6)
        frames = self.pool(torch.relu(self.norm(self.conv(frames))))
        return self.fc(frames.reshape(len(x), -1))


def test_frames_and_images_in_one_dimension():
    torch.manual_seed(0)
    network = InImages().double().eval()
    network.norm.running_mean.normal_()
    x = torch.randn(2, 2, 3, 6, 6, dtype=torch.float64)
    assert_computes(network, x)
    assert_account_closes(network, x)


# --------------------------------------------------------------------------------------- attention


class Attention(nn.Module):
    """Attention in one of the ways in which people write it, with a class token and positions."""

    def __init__(self, form):
        super().__init__()
        self.form, self.heads = form, 2
        self.patch = nn.Conv2d(3, 8, 2, 2)
        self.token = nn.Parameter(torch.randn(1, 1, 8))
        self.position = nn.Parameter(torch.randn(1, 10, 8))
        self.norm, self.qkv, self.out = nn.LayerNorm(8), nn.Linear(8, 24), nn.Linear(8, 8)
        first = form != "sequence"
        self.module = nn.MultiheadAttention(8, 2, batch_first=first)
        self.mlp = nn.Sequential(nn.LayerNorm(8), nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 8))
        self.head = nn.Linear(8, 3)
        self.register_buffer("bias", torch.randn(1, 2, 10, 10))

    def forward(self, x):
        tokens = self.patch(x).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.token.expand(len(x), -1, -1), tokens], 1) + self.position
        tokens = tokens + self.attend(self.norm(tokens))
        return self.head((tokens + self.mlp(tokens))[:, 0])

    def attend(self, x):
        if self.form == "module":
            return self.module(x, x, x, need_weights=False)[0]
        if self.form == "weights":
            return self.module(x, x, x)[0]
        if self.form == "sequence":
            x = x.transpose(0, 1)
            return self.module(x, x, x, need_weights=False)[0].transpose(0, 1)
        n, t, c = x.shape
        if self.form in ("latent", "memory", "grouped"):
            return self.asked(x, n)
        q, k, v = self.qkv(x).reshape(n, t, 3, 2, 4).permute(2, 0, 3, 1, 4).unbind(0)
        if self.form == "explicit":
            weights = (q @ k.transpose(-2, -1) / 2 + self.bias).softmax(-1)
            y = weights @ v
        else:
            mask = {"biased": self.bias, "masked": self.bias > 0}.get(self.form)
            y = F.scaled_dot_product_attention(q, k, v, mask, is_causal=self.form == "causal")
        return self.out(y.transpose(1, 2).reshape(n, t, c))

    def asked(self, x, n):
        """One of queries and keys is constant, or keys are shared by heads."""
        y = x.reshape(n, 10, 2, 4).transpose(1, 2)
        fixed = self.position.reshape(1, 10, 2, 4).transpose(1, 2).expand(n, -1, -1, -1)
        if self.form == "grouped":
            one = y[:, :1]
            return F.scaled_dot_product_attention(y, one, one, enable_gqa=True).reshape(n, 10, 8)
        q, k = (fixed, y) if self.form == "latent" else (y, fixed)
        return F.scaled_dot_product_attention(q, k, y).transpose(1, 2).reshape(n, 10, 8)


FORMS = (
    "latent",
    "memory",
    "grouped",
    "module",
    "weights",
    "sequence",
    "explicit",
    "plain",
    "biased",
    "masked",
    "causal",
)


@pytest.mark.parametrize("form", FORMS)
def test_attention(form):
    torch.manual_seed(0)
    network = Attention(form).double().eval()
    x = torch.randn(2, 3, 6, 6, dtype=torch.float64)
    assert_computes(network, x)
    assert_account_closes(network, x, (*tuple(COMPOSITES)[:3], "attn_lrp"))
    if form in ("module", "sequence", "plain", "explicit"):
        kinds = [node.operation.kind for node in graph.trace(network, x).nodes]
        assert kinds.count("matmul") == 2
        assert kinds.count("softmax") == 1


def test_windows_that_are_shifted():
    class Shifted(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm, self.fc, self.head = nn.LayerNorm(3), nn.Linear(3, 3), nn.Linear(48, 2)

        def forward(self, x):
            n = len(x)
            y = x.permute(0, 2, 3, 1).roll((-1, -1), (1, 2))
            y = y.view(n, 2, 2, 2, 2, 3).permute(0, 1, 3, 2, 4, 5).reshape(n * 4, 4, 3)
            y = self.norm(y)
            y = (y @ y.transpose(1, 2)).view(n, 4, 4, 4).softmax(-1).view(-1, 4, 4) @ self.fc(y)
            y = y.view(n, 2, 2, 2, 2, 3).permute(0, 1, 3, 2, 4, 5).reshape(n, 4, 4, 3)
            return self.head(y.roll((1, 1), (1, 2)).flatten(1))

    torch.manual_seed(0)
    x = torch.randn(3, 3, 4, 4, dtype=torch.float64)
    assert_read(Shifted().double().eval(), x)


# ---------------------------------------------------------------- what does not depend on the input


class Inside(nn.Module):
    """A network that normalises its own input, as ``spelled`` says."""

    def __init__(self, spelled):
        super().__init__()
        self.spelled, self.conv, self.fc = spelled, nn.Conv2d(3, 4, 3), nn.Linear(4, 3)
        self.register_buffer("mean", torch.rand(1, 3, 1, 1))
        self.register_buffer("deviation", torch.rand(1, 3, 1, 1) + 0.5)

    def forward(self, x):
        return self.fc(torch.relu(self.conv(self.spelled(self, x))).mean((2, 3)))


@pytest.mark.parametrize(
    "spelled",
    [
        lambda m, x: (x - m.mean) / m.deviation,
        lambda m, x: x.sub(m.mean).div(m.deviation),
        lambda m, x: (x - m.mean) * m.deviation.reciprocal(),
        lambda m, x: x / m.deviation - m.mean / m.deviation,
        lambda m, x: (x - m.mean[0]) / m.deviation[0],
        lambda m, x: (x - x.new_tensor([0.4, 0.5, 0.6])[:, None, None]) / m.deviation.expand_as(x),
        lambda m, x: torch.add(x, m.mean, alpha=-0.5),
        lambda m, x: F.batch_norm(x, m.mean.flatten(), m.deviation.flatten() ** 2, eps=0.0),
        lambda m, x: m.mean - x,
    ],
)
def test_normalisation_inside_the_network(spelled):
    torch.manual_seed(0)
    assert_read(Inside(spelled).double().eval(), torch.randn(2, 3, 6, 6, dtype=torch.float64))


class Scaled(nn.Module):
    def forward(self, weight):
        return weight / weight.flatten(1).norm(dim=1)[:, None, None, None]


class Standardised(nn.Conv2d):
    def forward(self, x):
        weight = F.batch_norm(self.weight.reshape(1, 4, -1), None, None, training=True)
        return self._conv_forward(x, weight.reshape_as(self.weight), self.bias)


class Frozen(nn.Module):
    def __init__(self):
        super().__init__()
        for name in ("weight", "bias", "mean", "variance"):
            self.register_buffer(name, torch.rand(4) + 0.5)

    def forward(self, x):
        scale = self.weight * (self.variance + 1e-5).rsqrt()
        shift = self.bias - self.mean * scale
        return x * scale[None, :, None, None] + shift[None, :, None, None]


def _pruned(conv):
    prune.l1_unstructured(conv, "weight", 0.5)
    return conv


@pytest.mark.parametrize(
    "make",
    [
        lambda: weight_norm(nn.Conv2d(3, 4, 3)),
        lambda: parametrizations.weight_norm(nn.Conv2d(3, 4, 3)),
        lambda: spectral_norm(nn.Conv2d(3, 4, 3)),
        lambda: parametrizations.spectral_norm(nn.Conv2d(3, 4, 3)),
        lambda: parametrizations.orthogonal(nn.Conv2d(3, 4, 3)),
        lambda: (
            parametrize.register_parametrization(c := nn.Conv2d(3, 4, 3), "weight", Scaled()),
            c,
        )[1],
        lambda: _pruned(nn.Conv2d(3, 4, 3)),
        lambda: nn.Sequential(nn.Conv2d(3, 4, 3), Frozen()),
        lambda: Standardised(3, 4, 3),
    ],
)
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_computed_weights_are_read_and_follow_what_they_are_computed_from(make):
    torch.manual_seed(0)
    network = nn.Sequential(make(), nn.ReLU(), nn.Flatten(), nn.LazyLinear(3)).double()
    x = torch.randn(2, 3, 6, 6, dtype=torch.float64)
    network(x)
    assert_read(network.eval(), x)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    assert_computes(network, x)


# ------------------------------------------------------------------------------------------- rules


def test_a_product_shares_as_its_rule_says():
    class Product(nn.Module):
        def forward(self, x):
            return ((x[:, 0] * x[:, 1]) * x[:, 2])[:, None]

    class Other(nn.Module):
        def forward(self, x):
            return (x[:, 0] * (x[:, 1] * x[:, 2]))[:, None]

    x = torch.tensor([[2.0, 3.0, 4.0]], dtype=torch.float64)
    half = lrp(Product().eval(), x, 0, "attn_lrp")
    torch.testing.assert_close(half, torch.tensor([[6.0, 6.0, 12.0]], dtype=x.dtype), **CLOSE)
    half = lrp(Other().eval(), x, 0, "attn_lrp")
    torch.testing.assert_close(half, torch.tensor([[12.0, 6.0, 6.0]], dtype=x.dtype), **CLOSE)


@pytest.mark.parametrize("gate", [torch.sigmoid, F.hardsigmoid, lambda y: F.relu6(y + 3) / 6])
def test_the_gate_of_a_product_gets_nothing(gate):
    class Gated(nn.Module):
        def forward(self, x):
            return (gate(x[:, :1]) * x[:, 1:]).sum(1, keepdim=True)

    x = torch.tensor([[0.3, 3.0, 4.0]], dtype=torch.float64)
    network = Gated().eval()
    expected = x * gate(x[:, :1]) * torch.tensor([0.0, 1.0, 1.0], dtype=x.dtype)
    torch.testing.assert_close(lrp(network, x, 0, "epsilon"), expected, **CLOSE)
    halves = lrp(network, x, 0, "attn_lrp", bias="ignore")
    assert float(halves[0, 0]) == pytest.approx(float(network(x)) / 2, rel=1e-5)


def test_a_clamp_is_a_gate_only_if_it_ends_at_one():
    class Star(nn.Module):
        def forward(self, x):
            return F.relu6(x[:, :1]) * x[:, 1:]

    x = torch.tensor([[3.0, 4.0]], dtype=torch.float64)
    heatmap = lrp(Star().eval(), x, 0, "epsilon")
    expected = torch.tensor([[6.0, 6.0]], dtype=x.dtype)  # half each
    torch.testing.assert_close(heatmap, expected, **CLOSE)


def test_softmax_by_taylor_loses_what_is_called_remainder():
    x = torch.tensor([[1.0, -0.5]], dtype=torch.float64)
    values = torch.tensor([[2.0], [3.0]], dtype=x.dtype)

    class Weighing(nn.Module):
        def forward(self, x):
            return x.softmax(1) @ values

    heatmap, report = lrp(Weighing().eval(), x, 0, "attn_lrp", return_report=True)
    share = x.softmax(1) * values.T
    expected = x * (share - x.softmax(1) * share.sum())
    torch.testing.assert_close(heatmap, expected, **CLOSE)
    assert float(report.remainder) == pytest.approx(float(share.sum() - expected.sum()), rel=1e-5)


def test_ratio_based_splitting_at_an_addition():
    network = Lines(lambda y: y).eval()

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.tensor([-0.5, 2.0]))

        def forward(self, x):
            return (x + x.flip(1) * self.weight).sum(1, keepdim=True)

    x = torch.tensor([[3.0, 2.0]], dtype=torch.float64)
    network = Block().double().eval()
    ratio = attribution.Composite(
        attribution.Epsilon(0.0),
        attribution.Epsilon(0.0),
        affine=attribution.Epsilon(0.0),
        other=attribution.Ratio(),
    )
    heatmap = lrp(network, x, 0, ratio)
    outputs = x + x.flip(1) * network.weight.detach()
    arrived = outputs.abs() / outputs.abs().sum() * outputs.sum()  # the sum is split likewise
    own = x.abs() / (x.abs() + (x.flip(1) * network.weight.detach()).abs())
    expected = own * arrived + ((1 - own) * arrived).flip(1)
    torch.testing.assert_close(heatmap, expected)


def test_rules_of_ones_own_for_what_is_not_linear():
    class Nothing(attribution.NonlinearRule):
        def apply(self, step):
            parts = tuple(torch.zeros_like(x) for x in step.inputs)
            return attribution.Outcome(parts, dead=step.relevance.flatten(1).sum(1).double())

    torch.manual_seed(0)
    network = Attention("plain").double().eval()
    x = torch.randn(2, 3, 6, 6, dtype=torch.float64)
    composite = COMPOSITES["attn_lrp"].override({graph.Softmax: Nothing()})
    _, report = lrp(network, x, 0, composite, return_report=True)
    assert float(report.relative_gap.max()) < 1e-9
    assert float(report.remainder.abs().max()) == 0
    assert float(report.dead.abs().min()) > 0
    held = COMPOSITES["epsilon"].override({graph.Normalisation: attribution.ZPlus()})
    rules = {
        layer.name: layer.rule for layer in lrp(network, x, 0, held, return_report=True)[1].layers
    }
    assert rules["norm"] == "Held(rule=ZPlus(follow_sign=True))"
    with pytest.raises(TypeError, match=r"softmax must be a rule such as Taylor\(\)"):
        attribution.Composite(attribution.ZPlus(), attribution.ZPlus(), softmax=attribution.ZPlus())


# -------------------------------------------------------------------------- operations of one's own


@torch.library.custom_op("beyond::bent", mutates_args=())
def bent(x: torch.Tensor) -> torch.Tensor:
    return x + 0.1 * x.sin()


@bent.register_fake
def _(x):
    return torch.empty_like(x)


bent.register_autograd(
    lambda ctx, slope: slope * (1 + 0.1 * ctx.saved_tensors[0].cos()),
    setup_context=lambda ctx, inputs, output: ctx.save_for_backward(*inputs),
)


def test_an_operation_of_ones_own_is_read_once_it_is_registered():
    network, x = lines(lambda y: bent(y))
    with pytest.raises(graph.UnsupportedOperation, match=r"beyond\.bent.*graph\.register"):
        graph.trace(network, x)
    graph.register(bent, "gate")
    network, x = lines(lambda y: bent(y))
    assert_read(network, x)
    graph.register(bent, "copies")
    network, x = lines(lambda y: bent(y))
    with pytest.raises(graph.TraceError, match="not of the kind that it was registered as"):
        graph.trace(network, x)
    graph.register(bent, "gate")
    with pytest.raises(ValueError, match="kind must be one of copies, linear, gate, nonlinear"):
        graph.register(bent, "bend")
    with pytest.raises(TypeError, match=r"one of torch\.ops"):
        graph.register("bent", "gate")


# ---------------------------------------------------------------------------------- random networks


def _layer(draw, width):
    """A layer of tokens (N, T, width) to tokens, drawn by lot."""
    return draw(
        st.sampled_from(
            [
                nn.Sequential(nn.Linear(width, width), nn.GELU()),
                nn.Sequential(nn.Linear(width, width), nn.SiLU()),
                nn.Sequential(nn.Linear(width, 2 * width), nn.GLU(-1)),
                nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width), nn.Tanh()),
                nn.RMSNorm(width),
                nn.GroupNorm(1, 5),
                Excited(width),
                Attending(width),
                Attending(width, causal=True),
                nn.Hardswish(),
                nn.ELU(),
            ]
        )
    )


class Excited(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.fc = nn.Linear(width, width)

    def forward(self, x):
        return x * self.fc(x.mean(1, keepdim=True)).sigmoid()


class Attending(nn.Module):
    def __init__(self, width, causal=False):
        super().__init__()
        self.norm, self.qkv, self.causal = nn.LayerNorm(width), nn.Linear(width, 3 * width), causal

    def forward(self, x):
        q, k, v = self.qkv(self.norm(x)).chunk(3, -1)
        return F.scaled_dot_product_attention(q, k, v, is_causal=self.causal)


class Stack(nn.Module):
    def __init__(self, layers, residual):
        super().__init__()
        self.layers, self.residual, self.head = nn.ModuleList(layers), residual, nn.Linear(4, 3)

    def forward(self, x):
        for layer, around in zip(self.layers, self.residual, strict=True):
            x = x + layer(x) if around else layer(x)
        return self.head(x.mean(1))


@st.composite
def stacks(draw):
    depth = draw(st.integers(1, 4))
    seed = draw(st.integers(0, 2**16))
    torch.manual_seed(seed)
    layers = [_layer(draw, 4) for _ in range(depth)]
    network = Stack(layers, draw(st.lists(st.booleans(), min_size=depth, max_size=depth)))
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.7)
    return network.double().eval(), torch.randn(2, 5, 4, dtype=torch.float64)


@given(stacks())
@settings(max_examples=15, deadline=None)
def test_random_networks_of_all_of_these(drawn):
    network, x = drawn
    assert_computes(network, x)
    assert_account_closes(network, x, ("epsilon", "epsilon_plus", "attn_lrp"))
