"""What a case can execute of PEFT: the files of its method, of what its stories put beside that, and what all share."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from typing import Any

from pytest_peftbench.affected.imports import INIT, Package
from pytest_peftbench.suites import Experiment
from pytest_peftbench.tasks.config import QUANTISED
from pytest_peftbench.tasks.structures.experiments import partner_of
from pytest_peftbench.tasks.structures.spec import SPEC as STRUCTURES

_TUNERS = "tuners/"
_MIXED = "tuners/mixed/"
_MIXES = f"{_MIXED}model.py"
# Imports of what all methods share, by file and by folder that they lead to, which not every case goes through: what it
# is about is known of the case, or no case does it. `--peft-check-reach` finds what is missing here or should not stand
# here; an import that is not listed counts for all.
_NOT_FOR_ALL = {
    ("mixed_model.py", _MIXED),  # a model of two methods: a case that mixes says so
    ("utils/other.py", "tuners/trainable_tokens/"),  # where the config has `trainable_token_indices`
    # classes that FSDP wraps, which no case uses
    *(("utils/other.py", f"tuners/{name}/") for name in ("cartridge", "p_tuning", "prefix_tuning", "prompt_tuning")),
    ("helpers.py", "tuners/lora/"),  # `DoraCaching`, which no case uses
}


class Reach:
    """What the cases can execute of PEFT's files, named as in `Package`.

    shared: what all cases can: what PEFT's `__init__` leads to other than through a method's folder, what that takes
    from such a folder, and what nothing is known of. A method's closure is what the files of its folder lead to,
    without going on through `__init__` files and what is shared.
    """

    def __init__(self, package: Package) -> None:
        self.package = package
        self.folders = dict(_registered(package))
        self.closure = cache(self._closure)
        self._found = cache(self._files)
        self._common = frozenset(self._followed([INIT], lambda _, file: not _folder(file), through_init=True))
        self.shared = self._common | self._taken() | self._unknown()

    def files(self, experiment: Experiment) -> frozenset[str]:
        """What a case can execute; every file where its method is none that PEFT registers."""
        types = tuple(_types(experiment))
        if not self.folders.keys() >= set(types):
            return frozenset(self.package.files)
        return self._found(types, _stories(experiment) if types else "")

    def methods(self, file: str) -> list[str]:
        """The folders' names of the methods whose closure holds a file, sorted."""
        return sorted({folder.split("/")[1] for folder in self.folders.values() if file in self.closure(folder)})

    def _files(self, types: tuple[str, ...], stories: str) -> frozenset[str]:
        found = self.shared.union(*(self.closure(self.folders[peft_type]) for peft_type in types))
        if stories == "mixing":
            found |= self._mixed(types[0])
        if stories == "converting":
            found |= self._converted(types[0])
        return found

    def _mixed(self, peft_type: str) -> frozenset[str]:
        """What an adapter of another method brings, where PEFT mixes this one."""
        mixable = {_folder(file) for file in self.package.leads_to(_MIXES)} if _MIXES in self.package.files else set()
        if self.folders[peft_type] not in mixable:
            return frozenset()
        # the model goes on to the methods of its adapters alone
        model = frozenset(file for file in self.package.files if file.startswith(_MIXED))
        return model | self._closure_of(partner_of(peft_type))

    def _converted(self, peft_type: str) -> frozenset[str]:
        """What asks whether a LoRA can be made of an adapter, and that LoRA where it can."""
        asked = frozenset(file for file in self.package.sources("", "convert_to_lora") if not file.endswith(INIT))
        own = self.closure(self.folders[peft_type]) - self.shared
        converts = any("supports_lora_conversion" in self.package.functions_of(file) for file in own)
        return asked | self._closure_of("LORA") if converts else asked

    def _closure_of(self, peft_type: str) -> frozenset[str]:
        return self.closure(self.folders[peft_type]) if peft_type in self.folders else frozenset()

    def _closure(self, folder: str) -> frozenset[str]:
        seeds = [file for file in self.package.files if file.startswith(folder)]
        return frozenset(self._followed(seeds, lambda _, file: file not in self._common))

    def _followed(self, seeds: Iterable[str], goes: Callable[[str, str], bool], through_init: bool = False) -> set[str]:
        """The seeds and all that they lead to, as far as `goes` says."""
        waiting = [seed for seed in seeds if seed in self.package.files]
        found = set(waiting)
        while waiting:
            file = waiting.pop()
            if file.endswith(INIT) and not through_init:
                continue
            new = {target for target in self.package.leads_to(file) if goes(file, target)} - found
            found |= new
            waiting += new
        return found

    def _taken(self) -> set[str]:
        """What shared files take from a method's folder."""
        taken = ((file, target) for file in self._common for target in self.package.leads_to(file))
        return {
            target
            for file, target in taken
            if not file.endswith(INIT) and _folder(target) and (file, _folder(target)) not in _NOT_FOR_ALL
        }

    def _unknown(self) -> set[str]:
        """What lies in no method's folder and none leads to, and everything where a file cannot be parsed."""
        if self.package.unreadable:
            return set(self.package.files)
        reached = set().union(*(self.closure(folder) for folder in self.folders.values()))
        return {file for file in self.package.files if not _folder(file)} - reached


def _folder(file: str) -> str:
    """`tuners/loha/` of a file in it; empty of a file in no such folder."""
    parts = file.split("/")
    return f"{_TUNERS}{parts[1]}/" if len(parts) > 2 and file.startswith(_TUNERS) else ""


def _registered(package: Package) -> Iterator[tuple[str, str]]:
    """PEFT's name for each method's type, `LOHA`, and its folder: `register_peft_method(name="loha", …)`."""
    for file in package.files:
        if _folder(file) and file == f"{_folder(file)}{INIT}" and file not in package.unreadable:
            for node in ast.walk(ast.parse((package.folder / file).read_bytes())):
                if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "register_peft_method":
                    names = [getattr(word.value, "value", None) for word in node.keywords if word.arg == "name"]
                    yield from ((name.upper(), _folder(file)) for name in names if isinstance(name, str))


def _types(experiment: Experiment) -> Iterator[str]:
    """The types of the adapters that a case puts on, the first its own; none for full fine-tuning."""
    adapters: list[dict[str, Any]] = [experiment.adapter] if experiment.adapter else []
    adapters += [content for content in experiment.files.values() if isinstance(content, dict)]
    for adapter in adapters:
        if "peft_type" in adapter:
            yield str(adapter["peft_type"])
        if adapter.get("trainable_token_indices"):
            yield "TRAINABLE_TOKENS"


def _stories(experiment: Experiment) -> str:
    """What a life cycle does beside putting on its own adapter, as `cases.life_cycle.stories.stories_of` chooses."""
    train = experiment.train
    if experiment.case.task != STRUCTURES.name or train.dtype in QUANTISED:
        return ""
    return "mixing" if train.compile or train.use_amp else "converting"
