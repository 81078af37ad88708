"""EfficientNet-Lite0 on its way to the page, where assets/photograph/engine.js runs it.

What is exported is the traced network: BatchNorm is folded into the convolution before it, and
the padding before a convolution and the ReLU6 behind it belong to it. Two things come of it:

- the plan, a list of operations. Value 0 is the picture, and operation i makes value i + 1;
- the weights, one after the other as the operations need them: a weight, the scale of each of its
  outputs if it is stored in eight bits, and the bias.

Large weights are stored in eight bits, with one scale for each output; they are most of the
network. The others, among them those of the first layers, whose errors all later ones inherit,
keep half precision. photograph/agreement.py measures what that changes.
"""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from xaiutils import graph
from xaiutils.graph import Node

SIDE = 224
LARGE = 200_000  # numbers; from here on a weight is stored in eight bits
ORDER = {"stem": (2, 3, 1, 0), "depthwise": (2, 3, 1, 0), "pointwise": (0, 1, 2, 3)}  # as read
LEVELS = 127  # of eight bits, on either side of 0

Step = dict[str, Any]


@dataclass
class Exported:
    """A network as the page runs it.

    Attributes:
        plan: The operations, in the order in which they run.
        weights: All weights, little endian.
        state: The same weights under the names of the module that was exported: loaded into it,
            they let Python compute what the page does.
    """

    plan: list[Step] = field(default_factory=list)
    weights: bytearray = field(default_factory=bytearray)
    state: dict[str, Tensor] = field(default_factory=dict)

    def add(self, step: Step, *tensors: Tensor) -> None:
        """Append an operation with its weights."""
        self.plan.append(step)
        for tensor in tensors:
            values = tensor.contiguous().numpy()
            self.weights += values.astype(values.dtype.newbyteorder("<")).tobytes()


def export(module: nn.Module) -> Exported:
    """Export a network of photographs that is made of the operations that the page knows.

    Raises:
        ValueError: It has another operation; the message names it.
    """
    traced = graph.trace(module, torch.zeros(1, 3, SIDE, SIDE))
    exported = Exported()
    values = {0: 0}  # of a node: the value of the page that holds its output
    for node in traced.nodes[1:]:
        source = traced.nodes[node.inputs[0]]
        values[node.index] = values[source.index]
        if _is_relu6_of(node, source):
            exported.plan[-1]["clamped"] = True
        elif not isinstance(node.operation, (graph.Pad, graph.Reshape)):
            inputs = [values[i] for i in node.inputs]
            side = node.shape[-1] if len(node.shape) == 3 else 1
            step = {"kind": _kind(node), "inputs": inputs, "channels": node.shape[0], "side": side}
            _add(exported, step, node, source, module)
            values[node.index] = len(exported.plan)
    _check_depthwise(exported.plan)
    return exported


def quantised(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Return a weight (O, ...) as whole numbers of eight bits, and the scale (O,) of each output.

    Their product is the weight, to within half a step of the scale.
    """
    scale = weight.flatten(1).abs().amax(1) / LEVELS
    return (weight / _per_output(scale, weight)).round().to(torch.int8), scale


def _per_output(scale: Tensor, weight: Tensor) -> Tensor:
    return scale.reshape(-1, *[1] * (weight.ndim - 1))


def _is_relu6_of(node: Node, source: Node) -> bool:
    gate = node.operation
    relu6 = isinstance(gate, graph.Clamp) and (gate.low, gate.high) == (0, 6)
    return relu6 and isinstance(source.operation, graph.Convolution)


def _kind(node: Node) -> str:
    """Return the name that engine.js has for an operation; kernels.c asks for round numbers."""
    match node.operation:
        case graph.Convolution(weight=weight, groups=1) if weight.shape[2:] == (1, 1):
            kind, fits = "pointwise", not any(size % 8 for size in weight.shape[:2])
        case graph.Convolution(weight=weight, groups=1) if weight.shape[1] == 3:
            kind, fits = "stem", len(weight) == 32
        case graph.Convolution(weight=weight, groups=groups) if groups == len(weight):
            kind, fits = "depthwise", groups % 16 == 0
        case graph.Add(coefficients=coefficients):
            kind, fits = "add", coefficients == (1.0, 1.0)
        case graph.AdaptiveAveragePool(size=size):
            kind, fits = "mean", size == (1, 1)
        case graph.Dense(weight=weight):
            kind, fits = "linear", len(weight) % 8 == 0
        case _:
            kind, fits = "", False
    if not fits:
        raise ValueError(f"the page cannot run {node.name!r} ({node.operation.kind})")
    return kind


def _check_depthwise(plan: list[Step]) -> None:
    """Refuse a network whose depthwise convolutions do not stand between two ReLU6.

    The engine shares relevance there by the sign of the weights alone.
    """
    for step in plan:
        if step["kind"] == "depthwise":
            source = plan[step["inputs"][0] - 1]
            if not (step["clamped"] and source.get("clamped")):
                raise ValueError("the page wants a ReLU6 before and behind depthwise convolutions")


def _add(exported: Exported, step: Step, node: Node, source: Node, module: nn.Module) -> None:
    """Append an operation with its weights."""
    operation = node.operation
    if isinstance(operation, graph.Convolution):
        step |= {"clamped": False, **_geometry(operation, source)}
    if not isinstance(operation, (graph.Convolution, graph.Dense)):
        exported.add(step)
        return
    weight, bias = operation.weight, operation.bias
    step["bits"] = 8 if weight.numel() >= LARGE else 16
    if step["bits"] == 8:
        levels, scale = quantised(weight)
        weight = levels * _per_output(scale, weight)
        exported.add(step, levels, scale, bias)
    else:
        half = weight.half()
        weight = half.float()
        exported.add(step, half.permute(ORDER[step["kind"]]), bias)
    exported.state |= _named(module, node, weight, bias)


def _geometry(operation: graph.Convolution, source: Node) -> Step:
    """How the kernel lies on what it reads; what is padded below and to the right follows."""
    padding = operation.padding[0]
    if isinstance(source.operation, graph.Pad):
        padding += source.operation.widths[0]
    return {"kernel": operation.weight.shape[2], "stride": operation.stride[0], "padding": padding}


def _named(module: nn.Module, node: Node, weight: Tensor, bias: Tensor) -> dict[str, Tensor]:
    """Return what a layer's part of the state must be, so that the module computes the same.

    A BatchNorm that was folded into the layer is left to add the bias.
    """
    if node.folded is None:
        return {f"{node.name}.weight": weight, f"{node.name}.bias": bias}
    norm = module.get_submodule(node.folded)
    found = {
        "weight": torch.ones_like(bias),
        "bias": bias,
        "running_mean": torch.zeros_like(bias),
        "running_var": torch.full_like(bias, 1 - norm.eps),
    }
    return {f"{node.name}.weight": weight} | {f"{node.folded}.{k}": v for k, v in found.items()}
