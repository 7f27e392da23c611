"""What the tests of the plugin share: a small suite in a folder, and results that need no training."""

import json
import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from packaging.version import Version

from pytest_peftbench.measure.environment import installed
from pytest_peftbench.results.result import CaseId, Result, SeedRun

REPOSITORY = Path(__file__).parent.parent
TINY_SUITE = REPOSITORY / "benchmarks" / "MetaMathQA" / "tiny"
IMAGE_SUITE = REPOSITORY / "benchmarks" / "image-gen" / "tiny"

DEFAULTS = {
    **json.loads((TINY_SUITE / "default_training_params.json").read_text()),
    "max_steps": 3,
    "eval_steps": 3,
    "batch_size": 4,
    "batch_size_eval": 8,
    "generation_kwargs": {"max_new_tokens": 4},
}
LORA = {"peft_type": "LORA", "r": 4, "target_modules": ["q_proj", "v_proj"], "task_type": "CAUSAL_LM"}
LOHA = {"peft_type": "LOHA", "r": 4, "target_modules": ["q_proj", "v_proj"], "task_type": "CAUSAL_LM"}


def unmeasured():
    """The environment of a process that trains: taking its coverage would make it a third slower.

    What it runs is covered by the tests that run in this process.
    """
    return {name: value for name, value in os.environ.items() if name != "COVERAGE_PROCESS_CONFIG"}


_TASK_DATA = []


def once(task_data):
    """The first `task_data` that a session of this process had: reading and tokenising takes as long as a training."""
    if not _TASK_DATA:
        _TASK_DATA.append(task_data)
    return _TASK_DATA[0]


def skip_under_an_older_peft():
    """Skip a module that reads the embedded suite, which holds methods that an older PEFT does not know."""
    (pinned,) = re.findall(r"^peft==(.+)$", (REPOSITORY / "constraints.txt").read_text(), re.MULTILINE)
    if Version(installed("peft")) < Version(pinned):
        pytest.skip(f"the embedded suite is written for PEFT {pinned}", allow_module_level=True)


# adapter config and training parameters; None: no such file
EXPERIMENTS = {
    "lora/r4": (LORA, None),
    "loha/r4": (LOHA, {"optimizer_kwargs": {"lr": 1e-2, "weight_decay": 0.0}}),
    "full-finetuning/default": (None, {"optimizer_kwargs": {"lr": 1e-3, "weight_decay": 0.0}}),
}
CASES = [f"MetaMathQA-mini-{name.replace('/', '-')}" for name in sorted(EXPERIMENTS)]
FULL, LOHA_CASE, LORA_CASE = CASES

# Of no use here, and one of them costs a second a run, where they are installed.
PLUGINS = [word for name in ("cacheprovider", "hypothesispytest", "anyio") for word in ("-p", f"no:{name}")]
# A case of these tests imports this module, in workers of xdist too.
PLUGINS += ["-o", f"pythonpath={Path(__file__).parent}"]

# A case as a user writes it, but with a result that was not measured.
SYNTHETIC_TEST = """
    import pytest
    from support import make_result

    @pytest.mark.peft_task("MetaMathQA")
    def test_mini(experiment, peft_baseline):
        peft_baseline.check(make_result(experiment.case))
"""
# A case that no suite holds, from a fixture of the user's own.
OWN_EXPERIMENT = """
    import pytest
    from support import make_result
    from pytest_peftbench.results.result import CaseId

    @pytest.fixture(params=["own"])
    def experiment(request):
        return CaseId("MetaMathQA", "mini", request.param, "r4")

    def test_mini(experiment, peft_baseline):
        peft_baseline.check(make_result(experiment))
"""
# The same lines as in benchmarks/test_math_reasoning.py.
REAL_TEST = """
    import pytest
    from pytest_peftbench import run_experiment

    @pytest.mark.peft_task("MetaMathQA")
    def test_mini(experiment, base_model, task_data, gpu_memory, benchmark, peft_progress, peft_baseline):
        result = run_experiment(
            experiment,
            base_model,
            task_data,
            memory=gpu_memory,
            benchmark=benchmark,
            progress=peft_progress,
            second_stage=peft_baseline.second_stage,
        )
        peft_baseline.check(result)
"""
# A few items of the embedded data, so that a case takes a second.
FEW_ITEMS = """
    from dataclasses import replace

    import pytest

    @pytest.fixture(scope="session")
    def task_data(task_data):
        from support import once
        from pytest_peftbench.measure import timing

        loaded, kept = once(task_data), {}

        def few(experiment):
            data = loaded(experiment)
            parts = {"train": data.train[:40], "valid": data.valid[:4], "test": data.test[:6]}
            # the same each time, so that cases share what the base model gave on it
            return kept.setdefault(id(data), replace(data, **parts, documents=data.documents[:4]))

        # no clock: another process on the machine must not turn a case red
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(timing, "compare", lambda *_, **__: timing.Timing(1.0, 1.0, 1.0, 0.01, ()))
            yield few
"""


def small_llama(seed=0, **config):
    """A randomly initialised Llama of two layers, the same one for the same seed."""
    # here, not above: pytest collects the modules that import this one without importing torch
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    shape = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2}
    return LlamaForCausalLM(LlamaConfig(**{**shape, **heads, **config}))


def write_json(path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))


def make_suite(folder, experiments=EXPERIMENTS, **defaults):
    write_json(folder / "default_training_params.json", {**DEFAULTS, **defaults})
    for name, (adapter, params) in experiments.items():
        if adapter is not None:
            write_json(folder / "experiments" / name / "adapter_config.json", adapter)
        if params is not None:
            write_json(folder / "experiments" / name / "training_params.json", params)


def make_result(case: CaseId) -> Result:
    """A result like a measured one; `measured.json` changes it, per method, as `Bench.measures` wrote it."""
    changes = json.loads(Path("measured.json").read_text()) if Path("measured.json").exists() else {}
    fields = changes.get(case.method, {})
    values = {
        "params.trainable": 8192,
        "params.total": 671_872,
        "train_step.flops": 1_204_000_000,
        "train_step.calls": 3_006,
        "first_losses": [2.5, 2.25, 2.0],
        "adapter_sha256": "0" * 64,
        "test_accuracy": 0.5,
        "forgetting": 0.25,
        "train_loss": 1.5,
        "step_time_ratio": 1.25,
        **fields.pop("metrics", {}),
    }
    values = {name: value for name, value in values.items() if value is not None}
    if "step_time_ratio" in values:
        values.setdefault("step_time_interval", [values["step_time_ratio"]] * 2)
    per_seed = ("first_losses", "adapter_sha256", "test_accuracy", "forgetting", "train_loss")
    return Result(
        **{
            "case": case,
            "case_version": "1",
            "environment": {
                "torch": "2.13.0",
                "transformers": "5.0",
                "peft": "0.21",
                "device": "cpu",
                "accelerator": "none",
                "machine": "x86_64",
                "cpu_capability": "AVX2",
                "threads": "1",
                "arithmetic": "0" * 12,
            },
            "metrics": {name: value for name, value in values.items() if name not in per_seed},
            "seeds": [
                SeedRun(seed, {name: _of_seed(values[name], name, seed) for name in per_seed if name in values})
                for seed in range(3)
            ],
            "operators": {"train_step": operators_of(values)},
            **fields,
        }
    )


def operators_of(values):
    """Rows that add up to the counters of a step."""
    found = [values.get(f"train_step.{counter}") for counter in ("calls", "flops")]
    calls, flops = (count if isinstance(count, int) else 0 for count in found)
    return {"aten.mm @ LoHaLayer.forward": [48, 1_000_000], "aten.mm @ Linear.forward": [calls - 48, flops - 1_000_000]}


def _of_seed(value, name, seed):
    """A quality's value for one of three seeds, around the mean that is asked for."""
    return value + 0.002 * (seed - 1) if name in ("test_accuracy", "forgetting", "train_loss") else value


class Bench:
    """A folder of benchmarks as a user has it, and pytest in it.

    pytester: runs pytest in this process; without it only `spawn` works.
    """

    def __init__(self, path, pytester=None):
        self.pytester = pytester
        self.path = path
        self.suite = path / "MetaMathQA" / "mini"
        make_suite(self.suite)
        self.write("test_mini.py", SYNTHETIC_TEST)

    def write(self, name, text):
        (self.path / name).write_text(textwrap.dedent(text))

    def trains(self):
        """Train for real, on few items of the embedded data."""
        self.write("test_mini.py", REAL_TEST)
        self.write("conftest.py", FEW_ITEMS)

    def measures(self, method, metrics=None, **fields):
        """From now on the cases of `method` measure this; None: the metric is gone."""
        file = self.path / "measured.json"
        changes = json.loads(file.read_text()) if file.exists() else {}
        changes[method] = {"metrics": metrics or {}, **fields}
        write_json(file, changes)

    def run(self, *arguments):
        return self.pytester.runpytest_inprocess(*PLUGINS, *map(str, arguments))

    def spawn(self, *arguments, **environment):
        """pytest in a process of its own."""
        return subprocess.run(
            [sys.executable, "-m", "pytest", *PLUGINS, *map(str, arguments)],
            cwd=self.path,
            env={**unmeasured(), **environment},
            capture_output=True,
            text=True,
            timeout=240,
        )

    def record(self, *arguments):
        """Write the baselines of what is measured now."""
        result = self.run("--peft-update-baselines", *arguments)
        assert result.ret == 0
        return result

    def baseline(self, method):
        (file,) = (self.path / "baselines").rglob(f"{method}--*.json")
        return file

    def collected(self, *arguments):
        """The ids of the cases that pytest collects, in order."""
        result = self.run("--collect-only", "-q", *arguments)
        assert result.ret in (0, 5), result.stdout.str()
        return re.findall(r"\[(.+)\]$", result.stdout.str(), re.MULTILINE)


def table(result):
    """Verdict by case, as the closing table of a run shows them; fails when a case has two rows."""
    text = result.stdout if isinstance(result.stdout, str) else result.stdout.str()
    section = text.partition("PEFT benchmark")[2]
    rows = re.findall(r"^(MetaMathQA-\S+)  +((?:\w+ )*\w+)", section, re.MULTILINE)
    assert len(dict(rows)) == len(rows), section
    return dict(rows)


def output(result):
    """All that a run printed."""
    if isinstance(result.stdout, str):
        return result.stdout + result.stderr
    return result.stdout.str() + "\n" + result.stderr.str()


def assert_usage_error(result, *words):
    """Exit code 4, and a message for people that holds all the words."""
    text = output(result)
    code = result.returncode if hasattr(result, "returncode") else result.ret
    assert code == 4, text
    assert "Traceback" not in text
    assert "INTERNALERROR" not in text
    for word in words:
        assert str(word) in text, text
