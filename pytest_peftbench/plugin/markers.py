"""The markers of `-m`: a method's that no case has is told, with those that were meant."""

from __future__ import annotations

import difflib
import re

import pytest

from pytest_peftbench.suites import Experiment

PREFIX = "peft_"


def problem_of_markers(config: pytest.Config, experiments: list[Experiment]) -> str:
    """That `-m` asks for methods of which there is no case at all; empty where one is known, or none is asked for.

    A method's marker is made of its folder's name, `lntuning`; that of its type in PEFT, `LN_TUNING`, is often meant.
    """
    lines: list[str] = config.getini("markers")
    known = {re.split(r"\W", line, maxsplit=1)[0] for line in lines if line.startswith(PREFIX)}
    asked = re.findall(rf"\b{PREFIX}\w+", config.option.markexpr)
    if not experiments or not asked or known.intersection(asked):
        return ""
    methods = sorted({experiment.marker for experiment in experiments})
    meant = _markers_of_type(asked[0], experiments) or difflib.get_close_matches(asked[0], methods, cutoff=0.8)
    hint = f"meant may be {' or '.join(meant)}" if meant else f"there are {', '.join(methods)}"
    return f"-m: no case is marked {asked[0]}; a method's marker is {PREFIX} and the name of its folder: {hint}"


def _markers_of_type(marker: str, experiments: list[Experiment]) -> list[str]:
    """The markers of methods of a type that is written like the marker."""
    found = [
        experiment.marker
        for experiment in experiments
        if experiment.adapter and marker == f"{PREFIX}{experiment.adapter['peft_type'].lower()}"
    ]
    return list(dict.fromkeys(found))
