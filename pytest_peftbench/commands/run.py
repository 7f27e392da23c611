"""`peftbench run`: the suites that come with the package against their baselines, without any file of one's own."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from pytest_peftbench.commands import on_ray
from pytest_peftbench.commands.command import Command
from pytest_peftbench.results.files import InputError, positive
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
    parser.usage = "peftbench run [--on ray [--address ADDRESS] [--tasks N]] [PYTEST ARGUMENTS]"
    parser.add_argument("--on", choices=["ray"], help="run on a cluster of Ray, or on one that is started here")
    parser.add_argument("--address", metavar="ADDRESS", help="of the cluster's head; one is started here unless given")
    parser.add_argument("--tasks", type=positive, metavar="N", help="into how many tasks the tests are divided")


def pytest_command(arguments: Sequence[str]) -> list[str]:
    """What runs the suites that come with the package, on the machine that it is asked on."""
    return [sys.executable, "-m", "pytest", *ALONE, *shipped_arguments(), *arguments]


def _run(options: argparse.Namespace) -> int:
    if options.on == "ray":
        job = on_ray.Job(pytest_command, options.passed_on, ENVIRONMENT, count=0)
        return on_ray.run(job, options, shipped().baselines)
    if options.address or options.tasks:
        raise InputError("--address, --tasks: are those of a cluster; add --on ray")
    process = subprocess.Popen(pytest_command(options.passed_on), env={**os.environ, **ENVIRONMENT})
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
