"""Runs experiments with PEFT's own script and with this plugin, in turn on one machine, and tells both times.

    python perf/against_peft.py path/to/peft --task MetaMathQA --only lora/llama-3.2-3B-rank32 -- --peft-device cuda

Both train and evaluate the same experiment of the checkout's `method_comparison`; the plugin counts and checks on top
of that. Time is that of the whole run as each records it (`run_info.total_time`), without imports; memory is the
accelerator's reserved peak. What follows `--` goes to pytest.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pytest_peftbench.results.baseline import baseline_path
from pytest_peftbench.results.files import InputError, positive
from pytest_peftbench.suites import Experiment, read_suite

ROOT = Path(__file__).resolve().parents[1]
# PEFT puts a result into one of these: from its main branch, from another one, stopped.
RESULTS = ("results", "temporary_results", "cancelled_results")


@dataclass(frozen=True)
class Side:
    """What one run took; lower is better. seconds: of the whole run. peak_bytes: 0 without an accelerator."""

    seconds: float
    peak_bytes: int

    @classmethod
    def read(cls, file: Path) -> Side:
        """From a result in PEFT's schema. Ends the program where the run did not succeed."""
        result: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        if result["train_info"]["status"] != "success":
            sys.exit(f"{file}: {result['train_info']['status']}: {result['run_info']['error_msg']}")
        return cls(result["run_info"]["total_time"], result["train_info"]["accelerator_memory_max"])


def main() -> None:
    """Run and print the table."""
    own, pytest_options = _split(sys.argv[1:])
    options = _parser().parse_args(own)
    suite = options.peft / "method_comparison" / options.task
    if not (suite / "run.py").is_file():
        sys.exit(f"{suite / 'run.py'}: no such file; give the folder of a checkout of PEFT")
    experiments = _experiments(suite, options.only)
    _tell(f"{'experiment':<44}{'PEFT s':>10}{'ours s':>10}{'ratio':>8}{'PEFT GiB':>10}{'ours GiB':>10}")
    for name, experiment in experiments.items():
        test = _test(suite, experiment)
        pairs = [(_theirs(suite, name), _ours(suite, experiment, test, pytest_options)) for _ in range(options.rounds)]
        ratio = statistics.median(ours.seconds / theirs.seconds for theirs, ours in pairs)
        sides = list(zip(*pairs, strict=True))
        times = "".join(f"{statistics.median(run.seconds for run in side):>10.1f}" for side in sides)
        peaks = "".join(f"{max(run.peak_bytes for run in side) / 2**30:>10.2f}" for side in sides)
        _tell(f"{name:<44}{times}{ratio:>8.2f}{peaks}")


def _tell(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("peft", type=Path, help="folder of a checkout of PEFT")
    task = "folder of the checkout's method_comparison (default: MetaMathQA)"
    parser.add_argument("--task", default="MetaMathQA", metavar="TASK", help=task)
    only = "the experiment of this <method>/<name>, or without one all that contain it"
    parser.add_argument("--only", default="", metavar="TEXT", help=only)
    rounds = "runs of each side, in turn (default: 1)"
    parser.add_argument("--rounds", type=positive, default=1, metavar="N", help=rounds)
    return parser


def _split(arguments: list[str]) -> tuple[list[str], list[str]]:
    """Those before and those after `--`."""
    place = arguments.index("--") if "--" in arguments else len(arguments)
    return arguments[:place], arguments[place + 1 :]


def _experiments(suite: Path, only: str) -> dict[str, Experiment]:
    """Those that `--only` asks for, by `<method>/<name>`."""
    try:
        found = {item.case.experiment: item for item in read_suite(suite)}
    except InputError as error:
        sys.exit(str(error))
    chosen = {name: item for name, item in found.items() if (name == only if only in found else only in name)}
    if not chosen:
        sys.exit(f"--only {only}: no experiment of {suite} contains it")
    return chosen


def _theirs(suite: Path, name: str) -> Side:
    before = _written(suite, name)
    _run([sys.executable, "run.py", f"experiments/{name}"], suite)
    return Side.read(_only([file for file, when in _written(suite, name).items() if before.get(file) != when], suite))


def _written(suite: Path, name: str) -> dict[Path, int]:
    """PEFT's results of an experiment and when they were written: outside of `results/` each run has its time in the
    file's name."""
    stem = name.replace("/", "--")
    files = [file for folder in RESULTS for end in ("", "--*") for file in (suite / folder).glob(f"{stem}{end}.json")]
    return {file: file.stat().st_mtime_ns for file in files}


def _test(suite: Path, experiment: Experiment) -> str:
    """Which of our tests takes the case."""
    found = _run([sys.executable, "-m", "pytest", "benchmarks", f"--peft-suite={suite}", "--collect-only", "-q"], ROOT)
    # by its id: a name is part of other experiments' names, and of that of its own footprint
    tests = [line for line in found.splitlines() if line.endswith(f"[{experiment.case}]")]
    if len(tests) != 1:
        sys.exit(f"{ROOT / 'benchmarks'}: {len(tests)} tests take {experiment.case}, expected one")
    return tests[0]


def _ours(suite: Path, experiment: Experiment, test: str, options: list[str]) -> Side:
    with tempfile.TemporaryDirectory() as folder:
        suites = [f"--peft-suite={suite}", f"--peft-json={folder}", "--peft-no-compare"]
        _run([sys.executable, "-m", "pytest", test, *suites, *options], ROOT)
        file = baseline_path(Path(folder), experiment.case)
        return Side.read(_only([file] if file.exists() else [], ROOT))


def _run(command: list[str], folder: Path) -> str:
    """What it printed. Ends the program where it failed."""
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(command)} in {folder} ended with {done.returncode}:\n{done.stdout[-4000:]}{done.stderr}")
    return done.stdout


def _only(files: list[Path], place: Path) -> Path:
    if len(files) != 1:
        sys.exit(f"{place}: the run left {len(files)} results, expected one")
    return files[0]


if __name__ == "__main__":
    main()
