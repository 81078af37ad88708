"""Autoencoders: small enough to train on a laptop, linear but for ReLUs, convolutional to read.

Every encoder ends in one linear layer on the feature maps of its last convolution, and every
decoder in a clamp to [0, 1], so that the whole network is piecewise linear and
:mod:`xaiutils.graph` can trace it.
"""

import difflib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from xaiutils.models._weights import ModelError, apply_weights, load_state_dict, seeded

_WEIGHTS = Path(__file__).parent / "weights"


class Autoencoder(nn.Module):
    """An encoder and a decoder: images to a few numbers, and back.

    Attributes:
        encoder: Maps images (N, C, H, W) in [0, 1] to latents (N, J).
        decoder: Maps latents (N, J) to images (N, C, H, W) in [0, 1]; its last layer is the clamp.
        latents: The number J of latents.
        shape: The shape (C, H, W) of an image.
        source: Where the weights came from, in words.
    """

    def __init__(
        self, encoder: nn.Sequential, decoder: nn.Sequential, shape: tuple[int, int, int]
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.decoder = nn.Sequential(*decoder, nn.Hardtanh(0.0, 1.0))
        self.latents = cast(nn.Linear, encoder[-1]).out_features
        self.shape = shape
        self.source = "not trained"

    def forward(self, x: Tensor) -> Tensor:
        """Reconstruct images (N, C, H, W): the decoder's answer to the encoder's latents."""
        self.check(x)
        return cast(Tensor, self.decoder(self.encoder(x)))

    def unclamped(self, z: Tensor) -> Tensor:
        """Decode latents (N, J) without the last clamp: what the training loss looks at."""
        return cast(Tensor, self.decoder[:-1](z))

    def check(self, x: Tensor) -> None:
        """Refuse what is no batch of this network's images.

        Raises:
            ValueError: The shape of ``x`` is not (N, C, H, W) with the network's C, H and W.
        """
        if tuple(x.shape[1:]) != self.shape:
            raise ValueError(
                f"This autoencoder takes images of shape (N, {', '.join(map(str, self.shape))}), "
                f"not {tuple(x.shape)}. Resize them, or add the batch with x[None]."
            )


class VariationalAutoencoder(Autoencoder):
    """An autoencoder whose encoder gives a distribution: a normal one, independent per latent.

    ``encoder`` returns its mean, so that whatever reads an :class:`Autoencoder` reads this one too.
    The Gaussian decoder of Kingma and Welling 2014 (their appendix C.2) returns a variance beside
    each mean; here the variance is fixed, and the same for all pixels.

    Attributes:
        log_variance: The second head, from the same features to the log-variances (N, J).
        noise: Standard deviation of a pixel around its reconstruction, in units of [0, 1]
            brightness. The larger, the fewer latents are worth their price.
    """

    def __init__(
        self,
        encoder: nn.Sequential,
        decoder: nn.Sequential,
        shape: tuple[int, int, int],
        noise: float = 0.2,
    ) -> None:
        super().__init__(encoder, decoder, shape)
        self.log_variance = nn.Linear(cast(nn.Linear, encoder[-1]).in_features, self.latents)
        self.noise = noise

    def posterior(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-variance of the latents of images (N, C, H, W), both (N, J)."""
        self.check(x)
        features = self.encoder[:-1](x)
        return self.encoder[-1](features), self.log_variance(features)


# ------------------------------------------------------------------------------------- training


def reconstruction_loss(module: nn.Module, images: Tensor, targets: Tensor) -> Tensor:
    """Mean squared error before the clamp, where only steps towards the clamp's range count.

    A pixel that should be 0 and comes out negative will be clamped to 0, so it is no error; in the
    same way a pixel that should be 1 may come out larger. Elsewhere this is the squared error. So
    the loss never exceeds the squared error of the unclamped image, never falls below that of the
    clamped one, and has, unlike that, no region without a gradient where there is an error.

    Args:
        module: An :class:`Autoencoder`.
        images: What goes in, shape (N, C, H, W), in [0, 1].
        targets: What should come out, of the same shape; an autoencoder's are its images.

    Returns:
        The mean over pixels and images, a scalar.
    """
    autoencoder = cast(Autoencoder, module)
    return _one_sided(autoencoder.unclamped(autoencoder.encoder(images)), targets)


def variational_loss(module: nn.Module, images: Tensor, targets: Tensor) -> Tensor:
    """The negative evidence lower bound, scaled to be read as a squared error per pixel.

    With one draw of the latents, ``z = mean + std * noise`` (Kingma and Welling 2014, eqs 7 and
    10): the squared error as in :func:`reconstruction_loss`, plus ``2 noise^2 / D`` times the
    Kullback-Leibler divergence from the standard normal distribution, D being the pixel values of
    an image. The draw comes from PyTorch's global generator, which :func:`fit` seeds.

    Args:
        module: A :class:`VariationalAutoencoder`.
        images: What goes in, shape (N, C, H, W), in [0, 1].
        targets: What should come out, of the same shape.

    Returns:
        The mean over the images, a scalar.
    """
    autoencoder = cast(VariationalAutoencoder, module)
    mean, log_variance = autoencoder.posterior(images)
    z = mean + torch.exp(log_variance / 2) * torch.randn_like(mean)
    price = 2 * autoencoder.noise**2 / targets[0].numel()
    divergence = latent_divergence(mean, log_variance).sum(dim=1).mean()
    return _one_sided(autoencoder.unclamped(z), targets) + price * divergence


def latent_divergence(mean: Tensor, log_variance: Tensor) -> Tensor:
    """Kullback-Leibler divergence of each latent from the standard normal distribution, in nats.

    Args:
        mean: Means, shape (N, J).
        log_variance: Natural logarithms of the variances, shape (N, J).

    Returns:
        ``(mean^2 + variance - log variance - 1) / 2``, at least 0, shape (N, J). Zero for all
        images is the mark of a latent that carries nothing.
    """
    return (mean.square() + log_variance.exp() - log_variance - 1) / 2


def _one_sided(unclamped: Tensor, targets: Tensor) -> Tensor:
    excess = unclamped - targets
    excess = torch.where(targets <= 0, excess.clamp(min=0), excess)
    excess = torch.where(targets >= 1, excess.clamp(max=0), excess)
    return excess.square().mean()


@torch.no_grad()
def reconstruction_error(module: Autoencoder, images: Tensor, batch_size: int = 500) -> Tensor:
    """Mean squared error of each image's reconstruction.

    Args:
        module: The autoencoder, in evaluation mode; a variational one reconstructs from the mean.
        images: Images (N, C, H, W) in [0, 1].
        batch_size: Images per pass.

    Returns:
        The squared difference of image and reconstruction, averaged over C, H and W, as (N,).

    Raises:
        ValueError: The images do not fit the network.
    """
    batches = torch.split(images, batch_size)
    return torch.cat([(module(x) - x).square().flatten(1).mean(dim=1) for x in batches])


# -------------------------------------------------------------------------------- architectures


@dataclass(frozen=True)
class _Design:
    """How one named autoencoder is built, and what it was trained on."""

    build: Callable[[int], Autoencoder]
    latents: int
    trained_on: str


def _mnist_encoder(latents: int) -> nn.Sequential:
    """Feature maps of 14 x 14 after the last convolution, then pooled and read linearly."""
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3, padding=1),
        nn.ReLU(),
        nn.AvgPool2d(2),
        nn.Flatten(),
        nn.Linear(32 * 7 * 7, latents),
    )


def _mnist_decoder(latents: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(latents, 128),
        nn.ReLU(),
        nn.Linear(128, 32 * 7 * 7),
        nn.ReLU(),
        nn.Unflatten(1, (32, 7, 7)),
        nn.ConvTranspose2d(32, 16, 4, stride=2, padding=1),
        nn.ReLU(),
        nn.ConvTranspose2d(16, 1, 4, stride=2, padding=1),
    )


def _mnist(latents: int) -> Autoencoder:
    return Autoencoder(_mnist_encoder(latents), _mnist_decoder(latents), (1, 28, 28))


def _mnist_variational(latents: int) -> Autoencoder:
    return VariationalAutoencoder(_mnist_encoder(latents), _mnist_decoder(latents), (1, 28, 28))


def _natural(latents: int) -> Autoencoder:
    """Colour images of 64 x 64 pixels; feature maps of 16 x 16 after the last convolution."""
    encoder = nn.Sequential(
        nn.Conv2d(3, 24, 4, stride=2, padding=1),
        nn.ReLU(),
        nn.Conv2d(24, 32, 4, stride=2, padding=1),
        nn.ReLU(),
        nn.Conv2d(32, 32, 3, padding=1),
        nn.ReLU(),
        nn.AvgPool2d(2),
        nn.Flatten(),
        nn.Linear(32 * 8 * 8, latents),
    )
    decoder = nn.Sequential(
        nn.Linear(latents, 32 * 8 * 8),
        nn.ReLU(),
        nn.Unflatten(1, (32, 8, 8)),
        nn.ConvTranspose2d(32, 32, 4, stride=2, padding=1),
        nn.ReLU(),
        nn.ConvTranspose2d(32, 24, 4, stride=2, padding=1),
        nn.ReLU(),
        nn.ConvTranspose2d(24, 3, 4, stride=2, padding=1),
    )
    return Autoencoder(encoder, decoder, (3, 64, 64))


_MNIST = "MNIST"
_DESIGNS = {
    "mnist_ae_2": _Design(_mnist, 2, _MNIST),
    "mnist_ae_8": _Design(_mnist, 8, _MNIST),
    "mnist_ae_16": _Design(_mnist, 16, _MNIST),
    "mnist_ae_32": _Design(_mnist, 32, _MNIST),
    "mnist_vae_16": _Design(_mnist_variational, 16, _MNIST),
    "natural_ae_64": _Design(_natural, 64, "Tiny ImageNet"),
}


def available_autoencoders() -> list[str]:
    """Names that `autoencoder` and `load_autoencoder` know; each ends in the number of latents."""
    return list(_DESIGNS)


def autoencoder(name: str) -> Autoencoder:
    """Build an untrained autoencoder; its weights come from PyTorch's global generator.

    Args:
        name: One of `available_autoencoders`.

    Returns:
        The network, in training mode, on the CPU. A ``vae`` is a `VariationalAutoencoder`.

    Raises:
        ValueError: The name is unknown; the message lists the nearest names.
    """
    if name not in _DESIGNS:
        raise ValueError(_unknown(name))
    return _DESIGNS[name].build(_DESIGNS[name].latents)


def load_autoencoder(name: str, weights: str | Path = "pretrained") -> Autoencoder:
    """Load an autoencoder by name, in evaluation mode, on the CPU.

    The stored weights were trained by ``python -m xaiutils.reproduce train NAME`` on all of MNIST,
    or on Tiny ImageNet, and are part of the package, with a record of how.

    Args:
        name: One of `available_autoencoders`.
        weights: ``"pretrained"``; ``"random"`` for an untrained network (seed 0, the same at every
            call); or the path of a state dict (``.safetensors``, ``.pt`` or ``.pth``).

    Returns:
        The network; its ``source`` says where the weights came from.

    Raises:
        ValueError: The name is unknown; the message lists the nearest names.
        ModelError: The weights cannot be had, read or fitted.
    """
    module = seeded(lambda: autoencoder(name))
    module.source = apply_weights(module, weights, lambda: _stored(name))
    return module.eval()


def training_record(name: str) -> dict[str, Any]:
    """How the stored weights of an autoencoder came about.

    Args:
        name: One of `available_autoencoders`.

    Returns:
        The record that `python -m xaiutils.reproduce train` wrote beside them: ``command``,
        ``error`` (mean squared error on images that the training did not see, and how many),
        ``loss`` of each epoch, ``data`` with hashes, ``plan`` with the seed, ``versions`` and
        ``date``.

    Raises:
        ValueError: The name is unknown; the message lists the nearest names.
        ModelError: There is no record.
    """
    if name not in _DESIGNS:
        raise ValueError(_unknown(name))
    path = _WEIGHTS / f"{name}.json"
    if not path.is_file():
        raise ModelError(f"{name} has no stored weights, so no record. Train it first.")
    record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return record


def _stored(name: str) -> tuple[dict[str, Tensor], str]:
    origin = f"{_DESIGNS[name].trained_on}, trained by this project, embedded in the package"
    return load_state_dict(_WEIGHTS / f"{name}.safetensors"), origin


def _unknown(name: str) -> str:
    near = difflib.get_close_matches(str(name), _DESIGNS, n=3, cutoff=0.4)
    hint = f"Did you mean {' or '.join(map(repr, near))}? " if near else ""
    return (
        f"No autoencoder is named {name!r}. {hint}models.available_autoencoders() lists them all."
    )
