"""The ledger's rows on Grad-LAM: what can be refuted by measuring, and what can't."""

import pandas as pd
import pytest

from xaiutils.reproduce._claims import _grad_lam
from xaiutils.reproduce._claims._verdict import judge


@pytest.fixture
def tables(tmp_path):
    """Tables in which the map loses all comparisons, by a margin for which there is no excuse."""
    pairs = [
        ("reconstruction", fill, "jacobian-abs-pooled", rival, -2.0, -3.0, -1.0, 300)
        for fill in ("constant", "uniform", "blur")
        for rival in ("random", "contrast", "uniform-abs-pooled")
    ]
    columns = ["output", "fill", "first", "second", "difference", "low", "high", "images"]
    for data in ("mnist", "natural"):
        for name in ("comparisons", "planned"):
            table = pd.DataFrame(pairs, columns=columns)
            table.to_csv(tmp_path / f"grad-lam-{data}-{name}.csv", index=False)
    return tmp_path


def test_tests_of_our_own_do_not_refute_what_was_not_claimed(tables):
    meaningful, applicable, weighting = judge(_grad_lam.rows(tables))
    assert (meaningful.verdict, applicable.verdict) == ("not testable here",) * 2
    assert [len(row.findings) for row in (meaningful, applicable)] == [3, 2]
    assert {found.effect.mean for found in meaningful.findings} == {-2.0}
    assert weighting.verdict == "contradicted"
    assert [found.effect.images for found in weighting.findings] == [300, 300]


def test_the_verdict_is_on_our_reconstruction(tables):
    assert {row.subject for row in _grad_lam.rows(tables)} == {"our reconstruction of the method"}
