import gc
import json
import math
import time
import weakref
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from own_functions import NEW_NAME, all_renamed, own_names, owners_of
from support import DEFAULTS, LOHA, LORA, small_llama

from pytest_peftbench.cases import loading, reference, trained
from pytest_peftbench.cases.loading import cached_base_models, cached_task_data
from pytest_peftbench.cases.peft_schema import peft_fields
from pytest_peftbench.cases.training import Trainer
from pytest_peftbench.compare import compare
from pytest_peftbench.measure import owners, timing
from pytest_peftbench.measure.timing import Timing
from pytest_peftbench.measure.weights import digest
from pytest_peftbench.results.baseline import from_result, read, write
from pytest_peftbench.results.files import InputError
from pytest_peftbench.results.metrics import METRICS
from pytest_peftbench.results.result import CaseId, SecondStage
from pytest_peftbench.suites import Experiment
from pytest_peftbench.tasks.math_reasoning.spec import MathTrainConfig
from pytest_peftbench.tasks.math_reasoning.task import MathReasoning, checkpointed
from pytest_peftbench.tasks.registry import spec_of

OF_SHAPES = {name for name in METRICS if name.startswith(("footprint.", "train_step.peak_"))} - {
    "train_step.peak_bytes"
}
OF_STRUCTURES = {metric.name for metric in spec_of("structures").metrics}
OF_IMAGES = {"test_dino_similarity", "valid_dino_similarity", "drift", "images.changed", "images_sha256"}
_data = cached_task_data()
_few = {}


def make_experiment(adapter=LORA, seeds=(0,), path="suite/experiments/method/name", **params):
    train = MathTrainConfig(
        **{**DEFAULTS, "max_steps": 3, "eval_steps": 2, "batch_size": 2, "batch_size_eval": 4, **params}
    )
    return Experiment(CaseId("MetaMathQA", "mini", "method", "name"), Path(path), train, adapter, seeds=seeds)


def fresh_items(experiment):
    """Few items of the embedded data, and nothing that an earlier case measured on them."""
    data = _data(experiment)
    short = sorted(data.train, key=len)[:24]
    documents = [ids[:24] for ids in data.documents[:3]]
    return replace(data, train=short, valid=data.valid[:2], test=data.test[:4], documents=documents)


def few_items(experiment):
    """The same ones in each case, as a session has them."""
    key = experiment.train.telling("DATA")
    if key not in _few:
        _few[key] = fresh_items(experiment)
    return _few[key]


def random_llama(experiment):
    model = small_llama(20, vocab_size=512, attn_implementation=experiment.train.attn_implementation)
    return model.to(getattr(torch, experiment.train.dtype))


def run(experiment=None, base_model=random_llama, task_data=few_items, **kwargs):
    return trained.run_experiment(experiment or make_experiment(), base_model, task_data, **kwargs)


real_compare = timing.compare


@pytest.fixture(autouse=True)
def no_clock(monkeypatch):
    """Times take a second and are tested elsewhere."""
    monkeypatch.setattr(timing, "compare", lambda *_, **__: Timing(1.0, 1.0, 1.0, 0.01, ()))


@pytest.fixture(scope="module")
def lora():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(timing, "compare", lambda *_, **__: Timing(1.0, 1.0, 1.0, 0.01, ()))
        return run()


def exact(result):
    """All that must be the same in each run of unchanged code."""
    lanes = ("exact", "numerics")
    return {name: value for name, value in result.metrics.items() if METRICS[name].lane in lanes}


def of_seed(result, name, seed=0):
    (found,) = [run.metrics[name] for run in result.seeds if run.seed == seed]
    return found


# The second stage


def test_the_second_stage_adds_seeds_to_what_the_first_one_measured(lora):
    asked = []

    def stage(result):
        asked.append(result)
        return SecondStage(seeds=(1, 2))

    result = run(second_stage=stage)

    (first,) = asked
    assert [run.seed for run in first.seeds] == [0]
    assert [run.seed for run in result.seeds] == [0, 1, 2]
    assert result.seeds[0] == lora.seeds[0]
    assert exact(result) == exact(lora)
    assert result.seeds[1].metrics["adapter_sha256"] != result.seeds[2].metrics["adapter_sha256"]
    by_itself = run(make_experiment(seeds=(0, 1)))
    assert from_result(by_itself).seeds == from_result(result).seeds[:2]


def test_to_several_seeds_of_an_experiment_a_second_stage_adds_none():
    result = run(make_experiment(seeds=(0, 1)), second_stage=lambda result: SecondStage(seeds=(2, 3)))

    assert [run.seed for run in result.seeds] == [0, 1]
    assert result.moved == []


@pytest.mark.parametrize("adapter", [LORA, None], ids=["lora", "full"])
def test_seeds_on_moved_base_weights_differ_by_their_last_digit(adapter):
    params = {"optimizer_kwargs": {"lr": 1e-3}}
    plain = run(make_experiment(adapter, seeds=(0, 1), **params))

    result = run(make_experiment(adapter, seeds=(0, 1), **params), second_stage=lambda _: SecondStage(moved=(0, 1)))

    assert result.seeds == plain.seeds
    assert exact(result) == exact(plain)
    assert [run.seed for run in result.moved] == [0, 1]
    for moved, unmoved in zip(result.moved, result.seeds, strict=True):
        assert moved.metrics["first_losses"] == pytest.approx(unmoved.metrics["first_losses"], rel=1e-5)
        assert moved.metrics["forgetting"] == pytest.approx(unmoved.metrics["forgetting"], abs=1e-4)
        assert moved.metrics["adapter_sha256"] != unmoved.metrics["adapter_sha256"]


def test_weights_of_half_precision_move_too():
    experiment = make_experiment(dtype="bfloat16", autocast_adapter_dtype=False)

    result = run(experiment, second_stage=lambda _: SecondStage(moved=(0,)))

    assert result.moved[0].metrics["first_losses"] != result.seeds[0].metrics["first_losses"]


def test_the_base_model_is_evaluated_once_for_moved_weights_and_others(monkeypatch):
    evaluated = []
    real = MathReasoning.reference

    def reference(task, *args):
        evaluated.append(task)
        return real(task, *args)

    monkeypatch.setattr(MathReasoning, "reference", reference)
    run(task_data=fresh_items, second_stage=lambda _: SecondStage(moved=(0, 1)))

    assert len(evaluated) == 1


def test_nothing_holds_on_to_the_first_model_when_other_seeds_train():
    models, alive = [], []

    def counting(experiment):
        gc.collect()
        alive.append(sum(model() is not None for model in models))
        model = random_llama(experiment)
        models.append(weakref.ref(model))
        return model

    run(make_experiment(seeds=(0, 1, 2)), counting)

    assert alive[-2:] == [0, 0]


def test_the_base_model_s_own_figures_do_not_depend_on_the_adapter(lora):
    loha = run(make_experiment(LOHA), task_data=fresh_items)

    assert loha.base == lora.base
    assert len(lora.base.losses) == reference.BASE_STEPS
    owners = {row.partition(" @ ")[2] for rows in lora.base.operators.values() for row in rows}
    assert "LlamaMLP.forward" in owners
    assert not [owner for owner in owners if "Lora" in owner]
    assert lora.base.metrics["train_step.peak_bytes"] > 0


def test_the_base_model_s_own_figures_do_not_depend_on_how_a_case_trains(lora):
    params = {"max_steps": 12, "lr_scheduler": "cosine", "grad_norm_clip": 0.1, "optimizer_kwargs": {"lr": 1.0}}

    other = run(make_experiment(**params), task_data=fresh_items)

    assert other.base == lora.base


# What is measured


def test_every_metric_of_a_trained_adapter_is_there_and_declared(lora):
    found = {*lora.metrics, *lora.seeds[0].metrics}

    assert found == {name for name in METRICS if not name.startswith("gpu.")} - OF_IMAGES - OF_SHAPES - OF_STRUCTURES


def test_a_lora_behaves_as_an_adapter_should(lora):
    outcomes = {name: value for name, value in lora.metrics.items() if METRICS[name].unit == "outcome"}

    assert set(outcomes.values()) == {"ok"}
    assert len(outcomes) == 6
    assert lora.metrics["init.max_output_difference"] == 0.0


def test_parameters_and_checkpoint_are_those_of_the_adapter(lora):
    rank, hidden, kv = 4, 32, 16
    trainable = 2 * (rank * hidden + hidden * rank + rank * hidden + kv * rank)
    base = sum(p.numel() for p in random_llama(make_experiment()).parameters())

    assert lora.metrics["params.trainable"] == trainable
    assert lora.metrics["params.total"] == base + trainable
    assert 0 < lora.metrics["checkpoint.bytes"] - 4 * trainable < 2000
    assert len(lora.metrics["checkpoint.tensors"]) == 4


def test_the_losses_of_the_first_steps_and_the_mean_of_the_last_interval_are_kept(lora):
    losses = of_seed(lora, "first_losses")

    assert len(losses) == 3
    assert of_seed(lora, "train_loss") == pytest.approx(sum(losses[-2:]) / 2)


def test_samples_are_what_the_means_are_means_of(lora):
    (seed,) = lora.seeds

    assert len(seed.samples["test_correct"]) == 4
    assert seed.metrics["test_accuracy"] == seed.samples["test_correct"].count("1") / 4
    rises = seed.samples["forgetting_per_document"]
    assert len(rises) == 3
    assert seed.metrics["forgetting"] == pytest.approx(sum(rises) / 3, abs=1e-6)  # documents of one length


def test_operators_say_who_spent_the_counters(lora):
    for phase, rows in lora.operators.items():
        for name, column in (("calls", 0), ("flops", 1)):
            if f"{phase}.{name}" in lora.metrics:
                assert lora.metrics[f"{phase}.{name}"] == sum(row[column] for row in rows.values())
    assert "aten.mm @ Linear.forward" in lora.operators["train_step"]


def test_the_tensors_alive_at_the_peak_of_a_step_add_up_to_it(lora):
    (phase,) = lora.peak_tensors
    rows = lora.peak_tensors[phase]

    assert phase == "train_step"
    assert sum(size for _, size in rows.values()) == lora.metrics["train_step.peak_bytes"]
    assert rows["float32 @ weights"][1] >= 4 * lora.metrics["params.total"]
    # AdamW: two moments and a step count for each trained weight
    assert rows["float32 @ optimizer state"][1] >= 8 * lora.metrics["params.trainable"]
    assert lora.to_json()["peftbench"]["peak_tensors"] == lora.peak_tensors


def test_times_are_ratios_to_the_base_model_and_seconds(monkeypatch):
    monkeypatch.setattr(timing, "compare", real_compare)

    result = run()

    for name in ("step_time", "decode_time"):
        low, high = result.metrics[f"{name}_interval"]
        assert 0 < low <= result.metrics[f"{name}_ratio"] <= high
        assert result.metrics[f"{name}_s"] > 0
    assert not from_result(result).metrics.keys() & {"step_time_interval", "decode_time_interval"}


def test_times_are_asked_for_with_their_metrics_margin_and_clocks_are_kept(monkeypatch):
    asked = []

    def compare(function, reference, device, blocks, relative_margin):
        asked.append((device, blocks, relative_margin))
        return Timing(1.5, 0.0, math.inf, 0.01, (1.5,) * 21, throttled_blocks=21, sm_mhz=1980)

    monkeypatch.setattr(timing, "compare", compare)

    metrics = run().metrics

    assert asked == [("cpu", 7, 0.3)] * 2
    assert metrics["step_time_interval"] == metrics["decode_time_interval"] == []
    assert (metrics["gpu.sm_clock_mhz"], metrics["gpu.throttled_blocks"]) == (1980, 42)


def test_on_a_cpu_one_row_is_timed(monkeypatch):
    sizes, found = [], []
    real_step, real_decode = Trainer.step, MathReasoning.decode

    def step(trainer, batch):
        sizes.append(len(batch["input_ids"]))
        return real_step(trainer, batch)

    def decode(task, *args):
        sizes.append(task.config.batch_size)
        real_decode(task, *args)

    def compare(function, reference, *_):
        sizes.clear()
        function(), reference()
        found.append(list(sizes))
        return Timing(1.0, 1.0, 1.0, 0.01, ())

    monkeypatch.setattr(Trainer, "step", step)
    monkeypatch.setattr(MathReasoning, "decode", decode)
    monkeypatch.setattr(timing, "compare", compare)

    run(make_experiment(batch_size=6))

    assert found == [[1, 1], [1, 1]]


def test_an_accelerator_is_timed_with_the_whole_batch():
    assert timing.rows(6, "cuda:0") == 6


def test_times_that_would_be_red_are_taken_once_more_with_more_blocks(monkeypatch):
    asked = []

    def compare(function, reference, device, blocks, relative_margin):
        asked.append(blocks)
        return Timing(1.0 + blocks / 10, 1.0, 9.0, 0.01, ())

    monkeypatch.setattr(timing, "compare", compare)

    result = run(second_stage=lambda first: SecondStage((), retime=first.metrics["step_time_ratio"] == 1.7))

    assert asked == [7, 7, 63, 63]
    assert result.metrics["step_time_ratio"] == result.metrics["decode_time_ratio"] == 7.3
    assert result.metrics["merge.same_output"] == "ok"


def test_full_fine_tuning_has_no_adapter_metrics():
    result = run(make_experiment(adapter=None, optimizer_kwargs={"lr": 1e-3}))

    assert not [name for name in result.metrics if name.startswith(("inject", "init", "disable", "reload", "merge"))]
    assert "checkpoint.tensors" not in result.metrics
    assert result.metrics["params.trainable"] == result.metrics["params.total"]
    assert result.metrics["checkpoint.bytes"] == 4 * result.metrics["params.total"]
    assert result.to_json()["run_info"]["peft_config"] is None
    assert result.metrics["train_step.flops"] > 0


POLY = {"peft_type": "POLY", "r": 2, "n_tasks": 1, "n_skills": 2, "n_splits": 1, "target_modules": ["q_proj"]}
POLY["task_type"] = "CAUSAL_LM"


def test_a_task_that_does_not_generate_has_no_figures_of_decoding(lora, monkeypatch):
    def decode(*_):
        pytest.fail("decoded")

    monkeypatch.setattr(MathReasoning, "generates", False)
    monkeypatch.setattr(MathReasoning, "decode", decode)

    result = run(task_data=fresh_items)

    assert lora.metrics.keys() - result.metrics.keys() == {
        *("decode_step.flops", "decode_step.calls"),
        *("decode_time_ratio", "decode_time_interval", "decode_time_s"),
    }
    assert "decode_step" in lora.operators.keys() & lora.base.operators.keys()
    assert "decode_step" not in result.operators.keys() | result.base.operators.keys()


@pytest.mark.parametrize("method", ["evaluate", "validate"])
def test_a_metric_that_the_task_does_not_declare_is_an_error_that_names_it(monkeypatch, method):
    real = getattr(MathReasoning, method)

    def more(*args):
        found = real(*args)
        metrics = found if method == "validate" else found.metrics
        metrics["test_perplexity"] = 1.0
        return found

    monkeypatch.setattr(MathReasoning, method, more)

    with pytest.raises(InputError, match="metric 'test_perplexity' is measured but not declared; add it to the task"):
        run()


def test_extra_inputs_of_a_method_reach_every_phase():
    result = run(make_experiment(POLY))

    assert result.metrics["disable.restores_base"] == "ok"
    assert result.metrics["reload.same_output"] == "ok"
    assert {"forward_inference.flops", "decode_step.flops", "train_step.flops"} <= result.metrics.keys()


PREFIX = {"peft_type": "PREFIX_TUNING", "num_virtual_tokens": 4, "task_type": "CAUSAL_LM"}


def test_a_prefix_starts_from_the_cache_of_the_text_that_the_parameters_give():
    plain = run(make_experiment(PREFIX))
    started = run(make_experiment(PREFIX, init_kv_cache_prefix="Question: How many pens does Ned have?"))

    assert of_seed(started, "first_losses") != of_seed(plain, "first_losses")
    assert started.metrics["params.trainable"] == plain.metrics["params.trainable"]


def test_a_text_too_short_for_the_prefix_is_an_error_that_names_the_key():
    with pytest.raises(InputError, match="init_kv_cache_prefix: "):
        run(make_experiment(PREFIX, init_kv_cache_prefix="Q"))


def test_progress_tells_seed_step_and_how_far_an_evaluation_is():
    said = []

    run(make_experiment(seeds=(0, 1), batch_size_eval=3), progress=said.append)

    assert "seed 0, step 1/3" in said
    assert "seed 0, validating: problems 0/2" in said
    assert [text for text in said if "evaluating: problems" in text] == [
        f"seed {seed}, evaluating: problems {done}/4" for seed in (0, 1) for done in (0, 3)
    ]
    assert "seed 1, step 3/3" in said
    assert "seed 1, evaluating: documents 0/3" in said


# The same again


def test_two_runs_give_the_same_bits(lora):
    again = run(task_data=fresh_items)

    assert exact(again) == exact(lora)
    assert again.seeds == lora.seeds
    assert again.operators == lora.operators
    assert again.case_version == lora.case_version


def test_compared_with_itself_a_case_is_identical(lora, tmp_path):
    write(from_result(lora), tmp_path / "baseline.json")

    verdict = compare(run(), read(tmp_path / "baseline.json"), METRICS, tests=1)

    assert verdict.verdict == "identical", verdict.text()


@pytest.fixture(scope="module")
def two_seeds():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(timing, "compare", lambda *_, **__: Timing(1.0, 1.0, 1.0, 0.01, ()))
        return run(make_experiment(seeds=(0, 1)))


def test_counters_do_not_depend_on_how_many_seeds_ran(lora, two_seeds):
    assert exact(two_seeds) == exact(lora)


def test_seeds_give_different_samples_and_are_listed_ascending(two_seeds):
    assert [seed.seed for seed in two_seeds.seeds] == [0, 1]
    first, second = two_seeds.seeds
    for name in ("first_losses", "adapter_sha256", "forgetting"):
        assert first.metrics[name] != second.metrics[name]
    assert first.samples["forgetting_per_document"] != second.samples["forgetting_per_document"]


def test_a_seed_gives_the_same_whichever_seeds_ran_before_it(lora, two_seeds):
    alone = run(make_experiment(seeds=(1,)))

    # what is read on the way, and compared with nothing, is the first seed's alone
    assert from_result(two_seeds).seeds == [*from_result(lora).seeds, *from_result(alone).seeds]


def test_a_case_with_another_attention_kernel_gives_the_same_whatever_ran_before_it(lora):
    """The base model's own figures are kept for the session, and differ in the last bits between the kernels."""
    eager = make_experiment(attn_implementation="eager")

    after_lora = run(eager)
    first = run(eager, task_data=fresh_items)

    assert (exact(after_lora), after_lora.seeds) == (exact(first), first.seeds)
    assert after_lora.metrics["init.identity"] == "ok"
    assert of_seed(first, "first_losses") != of_seed(lora, "first_losses")


def test_a_method_whose_hooks_wait_for_a_backward_pass_trains_with_checkpointing(lora):
    """PEFT refuses a second forward pass of aLoRA before the backward pass of the first one."""

    experiment = make_experiment({**LORA, "alora_invocation_tokens": [97]}, use_gc=True)

    result = run(experiment, lambda item: checkpointed(random_llama(item), item.train))

    assert len(of_seed(result, "first_losses")) == 3
    assert result.metrics["train_step.saved_bytes"] < lora.metrics["train_step.saved_bytes"]


def test_an_adapter_in_half_precision_is_reloaded_in_half_precision():
    result = run(make_experiment(dtype="bfloat16", autocast_adapter_dtype=False))

    assert result.metrics["reload.same_output"] == "ok"
    assert "BF16" in " ".join(result.metrics["checkpoint.tensors"].values())


# Names of ours


def attributed(result):
    """All rows that have an owner."""
    return result.operators, result.peak_tensors, result.base.operators


@pytest.mark.parametrize("adapter", [LORA, POLY, None], ids=["lora", "poly", "full"])
def test_another_name_of_each_function_of_ours_changes_no_row_of_a_baseline(adapter):
    experiment = make_experiment(adapter, optimizer_kwargs={"lr": 1e-3})
    before = run(experiment)

    with all_renamed():
        assert Trainer.step.__code__.co_name == NEW_NAME
        after = run(experiment, task_data=fresh_items)

    assert attributed(after) == attributed(before)
    assert exact(after) == exact(before)
    assert not owners_of(*attributed(before)) & own_names()


def test_functions_of_ours_that_owned_something_would_show_by_another_name(monkeypatch):
    """Or the test above could not fail."""
    monkeypatch.setattr(owners, "_TRANSPARENT", frozenset({"torch"}))

    before = owners_of(*attributed(run(make_experiment(POLY), task_data=fresh_items)))
    with all_renamed():
        after = owners_of(*attributed(run(make_experiment(POLY), task_data=fresh_items)))

    assert before & own_names()
    assert NEW_NAME in after
    assert not after & own_names()


# The case version


def version_of(experiment, base_model=random_llama, task_data=few_items):
    """The case version, without the seconds of measuring."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trained, "_measure", lambda *_: ({"params.trainable": 0, "params.total": 0}, {}, {}))
        patch.setattr(trained, "_check", lambda *_: ({}, {}))
        patch.setattr(trained, "_time", lambda *_: {})
        patch.setattr(trained, "base_figures", lambda *_: None)
        return run(experiment, base_model, task_data).case_version


@pytest.mark.parametrize(
    "other",
    [
        make_experiment(max_steps=4),
        make_experiment(optimizer_kwargs={"lr": 1e-3}),
        make_experiment(generation_kwargs={"max_new_tokens": 5}),
        make_experiment({**LORA, "r": 8}),
        make_experiment({**LORA, "lora_alpha": 16}),
        make_experiment(LOHA),
    ],
)
def test_another_training_parameter_or_adapter_key_is_another_case(lora, other):
    assert version_of(other) != lora.case_version


def test_other_data_or_base_weights_are_another_case(lora):
    def other_weights(experiment):
        model = random_llama(experiment)
        with torch.no_grad():
            model.lm_head.weight[0, 0] += 1e-3
        return model

    assert version_of(make_experiment()) == lora.case_version
    assert version_of(make_experiment(), base_model=other_weights) != lora.case_version
    other_data = lambda experiment: replace(few_items(experiment), valid=few_items(experiment).valid[:1])  # noqa: E731
    assert version_of(make_experiment(), task_data=other_data) != lora.case_version


def test_the_number_of_seeds_the_folder_and_the_case_s_name_make_no_other_case(lora):
    assert version_of(make_experiment(seeds=(0, 1))) == lora.case_version
    assert version_of(make_experiment(path="elsewhere/experiments/a/b")) == lora.case_version


def test_the_device_makes_no_other_case():
    on_cpu, on_gpu = make_experiment(), replace(make_experiment(), device="cuda")

    assert on_cpu.definition() == on_gpu.definition()


# Errors


def test_an_unknown_adapter_key_is_an_error_that_names_the_file():
    with pytest.raises(InputError, match=r"name/adapter_config\.json: key 'rnak' is unknown to LoraConfig"):
        run(make_experiment({**LORA, "rnak": 4}))


def test_a_value_that_peft_refuses_is_an_error_that_names_the_file():
    with pytest.raises(InputError, match=r"name/adapter_config\.json: OFTConfig refuses the values"):
        run(make_experiment({"peft_type": "OFT", "r": 4, "oft_block_size": 4}))


def test_what_peft_raises_for_a_base_model_is_told_with_the_file_and_where_peft_raised_it():
    with pytest.raises(InputError, match=r"name/adapter_config\.json: PEFT cannot .*no_such_proj.*\(peft/tuners/"):
        run(make_experiment({**LORA, "target_modules": ["no_such_proj"]}))


def test_after_an_error_the_settings_of_torch_are_as_before():
    before = torch.are_deterministic_algorithms_enabled(), torch.get_num_threads(), gc.isenabled()

    with pytest.raises(InputError):
        run(make_experiment({**LORA, "rnak": 4}))

    assert (torch.are_deterministic_algorithms_enabled(), torch.get_num_threads(), gc.isenabled()) == before


# Base models and data


def test_each_case_gets_fresh_weights_of_a_base_model_that_is_loaded_once(monkeypatch):
    loads = []
    load = MathReasoning.load_base_model
    monkeypatch.setattr(MathReasoning, "load_base_model", lambda *args: loads.append(1) or load(*args))
    base_model = cached_base_models()
    experiment = make_experiment()

    first = base_model(experiment)
    before = digest(first)
    with torch.no_grad():
        for parameter in first.parameters():
            parameter.zero_()
    first.config.use_cache = False
    second = base_model(experiment)

    assert digest(second) == before
    assert second.config.use_cache is True
    assert len(loads) == 1


def test_weights_that_all_cases_start_from_and_that_one_changed_are_an_error(monkeypatch):
    kept = []
    base_models = cached_base_models()
    no_copy = SimpleNamespace(deepcopy=lambda model: kept.append(model) or model)
    monkeypatch.setattr(loading, "copy", no_copy)
    base_models(make_experiment())
    with torch.no_grad():
        next(kept[0].parameters()).view(-1)[0] += 1e-6

    with pytest.raises(RuntimeError, match="tiny: an earlier case changed the weights"):
        base_models(make_experiment())


def test_base_models_of_another_type_or_attention_are_loaded_apart():
    base_model = cached_base_models()

    assert base_model(make_experiment()).dtype == torch.float32
    assert base_model(make_experiment(dtype="bfloat16")).dtype == torch.bfloat16
    assert base_model(make_experiment(attn_implementation="eager")).config._attn_implementation == "eager"


def test_the_user_s_base_model_is_trained_from_the_same_weights_whatever_was_trained_before():
    base_model = cached_base_models()

    first = run(make_experiment(adapter=None, optimizer_kwargs={"lr": 1e-2}), base_model)
    second = run(make_experiment(), base_model)

    assert of_seed(first, "first_losses")[0] == of_seed(second, "first_losses")[0]
    assert second.metrics["init.identity"] == "ok"


def test_data_that_nobody_holds_any_more_are_freed_with_what_was_measured_on_them():
    data = [fresh_items(make_experiment())]
    run(task_data=lambda experiment: data[0])
    alive = weakref.ref(data.pop())
    gc.collect()

    assert alive() is None


def test_data_is_tokenised_once_per_prompt_and_length():
    task_data = cached_task_data()

    assert task_data(make_experiment()) is task_data(make_experiment(max_steps=2))
    assert task_data(make_experiment()) is not task_data(make_experiment(max_seq_length=16))


# The result file


def test_a_result_is_written_in_the_schema_of_peft(lora):
    data = json.loads(json.dumps(lora.to_json(), allow_nan=False))

    assert {"run_info", "train_info", "meta_info", "peftbench"} == data.keys()
    assert data["run_info"]["experiment_name"] == "method/name"
    assert data["run_info"]["peft_config"]["target_modules"] == ["q_proj", "v_proj"]
    train_info = data["train_info"]
    assert train_info["status"] == "success"
    assert train_info["file_size"] == lora.metrics["checkpoint.bytes"]
    assert train_info["num_trainable_params"] == lora.metrics["params.trainable"]
    assert [entry["step"] for entry in train_info["metrics"]] == [2, 3]
    assert {"valid accuracy", "train loss"} <= train_info["metrics"][0].keys()
    last = train_info["metrics"][-1]
    assert last["test accuracy"] == of_seed(lora, "test_accuracy")
    assert last["forgetting"] == of_seed(lora, "forgetting")
    for name in ("accelerator_memory_reserved_avg", "accelerator_memory_max", "accelerator_memory_reserved_99th"):
        assert isinstance(train_info[name], int)
    packages = data["meta_info"]["package_info"]
    assert {"bitsandbytes-version", "diffusers-version", "peft-version", "peft-commit-hash"} <= packages.keys()


def test_the_total_time_counts_from_before_anything_is_loaded(monkeypatch):
    started, loaded = [], []

    def fields(*args, **kwargs):
        started.append(kwargs["started"])
        return peft_fields(*args, **kwargs)

    def data(experiment):
        loaded.append(time.time())
        return few_items(experiment)

    monkeypatch.setattr(trained, "peft_fields", fields)
    run(task_data=data)

    assert started[0] <= loaded[0]


def test_the_train_time_is_peft_s_which_leaves_out_validations_only(monkeypatch):
    clock = SimpleNamespace(seconds=0)

    def takes(seconds, owner, name):
        function = getattr(owner, name)

        def slow(*args, **kwargs):
            clock.seconds += seconds
            return function(*args, **kwargs)

        monkeypatch.setattr(owner, name, slow)

    monkeypatch.setattr(trained, "time", SimpleNamespace(perf_counter=lambda: clock.seconds, time=time.time))
    takes(1, Trainer, "step")
    takes(10, MathReasoning, "reference")
    takes(100, MathReasoning, "evaluate")
    takes(1_000, MathReasoning, "validate")

    assert run(task_data=fresh_items).peft["train_info"]["train_time"] == 3 * 1 + 10 + 100


def test_our_block_survives_json(lora):
    block = json.loads(json.dumps(lora.to_json()))["peftbench"]

    assert block["metrics"] == lora.metrics
    assert [seed["metrics"] for seed in block["seeds"]] == [seed.metrics for seed in lora.seeds]
    assert block["operators"] == lora.operators
    assert block["case_version"] == lora.case_version
