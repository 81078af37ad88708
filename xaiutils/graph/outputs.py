"""A network's own output, from whatever it wraps it in."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from xaiutils.graph.errors import UnsupportedOperation


def outputs_of(model: nn.Module, x: Tensor) -> Tensor:
    """Run the user's module on a copy of ``x`` and return the one tensor that it returns.

    A network whose first operation works in place thus leaves the caller's ``x`` as it was.
    Gradients reach ``x`` as usual, where they are switched on.

    Args:
        model: A module that returns a tensor (N, ...), or a dict, list or tuple that holds one.
        x: The input (N, ...).

    Returns:
        The output (N, ...); (N,) for a network that returns one number per image.

    Raises:
        UnsupportedOperation: If the module returns no tensor or several, or if the output does not
            have one row for each input.
    """
    output = only_value(model, model(x.clone()))
    if not isinstance(output, Tensor) or output.ndim == 0 or len(output) != len(x):
        found = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
        raise UnsupportedOperation(
            f"{type(model).__name__} turns a batch of {len(x)} into {found}; it must return a"
            " tensor with one row for each image"
        )
    return output


def only_value(model: nn.Module, returned: Any) -> Any:
    """Return the one value in what a module returned, or say how to choose one."""
    values = [leaf for leaf in tree_leaves(returned) if leaf is not None]
    if len(values) != 1:
        raise UnsupportedOperation(
            f"{type(model).__name__} returns {len(values)} values; it must return one tensor: hand"
            " over a small module whose forward calls it and returns the one to explain"
        )
    return values[0]
