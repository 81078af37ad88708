"""Maps of noisy copies of the image: their mean, the mean of their squares, their variance."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, Literal, overload

import torch
from torch import Tensor

from xaiutils import graph
from xaiutils.attribution._autograd import prepare_slopes
from xaiutils.attribution._common import (
    Explained,
    Network,
    Resolved,
    Target,
    precise,
    settled,
)
from xaiutils.attribution._gradients import gradient
from xaiutils.attribution._paths import check_samples
from xaiutils.attribution._targets import LogOdds, LogProbability, Margin, Probability
from xaiutils.attribution._variants import Moments, Runs, blocks, rows_at_once, slopes_at
from xaiutils.graph.outputs import Output

Method = Callable[..., Any]
"""``method(model, x, target, output=..., batch_size=...)`` returns heatmaps (N, ...)."""

_OF_CLASS = (Margin, LogOdds, LogProbability, Probability)


@overload
def smoothgrad(
    model: Network,
    x: Tensor,
    target: Target = None,
    *,
    samples: int = 25,
    noise_level: float = 0.15,
    seed: int = 0,
    method: Method = gradient,
    return_standard_error: Literal[False] = False,
    output: Output = None,
    batch_size: int | None = None,
) -> Tensor: ...


@overload
def smoothgrad(
    model: Network,
    x: Tensor,
    target: Target = None,
    *,
    samples: int = 25,
    noise_level: float = 0.15,
    seed: int = 0,
    method: Method = gradient,
    return_standard_error: Literal[True],
    output: Output = None,
    batch_size: int | None = None,
) -> tuple[Tensor, Tensor]: ...


def smoothgrad(
    model: Network,
    x: Tensor,
    target: Target = None,
    *,
    samples: int = 25,
    noise_level: float = 0.15,
    seed: int = 0,
    method: Method = gradient,
    return_standard_error: bool = False,
    output: Output = None,
    batch_size: int | None = None,
) -> Tensor | tuple[Tensor, Tensor]:
    r"""Return the gradient averaged over noisy copies of the input (Smilkov et al. 2017, eq. 1).

    :math:`\frac1n \sum_k \partial f_t(x + \epsilon_k)/\partial x` with Gaussian noise whose
    standard deviation is ``noise_level`` times the range of each image. The target of None is the
    largest output of the image without noise. An image's noise depends on ``seed`` alone, not on
    the other images of the batch.

    Args:
        model: A network in evaluation mode, or its :class:`~xaiutils.graph.Graph`.
        x: Inputs (N, C, H, W), as the network takes them.
        target: What to explain, as in :func:`gradient`.
        samples: The number of noisy copies.
        noise_level: Standard deviation of the noise, as a share of ``x.max() - x.min()``.
        seed: Of the noise.
        method: What is averaged in place of the gradient: ``method(model, x, target, output=...,
            batch_size=...)`` that returns a map of each image, as all in ``METHODS`` do; options
            by ``functools.partial``.
        return_standard_error: Whether to return the standard error of each value as well.
        output: Which of several outputs: a key, a position, or a function; see :func:`gradient`.
        batch_size: How many pictures, images times copies, at a time; bounds the memory. None: as
            many as there are images, or more if they are small.

    Returns:
        (N, C, H, W), in units of the output per unit of the input, or as ``method`` has them. With
        ``return_standard_error`` also its standard error, in the same shape and unit: the root of
        the unbiased variance over ``samples``.

    Raises:
        TypeError: As in :func:`gradient`, or if ``method`` returns no tensor.
        ValueError: As in :func:`gradient`, or if ``samples`` or ``noise_level`` is out of range.
    """
    found = _moments(
        model,
        x,
        target,
        samples,
        noise_level,
        seed,
        method,
        1 + return_standard_error,
        output,
        batch_size,
    )
    return (found.mean, found.error_of_mean()) if return_standard_error else found.mean


@overload
def smoothgrad_squared(
    model: Network,
    x: Tensor,
    target: Target = None,
    *,
    samples: int = 25,
    noise_level: float = 0.15,
    seed: int = 0,
    method: Method = gradient,
    return_standard_error: Literal[False] = False,
    output: Output = None,
    batch_size: int | None = None,
) -> Tensor: ...


@overload
def smoothgrad_squared(
    model: Network,
    x: Tensor,
    target: Target = None,
    *,
    samples: int = 25,
    noise_level: float = 0.15,
    seed: int = 0,
    method: Method = gradient,
    return_standard_error: Literal[True],
    output: Output = None,
    batch_size: int | None = None,
) -> tuple[Tensor, Tensor]: ...


def smoothgrad_squared(
    model: Network,
    x: Tensor,
    target: Target = None,
    *,
    samples: int = 25,
    noise_level: float = 0.15,
    seed: int = 0,
    method: Method = gradient,
    return_standard_error: bool = False,
    output: Output = None,
    batch_size: int | None = None,
) -> Tensor | tuple[Tensor, Tensor]:
    r"""Return the mean of the squared gradients of noisy copies (Hooker et al. 2019).

    :math:`\frac1n \sum_k (\partial f_t(x + \epsilon_k)/\partial x)^2`, with the noise of
    :func:`smoothgrad`. It is the square of that mean plus the variance (n in place of n - 1) that
    :func:`vargrad` gives.

    Args:
        model: A network in evaluation mode, or its :class:`~xaiutils.graph.Graph`.
        x: Inputs (N, C, H, W), as the network takes them.
        target: What to explain, as in :func:`gradient`.
        samples: The number of noisy copies.
        noise_level: Standard deviation of the noise, as a share of ``x.max() - x.min()``.
        seed: Of the noise.
        method: Whose maps are squared, as in :func:`smoothgrad`.
        return_standard_error: Whether to return the standard error of each value as well.
        output: Which of several outputs: a key, a position, or a function; see :func:`gradient`.
        batch_size: How many pictures at a time, as in :func:`smoothgrad`.

    Returns:
        (N, C, H, W), not negative, in units of the squared map; with ``return_standard_error``
        also its standard error.

    Raises:
        TypeError: As in :func:`smoothgrad`.
        ValueError: As in :func:`smoothgrad`.
    """
    found = _moments(
        model,
        x,
        target,
        samples,
        noise_level,
        seed,
        method,
        1 + return_standard_error,
        output,
        batch_size,
        squared=True,
    )
    return (found.mean, found.error_of_mean()) if return_standard_error else found.mean


@overload
def vargrad(
    model: Network,
    x: Tensor,
    target: Target = None,
    *,
    samples: int = 25,
    noise_level: float = 0.15,
    seed: int = 0,
    method: Method = gradient,
    return_standard_error: Literal[False] = False,
    output: Output = None,
    batch_size: int | None = None,
) -> Tensor: ...


@overload
def vargrad(
    model: Network,
    x: Tensor,
    target: Target = None,
    *,
    samples: int = 25,
    noise_level: float = 0.15,
    seed: int = 0,
    method: Method = gradient,
    return_standard_error: Literal[True],
    output: Output = None,
    batch_size: int | None = None,
) -> tuple[Tensor, Tensor]: ...


def vargrad(
    model: Network,
    x: Tensor,
    target: Target = None,
    *,
    samples: int = 25,
    noise_level: float = 0.15,
    seed: int = 0,
    method: Method = gradient,
    return_standard_error: bool = False,
    output: Output = None,
    batch_size: int | None = None,
) -> Tensor | tuple[Tensor, Tensor]:
    r"""Return the variance of the gradients of noisy copies (Adebayo et al. 2018).

    :math:`\frac{1}{n - 1} \sum_k (g_k - \bar g)^2`, the unbiased variance, of
    :math:`g_k = \partial f_t(x + \epsilon_k)/\partial x` with the noise of :func:`smoothgrad`. It
    is large where the gradient depends on which creases the noise crosses, whatever the gradient
    itself is: of a linear network it is 0.

    Args:
        model: A network in evaluation mode, or its :class:`~xaiutils.graph.Graph`.
        x: Inputs (N, C, H, W), as the network takes them.
        target: What to explain, as in :func:`gradient`.
        samples: The number of noisy copies, at least 2.
        noise_level: Standard deviation of the noise, as a share of ``x.max() - x.min()``.
        seed: Of the noise.
        method: Whose maps vary, as in :func:`smoothgrad`.
        return_standard_error: Whether to return the standard error of each value as well, from the
            fourth moment; for few samples it is coarse.
        output: Which of several outputs: a key, a position, or a function; see :func:`gradient`.
        batch_size: How many pictures at a time, as in :func:`smoothgrad`.

    Returns:
        (N, C, H, W), not negative, in units of the squared map; with ``return_standard_error``
        also its standard error.

    Raises:
        TypeError: As in :func:`smoothgrad`.
        ValueError: As in :func:`smoothgrad`.
    """
    order = 4 if return_standard_error else 2
    found = _moments(
        model, x, target, samples, noise_level, seed, method, order, output, batch_size
    )
    return (found.variance, found.error_of_variance()) if return_standard_error else found.variance


def _moments(
    model: Network,
    x: Tensor,
    target: Target,
    samples: int,
    noise_level: float,
    seed: int,
    method: Method,
    order: int,
    output: Output,
    batch_size: int | None,
    squared: bool = False,
) -> Moments:
    """Return the moments of the maps of noisy copies, or of their squares."""
    check_samples(samples, order > 1)
    if not noise_level >= 0:
        raise ValueError(f"noise_level must not be negative, but is {noise_level}")
    network, images, explained = prepare_slopes(model, x, target, output)
    rows = rows_at_once(images, batch_size)
    explained = settled(network, images, explained, batch_size)
    if method is gradient:
        maps = _slopes(network, images, explained, samples, noise_level, seed, rows)
    else:
        named = _as_target(target, explained, network.output_shape)
        maps = (
            _map_of(method, model, noisy.to(x), named, output, batch_size)
            for copies in _copies(images, samples, noise_level, seed, 1)
            for noisy in copies
        )
    moments = Moments(order)
    for found in maps:
        moments.add(found.square() if squared else found)
    return moments


def _copies(
    x: Tensor, samples: int, noise_level: float, seed: int, at_once: int
) -> Iterator[Tensor]:
    """Yield noisy copies (V, N, ...) of the images, a few at a time."""
    spread = noise_level * (x.flatten(1).amax(1) - x.flatten(1).amin(1))
    spread = spread.reshape(-1, *[1] * (x.ndim - 1))
    generator = torch.Generator().manual_seed(seed)
    for first in range(0, samples, at_once):
        draws = [
            torch.randn(x.shape[1:], generator=generator, dtype=x.dtype)
            for _ in range(min(at_once, samples - first))
        ]
        noise = torch.stack(draws)[:, None].to(x.device)
        yield torch.addcmul(x, spread, noise)


@graph.undisturbed
def _slopes_of_block(network: Runs, copies: Tensor, explained: Resolved, rows: int) -> Tensor:
    """Return the gradients at some copies (V, N, ...) of all images."""
    _, images = copies.shape[:2]
    parts = [
        slopes_at(network, copies[:, few], explained, few)
        for _, few in blocks(1, images, rows // len(copies))
    ]
    return parts[0] if len(parts) == 1 else torch.cat(parts, 1)


def _slopes(
    network: Runs,
    x: Tensor,
    explained: Resolved,
    samples: int,
    noise_level: float,
    seed: int,
    rows: int,
) -> Iterator[Tensor]:
    for copies in _copies(x, samples, noise_level, seed, max(1, rows // len(x))):
        yield from _slopes_of_block(network, copies, explained, rows)


def _as_target(target: Target, explained: Explained | Tensor, shape: graph.Shape) -> Target:
    """Return the target as a method takes it, with the class settled that it left open."""
    if target is None:
        assert isinstance(explained, Tensor)
        return (
            torch.stack(torch.unravel_index(explained, shape), 1) if len(shape) > 1 else explained
        )
    if isinstance(target, _OF_CLASS) and target.own is None:
        return replace(target, own=vars(explained)["own"])
    return target


def _map_of(
    method: Method,
    model: Network,
    x: Tensor,
    target: Target,
    output: Output,
    batch_size: int | None,
) -> Tensor:
    found = method(model, x, target, output=output, batch_size=batch_size)
    if not isinstance(found, Tensor):
        raise TypeError(
            f"method must return a map of each image, not {type(found).__name__}; leave out what "
            "asks for more than the map"
        )
    return precise(found)
