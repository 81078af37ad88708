"""The method that is judged: found by its name, run with care, and watched.

A method is any ``f(model, x, target)`` that gives maps. It may be a function in a reader's file, a
class of Captum's that is called by way of ``attribute``, or a name in `attribution.METHODS`.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.metadata
import importlib.util
import inspect
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from xaiutils import attribution
from xaiutils.graph.fingerprint import fingerprint
from xaiutils.reproduce._explained import heatmap, weights

_CALLED_WITH = ("model", "x", "target")
_WATCHED = (
    "its weights or buffers",
    "its mode (training or evaluation)",
    "whether its weights ask for gradients",
)
_OWN_MODULE = "xaiutils_judged"
_STEPS_AT_ONCE, _FEW_STEPS = "internal_batch_size", 10  # of Captum's methods with a path


class MethodError(ValueError):
    """What a method returned, or did to the network, cannot be judged."""


class Refused(Exception):  # noqa: N818
    """The method raised an error of its own: it does not take this network."""


@dataclass(frozen=True)
class Subject:
    """A method under judgement.

    Attributes:
        name: How it was asked for, without its folder.
        method: ``f(model, x, target, seed)`` that gives maps.
        origin: What tells this method from another of the same name: a hash of its file, or the
            version of its package.
        options: Its parameters beside the three, with their defaults.
    """

    name: str
    method: Callable[[nn.Module, Tensor, Tensor, int], Any] = field(repr=False)
    origin: str
    options: str = ""

    def __call__(self, model: nn.Module, x: Tensor, target: Tensor, seed: int = 0) -> Tensor:
        """Maps (N, H, W) float64 of the images; everything global that is random starts at `seed`.

        Raises:
            MethodError: Maps of the wrong type or shape, NaN, or a network that is not as before.
            Refused: The method raised an error.
        """
        before, kept = fingerprint(model), _state(model)
        given = x.detach().clone()
        with _seeded(seed):
            try:
                found = self.method(model, given, target.clone(), seed)
            except Exception as error:
                raise Refused(f"{type(error).__name__}: {error}") from error
        self._check_network(model, before, kept)
        return self._checked(found, x)

    def _check_network(self, model: nn.Module, before: Any, kept: tuple[object, ...]) -> None:
        after = fingerprint(model)
        differing = {key for key in {**before, **after} if before.get(key) != after.get(key)}
        changed = sorted({path or "the network itself" for path, _ in differing})
        for what, one, other in zip(_WATCHED, kept, _state(model), strict=True):
            changed += [what] if one != other else []
        if changed:
            raise MethodError(
                f"{self.name} has changed the network: {', '.join(changed)}. Work on a copy "
                "(copy.deepcopy), or put back what was there: hooks, weights, mode"
            )

    def _checked(self, found: object, x: Tensor) -> Tensor:
        number, sides = len(x), tuple(x.shape[2:])
        allowed = dict.fromkeys([tuple(x.shape), (number, 1, *sides), (number, *sides)])
        if not isinstance(found, Tensor):
            raise MethodError(f"{self.name} must return a tensor, not {type(found).__name__}")
        if tuple(found.shape) not in allowed:
            raise MethodError(
                f"{self.name} must return maps of shape {' or '.join(map(str, allowed))} for "
                f"images {tuple(x.shape)}, not {tuple(found.shape)}"
            )
        maps = found.detach().cpu().double()
        maps = maps.sum(dim=1) if maps.ndim == 4 else maps
        broken = ~maps.flatten(1).isfinite().all(dim=1)
        if bool(broken.any()):
            raise MethodError(
                f"{self.name} gives NaN or infinity for {int(broken.sum())} of {number} images, "
                f"the first of them image {int(broken.nonzero()[0])}; a map must be finite"
            )
        return maps


def load_subject(name: str) -> Subject:
    """Find the method of this name.

    Args:
        name: ``file.py:function``, ``module:function``, ``module:Class`` of Captum's kind, or a
            name of `attribution.METHODS`.

    Raises:
        SystemExit: It is not there, or cannot be called as ``f(model, x, target)``.
    """
    if ":" not in name:
        return _of_the_book(name)
    place, wanted = name.rsplit(":", 1)
    module, origin = _file(Path(place)) if place.endswith(".py") else _module(place)
    found = getattr(module, wanted, None)
    if found is None:
        callables = [n for n, value in vars(module).items() if callable(value) and n[0] != "_"]
        there = ", ".join(callables[:12]) or "nothing that can be called"
        raise SystemExit(f"{place} has no {wanted!r}; it has {there}.")
    if not callable(found):
        raise SystemExit(f"{wanted} in {place} is {type(found).__name__}, not a function.")
    label = f"{Path(place).name}:{wanted}"
    if inspect.isclass(found):
        return _of_captum(label, found, origin)
    _check_call(label, found)
    return Subject(label, partial(_plain, found), origin, _options(found, skip=3))


def _of_the_book(name: str) -> Subject:
    if name not in attribution.METHODS:
        raise SystemExit(
            f"{name!r} is no method of this package ({', '.join(attribution.METHODS)}). Give one "
            "of your own as file.py:function, or of another package as module:function."
        )
    method = attribution.METHODS[name]
    origin = f"xaiutils {importlib.metadata.version('xaiutils')}"
    return Subject(name, partial(_named, name), origin, _options(method, skip=3))


def _named(name: str, model: nn.Module, x: Tensor, target: Tensor, seed: int) -> Tensor:
    return heatmap(name, model, x, target, seed)


def _plain(
    function: Callable[..., Any], model: nn.Module, x: Tensor, target: Tensor, _: int
) -> Any:
    return function(model, x, target)


def _of_captum(label: str, kind: type, origin: str) -> Subject:
    """A class whose instances attribute: made of the model, called image by image.

    Image by image, and few steps of a path at once: fifty of them all together need gigabytes.
    """
    if not callable(getattr(kind, "attribute", None)):
        raise SystemExit(
            f"{label} is a class without a method 'attribute'. Give a function f(model, x, target)."
        )
    try:
        inspect.signature(kind).bind("model")
    except TypeError as error:
        raise SystemExit(
            f"{label} cannot be made of the model alone ({error}). Write a function "
            "f(model, x, target) that makes it and calls attribute, and judge that."
        ) from None
    return Subject(
        label,
        partial(_attributed, kind),
        origin,
        _options(vars(kind).get("attribute", kind), skip=2),
    )


def _attributed(kind: type, model: nn.Module, x: Tensor, target: Tensor, _: int) -> Tensor:
    explain: Any = kind(model)
    known = inspect.signature(explain.attribute).parameters
    few = {_STEPS_AT_ONCE: _FEW_STEPS} if _STEPS_AT_ONCE in known else {}
    images = zip(x[:, None], target.tolist(), strict=True)
    maps = (explain.attribute(image, target=wanted, **few) for image, wanted in images)
    return torch.cat([one.detach() for one in maps])


def _file(path: Path) -> tuple[ModuleType, str]:
    if not path.is_file():
        raise SystemExit(f"there is no file {path}; give the path from {Path.cwd()}.")
    content = path.read_bytes()
    spec = importlib.util.spec_from_file_location(f"{_OWN_MODULE}_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise SystemExit(f"{path} cannot be run: {type(error).__name__}: {error}.") from error
    return module, f"sha256 {hashlib.sha256(content).hexdigest()}"


def _module(name: str) -> tuple[ModuleType, str]:
    try:
        module = importlib.import_module(name)
    except ImportError as error:
        raise SystemExit(f"{name} cannot be imported: {error}.") from None
    top = importlib.import_module(name.split(".")[0])
    return module, f"{top.__name__} {getattr(top, '__version__', 'of unknown version')}"


def _check_call(label: str, function: Callable[..., Any]) -> None:
    try:
        signature = inspect.signature(function)
        signature.bind(*_CALLED_WITH)
    except TypeError as error:
        raise SystemExit(
            f"{label}{signature} cannot be called as f(model, x, target): {error}. It gets a "
            "network, images (N, C, H, W) and classes (N,), and returns maps."
        ) from None
    except ValueError:  # some functions in C tell nothing
        return


def _options(function: Callable[..., Any], skip: int) -> str:
    """The parameters that are left, with their defaults."""
    try:
        parameters = list(inspect.signature(function).parameters.values())[skip:]
    except ValueError:
        return ""
    named = [p for p in parameters if p.default is not p.empty and p.name != "target"]
    return ", ".join(f"{p.name}={p.default!r}" for p in named if not callable(p.default))


def _state(model: nn.Module) -> tuple[object, ...]:
    """What a fingerprint leaves out, in the order of `_WATCHED`."""
    modes = tuple(module.training for module in model.modules())
    gradients = tuple(p.requires_grad for p in model.parameters())
    return weights(model, "")["sha256"], modes, gradients


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Global random numbers that start at the seed, and afterwards are what they were."""
    python, arrays = random.getstate(), np.random.get_state()
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        random.seed(seed)
        np.random.seed(seed)
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(arrays)
