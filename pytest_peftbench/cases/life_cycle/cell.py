"""A cell: one adapter config on one structure, made anew for each story, in double precision."""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pytest_peftbench.cases.life_cycle.mould import UNPICKLABLE, Mould
from pytest_peftbench.cases.life_cycle.old import written
from pytest_peftbench.cases.methods import Needs, make_config, needs_of
from pytest_peftbench.measure.decompositions import steady_decompositions
from pytest_peftbench.measure.environment import installed, seed_everything
from pytest_peftbench.measure.precision import project, widened
from pytest_peftbench.results.files import stands
from pytest_peftbench.results.kept import Kept, read_kept
from pytest_peftbench.results.metrics import Value
from pytest_peftbench.suites import ADAPTER_FILE, Experiment
from pytest_peftbench.tasks.config import QUANTISED
from pytest_peftbench.tasks.structures.kept import keeps
from pytest_peftbench.tasks.structures.models import MODELS, ROWS, Structure, output_of
from pytest_peftbench.tasks.task import Batch

# Seeds: of a structure's weights, of an adapter, of a second one, and of generators that have moved on.
BASE, FIRST, SECOND, OTHER = 0, 1, 2, 99
# The largest relative difference that rounding explains. float32 means float64: as the witness', with room to spare.
# Beside quantised weights all is single precision.
BOUNDS = {"float32": 1e-9, "float16": 0.005, "bfloat16": 0.04, "int8": 1e-5, "int4": 1e-5}
# Laws whose two sides round otherwise in half precision, by name or by group: they compute otherwise, or add to
# weights. All others must hold there as they do in double precision.
_ROUNDED = frozenset("batch checkpointing convert merge unmerge both mixed weighted".split())
_ROUNDED |= {"train.mode", "train.accumulate", "inject.low_level", "delete.merged"}
# A model card that is there already: else PEFT makes one from a template, which takes longer than all that it saves.
_CARD = "---\nlibrary_name: peft\n---\n"
# Keys of configs that draw numbers in training mode by design.
_DRAWING = ("monteclora_config",)
# The name that PEFT gives an adapter, and that of a second one.
NAME, SECOND_NAME = "default", "second"


@dataclass
class Cell:
    """What a story works on. Each model that it gives is new; weights of one seed are the same each time.

    figures: what stories count beside the laws, by the names of metrics.
    """

    experiment: Experiment
    folder: Path
    figures: dict[str, Value] = field(default_factory=dict)
    needs: Needs = field(init=False)
    _count: int = 0

    def __post_init__(self) -> None:
        self.needs = needs_of(self.experiment.adapter)

    @cached_property
    def structure(self) -> Structure:
        """The structure that the experiment names."""
        return MODELS[self.experiment.train.model_id]

    @cached_property
    def adapter(self) -> dict[str, Any]:
        """The completed keys of `adapter_config.json`."""
        keys = dict(self.experiment.adapter or {})
        return self.needs.prepare(keys, self.experiment.path, self.base(), self.folder)

    @cached_property
    def batch(self) -> Batch:
        """The batch that everything is asked on."""
        return self.structure.batch()

    def bound_of(self, law: str) -> float:
        """The largest relative difference that rounding explains, in the type of the base weights."""
        return BOUNDS[self.experiment.train.dtype if self.is_quantised or rounds(law) else "float32"]

    @property
    def is_quantised(self) -> bool:
        """Whether the base weights are: they have kernels of their own, and no double precision."""
        return self.experiment.train.dtype in QUANTISED

    def anew(self) -> Cell:
        """The same cell with nothing made yet: in the precision of wherever it is used."""
        return Cell(self.experiment, self.folder / "anew")

    @property
    def can_witness(self) -> bool:
        """Whether what it gives is the same on any machine: in double precision, and nothing is drawn."""
        return self.experiment.train.dtype == "float32" and self.needs.steady and not self.draws

    # Models ---------------------------------------------------------------------------------------------------------

    @cached_property
    def draws(self) -> bool:
        """Whether training draws numbers, which is nowhere the same: dropout does, and some methods by design."""
        keys = self.config().to_dict().items()
        return self.needs.draws or any(value for key, value in keys if "dropout" in key or key in _DRAWING)

    def base(self) -> nn.Module:
        """The base model, in evaluation mode."""
        return self._base()

    @cached_property
    def _base(self) -> Callable[[], nn.Module]:
        seed_everything(BASE)
        model = self.structure.build().eval()
        if not self.is_quantised:
            model = widened(model).to(getattr(torch, self.experiment.train.dtype))
        self.needs.base(model)
        return self._copies(model)

    def _copies_or(self, model: Any, make: Callable[[], Any]) -> Callable[[], Any]:
        """What gives copies of a model, or makes it anew where hooks belong to this one."""
        try:
            return self._copies(model)
        except UNPICKLABLE:
            return make

    def _copies(self, model: nn.Module) -> Callable[[], nn.Module]:
        """What gives copies of a model; quantised weights alone know how they are copied."""
        return (lambda: copy.deepcopy(model)) if self.is_quantised else Mould(model).copy

    def config(self) -> Any:
        """A fresh `PeftConfig`: making an adapter writes to it."""
        return make_config(self.adapter, self.experiment.path / ADAPTER_FILE)

    def untrained(self, seed: int = FIRST, **options: Any) -> Any:
        """The base model with an adapter that has learned nothing; options: of `get_peft_model`."""
        base, config = self.base(), self.config()
        seed_everything(seed)
        return self.adapted(base, config, **options).eval()

    def adapted(self, base: nn.Module, config: Any, **options: Any) -> Any:
        """A base model with a new adapter, whose numbers are drawn from the global seed."""
        from peft import get_peft_model

        return get_peft_model(base, config, NAME, **{"autocast_adapter_dtype": self._autocast, **options})

    def loaded(self, folder: Path, **options: Any) -> Any:
        """The base model with an adapter that was saved, in evaluation mode as PEFT gives it."""
        return self.load(self.base(), folder, **options)

    def load(self, base: nn.Module, folder: Path, **options: Any) -> Any:
        """The same of a base model that is there."""
        from peft import PeftModel

        return PeftModel.from_pretrained(base, folder, autocast_adapter_dtype=self._autocast, **options)

    @property
    def _autocast(self) -> bool:
        return self.experiment.train.autocast_adapter_dtype

    def trained(self) -> Any:
        """The base model with a trained adapter, named NAME."""
        return self._training[0]()

    def two(self) -> Any:
        """The same with a second adapter beside it, SECOND_NAME, which is not active and not the same."""
        return self._two()

    @cached_property
    def _two(self) -> Callable[[], Any]:
        return self._copies_or(self._two_made(), self._two_made)

    def _two_made(self) -> Any:
        model = self.trained()
        self.add_second(model)
        return model

    def add_second(self, model: Any) -> None:
        """Add the second adapter, trained otherwise than the first: with the numbers that it has alone."""
        seed_everything(SECOND)
        self.add(model, self.config())
        if self.trainable == self.of_second(self.trainable):  # a method that keeps one adapter in the model at a time
            model.set_adapter(SECOND_NAME)
            perturb(model, self.trainable)
            model.set_adapter(NAME)
        self._copy_second(model)

    @torch.no_grad()
    def _copy_second(self, model: Any) -> None:
        """What is of the same name and shape: an adapter made beside another may be another one by PEFT's fault."""
        parameters = dict(model.named_parameters(remove_duplicate=False))
        for name, values in self._second_parameters.items():
            if name in parameters and parameters[name].shape == values.shape:
                parameters[name].copy_(values)

    @cached_property
    def _second_parameters(self) -> dict[str, Tensor]:
        """The parameters that bear an adapter's name, by the name that they have beside another."""
        found = self.second_alone().named_parameters(remove_duplicate=False)
        return {_of_second(name): tensor.detach() for name, tensor in found if NAME in name.split(".")}

    def add(self, model: Any, config: Any) -> None:
        """Add a second adapter that has learned nothing, its numbers drawn from the global seed."""
        model.add_adapter(SECOND_NAME, config, autocast_adapter_dtype=self._autocast)

    def load_second(self, model: Any, folder: Path) -> None:
        """Load what was saved as the second adapter."""
        model.load_adapter(folder, SECOND_NAME, autocast_adapter_dtype=self._autocast)

    def second_alone(self, **options: Any) -> Any:
        """The base model with what is elsewhere the second adapter; options: of `get_peft_model`."""
        return self._second_made(**options) if options else self._second()

    @cached_property
    def _second(self) -> Callable[[], Any]:
        return self._copies_or(self._second_made(), self._second_made)

    def _second_made(self, **options: Any) -> Any:
        model = self.untrained(SECOND, **options)
        perturb(model, self.trainable)
        return model

    @property
    def trainable(self) -> set[str]:
        """The names of what training changes of a fresh adapter."""
        return self._initial[1]

    @property
    def initial_output(self) -> Tensor:
        """What a fresh adapter gives."""
        return self._initial[0]

    @property
    def decomposes(self) -> bool:
        """Whether making the adapter takes weights apart, which has more than one result."""
        return self._initial[2]

    @cached_property
    def _initial(self) -> tuple[Tensor, set[str], bool]:
        with steady_decompositions() as asked:
            model = self.untrained()
        return self.output(model), trainable(model), asked.count > 0

    @cached_property
    def base_names(self) -> set[str]:
        """The names of the base model's tensors."""
        return set(self.base().state_dict())

    @property
    def losses(self) -> list[float]:
        """The loss before each step of the trained adapter's training."""
        return self._training[1]

    @cached_property
    def _training(self) -> tuple[Callable[[], Any], list[float]]:
        model = self.untrained()
        losses = self.train(model)
        state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        return self._copies_or(model, lambda: self._with_state(state)), losses

    def _with_state(self, state: dict[str, Tensor]) -> Any:
        model = self.untrained()
        model.load_state_dict(state)
        return model

    def train(self, model: Any) -> list[float]:
        """A few steps toward an output that is drawn once; the loss before each."""
        train = self.experiment.train
        trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
        optimizer = getattr(torch.optim, train.optimizer_type)(trainable, **train.optimizer_kwargs)
        model.train()
        losses: list[float] = []
        seed_everything(FIRST)
        for step in range(train.max_steps):
            loss = self.loss(model)
            loss.backward()  # type: ignore[no-untyped-call]
            losses.append(float(loss.detach()))
            optimizer.step()
            self.needs.after_step(model, step + 1)
            optimizer.zero_grad()
        model.eval()
        return losses

    # What they give -------------------------------------------------------------------------------------------------

    def loss(self, model: Any, rows: slice = slice(None)) -> Tensor:
        """How far the output for some rows of the batch is from one that is drawn once."""
        found = self._call(model, rows_of(self.batch, rows), extra=True)
        generator = torch.Generator().manual_seed(BASE)
        wanted = torch.randn((ROWS, *found.shape[1:]), generator=generator)
        return (found - wanted[rows]).square().mean()

    def gradients(self, model: Any) -> dict[str, Tensor]:
        """The gradients of what training changes, by name."""
        self.loss(model.train()).backward()  # type: ignore[no-untyped-call]
        return {name: weight.grad for name, weight in model.named_parameters() if weight.grad is not None}

    @torch.no_grad()
    def output(self, model: Any, rows: slice = slice(None), **arguments: Any) -> Tensor:
        """The adapted model's output in evaluation mode on some rows of the batch."""
        return self._call(model.eval(), rows_of(self.batch, rows), extra=True, **arguments).clone()

    @torch.no_grad()
    def plain_output(self, model: Any) -> Tensor:
        """The output of a model without adapter, or whose adapter is off."""
        return self._call(model.eval(), self.batch, extra=False).clone()

    def base_weights(self, model: Any) -> dict[str, Tensor]:
        """The base model's own tensors inside an adapted model, or one that was, as they are now."""
        model = model.get_base_model() if hasattr(model, "get_base_model") else model
        found: dict[str, Tensor] = {plain(name): tensor.clone() for name, tensor in model.state_dict().items()}
        return {name: found[name] for name in sorted(self.base_names)}

    @cached_property
    def base_output(self) -> Tensor:
        """What the base model gives."""
        return self.plain_output(self.base())

    @cached_property
    def active_output(self) -> Tensor:
        """What the trained adapter gives."""
        return self.output(self.trained())

    def call(self, model: Any) -> Tensor:
        """The output in the mode that the model is in."""
        return self._call(model, self.batch, extra=True)

    @cached_property
    def alone_output(self) -> Tensor:
        """What the second adapter gives alone."""
        return self.output(self.second_alone())

    @cached_property
    def second_output(self) -> Tensor:
        """What the second adapter gives beside the first one, active in its place."""
        model = self.two()
        model.set_adapter(SECOND_NAME)
        return self.output(model)

    def generated(self, model: Any, extra: bool = True, **arguments: Any) -> Tensor:
        """A few tokens after those of the batch."""
        more = self.needs.inputs(ROWS) if extra else {}
        how = {"max_new_tokens": 3, "min_new_tokens": 3, "do_sample": False, **arguments}
        prompt = {key: value for key, value in self.batch.items() if not key.startswith("decoder_")}
        tokens: Tensor = model.eval().generate(**prompt, **more, **how)
        return tokens[:, -3:]

    @cached_property
    def checkpoint(self) -> Path:
        """The folder with the trained adapter."""
        return self.saved(self.trained())

    @cached_property
    def kept(self) -> Kept | None:
        """The adapter that an earlier PEFT wrote for this case, or this PEFT's where the first is recorded now.

        None where there is none. Raises InputError for one that is damaged.
        """
        experiment = self.experiment
        if experiment.kept is not None and stands(experiment.kept):
            return read_kept(experiment.kept, experiment.case)
        if not (experiment.recording and keeps(experiment.train.model_id, experiment.case.experiment)):
            return None
        return Kept(experiment.case, installed("peft"), project(self.active_output), written(self.checkpoint))

    def saved(self, model: Any) -> Path:
        """A new folder with the model's adapter in it."""
        self._count += 1
        folder = self.folder / str(self._count)
        folder.mkdir(parents=True)
        (folder / "README.md").write_text(_CARD, encoding="utf-8")
        model.save_pretrained(folder)
        return folder

    def of_second(self, names: Collection[str]) -> set[str]:
        """The names of the second adapter's parameters, by those of the first."""
        return {_of_second(name) for name in names}

    def _call(self, model: Any, batch: Batch, extra: bool, **arguments: Any) -> Tensor:
        size = len(next(iter(batch.values())))
        more = self.needs.inputs(size) if extra else {}
        return output_of(model(**batch, **more, **arguments))


def rounds(law: str) -> bool:
    """Whether a law's two sides round otherwise in half precision."""
    return not _ROUNDED.isdisjoint((law, law.partition(".")[0]))


def plain(name: str) -> str:
    """A tensor's name in the base model, by that in an adapted one."""
    for part in (".base_layer", ".original_module", ".token_adapter"):
        name = name.replace(part, "")
    return name


def rows_of(batch: Batch, rows: slice) -> Batch:
    """Some rows of a batch."""
    return {key: value[rows] for key, value in batch.items()}


def perturb(model: Any, names: Collection[str]) -> None:
    """Move parameters by fixed numbers: most methods start at nothing."""
    generator = torch.Generator().manual_seed(SECOND)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name in names:
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))


def _of_second(name: str) -> str:
    """The name of a parameter of the second adapter, by that of the first one."""
    return ".".join(SECOND_NAME if part == NAME else part for part in name.split("."))


def trainable(model: nn.Module) -> set[str]:
    """The names of what training changes."""
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}
