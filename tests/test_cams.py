"""The relatives of Grad-CAM: each against its formula, and against the libraries that have it.

What TorchCAM and pytorch-grad-cam give stands in cam_numbers.npz; cam_numbers.py wrote it.
"""

import cam_numbers
import captum.attr
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from small_networks import prepared, random_network, small
from torch import nn

from xaiutils import attribution, graph
from xaiutils.attribution import (
    ablation_cam,
    grad_cam,
    grad_cam_plus_plus,
    guided_grad_cam,
    hires_cam,
    layer_cam,
    score_cam,
    xgrad_cam,
)

FROM_SLOPES = (hires_cam, layer_cam, grad_cam_plus_plus, xgrad_cam)
BY_PICTURES = (score_cam, ablation_cam)
LAYERS, TARGETS = cam_numbers.LAYERS, list(cam_numbers.TARGETS)
seeds = st.integers(0, 10_000)
few = settings(max_examples=10, deadline=None)


@pytest.fixture(scope="module")
def numbers():
    with np.load(cam_numbers.FILE) as stored:
        return {key: torch.from_numpy(stored[key])[:, None] for key in stored.files}


def enlarged(cam, size=(8, 8)):
    return F.interpolate(cam, size, mode="bilinear", align_corners=False)


def maps_and_slopes(network, x, targets, layer):
    """What autograd says about a layer, and the logits."""
    found = []
    handle = network.get_submodule(layer).register_forward_hook(lambda m, i, o: found.append(o))
    logits = network(x.clone().requires_grad_()).gather(1, torch.as_tensor(targets)[:, None])
    handle.remove()
    (slopes,) = torch.autograd.grad(logits.sum(), found[0])
    return found[0].detach(), slopes, logits.detach()[:, 0]


def close(found, wanted, tolerance=1e-5):
    torch.testing.assert_close(found, wanted, atol=tolerance * wanted.abs().max().item(), rtol=0)


# ------------------------------------------------------------------------ formulas and libraries


def naive(name, maps, slopes):
    """The map (h, w) of one image, in loops."""
    cam = torch.zeros_like(maps[0])
    for a, g in zip(maps, slopes, strict=True):
        if name == "hires_cam":
            cam += a * g
        elif name == "layer_cam":
            cam += a * g.clamp(min=0)
        elif name == "xgrad_cam" and a.sum() != 0:
            cam += a * sum(
                a[i, j] / a.sum() * g[i, j] for i in range(a.shape[0]) for j in range(a.shape[1])
            )
        elif name == "grad_cam_plus_plus":
            cam += a * plus_plus_weight(a, g, 0.0)
    return cam if name == "hires_cam" else cam.clamp(min=0)


def plus_plus_weight(a, g, added):
    """The formula as it is printed, with what pytorch-grad-cam adds to the divisor."""
    weight = 0.0
    for slope in g.flatten():
        if slope != 0:
            alpha = slope**2 / (2 * slope**2 + a.sum() * slope**3 + added)
            weight += alpha * slope.clamp(min=0)
    return weight


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("method", FROM_SLOPES)
def test_formula(method, layer):
    network, x = cam_numbers.network(), cam_numbers.images()
    maps, slopes, _ = maps_and_slopes(network, x, TARGETS, layer)
    cams = [naive(method.__name__, *each) for each in zip(maps, slopes, strict=True)]
    close(method(network, x, TARGETS, layer), enlarged(torch.stack(cams)[:, None]))


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize(
    ("method", "theirs"),
    [
        (hires_cam, "pytorch-grad-cam/HiResCAM"),
        (layer_cam, "pytorch-grad-cam/LayerCAM"),
        (layer_cam, "torchcam/LayerCAM"),
        (xgrad_cam, "pytorch-grad-cam/XGradCAM"),
        (xgrad_cam, "torchcam/XGradCAM"),
    ],
)
def test_libraries_agree(method, theirs, layer, numbers):
    cam = numbers[f"{theirs}/{layer}"]
    if method is not hires_cam:  # pytorch-grad-cam drops negative values later
        cam = cam.relu()
    found = method(cam_numbers.network(), cam_numbers.images(), TARGETS, layer)
    close(found, enlarged(cam))


@pytest.mark.parametrize("layer", LAYERS)
def test_grad_cam_plus_plus_is_that_of_pytorch_grad_cam_but_for_what_it_adds(layer, numbers):
    network, x = cam_numbers.network(), cam_numbers.images()
    maps, slopes, _ = maps_and_slopes(network, x, TARGETS, layer)
    cams = [
        sum(a * plus_plus_weight(a, g, 1e-6) for a, g in zip(*one, strict=True))
        for one in zip(maps, slopes, strict=True)
    ]
    close(torch.stack(cams)[:, None], numbers[f"pytorch-grad-cam/GradCAMPlusPlus/{layer}"])
    found = grad_cam_plus_plus(network, x, TARGETS, layer)
    close(found, enlarged(torch.stack(cams)[:, None]), 2e-3)


@pytest.mark.parametrize("layer", LAYERS)
def test_torchcam_weighs_by_cubes_of_slopes_in_grad_cam_plus_plus(layer, numbers):
    """The numerators of the formula alone: its code divides a copy of them."""
    network, x = cam_numbers.network(), cam_numbers.images()
    maps, slopes, _ = maps_and_slopes(network, x, TARGETS, layer)
    cam = ((slopes.relu() ** 3).sum((2, 3), keepdim=True) * maps).sum(1, keepdim=True)
    theirs = numbers[f"torchcam/GradCAMpp/{layer}"]
    close(cam, theirs)
    found = grad_cam_plus_plus(network, x, TARGETS, layer)
    assert ((found - enlarged(theirs)).abs().amax((1, 2, 3)) > 0.1 * found.amax((1, 2, 3))).all()


def score_cam_weights(network, x, target, maps, before=False, corners=False):
    """The softmax of the logits of one image seen through each map, one map after another."""
    logits = []
    for one in maps:
        mask = one[None, None]
        if before:
            mask = (mask - mask.min()) / (mask.max() - mask.min() + 1e-8)
        mask = F.interpolate(mask, x.shape[2:], mode="bilinear", align_corners=corners)
        if not before:
            mask = (mask - mask.min()) / (mask.max() - mask.min() + 1e-8)
        logits.append(network(x * mask)[0, target])
    return torch.stack(logits).softmax(0)


@pytest.mark.parametrize("layer", LAYERS)
@torch.no_grad()
def test_score_cam(layer, numbers):
    network, x = cam_numbers.network(), cam_numbers.images()
    maps = network[: int(layer) + 1](x)

    def cams(**way):
        each = [
            (score_cam_weights(network, x[i : i + 1], t, maps[i], **way)[:, None, None] * maps[i])
            for i, t in enumerate(TARGETS)
        ]
        return torch.stack(each).sum(1, keepdim=True).relu()

    found = score_cam(network, x, TARGETS, layer)
    close(found, enlarged(cams()))
    close(numbers[f"torchcam/ScoreCAM/{layer}"], cams(before=True))
    close(numbers[f"pytorch-grad-cam/ScoreCAM/{layer}"], cams(corners=True))
    alike = layer == "1"  # the map is as large as the picture: nothing is enlarged
    for library in ("torchcam", "pytorch-grad-cam"):
        theirs = numbers[f"{library}/ScoreCAM/{layer}"]
        assert torch.allclose(found, enlarged(theirs), atol=1e-5) == alike


@pytest.mark.parametrize("layer", LAYERS)
@torch.no_grad()
def test_ablation_cam(layer, numbers):
    network, x = cam_numbers.network(), cam_numbers.images()
    cut = int(layer) + 1
    maps, whole = network[:cut](x), network(x)
    lost = torch.zeros(2, maps.shape[1])
    for image, target in enumerate(TARGETS):
        for k in range(maps.shape[1]):
            without = maps[image : image + 1].clone()
            without[0, k] = 0
            lost[image, k] = whole[image, target] - network[cut:](without)[0, target]
    cam = (lost[:, :, None, None] * maps).sum(1, keepdim=True)
    close(ablation_cam(network, x, TARGETS, layer, relu=False), enlarged(cam))
    close(ablation_cam(network, x, TARGETS, layer), enlarged(cam.relu()))
    logits = whole[torch.arange(2), TARGETS]
    assert logits[0] < 0 < logits[1]  # the division turns the signs of the first
    close(numbers[f"pytorch-grad-cam/AblationCAM/{layer}"], cam / logits[:, None, None, None])


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.filterwarnings("ignore:Setting backward hooks", "ignore:Input Tensor")
def test_guided_grad_cam_is_captums(layer):
    network, x = cam_numbers.network(), cam_numbers.images()
    theirs = captum.attr.GuidedGradCam(network, network.get_submodule(layer)).attribute(
        x.clone().requires_grad_(), torch.tensor(TARGETS), interpolate_mode="bilinear"
    )
    close(guided_grad_cam(network, x, TARGETS, layer), theirs.detach())


# ------------------------------------------------------------------------------ what must hold


def linear_head(pool, seed=0):
    """A network that is linear in its last maps (N, 6, 4, 4)."""
    torch.manual_seed(seed)
    body = [nn.Conv2d(3, 5, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(5, 6, 3, 1, 1)]
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 3)]
    return prepared(
        nn.Sequential(*body, nn.ReLU(), *(head if pool else [nn.Flatten(), nn.Linear(96, 3)]))
    )


@pytest.mark.parametrize("pool", [True, False])
def test_hires_cam_is_exact_where_the_head_is_linear(pool):
    """Each cell is what the logit loses without it; Grad-CAM's is so only after mean pooling."""
    network, x = linear_head(pool), torch.randn(2, 3, 8, 8, dtype=torch.float64)
    with torch.no_grad():
        maps = network[:5](x)
        lost = torch.zeros(2, 1, 4, 4, dtype=torch.float64)
        for row in range(4):
            for column in range(4):
                without = maps.clone()
                without[:, :, row, column] = 0
                lost[:, 0, row, column] = (network[5:](maps) - network[5:](without))[:, 1]
        bias = network[-1].bias[1]
        torch.testing.assert_close(lost.sum((1, 2, 3)), network(x)[:, 1] - bias)
    torch.testing.assert_close(hires_cam(network, x, 1), enlarged(lost))
    same = torch.allclose(grad_cam(network, x, 1, relu=False), enlarged(lost))
    assert same == pool


@given(seeds)
@few
def test_xgrad_cam_keeps_the_sum_of_hires_cam(seed):
    network, x = random_network(seed)
    traced = graph.trace(network, x, fold=False)
    layer = [n.name for n in traced.nodes if isinstance(n.operation, graph.ReLU)]
    if not layer:
        return
    maps, slopes, _ = maps_and_slopes(network, x, [0, 1], layer[0].split("#")[0])
    wanted = (maps * slopes).sum((1, 2, 3))
    found = attribution._cams._by_active_slopes(False, maps, slopes).sum((1, 2, 3))
    torch.testing.assert_close(found, wanted)


def test_grad_cam_plus_plus_does_not_grow_with_the_output():
    """Linear in the target it is not: twice the network is not twice the map."""
    network, x = cam_numbers.network(), cam_numbers.images()
    once = grad_cam_plus_plus(network, x, TARGETS, "4")
    network[-1].weight.data *= 2
    network[-1].bias.data *= 2
    assert (grad_cam_plus_plus(network, x, TARGETS, "4") < 1.8 * once.amax((1, 2, 3), True)).all()
    for method in (hires_cam, layer_cam, xgrad_cam, ablation_cam):
        twice = method(network, x, TARGETS, "4")
        network[-1].weight.data /= 2
        network[-1].bias.data /= 2
        close(twice, 2 * method(network, x, TARGETS, "4"))
        network[-1].weight.data *= 2
        network[-1].bias.data *= 2


def test_a_layer_that_others_pass_by_is_ablated_alone():
    """The residual branch: the shortcut around it stays as it is."""
    network, x = small("residual")
    block = network[2]
    x1 = network[:2](x)
    with torch.no_grad():
        branch = block.bn2(block.conv2(block.relu(block.bn1(block.conv1(x1)))))
        tail = network[3:]
        whole = tail(torch.relu(branch + x1))
        lost = torch.stack(
            [
                whole - tail(torch.relu(branch.index_fill(1, torch.tensor(k), 0) + x1))
                for k in range(6)
            ]
        )[..., 2]
        cam = torch.einsum("kn,nkhw->nhw", lost, branch)[:, None]
    found = ablation_cam(network, x, 2, "2.bn2", relu=False, batch_size=4)
    torch.testing.assert_close(found, enlarged(cam, (9, 9)))


@pytest.mark.parametrize("method", [*FROM_SLOPES, *BY_PICTURES, guided_grad_cam])
@pytest.mark.parametrize("name", ["residual", "bottleneck", "functional", "dense"])
@pytest.mark.filterwarnings("ignore:Using padding='same'")
def test_usual_interface(method, name):
    network, x = small(name)
    before = [p.clone() for p in network.parameters()]
    found = method(network, x)
    channels = x.shape[1] if method is guided_grad_cam else 1
    assert found.shape == (len(x), channels, *x.shape[2:])
    assert found.dtype == x.dtype
    named = network(x).argmax(1)
    torch.testing.assert_close(found, method(network, x, named, batch_size=2))
    torch.testing.assert_close(found, method(network, x, named.tolist(), batch_size=1))
    margin = method(network, x, attribution.Margin(named))
    assert margin.isfinite().all()
    assert all(torch.equal(a, b) for a, b in zip(before, network.parameters(), strict=True))


class Unreadable(nn.Module):
    """Decides by the numbers in a tensor, which no graph can hold."""

    def __init__(self):
        super().__init__()
        self.network = cam_numbers.network()

    def forward(self, x):
        return self.network(x if bool((x < 1e9).all()) else -x)


@pytest.mark.parametrize("method", FROM_SLOPES)
def test_networks_that_cannot_be_read_are_left_to_autograd(method):
    x = cam_numbers.images()
    found = method(Unreadable().eval(), x, TARGETS, "network.4")
    close(found, method(cam_numbers.network(), x, TARGETS, "4"))


def test_unreadable_networks_are_refused_where_maps_must_be_replaced():
    for method in BY_PICTURES:
        with pytest.raises(graph.GraphError):
            method(Unreadable().eval(), cam_numbers.images(), TARGETS, "network.4")


@pytest.mark.parametrize("method", [*FROM_SLOPES, *BY_PICTURES, guided_grad_cam])
def test_bad_input(method):
    network, x = cam_numbers.network(), cam_numbers.images()
    with pytest.raises(ValueError, match="no layer 'nowhere'"):
        method(network, x, 0, "nowhere")
    with pytest.raises(ValueError, match="has no feature maps"):
        method(network, x, 0, "6")
    with pytest.raises(ValueError, match="batch_size"):
        method(network, x, 0, "4", batch_size=0)
    with pytest.raises(ValueError, match="target must be from 0 to 2"):
        method(network, x, 3)


def test_a_map_of_zeros_gets_no_weight():
    """No division by its sum, and no mask of NaN."""
    network, x = cam_numbers.network(), cam_numbers.images()
    network[3].bias.data[:] = -100
    for method in (*FROM_SLOPES, *BY_PICTURES, guided_grad_cam):
        assert (method(network, x, 0, "4") == 0).all()
