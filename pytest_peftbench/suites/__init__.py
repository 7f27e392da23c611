"""Suites: experiments from folders, in the layout of PEFT's `method_comparison`. Imports no torch."""

from pytest_peftbench.suites.experiment import (
    ADAPTER_FILE,
    DEFAULTS_FILE,
    MARGINS_FILE,
    PARAMS_FILE,
    WEIGHTS_FILE,
    Experiment,
    expert_folders,
    marker_of,
)
from pytest_peftbench.suites.reading import find_suites, peft_types, read_suite

__all__ = [
    "ADAPTER_FILE",
    "DEFAULTS_FILE",
    "MARGINS_FILE",
    "PARAMS_FILE",
    "WEIGHTS_FILE",
    "Experiment",
    "expert_folders",
    "find_suites",
    "marker_of",
    "peft_types",
    "read_suite",
]
