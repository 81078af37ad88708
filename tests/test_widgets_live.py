"""The widgets in a live JupyterLab, with a network of the user's own."""

import re

import pytest

from xaiutils import attribution, evaluation
from xaiutils.widgets._pictures import PageFill

OWN_NETWORK = """
import os

import torch
from torch import nn

from xaiutils import models
from xaiutils.widgets import PerturbationExplorer


class Own(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.features = nn.Sequential(nn.Conv2d(3, 4, 3, stride=2), nn.ReLU())
        self.head = nn.Linear(4 * 49, 7)

    def forward(self, x):
        if os.path.exists("out_of_order"):
            raise RuntimeError("out of order")
        return self.head(self.features(x).flatten(1))


net = Own().eval()
preprocess = models.Preprocess(16, 16, (0.4, 0.5, 0.6), (0.2, 0.3, 0.25))
levels = torch.randint(0, 256, (2, 3, 16, 16), generator=torch.Generator().manual_seed(1))
mean, std = (torch.tensor(v).reshape(3, 1, 1) for v in (preprocess.mean, preprocess.std))
images = (levels / 255 - mean) / std
"""
SHOW = """
PerturbationExplorer(net, images, ["gradient", "lrp_epsilon"], preprocess=preprocess,
                     region_size=4, steps=9, in_page=False)
"""
OTHERS = """
from xaiutils import data, widgets

by_hand = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1)).eval()
stepper = widgets.LRPStepper(by_hand, torch.ones(1, 2))
stepper
"""
LATENT = """
digits = data.mnist("test", source="embedded").images[:2]
widgets.LatentExplorer(models.load_autoencoder("mnist_ae_16"), digits)
"""
BY_PYTHON = """
stepper.step = 4
"""
KERNEL_LIMIT = 120_000  # milliseconds: it imports torch first


@pytest.fixture(scope="module")
def own():
    """The user's network, as the notebook has it."""
    names = {}
    exec(OWN_NETWORK, names)
    return names


@pytest.fixture(scope="module")
def explorer(browser, lab):
    """A perturbation explorer whose answers only the kernel has."""
    with lab.notebook(browser, "explorer", [OWN_NETWORK, SHOW]) as page:
        widget = page.get_by_role("region", name="Perturbation explorer")
        widget.wait_for(timeout=KERNEL_LIMIT)
        yield widget


def last_scores(explorer):
    """Where each curve ends, as the chart says in words."""
    words = explorer.locator("svg.xai-chart").get_attribute("aria-label")
    found = re.findall(r"([\w ]+) ends at (-?[\d.]+)", words.partition(":")[2])
    return {name.strip(): float(value) for name, value in found}


def expected_scores(own, order):
    x = own["images"][:1]
    target = own["net"](x).argmax(dim=1)
    maps = {
        "gradient": attribution.gradient(own["net"], x, target),
        "lrp epsilon": attribution.lrp(own["net"], x, target, "epsilon"),
    }
    fill = PageFill("uniform", own["preprocess"])
    curves = evaluation.region_perturbation(
        own["net"], x, target, maps, 4, 9, order, fill, repeats=1
    )
    return {name: curve.scores[0, 0, -1].item() for name, curve in curves.items()}


def choose(explorer, label, value):
    explorer.get_by_label(re.compile(f"^{label}")).select_option(value)


def choose_and_wait(explorer, label, value, picture="svg.xai-chart"):
    """Choose, and wait until a picture says in other words what it shows, and all curves are in."""
    shown = explorer.locator(picture)
    before = shown.get_attribute("aria-label")
    choose(explorer, label, value)
    explorer.page.wait_for_function(
        "([node, before]) => node.getAttribute('aria-label') !== before",
        arg=[shown.element_handle(), before],
    )
    wait_for_all_curves(explorer)


def wait_for_all_curves(explorer):
    """The kernel sends them one by one, and the chart shows each as it comes."""
    explorer.page.wait_for_function(
        "node => node.closest('.xai-perturbation').dataset.known === 'true'",
        arg=explorer.locator("svg.xai-chart").element_handle(),
    )


def test_kernel_computes_what_is_chosen(explorer, own):
    explorer.locator("svg.xai-chart[aria-label*='ends at']").wait_for()
    assert "Scores: the kernel." in explorer.inner_text()
    for order in ("lerf", "morf"):
        choose_and_wait(explorer, "Order", order)
        found, expected = last_scores(explorer), expected_scores(own, order)
        for name, score in expected.items():
            assert found[name] == pytest.approx(score, abs=0.00501)  # the chart tells two digits
    assert expected["gradient"] != pytest.approx(expected["lrp epsilon"], abs=0.02)


def test_another_method_shows_another_map(explorer):
    heat = explorer.locator("canvas.xai-heat")
    before = heat.evaluate("canvas => canvas.toDataURL()")
    choose_and_wait(explorer, "Method", "lrp_epsilon", "canvas.xai-heat")
    assert heat.evaluate("canvas => canvas.toDataURL()") != before
    assert "lrp epsilon" in heat.get_attribute("aria-label")


def test_a_failing_network_is_reported_and_the_widget_goes_on(explorer, lab):
    fault = lab.folder / "out_of_order"
    fault.touch()
    choose(explorer, "Fill", "mean")
    explorer.get_by_text("RuntimeError: out of order").wait_for()
    fault.unlink()
    choose_and_wait(explorer, "Fill", "blur")
    assert "out of order" not in explorer.inner_text()
    assert set(last_scores(explorer)) >= {"gradient", "lrp epsilon"}


def test_what_is_known_stays_when_the_kernel_is_closed(explorer, lab, own):
    choose(explorer, "Fill", "uniform")
    explorer.locator("svg.xai-chart[aria-label*='ends at']").wait_for()
    lab.shut_kernels_down(explorer.page)
    choose(explorer, "Region", "2")  # not known yet
    explorer.get_by_text("The kernel does not answer").wait_for()
    choose(explorer, "Region", "4")
    wait_for_all_curves(explorer)
    for name, score in expected_scores(own, "morf").items():
        assert last_scores(explorer)[name] == pytest.approx(score, abs=0.00501)
    explorer.get_by_role("slider").fill("3")
    explorer.get_by_text(re.compile("^3 regions of .* replaced")).wait_for()


def test_the_others_show_in_a_notebook(browser, lab):
    cells = [OWN_NETWORK, OTHERS, LATENT, BY_PYTHON]
    with lab.notebook(browser, "others", cells) as page:
        latent = page.get_by_role("region", name="Latent explorer")
        latent.wait_for(timeout=KERNEL_LIMIT)
        assert latent.locator("canvas").count() >= 3
        stepper = page.get_by_role("region", name="Relevance, step by step")
        stepper.get_by_text("4/4.").wait_for()  # Python set the step
        stepper.get_by_role("button", name="Back").press("ArrowLeft")
        stepper.get_by_text("3/4.").wait_for()  # and JupyterLab leaves it the arrow keys
