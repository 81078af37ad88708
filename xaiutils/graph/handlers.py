"""One handler for each kind of ATen operation; what has none of its own is repeated as it is.

An operation that is repeated as it is (:class:`xaiutils.graph.calls.Call`) needs to be known only
by its kind: a copy of its inputs, linear with a weight or without, elementwise, or none of these.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from torch import fx
from torch.utils._pytree import tree_leaves

from xaiutils.graph import kinds, nonlinear
from xaiutils.graph import operations as ops
from xaiutils.graph.calls import (
    PLAIN,
    Call,
    Layout,
    Offset,
    Parameter,
    Repeated,
    Rows,
    Signal,
    Weight,
)
from xaiutils.graph.collecting import Asked, Bordered, key_of, name_of
from xaiutils.graph.operations import Operation, Shape

_aten = torch.ops.aten

Handler = Callable[[Asked], Any]
"""What translates a call: it returns the position of a node, or a tuple for several outputs."""

_first = Signal(0)


def _call(
    function: Any,
    *arguments: Any,
    inputs: tuple[Layout, ...] = (PLAIN,),
    output: Layout = PLAIN,
    alone: bool = False,
) -> Call:
    """Return a call of one signal, which comes first unless it is among the arguments."""
    return Call(function, arguments if alone else (_first, *arguments), {}, inputs, output)


def _pair(
    function: Any,
    inputs: tuple[Layout, ...] = (PLAIN, PLAIN),
    output: Layout = PLAIN,
) -> Call:
    """Return a call of two signals."""
    return Call(function, (Signal(0), Signal(1)), {}, inputs, output)


_registered: dict[str, Handler] = {}


def register(
    operation: Any,
    kind: Literal["copies", "linear", "gate", "nonlinear"],
    weights: Sequence[str] = (),
    offsets: Sequence[str] = (),
) -> None:
    """Tell the graph what an operation of your own is, so that networks with it can be read.

    The operation is called as the network calls it, with PyTorch's own derivative, and must not
    mix the images of a batch; the result is compared with the network as always.

    Args:
        operation: One made with ``torch.library.custom_op``, or any ``torch.ops.<space>.<name>``.
        kind: ``"copies"``: each output is a copy of one input, or a constant. ``"linear"``: linear
            in its signals together, but for offsets. ``"gate"``: an activation of one signal,
            element by element. ``"nonlinear"``: anything else that has a derivative.
        weights: Of a linear operation, the arguments by which the signal is multiplied.
        offsets: The arguments that stand beside the signal, biases say.

    Raises:
        ValueError: If the kind is unknown.
        TypeError: If ``operation`` is no PyTorch operation.
    """
    makers: dict[str, Handler] = {
        "copies": lambda asked: _repeat_linear(asked, True, weights, offsets),
        "linear": lambda asked: _repeat_linear(asked, False, weights, offsets),
        "gate": _repeat_gate,
        "nonlinear": _repeat_nonlinear,
    }
    if kind not in makers:
        raise ValueError(f"kind must be one of {', '.join(makers)}, not {kind!r}")
    operation = getattr(operation, "_opoverload", operation)
    name = getattr(operation, "_qualified_op_name", None) or getattr(operation, "_name", None)
    if not isinstance(name, str):
        raise TypeError(
            f"operation must be one of torch.ops or made by torch.library, not {operation!r}"
        )
    _registered[key_of(name)] = makers[kind]


def handler_of(node: fx.Node) -> Handler:
    """Return what translates a node."""
    key = key_of(node.target._schema.name) if hasattr(node.target, "_schema") else name_of(node)
    if key in _registered:
        return _registered[key]
    if key in _ANYWHERE:
        return _ANYWHERE[key]
    if key in _PLAIN:
        return lambda asked: _PLAIN[key](asked) if asked.plain else repeat(asked)
    return repeat


# ---------------------------------------------------------------------------- repeated as they are


def repeat(asked: Asked) -> Any:
    """Translate a call as it is, by the kind of its operation."""
    name = name_of(asked.node)
    if asked.node.target.__class__ is not torch._ops.OpOverload or ":" in key_of(
        asked.node.target._schema.name
    ):
        raise asked.unsupported(
            "no rule is known for it; xaiutils.graph.register tells the graph what it is"
        )
    _check_images(asked, name)
    read = [asked.tracer.lookup(source) for source in asked.node.all_input_nodes]
    if name in kinds.SUMS | kinds.WEIGHTED | kinds.ELEMENTWISE and _counts(read):
        raise asked.unsupported("it depends on the size of the batch")
    if not all(asked.is_floating(source) for source in asked.node.all_input_nodes):
        return _repeat_nonlinear(asked)
    signals = len(asked.sources())
    if name in kinds.PRODUCTS and signals == 2:
        return _product_of(asked)
    if name in kinds.COPIES:
        return _repeat_linear(asked, True, (), ("tensors", "value", "self", "other", "src"))
    if name in kinds.WEIGHTED and signals == 1 and _once(asked):
        offsets = ("bias", "self") if name.startswith("add") or name == "baddbmm" else ("bias",)
        return _repeat_linear(asked, False, kinds.WEIGHTS - set(offsets), offsets)
    if name in kinds.SUMS:
        return _repeat_linear(asked, False, (), ("self", "other"))
    if name in kinds.ELEMENTWISE and signals == 1:
        return _repeat_gate(asked)
    return _repeat_nonlinear(asked)


def _counts(values: Sequence[Any]) -> bool:
    return any(isinstance(value, Rows) for value in values)


def _once(asked: Asked) -> bool:
    """Whether the call reads its signal once: what multiplies a signal by itself is not linear."""
    read = [leaf for leaf in tree_leaves(asked.node.args) if isinstance(leaf, fx.Node)]
    return sum(isinstance(asked.tracer.lookup(leaf), int) for leaf in read) == 1


def _check_images(asked: Asked, name: str) -> None:
    """Refuse what works along the dimension of the images."""
    layouts = [asked.tracer.layouts[source] for source in asked.sources()]
    given = [asked.arguments.get(key) for key in ("dim", "dims", "dim0", "dim1", "axis")]
    dims = [dim for dim in tree_leaves(given) if isinstance(dim, int)]
    if name == "index":
        dims = [i for i, v in enumerate(asked.arguments["indices"]) if v is not None]
    shown = [source.meta["val"] for source in asked.node.all_input_nodes]
    ranks = [value.ndim for value in shown if isinstance(value, torch.Tensor)]
    along = {dim % max(ranks, default=1) for dim in dims}
    mixes = name not in kinds.MOVES_IMAGES | {"repeat_interleave"} and any(
        layout.dim in along for layout in layouts
    )
    flattens = name in ("roll", "softmax", "flip") and not dims
    rows = {layout.times * layout.before for layout in layouts}
    rows.add(asked.tracer.images(asked.first(), asked)[1])
    copied = len(rows) > 1 and name != "repeat_interleave"
    if mixes or flattens or copied:
        raise asked.unsupported("it moves or mixes the images of a batch")


def _output_layout(asked: Asked) -> Layout:
    return asked.tracer.placed(asked.first(), asked)[1]


def _repeat_linear(
    asked: Asked, copies: bool, weights: Sequence[str] | frozenset[str], offsets: Sequence[str]
) -> Any:
    def hold(name: str, constant: Any) -> Any:
        if name in offsets:
            return Offset(constant)
        return Weight(constant) if name in weights and not isinstance(constant, float) else constant

    def make(pick: int | None) -> Operation:
        shapes = tuple(asked.tracer.templates[source].shape for source in asked.sources())
        return ops.LinearCall(asked.as_call(hold, pick), shapes, copies)

    return _each_output(asked, make)


def _repeat_gate(asked: Asked) -> Any:
    return asked.add(nonlinear.SmoothGate(asked.as_call()), *asked.sources())


def _repeat_nonlinear(asked: Asked) -> Any:
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


def _is_gate(asked: Asked, position: int) -> bool:
    """Whether a signal comes from something that weighs others, copied or scaled at most."""
    template = asked.tracer.templates[position]
    operation = template.operation
    if operation.kind in kinds.GATES or isinstance(operation, nonlinear.Softmax):
        return True
    if isinstance(operation, ops.Clamp):
        return operation.low == 0 and math.isfinite(operation.high)
    passes = isinstance(operation, ops.Affine) or (
        isinstance(operation, ops.LinearOperation) and operation.routing
    )
    return passes and len(template.inputs) == 1 and _is_gate(asked, template.inputs[0])


# --------------------------------------------------------------------------------- weighted layers


def _convolution(dimensions: int, transposed: bool = False) -> Handler:
    def handle(asked: Asked) -> Any:
        if asked.is_signal("weight"):
            return repeat(asked)
        x = asked.value("input")
        weight, bias = asked.parameter("weight"), asked.parameter("bias")
        stride, dilation = asked.ints("stride", dimensions), asked.ints("dilation", dimensions)
        padding = asked.raw("padding")
        if isinstance(padding, str):
            kernel = asked.raw("weight").meta["val"].shape[2:]
            x, pads = _same_padding(asked, x, padding, kernel, dilation)
        else:
            pads = asked.ints("padding", dimensions)
        more = asked.ints("output_padding", dimensions) if transposed else (0,) * dimensions
        operation = ops.Convolution(
            weight, bias, stride, pads, dilation, asked["groups"], transposed, more
        )
        return asked.add(operation, x)

    return handle


def _same_padding(
    asked: Asked, x: int, mode: str, kernel: Shape, dilation: Shape
) -> tuple[int, Shape]:
    """Return the input and the padding for "valid" or "same", padding first where it is uneven."""
    if mode == "valid":
        return x, (0,) * len(kernel)
    totals = [d * (k - 1) for d, k in zip(dilation, kernel, strict=True)]
    if all(total % 2 == 0 for total in totals):
        return x, tuple(total // 2 for total in totals)
    widths = [w for total in reversed(totals) for w in (total // 2, total - total // 2)]
    shape = asked.tracer.templates[x].shape
    padded = (shape[0], *(size + total for size, total in zip(shape[1:], totals, strict=True)))
    pad = ops.Pad(tuple(widths))
    return asked.tracer.append(asked.node, pad, (x,), padded), (0,) * len(kernel)


def _dense(asked: Asked) -> Any:
    last = asked.is_signal("input") and asked.layout("input").dim == asked.rank("input") - 1
    if last or asked.is_signal("weight") or not asked.is_signal("input"):
        return repeat(asked)
    dense = ops.Dense(asked.parameter("weight"), asked.parameter("bias"))
    return asked.add(dense, asked.value("input"))


def _batch_norm(asked: Asked) -> int:
    if asked.raw("training"):
        raise asked.unsupported("it uses the statistics of the batch (track_running_stats=False?)")
    if asked.layout("input").dim != 0:
        raise asked.unsupported("it moves or mixes the images of a batch")
    norm = ops.BatchNorm(
        asked.parameter("weight"),
        asked.parameter("bias"),
        asked.parameter("running_mean"),
        asked.parameter("running_var"),
        asked["eps"],
        asked.rank("input") - 2,
    )
    asked.implied("momentum", "cudnn_enabled")
    return asked.add(norm, asked.value("input"))


def _native_batch_norm(asked: Asked) -> tuple[int, None, None]:
    return _batch_norm(asked), None, None


# ----------------------------------------------------------------------------------- normalisation


def _layer_norm(asked: Asked) -> Any:
    x, dims = asked.value("input"), len(asked.raw("normalized_shape"))
    if asked.layout("input").dim >= asked.rank("input") - dims:
        raise asked.unsupported("it moves or mixes the images of a batch")
    asked.implied("cudnn_enable")
    centred, eps = name_of(asked.node) != "rms_norm", asked["eps"]
    eps = torch.finfo(asked.tracer.x.dtype).eps if eps is None else eps
    found = asked.add(nonlinear.Normalisation(dims, eps, None, centred), x)
    return _scaled(asked, found, 0)


def _group_norm(asked: Asked) -> int:
    groups = asked.raw("num_groups") or asked.raw("group")
    asked.implied("cudnn_enabled", "N", "C", "HxW")
    rank = asked.rank("input")
    norm = nonlinear.Normalisation(rank - 1, asked["eps"], groups)
    return _scaled(asked, asked.add(norm, asked.value("input")), rank - 2)


def _instance_norm(asked: Asked) -> int:
    if not asked.raw("use_input_stats"):
        raise asked.unsupported("it uses running statistics; write it as a BatchNorm")
    asked.implied("momentum", "cudnn_enabled", "running_mean", "running_var")
    rank = asked.rank("input")
    norm = nonlinear.Normalisation(rank - 2, asked["eps"])
    return _scaled(asked, asked.add(norm, asked.value("input")), rank - 2)


def _scaled(asked: Asked, x: int, after: int) -> int:
    """Add the weight and the bias of a normalisation, for channels that ``after`` dims follow."""
    weight, bias = asked.parameter("weight"), asked.parameter("bias")
    if weight is None and bias is None:
        return x

    def spread(name: str, value: Parameter | None) -> Any:
        if value is None or after == 0:
            return value
        return asked.derived(name, torch.Tensor.reshape, value, (-1, *[1] * after))

    one, zero = asked.tracer.constant(1.0), asked.tracer.constant(0.0)
    scale, offset = spread("weight", weight), spread("bias", bias)
    affine = ops.Affine(one if scale is None else scale, zero if offset is None else offset)
    return asked.add(affine, x)


# ----------------------------------------------------------------------------- activations, pooling


def _gate(make: Callable[[Asked], Operation]) -> Handler:
    def handle(asked: Asked) -> int:
        return asked.add(make(asked), asked.value("self" if "self" in asked.arguments else "input"))

    return handle


def _leaky(asked: Asked) -> Any:
    slope = asked["negative_slope"]
    if slope < 0:  # it folds the line
        return _repeat_gate(asked)
    return asked.add(ops.LeakyReLU(float(slope)), asked.value("self"))


def _clamp(asked: Asked) -> Any:
    bounds = [asked.raw(name) for name in ("min", "max")]
    if any(isinstance(bound, fx.Node) for bound in bounds):
        return repeat(asked)
    low, high = bounds
    clamp = ops.Clamp(-math.inf if low is None else low, math.inf if high is None else high)
    return asked.add(clamp, asked.value("self"))


def _glu(asked: Asked) -> int:
    """Translate a gated linear unit: one half of the channels times the sigmoid of the other."""
    x, dim = asked.value("self"), asked["dim"] % asked.rank()
    if dim == 0:
        raise asked.unsupported("it moves or mixes the images of a batch")
    shape, tracer = asked.shape(), asked.tracer
    half = shape[dim - 1]
    whole = (tracer.templates[x].shape,)

    def part(first: int) -> int:
        call = _call(_aten.slice.Tensor, dim, first, first + half)
        return tracer.append(asked.node, ops.LinearCall(call, whole, True), (x,), shape)

    gate = nonlinear.SmoothGate(_call(_aten.sigmoid.default))
    weighing = tracer.append(asked.node, gate, (part(half),), shape)
    return asked.add(nonlinear.Product(_pair(_aten.mul.Tensor), 0), part(0), weighing)


def _max_pool(dimensions: int) -> Handler:
    def handle(asked: Asked) -> int:
        kernel = asked.ints("kernel_size", dimensions)
        source = asked["self"]
        border = source.widths if isinstance(source, Bordered) else ()
        pool = ops.MaxPool(
            kernel,
            asked.ints("stride", dimensions) or kernel,
            asked.ints("padding", dimensions),
            asked.ints("dilation", dimensions),
            asked["ceil_mode"],
            (*border, *[0] * (2 * dimensions - len(border))) if border else (),
        )
        return asked.add(pool, source.source if border else asked.value("self"))

    return handle


def _max_pool_with_indices(dimensions: int) -> Handler:
    pool = _max_pool(dimensions)
    return lambda asked: (pool(asked), None)


def _adaptive_max_pool(dimensions: int) -> Handler:
    def handle(asked: Asked) -> tuple[int, None]:
        pool = ops.AdaptiveMaxPool(asked.ints("output_size", dimensions))
        return asked.add(pool, asked.value("self")), None  # (maxima, indices)

    return handle


def _average_pool(dimensions: int) -> Handler:
    def handle(asked: Asked) -> int:
        kernel = asked.ints("kernel_size", dimensions)
        pool = ops.AveragePool(
            kernel,
            asked.ints("stride", dimensions) or kernel,
            asked.ints("padding", dimensions),
            asked["ceil_mode"],
            asked["count_include_pad"],
            asked.raw("divisor_override"),
        )
        return asked.add(pool, asked.value("self"))

    return handle


def _adaptive_average_pool(dimensions: int) -> Handler:
    def handle(asked: Asked) -> int:
        pool = ops.AdaptiveAveragePool(asked.ints("output_size", dimensions))
        return asked.add(pool, asked.value("self"))

    return handle


def _mean(asked: Asked) -> int:
    x = asked.value("self")
    rank = len(asked.tracer.templates[x].shape) + 1
    dims = asked.raw("dim")
    if not dims or any(dim % rank == 0 for dim in dims):
        raise asked.unsupported("it averages over the images of a batch")
    return asked.add(ops.Mean(tuple(dim % rank for dim in dims), asked["keepdim"]), x)


def _upsample(mode: str) -> Handler:
    def handle(asked: Asked) -> int:
        scales, size = asked.raw("scale_factors"), asked.raw("output_size")
        upsample = ops.Upsample(
            asked.shape()[1:],
            mode,
            asked.raw("align_corners"),
            None if size is not None or not scales else tuple(scales),
        )
        return asked.add(upsample, asked.value("input"))

    return handle


def _cubic(asked: Asked) -> int:
    """Translate bicubic upsampling: a fixed matrix along the rows, another along the columns."""
    asked.implied()
    x = asked.value("self" if "self" in asked.arguments else "input")
    shape, (channels, *sides) = asked.shape(), asked.tracer.templates[x].shape
    changed = list(sides)
    for side in (0, 1):
        matrix = _cubic_matrix(asked, sides[side], shape[1 + side], side)
        before = (channels, *changed)
        changed[side] = shape[1 + side]
        order = (Weight(matrix), _first) if side == 0 else (_first, Weight(matrix.T))
        product = ops.LinearCall(_call(_aten.matmul.default, *order, alone=True), (before,))
        x = asked.tracer.append(asked.node, product, (x,), (channels, *changed))
    return x


def _cubic_matrix(asked: Asked, length: int, new: int, side: int) -> torch.Tensor:
    """Return the weights of bicubic upsampling along one side, (new, length)."""
    unit = torch.eye(length, dtype=asked.tracer.x.dtype, device=asked.tracer.x.device)
    # A width of 1 would do, but for a mistake of PyTorch's in such images with antialiasing.
    image = unit[:, None, :, None].repeat(1, 1, 1, 4)
    scales = asked.arguments.get("scale_factors")
    size = (new, 4)
    if scales and asked.arguments.get("output_size") is None:
        found = torch.ops.aten.upsample_bicubic2d(
            image, size, asked.arguments["align_corners"], scales[side], 1.0
        )
    else:
        name = name_of(asked.node)
        found = getattr(_aten, name)(image, size, asked.arguments["align_corners"])
    matrix: torch.Tensor = found[:, 0, :, 0].T.contiguous()
    return matrix


# -------------------------------------------------------------------------------------- arithmetic


def _sum(sign: float) -> Handler:
    def handle(asked: Asked) -> Any:
        alpha = sign * asked["alpha"]
        if asked.is_signal("self") and asked.is_signal("other"):
            left, right = (_broadcast(asked, asked.value(name)) for name in ("self", "other"))
            return asked.add(ops.Add((1.0, alpha)), left, right)
        if asked.is_signal("self"):
            return _affine(asked, "self", 1.0, asked["other"], alpha)
        return _affine(asked, "other", alpha, asked["self"], 1.0)

    return handle


def _reversed_difference(asked: Asked) -> Any:
    return _affine(asked, "self", -float(asked["alpha"]), asked["other"], 1.0)


def _product(asked: Asked) -> Any:
    if asked.is_signal("self") and asked.is_signal("other"):
        same = asked["self"] == asked["other"]
        return _repeat_gate(asked) if same else repeat(asked)
    x, factor = ("self", "other") if asked.is_signal("self") else ("other", "self")
    return _affine(asked, x, asked[factor], 0.0, 1.0)


def _quotient(asked: Asked) -> Any:
    if asked.raw("rounding_mode") is not None:
        raise asked.unsupported(f"it rounds with rounding_mode={asked.raw('rounding_mode')!r}")
    if not asked.is_signal("other"):
        divisor = asked["other"]
        if isinstance(divisor, Parameter):
            inverse: Any = asked.derived("inverse", torch.reciprocal, divisor)
            return _affine(asked, "self", inverse, 0.0, 1.0)
        if not isinstance(divisor, (int, float)):
            return repeat(asked)
        return _affine(asked, "self", 1.0 / divisor, 0.0, 1.0)
    return _by_a_signal(asked)


def _by_a_signal(asked: Asked) -> int:
    """Translate a division by a computed number: a product with its reciprocal."""
    divisor, tracer = asked.value("other"), asked.tracer
    place = tracer.layouts[divisor]
    call = _call(_aten.reciprocal.default, inputs=(place,), output=place)
    shape = tracer.templates[divisor].shape
    inverse = tracer.append(asked.node, nonlinear.SmoothGate(call), (divisor,), shape, place)
    if not asked.is_signal("self"):
        layout = _output_layout(asked)
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
    call = _pair(_aten.mul.Tensor, layouts, _output_layout(asked))
    return asked.add(nonlinear.Product(call, 0), x, inverse)


def _affine(asked: Asked, name: str, scale: Any, offset: Any, factor: float) -> Any:
    """Add ``scale * x + factor * offset``, where scale and offset do not depend on the input."""
    layout = asked.layout(name)
    if isinstance(scale, Repeated) or isinstance(offset, Repeated) or layout.dim != 0:
        return repeat(asked)
    x = _broadcast(asked, asked.value(name))

    def tensor(what: str, value: Any, times: float = 1.0) -> Any:
        if isinstance(value, Parameter):
            return value if times == 1 else asked.derived(what, torch.mul, value, times)
        if not isinstance(value, (int, float)):
            raise asked.unsupported("it depends on the size of the batch")
        return asked.tracer.constant(value * times)

    return asked.add(ops.Affine(tensor("scale", scale), tensor("offset", offset, factor)), x)


def _broadcast(asked: Asked, x: int) -> int:
    """Return a signal in the shape of the call's output, repeated where that is larger."""
    tracer = asked.tracer
    shape, layout = tracer.placed(asked.first(), asked)
    if tracer.templates[x].shape == shape and tracer.layouts[x] == layout:
        return x
    sizes = [
        Rows(layout.times * layout.before) if tracer.symbolic(n) else n for n in asked.first().shape
    ]
    call = _call(_aten.expand.default, sizes, inputs=(tracer.layouts[x],), output=layout)
    expand = ops.LinearCall(call, (tracer.templates[x].shape,), True)
    return tracer.append(asked.node, expand, (x,), shape, layout)


# --------------------------------------------------------------------------------------- attention


def _attention(asked: Asked) -> Any:
    """Translate attention: queries times keys, scaled, with a bias, softmax, times values."""
    if asked.raw("dropout_p"):
        raise asked.unsupported("it drops at random even in evaluation mode (dropout_p > 0)")
    asked.implied("enable_gqa")
    layout, names = _output_layout(asked), ("query", "key", "value")
    heads = {str(asked.raw(name).meta["val"].shape[:-2]) for name in names}
    alike = all(asked.layout(name) == layout for name in names if asked.is_signal(name))
    split = layout.dim < asked.rank("query") - 2
    if len(heads) > 1 or not alike or not split or not asked.is_signal("value"):
        asked.implied()
        return _repeat_nonlinear(asked)
    scores = _biased(asked, _scores(asked, layout), layout)
    if not isinstance(scores, int):
        asked.implied()
        return _repeat_nonlinear(asked)
    softmax = nonlinear.Softmax(_call(_aten.softmax.int, -1, inputs=(layout,), output=layout))
    shape = asked.tracer.templates[scores].shape
    weights = asked.tracer.append(asked.node, softmax, (scores,), shape, layout)
    call = _pair(_aten.matmul.default, (layout, layout), layout)
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
        arguments: tuple[Any, ...] = (_first, weight)
        source = asked.value("query")
    else:
        source = _turned(asked, layout)
        if asked.is_signal("query"):
            pair = _pair(_aten.matmul.default, (layout, layout), layout)
            sources = (asked.value("query"), source)
            return tracer.append(node, nonlinear.MatrixProduct(pair), sources, shape, layout)
        arguments = (Weight(asked["query"]), _first)
    call = _call(_aten.matmul.default, *arguments, inputs=(layout,), output=layout, alone=True)
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
    turn = _call(_aten.transpose.int, -2, -1, inputs=(layout,), output=layout)
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


def _softmax(asked: Asked) -> Any:
    _check_images(asked, "softmax")
    return asked.add(nonlinear.Softmax(asked.as_call()), *asked.sources())


# -------------------------------------------------------------------------------- moves and copies


def _concatenate(asked: Asked) -> Any:
    inputs = [asked.tracer.lookup(node) for node in asked.raw("tensors")]
    if not all(isinstance(x, int) for x in inputs):
        return repeat(asked)
    dim = asked["dim"] % (len(asked.shape()) + 1)
    if dim == 0:
        raise asked.unsupported("it moves or mixes the images of a batch")
    return asked.add(ops.Concatenate(dim), *inputs)


def _reshape(asked: Asked) -> Any:
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


def _pad(asked: Asked) -> Any:
    mode = asked.raw("mode") or "constant"
    value = asked.raw("value")
    if mode == "constant" and value == -math.inf:
        return Bordered(asked.value("self"), tuple(asked["pad"]))
    if mode == "constant" and value not in (None, 0):
        return repeat(asked)
    return asked.add(ops.Pad(tuple(asked["pad"]), mode), asked.value("self"))


def _border(mode: str) -> Handler:
    def handle(asked: Asked) -> int:
        return asked.add(ops.Pad(tuple(asked["padding"]), mode), asked.value("self"))

    return handle


def _slice(asked: Asked) -> Any:
    x = asked.value("self")
    dim, layout = (asked["dim"] or 0) % asked.rank(), asked.layout("self")
    if dim == layout.dim:
        if asked["start"] in (None, 0) and (asked["end"] or 0) >= 2**62 and asked["step"] == 1:
            return x
        raise asked.unsupported("it picks images out of the batch")
    return repeat(asked)


def _slice_scatter(asked: Asked) -> Any:
    """Translate a part that was overwritten; all images, one after another, are everything."""
    dim, whole = (asked["dim"] or 0) % asked.rank(), (asked["end"] or 2**62) >= 2**62
    if asked.is_signal("self") and dim == asked.layout("self").dim:
        if whole and asked["start"] in (None, 0) and asked["step"] == 1:
            return asked.value("src")
        raise asked.unsupported("it changes some images of the batch only")
    return repeat(asked)


def _expand(asked: Asked) -> Any:
    """Translate a signal that is repeated; the other of ``expand_as`` gives only the shape."""
    asked.implied()
    return _broadcast(asked, asked.value("self"))


def _copy(asked: Asked) -> Any:
    """Translate what is written over something else, of which only the shape stays."""
    asked.implied()
    return _broadcast(asked, asked.value("src"))


def _dropout(asked: Asked) -> int:
    asked.implied("p")
    if asked["train"]:
        raise asked.unsupported("it drops at random even in evaluation mode (training=True?)")
    return asked.value("self" if "self" in asked.arguments else "input")


def _identity(asked: Asked) -> Any:
    asked.implied()
    source = asked.node.all_input_nodes[0]
    found = asked.tracer.lookup(source)
    before, after = source.meta["val"].dtype, asked.node.meta["val"].dtype
    if before != after and not (before.is_floating_point and after.is_floating_point):
        return _repeat_nonlinear(asked)
    asked.tracer.note_type(after)
    return found  # the graph computes in one type of numbers


# ------------------------------------------------------------------------------------------- tables


# For signals whose images come first, dimension 0.
_PLAIN: dict[str, Handler] = {
    **{f"conv{d}d": _convolution(d) for d in (1, 2, 3)},
    **{f"conv_transpose{d}d": _convolution(d, transposed=True) for d in (1, 2, 3)},
    **{f"max_pool{d}d": _max_pool(d) for d in (1, 2, 3)},
    **{f"max_pool{d}d_with_indices": _max_pool_with_indices(d) for d in (2, 3)},
    **{f"adaptive_max_pool{d}d": _adaptive_max_pool(d) for d in (1, 2, 3)},
    **{f"avg_pool{d}d": _average_pool(d) for d in (1, 2, 3)},
    **{f"adaptive_avg_pool{d}d": _adaptive_average_pool(d) for d in (1, 2, 3)},
    **{f"upsample_nearest{d}d": _upsample("nearest") for d in (1, 2, 3)},
    **{f"_upsample_nearest_exact{d}d": _upsample("nearest-exact") for d in (1, 2, 3)},
    **{f"reflection_pad{d}d": _border("reflect") for d in (1, 2, 3)},
    **{f"replication_pad{d}d": _border("replicate") for d in (1, 2, 3)},
    "upsample_linear1d": _upsample("linear"),
    "upsample_bilinear2d": _upsample("bilinear"),
    "upsample_trilinear3d": _upsample("trilinear"),
    "upsample_bicubic2d": _cubic,
    "_upsample_bicubic2d_aa": _cubic,
    "group_norm": _group_norm,
    "instance_norm": _instance_norm,
    "glu": _glu,
    "cat": _concatenate,
    "concat": _concatenate,
    "mean": _mean,
    "pad": _pad,
    "constant_pad_nd": _pad,
}
# Wherever the images are.
_ANYWHERE: dict[str, Handler] = {
    "linear": _dense,
    "batch_norm": _batch_norm,
    "_native_batch_norm_legit_no_training": _native_batch_norm,
    "layer_norm": _layer_norm,
    "rms_norm": _layer_norm,
    "relu": _gate(lambda asked: ops.ReLU()),
    "relu6": _gate(lambda asked: ops.Clamp(0.0, 6.0)),
    "hardtanh": _gate(lambda asked: ops.Clamp(float(asked["min_val"]), float(asked["max_val"]))),
    "clamp": _clamp,
    "clamp_min": _clamp,
    "clamp_max": _clamp,
    "leaky_relu": _leaky,
    "add": _sum(1.0),
    "sub": _sum(-1.0),
    "rsub": _reversed_difference,
    "mul": _product,
    "div": _quotient,
    "true_divide": _quotient,
    "neg": lambda asked: _affine(asked, "self", -1.0, 0.0, 1.0),
    "softmax": _softmax,
    "_softmax": _softmax,
    "scaled_dot_product_attention": _attention,
    **dict.fromkeys(kinds.RESHAPES, _reshape),
    "slice": _slice,
    "slice_scatter": _slice_scatter,
    "copy": _copy,
    "expand": _expand,
    "expand_as": _expand,
    **dict.fromkeys(kinds.DROPOUTS, _dropout),
    **dict.fromkeys(kinds.IDENTITIES, _identity),
}
