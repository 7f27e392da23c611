"""The adapters that are put on a structure: each method of PEFT's with its settings, at sizes that fit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pytest_peftbench.results.files import InputError
from pytest_peftbench.tasks.spec import Brought
from pytest_peftbench.tasks.structures.settings import OF_LANGUAGE, params_of, settings_of
from pytest_peftbench.tasks.structures.shapes import STRUCTURES, Shape

_CPT = {"cpt_token_ids": [3, 9, 4, 7], "cpt_mask": [1, 1, 1, 1], "cpt_tokens_type_mask": [1, 2, 3, 4]}
# The keys of each method that its defaults leave out, or leave too large for these structures.
METHODS: dict[str, dict[str, Any]] = {
    "ADALORA": {"init_r": 6, "target_r": 4, "tinit": 1, "tfinal": 1, "deltaT": 1, "total_step": 20},
    "ADAMSS": {"r": 8, "num_subspaces": 2},
    "ADAPTION_PROMPT": {"adapter_len": 4, "adapter_layers": 1},
    "BEFT": {},
    "BOFT": {"boft_block_size": 4},
    "C3A": {"block_size": 8},
    "CARTRIDGE": {"num_virtual_tokens": 4},
    "CPT": _CPT,
    "DEFT": {"r": 4},
    "DELORA": {"r": 4},
    "FOURIERFT": {"n_frequency": 20, "scaling": 10.0},
    "FROD": {"sparse_rate": 0.2, "progressbar": False},
    "GLORA": {"r": 4},
    "GRALORA": {"r": 4, "alpha": 8},
    "HIRA": {"r": 4},
    "HRA": {"r": 4},
    "IA3": {},
    "LILY": {"r": 4},
    "LN_TUNING": {},
    "LOHA": {"r": 4, "alpha": 6},
    "LOKR": {"r": 4, "alpha": 6},
    "LORA": {"r": 4, "lora_alpha": 6},
    "MISS": {"r": 4},
    "MULTITASK_PROMPT_TUNING": {"num_virtual_tokens": 4, "num_tasks": 2},
    "OFT": {"oft_block_size": 4},
    "OSF": {"effective_rank": 4},
    "PEANUT": {"r": 4},
    "POLY": {"r": 4, "n_tasks": 2, "n_skills": 2},
    "PREFIX_TUNING": {"num_virtual_tokens": 4},
    "PROMPT_TUNING": {"num_virtual_tokens": 4},
    "PSOFT": {"r": 4, "psoft_alpha": 6},
    "PVERA": {"r": 8},
    "P_TUNING": {"num_virtual_tokens": 4, "encoder_hidden_size": 16},
    "RANDLORA": {"r": 4, "randlora_alpha": 6},
    "ROAD": {"group_size": 8},
    "SHADOW": {"r": 2, "shadow_dropout": 0.0, "shadow_intermediate_size": 8},
    "SHIRA": {"r": 2, "random_seed": 0},
    "SUPERTUNING": {"sparsity": 0.9},
    "TINYLORA": {"u": 8},
    "TRAINABLE_TOKENS": {"token_indices": [1, 3, 8]},
    "UNILORA": {"theta_d_length": 64},
    "VBLORA": {"num_vectors": 16, "vector_length": 8},
    "VERA": {"r": 8},
    "WAVEFT": {"n_frequency": 20},
}
# Methods that know `target_parameters`.
_OF_PARAMETERS = frozenset({"LORA"})
# The part of a structure that a method targets, where it is not any.
_PART = {"LN_TUNING": "norms", "BEFT": "values", "TRAINABLE_TOKENS": "embeddings"}


def experiments_of(structure: str) -> Brought:
    """The experiments on a structure by `<method>/<name>`. Raises InputError for one that there is not."""
    if structure not in STRUCTURES:
        raise InputError(f"model_id: {structure!r} is no structure; there are {', '.join(STRUCTURES)}")
    shape = STRUCTURES[structure]
    methods = [method for method in METHODS if _has_a_place(method, shape)]
    found: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {}
    for method in methods:
        default: dict[str, dict[str, Any]] = {} if structure == "llama1" else {"default": {}}
        for name, settings in {**default, **settings_of(method, structure)}.items():
            found[f"{folder_of(method)}/{name}"] = adapter_of(method, shape, settings), {}
        for name, params in params_of(method, structure).items():
            found[f"{folder_of(method)}/{name}"] = adapter_of(method, shape), params
    return found


def _has_a_place(method: str, shape: Shape) -> bool:
    """Whether a structure has what the method adapts: a plain module has no text, and experts are no modules."""
    if shape.parameters:
        return method in _OF_PARAMETERS
    if shape.only and method not in shape.only:
        return False
    return bool(shape.task_type) or method not in OF_LANGUAGE


def folder_of(method: str) -> str:
    """The folder that suites have for a method: `prompttuning` of PROMPT_TUNING."""
    return method.replace("_", "").lower()


def partner_of(method: str) -> str:
    """The method whose adapter is mixed with one of this: LoHa, or beside a LoHa LoRA."""
    return "LORA" if method == "LOHA" else "LOHA"


def adapter_of(method: str, shape: Shape, settings: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The keys of `adapter_config.json` for a method on a structure."""
    adapter: dict[str, Any] = {"peft_type": method, **METHODS[method], **_targets(method, shape)}
    if shape.task_type:
        adapter["task_type"] = shape.task_type
    return {**adapter, **(settings or {})}


def _targets(method: str, shape: Shape) -> dict[str, Any]:
    if method in OF_LANGUAGE:
        return {}
    found: dict[str, Any] = {}
    if targets := getattr(shape, _PART.get(method, "targets")):
        found["target_modules"] = list(targets)
    if method in _OF_PARAMETERS and shape.parameters:
        found |= {"target_modules": [], "target_parameters": list(shape.parameters)}
    if method == "IA3" and shape.feedforward:
        found["feedforward_modules"] = list(shape.feedforward)
    if shape.save:
        found["modules_to_save"] = list(shape.save)
    return found
