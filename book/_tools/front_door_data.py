"""Measure and draw what the first page of the book plays: five maps of each photograph.

Run as ``python book/_tools/front_door_data.py``, which takes some minutes. It writes
results/front-door.json (names, orders of the regions, scores, provenance) and the pictures in
assets/front_door. The build reads them (front_door.py) and computes nothing.
"""

import sys
from collections.abc import Mapping
from pathlib import Path

import matplotlib as mpl
import numpy as np
import torch
from PIL import Image
from torch import Tensor

from xaiutils import attribution, data, evaluation, models, plot
from xaiutils.reproduce._provenance import computed_with, provenance, write_json

ROOT = Path(__file__).resolve().parents[2]
RESULT = Path("results/front-door.json")
PICTURES = Path("assets/front_door")
REGION = 28  # 8 x 8 regions of a picture of 224 x 224
STEPS = 32  # half of them
SEED = 0
BY_LOT = 5  # random orders, of which the page shows the mean
SIDE = 224
TILE = 176
TRAP = "borrowed"
NAMES = {
    "guided_backprop": "Guided backprop",
    "grad_cam": "Grad-CAM",
    "lrp_epsilon_plus": "LRP",
    "occlusion": "Occlusion",
    TRAP: "Grad-CAM of another photograph",
}
SHORT = NAMES | {TRAP: "Borrowed"}


def maps_of(classifier: models.Classifier, x: Tensor, labels: Tensor) -> dict[str, Tensor]:
    """The five maps of each picture, (N, C, H, W)."""
    found = {
        name: attribution.METHODS[name](classifier.module, x, labels)
        for name in ("guided_backprop", "grad_cam", "lrp_epsilon_plus")
    }
    found["occlusion"] = attribution.occlusion(classifier.module, x, labels, REGION)
    found[TRAP] = evaluation.borrowed(found["grad_cam"], labels, SEED)
    return {name: found[name].detach() for name in NAMES}


def measure(
    classifier: models.Classifier, x: Tensor, labels: Tensor, maps: Mapping[str, Tensor]
) -> tuple[dict[str, dict[str, evaluation.Curves]], evaluation.Curves]:
    """The curves of all maps in both orders, one draw of noise each, and those by lot."""
    options = {"region_size": REGION, "steps": STEPS, "seed": SEED}
    fill = evaluation.Uniform(classifier.preprocess.low, classifier.preprocess.high)
    ordered = {
        order: evaluation.region_perturbation(
            classifier.module, x, labels, maps, order=order, fill=fill, repeats=1, **options
        )
        for order in ("morf", "lerf")
    }
    lot = evaluation.region_perturbation(
        classifier.module, x, labels, None, order="random", fill=fill, repeats=BY_LOT, **options
    )
    return ordered, lot


def coloured(relevance: Tensor, signed: bool = True) -> Image.Image:
    """A map in the colours of the book, saturated where `plot.heatmap` would be."""
    pixels = plot.pixel_relevance(relevance)
    limit = plot.colour_limit(pixels)
    colours = plot.SIGNED(mpl.colors.Normalize(-limit, limit)(pixels.numpy()))
    if not signed:
        colours = plot.MAGNITUDE(mpl.colors.Normalize(0, limit)(pixels.numpy()))
    return Image.fromarray((colours[..., :3] * 255).round().astype(np.uint8))


def brightness(picture: Tensor) -> Image.Image:
    """A picture (C, H, W) in [0, 1] as an image."""
    levels = (picture.clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
    return Image.fromarray(np.broadcast_to(levels, (*levels.shape[:2], 3)).copy())


def store(image: Image.Image, name: str, side: int = TILE, quality: int = 78) -> None:
    """Write a square picture; cells of a coarse map keep their edges."""
    coarse = image.width < side
    method = Image.Resampling.NEAREST if coarse else Image.Resampling.LANCZOS
    resized = image.resize((side, side), method)
    resized.save(ROOT / PICTURES / f"{name}.webp", quality=quality, method=6)


def record(
    photographs: data.Photos,
    classifier: models.Classifier,
    x: Tensor,
    maps: Mapping[str, Tensor],
    curves: Mapping[str, Mapping[str, evaluation.Curves]],
    lot: evaluation.Curves,
) -> list[dict[str, object]]:
    """What the page knows of each photograph."""
    with torch.no_grad():
        chances = classifier.module(x).softmax(dim=1)
    found = []
    for i, credit in enumerate(photographs.credits):
        shuffled = np.random.default_rng([SEED, i]).permutation(list(NAMES)).tolist()
        tiles = [
            {
                "method": name,
                "says": plot.describe(plot.pixel_relevance(maps[name][i]), "map"),
                "order": curves["morf"][name].perturbation.region_order(i, 0).tolist(),
                **{o: rounded(curves[o][name].scores[i, 0]) for o in ("morf", "lerf")},
            }
            for name in shuffled
        ]
        found.append(
            {
                "name": credit.name,
                "label": classifier.categories[credit.label],
                "author": credit.author,
                "licence": credit.licence,
                "probability": round(float(chances[i, credit.label]), 4),
                "lot": rounded(lot.scores[i].mean(dim=0)),
                "tiles": tiles,
            }
        )
    return found


def rounded(scores: Tensor) -> list[float]:
    """Three decimals: a picture needs no more."""
    return [round(value, 3) for value in scores.tolist()]


def draw_parts() -> None:
    """The digits on the cards of the parts: Grad-LAM, and both sides of DMBP."""
    digits = data.mnist("test", source="embedded", per_class=1)
    digit, label = digits.images[3:4], digits.labels[3:4]
    autoencoder = models.load_autoencoder("mnist_ae_16")
    code = attribution.grad_lam(autoencoder.encoder, autoencoder.decoder, digit)
    store(brightness(digit[0]), "digit")
    with torch.no_grad():
        store(brightness(autoencoder(digit)[0]), "digit-again")
    store(coloured(code.aggregate[0], signed=False), "digit-grad_lam")
    network = models.load_classifier("mnist_cnn")
    apart = attribution.dmbp(network.module, network.preprocess.normalize(digit), label)
    store(coloured(apart.positive[0]), "digit-positive")
    store(coloured(apart.negative[0]), "digit-negative")


def main() -> None:
    """Measure, draw, write."""
    torch.manual_seed(SEED)
    (ROOT / PICTURES).mkdir(exist_ok=True)
    draw_parts()
    classifier = models.load_classifier("efficientnet_lite0")
    photographs = data.photos()
    x, labels = classifier.batch(photographs.images), photographs.labels
    maps = maps_of(classifier, x, labels)
    print("maps are made", flush=True)
    for i, name in enumerate(photographs.names):
        store(brightness(classifier.preprocess.denormalize(x[i : i + 1])[0]), name, SIDE)
        for method in NAMES:
            store(coloured(maps[method][i]), f"{name}-{method}")
    curves, lot = measure(classifier, x, labels, maps)
    facts = {
        "model": classifier.name,
        "weights": classifier.source,
        "data": photographs.source.description,
        "names": NAMES,
        "short": SHORT,
        "trap": TRAP,
        "output": "logit",
        "fill": "uniform noise between black and white",
        "region_size": REGION,
        "regions": (SIDE // REGION) ** 2,
        "steps": STEPS,
        "draws": 1,
        "orders_by_lot": BY_LOT,
        "seed": SEED,
        "computed_with": computed_with("cpu"),
        "photographs": record(photographs, classifier, x, maps, curves, lot),
    }
    write_json(ROOT / RESULT, provenance("python book/_tools/front_door_data.py", **facts))


if __name__ == "__main__":
    sys.exit(main())
