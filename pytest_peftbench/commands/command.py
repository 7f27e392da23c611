"""What a command of `peftbench` is, what commands ask of their arguments, and where they speak."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Command:
    """One command. help: a line for the list of all of them; description: what its own `--help` says.

    run: does it with the parsed arguments and returns the exit code; what takes seconds is imported only then. An
    InputError from it, or from an argument's `type`, is a usage error. passes_on: whether arguments that the parser
    does not know are another program's; they are in `passed_on` then, in order.
    """

    name: str
    help: str
    description: str
    add_arguments: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], int]
    passes_on: bool = False


def say(line: str) -> None:
    """What the command gives."""
    print(line)  # noqa: T201


def tell_progress(line: str) -> None:
    """What it is doing, for whoever waits."""
    print(line, file=sys.stderr, flush=True)  # noqa: T201
