"""Sums, products and quotients, of signals and with constants."""

from __future__ import annotations

from typing import Any

import torch

from xaiutils.graph import nonlinear
from xaiutils.graph import operations as ops
from xaiutils.graph.calls import Layout, Parameter, Repeated, Rows
from xaiutils.graph.collecting import Asked
from xaiutils.graph.handlers._repeating import (
    Handler,
    call_of,
    output_layout,
    pair_of,
    repeat,
    repeat_gate,
)

_aten = torch.ops.aten


def addition(sign: float) -> Handler:
    def handle(asked: Asked) -> Any:
        alpha = sign * asked["alpha"]
        if asked.is_signal("self") and asked.is_signal("other"):
            left, right = (broadcast(asked, asked.value(name)) for name in ("self", "other"))
            return asked.add(ops.Add((1.0, alpha)), left, right)
        if asked.is_signal("self"):
            return affine(asked, "self", 1.0, asked["other"], alpha)
        return affine(asked, "other", alpha, asked["self"], 1.0)

    return handle


def reversed_difference(asked: Asked) -> Any:
    return affine(asked, "self", -float(asked["alpha"]), asked["other"], 1.0)


def product(asked: Asked) -> Any:
    if asked.is_signal("self") and asked.is_signal("other"):
        same = asked["self"] == asked["other"]
        return repeat_gate(asked) if same else repeat(asked)
    x, factor = ("self", "other") if asked.is_signal("self") else ("other", "self")
    return affine(asked, x, asked[factor], 0.0, 1.0)


def quotient(asked: Asked) -> Any:
    if asked.raw("rounding_mode") is not None:
        raise asked.unsupported(f"it rounds with rounding_mode={asked.raw('rounding_mode')!r}")
    if not asked.is_signal("other"):
        divisor = _for_all(asked["other"], asked.layout("self"))
        if isinstance(divisor, Parameter):
            inverse: Any = asked.derived("inverse", torch.reciprocal, divisor)
            return affine(asked, "self", inverse, 0.0, 1.0)
        if not isinstance(divisor, (int, float)):
            return repeat(asked)
        return affine(asked, "self", 1.0 / divisor, 0.0, 1.0)
    return _by_a_signal(asked)


def _by_a_signal(asked: Asked) -> int:
    """Translate a division by a computed number: a product with its reciprocal."""
    divisor, tracer = asked.value("other"), asked.tracer
    place = tracer.layouts[divisor]
    call = call_of(_aten.reciprocal.default, inputs=(place,), output=place)
    shape = tracer.templates[divisor].shape
    inverse = tracer.append(asked.node, nonlinear.SmoothGate(call), (divisor,), shape, place)
    if not asked.is_signal("self"):
        layout = output_layout(asked)
        plain = place == layout and tracer.templates[divisor].shape == asked.shape()
        scale = asked["self"]
        if not plain or isinstance(scale, Repeated):
            raise asked.unsupported("it divides a constant of a larger shape by a signal")
        factor: Any = scale if isinstance(scale, Parameter) else tracer.constant(scale)
        return asked.add(ops.Affine(factor, tracer.constant(0.0)), inverse)
    x = asked.value("self")
    if x == divisor:
        return asked.add(nonlinear.NonlinearCall(asked.as_call()), x)
    layouts = (tracer.layouts[x], place)
    call = pair_of(_aten.mul.Tensor, layouts, output_layout(asked))
    return asked.add(nonlinear.Product(call, 0), x, inverse)


def affine(asked: Asked, name: str, scale: Any, offset: Any, factor: float) -> Any:
    """Add ``scale * x + factor * offset``, where scale and offset do not depend on the input."""
    layout = asked.layout(name)
    scale, offset = (_for_all(value, layout) for value in (scale, offset))
    if isinstance(scale, Repeated) or isinstance(offset, Repeated) or layout.dim != 0:
        return repeat(asked)
    x = broadcast(asked, asked.value(name))

    def tensor(what: str, value: Any, times: float = 1.0) -> Any:
        if isinstance(value, Parameter):
            return value if times == 1 else asked.derived(what, torch.mul, value, times)
        if not isinstance(value, (int, float)):
            raise asked.unsupported("it depends on the size of the batch")
        return asked.tracer.constant(value * times)

    return asked.add(ops.Affine(tensor("scale", scale), tensor("offset", offset, factor)), x)


def _for_all(value: Any, layout: Layout) -> Any:
    """Return a constant with a row for each image as the one row that all of them have."""
    one_row = isinstance(value, Repeated) and value.layout.plain and layout.plain
    return value.value if one_row else value


def broadcast(asked: Asked, x: int) -> int:
    """Return a signal in the shape of the call's output, repeated where that is larger."""
    tracer = asked.tracer
    shape, layout = tracer.placed(asked.first(), asked)
    if tracer.templates[x].shape == shape and tracer.layouts[x] == layout:
        return x
    sizes = [
        Rows(layout.times * layout.before) if tracer.symbolic(n) else n for n in asked.first().shape
    ]
    call = call_of(_aten.expand.default, sizes, inputs=(tracer.layouts[x],), output=layout)
    expand = ops.LinearCall(call, (tracer.templates[x].shape,), True)
    return tracer.append(asked.node, expand, (x,), shape, layout)
