"""From an exported program to a list of nodes: one handler for each ATen operation.

An operation that has no handler, or an argument that its handler did not read, is an error that
says where it stands.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor, fx, nn
from torch.export.graph_signature import OutputKind

from xaiutils.graph import operations as ops
from xaiutils.graph.errors import UnsupportedOperation
from xaiutils.graph.operations import Operation, Parameter, Shape
from xaiutils.graph.outputs import only_value
from xaiutils.graph.structure import Structure, Template, folded, named, pruned

_SYMBOLS = (torch.SymInt, torch.SymFloat, torch.SymBool)


class _BatchSize:
    """Stands for the size of the batch, or a number computed from it."""


@dataclass(frozen=True)
class _Call:
    """One ATen call, its arguments by name (defaults included), and which of them were read."""

    tracer: _Translator
    node: fx.Node
    arguments: dict[str, Any]
    read: set[str] = field(default_factory=set)

    def raw(self, name: str) -> Any:
        """Return an argument as it was written, None if the operation does not have it."""
        self.read.add(name)
        return self.arguments.get(name)

    def __getitem__(self, name: str) -> Any:
        """Return an argument; values and parameters of the graph are looked up."""
        return self.tracer.lookup(self.raw(name))

    def unread(self) -> dict[str, Any]:
        """Return what was not read although it is not what it is by default."""
        defaults = _defaults(self.node)
        left = {name: self.arguments[name] for name in self.arguments.keys() - self.read}
        return {name: v for name, v in left.items() if v is not None and v != defaults.get(name)}

    def implied(self, *names: str) -> None:
        """Note that these arguments do not matter, or that the output's shape shows them."""
        self.read.update(names or self.arguments)

    def value(self, name: str) -> int:
        """Return the position of an argument that must be a value computed from the input."""
        found = self[name]
        if not isinstance(found, int) or not isinstance(self.raw(name), fx.Node):
            raise self.unsupported("its input does not depend on the network's input")
        return found

    def parameter(self, name: str) -> Any:
        """Return an argument that must be a parameter, a constant or None."""
        found = self[name]
        if found is not None and not isinstance(found, Parameter):
            raise self.unsupported(f"its {name} is computed from the network's input")
        return found

    def ints(self, name: str, dimensions: int) -> Shape:
        """Return an argument as that many integers."""
        value = self.raw(name)
        values = tuple(value) if isinstance(value, (list, tuple)) else (value,)
        return values * dimensions if len(values) == 1 else values

    def add(self, operation: Operation, *inputs: int) -> int:
        """Append a node whose output has the shape that this call returns."""
        return self.tracer.append(self.node, operation, inputs, self.shape())

    def shape(self) -> Shape:
        """Return the shape of the output without the batch."""
        value = self.node.meta["val"]
        first = value[0] if isinstance(value, (tuple, list)) else value
        return self.tracer.shape(first, self)

    def unsupported(self, reason: str) -> UnsupportedOperation:
        return self.tracer.unsupported(self.node, reason)


def translated(
    model: nn.Module, program: torch.export.ExportedProgram, x: Tensor, fold: bool
) -> Structure:
    """Translate an exported program, for inputs like ``x``, and fold, prune and name its nodes."""
    return _Translator(model, program, x).run(fold)


class _Translator:
    """Walks through an exported program and collects the nodes."""

    def __init__(self, model: nn.Module, program: torch.export.ExportedProgram, x: Tensor) -> None:
        self.model = model
        self.program = program
        self.x = x
        self.templates: list[Template] = []
        self.values: dict[fx.Node, Any] = {}
        self.constants: dict[str, Tensor] = {}
        self.batch: Any = None
        self.output = self._output()

    def run(self, fold: bool) -> Structure:
        """Translate every call that the output depends on, then fold, prune and name."""
        self._placeholders()
        needed = _needed(self.output)
        for node in self.program.graph.nodes:
            if node.op == "call_function" and node in needed:
                self.values[node] = self._translate(node)
        position = self.values[self.output]
        if not isinstance(position, int):
            raise UnsupportedOperation("the network's output does not depend on its input")
        templates = pruned(self.templates, position)
        return Structure(tuple(named(folded(templates) if fold else templates)), self.constants)

    def _placeholders(self) -> None:
        signature = self.program.graph_signature
        paths = {
            spec.arg.name: spec.target for spec in signature.input_specs if spec.target is not None
        }
        for node in self.program.graph.nodes:
            if node.op != "placeholder":
                continue
            if node.name in paths:
                self.values[node] = Parameter(paths[node.name])
                if paths[node.name] in self.program.constants:
                    self.constants[paths[node.name]] = self.program.constants[paths[node.name]]
            else:
                self.batch = node.meta["val"].shape[0]
                shape = tuple(node.meta["val"].shape[1:])
                self.templates.append(Template("input", "", ops.Input(), (), shape))
                self.values[node] = 0

    def _output(self) -> fx.Node:
        returned = cast(Sequence[Any], self.program.graph.output_node().args[0])
        specs = self.program.graph_signature.output_specs
        kept = zip(returned, specs, strict=True)
        users = [value for value, spec in kept if spec.kind == OutputKind.USER_OUTPUT]
        output = only_value(self.model, users)
        if not isinstance(output, fx.Node):
            raise UnsupportedOperation("the network's output does not depend on its input")
        return output

    def _translate(self, node: fx.Node) -> Any:
        name = _name(node)
        if name == "getitem":
            return self.lookup(node.args[0])[node.args[1]]
        if isinstance(node.meta.get("val"), _SYMBOLS) and name != "item":
            return _BatchSize()
        handler = _HANDLERS.get(name)
        if handler is None:
            raise self.unsupported(node, self._hint(node))
        sources = [self.values[source] for source in node.all_input_nodes]
        if handler is not _identity and not any(type(v) in (int, tuple) for v in sources):
            raise self.unsupported(node, "it does not depend on the network's input")
        call = _Call(self, node, _arguments(node))
        result = handler(call)
        for argument, value in call.unread().items():
            raise call.unsupported(f"no rule is known for it with {argument}={value!r}")
        return result

    def _hint(self, node: fx.Node) -> str:
        name, last = _name(node), self.output
        if name.endswith("_scatter"):
            return "it changes a view of a tensor, a part of it, in place"
        if name not in ("sigmoid", "softmax", "log_softmax", "_softmax", "_log_softmax"):
            return "no rule is known for it"
        while last is not node and _name(last) in _MOVES:
            last = last.all_input_nodes[0]
        if last is node:
            return f"explain what goes into it: hand over the network without its {name}"
        return "in the middle of a network, where it weighs another signal, no rule is known for it"

    def lookup(self, argument: Any) -> Any:
        """Return what a node of the exported program stands for, anything else as it is."""
        return self.values[argument] if isinstance(argument, fx.Node) else argument

    def append(
        self, node: fx.Node, operation: Operation, inputs: tuple[int, ...], shape: Shape
    ) -> int:
        """Add a node and return its position."""
        self.templates.append(Template("", _module_path(node), operation, inputs, shape))
        return len(self.templates) - 1

    def constant(self, value: float) -> Tensor:
        """Return a number as a tensor of the input's type."""
        return torch.tensor(value, dtype=self.x.dtype, device=self.x.device)

    def shape(self, value: Any, call: _Call) -> Shape:
        """Return a shape without its batch, which must be untouched in front."""
        shape = tuple(value.shape)
        if not shape or str(shape[0]) != str(self.batch):
            raise call.unsupported("it moves or mixes the images of a batch")
        if not all(isinstance(size, int) for size in shape[1:]):
            raise call.unsupported("the shape of its output depends on the batch size")
        return shape[1:]

    def unsupported(self, node: fx.Node, reason: str) -> UnsupportedOperation:
        """Return an error that says what is not supported, where, and why."""
        trace = (node.meta.get("stack_trace") or "").strip().split("\n")
        code = trace[-1].strip() if trace[-1] else ""
        where = _module_path(node) or type(self.model).__name__
        return UnsupportedOperation(
            f"cannot handle {node.target} in {where!r}"
            + (f" ({code})" if code else "")
            + f": {reason}"
        )


def _arguments(node: fx.Node) -> dict[str, Any]:
    """Return the arguments of an ATen call by name, defaults included."""
    schema = cast(torch._ops.OpOverload, node.target)._schema.arguments
    positional = {spec.name: value for spec, value in zip(schema, node.args, strict=False)}
    return {**_defaults(node), **positional, **node.kwargs}


def _defaults(node: fx.Node) -> dict[str, Any]:
    schema = cast(torch._ops.OpOverload, node.target)._schema.arguments
    return {spec.name: spec.default_value for spec in schema if spec.has_default_value()}


def _needed(output: fx.Node) -> set[fx.Node]:
    """Return the nodes that an output depends on."""
    needed: set[fx.Node] = set()
    waiting = [output]
    while waiting:
        node = waiting.pop()
        if node not in needed:
            needed.add(node)
            waiting += node.all_input_nodes
    return needed


def _name(node: fx.Node) -> str:
    """Return the name of an operation, without its overload and the mark of an in-place call."""
    name = str(getattr(node.target, "__name__", node.target)).split(".")[0]
    return name.removesuffix("_") if not name.endswith("__") else name


def _module_path(node: fx.Node) -> str:
    stack = list((node.meta.get("nn_module_stack") or {}).values())
    return stack[-1][0].split("@")[0] if stack else ""


def reads_what_was_overwritten(program: torch.export.ExportedProgram) -> bool:
    """Whether a tensor that is changed in place may be read under another name, too."""
    changed = [node for node in program.graph.nodes if _in_place(node)]
    return not all(_has_one_name(node.args[0]) for node in changed)


def _has_one_name(node: fx.Node) -> bool:
    """Whether only one node reads a tensor, and those that it may be a view of."""
    readers = [u for u in node.users if u.users or u.op == "output" or _in_place(u)]
    if len(readers) > 1:
        return False
    return not _may_be_view(node) or all(_has_one_name(base) for base in node.all_input_nodes)


def _in_place(node: fx.Node) -> bool:
    return isinstance(node.target, torch._ops.OpOverload) and node.target._schema.is_mutable


def _may_be_view(node: fx.Node) -> bool:
    if node.op == "placeholder" or _in_place(node):
        return False
    if not isinstance(node.target, torch._ops.OpOverload) or _name(node).endswith("dropout"):
        return True
    return any(value.alias_info is not None for value in node.target._schema.returns)


# ------------------------------------------------------------------------------ one handler each


def _convolution(dimensions: int, transposed: bool = False) -> Callable[[_Call], int]:
    def handle(call: _Call) -> int:
        x = call.value("input")
        weight, bias = call.parameter("weight"), call.parameter("bias")
        stride, dilation = call.ints("stride", dimensions), call.ints("dilation", dimensions)
        padding = call.raw("padding")
        if isinstance(padding, str):
            kernel = call.node.args[1].meta["val"].shape[2:]  # type: ignore[union-attr]
            x, pads = _same_padding(call, x, padding, kernel, dilation)
        else:
            pads = call.ints("padding", dimensions)
        output_padding = (
            call.ints("output_padding", dimensions) if transposed else (0,) * dimensions
        )
        operation = ops.Convolution(
            weight, bias, stride, pads, dilation, call["groups"], transposed, output_padding
        )
        return call.add(operation, x)

    return handle


def _same_padding(
    call: _Call, x: int, mode: str, kernel: Shape, dilation: Shape
) -> tuple[int, Shape]:
    """Return the input and the padding for "valid" or "same", padding first where it is uneven."""
    if mode == "valid":
        return x, (0,) * len(kernel)
    totals = [d * (k - 1) for d, k in zip(dilation, kernel, strict=True)]
    if all(total % 2 == 0 for total in totals):
        return x, tuple(total // 2 for total in totals)
    widths = [w for total in reversed(totals) for w in (total // 2, total - total // 2)]
    shape = call.tracer.templates[x].shape
    padded = (shape[0], *(size + total for size, total in zip(shape[1:], totals, strict=True)))
    pad = ops.Pad(tuple(widths))
    return call.tracer.append(call.node, pad, (x,), padded), (0,) * len(kernel)


def _dense(call: _Call) -> int:
    dense = ops.Dense(call.parameter("weight"), call.parameter("bias"))
    return call.add(dense, call.value("input"))


def _batch_norm(call: _Call) -> int:
    if call.raw("training"):
        raise call.unsupported("it uses the statistics of the batch (track_running_stats=False?)")
    norm = ops.BatchNorm(
        call.parameter("weight"),
        call.parameter("bias"),
        call.parameter("running_mean"),
        call.parameter("running_var"),
        call["eps"],
    )
    call.implied("momentum", "cudnn_enabled")
    return call.add(norm, call.value("input"))


def _native_batch_norm(call: _Call) -> tuple[int, None, None]:
    return _batch_norm(call), None, None


def _gate(make: Callable[[_Call], Operation]) -> Callable[[_Call], int]:
    def handle(call: _Call) -> int:
        return call.add(make(call), call.value("self" if "self" in call.arguments else "input"))

    return handle


def _leaky(call: _Call) -> Operation:
    if call["negative_slope"] < 0:
        raise call.unsupported("a negative slope below zero folds the line: it is no gate")
    return ops.LeakyReLU(float(call["negative_slope"]))


def _clamp(call: _Call) -> Operation:
    bounds = [call.raw(name) for name in ("min", "max")]
    if any(isinstance(bound, fx.Node) for bound in bounds):
        raise call.unsupported("its bounds are tensors")
    low, high = bounds
    return ops.Clamp(-math.inf if low is None else low, math.inf if high is None else high)


def _max_pool(dimensions: int) -> Callable[[_Call], Any]:
    def handle(call: _Call) -> int:
        kernel = call.ints("kernel_size", dimensions)
        pool = ops.MaxPool(
            kernel,
            call.ints("stride", dimensions) or kernel,
            call.ints("padding", dimensions),
            call.ints("dilation", dimensions),
            call["ceil_mode"],
        )
        return call.add(pool, call.value("self"))

    return handle


def _adaptive_max_pool(dimensions: int) -> Callable[[_Call], Any]:
    def handle(call: _Call) -> tuple[int, None]:
        pool = ops.AdaptiveMaxPool(call.ints("output_size", dimensions))
        return call.add(pool, call.value("self")), None  # (maxima, indices)

    return handle


def _average_pool(dimensions: int) -> Callable[[_Call], int]:
    def handle(call: _Call) -> int:
        kernel = call.ints("kernel_size", dimensions)
        pool = ops.AveragePool(
            kernel,
            call.ints("stride", dimensions) or kernel,
            call.ints("padding", dimensions),
            call["ceil_mode"],
            call["count_include_pad"],
            call.raw("divisor_override"),
        )
        return call.add(pool, call.value("self"))

    return handle


def _adaptive_average_pool(dimensions: int) -> Callable[[_Call], int]:
    def handle(call: _Call) -> int:
        return call.add(
            ops.AdaptiveAveragePool(call.ints("output_size", dimensions)), call.value("self")
        )

    return handle


def _mean(call: _Call) -> int:
    x = call.value("self")
    rank = len(call.tracer.templates[x].shape) + 1
    dims = call.raw("dim")
    if not dims or any(dim % rank == 0 for dim in dims):
        raise call.unsupported("it averages over the images of a batch")
    return call.add(ops.Mean(tuple(dim % rank for dim in dims), call["keepdim"]), x)


def _upsample(mode: str) -> Callable[[_Call], int]:
    def handle(call: _Call) -> int:
        scales, size = call.raw("scale_factors"), call.raw("output_size")
        upsample = ops.Upsample(
            call.shape()[1:],
            mode,
            call.raw("align_corners"),
            None if size is not None or not scales else tuple(scales),
        )
        return call.add(upsample, call.value("input"))

    return handle


def _sum(sign: float) -> Callable[[_Call], int]:
    def handle(call: _Call) -> int:
        alpha = sign * call["alpha"]
        left, right = call["self"], call["other"]
        if _is_value(call, "self") and _is_value(call, "other"):
            shapes = {call.tracer.templates[i].shape for i in (left, right)}
            if len(shapes) > 1:
                raise call.unsupported(f"it adds tensors of different shapes {sorted(shapes)}")
            return call.add(ops.Add((1.0, alpha)), left, right)
        if _is_value(call, "self"):
            return _affine(call, left, 1.0, right, scale_of_offset=alpha)
        if sign * call["alpha"] == 1:
            return _affine(call, call.value("other"), 1.0, left)
        raise call.unsupported("a constant minus a signal; write it as -signal + constant")

    return handle


def _product(call: _Call) -> int:
    if _is_value(call, "self") and _is_value(call, "other"):
        raise call.unsupported("a product of two signals is not linear in either way of reading it")
    x, factor = ("self", "other") if _is_value(call, "self") else ("other", "self")
    return _affine(call, call.value(x), call[factor], 0.0)


def _quotient(call: _Call) -> int:
    divisor = call["other"]
    if not isinstance(divisor, (int, float)) or _is_value(call, "other"):
        raise call.unsupported("only division by a number is linear")
    return _affine(call, call.value("self"), 1.0 / divisor, 0.0)


def _affine(call: _Call, x: int, scale: Any, offset: Any, scale_of_offset: float = 1.0) -> int:
    if isinstance(offset, Parameter) and scale_of_offset != 1:
        raise call.unsupported("it subtracts or scales a parameter before adding it")
    if call.shape() != call.tracer.templates[x].shape:
        raise call.unsupported("it broadcasts the signal to a larger shape")

    def tensor(value: Any, factor: float = 1.0) -> Any:
        if isinstance(value, Parameter):
            return value
        if not isinstance(value, (int, float)):
            raise call.unsupported("it depends on the size of the batch")
        return call.tracer.constant(value * factor)

    return call.add(ops.Affine(tensor(scale), tensor(offset, scale_of_offset)), x)


def _is_value(call: _Call, name: str) -> bool:
    return isinstance(call.raw(name), fx.Node) and isinstance(call[name], int)


def _concatenate(call: _Call) -> int:
    inputs = [call.tracer.lookup(node) for node in call.raw("tensors")]
    if not all(isinstance(x, int) for x in inputs):
        raise call.unsupported("it concatenates signals with constants")
    dim = call["dim"] % (len(call.shape()) + 1)
    return call.add(ops.Concatenate(dim), *inputs)


def _reshape(call: _Call) -> int:
    call.implied()
    return call.add(ops.Reshape(call.shape()), call.value("self"))


def _pad(call: _Call) -> int:
    mode = call.raw("mode") or "constant"
    if mode == "constant" and call.raw("value") not in (None, 0):
        raise call.unsupported("it pads with a number other than zero")
    return call.add(ops.Pad(tuple(call["pad"]), mode), call.value("self"))


def _border(mode: str) -> Callable[[_Call], int]:
    def handle(call: _Call) -> int:
        return call.add(ops.Pad(tuple(call["padding"]), mode), call.value("self"))

    return handle


def _rearrange(function: str, *names: str) -> Callable[[_Call], int]:
    def handle(call: _Call) -> int:
        arguments = tuple(call.raw(name) for name in names)
        return call.add(ops.Rearrange(function, arguments), call.value("self"))

    return handle


def _slice(call: _Call) -> int:
    x = call.value("self")
    if call["dim"] == 0:
        if call["start"] in (None, 0) and (call["end"] or 0) >= 2**62 and call["step"] == 1:
            return x
        raise call.unsupported("it picks images out of the batch")
    return _rearrange("slice", "dim", "start", "end", "step")(call)


def _split(call: _Call) -> tuple[int, ...]:
    x = call.value("self")
    dim = call.raw("dim") or 0
    call.implied()
    pieces, start = [], 0
    for value in call.node.meta["val"]:
        shape = call.tracer.shape(value, call)
        length = value.shape[dim]
        piece = ops.Rearrange("slice", (dim, start, start + length, 1))
        pieces.append(call.tracer.append(call.node, piece, (x,), shape))
        start += length
    return tuple(pieces)


def _dropout(call: _Call) -> int:
    call.implied("p")
    if call["train"]:
        raise call.unsupported("it drops at random even in evaluation mode (training=True?)")
    return call.value("self" if "self" in call.arguments else "input")


def _identity(call: _Call) -> Any:
    call.implied()
    source = call.node.all_input_nodes[0]
    if call.node.meta["val"].dtype != source.meta["val"].dtype:
        raise call.unsupported("it changes the type of the numbers")
    return call.tracer.lookup(source)


_HANDLERS: dict[str, Callable[[_Call], Any]] = {
    **{f"conv{d}d": _convolution(d) for d in (1, 2, 3)},
    **{f"conv_transpose{d}d": _convolution(d, transposed=True) for d in (1, 2, 3)},
    **{f"max_pool{d}d": _max_pool(d) for d in (1, 2, 3)},
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
    "linear": _dense,
    "batch_norm": _batch_norm,
    "_native_batch_norm_legit_no_training": _native_batch_norm,
    "relu": _gate(lambda call: ops.ReLU()),
    "relu6": _gate(lambda call: ops.Clamp(0.0, 6.0)),
    "hardtanh": _gate(lambda call: ops.Clamp(float(call["min_val"]), float(call["max_val"]))),
    "clamp": _gate(_clamp),
    "clamp_min": _gate(_clamp),
    "clamp_max": _gate(_clamp),
    "leaky_relu": _gate(_leaky),
    "add": _sum(1.0),
    "sub": _sum(-1.0),
    "mul": _product,
    "div": _quotient,
    "neg": lambda call: _affine(call, call.value("self"), -1.0, 0.0),
    "cat": _concatenate,
    "concat": _concatenate,
    "mean": _mean,
    "flatten": _reshape,
    "view": _reshape,
    "reshape": _reshape,
    "_unsafe_view": _reshape,
    "squeeze": _reshape,
    "unsqueeze": _reshape,
    "unflatten": _reshape,
    "pad": _pad,
    "constant_pad_nd": _pad,
    "permute": _rearrange("permute", "dims"),
    "transpose": _rearrange("transpose", "dim0", "dim1"),
    "select": _rearrange("select", "dim", "index"),
    "pixel_shuffle": _rearrange("pixel_shuffle", "upscale_factor"),
    "flip": _rearrange("flip", "dims"),
    "slice": _slice,
    "chunk": _split,
    "split": _split,
    "split_with_sizes": _split,
    "unbind": lambda call: _raise(call.unsupported("use indexing instead")),
    "dropout": _dropout,
    "feature_dropout": _dropout,
    "clone": _identity,
    "contiguous": _identity,
    "alias": _identity,
    "to": _identity,
    "lift_fresh": _identity,
}

# What may stand between a sigmoid and the output without making it less of an output.
_MOVES = {name for name, handler in _HANDLERS.items() if handler in (_reshape, _identity)}


def _raise(error: Exception) -> Any:
    raise error
