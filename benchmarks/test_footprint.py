"""Footprint at real shapes: parameters, FLOPs, calls and memory on the real base models, without weights or a GPU."""

import pytest

from pytest_peftbench import count_footprint


@pytest.mark.peft_footprint
def test_footprint(experiment, peft_baseline):
    peft_baseline.check(count_footprint(experiment))
