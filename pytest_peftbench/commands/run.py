"""`peftbench run`: the suites that come with the package against their baselines, without any file of one's own."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path

from pytest_peftbench.commands.command import Command
from pytest_peftbench.suites.shipped import shipped

# The ini file of a folder of benchmarks, wherever it lies: here, and where `peftbench init` puts it.
INI = Path(__file__).parent / "init" / "pytest.ini"
# Nothing of the folder that the command is run in has a say, and nothing is written there or into the package. (An
# empty `.benchmarks` is what pytest-benchmark would leave.)
ALONE = ("-p", "no:cacheprovider", "-p", "no:benchmark")
ENVIRONMENT = {"PYTHONDONTWRITEBYTECODE": "1", "PYTHONSAFEPATH": "1"}


def shipped_arguments() -> list[str]:
    """What pytest is told to run the cases that come with the package, whatever folder it is started in."""
    folder = shipped().benchmarks
    return [f"--rootdir={folder}", f"--confcutdir={folder}", "-c", str(INI), str(folder)]


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.usage = "peftbench run [PYTEST ARGUMENTS]"


def _run(options: argparse.Namespace) -> int:
    command = [sys.executable, "-m", "pytest", *ALONE, *shipped_arguments(), *options.passed_on]
    process = subprocess.Popen(command, env={**os.environ, **ENVIRONMENT})
    while True:
        try:
            return process.wait()
        except KeyboardInterrupt:  # pytest has it, too, and ends with its own report
            continue


COMMAND = Command(
    name="run",
    help="run the suites that come with the package, no file needed",
    description="pytest on the suites that come with the package, against the baselines that come with it: `peftbench "
    "run -k loha`. All arguments are pytest's; settings of the folder that it is run in do not hold. Baselines cannot "
    "be updated there: `peftbench init` copies both to where they can.",
    add_arguments=_add_arguments,
    run=_run,
    passes_on=True,
)
