"""AttnLRP and CP-LRP on transformers, against LXT and a gradient that knows nothing of the graph.

``lxt_maps.npz`` holds what LXT 2.1 (``lxt.efficient``, float64) gave for the two networks of
``attnlrp_reference.py`` with random weights: its default for torchvision's transformers (CP-LRP),
and its ``divide_gradient`` on queries and keys (4) and values (2), which is AttnLRP. LXT itself is
no dependency: it asks for other versions of other packages.
"""

from pathlib import Path

import attnlrp_reference as reference
import numpy as np
import pytest
import torch
from torch import nn
from torchvision.models.vision_transformer import VisionTransformer

from xaiutils import data, models
from xaiutils.attribution import (
    Composite,
    Epsilon,
    Half,
    Held,
    SignalTakesAll,
    input_x_gradient,
    lrp,
)

MAPS = np.load(Path(__file__).parent / "lxt_maps.npz")
EXACT, HELD = Epsilon(1e-12), Held(Epsilon(1e-12))
SIGNAL = SignalTakesAll(EXACT)
CP = Composite(
    EXACT, EXACT, affine=EXACT, other=EXACT, normalisation=HELD, product=SIGNAL, attention=SIGNAL
)
ATTN = Composite(
    EXACT,
    EXACT,
    affine=EXACT,
    other=EXACT,
    normalisation=HELD,
    product=Half(EXACT),
    attention=Half(EXACT),
)
COMPOSITES = {"attn": ATTN, "cp": CP}


def cosine(a, b):
    return float(
        nn.functional.cosine_similarity(a.flatten(1).double(), b.flatten(1).double()).min()
    )


@pytest.fixture(scope="module")
def base():
    """ViT-B/16 for pictures of 64 x 64, with random weights."""
    network = VisionTransformer(64, 16, num_layers=12, num_heads=12, hidden_dim=768, mlp_dim=3072)
    return reference.randomise(network, 1).requires_grad_(False)


@pytest.mark.parametrize("kind", COMPOSITES)
def test_vit_b_16_as_lxt_explains_it(base, kind):
    x = torch.from_numpy(MAPS["vit_x"])
    heatmap, report = lrp(base, x, 7, COMPOSITES[kind], return_report=True)
    assert cosine(heatmap, torch.from_numpy(MAPS[f"vit_{kind}"])) > 1 - 1e-6
    assert float(report.relative_gap) < 1e-4  # in float32
    other = "cp" if kind == "attn" else "attn"  # what it must not be
    assert cosine(heatmap, torch.from_numpy(MAPS[f"vit_{other}"])) < 0.9
    assert cosine(heatmap, input_x_gradient(base, x, 7)) < 0.9


@pytest.mark.parametrize("form", ["sdpa", "explicit"])
@pytest.mark.parametrize("kind", COMPOSITES)
def test_a_small_transformer_as_lxt_and_as_the_reference_explain_it(form, kind):
    network = reference.randomise(reference.PlainViT(attention=form).double(), 2)
    x = torch.from_numpy(MAPS["small_x"])
    heatmap = lrp(network, x, 7, COMPOSITES[kind])
    assert cosine(heatmap, torch.from_numpy(MAPS[f"small_{kind}"])) > 1 - 1e-6
    expected = reference.attn_lrp(network.requires_grad_(False), x, 7, kind)[""]
    torch.testing.assert_close(heatmap, expected, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("kind", COMPOSITES)
def test_the_digit_transformer_as_the_reference_explains_it(kind):
    network = models.load_classifier("mnist_vit").module.double().requires_grad_(False)
    x = data.mnist("test", source="embedded", per_class=1).images.double()
    heatmap, report = lrp(network, x, 3, COMPOSITES[kind], return_report=True)
    expected = reference.attn_lrp(network, x, 3, kind)[""]
    assert cosine(heatmap, expected) > 1 - 1e-9
    assert float(report.relative_gap.max()) < 1e-9


def test_the_buckets_of_a_transformer_hold_what_does_not_reach_the_pixels():
    """The class token, the positions, the biases and the softmax: they close the account."""
    network = reference.randomise(reference.PlainViT().double(), 2)
    x = torch.from_numpy(MAPS["small_x"])
    heatmap, report = lrp(network, x, 7, ATTN, return_report=True)
    by_kind = report.by_kind()
    assert set(by_kind.columns) >= {"bias", "stabiliser", "dead", "remainder"}
    assert float(by_kind.loc["cat", "bias"]) != 0  # the class token
    assert float(by_kind.loc["softmax", "remainder"]) != 0
    absorbed = float(by_kind[["bias", "stabiliser", "dead", "remainder"]].to_numpy().sum())
    assert float(heatmap[0].sum()) + absorbed == pytest.approx(float(report.start[0]), rel=1e-9)
    _, held = lrp(network, x, 7, CP, return_report=True)
    assert float(held.remainder.abs().max()) == 0
