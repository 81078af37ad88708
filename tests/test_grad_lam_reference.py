"""Grad-LAM with a reference, and of a number: against occlusion and Grad-CAM from their definition.

The theorem is tested on two kinds of encoders with linear heads. Convolutions as wide as their
stride cut the picture into patches, so that there are no margins; overlapping ones have some.
"""

import functools
import weakref

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_networks import prepared
from test_grad_lam import jacobian, random_autoencoder, recoded, same, slow_maps
from torch import nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from xaiutils import attribution, evaluation, graph
from xaiutils.attribution import grad_lam, grad_lam_covector

seeds = st.integers(0, 10_000)
some = settings(max_examples=6, deadline=None)
both = pytest.mark.parametrize("pooled", [True, False])


@functools.cache
def patch_architecture(last):
    """An encoder that reads patches of 2 x 2 pixels, none of which meet before the head."""
    return nn.Sequential(
        nn.Conv2d(2, 5, 2, 2), nn.BatchNorm2d(5), nn.ReLU(), nn.Conv2d(5, 6, 1), last(),
        nn.Flatten(), nn.Linear(96, 4),
    )  # fmt: skip


def patch_encoder(seed, last=nn.ReLU):
    torch.manual_seed(seed)
    encoder = patch_architecture(last)
    for layer in encoder:
        if hasattr(layer, "reset_parameters"):
            layer.reset_parameters()
    return prepared(encoder, seed)


def regions(size):
    """A grid of squares on 8 x 8 pixels, as boolean masks, with their upper left corners."""
    for top in range(0, 8, size):
        for left in range(0, 8, size):
            inside = torch.zeros(8, 8, dtype=torch.bool)
            inside[top : top + size, left : left + size] = True
            yield inside, top, left


def seen(inside, layers):
    """Which places of the last of some layers see a pixel of a mask (8, 8)."""
    reach = inside[None, None].double()
    for layer in layers:
        if isinstance(layer, nn.Conv2d):
            ones = torch.ones(1, 1, *layer.kernel_size, dtype=torch.float64)
            reach = (F.conv2d(reach, ones, None, layer.stride, layer.padding) > 0).double()
    return reach[0, 0] > 0


def difference_maps(encoder, x, other, pooled, last=3):
    """The maps of a comparison by autograd, one latent after another, slopes at x."""
    features = encoder[: last + 1](x).detach().requires_grad_()
    codes = encoder[last + 1 :](features)
    change = (features - encoder[: last + 1](other)).detach()
    maps = []
    for j in range(codes.shape[1]):
        slopes = torch.autograd.grad(codes[:, j].sum(), features, retain_graph=True)[0]
        weights = slopes.mean((2, 3), keepdim=True) if pooled else slopes
        maps.append((weights * change).sum(1))
    return torch.stack(maps, 1)


def large(small):
    return F.interpolate(small[:, None], (8, 8), mode="bilinear", align_corners=False)[:, 0]


# ------------------------------------------------------------------------------ from the definition


@both
@pytest.mark.parametrize("head", ["linear", "deep"])
@given(seed=seeds)
@some
def test_maps_and_aggregates_of_a_comparison_from_their_definition(head, seed, pooled):
    encoder, decoder, x = random_autoencoder(seed, head=head)
    other = torch.randn_like(x)
    with torch.no_grad():
        z, code = encoder(x), encoder(other)
    maps = difference_maps(encoder, x, other, pooled)
    columns = jacobian(decoder, z)
    moved = torch.stack([torch.where(torch.arange(4) == j, code, z) for j in range(4)], 1)
    falls = decoder(moved.flatten(0, 1)).detach().unflatten(0, (2, 4)) - decoder(z)[:, None]
    traced = graph.trace(encoder, x, fold=False)
    weights = {
        "jacobian": columns.norm(dim=2),
        "removal": falls.detach().flatten(2).norm(dim=2) / (z - code).abs(),
        "abs_latent": z.abs(),
        "uniform": torch.ones_like(z),
    }
    for weighting, w in weights.items():
        found = grad_lam(traced, decoder, x, "3", weighting, pooled=pooled, reference=other)
        same(found.maps, maps)
        same(found.weights, w)
        same(found.latents, z)
        same(found.reference, code)
        same(found.aggregate, large((w[..., None, None] * maps.abs()).sum(1)))
    gram = torch.einsum("njp,njhw->nphw", columns, maps).norm(dim=1)
    found = grad_lam(traced, decoder, x, "3", "gram", pooled=pooled, reference=other)
    same(found.aggregate, large(gram))


def test_a_reference_has_the_forms_of_a_baseline():
    encoder, decoder, x = random_autoencoder(4, head="linear")

    def of(reference, **options):
        options = {"pooled": False} | options
        return grad_lam(encoder, decoder, x, "3", "gram", reference=reference, **options)

    def by_hand(other):
        return difference_maps(encoder, x, other.expand_as(x), pooled=False)

    class Units:
        low, high = -torch.ones(2, 1, 1), torch.ones(2, 1, 1)

    picture = torch.randn(2, 8, 8, dtype=torch.float64)
    same(of(0.5).maps, by_hand(torch.full_like(x, 0.5)))
    same(of("mean").maps, by_hand(x.mean((2, 3), keepdim=True)))
    same(of("black", units=Units()).maps, by_hand(-torch.ones_like(x)))
    same(of(picture).maps, by_hand(picture))
    same(of(evaluation.Constant(picture)).maps, by_hand(picture))
    drawn = evaluation.Uniform(-1.0, 1.0)(x, torch.Generator().manual_seed(5))
    same(of(evaluation.Uniform(-1.0, 1.0), seed=5).maps, by_hand(drawn))
    assert not torch.allclose(of("uniform", seed=1).maps, of("uniform", seed=2).maps)


@pytest.mark.parametrize("rectify", ["abs", "relu", "square"])
def test_several_references_give_mean_maps_and_the_root_of_the_mean_square(rectify):
    encoder, decoder, x = random_autoencoder(6, head="linear")
    traced = graph.trace(encoder, x, fold=False)
    others = [torch.randn_like(x) for _ in range(3)]
    power = 1 if rectify == "square" else 2
    for weighting in attribution.WEIGHTINGS:
        options = {"layer": "3", "weighting": weighting, "rectify": rectify}
        each = [grad_lam(traced, decoder, x, reference=other, **options) for other in others]
        found = grad_lam(traced, decoder, x, reference=others, **options)
        for name in ("maps", "weights", "reference"):
            same(getattr(found, name), sum(getattr(one, name) for one in each) / 3)
        # interpolation and the root do not commute, so small maps are compared by their regions
        at_places = {"region_size": 2, "reference": others}
        summed = grad_lam(traced, decoder, x, **options, **at_places).aggregate
        squares = [
            grad_lam(traced, decoder, x, **options, region_size=2, reference=o).aggregate
            for o in others
        ]
        same(summed, (sum(s**power for s in squares) / 3) ** (1 / power))


# ------------------------------------------------------------------ the theorem: one-pass occlusion


@pytest.mark.parametrize("last", [nn.ReLU, nn.Tanh])
@pytest.mark.parametrize("size", [2, 4])
@given(seed=seeds)
@some
def test_without_margins_it_is_occlusion_of_every_region_in_one_pass(size, last, seed):
    """For each square: replace it, encode again, and push the change through the decoder."""
    encoder, (_, decoder, x) = patch_encoder(seed, last), random_autoencoder(seed)
    other = torch.randn_like(x)
    options = {"pooled": False, "reference": other, "region_size": size}
    found = grad_lam(encoder, decoder, x, "4", "gram", **options).aggregate
    with torch.no_grad():
        z = encoder(x)
        columns = jacobian(decoder, z)
        for inside, top, left in regions(size):
            change = z - encoder(torch.where(inside, other, x))
            length = torch.einsum("njp,nj->np", columns, change).norm(dim=1)
            square = found[:, top : top + size, left : left + size]
            same(square, length[:, None, None].expand(-1, size, size))


@pytest.mark.parametrize("size", [2, 4])
@given(seed=seeds)
@some
def test_with_margins_it_is_exact_but_for_the_places_that_see_both_pictures(size, seed):
    encoder, decoder, x = random_autoencoder(seed, head="linear")
    other = torch.randn_like(x)
    traced = graph.trace(encoder, x, fold=False)
    change = grad_lam(traced, decoder, x, "3", pooled=False, reference=other).maps
    own = slow_maps(encoder, x, pooled=False)
    whole = torch.ones(8, 8, dtype=torch.bool)
    margins = 0
    for inside, _, _ in [*regions(size), (whole, 0, 0)]:
        mixed = torch.where(inside, other, x)
        with torch.no_grad():
            fall = encoder(x) - encoder(mixed)
        touched, outside = seen(inside, encoder[:4]), seen(~inside, encoder[:4])
        only, margin = touched & ~outside, touched & outside
        margins += int(margin.sum())
        at_margin = (own - slow_maps(encoder, mixed, pooled=False))[..., margin].sum(-1)
        same(fall, change[..., only].sum(-1) + at_margin)
        # and the same through the package, with the mixed picture as the reference
        exact = grad_lam(traced, decoder, x, "3", pooled=False, reference=mixed).maps
        same(exact.sum((2, 3)), fall)
        same(exact[..., only], change[..., only])
        assert not exact[..., ~touched].any()
    assert margins > 0


@given(seed=seeds)
@some
def test_maps_of_a_comparison_are_complete_and_do_not_depend_on_the_basis(seed):
    encoder, decoder, x = random_autoencoder(seed, head="linear")
    matrix = torch.randn(4, 4, dtype=torch.float64) + 3 * torch.eye(4, dtype=torch.float64)
    moved = recoded(encoder, decoder, matrix, torch.randn(4, dtype=torch.float64))
    options = {"layer": "3", "pooled": False, "reference": ["blur", "mean"]}
    before = grad_lam(encoder, decoder, x, weighting="gram", **options)
    after = grad_lam(*moved, x, weighting="gram", **options)
    same(before.maps.sum((2, 3)), before.latents - before.reference)
    same(after.maps, torch.einsum("jk,nkhw->njhw", matrix, before.maps))
    same(after.aggregate, before.aggregate)
    plain, other = (
        grad_lam(*pair, x, weighting="uniform", **options).aggregate
        for pair in ((encoder, decoder), moved)
    )
    assert not torch.allclose(plain, other, rtol=1e-3)


def test_the_picture_itself_as_the_reference_leaves_nothing():
    encoder, decoder, x = random_autoencoder(8)
    for weighting in attribution.WEIGHTINGS:
        found = grad_lam(encoder, decoder, x, weighting=weighting, reference=x)
        assert not found.maps.any()
        assert not found.aggregate.any()
        assert bool(torch.isfinite(found.weights).all())


# ------------------------------------------------------------------------------- the covector form


def half_square(rebuilt, numbers):
    """Half the squared length of the reconstruction, larger for later images."""
    return (1 + numbers) * rebuilt.square().flatten(1).sum(1) / 2


@both
@given(seed=seeds)
@some
def test_the_covector_form_is_the_signed_sum_of_the_maps(pooled, seed):
    encoder, decoder, x = random_autoencoder(seed)
    z = encoder(x).detach().requires_grad_()
    slopes = torch.autograd.grad(half_square(decoder(z), torch.arange(2)).sum(), z)[0]
    for reference in (None, "blur", ["blur", "mean"]):
        options = {"layer": "3", "pooled": pooled, "reference": reference}
        maps = grad_lam(encoder, decoder, x, **options).maps
        found = grad_lam_covector(encoder, decoder, x, half_square, **options)
        same(found.covector, slopes)
        same(found.map, torch.einsum("nj,njhw->nhw", slopes, maps))
        same(found.aggregate, large(found.map))
        assert found.layer == "3"


@both
@given(seed=seeds, pixel=st.tuples(st.integers(0, 1), st.integers(0, 7), st.integers(0, 7)))
@some
def test_it_is_grad_cam_of_a_number_of_the_reconstruction(pooled, seed, pixel):
    """By autograd through both networks, and by the package's own Grad-CAM and HiResCAM."""
    encoder, decoder, x = random_autoencoder(seed)
    whole = nn.Sequential(*encoder, *decoder).eval()
    features = encoder[:4](x).detach().requires_grad_()
    rebuilt = decoder(encoder[4:](features))
    weights = torch.randn(2, 2, 8, 8, dtype=torch.float64)
    numbers = {
        "pixel": (pixel, lambda y: y[(slice(None), *pixel)]),
        "weights": (weights, lambda y: (weights * y).flatten(1).sum(1)),
        "function": (half_square, lambda y: half_square(y, torch.arange(2))),
    }
    for name, (target, value) in numbers.items():
        slopes = torch.autograd.grad(value(rebuilt).sum(), features, retain_graph=True)[0]
        if pooled:
            slopes = slopes.mean((2, 3), keepdim=True)
        found = grad_lam_covector(encoder, decoder, x, target, "3", pooled=pooled)
        same(found.map, (slopes * features).sum(1).detach())
        if name != "function":
            method = attribution.grad_cam if pooled else attribution.hires_cam
            same(found.aggregate[:, None], method(whole, x, target, "3", relu=False))


@pytest.mark.parametrize("seed", [1])
def test_the_norm_over_all_pixels_is_the_gram_form(seed):
    encoder, decoder, x = random_autoencoder(seed)
    traced = graph.trace(encoder, x, fold=False)
    squares = sum(
        grad_lam_covector(traced, decoder, x, (c, u, v), reference=0.3).map.square()
        for c in range(2)
        for u in range(8)
        for v in range(8)
    )
    found = grad_lam(traced, decoder, x, None, "gram", reference=0.3)
    same(large(squares.sqrt()), found.aggregate)


@pytest.mark.parametrize("n_steps", [None, 3])
@both
@given(seed=seeds)
@some
def test_the_covector_form_does_not_depend_on_the_basis(pooled, n_steps, seed):
    encoder, decoder, x = random_autoencoder(seed, head="linear")
    matrix = torch.linalg.qr(torch.randn(4, 4, dtype=torch.float64))[0]
    matrix = matrix @ torch.tensor([-0.5, 1.0, 2.0, 30.0], dtype=torch.float64).diag()
    moved = recoded(encoder, decoder, matrix, torch.randn(4, dtype=torch.float64))
    options = {"layer": "3", "pooled": pooled, "reference": "blur", "n_steps": n_steps}
    before = grad_lam_covector(encoder, decoder, x, half_square, **options)
    after = grad_lam_covector(*moved, x, half_square, **options)
    same(after.map, before.map)
    same(after.covector @ matrix, before.covector)
    assert not torch.allclose(after.covector, before.covector, rtol=1e-2)


@given(seed=seeds)
@some
def test_the_covector_form_is_complete(seed):
    """To first order by the slopes at the code; exactly by their mean on the way to it."""
    encoder, _, x = random_autoencoder(seed, head="linear")
    smooth = nn.Sequential(nn.Linear(4, 7), nn.Tanh(), nn.Linear(7, 9)).double().eval()

    def bent(rebuilt, numbers):
        return rebuilt.exp().sum(1)

    options = {"layer": "3", "pooled": False, "reference": 0.2}
    found = grad_lam_covector(encoder, smooth, x, bent, **options)
    same(found.map.sum((1, 2)), (found.covector * (found.latents - found.reference)).sum(1))
    values = [bent(smooth(code), None).detach() for code in (found.latents, found.reference)]
    exact = grad_lam_covector(encoder, smooth, x, bent, n_steps=20, **options)
    same(exact.map.sum((1, 2)), values[0] - values[1])
    # a number that is linear in the code needs no steps: z_2 - 3 z_0, of the code itself
    concept = torch.tensor([-3.0, 0.0, 1.0, 0.0], dtype=torch.float64)
    linear = grad_lam_covector(encoder, nn.Identity().eval(), x, concept, **options)
    same(linear.map.sum((1, 2)), (linear.latents - linear.reference) @ concept)
    zero = grad_lam_covector(encoder, nn.Identity().eval(), x, 1, "3", pooled=False)
    same(zero.map.sum((1, 2)), zero.latents[:, 1] - encoder[-1].bias[1])


# ---------------------------------------------------------------------------------------- the call


def test_chunks_change_nothing_with_a_reference():
    encoder, decoder, _ = random_autoencoder(3)
    x = torch.randn(5, 2, 8, 8, dtype=torch.float64)
    traced = graph.trace(encoder, x, fold=False)
    reference = ["uniform", "mean", evaluation.Uniform(0.0, 1.0), torch.randn_like(x)]
    for weighting in attribution.WEIGHTINGS:
        options = {"weighting": weighting, "reference": reference}
        whole = grad_lam(traced, decoder, x, **options)
        for sizes in ({"batch_size": 2}, {"latent_batch_size": 3, "batch_size": 1}):
            cut = grad_lam(traced, decoder, x, **options, **sizes)
            for name in ("maps", "weights", "aggregate", "latents", "reference"):
                same(getattr(cut, name), getattr(whole, name))
    for target in (half_square, (1, 2, 3), torch.randn_like(x)):
        for more in ({}, {"reference": reference}, {"reference": reference, "n_steps": 2}):
            whole = grad_lam_covector(traced, decoder, x, target, **more)
            cut = grad_lam_covector(traced, decoder, x, target, batch_size=2, **more)
            for name in ("map", "aggregate", "covector", "latents"):
                same(getattr(cut, name), getattr(whole, name))
                assert not getattr(cut, name).requires_grad
            assert (cut.reference is None) == (not more)


class Living(TorchDispatchMode):
    """The most bytes that tensors made in it held at one time."""

    def __init__(self):
        super().__init__()
        self.alive, self.most = [], 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        made = out if isinstance(out, (tuple, list)) else [out]
        self.alive += [weakref.ref(each) for each in made if isinstance(each, torch.Tensor)]
        self.alive = [each for each in self.alive if each() is not None]
        storages = [each().untyped_storage() for each in self.alive]
        held = {storage.data_ptr(): storage.nbytes() for storage in storages}
        self.most = max(self.most, sum(held.values()))
        return out


def most_memory(call):
    with Living() as living:
        call()
    return living.most


def test_one_picture_for_all_images_is_run_once_however_they_are_cut(monkeypatch):
    encoder, decoder, x = random_autoencoder(3, head="deep")
    x, traced = torch.cat([x, x.flip(0), x[:1]]), graph.trace(encoder, x, fold=False)
    shared, own = torch.randn(2, 8, 8, dtype=torch.float64), torch.randn_like(x)
    options = {"layer": "3", "reference": [shared, 0.25, own]}
    sizes, record = [], graph.Graph.record

    def counted(self, pictures, *more, **options):
        sizes.append(len(pictures))
        return record(self, pictures, *more, **options)

    monkeypatch.setattr(graph.Graph, "record", counted)
    whole = grad_lam(traced, decoder, x, "3", reference=[shared, 0.25, own])
    assert sorted(sizes) == [1, 1, 5, 5]  # two shared pictures, five of their own, the images
    each = [grad_lam(traced, decoder, x, "3", reference=r) for r in options["reference"]]
    same(whole.maps, torch.stack([found.maps for found in each]).mean(0))
    same(whole.reference, torch.stack([found.reference for found in each]).mean(0))
    sizes.clear()
    cut = grad_lam(traced, decoder, x, batch_size=2, **options)
    assert sorted(sizes) == [1, 1, 1, 1, 2, 2, 2, 2]
    same(cut.maps, whole.maps)
    sizes.clear()
    grad_lam_covector(traced, decoder, x, (0, 1, 1), batch_size=2, **options)
    assert sizes.count(1) <= 1 + 2 + 2  # of the number's check, two shared, and the last chunk


def test_a_reference_costs_next_to_no_memory():
    """The slopes of many latents are what is large; a reference adds a set of feature maps."""
    encoder, _, x = random_autoencoder(3, latents=24)
    x = torch.cat([x] * 4)
    traced = graph.trace(encoder, x, fold=False)
    options = {"layer": "3", "weighting": "uniform"}
    plain = most_memory(lambda: grad_lam(traced, None, x, **options))
    compared = most_memory(lambda: grad_lam(traced, None, x, reference="blur", **options))
    code = nn.Identity().eval()
    number = most_memory(lambda: grad_lam_covector(traced, code, x, 3, "3", reference="blur"))
    features = x.element_size() * encoder[:4](x).numel()
    assert plain > 24 * features  # the slopes
    assert plain <= compared < plain + 4 * features
    assert number < 0.5 * plain


def test_half_precision_is_computed_in_float32():
    encoder, decoder, x = random_autoencoder(2, head="linear")
    networks = [n.to(torch.bfloat16) for n in (encoder, decoder)]
    x = x.to(torch.bfloat16)
    found = grad_lam(*networks, x, "3", "gram", reference=0.0, pooled=False)
    number = grad_lam_covector(*networks, x, half_square, "3", reference=0.0, pooled=False)
    assert {found.maps.dtype, found.aggregate.dtype, number.map.dtype} == {torch.float32}
    expected = found.latents - found.reference
    torch.testing.assert_close(found.maps.sum((2, 3)), expected, rtol=1e-4, atol=1e-5)
    for network in networks:
        network.double()


def test_bad_input_gets_an_error_that_names_the_cure():
    encoder, decoder, x = random_autoencoder(1)
    references = {
        r"must be \(4,\), a number for each latent, not \(8,\); or pictures": torch.zeros(8),
        "reference holds NaN": torch.tensor([0.0, 1.0, torch.nan, 0.0]),
        r"baselines of shape \(3, 8, 8\) do not fit x": torch.zeros(3, 8, 8),
        "hold NaN or infinite": torch.full((2, 8, 8), torch.nan),
        "a baseline's name must be": "grey",
        "hand over units=clf.preprocess": "black",
        "baselines is empty": [],
        "is a fill that sees the mask": evaluation.Inpaint(),
        "overflows on the reference": 1.7e308,
    }
    for message, reference in references.items():
        with pytest.raises(ValueError, match=message):
            grad_lam(encoder, decoder, x, reference=reference)
    with pytest.raises(ValueError, match="sees the mask"):
        grad_lam(encoder, decoder, x, reference=[0.0, evaluation.NoisyLinear()])
    with pytest.raises(TypeError, match="a baseline is a number"):
        grad_lam(encoder, decoder, x, reference={"mean": 1})
    for size in (3, 1, 16):
        with pytest.raises(ValueError, match=r"must divide the picture, .* hold whole places"):
            grad_lam(encoder, decoder, x, "3", region_size=size)
    with pytest.raises(ValueError, match=r"region_size must be .* at least 1"):
        grad_lam(encoder, decoder, x, "3", region_size=0)


def test_bad_numbers_get_an_error_that_names_the_cure():
    encoder, decoder, x = random_autoencoder(1)
    wrong = {
        r"target must return a tensor \(B,\), one number for each of 2": (lambda y, n: y.sum(), {}),
        "not float": (lambda y, n: 1.0, {}),
        "slopes of the number are not finite": (lambda y, n: (y.flatten(1).sum(1) * 0).sqrt(), {}),
        r"target must be a tuple of 3 ints": (5, {}),
        "target must be from 0 to 7": ((0, 8, 0), {}),
        "weights over the outputs must be of shape": (torch.zeros(3), {}),
        "n_steps asks for .* reference=0.0": (half_square, {"n_steps": 3}),
        "n_steps must be .* at least 1": (half_square, {"n_steps": 0, "reference": 0.0}),
        "reference must be pictures here": (half_square, {"reference": torch.zeros(4)}),
    }
    for message, (target, options) in wrong.items():
        with pytest.raises(ValueError, match=message):
            grad_lam_covector(encoder, decoder, x, target, **options)
    with pytest.raises(TypeError, match="a reconstruction has no largest class"):
        grad_lam_covector(encoder, decoder, x, None)
    with pytest.raises(TypeError, match=r"decoder: model must be a torch\.nn\.Module"):
        grad_lam_covector(encoder, None, x, half_square)
