"""The nodes of a network before they hold its weights, and what is done to the list of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from xaiutils.graph import operations as ops
from xaiutils.graph.calls import Call
from xaiutils.graph.operations import Operation, Shape


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
    """The nodes of a traced module, and what they read besides signals and parameters.

    Attributes:
        templates: The nodes.
        constants: The tensors that its ``forward`` creates.
        recipes: What is computed from parameters and constants alone (a normalised weight, a
            position bias, one over a deviation), by a name of its own, in the order of execution.
            It is computed when the structure is bound to the weights.
        coarsest: The coarsest type of numbers in which the network computes, where it casts.
        registered: Whether it holds operations that somebody registered.
    """

    templates: tuple[Template, ...]
    constants: dict[str, Tensor]
    recipes: dict[str, Call] = field(default_factory=dict)
    coarsest: torch.dtype | None = None
    registered: bool = False


def _consumers(templates: list[Template]) -> list[list[int]]:
    consumers: list[list[int]] = [[] for _ in templates]
    for position, template in enumerate(templates):
        for source in template.inputs:
            consumers[source].append(position)
    return consumers


def pruned(templates: list[Template], output: int) -> list[Template]:
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


def folded(templates: list[Template]) -> list[Template]:
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
    before, norm = templates[source].operation, templates[position].operation
    if not isinstance(norm, ops.BatchNorm) or len(consumers[source]) > 1:
        return False
    vector = isinstance(before, ops.Dense) and norm.after == 0
    return vector or isinstance(before, ops.Convolution)


def named(templates: list[Template]) -> Iterator[Template]:
    """Give each node a unique name: its module's path, its operation where a module has several."""
    containers = _containers(template.module for template in templates)
    seen: dict[str, int] = {}
    for template in templates:
        name = template.module
        operation = template.operation
        if isinstance(operation, ops.Input):
            name = "input"
        elif not name or name in containers or isinstance(operation, ops.Pad):
            name = f"{name}/{operation.kind}" if name else operation.kind
        seen[name] = seen.get(name, 0) + 1
        yield replace(template, name=name if seen[name] == 1 else f"{name}#{seen[name]}")


def _containers(paths: Iterable[str]) -> set[str]:
    """Return the paths of which others are parts."""
    parts = (path.split(".") for path in set(paths))
    return {".".join(names[:i]) for names in parts for i in range(1, len(names))}
