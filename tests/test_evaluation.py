"""Region perturbation against a naive loop, hand-computed areas, and what must always hold."""

import copy
import inspect
import itertools
import typing
import warnings

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from xaiutils import data, evaluation, graph, models
from xaiutils.evaluation import _jobs
from xaiutils.evaluation._pictures import generator

RUN = evaluation.region_perturbation
FILLS = {
    "uniform": evaluation.Uniform(-0.5, torch.tensor([1.0, 2.0]).view(2, 1, 1)),
    "dirichlet": evaluation.Dirichlet(),
    "constant": evaluation.Constant(torch.rand(2, 10, 13, generator=generator(1, 2, 3, "fill"))),
    "blur": evaluation.Blur(),
    "callable": lambda images, draw: images.flip(3) + torch.rand(images.shape, generator=draw),
}


@pytest.fixture(scope="module")
def net():
    torch.manual_seed(0)
    layers = [nn.Conv2d(2, 4, 3, padding=1), nn.Tanh(), nn.AdaptiveAvgPool2d(3), nn.Flatten()]
    return nn.Sequential(*layers, nn.Linear(36, 5)).eval()


@pytest.fixture(scope="module")
def x():
    return torch.randn(3, 2, 10, 13, generator=torch.Generator().manual_seed(5))


@pytest.fixture(scope="module")
def maps():
    return torch.randn(3, 2, 10, 13, generator=torch.Generator().manual_seed(6))


def squares(height, width, size, edge):
    """The regions as slices, row by row."""
    if edge == "keep":
        tops, lefts = range(0, height, size), range(0, width, size)
    else:
        tops, lefts = (
            [side % size // 2 + i * size for i in range(side // size)] for side in (height, width)
        )
    return [
        (slice(top, min(top + size, height)), slice(left, min(left + size, width)))
        for top, left in itertools.product(tops, lefts)
    ]


def read(net, picture, target, output):
    logits = net(picture[None])
    if output == "logit":
        return logits[0, target].item()
    if output == "probability":
        return logits.softmax(1)[0, target].item()
    return output(logits, torch.tensor([0]))[0].item()


@torch.no_grad()
def naive(net, x, targets, maps, size, steps, order, fill, repeats, output, seed, reduce, edge):
    """One image, one step at a time, as the equations say it."""
    scores = torch.zeros(len(x), repeats, steps + 1)
    regions = squares(*x.shape[2:], size, edge)
    for n, repeat in itertools.product(range(len(x)), range(repeats)):
        replacement = fill(x[n : n + 1].clone(), generator(seed, n, repeat, "fill"))[0]
        relevance = maps[n].double().sum(0)
        value = {"sum": torch.sum, "mean": torch.mean, "max": torch.max}[reduce]
        worth = [value(relevance[region]).item() for region in regions]
        lot = torch.randperm(len(regions), generator=generator(seed, n, repeat, "order")).tolist()
        known = order != "random"
        first = sorted(range(len(regions)), key=lambda r: (known * -worth[r], lot[r]))
        if order == "lerf":
            first = first[::-1]
        picture = x[n].clone()
        scores[n, repeat, 0] = read(net, picture, targets[n], output)
        for k in range(1, steps + 1):
            rows, columns = regions[first[k - 1]]
            picture[:, rows, columns] = replacement[:, rows, columns]
            scores[n, repeat, k] = read(net, picture, targets[n], output)
    return scores


def spread(outputs, images):
    return outputs.amax(1) - outputs.amin(1)


@pytest.mark.parametrize("output", ["logit", "probability", spread])
@pytest.mark.parametrize("fill", FILLS)
@pytest.mark.parametrize("order", evaluation.ORDERS)
def test_scores_equal_the_naive_loop(net, x, maps, order, fill, output):
    settings = (4, 7, order, FILLS[fill], 2, output)
    expected = naive(net, x, [3, 0, 2], maps, *settings, 11, "sum", "keep")
    for batch_size in (1, 5, 64, None):
        found = RUN(net, x, [3, 0, 2], maps, *settings, batch_size=batch_size, seed=11)
        torch.testing.assert_close(found.scores, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("reduce", ["sum", "mean", "max"])
@pytest.mark.parametrize("edge", ["keep", "drop"])
@pytest.mark.parametrize("size", [1, 3, 5, 10])
def test_regions_of_every_size_equal_the_naive_loop(net, x, maps, size, edge, reduce):
    steps = min(6, len(squares(10, 13, size, edge)))
    fill = FILLS["uniform"]
    for order in ("morf", "lerf"):
        settings = (size, steps, order, fill, 1, "logit")
        expected = naive(net, x, [1, 1, 1], maps, *settings, 0, reduce, edge)
        found = RUN(net, x, 1, maps, *settings, region_score=reduce, edge=edge)
        torch.testing.assert_close(found.scores, expected, atol=1e-5, rtol=0)


def test_scores_on_the_digit_classifier_equal_the_naive_loop():
    net = models.load_classifier("mnist_cnn").module
    digits = data.mnist("test", source="embedded")
    x, targets = digits.images[:3], digits.labels[:3]
    settings = (4, 49, "morf", evaluation.Uniform(), 1, "logit")
    expected = naive(net, x, targets, x, *settings, 0, "sum", "keep")
    found = RUN(net, x, targets, x, *settings, batch_size=32)
    torch.testing.assert_close(found.scores, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("fill", FILLS)
def test_scores_on_the_gpu_equal_those_on_the_cpu(net, x, maps, fill):
    import copy

    here = RUN(net, x, 1, maps, 4, 9, fill=FILLS[fill]).scores
    there = RUN(copy.deepcopy(net).cuda(), x.cuda(), 1, maps.cuda(), 4, 9, fill=FILLS[fill]).scores
    torch.testing.assert_close(there, here, atol=1e-5, rtol=0)


class FirstPixels(nn.Module):
    """Sums a one-channel image of 2 x 2 with the weights 8, 4, 2, 1."""

    def forward(self, x):
        weights = torch.tensor([8.0, 4.0, 2.0, 1.0])
        return (x.flatten(1) * weights).sum(1, keepdim=True)


def test_areas_computed_by_hand():
    x = torch.ones(1, 1, 2, 2)
    relevance = torch.tensor([[[8.0, 4.0], [2.0, 1.0]]])
    settings = {"region_size": 1, "steps": 2, "fill": evaluation.Constant(0.0), "repeats": 1}
    morf = RUN(FirstPixels().eval(), x, 0, relevance, order="morf", **settings)
    lerf = RUN(FirstPixels().eval(), x, 0, relevance, order="lerf", **settings)
    assert morf.scores.tolist() == [[[15, 7, 3]]]
    assert lerf.scores.tolist() == [[[15, 14, 12]]]
    assert morf.aopc().item() == pytest.approx((0 + 8 + 12) / 3)
    assert lerf.aopc().item() == pytest.approx((0 + 1 + 3) / 3)
    assert morf.aopc(steps=1).item() == pytest.approx((0 + 8) / 2)
    assert evaluation.abpc(morf, lerf).item() == pytest.approx((0 + 7 + 9) / 3)


def test_gain_over_random_is_the_difference_of_the_areas(net, x, maps):
    morf, chance = (RUN(net, x, 1, maps, 4, 9, order=order) for order in ("morf", "random"))
    gain = evaluation.gain_over_random(morf, chance)
    torch.testing.assert_close(gain, morf.aopc() - chance.aopc())
    with pytest.raises(ValueError, match="random"):
        evaluation.gain_over_random(morf, morf)


def test_lerf_reads_the_whole_order_from_its_end(net, x, maps):
    """With all regions, the set that LeRF leaves after k steps is what MoRF takes in L - k."""
    zero = evaluation.Constant(0.0)
    morf, lerf = (RUN(net, x, 1, maps, 4, 12, order=o, fill=zero) for o in ("morf", "lerf"))
    for k in range(13):
        taken = (morf.perturbed([12 - k]) == 0).squeeze(1)
        left = (lerf.perturbed([k]) != 0).squeeze(1)
        assert torch.equal(taken, left)


def test_all_methods_and_orders_meet_the_same_noise(net, x, maps):
    both = RUN(net, x, 1, {"one": maps, "other": -maps}, 4, 12, repeats=2)
    lerf = RUN(net, x, 1, maps, 4, 12, order="lerf", repeats=2)
    chance = RUN(net, x, 1, None, 4, 12, order="random", repeats=2)
    ends = [curves.perturbed([12], repeat=1) for curves in (*both.values(), lerf, chance)]
    assert all(torch.equal(end, ends[0]) for end in ends)
    assert not torch.equal(ends[0], both["one"].perturbed([12], repeat=0))
    alone = RUN(net, x, 1, maps, 4, 12, repeats=2)
    torch.testing.assert_close(both["one"].scores, alone.scores)


def test_a_random_order_is_the_same_for_all_methods(net, x, maps):
    found = RUN(net, x, 1, {"one": maps, "other": -maps}, 4, 9, order="random")
    assert torch.equal(found["one"].scores, found["other"].scores)
    assert not torch.equal(found["one"].scores[:, 0], found["one"].scores[:, 1])


def test_a_part_of_the_images_gets_the_draws_of_the_whole(net, x, maps):
    settings = {"region_size": 4, "steps": 9, "fill": evaluation.Uniform()}
    whole = RUN(net, x, [0, 1, 2], maps, **settings).scores
    part = RUN(net, x[1:], [1, 2], maps[1:], first_image=1, **settings).scores
    torch.testing.assert_close(part, whole[1:])


def test_the_shape_of_the_heatmaps_does_not_matter(net, x, maps):
    flat = maps.sum(1)
    scores = [RUN(net, x, 1, m, 4, 9, repeats=1).scores for m in (maps, flat, flat[:, None])]
    assert torch.equal(scores[0], scores[1])
    assert torch.equal(scores[0], scores[2])


def test_no_target_means_the_class_named_for_the_untouched_image(net, x, maps):
    found = RUN(net, x, None, maps, 4, 9, repeats=1, batch_size=2)
    named = RUN(net, x, net(x).argmax(1), maps, 4, 9, repeats=1)
    assert torch.equal(found.scores, named.scores)


def test_a_callable_output_knows_the_image(net, x, maps):
    """The distance of the network's output to that of the untouched image: 0 at the start."""
    before = net(x).detach()

    def distance(outputs, images):
        return (outputs - before[images]).norm(dim=1)

    found = RUN(net, x, None, maps, 4, 9, output=distance, batch_size=7, repeats=1)
    assert found.scores[..., 0].abs().max() < 1e-5
    pictures = found.perturbed([9])[:, 0]
    expected = (net(pictures) - before).norm(dim=1)
    torch.testing.assert_close(found.scores[:, 0, 9], expected.detach(), atol=1e-5, rtol=0)


def test_perturbed_pictures_are_those_that_were_scored(net, x, maps):
    found = RUN(net, x, 2, maps, 4, 9, repeats=2, order="random")
    pictures = found.perturbed([0, 3, 9], repeat=1, images=[2, 0])
    assert pictures.shape == (2, 3, 2, 10, 13)
    assert torch.equal(pictures[:, 0], x[[2, 0]])
    scores = net(pictures.flatten(0, 1))[:, 2].view(2, 3).detach()
    torch.testing.assert_close(found.scores[[2, 0], 1][:, [0, 3, 9]], scores, atol=1e-5, rtol=0)


def test_constant_maps_are_ordered_by_lot_counted_and_reported(net, x, maps):
    dead = maps.clone()
    dead[1] = 0.25
    chance = RUN(net, x, 1, None, 4, 9, order="random")
    with pytest.warns(evaluation.ConstantHeatmapWarning, match=r"cam.*1 of 3"):
        found = RUN(net, x, 1, {"cam": dead}, 4, 9)["cam"]
    assert found.constant.tolist() == [False, True, False]
    assert torch.equal(found.scores[1], chance.scores[1])
    assert not chance.constant.any()
    with pytest.warns(evaluation.ConstantHeatmapWarning):
        lerf = RUN(net, x, 1, dead, 4, 9, order="lerf", fill="blur")
    assert found.tied.tolist() == [0, 12, 0]
    assert not torch.equal(lerf.scores[1, 0], lerf.scores[1, 1])
    assert torch.equal(lerf.scores[0, 0], lerf.scores[0, 1])


def test_equal_scores_are_ordered_by_lot_anew_in_each_repetition(net, x, maps):
    half = maps.clone()
    half[:, :, :, 4:] = 0  # six of nine regions hold nothing
    runs = {order: RUN(net, x, 1, half, 4, 9, order=order) for order in ("morf", "lerf")}
    regions = evaluation.Regions(10, 13, 4)
    assert regions.count == 12
    for order, found in runs.items():
        way = found.perturbation
        assert found.tied.tolist() == [9, 9, 9]
        assert not found.constant.any()
        orders = torch.stack([way.region_order(0, repeat) for repeat in range(10)])
        scored = way.scores[0][orders]
        wanted = way.scores[0].sort(descending=order == "morf").values
        assert torch.equal(scored, wanted.expand(10, -1))  # the map still decides where it can
        assert len({tuple(row.tolist()) for row in orders}) == 10
    assert torch.equal(
        runs["morf"].perturbation.region_order(2, 3),
        runs["lerf"].perturbation.region_order(2, 3).flip(0),
    )


def test_every_region_is_equally_likely_to_go_first_among_equals(net):
    x = torch.rand(400, 2, 10, 13, generator=torch.Generator().manual_seed(3))
    heat = torch.zeros(400, 10, 13)
    heat[:, :4, :4] = -1  # region 0 goes last, the other eleven are equal
    found = RUN(net, x, 1, heat, 4, 1, repeats=3)
    way = found.perturbation
    first = torch.tensor([int(way.region_order(i, r)[0]) for i in range(400) for r in range(3)])
    counts = torch.bincount(first, minlength=12)
    assert counts[0] == 0
    # chi squared with 10 degrees of freedom: 1200 draws of 11 regions; 0.1 % lie above 29.6
    assert ((counts[1:] - 1200 / 11) ** 2 / (1200 / 11)).sum() < 29.6


def test_a_map_without_ties_does_not_meet_the_lot(net, x, maps):
    found = RUN(net, x, 1, maps, 4, 9, fill="constant", repeats=3)
    assert found.tied.tolist() == [0, 0, 0]
    assert torch.equal(found.scores[:, 0], found.scores[:, 2])


def test_the_start_is_the_same_by_the_model_and_by_its_trace(net, x, maps, monkeypatch):
    other = copy.deepcopy(net)
    other[0].bias.data += 0.1
    other[1] = nn.ReLU().eval()
    monkeypatch.setattr(_jobs, "_folded", lambda model, x: graph.trace(other, x))
    with pytest.raises(graph.TraceError, match=r"image \d the traced network gives"):
        RUN(net, x, 1, maps, 4, 9)


def test_a_misspelt_option_is_an_error_for_a_type_checker_too():
    implementation = inspect.signature(RUN).parameters
    for overload in typing.get_overloads(RUN):
        declared = inspect.signature(overload).parameters
        assert list(declared) == list(implementation)
        for name, parameter in declared.items():
            assert parameter.kind == implementation[name].kind
            if name != "heatmaps":
                assert parameter.annotation == implementation[name].annotation, name
    assert len(typing.get_overloads(RUN)) == 2


def test_a_callable_output_is_called_for_scores_alone(net, x, maps):
    seen = []

    def read(outputs, numbers):
        seen.extend(numbers.tolist())
        return outputs[:, 1]

    RUN(net, x, None, maps, 4, 2, repeats=1, output=read, windowed=False)
    assert seen == [0, 1, 2, 0, 0, 1, 1, 2, 2]


def test_nothing_random_runs_once(x, maps):
    seen = []

    class Counting(nn.Module):
        def forward(self, x):
            if not x.is_meta and not torch.compiler.is_compiling():
                seen.append(len(x))
            # It decides by the values and so cannot be traced: this is what runs.
            return x.flatten(1) if x.isfinite().all() else -x

    RUN(Counting().eval(), x, 1, maps, 4, 9, fill="constant", repeats=10)
    assert sum(seen) == 1 + 3 + 3 * 9  # one to find the memory format
    seen.clear()
    RUN(Counting().eval(), x, 1, maps, 4, 9, fill="uniform", repeats=10, batch_size=50)
    assert sum(seen) == 1 + 3 + 3 * 9 * 10
    assert max(seen) == 50


def test_a_network_that_cannot_take_channels_last_is_run_all_the_same(x, maps):
    class Viewing(nn.Module):
        def __init__(self):
            super().__init__()
            self.filters = nn.Conv2d(2, 3, 3)

        def forward(self, x):
            features = self.filters(x)
            return features.view(len(x), -1)

    net = Viewing().eval()
    with pytest.raises(RuntimeError, match="view"):
        net(x.contiguous(memory_format=torch.channels_last))
    expected = naive(
        net, x, [1, 1, 1], maps, 4, 5, "morf", FILLS["blur"], 1, "logit", 0, "sum", "keep"
    )
    found = RUN(net, x, 1, maps, 4, 5, fill="blur", repeats=1)
    torch.testing.assert_close(found.scores, expected, atol=1e-5, rtol=0)


def test_neither_the_model_nor_the_images_are_touched(net, x, maps):
    weights = [p.clone() for p in net.parameters()]
    kept = x.clone()

    def destructive(images, draw):
        return images.zero_()

    RUN(net, x, 1, maps, 4, 9, fill=destructive)
    assert torch.equal(x, kept)
    assert all(torch.equal(a, b) for a, b in zip(net.parameters(), weights, strict=True))


def refusing():
    class Refusing(nn.Module):
        def forward(self, x):
            raise AssertionError("work was done before the error")

    return Refusing().eval()


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"steps": 13}, ValueError, "12 of 4 x 4"),
        ({"steps": 7, "edge": "drop"}, ValueError, "6 of 4 x 4"),
        ({"steps": 0}, ValueError, "steps"),
        ({"repeats": 0}, ValueError, "repeats"),
        ({"repeats": 1.5}, TypeError, "repeats"),
        ({"batch_size": 0}, ValueError, "batch_size"),
        ({"seed": -1}, ValueError, "seed"),
        ({"order": "most"}, ValueError, "'morf', 'lerf', 'random'"),
        ({"fill": "black"}, ValueError, "'uniform'"),
        ({"output": "loss"}, ValueError, "'logit'"),
        ({"region_score": "median"}, ValueError, "'max'"),
        ({"edge": "wrap"}, ValueError, "'keep'"),
        ({"region_size": 0}, ValueError, "region_size"),
        ({"heatmaps": torch.zeros(3, 10, 12)}, ValueError, r"\(3, 10, 13\)"),
        ({"heatmaps": torch.zeros(2, 10, 13)}, ValueError, r"\(3, 10, 13\)"),
        ({"heatmaps": None}, TypeError, "random"),
        ({"heatmaps": {}}, ValueError, "empty"),
        ({"heatmaps": {"lrp": torch.full((3, 10, 13), torch.nan)}}, ValueError, "lrp.*3 of 3"),
        ({"heatmaps": torch.full((3, 10, 13), torch.inf)}, ValueError, "NaN or infinite"),
        ({"x": torch.zeros(3, 10)}, ValueError, r"\(N, C, H, W\)"),
        ({"x": torch.full((3, 2, 10, 13), torch.nan)}, ValueError, "NaN"),
        ({"x": torch.zeros(3, 2, 10, 13).int()}, TypeError, "float"),
        ({"model": nn.Conv2d(2, 1, 1)}, ValueError, "eval"),
        ({"model": lambda x: x}, TypeError, "Module"),
    ],
)
def test_bad_input_is_refused_before_any_work(x, maps, change, error, words):
    good = {"model": refusing(), "x": x, "target": 0, "heatmaps": maps, "region_size": 4}
    with pytest.raises(error, match=words):
        RUN(**(good | {"steps": 5} | change))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"target": 5}, "from 0 to 4"),
        ({"target": [1, 2]}, "3"),
        ({"output": lambda outputs, images: outputs}, r"scores \(3,\)"),
        ({"fill": lambda images, draw: images[..., :2]}, "shape"),
        ({"fill": lambda images, draw: images * torch.nan}, "NaN"),
    ],
)
def test_what_only_the_first_picture_tells_is_refused_too(net, x, maps, change, words):
    with pytest.raises(ValueError, match=words):
        RUN(**({"model": net, "x": x, "target": 0, "heatmaps": maps, "region_size": 4,
                "steps": 5} | change))  # fmt: skip


def test_an_output_that_is_not_a_number_is_an_error(x, maps):
    class Explosive(nn.Module):
        def forward(self, x):
            return x.flatten(1) / (x.flatten(1) != 0)

    with pytest.raises(FloatingPointError, match="NaN or infinite"):
        RUN(Explosive().eval(), x, 0, maps, 4, 12, fill=evaluation.Constant(0.0))


def test_curves_that_do_not_belong_together_are_refused(net, x, maps):
    morf = RUN(net, x, 1, maps, 4, 9)
    with pytest.raises(ValueError, match="orders"):
        evaluation.abpc(morf, morf)
    with pytest.raises(ValueError, match="repetitions or steps"):
        evaluation.abpc(morf, RUN(net, x, 1, maps, 4, 8, order="lerf"))
    with pytest.raises(ValueError, match="different images"):
        evaluation.abpc(morf, RUN(net, x.flip(0), 1, maps, 4, 9, order="lerf"))
    for wrong in ({"steps": [13]}, {"steps": [1], "repeat": 10}, {"steps": [1], "images": [3]}):
        with pytest.raises(ValueError, match="must be from 0"):
            morf.perturbed(**wrong)
    with pytest.raises(ValueError, match="from 0 to 9"):
        morf.aopc(steps=10)


shapes = st.tuples(st.integers(2, 12), st.integers(2, 12))


@settings(max_examples=40, deadline=None)
@given(sides=shapes, size=st.integers(1, 12), edge=st.sampled_from(["keep", "drop"]))
def test_regions_are_those_of_the_slices(sides, size, edge):
    if edge == "drop" and size > min(sides):
        assert evaluation.Regions(*sides, size, edge).count == 0
        return
    regions = evaluation.Regions(*sides, size, edge)
    expected = torch.full(sides, regions.count)
    found = squares(*sides, size, edge)
    for number, region in enumerate(found):
        expected[region] = number
    assert regions.count == len(found)
    assert torch.equal(regions.index, expected)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), scale=st.floats(0.1, 10), shift=st.floats(-3, 3))
def test_only_the_ranking_of_the_regions_matters(seed, scale, shift):
    """Scaling a heatmap by a positive number leaves all scores, and so does a shift."""
    draw = torch.Generator().manual_seed(seed)
    x, relevance = torch.rand(2, 1, 6, 6, generator=draw), torch.rand(2, 6, 6, generator=draw)
    net = nn.Flatten().eval()
    found = RUN(net, x, 0, relevance, 2, 9, repeats=1, seed=seed)
    other = RUN(net, x, 0, relevance * scale + shift, 2, 9, repeats=1, seed=seed)
    assert torch.equal(found.scores, other.scores)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), order=st.sampled_from(evaluation.ORDERS))
def test_each_step_changes_one_region_more(seed, order):
    draw = torch.Generator().manual_seed(seed)
    x, relevance = torch.rand(1, 1, 5, 7, generator=draw), torch.rand(1, 5, 7, generator=draw)
    fill = evaluation.Constant(-1.0)
    found = RUN(nn.Flatten().eval(), x, 0, relevance, 2, 12, order, fill, 1, seed=seed)
    gone = found.perturbed(range(13))[0, :, 0] == -1
    assert not gone[0].any()
    assert gone[12].all()
    for before, after in itertools.pairwise(gone):
        assert (before <= after).all()
        assert found.perturbation.draws.regions.index[after & ~before].unique().numel() == 1


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_a_perfect_order_of_an_additive_model_is_never_beaten(seed):
    """If f is a weighted sum, the map weight x value ranks regions by what their loss costs."""
    draw = torch.Generator().manual_seed(seed)
    x, weights = torch.rand(2, 2, 6, 6, generator=draw), torch.randn(2, 6, 6, generator=draw)
    net = nn.Sequential(nn.Flatten(), nn.Linear(72, 1, bias=False)).eval()
    net[1].weight.data = weights.flatten()[None]
    maps = {"perfect": x * weights, "other": torch.rand(2, 6, 6, generator=draw)}
    zero = evaluation.Constant(0.0)
    morf, lerf = (RUN(net, x, 0, maps, 2, 6, order, zero, 1) for order in ("morf", "lerf"))
    assert (morf["perfect"].aopc() >= morf["other"].aopc() - 1e-5).all()
    assert (lerf["perfect"].aopc() <= lerf["other"].aopc() + 1e-5).all()
    assert (evaluation.abpc(morf["perfect"], lerf["perfect"]) >= -1e-5).all()


def test_uniform_noise_is_independent_and_in_range():
    noise = FILLS["uniform"](torch.zeros(1, 2, 100, 100), torch.Generator().manual_seed(0))[0]
    assert noise.amin() >= -0.5
    assert noise[0].amax() <= 1.0
    assert 1.9 < noise[1].amax() <= 2.0
    assert abs(torch.corrcoef(noise.flatten(1))[0, 1]) < 0.05
    neighbours = torch.stack([noise[0, 1:].flatten(), noise[0, :-1].flatten()])
    assert abs(torch.corrcoef(neighbours)[0, 1]) < 0.05
    with pytest.raises(ValueError, match="exceed"):
        evaluation.Uniform(1.0, 0.0)


def test_the_named_fills_take_range_and_mean_from_the_images(x):
    low, high = x.amin((0, 2, 3)).view(2, 1, 1), x.amax((0, 2, 3)).view(2, 1, 1)
    uniform = evaluation.FILLS["uniform"](x)
    assert torch.equal(uniform.low, low)
    assert torch.equal(uniform.high, high)
    mean = evaluation.FILLS["constant"](x)(x, torch.Generator())
    torch.testing.assert_close(mean, x.mean(0).expand_as(x))


def test_dirichlet_keeps_the_mean_colour_and_half_the_covariance():
    draw = torch.Generator().manual_seed(0)
    red = torch.rand(1, 1, 150, 150, generator=draw)
    image = torch.cat([red, 1 - red + 0.1 * torch.rand(1, 1, 150, 150, generator=draw)], dim=1)
    drawn = evaluation.Dirichlet()(image, draw)
    torch.testing.assert_close(drawn.mean((2, 3)), image.mean((2, 3)), atol=0.01, rtol=0)
    covariance, before = (torch.cov(t[0].flatten(1)) for t in (drawn, image))
    torch.testing.assert_close(covariance, before / 2, atol=0.003, rtol=0)
    whole = evaluation.Dirichlet(points=1)(image, draw)
    torch.testing.assert_close(torch.cov(whole[0].flatten(1)), before, atol=0.003, rtol=0)
    with pytest.raises(ValueError, match="points"):
        evaluation.Dirichlet(points=0)


def test_blur_is_a_gaussian_of_its_sigma():
    image = torch.zeros(1, 1, 41, 41)
    image[..., 20, 20] = 1
    blurred = evaluation.Blur(sigma=3.0)(image, torch.Generator())
    places = torch.arange(41.0) - 20
    across = blurred[0, 0].sum(0)
    assert across.sum().item() == pytest.approx(1, abs=1e-5)
    assert (across * places**2).sum().sqrt().item() == pytest.approx(3, rel=0.02)
    flat = evaluation.Blur()(torch.full((1, 2, 5, 5), 0.7), torch.Generator())
    torch.testing.assert_close(flat, torch.full((1, 2, 5, 5), 0.7))
    with pytest.raises(ValueError, match="sigma"):
        evaluation.Blur(0.0)


def test_a_good_map_beats_chance_on_the_digits():
    """Erasing ink where there is most of it hurts more than erasing regions by lot."""
    net = models.load_classifier("mnist_cnn").module
    digits = data.mnist("test", source="embedded")
    x, labels = digits.images[:40], digits.labels[:40]
    empty = evaluation.Constant(0.0)
    morf, chance = (RUN(net, x, labels, x, 4, 20, o, empty, 3) for o in ("morf", "random"))
    assert evaluation.bootstrap(evaluation.gain_over_random(morf, chance)).low > 0


def test_no_warning_for_good_input(net, x, maps):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        RUN(net, x, 1, maps, 4, 9)
