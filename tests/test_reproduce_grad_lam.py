"""The measurement of an autoencoder's maps: blocks, kills, controls and tables."""

import argparse

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from xaiutils import attribution, data, evaluation, models
from xaiutils.reproduce import _grad_lam

SETTINGS = [
    "--model=mnist_ae_16",
    "--data=mnist",
    "--source=embedded",
    "--layer=3",
    "--fills=constant,uniform",
    "--region-size=7",
    "--steps=6",
    "--repeats=2",
    "--resamples=100",
]


def run(work, out, *more):
    parser = argparse.ArgumentParser()
    _grad_lam.add_command(parser.add_subparsers())
    words = ["grad-lam", f"--work={work}", f"--out={out}", *SETTINGS, "--images=0:4", *more]
    options = parser.parse_args(words)
    return options.run(options)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    assert run(folder / "work", folder / "grad-lam-mnist", "--block=2") == 0
    return folder


def table(folder, name):
    return pd.read_csv(folder / f"grad-lam-mnist-{name}.csv")


def test_areas_are_those_of_region_perturbation(whole):
    autoencoder = models.load_autoencoder("mnist_ae_16")
    x = data.mnist("test", source="embedded").images[:4]
    found = attribution.grad_lam(autoencoder.encoder, autoencoder.decoder, x, "3", pooled=False)
    rebuilt = autoencoder(x).detach()
    curves = {
        order: evaluation.region_perturbation(
            autoencoder,
            x,
            None,
            found.aggregate,
            7,
            6,
            order,
            evaluation.Constant(x.mean(0)),
            1,
            lambda y, n: -(y - rebuilt[n]).flatten(1).norm(dim=1),
        )
        for order in ("morf", "lerf")
    }
    expected = evaluation.abpc(curves["morf"], curves["lerf"])
    key = "area/reconstruction/constant/{}/jacobian-abs-elementwise"
    blocks = [load_file(whole / "work" / f"images-{i:06}.safetensors") for i in (0, 2)]
    stored = [block[key.format("morf")] - block[key.format("lerf")] for block in blocks]
    torch.testing.assert_close(torch.cat(stored), expected, rtol=1e-5, atol=1e-5)


def test_latent_shift_is_the_way_in_units_of_the_reconstruction():
    autoencoder = models.load_autoencoder("mnist_ae_16", "random").double()
    x = torch.rand(2, 1, 28, 28, dtype=torch.float64)
    codes = autoencoder.encoder(x).detach()
    moved = codes.flip(0)
    shift = moved - codes
    change = torch.func.jvp(autoencoder.decoder, (codes,), (shift,))[1].flatten(1).norm(dim=1)
    score = _grad_lam.latent_shift(autoencoder, x)
    torch.testing.assert_close(-score(moved, torch.tensor([0, 1])), change.detach())
    assert not score(codes, torch.tensor([0, 1])).any()


def test_rescaled_encoder_gives_other_units_and_no_other_order():
    encoder = models.load_autoencoder("mnist_ae_16").encoder
    x = torch.rand(2, 1, 28, 28)
    factors = (_grad_lam.rescaled(encoder)(x) / encoder(x)).detach()
    torch.testing.assert_close(factors[0], factors[1], rtol=1e-3, atol=0)
    assert factors.min() >= 0.01 * 0.99
    assert factors.max() <= 100 * 1.01
    assert factors.max() > 100 * factors.min()


def test_a_random_decoder_leaves_the_maps_of_the_latents_alone(whole):
    rows = table(whole, "randomised").set_index(["measure", "method"])
    assert rows.loc[("change", "maps of the latents, random decoder"), "mean"] == 0
    likeness = rows.loc["likeness", "mean"]
    assert (likeness < 1 - 1e-6).all()
    assert (likeness > -1).all()


def test_tables_hold_every_way_and_control(whole):
    areas = table(whole, "areas")
    assert set(areas.output) == {"latent", "reconstruction"}
    assert set(areas.fill) == {"constant", "uniform"}
    assert set(areas.measure) == {"abpc", "morf_minus_random", "random_minus_lerf"}
    methods = set(areas.method)
    assert {"random", "contrast", "occlusion", "lafam", "relax", "exp_vae"} <= methods
    assert {f"{w}-abs-pooled" for w in attribution.WEIGHTINGS} <= methods
    assert (areas.images == 4).all()
    best = areas[(areas.measure == "abpc") & (areas.fill == "constant")]
    assert (best.loc[best["mean"].groupby(best.output).idxmax(), "method"] == "occlusion").all()
    planned = table(whole, "planned")
    assert len(planned) == 4 * len(_grad_lam.PLANNED)
    assert (planned.p_holm >= planned.p_value).all()


def test_a_second_run_computes_only_what_is_missing(whole, monkeypatch):
    first = whole / "work" / "images-000000.safetensors"
    again = whole / "work" / "images-000002.safetensors"
    kept, stored = first.stat().st_mtime_ns, load_file(again)
    again.unlink()
    before = table(whole, "areas")
    assert run(whole / "work", whole / "grad-lam-mnist", "--block=2") == 0
    assert first.stat().st_mtime_ns == kept
    for key, values in load_file(again).items():
        torch.testing.assert_close(values, stored[key])
    pd.testing.assert_frame_equal(table(whole, "areas"), before)


def test_another_plan_needs_another_folder(whole):
    with pytest.raises(SystemExit, match=r"its block is .*, this one's 3"):
        run(whole / "work", whole / "x", "--block=3")


def test_bad_options_are_refused_before_any_work(tmp_path):
    for option, words in (
        ("--model=mnist_ae_17", "choose from mnist_ae_2"),
        ("--fills=snow", "snow.* unknown"),
        ("--images=0:1", "at least two"),
        ("--rectify=relu", "abs, and any of"),
    ):
        with pytest.raises(SystemExit, match=words):
            run(tmp_path / "work", tmp_path / "out", option)
    assert not (tmp_path / "work").exists()
