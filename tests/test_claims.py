"""The ledger: verdicts follow from intervals, and the committed ledger from the tables."""

from dataclasses import replace

import pandas as pd
import pytest
import torch
from scipy import stats

from xaiutils import evaluation
from xaiutils.reproduce import __main__ as command
from xaiutils.reproduce import results
from xaiutils.reproduce._claims import PAPERS, _ours, as_markdown
from xaiutils.reproduce._claims._row import Claim, Effect
from xaiutils.reproduce._claims._verdict import judge, one_sided, two_sided, verdict

VERDICTS = {"supported", "contradicted", "mixed", "inconclusive", "not testable here"}


@pytest.fixture(scope="module")
def committed():
    """All entries of the committed tables: each paper's, and our own."""
    return {title: read(results.folder()) for title, read in PAPERS.items()}


@pytest.fixture(scope="module")
def our_own():
    return _ours.rows(results.folder())


def effect(mean, half=1.0, **more):
    """An effect with a 95 % interval of mean +- half, over a thousand images."""
    return Effect("mean fall of the logit", mean, mean - half, mean + half, 1000, **more)


def claim(*effects, kind="order", **more):
    return Claim("key", "It works", "Section 1", "there", "here", kind, effects, **more)


def verdict_of(*effects, kind="order"):
    return judge([claim(*effects, kind=kind)])[0].verdict


@pytest.mark.parametrize(
    ("means", "expected"),
    [
        ((3, 4), "supported"),
        ((-3, -4), "contradicted"),
        ((3, -3), "mixed"),
        ((3, -3, 0.1), "mixed"),
        ((3, 0.1), "inconclusive"),
        ((-3, 0.1), "inconclusive"),
        ((0.1,), "inconclusive"),
    ],
)
def test_a_claim_of_order(means, expected):
    assert verdict_of(*map(effect, means)) == expected


@pytest.mark.parametrize(
    ("mean", "half", "expected"),
    [
        (0.1, 0.5, "supported"),  # small, and known to be
        (-0.1, 0.5, "supported"),
        (1.5, 0.5, "inconclusive"),  # between the two
        (0.1, 3.0, "inconclusive"),  # nothing is known
        (50, 0.5, "contradicted"),  # an excess is no equality
        (-50, 0.5, "contradicted"),
    ],
)
def test_a_claim_of_equality_needs_a_small_difference(mean, half, expected):
    assert verdict_of(effect(mean, half, margin=1.5), kind="equivalence") == expected


def test_two_one_sided_tests_agree_with_those_on_the_images_themselves():
    draw = torch.Generator().manual_seed(1)
    differences = 0.1 + torch.randn(80, generator=draw)
    found = evaluation.bootstrap(differences)
    measured = Effect("logit", found.mean, found.low, found.high, found.images, margin=0.3)
    on_images = evaluation.equivalence(differences, 0.3)
    assert one_sided(measured)[0] == pytest.approx(on_images, abs=0.02)
    no_margin = replace(measured, margin=None)
    assert two_sided(no_margin) == pytest.approx(evaluation.sign_flip(differences), abs=0.02)


def test_the_p_value_is_that_of_student_s_t():
    found = Effect("logit", 1.0, 1.0 - 1.959964 * 0.4, 1.0 + 1.959964 * 0.4, 25)
    assert two_sided(found) == pytest.approx(2 * stats.t.sf(2.5, 24), rel=1e-5)
    assert two_sided(found.turned()) == two_sided(found)
    exact = Effect("correlation", 0.9, 0.9, 0.9, 25)  # all resamples agree
    assert one_sided(exact) == (0, 1)
    assert two_sided(Effect("correlation", 0, 0, 0, 25)) == 1


def test_other_networks_are_shown_and_decide_nothing():
    digits = effect(-5, of_kind=False)
    [row] = judge([claim(effect(3), digits)])
    assert row.verdict == "supported"
    assert [found.says for found in row.findings] == ["for", "against"]
    assert verdict_of(digits) == "not testable here"
    page = as_markdown({"A paper": [row]})
    assert "On networks of another kind: the only comparison is against it." in page
    assert "- against, of another kind: -5.00 [-6.00, -4.00]" in page


@pytest.mark.parametrize(
    ("means", "expected"),
    [((3, 4), "supported"), ((-3, -4), "inconclusive"), ((3, -3), "inconclusive")],
)
def test_without_its_best_chance_a_method_is_not_refuted(means, expected):
    [row] = judge([claim(*map(effect, means), best_chance=False)])
    assert row.verdict == expected
    assert [found.says for found in row.findings] == ["for" if m > 0 else "against" for m in means]
    assert ("refutes nothing" in as_markdown({"It": [row]})) == (min(means) < 0)


def test_more_comparisons_need_larger_effects():
    """Holm's correction is made over all claims that are judged together."""
    one = claim(effect(1.2))
    assert judge([one])[0].verdict == "supported"
    many = [one, *(claim(effect(0.01)) for _ in range(5))]
    assert judge(many)[0].verdict == "inconclusive"
    p_values = [found.p_holm for row in judge(many) for found in row.findings]
    assert p_values == evaluation.holm([two_sided(e) for row in many for e in row.effects])


@pytest.mark.parametrize(("mean", "shown"), [(3, "p < 0.001"), (0.1, "p 0.845"), (-1.0, "p 0.050")])
def test_a_line_ends_with_its_corrected_p_value(mean, shown):
    page = as_markdown({"It": judge([claim(effect(mean))])})
    assert f"(1000 images), {shown}\n" in page
    assert ", p " not in as_markdown({"It": judge([claim(effect(mean), kind="not testable")])})


def test_what_tests_no_claim_is_not_counted_among_the_comparisons():
    shown = [claim(effect(0.01), effect(0.01), kind="not testable") for _ in range(5)]
    alone, *others = judge([claim(effect(1.2)), *shown])
    assert alone.verdict == "supported"
    assert {row.verdict for row in others} == {"not testable here"}
    assert all(found.says == "" and found.p_holm is None for found in others[0].findings)


def test_without_a_comparison_there_is_no_verdict():
    assert verdict([]) == "not testable here"
    assert judge([]) == []


def test_a_claim_that_could_not_be_tested_says_so():
    page = as_markdown({"A paper": judge([claim(kind="not testable", remark="No data.")])})
    for words in ("## The claims of A paper", "### It works", "{cite:p}`key`", "No data."):
        assert words in page
    assert "**Verdict here: not testable here.**" in page
    assert "Measured\n: nothing" in page


def test_a_reconstruction_is_not_the_paper_s_method():
    rows = judge([claim(effect(-3), subject="our reconstruction")])
    assert "**Verdict here, on our reconstruction: contradicted.**" in as_markdown({"It": rows})


def test_a_long_list_is_folded_away_and_counted():
    rows = judge([claim(*(effect(3) for _ in range(12)), effect(-3), kind="not testable")])
    page = as_markdown({"A paper": rows})
    assert ":::{dropdown} Measured: 13 comparisons\n- +3.00" in page
    assert "Of 13 intervals, not corrected, 12 lie above zero and 1 below." in page


def test_theorems_of_ours_stand_in_a_table_of_their_own():
    ours = judge(
        [
            Claim("", "More is more", "Chapter 9", "", "as above", "order", (effect(3),)),
            Claim("", "One is one", "Chapter 9", "", "by counting", "theorem", (effect(3),)),
        ]
    )
    assert [row.verdict for row in ours] == ["supported", ""]
    page = as_markdown({}, ours)
    ablations, theorems = page.split("## Our own: theorems")
    assert "More is more" in ablations
    assert "| One is one | Chapter 9 | by counting | +3.00 [+2.00, +4.00]" in theorems
    assert "{cite" not in page
    assert "One is one" not in ablations


def test_the_committed_ledger_follows_from_the_committed_tables(tmp_path):
    assert command.main(["claims", f"--out={tmp_path}"]) == 0
    for name in ("claims.csv", "claims.md"):
        assert (tmp_path / name).read_text() == (results.folder() / name).read_text(), (
            f"results/{name} is stale: run python -m xaiutils.reproduce claims"
        )


@pytest.mark.parametrize("title", PAPERS)
def test_every_claim_has_its_set_up_its_verdict_and_its_intervals(title, committed):
    for row in judge(committed[title]):
        assert row.verdict in VERDICTS
        assert row.claim.there
        assert row.claim.here
        assert row.findings or row.verdict == "not testable here", row.claim.statement
        assert row.claim.remark or row.verdict != "not testable here", "it says what is missing"
        for found in row.findings:
            assert found.effect.low <= found.effect.mean <= found.effect.high
            assert found.effect.images > 1
            assert (found.effect.margin is not None) == (row.claim.kind == "equivalence")


def test_no_two_entries_have_the_same_name(committed, our_own):
    """The first page tells claims apart by what they state."""
    stated = [row.statement for rows in (*committed.values(), our_own) for row in rows]
    assert len(set(stated)) == len(stated)


def test_no_theorem_of_ours_is_credited_to_a_paper(committed, our_own):
    assert not any(row.paper for row in our_own)
    stated = {row.statement for rows in committed.values() for row in rows}
    assert not stated & {row.statement for row in our_own}
    assert not any("closed form" in words for words in stated)


def test_the_table_has_a_row_for_each_measurement():
    table = pd.read_csv(results.folder() / "claims.csv")
    assert set(table["verdict"].dropna()) <= VERDICTS
    assert table.loc[table["verdict"].isna(), "kind"].eq("theorem").all()
    tested = table["kind"].isin(["order", "equivalence"])
    assert table.loc[tested, "says"].isin(["for", "against", "open"]).all()
    assert table.loc[~tested, "says"].isna().all()


def test_a_table_that_is_not_there_is_an_error_that_lists_the_others():
    with pytest.raises(FileNotFoundError, match="it has: "):
        results.table("samek-no-such-network")
    with pytest.raises(FileNotFoundError, match=r"no-such\.json"):
        results.record("no-such")


def test_results_are_found_from_anywhere(tmp_path, monkeypatch):
    here = results.folder()
    monkeypatch.chdir(tmp_path)
    assert results.folder() == here


@pytest.mark.parametrize(
    ("value", "shown"), [(2.1, "+2.10"), (-0.0357, "-0.0357"), (123.0, "+123"), (4704.4, "+4,704")]
)
def test_numbers_have_three_digits_and_no_powers_of_ten(value, shown):
    found = Effect("bytes", value, value - 0.5, value + 0.5, 9)
    assert str(found).startswith(f"{shown} [")
    assert ", margin 0.500 (9" in str(replace(found, margin=0.5))
