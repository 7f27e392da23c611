"""Trials in a storage that processes and machines share: who takes which, what each gave, what a killed one left.

Each piece of work is a study of Optuna's, whose trials wait in it with their values from the start. Optuna hands them
out, one at a time, to whoever asks. When the process of a trial dies, its heart stops beating, and the trial waits once
more; one that two processes died of has failed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pytest_peftbench.commands.tune.optional import optuna
from pytest_peftbench.commands.tune.outcome import Figures, Trial
from pytest_peftbench.commands.tune.spaces import Choice, Range, Setting, Space, Values
from pytest_peftbench.results.files import InputError
from pytest_peftbench.results.words import error_line
from pytest_peftbench.suites import Experiment

# Seconds between two beats of a trial's heart, and from the last one until it is taken for dead.
HEARTBEAT_S, DEAD_S = 5, 45
# How many processes may die of one trial.
DEATHS = 2
_DIED = f"{DEATHS} processes died of it; the system may have run out of memory"
# Seconds for which a process waits for another one that writes to the same file.
_PATIENCE_S = 60
# What is kept with a trial of Optuna's.
_DRAW, _SEED, _FIGURES, _ENVIRONMENT, _DURATION, _ERROR, _STOPPED = (
    *("draw", "seed", "figures", "environment"),
    *("duration_s", "error", "stopped"),
)
_IDENTITY = "identity"


@dataclass(frozen=True)
class Draw:
    """One training that is wanted. number: of the trial in its study."""

    number: int
    values: Values
    seed: int


@dataclass(frozen=True)
class Work:
    """What is wanted of one experiment.

    study: its name. metric: whose value is a trial's score. identity: what trials must agree in to stand in one study,
    by name. kind: "search" for the best; "moved", on base weights moved by their last digit; "fresh", with other seeds.
    """

    study: str
    experiment: Experiment
    metric: str
    space: Space
    draws: tuple[Draw, ...]
    identity: Mapping[str, str]
    kind: Literal["search", "moved", "fresh"] = "search"


class Failed(Exception):
    """A trial gave nothing, for this reason, which is a result."""


@dataclass(frozen=True)
class Attempt:
    """What a trial gave, and where it ran."""

    figures: Figures
    environment: dict[str, str]


class Store:
    """A storage, by its URL as SQLAlchemy has it. Raises InputError where there can be none."""

    def __init__(self, url: str) -> None:
        self.url = url
        library = optuna()
        waiting = {"connect_args": {"timeout": _PATIENCE_S}} if url.startswith("sqlite:") else {}
        try:
            self._storage: Any = library.storages.RDBStorage(
                url,
                engine_kwargs=waiting,
                heartbeat_interval=HEARTBEAT_S,
                grace_period=DEAD_S,
            )
        except Exception as error:  # each database refuses in its own way
            raise InputError(f"{url}: cannot hold trials: {error_line(error)}") from error
        self._studies: dict[str, Any] = {}

    # What there is ---------------------------------------------------------------------------------------------------

    def prepare(self, work: Work) -> None:
        """Have all draws of a work wait that are neither done nor under way.

        Raises InputError where the study holds trials of another space, seed, PEFT or experiment: they tell nothing
        about this one.
        """
        known = self._study(work).user_attrs.get(_IDENTITY, {})
        for name, value in known.items():
            if work.identity.get(name) != value:
                raise InputError(
                    f"{self.url}: {work.study}: its trials are of {name} {value}, now it is {work.identity.get(name)}; "
                    "give another --out, or remove them"
                )
        if not known:
            self._study(work).set_user_attr(_IDENTITY, dict(work.identity))
        self._have_wait(work)

    def done(self, work: Work) -> list[tuple[Trial, dict[str, str]]]:
        """The work's trials that are done, in the order of their numbers, and where each ran."""
        found: dict[int, tuple[Trial, dict[str, str]]] = {}
        trials = self._trials(work)
        for trial in filter(_is_result, trials):
            found.setdefault(trial.user_attrs[_DRAW], (_result(trial), trial.user_attrs.get(_ENVIRONMENT, {})))
        for draw in work.draws:
            if draw.number not in found and _deaths(trials, draw.number) >= DEATHS:
                found[draw.number] = Trial(draw.number, draw.values, draw.seed, "failed", error=_DIED), {}
        return [found[draw.number] for draw in work.draws if draw.number in found]

    def note(self, work: Work, name: str, value: Any) -> None:
        """Keep a fact about a work."""
        self._study(work).set_user_attr(name, value)

    def noted(self, work: Work, name: str) -> Any:
        """A fact that was kept; None where it was not."""
        return self._study(work).user_attrs.get(name)

    def _have_wait(self, work: Work) -> None:
        for draw in self._wanted(work):
            self._study(work).enqueue_trial({**draw.values}, user_attrs={_DRAW: draw.number, _SEED: draw.seed})

    def _wanted(self, work: Work) -> list[Draw]:
        trials = self._trials(work)
        taken = {trial.user_attrs.get(_DRAW) for trial in trials if trial.state.name != "FAIL"}
        return [draw for draw in work.draws if draw.number not in taken and _deaths(trials, draw.number) < DEATHS]

    def _trials(self, work: Work, *states: str) -> list[Any]:
        wanted = [getattr(optuna().trial.TrialState, state) for state in states] or None
        found: list[Any] = self._study(work).get_trials(deepcopy=False, states=wanted)
        return found

    def _study(self, work: Work) -> Any:
        if work.study not in self._studies:
            self._studies[work.study] = optuna().create_study(
                storage=self._storage,
                study_name=work.study,
                sampler=optuna().samplers.RandomSampler(seed=0),  # never asked: trials come with their values
                load_if_exists=True,
            )
        return self._studies[work.study]

    # Doing it --------------------------------------------------------------------------------------------------------

    def take_turns(
        self,
        works: Sequence[Work],
        attempt: Callable[[Work, Draw], Attempt],
        told: Callable[[Work, Trial], None],
        go_on: Callable[[], bool] = lambda: True,
    ) -> None:
        """Take waiting trials, one after the other, until none waits and no process is at one.

        attempt: raises Failed for a trial that gives nothing. told: is called after each trial. go_on: is asked before.
        """
        left = list(works)
        while left and go_on():
            work = next((item for item in left if self._trials(item, "WAITING")), None)
            if work is not None:
                self._take(work, attempt, told)
                continue
            for item in left:  # another process is at its trials, or has died
                optuna().storages.fail_stale_trials(self._study(item))
                self._have_wait(item)
            left = [item for item in left if self._trials(item, "RUNNING", "WAITING")]
            time.sleep(1 if left else 0)

    def _take(self, work: Work, attempt: Callable[[Work, Draw], Attempt], told: Callable[[Work, Trial], None]) -> None:
        def objective(trial: Any) -> float:
            number = trial.user_attrs.get(_DRAW)
            if number is None or self._is_taken(work, trial):  # another process was faster
                raise optuna().TrialPruned
            values = {name: _suggested(trial, name, item) for name, item in work.space.dimensions.items()}
            started = time.perf_counter()
            try:
                found = attempt(work, Draw(number, values, trial.user_attrs[_SEED]))
            except Failed as error:
                trial.set_user_attr(_ERROR, str(error))
                raise optuna().TrialPruned from error
            except KeyboardInterrupt:
                trial.set_user_attr(_STOPPED, True)
                raise
            finally:
                trial.set_user_attr(_DURATION, round(time.perf_counter() - started, 3))
            trial.set_user_attr(_FIGURES, found.figures)
            trial.set_user_attr(_ENVIRONMENT, found.environment)
            return found.figures[work.metric]

        def after(_: Any, trial: Any) -> None:
            if _is_result(trial):
                told(work, _result(trial))

        self._study(work).optimize(objective, n_trials=1, callbacks=[after])

    def _is_taken(self, work: Work, trial: Any) -> bool:
        """Whether an earlier trial is of the same draw: two that prepare at once both have it wait."""
        return any(
            other.number < trial.number
            and other.user_attrs.get(_DRAW) == trial.user_attrs[_DRAW]
            and other.state.name != "FAIL"
            for other in self._trials(work)
        )


def _suggested(trial: Any, name: str, item: Range | Choice) -> Setting:
    """The value that the trial has been waiting with."""
    if isinstance(item, Choice):
        value: Setting = trial.suggest_categorical(name, item.choices)
        return value
    suggest = trial.suggest_int if item.whole else trial.suggest_float
    number: int | float = suggest(name, item.low, item.high, log=item.log)
    return number


def _is_result(trial: Any) -> bool:
    complete = trial.state.name == "COMPLETE"
    return complete or (trial.state.name == "PRUNED" and _ERROR in trial.user_attrs)


def _result(trial: Any) -> Trial:
    kept = trial.user_attrs
    return Trial(
        number=kept[_DRAW],
        values=dict(trial.params),
        seed=kept[_SEED],
        state="failed" if _ERROR in kept else "complete",
        figures=kept.get(_FIGURES, {}),
        duration_s=kept.get(_DURATION, 0.0),
        error=kept.get(_ERROR, ""),
    )


def _deaths(trials: Sequence[Any], number: int) -> int:
    """How many processes died of a draw; those that were told to stop did not."""
    failed = [trial for trial in trials if trial.state.name == "FAIL" and trial.user_attrs.get(_DRAW) == number]
    return sum(_STOPPED not in trial.user_attrs for trial in failed)
