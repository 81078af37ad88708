"""Classifiers: names, weights, preprocessing, and errors that say what to do."""

import copy
import json
import warnings

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import nn

from xaiutils import data, models
from xaiutils.graph.errors import UnpreprocessedWarning
from xaiutils.models._classifiers import _WEIGHTS, Classifier, Preprocess


@pytest.fixture(scope="module")
def mnist_cnn():
    return models.load_classifier("mnist_cnn")


@pytest.fixture(scope="module")
def mnist_vit():
    return models.load_classifier("mnist_vit")


@pytest.fixture
def state(mnist_cnn):
    return {name: tensor.clone() for name, tensor in mnist_cnn.module.state_dict().items()}


def test_the_digit_classifier_reads_the_embedded_digits(mnist_cnn):
    digits = data.mnist("test", source="embedded")
    with torch.no_grad():
        found = mnist_cnn.module(digits.images).argmax(dim=1)
    assert (found == digits.labels).double().mean() > 0.98


def test_the_digit_transformer_reads_the_embedded_digits_as_well_as_its_record_says(mnist_vit):
    digits = data.mnist("test", source="embedded")
    with torch.no_grad():
        found = mnist_vit.module(digits.images).argmax(dim=1)
    right = (found == digits.labels).double().mean().item()
    record = json.loads((_WEIGHTS / "mnist_vit.json").read_text())
    expected = record["accuracy"]["test"]
    # They were trained on, as all embedded digits were, so they cannot be read worse but by chance.
    error = (expected * (1 - expected) / len(digits)) ** 0.5
    assert expected >= 0.974
    assert right > expected - 3 * error


def test_the_digit_transformer_is_small_and_reads_49_patches(mnist_vit):
    module = mnist_vit.module
    assert sum(parameter.numel() for parameter in module.parameters()) == 139_018
    assert module.positions.shape == (1, 1 + 49, 64)
    assert module.patches(torch.zeros(1, 1, 28, 28)).shape == (1, 64, 7, 7)
    assert len(module.blocks) == 4
    for batch in (1, 3):
        assert module(torch.zeros(batch, 1, 28, 28)).shape == (batch, 10)


def test_the_digit_transformer_can_be_loaded_and_used_like_the_other(mnist_vit):
    assert isinstance(mnist_vit.module, models.MnistViT)
    assert not any(module.training for module in mnist_vit.module.modules())
    assert mnist_vit.categories == tuple("0123456789")
    assert "trained by this project" in mnist_vit.source
    assert "mnist_vit" in models.available_classifiers()
    x = mnist_vit.batch([Image.new("L", (40, 30)), Image.new("RGB", (28, 28))])
    assert x.shape == (2, 1, 28, 28)
    with pytest.warns(UnpreprocessedWarning, match="white on black"):
        mnist_vit.top(1 - x)


def test_the_attention_of_the_digit_transformer_is_softmax_of_products(mnist_vit):
    attention = mnist_vit.module.blocks[0].attention
    x = torch.randn(2, 50, 64, generator=torch.Generator().manual_seed(0))
    query, key, value = attention.qkv(x).split(64, dim=2)
    heads = [slice(16 * head, 16 * head + 16) for head in range(4)]
    mixed = [
        (query[..., h] @ key[..., h].transpose(1, 2) / 4).softmax(dim=2) @ value[..., h]
        for h in heads
    ]
    assert torch.allclose(attention(x), attention.projection(torch.cat(mixed, 2)), atol=1e-5)


def test_the_answers_of_the_digit_transformer_depend_on_where_the_ink_is(mnist_vit):
    digits = data.mnist("test", source="embedded").images[:20]
    order = torch.randperm(49, generator=torch.Generator().manual_seed(0))
    patches = nn.functional.unfold(digits, 4, stride=4)
    shuffled = nn.functional.fold(patches[:, :, order], (28, 28), 4, stride=4)
    with torch.no_grad():
        assert not torch.allclose(mnist_vit.module(digits), mnist_vit.module(shuffled), atol=0.1)


def test_classifiers_come_in_evaluation_mode_with_their_origin(mnist_cnn):
    assert not any(module.training for module in mnist_cnn.module.modules())
    assert "trained by this project" in mnist_cnn.source
    assert mnist_cnn.categories == tuple("0123456789")


def test_random_weights_are_the_same_at_every_call_and_leave_the_generator_alone():
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    first = models.load_classifier("squeezenet1_1", weights="random")
    assert torch.rand(1) == expected
    second = models.load_classifier("squeezenet1_1", weights="random")
    pairs = zip(first.module.parameters(), second.module.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
    assert "random" in first.source


@pytest.mark.parametrize("name", ["googlenet", "inception_v3"])
def test_networks_with_auxiliary_heads_return_logits_alone(name):
    classifier = models.load_classifier(name, weights="random")
    size = classifier.preprocess.crop
    with torch.no_grad():
        assert classifier.module(torch.zeros(1, 3, size, size)).shape == (1, 1000)


def test_an_unknown_name_is_answered_with_the_nearest():
    with pytest.raises(ValueError, match="resnet50"):
        models.load_classifier("resnet_50")
    with pytest.raises(ValueError, match="available_classifiers"):
        models.load_classifier("§§§")


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_weights_are_read_from_a_file(tmp_path, state, suffix):
    path = tmp_path / f"weights{suffix}"
    state["classifier.3.bias"] += 1
    save_file(state, path) if suffix == ".safetensors" else torch.save(state, path)
    classifier = models.load_classifier("mnist_cnn", weights=path)
    assert torch.equal(classifier.module.classifier[3].bias, state["classifier.3.bias"])
    assert classifier.source == str(path)


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_a_damaged_file_is_an_error_that_names_it(tmp_path, state, suffix):
    path = tmp_path / f"weights{suffix}"
    save_file(state, path) if suffix == ".safetensors" else torch.save(state, path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(models.ModelError, match=f"weights{suffix}.*damaged"):
        models.load_classifier("mnist_cnn", weights=path)


def test_a_file_with_code_is_refused(tmp_path):
    path = tmp_path / "code.pt"
    torch.save(nn.Linear(1, 1), path)
    with pytest.raises(models.ModelError, match=r"code\.pt"):
        models.load_state_dict(path)


def test_a_missing_file_is_an_error(tmp_path):
    with pytest.raises(models.ModelError, match="No weights at"):
        models.load_classifier("mnist_cnn", weights=tmp_path / "nothing.pt")


def test_weights_of_another_architecture_are_an_error(tmp_path, state):
    path = tmp_path / "other.safetensors"
    state.pop("classifier.3.bias")
    save_file(state, path)
    with pytest.raises(models.ModelError, match=r"(?s)do not fit MnistCNN.*classifier\.3\.bias"):
        models.load_classifier("mnist_cnn", weights=path)


def test_weights_with_nan_are_an_error(tmp_path, state):
    state["classifier.3.bias"][0] = float("nan")
    save_file(state, tmp_path / "nan.safetensors")
    with pytest.raises(models.ModelError, match=r"classifier\.3\.bias holds NaN"):
        models.load_classifier("mnist_cnn", weights=tmp_path / "nan.safetensors")


def test_weights_are_found_in_the_shared_folder(tmp_path, monkeypatch):
    module = models.load_classifier("squeezenet1_1", weights="random").module
    (tmp_path / "weights").mkdir()
    save_file(module.state_dict(), tmp_path / "weights" / "squeezenet1_1.safetensors")
    monkeypatch.setenv("XAIUTILS_DATA", str(tmp_path))
    classifier = models.load_classifier("squeezenet1_1")
    assert "XAIUTILS_DATA" in classifier.source
    assert str(tmp_path) not in classifier.source


def test_without_network_the_error_names_the_remedies(tmp_path, monkeypatch):
    monkeypatch.delenv("XAIUTILS_DATA", raising=False)
    monkeypatch.setenv("XAIUTILS_OFFLINE", "1")
    with pytest.raises(models.ModelError, match=r"alexnet.*XAIUTILS_OFFLINE"):
        models.load_classifier("alexnet")


def test_preprocessing_can_be_undone():
    preprocess = Preprocess(32, 24, (0.5, 0.4, 0.3), (0.2, 0.3, 0.4))
    pixels = np.random.default_rng(0).integers(0, 256, (48, 40, 3), dtype=np.uint8)
    image = Image.fromarray(pixels)
    x = preprocess(image)
    assert x.shape == (3, 24, 24)
    assert torch.allclose(preprocess.denormalize(x), preprocess.picture(image), atol=1e-6)


def test_black_and_white_are_the_ends_of_the_range():
    preprocess = Preprocess(8, 8, (0.5,), (0.25,))
    black, white = Image.new("L", (8, 8), 0), Image.new("L", (8, 8), 255)
    assert torch.allclose(preprocess(black), preprocess.low.expand(1, 8, 8))
    assert torch.allclose(preprocess(white), preprocess.high.expand(1, 8, 8))


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "CMYK"])
def test_pictures_of_any_mode_become_the_networks_channels(mode):
    preprocess = Preprocess(8, 8, (0.5,) * 3, (0.5,) * 3)
    assert preprocess(Image.new(mode, (10, 9))).shape == (3, 8, 8)


def test_preprocess_refuses_what_is_no_picture():
    with pytest.raises(TypeError, match="PIL"):
        Preprocess(8, 8, (0.0,), (1.0,))(torch.zeros(1, 8, 8))


def test_top_names_classes_by_falling_probability(mnist_cnn):
    digits = data.mnist("test", source="embedded")
    (row,) = mnist_cnn.top(digits.images[:1], k=10)
    assert row[0][0] == str(int(digits.labels[0]))
    assert [p for _, p in row] == sorted((p for _, p in row), reverse=True)
    assert sum(p for _, p in row) == pytest.approx(1, abs=1e-5)


def loss(module, x, y):
    return nn.functional.mse_loss(module(x), y)


@pytest.fixture
def problem():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(64, 3, generator=generator)
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 1)), x, x.sum(1, keepdim=True)


def test_training_lowers_the_loss_and_ends_in_evaluation_mode(problem):
    module, x, y = problem
    plan = models.TrainingPlan(epochs=20, batch_size=8, peak_lr=0.05)
    history = models.fit(module, loss, x, y, plan, progress=False)
    assert len(history) == 20
    assert history[-1] < 0.5 * history[0]
    assert not module.training


def test_a_run_that_was_stopped_and_resumed_equals_one_that_was_not(problem, tmp_path):
    module, x, y = problem
    whole, halves = copy.deepcopy(module), copy.deepcopy(module)
    plan = models.TrainingPlan(epochs=6, batch_size=16)
    expected = models.fit(whole, loss, x, y, plan, progress=False)
    saved = tmp_path / "state.pt"
    stop = {"checkpoint": saved, "progress": False, "after_epoch": lambda epoch, _: epoch == 3}
    models.fit(halves, loss, x, y, plan, **stop)
    fresh = copy.deepcopy(module)
    history = models.fit(fresh, loss, x, y, plan, checkpoint=saved, progress=False)
    assert history == expected
    pairs = zip(whole.parameters(), fresh.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
    assert not list(tmp_path.glob("*.part"))


def test_a_checkpoint_of_another_plan_is_refused(problem, tmp_path):
    module, x, y = problem
    saved = tmp_path / "state.pt"
    models.fit(module, loss, x, y, models.TrainingPlan(epochs=1), checkpoint=saved, progress=False)
    with pytest.raises(ValueError, match="another run"):
        models.fit(module, loss, x, y, models.TrainingPlan(epochs=2), checkpoint=saved)


def test_a_loss_that_explodes_is_an_error(problem):
    module, x, y = problem
    with pytest.raises(FloatingPointError, match="peak_lr"):
        models.fit(module, loss, x, y * float("inf"), progress=False)


def test_inputs_and_targets_must_pair(problem):
    module, x, y = problem
    with pytest.raises(ValueError, match="pairs"):
        models.fit(module, loss, x, y[:-1], progress=False)


# --------------------------------------------------------------------------- what beginners do


def test_one_picture_or_none_is_an_error_that_says_what_to_do(mnist_cnn):
    picture = Image.new("L", (28, 28))
    for wrong in (picture, "digit.png", 3):
        with pytest.raises(TypeError, match=r"takes a list of pictures.*batch\(\[image\]\)"):
            mnist_cnn.batch(wrong)
    with pytest.raises(ValueError, match="at least one picture"):
        mnist_cnn.batch([])
    for wrong, words in (
        ("digit.png", r"not str; Image\.open\(path\)"),
        (np.zeros((28, 28)), r"not ndarray; Image\.fromarray\(array\)"),
        (torch.zeros(1, 28, 28), "not Tensor"),
    ):
        with pytest.raises(TypeError, match=words):
            mnist_cnn.batch([wrong])


def test_top_refuses_what_would_mislead(mnist_cnn):
    x = torch.zeros(1, 1, 28, 28)
    training = copy.deepcopy(mnist_cnn)
    training.module.train()
    with pytest.raises(ValueError, match=r"model\.eval"):
        training.top(x)
    for wrong, error, words in (
        (x[0], ValueError, r"x\[None\]"),
        (x.double(), TypeError, "convert one of them"),
        (x / 0, ValueError, "NaN"),
        (Image.new("L", (28, 28)), TypeError, r"clf\.batch"),
    ):
        with pytest.raises(error, match=words):
            mnist_cnn.top(wrong)
    for k in (0, 11):
        with pytest.raises(ValueError, match="k must be from 1 to 10"):
            mnist_cnn.top(x, k)


def test_black_digits_on_white_get_a_warning_at_the_callers_line(mnist_cnn):
    digits = data.mnist("test", source="embedded").images[:20]
    inverted = [Image.fromarray((255 * (1 - d[0])).byte().numpy()) for d in digits]
    with pytest.warns(UnpreprocessedWarning, match="white on black") as caught:
        x = mnist_cnn.batch(inverted)
    assert caught[0].filename == __file__
    with pytest.warns(UnpreprocessedWarning, match="1 - x") as caught:
        mnist_cnn.top(x)
    assert caught[0].filename == __file__
    with pytest.warns(UnpreprocessedWarning, match="from 0 to 255"):
        mnist_cnn.top(255 * digits)


def test_digits_and_photographs_as_they_should_be_get_no_warning(mnist_cnn):
    digits = data.mnist("test", source="embedded").images
    classifier = models.load_classifier("squeezenet1_1", weights="random")
    small = Classifier("other", mnist_cnn.module, classifier.preprocess, tuple("0123456789"), "")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        mnist_cnn.top(digits)
        x = classifier.batch(data.photos().images)
        for image in x:
            small._check_units(image[None])
        small._check_units(x)


def test_brightness_that_was_not_normalised_gets_a_warning():
    classifier = models.load_classifier("squeezenet1_1", weights="random")
    pictures = torch.stack([classifier.preprocess.picture(i) for i in data.photos().images])
    for x, words in ((pictures, "0 to 1 "), (255 * pictures, "0 to 255 ")):
        with pytest.warns(UnpreprocessedWarning, match=f"from {words}that were not"):
            classifier._check_units(x)
