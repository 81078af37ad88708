"""``dmbp-oracle``: DMBP on small networks for which the right answer is known.

*Patch networks* look at one region of the picture at a time and add up what they find. So each
region contributes a number of its own, whatever stands in the others, and blanking it changes the
output by just that. *One layer*: there all hard masks can be tried, and the best be known.
"""

import argparse
import itertools
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm.auto import tqdm

from xaiutils import attribution
from xaiutils.attribution import Extraction, Purity
from xaiutils.attribution._dmbp_objectives import pool
from xaiutils.reproduce._provenance import command_line, provenance, write_json
from xaiutils.reproduce._tables import interval, write_table

SIDE, GRID, COLOURS, FILTERS = 4, 6, 3, 16  # a region's side in pixels, regions in a row, ...
SEARCHES: dict[str, dict[str, Any]] = {
    "greedy": {"iterations": 0},
    "purity": {"objective": Purity(window=SIDE)},
    "extraction": {"objective": Extraction(window=SIDE)},
    "overlap": {"objective": Extraction(window=SIDE, overlap=1.0)},
}
"""What is tried on the patch networks, by name: options of :func:`xaiutils.attribution.dmbp`."""
GRADIENT = "input_x_gradient"


def add_command(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add ``dmbp-oracle`` to the command line."""
    oracle = commands.add_parser("dmbp-oracle", help="DMBP where the right answer is known")
    oracle.add_argument("--out", type=Path, required=True, help="tables begin with this path")
    oracle.add_argument("--networks", type=int, default=40, help="random networks of each kind")
    oracle.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Measure all networks, then write the tables."""
    if options.networks < 2:
        raise SystemExit(f"--networks must be at least 2, not {options.networks}.")
    found: dict[str, list[float]] = {}  # of one image for each network
    for seed in tqdm(range(options.networks), unit="networks"):
        measured = {"lead/one layer/greedy": lead(seed)} | judge(seed, False) | judge(seed, True)
        for key, value in measured.items():
            found.setdefault(key, []).append(value)
    rows, pairs = [], []
    for key, values in found.items():
        measure, kind, method = key.split("/")
        names = {"measure": measure, "network": kind, "method": method}
        numbers = torch.tensor(values, dtype=torch.float64)
        rows.append(names | interval(numbers))
        rival = found.get(f"{measure}/{kind}/{GRADIENT}")
        if rival and method != GRADIENT:
            differences = numbers - torch.tensor(rival, dtype=torch.float64)
            pairs.append(names | {"minus": GRADIENT} | interval(differences))
    write_table(options.out, "measures", rows)
    write_table(options.out, "comparisons", pairs)
    facts = {"networks": options.networks, "searches": {k: str(v) for k, v in SEARCHES.items()}}
    write_json(
        options.out.with_name(f"{options.out.name}.json"), provenance(command_line(), **facts)
    )
    return 0


def patch_network(seed: int, biases: bool) -> nn.Sequential:
    """Two hidden layers for each region of a (N, 3, 24, 24) input, and the sum over the regions."""
    torch.manual_seed(seed)
    first = nn.Conv2d(COLOURS, FILTERS, SIDE, SIDE, bias=biases)
    second = nn.Conv2d(FILTERS, FILTERS, 1, bias=biases)
    readout = nn.Conv2d(FILTERS, 1, 1, bias=False)
    readout.weight.data -= readout.weight.data.mean()  # else all regions may have one sign
    for layer in (first, second):
        if layer.bias is not None:
            nn.init.normal_(layer.bias, std=0.3)
    network = nn.Sequential(
        first,
        nn.ReLU(),
        second,
        nn.ReLU(),
        readout,
        nn.AvgPool2d(GRID, divisor_override=1),
        nn.Flatten(),
    )
    return network.double().eval()


@torch.no_grad()
def contributions(network: nn.Sequential, x: Tensor) -> Tensor:
    """What the output loses when one region of ``x`` is set to 0, (N, GRID**2)."""
    each = network[:5]
    lost: Tensor = each(x) - each(torch.zeros_like(x))
    return lost.flatten(1)


@torch.no_grad()
def gross_evidence(network: nn.Sequential, x: Tensor) -> tuple[Tensor, Tensor]:
    """What the units of the last hidden layer put in for the output, and against it.

    Units are told apart here, so that their two sums may be large where a region's balance, which
    is `contributions`, is small. Another layer would draw the line elsewhere.

    Returns:
        Two tensors (N, GRID**2): the sum over the units whose share in what the output loses when
        the region is set to 0 is positive, and the sum over the others, which is not positive.
    """
    hidden, readout = network[:4], network[4]
    assert isinstance(readout, nn.Conv2d)
    shares = (hidden(x) - hidden(torch.zeros_like(x))) * readout.weight.transpose(0, 1)[None, :, 0]
    return shares.clamp(min=0).sum(1).flatten(1), shares.clamp(max=0).sum(1).flatten(1)


def judge(seed: int, biases: bool) -> dict[str, float]:
    """How well maps agree with the contributions, by "measure/kind of network/method".

    ``agreement`` is the correlation over the regions of a signed map with the contributions;
    ``positive`` and ``negative`` the cosine of one sign of a map with that sign of them;
    ``gross positive`` and ``gross negative`` with :func:`gross_evidence` instead.
    """
    network = patch_network(seed, biases)
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(1, COLOURS, SIDE * GRID, SIDE * GRID, dtype=torch.float64, generator=generator)
    truth, (gains, losses) = contributions(network, x), gross_evidence(network, x)
    signed = attribution.input_x_gradient(network, x, 0)
    maps = {GRADIENT: (signed, signed, signed)}
    for name, search in SEARCHES.items():
        result = attribution.dmbp(network, x, 0, **search)
        maps[name] = (result.map, result.positive, result.negative)
    kind, found = "with biases" if biases else "without biases", dict[str, float]()
    for name, views in maps.items():
        both, positive, negative = (pool(view[None], SIDE)[0] for view in views)
        found[f"agreement/{kind}/{name}"] = _cosine(_centred(both), _centred(truth))
        found[f"positive/{kind}/{name}"] = _cosine(positive.relu(), truth.relu())
        found[f"negative/{kind}/{name}"] = _cosine((-negative).relu(), (-truth).relu())
        found[f"gross positive/{kind}/{name}"] = _cosine(positive.relu(), gains)
        found[f"gross negative/{kind}/{name}"] = _cosine((-negative).relu(), -losses)
    return found


def _centred(values: Tensor) -> Tensor:
    return values - values.mean(1, keepdim=True)


def _cosine(first: Tensor, second: Tensor) -> float:
    return F.cosine_similarity(first, second).item()


def lead(seed: int) -> float:
    """How far the greedy masks of one layer are ahead of all others, beside what all filters do.

    Of 6 filters with random weights all 64 hard masks are tried.
    """
    torch.manual_seed(seed)
    readout = nn.Linear(54, 1)
    network = nn.Sequential(nn.Conv2d(2, 6, 3, bias=False), nn.ReLU(), nn.Flatten(), readout)
    network = network.double().eval()
    x = torch.randn(1, 2, 5, 5, dtype=torch.float64)
    found = attribution.dmbp(network, x, 0, iterations=0)
    chosen, got = found.masks["1"][0, 0], found.positive.sum()
    with torch.no_grad():
        each = network[:2](x).flatten(1)[0] * readout.weight[0]
    alone = each.view(6, 9).sum(1)  # a mask's output is the sum over the filters that it keeps
    others = torch.tensor(list(itertools.product([0.0, 1.0], repeat=6)), dtype=torch.float64)
    others = others[((others != chosen) & (alone != 0)).any(1)]  # a dead filter changes nothing
    return float((got - (others @ alone).max()) / alone.abs().sum())
