"""Layer-wise relevance propagation on the traced graph, with every share accounted for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Literal, overload

import torch
from torch import Tensor, nn

from xaiutils import graph
from xaiutils.attribution._common import (
    Network,
    Resolved,
    Target,
    check_choice,
    in_chunks,
    joined,
    prepare,
    start_signal,
)
from xaiutils.attribution._composites import Composite, Key, as_composite, assign
from xaiutils.attribution._nonlinear_rules import NonlinearRule, NonlinearStep
from xaiutils.attribution._report import LayerRelevance, RelevanceReport
from xaiutils.attribution._route import Conditions, Route, route
from xaiutils.attribution._rules import (
    BIAS_TREATMENTS,
    Outcome,
    Rule,
    Step,
    Weighted,
    total_of,
)
from xaiutils.graph import (
    Gate,
    Graph,
    LinearOperation,
    Node,
    Nonlinear,
    Operation,
    Record,
    Switch,
)
from xaiutils.graph.copying import wrapped
from xaiutils.graph.errors import warn
from xaiutils.graph.outputs import Output
from xaiutils.graph.tracing import hooked

Bias = Literal["absorb", "ignore", "redistribute"]

GAIN_LIMIT = 1e6
"""Absolute relevance that grows by more than this factor on the way to the input is warned of."""


GAP_LIMIT = 1e-2
"""An account that leaves more than this share of the start open is warned of."""


class RelevanceExplosionWarning(UserWarning):
    """The heatmap holds far more absolute relevance than the logit: its shares cancel."""


class RelevanceGapWarning(UserWarning):
    """The account of an LRP pass does not close: relevance was lost or made on the way."""


@overload
def lrp(
    model: Network,
    x: Tensor,
    target: Target = None,
    composite: str | Composite | Mapping[Key, Rule] = "epsilon_plus",
    *,
    bias: Bias = "absorb",
    start: Tensor | None = None,
    output: Output = None,
    start_layer: str | None = None,
    until: str | None = None,
    conditions: Conditions | None = None,
    return_report: Literal[False] = False,
    batch_size: int | None = None,
) -> Tensor: ...


@overload
def lrp(
    model: Network,
    x: Tensor,
    target: Target = None,
    composite: str | Composite | Mapping[Key, Rule] = "epsilon_plus",
    *,
    bias: Bias = "absorb",
    start: Tensor | None = None,
    output: Output = None,
    start_layer: str | None = None,
    until: str | None = None,
    conditions: Conditions | None = None,
    return_report: Literal[True],
    batch_size: int | None = None,
) -> tuple[Tensor, RelevanceReport]: ...


def lrp(
    model: Network,
    x: Tensor,
    target: Target = None,
    composite: str | Composite | Mapping[Key, Rule] = "epsilon_plus",
    *,
    bias: Bias = "absorb",
    start: Tensor | None = None,
    output: Output = None,
    start_layer: str | None = None,
    until: str | None = None,
    conditions: Conditions | None = None,
    return_report: bool = False,
    batch_size: int | None = None,
) -> Tensor | tuple[Tensor, RelevanceReport]:
    r"""Return the relevance of each input value for the target output (Bach et al. 2015).

    The target output itself is the relevance to start with. Every linear operation shares what
    arrives at its outputs out among its inputs by its rule; BatchNorm is part of the convolution
    before it; an activation passes relevance on as it is, a smooth one (GELU, SiLU) like a ReLU;
    max pooling gives it to the winner; a residual addition is a linear operation like any other
    and shares by contribution (or by :class:`Ratio`).

    Where signals meet, a rule holds a part of the operation at its value and shares in what is
    linear then. By default LayerNorm and its kin hold their deviation (:class:`Held`); a product
    holds its gate, and so the product of attention and values its attention
    (:class:`SignalTakesAll`), as Ali et al. 2022 propose. Under the composite ``"attn_lrp"`` each
    factor gets one half (:class:`Half`), and a softmax the first terms of its Taylor series
    (:class:`Taylor`): AttnLRP, Achtibat et al. 2024. Of the named composites it is the only one
    that sends relevance through queries and keys; the others differ by their rules for
    convolutions, linear layers and sums.

    The account is exact up to rounding (see :class:`AlphaBeta` for where that is coarse): the sum
    of the heatmap, plus what biases, stabilisers and dead outputs absorbed, what Taylor series
    left out (the remainder) and what conditions excluded, is the relevance at the start, whatever
    the rules (``return_report=True`` shows it, and warns where it stays open). A class token and
    positions are constants, and keep their share as biases do. The heatmap *alone* sums to the
    target output if there are no biases (or ``bias`` is ``"redistribute"``), epsilon is 0, no
    output is dead and nothing is left to a remainder. It cannot where a rule finds no input to
    give relevance to: under :class:`AlphaBeta` at outputs that nothing opposes, under
    ``bias="ignore"`` at outputs that are positive by their bias though all their inputs are 0
    (frequent behind depthwise convolutions), and at the border of a separate padding.

    How little of the logit arrives can surprise. In deep networks with linear bottlenecks and
    large folded biases nearly all of it stays with the biases under the z+ and gamma rules, and
    what arrives is a small but selective part. ``"ignore"`` brings far more of it to the input, at
    a price: an output that only its bias makes positive is read as the negative number that it
    would be without, and hands its relevance to the inputs that oppose it. Under gamma the map of
    a trained EfficientNet-Lite0 is then mostly noise, as chapter 14 measures.

    Of a number that is made of several outputs (weights, :class:`Difference` and its kin) each
    output starts with its value times the derivative of the number at it: a difference with
    :math:`f_a` at *a* and :math:`-f_b` at *b*. This is LRP of a network with one more linear layer
    that subtracts, under LRP-0. The map of a difference is so the difference of the maps, under
    all rules, and the start adds up to the number itself if that is linear in the outputs; for
    :class:`LogProbability` it adds up to :math:`f_c - \sum_k p_k f_k`, which is :math:`\log p_c`
    plus the entropy of the probabilities. (If the subtraction were merged into the last layer's
    weights instead, as :math:`w_a - w_b`, LRP-0 would share alike, but z+, alpha-beta and gamma
    would not: they would see one neuron and keep its sign. Hand over that network to have it.)
    :func:`clrp` and :func:`sglrp` start otherwise.

    Relevance need not go all the way: it can start at a layer inside (``start_layer``), end at one
    (``until``), and go on at others in some channels only (``conditions``). With conditions it is
    the concept relevance of Achtibat et al. 2023: what in the picture speaks for the target by way
    of these channels. What goes around a layer with a condition, or around the last one, by a
    shortcut, is stopped too. The account counts all of it as excluded.

    Args:
        model: A network in evaluation mode, which is only read; or the
            :class:`~xaiutils.graph.Graph` of one, read once for many calls.
        x: Inputs (N, C, H, W), as the network takes them.
        target: The output to explain: an int, one for each image, or None for the largest one; or
            a number made of several, as in :func:`gradient`.
        composite: A name in ``COMPOSITES``, a :class:`Composite`, or a mapping from layers to
            rules, where a layer is a path (``"features.0"``), a type (of module, ``nn.Conv2d``, or
            of operation, :class:`xaiutils.graph.Softmax`) or a position
            (0 is the first convolution or linear layer, -1 the last). The path or type of a
            container stands for all in it; the key nearest to a layer counts. What the mapping
            does not name follows :class:`Epsilon`.
        bias: What happens to the share of relevance that belongs to a bias. ``"absorb"``: it
            stays there (and is reported). ``"ignore"``: the rule sees each layer as if it had no
            bias, its output and the output's sign included, and the inputs get it all.
            ``"redistribute"``: it is spread evenly over the inputs of the output it belongs to,
            whatever their values. Biases have no share under :class:`WSquare`, :class:`Flat`,
            :class:`ZBox`, :class:`Pass` and :class:`Zero`. What :class:`Taylor` leaves out is no
            bias, and stays a remainder.
        start: The relevance to start with, of the shape of the output (or of the output of
            ``start_layer``), in place of the target output.
        output: Which of several outputs of the network: a key, a position, or a function of what
            it returns, as in :func:`xaiutils.attribution.gradient`.
        start_layer: The path of the layer at whose output relevance starts: with ``start``, or else
            with the values that it has there. There is no target then. A BatchNorm that follows a
            convolution directly is a part of it.
        until: The path of the layer at whose output relevance is returned; None: the input.
        conditions: Through which channels of a layer's output relevance may pass, by the layer's
            path: ``{"layer3": [17, 42]}``. Channels are the first dimension behind the batch; a
            boolean tensor in their place is a mask for the whole output, without the batch. At
            the layer where relevance starts they say where it does.
        return_report: Whether to return the account as well.
        batch_size: How many images at a time; bounds the memory.

    Returns:
        (N, C, H, W), or of the shape that the output of ``until`` has, in units of the output; with
        ``return_report`` also a :class:`RelevanceReport`. Both are in float32 for a network in half
        precision.

    Raises:
        TypeError: If the model, ``x``, ``target``, the composite, a rule or the start is of the
            wrong type.
        ValueError: If the model is in training mode or cannot be read, an argument is out of
            range, the composite or ``bias`` is unknown, a rule fits no layer, or a layer named is
            unknown or not on the way. A Graph knows no types of modules: name layers by their
            path, position or type of operation there.
        FloatingPointError: If relevance overflows; the message names the layer.

    Warns:
        RelevanceExplosionWarning: If the absolute relevance has grown by more than ``GAIN_LIMIT``
            on the way to the input; the message names the layers that did most.
        RelevanceGapWarning: With ``return_report``, if the account stays open by more than
            ``GAP_LIMIT`` of the absolute relevance at the start.
    """
    check_choice("bias", bias, BIAS_TREATMENTS)
    chosen = as_composite(composite)
    traced, x, explained = prepare(model, x, target, output=output)
    way = route(traced, start_layer, until, conditions)
    if start_layer is not None and target is not None:
        raise ValueError("relevance starts at start_layer, so that there is no target to choose")
    start = _checked_start(start, x, traced.nodes[way.start].shape)
    plan = _Plan(traced, assign(chosen, traced, _types_in(model, chosen)), bias, way)

    one_chunk = partial(_explain, plan, return_report)
    results = in_chunks(one_chunk, batch_size, x, explained, start)
    relevance = joined([found for found, _ in results])
    if not return_report:
        return relevance
    return relevance, RelevanceReport.joined([report for _, report in results if report])


def _types_in(model: Network, composite: Composite) -> nn.Module:
    """Return the module whose parts' types an override may name; a graph has none of them."""
    if not isinstance(model, Graph):
        inside = wrapped(model)  # a compiled or data-parallel one, whose paths are others
        return model if inside is None or hooked(model) else _types_in(inside, composite)
    for key, _ in composite.overrides:
        if isinstance(key, type) and not issubclass(key, Operation):
            raise ValueError(
                f"a Graph does not know which of its layers a {key.__name__} is: name them by path,"
                " position or type of operation, or hand over the module"
            )
    return nn.Identity()


def _checked_start(start: Tensor | None, x: Tensor, shape: graph.Shape) -> Tensor | None:
    if start is None:
        return None
    if not isinstance(start, Tensor):
        raise TypeError(f"start must be a torch.Tensor, not {type(start).__name__}")
    expected = (len(x), *shape)
    if start.shape != expected or not bool(torch.isfinite(start).all()):
        raise ValueError(f"start must hold finite numbers of shape {expected}")
    return start.detach().to(x)


@dataclass(frozen=True, eq=False)
class _Plan:
    """The rule of every node, and what follows from the rules before any number is known.

    Attributes:
        traced: The network.
        rules: The rule of each operation that decides something.
        bias: The treatment of biases.
        way: Where relevance starts and ends, and what it may pass.
        positive: For each node, whether relevance can only arrive where its output is positive.
    """

    traced: Graph
    rules: dict[int, Rule | NonlinearRule]
    bias: str
    way: Route
    positive: list[bool] = field(init=False)

    def __post_init__(self) -> None:
        positive = [False] * len(self.traced.nodes)
        for node in reversed(self.traced.nodes[: self.way.start]):
            readers = (self.traced.nodes[i] for i in self.traced.consumers[node.index])
            positive[node.index] = all(self._positive_from(r, node, positive) for r in readers)
        object.__setattr__(self, "positive", positive)

    def _positive_from(self, reader: Node, node: Node, positive: list[bool]) -> bool:
        """Whether ``reader`` sends relevance to ``node`` only where its output is positive."""
        rule = self.rules.get(reader.index)
        if rule is None:
            return positive[reader.index] and _positive_together(reader.operation)
        if not isinstance(rule, Rule) or not rule.proportional or self.bias == "redistribute":
            return False
        if node.nonnegative:
            return True
        selective = isinstance(rule, Weighted) and rule.weights()[1:] == (0.0, 0.0, True)
        weightless = isinstance(reader.operation, LinearOperation) and reader.operation.keeps_sign()
        return selective and weightless and positive[reader.index]

    def overwritable(self, node: Node) -> bool:
        """Whether a ReLU may overwrite a node's output: nothing changes where relevance arrives."""
        readers = [self.traced.nodes[i].operation for i in self.traced.consumers[node.index]]
        return self.positive[node.index] and [type(r) for r in readers] == [graph.ReLU]

    def kept(self) -> frozenset[int]:
        """Return the nodes whose outputs are needed as they are."""
        return frozenset(n.index for n in self.traced.nodes if not self.overwritable(n))


def _positive_together(operation: Operation) -> bool:
    """Whether the output of an operation without a rule is positive only where its input is."""
    if isinstance(operation, graph.Clamp):
        return operation.low <= 0
    known = (graph.ReLU, graph.LeakyReLU, Switch, LinearOperation)  # the last: copies
    return isinstance(operation, known)


def _explain(
    plan: _Plan, report: bool, x: Tensor, explained: Resolved, start: Tensor | None
) -> tuple[Tensor, RelevanceReport | None]:
    """Explain one chunk; if the result is out of bounds, find out where that came from."""
    record = plan.traced.record(x, keep=plan.kept())
    start = _start(plan, record, explained) if start is None else start
    start = plan.way.masked(plan.way.start, start)
    relevance, layers = _propagate(plan, record, start, report)
    grown, size = (each.abs().reshape(len(x), -1).sum(1) for each in (relevance, start))
    if not bool((grown <= GAIN_LIMIT * size).all()):
        if not report:
            record = plan.traced.record(x, keep=plan.kept())
            _, layers = _propagate(plan, record, start, True)
        _complain(relevance, layers, float((grown / size).max()))
    if not report:
        return relevance, None
    found = RelevanceReport(total_of(start), total_of(relevance), tuple(layers))
    _check_gap(found, size)
    return relevance, found


def _start(plan: _Plan, record: Record, explained: Resolved) -> Tensor:
    """Return the target output, or all that a layer puts out."""
    if plan.way.start == len(plan.traced.nodes) - 1:
        return start_signal(explained, record.output) * record.output
    return record.value(plan.way.start)


def _largest_gain(layer: LayerRelevance) -> float:
    return float(layer.gain.nan_to_num(torch.inf).max())


def _complain(relevance: Tensor, layers: list[LayerRelevance], factor: float) -> None:
    worst = sorted(layers, key=lambda layer: -_largest_gain(layer))[:3]
    names = ", ".join(f"{w.name!r} ({w.rule}, x {_largest_gain(w):.3g})" for w in worst)
    if not bool(torch.isfinite(relevance).all()):
        raise FloatingPointError(f"relevance overflowed; the layers that grew it most are {names}")
    warn(
        f"the absolute relevance at the input is {factor:.3g} times the start's: shares cancel, "
        f"and the heatmap means little; the layers that grew it most are {names}",
        RelevanceExplosionWarning,
    )


def _check_gap(report: RelevanceReport, size: Tensor) -> None:
    """Warn of an account that stays open, compared with the absolute relevance at the start."""
    if not bool((report.gap.abs() > GAP_LIMIT * size).any()):
        return
    worst = max(report.layers, key=lambda layer: float((layer.gap.abs() / size).nan_to_num().max()))
    share = float((report.gap.abs() / size).max())
    warn(
        f"the account stays open by {share:.2g} of the start, most at {worst.name!r} "
        f"({worst.rule}): it has lost or made relevance that it does not count",
        RelevanceGapWarning,
    )


def _propagate(
    plan: _Plan, record: Record, start: Tensor, count: bool
) -> tuple[Tensor, list[LayerRelevance]]:
    """Pass relevance from its start to its end; forget each layer once it is done with."""
    nodes, way = plan.traced.nodes, plan.way
    arrived: dict[int, Tensor] = {way.start: start.clone()}  # rules may overwrite relevance
    layers: list[LayerRelevance] = []
    for node in reversed(nodes[way.until + 1 : way.start + 1]):
        if node.index in way.masks and node.index != way.start:
            layers += filter(None, [way.gathered(node, arrived, count)])
        relevance = arrived.pop(node.index, None)
        if relevance is None:
            continue
        before = (total_of(relevance), total_of(relevance.abs())) if count else None
        outcome = _pass_on(plan, node, record, relevance, count)
        if before is not None and isinstance(node.operation, (LinearOperation, Nonlinear)):
            layers.append(_account(plan, node, *before, outcome))
        for source, part in zip(node.inputs, outcome.relevances, strict=True):
            value = record.values[source]
            if value is not None and not value.is_floating_point():
                continue  # a comparison: there is nothing to explain
            present = arrived.get(source)
            arrived[source] = part if present is None else present.add_(part)
        _forget(plan, node, record)
    if way.until:
        layers += filter(None, [way.gathered(nodes[way.until], arrived, count)])
    shape = (len(start), *nodes[way.until].shape)
    heatmap = arrived.get(way.until, start.new_zeros(shape))
    form = record.memory_format if heatmap.ndim == 4 else torch.contiguous_format
    return heatmap.contiguous(memory_format=form), layers


def _forget(plan: _Plan, node: Node, record: Record) -> None:
    """Free the output of a node; where a ReLU had overwritten its input's, it goes back there."""
    if isinstance(node.operation, graph.ReLU):
        (source,) = node.inputs
        if plan.overwritable(plan.traced.nodes[source]):
            record.values[source] = record.values[node.index]
    record.values[node.index] = None


def _pass_on(plan: _Plan, node: Node, record: Record, relevance: Tensor, count: bool) -> Outcome:
    operation = node.operation
    shapes = [plan.traced.nodes[source].shape for source in node.inputs]
    if isinstance(operation, Gate):
        return Outcome((relevance,))
    if isinstance(operation, Switch):
        return Outcome((operation.backward(relevance, record.indices[node.index], shapes[0]),))
    if isinstance(operation, LinearOperation) and node.index not in plan.rules:
        return _copy(operation, relevance, shapes, count)
    inputs = tuple(record.value(i) for i in node.inputs)
    output, rule = record.value(node.index), plan.rules[node.index]
    try:
        if isinstance(rule, NonlinearRule):
            assert isinstance(operation, Nonlinear)
            step = NonlinearStep(operation, inputs, output, relevance, plan.bias, count)
            outcome = rule.apply(step)
        else:
            outcome = rule.apply(_step(plan, node, inputs, output, relevance, count))
    except FloatingPointError as error:
        raise FloatingPointError(f"{error} at layer {node.name!r} ({rule})") from None
    return replace(outcome, relevances=_separate(outcome.relevances))


def _copy(
    operation: LinearOperation, relevance: Tensor, shapes: list[graph.Shape], count: bool
) -> Outcome:
    """Send relevance back where values came from; a constant among them keeps its own."""
    parts = operation.transpose(relevance, shapes)
    if not count:
        return Outcome(parts)
    rest = total_of(relevance) - sum(map(total_of, parts))
    return Outcome(parts, dead=rest) if operation.shift() is None else Outcome(parts, bias=rest)


def _step(
    plan: _Plan,
    node: Node,
    inputs: tuple[Tensor, ...],
    output: Tensor,
    relevance: Tensor,
    count: bool,
) -> Step:
    assert isinstance(node.operation, LinearOperation)
    sources = [plan.traced.nodes[i] for i in node.inputs]
    return Step(
        node.operation,
        inputs,
        output,
        relevance,
        nonnegative=all(source.nonnegative for source in sources),
        positive=plan.positive[node.index],
        bias=plan.bias,
        count=count,
    )


def _separate(parts: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Give each input a tensor of its own, since the rules further down may overwrite theirs."""
    places = [part.untyped_storage().data_ptr() for part in parts]
    return tuple(
        part.clone() if 0 in part.stride() or place in places[:i] else part
        for i, (part, place) in enumerate(zip(parts, places, strict=True))
    )


def _account(
    plan: _Plan, node: Node, arrived: Tensor, arrived_size: Tensor, outcome: Outcome
) -> LayerRelevance:
    rule = plan.rules.get(node.index)
    size = torch.stack([total_of(part.abs()) for part in outcome.relevances]).sum(0)
    return LayerRelevance(
        node.name,
        node.operation.kind,
        "copy" if rule is None else repr(rule),
        at_output=arrived,
        at_input=torch.stack([total_of(part) for part in outcome.relevances]).sum(0),
        bias=torch.zeros_like(arrived) + outcome.bias,
        stabiliser=torch.zeros_like(arrived) + outcome.stabiliser,
        dead=torch.zeros_like(arrived) + outcome.dead,
        remainder=torch.zeros_like(arrived) + outcome.remainder,
        excluded=torch.zeros_like(arrived),
        gain=torch.where(arrived_size > 0, size / arrived_size, 0.0),
    )
