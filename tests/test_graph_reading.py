"""Reading a network: the output that is meant, other image sizes, what is kept in memory."""

import gc
import threading
import weakref
from collections import namedtuple
from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F
from small_networks import REAL, SMALL, real, small
from torch import Tensor, nn

from xaiutils import graph
from xaiutils.graph import comparing, reading
from xaiutils.graph.copying import twin
from xaiutils.graph.recording import Program
from xaiutils.graph.running import undisturbed
from xaiutils.graph.translating import translated
from xaiutils.graph.weights import state_of

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


# ------------------------------------------------------------------------- binding only when needed


def changes():
    """Every way of changing weights, PyTorch counting it or not, that leaves the shapes."""
    turned = torch.tensor([1, 0, 2, 3])
    return {
        "data, one number by a little": lambda n: n.conv.weight.data[2, 1, 1, 1].mul_(1 + 1e-12),
        "data, filters exchanged": lambda n: n.conv.weight.data.copy_(n.conv.weight.data[turned]),
        "data of a buffer": lambda n: n.norm.running_mean.data.add_(1),
        "another data": lambda n: setattr(n.fc.weight, "data", n.fc.weight.data * 2),
        "another parameter": lambda n: setattr(n.fc, "weight", nn.Parameter(n.fc.weight * 3)),
        "in place": lambda n: n.fc.bias.mul_(2),
        "exchanged": lambda n: n.exchange(),
        "an option": lambda n: setattr(n.norm, "eps", 0.5),
        "memory format": lambda n: n.to(memory_format=torch.channels_last),
        "loaded": lambda n: n.load_state_dict({k: v * 0.9 for k, v in n.state_dict().items()}),
    }


class Plain(nn.Module):
    """A convolution with its BatchNorm, and two layers of one shape."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)
        self.fc, self.other = nn.Linear(4, 4), nn.Linear(4, 4)

    def exchange(self):
        self.fc.weight, self.other.weight = self.other.weight, self.fc.weight

    def forward(self, x):
        x = torch.relu(self.norm(self.conv(x))).mean((2, 3))
        return self.other(torch.relu(self.fc(x)))


def plain():
    torch.manual_seed(0)
    return Plain().double().eval(), torch.randn(2, 3, 6, 5).double()


@pytest.mark.parametrize("name", changes())
def test_a_graph_is_bound_anew_when_and_only_when_weights_changed(name):
    network, x = plain()
    first = graph.trace(network, x)
    assert graph.trace(network, x) is first
    with torch.no_grad():
        changes()[name](network)
    second = graph.trace(network, x)
    assert second is not first
    torch.testing.assert_close(second(x), network(x).detach(), rtol=1e-13, atol=1e-13)
    assert graph.trace(network, x) is second


def test_a_kept_graph_is_freed_with_its_network():
    network, x = plain()
    kept = graph.trace(network, x)
    references = [weakref.ref(network), weakref.ref(kept)]
    del network
    gc.collect()
    assert references[0]() is None  # though the graph is still held here
    kept(x)
    del kept
    gc.collect()
    assert references[1]() is None


def test_threads_share_a_graph_while_another_changes_the_weights():
    network, x = plain()
    outputs = set()
    with torch.no_grad():
        for factor in (1.0, 2.0):
            network.fc.weight.data.mul_(factor)
            outputs.add(float(network(x).sum()))
    done, errors = threading.Event(), []

    def read():
        while not done.is_set():
            try:
                found = float(graph.trace(network, x)(x).sum())
                assert any(abs(found - value) < 1e-9 for value in outputs)
            except Exception as error:
                errors.append(error)

    threads = [threading.Thread(target=read) for _ in range(3)]
    for thread in threads:
        thread.start()
    for number in range(40):
        network.fc.weight.data.mul_(0.5 if number % 2 == 0 else 2.0)
    done.set()
    for thread in threads:
        thread.join()
    assert not errors
    torch.testing.assert_close(graph.trace(network, x)(x), network(x).detach())


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("size", [1, 7, 40_000, 70_001])
def test_every_number_counts(dtype, size):
    numbers = torch.randn(size + 1, generator=torch.Generator().manual_seed(0)).to(dtype)
    for tensor in (numbers[:size], numbers[1:], numbers.view(1, -1)[:, :size].t()):
        before = state_of([tensor])
        assert state_of([tensor]) == before
        for place in {0, size // 2, size - 1}:
            kept = tensor.flatten()[place].clone()
            tensor.data.view(-1)[place] = kept * 1.02
            assert state_of([tensor]) != before
            tensor.data.view(-1)[place] = kept
        assert state_of([tensor]) == before


def test_many_kinds_of_tensors_have_a_state():
    tensors = [
        torch.randn(3, 4, 5, 5).to(memory_format=torch.channels_last),
        torch.randn(4, 6)[:, ::2],
        torch.randn(40_000, dtype=torch.complex64),
        torch.tensor(3),
        torch.tensor([True, False]),
        torch.empty(0),
        torch.randn(3).expand(2, 3),
        torch.randn(3, 3).to_sparse(),
        torch.empty(3, device="meta"),
    ]
    assert state_of(tensors) == state_of(tensors)
    before = state_of(tensors)
    tensors[1].data[2, 1] += 1
    assert state_of(tensors) != before


# ------------------------------------------------------- recorded in place of torch.export


def described(structure):
    """What a structure is, but for the tensors in it."""
    return [
        (t.name, t.module, t.inputs, t.shape, t.norm_module, type(t.operation))
        for t in structure.templates
    ]


@undisturbed
def both(network, x):
    """The structure as it is recorded and as torch.export gives it, without BatchNorm folded."""
    structures = []
    for quick in (True, False):
        program = reading.exported(lambda: twin(network), reading.two(x), None, quick)
        assert isinstance(program, Program if quick else torch.export.ExportedProgram)
        structures.append(translated(network, program, x, fold=False))
    return structures


@pytest.mark.parametrize("name", [*SMALL, *REAL])
def test_what_is_recorded_is_what_torch_export_gives(name):
    network, x = small(name) if name in SMALL else (real(name), torch.randn(1, 3, 64, 64).double())
    quick, slow = both(network, x)
    assert described(quick) == described(slow)
    assert quick.constants.keys() == slow.constants.keys()
    for recorded, exported in zip(quick.templates, slow.templates, strict=True):
        assert str(recorded.operation) == str(exported.operation)


class Decides(nn.Module):
    """Does what no recording without numbers follows."""

    def __init__(self, kind):
        super().__init__()
        self.fc, self.kind = nn.Linear(4, 4), kind
        self.register_buffer("table", torch.arange(4.0))

    def forward(self, x):
        y = self.fc(x)
        if self.kind == "numbers":
            return y if y.sum() > 0 else -y
        if self.kind == "data":
            return y.data * 2
        if self.kind == "buffer":
            return y * float(self.table.sum())
        if self.kind == "view":
            y[:, 0].relu_()
        if self.kind == "constant":
            return y * torch.tensor([1.0, 2.0, 3.0, 4.0]) + self.table
        if self.kind == "batch":
            return y if len(x) > 100 else y * 2
        return y


@pytest.mark.parametrize("kind", ["data", "buffer", "constant", "batch", "view"])
def test_what_is_read_is_true_whichever_way_it_is_traced(kind):
    network, x = Decides(kind).eval(), torch.randn(3, 4)
    try:
        traced = graph.trace(network, x)
    except graph.GraphError:
        assert kind in ("data", "buffer", "batch")  # torch.export's own refusals
    else:
        torch.testing.assert_close(traced(x), network(x).detach())


def test_a_decision_by_numbers_is_still_named():
    with pytest.raises(graph.TraceError, match="decides by the values"):
        graph.trace(Decides("numbers").eval(), torch.randn(3, 4))


def test_a_wrong_recording_is_not_used(monkeypatch):
    network, x = plain()
    real_one = reading.exported

    def wrong(make, images, output, quick):
        if quick:  # the program of another network
            return real_one(lambda: twin(other), images)
        return real_one(make, images, output, quick)

    other = nn.Sequential(nn.Flatten(), nn.Linear(90, 4)).double().eval()
    monkeypatch.setattr(reading, "exported", wrong)
    torch.testing.assert_close(graph.trace(network, x)(x), network(x).detach())


# ------------------------------------------------------------------------ images of other sizes


class UNet(nn.Module):
    """Upsamples to the size of what it skipped."""

    def __init__(self):
        super().__init__()
        self.down, self.deep = nn.Conv2d(3, 4, 3, stride=2), nn.Conv2d(4, 4, 3, stride=2)
        self.up = nn.Conv2d(8, 2, 1)

    def forward(self, x):
        skip = torch.relu(self.down(x))
        deep = torch.relu(self.deep(skip))
        deep = F.interpolate(deep, skip.shape[2:], mode="bilinear")
        return self.up(torch.cat([skip, deep], 1))


SIZES = {
    "resnet": lambda: real("resnet18"),
    "mobilenet": lambda: real("mobilenet_v2"),
    "unet": lambda: UNet().double().eval(),
    "adaptive": lambda: (
        nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(7), nn.Flatten(), nn.Linear(196, 3))
        .double()
        .eval()
    ),
}


@pytest.mark.parametrize("name", SIZES)
def test_another_size_needs_no_export(name, monkeypatch):
    torch.manual_seed(0)
    network = SIZES[name]()
    monkeypatch.setattr(torch.export, "export", None)
    for height, width in ((64, 64), (96, 64), (65, 71), (64, 64)):
        x = torch.randn(1, 3, height, width, dtype=torch.float64)
        traced = graph.trace(network, x)
        torch.testing.assert_close(traced(x), network(x).detach())
        start = torch.randn_like(traced(x))
        given = x.clone().requires_grad_()
        expected = torch.autograd.grad(network(given), given, start)[0]
        found = traced.backward(traced.record(x), start)
        torch.testing.assert_close(found, expected)


def test_a_size_that_the_network_does_not_take_is_its_own_error():
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(64, 3)).eval()
    graph.trace(network, torch.randn(1, 3, 6, 6))
    with pytest.raises(graph.TraceError, match=r"\(N, 3, 7, 7\).*\[64, 3\]"):
        graph.trace(network, torch.randn(1, 3, 7, 7))


# ----------------------------------------------------------------------- networks in a wrapper


class Star(nn.Module):
    """Hands any number of inputs on."""

    def __init__(self, inside):
        super().__init__()
        self.inside = inside

    def forward(self, *inputs):
        return self.inside(*inputs)


WRAPPERS = {
    "compiled in parallel": lambda n: nn.DataParallel(torch.compile(n)),
    "parallel, compiled": lambda n: torch.compile(nn.DataParallel(n)),
    "star over compiled": lambda n: Star(torch.compile(n)),
    "compiled star over parallel": lambda n: torch.compile(Star(nn.DataParallel(n))),
    "star over star": lambda n: Star(Star(n)),
    "compiled in place": lambda n: (n[0].compile(), Star(n))[1],
    "a compiled part": lambda n: nn.Sequential(torch.compile(n), nn.Identity()),
}


@pytest.mark.parametrize("name", WRAPPERS)
def test_what_people_wrap_networks_in(name, monkeypatch):
    network, x = small("residual")
    expected = network(x).detach()
    wrapped = WRAPPERS[name](network).eval()
    monkeypatch.setattr(torch.export, "export", None)
    traced = graph.trace(wrapped, x)
    torch.testing.assert_close(traced(x), expected)
    assert any(node.module.endswith("conv1") for node in traced.nodes)
    assert graph.trace(wrapped, x) is traced
    with torch.no_grad():
        network[1].weight.mul_(2)
    torch.testing.assert_close(graph.trace(wrapped, x)(x), network(x).detach())


def test_a_hook_on_a_compiled_network_is_followed():
    network, x = small("residual")
    wrapped = torch.compile(network)
    wrapped.register_forward_hook(lambda module, inputs, output: output * 2)
    torch.testing.assert_close(graph.trace(wrapped, x)(x), network(x).detach() * 2)


class Mixed(nn.Module):
    """Computes a part in bfloat16, on purpose."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(4, 40), nn.Linear(40, 3)

    def forward(self, x):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            y = torch.relu(self.first(x))
        return self.second(y.float())


def test_autocast_inside_is_not_recorded_as_if_it_were_not_there():
    network, x = Mixed().eval(), torch.randn(3, 4)
    found = undisturbed(reading.exported)(lambda: twin(network), reading.two(x), None, True)
    assert not isinstance(found, Program)


def test_a_network_that_amplifies_rounding_is_read_and_one_that_is_wrong_is_not():
    class Steep(nn.Module):
        """Steps that make every difference larger, and a number by lot if it is to be wrong."""

        def __init__(self, wrong):
            super().__init__()
            self.fc, self.wrong = nn.Linear(6, 6, bias=False), wrong

        def forward(self, x):
            x = x.flatten(1)
            for _ in range(30):
                x = torch.sin(3.0 * self.fc(x))
            return x + (0.1 * self.drawn() if self.wrong else 0.0)

        def drawn(self):
            return float(torch.rand(()).item()) if not torch.compiler.is_compiling() else 0.5

    torch.manual_seed(0)
    x = torch.randn(2, 6, 1, 1, dtype=torch.float64)
    for wrong in (False, True):
        network = Steep(wrong).double().eval()
        nn.init.orthogonal_(network.fc.weight)
        if not wrong:
            assert graph.trace(network, x)(x).shape == (2, 6)
            continue
        with pytest.raises(graph.TraceError):
            graph.trace(network, x)


def test_a_norm_that_applies_its_own_activation_is_not_blamed():
    class NormAct(nn.BatchNorm2d):
        def __init__(self, channels):
            super().__init__(channels)
            self.act = nn.SiLU()

        def forward(self, x):
            return self.act(super().forward(x))

    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 4, 3), NormAct(4), nn.Flatten(), nn.Linear(144, 5))
    x = torch.randn(2, 3, 8, 8, dtype=torch.float64)
    network = network.double().eval()
    plain = graph.trace(network, x, fold=False)
    assert "the outputs of its modules agree" in comparing.difference(network, plain, x)
