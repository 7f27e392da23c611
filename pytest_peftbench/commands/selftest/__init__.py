"""`peftbench selftest`: faults are injected into the running program, and each must turn the right case red."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from pytest_peftbench.commands.command import Command, say, tell_progress
from pytest_peftbench.measure import environment
from pytest_peftbench.results.files import InputError, positive, require_writable_file, write_json
from pytest_peftbench.suites import find_suites


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--only", default="", metavar="TEXT", help="faults whose lane, case or name contains it")
    parser.add_argument("--suite", type=Path, default=Path("benchmarks/MetaMathQA/tiny"), metavar="DIR")
    parser.add_argument("--structures", type=Path, default=Path("benchmarks/structures"), metavar="DIR")
    parser.add_argument("--baselines", type=Path, default=Path("baselines"), metavar="DIR")
    parser.add_argument(
        "--unchanged", type=_none_or_more, default=1, metavar="N", help="unchanged runs a case (default: 1)"
    )
    parser.add_argument(
        "--arithmetic",
        choices=("own", "other"),
        default="own",
        help="other: another instruction set, as another processor would compute; faults of numerics, quality and the "
        "life cycle",
    )
    parser.add_argument("--jobs", type=positive, default=1, metavar="N", help="processes at a time (default: 1)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write outcomes and their findings")


def _none_or_more(text: str) -> int:
    return 0 if text == "0" else positive(text)


def _run(options: argparse.Namespace) -> int:
    from pytest_peftbench.commands.selftest import report, runner
    from pytest_peftbench.commands.selftest.faults import FAULTS

    find_suites(options.suite)  # a folder, or a usage error
    if options.json:
        require_writable_file(f"--json {options.json}", options.json)
    faults = FAULTS
    if options.arithmetic == "other":
        _compute_otherwise()
        faults = tuple(fault for fault in FAULTS if fault.any_arithmetic)
    folders = (options.suite, options.structures, options.baselines)
    trials = runner.trials(*folders, options.only, options.unchanged, faults)
    outcomes = runner.run(trials, options.jobs, tell_progress)
    if options.json:
        write_json(options.json, report.to_json(outcomes))
    say(report.text(outcomes))
    return 0 if all(outcome.passed for outcome in outcomes) else 1


def _compute_otherwise() -> None:
    """Have all trials, in processes of their own, compute with another instruction set."""
    if not environment.is_x86():
        raise InputError("--arithmetic other: there is another instruction set for x86 processors alone")
    os.environ[environment.ARITHMETIC] = "other"
    environment.pin()


COMMAND = Command(
    name="selftest",
    help="inject faults into PEFT and see whether the benchmark notices",
    description="Run each fault of the catalogue on its case, and each of those cases unchanged, in processes of "
    "their own; tell which metric caught it. 1 when a fault was missed or an unchanged case is red.",
    add_arguments=_add_arguments,
    run=_run,
)
