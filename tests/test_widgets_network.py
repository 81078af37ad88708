"""The network in the page gives PyTorch's answers: logits, gradients and relevance."""

import copy
import json
import re

import pytest
import torch
from page_scripts import functions, in_chromium, in_node
from small_networks import Residual, prepared
from torch import nn

from xaiutils import attribution, data, models
from xaiutils.widgets import NotExportable, export_network
from xaiutils.widgets._common import pack

NETWORK = functions("network.js")
RULES = ("epsilon", "z_plus", "alpha2_beta1")
EXPLAIN = """
export function run({ description, inputs, targets }) {
  const net = loadNetwork(description);
  return inputs.map((x, k) => {
    const { output, record } = net.forward(x);
    const relevance = RULES.map((rule) => [rule, net.lrp(record, targets[k], rule)]);
    const found = { output, gradient: net.gradient(record, targets[k]) };
    return lists({ ...found, ...Object.fromEntries(relevance), softmax: softmax(output) });
  });
}
const RULES = ["epsilon", "z_plus", "alpha2_beta1"];
const lists = (arrays) =>
  Object.fromEntries(Object.entries(arrays).map(([name, values]) => [name, [...values]]));
"""


def question(network, x, targets, **options):
    """What `EXPLAIN` asks for."""
    description = export_network(network, x.shape[1:], **options)
    return {"description": description, "inputs": x.flatten(1).tolist(), "targets": targets}


def assert_answers(answers, network, x, targets, tolerance=1e-4):
    """All that `EXPLAIN` returned is PyTorch's, to `tolerance` of its size, or of 1.

    Heatmaps are compared in double precision: where shares nearly cancel, PyTorch's own are off by
    more than the tolerance in single precision.
    """
    with torch.no_grad():
        output = network(x)
    network, x = copy.deepcopy(network).double(), x.double()
    positions = targets if output.ndim == 2 else _positions(targets, output.shape[1:])
    expected = {
        "output": output,
        "softmax": output.flatten(1).softmax(1),
        "gradient": attribution.gradient(network, x, positions),
    }
    for rule in RULES:
        expected[rule] = attribution.lrp(network, x, positions, rule)
    for name, values in expected.items():
        found = torch.tensor([answer[name] for answer in answers])
        scale = values.flatten(1).abs().amax(1, keepdim=True).clamp(min=1)
        difference = ((found - values.flatten(1)).abs() / scale).max()
        assert difference <= tolerance, f"{name} is off by {difference:.2g}"


def _positions(targets, shape):
    return [
        [int(i) for i in torch.unravel_index(torch.tensor(target), shape)] for target in targets
    ]


# ----------------------------------------------------------------------------- trained networks


@pytest.fixture(scope="module")
def digits():
    found = data.mnist("test", source="embedded")
    picked = [int((found.labels == label).nonzero()[k]) for label in range(10) for k in range(2)]
    return found.images[picked]


@pytest.mark.parametrize("place", ["node", "chromium"])
def test_trained_classifier_explains_digits(place, digits, request, tmp_path):
    network = models.load_classifier("mnist_cnn").module
    targets = network(digits).argmax(1).tolist()
    source = NETWORK + EXPLAIN
    asked = question(network, digits, targets)
    if place == "node":
        answers = in_node(source, asked, tmp_path)
    else:
        answers = in_chromium(source, asked, request.getfixturevalue("browser"))
    assert_answers(answers, network, digits, targets)


def test_targets_other_than_the_winner(run_script, digits):
    network = models.load_classifier("mnist_cnn").module
    targets = list(range(10))
    asked = question(network, digits[:10], targets)
    assert_answers(run_script(NETWORK + EXPLAIN, asked), network, digits[:10], targets)


@pytest.mark.parametrize("name", ["mnist_ae_16", "mnist_vae_16"])
def test_autoencoder_encodes_and_decodes(run_script, digits, name):
    autoencoder = models.load_autoencoder(name)
    x = digits[::4]
    targets = [0, 3, 7, 11, 15]
    encoder = autoencoder.encoder
    assert_answers(
        run_script(NETWORK + EXPLAIN, question(encoder, x, targets)), encoder, x, targets
    )
    with torch.no_grad():
        z = encoder(x)
    pixels = [28 * 14 + 14, 28 * 10 + 13, 28 * 20 + 12, 0, 783]
    decoder = autoencoder.decoder
    answers = run_script(NETWORK + EXPLAIN, question(decoder, z, pixels))
    assert_answers(answers, decoder, z, pixels)


def test_tangent_and_backward_are_the_jacobian(run_script, digits):
    autoencoder = models.load_autoencoder("mnist_ae_16")
    with torch.no_grad():
        z = autoencoder.encoder(digits[:1])
    direction, signal = torch.randn(1, 16), torch.randn(1, 1, 28, 28)
    change = torch.func.jvp(autoencoder.decoder, (z,), (direction,))[1]
    (pulled,) = torch.func.vjp(autoencoder.decoder, z)[1](signal)
    code = """
    export function run({ description, z, direction, signal }) {
      const net = loadNetwork(description);
      const { record } = net.forward(z);
      return [net.tangent(record, direction), net.backward(record, signal)].map((a) => [...a]);
    }
    """
    vectors = {"z": z, "direction": direction, "signal": signal}
    asked = {name: vector.flatten().tolist() for name, vector in vectors.items()}
    description = export_network(autoencoder.decoder, (16,))
    answers = run_script(NETWORK + code, {"description": description, **asked})
    for found, expected in zip(answers, (change, pulled), strict=True):
        torch.testing.assert_close(torch.tensor(found), expected.flatten(), rtol=1e-4, atol=1e-5)


def test_half_precision_halves_the_page_and_keeps_pictures(run_script, digits):
    autoencoder = models.load_autoencoder("mnist_ae_16")
    with torch.no_grad():
        z = autoencoder.encoder(digits)
        expected = autoencoder.decoder(z).flatten(1)
    asked = question(autoencoder.decoder, z, [0] * len(z), dtype="float16")
    full = question(autoencoder.decoder, z, [0] * len(z))
    size, full_size = (len(json.dumps(q["description"])) for q in (asked, full))
    assert size < 0.51 * full_size
    found = torch.tensor([answer["output"] for answer in run_script(NETWORK + EXPLAIN, asked)])
    assert 0 < (found - expected).abs().max() < 1e-2


# ------------------------------------------------------------------------- networks of one's own


def every_kind():
    """Each kind of layer, with strides, groups, paddings and dilations that are not square."""
    return nn.Sequential(
        nn.Conv2d(3, 8, (3, 5), stride=(2, 1), padding=(1, 2), bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU6(),
        nn.Conv2d(8, 12, 3, padding=2, dilation=2, groups=4),
        nn.LeakyReLU(0.1),
        nn.MaxPool2d(3, 2, 1, ceil_mode=True),
        nn.BatchNorm2d(12),
        nn.Upsample(scale_factor=2),
        nn.ConvTranspose2d(12, 6, (3, 2), stride=2, padding=1, output_padding=(1, 0), groups=3),
        nn.BatchNorm2d(6),
        nn.ReLU(),
        nn.Dropout(),
        nn.AvgPool2d(3, 2, 1),
        nn.AdaptiveAvgPool2d((4, 1)),
        nn.Flatten(),
        nn.Linear(24, 12),
        nn.BatchNorm1d(12),
        nn.ReLU(),
        nn.Unflatten(1, (3, 2, 2)),
        nn.AdaptiveMaxPool2d(1),
        nn.Flatten(),
        nn.Linear(3, 4, bias=False),
    )


class Functional(nn.Module):
    """A user's module with functions in its forward pass."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 6, 5)
        self.fc = nn.Linear(6, 3)

    def forward(self, x):
        x = torch.relu(self.conv((x - 0.1307) / 0.3081))
        return self.fc(x.mean((2, 3))).clamp(min=-0.5)


def random_chain(seed):
    """Convolutions, activations and poolings drawn at random; biases and BatchNorm random too."""
    torch.manual_seed(seed)
    pick = torch.Generator().manual_seed(seed)

    def draw(*options):
        return options[int(torch.randint(len(options), (1,), generator=pick))]

    layers, channels = [], 3
    for _ in range(3):
        width, kernel = draw(4, 6, 8), draw(1, 2, 3)
        groups = draw(1, 2) if channels % 2 == 0 else 1
        layers.append(nn.Conv2d(channels, width, kernel, draw(1, 2), kernel // 2, groups=groups))
        layers += draw([], [nn.BatchNorm2d(width)])
        layers += draw([nn.ReLU()], [nn.LeakyReLU(0.2)], [nn.ReLU6()], [])
        layers += draw([], [nn.MaxPool2d(3, 1, 1)], [nn.AvgPool2d(3, 1, 1)])
        channels = width
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 4))


NETWORKS = {
    "every kind": (every_kind, (3, 11, 10)),
    "functional": (Functional, (1, 9, 9)),
    "deep linear": (lambda: nn.Sequential(nn.Linear(7, 5), nn.ReLU(), nn.Linear(5, 3)), (7,)),
    **{f"random {seed}": (lambda seed=seed: random_chain(seed), (3, 9, 9)) for seed in range(8)},
}


@pytest.mark.parametrize("fold", [True, False])
@pytest.mark.parametrize("name", NETWORKS)
def test_small_networks(run_script, name, fold):
    make, shape = NETWORKS[name]
    torch.manual_seed(0)
    network = prepared(make(), dtype=torch.float32)
    x = torch.randn(4, *shape)
    targets = [0, 1, 2, 0]
    answers = run_script(NETWORK + EXPLAIN, question(network, x, targets, fold=fold))
    if not fold:  # another account of the same function: relevance differs
        with torch.no_grad():
            found = torch.tensor([answer["output"] for answer in answers])
            torch.testing.assert_close(found, network(x), rtol=1e-4, atol=1e-4)
        return
    assert_answers(answers, network, x, targets)


# ------------------------------------------------------------------------------------ the errors


REFUSED = {
    "an addition": (nn.Sequential(nn.Conv2d(3, 3, 1), Residual(3)), (3, 4, 4), "1/add"),
    "smooth upsampling": (nn.Sequential(nn.UpsamplingBilinear2d(scale_factor=2)), (1, 3, 3), "'0'"),
    "upsampling by 1.5": (nn.Sequential(nn.Upsample(scale_factor=1.5)), (1, 4, 4), "'0'"),
    "one dimension": (nn.Sequential(nn.Conv1d(1, 2, 3)), (1, 9), r"'0' \(conv1d"),
    "uneven windows": (nn.Sequential(nn.ReLU(), nn.AdaptiveAvgPool2d(2)), (1, 3, 3), "'1'"),
    "padding that is not counted": (
        nn.Sequential(nn.AvgPool2d(2, padding=1, count_include_pad=False)), (1, 4, 4), "'0'",
    ),
    "a linear layer on maps": (nn.Sequential(nn.Linear(4, 2)), (1, 3, 4), r"'0' \(linear"),
    "a softmax": (nn.Sequential(nn.Linear(4, 2), nn.Softmax(1)), (4,), "softmax"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_the_page_cannot_run_is_named(case):
    network, shape, name = REFUSED[case]
    with pytest.raises(NotExportable, match=name):
        export_network(network.eval(), shape)


def test_other_mistakes_are_named():
    with pytest.raises(TypeError, match="Module"):
        export_network("mnist_cnn", (1, 28, 28))
    with pytest.raises(ValueError, match="training mode"):
        export_network(nn.Linear(2, 2), (2,))
    with pytest.raises(ValueError, match=re.escape("3")):
        export_network(nn.Linear(2, 2).eval(), (3,))
    broken = nn.Linear(2, 2).eval()
    nn.init.constant_(broken.weight, torch.nan)
    with pytest.raises(ValueError, match="NaN"):
        export_network(broken, (2,))
    with pytest.raises(ValueError, match="float64"):
        export_network(nn.Linear(2, 2).eval(), (2,), dtype="float64")


def test_mistakes_in_the_page_are_named(run_script):
    code = """
    export function run({ description, unknown }) {
      const net = loadNetwork(description);
      const { record } = net.forward([1, 2]);
      const attempts = [
        () => net.forward([1, 2, 3]),
        () => net.gradient(record, 3),
        () => net.gradient(record, 0.5),
        () => net.lrp(record, 0, "toString"),
        () => net.backward(record, [1]),
        () => loadNetwork(unknown),
      ];
      return attempts.map((attempt) => {
        try { attempt(); } catch (error) { return error.message; }
        return "no error";
      });
    }
    """
    description = export_network(nn.Linear(2, 3).eval(), (2,))
    unknown = {"layers": [{"kind": "magic", "shape": [2]}], "input": [2]}
    messages = run_script(NETWORK + code, {"description": description, "unknown": unknown})
    expected = ["2 numbers, not 3", "from 0 to 2", "from 0 to 2", "toString", "3 numbers", "magic"]
    for message, part in zip(messages, expected, strict=True):
        assert part in message


def test_description_is_json_and_stays_away_from_the_network():
    network = prepared(Functional(), dtype=torch.float32)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    description = export_network(network, (1, 9, 9))
    json.dumps(description, allow_nan=False)
    kinds = [layer["kind"] for layer in description["layers"]]
    assert kinds == ["affine", "affine", "conv2d", "relu", "avg_pool2d", "linear", "clamp"]
    assert description["layers"][-1]["low"] == -0.5
    assert description["layers"][-1]["high"] is None
    weight = next(layer for layer in description["layers"] if layer["kind"] == "linear")["weight"]
    assert weight == pack(network.fc.weight.detach())
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())
