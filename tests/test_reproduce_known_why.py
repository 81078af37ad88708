"""The command that asks what two results of ``known-truth`` are owed to."""

import pandas as pd
import pytest
import torch
from torch import nn

from xaiutils import attribution
from xaiutils.attribution._cam import from_slopes
from xaiutils.evaluation import truth
from xaiutils.reproduce import __main__ as command
from xaiutils.reproduce import _known_why


@pytest.fixture(scope="module")
def known():
    return truth.planted_instrument("patch", 3, network=truth.PlantedCNN(10).eval())


def test_one_weight_for_all_places_is_grad_cam_and_one_for_each_is_hires_cam(known):
    found = _known_why._weighted(known)
    given = known.model, known.x, known.target
    assert torch.allclose(found["one weight for 14 x 14"], attribution.grad_cam(*given), atol=1e-6)
    finest = attribution.hires_cam(*given, relu=True)
    assert torch.allclose(found["one weight for 1 x 1"], finest, atol=1e-6)


def test_a_block_shares_the_mean_slope_of_its_places():
    maps, slopes = torch.rand(2, 3, 4, 4), torch.randn(2, 3, 4, 4)
    found = _known_why._by_blocks(2, maps, slopes)
    for n, row, column in ((0, 0, 0), (1, 1, 2), (1, 3, 3)):
        top, left = row // 2 * 2, column // 2 * 2
        total = 0.0
        for k in range(3):
            weight = slopes[n, k, top : top + 2, left : left + 2].mean().item()
            total += weight * maps[n, k, row, column].item()
        assert found[n, 0, row, column].item() == pytest.approx(max(total, 0), abs=1e-6)


def _spread(_, slopes):
    return slopes.var((2, 3), keepdim=True).sum(1, keepdim=True)


def test_a_network_that_reads_means_has_the_same_slope_at_all_places(known):
    network = truth.PlantedCNN(10, pooling="mean").eval()
    given = network, known.x, known.target
    uneven = [
        from_slopes(_spread, net, *given[1:], "features.5", None, None).max()
        for net in (network, known.model)
    ]
    assert uneven[0] < 1e-12 < uneven[1]
    assert isinstance(network.classifier[0], nn.AdaptiveAvgPool2d)


def test_the_class_against_all_others_sums_to_zero(known):
    weights = _known_why._against_all(known)
    assert torch.allclose(weights.sum(1), torch.zeros(3), atol=1e-6)
    assert weights.gather(1, known.target[:, None]).eq(1).all()


def test_gains_are_paired_differences():
    first, second = torch.rand(2, 5), torch.rand(2, 5)
    pairs = {("backdoor", "clrp", "own"): list(first), ("backdoor", "sglrp", "own"): list(first)}
    for name in _known_why._ASKED:
        for asked in ("logit", "margin"):
            pairs["backdoor", name, asked] = list(second)
    rows = pd.DataFrame(_known_why._gain_rows(pairs)).set_index("first")
    assert rows.loc["clrp own", "mean"] == pytest.approx((first - second).mean().item(), abs=1e-6)
    assert rows.loc["lrp margin", "mean"] == 0


def test_the_command_writes_its_tables(tmp_path, monkeypatch):
    train = truth.planted_network
    monkeypatch.setattr(
        truth, "planted_network", lambda rule, seed, **o: train(rule, seed, 64, **o)
    )
    monkeypatch.setattr(truth._instrument.Instrument, "sound", True)
    monkeypatch.setattr(_known_why, "_SHAPES", ("patch",))
    monkeypatch.setattr(_known_why, "_ASKED", ("lrp",))
    monkeypatch.setattr(truth, "backdoored_classifier", lambda seed: truth.PlantedCNN(10).eval())
    places = [f"--work={tmp_path / 'work'}", f"--out={tmp_path / 'table'}"]
    assert command.main(["known-truth-why", *places, "--seeds=1", "--pictures=3", "--grids=0"]) == 0
    weights = pd.read_csv(tmp_path / "table-weights.csv")
    assert set(weights["pooling"]) == {"max", "mean"}
    assert weights["mean"].between(0, 1).all()
    contrasts = pd.read_csv(tmp_path / "table-contrasts.csv")
    assert set(contrasts["asked"]) == {"logit", "margin", "mean", "own"}
    assert set(contrasts["instrument"]) == {"backdoor"}
