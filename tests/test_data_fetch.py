"""Finding and downloading, against a server on 127.0.0.1 of whole, wrong or broken content."""

import errno
import gzip
import hashlib
import http.server
import io
import os
import pickle
import shutil
import socket
import subprocess
import sys
import threading
import zipfile
from pathlib import Path

import pooch
import pytest

from xaiutils.data import DataError, _fetch

CONTENT = bytes(range(256)) * 400


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        server = self.server
        server.requests.append(self.path)
        if len(server.requests) == 2:
            server.second_request.set()
        content = server.content.get(self.path)
        if content is None:
            self.send_error(404)
            return
        server.gate.wait(timeout=60)
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        half = len(content) // 2
        self.wfile.write(content[:half])
        if self.path in server.stops_halfway:
            server.halfway.set()
            server.go_on.wait(timeout=60)
            return
        self.wfile.write(content[half:])

    def log_message(self, *args):
        pass


class Server(http.server.ThreadingHTTPServer):
    """Serves `content` by path; those in `stops_halfway` wait there for `go_on` and break off."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.content, self.stops_halfway, self.requests = {}, set(), []
        self.gate, self.halfway, self.go_on = (threading.Event() for _ in range(3))
        self.second_request = threading.Event()
        self.gate.set()

    def handle_error(self, request, client_address):
        """Clients that were killed or ran out of patience are part of the tests."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)

    def url(self, path):
        return f"http://127.0.0.1:{self.server_port}{path}"

    def remote(self, name, content, packing="none", served=None):
        """A file to download; `served` is what the server really sends."""
        packed = gzip.compress(content) if packing == "gzip" else content
        self.content[f"/{name}"] = packed if served is None else served
        sha256 = hashlib.sha256(content).hexdigest()
        place = name.removesuffix(".zip") if packing == "zip" else f"folder/{name}"
        return _fetch.Remote(place, self.url(f"/{name}"), sha256, packing)


@pytest.fixture
def server():
    server = Server()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.gate.set()
    server.go_on.set()
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """An empty cache, no XAIUTILS_DATA, and no way out of this machine."""
    connect = socket.socket.connect

    def connect_here(self, address):
        assert address[0] == "127.0.0.1", f"a test reached out to {address}"
        return connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", connect_here)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("XAIUTILS_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("XAIUTILS_DATA", raising=False)
    monkeypatch.delenv("XAIUTILS_OFFLINE", raising=False)
    return tmp_path / "cache"


def dataset(*remotes, embedded=None):
    return _fetch.Dataset("example", remotes, "100 kB", embedded)


def left_in(cache):
    """Everything in the cache but the lock."""
    return sorted(path.name for path in cache.rglob("*") if path.suffix != ".lock")


def test_download_once_then_from_the_cache(server, cache):
    example = dataset(server.remote("a.bin", CONTENT))
    first = _fetch.find(example)
    assert (first.kind, first.path) == ("download", cache)
    assert (cache / "folder" / "a.bin").read_bytes() == CONTENT
    assert left_in(cache) == ["a.bin", "folder"]
    second = _fetch.find(example)
    assert second.kind == "cache"
    assert second.note == "XAIUTILS_DATA is not set"
    assert server.requests == ["/a.bin"]


def test_gzip_is_stored_unpacked(server, cache):
    _fetch.find(dataset(server.remote("a.idx", CONTENT, "gzip")))
    assert (cache / "folder" / "a.idx").read_bytes() == CONTENT


def test_zip_becomes_a_folder(server, cache):
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("tiny/words.txt", "one")
    example = dataset(server.remote("tiny.zip", archive.getvalue(), "zip"))
    assert _fetch.find(example).kind == "download"
    assert left_in(cache) == ["tiny", "words.txt"]
    assert _fetch.find(example, "download").kind == "download"
    assert server.requests == ["/tiny.zip"]


@pytest.mark.parametrize("packing", ["none", "gzip", "zip"])
def test_wrong_content_is_refused(server, cache, packing):
    wrong = gzip.compress(b"sign in to use this network") if packing == "gzip" else b"sign in"
    example = dataset(server.remote("a.bin.zip", CONTENT, packing, served=wrong), embedded="part")
    with pytest.raises(DataError, match=r"a\.bin\.zip: arrived damaged .*SHA-256.* Call again"):
        _fetch.find(example)
    assert left_in(cache) == []


def test_cut_gzip_is_refused(server, cache):
    cut = gzip.compress(CONTENT)[:-20]
    with pytest.raises(DataError, match="arrived damaged"):
        _fetch.find(dataset(server.remote("a.idx", CONTENT, "gzip", served=cut)))
    assert left_in(cache) == []


def test_broken_transfer_is_refused(server, cache):
    server.stops_halfway.add("/a.bin")
    server.go_on.set()
    with pytest.raises(DataError, match="could not be downloaded") as caught:
        _fetch.find(dataset(server.remote("a.bin", CONTENT)), "download")
    assert caught.value.file == server.url("/a.bin")
    assert server.halfway.is_set()
    assert left_in(cache) == []


def test_file_that_is_gone_from_its_home(server):
    example = dataset(_fetch.Remote("a.bin", server.url("/a.bin"), "0" * 64))
    with pytest.raises(DataError, match=r"HTTP status 404.*Check the network"):
        _fetch.find(example, "download")


def unreachable():
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
    return _fetch.Remote("folder/a.bin", f"http://127.0.0.1:{port}/a.bin", "0" * 64)


def test_no_network_falls_to_the_embedded_part():
    found = _fetch.find(dataset(unreachable(), embedded="embedded: a part"))
    assert (found.kind, found.path) == ("embedded", None)
    assert "could not be downloaded (ConnectionError)" in found.note
    assert str(found).startswith("embedded: a part (")


def test_no_network_and_nothing_embedded():
    with pytest.raises(DataError, match=r"could not be downloaded.*set XAIUTILS_DATA to a folder"):
        _fetch.find(dataset(unreachable()))


def test_silent_server_does_not_hold_up_for_long(server, monkeypatch):
    server.gate.clear()
    monkeypatch.setattr(_fetch, "TIMEOUT", (5, 0.2))
    found = _fetch.find(dataset(server.remote("a.bin", CONTENT), embedded="part"))
    assert found.kind == "embedded"
    assert "Timeout" in found.note


def test_offline_asks_no_server(server, monkeypatch):
    monkeypatch.setenv("XAIUTILS_OFFLINE", "1")
    example = dataset(server.remote("a.bin", CONTENT), embedded="part")
    assert "XAIUTILS_OFFLINE forbids" in _fetch.find(example).note
    with pytest.raises(DataError, match="XAIUTILS_OFFLINE forbids downloads"):
        _fetch.find(example, "download")
    assert server.requests == []


def test_many_files_resume_where_a_failure_left_them(server, cache):
    remotes = [server.remote(f"{i}.bin", CONTENT + bytes([i])) for i in range(12)]
    last = server.content.pop("/11.bin")
    with pytest.raises(DataError, match="404"):
        _fetch.find(dataset(*remotes), "download")
    whole = {path.name for path in (cache / "folder").iterdir()}
    server.content["/11.bin"] = last
    server.requests.clear()
    assert _fetch.find(dataset(*remotes)).kind == "download"
    assert set(server.requests) == {f"/{i}.bin" for i in range(12) if f"{i}.bin" not in whole}
    assert len(list((cache / "folder").iterdir())) == 12


def test_forced_download_mends_the_cache(server, cache):
    example = dataset(server.remote("a.bin", CONTENT), server.remote("b.bin", CONTENT))
    _fetch.find(example)
    (cache / "folder" / "b.bin").write_bytes(CONTENT[:-1])
    server.requests.clear()
    assert _fetch.find(example, "download").kind == "download"
    assert (cache / "folder" / "b.bin").read_bytes() == CONTENT
    assert server.requests == ["/b.bin"]


CHILD = """
import logging, sys
from xaiutils.data import _fetch
logging.basicConfig(level="INFO", stream=sys.stdout, format="%(message)s")
remote = _fetch.Remote("folder/a.bin", sys.argv[1], sys.argv[2])
print(_fetch.find(_fetch.Dataset("example", (remote,), "100 kB"), "download").kind)
"""


def start_child(remote):
    command = [sys.executable, "-c", CHILD, remote.url, remote.sha256]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert "100 kB to download" in child.stdout.readline()
    return child


def test_killed_download_leaves_nothing_that_is_taken_for_whole(server, cache):
    remote = server.remote("a.bin", CONTENT)
    server.stops_halfway.add("/a.bin")
    child = start_child(remote)
    assert server.halfway.wait(timeout=60)
    child.kill()
    child.communicate()
    assert (cache / "example.partial").is_dir()
    with pytest.raises(DataError, match="not in the cache"):
        _fetch.find(dataset(remote), "cache")
    server.stops_halfway.clear()
    assert _fetch.find(dataset(remote)).kind == "download"
    assert (cache / "folder" / "a.bin").read_bytes() == CONTENT
    assert not (cache / "example.partial").exists()


def test_two_processes_at_once_download_once(server, cache):
    remote = server.remote("a.bin", CONTENT)
    server.gate.clear()
    children = [start_child(remote) for _ in range(2)]
    # Both are downloading now. Were there no lock, the second would ask the server at once.
    assert not server.second_request.wait(timeout=2)
    server.gate.set()
    outputs = [child.communicate(timeout=60)[0] for child in children]
    assert outputs == ["download\n"] * 2
    assert [child.returncode for child in children] == [0, 0]
    assert (cache / "folder" / "a.bin").read_bytes() == CONTENT
    assert server.requests == ["/a.bin"]


@pytest.mark.parametrize(
    ("owner", "function"), [(pooch.HTTPDownloader, "__call__"), (shutil, "copyfileobj")]
)
def test_full_disk(server, cache, monkeypatch, owner, function):
    def fail(*args, **options):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    example = dataset(server.remote("a.idx", CONTENT, "gzip"), embedded="part")
    monkeypatch.setattr(owner, function, fail)
    with pytest.raises(DataError, match=r"No space left.*Free space for 100 kB.*XAIUTILS_CACHE"):
        _fetch.find(example)
    assert left_in(cache) == []


def test_cache_that_cannot_be_made(server, cache):
    cache.write_text("a file, not a folder")
    with pytest.raises(DataError, match=r"cache: the cache cannot be written.*set XAIUTILS_CACHE"):
        _fetch.find(dataset(server.remote("a.bin", CONTENT)), "download")


def test_read_only_cache(server, cache, monkeypatch):
    def fail(self, target):
        raise PermissionError(errno.EROFS, os.strerror(errno.EROFS), str(target))

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(DataError, match=r"Read-only.*source='embedded'") as caught:
        _fetch.find(dataset(server.remote("a.bin", CONTENT), embedded="part"))
    assert caught.value.file == str(cache / "folder" / "a.bin")


def test_environment_comes_first(server, cache, tmp_path, monkeypatch):
    example = dataset(server.remote("a.bin", CONTENT), server.remote("b.bin", CONTENT))
    _fetch.find(example)
    home = tmp_path / "home"
    (home / "folder").mkdir(parents=True)
    monkeypatch.setenv("XAIUTILS_DATA", str(home))
    assert _fetch.find(example).note == "not in XAIUTILS_DATA"
    (home / "folder" / "a.bin").write_bytes(CONTENT)
    with pytest.raises(DataError, match=r"b\.bin: is missing .*1 of 2 files.* XAIUTILS_DATA"):
        _fetch.find(example)
    (home / "folder" / "b.bin").write_bytes(CONTENT)
    assert _fetch.find(example) == _fetch.Source("env", "the XAIUTILS_DATA folder", home)
    assert _fetch.find(example, "cache").path == cache


def test_environment_that_names_no_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("XAIUTILS_DATA", str(tmp_path / "nowhere"))
    with pytest.raises(DataError, match=r"nowhere: XAIUTILS_DATA names no folder"):
        _fetch.find(dataset(unreachable(), embedded="part"))


@pytest.mark.parametrize("source", ["env", "cache", "download", "embedded"])
def test_forced_source_tries_no_other(source):
    with pytest.raises(DataError) as caught:
        _fetch.find(dataset(unreachable()), source)
    causes = {
        "env": "XAIUTILS_DATA is not set",
        "cache": "not in the cache",
        "download": "could not be downloaded (ConnectionError)",
        "embedded": "no part of it is embedded",
    }
    assert caught.value.cause == causes[source]


def test_unknown_source_names_the_nearest():
    with pytest.raises(ValueError, match="did you mean 'embedded'"):
        _fetch.find(dataset(unreachable()), "embeded")
    with pytest.raises(ValueError, match="choose from"):
        _fetch.find(dataset(unreachable()), "xyz")


def test_error_survives_pickling():
    error = pickle.loads(pickle.dumps(DataError("file", "is damaged", "Replace it")))
    assert isinstance(error, DataError)
    assert str(error) == "file: is damaged. Replace it"


def test_missing_package():
    with pytest.raises(DataError, match="no_such_package is not installed"):
        _fetch.package_file("no_such_package", "a.png")
