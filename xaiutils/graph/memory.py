"""What is kept of a network that was read: its structures, and its graph for the weights it has."""

from __future__ import annotations

import threading
from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from xaiutils.graph.binding import bound_graph
from xaiutils.graph.fingerprint import Mark
from xaiutils.graph.running import Graph
from xaiutils.graph.structure import Structure
from xaiutils.graph.weights import state_of, tensors_of

_STRUCTURES = 8  # for each network: so many image sizes, types and choices of an output
_lock = threading.Lock()


@dataclass(frozen=True, eq=False)
class Bound:
    """A graph, and the weights that it was bound to.

    Attributes:
        structure: What was bound.
        state: What the weights were then.
        graph: The result. It holds tensors, never the network's modules: weights in a format or
            scale of its own, and views of the others.
    """

    structure: Structure
    state: Hashable
    graph: Graph

    @classmethod
    def now(cls, structure: Structure, model: nn.Module) -> Bound:
        """Bind a structure to the weights that the network has now."""
        state = _state(structure, model)  # first: what changes meanwhile is then seen next time
        return cls(structure, state, bound_graph(structure, model))

    def holds_for(self, model: nn.Module) -> bool:
        """Whether the network's weights are still the same."""
        return self.state == _state(self.structure, model)


def _state(structure: Structure, model: nn.Module) -> Hashable:
    return state_of(tensors_of(model, structure.constants.values()))


@dataclass(eq=False)
class Memory:
    """What was traced of a network, and the fingerprint that it had then.

    Attributes:
        mark: The fingerprint, without what ``forward`` itself changes.
        written: The attributes that ``forward`` itself changes, by module and name.
        structures: What was traced, by what it is good for; the most recently used one is last.
        bound: The graph that was used last; one for each network, as it may need as much memory as
            the network's convolutions.
    """

    mark: Mark
    written: frozenset[tuple[str, str]] = frozenset()
    structures: dict[Any, Structure] = field(default_factory=dict)
    bound: Bound | None = None

    def holds_for(self, mark: Mark) -> bool:
        """Whether a network with this fingerprint is still the one that was traced."""
        return _without(mark, self.written) == self.mark

    def recall(self, key: Any) -> Structure | None:
        """Return a structure, which becomes the most recently used one."""
        with _lock:
            structure: Structure | None = self.structures.pop(key, None)
            if structure is not None:
                self.structures[key] = structure
        return structure

    def keep(self, key: Any, bound: Bound, written: frozenset[tuple[str, str]]) -> None:
        """Keep what was traced, and forget what was not used for longest."""
        with _lock:
            self.written |= written
            self.mark = _without(self.mark, self.written)
            self.bound = bound
            self.structures[key] = bound.structure
            while len(self.structures) > _STRUCTURES:
                self.structures.pop(next(iter(self.structures)))


def _without(mark: Mark, written: frozenset[tuple[str, str]]) -> Mark:
    return {key: value for key, value in mark.items() if key not in written} if written else mark
