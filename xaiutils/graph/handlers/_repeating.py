"""Operations that are repeated as the network calls them, by their kind."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from typing import Any

import torch
from torch import fx
from torch.utils._pytree import tree_leaves

from xaiutils.graph import kinds, nonlinear
from xaiutils.graph import operations as ops
from xaiutils.graph.calls import PLAIN, Call, Layout, Offset, Rows, Signal, Weight
from xaiutils.graph.collecting import Asked, key_of, name_of
from xaiutils.graph.operations import Operation

Handler = Callable[[Asked], Any]
"""What translates a call: it returns the position of a node, or a tuple for several outputs."""

FIRST = Signal(0)


def call_of(
    function: Any,
    *arguments: Any,
    inputs: tuple[Layout, ...] = (PLAIN,),
    output: Layout = PLAIN,
    alone: bool = False,
) -> Call:
    """Return a call of one signal, which comes first unless it is among the arguments."""
    return Call(function, arguments if alone else (FIRST, *arguments), {}, inputs, output)


def pair_of(
    function: Any,
    inputs: tuple[Layout, ...] = (PLAIN, PLAIN),
    output: Layout = PLAIN,
) -> Call:
    """Return a call of two signals."""
    return Call(function, (Signal(0), Signal(1)), {}, inputs, output)


def repeat(asked: Asked) -> Any:
    """Translate a call as it is, by the kind of its operation."""
    name = name_of(asked.node)
    if asked.node.target.__class__ is not torch._ops.OpOverload or ":" in key_of(
        asked.node.target._schema.name
    ):
        raise asked.unsupported(
            "no rule is known for it; xaiutils.graph.register tells the graph what it is"
        )
    check_images(asked, name)
    read = [asked.tracer.lookup(source) for source in asked.node.all_input_nodes]
    if name in kinds.SUMS | kinds.WEIGHTED | kinds.ELEMENTWISE and _counts(read):
        raise asked.unsupported("it depends on the size of the batch")
    if not all(asked.is_floating(source) for source in asked.node.all_input_nodes):
        return repeat_nonlinear(asked)
    signals = len(asked.sources())
    if name in kinds.PRODUCTS and signals == 2:
        return _product_of(asked)
    if name in kinds.COPIES:
        return repeat_linear(asked, True, (), kinds.OFFSETS)
    if name in kinds.WEIGHTED and signals == 1 and _once(asked):
        return _repeat_weighted(asked, name)
    if name in kinds.SUMS:
        return repeat_linear(asked, False, (), kinds.OFFSETS)
    if name in kinds.ELEMENTWISE and signals == 1:
        return repeat_gate(asked)
    return repeat_nonlinear(asked)


def _repeat_weighted(asked: Asked, name: str) -> Any:
    """Translate a product with a constant; in some of them another constant is added to it."""
    if name not in kinds.PLUS_PRODUCT:
        return repeat_linear(asked, False, kinds.WEIGHTS - {"bias"}, ("bias",))
    if asked.is_signal("self"):  # the product is what is constant, and has no weight to show
        return repeat_nonlinear(asked)
    return repeat_linear(asked, False, kinds.WEIGHTS - {"self"}, ("self",))


def _counts(values: Sequence[Any]) -> bool:
    return any(isinstance(value, Rows) for value in values)


def _once(asked: Asked) -> bool:
    """Whether the call reads its signal once: what multiplies a signal by itself is not linear."""
    read = [leaf for leaf in tree_leaves(asked.node.args) if isinstance(leaf, fx.Node)]
    return sum(isinstance(asked.tracer.lookup(leaf), int) for leaf in read) == 1


def check_images(asked: Asked, name: str) -> None:
    """Refuse what works along the dimension of the images."""
    layouts = [asked.tracer.layouts[source] for source in asked.sources()]
    given = [asked.arguments.get(key) for key in ("dim", "dims", "dim0", "dim1", "axis")]
    dims = [dim for dim in tree_leaves(given) if isinstance(dim, int)]
    if name == "index":
        dims = [i for i, v in enumerate(asked.arguments["indices"]) if v is not None]
    shown = [source.meta["val"] for source in asked.node.all_input_nodes]
    ranks = [value.ndim for value in shown if isinstance(value, torch.Tensor)]
    along = {dim % max(ranks, default=1) for dim in dims}
    mixes = name not in kinds.MOVES_IMAGES and any(layout.dim in along for layout in layouts)
    flattens = name in ("roll", "softmax", "flip") and not dims
    rows = {layout.times * layout.before for layout in layouts}
    rows.add(asked.tracer.images(asked.first(), asked)[1])
    copied = len(rows) > 1 and name != "repeat_interleave"
    if mixes or flattens or copied:
        raise asked.unsupported("it moves or mixes the images of a batch")


def output_layout(asked: Asked) -> Layout:
    return asked.tracer.placed(asked.first(), asked)[1]


def repeat_linear(
    asked: Asked, copies: bool, weights: Collection[str], offsets: Collection[str]
) -> Any:
    def hold(name: str, constant: Any) -> Any:
        if name in offsets:
            return Offset(constant)
        return Weight(constant) if name in weights and not isinstance(constant, float) else constant

    def make(pick: int | None) -> Operation:
        shapes = tuple(asked.tracer.templates[source].shape for source in asked.sources())
        return ops.LinearCall(asked.as_call(hold, pick), shapes, copies)

    return _each_output(asked, make)


def repeat_gate(asked: Asked) -> Any:
    return asked.add(nonlinear.SmoothGate(asked.as_call()), *asked.sources())


def repeat_nonlinear(asked: Asked) -> Any:
    return _each_output(asked, lambda pick: nonlinear.NonlinearCall(asked.as_call(pick=pick)))


def _each_output(asked: Asked, make: Callable[[int | None], Operation]) -> Any:
    """Add a node, or one for each of several outputs."""
    values = asked.node.meta["val"]
    if not isinstance(values, (tuple, list)):
        return asked.add(make(None), *asked.sources())
    read = {user.args[1] for user in asked.node.users if name_of(user) == "getitem"}
    found: list[int | None] = []
    for pick, value in enumerate(values):
        if pick not in read:
            found.append(None)
            continue
        shape, layout = asked.tracer.placed(value, asked)
        found.append(asked.tracer.append(asked.node, make(pick), asked.sources(), shape, layout))
    return tuple(found)


def _product_of(asked: Asked) -> int:
    """Add a product of two signals; where one of them is plainly a gate, it is noted."""
    left, right = asked.sources()
    matrices = name_of(asked.node) != "mul"
    kind = nonlinear.MatrixProduct if matrices else nonlinear.Product
    gates = [_is_gate(asked, source) for source in (left, right)]
    signal = gates.index(False) if sum(gates) == 1 else None
    if signal is None and not matrices and sum(gates) == 0:
        sizes = [math.prod(asked.tracer.templates[source].shape) for source in (left, right)]
        signal = None if sizes[0] == sizes[1] else sizes.index(max(sizes))
    return asked.add(kind(asked.as_call(), signal), left, right)


def _is_gate(asked: Asked, position: int, scale: float = 1.0) -> bool:
    """Whether a signal comes from something that weighs others, copied or scaled at most.

    A clamp is one if what leaves it, scaled, is between 0 and 1: ``relu6(x + 3) / 6``.
    """
    template = asked.tracer.templates[position]
    operation = template.operation
    if operation.kind in kinds.GATES or isinstance(operation, nonlinear.Softmax):
        return True
    if isinstance(operation, ops.Clamp):
        return operation.low == 0 and math.isclose(operation.high * scale, 1.0, rel_tol=1e-6)
    if isinstance(operation, ops.Affine):
        factor = operation.scale
        scale *= float(factor) if isinstance(factor, torch.Tensor) and factor.ndim == 0 else 1.0
    elif not (isinstance(operation, ops.LinearOperation) and operation.routing):
        return False
    return len(template.inputs) == 1 and _is_gate(asked, template.inputs[0], scale)
