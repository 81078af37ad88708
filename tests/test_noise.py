"""Maps of noisy copies: against loops, against Captum, and how their errors fall."""

from functools import partial

import captum.attr
import pytest
import torch
from small_networks import small
from torch import nn

from xaiutils import attribution
from xaiutils.attribution import Margin, smoothgrad, smoothgrad_squared, vargrad

FUNCTIONS = (smoothgrad, smoothgrad_squared, vargrad)


def copies(x, samples, noise_level=0.15, seed=0):
    """The noisy copies, one after another."""
    generator = torch.Generator().manual_seed(seed)
    for _ in range(samples):
        noise = torch.randn(x.shape[1:], generator=generator, dtype=x.dtype)
        yield torch.stack([each + noise_level * (each.max() - each.min()) * noise for each in x])


def summaries(maps):
    """Mean, mean square and variance of some maps, each with its standard error."""
    n = len(maps)
    squares, variance = maps.square(), maps.var(0)
    fourth = ((maps - maps.mean(0)) ** 4).mean(0)
    of_variance = ((fourth - (n - 3) / (n - 1) * variance**2) / n).clamp(min=0).sqrt()
    return {
        smoothgrad: (maps.mean(0), maps.std(0) / n**0.5),
        smoothgrad_squared: (squares.mean(0), squares.std(0) / n**0.5),
        vargrad: (variance, of_variance),
    }


@pytest.mark.parametrize("batch_size", [None, 1, 2, 7])
def test_each_is_a_summary_of_the_same_copies(batch_size):
    network, x = small("residual")
    maps = torch.stack([attribution.gradient(network, each, 1) for each in copies(x, 6)])
    for function, expected in summaries(maps).items():
        options = {"samples": 6, "batch_size": batch_size}
        found = function(network, x, 1, return_standard_error=True, **options)
        torch.testing.assert_close(found, expected, msg=function.__name__)
        torch.testing.assert_close(function(network, x, 1, **options), expected[0])


@pytest.mark.parametrize(
    "method",
    [
        partial(attribution.lrp, composite="epsilon"),
        partial(attribution.integrated_gradients, n_steps=3),
        attribution.grad_cam,
        lambda model, x, target, output=None, batch_size=None: x * model(x)[:, :1, None, None],
    ],
)
def test_any_method_can_be_averaged(method):
    network, x = small("bottleneck")
    maps = torch.stack([method(network, each, 1) for each in copies(x, 4)]).detach()
    for function, expected in summaries(maps).items():
        found = function(network, x, 1, method=method, samples=4, return_standard_error=True)
        torch.testing.assert_close(found, expected, msg=function.__name__)


def test_the_class_is_that_of_the_image_without_noise():
    network, x = small("residual")
    named = network(x).argmax(1)
    fixed = smoothgrad(network, x, named, samples=5, noise_level=2.0)
    by_noise = [network(each).argmax(1) for each in copies(x, 5, 2.0)]
    assert any(bool((each != named).any()) for each in by_noise)  # or nothing would be asked
    for method in (attribution.gradient, lambda *a, **k: attribution.gradient(*a, **k)):
        options = {"samples": 5, "noise_level": 2.0, "method": method}
        torch.testing.assert_close(smoothgrad(network, x, **options), fixed)
        torch.testing.assert_close(
            smoothgrad(network, x, Margin(), **options),
            smoothgrad(network, x, Margin(named), **options),
        )


def test_the_largest_of_outputs_of_several_dimensions_is_settled_too():
    decoder, x = small("autoencoder")
    chosen = decoder(x).flatten(1).argmax(1)
    places = torch.stack(torch.unravel_index(chosen, decoder(x).shape[1:]), 1)
    for method in (attribution.gradient, lambda *a, **k: attribution.gradient(*a, **k)):
        found = smoothgrad(decoder, x, samples=3, method=method)
        torch.testing.assert_close(found, smoothgrad(decoder, x, places, samples=3))


@pytest.mark.parametrize(
    ("function", "kind"),
    [(smoothgrad, "smoothgrad"), (smoothgrad_squared, "smoothgrad_sq"), (vargrad, "vargrad")],
)
def test_captum_comes_to_the_same(function, kind, monkeypatch):
    """With our noise in place of its own, drawn image by image; its variance is over n."""
    network, x = small("residual")
    samples = 5
    noisy = torch.stack(list(copies(x, samples)), 1).flatten(0, 1)
    tunnel = captum.attr.NoiseTunnel(captum.attr.Saliency(network))
    monkeypatch.setattr(torch, "normal", lambda mean, std: noisy - x.repeat_interleave(samples, 0))
    expected = tunnel.attribute(
        x, nt_type=kind, nt_samples=samples, stdevs=1.0, target=2, abs=False
    ).detach()
    if function is vargrad:
        expected *= samples / (samples - 1)
    found = function(network, x, 2, samples=samples)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-12)


def tiny():
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, 8), nn.ReLU(), nn.Linear(8, 2)
    )
    return network.double().eval(), torch.randn(1, 6, dtype=torch.float64)


def test_the_error_falls_as_one_over_the_root_of_the_samples():
    network, x = tiny()
    for function in FUNCTIONS:
        exact = function(network, x, 0, samples=4000, seed=99)
        errors = []
        for samples in (50, 800):
            found, error = function(network, x, 0, samples=samples, return_standard_error=True)
            off = (found - exact).square().mean().sqrt()
            errors.append(error.square().mean().sqrt())
            assert 0.4 < off / errors[-1] < 2.5, function.__name__
        assert 2.8 < errors[0] / errors[1] < 5.6, function.__name__  # 4 for 16 times the samples


def test_a_linear_network_has_no_variance():
    network = nn.Sequential(nn.Conv2d(3, 2, 3), nn.Flatten(), nn.Linear(18, 2)).double().eval()
    x = torch.randn(2, 3, 5, 5, dtype=torch.float64)
    assert float(vargrad(network, x, 0, samples=4).max()) < 1e-28
    torch.testing.assert_close(smoothgrad(network, x, 0), attribution.gradient(network, x, 0))


def test_the_mean_square_is_the_squared_mean_and_the_variance():
    network, x = small("residual")
    mean, square, variance = (f(network, x, 0, samples=7) for f in FUNCTIONS)
    torch.testing.assert_close(square, mean.square() + 6 / 7 * variance)


@pytest.mark.parametrize("function", FUNCTIONS)
def test_bad_options_are_refused(function):
    network, x = small("residual")
    bad = (
        ({"samples": 0}, "samples"),
        ({"samples": 1, "return_standard_error": True}, "at least 2"),
        ({"noise_level": -1.0}, "noise_level"),
        ({"noise_level": float("nan")}, "noise_level"),
        ({"batch_size": 0}, "batch_size"),
    )
    for options, words in bad:
        with pytest.raises(ValueError, match=words):
            function(network, x, 0, **options)
    with pytest.raises(TypeError, match="a map of each image, not Disentangled"):
        function(network, x, 0, samples=2, method=partial(attribution.dmbp, iterations=1))
    deeplift = partial(attribution.deeplift, return_convergence_delta=True)
    with pytest.raises(TypeError, match="not tuple"):
        function(network, x, 0, samples=2, method=deeplift)


def test_one_sample_does_not_vary():
    network, x = small("residual")
    with pytest.raises(ValueError, match="at least 2"):
        vargrad(network, x, 0, samples=1)
