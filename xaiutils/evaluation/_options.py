"""The options that many measures share: a type checker reads from here which there are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypedDict

from xaiutils.evaluation._fills import Fill
from xaiutils.evaluation._jobs import Output
from xaiutils.evaluation._perturbation import FillName
from xaiutils.windows import Edge, Reduce


class _Shared(TypedDict, total=False):
    repeats: int
    output: Output
    batch_size: int | None
    edge: Edge
    first_image: int


class MetricOptions(_Shared, total=False):
    """What any measure that takes regions away can be told by keyword.

    A type checker tells a misspelt one, and so does the call. `region_perturbation` says more of
    each.

    Attributes:
        repeats: How often everything random is drawn; 1 unless given.
        output: "logit" unless given, "probability", or a callable.
        batch_size: Pictures per forward pass; chosen by the size of the images unless given.
        seed: Of all draws; 0 unless given.
        edge: "keep" narrower regions at the edge, as is done unless given, or "drop" them.
        first_image: Number of the first image, for a part of a larger set; 0 unless given.
    """

    seed: int


class PerturbationOptions(_Shared, total=False):
    """What `region_perturbation` can be told by those who call it for others.

    A type checker reads from it which options there are: a misspelt one is an error.
    """

    region_size: int
    steps: int
    fill: FillName | Fill
    region_score: Reduce
    progress: bool
    windowed: bool | None


_DEFAULTS: MetricOptions = {
    "repeats": 1,
    "output": "logit",
    "batch_size": None,
    "seed": 0,
    "edge": "keep",
    "first_image": 0,
}


def with_defaults(options: MetricOptions) -> MetricOptions:
    """All options of a measure: those that were given, and the defaults of the others.

    Raises:
        TypeError: An option of an unknown name.
    """
    check_names(options, MetricOptions.__optional_keys__)
    return {**_DEFAULTS, **options}


def check_names(options: Mapping[str, object], known: frozenset[str]) -> None:
    """Refuse an option that there is not, and say which there are."""
    if unknown := sorted(set(options) - known):
        raise TypeError(f"there is no option {unknown[0]!r}; there are {', '.join(sorted(known))}")
