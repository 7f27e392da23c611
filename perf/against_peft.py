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
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
TASKS = ("MetaMathQA", "image-gen")
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
    experiments = [name for name in _experiments(suite) if options.only in name]
    if not experiments:
        sys.exit(f"--only {options.only}: no experiment of {suite} contains it")
    _tell(f"{'experiment':<44}{'PEFT s':>10}{'ours s':>10}{'ratio':>8}{'PEFT GiB':>10}{'ours GiB':>10}")
    for name in experiments:
        pairs = [(_theirs(suite, name), _ours(suite, name, pytest_options)) for _ in range(options.rounds)]
        ratio = statistics.median(ours.seconds / theirs.seconds for theirs, ours in pairs)
        theirs, ours = ([pair[side] for pair in pairs] for side in (0, 1))
        times = "".join(f"{statistics.median(run.seconds for run in side):>10.1f}" for side in (theirs, ours))
        peaks = "".join(f"{max(run.peak_bytes for run in side) / 2**30:>10.2f}" for side in (theirs, ours))
        _tell(f"{name:<44}{times}{ratio:>8.2f}{peaks}")


def _tell(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("peft", type=Path, help="folder of a checkout of PEFT")
    parser.add_argument("--task", choices=TASKS, default=TASKS[0])
    parser.add_argument("--only", default="", metavar="TEXT", help="only experiments whose name contains this")
    parser.add_argument("--rounds", type=int, default=1, metavar="N", help="runs of each side, in turn (default: 1)")
    return parser


def _split(arguments: list[str]) -> tuple[list[str], list[str]]:
    """Those before and those after `--`."""
    place = arguments.index("--") if "--" in arguments else len(arguments)
    return arguments[:place], arguments[place + 1 :]


def _experiments(suite: Path) -> Iterator[str]:
    for folder in sorted(path for path in (suite / "experiments").glob("*/*") if path.is_dir()):
        yield folder.relative_to(suite / "experiments").as_posix()


def _theirs(suite: Path, name: str) -> Side:
    started = time.time()
    _run([sys.executable, "run.py", f"experiments/{name}"], suite)
    files = [suite / folder / f"{name.replace('/', '--')}.json" for folder in RESULTS]
    return Side.read(_only([file for file in files if file.exists() and file.stat().st_mtime >= started - 1], suite))


def _ours(suite: Path, name: str, options: list[str]) -> Side:
    method, _, rest = name.partition("/")
    with tempfile.TemporaryDirectory() as folder:
        suites = [f"--peft-suite={suite}", f"--peft-json={folder}", "--peft-no-compare", "-k", f"{method}-{rest}]"]
        _run([sys.executable, "-m", "pytest", "benchmarks", *suites, *options], ROOT)
        return Side.read(_only(list(Path(folder).rglob(f"{method}--{rest}.json")), ROOT))


def _run(command: list[str], folder: Path) -> None:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(command)} in {folder} ended with {done.returncode}:\n{done.stdout[-4000:]}{done.stderr}")


def _only(files: list[Path], place: Path) -> Path:
    if len(files) != 1:
        sys.exit(f"{place}: the run left {len(files)} results, expected one")
    return files[0]


if __name__ == "__main__":
    main()
