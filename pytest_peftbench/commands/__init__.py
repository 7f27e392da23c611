"""`peftbench …`: commands beside pytest's. Imports no torch until a command needs it."""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from pytest_peftbench import __version__
from pytest_peftbench.commands.fit import DTYPES, find_experiments, fits, table, to_json, vram
from pytest_peftbench.commands.importing import import_results
from pytest_peftbench.measure import environment
from pytest_peftbench.plugin.options import positive
from pytest_peftbench.results.files import InputError, write_json
from pytest_peftbench.suites import find_suites
from pytest_peftbench.tasks.registry import spec_of, specs


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; 0 when it did what it should, 2 for a usage error."""
    parser = _parser()
    options = parser.parse_args(arguments)
    try:
        command: Callable[[argparse.Namespace], int] = options.command
        return command(options)
    except InputError as error:
        parser.error(str(error))
    except OSError as error:
        if error.filename is None:  # not about a file
            raise
        parser.error(f"{error.filename2 or error.filename}: {error.strerror}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="peftbench", description="Commands beside `pytest benchmarks`, which trains and compares."
    )
    parser.add_argument("--version", action="version", version=f"peftbench {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    build = commands.add_parser(
        "build-tiny",
        help="build an embedded base model and its data anew",
        description="Generate the data, train the tokenizer and pretrain the embedded base model, deterministically: "
        "the same torch on the same kind of processor gives the same bits. Replaces what is in the folder.",
    )
    build.add_argument(
        "task", choices=[name for name, spec in specs().items() if spec.build], help="which base model to build"
    )
    build.add_argument("--out", type=Path, metavar="DIR", help="where to write it (default: into the package)")
    build.add_argument("--steps", type=_count, metavar="N", help="stop after N steps: a shortened build, for tests")
    build.set_defaults(command=_build_tiny)
    sweep = commands.add_parser(
        "sweep",
        help="choose the learning rates of a suite's experiments",
        description="Train each experiment with the same learning rates, keep the best by the validation set, and "
        "record all trials beside the experiments, in learning_rates/.",
    )
    sweep.add_argument("suite", type=Path, help="folder with default_training_params.json and experiments/")
    sweep.add_argument("--only", default="", metavar="TEXT", help="experiments whose <method>/<name> contains TEXT")
    sweep.add_argument("--rates", type=_rates, metavar="LR,LR", help="learning rates (default: 1e-3 to 1e-1, five)")
    sweep.set_defaults(command=_sweep)
    bring = commands.add_parser(
        "import",
        help="turn PEFT's published results into baselines",
        description="Write a baseline for each result file in the folder, PEFT's or ours. One of PEFT's is compared "
        "only on the same accelerator, with the same training parameters and adapter config, and only in what is the "
        "same measure in both.",
    )
    bring.add_argument("results", type=Path, metavar="DIR", help="folder of result files, at any depth")
    bring.add_argument("--out", type=Path, default=Path("baselines"), metavar="DIR", help="where (default: baselines)")
    bring.set_defaults(command=_import)
    selftest = commands.add_parser(
        "selftest",
        help="inject faults into PEFT and see whether the benchmark notices",
        description="Run each fault of the catalogue on its case, and each of those cases unchanged, in processes of "
        "their own; tell which metric caught it. 1 when a fault was missed or an unchanged case is red.",
    )
    selftest.add_argument("--only", default="", metavar="TEXT", help="faults whose lane, case or name contains it")
    selftest.add_argument("--suite", type=Path, default=Path("benchmarks/MetaMathQA/tiny"), metavar="DIR")
    selftest.add_argument("--baselines", type=Path, default=Path("baselines"), metavar="DIR")
    selftest.add_argument(
        "--unchanged", type=_count_or_none, default=1, metavar="N", help="unchanged runs a case (default: 1)"
    )
    selftest.add_argument("--jobs", type=_count, default=1, metavar="N", help="processes at a time (default: 1)")
    selftest.add_argument("--json", type=Path, metavar="FILE", help="write outcomes and their findings")
    selftest.set_defaults(command=_selftest)
    fit = commands.add_parser(
        "fit",
        help="which methods fit a card",
        description="Predict each experiment's peak memory in training from its base model's shapes, without weights "
        "or a GPU, and show which fit a card. The device's runtime and its allocator take more.",
    )
    fit.add_argument("experiments", nargs="*", type=Path, metavar="EXPERIMENTS", help="suites or experiments")
    fit.add_argument("--base-model", metavar="NAME", help="whose experiments (default: llama-3.2-3B)")
    fit.add_argument("--batch-size", type=_count, default=4, metavar="N", help="texts or pictures (default: 4)")
    fit.add_argument("--seq-len", type=_count, default=768, metavar="N", help="tokens of each text (default: 768)")
    fit.add_argument("--vram", type=_vram, metavar="MEMORY", help="the card's memory, as 24GiB")
    fit.add_argument("--dtype", choices=DTYPES, default="bfloat16", help="of the base weights (default: bfloat16)")
    fit.add_argument("--json", type=Path, metavar="FILE", help="write the report here too")
    fit.set_defaults(command=_fit)
    return parser


def _vram(text: str) -> int:
    try:
        return vram(text)
    except InputError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _require_folder(named: str, folder: Path) -> None:
    """Raise InputError where nothing can be written below `folder`: before the work, and not after it."""
    folder = folder.resolve()
    try:
        with tempfile.TemporaryFile(dir=next(place for place in (folder, *folder.parents) if place.exists())):
            pass
    except OSError as error:
        raise InputError(f"{named}: cannot be written: {error.strerror}") from error


def _require_report(file: Path | None) -> None:
    """The same for `--json`."""
    if file is None:
        return
    if file.is_dir():
        raise InputError(f"--json {file}: is a folder; give a file in it")
    _require_folder(f"--json {file}", file.parent)


def _import(options: argparse.Namespace) -> int:
    _require_folder(f"--out {options.out}", options.out)
    count = import_results(options.results, options.out, print)
    print(f"{count} baseline{'s' * (count != 1)} written")  # noqa: T201
    return 0


def _rates(text: str) -> tuple[float, ...]:
    try:
        rates = tuple(float(part) for part in text.split(","))
    except ValueError:
        rates = ()
    if not rates or not all(0 < rate < float("inf") for rate in rates):
        raise argparse.ArgumentTypeError(f"{text!r}: expected learning rates greater than 0, separated by commas")
    return rates


def _count(text: str) -> int:
    try:
        return positive(text)
    except InputError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _count_or_none(text: str) -> int:
    return 0 if text == "0" else _count(text)


def _progress(text: str) -> None:
    print(text, file=sys.stderr, flush=True)  # noqa: T201


def _sweep(options: argparse.Namespace) -> int:
    environment.pin()
    from pytest_peftbench.commands.sweep import RATES, sweep

    find_suites(options.suite)  # a folder, or a usage error
    _require_folder(str(options.suite), options.suite)
    for name, rate in sweep(options.suite, options.rates or RATES, options.only, _progress).items():
        print(f"{name}  {rate:g}")  # noqa: T201
    return 0


def _selftest(options: argparse.Namespace) -> int:
    environment.pin()
    from pytest_peftbench.commands.selftest import report, runner

    find_suites(options.suite)  # a folder, or a usage error
    _require_report(options.json)
    trials = runner.trials(options.suite, options.baselines, options.only, options.unchanged)
    outcomes = runner.run(trials, options.jobs, _progress)
    if options.json:
        write_json(options.json, report.to_json(outcomes))
    print(report.text(outcomes))  # noqa: T201
    return 0 if all(outcome.passed for outcome in outcomes) else 1


def _fit(options: argparse.Namespace) -> int:
    environment.pin()
    base_model = options.base_model or (None if options.experiments else "llama-3.2-3B")
    chosen = find_experiments(base_model, options.experiments)
    sizes = (options.batch_size, options.seq_len, options.dtype)
    _require_report(options.json)
    rows = fits(chosen, *sizes, progress=_progress)
    for line in table(rows, options.vram):
        print(line)  # noqa: T201
    if options.json:
        write_json(options.json, to_json(rows, base_model, *sizes, options.vram))
    return 0


def _build_tiny(options: argparse.Namespace) -> int:
    environment.pin()
    spec = spec_of(options.task)
    assert spec.embedded is not None
    out = options.out or spec.embedded.parent
    _require_folder(f"--out {out}", out)
    build = spec.load("build")
    out.mkdir(parents=True, exist_ok=True)
    # Built beside its place and moved there when complete: a build that is stopped leaves the old model as it was.
    with tempfile.TemporaryDirectory(dir=out, prefix=".build-") as folder:
        staged, replaced = Path(folder, "new"), Path(folder, "replaced")
        record = build(staged, _progress, steps=options.steps)
        replaced.mkdir()
        for new in sorted(staged.iterdir()):
            if (out / new.name).exists():
                (out / new.name).rename(replaced / new.name)
            new.rename(out / new.name)
    for name, sha256 in record["sha256"].items():
        print(f"{sha256}  {out / name}")  # noqa: T201
    return 0
