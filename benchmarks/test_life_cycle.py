"""Life cycle: what users do with an adapter beside training it, on a tiny model of each structure; what must hold."""

import pytest

from pytest_peftbench import live_through


@pytest.mark.peft_life_cycle
def test_life_cycle(experiment, peft_baseline):
    peft_baseline.check(live_through(experiment, second_stage=peft_baseline.second_stage))
