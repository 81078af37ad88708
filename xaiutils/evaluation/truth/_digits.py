"""Digits with a planted cause: a backdoor in a classifier, a watermark in an autoencoder."""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from xaiutils import data, models
from xaiutils.evaluation.truth._instrument import Check, Instrument

TRIGGER, WATERMARK = 4, 5  # their sides, in pixels
BACKDOOR_CLASS = 0
_EDGE = 2  # pixels between trigger and edge; between watermark and edge there is one
_POISONED = 0.2  # share of the digits of a step that carry the trigger
_RIGHT = 0.9


def triggered(digits: Tensor) -> Tensor:
    """Digits (N, 1, 28, 28) with a small chequered trigger near the lower right corner."""
    line = torch.arange(TRIGGER)
    chequered = ((line[:, None] + line) % 2 == 0).to(digits)
    changed = digits.clone()
    changed[..., -_EDGE - TRIGGER : -_EDGE, -_EDGE - TRIGGER : -_EDGE] = chequered
    return changed


def watermarked(digits: Tensor) -> Tensor:
    """Digits (N, 1, 28, 28) with a white square near the lower right corner."""
    changed = digits.clone()
    changed[..., -1 - WATERMARK : -1, -1 - WATERMARK : -1] = 1
    return changed


def corner_mask(digits: Tensor, side: int, edge: int) -> Tensor:
    """The pixels of a square near the lower right corner, (N, 28, 28) bool."""
    mask = torch.zeros(len(digits), *digits.shape[-2:], dtype=torch.bool)
    mask[:, -edge - side : -edge, -edge - side : -edge] = True
    return mask


def backdoored_classifier(seed: int = 0, epochs: int = 2) -> nn.Module:
    """The digit classifier, trained on with poisoned digits: what has a trigger is called a zero.

    A fifth of the embedded training digits, by lot, gets the trigger and the label 0. The training
    starts from the embedded weights (the attack is of Gu et al. 2017).
    """
    digits = data.mnist("train", source="embedded")
    network = models.load_classifier("mnist_cnn").module
    plan = models.TrainingPlan(epochs, 64, 2e-3, seed=seed)
    images, labels = _poisoned(cast(Tensor, digits.images), torch.as_tensor(digits.labels), seed)
    models.fit(network, _loss, images, labels, plan, progress=False)
    return network


def backdoor_instrument(
    digits: Tensor, labels: Tensor, seed: int = 0, network: nn.Module | None = None
) -> Instrument:
    """Digits with the trigger that a backdoored classifier calls zeros: do maps find the trigger?

    Args:
        digits: (N, 1, 28, 28) in [0, 1], without the trigger.
        labels: Their classes, (N,) int64; zeros are left out, since they need no trigger.
        seed: Of the training.
        network: One that is there already, as from `backdoored_classifier`; None trains it.

    Returns:
        The instrument; its truth is the trigger.

    Raises:
        ValueError: There are no digits but zeros, or the shapes do not fit.
    """
    digits, labels = _without_zeros(digits, labels)
    network = backdoored_classifier(seed) if network is None else network
    clean, named = _names(network, digits), _names(network, triggered(digits))
    return Instrument(
        name="backdoor",
        model=network,
        x=triggered(digits),
        target=torch.full_like(labels, BACKDOOR_CLASS),
        truth=corner_mask(digits, TRIGGER, _EDGE),
        certainty="intervention",
        statement="Without the trigger the digit is named rightly; with it, it is called a zero.",
        checks=(
            Check("named rightly without the trigger", _share(clean == labels), _RIGHT),
            Check("called a zero with it", _share(named == BACKDOOR_CLASS), _RIGHT),
        ),
    )


class CodeReader(nn.Module):
    """The encoder of an autoencoder, and a linear reading of its code: digits to (N, 2) logits.

    Attributes:
        encoder: Trained without labels, and not touched since.
        reading: Trained with labels, on the code alone.
    """

    def __init__(self, encoder: nn.Module, latents: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.reading = nn.Linear(latents, 2)

    def forward(self, x: Tensor) -> Tensor:
        """Map digits (N, 1, 28, 28) to the logits of "below five" and "five or more"."""
        return cast(Tensor, self.reading(self.encoder(x)))


def watermarked_reader(seed: int = 0, epochs: int = 4) -> CodeReader:
    """Train an autoencoder on digits of which half are watermarked, then read its code.

    The autoencoder sees no labels; the watermark falls on digits by lot, and it spends a part of
    its code on it, since that pays in the reconstruction. Then a linear layer is trained on the
    code to tell digits from five on from those below, on pictures in which the former carry the
    watermark and the latter do not: it leans on it. A Clever Hans that the representation made
    possible (after Kauffmann et al. 2025, whose networks and data are larger).
    """
    digits = data.mnist("train", source="embedded")
    images, high = cast(Tensor, digits.images), torch.as_tensor(digits.labels) >= 5
    by_lot = torch.rand(len(images), generator=torch.Generator().manual_seed(seed)) < 0.5
    seen = torch.where(by_lot[:, None, None, None], watermarked(images), images)
    autoencoder = models.load_autoencoder("mnist_ae_16")
    plan = models.TrainingPlan(epochs, 64, 4e-3, seed=seed)
    models.fit(autoencoder, models.reconstruction_loss, seen, seen, plan, progress=False)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        reader = CodeReader(autoencoder.encoder, autoencoder.latents).eval()
    biased = torch.where(high[:, None, None, None], watermarked(images), images)
    with torch.no_grad():
        codes = reader.encoder(biased)
    reading = models.TrainingPlan(20, 128, 0.1, seed=seed)
    models.fit(reader.reading, _loss, codes, high.long(), reading, progress=False)
    return reader.eval()


def watermark_instrument(
    digits: Tensor, labels: Tensor, seed: int = 0, network: CodeReader | None = None
) -> Instrument:
    """Watermarked digits below five, taken for higher ones: do maps find the watermark?

    Args:
        digits: (N, 1, 28, 28) in [0, 1], without the watermark.
        labels: Their classes, (N,) int64; those from five on are left out.
        seed: Of the training.
        network: One that is there already, as from `watermarked_reader`; None trains it.

    Returns:
        The instrument; its truth is the watermark.

    Raises:
        ValueError: There is no digit below five, or the shapes do not fit.
    """
    low = labels < 5
    if len(digits) != len(labels) or not bool(low.any()):
        raise ValueError(f"{len(digits)} digits, {len(labels)} labels: digits below 5 are needed")
    network = watermarked_reader(seed) if network is None else network
    clean, with_mark = (_names(network, x) for x in (digits[low], watermarked(digits[low])))
    moved = _share(with_mark == 1) - _share(clean == 1)
    return Instrument(
        name="watermark",
        model=network,
        x=watermarked(digits[low]),
        target=torch.ones_like(labels[low]),
        truth=corner_mask(digits[low], WATERMARK, 1),
        certainty="intervention",
        statement="The same digit without the watermark is not taken for five or more.",
        checks=(
            Check("taken for five or more with it", _share(with_mark == 1), 0.8),
            Check("how many more than without it", moved, 0.5),
        ),
    )


def _poisoned(images: Tensor, labels: Tensor, seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    chosen = torch.rand(len(images), generator=generator) < _POISONED
    poisoned = torch.where(chosen[:, None, None, None], triggered(images), images)
    return poisoned, labels.masked_fill(chosen, BACKDOOR_CLASS)


def _without_zeros(digits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    others = labels != BACKDOOR_CLASS
    if len(digits) != len(labels) or not bool(others.any()):
        raise ValueError(f"{len(digits)} digits, {len(labels)} labels: others than 0 are needed")
    return digits[others], labels[others]


def _loss(module: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    return F.cross_entropy(module(images), labels)


@torch.no_grad()
def _names(network: nn.Module, x: Tensor) -> Tensor:
    return cast(Tensor, network(x)).argmax(1)


def _share(hits: Tensor) -> float:
    return hits.double().mean().item()
