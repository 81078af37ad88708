"""Autoencoders: shapes, names, training that repeats itself, and weights that keep their word."""

import copy
import json
import os
from pathlib import Path

import pytest
import torch
from torch import nn

from xaiutils import data, graph, models
from xaiutils.reproduce import __main__ as command
from xaiutils.reproduce import _train_autoencoder

NAMES = models.available_autoencoders()
WEIGHTS = Path(models.__file__).parent / "weights"


@pytest.fixture(params=NAMES)
def named(request):
    return request.param, models.load_autoencoder(request.param, weights="random")


@pytest.fixture(scope="module")
def digits():
    return data.mnist("test", source="embedded").images


@pytest.fixture
def small():
    return models.load_autoencoder("mnist_ae_2", weights="random")


def train(module, images, **options):
    plan = options.pop("plan", models.TrainingPlan(epochs=3, batch_size=16, peak_lr=4e-3))
    loss = options.pop("loss", models.reconstruction_loss)
    return models.fit(module, loss, images, images, plan, progress=False, **options)


def same_weights(first, second):
    pairs = zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


# ---------------------------------------------------------------------------- names and shapes


def test_every_name_ends_in_its_number_of_latents(named):
    name, module = named
    assert module.latents == int(name.rsplit("_", 1)[1])
    x = torch.rand(3, *module.shape, generator=torch.Generator().manual_seed(0))
    z = module.encoder(x)
    assert z.shape == (3, module.latents)
    assert module(x).shape == x.shape
    assert torch.equal(module(x), module.decoder(z))


def test_reconstructions_stay_between_black_and_white(named):
    _, module = named
    images = module.decoder(100 * torch.randn(4, module.latents))
    assert images.min() == 0
    assert images.max() == 1


def test_the_whole_network_can_be_traced_and_is_piecewise_linear(named):
    _, module = named
    x = torch.rand(2, *module.shape)
    traced = graph.trace(module, x)
    kinds = {node.operation.kind for node in traced.nodes}
    assert {"relu", "clamp", "conv2d", "conv_transpose2d"} <= kinds
    assert torch.allclose(traced(x), module(x), atol=1e-6)


def test_the_last_convolution_of_the_encoder_leaves_maps_worth_drawing(named):
    _, module = named
    nodes = graph.trace(module.encoder, torch.rand(1, *module.shape)).nodes
    side = [node.shape[-1] for node in nodes if node.operation.kind == "conv2d"][-1]
    assert side == {28: 14, 64: 16}[module.shape[-1]]


def test_random_weights_are_the_same_at_every_call_and_leave_the_generator_alone(small):
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    again = models.load_autoencoder("mnist_ae_2", weights="random")
    assert torch.rand(1) == expected
    assert same_weights(small, again)
    assert not again.training
    assert "random" in again.source


def test_an_unknown_name_is_answered_with_the_nearest():
    with pytest.raises(ValueError, match="mnist_ae_16"):
        models.load_autoencoder("mnist_ae16")
    with pytest.raises(ValueError, match="available_autoencoders"):
        models.autoencoder("§§§")


def test_images_of_another_shape_are_refused(small, digits):
    with pytest.raises(ValueError, match=r"\(N, 1, 28, 28\).*\(1, 28, 28\)"):
        small(digits[0])
    with pytest.raises(ValueError, match=r"x\[None\]"):
        models.load_autoencoder("mnist_vae_16", weights="random").posterior(digits[0])


def test_weights_of_another_size_are_refused(tmp_path, small):
    torch.save(small.state_dict(), tmp_path / "two.pt")
    with pytest.raises(models.ModelError, match="do not fit Autoencoder"):
        models.load_autoencoder("mnist_ae_8", weights=tmp_path / "two.pt")


def test_weights_are_read_from_a_file(tmp_path, small):
    nn.init.ones_(small.encoder[-1].bias)
    torch.save(small.state_dict(), tmp_path / "own.pt")
    found = models.load_autoencoder("mnist_ae_2", weights=tmp_path / "own.pt")
    assert same_weights(found, small)
    assert found.source.endswith("own.pt")


# ------------------------------------------------------------------------------------- losses


def test_the_loss_is_the_error_where_nothing_is_clamped(small, digits):
    grey = digits[:8] * 0.5 + 0.25  # no target is black or white, so every deviation counts
    unclamped = small.unclamped(small.encoder(grey))
    expected = (unclamped - grey).square().mean()
    assert torch.allclose(models.reconstruction_loss(small, grey, grey), expected)


def test_the_loss_lies_between_the_clamped_and_the_unclamped_error(small, digits):
    nn.init.normal_(small.decoder[-2].weight, std=5.0)  # outputs far beyond [0, 1]
    unclamped = small.unclamped(small.encoder(digits))
    assert unclamped.min() < -0.1
    assert unclamped.max() > 1.1
    loss = models.reconstruction_loss(small, digits, digits)
    assert (small(digits) - digits).square().mean() <= loss
    assert loss < (unclamped - digits).square().mean()


def test_the_loss_pulls_back_what_the_clamp_would_hide(small, digits):
    nn.init.constant_(small.decoder[-2].bias, -9.0)  # all black: the clamp's gradient is zero
    assert small(digits[:4]).max() == 0
    models.reconstruction_loss(small, digits[:4], digits[:4]).backward()
    assert small.decoder[-2].bias.grad < 0


def test_reconstruction_errors_are_those_of_each_image(small, digits):
    errors = models.reconstruction_error(small, digits[:7], batch_size=3)
    expected = torch.stack([nn.functional.mse_loss(small(x[None]), x[None]) for x in digits[:7]])
    assert torch.allclose(errors, expected, atol=1e-7)


def test_the_twin_encodes_to_its_posterior_mean(digits):
    twin = models.load_autoencoder("mnist_vae_16", weights="random")
    mean, log_variance = twin.posterior(digits[:5])
    assert torch.equal(mean, twin.encoder(digits[:5]))
    assert log_variance.shape == mean.shape
    assert log_variance.std() > 0


def test_the_divergence_is_that_of_normal_distributions():
    mean, log_variance = torch.randn(2, 50, generator=torch.Generator().manual_seed(0)).unbind()
    posterior = torch.distributions.Normal(mean, (log_variance / 2).exp())
    expected = torch.distributions.kl_divergence(posterior, torch.distributions.Normal(0.0, 1.0))
    assert torch.allclose(models.latent_divergence(mean, log_variance), expected, atol=1e-6)
    assert models.latent_divergence(torch.zeros(1), torch.zeros(1)) == 0


def test_the_variational_loss_without_variance_is_the_squared_error_and_the_price(digits):
    twin = models.load_autoencoder("mnist_vae_16", weights="random")
    nn.init.zeros_(twin.log_variance.weight)
    nn.init.constant_(twin.log_variance.bias, -60.0)  # a standard deviation of 1e-13
    mean, log_variance = twin.posterior(digits[:4])
    divergence = models.latent_divergence(mean, log_variance).sum(dim=1).mean()
    expected = models.reconstruction_loss(twin, digits[:4], digits[:4])
    expected = expected + 2 * twin.noise**2 / 784 * divergence
    found = models.variational_loss(twin, digits[:4], digits[:4])
    assert torch.allclose(found, expected)


# ----------------------------------------------------------------------------------- training


def test_the_same_seed_gives_the_same_network(digits):
    runs = [models.load_autoencoder("mnist_ae_2", weights="random") for _ in range(2)]
    histories = [train(module, digits[:64]) for module in runs]
    assert histories[0] == histories[1]
    assert same_weights(*runs)
    other = models.load_autoencoder("mnist_ae_2", weights="random")
    train(other, digits[:64], plan=models.TrainingPlan(3, 16, 4e-3, seed=1))
    assert not same_weights(runs[0], other)


@pytest.mark.parametrize(
    ("name", "loss"),
    [("mnist_ae_2", models.reconstruction_loss), ("mnist_vae_16", models.variational_loss)],
)
def test_a_run_that_was_stopped_and_resumed_equals_one_that_was_not(name, loss, digits, tmp_path):
    whole, halves, resumed = (models.load_autoencoder(name, weights="random") for _ in range(3))
    expected = train(whole, digits[:64], loss=loss)
    saved = tmp_path / "state.pt"
    train(halves, digits[:64], loss=loss, checkpoint=saved, after_epoch=lambda n, _: n == 2)
    torch.manual_seed(99)  # whatever happened in between
    assert train(resumed, digits[:64], loss=loss, checkpoint=saved) == expected
    assert same_weights(whole, resumed)


def test_training_leaves_the_global_generator_alone(digits):
    twin = models.load_autoencoder("mnist_vae_16", weights="random")
    torch.manual_seed(1)
    expected = torch.rand(1)
    torch.manual_seed(1)
    train(twin, digits[:32], loss=models.variational_loss)
    assert torch.rand(1) == expected


def error_falls_then_rises(errors):
    """An error that a test writes, and the weights that the network had at each call."""
    remaining, seen = list(errors), []

    def error(module):
        seen.append(copy.deepcopy(module.state_dict()))
        return remaining.pop(0)

    return error, seen


def test_training_stops_early_and_keeps_the_best_weights(small, digits):
    error, seen = error_falls_then_rises([3.0, 1.0, 2.0, 1.5, 0.0, 0.0])
    plan = models.TrainingPlan(epochs=6, batch_size=16, peak_lr=4e-3)
    stop = models.EarlyStop(error, patience=2)
    history = train(small, digits[:32], plan=plan, early_stop=stop)
    assert len(history) == 4
    assert all(torch.equal(small.state_dict()[name], t) for name, t in seen[1].items())


def test_an_early_stop_holds_after_a_resume(small, digits, tmp_path):
    plan = models.TrainingPlan(epochs=6, batch_size=16, peak_lr=4e-3)
    saved = tmp_path / "state.pt"
    error, seen = error_falls_then_rises([3.0, 1.0, 2.0, 1.5])
    stop = models.EarlyStop(error, patience=2)
    options = {"plan": plan, "checkpoint": saved, "early_stop": stop}
    train(small, digits[:32], **options, after_epoch=lambda n, _: n == 3)
    fresh = models.load_autoencoder("mnist_ae_2", weights="random")
    assert len(train(fresh, digits[:32], **options)) == 4
    assert all(torch.equal(fresh.state_dict()[name], t) for name, t in seen[1].items())
    assert len(train(fresh, digits[:32], **options)) == 4  # nothing is left to be done


def test_the_live_training_of_the_chapter_makes_progress(digits):
    """Three of its epochs, on a quarter of its digits: the error falls below a blank page's."""
    module = models.load_autoencoder("mnist_ae_16", weights="random")
    images = data.mnist("train", source="embedded").images[:1000]
    train(module, images, plan=models.TrainingPlan(epochs=3, batch_size=32, peak_lr=4e-3))
    blank = digits.square().mean()
    assert models.reconstruction_error(module, digits).mean() < 0.7 * blank


# ------------------------------------------------------------------------- the training command


@pytest.fixture
def few_images(monkeypatch, digits):
    """The loaders give a few images that claim to be the whole."""
    source = data.Source("env", "the folder that XAIUTILS_DATA names")
    labels = torch.zeros(40, dtype=torch.int64)
    few = data.ImageSet("MNIST train", digits[:40], labels, ("digit",), source)
    photos = data.photos(size=64)
    small = data.ImageSet("Tiny", photos.images, photos.labels, photos.categories, source)
    monkeypatch.setattr(data, "mnist", lambda split: few)
    monkeypatch.setattr(data, "tiny_imagenet", lambda split: small)


@pytest.mark.parametrize("name", ["mnist_ae_2", "mnist_vae_16", "natural_ae_64"])
def test_the_command_stores_weights_with_their_record(name, few_images, tmp_path, monkeypatch):
    out, typed = tmp_path / "weights.safetensors", name.replace("_", "-")
    arguments = ["train", typed, "--epochs", "1", "--out", str(out)]
    monkeypatch.setattr("sys.argv", ["xaiutils.reproduce", *arguments])
    assert command.main(arguments) == 0
    module = models.load_autoencoder(name, weights=out)
    record = json.loads(out.with_suffix(".json").read_text())
    assert record["command"] == f"python -m xaiutils.reproduce train {typed} --epochs 1"
    assert record["plan"]["epochs"] == 1
    assert record["data"]["train"]["images"] == record["error"]["images"]
    _, part = _train_autoencoder._PARTS[_train_autoencoder.RECIPES[name].data]()
    images = _train_autoencoder._brightness(_train_autoencoder.as_bytes(part))
    error = models.reconstruction_error(module, images).mean()
    assert record["error"]["test"] == pytest.approx(error.item(), abs=1e-6)


def test_there_is_a_command_for_every_autoencoder():
    assert list(_train_autoencoder.RECIPES) == NAMES


# ----------------------------------------------------------------------------- stored weights


@pytest.fixture(params=NAMES)
def stored(request):
    return (
        request.param,
        models.load_autoencoder(request.param),
        models.training_record(request.param),
    )


def test_stored_weights_are_small_and_say_how_they_came_about(stored):
    name, module, record = stored
    assert (WEIGHTS / f"{name}.safetensors").stat().st_size < 2_000_000
    assert "trained by this project" in module.source
    assert record["command"].startswith(f"python -m xaiutils.reproduce train {name[:5]}")
    assert record["data"]["train"]["images"] == {"m": 60_000, "n": 25_000}[name[0]]
    assert len(record["loss"]) == record["plan"]["epochs"]
    assert {"python", "torch"} <= set(record["versions"])


def test_stored_weights_reach_their_recorded_error_on_embedded_images(stored, digits):
    """The embedded digits come from the training set of MNIST, so they are no harder."""
    name, module, record = stored
    if name.startswith("natural"):
        pytest.skip("no part of Tiny ImageNet is embedded")
    assert models.reconstruction_error(module, digits).mean() < 1.05 * record["error"]["test"]


@pytest.mark.skipif("XAIUTILS_DATA" not in os.environ, reason="needs the full data sets")
def test_stored_weights_reach_their_recorded_error_on_the_whole_test_part(stored):
    name, module, record = stored
    _, part = _train_autoencoder._PARTS[_train_autoencoder.RECIPES[name].data]()
    images = _train_autoencoder._brightness(_train_autoencoder.as_bytes(part))
    error = models.reconstruction_error(module, images).mean().item()
    assert error == pytest.approx(record["error"]["test"], rel=1e-3)


def test_sixteen_latents_are_as_good_as_promised():
    error = models.training_record("mnist_ae_16")["error"]
    assert error["images"] == 10_000
    assert error["test"] <= 0.0075


def test_more_latents_leave_less_error():
    names = [f"mnist_ae_{latents}" for latents in (2, 8, 16, 32)]
    errors = [models.training_record(name)["error"]["test"] for name in names]
    assert errors == sorted(errors, reverse=True)


def test_the_record_of_an_unknown_name_is_an_error():
    with pytest.raises(ValueError, match="mnist_ae_2"):
        models.training_record("mnist_ae2")


def test_natural_images_are_reconstructed_better_than_by_their_own_mean_colour():
    module = models.load_autoencoder("natural_ae_64")
    photos = data.photos(size=64)
    images = _train_autoencoder._brightness(_train_autoencoder.as_bytes(photos))
    plain = (images - images.mean(dim=(2, 3), keepdim=True)).square().mean()
    assert models.reconstruction_error(module, images).mean() < 0.5 * plain
