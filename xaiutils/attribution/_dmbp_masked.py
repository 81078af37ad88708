"""A network with masks on its filters: the masked backward pass and its gradient."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from xaiutils import graph
from xaiutils.attribution._common import Resolved, start_signal
from xaiutils.attribution._dmbp_objectives import Evidence, branch_signs
from xaiutils.attribution._rules import total_of
from xaiutils.graph import Gate, Graph, Node, Record

BRANCHES = 2  # the positive and the negative one
_Inside = Callable[[Node, Tensor, Tensor], Tensor]


class Masked:
    r"""B masked networks on top of one forward pass, which run side by side in one batch.

    Every filter of every activation has a mask. With the fixed slopes :math:`D_l` of the forward
    pass and the masks :math:`M_l`, constant over space, a signal goes back as

    .. math:: s_l = W_{l+1}^\top \delta_{l+1}, \qquad \delta_l = M_l D_l s_l, \qquad
              J = W_1^\top \delta_1

    Masks are one tensor (B, N, F): for each branch and image the numbers of all filters, gate by
    gate in the order of execution. The activation after a residual addition is one of the gates.

    Attributes:
        x: The images (N, ...).
        gates: The nodes whose filters are masked.
        output: The explained output, (N,) float64.
        bias: What the biases and the saturated activations contribute to it, (N,) float64.
        whole: The evidence of the unmasked network, one branch.
    """

    def __init__(self, traced: Graph, x: Tensor, explained: Resolved, needs_filters: bool) -> None:
        """Run the network forwards, and backwards without masks.

        Args:
            traced: The network, which has at least one gate.
            x: The images.
            explained: What is explained of the outputs.
            needs_filters: Whether evidence is to tell the relevance of filters.
        """
        self.x = x
        self.gates = [node for node in traced.nodes if isinstance(node.operation, Gate)]
        self._needs_filters = needs_filters
        self._traced = traced
        self._record = traced.record(x, keep="gates")
        self._start = start_signal(explained, self._record.output)
        self._indices = {k: torch.cat([v, v]) for k, v in self._record.indices.items()}
        self._arrived: dict[int, Tensor] = {}
        self.output = self._explained(self._record.output)
        nothing = torch.zeros_like(x)
        self.bias = self._explained(traced.tangent(self._record, nothing, _with_offset, True))
        _, self.whole = self.backward(self.ones()[:1], keep=False)

    def ones(self) -> Tensor:
        """Return masks that leave everything as it is."""
        return self.x.new_ones(BRANCHES, self.x.shape[0], sum(self._filters()))

    def split(self, masks: Tensor) -> tuple[Tensor, ...]:
        """Return the masks of each gate."""
        return torch.split(masks, self._filters(), -1)

    def _filters(self) -> list[int]:
        """Return the number of filters at each gate; a gate behind one number has one."""
        return [math.prod(node.shape[:1]) for node in self.gates]

    def _explained(self, output: Tensor) -> Tensor:
        return total_of(output * self._start)

    def backward(self, masks: Tensor, keep: bool = True) -> tuple[Tensor, Evidence]:
        """Return the mappings J of each branch (B, N, ...) and the evidence in them.

        Args:
            masks: (B, N, F).
            keep: Whether to keep the signals that arrive at the gates until :meth:`mask_gradient`
                has used them. They need twice the memory of all activations.
        """
        given, filters = self._by_gate(masks), dict[int, Tensor]()
        self._arrived.clear()

        def inside(node: Node, signal: Tensor, value: Tensor) -> Tensor:
            if keep:
                self._arrived[node.index] = signal
            mask = given[node.index]
            if self._needs_filters:
                filters[node.index] = mask * _over_space(signal * _reacting(node, value))
            return _through(node, signal, value).mul_(_fitted(mask, signal))

        mappings = self._back(len(masks), inside)
        found = tuple(filters[node.index] for node in self.gates) if filters else ()
        return mappings, Evidence(mappings * self.x, found)

    def mask_gradient(self, masks: Tensor, slopes: Evidence) -> Tensor:
        r"""Return the exact gradient of an objective with respect to the masks, (2, N, F).

        One forward pass without biases, the slopes held fixed, of
        :math:`v = \partial L / \partial J = x \odot \partial L / \partial R`. With
        :math:`p_l = D_l W_l u_{l-1}`, :math:`u_l = M_l p_l` and :math:`u_0 = v`,

        .. math:: \frac{\partial L}{\partial m_{l,c}} = \sum_{\mathrm{space}} p_{l,c}\, s_{l,c}

        because the loss is linear in each mask by itself: :math:`s` is everything between the
        mask and the output, :math:`p` everything between it and the attribution. A slope with
        respect to the relevance of a filter joins the pass at that filter.

        Args:
            masks: The masks of the last call of :meth:`backward`.
            slopes: The gradient of the objective with respect to the evidence of that call.
        """
        given, found = self._by_gate(masks), dict[int, Tensor]()
        joins = {n.index: w for n, w in zip(self.gates, slopes.filters, strict=False)}

        def inside(node: Node, change: Tensor, value: Tensor) -> Tensor:
            passed = _through(node, change, value)
            if node.index in joins:
                passed += _fitted(joins[node.index], passed) * _reacting(node, value)
            found[node.index] = _over_space(passed * self._arrived.pop(node.index))
            return passed.mul_(_fitted(given[node.index], passed))

        direction = (slopes.pixels * self.x).flatten(0, 1)
        self._traced.tangent(self._branched(len(masks)), direction, _side_by_side(inside))
        return torch.cat([found[node.index] for node in self.gates], -1)

    def greedy(self) -> Tensor:
        r"""Return hard masks, top down: keep the filters that speak for the branch.

        At each gate the contribution of filter *c* is :math:`a_c = \sum_{\mathrm{space}} s_c h_c`,
        with the signal *s* as the masks above leave it and the activation *h*. The positive branch
        keeps :math:`a_c > 0`, the negative one :math:`a_c < 0`. For one hidden layer without biases
        that is the best there is: there *h* is the gated pass :math:`p = D W x`, and a mask's slope
        is the sum of :math:`s_c p_c`. With biases, or in deeper networks, it is a heuristic: *h*
        counts what a bias has put in, which is in no branch, and the two sums may differ in sign.
        Where a single filter contributes there is nothing to tell apart, and it stays: an
        activation of the logit itself, say.
        """
        chosen: dict[int, Tensor] = {}

        def inside(node: Node, signal: Tensor, value: Tensor) -> Tensor:
            contribution = _over_space(signal * _reacting(node, value))
            alone = (contribution != 0).sum(-1, keepdim=True) == 1
            speaks = branch_signs(contribution) * contribution > 0
            chosen[node.index] = (alone | speaks).to(signal.dtype)
            passed = _through(node, signal, value)
            return passed.mul_(_fitted(chosen[node.index], passed))

        self._back(BRANCHES, inside)
        return torch.cat([chosen[node.index] for node in self.gates], -1)

    def keep_slopes(self) -> None:
        """Keep of every activation only its slope, in one byte where it is 0 or 1.

        That is all that a search needs, unless its objective judges filters; no more can be done
        by `greedy` then.
        """
        for node in () if self._needs_filters else self.gates:
            assert isinstance(node.operation, Gate)
            slope = node.operation.slope(self._record.value(node.index))
            if bool(((slope == 0) | (slope == 1)).all()):
                self._record.values[node.index] = slope.bool()

    def _by_gate(self, masks: Tensor) -> dict[int, Tensor]:
        return {n.index: m for n, m in zip(self.gates, self.split(masks), strict=True)}

    def _back(self, branches: int, inside: _Inside) -> Tensor:
        start = torch.cat([self._start] * branches)
        signal = self._traced.backward(self._branched(branches), start, _side_by_side(inside))
        return signal.view(branches, *self.x.shape)

    def _branched(self, branches: int) -> Record:
        """Return the record for a batch of so many branches; gates need the values only once."""
        indices = self._indices if branches == BRANCHES else self._record.indices
        kept = self._record
        return Record(kept.output, kept.values, indices, kept.memory_format)


def _side_by_side(inside: _Inside) -> graph.GateRule:
    """Turn a rule for signals (B, N, C, ...) and activations (N, C, ...) into a gate rule."""

    def gate(node: Node, signal: Tensor, record: Record) -> Tensor:
        value = record.value(node.index)
        return inside(node, signal.view(-1, *value.shape), value).flatten(0, 1)

    return gate


def _through(node: Node, signal: Tensor, value: Tensor) -> Tensor:
    """Return a new tensor: the signals (B, N, ...) times the slopes of the activations (N, ...)."""
    assert isinstance(node.operation, Gate)
    if value.dtype == torch.bool:  # the slope itself
        return signal * value
    return node.operation.backward(signal, value)


def _with_offset(node: Node, signal: Tensor, record: Record) -> Tensor:
    """Let a signal through a gate, and add the constant that a saturated activation puts out."""
    value = record.value(node.index)
    return graph.gated(node, signal, record) + (value - _reacting(node, value))


def _reacting(node: Node, value: Tensor) -> Tensor:
    """Return the activations that follow their inputs, 0 in place of the saturated ones."""
    assert isinstance(node.operation, Gate)
    return (
        value
        if isinstance(node.operation, graph.ReLU)
        else value * (node.operation.slope(value) != 0)
    )


def _over_space(values: Tensor) -> Tensor:
    """Sum (B, N, C, ...) over the dimensions after the channels; (B, N) is one channel."""
    if values.ndim == 2:
        return values[..., None]
    return values.flatten(3).sum(3) if values.ndim > 3 else values


def _fitted(factors: Tensor, values: Tensor) -> Tensor:
    """Return factors (B, N, C) with the number of dimensions that ``values`` has."""
    missing = [1] * (values.ndim - factors.ndim)
    return factors.reshape(*factors.shape[: values.ndim], *missing)
