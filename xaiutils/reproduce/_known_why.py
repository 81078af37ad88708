"""``known-truth-why``: interventions that ask what two results of ``known-truth`` are owed to.

*Weights.* Class activation maps with one weight a channel are far from the truth on planted shapes.
Is it the size of the cells, the layer, the one weight, or the network, which reads of each channel
the largest value? The weight is made finer step by step, from one for all places to one for each,
on the same maps of the same layer; the finest map is made coarser; other layers are taken; and
networks are trained that read the mean of each channel instead.

*Contrasts.* CLRP and SGLRP ask for a class against others, all other methods asked for a logit. So
these are asked for a contrast too: the margin over the best rival, and the class against the mean
of all others.
"""

import argparse
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm.auto import tqdm

from xaiutils import attribution, data, evaluation, models
from xaiutils.attribution import Margin
from xaiutils.attribution._cam import from_slopes
from xaiutils.evaluation import truth
from xaiutils.reproduce._explained import weights
from xaiutils.reproduce._known_instruments import CELL, GRIDS, cases, instrument
from xaiutils.reproduce._options import require_positive
from xaiutils.reproduce._provenance import command_line, provenance, write_json
from xaiutils.reproduce._tables import write_table

Scores = dict[tuple[str, ...], list[Tensor]]
"""The scores (N,) of each network or block by what they are of."""

_SHAPES = ("patch", "decoy", "interaction", "saturation")
_LAYERS = {"before the first pooling": "features.1", "after the second": "features.5"}
_CAMS = ("grad_cam", "hires_cam", "layer_cam")
_SIDES = (1, 2, 7, 14)  # of the blocks that share a weight, in places of 14
_BESIDE = ("gradient", "input_x_gradient", "lrp")
_ASKED = (
    "gradient", "input_x_gradient", "integrated_gradients", "deeplift", "grad_cam", "hires_cam",
    "lrp", "lrp_z_plus", "lrp_epsilon", "lrp_gamma", "lrp_alpha2_beta1",
)  # fmt: skip
_CONTRASTING = ("clrp", "sglrp")
_CONTRASTED = ("GridPG", "backdoor")


def add_command(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add ``known-truth-why`` to the command line."""
    why = commands.add_parser("known-truth-why", help="what results of known-truth are owed to")
    why.add_argument("--work", type=Path, required=True, help="that of known-truth: its networks")
    why.add_argument("--out", type=Path, required=True, help="tables begin with this path")
    why.add_argument("--seeds", type=int, default=5, help="networks of an instrument")
    why.add_argument("--pictures", type=int, default=12, help="of each network")
    why.add_argument("--grids", type=int, default=8, help="a multiple of 2; 0 for none")
    why.add_argument("--model", default="squeezenet1_1", help="that looks at the grids")
    why.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Measure, and write the tables."""
    require_positive(options, "seeds", "pictures")
    options.work.mkdir(parents=True, exist_ok=True)
    facts: dict[str, Any] = {"pictures": options.pictures, "seeds": options.seeds}
    if options.grids:
        classifier = models.load_classifier(options.model)
        facts |= {"grids": options.grids, "model": options.model, "cell": CELL}
        facts["weights"] = weights(classifier.module, classifier.source)
    chances: dict[str, float] = {}
    write_table(options.out, "weights", _weight_rows(_of_weights(options, chances), chances))
    found = _of_contrasts(options, chances)
    write_table(options.out, "contrasts", _contrast_rows(found, chances))
    write_table(options.out, "gains", _gain_rows(found))
    record = provenance(command_line(), **facts)
    write_json(options.out.with_name(f"{options.out.name}.json"), record)
    return 0


# -------------------------------------------------------------------------------------- weights


def _of_weights(options: argparse.Namespace, chances: dict[str, float]) -> Scores:
    """Scores by (pooling, instrument, map), of networks that follow their rule."""
    found: Scores = {}
    planted = argparse.Namespace(**{**vars(options), "instruments": _SHAPES})
    for case in tqdm(list(cases(planted)), unit="networks"):
        rule = next(rule for rule in data.RULES if rule == case[0])
        by_mean = truth.planted_network(rule, case[1], pooling="mean")
        means = truth.planted_instrument(rule, options.pictures, case[1], by_mean)
        for pooling, known in {"max": instrument(planted, case), "mean": means}.items():
            chances[rule] = known.chance().mean().item()
            for name, maps in _weighted(known).items() if known.sound else ():
                found.setdefault((pooling, rule, name), []).append(known.score(maps))
    return found


def _weighted(known: truth.Instrument) -> dict[str, Tensor]:
    """Maps of one network (N, 1, H, W): finer weights, coarser maps, other layers."""
    given = known.model, known.x, known.target
    found = {name: attribution.METHODS[name](*given) for name in (*_CAMS, *_BESIDE)}
    for where, layer in _LAYERS.items():
        for name in _CAMS:
            found[f"{name}, {where}"] = attribution.METHODS[name](*given, layer=layer)
    for side in _SIDES:
        combine = partial(_by_blocks, side)
        found[f"one weight for {side} x {side}"] = from_slopes(combine, *given, None, None, None)
    halved = from_slopes(_at_half_size, *given, None, None, None)
    return found | {"hires_cam at half size": halved}


def _by_blocks(side: int, maps: Tensor, slopes: Tensor) -> Tensor:
    """As Grad-CAM, but each block of places has weights of its own, the mean slopes in it."""
    shared = F.interpolate(F.avg_pool2d(slopes, side), scale_factor=side)
    return (shared * maps).sum(1, keepdim=True).relu()


def _at_half_size(maps: Tensor, slopes: Tensor) -> Tensor:
    return F.avg_pool2d((slopes * maps).sum(1, keepdim=True), 2)


def _weight_rows(found: Scores, chances: Mapping[str, float]) -> list[dict[str, Any]]:
    return [
        {"pooling": pooling, "instrument": rule, "map": name}
        | _mean(scores, by_network=True)
        | {"chance": chances[rule]}
        for (pooling, rule, name), scores in found.items()
    ]


# ------------------------------------------------------------------------------------ contrasts


def _of_contrasts(options: argparse.Namespace, chances: dict[str, float]) -> Scores:
    """Scores by (instrument, method, what it was asked for)."""
    found: Scores = {}
    names = [name for name in _CONTRASTED if options.grids or name not in GRIDS]
    contrasted = argparse.Namespace(**{**vars(options), "instruments": names})
    for case in tqdm(list(cases(contrasted)), unit="cases"):
        known = instrument(contrasted, case)
        chances[case[0]] = known.chance().mean().item()
        for (name, asked), maps in _contrasted(known).items() if known.sound else ():
            found.setdefault((case[0], name, asked), []).append(known.score(maps))
    return found


def _contrasted(known: truth.Instrument) -> dict[tuple[str, str], Tensor]:
    """Maps by method and question."""
    given = known.model, known.x
    methods: dict[str, Callable[..., Tensor]] = attribution.METHODS
    questions = {"logit": known.target, "margin": Margin(known.target), "mean": _against_all(known)}
    found = {
        (name, asked): methods[name](*given, question)
        for name in _ASKED
        for asked, question in questions.items()
    }
    return found | {(name, "own"): methods[name](*given, known.target) for name in _CONTRASTING}


@torch.no_grad()
def _against_all(known: truth.Instrument) -> Tensor:
    """Weights of the outputs (N, K): 1 for the class, the others share -1."""
    outputs = known.model(known.x)
    others = torch.full_like(outputs, -1 / (outputs.shape[1] - 1))
    return others.scatter(1, known.target[:, None], 1.0)


def _contrast_rows(found: Scores, chances: Mapping[str, float]) -> list[dict[str, Any]]:
    return [
        {"instrument": name, "method": method, "asked": asked}
        | _mean(scores, by_network=name not in GRIDS)
        | {"chance": chances[name]}
        for (name, method, asked), scores in found.items()
    ]


def _gain_rows(found: Scores) -> list[dict[str, Any]]:
    """The margin less the logit, method by method; and CLRP less the margin of LRP."""
    pairs = [
        ((name, method, "margin"), (name, method, "logit"))
        for name in dict.fromkeys(name for name, *_ in found)
        for method in _ASKED
    ]
    pairs += [
        ((name, one, "own"), (name, "lrp", "margin"))
        for name in dict.fromkeys(name for name, *_ in found)
        for one in _CONTRASTING
    ]
    gains = [[a - b for a, b in zip(found[one], found[other], strict=True)] for one, other in pairs]
    p_values = [evaluation.sign_flip(torch.cat(gain)) for gain in gains]
    return [
        {"instrument": one[0], "first": " ".join(one[1:]), "second": " ".join(other[1:])}
        | _mean(gain, by_network=one[0] not in GRIDS)
        | {"p_value": p_value, "p_holm": p_holm}
        for (one, other), gain, p_value, p_holm in zip(
            pairs, gains, p_values, evaluation.holm(p_values), strict=True
        )
    ]


def _mean(scores: list[Tensor], by_network: bool) -> dict[str, Any]:
    """The mean with its interval, Student's, over networks if there are several."""
    several = by_network and len(scores) > 1
    groups = [str(k) for k, part in enumerate(scores) for _ in part] if several else None
    found = evaluation.bootstrap(torch.cat(scores), method="t", groups=groups)
    return {
        "mean": found.mean,
        "low": found.low,
        "high": found.high,
        "pictures": sum(len(part) for part in scores),
        "networks": len(scores) if by_network else 1,
    }
