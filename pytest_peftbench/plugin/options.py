"""The options, each declared once, as a field of `Settings`: command line, ini file and documentation read it there."""

from __future__ import annotations

import os
from argparse import ArgumentTypeError
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, NamedTuple, get_type_hints

import pytest

from pytest_peftbench.compare import GREEN_BY_DEFAULT, SEVERITY, Verdict
from pytest_peftbench.results.files import MOST_SEEDS, InputError, positive, resolved

Parse = Callable[[str, Path], Any]
# More shards than anyone has machines.
_MOST_PARTS = 10_000


@dataclass(frozen=True)
class Option:
    """`--peft-seeds` on the command line, `peft_seeds` in the ini file, the field `seeds` of `Settings`.

    name: of the field. help: what the option does. metavar: what its value is called. parse: the value that a text
    stands for, a relative path starting at the folder; raises InputError. None: a flag, which takes no value.
    default: the text that holds where none is given; empty: the field is None then. unless_given: the default in words,
    where its text does not say it. repeatable: given again it adds a value. recording: whether the command that
    records a case repeats it.
    """

    help: str
    metavar: str = ""
    parse: Parse | None = None
    default: str = ""
    unless_given: str = ""
    repeatable: bool = False
    recording: bool = False
    name: str = ""

    @property
    def flag(self) -> str:
        """What it is called on the command line."""
        return "--" + self.ini.replace("_", "-")

    @property
    def ini(self) -> str:
        """What it is called in the ini file, and by `config.getoption`."""
        return f"peft_{self.name}"

    @property
    def description(self) -> str:
        """What it does and what holds without it."""
        default = self.unless_given or self.default
        return f"{self.help} (default: {default})" if default else self.help

    def add_to(self, parser: pytest.Parser, group: pytest.OptionGroup) -> None:
        """Add it to the command line, where argparse words a usage error, and to the ini file."""
        # default=None: an option that was not given must not shadow its ini twin
        given: dict[str, Any] = {"default": None, "help": self.description}
        if self.parse is None:
            group.addoption(self.flag, action="store_true", **given)
        else:
            action = "append" if self.repeatable else "store"
            group.addoption(self.flag, action=action, metavar=self.metavar, type=_checked(self.parse), **given)
        ini_type: Any = "bool" if self.parse is None else "linelist" if self.repeatable else "string"
        parser.addini(self.ini, self.description, type=ini_type, default=None)

    def value(self, config: pytest.Config) -> Any:
        """What its field of `Settings` holds. Raises InputError, naming it, for what cannot be used."""
        try:
            given, start = config.getoption(self.ini), config.invocation_params.dir
            if given is None:
                given, start = config.getini(self.ini), config.rootpath
            return self._parsed(given, start)
        except (TypeError, ValueError, pytest.UsageError) as error:
            raise InputError(f"{self.ini}: {error}") from error

    def origin(self, config: pytest.Config) -> str:
        """`--peft-seeds 3 (command line)`, `peft_seeds = 3 (pytest.ini)`; empty where the default holds."""
        given, flag = config.getoption(self.ini), self.flag
        if given is None:
            ini = config.getini(self.ini)
            values = ini if isinstance(ini, list) else [] if ini in (None, "") else [ini]
            where = config.inipath.name if config.inipath else "-o"
            return f"{self.ini} = {', '.join(map(str, values))} ({where})" if values else ""
        words = config.invocation_params.args
        typed = any(word == flag or word.startswith(f"{flag}=") for word in words)
        values = [] if given is True else given if isinstance(given, list) else [given]
        return f"{' '.join([flag, *map(str, values)])} ({'command line' if typed else 'addopts'})"

    def _parsed(self, given: Any, start: Path) -> Any:
        if self.parse is None:
            return bool(given)
        if self.repeatable:
            return tuple(self.parse(text, start) for text in given or ())
        text = given or self.default
        return self.parse(text, start) if text else None


def _checked(parse: Parse) -> Callable[[str], str]:
    """The text itself, which xdist can send to its workers, where it can be parsed."""

    def checked(text: str) -> str:
        try:
            parse(text, Path.cwd())
        except InputError as error:
            raise ArgumentTypeError(str(error)) from error
        return text

    return checked


def _seeds(text: str, start: Path) -> int:
    count = positive(text)
    if count > MOST_SEEDS:
        raise InputError(f"{text!r}: expected at most {MOST_SEEDS} seeds")
    return count


def _device(text: str, start: Path) -> str:
    # to torch `cpu:0` is another device than the one that tensors lie on, so that each `.to()` would be a call more
    return "cpu" if text.partition(":")[0] == "cpu" else text


def _revision(text: str, start: Path) -> str:
    if text.startswith("-") or not text.isprintable():
        raise InputError(f"{text!r}: expected a revision of git, such as origin/main")
    return text


def _path(text: str, start: Path) -> Path:
    return resolved(start / text)


def _folder(text: str, start: Path) -> Path:
    path = _path(text, start)
    if not path.is_dir():
        raise InputError(f"{path}: no such folder")
    return path


@dataclass(frozen=True)
class Part:
    """One of `count` parts of the selected tests, numbered from 1."""

    number: int
    count: int

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"


def _part(text: str, start: Path) -> Part:
    number, slash, count = text.partition("/")
    if not (slash and number.isdecimal() and count.isdecimal() and 1 <= int(number) <= int(count) <= _MOST_PARTS):
        raise InputError(f"{text!r}: expected i/n with 1 <= i <= n <= {_MOST_PARTS}, as 2/3")
    return Part(int(number), int(count))


def _verdicts(text: str, start: Path) -> frozenset[Verdict]:
    names = [name.strip() for name in text.split(",")]
    for name in names:
        if name not in SEVERITY:
            raise InputError(f"{name!r} is no verdict; there are {', '.join(SEVERITY)}")
    return frozenset(verdict for verdict in SEVERITY if verdict in names)


_GREEN = ",".join(verdict for verdict in SEVERITY if verdict in GREEN_BY_DEFAULT)


@dataclass(frozen=True)
class Settings:
    """What the options say. The field `seeds` is the option `--peft-seeds` and, in the ini file, `peft_seeds`.

    The command line comes before the ini file; relative paths start at the working directory there, at the root
    directory here.
    """

    update_baselines: Annotated[
        bool, Option("write the selected cases' figures as their new baselines and print old -> new")
    ]
    suite: Annotated[
        tuple[Path, ...],
        Option(
            "run the suites in this folder instead of those beside the tests; repeatable",
            "DIR",
            _path,
            repeatable=True,
            recording=True,
        ),
    ]
    baselines: Annotated[
        Path,
        Option(
            "folder of the baselines",
            "DIR",
            _path,
            default="baselines",
            unless_given="baselines in the root directory",
            recording=True,
        ),
    ]
    seeds: Annotated[
        int | None,
        Option(
            "training seeds per case, counted up from the experiment's own",
            "N",
            _seeds,
            unless_given="1, then the baseline's others where the first is not identical; 5 to record a baseline",
            recording=True,
        ),
    ]
    calibrate: Annotated[
        bool,
        Option(
            "train each of a baseline's seeds once more, on base weights moved by their last digit, and record how far "
            "its figures move"
        ),
    ]
    json: Annotated[Path | None, Option("write each case's result here, in PEFT's schema plus our block", "DIR", _path)]
    resume: Annotated[
        bool,
        Option(
            "with --peft-json: take a case from the result that lies there, where that is whole and made from the same"
        ),
    ]
    shard: Annotated[
        Part | None,
        Option(
            "run the i-th of n parts of the selected tests, spread by recorded durations; `peftbench merge` joins them",
            "I/N",
            _part,
        ),
    ]
    update_durations: Annotated[
        bool, Option("record how long each case took beside the baselines, for -n and --peft-shard to spread them by")
    ]
    html: Annotated[
        Path | None,
        Option("write a page to look at when the session ends: one file, which opens offline", "FILE", _path),
    ]
    no_compare: Annotated[bool, Option("measure only: compare with no baseline")]
    data: Annotated[
        Path | None,
        Option(
            "folder of the data sets, each in a folder named like the last part of its id",
            "DIR",
            _folder,
            unless_given="the hub",
            recording=True,
        ),
    ]
    models: Annotated[
        Path | None,
        Option(
            "folder of the base models, each in a folder named like the last part of its id",
            "DIR",
            _folder,
            unless_given="the hub",
            recording=True,
        ),
    ]
    affected: Annotated[
        str | None,
        Option(
            "run only the cases that the difference between a revision of git and the installed, editable PEFT can "
            "reach, and that of suites and baselines",
            "REV",
            _revision,
        ),
    ]
    check_reach: Annotated[
        bool,
        Option(
            "fail a case that executes a file of PEFT's which --peft-affected would not run it for; measure only: "
            "compare with no baseline"
        ),
    ]
    device: Annotated[str, Option("torch device to run on", "DEVICE", _device, default="cpu", recording=True)]
    green: Annotated[
        frozenset[Verdict],
        Option(
            "verdicts that pass, separated by commas",
            "VERDICTS",
            _verdicts,
            default=_GREEN,
        ),
    ]
    strict_env: Annotated[
        bool, Option("fail where torch, transformers or the processor's arithmetic are not the baseline's")
    ]
    bisect: Annotated[
        bool,
        Option("end with what `git bisect run` reads: 1 for a bad case, 125 where one could not be compared, else 0"),
    ]
    bisect_bad: Annotated[
        frozenset[Verdict],
        Option(
            "verdicts that are bad to --peft-bisect, separated by commas; `failed` finds a crash",
            "VERDICTS",
            _verdicts,
            default="regressed",
        ),
    ]
    no_ci: Annotated[
        bool, Option("leave out the step summary, the annotations and the JUnit properties that a run has in CI")
    ]

    @classmethod
    def from_pytest_config(cls, config: pytest.Config) -> Settings:
        """The settings of a session. Raises InputError, naming the option, for a value that cannot be used."""
        settings = cls(**{option.name: option.value(config) for option in OPTIONS})
        if settings.calibrate and settings.no_compare and not settings.update_baselines:
            raise InputError("peft_calibrate: needs the comparison that peft_no_compare leaves out; drop one of them")
        if settings.resume and settings.json is None:
            raise InputError("peft_resume: takes results from the folder that peft_json names; add --peft-json DIR")
        if settings.resume and (settings.update_baselines or settings.calibrate):
            raise InputError(
                "peft_resume: a baseline needs more than a result holds; drop it, or what records or calibrates"
            )
        if settings.update_durations and (settings.update_baselines or settings.calibrate or settings.resume):
            raise InputError(
                "peft_update_durations: what records, calibrates or resumes is not as fast as a comparison; drop it"
            )
        if settings.check_reach and (settings.update_baselines or settings.calibrate or settings.update_durations):
            raise InputError("peft_check_reach: what it records takes time, so that nothing may be recorded; drop it")
        if settings.check_reach and settings.resume:
            raise InputError("peft_check_reach: a case that is not run executes nothing; drop peft_resume")
        return replace(settings, no_compare=settings.no_compare or settings.check_reach)


OPTIONS: tuple[Option, ...] = tuple(
    replace(option, name=name)
    for name, hint in get_type_hints(Settings, include_extras=True).items()
    for option in hint.__metadata__
)
SETTINGS = pytest.StashKey[Settings]()


def add_options(parser: pytest.Parser) -> None:
    """Add each option to pytest's command line, and its twin to the ini file."""
    group = parser.getgroup("peftbench", "benchmarks of parameter-efficient fine-tuning methods")
    for option in OPTIONS:
        option.add_to(parser, group)


class Documented(NamedTuple):
    """What the documentation says about an option: `--peft-seeds N`, `peft_seeds`, its default in words, its help."""

    option: str
    ini: str
    default: str
    help: str


def documentation() -> list[Documented]:
    """What the documentation says about each option, in the order of `pytest --help`."""
    return [
        Documented(
            f"{option.flag} {option.metavar}".rstrip(), option.ini, option.unless_given or option.default, option.help
        )
        for option in OPTIONS
    ]


def short_path(path: Path, config: pytest.Config) -> str:
    """`path` as seen from the root directory or the working directory, if it lies there."""
    path = path.resolve()
    for folder in (config.rootpath.resolve(), config.invocation_params.dir.resolve()):
        if path.is_relative_to(folder):
            return path.relative_to(folder).as_posix()
    return str(path)


def relative_path(path: Path, folder: Path) -> str:
    """`path` as seen from a folder, which a command run there needs."""
    try:
        return os.path.relpath(path, folder)
    except ValueError:  # on another drive of Windows
        return str(path)
