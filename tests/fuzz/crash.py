"""Processes that write are killed at random moments: each file is the old one or the new one, and whole.

What is written: baselines and results of cases that take no time, by pytest or by workers of xdist, and imports of
PEFT's results. Only the case that was running may be lost. Needs SIGKILL, which Windows does not have.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from functools import cache
from pathlib import Path

from support import PLUGINS, Bench, unmeasured, write_json

from fuzz import Slipped
from fuzz.imports import CASES, peft_text

NAMES = [f"r{rank}" for rank in range(1, 9)]
# Of one seed there is no noise, of an own experiment no device: neither scipy nor torch is imported.
TEST = f"""
    from dataclasses import replace
    import pytest
    from support import make_result
    from pytest_peftbench.results.result import CaseId

    @pytest.fixture(params={NAMES})
    def experiment(request):
        return CaseId("MetaMathQA", "mini", "lora", request.param)

    def test_mini(experiment, peft_baseline):
        result = make_result(experiment)
        peft_baseline.check(replace(result, seeds=result.seeds[:1]))
"""
# Notes which cases began and which ended, a line each, in the process that runs them.
CONFTEST = """
    import os
    from pathlib import Path
    import pytest

    def note(file, item):
        with (Path(__file__).parent / file).open("a") as notes:
            notes.write(f"{os.getpid()} {item.callspec.params['experiment']}\\n")

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_protocol(item):
        note("began.txt", item)
        result = yield
        note("ended.txt", item)
        return result
"""
PYTEST = ["-m", "pytest", *PLUGINS, "--peft-update-baselines", "--peft-json", "written/results"]
PYTEST += ["--peft-baselines", "written/baselines"]
IMPORT = ["-m", "pytest_peftbench.commands", "import", "published", "--out", "written"]
# What runs, and whether a worker of it is killed.
RUNS = {
    "pytest": (PYTEST, False),
    "pytest -n 2": ([*PYTEST, "-n", "2"], False),
    "a worker of pytest -n 2": ([*PYTEST, "-n", "2"], True),
    "peftbench import": (IMPORT, False),
}
LONGEST_S = 120


def attempt(rng, folder):
    """Kill one process; see `baselines.attempt`."""
    name = rng.choice([*RUNS])
    moment = rng.randrange(len(NAMES)), rng.uniform(0, 0.04), rng.uniform(0.3, 1.0)
    fresh = rng.random() < 0.3
    words = f"{name}, {'no' if fresh else 'old'} files, after {moment[0]} cases and {moment[1]:.3f} s"
    return (lambda: _outcome(name, moment, fresh, folder)), words


def _outcome(name, moment, fresh, folder):
    command, of_worker = RUNS[name]
    old, new, usual_s = _whole_runs(command is IMPORT)
    if fresh:
        old = {}
    _prepare(folder, "new")
    _restore(folder, old)
    process = _start(command, folder)
    try:
        _wait_for(moment, usual_s if command is IMPORT else None, process, folder)
        killed = _notes(folder, "began.txt")[-1][0] if of_worker else process.pid
        _kill(killed)
        told = process.communicate(timeout=LONGEST_S)[0] if of_worker else ""
        process.wait()
    except subprocess.TimeoutExpired as error:
        raise Slipped(f"it still runs {LONGEST_S} s after its worker was killed") from error
    finally:
        _end_group(process)
    written = _files(folder / "written")
    _must_be_whole(written, old, new)
    _must_hold_what_ended(written, new, folder)
    if of_worker:
        _must_tell_what_is_lost(written, new, process.returncode, told)
    left = _make_stale(folder)
    again = _start([*command], folder)
    told = again.communicate(timeout=LONGEST_S)[0]
    if again.returncode != 0 or _files(folder / "written") != new:
        raise Slipped(f"the next run does not mend it, exit code {again.returncode}: {told[-500:]}")
    if stale := _temporaries(folder):
        raise Slipped(f"the next run leaves {', '.join(stale)}")
    if process.returncode >= 0:
        return "a worker killed" if of_worker else "too late"
    return "killed while it wrote" if left else "killed between" if written != new else "killed at the end"


def _wait_for(moment, usual_s, process, folder):
    """Until so many cases have ended, or that share of its usual time has passed, and a little longer."""
    cases, further_s, share = moment
    start = time.monotonic()
    while process.poll() is None and time.monotonic() < start + LONGEST_S:
        if usual_s is None and (len(_notes(folder, "ended.txt")) >= cases and _notes(folder, "began.txt")):
            break
        if usual_s is not None and time.monotonic() > start + share * usual_s:
            break
        time.sleep(0.001)
    time.sleep(further_s)


def _must_be_whole(written, old, new):
    for file, content in written.items():
        if content not in (old.get(file), new.get(file)):
            raise Slipped(f"{file} is neither the old one nor the new one: {content[:200]!r}")
    if lost := old.keys() - written.keys():
        raise Slipped(f"{', '.join(sorted(lost))} was there and is lost")


def _must_hold_what_ended(written, new, folder):
    for _, name in _notes(folder, "ended.txt"):
        for file in new:
            if _case_of(file) == name and written.get(file) != new[file]:
                raise Slipped(f"{file} is lost, though its case had ended")


def _must_tell_what_is_lost(written, new, code, told):
    """All other cases run in the workers that are left; the one that was running is red by its name."""
    lost = sorted({_case_of(file) for file in new if written.get(file) != new[file]})
    if len(lost) > 1:
        raise Slipped(f"more than one case is lost: {', '.join(lost)}")
    if lost and (code == 0 or f"[{lost[0]}]" not in told):
        raise Slipped(f"exit code {code}, and no word of {lost[0]}: {told[-500:]}")


def _case_of(file):
    return Path(file).stem.partition("--")[2]


# Folders and processes ------------------------------------------------------------------------------------------------


def _prepare(folder, version):
    """Cases and PEFT's results whose figures are of this version."""
    bench = Bench(folder)
    shutil.rmtree(bench.suite)
    bench.write("test_mini.py", TEST)
    bench.write("conftest.py", CONFTEST)
    flops = {"old": 1_000, "new": 900}[version]
    rows = {f"aten.mm @ Layer{number}.forward": [1, flops] for number in range(400)}
    counters = {"train_step.calls": len(rows), "train_step.flops": flops * len(rows)}
    bench.measures("lora", counters, operators={"train_step": rows})
    for name in NAMES:
        data = json.loads(peft_text(CASES[0]))
        data["run_info"]["experiment_name"] = f"lora/{name}"
        data["run_info"]["notes"] = dict.fromkeys(rows, version)
        write_json(folder / "published" / f"{name}.json", data)


def _restore(folder, files):
    for name, content in files.items():
        file = folder / "written" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)


@cache
def _whole_runs(imports):
    """What runs that nobody kills leave, of the old version and of the new one, and the seconds that one takes."""
    found = []
    for version in ("old", "new"):
        with tempfile.TemporaryDirectory() as folder:
            _prepare(Path(folder), version)
            start = time.monotonic()
            process = _start(IMPORT if imports else PYTEST, Path(folder))
            told = process.communicate(timeout=LONGEST_S)[0]
            usual_s = time.monotonic() - start
            assert process.returncode == 0, told
            found.append(_files(Path(folder) / "written"))
    assert len(found[1]) == len(NAMES) * (1 if imports else 2)
    assert all(found[0][name] != content for name, content in found[1].items())
    return *found, usual_s


def _start(command, folder):
    return subprocess.Popen(
        [sys.executable, *command],
        cwd=folder,
        env={**unmeasured(), "PYTEST_ADDOPTS": ""},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def _kill(pid):
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:  # it has ended
        return


def _end_group(process):
    """Wait for the workers of a controller that was killed, which may still write, then end those that are left."""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        try:
            os.killpg(process.pid, 0)
        except (ProcessLookupError, PermissionError):
            return
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)


def _notes(folder, file):
    """Process and case of each whole line."""
    path = folder / file
    text = path.read_text() if path.exists() else ""
    return [(int(pid), name) for pid, name in re.findall(r"^(\d+) (.+)\n", text, re.MULTILINE)]


def _files(folder):
    """Content by path, but for temporary files."""
    found = sorted(path for path in folder.rglob("*") if path.is_file() and path.suffix != ".tmp")
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in found}


def _temporaries(folder):
    return sorted(path.relative_to(folder).as_posix() for path in (folder / "written").rglob(".*.tmp"))


def _make_stale(folder):
    """Temporary files that are left, made as old as those that nobody writes any more."""
    left = _temporaries(folder)
    for file in left:
        os.utime(folder / file, (time.time() - 3600,) * 2)
    return left
