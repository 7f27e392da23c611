"""Optuna, which is an extra: imported when it is wanted, and quiet."""

from __future__ import annotations

import warnings
from functools import cache
from typing import Any

from pytest_peftbench.results.files import InputError


@cache
def optuna() -> Any:
    """The library. Raises InputError where it is not installed."""
    try:
        import optuna as library
    except ImportError as error:
        raise InputError("tune needs Optuna: pip install 'pytest-peftbench[tune]'") from error
    library.logging.set_verbosity(library.logging.WARNING)
    warnings.filterwarnings("ignore", category=library.exceptions.ExperimentalWarning)
    return library
