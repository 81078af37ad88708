"""The figure of a report: the maps beside their controls, and the gains with their intervals."""

from __future__ import annotations

from collections.abc import Mapping

import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from xaiutils.plot import PALETTE, set_alternative_text

_OWN = "own maps"
_HEIGHT = 0.3  # inches for each method
_MARKERS = ("o", "X", "s", "D", "^", "v", "P")
_SPREAD = 0.5  # of the distance between two methods: over which the controls' gains are spread


def draw(frame: pd.DataFrame, level: float, labels: Mapping[str, str]) -> Figure:
    """Draw a report's frame, a line of panels for each measure.

    Args:
        frame: `Report.frame`.
        level: Confidence of its intervals, for the labels.
        labels: What the measures are.

    Returns:
        The figure, with its alternative text.
    """
    measures = list(dict.fromkeys(frame["measure"]))
    methods = list(dict.fromkeys(frame["method"]))
    controls = [name for name in dict.fromkeys(frame["control"]) if isinstance(name, str)]
    height = len(measures) * (0.9 + _HEIGHT * len(methods)) + 0.4
    figure, axes = plt.subplots(
        len(measures), 2, figsize=(8, height), sharey="row", layout="constrained", squeeze=False
    )
    for (left, right), measure in zip(axes, measures, strict=True):
        part = frame[frame["measure"] == measure]
        _own(left, part, methods, controls)
        left.set(xlabel=labels.get(measure, measure), ylabel="")
        _gains(right, part, methods, controls)
        right.set(xlabel="lead over the control (right of zero: better)")
        for ax in (left, right):
            ax.spines[["top", "right", "left"]].set_visible(False)
            ax.tick_params(axis="y", length=0)
        left.set(yticks=range(len(methods)), yticklabels=methods)
        left.set_ylim(len(methods) - 0.5, -0.5)
    handles, names = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside upper center", ncols=len(names), frameon=False)
    return set_alternative_text(figure, _words(frame, level, labels))


def _colours(controls: list[str]) -> dict[str, str]:
    return dict(zip([_OWN, *controls], PALETTE, strict=False))


def _own(ax: Axes, part: pd.DataFrame, methods: list[str], controls: list[str]) -> None:
    """The maps' own value with its interval, and the mean of each control."""
    own = part.drop_duplicates("method")
    places = [methods.index(name) for name in own["method"]]
    ax.hlines(places, own["low"], own["high"], color=PALETTE[0], linewidth=1.5)
    points = pd.DataFrame({"value": own["value"], "place": places, "of": _OWN})
    if controls:
        held = part[["control_value", "control", "method"]]
        held = held.set_axis(["value", "of", "place"], axis=1)
        held = held.assign(place=held["place"].map(methods.index))
        points = pd.concat([points, held], ignore_index=True)
    order = [_OWN, *controls]
    sns.scatterplot(
        points,
        x="value",
        y="place",
        hue="of",
        style="of",
        hue_order=order,
        style_order=order,
        markers=list(_MARKERS[: len(order)]),
        palette=_colours(controls),
        s=42,
        ax=ax,
        zorder=3,
    )
    if (legend := ax.get_legend()) is not None:
        legend.remove()  # one above all panels says it


def _gains(ax: Axes, part: pd.DataFrame, methods: list[str], controls: list[str]) -> None:
    """The lead over each control with its interval."""
    ax.axvline(0, color="0.6", linewidth=0.8)
    colours = _colours(controls)
    for i, control in enumerate(controls):
        rows = part[part["control"] == control]
        shift = _SPREAD * ((i + 0.5) / len(controls) - 0.5)
        places = [methods.index(name) + shift for name in rows["method"]]
        ax.hlines(places, rows["gain_low"], rows["gain_high"], color=colours[control], lw=1.5)
        marker = _MARKERS[i + 1]
        sns.scatterplot(x=rows["gain"], y=places, color=colours[control], marker=marker, s=42,
                        ax=ax, zorder=3)  # fmt: skip


def _words(frame: pd.DataFrame, level: float, labels: Mapping[str, str]) -> str:
    """Every row in words: what the dots and whiskers say."""
    said = [f"Dots with whiskers of {level:.0%} confidence"]
    for (measure, method), rows in frame.groupby(["measure", "method"], sort=False):
        first = rows.iloc[0]
        text = f"{labels.get(measure, measure)}, {method}: {first['value']:.3g}"
        text += f" [{first['low']:.3g}, {first['high']:.3g}]"
        for row in rows.to_dict("records"):
            if isinstance(row["control"], str):
                text += f"; ahead of {row['control']} by {row['gain']:.3g}"
                text += f" [{row['gain_low']:.3g}, {row['gain_high']:.3g}]"
        said.append(text)
    return ". ".join(said) + "."
