"""The latent explorer: its pictures and maps are PyTorch's, and it can be used without a mouse."""

import copy
import json
import re

import pytest
import torch
from page_scripts import functions
from torch import nn

from xaiutils import attribution, data, models, plot
from xaiutils.attribution._cam import enlarged
from xaiutils.widgets import LatentExplorer, NotExportable

SCRIPT = functions("network.js", "pictures.js", "latent.js")
LATENT = 3


@pytest.fixture(scope="module")
def autoencoder():
    return models.load_autoencoder("mnist_ae_16")


@pytest.fixture(scope="module")
def digits():
    return data.mnist("test", source="embedded").images[:3]


@pytest.fixture
def explorer(autoencoder, digits):
    return LatentExplorer(autoencoder, digits, names=["seven", "two", "one"], layer="3")


@pytest.fixture(scope="module")
def halved(autoencoder):
    """The autoencoder with the very weights that the page has: those of half precision."""
    return copy.deepcopy(autoencoder).half().float()


# ------------------------------------------------------------------------------- the page's maps


def explain_in_page(run_script, explorer, pooled):
    """What latent.js computes for the first picture, and for its size of the input."""
    code = """
    export function run({ setup, picture, pooled }) {
      const [encoder, decoder] = [loadNetwork(setup.encoder), loadNetwork(setup.decoder)];
      const { code, maps, size } = latentMaps(encoder, picture, setup.layer, pooled);
      const weights = decoderNorms(decoder, code);
      const large = enlarge(aggregateOf(maps, weights), size, encoder.shapes[0].slice(1));
      return [code, ...[maps.map((m) => [...m]).flat(), weights, large]].map((a) => [...a]);
    }
    """
    asked = {"setup": explorer.setup, "picture": explorer._x[0].flatten().tolist()}
    found = run_script(SCRIPT + code, {**asked, "pooled": pooled})
    return dict(zip(("latents", "maps", "weights", "aggregate"), found, strict=True))


@pytest.mark.parametrize("pooled", [True, False])
def test_maps_in_the_page_are_grad_lam(run_script, autoencoder, digits, pooled):
    explorer = LatentExplorer(autoencoder, digits, layer="3", dtype="float32")
    found = explain_in_page(run_script, explorer, pooled)
    expected = attribution.grad_lam(
        autoencoder.encoder, autoencoder.decoder, explorer._x[:1], "3", pooled=pooled
    )
    for name, values in found.items():
        reference = getattr(expected, name).flatten()
        difference = (torch.tensor(values) - reference).abs().max() / reference.abs().max()
        assert difference < 1e-4, f"{name} is off by {difference:.2g}"


def test_last_maps_and_colours(run_script):
    """Without a layer it is the last maps that are read, after BatchNorm and ReLU; in colour."""
    torch.manual_seed(0)
    encoder = nn.Sequential(
        nn.Conv2d(3, 4, 3, stride=2, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(),
        nn.Linear(4 * 6 * 5, 3),
    )  # fmt: skip
    encoder[1].running_mean.uniform_()
    decoder = nn.Sequential(nn.Linear(3, 360), nn.Unflatten(1, (3, 12, 10)))
    colourful = models.Autoencoder(encoder, decoder, (3, 12, 10)).eval()
    x = torch.randint(0, 256, (2, 3, 12, 10)) / 255
    explorer = LatentExplorer(colourful, x, dtype="float32")
    found = explain_in_page(run_script, explorer, True)
    expected = attribution.grad_lam(encoder, colourful.decoder, x[:1])
    assert expected.layer == "2"
    torch.testing.assert_close(torch.tensor(found["maps"]), expected.maps.flatten())
    torch.testing.assert_close(torch.tensor(found["aggregate"]), expected.aggregate.flatten())


# ----------------------------------------------------------------------------------- in a browser


PAGE = """<!doctype html><html><meta name="viewport" content="width=device-width">
<style>%s</style><body><div id="here"></div><script type="module">%s
class Model {
  constructor(state) { Object.assign(this, { state, listeners: [] }); }
  get(name) { return this.state[name]; }
  set(values) { Object.assign(this.state, values); }
  save_changes() { this.listeners.forEach((listener) => listener()); }
  on(names, listener) { this.listeners.push(listener); }
  off(names, listener) { this.listeners = this.listeners.filter((one) => one !== listener); }
}
window.model = new Model(%s);
window.remove = render({ model, el: document.getElementById("here") });
</script></body></html>"""


@pytest.fixture(params=["desktop", "phone"])
def page(request, browser, explorer):
    """The widget on a page of its own, which reaches nothing and logs nothing."""
    phone = request.param == "phone"
    viewport = {"width": 390 if phone else 900, "height": 800}
    context = browser.new_context(viewport=viewport, has_touch=phone)
    page = context.new_page()
    page.complaints = []
    page.on("console", lambda said: said.type == "error" and page.complaints.append(said.text))
    page.on("pageerror", lambda error: page.complaints.append(str(error)))
    page.on("request", lambda asked: page.complaints.append(asked.url))
    state = {name: getattr(explorer, name) for name in ("setup", "image", "latent", "code")}
    page.set_content(PAGE % (explorer._css, SCRIPT, json.dumps(state)))
    page.wait_for_selector("[data-ready=maps]")
    yield page
    assert page.complaints == []
    context.close()


def shown(page, number):
    """The levels of a canvas, (28, 28), as shares."""
    levels = (
        page.locator("canvas")
        .nth(number)
        .evaluate("(c) => [...c.getContext('2d').getImageData(0, 0, c.width, c.height).data]")
    )
    return torch.tensor(levels[::4]).reshape(28, 28) / 255


def choose_latent(page, number):
    label = page.locator("label.xai-latent").nth(number)
    if page.viewport_size["width"] < 500:
        label.tap()
    else:
        label.click()


def assert_reconstruction(page, network, tolerance):
    """The picture on the page is PyTorch's for the code on the page, but for its 256 levels."""
    code = torch.tensor([page.evaluate("model.get('code')")], dtype=torch.float32)
    with torch.no_grad():
        expected = network.decoder(code)[0, 0]
    assert (shown(page, 1) - expected).abs().max() < tolerance + 0.5 / 255


def test_moving_the_slider_changes_the_reconstruction(page, autoencoder, halved):
    assert_reconstruction(page, halved, 1e-3)
    before = shown(page, 1)
    choose_latent(page, LATENT)
    slider = page.get_by_role("slider", name=f"Latent {LATENT + 1}")
    slider.fill("1.5")
    code = page.evaluate("model.get('code')")
    assert code[LATENT] == pytest.approx(1.5)
    assert (shown(page, 1) - before).abs().max() > 0.2
    assert_reconstruction(page, halved, 1e-3)
    assert_reconstruction(page, autoencoder, 1e-2)
    slider.press("ArrowRight")
    assert page.evaluate("model.get('code')")[LATENT] > 1.5
    page.get_by_role("button", name="Back").click()
    assert (shown(page, 1) - before).abs().max() < 0.01  # Python's code was in full precision
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_keyboard_goes_from_latent_to_latent(page):
    first = page.locator("input[type=radio]").first
    first.focus()
    first.press("ArrowRight")
    assert page.evaluate("model.get('latent')") == 1
    before = shown(page, 3)
    page.keyboard.press("ArrowRight")
    page.get_by_text("map of latent 3").wait_for()
    assert not torch.equal(shown(page, 3), before)
    assert page.get_by_role("radio", name=re.compile("latent 3, ")).is_checked()
    page.get_by_text("Latent 3 stands at").wait_for()  # is read out


def test_map_is_drawn_in_the_colours_of_the_figures(page, halved, explorer):
    choose_latent(page, LATENT)
    page.get_by_text(f"map of latent {LATENT + 1}").wait_for()
    found = attribution.grad_lam(halved.encoder, halved.decoder, explorer._x[:1], "3")
    large = enlarged(found.maps[:, LATENT][:, None], torch.Size((28, 28)))[0, 0]
    limit = float(large.abs().max())
    reds = plot.SIGNED((large / limit + 1).numpy() / 2)[:, :, 0]
    assert (shown(page, 3) - torch.tensor(reds)).abs().max() < 0.03  # a colour further at most


def test_maps_of_the_reconstruction_follow_the_slider(page):
    page.locator("select").nth(1).select_option("reconstruction")
    before = shown(page, 4)
    page.locator("[data-ready]").evaluate("(node) => delete node.dataset.ready")
    page.get_by_role("slider").fill("2")
    page.wait_for_selector("[data-ready=maps]")
    assert not torch.equal(shown(page, 4), before)
    page.locator("select").nth(2).select_option("each")
    assert page.get_by_role("img", name="all latents").count() == 1


def test_another_picture_brings_its_latents(page, halved, explorer):
    page.locator("select").nth(0).select_option(label="two")
    with torch.no_grad():
        expected = halved.encoder(explorer._x[1:2])[0]
    torch.testing.assert_close(torch.tensor(page.evaluate("model.get('code')")), expected)
    torch.testing.assert_close(shown(page, 0), explorer._x[1, 0])
    assert_reconstruction(page, halved, 1e-3)


def test_kernel_can_move_it(page, halved):
    page.evaluate("model.set({ latent: 5, code: Array(16).fill(0.25) }); model.save_changes()")
    page.get_by_text("map of latent 6").wait_for()
    assert_reconstruction(page, halved, 1e-3)
    assert page.get_by_role("slider").input_value() == "0.25"
    page.evaluate("remove()")
    assert page.evaluate("model.listeners.length") == 0


# --------------------------------------------------------------------------------------- in Python


def test_it_carries_less_than_a_megabyte(explorer):
    state = explorer.get_state()
    assert len(json.dumps({k: v for k, v in state.items() if k != "layout"}, default=str)) < 1e6


def test_image_brings_its_code(explorer, autoencoder):
    explorer.code = [0.0] * 16
    explorer.image = 2
    with torch.no_grad():
        expected = autoencoder.encoder(explorer._x[2:3])[0]
    torch.testing.assert_close(torch.tensor(explorer.code), expected)


def test_static_twin_says_what_it_shows(explorer):
    explorer.latent = LATENT
    bundle, metadata = explorer._repr_mimebundle_()
    assert "application/vnd.jupyter.widget-view+json" in bundle
    assert "map of latent 4" in metadata["image/png"]["alt"]
    assert metadata["image/png"]["alt"].startswith("seven")


def test_mistakes_are_named(autoencoder, digits, explorer):
    with pytest.raises(TypeError, match="Autoencoder"):
        LatentExplorer(autoencoder.encoder, digits)
    with pytest.raises(ValueError, match="shape"):
        LatentExplorer(autoencoder, digits[:, :, :14])
    with pytest.raises(ValueError, match="at least one"):
        LatentExplorer(autoencoder, digits[:0])
    with pytest.raises(ValueError, match=re.escape("[0, 1]")):
        LatentExplorer(autoencoder, digits * torch.nan)
    with pytest.raises(ValueError, match="2 names"):
        LatentExplorer(autoencoder, digits, names=["seven", "two"])
    with pytest.raises(ValueError, match="no feature maps"):
        LatentExplorer(autoencoder, digits, layer="6")
    with pytest.raises(ValueError, match="no layer"):
        LatentExplorer(autoencoder, digits, layer="conv")
    with pytest.raises(ValueError, match="training"):
        LatentExplorer(copy.deepcopy(autoencoder).train(), digits)
    for name, value in {"image": 3, "latent": -1, "code": [0.0]}.items():
        with pytest.raises(ValueError, match=name):
            setattr(explorer, name, value)


def test_decoder_that_the_page_cannot_run(digits, autoencoder):
    smooth = nn.Sequential(*autoencoder.decoder[:-1], nn.UpsamplingBilinear2d(size=28))
    other = models.Autoencoder(autoencoder.encoder, smooth, (1, 28, 28)).eval()
    with pytest.raises(NotExportable, match="upsample"):
        LatentExplorer(other, digits)


# --------------------------------------------------------------------------------------- the book


def test_chapter_22_answers_without_a_kernel(open_page, halved):
    page = open_page("notebooks/22_grad_lam")
    widget = page.get_by_role("region", name="Latent explorer")
    widget.scroll_into_view_if_needed()
    widget.locator("label.xai-latent").nth(5).click()
    widget.get_by_role("slider").fill("-1.2")
    widget.get_by_text("Latent 6 stands at").wait_for()
    digits = data.mnist("test", source="embedded")
    five = digits.images[int((digits.labels == 5).nonzero()[0])][None]
    with torch.no_grad():
        code = halved.encoder(five)
        code[:, 5] = -1.2
        expected = halved.decoder(code)[0, 0]
    assert (shown(widget, 1) - expected).abs().max() < 1e-3 + 0.5 / 255
