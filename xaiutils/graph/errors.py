"""The errors that the graph raises, and the checks that come before any work."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class GraphError(ValueError):
    """A network cannot be read into a graph."""


class UnsupportedOperation(GraphError):  # noqa: N818 - reads better where it is caught
    """The network does something that is neither linear nor a gate that this package knows."""


class TraceError(GraphError):
    """The network does not run on this input or cannot be traced, or not what it computes."""


def check_model(model: nn.Module) -> None:
    """Refuse what is not a module in evaluation mode.

    Raises:
        TypeError: If ``model`` is not an ``nn.Module``.
        ValueError: If a part of it is in training mode.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, not {type(model).__name__}")
    training = next((name for name, part in model.named_modules() if part.training), None)
    if training is not None:
        where = f"its part {training!r}" if training else "the model"
        raise ValueError(f"{where} is in training mode; call model.eval() first")


def check_input(model: nn.Module, x: Tensor) -> None:
    """Refuse an input that is not a batch of finite numbers of the model's type and device.

    Raises:
        TypeError: If ``x`` is not a tensor of real floating-point numbers, or of another floating
            type than the model's parameters.
        ValueError: If it has no batch dimension, is empty, lies on another device than the model,
            or holds NaN or infinity.
    """
    if not isinstance(x, Tensor):
        raise TypeError(f"x must be a torch.Tensor, not {type(x).__name__}")
    if not x.is_floating_point():
        raise TypeError(f"x must hold floating-point numbers, not {x.dtype}; call x.float()")
    if x.ndim < 2 or x.numel() == 0:
        raise ValueError(
            f"x must be a batch (N, ...) with at least one entry, not of shape {tuple(x.shape)}; "
            "x[None] makes a batch of one"
        )
    parameter = next((p for p in model.parameters() if p.is_floating_point()), None)
    if parameter is not None and parameter.dtype != x.dtype:
        raise TypeError(f"x is {x.dtype} but the model is {parameter.dtype}; convert one of them")
    if parameter is not None and parameter.device != x.device:
        raise ValueError(
            f"x is on {x.device} but the model on {parameter.device}; move one of them"
        )
    if not bool(torch.isfinite(x).all()):
        raise ValueError("x holds NaN or infinite values")
