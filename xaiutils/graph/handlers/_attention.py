"""Attention and softmax."""

from __future__ import annotations

import math
from typing import Any

import torch

from xaiutils.graph import nonlinear
from xaiutils.graph import operations as ops
from xaiutils.graph.calls import (
    Layout,
    Parameter,
    Repeated,
    Weight,
)
from xaiutils.graph.collecting import Asked
from xaiutils.graph.handlers._repeating import (
    FIRST,
    call_of,
    check_images,
    output_layout,
    pair_of,
    repeat_nonlinear,
)
from xaiutils.graph.operations import Shape

_aten = torch.ops.aten


def attention(asked: Asked) -> Any:
    """Translate attention: queries times keys, scaled, with a bias, softmax, times values."""
    if asked.raw("dropout_p"):
        raise asked.unsupported("it drops at random even in evaluation mode (dropout_p > 0)")
    asked.implied("enable_gqa")
    layout, names = output_layout(asked), ("query", "key", "value")
    heads = {str(asked.raw(name).meta["val"].shape[:-2]) for name in names}
    alike = all(asked.layout(name) == layout for name in names if asked.is_signal(name))
    split = layout.dim < asked.rank("query") - 2
    if len(heads) > 1 or not alike or not split or not asked.is_signal("value"):
        asked.implied()
        return repeat_nonlinear(asked)
    scores = _biased(asked, _scores(asked, layout), layout)
    if not isinstance(scores, int):
        asked.implied()
        return repeat_nonlinear(asked)
    softmax = nonlinear.Softmax(call_of(_aten.softmax.int, -1, inputs=(layout,), output=layout))
    shape = asked.tracer.templates[scores].shape
    weights = asked.tracer.append(asked.node, softmax, (scores,), shape, layout)
    call = pair_of(_aten.matmul.default, (layout, layout), layout)
    return asked.add(nonlinear.MatrixProduct(call, 1), weights, asked.value("value"))


def _scores(asked: Asked, layout: Layout) -> int | None:
    """Add queries times keys, either of which may be constant; None if both are."""
    tracer, node = asked.tracer, asked.node
    shape = _score_shape(asked, layout)
    if not asked.is_signal("key"):
        if not asked.is_signal("query"):
            return None
        keys = asked["key"]
        turned = asked.derived("keys", torch.transpose, _held(keys), -2, -1)
        weight = Weight(_likewise(keys, turned))
        arguments: tuple[Any, ...] = (FIRST, weight)
        source = asked.value("query")
    else:
        source = _turned(asked, layout)
        if asked.is_signal("query"):
            pair = pair_of(_aten.matmul.default, (layout, layout), layout)
            sources = (asked.value("query"), source)
            return tracer.append(node, nonlinear.MatrixProduct(pair), sources, shape, layout)
        arguments = (Weight(asked["query"]), FIRST)
    call = call_of(_aten.matmul.default, *arguments, inputs=(layout,), output=layout, alone=True)
    product = ops.LinearCall(call, (tracer.templates[source].shape,))
    return tracer.append(node, product, (source,), shape, layout)


def _held(constant: Any) -> Any:
    return constant.value if isinstance(constant, Repeated) else constant


def _likewise(constant: Any, value: Parameter) -> Any:
    return Repeated(value, constant.layout) if isinstance(constant, Repeated) else value


def _score_shape(asked: Asked, layout: Layout) -> Shape:
    *front, length, _ = asked.raw("query").meta["val"].shape
    return layout.shape((*front, length, asked.raw("key").meta["val"].shape[-2]))


def _turned(asked: Asked, layout: Layout) -> int:
    """Add the transposed keys."""
    k, tracer = asked.value("key"), asked.tracer
    *front, length, width = tracer.templates[k].shape
    turn = call_of(_aten.transpose.int, -2, -1, inputs=(layout,), output=layout)
    operation = ops.LinearCall(turn, ((*front, length, width),), True)
    return tracer.append(asked.node, operation, (k,), (*front, width, length), layout)


def _biased(asked: Asked, scores: int | None, layout: Layout) -> int | None:
    """Scale the scores and add what is added to them; None if that is beyond this translation."""
    if scores is None:
        return None
    tracer, node = asked.tracer, asked.node
    *_, length, keys = shape = tracer.templates[scores].shape
    scale, width = asked["scale"], asked.raw("query").meta["val"].shape[-1]
    scale = tracer.constant(1 / math.sqrt(width) if scale is None else scale)
    bias = None if asked.is_signal("attn_mask") else _mask(asked, length, keys)
    if isinstance(bias, Repeated):
        return None
    affine = ops.Affine(scale, tracer.constant(0.0) if bias is None else bias)
    found = tracer.append(node, affine, (scores,), shape, layout)
    if not asked.is_signal("attn_mask"):
        return found
    mask = asked.value("attn_mask")
    if tracer.templates[mask].shape != shape or tracer.layouts[mask] != layout:
        return None
    return tracer.append(node, ops.Add((1.0, 1.0)), (found, mask), shape, layout)


def _mask(asked: Asked, length: int, keys: int) -> Any:
    """Return what is added to the scores: a bias, minus infinity where masked, or None."""
    tracer, mask = asked.tracer, asked["attn_mask"]
    if asked.raw("is_causal"):
        closed = torch.ones(length, keys, dtype=torch.bool, device=tracer.x.device).triu(1)
        zeros = torch.zeros(length, keys, dtype=tracer.x.dtype, device=tracer.x.device)
        return zeros.masked_fill(closed, -math.inf)
    if isinstance(mask, Parameter):
        if asked.raw("attn_mask").meta["val"].dtype != torch.bool:
            return mask
        return asked.derived("mask", _closed, mask, tracer.x.dtype)
    return mask


def _closed(opened: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Return 0 where a mask is open and minus infinity elsewhere."""
    zeros = torch.zeros(opened.shape, dtype=dtype, device=opened.device)
    return zeros.masked_fill(~opened, -math.inf)


def softmax(asked: Asked) -> Any:
    check_images(asked, "softmax")
    return asked.add(nonlinear.Softmax(asked.as_call()), *asked.sources())
