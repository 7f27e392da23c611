"""The closing table, and what a run says beside it."""

import shlex
from dataclasses import replace

import pytest

from pytest_peftbench.compare import SEVERITY, CaseVerdict, Finding, compare
from pytest_peftbench.report.advice import advice_lines
from pytest_peftbench.report.outcome import CaseOutcome
from pytest_peftbench.report.terminal import Row, closing, fold, row, summary, table
from pytest_peftbench.results.baseline import from_result
from pytest_peftbench.results.metrics import METRICS, Column
from pytest_peftbench.results.result import CaseId, Result, SeedRun
from pytest_peftbench.results.words import command_line

MATH = [Column("accuracy", "test_accuracy", ".1%"), Column("forgetting", "forgetting", ".3f")]
IMAGES = [Column("similarity", "test_similarity", ".3f"), Column("drift", "drift", ".3f")]
QUALITY = {"MetaMathQA": MATH, "image-gen": IMAGES}
VALUES = {
    "test_accuracy": 0.625,
    "forgetting": 0.02134,
    "train_step.flops": 1_204_000_000,
    "train_step.peak_bytes": 11_219_763,
    "step_time_ratio": 1.214,
}
SUITE = "MetaMathQA-tiny-"
LOHA = Row(f"{SUITE}loha-rank8", "MetaMathQA", "regressed", VALUES, 4.21, "train_step.flops +50.0 %", suite=SUITE)
LORA = Row(f"{SUITE}lora-rank8", "MetaMathQA", "identical", {**VALUES, "test_accuracy": 1.0}, 13.0, suite=SUITE)
OFT = Row(
    "image-gen-tiny-oft-r4", "image-gen", "improved", {"test_similarity": 0.5, "drift": 0.1}, 2.0, "drift -20.0 %"
)


def texts(lines):
    return [text for text, _ in lines]


def test_a_table_has_a_header_and_a_row_per_case_in_the_order_of_their_names():
    assert texts(table([LORA, LOHA], MATH, 140)) == [
        "case                        verdict    accuracy  forgetting  step FLOP       peak   time    wall  what moved",
        "MetaMathQA-tiny-loha-rank8  regressed     62.5%       0.021    1.204e9  10.70 MiB  1.21x   4.2 s  "
        "train_step.flops +50.0 %",
        "MetaMathQA-tiny-lora-rank8  identical    100.0%       0.021    1.204e9  10.70 MiB  1.21x  13.0 s",
    ]


@pytest.mark.parametrize("width", [60, 80, 100, 120, 200])
def test_lines_fit_the_width(width):
    rows = [replace(LOHA, moved="first_losses +1e-07, " * 20), LORA, replace(LORA, case=f"{SUITE}{'a' * 20}")]

    assert max(map(len, texts(table(rows, MATH, width)))) <= width
    assert any("…" in text for text in texts(table(rows, MATH, width)))


def test_ids_lose_what_they_share_before_a_column_goes():
    assert texts(table([LORA, LOHA], MATH, 94)) == [
        "MetaMathQA-tiny-…",
        "case        verdict    accuracy  forgetting  step FLOP       peak   time    wall",
        "loha-rank8  regressed     62.5%       0.021    1.204e9  10.70 MiB  1.21x   4.2 s",
        "  train_step.flops +50.0 %",
        "lora-rank8  identical    100.0%       0.021    1.204e9  10.70 MiB  1.21x  13.0 s",
    ]


def test_what_moved_stands_below_where_there_is_no_room_beside():
    lines = texts(table([LOHA], MATH, width=80))

    assert "what moved" not in lines[1]
    assert lines[2].endswith("4.2 s")
    assert lines[3] == "  train_step.flops +50.0 %"


def test_a_narrow_terminal_does_without_columns_and_says_which():
    lines = texts(summary([LORA, LOHA], QUALITY, 66))

    assert lines[1].split() == ["case", "verdict", "accuracy", "forgetting", "step", "FLOP", "peak"]
    assert "left out at 66 columns: wall, time" in lines
    assert "left out" not in "".join(texts(summary([LORA, LOHA], QUALITY, 80)))


def test_a_few_suites_have_a_table_each_where_one_would_be_too_wide():
    other = replace(LORA, case="MetaMathQA-llama-3.2-3B-lora-rank8", suite="MetaMathQA-llama-3.2-3B-")
    lines = texts(summary([LORA, other], QUALITY, 84))

    assert [line for line in lines if line.endswith("…")] == ["MetaMathQA-llama-3.2-3B-…", "MetaMathQA-tiny-…"]
    assert [line for line in texts(summary([LORA, other], QUALITY, 100)) if line.endswith("…")] == ["MetaMathQA-…"]


def test_many_suites_share_a_table_without_what_all_ids_begin_with():
    rows = [
        Row(f"life-cycle-structures-{name}-loha-default", "life-cycle", "identical", {"params.trainable": 8}, 0.5,
            suite=f"life-cycle-structures-{name}-")
        for name in ("bert", "blip", "conv1d", "conv2d", "vit")
    ]  # fmt: skip

    assert texts(table(rows, [Column("trainable", "params.trainable", ",.0f")], 60))[:3] == [
        "life-cycle-structures-…",
        "case                 verdict    trainable   wall",
        "bert-loha-default    identical          8  0.5 s",
    ]


def test_what_would_move_the_cursor_is_written_out():
    assert texts(table([replace(LOHA, moved="\x1b[2J\rgone")], MATH, 140))[1].endswith(r"\x1b[2J\rgone")
    assert texts(fold([("red \x1b[31m", {})], 80)) == [r"red \x1b[31m"]


def test_a_figure_that_is_missing_shows_a_dash():
    failed = Row("MetaMathQA-tiny-aaa", "MetaMathQA", "failed", {}, None, "failed: out of memory")

    assert texts(table([failed, LOHA], MATH, 150))[1].split() == [
        "MetaMathQA-tiny-aaa",
        "failed",
        *"-" * 6,
        *"failed: out of memory".split(),
    ]


def test_a_column_that_no_case_fills_is_left_out():
    header = texts(table([Row("a", "MetaMathQA", "no baseline", {"forgetting": 0.0})], MATH))[0]

    assert header.split() == ["case", "verdict", "forgetting"]


def test_what_moved_stands_in_a_column_beside_verdicts_alone():
    rows = [Row("a", "MetaMathQA", "failed", moved="out of memory"), Row("long", "MetaMathQA", "missing metric")]

    assert texts(table([*rows, Row("b", "MetaMathQA", "no baseline", moved="nothing")], MATH)) == [
        "case  verdict         what moved",
        "a     failed          out of memory",
        "b     no baseline     nothing",
        "long  missing metric",
    ]


def test_each_task_has_a_table_with_its_own_columns():
    lines = texts(summary([OFT, LOHA], QUALITY, 140))

    assert "accuracy" in lines[0]
    assert "similarity" not in lines[0]
    assert "similarity" in lines[3]
    assert "accuracy" not in lines[3]
    assert lines[4].startswith("image-gen-tiny-oft-r4  improved       0.500  0.100  2.0 s  drift -20.0 %")


def test_a_task_without_quality_has_a_table_too():
    assert texts(summary([replace(OFT, task="footprint")], QUALITY))[1].split()[:3] == [OFT.case, "improved", "2.0"]


def test_every_verdict_is_counted_from_best_to_worst():
    rows = [replace(LORA, case=f"a{n}") for n in range(60)]
    rows += [replace(LOHA, case="b"), replace(OFT, case="c")]

    assert "62 cases: 60 identical, 1 improved, 1 regressed" in texts(summary(rows, QUALITY))
    assert texts(summary([LORA], QUALITY))[-1] == "1 case: 1 identical"
    every = [replace(LORA, case=word, verdict=word) for word in SEVERITY]
    assert texts(summary(every, QUALITY, 400))[-1] == f"{len(SEVERITY)} cases: " + ", ".join(
        f"1 {word}" for word in SEVERITY
    )


def test_without_cases_there_is_nothing_to_say():
    assert summary([], QUALITY) == []
    assert advice_lines([], "".join, 80) == []


def outcome(method, *verdicts, red=True, **fields):
    case = CaseId("MetaMathQA", "tiny", method, "r8")
    findings = tuple(Finding("train_step.flops", verdict) for verdict in verdicts)
    return CaseOutcome(CaseVerdict(case, findings), red=red, nodeid=method, **fields)


def advice(*outcomes, width=80):
    return texts(advice_lines(outcomes, " ".join, width))


def test_one_command_accepts_all_that_changed():
    assert advice(outcome("a", "regressed"), outcome("b", "numerics changed"), outcome("c", "no baseline")) == [
        "to accept what changed in 3 cases, where it is meant:",
        "  a b c",
    ]


def test_cases_without_a_baseline_are_recorded_and_not_accepted():
    assert advice(outcome("a", "no baseline")) == ["to record 1 case without a baseline:", "  a"]


def test_what_failed_is_never_accepted():
    assert advice(outcome("a", "regressed", "failed"), outcome("b", "failed", red=False)) == [
        "nothing to accept before it is mended: 2 cases failed"
    ]


def test_rounding_is_not_accepted_and_told_apart_from_a_change():
    green, red = outcome("a", "same to rounding", red=False), outcome("b", "same to rounding")

    assert advice(green, outcome("c", "regressed", "same to rounding")) == [
        "nothing to accept: 1 case is the same to rounding, as on another machine",
        "to accept what changed in 1 case, where it is meant:",
        "  c",
    ]
    assert advice(green, red) == ["nothing to accept: 2 cases are the same to rounding, as on another machine"]


def test_what_could_not_be_told_is_run_again_before_it_is_accepted():
    assert advice(outcome("a", "cannot tell"))[:-2] == [
        "before accepting: 1 case cannot tell; more seeds (--peft-seeds) or a quiet",
        "  machine may",
    ]


def test_what_got_better_has_a_command_of_its_own_that_accepts_nothing_else():
    green = [outcome("a", "improved", red=False), outcome("b", "not recorded yet", red=False)]

    assert advice(*green, outcome("c", "regressed"), outcome("d", "identical", red=False)) == [
        "to accept what changed in 1 case, where it is meant:",
        "  c",
        "to record what is better, or not recorded yet, in 2 cases:",
        "  a b",
    ]


def test_a_case_that_is_expected_to_be_red_asks_for_nothing():
    assert advice(outcome("a", "regressed", red=False, expected=True)) == []


@pytest.mark.parametrize(
    ("argument", "typed"),
    [
        ("test_x.py::test_x[a-b]", '"test_x.py::test_x[a-b]"'),
        ("peft_lora or peft_loha", '"peft_lora or peft_loha"'),
        ("../kept/a.json", "../kept/a.json"),
        ("a$b", "'a$b'"),
        ("", '""'),
    ],
)
def test_a_command_is_typed_alike_in_every_shell(argument, typed):
    assert command_line(["pytest", argument]) == f"pytest {typed}"
    assert shlex.split(typed) == [argument]


def test_colours_tell_good_from_bad():
    markup = {text.split("  ")[0]: markup for text, markup in summary([LOHA, LORA, OFT], QUALITY, 140)}

    assert markup[LOHA.case] == {"red": True}
    assert markup[LORA.case] == {}
    assert markup[OFT.case] == {"green": True}
    assert markup["case"] == {"bold": True}
    assert markup["3 cases: 1 identical, 1 improved, 1 regressed"] == {"bold": True, "red": True}


def test_what_an_update_changed_and_what_the_correction_turned_red_stand_around_the_tables():
    verdicts = [
        CaseVerdict(CaseId("MetaMathQA", "tiny", method, "r8"), (Finding.of("case", verdict, "seen"),))
        for method, verdict in (("lora", "recorded"), ("loha", "regressed"))
    ]
    outcomes = [
        CaseOutcome(verdicts[0], ("train_loss: 1 -> 2",), wall_s=2.0),
        CaseOutcome(verdicts[1], red=True, turned=True, wall_s=1.0),
        CaseOutcome(unmeasured="Skipped: no GPU", wall_s=9.0),
    ]

    assert texts(closing(outcomes, QUALITY)) == [
        "MetaMathQA-tiny-lora-r8: baseline written",
        "  train_loss: 1 -> 2",
        "case                     verdict     wall  what moved",
        "MetaMathQA-tiny-loha-r8  regressed  1.0 s  seen",
        "MetaMathQA-tiny-lora-r8  recorded   2.0 s  seen",
        "",
        "2 cases: 1 recorded, 1 regressed",
        "the run fails: over all its tests (Holm's correction) regressed what passed as",
        "  cannot tell: MetaMathQA-tiny-loha-r8",
    ]
    assert closing(outcomes[2:], QUALITY) == []


def test_a_row_is_made_from_a_verdict():
    result = Result(
        case=CaseId("MetaMathQA", "tiny", "loha", "rank8"),
        case_version="v1",
        environment={"torch": "2", "transformers": "5", "device": "cpu"},
        metrics={"train_step.flops": 200, "step_time_s": 1.0},
        seeds=[SeedRun(0, {"test_accuracy": 0.5})],
    )
    baseline = from_result(replace(result, metrics={"train_step.flops": 100}))

    assert row(compare(result, baseline, METRICS, tests=1), 3.0) == Row(
        case="MetaMathQA-tiny-loha-rank8",
        task="MetaMathQA",
        verdict="regressed",
        values={"train_step.flops": 200, "test_accuracy": 0.5, "step_time_s": 1.0},
        wall_s=3.0,
        moved="train_step.flops +100.0 %",
        suite="MetaMathQA-tiny-",
    )
