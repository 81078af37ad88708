"""The blocks of a long run, computed on a dask cluster that is already there."""

from collections.abc import Callable, Iterator, Sequence
from importlib import import_module
from typing import Any, TypeVar

Task = TypeVar("Task")
Result = TypeVar("Result")

PATIENCE = "20s"  # with a scheduler that does not answer


def results(
    address: str, function: Callable[[Task], Result], tasks: Sequence[Task]
) -> Iterator[Result]:
    """Compute ``function(task)`` for every task on the cluster, and yield what is ready.

    What a worker was computing when it was lost is computed again by another; each result comes
    once.

    Args:
        address: Of the cluster's scheduler, ``"tcp://host:8786"``.
        function: Runs on the workers; it and the tasks must be picklable.
        tasks: What to compute.

    Raises:
        SystemExit: If dask is not installed, or no scheduler answers at the address.
    """
    try:
        distributed: Any = import_module("distributed")
    except ImportError:
        raise SystemExit("--dask needs dask: pip install 'xaiutils[dask]'.") from None
    try:
        client = distributed.Client(address, timeout=PATIENCE)
    except (OSError, ValueError) as error:
        raise SystemExit(f"--dask {address}: no scheduler answers there ({error}).") from error
    with client:
        futures = client.map(function, tasks, pure=False)
        for future, result in distributed.as_completed(futures, with_results=True):
            future.release()  # else it would be computed again if its worker is lost later
            yield result
