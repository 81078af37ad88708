"""The tables of ``samek``: areas, curves and comparisons, from the scores of all images."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from xaiutils import evaluation
from xaiutils.reproduce._tables import interval, pair_row, write_table

Key = tuple[str, str, str]
_COMPARED = ("aopc_morf", "aopc_lerf", "abpc")


def write_tables(
    out: Path, scores: Mapping[str, Tensor], constant: Mapping[str, Tensor], resamples: int
) -> list[Path]:
    """Write the tables beside each other, each whole or not at all.

    ``-areas`` has AOPC, its gain over the random order, and ABPC, with their intervals over images;
    ``-curves`` the mean score at each step; ``-comparisons`` all pairs of methods, Holm's
    correction being made within each fill and measure; ``-fills`` all pairs of fills, within each
    measure and method.

    Args:
        out: What the names of the files begin with.
        scores: By "fill/order/method", of shape (N, repeats, L + 1).
        constant: By the same names, which heatmaps were constant, (N,) bool.
        resamples: Draws of the bootstrap and of the signs.

    Returns:
        The files.
    """
    parts: dict[Key, Tensor] = {_key(name): found.double() for name, found in scores.items()}
    dead = {_key(name): int(found.sum()) for name, found in constant.items()}
    areas = {key: _aopc(found) for key, found in parts.items()}
    tables = {
        "areas": _areas(areas, dead, resamples),
        "curves": _curves(parts),
        "comparisons": _comparisons(areas, resamples),
        "fills": _between_fills(areas, resamples),
    }
    return [write_table(out, name, rows) for name, rows in tables.items() if rows]


def _key(name: str) -> Key:
    fill, order, method = name.split("/")
    return fill, order, method


def _aopc(scores: Tensor) -> Tensor:
    """Samek et al. 2017, eq. 11, for each image."""
    return (scores[..., :1] - scores).mean(dim=(1, 2))


def _measures(areas: Mapping[Key, Tensor]) -> dict[Key, Tensor]:
    """Per image, by (fill, measure, method): what the orders that were run allow to tell."""
    found: dict[Key, Tensor] = {}
    for (fill, order, method), area in areas.items():
        found[fill, f"aopc_{order}", method] = area
        chance = [a for (f, o, _), a in areas.items() if (f, o) == (fill, "random")]
        if order != "random" and chance:
            found[fill, f"aopc_{order}_minus_random", method] = area - chance[0]
        lerf = areas.get((fill, "lerf", method))
        if order == "morf" and lerf is not None:
            found[fill, "abpc", method] = area - lerf
    return found


def _areas(
    areas: Mapping[Key, Tensor], dead: Mapping[Key, int], resamples: int
) -> list[dict[str, Any]]:
    rows = []
    for (fill, measure, method), values in _measures(areas).items():
        order = "lerf" if "lerf" in measure else "random" if measure == "aopc_random" else "morf"
        names = {"fill": fill, "measure": measure, "method": method}
        constant = {"constant_maps": dead[fill, order, method]}
        rows.append(names | interval(values, resamples) | constant)
    return rows


def _curves(parts: Mapping[Key, Tensor]) -> list[dict[str, Any]]:
    return [
        {"fill": fill, "order": order, "method": method, "step": step, "mean_score": mean}
        for (fill, order, method), scores in parts.items()
        for step, mean in enumerate(scores.mean(dim=(0, 1)).tolist())
    ]


def _comparisons(areas: Mapping[Key, Tensor], resamples: int) -> list[dict[str, Any]]:
    groups: dict[tuple[str, str], dict[str, Tensor]] = {}
    for (fill, measure, method), values in _measures(areas).items():
        if measure in _COMPARED and len(values) > 1:
            groups.setdefault((fill, measure), {})[method] = values
    return [
        {"fill": fill, "measure": measure} | pair
        for (fill, measure), methods in groups.items()
        for pair in _pairs(methods, resamples)
    ]


def _between_fills(areas: Mapping[Key, Tensor], resamples: int) -> list[dict[str, Any]]:
    groups: dict[tuple[str, str], dict[str, Tensor]] = {}
    for (fill, measure, method), values in _measures(areas).items():
        if measure in (*_COMPARED, "aopc_random") and len(values) > 1:
            groups.setdefault((measure, method), {})[fill] = values
    return [
        {"measure": measure, "method": method} | pair
        for (measure, method), fills in groups.items()
        for pair in _pairs(fills, resamples)
    ]


def _pairs(values: Mapping[str, Tensor], resamples: int) -> list[dict[str, Any]]:
    """All pairs, as rows of a table; none of a single entry."""
    if len(values) < 2:
        return []
    return [pair_row(pair) for pair in evaluation.compare(values, resamples=resamples)]
