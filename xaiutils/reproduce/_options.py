"""What the long runs are given on the command line, and how they refuse what cannot be done."""

import argparse
from collections.abc import Collection, Sized


def names(text: str) -> tuple[str, ...]:
    """Names between commas, each once."""
    return tuple(dict.fromkeys(name for name in text.split(",") if name))


def whole_numbers(text: str) -> tuple[int, ...]:
    """Whole numbers between commas."""
    return tuple(int(part) for part in text.split(",") if part)


def image_range(text: str) -> tuple[int, int, int]:
    """``first:last[:stride]``, without the last."""
    first, last, stride = map(int, f"{text}:1".split(":")[:3])
    return first, last, stride


def shard(text: str) -> tuple[int, int]:
    """``i/n``, from 1/n to n/n."""
    number, shards = map(int, text.split("/"))
    if not 1 <= number <= shards:
        raise argparse.ArgumentTypeError(f"{text} is no i/n with 1 <= i <= n")
    return number, shards


def chosen(images: Sized, wanted: tuple[int, int, int] | None, at_least: int = 2) -> range:
    """The numbers of the images that were asked for; all, if none were.

    Raises:
        SystemExit: They are not all there, or too few.
    """
    first, last, stride = wanted or (0, len(images), 1)
    if not (0 <= first < last <= len(images) and stride >= 1):
        raise SystemExit(f"--images {first}:{last}:{stride} does not lie within 0:{len(images)}:1.")
    numbers = range(first, last, stride)
    if len(numbers) < at_least:
        raise SystemExit(f"--images: {len(numbers)} is too few; give at least {at_least}.")
    return numbers


def require_known(options: argparse.Namespace, **known: Collection[str]) -> None:
    """Refuse options that name nothing, or what is not among the known names.

    Raises:
        SystemExit: It says which names may be given.
    """
    for option, allowed in known.items():
        wrong = sorted(set(getattr(options, option)) - set(allowed))
        if wrong or not getattr(options, option):
            choice = ", ".join(allowed)
            raise SystemExit(f"--{option}: {wrong} unknown; choose from {choice}.")


def require_positive(options: argparse.Namespace, *whole: str) -> None:
    """Refuse counts and sizes below 1.

    Raises:
        SystemExit: It names the option.
    """
    for option in whole:
        if getattr(options, option) < 1:
            shown = option.replace("_", "-")
            raise SystemExit(f"--{shown} must be at least 1, not {getattr(options, option)}.")
