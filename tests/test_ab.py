"""`peftbench ab`: two PEFTs in one job, told apart without a baseline; the base is measured once."""

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from multiprocessing.connection import Listener
from pathlib import Path
from threading import Thread

import pytest
from peft_copy import faulty_peft
from support import CASES, PLUGINS, Bench, make_result, make_suite, unmeasured, write_json
from support import LORA as LORA_CONFIG

from pytest_peftbench.commands.ab import peft_sources
from pytest_peftbench.commands.ab.cache import Cache, key_of
from pytest_peftbench.commands.ab.peft_sources import peft_source
from pytest_peftbench.commands.ab.sessions import Sessions
from pytest_peftbench.commands.ab.times import times
from pytest_peftbench.compare.between import between, needs_more
from pytest_peftbench.compare.in_turn import Round, judged, ratio_of
from pytest_peftbench.results.baseline import from_result
from pytest_peftbench.results.files import InputError
from pytest_peftbench.results.metrics import METRICS
from pytest_peftbench.results.orders import Clock
from pytest_peftbench.results.result import CaseId, Witness
from pytest_peftbench.suites import read_suite

FULL, LOHA, LORA = CASES
CASE = CaseId("MetaMathQA", "mini", "loha", "r4")
# Of a package that stands in for PEFT, so that nothing is trained: what a case measures is what it says.
FAKE_TEST = """
    import os

    import pytest
    from support import make_result

    @pytest.mark.peft_task("MetaMathQA")
    def test_mini(experiment, peft_baseline):
        import peft

        with open(os.environ["RUNS"], "a") as runs:
            runs.write(f"{peft.__version__} {experiment.case.method}\\n")
        peft_baseline.check(peft.figures(experiment, make_result(experiment.case)))
"""
# Asking torch for a device imports it, in seconds.
WITHOUT_TORCH = """
    from pytest_peftbench.measure import environment

    environment.check_device = lambda device: None
"""
FAKE = """
from dataclasses import replace

__version__ = "{version}"

def figures(experiment, result):
    result = replace(result, seeds=result.seeds[:1])
    {body}
    return result
"""


def fake_peft(folder, version="1.0", body="pass"):
    """A package by the name of PEFT, with the list of methods that suites are held against."""
    package = folder / "peft"
    types = Path(peft_sources._installed("")) / "utils" / "peft_types.py"
    package.mkdir(parents=True, exist_ok=True)
    (package / "__init__.py").write_text(FAKE.format(version=version, body=body))
    (package / "utils").mkdir(exist_ok=True)
    shutil.copy(types, package / "utils")
    (package / "utils" / "__init__.py").touch()
    return folder


def calls(method, count):
    """Python that gives one method so many calls of operators in a step."""
    return (
        f"if experiment.case.method == {method!r}: "
        f"result = replace(result, metrics={{**result.metrics, 'train_step.calls': {count}}})"
    )


class Folder(Bench):
    """A folder of benchmarks in which `peftbench ab` runs."""

    def ab(self, *arguments, **environment):
        command = [sys.executable, "-m", "pytest_peftbench.commands", "ab", "--cache", str(self.path / "cache")]
        env = {**unmeasured(), "RUNS": str(self.path / "runs"), **environment}
        words = [*map(str, arguments), str(self.path / "test_mini.py"), *PLUGINS]
        return subprocess.run([*command, *words], cwd=self.path, env=env, capture_output=True, text=True, timeout=240)

    def runs(self):
        """Which cases ran, by version and method, and forgets them."""
        file = self.path / "runs"
        found = file.read_text().split("\n")[:-1] if file.exists() else []
        file.unlink(missing_ok=True)
        return found


@pytest.fixture
def folder(tmp_path):
    found = Folder(tmp_path)
    found.write("test_mini.py", FAKE_TEST)
    found.write("conftest.py", WITHOUT_TORCH)
    return found


# What moved -----------------------------------------------------------------------------------------------------------


def test_what_moved_is_told_and_the_base_is_measured_once(folder):
    old = fake_peft(folder.path / "old")
    new = fake_peft(folder.path / "new", "1.1", calls("loha", 3_007))

    first = folder.ab(
        "--base", old, "--head", new, "--json", "moved.json", "--markdown", "moved.md", "--html", "m.html"
    )

    assert first.returncode == 1, first.stderr
    assert f"{LOHA}  regressed\n  train_step.calls  3,006 -> 3,007  +1 calls" in first.stdout
    assert first.stdout.endswith("3 cases on both sides: 2 identical, 1 regressed\n")
    assert sorted(folder.runs()) == sorted(
        f"{version} {method}" for version in ("1.0", "1.1") for method in ("full-finetuning", "loha", "lora")
    )
    data = json.loads((folder.path / "moved.json").read_text())
    assert data["counts"] == {"regressed": 1, "identical": 2}
    assert (data["old"], data["new"]) == (f"{old} (PEFT 1.0)", f"{new} (PEFT 1.1)")
    assert "train_step.calls" in (folder.path / "moved.md").read_text()
    assert LOHA in (folder.path / "m.html").read_text()

    again = folder.ab("--base", old, "--head", new, "-k", "loha")

    assert again.returncode == 1, again.stderr
    assert re.search(r"1 case of .*old \(PEFT 1.0\) from the cache", " ".join(again.stdout.split()))
    assert folder.runs() == ["1.1 loha"]


def test_a_copy_is_identical_and_a_changed_suite_is_measured_anew(folder):
    old, new = fake_peft(folder.path / "old"), fake_peft(folder.path / "new")
    assert folder.ab("--base", old, "--head", new, "-k", "lora").returncode == 0
    folder.runs()
    write_json(folder.suite / "experiments" / "lora" / "r4" / "training_params.json", {"max_steps": 6})

    result = folder.ab("--base", old, "--head", new, "-k", "lora")

    assert (result.returncode, result.stdout) == (0, "1 case on both sides: 1 identical\n"), result.stderr
    assert folder.runs() == ["1.0 lora"] * 2


def test_a_case_that_a_side_cannot_run_is_told_and_never_green(folder):
    fails = "if experiment.case.method == {!r}: raise RuntimeError('no such rank')"
    old = fake_peft(folder.path / "old", "1.0", fails.format("lora"))
    new = fake_peft(folder.path / "new", "1.1", fails.format("loha"))

    result = folder.ab("--base", old, "--head", new, "--html", "page.html")

    assert result.returncode == 1, result.stderr
    assert "no such rank" in (folder.path / "page.html").read_text()
    assert f"{LOHA}  failed" in result.stdout
    assert f"{LORA}  not comparable" in result.stdout
    assert "could not run it: failed: RuntimeError: no such rank" in result.stdout
    only_old = folder.ab("--base", old, "--head", new, "-k", "lora")
    assert only_old.returncode == 2, only_old.stdout


def test_what_differs_from_the_base_and_from_the_baseline_is_told_apart(folder):
    old = fake_peft(folder.path / "old", "1.0", calls("loha", 3_010))
    new = fake_peft(folder.path / "new", "1.1", calls("loha", 3_010))
    recorded = subprocess.run(
        [sys.executable, "-m", "pytest", *PLUGINS, "--peft-update-baselines", "-q", "-k", "loha", "--peft-seeds=1"],
        cwd=folder.path,
        env={
            **unmeasured(),
            "RUNS": "runs",
            "PYTHONPATH": os.pathsep.join([str(fake_peft(folder.path / "was")), path()]),
        },
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert recorded.returncode == 0, recorded.stdout

    result = folder.ab("--base", old, "--head", new, "-k", "loha")

    assert result.returncode == 0, result.stdout
    told = " ".join(result.stdout.split())
    assert "against baselines, which decides nothing here: 1 case on both sides: 1 regressed" in told
    assert re.search(rf"differs from the baseline, as .*old \(PEFT 1.0\) does: {LOHA}", told)


def path():
    return os.environ.get("PYTHONPATH", "")


def test_other_bits_ask_for_a_witness_and_for_the_other_seeds(folder):
    moved = "[replace(run, metrics={**run.metrics, 'first_losses': [2.5, 2.25, 2.0 + %s]}) for run in result.seeds]"
    witnessed = "witness=Witness({'losses': [2.0 + %s]}), disturbed=[{'losses': [2.0]}]"
    body = f"result = replace(result, seeds={moved}, {witnessed})"
    witness = "from pytest_peftbench.results.result import Witness\n    "
    old = fake_peft(folder.path / "old", "1.0", witness + body % ("0", "0"))
    rounded = fake_peft(folder.path / "rounded", "1.1", witness + body % ("1e-6", "1e-12"))
    changed = fake_peft(folder.path / "changed", "1.2", witness + body % ("1e-6", "1e-6"))

    same = folder.ab("--base", old, "--head", rounded, "-k", "loha")

    assert (same.returncode, same.stdout) == (0, "1 case on both sides: 1 same to rounding\n"), same.stderr
    assert folder.runs() == ["1.0 loha", "1.1 loha"] * 2

    other = folder.ab("--base", old, "--head", changed, "-k", "loha")

    assert other.returncode == 1, other.stderr
    assert f"{LOHA}  numerics changed" in other.stdout
    assert re.search(r"witness +2 -> 2.000001 +by 5.0e-07 of its size", other.stdout)
    assert folder.runs() == ["1.2 loha"] * 2, "all of the base is known"


def test_a_change_of_one_line_in_peft_is_told_with_its_cause(tmp_path):
    bench = Folder(tmp_path)
    bench.trains()
    once = "result = result + lora_B(lora_A(dropout(x))) * scaling"
    vanilla = f"dtype)\n{' ' * 16}if active_adapter not in self.lora_variant:  # vanilla LoRA\n{' ' * 20}"
    twice = f"{vanilla}lora_B(lora_A(dropout(x))); {once}"
    changed = faulty_peft(tmp_path / "changed", "tuners/lora/layer.py", f"{vanilla}{once}", twice)

    result = bench.ab("--base", installed(), "--head", changed, "-k", "lora", "--times", "0")

    assert result.returncode == 1, result.stderr
    assert f"{LORA}  regressed" in result.stdout
    assert re.search(r"train_step.calls  .* -> .*\n    aten.\w+  \d+ -> \d+ calls", result.stdout)
    assert "numerics" not in result.stdout


def installed():
    return peft_sources._installed("").parent


# Times ----------------------------------------------------------------------------------------------------------------


# Stands in for a session: connects, and has for each call of a case a time, or words, that were fixed before.
PROCESS = """
import json, sys
from multiprocessing.connection import Client

address, key, name, plan = json.loads(sys.argv[1])
cases = plan.items()
connection = Client(address, authkey=bytes.fromhex(key))
connection.send(name)
for case, seconds in cases:
    if isinstance(seconds, str):
        connection.send((case, [], seconds))
        connection.recv()
        continue
    connection.send((case, ["step"], ""))
    while (asked := connection.recv()) is not None:
        connection.send([seconds] * asked[1])
"""


class FixedTimes:
    """Sessions whose processes need no torch: by side, the seconds of a call of each case."""

    def __init__(self, **plans):
        self.plans = plans

    def clock(self, source, cases, clock):
        words = json.dumps([clock.address, clock.key, clock.name, self.plans[source]])
        return subprocess.Popen([sys.executable, "-c", PROCESS, words], stderr=subprocess.PIPE, text=True)


def test_two_programs_are_timed_in_turn():
    sessions = FixedTimes(old={"a": 0.1, "b": 0.2, "c": 0.1, "d": 0.1}, new={"a": 0.105, "b": "no memory", "d": 0.08})

    found = times(sessions, "old", "new", ["a", "b", "c", "d"], lambda line: None, rounds=2)

    assert [round(value, 6) for item in found["a"].rounds["step"] for value in item.change] == [1.05] * 10
    assert {value for item in found["a"].rounds["step"] for value in item.copy} == {1.0}
    assert (found["b"].rounds, found["b"].problem) == ({}, "the new side: no memory")
    assert found["c"].problem == "the new side: its test could not be set up"
    assert [round(value, 6) for item in found["d"].rounds["step"] for value in item.change] == [0.8] * 10


def test_a_process_that_ends_before_it_is_timed_is_an_error_and_no_wait_without_end():
    with pytest.raises(InputError, match="a process ended with code 1 before it could be timed"):
        times(FixedTimes(old={}, new={"a": 0.1}, broken=None), "broken", "new", ["a"], lambda line: None)


@pytest.mark.parametrize("rank", [4, -1])
def test_a_case_is_timed_as_it_is_asked_for(rank, tmp_path):
    from pytest_peftbench.cases.loading import cached_base_models, cached_task_data
    from pytest_peftbench.cases.on_demand import serve

    suite = tmp_path / "MetaMathQA" / "mini"
    make_suite(suite, {"lora/r4": ({**LORA_CONFIG, "r": rank}, None)})
    (experiment,) = read_suite(suite)
    with Listener(authkey=b"key") as listener:
        clock = Clock(listener.address, b"key".hex(), f"rank {rank}")
        work = Thread(target=serve, args=(clock, "a", experiment, cached_base_models(), cached_task_data()))
        work.start()
        connection = listener.accept()
        assert connection.recv() == f"rank {rank}"
        name, kinds, problem = connection.recv()
        if rank > 0:
            assert (name, kinds, problem) == ("a", ["step", "decode"], "")
            for kind in kinds:
                connection.send((kind, 2))
                assert len([seconds for seconds in connection.recv() if seconds > 0]) == 2
        else:
            assert (name, kinds) == ("a", [])
            assert "PEFT cannot add the adapter: ValueError" in problem
        connection.send(None)
        work.join()


# Words for what cannot be ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "--base: what is the installed PEFT to be held against?"),
        (["--base", "."], "--base .: holds no PEFT, neither peft/__init__.py nor src/peft/__init__.py"),
        (["--base", "old", "--times", "few"], "--times few: expected a number of cases"),
        (["--base", "old", "--baselines", "nowhere"], "--baselines nowhere: no such folder"),
        (["--base", "old", "--json", "/proc/x.json"], "--json /proc/x.json: cannot be written"),
        (["--base", "old", "--peft-json=x"], "--peft-json: is not for `peftbench ab`"),
        (["--base", "old", "--head", "old", "-k", "zzz"], "no case is selected"),
        (["--base", "old", "--head", "old", "--peft-sweet"], "unrecognized arguments: --peft-sweet"),
        (["--base", "old", "--head", "broken"], "PEFT 2.0): pytest ended with code 4: its PEFT cannot be imported"),
        (["--base", "broken", "--head", "old"], "ZeroDivisionError: division by zero"),
    ],
)
def test_bad_arguments_end_with_code_4_and_a_message(arguments, words, folder):
    fake_peft(folder.path / "old")
    broken = fake_peft(folder.path / "broken", "2.0") / "peft" / "__init__.py"
    broken.write_text(broken.read_text() + "1 / 0\n")

    result = folder.ab(*arguments)

    assert result.returncode == 4, result.stdout + result.stderr
    assert words in result.stderr
    assert "Traceback" not in result.stderr
    assert result.stdout == ""


def git(where, *arguments):
    identity = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false"]
    subprocess.run(["git", "-C", str(where), *identity, *arguments], check=True, capture_output=True)


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A clone of a PEFT, installed in editable mode: version 1.0 is its first commit, 1.1 in the working tree."""
    root = tmp_path / "clone"
    fake_peft(root / "src", "1.0")
    git(tmp_path, "init", "-q", str(root))
    git(root, "add", "-A")
    git(root, "commit", "-qm", "first")
    fake_peft(root / "src", "1.1")
    monkeypatch.setattr(peft_sources, "_installed", lambda about: root / "src" / "peft")
    return root


def test_a_revision_is_that_of_the_checkout_and_the_working_tree_stays(checkout, tmp_path):
    old, new = peft_source("--base", "HEAD", tmp_path / "old"), peft_source("--head", None, tmp_path / "new")

    assert (old.version, new.version) == ("1.0", "1.1")
    assert (old.label, new.label) == ("HEAD (PEFT 1.0)", "the installed PEFT (PEFT 1.1)")
    assert (tmp_path / "old" / "peft" / "utils" / "peft_types.py").is_file()
    assert old.digest != new.digest
    assert peft_source("--base", str(checkout), tmp_path / "tree").digest == new.digest


def test_a_revision_that_there_is_not_is_told(checkout, tmp_path):
    with pytest.raises(InputError, match="--base nowhere: Needed a single revision"):
        peft_source("--base", "nowhere", tmp_path / "old")
    git(checkout, "rm", "-rq", "--cached", "src")
    git(checkout, "commit", "-qm", "gone")
    git(checkout, "add", "src")
    with pytest.raises(InputError, match=r"--base HEAD: this commit of .* holds no PEFT at src/peft"):
        peft_source("--base", "HEAD", tmp_path / "gone")


def test_a_checkout_that_merely_lies_around_the_installed_peft_has_no_revisions_of_it(checkout, tmp_path, monkeypatch):
    inside = fake_peft(checkout / ".venv" / "site-packages") / "peft"
    monkeypatch.setattr(peft_sources, "_installed", lambda about: inside)

    with pytest.raises(InputError, match="is in no git checkout, so there are no revisions; install PEFT from a clone"):
        peft_source("--base", "HEAD", tmp_path / "old")


def test_a_version_that_pip_cannot_install_is_told_in_pips_words(tmp_path, monkeypatch):
    monkeypatch.setenv("PIP_NO_INDEX", "1")

    with pytest.raises(InputError, match=r"--base 0\.1\.0: pip cannot install peft 0\.1\.0: No matching distribution"):
        peft_source("--base", "0.1.0", tmp_path / "old")


# The cache ------------------------------------------------------------------------------------------------------------


def test_an_entry_is_taken_whole_or_not_at_all(tmp_path):
    cache, out = Cache(tmp_path / "cache"), tmp_path / "out"
    cache.keep("key", {"a/one.json": b"1", "two.json": b"2"})

    assert cache.take("key", out)
    assert (out / "a" / "one.json").read_bytes() == b"1"

    shutil.rmtree(out)
    (tmp_path / "cache" / "key" / "two.json").write_bytes(b"3")
    assert not cache.take("key", out)
    assert not out.exists()
    (tmp_path / "cache" / "key" / "contents.json").unlink()
    assert not cache.take("key", out)
    assert not Cache(None).take("key", out)


def test_an_entry_that_leads_out_of_its_folder_is_none(tmp_path):
    cache = Cache(tmp_path / "cache")
    write_json(tmp_path / "cache" / "key" / "contents.json", {"schema": 1, "sha256": {"../../x": "0" * 64}})

    assert not cache.take("key", tmp_path / "out")


def test_what_nobody_asked_for_in_a_month_is_removed(tmp_path):
    cache = Cache(tmp_path)
    for key in ("old", "new"):
        cache.keep(key, {"x": b"x"})
    os.utime(tmp_path / "old" / "contents.json", (0, 0))

    cache.prune()

    assert [file.name for file in tmp_path.iterdir()] == ["new"]


def test_how_many_run_at_a_time_and_which_changes_no_key(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def key(*arguments):
        return key_of(Sessions(arguments, tmp_path).settings())

    same = {key(), key("-k", "loha"), key("-n", "2"), key("-n2", "-x"), key(".", "-m", "peft_loha")}
    assert len(same) == 1
    assert {key("--peft-seeds", "2"), key("--peft-seeds=2")} & same == set()
    monkeypatch.setenv("PEFTBENCH_ARITHMETIC", "other")
    assert key() not in same


# Rules ----------------------------------------------------------------------------------------------------------------


def result_of(**metrics):
    result = make_result(CASE)
    return replace(result, metrics={**result.metrics, **metrics}, environment={**result.environment, "peft": "0.20"})


def test_another_version_of_peft_loosens_no_rule():
    old = make_result(CASE)
    runs = [replace(run, metrics={**run.metrics, "adapter_sha256": "1" * 64}) for run in old.seeds]

    found = between(from_result(old), result_of(**{"train_step.flops": 1_204_000_001}), METRICS, 1)
    bits = between(from_result(old), replace(result_of(), seeds=runs), METRICS, 1)

    assert found.verdict.verdict == "regressed"
    assert bits.verdict.verdict == "numerics changed"


def test_what_leaves_a_case_open():
    old = make_result(CASE)
    runs = [replace(run, metrics={**run.metrics, "first_losses": [2.5, 2.25, 1.0]}) for run in old.seeds]
    witnessed = replace(old, witness=Witness({"losses": [1.0]}))

    assert not needs_more(old, result_of(**{"train_step.flops": 9}), METRICS)
    assert needs_more(old, replace(old, seeds=runs), METRICS)
    assert needs_more(witnessed, replace(old, witness=Witness({"losses": [1.0 + 1e-9]})), METRICS)
    assert not needs_more(old, replace(old, seeds=runs, case_version="2"), METRICS)


STEP = METRICS["step_time_ratio"]


@pytest.mark.parametrize(
    ("changes", "copies", "verdict"),
    [
        ((1.050, 1.048, 1.052, 1.049), (1.001, 0.999, 1.002, 0.998), "regressed"),
        ((0.950, 0.952, 0.951, 0.949), (1.001, 0.999, 1.002, 0.998), "improved"),
        ((1.004, 1.006, 1.003, 1.007), (1.001, 0.999, 1.002, 0.998), "within noise"),
        # processes of one program lie as far apart as those of two
        ((1.050, 1.048, 1.052, 1.049), (1.060, 0.940, 1.070, 0.930), "within noise"),
        ((2.0, 0.5, 1.9, 0.6), (1.9, 0.5, 2.1, 0.4), None),
    ],
)
def test_the_interval_of_times_decides(changes, copies, verdict):
    found = judged(STEP, ratio_of([Round([a], [b]) for a, b in zip(changes, copies, strict=True)]))

    assert (found and found.verdict) == verdict
    if found:
        assert re.fullmatch(
            r"in turn, interval \d.\d{3} to \d.\d{3}, margin 1 %; old to old \d.\d{3}; tells \d+.\d % and more",
            found.reason,
        )
