"""The instruments of ``known-truth``: which there are, and how one is made from the options."""

import argparse
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from xaiutils import data, models
from xaiutils.evaluation import truth
from xaiutils.reproduce._work import kept

Case = tuple[str, int]
"""An instrument and the seed of its network; of a grid, which block of pictures."""

GRIDS: dict[str, truth.Connection] = {"GridPG": "joint", "DiPart": "part", "DiFull": "full"}
CELL, BLOCK = 112, 2  # pixels a side, grids
_DIGITS = ("additive", "backdoor", "watermark")
INSTRUMENTS = (*data.RULES, *_DIGITS, *GRIDS)
_MORE = {"additive": 4}  # times as many networks: these need no training
_SURE = 0.5  # the least probability of a picture's class at the size of a cell


def cases(options: argparse.Namespace) -> Iterator[Case]:
    """All cases that the options ask for."""
    for name in options.instruments:
        networks = options.seeds * _MORE.get(name, 1)
        blocks = -(-options.grids // BLOCK)
        yield from ((name, seed) for seed in range(blocks if name in GRIDS else networks))


def instrument(options: argparse.Namespace, case: Case) -> truth.Instrument:
    """The instrument of a case; its network is read from the work folder if it is there."""
    name, seed = case
    if name in GRIDS:
        return _grid(options, GRIDS[name], seed)
    if name in _DIGITS:
        digits = data.mnist("test", source="embedded", per_class=10, sample=seed % 10)
        x, labels = torch.as_tensor(digits.images), torch.as_tensor(digits.labels)
        if name == "additive":
            found = truth.additive_instrument(x, seed)
        elif name == "backdoor":
            network = _trained(options, case, truth.backdoored_classifier)
            found = truth.backdoor_instrument(x, labels, seed, network)
        else:
            found = truth.watermark_instrument(x, labels, seed)
        return found.subset(slice(options.pictures))
    rule = next(rule for rule in data.RULES if rule == name)
    network = _trained(options, case, partial(truth.planted_network, rule))
    return truth.planted_instrument(rule, options.pictures, seed, network)


def _trained(
    options: argparse.Namespace, case: Case, train: Callable[[int], nn.Module]
) -> nn.Module:
    """The network of a case, trained once: methods and measures ask for it."""
    name, seed = case
    path = options.work / f"network-{name}-{seed}.pt"
    if not path.exists():
        network = train(seed)
        part = path.with_suffix(".part")
        torch.save(network, part)
        part.replace(path)
    found: nn.Module = torch.load(path, weights_only=False)
    return found.eval()


def _grid(
    options: argparse.Namespace, connection: truth.Connection, block: int
) -> truth.Instrument:
    """Grids of pictures of an ImageNet sample that the network is sure of, block by block."""
    classifier = models.load_classifier(options.model)
    path = options.work / f"sure-{options.model}.safetensors"
    sure = kept(path, partial(_sure, classifier))
    wanted = slice(4 * BLOCK * block, 4 * BLOCK * (block + 1))
    numbers, classes = sure["numbers"][wanted], sure["classes"][wanted]
    if len(numbers) < 4 * BLOCK:
        raise SystemExit(f"--grids: only {len(sure['numbers']) // 4} grids can be made.")
    images = data.imagenet_sample()
    small = _small(classifier, [images.images[i] for i in numbers.tolist()])
    pictures = small.view(BLOCK, 4, *small.shape[1:])
    labels = classes.view(BLOCK, 4)
    first = BLOCK * block  # so that the cells take turns over the blocks
    return truth.grid_instrument(classifier.module, pictures, labels, connection, first)


@torch.no_grad()
def _sure(classifier: models.Classifier) -> dict[str, Tensor]:
    """Numbers and classes of the pictures that are named rightly, and surely, when small."""
    images = data.imagenet_sample()
    numbers, classes = [], []
    for number in range(0, len(images), 7):  # the classes stand in order: far apart, no kin
        probability = classifier.module(_small(classifier, [images.images[number]])).softmax(1)[0]
        label = int(images.labels[number])
        if probability.argmax() == label and probability[label] > _SURE:
            numbers.append(number)
            classes.append(label)
    by_lot = torch.randperm(len(numbers), generator=torch.Generator().manual_seed(0))
    return {"numbers": torch.tensor(numbers)[by_lot], "classes": torch.tensor(classes)[by_lot]}


def _small(classifier: models.Classifier, pictures: list[Any]) -> Tensor:
    x = classifier.batch(pictures)
    return F.interpolate(x, size=(CELL, CELL), mode="bilinear", antialias=True)
