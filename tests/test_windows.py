"""Windows: what is recomputed after a small change equals the whole forward pass."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_networks import SMALL, random_network, real, small
from torch import nn

from xaiutils import data, evaluation, graph, models
from xaiutils.windows import Branches, Incremental, Windows, _branches

RUN = evaluation.region_perturbation
few = settings(max_examples=15, deadline=None)


def spans(side, size):
    return [(first, min(first + size, side)) for first in range(0, side, size)]


def assert_updates_equal_whole_passes(network, x, size, steps=4, seed=0):
    """Replace some regions of each input, in an order drawn by lot, by what is drawn by lot."""
    regions = evaluation.Regions(*x.shape[2:], size)
    plan = Windows(graph.trace(network, x), regions.row_spans, regions.column_spans)
    draw = torch.Generator().manual_seed(seed)
    ranks = torch.rand(len(x), regions.count, generator=draw).argsort()
    order, when = ranks.argsort().T, ranks[:, regions.index]
    y = torch.randn(x.shape, generator=draw, dtype=x.dtype)
    whole = [network(torch.where(when[:, None] <= k, y, x)).detach() for k in range(steps)]
    state = Incremental(plan, x, len(x), steps - 1)
    for inputs in (slice(None), slice(1), slice(None)):  # each time it must forget the time before
        state.restart(x[inputs], y[inputs], when[inputs])
        for part in (slice(0, 1), slice(1, steps)):
            row, column = (
                order[part, inputs] // regions.columns,
                order[part, inputs] % regions.columns,
            )
            expected = torch.cat([outputs[inputs] for outputs in whole[part]])
            torch.testing.assert_close(state.update(row, column), expected, rtol=1e-10, atol=1e-10)
    return plan


def assert_branches_equal_whole_passes(network, x, size, most=20, batch=3):
    """Replace one region of each input, some regions of all, and begin again from other inputs."""
    regions = evaluation.Regions(*x.shape[2:], size)
    spans = regions.row_spans, regions.column_spans
    branches = Branches(graph.trace(network, x), *spans, x, len(x), batch)
    draw = torch.Generator().manual_seed(0)
    y = torch.randn(x.shape, generator=draw, dtype=x.dtype)
    for before, after in ((x, y), (y[:1], x[:1]), (x, y)):  # it must forget the time before
        branches.begin(before, after)
        tries = torch.randperm(len(before) * regions.count, generator=draw)[:most]
        states, numbers = tries // regions.count, tries % regions.count
        gone = regions.index == numbers[:, None, None, None]
        whole = network(torch.where(gone, after[states], before[states])).detach()
        found = torch.full_like(whole, torch.nan)
        for part, outputs in branches.outputs(states, numbers):
            assert len(part) <= batch
            found[part] = outputs
        torch.testing.assert_close(found, whole, rtol=1e-10, atol=1e-10)
    return branches


@given(seed=st.integers(0, 2**16), size=st.integers(1, 3))
@few
def test_branches_equal_whole_passes_of_random_networks(seed, size):
    assert_branches_equal_whole_passes(*random_network(seed, signed=bool(seed % 2)), size)


@pytest.mark.parametrize("name", [n for n, (_, shape) in SMALL.items() if len(shape) == 3])
def test_branches_equal_whole_passes_of_small_networks(name):
    assert_branches_equal_whole_passes(*small(name), 1)


@pytest.mark.parametrize("name", ["squeezenet1_1", "mobilenet_v2"])
def test_branches_equal_whole_passes_of_real_networks(name):
    network, x = real(name), torch.randn(1, 3, 96, 96, dtype=torch.float64)
    assert_branches_equal_whole_passes(network, x, 9, most=6)


def test_regions_near_the_border_have_plans_of_their_own():
    network, x = real("squeezenet1_1", dtype=torch.float32), torch.zeros(1, 3, 224, 224)
    branches = Branches(graph.trace(network, x), spans(224, 16), spans(224, 16), x, 1, 32)
    assert len(branches._groups) > 1
    tried = torch.cat([(g.rows[:, None] * 14 + g.columns).flatten() for g in branches._groups])
    assert sorted(tried.tolist()) == list(range(196))
    assert branches.saving() > 2


def test_regions_may_be_asked_for_again_and_the_rest_run_in_parts(monkeypatch):
    network, x = small("functional")
    regions = evaluation.Regions(*x.shape[2:], 2)
    traced, spans = graph.trace(network, x), (regions.row_spans, regions.column_spans)
    again = torch.arange(regions.count).repeat(3)
    gone = regions.index == again[:, None, None, None]
    whole = network(torch.where(gone, 0.0, x[:1])).detach()
    for at_once in (1, 10**9):
        monkeypatch.setattr(_branches, "_AT_ONCE", at_once)
        branches = Branches(traced, *spans, x, 1, 50)
        branches.begin(x[:1], torch.zeros_like(x[:1]))
        for _ in range(2):
            found = torch.full_like(whole, torch.nan)
            for part, outputs in branches.outputs(torch.zeros_like(again), again):
                found[part] = outputs
            torch.testing.assert_close(found, whole, rtol=1e-10, atol=1e-10)


def test_a_branch_that_joins_others_is_computed_in_their_window():
    network, x = real("squeezenet1_1", dtype=torch.float32), torch.zeros(1, 3, 224, 224)
    plan = Windows(graph.trace(network, x), spans(224, 16), spans(224, 16))
    joins = [w for w in plan.windows.values() if w.node.operation.kind == "concatenate"]
    assert joins
    for window in joins:  # what it reads is there, and is not remembered
        assert window.direct == set(window.node.inputs)
        assert not plan.kept & window.direct


def test_no_more_states_than_memory_was_reserved_for():
    network, x = small("functional")
    regions = evaluation.Regions(*x.shape[2:], 2)
    spans = regions.row_spans, regions.column_spans
    branches = Branches(graph.trace(network, x), *spans, x, 1, 2)
    with pytest.raises(ValueError, match="reserved for 1"):
        branches.begin(x, x)


@given(seed=st.integers(0, 2**16), size=st.integers(1, 3))
@few
def test_updates_equal_whole_passes_of_random_networks(seed, size):
    network, x = random_network(seed, signed=bool(seed % 2))
    assert_updates_equal_whole_passes(network, x, size, seed=seed)


@pytest.mark.parametrize("name", [n for n, (_, shape) in SMALL.items() if len(shape) == 3])
def test_updates_equal_whole_passes_of_small_networks(name):
    assert_updates_equal_whole_passes(*small(name), 1)


class Beyond(nn.Module):
    """Smooth gates, a gate of channels, positions on the map, and a border of minus infinity."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(6, 6, 3, padding=1)
        self.slopes = nn.PReLU(6, init=0.3)
        self.positions = nn.Parameter(torch.randn(1, 6, 18, 18))
        self.norm, self.fc = nn.GroupNorm(2, 6), nn.Linear(6, 3)

    def forward(self, x):
        x = nn.functional.silu(self.first(x))
        x = self.second(self.slopes(self.second(x)) + self.positions)
        x = nn.functional.pad(x, (0, 1, 1, 0), value=-torch.inf)
        x = nn.functional.gelu(nn.functional.max_pool2d(x, 3, 2))
        return self.fc(self.norm(x * x.mean((2, 3), keepdim=True).sigmoid()).mean((2, 3)))


def test_updates_equal_whole_passes_beyond_relu():
    torch.manual_seed(0)
    network, x = Beyond().double().eval(), torch.randn(2, 3, 18, 18, dtype=torch.float64)
    assert_branches_equal_whole_passes(network, x, 2)
    plan = assert_updates_equal_whole_passes(network, x, 2)
    kinds = [plan.graph.nodes[i].operation.kind for i in plan.windows]
    assert {"conv2d", "silu", "prelu"} <= set(kinds)  # what can be computed in windows is


@pytest.mark.parametrize("name", ["squeezenet1_1", "densenet121", "mobilenet_v2", "resnet50"])
def test_updates_equal_whole_passes_of_real_networks(name):
    network, x = real(name), torch.randn(2, 3, 96, 96, dtype=torch.float64)
    plan = assert_updates_equal_whole_passes(network, x, 9, steps=2)
    assert len(plan.windows) > 10


@pytest.mark.parametrize(
    "layer",
    [
        nn.MaxPool2d(3, 2, padding=1),
        nn.MaxPool2d(3, 2, ceil_mode=True),
        nn.MaxPool2d(2, dilation=2),
        nn.AvgPool2d(3, 1, padding=1),
        nn.AvgPool2d(3, 2, padding=1, count_include_pad=False),
        nn.AvgPool2d(2, ceil_mode=True),
        nn.ZeroPad2d((1, 2, 0, 3)),
        nn.ZeroPad2d((-1, -2, -3, 0)),
        nn.ReflectionPad2d(2),
        nn.Conv2d(2, 3, 3, stride=3, padding=2, dilation=2),
        nn.Conv2d(2, 3, (1, 5), stride=(1, 2), padding=(0, 2)),
        nn.Conv2d(2, 2, 1, stride=2, groups=2),
        nn.ConvTranspose2d(2, 3, 3, stride=2),
        nn.Upsample(scale_factor=2),
        nn.BatchNorm2d(2),
    ],
    ids=str,
)
def test_every_layer_reads_its_padding_and_its_border(layer):
    torch.manual_seed(0)
    network = nn.Sequential(layer, nn.LeakyReLU(0.1)).double().eval()
    x = torch.randn(3, 2, 17, 19, dtype=torch.float64) - 3  # negative: zeros are not neutral
    assert_updates_equal_whole_passes(network, x, 2, steps=12)
    assert_branches_equal_whole_passes(network, x, 2)


def test_early_layers_are_planned_in_windows_and_late_ones_are_not():
    network, x = real("vgg16", dtype=torch.float32), torch.zeros(1, 3, 224, 224)
    plan = Windows(graph.trace(network, x), spans(224, 9), spans(224, 9))
    first, last = plan.windows[1], plan.windows[max(plan.windows)]
    assert [places.shape[1] for places in (*first.reads, *first.writes)] == [13, 13, 11, 11]
    assert first.share < 0.01 < last.share <= 0.6
    assert isinstance(plan.graph.nodes[-1].operation, graph.Dense)
    assert len(plan.graph.nodes) - 1 not in plan.windows
    assert plan.saving(16, 100) > plan.saving(1, 100) > 1
    assert plan.saving(16, 100) > plan.saving(16, 10) > 1 > plan.saving(16, 1)  # a restart costs


@pytest.mark.parametrize("edge", ["keep", "drop"])
@pytest.mark.parametrize("order", evaluation.ORDERS)
def test_region_perturbation_in_windows_gives_the_same_scores(order, edge):
    classifier = models.load_classifier("mnist_cnn")
    x = data.mnist("test", source="embedded").images[:5]
    options = {"repeats": 2, "edge": edge, "steps": 20, "order": order}
    whole = RUN(classifier.module, x, None, x, 5, windowed=False, **options)
    for batch_size in (None, 1, 3):
        found = RUN(
            classifier.module, x, None, x, 5, windowed=True, batch_size=batch_size, **options
        )
        torch.testing.assert_close(found.scores, whole.scores, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("measure", ["perturbation", "occlusion"])
def test_inference_mode_does_not_disturb_windows(measure):
    network = models.load_classifier("mnist_cnn").module
    x = data.mnist("test", source="embedded").images[:2]

    def scores():
        if measure == "occlusion":
            return evaluation.region_occlusion(network, x, 0, 7, windowed=True)
        return RUN(network, x, 0, x, 7, 9, repeats=1, windowed=True).scores

    expected = scores()
    with torch.inference_mode():
        assert torch.equal(scores(), expected)


def test_no_more_inputs_and_steps_than_memory_was_reserved_for():
    network, x = small("functional")
    regions = evaluation.Regions(*x.shape[2:], 2)
    plan = Windows(graph.trace(network, x), regions.row_spans, regions.column_spans)
    state, when = Incremental(plan, x, 1, 2), regions.index.expand(len(x), -1, -1)
    with pytest.raises(ValueError, match="reserved for 1"):
        state.restart(x, x, when)
    state.restart(x[:1], x[:1], when[:1])
    with pytest.raises(ValueError, match="reserved for 2"):
        state.update(torch.zeros(3, 1).long(), torch.zeros(3, 1).long())


def test_a_network_that_cannot_be_traced_is_run_whole_or_refused():
    class Deciding(nn.Module):
        def forward(self, x):
            return x if x.sum() > 0 else -x

    network = nn.Sequential(nn.Conv2d(1, 2, 3), Deciding(), nn.Flatten()).eval()
    x = torch.rand(2, 1, 12, 12)
    RUN(network, x, 0, x, 3, 4)
    with pytest.raises(ValueError, match="can be traced"):
        RUN(network, x, 0, x, 3, 4, windowed=True)
