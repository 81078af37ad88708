"""The gradient and its relatives: what a small change of each pixel would do."""

from __future__ import annotations

from functools import partial

from torch import Tensor

from xaiutils.attribution._autograd import prepare_slopes, slopes_of
from xaiutils.attribution._common import (
    Network,
    Norm,
    Target,
    check_norm,
    in_chunks,
    joined,
    pool_colours,
    precise,
)
from xaiutils.graph.outputs import Output


def gradient(
    model: Network,
    x: Tensor,
    target: Target = None,
    *,
    output: Output = None,
    batch_size: int | None = None,
) -> Tensor:
    r"""Return the gradient of the target output with respect to the input.

    :math:`J = \partial f_t / \partial x`, computed on the traced graph: every linear operation
    transposed, every ReLU open where it was open. A network that cannot be read is differentiated
    by autograd, as by :func:`smoothgrad` and :func:`integrated_gradients` too.

    Of a network with several inputs any method explains them all, as one: hand over
    ``graph.trace(model, inputs)`` and ``graph.pack(inputs)``, and ``graph.unpack`` gives each
    input its part of the result.

    Args:
        model: A classifier, or any network, in evaluation mode; or the
            :class:`~xaiutils.graph.Graph` that :func:`xaiutils.graph.trace` has read of one, whose
            weights are then not read again at every call. It takes inputs of the shape that it was
            read for.
        x: Inputs (N, C, H, W), as the network takes them.
        target: The output to explain: an int, one for each image, or None for the largest one. For
            outputs of several dimensions a tuple of positions; of a network that returns one
            number for each image there is only output 0.
            Or a number made of several outputs: a tensor of floats, the weights of the outputs,
            (K,) for all images or (N, K); a :class:`Difference` of two classes, the
            :class:`Margin` over the best other class, or the :class:`LogOdds`, the
            :class:`LogProbability` or the :class:`Probability` of a class.
        output: Which of several outputs of the network ``target`` is looked for in: the key in a
            dict, the position in a tuple, or a function of all that the network returns. So any
            number can be explained: with ``lambda y: y.softmax(1)`` a probability, with
            ``lambda y: y["out"].mean((2, 3))`` the mean over places of a segmentation. None where
            there is only one output, and for a Graph, which has chosen.
        batch_size: How many images at a time; bounds the memory.

    Returns:
        (N, C, H, W), in units of the output per unit of the input. For a network in half precision
        (float16, bfloat16) it is computed and returned in float32, in which small numbers are not
        lost, as by all methods; where autograd has to do it and the network does not run in
        float32, it is computed in the network's own type.

    Raises:
        TypeError: If the model, ``x``, ``target`` or ``output`` is of the wrong type.
        ValueError: If the model is in training mode, does not run on ``x``, returns several outputs
            of which none is chosen, or an argument is out of range; if its output cannot be
            differentiated, or a Graph does not fit ``x``.

    Warns:
        UnpreprocessedWarning: If pictures go from 0 far beyond 1, as pixels of 0 to 255 do, and
            the network does not scale them itself. So do all methods.
    """
    network, x, explained = prepare_slopes(model, x, target, output)
    return joined(in_chunks(partial(slopes_of, network), batch_size, x, explained))


def input_x_gradient(
    model: Network,
    x: Tensor,
    target: Target = None,
    *,
    output: Output = None,
    batch_size: int | None = None,
) -> Tensor:
    r"""Return the input times the gradient, :math:`x \odot \partial f_t / \partial x`.

    For a network of ReLUs its sum is the target output less the part that comes from the biases.

    Args:
        model: A network in evaluation mode, or its :class:`~xaiutils.graph.Graph`.
        x: Inputs (N, C, H, W), as the network takes them.
        target: What to explain, as in :func:`gradient`.
        output: Which of several outputs: a key, a position, or a function; see :func:`gradient`.
        batch_size: How many images at a time; bounds the memory.

    Returns:
        (N, C, H, W), in units of the output.

    Raises:
        TypeError: As in :func:`gradient`.
        ValueError: As in :func:`gradient`.
    """
    slopes = gradient(model, x, target, output=output, batch_size=batch_size)
    return precise(x) * slopes


def sensitivity(
    model: Network,
    x: Tensor,
    target: Target = None,
    *,
    norm: Norm = "l2",
    output: Output = None,
    batch_size: int | None = None,
) -> Tensor:
    r"""Return how strongly the target output reacts to each pixel (Samek et al. 2017, eq. 3).

    :math:`h_p = \lVert (\partial f_t / \partial x_{p,c})_c \rVert_q` with :math:`q \in
    \{2, \infty\}` over the colours *c*. The sign is lost.

    Args:
        model: A network in evaluation mode, or its :class:`~xaiutils.graph.Graph`.
        x: Inputs (N, C, H, W), as the network takes them.
        target: What to explain, as in :func:`gradient`.
        norm: ``"l2"`` or ``"linf"``.
        output: Which of several outputs: a key, a position, or a function; see :func:`gradient`.
        batch_size: How many images at a time; bounds the memory.

    Returns:
        (N, 1, H, W), not negative.

    Raises:
        TypeError: As in :func:`gradient`.
        ValueError: As in :func:`gradient`, or if ``norm`` is unknown.
    """
    check_norm(norm)
    slopes = gradient(model, x, target, output=output, batch_size=batch_size)
    return pool_colours(slopes, norm)
