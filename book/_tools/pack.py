"""Pack what a class needs to work without a network: packages, notebooks, an installer.

Everything goes into _build/pack, into one folder for each system, made anew each time:

    READ-ME.txt   what to do, in four lines, and how large it is
    install.py    makes the environment from the wheels; needs Python and nothing else
    start.py      opens the notebooks
    notebooks/    the students' edition, see teach.py
    wheels/       the project, with the tables of its long runs, and all that it needs
    pack.json     for which machine it is, and what must be in it

Run as ``python book/_tools/pack.py``; with ``--platform windows`` (or ``macos``, ``linux``) and
``--python 3.12`` for another machine than this one. ``--torch FOLDER`` takes torch and torchvision
from a folder, such as their builds without CUDA; ``--wheels FOLDER`` takes everything from there.
"""

import argparse
import json
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import teach

TOOLS = Path(__file__).resolve().parent
ROOT = teach.ROOT
OUTPUT = Path("_build/pack")
# What the project's own wheel is built from.
SOURCES = ("pyproject.toml", "README.md", "LICENSE", "LICENSE-TEXT", "xaiutils", "results")
INSTALL = "xaiutils[read]"
CHECK = """import torch, torchvision, jupyterlab, ipykernel
from xaiutils import attribution, data, evaluation, models, plot, widgets
from xaiutils.reproduce import results
assert list(results.folder().glob("*.csv")), "the tables of the long runs are not there"
"""
CUDA = re.compile(r"(nvidia|cuda|triton)[_-]")
PINNED_WITH_TORCH = re.compile(r"(torch|torchvision|triton|nvidia-[\w-]+|cuda-[\w-]+)==")
MEGABYTE = 1e6


class PackError(Exception):
    """What could not be packed, and why."""


@dataclass(frozen=True)
class Target:
    """A kind of machine.

    Attributes:
        name: Its folder's name.
        system: As `platform.system` calls it.
        machine: Its processor, in lower case.
        tags: The platform tags of wheels that it takes, the preferred ones first.
        conditions: What the conditions of its dependencies are read with.
        python: Its version of Python, such as ``"3.11"``.
    """

    name: str
    system: str
    machine: str
    tags: tuple[str, ...]
    conditions: dict[str, str] = field(hash=False)
    python: str = f"{sys.version_info.major}.{sys.version_info.minor}"

    @property
    def all_conditions(self) -> dict[str, str]:
        """The conditions, with those that follow from the other fields."""
        return self.conditions | {
            "platform_system": self.system,
            "python_version": self.python,
            "python_full_version": f"{self.python}.0",
        }


# Those for old systems first: a wheel that asks for a newer one is taken where there is no other.
_GLIBC = ("2_17", "2_24", "2_26", "2_27", "2_28", "2_31", "2_34", "2_35")
TARGETS = {
    "linux": Target(
        "linux",
        "Linux",
        "x86_64",
        ("manylinux2014_x86_64", *(f"manylinux_{version}_x86_64" for version in _GLIBC)),
        {"os_name": "posix", "sys_platform": "linux", "platform_machine": "x86_64"},
    ),
    "windows": Target(
        "windows",
        "Windows",
        "x86_64",
        ("win_amd64",),
        {"os_name": "nt", "sys_platform": "win32", "platform_machine": "AMD64"},
    ),
    "macos": Target(
        "macos",
        "Darwin",
        "arm64",
        ("macosx_14_0_arm64",),  # pip takes those for older systems too
        {"os_name": "posix", "sys_platform": "darwin", "platform_machine": "arm64"},
    ),
}


def this_machine() -> Target:
    """The machine that this runs on; any kind."""
    system, machine = platform.system(), platform.machine().lower().replace("amd64", "x86_64")
    for target in TARGETS.values():
        if (target.system, target.machine) == (system, machine):
            return target
    return Target(f"{system}-{machine}".lower(), system, machine, (), {})


def target_of(name: str | None, python: str | None) -> Target:
    """The machine that a pack is for.

    Args:
        name: A key of `TARGETS`; None for a machine like this one.
        python: Its version of Python; None for the one that runs this.

    Raises:
        PackError: Another Python is asked for on a kind of machine that `TARGETS` does not know.
    """
    target = TARGETS[name] if name else this_machine()
    if python in (None, target.python):
        return target
    if not target.tags:
        raise PackError(f"Packs for {target.name} are made by the Python that they are for.")
    return replace(target, name=f"{target.name}-{python}", python=python)


def make(
    target: Target,
    root: Path = ROOT,
    torch: Path | None = None,
    wheels: Path | None = None,
    check: str = CHECK,
) -> Path:
    """Make a pack anew; its folder.

    Args:
        target: The machine that it is for.
        root: The repository.
        torch: A folder with wheels of torch and torchvision to take.
        wheels: A folder to take all others from, instead of an index on the network.
        check: Code that runs on the machine if all is there.

    Raises:
        PackError: A wheel cannot be built or fetched.
        MarkError: The marks of a chapter do not fit together, see `teach.make`.
    """
    pack = root / OUTPUT / target.name
    shutil.rmtree(pack, ignore_errors=True)
    (pack / "wheels").mkdir(parents=True)
    own = build_own(root, pack / "wheels")
    fetch(target, own, root / "constraints.txt", torch_wheels(torch), wheels)
    shutil.copytree(teach.make(root) / "student", pack / "notebooks")
    for name in ("install.py", "start.py"):
        shutil.copy(TOOLS / "packed" / name, pack)
    about = describe(target, pack / "wheels", check)
    (pack / "pack.json").write_text(json.dumps(about, indent=1), encoding="utf-8")
    (pack / "READ-ME.txt").write_text(read_me(target, pack, about), encoding="utf-8")
    return pack


def build_own(root: Path, folder: Path) -> Path:
    """Build the project's own wheel into a folder, with its tables; the wheel.

    Raises:
        PackError: It cannot be built.
    """
    with tempfile.TemporaryDirectory() as clean:  # what an earlier build left would go along
        for source in (root / name for name in SOURCES if (root / name).exists()):
            copy = shutil.copytree if source.is_dir() else shutil.copy
            copy(source, Path(clean) / source.name)
        _pip("wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", folder, clean)
    (wheel,) = folder.glob("xaiutils-*.whl")
    return wheel


def torch_wheels(folder: Path | None) -> list[Path]:
    """The wheels of torch and torchvision in a folder; none of none.

    Raises:
        PackError: The folder has not just one of each.
    """
    if folder is None:
        return []
    found = [sorted(folder.glob(f"{name}-*.whl")) for name in ("torch", "torchvision")]
    if [len(wheels) for wheels in found] != [1, 1]:
        names = ", ".join(w.name for wheels in found for w in wheels) or "none of them"
        raise PackError(
            f"{folder} must hold one wheel of torch and one of torchvision, not {names}."
        )
    return [wheel.resolve() for wheels in found for wheel in wheels]


def fetch(
    target: Target, own: Path, constraints: Path, torch: Sequence[Path], source: Path | None
) -> None:
    """Fetch all that the project's wheel needs into the folder that it is in.

    Args:
        target: The machine that they are for.
        own: The project's wheel.
        constraints: The versions that were tried together. Those of torch, and of what its CUDA
            build needs, do not hold where torch comes from a folder.
        torch: Wheels of torch and torchvision, see `torch_wheels`.
        source: A folder to take all from; None for the index that pip is set up to ask.

    Raises:
        PackError: pip does not find a wheel.
    """
    lines = constraints.read_text(encoding="utf-8").splitlines(keepends=True)
    kept = [line for line in lines if not (torch and PINNED_WITH_TORCH.match(line))]
    with tempfile.TemporaryDirectory() as scratch:
        (Path(scratch) / "constraints.txt").write_text("".join(kept), encoding="utf-8")
        extra = INSTALL.removeprefix("xaiutils")
        words: list[str | Path] = [f"{own}{extra}", *torch, "--only-binary", ":all:"]
        words += ["--dest", own.parent, "--constraint", Path(scratch) / "constraints.txt"]
        if source:
            words += ["--no-index", "--find-links", source]
        if target == this_machine():
            _pip("download", *words)
            return
        for tag in target.tags:
            words += ["--platform", tag]
        words += ["--implementation", "cp", "--python-version", target.python]
        _pip("download", *words, elsewhere=target.all_conditions)


def _pip(*words: str | Path, elsewhere: dict[str, str] | None = None) -> None:
    start = [TOOLS / "pip_elsewhere.py", json.dumps(elsewhere)] if elsewhere else ["-m", "pip"]
    command = [sys.executable, *start, *words, "--disable-pip-version-check"]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode:
        said = "\n".join(done.stdout.strip().splitlines()[-15:])  # which versions do not agree
        raise PackError(f"pip {words[0]} failed:\n{said}")


def describe(target: Target, wheels: Path, check: str) -> dict:
    """What install.py must know: see its `read_about`."""
    paths = sorted(wheels.glob("*.whl"))
    return {
        "for": {"python": target.python, "system": target.system, "machine": target.machine},
        "install": INSTALL,
        "installed": sum(map(unpacked, paths)),
        "room": sum(unpacked(path, bytecode=True) for path in paths),
        "check": check,
        "wheels": {path.name: path.stat().st_size for path in paths},
    }


def unpacked(wheel: Path, bytecode: bool = False) -> int:
    """The bytes of a wheel's files once it is installed.

    Args:
        wheel: The wheel.
        bytecode: Count bytecode too, which is about as large as the code, and is written when a
            module is first imported.
    """
    with zipfile.ZipFile(wheel) as archive:
        files = archive.filelist
    return sum(f.file_size * (2 if bytecode and f.filename.endswith(".py") else 1) for f in files)


def sizes(pack: Path, about: dict) -> list[str]:
    """What a pack holds and weighs, in lines to print."""
    wheels = about["wheels"]
    largest = sorted(wheels, key=wheels.__getitem__)[:-5:-1]
    named = ", ".join(f"{n.split('-')[0]} {_megabytes(wheels[n])}" for n in largest)
    notebooks = [p.stat().st_size for p in (pack / "notebooks").iterdir()]
    lines = [
        f"{len(wheels)} packages, {_megabytes(sum(wheels.values()))} ({named} ...)",
        f"{len(list(pack.glob('notebooks/*.ipynb')))} notebooks, {_megabytes(sum(notebooks))}",
        f"installed: about {_megabytes(about['installed'])}",
    ]
    cuda = sum(size for name, size in wheels.items() if CUDA.match(name))
    if cuda:
        lines.append(
            f"{_megabytes(cuda)} of it are for graphics cards, which no student needs: give "
            "--torch a folder with builds of torch and torchvision without CUDA"
        )
    return lines


def _megabytes(size: float) -> str:
    return f"{size / MEGABYTE:,.0f} MB" if size >= MEGABYTE else "less than 1 MB"


def read_me(target: Target, pack: Path, about: dict) -> str:
    """The text of READ-ME.txt."""
    room = about["room"] / MEGABYTE
    held = "\n".join(f"- {line}" for line in sizes(pack, about)[:3])
    return f"""Heatmaps Under Test: the notebooks, and all that they need. No network is asked.

This pack is for Python {target.python} on {target.system} ({target.machine}).

1. Have Python {target.python}. In a window for commands, python3 --version says which one it is.
2. Copy this folder to the machine's own disk. There must be {room:,.0f} MB free.
3. Run install.py: by a double click, or by: python3 install.py
   It takes some minutes, and says what is missing if something is. It can be run again.
4. Run start.py in the same way. It opens the notebooks in the browser.

Delete the folder and all is gone. What it holds:
{held}

The text and the figures are under CC BY 4.0 (https://creativecommons.org/licenses/by/4.0/), the
code under BSD-3-Clause. The packages in wheels/ have licences of their own, which are in them.
"""


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--platform", choices=TARGETS, help="for which system (default: this one)")
    parser.add_argument("--python", metavar="3.X", help="for which Python (default: this one)")
    parser.add_argument("--torch", type=Path, metavar="FOLDER", help="with torch and torchvision")
    parser.add_argument("--wheels", type=Path, metavar="FOLDER", help="with all; asks no network")
    options = parser.parse_args()
    try:
        target = target_of(options.platform, options.python)
        pack = make(target, torch=options.torch, wheels=options.wheels)
    except (PackError, teach.marks.MarkError) as error:
        print(error, file=sys.stderr)
        return 1
    print(f"Made {pack}", *sizes(pack, json.loads((pack / "pack.json").read_text())), sep="\n  ")
    return 0


if __name__ == "__main__":
    sys.exit(main())
