"""Make your method win: every way of asking, and who comes first in it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import traitlets
from matplotlib.figure import Figure
from numpy.typing import NDArray

from xaiutils import plot
from xaiutils.widgets._common import Widget, pack, script, style

SURE = 0.05
_NUMBERS = ("mean", "low", "high", "p_holm")

Questions = Mapping[str, Mapping[Any, str]]


class MethodWins(Widget):
    """Choose how to ask until your method comes first.

    The page shows one row of answers for each question, and all methods with their intervals, the
    best on top. It says the place of the reader's method, whether the first is *surely* the first
    (Holm's p-value of its pair with every other method is below 0.05, within this one way of
    asking), and how many ways were tried. A button tells in how many of all ways each method
    wins, another looks for a way in which the reader's method does. Nothing is computed but
    counts: all numbers travel with the widget.

    Args:
        table: A row for each way of asking and each method, with the columns that `questions`
            name, ``method``, ``mean``, ``low``, ``high`` (in units of the output) and ``p_holm``
            (of the pair of this method and the first; for the first itself the largest). Other
            rows and columns may be there.
        questions: By column, what can be chosen: the values in the column, and the words for them.
        methods: By the value in ``method``, the name that is shown.
        smaller: Values of any column under which a small number is good.
        axis: Columns whose chosen words stand under the axis.
        method: Which is the reader's at first, by its name in the table; the first if None.
        start: By column, the answer at first; the first answer where none is named.
        labels: By column, the question in words; the column's name if it has none.

    Attributes:
        method: The number of the reader's method.
        choice: The number of the answer to each question.
        tried: The numbers of the ways that were tried, row by row as `questions` says.

    Raises:
        ValueError: There are fewer than two methods or no question, or a way of asking does not
            have exactly one row for each method, or an unknown name was given.
    """

    _esm = script("method_wins.js")
    _css = style()
    setup = traitlets.Dict().tag(sync=True)
    method = traitlets.Int(0).tag(sync=True)
    choice = traitlets.List(traitlets.Int()).tag(sync=True)
    tried = traitlets.List(traitlets.Int()).tag(sync=True)

    def __init__(
        self,
        table: pd.DataFrame,
        questions: Mapping[str, Mapping[Any, str]],
        methods: Mapping[str, str],
        *,
        smaller: Sequence[Any] = (),
        axis: Sequence[str] = (),
        method: str | None = None,
        start: Mapping[str, Any] | None = None,
        labels: Mapping[str, str] | None = None,
    ) -> None:
        mine = next(iter(methods), "") if method is None else method
        way = {name: next(iter(answers), None) for name, answers in questions.items()}
        way |= start or {}
        _check(questions, methods, axis, mine, way)
        self._numbers = _numbers(table, questions, methods)
        forks = list(product(*questions.values()))
        turned = [any(answer in smaller for answer in fork) for fork in forks]
        self._places = _places(self._numbers[..., 0], np.array(turned))
        words = {name: str((labels or {}).get(name, name)) for name in questions}
        asked = [
            {"label": words[name], "options": list(answers.values()), "axis": name in axis}
            for name, answers in questions.items()
        ]
        setup = {
            "questions": asked,
            "methods": list(methods.values()),
            "numbers": pack(self._numbers),
            "smaller": pack(turned, "uint8"),
            "sure": SURE,
        }
        number = list(methods).index(mine)
        choice = [list(answers).index(way[name]) for name, answers in questions.items()]
        tried = [forks.index(tuple(way[name] for name in questions))]
        super().__init__(setup=setup, method=number, choice=choice, tried=tried)

    @traitlets.validate("method", "choice")
    def _in_range(self, proposal: dict[str, Any]) -> Any:
        name, value = proposal["trait"].name, proposal["value"]
        if name == "method":
            given, counts = [value], [len(self.setup["methods"])]
        else:
            given, counts = value, [len(q["options"]) for q in self.setup["questions"]]
        in_range = (0 <= number < count for number, count in zip(given, counts, strict=False))
        if len(given) != len(counts) or not all(in_range):
            raise ValueError(f"{name} must be numbers below {counts}, not {value}.")
        return value

    def wins(self) -> pd.DataFrame:
        """In how many ways each method is first.

        Returns:
            A row for each method in the order given, with its `method`, `wins`, and how many of
            these are `surely` so.
        """
        first = self._places == 1
        surely = first & (self._numbers[..., 3] < SURE)
        counts = {"wins": first.sum(axis=0), "surely": surely.sum(axis=0)}
        return pd.DataFrame({"method": self.setup["methods"], **counts})

    def static_twin(self) -> Figure:
        """Draw in how many of all ways each method wins, and how often surely."""
        counts = self.wins().sort_values("wins", kind="stable")
        names, forks = counts["method"].tolist(), len(self._numbers)
        figure, ax = plt.subplots(figsize=(6, 0.7 + 0.3 * len(names)), layout="constrained")
        ax.barh(names, counts["wins"], color="0.8", label="first")
        ax.barh(names, counts["surely"], color=plot.PALETTE[0], label="surely first")
        ax.set_xlabel(f"ways of asking, of {forks}")
        ax.spines[["top", "right"]].set_visible(False)
        ax.legend(frameon=False, loc="lower right")
        said = [f"{row.method} {row.wins} ({row.surely})" for row in counts[::-1].itertuples()]
        text = f"In how many of {forks} ways of asking each method is first (surely): "
        return plot.set_alternative_text(figure, f"{text}{', '.join(said)}.")


def _check(
    questions: Questions,
    methods: Mapping[str, str],
    axis: Sequence[str],
    mine: str,
    way: Mapping[str, Any],
) -> None:
    if len(methods) < 2 or not questions or not all(questions.values()):
        raise ValueError(
            f"give two methods or more and a question or more, each with an answer, not "
            f"{list(methods)} and {dict(questions)}."
        )
    if mine not in methods:
        raise ValueError(f"method is {mine!r}: choose from {list(methods)}.")
    if unknown := set(axis) - set(questions):
        raise ValueError(f"axis names {sorted(unknown)}: the questions are {list(questions)}.")
    for name, answer in way.items():
        if answer not in questions.get(name, ()):
            raise ValueError(f"start says {name}: {answer!r}; choose from {dict(questions)}.")


def _numbers(
    table: pd.DataFrame, questions: Questions, methods: Mapping[str, str]
) -> NDArray[np.float64]:
    """Mean, ends and p-value by way and method, (ways, methods, 4)."""
    columns = [*questions, "method"]
    if missing := {*columns, *_NUMBERS} - set(table.columns):
        raise ValueError(f"the table has no column {sorted(missing)}, only {list(table.columns)}.")
    wanted = pd.MultiIndex.from_product([*questions.values(), methods], names=columns)
    rows = table.set_index(columns)[list(_NUMBERS)]
    rows = rows[rows.index.isin(wanted)]
    if rows.index.has_duplicates or len(rows) != len(wanted):
        some = rows.index[rows.index.duplicated()].union(wanted.difference(rows.index))
        raise ValueError(
            f"each way of asking must have one row for each method: {len(wanted)}, not "
            f"{len(rows)}; look at {some[0]}."
        )
    shape = (-1, len(methods), len(_NUMBERS))
    found: NDArray[np.float64] = rows.loc[wanted].to_numpy(dtype=float).reshape(shape)
    if not np.isfinite(found).all():
        raise ValueError("the table holds NaN or infinity in the rows of the game.")
    return found


def _places(means: NDArray[np.float64], turned: NDArray[np.bool_]) -> NDArray[np.int64]:
    """1 for the best, by way and method; of equals the one that is listed first."""
    good = np.where(turned[:, None], means, -means)
    found: NDArray[np.int64] = good.argsort(axis=1, kind="stable").argsort(axis=1) + 1
    return found
