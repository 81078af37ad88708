"""The LRP stepper: its numbers are the package's, and the page shows them step by step."""

import re

import build
import nbformat
import page_checks
import pytest
import torch
from torch import nn

from xaiutils import attribution, plot, widgets
from xaiutils.attribution import AlphaBeta, Epsilon, Gamma, ZPlus

PAGE = "notebooks/13_lrp_rules"


def by_hand():
    """The network of chapter 13."""
    net = nn.Sequential(nn.Linear(2, 3, bias=False), nn.ReLU(), nn.Linear(3, 1, bias=False))
    net[0].weight.data = torch.tensor([[3.0, -1.0], [-1.0, 2.0], [4.0, -1.0]])
    net[2].weight.data = torch.tensor([[2.0, 2.0, -2.0]])
    return net.eval(), torch.tensor([[1.0, 2.0]])


def with_biases():
    torch.manual_seed(3)
    layers = [nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 2)]
    return nn.Sequential(*layers).eval(), torch.tensor([[0.3, 1.2, 0.7]])


# ------------------------------------------------------------------------------------ its numbers


def test_what_the_chapter_works_by_hand():
    found = {one["name"]: one for one in widgets.LRPStepper(*by_hand()).passes}
    assert found["LRP-0"]["messages"][0] == [[6, -4], [-2, 8], [-8, 4]]
    pencil = {"LRP-0": [-4, 8], "z+": [1, 3], "alpha 2, beta -1": [-10, 14]}
    for name, relevance in pencil.items():
        assert found[name]["relevance"][0] == pytest.approx(relevance)


@pytest.mark.parametrize("rule", [Epsilon(0.0), Epsilon(0.5), Gamma(0.25), ZPlus(), AlphaBeta()])
@pytest.mark.parametrize("target", [0, 1])
def test_agrees_with_lrp_on_the_whole_network(rule, target):
    model, x = with_biases()
    (found,) = widgets.LRPStepper(model, x, target, {"rule": rule}).passes
    expected, report = attribution.lrp(model, x, target, {nn.Linear: rule}, return_report=True)
    assert found["relevance"][0] == pytest.approx(expected[0].tolist(), rel=1e-4, abs=1e-6)
    for cause in ("bias", "stabiliser", "dead"):
        absorbed = sum(sum(units) for units in found[cause])
        assert absorbed == pytest.approx(getattr(report, cause).item(), rel=1e-4, abs=1e-6)


def test_the_account_of_every_layer_is_closed():
    model, x = with_biases()
    output = model(x)[0, 1].item()
    for found in widgets.LRPStepper(model, x, target=1).passes:
        for layer, units in enumerate(found["relevance"]):
            lost = [sum(map(sum, found[c][layer:])) for c in ("bias", "stabiliser", "dead")]
            assert sum(units) + sum(lost) == pytest.approx(output, abs=1e-5)


def test_leaves_the_model_as_it_was():
    model, x = with_biases()
    model.train()
    widgets.LRPStepper(model, x)
    assert all(module.training for module in model.modules())


def test_its_twin_says_what_arrives():
    text = plot.alternative_text(widgets.LRPStepper(*by_hand()).static_twin())
    assert "LRP-0 -4.00, 8.00" in text
    assert "z+ 1.00, 3.00" in text


@pytest.mark.parametrize(
    "model",
    [
        nn.Linear(2, 1),
        nn.Sequential(),
        nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1)),
        nn.Sequential(nn.Linear(2, 2), nn.Sigmoid(), nn.Linear(2, 1)),
        nn.Sequential(nn.Linear(2, 1), nn.ReLU()),
    ],
)
def test_other_models_are_refused(model):
    with pytest.raises(TypeError, match=r"nn\.Sequential of nn\.Linear, nn\.ReLU"):
        widgets.LRPStepper(model, torch.ones(2))


def test_bad_arguments_are_refused():
    model, x = by_hand()
    with pytest.raises(ValueError, match="9 units"):
        widgets.LRPStepper(nn.Sequential(nn.Linear(9, 1)), torch.ones(9))
    with pytest.raises(ValueError, match="reads 2 numbers"):
        widgets.LRPStepper(model, torch.ones(3))
    with pytest.raises(ValueError, match="no output 1"):
        widgets.LRPStepper(model, x, target=1)
    with pytest.raises(ValueError, match="no rule"):
        widgets.LRPStepper(model, x, rules={})
    with pytest.raises(ValueError, match="The rules are"):
        widgets.LRPStepper(model, x).rule = "z-"


# -------------------------------------------------------------------------------------- the page


@pytest.fixture
def stepper(open_page):
    """The widget on its page."""
    page = open_page(PAGE)
    widget = page.get_by_role("region", name="Relevance, step by step")
    widget.wait_for()
    return widget


def shown_relevance(stepper):
    """What stands in the units, from the inputs up; a dot where nothing arrived yet."""
    texts = stepper.locator(".xai-relevance").all_text_contents()
    return [text.replace("\u2212", "-") for text in texts]


def test_buttons_step_forth_and_back(stepper):
    empty = ["\u00b7"]
    assert shown_relevance(stepper) == [*empty * 5, "4.00"]
    stepper.get_by_role("button", name="Step", exact=True).click()
    assert shown_relevance(stepper) == [*empty * 2, "2.00", "6.00", "-4.00", "4.00"]
    stepper.get_by_role("button", name="Step", exact=True).click()
    assert shown_relevance(stepper)[:2] == ["6.00", "-4.00"]
    assert "6.00 to input 1" in stepper.get_by_role("status").text_content()
    stepper.get_by_role("button", name="Back").click()
    assert shown_relevance(stepper)[:2] == empty * 2
    stepper.get_by_role("button", name="To the inputs").click()
    assert shown_relevance(stepper)[:2] == ["-4.00", "8.00"]
    stepper.get_by_role("button", name="Start over").click()
    assert shown_relevance(stepper)[2:5] == empty * 3


def test_arrow_keys_step_and_keep_the_focus(stepper):
    button = stepper.get_by_role("button", name="Step", exact=True)
    for key in ("ArrowRight", "End", "ArrowLeft", "End", "ArrowRight"):
        button.press(key)
    assert shown_relevance(stepper)[:2] == ["-4.00", "8.00"]
    assert button.evaluate("node => node === document.activeElement")
    button.press("Home")
    assert shown_relevance(stepper)[0] == "\u00b7"


def test_every_rule_shows_the_numbers_of_lrp(stepper):
    model, x = by_hand()
    stepper.get_by_role("button", name="To the inputs").click()
    rules = stepper.get_by_label("rule")
    for name, rule in widgets._lrp_stepper.RULES.items():
        rules.select_option(name)
        expected = attribution.lrp(model, x, 0, {nn.Linear: rule})[0]
        assert shown_relevance(stepper)[:2] == [f"{value:.2f}" for value in expected]
        totals = stepper.locator("tbody tr td:last-child").all_text_contents()
        assert totals == ["4.00"] * 3


def test_touch_targets_and_phone_width(open_page):
    page = open_page(PAGE, viewport=page_checks.PHONE, has_touch=True)
    widget = page.get_by_role("region", name="Relevance, step by step")
    step = widget.get_by_role("button", name="Step", exact=True)
    step.tap()
    assert shown_relevance(widget)[3] == "6.00"
    for control in widget.locator("button, select").all():
        box = control.bounding_box()
        assert min(box["width"], box["height"]) >= 44
    assert page.evaluate("pageChecks.sideways()") == []


def test_paper_shows_the_twin_in_its_place(open_page):
    page = open_page(PAGE)
    widget = page.get_by_role("region", name="Relevance, step by step")
    twin = page.locator("img.static-twin[alt*='under each rule']")
    widget.wait_for()
    assert not twin.is_visible()
    page.emulate_media(media="print")
    assert twin.is_visible()
    assert not widget.is_visible()


def test_without_scripts_the_twin_is_shown(browser, book):
    page = browser.new_page(java_script_enabled=False)
    page.goto(f"{book}/{PAGE}.html")
    assert page.locator("img.static-twin[alt*='under each rule']").is_visible()
    page.close()


# ----------------------------------------------------------------- every page that has a widget

PAGE_LIMIT = 3_000_000  # bytes of a page's own: its html, the widgets' state included


def _pages_with_widgets():
    listed = re.findall(r"file: (notebooks/\w+)", (build.ROOT / "_toc.yml").read_text())
    notebooks = {name: nbformat.read(build.ROOT / f"{name}.ipynb", 4) for name in listed}
    return [name for name, notebook in notebooks.items() if notebook.metadata.get("widgets")]


def test_chapters_have_widgets():
    assert PAGE in _pages_with_widgets()


@pytest.mark.parametrize("name", _pages_with_widgets())
def test_page_with_its_widgets_is_light(book, name):
    page = build.ROOT / build.HTML / f"{name}.html"
    assert page.stat().st_size < PAGE_LIMIT
