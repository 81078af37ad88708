"""Calls of ATen operations that a graph repeats as they were exported, and where the images lie.

In a graph the images of a batch are always the first dimension. In the network they may be another
one (a transformer's ``(tokens, images, features)``), or one dimension may hold several rows for
each image (windows of a Swin transformer). :class:`Layout` translates between the two.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_unflatten


@dataclass(frozen=True)
class Layout:
    """Where the images are in a tensor of the network.

    Attributes:
        dim: The dimension that holds them.
        times: How many rows of that dimension each image has, side by side.
        before: How often all the images follow one another in it.
    """

    dim: int = 0
    times: int = 1
    before: int = 1

    @property
    def plain(self) -> bool:
        """Whether the tensor is the same in the graph and in the network."""
        return self == Layout()

    def shape(self, sizes: Sequence[int]) -> tuple[int, ...]:
        """Return the shape in the graph, without the batch, of a tensor of the network."""
        rows = tuple(size for size in (self.before, self.times) if size > 1)
        return (*sizes[: self.dim], *rows, *sizes[self.dim + 1 :])

    def in_network(self, x: Tensor) -> Tensor:
        """Return a tensor (N, ...) of the graph as the network has it."""
        if self.plain:
            return x
        place = self.dim + (self.before > 1)
        x = x.movedim(0, place)
        return x.flatten(self.dim, place + (self.times > 1))

    def in_graph(self, y: Tensor, batch: int) -> Tensor:
        """Return a tensor of the network as (N, ...)."""
        if self.plain:
            return y
        y = torch.unflatten(y, self.dim, (self.before, batch, self.times))
        y = y.movedim(self.dim + 1, 0)  # then before and times are side by side
        return y.reshape(
            batch, *self.shape((*y.shape[1 : 1 + self.dim], 1, *y.shape[3 + self.dim :]))
        )


PLAIN = Layout()


# ----------------------------------------------------------- what stands for an argument


@dataclass(frozen=True)
class Parameter:
    """The path of a tensor in the user's module, in the place where the tensor will stand."""

    path: str


@dataclass(frozen=True)
class Signal:
    """An input of the operation, by its number."""

    index: int


@dataclass(frozen=True)
class Rows:
    """A whole number that grows with the batch: so many for each image."""

    times: int


@dataclass(frozen=True, eq=False)
class Repeated:
    """A constant with rows for each image, given for one of them."""

    value: Any
    layout: Layout

    def of(self, batch: int) -> Tensor:
        """Return it for a batch."""
        one: Tensor = self.layout.in_graph(self.value, 1)
        return self.layout.in_network(one.expand(batch, *one.shape[1:]))


@dataclass(frozen=True, eq=False)
class Weight:
    """A constant by which the signal is multiplied; ``layout`` is set if each image has its own."""

    value: Any
    layout: Layout | None = None


@dataclass(frozen=True, eq=False)
class Offset:
    """A constant that stands beside the signal, and is left out of the linear part."""

    value: Any


_HOLDERS = (Repeated, Weight, Offset)


@dataclass(frozen=True, eq=False)
class Call:
    """An ATen operation with its arguments, to be called on signals (N, ...).

    Attributes:
        function: The operation, one that works on nothing in place.
        args: Its arguments, in which ``Signal(i)`` stands for the i-th input.
        kwargs: Its keyword arguments, likewise.
        inputs: Where the images are in each input, as the operation reads it.
        output: Where they are in its output.
        pick: Which of several outputs is meant.
    """

    function: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any] = field(default_factory=dict)
    inputs: tuple[Layout, ...] = (PLAIN,)
    output: Layout = PLAIN
    pick: int | None = None

    @property
    def name(self) -> str:
        """The name of the operation, without its overload."""
        return str(getattr(self.function, "__name__", self.function)).split(".")[0]

    def __call__(self, *signals: Tensor) -> Tensor:
        """Return the output (N, ...) for some inputs (N, ...)."""
        batch = len(signals[0])
        shown = [place.in_network(x) for place, x in zip(self.inputs, signals, strict=True)]

        def argument(leaf: Any) -> Any:
            if isinstance(leaf, Signal):
                return shown[leaf.index]
            if isinstance(leaf, Rows):
                return leaf.times * batch
            if isinstance(leaf, Weight) and leaf.layout is not None:
                return leaf.layout.in_network(leaf.value)
            while isinstance(leaf, (Weight, Offset)):
                leaf = leaf.value
            return leaf.of(batch) if isinstance(leaf, Repeated) else leaf

        changed = self.changed(argument)
        result = self.function(*changed.args, **changed.kwargs)
        return self.output.in_graph(result if self.pick is None else result[self.pick], batch)

    def changed(self, change: Callable[[Any], Any]) -> Call:
        """Return the call with ``change`` applied to every single argument."""
        leaves, form = tree_flatten((self.args, self.kwargs))
        args, kwargs = tree_unflatten([change(leaf) for leaf in leaves], form)
        return replace(self, args=args, kwargs=kwargs)

    def mapped(self, change: Callable[[Any], Any]) -> Call:
        """Return the call with ``change`` applied to every constant, held by something or not."""

        def inner(leaf: Any) -> Any:
            return (
                replace(leaf, value=inner(leaf.value))
                if isinstance(leaf, _HOLDERS)
                else change(leaf)
            )

        return self.changed(inner)

    def weighted(self, function: Callable[[Tensor], Tensor]) -> Call:
        """Return the call with ``function`` applied to its weights and to its offsets."""

        def inner(value: Any) -> Any:
            if isinstance(value, Repeated):
                return replace(value, value=inner(value.value))
            return function(value) if isinstance(value, Tensor) else value

        def mapped(leaf: Any) -> Any:
            held = isinstance(leaf, (Weight, Offset))
            return replace(leaf, value=inner(leaf.value)) if held else leaf

        return self.changed(mapped)

    def has(self, kind: type) -> bool:
        """Whether an argument is of a kind."""
        return any(isinstance(leaf, kind) for leaf in tree_flatten((self.args, self.kwargs))[0])

    def tensor(self) -> Tensor:
        """Return some constant of the call, for its type and device."""
        found: list[Tensor] = []
        self.mapped(lambda leaf: found.append(leaf) if isinstance(leaf, Tensor) else leaf)
        return found[0] if found else torch.zeros(())

    def without_offsets(self) -> Call:
        """Return the linear part: zeros in place of what stands beside the signal."""

        def zero(leaf: Any) -> Any:
            if not isinstance(leaf, Offset):
                return leaf
            value = leaf.value
            if isinstance(value, Repeated):
                return replace(value, value=torch.zeros_like(value.value))
            return torch.zeros_like(value) if isinstance(value, Tensor) else 0.0

        return self.changed(zero)

    def held(self, free: int, signals: tuple[Tensor, ...]) -> Call:
        """Return the call as one of a single input, the others held at their values."""

        def fix(leaf: Any) -> Any:
            if not isinstance(leaf, Signal):
                return leaf
            if leaf.index == free:
                return Signal(0)
            return Weight(signals[leaf.index], self.inputs[leaf.index])

        return replace(self.changed(fix), inputs=(self.inputs[free],))


def functional(function: Any) -> Any:
    """Return the operation that does the same as one that works in place."""
    if not isinstance(function, torch._ops.OpOverload) or not function._schema.is_mutable:
        return function
    space, name = function.namespace, function._schema.name.split("::")[-1].removesuffix("_")
    packet = getattr(getattr(torch.ops, space), name)
    return getattr(packet, function._overloadname)
