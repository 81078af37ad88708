"""Agreement with Captum, with Zennit, and with rules written out as matrices.

The libraries agree with each other, and with us, only under conditions; each test states its own.
"""

import captum.attr
import pytest
import torch
import zennit.composites
import zennit.rules
from captum.attr._utils.lrp_rules import EpsilonRule
from small_networks import prepared
from torch import nn

from xaiutils import attribution
from xaiutils.attribution import AlphaBeta, Epsilon, Flat, Gamma, WSquare, ZBox, ZPlus

TARGETS = torch.tensor([1, 0, 2])


def chain(bias=True, pool=nn.MaxPool2d):
    """Return a chain that both libraries read: no module twice, nothing in place, no padding."""
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 6, 3, bias=bias),
        nn.ReLU(),
        pool(2),
        nn.Conv2d(6, 8, 3, bias=bias),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(32, 7, bias=bias),
        nn.ReLU(),
        nn.Linear(7, 3, bias=bias),
    )
    return prepared(network)


def images(positive=False):
    torch.manual_seed(1)
    x = torch.randn(3, 3, 10, 10, dtype=torch.float64)
    return x.abs() if positive else x


# ------------------------------------------------------------------------------------- Captum


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (attribution.gradient, lambda m: captum.attr.Saliency(m).attribute),
        (attribution.input_x_gradient, lambda m: captum.attr.InputXGradient(m).attribute),
        (attribution.deconvnet, lambda m: captum.attr.Deconvolution(m).attribute),
        (attribution.guided_backprop, lambda m: captum.attr.GuidedBackprop(m).attribute),
    ],
)
@pytest.mark.filterwarnings("ignore:Setting backward hooks", "ignore:Input Tensor")
def test_gradient_family_equals_captum(ours, theirs):
    network, x = chain(), images()
    options = {"abs": False} if ours is attribution.gradient else {}
    expected = theirs(network)(x.clone().requires_grad_(), target=TARGETS, **options)
    torch.testing.assert_close(ours(network, x, TARGETS), expected.detach())


def test_integrated_gradients_equal_captum():
    """Captum's default quadrature is Gauss-Legendre's too."""
    network, x = chain(), images()
    baselines = 0.2 * torch.ones_like(x)
    expected, delta = captum.attr.IntegratedGradients(network).attribute(
        x, baselines, TARGETS, n_steps=17, return_convergence_delta=True
    )
    found, gap = attribution.integrated_gradients(
        network, x, TARGETS, baselines=baselines, n_steps=17, return_convergence_delta=True
    )
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(gap, delta)


@pytest.mark.parametrize("layer", ["0", "1", "3"])
def test_grad_cam_equals_captum(layer):
    network, x = chain(), images()
    cam = captum.attr.LayerGradCam(network, network.get_submodule(layer))
    expected = cam.attribute(x, TARGETS, relu_attributions=True)
    expected = captum.attr.LayerAttribution.interpolate(expected, (10, 10), "bilinear")
    found = attribution.grad_cam(network, x, TARGETS, layer=layer)
    torch.testing.assert_close(found, expected.detach())


class Flattened(nn.Module):
    """The chain with a functional flatten, for which Captum has no rule as a module."""

    def __init__(self, layers):
        super().__init__()
        cut = next(i for i, layer in enumerate(layers) if isinstance(layer, nn.Flatten))
        self.body, self.head = layers[:cut], layers[cut + 1 :]

    def forward(self, x):
        return self.head(self.body(x).flatten(1))


def test_epsilon_equals_captum():
    """With the same epsilon in every layer; Captum starts at the logit too."""
    network, x = Flattened(chain()).eval(), images()
    found = attribution.lrp(
        network, x, TARGETS, {nn.Conv2d: Epsilon(1e-3), nn.Linear: Epsilon(1e-3)}
    )
    for module in network.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            module.rule = EpsilonRule(1e-3)
    expected = captum.attr.LRP(network).attribute(x.clone(), target=TARGETS)
    torch.testing.assert_close(found, expected.detach())


# ------------------------------------------------------------------------------------- Zennit


def zennit_heatmap(network, x, rule, start):
    """Zennit's heatmap with one rule for every convolution and linear layer."""
    composite = zennit.composites.LayerMapComposite(
        [(nn.Conv2d, rule), (nn.Linear, rule), (nn.ReLU, zennit.rules.Pass())]
    )
    x = x.clone().requires_grad_()
    with composite.context(network) as modified:
        return torch.autograd.grad(modified(x), x, start)[0]


def one_hot_logit(network, x):
    output = network(x).detach()
    return torch.zeros_like(output).scatter_(1, TARGETS[:, None], 1.0) * output


def test_epsilon_equals_zennit():
    network, x = chain(), images()
    start = one_hot_logit(network, x)
    expected = zennit_heatmap(network, x, zennit.rules.Epsilon(epsilon=1e-3), start)
    rules = {nn.Conv2d: Epsilon(1e-3), nn.Linear: Epsilon(1e-3)}
    torch.testing.assert_close(attribution.lrp(network, x, TARGETS, rules), expected)


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (ZPlus(), lambda: zennit.rules.ZPlus(stabilizer=1e-14)),
        (AlphaBeta(1.0, 0.0), lambda: zennit.rules.AlphaBeta(alpha=1, beta=0, stabilizer=1e-14)),
        (AlphaBeta(2.0, -1.0), lambda: zennit.rules.AlphaBeta(alpha=2, beta=1, stabilizer=1e-14)),
        (Gamma(0.3), lambda: zennit.rules.Gamma(gamma=0.3, stabilizer=1e-14)),
    ],
)
def test_signed_rules_equal_zennit(ours, theirs):
    """For inputs that are not negative, no biases, and a positive start at a positive logit."""
    network, x = chain(bias=False), images(positive=True)
    network[-1].weight.data.abs_()
    start = one_hot_logit(network, x)
    assert bool((start.sum(1) > 0).all())
    expected = zennit_heatmap(network, x, theirs(), start)
    found = attribution.lrp(network, x, TARGETS, {nn.Conv2d: ours, nn.Linear: ours})
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-9)


# ------------------------------------------------------------------------------ as matrices

SHAPE = (2, 5, 4)


def dense_matrix(layer):
    """Return the (outputs, inputs) matrix of a bias-free layer, one unit input at a time."""
    units = torch.eye(2 * 5 * 4, dtype=torch.float64).reshape(-1, *SHAPE)
    with torch.no_grad():
        return layer(units).flatten(1).T


def reference(rule, weight, bias, a):
    """The shares of one rule, (outputs, inputs), from its formula."""
    z = weight * a
    up, down = z.clamp(min=0), z.clamp(max=0)
    if isinstance(rule, AlphaBeta):
        positive = up.sum(1) + bias.clamp(min=0)
        negative = down.sum(1) + bias.clamp(max=0)
        flip = (z.sum(1) + bias < 0)[:, None]  # the part that agrees with the output gets alpha
        shares_up, shares_down = up / positive[:, None], down / negative[:, None]
        agree = torch.where(flip, shares_down, shares_up)
        oppose = torch.where(flip, shares_up, shares_down)
        return rule.alpha * agree.nan_to_num() + rule.beta * oppose.nan_to_num()
    if isinstance(rule, WSquare):
        shares = weight.square()
    elif isinstance(rule, Flat):
        shares = (weight != 0).double()
    else:
        shares = z - rule.low * weight.clamp(min=0) - rule.high * weight.clamp(max=0)
    return shares / shares.sum(1, keepdim=True)


@pytest.mark.parametrize(
    "rule", [AlphaBeta(), AlphaBeta(3.0, -2.0), WSquare(), Flat(), ZBox(-3.5, 4)]
)
@pytest.mark.parametrize("stride", [1, 2])
def test_rules_equal_their_matrices(rule, stride):
    """A padded, strided, grouped convolution as one big matrix: every entry, border included."""
    torch.manual_seed(3)
    layer = nn.Conv2d(2, 4, 3, stride, padding=1, groups=2).double().eval()
    x = torch.randn(1, *SHAPE, dtype=torch.float64).clamp(-3, 3)
    output = layer(x).detach()
    bias = layer.bias.detach()[:, None, None].expand(output.shape[1:]).flatten()
    plain = nn.Conv2d(2, 4, 3, stride, padding=1, groups=2, bias=False).double()
    plain.weight.data = layer.weight.data
    matrix = dense_matrix(plain)
    start = torch.randn_like(output)
    expected = start.flatten() @ reference(rule, matrix, bias, x.flatten())
    found = attribution.lrp(layer, x, (0, 0, 0), {0: rule}, start=start)
    torch.testing.assert_close(found.flatten(), expected)


@pytest.mark.parametrize(
    ("low", "high"), [((-1.0, -2.0), (1.5, 2.5)), (None, None)], ids=["channels", "from the image"]
)
def test_the_box_may_differ_between_channels(low, high):
    torch.manual_seed(4)
    layer = nn.Conv2d(2, 3, 2, bias=False).double().eval()
    x = torch.rand(1, *SHAPE, dtype=torch.float64) - 0.5
    matrix = dense_matrix(layer)
    bounds = [
        torch.as_tensor(given, dtype=torch.float64)[:, None, None].expand(SHAPE).flatten()
        if given
        else extreme(x[0], (1, 2))[:, None, None].expand(SHAPE).flatten()
        for given, extreme in ((low, torch.amin), (high, torch.amax))
    ]
    a, l, h = x.flatten(), *bounds  # noqa: E741 - the symbols of the formula
    shares = matrix * a - l * matrix.clamp(min=0) - h * matrix.clamp(max=0)
    shares = shares / shares.sum(1, keepdim=True)
    start = torch.randn_like(layer(x).detach())
    found = attribution.lrp(layer, x, (0, 0, 0), {0: ZBox(low, high)}, start=start)
    torch.testing.assert_close(found.flatten(), start.flatten() @ shares)


def test_z_plus_is_the_first_taylor_term():
    """One ReLU layer: z+ equals the Taylor expansion at the root that it was derived from.

    The nearest root of a neuron in the direction v = a * [w > 0] (Montavon et al. 2017).
    """
    torch.manual_seed(5)
    a = torch.rand(6, dtype=torch.float64)
    w = torch.randn(6, dtype=torch.float64)
    b = -0.01
    z = (w @ a + b).clamp(min=0)
    w = w if z > 0 else -w
    z = w @ a + b
    v = a * (w > 0)
    root = a - v * z / (w @ v)
    assert abs(float(w @ root + b)) < 1e-12
    taylor = w * (a - root)
    layer = nn.Linear(6, 1).double().eval()
    layer.weight.data, layer.bias.data = w[None], torch.tensor([b], dtype=torch.float64)
    network = nn.Sequential(layer, nn.ReLU()).eval()
    found = attribution.lrp(network, a[None], 0, {nn.Linear: ZPlus()}, bias="ignore")
    torch.testing.assert_close(found[0], taylor)
