"""Time and peak memory of DMBP's search against autograd through autograd.

    python benchmarks/dmbp.py [--networks efficientnet_lite0,resnet50] [--size 64] [--repeats 5]
        [--objectives windows,pixels] [--equal-at 64]

The plain way writes the masks into hooks on the activations, takes the gradient of the output with
``create_graph=True`` once for each branch, and lets autograd differentiate the objective of it once
more; Adam then moves the logits of the masks, which start at 5, by 0.1 a step. Ours takes the
smallest number of iterations of those tried with which its objective is as low as the plain way's
best of 200, for every image: lower, or within 0.01 where both are close to the minimum of -2. There
is the objective that is the default, over windows, and one that judges every colour of every pixel.

Both compute the same gradient (this is checked first), so the plain way's 200 iterates are computed
with the exact gradient, and its time is 200 times that of one iteration as written. In each repeat
the two ways run one after the other; times are medians over repeats of the ratio in that repeat,
so that a busy machine disturbs them little. Peak memory is measured twice: what is held at one
time, and by how much the process grew, which counts the gaps between blocks too. Weights are
random, and so are the inputs. The number of iterations for an equal objective may be found on
smaller images than those that are timed (``--equal-at``), with windows in proportion: 200
iterations on large ones take long.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import statistics
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import pandas as pd
import torch
from attribution import load, peak_memory
from torch import Tensor, nn

from xaiutils import attribution, graph
from xaiutils.attribution import Objective, Purity
from xaiutils.attribution._dmbp import default_objective
from xaiutils.attribution._dmbp_masked import Masked
from xaiutils.attribution._dmbp_objectives import Evidence
from xaiutils.reproduce._provenance import provenance, write_json

ITERATIONS, RATE, START = 200, 0.1, 5.0
TOLERANCE = 0.01
TRIED = (2, 5, 10, 20, 40, 80)  # numbers of iterations
# glibc then gives blocks back to the system as soon as they are freed, instead of keeping them for
# later ones, which may not fit into the gaps.
_FREED_AT_ONCE = {"MALLOC_MMAP_THRESHOLD_": str(2**16)}


def plain_mapping(
    network: nn.Module, x: Tensor, targets: Tensor, masks: Iterator[Tensor]
) -> Tensor:
    """The gradient of the output with each filter's signal masked on its way back."""

    def mask_signal(_: nn.Module, __: object, output: Tensor) -> None:
        mask = next(masks)
        output.register_hook(lambda signal: signal * mask.view(*mask.shape, 1, 1))

    gates = [module for module in network.modules() if isinstance(module, (nn.ReLU, nn.ReLU6))]
    hooks = [gate.register_forward_hook(mask_signal) for gate in gates]
    x = x.clone().requires_grad_()
    output = network(x).gather(1, targets[:, None]).sum()
    for hook in hooks:
        hook.remove()
    return torch.autograd.grad(output, x, create_graph=True)[0]


def plain_gradient(
    network: nn.Module,
    x: Tensor,
    targets: Tensor,
    masks: Tensor,
    parts: Masked,
    objective: Objective,
) -> Tensor:
    """The gradient of the objective with respect to the masks by autograd through autograd."""
    masks = masks.clone().requires_grad_()
    mappings = [plain_mapping(network, x, targets, iter(parts.split(m))) for m in masks]
    loss, _ = objective.evaluate(Evidence(torch.stack(mappings) * x), parts.whole)
    return torch.autograd.grad(loss.sum(), masks)[0]


def exact_gradient(parts: Masked, masks: Tensor, objective: Objective) -> tuple[Tensor, Tensor]:
    """Losses and the same gradient by one backward and one forward pass."""
    _, evidence = parts.backward(masks)
    loss, slopes = objective.evaluate(evidence, parts.whole)
    return loss, parts.mask_gradient(masks, slopes)


def plain_search(parts: Masked, objective: Objective) -> Tensor:
    """The losses of the plain way at each iterate, (N, ITERATIONS)."""
    theta = torch.full_like(parts.ones(), START).requires_grad_()
    adam, losses = torch.optim.Adam([theta], RATE), []
    for _ in range(ITERATIONS):
        masks = theta.detach().sigmoid()
        loss, gradient = exact_gradient(parts, masks, objective)
        losses.append(loss)
        theta.grad = gradient * masks * (1 - masks)
        adam.step()
    return torch.stack(losses, 1)


def arrival(losses: Tensor) -> int:
    """How many iterations bring every image close to the best that it reaches."""
    close = losses.cummin(1).values <= losses.amin(1, keepdim=True) + TOLERANCE
    return int(close.all(0).int().argmax()) + 1


def enough(search: Callable[[int], attribution.Disentangled], wanted: Tensor) -> tuple[int, Tensor]:
    """The fewest iterations of ours that bring every image to the wanted loss, and what it gets."""
    for iterations in TRIED:
        reached = search(iterations).history.amin(1)
        if bool((reached <= wanted + TOLERANCE).all()):
            return iterations, reached
    raise SystemExit(f"{TRIED[-1]} iterations do not reach {wanted.tolist()}")


def seconds(function: Callable[[], object]) -> float:
    """How long a call takes."""
    begin = time.perf_counter()
    function()
    return time.perf_counter() - begin


def ratio(memory: dict[str, float]) -> float:
    """Ours to the plain way's, where it could be measured."""
    return memory["ours"] / memory["plain"] if memory["plain"] else float("nan")


def objectives(size: int) -> dict[str, Objective]:
    """What may be asked for, by name, for images of this side."""
    return {"windows": default_objective((3, size, size)), "pixels": Purity()}


@dataclass(frozen=True, eq=False)
class Case:
    """A network with inputs of one size, and what is to be made small."""

    network: nn.Module
    x: Tensor
    targets: Tensor
    parts: Masked
    objective: Objective

    def ours(self, iterations: int) -> attribution.Disentangled:
        """Search as the package does."""
        return attribution.dmbp(
            self.network, self.x, self.targets, iterations, objective=self.objective
        )

    def plain(self) -> Tensor:
        """One gradient the plain way, at the masks where it starts."""
        arguments = (self.network, self.x, self.targets, self.start, self.parts, self.objective)
        return plain_gradient(*arguments)

    def ways(self, iterations: int) -> dict[str, Callable[[], object]]:
        """One iteration of the plain way, and so many of ours."""
        return {"plain": self.plain, "ours": lambda: self.ours(iterations)}

    @property
    def start(self) -> Tensor:
        """The masks where the plain way starts."""
        return torch.full_like(self.parts.ones(), START).sigmoid()


def case(name: str, kind: str, batch: int, size: int) -> Case:
    """Random weights and inputs, the same whenever they are asked for."""
    network = load(name).requires_grad_(False)
    x = torch.randn(batch, 3, size, size, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        targets = network(x).argmax(1)
    parts = Masked(graph.trace(network, x), x, targets, needs_filters=False)
    return Case(network, x, targets, parts, objectives(size)[kind])


def peaks(threads: int, *arguments: object, iterations: int) -> dict[str, float]:
    """Peak memory of both ways, in bytes: the plain way's of one iteration."""
    torch.set_num_threads(threads)
    ways = case(*arguments).ways(iterations)
    for run in ways.values():
        run()  # what a first call prepares is not its memory
    return {way: peak_memory(run) for way, run in ways.items()}


def peaks_in_a_process(
    *arguments: object, iterations: int, freed_at_once: bool
) -> dict[str, float]:
    """The same in a process of its own, which begins with the settings of the C library."""
    with (
        mock.patch.dict(os.environ, _FREED_AT_ONCE if freed_at_once else {}),
        ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool,
    ):
        return pool.submit(
            peaks, torch.get_num_threads(), *arguments, iterations=iterations
        ).result()


def measure(
    name: str, kind: str, batch: int, size: int, equal_at: int, repeats: int
) -> dict[str, object]:
    """Compare both ways on one network by one objective."""
    small, large = (case(name, kind, batch, side) for side in (equal_at, size))
    _, gradient = exact_gradient(large.parts, large.start, large.objective)
    plain = large.plain()
    torch.testing.assert_close(gradient, plain, rtol=1e-2, atol=1e-3 * float(plain.abs().max()))
    losses = plain_search(small.parts, small.objective)
    wanted, needed = losses.amin(1), arrival(losses)
    iterations, reached = enough(small.ours, wanted)
    ways = large.ways(iterations)
    times = [{way: seconds(run) for way, run in ways.items()} for _ in range(repeats)]
    grown, held = (
        peaks_in_a_process(name, kind, batch, size, iterations=iterations, freed_at_once=freed)
        for freed in (False, True)
    )
    return {
        "network": name,
        "images": batch,
        "pixels": size,
        "objective": repr(large.objective),
        "equal_at_pixels": equal_at,
        "loss_plain": float(wanted.mean()),
        "loss_ours": float(reached.mean()),
        "iterations_plain": needed,
        "iterations_ours": iterations,
        "gain_per_iteration": statistics.median(iterations * t["plain"] / t["ours"] for t in times),
        "gain_of_search": statistics.median(needed * t["plain"] / t["ours"] for t in times),
        "seconds_ours": statistics.median(t["ours"] for t in times),
        "held_ratio": ratio(held),
        "megabytes_held": held["ours"] / 2**20,
        "memory_ratio": ratio(grown),
        "megabytes_ours": grown["ours"] / 2**20,
    }


def main() -> None:
    """Print the ratios, and write them with their record where asked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--networks", default="efficientnet_lite0,resnet50")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--objectives", default="windows,pixels")
    parser.add_argument("--equal-at", type=int, help="pixels; the same as --size if omitted")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, help="write OUT.csv and OUT.json")
    options = parser.parse_args()
    equal_at = options.equal_at or options.size
    torch.set_num_threads(options.threads)
    rows = []
    for name in options.networks.split(","):
        for kind in options.objectives.split(","):
            rows.append(measure(name, kind, options.batch, options.size, equal_at, options.repeats))
            print(rows[-1], flush=True)
    table = pd.DataFrame(rows)
    print(table.to_string(index=False, float_format="%.3g"))
    if options.out is not None:
        table.to_csv(options.out.with_suffix(".csv"), index=False, float_format="%.4g")
        facts = {key: getattr(options, key) for key in ("batch", "size", "repeats", "threads")}
        command = (
            f"python benchmarks/dmbp.py --networks {options.networks} --size {options.size} "
            f"--objectives {options.objectives} --equal-at {equal_at} --repeats {options.repeats}"
        )
        record = provenance(command, **facts, plain={"iterations": ITERATIONS, "rate": RATE})
        write_json(options.out.with_suffix(".json"), record)


if __name__ == "__main__":
    main()
