"""A traced network that runs: forwards, backwards, and forwards again with its gates held fixed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import cached_property, wraps
from typing import ParamSpec, TypeVar
from weakref import ref

import torch
from torch import Tensor

from xaiutils.graph.nonlinear import Nonlinear
from xaiutils.graph.operations import Gate, LinearOperation, Operation, Shape, Switch

_P = ParamSpec("_P")
_R = TypeVar("_R")
GateRule = Callable[["Node", Tensor, "Record"], Tensor]


def undisturbed(function: Callable[_P, _R]) -> Callable[_P, _R]:
    """Let a function run without autograd, autocast and inference mode, whatever is switched on."""

    @wraps(function)
    def run(*arguments: _P.args, **keywords: _P.kwargs) -> _R:
        with torch.inference_mode(False), torch.no_grad(), ExitStack() as stack:
            for device in ("cpu", "cuda"):
                if torch.is_autocast_enabled(device):
                    stack.enter_context(torch.autocast(device, enabled=False))
            return function(*arguments, **keywords)

    return run


@dataclass(frozen=True, eq=False)
class Node:
    """One operation of a network, where it stands, and what it reads.

    Attributes:
        index: Its position in ``Graph.nodes``.
        name: A unique name: the path of its module in the user's network; where one module does
            several things, followed by the operation (``"layer1.0/add"``); ``#2`` for a second use.
        module: The path of the innermost user module that asked for it (``""``: the outermost).
        operation: What it does, with its parameters.
        inputs: The positions of the nodes that it reads.
        shape: The shape of its output, without the batch.
        nonnegative: Whether its output can never be negative.
        folded: The path of the BatchNorm that was folded into it, or None.
    """

    index: int
    name: str
    module: str
    operation: Operation
    inputs: tuple[int, ...]
    shape: Shape
    nonnegative: bool
    folded: str | None = None


@dataclass(eq=False)
class Record:
    """What a forward pass left behind.

    Attributes:
        output: The network's output.
        values: The output of each node that was kept, None for the others.
        indices: The winners of each max pooling, by position of the node.
        memory_format: That of the input: what is returned for it has the same.
    """

    output: Tensor
    values: list[Tensor | None]
    indices: dict[int, Tensor] = field(default_factory=dict)
    memory_format: torch.memory_format = torch.contiguous_format

    def value(self, index: int) -> Tensor:
        """Return the output of a node, which must have been kept."""
        value = self.values[index]
        if value is None:
            raise ValueError(f"the output of node {index} was not kept; record it with keep='all'")
        return value


def gated(node: Node, signal: Tensor, record: Record) -> Tensor:
    """Let a signal through an elementwise gate as the gradient does: times the slope."""
    gate = node.operation
    assert isinstance(gate, Gate)
    if gate.needs_input:
        x = record.value(node.inputs[0])
        return gate.backward(signal, x, x)
    return gate.backward(signal, record.value(node.index))


class Graph:
    """A network as a list of operations, bound to the weights that it had when it was traced.

    Node 0 is the input, the last node the output; every node reads earlier ones. All methods take
    any batch size, and none of them touches the input or the user's module, builds an autograd
    graph, or lets autocast change the type of the numbers.

    Some weights are shared with the user's module. After they were changed in place, by training
    say, all methods raise a ``ValueError``: trace again. (Changes through ``tensor.data``, which
    PyTorch does not count, go unseen.)

    Attributes:
        nodes: The operations in the order of execution.
        consumers: For each node, the positions of the nodes that read it (twice if it reads twice).
    """

    def __init__(self, nodes: Sequence[Node], weights: Sequence[Tensor] = ()) -> None:
        """Connect the nodes, and watch the weights that they were made of."""
        self.nodes = tuple(nodes)
        self._weights = [(ref(weight), version(weight)) for weight in weights]
        consumers: list[list[int]] = [[] for _ in nodes]
        for node in nodes:
            for source in node.inputs:
                consumers[source].append(node.index)
        self.consumers = tuple(tuple(readers) for readers in consumers)

    @property
    def input_shape(self) -> Shape:
        """The shape of the input, without the batch."""
        return self.nodes[0].shape

    @property
    def output_shape(self) -> Shape:
        """The shape of the output, without the batch."""
        return self.nodes[-1].shape

    @cached_property
    def gates(self) -> frozenset[int]:
        """The positions of the elementwise gates."""
        return frozenset(n.index for n in self.nodes if isinstance(n.operation, Gate))

    @cached_property
    def needed(self) -> frozenset[int]:
        """The positions of the nodes whose outputs a backward pass reads."""
        piecewise: set[int] = set()
        measured: set[int] = set()
        for node in self.nodes:
            operation = node.operation
            if isinstance(operation, Gate) and not operation.needs_input:
                piecewise.add(node.index)
            elif isinstance(operation, (Gate, Nonlinear)):
                measured.update(node.inputs)
        return frozenset(piecewise | measured)

    def find(self, layer: str) -> Node:
        """Return the node that computes the output of a module of the user's network.

        Args:
            layer: The path of the module, e.g. ``"features.12"``; a container such as ``"layer4"``
                gives the last operation in it that the network's output depends on: its value is
                what leaves the container, or the last of several values that do. Of a module that
                is used several times this is the last use. The name of a node will do too, if no
                module has that path; ``"relu#1"`` is the first use of ``"relu"``.

        Raises:
            ValueError: If nothing in the graph belongs to that path.
        """
        inside = [
            node
            for node in self.nodes[1:]
            for path in (node.module, node.folded)
            if layer and path is not None and f"{path}.".startswith(f"{layer}.")
        ]
        named = [node for node in self.nodes[1:] if layer in (node.name, f"{node.name}#1")]
        if not inside and not named:
            names = ", ".join(node.name for node in self.nodes[1:])
            raise ValueError(f"no layer {layer!r} in the network; its layers are: {names}")
        return (inside or named)[-1]

    def __call__(self, x: Tensor) -> Tensor:
        """Return the network's output for ``x`` (N, ...), keeping nothing else."""
        return self.record(x, keep=()).output

    @undisturbed
    def record(self, x: Tensor, keep: frozenset[int] | tuple[int, ...] | str = "all") -> Record:
        """Run forwards and remember what a backward pass needs.

        Args:
            x: The input (N, ...).
            keep: The positions of the nodes whose outputs are kept; ``"all"``, or ``"gates"``,
                which is what :meth:`backward` and :meth:`tangent` need: the outputs of gates, and
                what smooth gates, products and the like have read. What is not kept is
                freed as soon as it was read, and may be overwritten by an activation in place.

        Raises:
            ValueError: If ``x`` is not of the shape that the graph is for, or if the weights were
                changed in place since it was traced.
        """
        self.check_weights()
        if tuple(x.shape[1:]) != self.input_shape:
            wanted = ", ".join(map(str, self.input_shape))
            raise ValueError(
                f"the graph is for inputs of shape (N, {wanted}), not {tuple(x.shape)}; "
                "trace the network again for others"
            )
        values: list[Tensor | None] = [None] * len(self.nodes)
        values[0] = fast_format(x)
        record = Record(x, values, memory_format=_memory_format(x))
        self._run(self.nodes[1:], record, self._positions(keep))
        return record

    @undisturbed
    def complete(self, known: Mapping[int, Tensor]) -> Tensor:
        """Return the network's output, given the outputs of some nodes, which are only read.

        Args:
            known: The outputs by position of the node. What follows from them is computed, so that
                every way from the input to the output must pass one of them.
        """
        self.check_weights()
        needed: set[int] = set()
        waiting = [len(self.nodes) - 1]
        while waiting:
            index = waiting.pop()
            if index not in known and index not in needed:
                needed.add(index)
                waiting.extend(self.nodes[index].inputs)
        record = Record(next(iter(known.values())), [known.get(i) for i in range(len(self.nodes))])
        self._run([self.nodes[index] for index in sorted(needed)], record, frozenset(known))
        return record.output

    def check_weights(self) -> None:
        """Refuse to compute with weights that were changed in place since the graph was traced.

        Raises:
            ValueError: If they were.
        """
        for weight, seen in self._weights:
            if (now := weight()) is not None and version(now) != seen:
                raise ValueError(
                    "the network's weights were changed after it was traced, and the graph would be"
                    " a mixture of old and new ones; trace it again"
                )

    def _run(self, nodes: Sequence[Node], record: Record, kept: frozenset[int]) -> None:
        """Compute some nodes one after another; free what was read for the last time."""
        last_use = [max(readers, default=len(self.nodes)) for readers in self.consumers]
        for node in nodes:
            self._step(node, record, kept)
            for source in node.inputs:
                if last_use[source] == node.index and source not in kept:
                    record.values[source] = None
        record.output = record.value(len(self.nodes) - 1)

    def _positions(self, keep: frozenset[int] | tuple[int, ...] | str) -> frozenset[int]:
        if isinstance(keep, str):
            choices = {"all": frozenset(range(len(self.nodes))), "gates": self.needed}
            if keep not in choices:
                raise ValueError(f"keep must be 'all', 'gates' or positions, not {keep!r}")
            return choices[keep]
        return frozenset(keep)

    def _step(self, node: Node, record: Record, kept: frozenset[int]) -> None:
        inputs = [record.value(source) for source in node.inputs]
        operation = node.operation
        if isinstance(operation, Switch):
            record.values[node.index], record.indices[node.index] = operation.choose(inputs[0])
        elif isinstance(operation, Gate) and self._overwritable(node.inputs[0], kept):
            record.values[node.index] = operation.forward_(inputs[0])
        else:
            record.values[node.index] = operation.forward(*inputs)

    def _overwritable(self, index: int, kept: frozenset[int]) -> bool:
        fresh = self.nodes[index].operation.fresh
        return fresh and len(self.consumers[index]) == 1 and index not in kept

    @undisturbed
    def backward(
        self, record: Record, signal: Tensor, gate: GateRule = gated, until: int = 0
    ) -> Tensor:
        """Pass a signal from the output back: with the default gate, the gradient.

        Args:
            record: A forward pass that kept the gates.
            signal: What starts at the output, of its shape.
            gate: What an elementwise gate does to a signal, ``gate(node, signal, record)``. Max
                pooling always sends a signal to the winner, and what is neither linear nor a gate
                (a product, a softmax) multiplies it by its derivative.
            until: The node at whose output to stop; 0 is the input.

        Returns:
            The signal at node ``until``; zeros if none arrives.
        """
        self.check_weights()
        signals: dict[int, Tensor] = {len(self.nodes) - 1: signal}
        for node in reversed(self.nodes[until + 1 :]):
            arriving = signals.pop(node.index, None)
            if arriving is None:
                continue
            leaving = self._back(node, arriving, record, gate)
            for source, part in zip(node.inputs, leaving, strict=True):
                if part is not None:
                    signals[source] = add_signal(signals.get(source), part, node.operation)
        if until not in signals:
            return signal.new_zeros(signal.shape[0], *self.nodes[until].shape)
        found = signals[until]
        images = found.ndim == 4
        return (
            found.contiguous(memory_format=record.memory_format) if images else found.contiguous()
        )

    def _back(
        self, node: Node, signal: Tensor, record: Record, gate: GateRule
    ) -> tuple[Tensor | None, ...]:
        operation = node.operation
        if isinstance(operation, Nonlinear):
            return operation.backward(signal, [record.value(i) for i in node.inputs])
        shapes = [self.nodes[source].shape for source in node.inputs]
        if isinstance(operation, LinearOperation):
            return operation.transpose(signal, shapes)
        if isinstance(operation, Switch):
            return (operation.backward(signal, record.indices[node.index], shapes[0]),)
        return (gate(node, signal, record),)

    @undisturbed
    def tangent(
        self, record: Record, direction: Tensor, gate: GateRule = gated, biases: bool = False
    ) -> Tensor:
        """Pass a change of the input forwards through the network linearised at the record.

        Biases are left out and gates held as they were, so that with the default gate this is the
        directional derivative, and ``<signal, tangent(v)> = <backward(signal), v>`` for every gate
        that multiplies by a fixed factor.

        Args:
            record: A forward pass that kept the gates.
            direction: What starts at the input, of its shape.
            gate: What an elementwise gate does to a signal.
            biases: Whether every linear operation adds its bias after all; a direction of zeros
                then gives what the biases alone contribute to the output.

        Returns:
            The change at the output.
        """
        self.check_weights()
        values: list[Tensor | None] = [None] * len(self.nodes)
        values[0] = direction
        last_use = [max(readers, default=len(self.nodes)) for readers in self.consumers]
        for node in self.nodes[1:]:
            inputs = [v for source in node.inputs if (v := values[source]) is not None]
            operation = node.operation
            if isinstance(operation, LinearOperation):
                run = operation.forward if biases else operation.linear
                values[node.index] = run(*inputs)
            elif isinstance(operation, Switch):
                values[node.index] = operation.pick(inputs[0], record.indices[node.index])
            elif isinstance(operation, Nonlinear):
                values[node.index] = operation.tangent(
                    inputs, [record.value(i) for i in node.inputs]
                )
            else:
                values[node.index] = gate(node, inputs[0], record)
            for source in node.inputs:
                if last_use[source] == node.index:
                    values[source] = None
        change = values[-1]
        assert change is not None
        return change

    def __repr__(self) -> str:
        lines = [
            f"{node.index:4d}  {node.name:40s} {node.operation.kind:18s} "
            f"{node.inputs!s:12s} {node.shape}"
            for node in self.nodes
        ]
        return "\n".join(lines)


def version(tensor: Tensor) -> int:
    """Return how often a tensor was changed in place, 0 if PyTorch does not count it."""
    return 0 if tensor.is_inference() else tensor._version


def _memory_format(x: Tensor) -> torch.memory_format:
    last = x.ndim == 4 and x.is_contiguous(memory_format=torch.channels_last)
    return torch.channels_last if last and not x.is_contiguous() else torch.contiguous_format


def fast_format(x: Tensor) -> Tensor:
    """Return images on a CPU in channels_last, in which convolutions there are much faster."""
    if x.ndim != 4 or x.device.type != "cpu":
        return x
    if x.shape[1] == 1:  # both formats hold it alike; only strides that say so make the faster one
        return x.reshape(len(x), *x.shape[2:], 1).permute(0, 3, 1, 2)
    return x.contiguous(memory_format=torch.channels_last)


def add_signal(present: Tensor | None, part: Tensor, operation: Operation) -> Tensor:
    """Add a signal to what has already arrived, into the new tensor where it is free to use."""
    if present is None:
        return part
    new = isinstance(operation, LinearOperation) and operation.new_transpose
    return part.add_(present) if new else present + part
