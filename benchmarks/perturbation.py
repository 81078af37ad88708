"""Region perturbation here, in Quantus, and the bare forward passes: the same work in one run.

All three run the same network on the same number of pictures. Here and in Quantus the same regions
are replaced by the same constant in the same order, and the script stops if their scores differ.
The bare passes only call the network, on batches of the same size: in the memory format of the
images as loaded, and in channels_last, which is faster on CPUs. "windows" recomputes the early
layers around the replaced region only, "whole" all of them; the entry without either chooses by
itself. Noise, which Quantus does not offer per pixel, is timed as well, and so is Quantus in
batches of 64, which it takes by default.

    python benchmarks/perturbation.py [--model mnist_cnn] [--images 32] [--rounds 3] [--save]

Rounds take turns, and each entry is the fastest of its rounds: other programs only ever add time.
With ``--save`` the table goes to results/benchmark-perturbation-MODEL.csv, its record beside it.
"""

import argparse
import sys
import time
import warnings
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from xaiutils import data, evaluation, models
from xaiutils.reproduce._provenance import provenance, write_json, write_text

RESULTS = Path(__file__).resolve().parents[1] / "results"
REGION_SIZES = {"mnist_cnn": 2, "efficientnet_lite0": 8, "vgg16": 8}  # whole numbers of them fit
BATCH_SIZES = {"mnist_cnn": 32, "efficientnet_lite0": 16, "vgg16": 16}  # fastest for bare passes


def load(name, images, device):
    """The network, `images` inputs and the classes that it names; random weights do for speed."""
    classifier = models.load_classifier(name, "random" if name == "vgg16" else "pretrained")
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


@torch.no_grad()
def bare(model, batch, pictures):
    """So many pictures through the network, and nothing else."""
    for done in range(0, pictures, len(batch)):
        model(batch[: pictures - done])


def synchronise(device):
    """Wait until the device has finished."""
    if device == "cuda":
        torch.cuda.synchronize()


def timed(run, device):
    """What `run` returns, and the seconds that it took."""
    synchronise(device)
    start = time.perf_counter()
    found = run()
    synchronise(device)
    return found, time.perf_counter() - start


def main():
    """Time all of them, in turns, and print the ratios."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", choices=REGION_SIZES, default="mnist_cnn")
    parser.add_argument("--images", type=int, default=32)
    parser.add_argument("--steps", type=int, help="100, or all regions if they are fewer")
    parser.add_argument("--batch-size", type=int, default=None)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--save", action="store_true")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(options.threads)
    torch.backends.cudnn.allow_tf32 = False  # full precision for all of them

    model, x, targets = load(options.model, options.images, options.device)
    batch_size = options.batch_size or BATCH_SIZES[options.model]
    size = REGION_SIZES[options.model]
    steps = options.steps or min(100, evaluation.Regions(*x.shape[2:], size).count)
    maps = torch.rand(len(x), 1, *x.shape[2:], generator=torch.Generator().manual_seed(0))
    metric = quantus_metric(size, steps)
    batch = torch.empty(batch_size, *x.shape[1:], device=x.device).copy_(x[:1])
    last = torch.empty_like(batch, memory_format=torch.channels_last).copy_(x[:1])
    here = partial(ours, model, x, targets, maps, size, steps)
    constant = evaluation.Constant(0.0)
    runs = {
        "bare": partial(bare, model, batch, len(x) * (steps + 1)),
        "bare, ch. last": partial(bare, model, last, len(x) * (steps + 1)),
        "here, whole": partial(here, fill=constant, windowed=False, batch_size=batch_size),
        "here, windows": partial(here, fill=constant, windowed=True),
        "here": partial(here, fill=constant),
        "here, uniform": partial(here, fill="uniform"),
        "Quantus": partial(theirs, metric, model, x, targets, maps, batch_size),
        "Quantus, 64": partial(theirs, metric, model, x, targets, maps, 64),
    }
    for example in (batch, last):
        bare(model, example, batch_size)  # the first call of a network prepares much
    best = dict.fromkeys(runs, float("inf"))
    found = {}
    for _ in range(options.rounds):
        for name, run in runs.items():
            found[name], seconds = timed(run, options.device)
            best[name] = min(best[name], seconds)
    names = ("here, whole", "here, windows", "here")
    error = max(float(np.abs(found[name] - found["Quantus"]).max()) for name in names)
    if error > 1e-3:
        raise SystemExit(f"not the same work: the scores differ by up to {error:.2g}")
    print(f"{options.model}, {len(x)} images, {steps} steps, batches of {batch_size}")
    print(f"torch {torch.__version__}, {options.device}, {options.threads} threads")
    print(f"largest difference of the scores from those of Quantus: {error:.1g}")
    table = as_table(best)
    print(table.to_string(index=False, float_format="{:.3g}".format))
    if options.save:
        facts = {"images": len(x), "steps": steps, "batch_size": batch_size}
        save(f"benchmark-perturbation-{options.model}", table, facts | {"largest_error": error})


def as_table(best):
    """Seconds, and the two ratios that matter: to the faster bare passes, and to Quantus."""
    bare_seconds = min(best["bare"], best["bare, ch. last"])
    rows = [
        {
            "what": name,
            "seconds": seconds,
            "of_bare": seconds / bare_seconds,
            "faster_than_quantus": min(best["Quantus"], best["Quantus, 64"]) / seconds,
        }
        for name, seconds in best.items()
    ]
    return pd.DataFrame(rows)


def save(name, table, facts):
    """Keep a table with its record."""
    command = " ".join(["python", "benchmarks/perturbation.py", *sys.argv[1:]])
    write_text(RESULTS / f"{name}.csv", table.to_csv(index=False, float_format="%.4g"))
    write_json(RESULTS / f"{name}.json", provenance(command, **facts))


if __name__ == "__main__":
    main()
