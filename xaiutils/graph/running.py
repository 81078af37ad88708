"""A traced network that runs: forwards, backwards, and forwards again with its gates held fixed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import torch
from torch import Tensor, nn

from xaiutils.graph import operations as ops
from xaiutils.graph.errors import check_input, check_model
from xaiutils.graph.operations import Gate, LinearOperation, Operation, Shape, Switch
from xaiutils.graph.tracing import Structure, Template, structure_of

GateRule = Callable[["Node", Tensor, "Record"], Tensor]


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
    assert isinstance(node.operation, Gate)
    return node.operation.backward(signal, record.value(node.index))


class Graph:
    """A network as a list of operations, bound to the weights that it had when it was traced.

    Node 0 is the input, the last node the output; every node reads earlier ones. All methods take
    any batch size, and none of them touches the user's module or builds an autograd graph.

    Attributes:
        nodes: The operations in the order of execution.
        consumers: For each node, the positions of the nodes that read it (twice if it reads twice).
    """

    def __init__(self, nodes: Sequence[Node]) -> None:
        self.nodes = tuple(nodes)
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

    def find(self, layer: str) -> Node:
        """Return the node that computes the output of a module of the user's network.

        Args:
            layer: The path of the module, e.g. ``"features.12"``; a container such as ``"layer4"``
                gives the last operation in it. A unique node name works too. Of a module that is
                used several times this is the last use.

        Raises:
            ValueError: If nothing in the graph belongs to that path.
        """
        for node in self.nodes:
            if node.name == layer and node.index:
                return node
        inside = [
            node
            for node in self.nodes[1:]
            for path in (node.module, node.folded)
            if path is not None and (path == layer or path.startswith(f"{layer}."))
        ]
        if not inside or not layer:
            names = ", ".join(node.name for node in self.nodes[1:])
            raise ValueError(f"no layer {layer!r} in the network; its layers are: {names}")
        return inside[-1]

    def __call__(self, x: Tensor) -> Tensor:
        """Return the network's output for ``x`` (N, ...), keeping nothing else."""
        return self.record(x, keep=()).output

    @torch.no_grad()
    def record(self, x: Tensor, keep: frozenset[int] | tuple[int, ...] | str = "all") -> Record:
        """Run forwards and remember what a backward pass needs.

        Args:
            x: The input (N, ...).
            keep: The positions of the nodes whose outputs are kept; ``"all"``, or ``"gates"``,
                which is what :meth:`backward` and :meth:`tangent` need. What is not kept is
                freed as soon as it was read, and may be overwritten by an activation in place.
        """
        values: list[Tensor | None] = [None] * len(self.nodes)
        values[0] = _fast_format(x)
        record = Record(x, values, memory_format=_memory_format(x))
        self._run(self.nodes[1:], record, self._positions(keep))
        return record

    @torch.no_grad()
    def complete(self, known: Mapping[int, Tensor]) -> Tensor:
        """Return the network's output, given the outputs of some nodes, which are only read.

        Args:
            known: The outputs by position of the node. What follows from them is computed, so that
                every way from the input to the output must pass one of them.
        """
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
            choices = {"all": frozenset(range(len(self.nodes))), "gates": self.gates}
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

    @torch.no_grad()
    def backward(
        self, record: Record, signal: Tensor, gate: GateRule = gated, until: int = 0
    ) -> Tensor:
        """Pass a signal from the output back: with the default gate, the gradient.

        Args:
            record: A forward pass that kept the gates.
            signal: What starts at the output, of its shape.
            gate: What an elementwise gate does to a signal, ``gate(node, signal, record)``. Max
                pooling always sends a signal to the winner.
            until: The node at whose output to stop; 0 is the input.

        Returns:
            The signal at node ``until``; zeros if none arrives.
        """
        signals: dict[int, Tensor] = {len(self.nodes) - 1: signal}
        for node in reversed(self.nodes[until + 1 :]):
            arriving = signals.pop(node.index, None)
            if arriving is None:
                continue
            leaving = self._back(node, arriving, record, gate)
            for source, part in zip(node.inputs, leaving, strict=True):
                signals[source] = add_signal(signals.get(source), part, node.operation)
        if until not in signals:
            return signal.new_zeros(signal.shape[0], *self.nodes[until].shape)
        return signals[until].contiguous(memory_format=record.memory_format)

    def _back(
        self, node: Node, signal: Tensor, record: Record, gate: GateRule
    ) -> tuple[Tensor, ...]:
        operation = node.operation
        shapes = [self.nodes[source].shape for source in node.inputs]
        if isinstance(operation, LinearOperation):
            return operation.transpose(signal, shapes)
        if isinstance(operation, Switch):
            return (operation.backward(signal, record.indices[node.index], shapes[0]),)
        return (gate(node, signal, record),)

    @torch.no_grad()
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


def _memory_format(x: Tensor) -> torch.memory_format:
    last = x.ndim == 4 and x.is_contiguous(memory_format=torch.channels_last)
    return torch.channels_last if last and not x.is_contiguous() else torch.contiguous_format


def _fast_format(x: Tensor) -> Tensor:
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


# ------------------------------------------------------------------------------------ tracing


def trace(model: nn.Module, example: Tensor, fold: bool = True) -> Graph:
    """Read a network into a graph of linear and gating operations.

    The structure is traced once for each input shape and kept for as long as the model lives (it is
    traced anew when a module or one of its plain attributes changes). The weights are read
    at every call: call again after changing them, it costs little.

    Args:
        model: Any module in evaluation mode that takes one tensor (N, ...) and returns one, made of
            convolutions (transposed ones too), linear layers, BatchNorm, ReLU, ReLU6 and other
            clamps, leaky ReLU, pooling, upsampling, additions, concatenations and reshapes. It is
            only read.
        example: An input. The graph is for inputs of its shape, with any batch size.
        fold: Whether a BatchNorm that follows a convolution or a linear layer directly becomes part
            of it. The function computed is the same.

    Raises:
        TypeError: If the model is no module, or the input no floating-point tensor of its type.
        ValueError: If a part of the model is in training mode, or the input is not a finite batch.
        UnsupportedOperation: If the network does something else; it names what, and where.
        TraceError: If the network cannot run on such an input.
    """
    check_model(model)
    check_input(model, example)
    return Graph(_bind(structure_of(model, example, fold), model))


@torch.no_grad()
def _bind(structure: Structure, model: nn.Module) -> list[Node]:
    """Put the tensors of the model into the templates."""
    tensors = {
        **structure.constants,
        **dict(model.named_buffers(remove_duplicate=False)),
        **dict(model.named_parameters(remove_duplicate=False)),
    }
    nodes: list[Node] = []
    for index, template in enumerate(structure.templates):
        operation = _bound(template, lambda path: tensors[path].detach())
        nodes.append(
            Node(
                index,
                template.name,
                template.module,
                operation,
                template.inputs,
                template.shape,
                _nonnegative(operation, [nodes[i] for i in template.inputs]),
                template.norm_module,
            )
        )
    return nodes


def _bound(template: Template, lookup: Callable[[str], Tensor]) -> Operation:
    operation = ops.resolve(template.operation, lookup)
    if isinstance(operation, ops.Convolution):
        operation = replace(operation, weight=_fast_format(operation.weight))
    if isinstance(operation, ops.BatchNorm):
        return operation.as_affine(len(template.shape) - 1)
    if template.norm is not None:
        norm = ops.resolve(template.norm, lookup)
        assert isinstance(norm, ops.BatchNorm)
        assert isinstance(operation, (ops.Convolution, ops.Dense))
        return operation.followed_by(*norm.scale_and_shift())
    return operation


def _nonnegative(operation: Operation, inputs: list[Node]) -> bool:
    if isinstance(operation, ops.ReLU):
        return True
    if isinstance(operation, ops.Clamp) and operation.low >= 0:
        return True
    return bool(inputs) and operation.keeps_sign() and all(node.nonnegative for node in inputs)
