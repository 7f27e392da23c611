"""Adapters that an earlier PEFT wrote: one for each method, read by the installed PEFT, and never written over."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from support import REPOSITORY, output, skip_under_an_older_peft, write_json
from test_life_cycle import BASELINES, case, findings

from pytest_peftbench.commands.selftest.patching import Edit
from pytest_peftbench.compare import compare
from pytest_peftbench.results.baseline import read
from pytest_peftbench.results.files import InputError, write_files
from pytest_peftbench.results.kept import RECORD_FILE, read_kept
from pytest_peftbench.results.metrics import METRICS
from pytest_peftbench.suites import peft_types

skip_under_an_older_peft()

FOLDERS = sorted(file.parent for file in (BASELINES / "life-cycle").rglob(RECORD_FILE))


def test_each_method_keeps_an_adapter_that_the_installed_peft_reads_and_all_are_small():
    words = {folder: read(folder.with_name(f"{folder.name}.json")).metrics["law.old"] for folder in FOLDERS}
    methods = {json.loads((folder / "adapter_config.json").read_text())["peft_type"] for folder in FOLDERS}
    files = [file for folder in FOLDERS for file in folder.rglob("*") if file.is_file()]

    assert methods == peft_types()
    assert {folder.name for folder in FOLDERS if words[folder] != "holds"} == {"xlora--experts2"}
    assert sum(file.stat().st_size for file in files) < 500 * 1024


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: f"{folder.parent.name}-{folder.name}")
def test_a_kept_adapter_is_as_it_was_written_and_names_no_machine_and_no_code_of_ours(folder):
    kept = read_kept(folder, read(folder.with_name(f"{folder.name}.json")).case)

    configs = b"".join(content for name, content in kept.files.items() if name.endswith(".json"))
    assert b"pytest_peftbench" not in configs
    assert b"/tmp" not in configs
    assert {file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file()} == {
        RECORD_FILE,
        *kept.files,
    }


FORMATS = {
    "where weights lie is drawn otherwise": (
        "linear/fourierft/default",
        Edit(
            "peft.tuners.fourierft.layer:FourierFTLayer.update_layer",
            "manual_seed(self.fourierft_random_loc_seed[adapter_name])",
            "manual_seed(self.fourierft_random_loc_seed[adapter_name] + 1)",
        ),
    ),
    "a projection that is not saved is drawn otherwise": (
        "llama1/vera/unsaved",
        Edit(
            "peft.tuners.vera.model:VeraModel._init_vera_A_vera_B",
            "manual_seed(config.projection_prng_key)",
            "manual_seed(config.projection_prng_key + 1)",
        ),
    ),
}


@pytest.mark.parametrize("fault", FORMATS)
def test_what_is_written_and_read_alike_and_not_as_before_is_red(fault):
    place, edit = FORMATS[fault]

    found = findings(place, edit)

    assert found["law.old"].verdict == "regressed"
    assert found["law.old"].expected == "holds"
    assert found["law.old"].obtained.startswith("broken: ")
    assert "law.save.load" not in found


# Files that are not as they were --------------------------------------------------------------------------------------


PLACE = "linear/unilora/default"


@pytest.fixture
def moved(tmp_path):
    """An experiment whose kept adapter lies in a folder of the test's own, and its baseline."""
    experiment, baseline = case(PLACE)
    kept = read_kept(experiment.kept, experiment.case)
    folder = tmp_path / "unilora--default"
    write_files({folder / name: content for name, content in kept.contents().items()})
    return replace(experiment, kept=folder), baseline


def live(experiment):
    from pytest_peftbench.cases.life_cycle.run import live_through

    return live_through(experiment)


def _cut(folder):
    file = folder / "adapter_model.safetensors"
    file.write_bytes(file.read_bytes()[:-1])


def _of_another_method(folder):
    other = BASELINES / "life-cycle" / "structures" / "linear" / "loha--default"
    (folder / "adapter_model.safetensors").write_bytes((other / "adapter_model.safetensors").read_bytes())


def _edited(folder):
    file = folder / "adapter_config.json"
    file.write_text(file.read_text().replace("UNILORA", "UNILORA2"))


def _all_of_another_method(folder):
    for file in (BASELINES / "life-cycle" / "structures" / "linear" / "loha--default").iterdir():
        (folder / file.name).write_bytes(file.read_bytes())


def _without_output(folder):
    record = json.loads((folder / RECORD_FILE).read_text())
    write_json(folder / RECORD_FILE, {**record, "output": []})


def _elsewhere(folder):
    record = json.loads((folder / RECORD_FILE).read_text())
    write_json(folder / RECORD_FILE, {**record, "sha256": {"../adapter_config.json": "0"}})


def _only_a_file(folder):
    for file in folder.iterdir():
        file.unlink()
    folder.rmdir()
    folder.write_text("")


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (_cut, r"adapter_model\.safetensors: is not what PEFT 0\.21\.2 wrote"),
        (_of_another_method, r"adapter_model\.safetensors: is not what PEFT 0\.21\.2 wrote"),
        (_edited, r"adapter_config\.json: is not what PEFT 0\.21\.2 wrote"),
        (_all_of_another_method, "keeps an adapter of life-cycle-structures-linear-loha-default, not of"),
        (lambda folder: (folder / "adapter_model.safetensors").unlink(), r"adapter_model\.safetensors: cannot be read"),
        (lambda folder: (folder / RECORD_FILE).unlink(), r"kept\.json: cannot be read"),
        (lambda folder: (folder / RECORD_FILE).write_text("{"), r"kept\.json: no valid JSON"),
        (_without_output, r"kept\.json: output: "),
        (_elsewhere, r"kept\.json: sha256: '\.\.' cannot be part of a file name"),
        (_only_a_file, r"kept\.json: cannot be read"),
    ],
)
def test_a_file_that_is_not_as_it_was_written_is_refused_with_the_way_out(damage, words, moved):
    experiment, _ = moved
    damage(experiment.kept)

    with pytest.raises(InputError, match=rf"{words}.*; restore it from version control, or delete the folder"):
        read_kept(experiment.kept, experiment.case)


def test_line_ends_that_version_control_changed_are_no_damage(moved):
    experiment, _ = moved
    for file in experiment.kept.glob("*.json"):
        file.write_bytes(file.read_bytes().replace(b"\n", b"\r\n"))

    assert read_kept(experiment.kept, experiment.case).peft == "0.21.2"


def test_a_config_that_the_installed_peft_does_not_know_breaks_the_law(moved):
    experiment, baseline = moved
    kept = read_kept(experiment.kept, experiment.case)
    config = kept.files["adapter_config.json"].replace(b"UNILORA", b"NEWLORA")
    other = replace(kept, files={**kept.files, "adapter_config.json": config})
    write_files({experiment.kept / name: content for name, content in other.contents().items()})

    verdict = compare(live(experiment), baseline, METRICS, tests=1)

    (finding,) = [finding for finding in verdict.findings if finding.subject == "law.old"]
    assert finding.verdict == "regressed"
    assert finding.obtained == "broken: KeyError"


# Recording ------------------------------------------------------------------------------------------------------------

LIFE = """
    import pytest
    from pytest_peftbench import live_through

    @pytest.mark.peft_life_cycle
    def test_life(experiment, peft_baseline):
        peft_baseline.check(live_through(experiment, second_stage=peft_baseline.second_stage))
"""


def test_an_update_writes_an_adapter_where_there_is_none_and_never_over_one(bench):
    write_json(bench.path / "structures" / "linear" / "default_training_params.json", {"model_id": "linear"})
    bench.write("test_life.py", LIFE)
    arguments = ("test_life.py", "-k", "linear-unilora-default")
    folder = bench.path / "baselines" / "life-cycle" / "structures" / "linear" / "unilora--default"

    bench.record(*arguments)
    kept = read_kept(folder, read(folder.with_name(f"{folder.name}.json")).case)
    older = replace(kept, peft="0.1", output=[2 * number for number in kept.output]).contents()
    write_files({folder / name: content for name, content in older.items()})
    red = bench.run(*arguments)
    again = bench.record(*arguments)
    stands = {file.name: file.read_bytes() for file in folder.iterdir()}
    (folder / "adapter_model.safetensors").unlink()
    damaged = bench.run(*arguments, "--peft-update-baselines")
    for file in folder.iterdir():
        file.unlink()
    folder.rmdir()
    missing = bench.run(*arguments)
    renewed = bench.record(*arguments)

    assert [red.ret, damaged.ret, missing.ret] == [1, 1, 1]
    assert "law.old regressed: holds -> broken: 0.5" in output(red)
    assert stands == older
    assert "law.old: holds -> broken: 0.5" in output(again)
    assert "adapter_model.safetensors: cannot be read" in output(damaged)
    assert "law.old missing metric" in output(missing)
    assert "is not there, so law.old was not asked; restore it from version control" in output(missing)
    assert not any("Traceback" in output(result) for result in (red, damaged, missing))
    assert f"kept in {Path('baselines/life-cycle/structures/linear/unilora--default')}" in output(renewed)
    assert read_kept(folder, kept.case) == kept


def test_an_adapter_without_an_experiment_is_told_as_a_baseline_is(bench):
    write_json(bench.path / "structures" / "linear" / "default_training_params.json", {"model_id": "linear"})
    bench.write("test_life.py", LIFE)
    folder = bench.path / "baselines" / "life-cycle" / "structures" / "linear" / "unilora--earlier"
    folder.mkdir(parents=True)

    result = bench.run("test_life.py", "-k", "linear-beft-default")

    assert "1 baseline without an experiment: " in output(result)
    assert "unilora--earlier" in output(result)


def test_the_repository_holds_no_adapter_of_a_case_that_there_is_not():
    from pytest_peftbench.tasks.structures.kept import keeps

    assert FOLDERS
    for folder in FOLDERS:
        assert keeps(folder.parent.name, folder.name.replace("--", "/")), folder.relative_to(REPOSITORY)
