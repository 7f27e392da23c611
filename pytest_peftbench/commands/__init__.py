"""`peftbench …`: commands beside pytest's, a module each. Imports no torch until a command needs it."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from pytest_peftbench import __version__
from pytest_peftbench.commands import (
    ab,
    affected,
    build,
    comparing,
    curve,
    fit,
    importing,
    init,
    laws,
    merge,
    ranking,
    report,
    run,
    selftest,
    tune,
)
from pytest_peftbench.commands.command import Command
from pytest_peftbench.measure import environment
from pytest_peftbench.results.files import InputError

COMMANDS: tuple[Command, ...] = (
    run.COMMAND,
    merge.COMMAND,
    init.COMMAND,
    affected.COMMAND,
    build.COMMAND,
    tune.COMMAND,
    curve.COMMAND,
    importing.COMMAND,
    report.COMMAND,
    selftest.COMMAND,
    fit.COMMAND,
    laws.COMMAND,
    comparing.COMMAND,
    ab.COMMAND,
    ranking.COMMAND,
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; 0 when it did what it should, 1 when it found what it looks for, 2 for a usage error."""
    environment.pin()  # before a command imports torch
    usage = parser()
    options, passed_on = usage.parse_known_args(arguments)
    command: Command = options.command
    if passed_on and not command.passes_on:
        usage.error(f"unrecognized arguments: {' '.join(passed_on)}")
    options.passed_on = passed_on
    try:
        return command.run(options)
    except InputError as error:
        usage.error(str(error))
    except BrokenPipeError:  # whoever reads has enough, as `head` has: nobody is there to be told anything
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 2
    except OSError as error:
        if error.filename is None:  # not about a file
            raise
        usage.error(f"{error.filename2 or error.filename}: {error.strerror}")


def parser() -> argparse.ArgumentParser:
    """All commands and their arguments."""
    usage = argparse.ArgumentParser(
        prog="peftbench", description="Commands beside `pytest benchmarks`, which trains and compares."
    )
    usage.add_argument("--version", action="version", version=f"peftbench {__version__}")
    named = usage.add_subparsers(required=True, metavar="COMMAND")
    for command in COMMANDS:
        arguments = named.add_parser(command.name, help=command.help, description=command.description)
        command.add_arguments(arguments)
        arguments.set_defaults(command=command)
    return usage
