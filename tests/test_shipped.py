"""The wheel holds suites, tests and baselines, and `peftbench run` runs them in any folder, without a file there."""

import json
import re
import subprocess
import sys
import zipfile

import pytest
from support import REPOSITORY, assert_usage_error, output, skip_under_an_older_peft, unmeasured

from pytest_peftbench.commands.init.cases import STACK
from pytest_peftbench.suites import shipped as places
from pytest_peftbench.suites.shipped import shipped

skip_under_an_older_peft()

CASE = "life-cycle-structures-linear-loha-default"
# A folder in which nothing that pytest finds may have a say.
HOSTILE = {
    "pytest.ini": "[pytest]\naddopts = --cov=nothing --no-such-option\nfilterwarnings = error\n",
    "conftest.py": "raise SystemExit('the conftest.py of the folder was loaded')\n",
    "test_own.py": "def test_own():\n    raise SystemExit('the test of the folder was run')\n",
}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The package as pip installs it from its wheel."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(folder)]
    subprocess.run(command, cwd=REPOSITORY, env=unmeasured(), capture_output=True, check=True, timeout=120)
    (file,) = folder.glob("*.whl")
    with zipfile.ZipFile(file) as archive:
        archive.extractall(folder / "installed")
    return folder / "installed"


@pytest.fixture
def hostile(tmp_path):
    for name, text in HOSTILE.items():
        (tmp_path / name).write_text(text)
    return tmp_path


def files(folder):
    return {path.relative_to(folder): path.stat().st_mtime_ns for path in sorted(folder.rglob("*"))}


def peftbench_run(package, folder, *arguments):
    """`peftbench run`, with the package in a folder of its own."""
    environment = {**unmeasured(), "PYTHONPATH": str(package), "PYTHONDONTWRITEBYTECODE": "1"}
    environment.pop("PYTEST_ADDOPTS", None)
    return subprocess.run(
        [sys.executable, "-m", "pytest_peftbench.commands", "run", *arguments],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=240,
    )


def test_a_checkout_s_own_suites_and_baselines_are_the_shipped_ones():
    assert shipped().benchmarks == REPOSITORY / "benchmarks"
    assert shipped().baselines == REPOSITORY / "baselines"


def test_the_extra_of_what_baselines_were_recorded_with_is_what_they_say():
    pyproject = (REPOSITORY / "pyproject.toml").read_text(encoding="utf-8")
    (extra,) = re.findall(r"^recorded = \[(.+)\]$", pyproject, re.M)
    (file, *_) = sorted((REPOSITORY / "baselines" / "MetaMathQA").rglob("*.json"))
    environment = json.loads(file.read_text(encoding="utf-8"))["environment"]

    assert re.findall(r'"(.+?)"', extra) == [f"{name}=={environment[name]}" for name in STACK]


@pytest.mark.parametrize("name", ["benchmarks", "baselines"])
def test_the_wheel_holds_every_suite_test_and_baseline(name, wheel):
    here, held = files(REPOSITORY / name), files(wheel / "pytest_peftbench" / "shipped" / name)

    assert len(held) > 400
    assert sorted(path for path in here if "__pycache__" not in path.parts and path not in held) == []


def test_in_a_folder_of_another_project_the_shipped_cases_are_found_with_baselines_and_nothing_is_written(
    wheel, hostile
):
    before = files(wheel), files(hostile)

    result = peftbench_run(wheel, hostile, "-k", CASE, "--collect-only")

    assert result.returncode == 0, output(result)
    assert f"1 case of structures/linear; compared with {wheel / 'pytest_peftbench/shipped/baselines'}" in result.stdout
    assert "which holds 1 of them" in result.stdout
    assert (files(wheel), files(hostile)) == before


def test_the_shipped_baselines_are_not_updated(bench, monkeypatch):
    bench.record("-k", "lora")
    monkeypatch.setattr(places, "INSTALLED", bench.path)

    assert_usage_error(
        bench.run("-k", "lora", "--peft-update-baselines"),
        f"{bench.path / 'baselines'}: belongs to the installed pytest-peftbench",
        "`peftbench init` copies suites and baselines into a repository, where they can be updated",
    )


def test_a_red_case_of_the_package_asks_for_a_repository(bench, monkeypatch):
    bench.record("-k", "lora")
    bench.measures("lora", {"train_step.flops": 1_500_000_000})
    monkeypatch.setattr(places, "INSTALLED", bench.path)

    text = output(bench.run("-k", "lora"))

    assert "  peftbench init\n" in text
    assert "--peft-update-baselines" not in text


@pytest.mark.skipif(sys.version_info < (3, 11), reason="an older Python looks for modules in the working directory")
def test_pytest_s_exit_code_is_the_command_s_and_no_module_of_the_folder_is_imported(tmp_path):
    (tmp_path / "pytest.py").write_text("raise SystemExit('the module of the folder was imported')\n")

    result = peftbench_run(REPOSITORY, tmp_path, "--no-such-option")

    assert result.returncode == 4
    assert "unrecognized arguments: --no-such-option" in result.stderr
