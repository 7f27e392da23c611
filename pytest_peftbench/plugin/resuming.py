"""`--peft-resume`: a case whose result is there, whole and made from the same, is taken from there and not run again.

What the same is, is told by content: the case version (experiment, base model, data, recipe), which is asked anew, and
what `made_from` names beside it. A result is marked with that once its test has come to its end.
"""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

import pytest

from pytest_peftbench.cases.kinds import KINDS
from pytest_peftbench.measure import environment
from pytest_peftbench.plugin.check import WRITTEN, BaselineCheck
from pytest_peftbench.plugin.options import SETTINGS, Settings, short_path
from pytest_peftbench.plugin.outcome import OUTCOME
from pytest_peftbench.plugin.selection import experiment_of
from pytest_peftbench.results.baseline import baseline_path
from pytest_peftbench.results.digests import NONE, file_digest, files_digest, folder_digest, package_digest
from pytest_peftbench.results.files import InputError, read_json, stands, write_json
from pytest_peftbench.results.result import Result, SecondStage
from pytest_peftbench.results.stored import read_result
from pytest_peftbench.results.words import listed
from pytest_peftbench.suites import Experiment

# Of a case that has a result in the folder: why that was not taken; empty where it was.
_WHY_NOT = pytest.StashKey[str]()
# Whether a test's result tells all that it came to.
_TOLD_ALL = pytest.StashKey[bool]()
# The rooms that decide what is measured.
_ROOMS = ("cases", "measure", "meta", "tasks")
# Beside those that an environment holds.
_PACKAGES = (
    *("datasets", "tokenizers", "safetensors", "accelerate", "numpy", "scipy"),
    *("scikit-learn", "bitsandbytes", "torchao"),
)
# What a result says of the baseline that it was measured beside: it decides what ran, and may be another one now.
_BASELINE = "baseline"
_UNCOMPARED = "not compared"


def take(item: pytest.Function) -> bool:
    """Compare the stored result of a test's case anew, where it can be taken; whether it was."""
    settings, experiment = item.config.stash[SETTINGS], experiment_of(item)
    if not settings.resume or settings.json is None or experiment is None:
        return False
    file = experiment.case.file(settings.json)
    if not stands(file):
        return False
    try:
        result = read_result(file, experiment.case)
        why_not = _why_not(item, experiment, result)
    except InputError as error:
        why_not = str(error)
    item.stash[_WHY_NOT] = why_not
    if why_not:
        return False
    BaselineCheck(item, stored=True).check(result)
    return True


def put_on_report(item: pytest.Item, report: pytest.TestReport) -> None:
    """Put on a report whether the result was taken, and from where, or why the stored one was not."""
    json_folder = item.config.stash[SETTINGS].json
    if report.when == "call" and _WHY_NOT in item.stash and json_folder is not None:
        told = (short_path(json_folder, item.config), item.stash[_WHY_NOT])
        report.peftbench_stored = told  # type: ignore[attr-defined]


def mark_result(item: pytest.Item, report: pytest.TestReport) -> None:
    """Mark the result of a test that has come to its end with what it was made from, so that it can be taken.

    Not that of one that failed otherwise than by its verdict: its result does not tell.
    """
    experiment = experiment_of(item)
    if report.when == "call":
        outcome = item.stash.get(OUTCOME, None)
        item.stash[_TOLD_ALL] = outcome is not None and (outcome.red or report.passed)
    elif report.when == "teardown" and report.passed and item.stash.get(_TOLD_ALL, False):
        if experiment is None or WRITTEN not in item.stash:
            return
        # what cannot be marked runs again, and says why
        with contextlib.suppress(InputError):
            _mark(item.stash[WRITTEN], _made_from(item, experiment))


def _mark(file: Path, made_from: dict[str, str]) -> None:
    # what lies there, which was compared: the test may have changed its result since
    data = read_json(file)
    data["peftbench"]["made_from"] = made_from
    write_json(file, data)


def _why_not(item: pytest.Function, experiment: Experiment, result: Result) -> str:
    """Why a stored result cannot be taken; empty where it can. What costs most is asked last."""
    if result.status != "success":
        return f"it is {result.status}"
    if not result.made_from:
        return "nothing in it tells that its test came to its end"
    now, then = _made_from(item, experiment), result.made_from
    others = sorted({*now, *then} - {_BASELINE})
    for name in others:
        if now.get(name) != then.get(name):
            return f"{name} differs: {then.get(name, NONE)} -> {now.get(name, NONE)}"
    # another baseline may ask for more: further seeds, a witness
    same_baseline = now[_BASELINE] in (then.get(_BASELINE), _UNCOMPARED)
    if not same_baseline and BaselineCheck(item).second_stage(result) != SecondStage():
        return "the baseline is another one, which asks for more than was run"
    version = _case_version(item, experiment)
    return "" if version == result.case_version else f"case version differs: {result.case_version} -> {version}"


def _case_version(item: pytest.Function, experiment: Experiment) -> str:
    """The version of the case as it would run now, by what the test's own fixtures give. Raises InputError."""
    kind = KINDS[experiment.case.kind]
    if not kind.version:
        raise InputError(f"cases of kind {kind.name!r} have no version that could be asked")
    given = {name: item.funcargs[name] for name in kind.version_needs if name in item.funcargs}
    if len(given) < len(kind.version_needs):
        raise InputError(f"its test does not take {' and '.join(kind.version_needs)}, so its version is not known")
    version: str = kind.load_version()(experiment, **given)
    return version


def _made_from(item: pytest.Item, experiment: Experiment) -> dict[str, str]:
    """What a result of the case depends on beside its version, by name."""
    settings = item.config.stash[SETTINGS]
    return {
        **environment.describe(experiment.device),
        **{name: environment.installed(name) for name in _PACKAGES},
        "PEFT's source": package_digest("peft"),
        "pytest-peftbench's source": package_digest("pytest_peftbench", *_ROOMS),
        "tests": _digest_of_tests(item),
        "seeds": listed(experiment.seeds),
        "margins": json.dumps(experiment.margins, sort_keys=True),
        "models": str(experiment.models or NONE),
        "data": str(experiment.data or NONE),
        "kept adapter": folder_digest(experiment.kept),
        _BASELINE: _digest_of_baseline(experiment, settings),
    }


def _digest_of_tests(item: pytest.Item) -> str:
    """Of the Python files beside the test, and of each conftest.py above it."""
    root, folder = item.config.rootpath, item.path.parent
    above = [place for place in folder.parents if place == root or place.is_relative_to(root)]
    files = [*folder.glob("*.py"), *(place / "conftest.py" for place in above)]
    return files_digest(root if folder.is_relative_to(root) else folder, files)


def _digest_of_baseline(experiment: Experiment, settings: Settings) -> str:
    if settings.no_compare:
        return _UNCOMPARED
    return file_digest(baseline_path(settings.baselines, experiment.case))
