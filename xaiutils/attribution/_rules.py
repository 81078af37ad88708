r"""The rules of layer-wise relevance propagation, as frozen data.

A linear operation has computed :math:`z_j = \sum_i z_{ij} + b_j` with the contributions
:math:`z_{ij} = w_{ji} a_i`. A rule says which share of the relevance :math:`R_j` that arrives at
output *j* goes to each input *i*. Every share is counted: what does not reach the inputs was
absorbed by the bias, by the stabiliser, or at *dead* outputs, those to which no input contributed
in the way that the rule asks for.

**Signed activations.** Most derivations assume inputs :math:`a_i \ge 0` and outputs that a ReLU
follows. Linear bottlenecks and residual branches have neither. Here a contribution counts as a
whole, :math:`z_{ij} = w_{ji} a_i` with the signs of both, and what a rule says of "positive"
contributions holds for those that *agree* with the output, that is, have the sign of :math:`z_j`
(``follow_sign=True``): it is the evidence for the value that the next layer read. For
:math:`a \ge 0` and outputs that a ReLU follows this is the rule as published.
``follow_sign=False`` takes "positive" literally everywhere.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from xaiutils.graph import LinearOperation, Shape

BIAS_TREATMENTS = ("absorb", "ignore", "redistribute")


@dataclass(frozen=True, eq=False)
class Step:
    """One linear operation on the way back, with everything that a rule may look at.

    Attributes:
        operation: The operation.
        inputs: Its inputs at the forward pass.
        output: Its output; where no relevance can arrive (``positive``) it may be off.
        relevance: The relevance that arrived at its output; a rule may overwrite it.
        nonnegative: Whether no input can be negative.
        positive: Whether relevance can only arrive where the output is positive.
        bias: ``"absorb"``, ``"ignore"`` or ``"redistribute"``.
        count: Whether to count what was absorbed.
    """

    operation: LinearOperation
    inputs: tuple[Tensor, ...]
    output: Tensor
    relevance: Tensor
    nonnegative: bool
    positive: bool
    bias: str
    count: bool

    @property
    def shapes(self) -> list[Shape]:
        """The shapes of the inputs, without the batch."""
        return [tuple(x.shape[1:]) for x in self.inputs]

    @property
    def bias_counts(self) -> bool:
        """Whether a bias has a part in the shares."""
        return self.bias != "ignore" and self.operation.shift() is not None

    @property
    def bias_matters(self) -> bool:
        """Whether anybody asks how large the share of the bias is."""
        return self.bias_counts and (self.count or self.bias == "redistribute")

    @property
    def total_positive(self) -> bool:
        """Whether relevance can only arrive where :meth:`total` is positive."""
        return self.positive and (self.bias_counts or self.operation.shift() is None)

    def run(self, operation: LinearOperation, *inputs: Tensor) -> Tensor:
        """Return what an operation like this step's makes of some inputs, with its bias or not."""
        return operation.forward(*inputs) if self.bias_counts else operation.linear(*inputs)

    def total(self) -> Tensor:
        """Return the output, or where its bias does not count, what it is without."""
        if self.bias_counts or self.operation.shift() is None:
            return self.output
        return self.operation.linear(*self.inputs)  # z - b would leave the rounding of b

    def times_inputs(self, parts: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Return each input times its part, in the part's place where nobody else holds it."""
        if self.operation.new_transpose:
            return tuple(part.mul_(a) for a, part in zip(self.inputs, parts, strict=True))
        return tuple(part * a for a, part in zip(self.inputs, parts, strict=True))


@dataclass(frozen=True, eq=False)
class Outcome:
    """What a rule did: relevance for each input, and what was absorbed, summed for each image."""

    relevances: tuple[Tensor, ...]
    bias: Tensor | float = 0.0
    stabiliser: Tensor | float = 0.0
    dead: Tensor | float = 0.0
    remainder: Tensor | float = 0.0


@dataclass(frozen=True)
class Rule:
    """A way of sharing out relevance; a rule of your own is a class derived from this one.

    Attributes:
        proportional: Whether an input that was zero never receives any. Only where this is said
            are values left out of account, and memory saved, at which no relevance can arrive.
    """

    proportional: ClassVar[bool] = False

    def apply(self, step: Step) -> Outcome:
        """Pass the relevance of a step on to its inputs."""
        raise NotImplementedError


# ----------------------------------------------------------- shares of weighted contributions


class Weights(NamedTuple):
    """How much contributions count that agree with the output, or oppose it; see the rules."""

    agree: float
    oppose: float
    epsilon: float = 0.0
    follow_sign: bool = True


@dataclass(frozen=True)
class Weighted(Rule):
    r"""Contributions that agree with the output count ``agree`` times, the others ``oppose`` times.

    With :math:`\sigma_j = \operatorname{sign} z_j`,

    .. math:: R_i = \sum_j \frac{c\, z_{ij} + d\, \sigma_j |z_{ij}|}{D_j} R_j, \qquad
              c = \tfrac12(\mathrm{agree} + \mathrm{oppose}),\;
              d = \tfrac12(\mathrm{agree} - \mathrm{oppose})

    where :math:`D_j` is the sum of the numerators over the inputs and the bias. So one more pass
    with :math:`|W|` and :math:`|a|` is all that any of these rules costs.
    """

    proportional: ClassVar[bool] = True

    def weights(self) -> Weights:
        """Return how much each kind of contribution counts."""
        raise NotImplementedError

    def apply(self, step: Step) -> Outcome:
        """Pass the relevance of a step on to its inputs."""
        agree, oppose, _, _ = self.weights()
        if step.nonnegative and step.operation.keeps_sign():  # nothing opposes anything
            agree = oppose
        if agree == oppose:
            return self._share(step, step.operation, step.total())
        if step.total_positive and step.nonnegative:  # only the sign of the weight matters then
            mixed = step.operation.reweighted(
                lambda w: w.clamp(min=0).mul_(agree - oppose).add_(w, alpha=oppose)
            )
            return self._share(step, mixed, step.run(mixed, *step.inputs))
        return self._share_signed(step, (agree + oppose) / 2, (agree - oppose) / 2)

    def _share(self, step: Step, operation: LinearOperation, total: Tensor) -> Outcome:
        """Share in proportion to the contributions in ``operation``, which sum to ``total``."""
        signal, stabiliser, dead = _divide(step, total, self.weights().epsilon)
        relevances = step.times_inputs(operation.transpose(signal, step.shapes))
        shift = operation.shift()
        if not step.bias_matters or shift is None:
            return Outcome(relevances, 0.0, stabiliser, dead)
        return _with_bias(step, relevances, _times(signal, shift), stabiliser, dead)

    def _share_signed(self, step: Step, c: float, d: float) -> Outcome:
        """Any signs: the contributions and their absolute values, each in a pass of its own."""
        follow_sign = self.weights().follow_sign
        absolute = step.operation.reweighted(torch.abs)
        sizes = tuple(a.abs() for a in step.inputs)
        net = step.total()
        sign = _sign(net) if follow_sign else torch.ones_like(net)
        size = step.run(absolute, *sizes)
        total = torch.mul(net, c).addcmul_(sign, size, value=d)
        if not follow_sign:  # the sum may cancel, and what is left is rounding
            total.masked_fill_(total.abs() <= _ROUNDING * _resolution(size) * size, 0.0)
        signal, stabiliser, dead = _divide(step, total, self.weights().epsilon)
        relevances = step.times_inputs(step.operation.transpose(signal * c, step.shapes))
        sign.mul_(signal).mul_(d)
        for r, a, part in zip(
            relevances, sizes, absolute.transpose(sign, step.shapes), strict=True
        ):
            r.addcmul_(a, part)
        shift = step.operation.shift()
        if not step.bias_matters or shift is None:
            return Outcome(relevances, 0.0, stabiliser, dead)
        share = _times(signal, c * shift) + _times(sign, shift.abs())
        return _with_bias(step, relevances, share, stabiliser, dead)


@dataclass(frozen=True)
class Epsilon(Weighted):
    r"""Shares in proportion to the contributions (Bach et al. 2015, eq. 58; Samek et al., eq. 6).

    .. math:: R_i = \sum_j \frac{z_{ij}}{z_j + \epsilon \operatorname{sign}(z_j)} R_j

    It conserves relevance but for what the biases and :math:`\epsilon` absorb. With
    ``epsilon=0`` this is LRP-0, which on a ReLU network is the input times the gradient; where a
    sum cancels its shares have no bound.

    Attributes:
        epsilon: The stabiliser, in units of the outputs.
    """

    epsilon: float = 1e-6

    def __post_init__(self) -> None:
        _require(self.epsilon >= 0, f"epsilon must not be negative, but is {self.epsilon}")

    def weights(self) -> Weights:
        """Return equal weights."""
        return Weights(1.0, 1.0, self.epsilon)


@dataclass(frozen=True)
class Gamma(Weighted):
    r"""Favours agreeing contributions (Montavon et al. 2019, table 10.1; signed, generalised).

    .. math:: R_i = \sum_j \frac{z_{ij} + \gamma z_{ij}^{\sigma_j}}
                                {\sum_{i'} (z_{i'j} + \gamma z_{i'j}^{\sigma_j})} R_j

    where :math:`z^{\sigma}` is the part that has the sign of the output. Because the output then
    wins over what opposes it, the absolute relevance grows by less than
    :math:`(2 + \gamma)/\gamma` in a layer. With ``follow_sign=False`` the positive part is meant
    whatever the output's sign; for a negative output the denominator can then cancel, and the
    relevance explodes.

    Attributes:
        gamma: How much more agreeing contributions count; 0 gives LRP-0, infinity z+.
        follow_sign: See the head of this module.
    """

    gamma: float = 0.25
    follow_sign: bool = True

    def __post_init__(self) -> None:
        _require(
            0 <= self.gamma < math.inf, f"gamma must be a number from 0 up, but is {self.gamma}"
        )

    def weights(self) -> Weights:
        """Return more for what agrees."""
        return Weights(1.0 + self.gamma, 1.0, follow_sign=self.follow_sign)


@dataclass(frozen=True)
class ZPlus(Weighted):
    r"""Shares among the agreeing contributions only (Montavon et al. 2017, the z+ rule).

    .. math:: R_i = \sum_j \frac{z_{ij}^{\sigma_j}}{\sum_{i'} z_{i'j}^{\sigma_j}} R_j

    Relevance keeps its sign on the way. It conserves but for what biases absorb: a bias that agrees
    with the output gets its share, and all of it where no input agrees (a depthwise kernel that is
    negative throughout, whose output is positive by its bias). With ``bias="ignore"`` the output
    is read without its bias; something then agrees with it unless all its inputs are 0.

    Attributes:
        follow_sign: See the head of this module.
    """

    follow_sign: bool = True

    def weights(self) -> Weights:
        """Return nothing for what opposes."""
        return Weights(1.0, 0.0, follow_sign=self.follow_sign)


# --------------------------------------------------------------------------- other proportional


@dataclass(frozen=True)
class AlphaBeta(Rule):
    r"""Agreeing and opposing contributions, each shared separately (Bach et al. 2015, eq. 60).

    .. math:: R_i = \sum_j \Bigl(\alpha \frac{z_{ij}^+}{\sum_{i'} z_{i'j}^+}
                               + \beta \frac{z_{ij}^-}{\sum_{i'} z_{i'j}^-}\Bigr) R_j,
              \qquad \alpha + \beta = 1

    in the convention of Samek et al. (eq. 7), where :math:`\beta` is negative: alpha 2, beta -1.
    Others write :math:`\alpha - \beta = 1` with a positive :math:`\beta`. For a negative output
    the two parts change places. Where one of the two sums is empty its share, :math:`\alpha R_j` or
    :math:`\beta R_j`, is counted as dead: an output that nothing opposes hands on
    :math:`\alpha R_j`, and the rule cannot conserve there. Absolute relevance grows by up to
    :math:`\alpha + |\beta|` in a layer.

    The smaller of the two sums is found as a difference. It counts as empty below 64 times the
    rounding of its terms, and just above that it is known to 1/64 only, and so is its share. In
    the account of a layer that is a gap; where many outputs are of this kind the whole account
    stays open by some 1e-4 of the start.

    Attributes:
        alpha: The weight of agreeing contributions, at least 1.
        beta: The weight of opposing ones, 1 - alpha.
        follow_sign: See the head of this module.
    """

    proportional: ClassVar[bool] = True

    alpha: float = 2.0
    beta: float = -1.0
    follow_sign: bool = True

    def __post_init__(self) -> None:
        _require(
            math.isclose(self.alpha + self.beta, 1.0),
            f"alpha + beta must be 1 (beta is negative here), but is {self.alpha + self.beta}",
        )
        _require(self.alpha >= 1, f"alpha must be at least 1, but is {self.alpha}")

    def apply(self, step: Step) -> Outcome:
        """Pass the relevance of a step on to its inputs."""
        total = step.total()
        positive = self._positive_sum(step, total)
        negative = positive - total  # its size
        rounding = (positive + negative).mul_(_ROUNDING * _resolution(total))
        up, down = self._halves(step, total)
        dead: Tensor | float = 0.0
        for half, part in ((up, positive), (down, negative)):
            empty = part <= rounding
            if step.count:
                dead = dead + total_of(half * empty)
            half.div_(part).masked_fill_(empty, 0.0)
        relevances = self._share(step, up, down)
        shift = step.operation.shift()
        if not step.bias_matters or shift is None:
            return Outcome(relevances, 0.0, 0.0, dead)
        share = _times(up, shift.clamp(min=0)) - _times(down, shift.clamp(max=0))
        return _with_bias(step, relevances, share, 0.0, dead)

    @staticmethod
    def _positive_sum(step: Step, total: Tensor) -> Tensor:
        """Return the sum of the positive contributions, the bias's included where it counts."""
        if step.nonnegative:
            return step.run(step.operation.reweighted(_positive_part), *step.inputs)
        absolute = step.operation.reweighted(torch.abs)
        return step.run(absolute, *(a.abs() for a in step.inputs)).add_(total).div_(2)

    def _halves(self, step: Step, total: Tensor) -> tuple[Tensor, Tensor]:
        """Return the relevance for positive and for negative contributions."""
        up, down = step.relevance * self.alpha, step.relevance.mul_(self.beta)
        if step.total_positive or not self.follow_sign:
            return up, down
        agrees = total >= 0
        return torch.where(agrees, up, down), torch.where(agrees, down, up)

    def _share(self, step: Step, up: Tensor, down: Tensor) -> tuple[Tensor, ...]:
        operation = step.operation
        if step.nonnegative:
            plus = operation.reweighted(_positive_part).transpose(up, step.shapes)
            minus = operation.reweighted(_negative_part).transpose(down, step.shapes)
            return step.times_inputs(
                tuple(torch.sub(p, m) for p, m in zip(plus, minus, strict=True))
            )
        both = step.times_inputs(operation.transpose((up - down) / 2, step.shapes))
        sizes = operation.reweighted(torch.abs).transpose((up + down) / 2, step.shapes)
        return tuple(
            r.addcmul_(a.abs(), s) for r, a, s in zip(both, step.inputs, sizes, strict=True)
        )


@dataclass(frozen=True)
class ZBox(Rule):
    r"""For inputs between known bounds, pixels above all (Montavon et al. 2017, the z^B rule).

    .. math:: R_i = \sum_j \frac{z_{ij} - l_i w_{ji}^+ - h_i w_{ji}^-}
                                {\sum_{i'} (z_{i'j} - l_{i'} w_{ji'}^+ - h_{i'} w_{ji'}^-)} R_j

    Biases have no part in it. It conserves wherever some input is not at the bound that is worst
    for the output.

    Attributes:
        low: The lower bounds *l*: a number, or one for each channel, in the units that the layer
            reads, which is after a normalisation inside the network. None takes the smallest value
            of each image, channel by channel.
        high: The upper bounds *h*, likewise.
    """

    low: float | tuple[float, ...] | None = None
    high: float | tuple[float, ...] | None = None

    def apply(self, step: Step) -> Outcome:
        """Pass the relevance of a step on to its inputs.

        Raises:
            ValueError: If an input lies outside the bounds.
        """
        (x,) = step.inputs
        above = x - self._bound(self.low, x, torch.amin)
        below = x - self._bound(self.high, x, torch.amax)
        if bool((above < 0).any()) or bool((below > 0).any()):
            raise ValueError(
                f"the input is not between low={self.low} and high={self.high} everywhere; give "
                "ZBox the bounds in the units that the layer reads (after normalisation)"
            )
        positive = step.operation.reweighted(_positive_part)
        negative = step.operation.reweighted(_negative_part)
        total = positive.linear(above) + negative.linear(below)
        signal, _, dead = _divide(step, total, 0.0)
        (up,), (down,) = (op.transpose(signal, step.shapes) for op in (positive, negative))
        return Outcome((above * up + below * down,), dead=dead)

    @staticmethod
    def _bound(
        bound: float | tuple[float, ...] | None, x: Tensor, extreme: Callable[..., Tensor]
    ) -> Tensor:
        if bound is None:
            return extreme(x, dim=tuple(range(2, x.ndim)), keepdim=True)
        given = torch.as_tensor(bound, dtype=x.dtype, device=x.device)
        _require(
            given.numel() in (1, x.shape[1]),
            f"ZBox has {given.numel()} bounds for inputs of {x.shape[1]} channels: {bound}",
        )
        return given.reshape(-1, *[1] * (x.ndim - 2))


# ------------------------------------------------------------------- whatever the inputs were


@dataclass(frozen=True)
class _Uniform(Rule):
    """Shares that do not look at the inputs: ``v_ji / sum_i v_ji`` for some ``v >= 0``."""

    @staticmethod
    def _value(weight: Tensor) -> Tensor:
        raise NotImplementedError

    def apply(self, step: Step) -> Outcome:
        """Pass the relevance of a step on to its inputs."""
        share = step.operation.reweighted(self._value)
        ones = [torch.ones_like(a[:1]) for a in step.inputs]
        signal, _, dead = _divide(step, share.linear(*ones), 0.0)
        return Outcome(share.transpose(signal, step.shapes), dead=dead)


@dataclass(frozen=True)
class WSquare(_Uniform):
    r"""Shares in proportion to the squared weights (Montavon et al. 2017, the w^2 rule).

    :math:`R_i = \sum_j w_{ji}^2 / \sum_{i'} w_{ji'}^2 \; R_j`. It conserves: nothing is absorbed
    but at outputs all of whose weights are zero.
    """

    @staticmethod
    def _value(weight: Tensor) -> Tensor:
        return weight.square()


@dataclass(frozen=True)
class Flat(_Uniform):
    r"""Equal shares for all inputs in the receptive field (Lapuschkin et al. 2019, the flat rule).

    :math:`R_i = \sum_j 1 / |\{i'\}| \; R_j`. It conserves. What it sends to the border that a
    separate padding has put around the image is counted as dead there.
    """

    @staticmethod
    def _value(weight: Tensor) -> Tensor:
        return torch.ones_like(weight)


@dataclass(frozen=True)
class Ratio(Rule):
    r"""Shares in proportion to the size of each contribution, whatever its sign.

    .. math:: R_i = \sum_j \frac{|z_{ij}|}{\sum_{i'} |z_{i'j}|} R_j

    At a residual addition this is the ratio-based splitting of Otsuki et al. 2024; their symmetric
    splitting is :class:`Flat`. Biases have no part in it, and no share exceeds what arrived.
    """

    proportional: ClassVar[bool] = True

    def apply(self, step: Step) -> Outcome:
        """Pass the relevance of a step on to its inputs."""
        absolute = step.operation.reweighted(torch.abs)
        sizes = tuple(a.abs() for a in step.inputs)
        signal, _, dead = _divide(step, absolute.linear(*sizes), 0.0)
        parts = absolute.transpose(signal, step.shapes)
        return Outcome(tuple(p * a for p, a in zip(parts, sizes, strict=True)), dead=dead)


@dataclass(frozen=True)
class Pass(Rule):
    """Hands the relevance on as it is; for operations with one input of the output's shape."""

    def apply(self, step: Step) -> Outcome:
        """Pass the relevance of a step on to its input.

        Raises:
            ValueError: If the operation has several inputs or changes the shape.
        """
        if len(step.inputs) != 1 or step.inputs[0].shape != step.relevance.shape:
            raise ValueError(f"Pass needs one input of the output's shape, not {step.shapes}")
        return Outcome((step.relevance,))


@dataclass(frozen=True)
class Zero(Rule):
    """Stops all relevance, and counts it as dead. The rule called LRP-0 is ``Epsilon(0.0)``."""

    proportional: ClassVar[bool] = True

    def apply(self, step: Step) -> Outcome:
        """Give nothing to the inputs."""
        dead = total_of(step.relevance) if step.count else 0.0
        return Outcome(tuple(torch.zeros_like(a) for a in step.inputs), dead=dead)


@dataclass(frozen=True)
class WithBias(Rule):
    """A rule with a treatment of biases of its own, whatever the others do.

    Attributes:
        rule: How relevance is shared.
        bias: ``"absorb"``, ``"ignore"`` or ``"redistribute"``, as in :func:`lrp`.

    Raises:
        ValueError: If there is no such treatment.
    """

    rule: Rule
    bias: str

    def __post_init__(self) -> None:
        choices = ", ".join(map(repr, BIAS_TREATMENTS))
        _require(self.bias in BIAS_TREATMENTS, f"bias must be one of {choices}, not {self.bias!r}")

    def apply(self, step: Step) -> Outcome:
        """Pass the relevance of a step on to its inputs."""
        return self.rule.apply(replace(step, bias=self.bias))


# ------------------------------------------------------------------------------------ arithmetic

_ROUNDING = 64.0  # a sum this many times smaller than the rounding of its terms counts as empty


def _resolution(x: Tensor) -> float:
    return torch.finfo(x.dtype).eps


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)


def _positive_part(weight: Tensor) -> Tensor:
    return weight.clamp(min=0)


def _negative_part(weight: Tensor) -> Tensor:
    return weight.clamp(max=0)


def _sign(x: Tensor) -> Tensor:
    """Return the sign of ``x``, with +1 for 0."""
    return (x < 0).to(x.dtype).mul_(-2.0).add_(1.0)


def _times(signal: Tensor, shift: Tensor) -> Tensor:
    """Return the product; nothing where no signal is, though a mask adds minus infinity there."""
    return (signal * shift).masked_fill_(signal == 0, 0.0)


def total_of(x: Tensor) -> Tensor:
    """Return the sum for each image, (N,) float64."""
    return x.reshape(len(x), -1).sum(1, dtype=torch.float64)


def _divide(
    step: Step, total: Tensor, epsilon: float
) -> tuple[Tensor, Tensor | float, Tensor | float]:
    """Return relevance per unit of ``total``, and what the stabiliser and dead outputs absorb.

    Where the total is 0 the output is dead and its signal 0.

    Raises:
        FloatingPointError: If a quotient is too large for the type.
    """
    if epsilon:
        total = total + (epsilon if step.total_positive else epsilon * _sign(total))
    signal = step.relevance / total if step.count else step.relevance.div_(total)
    dead: Tensor | float = 0.0
    if not _finite_sum(signal):
        empty = total.logical_not()
        signal.masked_fill_(empty, 0.0)
        if not _finite_sum(signal) and not bool(torch.isfinite(signal).all()):
            raise FloatingPointError("relevance overflowed")
        dead = total_of(step.relevance * empty) if step.count else 0.0
    stabiliser = total_of(signal * _sign(total)) * epsilon if epsilon and step.count else 0.0
    return signal, stabiliser, dead


def _finite_sum(x: Tensor) -> bool:
    """Whether the sum is finite; then all numbers are, and it is much faster than to ask each."""
    return bool(torch.isfinite(x.sum()))


def _with_bias(
    step: Step,
    relevances: tuple[Tensor, ...],
    share: Tensor,
    stabiliser: Tensor | float,
    dead: Tensor | float,
) -> Outcome:
    """Put an outcome together: the bias keeps its share, or hands it evenly to the inputs."""
    if step.bias == "absorb":
        return Outcome(relevances, total_of(share), stabiliser, dead)
    equal = step.operation.reweighted(torch.ones_like)
    count = equal.linear(*(torch.ones_like(a[:1]) for a in step.inputs))
    parts = equal.transpose(share / count, step.shapes)
    spread = tuple(r + part for r, part in zip(relevances, parts, strict=True))
    return Outcome(spread, 0.0, stabiliser, dead)
