"""The gradient family, deconvolution, guided backpropagation and Grad-CAM: what must hold."""

import copy

import pytest
import torch
from small_networks import FAST, random_network, small
from torch import nn

from xaiutils import attribution, graph
from xaiutils.attribution import METHODS

ONE_CHANNEL = {
    "sensitivity",
    "fullgrad",
    "fullgrad_signed",
    "grad_cam",
    "grad_cam_plus_plus",
    "xgrad_cam",
    "hires_cam",
    "layer_cam",
    "score_cam",
    "ablation_cam",
    "occlusion",
    "shapley",
    "rise",
    "deconvnet_l2",
    "guided_backprop_l2",
    "dmbp_l2",
    "dmbp_greedy_l2",
}


BY_AUTOGRAD = (
    "gradient",
    "sensitivity",
    "input_x_gradient",
    "smoothgrad",
    "smoothgrad_squared",
    "vargrad",
    "integrated_gradients",
    "occlusion",
    "shapley",
    "rise",
    "random",
)


class Deciding(nn.Module):
    """Decides by the numbers in a tensor what to compute, which no graph can hold."""

    def forward(self, x):
        return x.cumprod(1) if bool((x < 1e9).all()) else x


@pytest.fixture(params=["residual", "bottleneck", "functional"])
def network_and_input(request):
    return small(request.param)


def autograd(network, x, targets):
    x = x.detach().clone().requires_grad_()
    return torch.autograd.grad(network(x).gather(1, targets[:, None]).sum(), x)[0]


def test_every_method_has_the_same_interface(network_and_input):
    for name in METHODS:
        assert_usual_interface(name, *network_and_input)


def assert_usual_interface(name, network, x):
    """Shapes, targets in all forms, chunks, both memory formats, and the model left alone."""
    before, kept = copy.deepcopy(network.state_dict()), x.clone()

    def method(x, target, **options):
        return METHODS[name](network, x, target, **FAST.get(name, {}), **options)

    targets = network(x).argmax(1)
    heatmaps = method(x, None)
    assert heatmaps.shape == (x.shape[0], 1 if name in ONE_CHANNEL else 3, *x.shape[2:])
    assert heatmaps.dtype == x.dtype
    assert not heatmaps.requires_grad
    assert bool(torch.isfinite(heatmaps).all())
    for target in (targets, targets.tolist(), tuple(targets.tolist())):
        assert torch.equal(method(x, target), heatmaps)
    torch.testing.assert_close(method(x, 1), method(x, [1] * len(x)))
    torch.testing.assert_close(method(x, targets, batch_size=2), heatmaps)
    torch.testing.assert_close(method(x, None, batch_size=1), heatmaps)
    last = x.contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(method(last, None), heatmaps)
    assert torch.equal(x, kept)
    assert all(torch.equal(old, new) for old, new in zip(
        before.values(), network.state_dict().values(), strict=True))  # fmt: skip


def test_every_method_checks_its_arguments_first():
    network, x = small("residual")
    for name, method in METHODS.items():
        assert_checks(name, method, network, x)


def assert_checks(name, method, network, x):
    for target, words in ((4, "0 to 3"), ([0, 1], "one int or 3"), (-1, "0 to 3")):
        with pytest.raises(ValueError, match=words):
            method(network, x, target)
    with pytest.raises(TypeError, match="must be integers"):
        method(network, x, 1.5)
    if name != "random":
        with pytest.raises(ValueError, match="batch_size"):
            method(network, x, 0, batch_size=0)
    with pytest.raises(ValueError, match=r"model\.eval"):
        method(copy.deepcopy(network).train(), x, 0)


def test_gradient_and_its_products(network_and_input):
    network, x = network_and_input
    targets = torch.tensor([2, 0, 1])
    slopes = autograd(network, x, targets)
    torch.testing.assert_close(attribution.gradient(network, x, targets), slopes)
    torch.testing.assert_close(attribution.input_x_gradient(network, x, targets), x * slopes)
    l2 = attribution.sensitivity(network, x, targets)
    torch.testing.assert_close(l2, slopes.square().sum(1, keepdim=True).sqrt())
    linf = attribution.sensitivity(network, x, targets, norm="linf")
    torch.testing.assert_close(linf, slopes.abs().amax(1, keepdim=True))
    with pytest.raises(ValueError, match="'l2' or 'linf'"):
        attribution.sensitivity(network, x, targets, norm="l1")


def test_gradient_of_a_latent_and_of_a_pixel():
    encoder, x = small("sequence")
    slopes = attribution.gradient(encoder, x, 2)
    torch.testing.assert_close(slopes, autograd(encoder, x, torch.full((3,), 2)))
    decoder, x = small("autoencoder")
    given = x.clone().requires_grad_()
    expected = torch.autograd.grad(decoder(given)[:, 1, 2, 3].sum(), given)[0]
    torch.testing.assert_close(attribution.gradient(decoder, x, (1, 2, 3)), expected)
    each = [(1, 2, 3), (0, 0, 0), (2, 7, 7)]
    given = x.clone().requires_grad_()
    output = decoder(given)
    loss = sum(output[i][place] for i, place in enumerate(each))
    expected = torch.autograd.grad(loss, given)[0]
    torch.testing.assert_close(attribution.gradient(decoder, x, each), expected)
    for target in (3, (1, 2), (1, 2, 8)):
        with pytest.raises(ValueError, match="target must be"):
            attribution.gradient(decoder, x, target)


def test_integrated_gradients_are_complete(network_and_input):
    network, x = network_and_input
    baselines = 0.3 * torch.ones_like(x)
    targets = network(x).argmax(1)
    heatmaps, delta = attribution.integrated_gradients(
        network, x, baselines=baselines, n_steps=300, return_convergence_delta=True
    )
    rise = (network(x) - network(baselines)).gather(1, targets[:, None])[:, 0].detach()
    torch.testing.assert_close(heatmaps.sum((1, 2, 3)) - rise, delta)
    assert bool((delta.abs() < 0.02 * rise.abs() + 0.01).all())
    with pytest.raises(ValueError, match="baselines"):
        attribution.integrated_gradients(network, x, baselines=torch.zeros(2, 2))
    with pytest.raises(ValueError, match="n_steps"):
        attribution.integrated_gradients(network, x, n_steps=0)


def test_integrated_gradients_of_a_linear_network_are_exact_in_one_step():
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(4 * 9, 3)).double().eval()
    x = torch.randn(2, 3, 5, 5, dtype=torch.float64)
    heatmaps = attribution.integrated_gradients(network, x, 1, n_steps=1)
    torch.testing.assert_close(heatmaps, x * autograd(network, x, torch.tensor([1, 1])))


def test_smoothgrad_is_an_average_of_gradients():
    network, x = small("residual")
    assert torch.equal(
        attribution.smoothgrad(network, x, 1, samples=3, noise_level=0.0).round(decimals=12),
        attribution.gradient(network, x, 1).round(decimals=12),
    )
    alone = attribution.smoothgrad(network, x[1:2], 1, samples=3)
    together = attribution.smoothgrad(network, x, 1, samples=3)
    torch.testing.assert_close(alone[0], together[1])
    again = attribution.smoothgrad(network, x, 1, samples=3)
    other = attribution.smoothgrad(network, x, 1, samples=3, seed=1)
    assert torch.equal(again, together)
    assert not torch.allclose(other, together)
    for options in ({"samples": 0}, {"noise_level": -1.0}):
        with pytest.raises(ValueError, match=next(iter(options))):
            attribution.smoothgrad(network, x, 1, **options)


def test_the_noise_of_smoothgrad_is_a_share_of_the_range_of_each_image():
    """A ReLU behind a threshold is open as often as noise of that size passes it."""
    pixels = 20_000
    network = nn.Sequential(nn.Conv1d(1, 1, 1), nn.ReLU(), nn.Flatten(), nn.Linear(pixels, 1))
    network[0].weight.data.fill_(1.0)
    network[0].bias.data.fill_(-0.3)
    network[3].weight.data.fill_(1.0)
    x = torch.zeros(2, 1, pixels)
    x[:, 0, 0], x[0, 0, 1], x[1, 0, 1] = -1.0, 1.0, 3.0  # the ranges are 2 and 4
    found = attribution.smoothgrad(network.eval(), x, 0, samples=4, noise_level=0.15)
    passed = 0.5 * torch.erfc(torch.tensor([0.3 / 0.3, 0.3 / 0.6]) / 2**0.5)
    torch.testing.assert_close(found[:, 0, 2:].mean(1), passed, rtol=0.05, atol=0.0)


def test_deconvolution_and_guided_by_hand():
    """Two layers, small enough for paper."""
    network = nn.Sequential(nn.Linear(2, 3, bias=False), nn.ReLU(), nn.Linear(3, 1, bias=False))
    network[0].weight.data = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, -1.0]])
    network[2].weight.data = torch.tensor([[2.0, -3.0, 4.0]])
    x = torch.tensor([[1.0, 2.0]])  # hidden: 1, 2, and -3 which the ReLU stops
    network.eval()
    assert attribution.gradient(network, x, 0).tolist() == [[2.0, -3.0]]
    assert attribution.deconvnet(network, x, 0).tolist() == [[2.0 - 4.0, -4.0]]
    assert attribution.guided_backprop(network, x, 0).tolist() == [[2.0, 0.0]]


def test_a_norm_pools_the_colours_of_a_modified_gradient():
    network, x = small("residual")
    for method in (attribution.deconvnet, attribution.guided_backprop):
        colours = method(network, x, 1)
        expected = colours.square().sum(1, keepdim=True).sqrt()
        torch.testing.assert_close(method(network, x, 1, norm="l2"), expected)
        largest = colours.abs().amax(1, keepdim=True)
        assert torch.equal(method(network, x, 1, norm="linf"), largest)
        with pytest.raises(ValueError, match="'l2' or 'linf'"):
            method(network, x, 1, norm="l1")


def test_guided_is_deconvolution_where_every_gate_is_open():
    network, x = random_network(3, batch_norm=False)
    for parameter in network.parameters():
        parameter.data.abs_()
    x = x.abs()
    torch.testing.assert_close(
        attribution.guided_backprop(network, x, 1), attribution.deconvnet(network, x, 1)
    )


def test_grad_cam_from_its_definition():
    network, x = small("residual")
    inner = network[:3](x).detach().requires_grad_()
    slopes = torch.autograd.grad(network[3:](inner)[:, 2].sum(), inner)[0]
    cam = (slopes.mean((2, 3), keepdim=True) * inner).sum(1, keepdim=True).detach()

    def enlarged(cam):
        return nn.functional.interpolate(cam, x.shape[2:], mode="bilinear", align_corners=False)

    signed = attribution.grad_cam(network, x, 2, layer="2", relu=False)
    torch.testing.assert_close(signed, enlarged(cam))
    torch.testing.assert_close(attribution.grad_cam(network, x, 2, layer="2"), enlarged(cam.relu()))
    last = attribution.grad_cam(network, x, 2)  # the block, with its addition and its ReLU
    torch.testing.assert_close(last, attribution.grad_cam(network, x, 2, layer="3"))


def test_grad_cam_says_which_layers_there_are():
    network, x = small("residual")
    with pytest.raises(ValueError, match=r"no layer 'layer4'.*2\.conv1"):
        attribution.grad_cam(network, x, 0, layer="layer4")
    with pytest.raises(ValueError, match="no feature maps"):
        attribution.grad_cam(network, x, 0, layer="7")


def test_random_is_the_same_for_the_same_image_and_seed():
    network, x = small("residual")
    first = attribution.random(network, x, 0)
    assert torch.equal(first, attribution.random(network, 2 * x, 1))
    assert torch.equal(first[:2], attribution.random(network, x[:2], 0))
    assert not torch.equal(first, attribution.random(network, x, 0, seed=1))


def test_methods_of_a_network_they_cannot_read_say_so():
    """Those that follow rules do; others need only the gradient, by autograd, or the outputs."""
    network = nn.Sequential(nn.Flatten(), nn.Linear(4, 2), Deciding()).eval()
    for name, method in METHODS.items():
        if name in BY_AUTOGRAD:
            found = method(network, torch.randn(1, 1, 2, 2), 0, **FAST.get(name, {}))
            assert bool(torch.isfinite(found).all()), name
            continue
        with pytest.raises(graph.TraceError, match="decides by the values"):
            method(network, torch.randn(1, 1, 2, 2), 0)
