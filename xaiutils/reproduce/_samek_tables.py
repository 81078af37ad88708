"""The tables of ``samek``: areas, curves and comparisons, from the scores of all images."""

from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from torch import Tensor, stack

from xaiutils import evaluation
from xaiutils.reproduce._tables import interval, reliability, write_table

Key = tuple[str, str, str]
Pairs = dict[tuple[str, str], Tensor]
SIGN_DRAWS = 100_000  # with 10,000 Holm's p could not fall below 0.03 for 300 pairs
RANDOM_ORDER = "(none)"  # stands where a method would, for the order that is drawn by lot
PAPER = ("sensitivity", "deconvnet_l2", "lrp_alpha2_beta1", "lrp_epsilon_0.01", "lrp_epsilon_100")
"""The methods of Samek et al. 2017, with both of its LRP rules."""
_CONTEST = PAPER[:3]  # one rule of LRP
_COMPARED = ("aopc_morf", "aopc_lerf", "abpc")
_GAINS = ("aopc_morf_minus_random", "aopc_lerf_minus_random")
_AT_ONCE = 500  # draws, or columns, that are held in memory together
_NAMES = {
    "areas": ("fill", "measure", "method"),
    "curves": ("fill", "order", "method", "step"),
    "comparisons": ("fill", "measure", "first", "second"),
    "fills": ("measure", "method", "first", "second"),
    "steps": ("fill", "steps", "measure", "first", "second"),
    "reliability": ("fill", "measure", "methods"),
}


def write_tables(
    out: Path,
    scores: Mapping[str, Tensor],
    constant: Mapping[str, Tensor],
    resamples: int,
    tied: Mapping[str, Tensor] | None = None,
    steps: int | None = None,
    axis: Sequence[int] = (),
    add: bool = False,
) -> list[Path]:
    """Write the tables beside each other, each whole or not at all.

    ``-areas`` has AOPC, its gain over the random order, and ABPC, with their intervals over images;
    ``-curves`` the mean score at each step; ``-comparisons`` all pairs of methods, and each
    method with the random order, Holm's correction being made within each fill and measure;
    ``-fills`` all pairs of fills, within each measure and method; ``-steps`` the paper's methods
    by the number of replaced regions, Holm's correction likewise; ``-reliability`` how well the
    images agree on the ranking of the paper's three methods, within each fill and measure.

    Args:
        out: What the names of the files begin with.
        scores: By "fill/order/method", of shape (N, repeats, L + 1).
        constant: By the same names, which heatmaps were constant, (N,) bool.
        resamples: Draws of the bootstrap; signs are drawn `SIGN_DRAWS` times.
        tied: By the same names, how many regions of each map the lot ordered, (N,).
        steps: Take the first so many steps as L; all of them if None. The curves stay whole.
        axis: The numbers of steps in ``-steps``.
        add: Keep the rows of tables that are there, unless these have the same names.

    Returns:
        The files.
    """
    parts: dict[Key, Tensor] = {_key(name): found.double() for name, found in scores.items()}
    dead = {_key(name): int(found.sum()) for name, found in constant.items()}
    by_lot = {_key(k): found.double().mean().item() for k, found in (tied or {}).items()}
    areas = {key: _aopc(found, steps) for key, found in parts.items()}
    tables = {
        "areas": _areas(areas, dead, by_lot, resamples),
        "curves": _curves(parts),
        "comparisons": _comparisons(areas, resamples),
        "fills": _between_fills(areas, resamples),
        "steps": [row for number in axis for row in _at(number, parts, resamples)],
        "reliability": _agreed(areas),
    }
    if add:
        tables = {n: rows_beside(out, n, _NAMES[n], rows) for n, rows in tables.items() if rows}
    return [write_table(out, name, rows) for name, rows in tables.items() if rows]


def _key(name: str) -> Key:
    fill, order, method = name.split("/")
    return fill, order, method


def _aopc(scores: Tensor, steps: int | None = None) -> Tensor:
    """Samek et al. 2017, eq. 11, for each image, over the first so many steps."""
    if steps is not None and not 1 <= steps < scores.shape[2]:
        raise SystemExit(f"{steps} steps: give 1 to {scores.shape[2] - 1}, the steps of the run.")
    taken = scores if steps is None else scores[..., : steps + 1]
    return (taken[..., :1] - taken).mean(dim=(1, 2))


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
    areas: Mapping[Key, Tensor],
    dead: Mapping[Key, int],
    tied: Mapping[Key, float],
    resamples: int,
) -> list[dict[str, Any]]:
    rows = []
    for (fill, measure, method), values in _measures(areas).items():
        order = "lerf" if "lerf" in measure else "random" if measure == "aopc_random" else "morf"
        key = fill, order, method
        lot = {"constant_maps": dead[key]} | ({"tied_regions": tied[key]} if tied else {})
        rows.append(dict(zip(_NAMES["areas"], (fill, measure, method), strict=True))
                    | interval(values, resamples) | lot)  # fmt: skip
    return rows


def _curves(parts: Mapping[Key, Tensor]) -> list[dict[str, Any]]:
    return [
        {"fill": fill, "order": order, "method": method, "step": step, "mean_score": mean}
        for (fill, order, method), scores in parts.items()
        for step, mean in enumerate(scores.mean(dim=(0, 1)).tolist())
    ]


def _comparisons(areas: Mapping[Key, Tensor], resamples: int) -> list[dict[str, Any]]:
    """All pairs of methods; then each method with the random order, whose gain is given."""
    groups: dict[tuple[str, str], dict[str, Tensor]] = {}
    for (fill, measure, method), values in _measures(areas).items():
        if len(values) > 1:
            groups.setdefault((fill, measure), {})[method] = values
    differences: dict[tuple[str, ...], Pairs] = {}
    for key, methods in groups.items():
        if key[1] in _COMPARED:
            differences[key] = _pairs(methods)
        elif key[1] in _GAINS:
            differences[key] = {(method, RANDOM_ORDER): gain for method, gain in methods.items()}
    return _differences(("fill", "measure"), differences, resamples)


def _agreed(areas: Mapping[Key, Tensor]) -> list[dict[str, Any]]:
    """Krippendorff's alpha of the ranking of the paper's methods, with its alpha-beta rule."""
    groups: dict[tuple[str, str], list[Tensor]] = {}
    for (fill, measure, method), values in _measures(areas).items():
        if method in _CONTEST and measure in _COMPARED and len(values) > 1:
            groups.setdefault((fill, measure), []).append(values)
    return [
        {"fill": fill, "measure": measure, "methods": len(_CONTEST)} | reliability(stack(values))
        for (fill, measure), values in groups.items()
        if len(values) == len(_CONTEST)
    ]


def _at(steps: int, parts: Mapping[Key, Tensor], resamples: int) -> list[dict[str, Any]]:
    """The paper's methods with so many regions replaced."""
    kept = {k: p for k, p in parts.items() if k[2] in (*PAPER, RANDOM_ORDER)}
    rows = _comparisons({k: _aopc(p, steps) for k, p in kept.items()}, resamples)
    return [{"fill": row.pop("fill"), "steps": steps} | row for row in rows]


def _between_fills(areas: Mapping[Key, Tensor], resamples: int) -> list[dict[str, Any]]:
    groups: dict[tuple[str, str], dict[str, Tensor]] = {}
    for (fill, measure, method), values in _measures(areas).items():
        if measure in (*_COMPARED, "aopc_random") and len(values) > 1:
            groups.setdefault((measure, method), {})[fill] = values
    differences: dict[tuple[str, ...], Pairs] = {k: _pairs(fills) for k, fills in groups.items()}
    return _differences(("measure", "method"), differences, resamples)


def _pairs(values: Mapping[str, Tensor]) -> Pairs:
    """The differences of all pairs; none of a single entry."""
    return {(one, two): values[one] - values[two] for one, two in combinations(values, 2)}


def _differences(
    names: Sequence[str],
    groups: Mapping[tuple[str, ...], Pairs],
    resamples: int,
    seed: int = 0,
) -> list[dict[str, Any]]:
    """`evaluation.compare` for many groups at once: what is drawn for one pair serves them all.

    Args:
        names: Of the columns that tell the groups apart.
        groups: The values of these columns, with differences (N,) of the same images by pair.
        resamples: Of the bootstrap.
        seed: Of all draws.

    Returns:
        A row for each pair; Holm's correction is made within each group.
    """
    differences = [d.double() for pairs in groups.values() for d in pairs.values()]
    if not differences:
        return []
    columns = stack(differences, dim=1).numpy()
    low, high = _intervals(columns, resamples, seed)
    p_values = _sign_flips(columns, SIGN_DRAWS, seed)
    numbers = iter(zip(columns.mean(axis=0), low, high, p_values, strict=True))
    rows: list[dict[str, Any]] = []
    for key, pairs in groups.items():
        found = [next(numbers) for _ in pairs]
        adjusted = evaluation.holm([p for *_, p in found])
        for (one, two), (mean, lo, hi, p), holm in zip(pairs, found, adjusted, strict=True):
            ends = {"difference": mean, "low": lo, "high": hi, "images": len(columns)}
            which = dict(zip(names, key, strict=True)) | {"first": one, "second": two}
            rows.append(which | ends | {"p_value": p, "p_holm": holm})
    return rows


def _intervals(
    columns: NDArray[np.float64], resamples: int, seed: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """`evaluation.bootstrap` of each column of (N, P)."""
    random, images = np.random.default_rng(seed), len(columns)
    counts = np.stack([
        np.bincount(row, minlength=images)
        for part in _parts(resamples)
        for row in random.integers(images, size=(part, images))
    ]).astype(np.float64)  # fmt: skip
    ends = [
        np.quantile(counts @ columns[:, first : first + _AT_ONCE] / images, [0.025, 0.975], axis=0)
        for first in range(0, columns.shape[1], _AT_ONCE)
    ]
    low, high = np.concatenate(ends, axis=1)
    return low, high


def _sign_flips(columns: NDArray[np.float64], draws: int, seed: int) -> list[float]:
    """`evaluation.sign_flip` of each column of (N, P)."""
    random = np.random.default_rng(seed)
    reached = abs(columns.sum(axis=0)) - 1e-7 * abs(columns).sum(axis=0)  # but for rounding
    extreme = np.ones(columns.shape[1])
    for part in _parts(draws):
        signs = 2.0 * random.integers(2, size=(part, len(columns))) - 1
        extreme += (abs(signs @ columns) >= reached).sum(axis=0)
    return list((extreme / (draws + 1)).tolist())


def _parts(draws: int) -> list[int]:
    whole, rest = divmod(draws, _AT_ONCE)
    return [_AT_ONCE] * whole + [rest] * (rest > 0)


def rows_beside(
    out: Path, name: str, keys: Sequence[str], rows: list[dict[str, Any]]
) -> list[dict[str, Any]]:
    """These rows after those of the table `out`-`name`.csv, as far as that has others.

    Holm's correction is made anew over the old rows and the new ones of a group.

    Args:
        out: What the names of the files begin with.
        name: Of the table.
        keys: The columns that name a row; a group shares all of them but "first" and "second".
        rows: The new rows.
    """
    new, path = pd.DataFrame(rows), out.with_name(f"{out.name}-{name}.csv")
    names = list(keys)
    if path.exists():
        old = pd.read_csv(path, keep_default_na=False, na_values=[""])
        again = old.set_index(names).index.isin(new.set_index(names).index)
        new = pd.concat([old[~again], new], ignore_index=True)
    if "p_holm" in new:
        group = [key for key in names if key not in ("first", "second")]
        p_values = new.groupby(group, sort=False)["p_value"]
        new["p_holm"] = p_values.transform(lambda p: evaluation.holm(list(p)))
    return [{str(k): v for k, v in row.items()} for row in new.to_dict("records")]
