"""What the benchmark is for: a fault in PEFT's source turns the right case red, and says why.

One fault stands in a copy of PEFT, as a pull request would bring it, in a process of its own; the others in the source
of one function of the PEFT that is imported here, which spares the imports.
"""

import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from peft_copy import faulty_peft
from support import PLUGINS, REPOSITORY, make_suite, table, unmeasured

from pytest_peftbench.commands.selftest.patching import Edit, patched
from pytest_peftbench.measure import environment

ON_Q_AND_V = {"target_modules": ["q_proj", "v_proj"], "task_type": "CAUSAL_LM"}
EXPERIMENTS = {
    # scaled by 3: no power of two, so that the order of a product is seen in its last bit
    "lora/r4": ({"peft_type": "LORA", "r": 4, "lora_alpha": 12, **ON_Q_AND_V}, None),
    "loha/r4": ({"peft_type": "LOHA", "r": 4, "alpha": 12, **ON_Q_AND_V}, None),
    # its weight is a sum of three
    "glora/r4": ({"peft_type": "GLORA", "r": 4, **ON_Q_AND_V}, None),
}
# Large steps: after three of them the adapter has an effect.
PARAMS = {
    "max_steps": 3,
    "eval_steps": 3,
    "batch_size": 4,
    "batch_size_eval": 8,
    "lr_scheduler": None,
    "optimizer_kwargs": {"lr": 0.05},
    "generation_kwargs": {"max_new_tokens": 2},
}
LORA, LOHA, GLORA = (f"MetaMathQA-mini-{name}-r4" for name in ("lora", "loha", "glora"))
# Which of them run.
BOTH, ALONE = ("-k", "not glora"), {case: ("-k", case.removeprefix("MetaMathQA-")) for case in (LORA, LOHA, GLORA)}

CONFTEST = """
from dataclasses import replace
import os
import sys

import pytest
from support import once

@pytest.fixture(scope="session")
def task_data(task_data):
    from pytest_peftbench.measure import timing

    loaded, kept = once(task_data), {}

    def few_items(experiment):
        data = loaded(experiment)
        parts = {"train": sorted(data.train, key=len)[:32], "valid": data.valid[:1], "test": data.test[:4]}
        documents = [ids[:32] for ids in data.documents[:4]]
        # the same each time, so that cases share what the base model gave on it
        return kept.setdefault(id(data), replace(data, **parts, documents=documents))

    # no clock: another process on the machine must not turn a case red
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(timing, "compare", lambda *_, **__: timing.Timing(1.0, 1.0, 1.0, 0.01, ()))
        yield few_items

@pytest.fixture(scope="session")
def base_model(base_model):
    def of_another_torch(experiment):
        # what an update of torch may bring: operators more in each block, and other last bits
        model = base_model(experiment)
        for layer in model.model.layers:
            layer.mlp.register_forward_hook(lambda module, inputs, output: change(output))
        return model

    def change(output):
        return output * (1 + 2**-20) if os.environ.get("ANOTHER_BASE") else output * 3 / 3 * 7 / 7 * 1.1 / 1.1

    return of_another_torch if os.environ.get("ANOTHER_TORCH") or os.environ.get("ANOTHER_BASE") else base_model

def pytest_terminal_summary(terminalreporter):
    terminalreporter.write_line("peft: " + sys.modules["peft"].__file__)
"""


@dataclass(frozen=True)
class Run:
    """What a session of the benchmark printed."""

    code: int
    text: str

    @property
    def verdicts(self):
        """The verdict of each case."""
        return table(subprocess.CompletedProcess([], self.code, self.text, ""))

    def failure(self, case):
        """The report of the failed case."""
        match = re.search(rf"^_+ \S+\[{case}\] _+$\n(.*?)^(?:_{{5,}} |={{5,}} )", self.text, re.MULTILINE | re.DOTALL)
        assert match, self.text
        return match.group(1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A suite of a few methods on the embedded base model, and in the end its baselines of the installed PEFT."""
    folder = tmp_path_factory.mktemp("faults")
    make_suite(folder / "MetaMathQA" / "mini", EXPERIMENTS, **PARAMS)
    # a name of its own: this process may hold another test_math_reasoning
    shutil.copy(REPOSITORY / "benchmarks" / "test_math_reasoning.py", folder / "test_faulty.py")
    (folder / "conftest.py").write_text(CONFTEST)
    (folder / "pytest.ini").write_text("[pytest]\n")
    return folder


@pytest.fixture
def run(folder, pytester, monkeypatch):
    """Function that runs the benchmark in this process; the first test has the baselines recorded."""
    monkeypatch.chdir(folder)

    def run(*arguments):
        result = pytester.runpytest_inprocess(*PLUGINS, "--benchmark-disable", "--import-mode=importlib", *arguments)
        return Run(result.ret, result.stdout.str() + "\n")

    if not (folder / "baselines").exists():
        recording = run("--peft-update-baselines", "--peft-seeds", "2")
        assert recording.code == 0, recording.text
    return run


@pytest.fixture
def run_edited(run):
    """Function that runs it with a function of PEFT edited: function, text, faulty text, which cases."""

    def run_edited(target, old, new, which=BOTH):
        with patched([Edit(f"peft.{target}", old, new)]):
            return run(*which)

    return run_edited


@pytest.fixture
def another_torch(run, monkeypatch):
    """The version of torch and the base model are others than when the baselines were recorded."""
    installed = environment.installed
    monkeypatch.setattr(environment, "installed", lambda name: "2.99.0" if name == "torch" else installed(name))
    monkeypatch.setenv("ANOTHER_TORCH", "1")


def run_with_a_copy(folder, peft):
    """The benchmark in a process of its own, with the PEFT in folder `peft`."""
    variables = {name: value for name, value in unmeasured().items() if not name.startswith("PYTEST_")}
    variables["PYTHONPATH"] = os.pathsep.join(filter(None, [str(peft), variables.get("PYTHONPATH")]))
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *PLUGINS, "--benchmark-disable", *BOTH],
        cwd=folder,
        env=variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=240,
    )
    imported = re.search(r"^peft: (.*)$", done.stdout, re.MULTILINE)
    assert imported, done.stdout
    assert Path(imported.group(1)).is_relative_to(peft)
    return Run(done.returncode, done.stdout)


ONCE = "result = result + self._get_delta_activations("
TWICE = f"self.get_delta_weight(active_adapter)\n{ONCE}"


def test_a_copy_of_peft_whose_delta_weight_is_computed_twice_regresses_by_operator_and_function(run, folder, tmp_path):
    indented = TWICE.replace("\n", "\n" + " " * 20)
    result = run_with_a_copy(folder, faulty_peft(tmp_path / "copy", "tuners/loha/layer.py", ONCE, indented))

    assert result.code == 1
    assert result.verdicts == {LORA: "identical", LOHA: "regressed"}
    failure = result.failure(LOHA)
    twice = r"  aten\.mm  16 -> 32 calls \(\+\S+ MFLOP\) in HadaWeight\.forward\n"
    assert re.search(rf"^train_step\.flops regressed: .*%, must be equal\)\n{twice}", failure, re.MULTILINE)
    assert re.search(rf"^train_step\.calls regressed: .*%, must be equal\)\n{twice}", failure, re.MULTILINE)
    assert "8 -> 16 calls in LoHaLayer.get_delta_weight" in failure
    assert "reload.same_output" not in failure
    assert "first_losses" not in failure


DRIFT = f"""\
environment drift of MetaMathQA-mini: adapters are compared by what they add
  torch {environment.installed("torch")} -> 2.99.0
  base model decode_step.calls """


def test_another_torch_is_one_drift_and_no_adapter_s_fault(run, another_torch):
    result = run(*BOTH)

    assert result.code == 0, result.text
    assert result.verdicts == {LORA: "same to rounding", LOHA: "same to rounding"}
    assert result.text.count(DRIFT) == result.text.count("environment drift of ") == 1
    assert "losses of the base model part at step 1" in result.text


def test_a_base_model_that_moves_without_its_environment_is_red_and_no_adapter_s_fault(run, monkeypatch):
    monkeypatch.setenv("ANOTHER_BASE", "1")
    result = run(*BOTH)

    assert result.code == 1
    assert result.verdicts == {LORA: "numerics changed", LOHA: "numerics changed"}
    assert "base model of MetaMathQA-mini moved, its environment did not" in result.text
    assert "regressed" not in result.text


def test_another_torch_is_red_where_the_environment_must_not_change_whatever_else_is_green(run, another_torch):
    green = "identical,same to rounding,not comparable"
    result = run("--peft-strict-env", "--peft-green", green, *ALONE[LORA])

    assert result.code == 1
    assert result.verdicts == {LORA: "not comparable"}


def test_a_method_that_costs_more_is_alone_red_under_another_torch(run_edited, another_torch):
    result = run_edited("tuners.loha.layer:LoHaLayer.forward", ONCE, TWICE)

    assert result.code == 1
    assert result.verdicts == {LORA: "same to rounding", LOHA: "regressed"}
    assert result.text.count(DRIFT) == 1
    assert "8 -> 16 calls in LoHaLayer.get_delta_weight" in result.failure(LOHA)
    assert "must be equal, beside what changed in the base model" in result.failure(LOHA)


def test_a_scaling_that_is_two_per_cent_off_is_never_green(run_edited):
    result = run_edited(
        "tuners.lora.layer:Linear.forward",
        "lora_B(lora_A(dropout(x))) * scaling",
        "lora_B(lora_A(dropout(x))) * (scaling * 1.02)",
    )

    assert result.code == 1
    assert result.verdicts[LOHA] == "identical"
    assert result.verdicts[LORA] in ("regressed", "numerics changed")
    assert "first_losses numerics changed" in result.failure(LORA)


def test_a_disabled_adapter_that_still_acts_is_a_lost_capability(run_edited):
    result = run_edited(
        "peft_model:PeftModel.disable_adapter",
        "def disable_adapter(self):",
        "def disable_adapter(self):\n    yield\n    return",
        which=ALONE[LORA],
    )

    assert result.code == 1
    lost = r"^disable\.restores_base regressed: ok -> differs: \S+ \(capability lost\)$"
    assert re.search(lost, result.failure(LORA), re.MULTILINE)


def test_base_weights_in_the_checkpoint_are_a_regression_that_names_them(run_edited):
    result = run_edited(
        "utils.save_and_load:get_peft_model_state_dict",
        "    # REMOVE ADAPTER NAME\n",
        "    to_return.update({k: v for k, v in state_dict.items() if '.base_layer.' in k})\n",
        which=ALONE[LORA],
    )

    assert result.code == 1
    failure = result.failure(LORA)
    assert "checkpoint.bytes regressed" in failure
    assert "checkpoint.tensors regressed: 2 added, must be equal" in failure
    for name, shape in (("q_proj", "[128, 128]"), ("v_proj", "[64, 128]")):
        added = f"base_model.model.model.layers.*.self_attn.{name}.base_layer.weight"
        assert f"added    {added}: 4 x {shape} F32" in failure


def test_a_checkpoint_that_lost_a_tensor_is_a_regression_though_it_is_smaller(run_edited):
    result = run_edited(
        "utils.save_and_load:get_peft_model_state_dict",
        "    # REMOVE ADAPTER NAME\n",
        "    to_return.pop(sorted(to_return)[-1])\n",
        which=ALONE[LOHA],
    )

    assert result.code == 1
    failure = result.failure(LOHA)
    assert "reload.same_output regressed: ok -> differs" in failure
    assert "checkpoint.tensors regressed: 1 changed" in failure
    assert "checkpoint.bytes improved" in failure


def test_a_merge_that_is_one_per_cent_off_is_a_regression(run_edited):
    result = run_edited(
        "tuners.lora.layer:Linear.merge",
        "base_layer.weight.data += delta_weight",
        "base_layer.weight.data += delta_weight * 1.01",
        which=ALONE[LORA],
    )

    assert result.code == 1
    assert result.verdicts == {LORA: "regressed"}
    failure = result.failure(LORA)
    for check in (r"merge\.same_output", r"unmerge\.restores_base"):
        assert re.search(rf"^{check} regressed: ok -> differs: \S+ \(capability lost\)$", failure, re.MULTILINE)


def test_a_factor_that_no_longer_trains_is_never_green_though_it_is_cheaper(run_edited):
    result = run_edited(
        "tuners.lora.layer:Linear.forward",
        "lora_B(lora_A(dropout(x))) * scaling",
        "lora_B(lora_A(dropout(x)).detach()) * scaling",
        which=ALONE[LORA],
    )

    assert result.code == 1
    failure = result.failure(LORA)
    assert "train_step.flops improved" in failure
    assert "adapter_sha256 numerics changed" in failure


def test_adapter_weights_in_double_precision_are_a_regression_of_bytes_and_types(run_edited):
    result = run_edited(
        "tuners.lora.layer:LoraLayer.update_layer",
        "# call this before init of the lora variants\n    self._move_adapter_to_device_of_base_layer(adapter_name)",
        "self._move_adapter_to_device_of_base_layer(adapter_name)\nself.lora_A.double(), self.lora_B.double()",
        which=ALONE[LORA],
    )

    assert result.code == 1
    assert result.verdicts == {LORA: "regressed"}
    failure = result.failure(LORA)
    assert "checkpoint.bytes regressed" in failure
    assert re.search(r"changed  .*lora_A\.weight: 4 x \[4, 128\] F32 -> 4 x \[4, 128\] F64", failure)
    assert "train_step.peak_bytes regressed" in failure


# What changes no mathematics


@pytest.mark.parametrize(
    "reordered",
    ["((w1a @ w1b) * scale) * (w2a @ w2b)", "(w1a @ w1b) * ((w2a @ w2b) * scale)"],
    ids=["a scaling moved to another factor", "a product bracketed otherwise"],
)
def test_a_refactoring_that_only_rounds_otherwise_is_green_in_one_training(run_edited, reordered):
    product = "((w1a @ w1b) * (w2a @ w2b)) * scale"
    result = run_edited("tuners.loha.layer:HadaWeight.forward", product, reordered, which=ALONE[LOHA])

    assert result.code == 0, result.text
    assert result.verdicts == {LOHA: "same to rounding"}


def test_a_sum_taken_in_another_order_is_green(run_edited):
    result = run_edited(
        "tuners.glora.layer:GloraLinear.forward",
        "self.weight + self.weight * A + B",
        "self.weight + (self.weight * A + B)",
        which=ALONE[GLORA],
    )

    assert result.code == 0, result.text
    assert result.verdicts == {GLORA: "same to rounding"}


def test_a_refactoring_that_costs_an_operator_is_told_as_one_and_not_as_a_slip(run_edited):
    result = run_edited(
        "tuners.lora.layer:Linear.forward",
        "lora_B(lora_A(dropout(x))) * scaling",
        "lora_B(lora_A(dropout(x)) * (scaling / 7)) * 7.0",
        which=ALONE[LORA],
    )

    failure = result.failure(LORA)
    assert result.verdicts == {LORA: "regressed"}
    assert "train_step.calls regressed" in failure
    assert "numerics changed" not in failure
    assert "witness same to rounding: bits differ" in failure
    assert "metrics same to rounding: the witness agrees" in failure
