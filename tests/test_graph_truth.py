"""A graph is never silently something else than the network, and the network is left alone."""

import copy
import io
import threading
import types

import pytest
import torch
import torch.nn.functional as F
from small_networks import small
from test_graph import Lines, assert_computes
from torch import nn
from torch.nn.modules import module as torch_module

from xaiutils import graph
from xaiutils.graph import reading


def lines(function, dtype=torch.float64):
    torch.manual_seed(0)
    return Lines(function).to(dtype).eval(), torch.randn(2, 3, 5, 5, dtype=dtype)


def assert_follows(network, x):
    """Trace it (again) and compare: what was remembered must not be used if it is out of date."""
    torch.testing.assert_close(graph.trace(network, x)(x), network(x).detach())


# --------------------------------------------------------------------- names of the same tensor


def copied_then_overwritten(y):
    kept = y.clone()
    y = F.relu(y, inplace=True)
    return y * 0.5 + kept


@pytest.mark.parametrize(
    "function",
    [
        copied_then_overwritten,
        lambda y: (z := y.clone(), z.relu_(), y + z)[-1],
        lambda y: (z := y.contiguous(), z.relu_(), y + 2 * z)[-1],
        lambda y: (v := y.flatten(1), F.dropout(v, training=False).relu_(), v)[-1],
        lambda y: (z := y.to(y.dtype), z.clamp_(max=0.1), y)[-1],
        lambda y: (y.mul_(2), y)[-1] + y.add_(1),
        lambda y: F.relu_(y * 1) - y,
    ],
)
def test_a_copy_is_no_alias_and_an_alias_is_no_copy(function):
    assert_computes(*lines(function))


@pytest.mark.parametrize(
    "view",
    [
        lambda y: y.chunk(2, 1)[0],
        lambda y: y.split([1, 3], 1)[1],
        lambda y: y[:, 1:],
        lambda y: y[:, 0],
        lambda y: y.select(2, 1),
    ],
)
def test_a_part_changed_in_place_is_followed_and_a_whole_view_is_too(view):
    def function(y):
        F.relu_(view(y))
        return y.flatten(1)

    network, x = lines(function)
    with torch.no_grad():  # autograd itself forbids it for some of these views
        torch.testing.assert_close(graph.trace(network, x)(x), network(x))
    assert_computes(*lines(lambda y: (F.relu_(y.permute(0, 2, 3, 1)), y)[-1]))


def test_a_part_changed_in_place_whose_rest_is_not_read_is_followed():
    assert_computes(*lines(lambda y: F.relu_(y[:, 1:]) * 2))


# ------------------------------------------------------- every structure is held to the network


def test_what_was_traced_wrongly_is_an_error_that_names_the_module(monkeypatch):
    network, x = small("residual")
    wrong = graph.ReLU
    monkeypatch.setattr(wrong, "forward", lambda self, *inputs: F.leaky_relu(inputs[0], 0.5))
    monkeypatch.setattr(wrong, "forward_", lambda self, x: F.leaky_relu(x, 0.5))
    with pytest.raises(graph.TraceError, match=r"the output of '2\.relu' is the first"):
        graph.trace(network, x)


def test_a_hook_that_does_something_else_at_every_call_is_an_error():
    network, x = small("bottleneck")

    class Strange:
        factor = 1.0

        def __call__(self, module, inputs, output):
            Strange.factor += 1  # another factor at every call
            return output * Strange.factor

    network[5].register_forward_hook(Strange())
    with pytest.raises(graph.TraceError, match="is not used: the output of '5' is the first"):
        graph.trace(network, x)


def test_nan_is_not_passed_on():
    network, x = small("bottleneck")
    with torch.no_grad():
        network[12].weight[0, 0] = torch.nan
    with pytest.raises(graph.TraceError, match="output is not finite"):
        graph.trace(network, x)


# --------------------------------------------------------------------------- what is remembered


class Configured(nn.Module):
    """Reads its attributes in forward, of every kind that Python offers."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(4, 3)
        self.again = nn.Linear(3, 3)
        self.act = F.relu
        self.options = {"scale": 2.0, "list": [1.0, 2.0]}
        self.space = types.SimpleNamespace(slope=0.1)
        self.plus = torch.ones(3, dtype=torch.float64)

    def forward(self, x):
        y = self.act(self.fc(x)) * self.options["scale"] * self.options["list"][1]
        y = F.leaky_relu(self.again(y), self.space.slope)
        return y + self.plus


def configured():
    torch.manual_seed(0)
    network = Configured().double().eval()
    return network, torch.randn(2, 4, dtype=torch.float64)


def steering(strength):
    return lambda module, inputs, output: output + strength


ATTRIBUTES = [
    lambda m: setattr(m, "act", F.leaky_relu),
    lambda m: setattr(m, "act", lambda y, slope=0.3: F.leaky_relu(y, slope)),
    lambda m: m.options.update(scale=3.0),
    lambda m: m.options["list"].__setitem__(1, 7.0),
    lambda m: setattr(m.space, "slope", 0.7),
    lambda m: setattr(m, "plus", torch.full((3,), 5.0).double()),
    lambda m: m.plus.add_(3),
    lambda m: setattr(m.fc, "bias", None),
    lambda m: setattr(m.again, "weight", nn.Parameter(2 * m.again.weight)),
    lambda m: setattr(m.fc, "forward", lambda x: F.linear(x, m.fc.weight) * 3),
    lambda m: setattr(m, "forward", lambda x: m.fc(x) - 1),
    lambda m: m.fc.register_forward_hook(steering(1.0)),
    lambda m: m.fc.register_forward_pre_hook(lambda module, inputs: (inputs[0] * 2,)),
]


@pytest.mark.parametrize("change", ATTRIBUTES)
def test_a_change_of_whatever_forward_reads_is_seen(change):
    network, x = configured()
    graph.trace(network, x)
    with torch.no_grad():
        change(network)
    assert_follows(network, x)


def test_a_bias_that_comes_and_goes():
    network, x = configured()
    network.fc = nn.Linear(4, 3, bias=False).double().eval()
    graph.trace(network, x)
    network.fc.bias = nn.Parameter(torch.ones(3).double())
    assert_follows(network, x)
    network.fc.bias = None
    assert_follows(network, x)


def test_tied_weights_that_are_untied():
    network = nn.Sequential(nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 3)).double().eval()
    x = torch.randn(2, 3, dtype=torch.float64)
    network[2].weight = network[0].weight
    graph.trace(network, x)
    network[2].weight = nn.Parameter(torch.randn(3, 3, dtype=torch.float64))
    assert_follows(network, x)


def test_hooks_that_are_replaced_or_change_their_mind():
    network, x = small("residual")
    handle = network[2].register_forward_hook(steering(1.0))
    assert_follows(network, x)
    handle.remove()
    handle = network[2].register_forward_hook(steering(2.0))
    assert_follows(network, x)
    handle.remove()
    assert_follows(network, x)
    strength = [0.0]
    network[2].register_forward_hook(lambda module, inputs, output: output * strength[0])
    for strength[0] in (1.0, 2.0, 0.5):
        assert_follows(network, x)


def test_a_hook_on_all_modules_that_changes_something_is_refused():
    network, x = small("residual")
    graph.trace(network, x)
    seen = []
    handle = torch_module.register_module_forward_hook(lambda m, i, o: seen.append(type(o)))
    try:
        assert_follows(network, x)
        assert set(seen) == {torch.Tensor}
    finally:
        handle.remove()
    handle = torch_module.register_module_forward_hook(lambda m, i, o: o * 1.1)
    try:
        with pytest.raises(graph.TraceError, match="does not compute"):
            graph.trace(network, x)
    finally:
        handle.remove()
    assert_follows(network, x)


class Counting(nn.Module):
    """Counts its calls and keeps what it computed."""

    def __init__(self):
        super().__init__()
        self.fc, self.calls, self.log = nn.Linear(4, 3), 0, []
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, x):
        self.calls += 1
        self.seen += 1
        self.features = torch.relu(self.fc(x))
        self.log.append(self.features)
        return self.features.flatten(1)


def test_a_network_that_counts_its_calls_is_traced_once(monkeypatch):
    network, x = Counting().eval(), torch.randn(2, 4)
    traces = []
    real = reading.exported
    monkeypatch.setattr(reading, "exported", lambda *a: (traces.append(1), real(*a))[-1])
    for _ in range(3):
        network(x)
        assert_follows(network, x)
    assert len(traces) == 1
    network.fc = nn.Linear(4, 3, bias=False).eval()
    assert_follows(network, x)
    assert len(traces) == 2


def test_a_network_is_compared_once_and_not_at_each_call():
    calls = []

    class Heard(nn.ReLU):
        def forward(self, x):
            calls.append(type(x))
            return super().forward(x)

    network, x = nn.Sequential(nn.Linear(4, 3), Heard()).eval(), torch.randn(2, 4)
    graph.trace(network, x)
    first = len(calls)
    for _ in range(3):
        graph.trace(network, x)
    assert len(calls) == first


# ------------------------------------------------------------------------- the network left alone


def assert_clean(network):
    """No fake tensor is left: it can be copied, saved and run."""
    copy.deepcopy(network)
    torch.save(network.state_dict(), io.BytesIO())
    for module in network.modules():
        for value in vars(module).values():
            for entry in value if isinstance(value, list) else [value]:
                assert type(entry).__name__ != "FakeTensor"


def test_what_forward_stores_stays_with_its_own_calls():
    network, x = Counting().eval(), torch.randn(2, 4)
    graph.trace(network, x)
    assert (network.calls, network.log, float(network.seen)) == (0, [], 0.0)
    assert not hasattr(network, "features")
    assert_clean(network)
    with torch.no_grad():
        network(x)
    graph.trace(network, x)
    assert (network.calls, len(network.log), float(network.seen)) == (1, 1, 1.0)
    assert type(network.features) is torch.Tensor
    assert_clean(network)


STORED = []  # as in a notebook
FACTORS = [1.0]


def store(output):
    STORED.append(output)


def test_hooks_never_see_a_fake_tensor():
    network, x = small("bottleneck")
    kept, printed = [], {}

    class Holder:
        def __init__(self):
            self.seen = []

        def look(self, module, inputs, output):
            self.seen.append(output)

        def change(self, module, inputs, output):
            self.seen.append(output)
            return output * 1.5

    def look(module, inputs, output):
        store(output)
        kept.append(output)
        if output.mean() > 0:  # no tracer could follow it
            printed["mean"] = output.detach().numpy()

    def change(module, inputs, output):
        STORED.append(output)
        kept.append(output)
        return output * 2

    holder = Holder()
    for hook in (look, change, holder.look, holder.change):
        network[1].register_forward_hook(hook)
    traced = graph.trace(network, x)
    with torch.no_grad():
        torch.testing.assert_close(traced(x), network(x))
    assert {type(value) for value in (*kept, *STORED, *holder.seen)} == {torch.Tensor}
    assert_clean(network)


def test_a_patched_forward_that_refers_to_the_old_one():
    network, x = small("residual")
    inner, outer = network[2].forward, network.forward
    network[2].forward = lambda x: inner(x) * 2
    network.forward = lambda x: outer(x) + 1
    assert_follows(network, x)
    network[2].forward = lambda x: inner(x) * FACTORS[0]
    for FACTORS[0] in (3.0, 4.0):  # a global variable, which no fingerprint sees
        assert_follows(network, x)


@pytest.mark.parametrize("first", [nn.ReLU(inplace=True), nn.Hardtanh(-0.5, 0.5, inplace=True)])
def test_a_first_operation_in_place_leaves_x_alone(first):
    network = nn.Sequential(first, nn.Flatten(), nn.Linear(9, 2)).eval()
    x = torch.randn(4, 1, 3, 3)
    kept = x.clone()
    traced = graph.trace(network, x)
    record = traced.record(x)
    traced.backward(record, torch.ones_like(record.output))
    outputs = graph.outputs_of(network, x)
    assert torch.equal(x, kept)
    torch.testing.assert_close(outputs, record.output)


def test_threads_that_trace_and_run_the_same_networks():
    network, x = small("residual")
    other, z = small("functional")
    expected = network(x).detach()
    errors, done = [], threading.Event()

    def guarded(work):
        try:
            work()
        except Exception as error:
            errors.append(error)

    def serve():
        while not done.is_set():
            with torch.no_grad():
                torch.testing.assert_close(network(x), expected)

    def read(model, inputs):
        for fold in (True, False):
            graph.trace(model, inputs, fold)

    serving = threading.Thread(target=guarded, args=(serve,))
    work = [lambda: read(network, x), lambda: read(other, z), lambda: read(network, x)]
    threads = [threading.Thread(target=guarded, args=(w,)) for w in work]
    for thread in (serving, *threads):
        thread.start()
    for thread in threads:
        thread.join()
    done.set()
    serving.join()
    assert errors == []
    assert_follows(network, x)
    assert_follows(other, z)


# ----------------------------------------------------------------------- modes, types, weights


@pytest.mark.parametrize("warm", [False, True])
@pytest.mark.parametrize("name", ["autoencoder", "dense", "functional", "residual"])
def test_autocast_changes_nothing(name, warm):
    network, x = small(name, dtype=torch.float32)
    expected = graph.trace(network, x)(x) if warm else network(x).detach()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        traced = graph.trace(network, x)
        record = traced.record(x)
        back = traced.backward(record, torch.ones_like(record.output))
        change = traced.tangent(record, back)
    assert record.output.dtype == back.dtype == change.dtype == torch.float32
    torch.testing.assert_close(record.output, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("warm", [False, True])
@pytest.mark.parametrize("name", ["autoencoder", "dense", "functional", "residual", "volume"])
def test_inference_mode_changes_nothing(name, warm):
    network, x = small(name)
    traced = graph.trace(network, x) if warm else None
    with torch.inference_mode():
        inside = x * 1
        traced = traced or graph.trace(network, inside)
        record = traced.record(inside, keep="gates")
        start = torch.ones_like(record.output)
        back = traced.backward(record, start)
        node = next(n for n in traced.nodes if isinstance(n.operation, graph.LinearOperation))
        shapes = [traced.nodes[i].shape for i in node.inputs]
        node.operation.transpose(torch.ones(2, *node.shape).double(), shapes)
    given = x.clone().requires_grad_()
    expected = torch.autograd.grad(network(given).sum(), given)[0]
    torch.testing.assert_close(back, expected)


def test_leaky_slope_in_double_precision_is_not_rounded():
    network, x = lines(lambda y: F.leaky_relu(y, 0.1))
    traced = graph.trace(network, x)
    record = traced.record(x)
    given = x.clone().requires_grad_()
    expected = torch.autograd.grad(network(given).sum(), given)[0]
    back = traced.backward(record, torch.ones_like(record.output))
    torch.testing.assert_close(back, expected, rtol=1e-13, atol=1e-13)


def test_a_held_graph_after_training_is_an_error_and_no_mixture():
    network, x = small("residual")
    traced = graph.trace(network, x)
    record = traced.record(x)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(1.5)
    start = torch.ones_like(record.output)
    for use in (
        lambda: traced(x),
        lambda: traced.backward(record, start),
        lambda: traced.tangent(record, x),
        lambda: traced.complete({0: x}),
    ):
        with pytest.raises(ValueError, match="weights were changed after it was traced"):
            use()
    assert_follows(network, x)


def test_a_record_wants_inputs_of_the_graph_s_shape():
    network, x = small("residual")
    traced = graph.trace(network, x)
    with pytest.raises(ValueError, match=r"inputs of shape \(N, 3, 9, 9\), not \(3, 3, 8, 8\)"):
        traced.record(x[..., 1:, 1:])


# -------------------------------------------------------------------------- outputs and wrappers


@pytest.mark.parametrize(
    "head",
    [
        lambda y: y.flatten(1)[:, 0],
        lambda y: y.flatten(1)[:, :1].squeeze(1),
        lambda y: y.mean((1, 2, 3)),
        lambda y: y.flatten(1)[:, :1].squeeze(),
    ],
)
def test_one_number_for_each_image(head):
    network, x = lines(head)
    assert_computes(network, x)
    traced = graph.trace(network, x[:1])
    assert traced.output_shape == ()
    assert traced(x).shape == (2,)


@pytest.mark.parametrize("wrap", [lambda y: {"out": y}, lambda y: (y,), lambda y: [y, None]])
def test_an_output_in_a_wrapper(wrap):
    network, x = lines(lambda y: wrap(y.flatten(1)))
    torch.testing.assert_close(graph.trace(network, x)(x), graph.outputs_of(network, x).detach())


def test_several_outputs_are_refused_with_the_cure():
    network, x = lines(lambda y: {"out": y, "aux": y * 2})
    for use in (graph.trace, graph.outputs_of):
        with pytest.raises(graph.UnsupportedOperation, match=r"returns 2 values.*small module"):
            use(network, x)
    network, x = lines(lambda y: y.sum())
    with pytest.raises(graph.UnsupportedOperation, match="one row for each image"):
        graph.outputs_of(network, x)


def test_gradients_pass_through_outputs_of():
    network, x = small("residual")
    given = x.clone().requires_grad_()
    graph.outputs_of(network, given).sum().backward()
    assert given.grad is not None
    assert bool(given.grad.any())


def test_wrappers_of_a_network_are_seen_through():
    network, x = small("residual")
    expected = network(x).detach()
    for wrapped in (nn.DataParallel(network), torch.compile(network)):
        traced = graph.trace(wrapped.eval(), x)
        torch.testing.assert_close(traced(x), expected)
        assert traced.find("2").name == "2.relu#2"


def test_what_torch_jit_made_is_refused():
    network, x = small("bottleneck")
    for hidden in (torch.jit.trace(network, x), nn.Sequential(torch.jit.script(network)).eval()):
        with pytest.raises(graph.TraceError, match=r"made by torch\.jit.*the Python module"):
            graph.trace(hidden, x)


def test_a_network_compiled_in_place_is_read_as_it_was_written():
    network, x = small("residual")
    expected = network(x).detach()
    network.compile()
    torch.testing.assert_close(graph.trace(network, x)(x), expected)


def test_a_forward_of_any_number_of_inputs():
    class Any(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(4, 2)

        def forward(self, *inputs):
            return self.fc(inputs[0])

    assert_computes(Any().double().eval(), torch.randn(2, 4, dtype=torch.float64))


# ---------------------------------------------------------------------------------- finding a node


class Shared(nn.Module):
    """One ReLU for two places, and a container whose side branch is computed last."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3)
        self.relu = nn.ReLU()
        self.block = Side()

    def forward(self, x):
        return self.block(self.relu(self.second(self.relu(self.first(x))))).flatten(1)


class Side(nn.Module):
    def __init__(self):
        super().__init__()
        self.main, self.side = nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1)

    def forward(self, x):
        y = self.main(x)
        self.last = self.side(y) + 1
        return y


def test_of_a_module_used_twice_the_last_use_is_found():
    torch.manual_seed(0)
    network, x = Shared().double().eval(), torch.randn(2, 3, 7, 7, dtype=torch.float64)
    outputs = []
    network.relu.register_forward_hook(lambda module, inputs, output: outputs.append(output))
    with torch.no_grad():
        network(x)
    traced = graph.trace(network, x)
    record = traced.record(x)
    torch.testing.assert_close(record.value(traced.find("relu").index), outputs[1])
    torch.testing.assert_close(record.value(traced.find("relu#1").index), outputs[0])
    assert traced.find("relu#2") is traced.find("relu")


def test_of_a_container_the_node_whose_value_leaves_it_is_found():
    network, x = Shared().eval(), torch.randn(2, 3, 7, 7)
    assert graph.trace(network, x).find("block").name == "block.main"


# ---------------------------------------------------------------------------------- clamps, signs


@pytest.mark.parametrize(
    ("low", "high", "before", "after"),
    [(-0.3, 1.0, False, True), (-2.0, -0.1, False, False), (0.0, 1.0, True, True)],
)
def test_signs_of_clamps(low, high, before, after):
    torch.manual_seed(0)
    clamp = nn.Hardtanh(low, high)
    network = nn.Sequential(nn.Linear(4, 9), clamp, nn.Linear(9, 9), nn.ReLU(), clamp).eval()
    x = torch.randn(20, 4)
    traced = graph.trace(network, x)
    record = traced.record(x)
    found = [n.nonnegative for n in traced.nodes if isinstance(n.operation, graph.Clamp)]
    assert found == [before, after]
    for node in traced.nodes:
        assert not node.nonnegative or bool((record.value(node.index) >= 0).all())


# ---------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (lambda y: torch.div(y, 0.1, rounding_mode="floor"), "rounding_mode='floor'"),
        (lambda y: y.mean((2, 3), dtype=torch.float64), "dtype="),
        (lambda y: y * y.mean(), "mixes the images"),
        (lambda y: y.reshape(y.shape[0] * 2, -1), "mixes the images"),
        (lambda y: y / y.shape[0], "size of the batch"),
        (lambda y: y * y.shape[0], "size of the batch"),
    ],
)
def test_what_it_cannot_do_is_named_and_never_guessed(function, words):
    with pytest.raises(graph.UnsupportedOperation, match=words):
        graph.trace(*lines(function, torch.float32))


def test_weights_that_are_computed_are_computed_once_the_weights_are_known():
    class Standardised(nn.Conv2d):
        def forward(self, x):
            return F.conv2d(x, self.weight.reshape(self.weight.shape) - 1, self.bias)

    network = nn.Sequential(Standardised(3, 4, 3)).eval().double()
    x = torch.randn(2, 3, 5, 5, dtype=torch.float64)
    assert_computes(network, x)
    with torch.no_grad():
        network[0].weight.mul_(2)
    assert_computes(network, x)


def test_an_unused_branch_may_do_anything():
    class Branch(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(3, 2)

        def forward(self, x):
            y = self.fc(x)
            self.probability, self.level = y.softmax(1), y.mean()
            return y

    traced = graph.trace(Branch().eval(), torch.randn(1, 3))
    assert [node.name for node in traced.nodes] == ["input", "fc"]


def test_a_decision_by_values_is_one_sentence(capfd):
    class Deciding(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(3, 2)

        def forward(self, x):
            y = self.fc(x)
            if y.sum() > 0:
                return y
            return -y

    with pytest.raises(
        graph.TraceError, match=r"decides by the values.*if y\.sum\(\) > 0"
    ) as error:
        graph.trace(Deciding().eval(), torch.randn(1, 3))
    assert "\n" not in str(error.value)
    out, err = capfd.readouterr()
    assert out == err == ""


def test_both_errors_have_one_base():
    assert issubclass(graph.TraceError, graph.GraphError)
    assert issubclass(graph.UnsupportedOperation, graph.GraphError)
