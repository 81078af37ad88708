"""Which rule applies to which layer."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from torch import nn

from xaiutils.attribution._common import Named
from xaiutils.attribution._nonlinear_rules import (
    Half,
    Held,
    NonlinearRule,
    SignalTakesAll,
    Taylor,
)
from xaiutils.attribution._rules import AlphaBeta, Epsilon, Flat, Gamma, Rule, ZBox, ZPlus
from xaiutils.graph import (
    Affine,
    Convolution,
    Dense,
    Graph,
    LinearCall,
    LinearOperation,
    MatrixProduct,
    Node,
    Nonlinear,
    Normalisation,
    Operation,
    Pad,
    Product,
    Softmax,
)

AnyRule = Rule | NonlinearRule

Key = str | int | type
"""A layer: its path in the user's module, a type (of module or operation), or its position.

A container's path stands for all layers in it, and so does its type. Positions count the
convolutions and linear layers in the order of execution, from 0; negative ones count from the end.
"""


def _check_rule(name: str, found: object) -> None:
    if not isinstance(found, (Rule, NonlinearRule)):
        cure = f"; write {found.__name__}()" if isinstance(found, type) else ", such as ZPlus()"
        raise TypeError(f"{name} must be an instance of a rule, not {found!r}{cure}")


def _check_nonlinear(name: str, found: object) -> None:
    if not isinstance(found, NonlinearRule):
        cure = f"; Held({found!r}) holds what makes it nonlinear" if isinstance(found, Rule) else ""
        raise TypeError(f"{name} must be a rule such as Taylor(), not {found!r}{cure}")


@dataclass(frozen=True)
class Composite:
    """A rule for each kind of layer.

    Attributes:
        convolution: For convolutions, transposed ones included.
        dense: For fully connected layers.
        first: For the convolutions and linear layers that read the network's input, if different.
        affine: For a scale and shift of its own: a BatchNorm that no convolution precedes.
        other: For additions, average pooling, upsampling.
        product: For products of two signals, element by element: a gate and what it weighs.
        attention: For products of two matrices of signals: queries and keys, attention and values.
        softmax: For softmax.
        normalisation: For LayerNorm, GroupNorm, InstanceNorm, RMSNorm; weights and biases apart.
        nonlinear: For what else is neither linear nor an activation: a maximum, a norm.
        overrides: Rules for single layers, which take precedence: see ``Key``. A position
            counts more than a path, and a path more than a type. Of several paths, and of several
            types, the one nearest to the layer counts, in whatever order they stand; of the same
            one, the last.

    Raises:
        TypeError: If a rule is none, or a layer is named by something else than a ``Key``.
    """

    convolution: Rule
    dense: Rule
    first: Rule | None = None
    affine: Rule = field(default_factory=Epsilon)
    other: Rule = field(default_factory=Epsilon)
    product: NonlinearRule = field(default_factory=SignalTakesAll)
    attention: NonlinearRule = field(default_factory=SignalTakesAll)
    softmax: NonlinearRule = field(default_factory=Taylor)
    normalisation: NonlinearRule = field(default_factory=Held)
    nonlinear: NonlinearRule = field(default_factory=Taylor)
    overrides: tuple[tuple[Key, AnyRule], ...] = ()

    def __post_init__(self) -> None:
        for name in ("convolution", "dense", "first", "affine", "other"):
            if name != "first" or self.first is not None:
                _check_rule(name, getattr(self, name))
        for name in ("product", "attention", "softmax", "normalisation", "nonlinear"):
            _check_nonlinear(name, getattr(self, name))
        for key, rule in self.overrides:
            if not isinstance(key, (str, int, type)):
                raise TypeError(f"a layer is a path, a type or a position, not {key!r}")
            _check_rule(f"the rule for {key!r}", rule)

    def override(self, rules: Mapping[Key, AnyRule]) -> Composite:
        """Return this composite with other rules for some layers."""
        return replace(self, overrides=(*self.overrides, *rules.items()))


COMPOSITES: dict[str, Composite] = Named(
    "composite",
    {
        "epsilon": Composite(Epsilon(), Epsilon()),
        "attn_lrp": Composite(Epsilon(), Epsilon(), product=Half(), attention=Half()),
        "z_plus": Composite(ZPlus(), ZPlus(), affine=ZPlus(), other=ZPlus()),
        "gamma": Composite(Gamma(), Gamma(), affine=Gamma(), other=Gamma()),
        "alpha2_beta1": Composite(AlphaBeta(), AlphaBeta(), affine=ZPlus(), other=ZPlus()),
        "epsilon_plus": Composite(ZPlus(), Epsilon(), affine=ZPlus(), other=ZPlus()),
        "epsilon_plus_flat": Composite(
            ZPlus(), Epsilon(), first=Flat(), affine=ZPlus(), other=ZPlus()
        ),
        "epsilon_gamma_box": Composite(
            Gamma(), Epsilon(), first=ZBox(), affine=Gamma(), other=Gamma()
        ),
        "alpha2_beta1_flat": Composite(
            AlphaBeta(), AlphaBeta(), first=Flat(), affine=ZPlus(), other=ZPlus()
        ),
    },
)
"""The named composites; each can be changed layer by layer with :meth:`Composite.override`."""


def as_composite(composite: object) -> Composite:
    """Return a composite from its name, itself, or rules for some layers (the rest: epsilon).

    Raises:
        ValueError: If there is no composite of that name.
        TypeError: If it is none of these, or a rule is no rule.
    """
    if isinstance(composite, str):
        if composite not in COMPOSITES:
            raise ValueError(f"no composite {composite!r}; there are {', '.join(COMPOSITES)}")
        return COMPOSITES[composite]
    if isinstance(composite, Composite):
        return composite
    if isinstance(composite, Mapping):
        return COMPOSITES["epsilon"].override(composite)
    raise TypeError(
        "composite must be a name, a Composite, or a mapping from layers to rules, not "
        f"{composite!r}; one rule for all layers is Composite(rule, rule, affine=rule, other=rule)"
    )


def assign(composite: Composite, traced: Graph, model: nn.Module) -> dict[int, AnyRule]:
    """Return the rule of every operation that has something to decide.

    Raises:
        ValueError: If an override fits no layer.
    """
    rules = {node.index: _default(composite, node, traced) for node in _deciding(traced)}
    found: list[tuple[_Rank, int, AnyRule]] = []
    for key, rule in composite.overrides:
        matches = _matches(key, traced, model)
        fitting = {i: fit for i in matches if (fit := _fitted(rule, traced.nodes[i])) is not None}
        if not fitting:
            raise ValueError(f"the rule for {key!r} fits no layer of the network")
        linear = [i for i in fitting if isinstance(traced.nodes[i].operation, LinearOperation)]
        meant = linear if isinstance(rule, Rule) and linear else fitting
        found += [(matches[i], i, fitting[i]) for i in meant]
    for _, index, rule in sorted(found, key=lambda match: match[0]):  # the most specific last
        rules[index] = rule
    return rules


def _fitted(rule: AnyRule, node: Node) -> AnyRule | None:
    """Return a rule as it applies to a node: one for linear operations holds what is not linear."""
    if isinstance(node.operation, LinearOperation):
        return rule if isinstance(rule, Rule) else None
    return Held(rule) if isinstance(rule, Rule) else rule


def _deciding(traced: Graph) -> list[Node]:
    return [
        node
        for node in traced.nodes
        if isinstance(node.operation, Nonlinear)
        or (isinstance(node.operation, LinearOperation) and not node.operation.routing)
    ]


def _weighted(traced: Graph) -> list[Node]:
    return [node for node in traced.nodes if isinstance(node.operation, (Convolution, Dense))]


def _default(composite: Composite, node: Node, traced: Graph) -> AnyRule:
    operation = node.operation
    if isinstance(operation, Nonlinear):
        return _default_nonlinear(composite, operation)
    if isinstance(operation, LinearCall) and operation.weighted:
        conv = operation.kind.startswith("conv")
        return composite.convolution if conv else composite.dense
    if isinstance(operation, (Convolution, Dense)):
        if composite.first is not None and _reads_input(node, traced):
            return composite.first
        return composite.convolution if isinstance(operation, Convolution) else composite.dense
    return composite.affine if isinstance(operation, Affine) else composite.other


def _default_nonlinear(composite: Composite, operation: Nonlinear) -> NonlinearRule:
    chosen = (
        (MatrixProduct, composite.attention),
        (Product, composite.product),
        (Softmax, composite.softmax),
        (Normalisation, composite.normalisation),
    )
    return next((rule for kind, rule in chosen if isinstance(operation, kind)), composite.nonlinear)


def _reads_input(node: Node, traced: Graph) -> bool:
    """Whether nothing but copying and rescaling lies between the network's input and a node."""
    return all(
        source == 0
        or (
            _rescales(traced.nodes[source].operation) and _reads_input(traced.nodes[source], traced)
        )
        for source in node.inputs
    )


def _rescales(operation: Operation) -> bool:
    copies = isinstance(operation, LinearOperation) and operation.routing
    return copies or isinstance(operation, (Affine, Pad))


_Rank = tuple[int, float, int]
"""How specific a match is: type, path or position; how near; how special the type is."""


def _matches(key: Key, traced: Graph, model: nn.Module) -> dict[int, _Rank]:
    """Return the positions of the nodes that a key stands for, and how specific it is to each."""
    if isinstance(key, int):
        weighted = _weighted(traced)
        return {weighted[key].index: (2, 0, 0)} if -len(weighted) <= key < len(weighted) else {}
    deciding = _deciding(traced)
    if isinstance(key, str):
        found = [n.index for n in deciding if _below(n.name, key) or _below(n.module, key)]
        return dict.fromkeys(found, (1, len(key), 0))
    special = len(key.__mro__)
    modules = [path for path, part in model.named_modules() if isinstance(part, key)]
    matches: dict[int, _Rank] = {}
    for node in deciding:
        near = [len(path) for path in modules if not path or _below(node.module, path)]
        if isinstance(node.operation, key):
            matches[node.index] = (0, math.inf, special)
        elif near:
            matches[node.index] = (0, max(near), special)
    return matches


def _below(path: str, layer: str) -> bool:
    return path == layer or path.startswith((f"{layer}.", f"{layer}/", f"{layer}#"))
