"""What stays light: collecting, and each module that it needs, imports none of the libraries that take seconds."""

import subprocess
import sys

import pytest
from support import output

HEAVY = ("torch", "peft", "transformers", "diffusers", "datasets")
LIGHT = (
    "plugin",
    "commands",
    "report.terminal",
    "compare",
    "suites",
    "tasks",
    "tasks.config",
    "results.baseline",
    "measure.environment",
)
# Says at the end of a run which of them were imported.
REPORTS_IMPORTS = f"""
    import sys

    def pytest_unconfigure():
        print("imported:", *sorted(set({HEAVY}) & set(sys.modules)))
"""


def imported_by(code):
    program = f"import sys\n{code}\nprint('imported:', *sorted(set({HEAVY}) & set(sys.modules)))"
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.strip()


@pytest.mark.parametrize("module", LIGHT)
def test_a_module_that_collecting_needs_imports_nothing_heavy(module):
    assert imported_by(f"import pytest_peftbench.{module}") == "imported:"


def test_the_package_itself_imports_nothing_heavy():
    assert imported_by("from pytest_peftbench import run_experiment") == "imported:"


@pytest.mark.parametrize("arguments", [("--collect-only",), ("--collect-only", "-k", "loha", "-q"), ("--fixtures",)])
def test_a_run_that_only_collects_imports_nothing_heavy(bench, arguments):
    bench.trains()
    bench.write("conftest.py", REPORTS_IMPORTS)

    result = bench.spawn(*arguments)

    assert result.returncode == 0
    assert "imported:\n" in output(result)


def test_a_heavy_import_would_be_noticed(bench):
    """Shows that the test above can fail; the stand-in for torch saves its seconds."""
    bench.write("torch.py", "")
    bench.write("conftest.py", "    import torch\n" + REPORTS_IMPORTS)

    assert "imported: torch\n" in output(bench.spawn("--collect-only", PYTHONPATH="."))
