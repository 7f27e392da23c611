"""PEFT's published results as baselines, and what such a baseline may be compared with. Imports no torch.

A result of PEFT's says neither which data and weights it was measured on, nor what its operators were. So an imported
baseline is compared only with a case of the same training parameters and adapter config, on the same accelerator, and
only in the figures that are the same measure in both: everything else is `not comparable`, or left out, by name.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from pytest_peftbench.commands.command import Command, say
from pytest_peftbench.commands.reading import Entry, read_results
from pytest_peftbench.results.baseline import Baseline, baseline_path, read, require_usable, write_all
from pytest_peftbench.results.files import InputError, require_writable, resolved, stands
from pytest_peftbench.results.result import CaseId
from pytest_peftbench.results.words import plural

NOT_IMPORTED = {
    "forgetting": "another measure: ours is of the next token",
    "accelerator memory": "of the whole run: ours is by phase",
    "times": "of another machine: ours are ratios to the base model",
}


def import_results(folder: Path, out: Path, replace_measured: bool, say: Callable[[str], None]) -> int:
    """Write a baseline below `out` for each result file below `folder`, all or none; returns how many.

    replace_measured: whether one may take the place of a baseline that was recorded. say: gets a line per file. Raises
    InputError, naming file and key, for one that is no result, and when there is nothing to import.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; it should hold PEFT's result files, results/*.json")
    if resolved(folder) == resolved(out):
        raise InputError(f"--out {out}: is the folder of the results; baselines need one of their own")
    found = read_results([folder])
    for problem in found.problems:
        raise InputError(problem)
    baselines: dict[CaseId, tuple[Path, Baseline]] = {}
    others = found.others + sum(entry.origin == "baseline" for entry in found.entries)
    for line in found.passed_over:
        say(line)
    for entry in found.entries:
        if entry.origin == "baseline":
            continue
        if entry.origin == "published" and entry.error:
            say(f"{entry.file}: passed over: status {entry.error}")
            continue
        baseline = _baseline_of(entry, out)
        first, _ = baselines.setdefault(entry.case, (entry.file, baseline))
        if first != entry.file:
            raise InputError(f"{entry.file}: {first} is case {entry.case} too; import one at a time")
    if not baselines:
        raise InputError(f"{folder}: holds no result that succeeded; {others} JSON files are no results")
    if others:
        say(f"{others} JSON files passed over: no results, which have run_info, train_info and meta_info")
    written = {baseline_path(out, case): found for case, found in baselines.items()}
    for path, (file, baseline) in written.items():
        if not replace_measured:
            _check_replaced(path, file, baseline)
    write_all({path: baseline for path, (_, baseline) in written.items()})
    for path, (file, _) in written.items():
        say(f"{file}: {path}")
    if any(baseline.imported for _, baseline in baselines.values()):
        say("drift: PEFT's 1 - cosine became (1 - cosine) / 2, as here")
        for name, reason in NOT_IMPORTED.items():
            say(f"{name}: kept, but not compared: {reason}")
    return len(baselines)


def _check_replaced(path: Path, file: Path, new: Baseline) -> None:
    """Raise InputError where a baseline is there that is more than another import."""
    if not stands(path):
        return
    try:
        old = read(path)
    except InputError as error:
        raise InputError(f"{error}; --replace puts {file} in its place") from error
    if not old.imported and old != new:
        noise = " with their noise" if old.noise else ""
        raise InputError(
            f"{path}: is a baseline that was measured, with {plural(len(old.seeds), 'seed')}{noise}, and {file} would "
            "take its place; give another --out, or --replace it"
        )


def _baseline_of(entry: Entry, out: Path) -> Baseline:
    """The baseline that a result stands for: ours holds all of it, PEFT's what is the same measure in both."""
    if entry.error:
        raise InputError(f"{entry.file}: peftbench.status is {entry.result.status!r}, not 'success'; it is no baseline")
    # a result's witness has no bound; one is measured where a baseline is recorded
    baseline = replace(entry.baseline, witness=None) if entry.origin == "result" else entry.baseline
    try:
        require_usable(baseline, baseline_path(out, baseline.case))
    except InputError as error:
        raise InputError(f"{entry.file}: {error}") from error
    return baseline


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("results", type=Path, metavar="DIR", help="folder of result files, at any depth")
    parser.add_argument("--out", type=Path, default=Path("baselines"), metavar="DIR", help="where (default: baselines)")
    parser.add_argument("--replace", action="store_true", help="put results in the place of measured baselines, too")


def _run(options: argparse.Namespace) -> int:
    require_writable(f"--out {options.out}", options.out)
    count = import_results(options.results, options.out, options.replace, say)
    say(f"{plural(count, 'baseline')} written")
    return 0


COMMAND = Command(
    name="import",
    help="turn PEFT's published results into baselines",
    description="Write a baseline for each result file in the folder, PEFT's or ours. One of PEFT's is compared only "
    "on the same accelerator, with the same training parameters and adapter config, and only in what is the same "
    "measure in both.",
    add_arguments=_add_arguments,
    run=_run,
)
