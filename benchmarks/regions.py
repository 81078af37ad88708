"""Occlusion and Shapley values of regions here and in Captum: the same pictures in one run.

    python benchmarks/regions.py [--part occlusion] [--model mnist_cnn] [--images 2] [--save]

All entries replace the same regions by the same constant and watch the same logits. Captum is run
with several numbers of pictures at a time (``perturbations_per_eval``), and the fastest of them is
what the ratios are to; "bare" calls the network alone on as many pictures. "windows" recomputes the
early layers around the region that changes, "whole" all of them, and the entry without either
chooses by itself. The script stops if maps of occlusion differ, or Shapley values by more than the
spread of both over their orders; the orders are drawn here and there, as many.

Rounds take turns, and each entry is the fastest of its rounds: other programs only ever add time.
On a machine that is shared, ``--clock cpu`` counts the seconds of the processor. The memory is what
the process grew by at most during one call. With ``--save`` the table goes to
results/benchmark-regions-MODEL-PART.csv, its record beside it.
"""

import argparse
import importlib.metadata
import os
import sys
import time
import warnings
from functools import partial
from pathlib import Path

import captum.attr
import pandas as pd
import torch
from attribution import peak_memory
from perturbation import BATCH_SIZE, BATCH_SIZES, bare, load, race

from xaiutils import attribution, windows
from xaiutils.reproduce._provenance import provenance, write_json, write_text

RESULTS = Path(__file__).resolve().parents[1] / "results"
MODELS = ("mnist_cnn", "efficientnet_lite0", "squeezenet1_1", "vgg16")
REGION_SIZES = {"mnist_cnn": 2}  # for photographs:
REGION_SIZE = 16
AT_ONCE = "1,4,16"  # of Captum, for each image
FILL = 0.5  # differs from every pixel of a digit's page, so that no region is as it was
TOLERANCE = 1e-3


def occlusion_part(model, x, targets, size, at_once, _):
    """Pictures, Captum's entries, and ours."""
    window, strides = (x.shape[1], size, size), (x.shape[1], size, size)
    theirs = {
        f"Captum, {number}": partial(
            captum.attr.Occlusion(model).attribute,
            x, window, strides, FILL, targets, perturbations_per_eval=number,
        )
        for number in at_once
    }  # fmt: skip
    ours = partial(attribution.occlusion, model, x, targets, size, baselines=FILL)
    return len(x) * (1 + windows.Regions(*x.shape[2:], size).count), theirs, ours


def shapley_part(model, x, targets, size, at_once, permutations):
    """Likewise; Captum counts a region's value at each of its pixels."""
    regions = windows.Regions(*x.shape[2:], size)
    theirs = {
        f"Captum, {number}": partial(
            captum.attr.ShapleyValueSampling(model).attribute,
            x, FILL, targets, feature_mask=regions.index[None, None], n_samples=permutations,
            perturbations_per_eval=number,
        )
        for number in at_once
    }  # fmt: skip
    ours = partial(
        attribution.shapley, model, x, targets, size, permutations=permutations, baselines=FILL,
        antithetic=False,
    )  # fmt: skip
    return len(x) * (1 + permutations * regions.count), theirs, ours


PARTS = {"occlusion": occlusion_part, "shapley": shapley_part}


def error_of_occlusion(found, size):
    """The largest difference of any two maps."""
    first = found["here"]
    return max(float((first - other[:, :1]).abs().max()) for other in found.values())


def error_of_shapley(found, size):
    """The largest difference of the maps' sums, and of windows from whole pictures in a region."""
    sums = {
        name: values[:, :1].sum((1, 2, 3)) / (1 if name.startswith("here") else size**2)
        for name, values in found.items()
    }
    here = float((found["here, windows"] - found["here, whole"]).abs().max()) * size**2
    return max(here, *(float((sums["here"] - each).abs().max()) for each in sums.values()))


ERRORS = {"occlusion": error_of_occlusion, "shapley": error_of_shapley}


def as_table(seconds, memory, passes):
    """Seconds and megabytes, and the ratios that matter: to bare passes and to Captum."""
    fastest = min((s for name, s in seconds.items() if name.startswith("Captum")), default=None)
    smallest = min(m for name, m in memory.items() if name.startswith("Captum"))
    best = next(n for n, s in seconds.items() if n.startswith("Captum") and s == fastest)
    return pd.DataFrame(
        {
            "what": name,
            "seconds": s,
            "of_bare": s / passes,
            "faster_than_captum": fastest / s,
            "megabytes": memory[name] / 2**20,
            "of_captums_fastest": memory[name] / memory[best],
            "of_captums_smallest": memory[name] / smallest,
        }
        for name, s in seconds.items()
    )


def main():
    """Time all of them, in turns, and print the ratios."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--part", choices=PARTS, default="occlusion")
    parser.add_argument("--model", choices=MODELS, default="mnist_cnn")
    parser.add_argument("--images", type=int, default=2)
    parser.add_argument("--region-size", type=int)
    parser.add_argument("--permutations", type=int, default=2)
    parser.add_argument("--at-once", default=AT_ONCE, help="pictures of an image, of Captum")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall")
    parser.add_argument("--save", action="store_true")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(options.threads)
    load_before = os.getloadavg()[0]

    model, x, targets = load(options.model, options.images, "cpu")
    size = options.region_size or REGION_SIZES.get(options.model, REGION_SIZE)
    at_once = [int(number) for number in options.at_once.split(",")]
    work = (model, x, targets, size, at_once, options.permutations)
    pictures, theirs, ours = PARTS[options.part](*work)
    runs = {
        **theirs,
        "here, whole": partial(ours, windowed=False),
        "here, windows": partial(ours, windowed=True),
        "here": ours,
    }
    batch = x[:1].repeat(BATCH_SIZES.get(options.model, BATCH_SIZE), 1, 1, 1)
    clock = time.perf_counter if options.clock == "wall" else time.process_time
    attribution.gradient(model, x[:1], targets[:1])  # the first network read imports much
    memory = {name: peak_memory(run) for name, run in runs.items()}
    passes, _ = race({"bare": partial(bare, model, batch, pictures)}, options.rounds, "cpu", clock)
    seconds, found = race(runs, options.rounds, "cpu", clock)
    error = ERRORS[options.part](found, size)
    if error > TOLERANCE:
        raise SystemExit(f"not the same work: the maps differ by up to {error:.2g}")
    table = as_table(seconds, memory, passes["bare"])
    print(f"{options.model}, {options.part}, {len(x)} images, {pictures} pictures of {size} pixels")
    print(f"load {load_before:.1f} before, {os.getloadavg()[0]:.1f} after; {options.clock} clock")
    print(f"largest difference of numbers that should be equal: {error:.1g}")
    print(table.to_string(index=False, float_format="{:.3g}".format))
    if options.save:
        facts = {
            "images": len(x),
            "region_size": size,
            "pictures": pictures,
            "at_once": at_once,
            "permutations": options.permutations if options.part == "shapley" else None,
            "bare_seconds": passes["bare"],
            "clock": options.clock,
            "threads": options.threads,
            "largest_error": error,
            "load": [load_before, os.getloadavg()[0]],
            "tools": {"captum": importlib.metadata.version("captum")},
        }
        save(f"benchmark-regions-{options.model}-{options.part}", table, facts)


def save(name, table, facts):
    """Keep a table with its record."""
    command = " ".join(["python", "benchmarks/regions.py", *sys.argv[1:]])
    write_text(RESULTS / f"{name}.csv", table.to_csv(index=False, float_format="%.4g"))
    write_json(RESULTS / f"{name}.json", provenance(command, **facts))


if __name__ == "__main__":
    main()
