"""The ledger's rows on Grad-LAM: which of our readings can refute what, and what none can."""

from itertools import product

import pandas as pd
import pytest

from xaiutils.reproduce._claims import _grad_lam, _ours
from xaiutils.reproduce._claims._verdict import judge

LATENT_ORDERS = (
    "element-wise, fill: the maps of other latents",
    "element-wise, fill: its map of another picture",
    "random: its own map",
    "element-wise, zero: its own map",
    "pooled, fill: its own map",
)
POOLED = "pooled, fill: its own map", "pooled, fill: its map of another picture"
UNITS = "jacobian, fill", "uniform, fill, other units"
AGAINST = (
    "random",
    "size of the change",
    "gram, zero",
    "gram, fill, another picture",
    "gram, fill, random encoder",
    "gram, fill, pooled",
    "jacobian, fill",
)


def write(folder, zero, matched):
    """Tables of both readings, with these leads over all controls, give or take 1."""
    lead = {"low": -1.0, "high": 1.0}
    pairs = [
        {"output": "reconstruction", "fill": fill, "first": "jacobian-abs-pooled", "second": rival}
        | {"difference": zero}
        | {end: zero + by for end, by in lead.items()}
        | {"images": 300}
        for fill in _grad_lam.FILLS
        for rival in ("random", "contrast", "uniform-abs-pooled")
    ]
    asked = {
        "sums": [*((_grad_lam.GRAM, rival) for rival in AGAINST), UNITS],
        "latents": [*((_grad_lam.OWN, rival) for rival in LATENT_ORDERS), POOLED],
    }
    for data in _grad_lam.BOTH.values():
        for name in ("comparisons", "planned"):
            pd.DataFrame(pairs).to_csv(folder / f"grad-lam-{data}-{name}.csv", index=False)
        for part, measures in (("sums", ("area", "correlation")), ("latents", ("swing",))):
            table = [
                {"measure": measure, "fill": fill, "first": first, "second": second}
                | {"difference": matched, "low": matched - 1, "high": matched + 1, "images": 50}
                for measure, fill, (first, second) in product(
                    measures, _grad_lam.FILLS, asked[part]
                )
            ]
            path = folder / f"gradlam-matched-{data}-{part}-planned.csv"
            pd.DataFrame(table).to_csv(path, index=False)


def by_statement(rows):
    return {row.claim.statement: row for row in judge(rows)}


def test_tests_of_our_own_do_not_refute_what_was_not_claimed(tmp_path):
    write(tmp_path, -3.0, -3.0)
    rows = judge(_grad_lam.rows(tmp_path))
    by_word = {word: [r for r in rows if word in r.claim.statement] for word in ("mean", "applied")}
    assert [len(found) for found in by_word.values()] == [2, 2]
    for row in (*by_word["mean"], *by_word["applied"]):
        assert row.verdict == "not testable here"
        assert {found.effect.mean for found in row.findings} == {-3.0}


def test_what_the_first_reading_loses_refutes_nothing(tmp_path):
    """The second, whose reference is that of the question, can be refuted by the same numbers."""
    write(tmp_path, -3.0, -3.0)
    rows = [row for row in judge(_grad_lam.rows(tmp_path)) if row.claim.kind == "order"]
    lost = {(row.claim.subject, row.verdict) for row in rows}
    assert lost == {(_grad_lam.MATCHED, "contradicted"), (_grad_lam.ZERO, "inconclusive")}


def test_both_readings_can_support(tmp_path):
    write(tmp_path, 3.0, 3.0)
    rows = judge(_grad_lam.rows(tmp_path))
    assert {row.claim.subject for row in rows} == {_grad_lam.MATCHED, _grad_lam.ZERO}
    assert {row.verdict for row in rows if row.claim.kind == "order"} == {"supported"}


def test_each_reading_is_judged_by_its_own_tables(tmp_path):
    write(tmp_path, -3.0, 4.0)
    for row in judge(_grad_lam.rows(tmp_path)):
        wanted = 4.0 if row.claim.subject == _grad_lam.MATCHED else -3.0
        assert {found.effect.mean for found in row.findings} == {wanted}, row.claim.statement


def test_the_map_of_a_latent_has_three_controls_under_three_fills_on_both_data_sets(tmp_path):
    write(tmp_path, 0.0, 4.0)
    rows = by_statement(_grad_lam.rows(tmp_path))
    measured = [found.effect.measure for found in rows[_grad_lam._LATENT].findings]
    assert len(set(measured)) == len(measured) == 3 * 3 * 2


def test_a_pair_that_a_table_lacks_is_an_error(tmp_path):
    write(tmp_path, 3.0, 3.0)
    path = tmp_path / "gradlam-matched-mnist-sums-planned.csv"
    table = pd.read_csv(path)
    table[table["second"] != "random"].to_csv(path, index=False)
    with pytest.raises(KeyError):
        _grad_lam.rows(tmp_path)


def test_what_each_part_of_the_reading_does_is_an_ablation_of_ours(tmp_path):
    write(tmp_path, 0.0, 4.0)
    rows = judge(_ours.readings(tmp_path))
    assert {row.verdict for row in rows} == {"supported"}
    assert {len(row.findings) for row in rows} == {6, 12}
    assert not any(row.claim.paper for row in rows)
