"""The closing table."""

from dataclasses import replace

import pytest

from pytest_peftbench.compare import SEVERITY, CaseVerdict, Finding, compare
from pytest_peftbench.report.outcome import CaseOutcome
from pytest_peftbench.report.terminal import Row, closing, row, summary, table
from pytest_peftbench.results.baseline import from_result
from pytest_peftbench.results.metrics import METRICS, Column
from pytest_peftbench.results.result import CaseId, Result, SeedRun

MATH = [Column("accuracy", "test_accuracy", ".1%"), Column("forgetting", "forgetting", ".3f")]
IMAGES = [Column("similarity", "test_similarity", ".3f"), Column("drift", "drift", ".3f")]
QUALITY = {"MetaMathQA": MATH, "image-gen": IMAGES}
UPDATE = "pytest benchmarks --peft-update-baselines"
VALUES = {
    "test_accuracy": 0.625,
    "forgetting": 0.02134,
    "train_step.flops": 1_204_000_000,
    "train_step.peak_bytes": 11_219_763,
    "step_time_ratio": 1.214,
}
LOHA = Row("MetaMathQA-tiny-loha-rank8", "MetaMathQA", "regressed", VALUES, 4.21, "train_step.flops +50.0 %")
LORA = Row("MetaMathQA-tiny-lora-rank8", "MetaMathQA", "identical", {**VALUES, "test_accuracy": 1.0}, 13.0)
OFT = Row(
    "image-gen-tiny-oft-r4", "image-gen", "improved", {"test_similarity": 0.5, "drift": 0.1}, 2.0, "drift -20.0 %"
)


def texts(lines):
    return [text for text, _ in lines]


def test_a_table_has_a_header_and_a_row_per_case_in_the_order_of_their_names():
    assert texts(table([LORA, LOHA], MATH)) == [
        "case                        verdict    accuracy  forgetting  step FLOP       peak   time    wall  what moved",
        "MetaMathQA-tiny-loha-rank8  regressed     62.5%       0.021    1.204e9  10.70 MiB  1.21x   4.2 s  "
        "train_step.flops +50.0 %",
        "MetaMathQA-tiny-lora-rank8  identical    100.0%       0.021    1.204e9  10.70 MiB  1.21x  13.0 s",
    ]


@pytest.mark.parametrize("width", [110, 120, 200])
def test_lines_fit_the_width(width):
    rows = [replace(LOHA, moved="first_losses +1e-07, " * 20), LORA]

    assert max(map(len, texts(table(rows, MATH, width)))) <= width
    assert any("…" in text for text in texts(table(rows, MATH, width)))


def test_what_moved_gives_way_when_there_is_no_room():
    lines = texts(table([LOHA], MATH, width=80))

    assert "what moved" not in lines[0]
    assert lines[1].endswith("4.2 s")


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
    lines = texts(summary([OFT, LOHA], QUALITY))

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
    assert texts(summary(every, QUALITY))[-1] == f"{len(SEVERITY)} cases: " + ", ".join(
        f"1 {word}" for word in SEVERITY
    )


def test_an_improvement_says_how_to_record_it():
    assert texts(summary([OFT], QUALITY, UPDATE))[-1] == f"to record improvements: {UPDATE}"
    assert UPDATE not in "".join(texts(summary([LOHA, LORA], QUALITY, UPDATE)))


def test_what_the_baselines_do_not_hold_yet_says_how_to_record_it():
    new = replace(LORA, verdict="not recorded yet")

    assert texts(summary([new], QUALITY, UPDATE))[-1] == f"to record what the baselines do not hold yet: {UPDATE}"


def test_without_cases_there_is_nothing_to_say():
    assert summary([], QUALITY, UPDATE) == []


def test_colours_tell_good_from_bad():
    markup = {text.split("  ")[0]: markup for text, markup in summary([LOHA, LORA, OFT], QUALITY)}

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

    assert texts(closing(outcomes, QUALITY, UPDATE)) == [
        "MetaMathQA-tiny-lora-r8: baseline written",
        "  train_loss: 1 -> 2",
        "case                     verdict     wall  what moved",
        "MetaMathQA-tiny-loha-r8  regressed  1.0 s  seen",
        "MetaMathQA-tiny-lora-r8  recorded   2.0 s  seen",
        "",
        "2 cases: 1 recorded, 1 regressed",
        "the run fails: over all its tests (Holm's correction) regressed what passed as cannot tell: "
        "MetaMathQA-tiny-loha-r8",
    ]
    assert closing(outcomes[2:], QUALITY, UPDATE) == []


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
    )
