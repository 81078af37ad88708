"""Read a network into a graph: trace it once, compare it with the network, remember it."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from xaiutils.graph.binding import bound_graph
from xaiutils.graph.copying import HOOKS, twin
from xaiutils.graph.errors import (
    GraphError,
    TraceError,
    check_input,
    check_model,
    check_numbers,
)
from xaiutils.graph.fingerprint import Mark, fingerprint, fully_seen, mark_of_function
from xaiutils.graph.inputs import Inputs, pack, take_packed
from xaiutils.graph.operations import Shape
from xaiutils.graph.outputs import Output, check_output, outputs_of
from xaiutils.graph.running import Graph, undisturbed
from xaiutils.graph.structure import Structure
from xaiutils.graph.tracing import GLOBAL_HOOKS, exported, hooked, untraceable
from xaiutils.graph.translating import translated

# How far a graph's output may be from the network's, relative to the largest number in it.
_TOLERANCE = {torch.float64: 1e-8, torch.float32: 1e-3, torch.float16: 0.1, torch.bfloat16: 0.3}
_REMEMBERED = 8  # structures for each network: so many image sizes, types and choices of an output


def trace(model: nn.Module, example: Inputs, fold: bool = True, output: Output = None) -> Graph:
    """Read a network into a graph of linear and gating operations.

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
            a tensor, or what holds one, made of convolutions (transposed ones too), linear
            layers, BatchNorm, ReLU, ReLU6 and other clamps, leaky ReLU, pooling, upsampling,
            additions, concatenations and reshapes. Of a compiled or data-parallel module the one
            inside is read.
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
        UnsupportedOperation: If the network does something else, or returns several tensors of
            which ``output`` chooses none; it names what, and where.
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
    return bound_graph(_structure(model, x, _Task(fold, output, shapes)), model)


def _packed(model: nn.Module, inputs: Sequence[Tensor]) -> tuple[Tensor, tuple[Shape, ...]]:
    if not isinstance(inputs, (tuple, list)):
        check_input(model, inputs)
    for each in inputs:
        check_numbers(model, each)
    return pack(inputs), tuple(tuple(each.shape[1:]) for each in inputs)


def _inner(model: nn.Module) -> nn.Module:
    """Return the network inside a compiled or data-parallel one."""
    kind, inside = type(model), None
    if kind in (nn.DataParallel, nn.parallel.DistributedDataParallel):
        inside = model.module
    if kind.__module__.startswith("torch._dynamo"):
        inside = model._orig_mod
    return _inner(inside) if isinstance(inside, nn.Module) and not hooked(model) else model


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


@dataclass(eq=False)
class _Memory:
    """What was traced of a network, and the fingerprint that it had then.

    Attributes:
        mark: The fingerprint, without what ``forward`` itself changes.
        written: The attributes that ``forward`` itself changes, by module and name.
        structures: What was traced, by what it is good for; the most recently used one is last.
    """

    mark: Mark
    written: frozenset[tuple[str, str]] = frozenset()
    structures: dict[Any, Structure] = field(default_factory=dict)

    def holds_for(self, mark: Mark) -> bool:
        """Whether a network with this fingerprint is still the one that was traced."""
        return _without(mark, self.written) == self.mark


_memories: WeakKeyDictionary[nn.Module, _Memory] = WeakKeyDictionary()
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
    if memory is None or key not in memory.structures or not memory.holds_for(fingerprint(model)):
        return None
    with _lock:
        structure: Structure | None = memory.structures.pop(key, None)
        if structure is not None:
            memory.structures[key] = structure  # as the last
    return structure


def _doubtful(model: nn.Module, task: _Task) -> bool:
    """Whether the network may compute something else although its fingerprint is the same."""
    memory = _memories.get(model)
    if any(GLOBAL_HOOKS) or (memory and memory.written) or not fully_seen(task.output):
        return True
    return any("forward" in vars(part) or hooked(part) for part in model.modules())


def _differences(before: Mark, after: Mark) -> frozenset[tuple[str, str]]:
    """Return the attributes that differ; hooks are watched in another way."""
    keys = {key for key in {**before, **after} if key[1] not in HOOKS}
    return frozenset(key for key in keys if before.get(key) != after.get(key))


def _without(mark: Mark, written: frozenset[tuple[str, str]]) -> Mark:
    return {key: value for key, value in mark.items() if key not in written} if written else mark


@undisturbed
def _still_true(model: nn.Module, structure: Structure, x: Tensor, task: _Task) -> bool:
    images = _two(x)
    try:
        expected = outputs_of(task.twin(model), images, task.output)
        return _agree(bound_graph(structure, model)(images), expected)
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
    images = _two(x)
    mark = fingerprint(model)
    program = exported(task.twin(model), images, task.output)
    structure = translated(model, program, x, task.fold)
    expected, written = _own_output(model, images, task)
    if not _agree(bound_graph(structure, model)(images), expected):
        plain = bound_graph(translated(model, program, x, fold=False), model)
        raise TraceError(_difference(task.twin(model), plain, images))
    memory = _memories.get(model)
    if memory is None or not memory.holds_for(mark):
        memory = _memories[model] = _Memory(mark)
    memory.written |= written
    memory.mark = _without(mark, memory.written)
    memory.structures[key] = structure
    while len(memory.structures) > _REMEMBERED:
        memory.structures.pop(next(iter(memory.structures)))
    return structure


# --------------------------------------------------------------------------------- comparing


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
    return output, _differences(before, fingerprint(copy))


def _two(x: Tensor) -> Tensor:
    """Return two of the inputs, as what works for one image only must not be taken for right."""
    return torch.cat([x[:2], x[:1]])[:2].detach()


def _agree(found: Tensor, expected: Tensor) -> bool:
    """Whether two outputs are the same but for rounding."""
    if found.shape != expected.shape or found.dtype != expected.dtype:
        return False
    tolerance = _TOLERANCE.get(expected.dtype, 1e-3)
    if expected.is_cuda:  # where TF32 rounds the factors of products, differently when folded
        tolerance = max(tolerance, 0.02 if expected.dtype != torch.float64 else 0)
    difference, largest = (found - expected).abs().max(), expected.abs().max()
    return bool(difference <= tolerance * largest)


def _difference(copy: nn.Module, plain: Graph, x: Tensor) -> str:
    """Say where a graph, without folding, first computes something else than the network."""
    name = type(copy).__name__
    record = plain.record(x)
    place = "the outputs of its modules agree: look at what its forward or a hook does with them"
    for path, index, expected in _outputs_of_modules(copy, plain, x):
        found = record.value(index)
        if found.shape == expected.shape and not _agree(found, expected):
            place = f"the output of {path!r} is the first that differs"
            break
    return (
        f"what was traced of {name} does not compute what {name} does, and is not used: {place}. "
        "Does it draw at random, or is something patched or hooked that depends on the input?"
    )


def _outputs_of_modules(
    copy: nn.Module, plain: Graph, x: Tensor
) -> Iterator[tuple[str, int, Tensor]]:
    """Give the path, the node and the output of each module, in the order in which they end."""
    outputs: list[tuple[str, Tensor]] = []

    def keep(path: str) -> Callable[..., None]:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            if isinstance(output, Tensor):
                outputs.append((path, output.clone()))  # it may be changed in place later

        return hook

    for path, part in copy.named_modules():
        part.register_forward_hook(keep(path))
    copy(x.clone())
    uses = Counter(path for path, _ in outputs)
    met: Counter[str] = Counter()
    for path, output in outputs:
        met[path] += 1
        nodes = [node.index for node in plain.nodes if node.module == path]
        if len(nodes) == uses[path]:  # one node for each use
            yield path, nodes[met[path] - 1], output
        elif nodes and met[path] == uses[path]:
            yield path, plain.find(path).index, output
