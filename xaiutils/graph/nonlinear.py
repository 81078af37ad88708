r"""Operations in which signals meet or are measured, and gates whose slope is never constant.

A product :math:`y = a \cdot b`, a softmax or a division by the deviation is linear in none of the
ways that a rule could use. Each of them offers its derivative (:meth:`Nonlinear.backward` and
:meth:`Nonlinear.tangent`, by autograd) and, where that makes sense, the linear operation that it
becomes when all but one of its parts are held at the values that they have
(:meth:`Nonlinear.held`): a product with a fixed factor, a normalisation with a fixed deviation.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Self

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from xaiutils.graph.calls import Call
from xaiutils.graph.operations import (
    Gate,
    LinearCall,
    LinearOperation,
    Operation,
    Shape,
    WeightMap,
)


def _leaves(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Return copies to which autograd may attach something."""
    return [t.clone() if t.is_inference() else t.detach() for t in tensors]


@dataclass(frozen=True, eq=False)
class SmoothGate(Gate):
    """An activation that works element by element and is not piecewise linear: GELU, SiLU, tanh.

    Attributes:
        call: The activation, of one signal.
    """

    call: Call
    needs_input: ClassVar[bool] = True

    @property
    def kind(self) -> str:
        """The name of the activation."""
        return self.call.name

    def forward(self, *inputs: Tensor) -> Tensor:
        """Return the activation."""
        return self.call(*inputs)

    def slope(self, output: Tensor, x: Tensor | None = None) -> Tensor:
        """Return the derivative at each element of the input."""
        return self.backward(torch.ones_like(output), output, x)

    def backward(self, signal: Tensor, output: Tensor, x: Tensor | None = None) -> Tensor:
        """Return ``signal`` times the derivative at the input.

        Raises:
            ValueError: If the input is not given.
        """
        if x is None:
            raise ValueError(f"the slope of {self.kind} depends on its input, which is missing")
        with torch.inference_mode(False), torch.enable_grad():
            x, signal = _leaves((x, signal))
            (slope,) = torch.autograd.grad(self.call(x.requires_grad_()), x, signal)
        return slope


@dataclass(frozen=True, eq=False)
class Nonlinear(Operation):
    """An operation that is neither linear nor a gate; only its derivative is linear."""

    fresh: ClassVar[bool] = False

    def backward(self, signal: Tensor, inputs: Sequence[Tensor]) -> tuple[Tensor | None, ...]:
        """Return the signal times the derivative for each input; None for one without any.

        Args:
            signal: A tensor of the shape of the output.
            inputs: What the operation read.
        """
        with torch.inference_mode(False), torch.enable_grad():
            signal, *leaves = _leaves((signal, *inputs))
            free = [leaf.requires_grad_() for leaf in leaves if leaf.is_floating_point()]
            output = self.forward(*leaves)
            if not output.requires_grad:  # a comparison, or what was detached
                return (None,) * len(inputs)
            found = iter(torch.autograd.grad(output, free, signal, allow_unused=True))
        return tuple(next(found) if leaf.requires_grad else None for leaf in leaves)

    def tangent(self, directions: Sequence[Tensor | None], inputs: Sequence[Tensor]) -> Tensor:
        """Return the change of the output for a small change of each input (None: no change).

        It is found by the derivative of :meth:`backward`, which is linear in the signal.
        """
        exact = sdpa_kernel(SDPBackend.MATH)  # the faster ways have no second derivative
        with torch.inference_mode(False), torch.enable_grad(), exact:
            leaves = _leaves(inputs)
            pairs = [
                (leaf.requires_grad_(), _leaves((direction,))[0])
                for leaf, direction in zip(leaves, directions, strict=True)
                if direction is not None and leaf.is_floating_point()
            ]
            output = self.forward(*leaves)
            if not output.requires_grad:  # a comparison, say
                return torch.zeros_like(output)
            signal = torch.zeros_like(output).requires_grad_()
            moved = [leaf for leaf, _ in pairs]
            parts = torch.autograd.grad(
                output, moved, signal, create_graph=True, materialize_grads=True
            )
            known = [(p, c) for p, (_, c) in zip(parts, pairs, strict=True) if p.requires_grad]
            if not known:  # all of it is overwritten
                return torch.zeros_like(output)
            slopes, changes = zip(*known, strict=True)
            (change,) = torch.autograd.grad(slopes, signal, changes)
        return change

    def held(self, free: int, inputs: Sequence[Tensor]) -> LinearOperation:
        """Return the linear operation on one input, all other parts held at their values.

        Args:
            free: Which input stays free.
            inputs: What the operation read.
        """
        raise NotImplementedError(f"nothing is known that makes {self.kind} linear")


@dataclass(frozen=True, eq=False)
class NonlinearCall(Nonlinear):
    """Any operation with a derivative, called as the network calls it."""

    call: Call

    @property
    def kind(self) -> str:
        """The name of the operation."""
        return self.call.name

    def forward(self, *inputs: Tensor) -> Tensor:
        """Return the output."""
        return self.call(*inputs)


@dataclass(frozen=True, eq=False)
class Product(NonlinearCall):
    """A product of two signals: element by element, or of matrices.

    Attributes:
        signal: Which factor carries the signal, 0 or 1, where the other one is plainly a gate (the
            output of a sigmoid or of a softmax, the reciprocal of a measured size); else None.
    """

    signal: int | None = None

    def held(self, free: int, inputs: Sequence[Tensor]) -> LinearOperation:
        """Return the product with the other factor fixed."""
        call = self.call.held(free, tuple(inputs))
        return LinearCall(call, (tuple(inputs[free].shape[1:]),))


@dataclass(frozen=True, eq=False)
class MatrixProduct(Product):
    """A product of two matrices that both depend on the input: queries and keys, say."""


@dataclass(frozen=True, eq=False)
class Softmax(NonlinearCall):
    """A softmax over one dimension."""


@dataclass(frozen=True, eq=False)
class Normalisation(Nonlinear):
    """Division by the deviation: LayerNorm, GroupNorm, InstanceNorm, RMSNorm without their weights.

    Attributes:
        dims: How many of the last dimensions are normalised together.
        eps: What is added to the variance.
        groups: Where dimension 1 (the channels) is divided into groups first: how many.
        centred: Whether the mean is subtracted.
    """

    dims: int
    eps: float
    groups: int | None = None
    centred: bool = True

    def forward(self, *inputs: Tensor) -> Tensor:
        """Return the normalised input."""
        x, dims = self.grouped(inputs[0])
        centred = x - x.mean(dims, keepdim=True) if self.centred else x
        return (centred * self._rate(x, dims)).reshape(inputs[0].shape)

    def grouped(self, x: Tensor) -> tuple[Tensor, tuple[int, ...]]:
        """Return the input with its groups apart, and the dimensions that are measured together."""
        if self.groups is not None:
            x = torch.unflatten(x, 1, (self.groups, -1))
        return x, tuple(range(-self.dims, 0))

    def _rate(self, x: Tensor, dims: tuple[int, ...]) -> Tensor:
        """Return one over the deviation."""
        squares = (x - x.mean(dims, keepdim=True) if self.centred else x).square()
        return (squares.mean(dims, keepdim=True) + self.eps).rsqrt()

    def held(self, free: int, inputs: Sequence[Tensor]) -> LinearOperation:
        """Return the operation with the deviation fixed: it subtracts the mean and scales."""
        x, dims = self.grouped(inputs[0])
        rate = self._rate(x, dims)
        mean = rate / math.prod(x.shape[dim] for dim in dims) if self.centred else 0 * rate
        return HeldNormalisation(self, rate - mean, -mean)


@dataclass(frozen=True, eq=False)
class HeldNormalisation(LinearOperation):
    """A normalisation whose deviation is held: ``rate * (x - mean x)``, linear in *x*.

    Attributes:
        norm: The normalisation.
        own: The weight of each input in the output at its own place: ``rate * (1 - 1/n)``.
        others: Its weight in all the other outputs that are measured with it: ``-rate / n``.
    """

    norm: Normalisation
    own: Tensor
    others: Tensor
    fresh: ClassVar[bool] = False

    @property
    def kind(self) -> str:
        """``normalisation``."""
        return self.norm.kind

    def linear(self, *inputs: Tensor) -> Tensor:
        """Return ``own * x`` plus ``others`` times the sum of the others."""
        x, dims = self.norm.grouped(inputs[0])
        total = x.sum(dims, keepdim=True)
        y = torch.addcmul(self.others * total, x, self.own - self.others)
        return y.reshape(inputs[0].shape)

    def transpose(self, signal: Tensor, shapes: Sequence[Shape]) -> tuple[Tensor, ...]:
        """Return the same of the signal: the weights are symmetric."""
        return (self.linear(signal),)

    def reweighted(self, function: WeightMap) -> Self:
        """Return the operation with ``function`` applied to both weights."""
        return replace(self, own=function(self.own), others=function(self.others))
