"""Time and memory of the decoder's Jacobian: all latents in one pass against a loop over them.

    python benchmarks/gradlam.py [--images 1,8] [--repeats 5] [--out results/benchmark-gradlam]

What is wanted is the length of each column of the Jacobian of a decoder for MNIST. ``loop`` is what
a user writes with PyTorch's documented reverse mode: one ``torch.autograd.functional.jvp`` for each
latent. ``forward loop`` is the better informed user's: one ``torch.func.jvp`` for each latent.
Times are ratios within one repeat, in which all candidates run one after the other, and their
median over the repeats. Memory is what the process grew by at most during one call (Linux only),
for several chunk sizes and for ``torch.func.jacfwd``, which holds the whole Jacobian.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import torch
from attribution import peak_memory
from torch import Tensor, nn

from xaiutils import attribution
from xaiutils.reproduce._provenance import provenance, write_json
from xaiutils.reproduce._tables import write_table

LATENTS = (8, 32, 128)
CHUNKS = (8, 32, 128)
TARGETS = {32: 4.0, 128: 8.0}  # times as fast as the loop


def make_decoder(latents: int) -> nn.Module:
    """The decoder of the digits, for any number of latents; random weights."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(latents, 128),
        nn.ReLU(),
        nn.Linear(128, 32 * 7 * 7),
        nn.ReLU(),
        nn.Unflatten(1, (32, 7, 7)),
        nn.ConvTranspose2d(32, 16, 4, stride=2, padding=1),
        nn.ReLU(),
        nn.ConvTranspose2d(16, 1, 4, stride=2, padding=1),
    ).eval()


def loop(decoder: nn.Module, z: Tensor) -> Tensor:
    """One reverse-mode Jacobian-vector product for each latent."""
    columns = []
    for j in range(z.shape[1]):
        direction = torch.zeros_like(z)
        direction[:, j] = 1
        columns.append(torch.autograd.functional.jvp(decoder, z, direction)[1])
    return torch.stack([column.flatten(1).norm(dim=1) for column in columns], dim=1)


def forward_loop(decoder: nn.Module, z: Tensor) -> Tensor:
    """One forward-mode Jacobian-vector product for each latent."""
    lengths = []
    with torch.no_grad():
        for j in range(z.shape[1]):
            direction = torch.zeros_like(z)
            direction[:, j] = 1
            column = torch.func.jvp(decoder, (z,), (direction,))[1]
            lengths.append(column.flatten(1).norm(dim=1))
    return torch.stack(lengths, dim=1)


def whole_jacobian(decoder: nn.Module, z: Tensor) -> Tensor:
    """The Jacobian of every image, held at once."""
    with torch.no_grad():
        jacobian = torch.vmap(torch.func.jacfwd(lambda code: decoder(code[None])[0]))(z)
    return jacobian.flatten(1, -2).norm(dim=1)


def measure(images: int, latents: int, repeats: int) -> list[dict]:
    """Return a row for each candidate: its time, and the loop's time over it."""
    decoder = make_decoder(latents)
    z = torch.randn(images, latents, generator=torch.Generator().manual_seed(1))
    candidates: dict[str, Callable[[], Tensor]] = {
        "loop": lambda: loop(decoder, z),
        "forward loop": lambda: forward_loop(decoder, z),
        "xaiutils": lambda: attribution.decoder_norms(decoder, z),
    }
    expected = candidates["loop"]().detach()
    times: dict[str, list[float]] = {name: [] for name in candidates}
    for candidate in candidates.values():  # also warms up
        torch.testing.assert_close(candidate().detach(), expected, rtol=1e-3, atol=1e-5)
    for _ in range(repeats):
        for name, candidate in candidates.items():
            begin = time.perf_counter()
            candidate()
            times[name].append(time.perf_counter() - begin)
    return [
        {
            "images": images,
            "latents": latents,
            "how": name,
            "milliseconds": 1e3 * statistics.median(own),
            "times_as_fast_as_loop": statistics.median(
                slow / fast for slow, fast in zip(times["loop"], own, strict=True)
            ),
        }
        for name, own in times.items()
    ]


def memory(images: int, latents: int) -> list[dict]:
    """Return a row for each chunk size: by how many megabytes the process grew."""
    decoder = make_decoder(latents)
    z = torch.randn(images, latents)
    attribution.decoder_norms(decoder, z[:1])  # loads what is loaded once
    rows = [
        (f"chunk_size={size}", lambda s=size: attribution.decoder_norms(decoder, z, s))
        for size in CHUNKS
    ]
    rows.append(("whole Jacobian", lambda: whole_jacobian(decoder, z)))
    return [
        {"images": images, "latents": latents, "how": name, "megabytes": peak_memory(f) / 2**20}
        for name, f in rows
    ]


def main() -> None:
    """Print the tables, and whether the targets are met."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", default="1,8")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, help="tables begin with this path")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    numbers = [int(n) for n in options.images.split(",")]
    speed = [row for n in numbers for j in LATENTS for row in measure(n, j, options.repeats)]
    grown = memory(64, 128)
    print(pd.DataFrame(speed).round(2).to_string(index=False))
    print(pd.DataFrame(grown).round(1).to_string(index=False))
    for row in speed:
        if row["how"] == "xaiutils" and row["latents"] in TARGETS:
            ratio, target = row["times_as_fast_as_loop"], TARGETS[row["latents"]]
            met = "met" if ratio >= target else "missed"
            print(f"{row['images']} images, {row['latents']} latents: {ratio:.1f} x "
                  f"(target {target:.0f} x, {met})")  # fmt: skip
    if options.out:
        write_table(options.out, "speed", speed)
        write_table(options.out, "memory", grown)
        command = f"python benchmarks/gradlam.py --images {options.images}"
        facts = {"repeats": options.repeats, "threads": options.threads, "device": "CPU"}
        write_json(options.out.with_name(f"{options.out.name}.json"), provenance(command, **facts))


if __name__ == "__main__":
    main()
