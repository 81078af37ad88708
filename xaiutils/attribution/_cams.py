r"""What came after Grad-CAM: other weights for the feature maps of a layer, and sharper products.

The heatmap is a sum of feature maps :math:`A^k`, and the methods differ in their weights. Four take
them from the gradient :math:`G^k = \partial f_t / \partial A^k` at the layer, which costs what
Grad-CAM costs. Two ask the network what becomes of its output without a map, or of the picture seen
through it: a picture for each of them.
"""

from __future__ import annotations

from functools import partial
from typing import Protocol

import torch
from torch import Tensor

from xaiutils import graph
from xaiutils.attribution._cam import enlarged, feature_layer, from_slopes, grad_cam, weighted
from xaiutils.attribution._common import (
    Explained,
    Network,
    Target,
    check_positive,
    prepare,
    settled,
    values_of,
)
from xaiutils.attribution._modified import guided_backprop
from xaiutils.graph.outputs import Output

_PICTURES = 32  # at a time, where no batch_size is given


def hires_cam(
    model: Network,
    x: Tensor,
    target: Target = None,
    layer: str | None = None,
    *,
    relu: bool = False,
    output: Output = None,
    batch_size: int | None = None,
) -> Tensor:
    r"""Return the HiResCAM heatmap (Draelos and Carin 2020): gradient times feature maps.

    :math:`L(u, v) = \sum_k G^k(u, v)\, A^k(u, v)`, place by place, where Grad-CAM takes the mean of
    :math:`G^k` first. Of a network that is linear in the maps from the layer on, the last maps of
    one that ends in one linear layer say, its cells sum to the target output less the bias, and
    each is what its place contributed.

    Args:
        model: A network in evaluation mode, or its :class:`~xaiutils.graph.Graph`, as in
            :func:`xaiutils.attribution.grad_cam`.
        x: Inputs (N, C, H, W), as the network takes them.
        target: The output to explain, as in :func:`xaiutils.attribution.gradient`.
        layer: The path of the module whose output is :math:`A`; None for the last maps that the
            network reads, as in :func:`xaiutils.attribution.grad_cam`.
        relu: Whether negative values become 0. They are evidence against the target, and without
            them the cells do not sum to it. pytorch-grad-cam always drops them.
        output: Which of several outputs: a key, a position, or a function.
        batch_size: How many images at a time; bounds the memory.

    Returns:
        (N, 1, H, W), enlarged bilinearly. Enlarged by whole factors f each cell becomes f * f
        pixels, and the map sums to f * f times what the cells do, but for the rim.

    Raises:
        TypeError: As in :func:`xaiutils.attribution.gradient`.
        ValueError: As in :func:`xaiutils.attribution.grad_cam`.
    """
    combine = partial(_place_by_place, relu)
    return from_slopes(combine, model, x, target, layer, output, batch_size)


def _place_by_place(relu: bool, maps: Tensor, slopes: Tensor) -> Tensor:
    cam = (slopes * maps).sum(1, keepdim=True)
    return cam.relu() if relu else cam


def layer_cam(
    model: Network,
    x: Tensor,
    target: Target = None,
    layer: str | None = None,
    *,
    output: Output = None,
    batch_size: int | None = None,
) -> Tensor:
    r"""Return the LayerCAM heatmap (Jiang et al. 2021): positive gradient times feature maps.

    :math:`L(u, v) = \max\bigl(0, \sum_k \max(0, G^k(u, v))\, A^k(u, v)\bigr)`. It is meant for
    early layers too, whose large maps Grad-CAM's mean slopes do not suit. The authors join the maps
    of several layers, which is left to the caller.

    Args:
        model: A network in evaluation mode, or its :class:`~xaiutils.graph.Graph`.
        x: Inputs (N, C, H, W), as the network takes them.
        target: The output to explain, as in :func:`xaiutils.attribution.gradient`.
        layer: The path of the module whose output is :math:`A`, as in
            :func:`xaiutils.attribution.grad_cam`.
        output: Which of several outputs: a key, a position, or a function.
        batch_size: How many images at a time; bounds the memory.

    Returns:
        (N, 1, H, W), not negative.

    Raises:
        TypeError: As in :func:`xaiutils.attribution.gradient`.
        ValueError: As in :func:`xaiutils.attribution.grad_cam`.
    """
    return from_slopes(_by_positive_slopes, model, x, target, layer, output, batch_size)


def _by_positive_slopes(maps: Tensor, slopes: Tensor) -> Tensor:
    return _place_by_place(True, maps, slopes.relu())


def grad_cam_plus_plus(
    model: Network,
    x: Tensor,
    target: Target = None,
    layer: str | None = None,
    *,
    output: Output = None,
    batch_size: int | None = None,
) -> Tensor:
    r"""Return the Grad-CAM++ heatmap (Chattopadhay et al. 2018).

    :math:`L(u, v) = \max\bigl(0, \sum_k w_k A^k(u, v)\bigr)` with

    .. math:: w_k = \sum_{u, v} \alpha^k(u, v) \max(0, G^k(u, v)), \qquad
              \alpha^k(u, v) = \frac{G^k(u, v)^2}{2\, G^k(u, v)^2 + S_k\, G^k(u, v)^3},

    :math:`S_k` the sum of :math:`A^k` over its places, and :math:`\alpha = 0` where the gradient is
    0. The paper explains :math:`e^{f_t}` (which makes its second and third derivatives powers of
    the first), and so multiplies all slopes by that number; it is the same for all maps, and left
    out here. The weights are never negative where maps are not, so that no map ever speaks against
    the target; and they do not grow with the output: of twice the network they are not twice as
    large.

    pytorch-grad-cam computes this but for a small number in the divisor. The authors' own code
    divides :math:`\alpha^k` by its sum over the places before it is used. TorchCAM 0.5.0 leaves out
    the division (its code divides a copy), so that :math:`w_k` is the sum of
    :math:`\max(0, G^k(u, v))^3`.

    Args:
        model: A network in evaluation mode, or its :class:`~xaiutils.graph.Graph`.
        x: Inputs (N, C, H, W), as the network takes them.
        target: The output to explain, as in :func:`xaiutils.attribution.gradient`.
        layer: The path of the module whose output is :math:`A`, as in
            :func:`xaiutils.attribution.grad_cam`.
        output: Which of several outputs: a key, a position, or a function.
        batch_size: How many images at a time; bounds the memory.

    Returns:
        (N, 1, H, W), not negative.

    Raises:
        TypeError: As in :func:`xaiutils.attribution.gradient`.
        ValueError: As in :func:`xaiutils.attribution.grad_cam`.
    """
    return from_slopes(_by_higher_slopes, model, x, target, layer, output, batch_size)


def _by_higher_slopes(maps: Tensor, slopes: Tensor) -> Tensor:
    places = maps.flatten(2).sum(2, keepdim=True)
    positive = slopes.flatten(2).relu()  # elsewhere the share is multiplied by 0
    share = _divided(torch.ones_like(positive), 2 + places * positive)
    return weighted(maps, (share * positive).sum(2), relu=True)


def _divided(a: Tensor, b: Tensor) -> Tensor:
    """The quotient, 0 where the divisor is 0."""
    return torch.where(b == 0, torch.zeros_like(a), a / torch.where(b == 0, 1.0, b))


def xgrad_cam(
    model: Network,
    x: Tensor,
    target: Target = None,
    layer: str | None = None,
    *,
    relu: bool = True,
    output: Output = None,
    batch_size: int | None = None,
) -> Tensor:
    r"""Return the XGrad-CAM heatmap (Fu et al. 2020): slopes averaged where a map is active.

    :math:`L(u, v) = \max\bigl(0, \sum_k w_k A^k(u, v)\bigr)` with
    :math:`w_k = \sum_{u, v} \frac{A^k(u, v)}{\sum A^k}\, G^k(u, v)`, and 0 for a map that sums to
    0. It is the weight for which each map contributes to the sum of all cells what it contributes
    to that of :func:`hires_cam`: their conservation.

    Args:
        model: A network in evaluation mode, or its :class:`~xaiutils.graph.Graph`.
        x: Inputs (N, C, H, W), as the network takes them.
        target: The output to explain, as in :func:`xaiutils.attribution.gradient`.
        layer: The path of the module whose output is :math:`A`, as in
            :func:`xaiutils.attribution.grad_cam`.
        relu: Whether negative values become 0, as in the authors' code.
        output: Which of several outputs: a key, a position, or a function.
        batch_size: How many images at a time; bounds the memory.

    Returns:
        (N, 1, H, W).

    Raises:
        TypeError: As in :func:`xaiutils.attribution.gradient`.
        ValueError: As in :func:`xaiutils.attribution.grad_cam`.
    """
    combine = partial(_by_active_slopes, relu)
    return from_slopes(combine, model, x, target, layer, output, batch_size)


def _by_active_slopes(relu: bool, maps: Tensor, slopes: Tensor) -> Tensor:
    places = maps.flatten(2)
    weights = _divided((places * slopes.flatten(2)).sum(2), places.sum(2))
    return weighted(maps, weights, relu)


def guided_grad_cam(
    model: Network,
    x: Tensor,
    target: Target = None,
    layer: str | None = None,
    *,
    output: Output = None,
    batch_size: int | None = None,
) -> Tensor:
    r"""Return guided Grad-CAM (Selvaraju et al. 2017): guided backpropagation times Grad-CAM.

    Pixel by pixel, Grad-CAM enlarged bilinearly; Captum enlarges it in squares unless it is told
    otherwise. Guided backpropagation draws the picture and hardly depends on the target, so that
    what the product says about the target is what Grad-CAM says.

    Args:
        model: A network of ReLUs in evaluation mode, or its :class:`~xaiutils.graph.Graph`.
        x: Inputs (N, C, H, W), as the network takes them.
        target: The output to explain, as in :func:`xaiutils.attribution.gradient`.
        layer: The path of the module whose output Grad-CAM weighs, as in
            :func:`xaiutils.attribution.grad_cam`.
        output: Which of several outputs: a key, a position, or a function.
        batch_size: How many images at a time; bounds the memory.

    Returns:
        (N, C, H, W).

    Raises:
        TypeError: As in :func:`xaiutils.attribution.gradient`.
        ValueError: As in :func:`xaiutils.attribution.grad_cam`.
        UnsupportedOperation: As in :func:`xaiutils.attribution.guided_backprop`.
    """
    coarse = grad_cam(model, x, target, layer, output=output, batch_size=batch_size)
    fine = guided_backprop(model, x, target, output=output, batch_size=batch_size)
    return fine * coarse


# ------------------------------------------------------------------------- without gradients


class _OneImage(Protocol):
    def __call__(
        self,
        traced: graph.Graph,
        node: graph.Node,
        x: Tensor,
        explained: Explained | Tensor,
        size: int,
    ) -> Tensor:
        """Return the map (1, 1, ...) of one image (1, C, H, W), with so many pictures at a time."""


@graph.undisturbed
def _one_by_one(
    explain: _OneImage,
    model: Network,
    x: Tensor,
    target: Target,
    layer: str | None,
    output: Output,
    batch_size: int | None,
) -> Tensor:
    """Explain one image after another: each needs many pictures."""
    size = _PICTURES
    if batch_size is not None:
        check_positive("batch_size", batch_size)
        size = batch_size
    traced, x, explained = prepare(model, x, target, fold=False, output=output)
    node = feature_layer(traced, layer)
    known = settled(traced, x, explained, batch_size)
    images = [slice(i, i + 1) for i in range(len(x))]
    cams = [explain(traced, node, x[one], known[one], size) for one in images]
    return enlarged(torch.cat(cams), x.shape[2:])


def score_cam(
    model: Network,
    x: Tensor,
    target: Target = None,
    layer: str | None = None,
    *,
    output: Output = None,
    batch_size: int | None = None,
) -> Tensor:
    r"""Return the Score-CAM heatmap (Wang et al. 2020): weights from pictures seen through a map.

    :math:`L(u, v) = \max\bigl(0, \sum_k w_k A^k(u, v)\bigr)`, where :math:`w` is the softmax, over
    the maps, of the targets of the pictures :math:`x \odot H^k`. The mask :math:`H^k` is the map
    enlarged to the size of the picture and brought between 0 and 1; a map that is the same
    everywhere gives a mask of zeros. The paper subtracts the target of a baseline picture, which
    the softmax does not see. Dark is 0 in the network's units.

    The softmax makes all weights positive and sum to 1, and asks for differences of the target:
    with large logits one map takes all. The authors' code has no such softmax but weighs by the
    class's probability (``output=lambda y: y.softmax(1)`` gives what it measures, not how it
    weighs); TorchCAM brings maps between 0 and 1 before it enlarges them, pytorch-grad-cam enlarges
    them corner to corner.

    Args:
        model: A network that can be read, in evaluation mode, or its
            :class:`~xaiutils.graph.Graph`.
        x: Inputs (N, C, H, W), as the network takes them.
        target: The output to explain, as in :func:`xaiutils.attribution.gradient`.
        layer: The path of the module whose output is :math:`A`, as in
            :func:`xaiutils.attribution.grad_cam`.
        output: Which of several outputs: a key, a position, or a function.
        batch_size: How many pictures at a time, of which there are as many as maps for each image;
            bounds the memory. None for 32.

    Returns:
        (N, 1, H, W). Not negative.

    Raises:
        TypeError: As in :func:`xaiutils.attribution.gradient`.
        ValueError: As in :func:`xaiutils.attribution.grad_cam`.
        GraphError: If the network cannot be read.
    """
    return _one_by_one(_seen_through, model, x, target, layer, output, batch_size)


def _seen_through(
    traced: graph.Graph, node: graph.Node, x: Tensor, explained: Explained | Tensor, size: int
) -> Tensor:
    """Score-CAM of one image (1, C, H, W)."""
    maps = traced.record(x, keep=(node.index,)).value(node.index)
    scores = []
    for few in torch.split(maps[0][:, None], size):
        masks = enlarged(few, x.shape[2:]).flatten(1)
        masks = masks - masks.amin(1, keepdim=True)
        masks = _divided(masks, masks.amax(1, keepdim=True).expand_as(masks))
        pictures = x * masks.view(len(few), 1, *x.shape[2:])
        scores.append(_values(explained, traced(pictures)))
    return weighted(maps, torch.cat(scores).softmax(0)[None], relu=True)


def ablation_cam(
    model: Network,
    x: Tensor,
    target: Target = None,
    layer: str | None = None,
    *,
    relu: bool = True,
    output: Output = None,
    batch_size: int | None = None,
) -> Tensor:
    r"""Return the Ablation-CAM heatmap (Desai and Ramaswamy 2020): weights from maps set to 0.

    :math:`L(u, v) = \max\bigl(0, \sum_k w_k A^k(u, v)\bigr)` with :math:`w_k = f_t - f_t^{(k)}`,
    what the target loses when map *k* is 0 everywhere. The paper divides by :math:`f_t`: the same
    for all maps, so that the heatmap is this one but for its scale; but where the target is
    negative that turns every sign, and what speaks for it would be shown as speaking against it.
    Only what follows the layer is computed for each map. pytorch-grad-cam puts a very negative
    number where the smallest activation is not exactly 0.

    Args:
        model: A network that can be read, in evaluation mode, or its
            :class:`~xaiutils.graph.Graph`.
        x: Inputs (N, C, H, W), as the network takes them.
        target: The output to explain, as in :func:`xaiutils.attribution.gradient`.
        layer: The path of the module whose output is :math:`A`, as in
            :func:`xaiutils.attribution.grad_cam`.
        relu: Whether negative values become 0, as in the paper.
        output: Which of several outputs: a key, a position, or a function.
        batch_size: How many maps are set to 0 at a time; bounds the memory. None for 32.

    Returns:
        (N, 1, H, W).

    Raises:
        TypeError: As in :func:`xaiutils.attribution.gradient`.
        ValueError: As in :func:`xaiutils.attribution.grad_cam`.
        GraphError: If the network cannot be read.
    """
    one = partial(_without_each, relu)
    return _one_by_one(one, model, x, target, layer, output, batch_size)


def _without_each(
    relu: bool,
    traced: graph.Graph,
    node: graph.Node,
    x: Tensor,
    explained: Explained | Tensor,
    size: int,
) -> Tensor:
    """Ablation-CAM of one image (1, C, H, W)."""
    record = traced.record(x, keep=(0, node.index))
    maps, image = record.value(node.index), record.value(0)
    whole = values_of(explained, record.output)
    lost = []
    for few in torch.split(torch.arange(maps.shape[1]), size):
        without = maps.repeat(len(few), *[1] * (maps.ndim - 1))
        without[torch.arange(len(few)), few] = 0
        known = {0: image.expand(len(few), *image.shape[1:]), node.index: without}
        lost.append(whole - _values(explained, traced.complete(known)))
    return weighted(maps, torch.cat(lost)[None], relu)


def _values(explained: Explained | Tensor, outputs: Tensor) -> Tensor:
    """What is explained of one image, of the outputs (P, ...) of pictures of it."""
    alike = torch.zeros(len(outputs), dtype=torch.int64, device=outputs.device)
    return values_of(explained[alike], outputs)
