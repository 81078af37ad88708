"""Grad-LAM: what must hold for every autoencoder, and the other maps against their definitions."""

import copy
import functools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_networks import prepared
from torch import nn
from torch.nn import functional as F

from xaiutils import attribution
from xaiutils.attribution import grad_lam

DECODED = ("jacobian", "gram", "removal")
seeds = st.integers(0, 10_000)
some = settings(max_examples=12, deadline=None)
both = pytest.mark.parametrize("pooled", [True, False])


class MeanAndLogVariance(nn.Module):
    def __init__(self, encoder):
        super().__init__()
        self.mean, self.log_variance = encoder, copy.deepcopy(encoder)

    def forward(self, x):
        return self.mean(x), self.log_variance(x) - 1


@functools.cache
def architecture(latents, head, linear_decoder):
    """One autoencoder of its kind, which is traced once; see `random_autoencoder`."""
    trunk = [nn.Conv2d(2, 5, 3, padding=1), nn.BatchNorm2d(5), nn.ReLU(),
             nn.Conv2d(5, 6, 3, 2, 1)]  # fmt: skip
    heads = {
        "linear": [nn.Flatten(), nn.Linear(96, latents)],
        "average": [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, latents)],
        "deep": [nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(24, 9), nn.ReLU(),
                 nn.Linear(9, latents)],
    }  # fmt: skip
    deep = [nn.Linear(latents, 12), nn.ReLU(), nn.Unflatten(1, (3, 2, 2)),
            nn.ConvTranspose2d(3, 4, 4, 2, 1), nn.BatchNorm2d(4), nn.SiLU(),
            nn.Upsample(scale_factor=2), nn.Conv2d(4, 2, 3, padding=1), nn.Sigmoid()]  # fmt: skip
    linear = [nn.Linear(latents, 128), nn.Unflatten(1, (2, 8, 8))]
    encoder = nn.Sequential(*trunk, *heads[head])
    decoder = nn.Sequential(*(linear if linear_decoder else deep))
    there, back = nn.Linear(latents, latents), nn.Linear(latents, latents)
    recoded = nn.Sequential(*encoder, there), nn.Sequential(back, *decoder)
    return encoder, decoder, recoded


def random_autoencoder(seed, latents=4, head="deep", linear_decoder=False):
    """An encoder, a decoder and images (2, 2, 8, 8), in float64, all drawn anew.

    The head after the last convolution ("3") is "linear" (a dense layer), "average" (global
    average pooling, then a dense layer) or "deep" (pooling and ReLUs on the way).
    """
    torch.manual_seed(seed)
    networks = architecture(latents, head, linear_decoder)[:2]
    for number, network in enumerate(networks):
        for layer in network.double():  # before the draws, which depend on the type
            if hasattr(layer, "reset_parameters"):
                layer.reset_parameters()
        prepared(network, seed + number)
    return *networks, torch.randn(2, 2, 8, 8, dtype=torch.float64)


def recoded(encoder, decoder, matrix, shift=None):
    """The same autoencoder with the code ``matrix z + shift`` in the place of z."""
    head = {6: "linear", 7: "average", 10: "deep"}[len(encoder)]
    encoder, decoder = architecture(len(matrix), head, False)[2]
    for network in (encoder, decoder):
        network.double().eval()
    there, back = encoder[-1], decoder[0]
    shift = torch.zeros(len(matrix), dtype=matrix.dtype) if shift is None else shift
    inverse = torch.linalg.inv(matrix)
    there.weight.data, there.bias.data = matrix.clone(), shift.clone()
    back.weight.data, back.bias.data = inverse, -inverse @ shift
    return encoder, decoder


def jacobian(decoder, z):
    """By reverse mode, image after image: (N, J, pixels)."""
    each = [torch.autograd.functional.jacobian(decoder, row[None]).squeeze() for row in z]
    return torch.stack([found.flatten(0, -2).T for found in each])


def slow_maps(encoder, x, pooled, last=3):
    """The maps of the latents from their definition, one latent after another."""
    features = encoder[: last + 1](x).detach().requires_grad_()
    codes = encoder[last + 1 :](features)
    maps = []
    for j in range(codes.shape[1]):
        slopes = torch.autograd.grad(codes[:, j].sum(), features, retain_graph=True)[0]
        weights = slopes.mean((2, 3), keepdim=True) if pooled else slopes
        maps.append((weights * features).sum(1))
    return torch.stack(maps, 1).detach()


def same(a, b):
    torch.testing.assert_close(a, b, rtol=1e-7, atol=1e-9)


# --------------------------------------------------------------------------- from the definition


@both
@given(seed=seeds)
@some
def test_maps_and_aggregates_from_their_definition(seed, pooled):
    encoder, decoder, x = random_autoencoder(seed)
    maps = slow_maps(encoder, x, pooled)
    z = encoder(x).detach()
    columns = jacobian(decoder, z)
    gram = columns @ columns.transpose(1, 2)
    lengths = columns.norm(dim=2)
    expected = {
        "uniform": maps.abs().sum(1),
        "abs_latent": (z.abs()[..., None, None] * maps.abs()).sum(1),
        "jacobian": (lengths[..., None, None] * maps.abs()).sum(1),
        "gram": torch.einsum("njhw,njk,nkhw->nhw", maps, gram, maps).sqrt(),
    }
    for weighting, small in expected.items():
        found = grad_lam(encoder, decoder, x, "3", weighting, pooled=pooled)
        same(found.maps, maps)
        same(found.latents, z)
        large = F.interpolate(small[:, None], (8, 8), mode="bilinear", align_corners=False)[:, 0]
        same(found.aggregate, large)
        assert found.layer == "3"
    same(attribution.decoder_norms(decoder, z), lengths)
    same(attribution.decoder_gram(decoder, z), gram)


@given(seed=seeds)
@some
def test_jacobian_against_finite_differences(seed):
    _, decoder, _ = random_autoencoder(seed)
    z, step = torch.randn(2, 4, dtype=torch.float64), 1e-6
    for j, unit in enumerate(torch.eye(4, dtype=torch.float64)):
        slope = (decoder(z + step * unit) - decoder(z - step * unit)) / (2 * step)
        found = attribution.decoder_norms(decoder, z)[:, j]
        torch.testing.assert_close(found, slope.flatten(1).norm(dim=1), rtol=1e-4, atol=1e-6)


@given(seed=seeds)
@some
def test_removal_is_the_finite_slope_and_its_limit(seed):
    encoder, decoder, x = random_autoencoder(seed)
    z, reference = encoder(x).detach(), torch.randn(4, dtype=torch.float64)
    found = grad_lam(encoder, decoder, x, weighting="removal", reference=reference).weights
    for j in range(4):
        moved = z.clone()
        moved[:, j] = reference[j]
        change = (decoder(moved) - decoder(z)).flatten(1).norm(dim=1)
        same(found[:, j], change / (z - reference)[:, j].abs())
    here = grad_lam(encoder, decoder, x[:1], weighting="removal", reference=z[0])
    same(here.weights, attribution.decoder_norms(decoder, z[:1]))


@both
@given(seed=seeds)
@some
def test_gram_is_grad_cam_of_the_reconstruction_as_a_vector(seed, pooled):
    """The norm over the output pixels of the Grad-CAM map of every one of them."""
    encoder, decoder, x = random_autoencoder(seed)
    small = slow_maps(nn.Sequential(*encoder, *decoder, nn.Flatten()), x, pooled)
    expected = F.interpolate(small.norm(dim=1)[:, None], (8, 8), mode="bilinear")[:, 0]
    same(grad_lam(encoder, decoder, x, "3", "gram", pooled=pooled).aggregate, expected)


# ------------------------------------------------------------- transformations of the latent space


@pytest.mark.parametrize("weighting", DECODED)
@both
@given(seed=seeds, factors=st.lists(st.sampled_from([-50.0, -2.0, -0.1, 0.3, 20.0]),
                                    min_size=4, max_size=4))  # fmt: skip
@some
def test_scaling_latents_changes_maps_and_weights_but_no_aggregate(
    weighting, pooled, seed, factors
):
    encoder, decoder, x = random_autoencoder(seed)
    scales = torch.tensor(factors, dtype=torch.float64)
    before = grad_lam(encoder, decoder, x, "3", weighting, pooled=pooled)
    after = grad_lam(*recoded(encoder, decoder, scales.diag()), x, "3", weighting, pooled=pooled)
    same(after.maps, scales[:, None, None] * before.maps)
    same(after.weights, before.weights / scales.abs())
    same(after.aggregate, before.aggregate)


@pytest.mark.parametrize("rectify", ["relu", "square"])
@given(seed=seeds)
@some
def test_a_change_of_sign_is_seen_by_the_relu_alone(rectify, seed):
    encoder, decoder, x = random_autoencoder(seed, head="linear")
    flipped = recoded(encoder, decoder, -torch.eye(4, dtype=torch.float64))
    for weighting in ("jacobian", "gram"):
        before = grad_lam(encoder, decoder, x, "3", weighting, rectify=rectify).aggregate
        after = grad_lam(*flipped, x, "3", weighting, rectify=rectify).aggregate
        assert torch.allclose(before, after) == (rectify == "square")


@given(seed=seeds)
@some
def test_relu_does_not_change_under_positive_scaling(seed):
    encoder, decoder, x = random_autoencoder(seed)
    scaled = recoded(encoder, decoder, torch.tensor([0.1, 2.0, 7.0, 30.0]).double().diag())
    before = grad_lam(encoder, decoder, x, "3", rectify="relu").aggregate
    same(grad_lam(*scaled, x, "3", rectify="relu").aggregate, before)


@pytest.mark.parametrize("weighting", attribution.WEIGHTINGS)
@both
@given(seed=seeds, order=st.permutations(range(4)))
@some
def test_permuting_latents_permutes_maps_and_weights(weighting, pooled, seed, order):
    encoder, decoder, x = random_autoencoder(seed)
    permuted = recoded(encoder, decoder, torch.eye(4, dtype=torch.float64)[list(order)])
    before = grad_lam(encoder, decoder, x, "3", weighting, pooled=pooled)
    after = grad_lam(*permuted, x, "3", weighting, pooled=pooled)
    same(after.maps, before.maps[:, list(order)])
    same(after.weights, before.weights[:, list(order)])
    same(after.aggregate, before.aggregate)


@both
@given(seed=seeds)
@some
def test_gram_does_not_depend_on_the_basis_and_the_others_do(pooled, seed):
    encoder, decoder, x = random_autoencoder(seed, head="linear")
    matrix = torch.linalg.qr(torch.randn(4, 4, dtype=torch.float64))[0]
    matrix = matrix @ torch.tensor([0.5, 1.0, 2.0, 3.0], dtype=torch.float64).diag()
    moved = recoded(encoder, decoder, matrix)

    def change(weighting):
        before = grad_lam(encoder, decoder, x, "3", weighting, pooled=pooled).aggregate
        after = grad_lam(*moved, x, "3", weighting, pooled=pooled).aggregate
        return float(((after - before).norm() / before.norm()).detach())

    assert change("gram") < 1e-7
    assert all(change(name) > 1e-4 for name in ("jacobian", "uniform", "abs_latent"))


@pytest.mark.parametrize("weighting", DECODED)
@both
@given(seed=seeds)
@some
def test_shifting_latents_with_compensation_changes_nothing(weighting, pooled, seed):
    encoder, decoder, x = random_autoencoder(seed)
    shift = torch.randn(4, dtype=torch.float64)
    moved = recoded(encoder, decoder, torch.eye(4, dtype=torch.float64), shift)
    before = grad_lam(encoder, decoder, x, "3", weighting, pooled=pooled)
    after = grad_lam(*moved, x, "3", weighting, pooled=pooled, reference=shift)
    same(after.maps, before.maps)
    same(after.weights, before.weights)
    same(after.aggregate, before.aggregate)


# ------------------------------------------------------------------------------- special networks


@pytest.mark.parametrize("weighting", DECODED)
@both
@given(seed=seeds)
@some
def test_a_latent_that_the_decoder_ignores_counts_for_nothing(weighting, pooled, seed):
    encoder, decoder, x = random_autoencoder(seed)
    decoder[0].weight.data[:, 2] = 0
    found = grad_lam(encoder, decoder, x, weighting=weighting, pooled=pooled)
    same(found.weights[:, 2], torch.zeros(2, dtype=torch.float64))
    assert bool((found.weights[:, 0] > 0).any())
    encoder[-1].weight.data[2] *= 5  # its map grows, and is still not seen
    again = grad_lam(encoder, decoder, x, weighting=weighting, pooled=pooled)
    same(again.aggregate, found.aggregate)


@given(seed=seeds)
@some
def test_maps_of_an_averaging_encoder_are_complete(seed):
    encoder, decoder, x = random_autoencoder(seed, head="average")
    found = grad_lam(encoder, decoder, x)
    same(found.maps.sum((2, 3)), found.latents - encoder[-1].bias)


@given(seed=seeds)
@some
def test_elementwise_maps_of_a_linear_head_are_complete_and_pooled_ones_are_not(seed):
    encoder, decoder, x = random_autoencoder(seed, head="linear")
    expected = encoder(x) - encoder[-1].bias
    same(grad_lam(encoder, decoder, x, pooled=False).maps.sum((2, 3)), expected)
    pooled = grad_lam(encoder, decoder, x).maps.sum((2, 3))
    assert not torch.allclose(pooled, expected, rtol=1e-3)


@pytest.mark.parametrize("weighting", attribution.WEIGHTINGS)
@both
@given(seed=seeds)
@some
def test_nothing_is_seen_where_all_features_are_zero(weighting, pooled, seed):
    encoder, decoder, x = random_autoencoder(seed)
    found = grad_lam(encoder, decoder, x, "4", weighting, pooled=pooled)
    silent = (encoder[:5](x) == 0).all(dim=1)
    assert bool((found.maps[silent[:, None].expand_as(found.maps)] == 0).all())
    encoder[3].weight.data.zero_()
    encoder[3].bias.data.fill_(-1.0)
    dead = grad_lam(encoder, decoder, x, "4", weighting, pooled=pooled)
    assert not dead.maps.any()
    assert not dead.aggregate.any()


@given(seed=seeds)
@some
def test_weights_of_a_linear_decoder_do_not_depend_on_the_image(seed):
    encoder, decoder, x = random_autoencoder(seed, linear_decoder=True)
    columns = decoder[0].weight.norm(dim=0).expand(2, 4).detach()
    for weighting in DECODED:
        same(grad_lam(encoder, decoder, x, weighting=weighting).weights, columns)


@both
@given(seed=seeds)
@some
def test_one_latent_has_one_aggregate(pooled, seed):
    encoder, decoder, x = random_autoencoder(seed, latents=1)
    for rectify in ("abs", "relu", "square"):
        one, other = (
            grad_lam(encoder, decoder, x, weighting=weighting, rectify=rectify, pooled=pooled)
            for weighting in ("jacobian", "gram")
        )
        same(one.aggregate, other.aggregate)


# ---------------------------------------------------------------------------------------- the call


@pytest.mark.parametrize("weighting", attribution.WEIGHTINGS)
def test_chunks_change_nothing_and_the_networks_are_left_alone(weighting):
    encoder, decoder, x = random_autoencoder(3, latents=5)
    kept = copy.deepcopy((encoder.state_dict(), decoder.state_dict()))
    whole = grad_lam(encoder, decoder, x, weighting=weighting)
    for sizes in ({"latent_batch_size": 1}, {"latent_batch_size": 2}, {"batch_size": 1}):
        cut = grad_lam(encoder, decoder, x, weighting=weighting, **sizes)
        for name in ("maps", "weights", "aggregate", "latents"):
            same(getattr(cut, name), getattr(whole, name))
            assert not getattr(cut, name).requires_grad
    for network, state in zip((encoder, decoder), kept, strict=True):
        assert all(torch.equal(v, state[k]) for k, v in network.state_dict().items())


def test_any_layer_by_its_name():
    encoder, decoder, x = random_autoencoder(5)
    named = nn.Sequential()
    named.add_module("features", nn.Sequential(*encoder[:4]))
    named.add_module("head", nn.Sequential(*encoder[4:]))
    named.eval()
    found = grad_lam(named, decoder, x, layer="features.2")
    assert found.maps.shape == (2, 4, 8, 8)
    same(found.maps, slow_maps(encoder, x, True, last=2))
    same(grad_lam(named, decoder, x, "features").maps, slow_maps(encoder, x, True))


@pytest.mark.parametrize(("head", "layer"), [("linear", "3"), ("average", "3"), ("deep", "4")])
def test_without_a_name_the_last_maps_before_the_pooling_are_read(head, layer):
    encoder, decoder, x = random_autoencoder(5, head=head)
    found = grad_lam(encoder, decoder, x)
    assert found.layer == layer
    same(found.maps, slow_maps(encoder, x, True, last=int(layer)))
    same(attribution.lafam(encoder, x), attribution.lafam(encoder, x, layer))


def test_the_mean_of_a_variational_encoder():
    encoder, decoder, x = random_autoencoder(7)
    variational = MeanAndLogVariance(encoder).eval()
    found = grad_lam(attribution.LatentMean(variational), decoder, x, "encoder.mean.3")
    same(found.aggregate, grad_lam(encoder, decoder, x, "3").aggregate)
    with pytest.raises(ValueError, match=r"returns 2 values; wrap it as attribution\.LatentMean"):
        grad_lam(variational, decoder, x)


def test_bad_input_gets_an_error_that_names_the_cure():
    encoder, decoder, x = random_autoencoder(1)
    training = copy.deepcopy(decoder)
    training[4].train()
    wrong = {
        r"must be \(N, J\), not .* \(N, 6, 4, 4\); end .* nn\.Flatten": (
            encoder[:4].eval(),
            decoder,
        ),
        "give the decoder that was trained with": (encoder, nn.Linear(5, 9).double().eval()),
        r"encoder: the model is in training mode; call model\.eval": (
            copy.deepcopy(encoder).train(),
            decoder,
        ),
        r"decoder: its part '4' is in training mode; call model\.eval": (encoder, training),
        "asks the decoder, so give one": (encoder, None),
        "must return one tensor": (encoder, nn.Flatten(0).eval()),
    }
    for message, (first, second) in wrong.items():
        with pytest.raises(ValueError, match=message):
            grad_lam(first, second, x)
    options = {
        r"no layer 'conv9'.* its layers are: 0, ": {"layer": "conv9"},
        "has no feature maps": {"layer": "9"},
        "weighting must be 'jacobian', .* not 'best'": {"weighting": "best"},
        "rectify must be 'abs', .* not 'no'": {"rectify": "no"},
        "latent_batch_size must be .* at least 1": {"latent_batch_size": 0},
        "batch_size must be .* at least 1": {"batch_size": 0},
        r"reference must be \(4,\)": {"reference": torch.zeros(3)},
    }
    for message, option in options.items():
        with pytest.raises(ValueError, match=message):
            grad_lam(encoder, decoder, x, **option)
    with pytest.raises(TypeError, match=r"decoder: model must be a torch\.nn\.Module"):
        grad_lam(encoder, lambda z: z, x)
    with pytest.raises(TypeError, match="float32 but the model is"):
        grad_lam(encoder, decoder, x.float())


# --------------------------------------------------------------------------------------- the peers


def test_every_label_free_map_has_the_same_interface():
    encoder, _, x = random_autoencoder(2)
    for name, method in attribution.LABEL_FREE.items():
        found = method(encoder, x)
        assert found.shape == (2, 8, 8), name
        assert not found.requires_grad
        assert bool(torch.isfinite(found).all())
        same(method(encoder, x[1:]) if name != "random" else found[1:], found[1:])
        with pytest.raises(ValueError, match=r"encoder: .* training mode"):
            method(copy.deepcopy(encoder).train(), x)


def test_lafam_is_the_mean_of_the_feature_maps():
    encoder, _, x = random_autoencoder(2)
    for i, mean in enumerate(encoder[:4](x).detach().mean(1)):
        scaled = (mean - mean.min()) / (mean.max() - mean.min())
        expected = F.interpolate(scaled[None, None], (8, 8), mode="bilinear")[0, 0]
        same(attribution.lafam(encoder, x, "3")[i], expected)
    encoder[3].weight.data.zero_()
    assert not attribution.lafam(encoder, x, "3").any()


def test_relax_from_its_definition():
    from xaiutils.attribution._label_free import random_masks

    encoder, _, x = random_autoencoder(2)
    masks = random_masks(20, 3, 0.4, x.shape[2:], seed=4).double()
    assert masks.shape == (20, 8, 8)
    assert masks.min() >= 0
    assert masks.max() <= 1
    assert abs(masks.mean() - 0.4) < 0.15
    expected = torch.zeros(2, 8, 8, dtype=torch.float64)
    for i in range(2):
        for mask in masks:
            masked, code = encoder(mask * x[i : i + 1])[0], encoder(x[i : i + 1])[0]
            expected[i] += mask * (masked @ code / (masked.norm() * code.norm())).detach() / 20
    options = {"samples": 20, "cells": 3, "probability": 0.4, "seed": 4}
    same(attribution.relax(encoder, x, **options), expected)
    same(attribution.relax(encoder, x, **options, batch_size=7), expected)
    for name, value in (("samples", 0), ("cells", 0), ("probability", 1.0),
                        ("batch_size", 0)):  # fmt: skip
        with pytest.raises(ValueError, match=name):
            attribution.relax(encoder, x, **{name: value})


def test_label_free_gradient_is_the_gradient_of_the_inner_product():
    encoder, _, x = random_autoencoder(2)
    varied = x.clone().requires_grad_()
    product = (encoder(varied) * encoder(x).detach()).sum()
    expected = torch.autograd.grad(product, varied)[0].abs().sum(1)
    same(attribution.label_free_gradient(encoder, x), expected)
    same(attribution.label_free_gradient(encoder, x, batch_size=1), expected)


def test_exp_vae_is_the_mean_of_rectified_maps():
    encoder, _, x = random_autoencoder(2)
    small = slow_maps(encoder, x, pooled=True).relu().mean(1, keepdim=True)
    expected = F.interpolate(small, (8, 8), mode="bilinear")[:, 0]
    same(attribution.exp_vae(encoder, x, "3"), expected)


def test_random_maps_depend_on_seed_and_position_alone():
    encoder, _, x = random_autoencoder(2)
    first = attribution.random_map(encoder, x)
    assert torch.equal(first, attribution.random_map(encoder, 2 * x))
    assert not torch.equal(first, attribution.random_map(encoder, x, seed=1))
    assert not torch.equal(first[0], first[1])
