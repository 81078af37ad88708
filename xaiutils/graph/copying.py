"""A copy of a network that shares its parameters, to be run and traced in place of the original.

Modules, containers, and the functions and methods that refer to them are copied, so that whatever
``forward`` or a hook writes down stays in the copy. Everything else is shared.
"""

from __future__ import annotations

import copy
from collections import OrderedDict
from functools import partial
from types import CellType, FunctionType, MethodType
from typing import Any, cast

import torch
from torch import nn

HOOKS = ("_forward_hooks", "_forward_pre_hooks")


def twin(model: nn.Module) -> nn.Module:
    """Return a copy of a network with the same parameters and with buffers of its own."""
    copies: dict[int, Any] = {id(b): b.detach().clone() for b in model.buffers()}
    parts = [m for m in model.modules() if not isinstance(m, torch.jit.ScriptModule)]
    copies |= {id(part): object.__new__(type(part)) for part in parts}
    for part in parts:
        new = copies[id(part)]
        vars(new).update({name: _copied(value, copies) for name, value in vars(part).items()})
        vars(new).pop("_compiled_call_impl", None)  # model.compile(): run what was compiled
        if (inside := wrapped(part)) is not None:  # a compiled part, say: run what is in it
            vars(new)["forward"] = copies.get(id(inside), inside)
        for hooks in (vars(new)[name] for name in HOOKS):
            hooks.update({key: _owner(hook, copies) for key, hook in hooks.items()})
    return cast(nn.Module, copies.get(id(model), model))


def wrapped(part: nn.Module) -> nn.Module | None:
    """Return the module inside a compiled or data-parallel one, None of any other."""
    kind, inside = type(part), None
    if kind in (nn.DataParallel, nn.parallel.DistributedDataParallel):
        inside = part.module
    if kind.__module__.startswith("torch._dynamo"):
        inside = getattr(part, "_orig_mod", None)
    return inside if isinstance(inside, nn.Module) else None


def _copied(value: Any, copies: dict[int, Any]) -> Any:
    """Return the copy of a value, or the value itself if nothing in it has to be copied."""
    if id(value) in copies:
        return copies[id(value)]
    if type(value) in (list, set):
        copies[id(value)] = new = type(value)()
        new.__init__(_copied(entry, copies) for entry in value)
        return new
    if type(value) in (dict, OrderedDict):
        copies[id(value)] = new = type(value)()
        new.update((key, _copied(entry, copies)) for key, entry in value.items())
        return new
    if type(value) is tuple:
        return tuple(_copied(entry, copies) for entry in value)
    if type(value) is partial:
        arguments = [_copied(entry, copies) for entry in value.args]
        return partial(_copied(value.func, copies), *arguments, **_copied(value.keywords, copies))
    if isinstance(value, MethodType):
        return MethodType(value.__func__, _owner(value.__self__, copies))
    return _function(value, copies) if isinstance(value, FunctionType) else value


def _owner(value: Any, copies: dict[int, Any]) -> Any:
    """Copy an object whose method is a hook, too: it may write into itself."""
    kind: Any = type(value)
    plain = kind.__new__ is object.__new__ and hasattr(value, "__dict__")
    if id(value) in copies or not plain or isinstance(value, nn.Module):
        return copies.get(id(value), value)
    copies[id(value)] = new = object.__new__(kind)
    vars(new).update({name: _copied(entry, copies) for name, entry in vars(value).items()})
    return new


def _function(function: FunctionType, copies: dict[int, Any]) -> FunctionType:
    """Let a function see the copies of what it uses from outside."""
    copies[id(function)] = function  # it may refer to itself
    cells = tuple(_cell(cell, copies) for cell in function.__closure__ or ())
    scope = function.__globals__
    names = [name for name in function.__code__.co_names if name in scope]
    found = {name: _global(scope[name], copies) for name in names}
    changed = {name: value for name, value in found.items() if value is not scope[name]}
    if not changed and all(a is b for a, b in zip(cells, function.__closure__ or (), strict=True)):
        return function
    code, name, defaults = function.__code__, function.__name__, function.__defaults__
    new = FunctionType(code, {**scope, **changed}, name, defaults, cells)
    new.__kwdefaults__ = function.__kwdefaults__
    vars(new).update(vars(function))
    copies[id(function)] = new
    return new


def _cell(cell: CellType, copies: dict[int, Any]) -> CellType:
    try:
        content = cell.cell_contents
    except ValueError:  # empty as yet
        return cell
    new = _copied(content, copies)
    return cell if new is content else CellType(new)


def _global(value: Any, copies: dict[int, Any]) -> Any:
    """Copy a global variable if it is a part of the network or a container; nothing inside it."""
    method = isinstance(value, MethodType) and id(value.__self__) in copies
    if method or id(value) in copies:
        return _copied(value, copies)
    return copy.copy(value) if type(value) in (list, set, dict, OrderedDict) else value
