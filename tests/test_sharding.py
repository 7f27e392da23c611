"""`--peft-shard`, `peftbench merge` and recorded durations: parts of a run, and the run that they make together."""

import hashlib
import json
import re
import shutil

import pytest
from support import CASES, FULL, LOHA_CASE, LORA_CASE, assert_usage_error, output, table

from pytest_peftbench import commands
from pytest_peftbench.results.balancing import next_case, shares
from pytest_peftbench.results.durations import Durations, read_durations

SLOWER = {"train_step.flops": 2_000_000_000}


@pytest.fixture
def recorded(bench):
    """Three cases with baselines, one of which takes as long as the others together."""
    bench.record()
    seconds = {FULL: 4.0, LOHA_CASE: 2.0, LORA_CASE: 2.0}
    (bench.path / "baselines" / "durations.json").write_text(json.dumps({"schema": 1, "seconds": seconds}))
    return bench


def sharded(bench, count, *arguments):
    """Run each shard, into a folder of its own."""
    return [bench.run(f"--peft-shard={i}/{count}", f"--peft-json=part{i}", *arguments) for i in range(1, count + 1)]


def merge(bench, capsys, *folders, into="merged"):
    """Exit code and output of `peftbench merge`."""
    capsys.readouterr()
    arguments = ["merge", *(str(bench.path / folder) for folder in folders), "--into", str(bench.path / into)]
    try:
        code = commands.main(arguments)
    except SystemExit as error:
        code = error.code
    told = capsys.readouterr()
    return code, told.out + told.err


def closing(text):
    """The closing tables, up to the count of verdicts, without times; a command's are 80 columns wide."""
    text = text.partition("PEFT benchmark")[2].partition("\n")[2].lstrip("\n") or text
    found = re.match(r"(?s).*?^\d+ cases?: [^\n]*$", text, re.M)
    return re.sub(r" +(wall|[\d.]+ s)$", "", found[0], flags=re.M)


# Parts ----------------------------------------------------------------------------------------------------------------


def test_shards_are_even_and_cover_every_case_once(recorded):
    one, two = sharded(recorded, 2)

    assert table(one) == {FULL: "identical"}
    assert table(two) == {LOHA_CASE: "identical", LORA_CASE: "identical"}
    assert "shard 1/2: 1 of 3 tests" in output(one)
    assert one.ret == two.ret == 0


def test_shards_are_the_same_however_cases_are_ordered_and_by_workers_too(recorded):
    recorded.write(
        "conftest.py",
        """
        def pytest_collection_modifyitems(items):
            items.reverse()
        """,
    )

    assert table(recorded.run("--peft-shard=2/2")) == {LOHA_CASE: "identical", LORA_CASE: "identical"}
    assert table(recorded.run("--peft-shard=2/2", "-n", "1")) == {LOHA_CASE: "identical", LORA_CASE: "identical"}


@pytest.mark.parametrize("arguments", [(), ("-n", "1")])
def test_an_empty_shard_is_green_and_says_so(recorded, arguments):
    result = recorded.run("--peft-shard=4/4", *arguments)

    assert result.ret == 0
    assert "shard 4/4 is empty, so nothing was to be run: 3 tests in the others" in output(result)


def test_a_shard_of_no_selected_test_is_as_red_as_a_run_of_none(recorded):
    assert recorded.run("--peft-shard=1/2", "-k", "no-such-method").ret == 5


@pytest.mark.parametrize("text", ["2", "0/2", "3/2", "1/0", "a/b", "1/2/3", "1/10001", "-1/2", ""])
def test_what_is_no_part_is_a_usage_error(bench, text):
    assert_usage_error(bench.run(f"--peft-shard={text}"), "expected i/n with 1 <= i <= n <= 10000")


# Together -------------------------------------------------------------------------------------------------------------


def test_shards_merged_equal_one_run(recorded, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")  # as wide as a command's output
    recorded.measures("loha", SLOWER)
    recorded.write("test_other.py", "def test_of_no_case():\n    pass")
    together = recorded.run("--peft-json=whole")
    sharded(recorded, 3)

    code, text = merge(recorded, capsys, "part1", "part2", "part3")

    assert (code, together.ret) == (1, 1)
    assert closing(text) == closing(output(together))
    assert "3 cases: 2 identical, 1 regressed" in text
    assert "3 shards, 3 cases, 1 red" in text
    names = [path.relative_to(recorded.path / "whole") for path in (recorded.path / "whole").rglob("*.json")]
    assert len(names) == 3
    assert len([*(recorded.path / "merged").rglob("*.json")]) == 3
    for name in names:
        assert (recorded.path / "merged" / name).read_text() == (recorded.path / "whole" / name).read_text()


def test_shards_that_share_a_folder_and_one_that_is_empty_are_merged_too(recorded, capsys):
    for number in range(1, 5):
        recorded.run(f"--peft-shard={number}/4", "--peft-json=results")

    code, text = merge(recorded, capsys, "results")

    assert code == 0
    assert "4 shards, 3 cases, 0 red" in text


def test_a_case_that_raised_and_one_that_was_skipped_are_merged_as_they_were(recorded, capsys):
    recorded.write(
        "test_mini.py",
        """
        import pytest
        from support import make_result

        def test_mini(experiment, peft_baseline):
            if experiment.case.method == "loha":
                raise ValueError("shapes differ")
            if experiment.case.method == "lora":
                pytest.skip("not today")
            peft_baseline.check(make_result(experiment.case))
        """,
    )
    sharded(recorded, 2)

    code, text = merge(recorded, capsys, "part1", "part2")

    assert code == 1
    assert "2 cases: 1 identical, 1 failed" in text
    assert "ValueError: shapes differ" in text
    assert f"1 case skipped: {LORA_CASE}" in text


# Accuracies of five seeds: with LOST, p is 0.024, enough for one case but not for three.
FIVE_SEEDS = """
    from dataclasses import replace

    import pytest
    from support import make_result

    from pytest_peftbench.results.result import SeedRun

    @pytest.mark.peft_task("MetaMathQA")
    def test_mini(experiment, peft_baseline):
        result = make_result(experiment.case)
        mean, step = (0.4, 0.05) if LOST else (0.5, 0.002)
        metrics = result.seeds[0].metrics
        runs = [SeedRun(seed, {**metrics, "test_accuracy": mean + step * (seed - 2)}) for seed in range(5)]
        peft_baseline.check(replace(result, seeds=runs))
"""


def test_the_correction_is_made_over_all_cases_and_not_over_those_of_a_shard(bench, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    bench.write("test_mini.py", FIVE_SEEDS.replace("LOST", "False"))
    bench.record()
    bench.write("test_mini.py", FIVE_SEEDS.replace("LOST", "True"))
    together, parts = bench.run(), sharded(bench, 3)

    _, text = merge(bench, capsys, "part1", "part2", "part3")

    assert "3 cases: 3 cannot tell" in output(together)
    assert ["1 case: 1 regressed" in output(part) for part in parts] == [True] * 3
    assert closing(text) == closing(output(together))


# What is not one run --------------------------------------------------------------------------------------------------


@pytest.fixture
def parts(recorded):
    """Two shards' folders."""
    sharded(recorded, 2)
    return recorded


def edit(bench, name, change):
    file = bench.path / name
    data = json.loads(file.read_text())
    change(data)
    file.write_text(json.dumps(data))


MANIFEST = "part2/peftbench-shard-2-of-2.json"
RESULT = "part2/MetaMathQA/mini/loha--r4.json"


def set_source(data):
    data["made_from"]["PEFT's source"] = "0"


def add_test(data):
    data["tests"]["test_other.py::test_other"] = 1


def forget_one(data):
    data["ended"].popitem()


def twice(path):
    shutil.copytree(path / "part1", path / "part3")


def stale(path):
    file = path / RESULT
    file.write_text(file.read_text().replace('"cpu"', '"gpu"'))


def in_both(path):
    (path / "part1/MetaMathQA/mini/loha--r4.json").write_bytes((path / RESULT).read_bytes())


ROWS = {
    "a shard that never ran": (lambda path: shutil.rmtree(path / "part2"), "part2: no such folder"),
    "without its end": (lambda path: (path / MANIFEST).unlink(), "part2: holds no peftbench-shard-*.json"),
    "a damaged one": (lambda path: (path / MANIFEST).write_text("{"), "no valid JSON"),
    "no shard": (lambda path: (path / MANIFEST).write_text("{}"), "missing required field `number`"),
    "a result that is gone": (
        lambda path: (path / RESULT).unlink(),
        "loha--r4.json: is missing, or not what",
    ),
    "a result of another run": (stale, "loha--r4.json: is missing, or not what shard 2/2 wrote"),
    "a result twice": (in_both, "part1/MetaMathQA/mini/loha--r4.json: "),
}
EDITED = {
    "another PEFT": (set_source, "made_from.PEFT's source: is 0, but "),
    "other tests": (add_test, "divides other tests than "),
    "another option": (lambda data: data["options"].update(seeds="3"), "options.seeds: is 3, but None in "),
    "another green": (lambda data: data["passing"].pop(), "passing: is another list than in "),
    "a test that never ran": (forget_one, "1 test never ran: test_mini.py::test_mini["),
    "no outcome": (lambda data: next(iter(data["ended"].values())).update(outcome={}), "is no outcome of a case"),
    "another name": (lambda data: data.update(number=1), "is of shard 1/2, whose file has another name"),
}


@pytest.mark.parametrize("name", [*ROWS, *EDITED])
def test_what_is_not_one_whole_run_is_refused_by_name(parts, capsys, name):
    change, words = ROWS[name] if name in ROWS else EDITED[name]
    if name in EDITED:
        edit(parts, MANIFEST, change)
    else:
        change(parts.path)

    code, text = merge(parts, capsys, "part1", "part2")

    assert code == 2
    assert words in text, text
    assert "Traceback" not in text
    assert not (parts.path / "merged").exists()


def test_a_shard_that_is_given_twice_or_not_at_all_is_refused_by_name(parts, capsys):
    twice(parts.path)

    code, text = merge(parts, capsys, "part1", "part2", "part3")
    assert (code, "is shard 1/2 too; give one of them" in text) == (2, True)

    code, text = merge(parts, capsys, "part1")
    assert (code, "shard 2/2 is in none of " in text) == (2, True)


def test_an_environment_of_another_machine_is_refused_by_case_and_key(parts, capsys):
    def elsewhere(data):
        data["peftbench"]["environment"]["arithmetic"] = "1" * 12

    edit(parts, RESULT, elsewhere)
    digest = hashlib.sha256((parts.path / RESULT).read_bytes()).hexdigest()
    edit(parts, MANIFEST, lambda data: data["ended"][f"test_mini.py::test_mini[{LOHA_CASE}]"].update(sha256=digest))

    code, text = merge(parts, capsys, "part1", "part2")

    assert code == 2
    assert "loha--r4.json: environment.arithmetic: is 111111111111, but 000000000000 in " in text


def test_results_are_merged_into_an_empty_folder_alone(parts, capsys):
    code, text = merge(parts, capsys, "part1", "part2", into="baselines")

    assert code == 2
    assert "is not an empty folder" in text


def test_a_shard_that_is_stopped_leaves_no_word_of_an_earlier_end(parts, capsys):
    parts.measures("loha", SLOWER)
    parts.run("--peft-shard=2/2", "--peft-json=part2", "-x").assert_outcomes(failed=1)

    code, text = merge(parts, capsys, "part1", "part2")

    assert code == 2
    assert "1 test never ran" in text


# Durations ------------------------------------------------------------------------------------------------------------


def test_durations_are_recorded_where_they_are_asked_for_and_left_where_they_moved_little(bench):
    bench.record()
    assert not (bench.path / "baselines" / "durations.json").exists()

    bench.run("--peft-update-durations").assert_outcomes(passed=3)
    found = read_durations(bench.path / "baselines").seconds

    assert set(found) == set(CASES)
    recorded = Durations({"a": 10.0, "b": 1.0, "gone": 3.0})
    assert recorded.updated({"a": 11.9, "b": 1.34}, whole=True).seconds == {"a": 10.0, "b": 1.3}
    assert recorded.updated({"b": 0.0}, whole=False).seconds == {"a": 10.0, "b": 0.05, "gone": 3.0}


@pytest.mark.parametrize("arguments", [("--peft-update-baselines",), ("--peft-calibrate",)])
def test_what_takes_longer_than_a_comparison_records_no_duration(bench, arguments):
    assert_usage_error(bench.run("--peft-update-durations", *arguments), "peft_update_durations: ")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "no valid JSON"),
        ('{"schema": 2, "seconds": {}}', "schema is 2, this version reads 1"),
        ('{"schema": 1, "seconds": {"a": "long"}}', 'seconds.a: expected `float`, found "long"'),
        ('{"schema": 1, "seconds": {"a": 0}}', "seconds.a: expected `float` > 0.0, found 0"),
    ],
)
def test_durations_that_cannot_be_read_are_refused_where_they_are_needed(recorded, text, words):
    (recorded.path / "baselines" / "durations.json").write_text(text)

    assert recorded.run().ret == 0
    assert_usage_error(recorded.run("--peft-shard=1/2"), "durations.json", words)


def test_shares_are_the_longest_first_to_the_one_that_has_least():
    seconds = {"a": 5.0, "b": 4.0, "c": 3.0, "d": 3.0, "e": 3.0}

    assert shares(seconds, 2) == {"a": 1, "b": 2, "c": 2, "d": 1, "e": 2}
    assert shares(dict(reversed(seconds.items())), 2) == shares(seconds, 2)
    assert shares({"a": 1.0}, 3) == {"a": 1}


def test_behind_a_long_case_comes_the_shortest_and_behind_a_short_one_the_longest():
    seconds = [8.0, 4.0, 1.0]

    assert next_case([0, 1, 2], seconds, queued_s=0.0) == 0
    assert next_case([1, 2], seconds, queued_s=8.0) == 2
    assert next_case([1, 2], seconds, queued_s=1.0) == 1
