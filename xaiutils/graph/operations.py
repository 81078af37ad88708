r"""The operations of a traced network: small frozen records that can run forwards and backwards.

There are three kinds. A *linear* operation computes :math:`y = Wx + b`; it also offers :math:`Wx`
and :math:`W^\\top s` by themselves, and a copy of itself with another weight (:math:`|W|`,
:math:`W^2`, all ones), which is all that a relevance rule needs. A *gating* operation (ReLU, a
clamp, max pooling) lets a signal through or stops it, depending on the values that were there.
The third kind, in which signals meet, is in :mod:`xaiutils.graph.nonlinear`.

Shapes never include the batch: every operation runs on any batch size.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar, Self, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from xaiutils.graph.calls import Call, Offset, Parameter, Weight

Shape = tuple[int, ...]
WeightMap = Callable[[Tensor], Tensor]

_aten = torch.ops.aten


@dataclass(frozen=True, eq=False)
class Operation:
    """One step of a network.

    Attributes:
        kind: The name under which the operation is reported, e.g. ``"conv2d"``.
        fresh: Whether ``forward`` returns a new tensor, which the next step may overwrite.
    """

    fresh: ClassVar[bool] = True

    @property
    def kind(self) -> str:
        """The name under which the operation is reported."""
        return type(self).__name__.lower()

    def forward(self, *inputs: Tensor) -> Tensor:
        """Return the output of the operation."""
        raise NotImplementedError

    def keeps_sign(self) -> bool:
        """Whether inputs that are nowhere negative give an output that is nowhere negative."""
        return False


@dataclass(frozen=True, eq=False)
class Input(Operation):
    """The place of the network's input: node 0 of every graph."""

    fresh: ClassVar[bool] = False


# ------------------------------------------------------------------------------------ linear


@dataclass(frozen=True, eq=False)
class LinearOperation(Operation):
    """An operation of the form ``y = W x + b``.

    Attributes:
        routing: Whether each output is a copy of one input (a reshape, say). Every signal then
            has only one way to go, and no rule has anything to decide.
        new_transpose: Whether ``transpose`` returns new tensors, which may be overwritten.
    """

    routing: ClassVar[bool] = False
    new_transpose: ClassVar[bool] = False

    def linear(self, *inputs: Tensor) -> Tensor:
        """Return ``W x``."""
        raise NotImplementedError

    def forward(self, *inputs: Tensor) -> Tensor:
        """Return ``W x + b``."""
        return self.linear(*inputs)

    def transpose(self, signal: Tensor, shapes: Sequence[Shape]) -> tuple[Tensor, ...]:
        """Return ``W^T s``, one tensor for each input.

        Args:
            signal: A tensor of the shape of the output.
            shapes: The shapes of the inputs, without the batch.
        """
        batch = signal.shape[0]
        with torch.inference_mode(False), torch.enable_grad():
            signal = signal.clone() if signal.is_inference() else signal.detach()
            inputs = [signal.new_zeros(batch, *shape).requires_grad_() for shape in shapes]
            return torch.autograd.grad(self.linear(*inputs), inputs, signal)

    def reweighted(self, function: WeightMap) -> Self:
        """Return this operation with ``function`` applied to its weight and to its bias.

        Operations without a weight of their own (pooling, say) only move and average: their
        weights are not negative, and they return themselves.
        """
        return self

    def shift(self) -> Tensor | None:
        """Return the bias ``b``, broadcastable to the output, or None."""
        return None


@dataclass(frozen=True, eq=False)
class Convolution(LinearOperation):
    """A convolution or transposed convolution in one, two or three dimensions."""

    new_transpose: ClassVar[bool] = True

    weight: Tensor
    bias: Tensor | None
    stride: Shape
    padding: Shape
    dilation: Shape
    groups: int = 1
    transposed: bool = False
    output_padding: Shape = ()

    @property
    def dimensions(self) -> int:
        """The number of spatial dimensions."""
        return len(self.stride)

    @property
    def kind(self) -> str:
        """``conv1d`` ... ``conv_transpose3d``."""
        return f"conv_transpose{self.dimensions}d" if self.transposed else f"conv{self.dimensions}d"

    def linear(self, *inputs: Tensor) -> Tensor:
        """Return the convolution without its bias."""
        return self._convolve(inputs[0], None)

    def forward(self, *inputs: Tensor) -> Tensor:
        """Return the convolution with its bias."""
        return self._convolve(inputs[0], self.bias)

    def _convolve(self, x: Tensor, bias: Tensor | None) -> Tensor:
        return torch.convolution(
            x,
            self.weight,
            bias,
            self.stride,
            self.padding,
            self.dilation,
            self.transposed,
            self.output_padding,
            self.groups,
        )

    def transpose(self, signal: Tensor, shapes: Sequence[Shape]) -> tuple[Tensor, ...]:
        """Return the gradient of the convolution with respect to its input: one the other way."""
        missing = (0,) * self.dimensions
        if not self.transposed:  # rows and columns that a stride left over at the end
            spans = zip(shapes[0][1:], signal.shape[2:], self._extents(), strict=True)
            missing = tuple(
                size - (n - 1) * self.stride[i] + 2 * self.padding[i] - extent
                for i, (size, n, extent) in enumerate(spans)
            )
        back = replace(self, bias=None, transposed=not self.transposed, output_padding=missing)
        return (back.linear(signal),)

    def _extents(self) -> Shape:
        """Return how many pixels the kernel spans in each dimension."""
        kernel = self.weight.shape[2:]
        return tuple(d * (k - 1) + 1 for d, k in zip(self.dilation, kernel, strict=True))

    def reweighted(self, function: WeightMap) -> Self:
        """Return the convolution with another weight and bias."""
        bias = None if self.bias is None else function(self.bias)
        return replace(self, weight=function(self.weight), bias=bias)

    def shift(self) -> Tensor | None:
        """Return the bias as (C, 1, ...)."""
        return None if self.bias is None else self.bias.reshape(-1, *[1] * self.dimensions)

    def followed_by(self, scale: Tensor, shift: Tensor) -> Self:
        """Return the convolution that also does ``scale * y + shift`` on its output channels."""
        if self.transposed:  # the weight is (in, out / groups, ...)
            per_group = scale.reshape(self.groups, 1, -1)
            weight = self.weight.reshape(self.groups, -1, *self.weight.shape[1:])
            spatial = [1] * self.dimensions
            weight = (weight * per_group.reshape(*per_group.shape, *spatial)).reshape_as(
                self.weight
            )
        else:
            weight = self.weight * scale.reshape(-1, *[1] * (self.dimensions + 1))
        bias = shift if self.bias is None else self.bias * scale + shift
        return replace(self, weight=weight, bias=bias)


@dataclass(frozen=True, eq=False)
class Dense(LinearOperation):
    """A fully connected layer over the last dimension."""

    new_transpose: ClassVar[bool] = True

    weight: Tensor
    bias: Tensor | None

    @property
    def kind(self) -> str:
        """``linear``, PyTorch's name."""
        return "linear"

    def linear(self, *inputs: Tensor) -> Tensor:
        """Return ``x W^T``."""
        return F.linear(inputs[0], self.weight)

    def forward(self, *inputs: Tensor) -> Tensor:
        """Return ``x W^T + b``."""
        return F.linear(inputs[0], self.weight, self.bias)

    def transpose(self, signal: Tensor, shapes: Sequence[Shape]) -> tuple[Tensor, ...]:
        """Return ``s W``."""
        return (signal @ self.weight,)

    def reweighted(self, function: WeightMap) -> Self:
        """Return the layer with another weight and bias."""
        bias = None if self.bias is None else function(self.bias)
        return replace(self, weight=function(self.weight), bias=bias)

    def shift(self) -> Tensor | None:
        """Return the bias."""
        return self.bias

    def followed_by(self, scale: Tensor, shift: Tensor) -> Self:
        """Return the layer that also does ``scale * y + shift`` on its outputs."""
        bias = shift if self.bias is None else self.bias * scale + shift
        return replace(self, weight=self.weight * scale[:, None], bias=bias)


@dataclass(frozen=True, eq=False)
class Affine(LinearOperation):
    """``scale * x + offset`` element by element: a BatchNorm that could not be folded, say.

    Both are broadcastable to one input without its batch.
    """

    new_transpose: ClassVar[bool] = True

    scale: Tensor
    offset: Tensor

    def linear(self, *inputs: Tensor) -> Tensor:
        """Return ``scale * x``."""
        return inputs[0] * self.scale

    def forward(self, *inputs: Tensor) -> Tensor:
        """Return ``scale * x + offset``."""
        return torch.addcmul(self.offset, inputs[0], self.scale)

    def transpose(self, signal: Tensor, shapes: Sequence[Shape]) -> tuple[Tensor, ...]:
        """Return ``scale * s``."""
        return (signal * self.scale,)

    def reweighted(self, function: WeightMap) -> Self:
        """Return the operation with another scale and offset."""
        return replace(self, scale=function(self.scale), offset=function(self.offset))

    def shift(self) -> Tensor | None:
        """Return the offset."""
        return self.offset


@dataclass(frozen=True, eq=False)
class BatchNorm(Operation):
    """BatchNorm in evaluation mode, as traced; ``resolve`` turns it into a linear operation.

    Attributes:
        after: How many dimensions follow the channels.
    """

    weight: Tensor | None
    bias: Tensor | None
    mean: Tensor
    variance: Tensor
    eps: float
    after: int

    def scale_and_shift(self) -> tuple[Tensor, Tensor]:
        """Return the two vectors of ``scale * x + shift``, the eps included."""
        scale = (self.variance + self.eps).rsqrt()
        if self.weight is not None:
            scale = scale * self.weight
        shift = -self.mean * scale
        return scale, shift if self.bias is None else shift + self.bias

    def as_affine(self) -> Affine:
        """Return the operation as a scale and an offset."""
        scale, shift = self.scale_and_shift()
        shape = (-1, *[1] * self.after)
        return Affine(scale.reshape(shape), shift.reshape(shape))


@dataclass(frozen=True, eq=False)
class Add(LinearOperation):
    """A weighted sum of tensors of one shape: a residual addition."""

    coefficients: tuple[float, ...]

    def linear(self, *inputs: Tensor) -> Tensor:
        """Return the sum."""
        total = inputs[0] if self.coefficients[0] == 1 else inputs[0] * self.coefficients[0]
        for coefficient, x in zip(self.coefficients[1:], inputs[1:], strict=True):
            total = torch.add(total, x, alpha=coefficient)
        return total

    def transpose(self, signal: Tensor, shapes: Sequence[Shape]) -> tuple[Tensor, ...]:
        """Return the signal, once for each term."""
        return tuple(signal if c == 1 else signal * c for c in self.coefficients)

    def reweighted(self, function: WeightMap) -> Self:
        """Return the sum with ``function(coefficients)``."""
        mapped = function(torch.tensor(self.coefficients, dtype=torch.float64)).tolist()
        return replace(self, coefficients=tuple(mapped))

    def keeps_sign(self) -> bool:
        """True unless something is subtracted."""
        return min(self.coefficients) >= 0


@dataclass(frozen=True, eq=False)
class AveragePool(LinearOperation):
    """Average pooling in one, two or three dimensions."""

    kernel: Shape
    stride: Shape
    padding: Shape
    ceil_mode: bool = False
    count_include_pad: bool = True
    divisor: int | None = None

    @property
    def kind(self) -> str:
        """``avg_pool1d`` ... ``avg_pool3d``."""
        return f"avg_pool{len(self.kernel)}d"

    def linear(self, *inputs: Tensor) -> Tensor:
        """Return the averages."""
        arguments = (self.kernel, self.stride, self.padding, self.ceil_mode, self.count_include_pad)
        if len(self.kernel) == 1:
            return F.avg_pool1d(inputs[0], *arguments)
        pool = F.avg_pool2d if len(self.kernel) == 2 else F.avg_pool3d
        return pool(inputs[0], *arguments, self.divisor)

    def keeps_sign(self) -> bool:
        """True: an average of numbers that are not negative is not negative."""
        return True


@dataclass(frozen=True, eq=False)
class AdaptiveAveragePool(LinearOperation):
    """Average pooling to a given output size."""

    size: Shape

    @property
    def kind(self) -> str:
        """``adaptive_avg_pool1d`` ... ``adaptive_avg_pool3d``."""
        return f"adaptive_avg_pool{len(self.size)}d"

    def linear(self, *inputs: Tensor) -> Tensor:
        """Return the averages."""
        pools = (F.adaptive_avg_pool1d, F.adaptive_avg_pool2d, F.adaptive_avg_pool3d)
        size: Any = self.size
        return pools[len(self.size) - 1](inputs[0], size)

    def transpose(self, signal: Tensor, shapes: Sequence[Shape]) -> tuple[Tensor, ...]:
        """Return the signal, spread evenly over the pixels of each window."""
        if any(size != 1 for size in self.size):
            return super().transpose(signal, shapes)
        pixels = math.prod(shapes[0][-len(self.size) :])
        return ((signal / pixels).expand(signal.shape[0], *shapes[0]),)

    def keeps_sign(self) -> bool:
        """True: an average of numbers that are not negative is not negative."""
        return True


@dataclass(frozen=True, eq=False)
class Mean(LinearOperation):
    """The mean over some dimensions (counted with the batch as dimension 0)."""

    dims: tuple[int, ...]
    keepdim: bool

    def linear(self, *inputs: Tensor) -> Tensor:
        """Return the mean."""
        return inputs[0].mean(self.dims, self.keepdim)

    def transpose(self, signal: Tensor, shapes: Sequence[Shape]) -> tuple[Tensor, ...]:
        """Return the signal, spread evenly over what was averaged."""
        shape = (signal.shape[0], *shapes[0])
        count = math.prod(shape[dim] for dim in self.dims)
        kept = [1 if dim in self.dims else size for dim, size in enumerate(shape)]
        return ((signal / count).reshape(kept).expand(shape),)

    def keeps_sign(self) -> bool:
        """True: a mean of numbers that are not negative is not negative."""
        return True


@dataclass(frozen=True, eq=False)
class Upsample(LinearOperation):
    """Interpolation to a given size: nearest neighbour, linear, bilinear or trilinear."""

    size: Shape
    mode: str
    align_corners: bool | None = None
    scales: tuple[float, ...] | None = None

    def linear(self, *inputs: Tensor) -> Tensor:
        """Return the interpolated map."""
        arguments: dict[str, Any] = {"mode": self.mode, "align_corners": self.align_corners}
        if self.scales is None:
            return F.interpolate(inputs[0], size=self.size, **arguments)
        return F.interpolate(inputs[0], scale_factor=self.scales, **arguments)

    def keeps_sign(self) -> bool:
        """True: the weights of these interpolations are not negative."""
        return True


@dataclass(frozen=True, eq=False)
class Concatenate(LinearOperation):
    """Several tensors side by side along ``dim`` (the batch is dimension 0)."""

    dim: int
    routing: ClassVar[bool] = True

    def linear(self, *inputs: Tensor) -> Tensor:
        """Return the concatenation."""
        return torch.cat(inputs, self.dim)

    def transpose(self, signal: Tensor, shapes: Sequence[Shape]) -> tuple[Tensor, ...]:
        """Return the pieces of the signal."""
        return torch.split(signal, [shape[self.dim - 1] for shape in shapes], self.dim)

    def keeps_sign(self) -> bool:
        """True: nothing is changed."""
        return True


@dataclass(frozen=True, eq=False)
class Reshape(LinearOperation):
    """The same numbers in another shape: flatten, view, squeeze, unsqueeze."""

    shape: Shape
    routing: ClassVar[bool] = True
    fresh: ClassVar[bool] = False

    def linear(self, *inputs: Tensor) -> Tensor:
        """Return the input in the new shape."""
        return inputs[0].reshape(inputs[0].shape[0], *self.shape)

    def transpose(self, signal: Tensor, shapes: Sequence[Shape]) -> tuple[Tensor, ...]:
        """Return the signal in the old shape."""
        return (signal.reshape(signal.shape[0], *shapes[0]),)

    def keeps_sign(self) -> bool:
        """True: nothing is changed."""
        return True


@dataclass(frozen=True, eq=False)
class Pad(LinearOperation):
    """Padding with zeros, or with what is at the border (``reflect``, ``replicate``)."""

    widths: tuple[int, ...]
    mode: str = "constant"

    @property
    def routing(self) -> bool:  # type: ignore[override]
        """Whether each output comes from one input at most."""
        return self.mode == "constant"

    def linear(self, *inputs: Tensor) -> Tensor:
        """Return the padded input."""
        return F.pad(inputs[0], self.widths, mode=self.mode)

    def transpose(self, signal: Tensor, shapes: Sequence[Shape]) -> tuple[Tensor, ...]:
        """Return the signal without its border (added to the inside for the other modes)."""
        if self.mode != "constant":
            return super().transpose(signal, shapes)
        return (F.pad(signal, [-width for width in self.widths]),)

    def keeps_sign(self) -> bool:
        """True: zeros and copies only."""
        return True


@dataclass(frozen=True, eq=False)
class LinearCall(LinearOperation):
    """Any other linear operation, called as the network calls it: a sum, a roll, a fixed matrix.

    Attributes:
        call: The operation. What its signal is multiplied by is marked as ``Weight``, what stands
            beside it as ``Offset`` (a class token that is put in front of the others, say).
        shapes: The shapes of the inputs, without the batch.
        copies: Whether each output is a copy of one input, or a constant.
    """

    call: Call
    shapes: tuple[Shape, ...]
    copies: bool = False
    fresh: ClassVar[bool] = False

    @property
    def kind(self) -> str:
        """The name of the operation."""
        return self.call.name

    @property
    def routing(self) -> bool:  # type: ignore[override]
        """Whether each output is a copy of one input, or a constant."""
        return self.copies

    @property
    def weighted(self) -> bool:
        """Whether the signal is multiplied by something."""
        return self.call.has(Weight)

    def linear(self, *inputs: Tensor) -> Tensor:
        """Return ``W x``."""
        return self.call.without_offsets()(*inputs)

    def forward(self, *inputs: Tensor) -> Tensor:
        """Return ``W x + b``."""
        return self.call(*inputs)

    def reweighted(self, function: WeightMap) -> Self:
        """Return the operation with another weight and offset."""
        return replace(self, call=self.call.weighted(function))

    def shift(self) -> Tensor | None:
        """Return the offset, in the shape of the output."""
        if not self.call.has(Offset):
            return None
        tensor = self.call.tensor()
        zeros = [tensor.new_zeros(1, *shape) for shape in self.shapes]
        return self.call(*zeros)[0]

    def keeps_sign(self) -> bool:
        """True where nothing is multiplied or added: signals alone have no negative weight."""
        return not self.call.has(Weight) and not self.call.has(Offset)


# ------------------------------------------------------------------------------------ gating


@dataclass(frozen=True, eq=False)
class Gate(Operation):
    """An activation that works element by element.

    The slope of a piecewise linear one can be read off its output, so the input need not be kept.

    Attributes:
        needs_input: Whether the slope depends on the input, as that of a smooth one does.
    """

    needs_input: ClassVar[bool] = False

    def slope(self, output: Tensor, x: Tensor | None = None) -> Tensor:
        """Return the derivative at each element, 0 on the kinks at which it is flat on one side.

        Args:
            output: The output of the gate.
            x: Its input, where ``needs_input`` says so.
        """
        raise NotImplementedError

    def backward(self, signal: Tensor, output: Tensor, x: Tensor | None = None) -> Tensor:
        """Return ``signal`` times the slope."""
        return signal * self.slope(output, x)

    def forward_(self, x: Tensor) -> Tensor:
        """Like ``forward``, but may overwrite ``x``."""
        return self.forward(x)


@dataclass(frozen=True, eq=False)
class ReLU(Gate):
    """``max(x, 0)``."""

    def forward(self, *inputs: Tensor) -> Tensor:
        """Return ``max(x, 0)``."""
        return torch.relu(inputs[0])

    def forward_(self, x: Tensor) -> Tensor:
        """Overwrite ``x``."""
        return x.relu_()

    def slope(self, output: Tensor, x: Tensor | None = None) -> Tensor:
        """Return 1 where the output is positive."""
        return (output > 0).to(output.dtype)

    def backward(self, signal: Tensor, output: Tensor, x: Tensor | None = None) -> Tensor:
        """Return the signal where the output is positive."""
        return cast(Tensor, _aten.threshold_backward(signal, output, 0))

    def keeps_sign(self) -> bool:
        """True, whatever the input: see ``Node.nonnegative``."""
        return True


@dataclass(frozen=True, eq=False)
class Clamp(Gate):
    """``min(max(x, low), high)``: ReLU6, Hardtanh, clamp."""

    low: float
    high: float

    def forward(self, *inputs: Tensor) -> Tensor:
        """Return the clamped input."""
        return inputs[0].clamp(self.low, self.high)

    def forward_(self, x: Tensor) -> Tensor:
        """Overwrite ``x``."""
        return x.clamp_(self.low, self.high)

    def slope(self, output: Tensor, x: Tensor | None = None) -> Tensor:
        """Return 1 strictly between the bounds."""
        return ((output > self.low) & (output < self.high)).to(output.dtype)

    def backward(self, signal: Tensor, output: Tensor, x: Tensor | None = None) -> Tensor:
        """Return the signal strictly between the bounds."""
        return cast(Tensor, _aten.hardtanh_backward(signal, output, self.low, self.high))

    def keeps_sign(self) -> bool:
        """True if the upper bound is not negative."""
        return self.high >= 0


@dataclass(frozen=True, eq=False)
class LeakyReLU(Gate):
    """``x`` where positive, ``negative_slope * x`` elsewhere."""

    negative_slope: float

    def forward(self, *inputs: Tensor) -> Tensor:
        """Return the activation."""
        return F.leaky_relu(inputs[0], self.negative_slope)

    def slope(self, output: Tensor, x: Tensor | None = None) -> Tensor:
        """Return 1 where the output is positive, ``negative_slope`` elsewhere."""
        return torch.full_like(output, self.negative_slope).masked_fill_(output > 0, 1.0)

    def keeps_sign(self) -> bool:
        """True: what is not negative is left as it is."""
        return True


@dataclass(frozen=True, eq=False)
class Switch(Operation):
    """An operation that picks one input for each output: max pooling.

    ``indices`` are flat positions within one channel, as PyTorch counts them.
    """

    def choose(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the maxima and the indices of the winners (the first one, in a tie)."""
        raise NotImplementedError

    def forward(self, *inputs: Tensor) -> Tensor:
        """Return the maxima."""
        return self.choose(inputs[0])[0]

    def keeps_sign(self) -> bool:
        """True: outputs are copies of inputs."""
        return True

    @staticmethod
    def pick(x: Tensor, indices: Tensor) -> Tensor:
        """Return the entries of ``x`` at the winners' places: the switch, held fixed."""
        spatial = indices.ndim - 2
        flat = x.flatten(-spatial).gather(-1, indices.flatten(-spatial))
        return flat.view_as(indices)

    @staticmethod
    def backward(signal: Tensor, indices: Tensor, shape: Shape) -> Tensor:
        """Return the signal at the winners' places, zero elsewhere (winner takes all)."""
        spatial = indices.ndim - 2
        result = signal.new_zeros(signal.shape[0], *shape)
        flat = result.flatten(-spatial)
        flat.scatter_add_(-1, indices.flatten(-spatial), signal.flatten(-spatial))
        return flat.view_as(result)


@dataclass(frozen=True, eq=False)
class MaxPool(Switch):
    """Max pooling in one, two or three dimensions.

    Attributes:
        border: Widths of an uneven border of minus infinity, as ``F.pad`` has them, or nothing.
    """

    kernel: Shape
    stride: Shape
    padding: Shape
    dilation: Shape
    ceil_mode: bool = False
    border: tuple[int, ...] = ()

    @property
    def kind(self) -> str:
        """``max_pool1d`` ... ``max_pool3d``."""
        return f"max_pool{len(self.kernel)}d"

    def choose(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the maxima and the indices of the winners."""
        if not self.border:
            return self._choose(x)
        padded = F.pad(x, self.border, value=-math.inf)
        maxima, indices = self._choose(padded)
        return maxima, self._inside(indices, padded.shape, x.shape)

    def _inside(self, indices: Tensor, padded: Sequence[int], inside: Sequence[int]) -> Tensor:
        """Return the places of winners in a padded channel as places in one without its border."""
        places = []
        for i in range(len(self.kernel)):  # the last side varies fastest, and is padded first
            places.append(indices % padded[-1 - i] - self.border[2 * i])
            indices = indices // padded[-1 - i]
        flat = torch.zeros_like(indices)
        for i, place in reversed(list(enumerate(places))):
            flat = flat * inside[-1 - i] + place
        return flat

    def _choose(self, x: Tensor) -> tuple[Tensor, Tensor]:
        pools = (
            torch.nn.functional.max_pool1d_with_indices,
            torch.nn.functional.max_pool2d_with_indices,
            torch.nn.functional.max_pool3d_with_indices,
        )
        pool = pools[len(self.kernel) - 1]
        return pool(x, self.kernel, self.stride, self.padding, self.dilation, self.ceil_mode)


@dataclass(frozen=True, eq=False)
class AdaptiveMaxPool(Switch):
    """Max pooling to a given output size."""

    size: Shape

    @property
    def kind(self) -> str:
        """``adaptive_max_pool1d`` ... ``adaptive_max_pool3d``."""
        return f"adaptive_max_pool{len(self.size)}d"

    def choose(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the maxima and the indices of the winners."""
        pools = (
            torch.nn.functional.adaptive_max_pool1d_with_indices,
            torch.nn.functional.adaptive_max_pool2d_with_indices,
            torch.nn.functional.adaptive_max_pool3d_with_indices,
        )
        size: Any = self.size
        return pools[len(self.size) - 1](x, size)


# --------------------------------------------------------------------------------- parameters


def with_tensors(operation: Operation, change: Callable[[Any], Any]) -> Operation:
    """Return the operation with ``change`` applied to every tensor (or the path of one) in it."""

    def changed(leaf: Any) -> Any:
        return change(leaf) if isinstance(leaf, (Tensor, Parameter)) else leaf

    values = {field.name: getattr(operation, field.name) for field in fields(operation)}
    new = {
        name: value.mapped(changed) if isinstance(value, Call) else changed(value)
        for name, value in values.items()
        if isinstance(value, (Tensor, Parameter, Call))
    }
    return replace(operation, **new) if new else operation


def resolve(operation: Operation, lookup: Callable[[str], Tensor]) -> Operation:
    """Return the operation with every :class:`Parameter` replaced by the tensor it names."""
    return with_tensors(
        operation, lambda leaf: lookup(leaf.path) if isinstance(leaf, Parameter) else leaf
    )
