"""The gradient and its relatives: what a small change of each pixel would do."""

from __future__ import annotations

from functools import partial
from typing import Literal, overload

import torch
from torch import Tensor

from xaiutils import graph
from xaiutils.attribution._autograd import Differentiated, prepare_slopes, slopes_of
from xaiutils.attribution._common import (
    Explained,
    Network,
    Norm,
    Resolved,
    Target,
    check_norm,
    check_positive,
    in_chunks,
    joined,
    pool_colours,
    precise,
    settled,
    values_of,
)
from xaiutils.graph.outputs import Output

_Runs = graph.Graph | Differentiated


def gradient(
    model: Network,
    x: Tensor,
    target: Target = None,
    *,
    output: Output = None,
    batch_size: int | None = None,
) -> Tensor:
    r"""Return the gradient of the target output with respect to the input.

    :math:`J = \partial f_t / \partial x`, computed on the traced graph: every linear operation
    transposed, every ReLU open where it was open. A network that cannot be read is differentiated
    by autograd, as by :func:`smoothgrad` and :func:`integrated_gradients` too.

    Of a network with several inputs any method explains them all, as one: hand over
    ``graph.trace(model, inputs)`` and ``graph.pack(inputs)``, and ``graph.unpack`` gives each
    input its part of the result.

    Args:
        model: A classifier, or any network, in evaluation mode; or the
            :class:`~xaiutils.graph.Graph` that :func:`xaiutils.graph.trace` has read of one, whose
            weights are then not read again at every call. It takes inputs of the shape that it was
            read for.
        x: Inputs (N, C, H, W), as the network takes them.
        target: The output to explain: an int, one for each image, or None for the largest one. For
            outputs of several dimensions a tuple of positions; of a network that returns one
            number for each image there is only output 0.
        output: Which of several outputs of the network ``target`` is looked for in: the key in a
            dict, the position in a tuple, or a function of all that the network returns. So any
            number can be explained: with ``lambda y: y.softmax(1)`` a probability, with
            ``lambda y: y["out"].mean((2, 3))`` the mean over places of a segmentation. None where
            there is only one output, and for a Graph, which has chosen.
        batch_size: How many images at a time; bounds the memory.

    Returns:
        (N, C, H, W), in units of the output per unit of the input. For a network in half precision
        (float16, bfloat16) it is computed and returned in float32, in which small numbers are not
        lost, as by all methods; where autograd has to do it and the network does not run in
        float32, it is computed in the network's own type.

    Raises:
        TypeError: If the model, ``x``, ``target`` or ``output`` is of the wrong type.
        ValueError: If the model is in training mode, does not run on ``x``, returns several outputs
            of which none is chosen, or an argument is out of range; if its output cannot be
            differentiated, or a Graph does not fit ``x``.

    Warns:
        UnpreprocessedWarning: If pictures go from 0 far beyond 1, as pixels of 0 to 255 do, and
            the network does not scale them itself. So do all methods.
    """
    return _gradients(*prepare_slopes(model, x, target, output), batch_size)


def input_x_gradient(
    model: Network,
    x: Tensor,
    target: Target = None,
    *,
    output: Output = None,
    batch_size: int | None = None,
) -> Tensor:
    r"""Return the input times the gradient, :math:`x \odot \partial f_t / \partial x`.

    For a network of ReLUs its sum is the target output less the part that comes from the biases.

    Args:
        model: A network in evaluation mode, or its :class:`~xaiutils.graph.Graph`.
        x: Inputs (N, C, H, W), as the network takes them.
        target: The output to explain: an int, one for each image, or None for the largest one.
        output: Which of several outputs: a key, a position, or a function; see :func:`gradient`.
        batch_size: How many images at a time; bounds the memory.

    Returns:
        (N, C, H, W), in units of the output.

    Raises:
        TypeError: As in :func:`gradient`.
        ValueError: As in :func:`gradient`.
    """
    slopes = gradient(model, x, target, output=output, batch_size=batch_size)
    return precise(x) * slopes


def sensitivity(
    model: Network,
    x: Tensor,
    target: Target = None,
    *,
    norm: Norm = "l2",
    output: Output = None,
    batch_size: int | None = None,
) -> Tensor:
    r"""Return how strongly the target output reacts to each pixel (Samek et al. 2017, eq. 3).

    :math:`h_p = \lVert (\partial f_t / \partial x_{p,c})_c \rVert_q` with :math:`q \in
    \{2, \infty\}` over the colours *c*. The sign is lost.

    Args:
        model: A network in evaluation mode, or its :class:`~xaiutils.graph.Graph`.
        x: Inputs (N, C, H, W), as the network takes them.
        target: The output to explain: an int, one for each image, or None for the largest one.
        norm: ``"l2"`` or ``"linf"``.
        output: Which of several outputs: a key, a position, or a function; see :func:`gradient`.
        batch_size: How many images at a time; bounds the memory.

    Returns:
        (N, 1, H, W), not negative.

    Raises:
        TypeError: As in :func:`gradient`.
        ValueError: As in :func:`gradient`, or if ``norm`` is unknown.
    """
    check_norm(norm)
    slopes = gradient(model, x, target, output=output, batch_size=batch_size)
    return pool_colours(slopes, norm)


def smoothgrad(
    model: Network,
    x: Tensor,
    target: Target = None,
    *,
    samples: int = 25,
    noise_level: float = 0.15,
    seed: int = 0,
    output: Output = None,
    batch_size: int | None = None,
) -> Tensor:
    r"""Return the gradient averaged over noisy copies of the input (Smilkov et al. 2017, eq. 1).

    :math:`\frac1n \sum_k \partial f_t(x + \epsilon_k)/\partial x` with Gaussian noise whose
    standard deviation is ``noise_level`` times the range of each image. The target of None is the
    largest output of the image without noise. An image's noise depends on ``seed`` alone, not on
    the other images of the batch.

    Args:
        model: A network in evaluation mode, or its :class:`~xaiutils.graph.Graph`.
        x: Inputs (N, C, H, W), as the network takes them.
        target: The output to explain: an int, one for each image, or None for the largest one.
        samples: The number of noisy copies.
        noise_level: Standard deviation of the noise, as a share of ``x.max() - x.min()``.
        seed: Of the noise.
        output: Which of several outputs: a key, a position, or a function; see :func:`gradient`.
        batch_size: How many images at a time; bounds the memory.

    Returns:
        (N, C, H, W), in units of the output per unit of the input.

    Raises:
        TypeError: As in :func:`gradient`.
        ValueError: As in :func:`gradient`, or if ``samples`` or ``noise_level`` is out of range.
    """
    check_positive("samples", samples)
    if noise_level < 0:
        raise ValueError(f"noise_level must not be negative, but is {noise_level}")
    network, x, explained = prepare_slopes(model, x, target, output)
    spread = noise_level * (x.flatten(1).amax(1) - x.flatten(1).amin(1))
    spread = spread.reshape(-1, *[1] * (x.ndim - 1))
    explained = settled(network, x, explained, batch_size)
    generator = torch.Generator().manual_seed(seed)
    total = torch.zeros_like(x)
    for _ in range(samples):
        noise = torch.randn(x.shape[1:], generator=generator, dtype=x.dtype).to(x.device)
        total += _gradients(network, x + spread * noise, explained, batch_size)
    return total / samples


@overload
def integrated_gradients(
    model: Network,
    x: Tensor,
    target: Target = None,
    *,
    baselines: Tensor | float = 0.0,
    n_steps: int = 50,
    return_convergence_delta: Literal[False] = False,
    output: Output = None,
    batch_size: int | None = None,
) -> Tensor: ...


@overload
def integrated_gradients(
    model: Network,
    x: Tensor,
    target: Target = None,
    *,
    baselines: Tensor | float = 0.0,
    n_steps: int = 50,
    return_convergence_delta: Literal[True],
    output: Output = None,
    batch_size: int | None = None,
) -> tuple[Tensor, Tensor]: ...


def integrated_gradients(
    model: Network,
    x: Tensor,
    target: Target = None,
    *,
    baselines: Tensor | float = 0.0,
    n_steps: int = 50,
    return_convergence_delta: bool = False,
    output: Output = None,
    batch_size: int | None = None,
) -> Tensor | tuple[Tensor, Tensor]:
    r"""Return the gradient averaged along a straight path, times the path (Sundararajan 2017).

    :math:`(x - x') \odot \int_0^1 \partial f_t(x' + a (x - x'))/\partial x \, da` (their eq. 1),
    with the integral by Gauss-Legendre quadrature. It is complete: its sum is
    :math:`f_t(x) - f_t(x')` up to the error of the quadrature, the completeness gap.

    Args:
        model: A network in evaluation mode, or its :class:`~xaiutils.graph.Graph`.
        x: Inputs (N, C, H, W), as the network takes them.
        target: The output to explain: an int, one for each image, or None for the largest one.
        baselines: The start :math:`x'` of the path: a number, or a tensor broadcastable to ``x``.
        n_steps: The number of points on the path.
        return_convergence_delta: Whether to return the completeness gap as well.
        output: Which of several outputs: a key, a position, or a function; see :func:`gradient`.
        batch_size: How many images at a time; bounds the memory.

    Returns:
        (N, C, H, W), in units of the output. With ``return_convergence_delta`` also the gap (N,):
        the sum of the map minus ``f(x) - f(baselines)``.

    Raises:
        TypeError: As in :func:`gradient`.
        ValueError: As in :func:`gradient`, or if ``n_steps`` is not positive or the baselines do
            not fit.
    """
    check_positive("n_steps", n_steps)
    network, x, explained = prepare_slopes(model, x, target, output)
    start = _baseline(baselines, x)
    explained = settled(network, x, explained, batch_size)
    path, total = x - start, torch.zeros_like(x)
    for place, weight in zip(*_gauss_legendre(n_steps), strict=True):
        total += weight * _gradients(network, start + place * path, explained, batch_size)
    heatmaps = path * total
    if not return_convergence_delta:
        return heatmaps
    rise = _outputs(network, x, explained, batch_size) - _outputs(
        network, start, explained, batch_size
    )
    return heatmaps, heatmaps.flatten(1).sum(1) - rise


def _baseline(baselines: Tensor | float, x: Tensor) -> Tensor:
    given = torch.as_tensor(baselines, dtype=x.dtype, device=x.device).detach()
    try:
        start = given.expand_as(x)
    except RuntimeError as error:
        raise ValueError(
            f"baselines of shape {tuple(given.shape)} do not fit x of shape {tuple(x.shape)}"
        ) from error
    if not bool(torch.isfinite(start).all()):
        raise ValueError("baselines hold NaN or infinite values")
    return start


def _gauss_legendre(points: int) -> tuple[list[float], list[float]]:
    """Return places in (0, 1) and weights that sum to 1 (Golub and Welsch's eigenvalue problem)."""
    k = torch.arange(1, points, dtype=torch.float64)
    off_diagonal = k / torch.sqrt(4 * k**2 - 1)
    matrix = torch.diag(off_diagonal, 1) + torch.diag(off_diagonal, -1)
    places, vectors = torch.linalg.eigh(matrix)
    return ((places + 1) / 2).tolist(), (vectors[0] ** 2).tolist()


def _gradients(network: _Runs, x: Tensor, explained: Resolved, batch_size: int | None) -> Tensor:
    one_chunk = partial(slopes_of, network)
    return joined(in_chunks(one_chunk, batch_size, x, explained))


def _outputs(
    network: _Runs, x: Tensor, explained: Explained | Tensor, batch_size: int | None
) -> Tensor:
    def one_chunk(x: Tensor, explained: Explained | Tensor) -> Tensor:
        return values_of(explained, network(x))

    return joined(in_chunks(one_chunk, batch_size, x, explained))
