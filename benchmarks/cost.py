"""What a long run would cost: one picture, part by part, and a plan for many on many networks.

    python benchmarks/cost.py [--networks resnet18,vgg16] [--repeats 2] [--save]

Of each network it is measured what one picture of 224 pixels costs: a bare forward pass, the map of
one method of each kind, and one curve of region perturbation as in Samek et al. 2017 (100 squares
of 9 pixels, uniform noise). Weights are random, where a network does not come with its own: they
change what is found and not what it costs. The plan multiplies these costs by the number of
pictures, methods, orders and draws of an experiment on validation pictures of ImageNet.

Costs are in seconds of one processor core, of which other programs take nothing, the least of the
repeats. With ``--save`` they go to results/benchmark-hours.csv, with the record beside them, and
the page's tables to results/benchmark-hours.md.
"""

import argparse
import sys
import time
import warnings
from pathlib import Path

import pandas as pd
import torch

from xaiutils import attribution, data, evaluation, models
from xaiutils.reproduce._provenance import provenance, write_json, write_text

RESULTS = Path(__file__).resolve().parents[1] / "results"
NETWORKS = (
    "squeezenet1_1", "efficientnet_lite0", "mobilenet_v2", "resnet18", "resnet50", "densenet121",
    "efficientnet_b0", "regnet_y_400mf", "convnext_tiny", "vgg16",
)  # fmt: skip
METHODS = {  # one of each kind, and how many methods of the kind the plan has
    "gradient": ("input_x_gradient", 4),
    "average_of_gradients": ("integrated_gradients", 2),
    "class_activation_map": ("grad_cam", 2),
    "LRP": ("lrp_epsilon_plus", 4),
}
STEPS, SIDE = 100, 9
PICTURES, ORDERS, DRAWS = 50_000, 2, 10  # of the plan; draws of the random order
SECONDS_OF_AN_HOUR, CORES = 3600, 64


def least(work, repeats):
    """Processor seconds of the fastest call; a first one, which reads the network, is not timed."""
    work()
    spent = []
    for _ in range(repeats):
        before = time.process_time()
        work()
        spent.append(time.process_time() - before)
    return min(spent)


def parts(name):
    """The parts of the work on one picture, by name, as functions."""
    own = name == "efficientnet_lite0"
    classifier = models.load_classifier(name, "pretrained" if own else "random")
    module, x = classifier.module, classifier.batch([data.photos().images[0]])
    target = module(x).argmax(dim=1)
    fill = evaluation.Uniform(classifier.preprocess.low, classifier.preprocess.high)

    def curve():
        evaluation.region_perturbation(
            module, x, target, None, SIDE, STEPS, "random", fill, repeats=1
        )

    @torch.no_grad()
    def forward():
        module(x)

    yield "forward_pass", forward
    for kind, (method, _) in METHODS.items():
        yield kind, lambda method=method: attribution.METHODS[method](module, x, target)
    yield "curve", curve


def plan(costs):
    """Core hours of the plan by network, from the costs of one picture (networks, parts)."""
    methods = sum(count for _, count in METHODS.values())
    maps = sum(costs[kind] * count for kind, (_, count) in METHODS.items())
    curves = costs["curve"] * (methods * ORDERS + DRAWS)
    hours = pd.DataFrame({"maps": maps, "curves": curves}) * PICTURES / SECONDS_OF_AN_HOUR
    return hours.assign(all=hours.sum(axis=1))


def as_page(costs):
    """Both tables in Markdown, with what they were made for."""
    methods = sum(count for _, count in METHODS.values())
    hours = plan(costs)
    whole = hours["all"].sum()
    return (
        f"Seconds of one processor core for one picture of 224 pixels. A curve has {STEPS} squares "
        f"of {SIDE} pixels, in one order with one draw of uniform noise.\n\n"
        f"{costs.rename(columns=lambda name: name.replace('_', ' ')).round(2).to_markdown()}\n\n"
        f"Core hours for {PICTURES:,} pictures, {methods} methods, {ORDERS} orders of each map and "
        f"{DRAWS} random ones.\n\n{hours.round(0).astype(int).to_markdown()}\n\n"
        f"Together {whole:,.0f} core hours: {whole / CORES / 24:.1f} days on {CORES} cores. The "
        "plan grows in proportion with the pictures, with the methods times the orders, and with "
        "the draws.\n"
    )


def main(arguments=None):
    """Measure, print and, if asked, save."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--networks", default=",".join(NETWORKS))
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--save", action="store_true")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")  # of random weights
    rows = []
    for name in options.networks.split(","):
        found = {part: least(work, options.repeats) for part, work in parts(name)}
        rows.append({"network": name, **found})
        print(pd.DataFrame(rows[-1:]).round(2).to_string(index=False), flush=True)
    costs = pd.DataFrame(rows).set_index("network")
    print(as_page(costs))
    if options.save:
        typed = ["python benchmarks/cost.py", *(sys.argv[1:] if arguments is None else arguments)]
        path = RESULTS / "benchmark-hours.csv"
        write_text(path, costs.to_csv(float_format="%.4g"))
        stored = pd.read_csv(path).set_index("network")  # so that the page is that of the table
        write_text(RESULTS / "benchmark-hours.md", as_page(stored))
        record = provenance(" ".join(typed), methods=METHODS, steps=STEPS, region_size=SIDE)
        write_json(RESULTS / "benchmark-hours.json", record)


if __name__ == "__main__":
    main()
