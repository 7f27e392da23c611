"""A suite of one experiment with one change of its files: read, and its configs made; nothing is trained."""

import json
import shutil
from dataclasses import MISSING, fields
from functools import cache
from pathlib import Path

from fuzz import Slipped
from fuzz.mutate import NAMES, damaged
from pytest_peftbench.cases.kinds import KINDS
from pytest_peftbench.results.files import InputError
from pytest_peftbench.suites import ADAPTER_FILE, DEFAULTS_FILE, PARAMS_FILE, read_suite

SUITES = Path(__file__).parents[2] / "benchmarks"


def attempt(rng, folder):
    """Damage one file of an experiment, or its name; see `baselines.attempt`."""
    source = rng.choice(_experiments())
    relative = source.relative_to(SUITES)
    suite = folder / relative.parents[2]
    here = folder / relative
    shutil.copytree(source, here)
    for file in source.parents[2].glob("*.json"):
        shutil.copy(file, suite)
    before = read_suite(suite)[0], _content(suite, here)
    files = sorted(path for path in suite.rglob("*.json"))
    file = rng.choice(files)
    if rng.random() < 0.8:
        content, words = damaged(rng, file.read_text(encoding="utf-8"))
        file.write_bytes(content)
    else:
        words = _moved(rng, file)
    return (lambda: _outcome(suite, here, *before)), f"{file.relative_to(folder).as_posix()}: {words}"


def _moved(rng, file):
    """The file under another name, or in another's place."""
    names = [ADAPTER_FILE, PARAMS_FILE, DEFAULTS_FILE, "adapter_confg.json", "config.json", "margins.json", "notes.txt"]
    how = rng.choice(["deleted", "emptied", "a folder", "renamed", "renamed", "copied", "moved up", "moved down"])
    target = file.with_name(rng.choice(names))
    if how == "moved up":
        target = file.parent.parent / file.name
    elif how == "moved down":
        target = file.parent / "below" / file.name
        target.parent.mkdir()
    if how == "emptied":
        file.write_bytes(b"")
    elif how == "copied" and target != file:
        shutil.copy(file, target)
    elif how in ("deleted", "a folder"):
        file.unlink()
        if how == "a folder":
            file.mkdir()
    else:
        file.replace(target)
    return f"{how}, {target.name}"


def _outcome(suite, here, first, content):
    try:
        experiments = read_suite(suite)
        for experiment in experiments:
            _use(experiment)
    except InputError as error:
        if str(suite) not in str(error):
            raise Slipped(f"the error does not name the file: {error}") from error
        return "refused"
    if [experiment.path for experiment in experiments] != [here]:
        raise Slipped("the experiment is lost")
    (experiment,) = experiments
    if first.adapter is not None and experiment.adapter is None and len(list(here.rglob("*.json"))) > 1:
        raise Slipped("it became full fine-tuning, though its folder holds more than training parameters")
    if experiment.definition() != first.definition():
        return "another case"
    now = _content(suite, here)
    if experiment.margins == first.margins and (passed_over := _passed_over(type(first.train), content, now)):
        raise Slipped(f"nobody reads {passed_over}")
    return "same"


def _use(experiment):
    """All that is made of an experiment before its base model is."""
    experiment.require()
    assert experiment.marker
    experiment.definition()
    for kind in KINDS.values():
        kind.takes(experiment, False)
    for what in ("BASE_MODEL", "DATA", "REFERENCE"):
        experiment.train.telling(what)
    if experiment.adapter is not None:
        from pytest_peftbench.cases.methods import make_config

        make_config(experiment.adapter, experiment.path / ADAPTER_FILE)


def _content(suite, here):
    """What stands in the files: the training parameters as they hold, and every other file by its name.

    Beside a suite's defaults a user may keep what they like; only a name that is nearly one of ours is refused there.
    """
    files = [file for file in suite.rglob("*") if file.is_file() and file != suite / "config.json"]
    held = {file.relative_to(suite).as_posix(): _json(file) for file in files}
    defaults = held.pop(DEFAULTS_FILE, {})
    params = held.pop((here / PARAMS_FILE).relative_to(suite).as_posix(), {})
    return {**held, "training parameters": {**defaults, **params}}


def _json(file):
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except ValueError:
        return None


def _passed_over(config_type, before, now):
    """What differs in the JSON files, but for a parameter that is left out and has its default."""
    defaults = {field.name: field.default for field in fields(config_type) if field.default is not MISSING}
    old, new = ({**defaults, **side["training parameters"]} for side in (before, now))
    changed = sorted(key for key in old.keys() | new.keys() if old.get(key, NAMES) != new.get(key, NAMES))
    others = sorted(name for name in before.keys() | now.keys() if before.get(name) != now.get(name))
    return ", ".join([*changed, *(name for name in others if name.endswith(".json"))])


@cache
def _experiments():
    return sorted(path for path in SUITES.glob("*/*/experiments/*/*") if path.is_dir())
