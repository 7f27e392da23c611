"""`peftbench build-tiny`: an embedded base model and its data, built anew."""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from pytest_peftbench.commands.command import Command, say, tell_progress
from pytest_peftbench.results.files import InputError, positive, require_writable
from pytest_peftbench.tasks.registry import spec_of, specs


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    tasks = [name for name, spec in specs().items() if spec.build and spec.embedded]
    parser.add_argument("task", choices=tasks, help="whose base model to build")
    parser.add_argument("--out", type=Path, metavar="DIR", help="where to write it (default: into the package)")
    parser.add_argument("--steps", type=positive, metavar="N", help="stop after N steps: a shortened build, for tests")


def _run(options: argparse.Namespace) -> int:
    spec = spec_of(options.task)
    assert spec.embedded is not None
    out = options.out or spec.embedded.parent
    require_writable(f"--out {out}", out)
    if out.exists() and any(out.iterdir()) and not (out / "build.json").exists():
        raise InputError(f"--out {out}: holds files that no build made; choose an empty folder, or one that is new")
    build = spec.load("build")
    out.mkdir(parents=True, exist_ok=True)
    # Built beside its place and moved there when complete: a build that is stopped leaves the old model as it was.
    with tempfile.TemporaryDirectory(dir=out, prefix=".build-") as folder:
        staged, replaced = Path(folder, "new"), Path(folder, "replaced")
        record = build(staged, tell_progress, steps=options.steps)
        replaced.mkdir()
        for new in sorted(staged.iterdir()):
            if (out / new.name).exists():
                (out / new.name).rename(replaced / new.name)
            new.rename(out / new.name)
    for name, sha256 in record["sha256"].items():
        say(f"{sha256}  {out / name}")
    return 0


COMMAND = Command(
    name="build-tiny",
    help="build an embedded base model and its data anew",
    description="Generate the data, train the tokenizer and pretrain the embedded base model, deterministically: "
    "the same torch on the same kind of processor gives the same bits. Replaces what is in the folder.",
    add_arguments=_add_arguments,
    run=_run,
)
