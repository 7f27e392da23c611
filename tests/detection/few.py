"""The embedded suite's cases on few items and steps: about a second each, counters and checks as in the whole case."""

from dataclasses import replace

from support import TINY_SUITE

from pytest_peftbench.cases import loading
from pytest_peftbench.cases.trained import run_experiment
from pytest_peftbench.commands.selftest import runner
from pytest_peftbench.commands.selftest.patching import patched
from pytest_peftbench.measure import timing
from pytest_peftbench.results.baseline import from_result
from pytest_peftbench.suites import read_suite

# Large steps: after three of them the adapter has an effect.
PARAMS = {"max_steps": 3, "eval_steps": 3, "batch_size": 4, "batch_size_eval": 8, "lr_scheduler": None}


def experiment(name):
    """A case of the embedded suite, `lora/rank8`, shortened."""
    (found,) = (item for item in read_suite(TINY_SUITE) if item.case.experiment == name)
    kwargs = {**found.train.optimizer_kwargs, "lr": 0.05}
    generation = {"max_new_tokens": 2}
    return replace(found, train=replace(found.train, **PARAMS, optimizer_kwargs=kwargs, generation_kwargs=generation))


class Few:
    """Runs shortened cases, with or without a fault, and without a clock: a busy machine would make times red."""

    def __init__(self, monkeypatch):
        self.base_model = loading.cached_base_models()
        self.data = loading.cached_task_data()
        self.baselines = {}
        monkeypatch.setattr(timing, "compare", lambda *_, **__: timing.Timing(1.0, 1.0, 1.0, 0.01, ()))
        monkeypatch.setattr(loading, "cached_base_models", lambda: self.base_model)
        monkeypatch.setattr(loading, "cached_task_data", lambda: self.task_data)

    def task_data(self, case):
        data = self.data(case)
        short = sorted(data.train, key=len)[:32]
        documents = [ids[:32] for ids in data.documents[:4]]
        return replace(data, train=short, valid=data.valid[:1], test=data.test[:4], documents=documents)

    def run(self, name):
        return run_experiment(experiment(name), self.base_model, self.task_data)

    def verdict(self, name, fault=None):
        """What the self-test says of the case with the fault, or unchanged, held against its run without any."""
        if name not in self.baselines:
            self.baselines[name] = from_result(self.run(name))
        with patched(fault.edits if fault else ()):
            return runner.judge(experiment(name), self.baselines[name], fault.lane if fault else None, tests=1)
