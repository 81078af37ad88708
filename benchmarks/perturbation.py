"""Region perturbation here, elsewhere, and the bare forward passes: the same work in one run.

All entries of a part run the same network on the same number of pictures, and the script stops if
their scores differ. The bare passes only call the network, on batches of the same size: in the
memory format of the images as loaded, and in channels_last, which is faster on CPUs. "windows"
recomputes the early layers around the replaced region only, "whole" all of them; the entry without
either chooses by itself. There are four parts:

- ``steps``: curves of some steps, and the same in Quantus: the same regions are replaced by the
  same constant in the same order. Noise, which Quantus does not offer per pixel, is timed as well,
  and so is Quantus in batches of 64, which it takes by default.
- ``torchcam``: all regions one after another, from both ends, and the same in TorchCAM's deletion
  and insertion, whose pixels come in the order of the regions.
- ``alone``: each region alone (`region_occlusion`).
- ``search``: all regions that are left, tried at each of some steps (`search`).

    python benchmarks/perturbation.py [--part steps] [--model mnist_cnn] [--images 32] [--save]

Rounds take turns, and each entry is the fastest of its rounds: other programs only ever add time.
On a machine that is shared, ``--clock cpu`` counts the seconds of the processor instead of those of
the clock, and ``--bare`` bounds the pictures of the bare passes, whose seconds are then scaled up.
With ``--save`` the table goes to results/benchmark-perturbation-MODEL.csv (other parts
have their name behind it), its record beside it.
"""

import argparse
import sys
import time
import warnings
from contextlib import nullcontext
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from xaiutils import data, evaluation, models
from xaiutils.reproduce._provenance import provenance, write_json, write_text

RESULTS = Path(__file__).resolve().parents[1] / "results"
BATCH_SIZES = {"mnist_cnn": 32}  # fastest for bare passes; elsewhere:
BATCH_SIZE = 16
MODELS = ("mnist_cnn", "squeezenet1_1", "efficientnet_lite0", "vgg16")
# For digits and for photographs of 224 pixels; whole numbers of regions fit.
REGION_SIZES = {"steps": (2, 8), "torchcam": (4, 28), "alone": (2, 16), "search": (4, 28)}
STEPS = {"steps": 100, "search": 4}
TOLERANCE = 1e-3


def load(name, images, device):
    """The network, `images` inputs and the classes that it names; random weights do for speed."""
    embedded = name in ("mnist_cnn", "efficientnet_lite0")
    classifier = models.load_classifier(name, "pretrained" if embedded else "random")
    if name == "mnist_cnn":
        x = data.mnist("test", source="embedded").images[:images]
    else:
        photographs = classifier.batch(list(data.photos().images))
        x = photographs.repeat(-(-images // len(photographs)), 1, 1, 1)[:images]
    module, x = classifier.module.to(device), x.to(device)
    with torch.no_grad():
        targets = torch.cat([module(part).argmax(1) for part in x.split(16)])
    return module, x, targets


def ours(model, x, targets, maps, size, steps, **options):
    """Falls of the logit, (N, steps)."""
    curves = evaluation.region_perturbation(
        model, x, targets, maps, size, steps, repeats=1, **options
    )
    return curves.falls()[:, 1:].numpy()


def quantus_metric(size, steps):
    """Quantus set to the same work: nothing normalised, logits, a constant of zero."""
    import quantus

    return quantus.RegionPerturbation(
        patch_size=size,
        regions_evaluation=steps,
        order="morf",
        abs=False,
        normalise=False,
        perturb_baseline=0.0,
        disable_warnings=True,
    )


def theirs(metric, model, x, targets, maps, batch_size):
    """Falls of the logit, (N, steps)."""
    found = metric(
        model=model,
        x_batch=x.cpu().numpy(),
        y_batch=targets.cpu().numpy(),
        a_batch=maps.cpu().numpy(),
        softmax=False,
        device=str(x.device),
        batch_size=batch_size,
    )
    return np.asarray(found)


class Given:
    """Maps that are there, in the way in which TorchCAM asks for them."""

    def __init__(self, model, maps):
        self.model, self._maps = model, maps

    def __call__(self, class_idx=None, scores=None, normalized=True, **named):
        """The maps, whatever is asked."""
        return [self._maps]

    def fuse_cams(self, cams):
        """The one."""
        return cams[0]

    def _hooks_off(self):
        return nullcontext()


def torchcam_areas(model, x, targets, maps, count, batch_size):
    """Mean areas under the deletion and the insertion curve, of logits."""
    from torchcam.metrics import DeletionInsertionMetric

    metric = DeletionInsertionMetric(Given(model, maps[:, 0]), steps=count, batch_size=batch_size)
    metric.update(x, targets.tolist())
    return np.array(list(metric.summary().values())[:2])


def our_areas(model, x, targets, maps, size, count, **options):
    """The same from the two orders of region perturbation: insertion is LeRF read backwards."""
    curves = [
        evaluation.region_perturbation(
            model, x, targets, maps, size, count, order, evaluation.Constant(0.0), 1, **options
        ).scores[:, 0]
        for order in ("morf", "lerf")
    ]
    return np.array([float(torch.trapezoid(c, dx=1 / count).mean()) for c in curves])


@torch.no_grad()
def bare(model, batch, pictures):
    """So many pictures through the network, and nothing else."""
    for done in range(0, pictures, len(batch)):
        model(batch[: pictures - done])


def synchronise(device):
    """Wait until the device has finished."""
    if device == "cuda":
        torch.cuda.synchronize()


def timed(run, device, clock):
    """What `run` returns, and the seconds that it took."""
    synchronise(device)
    start = clock()
    found = run()
    synchronise(device)
    return found, clock() - start


def both_ways(run, batch_size):
    """Three entries: all layers, windows of the early ones, and whichever it chooses."""
    return {
        "here, whole": partial(run, windowed=False, batch_size=batch_size),
        "here, windows": partial(run, windowed=True),
        "here": run,
    }


def steps_part(model, x, targets, size, steps, batch_size):
    """Pictures, what is timed, and which entries must agree."""
    maps = torch.rand(len(x), 1, *x.shape[2:], generator=torch.Generator().manual_seed(0))
    metric, constant = quantus_metric(size, steps), evaluation.Constant(0.0)
    here = partial(ours, model, x, targets, maps, size, steps)
    runs = {
        **both_ways(partial(here, fill=constant), batch_size),
        "here, uniform": partial(here, fill="uniform"),
        "Quantus": partial(theirs, metric, model, x, targets, maps, batch_size),
        "Quantus, 64": partial(theirs, metric, model, x, targets, maps, 64),
    }
    return len(x) * (steps + 1), runs, ("here, whole", "here, windows", "here", "Quantus")


def torchcam_part(model, x, targets, size, count, batch_size):
    """Likewise; a map has one value in each region, so that its pixels go together."""
    regions = evaluation.Regions(*x.shape[2:], size)
    ranks = torch.stack([torch.randperm(count, generator=torch.Generator().manual_seed(i))
                         for i in range(len(x))])  # fmt: skip
    maps = ranks[:, regions.index][:, None].float().to(x.device)
    here = partial(our_areas, model, x, targets, maps, size, count)
    runs = {
        **both_ways(here, batch_size),
        "TorchCAM": partial(torchcam_areas, model, x, targets, maps, count, batch_size),
    }
    return 2 * len(x) * count, runs, tuple(runs)


def alone_part(model, x, targets, size, count, batch_size):
    """Likewise."""
    constant = evaluation.Constant(0.0)
    run = partial(evaluation.region_occlusion, model, x, targets, size, constant)
    runs = both_ways(run, batch_size)
    return len(x) * (count + 1), runs, tuple(runs)


def search_part(model, x, targets, size, steps, batch_size):
    """Likewise."""
    count = evaluation.Regions(*x.shape[2:], size).count
    constant = evaluation.Constant(0.0)

    def run(**options):
        return evaluation.search(model, x, targets, size, steps, constant, 1, **options).scores

    runs = both_ways(run, batch_size)
    return len(x) * (1 + sum(count - k for k in range(steps))), runs, tuple(runs)


PARTS = {
    "steps": steps_part, "torchcam": torchcam_part, "alone": alone_part, "search": search_part
}  # fmt: skip


def race(runs, rounds, device, clock):
    """The fastest round of each, and what each returned last."""
    best, found = dict.fromkeys(runs, float("inf")), {}
    for _ in range(rounds):
        for name, run in runs.items():
            found[name], seconds = timed(run, device, clock)
            best[name] = min(best[name], seconds)
    return best, found


def largest_error(found, names):
    """How far scores are apart that should be equal."""
    first, *others = (np.asarray(found[name]) for name in names)
    return max(float(np.abs(first - other).max()) for other in others)


def main():
    """Time all of them, in turns, and print the ratios."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--part", choices=PARTS, default="steps")
    parser.add_argument("--model", choices=MODELS, default="mnist_cnn")
    parser.add_argument("--images", type=int, default=32)
    parser.add_argument("--steps", type=int, help="of curves and of the search")
    parser.add_argument("--batch-size", type=int, default=None)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--bare", type=int, help="pictures of the bare passes, at most")
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall")
    parser.add_argument("--save", action="store_true")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(options.threads)
    torch.backends.cudnn.allow_tf32 = False  # full precision for all of them

    model, x, targets = load(options.model, options.images, options.device)
    batch_size = options.batch_size or BATCH_SIZES.get(options.model, BATCH_SIZE)
    size = REGION_SIZES[options.part][options.model != "mnist_cnn"]
    count = evaluation.Regions(*x.shape[2:], size).count
    steps = min(options.steps or STEPS.get(options.part, count), count)
    pictures, runs, alike = PARTS[options.part](model, x, targets, size, steps, batch_size)
    batch = torch.empty(batch_size, *x.shape[1:], device=x.device).copy_(x[:1])
    last = torch.empty_like(batch, memory_format=torch.channels_last).copy_(x[:1])
    for example in (batch, last):
        bare(model, example, batch_size)  # the first call of a network prepares much
    passes = {"bare": batch, "bare, ch. last": last}
    passed = min(pictures, options.bare or pictures)
    runs = {n: partial(bare, model, b, passed) for n, b in passes.items()} | runs
    clock = time.perf_counter if options.clock == "wall" else time.process_time
    best, found = race(runs, options.rounds, options.device, clock)
    best |= {name: best[name] * pictures / passed for name in passes}
    error = largest_error(found, alike)
    if error > TOLERANCE:
        raise SystemExit(f"not the same work: the scores differ by up to {error:.2g}")
    print(f"{options.model}, {options.part}, {len(x)} images, {steps} steps, {pictures} pictures")
    print(f"torch {torch.__version__}, {options.device}, {options.threads} threads")
    print(f"largest difference of scores that should be equal: {error:.1g}")
    table = as_table(best)
    print(table.to_string(index=False, float_format="{:.3g}".format))
    if options.save:
        facts = {"images": len(x), "steps": steps, "region_size": size, "pictures": pictures}
        facts |= {
            "bare_pictures": passed,
            "batch_size": batch_size,
            "clock": options.clock,
            "largest_error": error,
        }
        part = "" if options.part == "steps" else f"-{options.part}"
        save(f"benchmark-perturbation-{options.model}{part}", table, facts)


def as_table(best):
    """Seconds, and the ratios that matter: to the faster bare passes, and to other libraries."""
    bare_seconds = min(best["bare"], best["bare, ch. last"])
    rows = [{"what": name, "seconds": s, "of_bare": s / bare_seconds} for name, s in best.items()]
    for library in ("Quantus", "TorchCAM"):
        theirs = [seconds for name, seconds in best.items() if name.startswith(library)]
        for row in rows if theirs else []:
            row[f"faster_than_{library.lower()}"] = min(theirs) / row["seconds"]
    return pd.DataFrame(rows)


def save(name, table, facts):
    """Keep a table with its record."""
    command = " ".join(["python", "benchmarks/perturbation.py", *sys.argv[1:]])
    write_text(RESULTS / f"{name}.csv", table.to_csv(index=False, float_format="%.4g"))
    write_json(RESULTS / f"{name}.json", provenance(command, **facts))


if __name__ == "__main__":
    main()
