"""Shut a process in: a student's code may compute, and do nothing else.

What Linux gives, without any rights: Landlock (no file but those named), a filter of system calls
(no network, no other process, no change of rights or owners), and limits of memory, time and file
size. Root becomes nobody first. There is no way back for the process.

The filter names what is forbidden, not what is allowed: it closes what we know to be harmful, and
a fault of the kernel is beyond it. It is no replacement for a machine of its own if the students
are out to harm.
"""

import ctypes
import errno
import os
import platform
import signal
import struct
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

NOBODY = 65534
MEGABYTE = 1 << 20
# Of prctl
_NO_NEW_PRIVILEGES, _SECCOMP, _DUMPABLE, _KEEP_RIGHTS, _DIE_WITH_PARENT = 38, 22, 4, 8, 1
_TO_READ = 1 << 2  # the right to read any file, of capset
_CREATE_RULES, _ADD_RULE, _RESTRICT = 444, 445, 446  # Landlock's calls, on every machine
_OLDEST_LANDLOCK = 3  # Linux 6.2, the first one that also guards against cutting files short
# Landlock's rights, by bit
_WRITE_FILE, _READ_FILE, _READ_FOLDER, _TRUNCATE = 1 << 1, 1 << 2, 1 << 3, 1 << 14
_ALL = (1 << 15) - 1
_OF_FILES = _WRITE_FILE | _READ_FILE | _TRUNCATE | 1
_CLONE_THREAD = 0x10000
_LAST_KNOWN_CALL = 469


@dataclass(frozen=True)
class Machine:
    """A kind of processor: its name in the filter, and the numbers of forbidden calls."""

    audit: int
    forbidden: tuple[int, ...]
    clone: int
    fcntl: int
    ioctl: int
    prlimit: int
    prctl: int


# Numbers that are the same on both: signals by file descriptor, io_uring (which goes past the
# filter), chmod and attributes in their newest forms, process_madvise.
_EVERYWHERE = (424, 425, 426, 427, 434, 438, 440, 452, 463, 466, 469)
_MACHINES = {
    "x86_64": Machine(
        0xC000003E,
        (
            *(57, 58, 59, 322),  # fork, vfork, execve, execveat
            *(62, 200, 234, 129, 297),  # kill, tkill, tgkill, rt_sigqueueinfo, rt_tgsigqueueinfo
            *(101, 310, 311, 312),  # ptrace, process_vm_readv, process_vm_writev, kcmp
            *(272, 308, 165, 166, 155, 161),  # unshare, setns, mount, umount, pivot_root, chroot
            *(321, 298, 323),  # bpf, perf_event_open, userfaultfd
            *(250, 248, 249),  # keyctl, add_key, request_key
            *(41, 240, 241),  # socket, mq_open, mq_unlink
            *(29, 30, 31, 64, 65, 66, 220, 68, 69, 70, 71),  # shared memory, semaphores, messages
            *(141, 251, 203, 144, 314, 142),  # priorities and processors of other processes
            *(279, 256, 304),  # move_pages, migrate_pages, open_by_handle_at
            *(90, 91, 268, 92, 93, 94, 260),  # chmod and chown
            *(188, 189, 190, 197, 198, 199),  # attributes
            *(132, 235, 261, 280),  # times of files
        ),
        clone=56,
        fcntl=72,
        ioctl=16,
        prlimit=302,
        prctl=157,
    ),
    "aarch64": Machine(
        0xC00000B7,
        (
            *(221, 281),
            *(129, 130, 131, 138, 240),
            *(117, 270, 271, 272),
            *(97, 268, 40, 39, 41, 51),
            *(280, 241, 282),
            *(219, 217, 218),
            *(198, 180, 181),
            *(194, 195, 196, 190, 191, 192, 193, 186, 187, 188, 189),
            *(140, 30, 122, 119, 274, 118),
            *(239, 238, 265),
            *(52, 53, 54, 55),
            *(5, 6, 7, 14, 15, 16),
            *(88,),
        ),
        clone=220,
        fcntl=25,
        ioctl=29,
        prlimit=261,
        prctl=167,
    ),
}


@dataclass(frozen=True)
class Limits:
    """What a process may use: megabytes of memory and of one file, seconds of a processor."""

    memory: int = 4096
    file: int = 64
    seconds: int = 600


class ShutInError(OSError):
    """A process could not be shut in; nothing may run in it."""


def complaint() -> str:
    """Why a process cannot be shut in on this machine; empty if it can."""
    if sys.platform != "linux":
        return "students' code is run on Linux only (WSL, a virtual machine or a container will do)"
    if platform.machine() not in _MACHINES:
        return f"no filter of system calls is known for {platform.machine()}"
    if (found := _libc().syscall(_CREATE_RULES, None, 0, 1)) < _OLDEST_LANDLOCK:
        return f"this kernel's Landlock is too old or switched off ({found}): Linux 6.2 is needed"
    return ""


def guard() -> None:
    """Keep other processes of the same user out of this one's memory, and end with the parent."""
    _check(_libc().prctl(_DUMPABLE, 0, 0, 0, 0))
    _check(_libc().prctl(_DIE_WITH_PARENT, signal.SIGKILL, 0, 0, 0))


def shut_in(scratch: Path, readable: Iterable[Path], limits: Limits, keep: Sequence[int]) -> None:
    """Shut this process in.

    Args:
        scratch: The only folder that it may write to, which becomes its home.
        readable: Folders and files that it may read; those that don't exist are passed over.
        limits: What it may use.
        keep: The file descriptors that stay open; all others are closed.

    Raises:
        ShutInError: Something of this failed. The process must end.
    """
    try:
        os.setsid()
        _close_all_but(keep)
        os.chdir(scratch)
        limit(limits)
        if os.geteuid() == 0:
            _become_nobody()
        guard()
        _check(_libc().prctl(_NO_NEW_PRIVILEGES, 1, 0, 0, 0))
        _allow_files(scratch, readable)
        _filter_calls(_MACHINES[platform.machine()])
    except (OSError, ValueError, KeyError) as error:
        raise ShutInError(f"the process could not be shut in: {error}") from error


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _check(result: int) -> int:
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result


def _close_all_but(keep: Sequence[int]) -> None:
    """Close file descriptors; input comes from nowhere, and what is printed goes there."""
    nowhere = os.open(os.devnull, os.O_RDWR)
    for standard in range(3):
        os.dup2(nowhere, standard)
    start = 3
    for descriptor in [*sorted(keep), 1 << 16]:
        os.closerange(start, descriptor)
        start = descriptor + 1


def _become_nobody() -> None:
    """Give up root's rights but one, to read: Python may lie in root's home.

    Landlock says what may be read, and it binds root too.
    """
    os.setgroups([])
    os.setgid(NOBODY)
    _check(_libc().prctl(_KEEP_RIGHTS, 1, 0, 0, 0))
    os.setuid(NOBODY)
    header = struct.pack("=Ii", 0x20080522, 0)
    _check(_libc().capset(header, struct.pack("=6I", _TO_READ, _TO_READ, 0, 0, 0, 0)))


def limit(limits: Limits) -> None:
    """Limit what this process may use, beyond what it has."""
    import resource  # Windows has none, and is told so by `complaint`

    pages = int(Path("/proc/self/statm").read_text().split()[0])
    memory = pages * resource.getpagesize() + limits.memory * MEGABYTE
    for kind, most in (
        (resource.RLIMIT_AS, memory),
        (resource.RLIMIT_FSIZE, limits.file * MEGABYTE),
        (resource.RLIMIT_CPU, limits.seconds),
        (resource.RLIMIT_NOFILE, 256),
        (resource.RLIMIT_CORE, 0),
    ):
        resource.setrlimit(kind, (most, most))


def _allow_files(scratch: Path, readable: Iterable[Path]) -> None:
    attributes = struct.pack("=Q", _ALL)
    rules = _check(_libc().syscall(_CREATE_RULES, attributes, len(attributes), 0))
    allowed = [(path, _READ_FILE | _READ_FOLDER) for path in readable if path.exists()]
    for path, rights in [*allowed, (scratch, _ALL), (Path(os.devnull), _READ_FILE | _WRITE_FILE)]:
        opened = os.open(path, os.O_PATH | os.O_CLOEXEC)
        rights &= _ALL if path.is_dir() else _OF_FILES
        rule = struct.pack("=Qi", rights, opened)
        _check(_libc().syscall(_ADD_RULE, rules, 1, rule, 0))
        os.close(opened)
    _check(_libc().syscall(_RESTRICT, rules, 0))
    os.close(rules)


class _Program(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("code", ctypes.c_void_p)]


def _filter_calls(machine: Machine) -> None:
    code = call_filter(machine)
    buffer = ctypes.create_string_buffer(code, len(code))
    program = _Program(len(code) // 8, ctypes.cast(buffer, ctypes.c_void_p))
    _check(_libc().prctl(_SECCOMP, 2, ctypes.byref(program), 0, 0))


def call_filter(machine: Machine) -> bytes:
    """The filter as a program of the classic packet filter, which the kernel runs on every call.

    A forbidden call gives the error "operation not permitted", so that a program which asks for
    what it does not need goes on. clone3, whose arguments cannot be looked at, and calls newer
    than this table "do not exist"; the C library then takes clone, which is looked at.
    """
    load, equal, greater, bits, give = 0x20, 0x15, 0x25, 0x45, 0x06
    allow, refuse, unknown = 0x7FFF0000, 0x50000 | errno.EPERM, 0x50000 | errno.ENOSYS

    def line(code: int, value: int, if_so: int = 0, if_not: int = 0) -> bytes:
        return struct.pack("=HBBI", code, if_so, if_not, value)

    def forbid_if(call: int, argument: int, test: int, value: int, holds: bool) -> list[bytes]:
        """Forbid a call whose argument passes a test, or doesn't."""
        jump = (0, 1) if holds else (1, 0)
        inside = [line(load, 16 + 8 * argument), line(test, value, *jump), line(give, refuse)]
        return [line(equal, call, 0, 4), *inside, line(load, 0)]

    lines = [line(load, 4), line(equal, machine.audit, 1, 0), line(give, 0), line(load, 0)]
    lines += [line(greater, _LAST_KNOWN_CALL, 0, 1), line(give, unknown)]
    lines += [line(equal, 435, 0, 1), line(give, unknown)]
    for call in (*machine.forbidden, *_EVERYWHERE):
        lines += [line(equal, call, 0, 1), line(give, refuse)]
    lines += forbid_if(machine.clone, 0, bits, _CLONE_THREAD, holds=False)
    lines += forbid_if(machine.prlimit, 0, equal, 0, holds=False)  # of other processes
    lines += forbid_if(machine.prctl, 0, equal, _DIE_WITH_PARENT, holds=True)
    for signals in (8, 10, 15):  # by an event on a file: F_SETOWN, F_SETSIG, F_SETOWN_EX
        lines += forbid_if(machine.fcntl, 1, equal, signals, holds=True)
    for signals in (0x8901, 0x8902):  # FIOSETOWN, SIOCSPGRP
        lines += forbid_if(machine.ioctl, 1, equal, signals, holds=True)
    return b"".join([*lines, line(give, allow)])
