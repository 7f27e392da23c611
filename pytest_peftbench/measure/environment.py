"""The environment that figures depend on: pinned before torch is imported, described beside every result."""

from __future__ import annotations

import hashlib
import os
import platform
import random
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from pytest_peftbench.results.files import InputError
from pytest_peftbench.results.words import first_line

THREADS = 1
# The same bits on processors of one kind with AVX2: AVX-512 and AVX2 differ in the seventh digit after 15 steps. There
# is no branch of MKL that Intel and AMD share to the bit: COMPATIBLE takes three times as long per product, and
# training still parts within four steps. `arithmetic` tells the kinds apart; where it differs, the witness tells.
_PINS = {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2", "MKL_CBWR": "AVX2"}
# On Intel's newest processors the same product comes out otherwise in the last bit beside an adapter, unless it is
# strict; AMD's have no such mode.
_INTEL_PINS = {"MKL_CBWR": "AVX2,STRICT"}
# Another instruction set, as a stand-in for another processor: asked for by ARITHMETIC=other.
_OTHER_PINS = {"ATEN_CPU_CAPABILITY": "default", "ONEDNN_MAX_CPU_ISA": "SSE41", "MKL_CBWR": "COMPATIBLE"}
ARITHMETIC = "PEFTBENCH_ARITHMETIC"
_THREADS = {"OMP_NUM_THREADS": str(THREADS), "MKL_NUM_THREADS": str(THREADS), "TOKENIZERS_PARALLELISM": "false"}
# A bar per file of a few kilobytes tells nothing; the plugin shows its own progress.
_QUIET = {"HF_DATASETS_DISABLE_PROGRESS_BARS": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}


def pin() -> None:
    """Fix instruction sets and threads of this process and its children. Works only before torch is imported."""
    if "torch" not in sys.modules:  # too late otherwise: `WATCH` knows who imported it
        os.environ.update(_THREADS | _QUIET | instruction_sets())


def instruction_sets() -> dict[str, str]:
    """The variables that decide which instructions torch computes with, as `pin` sets them; none but on x86."""
    if not is_x86():
        return {}
    if os.environ.get(ARITHMETIC) == "other":
        return _OTHER_PINS
    return _PINS | (_INTEL_PINS if _is_intel() else {})


def is_x86() -> bool:
    """Whether the processor is one whose instruction sets are pinned."""
    return platform.machine().lower() in ("x86_64", "amd64")


def _is_intel() -> bool:
    """Whether Intel made this x86 processor; all Macs of that kind have one."""
    return sys.platform == "darwin" or "GenuineIntel" in _processors()


def processor() -> str:
    """The processor's make and model, as the system words them."""
    lines = (line for line in _processors().splitlines() if line.startswith("model name"))
    return next(lines, platform.processor()).partition(":")[2].strip() or platform.processor()


def _processors() -> str:
    linux = Path("/proc/cpuinfo")
    return linux.read_text() if linux.exists() else platform.processor()


class TorchWatch:
    """A finder of modules that finds none: it sees torch being imported, just before it reads its environment.

    wanted: whether this process may come to measure, so that it is pinned then. culprit: who imported torch while it
    was not pinned, as `conftest.py:3`; empty where figures can be relied on.
    """

    def __init__(self) -> None:
        self.wanted: Callable[[], bool] = lambda: False
        self.culprit = ""
        if "torch" in sys.modules and not _is_pinned():
            self.culprit = "what was loaded before pytest-peftbench"

    def find_spec(self, name: str, path: object = None, target: object = None) -> None:
        """Called for each module that is looked for; torch may be looked for several times until it is imported."""
        if name == "torch":
            if self.wanted():
                pin()
            self.culprit = "" if _is_pinned() else _importer()


def _is_pinned() -> bool:
    return instruction_sets().items() <= os.environ.items()


def _importer() -> str:
    """The place outside of pytest and of Python's import system from which the import under way began."""
    place, frame = "an import", sys._getframe(2)
    while frame is not None and not {"_pytest", "pluggy"} & set(Path(frame.f_code.co_filename).parts):
        if "importlib" not in frame.f_code.co_filename:
            place = f"{frame.f_code.co_filename}:{frame.f_lineno}"
        frame = frame.f_back  # type: ignore[assignment]
    return place


WATCH = TorchWatch()
sys.meta_path.insert(0, WATCH)


def installed(package: str) -> str:
    """Version of an installed package, without its build tag, or "not installed". Imports nothing."""
    try:
        return version(package).split("+")[0]
    except PackageNotFoundError:
        return "not installed"


def lacking(package: str) -> str:
    """Why a case that needs an optional package is skipped; empty where it is installed, or none is needed."""
    if not package or installed(package) != "not installed":
        return ""
    return f"needs {package}: pip install 'pytest-peftbench[quantised]'"


def check_device(device: str) -> None:
    """Raise InputError unless torch can run on `device`. For the CPU, where it always can, torch is not imported."""
    if device == "cpu":
        return
    import torch

    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = first_line(error)
        raise InputError(f"--peft-device {device}: torch {torch.__version__} cannot run there: {reason}") from error


def describe(device: str) -> dict[str, str]:
    """What figures depend on, by name; the keys that a metric `needs` must be equal for it to be comparable."""
    import torch

    environment = {name: installed(name) for name in ("torch", "transformers", "diffusers", "peft")}
    environment["python"] = platform.python_version()
    environment["machine"] = platform.machine()
    environment["cpu_capability"] = torch.backends.cpu.get_cpu_capability()
    environment["threads"] = str(torch.get_num_threads())
    environment["device"] = torch.device(device).type
    environment["accelerator"] = accelerator_name(device)
    environment["arithmetic"] = arithmetic(device)
    return environment


@cache
def arithmetic(device: str) -> str:
    """Short hash of what this process computes from fixed numbers: equal where the same bits may be expected.

    It tells apart what no version does: the processor's vendor, where a library has kernels of its own for it, and
    instruction sets that were not pinned because torch was imported first.
    """
    import torch
    from torch.nn import functional

    with deterministic(device), torch.random.fork_rng(devices=[]), torch.no_grad():
        generator = torch.Generator().manual_seed(0)
        wide, square, image, kernel = (
            torch.randn(shape, generator=generator).to(device)
            for shape in ((67, 515), (67, 67), (1, 6, 19, 19), (9, 6, 3, 3))
        )
        found = [
            wide @ wide.T,
            wide.T @ wide,
            square @ wide,
            functional.conv2d(image, kernel),
            functional.layer_norm(wide.softmax(-1), (515,)),
            torch.cat([function(square) for function in (torch.exp, torch.cos, torch.tanh, torch.erf)]),
            torch.linalg.svdvals(square),
        ]
    sha = hashlib.sha256()
    for tensor in found:
        sha.update(tensor.cpu().contiguous().numpy().tobytes())
    return sha.hexdigest()[:12]


def accelerator_name(device: str) -> str:
    """Name of the accelerator, or "none" on a CPU."""
    import torch

    kind = torch.device(device).type
    module = getattr(torch, kind, None)
    if kind == "cpu":
        return "none"
    return str(module.get_device_name(device)) if module and hasattr(module, "get_device_name") else kind


def seed_everything(seed: int) -> None:
    """Seed Python, NumPy and torch (all devices)."""
    import numpy
    import torch

    random.seed(seed)
    numpy.random.seed(seed)
    if torch.accelerator.is_available():
        torch.manual_seed(seed)
    else:  # without one, torch keeps a stack trace of each call for the day when there is
        torch.default_generator.manual_seed(seed)


@contextmanager
def deterministic(device: str) -> Iterator[None]:
    """One thread and deterministic kernels while the body runs; the caller's settings are restored after it.

    oneDNN and NNPACK are off: how they cut a convolution into blocks, and so its last bits, depends on the processor's
    caches. On an accelerator an operator without a deterministic kernel warns instead of failing.
    """
    import torch

    threads = torch.get_num_threads()
    enabled, warn_only = (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
    )
    onednn: Any = torch.backends.mkldnn  # its annotations lie: `enabled` is a bool
    onednn_enabled = onednn.enabled
    torch.set_num_threads(THREADS)
    onednn.enabled = False
    torch.use_deterministic_algorithms(True, warn_only=torch.device(device).type != "cpu")
    try:
        with torch.backends.nnpack.flags(enabled=False):
            yield
    finally:
        onednn.enabled = onednn_enabled
        torch.use_deterministic_algorithms(enabled, warn_only=warn_only)
        torch.set_num_threads(threads)
