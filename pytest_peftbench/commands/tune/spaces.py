"""What is searched: for each method the learning rate and keys of its config, within bounds that are fixed before."""

from __future__ import annotations

import difflib
import hashlib
import json
import math
import zlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from pytest_peftbench.commands.tune.optional import optuna
from pytest_peftbench.results.files import InputError, converted, read_json
from pytest_peftbench.suites import Experiment

SPACES = Path(__file__).with_name("spaces.json")
RATE = "lr"
FULL = "FULL"
# A best value that lies in this share of a range's ends is as good as at its bound.
_NEAR = 0.05

Number = int | float
Setting = bool | int | float | str
Values = dict[str, Setting]


@dataclass(frozen=True)
class Range:
    """Numbers from low to high, both included; whole ones where both bounds are. log: evenly in their logarithm."""

    low: Number
    high: Number
    log: bool = False

    @property
    def whole(self) -> bool:
        """Whether only whole numbers are meant."""
        return isinstance(self.low, int) and isinstance(self.high, int)

    def problem(self) -> str:
        """Why nothing can be drawn from it; empty where something can."""
        if not -math.inf < self.low < self.high < math.inf:
            return f"low must be below high, is {self.low} to {self.high}"
        return f"low must be above 0 where log is true, is {self.low}" if self.log and self.low <= 0 else ""

    def bound(self, value: Any) -> str:
        """`lower bound 0.001` where a value lies there, or next to it; else empty."""
        low, high, at = (math.log(x) if self.log else x for x in (self.low, self.high, value))
        if min(at - low, high - at) > _NEAR * (high - low):
            return ""
        return f"lower bound {self.low}" if at - low < high - at else f"upper bound {self.high}"


@dataclass(frozen=True)
class Choice:
    """One of some settings, each as likely as any other."""

    choices: tuple[Setting, ...]

    def problem(self) -> str:
        """Why nothing can be drawn from it; empty where something can."""
        return "" if len(set(map(repr, self.choices))) == len(self.choices) > 1 else "needs two choices that differ"

    def bound(self, value: Any) -> str:
        """The same of numbers, the last choice on either side; 0, which nothing is below, and words are no bounds."""
        if not value or not all(type(choice) in (int, float) for choice in self.choices):
            return ""
        ends = {min(self.choices): "lower", max(self.choices): "upper"}
        return f"{ends[value]} bound {value}" if value in ends and len(self.choices) > 2 else ""


@dataclass(frozen=True)
class Space:
    """What is searched for one experiment, by the names of the values: `lr`, then keys of `adapter_config.json`."""

    dimensions: Mapping[str, Range | Choice]

    @property
    def digest(self) -> str:
        """Hash of all bounds and choices."""
        return hashlib.sha256(json.dumps(self.to_json(), sort_keys=True).encode()).hexdigest()[:16]

    def to_json(self) -> dict[str, Any]:
        """As `spaces.json` has it."""
        return {
            name: list(item.choices) if isinstance(item, Choice) else asdict(item)
            for name, item in self.dimensions.items()
        }

    def at_bounds(self, values: Mapping[str, Setting]) -> Iterator[str]:
        """Which of the values lie at a bound, in words."""
        for name, value in values.items():
            if bound := self.dimensions[name].bound(value):
                shown = f"{value:.3g}" if isinstance(value, float) else value
                yield f"{name} {shown} is at its {bound}"


@dataclass(frozen=True)
class _Method:
    rate: str
    keys: dict[str, list[bool | int | float | str] | Range]


@dataclass(frozen=True)
class _Spaces:
    rates: dict[str, Range]
    methods: dict[str, _Method]


@cache
def read_spaces(file: Path) -> Mapping[str, Space]:
    """The spaces of a file by PEFT type; `FULL` is full fine-tuning. Raises InputError naming file and key."""
    read = converted(file, read_json(file), _Spaces)
    found = {}
    for name, method in read.methods.items():
        if method.rate not in read.rates:
            raise InputError(f"{file}: methods.{name}.rate: {method.rate!r} is none of {', '.join(read.rates)}")
        if RATE in method.keys:
            raise InputError(f"{file}: methods.{name}.keys.{RATE}: the learning rate's range is its rate's")
        keys = {key: Choice(tuple(item)) if isinstance(item, list) else item for key, item in method.keys.items()}
        found[name] = Space({RATE: read.rates[method.rate], **keys})
        for key, item in found[name].dimensions.items():
            if problem := item.problem():
                place = f"rates.{method.rate}" if key == RATE else f"methods.{name}.keys.{key}"
                raise InputError(f"{file}: {place}: {problem}")
    return found


def method_of(experiment: Experiment) -> str:
    """The name of an experiment's method in a file of spaces."""
    return FULL if experiment.adapter is None else str(experiment.adapter["peft_type"])


def space_of(experiment: Experiment, file: Path, searched: Collection[str] = ()) -> Space:
    """What is searched for an experiment. searched: these values alone, those that its method has; all if empty.

    Raises InputError where the file has no space for its method.
    """
    spaces, method = read_spaces(file), method_of(experiment)
    if method not in spaces:
        raise InputError(f"{file}: methods: has no {method}, which {experiment.case.experiment} is; add it")
    chosen = {name: item for name, item in spaces[method].dimensions.items() if not searched or name in searched}
    return Space(chosen)


def require_known(searched: Sequence[str], spaces: Mapping[str, Space]) -> None:
    """Raise InputError for a value that no method has, of those that an option names."""
    known = sorted({name for space in spaces.values() for name in space.dimensions})
    for name in searched:
        if name not in known:
            meant = difflib.get_close_matches(name, known, n=1)
            hint = f"; {meant[0]!r}?" if meant else f"; there are {', '.join(known)}"
            raise InputError(f"--search {name}: nothing of that name is searched{hint}")


def draws(space: Space, count: int, seed: int) -> list[Values]:
    """`count` independent draws; the first ones are the same whatever the count.

    A value's draws depend on the seed, its name and its bounds alone, so each method of a kind tries the same learning
    rates: none has the better luck with them.
    """
    columns = {name: _drawn(name, item, count, seed) for name, item in space.dimensions.items()}
    return [{name: column[number] for name, column in columns.items()} for number in range(count)]


def _drawn(name: str, item: Range | Choice, count: int, seed: int) -> list[Setting]:
    sampler = optuna().samplers.RandomSampler(seed=zlib.crc32(f"{seed} {name}".encode()))
    study = optuna().create_study(sampler=sampler)
    return [study.ask({name: distribution(item)}).params[name] for _ in range(count)]


def distribution(item: Range | Choice) -> Any:
    """The same in Optuna's words."""
    kinds = optuna().distributions
    if isinstance(item, Choice):
        return kinds.CategoricalDistribution(item.choices)
    kind = kinds.IntDistribution if item.whole else kinds.FloatDistribution
    return kind(item.low, item.high, log=item.log)


def with_values(experiment: Experiment, values: Mapping[str, Setting], seed: int) -> Experiment:
    """The experiment with these values and this one training seed.

    An argument of the optimizer's that has the name of one of the adapter's keys follows it, as LoRA-FA's `r` does.
    """
    adapter = {key: value for key, value in values.items() if key != RATE}
    kwargs = experiment.train.optimizer_kwargs
    kwargs = {**kwargs, **{key: value for key, value in values.items() if key == RATE or key in kwargs}}
    return replace(
        experiment,
        train=replace(experiment.train, optimizer_kwargs=kwargs),
        adapter=None if experiment.adapter is None else {**experiment.adapter, **adapter},
        seeds=(seed,),
    )
