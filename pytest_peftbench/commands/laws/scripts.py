"""A script that shows a broken law by PEFT, torch and transformers alone: what an issue starts with."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import MISSING, fields
from functools import cache
from pathlib import Path
from string import Template
from typing import Any

from pytest_peftbench.commands.laws.cells import Cell
from pytest_peftbench.commands.laws.templates import ALLOCATED, BASES, DIFFER, HOMES, LAWS, PERTURBED, Base, folded
from pytest_peftbench.results.files import InputError
from pytest_peftbench.suites import Experiment, read_suite
from pytest_peftbench.tasks.structures.laws import LAWS as SENTENCES

# What methods want beside the inputs, in each call.
_EXTRA = dict.fromkeys(("POLY", "MULTITASK_PROMPT_TUNING"), ", task_ids=torch.zeros(2, dtype=torch.long)")
# Keys of those who train by a schedule of their own: a stand-in for trained weights has none.
_SCHEDULED = ("use_asa", "total_step")
# The tensor whose NaN a safe merge refuses too late.
_SPOILED = {"lora": '"base_layer.lora_"', "lokr": '"v_proj.lokr_"'}


def script(cell: Cell, suites: Path) -> str:
    """The script of a broken law, which ends by printing what should be 0, or in the error that breaks it.

    suites: the folder of the suites, which says what the cell's config is. Raises InputError for a cell that is in no
    suite, or whose structure or law has no template.
    """
    for what, name, known in (("structure", cell.structure, BASES), ("law", cell.law, LAWS)):
        if name not in known:
            raise InputError(f"{what} {name!r} has no template for a script; there are {', '.join(known)}")
    experiment = _experiment(cell, suites)
    text = LAWS[cell.law]
    parts = _parts(cell, experiment)
    if "another" in text:
        parts["base"] += "\nanother = copy.deepcopy(config)  # as making an adapter writes to its config"
    body = _filled(text, parts)
    comment = f"# {cell.method} on {cell.place}: {SENTENCES[cell.law]} ({cell.word})"
    return f"{comment}\n{_imports(body)}\n\n{body}\n"


def _experiment(cell: Cell, suites: Path) -> Experiment:
    suite = suites / cell.task / cell.structure
    for experiment in _experiments(suite):
        if (experiment.case.method, experiment.case.name) == (cell.method, cell.setting):
            return experiment
    raise InputError(f"{suite}: has no experiment {cell.method}/{cell.setting}, which the baselines are of")


@cache
def _experiments(suite: Path) -> list[Experiment]:
    return read_suite(suite)


def _parts(cell: Cell, experiment: Experiment) -> dict[str, str]:
    """What each place of a template stands for."""
    adapter = experiment.adapter or {}
    base, extra = BASES[cell.structure], _EXTRA.get(adapter["peft_type"], "")
    options = "" if experiment.train.autocast_adapter_dtype else ", autocast_adapter_dtype=False"
    return {
        "base": _base_lines(base, experiment),
        "model": f"model = get_peft_model(base, config{options}).eval()",
        "trained": ALLOCATED if any(adapter.get(key) for key in _SCHEDULED) else PERTURBED,
        "out": f"model({base.call}{extra}){base.output}",
        "plain": f"model({base.call}){base.output}",
        "alone": f"base({base.call}){base.output}",
        "call": base.call,
        "first": "x[:1]" if base.call == "x" else "**{name: value[:1] for name, value in inputs.items()}",
        "output": base.output,
        "extra": extra,
        "options": options,
        "differ": DIFFER,
        "spoiled": _SPOILED.get(cell.method, '"base_layer.bias"'),
    }


def _base_lines(base: Base, experiment: Experiment) -> str:
    """The base model, its inputs and the config."""
    lines = ["torch.manual_seed(0)", base.model, base.inputs]
    adapter = dict(experiment.adapter or {})
    if experiment.train.dtype != "float32":
        lines.append(f"base = base.to(torch.{experiment.train.dtype})")
    if adapter.get("adapters"):
        lines += _expert_lines(adapter, experiment)
    return "\n".join([*lines, f"config = {_config(adapter)}"])


def _expert_lines(adapter: dict[str, Any], experiment: Experiment) -> list[str]:
    """X-LoRA mixes adapters that have been saved: makes them, and writes their folders into its keys."""
    expert = next(content for name, content in experiment.files.items() if name.endswith("adapter_config.json"))
    names = list(adapter["adapters"])
    adapter["adapters"] = _Code('{name: f"{folder}/{name}" for name in names}')
    return [
        "base.config.use_cache = False",
        f"folder, names = tempfile.mkdtemp(), {names}",
        f"expert = {_config(expert)}",
        "for name in names:",
        '    get_peft_model(copy.deepcopy(base), expert).save_pretrained(f"{folder}/{name}")',
    ]


class _Code(str):
    """What stands in a script as it is."""

    def __repr__(self) -> str:
        return str(self)


def _config(adapter: Mapping[str, Any]) -> str:
    """`LoraConfig(r=4)`: the keys that are not PEFT's defaults."""
    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING

    config = PEFT_TYPE_TO_CONFIG_MAPPING[adapter["peft_type"]]
    defaults = {item.name: item.default for item in fields(config) if item.default is not MISSING}
    keys = {key: value for key, value in adapter.items() if key not in ("peft_type", "inference_mode")}
    told = [f"{key}={_literal(value)}" for key, value in keys.items() if key not in defaults or defaults[key] != value]
    return folded(config.__name__, ", ".join(told))


def _literal(value: Any) -> str:
    return f'"{value}"' if isinstance(value, str) and not isinstance(value, _Code) else repr(value).replace("'", '"')


def _filled(text: str, parts: Mapping[str, str]) -> str:
    """The template with its places filled in, those in what fills them in, too."""
    while "$" in text:
        text = Template(text).substitute(parts)
    return text


def _imports(body: str) -> str:
    """The lines that import what a script uses."""
    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING

    homes = {**HOMES, **{config.__name__: "peft" for config in PEFT_TYPE_TO_CONFIG_MAPPING.values()}}
    used = set(re.findall(r"\b[A-Za-z_]\w*", re.sub(r'"[^"\n]*"', "", body)))
    told: dict[str, list[str]] = {"transformers": []}
    for name in sorted(used):
        if name in homes:
            told.setdefault(homes[name], []).append(name)
        elif re.fullmatch(r"(Llama|GPT2|OPT|Gemma|T5|Bert|ViT)[A-Z]\w+", name):
            told["transformers"].append(name)
    plain = [f"import {name}" for name in sorted([*told.pop("", []), "torch"])]
    taken = [f"from {home} import {', '.join(names)}" for home, names in sorted(told.items()) if names]
    return "\n".join([*plain, *taken])
