"""The ledger's claims on rankings and fills follow from the tables of the runs ``controls``."""

import pandas as pd
import pytest

from xaiutils.reproduce import results
from xaiutils.reproduce._claims import _bluecher
from xaiutils.reproduce._claims._row import Claim, Effect
from xaiutils.reproduce._claims._samek import NETWORKS
from xaiutils.reproduce._claims._verdict import judge, two_sided


def tables(folder, networks, spearman, low, high):
    """Tables of the agreement of fills and of halves, as far as they are read."""
    for network in networks:
        rows = [
            {"measure": "abpc less aopc_morf", "first": "(mean)", "second": "(mean)"},
            {"measure": "abpc", "first": "(minimum)", "second": "(minimum)"},
            {"measure": "abpc", "first": "(mean)", "second": "(mean)"},
        ]
        numbers = {"spearman": spearman, "low": low, "high": high, "images": 100}
        frame = pd.DataFrame([row | numbers for row in rows])
        frame.to_csv(folder / f"controls-{network}-agreement.csv", index=False)
        halves = pd.DataFrame([{"measure": "abpc", "same_fill": 0.9, "other_fill": 0.75}])
        halves.to_csv(folder / f"controls-{network}-halves.csv", index=False)


@pytest.mark.parametrize(
    ("ends", "verdict"),
    [
        ((0.3, 0.2, 0.4), "supported"),
        ((-0.3, -0.4, -0.2), "contradicted"),
        ((0.1, -0.1, 0.3), "inconclusive"),
    ],
)
def test_the_verdict_is_that_of_the_photographs(tmp_path, ends, verdict):
    tables(tmp_path, ["squeezenet1_1", "efficientnet_lite0"], *ends)
    tables(tmp_path, ["mnist_cnn"], *[-end for end in (ends[0], ends[2], ends[1])])
    order, free = judge(_bluecher.rows(tmp_path))
    assert order.verdict == verdict
    assert free.verdict == "not testable here"
    assert [found.effect.of_kind for found in order.findings] == [True, True, False]
    assert "0.90 and 0.75 (SqueezeNet 1.1)" in free.claim.remark


def test_a_network_that_was_not_run_is_left_out(tmp_path):
    tables(tmp_path, ["mnist_cnn"], 0.3, 0.2, 0.4)
    order, _ = judge(_bluecher.rows(tmp_path))
    assert len(order.findings) == 1
    assert order.verdict == "not testable here"


def test_no_table_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError, match="agreement of fills"):
        _bluecher.rows(tmp_path)


def test_a_skewed_interval_that_includes_zero_stays_open():
    skewed = Effect("rank correlation", 0.25, -0.03, 0.36, 100)
    assert two_sided(skewed) < 0.05, "by its p-value alone it would be for the claim"
    claim = Claim("key", "It works", "Abstract", "there", "here", "order", (skewed,))
    assert judge([claim])[0].verdict == "inconclusive"


def test_the_numbers_are_those_of_the_tables():
    order, free = _bluecher.rows(results.folder())
    for claim, measure in ((order, "abpc less aopc_morf"), (free, "abpc")):
        for effect, network in zip(claim.effects, NETWORKS, strict=True):
            table = results.table(f"controls-{network}-agreement")
            row = table[(table["measure"] == measure) & (table["first"] == "(mean)")].squeeze()
            assert (effect.mean, effect.low, effect.high) == (row.spearman, row.low, row.high)
