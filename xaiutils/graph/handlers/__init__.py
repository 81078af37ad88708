"""One handler for each kind of ATen operation; what has none of its own is repeated as it is.

An operation that is repeated as it is (:class:`xaiutils.graph.calls.Call`) needs to be known only
by its kind: a copy of its inputs, linear with a weight or without, elementwise, or none of these.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from torch import fx

from xaiutils.graph import kinds
from xaiutils.graph import operations as ops
from xaiutils.graph.collecting import Asked, key_of, name_of
from xaiutils.graph.handlers import _arithmetic, _attention, _layers, _moves, _pooling
from xaiutils.graph.handlers._repeating import (
    Handler,
    repeat,
    repeat_gate,
    repeat_linear,
    repeat_nonlinear,
)

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
        "copies": lambda asked: repeat_linear(asked, True, weights, offsets),
        "linear": lambda asked: repeat_linear(asked, False, weights, offsets),
        "gate": repeat_gate,
        "nonlinear": repeat_nonlinear,
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
        return lambda asked: _as_registered(asked, _registered[key])
    if key in _ANYWHERE:
        return _ANYWHERE[key]
    if key in _PLAIN:
        return lambda asked: _PLAIN[key](asked) if asked.plain else repeat(asked)
    return repeat


def _as_registered(asked: Asked, handler: Handler) -> Any:
    asked.tracer.registered = True  # what somebody says of it is to be checked
    return handler(asked)


# For signals whose images come first, dimension 0.
_PLAIN: dict[str, Handler] = {
    **{f"conv{d}d": _layers.convolution(d) for d in (1, 2, 3)},
    **{f"conv_transpose{d}d": _layers.convolution(d, transposed=True) for d in (1, 2, 3)},
    **{f"max_pool{d}d": _pooling.max_pool(d) for d in (1, 2, 3)},
    **{f"max_pool{d}d_with_indices": _pooling.max_pool_with_indices(d) for d in (2, 3)},
    **{f"adaptive_max_pool{d}d": _pooling.adaptive_max_pool(d) for d in (1, 2, 3)},
    **{f"avg_pool{d}d": _pooling.average_pool(d) for d in (1, 2, 3)},
    **{f"adaptive_avg_pool{d}d": _pooling.adaptive_average_pool(d) for d in (1, 2, 3)},
    **{f"upsample_nearest{d}d": _pooling.upsample("nearest") for d in (1, 2, 3)},
    **{f"_upsample_nearest_exact{d}d": _pooling.upsample("nearest-exact") for d in (1, 2, 3)},
    **{f"reflection_pad{d}d": _moves.border("reflect") for d in (1, 2, 3)},
    **{f"replication_pad{d}d": _moves.border("replicate") for d in (1, 2, 3)},
    "upsample_linear1d": _pooling.upsample("linear"),
    "upsample_bilinear2d": _pooling.upsample("bilinear"),
    "upsample_trilinear3d": _pooling.upsample("trilinear"),
    "upsample_bicubic2d": _pooling.cubic,
    "_upsample_bicubic2d_aa": _pooling.cubic,
    "group_norm": _layers.group_norm,
    "instance_norm": _layers.instance_norm,
    "glu": _pooling.glu,
    "cat": _moves.concatenate,
    "concat": _moves.concatenate,
    "mean": _pooling.mean,
    "pad": _moves.pad,
    "constant_pad_nd": _moves.pad,
}
# Wherever the images are.
_ANYWHERE: dict[str, Handler] = {
    "linear": _layers.dense,
    "batch_norm": _layers.batch_norm,
    "_native_batch_norm_legit_no_training": _layers.native_batch_norm,
    "layer_norm": _layers.layer_norm,
    "rms_norm": _layers.layer_norm,
    "relu": _pooling.gate(lambda asked: ops.ReLU()),
    "relu6": _pooling.gate(lambda asked: ops.Clamp(0.0, 6.0)),
    "hardtanh": _pooling.gate(
        lambda asked: ops.Clamp(float(asked["min_val"]), float(asked["max_val"]))
    ),
    "clamp": _pooling.clamp,
    "clamp_min": _pooling.clamp,
    "clamp_max": _pooling.clamp,
    "leaky_relu": _pooling.leaky,
    "add": _arithmetic.addition(1.0),
    "sub": _arithmetic.addition(-1.0),
    "rsub": _arithmetic.reversed_difference,
    "mul": _arithmetic.product,
    "div": _arithmetic.quotient,
    "true_divide": _arithmetic.quotient,
    "neg": lambda asked: _arithmetic.affine(asked, "self", -1.0, 0.0, 1.0),
    "softmax": _attention.softmax,
    "_softmax": _attention.softmax,
    "scaled_dot_product_attention": _attention.attention,
    **dict.fromkeys(kinds.RESHAPES, _moves.reshape),
    "slice": _moves.slicing,
    "slice_scatter": _moves.slice_scatter,
    "copy": _moves.copied,
    "expand": _moves.expand,
    "expand_as": _moves.expand,
    **dict.fromkeys(kinds.DROPOUTS, _moves.dropout),
    **dict.fromkeys(kinds.IDENTITIES, _moves.identity),
}
