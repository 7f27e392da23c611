"""Options, folders and files of a session that cannot be used: asked before anything runs."""

import os
import sys

import pytest
from spoiling import broken, content, device, folder, keys, loop, nested, pipe, rows, without
from support import LORA_CASE, assert_usage_error, make_suite, output, table

from pytest_peftbench.results.files import write_text

BASELINE = "baselines/MetaMathQA/mini/lora--r4.json"
RESULT = "results/MetaMathQA/mini/lora--r4.json"

BASELINES = rows(
    (BASELINE, pipe, "is a pipe or a device, expected a file"),
    (BASELINE, device, "is a pipe or a device, expected a file"),
    (BASELINE, folder, "is a folder, expected a file"),
    (BASELINE, loop, "cannot be read"),
    (BASELINE, broken, "cannot be read"),
    (BASELINE, nested, "nested too deeply"),
    (BASELINE, content(""), "no valid JSON"),
    (BASELINE, content(b"\x00\xff"), "cannot be read"),
    (BASELINE, content([]), "expected a JSON object, found list"),
    (BASELINE, content({}), "schema: expected `int`, found null"),
    (BASELINE, keys(schema=99), "schema 99 is newer than this version reads"),
    (BASELINE, keys(schema=1), "schema 1 is that of an older version"),
    (BASELINE, keys(case="lora"), 'case: expected `object`, found "lora"'),
    (BASELINE, keys(seeds=[0, 0, 1]), "seeds must be ascending and differ"),
    (BASELINE, keys(seeds=[0]), "holds 3 values for 1 seeds"),
    (BASELINE, keys(metrics={}), "holds 5 metrics and says 10"),
    (BASELINE, keys(environment=None), "environment: expected `object`, found null"),
    (BASELINE, keys(noise={"forgetting": 1}), "noise.forgetting: expected `object`, found 1"),
    (BASELINE, without("holds"), "object missing required field `holds`"),
)


@pytest.fixture
def recorded(bench):
    bench.record("-k", "lora")
    return bench


@pytest.mark.parametrize("row", BASELINES)
def test_a_bad_baseline_is_refused_by_file_and_key(recorded, row):
    row.change(recorded.path / row.file)

    assert_usage_error(recorded.run("-k", "lora"), row.file, row.words)


def test_calibrating_without_a_baseline_is_refused_before_anything_runs_where_that_is_green_too(bench):
    result = bench.run("-k", "lora", "--peft-calibrate", "--peft-green", "no baseline")

    assert_usage_error(result, f"{LORA_CASE}: --peft-calibrate needs a baseline; add --peft-update-baselines")


# Folders


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--peft-json", "baselines"), "results would be written over baselines"),
        (("--peft-json", "baselines/"), "results would be written over baselines"),
        (("--peft-json", "x/../baselines"), "results would be written over baselines"),
        (("--peft-json", "baselines/footprint"), "results would be written over baselines"),
        (("--peft-json", "baselines/MetaMathQA"), "results would be written over baselines"),
        (("--peft-json", ".", "--peft-baselines", "footprint"), "results would be written over baselines"),
        (("--peft-json", "one", "--peft-baselines", "one"), "results would be written over baselines"),
        (("--peft-json", "."), "would lie in a suite; give another folder"),
        (("--peft-json", "MetaMathQA/mini/experiments"), "would lie in a suite; give another folder"),
        (("--peft-baselines", ".", "--peft-update-baselines"), "would lie in a suite; give another folder"),
        (("--peft-json", "test_mini.py"), "cannot be written: Not a directory"),
        (("--peft-json", "test_mini.py/below"), "cannot be written: Not a directory"),
        (("--peft-json", "/proc/x"), "cannot be written: No such file or directory"),
        (("--peft-json", "x" * 300), "File name too long"),
        (("--peft-json", "loop"), "loop"),
        (("--peft-baselines", "loop"), "loop"),
        (("--peft-baselines", "x" * 300), "File name too long"),
        (("--peft-baselines", "test_mini.py", "--peft-update-baselines"), "cannot be written: Not a directory"),
        (("--peft-baselines", "/proc/x", "--peft-calibrate"), "cannot be written: No such file or directory"),
        (("--peft-suite", "loop"), "loop"),
        (("--peft-suite", "x" * 300), "File name too long"),
        (("--peft-suite", "pipe"), "no such folder"),
        (("--peft-data", "loop"), "loop"),
        (("--peft-models", "test_mini.py"), "no such folder"),
        (("--peft-models", "x" * 300), "File name too long"),
        (("--peft-seeds", "10001"), "expected at most 10000 seeds"),
        (("--peft-seeds", "0"), "expected an integer of at least 1"),
        (("--peft-calibrate", "--peft-no-compare"), "peft_calibrate: needs the comparison that peft_no_compare"),
        (("--peft-green", "fine"), "'fine' is no verdict"),
        (("--peft-shard", "3/2"), "expected i/n with 1 <= i <= n"),
        (("--peft-resume",), "peft_resume: takes results from the folder that peft_json names"),
        (("--peft-update-durations", "--peft-update-baselines"), "peft_update_durations: what records"),
    ],
    ids=lambda value: " ".join(value)[:40] if isinstance(value, tuple) else "",
)
def test_a_folder_or_value_that_cannot_be_used_is_refused_before_anything_runs(bench, options, words):
    if words.endswith("Not a directory") or "/proc/x" in options:
        _skip_where_errors_have_other_words()
    loop(bench.path / "loop")
    if "pipe" in options:
        pipe(bench.path / "pipe")

    assert_usage_error(bench.run(*options), words)
    assert not (bench.path / "baselines").exists()


def _skip_where_errors_have_other_words():
    if sys.platform != "linux":
        pytest.skip("Linux's words, and its /proc")


@pytest.mark.parametrize("change", [pipe, folder])
def test_a_result_s_own_place_is_asked_too(bench, change):
    change(bench.path / RESULT)

    assert_usage_error(bench.run("--peft-json", "results"), RESULT, "expected a file")


def test_a_folder_of_its_own_in_the_other_one_is_none_of_these(bench):
    bench.record("--peft-baselines", "out/baselines", "--peft-json", "out")

    assert bench.run("--peft-baselines", "out/baselines", "--peft-json", "out").ret == 0
    assert (bench.path / "out/MetaMathQA/mini/lora--r4.json").exists()


@pytest.mark.skipif(sys.platform == "win32" or os.geteuid() == 0, reason="needs a folder that denies writing")
def test_a_read_only_folder_is_refused_before_anything_runs(bench):
    (bench.path / "results").mkdir(mode=0o500)

    assert_usage_error(bench.run("--peft-json", "results"), "--peft-json", "cannot be written: Permission denied")


@pytest.mark.parametrize(
    "options", [("--peft-json", "results"), ("--peft-update-baselines",), ("--peft-calibrate",)], ids=str
)
def test_a_read_only_disk_is_refused_before_anything_runs(recorded, monkeypatch, options):
    def read_only(**_):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr("pytest_peftbench.results.files.tempfile.TemporaryFile", read_only)

    assert_usage_error(recorded.run("-k", "lora", *options), "cannot be written: Read-only file system")


def test_what_only_collects_needs_no_folder_to_write_to(bench):
    assert len(bench.collected("--peft-json", "test_mini.py")) == 3


def test_a_disk_that_is_full_after_all_is_told_in_words(bench, monkeypatch):
    from pytest_peftbench.results import files

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", full)
    result = bench.run("-k", "lora", "--peft-no-compare", "--peft-json", "results")

    assert result.ret == 1
    assert "lora--r4.json: cannot be written: No space left on device" in output(result)
    assert "Traceback" not in output(result)
    assert table(result) == {LORA_CASE: "failed"}
    assert list((bench.path / "results").rglob("*.*")) == []


def test_what_a_killed_process_left_behind_goes_with_the_next_write(tmp_path):
    stale, fresh = tmp_path / ".x.json.a1.tmp", tmp_path / ".x.json.b2.tmp"
    other = tmp_path / ".y.json.c3.tmp"
    for file in (stale, fresh, other):
        file.write_text("part")
    os.utime(stale, (1, 1))
    os.utime(other, (1, 1))

    write_text(tmp_path / "x.json", "whole")

    # what is fresh may be another process's, which writes now
    assert sorted(path.name for path in tmp_path.iterdir()) == [fresh.name, other.name, "x.json"]


# Commands


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["fit", "loop"], "loop"),
        (["fit", "x" * 300], "File name too long"),
        (["fit", "pipe"], "no such folder"),
        (["fit", "suites", "--json", "pipe"], "--json pipe: cannot be written: is a pipe or a device"),
        (["fit", "suites", "--json", "loop/below"], "--json loop/below: cannot be written: "),
        (["fit", "suites", "--json", "/dev/null"], "--json /dev/null: cannot be written: is a pipe or a device"),
        (["fit", "suites", "--json", "x" * 300], "cannot be written"),
        (["fit", "empty"], "holds no experiment and no suite"),
        (["tune", "loop"], "loop"),
        (["tune", "pipe"], "no such folder"),
        (["tune", "x" * 300], "File name too long"),
        (["build-tiny", "MetaMathQA", "--out", "suites"], "--out suites: holds files that no build made"),
        (["build-tiny", "MetaMathQA", "--out", "loop"], "loop"),
        (["selftest", "--suite", "loop"], "loop"),
    ],
    ids=lambda value: " ".join(value)[:40] if isinstance(value, list) else "",
)
def test_a_command_refuses_what_it_cannot_read_or_write(tmp_path, monkeypatch, capsys, arguments, words):
    from pytest_peftbench.commands import main

    if "/dev/null" in arguments and not os.path.exists("/dev/null"):
        pytest.skip("no such device")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    make_suite(tmp_path / "suites" / "MetaMathQA" / "mini")
    loop(tmp_path / "loop")
    pipe(tmp_path / "pipe")
    before = sorted(tmp_path.rglob("*"))

    with pytest.raises(SystemExit) as stopped:
        main(arguments)

    assert stopped.value.code == 2
    assert words in capsys.readouterr().err
    assert sorted(tmp_path.rglob("*")) == before
