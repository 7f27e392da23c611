"""`peftbench init`: benchmarks, baselines and workflows in a repository, from what comes with the package."""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from pytest_peftbench.commands.command import Command, say
from pytest_peftbench.commands.init.cases import Chosen, choose, installed_stack
from pytest_peftbench.commands.init.manifest import FILE, Manifest, State
from pytest_peftbench.commands.init.repository import Repository
from pytest_peftbench.results.files import InputError, write_files
from pytest_peftbench.results.words import first, plural
from pytest_peftbench.suites.shipped import shipped

ALL = "all"
INI = Path(__file__).with_name("pytest.ini")
WORKFLOWS = sorted(Path(__file__).with_name("workflows").glob("*.yml"))
_WORDS = {
    "new": ("written", "would be written"),
    "updated": ("brought up to date", "would be brought up to date"),
    "same": ("as they should be", "as they should be"),
    "own": ("left alone: changed, removed or there before", "left alone: changed, removed or there before"),
}
# Of what was left alone, the most that are named.
_NAMED = 20


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("directory", nargs="?", type=Path, default=Path(), metavar="DIR", help="default: this folder")
    parser.add_argument(
        "--methods",
        type=_names,
        metavar="NAME,NAME",
        help=f"the methods to take, by their folders' names; {ALL}, or those of an earlier run, unless given",
    )
    parser.add_argument("--dry-run", action="store_true", help="say what would be done, and write nothing")


def _names(text: str) -> list[str]:
    names = sorted({name.strip() for name in text.split(",")})
    if not all(names):
        raise InputError(f"{text!r}: expected names of methods, separated by commas")
    return [] if names == [ALL] else names


def _run(options: argparse.Namespace) -> int:
    repository = Repository.at(options.directory)
    manifest = Manifest.of(repository.root)
    methods = manifest.methods if options.methods is None else options.methods
    chosen = choose(shipped(), methods)
    files = {name: path.read_bytes() for name, path in chosen.files.items()} | _own_files(repository, chosen)
    repository.require_inside([*files, FILE])
    states = {name: manifest.state(repository.root, name, content) for name, content in files.items()}
    if not options.dry_run:
        _write(repository.root, manifest, methods, files, states)
    dropped = [name for name in manifest.files if name not in files and (repository.root / name).exists()]
    for line in [*_about(repository), *_told(states, options.dry_run), *_told_dropped(dropped), *_next_steps(chosen)]:
        say(line)
    return 0


def _own_files(repository: Repository, chosen: Chosen) -> dict[str, bytes]:
    """What is made for the repository: the ini file, the constraints, the workflows."""
    ini = INI.read_text(encoding="utf-8")
    if chosen.markers:  # of the suites of structures, which bring every method
        ini += f'addopts = -m "{" or ".join(chosen.markers)}"\n'
    texts = {"benchmarks/pytest.ini": ini, "benchmarks/constraints.txt": repository.constraints()}
    python = ".".join(map(str, sys.version_info[:2]))
    for template in WORKFLOWS:
        text = template.read_text(encoding="utf-8")
        text = text.replace("@PYTHON@", python).replace("@REQUIREMENTS@", repository.requirements())
        text = text.replace("@DEPTH@", repository.depth()).replace("@AFFECTED@", repository.affected())
        texts[f".github/workflows/{template.name}"] = text
    return {name: text.encode() for name, text in texts.items()}


def _write(
    root: Path, manifest: Manifest, methods: list[str], files: Mapping[str, bytes], states: Mapping[str, State]
) -> None:
    """Write what is new or out of date, and what was written: all or nothing."""
    contents = {root / name: content for name, content in files.items() if states[name] in ("new", "updated")}
    written = {name: content for name, content in files.items() if states[name] != "own"}
    after = manifest.after(methods, written)
    if after != manifest:
        contents[root / FILE] = after.content()
    write_files(contents)


def _about(repository: Repository) -> list[str]:
    lines = [str(repository.root)]
    if repository.is_peft:
        lines.append("PEFT itself is developed here, so benchmarks/constraints.txt leaves it out")
    if not repository.has_git:
        lines.append("no git repository: GitHub runs the workflows once it is one")
    return lines


def _told(states: Mapping[str, State], dry_run: bool) -> list[str]:
    """How many files became what, by the folder that they are in; those that were left alone by name."""
    lines = []
    for state, words in _WORDS.items():
        names = [name for name in states if states[name] == state]
        if names:
            folders = Counter(name.partition("/")[0] for name in names)
            where = ", ".join(f"{folder} {count}" for folder, count in sorted(folders.items()))
            lines.append(f"{plural(len(names), 'file')} {words[dry_run]}: {where}")
        if state == "own":
            lines += [f"  {name}" for name in first(sorted(names), _NAMED)]
    return lines


def _told_dropped(names: list[str]) -> list[str]:
    if not names:
        return []
    return [
        f"{plural(len(names), 'file')} of an earlier run, no longer asked for and left there:",
        *(f"  {name}" for name in first(names, _NAMED)),
    ]


def _next_steps(chosen: Chosen) -> list[str]:
    """What the baselines are of, and what to do where they are not those of the installed versions."""
    lines = [f"{plural(chosen.suites, 'suite')}, {plural(chosen.baselines, 'baseline')} of {installed_stack()}"]
    if not chosen.recorded:
        return [*lines, "next: pytest benchmarks -n 2"]
    return [
        *lines,
        f"The package's other {plural(chosen.others, 'baseline')} cannot be compared with what is installed:",
        *(f"  {stack}" for stack in sorted(chosen.recorded)),
        "next, to record what is missing: pytest benchmarks -n 2 --peft-update-baselines",
        "or, to have those versions: pip install 'pytest-peftbench[recorded]', and init again",
    ]


COMMAND = Command(
    name="init",
    help="put benchmarks, baselines and workflows into a repository",
    description="Write suites and tests into benchmarks/, the baselines of the installed versions into baselines/, and "
    "workflows of GitHub into .github/workflows/. What was changed there since stays as it is, so that it can be run "
    "again.",
    add_arguments=_add_arguments,
    run=_run,
)
