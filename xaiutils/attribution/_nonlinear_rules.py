r"""Rules for operations in which signals meet: products, normalisation, softmax.

None of them is a weighted sum, so that nothing says of itself what a contribution is. Each rule
here makes one that is: it holds some part of the operation at the value that it has, and shares
relevance in the linear operation that is left, or takes the first terms of a Taylor series.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from xaiutils.attribution._rules import Epsilon, Outcome, Rule, Step, total_of
from xaiutils.graph import Nonlinear, Product


@dataclass(frozen=True, eq=False)
class NonlinearStep:
    """One operation that is neither linear nor a gate, on the way back.

    Attributes:
        operation: The operation.
        inputs: What it read at the forward pass.
        output: Its output.
        relevance: The relevance that arrived at its output.
        bias: ``"absorb"``, ``"ignore"`` or ``"redistribute"``.
        count: Whether to count what was absorbed.
    """

    operation: Nonlinear
    inputs: tuple[Tensor, ...]
    output: Tensor
    relevance: Tensor
    bias: str
    count: bool

    def held(self, free: int, relevance: Tensor) -> Step:
        """Return the step of the linear operation on one input, the others held.

        Raises:
            ValueError: If nothing is known that makes the operation linear.
        """
        try:
            operation = self.operation.held(free, self.inputs)
        except NotImplementedError as error:
            raise ValueError(f"{error}; Taylor() works everywhere") from None
        inputs = (self.inputs[free],)
        return Step(operation, inputs, self.output, relevance, False, False, self.bias, self.count)

    def only(self, free: int, outcome: Outcome) -> Outcome:
        """Return an outcome in which the other inputs get nothing."""
        parts = [torch.zeros_like(x, dtype=self.relevance.dtype) for x in self.inputs]
        parts[free] = outcome.relevances[0]
        return Outcome(tuple(parts), outcome.bias, outcome.stabiliser, outcome.dead)


@dataclass(frozen=True)
class NonlinearRule:
    """A way of sharing out relevance where there are no weights; derive your own from it."""

    def apply(self, step: NonlinearStep) -> Outcome:
        """Pass the relevance of a step on to its inputs."""
        raise NotImplementedError


@dataclass(frozen=True)
class Held(NonlinearRule):
    r"""The deviation of a normalisation is held at its value, and shares go by another rule.

    :math:`y = (x - \bar x) / \sigma` with a fixed :math:`\sigma` is linear. With
    :class:`Epsilon` this is what Ali et al. 2022 propose for LayerNorm, and LRP without any
    conservation lost: :math:`\sum_i R_i = \sum_j R_j`.

    Attributes:
        rule: The rule for the linear operation that is left.
    """

    rule: Rule = field(default_factory=Epsilon)

    def apply(self, step: NonlinearStep) -> Outcome:
        """Pass the relevance of a step on to its first input."""
        return step.only(0, self.rule.apply(step.held(0, step.relevance)))


@dataclass(frozen=True)
class SignalTakesAll(NonlinearRule):
    r"""Of a product, the signal gets everything and its gate nothing (Arras et al. 2017).

    For :math:`y = a \cdot g` with a gate *g* (a sigmoid, the weights of an attention, one over a
    measured size), :math:`R_a = R` and :math:`R_g = 0`. For the product of attention and values
    this holds the attention at its value, as Ali et al. 2022 do. Where none of the two factors is
    plainly a gate, both get one :class:`Half`.

    Attributes:
        rule: The rule for the linear operation that is left when the gate is held.
    """

    rule: Rule = field(default_factory=Epsilon)

    def apply(self, step: NonlinearStep) -> Outcome:
        """Pass the relevance of a step on to the signal."""
        operation = step.operation
        if not isinstance(operation, Product) or operation.signal is None:
            return Half(self.rule).apply(step)
        signal = operation.signal
        return step.only(signal, self.rule.apply(step.held(signal, step.relevance)))


@dataclass(frozen=True)
class Half(NonlinearRule):
    r"""Each factor of a product gets one half (Achtibat et al. 2024, their uniform rule).

    The derivative of :math:`y = a \cdot b` weighs both factors alike, so that a Taylor series
    counts *y* twice. Hence :math:`R_a = R_b = R / 2`, and for matrices
    :math:`R_{a_{ji}} = \sum_p \frac{a_{ji} b_{ip}}{2 y_{jp}} R_{jp}`.

    Attributes:
        rule: The rule by which each factor's half is shared, the other factor held.
    """

    rule: Rule = field(default_factory=Epsilon)

    def apply(self, step: NonlinearStep) -> Outcome:
        """Pass half of the relevance of a step on to each factor."""
        if len(step.inputs) != 2:
            return Taylor().apply(step)
        halves = [self.rule.apply(step.held(i, step.relevance / 2)) for i in (0, 1)]
        return Outcome(
            tuple(half.relevances[0] for half in halves),
            *(
                sum(getattr(half, name) for half in halves)
                for name in ("bias", "stabiliser", "dead")
            ),
        )


@dataclass(frozen=True)
class Taylor(NonlinearRule):
    r"""The first-order terms of a Taylor series at the input itself; the rest is remainder.

    .. math:: R_i = x_i \sum_j \frac{\partial y_j}{\partial x_i} \frac{R_j}{y_j}

    For a softmax this is :math:`R_i = x_i (R_i^{\text{out}} - y_i \sum_j R_j^{\text{out}})`
    (Achtibat et al. 2024), which does not conserve: what is missing would belong to the constant
    term. It is counted as ``remainder``. For a maximum it gives all to the winner.
    """

    def apply(self, step: NonlinearStep) -> Outcome:
        """Pass on the first-order terms."""
        signal = torch.where(step.output == 0, 0.0, step.relevance / step.output)
        found = step.operation.backward(signal, step.inputs)
        parts = tuple(
            torch.zeros_like(x, dtype=signal.dtype)
            if slope is None
            else torch.where(slope == 0, 0.0, x * slope)  # x may be minus infinity there
            for x, slope in zip(step.inputs, found, strict=True)
        )
        if not step.count:
            return Outcome(parts)
        rest = total_of(step.relevance) - torch.stack([total_of(part) for part in parts]).sum(0)
        return Outcome(parts, remainder=rest)
