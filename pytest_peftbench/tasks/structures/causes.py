"""Why laws are broken: what PEFT means to be so, with what it says of it, and what many methods share. No torch.

A law that PEFT breaks by design keeps its word, which is compared as any other; only the list of broken laws shows it
apart. What stands in no row here is a cause of its own: of one method, one law and one error.
"""

from __future__ import annotations

from dataclasses import dataclass

from pytest_peftbench.results.laws import size_of
from pytest_peftbench.results.result import CaseId
from pytest_peftbench.tasks.structures.laws import LAWS


@dataclass(frozen=True)
class Cause:
    """One cause, and the words that it explains: each of the fields that is not empty names what they are of.

    why: what happens, in words. by_design: whether PEFT means it. error: the class of the error; `size` for a law that
    is off by a number; empty for both. unless: methods that break the law for another reason.
    """

    why: str
    laws: tuple[str, ...]
    by_design: bool = False
    methods: tuple[str, ...] = ()
    settings: tuple[str, ...] = ()
    structures: tuple[str, ...] = ()
    error: str = ""
    unless: tuple[str, ...] = ()

    def explains(self, method: str, setting: str, structure: str, law: str, error: str) -> bool:
        """Whether it is why a law is broken; `error` is `size` where it is off by a number."""
        asked = (
            (self.laws, law),
            (self.methods, method),
            (self.settings, setting),
            (self.structures, structure),
            ((self.error,) if self.error else (), error),
        )
        return method not in self.unless and all(not names or name in names for names, name in asked)


# What asks for the base model as it was.
_BASE = ("disable", "disable.nested", "generate.disable", "merge.disable", "unload", "base.state")
_MERGED = (
    "merge",
    "merge.again",
    "merge.safe",
    "merge.train",
    "merge.unload",
    "both.merge",
    "both.merge.apart",
    "both.unload",
)
_MIXED = ("mixed", "generate.mixed")
_SECOND = ("add", "set", "set.back", "delete", "delete.active", "delete.merged", "save.two", "load.onto", *_MIXED)
_WEIGHTED = tuple(name for name in LAWS if name.partition(".")[0] == "weighted")
_GRADIENTS = ("add.requires_grad", "add.frozen", "set.requires_grad", "set.inference", "load.inference", "freeze")
_PROMPTS = ("cartridge", "cpt", "multitaskprompttuning", "prefixtuning", "prompttuning", "ptuning")
_HEADS = ("bert", "bert-tokens", "bert-answers", "bert-features")
_SAVED = ("saved", "spared", "tying", "update")

# The first that explains a word is its cause.
CAUSES: tuple[Cause, ...] = (
    # By design ------------------------------------------------------------------------------------------------------
    Cause(
        "bias trains the base model's own biases: the config says that disabling does not undo it",
        _BASE,
        by_design=True,
        settings=("biased",),
    ),
    Cause(
        "PiSSA and OLoRA take their start out of the base weights, which a second adapter does again",
        (*_BASE, *_SECOND, *_WEIGHTED, "convert"),
        by_design=True,
        methods=("lora",),
        settings=("pissa", "pissa-dropout", "olora"),
        error="size",
    ),
    Cause(
        "KaSA cuts the base weights for good: KasaConfig says so",
        (*_BASE, *_MIXED),
        by_design=True,
        methods=("lora",),
        settings=("kasa",),
        error="size",
    ),
    Cause(
        "layer_replication stacks the base model's layers anew: it is another base model",
        (*_BASE, *_MIXED, "convert"),
        by_design=True,
        methods=("lora",),
        settings=("replication",),
        error="size",
    ),
    Cause(
        "unload keeps a trained module of modules_to_save: ModulesToSaveWrapper says so",
        ("unload",),
        by_design=True,
        structures=_HEADS,
        error="size",
    ),
    Cause(
        "unload keeps a trained module of modules_to_save: ModulesToSaveWrapper says so",
        ("unload",),
        by_design=True,
        settings=_SAVED,
        error="size",
    ),
    Cause(
        "merged into tied embeddings, both ends change: PEFT warns that they are tied",
        (*_MERGED, "delete.merged"),
        by_design=True,
        methods=("lora",),
        structures=("gemma",),
        settings=("embeddings",),
    ),
    Cause(
        "sample_at_inference draws numbers in evaluation mode, too",
        (
            *_MERGED,
            *_SECOND,
            "save.load",
            "load.name",
            "load.low_memory",
            "load.state",
            "generate",
            "generate.beams",
            "generate.sample",
        ),
        by_design=True,
        methods=("pvera",),
        settings=("sampled",),
        error="size",
    ),
    Cause(
        "unmerging divides by the vector and 1e-8 more, never by zero: a comment says so",
        ("unmerge", "unmerge.weights", "merge.disable", "both.unmerge", "both.merge.apart"),
        by_design=True,
        methods=("ia3",),
    ),
    Cause(
        "Lily's router takes the mean over all tokens of a batch",
        ("batch", "generate", "generate.beams", "generate.sample"),
        by_design=True,
        methods=("lily",),
    ),
    Cause(
        "its prefix lives in the cache: PEFT says that it does not work with checkpointing",
        ("checkpointing",),
        by_design=True,
        methods=("cartridge", "prefixtuning"),
    ),
    Cause(
        "COFT projects its parameters in each forward pass, in evaluation mode, too",
        ("save.again",),
        by_design=True,
        methods=("oft",),
        settings=("constrained",),
    ),
    Cause(
        "module_dropout drops every layer of so small a model in some step",
        ("train",),
        by_design=True,
        methods=("loha", "lokr"),
        settings=("dropout",),
        structures=("conv2d",),
    ),
    Cause(
        "scale_layer warns that the method knows no scaling, and leaves it at one",
        ("scale",),
        by_design=True,
        methods=("boft", "deft", "hra", "miss", "oft"),
        error="size",
    ),
    # Shared by methods ----------------------------------------------------------------------------------------------
    Cause(
        "requires_grad of a prompt follows neither set_adapter nor loading for inference",
        _GRADIENTS,
        methods=_PROMPTS,
    ),
    Cause(
        "cast to float32 (autocast_adapter_dtype), what was frozen becomes trainable",
        _GRADIENTS,
        settings=("bfloat16",),
        error="size",
        unless=("adaptionprompt", "lily", "shadow"),
    ),
    Cause("bias: the base model's biases stay trainable for inference", _GRADIENTS, settings=("biased",)),
    Cause(
        "low_cpu_mem_usage: an adapter of single precision is rounded to the type of the base weights",
        ("load.low_memory",),
        settings=("bfloat16", "float16"),
        error="size",
    ),
    Cause(
        "disable_adapter looks for prepare_inputs_for_generation, which no encoder has",
        ("disable", "disable.nested"),
        methods=_PROMPTS,
        error="UnboundLocalError",
    ),
    Cause(
        "get_base_model_state_dict of a prompt knows no modules_to_save",
        ("base.state",),
        methods=_PROMPTS,
    ),
    Cause(
        "disabled, a prompt leaves modules_to_save on",
        ("disable", "disable.nested", "generate.disable"),
        methods=_PROMPTS,
        error="size",
    ),
    Cause(
        "X-LoRA: a second adapter, or a combination, ends in an AttributeError",
        ("both", *_SECOND, *_WEIGHTED),
        methods=("xlora",),
        error="AttributeError",
    ),
    Cause("X-LoRA: merging, which cannot know the input, is not refused", _MERGED, methods=("xlora",)),
    Cause(
        "add_weighted_adapter: with use_rslora the combination's own scaling is no 1",
        _WEIGHTED,
        methods=("lora",),
        settings=("rslora", "patterns-rslora"),
    ),
    Cause(
        "add_weighted_adapter leaves DoRA's magnitudes behind",
        _WEIGHTED,
        methods=("lora",),
        settings=("dora", "dora-dropout", "dora-rslora"),
    ),
    Cause(
        "add_weighted_adapter leaves trained tokens behind",
        _WEIGHTED,
        methods=("lora",),
        settings=("tokens",),
    ),
    Cause("add_weighted_adapter leaves modules_to_save behind", _WEIGHTED, structures=_HEADS),
    Cause("add_weighted_adapter leaves modules_to_save behind", _WEIGHTED, settings=_SAVED),
    Cause(
        "add_weighted_adapter leaves lora_bias behind",
        _WEIGHTED,
        methods=("lora",),
        settings=("lora-bias",),
    ),
    Cause(
        "add_weighted_adapter leaves KaSA's singular values behind",
        _WEIGHTED,
        methods=("lora",),
        settings=("kasa",),
        error="size",
    ),
    Cause(
        "layer_replication: merging is not refused, as its check reads the wrong dict",
        (*_MERGED, "delete.merged"),
        methods=("lora",),
        settings=("replication",),
    ),
    Cause(
        "layer_replication: each added adapter replicates the layers again",
        (*_SECOND, *_WEIGHTED, "add.requires_grad", "delete.bytes"),
        methods=("lora",),
        settings=("replication",),
    ),
    Cause(
        "adapter_names is passed over without a word: each row has the active adapter",
        _MIXED,
        error="size",
        unless=("lora", "road"),
    ),
)


def cause_of(method: str, setting: str, structure: str, law: str, error: str) -> Cause | None:
    """Why a law is broken; None for what no other shares. error: its class, or `size`."""
    return next((cause for cause in CAUSES if cause.explains(method, setting, structure, law, error)), None)


def explained(case: CaseId, law: str, word: str) -> tuple[str, bool] | None:
    """Why a law of a case is broken, and whether PEFT means it; None for what no other case shares."""
    error = "size" if size_of(word) is not None else word.partition(": ")[2]
    found = cause_of(case.method, case.name, case.base_model, law, error)
    return (found.why, found.by_design) if found else None
