"""Grad-CAM: the feature maps of one layer, weighted by how much the target depends on each."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from xaiutils import graph
from xaiutils.attribution._common import Target, in_chunks, prepare, start_signal


def grad_cam(
    model: nn.Module,
    x: Tensor,
    target: Target = None,
    layer: str | None = None,
    *,
    relu: bool = True,
    internal_batch_size: int | None = None,
) -> Tensor:
    r"""Return the Grad-CAM heatmap (Selvaraju et al. 2017, eqs. 1 and 2).

    :math:`L(u, v) = \max\bigl(0, \sum_k \alpha_k A^k(u, v)\bigr)` with :math:`\alpha_k` the spatial
    mean of :math:`\partial f_t / \partial A^k`, enlarged to the size of the input bilinearly.

    Args:
        model: As in :func:`xaiutils.attribution.gradient`.
        x: Inputs (N, C, H, W).
        target: As in :func:`xaiutils.attribution.gradient`.
        layer: The path in ``model`` of the module whose output is :math:`A`, e.g.
            ``"features.12"``; a container (``"layer4"``) stands for the last operation in it. None
            takes the output of the last convolution, before any BatchNorm, addition or ReLU; for
            networks with residual additions the block (``"layer4"``) is the usual choice.
        relu: Whether negative values become 0, as in the paper.
        internal_batch_size: How many images at a time; bounds the memory.

    Returns:
        (N, 1, H, W). It is 0 everywhere for an image on which no map speaks for the target.

    Raises:
        TypeError: As in :func:`xaiutils.attribution.gradient`.
        ValueError: As in :func:`xaiutils.attribution.gradient`, or if there is no such layer or it
            has no feature maps (its output is not (N, K, ...)).
    """
    traced = prepare(model, x, target, fold=False)  # unfolded: every module's output is there
    node = feature_layer(traced, layer)

    def one_chunk(x: Tensor, target: Target) -> Tensor:
        record = traced.record(x, keep=traced.gates | {node.index})
        start = start_signal(target, record.output)
        slopes = traced.backward(record, start, until=node.index)
        weights = slopes.flatten(2).mean(2).reshape(*slopes.shape[:2], *[1] * (slopes.ndim - 2))
        cam = (weights * record.value(node.index)).sum(1, keepdim=True)
        return enlarged(cam.relu() if relu else cam, x.shape[2:])

    return in_chunks(one_chunk, x, target, internal_batch_size)


def feature_layer(traced: graph.Graph, layer: str | None) -> graph.Node:
    """Return the node whose output holds the feature maps: a named layer or the last convolution.

    Raises:
        ValueError: If there is no such layer or it has no feature maps.
    """
    if layer is None:
        convolutions = [n for n in traced.nodes if isinstance(n.operation, graph.Convolution)]
        if not convolutions:
            raise ValueError("the network has no convolution; name a layer")
        return convolutions[-1]
    node = traced.find(layer)
    if len(node.shape) < 2:
        raise ValueError(f"the output of layer {layer!r} has no feature maps: {node.shape}")
    return node


def enlarged(cam: Tensor, size: torch.Size) -> Tensor:
    """Return a map (N, 1, ...) at another size, by linear interpolation."""
    modes = {1: "linear", 2: "bilinear", 3: "trilinear"}
    return F.interpolate(cam, size=size, mode=modes[len(size)], align_corners=False)
