"""Reading a network: the output that is meant, other image sizes, what is kept in memory."""

from collections import namedtuple
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn

from xaiutils import graph
from xaiutils.graph import reading

Pair = namedtuple("Pair", ["mean", "spread"])


@dataclass
class Returned:
    """As transformers return it."""

    logits: Tensor
    hidden: Tensor


class Several(nn.Module):
    """Returns two outputs in whatever the test wants."""

    def __init__(self, wrap):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())
        self.head = nn.Conv2d(4, 5, 1)
        self.wrap = wrap

    def forward(self, x):
        features = self.body(x)
        return self.wrap(self.head(features), features)


def several(wrap):
    torch.manual_seed(0)
    network = Several(wrap).double().eval()
    return network, torch.randn(2, 3, 6, 7, dtype=torch.float64)


def count_traces(monkeypatch):
    """Return a list that grows by one whenever torch.export is called."""
    traces, real = [], reading.exported
    monkeypatch.setattr(reading, "exported", lambda *a: (traces.append(1), real(*a))[-1])
    return traces


# ------------------------------------------------------------------------------ which output


@pytest.mark.parametrize(
    ("wrap", "output"),
    [
        (lambda a, b: {"out": a, "aux": b}, "out"),
        (lambda a, b: {0: b, 1: a}, 1),
        (lambda a, b: (b, a), 1),
        (lambda a, b: [b, [a]], -1),
        (lambda a, b: Pair(a, b), "mean"),
        (lambda a, b: Pair(b, a), 1),
        (lambda a, b: Returned(a, b), "logits"),
        (lambda a, b: {"out": a, "aux": b}, lambda y: y["out"]),
    ],
)
def test_one_of_several_outputs(wrap, output):
    network, x = several(wrap)
    expected = network.head(network.body(x)).detach()
    torch.testing.assert_close(graph.outputs_of(network, x, output).detach(), expected)
    traced = graph.trace(network, x, output=output)
    torch.testing.assert_close(traced(x), expected)
    assert [node.module for node in traced.nodes[1:]] == ["body.0", "body.1", "head"]


def test_a_mean_over_places_and_one_number():
    network, x = several(lambda a, b: {"out": a, "aux": b})
    means = graph.trace(network, x, output=lambda y: y["out"].mean((2, 3)))
    torch.testing.assert_close(means(x), network(x)["out"].mean((2, 3)).detach())
    one = graph.trace(network, x, output=lambda y: y["out"][:, 2, 1:4, 2:5].mean((1, 2)))
    torch.testing.assert_close(one(x), network(x)["out"][:, 2, 1:4, 2:5].mean((1, 2)).detach())
    assert one.output_shape == ()


def test_each_choice_has_a_structure_of_its_own():
    network, x = several(lambda a, b: (a, b))
    for choice in (0, 1, 0, lambda y: y[1] * 2):
        expected = graph.outputs_of(network, x, choice).detach()
        torch.testing.assert_close(graph.trace(network, x, output=choice)(x), expected)


def test_a_function_made_anew_in_the_same_place_is_not_traced_anew(monkeypatch):
    network, x = several(lambda a, b: (a, b))
    traces = count_traces(monkeypatch)
    for _ in range(3):
        graph.trace(network, x, output=lambda y: y[0].mean((2, 3)))
    assert len(traces) == 1
    for position in (0, 0, 1):  # it uses a variable that changes
        traced = graph.trace(network, x, output=lambda y: y[position] * 2)  # noqa: B023
        torch.testing.assert_close(traced(x), network(x)[position].detach() * 2)
    assert len(traces) == 3


class Scaled:
    """A callable whose factor may be changed."""

    def __init__(self):
        self.factors = [{"deep": [1.0]}]

    def __call__(self, returned):
        return returned[0] * self.factors[0]["deep"][0]


def test_a_callable_that_changes_its_mind():
    network, x = several(lambda a, b: (a, b))
    choice = Scaled()
    for factor in (1.0, 3.0, 3.0):
        choice.factors[0]["deep"][0] = factor
        traced = graph.trace(network, x, output=choice)
        torch.testing.assert_close(traced(x), network(x)[0].detach() * factor)


def test_what_is_remembered_of_a_network_is_bounded():
    network, x = several(lambda a, b: (a, b))
    for number in range(12):
        graph.trace(network, x, output=lambda y, k=number: y[0] * k)
    assert len(reading._memories[network].structures) == 8


def test_the_output_is_chosen_after_the_network_s_own_hooks():
    network, x = several(lambda a, b: {"out": a, "aux": b})
    network.register_forward_hook(lambda module, _, found: {"out": found["out"] * 3, **found})
    network.register_forward_hook(lambda module, _, found: {"sum": found["out"] + 1})
    for choice in (None, "sum"):
        traced = graph.trace(network, x, output=choice)
        torch.testing.assert_close(traced(x), network(x)["sum"].detach())


@pytest.mark.parametrize(
    ("wrap", "output", "words"),
    [
        (lambda a, b: {"out": a, "aux": b}, "oout", r"dict with 'out', 'aux'.*output='out'"),
        (lambda a, b: {"out": a, "aux": b}, 0, r"dict with 'out', 'aux'.*output='out'"),
        (lambda a, b: (a, b), 2, r"tuple of 2 values.*no 2.*output=0"),
        (lambda a, b: (a, b), "out", r"tuple of 2 values.*output=0"),
        (lambda a, b: Pair(a, b), "sprad", r"Pair of 2 values \(mean, spread\).*output='spread'"),
        (lambda a, b: Returned(a, b), "logit", r"Returned with 'logits', 'hidden'.*='logits'"),
        (lambda a, b: a, "out", r"one tensor.*leave output= out"),
        (lambda a, b: {"out": a, "aux": b}, None, r"2 values.*'out', 'aux'.*output='out'"),
        (lambda a, b: {"out": (a, b), "aux": b}, "out", r"2 values, in a tuple of 2"),
        (lambda a, b: {"out": a, "aux": b}, lambda y: y["logits"], r"'aux', which.*KeyError"),
        (lambda a, b: (a, b), lambda y: y[0].shape[1], r"output= made a int"),
        (lambda a, b: (a, b), lambda y: y[0].mean(), r"batch|one row for each image"),
    ],
)
def test_a_choice_that_does_not_fit_says_what_there_is(wrap, output, words):
    network, x = several(wrap)
    for use in (graph.outputs_of, graph.trace):
        with pytest.raises(graph.UnsupportedOperation, match=words):
            use(network, x, output=output)


@pytest.mark.parametrize("output", [1.5, True, ["out"]])
def test_what_is_no_choice_is_a_type_error(output):
    network, x = several(lambda a, b: (a, b))
    for use in (graph.outputs_of, graph.trace):
        with pytest.raises(TypeError, match="output must be a name, a position, a function"):
            use(network, x, output=output)


# ------------------------------------------------------------------------------ several inputs


class Two(nn.Module):
    """An image and a vector: what the vector says is added to the features of the image."""

    def __init__(self):
        super().__init__()
        self.conv, self.words, self.fc = nn.Conv2d(3, 4, 3), nn.Linear(5, 4), nn.Linear(4, 2)

    def forward(self, image, vector):
        features = torch.relu(self.conv(image)).mean((2, 3))
        return {"logits": self.fc(torch.relu(features + self.words(vector))), "features": features}


def two(hooked=False):
    torch.manual_seed(0)
    network = Two().double().eval()
    if hooked:
        network.register_forward_pre_hook(lambda module, inputs: (inputs[0] * 2, inputs[1]))
        network.register_forward_hook(lambda module, inputs, found: {"logits": found["logits"] * 3})
    return network, (torch.randn(2, 3, 6, 5).double(), torch.randn(2, 5).double())


@pytest.mark.parametrize("hooked", [False, True])
def test_several_inputs_are_one(hooked):
    network, inputs = two(hooked)
    traced = graph.trace(network, inputs, output="logits")
    packed = graph.pack(inputs)
    record = traced.record(packed)
    expected = graph.outputs_of(network, inputs, "logits")
    torch.testing.assert_close(record.output, expected.detach())
    if not hooked:
        assert [traced.find(layer).module for layer in ("conv", "fc")] == ["conv", "fc"]

    start = torch.randn_like(expected)
    found = graph.unpack(traced.backward(record, start), [x.shape[1:] for x in inputs])
    given = [x.clone().requires_grad_() for x in inputs]
    gradients = torch.autograd.grad(graph.outputs_of(network, given, "logits"), given, start)
    for mine, theirs in zip(found, gradients, strict=True):
        torch.testing.assert_close(mine, theirs)
    for mine, theirs in zip(
        graph.unpack(packed, [x.shape[1:] for x in inputs]), inputs, strict=True
    ):
        assert torch.equal(mine, theirs)


def test_several_inputs_that_do_not_fit():
    network, (image, vector) = two()
    with pytest.raises(ValueError, match=r"N rows.*\(1, 5\)"):
        graph.trace(network, (image, vector[:1]), output="logits")
    with pytest.raises(TypeError, match="float32 but the model"):
        graph.trace(network, (image.float(), vector), output="logits")
    with pytest.raises(ValueError, match="found none"):
        graph.trace(network, (), output="logits")
    with pytest.raises(TypeError, match=r"must be a torch\.Tensor"):
        graph.trace(network, "image", output="logits")
    with pytest.raises(ValueError, match=r"\(N, 95\).*not \(2, 90\)"):
        graph.unpack(image.flatten(1), [(3, 6, 5), (5,)])
