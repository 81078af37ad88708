"""A network with masks on its filters: the masked backward pass and its gradient."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from xaiutils import graph
from xaiutils.attribution._common import Resolved, start_signal
from xaiutils.attribution._dmbp_objectives import Evidence, branch_signs
from xaiutils.attribution._dmbp_places import (
    Ground,
    Place,
    Places,
    last_maps,
    placed,
    shift_before,
)
from xaiutils.attribution._rules import total_of
from xaiutils.graph import Gate, Graph, Node, Record, Shape

BRANCHES = 2  # the positive and the negative one
Biases = Literal["aside", "masked"]
BIASES = ("aside", "masked")
_Inside = Callable[[Node, Tensor, Tensor], Tensor]


class Masked:
    r"""B masked networks on top of one forward pass, which run side by side in one batch.

    Every filter of every activation has a mask, or every filter of every layer. With the fixed
    slopes :math:`D_l` of the forward pass and the masks :math:`M_l`, constant over space, a signal
    goes back as

    .. math:: s_l = W_{l+1}^\top \delta_{l+1}, \qquad \delta_l = M_l D_l s_l, \qquad
              J = W_1^\top \delta_1

    Masks are one tensor (B, N, F): for each branch and image the numbers of all filters, gate by
    gate in the order of execution. The activation after a residual addition is one of the gates.

    Biases may be *inputs* like the pixels, as in the full-gradient representation (Srinivas and
    Fleuret 2019, proposition 1). The bias :math:`b_l` of a layer, and what a saturated activation
    adds, enter where they are, under the mask of their own filter and of all that follow: a branch
    then holds :math:`B_l = \delta_l \odot b_l` of it, with :math:`\delta_l` the signal behind the
    masks. For masks of 1 pixels and biases sum to the output with nothing put aside. The evidence
    of a branch is :math:`R = J \odot x + \sum_l Q_l B_l`, where :math:`Q_l` spreads the places of
    a layer over the pixels below them.

    Attributes:
        x: The images (N, ...).
        gates: The nodes whose filters are masked.
        output: The explained output, (N,) float64.
        bias: What the biases and the saturated activations contribute to it, (N,) float64; 0 where
            they are masked inputs.
        whole: The evidence of the unmasked network, one branch.
        bias_maps: Where biases are masked inputs, what they contribute to each branch of the last
            call of :meth:`backward`, spread over the pixels: (B, N, 1, H, W); None elsewhere.
        whole_biases: The same of the unmasked network, (N, 1, H, W), or None.
        whole_pixels: :math:`J \odot x` of the unmasked network, (N, ...).
    """

    bias_maps: Tensor | None = None

    def __init__(
        self,
        traced: Graph,
        x: Tensor,
        explained: Resolved,
        needs_filters: bool,
        *,
        places: Places = "activations",
        biases: Biases = "aside",
        needs_net: bool = False,
    ) -> None:
        """Run the network forwards, and backwards without masks.

        Args:
            traced: The network, which has at least one gate.
            x: The images.
            explained: What is explained of the outputs.
            needs_filters: Whether evidence is to tell the relevance of filters.
            places: Where masks sit, see :func:`~xaiutils.attribution._dmbp_places.placed`.
            biases: Whether they are put aside, or inputs with masks.
            needs_net: Whether the evidence of the unmasked network is to tell the net evidence of
                its last maps.
        """
        self.x = x
        traced, chosen = placed(traced, places, biases == "masked")
        self.gates = [node for node in traced.nodes if node.index in chosen]
        self._needs_filters = needs_filters
        self._traced = traced
        maps = last_maps(traced)
        self._record = traced.record(x, traced.needed | ({maps.index} if needs_net else set()))
        self._start = start_signal(explained, self._record.output)
        self._indices = {k: torch.cat([v, v]) for k, v in self._record.indices.items()}
        self._arrived: dict[int, Tensor] = {}
        self._ground = Ground(tuple(x.shape[1:]))
        self._offsets = self._biases() if biases == "masked" else {}
        self.output = self._explained(self._record.output)
        nothing = torch.zeros_like(x)
        aside = traced.tangent(self._record, nothing, _with_offset, True)
        self.bias = self._explained(aside) * (biases == "aside")
        self._masks_biases = biases == "masked"
        mapping, whole = self.backward(self.ones()[:1], keep=False)
        self.whole_pixels = mapping[0] * x if biases == "masked" else whole.pixels[0]
        self.whole_biases = None if self.bias_maps is None else self.bias_maps[0]
        net = self._net(maps) if needs_net else None
        self.whole = Evidence(whole.pixels, whole.filters, net)

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

    def _biases(self) -> dict[int, _Offset]:
        """Return what enters at each gate where something does."""
        entering = dict[int, _Offset]()
        for node in self._traced.nodes:
            if not isinstance(node.operation, Gate):
                continue
            shift, value = shift_before(self._traced, node), self._record.value(node.index)
            saturated = None
            if isinstance(node.operation, graph.Clamp):
                saturated = value - _reacting(node, value)
            if shift is not None or saturated is not None:
                entering[node.index] = _Offset(shift, saturated)
        return entering

    def _net(self, maps: Node) -> Tensor:
        r"""Return HiResCAM at some maps, spread over the pixels, (N, 1, H, W).

        Its cells are :math:`\sum_k A_k\, \partial f / \partial A_k` (Draelos and Carin 2020).
        """
        slopes = self._traced.backward(self._record, self._start, until=maps.index)
        cells = slopes * self._record.value(maps.index)
        size = self._ground.size(maps)
        sums = _to_places(cells[None], size)
        if maps.index not in self._traced.needed:
            self._record.values[maps.index] = None
        return self._ground.spread({size: sums}, self.x[None])[0]

    def backward(self, masks: Tensor, keep: bool = True) -> tuple[Tensor, Evidence]:
        """Return the mappings J of each branch (B, N, ...) and the evidence in them.

        Args:
            masks: (B, N, F).
            keep: Whether to keep the signals that arrive at the gates until :meth:`mask_gradient`
                has used them. They need twice the memory of all activations.
        """
        given, filters = self._by_gate(masks), dict[int, Tensor]()
        parts = dict[Shape | None, Tensor]()
        self._arrived.clear()

        def inside(node: Node, signal: Tensor, value: Tensor) -> Tensor:
            if node.index not in given:
                passed = _through(node, signal, value)
                self._collect(parts, node, signal, passed, None)
                return passed
            if keep:
                self._arrived[node.index] = signal
            mask = given[node.index]
            if self._needs_filters:
                filters[node.index] = mask * _over_space(signal * _reacting(node, value))
            passed = _through(node, signal, value).mul_(_fitted(mask, signal))
            self._collect(parts, node, signal, passed, mask)
            return passed

        mappings = self._back(len(masks), inside)
        found = tuple(filters[node.index] for node in self.gates) if filters else ()
        pixels = mappings * self.x
        if self._masks_biases:
            self.bias_maps = self._ground.spread(parts, pixels)
            pixels = pixels + self._ground.over_colours(self.bias_maps)
        return mappings, Evidence(pixels, found)

    def _collect(
        self,
        parts: dict[Shape | None, Tensor],
        node: Node,
        signal: Tensor,
        passed: Tensor,
        mask: Tensor | None,
    ) -> None:
        """Add what enters at a gate, times the signal that leads from there to the output."""
        offset = self._offsets.get(node.index)
        if offset is None:
            return
        size = self._ground.size(node)
        if offset.shift is not None:
            _add(parts, size, _to_places(passed * offset.shift, size))
        if offset.saturated is not None:
            masked = signal if mask is None else signal * _fitted(mask, signal)
            _add(parts, size, _to_places(masked * offset.saturated, size))

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
        enter = self._entering(slopes.pixels)

        def inside(node: Node, change: Tensor, value: Tensor) -> Tensor:
            passed = enter(node, change, value)
            if node.index in joins:
                passed += _fitted(joins[node.index], passed) * _reacting(node, value)
            if node.index not in given:
                return passed
            found[node.index] = _over_space(passed * self._arrived.pop(node.index))
            return passed.mul_(_fitted(given[node.index], passed))

        direction = (slopes.pixels * self.x).flatten(0, 1)
        self._traced.tangent(self._branched(len(masks)), direction, _side_by_side(inside))
        return torch.cat([found[node.index] for node in self.gates], -1)

    def _entering(self, slopes: Tensor) -> _Inside:
        """Return what a gate does to a change: slopes for the pixels reach the biases as well."""
        if not self._offsets:
            return _through
        ground = self._ground.under_colours(slopes)
        sizes = {self._ground.size(node) for node in self._traced.nodes}
        weights = {size: self._ground.gather(ground, size) for size in sizes}

        def enter(node: Node, change: Tensor, value: Tensor) -> Tensor:
            offset = self._offsets.get(node.index)
            if offset is None:
                return _through(node, change, value)
            weight = weights[self._ground.size(node)]
            weight = weight.view(*weight.shape, *[1] * (change.ndim - weight.ndim))
            if offset.shift is not None:
                change = change + weight * offset.shift
            passed = _through(node, change, value)
            return passed if offset.saturated is None else passed + weight * offset.saturated

        return enter

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
        return self._sorted(_reacting)

    def greedy_slopes(self) -> Tensor:
        r"""Return hard masks, top down: keep the filters whose mask has a slope of the right sign.

        As :meth:`greedy`, but sorted by :math:`q_c = \sum_{\mathrm{space}} s_c p_c`, with
        :math:`p = D W u` the gated pass of the input through the network without masks. Biases that
        are put aside are not in it, those that are masked inputs are; then *p* is the activation.

        *Hypothesis:* all masks below are 1. Then :math:`q_c` is the slope of the branch's sum
        :math:`f^m` with respect to :math:`m_c` exactly, and as :math:`f^m` is linear in the masks
        of one gate, no other masks of that gate give more, whatever the biases. With one masked
        gate on each path, a network of one hidden layer say, they are therefore the best of all. In
        deeper networks the hypothesis fails, for the masks below are not 1, and the choice is a
        heuristic.
        """
        if self._masks_biases:
            return self._sorted(lambda _, value: value)
        passes = dict[int, Tensor]()

        def gate(node: Node, change: Tensor, record: Record) -> Tensor:
            passes[node.index] = _through(node, change, record.value(node.index))
            return passes[node.index]

        self._traced.tangent(self._record, self.x, gate)
        return self._sorted(lambda node, _: passes[node.index])

    def _sorted(self, weigh: Callable[[Node, Tensor], Tensor]) -> Tensor:
        """Keep, top down, the filters whose signal times a weight has the sign of the branch."""
        chosen: dict[int, Tensor] = {}
        wanted = {node.index for node in self.gates}

        def inside(node: Node, signal: Tensor, value: Tensor) -> Tensor:
            if node.index not in wanted:
                return _through(node, signal, value)
            contribution = _over_space(signal * weigh(node, value))
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
        for node in () if self._needs_filters else self._traced.nodes:
            if not isinstance(node.operation, Gate):
                continue
            value = self._record.value(node.index)
            if isinstance(node.operation, Place):
                self._record.values[node.index] = torch.ones(
                    (), dtype=torch.bool, device=value.device
                ).expand(value.shape)
                continue
            slope = node.operation.slope(value)
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


class _Offset:
    """What enters the network at a gate besides its inputs.

    Attributes:
        shift: The bias of the layer before it, broadcastable to its output, or None.
        saturated: What the gate puts out where it does not follow its input, (N, C, ...), or None.
    """

    def __init__(self, shift: Tensor | None, saturated: Tensor | None) -> None:
        self.shift, self.saturated = shift, saturated


def _to_places(values: Tensor, size: Shape | None) -> Tensor:
    """Sum (B, N, C, ...) over the channels, and over the places too if there are none."""
    return values.flatten(2).sum(2) if size is None else values.sum(2, keepdim=True)


def _add(parts: dict[Shape | None, Tensor], size: Shape | None, part: Tensor) -> None:
    parts[size] = parts[size] + part if size in parts else part


def _side_by_side(inside: _Inside) -> graph.GateRule:
    """Turn a rule for signals (B, N, C, ...) and activations (N, C, ...) into a gate rule."""

    def gate(node: Node, signal: Tensor, record: Record) -> Tensor:
        value = record.value(node.index)
        return inside(node, signal.view(-1, *value.shape), value).flatten(0, 1)

    return gate


def _through(node: Node, signal: Tensor, value: Tensor) -> Tensor:
    """Return a new tensor: the signals (B, N, ...) times the slopes of the activations (N, ...)."""
    assert isinstance(node.operation, Gate)
    if isinstance(node.operation, Place):
        return signal.clone()
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
