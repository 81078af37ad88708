"""Two ways of letting a signal through a ReLU that are not the gradient's, and chance."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn

from xaiutils import graph
from xaiutils.attribution._common import (
    Norm,
    Target,
    check_norm,
    in_chunks,
    joined,
    pool_colours,
    prepare,
    signal_to_input,
)


def _rectified(node: graph.Node, signal: Tensor, record: graph.Record) -> Tensor:
    """Keep what is positive in the signal, whatever the ReLU did on the way up."""
    return signal.relu()


def _rectified_and_gated(node: graph.Node, signal: Tensor, record: graph.Record) -> Tensor:
    """Keep what is positive in the signal and passes the gate."""
    return graph.gated(node, signal.relu(), record)


def deconvnet(
    model: nn.Module,
    x: Tensor,
    target: Target = None,
    *,
    norm: Norm | None = None,
    internal_batch_size: int | None = None,
) -> Tensor:
    r"""Return the deconvolution heatmap (Zeiler and Fergus 2014, as used in Samek et al. 2017).

    The signal starts with 1 at the target and goes back through transposed filters; a ReLU lets its
    positive part through, :math:`R \mapsto \max(R, 0)`, and does not ask whether it was itself
    open; max pooling sends it to the recorded winner. ReLU6 and leaky ReLU are treated like ReLU.

    Args:
        model: As in :func:`xaiutils.attribution.gradient`.
        x: Inputs (N, C, H, W).
        target: As in :func:`xaiutils.attribution.gradient`.
        norm: ``"l2"`` or ``"linf"`` over the colours, which is how Samek et al. make one number
            of a pixel; None leaves the colours and their signs.
        internal_batch_size: How many images at a time; bounds the memory.

    Returns:
        (N, C, H, W); with a norm (N, 1, H, W), not negative.

    Raises:
        TypeError: As in :func:`xaiutils.attribution.gradient`.
        ValueError: As in :func:`xaiutils.attribution.gradient`, or if ``norm`` is unknown.
    """
    return _modified(_rectified, model, x, target, norm, internal_batch_size)


def guided_backprop(
    model: nn.Module,
    x: Tensor,
    target: Target = None,
    *,
    norm: Norm | None = None,
    internal_batch_size: int | None = None,
) -> Tensor:
    r"""Return the guided-backpropagation heatmap (Springenberg et al. 2015).

    Like :func:`deconvnet`, but a ReLU passes only what is positive *and* met an open gate,
    :math:`R \mapsto \max(R, 0)\,[z > 0]`.

    Args:
        model: As in :func:`xaiutils.attribution.gradient`.
        x: Inputs (N, C, H, W).
        target: As in :func:`xaiutils.attribution.gradient`.
        norm: As in :func:`deconvnet`.
        internal_batch_size: How many images at a time; bounds the memory.

    Returns:
        (N, C, H, W); with a norm (N, 1, H, W), not negative.

    Raises:
        TypeError: As in :func:`xaiutils.attribution.gradient`.
        ValueError: As in :func:`xaiutils.attribution.gradient`, or if ``norm`` is unknown.
    """
    return _modified(_rectified_and_gated, model, x, target, norm, internal_batch_size)


def _modified(
    gate: graph.GateRule,
    model: nn.Module,
    x: Tensor,
    target: Target,
    norm: Norm | None,
    internal_batch_size: int | None,
) -> Tensor:
    check_norm(norm)
    traced, x, positions = prepare(model, x, target)
    one_chunk = partial(signal_to_input, traced, gate=gate)
    heatmap = joined(in_chunks(one_chunk, internal_batch_size, x, positions))
    return heatmap if norm is None else pool_colours(heatmap, norm)


def random(
    model: nn.Module,
    x: Tensor,
    target: Target = None,
    *,
    seed: int = 0,
    internal_batch_size: int | None = None,
) -> Tensor:
    """Return standard normal noise: the baseline that every method must beat.

    Args:
        model: Checked as by the other methods, and otherwise unused.
        x: Inputs (N, C, H, W).
        target: Checked, and otherwise unused.
        seed: Of the noise; image *n* of a batch gets the same noise whatever the batch size is.
        internal_batch_size: Accepted as by the other methods; there is nothing to cut.

    Returns:
        (N, C, H, W).

    Raises:
        TypeError: As in :func:`xaiutils.attribution.gradient`.
        ValueError: As in :func:`xaiutils.attribution.gradient`.
    """
    _, x, _ = prepare(model, x, target)
    generator = torch.Generator().manual_seed(seed)
    images = [torch.randn(x.shape[1:], generator=generator, dtype=x.dtype) for _ in x]
    return torch.stack(images).to(x.device)
