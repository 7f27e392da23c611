"""What CI shows of a run: the step's summary in Markdown, annotations, and JUnit's properties."""

import re
import xml.etree.ElementTree as ElementTree
from dataclasses import replace

import pytest
from support import CASES, LOHA_CASE, LORA, LORA_CASE, make_suite, output

from pytest_peftbench.compare import CaseVerdict, Finding
from pytest_peftbench.report.advice import Advice
from pytest_peftbench.report.ci import properties, workflow_commands
from pytest_peftbench.report.markdown import comment, summary
from pytest_peftbench.report.outcome import CaseOutcome
from pytest_peftbench.results.metrics import METRICS, Column
from pytest_peftbench.results.result import CaseId
from pytest_peftbench.suites import read_suite

COLUMNS = {"MetaMathQA": [Column("accuracy", "test_accuracy", ".1%")]}
SLOWER = {"train_step.flops": 2_000_000_000}
ACCEPT = Advice("to accept what changed, where it is meant:", "pytest benchmarks --peft-update-baselines")


def outcome(verdict="identical", method="loha", name="r4", details=(), **fields):
    finding = Finding.between(METRICS["train_step.flops"], verdict, 2_000_000_000, 1_204_000_000, "must be equal")
    found = CaseVerdict(
        CaseId("MetaMathQA", "mini", method, name),
        (replace(finding, details=tuple(details)),),
        values={"test_accuracy": 0.5, "train_step.flops": 2e9},
    )
    return CaseOutcome(found, red=verdict in ("regressed", "failed"), wall_s=1.5, **fields)


def tags(text):
    """What is a tag in a page made of this text: where Markdown has no code."""
    text = re.sub(r"^(`{3,}).*?^\1$", "", text, flags=re.MULTILINE | re.DOTALL)
    return re.findall(r"<[^>]*>", re.sub(r"(`+)(?!`).+?(?<!`)\1(?!`)", "", text))


# Markdown -------------------------------------------------------------------------------------------------------------


def test_a_summary_holds_counts_findings_the_command_and_the_table():
    red = outcome("regressed", details=["aten.mm  48 -> 96 calls (+602 MFLOP) in LoHaLayer.forward"])

    text = summary([outcome(method="lora"), red], COLUMNS, [ACCEPT])

    assert text.startswith("## PEFT benchmark: 1 of 2 cases red\n\n1 identical, 1 regressed\n")
    assert (
        "<details><summary><b>regressed</b> <code>MetaMathQA-mini-loha-r4</code> "
        "<code>train_step.flops +66.1 %</code></summary>\n\n<pre>\n"
        "train_step.flops regressed: 1.204e9 -&gt; 2.000e9 (+66.1 %, must be equal)\n"
        "  aten.mm  48 -&gt; 96 calls (+602 MFLOP) in LoHaLayer.forward\n</pre>\n\n</details>\n"
    ) in text
    assert text.count(ACCEPT.command) == 1
    assert f"\n{ACCEPT.words}\n\n```sh\n{ACCEPT.command}\n```\n" in text
    assert (
        "| case | verdict | accuracy | step FLOP | wall | what moved |\n| :-- | :-- | --: | --: | --: | :-- |\n" in text
    )
    rows = re.findall(r"^\| `(.+?)` \| (\w+) \|", text, re.MULTILINE)
    assert rows == [("MetaMathQA-mini-loha-r4", "regressed"), ("MetaMathQA-mini-lora-r4", "identical")]


def test_a_green_run_has_no_findings():
    text = summary([outcome()], COLUMNS)

    assert text.startswith("## PEFT benchmark: 1 case, none red\n")
    assert "<details>" not in text
    assert "accept" not in text


def test_what_a_run_fails_for_beside_its_cases_is_said():
    note = "the run fails: 1 selected case never ran: a|b"

    assert f"\n- `{note}`\n" in summary([], {}, notes=[note])


def test_a_case_of_which_nobody_knows_a_verdict_is_told_by_its_test():
    text = summary([CaseOutcome(unmeasured="ValueError: no <model>", red=True, nodeid="test_a.py::test_b[<i>]")], {})

    assert "1 not measured" in text
    assert "<code>test_a.py::test_b[&lt;i&gt;]</code> <code>ValueError: no &lt;model&gt;</code>" in text


NASTY = "r4</pre></details><script>alert(1)</script>`|`@octocat\n# x\x1b[2J"


def test_what_names_and_messages_hold_is_shown_and_never_obeyed():
    red = outcome("regressed", name=NASTY, details=[f"  {NASTY}"])

    text = summary([red], COLUMNS, [Advice("to accept:", f"pytest '{NASTY}'")])

    assert set(tags(text)) == {
        *("<details>", "</details>", "<summary>", "</summary>", "<b>", "</b>", "<code>", "</code>", "<pre>", "</pre>")
    }
    assert tags(text).count("</details>") == tags(text).count("<details>") == 1
    assert "\x1b" not in text
    assert "\n# x" not in re.sub("<pre>.*?</pre>", "", text, flags=re.DOTALL)
    (row,) = (line for line in text.splitlines() if line.startswith("| ``"))
    assert len(re.findall(r"(?<!\\)\|", row)) == 7


@pytest.mark.parametrize("limit", [3_000, 8_000, 20_000])
def test_what_finds_no_room_is_left_out_whole_and_counted(limit):
    details = [f"aten.mm  {n} -> 96 calls in ÜLayer.forward" for n in range(40)]
    outcomes = [outcome("regressed", name=f"bad{n}", details=details) for n in range(9)]
    outcomes += [outcome(name=f"good{n}") for n in range(200)]

    text = summary(outcomes, COLUMNS, [ACCEPT], limit=limit)

    assert len(text.encode()) <= limit
    told, rows = text.count("</pre>"), len(re.findall(r"^\| `", text, re.MULTILINE))
    assert f"The findings of {9 - told} more red case" in text
    assert f"{209 - rows} more row" in text
    assert rows > 0
    assert text.count("<details>") == text.count("</details>") == text.count("<summary>") == told + 1
    assert text.count("<pre>") == told
    assert text.count(ACCEPT.command) == 1


def test_a_case_of_a_thousand_lines_leaves_room_for_others():
    text = summary([outcome("failed", details=["x" * 10_000] * 1_000), outcome("regressed", "lora")], COLUMNS)

    assert "and 941 more" in text
    assert text.count("</pre>") == 2
    assert len(text) < 40_000


def test_a_command_that_is_too_long_gives_way_to_the_findings():
    text = summary([outcome("regressed")], COLUMNS, [Advice("to accept:", "pytest " + "x" * 30_000)], limit=65_536)

    assert "too long for here: see the log" in text
    assert "</pre>" in text


def test_a_comment_carries_the_mark_by_which_the_next_run_finds_it_and_fits():
    text = comment(
        [outcome("regressed", name=f"bad{n}", details=["x" * 400] * 50) for n in range(300)], COLUMNS, [ACCEPT]
    )

    assert text.startswith("<!-- peftbench -->\n## PEFT benchmark: 300 of 300 cases red\n")
    assert len(text.encode()) <= 65_536


# Annotations and properties -------------------------------------------------------------------------------------------


def test_an_annotation_stands_at_the_experiments_file_and_is_one_line(tmp_path):
    file = tmp_path / "a,b" / "100%:x" / "adapter_config.json"
    red = outcome("regressed", name="r4::b", details=["50 %\r\n::error::injected"], file=file.as_posix())

    (line,) = workflow_commands([red, outcome()], tmp_path)

    assert line.startswith(
        "::error file=a%2Cb/100%25%3Ax/adapter_config.json,line=1,title=regressed%3A MetaMathQA-mini-loha-r4%3A%3Ab::"
    )
    assert "must be equal)%0A  50 %25%0A::error::injected" in line
    assert len(line.splitlines()) == 1


def test_the_file_of_an_experiment_is_its_own_first_one_or_its_suites(tmp_path):
    experiments = {"lora/r4": (LORA, {"seed": 1}), "full-finetuning/default": (None, {"seed": 1})}
    make_suite(tmp_path / "MetaMathQA" / "mini", experiments)
    found = {case.case.method: case for case in read_suite(tmp_path / "MetaMathQA" / "mini")}

    assert found["lora"].file.name == "adapter_config.json"
    assert found["full-finetuning"].file.name == "training_params.json"
    brought = replace(found["lora"], path=found["lora"].path.with_name("of-no-file"))
    assert brought.file == (tmp_path / "MetaMathQA" / "mini" / "default_training_params.json").resolve()


def test_annotations_come_worst_first_and_need_no_file(tmp_path):
    crash = CaseOutcome(unmeasured="no model", red=True, nodeid="test_a.py::test_b")
    outcomes = [outcome("regressed", "b"), outcome("regressed", "a"), outcome("failed", "z"), crash]

    titles = [re.match("::error title=(.+?)::", line)[1] for line in workflow_commands(outcomes, tmp_path)]

    assert titles == [
        "not measured%3A test_a.py%3A%3Atest_b",
        *(f"{verdict}%3A MetaMathQA-mini-{name}-r4" for verdict, name in (("failed", "z"), ("regressed", "a"))),
        "regressed%3A MetaMathQA-mini-b-r4",
    ]


def test_properties_tell_verdict_findings_and_figures():
    told = dict(properties(outcome("regressed", details=["aten.mm  48 -> 96 calls"])))

    assert told == {
        "peftbench.case": "MetaMathQA-mini-loha-r4",
        "peftbench.verdict": "regressed",
        "peftbench.findings": "train_step.flops regressed: 1.204e9 -> 2.000e9 (+66.1 %, must be equal)\n"
        "  aten.mm  48 -> 96 calls",
        "peftbench.test_accuracy": "0.5",
        "peftbench.train_step.flops": "2000000000.0",
    }
    assert dict(properties(CaseOutcome(unmeasured="skipped"))) == {"peftbench.not_measured": "skipped"}


# A session ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def github(bench, monkeypatch):
    """A job of GitHub's in which LoHa got slower; gives the file of the step's summary."""
    bench.record()
    bench.measures("loha", SLOWER)
    summary = bench.path / "summary.md"
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    monkeypatch.setenv("GITHUB_WORKSPACE", str(bench.path))
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(summary))
    return summary


def annotated(result):
    return [line for line in output(result).splitlines() if line.startswith("::")]


@pytest.mark.parametrize("arguments", [(), ("-n", "2")])
def test_a_session_in_ci_writes_summary_annotations_and_properties(bench, github, arguments):
    if arguments:
        pytest.importorskip("xdist")
    github.write_text("before\n")

    result = bench.run("--junitxml", "junit.xml", *arguments)

    result.assert_outcomes(passed=2, failed=1)
    text = github.read_text(encoding="utf-8")
    assert text.startswith("before\n\n## PEFT benchmark: 1 of 3 cases red\n")
    assert text.count("<details>") == 1
    assert "train_step.flops regressed: 1.204e9 -&gt; 2.000e9" in text
    (line,) = annotated(result)
    assert line.startswith(
        "::error file=MetaMathQA/mini/experiments/loha/r4/adapter_config.json,line=1,"
        f"title=regressed%3A {LOHA_CASE}::train_step.flops regressed"
    )
    assert "aten.mm" in line
    found = junit(bench.path / "junit.xml")
    assert {case: told["peftbench.verdict"] for case, told in found.items()} == {
        case: "regressed" if case == LOHA_CASE else "identical" for case in CASES
    }
    assert found[LOHA_CASE]["peftbench.train_step.flops"] == "2000000000.0"
    assert "aten.mm" in found[LOHA_CASE]["peftbench.findings"]
    assert "peftbench.findings" not in found[LORA_CASE]


def junit(file):
    """Properties by case."""
    cases = ElementTree.parse(file).iter("testcase")
    found = ({item.get("name"): item.get("value") for item in case.iter("property")} for case in cases)
    return {told["peftbench.case"]: told for told in found}


@pytest.mark.parametrize("how", ["--peft-no-ci", "ini"])
def test_one_option_turns_all_of_it_off(bench, github, how):
    if how == "ini":
        bench.write("pytest.ini", "[pytest]\npeft_no_ci = true\n")

    result = bench.run("--junitxml", "junit.xml", *([] if how == "ini" else [how]))

    result.assert_outcomes(passed=2, failed=1)
    assert not github.exists()
    assert annotated(result) == []
    assert "peftbench" not in (bench.path / "junit.xml").read_text(encoding="utf-8").replace("peftbench:", "")


def test_outside_of_github_nothing_is_written_or_annotated(bench):
    bench.record()
    bench.measures("loha", SLOWER)

    assert annotated(bench.run()) == []


def test_a_run_that_shows_its_cases_and_runs_none_writes_nothing(bench, github):
    bench.run("--collect-only")

    assert not github.exists()


def test_a_case_that_never_comes_to_its_check_is_red_in_the_summary(bench, github):
    bench.write(
        "test_mini.py",
        """
        def test_mini(experiment, peft_baseline):
            raise ValueError("no <model>")
        """,
    )

    result = bench.run("-k", "loha")

    assert "1 of 1 case red" in github.read_text()
    assert "ValueError: no &lt;model&gt;" in github.read_text()
    assert len(annotated(result)) == 1


def test_a_summary_that_cannot_be_written_is_said_and_changes_no_verdict(bench, github):
    github.mkdir()

    result = bench.run("-k", "lora")

    assert result.ret == 0
    assert re.search(r"GITHUB_STEP_SUMMARY: .*summary\.md: not written: Is a directory", output(result))


def test_a_summary_that_another_command_has_filled_is_left_as_it_is(bench, github):
    github.write_bytes(b"x" * 2**20)

    result = bench.run("-k", "lora")

    assert github.stat().st_size == 2**20
    assert "not written: it holds 1.00 MiB, and GitHub takes 1.00 MiB" in output(result)
