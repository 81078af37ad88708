"""Read weights from a file without executing code, and fit them to a network."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

Module = TypeVar("Module", bound=nn.Module)
_RANDOM_SEED = 0


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


def seeded(build: Callable[[], Module]) -> Module:
    """Build a network whose random initial weights are the same at every call."""
    with torch.random.fork_rng():
        torch.manual_seed(_RANDOM_SEED)
        return build()


def apply_weights(
    module: nn.Module, weights: str | Path, pretrained: Callable[[], tuple[dict[str, Tensor], str]]
) -> str:
    """Put the weights that were asked for into the module; return where they came from.

    Args:
        module: The network, with the random weights of `seeded`; changed in place.
        weights: "pretrained", "random", or the path of a state dict.
        pretrained: Gives the pretrained state and its origin; called only if it is asked for.

    Raises:
        ModelError: The weights cannot be had, read or fitted.
    """
    if weights == "random":
        return f"random (seed {_RANDOM_SEED})"
    if weights == "pretrained":
        state, origin = pretrained()
    else:
        state, origin = load_state_dict(weights), str(weights)
    fit_state_dict(module, state, origin)
    return origin


def shared_weights(name: str) -> Path | None:
    """``weights/<name>.safetensors`` in the folder that ``XAIUTILS_DATA`` names, if it exists."""
    folder = os.environ.get("XAIUTILS_DATA")
    path = Path(folder) / "weights" / f"{name}.safetensors" if folder else None
    return path if path is not None and path.is_file() else None
