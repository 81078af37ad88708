"""The program of a network in a tenth of the time of ``torch.export``, where it is simple enough.

The network is run once on tensors without numbers (of the ``meta`` device), and every ATen call is
written down, in the same form as ``torch.export`` gives, before PyTorch takes it apart. The batch
is a prime number, so that every size it divides is seen to depend on the batch. Whatever is not
seen for certain is an error here, and the reader asks ``torch.export``: for all that is needed to
name what a network does wrong, and for control flow, changes of views in place, and the like.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor, fx, nn
from torch._dispatch.python import enable_python_dispatcher
from torch._guards import Source
from torch.export.graph_signature import (
    InputKind,
    InputSpec,
    OutputKind,
    OutputSpec,
    TensorArgument,
)
from torch.fx.experimental.proxy_tensor import ProxyTorchDispatchMode
from torch.fx.experimental.symbolic_shapes import DimDynamic, ShapeEnv
from torch.utils._pytree import tree_leaves, tree_map

_BATCH = 997  # a prime number that divides no size in a usual network
_META = torch.device("meta")


class Unclear(Exception):  # noqa: N818 - not an error to its reader
    """What a network does is not seen for certain without its numbers."""


@dataclass
class Signature:
    """What the inputs and outputs of a program are."""

    input_specs: list[InputSpec] = field(default_factory=list)
    output_specs: list[OutputSpec] = field(default_factory=list)


@dataclass
class Program:
    """What a reader needs of an exported program."""

    graph: fx.Graph
    graph_signature: Signature
    constants: dict[str, Tensor]


def recorded(copy: nn.Module, x: Tensor) -> Program:
    """Return the program of a copied network, which returns one tensor, for any size of a batch.

    Raises:
        Unclear: Or any other exception, if the network is not so simple.
    """
    recorder = _Recorder(copy, x)
    start = torch.empty(_BATCH, *x.shape[1:], dtype=x.dtype, device="meta")
    recorder.input(start)
    where = _on_the_way(copy, recorder.path)
    with where, enable_python_dispatcher(), recorder, torch.enable_grad():  # no_grad is seen so
        output = copy(start)
    return recorder.program(output)


@contextmanager
def _on_the_way(copy: nn.Module, path: list[str]) -> Iterator[None]:
    """Keep the path of the module that runs."""
    handles: list[Any] = []
    for name, part in copy.named_modules():
        enter, leave = _entering(path, name), _leaving(path)
        handles.append(part.register_forward_pre_hook(enter, prepend=True))
        handles.append(part.register_forward_hook(leave))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _entering(path: list[str], name: str) -> Callable[..., None]:
    def hook(module: nn.Module, inputs: Any) -> None:
        path.append(name)

    return hook


def _leaving(path: list[str]) -> Callable[..., None]:
    def hook(module: nn.Module, inputs: Any, output: Any) -> None:
        path.pop()

    return hook


class _Recorder(ProxyTorchDispatchMode):  # type: ignore[no-untyped-call]
    """Writes down every ATen call before PyTorch takes it apart."""

    def __init__(self, copy: nn.Module, x: Tensor) -> None:
        super().__init__(cast(Any, None), cast(Any, "fake"), pre_dispatch=True)
        self.device = x.device
        self.names = _names(copy)
        self.path = [""]
        self.graph = fx.Graph()
        self.signature = Signature()
        self.constants: dict[str, Tensor] = {}
        self.nodes: dict[int, fx.Node] = {}
        self.metas: dict[int, Tensor] = {}
        self.made: dict[int, tuple[Any, Tensor]] = {}
        self.kept: list[Any] = []  # an object that is gone would lend its id to another
        self.rows = _symbol()
        self.sizes: dict[int, fx.Node] = {}
        self.described: dict[tuple[torch.Size, torch.dtype], Tensor] = {}

    # -- what is called

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is torch.ops.prim.device.default:
            return func(*args, **kwargs)
        name = func._schema.name.removeprefix("aten::")
        in_place = name.endswith("_") and func._schema.is_mutable
        if torch.is_autocast_enabled(self.device.type):
            raise Unclear("autocast, which changes the types of tensors that have numbers")
        if func.namespace != "aten" or torch.Tag.data_dependent_output in func.tags:
            raise Unclear(f"{func} decides by numbers, or is not of PyTorch")
        if func._schema.is_mutable and not (in_place and len(func._schema.returns) == 1):
            raise Unclear(f"{func} changes its arguments")
        if name == "detach_":
            return args[0]
        if name in ("lift_fresh", "alias") or (name == "detach" and id(args[0]) in self.names):
            return self._same(args[0])
        given = tree_map(self._without_numbers, (args, dict(kwargs)))
        takes_device = any(spec.name == "device" for spec in func._schema.arguments)
        made = takes_device and not any(isinstance(leaf, Tensor) for leaf in tree_leaves(args))
        if made:
            given[1]["device"] = _META
        result = given[0][0] if in_place else _shaped(func, name, *given)
        written = tree_map(self._written, (args, dict(kwargs)))
        node = self._write(func, written, result)
        if not torch.is_grad_enabled() and not in_place and isinstance(result, Tensor):
            detached = self._write(torch.ops.aten.detach.default, ((node,), {}), result)
            self._know(result, detached)
        if in_place:
            self._know(args[0], node)
        if made and isinstance(result, Tensor):
            self.made[_storage(result)] = (node, result)
        return result

    def _same(self, tensor: Tensor) -> Tensor:
        """Return a tensor under which the same numbers go on."""
        node = self._node(tensor)
        again: Tensor = self._without_numbers(tensor).detach()
        self._know(again, node)
        return again

    def _write(self, func: Any, written: Any, result: Any) -> fx.Node:
        node = self.graph.call_function(func, *written)
        path = self.path[-1]
        node.meta = {"val": tree_map(self._symbolic, result), "nn_module_stack": {path: (path, "")}}
        if isinstance(result, Tensor):
            self._know(result, node)
        elif isinstance(result, (tuple, list)):
            for position, part in enumerate(result):
                if isinstance(part, Tensor):
                    pick = self.graph.call_function(operator.getitem, (node, position))
                    pick.meta = {**node.meta, "val": self._symbolic(part)}
                    self._know(part, pick)
        elif result is not None:
            raise Unclear(f"{func} returns a {type(result).__name__}")
        return node

    def _know(self, tensor: Tensor, node: fx.Node) -> None:
        self.nodes[id(tensor)] = node
        self.kept.append(tensor)

    # -- arguments

    def _without_numbers(self, leaf: Any) -> Any:
        """Return what stands for a tensor when shapes are computed."""
        if isinstance(leaf, torch.device):
            return _META
        if not isinstance(leaf, Tensor) or leaf.device.type == "meta":
            return leaf
        if id(leaf) not in self.metas:
            if leaf.layout != torch.strided or type(leaf) not in (Tensor, nn.Parameter):
                raise Unclear(f"a tensor of type {type(leaf).__name__}")
            self.metas[id(leaf)] = torch.empty_strided(
                leaf.shape, leaf.stride(), dtype=leaf.dtype, device="meta"
            )
            self.kept.append(leaf)
        return self.metas[id(leaf)]

    def _written(self, leaf: Any) -> Any:
        """Return how an argument is written down."""
        if isinstance(leaf, Tensor):
            return self._node(leaf)
        if isinstance(leaf, torch.device):
            return self.device if leaf.type == "meta" else leaf
        if isinstance(leaf, (torch.SymInt, torch.SymFloat, torch.SymBool)):
            raise Unclear("a size without a number")
        whole = isinstance(leaf, (int, float)) and not isinstance(leaf, bool) and leaf
        if whole and leaf % _BATCH == 0:
            return self._size(int(leaf) // _BATCH)
        return leaf

    def _node(self, tensor: Tensor) -> fx.Node:
        if id(tensor) in self.nodes:
            return self.nodes[id(tensor)]
        node, same = self.made.get(_storage(tensor), (None, tensor))
        if node is not None and same.shape == tensor.shape and same.stride() == tensor.stride():
            return cast(fx.Node, node)  # PyTorch hands out copies of what it has just made
        if tensor.device.type == "meta":
            raise Unclear("a tensor that came from nowhere")
        node = self._held(tensor)
        self._know(tensor, node)
        return node

    def _held(self, tensor: Tensor) -> fx.Node:
        """Write down a parameter, a buffer or another tensor that the network holds."""
        kind, name = self.names.get(id(tensor), (InputKind.CONSTANT_TENSOR, ""))
        if not name:
            name = f"lifted_tensor_{len(self.constants)}"
            self.constants[name] = tensor
        with self.graph.inserting_before(next(iter(self.graph.nodes))):
            node = self.graph.placeholder(f"p_{name}".replace(".", "_"))
        node.meta = {"val": self._without_numbers(tensor)}
        self.signature.input_specs.insert(0, _input(kind, node, name))
        return node

    # -- sizes

    def _symbolic(self, leaf: Any) -> Any:
        """Return a tensor whose sizes name the batch where they depend on it."""
        if not isinstance(leaf, Tensor):
            return leaf
        key = (leaf.shape, leaf.dtype)
        if key not in self.described:
            sizes = [self.rows * (n // _BATCH) if n and n % _BATCH == 0 else n for n in leaf.shape]
            self.described[key] = torch.empty(sizes, dtype=leaf.dtype, device="meta")
        return self.described[key]

    def _size(self, times: int) -> fx.Node:
        """Return the node of a size that is so many times that of the batch."""
        if times not in self.sizes:
            if times == 1:
                node = self.graph.call_function(torch.ops.aten.sym_size.int, (self.start, 0))
            else:
                node = self.graph.call_function(operator.mul, (self._size(1), times))
            node.meta = {"val": self.rows * times}
            self.sizes[times] = node
        return self.sizes[times]

    # -- ends

    def input(self, x: Tensor) -> None:
        """Write down the input."""
        self.start = self.graph.placeholder("x")
        self.start.meta = {"val": self._symbolic(x)}
        self.signature.input_specs.append(_input(InputKind.USER_INPUT, self.start, None))
        self._know(x, self.start)

    def program(self, output: Any) -> Program:
        """Return what was written down."""
        leaves = [leaf for leaf in tree_leaves(output) if isinstance(leaf, Tensor)]
        if len(leaves) != 1:
            raise Unclear("several outputs")
        node = self._node(leaves[0])
        self.graph.output((node,))
        argument = TensorArgument(name=node.name)
        self.signature.output_specs.append(OutputSpec(OutputKind.USER_OUTPUT, argument, None))
        return Program(self.graph, self.signature, self.constants)


def _shaped(func: Any, name: str, args: Any, kwargs: Any) -> Any:
    """Return what a call returns, without its numbers; where that is plain, without calling it."""
    if name == "relu" or (name == "batch_norm" and args[5] is False):
        return torch.empty_like(args[0])
    return func(*args, **kwargs)


def _storage(tensor: Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)


def _input(kind: InputKind, node: fx.Node, target: str | None) -> InputSpec:
    persistent = True if kind == InputKind.BUFFER else None
    return InputSpec(kind, TensorArgument(name=node.name), target, persistent)


def _names(copy: nn.Module) -> dict[int, tuple[InputKind, str]]:
    """Return the path of each parameter and buffer, by what it is."""
    buffers = {id(t): (InputKind.BUFFER, path) for path, t in copy.named_buffers()}
    return buffers | {id(t): (InputKind.PARAMETER, path) for path, t in copy.named_parameters()}


class _Batch(Source):
    """Where the size of the batch comes from, which PyTorch wants to know of every symbol."""

    @property
    def name(self) -> str:
        return "batch"


def _symbol() -> torch.SymInt:
    """Return a size that stands for that of the batch."""
    made = ShapeEnv().create_unspecified_symint_and_symbol(_BATCH, _Batch(), DimDynamic.DYNAMIC)
    return cast(torch.SymInt, made)
