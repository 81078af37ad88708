r"""``grad-lam-matched``: maps whose reference is the fill; sums over the latents, and each alone.

A map compares a picture with something, and so does a test that replaces regions. Here the two are
the same. Sums over the latents are judged by the area between the curves of the reconstruction,
and by their correlation over regions with occlusion, the exact fall when one region alone is
replaced; the control is the size of the change under the same fill. The maps of single latents are
judged by how far the regions that they mark move their latent, and how far all the others.
"""

import argparse
from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from xaiutils import attribution, data, evaluation, models
from xaiutils.reproduce import _grad_lam
from xaiutils.reproduce._explained import weights
from xaiutils.reproduce._grad_lam import OCCLUSION, RANDOM_MAP, Job
from xaiutils.reproduce._long_run import Found, Run, add_options, over_images
from xaiutils.reproduce._options import image_range, names, require_positive
from xaiutils.reproduce._tables import interval, pair_row, write_table

SIZE = "size of the change"
DRAWS = 4
"""How often a reference that is drawn at random is drawn."""
_RANDOM_FILLS = ("uniform",)
_AREA, _LIKE, _BEYOND = "area", "correlation", "partial"


def add_command(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add ``grad-lam-matched`` to the command line."""
    lam = commands.add_parser("grad-lam-matched", help="maps whose reference is the fill")
    lam.add_argument("--model", required=True, help="a name of models.available_autoencoders()")
    lam.add_argument("--data", choices=tuple(_grad_lam.LOADERS), required=True)
    lam.add_argument("--source", choices=data.SOURCES, default="auto", help="where data come from")
    lam.add_argument("--images", type=image_range, required=True, help="first:last[:stride]")
    lam.add_argument("--layer", required=True, help="the layer of the encoder that is read")
    lam.add_argument("--fills", type=names, default=("constant",))
    lam.add_argument("--region-size", type=int, required=True)
    lam.add_argument("--steps", type=int, required=True, help="of the curves")
    lam.add_argument("--marked", type=int, required=True, help="regions that a latent's map marks")
    lam.add_argument("--repeats", type=int, default=1)
    lam.add_argument("--seed", type=int, default=0)
    lam.add_argument("--block", type=int, default=10, help="images that a kill may cost")
    lam.add_argument("--resamples", type=int, default=10_000, help="draws of the bootstrap")
    add_options(lam, prepare, write)


def prepare(options: argparse.Namespace) -> Run[range]:
    """The run that was asked for, checked before anything is computed."""
    require_positive(options, "region_size", "steps", "marked", "repeats")
    if options.model not in models.available_autoencoders():
        raise SystemExit(f"--model: choose from {', '.join(models.available_autoencoders())}.")
    name, images = _grad_lam.LOADERS[options.data](options.images, options.source)
    if len(images) < 2 or len(images) % options.block == 1:
        raise SystemExit(
            f"--images: {len(images)} in blocks of {options.block} leave one image alone, and it "
            "borrows the map of another; choose other images or another --block."
        )
    networks = {w: models.load_autoencoder(options.model, w) for w in ("pretrained", "random")}
    options.rectify = ("abs",)
    trained, job = networks["pretrained"], _grad_lam.job_of(networks, images, options)
    _check_regions(images, options.region_size, options.marked)
    plan = {
        "model": options.model,
        "weights": weights(trained, trained.source),
        "data": f"{name}, images {':'.join(map(str, options.images))}",
        **{k: getattr(options, k) for k in ("layer", "region_size", "steps", "marked")},
        **{k: getattr(options, k) for k in ("repeats", "seed", "block")},
        "fills": list(options.fills),
    }
    return over_images(plan, range(len(images)), options.block, partial(measure, job))


def write(options: argparse.Namespace, found: Found) -> dict[str, Any]:
    """Write the tables; their names."""
    tables = write_tables(options.out, found, options.resamples)
    return {"tables": [path.name for path in tables]}


def _check_regions(images: Tensor, size: int, marked: int) -> None:
    height, width = images.shape[2:]
    if height % size or width % size:
        raise SystemExit(f"--region-size: {size} does not divide {height} x {width} pixels.")
    count = (height // size) * (width // size)
    if 2 * marked > count:
        raise SystemExit(f"--marked: {marked} are more than half of {count} regions.")


# ----------------------------------------------------------------------------------- one block


def measure(job: Job, block: range) -> dict[str, Tensor]:
    """All numbers of a block, (len(block),) each, by "measure/fill/what"."""
    x = job.images[block.start : block.stop]
    found: dict[str, Tensor] = {}
    for fill in job.fills:
        for parts in (_of_sums(job, x, fill, block.start), _of_latents(job, x, fill, block.start)):
            found |= parts
    return found


def _of_sums(job: Job, x: Tensor, fill: str, first: int) -> dict[str, Tensor]:
    """Areas of the sums over latents, and their correlations with occlusion."""
    trained, size = job.networks["pretrained"], job.options.region_size
    output = _grad_lam.reconstruction_change(trained, x)
    maps = sums(job, x, fill, first)
    exact = _grad_lam.occlusion(job, x, trained, output, fill, first)
    maps[OCCLUSION] = exact
    curves = {
        order: _grad_lam.perturbed(job, x, maps, trained, output, fill, order, first)
        for order in ("morf", "lerf")
    }
    wanted, change = by_region(exact, size), by_region(maps[SIZE], size).sqrt()
    found = {}
    for name, m in maps.items():
        area = evaluation.abpc(curves["morf"][name], curves["lerf"][name])
        found[f"{_AREA}/{fill}/{name}"] = area
        if name != OCCLUSION:
            told = change if name == SIZE else by_region(m, size)
            found[f"{_LIKE}/{fill}/{name}"] = correlation(told, wanted)
        if name not in (OCCLUSION, SIZE):
            found[f"{_BEYOND}/{fill}/{name}"] = correlation(told, wanted, change)
    return found


def sums(job: Job, x: Tensor, fill: str, first: int) -> dict[str, Tensor]:
    """Sums over the latents with two references, and the controls, (N, H, W) each.

    The controls are the size of the change under the fill, which asks no network; the matched map
    of an encoder with random weights, and of another picture; and noise.
    """
    trained, untrained = job.networks["pretrained"], job.networks["random"]
    encoder, decoder = trained.encoder, trained.decoder
    assert isinstance(decoder, nn.Sequential)
    fills = _references(job, fill)
    lam = partial(_lam, job, x, first=first)
    found = {
        "gram, zero": lam(encoder, decoder, "gram"),
        "jacobian, zero": lam(encoder, decoder, "jacobian"),
        "gram, fill": lam(encoder, decoder, "gram", reference=fills),
        "gram, fill, pooled": lam(encoder, decoder, "gram", reference=fills, pooled=True),
        "gram, fill, no clamp": lam(encoder, decoder[:-1].eval(), "gram", reference=fills),
        "gram, fill, random encoder": lam(untrained.encoder, decoder, "gram", reference=fills),
        "jacobian, fill": lam(encoder, decoder, "jacobian", reference=fills),
        "uniform, fill": lam(encoder, None, "uniform", reference=fills),
        "uniform, fill, other units": lam(
            _grad_lam.rescaled(encoder), None, "uniform", reference=fills
        ),
    }
    if _whole_places(job, x):
        size = job.options.region_size
        found["gram, fill, squares"] = lam(
            encoder, decoder, "gram", reference=fills, region_size=size
        )
    found["gram, fill, another picture"] = found["gram, fill"].roll(1, dims=0)
    found[SIZE] = _size(job, x, fill, first)
    found[RANDOM_MAP] = attribution.random_map(encoder, x, seed=job.options.seed + first)
    return found


def _lam(
    job: Job,
    x: Tensor,
    encoder: nn.Module,
    decoder: nn.Module | None,
    weighting: Any,
    *,
    first: int,
    pooled: bool = False,
    **options: Any,
) -> Tensor:
    return attribution.grad_lam(
        encoder,
        decoder,
        x,
        job.options.layer,
        weighting,
        pooled=pooled,
        seed=job.options.seed + first,
        **options,
    ).aggregate


def _references(job: Job, fill: str) -> list[Any]:
    """The fill as a reference; several draws of one that is drawn at random."""
    return [job.fills[fill]] * (DRAWS if fill in _RANDOM_FILLS else 1)


def _size(job: Job, x: Tensor, fill: str, first: int) -> Tensor:
    """The squared size of the change of each pixel under a fill, (N, H, W), over its draws."""
    generator = torch.Generator().manual_seed(job.options.seed + first)
    others = [make(x, generator) for make in _references(job, fill)]
    return torch.stack([(x - other).square().sum(dim=1) for other in others]).mean(dim=0)


def _whole_places(job: Job, x: Tensor) -> bool:
    """Whether a region is made of whole places of the layer."""
    trained, layer = job.networks["pretrained"], job.options.layer
    code = attribution.grad_lam(trained.encoder, None, x[:1], layer, "uniform")
    size: int = job.options.region_size
    return size * code.maps.shape[-1] % x.shape[-1] == 0


def by_region(pixels: Tensor, size: int) -> Tensor:
    """Means over square regions: (N, H, W) or (N, J, H, W) to (..., regions)."""
    return F.avg_pool2d(pixels.double(), size).flatten(-2)


def correlation(a: Tensor, b: Tensor, given: Tensor | None = None) -> Tensor:
    """Pearson's correlation over regions, image by image, (N, R) each to (N,).

    With a third quantity it is the partial correlation: of what is left of both when the best
    straight line in the third has been taken away. Where nothing varies it is 0.
    """
    a, b = (each - each.mean(dim=1, keepdim=True) for each in (a, b))
    if given is not None:
        c = F.normalize(given - given.mean(dim=1, keepdim=True), dim=1)
        a, b = (each - (each * c).sum(dim=1, keepdim=True) * c for each in (a, b))
    return (F.normalize(a, dim=1) * F.normalize(b, dim=1)).sum(dim=1)


# ------------------------------------------------------------------------------ single latents


def _of_latents(job: Job, x: Tensor, fill: str, first: int) -> dict[str, Tensor]:
    """How far the regions that maps of latents mark move their own latent, and the others."""
    generator = torch.Generator().manual_seed(job.options.seed + first)
    other = torch.cat([job.fills[fill](image[None], generator) for image in x])
    scores = latent_scores(job, x, other, fill, first)
    drawn = torch.rand(scores[OCCLUSION].shape, generator=generator)
    found = {}
    for name, score in {**scores, RANDOM_MAP: drawn}.items():
        orders = {"own": score, "another picture": score.roll(1, dims=0)}
        for order, each in orders.items() if name in scores else [("own", score)]:
            for what, values in moves(job, x, other, each).items():
                found[f"latent {what}/{fill}/{name}/{order}"] = values
    return found


@torch.no_grad()
def latent_scores(job: Job, x: Tensor, other: Tensor, fill: str, first: int) -> dict[str, Tensor]:
    """The maps of all latents by region, (N, J, regions), signed; and exact occlusion.

    Occlusion is how far the latent falls when a region alone is replaced: the best that is known.
    """
    encoder, size = job.networks["pretrained"].encoder, job.options.region_size
    found = {}
    for pooling, pooled in {"element-wise": False, "pooled": True}.items():
        for name, reference in {"zero": None, "fill": _references(job, fill)}.items():
            maps = attribution.grad_lam(
                encoder,
                None,
                x,
                job.options.layer,
                "uniform",
                pooled=pooled,
                reference=reference,
                seed=job.options.seed + first,
            ).maps
            found[f"{pooling}, {name}"] = latents_by_region(maps, x.shape[2:], size)
    regions = evaluation.Regions(x.shape[2], x.shape[3], size)
    code, falls = encoder(x), []
    for region in range(regions.count):
        falls.append(code - encoder(torch.where(regions.index == region, other, x)))
    return found | {OCCLUSION: torch.stack(falls, dim=2).double()}


def latents_by_region(maps: Tensor, pixels: torch.Size, size: int) -> Tensor:
    """Means of maps (N, J, h, w) over regions; if these cut places, of the enlarged maps."""
    places = size * maps.shape[-1] / pixels[-1]
    if places == int(places):
        return by_region(maps, int(places))
    return by_region(F.interpolate(maps, pixels, mode="bilinear"), size)


@torch.no_grad()
def moves(job: Job, x: Tensor, other: Tensor, scores: Tensor) -> dict[str, Tensor]:
    """What happens to the latents when the marked regions are replaced, (N,) each.

    For each map the regions with the highest values are replaced, and for themselves those with
    the lowest: its latent should fall, and rise. All is in units of the latent's spread over the
    images, and does not ask which sign training has given to a latent.

    Args:
        job: The run.
        x: Images (N, C, H, W).
        other: What replaces them.
        scores: Values of J maps in each region, (N, J, regions).

    Returns:
        "swing": half of fall and rise of a map's own latent; "swing of others": the same of the
        other latents; "own" and "others": mean absolute changes; "first": the share of maps whose
        own latent changes most of all.
    """
    code, spread = job.networks["pretrained"].encoder(x), job.spread
    high = (code[:, None] - _after(job, x, other, scores)) / spread
    low = (_after(job, x, other, -scores) - code[:, None]) / spread
    swing, size = (high + low) / 2, (high.abs() + low.abs()) / 2
    apart = ~torch.eye(code.shape[1], dtype=torch.bool)
    first = size.argmax(dim=2) == torch.arange(code.shape[1])
    return {
        "swing": _diagonal(swing).mean(dim=1).double(),
        "swing of others": swing[:, apart].mean(dim=1).double(),
        "own": _diagonal(size).mean(dim=1).double(),
        "others": size[:, apart].mean(dim=1).double(),
        "first": first.double().mean(dim=1),
    }


def _diagonal(square: Tensor) -> Tensor:
    return square.diagonal(dim1=1, dim2=2)


def _after(job: Job, x: Tensor, other: Tensor, scores: Tensor) -> Tensor:
    """The codes (N, map, latent) when the regions where each map is highest are replaced."""
    top = scores.topk(job.options.marked, dim=2).indices
    chosen = torch.zeros_like(scores, dtype=x.dtype).scatter_(2, top, 1.0)
    side = x.shape[-1] // job.options.region_size
    grid = chosen.view(*chosen.shape[:2], -1, side)
    inside = F.interpolate(grid, x.shape[2:], mode="nearest")[:, :, None]
    encoder = job.networks["pretrained"].encoder
    return torch.stack(
        [
            encoder(torch.where(where > 0, new, old))
            for where, new, old in zip(inside, other, x, strict=True)
        ]
    )


# --------------------------------------------------------------------------------- the tables

MATCHED = "gram, fill"
PLANNED = (
    (MATCHED, "gram, zero"),
    (MATCHED, SIZE),
    (MATCHED, "jacobian, fill"),
    (MATCHED, "gram, fill, no clamp"),
    (MATCHED, "gram, fill, pooled"),
    (MATCHED, "gram, fill, random encoder"),
    (MATCHED, "gram, fill, another picture"),
    (MATCHED, RANDOM_MAP),
    ("jacobian, fill", "uniform, fill, other units"),
    ("uniform, fill", "uniform, fill, other units"),
)
"""Which sums are compared, by area and by the correlation with occlusion."""
_OWN, _BORROWED, _OTHERS = "its own map", "its map of another picture", "the maps of other latents"
LATENTS = (
    (("element-wise, fill", _OWN), ("element-wise, fill", _BORROWED)),
    (("element-wise, fill", _OWN), ("element-wise, fill", _OTHERS)),
    (("element-wise, fill", _OWN), (RANDOM_MAP, _OWN)),
    (("element-wise, fill", _OWN), ("element-wise, zero", _OWN)),
    (("element-wise, fill", _OWN), ("pooled, fill", _OWN)),
    (("element-wise, zero", _OWN), ("pooled, zero", _OWN)),
    (("pooled, fill", _OWN), ("pooled, fill", _BORROWED)),
    (("element-wise, fill", _OWN), (OCCLUSION, _OWN)),
)
"""Which maps of single latents are compared, by the swing and by the absolute change."""


def write_tables(out: Path, found: Mapping[str, Tensor], resamples: int) -> list[Path]:
    """Write sums and latents with their intervals, and the planned pairs of both."""
    sums_of = _split(found, (_AREA, _LIKE, _BEYOND))
    latents = _latent_measures(_split(found, ("latent",)))
    tables = {
        "sums": [_row(key, v, resamples) for key, v in sums_of.items()],
        "sums-planned": _planned(sums_of, _pairs(PLANNED, (_AREA, _LIKE)), resamples),
        "latents": [_row(key, v, resamples) for key, v in latents.items()],
        "latents-planned": _planned(latents, _pairs(LATENTS, ("swing", "move")), resamples),
    }
    return [write_table(out, name, rows) for name, rows in tables.items()]


_Key = tuple[str, str, str]


def _split(found: Mapping[str, Tensor], measures: Iterable[str]) -> dict[_Key, Tensor]:
    """By (measure, fill, what), of the measures that begin with one of some words."""
    keys = {key: key.split("/", 2) for key in found if key.startswith(tuple(measures))}
    return {(m, fill, what): found[key] for key, (m, fill, what) in keys.items()}


def _latent_measures(found: Mapping[_Key, Tensor]) -> dict[_Key, Tensor]:
    """By (measure, fill, "map by order"): a latent's change by several maps, and the other's."""
    named: dict[_Key, Tensor] = {}
    for (measure, fill, what), values in found.items():
        name, order = what.split("/")
        short = measure.removeprefix("latent ")
        if short in ("swing of others", "others"):
            if order == "own":
                kind = "swing" if short.startswith("swing") else "move"
                named[kind, fill, _joined(name, _OTHERS)] = values
        else:
            whose = _OWN if order == "own" else _BORROWED
            named["move" if short == "own" else short, fill, _joined(name, whose)] = values
    return named


def _joined(name: str, whose: str) -> str:
    return f"{name}: {whose}"


def _row(key: _Key, values: Tensor, resamples: int) -> dict[str, Any]:
    measure, fill, what = key
    return {"measure": measure, "fill": fill, "method": what} | interval(values, resamples)


def _pairs(
    planned: Iterable[tuple[Any, Any]], measures: Iterable[str]
) -> list[tuple[str, str, str]]:
    """(measure, first, second) of all planned pairs."""
    named = [tuple(e if isinstance(e, str) else _joined(*e) for e in pair) for pair in planned]
    return [(measure, first, second) for measure in measures for first, second in named]


def _planned(
    found: Mapping[_Key, Tensor], pairs: Iterable[tuple[str, str, str]], resamples: int
) -> list[dict[str, Any]]:
    """Each pair with its interval; Holm's correction over all pairs, measures and fills."""
    rows: list[tuple[dict[str, Any], Any]] = []
    for fill in dict.fromkeys(key[1] for key in found):
        for measure, first, second in pairs:
            both = {m: found[measure, fill, m] for m in (first, second)}
            pair = evaluation.compare(both, resamples=resamples)[0]
            rows.append(({"measure": measure, "fill": fill}, pair))
    adjusted = evaluation.holm([pair.p_value for _, pair in rows])
    return [
        where | pair_row(pair, float(p)) for (where, pair), p in zip(rows, adjusted, strict=True)
    ]
