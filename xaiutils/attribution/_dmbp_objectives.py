r"""What the masks of DMBP are chosen for: objectives with a value and a gradient, as frozen data.

The published objective could not be had; every objective here is our own. Each is to be made small,
is computed for each image by itself, and stays as it is when the explained output is multiplied by
a positive number.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from xaiutils.graph import Shape

_EMPTY = 1e-6  # a branch smaller than this share of the unmasked attributions holds nothing


@dataclass(frozen=True, eq=False)
class Evidence:
    """What an objective looks at, or its gradient with respect to that.

    Attributes:
        pixels: The attributions of B branches, (B, N, C, ...): positive and negative, or the
            unmasked network's alone. Where biases are masked inputs, with their parts.
        filters: The relevance of each filter, (B, N, C_l) for each gate *l*; empty unless the
            objective needs it.
        net: Of the unmasked network, the net evidence in its last maps, spread over the pixels,
            (N, 1, H, W); None unless the objective needs it.
    """

    pixels: Tensor
    filters: tuple[Tensor, ...] = ()
    net: Tensor | None = None


@dataclass(frozen=True)
class Objective:
    """A loss of the two attributions of each image.

    Attributes:
        needs_filters: Whether the relevance of the filters at hidden layers is read.
    """

    needs_filters: ClassVar[bool] = False

    def needs_net(self) -> bool:
        """Whether the net evidence of the last maps is read: :attr:`Evidence.net`."""
        return False

    def check(self, shape: Shape) -> None:
        """Raise ValueError if the objective cannot judge inputs of this shape, without batch."""

    def evaluate(self, evidence: Evidence, whole: Evidence) -> tuple[Tensor, Evidence]:
        """Return the loss of each image, (N,), and its gradient with respect to the evidence.

        Args:
            evidence: Of the positive and the negative branch.
            whole: Of the unmasked network; it sets the scale.
        """
        raise NotImplementedError


@dataclass(frozen=True)
class Extraction(Objective):
    r"""Much of one sign in each branch, little of the other, little left over.

    With :math:`S^\pm` the sums of the attributions over the colours and over windows, the scale
    :math:`s_0 = \lVert S^0 \rVert_1` of the same sums of :math:`J \odot x`, and
    :math:`f^\pm = \sum S^\pm`,

    .. math:: L = \frac{-(f^+ - f^-) + \lambda\,(\lVert S^+ \rVert_1 + \lVert S^- \rVert_1)
              + \omega \sum \min(|S^+|_+, |S^-|_-)}{s_0} + \gamma \Bigl(\frac{f^n}{s_0}\Bigr)^2

    where :math:`f^n = \sum S^0 - f^+ - f^-` is the nuisance, and :math:`|S^+|_+, |S^-|_-` are the
    sizes of what has the right sign. Sparsity and purity of sign are one term:
    :math:`-f^+ + \lambda \lVert S^+ \rVert_1` is :math:`-(1 - \lambda) f^+` and
    :math:`2 \lambda` times what has the wrong sign. The overlap is what both branches claim of
    one window.

    Attributes:
        purity: :math:`\lambda`, in [0, 1].
        nuisance: :math:`\gamma`, not negative.
        overlap: :math:`\omega`, not negative.
        window: The side of the windows, in pixels, within which contributions of both signs may
            cancel before they are judged; None judges every colour of every pixel by itself.
    """

    purity: float = 0.5
    nuisance: float = 1.0
    overlap: float = 0.0
    window: int | None = None

    def __post_init__(self) -> None:
        _check_weights(self.purity, self.nuisance, self.overlap)
        _check_window(self.window)

    def check(self, shape: Shape) -> None:
        """Raise ValueError if there are windows and the inputs are no images."""
        _check_shape(self.window, shape)

    def evaluate(self, evidence: Evidence, whole: Evidence) -> tuple[Tensor, Evidence]:
        """Return the loss of each image, (N,), and its gradient with respect to the evidence."""
        sums, reference = pool(evidence.pixels, self.window), pool(whole.pixels, self.window)
        loss, slope = _extract(sums, reference[0], self.purity, self.nuisance, self.overlap)
        return loss, Evidence(unpool(slope, self.window, evidence.pixels.shape))


@dataclass(frozen=True)
class FilterExtraction(Objective):
    r""":class:`Extraction` judged at the filters of every hidden layer instead of at the pixels.

    The relevance of filter *c* at gate *l* is the sum over space of :math:`m_{l,c}\,s\,h`, the
    mask times the masked signal that arrives times the activation. The loss is the mean over the
    gates. With only the first term and without biases, keeping the filters of one sign, top down,
    is the best that can be done at each gate once those above it are settled.

    Attributes:
        purity: :math:`\lambda`, in [0, 1].
        nuisance: :math:`\gamma`, not negative.
        overlap: :math:`\omega`, not negative.
    """

    purity: float = 0.5
    nuisance: float = 1.0
    overlap: float = 0.0
    needs_filters: ClassVar[bool] = True

    def __post_init__(self) -> None:
        _check_weights(self.purity, self.nuisance, self.overlap)

    def evaluate(self, evidence: Evidence, whole: Evidence) -> tuple[Tensor, Evidence]:
        """Return the loss of each image, (N,), and its gradient with respect to the evidence."""
        judged = [
            _extract(sums, reference[0], self.purity, self.nuisance, self.overlap)
            for sums, reference in zip(evidence.filters, whole.filters, strict=True)
        ]
        loss = torch.stack([loss for loss, _ in judged]).mean(0)
        slopes = tuple(slope / len(judged) for _, slope in judged)
        return loss, Evidence(torch.zeros_like(evidence.pixels), slopes)


@dataclass(frozen=True)
class Purity(Objective):
    r"""Branches of one sign, whatever their size: nothing is gained by making a branch large.

    .. math:: L = -\frac{f^+}{\lVert S^+ \rVert_1} + \frac{f^-}{\lVert S^- \rVert_1}
              + \gamma \Bigl(\frac{f^n}{|f^+| + |f^-| + |f^n|}\Bigr)^2

    with the sums over windows of :class:`Extraction`. Every quotient lies in [-1, 1]; that of a
    branch which is empty, beside :math:`\lVert S^0 \rVert_1`, is 0.

    Attributes:
        nuisance: :math:`\gamma`, not negative.
        window: As in :class:`Extraction`.
    """

    nuisance: float = 1.0
    window: int | None = None

    def __post_init__(self) -> None:
        _check_weights(0.0, self.nuisance, 0.0)
        _check_window(self.window)

    def check(self, shape: Shape) -> None:
        """Raise ValueError if there are windows and the inputs are no images."""
        _check_shape(self.window, shape)

    def evaluate(self, evidence: Evidence, whole: Evidence) -> tuple[Tensor, Evidence]:
        """Return the loss of each image, (N,), and its gradient with respect to the evidence."""
        sums, reference = pool(evidence.pixels, self.window), pool(whole.pixels, self.window)
        sign = branch_signs(sums)[..., 0]
        floor = _EMPTY * _size(reference[0])
        value, size = sums.sum(-1), sums.abs().sum(-1)
        filled = size > floor
        size = size.maximum(floor)
        left = reference[0].sum(-1) - value.sum(0)
        parts = (value.abs().sum(0) + left.abs()).maximum(floor)
        share = left / parts
        loss = -(sign * value / size).sum(0) + self.nuisance * share.square()
        of_share = (share * (left.sign() - value.sign()) - 1) / parts
        of_value = 2 * self.nuisance * share * of_share - sign / size
        of_size = filled * sign * value / size.square()
        slope = of_value[..., None] + of_size[..., None] * sums.sign()
        return loss, Evidence(unpool(slope, self.window, evidence.pixels.shape))


def _extract(
    sums: Tensor, whole: Tensor, purity: float, nuisance: float, overlap: float
) -> tuple[Tensor, Tensor]:
    """The loss of :class:`Extraction` and its gradient, for sums (2, N, F) and (N, F)."""
    scale = _size(whole)
    sign = branch_signs(sums)
    value, size = (sign * sums).sum((0, 2)), sums.abs().sum((0, 2))
    left = (whole.sum(-1) - sums.sum((0, 2))) / scale
    loss = (purity * size - value) / scale + nuisance * left.square()
    slope = purity * sums.sign() - sign - 2 * nuisance * left[:, None]
    if overlap:
        claims = (sign * sums).relu()
        least = claims.amin(0)
        smaller = (claims == least) & (least > 0)
        loss = loss + overlap * least.sum(-1) / scale
        slope = slope + overlap * sign * smaller / smaller.sum(0).clamp(min=1)
    return loss, slope / scale[:, None]


def _size(whole: Tensor) -> Tensor:
    """Return the 1-norms, (N,), of attributions (N, F); infinite where all are zero.

    Nothing can be separated in such an image (no path to the output is open), and dividing by
    infinity makes its loss and its gradient zero; dividing by a tiny number would overflow.
    """
    size = whole.abs().sum(-1)
    return size.where(size > 0, torch.inf)


def pool(pixels: Tensor, window: int | None) -> Tensor:
    """Sum over the colours and over windows: (B, N, C, H, W) becomes (B, N, number of windows).

    Windows at the right and lower edge may be smaller. None only flattens.
    """
    if window is None:
        return pixels.flatten(2)
    flat = pixels.sum(2)
    height, width = flat.shape[-2:]
    padded = F.pad(flat, (0, -width % window, 0, -height % window))
    return F.avg_pool2d(padded, window, divisor_override=1).flatten(2)


def unpool(slope: Tensor, window: int | None, shape: torch.Size) -> Tensor:
    """Return the gradient for pixels of this shape from that for their sums."""
    if window is None:
        return slope.view(shape)
    height, width = shape[-2:]
    grid = slope.view(*shape[:2], 1, -(-height // window), -(-width // window))
    large = grid.repeat_interleave(window, -2).repeat_interleave(window, -1)
    return large[..., :height, :width].expand(shape)


def branch_signs(sums: Tensor) -> Tensor:
    """Return +1 for the positive and -1 for the negative branch, (2, 1, 1)."""
    return sums.new_tensor([1.0, -1.0])[:, None, None]


def _check_weights(purity: float, nuisance: float, overlap: float) -> None:
    if not 0 <= purity <= 1:
        raise ValueError(f"purity must lie between 0 and 1, not {purity}")
    for name, weight in (("nuisance", nuisance), ("overlap", overlap)):
        if not 0 <= weight < float("inf"):
            raise ValueError(f"{name} must be finite and not negative, but is {weight}")


def _check_window(window: int | None) -> None:
    if window is not None and (not isinstance(window, int) or window < 1):
        raise ValueError(f"window must be a positive int or None, not {window!r}")


def _check_shape(window: int | None, shape: Shape) -> None:
    if window is not None and len(shape) != 3:
        raise ValueError(f"windows need images (N, C, H, W), not inputs (N, {shape}); take None")
