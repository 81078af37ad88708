r"""What the masks of DMBP are chosen for: objectives with a value and a gradient, as frozen data.

The published objective could not be had; every objective here is our own. Each is to be made small,
is computed for each image by itself, and stays as it is when the explained output is multiplied by
a positive number.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from xaiutils.graph import Shape

Net = Literal["maps", "inputs"]
NETS = ("maps", "inputs")
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
        """Whether the net evidence of the last maps is read: ``Evidence.net``."""
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


@dataclass(frozen=True)
class Separation(Objective):
    r"""Branches of one sign at every scale, at different places, that add up to the net evidence.

    Our reconstruction; the published objective could not be had. With :math:`S^\pm_w` the sums of
    the branches over the colours and over window *w*, :math:`T_w` the net evidence there and its
    size :math:`s_T = \sum |T_w|` over the coarse windows,

    .. math:: L = \frac{1}{s_T} \Bigl[
        \sum_w \bigl(|S^+_w|_- + |S^-_w|_+\bigr)
        + \omega \sum_w \min\bigl(|S^+_w|_+, |S^-_w|_-\bigr)
        + \gamma \sum_{\mathrm{coarse}\ w} \bigl|T_w - S^+_w - S^-_w\bigr|
        + \lambda \bigl(\lVert R^+ \rVert_1 + \lVert R^- \rVert_1\bigr) \Bigr]

    where :math:`|a|_+` and :math:`|a|_-` are the sizes of the positive and of the negative part of
    *a*: what has the wrong sign, what both branches claim of one place, and what is left over,
    which may cancel inside a coarse window but not hide something here and the opposite there. The
    first two sums are means over grids: each side of the windows, at 0 and moved by half a side.

    *Why overlap.* Let a net :math:`c = P + N` be given, with :math:`P \ge 0 \ge N`. In each window
    :math:`|P| + |N| = |c| + 2 \min(P, -N)`: for :math:`P \ge -N` the left side is
    :math:`P - N = (P + N) + 2(-N)`, and otherwise :math:`P - N = -(P + N) + 2P`. So the size of
    both branches exceeds its least value, that of the Jordan decomposition
    :math:`P = |c|_+, N = -|c|_-`, by exactly twice the overlap.

    *No free direction.* Let *u*, *o* and *e* be the sums over one grid of coarse windows of what
    has the wrong sign, of the overlap and of what is left over. Then

    .. math:: \sum_w \bigl|S^+_w - |T_w|_+\bigr| + \bigl|S^-_w + |T_w|_-\bigr|
              \le 2 (o + e) + 3 u ,

    so that, with the coarse side among the windows, *L* is 0 only where the branches have the sums
    of the Jordan decomposition of *T*, and grows at least in proportion to the distance from them,
    whichever way. (With :math:`a = S^+`, :math:`b = -S^-`:
    :math:`|a|_+ = \bigl||a|_+ - |b|_+\bigr|_+` plus the overlap, and :math:`|a|_+ - |b|_+` is
    :math:`T` less what is left over, plus :math:`|a|_- - |b|_-`; taking positive parts moves
    nothing further apart. The same for *b*.) Claiming :math:`g > 0` more of one place in both
    branches, which costs nothing in :class:`Purity`, here costs :math:`\omega g / s_T`. Two empty
    branches cost :math:`\gamma`.

    *Relative.* In small windows what has the wrong sign may be many times :math:`s_T`, so that
    masking everything away is the first thing that pays. With ``relative`` what has the wrong sign
    is divided, grid by grid, by the size of its branch, :math:`\sum_w |S^\pm_w|`, and the overlap
    by the smaller of the two sizes: shares in [0, 1], from which nothing is gained by shrinking a
    branch. *L* is 0 for the same branches, but no longer bounds the distance from them.

    Attributes:
        windows: The sides of the windows, in pixels; None judges every entry of an input by itself,
            on the coarse grid as well.
        coarse: The side of the windows in which the branches must add up to the net evidence.
        overlap: :math:`\omega`, not negative.
        fidelity: :math:`\gamma`, not negative.
        sparsity: :math:`\lambda`, not negative.
        net: What :math:`T` is. ``"maps"``: HiResCAM of the last maps (Draelos and Carin 2020), the
            gradient there times the maps, each place spread over the pixels below it. Where only
            averages and one linear layer follow, it sums to the output but for the last bias.
            ``"inputs"``: the attributions of the unmasked network, :math:`J \odot x`, with the
            biases where they are masked inputs.
        relative: Whether what has the wrong sign and what both claim are shares of the branches,
            not of :math:`s_T`.
    """

    windows: tuple[int, ...] | None = (1, 4, 9, 16)
    coarse: int = 16
    overlap: float = 1.0
    fidelity: float = 1.0
    sparsity: float = 0.0
    net: Net = "maps"
    relative: bool = False

    def __post_init__(self) -> None:
        _check_finite(overlap=self.overlap, fidelity=self.fidelity, sparsity=self.sparsity)
        if self.windows is not None and not self.windows:
            raise ValueError("windows must hold at least one side, or be None")
        _check_window(self.coarse, "coarse")
        for side in self.windows or ():
            _check_window(side, "each of windows")
        if self.net not in NETS:
            raise ValueError(f"net must be one of {', '.join(NETS)}, not {self.net!r}")

    def needs_net(self) -> bool:
        """Whether the net evidence is that of the last maps."""
        return self.net == "maps"

    def check(self, shape: Shape) -> None:
        """Raise ValueError if there are windows and the inputs are no images."""
        _check_shape(None if self.windows is None else self.coarse, shape)

    def evaluate(self, evidence: Evidence, whole: Evidence) -> tuple[Tensor, Evidence]:
        """Return the loss of each image, (N,), and its gradient with respect to the evidence."""
        target = self._target(evidence.pixels, whole)
        coarse = [_Grid(None, 0)] if self.windows is None else _grids((self.coarse,))
        fine = [_Grid(None, 0)] if self.windows is None else _grids(self.windows)
        scale = _size(coarse[0].sums(target)[0])
        pixels = evidence.pixels
        loss = self.sparsity * pixels.abs().flatten(2).sum((0, 2))
        slope = self.sparsity * pixels.sign()
        for grid in fine:
            part, found = self._judged(grid.sums(pixels), scale)
            loss = loss + part / len(fine)
            slope = slope + grid.spread(found / len(fine), pixels.shape)
        for grid in coarse:
            left = grid.sums(target)[0] - grid.sums(pixels).sum(0)
            weight = self.fidelity / len(coarse)
            loss = loss + weight * left.abs().sum(-1)
            found = (-weight * left.sign()).expand(len(pixels), *left.shape)
            slope = slope + grid.spread(found, pixels.shape)
        return loss / scale, Evidence(slope / scale.view(-1, *[1] * (pixels.ndim - 2)))

    def _judged(self, sums: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
        """Wrong signs and overlap in one grid, (N,), and the gradient; in units of the output."""
        if not self.relative:
            return _misplaced(sums, self.overlap)
        loss, slope = _shares_misplaced(sums, self.overlap, _EMPTY * scale)
        finite = scale.where(scale.isfinite(), 0)
        return finite * loss, finite[:, None] * slope

    def _target(self, pixels: Tensor, whole: Evidence) -> Tensor:
        """Return the net evidence as attributions, (1, N, C, ...), its colours alike."""
        if self.net == "inputs":
            return whole.pixels[:1]
        assert whole.net is not None
        shape = pixels.shape[1:]
        return (whole.net / (math.prod(shape[1:]) / whole.net[0].numel())).expand(shape)[None]


@dataclass(frozen=True)
class _Grid:
    """Windows of one side (None: every entry is one) on a grid moved by an offset."""

    window: int | None
    offset: int

    def sums(self, pixels: Tensor) -> Tensor:
        """Sum (B, N, C, H, W) over colours and windows, (B, N, number of windows)."""
        return pool(self._moved(pixels), self.window)

    def spread(self, slope: Tensor, shape: torch.Size) -> Tensor:
        """Return the gradient for pixels of this shape from that for the sums."""
        if not self.offset:
            return unpool(slope, self.window, shape)
        height, width = shape[-2:]
        larger = torch.Size((*shape[:-2], height + self.offset, width + self.offset))
        return unpool(slope, self.window, larger)[..., self.offset :, self.offset :]

    def _moved(self, pixels: Tensor) -> Tensor:
        """Put zeros above and to the left, so that the first windows are smaller."""
        return F.pad(pixels, (self.offset, 0, self.offset, 0)) if self.offset else pixels


def _grids(windows: Sequence[int]) -> list[_Grid]:
    """Each side of the windows at 0, and moved by half a side where that is not 0."""
    return [_Grid(side, offset) for side in windows for offset in sorted({0, side // 2})]


def _misplaced(sums: Tensor, overlap: float) -> tuple[Tensor, Tensor]:
    """What has the wrong sign and what both claim, (N,), for sums (2, N, F), and the gradient."""
    sign = branch_signs(sums)
    wrong = (-sign * sums).relu()
    least, slope = _overlapping(sums)
    loss = wrong.sum((0, 2)) + overlap * least.sum(-1)
    return loss, overlap * slope - sign * (wrong > 0)


def _shares_misplaced(sums: Tensor, overlap: float, floor: Tensor) -> tuple[Tensor, Tensor]:
    """As :func:`_misplaced`, in shares of the branches; of at least a floor (N,) each."""
    sign, floor = branch_signs(sums), floor.where(floor.isfinite(), 1)
    own = sums.abs().sum(-1)
    size = own.maximum(floor)
    grows = ((own > floor)[..., None] * sums.sign()) / size[..., None]  # d log(size)
    wrong = (-sign * sums).relu()
    part = wrong.sum(-1) / size
    slope = -sign * (wrong > 0) / size[..., None] - part[..., None] * grows
    least, of_least = _overlapping(sums)
    smaller = size == size.amin(0)
    smaller = (smaller / smaller.sum(0))[..., None]
    claimed = least.sum(-1) / size.amin(0)
    slope = slope + overlap * (of_least / size.amin(0)[..., None])
    slope = slope - overlap * claimed[..., None] * smaller * grows
    return part.sum(0) + overlap * claimed, slope


def _overlapping(sums: Tensor) -> tuple[Tensor, Tensor]:
    """What both branches claim of each window, (N, F), and its slope, (2, N, F).

    Where both claim the same the slope is shared, as a descent from there shortens both.
    """
    sign = branch_signs(sums)
    claims = (sign * sums).relu()
    least = claims.amin(0)
    smaller = (claims == least) & (least > 0)
    return least, sign * smaller / smaller.sum(0).clamp(min=1)


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
        least, of_least = _overlapping(sums)
        loss = loss + overlap * least.sum(-1) / scale
        slope = slope + overlap * of_least
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
    _check_finite(nuisance=nuisance, overlap=overlap)


def _check_finite(**weights: float) -> None:
    for name, weight in weights.items():
        if not 0 <= weight < float("inf"):
            raise ValueError(f"{name} must be finite and not negative, but is {weight}")


def _check_window(window: int | None, name: str = "window") -> None:
    if window is not None and (not isinstance(window, int) or window < 1):
        raise ValueError(f"{name} must be a positive int or None, not {window!r}")


def _check_shape(window: int | None, shape: Shape) -> None:
    if window is not None and len(shape) != 3:
        raise ValueError(f"windows need images (N, C, H, W), not inputs (N, {shape}); take None")
