"""Put the tensors of a network into the structure that was traced of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from torch import Tensor, nn

from xaiutils.graph import operations as ops
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

    def lookup(path: str) -> Tensor:
        used[path] = tensors[path]
        return tensors[path].detach()

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


def _bound(template: Template, lookup: Callable[[str], Tensor]) -> Operation:
    operation = ops.resolve(template.operation, lookup)
    if isinstance(operation, ops.Convolution):
        operation = replace(operation, weight=fast_format(operation.weight))
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
