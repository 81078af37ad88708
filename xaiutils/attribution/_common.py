"""What all attribution methods share: arguments, precision, and batches in chunks."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields, replace
from numbers import Integral
from typing import Any, Literal, TypeVar, cast

import torch
from torch import Tensor, nn

from xaiutils import graph
from xaiutils.attribution._targets import (
    Explained,
    Resolved,
    Target,
    explained_of,
    resolve_target,
    start_signal,
    values_of,
)
from xaiutils.graph.calls import Call
from xaiutils.graph.errors import UnpreprocessedWarning, warn
from xaiutils.graph.outputs import Output

__all__ = [  # what a method takes from here though it stands in _targets
    "Explained",
    "Resolved",
    "Target",
    "explained_of",
    "resolve_target",
    "start_signal",
    "values_of",
]

T = TypeVar("T")

Norm = Literal["l2", "linf"]
_ORDERS = {"l2": 2.0, "linf": float("inf")}

Network = nn.Module | graph.Graph
"""A network: a module, or what :func:`xaiutils.graph.trace` read of one, for many calls."""

_BRIGHTEST = 20.0  # no usual normalisation gives as much; pixels of 0..255 do


class Named(dict[str, T]):
    """A dictionary that tells the names it has when it is asked for another."""

    def __init__(self, kind: str, entries: Mapping[str, T]) -> None:
        super().__init__(entries)
        self.kind = kind

    def __missing__(self, name: object) -> T:
        near = difflib.get_close_matches(str(name), self, n=1)
        hint = f": did you mean {near[0]!r}?" if near else ";"
        raise KeyError(f"no {self.kind} {name!r}{hint} There are {', '.join(self)}.")


# ------------------------------------------------------------------------------------ checks


def check_choice(name: str, found: object, allowed: Collection[str]) -> None:
    """Raise ValueError unless an option has one of its values."""
    if found not in allowed:
        *others, last = map(repr, allowed)
        raise ValueError(f"{name} must be {', '.join(others)} or {last}, not {found!r}")


def check_positive(name: str, found: object) -> None:
    """Raise ValueError unless an option is a whole number from 1 up."""
    if not isinstance(found, Integral) or found < 1:
        raise ValueError(f"{name} must be a whole number of at least 1, not {found!r}")


def check_norm(norm: str | None) -> None:
    """Raise ValueError unless a norm over the colours is known."""
    if norm is not None:
        check_choice("norm", norm, _ORDERS)


def pool_colours(heatmap: Tensor, norm: Norm) -> Tensor:
    """Return the norm over the colours, (N, 1, ...), as in Samek et al. 2017, eq. 3."""
    pooled = torch.linalg.vector_norm(heatmap, _ORDERS[norm], dim=1, keepdim=True)
    return cast(Tensor, pooled)


# ------------------------------------------------------------------------ a network and its images


def prepare(
    model: Network, x: Tensor, target: Target, fold: bool = True, output: Output = None
) -> tuple[graph.Graph, Tensor, Resolved]:
    """Read the network and check every argument, before any work is done.

    Returns:
        The network, the images, and what is explained of them (:func:`explained_of`). Network and
        images are in float32 at least: see :func:`precise`.
    """
    traced = read(model, x, fold, output)
    explained = explained_of(target, x, traced.output_shape)
    check_scale(traced, x)
    return precise_graph(traced, x.dtype), precise(x), explained


def read(model: Network, x: Tensor, fold: bool = True, output: Output = None) -> graph.Graph:
    """Return the graph of a network; one that is a graph already is only checked against ``x``.

    Raises:
        TypeError: As :func:`xaiutils.graph.trace`.
        ValueError: As :func:`xaiutils.graph.trace`, or if a graph does not fit ``x``, or is to
            choose another output.
    """
    if not isinstance(model, graph.Graph):
        _check_is_tensor(model, x)
        with same_draws(x):
            return graph.trace(model, x, fold=fold, output=output)
    if output is not None:
        raise ValueError(
            "a Graph has the one output that it was read for; choose it there: "
            "graph.trace(model, x, output=...)"
        )
    _check_fits(model, x)
    return model


@contextmanager
def same_draws(x: Tensor) -> Iterator[None]:
    """Leave the state of the random numbers as it was: a network that is run may draw some."""
    with torch.random.fork_rng([x.device] if x.is_cuda else []):
        yield


def _check_is_tensor(model: nn.Module, x: Any) -> None:
    """Refuse several inputs: of those a graph is made, which takes them as one."""
    if not isinstance(x, Tensor):
        graph.check_model(model)
        graph.check_input(model, x)


def _check_fits(traced: graph.Graph, x: Tensor) -> None:
    """Refuse inputs that a graph was not read for, and one whose weights have changed since."""
    traced.check_weights()  # it may be copied into float32 before it runs
    graph.check_input(nn.Identity(), x)  # what holds for every network
    if tuple(x.shape[1:]) != traced.input_shape:
        wanted = ", ".join(map(str, traced.input_shape))
        raise ValueError(
            f"the graph is for inputs of shape (N, {wanted}), not {tuple(x.shape)}; "
            "trace the network again for others"
        )
    weight = next((w for node in traced.nodes for w in _numbers(node.operation)), None)
    if weight is not None and weight.dtype != x.dtype:
        raise TypeError(f"x is {x.dtype} but the graph is {weight.dtype}; convert x")
    if weight is not None and weight.device != x.device:
        raise ValueError(f"x is on {x.device} but the graph on {weight.device}; move x")


def precise(x: Tensor) -> Tensor:
    """Return a tensor detached, and in float32 where it was coarser.

    Signals on the way back are often smaller than half precision can tell from zero, and sums of
    thousands of numbers are off in its third digit.
    """
    return x.detach().to(torch.promote_types(x.dtype, torch.float32))


def precise_graph(traced: graph.Graph, dtype: torch.dtype) -> graph.Graph:
    """Return a network whose numbers are of type ``dtype`` with numbers of float32 at least."""
    if torch.promote_types(dtype, torch.float32) == dtype:
        return traced
    nodes = (replace(node, operation=_precise_operation(node.operation)) for node in traced.nodes)
    return graph.Graph(list(nodes))


def _precise_operation(operation: graph.Operation) -> graph.Operation:
    values = {field.name: getattr(operation, field.name) for field in fields(operation)}
    return replace(operation, **{name: _precise_value(value) for name, value in values.items()})


def _precise_value(value: Any) -> Any:
    """Return a field of an operation in float32 at least: a tensor, a call with some, a type."""
    if isinstance(value, Call):
        return value.mapped(_precise_value)
    if isinstance(value, Tensor) and value.is_floating_point():
        return precise(value)
    if isinstance(value, torch.dtype) and value.is_floating_point:  # the network casts to it
        return torch.promote_types(value, torch.float32)
    return value


def _numbers(operation: graph.Operation) -> list[Tensor]:
    """Return the floating-point tensors in an operation."""
    values = [getattr(operation, field.name) for field in fields(operation)]
    return [v for v in values if isinstance(v, Tensor) and v.is_floating_point()]


def require_piecewise_linear(traced: graph.Graph, method: str) -> None:
    """Refuse a network in which something else than a gate of straight pieces is not linear.

    Raises:
        UnsupportedOperation: If there is a smooth gate, or a product, a quotient, a normalisation
            or a softmax of computed numbers. It names the first, and what to do.
    """
    for node in traced.nodes:
        if isinstance(node.operation, graph.SmoothGate) and "prelu" in node.operation.kind:
            reason = "its learned slopes are told by its input, which the method does not ask for"
        elif isinstance(node.operation, graph.SmoothGate):
            reason = "its slope changes everywhere, and the method asks which side of a bend it is"
        elif isinstance(node.operation, graph.Nonlinear):
            reason = "the output depends on several computed numbers at once, not on one gate"
        else:
            continue
        raise graph.UnsupportedOperation(
            f"{method} is defined for activations of straight pieces (ReLU, clamps, leaky ReLU, "
            f"max pooling) and not for {node.operation.kind} in {node.name!r}: {reason}. Take "
            "gradient, smoothgrad, integrated_gradients or lrp, or explain a network of ReLUs"
        )


def check_scale(traced: graph.Graph, x: Tensor) -> None:
    """Warn of pictures whose pixels go from 0 far beyond 1 and meet a network's weights so."""
    if x.ndim != 4 or x.shape[1] not in (1, 3) or not _reads_pixels(traced):
        return
    pixels = x.detach()
    if float(pixels.amin()) >= 0 and float(pixels.amax()) > _BRIGHTEST:
        warn(
            "x looks like pixels from 0 to 255 that were not preprocessed; bring them into the "
            "network's units, as clf.batch([image]) does. If the network was trained on such "
            "numbers, silence this with warnings.simplefilter('ignore', UnpreprocessedWarning)",
            UnpreprocessedWarning,
        )


def _reads_pixels(traced: graph.Graph) -> bool:
    """Whether a convolution or linear layer reads the input as it is, not scaled by anything."""
    copies = {0}
    for node in traced.nodes[1:]:
        if copies.isdisjoint(node.inputs):
            continue
        if isinstance(node.operation, (graph.Convolution, graph.Dense)):
            return True
        if isinstance(node.operation, (graph.Concatenate, graph.Pad, graph.Reshape)):
            copies.add(node.index)
    return False


@graph.undisturbed
def in_chunks(
    function: Callable[..., T], batch_size: int | None, x: Tensor, *others: Resolved
) -> list[T]:
    """Call a function on a few images at a time, without autograd, autocast and inference mode.

    Args:
        function: What to call, ``function(x, *others)``.
        batch_size: The largest number of images at a time; None for all.
        x: The images (N, ...).
        others: What else has an entry for each image, or None.

    Returns:
        What it returns for each chunk.

    Raises:
        ValueError: If ``batch_size`` is not a positive whole number.
    """
    if batch_size is not None:
        check_positive("batch_size", batch_size)
    size = batch_size or len(x)
    chunks = [slice(first, first + size) for first in range(0, len(x), size)]
    return [function(*(None if t is None else t[c] for t in (x, *others))) for c in chunks]


def joined(parts: Sequence[Tensor]) -> Tensor:
    """Return the chunks of a batch as one."""
    return parts[0] if len(parts) == 1 else torch.cat(list(parts))


def joined_fields(parts: Sequence[T]) -> T:
    """Return results of several chunks, dataclasses with tensors (N, ...), as one.

    What is no tensor is the same in all of them.
    """
    first: Any = parts[0]
    if len(parts) == 1:
        return parts[0]
    names = [each.name for each in fields(first) if isinstance(getattr(first, each.name), Tensor)]
    whole = {name: torch.cat([getattr(part, name) for part in parts]) for name in names}
    return cast(T, replace(first, **whole))


def signal_to_input(
    traced: graph.Graph, x: Tensor, explained: Resolved, gate: graph.GateRule = graph.gated
) -> Tensor:
    """Send the derivative of what is explained back to the input through the given gates."""
    record = traced.record(x, keep="gates")
    return traced.backward(record, start_signal(explained, record.output), gate)


def settled(
    network: Callable[[Tensor], Tensor], x: Tensor, explained: Resolved, batch_size: int | None
) -> Explained | Tensor:
    """Find the class of each image once, for all its variants, where it was left open.

    Args:
        network: Gives the outputs (N, ...) of images.
        x: The images themselves (N, ...), not their variants.
        explained: What is explained of them; None and contrasts without a class leave it open.
        batch_size: How many images at a time.

    Returns:
        What is explained of them, by classes that are known now.
    """
    if isinstance(explained, Tensor):
        return explained
    if explained is not None and not explained.needs_class:
        return explained
    named = joined(in_chunks(lambda x: resolve_target(None, network(x)), batch_size, x))
    return named if explained is None else explained.of(named)
