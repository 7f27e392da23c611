"""Sessions of pytest with a PEFT of their own, each in its process."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from pytest_peftbench.commands.ab.peft_sources import PeftSource
from pytest_peftbench.commands.run import ALONE, shipped_arguments
from pytest_peftbench.results.files import InputError, converted, read_json, write_json
from pytest_peftbench.results.orders import ORDERS, Clock, Orders, Told

_PLUGIN = ("-p", "pytest_peftbench.plugin.side", "--peft-no-ci")
_QUIET = ("-q", "--no-header", "--no-summary")
# Options of pytest with a value of its own, which is no path to tests; and which of them change no figure.
_WITH_VALUE: tuple[str, ...] = ("-k", "-m", "-n", "-p", "-o", "-c", "-W")
_WITH_VALUE += tuple(f"--peft-{name}" for name in ("suite", "seeds", "data", "models", "device", "green"))
_HARMLESS = ("-k", "-m", "-n")
_FLAGS = ("-v", "-vv", "-q", "-x", "-s", "-l", "-ra", "--exitfirst")
# What a comparison of two sides decides itself.
_OURS = frozenset(
    f"--peft-{name}"
    for name in ("json", "html", "baselines", "update-baselines", "no-compare", "calibrate", "bisect", "bisect-bad")
)
_STDERR = 2


@dataclass
class Sessions:
    """Runs sessions with the arguments of pytest's that the user gave. folder: for files of their own."""

    arguments: Sequence[str]
    folder: Path
    _count: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        for word in self.arguments:
            if word.partition("=")[0] in _OURS:
                raise InputError(
                    f"{word.partition('=')[0]}: is not for `peftbench ab`, which compares two sides itself"
                )

    def collect(self, source: PeftSource) -> Told:
        """The selected cases, nothing run. Raises InputError where pytest refuses, or PEFT cannot be imported."""
        orders = self._orders(source, imports=True)
        done = self._start(source, orders, ["--collect-only"], subprocess.PIPE)
        text, errors = done.communicate()
        told = self._told(source, orders, done.returncode, errors or text)
        if not told.cases:
            raise InputError("no case is selected; see -k and the folder given")
        return told

    def measure(self, source: PeftSource, cases: Iterable[str], *own: str) -> Told:
        """Run cases; what came of each. own: the arguments that say what is done with the results."""
        orders = self._orders(source, imports=True, cases=list(cases))
        done = self._start(source, orders, own, _STDERR)
        _, errors = done.communicate()
        return self._told(source, orders, done.returncode, errors)

    def clock(self, source: PeftSource, cases: Iterable[str], clock: Clock) -> subprocess.Popen[str]:
        """A session that times the steps of cases on demand, in one process."""
        orders = self._orders(source, cases=list(cases), clock=clock)
        alone = ["-n0"] if importlib.util.find_spec("xdist") and "no:xdist" not in self.arguments else []
        return self._start(source, orders, ["--peft-no-compare", *alone], subprocess.DEVNULL)

    def settings(self) -> list[str]:
        """The arguments and variables that figures may depend on; not which cases, nor how many at a time."""
        kept: list[str] = []
        skip = False
        for word, after in zip(self.arguments, [*self.arguments[1:], ""], strict=False):
            if skip or word in _FLAGS or _is_path(word):
                skip = False
            elif word in _WITH_VALUE:
                skip = True
                kept += [word, after] if word not in _HARMLESS else []
            elif not word.startswith(_HARMLESS):
                kept.append(word)
        return [*kept, *(f"{name}={value}" for name, value in sorted(os.environ.items()) if _may_matter(name))]

    def _orders(
        self, source: PeftSource, imports: bool = False, cases: list[str] | None = None, clock: Clock | None = None
    ) -> Path:
        self._count += 1
        file = self.folder / f"orders-{self._count}.json"
        orders = Orders(str(source.folder), str(_report_of(file)), imports, cases, clock)
        write_json(file, msgspec.to_builtins(orders))
        return file

    def _start(self, source: PeftSource, orders: Path, own: Iterable[str], stdout: int) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "pytest", *_PLUGIN, *ALONE, *self._paths(), *self.arguments, *_QUIET, *own]
        path = os.pathsep.join(filter(None, (str(source.folder), os.environ.get("PYTHONPATH"))))
        environment = {**os.environ, "PYTHONSAFEPATH": "1", "PYTHONPATH": path, ORDERS: str(orders)}
        return subprocess.Popen(
            command, env=environment, stdout=stdout, stderr=subprocess.PIPE, text=True, errors="replace"
        )

    def _paths(self) -> list[str]:
        """The cases in `benchmarks`, or those that come with the package, where the user names none."""
        values = {after for word, after in zip(self.arguments, self.arguments[1:], strict=False) if word in _WITH_VALUE}
        if any(_is_path(word) for word in self.arguments if word not in values):
            return []
        return ["benchmarks"] if Path("benchmarks").is_dir() else shipped_arguments()

    def _told(self, source: PeftSource, orders: Path, code: int, text: str) -> Told:
        report = _report_of(orders)
        if code in (0, 1, 2) and report.exists():
            return converted(report, read_json(report), Told)
        nothing = ["no case is selected; see -k and the folder given"]
        words = nothing if code == 5 else _errors(text) or ["it gave no reason"]
        # a copy, by the name that it had in PEFT
        told = "\n".join(words).replace(f"{source.folder}{os.sep}", "")
        raise InputError(f"{source.label}: pytest ended with code {code}: {told}")


def _errors(text: str) -> list[str]:
    """What pytest says went wrong, of all that it says; its last line where it says nothing like it."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    of_parser = [line.partition(": error: ")[2] for line in lines if ": error: " in line]
    others = [line.removeprefix("ERROR: ") for line in lines if line.startswith(("ERROR: ", "E  "))]
    return of_parser or others or lines[-1:]


def _report_of(orders: Path) -> Path:
    return orders.with_name(orders.name.replace("orders", "told"))


def _is_path(word: str) -> bool:
    return not word.startswith("-") and Path(word.partition("::")[0]).exists()


def _may_matter(name: str) -> bool:
    prefixes = ("PEFT", "PYTEST_ADDOPTS", "TORCH", "PYTORCH", "TRANSFORMERS", "HF_", "CUDA", "CUBLAS", "PYTHONHASHSEED")
    return name.startswith(prefixes) and "TOKEN" not in name and name != ORDERS
