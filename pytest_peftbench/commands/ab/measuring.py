"""Measures the cases of two sides: what is known of the old side is taken from the cache, the new one is measured."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from pytest_peftbench.commands.ab.cache import Cache, files_of, key_of, own_digest
from pytest_peftbench.commands.ab.peft_sources import PeftSource
from pytest_peftbench.commands.ab.sessions import Sessions
from pytest_peftbench.commands.comparing import Side, by_case
from pytest_peftbench.commands.reading import Entry, Reading, read_results
from pytest_peftbench.compare.between import needs_more
from pytest_peftbench.results.files import InputError
from pytest_peftbench.results.kept import kept_path
from pytest_peftbench.results.metrics import METRICS
from pytest_peftbench.results.orders import CaseTold, Told
from pytest_peftbench.results.result import CaseId, Result
from pytest_peftbench.results.words import plural

# What two sides may differ by: all else is one machine's, in one job.
_UNDER_TEST = "peft"


@dataclass
class Measured:
    """One side, measured.

    results: the folder of its result files. records: that of the baselines which the old side recorded, with a witness
    and further seeds, where the first seed could not tell. told: what its sessions said of each case, by node id.
    cached: node ids of what was taken from the cache.
    """

    source: PeftSource
    results: Path
    records: Path
    told: dict[str, CaseTold] = field(default_factory=dict)
    cached: set[str] = field(default_factory=set)

    def side(self, cases: Mapping[str, CaseTold]) -> Side:
        """Its results, or what kept a case from having one. cases: as they were collected."""
        reading = self.reading()
        failed = dict(self._failed(cases))
        kept = [entry for entry in reading.entries if entry.case not in failed]
        entries = [*kept, *failed.values()]
        reading = replace(reading, entries=entries)
        return Side(self.source.label, reading, by_case(reading))

    def reading(self) -> Reading:
        """Records before results: what a side recorded tells more."""
        found = [read_results([folder]) for folder in (self.records, self.results) if any(folder.rglob("*.json"))]
        known: dict[CaseId, Entry] = {}
        for entry in (entry for reading in found for entry in reading.entries):
            known.setdefault(entry.case, entry)
        return Reading([*known.values()], [problem for reading in found for problem in reading.problems])

    def _failed(self, cases: Mapping[str, CaseTold]) -> list[tuple[CaseId, Entry]]:
        found = []
        for nodeid in cases:
            told = self.told.get(nodeid, cases[nodeid])
            case = told.case or cases[nodeid].case
            if case is not None and told.problem and not told.skipped:
                failed = Result(case, "", {}, {}, [], status="failed", error_msg=told.problem)
                found.append((case, Entry(Path(nodeid.replace("::", "/")), "result", failed)))
        return found


@dataclass(frozen=True)
class Measuring:
    """What it takes: sessions, a cache, a folder for files, and where progress is told."""

    sessions: Sessions
    cache: Cache
    folder: Path
    progress: Callable[[str], None]

    def both(self, old: PeftSource, new: PeftSource) -> tuple[Measured, Measured, Told]:
        """Both sides measured, and the cases as they were collected."""
        found = self.sessions.collect(new)
        before, after = (
            Measured(source, self._new(f"{name}-results"), self._new(f"{name}-records"))
            for name, source in (("old", old), ("new", new))
        )
        self._measure_old(before, found, [*found.cases])
        self.progress(f"{new.label}: {plural(len(found.cases), 'case')} to measure")
        after.told.update(self._measure(after.source, [*found.cases], after.results))
        if stale := self._stale(before, after):
            self._measure_old(before, found, stale, anew=True)
        if open_ends := self._open(before, after):
            self._look_again(before, after, found, open_ends)
        self.cache.prune()
        return before, after, found

    def _new(self, name: str) -> Path:
        folder = self.folder / name
        folder.mkdir()
        return folder

    def _measure_old(self, side: Measured, found: Told, cases: Sequence[str], anew: bool = False) -> None:
        """Of the cache what it holds; what it does not is measured, and kept."""
        for nodeid in cases:
            if not anew and self._take(nodeid, side, found, "result", side.results):
                side.cached.add(nodeid)
                side.told[nodeid] = replace(found.cases[nodeid], ran=True)
        missing = [nodeid for nodeid in cases if nodeid not in side.cached or anew]
        side.cached -= set(missing)
        known = [f"{len(side.cached)} from the cache"] if side.cached else []
        measured = [f"{plural(len(missing), 'case')} to measure"] if missing else []
        self.progress(f"{side.source.label}: {', '.join([*known, *measured])}")
        if missing:
            side.told.update(self._measure(side.source, missing, side.results))
            self._keep(missing, side, found, "result", side.results)

    def _measure(self, source: PeftSource, cases: Sequence[str], results: Path) -> Mapping[str, CaseTold]:
        return self.sessions.measure(source, cases, "--peft-no-compare", f"--peft-json={results}").cases

    def _stale(self, before: Measured, after: Measured) -> list[str]:
        """What the cache held of another machine or another case after all, by what the new side's results say."""
        new = {entry.case: entry.measured for entry in after.reading().entries}
        stale = []
        for entry in before.reading().entries:
            now, then = new.get(entry.case), entry.measured
            if now and (now.case_version, _around(now.environment)) != (then.case_version, _around(then.environment)):
                stale.append(entry.case)
        return [nodeid for nodeid in sorted(before.cached) if before.told[nodeid].case in stale]

    # Where the first seed cannot tell ------------------------------------------------------------------------------

    def _open(self, before: Measured, after: Measured) -> list[str]:
        """The cases whose bits differ, of those that both sides measured."""
        old, new = (
            {entry.case: entry.result for entry in side.reading().entries if not entry.error}
            for side in (before, after)
        )
        differ = {case for case in old if case in new and needs_more(old[case], new[case], METRICS)}
        return [nodeid for nodeid, told in after.told.items() if told.case in differ and not told.problem]

    def _look_again(self, before: Measured, after: Measured, found: Told, cases: Sequence[str]) -> None:
        """Record them on the old side, with witness and all seeds, and have the new one held to that."""
        known = {nodeid for nodeid in cases if self._take(nodeid, before, found, "record", before.records)}
        missing = [nodeid for nodeid in cases if nodeid not in known]
        self.progress(f"{plural(len(cases), 'case')} with other bits: a witness, and further seeds")
        folder = f"--peft-baselines={before.records}"
        if missing:
            self.sessions.measure(before.source, missing, "--peft-update-baselines", folder)
            self._keep(missing, before, found, "record", before.records)
        told = self.sessions.measure(after.source, cases, folder, f"--peft-json={after.results}").cases
        # it is red where it differs, which is no problem
        after.told.update({nodeid: replace(item, problem="") if item.ran else item for nodeid, item in told.items()})

    # The cache ------------------------------------------------------------------------------------------------------

    def _key(self, nodeid: str, side: Measured, found: Told, what: str) -> str:
        """Empty where nobody knows what the case depends on."""
        case = found.cases[nodeid]
        if case.case is None or not case.definition:
            return ""
        around = [found.around, self.sessions.settings(), own_digest()]
        return key_of(what, side.source.digest, nodeid, case.definition, around)

    def _take(self, nodeid: str, side: Measured, found: Told, what: str, root: Path) -> bool:
        key = self._key(nodeid, side, found, what)
        return bool(key) and self.cache.take(key, root)

    def _keep(self, cases: Sequence[str], side: Measured, found: Told, what: str, root: Path) -> None:
        for nodeid in cases:
            case, key = found.cases[nodeid].case, self._key(nodeid, side, found, what)
            told = side.told.get(nodeid)
            if case is None or not key or told is None or told.problem or not told.ran:
                continue
            file = case.file(root)
            if _succeeded(file):
                self.cache.keep(key, files_of(root, [file, kept_path(root, case)] if what == "record" else [file]))


def _around(environment: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in environment.items() if name != _UNDER_TEST}


def _succeeded(file: Path) -> bool:
    """Whether a case got to its end there: an accelerator that was out of memory may have room another time."""
    if not file.exists():
        return False
    try:
        (entry,) = read_results([file]).entries
    except InputError:
        return False
    return not entry.error
