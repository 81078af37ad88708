"""What a traced structure depends on, besides the values of the weights: seen in a few moments."""

from __future__ import annotations

from collections.abc import Hashable
from functools import partial
from types import BuiltinFunctionType, CodeType, FunctionType, MethodType, SimpleNamespace
from typing import Any
from weakref import ref

import torch
from torch import Tensor, nn

from xaiutils.graph.copying import HOOKS

Mark = dict[tuple[str, str], Hashable]

_SCALARS = frozenset({bool, int, float, str, type(None)})
_OWN = frozenset(vars(nn.Module())) - {"_parameters", "_buffers", *HOOKS}  # names in every module
_DEPTH = 4  # of containers within containers


class Identity:
    """Equal for the same object only, which it does not keep alive."""

    __slots__ = ("_hash", "_object")

    def __init__(self, value: Any) -> None:
        self._hash = id(value)
        try:
            self._object: Any = ref(value)
        except TypeError:  # no weak references to it: its address must do
            self._object = lambda: None

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Identity) or self._hash != other._hash:
            return False
        return self._object() is other._object()

    def __hash__(self) -> int:
        return self._hash


def fingerprint(model: nn.Module) -> Mark:
    """Return what the computation of a network depends on, by module and attribute.

    That is the type and ``forward`` of each module, its hooks and its attributes, with the contents
    of lists, dicts, plain objects and of the variables that a function closes over, and which
    parameters are absent or shared, and their shapes. Two fingerprints are equal if nothing of
    this has changed. What a function reads from global variables is not seen.
    """
    tensors: dict[int, int] = {}
    mark: Mark = {}
    for path, module in model.named_modules(remove_duplicate=False):
        kind = type(module)
        mark[path, ""] = (kind, Identity(getattr(kind, "forward", None)))
        for name, value in vars(module).items():
            if name in _OWN:
                continue
            if type(value) in _SCALARS:
                mark[path, name] = value
            elif name in ("_parameters", "_buffers"):
                mark[path, name] = tuple((key, _place(t, tensors)) for key, t in value.items())
            elif name in HOOKS:
                mark[path, name] = _mark(value, 1) if value else None
            else:
                mark[path, name] = _mark(value, _DEPTH)
    return mark


def differences(before: Mark, after: Mark) -> frozenset[tuple[str, str]]:
    """Return the attributes that differ; hooks are watched in another way."""
    keys = {key for key in {**before, **after} if key[1] not in HOOKS}
    return frozenset(key for key in keys if before.get(key) != after.get(key))


def _place(tensor: Tensor | None, seen: dict[int, int]) -> Hashable:
    """Say which of the network's tensors it is: the same number for one that is used twice."""
    return None if tensor is None else (seen.setdefault(id(tensor), len(seen)), tensor.shape)


def _mark(value: Any, depth: int) -> Hashable:
    kind: Any = type(value)
    if kind in _SCALARS:
        return (kind, value)
    if isinstance(value, Tensor):
        return (Identity(value), 0 if value.is_inference() else value._version)
    if depth == 0 or isinstance(value, (type, nn.Module)):
        return Identity(value)
    if isinstance(value, (list, tuple)):
        return (kind, tuple(_mark(entry, depth - 1) for entry in value))
    if isinstance(value, dict):
        entries = value.items()
        return (kind, tuple((_mark(k, 0), _mark(v, depth - 1)) for k, v in entries))
    if isinstance(value, MethodType):
        return (Identity(value.__func__), Identity(value.__self__))
    if kind is partial:
        return tuple(_mark(part, depth - 1) for part in (value.func, value.args, value.keywords))
    if isinstance(value, FunctionType) and value.__closure__:
        return (Identity(value), tuple(_content(cell, depth - 1) for cell in value.__closure__))
    if isinstance(value, torch.Size | torch.dtype | torch.device):
        return value
    if isinstance(value, SimpleNamespace) or kind.__new__ is object.__new__:
        return (Identity(value), _mark(getattr(value, "__dict__", None), 1))
    return Identity(value)


def mark_of_function(function: Any) -> Hashable:
    """Return what a function computes: equal for one that was made anew in the same place.

    That is its code, its defaults and the variables that it uses, closed over or global. Of other
    callables it is their identity and attributes. Nothing is kept alive.
    """
    if not isinstance(function, FunctionType):
        return _mark(function, _DEPTH)
    cells = tuple(_content(cell, _DEPTH) for cell in function.__closure__ or ())
    scope, names = function.__globals__, _names(function.__code__)
    used = tuple(_mark(scope[name], _DEPTH) for name in names if name in scope)
    defaults = _mark((function.__defaults__, function.__kwdefaults__), _DEPTH)
    return function.__code__, id(scope), defaults, cells, used


def _names(code: CodeType) -> list[str]:
    """Return the names of global variables in a function and in those that it defines."""
    inside = [_names(part) for part in code.co_consts if isinstance(part, CodeType)]
    return [*code.co_names, *(name for names in inside for name in names)]


def fully_seen(function: Any) -> bool:
    """Whether what is called computes the same as long as its mark is equal."""
    return not callable(function) or isinstance(function, (FunctionType, BuiltinFunctionType))


def _content(cell: Any, depth: int) -> Hashable:
    try:
        return _mark(cell.cell_contents, depth)
    except ValueError:  # empty as yet
        return None
