"""A result file with one change, ours or PEFT's, through `peftbench import`."""

import contextlib
import io
import json
import math
from dataclasses import replace
from functools import cache

from fuzz import Slipped
from fuzz.baselines import BASELINES, passed_silently, result_of
from fuzz.experiments import SUITES
from fuzz.mutate import damaged
from pytest_peftbench.commands import main
from pytest_peftbench.compare import compare, is_green
from pytest_peftbench.results.baseline import baseline_path, read
from pytest_peftbench.results.files import InputError
from pytest_peftbench.results.metrics import METRICS
from pytest_peftbench.suites import read_suite
from pytest_peftbench.tasks.registry import spec_of

CASES = ["MetaMathQA/tiny/loha--rank8", "MetaMathQA/tiny/xlora--experts2", "image-gen/tiny/lora--rank8"]


def attempt(rng, folder):
    """Damage one result and import it; see `baselines.attempt`."""
    name, ours = rng.choice(CASES), rng.random() < 0.6
    result, *texts = _known(name)
    content, words = damaged(rng, texts[not ours])
    return (lambda: _outcome(result, texts, content, folder)), f"{name}, {'ours' if ours else 'one of PEFT'}: {words}"


def _outcome(result, texts, content, folder):
    code, told = _imported(folder / "damaged", content)
    written = _written(folder / "damaged")
    if code != 0:
        if written:
            raise Slipped(f"refused, and wrote {', '.join(map(str, written))}")
        if str(folder / "damaged" / "results") not in told:
            raise Slipped(f"the error does not name the file: {told}")
        return "refused"
    for path in written:
        if not path.is_relative_to(folder / "damaged" / "out"):
            raise Slipped(f"it wrote {path}")
        _must_be_readable(path)
    path = baseline_path(folder / "damaged" / "out", result.case)
    if not path.exists():
        return "another case"
    baseline = read(path)
    verdict = compare(result, baseline, METRICS, tests=1)
    if not is_green(verdict):
        return "red"
    # without our block it is one of PEFT's
    _imported(folder / "whole", texts[bool(baseline.imported)].encode())
    whole = baseline_path(folder / "whole" / "out", result.case)
    before, after = (json.loads(file.read_text(encoding="utf-8")) for file in (whole, path))
    if baseline.imported:
        before["case_version"] = after["case_version"]  # a hash of all that PEFT says; the rest of it is no case
    told = {finding.metric for finding in verdict.findings if finding.verdict == "not recorded yet"}
    for what in passed_silently(before, after, verdict):
        if what not in {f"{name} is gone" for name in told}:  # a result does not count its metrics, and a run says so
            raise Slipped(f"green, though {what}")
    return "same" if before == after else "green by its lane's rule"


def _imported(folder, content):
    """Exit code and words of an import, from a folder beside the baselines."""
    (folder / "results").mkdir(parents=True)
    (folder / "results" / "result.json").write_bytes(content)
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        try:
            code = main(["import", str(folder / "results"), "--out", str(folder / "out")])
        except SystemExit as stopped:
            code = stopped.code
    return code, said.getvalue()


def _written(folder):
    return [path for path in folder.rglob("*") if path.is_file() and path.name != "result.json"]


def _must_be_readable(path):
    try:
        read(path)
    except InputError as error:
        raise Slipped(f"it wrote a baseline that cannot be read: {error}") from error


def peft_text(name):
    """A result of this case, as PEFT would have written it."""
    return _known(name)[2]


@cache
def _known(name):
    """A result, and the text of its file as we write it, and as PEFT would have."""
    result = result_of(read(BASELINES / f"{name}.json"))
    peft = _of_peft(result)
    result = replace(result, peft=peft)
    return result, json.dumps(result.to_json(), indent=1), json.dumps(peft, indent=1)


def _of_peft(result):
    """What PEFT writes about a run with these figures."""
    case, environment, first = result.case, result.environment, result.seeds[0]
    suite = SUITES / case.task / case.base_model
    (experiment,) = (found for found in read_suite(suite) if found.case == case)
    figures = {item.figure: first.metrics[item.metric] / item.factor for item in spec_of(case.task).published}
    assert all(map(math.isfinite, figures.values()))
    return {
        "run_info": {
            "created_at": "2026-07-14T23:40:12+00:00",
            "total_time": 2374.5,
            "experiment_name": case.experiment,
            "peft_branch": "main",
            "train_config": {**vars(experiment.train), "seed": first.seed},
            "peft_config": experiment.adapter,
            "error_msg": "",
        },
        "train_info": {
            "accelerator_memory_max": 38868615168,
            "train_time": 2147.25,
            "file_size": result.metrics["checkpoint.bytes"],
            "num_trainable_params": result.metrics["params.trainable"],
            "num_total_params": result.metrics["params.total"],
            "status": "success",
            "metrics": [{"step": 1, "train loss": 1.5}, {"step": 2, **figures}],
        },
        "meta_info": {
            "model_info": {"sha": None, "created_at": None},
            "package_info": {f"{name}-version": environment[name] for name in ("torch", "transformers", "peft")},
            "system_info": {"machine": environment["machine"], "accelerator": environment["accelerator"]},
        },
    }
