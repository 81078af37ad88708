"""What the translation of an exported program collects, and one call of it as a handler sees it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import Any, cast

import torch
from torch import Tensor, fx, nn
from torch.utils._pytree import tree_map

from xaiutils.graph.calls import PLAIN, Call, Layout, Parameter, Repeated, Signal, functional
from xaiutils.graph.errors import UnsupportedOperation
from xaiutils.graph.operations import Operation, Shape
from xaiutils.graph.structure import Template

_CONSTANTS = (Parameter, Repeated)


@dataclass(frozen=True, eq=False)
class Bordered:
    """A signal in a border of minus infinity, which only max pooling can read."""

    source: int
    widths: tuple[int, ...]


class Collection:
    """The nodes of a network, collected call by call.

    Attributes:
        templates: The nodes so far.
        layouts: Where the images are, in the network, in the output of each of them.
        values: What each value of the program has become: the position of a node, a constant
            (:class:`Parameter`, :class:`Repeated`), a number of rows, or a tuple of such.
        constants: The tensors that the network's ``forward`` creates.
        recipes: How to compute the other constants.
        coarsest: The coarsest type of numbers in which the network computes.
        registered: Whether an operation was translated as somebody said who registered it.
    """

    def __init__(self, model: nn.Module, x: Tensor) -> None:
        """Prepare for a network that reads inputs like ``x``."""
        self.model = model
        self.x = x
        self.templates: list[Template] = []
        self.layouts: list[Layout] = []
        self.values: dict[fx.Node, Any] = {}
        self.constants: dict[str, Tensor] = {}
        self.recipes: dict[str, Call] = {}
        self.batch: Any = None
        self.coarsest = x.dtype
        self.registered = False

    def lookup(self, argument: Any) -> Any:
        """Return what a node of the exported program stands for, anything else as it is."""
        return self.values[argument] if isinstance(argument, fx.Node) else argument

    def note_type(self, dtype: torch.dtype) -> None:
        """Note that the network computes something in a type of numbers, coarser ones only."""
        if torch.finfo(dtype).eps > torch.finfo(self.coarsest).eps:
            self.coarsest = dtype

    def append(
        self,
        node: fx.Node,
        operation: Operation,
        inputs: tuple[int, ...],
        shape: Shape,
        layout: Layout = PLAIN,
    ) -> int:
        """Add a node and return its position."""
        self.check_draws(node)
        self.templates.append(Template("", _module_path(node), operation, inputs, shape))
        self.layouts.append(layout)
        return len(self.templates) - 1

    def placed(self, value: Any, asked: Asked) -> tuple[Shape, Layout]:
        """Return the shape that a value has in the graph, without the batch, and its layout.

        How often all images follow one another is as it was in what the call reads.
        """
        dim, rows = self.images(value, asked)
        before = max((self.layouts[source].before for source in asked.sources()), default=1)
        if rows % before:
            raise asked.unsupported("it moves or mixes the images of a batch")
        layout = Layout(dim, rows // before, before)
        return layout.shape(tuple(value.shape)), layout

    def images(self, value: Any, asked: Asked) -> tuple[int, int]:
        """Return the dimension that grows with the batch, and how many rows of it an image has."""
        sizes = tuple(value.shape)
        grows = [dim for dim, size in enumerate(sizes) if self.symbolic(size)]
        if not grows:
            raise asked.unsupported("it moves or mixes the images of a batch")
        rows = self.per_image(sizes[grows[0]])
        if len(grows) > 1 or rows is None:
            raise asked.unsupported("the shape of its output depends on the batch size")
        return grows[0], rows

    @staticmethod
    def symbolic(size: Any) -> bool:
        """Whether a size depends on that of the batch."""
        return isinstance(size, torch.SymInt)

    def check_draws(self, node: fx.Node) -> None:
        """Refuse what draws at random."""
        tags = getattr(node.target, "tags", ())
        harmless = name_of(node).endswith("dropout") or name_of(node).startswith("scaled_dot")
        at_rest = arguments_of(node).get("train") is False  # a recurrent layer, between training
        if torch.Tag.nondeterministic_seeded in tags and not (harmless or at_rest):
            raise self.unsupported(node, "it draws at random")

    def unsupported(self, node: fx.Node, reason: str) -> UnsupportedOperation:
        """Return an error that says what is not supported, where, and why."""
        trace = (node.meta.get("stack_trace") or "").strip().split("\n")
        code = trace[-1].strip() if trace[-1] else ""
        line = next((t.strip() for t in reversed(trace) if t.lstrip().startswith("File ")), "")
        place = ", ".join(part for part in (code, _line(line)) if part)
        where = _module_path(node) or type(self.model).__name__
        return UnsupportedOperation(
            f"cannot handle {node.target} in {where!r}"
            + (f" ({place})" if place else "")
            + f": {reason}"
        )

    def per_image(self, size: Any) -> int | None:
        """Return how many rows a symbolic size has for each image; None if it is no such number."""
        if not isinstance(size, torch.SymInt):
            return None
        times = size.node.expr / self.batch.node.expr
        return int(times) if times.is_Integer else None

    def derived(self, name: str, recipe: Call) -> Parameter:
        """Return something that is computed from parameters and constants alone."""
        path = f"/{name}"
        self.recipes[path] = recipe
        return Parameter(path)

    def constant(self, value: float) -> Tensor:
        """Return a number as a tensor of the input's type."""
        return torch.tensor(value, dtype=self.x.dtype, device=self.x.device)


@dataclass(frozen=True)
class Asked:
    """One ATen call of the network, its arguments by name (defaults included), and those read."""

    tracer: Collection
    node: fx.Node
    arguments: dict[str, Any]
    read: set[str] = field(default_factory=set)

    # -- arguments

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

    def is_signal(self, name: str) -> bool:
        """Whether an argument is computed from the network's input."""
        return isinstance(self.raw(name), fx.Node) and isinstance(self[name], int)

    def is_floating(self, source: fx.Node) -> bool:
        """Whether what the call reads is a constant, or a signal of real numbers."""
        if not isinstance(self.tracer.values[source], int):
            return True
        return bool(source.meta["val"].dtype.is_floating_point)

    def value(self, name: str) -> int:
        """Return the position of an argument that must be computed from the network's input."""
        found = self[name]
        if isinstance(found, Bordered):
            raise self.unsupported("it reads a border of minus infinity")
        if not self.is_signal(name):
            raise self.unsupported("its input does not depend on the network's input")
        return cast(int, found)

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

    # -- shapes

    def first(self) -> Any:
        """Return the (first) output of the call, as the program describes it."""
        value = self.node.meta["val"]
        return value[0] if isinstance(value, (tuple, list)) else value

    def shape(self) -> Shape:
        """Return the shape of the output without the batch."""
        return self.tracer.placed(self.first(), self)[0]

    def rank(self, name: str = "self") -> int:
        """Return how many dimensions an argument has in the network, the batch included."""
        return len(self.raw(name).meta["val"].shape)

    def layout(self, name: str) -> Layout:
        """Return where the images are in a signal."""
        return self.tracer.layouts[self.value(name)]

    @property
    def plain(self) -> bool:
        """Whether the images come first in all signals that the call reads and returns."""
        read = [self.tracer.values[source] for source in self.node.all_input_nodes]
        layouts = [self.tracer.layouts[value] for value in read if isinstance(value, int)]
        return all(layout.plain for layout in [*layouts, self.tracer.placed(self.first(), self)[1]])

    # -- results

    def add(self, operation: Operation, *inputs: int) -> int:
        """Append a node whose output has the shape that this call returns."""
        shape, layout = self.tracer.placed(self.first(), self)
        return self.tracer.append(self.node, operation, inputs, shape, layout)

    def derived(self, what: str, function: Callable[..., Any], *args: Any) -> Parameter:
        """Return something computed from parameters, anew whenever the weights are bound."""
        return self.tracer.derived(f"{self.node.name}.{what}", Call(function, args))

    def sources(self) -> tuple[int, ...]:
        """Return the positions of the signals that the call reads, in order, each once."""
        return tuple(
            dict.fromkeys(
                value
                for source in self.node.all_input_nodes
                if isinstance(value := self.tracer.values[source], int)
            )
        )

    def as_call(
        self,
        hold: Callable[[str, Any], Any] = lambda name, constant: constant,
        pick: int | None = None,
    ) -> Call:
        """Return the call as it is, for an operation that repeats it.

        Args:
            hold: What becomes of a constant in an argument of some name.
            pick: Which of several outputs is meant.
        """
        self.implied()
        sources = self.sources()
        function = functional(self.node.target)

        def argument(name: str) -> Callable[[Any], Any]:
            def leaf(value: Any) -> Any:
                found = self.tracer.lookup(value)
                if isinstance(value, fx.Node) and isinstance(found, int):
                    return Signal(sources.index(found))
                if isinstance(found, _CONSTANTS) or (isinstance(found, float) and name):
                    return hold(name, found)
                if isinstance(found, Bordered):
                    raise self.unsupported("it reads a border of minus infinity")
                return found

            return leaf

        names = [spec.name for spec in _schema(self.node)]
        given = zip(names, self.node.args, strict=False)
        args = tuple(tree_map(argument(name), value) for name, value in given)
        kwargs = {k: tree_map(argument(k), v) for k, v in self.node.kwargs.items()}
        value = self.node.meta["val"]
        one = value if pick is None else value[pick]
        return Call(
            function,
            args,
            kwargs,
            tuple(self.tracer.layouts[source] for source in sources),
            self.tracer.placed(one, self)[1],
            pick,
        )

    def unsupported(self, reason: str) -> UnsupportedOperation:
        """Return an error that says what is not supported, where, and why."""
        return self.tracer.unsupported(self.node, reason)


def _line(where: str) -> str:
    """Return the file and the line out of a line of a stack trace."""
    if '"' not in where or ", line " not in where:
        return ""
    number = where.split(", line ")[1].split(",")[0]
    file = PurePath(where.split('"')[1].replace("\\", "/")).name
    cell = file.startswith("<") or file.removesuffix(".py").isdigit()  # as IPython names them
    return f"a notebook cell, line {number}" if cell else f"{file}:{number}"


def _schema(node: fx.Node) -> Sequence[Any]:
    if not isinstance(node.target, torch._ops.OpOverload):
        return ()
    return node.target._schema.arguments


def arguments_of(node: fx.Node) -> dict[str, Any]:
    """Return the arguments of an ATen call by name, defaults included."""
    positional = {spec.name: v for spec, v in zip(_schema(node), node.args, strict=False)}
    return {**_defaults(node), **positional, **node.kwargs}


def _defaults(node: fx.Node) -> dict[str, Any]:
    return {spec.name: spec.default_value for spec in _schema(node) if spec.has_default_value()}


def key_of(name: str) -> str:
    """Return the name of an operation by its schema: the space is left out where it is ATen's."""
    return name.removeprefix("aten::").removesuffix("_") if not name.endswith("__") else name


def name_of(node: fx.Node) -> str:
    """Return the name of an operation, without its overload and the mark of an in-place call."""
    name = str(getattr(node.target, "__name__", node.target)).split(".")[0]
    return name.removesuffix("_") if not name.endswith("__") else name


def _module_path(node: fx.Node) -> str:
    stack = list((node.meta.get("nn_module_stack") or {}).values())
    return stack[-1][0].split("@")[0] if stack else ""
