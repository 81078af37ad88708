"""What every method takes: a module or a Graph, one of several outputs, and any network at all."""

import copy

import pytest
import torch
import torch.nn.functional as F
from small_networks import CONTRASTIVE, FAST, Residual, prepared, small
from torch import nn

from xaiutils import attribution, graph
from xaiutils.attribution import COMPOSITES, LABEL_FREE, METHODS, ZPlus

LAYERED = ("grad_cam_plus_plus", "score_cam", "ablation_cam", "xgrad_cam")
GRADIENTS = ("gradient", "sensitivity", "input_x_gradient", "smoothgrad", "integrated_gradients")
NEED_BENDS = ("deconvnet", "guided_backprop", "dmbp")


def run(name, network, x, target, **options):
    return METHODS[name](network, x, target, **FAST.get(name, {}), **options)


def cosine(a, b):
    return float(F.cosine_similarity(a.double().flatten(), b.double().flatten(), dim=0))


# ------------------------------------------------------------------------- a graph for a module


@pytest.mark.parametrize("network", ["residual", "bottleneck"])
def test_a_graph_does_in_place_of_its_module(network):
    network, x = small(network)
    traced = graph.trace(network, x)
    for name in METHODS:
        expected = run(name, network, x, [1, 0, 2])
        torch.testing.assert_close(run(name, traced, x, [1, 0, 2]), expected, msg=name)
        torch.testing.assert_close(
            run(name, traced, x[:1], None, batch_size=1), run(name, network, x[:1], None)
        )


def test_a_graph_is_read_once(monkeypatch):
    network, x = small("residual")
    traced = graph.trace(network, x)
    monkeypatch.setattr(graph, "trace", lambda *_, **__: pytest.fail("read again"))
    for name in METHODS:
        run(name, traced, x, 0)


def test_inputs_that_a_graph_does_not_fit_are_refused_first():
    network, x = small("residual")
    traced = graph.trace(network, x)
    wrong = (
        (x[..., :8], ValueError, r"the graph is for inputs of shape \(N, 3, 9, 9\)"),
        (x.float(), TypeError, "x is torch.float32 but the graph is torch.float64"),
        (x.long(), TypeError, "must hold floating-point numbers"),
        (x * torch.inf, ValueError, "NaN or infinite"),
        ([x, x], TypeError, "must be a torch.Tensor, not list"),
    )
    for name in METHODS:
        for bad, error, words in wrong:
            with pytest.raises(error, match=words):
                run(name, traced, bad, 0)
        with pytest.raises(ValueError, match=r"choose it there: graph.trace\(model, x, output"):
            run(name, traced, x, 0, output=0)
        with pytest.raises(ValueError, match="from 0 to 3"):
            run(name, traced, x, 4)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16])
def test_a_graph_notices_that_its_weights_have_changed(dtype):
    network, x = small("residual", dtype=dtype)
    traced = graph.trace(network, x)
    with torch.no_grad():
        network[-1].weight.mul_(2)
    for name in METHODS:
        with pytest.raises(ValueError, match="weights were changed after it was traced"):
            run(name, traced, x, 0)


def test_a_graph_in_half_precision_is_explained_in_float32():
    network, x = small("residual", dtype=torch.float16)
    traced = graph.trace(network, x)
    for name in METHODS:
        found = run(name, traced, x, 0)
        assert found.dtype == torch.float32, name
        expected = run(name, network, x, 0)
        # A CAM reads a layer within, for which BatchNorm is not folded; in the graph it was, in
        # half precision.
        slack = 2e-3 * float(expected.abs().max()) if name in LAYERED else 1e-5
        torch.testing.assert_close(found, expected, rtol=1.3e-6, atol=slack, msg=name)


def test_rules_for_a_graph_are_named_by_anything_but_types_of_modules():
    network, x = small("residual")
    traced = graph.trace(network, x)
    for key in (0, "2.conv1", graph.Dense):
        found = attribution.lrp(traced, x, 0, {key: ZPlus()})
        assert torch.equal(found, attribution.lrp(network, x, 0, {key: ZPlus()}))
    for key in (nn.Conv2d, nn.Module):
        with pytest.raises(ValueError, match=f"does not know which of its layers a {key.__name__}"):
            attribution.lrp(traced, x, 0, {key: ZPlus()})


def test_rules_for_a_wrapped_network_are_named_as_for_the_one_inside():
    network, x = small("residual")
    for outside in (torch.compile(network), nn.DataParallel(network)):
        for key in (0, "2.conv1", nn.Conv2d, nn.Linear, type(network[2])):
            found = attribution.lrp(outside.eval(), x, 0, {key: ZPlus()})
            assert torch.equal(found, attribution.lrp(network, x, 0, {key: ZPlus()})), key


def test_a_layer_into_which_a_batch_norm_was_folded_has_no_output_in_the_graph():
    network, x = small("bottleneck")
    folded, plain = graph.trace(network, x), graph.trace(network, x, fold=False)
    for layer in ("1", "2", "6", "7", "8"):
        expected = attribution.grad_cam(network, x, 0, layer)
        torch.testing.assert_close(attribution.grad_cam(plain, x, 0, layer), expected)
        if layer in ("6",):
            with pytest.raises(ValueError, match=r"'7' was folded into it: .* fold=False"):
                attribution.grad_cam(folded, x, 0, layer)
        else:
            torch.testing.assert_close(attribution.grad_cam(folded, x, 0, layer), expected)


def encoder():
    torch.manual_seed(0)
    layers = (nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten())
    return prepared(nn.Sequential(*layers, nn.Linear(256, 2))), torch.randn(2, 3, 8, 8).double()


def test_maps_of_an_encoder_take_its_graph_and_the_decoder_itself():
    network, x = encoder()
    traced = graph.trace(network, x, fold=False)
    for name, method in LABEL_FREE.items():
        options = {"samples": 5} if name == "relax" else {}
        torch.testing.assert_close(method(traced, x, **options), method(network, x, **options))
    decoder = nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 192)).double().eval()
    found = attribution.grad_lam(traced, decoder, x)
    torch.testing.assert_close(found.aggregate, attribution.grad_lam(network, decoder, x).aggregate)
    relus = nn.Sequential(nn.Linear(2, 8), nn.ReLU(), nn.Linear(8, 192)).double().eval()
    with pytest.raises(TypeError, match=r"the decoder must be the torch\.nn\.Module itself, not a"):
        attribution.grad_lam(traced, graph.trace(relus, x.new_zeros(1, 2)), x)


# ------------------------------------------------------------------------- one of several outputs


class TwoHeads(nn.Module):
    """Returns a dict of class scores and of scores at each place."""

    def __init__(self, wrapped=dict):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2))
        self.maps = nn.Conv2d(6, 4, 1)
        self.classes = nn.Linear(6, 5)
        self.wrapped = wrapped

    def forward(self, x):
        x = self.body(x)
        found = {"classes": self.classes(x.mean((2, 3))), "maps": self.maps(x)}
        return found if self.wrapped is dict else self.wrapped(found.values())


class Part(nn.Module):
    """One output of a network, by a module of its own."""

    def __init__(self, network, choice):
        super().__init__()
        self.network, self.choice = network, choice

    def forward(self, x):
        return self.choice(self.network(x))


@pytest.mark.parametrize(
    ("wrapped", "output", "target", "choice"),
    [
        (dict, "classes", [4, 0], lambda y: y["classes"]),
        (dict, "maps", (3, 1, 2), lambda y: y["maps"]),
        (tuple, 0, 4, lambda y: y[0]),
        (list, -1, (3, 1, 2), lambda y: y[1]),
        (dict, lambda y: y["maps"].mean((2, 3)), 3, lambda y: y["maps"].mean((2, 3))),
        (tuple, lambda y: y[1].mean((1, 2, 3)) - y[0][:, 2], None, None),
    ],
)
def test_one_of_several_outputs_is_explained(wrapped, output, target, choice):
    torch.manual_seed(0)
    network, x = prepared(TwoHeads(wrapped)), torch.randn(2, 3, 8, 8, dtype=torch.float64)
    alone = Part(network, choice or output).eval()
    classes = choice is not None and choice(network(x)).ndim == 2
    for name in METHODS:
        if name in CONTRASTIVE and not classes:
            with pytest.raises(ValueError, match="two classes or more"):
                run(name, network, x, target, output=output)
            continue
        found = run(name, network, x, target, output=output)
        torch.testing.assert_close(found, run(name, alone, x, target), msg=name)


def test_without_a_choice_among_several_outputs_all_methods_ask_for_one():
    network, x = prepared(TwoHeads()), torch.randn(2, 3, 8, 8, dtype=torch.float64)
    for name in METHODS:
        with pytest.raises(graph.UnsupportedOperation, match=r"choose one.*output='classes'"):
            run(name, network, x, 0)
        with pytest.raises(graph.UnsupportedOperation, match="output='classes'"):
            run(name, network, x, 0, output="clases")
        with pytest.raises(TypeError, match="output must be a name"):
            run(name, network, x, 0, output=1.5)


def test_of_several_inputs_a_graph_is_made_that_takes_them_as_one():
    class Pair(nn.Module):
        def __init__(self):
            super().__init__()
            self.left, self.right = nn.Linear(12, 6), nn.Linear(5, 6)
            self.out = nn.Linear(6, 3)

        def forward(self, image, numbers):
            return self.out(F.relu(self.left(image.flatten(1)) + self.right(numbers)))

    torch.manual_seed(0)
    network = prepared(Pair())
    inputs = (torch.randn(2, 3, 2, 2).double(), torch.randn(2, 5).double())
    traced, packed = graph.trace(network, inputs), graph.pack(inputs)
    shapes = [each.shape[1:] for each in inputs]
    given = [each.clone().requires_grad_() for each in inputs]
    slopes = torch.autograd.grad(network(*given)[:, 1].sum(), given)
    found = graph.unpack(attribution.gradient(traced, packed, 1), shapes)
    for part, expected in zip(found, slopes, strict=True):
        torch.testing.assert_close(part, expected)
    heatmap, report = attribution.lrp(traced, packed, 1, "epsilon", return_report=True)
    assert float(report.relative_gap.max()) < 1e-12
    assert [part.shape for part in graph.unpack(heatmap, shapes)] == [x.shape for x in inputs]


# ---------------------------------------------------------------------- networks that are not read


class Deciding(nn.Module):
    """Decides by the numbers in a tensor what to compute, which no graph can hold."""

    def forward(self, x):
        return x.cumprod(1) if bool((x < 1e9).all()) else x


def unread(dtype=torch.float64, *before):
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(inplace=True), *before]
    layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3), Deciding()]
    return prepared(nn.Sequential(*layers), dtype=dtype), torch.randn(2, 3, 6, 6).to(dtype)


@pytest.fixture
def refused(monkeypatch):
    """Let no network be read."""

    def refuse(*_, **__):
        raise graph.UnsupportedOperation("not read")

    def switch():
        monkeypatch.setattr(graph, "trace", refuse)

    return switch


@pytest.mark.parametrize("network", ["residual", "functional", "bottleneck", "sequence"])
def test_autograd_gives_what_the_graph_gives(network, refused):
    network, x = small(network)
    layer = {"layer": "2"} if isinstance(network, nn.Sequential) else {"layer": "norm"}
    names = [*GRADIENTS, "grad_cam"]
    targets = (None, [1, 0, 2], 1)
    options = {"grad_cam": layer}

    def all_of_them():
        return [
            METHODS[name](network, x, target, **FAST.get(name, {}), **options.get(name, {}))
            for name in names
            for target in targets
        ]

    expected = all_of_them()
    whole, gap = attribution.integrated_gradients(network, x, return_convergence_delta=True)
    refused()
    with pytest.raises(graph.UnsupportedOperation, match="not read"):
        METHODS["lrp"](network, x, 0)
    for found, wanted in zip(all_of_them(), expected, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-10)
        assert not found.requires_grad
    again, second = attribution.integrated_gradients(
        network, x, return_convergence_delta=True, batch_size=2
    )
    torch.testing.assert_close((again, second), (whole, gap), rtol=1e-10, atol=1e-10)


def test_a_network_that_is_not_read_is_differentiated():
    network, x = unread()
    given = x.clone().requires_grad_()
    (expected,) = torch.autograd.grad(network(given)[:, 2].sum(), given)
    found = attribution.gradient(network, x, 2)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)
    with pytest.raises(ValueError, match="target must be from 0 to 2"):
        attribution.gradient(network, x, 3)
    path, gap = attribution.integrated_gradients(
        network, x, 2, n_steps=200, return_convergence_delta=True
    )
    rise = (network(x) - network(torch.zeros_like(x)))[:, 2].detach()
    torch.testing.assert_close(path.sum((1, 2, 3)) - rise, gap)
    assert bool((gap.abs() < 1e-3).all())
    network[-1].register_forward_hook(lambda module, inputs, y: {"scores": y, "more": y[:, :1]})
    torch.testing.assert_close(attribution.gradient(network, x, 2, output="scores"), found)
    any_number = attribution.gradient(network, x, output=lambda y: y["scores"].logsumexp(1))
    assert any_number.shape == x.shape


def test_grad_cam_of_a_network_that_is_not_read_needs_the_name_of_a_layer():
    network, x = unread()
    for layer in ("0", "1", "2"):  # the ReLU works in place: the layer before keeps its own value
        inner = network[: int(layer) + 1](x).detach().requires_grad_()
        rest = network[int(layer) + 1 :]
        slopes = torch.autograd.grad(rest(inner.clone())[:, 1].sum(), inner)[0]
        kept = network[: int(layer) + 1](x)
        cam = (slopes.mean((2, 3), keepdim=True) * kept).sum(1, keepdim=True).relu().detach()
        torch.testing.assert_close(attribution.grad_cam(network, x, 1, layer), cam)
    with pytest.raises(graph.TraceError, match="decides by the values"):
        attribution.grad_cam(network, x, 1)
    with pytest.raises(ValueError, match=r"no layer 'body' .* its modules are: 0, 1"):
        attribution.grad_cam(network, x, 1, "body")
    with pytest.raises(ValueError, match="layer '5' has no feature maps"):
        attribution.grad_cam(network, x, 1, "5")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_autograd_in_half_precision_computes_in_float32_where_it_can(dtype):
    network, x = unread(dtype)
    exact = copy.deepcopy(network).float()
    found = attribution.gradient(network, x, 1)
    torch.testing.assert_close(found, attribution.gradient(exact, x.float(), 1))
    assert all(t.dtype == dtype for t in network.state_dict().values() if t.is_floating_point())

    class Half(nn.Module):
        def forward(self, y):
            return F.linear(y.movedim(1, -1), torch.ones(4, 4, dtype=dtype)).movedim(-1, 1)

    fixed, x = unread(dtype, Half())  # it runs in its own type alone
    found = attribution.gradient(fixed, x, 1)
    assert found.dtype == torch.float32
    given = x.clone().requires_grad_()
    (expected,) = torch.autograd.grad(fixed(given)[:, 1].sum(), given)
    assert cosine(found, expected) > 0.99


def test_autograd_leaves_the_network_and_the_random_numbers_alone():
    calls = []

    class Counting(nn.Module):
        def forward(self, x):
            self.seen = x
            return x.cumprod(1) + torch.rand_like(x)

    network, x = unread()
    network[-1] = Counting().eval()
    network[0].register_forward_hook(lambda *_: None)
    network[0].register_full_backward_hook(lambda *_: calls.append("backward"))
    network[0].weight.register_hook(lambda _: calls.append("weight"))
    network[3].weight = None
    network[1].bias.requires_grad_(False)
    network[0].bias.grad = torch.ones_like(network[0].bias)
    x.requires_grad_()
    before = copy.deepcopy(network.state_dict())
    flags = [p.requires_grad for p in network.parameters()]
    hooks = [dict(part._forward_hooks) for part in network.modules()]
    state = torch.get_rng_state()
    for name in GRADIENTS:
        assert not run(name, network, x, 1).requires_grad
    attribution.grad_cam(network, x, 1, "2")
    assert torch.equal(state, torch.get_rng_state())
    assert not hasattr(network[-1], "seen")
    assert not calls
    assert x.grad is None
    assert [p.requires_grad for p in network.parameters()] == flags
    assert [dict(part._forward_hooks) for part in network.modules()] == hooks
    assert all(torch.equal(before[k], v) for k, v in network.state_dict().items())
    assert torch.equal(network[0].bias.grad, torch.ones_like(network[0].bias))
    assert all(p.grad is None for p in network.parameters() if p is not network[0].bias)


def test_autograd_works_in_inference_mode_and_on_weights_that_were_made_in_it():
    network, x = unread()
    expected = attribution.gradient(network, x, 1)
    with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(attribution.gradient(network, x.clone(), 1), expected)
        network, x = unread()
    torch.testing.assert_close(attribution.gradient(network, x, 1), expected)


def test_what_not_even_autograd_can_follow_is_refused_with_the_reason():
    class Cut(nn.Module):
        def forward(self, x):
            return x.detach() if bool((x < 1e9).all()) else x

    network, x = unread()
    network[-1] = Cut().eval()
    with pytest.raises(ValueError, match="does not depend on x in a way that can be diff"):
        attribution.gradient(network, x, 0)

    class Broken(nn.Module):
        def forward(self, x):
            raise RuntimeError("does not run")

    network[-1] = Broken().eval()
    with pytest.raises(graph.TraceError, match="does not run"):
        attribution.gradient(network, x, 0)


@pytest.mark.filterwarnings("ignore:.*torch.jit.*:FutureWarning", "ignore::DeprecationWarning")
def test_what_torch_jit_has_made_is_differentiated():
    network, x = small("bottleneck")
    scripted = torch.jit.trace(network, x)
    torch.testing.assert_close(
        attribution.gradient(scripted, x, 1), attribution.gradient(network, x, 1)
    )


# ------------------------------------------------------------ smooth gates, products, attention


class Scaled(nn.Module):
    """Squeeze and excitation: each channel times a gate that is computed from the whole map."""

    def __init__(self, channels):
        super().__init__()
        self.down, self.up = nn.Conv2d(channels, 2, 1), nn.Conv2d(2, channels, 1)

    def forward(self, x):
        return x * self.up(F.silu(self.down(x.mean((2, 3), keepdim=True)))).sigmoid()


class ChannelsLast(nn.Module):
    """A block as in ConvNeXt, and a head that normalises what was pooled."""

    def __init__(self):
        super().__init__()
        self.conv, self.wide = nn.Conv2d(6, 6, 3, padding=1, groups=6), nn.Linear(6, 12)
        self.norm, self.narrow = nn.LayerNorm(6), nn.Linear(12, 6)
        self.last, self.fc = nn.LayerNorm(6), nn.Linear(6, 4)

    def forward(self, x):
        y = self.norm(self.conv(x).permute(0, 2, 3, 1))
        x = x + self.narrow(F.gelu(self.wide(y))).permute(0, 3, 1, 2)
        y = self.last(F.adaptive_avg_pool2d(x, 1).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        return self.fc(y.flatten(1))


class Tokens(nn.Module):
    """Patches, one block of attention with a constant matrix in it, and the mean of the tokens."""

    def __init__(self):
        super().__init__()
        self.patches, self.fc = nn.Conv2d(3, 8, 4, 4), nn.Linear(8, 4)
        self.mix = nn.Parameter(torch.randn(8, 8))

    def forward(self, x):
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = x + (x @ x.transpose(1, 2)).softmax(-1) @ (x @ self.mix)
        return self.fc(x.mean(1))


def smooth(dtype=torch.float64):
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6), nn.SiLU(), Scaled(6)]
    network = nn.Sequential(*layers, nn.Conv2d(6, 6, 1), nn.Hardswish(), ChannelsLast())
    return prepared(network, dtype=dtype), torch.randn(2, 3, 8, 8).to(dtype)


def tokens(dtype=torch.float64):
    torch.manual_seed(0)
    return prepared(Tokens(), dtype=dtype), torch.randn(2, 3, 12, 12).to(dtype)


@pytest.mark.parametrize("make", [smooth, tokens])
def test_gradients_of_smooth_networks_are_those_of_autograd(make, refused):
    network, x = make()
    expected = [run(name, network, x, [1, 0]) for name in GRADIENTS]
    camera = [attribution.grad_cam(network, x, 1, "3")] if make is smooth else []
    refused()
    found = [run(name, network, x, [1, 0]) for name in GRADIENTS]
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)
    if make is smooth:
        again = [attribution.grad_cam(network, x, 1, "3")]
        torch.testing.assert_close(again, camera, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(
    ("make", "first"), [(smooth, "silu in '2'.* side of a bend"), (tokens, "numbers at once")]
)
def test_methods_for_straight_pieces_refuse_anything_else_and_say_where(make, first):
    network, x = make()
    for name in (*NEED_BENDS, "deconvnet_l2", "dmbp_greedy"):
        with pytest.raises(graph.UnsupportedOperation, match=first) as caught:
            run(name, network, x, 0)
        assert "Take gradient, smoothgrad" in str(caught.value)
    layers = [nn.Conv2d(3, 4, 3), nn.LeakyReLU(), nn.Hardtanh(), nn.MaxPool2d(2), nn.Flatten()]
    straight = prepared(nn.Sequential(*layers, nn.Linear(36, 4)))
    learned = prepared(nn.Sequential(layers[0], nn.PReLU(), *layers[2:], straight[-1]))
    for name in NEED_BENDS:
        assert run(name, straight, x[..., :8, :8], 0).shape == (2, 3, 8, 8)
        with pytest.raises(graph.UnsupportedOperation, match="learned slopes are told by its inp"):
            run(name, learned, x[..., :8, :8], 0)


@pytest.mark.parametrize("make", [smooth, tokens])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_smooth_network_in_half_precision_is_explained_in_float32(make, dtype):
    network, x = make(dtype)
    exact = copy.deepcopy(network).float()
    for name in (*GRADIENTS, "lrp", "lrp_epsilon", *(["grad_cam"] if make is smooth else [])):
        found, expected = run(name, network, x, 1), run(name, exact, x.float(), 1)
        assert found.dtype == torch.float32
        assert cosine(found, expected) > (0.999 if name in GRADIENTS else 0.95), name
        assert torch.equal(
            run(name, graph.trace(network, x, fold=False), x, 1).isnan(), found.isnan()
        )


def test_the_default_layer_is_a_map_and_neither_tokens_nor_channels_last():
    network, x = smooth()
    found = attribution.grad_cam(network, x, 1)
    traced = graph.trace(network, x, fold=False)
    (addition,) = [
        n for n in traced.nodes if n.module == "6" and isinstance(n.operation, graph.Add)
    ]
    torch.testing.assert_close(found, attribution.grad_cam(traced, x, 1, addition.name))
    network, x = tokens()
    with pytest.raises(ValueError, match="but tokens that are computed from them; name a layer"):
        attribution.grad_cam(network, x, 1)
    assert attribution.grad_cam(network, x, 1, "patches").shape == (2, 1, 12, 12)


def test_maps_of_a_smooth_encoder_from_their_definition():
    """What is read behind the layer, by products and smooth gates, may lie before it."""

    class Encoder(nn.Module):
        def __init__(self):
            super().__init__()
            self.gate, self.conv = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 4, 3, padding=1)
            self.fc = nn.Linear(4, 3)

        def forward(self, x):
            gate = self.gate(x).sigmoid()
            return self.fc(self.rest(self.conv(x), gate))

        def rest(self, maps, gate):
            return (F.gelu(maps) * gate).mean((2, 3))

    torch.manual_seed(0)
    network, x = prepared(Encoder()), torch.randn(2, 3, 6, 6).double()
    found = attribution.grad_lam(network, None, x, "conv", "uniform")
    maps = network.conv(x).detach().requires_grad_()
    codes = network.fc(network.rest(maps, network.gate(x).sigmoid()))
    for latent in range(3):
        (slopes,) = torch.autograd.grad(codes[:, latent].sum(), maps, retain_graph=True)
        expected = (slopes.mean((2, 3), keepdim=True) * maps).sum(1).detach()
        torch.testing.assert_close(found.maps[:, latent], expected)


# ------------------------------------------------------- relevance from, to and by way of a layer


def deep(**options):
    """A network with shortcuts inside of its third and fourth layer, and none around them."""
    torch.manual_seed(1)
    layers = [nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(inplace=True)]
    layers += [Residual(6), Residual(6), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 4)]
    return prepared(nn.Sequential(*layers), **options), torch.randn(3, 3, 8, 8).double()


@pytest.mark.parametrize("composite", COMPOSITES)
def test_relevance_at_a_layer_passed_on_is_relevance_at_the_input(composite):
    network, x = deep()
    whole, report = attribution.lrp(network, x, 1, composite, return_report=True)
    for layer in ("0", "1", "2", "3", "4", "5", "6"):  # no shortcut leads around any of them
        inner, upper = attribution.lrp(network, x, 1, composite, until=layer, return_report=True)
        node = graph.trace(network, x).find(layer)
        assert inner.shape == (3, *node.shape)
        again, lower = attribution.lrp(
            network, x, None, composite, start_layer=layer, start=inner, return_report=True
        )
        torch.testing.assert_close(again, whole)
        torch.testing.assert_close(upper.at_input, lower.start)
        torch.testing.assert_close(upper.absorbed + lower.absorbed, report.absorbed)
        assert float(torch.cat([upper.relative_gap, lower.relative_gap]).max()) < 1e-6
        assert not bool(upper.excluded.any())


def test_relevance_at_a_layer_without_biases_is_activation_times_gradient():
    network, x = deep()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.zero_()
        if getattr(module, "bias", None) is not None:
            module.bias.data.zero_()
    inner = network[:4](x).detach().requires_grad_()
    (slopes,) = torch.autograd.grad(network[4:](inner.clone())[:, 2].sum(), inner)
    rules = attribution.Composite(*[attribution.Epsilon(0.0)] * 2, other=attribution.Epsilon(0.0))
    found = attribution.lrp(network, x, 2, rules, until="3")
    torch.testing.assert_close(found, (inner * slopes).detach())
    started = attribution.lrp(network, x, None, rules, start_layer="3", until="3")
    torch.testing.assert_close(started, inner.detach())


@pytest.mark.parametrize("composite", COMPOSITES)
def test_maps_of_single_channels_add_up_to_the_map(composite):
    network, x = deep()
    whole = attribution.lrp(network, x, 1, composite)
    at_layer = attribution.lrp(network, x, 1, composite, until="3")
    maps = []
    for channel in range(6):
        found, report = attribution.lrp(
            network, x, 1, composite, conditions={"3": [channel]}, return_report=True
        )
        maps.append(found)
        (row,) = [layer for layer in report.layers if layer.kind == "condition"]
        assert (row.name, row.rule) == ("3.relu#2", f"channels [{channel}]")
        kept = at_layer[:, channel].sum((1, 2))
        torch.testing.assert_close(row.at_input, kept)
        torch.testing.assert_close(report.excluded, at_layer.sum((1, 2, 3)) - kept)
        torch.testing.assert_close(
            report.start - report.at_input, report.absorbed, rtol=1e-6, atol=1e-9
        )
        only = torch.zeros_like(at_layer)
        only[:, channel] = at_layer[:, channel]
        torch.testing.assert_close(
            attribution.lrp(network, x, None, composite, start_layer="3", start=only), found
        )
    torch.testing.assert_close(sum(maps), whole)


def test_conditions_at_several_layers_and_masks():
    network, x = deep()
    conditions = {"3": [0, 2, 5], "2": [1]}
    found, report = attribution.lrp(network, x, 1, conditions=conditions, return_report=True)
    upper = attribution.lrp(network, x, 1, until="3") * _only([0, 2, 5])
    middle = attribution.lrp(network, x, start_layer="3", start=upper, until="2") * _only([1])
    expected = attribution.lrp(network, x, start_layer="2", start=middle)
    torch.testing.assert_close(found, expected)
    names = [layer.rule for layer in report.layers if layer.kind == "condition"]
    assert names == ["channels [0, 2, 5]", "channels [1]"]
    assert float(report.relative_gap.max()) < 1e-10
    frame = report.to_frame()
    assert float(frame.excluded.sum()) == pytest.approx(float(report.excluded[0]))
    chunks = attribution.lrp(network, x, 1, conditions=conditions, batch_size=2)
    torch.testing.assert_close(chunks, found)
    traced = graph.trace(network, x)
    torch.testing.assert_close(attribution.lrp(traced, x, 1, conditions=conditions), found)
    everything = {"3": torch.arange(6)}
    torch.testing.assert_close(
        attribution.lrp(network, x, 1, conditions=everything), attribution.lrp(network, x, 1)
    )
    mask = torch.zeros(6, 8, 8, dtype=torch.bool)
    mask[2, 3:5, 1] = True
    by_mask = attribution.lrp(network, x, 1, conditions={"3": mask})
    start = attribution.lrp(network, x, 1, until="3") * mask
    torch.testing.assert_close(by_mask, attribution.lrp(network, x, start_layer="3", start=start))


def _only(channels):
    mask = torch.zeros(1, 6, 1, 1, dtype=torch.float64)
    mask[:, channels] = 1
    return mask


def test_what_goes_around_a_layer_is_stopped_and_counted():
    network, x = deep()
    found, report = attribution.lrp(network, x, 1, conditions={"3.conv1": [3]}, return_report=True)
    at_layer, upper = attribution.lrp(network, x, 1, until="3.conv1", return_report=True)
    shortcut = upper.excluded
    assert bool((shortcut.abs() > 1e-6).all())
    torch.testing.assert_close(
        attribution.lrp(network, x, start_layer="3.conv1", start=at_layer * _only([3])), found
    )
    others = at_layer.sum((1, 2, 3)) - at_layer[:, 3].sum((1, 2))
    torch.testing.assert_close(report.excluded, shortcut + others)
    assert float(upper.relative_gap.max()) < 1e-10
    assert float(report.relative_gap.max()) < 1e-10
    assert [row.rule for row in upper.layers if row.kind == "condition"] == ["all channels"]


def test_relevance_starts_in_channels_of_a_layer_by_its_values():
    network, x = deep()
    value = network[:4](x).detach()
    found, report = attribution.lrp(
        network, x, start_layer="3", conditions={"3": [4]}, return_report=True
    )
    torch.testing.assert_close(report.start, value[:, 4].sum((1, 2)))
    given = attribution.lrp(network, x, start_layer="3", start=value * _only([4]))
    torch.testing.assert_close(found, given)
    assert float(report.relative_gap.max()) < 1e-10
    last = x.contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(attribution.lrp(network, last, 1, until="6").shape, (3, 6))


@pytest.mark.parametrize(
    ("make", "layer"), [(smooth, "3"), (smooth, "5"), (tokens, "patches"), (tokens, "Tokens")]
)
def test_the_account_of_a_way_through_a_smooth_network_closes(make, layer):
    network, x = make()
    traced = graph.trace(network, x)
    additions = [n for n in traced.nodes if isinstance(n.operation, graph.Add)]
    layer = additions[-1].name if layer == "Tokens" else layer
    width = traced.find(layer).shape[0]
    for composite in ("epsilon", "attn_lrp"):
        whole, inner = (attribution.lrp(network, x, 1, composite, until=u) for u in (None, layer))
        again = attribution.lrp(network, x, None, composite, start_layer=layer, start=inner)
        torch.testing.assert_close(again, whole)
        parts = []
        for channel in range(width):
            found, report = attribution.lrp(
                network, x, 1, composite, conditions={layer: [channel]}, return_report=True
            )
            parts.append(found)
            assert float(report.relative_gap.max()) < 1e-9
            assert bool(report.excluded.any())
        torch.testing.assert_close(sum(parts), whole)


def test_ways_that_lead_nowhere_are_refused():
    network, x = deep()
    for options, error, words in (
        ({"until": "9"}, ValueError, "no layer '9'"),
        ({"start_layer": "9"}, ValueError, "no layer '9'"),
        ({"conditions": {"9": [0]}}, ValueError, "no layer '9'"),
        ({"conditions": {"3": [6]}}, ValueError, "channels of '3' are from 0 to 5"),
        ({"conditions": {"3": [-1]}}, ValueError, "channels of '3' are from 0 to 5"),
        ({"conditions": {"3": []}}, TypeError, "must be a list of integers"),
        ({"conditions": {"3": [0.5]}}, TypeError, "must be a list of integers"),
        ({"conditions": {"3": torch.ones(5, dtype=torch.bool)}}, ValueError, "does not fit"),
        ({"conditions": ["3"]}, TypeError, r"must map layers to channels, such as \{'layer3'"),
        ({"start_layer": "2", "until": "4"}, ValueError, "no relevance goes from '2' to '4"),
        ({"until": "3", "conditions": {"2": [0]}}, ValueError, "no relevance goes from '2' to '3"),
        (
            {"start_layer": "2", "conditions": {"3": [0]}},
            ValueError,
            "no relevance goes from '2' to '3",
        ),
        ({"start_layer": "3", "target": 1}, ValueError, "no target to choose"),
        ({"start_layer": "3", "start": torch.ones(3, 4)}, ValueError, r"shape \(3, 6, 8, 8\)"),
    ):
        with pytest.raises(error, match=words):
            attribution.lrp(network, x, **options)
    branches, x = small("dense")
    with pytest.raises(ValueError, match="no relevance goes from 'norm' to 'conv'"):
        attribution.lrp(branches, x, 0, start_layer="norm", until="conv")
