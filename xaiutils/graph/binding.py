"""Put the tensors of a network into the structure that was traced of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from xaiutils.graph import operations as ops
from xaiutils.graph.calls import Call, Parameter, Repeated, Rows
from xaiutils.graph.operations import Operation
from xaiutils.graph.running import Graph, Node, fast_format, undisturbed
from xaiutils.graph.structure import Structure, Template


@undisturbed
def bound_graph(structure: Structure, model: nn.Module) -> Graph:
    """Put the tensors of the model into the templates."""
    tensors = {
        **structure.constants,
        **dict(model.named_buffers(remove_duplicate=False)),
        **dict(model.named_parameters(remove_duplicate=False)),
    }
    used: dict[str, Tensor] = {}
    computed: dict[str, Any] = {}

    def lookup(path: str) -> Any:
        if path in tensors:
            used[path] = tensors[path]
            return tensors[path].detach()
        if path not in computed:
            computed[path] = _computed(structure.recipes[path], lookup)
        return computed[path]

    nodes: list[Node] = []
    for index, template in enumerate(structure.templates):
        operation = _bound(template, lookup)
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
    return Graph(nodes, list(used.values()))


def _computed(recipe: Call, lookup: Callable[[str], Any]) -> Any:
    """Compute what does not depend on the input; for one image, if it has rows for each."""

    def argument(leaf: Any) -> Any:
        if isinstance(leaf, Rows):
            return leaf.times
        while isinstance(leaf, Repeated):
            leaf = leaf.value
        return lookup(leaf.path) if isinstance(leaf, Parameter) else leaf

    call = recipe.changed(argument)
    result = call.function(*call.args, **call.kwargs)
    return result if call.pick is None else result[call.pick]


def _bound(template: Template, lookup: Callable[[str], Tensor]) -> Operation:
    operation = ops.resolve(template.operation, lookup)
    if isinstance(operation, ops.Convolution):
        operation = replace(operation, weight=fast_format(operation.weight))
    if isinstance(operation, ops.BatchNorm):
        return operation.as_affine()
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
