"""What Grad-LAM asks an autoencoder's decoder: the Jacobian, without ever holding it."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn

from xaiutils import graph
from xaiutils.attribution._common import precise


@torch.no_grad()
def decoder_norms(decoder: nn.Module, z: Tensor, batch_size: int = 32) -> Tensor:
    r"""Return the length of each column of the decoder's Jacobian.

    One forward pass carries the derivatives in many directions along (forward-mode automatic
    differentiation), and only their lengths are kept.

    Args:
        decoder: Maps (N, J) to (N, ...).
        z: Codes (N, J).
        batch_size: How many latents at a time; bounds the memory.

    Returns:
        :math:`\lVert \partial g / \partial z_j \rVert_2`, (N, J).
    """
    return over_latents(lambda e: image_norm(_push(decoder, z, e)), z, batch_size)


@torch.no_grad()
def decoder_gram(decoder: nn.Module, z: Tensor, batch_size: int = 32) -> Tensor:
    r"""Return the Gram matrix of the decoder's Jacobian, column by column :math:`J^\top (J e_j)`.

    The Jacobian itself, J times the size of a reconstruction, is never held.

    Args:
        decoder: Maps (N, J) to (N, ...).
        z: Codes (N, J).
        batch_size: How many latents at a time; bounds the memory.

    Returns:
        :math:`J_g^\top J_g`, (N, J, J), symmetric up to rounding.
    """
    pull = torch.func.vjp(decoder, z)[1]
    return over_latents(lambda e: pull(_push(decoder, z, e))[0], z, batch_size)


def removal_weights(decoder: nn.Module, z: Tensor, reference: Tensor, batch_size: int) -> Tensor:
    """Return how far the reconstruction moves per unit when a latent goes to its reference.

    Args:
        decoder: Maps (N, J) to (N, ...).
        z: Codes (N, J).
        reference: The codes to go to, (J,), (1, J) or (N, J).
        batch_size: How many latents at a time; bounds the memory.

    Returns:
        (N, J); the slope's limit for a latent that stands at its reference.
    """
    step, whole = reference - z, decoder(z)
    change = over_latents(lambda e: image_norm(decoder(z + step * e) - whole), z, batch_size)
    size = torch.maximum(z.abs(), reference.abs())
    still = step.abs() <= torch.finfo(z.dtype).eps ** 0.5 * size  # rounding, or nothing at all
    if not bool(still.any()):
        return change / step.abs()
    return torch.where(still, decoder_norms(decoder, z, batch_size), change / step.abs())


def _push(decoder: nn.Module, z: Tensor, direction: Tensor) -> Tensor:
    """Return the derivative of the reconstructions in one direction (J,) of the latent space."""
    change: Tensor = torch.func.jvp(decoder, (z,), (direction.expand_as(z),))[1]
    return change


def over_latents(function: Callable[[Tensor], Tensor], z: Tensor, batch_size: int) -> Tensor:
    """Call ``function`` with each unit vector, vectorised; the latents are dimension 1 of all."""
    directions = torch.eye(z.shape[1], dtype=z.dtype, device=z.device)
    found: Tensor = torch.vmap(function, chunk_size=batch_size)(directions)
    return found.transpose(0, 1).contiguous()


def image_norm(images: Tensor) -> Tensor:
    """Return the Euclidean length (N,) of each of some images (N, ...)."""
    length: Tensor = torch.linalg.vector_norm(images.flatten(1), dim=1)
    return length


# ------------------------------------------------------------------------------------ the checks


def check_module(name: str, module: nn.Module) -> None:
    """Refuse what is no module in evaluation mode; ``name`` says which network it is.

    Raises:
        TypeError: If it is no module.
        ValueError: If it is in training mode.
    """
    if isinstance(module, graph.Graph):
        raise TypeError(f"the {name} must be the torch.nn.Module itself, not a Graph of it")
    try:
        graph.check_model(module)
    except (TypeError, ValueError) as error:
        raise type(error)(f"{name}: {error}") from None


def checked_decoder(decoder: nn.Module, code: Tensor) -> nn.Module:
    """Return a decoder for codes like ``code`` (1, J), with numbers of float32 at least.

    Raises:
        TypeError: If it is no module.
        ValueError: If it is in training mode, does not take the codes, or does not return one
            tensor with an entry for each.
    """
    check_module("decoder", decoder)
    try:
        with torch.no_grad():
            picture = decoder(code)
    except RuntimeError as error:
        reason = str(error).split("\n")[0]
        raise ValueError(
            f"the decoder does not take the encoder's codes (N, {code.shape[1]}): {reason}; give "
            "the decoder that was trained with this encoder"
        ) from error
    if not isinstance(picture, Tensor) or picture.shape[:1] != (1,):
        raise ValueError("the decoder must return one tensor (N, ...) for codes (N, J)")
    wanted = precise(code).dtype
    return decoder if wanted == code.dtype else copy.deepcopy(decoder).to(wanted)
