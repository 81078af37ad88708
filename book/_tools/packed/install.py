"""Install what this folder holds. It needs Python and nothing else, no network either.

Run it by a double click, or as ``python install.py``; ``--to FOLDER`` installs into another folder
than this one, such as when this one is on a memory stick. It can be run again at any time: it goes
on where it stopped, and never overwrites a notebook.
"""

import argparse
import importlib.util
import json
import os
import platform
import shutil
import subprocess
import sys
import venv
from pathlib import Path

if sys.version_info < (3, 11):  # noqa: UP036  an older one must be told so, not fail further down
    sys.exit(f"This needs Python 3.11 or newer, and was run by {platform.python_version()}.")

HERE = Path(__file__).resolve().parent
MOST_NAMED = 3  # how many missing files are named


class InstallError(Exception):
    """What is missing, and what to do about it."""


def main(arguments: list[str] | None = None, pack: Path = HERE) -> int:
    """Install; what went wrong is printed in words."""
    parser = argparse.ArgumentParser(description="Install what this folder holds.")
    parser.add_argument("--to", type=Path, default=pack, help="folder (default: this one)")
    home = parser.parse_args(arguments).to.expanduser().resolve()
    try:
        install(pack, home)
    except InstallError as error:
        print(f"\nNot installed. {error}", file=sys.stderr)
        return 1
    print(f"Done. Now run start.py in {home}: it opens the notebooks.")
    return 0


def install(pack: Path, home: Path) -> None:
    """Make the environment in a folder and put the notebooks beside it.

    Raises:
        InstallError: Something is missing, or does not work.
    """
    about = read_about(pack)
    check_machine(about["for"])
    check_wheels(pack, about["wheels"])
    environment = home / "environment"
    before = is_environment(environment)
    if not before:
        check_room(home, about["room"])
        print(f"Making {environment}", flush=True)
        make_environment(environment)
    print(f"Installing {len(about['wheels'])} packages: some minutes without a word", flush=True)
    wheels = ["--no-index", "--find-links", str(pack / "wheels")]
    pip(environment, *wheels, about["install"])
    if before:  # the version may be the same and the package not
        pip(environment, *wheels, "--force-reinstall", "--no-deps", about["install"])
    copy_notebooks(pack, home)
    print("Trying it", flush=True)
    run([python_of(environment), "-c", about["check"]], home)


def read_about(pack: Path) -> dict:
    """What ``pack.json`` says: for which machine, which wheels, how large, how to try it.

    Raises:
        InstallError: It is not there.
    """
    try:
        return json.loads((pack / "pack.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise InstallError(
            f"The file pack.json is missing in {pack}, or broken. Copy the whole folder again."
        ) from None


def machine() -> dict[str, str]:
    """The Python, the system and the processor that this runs on."""
    return {
        "python": f"{sys.version_info.major}.{sys.version_info.minor}",
        "system": platform.system(),
        "machine": platform.machine().lower().replace("amd64", "x86_64"),
    }


def check_machine(wanted: dict[str, str], found: dict[str, str] | None = None) -> None:
    """Compare the machine with the one that the pack is for.

    Raises:
        InstallError: It is another one.
    """
    found = found or machine()
    if wanted == found:
        return
    words = "Python {python} on {system} ({machine})"
    cure = "Ask for a pack for this machine."
    if {**found, "python": wanted["python"]} == wanted:
        cure = "Run it with Python {python}, or install that beside yours.".format(**wanted)
    raise InstallError(
        f"This pack is for {words.format(**wanted)}; this is {words.format(**found)}. {cure}"
    )


def check_wheels(pack: Path, wheels: dict[str, int]) -> None:
    """Look whether all packages have arrived, whole.

    Args:
        pack: The folder.
        wheels: Their names and sizes in bytes.

    Raises:
        InstallError: Some have not.
    """
    paths = {name: pack / "wheels" / name for name in wheels}
    lost = [n for n, p in paths.items() if not p.is_file() or p.stat().st_size != wheels[n]]
    if lost:
        named = ", ".join(lost[:MOST_NAMED]) + (" and others" if len(lost) > MOST_NAMED else "")
        raise InstallError(
            f"{len(lost)} of {len(wheels)} packages are missing in {pack / 'wheels'}, or were cut "
            f"short: {named}. Copy the whole folder again."
        )


def check_room(home: Path, needed: int) -> None:
    """Look whether the disk has room.

    Raises:
        InstallError: It has not.
    """
    there = next(folder for folder in (home, *home.parents) if folder.is_dir())
    free = shutil.disk_usage(there).free
    if free < needed:
        raise InstallError(
            f"The disk of {home} has {free / 1e9:.1f} GB left; {needed / 1e9:.1f} GB are needed. "
            "Make room, or name another folder with --to."
        )


def python_of(environment: Path) -> Path:
    """The Python of an environment."""
    return environment / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def is_environment(folder: Path) -> bool:
    """Whether a folder holds an environment of this version of Python, with pip in it."""
    try:
        settings = (folder / "pyvenv.cfg").read_text(encoding="utf-8")
        done = subprocess.run(
            [python_of(folder), "-m", "pip", "--version"], capture_output=True, check=False
        )
    except OSError:
        return False
    return f"= {machine()['python']}." in settings and done.returncode == 0


def make_environment(folder: Path) -> None:
    """Make one; what is left of another is cleared away.

    Raises:
        InstallError: Something else is in the folder, this Python has no pip to put into it, or
            the disk does not take it.
    """
    if folder.exists() and not (folder / "pyvenv.cfg").is_file() and list(folder.iterdir()):
        raise InstallError(
            f"{folder} holds something else. Move it away, or name a folder with --to."
        )
    if importlib.util.find_spec("ensurepip") is None:
        raise InstallError(
            "This Python cannot make environments. On Debian and Ubuntu the package python3-venv "
            "is missing; elsewhere install Python anew, with all its parts."
        )
    try:
        venv.EnvBuilder(clear=True, with_pip=True, symlinks=os.name != "nt").create(folder)
    except (OSError, subprocess.CalledProcessError) as error:
        raise InstallError(
            f"{folder} could not be made: {error}. If it is on a memory stick, name a folder on "
            "the machine's own disk with --to."
        ) from error


def pip(environment: Path, *words: str) -> None:
    """Let the environment's pip install something, whatever this machine's settings for pip are.

    Raises:
        InstallError: pip fails; with the end of what it said.
    """
    command = [python_of(environment), "-m", "pip", "install", "--quiet", "--no-input"]
    command += ["--no-compile", "--disable-pip-version-check"]  # Python compiles what it imports
    run([*command, *words], environment)


def run(command: list[str | Path], folder: Path) -> None:
    """Run a command of the environment in a folder.

    Raises:
        InstallError: It fails; with the end of what it said.
    """
    theirs = ("PIP_", "PYTHON", "VIRTUAL_ENV")
    variables = {name: v for name, v in os.environ.items() if not name.startswith(theirs)}
    variables |= {"PIP_CONFIG_FILE": os.devnull, "XAIUTILS_OFFLINE": "1"}
    done = subprocess.run(
        command, cwd=folder, env=variables, capture_output=True, text=True, errors="replace"
    )
    if done.returncode:
        said = "\n".join((done.stderr or done.stdout).strip().splitlines()[-8:])
        raise InstallError(f"This command failed: {' '.join(map(str, command))}\n{said}")


def copy_notebooks(pack: Path, home: Path) -> None:
    """Put the notebooks and start.py into another folder than the pack's; none is overwritten."""
    if home == pack:
        return
    for source in [pack / "start.py", *sorted((pack / "notebooks").iterdir())]:
        target = home / source.relative_to(pack)
        target.parent.mkdir(parents=True, exist_ok=True)
        if not target.exists():
            shutil.copyfile(source, target)


def wait_on_windows() -> None:
    """A window that was opened by a double click would close before anyone has read it."""
    if os.name == "nt" and sys.stdin is not None and sys.stdin.isatty():
        input("Press Enter to close this window.")


if __name__ == "__main__":
    status = main()
    wait_on_windows()
    sys.exit(status)
