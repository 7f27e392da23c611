"""Nothing forgotten: what PEFT lets a user touch is exercised by a life cycle, or exempt with its reason."""

import ast
import dataclasses
import enum
import inspect

import peft
import peft.helpers
import peft.optimizers
import peft.utils
import pytest
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
from peft.tuners.tuners_utils import BaseTuner, BaseTunerLayer
from support import REPOSITORY, skip_under_an_older_peft

from pytest_peftbench.results.baseline import baseline_path, read
from pytest_peftbench.suites import read_suite

skip_under_an_older_peft()

TOKENIZER = "needs a tokenizer from the hub"
OTHER_ENGINE = "needs an engine that no CPU runner has"
DATA = "starts from activations or gradients of data, which the trained cases have"
INHERITED = "is LoRA's, which AdaLoRA inherits and refuses or does not read"
QUANTISED = "is of quantised base weights"
NO_CONV1D = "is a Conv1D's, which the method refuses"
INFERRED = "is counted from the tokens"
SAME = "says what another name, which is exercised, says too"
WORDS = "prints, or writes a page about the adapter"
TRAINED = "a trained case runs it"
NOT_YET = "not exercised yet"
INTERNAL = "is what other functions are made of, which are exercised"

# Fields of configs: of each method that has one, or of one method alone.
FIELDS = {
    "tokenizer_name_or_path": TOKENIZER,
    "tokenizer_kwargs": TOKENIZER,
    "prompt_tuning_init_text": TOKENIZER,
    "megatron_config": OTHER_ENGINE,
    "megatron_core": OTHER_ENGINE,
    "runtime_config": "moves weights to an accelerator while adapters are made",
    "eva_config": DATA,
    "corda_config": DATA,
    "lora_ga_config": DATA,
    "loftq_config": QUANTISED,
    "use_qalora": QUANTISED,
    "qalora_group_size": QUANTISED,
    "arrow_config": "routes between adapters that are loaded from files: create_arrow_model",
    "ADAMSS.init_weights": "has one value",
    "BOFT.fan_in_fan_out": NO_CONV1D,
    "ADALORA.r": INHERITED,
    "ADALORA.lora_alpha": INHERITED,
    "ADALORA.use_rslora": INHERITED,
    "ADALORA.init_lora_weights": INHERITED,
    "ADALORA.rank_pattern": INHERITED,
    "ADALORA.alpha_pattern": INHERITED,
    "ADALORA.use_dora": INHERITED,
    "ADALORA.velora_config": INHERITED,
    "ADALORA.alora_invocation_tokens": INHERITED,
    "ADALORA.monteclora_config": INHERITED,
    "ADALORA.layer_replication": INHERITED,
    "ADALORA.lora_bias": INHERITED,
    "ADALORA.target_parameters": INHERITED,
    "ADALORA.use_bdlora": INHERITED,
    "ADALORA.kasa_config": INHERITED,
    "ADALORA.ensure_weight_tying": INHERITED,
    "CPT.num_virtual_tokens": INFERRED,
    "CPT.token_dim": INFERRED,
    "CPT.num_transformer_submodules": INFERRED,
    "CPT.num_attention_heads": INFERRED,
    "CPT.num_layers": INFERRED,
    "CPT.modules_to_save": NOT_YET,
    "FROD.runtime_offload_base_weight": "moves weights between devices",
    "MULTITASK_PROMPT_TUNING.prompt_tuning_init": NOT_YET,
    "MULTITASK_PROMPT_TUNING.prompt_tuning_init_state_dict_path": NOT_YET,
    "MULTITASK_PROMPT_TUNING.prompt_tuning_init_task": NOT_YET,
    "OFT.fan_in_fan_out": NO_CONV1D,
    "OSF.init_weights": "starts where its steps hang on a last digit",
    "OSF.target_svd_config": "is filled by OSF itself",
    "POLY.poly_type": "has one value",
    "PSOFT.fan_in_fan_out": NO_CONV1D,
    "SHADOW.target_modules": NOT_YET,
    "SHADOW.exclude_modules": NOT_YET,
    "SHADOW.shadow_model": NOT_YET,
    "SHADOW.layers_to_transform": NOT_YET,
    "SHADOW.layers_pattern": NOT_YET,
    "SHIRA.fan_in_fan_out": NO_CONV1D,
    "SHIRA.mask_type": "has one value",
}
# Public methods and functions.
NAMES = {
    "active_adapter": SAME,
    "active_peft_config": SAME,
    "base_model_torch_dtype": NOT_YET,
    "bias": INTERNAL,
    "bloom_model_postprocess_past_key_value": INTERNAL,
    "cast_mixed_precision_params": "is of mixed precision on an accelerator",
    "check_if_peft_model": NOT_YET,
    "compose_cartridge_adapters": NOT_YET,
    "create_arrow_model": NOT_YET,
    "create_lorafa_optimizer": TRAINED,
    "create_loraplus_optimizer": TRAINED,
    "create_or_update_model_card": WORDS,
    "create_riemannian_optimizer": TRAINED,
    "disable_adapter_layers": SAME,
    "disable_adapters": INTERNAL,
    "disable_input_dtype_casting": NOT_YET,
    "enable_adapter_layers": SAME,
    "enable_adapters": INTERNAL,
    "find_kappa_target_modules": DATA,
    "forward": "every output is one",
    "get_base_layer": INTERNAL,
    "get_base_weight": INTERNAL,
    "get_eva_state_dict": DATA,
    "get_gptqmodel_quant_linear": QUANTISED,
    "get_layer_status": SAME,
    "get_model_config": INTERNAL,
    "get_nb_trainable_parameters": SAME,
    "get_peft_config": NOT_YET,
    "get_prompt": INTERNAL,
    "get_prompt_embedding_to_save": INTERNAL,
    "get_quantization_config": QUANTISED,
    "get_quantization_kwargs": QUANTISED,
    "has_active_enabled_adapter": INTERNAL,
    "id_tensor_storage": INTERNAL,
    "infer_device": OTHER_ENGINE,
    "initialize_kv_prefix_from_past_key_values": NOT_YET,
    "initialize_kv_prefix_from_text": TRAINED,
    "initialize_lora_eva_weights": DATA,
    "inject_adapter": INTERNAL,
    "load_peft_weights": INTERNAL,
    "map_cache_to_layer_device_map": OTHER_ENGINE,
    "merge": INTERNAL,
    "merged": INTERNAL,
    "modules_to_save": SAME,
    "peft_config": INTERNAL,
    "prepare_inputs_for_generation": INTERNAL,
    "prepare_model_for_gradient_checkpointing": INTERNAL,
    "preprocess_loraga": DATA,
    "print_trainable_parameters": WORDS,
    "prompt_embeddings_from_past_key_values": NOT_YET,
    "quantization_extra_repr": QUANTISED,
    "register_peft_method": "is for packages that add a method",
    "replace_lora_weights_loftq": QUANTISED,
    "resolve_quantization_backend": QUANTISED,
    "save_as_lora": NOT_YET,
    "set_additional_trainable_modules": INTERNAL,
    "set_base_model_state_dict": NOT_YET,
    "set_base_weight": INTERNAL,
    "set_modules_to_save": NOT_YET,
    "shift_tokens_right": INTERNAL,
    "subtract_mutated_init": NOT_YET,
    "supports_lora_conversion": INTERNAL,
    "transpose": INTERNAL,
    "tuner_layer_cls": INTERNAL,
    "unmerge": INTERNAL,
    "update_forward_signature": WORDS,
    "update_generate_signature": WORDS,
    "update_signature": WORDS,
}
# Members of enums that a config's field takes.
MEMBERS = {
    "MultitaskPromptTuningInit.TEXT": TOKENIZER,
    "MultitaskPromptTuningInit.AVERAGE_SOURCE_TASKS": NOT_YET,
    "MultitaskPromptTuningInit.EXACT_SOURCE_TASK": NOT_YET,
    "MultitaskPromptTuningInit.ONLY_SOURCE_SHARED": NOT_YET,
    "PromptTuningInit.TEXT": TOKENIZER,
}


def was_asked(experiment):
    """Whether an adapter could be added: of another no law is asked."""
    case = dataclasses.replace(experiment.case, kind="life-cycle")
    return read(baseline_path(REPOSITORY / "baselines", case)).metrics["law.inject"] == "holds"


EXPERIMENTS = [
    experiment
    for suite in sorted((REPOSITORY / "benchmarks" / "structures").iterdir())
    for experiment in read_suite(suite)
    if was_asked(experiment)
]


def default(field):
    if field.default is not dataclasses.MISSING:
        return field.default
    return field.default_factory() if field.default_factory is not dataclasses.MISSING else None


def fields():
    """`LORA.r` -> its default, of every field of every config but those that all share."""
    shared = {field.name for field in dataclasses.fields(peft.PeftConfig)}
    return {
        f"{method.value}.{field.name}": default(field)
        for method, config in PEFT_TYPE_TO_CONFIG_MAPPING.items()
        for field in dataclasses.fields(config)
        if field.init and field.name not in shared
    }


def exercised_fields():
    """Those that an experiment has at a value that is not the default."""
    defaults = fields()
    given = (
        (f"{experiment.adapter['peft_type']}.{key}", value)
        for experiment in EXPERIMENTS
        for key, value in experiment.adapter.items()
    )
    return {name for name, value in given if name in defaults and value != defaults[name]}


def public(place):
    """The methods and properties of a class, or the functions of a module, that have a public name."""
    if inspect.isclass(place):
        return {name for name, value in vars(place).items() if callable(value) or isinstance(value, property)}
    found = {name: getattr(place, name) for name in getattr(place, "__all__", dir(place))}
    return {name for name, value in found.items() if inspect.isfunction(value) and value.__module__.startswith("peft")}


PLACES = [
    *(value for name, value in vars(peft).items() if inspect.isclass(value) and name.startswith("PeftM")),
    *(BaseTuner, BaseTunerLayer, peft.LoraModel, peft, peft.helpers, peft.utils, peft.optimizers),
]


def names():
    return {name for place in PLACES for name in public(place) if not name.startswith("_")}


def used_names():
    """What the stories name: attributes, imports from PEFT, and operations that are looked up by their name."""
    found = set()
    for file in (REPOSITORY / "pytest_peftbench" / "cases" / "life_cycle").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Attribute):
                found.add(node.attr)
            elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("peft"):
                found |= {alias.name for alias in node.names}
            elif isinstance(node, ast.Call) and not (isinstance(node.func, ast.Name) and node.func.id == "story"):
                found |= {word.value for word in node.args if isinstance(word, ast.Constant)}
    return found


def members():
    """`TaskType.CAUSAL_LM` -> its value, of the enums that a config's field takes; `PeftType` is the methods."""
    enums = [value for value in vars(peft).values() if inspect.isclass(value) and issubclass(value, enum.Enum)]
    return {
        f"{kind.__name__}.{member.name}": member.value for kind in enums if kind is not peft.PeftType for member in kind
    }


def exercised_members():
    """Those that stand in an experiment, or are the default of a field."""
    given = {value for experiment in EXPERIMENTS for value in experiment.adapter.values() if isinstance(value, str)}
    defaults = {value.value for value in fields().values() if isinstance(value, enum.Enum)}
    return {name for name, value in members().items() if value in given | defaults}


def exempt_fields():
    return {name for name in fields() if name in FIELDS or name.partition(".")[2] in FIELDS}


@pytest.mark.parametrize(
    ("all_of_them", "exercised", "exempt"),
    [
        pytest.param(lambda: fields().keys(), exercised_fields, exempt_fields, id="fields of configs"),
        pytest.param(names, used_names, NAMES.keys, id="methods and functions"),
        pytest.param(lambda: members().keys(), exercised_members, MEMBERS.keys, id="members of enums"),
    ],
)
def test_what_a_user_can_touch_is_exercised_or_exempt(all_of_them, exercised, exempt):
    forgotten = set(all_of_them()) - set(exercised()) - set(exempt())

    assert sorted(forgotten) == [], "add a setting, a story, or an exemption with its reason"


def test_no_exemption_is_left_of_what_is_gone_or_exercised():
    known = {*fields(), *(name.partition(".")[2] for name in fields())}

    assert sorted(FIELDS.keys() - known) == []
    assert sorted(FIELDS.keys() & exercised_fields()) == []
    assert sorted(NAMES.keys() - names()) == []
    assert sorted(NAMES.keys() & used_names()) == []
    assert sorted(MEMBERS.keys() - members().keys()) == []
    assert sorted(MEMBERS.keys() & exercised_members()) == []


def test_a_setting_that_is_removed_is_noticed(monkeypatch):
    kept = [experiment for experiment in EXPERIMENTS if "svd_threshold" not in experiment.adapter]
    monkeypatch.setitem(globals(), "EXPERIMENTS", kept)

    assert "ADAMSS.svd_threshold" in fields().keys() - exercised_fields() - exempt_fields()
