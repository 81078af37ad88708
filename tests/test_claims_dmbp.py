"""The ledger's rows on DMBP: one list of rivals, signs, and which search can refute what."""

import json

import pandas as pd
import pytest

from xaiutils.reproduce._claims import _dmbp, _dmbp_moving, _ours
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
    write_moving(folder, 0.0, 2.0, leads)


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


def write_moving(folder, cosine, rise, leads):
    """Tables of both searches: their branches, what the negative one marks, and its rivals."""
    chosen, default = _dmbp_moving.CHOSEN, _dmbp_moving.DEFAULT
    kinds = {f"cosine, {_dmbp_moving.LOOK}": cosine, "rise": rise}
    kinds |= dict.fromkeys(_dmbp_moving._LESS_STRICT, rise)
    kinds |= {f"purity_{sign}, {_dmbp_moving.LOOK}": 0.9 for sign in ("positive", "negative")}
    table = [
        {"measure": kind, "fill": fill, "candidate": candidate, "map": view, "mean": mean}
        | {"low": mean - 0.1, "high": mean + 0.1, "images": 30}
        for candidate in (chosen, default)
        for kind, mean in kinds.items()
        for fill in (_dmbp_moving.FILLS if kind.startswith("rise") else ("(none)",))
        for view in ("negative" if kind.startswith("rise") else "both",)
    ]
    candidates = {chosen: "{'learning_rate': 0.2}", default: "{'iterations': 20}"}
    record = {"separate": 0.2, "marked": 7, "perturbation": [13, 19, "uniform", 0]}
    record |= {"iterations": 41, "candidates": candidates, "model": "squeezenet1_1"}
    for number, run in enumerate((_dmbp_moving.CHOICE, *_dmbp_moving.RUNS.values())):
        record["measured"] = [number, number + 3, number + 6]
        pd.DataFrame(table).to_csv(folder / f"{run}-measures.csv", index=False)
        (folder / f"{run}.json").write_text(json.dumps(record))
    pairs = [
        row("", f"{chosen}/positive", f"{r}/map", leads[r], n % 2) for n, r in enumerate(leads)
    ]
    pairs += [row("", f"{chosen}/positive", f"{default}/positive", 3, True)]
    pairs += [row("", f"{_dmbp_moving.CONTROL}/positive", f"{chosen}/positive", 4, False)]
    for number, pair in enumerate(pairs):
        pair["p_holm"] = 0.01 if number < 2 else 0.2
    save(folder, _dmbp_moving.RUNS["SqueezeNet 1.1"], pairs)


@pytest.mark.parametrize(
    ("gaps", "verdict"),
    [
        ((3, 3, 4, 5, 6, 7, 8), "supported"),
        ((-3, -3, -4, -5, -6, -7, -8), "inconclusive"),  # its masks hardly move: not refuted
        ((3, 0.5, -3, -4, 5, 6, 7), "inconclusive"),
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
        expected = ["open" if abs(gap) < 1 else "for" if gap > 0 else "against" for gap in gaps]
        assert [found.says for found in claimed.findings] == expected * len(runs)
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
    ablations = judge(_ours.searches(tmp_path))
    assert [row.verdict for row in ablations] == ["contradicted"] * 4
    assert [len(row.findings) for row in ablations] == [4, 4, 4, 2]
    [theorem] = judge([_ours.closed_form(tmp_path)])
    assert (theorem.claim.kind, theorem.verdict) == ("theorem", "")


def moving(folder):
    return {row.claim.statement: row for row in judge(_dmbp_moving.rows(folder))}


@pytest.mark.parametrize(("cosine", "rise"), [(0.0, 2.0), (0.9, -2.0)])
def test_only_the_search_whose_masks_can_move_can_refute(tmp_path, cosine, rise):
    write(tmp_path, GAPS)
    write_moving(tmp_path, cosine, rise, dict(zip(_dmbp.RIVALS, GAPS, strict=True)))
    rows = [row for row in moving(tmp_path).values() if row.claim.kind == "order"]
    separation = [row for row in rows if row.claim.statement != _dmbp.CONTRIBUTIONS]
    assert len(separation) == 6
    refuted = {_dmbp.SECOND: "contradicted", _dmbp.FIRST: "inconclusive"}
    for row in separation:
        expected = "supported" if rise > 0 else refuted[row.claim.subject]
        assert row.verdict == expected, row.claim.statement
        assert {found.says for found in row.findings} == {"for" if rise > 0 else "against"}


def test_a_cosine_is_measured_from_the_bound_of_the_record(tmp_path):
    write(tmp_path, GAPS)
    write_moving(tmp_path, 0.15, 0.0, dict(zip(_dmbp.RIVALS, GAPS, strict=True)))
    found = _dmbp_moving.apart(tmp_path, _dmbp_moving.CHOSEN)
    assert [effect.mean for effect in found] == pytest.approx([0.05, 0.05])
    ends = [(effect.low, effect.high) for effect in found]
    assert ends == [pytest.approx((-0.05, 0.15))] * 2


def test_the_second_search_has_the_same_rivals_and_says_who_was_not_run(tmp_path):
    write(tmp_path, GAPS)
    rivals = dict(zip(_dmbp.RIVALS, GAPS, strict=True))
    row = moving(tmp_path)[_dmbp.CONTRIBUTIONS]
    assert [found.effect.mean for found in row.findings] == list(GAPS)
    assert row.verdict == "supported"
    first, second = _dmbp.RIVALS[:2]
    assert f"it is told from {first} and {second}." in row.claim.remark
    del rivals["guided_backprop"]
    write_moving(tmp_path, 0.0, 2.0, rivals)
    assert "Not run: guided_backprop." in moving(tmp_path)[_dmbp.CONTRIBUTIONS].claim.here


def test_the_set_up_of_a_search_is_that_of_its_record(tmp_path):
    write(tmp_path, GAPS)
    heres = {name: row.claim.here for name, row in moving(tmp_path).items()}
    ours, first = (here for name, here in heres.items() if "different places" in name)
    assert "SqueezeNet 1.1 (41 steps), EfficientNet-Lite0 (41 steps)" in ours
    assert "It was chosen on 3 images by another run, on squeezenet1_1; none of them" in ours
    assert "SqueezeNet 1.1 (20 steps), EfficientNet-Lite0 (20 steps)" in first
    assert "chosen" not in first
    against = [
        row.claim.here for row in moving(tmp_path).values() if "lowers" in row.claim.statement
    ]
    assert all("the 7 regions of 13 x 13 pixels" in here for here in against)


def test_images_that_chose_the_search_are_told_where_they_are_reported_on(tmp_path):
    write(tmp_path, GAPS)
    path = tmp_path / f"{_dmbp_moving.RUNS['EfficientNet-Lite0']}.json"
    record = json.loads(path.read_text())
    record["measured"].append(3)  # one of those to choose by
    path.write_text(json.dumps(record))
    heres = [row.claim.here for row in moving(tmp_path).values()]
    chosen = [here for here in heres if "It was chosen on" in here]
    both = [here for here in chosen if "EfficientNet-Lite0 (" in here]
    assert 0 < len(both) < len(chosen)
    assert both == [h for h in chosen if "; 1 of them is among those of EfficientNet-Lite0." in h]
    assert sum("; none of them is here." in here for here in chosen) == len(chosen) - len(both)


def test_a_network_on_which_a_search_was_not_run_is_not_named(tmp_path):
    write(tmp_path, GAPS)
    path = tmp_path / f"{_dmbp_moving.RUNS['EfficientNet-Lite0']}.json"
    record = json.loads(path.read_text())
    del record["candidates"][_dmbp_moving.DEFAULT]
    path.write_text(json.dumps(record))
    for row in moving(tmp_path).values():
        if row.claim.kind == "order" and row.claim.subject == _dmbp.FIRST:
            assert "EfficientNet" not in row.claim.here


def test_which_part_of_the_second_search_decides_is_our_own_ablation(tmp_path):
    write(tmp_path, GAPS)
    rows = judge(_ours.targets(tmp_path))
    assert [found.effect.mean for row in rows for found in row.findings] == [3, 4]
    assert {row.verdict for row in rows} == {"supported"}
