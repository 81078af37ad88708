"""Find a data set: in XAIUTILS_DATA, the cache, by download, or embedded in a package.

A data set is described by a `Dataset`; `find` says where it lies. Whatever the cache holds under
its final name is whole: files go into a staging folder, are checked, and only then renamed.
"""

from __future__ import annotations

import difflib
import errno
import gzip
import hashlib
import importlib.resources
import importlib.util
import logging
import os
import shutil
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Literal

from filelock import FileLock

logger = logging.getLogger("xaiutils.data")

SOURCES = ("auto", "env", "cache", "download", "embedded")
TIMEOUT = (5, 15)  # seconds to connect, and between two packets


class DataError(RuntimeError):
    """A file of a data set is missing, damaged or cannot be written.

    Attributes:
        file: The file, folder or address concerned.
        cause: What is wrong with it.
        remedy: What to do about it.
    """

    def __init__(self, file: str | Path, cause: str, remedy: str) -> None:
        super().__init__(f"{file}: {cause}. {remedy}")
        self.file, self.cause, self.remedy = str(file), cause, remedy

    def __reduce__(self) -> tuple[type[DataError], tuple[str, str, str]]:
        # DataLoader workers send exceptions through pickle, which would pass the message alone.
        return type(self), (self.file, self.cause, self.remedy)


class NotHereError(DataError):
    """The data set is not in the place that was asked; `source="auto"` tries the next one."""


@dataclass(frozen=True)
class Source:
    """Where a data set came from.

    Attributes:
        kind: "env" (XAIUTILS_DATA), "cache", "download", "embedded" or "folder" (the user's own).
        description: The same for a reader, without paths of the machine.
        path: The folder that holds the data set's own folder; None for embedded data.
        note: Why the places before this one were passed over ("auto" only).
    """

    kind: Literal["env", "cache", "download", "embedded", "folder"]
    description: str
    path: Path | None = field(default=None, repr=False)
    note: str = ""

    def __str__(self) -> str:
        return f"{self.description} ({self.note})" if self.note else self.description

    @property
    def remedy(self) -> str:
        """What to do when a file from here turns out to be damaged."""
        if self.kind == "env":
            return "Copy it into the XAIUTILS_DATA folder again, or unset that variable"
        if self.kind == "embedded":
            return "Reinstall the package that ships the file, in the version of constraints.txt"
        if self.kind == "folder":
            return "Replace or remove the file"
        return "Delete it, or the data set's whole folder, and call again with source='download'"


@dataclass(frozen=True)
class Remote:
    """One file to download.

    Attributes:
        path: Where it lies, relative to XAIUTILS_DATA or the cache; a folder if `packing` is "zip".
        url: Its public home.
        sha256: Of the file as it lies at `path`; of the archive if `packing` is "zip".
        packing: How the file at `url` is packed.
    """

    path: str
    url: str
    sha256: str
    packing: Literal["none", "gzip", "zip"] = "none"


@dataclass(frozen=True)
class Dataset:
    """What `find` has to know of a data set.

    Attributes:
        name: Its name, also that of its lock and staging folder in the cache.
        files: What it consists of.
        size: Size of the download, for a reader.
        embedded: Description of the embedded part, or None where there is none.
        hint: A sentence for the error when the data set cannot be had.
    """

    name: str
    files: tuple[Remote, ...]
    size: str
    embedded: str | None = None
    hint: str = ""


@cache
def registry() -> dict[str, str]:
    """SHA-256 of each known file, by its path relative to XAIUTILS_DATA.

    `registry.txt` has the format of `sha256sum`, so `sha256sum -c` checks a folder with it. It is
    made, in such a folder, by

        LC_ALL=C sha256sum MNIST/raw/* imagenet-sample-images/* weights/* > registry.txt
    """
    text = importlib.resources.files(__package__).joinpath("registry.txt").read_text("utf-8")
    return {path: sha256 for sha256, path in (line.split("  ", 1) for line in text.splitlines())}


def choose(value: str, options: Iterable[str], what: str) -> str:
    """Return `value` if it is one of `options`.

    Raises:
        ValueError: It is none of them; the message names the nearest.
    """
    options = tuple(options)
    if value in options:
        return value
    near = difflib.get_close_matches(str(value), options, n=3)
    advice = f"did you mean {' or '.join(map(repr, near))}?" if near else f"choose from {options}"
    raise ValueError(f"{what} {value!r} is unknown: {advice}")


def cache_dir() -> Path:
    """Folder of the downloads: `XAIUTILS_CACHE` if set, else the platform's cache for xaiutils."""
    import pooch

    return Path(os.environ.get("XAIUTILS_CACHE") or pooch.os_cache("xaiutils"))


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_verified(path: Path, sha256: str | None, remedy: str) -> bytes:
    """Read a whole file and compare it with its checksum.

    Raises:
        DataError: It cannot be read, or its SHA-256 is not `sha256`.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(path, f"cannot be read ({error.strerror or error})", remedy) from error
    if sha256 is not None and hashlib.sha256(content).hexdigest() != sha256:
        cause = f"is damaged or truncated ({len(content)} bytes, SHA-256 differs from the original)"
        raise DataError(path, cause, remedy)
    return content


def package_file(package: str, path: str) -> Path:
    """Path of a file that ships inside an installed package, which is not imported for that.

    Raises:
        DataError: The package is not installed.
    """
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise DataError(f"{package}/{path}", f"{package} is not installed", "Install xaiutils anew")
    return Path(spec.submodule_search_locations[0]) / path


def find(dataset: Dataset, source: str = "auto") -> Source:
    """Say where a data set lies, downloading it if need be.

    Args:
        dataset: What to look for.
        source: "auto" tries XAIUTILS_DATA ("env"), the "cache", the "download" and the "embedded"
            part, in this order; any other value forces that one. A forced download fetches what is
            missing from the cache or fails its checksum there.

    Raises:
        ValueError: `source` is none of `SOURCES`.
        DataError: The data set is not there, is incomplete, or cannot be downloaded or stored.
    """
    steps = {"env": _env, "cache": _cached, "download": _download, "embedded": _embedded}
    if choose(source, SOURCES, "source") != "auto":
        return steps[source](dataset)
    reasons: list[str] = []
    for step in steps.values():
        try:
            return replace(step(dataset), note="; ".join(reasons))
        except NotHereError as error:
            reasons.append(error.cause)
    raise NotHereError(dataset.name, "; ".join(reasons), _how_to_get(dataset))


def _env(dataset: Dataset) -> Source:
    if not os.environ.get("XAIUTILS_DATA"):
        raise NotHereError(dataset.name, "XAIUTILS_DATA is not set", _how_to_get(dataset))
    folder = Path(os.environ["XAIUTILS_DATA"])
    if not folder.is_dir():
        raise DataError(folder, "XAIUTILS_DATA names no folder", "Correct or unset that variable")
    missing = _missing(dataset, folder)
    if len(missing) == len(dataset.files):
        raise NotHereError(dataset.name, "not in XAIUTILS_DATA", _how_to_get(dataset))
    source = Source("env", "the XAIUTILS_DATA folder", folder)
    if missing:
        cause = f"is missing (in all {len(missing)} of {len(dataset.files)} files are)"
        raise DataError(folder / missing[0].path, cause, source.remedy)
    return source


def _cached(dataset: Dataset) -> Source:
    folder = cache_dir()
    if _missing(dataset, folder):
        raise NotHereError(dataset.name, "not in the cache", _how_to_get(dataset))
    return Source("cache", "the cache of earlier downloads", folder)


def _embedded(dataset: Dataset) -> Source:
    if dataset.embedded is None:
        raise NotHereError(dataset.name, "no part of it is embedded", _how_to_get(dataset))
    return Source("embedded", dataset.embedded)


def _missing(dataset: Dataset, folder: Path) -> list[Remote]:
    return [remote for remote in dataset.files if not (folder / remote.path).exists()]


def _how_to_get(dataset: Dataset) -> str:
    top = dataset.files[0].path.split("/")[0]
    online = f"Connect to the network and call again ({dataset.size} to download)"
    return f"{online}, or set XAIUTILS_DATA to a folder that holds {top}/. {dataset.hint}".rstrip()


def _download(dataset: Dataset) -> Source:
    if os.environ.get("XAIUTILS_OFFLINE", "0") not in ("", "0"):
        raise NotHereError(dataset.name, "XAIUTILS_OFFLINE forbids downloads", _how_to_get(dataset))
    folder = cache_dir()
    staging = folder / f"{dataset.name}.partial"
    logger.info("%s: %s to download into %s", dataset.name, dataset.size, folder)
    with _explain_write_errors(folder, dataset):
        folder.mkdir(parents=True, exist_ok=True)
        # Of two processes the second waits here, then finds everything in place.
        with FileLock(folder / f"{dataset.name}.lock"):
            wanted = [remote for remote in dataset.files if not _is_whole(remote, folder)]
            shutil.rmtree(staging, ignore_errors=True)  # left by a killed download
            staging.mkdir()
            try:
                _download_all(dataset, wanted, staging, folder)
            finally:
                shutil.rmtree(staging, ignore_errors=True)
    return Source("download", "downloaded from its public home into the cache", folder)


def _is_whole(remote: Remote, folder: Path) -> bool:
    path = folder / remote.path
    if remote.packing == "zip":
        return path.is_dir()
    return path.is_file() and sha256_of(path) == remote.sha256


def _download_all(dataset: Dataset, wanted: list[Remote], staging: Path, folder: Path) -> None:
    from tqdm import tqdm

    many = len(wanted) > 4  # one bar over all files; else one bar a file
    with ThreadPoolExecutor(8 if many else 1) as pool:
        done = pool.map(lambda remote: _download_one(remote, staging, folder, bar=not many), wanted)
        title = f"{dataset.name} ({dataset.size})"
        for _ in tqdm(done, title, total=len(wanted), unit="file", disable=not wanted):
            pass


def _download_one(remote: Remote, staging: Path, folder: Path, *, bar: bool) -> None:
    import pooch
    import requests

    staged = staging / remote.path.replace("/", "_")
    try:
        pooch.HTTPDownloader(progressbar=bar, timeout=TIMEOUT)(remote.url, str(staged), None)
    except requests.RequestException as error:
        cause = f"could not be downloaded ({_brief(error)})"
        raise NotHereError(remote.url, cause, "Check the network and call again") from error
    whole = _unpack(remote, staged)
    target = folder / remote.path
    target.parent.mkdir(parents=True, exist_ok=True)
    whole.replace(target)


def _brief(error: OSError) -> str:
    response = getattr(error, "response", None)
    return type(error).__name__ if response is None else f"HTTP status {response.status_code}"


def _unpack(remote: Remote, staged: Path) -> Path:
    """Unpack and verify a downloaded file; return the path of what is to be kept."""
    remedy = "Call again; if it persists, something on the way alters downloads (a proxy?)"
    unpacked = staged.with_name(staged.name + ".unpacked")
    if remote.packing == "gzip":
        try:
            with gzip.open(staged) as packed, unpacked.open("wb") as plain:
                shutil.copyfileobj(packed, plain)
        except (gzip.BadGzipFile, EOFError, zlib.error) as error:
            raise DataError(remote.url, f"arrived damaged ({error})", remedy) from error
        staged = unpacked
    if sha256_of(staged) != remote.sha256:
        cause = f"arrived damaged ({staged.stat().st_size} bytes, SHA-256 differs)"
        raise DataError(remote.url, cause, remedy)
    if remote.packing == "zip":
        with zipfile.ZipFile(staged) as archive:
            archive.extractall(unpacked)
        return unpacked / remote.path
    return staged


@contextmanager
def _explain_write_errors(folder: Path, dataset: Dataset) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        remedy = "Make it writable, or set XAIUTILS_CACHE to a folder that is"
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            remedy = f"Free space for {dataset.size} there, or set XAIUTILS_CACHE to a larger disk"
        if dataset.embedded is not None:
            remedy += ", or call with source='embedded'"
        cause = f"the cache cannot be written ({error.strerror or error})"
        raise DataError(error.filename or folder, cause, remedy) from error
