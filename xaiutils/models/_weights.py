"""Read weights from a file without executing code, and fit them to a network."""

import os
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn


class ModelError(RuntimeError):
    """Weights could not be found, read or fitted. The message names the file and the remedy."""


def load_state_dict(path: str | Path) -> dict[str, Tensor]:
    """Read a state dict from a ``.safetensors`` file or a ``.pt``/``.pth`` file.

    Neither way runs code from the file: pickled files are read with ``weights_only=True``.

    Args:
        path: The file.

    Returns:
        Parameter and buffer names with their tensors, on the CPU.

    Raises:
        ModelError: The file is missing, damaged, or holds something other than tensors by name.
    """
    path = Path(path)
    if not path.is_file():
        raise ModelError(f"No weights at {path}. Check the path, or choose weights='random'.")
    try:
        state = load_file(path) if path.suffix == ".safetensors" else _load_pickled(path)
    except (SafetensorError, RuntimeError, ValueError, EOFError, OSError) as error:
        raise ModelError(
            f"{path} could not be read as weights ({error}). It may be damaged: fetch it again."
        ) from error
    _check_finite(state, path)
    return state


def _load_pickled(path: Path) -> dict[str, Tensor]:
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # unpickling a damaged file can raise nearly anything
        raise ValueError(str(error).splitlines()[0]) from error
    if not isinstance(state, dict) or not all(isinstance(t, Tensor) for t in state.values()):
        raise ValueError("it does not hold a plain state dict, only names and tensors are read")
    return state


def _check_finite(state: dict[str, Tensor], path: Path) -> None:
    for name, tensor in state.items():
        if not torch.isfinite(tensor).all():
            raise ModelError(f"{path}: {name} holds NaN or infinity. Fetch or train it again.")


def fit_state_dict(module: nn.Module, state: dict[str, Tensor], origin: str) -> None:
    """Load a state dict into a network, or say exactly why it does not fit.

    Args:
        module: The network; changed in place.
        state: Names and tensors.
        origin: Where the state came from, for the message.

    Raises:
        ModelError: A name is missing or unexpected, or a shape differs.
    """
    try:
        module.load_state_dict(state, strict=True)
    except RuntimeError as error:
        raise ModelError(
            f"The weights from {origin} do not fit {type(module).__name__}: {error}. "
            "Name the architecture that they were trained for."
        ) from error


def shared_weights(name: str) -> Path | None:
    """``weights/<name>.safetensors`` in the folder that ``XAIUTILS_DATA`` names, if it exists."""
    folder = os.environ.get("XAIUTILS_DATA")
    path = Path(folder) / "weights" / f"{name}.safetensors" if folder else None
    return path if path is not None and path.is_file() else None
