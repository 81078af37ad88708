"""The errors and warnings about a network and its input, and the checks that come first."""

from __future__ import annotations

import os
import sys
import warnings
from pathlib import Path

import torch
from torch import Tensor, nn

_NOT_THE_CALLER = tuple(
    str(Path(file).resolve().parent) + os.sep for file in (torch.__file__, Path(__file__).parent)
)


class GraphError(ValueError):
    """A network cannot be read into a graph."""


class UnsupportedOperation(GraphError):  # noqa: N818 - reads better where it is caught
    """The network does something that is neither linear nor a gate that this package knows."""


class TraceError(GraphError):
    """The network does not run on this input or cannot be traced, or not what it computes."""


class UnpreprocessedWarning(UserWarning):
    """The input is plainly not in the units that the network reads."""


def warn(message: str, category: type[Warning]) -> None:
    """Warn at the line that called this package, once for each such line and message."""
    level, frame = 1, sys._getframe()
    while frame.f_back and frame.f_code.co_filename.startswith(_NOT_THE_CALLER):
        level, frame = level + 1, frame.f_back
    warnings.warn(message, category, stacklevel=level)


def check_model(model: nn.Module) -> None:
    """Refuse what is not a module in evaluation mode.

    Raises:
        TypeError: If ``model`` is not an ``nn.Module``.
        ValueError: If a part of it is in training mode.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(
            f"model must be a torch.nn.Module, not {type(model).__name__}{_cure(model)}"
        )
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
    check_numbers(model, x)
    _check_dimensions(model, x)


def check_numbers(model: nn.Module, x: Tensor) -> None:
    """Refuse what :func:`check_input` refuses, but for the dimensions of an image."""
    if not isinstance(x, Tensor):
        raise TypeError(f"x must be a torch.Tensor, not {type(x).__name__}{_cure(x)}")
    if not x.is_floating_point():
        raise TypeError(
            f"x must hold floating-point numbers, not {x.dtype}; clf.batch([image]) preprocesses "
            "pixels of 0 to 255, and x.float() converts numbers that are in the network's units"
        )
    if x.numel() == 0:
        raise ValueError(
            f"x must be a batch (N, ...) with at least one entry, but of shape {tuple(x.shape)} it "
            "is empty"
        )
    if x.ndim < 2:
        raise ValueError(
            f"x must be a batch (N, ...), not of shape {tuple(x.shape)}; x[None] makes a batch of "
            "one"
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


def _cure(found: object) -> str:
    """Return what to do with something of the wrong type, for the most usual mistakes."""
    if isinstance(getattr(found, "module", None), nn.Module):
        return "; pass its .module"
    if isinstance(found, Tensor):
        return "; the network comes first, then its input"
    if type(found).__module__.startswith("PIL."):
        return "; clf.batch([image]) makes one of a picture"
    if hasattr(found, "__array__"):
        return "; torch.from_numpy(x) makes one of an array"
    return "; clf.batch(images) makes one of pictures" if isinstance(found, (list, tuple)) else ""


def _check_dimensions(model: nn.Module, x: Tensor) -> None:
    """Name the usual cause where the dimensions are not those of the convolutions.

    A network may add dimensions itself, so that this asks it before it says anything.
    """
    kinds = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
    first = next((part for part in model.modules() if isinstance(part, kinds)), None)
    if first is None:
        return
    colours, dimensions = first.in_channels, first.weight.ndim
    if x.ndim == dimensions - 1:
        cure = "there is no batch dimension: x[None] makes a batch of one"
    elif x.ndim == dimensions and x.shape[1] != colours == x.shape[-1]:
        order = ", ".join(map(str, (0, dimensions - 1, *range(1, dimensions - 1))))
        cure = f"the colours come before the rows: x.permute({order})"
    else:
        return
    try:
        with torch.no_grad():
            model(x.new_zeros(2, *x.shape[1:]))
    except Exception as error:
        shape = ("N", "C", "L") if dimensions == 3 else ("N", "C", *"DHW"[-dimensions + 2 :])
        raise ValueError(
            f"x must be of shape ({', '.join(shape)}), not {tuple(x.shape)}; {cure}"
        ) from error
