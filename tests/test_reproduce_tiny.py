"""Networks for Tiny ImageNet and what is measured of single maps, on data small enough for a test.

The photographs stand in for Tiny ImageNet: as small as its images, each with a box.
"""

import json

import pandas as pd
import pytest
import torch
from torch import nn

from xaiutils import attribution, data, evaluation, models
from xaiutils.reproduce import __main__ as command
from xaiutils.reproduce import _train_tiny

METHODS = ("input_x_gradient", "grad_cam", "random")


@pytest.fixture
def tiny(monkeypatch):
    photos = data.photos(size=64)
    categories = tuple(dict.fromkeys(photos.categories[label] for label in photos.labels))
    names = [photos.categories[label] for label in photos.labels]
    labels = torch.tensor([categories.index(name) for name in names])
    boxes = torch.tensor([[8, 16, 40, 50]]).expand(len(photos), -1)
    source = data.Source("env", "the folder that XAIUTILS_DATA names")
    found = data.ImageSet("Tiny", photos.images, labels, categories, source, boxes=boxes)
    monkeypatch.setattr(data, "tiny_imagenet", lambda split, source="auto": found)
    return found


@pytest.fixture
def trained(tiny, tmp_path, monkeypatch):
    """A network after one epoch, where `load_classifier` looks for it."""
    monkeypatch.setenv("XAIUTILS_DATA", str(tmp_path))
    out = tmp_path / "weights" / "tiny_resnet18.safetensors"
    options = ["--architecture=resnet18", "--epochs=1", f"--out={out}"]
    assert command.main(["train", "tiny-imagenet", *options]) == 0
    return out


def measure(folder, *more):
    places = [f"--work={folder / 'work'}", f"--out={folder / 'maps'}"]
    chosen = ["--model=tiny_resnet18", "--data=tiny-imagenet", "--images=0:6"]
    options = [f"--methods={','.join(METHODS)}", "--region-size=16"]
    return command.main(["measure", *places, *chosen, *options, *more])


def test_a_trained_network_knows_its_classes_and_its_record(trained, tiny):
    for weights in ("pretrained", trained):
        network = models.load_classifier("tiny_resnet18", weights)
        assert network.categories == tiny.categories
        assert network.batch(tiny.images[:2]).shape == (2, 3, 64, 64)
        assert network.source == "tiny_resnet18.safetensors, trained by this project"
    record = json.loads(trained.with_suffix(".json").read_text())
    assert record["accuracy"]["classes"] == len(tiny.categories)
    assert record["plan"]["epochs"] == 1
    assert str(trained.parent) not in json.dumps(record)


def test_training_and_explaining_see_the_same_picture(tiny):
    seen = models.load_classifier("tiny_resnet18", "random").batch(tiny.images[:2])
    trained_on = _train_tiny.in_units(_train_tiny.as_bytes(tiny)[:2])
    assert torch.allclose(seen, trained_on, atol=1e-6)


@pytest.mark.parametrize("name", models.TINY_NETWORKS)
def test_architectures_are_torchvisions_for_small_images(name):
    module = models.tiny_network(name.removeprefix("tiny_"), 7).eval()
    assert module(torch.zeros(1, 3, 64, 64)).shape == (1, 7)
    assert sum(p.numel() for p in module.parameters()) < 25e6
    assert any(isinstance(part, nn.BatchNorm2d) for part in module.modules()) != ("vgg16" in name)


def test_weights_that_nobody_has_trained(monkeypatch):
    monkeypatch.delenv("XAIUTILS_DATA", raising=False)
    with pytest.raises(models.ModelError, match="train tiny-imagenet --architecture vgg16"):
        models.load_classifier("tiny_vgg16")


def test_measures_are_those_of_the_package(trained, tiny, tmp_path):
    measures = "--measures=occlusion,png,entropy,energy,pointing"
    assert measure(tmp_path, measures) == 0
    network = models.load_classifier("tiny_resnet18")
    x = network.batch(tiny.images[:6])
    target = network.module(x).argmax(1)
    maps = attribution.input_x_gradient(network.module, x, target)
    noise = evaluation.Uniform(network.preprocess.low, network.preprocess.high)
    falls = evaluation.region_occlusion(network.module, x, target, 16, noise)
    expected = {
        "occlusion": evaluation.occlusion_agreement(maps, falls, 16),
        "png": evaluation.png_size(maps).double(),
        "entropy": evaluation.entropy(maps),
    }
    table = pd.read_csv(tmp_path / "maps-measures.csv").set_index(["measure", "method"])
    for name, values in expected.items():
        found = table.loc[(name, "input_x_gradient"), "mean"]
        assert found == pytest.approx(values.mean().item(), rel=1e-3, abs=1e-3)
    right = int((target == tiny.labels[:6]).sum())
    assert (table.loc["occlusion", "images"] == 6).all()
    assert (table.loc["energy", "images"] == right).all()


def test_a_second_start_measures_nothing_again(trained, tmp_path, monkeypatch):
    measure(tmp_path)
    table = (tmp_path / "maps-comparisons.csv").read_text()
    monkeypatch.setattr(evaluation, "region_perturbation", None)
    monkeypatch.setitem(attribution.METHODS, "grad_cam", None)
    measure(tmp_path)
    assert (tmp_path / "maps-comparisons.csv").read_text() == table
    with pytest.raises(SystemExit, match="region"):
        measure(tmp_path, "--region-size=0")
    with pytest.raises(SystemExit, match="belongs to another run"):
        measure(tmp_path, "--seed=1")


def test_reliability_is_that_of_another_draw(trained, tiny, tmp_path):
    assert measure(tmp_path, "--reliability", "--measures=occlusion") == 0
    network = models.load_classifier("tiny_resnet18")
    x = network.batch(tiny.images[:6])
    noise = evaluation.Uniform(network.preprocess.low, network.preprocess.high)
    one, other = (
        evaluation.region_occlusion(network.module, x, None, 16, noise, seed=seed)
        for seed in (0, 1)
    )
    table = pd.read_csv(tmp_path / "maps-measures.csv").set_index("method")
    expected = evaluation.rank_correlation(one, other).mean().item()
    assert table.loc["(other noise)", "mean"] == pytest.approx(expected, abs=1e-3)


def test_boxes_are_asked_of_sets_that_have_them(tmp_path):
    options = ["--model=mnist_cnn", "--data=photos", "--measures=energy"]
    places = [f"--work={tmp_path / 'work'}", f"--out={tmp_path / 'maps'}"]
    with pytest.raises(SystemExit, match="has no boxes"):
        command.main(["measure", *places, *options])


def test_a_network_of_other_classes_is_refused(trained, tiny, tmp_path, monkeypatch):
    others = data.photos(size=64)
    monkeypatch.setattr(data, "tiny_imagenet", lambda split, source="auto": others)
    with pytest.raises(SystemExit, match=f"tells {len(tiny.categories)} classes apart"):
        measure(tmp_path)


def test_region_perturbation_runs_on_tiny_imagenet(trained, tmp_path):
    where = [f"--work={tmp_path / 'curves'}"]
    options = ["--model=tiny_resnet18", "--data=tiny-imagenet", "--images=0:2", "--repeats=1"]
    sizes = ["--region-size=16", "--steps=4", "--methods=random"]
    assert command.main(["samek", "run", *where, *options, *sizes]) == 0
    assert command.main(["samek", "merge", *where, f"--out={tmp_path / 'samek'}"]) == 0
    record = json.loads((tmp_path / "samek.json").read_text())
    assert record["data"]["name"] == "Tiny"
