"""Grad-CAM: the feature maps of one layer, weighted by how much the target depends on each."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from xaiutils import graph
from xaiutils.attribution._autograd import Differentiated, differentiated
from xaiutils.attribution._common import (
    Network,
    Resolved,
    Target,
    explained_of,
    in_chunks,
    joined,
    precise,
    prepare,
    start_signal,
)
from xaiutils.graph.errors import GraphError
from xaiutils.graph.outputs import Output

Combine = Callable[[Tensor, Tensor], Tensor]


def grad_cam(
    model: Network,
    x: Tensor,
    target: Target = None,
    layer: str | None = None,
    *,
    relu: bool = True,
    output: Output = None,
    batch_size: int | None = None,
) -> Tensor:
    r"""Return the Grad-CAM heatmap (Selvaraju et al. 2017, eqs. 1 and 2).

    :math:`L(u, v) = \max\bigl(0, \sum_k \alpha_k A^k(u, v)\bigr)` with :math:`\alpha_k` the spatial
    mean of :math:`\partial f_t / \partial A^k`, enlarged to the size of the input bilinearly. For a
    target made of several outputs it is that number's derivative. Without the ReLU the map of a
    difference is the difference of the maps.

    Args:
        model: A network in evaluation mode; or the :class:`~xaiutils.graph.Graph` of one, read
            with ``fold=False`` if a layer with a BatchNorm behind it is to be named.
        x: Inputs (N, C, H, W), as the network takes them.
        target: What to explain, as in :func:`xaiutils.attribution.gradient`.
        layer: The path in ``model`` of the module whose output is :math:`A`, e.g.
            ``"features.12"``; a container (``"layer4"``) stands for the last operation in it. None
            takes the last maps that the network reads: what its last convolution or linear layer
            is computed from, before the pooling. That is the last block's output (after its
            addition and ReLU) in a ResNet, the last ReLU before the pooling in VGG, and the maps
            that the output convolution reads in SqueezeNet or a network for segmentation. A
            network that cannot be read is differentiated by autograd, and the layer must be named.
        relu: Whether negative values become 0, as in the paper.
        output: Which of several outputs of the network: a key, a position, or a function of what
            it returns, as in :func:`xaiutils.attribution.gradient`.
        batch_size: How many images at a time; bounds the memory.

    Returns:
        (N, 1, H, W). It is 0 everywhere for an image on which no map speaks for the target.

    Raises:
        TypeError: As in :func:`xaiutils.attribution.gradient`.
        ValueError: As in :func:`xaiutils.attribution.gradient`, or if there is no such layer or it
            has no feature maps (its output is not (N, K, ...), with as many dimensions as ``x``).
    """
    return from_slopes(partial(_by_mean_slope, relu), model, x, target, layer, output, batch_size)


def from_slopes(
    combine: Combine,
    model: Network,
    x: Tensor,
    target: Target,
    layer: str | None,
    output: Output,
    batch_size: int | None,
) -> Tensor:
    """Return a map that is made of the feature maps of a layer and of the gradient there.

    Args:
        combine: ``combine(maps, slopes)`` makes a map (N, 1, ...) of two tensors (N, K, ...).
        model: As in :func:`grad_cam`, like all other arguments.
        x: Inputs (N, C, H, W).
        target: The output to explain.
        layer: The path of a module.
        output: Which of several outputs.
        batch_size: How many images at a time.

    Returns:
        (N, 1, H, W), enlarged to the size of the input.

    Raises:
        TypeError: As in :func:`grad_cam`.
        ValueError: As in :func:`grad_cam`.
    """
    try:  # unfolded: every module's output is there
        traced, images, explained = prepare(model, x, target, fold=False, output=output)
    except GraphError as refusal:
        if layer is None:
            raise
        network = differentiated(model, x, output, refusal)
        explained = explained_of(target, x, network.output_shape)
        one_chunk = partial(_by_autograd, combine, network, layer)
        return joined(in_chunks(one_chunk, batch_size, precise(x), explained))
    one_chunk = partial(_on_graph, combine, traced, feature_layer(traced, layer))
    return joined(in_chunks(one_chunk, batch_size, images, explained))


def _on_graph(
    combine: Combine, traced: graph.Graph, node: graph.Node, x: Tensor, explained: Resolved
) -> Tensor:
    record = traced.record(x, keep=traced.needed | {node.index})
    start = start_signal(explained, record.output)
    slopes = traced.backward(record, start, until=node.index)
    return enlarged(combine(record.value(node.index), slopes), x.shape[2:])


def _by_autograd(
    combine: Combine, network: Differentiated, layer: str, x: Tensor, explained: Resolved
) -> Tensor:
    maps, slopes = network.maps(layer, x, explained)
    if maps.ndim != x.ndim or maps.ndim < 3:
        raise _no_maps(layer, tuple(maps.shape[1:]))
    return enlarged(combine(maps, slopes), x.shape[2:])


def _by_mean_slope(relu: bool, maps: Tensor, slopes: Tensor) -> Tensor:
    """Return the sum of feature maps (N, K, ...), each times its mean slope."""
    return weighted(maps, slopes.flatten(2).mean(2), relu)


def weighted(maps: Tensor, weights: Tensor, relu: bool) -> Tensor:
    """Return the sum of feature maps (N, K, ...) with weights (N, K): (N, 1, ...)."""
    cam = (weights.reshape(*weights.shape, *[1] * (maps.ndim - 2)) * maps).sum(1, keepdim=True)
    return cam.relu() if relu else cam


def feature_layer(traced: graph.Graph, layer: str | None) -> graph.Node:
    """Return the node whose output holds the feature maps: a named layer or the last maps.

    Raises:
        ValueError: If there is no such layer or it has no feature maps.
    """
    if layer is None:
        return _last_maps(traced)
    node = traced.find(layer)
    if not _has_maps(node, traced):
        raise _no_maps(layer, node.shape)
    check_unfolded(node, layer)
    return node


def check_unfolded(node: graph.Node, layer: str) -> None:
    """Refuse a layer whose own output is not there, since a BatchNorm was folded into it.

    Raises:
        ValueError: If it is one.
    """
    if node.folded is not None and not f"{node.folded}.".startswith(f"{layer}."):
        raise ValueError(
            f"the output of {layer!r} is not in the graph, since {node.folded!r} was folded into "
            f"it: name that, or trace the network with fold=False"
        )


def _no_maps(layer: str, shape: graph.Shape) -> ValueError:
    return ValueError(f"the output of layer {layer!r} has no feature maps: {shape}")


def _has_maps(node: graph.Node, traced: graph.Graph) -> bool:
    return len(node.shape) == len(traced.input_shape) > 1


def _last_maps(traced: graph.Graph) -> graph.Node:
    """Return the last maps from which the last weighted layer is computed, before any pooling.

    The last layer's own output would not do: its channels are the network's outputs already.

    Raises:
        ValueError: If there are none, or what is computed of them place by place, as tokens, is
            what the last layer reads.
    """
    weighted = [node for node in traced.nodes if _weighted(node.operation)]
    read = ancestors(weighted[-1], traced) if weighted else set()
    maps = _convolved_maps(traced)
    candidates = [
        node
        for node in traced.nodes
        if node.index in read & maps and _has_maps(node, traced) and _has_places(node)
    ]
    if candidates:
        found = _before_pooling(candidates[-1], traced)
        later = [n for n in weighted[:-1] if n.index in read and _has_places(n)]
        if not any(found.index in ancestors(node, traced) for node in later):
            return found
    elif weighted and _convolves(weighted[-1].operation):  # the only one
        return weighted[-1]
    raise ValueError(
        "the network has no convolution whose maps its last layer reads"
        + (", but tokens that are computed from them" if candidates else "")
        + "; name a layer"
    )


def _convolves(operation: graph.Operation) -> bool:
    called = isinstance(operation, graph.LinearCall) and operation.kind.startswith("conv")
    return called or isinstance(operation, graph.Convolution)


def _weighted(operation: graph.Operation) -> bool:
    """Whether signals are multiplied by weights, or by each other as attention does."""
    called = isinstance(operation, graph.LinearCall) and operation.weighted
    return called or isinstance(operation, (graph.Convolution, graph.Dense, graph.MatrixProduct))


def _has_places(node: graph.Node) -> bool:
    return math.prod(node.shape[1:]) > 1


# After these the first dimension may not be the channels any more: tokens, channels last.
_MOVING = (graph.Reshape, graph.LinearCall, graph.Dense, graph.MatrixProduct, graph.Softmax)


def _convolved_maps(traced: graph.Graph) -> set[int]:
    """Return the nodes that hold maps (K, ...) of a convolution.

    What is pooled over all its places holds some, too, in whatever way it came about.
    """
    found, derived = set[int](), set[int]()
    for node in traced.nodes:
        own = _convolves(node.operation)
        if own or not derived.isdisjoint(node.inputs):
            derived.add(node.index)
        kept = not isinstance(node.operation, _MOVING) and not found.isdisjoint(node.inputs)
        if own or kept:
            found.add(node.index)
        if _pools(node.operation) and not _has_places(node):
            found.update(derived.intersection(node.inputs))
    return found


def _pools(operation: graph.Operation) -> bool:
    if isinstance(operation, graph.Mean):
        return 1 not in operation.dims  # the channels stay, which is not so where they are last
    return isinstance(operation, (graph.Switch, graph.AveragePool, graph.AdaptiveAveragePool))


def ancestors(node: graph.Node, traced: graph.Graph) -> set[int]:
    """Return the positions of all nodes that a node is computed from."""
    found: set[int] = set()
    waiting = list(node.inputs)
    while waiting:
        index = waiting.pop()
        if index not in found:
            found.add(index)
            waiting.extend(traced.nodes[index].inputs)
    return found


def _before_pooling(node: graph.Node, traced: graph.Graph) -> graph.Node:
    while _pools(node.operation):
        node = traced.nodes[node.inputs[0]]
    return node


def enlarged(cam: Tensor, size: torch.Size, corners: bool = False) -> Tensor:
    """Return a map (N, 1, ...) at another size, by linear interpolation.

    Args:
        cam: The map.
        size: Its new size.
        corners: Whether the centres of the outermost pixels stay where they were, and not their
            edges.
    """
    modes = {1: "linear", 2: "bilinear", 3: "trilinear"}
    return F.interpolate(cam, size=size, mode=modes[len(size)], align_corners=corners)
