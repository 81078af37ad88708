r"""Disentangled masked backpropagation: what speaks for a class, what against it, and the rest.

Ruiz, Agudo and Moreno-Noguer (ICCV 2021) separate positive, negative and nuisance factors of a
piecewise linear network by several linear mappings, each found by learned variables that mask the
filters during backpropagation. Only their abstract and the call of their code
(gitlab.com/adriaruizo/dmbp_iccv21) could be read. The objective, the optimiser and the treatment of
biases are our own reconstruction.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import partial
from typing import Literal

import torch
from torch import Tensor

from xaiutils.attribution._common import (
    Network,
    Norm,
    Resolved,
    Target,
    check_choice,
    check_norm,
    in_chunks,
    pool_colours,
    prepare,
    require_piecewise_linear,
)
from xaiutils.attribution._dmbp_masked import BIASES, Biases, Masked
from xaiutils.attribution._dmbp_objectives import Objective, Purity
from xaiutils.attribution._dmbp_places import PLACES, Places, placed
from xaiutils.graph import Graph, Shape
from xaiutils.graph.outputs import Output

Start = Literal["greedy", "greedy_slope", "ones"]
STARTS = ("greedy", "greedy_slope", "ones")
Parameters = Literal["masks", "logits"]
PARAMETERS = ("masks", "logits")
_DECAY = (0.9, 0.999)  # of Adam's moments
_FURTHEST = 1e-6  # a mask in a search of logits stays so far from its ends
_SMALLEST = 1e-8  # slopes of about this size are rounding, and must not become whole steps


@dataclass(frozen=True, eq=False)
class Disentangled:
    r"""What DMBP found; the parts add up to the output, whatever the masks are.

    .. math:: f = \sum R^+ + \sum R^- + \sum R^n + \beta

    Where biases are masked inputs, :math:`\beta` is 0 and each of the three has a map of biases
    besides: :math:`f = \sum_k \bigl(\sum R^k + \sum B^k\bigr)` for :math:`k = +, -, n`.

    Attributes:
        positive: :math:`R^+ = J^+ \odot x`, (N, C, H, W), in units of the output.
        negative: :math:`R^- = J^- \odot x`, likewise; where the branch is pure it is negative.
        nuisance: :math:`R^n = (J - J^+ - J^-) \odot x`, likewise: what no branch took.
        positive_mapping: :math:`J^+`, (N, C, H, W), in units of the output per unit of the input.
        negative_mapping: :math:`J^-`, likewise.
        masks: For each activation by its name in the graph, the masks of its filters in [0, 1],
            (2, N, C): the positive branch's, then the negative's. A layer that no activation
            follows has its own name.
        bias: :math:`\beta`, what the biases (and saturated activations) contribute, (N,) float64;
            0 where they are masked inputs.
        output: The explained output *f*, (N,) float64; of a target made of several outputs their
            sum weighted by its derivative.
        history: The objective at each iterate, the start included, (N, iterations + 1).
        bias_maps: :math:`B^+, B^-, B^n`, (3, N, 1, H, W) in units of the output: what the biases
            contribute to each part, spread over the pixels below the places where they are, as in
            :func:`xaiutils.attribution.fullgrad`; (3, N, F) for inputs (N, F). None where they are
            put aside.
    """

    positive: Tensor
    negative: Tensor
    nuisance: Tensor
    positive_mapping: Tensor
    negative_mapping: Tensor
    masks: dict[str, Tensor]
    bias: Tensor
    output: Tensor
    history: Tensor
    bias_maps: Tensor | None = None

    @property
    def map(self) -> Tensor:
        """The positive and the negative attribution in one signed heatmap, (N, C, H, W)."""
        return self.positive + self.negative

    @property
    def gap(self) -> Tensor:
        """The output without the branches, the nuisance and the bias; 0 but for rounding, (N,)."""
        parts = [self.positive, self.negative, self.nuisance]
        parts += [] if self.bias_maps is None else list(self.bias_maps)
        return self.output - self.bias - sum(part.double().flatten(1).sum(1) for part in parts)

    @staticmethod
    def joined(parts: list[Disentangled]) -> Disentangled:
        """Return the results of several chunks of a batch as one."""
        names = [field.name for field in fields(Disentangled)]
        plain = [name for name in names if name not in ("masks", "bias_maps")]
        tensors = {name: torch.cat([getattr(part, name) for part in parts]) for name in plain}
        layers = parts[0].masks
        masks = {name: torch.cat([part.masks[name] for part in parts], 1) for name in layers}
        maps = [part.bias_maps for part in parts if part.bias_maps is not None]
        return Disentangled(**tensors, masks=masks, bias_maps=torch.cat(maps, 1) if maps else None)


def dmbp(
    model: Network,
    x: Tensor,
    target: Target = None,
    iterations: int = 20,
    *,
    objective: Objective | None = None,
    start: Start = "greedy",
    learning_rate: float = 0.05,
    places: Places = "activations",
    biases: Biases = "aside",
    softness: float = 0.0,
    parameters: Parameters = "masks",
    output: Output = None,
    batch_size: int | None = None,
) -> Disentangled:
    r"""Separate what speaks for the target output from what speaks against it.

    After Ruiz, Agudo and Moreno-Noguer (ICCV 2021), as far as their abstract goes; objective,
    search and biases are ours. At *x* a network of ReLUs is linear, :math:`f = J x + \beta`. Two
    masked copies of its backward pass, whose masks :math:`m \in [0, 1]` scale the signal of each
    filter, give mappings :math:`J^+` and :math:`J^-`, and the attributions
    :math:`R^\pm = J^\pm \odot x`. What neither takes is nuisance, so that everything adds up for
    any masks. The masks are searched for each image by itself: from the start, so many steps of
    Adam on the masks, its rate falling to 0 and the masks kept in [0, 1]; the iterate with the
    lowest objective is returned. Nothing is drawn by lot.

    A target may be made of several outputs, as in :func:`gradient`. What is separated then is the
    outputs' sum weighted by the derivative at *x*, :math:`\sum_k (\partial v/\partial f_k) f_k`.
    For weights, :class:`Difference` and :class:`Margin` that is the number itself; a number of the
    softmax is not piecewise linear, and this is its linear part at the outputs.

    Paths that pass no mask belong to both branches: with masks at the activations those that none
    interrupts.

    A search whose masks can travel all the way, over all filters of the network, with nothing put
    aside, is ``dmbp(model, x, target, 60, objective=Separation(net="inputs"), places="layers",
    biases="masked", softness=0.1, parameters="logits", learning_rate=0.2)``. On networks of
    photographs that objective empties a branch, and ``Separation((4, 9, 16), net="inputs",
    relative=True)`` does not.

    Args:
        model: A network in evaluation mode that has something to mask at ``places``, and whose
            activations are all of straight pieces: ReLU, clamps, leaky ReLU, max pooling. Or its
            :class:`~xaiutils.graph.Graph`.
        x: Inputs (N, C, H, W), as the network takes them.
        target: What to explain, as in :func:`xaiutils.attribution.gradient`.
        iterations: Steps of the search. 0 returns the start: with ``"greedy"`` the masks that
            keep, from the output down, the filters whose signal times activation, summed over
            space, has the sign of the branch. That is the best there is for one hidden layer
            without biases, and a heuristic elsewhere.
        objective: What the masks are to make small, one of the classes derived from
            :class:`Objective`. None takes :class:`Purity` over windows of 1/14 of the image's
            side; for inputs that are no images, without windows.
        start: ``"greedy"``; ``"greedy_slope"``, which keeps the filters whose mask has a slope of
            the right sign: the best there is for one hidden layer with biases too, if all masks
            below are 1, and a heuristic elsewhere; or ``"ones"`` for no masks. Where biases are
            masked inputs, the first two differ only in what saturated activations put out.
        learning_rate: How far a mask (or its logit) moves in the first step. It falls evenly to 0,
            so that a mask travels at most ``learning_rate * (iterations + 1) / 2``: with the
            defaults 0.525, hardly enough to change sides.
        places: Where masks sit: ``"activations"``, after each of them; ``"layers"``, at the output
            channels of every convolution and linear layer, the last one's outputs included;
            ``"both"``. The caption of the paper's Fig. 2 speaks of "each network filter".
        biases: ``"aside"``: what the biases contribute is :math:`\beta` and in no branch.
            ``"masked"``: each bias, and what a saturated activation puts out, is an input with the
            mask of its filter, as in the full-gradient representation (Srinivas and Fleuret 2019);
            :math:`\beta` is 0, and the objective judges pixels and biases together.
        softness: How far the starting masks lie from 0 and 1, in [0, 0.5].
        parameters: What Adam moves: the ``"masks"``, put back into [0, 1] after each step, or their
            ``"logits"`` :math:`\theta`, with :math:`m = 1/(1 + e^{-\theta})`. A logit is never
            stopped at an end; from masks of 0.1 and 0.9 a travel of 2.2 reaches the middle. They
            need a softness above 0.
        output: Which of several outputs of the network: a key, a position, or a function of what
            it returns, as in :func:`xaiutils.attribution.gradient`.
        batch_size: How many images at a time; bounds the memory.

    Returns:
        A :class:`Disentangled` with the attributions, mappings and masks, the bias, and the
        objective at every step; for a network in half precision in float32.

    Raises:
        TypeError: As in :func:`xaiutils.attribution.gradient`, or if ``objective`` is none.
        ValueError: As in :func:`xaiutils.attribution.gradient`; if the network has nothing to
            mask at ``places``, an option is out of range, or the objective does not fit the inputs.
        UnsupportedOperation: If the network cannot be read, or something in it is neither linear
            nor a gate of straight pieces: then it is not linear at *x*.
    """
    if objective is not None and not isinstance(objective, Objective):
        raise TypeError(f"objective must be an Objective, not {type(objective).__name__}")
    if iterations < 0:
        raise ValueError(f"iterations must not be negative, but is {iterations}")
    check_choice("start", start, STARTS)
    check_choice("places", places, PLACES)
    check_choice("biases", biases, BIASES)
    search = _Search(iterations, start, learning_rate, softness, parameters)
    traced, x, explained = prepare(model, x, target, output=output)
    require_piecewise_linear(traced, "DMBP")
    _require_filters(traced, places)
    chosen = default_objective(traced.input_shape) if objective is None else objective
    chosen.check(traced.input_shape)
    masked = partial(
        Masked,
        traced,
        needs_filters=chosen.needs_filters,
        places=places,
        biases=biases,
        needs_net=chosen.needs_net(),
    )
    one_chunk = partial(_explain, masked, chosen, search)
    return Disentangled.joined(in_chunks(one_chunk, batch_size, x, explained))


def dmbp_heatmap(
    model: Network,
    x: Tensor,
    target: Target = None,
    iterations: int = 20,
    *,
    norm: Norm | None = None,
    output: Output = None,
    batch_size: int | None = None,
) -> Tensor:
    r"""Return what speaks for the target output, as one heatmap: see :func:`dmbp`.

    Args:
        model: A network of ReLUs in evaluation mode, or its :class:`~xaiutils.graph.Graph`.
        x: Inputs (N, C, H, W), as the network takes them.
        target: What to explain, as in :func:`xaiutils.attribution.gradient`.
        iterations: Steps of the search for masks.
        norm: None for :math:`R^+ = J^+ \odot x`; ``"l2"`` or ``"linf"`` for the norm of
            :math:`J^+` over the colours, which does not ask where the inputs' zero lies.
        output: Which of several outputs of the network: a key, a position, or a function of what
            it returns, as in :func:`xaiutils.attribution.gradient`.
        batch_size: How many images at a time; bounds the memory.

    Returns:
        (N, C, H, W), in units of the output; with a norm (N, 1, H, W), not negative.

    Raises:
        TypeError: As in :func:`dmbp`.
        ValueError: As in :func:`dmbp`, or if ``norm`` is unknown.
    """
    check_norm(norm)
    found = dmbp(model, x, target, iterations, output=output, batch_size=batch_size)
    return found.positive if norm is None else pool_colours(found.positive_mapping, norm)


def default_objective(shape: Shape) -> Objective:
    """Return the objective for inputs of this shape: purity over windows of 1/14 of an image."""
    return Purity(window=max(1, round(min(shape[1:]) / 14)) if len(shape) == 3 else None)


def _require_filters(traced: Graph, places: Places) -> None:
    if places == "activations" and not traced.gates:
        raise ValueError("the network has no activation whose filters could be masked")
    if not placed(traced, places, False)[1]:
        raise ValueError("the network has no layer whose filters could be masked")


@dataclass(frozen=True)
class _Search:
    """How masks are looked for; see :func:`dmbp`."""

    iterations: int
    start: Start
    learning_rate: float
    softness: float
    parameters: Parameters

    def __post_init__(self) -> None:
        if not 0 < self.learning_rate < float("inf"):
            raise ValueError(f"learning_rate must be positive, not {self.learning_rate}")
        if not 0 <= self.softness <= 0.5:
            raise ValueError(f"softness must lie between 0 and 0.5, not {self.softness}")
        check_choice("parameters", self.parameters, PARAMETERS)
        if self.parameters == "logits" and not self.softness:
            raise ValueError(
                "the logits of masks of 0 and 1 are infinite: a search of logits needs a softness "
                "above 0, 0.1 say"
            )

    def first(self, network: Masked) -> Tensor:
        """Return the masks at the start, (2, N, F)."""
        starts = {
            "greedy": network.greedy,
            "greedy_slope": network.greedy_slopes,
            "ones": network.ones,
        }
        masks = starts[self.start]()
        return (
            masks.lerp(torch.full_like(masks, 0.5), 2 * self.softness) if self.softness else masks
        )

    def moved(self, masks: Tensor, slopes: Tensor, moments: _Moments, step: int) -> Tensor:
        """Return the masks after a step of Adam (Kingma and Ba 2015) whose rate falls to 0."""
        rate = self.learning_rate * (1 - step / self.iterations)
        if self.parameters == "masks":
            return (masks - rate * moments.move(slopes)).clamp_(0, 1)
        open_ = masks.clamp(_FURTHEST, 1 - _FURTHEST)
        move = moments.move(slopes * open_ * (1 - open_))
        return (open_.logit() - rate * move).sigmoid_()


def _explain(
    masked: Callable[[Tensor, Resolved], Masked],
    objective: Objective,
    search: _Search,
    x: Tensor,
    explained: Resolved,
) -> Disentangled:
    """Explain one chunk."""
    network = masked(x, explained)
    masks, mappings, biases, history = _optimised(network, objective, search)
    positive, negative = mappings * x
    whole = network.whole_pixels
    layers = zip(network.gates, network.split(masks), strict=True)
    return Disentangled(
        positive,
        negative,
        whole - positive - negative,
        mappings[0],
        mappings[1],
        {node.name: mask for node, mask in layers},
        network.bias,
        network.output,
        history,
        _with_nuisance(network, biases),
    )


def _with_nuisance(network: Masked, biases: Tensor | None) -> Tensor | None:
    """Add to what the biases contribute to the branches (2, N, ...) the nuisance's: (3, N, ...)."""
    if biases is None or network.whole_biases is None:
        return None
    return torch.cat([biases, (network.whole_biases - biases.sum(0))[None]])


def _optimised(
    network: Masked, objective: Objective, search: _Search
) -> tuple[Tensor, Tensor, Tensor | None, Tensor]:
    """Return the best masks (2, N, F), their mappings and bias maps, and all losses.

    Every image has masks, moments and a best iterate of its own. The mappings are (2, N, ...), as
    are the maps of the biases where those are masked inputs, and the losses (N, steps + 1).
    """
    masks = search.first(network)
    network.keep_slopes()
    moments = _Moments(masks)
    best, best_mappings, best_biases = masks, network.x.new_zeros(()), None
    losses: list[Tensor] = []
    for step in range(search.iterations + 1):
        mappings, evidence = network.backward(masks, keep=step < search.iterations)
        loss, slopes = objective.evaluate(evidence, network.whole)
        better = loss < torch.stack(losses).amin(0) if losses else torch.ones_like(loss).bool()
        losses.append(loss)
        best = torch.where(better[:, None], masks, best)
        kept = better.reshape(-1, *[1] * (mappings.ndim - 2))
        best_mappings = torch.where(kept, mappings, best_mappings)
        if network.bias_maps is not None:
            before = network.bias_maps if best_biases is None else best_biases
            best_biases = torch.where(kept, network.bias_maps, before)
        if step < search.iterations:
            masks = search.moved(masks, network.mask_gradient(masks, slopes), moments, step)
    return best, best_mappings, best_biases, torch.stack(losses, 1)


class _Moments:
    """The running moments of Adam, element by element."""

    def __init__(self, like: Tensor) -> None:
        self.first, self.second, self.count = torch.zeros_like(like), torch.zeros_like(like), 0

    def move(self, gradient: Tensor) -> Tensor:
        """Return the step to take for a learning rate of 1, which is about 1 in size."""
        self.count += 1
        self.first.lerp_(gradient, 1 - _DECAY[0])
        self.second.lerp_(gradient.square(), 1 - _DECAY[1])
        mean = self.first / (1 - _DECAY[0] ** self.count)
        spread = (self.second / (1 - _DECAY[1] ** self.count)).sqrt()
        return mean / (spread + _SMALLEST)
