"""Start and stop the processes that mark a chapter, and get their verdicts (see `examiner`)."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from multiprocessing.connection import Pipe
from pathlib import Path
from typing import Self

from teaching import examiner, sandbox

_ENVIRONMENT = ("HOME", "PATH", "LANG", "LC_ALL", "XAIUTILS_DATA", "XAIUTILS_CACHE")
_START = "from teaching import examiner; examiner.main()"
_SYSTEM = (
    *("/usr", "/lib", "/lib64", "/etc/localtime", "/etc/fonts", "/etc/ld.so.cache"),
    *("/dev/urandom", "/proc/cpuinfo", "/proc/meminfo", "/sys/devices/system/cpu"),
)


class ExaminationError(RuntimeError):
    """No verdicts can be had; the message says why."""


@dataclass(frozen=True)
class Settings:
    """Seconds for an exercise with its check, and megabytes beyond what the chapter takes."""

    seconds: float = 120
    megabytes: int = 4096


class Examination:
    """Runs a chapter once; gives verdicts on submissions of it, one after the other.

    To be used in a ``with`` statement.
    """

    def __init__(self, code: Sequence[str], root: Path, settings: Settings) -> None:
        """Take the chapter's own code, the book's root, and what a submission may use.

        Raises:
            ExaminationError: Code cannot be shut in on this machine.
        """
        if why := sandbox.complaint():
            raise ExaminationError(f"cannot mark here: {why}")
        self._code, self._root, self._settings = list(code), root, settings

    def __enter__(self) -> Self:
        """Run the chapter.

        Raises:
            ExaminationError: It does not run.
        """
        self._channel, theirs = Pipe()
        self._process = subprocess.Popen(
            [sys.executable, "-c", _START, str(theirs.fileno())],
            cwd=self._root / "notebooks",
            env=_environment(),
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
        )
        theirs.close()
        try:
            self._channel.send(self._code)
            stopped = self._channel.recv()
        except (EOFError, OSError):
            stopped = "its process ended"
        if stopped:
            self.__exit__()
            raise ExaminationError(f"the chapter itself does not run: {stopped}")
        return self

    def __exit__(self, *_: object) -> None:
        """End the processes."""
        self._channel.close()
        self._process.kill()
        self._process.wait()

    def verdicts(self, tasks: Sequence[examiner.Task]) -> list[examiner.Verdict]:
        """The verdicts on the exercises of one submission.

        Where its processes end at an exercise, new ones go on with the next, without the code of
        that exercise.

        Raises:
            ExaminationError: The chapter's process has ended.
        """
        found: list[examiner.Verdict] = []
        while len(found) < len(tasks):
            before = [t.code for t, v in zip(tasks, found, strict=False) if not v.ended]
            first, *others = tasks[len(found) :]
            first = replace(first, before=tuple(source for code in before for source in code))
            try:
                found += self._until_ended([first, *others])
            except (EOFError, OSError):
                raise ExaminationError("the chapter's process has ended") from None
        return found

    def _until_ended(self, tasks: Sequence[examiner.Task]) -> list[examiner.Verdict]:
        """Verdicts from one pair of processes: on all tasks, or up to where the pair ended."""
        found: list[examiner.Verdict] = []
        with tempfile.TemporaryDirectory(prefix="answers-") as scratch:
            if os.geteuid() == 0:
                os.chown(scratch, sandbox.NOBODY, sandbox.NOBODY)
            self._channel.send(self._job(Path(scratch).resolve(), len(tasks)))
            for task in tasks:
                self._channel.send(task)
                reply = self._channel.recv()
                if isinstance(reply, str):
                    raise ExaminationError(reply)
                found.append(reply.verdict if isinstance(reply, examiner.End) else reply)
                if isinstance(reply, examiner.End):
                    return found
                if reply.ended:
                    break
            else:
                self._channel.send(None)
            self._channel.recv()
        return found

    def _job(self, scratch: Path, tasks: int) -> examiner.Job:
        seconds = int(self._settings.seconds + examiner.GRACE + 1) * tasks
        limits = sandbox.Limits(self._settings.megabytes, seconds=seconds)
        return examiner.Job(scratch, _readable(self._root), limits, self._settings.seconds)


def _environment() -> dict[str, str]:
    """What the chapter's process may know of this one's environment: no tokens, no sessions."""
    kept = {name: os.environ[name] for name in _ENVIRONMENT if name in os.environ}
    kept |= {"PYTHONPATH": str(Path(__file__).parents[1])}
    kept |= {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "MPLBACKEND": "Agg"}
    return kept | {"XAIUTILS_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""}


def _readable(root: Path) -> tuple[Path, ...]:
    """What answers may read: Python, the package and its data. Neither chapters nor submissions."""
    data = (os.environ.get(name) for name in ("XAIUTILS_DATA", "XAIUTILS_CACHE"))
    own = (sys.prefix, sys.base_prefix, root / "xaiutils", root / "results")
    return tuple(Path(path) for path in (*own, *_SYSTEM, *filter(None, data)))
