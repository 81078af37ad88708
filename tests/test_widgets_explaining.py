"""Heatmaps that the page makes are those of Python: of a class, and of a class less another."""

import copy

import pytest
import torch
from page_scripts import functions, in_chromium, in_node
from small_networks import prepared
from test_widgets_network import NETWORKS
from test_widgets_perturbation import colourful
from torch import nn

from xaiutils import attribution, data, models
from xaiutils.widgets import PerturbationExplorer, export_network
from xaiutils.widgets._perturbation import RULES, _rivals
from xaiutils.widgets._pictures import levels_of

SCRIPT = functions("network.js", "explaining.js", "pictures.js")
EXPLAIN = """
export async function run({ description, setup, inputs, targets, rules }) {
  const net = loadNetwork(description);
  const asked = { net, setup, breathe: async () => true };
  const maps = (x, target) => rules.map((rule) => explain(rule, { ...asked, input: x, target }));
  const found = await Promise.all(inputs.map((x, k) => Promise.all(maps(x, targets[k]))));
  return found.map((one) => one.map((map) => [...map]));
}
"""


@pytest.fixture(scope="module")
def clf():
    return models.load_classifier("mnist_cnn")


@pytest.fixture(scope="module")
def digits():
    return data.mnist("test", source="embedded", per_class=1).images


# One takes no pictures. The other pools over plateaus that pooling has made: see `without_ties`.
UNFIT = ("deep linear", "random 1")


def without_ties(x):
    """Digits on paper with a grain.

    On an even page neighbours under a max pool are equal, and which of them it takes is settled by
    the last bit, which is the machine's.
    """
    grain = torch.rand(x.shape, generator=torch.Generator().manual_seed(0))
    return (x + 0.02 * grain).clamp(0, 1)


def question(network, x, targets, methods, explorer):
    """What `EXPLAIN` asks for."""
    return {
        "description": export_network(network, x.shape[1:]),
        "setup": {name: explorer.setup[name] for name in ("path", "square", "shape")},
        "inputs": x.flatten(1).tolist(),
        "targets": targets,
        "rules": [RULES[method] for method in methods],
    }


def assert_maps(found, network, x, target, methods, tolerance=1e-4):
    """Each is Python's, in double precision, to `tolerance` of its size."""
    network, x = copy.deepcopy(network).double(), x.double()
    for k, method in enumerate(methods):
        expected = attribution.METHODS[method](network, x, target).sum(1)
        maps = torch.tensor([one[k] for one in found], dtype=torch.float64).reshape(x.shape).sum(1)
        assert expected.flatten(1).any(1).all(), method
        scale = expected.flatten(1).abs().amax(1).view(-1, 1, 1)
        difference = ((maps - expected).abs() / scale).max()
        assert difference <= tolerance, f"{method} is off by {difference:.2g}"


@pytest.mark.parametrize(("place", "explained"), [("node", "class"), ("chromium", "margin")])
def test_maps_of_digits(clf, digits, place, explained, request, tmp_path):
    x, network = without_ties(digits[2::5]), clf.module
    outputs = network(x)
    own = outputs.argmax(1)
    rival = _rivals(outputs, own)
    pairs = torch.stack([own, rival], 1).tolist()
    margin = explained == "margin"
    explorer = PerturbationExplorer(clf, x, ["gradient"])
    asked = question(network, x, pairs if margin else own.tolist(), RULES, explorer)
    if place == "node":
        found = in_node(SCRIPT + EXPLAIN, asked, tmp_path)
    else:
        found = in_chromium(SCRIPT + EXPLAIN, asked, request.getfixturevalue("browser"))
    target = attribution.Difference(own, rival) if margin else own
    assert_maps(found, network, x, target, list(RULES))


@pytest.mark.parametrize("name", [name for name in NETWORKS if name not in UNFIT])
def test_maps_of_small_networks(run_script, name):
    """Of all kinds of layers: leaky, clamped, pools that overlap, strides, groups."""
    make, shape = NETWORKS[name]
    torch.manual_seed(0)
    network = prepared(make(), dtype=torch.float32)
    x = torch.randn(3, *shape)
    x[:, :, :2, :2] = 0  # covered already; so few that no two values under a pool are equal
    preprocess = models.Preprocess(shape[1], shape[2], (0.0,) * shape[0], (1.0,) * shape[0])
    explorer = PerturbationExplorer(network, x, ["gradient"], preprocess=preprocess, region_size=1)
    methods = ["deeplift", "occlusion"]
    asked = question(network, x, [[2, 0], [0, 1], [1, 2]], methods, explorer)
    found = run_script(SCRIPT + EXPLAIN, asked)
    target = attribution.Difference([2, 0, 1], [0, 1, 2])
    assert_maps(found, network, x, target, methods)


def test_maps_and_curves_of_colour_pictures(run_script):
    """One number a pixel, which is the sum over the colours, orders the regions."""
    code = """
    export async function run({ setup, levels, targets }) {
      const { shape: [channels, height, width], methods } = setup;
      const things = levels.map((each, k) => {
        const picture = { levels: Uint8Array.from(each), channels, height, width };
        return { picture, target: targets[k], methods, heatmaps: {} };
      });
      const source = networkSource(setup, ({ image }) => things[image]);
      const options = { onPart: () => {}, isStale: () => false, first: methods[0] };
      const found = [];
      for (const [image, { heatmaps }] of things.entries()) {
        const question = { image, explained: "class", order: "morf", fill: "black", size: 4 };
        const answer = await source.curves(question, options);
        found.push(methods.map((m) => [[...heatmaps.class[m].values], answer[m].scores]));
      }
      return found;
    }
    """
    network, preprocess, x = colourful()
    explorer = PerturbationExplorer(
        network, x, list(RULES), preprocess=preprocess, region_size=4, fills=["black"], steps=9
    )
    asked = {
        "setup": {name: each for name, each in explorer.setup.items() if name != "images"},
        "levels": levels_of(x, preprocess).flatten(1).tolist(),
        "targets": network(x).argmax(1).tolist(),
    }
    files = ("network.js", "explaining.js", "pictures.js", "sources.js", "drawing.js")
    found = run_script(functions(*files, "perturbation.js") + code, asked)
    for image, by_method in enumerate(found):
        maps, scores = explorer.heatmaps(image), explorer.scores(image)
        for (values, curve), name in zip(by_method, RULES, strict=True):
            expected = maps[name].flatten()
            torch.testing.assert_close(torch.tensor(values), expected, rtol=1e-3, atol=1e-4)
            torch.testing.assert_close(torch.tensor(curve), scores[name], rtol=1e-3, atol=1e-4)


def test_without_biases_deeplift_is_gradient_times_input_and_with_them_it_is_not(clf, digits):
    """What the chapter says: with no biases a blank page leaves every unit at zero."""
    bare = copy.deepcopy(clf.module)
    for module in bare.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            nn.init.zeros_(module.bias)
    for network, alike in ((bare, True), (clf.module, False)):
        one, other = (attribution.METHODS[name](network, digits, None).flatten(1)
                      for name in ("deeplift", "input_x_gradient"))  # fmt: skip
        likeness = torch.cosine_similarity(one, other)
        assert (likeness > 1 - 1e-5).all() if alike else (likeness < 0.99).all()


def test_a_reader_who_moves_on_stops_a_map(run_script, clf, digits):
    code = """
    export async function run({ description, setup, inputs, targets, rules }) {
      const net = loadNetwork(description);
      const found = [];
      for (const rule of rules) {
        let asked = 0;
        const breathe = async () => (asked += 1) < 3;
        const input = inputs[0];
        const map = await explain(rule, { net, setup, breathe, input, target: targets[0] });
        found.push([map, asked]);
      }
      return found;
    }
    """
    explorer = PerturbationExplorer(clf, digits[:1], ["gradient"])
    methods = ["integrated_gradients", "occlusion"]
    asked = question(clf.module, digits[:1], [0], methods, explorer)
    assert run_script(SCRIPT + code, asked) == [[None, 3], [None, 3]]
