"""`peftbench tune` and `peftbench curve`: what is searched, what a killed run leaves, what is written and told."""

import json
import subprocess
import sys
import textwrap
from dataclasses import fields

import pytest
from support import LOHA, LORA, REPOSITORY, TINY_SUITE, make_suite, skip_under_an_older_peft, unmeasured, write_json

from pytest_peftbench import commands as cli
from pytest_peftbench.commands.tune import plan, spaces, workers
from pytest_peftbench.commands.tune.outcome import read
from pytest_peftbench.commands.tune.spaces import SPACES, read_spaces
from pytest_peftbench.commands.tune.study import Attempt, Failed, Store
from pytest_peftbench.suites import read_suite

pytest.importorskip("optuna")
UNTRAINED = {"valid_accuracy": 0.0, "test_accuracy": 0.0, "forgetting": 0.0}


def score_of(values):
    """Best at a learning rate of 0.01."""
    return max(0.0, 1 - abs(values["lr"] - 0.01) * 20)


def figures(valid_accuracy, train_loss=1.0):
    return {
        "valid_accuracy": valid_accuracy,
        "test_accuracy": valid_accuracy / 2,
        "forgetting": 0.125,
        "train_loss": train_loss,
    }


def mini(folder):
    """A suite of four experiments."""
    folder = folder / "MetaMathQA" / "mini"
    experiments = {"lora/r4": (LORA, None), "lora/r4-other": (LORA, None), "loha/r4": (LOHA, {"grad_norm_clip": 2.0})}
    make_suite(folder, {**experiments, "full-finetuning/default": (None, {"optimizer_kwargs": {"lr": 1e-3}})})
    return folder


@pytest.fixture
def suite(tmp_path):
    return mini(tmp_path)


def pretended(patch):
    """Trials that train nothing; what was asked for stands in the list."""
    asked = []

    def attempt(work, draw):
        asked.append((work.study, draw.number, draw.seed))
        found = attempt.gives(work, draw)
        if isinstance(found, Exception):
            raise found
        return Attempt(found, {"peft": "0.21"})

    def train(url, works, jobs, progress):
        store = Store(url)
        for work in works:
            if work.kind == "search":
                store.note(work, workers.UNTRAINED, UNTRAINED)
        store.take_turns(works, attempt, lambda work, trial: progress(workers.line(work, trial)))

    attempt.gives = lambda work, draw: figures(score_of(draw.values))
    attempt.asked = asked
    patch.setattr(workers, "train", train)
    return attempt


@pytest.fixture
def trained(monkeypatch):
    return pretended(monkeypatch)


def tune(suite, *arguments):
    return cli.main(["tune", str(suite), *map(str, arguments)])


def outcome(suite, stem="lora--r4"):
    return json.loads((suite / "tuning" / f"{stem}.json").read_text())


# What is tuned --------------------------------------------------------------------------------------------------------


def test_an_exact_name_selects_one_experiment_and_a_pattern_those_it_matches(suite):
    def chosen(*patterns):
        return [item.case.experiment for item in plan.selected(suite, patterns)]

    assert chosen("lora/r4") == ["lora/r4"]
    assert chosen("lora/*") == ["lora/r4", "lora/r4-other"]
    assert chosen("lora/r4", "loha/*") == ["loha/r4", "lora/r4"]
    assert len(chosen()) == 4


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--only", "lora"], "--only lora: "),
        (["--only", "lora/r5"], "lora/r4"),
        (["--search", "rank"], "--search rank: nothing of that name is searched"),
        (["--search", "lora_alfa"], "'lora_alpha'?"),
        (["--search", "sparsity", "--only", "lora/r4"], "--search sparsity: lora/r4 has none of them"),
        (["--trials", "0"], "'0': expected an integer of at least 1"),
        (["--seed", "-1"], "'-1': expected an integer of at least 1"),
        (["--space", "nowhere.json"], "nowhere.json: cannot be read"),
        (["--storage", "mysterious://"], "mysterious://: cannot hold trials"),
        (["--out", __file__], "test_tune.py: cannot be written"),
    ],
)
def test_what_cannot_be_tuned_is_a_usage_error(arguments, words, suite, capsys):
    with pytest.raises(SystemExit) as stopped:
        tune(suite, *arguments)

    assert stopped.value.code == 2
    assert words in capsys.readouterr().err


def test_a_dry_run_lists_experiments_and_writes_nothing(suite, capsys):
    before = sorted(suite.rglob("*"))

    assert tune(suite, "--only", "lo?a/r4", "--trials", 3, "--retrain", 2, "--dry-run") == 0

    text = capsys.readouterr().out
    assert [line.split()[:3] for line in text.splitlines()[1:3]] == [["loha/r4", "3", "0"], ["lora/r4", "3", "0"]]
    assert "lr, r, lora_alpha, lora_dropout" in text
    assert "6 trials of 2 experiments and 4 trainings with fresh seeds: " in " ".join(text.split())
    assert max(map(len, text.splitlines())) <= 80
    assert sorted(suite.rglob("*")) == before


def test_an_experiment_that_the_installed_peft_does_not_know_is_told_and_left_out(suite, trained, capsys):
    write_json(suite / "experiments/warp/r4/adapter_config.json", {**LORA, "peft_type": "WARP"})

    assert tune(suite, "--only", "warp/r4", "--only", "lora/r4", "--trials", 1) == 1

    assert "warp/r4 is left out:" in capsys.readouterr().out
    assert [path.name for path in (suite / "tuning").glob("*.json")] == ["lora--r4.json"]


# The spaces -----------------------------------------------------------------------------------------------------------


def test_each_method_of_the_embedded_suites_has_a_space_of_keys_that_its_config_has():
    skip_under_an_older_peft()
    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING

    experiments = [
        item for task in ("MetaMathQA", "image-gen") for item in read_suite(TINY_SUITE.parents[1] / task / "tiny")
    ]
    methods = {spaces.method_of(item) for item in experiments}

    found = read_spaces(SPACES)

    assert methods == found.keys()
    for name, space in found.items():
        keys = [key for key in space.dimensions if key != "lr"]
        known = {field.name for field in fields(PEFT_TYPE_TO_CONFIG_MAPPING[name])} if keys else set()
        assert set(keys) <= known, name


@pytest.fixture(scope="module")
def embedded():
    """An experiment of the embedded math suite for each of its methods."""
    skip_under_an_older_peft()
    return {spaces.method_of(item): item for item in reversed(read_suite(TINY_SUITE))}.values()


def test_the_last_values_of_each_space_take_a_step_on_the_embedded_model(embedded, tmp_path):
    from pytest_peftbench.cases.loading import cached_base_models, cached_task_data
    from pytest_peftbench.cases.subject import subject_of

    base_model, task_data = cached_base_models(), cached_task_data()
    for experiment in embedded:
        values = {
            name: item.choices[-1] if isinstance(item, spaces.Choice) else item.high
            for name, item in spaces.space_of(experiment, SPACES).dimensions.items()
        }
        tried = spaces.with_values(experiment, {**values, "lr": 1e-3}, 0)
        subject = subject_of(tried, base_model, task_data, tmp_path)
        model = subject.inject(subject.injectable_base(0), 0)
        assert subject.trainer(model.train()).step(subject.probe).isfinite(), values


def test_learning_rates_are_drawn_alike_for_all_methods_of_a_kind_and_more_draws_change_no_earlier_one():
    found = read_spaces(SPACES)
    lora, full = (spaces.draws(found[name], 8, 0) for name in ("LORA", "FULL"))

    assert [values["lr"] for values in lora] == [values["lr"] for values in full]
    assert spaces.draws(found["LORA"], 4, 0) == lora[:4]
    assert spaces.draws(found["LORA"], 8, 1) != lora
    assert len({values["lr"] for values in lora}) == 8
    assert all(2e-4 <= values["lr"] <= 0.2 and values["r"] in (4, 8, 16, 32) for values in lora)


def test_rates_of_all_kinds_span_as_many_decades():
    ranges = [space.dimensions["lr"] for space in read_spaces(SPACES).values()]

    assert {round(item.high / item.low) for item in ranges} == {1000}


def test_an_argument_of_the_optimizer_follows_the_key_of_the_adapter(suite):
    params = {"optimizer_type": "lora-fa", "optimizer_kwargs": {"lr": 1e-3, "r": 4, "lora_alpha": 8}}
    write_json(suite / "experiments/lora/r4/training_params.json", params)
    (experiment,) = plan.selected(suite, ["lora/r4"])

    tuned = spaces.with_values(experiment, {"lr": 0.5, "r": 16, "lora_dropout": 0.1}, 7)

    assert tuned.train.optimizer_kwargs == {"lr": 0.5, "r": 16, "lora_alpha": 8}
    assert tuned.adapter == {**LORA, "r": 16, "lora_dropout": 0.1}
    assert tuned.seeds == (7,)


RATES = {"weights": {"low": 1e-3, "high": 1e-1, "log": True}}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({}, "object missing required field `rates`"),
        ({"rates": RATES, "methods": {"LORA": {"rate": "fast", "keys": {}}}}, "methods.LORA.rate: 'fast'"),
        ({"rates": RATES, "methods": {"LORA": {"rate": "weights", "keys": {"r": [8]}}}}, "keys.r: needs two choices"),
        (
            {"rates": RATES, "methods": {"LORA": {"rate": "weights", "keys": {"r": [8, 8]}}}},
            "keys.r: needs two choices",
        ),
        ({"rates": RATES, "methods": {"LORA": {"rate": "weights", "keys": {"r": 8}}}}, "methods.LORA.keys.r"),
        ({"rates": RATES, "methods": {"LORA": {"rate": "weights", "keys": {"lr": [8, 9]}}}}, "keys.lr: the learning"),
        (
            {"rates": {"weights": {"low": 1.0, "high": 0.1}}, "methods": {"LORA": {"rate": "weights", "keys": {}}}},
            "low",
        ),
        (
            {
                "rates": {"weights": {"low": 0, "high": 1.0, "log": True}},
                "methods": {"LORA": {"rate": "weights", "keys": {}}},
            },
            "above 0",
        ),
        ({"rates": RATES, "methods": {}}, "methods: has no FULL"),
    ],
)
def test_a_bad_file_of_spaces_is_refused_by_key(content, words, suite, tmp_path, capsys):
    write_json(tmp_path / "space.json", content)

    with pytest.raises(SystemExit) as stopped:
        tune(suite, "--space", tmp_path / "space.json", "--dry-run")

    assert stopped.value.code == 2
    error = capsys.readouterr().err
    assert "space.json: " in error
    assert words in error


def test_a_value_at_a_bound_is_told():
    space = read_spaces(SPACES)["LORA"]

    assert list(space.at_bounds({"lr": 0.19, "r": 8, "lora_alpha": 64, "lora_dropout": 0.0})) == [
        "lr 0.19 is at its upper bound 0.2",
        "lora_alpha 64 is at its upper bound 64",
    ]


# Searching ------------------------------------------------------------------------------------------------------------


def test_each_experiment_gets_the_same_budget_and_its_outcome_holds_each_trial(suite, trained, capsys):
    assert tune(suite, "--only", "lora/r4", "--only", "full-finetuning/*", "--trials", 4) == 0

    found = outcome(suite)
    assert [trial["number"] for trial in found["trials"]] == [0, 1, 2, 3]
    assert {trial["state"] for trial in found["trials"]} == {"complete"}
    assert found["trials"][0]["figures"].keys() == figures(0.5).keys()
    scores = [trial["figures"]["valid_accuracy"] for trial in found["trials"]]
    assert found["best"] == scores.index(max(scores))
    assert (found["metric"], found["search_seed"], found["untrained"]) == ("valid_accuracy", 0, UNTRAINED)
    assert found["space"]["r"] == [4, 8, 16, 32]
    assert found["environments"] == [{"peft": "0.21"}]
    rates = [
        [trial["values"]["lr"] for trial in outcome(suite, stem)["trials"]]
        for stem in ("lora--r4", "full-finetuning--default")
    ]
    assert rates[0] == rates[1]
    assert "lora/r4: valid_accuracy" in capsys.readouterr().out
    assert not (suite / "experiments/lora/r4/training_params.json").exists()


def test_more_trials_go_on_from_those_that_are_there_and_fewer_are_refused(suite, trained, capsys):
    tune(suite, "--only", "lora/r4", "--trials", 2)
    tune(suite, "--only", "lora/r4", "--trials", 3)

    assert [number for _, number, _ in trained.asked] == [0, 1, 2]
    assert len(outcome(suite)["trials"]) == 3
    with pytest.raises(SystemExit):
        tune(suite, "--only", "lora/r4", "--trials", 2)
    assert "holds 3 trials, --trials 2 would drop some" in capsys.readouterr().err


@pytest.mark.parametrize("other", [["--seed", 1], ["--search", "lr"]])
def test_trials_of_another_search_are_refused(other, suite, trained, capsys):
    tune(suite, "--only", "lora/r4", "--trials", 1)

    with pytest.raises(SystemExit):
        tune(suite, "--only", "lora/r4", "--trials", 1, *other)

    assert "is of another space or --seed" in capsys.readouterr().err


def test_trials_of_another_peft_are_refused(suite, trained, capsys, monkeypatch):
    tune(suite, "--only", "lora/r4", "--trials", 1)
    monkeypatch.setattr(plan, "installed", lambda name: "99")

    with pytest.raises(SystemExit):
        tune(suite, "--only", "lora/r4", "--trials", 2)

    assert "now it is 99; give another --out" in capsys.readouterr().err


def test_a_trial_that_fails_is_the_worst_and_keeps_its_reason(suite, trained, capsys):
    trained.gives = lambda work, draw: (
        Failed("Diverged: the loss is not finite at step 20") if draw.number else figures(0.5)
    )

    assert tune(suite, "--only", "lora/r4", "--trials", 3) == 0

    found = read(suite / "tuning/lora--r4.json")
    assert [trial.state for trial in found.trials] == ["complete", "failed", "failed"]
    assert found.trials[1].error == "Diverged: the loss is not finite at step 20"
    assert found.best == 0
    assert list(found.search(3).scores) == [0.5, 0.0, 0.0]
    assert "2 of 3 trials failed" in capsys.readouterr().out


def test_where_all_trials_fail_the_exit_code_is_1(suite, trained, capsys):
    trained.gives = lambda work, draw: Failed("ValueError: singular")

    assert tune(suite, "--only", "lora/r4", "--trials", 2, "--retrain", 1, "--still", "--write") == 1

    assert "lora/r4: all of 2 trials failed: ValueError: singular" in capsys.readouterr().out
    assert outcome(suite)["best"] is None


def test_a_failed_trial_is_no_better_than_a_bad_one(suite, trained):
    trained.gives = lambda work, draw: Failed("out of memory") if draw.number else figures(-0.25)

    tune(suite, "--only", "lora/r4", "--trials", 2)

    search = read(suite / "tuning/lora--r4.json").search(2)
    assert list(search.scores) == [-0.25, -0.25]
    assert search.merits[1] < search.merits[0]


def test_the_best_is_trained_with_fresh_seeds_and_stays_when_a_later_run_does_not(suite, trained, capsys):
    tune(suite, "--only", "lora/r4", "--trials", 2, "--retrain", 3)

    found = outcome(suite)
    assert [trial["seed"] for trial in found["retrained"]] == [1, 2, 3]
    assert {json.dumps(trial["values"]) for trial in found["retrained"]} == {
        json.dumps(found["trials"][found["best"]]["values"])
    }
    assert "with fresh seeds (3 of 3 trained), valid_accuracy" in capsys.readouterr().out
    tune(suite, "--only", "lora/r4", "--trials", 2)
    assert outcome(suite)["retrained"] == found["retrained"]
    assert len(trained.asked) == 5


def test_the_best_values_are_written_where_that_is_asked_and_tuning_then_goes_on(suite, trained, capsys):
    tune(suite, "--only", "loha/r4", "--trials", 3, "--write")

    best = outcome(suite, "loha--r4")
    values = dict(best["trials"][best["best"]]["values"])
    params = json.loads((suite / "experiments/loha/r4/training_params.json").read_text())
    assert params == {"grad_norm_clip": 2.0, "optimizer_kwargs": {"lr": values.pop("lr"), "weight_decay": 0.0}}
    assert json.loads((suite / "experiments/loha/r4/adapter_config.json").read_text()) == {**LOHA, **values}
    assert "optimizer_kwargs.lr: 0.005 -> " in " ".join(capsys.readouterr().out.split())
    tune(suite, "--only", "loha/r4", "--trials", 4, "--write")
    assert len(trained.asked) == 4


# What keeps still -----------------------------------------------------------------------------------------------------


def by_number(*pairs):
    """What trials give, and what they give on the moved base model."""

    def gives(work, draw):
        return pairs[draw.number][work.kind == "moved"]

    return gives


def settled(suite):
    found = outcome(suite)
    return found["best"], found["still"], [trial["number"] for trial in found["moved"]]


@pytest.mark.parametrize("moved", [figures(0.87), figures(0.9, 1.0006), figures(0.93), Failed("Diverged")])
def test_a_better_trial_that_does_not_keep_still_is_not_chosen(moved, suite, trained):
    trained.gives = by_number((figures(0.9), moved), (figures(0.5), figures(0.5, 1.0004)))

    tune(suite, "--only", "lora/r4", "--trials", 2, "--still")

    assert settled(suite) == (1, True, [0, 1])


def test_whether_a_trial_keeps_still_is_asked_of_the_best_alone_where_that_does(suite, trained):
    trained.gives = by_number((figures(0.5), None), (figures(0.9), figures(0.9)))

    tune(suite, "--only", "lora/r4", "--trials", 2, "--still")

    assert settled(suite) == (1, True, [1])


def test_where_no_trial_keeps_still_the_stillest_is_chosen_and_told(suite, trained, capsys):
    trained.gives = by_number((figures(0.9), figures(0.5)), (figures(0.5), figures(0.4)))

    tune(suite, "--only", "lora/r4", "--trials", 2, "--still")

    assert settled(suite) == (1, False, [0, 1])
    assert "no trial that learns keeps still; this one moves least" in capsys.readouterr().out


def test_a_trial_that_keeps_still_because_it_learns_nothing_is_passed_over(suite, trained):
    trained.gives = by_number((figures(0.03), figures(0.03)), (figures(0.9), figures(0.5)))

    tune(suite, "--only", "lora/r4", "--trials", 2, "--still")

    assert settled(suite) == (1, False, [1])


# Killed, shared, resumed ----------------------------------------------------------------------------------------------

# Tries draws that take half a second each, and says which.
_SLOW = """
    import sys, time
    sys.path.insert(0, {tests!r})
    from pathlib import Path
    from pytest_peftbench.commands.tune import plan, study, workers
    from pytest_peftbench.commands.tune.spaces import SPACES

    study.HEARTBEAT_S, study.DEAD_S = 1, 3

    def attempt(work, draw):
        print(draw.number, flush=True)
        if draw.number in {deadly!r}:
            import os
            os._exit(9)
        time.sleep({seconds})
        return study.Attempt({{"valid_accuracy": 0.5, "train_loss": 1.0}}, {{}})

    (experiment,) = plan.selected(Path({suite!r}), ["lora/r4"])
    work = plan.work_of(experiment, plan.Search(SPACES, (), 4, 0, "cpu"))
    store = study.Store({url!r})
    store.prepare(work)
    store.take_turns([work], attempt, lambda work, trial: None)
"""


def slow(suite, tmp_path, deadly=(), seconds=0.3):
    places = {"suite": str(suite), "url": f"sqlite:///{(tmp_path / 'trials.sqlite').as_posix()}"}
    code = textwrap.dedent(_SLOW).format(tests=str(REPOSITORY / "tests"), deadly=deadly, seconds=seconds, **places)
    return subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, env=unmeasured())


def test_a_killed_run_goes_on_where_it_was_and_its_trial_is_run_again(suite, tmp_path):
    first = slow(suite, tmp_path, seconds=60)
    assert first.stdout.readline() == "0\n"
    first.kill()
    first.wait()
    second = slow(suite, tmp_path, seconds=0)

    assert sorted(second.communicate(timeout=60)[0].split()) == ["0", "1", "2", "3"]
    assert slow(suite, tmp_path).communicate(timeout=60)[0] == ""


def test_two_processes_share_the_trials_and_run_none_twice(suite, tmp_path):
    both = [slow(suite, tmp_path) for _ in range(2)]

    found = [process.communicate(timeout=60)[0].split() for process in both]

    assert sorted(found[0] + found[1]) == ["0", "1", "2", "3"]


def test_a_trial_that_takes_two_processes_with_it_has_failed(suite, tmp_path):
    runs = [slow(suite, tmp_path, deadly=(1,), seconds=0).communicate(timeout=60)[0].split() for _ in range(3)]

    assert runs[0] == ["0", "1"]
    assert sorted(number for run in runs for number in run) == ["0", "1", "1", "2", "3"]
    (experiment,) = plan.selected(suite, ["lora/r4"])
    work = plan.work_of(experiment, plan.Search(SPACES, (), 4, 0, "cpu"))
    store = Store(f"sqlite:///{(tmp_path / 'trials.sqlite').as_posix()}")
    assert [(trial.number, trial.state) for trial, _ in store.done(work)] == [
        (0, "complete"),
        (1, "failed"),
        (2, "complete"),
        (3, "complete"),
    ]
    assert "2 processes died of it" in store.done(work)[1][0].error


def test_a_trial_of_the_embedded_model_gives_what_the_benchmark_gives(suite, tmp_path):
    """A real run, in processes of its own: two trials and a fresh seed."""
    command = [
        sys.executable,
        "-m",
        "pytest_peftbench.commands",
        "tune",
        str(suite),
        "--only",
        "lora/r4",
        "--trials",
        "2",
    ]
    first = subprocess.run([*command, "--retrain", "1"], capture_output=True, text=True, timeout=240, env=unmeasured())

    assert first.returncode == 0, first.stderr
    found = outcome(suite)
    assert [trial["state"] for trial in (*found["trials"], *found["retrained"])] == ["complete"] * 3
    assert found["trials"][0]["figures"].keys() == figures(0.5).keys()
    assert found["environments"][0]["device"] == "cpu"
    assert len([line for line in first.stderr.splitlines() if line.startswith("lora/r4 ")]) == 3


# Curves ---------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    """Of four trials of each of the four experiments; full fine-tuning is half as good."""
    folder = mini(tmp_path_factory.mktemp("tuned"))
    with pytest.MonkeyPatch.context() as patch:
        trained = pretended(patch)
        trained.gives = lambda work, draw: figures(score_of(draw.values) * (0.5 if "full" in work.study else 1))
        tune(folder, "--trials", 4)
    return folder / "tuning"


@pytest.fixture
def tuned(outcomes, tmp_path):
    for file in outcomes.glob("*.json"):
        write_json(tmp_path / "tuning" / file.name, json.loads(file.read_text()))
    return tmp_path / "tuning"


def test_a_curve_tells_the_best_of_n_trials_and_how_sure_the_order_is(tuned, tmp_path, capsys):
    assert cli.main(["curve", str(tuned), "--json", str(tmp_path / "curve.json")]) == 0

    text = capsys.readouterr().out
    assert max(map(len, text.splitlines())) <= 80
    assert "MetaMathQA mini, draws of seed 0: valid_accuracy of the best of n trials, 4 each" in " ".join(text.split())
    assert "n=1" in text
    assert "n=4" in text
    assert "n=8" not in text
    (field,) = json.loads((tmp_path / "curve.json").read_text())["fields"]
    assert [standing["name"] for standing in field["standings"]["4"]][-1] == "full-finetuning/default"
    assert field["standings"]["4"][0]["first"] > 0.5
    scores = [
        trial["figures"]["valid_accuracy"] for trial in json.loads((tuned / "lora--r4.json").read_text())["trials"]
    ]
    (curve,) = [curve for curve in field["curves"] if curve["name"] == "lora/r4"]
    assert curve["score"][0]["value"] == pytest.approx(sum(scores) / 4)
    assert curve["choice"]["test_accuracy"][0]["value"] == pytest.approx(sum(scores) / 8)


def test_outcomes_of_other_budgets_are_compared_at_the_smaller_one(suite, trained, capsys):
    tune(suite, "--only", "lora/r4", "--trials", 2)
    tune(suite, "--only", "loha/r4", "--trials", 4)
    capsys.readouterr()

    assert cli.main(["curve", str(suite / "tuning")]) == 0

    text = capsys.readouterr().out
    assert "best of n trials, 2 each" in text
    assert "loha/r4: its last 2 trials left out" in text


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda found: found.update(schema=99), "schema is 99"),
        (lambda found: found.pop("trials"), "missing required field `trials`"),
        (lambda found: found.update(trials=[]), "trials: holds none"),
        (lambda found: found["trials"].pop(0), "their numbers must be 0, 1, 2"),
        (lambda found: found["trials"][1]["figures"].pop("valid_accuracy"), "trials[1].figures: lacks valid_accuracy"),
        (lambda found: found["untrained"].pop("valid_accuracy"), "untrained: lacks valid_accuracy"),
        (lambda found: found.update(best=7), "best: 7 is no trial that did not fail"),
        (lambda found: found.update(metric="valid_guess"), "metric: 'valid_guess' is unknown here"),
    ],
)
def test_an_outcome_that_is_damaged_is_told_and_the_others_are_shown(change, words, tuned, capsys):
    found = json.loads((tuned / "lora--r4.json").read_text())
    change(found)
    write_json(tuned / "lora--r4.json", found)
    capsys.readouterr()

    assert cli.main(["curve", str(tuned)]) == 1

    captured = capsys.readouterr()
    assert "lora--r4.json: " in captured.err
    assert words in captured.err
    assert "loha/r4" in captured.out


def test_a_page_of_curves_opens_offline_and_takes_no_name_for_html(suite, trained, tmp_path):
    name = "lora/<img src=x>"
    write_json(suite / "experiments" / name / "adapter_config.json", LORA)
    tune(suite, "--only", "lora/*", "--trials", 2)

    assert cli.main(["curve", str(suite / "tuning"), "--html", str(tmp_path / "page.html")]) == 0

    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "<img" not in page
    assert "lora/&lt;img src=x&gt;</th>" in page
    assert "default-src 'none'" in page


@pytest.mark.parametrize("place", ["nowhere", "empty"])
def test_where_no_outcome_can_be_read_a_curve_is_a_usage_error(place, tmp_path, capsys):
    (tmp_path / "empty").mkdir()

    with pytest.raises(SystemExit) as stopped:
        cli.main(["curve", str(tmp_path / place)])

    assert stopped.value.code == 2
    assert place in capsys.readouterr().err
