"""The explorers of the built book, by the hand of a reader: no kernel, and nothing from outside."""

import build
import numpy as np
import pytest
import torch

from xaiutils import data, models
from xaiutils.evaluation import Regions
from xaiutils.widgets import PageFill

PAGE = "notebooks/45_explorer"
MOST_BYTES = 3_000_000
READ_CANVAS = """canvas => {
    const context = canvas.getContext('2d');
    return Array.from(context.getImageData(0, 0, canvas.width, canvas.height).data);
}"""


class Reader:
    """What a reader sees of one explorer, and does with it."""

    def __init__(self, page, number):
        self.page = page
        self.widget = page.locator(".xai-perturbation").nth(number)
        page.wait_for_function(
            "k => document.querySelectorAll('.xai-perturbation')[k]?.dataset.ready === 'all'",
            arg=number,
        )

    def choose(self, label, value):
        self.widget.get_by_role("combobox", name=label).select_option(value)

    @property
    def slider(self):
        return self.widget.get_by_role("slider", name="Step")

    @property
    def stage(self):
        return self.widget.locator(".xai-touch")

    def step_to(self, step):
        """Wait for the curves, and go to a step."""
        self.wait_for_curves()
        self.slider.fill(str(step))

    def wait_for_curves(self):
        widget = self.widget.element_handle()
        self.page.wait_for_function("widget => widget.dataset.known === 'true'", arg=widget)

    def wait_for_map(self):
        """A map of many passes takes a moment."""
        self.widget.locator(".xai-heat:not(.xai-unknown)").wait_for()

    def drag(self, locator, *points):
        """Press, move and release the mouse over shares of an element."""
        locator.scroll_into_view_if_needed()
        box = locator.bounding_box()
        places = [(box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in points]
        self.page.mouse.move(*places[0])
        self.page.mouse.down()
        for place in places[1:]:
            self.page.mouse.move(*place, steps=10)
        self.page.mouse.up()

    def picture(self):
        """The levels on the picture's canvas, (H, W, 4)."""
        canvas = self.widget.locator(".xai-picture")
        height, width = int(canvas.get_attribute("height")), int(canvas.get_attribute("width"))
        levels = np.array(canvas.evaluate(READ_CANVAS), dtype=np.uint8)
        return levels.reshape(height, width, 4)

    def heatmap(self):
        return self.widget.locator(".xai-heat").evaluate(READ_CANVAS)

    def curve(self):
        return self.widget.locator(".xai-chart polyline[stroke-width='3.5']").get_attribute(
            "points"
        )

    def score(self):
        """The score that the widget states, once it knows one."""
        facts = self.widget.locator(".xai-facts:not([data-score=''])")
        return float(facts.get_attribute("data-score"))

    def regions(self):
        return [
            int(k) for k in self.widget.locator(".xai-facts").get_attribute("data-regions").split()
        ]

    def first_class(self):
        return self.widget.locator(".xai-top .xai-name").first.text_content()


@pytest.fixture
def digits(open_page):
    return Reader(open_page(PAGE), 0)


@pytest.fixture
def photos(open_page):
    return Reader(open_page(PAGE), 1)


@pytest.fixture(scope="module")
def cnn():
    return models.load_classifier("mnist_cnn")


@pytest.fixture(scope="module")
def lite():
    return models.load_classifier("efficientnet_lite0")


def _digit(number):
    return data.mnist("test", source="embedded").images[number : number + 1]


def _logits(classifier, levels):
    """PyTorch's answer on the picture that stands on the page."""
    channels = len(classifier.preprocess.mean)
    picture = torch.from_numpy(levels[..., :channels].copy()).permute(2, 0, 1)[None] / 255
    with torch.no_grad():
        return classifier.module(classifier.preprocess.normalize(picture))[0]


@pytest.mark.parametrize("number", [0, 1], ids=["digits", "photographs"])
def test_another_method_changes_heatmap_and_curve(open_page, number):
    reader = Reader(open_page(PAGE), number)
    reader.step_to(3)
    seen = [(reader.heatmap(), reader.curve())]
    for method in ("input_x_gradient", "lrp_z_plus" if number == 0 else "grad_cam"):
        reader.choose("Method", method)
        reader.wait_for_curves()
        seen.append((reader.heatmap(), reader.curve()))
    assert seen[-1][0] != seen[-2][0]
    assert seen[-1][1] != seen[-2][1]


@pytest.mark.parametrize("fill", ["uniform", "black", "mean", "blur"])
def test_dragging_over_a_digit_gives_pytorchs_score(digits, cnn, fill):
    digits.choose("Image", "3")
    digits.choose("Fill", fill)
    untouched = digits.picture()
    digits.drag(digits.stage, (0.35, 0.3), (0.6, 0.3), (0.6, 0.5))
    replaced = digits.regions()
    assert len(replaced) >= 4
    x = _digit(3)
    gone = torch.isin(Regions(28, 28, 4).index, torch.tensor(replaced))
    expected = torch.where(gone, PageFill(fill, cnn.preprocess)(x), x)
    levels = digits.picture()
    assert np.array_equal(levels[..., 0], (expected[0, 0] * 255).round().byte().numpy())
    assert not np.array_equal(levels, untouched)
    logits = _logits(cnn, levels)
    assert abs(digits.score() - logits[3].item()) < 1e-4
    assert digits.first_class() == str(logits.argmax().item())
    digits.widget.get_by_role("button", name="Undo my regions").click()
    assert np.array_equal(digits.picture(), untouched)


@pytest.mark.parametrize("order", ["morf", "lerf", "random"])
def test_every_step_of_a_digits_curve_is_pytorchs(digits, cnn, order):
    digits.choose("Region", "7")
    digits.choose("Order", order)
    for step in (0, 1, 9, 16):
        digits.step_to(step)
        assert len(digits.regions()) == step
        logits = _logits(cnn, digits.picture())
        assert abs(digits.score() - logits[0].item()) < 1e-4
        assert digits.first_class() == str(logits.argmax().item())


@pytest.mark.parametrize("order", ["morf", "random"])
def test_the_lead_over_the_runner_up_is_pytorchs(digits, cnn, order):
    digits.choose("Image", "4")
    own, rival = cnn.module(_digit(4))[0].topk(2).indices.tolist()
    digits.choose("Order", order)
    digits.step_to(6)
    before = digits.curve()
    digits.choose("Explained", "margin")
    for step in (0, 6, 20):
        digits.step_to(step)
        logits = _logits(cnn, digits.picture())
        assert abs(digits.score() - (logits[own] - logits[rival]).item()) < 1e-4
    assert digits.curve() != before
    assert (
        f"logit of “4” less that of “{rival}”" in digits.widget.locator(".xai-facts").inner_text()
    )
    digits.drag(digits.stage, (0.4, 0.4))
    logits = _logits(cnn, digits.picture())
    assert abs(digits.score() - (logits[own] - logits[rival]).item()) < 1e-4


def test_a_drawn_digit_is_classified_as_pytorch_does(digits, cnn):
    before = digits.heatmap()
    pad = digits.widget.locator(".xai-pad")
    digits.drag(pad, (0.3, 0.25), (0.7, 0.25), (0.45, 0.8))
    assert digits.widget.get_by_role("combobox", name="Image").input_value() == "drawing"
    levels = digits.picture()
    ink = levels[..., 0].astype(float)
    rows, columns = np.nonzero(ink)
    assert 19 <= max(np.ptp(rows), np.ptp(columns)) <= 21
    centre = (ink.sum(1) @ (np.arange(28) + 0.5), ink.sum(0) @ (np.arange(28) + 0.5)) / ink.sum()
    assert np.abs(centre - 14).max() < 0.6
    logits = _logits(cnn, levels)
    named = str(logits.argmax().item())
    assert digits.first_class() == named == "7"
    assert abs(digits.score() - logits.max().item()) < 1e-4
    assert digits.heatmap() != before
    digits.step_to(5)
    assert len(digits.regions()) == 5
    assert abs(digits.score() - _logits(cnn, digits.picture())[7].item()) < 1e-4


@pytest.mark.parametrize("explained", ["class", "margin"])
def test_heatmaps_of_a_drawing_are_pytorchs(digits, cnn, explained):
    """A stored digit goes over the pad: its map in the page has the colours of PyTorch's map."""
    from xaiutils import attribution, plot

    digits.widget.get_by_role("combobox", name="Start from").select_option("a 2")
    digits.choose("Explained", explained)
    x = torch.from_numpy(digits.picture()[..., 0].copy())[None, None] / 255
    target = attribution.Difference(2, 3) if explained == "margin" else 2
    assert cnn.module(x)[0].topk(2).indices.tolist() == [2, 3]
    for method in (
        "gradient",
        "lrp_z_plus",
        "lrp_alpha2_beta1",
        "integrated_gradients",
        "deeplift",
        "occlusion",
    ):
        digits.choose("Method", method)
        digits.wait_for_map()
        seen = np.array(digits.heatmap()).reshape(28, 28, 4)[..., :3]
        relevance = attribution.METHODS[method](cnn.module, x, target)[0, 0]
        limit = plot.colour_limit(relevance)
        expected = plot.SIGNED((relevance / limit / 2 + 0.5).numpy(), bytes=True)[..., :3]
        assert np.abs(seen - expected.astype(int)).max() <= 6  # one of 256 colours beside it


def test_photographs_are_rebuilt_as_they_were_scored(photos, lite):
    for method, order, fill in (
        ("lrp_epsilon_plus", "morf", "uniform"),
        ("grad_cam", "lerf", "blur"),
        ("grad_cam", "random", "uniform"),
    ):
        photos.choose("Method", method)
        photos.choose("Order", order)
        photos.choose("Fill", fill)
        photos.step_to(12)
        logits = _logits(lite, photos.picture())
        missile = lite.categories.index("missile")
        assert abs(photos.score() - logits[missile].item()) < 1e-2
        assert photos.first_class() == lite.categories[logits.argmax()]


def test_a_click_on_a_photograph_shows_what_is_stored_of_the_region(photos, lite):
    photos.drag(photos.stage, (0.1, 0.1))
    photos.drag(photos.stage, (0.4, 0.4))
    assert len(photos.regions()) == 1
    assert "this region alone" in photos.widget.locator(".xai-origin").text_content()
    logits = _logits(lite, photos.picture())
    assert abs(photos.score() - logits[lite.categories.index("missile")].item()) < 1e-2


def test_what_needs_a_kernel_cannot_be_chosen(photos):
    options = photos.widget.get_by_role("combobox", name="Region").locator("option")
    enabled = [option.get_attribute("value") for option in options.all() if option.is_enabled()]
    assert enabled == ["28"]


def test_keyboard_alone_is_enough(digits, cnn):
    digits.wait_for_curves()
    digits.widget.get_by_role("combobox", name="Region").focus()
    digits.page.keyboard.press("Tab")  # the play button
    digits.page.keyboard.press("Tab")  # the step slider
    for _ in range(3):
        digits.page.keyboard.press("ArrowRight")
    assert len(digits.regions()) == 3
    digits.page.keyboard.press("Tab")  # the picture
    for key in ("ArrowDown", "ArrowDown", "ArrowRight", "ArrowRight", "ArrowRight", " "):
        digits.page.keyboard.press(key)
    assert digits.regions() == [2 * 7 + 3]
    assert abs(digits.score() - _logits(cnn, digits.picture())[0].item()) < 1e-4
    digits.page.keyboard.press("Escape")
    assert len(digits.regions()) == 3


def test_keyboard_changes_what_is_explained(digits):
    digits.wait_for_curves()
    before = digits.score()
    digits.widget.get_by_role("combobox", name="Method").focus()
    digits.page.keyboard.press("Tab")
    explained = digits.widget.get_by_role("combobox", name="Explained")
    assert explained.evaluate("node => node === document.activeElement")
    digits.page.keyboard.press("ArrowDown")
    assert explained.input_value() == "margin"
    digits.wait_for_curves()
    assert digits.score() != before


def test_a_widget_with_one_question_does_not_ask_which(photos):
    assert photos.widget.locator("label", has_text="Explained").is_hidden()


def test_keyboard_draws(digits, cnn):
    pad = digits.widget.locator(".xai-pad")
    pad.focus()
    digits.page.keyboard.press(" ")
    for _ in range(12):
        digits.page.keyboard.press("ArrowDown")
    digits.page.keyboard.press(" ")
    logits = _logits(cnn, digits.picture())
    assert digits.picture()[..., 0].any()
    assert digits.first_class() == str(logits.argmax().item())


def test_play_goes_through_the_steps_and_stops(digits):
    digits.step_to(44)
    button = digits.widget.get_by_role("button", name="Play")
    button.click()
    digits.widget.get_by_role("button", name="Pause").wait_for()
    button.wait_for(timeout=15_000)  # at the last step it stops by itself
    assert len(digits.regions()) == 49


def test_a_finger_is_as_good_as_a_mouse(open_page, cnn):
    phone = {"viewport": {"width": 390, "height": 844}, "has_touch": True}
    digits = Reader(open_page(PAGE, **phone), 0)
    digits.stage.scroll_into_view_if_needed()
    digits.stage.tap()
    assert digits.regions() == [24]
    assert abs(digits.score() - _logits(cnn, digits.picture())[0].item()) < 1e-4


def test_page_is_light_enough(book):
    html = (build.ROOT / build.HTML / f"{PAGE}.html").read_text()
    pictures = [p for p in (build.ROOT / build.HTML / "_images").iterdir() if p.name in html]
    assert len(html.encode()) + sum(p.stat().st_size for p in pictures) < MOST_BYTES
