"""What changed since a revision of git, and which cases each changed file can reach."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath

from pytest_peftbench.affected.imports import Package
from pytest_peftbench.affected.reach import Reach
from pytest_peftbench.affected.syntax import is_same_code
from pytest_peftbench.results.baseline import baseline_path
from pytest_peftbench.results.files import InputError, resolved
from pytest_peftbench.results.revisions import Changed, blob_contents, changed_since, is_followed, top_of
from pytest_peftbench.results.sources import folder_of
from pytest_peftbench.results.words import first, plural
from pytest_peftbench.suites import DEFAULTS_FILE, Experiment
from pytest_peftbench.suites.shipped import is_installed

_OURS = Path(__file__).parent.parent
# Top folders that no case reads, unless the tests that take cases lie there; names and endings of files likewise.
_APART = ("doc", "docs", "docker", "examples", "method_comparison", "notebooks", "test", "tests", ".github")
_NOTES = (".md", ".rst")
_NO_CODE = ("LICENSE", ".gitignore")
# Of those that reach some case, and of those that reach none, the most files that are named.
_MOST, _MOST_WITHOUT = 5, 3


@dataclass(frozen=True)
class Change:
    """A changed file, as git names it, why it reaches what it does, in words, and whether it reaches a case."""

    file: str
    why: str
    reaches: Callable[[Experiment], bool]


@dataclass(frozen=True)
class Affected:
    """What changed since a revision."""

    revision: str
    changes: tuple[Change, ...]

    def reasons(self, experiment: Experiment) -> list[Change]:
        """The changes that can reach a case; none: it is as it was."""
        return [change for change in self.changes if change.reaches(experiment)]


@dataclass(frozen=True)
class Places:
    """Where the cases come from: their suites, the folder of their baselines, those of the tests that take them."""

    suites: Collection[Path]
    baselines: Path
    tests: Collection[Path]


def affected_since(about: str, revision: str, places: Places) -> Affected:
    """What changed between a revision and the working tree of the installed PEFT, and of the suites and baselines.

    They may lie in one repository or in several, each of which must know the revision. Suites that belong to the
    installed package are as they were. about: what asks, for the message of the InputError that is raised where the
    PEFT or a suite lies in no repository, or the revision is unknown in one.
    """
    peft = resolved(folder_of("peft"))
    tops = [_top_of_peft(about, peft), *(_top_of_suite(about, suite) for suite in places.suites if _is_own(suite))]
    if places.baselines.is_dir() and _is_own(places.baselines):
        tops += _top_if_any(places.baselines)
    reading = _Reading(about, peft, places)
    changes = [change for top in sorted(set(tops)) for change in reading.changes(top, revision)]
    return Affected(revision, tuple(changes))


def _is_own(folder: Path) -> bool:
    return not is_installed(folder)


def _top_of_peft(about: str, peft: Path) -> Path:
    way_out = "install it editable, from its checkout: pip install -e path/to/peft"
    try:
        top = top_of(about, peft)
    except InputError as error:
        raise InputError(f"{error}; asked about {peft}, the installed PEFT: {way_out}") from error
    if not is_followed(about, peft / "__init__.py"):
        raise InputError(f"{about}: {peft}, the installed PEFT, is not followed by git in {top}; {way_out}")
    return top


def _top_of_suite(about: str, suite: Path) -> Path:
    way_out = "put it under version control, or run without the option"
    try:
        top = top_of(about, suite)
    except InputError as error:
        raise InputError(f"{error}; asked about {suite}, a suite: {way_out}") from error
    if not is_followed(about, suite / DEFAULTS_FILE, new=True):
        raise InputError(f"{about}: {suite}, a suite, is ignored by git in {top}; {way_out}")
    return top


def _top_if_any(folder: Path) -> list[Path]:
    try:
        return [top_of("", folder)]
    except InputError:  # baselines of one's own, that nobody reviews
        return []


class _Reading:
    """Tells what changed files can reach."""

    def __init__(self, about: str, peft: Path, places: Places) -> None:
        self._about = about
        self._peft = peft
        self._suites = [resolved(suite) for suite in places.suites]
        self._baselines = resolved(places.baselines)
        self._tests = [resolved(folder) for folder in places.tests]

    @cached_property
    def _reach(self) -> Reach:
        return Reach(Package(self._peft))

    def changes(self, top: Path, revision: str) -> Iterator[Change]:
        """Those of a repository."""
        changed = changed_since(self._about, revision, top)
        same = self._of_same_code(top, changed)
        for file in changed:
            if file.name in same:
                yield _none(file.name, "comments, docstrings or layout alone")
            else:
                yield self._change(top, file)

    def _of_same_code(self, top: Path, changed: Iterable[Changed]) -> set[str]:
        """The names of the Python files whose code is as it was."""
        files = [file for file in changed if file.became == "changed" and file.name.endswith(".py")]
        contents = blob_contents(self._about, [file.blob for file in files], top)
        pairs = zip(files, contents, strict=True)
        return {file.name for file, old in pairs if is_same_code(old, (top / file.name).read_bytes())}

    def _change(self, top: Path, file: Changed) -> Change:
        path = top / file.name
        if path.is_relative_to(self._peft):
            return self._of_peft(file, path.relative_to(self._peft).as_posix())
        for suite in self._suites:
            if path.is_relative_to(suite):
                return _of_suite(file.name, suite, path.relative_to(suite))
        if path.is_relative_to(self._baselines):
            return Change(file.name, "a baseline", lambda experiment: self._is_baseline(path, experiment))
        if path.is_relative_to(_OURS):
            return _all(file.name, "this benchmark's own code")
        if self._is_apart(top, file.name):
            return _none(file.name, "documentation, tests or what else no case reads")
        return _all(file.name, "may be read by any case")

    def _of_peft(self, file: Changed, name: str) -> Change:
        if file.became == "gone":
            return _all(file.name, "deleted or renamed")
        if file.became == "other" or name not in self._reach.package.files:
            return _all(file.name, "no Python file of PEFT's")
        if name in self._reach.shared:
            unreadable = name in self._reach.package.unreadable
            return _all(file.name, "cannot be parsed" if unreadable else "shared by all methods")
        methods = self._reach.methods(name)
        why = f"of {', '.join(first(methods, _MOST))}" if methods else "of no method"
        return Change(file.name, why, lambda experiment: name in self._reach.files(experiment))

    def _is_baseline(self, path: Path, experiment: Experiment) -> bool:
        baseline = baseline_path(self._baselines, experiment.case)
        return path == baseline or path.is_relative_to(baseline.with_suffix(""))

    def _is_apart(self, top: Path, name: str) -> bool:
        path = PurePosixPath(name)
        if path.suffix in _NOTES or name in _NO_CODE:
            return True
        folder = top / path.parts[0]
        return path.parts[0] in _APART and not any(tests.is_relative_to(folder) for tests in self._tests)


def _of_suite(name: str, suite: Path, inside: Path) -> Change:
    if inside.suffix in _NOTES:
        return _none(name, "a note")
    if inside.parts[0] == "experiments" and len(inside.parts) > 3:
        folder = suite.joinpath(*inside.parts[:3])
        return Change(name, "an experiment", lambda experiment: resolved(experiment.path) == folder)
    return Change(name, "a suite", lambda experiment: resolved(experiment.suite) == suite)


def _all(file: str, why: str) -> Change:
    return Change(file, why, lambda experiment: True)


def _none(file: str, why: str) -> Change:
    return Change(file, why, lambda experiment: False)


def told(affected: Affected, experiments: Sequence[Experiment]) -> list[str]:
    """How many of these cases the changes can reach, and each changed file with how many it reaches, the most first."""
    count = sum(bool(affected.reasons(experiment)) for experiment in experiments)
    changes = affected.changes
    files = f"{plural(len(changes), 'changed file')} since {affected.revision}"
    if not count:
        head = f"nothing affected: none of {_cases(experiments)} can be reached by {files}"
    else:
        head = f"{count} of {_cases(experiments)} can be reached by {files}"
    reached = sorted(
        ((sum(map(change.reaches, experiments)), change) for change in changes), key=lambda found: -found[0]
    )
    some = [f"{change.file}: {cases}, {change.why}" for cases, change in reached if cases]
    none = [f"{change.file}: none, {change.why}" for cases, change in reached if not cases]
    return [head, *(f"  {line}" for line in (*first(some, _MOST), *first(none, _MOST_WITHOUT)))]


def _cases(experiments: Sequence[Experiment]) -> str:
    return plural(len(experiments), "case")
