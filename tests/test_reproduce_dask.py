"""A long run on a dask cluster: a worker that is lost, and everything else that can go wrong."""

import itertools
import os
import re
import signal
import socket
import subprocess
import sys
import time

import pytest
from distributed import Client, LocalCluster
from safetensors.torch import load_file
from test_reproduce_samek import SETTINGS, merge, run

from xaiutils.reproduce import _dask

IMAGES = "3:17"  # in seven blocks of 2
ORDERS = 3


@pytest.fixture(scope="module")
def cluster():
    with LocalCluster(
        n_workers=2, threads_per_worker=1, processes=True, dashboard_address=":0", memory_limit=None
    ) as found:
        yield found


def on_cluster(address, work):
    typed = ["samek", "run", f"--work={work}", *SETTINGS, f"--images={IMAGES}", f"--dask={address}"]
    command = [sys.executable, "-m", "xaiutils.reproduce", *typed]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True)


def stop_in_the_third_block(gate):
    """Runs in each worker: it computes two blocks, and waits for the gate in the next."""
    from xaiutils import evaluation

    work, calls = evaluation.region_perturbation, itertools.count()

    def patient(*arguments, **options):
        while next(calls) >= 2 * ORDERS and not gate.exists():
            time.sleep(0.01)
        return work(*arguments, **options)

    evaluation.region_perturbation = patient


def blocks(work):
    return sorted(work.glob("*.safetensors"))


def test_a_lost_worker_costs_nothing_and_counts_nothing_twice(cluster, tmp_path, monkeypatch):
    with Client(cluster) as client:
        client.run(stop_in_the_third_block, tmp_path / "gate")
        process = on_cluster(cluster.scheduler_address, tmp_path / "cluster")
        while process.poll() is None and len(blocks(tmp_path / "cluster")) < 4:
            time.sleep(0.01)
        kept = {path: path.stat().st_mtime_ns for path in blocks(tmp_path / "cluster")}
        assert len(kept) == 4
        first, second = client.processing().values()
        assert first  # both are at work
        assert second
        os.kill(next(iter(client.run(os.getpid).values())), signal.SIGKILL)
        (tmp_path / "gate").touch()
    _, messages = process.communicate()
    assert process.returncode == 0, messages
    assert all(path.stat().st_mtime_ns == written for path, written in kept.items())

    typed = ["samek", "run", *SETTINGS, f"--images={IMAGES}"]
    monkeypatch.setattr(sys, "argv", ["xaiutils.reproduce", *typed])  # for the record
    assert run(tmp_path / "alone", images=IMAGES) == 0
    found, expected = blocks(tmp_path / "cluster"), blocks(tmp_path / "alone")
    assert [path.name for path in found] == [path.name for path in expected]
    for path in expected:
        assert load_file(path).keys() == load_file(tmp_path / "cluster" / path.name).keys()
    works = ("cluster", "alone")
    for work in works:
        merge(tmp_path / work, tmp_path / f"{work}-tables" / "samek")
    tables = sorted((tmp_path / "alone-tables").iterdir())
    assert len(tables) >= 4
    for table in tables:  # the record too: plan, weights, data, versions, command; not the time
        texts = [(tmp_path / f"{work}-tables" / table.name).read_text() for work in works]
        alone, there = (re.sub(r'\n +"cpu_seconds": .*', "", text) for text in texts)
        assert there == alone


def fail_on_two(number):
    if number == 2:
        raise ArithmeticError("two")
    return number


def test_an_error_on_a_worker_ends_the_run(cluster):
    with pytest.raises(ArithmeticError, match="two"):
        list(_dask.results(cluster.scheduler_address, fail_on_two, [1, 2, 3]))
    assert sorted(_dask.results(cluster.scheduler_address, fail_on_two, [1, 3])) == [1, 3]


def test_a_worker_with_other_weights_is_refused(cluster, tmp_path, monkeypatch):
    from xaiutils.reproduce import _samek

    monkeypatch.setattr(_samek, "weights", lambda module, source: {"sha256": "another"})
    with pytest.raises(RuntimeError, match="not what was asked"):
        run(tmp_path, f"--dask={cluster.scheduler_address}")
    assert not blocks(tmp_path)


def test_no_scheduler_and_no_dask(tmp_path, monkeypatch):
    with socket.socket() as taken:  # bound, but nobody listens
        taken.bind(("127.0.0.1", 0))
        address = f"tcp://127.0.0.1:{taken.getsockname()[1]}"
        monkeypatch.setattr(_dask, "PATIENCE", "1s")
        with pytest.raises(SystemExit, match="no scheduler answers"):
            run(tmp_path, f"--dask={address}")
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(SystemExit, match=r"xaiutils\[dask\]"):
        run(tmp_path, "--dask=tcp://127.0.0.1:1")
