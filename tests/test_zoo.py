"""Which networks are read: the check itself on small networks, and the committed table."""

import importlib.metadata
import re
from pathlib import Path

import captum.attr
import pytest
import torch
import zennit.torchvision
import zoo
from torch import nn

from xaiutils import attribution, graph
from xaiutils.reproduce import results

ROOT = Path(__file__).parents[1]
ROUNDING = 1e-14  # of what flows, over all layers
PAGE = ROOT / "book/which_networks.md"


@pytest.fixture(scope="module")
def measured():
    return results.table("benchmark-zoo")


@pytest.fixture(scope="module")
def read(measured):
    return measured[measured["status"] == "read"]


@pytest.mark.parametrize(
    ("library", "name"),
    [("timm", "test_resnet"), ("timm", "test_vit"), ("torchvision", "mobilenet_v3_small")],
)
def test_small_networks_are_read(library, name):
    found = zoo.row(library, name)
    assert found["status"] == "read", found
    assert found["gradient_error"] < 1e-10
    assert found["output_error"] < 1e-10
    assert max(found[column] for column in zoo.ACCOUNTS) < 1e-9
    assert found["changed"] == ""


class Sorted(nn.Module):
    """It sorts the images of a batch, so that one depends on the others."""

    def __init__(self):
        super().__init__()
        self.last = nn.Linear(3, 2)

    def forward(self, x):
        return self.last(x.mean((2, 3)).sort(0).values)


def test_a_refusal_is_told_with_its_words(monkeypatch):
    monkeypatch.setattr(zoo, "build", lambda *_: (Sorted().eval().double(), 4))
    found = zoo.row("own", "sorted")
    assert found["status"] == "refused"
    assert "sort" in found["note"]


def test_a_fault_is_no_refusal(monkeypatch):
    def broken(*_):
        raise KeyError("submod_9")

    monkeypatch.setattr(graph, "trace", broken)
    monkeypatch.setattr(zoo, "build", lambda *_: (nn.Flatten().eval(), 4))
    found = zoo.row("own", "flat")
    assert (found["status"], found["note"]) == ("failed", "KeyError: 'submod_9'")


def test_the_state_shows_every_change():
    def changes(change):
        network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).eval()
        before = zoo.state(network)
        assert zoo.differences(before, zoo.state(network)) == []
        change(network)
        return zoo.differences(before, zoo.state(network))

    assert changes(lambda net: net[0].weight.data.mul_(2)) == ["0.weight"]
    assert changes(lambda net: net[1].running_mean.add_(1)) == ["1.running_mean"]
    assert changes(lambda net: net[1].train()) == ["1:training"]
    assert changes(lambda net: net[0].weight.requires_grad_(False)) == ["0.weight"]
    assert changes(lambda net: net[0].register_forward_hook(print)) == ["0:_forward_hooks"]
    assert changes(lambda net: setattr(net[0], "extra", 3)) == ["0:extra"]
    assert changes(lambda net: net(torch.ones(1, 3, 4, 4)).sum().backward())[0] == "0.weight"
    assert changes(lambda _: torch.randn(1)) == ["RNG"]


class Halfway(nn.Module):
    """Its middle is in float32, whatever comes in."""

    def forward(self, x):
        y = x.float().exp().to(x.dtype) + x.to(torch.float32).sin().double()
        return y.flatten(1).softmax(1, dtype=torch.float32).to(x.dtype)


def test_casts_are_left_out_and_counted():
    x = torch.rand(2, 1, 2, 2, dtype=torch.float64)
    start = torch.ones(2, 4, dtype=torch.float64)
    output, _, casts = zoo.by_autograd(Halfway(), x, start)
    exact = (x.exp() + x.sin()).flatten(1).softmax(1)
    assert zoo.relative(output, exact) < 1e-15 < zoo.relative(Halfway()(x), exact)
    assert casts == 3


def test_visformer_is_inexact_only_where_batchnorm_does_not_normalise():
    network, size = zoo.build("timm", "visformer_tiny")
    drawn = torch.Generator().manual_seed(zoo.SEED)
    x = torch.randn(2, 3, size, size, generator=drawn, dtype=torch.float64)
    errors = {}
    for statistics in ("random", "data"):
        traced = graph.trace(network, x)
        record = traced.record(x, keep="gates")
        start = zoo.largest(record.output)
        error = zoo.relative(traced.backward(record, start), zoo.by_autograd(network, x, start)[1])
        errors[statistics] = error, zoo.rounding(network, x, start)
        network = zoo.normalised(network, size)
    assert 1e-13 < errors["random"][0] < 20 * errors["random"][1]
    assert max(errors["data"]) < 1e-13
    steep = errors["random"][1] > zoo.STEEP  # 9e-13 to 1e-11: the machine decides
    assert zoo.row("timm", "visformer_tiny")["statistics"] == ("data" if steep else "random")


def test_finished_networks_are_not_run_again(tmp_path, monkeypatch):
    ran = []

    def row(library, name):
        ran.append((library, name))
        return {"library": library, "network": name, "status": "read"}

    monkeypatch.setattr(zoo, "networks", lambda: [("timm", "a"), ("timm", "b")])
    monkeypatch.setattr(zoo, "row", row)
    zoo.run(tmp_path, large=False, only="timm:a")
    zoo.run(tmp_path, large=False, only="")
    assert ran == [("timm", "a"), ("timm", "b")]
    assert list(zoo.tabulate(tmp_path)["status"]) == ["read", "read"]


def test_a_network_that_takes_too_long_is_interrupted():
    def endless():
        while True:
            pass

    with pytest.raises(zoo.TooLongError):
        zoo.within(1, endless)


def test_the_table_is_of_all_networks(measured):
    assert list(zip(measured["library"], measured["network"], strict=True)) == zoo.networks()
    assert set(measured["status"]) <= set(zoo.STATUSES)
    assert len(zoo.TIMM) >= 80


def test_what_is_read_is_read_exactly(read):
    assert (read["output_error"] < 1e-10).all()
    assert (read["gradient_error"] < 1e-10).all()
    assert (read[["account_epsilon", "account_epsilon_plus"]] < 1e-9).all(axis=None)
    assert read["changed"].isna().all()


def test_the_account_is_open_only_where_the_package_warns_of_an_explosion(read):
    """There it is relative to the start that rounding is large, not to what flows."""
    attn_lrp = read[read["account_attn_lrp"] >= 1e-9]
    assert (attn_lrp["growth_attn_lrp"] > attribution.GAIN_LIMIT).all()
    assert (attn_lrp["account_attn_lrp"] < ROUNDING * attn_lrp["growth_attn_lrp"]).all()
    assert len(attn_lrp) < 0.1 * len(read)
    extreme = attn_lrp.set_index("network").loc["efficientnetv2_rw_t"]
    assert extreme["account_attn_lrp"] > 1
    assert extreme["statistics"] == "data"
    assert read["account_attn_lrp"].notna().all()


def test_the_error_of_the_gradient_is_rounding(read):
    assert (read["gradient_rounding"] < zoo.STEEP).all()
    assert (read["gradient_error"] < zoo.STEEP).all()
    assert (read["statistics"] == "data").sum() <= 5


def test_most_networks_are_read_and_the_others_named(measured):
    ran = measured[measured["status"] != "not run"]
    timm = ran[ran["library"] == "timm"]
    assert len(timm) >= 80
    assert (timm["status"] == "read").mean() >= 0.9
    unread = ran[ran["status"] != "read"]
    assert unread["note"].notna().all()


def test_the_page_shows_the_table(measured):
    written = (results.folder() / "benchmark-zoo.md").read_text(encoding="utf-8")
    assert written == zoo.as_markdown(measured)
    assert "```{include} ../results/benchmark-zoo.md\n```" in PAGE.read_text(encoding="utf-8")
    for name in measured["network"]:
        assert f"`{name}`" in written


def test_the_three_lines_of_the_page_run():
    (block,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.GELU(), nn.Flatten(), nn.Linear(16, 5))
    namespace = {"network": network, "images": torch.rand(2, 3, 4, 4)}
    exec(block, namespace)
    assert namespace["heat"].shape == (2, 3, 4, 4)


def test_what_the_page_says_of_other_tools():
    unknown = nn.Sequential(nn.Flatten(), nn.GELU(), nn.Linear(12, 5))
    with pytest.raises(TypeError, match="no rule defined"):
        captum.attr.LRP(unknown).attribute(torch.rand(1, 3, 2, 2), target=0)
    ready = {name for name in vars(zennit.torchvision) if name.endswith("Canonizer")}
    assert {"VGGCanonizer", "ResNetCanonizer"} <= ready
    page = PAGE.read_text(encoding="utf-8")
    for tool in ("captum", "zennit"):
        assert f"{tool.capitalize()} {importlib.metadata.version(tool)}" in page
