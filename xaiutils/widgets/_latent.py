"""The latent explorer: move a latent, see the picture change, and where the latent was read."""

from collections.abc import Sequence
from typing import Any

import matplotlib.pyplot as plt
import torch
import traitlets
from matplotlib.figure import Figure
from torch import Tensor

from xaiutils import attribution, plot
from xaiutils.attribution._cam import enlarged, feature_layer
from xaiutils.attribution._grad_lam import trace_encoder
from xaiutils.models import Autoencoder
from xaiutils.widgets._common import Widget, pack, script, style
from xaiutils.widgets._network import export_network


class LatentExplorer(Widget):
    """Move the latents of an autoencoder, and see Grad-LAM's maps.

    The widget shows a picture, its reconstruction from the latents as they stand, what moving them
    has changed, the map of one latent, and the aggregate of all, weighted by the decoder's Jacobian
    (:func:`xaiutils.attribution.grad_lam`). The maps are those of the picture or, if the reader
    wants, those of the reconstruction, read by the encoder anew. Encoder and decoder run in the
    page, so that it needs no kernel.

    Pictures are rounded to 256 levels. In half precision the weights take half the space, and
    pictures of the digits' autoencoder are off by less than 0.01.

    Args:
        autoencoder: In evaluation mode, both halves made of what :func:`export_network` knows.
        images: The pictures (N, C, H, W) in [0, 1]; C is 1 or 3.
        names: One for each picture.
        layer: The path in the encoder of the module whose feature maps are read; None takes the
            last maps that are read, as :func:`xaiutils.attribution.grad_lam` does.
        dtype: Of the weights in the page, ``"float16"`` or ``"float32"``.

    Attributes:
        image: The number of the picture. Setting it sets ``code`` to that picture's latents.
        latent: Which latent is chosen, from 0.
        code: The latents as they stand.

    Raises:
        TypeError: ``autoencoder`` is none.
        ValueError: It is in training mode or has no such layer; pictures or names do not fit.
        NotExportable: The page cannot run one of the halves.
    """

    _esm = script("network.js", "pictures.js", "latent.js")
    _css = style()
    setup = traitlets.Dict().tag(sync=True)
    image = traitlets.Int(0).tag(sync=True)
    latent = traitlets.Int(0).tag(sync=True)
    code = traitlets.List(traitlets.Float()).tag(sync=True)

    def __init__(
        self,
        autoencoder: Autoencoder,
        images: Tensor,
        *,
        names: Sequence[str] | None = None,
        layer: str | None = None,
        dtype: str = "float16",
    ) -> None:
        levels = _levels(autoencoder, images)
        names = [f"image {k + 1}" for k in range(len(images))] if names is None else list(names)
        if len(names) != len(images):
            raise ValueError(f"{len(names)} names do not fit {len(images)} images.")
        self._autoencoder = autoencoder
        self._x = levels.float() / 255
        traced = trace_encoder(autoencoder.encoder, self._x)
        self._layer = feature_layer(traced, layer)
        if len(self._layer.shape) != 3:
            raise ValueError(f"layer {layer!r} has no feature maps: {self._layer.shape}")
        self._codes = traced(self._x)
        setup = {
            "encoder": export_network(
                autoencoder.encoder, autoencoder.shape, dtype=dtype, fold=False
            ),
            "decoder": export_network(autoencoder.decoder, (autoencoder.latents,), dtype=dtype),
            "layer": self._layer.index,
            "images": pack(levels, "uint8"),
            "names": names,
            "limit": 1.2 * float(self._codes.abs().max()) or 1.0,
        }
        super().__init__(setup=setup, code=self._codes[0].tolist())

    @traitlets.validate("image", "latent")
    def _in_range(self, proposal: dict[str, Any]) -> int:
        name, value = proposal["trait"].name, int(proposal["value"])
        count = len(self._codes) if name == "image" else self._codes.shape[1]
        if not 0 <= value < count:
            raise ValueError(f"{name} must be from 0 to {count - 1}, not {value}.")
        return value

    @traitlets.validate("code")
    def _one_for_each(self, proposal: dict[str, Any]) -> list[float]:
        code = list(proposal["value"])
        if len(code) != self._codes.shape[1] or not torch.tensor(code).isfinite().all():
            raise ValueError(f"code must be {self._codes.shape[1]} finite numbers, not {code}.")
        return code

    @traitlets.observe("image")
    def _back_to_code(self, change: dict[str, Any]) -> None:
        self.code = self._codes[change["new"]].tolist()

    @torch.no_grad()
    def static_twin(self) -> Figure:
        """The picture, its reconstruction from the latents as they stand, and its maps."""
        x = self._x[self.image][None]
        found = attribution.grad_lam(
            self._autoencoder.encoder, self._autoencoder.decoder, x, self._layer.name
        )
        name = self.setup["names"][self.image]
        decoded = self._autoencoder.decoder(torch.tensor([self.code]))[0]
        maps = enlarged(found.maps[:, self.latent][:, None], x.shape[2:])[0]
        title = f"map of latent {self.latent + 1}"
        figure, axes = plt.subplots(1, 4, figsize=(9, 2.5), layout="constrained")
        plot.picture(x[0], ax=axes[0], title=name)
        plot.picture(decoded, ax=axes[1], title="reconstruction")
        plot.heatmap(maps, ax=axes[2], title=title)
        plot.heatmap(found.aggregate[0], ax=axes[3], title="all latents", signed=False)
        described = [plot.describe(maps[0], title)]
        described.append(plot.describe(found.aggregate[0], "all latents"))
        text = f"{name}, its reconstruction, and two maps: {'; '.join(described)}."
        return plot.set_alternative_text(figure, text)


def _levels(autoencoder: Autoencoder, images: Tensor) -> Tensor:
    """The pictures in 256 levels, after a look at all that could be wrong with them."""
    if not isinstance(autoencoder, Autoencoder):
        raise TypeError(
            f"autoencoder must be a models.Autoencoder, not {type(autoencoder).__name__}; build "
            "one of your encoder and decoder: models.Autoencoder(encoder, decoder, shape)"
        )
    autoencoder.check(images)
    if len(images) == 0 or images.shape[1] not in (1, 3):
        raise ValueError(
            f"give at least one picture of 1 or 3 channels, not {tuple(images.shape)}."
        )
    if not bool(((images >= 0) & (images <= 1)).all()):  # NaN too
        raise ValueError("the pictures must lie in [0, 1].")
    return (images.detach().cpu() * 255).round().to(torch.uint8)
