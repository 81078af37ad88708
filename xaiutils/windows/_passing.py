"""A forward pass that hands over some outputs as they come, and holds none of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import Tensor

from xaiutils import graph
from xaiutils.graph.running import Graph, Node, fast_format


def hand_over(network: Graph, x: Tensor, takers: Mapping[int, Callable[[Tensor], object]]) -> None:
    """Run inputs (B, ...) as far as the last output that somebody takes.

    Args:
        network: The network.
        x: The inputs.
        takers: Who takes the output of a node, by position. It must be copied: it is let go, or
            overwritten, as soon as nothing after it reads it. They are called in the caller's mode,
            in which their memory was reserved: nobody else may write into what inference mode made.
    """
    network.check_weights()
    values = {0: graph.undisturbed(fast_format)(x)}
    for node in network.nodes[: max(takers, default=0) + 1]:
        if node.index:
            values[node.index] = _computed(network, node, values)
        if node.index in takers:
            takers[node.index](values[node.index])
        for read in {node.index, *node.inputs}:
            if max(network.consumers[read], default=0) <= node.index:
                del values[read]


@graph.undisturbed
def _computed(network: Graph, node: Node, values: Mapping[int, Tensor]) -> Tensor:
    first, operation = network.nodes[node.inputs[0]], node.operation
    alone = first.operation.fresh and len(network.consumers[first.index]) == 1
    if alone and isinstance(operation, graph.Gate):
        return operation.forward_(values[first.index])
    return operation.forward(*(values[source] for source in node.inputs))
