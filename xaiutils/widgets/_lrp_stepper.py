"""Relevance on its way back through a small network, one unit after the other."""

import copy
from collections.abc import Mapping
from typing import Any

import matplotlib.pyplot as plt
import torch
import traitlets
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor, nn

from xaiutils import attribution, plot
from xaiutils.attribution import AlphaBeta, Epsilon, Gamma, Rule, ZPlus
from xaiutils.widgets._common import Widget, script, style

MOST_UNITS = 8
RULES: dict[str, Rule] = {
    "LRP-0": Epsilon(0.0),
    "epsilon = 1": Epsilon(1.0),
    "gamma = 1/4": Gamma(0.25),
    "z+": ZPlus(),
    "alpha 2, beta -1": AlphaBeta(2.0, -1.0),
}


class LRPStepper(Widget):
    r"""Follow layer-wise relevance propagation through a network that fits on a page.

    Each step lets one unit *j* hand its relevance on to the units *i* that it reads, as the
    messages :math:`R_{i \leftarrow j}`, which sum to the relevance of *i* (Bach et al. 2015).
    Under the picture stands the account of each layer: the sum of its relevance, what biases,
    stabilisers and dead units absorbed above it, and both together, which is the output. All
    numbers are `xaiutils.attribution.lrp`'s.

    Buttons and the arrow keys step; ``step`` and ``rule`` can also be set from Python.

    Args:
        model: An ``nn.Sequential`` of linear layers with ReLUs in between, at most 8 units wide.
        x: One input, shape (I,) or (1, I).
        target: The output unit that is explained.
        rules: Names and rules of `xaiutils.attribution` to choose from; by default 0, epsilon,
            gamma, z+ and alpha-beta. The first is shown first.

    Attributes:
        step: 0 to the number of units that hand something on.
        rule: The name of the rule that is shown.
        network: The ``activations`` of each layer, from the input to the output.
        passes: What each rule does: its ``name``; the ``relevance`` of each layer, from the input
            to the output; ``messages`` of each linear layer, (outputs, inputs); what its ``bias``,
            ``stabiliser`` and ``dead`` units absorbed, for each output.

    Raises:
        TypeError: The model is no such ``nn.Sequential``.
        ValueError: The input does not fit, a layer is too wide, or there is no rule or no target.
    """

    _esm = script("lrp_stepper.js")
    _css = style()
    network = traitlets.Dict().tag(sync=True)
    passes = traitlets.List(traitlets.Dict()).tag(sync=True)
    target = traitlets.Int(0).tag(sync=True)
    rule = traitlets.Unicode().tag(sync=True)
    step = traitlets.Int(0).tag(sync=True)

    def __init__(
        self,
        model: nn.Sequential,
        x: Tensor,
        target: int = 0,
        rules: Mapping[str, Rule] = RULES,
    ) -> None:
        layers = _linear_layers(model)
        if not rules:
            raise ValueError("There is no rule to choose from.")
        activations = _activations(layers, x)
        if not 0 <= target < activations[-1].numel():
            raise ValueError(f"There is no output {target}: there are {activations[-1].numel()}.")
        super().__init__(
            network={"activations": [a.tolist() for a in activations]},
            passes=[
                {"name": name, **_propagate(layers, activations, target, rule)}
                for name, rule in rules.items()
            ],
            target=target,
            rule=next(iter(rules)),
        )

    @traitlets.validate("rule")
    def _known_rule(self, proposal: dict[str, Any]) -> str:
        name = str(proposal["value"])
        names = [found["name"] for found in self.passes]
        if names and name not in names:
            raise ValueError(f"The rules are {names}, not {name!r}.")
        return name

    def static_twin(self) -> Figure:
        """Draw every rule's relevance of every unit, with all messages."""
        number = len(self.passes)
        figure, axes = plt.subplots(
            1, number, figsize=(2.3 * number, 2.8), layout="constrained", squeeze=False
        )
        for ax, found in zip(axes[0], self.passes, strict=True):
            _draw(ax, found)
        sums = [f"{found['name']} {_listed(found['relevance'][0])}" for found in self.passes]
        text = f"The relevance of the inputs under each rule: {'; '.join(sums)}."
        return plot.set_alternative_text(figure, text)


def _linear_layers(model: nn.Sequential) -> list[nn.Linear]:
    """The linear layers of a chain that has a ReLU between any two, and nothing else."""
    modules = list(model) if isinstance(model, nn.Sequential) else []
    layers = [module for module in modules[::2] if isinstance(module, nn.Linear)]
    between = [module for module in modules[1::2] if isinstance(module, nn.ReLU)]
    if not layers or len(modules) != 2 * len(layers) - 1 or len(between) != len(layers) - 1:
        raise TypeError(
            "The model must be an nn.Sequential of nn.Linear, nn.ReLU, nn.Linear ... that begins "
            f"and ends with nn.Linear, not {model}."
        )
    widest = max(max(layer.in_features, layer.out_features) for layer in layers)
    if widest > MOST_UNITS:
        raise ValueError(f"A layer has {widest} units; more than {MOST_UNITS} can't be read.")
    return layers


def _activations(layers: list[nn.Linear], x: Tensor) -> list[Tensor]:
    """The values of the units of each layer, from the input to the output, each (units,)."""
    if x.numel() != layers[0].in_features:
        raise ValueError(f"The model reads {layers[0].in_features} numbers, not {tuple(x.shape)}.")
    activations = [x.detach().reshape(-1)]
    with torch.no_grad():
        for layer in layers:
            activations.append(layer(activations[-1]).relu())
        activations[-1] = layers[-1](activations[-2])
    return activations


def _propagate(
    layers: list[nn.Linear], activations: list[Tensor], target: int, rule: Rule
) -> dict[str, Any]:
    """One pass from the output down, with the message of every unit to every unit below."""
    R = torch.zeros_like(activations[-1])
    R[target] = activations[-1][target]
    found: dict[str, Any] = {"relevance": [R.tolist()], "messages": []}
    found |= {"bias": [], "stabiliser": [], "dead": []}
    for layer, a in zip(reversed(layers), reversed(activations[:-1]), strict=True):
        messages, report = attribution.lrp(
            nn.Sequential(copy.deepcopy(layer)).eval(),  # and the user's stays as it is
            a.expand(len(R), -1),
            0,
            {nn.Linear: rule},
            start=torch.diag(R),  # each output by itself, as one image of a batch
            return_report=True,
        )
        R = messages.sum(dim=0)
        found["relevance"].insert(0, R.tolist())
        found["messages"].insert(0, messages.tolist())
        for name in ("bias", "stabiliser", "dead"):
            found[name].insert(0, getattr(report, name).tolist())
    return found


def _draw(ax: Axes, found: dict[str, Any]) -> None:
    """Draw the units in columns, the input on the left, and the messages between them."""
    places = [
        [(column, (len(units) - 1) / 2 - row) for row in range(len(units))]
        for column, units in enumerate(found["relevance"])
    ]
    largest = max((abs(m) for layer in found["messages"] for j in layer for m in j), default=1.0)
    for column, layer in enumerate(found["messages"]):
        for above, messages in zip(places[column + 1], layer, strict=True):
            for below, message in zip(places[column], messages, strict=True):
                ax.plot(
                    *zip(above, below, strict=True),
                    color=plot.PALETTE[0] if message < 0 else plot.PALETTE[1],
                    linestyle="--" if message < 0 else "-",
                    linewidth=4 * abs(message) / (largest or 1.0),
                    zorder=1,
                )
    for units, relevance in zip(places, found["relevance"], strict=True):
        for place, value in zip(units, relevance, strict=True):
            box = {"boxstyle": "round", "facecolor": "white", "edgecolor": "0.4"}
            ax.annotate(f"{value:.2f}", place, ha="center", va="center", fontsize=8, bbox=box)
    ax.set_title(found["name"], fontsize=9)
    ax.margins(0.25, 0.2)
    ax.axis("off")


def _listed(values: list[float]) -> str:
    return ", ".join(f"{value:.2f}" for value in values)
