"""The engine of the long runs: blocks, each of which is a file that is there whole or not at all.

A command says what is to be computed, a `Run` that its `prepare` makes of the options, and its
`write` makes tables of what was found. The rest is here and the same for all: the folder of one
plan, going on after a kill, shards, the workers of a dask cluster, progress with the time left, and
the record beside the tables.
"""

import argparse
import json
import pickle
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, lru_cache, partial
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
from safetensors import safe_open
from torch import Tensor
from tqdm.auto import tqdm

from xaiutils.reproduce import _dask
from xaiutils.reproduce._options import shard
from xaiutils.reproduce._provenance import command_line, computed_with, provenance, write_json
from xaiutils.reproduce._work import keep_plan, save

HOW = ("--shard", "--dask", "--device", "--batch-size")
"""Options that say how a run is computed, and change nothing of what is found."""
_COST = "cpu_seconds"
_ONE_BLOCK_AT_A_TIME = threading.Lock()  # in a worker with several threads: torch has its own

Task = TypeVar("Task")
Found = dict[str, Tensor]
Notes = dict[str, str]


@dataclass(frozen=True, eq=False)
class Run(Generic[Task]):
    """A long run as data.

    Attributes:
        plan: What decides the result, as JSON has it. A work folder holds the blocks of one plan.
        blocks: What each block is about, by the name of its file.
        compute: What is found in a block, by name; if there is more to say of it, with notes.
        facts: What the record says beside the plan.
    """

    plan: Mapping[str, Any]
    blocks: Mapping[str, Task]
    compute: Callable[[Task], Found | tuple[Found, Notes]]
    facts: Mapping[str, Any] = field(default_factory=dict)


Prepare = Callable[[argparse.Namespace], Run[Any]]
Write = Callable[[argparse.Namespace, Found], Mapping[str, Any] | None]


def over_images(
    plan: Mapping[str, Any],
    numbers: range,
    size: int,
    compute: Callable[[range], Found],
    **facts: Any,
) -> Run[range]:
    """A run over the images with these numbers, in blocks of so many."""
    parts = [numbers[first : first + size] for first in range(0, len(numbers), size)]
    return Run(plan, {f"images-{part.start:06}": part for part in parts}, compute, facts)


def lazily(make: Callable[[], Callable[[Task], Found]]) -> Callable[[Task], Found]:
    """A function of blocks that is made when the first is computed.

    What it is made of may need all images of a run, which tables of stored blocks do not.
    """
    made = cache(make)
    return lambda block: made()(block)


def add_options(parser: argparse.ArgumentParser, prepare: Prepare, write: Write) -> None:
    """Give a command the options of all long runs, and let the engine carry it out.

    Args:
        parser: Of the command.
        prepare: Makes the run of the options; it may complete them, and refuses those that do not
            fit. A function of a module, since the workers of a cluster call it too.
        write: Writes the tables of all that was found, and returns what the record is to say of it.
    """
    parser.add_argument("--work", type=Path, required=True, help="folder of the blocks")
    parser.add_argument("--out", type=Path, required=True, help="tables begin with this path")
    add_ways(parser)
    parser.add_argument(
        "--there", action="store_true", help="compute nothing: tables of the blocks that are there"
    )
    parser.set_defaults(run=partial(carry_out, prepare, write))


def add_ways(parser: argparse.ArgumentParser) -> None:
    """Add the options that say who computes the blocks."""
    parser.add_argument("--shard", type=shard, help="i/n: every n-th block, and no tables")
    parser.add_argument("--dask", metavar="ADDRESS", help="scheduler whose workers compute")


def carry_out(prepare: Prepare, write: Write, options: argparse.Namespace) -> int:
    """Compute the blocks that are not there yet, then write the tables and their record."""
    run = prepare(options)
    if not options.there:
        compute_missing(prepare, run, options)
        if options.shard:
            return 0
    found, stored, about = _gathered(options.work, run)
    facts = {**run.plan, **run.facts, **(write(options, found) or {}), **about}
    if len(stored) < len(run.blocks):
        facts["measured"] = [number for name in stored for number in run.blocks[name]]
    record = provenance(command_line(leave_out=HOW), **facts)
    write_record(options.out, record, add=getattr(options, "add", False))
    return 0


def compute_missing(prepare: Prepare, run: Run[Any], options: argparse.Namespace) -> None:
    """Compute and store the blocks of this shard that are not in the work folder yet.

    Raises:
        SystemExit: The folder belongs to another run.
    """
    number, shards = options.shard or (1, 1)
    mine = list(run.blocks)[number - 1 :: shards]  # none, if there are more shards than blocks
    # Not a part of the plan: a run may go on elsewhere.
    keep_plan(
        options.work,
        run.plan,
        command=command_line(leave_out=HOW),
        computed_with=computed_with(_device(options)),
    )
    missing = [name for name in mine if not block_path(options.work, name).exists()]
    if not missing:
        print("nothing left to compute")
    with tqdm(total=len(mine), initial=len(mine) - len(missing), unit="blocks") as bar:
        for name, found, notes in _computed(prepare, run, options, missing):
            save(block_path(options.work, name), found, notes)
            bar.update()


def block_path(work: Path, name: str) -> Path:
    """Where a block is stored."""
    return work / f"{name}.safetensors"


def read_block(work: Path, name: str) -> tuple[Found, Notes]:
    """What a stored block holds, and its notes."""
    with safe_open(block_path(work, name), framework="pt") as file:
        return {key: file.get_tensor(key) for key in file.keys()}, file.metadata() or {}  # noqa: SIM118


def write_record(out: Path, record: dict[str, Any], *, add: bool = False) -> None:
    """Write the record of tables; if rows were added to tables that are there, below theirs."""
    path = out.with_name(f"{out.name}.json")
    if add and path.exists():
        before: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        record = before | {"added": [*before.get("added", []), record]}
    write_json(path, record)


def _computed(
    prepare: Prepare, run: Run[Any], options: argparse.Namespace, names: Sequence[str]
) -> Iterator[tuple[str, Found, Notes]]:
    """Blocks with their names, here one after another, or as a cluster has them ready."""
    if not options.dask:
        for name in names:
            yield _block(run, name, _device(options))
        return
    given = {name: value for name, value in vars(options).items() if name != "run"}
    task = partial(_on_worker, prepare, pickle.dumps(given), _as_read(run.plan))
    yield from _dask.results(options.dask, task, names)


def _block(run: Run[Any], name: str, device: str) -> tuple[str, Found, Notes]:
    before = time.process_time()
    result = run.compute(run.blocks[name])
    found, notes = result if isinstance(result, tuple) else (result, {})
    spent = f"{time.process_time() - before:.2f}"
    return name, found, {"computed_with": computed_with(device), _COST: spent} | notes


def _on_worker(
    prepare: Prepare, given: bytes, plan: Mapping[str, Any], name: str
) -> tuple[str, Found, Notes]:
    """Compute a block where the weights and the data are read anew, and must be the same."""
    with _ONE_BLOCK_AT_A_TIME:
        run, device = _prepared(prepare, given)
        if (here := _as_read(run.plan)) != plan:
            raise RuntimeError(f"this worker has read {here}, not what was asked for: {plan}")
        return _block(run, name, device)


@lru_cache(maxsize=1)
def _prepared(prepare: Prepare, given: bytes) -> tuple[Run[Any], str]:
    options = argparse.Namespace(**pickle.loads(given))
    return prepare(options), _device(options)


def _as_read(plan: Mapping[str, Any]) -> dict[str, Any]:
    """The plan as it is when it comes back from a file."""
    found: dict[str, Any] = json.loads(json.dumps(plan))
    return found


def _device(options: argparse.Namespace) -> str:
    return str(getattr(options, "device", "cpu"))


def _gathered(work: Path, run: Run[Any]) -> tuple[Found, list[str], dict[str, Any]]:
    """What the stored blocks hold, put together; their names; how they were computed.

    Raises:
        SystemExit: None is there, or the folder belongs to another run.
    """
    stored = [name for name in run.blocks if block_path(work, name).exists()]
    if not stored:
        raise SystemExit(f"--there: no block is in {work} yet; run without it first.")
    keep_plan(work, run.plan)
    parts, notes = zip(*(read_block(work, name) for name in stored), strict=True)
    found = {name: torch.cat([part[name] for part in parts]) for name in sorted(parts[0])}
    # Blocks had no notes once; then the folder says where its first were computed.
    kept = json.loads((work / "plan.json").read_text(encoding="utf-8")).get("computed_with", "")
    computers = {note.get("computed_with", kept) for note in notes}
    return found, stored, {"computed_with": "; ".join(sorted(computers))} | cost(notes)


def cost(notes: Iterable[Notes]) -> dict[str, float]:
    """Seconds of one processor core that the blocks took; nothing if one does not say."""
    spent = [note.get(_COST) for note in notes]
    known = [float(seconds) for seconds in spent if seconds is not None]
    return {_COST: round(sum(known), 1)} if len(known) == len(spent) else {}
