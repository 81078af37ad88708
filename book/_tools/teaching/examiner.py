"""The three processes that mark one chapter: who holds what, and who may run whose code.

1. *The chapter*: runs the book's own code once, and knows no check and no answer. For each
   submission it forks the other two, so that each begins with the names of the chapter.
2. *The answers*: shut in (`teaching.sandbox`), runs the student's code. All that comes out of it
   are values as data (`teaching.exchange`), and what its functions return when they are asked.
3. *The checks*: gets these values, and runs the original checks on them. No line of a student's
   runs in it, so there is nothing that a student's code could patch, print or end to pass.

`teaching.examination` starts the first; a descriptor that it gives leads back to it.
"""

from __future__ import annotations  # Windows, which is to be refused in words, has no Connection

import builtins
import contextlib
import io
import linecache
import os
import pickle
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing import connection
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from teaching import exchange, sandbox

PASSED, FAILED, UNANSWERED = "passed", "failed", "not answered"
TIMED_OUT, ERROR, BY_HAND = "timed out", "error", "by hand"
STATUSES = (PASSED, FAILED, UNANSWERED, TIMED_OUT, ERROR, BY_HAND)
GRACE = 5  # seconds after which a check that does not end is ended
_LONGEST = 400  # characters of a message
_MOST_SIGHTS = 20
# Events of Python's audit that are told to the teacher
_TOLD = ("open", "os.", "shutil.", "subprocess.", "socket.", "ctypes.dlopen", "gc.get_")
_QUIET = ("os.putenv", "os.unsetenv")
_ON_FILES = {  # only outside of what the code may read
    "open": "opens",
    "os.listdir": "lists",
    "os.scandir": "lists",
    "os.walk": "lists",
    "os.chdir": "goes to",
    "os.mkdir": "makes",
    "os.remove": "removes",
    "os.rmdir": "removes",
    "os.rename": "renames",
    "os.truncate": "cuts",
    "os.chmod": "changes",
    "os.utime": "changes",
    "os.link": "links",
    "os.symlink": "links",
    "shutil.rmtree": "removes",
    "shutil.copyfile": "copies",
    "shutil.copymode": "copies",
    "shutil.copystat": "copies",
    "shutil.move": "moves",
}


@dataclass(frozen=True)
class Job:
    """What the chapter's process needs to fork for a submission.

    Attributes:
        scratch: The folder that its code may write to.
        readable: What it may read.
        limits: What it may use.
        seconds: How long an exercise may take, with its check.
    """

    scratch: Path
    readable: tuple[Path, ...]
    limits: sandbox.Limits
    seconds: float


@dataclass(frozen=True)
class Task:
    """An exercise of a submission.

    Attributes:
        code: The student's code for it.
        results: What the student gives for each name that the check asks for: expressions.
        check: The original check; empty if there is none.
        before: The student's code for earlier exercises, where it must be run anew. Its errors
            count there.
    """

    code: tuple[str, ...]
    results: dict[str, str]
    check: str
    before: tuple[str, ...] = ()


@dataclass(frozen=True)
class Verdict:
    """How an exercise went.

    Attributes:
        status: One of `STATUSES`.
        message: For the student.
        sights: For the teacher: what the code did that no answer needs.
        ended: Whether the processes of this submission have ended with it.
    """

    status: str
    message: str = ""
    sights: tuple[str, ...] = ()
    ended: bool = False


@dataclass(frozen=True)
class End:
    """The processes of a submission have ended; if unasked, with this verdict."""

    verdict: Verdict


class AnswerStopped(BaseException):
    """The student's process took too long or ended; no ``except`` of a check catches this."""


class AnswerError(Exception):
    """A function of the student's raised, or its result is none."""


# The process of the chapter


def main() -> None:
    """Run a chapter, then fork for one submission after the other until there are no more."""
    channel = connection.Connection(int(sys.argv[1]))
    sandbox.guard()
    module = ModuleType(exchange.CHAPTER)
    sys.modules[exchange.CHAPTER] = module
    module.__dict__.update(__builtins__=builtins, display=lambda *_, **__: None)
    try:
        for place, source in enumerate(channel.recv()):
            _run(source, f"<cell {place}>", module.__dict__)
    except Exception as error:
        channel.send(f"{type(error).__name__}: {error}")
        return
    channel.send("")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # a student's words don't reach the terminal
    while job := channel.recv():
        channel.send(_fork(job, channel, module.__dict__))


def _run(source: str, name: str, namespace: dict[str, Any]) -> None:
    """Execute a cell whose code can be found again, as `inspect` wants it."""
    linecache.cache[name] = (len(source), None, source.splitlines(True), name)
    exec(compile(source, name, "exec"), namespace)


def _fork(job: Job, channel: connection.Connection, namespace: dict[str, Any]) -> End | str:
    """Fork the two processes of a submission, and wait for the end of both.

    Returns:
        The end, with the verdict on the exercise that it came in; or why no process could be shut
        in, so that none of the student's code was run.
    """
    ours, theirs = connection.Pipe()
    answers = os.fork()
    if not answers:
        _end(lambda: answer(theirs, job, namespace))
    theirs.close()
    said = ours.recv_bytes().decode() if ours.poll(GRACE) else "it does not begin"
    if said:
        return said
    checks = os.fork()
    if not checks:
        sandbox.guard()
        sandbox.limit(job.limits)
        _end(lambda: judge(Answers(ours, job.seconds), channel, namespace))
    ours.close()
    _, how = os.waitpid(checks, 0)
    os.kill(answers, signal.SIGKILL)
    os.waitpid(answers, 0)
    if os.WIFSIGNALED(how) and os.WTERMSIG(how) in (signal.SIGALRM, signal.SIGXCPU):
        return End(Verdict(TIMED_OUT, "its check took too long", ended=True))
    return End(Verdict(ERROR, "its check broke off", ended=True))


def _end(work: Callable[[], None]) -> None:
    """Do the work of a forked process, which must not go on as its parent would."""
    try:
        work()
    except BaseException:
        os._exit(1)
    os._exit(0)


# The process of the answers: nothing that it says is believed


def answer(link: connection.Connection, job: Job, namespace: dict[str, Any]) -> None:
    """Shut this process in and say so, then do what it is asked over the connection."""
    _leave_home(job.scratch)
    try:
        sandbox.shut_in(job.scratch, job.readable, job.limits, [link.fileno()])
    except sandbox.ShutInError as error:
        link.send_bytes(str(error).encode())
        return
    link.send_bytes(b"")
    functions: list[Any] = []
    namespace["check"] = lambda *_, **__: None
    sys.modules["checks"] = ModuleType("checks")
    sys.modules["checks"].check = namespace["check"]  # type: ignore[attr-defined]
    _watch(link, (*job.readable, job.scratch))
    while True:
        request = _Loader(io.BytesIO(link.recv_bytes()), namespace, functions).load()
        try:
            reply = b"+" + exchange.pack(_do(request, namespace, functions), _keeper(functions))
        except exchange.NotDataError as error:
            reply = b"?" + _said(error)
        except BaseException as error:
            reply = b"-" + _said(f"{type(error).__name__}: {error}")
        link.send_bytes(reply)


def _leave_home(scratch: Path) -> None:
    """Make the scratch folder the home, and forget what the environment says of the user."""
    kept = {k: v for k, v in os.environ.items() if k == "LANG" or k.startswith(("XAIUTILS", "OMP"))}
    os.environ.clear()
    os.environ.update(kept, HOME=str(scratch), TMPDIR=str(scratch), MPLCONFIGDIR=str(scratch))
    os.environ.update(MPLBACKEND="Agg")
    tempfile.tempdir = None


def _do(request: tuple[Any, ...], namespace: dict[str, Any], functions: list[Any]) -> Any:
    match request:
        case "run", sources:
            for place, source in enumerate(sources):
                _run(source, f"<your cell {place}>", namespace)
            return None
        case "results", expressions:
            return {name: eval(text, namespace) for name, text in expressions.items()}
        case "call", number, arguments, options:
            return functions[number](*arguments, **options)
        case "check", code, expressions:
            results = {name: eval(text, namespace) for name, text in expressions.items()}
            exec(code, {**namespace, **results})
            return None
    raise ValueError(request[0])


def _keeper(functions: list[Any]) -> Any:
    def keep(function: Any) -> int:
        functions.append(function)
        return len(functions) - 1

    return keep


def _said(words: Any) -> bytes:
    return str(words)[:_LONGEST].encode(errors="replace")


def _watch(link: connection.Connection, allowed: tuple[Path, ...]) -> None:
    """Tell of what no answer needs, at once: later the code may have seen to it that none is told.

    Python's own audit; it sees what is asked for, also where the sandbox refuses it.
    """
    told: set[str] = set()
    inside = tuple(f"{path}/" for path in (*allowed, os.devnull, "/proc/cpuinfo", "/sys"))
    send = link.send_bytes

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event in _QUIET or not event.startswith(_TOLD):
            return
        sight = f"calls {event}"
        if event in _ON_FILES:
            if not arguments or not isinstance(arguments[0], str | bytes | os.PathLike):
                return
            path = Path(os.fsdecode(arguments[0])).resolve()
            if f"{path}/".startswith(inside):
                return
            sight = f"{_ON_FILES[event]} {path}"
        if sight not in told and len(told) < _MOST_SIGHTS:
            told.add(sight)
            send(b"!" + sight.encode(errors="replace")[:_LONGEST])

    sys.addaudithook(hook)


# The process of the checks: no code of a student's runs in here


class Answers:
    """The other end of the student's process.

    Attributes:
        seconds: How long an exercise may take.
        sights: What it was seen to do that no answer needs.
    """

    def __init__(self, link: connection.Connection, seconds: float) -> None:
        self._link = link
        self.seconds = seconds
        self.begin()

    def begin(self) -> None:
        """Begin with an exercise."""
        self._until = time.monotonic() + self.seconds
        self.sights: list[str] = []

    def ask(self, request: tuple[Any, ...], namespace: dict[str, Any]) -> Any:
        """Have something done in the student's process.

        Returns:
            The value that came back, of data and of functions to be asked.

        Raises:
            AnswerStopped: It took too long, or the process has ended.
            NotDataError: The value cannot be handed over.
            AnswerError: The student's code raised, or what came back is no value.
        """
        buffer = io.BytesIO()
        try:
            _Dumper(buffer, namespace).dump(request)
        except Exception as error:
            raise exchange.NotDataError(f"a function of what {error}") from None
        try:
            self._link.send_bytes(buffer.getvalue())
            kind, content = self._reply()
        except (EOFError, OSError):
            raise AnswerStopped(ERROR, "its process ended, or its results are too large") from None
        if kind == b"?":
            raise exchange.NotDataError(content.decode(errors="replace"))
        if kind != b"+":
            raise AnswerError(content.decode(errors="replace"))
        try:
            return exchange.unpack(content, lambda number: Asked(self, number, namespace))
        except ValueError as error:
            raise AnswerError(str(error)) from None

    def _reply(self) -> tuple[bytes, bytes]:
        while self._link.poll(max(0.0, self._until - time.monotonic())):
            data = self._link.recv_bytes(exchange.MOST_BYTES)
            if data[:1] != b"!":
                return data[:1], data[1:]
            if len(self.sights) < _MOST_SIGHTS:
                self.sights.append(data[1 : _LONGEST + 1].decode(errors="replace"))
        raise AnswerStopped(TIMED_OUT, "it took too long")


@dataclass(frozen=True, eq=False)
class Asked:
    """Stands for a function of the student's: asks the other process for its result."""

    answers: Answers
    number: int
    namespace: dict[str, Any]

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        """Return what the function returns, as data."""
        return self.answers.ask(("call", self.number, arguments, options), self.namespace)


def judge(answers: Answers, channel: connection.Connection, namespace: dict[str, Any]) -> None:
    """Give a verdict on each task, until none is left or the student's process ends.

    Args:
        answers: The student's process.
        channel: Where tasks come from and verdicts go to.
        namespace: The chapter's own names, which no student's code has touched.
    """
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    while task := channel.recv():
        signal.alarm(int(answers.seconds) + GRACE)
        verdict = examine(answers, task, namespace)
        signal.alarm(0)
        channel.send(verdict)
        if verdict.ended:
            return


def examine(answers: Answers, task: Task, namespace: dict[str, Any]) -> Verdict:
    """The verdict on an exercise."""
    answers.begin()
    try:
        status, message = _examine(answers, task, namespace)
    except AnswerStopped as stopped:
        status, message = stopped.args
        return Verdict(status, message, tuple(answers.sights), ended=True)
    return Verdict(status, message, tuple(answers.sights))


def _examine(answers: Answers, task: Task, namespace: dict[str, Any]) -> tuple[str, str]:
    for source in task.before:
        with contextlib.suppress(AnswerError):
            answers.ask(("run", [source]), {})
    try:
        answers.ask(("run", list(task.code)), {})
        if not task.check:
            return BY_HAND, "no check can judge it"
        results = answers.ask(("results", task.results), namespace)
    except AnswerError as error:
        return ERROR if task.check else BY_HAND, f"your code stopped. {error}"
    except exchange.NotDataError as error:
        return _by_hand(answers, task, str(error))
    if not isinstance(results, dict) or results.keys() != task.results.keys():
        return ERROR, "the results asked for did not come"
    if any(value is ... for value in results.values()):
        return UNANSWERED, ""
    return _check(answers, task, {**namespace, **results})


def _check(answers: Answers, task: Task, names: dict[str, Any]) -> tuple[str, str]:
    """Run the original check on a student's results."""
    asked = any(callable(names[name]) for name in task.results)
    try:
        exec(task.check, names)
    except AssertionError as error:
        return FAILED, str(error)
    except AnswerError as error:
        return ERROR, f"your function stopped. {error}"
    except exchange.NotDataError as error:
        return _by_hand(answers, task, str(error))
    except Exception as error:
        said = f"{type(error).__name__}: {error}"[:_LONGEST]
        return _by_hand(answers, task, said) if asked else (ERROR, f"the check stopped. {said}")
    if hollow := [name for name in task.results if _is_hollow(names[name])]:
        return BY_HAND, f"The check passes, but {' and '.join(hollow)} is empty or not finite."
    return PASSED, ""


def _is_hollow(value: Any) -> bool:
    """Whether a value is empty or not finite: of such, much is true without a reason."""
    if isinstance(value, list | tuple | dict):
        entries = value.values() if isinstance(value, dict) else value
        return not value or any(map(_is_hollow, entries))
    if hasattr(value, "isfinite"):  # a tensor
        return not value.numel() or not bool(value.isfinite().all())
    if isinstance(value, float | np.ndarray | np.number):
        array = np.asarray(value)
        return not array.size or (array.dtype.kind in "fc" and not np.isfinite(array).all())
    return False


def _by_hand(answers: Answers, task: Task, why: str) -> tuple[str, str]:
    """What cannot be handed over is looked at; what the check says beside the answer is a hint."""
    try:
        answers.ask(("check", task.check, task.results), {})
    except (AnswerError, exchange.NotDataError) as error:
        said = f"does not pass ({error})"
    else:
        said = "passes"
    return BY_HAND, f"It is looked at by hand: {why}. The check, run beside the answer, {said}."


# What is handed to the student's process: there it may be pickle. Objects of the chapter, which
# both processes have, go by name.


class _Dumper(pickle.Pickler):
    def __init__(self, file: Any, namespace: dict[str, Any]) -> None:
        super().__init__(file)
        self._names = {id(value): name for name, value in _objects(namespace)}

    def persistent_id(self, value: Any) -> str | int | None:
        if isinstance(value, ModuleType):
            return value.__name__
        if isinstance(value, Asked):
            return value.number
        _refuse_traced(value)
        return self._names.get(id(value))


class _Loader(pickle.Unpickler):
    def __init__(self, file: Any, namespace: dict[str, Any], functions: list[Any]) -> None:
        super().__init__(file)
        self._namespace = namespace
        self._functions = functions

    def persistent_load(self, name: str | int) -> Any:
        if isinstance(name, int):
            return self._functions[name]
        return sys.modules[name] if name in sys.modules else self._namespace[name]


def _objects(namespace: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """What cannot be pickled or is the same thing to both: functions, classes, networks."""
    for name, value in namespace.items():
        if callable(value) and getattr(value, "__module__", "") != "builtins":
            yield name, value


def _refuse_traced(value: Any) -> None:
    """A tensor whose way is recorded loses it in the other process; the check would be unfair."""
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(value, torch.Tensor):
        recorded = value.requires_grad and not isinstance(value, torch.nn.Parameter)
        if recorded or type(value) not in (torch.Tensor, torch.nn.Parameter):
            raise TypeError("is recorded on its way through the network")
