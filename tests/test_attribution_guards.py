"""Attribution is never silently wrong: precision, odd networks and targets, errors that help."""

import copy
import itertools
import math
import pathlib
import warnings

import numpy as np
import pytest
import torch
from PIL import Image
from small_networks import CONTRASTIVE, FAST, prepared, random_network, small
from torch import nn

from xaiutils import attribution, graph, models
from xaiutils.attribution import (
    COMPOSITES,
    LABEL_FREE,
    METHODS,
    AlphaBeta,
    Composite,
    Epsilon,
    Flat,
    Gamma,
    Outcome,
    Rule,
    WSquare,
    ZBox,
    ZPlus,
)
from xaiutils.attribution._cam import feature_layer

COARSE = (torch.float16, torch.bfloat16)


def cosine(a, b):
    return float(nn.functional.cosine_similarity(a.double().flatten(), b.double().flatten(), dim=0))


@pytest.fixture(scope="module")
def chain():
    """A chain with BatchNorm, and images for it, in float32."""
    torch.manual_seed(0)
    layers = []
    for channels in (3, 8, 8):
        layers += [nn.Conv2d(channels, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU6()]
    network = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3))
    return prepared(network, dtype=torch.float32), torch.rand(2, 3, 16, 16)


# ------------------------------------------------------------------------------------- precision


@pytest.mark.parametrize("dtype", COARSE)
def test_a_network_in_half_precision_is_explained_in_float32(chain, dtype):
    network, x = chain
    coarse, y = prepared_copy(network, dtype), x.to(dtype)
    for name, method in METHODS.items():
        options = {"relu": False} if name == "grad_cam" else FAST.get(name, {})
        found = method(coarse, y, 1, **options)
        assert found.dtype == torch.float32, name
        expected = method(prepared_copy(coarse, torch.float32), y.float(), 1, **options)
        if name == "random":
            assert found.shape == expected.shape
        elif not bool(expected.any()):  # of a Grad-CAM that is cut off everywhere
            assert name == "guided_grad_cam"
            assert not bool(found.any())
        else:
            assert cosine(found, expected) > (0.99 if dtype == torch.float16 else 0.9), name


def prepared_copy(network, dtype):
    return copy.deepcopy(network).to(dtype)


@pytest.mark.parametrize("dtype", COARSE)
def test_relevance_that_half_precision_cannot_hold(dtype):
    """Each pixel of this mean gets less than the smallest number of float16."""
    network = nn.Sequential(nn.AvgPool2d(64), nn.Flatten(), nn.Linear(3, 2)).eval()
    network[2].weight.data.fill_(1e-4)
    network[2].bias.data.zero_()
    x = torch.rand(1, 3, 64, 64)
    for composite in COMPOSITES:
        found, report = attribution.lrp(
            network.to(dtype), x.to(dtype), 0, composite, return_report=True
        )
        assert bool((found != 0).any())
        assert float(report.relative_gap) < 1e-3
        assert float(report.at_input) == pytest.approx(float(found.sum()), rel=1e-3)


@pytest.mark.parametrize("dtype", COARSE)
def test_maps_of_an_encoder_in_half_precision(dtype):
    torch.manual_seed(0)
    encoder = nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(256, 2)
    ).eval()
    decoder = nn.Sequential(nn.Linear(2, 8), nn.ReLU(), nn.Linear(8, 192)).eval()
    x = torch.rand(2, 3, 8, 8).to(dtype)
    encoder, decoder = encoder.to(dtype), decoder.to(dtype)
    for weighting in attribution.WEIGHTINGS:
        found = attribution.grad_lam(encoder, decoder, x, weighting=weighting)
        assert found.aggregate.dtype == found.maps.dtype == torch.float32
    for name, method in LABEL_FREE.items():
        assert method(encoder, x, **({"samples": 9} if name == "relax" else {})).dtype == (
            torch.float32
        )
    assert next(decoder.parameters()).dtype == dtype


def test_autocast_and_inference_mode_do_not_reach_the_rules():
    network, x = small("residual", dtype=torch.float32)
    attribution.lrp(network, x, 0)
    expected = {name: METHODS[name](network, x, 0, **FAST.get(name, {})) for name in METHODS}
    for name in METHODS:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            found = METHODS[name](network, x, 0, **FAST.get(name, {}))
        assert torch.equal(found, expected[name]), name
        with torch.inference_mode():
            found = METHODS[name](network, x, 0, **FAST.get(name, {}))
        assert torch.equal(found, expected[name]), name


def test_a_small_opposing_half_that_is_rounding_counts_as_empty():
    """1,000 agreeing contributions, and one that opposes with less than they are rounded by."""
    torch.manual_seed(0)
    layer = nn.Linear(1001, 50, bias=False).eval()
    layer.weight.data.abs_().add_(0.1)
    layer.weight.data[:, -1] = -2e-7 * layer.weight.data[:, :-1].sum(1)
    x = torch.ones(1, 1001)
    for rule in (AlphaBeta(), AlphaBeta(follow_sign=False)):
        for j in range(50):
            _, report = attribution.lrp(layer, x, j, {nn.Linear: rule}, return_report=True)
            assert float(report.relative_gap) < 1e-3


def test_an_account_that_stays_open_is_warned_of():
    """Relevance that a rule loses without counting it; and none where all is counted."""

    class Half(Rule):
        def apply(self, step):
            parts = step.operation.transpose(step.relevance / 2, step.shapes)
            return Outcome(parts)

    network, x = small("residual")
    with pytest.warns(attribution.RelevanceGapWarning, match=r"most at '7' \(.*Half") as caught:
        attribution.lrp(network, x, 0, {"7": Half()}, return_report=True)
    assert caught[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        attribution.lrp(network, x, 0, return_report=True)


def test_a_share_too_large_for_the_type_is_an_error_and_not_dead():
    network = nn.Sequential(nn.Linear(2, 1, bias=False)).eval()
    network[0].weight.data.fill_(1e-20)
    x = torch.full((1, 2), 1e-20)
    for rule in (Epsilon(0.0), ZPlus(), Gamma()):
        for report in (False, True):
            with pytest.raises(FloatingPointError, match=r"relevance overflowed at layer '0' \("):
                attribution.lrp(
                    network, x, 0, {0: rule}, start=torch.ones(1, 1), return_report=report
                )


def test_results_do_not_depend_on_autograd():
    network, x = small("residual")
    x.requires_grad_()
    for name, method in METHODS.items():
        assert not method(network, x, 0, **FAST.get(name, {})).requires_grad, name
    baselines = torch.zeros_like(x).requires_grad_()
    found, gap = attribution.integrated_gradients(
        network, x, 0, baselines=baselines, n_steps=2, return_convergence_delta=True
    )
    assert not found.requires_grad
    assert not gap.requires_grad


# ------------------------------------------------------------- gates, rules, and custom rules


@pytest.mark.parametrize(
    "gate",
    [nn.Hardtanh(0.5, 1.0), nn.Hardtanh(0.2, 9.0), nn.Hardtanh(-1.0, -0.5), nn.LeakyReLU(0.5)],
)
def test_an_activation_that_is_positive_where_its_input_is_not(gate, monkeypatch):
    """The plan says at which places no relevance can arrive; without saying so nothing changes."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.ReLU(), nn.Linear(6, 8), gate, nn.Linear(8, 3))
    network, x = prepared(network), torch.randn(5, 6, dtype=torch.float64)
    found = {c: attribution.lrp(network, x, 0, c) for c in COMPOSITES}
    monkeypatch.setattr(attribution._lrp._Plan, "_positive_from", lambda *_: False)
    for composite, heatmap in found.items():
        torch.testing.assert_close(attribution.lrp(network, x, 0, composite), heatmap)


class Uniform(Rule):
    """Equal shares for all inputs, as a reader would write it: nothing said about zeros."""

    def apply(self, step):
        share = step.operation.reweighted(torch.ones_like)
        count = share.linear(*(torch.ones_like(a) for a in step.inputs))
        return Outcome(share.transpose(step.relevance / count, step.shapes))


def test_a_rule_of_ones_own_needs_to_say_nothing():
    """The same map as the rule of the package, above rules that leave zeros out, and an account."""
    for seed, rule in itertools.product(range(4), (Epsilon(), ZPlus(), Gamma())):
        network, x = random_network(seed)
        below = Composite(rule, rule, affine=rule, other=rule)
        mine, ours = (below.override({-1: r, -2: r}) for r in (Uniform(), Flat()))
        found, report = attribution.lrp(network, x, 1, mine, return_report=True)
        torch.testing.assert_close(found, attribution.lrp(network, x, 1, ours))
        assert bool((report.gap.abs() < 1e-9 * report.start.abs()).all())


def test_a_rule_of_ones_own_among_the_others():
    """An addition's transpose is one tensor for both branches, which other rules overwrite."""
    network, x = small("residual")
    for rule in (Epsilon(), ZPlus(), Gamma()):
        mine, ours = ({nn.Conv2d: rule, graph.Add: r} for r in (Uniform(), Flat()))
        found = attribution.lrp(network, x, 1, mine)
        torch.testing.assert_close(found, attribution.lrp(network, x, 1, ours))


def rules_of(network, x, composite):
    _, report = attribution.lrp(network, x, 0, composite, return_report=True)
    return {layer.name: layer.rule for layer in report.layers if layer.rule != "copy"}


def test_the_nearest_path_wins_in_any_order():
    network, x = small("residual")
    rules = {"2": ZPlus(), "2.conv2": Gamma(), "2/add": WSquare()}
    for order in itertools.permutations(rules.items()):
        found = rules_of(network, x, dict(order))
        assert found["2.conv1"] == repr(ZPlus())
        assert found["2.conv2"] == repr(Gamma())
        assert found["2/add"] == repr(WSquare())
        assert found["3.conv2"] == repr(Epsilon())
    chained = COMPOSITES["epsilon"].override({"2.conv2": Gamma()}).override({"2": ZPlus()})
    assert rules_of(network, x, chained)["2.conv2"] == repr(Gamma())


def test_the_type_of_a_container_stands_for_all_in_it():
    network, x = small("residual")
    block = type(network[2])
    found = rules_of(network, x, {block: ZPlus()})
    inside = {name for name, rule in found.items() if rule == repr(ZPlus())}
    assert inside == {n for n in found if n[0] in "23"}
    assert "2.conv1" in inside
    for order in itertools.permutations(
        {block: ZPlus(), nn.Conv2d: Gamma(), nn.Module: WSquare(), graph.Add: Flat()}.items()
    ):
        found = rules_of(network, x, dict(order))
        assert found["2.conv1"] == found["1"] == repr(Gamma())
        assert found["2/add"] == repr(Flat())
        assert found["7"] == repr(WSquare())


# ------------------------------------------------------------------------- outputs and targets


class OneNumber(nn.Module):
    """A network that returns one number for each image, (N,), perhaps after a gate."""

    def __init__(self, gated):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(3, 4, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(36, 1)
        )
        self.gated = gated

    def forward(self, x):
        y = self.body(x).squeeze(1)
        return torch.relu(y + 9) if self.gated else y


@pytest.mark.parametrize("gated", [False, True])
def test_one_number_for_each_image(gated):
    torch.manual_seed(0)
    network, x = prepared(OneNumber(gated)), torch.randn(3, 3, 8, 8, dtype=torch.float64)
    for name, method in METHODS.items():
        options = FAST.get(name, {})
        if name in CONTRASTIVE:
            with pytest.raises(ValueError, match="two classes or more"):
                method(network, x, None)
            continue
        expected = method(network, x, None, **options)
        assert expected.shape[0] == 3
        assert bool(torch.isfinite(expected).all())
        for target in (0, [0, 0, 0]):
            torch.testing.assert_close(method(network, x, target, **options), expected)
        chunks = method(network, x, [0] * 3, batch_size=2, **options)
        torch.testing.assert_close(chunks, expected)
        with pytest.raises(ValueError, match="from 0 to 0"):
            method(network, x, 1, **options)
    given = x.clone().requires_grad_()
    slopes = torch.autograd.grad(network(given).sum(), given)[0]
    torch.testing.assert_close(attribution.gradient(network, x), slopes)
    _, report = attribution.lrp(network, x, start=torch.ones(3).double(), return_report=True)
    torch.testing.assert_close(report.at_input + report.absorbed, torch.ones(3).double())
    parts = attribution.dmbp(network, x, iterations=1)
    torch.testing.assert_close(parts.output, network(x).detach())
    assert bool((parts.gap.abs() < 1e-9).all())


class Wrapped(nn.Module):
    def __init__(self, network, wrap):
        super().__init__()
        self.network, self.wrap = network, wrap

    def forward(self, x):
        return self.wrap(self.network(x))


def test_wrapped_outputs_are_unwrapped():
    network, x = small("residual")
    expected = attribution.gradient(network, x, 1)
    for wrap in (lambda y: {"out": y}, lambda y: (y,), lambda y: [y]):
        wrapped = Wrapped(network, wrap).eval()
        assert torch.equal(attribution.gradient(wrapped, x, 1), expected)
        maps = attribution.grad_lam(wrapped, None, x, weighting="uniform").maps
        bare = attribution.grad_lam(network, None, x, weighting="uniform").maps
        assert torch.equal(maps, bare)
        for name, method in LABEL_FREE.items():
            options = {"samples": 3} if name == "relax" else {}
            assert torch.equal(method(wrapped, x, **options), method(network, x, **options))


def test_positions_as_one_tuple_in_chunks():
    """As many images as the tuple has entries: it is still one tuple for all."""
    network = prepared(nn.Sequential(nn.Conv2d(3, 2, 3, padding=1), nn.ReLU()))
    x = torch.randn(3, 3, 5, 5, dtype=torch.float64)
    for name in (
        "gradient",
        "smoothgrad",
        "integrated_gradients",
        "lrp",
        "dmbp",
        "guided_backprop",
    ):
        method, options = METHODS[name], FAST.get(name, {})
        whole = method(network, x, (1, 2, 3), **options)
        for size in (1, 2):
            chunks = method(network, x, (1, 2, 3), batch_size=size, **options)
            torch.testing.assert_close(chunks, whole)
    each = [(1, 2, 3), (0, 0, 0), (1, 4, 4)]
    whole = attribution.lrp(network, x, each)
    torch.testing.assert_close(attribution.lrp(network, x, each, batch_size=2), whole)


# ------------------------------------------------------------------------------ the layer of a CAM


def last_maps(network, x):
    return feature_layer(graph.trace(network, x, fold=False), None)


def segmentation():
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(6, 2, 1),
        nn.Upsample(scale_factor=2, mode="bilinear"),
    )


def head_of_convolutions():
    return nn.Sequential(
        nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.AdaptiveAvgPool2d(1),
        nn.Conv2d(6, 4, 1), nn.ReLU(), nn.Conv2d(4, 3, 1), nn.Flatten(),
    )  # fmt: skip


def averaged_logits():
    """The output convolution before the average, as in SqueezeNet."""
    return nn.Sequential(
        nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Dropout(), nn.Conv2d(6, 3, 1), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(),
    )  # fmt: skip


def pooled_twice():
    return nn.Sequential(
        nn.Conv2d(3, 6, 3), nn.ReLU(), nn.MaxPool2d(2), nn.AdaptiveAvgPool2d(2), nn.Flatten(),
        nn.Linear(24, 5), nn.ReLU(), nn.Linear(5, 3),
    )  # fmt: skip


def only_one():
    return nn.Sequential(
        nn.ReflectionPad2d(1), nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    )


@pytest.mark.parametrize(
    ("make", "layer"),
    [
        (segmentation, "1"),
        (head_of_convolutions, "2"),
        (averaged_logits, "1"),
        (pooled_twice, "1"),
        (only_one, "1"),
    ],
)
def test_the_default_layer_is_the_last_that_is_read(make, layer):
    torch.manual_seed(0)  # a random network may be dead
    network, x = prepared(make(), dtype=torch.float32), torch.randn(2, 3, 8, 8)
    assert last_maps(network, x).name == layer
    target = (0, 0, 0) if make is segmentation else 0
    cam = attribution.grad_cam(network, x, target, relu=False)
    torch.testing.assert_close(
        cam, attribution.grad_cam(network, x, target, layer=layer, relu=False)
    )
    assert float(cam.flatten(1).std(1).min()) > 0  # not one number everywhere
    if make is segmentation:
        logits = attribution.grad_cam(network, x, target, layer="2", relu=False)
        assert cosine(cam, logits) < 0.999


@pytest.mark.parametrize(
    ("name", "channels"),
    [("densenet121", 1024), ("squeezenet1_1", 512), ("resnet18", 512), ("vgg11_bn", 512)],
)
def test_the_default_layer_of_networks_that_people_use(name, channels):
    network = models.load_classifier(name, weights="random").module
    node = last_maps(network, torch.zeros(1, 3, 64, 64))
    assert node.shape[0] == channels
    assert math.prod(node.shape[1:]) > 1
    assert isinstance(node.operation, (graph.ReLU, graph.Concatenate))


def test_no_maps_is_an_error():
    dense = nn.Sequential(nn.Flatten(), nn.Linear(27, 2)).eval()
    with pytest.raises(ValueError, match=r"no convolution whose maps.*name a layer"):
        attribution.grad_cam(dense, torch.randn(1, 3, 3, 3), 0)


# ------------------------------------------------------------------------------- nothing is touched


def test_a_first_operation_in_place_leaves_the_images_alone():
    layers = [nn.ReLU(inplace=True), nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten()]
    network = prepared(nn.Sequential(*layers, nn.Linear(144, 2)))
    x = torch.randn(2, 3, 8, 8, dtype=torch.float64)
    before = x.clone()
    decoder = nn.Linear(2, 4).double().eval()
    for name, method in (METHODS | LABEL_FREE).items():
        options = {"samples": 3} if name in ("relax", "smoothgrad") else FAST.get(name, {})
        method(network, x, **options)
        assert torch.equal(x, before), name
    for weighting in attribution.WEIGHTINGS:
        attribution.grad_lam(network, decoder, x, weighting=weighting)
        assert torch.equal(x, before)


# --------------------------------------------------------------------------------- errors that help


def test_chunks_must_be_whole_numbers():
    encoder, x = small("residual")
    for size in (0, -1, 1.5):
        with pytest.raises(ValueError, match="batch_size must be a whole number"):
            attribution.label_free_gradient(encoder, x, batch_size=size)
        with pytest.raises(ValueError, match="batch_size must be a whole number"):
            attribution.lafam(encoder, x, batch_size=size)
    for name in ("lafam", "label_free_gradient"):
        whole = LABEL_FREE[name](encoder, x)
        chunks = LABEL_FREE[name](encoder, x, batch_size=2)
        torch.testing.assert_close(chunks, whole)


def test_a_composite_that_is_none_says_what_one_is():
    network, x = small("residual")
    for composite in (ZPlus(), ZPlus, None, 3):
        with pytest.raises(TypeError, match=r"composite must be .*Composite\(rule, rule"):
            attribution.lrp(network, x, 0, composite)
    for make, words in (
        (lambda: Composite(ZPlus, Epsilon), r"convolution must be .*write ZPlus\(\)"),
        (lambda: Composite("z_plus", Epsilon()), r"convolution must be .*not 'z_plus'"),
        (lambda: Composite(ZPlus(), None), "dense must be an instance of a rule"),
        (lambda: Composite(ZPlus(), ZPlus(), first=Flat), r"first must be .*write Flat\(\)"),
        (lambda: COMPOSITES["epsilon"].override({"1": "gamma"}), "rule for '1' must be"),
        (lambda: COMPOSITES["epsilon"].override({network[1]: ZPlus()}), "a path, a type or"),
    ):
        with pytest.raises(TypeError, match=words):
            make()
    with pytest.raises(TypeError, match=r"start must be a torch\.Tensor, not list"):
        attribution.lrp(network, x, 0, start=[1.0, 2.0])
    with pytest.raises(ValueError, match="2 bounds for inputs of 3 channels"):
        attribution.lrp(network, x, 0, {0: ZBox((-9.0, -9.0), 9.0)})


def test_an_unknown_name_is_answered_with_the_names():
    for names, wrong, right in (
        (METHODS, "gradcam", "grad_cam"),
        (METHODS, "lrp_zplus", "lrp_z_plus"),
        (LABEL_FREE, "LaFAM", "lafam"),
        (COMPOSITES, "zplus", "z_plus"),
    ):
        with pytest.raises(KeyError, match=right):
            names[wrong]
        assert wrong not in names
        assert names.get(wrong) is None
    with pytest.raises(KeyError, match="did you mean 'grad_cam'"):
        METHODS["gradcam"]


def test_wrong_targets_say_what_a_target_is():
    network, x = small("residual")
    for target in ("tiger cat", ["tiger cat", 1, 2]):
        with pytest.raises(TypeError, match=r"clf\.categories\.index\('tiger cat'\)"):
            attribution.gradient(network, x, target)
    for target in ([[1], [2, 3], [1]], {"cat": 1}, [None, 1, 2]):
        with pytest.raises(TypeError, match="target must be integers"):
            attribution.gradient(network, x, target)


def test_wrong_inputs_say_what_to_do():
    network, x = small("residual")
    picture = Image.new("RGB", (8, 8))
    for wrong, error, words in (
        (picture, TypeError, r"not Image; clf\.batch\(\[image\]\)"),
        ([picture], TypeError, r"not list; clf\.batch\(images\)"),
        (np.zeros((1, 3, 9, 9)), TypeError, r"not ndarray; torch\.from_numpy\(x\)"),
        ({"x": x}, TypeError, "not dict"),
        (torch.zeros(1, 3, 9, 9, dtype=torch.uint8), TypeError, r"clf\.batch\(\[image\]\)"),
        (x[0], ValueError, r"no batch dimension: x\[None\]"),
        (x.permute(0, 2, 3, 1), ValueError, r"x\.permute\(0, 3, 1, 2\)"),
        (x[3:], ValueError, "empty"),
        (x[0, 0, 0], ValueError, r"x\[None\]"),
        (x.float(), TypeError, "convert one of them"),
    ):
        for method in (METHODS["lrp"], METHODS["input_x_gradient"], METHODS["grad_cam"]):
            with pytest.raises(error, match=words):
                method(network, wrong, 0)
    with pytest.raises(ValueError, match="empty") as caught:
        attribution.gradient(network, x[3:], 0)
    assert "x[None]" not in str(caught.value)
    with pytest.raises(TypeError, match=r"not Classifier; pass its \.module"):
        attribution.gradient(models.load_classifier("mnist_cnn"), x, 0)
    with pytest.raises(TypeError, match="the network comes first"):
        attribution.gradient(x, network, 0)


def test_a_network_that_adds_a_dimension_itself_is_not_refused():
    class Grey(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.head = nn.Conv2d(1, 2, 3), nn.Linear(72, 3)

        def forward(self, x):
            return self.head(torch.relu(self.conv(x.unsqueeze(1))).flatten(1))

    x = torch.randn(2, 8, 8)
    assert attribution.gradient(Grey().eval(), x, 0).shape == x.shape


# --------------------------------------------------------------------------------------- warnings


def test_pixels_as_they_are_get_a_warning_at_the_line_that_gave_them():
    network, x = small("residual", dtype=torch.float32)
    raw = (x - x.amin()) / (x.amax() - x.amin()) * 255
    with pytest.warns(attribution.UnpreprocessedWarning, match="from 0 to 255") as caught:
        attribution.lrp(network, raw, 0)
    assert caught[0].filename == __file__
    with warnings.catch_warnings(record=True) as caught:
        warnings.resetwarnings()
        for _ in range(3):
            attribution.gradient(network, raw, 0)  # one line: one warning
        attribution.sensitivity(network, raw, 0)
        attribution.label_free_gradient(network, raw)
    assert [w.category for w in caught] == [attribution.UnpreprocessedWarning] * 3
    assert {pathlib.Path(w.filename).name for w in caught} == {pathlib.Path(__file__).name}


class Scaled(nn.Module):
    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, x):
        return self.network(x / 255)


def test_inputs_that_may_be_right_get_no_warning():
    network, x = small("residual", dtype=torch.float32)
    sequence, steps = small("sequence", dtype=torch.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        attribution.gradient(network, 100 * x, 0)  # centred: some networks are trained on that
        attribution.gradient(network, x.abs(), 0)
        attribution.gradient(Scaled(network).eval(), 255 * x.sigmoid(), 0)
        attribution.gradient(nn.Sequential(nn.BatchNorm2d(3), *network).eval(), 99 * x.abs(), 0)
        attribution.gradient(sequence, 100 * steps.abs(), 0)  # no pictures
