"""Which rule applies to which layer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from torch import nn

from xaiutils.attribution._rules import AlphaBeta, Epsilon, Flat, Gamma, Rule, ZBox, ZPlus
from xaiutils.graph import (
    Affine,
    Concatenate,
    Convolution,
    Dense,
    Graph,
    LinearOperation,
    Node,
    Pad,
    Rearrange,
    Reshape,
)

Key = str | int | type
"""A layer: its path in the user's module, a type (of module or operation), or its position.

Positions count the convolutions and linear layers in the order of execution, from 0; negative ones
count from the end.
"""


@dataclass(frozen=True)
class Composite:
    """A rule for each kind of layer.

    Attributes:
        convolution: For convolutions, transposed ones included.
        dense: For fully connected layers.
        first: For the convolutions and linear layers that read the network's input, if different.
        affine: For a scale and shift of its own: a BatchNorm that no convolution precedes.
        other: For additions, average pooling, upsampling.
        overrides: Rules for single layers, which take precedence: see ``Key``. A position
            counts more than a path, and a path more than a type.
    """

    convolution: Rule
    dense: Rule
    first: Rule | None = None
    affine: Rule = field(default_factory=Epsilon)
    other: Rule = field(default_factory=Epsilon)
    overrides: tuple[tuple[Key, Rule], ...] = ()

    def override(self, rules: Mapping[Key, Rule]) -> Composite:
        """Return this composite with other rules for some layers."""
        return replace(self, overrides=(*self.overrides, *rules.items()))


COMPOSITES: dict[str, Composite] = {
    "epsilon": Composite(Epsilon(), Epsilon()),
    "z_plus": Composite(ZPlus(), ZPlus(), affine=ZPlus(), other=ZPlus()),
    "gamma": Composite(Gamma(), Gamma(), affine=Gamma(), other=Gamma()),
    "alpha2_beta1": Composite(AlphaBeta(), AlphaBeta(), affine=ZPlus(), other=ZPlus()),
    "epsilon_plus": Composite(ZPlus(), Epsilon(), affine=ZPlus(), other=ZPlus()),
    "epsilon_plus_flat": Composite(ZPlus(), Epsilon(), first=Flat(), affine=ZPlus(), other=ZPlus()),
    "epsilon_gamma_box": Composite(Gamma(), Epsilon(), first=ZBox(), affine=Gamma(), other=Gamma()),
    "alpha2_beta1_flat": Composite(
        AlphaBeta(), AlphaBeta(), first=Flat(), affine=ZPlus(), other=ZPlus()
    ),
}
"""The named composites; each can be changed layer by layer with :meth:`Composite.override`."""


def as_composite(composite: str | Composite | Mapping[Key, Rule]) -> Composite:
    """Return a composite from its name, itself, or rules for some layers (the rest: epsilon).

    Raises:
        ValueError: If there is no composite of that name.
        TypeError: If a rule is no rule.
    """
    if isinstance(composite, str):
        if composite not in COMPOSITES:
            raise ValueError(f"no composite {composite!r}; there are {', '.join(COMPOSITES)}")
        return COMPOSITES[composite]
    if isinstance(composite, Composite):
        return composite
    for key, rule in composite.items():
        if not isinstance(rule, Rule):
            raise TypeError(f"the rule for {key!r} must be an instance of a rule, not {rule!r}")
    return COMPOSITES["epsilon"].override(composite)


def assign(composite: Composite, traced: Graph, model: nn.Module) -> dict[int, Rule]:
    """Return the rule of every linear operation that has something to decide.

    Raises:
        ValueError: If an override fits no layer.
    """
    rules = {node.index: _default(composite, node, traced) for node in _deciding(traced)}
    for kind in (type, str, int):  # the most specific last
        for key, rule in composite.overrides:
            if not isinstance(key, kind):
                continue
            matches = _matches(key, traced, model)
            if not matches:
                raise ValueError(f"the rule for {key!r} fits no layer of the network")
            rules.update(dict.fromkeys(matches, rule))
    return rules


def _deciding(traced: Graph) -> list[Node]:
    return [
        node
        for node in traced.nodes
        if isinstance(node.operation, LinearOperation) and not node.operation.routing
    ]


def _weighted(traced: Graph) -> list[Node]:
    return [node for node in traced.nodes if isinstance(node.operation, (Convolution, Dense))]


def _default(composite: Composite, node: Node, traced: Graph) -> Rule:
    operation = node.operation
    if isinstance(operation, (Convolution, Dense)):
        if composite.first is not None and _reads_input(node, traced):
            return composite.first
        return composite.convolution if isinstance(operation, Convolution) else composite.dense
    return composite.affine if isinstance(operation, Affine) else composite.other


def _reads_input(node: Node, traced: Graph) -> bool:
    """Whether nothing but copying and rescaling lies between the network's input and a node."""
    return all(
        source == 0
        or (
            isinstance(
                traced.nodes[source].operation, (Affine, Concatenate, Pad, Rearrange, Reshape)
            )
            and _reads_input(traced.nodes[source], traced)
        )
        for source in node.inputs
    )


def _matches(key: Key, traced: Graph, model: nn.Module) -> list[int]:
    if isinstance(key, int):
        weighted = _weighted(traced)
        return [weighted[key].index] if -len(weighted) <= key < len(weighted) else []
    if isinstance(key, str):
        return [n.index for n in _deciding(traced) if _below(n.name, key) or _below(n.module, key)]
    modules = {path for path, part in model.named_modules() if isinstance(part, key)}
    return [
        n.index for n in _deciding(traced) if isinstance(n.operation, key) or n.module in modules
    ]


def _below(path: str, layer: str) -> bool:
    return path == layer or path.startswith((f"{layer}.", f"{layer}/", f"{layer}#"))
