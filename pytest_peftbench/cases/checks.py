"""What an adapter must be able to do beside training: be disabled, saved, merged. Outcomes are words.

`ok`: it holds. `differs`: it does not. Anything else is the class of the exception that the method raised: a method
that cannot do something has that as its recorded outcome, so that a capability lost, or gained, is seen.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Collection
from pathlib import Path

import torch
from torch import Tensor, nn

from pytest_peftbench.measure.weights import max_difference, same_bits
from pytest_peftbench.results.metrics import Value

OK, DIFFERS = "ok", "differs"
# Merging reorders float32 sums. Relative to the largest logit, or weight; a scaling off by 1 % is ten times as much.
MERGE_TOLERANCE = 1e-4
UNMERGE_TOLERANCE = 1e-5

Output = Callable[[nn.Module], Tensor]


def outcome(check: Callable[[], bool]) -> str:
    """`ok`, `differs`, or the class name of what `check` raised; out of memory passes through."""
    try:
        return OK if check() else DIFFERS
    except torch.OutOfMemoryError:
        raise  # the device's, and no property of the adapter
    except Exception as error:
        return type(error).__name__


def initial(output: Tensor, base_output: Tensor) -> dict[str, Value]:
    """Whether an untrained adapter leaves the base model's output alone, and by how much it does not."""
    return {
        "init.identity": OK if same_bits(output, base_output) else DIFFERS,
        "init.max_output_difference": max_difference(output, base_output),
    }


def disabling(model: nn.Module, output: Output, plain_output: Output, base_output: Tensor) -> dict[str, Value]:
    """Disabled, a trained adapter leaves the base model to the bit; enabled again, it is itself to the bit.

    plain_output: as `output`, without the extra inputs of the method, which a base model does not know.
    """
    trained = output(model)

    def restores_base() -> bool:
        with model.disable_adapter():  # type: ignore[operator]
            return same_bits(plain_output(model), base_output)

    return {
        "disable.restores_base": outcome(restores_base),
        "enable.restores_adapter": outcome(lambda: same_bits(output(model), trained)),
    }


def saving(
    model: nn.Module,
    output: Output,
    fresh_base: Callable[[], nn.Module],
    folder: Path,
    autocast_adapter_dtype: bool = True,
) -> dict[str, Value]:
    """The checkpoint's size and tensors, and whether it loads into a fresh base model with the same output.

    autocast_adapter_dtype: as it was when the adapter was made; the types of the loaded weights depend on it.
    """
    from peft import PeftModel

    trained = output(model)
    model.save_pretrained(folder)  # type: ignore[operator]
    files = sorted(folder.glob("*.safetensors"))

    def reloads() -> bool:
        loaded = PeftModel.from_pretrained(fresh_base(), folder, autocast_adapter_dtype=autocast_adapter_dtype)
        return same_bits(output(loaded), trained)

    return {
        "checkpoint.bytes": sum(file.stat().st_size for file in files),
        "checkpoint.tensors": tensor_table(files),
        "reload.same_output": outcome(reloads),
    }


def tensor_table(files: Collection[Path]) -> dict[str, str]:
    """The tensors in safetensors files by name, layer numbers as `*`: `…layers.*.lora_A.weight` -> `4 x [8, 128] F32`.

    Equal names of different shapes or types are listed side by side.
    """
    from safetensors import safe_open

    counts: dict[str, Counter[str]] = {}
    for file in files:
        with safe_open(file, framework="pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118 (no mapping)
                part = tensors.get_slice(name)
                pattern = re.sub(r"(?<=\.)\d+(?=\.)", "*", name)
                counts.setdefault(pattern, Counter())[f"{part.get_shape()} {part.get_dtype()}"] += 1
    return {
        pattern: ", ".join(f"{count} x {what}" for what, count in sorted(counts[pattern].items()))
        for pattern in sorted(counts)
    }


def merging(model: nn.Module, output: Output, base_names: Collection[str]) -> dict[str, Value]:
    """Merged, the output agrees within MERGE_TOLERANCE; unmerged, the base weights do within UNMERGE_TOLERANCE.

    base_names: names of the parameters in the base model before the adapter was added.
    """
    trained = output(model)
    before = {name: parameter.clone() for name, parameter in _base_parameters(model, base_names).items()}

    def merged() -> bool:
        model.merge_adapter()  # type: ignore[operator]
        return _close(output(model), trained, MERGE_TOLERANCE)

    def unmerged() -> bool:
        model.unmerge_adapter()  # type: ignore[operator]
        after = _base_parameters(model, base_names)
        return all(_close(after[name], weight, UNMERGE_TOLERANCE) for name, weight in before.items())

    with torch.no_grad():
        return {"merge.same_output": outcome(merged), "unmerge.restores_base": outcome(unmerged)}


def _base_parameters(model: nn.Module, base_names: Collection[str]) -> dict[str, Tensor]:
    """The base model's own parameters inside an adapted model, by their name in the base model."""
    base = model.get_base_model()  # type: ignore[operator]
    names = set(base_names)
    found = ((name.replace(".base_layer", ""), parameter.detach()) for name, parameter in base.named_parameters())
    return {name: parameter for name, parameter in found if name in names}


def _close(a: Tensor, b: Tensor, tolerance: float) -> bool:
    """Whether the largest difference is at most `tolerance` times the largest absolute value of `b`."""
    return max_difference(a, b) <= tolerance * float(b.abs().max())
