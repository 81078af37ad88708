"""The traced graph computes what the network does, forwards and backwards, and leaves it alone."""

import copy
import gc
import math
import weakref

import pytest
import torch
import torch.nn.functional as F
from small_networks import REAL, SMALL, real, small
from torch import nn

from xaiutils import graph


def autograd(network, x, start):
    x = x.detach().clone().requires_grad_()
    return torch.autograd.grad(network(x), x, start)[0]


def assert_computes(network, x):
    """Output, transpose and linearised forward pass agree with PyTorch's."""
    traced = graph.trace(network, x)
    expected = network(x).detach()
    record = traced.record(x, keep="gates")
    torch.testing.assert_close(record.output, expected)
    start, direction = torch.randn_like(expected), torch.randn_like(x)
    back = traced.backward(record, start)
    torch.testing.assert_close(back, autograd(network, x, start))
    change = traced.tangent(record, direction)
    torch.testing.assert_close((start * change).sum(), (back * direction).sum())


@pytest.mark.parametrize("name", SMALL)
def test_computes_what_the_network_computes(name):
    assert_computes(*small(name))


@pytest.mark.parametrize("name", REAL)
def test_computes_what_a_real_network_computes(name):
    assert_computes(real(name), torch.randn(2, 3, 64, 64, dtype=torch.float64))


@pytest.mark.parametrize("name", SMALL)
def test_one_trace_serves_any_batch_size(name):
    network, x = small(name, batch=5)
    traced = graph.trace(network, x[:1])
    for size in (1, 2, 5):
        torch.testing.assert_close(traced(x[:size]), network(x[:size]).detach())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_other_number_types_run_forwards(dtype):
    network, x = small("residual", dtype=dtype)
    traced = graph.trace(network, x)
    assert traced(x).dtype == dtype
    tolerance = 1e-5 if dtype == torch.float32 else 0.1
    torch.testing.assert_close(traced(x), network(x).detach(), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(4, 6, (3, 2), stride=(3, 2), padding=(1, 0), dilation=(1, 2), groups=2),
        nn.Conv2d(4, 4, 3, stride=2, groups=4),
        nn.ConvTranspose2d(4, 6, 3, stride=2, padding=1, output_padding=1, groups=2, dilation=2),
        nn.ConvTranspose2d(4, 4, (2, 3), stride=(1, 3), groups=4),
        nn.AvgPool2d(3, 2, 1, ceil_mode=True, count_include_pad=False),
        nn.AvgPool2d(2, divisor_override=3),
        nn.AdaptiveAvgPool2d((3, 2)),
        nn.AdaptiveMaxPool2d((3, 2)),
        nn.MaxPool2d(3, 2, 1, dilation=2, ceil_mode=True),
        nn.Upsample(size=(5, 13)),
        nn.Upsample(scale_factor=1.5, mode="bilinear"),
        nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True),
        nn.ReplicationPad2d((1, 2, 0, 1)),
        nn.ZeroPad2d((1, -1, 2, 0)),
        nn.PixelShuffle(2),
        nn.Hardtanh(-0.5, 0.7),
        nn.LeakyReLU(0.3, inplace=True),
        nn.Unflatten(1, (2, 2)),
    ],
    ids=lambda layer: str(layer),
)
def test_every_kind_of_layer(layer):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 4, 3), layer, nn.Flatten()).double().eval()
    assert_computes(network, torch.randn(2, 3, 11, 10, dtype=torch.float64))


def test_convolution_with_shifted_norm_in_front_of_transposed_groups():
    network = nn.Sequential(
        nn.ConvTranspose2d(4, 6, 3, groups=2), nn.BatchNorm2d(6, eps=0.5), nn.ReLU()
    )
    network[1].running_var.uniform_(0.1, 2)
    network[1].running_mean.normal_()
    network = network.double().eval()
    x = torch.randn(2, 4, 5, 5, dtype=torch.float64)
    traced = graph.trace(network, x)
    assert [n.operation.kind for n in traced.nodes] == ["input", "conv_transpose2d", "relu"]
    torch.testing.assert_close(traced(x), network(x).detach())


@pytest.mark.parametrize("name", SMALL)
def test_folding_changes_nothing(name):
    network, x = small(name)
    folded, plain = graph.trace(network, x), graph.trace(network, x, fold=False)
    torch.testing.assert_close(folded(x), plain(x))
    assert len(folded.nodes) <= len(plain.nodes)


class Lines(nn.Module):
    """A function as a module."""

    def __init__(self, function):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.function = function

    def forward(self, x):
        return self.function(self.conv(x))


@pytest.mark.parametrize(
    "function",
    [
        lambda y: F.relu_(y) + y,  # the in-place result is read through its old name
        lambda y: (y.relu_(), y.flatten(1))[1],
        lambda y: y.clamp_(0, 1).add_(y).mul_(2),
        lambda y: y.permute(0, 2, 3, 1).flatten(1),
        lambda y: torch.cat(y.split([1, 3], 1)[::-1], 1)[:, 1:, ::2],
        lambda y: (y - 2 * y.transpose(2, 3)).mean(1, keepdim=True),
        lambda y: -y / 4 + 1,
        lambda y: 3 + y.reshape(-1, 36),
        lambda y: y.unsqueeze(2).squeeze(2)[:, 0],
    ],
)
def test_functional_and_in_place_forms(function):
    torch.manual_seed(0)
    assert_computes(Lines(function).double().eval(), torch.randn(2, 3, 5, 5).double())


def test_an_ignored_branch_is_left_out():
    class Branch(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc, self.unused = nn.Linear(3, 2), nn.Linear(3, 2)

        def forward(self, x):
            self.unused(x)
            return self.fc(x)

    traced = graph.trace(Branch().eval(), torch.randn(1, 3))
    assert [node.name for node in traced.nodes] == ["input", "fc"]


def test_nodes_are_named_by_the_users_modules():
    network, x = small("residual")
    traced = graph.trace(network, x)
    assert traced.find("2.conv1").folded == "2.bn1"
    assert traced.find("2.bn1") is traced.find("2.conv1")
    assert traced.find("2").name == "2.relu#2"
    assert traced.find("2/add").operation.coefficients == (1.0, 1.0)
    assert len({node.name for node in traced.nodes}) == len(traced.nodes)
    with pytest.raises(ValueError, match="no layer 'head'"):
        traced.find("head")


def test_signal_and_record_at_an_inner_node():
    network, x = small("residual")
    traced = graph.trace(network, x, fold=False)
    node = traced.find("2")
    record = traced.record(x, keep=traced.gates | {node.index})
    inner = network[:3](x).detach().requires_grad_()
    output = network[3:](inner)
    start = torch.randn_like(output)
    expected = torch.autograd.grad(output, inner, start)[0]
    torch.testing.assert_close(record.value(node.index), inner.detach())
    torch.testing.assert_close(traced.backward(record, start, until=node.index), expected)


def test_what_is_not_kept_is_freed():
    network, x = small("residual")
    traced = graph.trace(network, x)
    record = traced.record(x, keep="gates")
    kept = {i for i, value in enumerate(record.values) if value is not None}
    assert kept == traced.gates | {len(traced.nodes) - 1}
    with pytest.raises(ValueError, match="not kept"):
        record.value(1)


def test_nonnegative_is_true():
    for name in SMALL:
        network, x = small(name)
        traced = graph.trace(network, x)
        record = traced.record(x)
        known = [node for node in traced.nodes if node.nonnegative]
        assert known
        assert all(bool((record.value(node.index) >= 0).all()) for node in known)


# ------------------------------------------------------------------- the user's model and weights


def test_the_model_is_left_as_it_was():
    network, x = small("residual")
    network[1].weight.requires_grad_(False)
    network = network.to(memory_format=torch.channels_last)
    network[7].register_forward_hook(lambda module, inputs, output: None)
    before = copy.deepcopy(network)
    attributes = {name: list(vars(part)) for name, part in network.named_modules()}
    kept_x = x.clone()

    traced = graph.trace(network, x)
    record = traced.record(x)
    traced.backward(record, torch.ones_like(record.output))

    for (name, old), new in zip(
        before.state_dict().items(), network.state_dict().values(), strict=True
    ):
        assert torch.equal(old, new), name
        assert old.stride() == new.stride()
    for old, new in zip(before.parameters(), network.parameters(), strict=True):
        assert old.requires_grad == new.requires_grad
        assert new.grad is None
    for name, part in network.named_modules():
        assert list(vars(part)) == attributes[name]
        assert not part.training
        assert len(part._forward_hooks) == (part is network[7])
        assert not part._forward_pre_hooks
        assert not part._backward_hooks
    assert torch.equal(x, kept_x)


def test_new_weights_are_seen_in_whatever_way_they_came():
    network, x = small("residual")
    graph.trace(network, x)
    changes = [
        lambda: network[1].weight.data.mul_(2),
        lambda: network[2].bn1.running_var.add_(1),
        lambda: setattr(network[2].bn1, "eps", 0.3),
        lambda: network.load_state_dict({k: v * 0.7 for k, v in network.state_dict().items()}),
        lambda: network.__setitem__(7, nn.Linear(6, 9).double().eval()),
        lambda: network.__setitem__(2, nn.Hardtanh(0, 0.1).eval()),
        lambda: setattr(network[2], "max_val", 0.2),
    ]
    for change in changes:
        with torch.no_grad():
            change()
        torch.testing.assert_close(graph.trace(network, x)(x), network(x).detach())


def test_the_cache_does_not_keep_the_model_alive():
    network, x = small("residual")
    graph.trace(network, x)
    reference = weakref.ref(network)
    del network
    gc.collect()
    assert reference() is None


def test_channels_last_is_kept():
    network, x = small("residual", dtype=torch.float32)
    traced = graph.trace(network, x)
    for format_ in (torch.contiguous_format, torch.channels_last):
        given = x.contiguous(memory_format=format_)
        record = traced.record(given, keep="gates")
        back = traced.backward(record, torch.ones_like(record.output))
        assert back.is_contiguous(memory_format=format_)
        torch.testing.assert_close(back, autograd(network, x, torch.ones_like(record.output)))


# --------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (lambda y: F.dropout(y, training=True), "drops at random"),
        (lambda y: y + torch.rand_like(y), "function.self.conv.*draws at random"),
        (lambda y: y.softmax(0), "batch"),
        (lambda y: torch.cat([y, y]), "batch"),
        (lambda y: y.cumsum(0), "batch"),
        (lambda y: y.roll(1), "batch"),
        (lambda y: y.roll(1, 0), "batch"),
        (lambda y: y.repeat(2, 1, 1, 1), "batch"),
        (lambda y: y.permute(1, 0, 2, 3).reshape(-1, 3, 3), "batch"),
        (lambda y: y.flatten(0, 1), "mixes the images|batch"),
        (lambda y: y[:1], "batch"),
        (lambda y: F.pad(y, (1, 1), value=-math.inf), "minus infinity"),
        (lambda y: (y, y), "returns 2 values"),
        (lambda y: y.mean(0), "batch"),
        (lambda y: F.batch_norm(y, None, None, training=True), "statistics of the batch"),
    ],
)
def test_what_it_cannot_do_is_named(function, words):
    with pytest.raises(graph.UnsupportedOperation, match=words):
        graph.trace(Lines(function).eval(), torch.randn(2, 3, 5, 5))


def test_the_error_says_in_which_module_and_line():
    class Noisy(nn.Module):
        def forward(self, x):
            return x + torch.rand_like(x)

    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Sequential(nn.ReLU(), Noisy())).eval()
    words = r"rand_like.* in '1\.1' \(return x \+ torch.*, test_graph\.py:\d+\)"
    with pytest.raises(graph.UnsupportedOperation, match=words):
        graph.trace(network, torch.randn(2, 3, 5, 5))


def test_a_view_changed_in_place_is_read():
    def function(y):
        y[:, 0].relu_()
        return y.flatten(1)

    network, x = Lines(function).eval().double(), torch.randn(2, 3, 5, 5, dtype=torch.float64)
    torch.testing.assert_close(graph.trace(network, x)(x), network(x))


@pytest.mark.parametrize(
    ("x", "error", "words"),
    [
        (torch.ones(1, 3, 9, 9, dtype=torch.int64), TypeError, r"x\.float\(\)"),
        (torch.ones(1, 3, 9, 9).double(), TypeError, "float64 but the model is torch.float32"),
        ([1.0], TypeError, "must be a torch.Tensor"),
        (torch.ones(3), ValueError, "must be a batch"),
        (torch.ones(0, 3, 9, 9), ValueError, "at least one"),
        (torch.full((1, 3, 9, 9), float("nan")), ValueError, "NaN"),
        (torch.full((1, 3, 9, 9), float("inf")), ValueError, "infinite"),
        (torch.ones(1, 4, 9, 9), graph.TraceError, r"\(N, 4, 9, 9\)"),
        (torch.ones(1, 3, 9), ValueError, r"x\[None\] makes a batch of one"),
    ],
)
def test_bad_input_is_refused(x, error, words):
    network, _ = small("residual", dtype=torch.float32)
    with pytest.raises(error, match=words):
        graph.trace(network, x)


def test_training_mode_is_refused_and_named():
    network, x = small("residual")
    network[2].bn2.train()
    with pytest.raises(ValueError, match=r"'2\.bn2' is in training mode; call model\.eval"):
        graph.trace(network, x)
    with pytest.raises(TypeError, match=r"nn\.Module"):
        graph.trace(lambda x: x, x)
