"""A third task that a user brings from outside of the package (`own_task/`): no module of ours knows it."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from support import PLUGINS, output, unmeasured

HERE = Path(__file__).parent
CASE = "mood-tiny-bert-lora-r4"
# No clock: another process on the machine must not turn a case red.
NO_CLOCK = """
    import pytest

    @pytest.fixture(autouse=True)
    def no_clock(monkeypatch):
        from pytest_peftbench.measure import timing

        monkeypatch.setattr(timing, "compare", lambda *_, **__: timing.Timing(1.0, 1.0, 1.0, 0.01, ()))
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """What the user has written, and nothing else."""
    folder = tmp_path_factory.mktemp("user") / "benchmarks"
    shutil.copytree(HERE / "own_task", folder, ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "pytest.ini").write_text("[pytest]\n")
    with (folder / "conftest.py").open("a") as file:
        file.write("\n".join(line.removeprefix("    ") for line in NO_CLOCK.splitlines()))
    return folder


def run(folder, *arguments, **environment):
    return subprocess.run(
        [sys.executable, "-m", "pytest", *PLUGINS[:-2], "-p", "no:randomly", *arguments],
        cwd=folder,
        env={**unmeasured(), "COLUMNS": "200", **environment},
        capture_output=True,
        text=True,
        timeout=240,
    )


@pytest.fixture(scope="module")
def recorded(folder):
    return run(folder, "--peft-update-baselines", "--peft-seeds", "2", "--peft-json", "results")


def test_its_experiments_are_trained_and_its_figures_stand_in_a_table_of_its_own(recorded):
    assert recorded.returncode == 0, output(recorded)
    (header, row) = [line for line in recorded.stdout.splitlines() if line.startswith(("case ", CASE + " "))][-2:]
    assert header.split()[:4] == ["case", "verdict", "told", "step"]
    assert row.split()[:2] == [CASE, "recorded"]


def test_its_metrics_and_samples_are_written(folder, recorded):
    result = json.loads((folder / "results/mood/tiny-bert/lora--r4.json").read_text())

    (first, second) = result["peftbench"]["seeds"]
    for run_of_seed in (first, second):
        told = run_of_seed["samples"]["test_told"]
        assert run_of_seed["metrics"]["test_mood_accuracy"] == told.count("1") / len(told)
    assert result["run_info"]["train_config"]["words"] == 9
    assert result["train_info"]["metrics"][-1]["test mood_accuracy"] == first["metrics"]["test_mood_accuracy"]
    # it does not generate
    assert not [name for name in result["peftbench"]["metrics"] if name.startswith("decode")]


def test_its_next_run_is_identical_and_a_worse_result_red_by_its_own_metric(folder, recorded):
    assert (folder / "baselines/mood/tiny-bert/lora--r4.json").exists()
    changed = shutil.copytree(folder, folder.parent / "changed")
    # worse without an adapter, and with one as it was
    told, worse = 'batch["labels"]).tolist()', '(batch["labels"] ^ (not hasattr(model, "peft_config")))).tolist()'
    (changed / "mood_task.py").write_text((changed / "mood_task.py").read_text().replace(told, worse))

    result = run(changed)

    assert result.returncode == 1
    assert "2 cases: 1 identical, 1 regressed" in result.stdout, output(result)
    assert re.search(rf"^{CASE} +identical", result.stdout, re.MULTILINE)
    assert "test_mood_accuracy regressed: 100 % -> 0 % (-100 points, margin 5 points" in output(result)


def test_it_has_no_footprint_since_it_says_nothing_about_shapes(folder):
    (folder / "test_counted.py").write_text(
        "import pytest\n\n@pytest.mark.peft_footprint\ndef test_counted(experiment, peft_baseline): ...\n"
    )

    result = run(folder, "--collect-only", "test_counted.py")

    assert result.returncode == 4
    assert "holds one on a real base model" in output(result)


def test_an_installed_package_registers_it_by_an_entry_point(folder, tmp_path):
    """Without a conftest.py: where the package is installed, the task is known, to the commands too."""
    package = tmp_path / "site"
    shutil.copytree(folder / "mood", tmp_path / "mood")
    package.mkdir()
    for file in ("mood.py", "mood_task.py"):
        shutil.copy(folder / file, package)
    info = package / "mood-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: mood\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[pytest_peftbench.tasks]\nmood = mood:SPEC\n")
    shutil.copy(folder / "test_mood.py", tmp_path)
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    path = os.pathsep.join([str(package), *filter(None, [os.environ.get("PYTHONPATH")])])

    result = run(tmp_path, "--collect-only", "-q", "test_mood.py", PYTHONPATH=path)

    assert f"test_mood[{CASE}]" in result.stdout, output(result)


def test_another_task_of_the_same_name_is_refused(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "twice")
    (tmp_path / "twice" / "conftest.py").write_text(
        "from dataclasses import replace\n\nfrom mood import SPEC\n\nfrom pytest_peftbench import register_task\n\n"
        'register_task(replace(SPEC, name="MetaMathQA"))\n'
    )

    result = run(tmp_path / "twice", "--collect-only")

    assert result.returncode == 4
    assert "task 'MetaMathQA' is registered already" in output(result)
