r"""What is explained: an output, or a number that is made of several outputs.

A method explains one number :math:`v` of each image, a function of the network's outputs
:math:`f_1, \dots, f_K`, and has to know two things about it: its value, and its derivative
:math:`\partial v / \partial f_k` at the outputs of the image. The derivative is the signal that a
backward pass starts with. For a single output it is 1 there and 0 elsewhere.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

ClassTarget = int | Sequence[int] | Sequence[Sequence[int]] | Tensor
"""One output for all images or one for each; for outputs of several dimensions tuples."""


@dataclass(frozen=True)
class Difference:
    r"""The difference of two outputs, :math:`v = f_a - f_b`: what speaks for *a* and not for *b*.

    Logits are known only up to a number that is added to all of them, for the softmax does not
    change by it; their differences are known.

    Attributes:
        first: *a*: an int, or one for each image; for outputs of several dimensions a tuple.
        second: *b*, likewise; not *a*.
    """

    first: ClassTarget
    second: ClassTarget


@dataclass(frozen=True)
class Margin:
    r"""An output against the best of the others, :math:`v = f_c - \max_{k \ne c} f_k`.

    It is positive where the network names *c*. Which rival is the best is asked anew wherever the
    network is run; for a rival that stays, take a :class:`Difference`.

    Attributes:
        own: *c*: an int, one for each image, or None for the largest output of each image.
    """

    own: ClassTarget | None = None


@dataclass(frozen=True)
class LogOdds:
    r"""The logarithm of the odds of a class under the softmax, :math:`v = \log (p_c/(1 - p_c))`.

    .. math:: v = f_c - \log \sum_{k \ne c} e^{f_k}, \qquad
              \frac{\partial v}{\partial f_k} = -\frac{p_k}{1 - p_c} \quad (k \ne c)

    So it is a margin against all rivals at once, each by its weight. The derivative is 1 at *c* and
    sums to 0.

    Attributes:
        own: *c*: an int, one for each image, or None for the largest output of each image.
    """

    own: ClassTarget | None = None


@dataclass(frozen=True)
class LogProbability:
    r"""The logarithm of a class's probability under the softmax, :math:`v = \log p_c`.

    .. math:: v = f_c - \log \sum_k e^{f_k}, \qquad
              \frac{\partial v}{\partial f_k} = [k = c] - p_k

    The derivative is :math:`1 - p_c` times that of :class:`LogOdds`. Its negative is what training
    by cross-entropy goes down.

    Attributes:
        own: *c*: an int, one for each image, or None for the largest output of each image.
    """

    own: ClassTarget | None = None


@dataclass(frozen=True)
class Probability:
    r"""The probability of a class under the softmax, :math:`v = p_c = e^{f_c} / \sum_k e^{f_k}`.

    .. math:: \frac{\partial v}{\partial f_c} = p_c (1 - p_c), \qquad
              \frac{\partial v}{\partial f_k} = -p_c\, p_k \quad (k \ne c)

    The derivative is :math:`p_c (1 - p_c)` times that of :class:`LogOdds`.

    Attributes:
        own: *c*: an int, one for each image, or None for the largest output of each image.
    """

    own: ClassTarget | None = None


Contrast = Difference | Margin | LogOdds | LogProbability | Probability
"""A number that is made of several outputs."""

Target = ClassTarget | Contrast | None
"""What to explain: outputs, weights over the outputs (a tensor of floats), a contrast, or None."""


# ------------------------------------------------------------------- what a target is for a batch


class Explained(ABC):
    """The number that is explained of each image of a batch, as a function of the outputs."""

    @property
    def needs_class(self) -> bool:
        """Whether each image's class is still to be found: the largest output of it."""
        return False

    @abstractmethod
    def value(self, output: Tensor) -> Tensor:
        """Return the number (N,) of outputs (N, ...), in their type."""

    @abstractmethod
    def signal(self, output: Tensor) -> Tensor:
        """Return the derivative of the number with respect to the outputs, (N, ...) like them."""

    @abstractmethod
    def __getitem__(self, rows: slice | Tensor) -> Explained:
        """Return what is explained of some of the images, given by a slice or their numbers."""

    def of(self, named: Tensor) -> Explained:
        """Return the same for known classes (N,), if it needs them."""
        del named
        return self


Resolved = Explained | Tensor | None
"""A target that was checked: positions (N,) int64 in the flattened output, None or another."""


@dataclass(frozen=True, eq=False)
class _Weighted(Explained):
    """Weights over the outputs, (N, K): their sum, weighted."""

    weights: Tensor

    def value(self, output: Tensor) -> Tensor:
        return (by_image(output) * self.weights.to(output)).sum(1)

    def signal(self, output: Tensor) -> Tensor:
        return self.weights.to(output).reshape(output.shape)

    def __getitem__(self, rows: slice | Tensor) -> Explained:
        return _Weighted(self.weights[rows])


@dataclass(frozen=True, eq=False)
class _OfClass(Explained):
    """A number of one class among the others; `own` (N,), or None for the largest output."""

    own: Tensor | None

    @property
    def needs_class(self) -> bool:
        return self.own is None

    def __getitem__(self, rows: slice | Tensor) -> Explained:
        return self if self.own is None else type(self)(self.own[rows])

    def of(self, named: Tensor) -> Explained:
        return type(self)(named) if self.own is None else self

    def _split(self, output: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the class (N, 1), its output (N, 1), and all outputs with -inf at its place."""
        own = (output.argmax(1) if self.own is None else self.own)[:, None]
        return own, output.gather(1, own), output.scatter(1, own, -torch.inf)


class _OfMargin(_OfClass):
    def value(self, output: Tensor) -> Tensor:
        _, own, others = self._split(output)
        return own[:, 0] - others.amax(1)

    def signal(self, output: Tensor) -> Tensor:
        own, _, others = self._split(output)
        start = torch.zeros_like(output).scatter_(1, others.argmax(1, keepdim=True), -1.0)
        return start.scatter_(1, own, 1.0)


class _OfSoftmax(_OfClass):
    """A function of the odds. In float64: a class that is nearly certain leaves tiny rivals."""

    def value(self, output: Tensor) -> Tensor:
        return self._of_odds(self._odds(output.double())).to(output)

    def signal(self, output: Tensor) -> Tensor:
        own, _, others = self._split(output.double())
        start = (-others.softmax(1)).scatter_(1, own, 1.0)
        return (self._slope(self._odds(output.double()))[:, None] * start).to(output)

    def _odds(self, output: Tensor) -> Tensor:
        """Return the logarithm of the odds."""
        _, own, others = self._split(output)
        return own[:, 0] - others.logsumexp(1)

    def _of_odds(self, odds: Tensor) -> Tensor:
        return odds

    def _slope(self, odds: Tensor) -> Tensor:
        """Return the derivative by the logarithm of the odds."""
        return torch.ones_like(odds)


class _OfLogProbability(_OfSoftmax):
    def _of_odds(self, odds: Tensor) -> Tensor:
        return torch.nn.functional.logsigmoid(odds)

    def _slope(self, odds: Tensor) -> Tensor:
        return torch.sigmoid(-odds)


class _OfProbability(_OfSoftmax):
    def _of_odds(self, odds: Tensor) -> Tensor:
        return torch.sigmoid(odds)

    def _slope(self, odds: Tensor) -> Tensor:
        return torch.sigmoid(odds) * torch.sigmoid(-odds)


_BY_KIND: dict[type, type[_OfClass]] = {
    Margin: _OfMargin,
    LogOdds: _OfSoftmax,
    LogProbability: _OfLogProbability,
    Probability: _OfProbability,
}


def explained_of(target: Target, x: Tensor, output_shape: Sequence[int]) -> Resolved:
    """Check a target against a batch and the shape of the outputs.

    Args:
        target: As every method takes it.
        x: The images (N, ...); only their number and their device are asked.
        output_shape: The shape of the outputs, without the batch.

    Returns:
        None for the largest output of each image, positions (N,) int64 in the flattened output
        for plain targets, and an :class:`Explained` for weights and contrasts.

    Raises:
        ValueError: If classes are out of range, there are not as many as images, both classes of
            a difference are the same, weights do not fit or are not finite, or a margin or a
            number of the softmax is asked of outputs that are not (N, K) with two classes or more.
        TypeError: If the target is of none of these types.
    """
    if target is None:
        return None
    output = x.new_empty(1).expand(len(x), *output_shape)
    if isinstance(target, Difference):
        return _difference(target, output)
    if isinstance(target, Contrast):
        return _of_class(target, output)
    if isinstance(target, Tensor) and target.is_floating_point():
        return _weighted(target, output)
    return resolve_target(target, output)


def _difference(target: Difference, output: Tensor) -> Explained:
    if target.first is None or target.second is None:
        raise TypeError("a Difference needs two classes; Margin() finds the best two by itself")
    first, second = (resolve_target(each, output) for each in (target.first, target.second))
    if bool((first == second).any()):
        raise ValueError(
            f"a Difference of a class with itself is 0 everywhere: {target}; Margin(c) takes the "
            "best other class of each image"
        )
    weights = torch.zeros(len(output), math.prod(output.shape[1:]), device=output.device)
    weights.scatter_(1, first[:, None], 1.0).scatter_(1, second[:, None], -1.0)
    return _Weighted(weights)


def _of_class(target: Margin | LogOdds | LogProbability | Probability, output: Tensor) -> Explained:
    name, shape = type(target).__name__, tuple(output.shape[1:])
    if len(shape) > 1:
        raise ValueError(
            f"{name} is for class scores (N, K), not for outputs of shape (N, "
            f"{', '.join(map(str, shape))}): make such scores of them by output=, for instance "
            "output=lambda y: y.mean((2, 3))"
        )
    if math.prod(shape) < 2:
        raise ValueError(
            f"{name} sets a class against the others, but the network has one output; explain "
            "that, by target=0"
        )
    own = None if target.own is None else resolve_target(target.own, output)
    return _BY_KIND[type(target)](own)


def _weighted(target: Tensor, output: Tensor) -> Explained:
    flat, weights = by_image(output), target.detach().to(output.device)
    if not bool(torch.isfinite(weights).all()):
        raise ValueError("weights over the outputs hold NaN or infinite values")
    if weights.shape in (output.shape, flat.shape):
        return _Weighted(weights.reshape(flat.shape))
    if weights.shape in (output.shape[1:], flat.shape[1:]):
        return _Weighted(weights.reshape(1, -1).expand(flat.shape))
    each, batch = tuple(output.shape[1:]) or (1,), tuple(output.shape)
    raise ValueError(
        f"weights over the outputs must be of shape {each} for all images, or {batch} for each by "
        f"itself, not {tuple(weights.shape)}; to choose classes hand over integers"
    )


# ---------------------------------------------------------------------------- plain positions


def resolve_target(target: Target, output: Tensor) -> Tensor:
    """Return one position in the flattened output for each image.

    Args:
        target: None for the largest output of each image; an int for all images; a sequence or
            tensor with one int for each image; for outputs of more than one dimension, a tuple of
            positions (for all) or a sequence of tuples. Of a network that returns one number for
            each image there is only output 0.
        output: The network's outputs (N, ...).

    Returns:
        (N,) int64.

    Raises:
        ValueError: If a target is out of range or the number of targets is not N.
        TypeError: If a target is not an integer: a number that is made of several outputs, as
            weights or a :class:`Difference` describe it, has no position.
    """
    batch, shape = output.shape[0], output.shape[1:]
    if target is None:
        return by_image(output).argmax(1)
    targets = _integers(target, output.device)
    if len(shape) > 1:
        return _flat_positions(targets, batch, shape)
    if targets.ndim == 0:
        targets = targets.expand(batch)
    if targets.shape != (batch,):
        raise ValueError(f"target must be one int or {batch}, not of shape {tuple(targets.shape)}")
    _check_range(targets, math.prod(shape))
    return targets


def by_image(output: Tensor) -> Tensor:
    """Return the outputs as (N, K); K is 1 where there is one number for each image."""
    return output.reshape(output.shape[0], -1)


def _integers(target: object, device: torch.device) -> Tensor:
    _refuse_contrast(target)
    each = target if isinstance(target, (list, tuple)) else [target]
    name = next((one for one in each if isinstance(one, str)), None)
    if name is not None:
        raise TypeError(
            f"target must be integers, not the name {name!r}; clf.categories.index({name!r}) is "
            "the output of a classifier's class of that name"
        )
    try:
        targets = torch.as_tensor(target, device=device)
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(
            f"target must be integers, one or a list of them, not {target!r}"
        ) from error
    if targets.is_floating_point() or targets.is_complex() or targets.dtype == torch.bool:
        raise TypeError(f"target must be integers, not {targets.dtype}")
    return targets.long()


def _refuse_contrast(target: object) -> None:
    if isinstance(target, Contrast):
        raise TypeError(
            f"target must be integers here, not a {type(target).__name__}: one class for each "
            "image. Where a function may be given as output=, attribution.value_of(target, "
            "outputs) is the number to watch"
        )


def _flat_positions(targets: Tensor, batch: int, shape: Sequence[int]) -> Tensor:
    if targets.ndim == 1:
        targets = targets.expand(batch, -1)
    if targets.shape != (batch, len(shape)):
        raise ValueError(
            f"for outputs of shape (N, {', '.join(map(str, shape))}) target must be a tuple of "
            f"{len(shape)} ints, or {batch} of them, not of shape {tuple(targets.shape)}"
        )
    flat = torch.zeros(batch, dtype=torch.long, device=targets.device)
    for column, size in enumerate(shape):
        _check_range(targets[:, column], size)
        flat = flat * size + targets[:, column]
    return flat


def _check_range(targets: Tensor, size: int) -> None:
    if bool(((targets < 0) | (targets >= size)).any()):
        raise ValueError(f"target must be from 0 to {size - 1}, not {targets.tolist()}")


# ------------------------------------------------------------------------ the number and its signal


def value_of(target: Target, outputs: Tensor) -> Tensor:
    """Return the number that a target stands for, from a network's outputs.

    It is what :func:`xaiutils.evaluation.region_perturbation` has to watch, by its ``output=``, for
    a heatmap of that target. PyTorch can differentiate it.

    Args:
        target: What is explained, as every method takes it.
        outputs: The network's outputs (N, ...).

    Returns:
        (N,), in the type of the outputs.

    Raises:
        TypeError: If the target is of no known type.
        ValueError: If it does not fit the outputs.
    """
    return values_of(explained_of(target, outputs, outputs.shape[1:]), outputs)


def values_of(explained: Resolved, output: Tensor) -> Tensor:
    """Return the number (N,) that is explained of each image's outputs (N, ...)."""
    if isinstance(explained, Explained):
        return explained.value(output)
    flat = by_image(output)
    chosen = flat.argmax(1) if explained is None else explained
    return flat.gather(1, chosen[:, None])[:, 0]


def start_signal(explained: Resolved, output: Tensor) -> Tensor:
    """Return the derivative of the number that is explained, at the outputs.

    Of one position that is 1 there and 0 elsewhere; None is the largest output.

    Raises:
        ValueError: If the network's output is not finite.
    """
    if not bool(torch.isfinite(output).all()):
        raise ValueError("the network's output is not finite: it overflows on this input")
    if isinstance(explained, Explained):
        return explained.signal(output)
    flat = by_image(output)
    chosen = flat.argmax(1) if explained is None else explained
    return torch.zeros_like(flat).scatter_(1, chosen[:, None], 1.0).view_as(output)
