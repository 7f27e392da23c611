"""Which cases a change can reach: read from imports, before anything runs. Imports no torch, and no PEFT."""

from pytest_peftbench.affected.changes import Affected, Change, Places, affected_since, told
from pytest_peftbench.affected.imports import Package
from pytest_peftbench.affected.reach import Reach

__all__ = ["Affected", "Change", "Package", "Places", "Reach", "affected_since", "told"]
