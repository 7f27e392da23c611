"""`peftbench run --on ray`: the parts of a run as tasks of a Ray cluster, and what they make together.

Each task is one shard, in a pytest of its own, as by `--peft-shard`. Ray places and repeats it; results come back into
the folder of `--peft-json`, where they are merged as by `peftbench merge`. What lies there already is sent along, and
taken as by `--peft-resume`.
"""

from __future__ import annotations

import argparse
import importlib.util
import math
import os
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pytest_peftbench.commands import merge
from pytest_peftbench.commands.command import tell_progress
from pytest_peftbench.results.balancing import case_in, shares
from pytest_peftbench.results.durations import read_durations
from pytest_peftbench.results.files import InputError, require_writable, resolved, write_files
from pytest_peftbench.results.words import plural

# Seconds of cases that one task has, beside the ten that pytest and its imports take.
_TASK_S = 120.0
# How often Ray runs a task again whose node died.
_RETRIES = 3
# Exit codes of a pytest that came to its end: green, red, an empty shard.
_ENDED = (0, 1)


@dataclass(frozen=True)
class Job:
    """What all tasks have in common.

    command: gives pytest's command for some arguments, on the machine that is to run it. arguments: those of all
    shards. environment: variables that it runs with, beside those of the machine. count: into how many shards the tests
    are divided.
    """

    command: Callable[[Sequence[str]], list[str]]
    arguments: Sequence[str]
    environment: Mapping[str, str]
    count: int


@dataclass(frozen=True)
class Done:
    """What a task came to: exit code, the end of what it printed, and the files below its folder of results."""

    code: int
    output: str
    files: dict[str, bytes]


def run(job: Job, options: argparse.Namespace, baselines: Path) -> int:
    """Run pytest's tests on a cluster and show what they came to; the exit code of a run.

    job: its arguments are the user's, its count is not known yet. baselines: where durations stand, unless
    `--peft-baselines` says.
    """
    if not is_installed():
        raise InputError("--on ray: Ray is not installed: pip install 'pytest-peftbench[ray]'")
    own, arguments = _own(job.arguments)
    results = resolved(own.peft_json)
    require_writable(f"--peft-json {own.peft_json}", results)
    tests = _tests(job, arguments)
    durations = read_durations(own.peft_baselines or baselines)
    seconds = {test: durations.of(case_in(test)) for test in tests}
    on_gpus = own.peft_device.startswith("cuda")
    wanted = options.tasks or (len(tests) if on_gpus else math.ceil(sum(seconds.values()) / _TASK_S))
    job = replace(job, arguments=arguments, count=min(len(tests), wanted))
    tell_progress(f"{plural(len(tests), 'test')} in {plural(job.count, 'task')}")
    for file in results.glob("peftbench-shard-*.json"):  # of an earlier run; its results are sent along
        file.unlink()
    if problems := _all(job, seconds, results, options.address, int(on_gpus)):
        raise InputError("\n".join(problems))
    return merge.show(merge.parts_of([results]), into=None, html=own.peft_html)


def is_installed() -> bool:
    """Whether Ray is."""
    return importlib.util.find_spec("ray") is not None


def _own(arguments: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """The options of a run that are the driver's business, and the others, which every task has."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, prog="peftbench run --on ray")
    parser.add_argument("--peft-json", type=Path)
    parser.add_argument("--peft-html", type=Path)
    parser.add_argument("--peft-baselines", type=Path)
    parser.add_argument("--peft-device", default="cpu")
    parser.add_argument("--peft-resume", action="store_true")
    for flag in ("--peft-shard", "--peft-update-durations", "--peft-update-baselines", "--peft-calibrate"):
        parser.add_argument(flag, nargs="?", const="", default=None)
    own, passed_on = parser.parse_known_args(arguments)
    if own.peft_json is None:
        raise InputError("--on ray: add --peft-json=DIR, the folder that results come back to")
    for name in ("peft_shard", "peft_update_durations", "peft_update_baselines", "peft_calibrate"):
        if getattr(own, name) is not None:
            raise InputError(f"--on ray: takes no --{name.replace('_', '-')}; it compares, and makes the shards itself")
    if own.peft_baselines:
        passed_on.append(f"--peft-baselines={own.peft_baselines}")
    return own, [*passed_on, f"--peft-device={own.peft_device}"]


def _tests(job: Job, arguments: Sequence[str]) -> list[str]:
    """The node ids of the tests that would run. Raises InputError in pytest's words where none would."""
    found = _pytest(job, [*arguments, "--collect-only", "-q"])
    tests = [line for line in found.stdout.splitlines() if "::" in line]
    if found.returncode or not tests:
        raise InputError(f"--on ray: pytest collects nothing to run:\n{found.stdout}{found.stderr}".rstrip())
    return tests


def _pytest(job: Job, arguments: Sequence[str]) -> subprocess.CompletedProcess[str]:
    command, environment = job.command(arguments), {**os.environ, **job.environment}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def _all(job: Job, seconds: Mapping[str, float], results: Path, address: str | None, gpus: int) -> list[str]:
    """Run every shard and write what comes back; the problems of those that did not come to their end."""
    import ray

    # suites and options are named from here: other machines get this folder, and run there
    own = [results.relative_to(Path.cwd()).as_posix()] if results.is_relative_to(Path.cwd()) else []
    shipped = {"working_dir": ".", "excludes": [".git", ".venv", *own]}
    ray.init(address=address, log_to_driver=False, runtime_env=shipped)
    try:
        task = ray.remote(num_cpus=1, num_gpus=gpus, max_retries=_RETRIES)(run_shard)
        parts = shares(seconds, job.count)
        waiting = {
            task.remote(job, number, _stored(results, [test for test in parts if parts[test] == number])): number
            for number in range(1, job.count + 1)
        }
        return list(_gathered(waiting, job, results))
    finally:
        ray.shutdown()


def _gathered(waiting: dict[Any, int], job: Job, results: Path) -> Iterator[str]:
    import ray

    while waiting:
        (ready, *_), _ = ray.wait(list(waiting), num_returns=1)
        number = waiting.pop(ready)
        try:
            done: Done = ray.get(ready)
        except ray.exceptions.RayError as error:
            yield f"task {number}/{job.count}: lost: {type(error).__name__}"
            continue
        if done.code not in _ENDED:
            yield f"task {number}/{job.count}: pytest ended with {done.code}:\n{done.output}"
        write_files({results / name: content for name, content in done.files.items()})
        tell_progress(f"{job.count - len(waiting)} of {plural(job.count, 'task')}")


def _stored(results: Path, tests: Sequence[str]) -> dict[str, bytes]:
    """The results of a shard's cases that lie in the folder, pictures too, by path below it."""
    names = {case_in(test) for test in tests}
    found: dict[str, bytes] = {}
    for file in sorted(results.rglob("*--*.json")):
        kind_and_suite = "-".join(file.relative_to(results).parent.parts)
        if f"{kind_and_suite}-{file.stem.replace('--', '-', 1)}" in names:
            for part in (file, *sorted(file.with_suffix("").rglob("*"))):
                if part.is_file():
                    found[part.relative_to(results).as_posix()] = part.read_bytes()
    return found


def run_shard(job: Job, number: int, stored: Mapping[str, bytes]) -> Done:
    """Run one shard, wherever Ray has it run. stored: results that may be taken."""
    with tempfile.TemporaryDirectory() as folder:
        results = Path(folder)
        write_files({results / name: content for name, content in stored.items()})
        own = [f"--peft-shard={number}/{job.count}", f"--peft-json={results}", "--peft-resume"]
        ended = _pytest(job, [*job.arguments, *own])
        files = {file.relative_to(results).as_posix(): file.read_bytes() for file in _files(results)}
        return Done(ended.returncode, (ended.stdout + ended.stderr)[-4000:], files)


def _files(folder: Path) -> list[Path]:
    return [file for file in sorted(folder.rglob("*")) if file.is_file()]
