"""What takes the place of an initialisation that reads numbers, where there are shapes alone: one table."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn

from pytest_peftbench.cases.methods import experts_of, make_config
from pytest_peftbench.meta.device import META, Shapes
from pytest_peftbench.results.files import read_json, write_json
from pytest_peftbench.suites import ADAPTER_FILE, WEIGHTS_FILE


def _as_given(adapter: dict[str, Any], source: Path, base: nn.Module, workdir: Path) -> dict[str, Any]:
    return adapter


def _complete(model: nn.Module) -> None:
    return None


def _all(adapter: dict[str, Any], shape: torch.Size) -> int:
    return shape.numel()


@dataclass(frozen=True)
class StandIn:
    """What takes the place of an initialisation that depends on numbers; shapes stay those of the method.

    note: what it is, for the result. prepare: as in `methods.Needs`. patches: context in which the adapter is made.
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
    for name, folder in experts_of(adapter, source).items():
        config_file = folder / ADAPTER_FILE
        raw = read_json(config_file)
        with Shapes():
            expert = get_peft_model(copy.deepcopy(base), make_config(raw, config_file))
        weights = {key: torch.zeros(value.shape, dtype=value.dtype) for key, value in _state(expert).items()}
        target = workdir / "experts" / name
        write_json(target / ADAPTER_FILE, raw)
        save_file(weights, target / WEIGHTS_FILE, metadata={"format": "pt"})
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


def stand_in_of(adapter: dict[str, Any]) -> StandIn:
    """The stand-in of a config: by the PEFT type, or by the key that makes it a variant of LoRA."""
    for key in ("kasa_config", "monteclora_config"):
        if adapter.get(key) is not None:
            return _STAND_INS[key]
    init = str(adapter.get("init_lora_weights", True))
    if init.startswith(_DECOMPOSING):
        return StandIn(f"{init}: the decomposition of the weights has shapes alone")
    return _STAND_INS.get(adapter.get("peft_type", ""), StandIn())


_STAND_INS: dict[str, StandIn] = {
    "kasa_config": StandIn(
        "the base weights are not cut to the rank: the cut ones have the same shapes", complete=_truncated
    ),
    "monteclora_config": StandIn(complete=_make_samplers),
    **dict.fromkeys(
        ("FROD", "OSF", "PSOFT", "WAVEFT", "DEFT", "DELORA", "SUPERTUNING", "TINYLORA"),
        StandIn("the initialisation has shapes alone, no numbers"),
    ),
    "BOFT": StandIn("permutations are left empty", patches=_empty_permutations),
    "ADAMSS": StandIn("clusters of the weights' rows have equal sizes", patches=_equal_clusters),
    "SHIRA": StandIn("the mask has no positions, only their count", matches=_rank_of_both_sides),
    "XLORA": StandIn("the experts' weights are zeros", prepare=_empty_experts),
}
