"""Collecting: which cases pytest finds, how they are named and selected, and what is refused before anything runs."""

import json
import re
import shutil

import pytest
from support import (
    CASES,
    DEFAULTS,
    FULL,
    IMAGE_SUITE,
    LOHA,
    LOHA_CASE,
    LORA,
    LORA_CASE,
    REPOSITORY,
    Bench,
    assert_usage_error,
    make_suite,
    output,
    write_json,
)

from pytest_peftbench.results.files import InputError
from pytest_peftbench.suites import read_suite

PEFT_TREE = REPOSITORY.parent / "shared" / "peft-reference" / "MetaMathQA"
PEFT_IMAGE_TREE = REPOSITORY.parent / "shared" / "peft-reference" / "image-gen"


def test_each_experiment_is_a_case_named_after_its_folders(bench):
    assert bench.collected() == [
        "MetaMathQA-mini-full-finetuning-default",
        "MetaMathQA-mini-loha-r4",
        "MetaMathQA-mini-lora-r4",
    ]


@pytest.mark.parametrize(
    ("selection", "expected"),
    [
        (("-k", "loha"), [LOHA_CASE]),
        (("-k", "MetaMathQA and mini"), CASES),
        (("-m", "peft_lora"), [LORA_CASE]),
        (("-m", "peft_loha or peft_full_finetuning"), [FULL, LOHA_CASE]),
        (("-k", "prefix"), []),
    ],
)
def test_a_method_is_selected_by_its_name_or_its_marker(bench, selection, expected):
    assert bench.collected(*selection) == expected


def test_every_marker_of_the_plugin_is_registered(bench):
    assert bench.collected("--strict-markers", "-W", "error") == CASES

    result = bench.run("--markers")

    assert "peft_task(name)" in output(result)
    assert "peft_<method>" in output(result)


def test_a_suite_may_lie_deeper_beside_the_test(bench):
    bench.pytester.mkdir("deeper")
    make_suite(bench.path / "deeper" / "MetaMathQA" / "other", {"lora/r4": (LORA, None)})

    assert bench.collected() == [*CASES, "MetaMathQA-other-lora-r4"]


def test_suites_that_are_named_replace_those_beside_the_test(bench):
    make_suite(bench.path / "elsewhere" / "a" / "MetaMathQA" / "one", {"lora/r4": (LORA, None)})
    make_suite(bench.path / "elsewhere" / "b" / "MetaMathQA" / "two", {"loha/r4": (LOHA, None)})

    relative = bench.collected("--peft-suite", "elsewhere/a")
    absolute = bench.collected("--peft-suite", bench.path / "elsewhere" / "b" / "MetaMathQA" / "two")
    both = bench.collected("--peft-suite", "elsewhere/b", "--peft-suite", "elsewhere/a/MetaMathQA/one")

    assert relative == ["MetaMathQA-one-lora-r4"]
    assert absolute == ["MetaMathQA-two-loha-r4"]
    assert both == ["MetaMathQA-two-loha-r4", "MetaMathQA-one-lora-r4"]


def test_a_suite_that_is_named_twice_gives_its_cases_once(bench):
    assert bench.collected("--peft-suite", "MetaMathQA", "--peft-suite", "./MetaMathQA/../MetaMathQA/mini") == CASES


def test_a_path_on_the_command_line_starts_at_the_working_directory(bench, monkeypatch):
    make_suite(bench.path / "work" / "MetaMathQA" / "here", {"lora/r4": (LORA, None)})
    monkeypatch.chdir(bench.path / "work")

    assert bench.collected("--rootdir", bench.path, bench.path / "test_mini.py", "--peft-suite", "MetaMathQA") == [
        "MetaMathQA-here-lora-r4"
    ]


def test_a_path_in_the_ini_file_starts_at_the_root_directory(bench, monkeypatch):
    make_suite(bench.path / "suites" / "MetaMathQA" / "there", {"lora/r4": (LORA, None)})
    bench.write("pytest.ini", "[pytest]\npeft_suite =\n    suites\n    MetaMathQA\n")
    bench.pytester.mkdir("work")
    monkeypatch.chdir(bench.path / "work")

    assert bench.collected(bench.path / "test_mini.py") == ["MetaMathQA-there-lora-r4", *CASES]


def test_in_a_folder_named_after_the_task_the_model_id_names_the_base_model(bench):
    make_suite(bench.path / "peft" / "MetaMathQA", {"lora/r4": (LORA, None)}, model_id="meta-llama/Llama-3.2-3B")

    assert bench.collected("--peft-suite", "peft/MetaMathQA") == ["MetaMathQA-Llama-3.2-3B-lora-r4"]


@pytest.mark.skipif(not PEFT_TREE.exists(), reason="PEFT's method_comparison is not beside the repository")
def test_pefts_own_tree_is_collected_as_it_is(bench):
    assert sorted(bench.collected("--peft-suite", PEFT_TREE)) == [
        "MetaMathQA-Llama-3.2-3B-full-finetuning-llama-3.2-3B-lr_0.00001",
        "MetaMathQA-Llama-3.2-3B-ia3-llama-3.2-3B-lr_0.001",
        "MetaMathQA-Llama-3.2-3B-loha-llama-3.2-3B-rank32",
        "MetaMathQA-Llama-3.2-3B-lora-llama-3.2-3B-rank32",
        "MetaMathQA-Llama-3.2-3B-prefixtuning-llama-3.2-3B-lr_0.001",
    ]


@pytest.mark.skipif(not PEFT_TREE.exists(), reason="PEFT's method_comparison is not beside the repository")
def test_pefts_own_training_parameters_hold_but_for_what_an_experiment_overrides():
    experiments = {experiment.case.method: experiment for experiment in read_suite(PEFT_TREE)}
    lora, full = experiments["lora"], experiments["full-finetuning"]

    assert (lora.train.model_id, lora.train.max_steps, lora.train.dtype) == (
        "meta-llama/Llama-3.2-3B",
        5000,
        "bfloat16",
    )
    assert lora.train.optimizer_kwargs == {"lr": 1e-4, "weight_decay": 0.1}
    assert lora.adapter is not None
    assert (lora.adapter["peft_type"], lora.adapter["r"]) == ("LORA", 32)
    assert experiments["prefixtuning"].train.optimizer_kwargs == {"lr": 1e-3}
    assert full.train.optimizer_kwargs == {"lr": 1e-5}
    assert full.adapter is None


@pytest.mark.skipif(not PEFT_IMAGE_TREE.exists(), reason="no PEFT tree")
def test_pefts_own_image_tree_is_read_as_it_is():
    experiments = {experiment.case.method: experiment for experiment in read_suite(PEFT_IMAGE_TREE)}
    lokr, full = experiments["lokr"], experiments["full-finetuning"]

    assert str(lokr.case) == "image-gen-FLUX.2-klein-base-4B-lokr-flux2-klein-lr1e-3"
    assert lokr.train.optimizer_kwargs == {"lr": 1e-3, "weight_decay": 1e-4}
    assert (lokr.train.resolution, lokr.train.text_encoder_out_layers) == (512, [10, 20, 30])
    assert len(lokr.train.instance_prompts) == 20
    assert (full.adapter, full.train.max_steps) == (None, 300)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"text_encoder_out_layers": [1, "2"]}, 'text_encoder_out_layers[1]: expected `int`, found "2"'),
        ({"drift_image_prompts": "a cat"}, 'drift_image_prompts: expected `array`, found "a cat"'),
        ({"drift_image_prompts": []}, "drift_image_prompts: must not be empty"),
        ({"test_size": 18}, "instance_prompts: 20 prompts leave no picture to train on"),
        ({"dtype": "int4"}, 'dtype: expected "float32" or "float16" or "bfloat16", found "int4"'),
        ({"weighting_scheme": "uniform"}, 'weighting_scheme: expected "none" or "sigma_sqrt"'),
        ({"num_inference_steps": 0}, "num_inference_steps: must be at least 1, is 0"),
        ({"repeats": 1}, "max_steps: 60 steps of batch_size 4 need more than the 14 pictures"),
    ],
)
def test_image_parameters_that_make_no_sense_are_refused(tmp_path, changes, message):
    defaults = json.loads((IMAGE_SUITE / "default_training_params.json").read_text())
    write_json(tmp_path / "image-gen" / "mini" / "default_training_params.json", {**defaults, **changes})
    write_json(tmp_path / "image-gen" / "mini" / "experiments/lora/r4/adapter_config.json", LORA)

    with pytest.raises(InputError) as raised:
        read_suite(tmp_path / "image-gen" / "mini")

    assert message in str(raised.value)


def test_a_test_of_another_task_gets_none_of_the_cases(bench):
    bench.write(
        "test_images.py",
        """
        import pytest

        @pytest.mark.peft_task("image-gen")
        def test_images(experiment): pass

        def test_any(experiment): pass
        """,
    )

    assert bench.collected("test_images.py", "-k", "MetaMathQA", "--peft-suite", "MetaMathQA") == CASES  # test_any's
    assert_usage_error(bench.run("test_images.py"), "no suite below holds one of image-gen")


@pytest.mark.parametrize("arguments", ["'MetaMatQA'", "", "'MetaMathQA', 'image-gen'", "['MetaMathQA']"])
def test_a_task_that_does_not_exist_is_refused(bench, arguments):
    bench.write("test_mini.py", f"import pytest\n@pytest.mark.peft_task({arguments})\ndef test_x(experiment): pass")

    assert_usage_error(bench.run(), "test_mini.py::test_x", "peft_task", "MetaMathQA")


def test_suites_that_no_test_takes_a_case_of_are_refused_and_not_skipped(bench):
    suite = bench.path / "other" / "image-gen" / "tiny"
    suite.mkdir(parents=True)
    shutil.copy(IMAGE_SUITE / "default_training_params.json", suite)
    shutil.copytree(IMAGE_SUITE / "experiments" / "loha", suite / "experiments" / "loha")

    assert_usage_error(bench.run("--peft-suite", "other"), "other", "no collected test takes a case of the suites")
    assert_usage_error(bench.run("--peft-suite", "other", "--peft-suite", "MetaMathQA"), "other", "nothing of them")
    assert bench.collected("--peft-suite", "MetaMathQA") == CASES
    bench.run("--peft-suite", "MetaMathQA", "-k", "nothing").assert_outcomes(deselected=3)


def test_hundreds_of_experiments_are_collected(bench):
    make_suite(
        bench.path / "many" / "MetaMathQA" / "many",
        {f"lora/r{rank}": ({**LORA, "r": rank}, {"seed": rank}) for rank in range(300)},
    )

    assert len(bench.collected("--peft-suite", "many")) == 300


def test_a_test_without_an_experiment_is_left_alone(bench):
    bench.write("test_other.py", "def test_other(): pass")

    result = bench.run("test_other.py")

    result.assert_outcomes(passed=1)
    assert "PEFT benchmark" not in output(result)


OWN_EXPERIMENTS = {
    "parameter": """
        import pytest

        @pytest.mark.parametrize("experiment", ["mine"])
        def test_own(experiment):
            assert experiment == "mine"
    """,
    "fixture": """
        import pytest

        @pytest.fixture
        def experiment():
            return "mine"

        def test_own(experiment):
            assert experiment == "mine"
    """,
    "parametrized_fixture": """
        import pytest

        @pytest.fixture(params=["mine"])
        def experiment(request):
            return request.param

        def test_own(experiment):
            assert experiment == "mine"
    """,
    "direct_parameter_of_our_type": """
        import pytest
        from pathlib import Path
        from pytest_peftbench.suites import read_suite

        @pytest.mark.parametrize("experiment", read_suite(Path("MetaMathQA/mini"))[:1])
        def test_own(experiment):
            assert experiment.case.base_model == "mini"
    """,
}


@pytest.mark.parametrize("text", OWN_EXPERIMENTS.values(), ids=list(OWN_EXPERIMENTS))
def test_a_project_may_have_an_experiment_of_its_own(bench, text):
    bench.write("test_mini.py", text)

    result = bench.run()

    result.assert_outcomes(passed=1)
    assert "PEFT benchmark" not in output(result)
    assert "peftbench: 1 case" not in output(result)


def test_an_experiment_may_be_overridden_by_one_that_builds_on_it(bench):
    bench.write(
        "conftest.py",
        """
        from dataclasses import replace

        import pytest

        @pytest.fixture
        def experiment(experiment):
            return replace(experiment, device="meta")
        """,
    )
    bench.write(
        "test_mini.py",
        """
        from support import make_result

        def test_mini(experiment, peft_baseline):
            assert experiment.device == "meta"
            peft_baseline.check(make_result(experiment.case))
        """,
    )

    bench.run("--peft-no-compare").assert_outcomes(passed=3)


# What is refused


def broken_json(bench):
    (bench.suite / "experiments/lora/r4/adapter_config.json").write_text('{"peft_type": ')


def a_number_for_a_peft_type(bench):
    write_json(bench.suite / "experiments/lora/r4/adapter_config.json", {"peft_type": 1})


def no_peft_type(bench):
    write_json(bench.suite / "experiments/lora/r4/adapter_config.json", {"r": 8})


def an_unknown_default(bench):
    write_json(bench.suite / "default_training_params.json", {**DEFAULTS, "learning_rate": 1.0})


def a_missing_default(bench):
    write_json(bench.suite / "default_training_params.json", {k: v for k, v in DEFAULTS.items() if k != "seed"})


def text_for_a_number(bench):
    write_json(bench.suite / "experiments/loha/r4/training_params.json", {"max_steps": "many"})


def true_for_a_number(bench):
    write_json(bench.suite / "experiments/loha/r4/training_params.json", {"max_steps": True})


def an_unknown_dtype(bench):
    write_json(bench.suite / "default_training_params.json", {**DEFAULTS, "dtype": "float8"})


def no_steps(bench):
    write_json(bench.suite / "experiments/loha/r4/training_params.json", {"max_steps": 0, "eval_steps": 0})


def a_default_out_of_range(bench):
    write_json(bench.suite / "default_training_params.json", {**DEFAULTS, "batch_size": -1})


def a_template_without_query(bench):
    write_json(bench.suite / "experiments/loha/r4/training_params.json", {"query_template": "Answer:"})


def no_learning_rate(bench):
    write_json(bench.suite / "experiments/loha/r4/training_params.json", {"optimizer_kwargs": {}})


def nan_for_a_learning_rate(bench):
    file = bench.suite / "experiments/loha/r4/training_params.json"
    file.write_text('{"optimizer_kwargs": {"lr": NaN}}')


def true_for_a_learning_rate(bench):
    write_json(bench.suite / "experiments/loha/r4/training_params.json", {"optimizer_kwargs": {"lr": True}})


def an_endless_learning_rate(bench):
    write_json(bench.suite / "experiments/loha/r4/training_params.json", {"optimizer_kwargs": {"lr": 10**400}})


def an_endless_margin(bench):
    write_json(bench.suite / "margins.json", {"forgetting": 10**400})


def a_negative_margin(bench):
    write_json(bench.suite / "margins.json", {"forgetting": -1})


def true_for_a_margin(bench):
    write_json(bench.suite / "margins.json", {"forgetting": True})


def an_endless_norm(bench):
    write_json(bench.suite / "experiments/loha/r4/training_params.json", {"grad_norm_clip": 10**400})


def a_key_twice(bench):
    (bench.suite / "experiments/loha/r4/training_params.json").write_text('{"seed": 1, "seed": 2}')


def a_list_for_an_object(bench):
    (bench.suite / "default_training_params.json").write_text("[]")


def an_empty_experiment(bench):
    (bench.suite / "experiments/oft/r4").mkdir(parents=True)


def a_file_one_folder_too_high(bench):
    write_json(bench.suite / "experiments/oft/adapter_config.json", LORA)


def a_suite_without_experiments(bench):
    (bench.suite / "experiments").rename(bench.suite / "experimants")


def a_suite_not_named_after_a_task(bench):
    bench.suite.parent.rename(bench.path / "MetaMath")


BAD_SUITES = [
    (broken_json, ("lora/r4/adapter_config.json", "line 1")),
    (no_peft_type, ("lora/r4/adapter_config.json", "object missing required field `peft_type`")),
    (an_unknown_default, ("mini/default_training_params.json", "'learning_rate'", "optimizer_kwargs")),
    (a_number_for_a_peft_type, ("lora/r4/adapter_config.json", "peft_type: expected `str`, found 1")),
    (a_missing_default, ("mini/default_training_params.json", "missing required field `seed`")),
    (text_for_a_number, ("loha/r4/training_params.json", 'max_steps: expected `int`, found "many"')),
    (true_for_a_number, ("loha/r4/training_params.json", "max_steps: expected `int`, found true")),
    (an_unknown_dtype, ("mini/default_training_params.json", 'dtype: expected "float32" or', 'found "float8"')),
    (no_steps, ("loha/r4/training_params.json", "max_steps: must be at least 1, is 0")),
    (a_default_out_of_range, ("mini/default_training_params.json", "batch_size: must be at least 1, is -1")),
    (a_template_without_query, ("loha/r4/training_params.json", "query_template", "{query}")),
    (no_learning_rate, ("loha/r4/training_params.json", "optimizer_kwargs", "'lr'")),
    (nan_for_a_learning_rate, ("loha/r4/training_params.json", "optimizer_kwargs.lr is NaN")),
    (true_for_a_learning_rate, ("loha/r4/training_params.json", "optimizer_kwargs", "'lr'", "has True")),
    (an_endless_learning_rate, ("loha/r4/training_params.json", "optimizer_kwargs.lr is NaN or infinite")),
    (an_endless_margin, ("mini/margins.json", "forgetting is NaN or infinite")),
    (a_negative_margin, ("mini/margins.json", "forgetting: expected `float` >= 0.0, found -1")),
    (true_for_a_margin, ("mini/margins.json", "forgetting: expected `float`, found true")),
    (an_endless_norm, ("loha/r4/training_params.json", "grad_norm_clip is NaN or infinite")),
    (a_key_twice, ("loha/r4/training_params.json", "'seed' stands twice")),
    (a_list_for_an_object, ("mini/default_training_params.json", "expected a JSON object")),
    (an_empty_experiment, ("oft/r4", "adapter_config.json", "training_params.json")),
    (a_file_one_folder_too_high, ("experiments/oft/adapter_config.json", "experiments/<method>/<name>/")),
    (a_suite_without_experiments, ("MetaMathQA/mini", "no experiment")),
    (a_suite_not_named_after_a_task, ("MetaMath/mini", "MetaMathQA")),
]


@pytest.mark.parametrize(("spoil", "words"), BAD_SUITES, ids=[spoil.__name__ for spoil, _ in BAD_SUITES])
def test_a_suite_that_cannot_be_read_is_refused_by_file_and_key(bench: Bench, spoil, words):
    spoil(bench)

    result = bench.run()

    assert_usage_error(result, *words)
    assert len(re.findall("^ERROR: ", output(result), re.MULTILINE)) == 1


def test_all_bad_suites_are_named_at_once(bench):
    broken_json(bench)
    make_suite(bench.path / "MetaMathQA" / "other", {"loha/r4": (LOHA, {"seed": -1})})

    assert_usage_error(bench.run(), "mini/experiments/lora/r4/adapter_config.json", "other/experiments/loha/r4", "seed")


def test_a_suite_folder_that_is_missing_is_refused(bench):
    assert_usage_error(bench.run("--peft-suite", "nowhere"), "nowhere: no such folder")


def test_a_suite_folder_without_a_suite_is_refused_instead_of_passing_with_no_case(bench):
    bench.pytester.mkdir("empty")

    assert_usage_error(bench.run("--peft-suite", "empty"), "empty", "default_training_params.json")


def test_two_suites_with_the_same_case_are_refused_since_they_would_share_a_baseline(bench):
    make_suite(bench.path / "copy" / "MetaMathQA" / "mini")

    result = bench.run("--peft-suite", "MetaMathQA", "--peft-suite", "copy")

    assert_usage_error(result, "copy/MetaMathQA/mini/experiments/lora/r4", LORA_CASE)


def test_a_method_whose_name_makes_the_baselines_name_ambiguous_is_refused(bench):
    make_suite(bench.suite, {"lo--ra/r4": (LORA, None)})

    assert_usage_error(bench.run(), "lo--ra", "'--'")


def test_bad_input_ends_parallel_workers_with_the_same_message(bench):
    broken_json(bench)

    result = bench.run("-n", "2")

    assert_usage_error(result, "lora/r4/adapter_config.json: no valid JSON")
    assert re.search("^ERROR: .*adapter_config.json: no valid JSON", output(result), re.MULTILINE)


def test_the_suite_shipped_with_the_repository_is_readable_with_every_key_of_pefts_defaults():
    suite = REPOSITORY / "benchmarks" / "MetaMathQA" / "tiny"
    defaults = json.loads((suite / "default_training_params.json").read_text())

    assert len(read_suite(suite)) >= 40
    if PEFT_TREE.exists():
        assert list(defaults) == list(json.loads((PEFT_TREE / "default_training_params.json").read_text()))
