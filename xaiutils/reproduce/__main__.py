"""The command line of the long runs. Each sub-command lives in a module of its own."""

import argparse
import sys
from collections.abc import Sequence

from xaiutils.reproduce import (
    _cards,
    _ceiling,
    _choices,
    _claims,
    _class_blindness,
    _complexity,
    _controls,
    _dmbp,
    _dmbp_oracle,
    _grad_lam,
    _grad_lam_matched,
    _judge,
    _known_truth,
    _known_why,
    _measure,
    _picture,
    _samek,
    _train,
    _training_curve,
)


def parser() -> argparse.ArgumentParser:
    """All sub-commands with their options."""
    top = argparse.ArgumentParser(
        prog="python -m xaiutils.reproduce",
        description="Make the weights and the tables that the book reads.",
    )
    commands = top.add_subparsers(dest="command", required=True)
    _cards.add_command(commands)
    _ceiling.add_command(commands)
    _choices.add_command(commands)
    _claims.add_command(commands)
    _class_blindness.add_command(commands)
    _complexity.add_command(commands)
    _controls.add_command(commands)
    _dmbp.add_command(commands)
    _dmbp_oracle.add_command(commands)
    _grad_lam.add_command(commands)
    _grad_lam_matched.add_command(commands)
    _judge.add_command(commands)
    _known_truth.add_command(commands)
    _known_why.add_command(commands)
    _measure.add_command(commands)
    _picture.add_command(commands)
    _samek.add_command(commands)
    _train.add_command(commands)
    _training_curve.add_command(commands)
    return top


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one sub-command; the exit status."""
    options = parser().parse_args(arguments)
    status: int = options.run(options)
    return status


if __name__ == "__main__":
    sys.exit(main())
