"""Small networks trained on pictures with a planted rule, and asked whether they follow it."""

from __future__ import annotations

from typing import Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from xaiutils import models
from xaiutils.data import Planted, Rule, planted
from xaiutils.evaluation.truth._instrument import Certainty, Check, Instrument

_TRAINED_ON = 2000
_PLAN = {"epochs": 3, "batch_size": 32, "peak_lr": 1e-2}
_RIGHT = 0.95  # the share of pictures that a check asks for
_SEEDS_APART = 1000  # pictures to train on and pictures to explain never share a seed
_STATEMENTS: dict[Rule, str] = {
    "patch": "The shape is the class; the rest is noise.",
    "decoy": "The shape is the class; the bright square stands in every picture.",
    "interaction": "Both bars together are the class; neither says anything alone.",
    "saturation": "Both copies show the class; either would do.",
    "suppressor": "Block A carries the class; block B is independent of it, yet needed to read A.",
}


Pooling = Literal["max", "mean"]
_POOLS: dict[Pooling, type[nn.Module]] = {
    "max": nn.AdaptiveMaxPool2d,
    "mean": nn.AdaptiveAvgPool2d,
}


class PlantedCNN(nn.Module):
    """Two convolutions, two poolings, two linear layers: pictures (N, 1, 28, 28) to (N, K) logits.

    Args:
        classes: Their number K.
        anywhere: Whether the last feature maps are reduced to one number each, so that it does not
            matter where something stands; else every place has weights of its own.
        pooling: Which number: their maximum, which one place decides, or their mean.
    """

    def __init__(self, classes: int, anywhere: bool = True, pooling: Pooling = "max") -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(16, 32, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
        )
        wide = 32 if anywhere else 32 * 7 * 7
        pooled = [_POOLS[pooling](1)] if anywhere else []
        self.classifier = nn.Sequential(
            *pooled, nn.Flatten(), nn.Linear(wide, 32), nn.ReLU(), nn.Linear(32, classes)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map pictures (N, 1, 28, 28) to logits (N, K)."""
        return cast(Tensor, self.classifier(self.features(x)))


def planted_network(
    rule: Rule, seed: int = 0, number: int = _TRAINED_ON, pooling: Pooling = "max"
) -> PlantedCNN:
    """Train a network on pictures of a planted rule; the same seed gives the same network.

    Args:
        rule: One of `data.RULES`.
        seed: Of the pictures, the weights and their order.
        number: Of pictures to train on.
        pooling: As in `PlantedCNN`.

    Returns:
        The network in evaluation mode. Whether it follows the rule is not known; `checks` asks.
    """
    pictures = planted(rule, number, seed=_SEEDS_APART * (seed + 1))
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = PlantedCNN(pictures.classes, rule != "suppressor", pooling)
    plan = models.TrainingPlan(**_PLAN, seed=seed)  # type: ignore[arg-type]
    models.fit(network, _loss, pictures.images, pictures.labels, plan, progress=False)
    return network


def checks(network: nn.Module, pictures: Planted) -> tuple[Check, ...]:
    """Ask by intervention whether a network follows the rule.

    That a network names the classes rightly does not show that it looks where the class is. So
    another class is written into the truth and nowhere else: the answer must become that class. And
    what carries nothing is changed: the answer must stay, but for the suppressor, whose exchange
    must make the answer worse, since it is needed.
    """
    needed = pictures.rule == "suppressor"
    return (
        Check("named rightly", _right(network, pictures.images, pictures.labels), _RIGHT),
        Check(
            "follows the class written into the truth",
            _right(network, pictures.changed, pictures.changed_labels),
            _RIGHT,
        ),
        Check(
            "right with another suppressor" if needed else "stays when the harmless is changed",
            _right(network, pictures.harmless, pictures.labels),
            0.0 if needed else _RIGHT,
            0.85 if needed else 1.0,
        ),
    )


def planted_instrument(
    rule: Rule,
    number: int = 50,
    seed: int = 0,
    network: nn.Module | None = None,
    sample: int = 0,
) -> Instrument:
    """Pictures with a planted rule, and a network trained on others of it.

    Args:
        rule: One of `data.RULES`.
        number: Of pictures to explain.
        seed: Of the network and of what it is trained on.
        network: One that is there already, as from `planted_network`; None trains it (seconds).
        sample: Which pictures to explain; those of two samples have nothing in common.

    Returns:
        The instrument. Look at its `sound`: if it is False, the network does not follow the rule,
        and a map of it cannot be judged by it.

    Raises:
        ValueError: As in `data.planted`.
    """
    network = planted_network(rule, seed) if network is None else network
    many = planted(rule, max(number, 200), seed=_SEEDS_APART * (seed + 1) + 1 + sample)
    certainty: Certainty = "intervention"
    return Instrument(
        name=rule,
        model=network,
        x=many.images[:number],
        target=many.labels[:number],
        truth=many.truth[:number],
        certainty=certainty,
        statement=_STATEMENTS[rule],
        checks=checks(network, many),
    )


def _loss(module: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    return F.cross_entropy(module(images), labels)


@torch.no_grad()
def _right(network: nn.Module, images: Tensor, labels: Tensor) -> float:
    right: Tensor = network(images).argmax(1) == labels
    return right.double().mean().item()
