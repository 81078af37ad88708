"""Read a network into a graph: trace it once, compare it with the network, remember it."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from xaiutils.graph.binding import bound_graph
from xaiutils.graph.comparing import agree, difference, two
from xaiutils.graph.copying import twin, wrapped
from xaiutils.graph.errors import (
    GraphError,
    TraceError,
    check_input,
    check_model,
    check_numbers,
)
from xaiutils.graph.fingerprint import differences, fingerprint, fully_seen, mark_of_function
from xaiutils.graph.inputs import Inputs, pack, take_packed
from xaiutils.graph.memory import Bound, Memory
from xaiutils.graph.operations import Shape
from xaiutils.graph.outputs import Output, check_output, outputs_of
from xaiutils.graph.running import Graph, undisturbed
from xaiutils.graph.structure import Structure
from xaiutils.graph.tracing import GLOBAL_HOOKS, exported, hooked, untraceable
from xaiutils.graph.translating import translated


def trace(model: nn.Module, example: Inputs, fold: bool = True, output: Output = None) -> Graph:
    """Read a network into a graph of operations: linear, gates, and what is neither.

    **What is read:** every operation of PyTorch (ATen) that has a derivative and does not mix the
    images of a batch. Convolutions, linear layers, BatchNorm, pooling, upsampling, sums, moves and
    copies are *linear*; so is anything else that is linear in the one signal it reads.
    Activations, straight (ReLU, clamps, leaky ReLU) or smooth (GELU, SiLU, sigmoid, softplus), are
    *gates*. Products and quotients of computed numbers, matrix products, LayerNorm, GroupNorm,
    InstanceNorm, softmax and attention are neither, and have kinds of their own, for which LRP has
    rules. What is left is repeated as it is, with its derivative. What does not depend on the
    input is computed once, and the result is compared with the network's own.

    **What is refused:** what moves or mixes the images of a batch, or depends on their number (the
    statistics of the batch in a BatchNorm, a mean over dimension 0); what draws at random in
    evaluation mode; a ``forward`` that decides by the values in a tensor what to compute;
    ScriptModules; and operations that PyTorch does not know, until
    :func:`xaiutils.graph.register` has said what they are. The error names the operation, the
    module and the line, as far as they are known.

    The structure is traced once for each input shape, compared with the network's own output for
    two images of ``example``, and kept for as long as the model lives. It is traced anew when a
    module or an attribute of one, a hook or a ``forward`` was replaced. Where that cannot be seen
    (hooks that change something, a replaced ``forward``, hooks on all modules, attributes that the
    network's own ``forward`` writes) the outputs are compared again at every call.
    The weights are read at every call: call again after changing them, it costs little.

    What is traced is a copy that shares the parameters. The user's module is only read, and other
    threads may run it meanwhile. Autocast is switched off: the graph computes in the model's type.

    Args:
        model: Any module in evaluation mode that takes a tensor (N, ...), or several, and returns
            a tensor, or what holds one. Of a compiled or data-parallel module the one inside is
            read.
        example: An input. The graph is for inputs of its shape, with any batch size. A tuple of
            several is handed to the model one by one; the graph is then for all of them as one,
            ``graph.pack(inputs)``, and ``graph.unpack(signal, shapes)`` takes them apart again.
        fold: Whether a BatchNorm that follows a convolution or a linear layer directly becomes part
            of it. The function computed is the same.
        output: Which of several outputs the graph is for: a key of the dict that the model returns,
            an attribute of another object, a position in a tuple or list, or a function of what it
            returns, which returns a tensor (N, ...); ``lambda y: y["out"].mean((2, 3))`` is the
            mean over the places of a segmentation. None where there is only one.

    Raises:
        TypeError: If the model is no module, the input no floating-point tensor of its type, or
            ``output`` no choice.
        ValueError: If a part of the model is in training mode, or the input is not a finite batch.
        UnsupportedOperation: If the network does something that is refused, or returns several
            tensors of which ``output`` chooses none; it names what, and where.
        TraceError: If the network cannot run on such an input, or if what was traced does not
            compute what the network does.
    """
    check_model(model)
    check_output(output)
    if isinstance(example, Tensor):
        check_input(model, example)
        x, shapes = example, None
    else:
        x, shapes = _packed(model, example)
    model = _inner(model)
    return _bound(model, _structure(model, x, _Task(fold, output, shapes)))


def _packed(model: nn.Module, inputs: Any) -> tuple[Tensor, tuple[Shape, ...]]:
    if not isinstance(inputs, (tuple, list)):
        check_input(model, inputs)  # which says what is wrong with it
    for each in inputs:
        check_numbers(model, each)
    return pack(inputs), tuple(tuple(each.shape[1:]) for each in inputs)


def _inner(model: nn.Module) -> nn.Module:
    """Return the network inside a compiled or data-parallel one that does nothing else."""
    inside = wrapped(model)
    return model if inside is None or hooked(model) else _inner(inside)


# ------------------------------------------------------------------------------- remembering


@dataclass(frozen=True)
class _Task:
    """What is wanted of a network.

    Attributes:
        fold: Whether each BatchNorm is folded where it can be.
        output: Which of several outputs is meant.
        shapes: The shapes of several inputs, which come as one; None if there is one only.
    """

    fold: bool
    output: Output
    shapes: tuple[Shape, ...] | None = None

    def key(self, x: Tensor) -> Any:
        """Return what one structure is good for; of a function only what it does, no reference."""
        choice = mark_of_function(self.output) if callable(self.output) else self.output
        return tuple(x.shape[1:]), x.dtype, x.device, self.fold, choice, self.shapes

    def twin(self, model: nn.Module) -> nn.Module:
        """Return a copy of the network that takes its inputs as one tensor."""
        copy = twin(model)
        if self.shapes is not None:
            take_packed(copy, self.shapes)
        return copy


_memories: WeakKeyDictionary[nn.Module, Memory] = WeakKeyDictionary()
_lock = threading.RLock()  # torch.export changes what all threads share


def _structure(model: nn.Module, x: Tensor, task: _Task) -> Structure:
    """Return the structure of a network for inputs like ``x``, traced on first use."""
    key = task.key(x)
    known = _remembered(model, key)
    if known is not None and not _doubtful(model, task):
        return known
    with _lock:
        known = _remembered(model, key)  # another thread may have traced it
        if known is not None and (not _doubtful(model, task) or _still_true(model, known, x, task)):
            return known
        return _traced(model, key, x, task)


def _remembered(model: nn.Module, key: Any) -> Structure | None:
    memory = _memories.get(model)
    if memory is None or not memory.holds_for(fingerprint(model)):
        return None
    return memory.recall(key)


def _bound(model: nn.Module, structure: Structure) -> Graph:
    """Return the graph with the weights that the network has now, bound anew if they changed."""
    memory = _memories.get(model)
    kept = memory.bound if memory else None
    if kept is not None and kept.structure is structure and kept.holds_for(model):
        return kept.graph
    new = Bound.now(structure, model)
    if memory is not None:
        memory.bound = new
    return new.graph


def _doubtful(model: nn.Module, task: _Task) -> bool:
    """Whether the network may compute something else although its fingerprint is the same."""
    memory = _memories.get(model)
    if any(GLOBAL_HOOKS) or (memory and memory.written) or not fully_seen(task.output):
        return True
    return any(
        ("forward" in vars(part) and wrapped(part) is None) or hooked(part)
        for part in model.modules()
    )


@undisturbed
def _still_true(model: nn.Module, structure: Structure, x: Tensor, task: _Task) -> bool:
    images = two(x)
    try:
        expected = outputs_of(task.twin(model), images, task.output)
        return agree(_bound(model, structure)(images), expected, structure.coarsest)
    except Exception:  # tracing it anew says what is wrong
        return False


@undisturbed
def _traced(model: nn.Module, key: Any, x: Tensor, task: _Task) -> Structure:
    """Trace a network, compare the result with its own output, and remember it."""
    if any(isinstance(part, torch.jit.ScriptModule) for part in model.modules()):
        raise TraceError(
            f"{type(model).__name__} was made by torch.jit, which hides what it computes; hand over"
            " the Python module that it was made from"
        )
    mark = fingerprint(model)
    try:
        bound, written = _attempt(model, x, task, quick=True)
    except _Doubt:
        bound, written = _attempt(model, x, task, quick=False)
    memory = _memories.get(model)
    if memory is None or not memory.holds_for(mark):
        memory = _memories[model] = Memory(mark)
    memory.keep(key, bound, written)
    return bound.structure


class _Doubt(Exception):  # noqa: N818 - not an error to its reader
    """What was recorded is not good enough: torch.export is to be asked."""


def _attempt(
    model: nn.Module, x: Tensor, task: _Task, quick: bool
) -> tuple[Bound, frozenset[tuple[str, str]]]:
    """Trace a network and compare the result with its own output for two images.

    Returns:
        The graph, and the attributes that the network's forward changes.

    Raises:
        _Doubt: If a quick attempt does not succeed, for whatever reason.
    """
    images = two(x)
    program: Any = exported(lambda: task.twin(model), images, task.output, quick)
    final = isinstance(program, torch.export.ExportedProgram)
    try:
        structure = translated(model, program, x, task.fold)
        expected, written = _own_output(model, images, task)
        bound = Bound.now(structure, model)
        found = bound.graph(images)
        if not agree(found, expected, structure.coarsest) and not agree(
            found, expected, structure.coarsest, _rounding(model, images, task, expected)
        ):
            plain = bound_graph(translated(model, program, x, fold=False), model)
            raise TraceError(difference(task.twin(model), plain, images))
        if structure.registered:
            _check_derivative(bound.graph, task.twin(model), images, task.output)
    except Exception as error:
        if final:
            raise
        raise _Doubt from error
    return bound, written


def _check_derivative(graph: Graph, copy: nn.Module, x: Tensor, output: Output) -> None:
    """Refuse a graph that has the network's output but not its derivative.

    Raises:
        TraceError: If an operation is not what it was registered as.
    """
    record = graph.record(x, keep="gates")
    with torch.enable_grad():
        leaf = x.clone().requires_grad_()
        expected = torch.autograd.grad(outputs_of(copy, leaf, output).sum(), leaf)[0]
    found = graph.backward(record, torch.ones_like(record.output))
    if not agree(found, expected):
        raise TraceError(
            f"{type(copy).__name__} has another derivative than what was traced of it: an operation"
            " is not of the kind that it was registered as"
        )


def _rounding(model: nn.Module, x: Tensor, task: _Task, expected: Tensor) -> float:
    """Return by how much a network's own output moves if its input is rounded a little."""
    same, moved = (
        (outputs_of(task.twin(model), images, task.output) - expected).abs().max()
        for images in (x, x * (1 + torch.finfo(x.dtype).eps))
    )
    return 0.0 if bool(same > 0) else float(moved)  # what draws by lot moves by itself


def _own_output(
    model: nn.Module, x: Tensor, task: _Task
) -> tuple[Tensor, frozenset[tuple[str, str]]]:
    """Return a network's output, and the attributes that its forward changed on the way."""
    copy = task.twin(model)
    before = fingerprint(copy)
    try:
        output = outputs_of(copy, x, task.output)
    except GraphError:
        raise
    except Exception as error:
        raise untraceable(model, x, error) from error
    if not bool(torch.isfinite(output).all()):
        name = type(model).__name__
        raise TraceError(f"{name}'s output is not finite, NaN or infinity, for this input")
    return output, differences(before, fingerprint(copy))
