"""`--peft-shard i/n`: one of n parts of the selected tests, and what it came to, for `peftbench merge`."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pytest_peftbench.measure import environment
from pytest_peftbench.plugin.inventory import runs_nothing
from pytest_peftbench.plugin.options import SETTINGS, Settings
from pytest_peftbench.plugin.outcome import COLLECTOR, Collector
from pytest_peftbench.plugin.selection import experiment_of
from pytest_peftbench.report.outcome import CaseOutcome
from pytest_peftbench.report.shards import Ended, Shard, manifest_path, write_shard
from pytest_peftbench.results.balancing import shares
from pytest_peftbench.results.digests import file_sha256, package_digest
from pytest_peftbench.results.durations import Durations, read_durations
from pytest_peftbench.results.files import InputError
from pytest_peftbench.results.words import plural

# Of all selected tests, the number of the shard that runs each, by node id.
SHARES = pytest.StashKey[dict[str, int]]()
_ENDED = (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED, pytest.ExitCode.NO_TESTS_COLLECTED)
# What all shards must agree in, beside their tests and options.
_PACKAGES = ("peft", "torch", "transformers", "diffusers", "pytest-peftbench")


def keep_shard(config: pytest.Config, items: list[pytest.Item]) -> list[str]:
    """Deselect the tests of other shards; gives why the recorded durations cannot be read, if they cannot."""
    settings = config.stash[SETTINGS]
    assert settings.shard is not None
    try:
        durations = read_durations(settings.baselines)
    except InputError as error:
        return [str(error)]
    seconds = {item.nodeid: _seconds(item, durations) for item in items}
    found = config.stash[SHARES] = shares(seconds, settings.shard.count)
    others = [item for item in items if found[item.nodeid] != settings.shard.number]
    items[:] = [item for item in items if found[item.nodeid] == settings.shard.number]
    if others:
        config.hook.pytest_deselected(items=others)
    return []


def _seconds(item: pytest.Item, durations: Durations) -> float:
    experiment = experiment_of(item)
    return durations.of(str(experiment.case)) if experiment else durations.usual


def is_empty(config: pytest.Config) -> bool:
    """Whether tests were selected, and all of them are other shards'."""
    found = config.stash[COLLECTOR].inventory.shares
    settings = config.stash[SETTINGS]
    return settings.shard is not None and bool(found) and settings.shard.number not in found.values()


def note(config: pytest.Config) -> str:
    """Which part of the selected tests the session was; empty where it was all of them."""
    settings, found = config.stash[SETTINGS], config.stash[COLLECTOR].inventory.shares
    if settings.shard is None or not found:
        return ""
    own = sum(number == settings.shard.number for number in found.values())
    if not own:
        return f"shard {settings.shard} is empty, so nothing was to be run: {plural(len(found), 'test')} in the others"
    return f"shard {settings.shard}: {own} of {plural(len(found), 'test')}"


def forget_shard(config: pytest.Config) -> None:
    """Remove what an earlier session of the shard came to: were this one killed, it would pass for its end."""
    settings = config.stash[SETTINGS]
    if settings.shard is None or settings.json is None or hasattr(config, "workerinput") or runs_nothing(config):
        return
    try:
        manifest_path(settings.json, settings.shard.number, settings.shard.count).unlink(missing_ok=True)
    except OSError as error:
        raise pytest.UsageError(f"peftbench: {error.filename}: cannot be removed: {error.strerror}") from error


def write_manifest(config: pytest.Config, status: int) -> str:
    """Write beside the results what the shard came to, if it came to its end; why it cannot be written, else empty."""
    settings, collector = config.stash[SETTINGS], config.stash[COLLECTOR]
    if settings.shard is None or settings.json is None or runs_nothing(config) or status not in _ENDED:
        return ""
    try:
        write_shard(settings.json, _shard(settings, collector))
    except InputError as error:
        return str(error)
    return ""


def _shard(settings: Settings, collector: Collector) -> Shard:
    assert settings.shard is not None
    return Shard(
        number=settings.shard.number,
        count=settings.shard.count,
        tests=dict(collector.inventory.shares),
        made_from=_made_from(),
        options=_options(settings),
        passing=sorted(settings.green),
        ended={nodeid: _ended(found, settings) for nodeid, found in collector.reported().items()},
        broken=sorted(collector.broken),
        others=sorted(collector.others()),
        taken=list(collector.gaps.taken),
        again=list(collector.gaps.again),
    )


def _ended(outcome: CaseOutcome, settings: Settings) -> Ended:
    # pictures stand beside the results, and would be here once more
    details = {name: value for name, value in outcome.details.items() if name != "pictures"}
    sha256 = ""
    if outcome.checked and outcome.verdict and settings.json:
        sha256 = file_sha256(outcome.verdict.case.file(settings.json))
    return Ended(replace(outcome, details=details).to_json(), outcome.wall_s, sha256)


def _made_from() -> dict[str, str]:
    versions = {name: environment.installed(name) for name in _PACKAGES}
    return {**versions, "PEFT's source": package_digest("peft")}


def _options(settings: Settings) -> dict[str, str]:
    """The options that decide verdicts, as far as they are not paths of a machine."""
    names = ("update_baselines", "seeds", "calibrate", "no_compare", "device", "strict_env")
    return {name: str(getattr(settings, name)) for name in names}
