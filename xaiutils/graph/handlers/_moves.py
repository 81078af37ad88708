"""Operations that move, repeat or rename numbers."""

from __future__ import annotations

import math
from typing import Any

from xaiutils.graph import operations as ops
from xaiutils.graph.calls import (
    Layout,
)
from xaiutils.graph.collecting import Asked, Bordered
from xaiutils.graph.handlers._arithmetic import broadcast
from xaiutils.graph.handlers._repeating import (
    Handler,
    repeat,
    repeat_nonlinear,
)


def concatenate(asked: Asked) -> Any:
    inputs = [asked.tracer.lookup(node) for node in asked.raw("tensors")]
    if not all(isinstance(x, int) for x in inputs):
        return repeat(asked)
    dim = asked["dim"] % (len(asked.shape()) + 1)
    if dim == 0:
        raise asked.unsupported("it moves or mixes the images of a batch")
    return asked.add(ops.Concatenate(dim), *inputs)


def reshape(asked: Asked) -> Any:
    """Translate a new shape for the same numbers, in the same order within each image."""
    if asked.tracer.symbolic(asked.arguments.get("dtype")):
        raise asked.unsupported("it reads the numbers as another type")
    asked.implied()
    x = asked.value("self")
    old, sizes = asked.tracer.layouts[x], tuple(asked.first().shape)
    dim, rows = asked.tracer.images(asked.first(), asked)
    in_front = math.prod(asked.raw("self").meta["val"].shape[: old.dim]) * old.before
    before, rest = divmod(in_front, math.prod(sizes[:dim]))
    if rest or rows % before:
        raise asked.unsupported("it moves or mixes the images of a batch")
    layout = Layout(dim, rows // before, before)
    shape = layout.shape(sizes)
    return asked.tracer.append(asked.node, ops.Reshape(shape), (x,), shape, layout)


def pad(asked: Asked) -> Any:
    mode = asked.raw("mode") or "constant"
    value = asked.raw("value")
    if mode == "constant" and value == -math.inf:
        return Bordered(asked.value("self"), tuple(asked["pad"]))
    if mode == "constant" and value not in (None, 0):
        return repeat(asked)
    return asked.add(ops.Pad(tuple(asked["pad"]), mode), asked.value("self"))


def border(mode: str) -> Handler:
    def handle(asked: Asked) -> int:
        return asked.add(ops.Pad(tuple(asked["padding"]), mode), asked.value("self"))

    return handle


def slicing(asked: Asked) -> Any:
    x = asked.value("self")
    dim, layout = (asked["dim"] or 0) % asked.rank(), asked.layout("self")
    if dim == layout.dim:
        if asked["start"] in (None, 0) and (asked["end"] or 0) >= 2**62 and asked["step"] == 1:
            return x
        raise asked.unsupported("it picks images out of the batch")
    return repeat(asked)


def slice_scatter(asked: Asked) -> Any:
    """Translate a part that was overwritten; all images, one after another, are everything."""
    dim, whole = (asked["dim"] or 0) % asked.rank(), (asked["end"] or 2**62) >= 2**62
    if asked.is_signal("self") and dim == asked.layout("self").dim:
        if whole and asked["start"] in (None, 0) and asked["step"] == 1:
            return asked.value("src")
        raise asked.unsupported("it changes some images of the batch only")
    return repeat(asked)


def expand(asked: Asked) -> Any:
    """Translate a signal that is repeated; the other of ``expand_as`` gives only the shape."""
    asked.implied()
    return broadcast(asked, asked.value("self"))


def copied(asked: Asked) -> Any:
    """Translate what is written over something else, of which only the shape stays."""
    asked.implied()
    return broadcast(asked, asked.value("src"))


def dropout(asked: Asked) -> int:
    asked.implied("p")
    if asked["train"]:
        raise asked.unsupported("it drops at random even in evaluation mode (training=True?)")
    return asked.value("self" if "self" in asked.arguments else "input")


def identity(asked: Asked) -> Any:
    asked.implied()
    source = asked.node.all_input_nodes[0]
    found = asked.tracer.lookup(source)
    before, after = source.meta["val"].dtype, asked.node.meta["val"].dtype
    if before != after and not (before.is_floating_point and after.is_floating_point):
        return repeat_nonlinear(asked)
    asked.tracer.note_type(after)
    return found  # the graph computes in one type of numbers
