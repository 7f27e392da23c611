"""Suites that cannot be read: each ends pytest with a usage error that names file and key, before anything runs."""

import pytest
from spoiling import broken, content, device, folder, gone, keys, loop, nested, pipe, renamed, rows, without
from support import LORA, assert_usage_error, write_json

from pytest_peftbench.suites import expert_folders, read_suite

EXPERIMENTS = "MetaMathQA/mini/experiments"
SUITE = "MetaMathQA/mini/default_training_params.json"
MARGINS = "MetaMathQA/mini/margins.json"
LORA_FOLDER = f"{EXPERIMENTS}/lora/r4"
ADAPTER = f"{LORA_FOLDER}/adapter_config.json"
PARAMS = f"{EXPERIMENTS}/loha/r4/training_params.json"
FULL = f"{EXPERIMENTS}/full-finetuning/default/training_params.json"
EXPERTS = {"peft_type": "XLORA", "task_type": "CAUSAL_LM", "hidden_size": 64}


def experts(adapters, **files):
    """An X-LoRA config with these `adapters`, and these files of the expert in `experts/0`."""

    def change(path):
        write_json(path, {**EXPERTS, "adapters": adapters})
        for name, value in files.items():
            content(value)(path.parent / "experts/0" / name.replace("_json", ".json").replace("_bin", ".bin"))

    return change


EXPERT = {"adapter_config_json": LORA}
# as long as a file's name may be, and the suffix and the method come on top
LONG = "r" * 238

FILES = rows(
    # what is in place of a file
    *(
        (file, change, words)
        for file in (SUITE, ADAPTER, PARAMS, MARGINS)
        for change, words in (
            (pipe, "is a pipe or a device, expected a file"),
            (folder, "is a folder, expected a file"),
            (loop, "cannot be read"),
            (content("{"), "no valid JSON"),
            (content("[]"), "expected a JSON object, found list"),
        )
    ),
    *(
        (file, change, words)
        for file in (ADAPTER, PARAMS)
        for change, words in (
            (device, "is a pipe or a device, expected a file"),
            (broken, "cannot be read"),
            (content(""), "no valid JSON"),
            (content(b"\xff\xfe{\x00}"), "cannot be read"),
            (content("null"), "expected a JSON object, found NoneType"),
            (content('{"a": "\\ud800"}'), "holds half a character, '\\ud800'"),
            (nested, "nested too deeply"),
            (content('{"a": 1, "a": 1}'), "key 'a' stands twice"),
            (content('{"a": NaN}'), "a is NaN or infinite"),
            (content('{"a": 1e999}'), "a is NaN or infinite"),
            (content('{"a": ' + "9" * 5_000 + "}"), "Exceeds the limit"),
        )
    ),
    # what nobody would read
    *(
        (f"{LORA_FOLDER}/{name}", content({}), "is no file of an experiment")
        for name in (
            "adapter_confg.json",
            "adapter_config.jsn",
            "adapter_config",
            "adapter_config.json.bak",
            "adapter_config.json.txt",
            "training_param.json",
            "margin.json",
            "default_training_params.json",
            "adapter_model.bin",
            "adapter_model.safetensors",
            "experts/0/adapter_config.json",
        )
    ),
    (f"{LORA_FOLDER}/extra.json", pipe, "is no file of an experiment"),
    (f"{LORA_FOLDER}/extra.json", broken, "is no file of an experiment"),
    (f"{EXPERIMENTS}/lora/adapter_config.json", content(LORA), "is no folder and would be passed over"),
    (f"{EXPERIMENTS}/adapter_config.json", content(LORA), "is no folder and would be passed over"),
    (f"{EXPERIMENTS}/lora/r8", broken, "is no folder and would be passed over"),
    (f"{EXPERIMENTS}/lora/r8", loop, "is no folder and would be passed over"),
    (f"{EXPERIMENTS}/lora/r8", pipe, "is no folder and would be passed over"),
    (f"{EXPERIMENTS}/oft", broken, "is no folder and would be passed over"),
    (f"{EXPERIMENTS}/oft/r4", folder, "holds neither adapter_config.json"),
    ("MetaMathQA/mini/margin.json", content({}), "would be passed over; name it margins.json"),
    ("MetaMathQA/mini/Margins.json", content({}), "would be passed over; name it margins.json"),
    ("MetaMathQA/mini/default_training_params.jsn", content({}), "name it default_training_params.json"),
)
# What becomes of the file is told at another one.
ELSEWHERE = rows(
    (ADAPTER, renamed("adapter_confg.json"), f"{LORA_FOLDER}/adapter_confg.json: is no file of an experiment"),
    # beside training parameters it would be full fine-tuning under the method's name
    (
        f"{EXPERIMENTS}/loha/r4/adapter_config.json",
        renamed("adapter_confg.json"),
        "loha/r4/adapter_confg.json: is no file of an experiment",
    ),
    (PARAMS, renamed("training_parameters.json"), "training_parameters.json: is no file of an experiment"),
    (f"{EXPERIMENTS}/loha/r4/adapter_config.json", gone, "loha/r4: holds no adapter_config.json, so it would be full"),
    (f"{EXPERIMENTS}/prefix-tuning/r4/training_params.json", content({}), "prefix-tuning/r4: holds no adapter_config"),
    (ADAPTER, gone, "lora/r4: holds neither adapter_config.json"),
    (SUITE, renamed("default_trainingparams.json"), "mini: lacks default_training_params.json"),
    (SUITE, gone, "mini: lacks default_training_params.json"),
    # names
    (f"{EXPERIMENTS}/lo--ra/r4/adapter_config.json", content(LORA), "lo--ra/r4: case"),
    (f"{EXPERIMENTS}/lo--ra/r4/adapter_config.json", content(LORA), "'--' separates method and name"),
    (f"{EXPERIMENTS}/lora/r\n4/adapter_config.json", content(LORA), "'r\\n4' cannot be part of a file name"),
    (f"{EXPERIMENTS}/lora/r\\4/adapter_config.json", content(LORA), "'r\\\\4' cannot be part of a file name"),
    (f"{EXPERIMENTS}/lora/{LONG}/adapter_config.json", content(LORA), "is too long for a file name; shorten it"),
)
PARAMETERS = rows(
    (SUITE, keys(learning_rate=1), "key 'learning_rate' is no training parameter"),
    (SUITE, without("seed"), "object missing required field `seed`"),
    *(
        (file, keys(**{key: value}), f"{key}: {words}")
        for file in (SUITE, PARAMS)
        for key, value, words in (
            ("seed", 2**32, "must be at most 4294957295, is 4294967296"),
            ("seed", -1, "must be at least 0, is -1"),
            ("seed", 1.5, "expected `int`, found 1.5"),
            ("seed", "1", 'expected `int`, found "1"'),
            ("batch_size", 0, "must be at least 1, is 0"),
            ("batch_size", None, "expected `int`, found null"),
            ("batch_size_eval", -2, "must be at least 1, is -2"),
            ("max_steps", 0, "must be at least 1, is 0"),
            ("max_steps", True, "expected `int`, found true"),
            ("eval_steps", 4, "must be at most max_steps (3), is 4"),
            ("grad_norm_clip", -0.1, "must be at least 0 (0 clips nothing), is -0.1"),
            ("grad_norm_clip", "1", 'expected `float`, found "1"'),
            ("lr_scheduler", "linear", 'expected "cosine"'),
            ("dtype", "float8", 'expected "float32" or'),
            ("compile", 1, "expected `bool`, found 1"),
            ("model_id", "", "'' cannot be part of a file name"),
            ("model_id", "a/..", "'..' cannot be part of a file name"),
            ("model_id", "a\x00b", "'a\\x00b' cannot be part of a file name"),
            ("model_id", "m" * 300, f"'{'m' * 60}' and more is too long for a file name"),
            ("model_id", "m" * 300 + "/x", f"'{'m' * 60}' and more is too long for a file name"),
            ("model_id", None, "expected `str`, found null"),
            ("optimizer_type", "LBFGS", "'LBFGS' calls the loss again in each step; choose another"),
            ("optimizer_type", "SparseAdam", "'SparseAdam' takes sparse gradients alone; choose another"),
            ("optimizer_type", "Optimizer", "'Optimizer' is the class that optimizers are made from"),
            ("optimizer_type", 1, "expected `str`, found 1"),
            ("optimizer_kwargs", {}, "needs a learning rate 'lr' greater than 0, has None"),
            ("optimizer_kwargs", {"lr": 0}, "needs a learning rate 'lr' greater than 0, has 0"),
            ("optimizer_kwargs", {"lr": "1e-3"}, "needs a learning rate 'lr' greater than 0, has '1e-3'"),
            ("optimizer_kwargs", [], "expected `object`"),
            ("max_seq_length", 0, "must be at least 1, is 0"),
            ("query_template", "{query} {answer}", "must contain '{query}' and no other placeholder"),
            ("query_template", "{query:d}", "must contain '{query}' and no other placeholder"),
            ("init_kv_cache_prefix", 1, "expected `str | null`, found 1"),
            ("attn_implementation", 1, "expected `str | null`, found 1"),
            ("generation_kwargs", None, "expected `object`, found null"),
            (
                "generation_kwargs",
                {"max_new_token": 4},
                "key 'max_new_token' is unknown to transformers' GenerationConfig",
            ),
            ("generation_kwargs", {"max_new_tokens": 0}, "max_new_tokens must be an integer of at least 1, is 0"),
            ("generation_kwargs", {"max_new_tokens": "4"}, 'max_new_tokens must be an integer of at least 1, is "4"'),
            ("generation_kwargs", {"max_new_tokens": 4.0}, "max_new_tokens must be an integer of at least 1, is 4.0"),
            ("generation_kwargs", {"max_length": True}, "max_length must be an integer of at least 1, is true"),
            ("generation_kwargs", {"num_beams": -1}, "num_beams must be an integer of at least 1, is -1"),
            ("generation_kwargs", {"num_return_sequences": 2}, "num_return_sequences must be 1, or the answers"),
            ("generation_kwargs", {"return_dict_in_generate": True}, "return_dict_in_generate must be false"),
            ("generation_kwargs", {"stop_strings": "."}, "stop_strings must be null, or the answers could not be read"),
            ("generation_kwargs", {"temperature": "hot"}, 'temperature must be a number, is "hot"'),
            ("generation_kwargs", {"eos_token_id": "</s>"}, "eos_token_id must be a token's number or a list of them"),
            (
                "generation_kwargs",
                {"pad_token_id": [1, "2"]},
                "pad_token_id must be a token's number or a list of them",
            ),
            ("generation_kwargs", {"": 1}, "key '' is unknown to transformers' GenerationConfig"),
        )
    ),
    (MARGINS, content({"forgeting": 1}), "key 'forgeting' is no metric with a margin"),
    (MARGINS, content({"train_step.flops": 1}), "key 'train_step.flops' is no metric with a margin"),
    (MARGINS, content({"forgetting": -1}), "forgetting: expected `float` >= 0.0, found -1"),
    (MARGINS, content({"forgetting": "1"}), 'forgetting: expected `float`, found "1"'),
)
ADAPTERS = rows(
    (ADAPTER, content({}), "object missing required field `peft_type`"),
    (ADAPTER, keys(peft_type=None), "peft_type: expected `str`, found null"),
    (ADAPTER, keys(peft_type=["LORA"]), "peft_type: expected `str`"),
    (ADAPTER, experts(["experts/0"], **EXPERT), "adapters: expected `object`"),
    (ADAPTER, experts("experts/0", **EXPERT), 'adapters: expected `object`, found "experts/0"'),
    (ADAPTER, experts(1), "adapters: expected `object`, found 1"),
    (ADAPTER, experts(None), "adapters: expected `object`, found null"),
    (ADAPTER, experts({}), "adapters: names no adapter"),
    (ADAPTER, experts([]), "adapters: expected `object`"),
    (ADAPTER, experts({"0": 1}, **EXPERT), "adapters.0: expected `str`, found 1"),
    (ADAPTER, experts({"0": None}, **EXPERT), "adapters.0: expected `str`, found null"),
    (ADAPTER, experts({"0": "experts/1"}, **EXPERT), "adapters.0: folder 'experts/1' of the experiment holds no"),
    (ADAPTER, experts({"0": "/experts/0"}, **EXPERT), "adapters.0: '/experts/0' leads out of the experiment"),
    (ADAPTER, experts({"0": "../r4/experts/0"}, **EXPERT), "adapters.0: '../r4/experts/0' leads out of the experiment"),
    (ADAPTER, experts({"0": "é" * 200}, **EXPERT), f"adapters.0: '{'é' * 60}' and more is too long for a file name"),
    (ADAPTER, experts({"0": "experts/a\x00"}, **EXPERT), "adapters.0: 'a\\x00' cannot be part of a file name"),
    (ADAPTER, experts({"0": ""}, **EXPERT), "adapters.0: '' leads out of the experiment"),
    (ADAPTER, experts({"0": "."}, **EXPERT), "adapters.0: '.' leads out of the experiment"),
)  # fmt: skip
EXPERT_FILES = rows(
    (ADAPTER, experts({"0": "experts/0"}, adapter_config_json="{"), "experts/0/adapter_config.json: no valid JSON"),
    (
        ADAPTER,
        experts({"0": "experts/0"}, **EXPERT, adapter_model_bin=b"\x80\x04."),
        "experts/0/adapter_model.bin: weights are read from adapter_model.safetensors alone",
    ),
    (
        ADAPTER,
        experts({"0": "experts/0"}, **EXPERT, training_params_json={}),
        "experts/0/training_params.json: is no file of an experiment",
    ),
)


@pytest.mark.parametrize("row", [*FILES, *PARAMETERS, *ADAPTERS])
def test_a_bad_experiment_is_refused_by_file_and_key(bench, row):
    row.change(bench.path / row.file)

    assert_usage_error(bench.run(), row.file, row.words)


@pytest.mark.parametrize("row", [*ELSEWHERE, *EXPERT_FILES])
def test_what_is_told_of_another_file_than_the_one_that_changed(bench, row):
    row.change(bench.path / row.file)

    assert_usage_error(bench.run(), row.words)


@pytest.mark.parametrize("name", ["README.md", "notes.txt", ".gitkeep", ".DS_Store", "experts/.gitkeep"])
def test_notes_and_hidden_files_may_stand_beside_an_experiment(bench, name):
    for place in ("MetaMathQA/mini", EXPERIMENTS, f"{EXPERIMENTS}/lora", LORA_FOLDER):
        if "/" not in name or place == LORA_FOLDER:
            content("a word")(bench.path / place / name)

    assert len(bench.collected()) == 3


def test_names_of_experts_are_ours_whatever_the_config_calls_them(bench):
    content({**EXPERTS, "adapters": {"/tmp/x": "experts/0", "../../y": "experts/0"}})(bench.path / ADAPTER)
    content(LORA)(bench.path / LORA_FOLDER / "experts/0/adapter_config.json")

    (experiment,) = (item for item in read_suite(bench.suite) if item.case.method == "lora")

    assert set(expert_folders(experiment.adapter, experiment.path)) == {"0", "1"}
