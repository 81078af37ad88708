"""Pictures whose class was planted in them by a rule, so that what decides it is known."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

Rule = Literal["patch", "decoy", "interaction", "saturation", "suppressor"]
RULES: tuple[Rule, ...] = get_args(Rule)
"""What can be planted; see `planted`."""

SIDE = 28  # of a picture, in pixels
STAMP = 6  # the side of what is planted
_BLOCK = 8  # the side of the two blocks of a suppressor
_SIGNAL, _DISTRACTOR, _GRAIN = 0.08, 0.16, 0.02  # amplitudes in the blocks of a suppressor


@dataclass(frozen=True, eq=False)
class Planted:
    """Pictures with a planted rule, and the same pictures after two interventions.

    Attributes:
        rule: Which one.
        images: (N, 1, 28, 28), brightness, mostly in [0, 1].
        labels: (N,) int64.
        truth: (N, 28, 28) bool: the pixels that the class was written into. Nothing outside of them
            depends on the class.
        idle: Likewise the pixels of what carries no information on the class and was planted to
            mislead: the decoy, the suppressor. All False under the other rules.
        changed: The same pictures with another class written into `truth`, and nothing else
            touched; shape of `images`.
        changed_labels: The classes of these, (N,); never those of `labels`.
        harmless: The same pictures, changed in a way that leaves the class as it is: without the
            decoy, with one copy of two, with both bars turned. For a suppressor: with that of the
            next picture, which leaves the class as it is too, but misleads who relies on it.
        classes: How many there are.
    """

    rule: Rule
    images: Tensor = field(repr=False)
    labels: Tensor = field(repr=False)
    truth: Tensor = field(repr=False)
    idle: Tensor = field(repr=False)
    changed: Tensor = field(repr=False)
    changed_labels: Tensor = field(repr=False)
    harmless: Tensor = field(repr=False)
    classes: int

    def __len__(self) -> int:
        return len(self.images)


def planted(rule: Rule, number: int, seed: int = 0) -> Planted:
    """Make pictures of a planted rule. Our design; the kinds of rule are known.

    - ``"patch"``: one of four shapes stands at a place by lot, and is the class.
    - ``"decoy"``: one of two shapes is the class; a bright square stands in every picture of both
      classes.
    - ``"interaction"``: two bars, each upright or flat by lot; class 1 if they agree. Neither bar
      alone says anything (exclusive or).
    - ``"saturation"``: two copies of the shape that is the class; either would do. Every fourth
      picture has one copy only, so that a network cannot learn to ask for both; its `harmless` is
      itself.
    - ``"suppressor"``: a block A shows (signal + distractor) times a pattern, a block B the
      distractor times the same pattern. B is independent of the class and yet needed to read A:
      a suppressor (Haufe et al. 2014; Wilming et al. 2023, in two dimensions).

    The background is smooth noise, drawn anew for each picture and independent of the class.

    Args:
        rule: One of `RULES`.
        number: How many pictures; the classes take turns.
        seed: Of all that is drawn.

    Returns:
        The pictures and what is known of them.

    Raises:
        ValueError: An unknown rule, or fewer than 2 pictures.
    """
    if rule not in RULES:
        raise ValueError(f"rule is {rule!r}: choose from {', '.join(RULES)}")
    if number < 2:
        raise ValueError(f"number must be at least 2 (one picture of each class), not {number}")
    generator = torch.Generator().manual_seed(seed)
    return _MAKERS[rule](number, generator)


# ------------------------------------------------------------------------------------- drawing


def _shapes() -> Tensor:
    """Ring, cross, diagonal cross, bars: (4, 6, 6), white on black."""
    ring, cross, saltire, bars = torch.zeros(4, STAMP, STAMP)
    ring[[0, -1], :] = ring[:, [0, -1]] = 1
    cross[2:4, :] = cross[:, 2:4] = 1
    saltire += torch.eye(STAMP) + torch.eye(STAMP).flip(1)
    bars[:, ::2] = 1
    return torch.stack([ring, cross, saltire, bars])


def _turned_bars() -> Tensor:
    """An upright and a flat bar, (2, 6, 6)."""
    upright = torch.zeros(STAMP, STAMP)
    upright[:, 2:4] = 1
    return torch.stack([upright, upright.T])


def _background(number: int, generator: torch.Generator) -> Tensor:
    """Smooth noise from 0 to 0.5 with some grain, (N, 1, 28, 28)."""
    coarse = torch.rand(number, 1, SIDE // 4, SIDE // 4, generator=generator)
    smooth = F.interpolate(coarse, size=(SIDE, SIDE), mode="bilinear", align_corners=False)
    return 0.4 * smooth + 0.1 * torch.rand(number, 1, SIDE, SIDE, generator=generator)


def _places(number: int, how_many: int, generator: torch.Generator) -> Tensor:
    """Corners of stamps that do not touch each other, (N, how_many, 2), row and column."""
    found = torch.zeros(number, how_many, 2, dtype=torch.long)
    apart = torch.zeros(number, dtype=torch.bool)
    while not bool(apart.all()):
        drawn = torch.randint(SIDE - STAMP + 1, found.shape, generator=generator)
        found[~apart] = drawn[~apart]
        gaps = (found[:, :, None] - found[:, None]).abs().amax(-1)  # (N, how_many, how_many)
        gaps += SIDE * torch.eye(how_many, dtype=torch.long)
        apart = gaps.amin((1, 2)) > STAMP
    return found


def _masks(places: Tensor) -> Tensor:
    """The pixels of stamps at these corners: (N, K, 2) gives (N, K, 28, 28) bool."""
    line = torch.arange(SIDE)
    inside = (line >= places[..., None]) & (line < places[..., None] + STAMP)
    return inside[..., 0, :, None] & inside[..., 1, None, :]


def _stamped(images: Tensor, mask: Tensor, stamps: Tensor) -> Tensor:
    """Images with stamps (N, 6, 6) in the place of the pixels of the mask (N, 28, 28)."""
    drawn = images.clone()
    drawn[mask[:, None]] = 0.1 + 0.9 * stamps.reshape(-1)
    return drawn


def _others(labels: Tensor, classes: int, generator: torch.Generator) -> Tensor:
    """For each label another one, by lot."""
    steps = torch.randint(1, classes, labels.shape, generator=generator)
    return (labels + steps) % classes


# --------------------------------------------------------------------------------------- rules


def _patch(number: int, generator: torch.Generator) -> Planted:
    shapes, empty = _shapes(), _background(number, generator)
    labels = torch.arange(number) % len(shapes)
    other = _others(labels, len(shapes), generator)
    (mask,) = _masks(_places(number, 1, generator)).unbind(1)
    images = _stamped(empty, mask, shapes[labels])
    changed = _stamped(empty, mask, shapes[other])
    harmless = _stamped(_background(number, generator), mask, shapes[labels])
    nothing = torch.zeros_like(mask)
    return Planted("patch", images, labels, mask, nothing, changed, other, harmless, len(shapes))


def _decoy(number: int, generator: torch.Generator) -> Planted:
    shapes, empty = _shapes()[:2], _background(number, generator)
    labels = torch.arange(number) % 2
    mask, idle = _masks(_places(number, 2, generator)).unbind(1)
    square = torch.ones(number, STAMP, STAMP)
    harmless = _stamped(empty, mask, shapes[labels])
    images = _stamped(harmless, idle, square)
    changed = _stamped(_stamped(empty, mask, shapes[1 - labels]), idle, square)
    return Planted("decoy", images, labels, mask, idle, changed, 1 - labels, harmless, 2)


def _interaction(number: int, generator: torch.Generator) -> Planted:
    bars, empty = _turned_bars(), _background(number, generator)
    labels = torch.arange(number) % 2
    first = torch.randint(2, (number,), generator=generator)
    second = torch.where(labels == 1, first, 1 - first)
    one, two = _masks(_places(number, 2, generator)).unbind(1)

    def drawn(a: Tensor, b: Tensor) -> Tensor:
        return _stamped(_stamped(empty, one, bars[a]), two, bars[b])

    images, changed = drawn(first, second), drawn(first, 1 - second)
    harmless, nothing = drawn(1 - first, 1 - second), torch.zeros_like(one)
    return Planted(
        "interaction", images, labels, one | two, nothing, changed, 1 - labels, harmless, 2
    )


def _saturation(number: int, generator: torch.Generator) -> Planted:
    shapes, empty = _shapes()[:2], _background(number, generator)
    labels = torch.arange(number) % 2
    one, two = _masks(_places(number, 2, generator)).unbind(1)
    two = two & (torch.arange(number) // 2 % 4 != 3)[:, None, None]
    there = two.flatten(1).any(1)

    def drawn(classes: Tensor) -> tuple[Tensor, Tensor]:
        single = _stamped(empty, one, shapes[classes])
        return single, _stamped(single, two, shapes[classes[there]])

    (harmless, images), (_, changed) = drawn(labels), drawn(1 - labels)
    nothing = torch.zeros_like(one)
    return Planted(
        "saturation", images, labels, one | two, nothing, changed, 1 - labels, harmless, 2
    )


def _suppressor(number: int, generator: torch.Generator) -> Planted:
    images = _background(number, generator)
    labels = torch.arange(number) % 2
    mask, idle = torch.zeros(2, number, SIDE, SIDE, dtype=torch.bool)
    mask[:, 3 : 3 + _BLOCK, 3 : 3 + _BLOCK] = True
    idle[:, -3 - _BLOCK : -3, -3 - _BLOCK : -3] = True
    checks = (torch.arange(_BLOCK)[:, None] // 2 + torch.arange(_BLOCK) // 2) % 2 * 2.0 - 1
    distractor = _DISTRACTOR * torch.randn(number, 1, 1, generator=generator)
    grain = _GRAIN * torch.randn(2, number, _BLOCK, _BLOCK, generator=generator)

    def drawn(classes: Tensor, suppressor: Tensor) -> Tensor:
        signal = _SIGNAL * (2.0 * classes - 1)[:, None, None]
        written = images.clone()
        written[mask[:, None]] = (0.5 + (signal + distractor) * checks + grain[0]).reshape(-1)
        written[idle[:, None]] = (0.5 + suppressor * checks + grain[1]).reshape(-1)
        return written

    return Planted(
        rule="suppressor",
        images=drawn(labels, distractor),
        labels=labels,
        truth=mask,
        idle=idle,
        changed=drawn(1 - labels, distractor),
        changed_labels=1 - labels,
        harmless=drawn(labels, distractor.roll(1, 0)),
        classes=2,
    )


_MAKERS: dict[Rule, Callable[[int, torch.Generator], Planted]] = {
    "patch": _patch,
    "decoy": _decoy,
    "interaction": _interaction,
    "saturation": _saturation,
    "suppressor": _suppressor,
}
