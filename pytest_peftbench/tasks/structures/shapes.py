"""The structures by name, and what an adapter targets in each. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Shape:
    """One structure, as far as an adapter's config names its parts.

    task_type: PEFT's; empty for a plain module. targets: of any adapter; empty where PEFT knows what it targets by
    the model's type. parameters: the same, of parameters that are no module's weight. norms, values, feedforward,
    embeddings: targets of the methods that want no others; empty where there are none. save: modules that are trained
    beside the adapter. only: the methods that are put on it; empty: all that have a place there. package: that it needs
    beside those that are always installed, one of the extra `quantised`; dtype: that its weights are quantised to; both
    empty for none.
    """

    task_type: str = ""
    targets: tuple[str, ...] = ()
    parameters: tuple[str, ...] = ()
    norms: tuple[str, ...] = ()
    values: tuple[str, ...] = ()
    feedforward: tuple[str, ...] = ()
    embeddings: tuple[str, ...] = ()
    save: tuple[str, ...] = ()
    only: tuple[str, ...] = ()
    package: str = ""
    dtype: str = ""


# Methods whose code asks what a model is for.
_BY_TASK = tuple(
    """CARTRIDGE CPT IA3 LORA MULTITASK_PROMPT_TUNING POLY PREFIX_TUNING PROMPT_TUNING P_TUNING SHADOW
    TRAINABLE_TOKENS""".split()
)
# How many layers the deep structure has: PEFT writes more than 20 names of targets shorter.
DEEP = 22
# Methods that share something between all layers, and one that names layers in patterns; each takes its time there.
_OF_MANY_LAYERS = ("LORA", "VBLORA", "VERA")
# Methods that can be mixed with others, whose graphs break or are of another number, whose rows see each other, or that
# are beside no Linear layer. All others were tried: four graphs and no break, as LoRA; a second each.
_RUN_OTHERWISE = tuple(
    """ADALORA FROD IA3 LILY LN_TUNING LOHA LOKR LORA OFT ROAD SHIRA TRAINABLE_TOKENS VERA WAVEFT""".split()
)
# Methods that run, learn and merge on weights of each of the types.
_ON_QUANTISED = ("LORA", "OFT", "VERA")
_CONVOLUTION = Shape(targets=("first", "strided", "point"), norms=("norm",), values=("first",), feedforward=("point",))
STRUCTURES: dict[str, Shape] = {
    # without biases, heads that share keys, embeddings that are not tied
    "llama": Shape("CAUSAL_LM", embeddings=("embed_tokens",)),
    # the same with one layer, for settings that ask nothing of a second one: they take half the time
    "llama1": Shape("CAUSAL_LM", embeddings=("embed_tokens",)),
    # the same, its weights quantised
    "llama-bnb8": Shape("CAUSAL_LM", only=_ON_QUANTISED, package="bitsandbytes", dtype="int8"),
    "llama-bnb4": Shape("CAUSAL_LM", only=_ON_QUANTISED, package="bitsandbytes", dtype="int4"),
    "llama-torchao": Shape("CAUSAL_LM", only=_ON_QUANTISED, package="torchao", dtype="int8"),
    # biases everywhere, tied embeddings
    "opt": Shape("CAUSAL_LM", norms=("self_attn_layer_norm", "final_layer_norm"), embeddings=("embed_tokens",)),
    # Conv1D, whose weight is the transpose of Linear's
    "gpt2": Shape("CAUSAL_LM", values=("c_attn",), embeddings=("wte",)),
    # rectangular Linear layers of odd sizes, with and without bias
    "linear": Shape(
        targets=("wide", "narrow", "plain"),
        norms=("norm",),
        values=("narrow",),
        feedforward=("narrow",),
    ),
    # one Linear layer that every method takes: what is compiled is compiled fast
    "even": Shape(
        targets=("square",),
        norms=("norm",),
        feedforward=("square",),
        embeddings=("tokens",),
        only=_RUN_OTHERWISE,
    ),
    # many layers of one name
    "deep": Shape(targets=("proj",), only=_OF_MANY_LAYERS),
    "conv1d": _CONVOLUTION,
    "conv2d": _CONVOLUTION,
    "conv3d": _CONVOLUTION,
    # a convolution in groups, with a stride
    "conv2d-groups": Shape(targets=("grouped",), norms=("norm",), values=("grouped",), feedforward=("grouped",)),
    "embedding": Shape(targets=("tokens",), norms=("norm",), feedforward=("tokens",), embeddings=("tokens",)),
    "attention": Shape(targets=("mha",), norms=("norm",), feedforward=("mha",)),
    # experts are slices of one parameter, which is no module's weight
    "experts": Shape(targets=("none",), parameters=("experts.up", "experts.down")),
    "t5": Shape("SEQ_2_SEQ_LM", embeddings=("shared",)),
    # sequence classification: the head is trained beside the adapter
    "bert": Shape("SEQ_CLS", norms=("LayerNorm",), values=("value",), embeddings=("word_embeddings",)),
    "bert-tokens": Shape("TOKEN_CLS", embeddings=("word_embeddings",), only=_BY_TASK),
    "bert-answers": Shape("QUESTION_ANS", embeddings=("word_embeddings",), only=_BY_TASK),
    "bert-features": Shape("FEATURE_EXTRACTION", embeddings=("word_embeddings",), only=_BY_TASK),
    # embeddings that are scaled
    "gemma": Shape("CAUSAL_LM", embeddings=("embed_tokens",), only=_BY_TASK),
    # a vision transformer
    "vit": Shape(
        targets=("q_proj", "v_proj"),
        norms=("layernorm_before",),
        values=("v_proj",),
        feedforward=("v_proj",),
    ),
    # a diffusion transformer, text and picture beside each other
    "sd3": Shape(
        targets=("to_q", "to_v", "add_k_proj", "to_out.0"),
        norms=("norm_out",),
        values=("to_v",),
        feedforward=("to_out.0",),
    ),
}
