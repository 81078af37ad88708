"""Contrastive LRP: the map of a class minus a map of the other classes, which start differently.

Both methods propagate two starts by the same rules and subtract. Of the two papers the abstracts
and published programs could be read, not the full texts. CLRP's uniform dual is how Iwana, Kuroki
and Uchida compute it in their program (uchidalab/softmaxgradient-lrp); the program of Gu, Yang and
Tresp themselves (JindongGu/Contrastive-LRP) starts the dual with the other logits.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Literal

import torch
from torch import Tensor

from xaiutils.attribution._common import (
    Network,
    Target,
    check_choice,
    in_chunks,
    joined,
    prepare,
    resolve_target,
)
from xaiutils.attribution._composites import Composite, Key
from xaiutils.attribution._lrp import Bias, lrp
from xaiutils.attribution._rules import Rule
from xaiutils.attribution._targets import ClassTarget, Probability, explained_of, start_signal
from xaiutils.graph.outputs import Output

Dual = Literal["uniform", "scores"]
DUALS = ("uniform", "scores")


def clrp(
    model: Network,
    x: Tensor,
    target: ClassTarget | None = None,
    composite: str | Composite | Mapping[Key, Rule] = "z_plus",
    *,
    dual: Dual = "uniform",
    balance: bool = True,
    rectify: bool = True,
    bias: Bias = "absorb",
    output: Output = None,
    batch_size: int | None = None,
) -> Tensor:
    r"""Return contrastive LRP (CLRP; Gu, Yang and Tresp 2018).

    .. math:: R = \max\bigl(0,\; R^{\mathrm{own}} - \lambda R^{\mathrm{dual}}\bigr)

    :math:`R^{\mathrm{own}}` is the LRP map of the target class *c* out of *K*; the dual starts with

    .. math:: R^{\mathrm{dual}}_k = \frac{f_c}{K - 1} \quad\text{or}\quad |f_k| \qquad (k \ne c)

    so that what all classes use cancels. The factor :math:`\lambda` gives the dual map of each
    image the size of its own.

    Args:
        model: A classifier in evaluation mode, or its :class:`~xaiutils.graph.Graph`.
        x: Inputs (N, C, H, W), as the network takes them.
        target: The class *c*: an int, one for each image, or None for the largest output.
        composite: The rules, as in :func:`lrp`. The paper's are z+, and a bounded rule below.
        dual: ``"uniform"``, or ``"scores"`` as the authors' program does.
        balance: Whether the dual map is scaled so that its absolute values have the sum that those
            of the own map have. Under z+ these are the sums of the maps, which both programs make
            equal. Without, :math:`\lambda = 1`.
        rectify: Whether negative values become 0, as in the paper.
        bias: What happens to the share of biases, as in :func:`lrp`.
        output: Which of several outputs of the network, as in :func:`gradient`.
        batch_size: How many images at a time; bounds the memory.

    Returns:
        (N, C, H, W), in units of the output; not negative if rectified.

    Raises:
        TypeError: As in :func:`lrp`, or if the target is no class.
        ValueError: As in :func:`lrp`; if ``dual`` is unknown, or there are not two classes.
    """
    check_choice("dual", dual, DUALS)
    scores, own = _scores(model, x, target, output, batch_size)
    size = scores.gather(1, own)
    shared = scores.abs() if dual == "scores" else size.expand_as(scores) / (scores.shape[1] - 1)
    explain = partial(_mapped, model, x, composite, bias, output, batch_size)
    nothing = torch.zeros_like(scores)
    positive = explain(nothing.scatter(1, own, size))
    return _contrasted(positive, explain(shared.scatter(1, own, 0.0)), balance, rectify)


def sglrp(
    model: Network,
    x: Tensor,
    target: ClassTarget | None = None,
    composite: str | Composite | Mapping[Key, Rule] = "z_plus",
    *,
    balance: bool = True,
    rectify: bool = False,
    bias: Bias = "absorb",
    output: Output = None,
    batch_size: int | None = None,
) -> Tensor:
    r"""Return softmax-gradient LRP (SGLRP; Iwana, Kuroki and Uchida 2019).

    .. math:: R = R^{\mathrm{own}} - \lambda R^{\mathrm{dual}}, \qquad
              R^{\mathrm{own}}_c = p_c (1 - p_c), \quad R^{\mathrm{dual}}_k = p_c\, p_k \; (k \ne c)

    The two starts are the derivative of the probability :math:`p_c` by the logits, its positive and
    its negative part. So a rival counts by how probable it is. The derivative is not multiplied by
    the logits: what starts is not a share of the output, and adds up to 0.

    Args:
        model: A classifier in evaluation mode, or its :class:`~xaiutils.graph.Graph`.
        x: Inputs (N, C, H, W), as the network takes them.
        target: The class *c*: an int, one for each image, or None for the largest output.
        composite: The rules, as in :func:`lrp`. The paper's are z+, and a bounded rule below.
        balance: Whether the dual map is scaled so that its absolute values have the sum that those
            of the own map have, as the authors' program does with the sums under z+. Without,
            :math:`\lambda = 1`, and the map is that of one LRP pass from the whole derivative.
        rectify: Whether negative values become 0.
        bias: What happens to the share of biases, as in :func:`lrp`.
        output: Which of several outputs of the network, as in :func:`gradient`.
        batch_size: How many images at a time; bounds the memory.

    Returns:
        (N, C, H, W), in shares of a probability. It is tiny where the network is certain.

    Raises:
        TypeError: As in :func:`lrp`, or if the target is no class.
        ValueError: As in :func:`lrp`, or if there are not two classes.
    """
    scores, own = _scores(model, x, target, output, batch_size)
    slopes = start_signal(explained_of(Probability(own[:, 0]), scores, scores.shape[1:]), scores)
    explain = partial(_mapped, model, x, composite, bias, output, batch_size)
    return _contrasted(explain(slopes.relu()), explain((-slopes).relu()), balance, rectify)


def _scores(
    model: Network, x: Tensor, target: Target, output: Output, batch_size: int | None
) -> tuple[Tensor, Tensor]:
    """Return the outputs (N, K) and each image's class (N, 1)."""
    traced, images, _ = prepare(model, x, target, output=output)
    scores = joined(in_chunks(traced, batch_size, images))
    if scores.ndim != 2 or scores.shape[1] < 2:
        raise ValueError(
            "contrastive LRP needs scores (N, K) of two classes or more, not outputs of shape "
            f"{tuple(scores.shape)}; choose some by output="
        )
    return scores, resolve_target(target, scores)[:, None]


def _mapped(
    model: Network,
    x: Tensor,
    composite: str | Composite | Mapping[Key, Rule],
    bias: Bias,
    output: Output,
    batch_size: int | None,
    start: Tensor,
) -> Tensor:
    return lrp(
        model, x, None, composite, bias=bias, start=start, output=output, batch_size=batch_size
    )


def _contrasted(own: Tensor, dual: Tensor, balance: bool, rectify: bool) -> Tensor:
    """Return the own map less the dual one, which is made as large if they are to balance."""
    if balance:
        sizes = [each.abs().flatten(1).sum(1) for each in (own, dual)]
        factor = torch.where(sizes[1] > 0, sizes[0] / sizes[1], 0.0)
        dual = dual * factor.reshape(-1, *[1] * (dual.ndim - 1))
    found = own - dual
    return found.relu() if rectify else found
