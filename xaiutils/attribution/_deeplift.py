r"""DeepLIFT: a chain rule of differences, on the traced graph.

Each operation has been run twice, on the image and on the baseline. Its input differs by
:math:`\Delta x` and its output by :math:`\Delta y`, and a *multiplier* :math:`m` with
:math:`\Delta y = \sum_i m_i \Delta x_i` takes the derivative's place. Multipliers follow one
another by the chain rule, from the output back to the image, and there
:math:`\sum_i m_i \Delta x_i = f_t(x) - f_t(x')` up to rounding, whatever the rules are.

A linear operation has its weights for multipliers. A gate has one number, the *rescale rule*
:math:`m = \Delta y / \Delta x`, and where nothing differs the derivative, which is its limit.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Literal, overload

import torch
from torch import Tensor

from xaiutils import graph
from xaiutils.attribution._baselines import Baselines, Units, makers
from xaiutils.attribution._common import (
    Explained,
    Network,
    Target,
    check_choice,
    in_chunks,
    joined,
    prepare,
    settled,
    start_signal,
    values_of,
)
from xaiutils.attribution._paths import gauss_legendre
from xaiutils.graph import Convolution, Dense, Gate, Graph, LinearOperation, Node, Product, Switch
from xaiutils.graph.outputs import Output

Rule = Literal["rescale", "reveal_cancel"]
_RULES = ("rescale", "reveal_cancel")
_PLACES = 32


@dataclass(eq=False)
class Multiplier:
    """How much the explained number changes per change of an operation's output.

    Attributes:
        both: The multiplier (N, ...), or the mean of the two where they differ.
        apart: By how much that of positive contributions to the output exceeds the mean, and that
            of negative ones falls short of it; None where they do not differ.
    """

    both: Tensor
    apart: Tensor | None = None

    def __add__(self, other: Multiplier) -> Multiplier:
        apart = [each.apart for each in (self, other) if each.apart is not None]
        return Multiplier(self.both + other.both, sum(apart[1:], apart[0]) if apart else None)


@overload
def deeplift(
    model: Network,
    x: Tensor,
    target: Target = None,
    *,
    baselines: Baselines = 0.0,
    units: Units | None = None,
    rule: Rule = "rescale",
    seed: int = 0,
    return_convergence_delta: Literal[False] = False,
    output: Output = None,
    batch_size: int | None = None,
) -> Tensor: ...


@overload
def deeplift(
    model: Network,
    x: Tensor,
    target: Target = None,
    *,
    baselines: Baselines = 0.0,
    units: Units | None = None,
    rule: Rule = "rescale",
    seed: int = 0,
    return_convergence_delta: Literal[True],
    output: Output = None,
    batch_size: int | None = None,
) -> tuple[Tensor, Tensor]: ...


def deeplift(
    model: Network,
    x: Tensor,
    target: Target = None,
    *,
    baselines: Baselines = 0.0,
    units: Units | None = None,
    rule: Rule = "rescale",
    seed: int = 0,
    return_convergence_delta: bool = False,
    output: Output = None,
    batch_size: int | None = None,
) -> Tensor | tuple[Tensor, Tensor]:
    r"""Return how much each input's difference from a baseline contributes (Shrikumar et al. 2017).

    The contributions :math:`m_i (x_i - x'_i)` sum to :math:`f_t(x) - f_t(x')`, up to rounding.

    - Linear operations, a residual addition among them: multipliers are the weights. BatchNorm is
      part of them, and biases have no difference.
    - Activations, smooth ones too: the rescale rule :math:`\Delta y / \Delta x`, and the derivative
      where :math:`\Delta x` is 0. With ``rule="reveal_cancel"`` those that follow a convolution
      or linear layer, with nothing but reshaping between: its positive and negative contributions
      :math:`\Delta x^\pm` get multipliers of their own, by what each adds with the other there and
      not there (the authors' section 3.5.3):
      :math:`\Delta y^+ = \frac12 [f(x' + \Delta x^+) - f(x')] +
      \frac12 [f(x' + \Delta x^- + \Delta x^+) - f(x' + \Delta x^-)]` and
      :math:`m^+ = \Delta y^+ / \Delta x^+`, likewise for the negative ones. These are the
      Shapley values of two players.
    - Max pooling: the difference of the maxima goes to the winner in the image where the maximum
      has grown, and to the winner in the baseline where it has fallen; each of them differs by at
      least as much. Captum and SHAP route it so too, but where windows overlap they keep only one
      of the differences that meet at a winner, and the sum is off; so is Captum's where a ReLU
      stands before the pooling. The authors' own program sends
      everything to the winner in the image, which is complete only if the baseline is the same
      throughout a window.
    - Products of two signals: each factor gets the mean of what it adds with the other one at its
      baseline and at its value, :math:`m_a = (b + b') / 2`, its Shapley value, as in SHAP's program
      for TensorFlow.
    - Of a target that is no weighted sum of outputs, a log-probability say, the derivative is
      averaged along the straight line between the two outputs, by quadrature.

    Args:
        model: A network in evaluation mode, or its :class:`~xaiutils.graph.Graph`.
        x: Inputs (N, C, H, W), as the network takes them.
        target: What to explain, as in :func:`xaiutils.attribution.gradient`.
        baselines: The reference :math:`x'`, or several, over which the maps are averaged; as in
            :func:`integrated_gradients`.
        units: What black and white are for the network: ``clf.preprocess``.
        rule: ``"rescale"`` or ``"reveal_cancel"``.
        seed: Of the baseline ``"uniform"``, and of functions.
        return_convergence_delta: Whether to return the completeness gap as well.
        output: Which of several outputs: a key, a position, or a function; see :func:`gradient`.
        batch_size: How many images at a time; bounds the memory.

    Returns:
        (N, C, H, W), in units of the output. With ``return_convergence_delta`` also the gap (N,):
        the sum of the map minus ``f(x) - f(baselines)``.

    Raises:
        TypeError: As in :func:`integrated_gradients`.
        ValueError: As in :func:`integrated_gradients`, if ``rule`` is unknown, or the network
            cannot be read or has a softmax or a normalisation inside, for which there is no rule.
    """
    check_choice("rule", rule, _RULES)
    traced, x, explained = prepare(model, x, target, output=output)
    split = _split(traced) if rule == "reveal_cancel" else frozenset()
    _check_operations(traced)
    explained = settled(traced, x, explained, batch_size)
    starts, generator = makers(baselines, x, units), torch.Generator().manual_seed(seed)
    heatmaps, gap = torch.zeros_like(x), x.new_zeros(len(x))
    for make in starts:
        one_chunk = partial(_contributions, traced, split)
        parts = in_chunks(one_chunk, batch_size, x, make(x, generator), explained)
        heatmaps += joined([part for part, _ in parts]) / len(starts)
        gap += joined([missing for _, missing in parts]) / len(starts)
    return (heatmaps, gap) if return_convergence_delta else heatmaps


def _check_operations(traced: Graph) -> None:
    """Refuse a network with an operation that has no rule."""
    known = (graph.Input, LinearOperation, Gate, Switch, Product)
    for node in traced.nodes:
        if not isinstance(node.operation, known):
            raise graph.UnsupportedOperation(
                f"deeplift has no rule for {node.operation.kind} in {node.name!r}: several "
                "computed numbers change it together, and no rule says how they share; "
                "take integrated_gradients, which asks for the gradient only"
            )


def _split(traced: Graph) -> frozenset[int]:
    """Return the gates that follow a convolution or linear layer, but for reshaping."""
    return frozenset(i for i in traced.gates if _origin(traced, i) is not None)


def _origin(traced: Graph, index: int) -> Node | None:
    """Return the convolution or linear layer whose output a gate reads."""
    node = traced.nodes[traced.nodes[index].inputs[0]]
    while isinstance(node.operation, graph.Reshape):
        node = traced.nodes[node.inputs[0]]
    return node if isinstance(node.operation, (Convolution, Dense)) else None


@dataclass(frozen=True, eq=False)
class _Runs:
    """The network's two runs, on the images and on their baselines.

    Attributes:
        traced: The network.
        split: The gates at which positive and negative contributions have multipliers of their own.
        own: The run on the images.
        base: The run on the baselines, of as many images, or of one for all.
    """

    traced: Graph
    split: frozenset[int]
    own: graph.Record
    base: graph.Record

    def pair(self, index: int) -> tuple[Tensor, Tensor]:
        """Return the output of an operation in both runs."""
        return self.own.value(index), self.base.value(index)

    def change(self, index: int) -> Tensor:
        """Return the difference of an operation's outputs."""
        own, base = self.pair(index)
        return own - base


def _contributions(
    traced: Graph, split: frozenset[int], x: Tensor, start: Tensor, explained: Explained | Tensor
) -> tuple[Tensor, Tensor]:
    """Return the map of one chunk, and its gap."""
    keep = _kept(traced, split)
    shared = start.ndim > 1 and start.stride(0) == 0  # one baseline for all: one run
    runs = _Runs(
        traced, split, traced.record(x, keep), traced.record(start[:1] if shared else start, keep)
    )
    outputs = (runs.own.output, runs.base.output.expand_as(runs.own.output))
    multipliers = {len(traced.nodes) - 1: Multiplier(_start(explained, *outputs))}
    for node in reversed(traced.nodes[1:]):
        arriving = multipliers.pop(node.index, None)
        if arriving is None:
            continue
        for source, part in zip(node.inputs, _back(runs, node, arriving), strict=True):
            present = multipliers.get(source)
            multipliers[source] = part if present is None else present + part
    found = multipliers.get(0)
    heatmap = torch.zeros_like(x) if found is None else found.both * (x - start)
    own, base = (values_of(explained, each) for each in outputs)
    return heatmap.contiguous(), heatmap.flatten(1).sum(1) - (own - base)


def _kept(traced: Graph, split: frozenset[int]) -> frozenset[int]:
    """Return the nodes whose outputs are read on the way back."""
    kept: set[int] = set()
    for node in traced.nodes:
        if isinstance(node.operation, (Gate, Switch, Product)):
            kept.update(node.inputs)
        if node.index in split and (origin := _origin(traced, node.index)) is not None:
            kept.update(origin.inputs)
    return frozenset(kept)


def _start(explained: Explained | Tensor, own: Tensor, base: Tensor) -> Tensor:
    """Return the multipliers of the outputs: the derivative, averaged from one to the other.

    What the quadrature misses of the difference is shared out by the squares of the differences.
    """
    last = start_signal(explained, own)
    others = (start_signal(explained, torch.lerp(base, own, place)) for place in (0.0, 0.5))
    if all(torch.equal(last, other) for other in others):
        return last
    total = torch.zeros_like(own)
    for place, weight in zip(*gauss_legendre(_PLACES), strict=True):
        total += float(weight) * start_signal(explained, torch.lerp(base, own, float(place)))
    change = (own - base).flatten(1)
    rise = values_of(explained, own) - values_of(explained, base)
    missed = rise - (total.flatten(1) * change).sum(1)
    share = missed / change.square().sum(1).clamp(min=torch.finfo(own.dtype).tiny)
    return total + (share[:, None] * change).view_as(total)


def _back(runs: _Runs, node: Node, arriving: Multiplier) -> tuple[Multiplier, ...]:
    """Return the multipliers of an operation's inputs."""
    operation = node.operation
    shapes = [runs.traced.nodes[source].shape for source in node.inputs]
    if isinstance(operation, Gate):
        return (_through_gate(runs, node, operation, arriving.both),)
    if isinstance(operation, Switch):
        return (Multiplier(_through_switch(runs, node, operation, arriving.both)),)
    if isinstance(operation, Product):
        middle = [torch.lerp(*runs.pair(i), 0.5) for i in node.inputs]
        found = operation.backward(arriving.both, middle)
        return tuple(
            Multiplier(torch.zeros_like(x) if part is None else part)
            for x, part in zip(middle, found, strict=True)
        )
    assert isinstance(operation, LinearOperation)
    both = operation.transpose(arriving.both, shapes)
    if arriving.apart is None:
        return tuple(map(Multiplier, both))
    if isinstance(operation, graph.Reshape):
        apart = operation.transpose(arriving.apart, shapes)
        return tuple(map(Multiplier, both, apart))
    (size,) = operation.reweighted(torch.abs).transpose(arriving.apart, shapes)
    return (Multiplier(both[0] + runs.change(node.inputs[0]).sign() * size),)


def _through_gate(runs: _Runs, node: Node, gate: Gate, arriving: Tensor) -> Multiplier:
    own, base = runs.pair(node.inputs[0])
    origin = _origin(runs.traced, node.index) if node.index in runs.split else None
    if origin is None:
        return Multiplier(arriving * quotient(gate, own, base))
    up, down = _signed_contributions(runs, origin)
    up, down = (each.reshape(len(each), *node.shape) for each in (up, down))
    positive = (quotient(gate, base + up, base) + quotient(gate, own, base + down)) / 2
    negative = (quotient(gate, base + down, base) + quotient(gate, own, base + up)) / 2
    return Multiplier(arriving * (positive + negative) / 2, arriving * (positive - negative) / 2)


def _signed_contributions(runs: _Runs, linear: Node) -> tuple[Tensor, Tensor]:
    """Return the sums of the positive and of the negative contributions to each output."""
    operation = linear.operation
    assert isinstance(operation, LinearOperation)
    change = runs.change(linear.inputs[0])
    total, size = operation.linear(change), operation.reweighted(torch.abs).linear(change.abs())
    return (size + total) / 2, (total - size) / 2


def quotient(gate: Gate, own: Tensor, base: Tensor) -> Tensor:
    """Return the difference quotient of an activation between two inputs; in the limit its slope.

    Where the inputs are so near that rounding would tell in the quotient, and no bend is between
    them, it is the slope half-way, which differs from it by the square of their distance.
    """
    change, rise = own - base, gate.forward(own) - gate.forward(base)
    if isinstance(gate, (graph.ReLU, graph.Clamp)):  # slopes 0 and 1: nothing is rounded
        return torch.where(change == 0, _slope(gate, own), rise / change)
    limit = torch.finfo(own.dtype).eps ** (1 / 3)
    near = change.abs() < limit * (1 + torch.maximum(own.abs(), base.abs()))
    if not gate.needs_input:  # of straight pieces: not across a bend
        near &= _slope(gate, own) == _slope(gate, base)
    return torch.where(near, _slope(gate, torch.lerp(base, own, 0.5)), rise / change)


def _slope(gate: Gate, x: Tensor) -> Tensor:
    return gate.slope(gate.forward(x), x)


def _through_switch(runs: _Runs, node: Node, switch: Switch, arriving: Tensor) -> Tensor:
    """Send the difference of the maxima to the winner that differs by as much or more."""
    own, base = runs.pair(node.inputs[0])
    here, there = (run.indices[node.index] for run in (runs.own, runs.base))
    there, base = there.expand_as(here), base.expand_as(own)
    rise = switch.pick(own, here) - switch.pick(base, there)
    winner = torch.where(rise >= 0, here, there)
    change = switch.pick(own, winner) - switch.pick(base, winner)
    share = torch.where(change == 0, 1.0, rise / torch.where(change == 0, 1.0, change))
    shape = tuple(own.shape[1:])
    return switch.backward(arriving * share, winner.contiguous(), shape)
