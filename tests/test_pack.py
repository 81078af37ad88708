"""The pack for a class: what is collected for which machine, and what its installer does."""

import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections import namedtuple

import chapters
import nbformat
import pack
import pytest
from nbformat.v4 import new_markdown_cell, new_notebook
from packed import install, start

from xaiutils.reproduce import results

OWN = ["torch", "for_windows; sys_platform == 'win32'", "for_linux; os_name == 'posix'"]
PYPROJECT = f"""
[build-system]
requires = ["setuptools>=77"]
build-backend = "setuptools.build_meta"
[project]
name = "xaiutils"
version = "0.1.0"
dependencies = {json.dumps(OWN)}
optional-dependencies = {{ read = ["lab"] }}
[tool.setuptools]
packages = ["xaiutils"]
data-files = {{ "share/xaiutils/results" = ["results/*.csv"] }}
"""


def _wheel(folder, name, version="1.0", tag="py3-none-any", requires=(), size=0):
    """A wheel of one module."""
    info = f"{name}-{version}.dist-info"
    needs = "".join(f"Requires-Dist: {need}\n" for need in requires)
    files = {
        f"{name}.py": f"VERSION = '{version}'\n" + "#" * size,
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{needs}",
        f"{info}/WHEEL": f"Wheel-Version: 1.0\nGenerator: t\nRoot-Is-Purelib: true\nTag: {tag}\n",
    }
    record = "".join(f"{path},,\n" for path in files) + f"{info}/RECORD,,\n"
    path = folder / f"{name}-{version}-{tag}.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for inside, text in (files | {f"{info}/RECORD": record}).items():
            archive.writestr(inside, text)
    return path


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A repository of a project that is as small as can be."""
    root = tmp_path_factory.mktemp("root")
    for folder in ("xaiutils", "results", "notebooks", "book"):
        (root / folder).mkdir()
    (root / "pyproject.toml").write_text(PYPROJECT)
    (root / "xaiutils/__init__.py").touch()
    (root / "results/samek.csv").write_text("a\n1\n")
    (root / "constraints.txt").write_text("torch==2.0\nnvidia-cublas==1\nlab==1.0\n")
    (root / "book/references.bib").touch()
    chapter = new_notebook(cells=[new_markdown_cell("# Sums")], metadata=chapters.METADATA)
    nbformat.write(chapter, root / "notebooks/11.ipynb")
    return root


@pytest.fixture(scope="module")
def shelf(tmp_path_factory):
    """All wheels that there are."""
    folder = tmp_path_factory.mktemp("shelf")
    for name in ("for_linux", "for_windows"):
        _wheel(folder, name)
    _wheel(folder, "lab")
    _wheel(folder, "lab", "2.0")
    _wheel(folder, "nvidia_cublas", size=2_000_000)
    _wheel(folder, "torch", "2.0", requires=['nvidia_cublas; platform_system == "Linux"'])
    _wheel(folder, "torch", "2.0", tag="cp311-cp311-win_amd64")
    return folder


CHECK = "import torch, lab; assert torch.VERSION == lab.VERSION + '+cpu', torch.VERSION"


@pytest.fixture(scope="module")
def cpu(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cpu")
    _wheel(folder, "torch", "1.0+cpu", requires=["for_linux"])
    _wheel(folder, "torchvision", "1.0+cpu")
    return folder


@pytest.fixture(scope="module")
def made(root, shelf, cpu):
    """A pack for this very machine."""
    return pack.make(pack.this_machine(), root, torch=cpu, wheels=shelf, check=CHECK)


@pytest.fixture
def copied(made, tmp_path):
    return shutil.copytree(made, tmp_path / "a pack")


def _names(folder):
    return {re.match(r"[a-z_]+-[\d.]+", path.name)[0] for path in (folder / "wheels").iterdir()}


# What is collected


def test_pack_holds_what_this_machine_needs_in_the_tried_versions(made):
    wanted = {"xaiutils-0.1.0", "torch-1.0", "torchvision-1.0", "lab-1.0"}
    assert wanted <= _names(made) <= {*wanted, "for_linux-1.0", "for_windows-1.0"}
    assert {path.name for path in made.iterdir()} == {
        *("READ-ME.txt", "install.py", "start.py", "notebooks", "wheels", "pack.json")
    }
    notebooks = {path.name for path in (made / "notebooks").iterdir()}
    assert notebooks == {"11.ipynb", "checks.py", "checks.json"}
    assert "Student edition" in (made / "notebooks/11.ipynb").read_text()


def test_another_system_gets_what_that_system_needs(root, shelf, tmp_path):
    own = _wheel(tmp_path, "xaiutils", requires=OWN)
    pack.fetch(pack.target_of("windows", "3.11"), own, root / "constraints.txt", [], shelf)
    assert {path.name for path in tmp_path.iterdir()} == {
        own.name,
        "torch-2.0-cp311-cp311-win_amd64.whl",
        "for_windows-1.0-py3-none-any.whl",
    }


def test_what_is_for_graphics_cards_is_said(shelf, tmp_path):
    shutil.copytree(shelf, tmp_path / "wheels")
    shutil.copytree(shelf, tmp_path / "notebooks")
    about = pack.describe(pack.target_of("linux", "3.12"), tmp_path / "wheels", CHECK)
    lines = pack.sizes(tmp_path, about)
    assert lines[0].startswith("7 packages, 2 MB (nvidia_cublas 2 MB, ")
    assert lines[-1].startswith("2 MB of it are for graphics cards")
    assert 2_000_000 < about["installed"] < 2_100_000
    assert about["room"] > 4_000_000, "the code, and its bytecode"
    assert "There must be 4 MB free" in pack.read_me(pack.this_machine(), tmp_path, about)


def test_what_cannot_be_had_is_said(root, shelf, tmp_path):
    with pytest.raises(pack.PackError, match="one wheel of torch and one of torchvision, not none"):
        pack.torch_wheels(tmp_path)
    for wheel in shelf.glob("l*.whl"):
        shutil.copy(wheel, tmp_path)
    own = _wheel(tmp_path, "xaiutils", requires=OWN)
    with pytest.raises(pack.PackError, match=r"(?s)pip download failed.*torch==2\.0"):
        pack.fetch(pack.this_machine(), own, root / "constraints.txt", [], tmp_path)


def test_machines_are_told_apart():
    here = pack.this_machine()
    assert {"python": here.python, "system": here.system, "machine": here.machine} == (
        install.machine()
    )
    assert pack.target_of(None, None) == here
    assert pack.target_of("macos", "3.20").name == "macos-3.20"
    assert pack.TARGETS["windows"].all_conditions["platform_system"] == "Windows"


def test_wheel_of_the_project_carries_all_tables(tmp_path):
    wheel = pack.build_own(pack.ROOT, tmp_path)
    inside = zipfile.ZipFile(wheel).namelist()
    prefix = f"{'-'.join(wheel.name.split('-')[:2])}.data/data/share/xaiutils/results/"
    tables = {p.name for p in results.folder().iterdir() if p.suffix in {".csv", ".json"}}
    assert {name.removeprefix(prefix) for name in inside if name.startswith(prefix)} == tables
    assert {"LICENSE", "LICENSE-TEXT"} < {name.rpartition("/")[2] for name in inside}
    modules = {p.relative_to(pack.ROOT).as_posix() for p in pack.ROOT.glob("xaiutils/**/*.py")}
    assert modules == {name for name in inside if name.endswith(".py")}


@pytest.mark.parametrize("installed", [True, False])
def test_tables_are_found_without_a_repository(tmp_path, monkeypatch, installed):
    folder = tmp_path / "share/xaiutils/results"
    folder.mkdir(parents=True)
    (folder / "samek.csv").write_text("a\n7\n")
    listed = _Listed(folder / "samek.csv") if installed else _Listed(tmp_path / "other/samek.csv")
    monkeypatch.setattr(results.metadata, "files", lambda name: [_Listed(tmp_path), listed])
    monkeypatch.setattr(results, "__file__", str(tmp_path / "xaiutils/reproduce/results.py"))
    monkeypatch.chdir(tmp_path)
    if installed:
        assert results.table("samek").a.tolist() == [7]
    else:
        with pytest.raises(FileNotFoundError, match="nor in the installed package"):
            results.folder()


class _Listed:
    """A file as a distribution lists it."""

    def __init__(self, path):
        self.parts = path.parts
        self.locate = lambda: path


# The installer


def _run(script, *arguments):
    variables = os.environ | {"PIP_INDEX_URL": "nowhere", "PIP_REQUIRE_VIRTUALENV": "wrong"}
    command = [sys.executable, script, *arguments]
    return subprocess.run(command, env=variables, capture_output=True, text=True)


def test_installer_installs_what_the_pack_holds(copied, tmp_path):
    home = tmp_path / "at home"
    done = _run(copied / "install.py", "--to", home)
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith(f"Done. Now run start.py in {home}: it opens the notebooks.\n")
    assert (home / "start.py").is_file()
    assert (home / "notebooks/11.ipynb").is_file()


def test_installer_can_be_run_again(copied, tmp_path, monkeypatch):
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "notebooks/11.ipynb").write_text("my answers")
    commands = []
    monkeypatch.setattr(install, "is_environment", lambda folder: True)
    monkeypatch.setattr(install, "run", lambda command, folder: commands.append(command))
    install.install(copied, tmp_path)
    wanted, anew, check = commands
    assert {"--no-index", "xaiutils[read]", str(copied / "wheels")} < set(wanted)
    assert set(anew) - set(wanted) == {"--force-reinstall", "--no-deps"}
    assert check[1:] == ["-c", CHECK]
    assert (tmp_path / "notebooks/11.ipynb").read_text() == "my answers"


def test_installer_quotes_a_command_that_fails(tmp_path):
    broken = [sys.executable, "-c", "raise OSError('no such library')"]
    with pytest.raises(install.InstallError, match=r"(?s)command failed: .*no such library$"):
        install.run(broken, tmp_path)


def _refused(pack_, capsys, *arguments):
    assert install.main([*map(str, arguments)], pack_) == 1
    return capsys.readouterr().err


def test_installer_asks_for_the_right_machine(made):
    here = install.machine()
    install.check_machine(here)
    with pytest.raises(
        install.InstallError, match=r"for Python 3\.1 on .*Run it with Python 3\.1,"
    ):
        install.check_machine(here | {"python": "3.1"})
    with pytest.raises(install.InstallError, match=r"on CP/M .*Ask for a pack for this machine"):
        install.check_machine(here | {"system": "CP/M"})


def test_installer_misses_what_was_cut_short_or_left_out(copied, capsys):
    first, second, *_ = sorted((copied / "wheels").iterdir())
    first.unlink()
    second.write_bytes(second.read_bytes()[:-1])
    said = _refused(copied, capsys)
    count = len(json.loads((copied / "pack.json").read_text())["wheels"])
    assert f"Not installed. 2 of {count} packages are missing" in said
    assert first.name in said
    assert second.name in said
    (copied / "pack.json").write_text("{")
    assert "pack.json is missing" in _refused(copied, capsys)


def test_installer_wants_room_and_a_folder_of_its_own(copied, capsys, monkeypatch):
    (copied / "environment").mkdir()
    (copied / "environment/thesis.txt").touch()
    assert "holds something else" in _refused(copied, capsys)
    assert (copied / "environment/thesis.txt").is_file()
    usage = namedtuple("usage", "free")
    monkeypatch.setattr(install.shutil, "disk_usage", lambda folder: usage(free=0))
    assert "has 0.0 GB left" in _refused(copied, capsys, "--to", copied / "not/yet/there")


def test_installer_says_what_this_python_lacks(copied, capsys, monkeypatch):
    monkeypatch.setattr(install.importlib.util, "find_spec", lambda name: None)
    assert "python3-venv" in _refused(copied, capsys)
    assert not (copied / "environment").exists()


def test_start_says_what_comes_first(copied, capsys):
    assert start.main(copied) == 1
    assert "run install.py first" in capsys.readouterr().err
