"""A user brings another model: an empty folder, a conftest.py, one experiment and the three lines of the test."""

import pytest
from support import DEFAULTS, PLUGINS, REAL_TEST, make_suite, output, table

from pytest_peftbench.measure import timing

CASE = "MetaMathQA-my-gpt2-lora-r2"
MY_MODEL = """
    import pytest

    @pytest.fixture(scope="session")
    def base_model():
        from transformers import GPT2Config, GPT2LMHeadModel

        def random_gpt2(experiment):
            return GPT2LMHeadModel(GPT2Config(vocab_size=512, n_positions=768, n_embd=32, n_layer=2, n_head=2))

        return random_gpt2
"""
ADAPTER = {"peft_type": "LORA", "r": 2, "target_modules": ["c_attn"], "fan_in_fan_out": True, "task_type": "CAUSAL_LM"}


@pytest.fixture
def folder(pytester, monkeypatch):
    """What the user has written, and nothing else. No clock: a busy machine must not turn a case red."""
    monkeypatch.setattr(timing, "compare", lambda *_, **__: timing.Timing(1.0, 1.0, 1.0, 0.01, ()))
    pytester.makeconftest(MY_MODEL)
    pytester.makepyfile(test_mine=REAL_TEST)
    make_suite(
        pytester.path / "MetaMathQA" / "my-gpt2", {"lora/r2": (ADAPTER, None)}, **{**DEFAULTS, "max_seq_length": 64}
    )
    return pytester


def test_a_models_own_benchmark_runs_without_a_baseline(folder):
    result = folder.runpytest_inprocess(*PLUGINS, "--peft-no-compare")

    result.assert_outcomes(passed=1)
    assert table(result) == {CASE: "not compared"}


def test_a_models_own_baseline_is_recorded_and_holds_in_the_next_run(folder):
    recorded = folder.runpytest_inprocess(*PLUGINS, "--peft-update-baselines", "--peft-seeds", "1")
    compared = folder.runpytest_inprocess(*PLUGINS)

    assert recorded.ret == 0, output(recorded)
    assert table(recorded) == {CASE: "recorded"}
    assert (folder.path / "baselines/MetaMathQA/my-gpt2/lora--r2.json").exists()
    compared.assert_outcomes(passed=1)
    assert table(compared) == {CASE: "identical"}
