"""Where relevance went: the account of one LRP pass, layer by layer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    import pandas as pd

_COUNTED = ("at_output", "at_input", "bias", "stabiliser", "dead", "remainder", "excluded", "gain")


@dataclass(frozen=True, eq=False)
class LayerRelevance:
    """The account of one layer. Every tensor is (N,) float64, a sum for each image.

    Attributes:
        name: The name of the node in the graph.
        kind: Its operation, e.g. ``"conv2d"``.
        rule: The rule that was applied.
        at_output: The relevance that arrived at the layer's output.
        at_input: The relevance that left at its inputs.
        bias: What its bias absorbed.
        stabiliser: What the rule's epsilon absorbed.
        dead: What was lost at outputs to which no input contributed as the rule asks for, and on
            padding.
        remainder: What a nonlinear operation's Taylor series leaves out, a softmax's above all.
        excluded: What a condition has stopped: relevance in other channels than those that may
            pass, or that went around the layer.
        gain: The sum of absolute relevance at the inputs over that at the output.
    """

    name: str
    kind: str
    rule: str
    at_output: Tensor
    at_input: Tensor
    bias: Tensor
    stabiliser: Tensor
    dead: Tensor
    remainder: Tensor
    excluded: Tensor
    gain: Tensor

    @property
    def gap(self) -> Tensor:
        """The gap that the account leaves open; it is rounding, and nothing else."""
        return self.at_output - self.at_input - self.absorbed

    @property
    def absorbed(self) -> Tensor:
        """All that arrived and did not leave at an input."""
        return self.bias + self.stabiliser + self.dead + self.remainder + self.excluded


@dataclass(frozen=True, eq=False)
class RelevanceReport:
    """The account of one LRP pass. Every tensor is (N,) float64.

    Attributes:
        start: The relevance that the pass started with: the logit, unless it was given.
        at_input: The relevance that arrived at the network's input, or at the layer where it was
            to end: the sum of the heatmap.
        layers: The layers that decided something, in the order of the pass, from the output down.
    """

    start: Tensor
    at_input: Tensor
    layers: tuple[LayerRelevance, ...]

    @property
    def bias(self) -> Tensor:
        """What all biases absorbed."""
        return self._sum("bias")

    @property
    def stabiliser(self) -> Tensor:
        """What all stabilisers absorbed."""
        return self._sum("stabiliser")

    @property
    def dead(self) -> Tensor:
        """What was lost at dead outputs and on padding."""
        return self._sum("dead")

    @property
    def remainder(self) -> Tensor:
        """What the Taylor series of nonlinear operations left out."""
        return self._sum("remainder")

    @property
    def excluded(self) -> Tensor:
        """What conditions have stopped."""
        return self._sum("excluded")

    @property
    def absorbed(self) -> Tensor:
        """The sum of all these, which did not reach the input or the layer where it was to end."""
        return self.bias + self.stabiliser + self.dead + self.remainder + self.excluded

    @property
    def gap(self) -> Tensor:
        """The start without what arrived and what was absorbed; 0 but for rounding."""
        return self.start - self.at_input - self.absorbed

    @property
    def relative_gap(self) -> Tensor:
        """The size of the gap as a share of the size of the start."""
        return self.gap.abs() / self.start.abs()

    def _sum(self, name: str) -> Tensor:
        total = torch.zeros_like(self.start)
        return sum((getattr(layer, name) for layer in self.layers), total)

    def to_frame(self, image: int = 0) -> pd.DataFrame:
        """Return the account of one image as a table with one row for each layer."""
        import pandas as pd  # it takes half a second to import

        columns = (*_COUNTED[:-1], "gap", "gain")
        return pd.DataFrame(
            {
                "layer": layer.name,
                "kind": layer.kind,
                "rule": layer.rule,
                **{column: float(getattr(layer, column)[image]) for column in columns},
            }
            for layer in self.layers
        )

    def by_kind(self, image: int = 0) -> pd.DataFrame:
        """Return what each kind of operation absorbed of one image's relevance, as a table.

        In a transformer the row ``cat`` holds what the class token kept, ``softmax`` what its
        Taylor series left out, ``affine`` the positions and the biases of the normalisations.
        """
        frame = self.to_frame(image).groupby("kind", sort=False).sum(numeric_only=True)
        return frame.drop(columns=["at_output", "at_input", "gain"])

    @staticmethod
    def joined(reports: Sequence[RelevanceReport]) -> RelevanceReport:
        """Return the report of several chunks of a batch as one."""
        layers = tuple(
            replace(
                same[0],
                **{name: torch.cat([getattr(layer, name) for layer in same]) for name in _COUNTED},
            )
            for same in zip(*(report.layers for report in reports), strict=True)
        )
        return RelevanceReport(
            torch.cat([report.start for report in reports]),
            torch.cat([report.at_input for report in reports]),
            layers,
        )
