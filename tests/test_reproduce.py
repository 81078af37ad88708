"""The command line of the long runs, on data small enough for a test."""

import json

import pytest
import torch
from safetensors.torch import load_file

from xaiutils import data, models
from xaiutils.reproduce import __main__ as command
from xaiutils.reproduce import _provenance, _train


@pytest.fixture
def few_digits(monkeypatch):
    """`data.mnist` gives a few embedded digits that claim to be the whole."""
    found = data.mnist("test", source="embedded")
    source = data.Source("env", "the folder that XAIUTILS_DATA names")
    few = data.ImageSet("MNIST", found.images[:50], found.labels[:50], found.categories, source)
    monkeypatch.setattr(data, "mnist", lambda split: few)


@pytest.mark.parametrize("name", ["mnist_cnn", "mnist_vit"])
def test_training_stores_weights_with_their_record(few_digits, tmp_path, name):
    out = tmp_path / "weights.safetensors"
    network = name.replace("_", "-")
    assert command.main(["train", network, "--epochs", "1", "--out", str(out)]) == 0
    assert models.load_classifier(name, weights=out).source == str(out)
    record = json.loads(out.with_suffix(".json").read_text())
    assert record["plan"]["epochs"] == 1
    assert record["data"]["train"]["images"] == 50
    assert 0 <= record["accuracy"]["test"] <= 1
    assert {"python", "torch"} <= set(record["versions"])
    assert not list(tmp_path.glob("*.part"))


def test_training_on_embedded_digits_is_refused(monkeypatch, tmp_path):
    monkeypatch.delenv("XAIUTILS_DATA", raising=False)
    monkeypatch.setenv("XAIUTILS_OFFLINE", "1")
    monkeypatch.setenv("XAIUTILS_CACHE", str(tmp_path))
    with pytest.raises(SystemExit, match="XAIUTILS_DATA"):
        command.main(["train", "mnist-cnn", "--out", str(tmp_path / "x.safetensors")])


@pytest.mark.parametrize(
    ("name", "network", "least"),
    [("mnist_cnn", models.MnistCNN, 0.99), ("mnist_vit", models.MnistViT, 0.974)],
)
def test_the_stored_record_fits_the_stored_weights(name, network, least):
    folder = _train._WEIGHTS
    record = json.loads((folder / f"{name}.json").read_text())
    assert record["accuracy"]["test"] >= least
    assert record["accuracy"]["digits"] == 10_000
    assert record["data"]["train"]["images"] == 60_000
    assert set(load_file(folder / f"{name}.safetensors")) == set(network().state_dict())
    assert (folder / f"{name}.safetensors").stat().st_size < 1_000_000


@pytest.mark.parametrize("name", ["mnist_cnn", "mnist_vit"])
def test_the_recorded_command_asks_for_the_recorded_plan(name):
    record = json.loads((_train._WEIGHTS / f"{name}.json").read_text())
    words = record["command"].removeprefix("python -m xaiutils.reproduce ").split()
    options = vars(command.parser().parse_args(words))
    plan = record["plan"]
    chosen = {key: options[key] for key in ("epochs", "batch_size", "peak_lr", "seed")}
    assert chosen == {key: plan[key] for key in chosen}
    assert options["name"] == name
    assert options["out"] == _train._WEIGHTS / f"{name}.safetensors"


def test_the_recorded_command_names_no_place():
    typed = ["train", "mnist-cnn", "--out", "a/b", "--checkpoint=c", "--seed", "3"]
    expected = "python -m xaiutils.reproduce train mnist-cnn --seed 3"
    assert _provenance.command_line(typed) == expected


def test_shifting_moves_all_digits_alike_and_loses_no_ink():
    digits = torch.zeros(2, 1, 28, 28)
    digits[:, :, 14, 14] = 1
    moved = _train.random_shift(digits, torch.Generator().manual_seed(1))
    assert torch.equal(moved[0], moved[1])
    assert moved.sum() == digits.sum()
    assert not torch.equal(moved, digits)


def test_an_unknown_command_is_an_error(capsys):
    with pytest.raises(SystemExit):
        command.main(["paint"])
    assert "train" in capsys.readouterr().err
