"""Settings: fields of a config at values that are not their defaults, in one cell at least. Imports no torch.

Alone where a field changes what is computed, and together where they meet in practice: what a config spares beside what
it saves, biases beside dropout, patterns beside another start.
"""

from __future__ import annotations

from typing import Any

from pytest_peftbench.tasks.structures.shapes import DEEP

Keys = dict[str, Any]

# Fields that many methods have under one name, and who has them.
_PLACED = """ADALORA ADAMSS BOFT C3A DEFT DELORA FOURIERFT FROD GRALORA HIRA HRA LILY LOHA LOKR LORA MISS OFT PEANUT
    PSOFT PVERA RANDLORA TINYLORA UNILORA VBLORA VERA WAVEFT""".split()
_SPARED = """ADALORA BOFT DEFT DELORA FOURIERFT HIRA HRA IA3 LILY LN_TUNING LOHA LOKR LORA MISS OFT PEANUT POLY PSOFT
    VBLORA WAVEFT""".split()
_SAVED = (
    """ADAMSS BEFT C3A FROD GLORA GRALORA OSF PVERA RANDLORA ROAD SHIRA SUPERTUNING TINYLORA UNILORA VERA""".split()
)
_BIASED = """ADALORA BOFT C3A DEFT DELORA FOURIERFT FROD GLORA GRALORA HRA LORA MISS OFT PVERA RANDLORA TINYLORA UNILORA
    VBLORA VERA WAVEFT""".split()
_DROPOUT = {
    "ADALORA": "lora_dropout",
    "BOFT": "boft_dropout",
    "DEFT": "deft_dropout",
    "DELORA": "module_dropout",
    "FROD": "frod_dropout",
    "GRALORA": "gralora_dropout",
    "HIRA": "hira_dropout",
    "LOHA": "rank_dropout",
    "LOKR": "rank_dropout",
    "LORA": "lora_dropout",
    "MISS": "miss_dropout",
    "OFT": "module_dropout",
    "PSOFT": "psoft_dropout",
    "PVERA": "pvera_dropout",
    "RANDLORA": "randlora_dropout",
    "TINYLORA": "tinylora_dropout",
    "UNILORA": "unilora_dropout",
    "VBLORA": "vblora_dropout",
    "VERA": "vera_dropout",
}
# Methods that learn in front of a text, or beside a decoder: they have no target modules, and no place on what is none.
OF_LANGUAGE = frozenset(
    """ADAPTION_PROMPT CARTRIDGE CPT MULTITASK_PROMPT_TUNING PREFIX_TUNING PROMPT_TUNING P_TUNING SHADOW""".split()
)
_PROMPTS = "CARTRIDGE MULTITASK_PROMPT_TUNING PREFIX_TUNING PROMPT_TUNING P_TUNING".split()
_FAN_IN = """ADALORA DEFT FOURIERFT FROD GRALORA HIRA IA3 LORA PVERA RANDLORA TINYLORA UNILORA VBLORA VERA
    WAVEFT""".split()
# A module of each structure that others are spared for, and one that is trained beside the adapter.
_SPARE, _SAVE = "layers.0.self_attn.v_proj", "lm_head"

# What a method has alone, on a decoder.
_OWN: dict[str, dict[str, Keys]] = {
    "ADALORA": {
        "schedule": {"tinit": 0, "tfinal": 0, "deltaT": 2, "beta1": 0.7, "beta2": 0.6, "orth_reg_weight": 0.1},
        "tokens": {"trainable_token_indices": [1, 3]},
    },
    "ADAMSS": {
        "allocated": {
            "use_asa": True,
            "asa_target_subspaces": 3,
            "init_warmup": 1,
            "final_warmup": 2,
            "mask_interval": 1,
        },
        "schedule": {
            "use_asa": True,
            "asa_importance_beta": 0.6,
            "asa_uncertainty_beta": 0.7,
            "asa_schedule_exponent": 2.0,
        },
        "dynamic": {"use_dynamic_rank": True, "svd_threshold": 0.3, "subspace_rank": 2, "random_seed": 3},
    },
    "ADAPTION_PROMPT": {"both-layers": {"adapter_layers": 2, "target_modules": "self_attn"}},
    "BEFT": {"random": {"init_weights": False}},
    "BOFT": {
        "butterfly": {"boft_block_size": 0, "boft_block_num": 4, "boft_n_butterfly_factor": 2},
        "random": {"init_weights": False},
    },
    "C3A": {
        "pattern": {"block_size_pattern": {"v_proj": 4}, "init_weights": True},
        "gaussian": {"init_weights": "gaussian"},
    },
    "CARTRIDGE": {"frozen": {"num_frozen_tokens": 2}},
    "CPT": {
        "decay": {
            "opt_weighted_loss_type": "decay",
            "opt_loss_decay_factor": 0.9,
            "opt_projection_epsilon": 0.05,
            "opt_projection_format_epsilon": 0.2,
        },
    },
    "DEFT": {
        "qr": {"decomposition_method": "qr", "init_scale": 0.5, "alpha": 6},
        "para": {"para": True, "init_weights": False},
    },
    "DELORA": {
        "strong": {"delora_lambda": 5},
        "patterns": {"rank_pattern": {"v_proj": 2}, "lambda_pattern": {"q_proj": 7}, "init_weights": False},
    },
    "FOURIERFT": {"pattern": {"n_frequency_pattern": {"v_proj": 12}, "random_loc_seed": 3, "init_weights": True}},
    "FROD": {
        "random": {"init_weights": False},
        "regularised": {"regularization_alpha": 0.1, "projection_prng_key": 3, "save_projection": False},
    },
    "GLORA": {
        "random": {"init_weights": False},
        "vectors": {"config_A_B": "vector", "config_C": "vector", "config_D_E": "none"},
    },
    "GRALORA": {
        "blocks": {"gralora_k": 4},
        "hybrid": {"hybrid_r": 2, "gralora_k": 2, "r": 4},
        "random": {"init_weights": False},
    },
    "HIRA": {"pattern": {"rank_pattern": {"v_proj": 2}, "init_weights": False}},
    "HRA": {"schmidt": {"apply_GS": True, "init_weights": False}, "random": {"init_weights": False}},
    "IA3": {"random": {"init_ia3_weights": False, "feedforward_modules": ["down_proj", "v_proj"]}},
    "LILY": {"strides": {"stride_A": 2, "num_B": 3, "scaling": 2.0}, "random": {"init_weights": False}},
    "LOHA": {"patterns": {"rank_pattern": {"v_proj": 2}, "alpha_pattern": {"q_proj": 3}, "init_weights": False}},
    "LOKR": {
        "patterns": {"rank_pattern": {"v_proj": 2}, "alpha_pattern": {"q_proj": 3}, "init_weights": False},
        "both": {"decompose_both": True, "decompose_factor": 4, "r": 2},
        "lycoris": {"init_weights": "lycoris"},
        "dropout-scale": {"rank_dropout": 0.3, "rank_dropout_scale": True},
    },
    "LORA": {
        "rslora": {"use_rslora": True},
        "dora": {"use_dora": True},
        "dora-dropout": {"use_dora": True, "lora_dropout": 0.3},
        "dora-rslora": {"use_dora": True, "use_rslora": True},
        "patterns": {"rank_pattern": {"v_proj": 2}, "alpha_pattern": {"q_proj": 3}},
        "patterns-rslora": {"rank_pattern": {"v_proj": 2}, "alpha_pattern": {"q_proj": 3}, "use_rslora": True},
        "lora-bias": {"lora_bias": True},
        "random": {"init_lora_weights": False},
        "gaussian": {"init_lora_weights": "gaussian"},
        "pissa": {"init_lora_weights": "pissa"},
        "pissa-dropout": {"init_lora_weights": "pissa", "lora_dropout": 0.3},
        "olora": {"init_lora_weights": "olora"},
        "orthogonal": {"init_lora_weights": "orthogonal"},
        "mica": {"init_lora_weights": "mica"},
        "tokens": {"trainable_token_indices": [1, 3]},
        "replication": {"layer_replication": [[0, 2], [1, 2]]},
        "bdlora": {
            "use_bdlora": {
                "match_strict": False,
                "nblocks": 2,
                "target_modules_bd_a": ["v_proj"],
                "target_modules_bd_b": ["q_proj"],
            }
        },
        "velora": {"velora_config": {"init_type": "batch_average", "num_groups": 4, "scale": 1.0}},
        "kasa": {"kasa_config": {}},
        "monteclora": {"monteclora_config": {}},
        "tying": {"modules_to_save": ["lm_head"], "ensure_weight_tying": True},
        "alora": {"alora_invocation_tokens": [3]},
        "all-linear": {"target_modules": "all-linear"},
        "regex": {"target_modules": ".*layers.1.*(q|down)_proj"},
        "embeddings": {"target_modules": ["embed_tokens", "lm_head"]},
        "head": {"target_modules": ["lm_head"]},
    },
    "MISS": {"mini": {"init_weights": "mini", "mini_r": 4}, "bat": {"init_weights": "bat"}},
    "MULTITASK_PROMPT_TUNING": {"ranks": {"num_ranks": 2}},
    "OFT": {
        "rank": {"r": 4, "oft_block_size": 0},
        "constrained": {"coft": True, "eps": 1e-3},
        "shared": {"block_share": True},
        "exact": {"use_cayley_neumann": False},
        "terms": {"num_cayley_neumann_terms": 3, "init_weights": False},
    },
    "OSF": {"pattern": {"rank_pattern": {"v_proj": 2}}, "few": {"effective_rank": 2}},
    "PEANUT": {"deep": {"depth": 2, "act_fn": "tanh", "scaling": 2.0}, "random": {"init_weights": False}},
    "POLY": {
        "splits": {
            "n_splits": 2,
            "n_skills": 3,
            "poly_type": "poly",
            "init_weights": False,
            "target_modules": ["q_proj"],
        }
    },
    "PREFIX_TUNING": {
        "projected": {"prefix_projection": True, "encoder_hidden_size": 16},
        "zero": {"init_weights": "zero"},
    },
    "PROMPT_TUNING": {"sampled": {"prompt_tuning_init": "SAMPLE_VOCAB"}},
    "PSOFT": {
        "halves": {"psoft_orth": False, "psoft_mag_a": False},
        "exact": {"use_cayley_neumann": True, "num_cayley_neumann_terms": 4, "cayley_neumann_eps": 0.5},
        "started": {"ab_svd_init": "pissa_init", "random_seed": 3},
        "low-rank": {"psoft_svd": "lowrank", "psoft_svd_lowrank_niter": 4, "psoft_mag_b": False, "init_weights": False},
    },
    "PVERA": {
        "random": {"init_weights": False},
        "sampled": {"sample_at_inference": True, "generator_seed": 3},
        "unsaved": {"save_projection": False, "projection_prng_key": 3, "d_initial": 0.5},
    },
    "P_TUNING": {
        "lstm": {"encoder_reparameterization_type": "LSTM", "encoder_num_layers": 1},
        "layers": {"encoder_num_layers": 3, "encoder_dropout": 0.1},
    },
    "RANDLORA": {
        "sparse": {"sparse": True, "projection_prng_key": 3},
        "very-sparse": {"very_sparse": True},
        "unsaved": {"save_projection": False, "init_weights": False},
    },
    "ROAD": {"random": {"init_weights": False}, "road-2": {"variant": "road_2"}, "road-4": {"variant": "road_4"}},
    "SHADOW": {
        "small": {"r": 4, "shadow_num_hidden_layers": 1, "shadow_hidden_size": 16, "shadow_num_attention_heads": 2},
        "update": {"update_hidden_size": 16, "init_weights": False, "modules_to_save": ["lm_head"]},
        "strong": {"shadow_alpha": 0.5, "share_embeddings": False, "auxiliary_loss_weight": 0.2},
    },
    "SHIRA": {
        "random": {"init_weights": False},
        "seeded": {"random_seed": 7, "r": 4},
        "unseeded": {"random_seed": None},
    },
    "SUPERTUNING": {
        "lora": {"r": 4, "lora_alpha": 6},
        "lora-dropout": {"r": 4, "lora_alpha": 6, "lora_dropout": 0.3},
        "random": {"init_weights": False},
        "bottom": {"select_top": False, "save_precomputed_indices": False},
    },
    "TINYLORA": {
        "tied": {"weight_tying": 1.0},
        "rank": {"r": 4, "init_weights": "uniform"},
        "unsaved": {"save_projection": False, "projection_seed": 3, "init_v_bound": 0.1},
    },
    "TRAINABLE_TOKENS": {"random": {"init_weights": False}},
    "UNILORA": {
        "rank": {"r": 2},
        "indices": {"save_indices": True, "proj_seed": 3},
        "random": {"init_weights": False, "init_theta_d_bound": 0.1},
    },
    "VBLORA": {
        "rank": {"r": 2},
        "topk": {"topk": 3, "save_only_topk_weights": True},
        "bounds": {"init_vector_bank_bound": 0.1, "init_logits_std": 0.5},
    },
    "VERA": {
        "unsaved": {"save_projection": False, "projection_prng_key": 3, "d_initial": 0.5},
        "random": {"init_weights": False},
    },
    "WAVEFT": {
        "family": {"wavelet_family": "db2", "random_loc_seed": 3, "init_weights": False},
        "proportional": {"proportional_parameters": True, "scaling": 10.0},
        "pattern": {"n_frequency_pattern": {"v_proj": 12}, "use_idwt": False},
    },
}

# The same on a decoder that has biases, and whose embeddings are tied.
_ON_BIASES: dict[str, dict[str, Keys]] = {
    "LORA": {
        "lora-bias": {"lora_bias": True},
        "bias-only": {"bias": "lora_only"},
        "tied-saved": {"modules_to_save": ["embed_tokens"], "ensure_weight_tying": True},
        "tied-targets": {"target_modules": ["embed_tokens", "q_proj"], "ensure_weight_tying": True},
    },
}
# What LoRA has on many layers of one name: names that begin alike, and more of them than PEFT writes out.
_DEEP: dict[str, Keys] = {
    "listed": {"target_modules": [f"blocks.{number}.proj" for number in range(1, DEEP)]},
    "placed": {"layers_to_transform": [1, 12], "layers_pattern": "blocks"},
    "patterns": {
        "rank_pattern": {"blocks.1.proj": 2},
        "alpha_pattern": {"^blocks.2.proj": 3},
        "exclude_modules": ["blocks.3.proj"],
    },
}
# A head that has the embedding's weight: alone, and both as one.
_TIED: dict[str, Keys] = {
    "head": {"target_modules": ["lm_head"]},
    "tied-head": {"target_modules": ["embed_tokens", "lm_head"], "ensure_weight_tying": True},
}
_HEADS = ("LOHA", "LORA", "OFT", "VERA")
# Settings that tell layers apart, or name how many there are: these alone need a decoder of two.
_OF_LAYERS = frozenset("both-layers explicit placed regex replication spared strides tied".split())


def settings_of(method: str, structure: str) -> dict[str, Keys]:
    """The settings of a method on a structure by name, beside its defaults."""
    if structure in ("llama", "llama1"):
        settings = {**_shared(method), **_OWN.get(method, {})}
        return {name: keys for name, keys in settings.items() if (name in _OF_LAYERS) == (structure == "llama")}
    if structure == "opt":
        return {**_on_biases_and_a_tied_head(method), **_ON_BIASES.get(method, {})}
    if structure == "deep" and method == "LORA":
        return _DEEP
    if structure == "vit" and method == "LORA":
        return {"saved": {"modules_to_save": ["classifier"]}}
    if structure == "gpt2" and method in _FAN_IN:
        return {"fan-in": {"fan_in_fan_out": True}}
    if structure == "conv2d" and method in ("LOHA", "LOKR"):
        return {"effective": {"use_effective_conv2d": True}, "dropout": {"module_dropout": 0.3}}
    if structure == "gemma" and method == "LORA":
        return {"embeddings": {"target_modules": ["embed_tokens"]}, "tokens": {"trainable_token_indices": [1, 3]}}
    if structure == "linear" and method == "LORA":
        return {"lora-only": {"bias": "lora_only"}}
    if structure in ("conv2d", "embedding") and method == "LORA":
        return {"dora": {"use_dora": True}, "rslora": {"use_rslora": True}}
    return {}


def params_of(method: str, structure: str) -> dict[str, Keys]:
    """Other training parameters of a method on a structure by name: the type of the base weights, how it is run."""
    if structure != "llama1":
        return {}
    found: dict[str, Keys] = {"bfloat16": {"dtype": "bfloat16"}}
    if method == "LORA":
        found["float16"] = {"dtype": "float16"}
        found["bfloat16-adapter"] = {"dtype": "bfloat16", "autocast_adapter_dtype": False}
    if method in OF_LANGUAGE:  # a decoder takes seconds to be compiled: that is left to the even structure
        found["autocast"] = {"use_amp": True}
    return found


def _on_biases_and_a_tied_head(method: str) -> dict[str, Keys]:
    found = {"biased": {"bias": "all", **_dropout(method)}} if method in _BIASED else {}
    if method == "LORA":
        return {**found, **_TIED}
    return {**found, "head": _TIED["head"]} if method in _HEADS else found


def _shared(method: str) -> dict[str, Keys]:
    found: dict[str, Keys] = {}
    if method in _PLACED:
        found["placed"] = {"layers_to_transform": [1], "layers_pattern": "layers"}
    if method in _SPARED:
        found["spared"] = {"exclude_modules": [_SPARE], "modules_to_save": [_SAVE]}
    if method in _SAVED:
        found["saved"] = {"modules_to_save": [_SAVE]}
    if method in _PROMPTS:
        found["explicit"] = {
            "token_dim": 32,
            "num_layers": 2,
            "num_attention_heads": 4,
            "num_transformer_submodules": 1,
        }
        found["saved"] = {"modules_to_save": [_SAVE]}
    if method in _DROPOUT:
        found["dropout"] = _dropout(method)
    return found


def _dropout(method: str) -> Keys:
    return {_DROPOUT[method]: 0.3} if method in _DROPOUT else {}
