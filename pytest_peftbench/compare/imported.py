"""What an imported result of PEFT's may be compared with. Pure; imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, fields, replace
from typing import Any

from pytest_peftbench.results.baseline import Baseline
from pytest_peftbench.results.result import Result, SeedRun
from pytest_peftbench.tasks.registry import spec_of

MARK = "imported-"


# Of a `PeftConfig`, what says nothing about the adapter.
_IGNORED = ("peft_version", "base_model_name_or_path", "revision", "auto_mapping", "inference_mode", "task_type")


def matched(result: Result, baseline: Baseline) -> tuple[Result, Baseline]:
    """Both sides with what can be compared of them, for an imported baseline that `why_not` has nothing against.

    Unchanged for any other baseline.
    """
    if not baseline.imported:
        return result, baseline
    run = next(run for run in result.seeds if run.seed == baseline.seeds[0].seed)
    kept = {name: value for name, value in run.metrics.items() if name in baseline.seeds[0].metrics}
    metrics = {name: value for name, value in result.metrics.items() if name in baseline.metrics}
    return replace(result, metrics=metrics, seeds=[SeedRun(run.seed, kept)]), baseline


def why_not(result: Result, baseline: Baseline) -> str:
    """Why an imported baseline cannot be compared with the result; empty when it can."""
    theirs, ours = baseline.imported["run_info"], result.peft.get("run_info", {})
    expected, obtained = (side.get("accelerator", "unknown") for side in (baseline.environment, result.environment))
    if baseline.case != result.case:
        return f"the baseline is one of {baseline.case}, not of {result.case}"
    if expected != obtained:
        return f"imported from PEFT, measured on {expected}, not on {obtained}"
    if baseline.seeds[0].seed not in [run.seed for run in result.seeds]:
        return f"imported from PEFT, with seed {baseline.seeds[0].seed}, which did not run"
    config = spec_of(result.case.task).config
    defaults = {field.name: field.default for field in fields(config) if field.default is not MISSING}
    params = _difference(theirs["train_config"], ours.get("train_config") or {}, defaults)
    # a key that one PEFT has and the other does not is as good as its value when it is off
    adapter = _difference(theirs["peft_config"] or {}, ours.get("peft_config") or {}, None)
    found = [*(f"training parameter {line}" for line in params), *(f"adapter config {line}" for line in adapter)]
    return f"imported from PEFT, and measured with another {found[0]}" if found else ""


def _difference(
    expected: Mapping[str, Any], obtained: Mapping[str, Any], defaults: Mapping[str, Any] | None
) -> list[str]:
    """What differs, as `key: expected -> obtained`. A key that is absent has its default, or is off."""
    lines = []
    for key in sorted((expected.keys() | obtained.keys()) - set(_IGNORED)):
        absent = (defaults or {}).get(key)
        sides = [_plain(side.get(key, absent)) for side in (expected, obtained)]
        off = defaults is None and key not in expected.keys() & obtained.keys() and not any(sides)
        if sides[0] != sides[1] and not off:
            lines.append(f"{key}: {sides[0]!r} -> {sides[1]!r}")
    return lines


def _plain(value: Any) -> Any:
    return sorted(value) if isinstance(value, list) and all(isinstance(item, str) for item in value) else value
