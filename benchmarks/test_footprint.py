"""Footprint at real shapes: parameters, checkpoint, FLOPs, calls and memory on the real base models, without weights."""

import pytest

from pytest_peftbench import count_footprint


@pytest.mark.peft_footprint
def test_footprint(experiment, peft_baseline):
    peft_baseline.check(count_footprint(experiment))
