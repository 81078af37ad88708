"""The ledger: verdicts follow from the tables, and the committed ledger from the committed ones."""

import pandas as pd
import pytest

from xaiutils.reproduce import __main__ as command
from xaiutils.reproduce import results
from xaiutils.reproduce._claims import PAPERS, _samek, as_markdown
from xaiutils.reproduce._claims._row import Claim, Effect, judged

METHODS = ("lrp_alpha2_beta1", "lrp_epsilon", "deconvnet_l2", "sensitivity")


def effect(low, high):
    return Effect("mean fall of the logit", (low + high) / 2, low, high, 10)


def test_a_claim_is_confirmed_only_if_every_interval_excludes_zero():
    assert judged(effect(0.1, 1), effect(2, 3)) == "confirmed"
    assert judged(effect(0.1, 1), effect(-0.1, 3)) == "not confirmed"
    assert judged(effect(-2, -1)) == "not confirmed"


def write_tables(folder, network, gap):
    """Tables in which each method leads the next by `gap`, give or take 1, by every measure."""
    measures = ("aopc_morf", "abpc")
    pairs = [
        {"fill": "uniform", "measure": m, "first": a, "second": b, "difference": gap,
         "low": gap - 1, "high": gap + 1}
        for m in measures for i, a in enumerate(METHODS) for b in METHODS[i + 1 :]
    ]  # fmt: skip
    pd.DataFrame(pairs).to_csv(folder / f"samek-{network}-comparisons.csv", index=False)
    areas = [
        {"fill": "uniform", "measure": "aopc_morf_minus_random", "method": m, "mean": gap,
         "low": gap - 1, "high": gap + 1, "images": 7}
        for m in METHODS
    ]  # fmt: skip
    pd.DataFrame(areas).to_csv(folder / f"samek-{network}-areas.csv", index=False)
    fills = [
        {"measure": "abpc", "method": METHODS[0], "first": a, "second": b, "difference": -gap,
         "low": -gap - 1, "high": -gap + 1}
        for a, b in (("blur", "uniform"), ("dirichlet", "uniform"))
    ]  # fmt: skip
    pd.DataFrame(fills).to_csv(folder / f"samek-{network}-fills.csv", index=False)
    sizes = [
        {"measure": m, "setting": "grey", "first": a, "second": b, "difference": sign * gap,
         "low": sign * gap - 1, "high": sign * gap + 1, "images": 9}
        for m in ("png", "jpeg", "entropy")
        for a, b, sign in ((METHODS[3], METHODS[2], 1), (METHODS[0], METHODS[2], -1))
    ]  # fmt: skip
    pd.DataFrame(sizes).to_csv(folder / f"complexity-{network}-comparisons.csv", index=False)
    correlations = [
        {"output": "logit", "measure": "aopc", "method": m, "correlation": "pearson",
         "mean": 0.9, "low": 0.8, "high": 1.0, "images": 9}
        for m in (METHODS[0], "(none)")
    ]  # fmt: skip
    pd.DataFrame(correlations).to_csv(folder / "training-mnist_cnn-correlations.csv", index=False)


def claims_of(folder):
    return {claim.statement: claim for claim in _samek.rows(folder)}


def test_a_pair_is_read_whichever_way_round_it_stands(tmp_path):
    write_tables(tmp_path, "mnist_cnn", gap=2)
    claims = claims_of(tmp_path)
    better = claims["LRP finds what the network uses better than deconvolution does"]
    assert (better.effects[0].mean, better.verdict) == (2, "confirmed")
    reverse = claims["The epsilon rule is slightly ahead of alpha-beta"]
    found = reverse.effects[0]
    assert (found.mean, found.low, found.high, found.images) == (-2, -3, -1, 7)
    assert reverse.verdict == "not confirmed"
    assert "opposite direction: the digit classifier" in reverse.reason
    fills = claims["The stronger the fill, the larger the area: uniform noise before blur"]
    assert (fills.effects[0].low, fills.effects[0].high) == (1, 3)
    chance = claims["Sensitivity is no better than a random order on SUN397"]
    assert chance.effects[0].mean == -2
    for pair in ("sensitivity above deconvolution", "deconvolution above LRP"):
        assert claims[f"PNG files: {pair}"].effects[0].mean == 2
    training = claims["Over a training, the area over the perturbation curve rises with accuracy"]
    assert training.verdict == "confirmed"
    assert "digits: 0.9" in training.here


def test_one_network_that_does_not_agree_withholds_the_verdict(tmp_path):
    write_tables(tmp_path, "mnist_cnn", gap=2)
    write_tables(tmp_path, "squeezenet1_1", gap=0.5)
    claim = claims_of(tmp_path)["Deconvolution finds it better than sensitivity does"]
    assert claim.verdict == "not confirmed"
    assert claim.reason == (
        "Undecided: SqueezeNet 1.1; in the stated direction: the digit classifier."
    )


def test_without_tables_there_is_no_ledger(tmp_path):
    with pytest.raises(FileNotFoundError, match="no table for the claim"):
        _samek.rows(tmp_path)


def test_a_claim_that_could_not_be_tested_says_so():
    claim = Claim("key", "It works", "Section 1", "there", "here", (), "not testable", "No data.")
    page = as_markdown([claim])
    assert "### It works" in page
    assert "not testable" in page
    assert "{cite:p}`key`" in page


def test_the_committed_ledger_follows_from_the_committed_tables(tmp_path):
    assert PAPERS
    assert command.main(["claims", f"--out={tmp_path}"]) == 0
    for name in ("claims.csv", "claims.md"):
        assert (tmp_path / name).read_text() == (results.folder() / name).read_text(), (
            f"results/{name} is stale: run python -m xaiutils.reproduce claims"
        )


def test_every_verdict_is_one_of_three_and_has_its_interval():
    for rows in PAPERS:
        for claim in rows(results.folder()):
            assert claim.verdict in ("confirmed", "not confirmed", "not testable")
            assert bool(claim.effects) == (claim.verdict != "not testable"), claim.statement
            for found in claim.effects:
                assert found.low <= found.mean <= found.high
                assert found.images > 1


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
    effect = Effect("bytes", value, value - 0.5, value + 0.5, 9)
    assert str(effect).startswith(f"{shown} [")
