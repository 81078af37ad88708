r"""``grad-lam``: the maps of an autoencoder, measured without labels.

What is watched while regions are replaced is how far the code moves, in the units of the
reconstruction, :math:`\lVert J_g(x)\,(e(x') - e(x)) \rVert_2`, and how far the reconstruction
itself moves, :math:`\lVert g(e(x')) - g(e(x)) \rVert_2`. The images are cut into blocks, each of
which is computed once; a run that is started again goes on where it was.
"""

import argparse
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from xaiutils import attribution, data, evaluation, models
from xaiutils.reproduce._explained import weights
from xaiutils.reproduce._long_run import Found, Run, add_options, over_images
from xaiutils.reproduce._options import image_range, names
from xaiutils.reproduce._tables import interval, pair_row, write_table

RANDOM_MAP = "random"
OCCLUSION = "occlusion"
CONTRAST = "contrast"
OUTPUTS = ("latent", "reconstruction")
_RECTIFIED = ("abs", "relu", "square")
_ABS_ALONE = ("removal", "abs_latent")  # of the other weightings all ways of rectifying are run
_POOLINGS = {"pooled": True, "elementwise": False}
_CONTROLLED = ("jacobian-abs", "gram-abs")
_PEERS = ("lafam", "relax", "label_free_gradient", "exp_vae")


@dataclass(frozen=True)
class Job:
    """What every block of a run shares.

    Attributes:
        networks: The trained autoencoder, and one with random weights.
        images: All images of the run, (N, C, H, W) in [0, 1].
        layer: The layer of the encoder that is read.
        reference: The mean code of all images, (J,), which a removed latent takes.
        spread: The standard deviation of the code over all images, (J,).
        fills: What replaces a region, by name.
        options: The command line.
    """

    networks: Mapping[str, models.Autoencoder]
    images: Tensor
    layer: str
    reference: Tensor
    spread: Tensor
    fills: Mapping[str, evaluation.BlindFill]
    options: argparse.Namespace


def add_command(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add ``grad-lam`` to the command line."""
    lam = commands.add_parser("grad-lam", help="maps of an autoencoder, measured without labels")
    lam.add_argument("--model", required=True, help="a name of models.available_autoencoders()")
    lam.add_argument("--data", choices=tuple(LOADERS), required=True)
    lam.add_argument("--source", choices=data.SOURCES, default="auto", help="where data come from")
    lam.add_argument("--images", type=image_range, required=True, help="first:last[:stride]")
    lam.add_argument("--layer", required=True, help="the layer of the encoder that is read")
    lam.add_argument("--rectify", type=names, default=_RECTIFIED, help="abs,relu,square")
    lam.add_argument("--fills", type=names, default=("constant",))
    lam.add_argument("--region-size", type=int, required=True)
    lam.add_argument("--steps", type=int, required=True)
    lam.add_argument("--repeats", type=int, default=3)
    lam.add_argument("--seed", type=int, default=0)
    lam.add_argument("--block", type=int, default=10, help="images that a kill may cost")
    lam.add_argument("--resamples", type=int, default=10_000, help="draws of the bootstrap")
    add_options(lam, prepare, write)


def prepare(options: argparse.Namespace) -> Run[range]:
    """The run that was asked for, checked before anything is computed."""
    if options.model not in models.available_autoencoders():
        raise SystemExit(f"--model: choose from {', '.join(models.available_autoencoders())}.")
    name, images = LOADERS[options.data](options.images, options.source)
    if len(images) < 2:
        raise SystemExit(f"--images: {len(images)} is too few for an interval; give at least two.")
    networks = {w: models.load_autoencoder(options.model, w) for w in ("pretrained", "random")}
    trained, job = networks["pretrained"], job_of(networks, images, options)
    plan = {
        "model": options.model,
        "weights": weights(trained, trained.source),
        "data": f"{name}, images {':'.join(map(str, options.images))}",
        **{k: getattr(options, k) for k in ("layer", "region_size", "steps", "repeats", "seed")},
        "fills": list(options.fills),
        "rectify": list(options.rectify),
        "block": options.block,
    }
    return over_images(plan, range(len(images)), options.block, partial(measure, job))


def write(options: argparse.Namespace, found: Found) -> dict[str, Any]:
    """Write the tables; their names."""
    tables = write_tables(options.out, found, options.resamples)
    return {"tables": [path.name for path in tables]}


@torch.no_grad()
def job_of(
    networks: Mapping[str, models.Autoencoder], images: Tensor, options: argparse.Namespace
) -> Job:
    codes = torch.cat([networks["pretrained"].encoder(part) for part in torch.split(images, 100)])
    made: dict[str, evaluation.BlindFill] = {
        "constant": evaluation.Constant(images.double().mean(dim=0).float()),
        "uniform": evaluation.Uniform(0.0, 1.0),
        "blur": evaluation.Blur(),
    }
    if "abs" not in options.rectify or set(options.rectify) - set(_RECTIFIED):
        raise SystemExit(f"--rectify: abs, and any of {', '.join(_RECTIFIED[1:])}.")
    wrong = set(options.fills) - set(made)
    if wrong or not options.fills:
        raise SystemExit(f"--fills: {sorted(wrong)} unknown; choose from {', '.join(made)}.")
    fills = {name: made[name] for name in options.fills}
    mean, spread = codes.mean(dim=0), codes.std(dim=0)
    return Job(networks, images, options.layer, mean, spread, fills, options)


def _mnist(chosen: tuple[int, int, int], source: str) -> tuple[str, Tensor]:
    digits = data.mnist("test", source=source)
    return digits.name, torch.as_tensor(digits.images)[slice(*chosen)]


def _tiny_imagenet(chosen: tuple[int, int, int], source: str) -> tuple[str, Tensor]:
    photographs = data.tiny_imagenet("val", source=source)
    numbers = range(len(photographs))[slice(*chosen)]
    pixels = np.stack([np.asarray(photographs.images[i]) for i in numbers])
    return photographs.name, torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255


LOADERS: dict[str, Callable[[tuple[int, int, int], str], tuple[str, Tensor]]] = {
    "mnist": _mnist,
    "tiny-imagenet": _tiny_imagenet,
}


# ----------------------------------------------------------------------------------- one block


def measure(job: Job, block: range) -> dict[str, Tensor]:
    """All numbers of a block, (len(block),) each: areas, and likeness to random networks."""
    x = job.images[block.start : block.stop]
    maps = _maps(job, x, block.start)
    found = _likeness(job, x, maps)
    trained = job.networks["pretrained"]
    watched: dict[str, tuple[nn.Module, evaluation.Output]] = {
        "latent": (trained.encoder, latent_shift(trained, x)),
        "reconstruction": (trained, reconstruction_change(trained, x)),
    }
    for name, (network, output) in watched.items():
        for fill in job.fills:
            maps[OCCLUSION] = occlusion(job, x, network, output, fill, block.start)
            for order in evaluation.ORDERS:
                curves = perturbed(job, x, maps, network, output, fill, order, block.start)
                for method, curve in curves.items():
                    found[f"area/{name}/{fill}/{order}/{method}"] = curve.aopc()
    return found


def latent_shift(autoencoder: models.Autoencoder, x: Tensor) -> evaluation.Output:
    """Minus the shift of the code, weighted by the decoder's Jacobian at ``x``; 0 unperturbed."""
    with torch.no_grad():
        codes = autoencoder.encoder(x)
    gram = attribution.decoder_gram(autoencoder.decoder, codes)

    def score(outputs: Tensor, numbers: Tensor) -> Tensor:
        shift = outputs - codes[numbers]
        squares = torch.einsum("nj,njk,nk->n", shift, gram[numbers], shift)
        return -squares.clamp(min=0).sqrt()

    return score


def reconstruction_change(autoencoder: models.Autoencoder, x: Tensor) -> evaluation.Output:
    """Minus the Euclidean distance to the reconstruction of ``x``; 0 unperturbed."""
    with torch.no_grad():
        whole = autoencoder(x)

    def score(outputs: Tensor, numbers: Tensor) -> Tensor:
        length: Tensor = (outputs - whole[numbers]).flatten(1).norm(dim=1)
        return -length

    return score


def perturbed(
    job: Job,
    x: Tensor,
    maps: Mapping[str, Tensor],
    network: nn.Module,
    output: evaluation.Output,
    fill: str,
    order: Any,
    first: int,
) -> dict[str, evaluation.Curves]:
    given = {"(none)": x} if order == "random" else maps
    with warnings.catch_warnings():  # a ReLU may leave nothing of a map
        warnings.simplefilter("ignore", evaluation.ConstantHeatmapWarning)
        return evaluation.region_perturbation(
            network,
            x,
            None,
            given,
            job.options.region_size,
            job.options.steps,
            order,
            job.fills[fill],
            job.options.repeats,
            output,
            seed=job.options.seed,
            first_image=first,
        )


@torch.no_grad()
def occlusion(
    job: Job, x: Tensor, network: nn.Module, output: evaluation.Output, fill: str, first: int
) -> Tensor:
    """The positive control: how far the output falls when one region alone is replaced."""
    assert callable(output)
    regions = evaluation.Regions(x.shape[2], x.shape[3], job.options.region_size)
    generator = torch.Generator().manual_seed(job.options.seed + first)
    replacement = torch.cat([job.fills[fill](image[None], generator) for image in x])
    numbers, falls = torch.arange(len(x)), torch.zeros_like(x[:, 0])
    for region in range(regions.count):
        inside = regions.index == region
        fall = -output(network(torch.where(inside, replacement, x)), numbers)
        falls += fall[:, None, None] * inside
    return falls


def _maps(job: Job, x: Tensor, first: int) -> dict[str, Tensor]:
    """Every way of Grad-LAM, the other maps, and the controls.

    These are noise; the picture's distance from the mean picture, which asks no network; equal
    weights in other units of the latents; and Grad-LAM of randomised networks.
    """
    trained, untrained = job.networks["pretrained"], job.networks["random"]
    maps = _ways(job, x, trained.encoder, trained.decoder)
    encoder = trained.encoder
    for name in _PEERS:
        layer = {"layer": job.layer} if name in ("lafam", "exp_vae") else {}
        maps[name] = attribution.LABEL_FREE[name](encoder, x, **layer)
    maps[RANDOM_MAP] = attribution.random_map(encoder, x, seed=job.options.seed + first)
    maps[CONTRAST] = (x - job.images.mean(dim=0)).abs().sum(dim=1)
    for pooling, pooled in _POOLINGS.items():
        maps[f"uniform-abs-{pooling}, rescaled"] = attribution.grad_lam(
            rescaled(encoder), None, x, job.layer, "uniform", pooled=pooled
        ).aggregate
    for what, pair in {
        "random decoder": (trained.encoder, untrained.decoder),
        "random encoder": (untrained.encoder, trained.decoder),
    }.items():
        changed = _ways(job, x, *pair)
        maps |= {f"{name}, {what}": m for name, m in changed.items() if _controlled(name)}
    return maps


@torch.no_grad()
def rescaled(encoder: nn.Module) -> nn.Module:
    """The encoder with its latents in other units: the factors lie between 0.01 and 100."""
    assert isinstance(encoder, nn.Sequential)
    last = encoder[-1]
    assert isinstance(last, nn.Linear)
    exponents = torch.rand(last.out_features, generator=torch.Generator().manual_seed(0))
    scale = nn.Linear(last.out_features, last.out_features, bias=False)
    scale.weight.copy_(torch.diag(100.0 ** (2 * exponents - 1)))
    return nn.Sequential(*encoder, scale).eval()


def _controlled(name: str) -> bool:
    return name.rpartition("-")[0] in _CONTROLLED


def _ways(job: Job, x: Tensor, encoder: nn.Module, decoder: nn.Module) -> dict[str, Tensor]:
    """Grad-LAM's aggregates by "weighting-rectify-pooling"."""
    rectified: dict[str, tuple[Any, ...]] = {
        weighting: ("abs",) if weighting in _ABS_ALONE else job.options.rectify
        for weighting in attribution.WEIGHTINGS
    }
    return {
        f"{weighting}-{rectify}-{pooling}": attribution.grad_lam(
            encoder,
            decoder,
            x,
            job.layer,
            weighting,
            rectify=rectify,
            pooled=pooled,
            reference=job.reference,
        ).aggregate
        for weighting in attribution.WEIGHTINGS
        for rectify in rectified[weighting]
        for pooling, pooled in _POOLINGS.items()
    }


def _likeness(job: Job, x: Tensor, maps: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rank correlation of maps with those of a randomised decoder or encoder, by image."""
    found = {
        f"likeness/{name}": evaluation.rank_correlation(maps[name.partition(",")[0]], changed)
        for name, changed in maps.items()
        if ", random" in name
    }
    trained, untrained = job.networks["pretrained"], job.networks["random"]
    before = attribution.grad_lam(trained.encoder, trained.decoder, x, job.layer).maps
    after = attribution.grad_lam(trained.encoder, untrained.decoder, x, job.layer).maps
    change = (after - before).abs().flatten(1).amax(dim=1).double()
    return found | {"change/maps of the latents, random decoder": change}


# --------------------------------------------------------------------------------- the tables


def write_tables(out: Path, found: Mapping[str, Tensor], resamples: int) -> list[Path]:
    """Write areas, likeness to random networks, and planned and all comparisons."""
    areas = {
        tuple(key.split("/")[1:]): values
        for key, values in found.items()
        if key.startswith("area/")
    }
    measures = _measures(areas)
    tables = {
        "areas": [_row(key, values, resamples) for key, values in measures.items()],
        "randomised": _randomised(found, resamples),
        "planned": _planned(measures, resamples),
        "comparisons": _comparisons(measures, resamples),
    }
    return [write_table(out, name, rows) for name, rows in tables.items()]


_Key = tuple[str, str, str, str]


def _measures(areas: Mapping[tuple[str, ...], Tensor]) -> dict[_Key, Tensor]:
    """Per image, by (output, fill, measure, method); larger is better for every measure."""
    found: dict[_Key, Tensor] = {}
    for (output, fill, order, method), area in areas.items():
        if order == "morf":
            lerf = areas[output, fill, "lerf", method]
            chance = areas[output, fill, "random", "(none)"]
            found[output, fill, "abpc", method] = area - lerf
            found[output, fill, "morf_minus_random", method] = area - chance
            found[output, fill, "random_minus_lerf", method] = chance - lerf
    return found


def _row(key: _Key, values: Tensor, resamples: int) -> dict[str, Any]:
    output, fill, measure, method = key
    which = {"output": output, "fill": fill, "measure": measure, "method": method}
    return which | interval(values, resamples)


def _randomised(found: Mapping[str, Tensor], resamples: int) -> list[dict[str, Any]]:
    return [
        {"measure": key.split("/")[0], "method": key.split("/")[1]} | interval(values, resamples)
        for key, values in found.items()
        if not key.startswith("area/")
    ]


_RIVALS = (
    ("uniform", ""),
    ("uniform", ", rescaled"),
    ("abs_latent", ""),
    ("jacobian", ", random decoder"),
    ("jacobian", ", random encoder"),
)
PLANNED = tuple(
    (f"jacobian-abs-{pooling}", f"{other}-abs-{pooling}{what}")
    for pooling in _POOLINGS
    for other, what in _RIVALS
) + tuple((f"gram-abs-{pooling}", f"uniform-abs-{pooling}") for pooling in _POOLINGS)
"""The pairs that say whether the decoder's knowledge helps, and whether the encoder's does."""


def _planned(measures: Mapping[_Key, Tensor], resamples: int) -> list[dict[str, Any]]:
    """Each planned pair with its interval and p-value, Holm's correction within output and fill."""
    rows = []
    for output, fill in dict.fromkeys(key[:2] for key in measures):
        pairs = []
        for first, second in PLANNED:
            both = {m: measures[output, fill, "abpc", m] for m in (first, second)}
            pairs += evaluation.compare(both, resamples=resamples)
        adjusted = evaluation.holm([pair.p_value for pair in pairs])
        rows += [
            {"output": output, "fill": fill} | pair_row(pair, float(p))
            for pair, p in zip(pairs, adjusted, strict=True)
        ]
    return rows


def _comparisons(measures: Mapping[_Key, Tensor], resamples: int) -> list[dict[str, Any]]:
    """All pairs of the methods that stand for their kind, by ABPC."""
    chosen = [f"{w}-abs-{p}" for w in attribution.WEIGHTINGS for p in _POOLINGS]
    chosen += [*_PEERS, RANDOM_MAP, CONTRAST, OCCLUSION]
    return [
        {"output": output, "fill": fill} | pair_row(pair)
        for output, fill in dict.fromkeys(key[:2] for key in measures)
        for pair in evaluation.compare(
            {m: measures[output, fill, "abpc", m] for m in chosen}, resamples=resamples
        )
    ]
