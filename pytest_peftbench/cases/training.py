"""The one training loop: optimizer, schedule, clipping, mixed precision, a method's own step."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pytest_peftbench.cases.methods import Needs
from pytest_peftbench.measure.owners import role
from pytest_peftbench.results.files import InputError
from pytest_peftbench.results.words import error_line
from pytest_peftbench.tasks.config import TrainConfig
from pytest_peftbench.tasks.task import Batch

WARMUP_RATIO = 0.1


class Trainer:
    """Trains one model; `step` does all that one training step does, so that it can be counted and timed alone.

    loss: of the model on one batch, as `Task.loss`. source: the file that the optimizer's arguments are from. Raises
    InputError for an unknown optimizer, an argument that it refuses, and a model without trainable parameters.
    """

    def __init__(
        self,
        model: nn.Module,
        config: TrainConfig,
        needs: Needs,
        loss: Callable[[nn.Module, Batch], Tensor],
        source: Path = Path(),
    ) -> None:
        self.model = model
        self.needs = needs
        self.loss = loss
        self.clip = config.grad_norm_clip
        self.device_type = next(model.parameters()).device.type
        self.use_amp = config.use_amp
        self.parts = config.gradient_accumulation_steps
        self.forward_model: Any = torch.compile(model, dynamic=True) if config.compile else model
        self.source = source
        self.optimizer = make_optimizer(model, config)
        self.schedule = make_schedule(self.optimizer, config)
        # Scales only what is scaled in fp16; passes everything through otherwise.
        self.scaler = torch.amp.GradScaler(self.device_type, enabled=config.use_amp and self.device_type != "cpu")
        self.steps = 0

    def step(self, batch: Batch) -> Tensor:
        """One step; returns the detached loss, on the model's device: `.item()` would wait for the device."""
        self.optimizer.zero_grad()
        loss = self._accumulate(batch) if self.parts > 1 else self._backward(batch)
        if self.clip:
            self.scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self.model.parameters(), self.clip)
        try:
            self.scaler.step(self.optimizer)
        except (AssertionError, TypeError, ValueError, RuntimeError) as error:
            if self.steps or isinstance(error, torch.OutOfMemoryError):
                raise
            raise InputError(f"{self.source}: optimizer_kwargs: no step can be taken: {error_line(error)}") from error
        self.scaler.update()
        self.schedule.step()
        self.steps += 1
        self.needs.after_step(self.model, self.steps)
        return loss

    def _accumulate(self, batch: Batch) -> Tensor:
        """The loss of the batch, whose gradients come from one part after the other."""
        columns = {name: tensor.chunk(self.parts) for name, tensor in batch.items()}
        parts = [dict(zip(columns, tensors, strict=True)) for tensors in zip(*columns.values(), strict=True)]
        rows = _rows(batch)
        return torch.stack([self._backward(part, _rows(part) / rows) for part in parts]).sum()

    def _backward(self, batch: Batch, share: float | None = None) -> Tensor:
        """The detached loss, whose gradients are added to those that are there. share: of the batch, if not all."""
        inputs = self.needs.inputs(_rows(batch))
        with role("loss"), torch.autocast(self.device_type, enabled=self.use_amp):
            loss = self.loss(self.forward_model, {**batch, **inputs})
            loss = loss if share is None else loss * share
        self.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        return loss.detach()

    def train(
        self, batches: Iterator[Batch], steps: int, after_step: Callable[[int, list[Tensor]], None]
    ) -> list[float]:
        """Take `steps` steps and return their losses. `after_step` gets the step, counted from 1, and all losses."""
        self.model.train()
        losses: list[Tensor] = []
        for step, batch in zip(range(1, steps + 1), batches, strict=False):
            losses.append(self.step(batch))
            after_step(step, losses)
        return [float(loss) for loss in losses]


def _rows(batch: Batch) -> int:
    return len(next(iter(batch.values())))


def make_optimizer(model: nn.Module, config: TrainConfig) -> torch.optim.Optimizer:
    """A class of `torch.optim` by name, or one of PEFT's: "lora+", "lora-fa", "riemannian"."""
    name, kwargs = config.optimizer_type, config.optimizer_kwargs
    cls: Any = getattr(torch.optim, name, None)
    if name not in _PEFT_OPTIMIZERS and not (isinstance(cls, type) and issubclass(cls, torch.optim.Optimizer)):
        raise InputError(
            f"optimizer_type: {name!r} is neither a class of torch.optim nor one of {', '.join(_PEFT_OPTIMIZERS)}"
        )
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if not trainable:
        raise InputError("no parameter of the model is trainable; is inference_mode true in adapter_config.json?")
    try:
        return _PEFT_OPTIMIZERS[name](model, kwargs) if name in _PEFT_OPTIMIZERS else cls(trainable, **kwargs)
    except ImportError as error:
        raise InputError(f"optimizer_type: the installed PEFT does not have {name!r}: {error}") from error
    except Exception as error:  # each class refuses arguments in its own way
        raise InputError(
            f"optimizer_kwargs: {kwargs} do not fit optimizer_type {name!r}: {error_line(error)}"
        ) from error


def make_schedule(optimizer: torch.optim.Optimizer, config: TrainConfig) -> torch.optim.lr_scheduler.LRScheduler:
    """Linear warm-up over 10 % of the steps, then half a cosine to 0; constant without `lr_scheduler`.

    Steps after the last keep the last learning rate, 0: the cosine would rise again.
    """
    total, warmup = config.max_steps, int(WARMUP_RATIO * config.max_steps)

    def cosine(step: int) -> float:
        if step < warmup:
            return step / max(1, warmup)
        return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - warmup) / max(1, total - warmup))))

    return torch.optim.lr_scheduler.LambdaLR(optimizer, cosine if config.lr_scheduler else lambda _: 1.0)


def _lora_plus(model: nn.Module, kwargs: dict[str, Any]) -> torch.optim.Optimizer:
    from peft.optimizers import create_loraplus_optimizer

    optimizer: torch.optim.Optimizer = create_loraplus_optimizer(model, optimizer_cls=torch.optim.AdamW, **kwargs)
    return optimizer


def _lora_fa(model: nn.Module, kwargs: dict[str, Any]) -> torch.optim.Optimizer:
    from peft.optimizers import create_lorafa_optimizer

    optimizer: torch.optim.Optimizer = create_lorafa_optimizer(model, **kwargs)
    return optimizer


def _riemannian(model: nn.Module, kwargs: dict[str, Any]) -> torch.optim.Optimizer:
    from peft.optimizers import create_riemannian_optimizer

    optimizer: torch.optim.Optimizer = create_riemannian_optimizer(model, optimizer_cls=torch.optim.AdamW, **kwargs)
    return optimizer


_PEFT_OPTIMIZERS: dict[str, Callable[[nn.Module, dict[str, Any]], torch.optim.Optimizer]] = {
    "lora+": _lora_plus,
    "lora-fa": _lora_fa,
    "riemannian": _riemannian,
}
