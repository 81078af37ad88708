"""From a PyTorch module to a program of ATen operations: recorded, or by ``torch.export``.

Both run a module once on shapes alone and write down every ATen operation, with the module that
asked for it. What it runs is a copy of the user's module, whose hooks were told apart
before: those that only look on are left out, those that change something are traced.
"""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn
from torch.nn.modules import module as torch_module
from torch.utils._pytree import tree_leaves

from xaiutils.graph.copying import HOOKS
from xaiutils.graph.errors import GraphError, TraceError
from xaiutils.graph.inputs import takes_any_number
from xaiutils.graph.outputs import Output, chosen
from xaiutils.graph.translating import needs_decomposition

if TYPE_CHECKING:
    from xaiutils.graph.recording import Program

_LOGS = ("torch.fx.experimental.symbolic_shapes", "torch._export", "torch.export")
GLOBAL_HOOKS: Any = (torch_module._global_forward_hooks, torch_module._global_forward_pre_hooks)


class _Watch:
    """A hook, and whether it changed anything when it was called."""

    def __init__(self, hook: Any) -> None:
        self.hook, self.changes = hook, False

    def __call__(self, module: nn.Module, *arguments: Any, **keywords: Any) -> Any:
        before = _state(module, arguments, keywords)
        result = self.hook(module, *arguments, **keywords)
        self.changes |= result is not None or _state(module, arguments, keywords) != before
        return result


def _state(module: nn.Module, *values: Any) -> Any:
    attributes = {name: id(value) for name, value in vars(module).items()}
    tensors = [value for value in tree_leaves(values) if isinstance(value, Tensor)]
    return attributes, [0 if tensor.is_inference() else tensor._version for tensor in tensors]


def hooked(part: nn.Module) -> bool:
    """Whether a module has hooks that are called when it runs forwards."""
    return any(getattr(part, name) for name in HOOKS)


def _remove_onlookers(copy: nn.Module, x: Tensor) -> None:
    """Run a copied network, and take the hooks out of it that changed nothing."""
    places = [getattr(part, name) for part in copy.modules() for name in HOOKS]
    for hooks in places:
        hooks.update({key: _Watch(hook) for key, hook in hooks.items()})
    copy(x.clone())
    for hooks in places:
        kept = {key: watch.hook for key, watch in hooks.items() if watch.changes}
        hooks.clear()
        hooks.update(kept)


def exported(
    twin: Callable[[], nn.Module], x: Tensor, output: Output = None, quick: bool = True
) -> Program | torch.export.ExportedProgram:
    """Return the program of a network for a batch like ``x``, of any size.

    Args:
        twin: Makes a copy of the network, which is changed.
        x: An input.
        output: Which of several outputs the program returns.
        quick: Whether to record it, where that will do.

    Raises:
        GraphError: If it cannot be exported.
    """
    if quick and (found := _recorded(twin, x, output)) is not None:
        return found
    copy = twin()
    example = x.new_zeros(2, *x.shape[1:])  # two: a batch of one is special
    batch: Any = {0: torch.export.Dim.DYNAMIC}
    try:
        _prepare(copy, x, output)
        sizes: Any = ((batch,),) if takes_any_number(copy) else (batch,)
        with _quiet():
            program = torch.export.export(copy, (example,), dynamic_shapes=sizes)
            if needs_decomposition(program):
                program = program.run_decompositions({})  # nothing works in place any more
    except GraphError:
        raise
    except Exception as error:
        raise untraceable(copy, x, error) from error
    return program


def _recorded(twin: Callable[[], nn.Module], x: Tensor, output: Output) -> Program | None:
    """Return the program as it was recorded, None if ``torch.export`` has to be asked."""
    try:
        from xaiutils.graph.recording import recorded  # it takes a second to import

        copy = twin()
        _prepare(copy, x, output)
        with _quiet():
            program = recorded(copy, x)
        return None if needs_decomposition(cast(Any, program)) else program
    except Exception:  # torch.export says better what is wrong, if anything is
        return None


def _prepare(copy: nn.Module, x: Tensor, output: Output) -> None:
    """Leave out the hooks that only look on, and let a copied network return the chosen output."""
    if any(hooked(part) for part in copy.modules()):
        _remove_onlookers(copy, x)
    copy.register_forward_hook(lambda module, _, found: chosen(module, found, output))


def untraceable(model: nn.Module, x: Tensor, error: Exception) -> TraceError:
    """Return the error for a network that does not run, or not on inputs without numbers."""
    return TraceError(
        f"{type(model).__name__} cannot be traced for an input of shape "
        f"(N, {', '.join(map(str, x.shape[1:]))}): {_reason(error)}"
    )


def _reason(error: Exception) -> str:
    """Return what went wrong in one sentence."""
    lines = str(error).strip().split("\n")
    if type(error).__name__ != "GuardOnDataDependentSymNode":
        return lines[0]
    places = [i for i, line in enumerate(lines) if line.lstrip().startswith("File ")]
    code = f" ({lines[places[-1] + 1].strip()})" if places and places[-1] + 1 < len(lines) else ""
    return (
        f"its forward decides by the values in a tensor what to compute{code}; a graph holds one"
        " sequence of operations for all inputs"
    )


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep torch from printing what failed, and hooks on all modules from being called."""
    loggers = [logging.getLogger(name) for name in _LOGS]
    levels = [logger.level for logger in loggers]
    hooks = [(place, dict(place)) for place in GLOBAL_HOOKS]
    try:
        for logger in loggers:
            logger.setLevel(logging.CRITICAL)
        for place in GLOBAL_HOOKS:
            place.clear()
        with redirect_stderr(io.StringIO()), warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".* assigned during export")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
        for place, kept in hooks:
            place.update(kept)
