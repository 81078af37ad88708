"""``picture``: draw the overview that stands in the README, some heatmaps of some photographs."""

import argparse
from collections.abc import Callable
from pathlib import Path

from torch import Tensor

from xaiutils import attribution, data, models, plot

_METHODS: dict[str, Callable[..., Tensor]] = {
    "gradient × input": attribution.input_x_gradient,
    "sensitivity": attribution.sensitivity,
    "guided backprop": attribution.guided_backprop,
    "Grad-CAM": attribution.grad_cam,
    "LRP": attribution.lrp,
}
_PHOTOS = [2, 3, 4]  # rocket, tripod, palace: one figure, one tool, one building


def add_command(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add ``picture`` to the command line."""
    picture = commands.add_parser("picture", help="draw the overview that stands in the README")
    picture.add_argument("--out", type=Path, default=Path("book/overview.png"))
    picture.set_defaults(run=draw)


def draw(options: argparse.Namespace) -> int:
    """Draw the embedded photographs with the maps of EfficientNet-Lite0, and store the figure."""
    classifier = models.load_classifier("efficientnet_lite0")
    photographs = data.photos()
    images = classifier.batch([photographs[i].image for i in _PHOTOS])
    labels = photographs.labels[_PHOTOS]
    maps = {name: f(classifier.module, images, labels) for name, f in _METHODS.items()}
    figure = plot.grid(
        maps,
        classifier.preprocess.denormalize(images),
        [classifier.categories[i] for i in labels],
        unsigned=["sensitivity"],
        size=1.6,
    )
    plot.save(figure, options.out)
    print(plot.alternative_text(figure))
    return 0
