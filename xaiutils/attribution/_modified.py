"""Two ways of letting a signal through a ReLU that are not the gradient's, and chance."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from xaiutils import graph
from xaiutils.attribution._autograd import prepare_slopes
from xaiutils.attribution._common import (
    Network,
    Norm,
    Target,
    check_norm,
    in_chunks,
    joined,
    pool_colours,
    prepare,
    require_piecewise_linear,
    signal_to_input,
)
from xaiutils.graph.outputs import Output


def _rectified(node: graph.Node, signal: Tensor, record: graph.Record) -> Tensor:
    """Keep what is positive in the signal, whatever the ReLU did on the way up."""
    return signal.relu()


def _rectified_and_gated(node: graph.Node, signal: Tensor, record: graph.Record) -> Tensor:
    """Keep what is positive in the signal and passes the gate."""
    return graph.gated(node, signal.relu(), record)


def deconvnet(
    model: Network,
    x: Tensor,
    target: Target = None,
    *,
    norm: Norm | None = None,
    output: Output = None,
    batch_size: int | None = None,
) -> Tensor:
    r"""Return the deconvolution heatmap (Zeiler and Fergus 2014, as used in Samek et al. 2017).

    The signal starts with 1 at the target and goes back through transposed filters; a ReLU lets its
    positive part through, :math:`R \mapsto \max(R, 0)`, and does not ask whether it was itself
    open; max pooling sends it to the recorded winner. ReLU6 and leaky ReLU are treated like ReLU.

    A target made of several outputs starts with its derivative at each, the negative ones too.
    Since the gates cut signals off, the map of a difference is not the difference of the maps.

    It is defined for such gates alone. A network with smooth ones (GELU, SiLU, sigmoid), products
    or quotients of computed numbers, normalisation by them, or softmax is refused: hooks on
    modules of type ReLU, as other packages set them, would leave those with their gradient, and
    the map would be neither one nor the other.

    Args:
        model: A network in evaluation mode, or its :class:`~xaiutils.graph.Graph`.
        x: Inputs (N, C, H, W), as the network takes them.
        target: What to explain, as in :func:`xaiutils.attribution.gradient`.
        norm: ``"l2"`` or ``"linf"`` over the colours, which is how Samek et al. make one number
            of a pixel; None leaves the colours and their signs.
        output: Which of several outputs of the network: a key, a position, or a function of what
            it returns, as in :func:`xaiutils.attribution.gradient`.
        batch_size: How many images at a time; bounds the memory.

    Returns:
        (N, C, H, W); with a norm (N, 1, H, W), not negative.

    Raises:
        TypeError: As in :func:`xaiutils.attribution.gradient`.
        ValueError: As in :func:`xaiutils.attribution.gradient`, or if ``norm`` is unknown.
        UnsupportedOperation: If the network cannot be read, or something in it is neither linear
            nor a gate of straight pieces; it names what, and where.
    """
    check_norm(norm)
    found = _modified("deconvolution", _rectified, model, x, target, output, batch_size)
    return found if norm is None else pool_colours(found, norm)


def guided_backprop(
    model: Network,
    x: Tensor,
    target: Target = None,
    *,
    norm: Norm | None = None,
    output: Output = None,
    batch_size: int | None = None,
) -> Tensor:
    r"""Return the guided-backpropagation heatmap (Springenberg et al. 2015).

    Like :func:`deconvnet`, but a ReLU passes only what is positive *and* met an open gate,
    :math:`R \mapsto \max(R, 0)\,[z > 0]`. It is defined for the same networks.

    Args:
        model: A network in evaluation mode, or its :class:`~xaiutils.graph.Graph`.
        x: Inputs (N, C, H, W), as the network takes them.
        target: What to explain, as in :func:`xaiutils.attribution.gradient`.
        norm: ``"l2"`` or ``"linf"`` over the colours; None leaves the colours and their signs.
        output: Which of several outputs of the network: a key, a position, or a function of what
            it returns, as in :func:`xaiutils.attribution.gradient`.
        batch_size: How many images at a time; bounds the memory.

    Returns:
        (N, C, H, W); with a norm (N, 1, H, W), not negative.

    Raises:
        TypeError: As in :func:`xaiutils.attribution.gradient`.
        ValueError: As in :func:`xaiutils.attribution.gradient`, or if ``norm`` is unknown.
        UnsupportedOperation: If the network cannot be read, or something in it is neither linear
            nor a gate of straight pieces; it names what, and where.
    """
    check_norm(norm)
    found = _modified(
        "guided backpropagation",
        _rectified_and_gated,
        model,
        x,
        target,
        output,
        batch_size,
    )
    return found if norm is None else pool_colours(found, norm)


def _modified(
    method: str,
    gate: graph.GateRule,
    model: Network,
    x: Tensor,
    target: Target,
    output: Output,
    batch_size: int | None,
) -> Tensor:
    traced, x, explained = prepare(model, x, target, output=output)
    require_piecewise_linear(traced, method)
    one_chunk = partial(signal_to_input, traced, gate=gate)
    return joined(in_chunks(one_chunk, batch_size, x, explained))


def random(
    model: Network,
    x: Tensor,
    target: Target = None,
    *,
    seed: int = 0,
    output: Output = None,
    batch_size: int | None = None,
) -> Tensor:
    """Return standard normal noise: the baseline that every method must beat.

    Args:
        model: Checked as by the other methods, and otherwise unused.
        x: Inputs (N, C, H, W).
        target: Checked, and otherwise unused.
        seed: Of the noise; image *n* of a batch gets the same noise whatever the batch size is.
        output: Checked, and otherwise unused.
        batch_size: Accepted as by the other methods; there is nothing to cut.

    Returns:
        (N, C, H, W).

    Raises:
        TypeError: As in :func:`xaiutils.attribution.gradient`.
        ValueError: As in :func:`xaiutils.attribution.gradient`.
    """
    _, x, _ = prepare_slopes(model, x, target, output)
    generator = torch.Generator().manual_seed(seed)
    images = [torch.randn(x.shape[1:], generator=generator, dtype=x.dtype) for _ in x]
    return torch.stack(images).to(x.device)
