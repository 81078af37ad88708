"""A network's own output, from whatever it wraps it in, or the one of several that is chosen."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from xaiutils.graph.errors import UnsupportedOperation
from xaiutils.graph.inputs import Inputs

# What to explain of all that a network returns: see :func:`chosen`.
Output = str | int | Callable[[Any], Tensor] | None


def outputs_of(model: nn.Module, x: Inputs, output: Output = None) -> Tensor:
    """Run the user's module on a copy of ``x`` and return the one tensor that is to be explained.

    A network whose first operation works in place thus leaves the caller's ``x`` as it was.
    Gradients reach ``x`` as usual, where they are switched on.

    Args:
        model: A module that returns a tensor (N, ...), or something that holds one or several.
        x: The input (N, ...), or a tuple of several.
        output: Which of several, as in :func:`xaiutils.graph.trace`; None for the only one.

    Returns:
        The output (N, ...); (N,) for a network that returns one number per image.

    Raises:
        TypeError: If ``output`` is no choice.
        UnsupportedOperation: If the module returns no tensor, or several and none is chosen, if
            the choice does not fit what it returns, or if the output does not have one row for
            each input.
    """
    inputs = [x] if isinstance(x, Tensor) else x
    value = chosen(model, model(*(each.clone() for each in inputs)), output)
    rows = len(inputs[0])
    if value.ndim == 0 or len(value) != rows:
        raise UnsupportedOperation(
            f"{type(model).__name__} turns a batch of {rows} into {tuple(value.shape)}; it must"
            " return a tensor with one row for each image"
        )
    return value


def chosen(model: nn.Module, returned: Any, output: Output) -> Tensor:
    """Return one tensor out of what a module returned.

    Args:
        model: The module, for its name in errors.
        returned: What it returned.
        output: The key of a dict or the attribute of another object that it returned; the position
            in a tuple or list; a function of all that it returned, which returns a tensor with one
            row for each image, for instance ``lambda y: y["out"].mean((2, 3))``; or None where
            there is only one tensor. What a key, attribute or position gives must hold only one.

    Raises:
        TypeError: If ``output`` is none of these.
        UnsupportedOperation: If it does not fit what the module returned.
    """
    check_output(output)
    value = returned if output is None else _picked(model, returned, output)
    value = only_value(model, value)
    if not isinstance(value, Tensor):
        if callable(output):
            raise UnsupportedOperation(
                f"output= made a {type(value).__name__} of what {type(model).__name__} returns; it"
                " must return a tensor with one row for each image"
            )
        raise UnsupportedOperation(
            f"{type(model).__name__} returns a {type(value).__name__}; it must return a tensor with"
            " one row for each image"
        )
    return value


def check_output(output: object) -> None:
    """Refuse what chooses no output.

    Raises:
        TypeError: If ``output`` is neither None, a str, an int nor callable.
    """
    named = isinstance(output, (str, int)) and not isinstance(output, bool)
    if output is not None and not named and not callable(output):
        raise TypeError(
            "output must be a name, a position, a function of what the network returns or None,"
            f" not {output!r}"
        )


def _picked(model: nn.Module, returned: Any, output: str | int | Callable[[Any], Any]) -> Any:
    if callable(output):
        return _called(model, returned, output)
    if isinstance(returned, Mapping):
        if output in returned:
            return returned[output]
    elif isinstance(output, str):
        if not isinstance(returned, Tensor) and hasattr(returned, output):
            return getattr(returned, output)
    elif isinstance(returned, (tuple, list)) and -len(returned) <= output < len(returned):
        return returned[output]
    kinds, names = _contents(returned)
    if not names:
        cure = "leave output= out"
    else:
        near = difflib.get_close_matches(str(output), map(str, names), n=1)
        best = next((name for name in names if near and str(name) == near[0]), names[0])
        cure = f"write for instance output={best!r}"
    raise UnsupportedOperation(
        f"{type(model).__name__} returns {kinds}, in which there is no {output!r}; {cure}"
    )


def _called(model: nn.Module, returned: Any, function: Callable[[Any], Any]) -> Any:
    try:
        return function(returned)
    except (AttributeError, LookupError, TypeError) as error:
        kinds, _ = _contents(returned)
        raise UnsupportedOperation(
            f"{type(model).__name__} returns {kinds}, which the function given as output= does not"
            f" take: {type(error).__name__}: {error}"
        ) from error


def _contents(returned: Any) -> tuple[str, list[Any]]:
    """Say what a module returned, and by which names or positions its entries are chosen."""
    kind = type(returned).__name__
    if isinstance(returned, Mapping):
        names = list(returned)
        return f"a {kind} with {', '.join(map(repr, names)) or 'nothing in it'}", names
    if isinstance(returned, (tuple, list)):
        names = list(getattr(returned, "_fields", range(len(returned))))
        values = "1 value" if len(returned) == 1 else f"{len(returned)} values"
        fields = f" ({', '.join(names)})" if hasattr(returned, "_fields") else ""
        return f"a {kind} of {values}{fields}", names
    if isinstance(returned, Tensor):
        return "one tensor", []
    if not hasattr(returned, "__dict__"):
        return f"one {kind}", []
    names = [name for name, value in vars(returned).items() if isinstance(value, Tensor)]
    return f"a {kind} with {', '.join(map(repr, names)) or 'no tensor in it'}", names


def only_value(model: nn.Module, returned: Any) -> Any:
    """Return the one value in what a module returned, or say how to choose one."""
    values = [leaf for leaf in tree_leaves(returned) if leaf is not None]
    if len(values) != 1:
        kinds, names = _contents(returned)
        example = f"output={names[0]!r}" if names else "output=..."
        raise UnsupportedOperation(
            f"{type(model).__name__} returns {len(values)} values, in {kinds}; choose one, for"
            f" instance {example}, or hand over a small module whose forward calls it and returns"
            " the one to explain"
        )
    return values[0]
