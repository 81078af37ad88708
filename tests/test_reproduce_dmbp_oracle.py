"""DMBP where the right answer is known: that it is right, and what the tables hold."""

import json

import pandas as pd
import pytest
import torch

from xaiutils.reproduce import __main__ as command
from xaiutils.reproduce import _dmbp_oracle as oracle


@pytest.fixture(scope="module")
def tables(tmp_path_factory):
    folder = tmp_path_factory.mktemp("oracle")
    assert command.main(["dmbp-oracle", f"--out={folder / 'table'}", "--networks=4"]) == 0
    return folder


def picture(seed):
    side = oracle.SIDE * oracle.GRID
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(1, oracle.COLOURS, side, side, dtype=torch.float64, generator=generator)


@pytest.mark.parametrize("biases", [False, True])
@torch.no_grad()
def test_blanking_a_region_costs_its_contribution_whatever_else_is_blank(biases):
    network, x = oracle.patch_network(3, biases), picture(0)
    truth = oracle.contributions(network, x)[0]
    blank, side, lost = x.clone(), oracle.SIDE, torch.zeros((), dtype=torch.float64)
    for region in (7, 0, 35, 20):
        row, column = divmod(region, oracle.GRID)
        blank[:, :, row * side : (row + 1) * side, column * side : (column + 1) * side] = 0
        lost += truth[region]
        torch.testing.assert_close((network(x) - network(blank)).squeeze(), lost)


@pytest.mark.parametrize("biases", [False, True])
@torch.no_grad()
def test_gross_evidence_adds_up_to_the_net_and_is_one_when_units_agree(biases):
    network, x = oracle.patch_network(3, biases), picture(0)
    gains, losses = oracle.gross_evidence(network, x)
    assert gains.min() >= 0 >= losses.max()
    torch.testing.assert_close(gains + losses, oracle.contributions(network, x))
    network[4].weight.abs_()  # every unit speaks for the output
    shares = network[:4](x) - network[:4](torch.zeros_like(x))
    one_way = (shares >= 0).all(1).flatten(1)
    gains, losses = oracle.gross_evidence(network, x)
    assert not losses[one_way].any()
    if not biases:
        assert one_way.all()
        torch.testing.assert_close(gains, oracle.contributions(network, x))


def test_a_positive_branch_tells_gross_evidence_and_the_gradient_tells_the_net(tables):
    means = pd.read_csv(tables / "table-measures.csv").query("network == 'without biases'")
    means = means.set_index(["method", "measure"])["mean"]
    assert means["greedy", "gross positive"] > means["input_x_gradient", "gross positive"]
    assert means["greedy", "positive"] < means["input_x_gradient", "positive"]


def test_every_network_has_regions_of_both_signs():
    for seed in range(40):
        for biases in (False, True):
            truth = oracle.contributions(oracle.patch_network(seed, biases), picture(seed))
            assert truth.min() < 0 < truth.max()


def test_without_biases_gradient_times_input_is_the_truth(tables):
    table = pd.read_csv(tables / "table-measures.csv")
    exact = table.query("network == 'without biases' and method == 'input_x_gradient'")
    exact = exact[~exact["measure"].str.startswith("gross")]
    assert set(exact["measure"]) == {"agreement", "positive", "negative"}
    assert exact["mean"].to_list() == pytest.approx([1.0] * 3, abs=1e-5)
    assert (table.query("network == 'without biases' and method == 'greedy'")["mean"] < 1).all()


def test_differences_are_image_by_image_and_ours_minus_theirs(tables):
    means = pd.read_csv(tables / "table-measures.csv").set_index(["measure", "network", "method"])
    pairs = pd.read_csv(tables / "table-comparisons.csv")
    assert len(pairs) == 5 * 2 * len(oracle.SEARCHES)
    for row in pairs.itertuples():
        own, other = (
            means.loc[(row.measure, row.network, name), "mean"] for name in (row.method, row.minus)
        )
        assert row.mean == pytest.approx(own - other, abs=1e-5)
        assert row.low <= row.mean <= row.high
        assert row.images == 4
    assert json.loads((tables / "table.json").read_text())["networks"] == 4


def test_the_greedy_masks_of_one_layer_lead_all_others():
    assert all(0 < oracle.lead(seed) < 1 for seed in range(30))


def test_one_network_is_too_few(tmp_path):
    with pytest.raises(SystemExit, match="at least 2"):
        command.main(["dmbp-oracle", f"--out={tmp_path / 'table'}", "--networks=1"])
