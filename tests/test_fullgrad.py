"""FullGrad: complete for every network that is read, and as published where it is drawn."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from small_networks import prepared, random_network, small
from torch import nn

from xaiutils import attribution, graph
from xaiutils.attribution import full_gradients, fullgrad, input_x_gradient

few = settings(max_examples=10, deadline=None)
seeds = st.integers(0, 10_000)
even = pytest.mark.filterwarnings("ignore:Using padding='same'")


def named(network, x):
    with torch.no_grad():
        output = network(x).flatten(1)
    return output.argmax(1), output.amax(1)


def close(found, wanted):
    torch.testing.assert_close(found, wanted, atol=1e-12, rtol=1e-10)


# -------------------------------------------------------------------------------- completeness


@given(seeds, st.booleans())
@few
def test_the_parts_sum_to_the_logit(seed, batch_norm):
    network, x = random_network(seed, batch_norm=batch_norm)
    _, logits = named(network, x)
    close(full_gradients(network, x).total(), logits)
    close(fullgrad(network, x, signed=True).sum((1, 2, 3)), logits)


@even
@pytest.mark.parametrize("name", ["residual", "functional", "used_twice", "dense", "bottleneck"])
def test_the_parts_sum_to_any_output_and_difference(name):
    """With BatchNorm before and behind, ReLU6, leaky ReLU, constants, a bias used twice."""
    network, x = small(name)
    with torch.no_grad():
        output = network(x)
    close(full_gradients(network, x, [2, 0, 1]).total(), output[range(3), [2, 0, 1]])
    pair = attribution.Difference(1, 3)
    close(full_gradients(network, x, pair).total(), output[:, 1] - output[:, 3])
    signed = fullgrad(network, x, pair, signed=True, batch_size=2)
    close(signed.sum((1, 2, 3)), output[:, 1] - output[:, 3])


@pytest.mark.parametrize("name", ["autoencoder", "volume", "sequence"])
def test_other_shapes(name):
    network, x = small(name)
    target = 0 if len(graph.trace(network, x).output_shape) == 1 else (0, 1, 1)
    with torch.no_grad():
        output = network(x)
    value = output[:, 0] if target == 0 else output[:, 0, 1, 1]
    close(fullgrad(network, x, target, signed=True).flatten(1).sum(1), value)
    assert fullgrad(network, x, target).shape == (len(x), 1, *x.shape[2:])


class Smooth(nn.Module):
    """A smooth gate, a product of computed numbers and a softmax."""

    def __init__(self):
        super().__init__()
        self.conv, self.gate = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 1)
        self.head = nn.Linear(4, 3)

    def forward(self, x):
        x = F.silu(self.conv(x))
        x = x * torch.sigmoid(self.gate(x.mean((2, 3), keepdim=True)))
        return self.head(x.mean((2, 3)) * x.amax((2, 3)).softmax(1))


def test_what_is_not_linear_has_an_implicit_bias():
    torch.manual_seed(0)
    network, x = prepared(Smooth()), torch.randn(2, 3, 6, 6, dtype=torch.float64)
    _, logits = named(network, x)
    close(full_gradients(network, x).total(), logits)
    without = input_x_gradient(network, x).sum((1, 2, 3))
    assert ((without - logits).abs() > 1e-3).all()


def test_a_clamp_at_its_ceiling_adds_the_ceiling():
    network = nn.Sequential(
        nn.Conv2d(1, 1, 1), nn.ReLU6(), nn.Flatten(), nn.Linear(2, 1, bias=False)
    )
    network[0].weight.data[:], network[0].bias.data[:] = 1, 0.5
    network[3].weight.data = torch.tensor([[2.0, 3.0]])
    parts = full_gradients(network.eval(), torch.tensor([[[[1.0, 9.0]]]]), 0)
    assert parts.pixels.flatten().tolist() == [2.0, 0.0]
    assert [b.flatten().tolist() for b in parts.biases.values()] == [[1.0, 0.0], [0.0, 18.0]]
    assert list(parts.biases) == ["0", "1"]


def test_without_biases_it_is_the_input_times_the_gradient():
    network, x = random_network(3, batch_norm=False, bias=False)
    parts = full_gradients(network, x)
    assert parts.biases == {}
    close(parts.pixels, input_x_gradient(network, x))
    close(fullgrad(network, x, signed=True), parts.pixels.sum(1, keepdim=True))


# -------------------------------------------------------------------------------- against autograd


def chain(bias=True):
    """With BatchNorm, as the authors' code reads it: biases of convolutions and of BatchNorm."""
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 5, 3, padding=1, bias=bias),
        nn.BatchNorm2d(5),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(5, 6, 3, bias=bias),
        nn.BatchNorm2d(6),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(24, 3),
    )
    return prepared(network), torch.randn(2, 3, 8, 8, dtype=torch.float64)


def by_autograd(network, x, target):
    """Gradients at the outputs of layers with a bias, and these biases, by hooks."""
    outputs, x = [], x.clone().requires_grad_()
    kinds = (nn.Conv2d, nn.BatchNorm2d, nn.Linear)
    layers = [m for m in network.modules() if isinstance(m, kinds) and m.bias is not None]
    handles = [m.register_forward_hook(lambda m, i, o: outputs.append(o)) for m in layers]
    value = network(x)[:, target].sum()
    for handle in handles:
        handle.remove()
    pixels, *slopes = torch.autograd.grad(value, [x, *outputs])
    biases = []
    for layer, slope in zip(layers, slopes, strict=True):
        bias = layer.bias
        if isinstance(layer, nn.BatchNorm2d):
            spread = (layer.running_var + layer.eps).sqrt()
            bias = bias - layer.running_mean * layer.weight / spread
        biases.append((bias.view(-1, *[1] * (slope.ndim - 2)) * slope).detach())
    return (x * pixels).detach(), biases


def test_parts_are_those_of_autograd():
    network, x = chain(bias=False)
    pixels, biases = by_autograd(network, x, 1)
    parts = full_gradients(network, x, 1)
    close(parts.pixels, pixels)
    for found, wanted in zip(parts.biases.values(), biases, strict=True):
        close(found, wanted)


def test_a_convolutions_bias_and_that_of_its_batch_norm_are_one():
    network, x = chain()
    _, biases = by_autograd(network, x, 1)
    parts = full_gradients(network, x, 1)
    assert len(biases) == 5
    assert len(parts.biases) == 3
    first = next(iter(parts.biases.values())).sum((2, 3))
    close(first, biases[0].sum((2, 3)) + biases[1].sum((2, 3)))


def as_published(pixels, biases, size):
    """What the authors' code does to the parts: for each layer, and each image."""

    def psi(part):
        part = part.abs()
        low, high = part.flatten(1).min(1)[0], part.flatten(1).max(1)[0]
        low, high = low.view(-1, 1, 1, 1), high.view(-1, 1, 1, 1)
        return (part - low) / (high - low + 1e-6)

    cam = psi(pixels).sum(1, keepdim=True)
    for bias in biases:
        if bias.ndim == 4:
            large = F.interpolate(psi(bias), size=size, mode="bilinear", align_corners=True)
            cam = cam + large.sum(1, keepdim=True)
    return cam


def test_map_is_that_of_the_authors():
    network, x = chain(bias=False)
    wanted = as_published(*by_autograd(network, x, 1), (8, 8))
    close(fullgrad(network, x, 1), wanted)
    close(fullgrad(network, x, 1, batch_size=1), wanted)
    assert (fullgrad(network, x, 1) >= 0).all()


@pytest.mark.parametrize(("places", "pixels"), [(4, 8), (3, 8), (8, 3), (1, 5), (5, 1)])
def test_places_hand_their_part_to_the_pixels_they_cover(places, pixels):
    """Against a fine grid, of which places and pixels are whole parts."""
    part = torch.randn(2, 1, places, 1, dtype=torch.float64)
    fine = part.repeat_interleave(pixels, 2) / pixels
    wanted = fine.view(2, 1, pixels, places, 1).sum(3)
    found = attribution._fullgrad._shared_out(part, (pixels, 1))
    close(found, wanted)


def test_bad_input():
    network, x = chain()
    with pytest.raises(ValueError, match="target must be from 0 to 2"):
        fullgrad(network, x, 3)
    with pytest.raises(ValueError, match="batch_size"):
        full_gradients(network, x, 0, batch_size=0)
    with pytest.raises(ValueError, match="NaN or infinite"):
        fullgrad(network, x * torch.inf, 0)
    with pytest.raises(ValueError, match="training mode"):
        fullgrad(chain()[0].train(), x, 0)
