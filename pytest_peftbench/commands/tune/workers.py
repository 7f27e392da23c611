"""The processes that take trials: each loads torch, base model and data once, and trains one trial after the other."""

from __future__ import annotations

import gc
import multiprocessing
import warnings
from collections.abc import Callable, Sequence
from multiprocessing import connection
from multiprocessing.connection import Connection
from typing import Any

from pytest_peftbench.commands.tune.outcome import Trial
from pytest_peftbench.commands.tune.spaces import Values, with_values
from pytest_peftbench.commands.tune.study import Attempt, Draw, Failed, Store, Work
from pytest_peftbench.results.files import InputError
from pytest_peftbench.results.words import error_line, one_line

UNTRAINED = "untrained"
# What a process says: that it is ready, what it has done, or why it cannot go on.
_READY, _DONE, _ERROR = "ready", "done", "error"
Message = tuple[str, str]


def train(url: str, works: Sequence[Work], jobs: int, progress: Callable[[str], None]) -> None:
    """Do all trials that wait in a storage, in `jobs` processes. progress: gets a line per trial.

    A process that dies is replaced. Raises InputError for what no trial can run with.
    """
    context = multiprocessing.get_context("spawn")  # forked ones could not use a GPU
    processes: dict[Connection[Message, Message], Any] = {}
    ready = 0
    try:
        while len(processes) < jobs:
            _start(context, processes, url, works)
        while processes:
            for receiver in connection.wait(list(processes)):
                kind, text = _heard(receiver)  # type: ignore[arg-type]
                if kind == _ERROR:
                    raise InputError(text)
                if kind == _READY:
                    ready += 1
                elif kind == _DONE:
                    progress(one_line(text))
                elif _has_died(processes.pop(receiver), ready):  # type: ignore[call-overload]
                    progress("a process died at a trial; another one goes on")
                    _start(context, processes, url, works)
    finally:
        for process in processes.values():
            process.terminate()
            process.join()


def _start(context: Any, processes: dict[Any, Any], url: str, works: Sequence[Work]) -> None:
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_process, args=(sender, url, list(works)), daemon=True)
    process.start()
    sender.close()
    processes[receiver] = process


def _heard(receiver: Connection[Message, Message]) -> tuple[str, str]:
    try:
        return receiver.recv()
    except EOFError:
        receiver.close()
        return "", ""


def _has_died(process: Any, ready: int) -> bool:
    """Whether a process that ended did so before its time. Raises InputError where none has ever come so far."""
    process.join()
    if process.exitcode and not ready:
        raise InputError(f"a process for trials ended with code {process.exitcode} before it had begun")
    return bool(process.exitcode)


def _process(sender: Connection[Any, Any], url: str, works: Sequence[Work]) -> None:
    warnings.simplefilter("ignore")
    parent = multiprocessing.parent_process()
    try:
        store = Store(url)
        attempt = Trainer(store)
        sender.send((_READY, ""))
        store.take_turns(
            works,
            attempt,
            lambda work, trial: sender.send((_DONE, line(work, trial))),
            lambda: parent is None or parent.is_alive(),
        )
    except KeyboardInterrupt:
        return
    except Exception as error:
        sender.send((_ERROR, str(error) if isinstance(error, InputError) else error_line(error)))


class Trainer:
    """Trains trials in this process, with each base model and data loaded once."""

    def __init__(self, store: Store) -> None:
        from pytest_peftbench.cases.loading import cached_base_models, cached_task_data

        self._store = store
        self._base_model, self._task_data = cached_base_models(), cached_task_data()

    def __call__(self, work: Work, draw: Draw) -> Attempt:
        """Raises Failed for a trial that gives nothing, InputError where the experiment cannot run at all."""
        import torch

        from pytest_peftbench.cases.attempt import attempt
        from pytest_peftbench.measure.environment import describe

        self._require_untrained(work)
        experiment = with_values(work.experiment, draw.values, draw.seed)
        try:
            figures = attempt(experiment, self._base_model, self._task_data, moved=work.kind == "moved")
        except OSError:  # the machine's, and no trial's
            raise
        except Exception as error:  # values can be refused, or be too large, in many ways
            reason = error_line(error)
        else:
            return Attempt(figures, describe(experiment.device))
        finally:
            gc.collect()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
        raise Failed(reason)  # here, where the error no longer holds on to a model

    def _require_untrained(self, work: Work) -> None:
        """The base model's own figures, which also show that the experiment can run but for its values."""
        if work.kind != "search" or self._store.noted(work, UNTRAINED) is not None:
            return
        from pytest_peftbench.cases.attempt import untrained

        self._store.note(work, UNTRAINED, untrained(work.experiment, self._base_model, self._task_data))


def line(work: Work, trial: Trial) -> str:
    """What a trial gave, in a line."""
    which = {"search": f"{trial.number}", "moved": f"{trial.number} moved", "fresh": f"seed {trial.seed}"}[work.kind]
    gave = trial.error or f"{work.metric} {trial.figures[work.metric]:.4g}"
    return f"{work.experiment.case.experiment} {which}: {worded(trial.values)}: {gave} ({trial.duration_s:.1f} s)"


def worded(values: Values) -> str:
    """`lr 0.0034, r 8`."""
    shown = (f"{name} {value:.3g}" if type(value) is float else f"{name} {value}" for name, value in values.items())
    return ", ".join(shown)
