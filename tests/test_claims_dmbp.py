"""The ledger's rows on DMBP: one list of rivals, signs, and what is not a claim of the paper."""

import pandas as pd
import pytest

from xaiutils.reproduce._claims import _dmbp, _ours
from xaiutils.reproduce._claims._verdict import judge

START = "dmbp_greedy"
GAPS = (2, 3, 4, 5, 6, 7, 8)


def write(folder, gaps, start=2.0):
    """Tables in which DMBP stands first or second, as it comes, and leads by the gaps."""
    leads = dict(zip((*_dmbp.RIVALS, START), (*gaps, start), strict=True))
    curves = [row("abpc", "dmbp", name, gap, n % 2) for n, (name, gap) in enumerate(leads.items())]
    for run in _dmbp.CURVES.values():
        save(folder, run, curves)
    report = [row("", _dmbp.CHOSEN, f"{r}/map", leads[r], False) for r in _dmbp.RIVALS]
    save(folder, _dmbp.REPORT, report)
    single = [
        row(measure, "dmbp", name, sign * gap, True)
        for measure, sign in (("occlusion", 1), ("png", -1), ("energy", 1))
        for name, gap in leads.items()
    ]
    for run in (*_dmbp.SINGLE.values(), *_dmbp.BLURRED.values()):
        save(folder, run, single)
    write_oracles(folder, 0.2)


def row(measure, first, second, gap, turned):
    """First leads second by the gap, give or take 1; the table may name them the other way."""
    if turned:
        first, second, gap = second, first, -gap
    names = {"measure": measure, "first": first, "second": second, "difference": gap}
    return names | {"low": gap - 1, "high": gap + 1, "images": 900}


def save(folder, run, rows):
    pd.DataFrame(rows).to_csv(folder / f"{run}-comparisons.csv", index=False)


def write_oracles(folder, gap):
    numbers = {"mean": gap, "low": gap - 0.1, "high": gap + 0.1, "images": 40}
    pairs = [
        {"measure": measure, "network": kind, "method": method} | numbers
        for measure in ("agreement", "positive", "negative", "gross positive", "gross negative")
        for kind in _dmbp.KINDS
        for method in ("greedy", "purity")
    ]
    save(folder, _dmbp.ORACLE, pairs)
    lead = pd.DataFrame([{"measure": "lead", "method": "greedy"} | numbers])
    lead.to_csv(folder / f"{_dmbp.ORACLE}-measures.csv", index=False)


@pytest.mark.parametrize(
    ("gaps", "verdict"),
    [
        ((3, 3, 4, 5, 6, 7, 8), "supported"),
        ((-3, -3, -4, -5, -6, -7, -8), "contradicted"),
        ((3, 0.5, -3, -4, 5, 6, 7), "mixed"),
        ((3, 0.5, 3, 4, 5, 6, 7), "inconclusive"),
    ],
)
def test_differences_are_ours_minus_theirs(tmp_path, gaps, verdict):
    write(tmp_path, gaps)
    consistent, on_windows, alone, blurred, files, boxes, *_ = judge(_dmbp.rows(tmp_path))
    assert [effect.mean for effect in on_windows.claim.effects] == list(gaps)
    for claimed, runs in (
        (consistent, _dmbp.CURVES),
        (alone, _dmbp.SINGLE),
        (blurred, _dmbp.BLURRED),
    ):
        assert [effect.mean for effect in claimed.claim.effects] == list(gaps) * len(runs)
        assert all(e.low == e.mean - 1 and e.high == e.mean + 1 for e in claimed.claim.effects)
        assert claimed.verdict == verdict
    for shown, runs in ((files, _dmbp.SINGLE), (boxes, _dmbp.BOXED)):
        assert [effect.mean for effect in shown.claim.effects] == list(gaps) * len(runs)
        assert shown.verdict == "not testable here"  # no reader was asked


def test_all_entries_have_the_same_rivals_and_none_of_our_own(tmp_path):
    write(tmp_path, GAPS)
    for claimed in _dmbp.rows(tmp_path)[:6]:
        words = " ".join(effect.measure for effect in claimed.effects)
        assert all(f" {rival}" in words for rival in _dmbp.RIVALS)
        assert "dmbp_greedy" not in words
        assert "Not run" not in claimed.here


def test_a_rival_that_a_table_lacks_is_named(tmp_path):
    write(tmp_path, GAPS)
    save(tmp_path, _dmbp.REPORT, [row("", _dmbp.CHOSEN, "sensitivity/map", 3, False)])
    on_windows = _dmbp.rows(tmp_path)[1]
    assert len(on_windows.effects) == 1
    assert on_windows.here.endswith(
        "Not run: input_x_gradient, deconvnet, guided_backprop, grad_cam, lrp_alpha2_beta1, "
        "lrp_epsilon_plus."
    )


def test_the_networks_that_an_entry_names_are_those_that_it_measured(tmp_path):
    write(tmp_path, GAPS)
    for claimed in _dmbp.rows(tmp_path)[:6]:
        for network, short in (("SqueezeNet 1.1", "SqueezeNet"), ("VGG-11", "VGG-11")):
            measured = any(network in effect.measure for effect in claimed.effects)
            assert (short in claimed.here) == measured, claimed.statement


@pytest.mark.parametrize("gap", [0.2, -0.2])
def test_random_networks_neither_refute_nor_support(tmp_path, gap):
    write(tmp_path, GAPS)
    write_oracles(tmp_path, gap)
    whole, parts = judge(_dmbp.rows(tmp_path))[6:]
    assert [len(shown.findings) for shown in (whole, parts)] == [2, 8]
    assert {shown.verdict for shown in (whole, parts)} == {"not testable here"}
    assert all(found.effect.mean == gap for found in (*whole.findings, *parts.findings))


def test_the_search_against_its_start_is_our_own_ablation(tmp_path):
    write(tmp_path, GAPS, start=-3.0)
    *ablations, theorem = judge(_ours.rows(tmp_path))
    assert [row.verdict for row in ablations] == ["contradicted"] * 4
    assert [len(row.findings) for row in ablations] == [4, 4, 4, 2]
    assert (theorem.claim.kind, theorem.verdict) == ("theorem", "")
