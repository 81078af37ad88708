"""How long reading a network takes, for the first time and again, against what it is made of.

    python benchmarks/tracing.py [--networks resnet50,densenet121] [--repeats 5] [--save]

Every repeat reads a new copy of each network (random weights) at batch 1, and runs one after the
other: the ``first`` reading, reading ``again`` with the same weights, after the ``weights``
changed, and with images of another ``size``; ``torch.export`` and ``torch.fx.symbolic_trace``
alone, which compare nothing with the network; and ``forward``, two images through the network, as
each new reading compares two. Ratios are medians over repeats of the ratio within one repeat, so
that a busy machine disturbs them little; ``--clock cpu --threads 1`` counts no time that other
processes took.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import torch
import torchvision
from torch import Tensor, nn

from xaiutils import graph
from xaiutils.reproduce._provenance import provenance, write_json, write_text

RESULTS = Path(__file__).resolve().parents[1] / "results"
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
NETWORKS = ("resnet50", "densenet121", "efficientnet_b0", "mobilenet_v3_small")
TARGETS = {"resnet50": 0.6, "densenet121": 1.5}  # seconds for the first reading, on two cores


def load(name: str) -> nn.Module:
    """Return a network with random weights; times do not depend on them."""
    torch.manual_seed(0)
    options = {"init_weights": False} if name in ("googlenet", "inception_v3") else {}
    return torchvision.models.get_model(name, weights=None, **options).eval()


def candidates(network: nn.Module, x: Tensor) -> dict[str, Callable[[], object]]:
    """Return what is timed, in this order: all but the first reading find the structure known."""
    pair, smaller = torch.cat([x, x]), x[..., :192, :160].contiguous()

    def changed() -> None:
        next(network.parameters()).data.mul_(1.01)
        graph.trace(network, x)

    batch = ({0: torch.export.Dim.DYNAMIC},)
    return {
        "forward": lambda: network(pair),
        "first": lambda: graph.trace(network, x),
        "again": lambda: graph.trace(network, x),
        "weights": changed,
        "size": lambda: graph.trace(network, smaller),
        "torch.export": lambda: torch.export.export(network, (pair,), dynamic_shapes=batch),
        "torch.fx": lambda: torch.fx.symbolic_trace(network),
    }


@torch.no_grad()
def measure(name: str, repeats: int, clock: Callable[[], float]) -> list[dict]:
    """Return a row for each candidate, with its median time and its ratio to a forward pass."""
    x = torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    times: dict[str, list[float]] = {}
    for repeat in range(repeats + 1):
        network = load(name)
        network(torch.cat([x, x]))
        for what, candidate in candidates(network, x).items():
            begin = clock()
            candidate()
            if repeat:  # the first time loads what is loaded once
                times.setdefault(what, []).append(clock() - begin)
    return [
        {
            "network": name,
            "what": what,
            "seconds": statistics.median(own),
            "fastest": min(own),
            "forward_passes": statistics.median(
                mine / base for mine, base in zip(own, times["forward"], strict=True)
            ),
            "torch_exports": statistics.median(
                mine / base for mine, base in zip(own, times["torch.export"], strict=True)
            ),
        }
        for what, own in times.items()
    ]


def verdicts(measured: pd.DataFrame) -> list[str]:
    """Say of each network with a target whether its first reading met it."""
    first = measured[measured["what"] == "first"].set_index("network")
    lines = []
    for name in first.index.intersection(list(TARGETS)):
        seconds, target = first.loc[name, "seconds"], TARGETS[name]
        met = "met" if seconds <= target else "missed"
        lines.append(f"{name}: first reading {seconds:.2f} s (target {target} s, {met})")
    return lines


def main() -> None:
    """Print the table, and whether the targets are met."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--networks", default="resnet50,densenet121,efficientnet_b0,mobilenet_v3_small"
    )
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--clock", choices=CLOCKS, default="wall")
    parser.add_argument("--save", action="store_true", help="write the table to results/")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    warnings.simplefilter("ignore")
    clock = CLOCKS[options.clock]
    rows = [r for n in options.networks.split(",") for r in measure(n, options.repeats, clock)]
    measured = pd.DataFrame(rows)
    print(measured.round(3).to_string(index=False))
    print(*verdicts(measured), sep="\n")
    if options.save:
        path = RESULTS / "benchmark-tracing.csv"
        write_text(path, measured.to_csv(index=False, float_format="%.3g"))
        record = provenance(
            " ".join(["python benchmarks/tracing.py", *sys.argv[1:]]),
            batch=1,
            pixels=224,
            repeats=options.repeats,
            threads=options.threads,
            clock=options.clock,
            weights="random, seed 0",
            tables=[path.name],
        )
        write_json(path.with_suffix(".json"), record)


if __name__ == "__main__":
    main()
