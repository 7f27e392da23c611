"""`peftbench compare`: what moved between two sides, by the lanes' rules where they hold and by size where not."""

import json
import math
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from support import REPOSITORY, make_result, write_json

from pytest_peftbench.commands import main
from pytest_peftbench.commands.comparing import compared
from pytest_peftbench.compare.between import between, quality_tests, settled
from pytest_peftbench.report.changes import Changes, lines, markdown
from pytest_peftbench.results.baseline import baseline_path, from_result, write
from pytest_peftbench.results.metrics import METRICS, Metric
from pytest_peftbench.results.result import BaseReference, CaseId, SeedRun, Witness

REFERENCE = REPOSITORY.parent / "shared" / "peft-reference"
CASE = CaseId("MetaMathQA", "mini", "loha", "r4")
OLD = make_result(CASE)
BASE = BaseReference([1.0], {"train_step.peak_bytes": 5}, {"train_step": {"aten.mm @ step": [1, 2]}})


def measured(case=CASE, seeds=3, samples=None, **metrics):
    """A result, and what of it is another than `OLD`'s; samples: of each seed."""
    result = replace(OLD, case=case)
    of_seed = {name: value for name, value in metrics.items() if name in OLD.seeds[0].metrics}
    others = {name: value for name, value in metrics.items() if name not in of_seed}
    runs = [SeedRun(run.seed, {**run.metrics, **of_seed}, samples or {}) for run in result.seeds[:seeds]]
    kept = {name: value for name, value in {**result.metrics, **others}.items() if value is not None}
    return replace(result, seeds=runs, metrics=kept)


def change(old=OLD, new=OLD, others=({}, {}), metrics=METRICS, **environment):
    new = replace(new, environment={**new.environment, **environment})
    return between(from_result(old, metrics), new, metrics, 1, others)


def verdicts(found):
    """Verdict by subject, but for what is identical."""
    return {item.subject: item.verdict for item in found.verdict.findings if item.verdict != "identical"}


def reasons(found):
    return {item.subject: item.reason for item in found.verdict.findings}


# One case -------------------------------------------------------------------------------------------------------------


def test_a_case_that_is_the_same_is_identical_by_the_lanes_rules():
    found = change()

    assert found.verdict.verdict == "identical"
    assert (found.why, found.by_size, found.compared) == ("", frozenset(), True)


def test_a_counter_is_held_to_its_lane_and_not_to_a_size():
    found = change(new=measured(**{"train_step.calls": 3_007}))

    assert verdicts(found) == {"train_step.calls": "regressed"}
    assert reasons(found)["train_step.calls"] == "must be equal"
    assert found.by_size == frozenset()


@pytest.mark.parametrize(
    ("accuracy", "verdict"),
    [(0.40, "regressed"), (0.48, "within noise"), (0.52, "within noise"), (0.60, "improved")],
)
def test_quality_of_one_seed_is_told_by_size_and_says_so(accuracy, verdict):
    found = change(new=measured(seeds=1, test_accuracy=accuracy))

    assert verdicts(found)["test_accuracy"] == verdict
    assert reasons(found)["test_accuracy"] == "by size, margin 5 points; one seed cannot tell a change from noise"
    assert found.by_size == {"test_accuracy"}


def test_seeds_are_held_against_the_same_seeds():
    runs = [SeedRun(run.seed, {**run.metrics, "test_accuracy": 0.2 + 0.3 * run.seed}) for run in OLD.seeds]
    old = replace(OLD, seeds=runs)

    assert verdicts(change(old, replace(measured(seeds=1, test_accuracy=0.21), case_version="2"))) == {
        "test_accuracy": "within noise"
    }
    others = replace(old, seeds=[replace(run, seed=run.seed + 7) for run in runs], case_version="2")
    assert verdicts(change(old, others)) == {}


@pytest.mark.parametrize(
    ("new", "expected"),
    [
        ({"train_step.flops": 1_240_000_000}, {"train_step.flops": "within noise"}),
        ({"train_step.flops": 1_300_000_000}, {"train_step.flops": "regressed"}),
        ({"train_step.flops": 1_100_000_000}, {"train_step.flops": "improved"}),
        ({"params.trainable": 8193}, {"params.trainable": "regressed"}),
        ({"forgetting": 0.30}, {"forgetting": "regressed"}),
        ({"step_time_ratio": 1.5}, {"step_time_ratio": "within noise"}),
        ({"step_time_ratio": 1.8}, {"step_time_ratio": "regressed"}),
        ({"first_losses": [9.0], "adapter_sha256": "1" * 64}, {}),
    ],
)
def test_another_definition_of_the_case_leaves_sizes_alone(new, expected):
    found = change(new=replace(measured(**new), case_version="2"))

    assert found.why.startswith("the definition of the case changed")
    assert verdicts(found) == expected
    assert found.untold == {"first_losses": "has no size", "adapter_sha256": "has no size"}
    assert all(reasons(found)[name].startswith("by size, ") for name in expected)


def test_a_word_of_a_check_needs_no_size():
    old, new = (replace(measured(**{"reload.same_output": word}), case_version=word) for word in ("ok", "differs: 0.1"))

    assert verdicts(change(old, new)) == {"reload.same_output": "regressed"}


def test_memory_of_another_accelerator_is_left_out_and_said():
    old, new = (measured(**{"gpu.allocated_peak_bytes": size}) for size in (10**9, 2 * 10**9))

    found = change(old, new, accelerator="NVIDIA L40S")

    assert "gpu.allocated_peak_bytes" not in verdicts(found)
    assert found.untold == {"gpu.allocated_peak_bytes": "of another machine"}
    assert verdicts(change(old, new))["gpu.allocated_peak_bytes"] == "regressed"


def test_a_metric_that_vanished_is_red_and_a_new_one_is_not():
    assert verdicts(change(new=measured(**{"train_step.flops": None}))) == {"train_step.flops": "missing metric"}
    gone = replace(measured(**{"train_step.flops": None}), case_version="2")
    assert verdicts(change(new=gone)) == {"train_step.flops": "missing metric"}
    assert verdicts(change(gone, OLD)) == {"train_step.flops": "not recorded yet"}


def test_a_metric_that_nobody_declares_cannot_be_compared():
    found = change(measured(mood=1.0), measured(mood=2.0))

    assert verdicts(found) == {"mood": "unknown metric"}
    assert not found.compared


def test_figures_beside_the_catalogue_have_a_size_where_both_sides_hold_them():
    beside = Metric("published.x", "bytes", "lower", "info", "x", relative_margin=0.05)

    found = change(
        others=({"published.x": 100.0, "a": 1}, {"published.x": 120.0}), metrics={**METRICS, "published.x": beside}
    )

    assert verdicts(found) == {"published.x": "regressed"}
    assert found.sizes["published.x"] == pytest.approx(0.2)


def test_the_worst_comes_first_and_rules_come_before_sizes():
    news = {
        "same": OLD,
        "size": replace(measured(**{"train_step.calls": 90_000}), case_version="2"),
        "little": measured(**{"train_step.calls": 3_007}),
        "much": measured(**{"train_step.calls": 9_000}),
    }

    order = settled({name: change(new=new) for name, new in news.items()})

    assert [found.verdict.verdict for found in order] == ["regressed"] * 3 + ["identical"]
    assert [round(found.sizes["train_step.calls"], 1) for found in order] == [2.0, 0.0, 28.9, 0.0]


def test_each_figure_of_quality_is_a_test_and_there_is_at_least_one():
    assert quality_tests([from_result(OLD)] * 2, METRICS) == 6
    assert quality_tests([], METRICS) == 1


# Two folders ----------------------------------------------------------------------------------------------------------


def put(folder, *results):
    """Result files as `--peft-json` writes them."""
    of_peft = {"run_info": {}, "train_info": {"status": "success"}, "meta_info": {}}
    for result in results:
        status = {**of_peft, "train_info": {"status": result.status}}
        write_json(result.case.file(folder), replace(result, peft=status).to_json())
    return folder


@pytest.fixture
def sides(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", "/dev/null")
    return put(tmp_path / "old", OLD), put(tmp_path / "new", OLD)


def case(name):
    return replace(CASE, name=name)


def test_sides_that_are_the_same_end_with_0(sides, capsys):
    assert main(["compare", "old", "new"]) == 0
    assert capsys.readouterr().out == "1 case on both sides: 1 identical\n"


def test_what_regressed_ends_with_1_and_names_figure_size_and_operators(sides, capsys):
    rows = {
        "train_step": {
            "aten.mm @ LoHaLayer.forward": [96, 2_000_000],
            "aten.mm @ Linear.forward": [2958, 1_203_000_000],
        }
    }
    slower = replace(measured(**{"train_step.flops": 1_205_000_000, "train_step.calls": 3_054}), operators=rows)
    put(sides[1], slower, measured(case("only")))

    assert main(["compare", "old", "new"]) == 1
    assert capsys.readouterr().out == (
        "MetaMathQA-mini-loha-r4  regressed\n"
        "  train_step.calls  3,006 -> 3,054      +1.6 %\n"
        "    aten.mm  48 -> 96 calls (+1 MFLOP) in LoHaLayer.forward\n"
        "  train_step.flops  1.204e9 -> 1.205e9  +0.1 %\n"
        "    aten.mm  48 -> 96 calls (+1 MFLOP) in LoHaLayer.forward\n"
        "\n"
        "only on the new side, new, 1 case: MetaMathQA-mini-loha-only\n"
        "1 case on both sides: 1 regressed\n"
    )


def test_the_witness_of_a_result_has_no_bound_so_it_moves_nothing(sides):
    """A bound is measured where a baseline is recorded."""
    for folder, number in zip(sides, (1.0, 1.0 + 1e-15), strict=True):
        put(folder, replace(OLD, witness=Witness({"start: a": [number]})))

    assert main(["compare", "old", "new"]) == 0


def test_a_folder_against_baselines(sides, capsys):
    write(replace(from_result(OLD), base=BASE), baseline_path(sides[0].parent / "baselines", CASE))

    assert main(["compare", "baselines", "new"]) == 1
    assert "base model" in capsys.readouterr().out
    write(from_result(OLD), baseline_path(sides[0].parent / "baselines", CASE))
    assert main(["compare", "baselines", "new"]) == 0
    assert main(["compare", "new", "baselines"]) == 0


def test_a_case_that_vanished_is_red_unless_the_new_side_is_a_part_on_purpose(sides, capsys):
    put(sides[0], measured(case("gone")))

    assert main(["compare", "old", "new"]) == 1
    assert "vanished, 1 case of old that new does not hold: MetaMathQA-mini-loha-gone\n" in capsys.readouterr().out

    assert main(["compare", "old", "new", "--partial"]) == 0
    assert "only on the old side, old, 1 case: MetaMathQA-mini-loha-gone\n" in capsys.readouterr().out


def test_one_case_of_several_that_cannot_be_compared_ends_with_1(sides):
    for folder in sides:
        put(folder, measured(case("x"), status="failed", error_msg="RuntimeError"))

    assert main(["compare", "old", "new"]) == 1


def test_sides_without_a_common_case_end_with_2(sides, capsys):
    put(sides[0].parent / "other", measured(case("x")))

    assert main(["compare", "old", "other"]) == 2
    told = capsys.readouterr()
    assert "0 cases on both sides" in told.out
    assert "old and other have no case in common, so nothing was compared" in told.err


@pytest.mark.parametrize(
    ("old", "new", "code", "words"),
    [
        ("success", "failed", 1, "failed: RuntimeError: no <memory>"),
        ("failed", "success", 0, "failed before: failed: RuntimeError"),
        ("failed", "failed", 2, "failed on both sides"),
    ],
)
def test_a_case_that_failed_is_told(sides, capsys, old, new, code, words):
    for folder, status in zip(sides, (old, new), strict=True):
        put(folder, replace(OLD, status=status, error_msg="" if status == "success" else "RuntimeError: no <memory>"))

    assert main(["compare", "old", "new"]) == code
    assert words in capsys.readouterr().out


DAMAGED = {
    "truncated": ('{"run_info": {', "no valid JSON"),
    "NaN": ('{"run_info": {}, "train_info": {"status": "success"}, "meta_info": {}, "x": NaN}', "is NaN or infinite"),
    "another schema": (
        '{"run_info": {}, "train_info": {"status": "success"}, "meta_info": {}, "peftbench": {"schema": 2}}',
        "peftbench.schema is 2",
    ),
    "of nobody": ('{"run_info": {}, "train_info": {"status": "success"}, "meta_info": {}}', "run_info"),
}


@pytest.mark.parametrize("damage", DAMAGED)
def test_a_file_that_cannot_be_read_is_worded_and_the_rest_compared(sides, capsys, damage):
    content, words = DAMAGED[damage]
    (sides[1] / "bad.json").write_text(content)

    assert main(["compare", "old", "new", "--json", "out.json"]) == 1
    told = " ".join(capsys.readouterr().out.split())
    assert "not read: new/bad.json: " in told.replace("\\", "/")
    assert words in told
    assert "1 case on both sides: 1 identical" in told
    assert len(json.loads(Path("out.json").read_text())["unread"]) == 1


def test_a_case_that_stands_twice_is_told(sides, capsys):
    shutil.copy(CASE.file(sides[1]), sides[1] / "again.json")

    assert main(["compare", "old", "new"]) == 1
    assert "is case MetaMathQA-mini-loha-r4 too" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["old", "nowhere"], "nowhere: no such file or folder"),
        (["empty", "new"], "empty: holds no JSON file"),
        (["foreign", "new"], "foreign: holds no result; 1 JSON file found"),
        (["old", "new", "--json", "old"], "--json old: cannot be written: is a folder"),
        (["HEAD:old", "new"], "HEAD:old: "),
    ],
)
def test_a_side_that_holds_nothing_is_a_usage_error(sides, capsys, arguments, words):
    (sides[0].parent / "empty").mkdir()
    write_json(sides[0].parent / "foreign" / "package.json", {"name": "x"})

    with pytest.raises(SystemExit) as stopped:
        main(["compare", *arguments])

    assert stopped.value.code == 2
    assert words in capsys.readouterr().err


def git(*arguments):
    subprocess.run(["git", "-c", "user.name=a", "-c", "user.email=a@b", *arguments], check=True, capture_output=True)


@pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")
def test_two_commits_of_a_folder_of_baselines(sides, capsys):
    path = baseline_path(sides[0].parent / "gate" / "base lines", CASE)
    git("init", "-q")
    for calls in (3_006, 3_100):
        new = measured(**{"train_step.calls": calls})
        operators = {"train_step": {"aten.mm @ a": [calls, 1_204_000_000]}}
        write(from_result(replace(new, operators=operators)), path)
        git("add", "gate")
        git("commit", "-qm", "x")

    assert main(["compare", "HEAD~1:gate/base lines", "HEAD:gate/base lines"]) == 1
    assert "train_step.calls  3,006 -> 3,100  +3.1 %" in capsys.readouterr().out
    assert main(["compare", "HEAD:gate/base lines", "gate/base lines"]) == 0
    for bad, words in (("HEAD~7:gate", "HEAD~7"), ("HEAD:nowhere", "nowhere"), ("--help:gate", "--help")):
        with pytest.raises(SystemExit):
            main(["compare", "--", bad, "gate"])
        assert words in capsys.readouterr().err


def test_the_command_reads_no_torch_and_ends_with_its_code(sides):
    put(sides[1], measured(**{"train_step.calls": 3_007}))
    program = (
        "import sys; from pytest_peftbench.commands import main; code = main(['compare', 'old', 'new']); "
        "print('torch' in sys.modules); sys.exit(code)"
    )

    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)

    assert result.returncode == 1, result.stderr
    assert "train_step.calls" in result.stdout
    assert result.stdout.endswith("False\n")


# What a reader sees ---------------------------------------------------------------------------------------------------

NASTY = "r4<b>|`x`\x1b[2J" + "y" * 90


def changes(count=1, name=NASTY):
    found = change(new=measured(seeds=1, test_accuracy=0.1))
    nasty = replace(found.verdict, case=replace(CASE, name=name))
    return Changes("old|side", "new", [replace(found, verdict=nasty)] * count, unread=["x.json: <i>no</i>\x1b[2J"])


def test_lines_fit_and_hold_nothing_that_a_terminal_obeys():
    told = lines(changes())

    assert max(map(len, told)) <= 80 or told[0].startswith("MetaMathQA-mini-loha-r4")
    assert "\x1b" not in "".join(told)


def test_markdown_is_a_table_in_which_nothing_is_markup():
    text = markdown(changes())

    (row,) = (line for line in text.splitlines() if line.startswith("| regressed"))
    assert row.replace("\\|", "").count("|") == 8
    assert "\x1b" not in text
    assert "<b>" not in text.replace("r4<b>\\|`x`", "")


def test_markdown_keeps_to_its_limit_and_counts_what_it_leaves_out():
    text = markdown(changes(2_000, "x"))

    assert len(text.encode()) <= 65_536
    assert f"{2_000 - text.count('| regressed')} more rows left out" in text


def test_json_tells_every_figure_that_is_not_identical(sides):
    put(sides[1], measured(seeds=1, test_accuracy=0.4))

    assert main(["compare", "old", "new", "--json", "out.json", "--markdown", "out.md"]) == 1

    told = json.loads(Path("out.json").read_text())
    (found,) = told["cases"]
    assert (told["exit_code"], told["counts"], found["case"]) == (1, {"regressed": 1}, str(CASE))
    (finding,) = (item for item in found["findings"] if item["verdict"] == "regressed")
    assert (finding["metric"], finding["by_size"]) == ("test_accuracy", True)
    assert "| regressed | `MetaMathQA-mini-loha-r4` | `test_accuracy` |" in Path("out.md").read_text()


def test_a_page_shows_the_new_side_with_what_moved(sides):
    nasty = replace(CASE, name="<script>alert(1)<script>")
    put(sides[0], measured(nasty))
    put(sides[1], measured(seeds=1, test_accuracy=0.4), measured(nasty))
    (sides[1] / "bad.json").write_text("{")

    assert main(["compare", "old", "new", "--html", "out.html"]) == 1

    text = Path("out.html").read_text(encoding="utf-8")
    assert "old -&gt; new" in text
    assert "test_accuracy regressed: 49.8 % -\\u003e 40 %" in text
    assert "by size, margin 5 points" in text
    assert "<script>alert" not in text
    assert "bad.json: no valid JSON" in text


def test_the_comment_of_a_report_holds_findings_and_what_could_not_be_read(sides, capsys):
    write(from_result(OLD), baseline_path(sides[0].parent / "baselines", CASE))
    put(sides[1], measured(**{"train_step.calls": 3_007}))
    (sides[1] / "bad.json").write_text("{")

    assert main(["report", "new", "--baselines", "baselines", "--markdown", "out.md"]) == 1

    text = Path("out.md").read_text(encoding="utf-8")
    assert text.startswith("<!-- peftbench -->\n## PEFT benchmark: 1 of 1 case red\n\n1 regressed\n")
    assert "train_step.calls regressed: 3,006 -&gt; 3,007" in text
    assert "bad.json: no valid JSON" in text
    assert "1 case, 1 red: out.md" in capsys.readouterr().out


# PEFT's own results ---------------------------------------------------------------------------------------------------


@pytest.fixture
def published(tmp_path):
    """PEFT's results twice: as they are, and a copy to change."""
    if not REFERENCE.is_dir():
        pytest.skip("PEFT's own results are not here")
    return REFERENCE, Path(shutil.copytree(REFERENCE, tmp_path / "new"))


def changed(folder, name, path, value):
    (file,) = folder.rglob(f"results/{name}--*.json")
    data = json.loads(file.read_text())
    *keys, last = path
    block = data
    for key in keys:
        block = block[key]
    block[last] = value(block[last])
    file.write_text(json.dumps(data))


def test_pefts_published_results_are_compared_with_themselves_and_their_jumps_found(published):
    old, new = published
    assert compared(str(old), str(new)).exit_code() == 0
    changed(new, "loha", ("train_info", "metrics", -1, "test accuracy"), lambda value: value - 0.1)
    changed(new, "ia3", ("train_info", "accelerator_memory_max"), lambda value: 2 * value)
    changed(new, "prefixtuning", ("meta_info", "system_info", "accelerator"), lambda _: "NVIDIA H100")
    changed(new, "prefixtuning", ("train_info", "file_size"), lambda value: value + 8)

    found = compared(str(old), str(new))

    told = {item.verdict.case.method: verdicts(item) for item in found.cases}
    assert told["loha"] == {"test_accuracy": "regressed"}
    assert told["ia3"] == {"published.memory_max_bytes": "regressed"}
    assert told["prefixtuning"] == {"checkpoint.bytes": "regressed"}
    assert found.exit_code() == 1
    assert any("measured on NVIDIA L40S, not on NVIDIA H100" in line for line in found.beside())
    assert math.isfinite(max(found.cases[0].sizes.values()))


def test_pefts_result_and_ours_of_one_case_are_compared_in_what_both_hold(published):
    old, _ = published
    (entry,) = (item for item in old.rglob("results/loha--*.json"))
    data = json.loads(entry.read_text())
    of_case = CaseId("MetaMathQA", "Llama-3.2-3B", *data["run_info"]["experiment_name"].split("/"))
    ours = replace(measured(of_case, test_accuracy=0.1), case=of_case)

    found = between(from_result(ours), _published(entry), METRICS, 1)

    assert found.why == "PEFT's published result on one side, ours on the other"
    assert verdicts(found)["test_accuracy"] == "improved"
    assert "missing metric" not in verdicts(found).values()


def _published(file):
    from pytest_peftbench.commands.reading import read_entry

    return read_entry(file, json.loads(file.read_text())).result
