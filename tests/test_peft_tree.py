"""PEFT's own tree of experiments, as it is: written by other versions of PEFT than the one that is installed."""

import json

import pytest
from support import DEFAULTS, IMAGE_SUITE, LORA, REPOSITORY, make_suite, output, table, write_json

from pytest_peftbench.cases import trained as engine
from pytest_peftbench.cases.methods import make_config
from pytest_peftbench.commands import main
from pytest_peftbench.results.files import InputError
from pytest_peftbench.results.result import CaseId
from pytest_peftbench.suites import Experiment, read_suite
from pytest_peftbench.tasks.math_reasoning.spec import MathTrainConfig

REFERENCE = REPOSITORY.parent / "shared" / "peft-reference"

MATH = {
    "lora/llama-3.2-3B-rank32": (LORA, None),
    "lora/llama-3.2-3B-rank32-lr": (LORA, {"optimizer_kwargs": {"lr": 1e-3}}),
    "full-finetuning/llama-3.2-3B": (None, {"optimizer_kwargs": {"lr": 1e-5}}),
    # folders with names of their own
    "prefixtuning/llama-3.2-3B": ({"peft_type": "PREFIX_TUNING", "num_virtual_tokens": 4}, {"max_steps": 9}),
    "rslora/llama-3.2-3B": ({**LORA, "use_rslora": True}, None),
    # of a newer PEFT
    "warp/llama-3.2-3B": ({"peft_type": "WARP", "r": 4}, None),
    "muon/llama-3.2-3B": (LORA, {"muon_momentum": 0.9}),
}
IMAGE = {
    "lokr/flux2-klein-lr1e-3": ({"peft_type": "LOKR", "r": 4, "target_modules": ["to_q"]}, None),
    "full-finetuning/flux2-klein": (None, {"max_steps": 3, "eval_steps": 3}),
}
IMAGE_TEST = """
    import pytest
    from support import make_result

    @pytest.mark.peft_task("image-gen")
    def test_image(experiment, peft_baseline):
        peft_baseline.check(make_result(experiment.case))
"""


@pytest.fixture
def tree(bench):
    """A `method_comparison` in the layout of PEFT's, beside a benchmark of both tasks."""
    root = bench.path / "method_comparison"
    make_suite(root / "MetaMathQA", MATH, model_id="meta-llama/Llama-3.2-3B")
    make_suite(root / "image-gen", IMAGE)
    image_defaults = json.loads((IMAGE_SUITE / "default_training_params.json").read_text())
    image_defaults["model_id"] = "black-forest-labs/FLUX.2-klein-base-4B"
    write_json(root / "image-gen" / "default_training_params.json", image_defaults)
    # what else lies there
    write_json(root / "MetaMathQA" / "results" / "lora--llama-3.2-3B-rank32.json", {})
    write_json(root / "text_generation_benchmark" / "default_benchmark_params.json", {})
    (root / "MetaMathQA" / "experiments" / "README.md").write_text("read me")
    bench.write("test_image.py", IMAGE_TEST)
    return root


def test_each_experiment_of_both_tasks_is_a_case(bench, tree):
    assert sorted(bench.collected("--peft-suite", tree)) == sorted(
        [f"MetaMathQA-Llama-3.2-3B-{name.replace('/', '-')}" for name in MATH]
        + [f"image-gen-FLUX.2-klein-base-4B-{name.replace('/', '-')}" for name in IMAGE]
    )


@pytest.mark.parametrize(("task", "experiments"), [("MetaMathQA", MATH), ("image-gen", IMAGE)])
def test_one_task_of_the_tree_may_be_named(bench, tree, task, experiments):
    cases = [case for case in bench.collected("--peft-suite", tree / task) if case != "NOTSET"]  # the other test

    assert len(cases) == len(experiments)
    assert all(case.startswith(task) for case in cases)


def test_a_type_or_parameter_of_a_newer_peft_is_that_case_s_red_and_the_others_run(bench, tree):
    result = bench.run("--peft-suite", tree, "--peft-no-compare")

    result.assert_outcomes(passed=7, errors=2)
    text = output(result)
    assert "warp/llama-3.2-3B/adapter_config.json: peft_type: 'WARP' is unknown to the installed PEFT" in text
    assert "muon/llama-3.2-3B/training_params.json: key 'muon_momentum' is no training parameter" in text
    assert "Traceback" not in text
    red = {case: verdict for case, verdict in table(result).items() if verdict != "not compared"}
    assert red == {
        "MetaMathQA-Llama-3.2-3B-muon-llama-3.2-3B": "failed",
        "MetaMathQA-Llama-3.2-3B-warp-llama-3.2-3B": "failed",
    }


def test_no_baseline_is_written_for_a_case_that_cannot_run(bench, tree):
    result = bench.run("--peft-suite", tree, "--peft-update-baselines", "-k", "warp or rslora")

    result.assert_outcomes(passed=1, errors=1, deselected=7)
    assert [path.name for path in (bench.path / "baselines").rglob("*.json")] == ["rslora--llama-3.2-3B.json"]


def test_an_unknown_adapter_key_is_that_case_s_red_before_anything_is_loaded(tmp_path):
    train = MathTrainConfig(**DEFAULTS)
    experiment = Experiment(CaseId("MetaMathQA", "b", "lora", "n"), tmp_path, train, {**LORA, "r_squared": 2})

    def never(experiment):
        raise AssertionError("loaded")

    with pytest.raises(InputError, match=r"adapter_config.json: key 'r_squared' is unknown to LoraConfig"):
        engine.run_experiment(experiment, never, never)


def test_a_case_with_a_problem_is_never_trained_without_what_it_asks_for(bench, tree, capsys):
    experiments = {experiment.case.method: experiment for experiment in read_suite(tree / "MetaMathQA")}

    for method in ("warp", "muon"):
        with pytest.raises(InputError, match=method):
            engine.run_experiment(experiments[method], pytest.fail, pytest.fail)
    with pytest.raises(InputError, match="peft_type: 'WARP' is unknown"):
        make_config(experiments["warp"].adapter, tree)
    with pytest.raises(SystemExit):
        main(["tune", str(tree / "MetaMathQA"), "--only", "muon/*", "--dry-run"])
    assert "muon_momentum" in capsys.readouterr().out


@pytest.mark.skipif(not REFERENCE.exists(), reason="PEFT's method_comparison is not beside the repository")
def test_the_whole_reference_tree_is_collected(bench):
    bench.write("test_image.py", IMAGE_TEST)
    folders = [path for path in REFERENCE.glob("*/experiments/*/*") if path.is_dir()]

    assert len(bench.collected("--peft-suite", REFERENCE)) == len(folders) == 8
    assert not [case for task in ("MetaMathQA", "image-gen") for case in read_suite(REFERENCE / task) if case.problem]
