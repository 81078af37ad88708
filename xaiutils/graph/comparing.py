"""Whether a graph computes what its network does, and if not, from where on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from xaiutils.graph.running import Graph

# How far a graph's output may be from the network's, relative to the largest number in it.
_TOLERANCE = {torch.float64: 1e-8, torch.float32: 1e-3, torch.float16: 0.1, torch.bfloat16: 0.3}

# Every operation rounds, not the input alone: so many times what that does is rounding, too.
_AMPLIFIED = 100.0


def two(x: Tensor) -> Tensor:
    """Return two of the inputs, as what works for one image only must not be taken for right."""
    return torch.cat([x[:2], x[:1]])[:2].detach()


def agree(
    found: Tensor, expected: Tensor, coarsest: torch.dtype | None = None, rounding: float = 0.0
) -> bool:
    """Whether two outputs are the same but for rounding.

    Args:
        found: What a graph computed.
        expected: The network's own output.
        coarsest: The coarsest type of numbers in which the network computes, if not its own.
        rounding: By how much the network's own output moves if its input is rounded.
    """
    if found.shape != expected.shape or found.dtype != expected.dtype:
        return False
    types = (expected.dtype, coarsest or expected.dtype)
    tolerance = max(_TOLERANCE.get(dtype, 1e-3) for dtype in types)
    if expected.is_cuda:  # where TF32 rounds the factors of products, differently when folded
        tolerance = max(tolerance, 0.02 if expected.dtype != torch.float64 else 0)
    difference = (found - expected).detach().abs().max()
    largest = expected.detach().abs().max()
    return bool(difference <= max(tolerance * float(largest), _AMPLIFIED * rounding))


def difference(copy: nn.Module, plain: Graph, x: Tensor) -> str:
    """Say where a graph, without folding, first computes something else than the network."""
    name = type(copy).__name__
    record = plain.record(x)
    place = "the outputs of its modules agree: look at what its forward or a hook does with them"
    for path, index, expected in _outputs_of_modules(copy, plain, x):
        found = record.value(index)
        if found.shape == expected.shape and not agree(found, expected):
            place = f"the output of {path!r} is the first that differs"
            break
    return (
        f"what was traced of {name} does not compute what {name} does, and is not used: {place}. "
        "Does it draw at random, or is something patched or hooked that depends on the input?"
    )


def _outputs_of_modules(
    copy: nn.Module, plain: Graph, x: Tensor
) -> Iterator[tuple[str, int, Tensor]]:
    """Give the path, the node and the output of each module, in the order in which they end."""
    outputs: list[tuple[str, Tensor]] = []

    def keep(path: str) -> Callable[..., None]:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            if isinstance(output, Tensor):
                outputs.append((path, output.clone()))  # it may be changed in place later

        return hook

    for path, part in copy.named_modules():
        part.register_forward_hook(keep(path))
    copy(x.clone())
    uses = Counter(path for path, _ in outputs)
    containers = {path for path, part in copy.named_modules() if any(part.children())}
    met: Counter[str] = Counter()
    for path, output in outputs:
        met[path] += 1
        nodes = [node.index for node in plain.nodes if node.module == path]
        if len(nodes) == uses[path] and path not in containers:  # one node for each use
            yield path, nodes[met[path] - 1], output
        elif path and nodes and met[path] == uses[path]:
            yield path, plain.find(path).index, output
