"""The measurement of maps whose reference is the fill: blocks, sums, single latents, tables."""

import argparse

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from xaiutils import attribution, data, evaluation, models
from xaiutils.reproduce import _grad_lam_matched as matched

SETTINGS = [
    "--model=mnist_ae_16",
    "--data=mnist",
    "--source=embedded",
    "--layer=3",
    "--fills=constant,uniform",
    "--region-size=14",
    "--steps=2",
    "--marked=1",
    "--resamples=100",
    "--images=0:4",
]


def run(work, out, *more):
    parser = argparse.ArgumentParser()
    matched.add_command(parser.add_subparsers())
    words = ["grad-lam-matched", f"--work={work}", f"--out={out}", *SETTINGS, *more]
    options = parser.parse_args(words)
    return options.run(options)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("matched")
    assert run(folder / "work", folder / "m", "--block=2") == 0
    return folder


@pytest.fixture(scope="module")
def stored(whole):
    blocks = [load_file(whole / "work" / f"images-{i:06}.safetensors") for i in (0, 2)]
    return {key: torch.cat([block[key] for block in blocks]) for key in blocks[0]}


@pytest.fixture(scope="module")
def digits():
    return data.mnist("test", source="embedded").images[:4]


def table(folder, name):
    return pd.read_csv(folder / f"m-{name}.csv")


def test_the_matched_sum_is_grad_lam_with_the_fill_as_reference(stored, digits):
    network, mean = models.load_autoencoder("mnist_ae_16"), digits.mean(dim=0)
    found = attribution.grad_lam(
        network.encoder, network.decoder, digits, "3", "gram", pooled=False, reference=mean
    ).aggregate
    whole = network(digits).detach()
    curves = [
        evaluation.region_perturbation(
            network,
            digits,
            None,
            found,
            14,
            2,
            order,
            evaluation.Constant(mean),
            1,
            lambda y, n: -(y - whole[n]).flatten(1).norm(dim=1),
        )
        for order in ("morf", "lerf")
    ]
    expected = evaluation.abpc(*curves)
    torch.testing.assert_close(stored["area/constant/gram, fill"], expected, rtol=1e-4, atol=1e-5)


def test_the_swing_of_a_latent_from_its_definition(stored, digits):
    encoder = models.load_autoencoder("mnist_ae_16").encoder
    mean = digits.mean(dim=0)
    with torch.no_grad():
        z = encoder(digits)
    maps = attribution.grad_lam(
        encoder, None, digits, "3", "uniform", pooled=False, reference=mean
    ).maps
    swing, size = torch.zeros(4, 16, 16), torch.zeros(4, 16, 16)
    for i in range(4):
        for j in range(16):
            corners = [(r, c) for r in (0, 1) for c in (0, 1)]
            sums = [maps[i, j, 7 * r : 7 * r + 7, 7 * c : 7 * c + 7].sum() for r, c in corners]
            for pick, sign in ((max, 1), (min, -1)):
                r, c = corners[sums.index(pick(sums))]
                x = digits[i].clone()
                where = slice(None), slice(14 * r, 14 * r + 14), slice(14 * c, 14 * c + 14)
                x[where] = mean[where]
                with torch.no_grad():
                    fall = (z[i] - encoder(x[None])[0]) / z.std(dim=0)
                swing[i, j] += sign * fall / 2
                size[i, j] += fall.abs() / 2
    key = "latent {}/constant/element-wise, fill/own"
    own, apart = swing.diagonal(dim1=1, dim2=2), ~torch.eye(16, dtype=torch.bool)
    for name, values in {
        "swing": own.mean(1),
        "swing of others": swing[:, apart].mean(1),
        "own": size.diagonal(dim1=1, dim2=2).mean(1),
        "others": size[:, apart].mean(1),
        "first": (size.argmax(2) == torch.arange(16)).double().mean(1),
    }.items():
        found = stored[key.format(name)].float()
        torch.testing.assert_close(found, values.float(), rtol=1e-3, atol=1e-4)


def test_a_partial_correlation_is_that_of_the_residuals():
    generator = torch.Generator().manual_seed(0)
    a, b, c = torch.randn(3, 5, 20, generator=generator, dtype=torch.float64)
    for i in range(5):
        line = torch.stack([torch.ones(20, dtype=torch.float64), c[i]], dim=1)
        rest = [y - line @ torch.linalg.lstsq(line, y).solution for y in (a[i], b[i])]
        expected = torch.corrcoef(torch.stack(rest))[0, 1]
        torch.testing.assert_close(matched.correlation(a, b, c)[i], expected)
        plain = torch.corrcoef(torch.stack([a[i], b[i]]))[0, 1]
        torch.testing.assert_close(matched.correlation(a, b)[i], plain)
    assert not matched.correlation(a, torch.ones_like(b)).any()


def test_tables_hold_sums_latents_and_their_pairs(whole):
    sums = table(whole, "sums")
    assert set(sums.measure) == {"area", "correlation", "partial"}
    assert set(sums.fill) == {"constant", "uniform"}
    assert {"gram, fill", "gram, zero", "size of the change", "occlusion"} <= set(sums.method)
    assert (sums.images == 4).all()
    latents = table(whole, "latents").set_index(["measure", "fill", "method"])
    assert set(latents.index.get_level_values(0)) == {"swing", "move", "first"}
    best = latents.loc[("swing", "constant", "occlusion: its own map"), "mean"]
    assert (latents.loc[("swing", "constant"), "mean"] <= best).all()  # of one region it is exact
    for name, count in (("sums", 2 * len(matched.PLANNED)), ("latents", 2 * len(matched.LATENTS))):
        planned = table(whole, f"{name}-planned")
        assert len(planned) == 2 * count  # fills
        assert (planned.p_holm >= planned.p_value).all()


def test_a_second_run_computes_only_what_is_missing(whole, stored):
    again = whole / "work" / "images-000002.safetensors"
    kept = (whole / "work" / "images-000000.safetensors").stat().st_mtime_ns
    again.unlink()
    assert run(whole / "work", whole / "m", "--block=2") == 0
    assert (whole / "work" / "images-000000.safetensors").stat().st_mtime_ns == kept
    for key, values in load_file(again).items():
        torch.testing.assert_close(values, stored[key][2:])


def test_bad_options_are_refused_before_any_work(tmp_path):
    for options, words in (
        (["--model=mnist_ae_17"], "choose from mnist_ae_2"),
        (["--fills=snow"], "snow.* unknown"),
        (["--images=0:3", "--block=2"], "one image alone"),
        (["--region-size=5"], "does not divide"),
        (["--marked=3"], "more than half of 4"),
        (["--steps=0"], "at least 1"),
    ):
        with pytest.raises(SystemExit, match=words):
            run(tmp_path / "work", tmp_path / "out", *options)
    assert not (tmp_path / "work").exists()
