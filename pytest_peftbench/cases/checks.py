"""What an adapter must be able to do beside training: be disabled, saved, merged. Outcomes are words.

`ok`: it holds. `differs: 0.012`: it does not, by this share of the largest expected value. `not reached`: what comes
before it raised. Anything else is the class of the exception that the method raised: a method that cannot do something
has that as its recorded outcome, so that a capability lost, or gained, is seen.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Collection
from pathlib import Path

import torch
from torch import Tensor, nn

from pytest_peftbench.measure.counters import Counters, count
from pytest_peftbench.measure.weights import last_digit, max_difference, same_bits
from pytest_peftbench.results.laws import DIFFERS, NOT_REACHED, OK, differs
from pytest_peftbench.results.metrics import Value

# Merging reorders sums. Relative to the largest logit, or merged weight: in single precision a scaling off by 1 % is
# ten times as much; in half precision, in units of the last digit, since each merged weight is rounded to it.
MERGE_TOLERANCE, MERGE_DIGITS = 1e-4, 4
UNMERGE_TOLERANCE, UNMERGE_DIGITS = 1e-5, 2

Output = Callable[[nn.Module], Tensor]


def outcome(check: Callable[[], float], tolerance: float = 0.0) -> str:
    """The word for the relative difference that `check` gives, or for what it raised; out of memory passes through."""
    try:
        difference = check()
    except torch.OutOfMemoryError:
        raise  # the device's, and no property of the adapter
    except Exception as error:
        return type(error).__name__
    return OK if difference <= tolerance else differs(difference)


def gap(obtained: Tensor, expected: Tensor, at_least: float = 0.0) -> float:
    """The largest difference, as a share of the largest expected value; 0 for the same bits.

    at_least: of what it is a share where that is more. Infinite where shapes or types differ, and where one of the
    values is no number.
    """
    if same_bits(obtained, expected):
        return 0.0
    difference = max_difference(obtained, expected)
    if obtained.dtype != expected.dtype or not math.isfinite(difference):
        return math.inf
    return difference / (max(float(expected.abs().max()), at_least) or 1.0)


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

    def restores_base() -> float:
        with model.disable_adapter():  # type: ignore[operator]
            return gap(plain_output(model), base_output)

    return {
        "disable.restores_base": outcome(restores_base),
        "enable.restores_adapter": outcome(lambda: gap(output(model), trained)),
    }


def saving(
    model: nn.Module,
    output: Output,
    fresh_base: Callable[[], nn.Module],
    folder: Path,
    counted: dict[str, Counters],
    autocast_adapter_dtype: bool = True,
) -> dict[str, Value]:
    """The checkpoint's size and tensors, and whether it loads into a fresh base model with the same output.

    counted: gets the phase `load`. autocast_adapter_dtype: as it was when the adapter was made; the types of the loaded
    weights depend on it.
    """
    from peft import PeftModel

    trained = output(model)
    model.save_pretrained(folder)  # type: ignore[operator]
    files = sorted(folder.glob("*.safetensors"))

    def reloads() -> float:
        base, loaded = fresh_base(), []

        def load() -> None:
            loaded.append(PeftModel.from_pretrained(base, folder, autocast_adapter_dtype=autocast_adapter_dtype))

        counted["load"] = count(load, base, work="load")
        return gap(output(*loaded), trained)

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


def merging(
    model: nn.Module, output: Output, base_names: Collection[str], counted: dict[str, Counters]
) -> dict[str, Value]:
    """Merged, the output agrees within the tolerance of the weights' type; unmerged, so do the base weights.

    base_names: names of the parameters in the base model before the adapter was added. counted: gets the phase `merge`.
    """
    trained = output(model)
    before = {name: parameter.clone() for name, parameter in _base_parameters(model, base_names).items()}

    def merged() -> float:
        counted["merge"] = count(model.merge_adapter, model, work="merge")  # type: ignore[arg-type]
        return gap(output(model), trained)

    def unmerged() -> float:
        largest = {name: float(weight.abs().max()) for name, weight in _base_parameters(model, base_names).items()}
        model.unmerge_adapter()  # type: ignore[operator]
        after = _base_parameters(model, base_names)
        return max((gap(after[name], weight, largest[name]) for name, weight in before.items()), default=0.0)

    digit = last_digit(model)
    with torch.no_grad():
        merges = outcome(merged, max(MERGE_TOLERANCE, MERGE_DIGITS * digit))
        if "merge" not in counted:
            return {"merge.same_output": merges, "unmerge.restores_base": NOT_REACHED}
        unmerges = outcome(unmerged, max(UNMERGE_TOLERANCE, UNMERGE_DIGITS * digit))
        return {"merge.same_output": merges, "unmerge.restores_base": unmerges}


def _base_parameters(model: nn.Module, base_names: Collection[str]) -> dict[str, Tensor]:
    """The base model's own parameters inside an adapted model, by their name in the base model."""
    base = model.get_base_model()  # type: ignore[operator]
    names = set(base_names)
    found = ((name.replace(".base_layer", ""), parameter.detach()) for name, parameter in base.named_parameters())
    return {name: parameter for name, parameter in found if name in names}
