"""The gradient by automatic differentiation, for networks that cannot be read into a graph.

A method that needs no rule, only the gradient, thus works on any network that PyTorch can
differentiate. What runs is a copy that shares the parameters: the user's module is not touched.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from xaiutils import graph
from xaiutils.attribution._common import (
    Network,
    Resolved,
    Target,
    explained_of,
    precise,
    prepare,
    same_draws,
    signal_to_input,
    start_signal,
)
from xaiutils.graph.copying import twin
from xaiutils.graph.errors import GraphError
from xaiutils.graph.outputs import Output


class Differentiated:
    """A network that is not read but run, forwards and by automatic differentiation backwards.

    In half precision it computes in float32 where it can, and otherwise in its own type; what it
    returns is in float32 at least. A network that draws at random is explained for one draw.

    Attributes:
        output_shape: The shape of the output, without the batch.
    """

    @graph.undisturbed
    def __init__(self, model: nn.Module, x: Tensor, output: Output = None) -> None:
        """Copy the network and run it on the first image.

        Args:
            model: A module that :func:`xaiutils.graph.check_model` accepts.
            x: Inputs (N, ...) of the model's type.
            output: Which of several outputs.
        """
        self._output = output
        self._copy = _without_backward_hooks(model)
        self._type, self._tensors = precise(x).dtype, dict[str, Tensor]()
        if self._type != x.dtype or any(p.is_inference() for p in model.parameters()):
            self._tensors = _precise_tensors(self._copy)
            try:
                self(x[:1])
            except Exception:  # whatever it is, it does not happen in the network's own type
                self._type, self._tensors = x.dtype, {}
        self.output_shape = tuple(self(x[:1]).shape[1:])

    @graph.undisturbed
    def __call__(self, x: Tensor) -> Tensor:
        """Return the output for ``x`` (N, ...)."""
        with same_draws(x):
            return precise(self._run(x))

    @graph.undisturbed
    def slopes(self, x: Tensor, explained: Resolved) -> Tensor:
        """Return the gradient of what is explained of each image, (N, ...) like ``x``.

        Args:
            x: The images (N, ...).
            explained: What is explained of the outputs.

        Raises:
            ValueError: If autograd finds no way from the output to ``x``.
        """
        given = x.detach().clone()
        with same_draws(x), torch.enable_grad():
            given.requires_grad_()
            return precise(self._derivative(self._run(given), given, explained))

    @graph.undisturbed
    def maps(self, layer: str, x: Tensor, explained: Resolved) -> tuple[Tensor, Tensor]:
        """Return the output of a layer, and the gradient with respect to it.

        Args:
            layer: The path of a module; of one that is used several times this is the last use.
            x: The images (N, ...).
            explained: What is explained of the outputs.

        Raises:
            ValueError: If there is no such module, it returns no tensor, or autograd finds no way
                from the output to it.
        """
        found: list[Any] = []

        def keep(module: nn.Module, inputs: Any, output: Any) -> Any:
            found.append(output)
            return output.clone() if isinstance(output, Tensor) else output  # what follows may
            # work in place

        given = x.detach().clone()
        handle = self._part(layer).register_forward_hook(keep)
        try:
            with same_draws(x), torch.enable_grad():
                given.requires_grad_()  # or nothing but the parameters would lead to the layer
                output = self._run(given)
                if not found or not isinstance(found[-1], Tensor):
                    raise ValueError(f"layer {layer!r} is not called, or returns no tensor")
                slopes = self._derivative(output, found[-1], explained)
        finally:
            handle.remove()
        return precise(found[-1]), precise(slopes)

    def _part(self, layer: str) -> nn.Module:
        parts: dict[str, nn.Module] = dict(self._copy.named_modules())
        if not layer or layer not in parts:
            names = ", ".join(name for name in parts if name)
            raise ValueError(f"no layer {layer!r} in the network; its modules are: {names}")
        return parts[layer]

    def _run(self, x: Tensor) -> Tensor:
        network = _Replaced(self._copy, self._tensors) if self._tensors else self._copy
        return graph.outputs_of(network, x.to(self._type), self._output)

    def _derivative(self, output: Tensor, inner: Tensor, explained: Resolved) -> Tensor:
        start = start_signal(explained, output.detach())
        slopes = None
        if output.requires_grad and inner.requires_grad:
            (slopes,) = torch.autograd.grad(output, inner, start, allow_unused=True)
        if slopes is None:
            name = type(self._copy).__name__
            raise ValueError(
                f"the output of {name} does not depend on x in a way that can be differentiated: "
                "does its forward detach something, switch gradients off, or round?"
            )
        return slopes


class _Replaced(nn.Module):
    """A network with other parameters and buffers in place of its own, which stay as they are."""

    def __init__(self, network: nn.Module, tensors: dict[str, Tensor]) -> None:
        super().__init__()
        self._network, self._tensors = [network], tensors  # in a list: no part of this module

    def forward(self, x: Tensor) -> Any:
        return torch.func.functional_call(self._network[0], self._tensors, (x,))


def _without_backward_hooks(model: nn.Module) -> nn.Module:
    """Return a copy of a network that calls none of the user's hooks on the way back."""
    copy, own = twin(model), set(model.modules())
    for part in copy.modules():
        if part not in own:  # what torch.jit has made is not copied
            part._backward_hooks.clear()
            part._backward_pre_hooks.clear()
    return copy


def _precise_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Return parameters and buffers that autograd can use, in float32 at least."""
    named = [*model.named_parameters(), *model.named_buffers()]
    usable = [(name, t.clone() if t.is_inference() else t) for name, t in named]
    return {name: precise(t) for name, t in usable if t.is_floating_point()}


def prepare_slopes(
    model: Network, x: Tensor, target: Target, output: Output
) -> tuple[graph.Graph | Differentiated, Tensor, Resolved]:
    """Do as :func:`prepare`; a network that cannot be read will be differentiated by autograd."""
    try:
        return prepare(model, x, target, output=output)
    except GraphError as refusal:
        network = differentiated(model, x, output, refusal)
    return network, precise(x), explained_of(target, x, network.output_shape)


def differentiated(
    model: Network, x: Tensor, output: Output, refusal: GraphError
) -> Differentiated:
    """Return a network for autograd; if it does not even run, the reason why it is not read."""
    if isinstance(model, graph.Graph):
        raise refusal
    try:
        return Differentiated(model, x, output)
    except Exception:
        raise refusal from None


def slopes_of(network: graph.Graph | Differentiated, x: Tensor, explained: Resolved) -> Tensor:
    """Return the gradient of what is explained of each image, (N, ...) like ``x``."""
    if isinstance(network, Differentiated):
        return network.slopes(x, explained)
    return signal_to_input(network, x, explained)
