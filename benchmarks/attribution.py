"""Time and peak memory of LRP against the plain gradient, Captum, Zennit and LXT, side by side.

    python benchmarks/attribution.py [--networks vgg16,resnet50] [--batch 8] [--repeats 5] [--save]
    python benchmarks/attribution.py --methods averages --networks efficientnet_lite0 [--save]

Every tool explains the same images by the same rule. In each repeat all of them run one after the
other, and a time is reported as the median over repeats of its ratio to the autograd gradient of
the user's unmodified network in that repeat, so that a busy machine disturbs the ratios little
(``--clock cpu --threads 1`` still less: then what other processes take does not count).
Peak memory is what the process grew by at most during one call, again over the gradient's. A dash
means that the tool cannot run that network, or has no such rule; an asterisk that the sum of its
heatmap is more than ten times the logit, so that it ran but did not work. With ``--save`` the table
of each network goes to results/benchmark-attribution-NETWORK.csv, with its record beside it.

``--methods averages`` compares integrated gradients, SmoothGrad and DeepLIFT with Captum's at equal
work: as many steps or samples, and as many pictures in a pass. Its table has the time of Captum
over ours in the same repeat, and goes to results/benchmark-attribution-NETWORK-averages.csv. Of
DeepLIFT it notes where a map does not sum to the difference: Captum takes gates that it does not
know, ReLU6 among them, for linear.

``vit_b_16`` is a vision transformer, for pictures of 64 pixels. "epsilon" holds attention and
deviations there, as Ali et al. (ICML 2022) do; "attn_lrp" is AttnLRP (Achtibat et al., ICML 2024).
LXT computes both as a changed gradient, for which it replaces methods of torch.nn's classes; here
that is undone after each call. It is compared where it is installed, which the package does not
ask for. Zennit has no rules for LayerNorm and attention, which are left to the gradient here: its
type for activations counts ``nn.MultiheadAttention`` in, but its rule for them fails there.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import importlib.metadata
import importlib.util
import math
import operator
import os
import platform
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import captum.attr
import pandas as pd
import timm
import torch
import torchvision
import zennit.canonizers
import zennit.composites
import zennit.layer
import zennit.rules
import zennit.torchvision
import zennit.types
from captum.attr._utils import lrp_rules
from torch import Tensor, nn
from torchvision.models import VisionTransformer, vision_transformer

from xaiutils import attribution
from xaiutils.attribution import AlphaBeta, Epsilon, Gamma, Rule, ZPlus
from xaiutils.reproduce._provenance import provenance, write_json, write_text

RESULTS = Path(__file__).resolve().parents[1] / "results"
Method = Callable[[], Tensor]
PIXELS = {"vit_b_16": 64}  # 224 for the others
STEPS = 10  # of integrated gradients, and samples of SmoothGrad
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
RULES: dict[str, Rule] = {
    "epsilon": Epsilon(),
    "z+": ZPlus(),
    "gamma": Gamma(0.25),
    "alpha2-beta1": AlphaBeta(),
}
CAPTUM_RULES = {
    "epsilon": lambda: lrp_rules.EpsilonRule(1e-6),
    "z+": lrp_rules.Alpha1_Beta0_Rule,
    "gamma": lambda: lrp_rules.GammaRule(0.25),
}
ZENNIT_RULES = {
    "epsilon": lambda: zennit.rules.Epsilon(1e-6),
    "z+": zennit.rules.ZPlus,
    "gamma": lambda: zennit.rules.Gamma(0.25),
    "alpha2-beta1": lambda: zennit.rules.AlphaBeta(2, 1),
}


def load(name: str) -> nn.Module:
    """Return a network with random weights; times do not depend on them."""
    torch.manual_seed(0)
    if name == "efficientnet_lite0":
        return timm.create_model("tf_efficientnet_lite0").eval()
    if name == "vit_b_16":
        network = torchvision.models.vit_b_16(weights=None, image_size=PIXELS[name]).eval()
        nn.init.normal_(network.heads.head.weight, std=0.05)  # torchvision starts with zeros
        return network
    return torchvision.models.get_model(name, weights=None).eval()


def gradient(network: nn.Module, x: Tensor, targets: Tensor) -> Tensor:
    """The gradient as a user would write it."""
    x = x.clone().requires_grad_()
    return torch.autograd.grad(network(x).gather(1, targets[:, None]).sum(), x)[0]


def with_captum(network: nn.Module, x: Tensor, targets: Tensor, rule: str) -> Tensor:
    """Captum's LRP, as far as it takes the network as it is."""
    for module in network.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            module.rule = CAPTUM_RULES[rule]()
        elif isinstance(module, (nn.BatchNorm2d, nn.ReLU6, nn.Identity, nn.Flatten)):
            module.rule = lrp_rules.IdentityRule()
    try:
        return captum.attr.LRP(network).attribute(x.clone(), target=targets).detach()
    finally:
        for module in network.modules():
            if hasattr(module, "rule"):
                del module.rule


def with_zennit(network: nn.Module, x: Tensor, targets: Tensor, rule: str) -> Tensor:
    """Zennit's LRP with the canonizer that the network needs, where Zennit has one."""
    canonizers = (
        [zennit.torchvision.ResNetCanonizer()]
        if isinstance(network, torchvision.models.ResNet)
        else [zennit.canonizers.SequentialMergeBatchNorm()]
    )
    composite = zennit.composites.LayerMapComposite(
        [
            (nn.MultiheadAttention, None),
            (zennit.types.Activation, zennit.rules.Pass()),
            (zennit.layer.Sum, zennit.rules.Norm()),
            (zennit.types.AvgPool, zennit.rules.Norm()),
            (zennit.types.Linear, ZENNIT_RULES[rule]()),
        ],
        canonizers=canonizers,
    )
    x = x.clone().requires_grad_()
    with composite.context(network) as modified:
        output = modified(x)
        start = torch.zeros_like(output).scatter_(1, targets[:, None], 1.0) * output.detach()
        return torch.autograd.grad(output, x, start)[0]


@contextmanager
def as_lxt_wants_it(rule: str) -> Iterator[None]:
    """Let LXT replace methods of torch.nn's classes, and put them back afterwards.

    Its default for torchvision's transformers stops the gradient at queries and keys. For AttnLRP
    the products share by its own rule: a quarter to queries and keys each, a half to values.
    """
    from lxt.efficient import monkey_patch
    from lxt.efficient.rules import divide_gradient

    classes = (nn.GELU, nn.LayerNorm, nn.MultiheadAttention)
    kept = {changed: changed.forward for changed in classes}

    def attend(self: nn.Module, q: Tensor, k: Tensor, v: Tensor, *others: Any, **named: Any) -> Any:
        parts = (divide_gradient(q, 4), divide_gradient(k, 4), divide_gradient(v, 2))
        return kept[nn.MultiheadAttention](self, *parts, *others, **named)

    try:
        monkey_patch(vision_transformer)
        if rule == "attn_lrp":
            nn.MultiheadAttention.forward = attend
        yield
    finally:
        for changed, forward in kept.items():
            changed.forward = forward
            if "original_forward" in vars(changed):
                del changed.original_forward


def with_lxt(network: nn.Module, x: Tensor, targets: Tensor, rule: str) -> Tensor:
    """LXT's input times changed gradient."""
    with as_lxt_wants_it(rule):
        return x * gradient(network, x, targets)


def candidates(network: nn.Module, x: Tensor, targets: Tensor) -> dict[tuple[str, str], Method]:
    """Return what is compared, by rule and tool."""
    methods: dict[tuple[str, str], Method] = {
        ("gradient", "autograd"): lambda: gradient(network, x, targets),
        ("gradient", "xaiutils"): lambda: attribution.gradient(network, x, targets),
    }
    if isinstance(network, VisionTransformer):
        return methods | for_transformers(network, x, targets)
    for name, rule in RULES.items():
        other = Epsilon() if name == "epsilon" else ZPlus()
        composite = attribution.Composite(rule, rule, affine=other, other=other)
        methods[name, "xaiutils"] = lambda c=composite: attribution.lrp(network, x, targets, c)
        if name in CAPTUM_RULES:
            methods[name, "captum"] = lambda r=name: with_captum(network, x, targets, r)
        methods[name, "zennit"] = lambda r=name: with_zennit(network, x, targets, r)
    return methods


def for_transformers(
    network: nn.Module, x: Tensor, targets: Tensor
) -> dict[tuple[str, str], Method]:
    """Return what is compared on a network with attention."""
    inputs = captum.attr.InputXGradient(network)
    return {
        ("input x gradient", "xaiutils"): lambda: attribution.input_x_gradient(network, x, targets),
        ("input x gradient", "captum"): lambda: inputs.attribute(
            x.clone().requires_grad_(), target=targets
        ).detach(),
        ("epsilon", "xaiutils"): lambda: attribution.lrp(network, x, targets, "epsilon"),
        ("epsilon", "captum"): lambda: with_captum(network, x, targets, "epsilon"),
        ("epsilon", "zennit"): lambda: with_zennit(network, x, targets, "epsilon"),
        ("epsilon", "lxt"): lambda: with_lxt(network, x, targets, "epsilon"),
        ("attn_lrp", "xaiutils"): lambda: attribution.lrp(network, x, targets, "attn_lrp"),
        ("attn_lrp", "lxt"): lambda: with_lxt(network, x, targets, "attn_lrp"),
    }


def averages(network: nn.Module, x: Tensor, targets: Tensor) -> dict[tuple[str, str], Method]:
    """Return what is compared of the methods that run a network many times, or twice.

    Captum and ours get as many pictures in a pass as there are images.
    """
    rows, attr = len(x), captum.attr
    path, noise = attr.IntegratedGradients(network), attr.NoiseTunnel(attr.Saliency(network))
    difference = attr.DeepLift(network)
    return {
        ("gradient", "autograd"): lambda: gradient(network, x, targets),
        ("integrated gradients", "xaiutils"): lambda: attribution.integrated_gradients(
            network, x, targets, n_steps=STEPS, batch_size=rows
        ),
        ("integrated gradients", "captum"): lambda: path.attribute(
            x, target=targets, n_steps=STEPS, internal_batch_size=rows
        ).detach(),
        ("smoothgrad", "xaiutils"): lambda: attribution.smoothgrad(
            network, x, targets, samples=STEPS, batch_size=rows
        ),
        ("smoothgrad", "captum"): lambda: noise.attribute(
            x, target=targets, nt_samples=STEPS, nt_samples_batch_size=1, abs=False
        ).detach(),
        ("deeplift", "xaiutils"): lambda: attribution.deeplift(network, x, targets),
        ("deeplift", "captum"): lambda: difference.attribute(x, target=targets).detach(),
    }


METHODS = {"rules": candidates, "averages": averages}


def measure(
    name: str, batch: int, repeats: int, clock: Callable[[], float], compared: str = "rules"
) -> pd.DataFrame:
    """Return time and memory of every tool and rule on one network, relative to the gradient."""
    network = load(name)
    pixels = PIXELS.get(name, 224)
    x = torch.randn(batch, 3, pixels, pixels, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        logits, targets = network(x).max(1)
        rises = logits - network(0 * x).gather(1, targets[:, None])[:, 0]
    methods = METHODS[compared](network, x, targets)
    rows = {key: first_call(key, method, logits, rises) for key, method in methods.items()}
    able = [key for key, row in rows.items() if "memory" in row]
    for _ in range(repeats):
        for key in able:
            begin = clock()
            methods[key]()
            rows[key]["times"].append(clock() - begin)
    table = pd.DataFrame(relative(name, rows))
    if compared == "averages":
        table["faster_than_captum"] = [faster(key, rows) for key in rows]
    return table


def faster(key: tuple[str, str], rows: dict[tuple[str, str], dict[str, Any]]) -> float:
    """Return the time of Captum over that of a tool, the median over repeats; NaN without one."""
    other = rows.get((key[0], "captum"), {"times": []})
    return median(map(operator.truediv, other["times"], rows[key]["times"]))


def first_call(
    key: tuple[str, str], method: Method, logits: Tensor, rises: Tensor
) -> dict[str, Any]:
    """Call a method once to see whether it works, and once more for its memory."""
    try:
        total = method().flatten(1).sum(1)
    except Exception as error:  # other people's tools fail in many ways: that is a result
        return {"times": [], "note": f"cannot run it: {type(error).__name__}: {error}"[:100]}
    lrp = "grad" not in key[0] and key[0] != "deeplift"
    wild = lrp and bool((total.abs() > 10 * logits.abs()).any())
    note = "its sum is beyond ten logits" if wild else ""
    if key[0] == "deeplift" and not torch.allclose(total, rises, rtol=0.01, atol=1e-3):
        note = "its sum is not the difference of the outputs"
    return {"times": [], "note": note, "memory": peak_memory(method)}


def relative(name: str, rows: dict[tuple[str, str], dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the rows of the table: ratios to the gradient measured in the same repeat."""
    base = rows["gradient", "autograd"]
    return [
        {
            "network": name,
            "rule": rule,
            "tool": tool,
            "time": median(map(operator.truediv, row["times"], base["times"])),
            "seconds": median(row["times"]),
            "memory": row.get("memory", math.nan) / (base["memory"] or math.nan),
            "megabytes": row.get("memory", math.nan) / 2**20,
            "note": row["note"],
        }
        for (rule, tool), row in rows.items()
    ]


def median(values: Iterable[float]) -> float:
    """Return the median, NaN of nothing."""
    return statistics.median(list(values) or [math.nan])


def peak_memory(method: Method) -> float:
    """Return by how many bytes the process grew at most during a call (Linux only, else 0)."""
    status, reset = Path("/proc/self/status"), Path("/proc/self/clear_refs")
    if not status.exists():
        return 0.0
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # give back what earlier calls have left
    reset.write_text("5")  # forget the peak so far
    before = _status(status, "VmRSS")
    method()
    return max(_status(status, "VmHWM") - before, 0.0)


def _status(path: Path, key: str) -> float:
    line = next(line for line in path.read_text().splitlines() if line.startswith(key))
    return float(line.split()[1]) * 1024


def main() -> None:
    """Print one table of ratios."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--networks", default="efficientnet_lite0,resnet50,vgg16")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--clock", choices=CLOCKS, default="wall")
    parser.add_argument("--methods", choices=METHODS, default="rules")
    parser.add_argument("--save", action="store_true", help="write the table to results/")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    warnings.simplefilter("ignore")
    tables = []
    for name in options.networks.split(","):
        clock = CLOCKS[options.clock]
        tables.append(measure(name, options.batch, options.repeats, clock, options.methods))
        print(f"{name}: gradient {tables[-1]['seconds'].iloc[0]:.2f} s", flush=True)
        if options.save:
            save(name, tables[-1], options)
    print(tabulate(pd.concat(tables)))


def save(name: str, measured: pd.DataFrame, options: argparse.Namespace) -> None:
    """Write the table of a network with its record."""
    suffix = "" if options.methods == "rules" else f"-{options.methods}"
    path = RESULTS / f"benchmark-attribution-{name}{suffix}.csv"
    write_text(path, measured.to_csv(index=False, float_format="%.3g"))
    tools = {tool: importlib.metadata.version(tool) for tool in ("captum", "timm", "zennit")}
    if "lxt" in set(measured["tool"]) and importlib.util.find_spec("lxt"):
        tools["lxt"] = importlib.metadata.version("lxt")
    record = provenance(
        " ".join(["python benchmarks/attribution.py", *sys.argv[1:]]),
        batch=options.batch,
        pixels=PIXELS.get(name, 224),
        repeats=options.repeats,
        threads=options.threads,
        clock=options.clock,
        load=os.getloadavg()[0],  # processes that ran at the end, ours included
        processor=platform.machine(),
        weights="random, seed 0",
        tools=tools,
        tables=[path.name],
    )
    write_json(path.with_suffix(".json"), record)


def tabulate(measured: pd.DataFrame) -> str:
    """Return the ratios with one row for each network and rule, and a column for each tool."""
    text = []
    if "faster_than_captum" in measured:
        against = measured[
            (measured["tool"] == "xaiutils") & measured["faster_than_captum"].notna()
        ]
        columns = ["network", "rule", "faster_than_captum"]
        text.append(against[columns].to_string(index=False, float_format="{:.2f}".format))
    star = measured["note"].str.startswith("its sum").map({True: "*", False: ""})
    for column in ("time", "memory"):
        cells = measured.assign(cell=measured[column].map("{:.2f}".format) + star)
        cells["cell"] = cells["cell"].where(measured[column].notna(), "-")
        table = cells.pivot_table(
            index=["network", "rule"], columns="tool", values="cell", aggfunc="first", sort=False
        ).fillna("-")
        text += [f"\n{column}, relative to the autograd gradient", table.to_string()]
    failed = measured[measured["note"].str.startswith("cannot")]
    lines = (f"{row.tool}, {row.rule} on {row.network}: {row.note}" for row in failed.itertuples())
    return "\n".join([*text, "", *lines])


if __name__ == "__main__":
    main()
