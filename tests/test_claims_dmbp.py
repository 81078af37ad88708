"""The ledger's rows on DMBP: signs, and what a verdict needs."""

import pandas as pd
import pytest

from xaiutils.reproduce._claims import _dmbp


def write(folder, differences):
    """A table in which DMBP stands first or second, as it comes."""
    rows = [
        {"measure": "abpc", "first": "dmbp", "second": rival, "difference": d, "low": d - 1,
         "high": d + 1, "images": 9} if turn % 2 else
        {"measure": "abpc", "first": rival, "second": "dmbp", "difference": -d, "low": -d - 1,
         "high": -d + 1, "images": 9}
        for turn, (rival, d) in enumerate(zip(_dmbp._RIVALS, differences, strict=True))
    ]  # fmt: skip
    for run in _dmbp._RUNS.values():
        pd.DataFrame(rows).to_csv(folder / f"{run}-comparisons.csv", index=False)
    report = [
        {"first": _dmbp._CHOSEN, "second": rival, "difference": d, "low": d - 1, "high": d + 1,
         "images": 8}
        for rival, d in zip(_dmbp._BESIDE, differences, strict=True)
    ]  # fmt: skip
    pd.DataFrame(report).to_csv(folder / f"{_dmbp._REPORT}-comparisons.csv", index=False)
    write_single(folder, differences)
    write_oracles(folder, 0.2)


def write_single(folder, differences):
    """Tables in which DMBP stands second, of values half of which are better if smaller."""
    rows = [
        {"measure": measure, "first": rival, "second": "dmbp", "difference": sign * d,
         "low": sign * d - 1, "high": sign * d + 1, "images": 6}
        for measure, sign in (("occlusion", -1), ("png", 1), ("energy", -1))
        for rival, d in zip(_dmbp._OTHERS, differences, strict=True)
    ]  # fmt: skip
    for run in (*_dmbp._SINGLE.values(), *_dmbp._BLURRED.values()):
        pd.DataFrame(rows).to_csv(folder / f"{run}-comparisons.csv", index=False)


def write_oracles(folder, gap):
    """Tables in which DMBP leads gradient x input by `gap`, give or take 0.1, everywhere."""
    numbers = {"mean": gap, "low": gap - 0.1, "high": gap + 0.1, "images": 7}
    pairs = [
        {"measure": measure, "network": kind, "method": method} | numbers
        for measure in ("agreement", "positive", "negative")
        for kind in _dmbp._KINDS
        for method in ("greedy", "purity")
    ]
    pd.DataFrame(pairs).to_csv(folder / f"{_dmbp._ORACLE}-comparisons.csv", index=False)
    lead = pd.DataFrame([{"measure": "lead", "method": "greedy"} | numbers])
    lead.to_csv(folder / f"{_dmbp._ORACLE}-measures.csv", index=False)


@pytest.mark.parametrize(
    ("differences", "verdict", "sides"),
    [
        ((2, 3, 4, 5), "confirmed", (4, 0, 0)),
        ((2, 0.5, -3, -4), "not confirmed", (1, 2, 1)),
    ],
)
def test_differences_are_ours_minus_theirs(tmp_path, differences, verdict, sides):
    write(tmp_path, differences)
    consistent, on_windows, alone, blurred, files, boxes, *_ = _dmbp.rows(tmp_path)
    networks = len(_dmbp._RUNS)
    assert [effect.mean for effect in consistent.effects] == list(differences) * networks
    assert all(e.low == e.mean - 1 and e.high == e.mean + 1 for e in consistent.effects)
    assert {effect.images for effect in consistent.effects} == {9}
    reason = "Ahead of {}, behind {}, undecided in {}."
    assert consistent.reason == reason.format(*(networks * count for count in sides))
    assert consistent.verdict == verdict
    assert [effect.mean for effect in on_windows.effects] == list(differences)
    assert (on_windows.verdict, on_windows.reason) == (verdict, reason.format(*sides))
    everywhere = ((alone, _dmbp._SINGLE), (files, _dmbp._SINGLE))
    for claim, runs in (*everywhere, (blurred, _dmbp._BLURRED), (boxes, _dmbp._BOXED)):
        assert [effect.mean for effect in claim.effects] == list(differences) * len(runs)
        assert claim.verdict == verdict


@pytest.mark.parametrize(("gap", "verdict"), [(0.2, "confirmed"), (0.05, "not confirmed")])
def test_oracles_are_judged_by_every_kind_of_network(tmp_path, gap, verdict):
    write(tmp_path, (2, 3, 4, 5))
    write_oracles(tmp_path, gap)
    whole, parts, closed_form = _dmbp.rows(tmp_path)[6:]
    assert [len(claim.effects) for claim in (whole, parts, closed_form)] == [2, 4, 1]
    for claim in (whole, parts, closed_form):
        assert claim.verdict == verdict
        assert all(effect.mean == gap and effect.images == 7 for effect in claim.effects)
