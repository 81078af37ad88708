"""From a PyTorch module to a list of nodes, by ``torch.export``.

``torch.export`` runs the module once on shapes alone and writes down every ATen operation, with
the module that asked for it. Here each of them is translated into one of
:mod:`xaiutils.graph.operations`; one that has no translation is an error that says where it stands.
The user's module is only read.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, fx, nn

from xaiutils.graph import operations as ops
from xaiutils.graph.errors import TraceError, UnsupportedOperation
from xaiutils.graph.operations import Operation, Parameter, Shape


@dataclass(frozen=True, eq=False)
class Template:
    """A node whose parameters are still names, so that it outlives a change of the weights.

    Attributes:
        name: A unique name, made of the path of the module and, where needed, the operation.
        module: The path, in the user's module, of the innermost module that asked for it.
        operation: What is done.
        inputs: The positions of the inputs in the list of nodes.
        shape: The shape of the output, without the batch.
        norm: The BatchNorm that was folded into the operation, if any.
        norm_module: The path of that BatchNorm.
    """

    name: str
    module: str
    operation: Operation
    inputs: tuple[int, ...]
    shape: Shape
    norm: ops.BatchNorm | None = None
    norm_module: str | None = None


@dataclass(frozen=True, eq=False)
class Structure:
    """The nodes of a traced module and the constants that its ``forward`` creates."""

    templates: tuple[Template, ...]
    constants: dict[str, Tensor]


_cache: WeakKeyDictionary[nn.Module, dict[tuple[Any, ...], Structure]] = WeakKeyDictionary()


def structure_of(model: nn.Module, x: Tensor, fold: bool) -> Structure:
    """Return the structure of ``model`` for inputs like ``x``, traced on first use.

    It is kept for as long as the model lives, and traced anew if a module was replaced, or any
    plain attribute (a stride, a flag) of one changed.
    """
    key = (x.shape[1:], x.dtype, x.device, fold)
    mark = _fingerprint(model)
    cached = _cache.setdefault(model, {})
    if (*key, mark) not in cached:
        for old in [k for k in cached if k[-1] != mark]:
            del cached[old]
        cached[*key, mark] = _trace(model, x, fold)
    return cached[*key, mark]


def _fingerprint(model: nn.Module) -> int:
    plain = (bool, int, float, str, tuple, type(None))
    return hash(
        tuple(
            (
                name,
                type(module),
                repr([item for item in vars(module).items() if isinstance(item[1], plain)]),
                len(module._forward_hooks) + len(module._forward_pre_hooks),
            )
            for name, module in model.named_modules(remove_duplicate=False)
        )
    )


def _trace(model: nn.Module, x: Tensor, fold: bool) -> Structure:
    example = x.new_zeros(2, *x.shape[1:])  # two: a batch of one is special
    try:
        with torch.no_grad():
            program = torch.export.export(
                model, (example,), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},)
            )
    except Exception as error:
        reason = str(error).strip().split("\n")[0]
        raise TraceError(
            f"{type(model).__name__} cannot be traced for an input of shape "
            f"(N, {', '.join(map(str, x.shape[1:]))}): {reason}"
        ) from error
    return _Tracer(model, program, x).run(fold)


# --------------------------------------------------------------------------- the translation


@dataclass(frozen=True)
class _Call:
    """One ATen call, its arguments by name."""

    tracer: _Tracer
    node: fx.Node
    arguments: dict[str, Any]

    def __getitem__(self, name: str) -> Any:
        """Return an argument; values and parameters of the graph are looked up."""
        return self.tracer.lookup(self.arguments[name])

    def value(self, name: str) -> int:
        """Return the position of an argument that must be a value computed from the input."""
        found = self[name]
        if not isinstance(found, int) or not isinstance(self.arguments[name], fx.Node):
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
        value = self.arguments[name]
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


class _Tracer:
    """Walks through an exported program and collects the nodes."""

    def __init__(self, model: nn.Module, program: torch.export.ExportedProgram, x: Tensor) -> None:
        self.model = model
        self.program = program
        self.x = x
        self.templates: list[Template] = []
        self.values: dict[fx.Node, Any] = {}
        self.constants: dict[str, Tensor] = {}
        self.batch: Any = None

    def run(self, fold: bool) -> Structure:
        """Translate every call, then fold, prune and name."""
        graph = self.program.graph
        self._placeholders(graph)
        for node in graph.nodes:
            if node.op == "call_function":
                self.values[node] = self._translate(node)
        templates = _pruned(self.templates, self._output(graph))
        return Structure(tuple(_named(_folded(templates) if fold else templates)), self.constants)

    def _placeholders(self, graph: fx.Graph) -> None:
        signature = self.program.graph_signature
        paths = {
            spec.arg.name: spec.target for spec in signature.input_specs if spec.target is not None
        }
        for node in graph.nodes:
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

    def _output(self, graph: fx.Graph) -> int:
        outputs = cast(Sequence[Any], graph.output_node().args[0])
        if len(outputs) != 1 or not isinstance(outputs[0], fx.Node):
            raise UnsupportedOperation(
                f"{type(self.model).__name__} returns {len(outputs)} values;"
                " it must return one tensor"
            )
        position = self.values[outputs[0]]
        if not isinstance(position, int):
            raise UnsupportedOperation("the network's output does not depend on its input")
        return position

    def _translate(self, node: fx.Node) -> Any:
        name = str(getattr(node.target, "__name__", node.target)).split(".")[0]
        if name == "getitem":
            return self.lookup(node.args[0])[node.args[1]]
        if name in ("sym_size", "_assert_scalar", "_assert_tensor_metadata"):
            return None  # the batch size: a node never needs to know it
        in_place = name.endswith("_") and not name.endswith("__")
        handler = _HANDLERS.get(name.removesuffix("_") if in_place else name)
        if handler is None:
            raise self.unsupported(node, _HINTS.get(name, "no rule is known for it"))
        call = _Call(self, node, _arguments(node))
        result = handler(call)
        if in_place:
            self._overwrite(node, result)
        return result

    def _overwrite(self, node: fx.Node, result: Any) -> None:
        """From here on, whoever reads the tensor that was changed in place reads the result."""
        target = node.args[0]
        assert isinstance(target, fx.Node)
        order = {other: place for place, other in enumerate(self.program.graph.nodes)}
        for alias in _aliases(target) - {target, node}:
            if any(order[user] > order[node] for user in alias.users):
                raise self.unsupported(node, "it changes a view of a tensor that is used again")
        changed = self.values[target]
        for other, value in self.values.items():
            if value is changed or (isinstance(value, int) and value == changed):
                self.values[other] = result

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
    schema = node.target._schema.arguments  # type: ignore[union-attr]
    positional = {spec.name: value for spec, value in zip(schema, node.args, strict=False)}
    defaults = {spec.name: spec.default_value for spec in schema if spec.has_default_value()}
    return {**defaults, **positional, **node.kwargs}


def _module_path(node: fx.Node) -> str:
    stack = list((node.meta.get("nn_module_stack") or {}).values())
    return stack[-1][0].split("@")[0] if stack else ""


_VIEWS = {"view", "reshape", "flatten", "select", "slice", "permute", "transpose", "unsqueeze",
          "squeeze", "chunk", "split", "getitem", "alias", "unflatten", "t"}  # fmt: skip


def _aliases(node: fx.Node) -> set[fx.Node]:
    """Return the nodes that share memory with a node."""
    found: set[fx.Node] = set()
    open_nodes = [node]
    while open_nodes:
        current = open_nodes.pop()
        if current in found:
            continue
        found.add(current)
        open_nodes += [user for user in current.users if _is_view(user)]
        if _is_view(current):
            open_nodes += current.all_input_nodes[:1]
    return found


def _is_view(node: fx.Node) -> bool:
    return str(getattr(node.target, "__name__", "")).split(".")[0] in _VIEWS


# ------------------------------------------------------------------------------ one handler each


def _convolution(dimensions: int, transposed: bool = False) -> Callable[[_Call], int]:
    def handle(call: _Call) -> int:
        x = call.value("input")
        weight, bias = call.parameter("weight"), call.parameter("bias")
        stride, dilation = call.ints("stride", dimensions), call.ints("dilation", dimensions)
        padding = call.arguments["padding"]
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
    if call["training"]:
        raise call.unsupported("it uses the statistics of the batch (track_running_stats=False?)")
    norm = ops.BatchNorm(
        call.parameter("weight"),
        call.parameter("bias"),
        call.parameter("running_mean"),
        call.parameter("running_var"),
        call["eps"],
    )
    return call.add(norm, call.value("input"))


def _gate(make: Callable[[_Call], Operation]) -> Callable[[_Call], int]:
    def handle(call: _Call) -> int:
        return call.add(make(call), call.value("self" if "self" in call.arguments else "input"))

    return handle


def _leaky(call: _Call) -> Operation:
    if call["negative_slope"] < 0:
        raise call.unsupported("a negative slope below zero folds the line: it is no gate")
    return ops.LeakyReLU(float(call["negative_slope"]))


def _clamp(call: _Call) -> Operation:
    bounds = [call.arguments.get(name) for name in ("min", "max")]
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
            call.arguments.get("divisor_override"),
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
    dims = call.arguments["dim"]
    if dims is None or any(dim % rank == 0 for dim in dims):
        raise call.unsupported("it averages over the images of a batch")
    return call.add(ops.Mean(tuple(dim % rank for dim in dims), call["keepdim"]), x)


def _upsample(mode: str) -> Callable[[_Call], int]:
    def handle(call: _Call) -> int:
        scales = call.arguments.get("scale_factors")
        upsample = ops.Upsample(
            call.shape()[1:],
            mode,
            call.arguments.get("align_corners"),
            None if call.arguments.get("output_size") is not None or not scales else tuple(scales),
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
        return call.tracer.constant(value * factor)

    return call.add(ops.Affine(tensor(scale), tensor(offset, scale_of_offset)), x)


def _is_value(call: _Call, name: str) -> bool:
    return isinstance(call.arguments[name], fx.Node) and isinstance(call[name], int)


def _concatenate(call: _Call) -> int:
    inputs = [call.tracer.lookup(node) for node in call.arguments["tensors"]]
    if not all(isinstance(x, int) for x in inputs):
        raise call.unsupported("it concatenates signals with constants")
    dim = call["dim"] % (len(call.shape()) + 1)
    return call.add(ops.Concatenate(dim), *inputs)


def _reshape(call: _Call) -> int:
    return call.add(ops.Reshape(call.shape()), call.value("self"))


def _pad(call: _Call) -> int:
    mode = call.arguments.get("mode", "constant")
    if mode == "constant" and call.arguments.get("value") not in (None, 0):
        raise call.unsupported("it pads with a number other than zero")
    return call.add(ops.Pad(tuple(call["pad"]), mode), call.value("self"))


def _border(mode: str) -> Callable[[_Call], int]:
    def handle(call: _Call) -> int:
        return call.add(ops.Pad(tuple(call["padding"]), mode), call.value("self"))

    return handle


def _rearrange(function: str, *names: str) -> Callable[[_Call], int]:
    def handle(call: _Call) -> int:
        arguments = tuple(call.arguments[name] for name in names)
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
    dim = call.arguments.get("dim", 0)
    pieces, start = [], 0
    for value in call.node.meta["val"]:
        shape = call.tracer.shape(value, call)
        length = value.shape[dim]
        piece = ops.Rearrange("slice", (dim, start, start + length, 1))
        pieces.append(call.tracer.append(call.node, piece, (x,), shape))
        start += length
    return tuple(pieces)


def _dropout(call: _Call) -> int:
    if call["train"]:
        raise call.unsupported("it drops at random even in evaluation mode (training=True?)")
    return call.value("self" if "self" in call.arguments else "input")


def _identity(call: _Call) -> Any:
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

_HINTS = {
    "softmax": "explain the logits: hand over the network without its softmax",
    "log_softmax": "explain the logits: hand over the network without its softmax",
    "sigmoid": "explain what goes into the sigmoid: hand over the network without it",
}


def _raise(error: Exception) -> Any:
    raise error


# ------------------------------------------------------------------ folding, pruning, naming


def _consumers(templates: list[Template]) -> list[list[int]]:
    consumers: list[list[int]] = [[] for _ in templates]
    for position, template in enumerate(templates):
        for source in template.inputs:
            consumers[source].append(position)
    return consumers


def _pruned(templates: list[Template], output: int) -> list[Template]:
    """Keep the input and what the output depends on."""
    needed = {0, output}
    for position in range(output, -1, -1):
        if position in needed:
            needed.update(templates[position].inputs)
    order = {old: new for new, old in enumerate(sorted(needed))}
    return [
        replace(templates[old], inputs=tuple(order[i] for i in templates[old].inputs))
        for old in order
    ]


def _folded(templates: list[Template]) -> list[Template]:
    """Fold each BatchNorm into the convolution or linear layer that feeds only it."""
    consumers = _consumers(templates)
    result = list(templates)
    new_place: dict[int, int] = {}
    kept: list[Template] = []
    for position, template in enumerate(templates):
        source = template.inputs[0] if template.inputs else None
        if source is not None and _foldable(templates, consumers, position, source):
            assert isinstance(template.operation, ops.BatchNorm)
            new_place[position] = new_place[source]
            kept[new_place[source]] = replace(
                kept[new_place[source]], norm=template.operation, norm_module=template.module
            )
            continue
        new_place[position] = len(kept)
        inputs = tuple(new_place[i] for i in template.inputs)
        kept.append(replace(result[position], inputs=inputs))
    return kept


def _foldable(
    templates: list[Template], consumers: list[list[int]], position: int, source: int
) -> bool:
    before = templates[source].operation
    if not isinstance(templates[position].operation, ops.BatchNorm) or len(consumers[source]) > 1:
        return False
    vector = isinstance(before, ops.Dense) and len(templates[source].shape) == 1
    return vector or isinstance(before, ops.Convolution)


def _named(templates: list[Template]) -> Iterator[Template]:
    """Give each node a unique name: its module's path, its operation where a module has several."""
    paths = [template.module for template in templates]
    seen: dict[str, int] = {}
    for template in templates:
        name = template.module
        operation = template.operation
        if isinstance(operation, ops.Input):
            name = "input"
        elif not name or not _is_leaf(name, paths) or isinstance(operation, ops.Pad):
            name = f"{name}/{operation.kind}" if name else operation.kind
        seen[name] = seen.get(name, 0) + 1
        yield replace(template, name=name if seen[name] == 1 else f"{name}#{seen[name]}")


def _is_leaf(path: str, paths: list[str]) -> bool:
    return not any(other.startswith(path + ".") for other in paths)
