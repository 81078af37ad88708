"""Which networks are read as they are, how exactly, and whether the account of LRP closes.

    python benchmarks/zoo.py run [--work FOLDER] [--large] [--only timm:convit_tiny,...]
    python benchmarks/zoo.py save [--work FOLDER]

Every architecture of torchvision for classification, and a fixed list of networks of timm, one or
two of each family. Weights are random and nothing is left at zero or constant, so that every
branch counts. BatchNorm's statistics are random too, and only where autograd's own gradient is then
beyond rounding are they taken from data. Two images of the smallest size that the network takes, in
float64. ``run`` writes one line per network to FOLDER and leaves out those that
it finds there; the larger members of families that differ only in depth or width need ``--large``.
``save`` writes results/benchmark-zoo.csv, its record, and the table of the page.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import logging
import math
import random
import signal
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import timm
import torch
import torchvision
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from xaiutils import attribution, graph
from xaiutils.reproduce._provenance import provenance, write_json, write_text

RESULTS = Path(__file__).resolve().parents[1] / "results"
COMPOSITES = ("epsilon", "epsilon_plus", "attn_lrp")
WORK = Path(tempfile.gettempdir()) / "zoo"
SIZES = (64, 96, 128, 160, 192, 224, 256)  # pixels, tried in this order
SECONDS = 120  # that a network may take
STEEP = 1e-12  # a gradient that rounding moves further than this says little about its reader
SEED = 0
COLUMNS = (
    "library",
    "network",
    "status",
    "pixels",
    "statistics",
    "parameters",
    "nodes",
    "seconds",
    "output_error",
    "gradient_error",
    "gradient_rounding",
    *(f"account_{name}" for name in COMPOSITES),
    *(f"growth_{name}" for name in COMPOSITES),
    "casts",
    "changed",
    "note",
)
ACCOUNTS = [f"account_{name}" for name in COMPOSITES]
GROWTHS = [f"growth_{name}" for name in COMPOSITES]
STATUSES = ("read", "refused", "failed", "not finished", "not run")
LESS = (torch.float32, torch.float16, torch.bfloat16)
CASTS = (Tensor.float, Tensor.half, Tensor.bfloat16)

_LARGE = """
resnet34 resnet101 resnet152 resnext101 wide_resnet101 vgg13 vgg16 vgg19 densenet161 densenet169
densenet201 efficientnet_b1 efficientnet_b2 efficientnet_b3 efficientnet_b4 efficientnet_b5
efficientnet_b6 efficientnet_b7 efficientnet_v2_m efficientnet_v2_l vit_h_14 vit_l vit_b_32
regnet_y_1 regnet_y_3 regnet_y_8 regnet_x_1 regnet_x_3 regnet_x_8 convnext_large convnext_base
convnext_small swin_b swin_s swin_v2_b swin_v2_s mnasnet0_75 mnasnet1_0 mnasnet1_3
shufflenet_v2_x1_5 shufflenet_v2_x2 shufflenet_v2_x1_0
"""
_TIMM = """
test_vit test_resnet test_efficientnet test_byobnet test_convnext test_mambaout resnet18 resnet50d
resnetaa50 resnetv2_50 res2net50_26w_4s resnext50_32x4d seresnet18 ecaresnet26t legacy_seresnet18
skresnet18 resnest14d wide_resnet50_2 resnetrs50 resnet50_gn resnetblur18 tresnet_m nf_resnet50
nf_regnet_b1 nfnet_l0 dm_nfnet_f0 eca_nfnet_l0 resnetv2_50x1_bit densenet121 dla34 dpn68 vovnet39a
ese_vovnet19b_dw hrnet_w18_small hardcorenas_a selecsls42 rexnet_100 repvgg_a0 mobileone_s0
gernet_s regnetx_002 regnety_002 regnetz_b16 cspresnet50 cspdarknet53 darknet53 darknetaa53
inception_v3 inception_v4 inception_resnet_v2 xception41 xception41p nasnetalarge pnasnet5large
vgg11 vgg11_bn efficientnet_b0 efficientnetv2_rw_t tf_efficientnet_lite0 tf_efficientnetv2_b0
mobilenetv2_100 mobilenetv3_small_100 mobilenetv4_conv_small mobilenetv4_hybrid_medium
mnasnet_small spnasnet_100 fbnetc_100 fbnetv3_b tinynet_e lcnet_050 ghostnet_050 ghostnetv2_100
mixnet_s semnasnet_075 hgnet_tiny hgnetv2_b0 fasternet_t0 starnet_s1 repghostnet_050 rdnet_tiny
vit_tiny_patch16_224 vit_small_patch32_224 vit_relpos_small_patch16_224
vit_srelpos_small_patch16_224 vit_small_r26_s32_224 vit_base_patch16_siglip_224
deit_tiny_patch16_224 deit3_small_patch16_224 deit_tiny_distilled_patch16_224 cait_xxs24_224
xcit_nano_12_p16_224 swin_tiny_patch4_window7_224 swinv2_tiny_window8_256 swin_s3_tiny_224
swinv2_cr_tiny_224 pit_ti_224 levit_128s tnt_s_patch16_224 twins_svt_small twins_pcpvt_small
coat_tiny convit_tiny crossvit_tiny_240 visformer_tiny volo_d1_224 beit_base_patch16_224
eva02_tiny_patch14_224 flexivit_small nest_tiny mvitv2_tiny pvt_v2_b0 poolformer_s12
poolformerv2_s12 caformer_s18 convformer_s18 gcvit_xxtiny edgenext_xx_small efficientformer_l1
efficientformerv2_s0 efficientvit_b0 efficientvit_m0 fastvit_t8 mobilevit_xxs mobilevitv2_050
davit_tiny focalnet_tiny_srf maxvit_pico_rw_256 maxxvit_rmlp_nano_rw_256 coatnet_pico_rw_224
coatnext_nano_rw_224 halonet26t botnet26t_256 lambda_resnet26t bat_resnext26ts sehalonet33ts
hiera_tiny_224 tiny_vit_5m_224 repvit_m0_9 nextvit_small sequencer2d_s inception_next_tiny
convnext_atto convnextv2_atto convnext_atto_ols convmixer_768_32 mixer_s32_224 gmixer_12_224
resmlp_12_224 gmlp_ti16_224 mambaout_femto
"""

LARGE = tuple(_LARGE.split())
"""How the names begin of the larger members of torchvision's families."""

TIMM = tuple(_TIMM.split())
"""Networks of timm, one or two of each family."""


class TooLongError(BaseException):
    """The time for one network is over; no ``except Exception`` on the way may take it."""


def networks() -> list[tuple[str, str]]:
    """Return (library, name) of every network of the table."""
    names = torchvision.models.list_models(torchvision.models)
    return [("torchvision", name) for name in names] + [("timm", name) for name in TIMM]


def is_large(library: str, name: str) -> bool:
    """Say whether a network is left to the second pass."""
    return library == "torchvision" and name.startswith(LARGE)


def attempts(library: str, name: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield sizes with options of the factory that might make the network take them."""
    key = {"timm": "img_size", "torchvision": "image_size"}[library]
    options: dict[str, Any] = {"weights": None} if library == "torchvision" else {}
    if library == "torchvision" and name in ("googlenet", "inception_v3"):
        options["init_weights"] = False  # which takes long
    for size in SIZES:
        if library == "timm" or name.startswith("vit"):
            yield size, {**options, key: size}
        yield size, options


def build(library: str, name: str) -> tuple[nn.Module, int]:
    """Return a network with random weights and the smallest size of input that it takes.

    Raises:
        RuntimeError: If it takes none of ``SIZES``.
    """
    create = timm.create_model if library == "timm" else torchvision.models.get_model
    network, made_with = None, None
    for size, options in attempts(library, name):
        torch.manual_seed(SEED)
        with contextlib.suppress(Exception), torch.no_grad():
            if made_with != options:
                network, made_with = create(name, **options).eval(), options
            if network(torch.randn(2, 3, size, size)).isfinite().all():
                return randomise(network).double(), size
    raise RuntimeError(f"{name} takes none of {SIZES} pixels")


@torch.no_grad()
def randomise(network: nn.Module) -> nn.Module:
    """Give random values to whatever is still constant: biases, scales, statistics."""
    drawn = torch.Generator().manual_seed(SEED)
    for name, buffer in network.named_buffers():
        if name.endswith("running_mean"):
            buffer.copy_(torch.randn(buffer.shape, generator=drawn) * 0.1)
        elif name.endswith("running_var"):
            buffer.copy_(torch.rand(buffer.shape, generator=drawn) + 0.5)
    for parameter in network.parameters():
        if parameter.min() == parameter.max():
            parameter.add_(torch.randn(parameter.shape, generator=drawn) * 0.2)
    return network


def state(network: nn.Module) -> dict[str, Any]:
    """Return everything of a user's network, and of torch, that reading it must not change."""
    found: dict[str, Any] = {
        "RNG": [
            _digest(torch.get_rng_state()),
            hash(random.getstate()),
            hashlib.sha1(np.random.get_state()[1].tobytes()).hexdigest(),
        ],
        "modes": [torch.is_grad_enabled(), torch.get_default_dtype(), torch.get_num_threads()],
    }
    tensors = [*network.named_parameters(), *network.named_buffers()]
    for name, tensor in tensors:
        grad = None if tensor.grad is None else _digest(tensor.grad)
        found[name] = [id(tensor), _digest(tensor), tensor.requires_grad, grad, tensor.data_ptr()]
    for path, module in network.named_modules():
        for key, value in vars(module).items():
            inside = {k: id(v) for k, v in value.items()} if isinstance(value, dict) else None
            found[f"{path}:{key}"] = [_plain(value), inside]
    return found


def _plain(value: object) -> object:
    return value if isinstance(value, (bool, int, float, str, type(None))) else id(value)


def _digest(tensor: Tensor) -> str:
    """Return what tells the values of a tensor apart, bit by bit."""
    array = tensor.detach().contiguous().numpy()
    return hashlib.sha1(array.tobytes()).hexdigest()


def differences(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """Name what differs between two states."""
    return [key for key in {**before, **after} if before.get(key) != after.get(key)]


def relative(found: Tensor, expected: Tensor) -> float:
    """Return the largest error, relative to the largest value."""
    return float((found - expected).abs().max() / expected.abs().max())


class InFull(TorchFunctionMode):
    """Leave out casts of float64 to less, so that a network computes all of itself in float64.

    Attributes:
        casts: How many were left out.
    """

    def __init__(self) -> None:
        super().__init__()
        self.casts = 0

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Leave the cast out, whatever it is written as."""
        kwargs = dict(kwargs or {})
        double = bool(args) and isinstance(args[0], Tensor) and args[0].dtype == torch.float64
        less = kwargs.get("dtype") in LESS or any(map(LESS.__contains__, _dtypes(args)))
        if not double or not (less or func in CASTS):
            return func(*args, **kwargs)
        self.casts += 1
        if func in (*CASTS, Tensor.to, Tensor.type):
            return args[0]
        kept = (arg for arg in args if not isinstance(arg, torch.dtype))
        return func(*kept, **{**kwargs, "dtype": None})


def _dtypes(values: tuple[Any, ...]) -> list[torch.dtype]:
    return [value for value in values if isinstance(value, torch.dtype)]


def by_autograd(
    network: Callable[[Tensor], Tensor], x: Tensor, start: Tensor
) -> tuple[Tensor, Tensor, int]:
    """Return the output, the gradient of ``start`` times it, and how many casts were left out."""
    x = x.clone().requires_grad_()
    with InFull() as full:
        output = network(x)
    return output.detach(), torch.autograd.grad((output * start).sum(), x)[0], full.casts


def rounding(network: nn.Module, x: Tensor, start: Tensor) -> float:
    """Return how far autograd's own gradient moves with weights and input by about a last place.

    No other way of computing the gradient can be expected to be nearer to it.
    """
    drawn = torch.Generator().manual_seed(SEED)

    def moved(tensor: Tensor) -> Tensor:
        signs = torch.randn(tensor.shape, generator=drawn, dtype=tensor.dtype).sign()
        return tensor.detach() * (1 + torch.finfo(tensor.dtype).eps * signs)

    weights = {name: moved(parameter) for name, parameter in network.named_parameters()}
    nearby = partial(torch.func.functional_call, network, weights)
    expected, found = by_autograd(network, x, start)[1], by_autograd(nearby, moved(x), start)[1]
    return relative(found, expected)


def largest(output: Tensor) -> Tensor:
    """Return the signal that chooses each image's largest output."""
    return torch.zeros_like(output).scatter_(1, output.argmax(1, keepdim=True), 1.0)


@torch.no_grad()
def normalised(network: nn.Module, size: int) -> nn.Module:
    """Let BatchNorm normalise: give it the statistics of 16 random images of a size."""
    drawn = torch.Generator().manual_seed(SEED)
    for module in network.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.reset_running_stats()
            module.momentum = None
            module.train()
    network(torch.randn(16, 3, size, size, generator=drawn, dtype=torch.float64))
    return network.eval()


def account(traced: graph.Graph, x: Tensor, composite: str) -> dict[str, float]:
    """Return what the account of LRP leaves open, and how much absolute relevance has grown.

    Both are relative to the start. What is open is the report's own gap, or ours if it is larger.
    """
    heatmap, report = attribution.lrp(traced, x, None, composite, return_report=True)
    start = report.start.abs().sum()
    whole = (heatmap.sum() + report.absorbed.sum() - report.start.sum()).abs() / start
    gap = torch.cat([report.relative_gap, whole[None]]).max()  # NaN if one of them is
    growth = heatmap.abs().sum() / start
    return {f"account_{composite}": float(gap), f"growth_{composite}": float(growth)}


def check(network: nn.Module, x: Tensor) -> dict[str, Any]:
    """Return the figures of one network: errors against autograd, account, what was changed.

    Args:
        network: In evaluation mode, in float64.
        x: Two images.

    Raises:
        xaiutils.graph.GraphError: If it is refused.
    """
    with torch.no_grad():
        network(x)  # what it keeps for itself is there from now on
    before = state(network)
    begin = time.process_time()
    traced = graph.trace(network, x)
    seconds = time.process_time() - begin
    record = traced.record(x, keep="gates")
    start = largest(record.output)
    found = traced.backward(record, start)
    accounts = [account(traced, x[:1], name) for name in COMPOSITES]
    changed = differences(before, state(network))
    output, expected, casts = by_autograd(network, x, start)
    return {
        "nodes": len(traced.nodes),
        "seconds": seconds,
        "output_error": relative(record.output, output),
        "gradient_error": relative(found, expected),
        "gradient_rounding": rounding(network, x, start),
        "casts": casts,
        **{key: value for found in accounts for key, value in found.items()},
        "changed": " ".join(changed),
    }


def row(library: str, name: str) -> dict[str, Any]:
    """Return the line of one network, whatever becomes of it."""
    facts: dict[str, Any] = {"library": library, "network": name}
    try:
        network, size = build(library, name)
        facts["pixels"] = size
        facts["parameters"] = sum(parameter.numel() for parameter in network.parameters())
        drawn = torch.Generator().manual_seed(SEED)
        x = torch.randn(2, 3, size, size, generator=drawn, dtype=torch.float64)
        with torch.no_grad():
            start = largest(network(x))
        steep = rounding(network, x, start) > STEEP
        facts["statistics"] = "data" if steep else "random"
        facts |= check(normalised(network, size) if steep else network, x)
        facts["status"] = "read"
    except graph.GraphError as error:
        facts |= {"status": "refused", "note": f"{error}".strip()}
    except TooLongError:
        facts |= {"status": "not finished", "note": f"more than {SECONDS} seconds"}
    except Exception as error:  # a bug, of ours or theirs: the table says so
        facts |= {"status": "failed", "note": f"{type(error).__name__}: {error}".strip()}
    return facts


def within(seconds: int, task: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Do a task, and interrupt it with :class:`TooLongError` when its time is over."""

    def stop(*_: object) -> None:
        raise TooLongError

    old = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        return task()
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, old)


def finished(work: Path) -> dict[tuple[str, str], dict[str, Any]]:
    """Return the lines that are there already, by library and name; the last one counts."""
    lines = [line for path in sorted(work.glob("*.jsonl")) for line in path.open(encoding="utf-8")]
    rows = map(json.loads, lines)
    return {(found["library"], found["network"]): found for found in rows}


def run(work: Path, large: bool, only: str) -> None:
    """Check what is not there yet, and write a line for each."""
    work.mkdir(parents=True, exist_ok=True)
    named = [tuple(spec.split(":")) for spec in only.split(",") if spec]
    chosen = named or [key for key in networks() if large or not is_large(*key)]
    done = {} if named else finished(work)
    for library, name in (key for key in chosen if key not in done):
        begin = time.perf_counter()
        found = within(SECONDS, lambda pair=(library, name): row(*pair))
        found["total_seconds"] = round(time.perf_counter() - begin, 1)
        found["date"] = time.strftime("%Y-%m-%d")
        with (work / "zoo.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(found) + "\n")
        print(found["status"], library, name, found.get("gradient_error", ""), flush=True)


def tabulate(work: Path) -> pd.DataFrame:
    """Return a row for each network of the table, those without a line as "not run"."""
    done = finished(work)
    blank = {"status": "not run"}
    rows = [
        {"library": library, "network": name, **done.get((library, name), blank)}
        for library, name in networks()
    ]
    return pd.DataFrame(rows).reindex(columns=list(COLUMNS))


def save(work: Path) -> None:
    """Write table, record and page."""
    path = RESULTS / "benchmark-zoo.csv"
    measured = tabulate(work)
    text = measured.to_csv(index=False, float_format="%.3g")
    write_text(path, text)
    write_text(path.with_suffix(".md"), as_markdown(pd.read_csv(path)))
    ran = measured[measured["status"] != "not run"]
    second = " --large" * any(map(is_large, ran["library"], ran["network"]))
    record = provenance(
        f"python benchmarks/zoo.py run{second} && python benchmarks/zoo.py save",
        batch=2,
        precision="float64",
        seed=SEED,
        weights="random, nothing constant; BatchNorm as the column statistics says",
        limit_seconds=SECONDS,
        threads=1,
        composites=list(COMPOSITES),
        tools={"timm": timm.__version__},
        tables=[path.name, path.with_suffix(".md").name],
    )
    write_json(path.with_suffix(".json"), record)


def as_markdown(measured: pd.DataFrame) -> str:
    """Return the page's tables: counts, what is not read and why, and every network."""
    parts = ["## In numbers", "", counts(measured), "", "## Not read", "", unread(measured), ""]
    parts += ["## Every network", ""]
    for library in measured["library"].unique():
        own = measured[(measured["library"] == library) & (measured["status"] == "read")]
        parts += [f":::{{dropdown}} {library}: {len(own)} networks that are read"]
        parts += [every(own), ":::", ""]
    return "\n".join(parts)


def counts(measured: pd.DataFrame) -> str:
    """Return a row for each library: how many are read, and the largest errors among them."""
    head = ["library", *STATUSES, "output", "gradient", *COMPOSITES, "changed"]
    rows = []
    for library in measured["library"].unique():
        own = measured[measured["library"] == library]
        read = own[own["status"] == "read"]
        cells = [str((own["status"] == status).sum()) for status in STATUSES]
        errors = [power(read[name].max()) for name in ("output_error", "gradient_error")]
        cells += [*errors, *(power(read[name].max()) for name in ACCOUNTS)]
        rows.append([library, *cells, str(read["changed"].notna().sum())])
    return as_table(head, rows)


def unread(measured: pd.DataFrame) -> str:
    """Return a list of what is not read, with the reason, and of what was not run."""
    lines = []
    for status in STATUSES[1:]:
        own = measured[measured["status"] == status]
        if status == "not run":
            names = ", ".join(f"`{found.network}`" for found in own.itertuples())
            lines += [f"- not run, of {len(own)} networks: {names}"] * bool(len(own))
            continue
        for found in own.itertuples():
            words = " ".join(str(found.note).split()).replace("`", "'")
            lines.append(f"- `{found.network}` ({found.library}), {status}: `{words}`")
    return "\n".join(lines or ["Every network of the list is read."])


def every(read: pd.DataFrame) -> str:
    """Return a row for each network that is read."""
    head = ["network", "pixels", "nodes", "seconds", "output", "gradient", "rounding"]
    head += ["account", "growth"]
    rows = [
        [
            f"`{found['network']}`"
            + "\\*" * (found["casts"] > 0)
            + "†" * (found["statistics"] == "data"),
            f"{found['pixels']:.0f}",
            f"{found['nodes']:.0f}",
            f"{found['seconds']:.1f}",
            power(found["output_error"]),
            power(found["gradient_error"]),
            power(found["gradient_rounding"]),
            power(found[ACCOUNTS].max()),
            power(found[GROWTHS].max()),
        ]
        for _, found in read.iterrows()
    ]
    return as_table(head, rows)


def power(value: float) -> str:
    """Return a small number with one digit."""
    return "-" if math.isnan(value) else f"{value:.0e}" if value else "0"


def as_table(head: list[str], rows: list[list[str]]) -> str:
    """Return a table in Markdown."""
    return "\n".join(
        "| " + " | ".join(cells) + " |" for cells in [head, ["---"] * len(head), *rows]
    )


def main() -> None:
    """Run the checks or write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("do", choices=("run", "save"))
    parser.add_argument("--work", type=Path, default=WORK, help="a folder for the lines")
    parser.add_argument("--large", action="store_true", help="larger members of families too")
    parser.add_argument("--only", default="", help="library:name, ...; runs them again")
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
    if options.do == "run":
        run(options.work, options.large, options.only)
    else:
        save(options.work)


if __name__ == "__main__":
    main()
