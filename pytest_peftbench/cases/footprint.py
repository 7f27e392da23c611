"""What one experiment costs on its base model's true shapes: counted on the meta device, without weights or a GPU.

The model is the one that training would make, its loss and training step are those of the task and of `training`; only
the numbers do not exist. So parameters, checkpoint bytes and counters are exact, for the lengths below.
"""

from __future__ import annotations

import copy
import hashlib
import json
import re
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol
from unittest import mock
from unittest.mock import Mock

import torch
from torch import Tensor, nn

from pytest_peftbench.cases.methods import Hooks, hooks_of, make_config
from pytest_peftbench.cases.training import Trainer
from pytest_peftbench.measure import counters as footprint
from pytest_peftbench.measure import environment
from pytest_peftbench.measure.counters import Footprint
from pytest_peftbench.measure.environment import seed_everything
from pytest_peftbench.meta.architectures import read_architecture
from pytest_peftbench.meta.device import META, Shapes, accelerator
from pytest_peftbench.meta.safetensors_size import file_bytes
from pytest_peftbench.results.files import InputError, read_json, write_json
from pytest_peftbench.results.metrics import METRICS, Value
from pytest_peftbench.results.result import Operators, Result
from pytest_peftbench.results.words import first_line
from pytest_peftbench.suites import ADAPTER_FILE, Experiment
from pytest_peftbench.tasks.config import ImageTrainConfig, MathTrainConfig
from pytest_peftbench.tasks.protocol import Batch, task_of

# Counts up when what is counted changes so that its figures are no longer comparable with earlier ones.
RECIPE_VERSION = 1
# Tokens of a text of MetaMathQA, prompt and response: the mean that PEFT's published results give for Llama-3.2
# (4,198,051 tokens in 20,000 texts).
TOKENS = 210
# Pixels of a side that become one position of a FLUX.2 transformer: 8 by the autoencoder, 2 by packing.
PIXELS_PER_POSITION = 16
# The optimizer's state comes with the first step.
WARM_UP_STEPS = 1


@dataclass(frozen=True)
class Lengths:
    """Sizes of a batch. batch: texts or pictures. tokens: of each text, or of each picture's prompt."""

    batch: int
    tokens: int


class _Shapes(Protocol):
    """A task's base model and batches without numbers.

    decoded_steps: numbers of steps, one apart, of two generations whose difference is one step.
    """

    decoded_steps: tuple[int, int]

    def base_model(self, experiment: Experiment, architecture: dict[str, Any]) -> nn.Module:
        """The base model on the meta device, as the task loads it."""

    def lengths(self, experiment: Experiment) -> Lengths:
        """The sizes that an experiment is counted with unless others are given."""

    def trained_tokens(self, experiment: Experiment, lengths: Lengths) -> int:
        """Tokens of one text, positions of one picture."""

    def batch(self, experiment: Experiment, lengths: Lengths, architecture: dict[str, Any]) -> Batch:
        """A training batch."""

    def decoding(
        self, model: nn.Module, experiment: Experiment, lengths: Lengths, inputs: Any, architecture: dict[str, Any]
    ) -> Callable[[int], None]:
        """A function that generates with a number of steps."""


def count(experiment: Experiment, lengths: Lengths | None = None, *, decode: bool = True) -> Result:
    """Parameters, checkpoint bytes and the cost of a training and of a decoding step of one experiment.

    lengths: of the batch; PEFT's batch size and the task's usual length unless given. decode: whether to count a
    decoding step as well.
    Raises InputError, with the reason, for an experiment that cannot be counted. What PEFT or torch raise passes
    through.
    """
    with tempfile.TemporaryDirectory() as folder, _quiet():
        return _Case(experiment, lengths, Path(folder)).run(decode)


def base_model(experiment: Experiment) -> nn.Module:
    """The experiment's base model on the meta device."""
    return _SHAPES[experiment.case.task].base_model(experiment, read_architecture(experiment))


def tokens(experiment: Experiment, lengths: Lengths) -> int:
    """Tokens of a batch that are trained on; for pictures their positions, the prompts' not counted."""
    return lengths.batch * _SHAPES[experiment.case.task].trained_tokens(experiment, lengths)


class _Case:
    def __init__(self, experiment: Experiment, lengths: Lengths | None, folder: Path) -> None:
        _check(experiment)
        self.experiment = replace(experiment, device="meta")
        self.architecture = read_architecture(experiment)
        self.folder = folder
        self.shapes = _SHAPES[experiment.case.task]
        self.lengths = lengths or self.shapes.lengths(experiment)
        self.batch = self.shapes.batch(self.experiment, self.lengths, self.architecture)
        hooks = hooks_of(experiment.adapter)
        self.inputs = _on_meta(hooks)
        self.hooks = replace(hooks, inputs=self.inputs)
        self.stand_in = _stand_in(experiment.adapter or {})
        self.notes = [self.stand_in.note] if self.stand_in.note else []

    def run(self, decode: bool) -> Result:
        footprint.set_apart()
        with accelerator():
            model = self.model()
            metrics: dict[str, Value] = {"checkpoint.bytes": self.checkpoint_bytes(model)}
            phases: dict[str, Footprint] = {}
            try:
                phases["train_step"] = self.train_step(model)
                if decode:
                    phases["decode_step"] = self.decode_step(model)
                metrics["footprint.counted"] = "ok"
            except NotImplementedError as error:  # an operator that has no meta kernel
                metrics["footprint.counted"] = _missing_kernel(error)
            # an optimizer may freeze some
            metrics["params.trainable"] = sum(p.numel() for p in model.parameters() if p.requires_grad)
            metrics["params.total"] = sum(p.numel() for p in model.parameters())
        for phase, counted in phases.items():
            for name, value in counted.figures().items():
                if f"{phase}.{name}" in METRICS:
                    metrics[f"{phase}.{name}"] = value
        operators: Operators = {phase: counted.operators for phase, counted in phases.items()}
        return Result(
            case=self.experiment.case,
            case_version=self.version(),
            environment=_environment(),
            metrics={name: metrics[name] for name in METRICS if name in metrics},
            seeds=[],
            operators=operators,
            notes=self.notes,
        )

    def version(self) -> str:
        """Hash of all that defines what is counted."""
        definition = [
            RECIPE_VERSION,
            self.experiment.definition(),
            self.architecture,
            [self.lengths.batch, self.lengths.tokens],
        ]
        return hashlib.sha256(json.dumps(definition, sort_keys=True).encode()).hexdigest()[:16]

    def model(self) -> nn.Module:
        """The base model with a fresh adapter, on the meta device."""
        experiment = self.experiment
        seed_everything(experiment.seeds[0])
        base = self.shapes.base_model(experiment, self.architecture)
        self.hooks.base(base)
        if experiment.adapter is None:
            return base
        from peft import get_peft_model

        adapter = self.stand_in.prepare(dict(experiment.adapter), experiment.path, base, self.folder)
        config = make_config(adapter, experiment.path / ADAPTER_FILE)
        if getattr(experiment.train, "init_kv_cache_prefix", None) is not None:
            self.notes.append("the prefix does not start from a text: its shapes are the same")
        with self.stand_in.patches(), Shapes(partial(self.stand_in.matches, adapter)):
            model: nn.Module = get_peft_model(
                base, config, autocast_adapter_dtype=experiment.train.autocast_adapter_dtype
            )
            self.stand_in.complete(model)
        return model.to(META)

    def checkpoint_bytes(self, model: nn.Module) -> int:
        """Size of the file that `save_pretrained` would write; for full fine-tuning of the weights, as in PEFT."""
        if self.experiment.adapter is None:
            return sum(p.numel() * p.element_size() for p in model.parameters())
        from peft import get_peft_model_state_dict

        with Shapes():  # some methods bring their weights to the CPU first
            return file_bytes(get_peft_model_state_dict(model))

    def train_step(self, model: nn.Module) -> Footprint:
        model.train()
        trainer = Trainer(model, self.experiment.train, self.hooks, task_of(self.experiment).loss)
        # autocast and loss scaling know no meta device, and are off
        trainer.device_type = "cpu"
        for _ in range(WARM_UP_STEPS):
            trainer.step(self.batch)
        trainer.optimizer.zero_grad()
        return footprint.measure(lambda: trainer.step(self.batch), model, trainer.optimizer)

    def decode_step(self, model: nn.Module) -> Footprint:
        """The difference of two generations is one step, whatever comes before the first."""
        for parameter in model.parameters():
            parameter.grad = None
        model.eval()
        decode = self.shapes.decoding(model, self.experiment, self.lengths, self.inputs, self.architecture)
        shorter, longer = (footprint.measure(partial(decode, steps), model) for steps in self.shapes.decoded_steps)
        return footprint.difference(longer, shorter)


def _missing_kernel(error: NotImplementedError) -> str:
    """`no meta kernel for aten::_coalesce`."""
    found = re.search(r"(aten::\w+|torch\.\w+\(\))", str(error))
    return f"no meta kernel for {found[0]}" if found else f"no meta kernel: {first_line(error)}"


def _check(experiment: Experiment) -> None:
    train = experiment.train
    if train.dtype in ("int8", "int4"):
        raise InputError(
            f"{experiment.path}: dtype {train.dtype!r} has no operators on the meta device; choose a float type, or "
            f"`peftbench fit --dtype {train.dtype}`, which estimates"
        )
    for key in ("compile", "use_amp"):
        if getattr(train, key):
            raise InputError(f"{experiment.path}: {key}: cannot be counted on the meta device; set it to false")


def _environment() -> dict[str, str]:
    names = ("torch", "transformers", "diffusers", "peft")
    return {**{name: environment.installed(name) for name in names}, "device": "meta"}


def _on_meta(hooks: Hooks) -> Callable[[int], dict[str, Tensor]]:
    return lambda size: {key: value.to(META) for key, value in hooks.inputs(size).items()}


@contextmanager
def _quiet() -> Iterator[None]:
    """Nothing that libraries warn of on the meta device means anything."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


# Tasks


@contextmanager
def _building(dtype: str) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(getattr(torch, dtype))
    try:
        with META:
            yield
    finally:
        torch.set_default_dtype(before)


class _Math:
    decoded_steps = (1, 2)  # the first reads the prompt

    def base_model(self, experiment: Experiment, architecture: dict[str, Any]) -> nn.Module:
        from transformers import AutoConfig, AutoModelForCausalLM

        train = experiment.train
        assert isinstance(train, MathTrainConfig)
        with _building(train.dtype):
            model: nn.Module = AutoModelForCausalLM.from_config(
                AutoConfig.for_model(**architecture),
                dtype=getattr(torch, train.dtype),
                attn_implementation=train.attn_implementation or "sdpa",
            )
        if train.use_gc:
            model.enable_input_require_grads()  # type: ignore[operator]
            model.gradient_checkpointing_enable()  # type: ignore[operator]
        return model

    def lengths(self, experiment: Experiment) -> Lengths:
        assert isinstance(experiment.train, MathTrainConfig)
        return Lengths(experiment.train.batch_size, min(TOKENS, experiment.train.max_seq_length))

    def trained_tokens(self, experiment: Experiment, lengths: Lengths) -> int:
        return lengths.tokens

    def batch(self, experiment: Experiment, lengths: Lengths, architecture: dict[str, Any]) -> Batch:
        """Tokens with a mask, as the texts of a batch differ in length."""
        names = ("input_ids", "attention_mask", "labels")
        return {name: torch.zeros(lengths.batch, lengths.tokens, dtype=torch.long, device=META) for name in names}

    def decoding(
        self, model: nn.Module, experiment: Experiment, lengths: Lengths, inputs: Any, architecture: dict[str, Any]
    ) -> Callable[[int], None]:
        from transformers import GenerationMixin

        from pytest_peftbench.tasks.math_reasoning.task import MathData, Problem

        prompts = [Problem([0] * lengths.tokens, "")] * lengths.batch
        data = MathData(_Tokenizer(), [], [], prompts, [])
        task = task_of(experiment)
        sized = replace(experiment, train=replace(experiment.train, batch_size=lengths.batch))
        generating = next(module for module in model.modules() if isinstance(module, GenerationMixin))

        def decode(steps: int) -> None:
            # whether a text has ended stands in a tensor, which has no value
            unfinished = Mock(side_effect=[True] * steps + [False])
            # in inference mode the same operators arrive in larger ones, which Python takes apart one by one
            with (
                mock.patch.object(generating, "_has_unfinished_sequences", unfinished),
                mock.patch.object(torch, "inference_mode", torch.no_grad),
            ):
                task.decode(model, data, sized, steps, inputs)

        return decode


class _Tokenizer:
    """Pads prompts of one length."""

    eos_token_id = 1
    pad_token_id = 0

    def pad(self, encoded: dict[str, list[list[int]]], **kwargs: object) -> dict[str, Tensor]:
        ids = torch.tensor(encoded["input_ids"])
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


class _Image:
    decoded_steps = (0, 1)

    def base_model(self, experiment: Experiment, architecture: dict[str, Any]) -> nn.Module:
        from diffusers import Flux2Transformer2DModel

        with _building(experiment.train.dtype):
            model: nn.Module = Flux2Transformer2DModel.from_config(architecture)
        if experiment.train.use_gc:
            model.enable_gradient_checkpointing()  # type: ignore[operator]
        return model

    def lengths(self, experiment: Experiment) -> Lengths:
        assert isinstance(experiment.train, ImageTrainConfig)
        return Lengths(experiment.train.batch_size, experiment.train.max_sequence_length)

    def trained_tokens(self, experiment: Experiment, lengths: Lengths) -> int:
        assert isinstance(experiment.train, ImageTrainConfig)
        return (experiment.train.resolution // PIXELS_PER_POSITION) ** 2

    def batch(self, experiment: Experiment, lengths: Lengths, architecture: dict[str, Any]) -> Batch:
        positions = self.trained_tokens(experiment, lengths)
        dtype = getattr(torch, experiment.train.dtype)
        size, channels = lengths.batch, architecture["in_channels"]

        def empty(*shape: int, dtype: torch.dtype = dtype) -> Tensor:
            return torch.empty(size, *shape, dtype=dtype, device=META)

        return {
            "latents": empty(positions, channels),
            "noise": empty(positions, channels),
            "sigmas": empty(1, 1),
            "weights": empty(1, 1, dtype=torch.float32),
            "timesteps": empty(),
            "prompt_embeds": empty(lengths.tokens, architecture["joint_attention_dim"]),
            "text_ids": empty(lengths.tokens, 4, dtype=torch.long),
            "image_ids": empty(positions, 4, dtype=torch.long),
        }

    def decoding(
        self, model: nn.Module, experiment: Experiment, lengths: Lengths, inputs: Any, architecture: dict[str, Any]
    ) -> Callable[[int], None]:
        """Each step reads the noisy picture with its prompt and with the empty one, as guidance does."""
        batch = self.batch(experiment, lengths, architecture)
        task = task_of(experiment)

        @torch.no_grad()
        def decode(steps: int) -> None:
            for _ in range(2 * steps):
                task.output(model, batch)

        return decode


_SHAPES: dict[str, _Shapes] = {"MetaMathQA": _Math(), "image-gen": _Image()}


# Methods whose initialisation reads numbers


def _as_given(adapter: dict[str, Any], source: Path, base: nn.Module, workdir: Path) -> dict[str, Any]:
    return adapter


def _complete(model: nn.Module) -> None:
    return None


def _all(adapter: dict[str, Any], shape: torch.Size) -> int:
    return shape.numel()


@dataclass(frozen=True)
class _StandIn:
    """What takes the place of an initialisation that depends on numbers; shapes stay those of the method.

    note: what it is, for the result. prepare: as in `methods.Hooks`. patches: context in which the adapter is made.
    matches: how many elements of a tensor of a shape meet a condition. complete: does what PEFT puts off where an
    adapter has no weights yet.
    """

    note: str = ""
    prepare: Callable[[dict[str, Any], Path, nn.Module, Path], dict[str, Any]] = _as_given
    patches: Callable[[], Any] = nullcontext
    matches: Callable[[dict[str, Any], torch.Size], int] = _all
    complete: Callable[[nn.Module], None] = _complete


@contextmanager
def _empty_permutations() -> Iterator[None]:
    from peft.tuners.boft.layer import BOFTLayer

    def perm2mat(self: Any, indices: Tensor) -> Tensor:
        return torch.empty(len(indices), len(indices), device=META)

    with mock.patch.object(BOFTLayer, "perm2mat", perm2mat):
        yield


@contextmanager
def _equal_clusters() -> Iterator[None]:
    from peft.tuners.adamss import layer

    def clustering(rows: Tensor, num_subspaces: int, iternum: int) -> tuple[Tensor, int]:
        clusters = min(num_subspaces, len(rows))
        return torch.tensor([row * clusters // len(rows) for row in range(len(rows))]), clusters

    with mock.patch.object(layer, "clustering_Z", clustering):
        yield


def _rank_of_both_sides(adapter: dict[str, Any], shape: torch.Size) -> int:
    """SHiRA trains as many entries of a weight as LoRA of that rank has parameters."""
    return int(adapter.get("r", 32)) * sum(shape)


def _empty_experts(adapter: dict[str, Any], source: Path, base: nn.Module, workdir: Path) -> dict[str, Any]:
    """Experts of X-LoRA whose weights are zeros, in files."""
    from peft import get_peft_model
    from safetensors.torch import save_file

    experts: dict[str, str] = {}
    for name, folder in (adapter.get("adapters") or {}).items():
        config_file = source / folder / ADAPTER_FILE
        raw = read_json(config_file)
        with Shapes():
            expert = get_peft_model(copy.deepcopy(base), make_config(raw, config_file))
        weights = {key: torch.zeros(value.shape, dtype=value.dtype) for key, value in _state(expert).items()}
        target = workdir / "experts" / name
        write_json(target / ADAPTER_FILE, raw)
        save_file(weights, target / "adapter_model.safetensors", metadata={"format": "pt"})
        experts[name] = str(target)
    return {**adapter, "adapters": experts}


def _state(model: nn.Module) -> dict[str, Tensor]:
    from peft import get_peft_model_state_dict

    state: dict[str, Tensor] = get_peft_model_state_dict(model)
    return state


def _truncated(model: nn.Module) -> None:
    """KaSA cuts the base weights before the first step; cut ones have the same shapes."""
    modules: list[Any] = list(model.modules())
    for module in modules:
        if hasattr(module, "_lora_kasa_truncation_deferred"):
            module._lora_kasa_truncation_deferred.clear()


def _make_samplers(model: nn.Module) -> None:
    from peft.tuners.lora.variants import MontecloraLinearVariant

    modules: list[Any] = [module for module in model.modules() if hasattr(module, "_lora_monteclora_config")]
    for module in modules:
        for name, config in module._lora_monteclora_config.items():
            if name not in module.lora_monteclora_sampler:
                sampler = MontecloraLinearVariant._create_sampler(module, name, config)
                module.lora_monteclora_sampler[name] = sampler


# Values of `init_lora_weights`.
_DECOMPOSING = ("pissa", "olora", "mica", "corda", "loftq")


def _stand_in(adapter: dict[str, Any]) -> _StandIn:
    """The stand-in of a config: by the PEFT type, or by the key that makes it a variant of LoRA."""
    for key in ("kasa_config", "monteclora_config"):
        if adapter.get(key) is not None:
            return _STAND_INS[key]
    init = str(adapter.get("init_lora_weights", True))
    if init.startswith(_DECOMPOSING):
        return _StandIn(f"{init}: the decomposition of the weights has shapes alone")
    return _STAND_INS.get(adapter.get("peft_type", ""), _StandIn())


_STAND_INS: dict[str, _StandIn] = {
    "kasa_config": _StandIn(
        "the base weights are not cut to the rank: the cut ones have the same shapes", complete=_truncated
    ),
    "monteclora_config": _StandIn(complete=_make_samplers),
    **dict.fromkeys(
        ("FROD", "OSF", "PSOFT", "WAVEFT", "DEFT", "DELORA", "SUPERTUNING", "TINYLORA"),
        _StandIn("the initialisation has shapes alone, no numbers"),
    ),
    "BOFT": _StandIn("permutations are left empty", patches=_empty_permutations),
    "ADAMSS": _StandIn("clusters of the weights' rows have equal sizes", patches=_equal_clusters),
    "SHIRA": _StandIn("the mask has no positions, only their count", matches=_rank_of_both_sides),
    "XLORA": _StandIn("the experts' weights are zeros", prepare=_empty_experts),
}
