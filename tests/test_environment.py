import os
import platform
import random
import subprocess
import sys

import numpy
import pytest
import torch

from pytest_peftbench.measure import environment
from pytest_peftbench.measure.environment import deterministic, installed, seed_everything
from pytest_peftbench.results.files import InputError

PINNED = ("ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA", "MKL_CBWR", "OMP_NUM_THREADS", "MKL_NUM_THREADS")


def python(code):
    """What Python prints, in a process whose environment is not pinned."""
    variables = {name: value for name, value in os.environ.items() if name not in PINNED}
    answer = subprocess.run([sys.executable, "-c", code], env=variables, capture_output=True, text=True, check=True)
    return answer.stdout.split()


def has_avx2():
    return platform.machine() == "x86_64" and torch.backends.cpu.get_cpu_capability() != "DEFAULT"


PROBE = """
from pytest_peftbench.measure import environment; environment.pin()
import torch
print(torch.backends.cpu.get_cpu_capability(), torch.get_num_threads(), environment.arithmetic("cpu"))
"""


@pytest.mark.skipif(not has_avx2(), reason="no x86-64 processor with AVX2")
def test_pinned_processes_compute_with_the_kernels_for_avx2_and_one_thread_and_alike():
    assert python(PROBE) == ["AVX2", "1", environment.arithmetic("cpu")]


@pytest.mark.skipif(not has_avx2(), reason="no x86-64 processor with AVX2")
def test_the_arithmetic_of_other_instructions_is_another():
    otherwise = python(PROBE.replace("import torch", "import os; os.environ['MKL_CBWR'] = 'COMPATIBLE'; import torch"))

    assert otherwise[:2] == ["AVX2", "1"]
    assert otherwise[2] != environment.arithmetic("cpu")


def test_pinning_reaches_the_processes_started_afterwards():
    code = (
        "import os, subprocess, sys; from pytest_peftbench.measure import environment; environment.pin();"
        "subprocess.run([sys.executable, '-c', 'import os; print(os.environ[\"OMP_NUM_THREADS\"])'])"
    )

    assert python(code) == ["1"]


def test_pinned_after_torch_is_imported_nothing_changes(monkeypatch):
    for name in PINNED:
        monkeypatch.delenv(name, raising=False)
    before = dict(os.environ)

    environment.pin()

    assert dict(os.environ) == before


def test_pinning_and_describing_packages_import_no_torch():
    code = (
        "import sys; from pytest_peftbench.measure import environment;"
        "environment.pin(); environment.installed('torch');"
        "print('torch' in sys.modules)"
    )

    assert python(code) == ["False"]


@pytest.mark.skipif(platform.machine() in ("x86_64", "AMD64"), reason="other processors only")
def test_other_processors_have_no_instruction_set_to_pin():
    assert "AVX2" not in environment.describe("cpu").values()


def test_the_description_names_what_figures_depend_on():
    described = environment.describe("cpu")

    assert described["torch"] == torch.__version__.split("+")[0]
    assert described["threads"] == "1"
    assert described["device"] == "cpu"
    assert described["accelerator"] == "none"
    assert all(isinstance(value, str) and value for value in described.values())


def test_a_package_that_is_missing_is_not_installed():
    assert installed("torch")[0].isdigit()
    assert installed("no-such-package-of-ours") == "not installed"


def settings():
    return (
        torch.get_num_threads(),
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
    )


@pytest.fixture
def two_threads():
    """Settings of a caller that are not the defaults."""
    before = settings()
    torch.set_num_threads(2)
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield (2, True, True)
    torch.use_deterministic_algorithms(before[1], warn_only=before[2])
    torch.set_num_threads(before[0])


def test_the_body_runs_deterministically_on_one_thread_and_the_caller_s_settings_come_back(two_threads):
    with deterministic("cpu"):
        assert settings() == (1, True, False)

    assert settings() == two_threads


def test_the_caller_s_settings_come_back_after_an_error(two_threads):
    with pytest.raises(ZeroDivisionError), deterministic("cpu"):
        raise ZeroDivisionError

    assert settings() == two_threads


def test_an_operator_without_a_deterministic_kernel_fails_on_the_cpu_and_warns_on_an_accelerator():
    with deterministic("cpu"):
        assert not torch.is_deterministic_algorithms_warn_only_enabled()
    with deterministic("cuda"):
        assert torch.is_deterministic_algorithms_warn_only_enabled()


def test_the_same_seed_gives_the_same_numbers_of_every_generator():
    def draw(seed):
        seed_everything(seed)
        return random.random(), numpy.random.rand(), torch.rand(1).item()

    first = draw(0)

    assert draw(0) == first
    assert not set(draw(1)) & set(first)


@pytest.mark.parametrize(
    ("error", "reason"), [(RuntimeError("no driver\nfound"), "no driver"), (AssertionError(), "AssertionError")]
)
def test_a_device_that_torch_cannot_use_is_told_with_the_first_line_of_the_reason(monkeypatch, error, reason):
    def fail(*args, **kwargs):
        raise error

    monkeypatch.setattr(torch, "empty", fail)
    with pytest.raises(InputError, match=f"--peft-device cuda: torch .* cannot run there: {reason}$"):
        environment.check_device("cuda")
