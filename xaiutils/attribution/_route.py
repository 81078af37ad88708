"""Where relevance starts and ends, and which channels it may pass: concept relevance."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from xaiutils.attribution._cam import ancestors
from xaiutils.attribution._report import LayerRelevance
from xaiutils.attribution._rules import total_of
from xaiutils.graph import Graph, Node, Shape

Conditions = Mapping[str, Sequence[int] | Tensor]
"""For some layers, by their paths, the channels through which relevance may pass, or a mask."""


@dataclass(frozen=True, eq=False)
class Route:
    """The way of the relevance through a network.

    Attributes:
        start: The position of the node at whose output it starts.
        until: The position of the node at whose output it ends; 0 is the input.
        masks: For some nodes on the way 1 where relevance may pass and 0 elsewhere, (1, K, ...).
        names: How the account calls these conditions.
    """

    start: int
    until: int
    masks: dict[int, Tensor]
    names: dict[int, str]

    def masked(self, index: int, relevance: Tensor) -> Tensor:
        """Return what may pass of the relevance at the output of a node."""
        mask = self.masks.get(index)
        return relevance if mask is None else relevance * mask.to(relevance)

    def gathered(
        self, node: Node, arrived: dict[int, Tensor], count: bool
    ) -> LayerRelevance | None:
        """Let relevance go on from a node alone, by its open channels, and account for the rest.

        Args:
            node: A node with a condition, or the last one.
            arrived: The relevance at the nodes that are still to come. What stands at others than
                ``node`` has gone around it, and is taken out.
            count: Whether to return the account.
        """
        before = list(arrived.values())
        here = arrived.get(node.index)
        arrived.clear()
        if here is not None:
            arrived[node.index] = self.masked(node.index, here)
        if not count or not before:
            return None
        at_output, size = (_total(parts) for parts in (before, [part.abs() for part in before]))
        kept = list(arrived.values())
        at_input = _total(kept) if kept else torch.zeros_like(at_output)
        left = _total([part.abs() for part in kept]) if kept else torch.zeros_like(at_output)
        nothing = torch.zeros_like(at_output)
        return LayerRelevance(
            node.name,
            "condition",
            self.names.get(node.index, "all channels"),
            at_output,
            at_input,
            bias=nothing,
            stabiliser=nothing,
            dead=nothing,
            remainder=nothing,
            excluded=at_output - at_input,
            gain=torch.where(size > 0, left / size, 0.0),
        )


def _total(parts: list[Tensor]) -> Tensor:
    return torch.stack([total_of(part) for part in parts]).sum(0)


def route(
    traced: Graph, start_layer: str | None, until: str | None, conditions: Conditions | None
) -> Route:
    """Return the way from one layer to another, under conditions.

    Raises:
        ValueError: If a layer is unknown, layers do not lie one behind the other, or a channel is
            out of range.
        TypeError: If conditions are no mapping from layers to channels.
    """
    start = traced.nodes[-1] if start_layer is None else traced.find(start_layer)
    end = traced.nodes[0] if until is None else traced.find(until)
    masks, names = dict[int, Tensor](), dict[int, str]()
    for layer, channels in _checked(conditions).items():
        node = traced.find(layer)
        mask = _mask(layer, channels, node.shape)
        masks[node.index] = masks.get(node.index, torch.ones_like(mask)) * mask
        names[node.index] = f"channels {_listed(channels)}"
    stops = (start.index, *sorted(masks, reverse=True), end.index)
    for later, earlier in pairwise(traced.nodes[i] for i in stops):
        if earlier is not later and earlier.index not in ancestors(later, traced):
            raise ValueError(
                f"no relevance goes from {later.name!r} to {earlier.name!r}, which it is not "
                "computed from; name layers one behind the other, between start and end"
            )
    return Route(start.index, end.index, masks, names)


def _checked(conditions: Conditions | None) -> Conditions:
    if conditions is None:
        return {}
    if not isinstance(conditions, Mapping):
        raise TypeError(
            "conditions must map layers to channels, such as {'layer3': [17]}, not "
            f"{type(conditions).__name__}"
        )
    return conditions


def _mask(layer: str, channels: Sequence[int] | Tensor, shape: Shape) -> Tensor:
    """Return 1 in some channels and 0 in the others, (1, K, 1, ...), or a mask as it is given."""
    given = torch.as_tensor(channels)
    if given.dtype == torch.bool:
        try:
            return given.expand(shape)[None].double()
        except RuntimeError:
            raise ValueError(
                f"the mask for {layer!r} is of shape {tuple(given.shape)}, and does not fit its "
                f"output {shape}"
            ) from None
    if given.is_floating_point() or given.ndim != 1 or not len(given):
        raise TypeError(f"the channels of {layer!r} must be a list of integers, not {channels!r}")
    width = math.prod(shape[:1])
    if int(given.min()) < 0 or int(given.max()) >= width:
        raise ValueError(f"the channels of {layer!r} are from 0 to {width - 1}, not {channels!r}")
    mask = torch.zeros(width, dtype=torch.float64).index_fill_(0, given.long().cpu(), 1.0)
    return mask.reshape(1, -1, *[1] * (len(shape) - 1))


def _listed(channels: Sequence[int] | Tensor) -> str:
    masked = isinstance(channels, Tensor) and channels.dtype == torch.bool
    return "of a mask" if masked else str(torch.as_tensor(channels).tolist())
