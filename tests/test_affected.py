"""Which cases a change can reach: on small repositories that hold a copy of the installed PEFT, and nothing is run."""

import importlib.util
import json
import os
import re
import shutil
import sys
from collections import Counter
from dataclasses import replace

import pytest
from support import LORA, REPOSITORY, assert_usage_error, committed, git, make_suite, output, skip_under_an_older_peft

from pytest_peftbench.affected import Package, Places, Reach, affected_since, changes, imports, told
from pytest_peftbench.affected.syntax import is_same_code
from pytest_peftbench.cases.kinds import KINDS
from pytest_peftbench.commands import main
from pytest_peftbench.measure.counters import count_host_calls
from pytest_peftbench.measure.executed import executed_files, import_all
from pytest_peftbench.suites import find_suites, read_suite

skip_under_an_older_peft()

PEFT = "src/peft"
LOHA = f"{PEFT}/tuners/loha/layer.py"
# In LoHa's layer, and of the same meaning.
CODE = ("def get_delta_weight(self", "def get_delta_weight_of(self")
LOHA_CASE = "MetaMathQA-tiny-loha-rank8"


def copy_of_peft(folder):
    (installed,) = importlib.util.find_spec("peft").submodule_search_locations
    shutil.copytree(installed, folder, ignore=shutil.ignore_patterns("__pycache__"))


@pytest.fixture(scope="module")
def repository(tmp_path_factory):
    """PEFT with its docs and tests, and the benchmarks of this repository with two baselines; one commit."""
    folder = tmp_path_factory.mktemp("affected")
    copy_of_peft(folder / PEFT)
    shutil.copytree(REPOSITORY / "benchmarks", folder / "benchmarks", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("MetaMathQA/tiny/loha--rank8.json", "footprint/MetaMathQA/llama-3.2-3B/loha--rank32.json"):
        (folder / "baselines" / name).parent.mkdir(parents=True)
        shutil.copy(REPOSITORY / "baselines" / name, folder / "baselines" / name)
    for name in ("docs/index.md", "tests/test_loha.py", "README.md", "setup.py", "benchmarks/constraints.txt"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("first = 1\n")
    return committed(folder)


@pytest.fixture
def checkout(repository):
    """The same, to be changed: it is as it was committed after the test."""
    yield repository
    git(repository, "reset", "--quiet", "--hard", "main")
    git(repository, "clean", "--quiet", "-d", "--force")


@pytest.fixture(scope="module")
def cases(repository):
    """All cases of the benchmarks."""
    return [
        replace(experiment, case=replace(experiment.case, kind=kind.name))
        for suite in find_suites(repository / "benchmarks")
        for experiment in read_suite(suite)
        for kind in KINDS.values()
        if kind.takes(experiment, False)
    ]


@pytest.fixture(scope="module")
def read_once():
    """A file of PEFT is parsed once for all tests, as long as its content is the same."""
    contents = {}

    def read(folder, file):
        key = (file, (folder / file).read_bytes())
        if key not in contents:
            contents[key] = original(folder, file)
        return contents[key]

    original = imports._read
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(imports, "_read", read)
        yield


@pytest.fixture
def reached(checkout, cases, read_once, monkeypatch):
    """Function that gives the names of the cases that the changes since a revision can reach."""
    monkeypatch.setattr(changes, "folder_of", lambda package: checkout / PEFT)

    def reached(revision="main"):
        places = Places(sorted({case.suite for case in cases}), checkout / "baselines", tests=[checkout / "benchmarks"])
        affected = affected_since("test", revision, places)
        reached.lines = told(affected, cases)
        return {str(case.case): case for case in cases if affected.reasons(case)}

    return reached


def change(file, old, new):
    text = file.read_text(encoding="utf-8")
    assert text.count(old) >= 1, f"{file} does not hold {old}"
    file.write_text(text.replace(old, new), encoding="utf-8")


def append(file, text="\n_CHANGED = 1\n"):
    file.write_text(file.read_text(encoding="utf-8") + text, encoding="utf-8")


# What a change to PEFT reaches ----------------------------------------------------------------------------------------


def methods(found):
    return {case.case.method for case in found.values()}


def apart_from_mixing(found):
    """Those that do not mix their adapter with a LoHa: on the structure that is compiled PEFT's mixed models are."""
    return {name: case for name, case in found.items() if case.case.base_model != "even"}


def test_a_change_to_a_method_s_layer_reaches_its_cases_and_those_that_mix_it_with_theirs(checkout, reached, cases):
    change(checkout / LOHA, *CODE)

    found = reached()

    assert methods(apart_from_mixing(found)) == {"loha"}
    assert {case.case for case in found.values()} >= {case.case for case in cases if case.case.method == "loha"}
    assert Counter(case.case.method for case in found.values() if case.case.base_model == "even").keys() == {
        *("adalora", "loha", "lokr", "lora", "oft", "shira")
    }
    assert reached.lines[0] == f"{len(found)} of {len(cases)} cases can be reached by 1 changed file since main"
    assert reached.lines[1] == f"  {LOHA}: {len(found)}, of loha"


def test_a_change_to_what_two_methods_share_reaches_both(checkout, reached):
    append(checkout / PEFT / "tuners/lycoris_utils.py")

    assert methods(apart_from_mixing(reached())) == {"loha", "lokr"}


@pytest.mark.parametrize(
    "file",
    ["tuners/tuners_utils.py", "peft_model.py", "__init__.py", "tuners/__init__.py", "utils/other.py", "functional.py"],
)
def test_a_change_to_what_all_methods_share_reaches_all(file, checkout, reached, cases):
    append(checkout / PEFT / file)

    assert len(reached()) == len(cases)
    assert f"{file}: {len(cases)}, shared by all methods" in reached.lines[1]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("class LoHaLayer(", "# a remark\nclass LoHaLayer("),
        (
            "class LoHaLayer(nn.Module, LycorisLayer):",
            'class LoHaLayer(nn.Module, LycorisLayer):\n    """Another docstring."""\n',
        ),
        (
            "def get_delta_weight(self, adapter_name: str,",
            "def get_delta_weight(\n        self, adapter_name: str,",
        ),
    ],
)
def test_a_change_to_comments_docstrings_or_layout_reaches_none(old, new, checkout, reached):
    change(checkout / LOHA, old, new)

    assert reached() == {}
    assert reached.lines[0].startswith("nothing affected: none of ")
    assert reached.lines[1] == f"  {LOHA}: none, comments, docstrings or layout alone"


def test_a_renamed_file_reaches_all(checkout, reached, cases):
    git(checkout, "mv", LOHA, f"{PEFT}/tuners/loha/layers.py")

    assert len(reached()) == len(cases)
    assert any("deleted or renamed" in line for line in reached.lines)


def test_a_deleted_file_reaches_all(checkout, reached, cases):
    (checkout / PEFT / "tuners/lora/corda.py").unlink()

    assert len(reached()) == len(cases)


def test_docs_and_tests_of_peft_reach_none(checkout, reached):
    for name in ("docs/index.md", "tests/test_loha.py", "README.md"):
        append(checkout / name)
    (checkout / "tests/new").mkdir()
    (checkout / "tests/new/test_new.py").write_text("new = 1\n")

    assert reached() == {}
    assert "none of " in reached.lines[0]
    assert "4 changed files" in reached.lines[0]


def test_a_method_s_init_reaches_its_method_and_who_imports_it(checkout, reached):
    append(checkout / PEFT / "tuners/prompt_tuning/__init__.py")

    assert methods(reached()) == {"multitaskprompttuning", "prompttuning"}


def test_a_new_file_in_a_method_s_folder_reaches_its_method(checkout, reached):
    (checkout / PEFT / "tuners/lokr/kernels.py").write_text("new = 1\n")

    assert methods(reached()) == {"lokr"}


@pytest.mark.parametrize("file", [f"{PEFT}/py.typed", f"{PEFT}/tuners/boft/fbd/fbd_cuda.cpp", f"{PEFT}/new.json"])
def test_a_file_of_peft_that_is_no_python_reaches_all(file, checkout, reached, cases):
    (checkout / file).write_text("new")

    assert len(reached()) == len(cases)


def test_a_file_that_cannot_be_parsed_reaches_all(checkout, reached, cases):
    append(checkout / LOHA, "\ndef broken(:\n")

    assert len(reached()) == len(cases)
    assert "cannot be parsed" in reached.lines[1]


def test_a_variant_is_of_the_folder_that_it_lies_in(checkout, reached):
    append(checkout / PEFT / "tuners/lora/dora.py")
    found = reached()

    assert {"lora", "adalora", "xlora"} <= methods(found)
    assert "MetaMathQA-tiny-lora-rank8-dora" in found
    assert "MetaMathQA-tiny-ia3-default" not in found
    assert {case.case.kind for case in found.values() if case.case.method == "hra"} == set()


def test_what_a_life_cycle_is_turned_into_reaches_it(checkout, reached):
    """Every life cycle asks whether a LoRA can be made of its adapter; of LoKr's one is made, of IA3's none."""
    append(checkout / PEFT / "tuners/lora/config.py")
    of_lora = reached()
    append(checkout / PEFT / "tuners/lora/conversion.py")
    of_conversion = reached()

    assert "life-cycle-structures-linear-lokr-default" in of_lora
    assert "life-cycle-structures-linear-ia3-default" not in of_lora
    assert "MetaMathQA-tiny-lokr-rank8" not in of_conversion
    assert "life-cycle-structures-linear-ia3-default" in of_conversion


def test_tokens_beside_an_adapter_are_reached_by_the_method_that_trains_them(checkout, reached):
    append(checkout / PEFT / "tuners/trainable_tokens/layer.py")
    found = reached()

    assert "life-cycle-structures-llama-lora-tokens" in found
    assert "life-cycle-structures-llama-lora-default" not in found
    assert {"trainabletokens", "lora", "adalora"} == methods(found)


def test_what_was_committed_staged_and_left_is_all_compared(checkout, reached):
    change(checkout / LOHA, *CODE)
    git(checkout, "commit", "--quiet", "--all", "--message", "second")
    git(checkout, "branch", "second")
    append(checkout / PEFT / "tuners/hra/layer.py")
    git(checkout, "add", "--all")
    append(checkout / PEFT / "tuners/vera/layer.py")
    try:
        assert methods(apart_from_mixing(reached("HEAD~1"))) == {"loha", "hra", "vera"}
        assert methods(reached("second")) == {"hra", "vera"}
    finally:
        git(checkout, "reset", "--quiet", "--hard", "HEAD~1")


def test_without_a_change_nothing_is_affected(reached):
    assert reached() == {}
    assert "by 0 changed files since main" in reached.lines[0]


# What a change to the benchmarks reaches ------------------------------------------------------------------------------


def test_a_suite_s_defaults_reach_its_cases(checkout, reached):
    change(checkout / "benchmarks/MetaMathQA/tiny/default_training_params.json", '"seed": 0', '"seed": 1')

    assert {case.suite for case in reached().values()} == {checkout / "benchmarks/MetaMathQA/tiny"}


def test_an_experiment_s_file_reaches_its_case(checkout, reached):
    append(checkout / "benchmarks/MetaMathQA/tiny/experiments/loha/rank8/adapter_config.json", "\n")

    assert [*reached()] == [LOHA_CASE]


@pytest.mark.parametrize(
    ("baseline", "case"),
    [
        ("MetaMathQA/tiny/loha--rank8.json", LOHA_CASE),
        ("footprint/MetaMathQA/llama-3.2-3B/loha--rank32.json", "footprint-MetaMathQA-llama-3.2-3B-loha-rank32"),
        ("MetaMathQA/tiny/loha--rank8/adapter_model.safetensors", LOHA_CASE),
    ],
)
def test_a_baseline_reaches_its_case(baseline, case, checkout, reached):
    file = checkout / "baselines" / baseline
    file.parent.mkdir(exist_ok=True)
    file.write_text("{}\n")

    assert [*reached()] == [case]


@pytest.mark.parametrize(
    "file",
    ["benchmarks/conftest.py", "benchmarks/test_life_cycle.py", "benchmarks/constraints.txt", "setup.py", "x.py"],
)
def test_what_any_case_may_read_reaches_all(file, checkout, reached, cases):
    (checkout / file).write_text("new = 2\n")

    assert len(reached()) == len(cases)


def test_notes_in_a_suite_reach_none(checkout, reached):
    (checkout / "benchmarks/MetaMathQA/tiny/README.md").write_text("new\n")

    assert reached() == {}


def test_this_benchmark_s_own_code_reaches_all(checkout, reached, cases, monkeypatch):
    monkeypatch.setattr(changes, "_OURS", checkout / "docs")
    append(checkout / "docs/index.md")

    assert len(reached()) == len(cases)
    assert "this benchmark's own code" in reached.lines[1]


# Reading --------------------------------------------------------------------------------------------------------------

FILES = {
    "__init__.py": "from .tuners import A\nfrom .shared import f\n",
    "shared.py": "def f():\n    from .tuners import A\n    return isinstance(f, A)\n",
    "tuners/__init__.py": "from .a import A\nfrom .b import *\n",
    "tuners/a/__init__.py": "from .layer import A\nfrom .other import O\nregister_peft_method(name='a')\n",
    "tuners/a/layer.py": "import peft.helped as helped\ndef A(): return helped\n",
    "tuners/a/other.py": "O = 1\n",
    "tuners/b/__init__.py": "from .layer import B\nregister_peft_method(name='b')\n",
    "tuners/b/layer.py": "from peft.tuners.a import A\nfrom .. import a as module\nB = A\n",
    "tuners/c/__init__.py": "from peft.tuners import a\nx = a\nregister_peft_method(name='c')\n",
    "tuners/c/layer.py": "from ..a import unheard_of\nunheard_of()\n",
    "helped.py": "if TYPE_CHECKING:\n    from .nobody import x\n",
    "nobody.py": "x = 1\n",
}


@pytest.fixture
def small(tmp_path):
    """Function that gives the reach of a small package; files: in place of those that it has."""

    def small(**files):
        for name, text in {**FILES, **{name.replace("__", "/") + ".py": text for name, text in files.items()}}.items():
            (tmp_path / "peft" / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / "peft" / name).write_text(text)
        return Reach(Package(tmp_path / "peft"))

    return small


def test_a_name_leads_to_the_file_that_defines_it_and_not_to_all_that_is_handed_on_beside_it(small):
    reach = small()

    assert reach.closure("tuners/b/") == {
        *("tuners/b/__init__.py", "tuners/b/layer.py", "tuners/a/__init__.py", "tuners/a/layer.py", "helped.py")
    }


def test_a_name_that_nobody_defines_may_be_any_of_its_package(small):
    assert "tuners/a/other.py" in small().closure("tuners/c/")


def test_a_whole_package_that_is_taken_brings_all_that_it_hands_on(small):
    reach = small(tuners__b__layer="from peft.tuners import a\nB = a.A\n")

    assert "tuners/a/other.py" in reach.closure("tuners/b/")


def test_what_is_asked_about_alone_is_not_reached(small):
    assert "tuners/a/layer.py" not in small().shared
    assert "tuners/a/layer.py" in small(shared="from .tuners import A\ndef f(): return A()\n").shared


def test_a_file_that_nothing_leads_to_counts_for_all(small):
    reach = small()

    assert "nobody.py" in reach.shared
    assert "helped.py" not in reach.shared


def test_where_a_file_cannot_be_parsed_everything_counts_for_all(small):
    reach = small(tuners__a__other="def (\n")

    assert reach.shared == set(reach.package.files)


@pytest.mark.parametrize(
    ("old", "new", "same"),
    [
        ("x = 1\n", "x  =  1  # one\n", True),
        ("def f():\n    'a'\n    return 1\n", "def f():\n    return 1\n", True),
        ("def f():\n    'a'\n", "def f():\n    'b'\n", True),
        ("x = 1\n", "x = 2\n", False),
        ("x = 'a'\n", "x = 'b'\n", False),
        ("x = 1\n", "x = \n", False),
        ("x = \n", "x = \n", False),
        ("x = 1\r\n", "x = 1\n", True),
        ("x = 1\n", "x = 1\n\0", False),
    ],
)
def test_code_is_told_from_text(old, new, same):
    assert is_same_code(old.encode(), new.encode()) is same


# Option and command ---------------------------------------------------------------------------------------------------


@pytest.fixture
def affecting(bench, checkout, read_once, monkeypatch):
    """The bench in a repository of its own, beside the one that PEFT is in; both have a branch `main`."""
    monkeypatch.setattr(changes, "folder_of", lambda package: checkout / PEFT)
    bench.write("test_other.py", "def test_other(): pass\n")
    bench.write(".gitignore", "__pycache__\n")
    committed(bench.path)
    return bench


def affected(bench, *arguments):
    return bench.run("--peft-affected=main", "--peft-no-compare", "test_mini.py", *arguments)


def test_the_option_runs_what_can_be_reached_and_says_why(affecting, checkout):
    change(checkout / LOHA, *CODE)

    result = affected(affecting, "-v")

    result.assert_outcomes(passed=1, deselected=2)
    result.stdout.fnmatch_lines(
        [
            "peftbench: 1 of 3 cases can be reached by 1 changed file since main",
            f"  {LOHA}: 1, of loha",
            "peftbench: 1 case of MetaMathQA/mini; not compared",
            "*loha-r4* PASSED*",
            "1 of 3 cases can be reached by 1 changed file since main",
        ]
    )


def test_a_change_of_the_suites_in_a_repository_of_their_own_counts(affecting):
    append(affecting.suite / "experiments/lora/r4/adapter_config.json", "\n")

    affected(affecting).assert_outcomes(passed=1, deselected=2)


def test_nothing_affected_is_green_in_words(affecting, checkout):
    append(checkout / "docs/index.md")

    result = affected(affecting)

    assert result.ret == 0
    assert (
        result.stdout.str().count("nothing affected: none of 3 cases can be reached by 1 changed file since main") == 2
    )


def test_what_k_leaves_out_is_not_what_nothing_reaches(affecting, checkout):
    append(checkout / "docs/index.md")

    assert affected(affecting, "-k", "loha").ret == 0
    nothing = affected(affecting, "-k", "unheard_of")
    assert nothing.ret == 5
    assert "nothing affected" not in output(nothing)


def test_tests_of_no_case_are_run_as_ever(affecting):
    affecting.run("--peft-affected=main", "--peft-no-compare").assert_outcomes(passed=1, deselected=3)


def test_what_accepts_red_cases_names_them_and_not_all_of_their_method(bench, checkout, monkeypatch):
    make_suite(bench.suite, {f"lora/r{rank}": ({**LORA, "r": rank}, None) for rank in range(4, 9)})
    bench.record("test_mini.py")
    bench.measures("lora", {"train_step.flops": 9_000_000_000})
    monkeypatch.setattr(changes, "folder_of", lambda package: checkout / PEFT)
    committed(bench.path)
    for rank in range(4, 8):
        append(bench.suite / f"experiments/lora/r{rank}/adapter_config.json", "\n")

    text = output(bench.run("--peft-affected=main", "test_mini.py"))

    assert "4 regressed" in text
    assert "-m peft_" not in text


@pytest.mark.parametrize("workers", [[], ["-n", "2"]])
def test_it_is_so_in_processes_of_their_own(workers, bench, checkout):
    committed(bench.path)
    append(checkout / "docs/index.md")

    result = bench.spawn("--peft-affected=main", *workers, **with_peft_of(checkout))

    assert result.returncode == 0, output(result)
    assert "nothing affected: none of 3 cases can be reached by 1 changed file since main" in result.stdout


def with_peft_of(checkout):
    return {"PYTHONPATH": os.pathsep.join(map(str, (checkout / "src", REPOSITORY)))}


def listed(capsys, *arguments):
    assert main(["affected", "main", *map(str, arguments)]) == 0
    return capsys.readouterr().out


def test_the_command_lists_methods_and_cases_with_what_reaches_them(checkout, read_once, monkeypatch, capsys):
    monkeypatch.setattr(changes, "folder_of", lambda package: checkout / PEFT)
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.chdir(checkout)
    change(checkout / LOHA, *CODE)

    text = listed(capsys)
    data = json.loads(listed(capsys, "--json"))

    assert re.match(r"\d+ of \d+ cases can be reached by 1 changed file since main\n", text)
    assert re.search(rf"^loha: \d+ cases, by {LOHA}$", text, re.M)
    assert max(map(len, text.splitlines())) <= 80
    assert data["files"] == {LOHA: "of loha"}
    assert data["cases"][LOHA_CASE] == [LOHA]
    assert f"{len(data['cases'])} of {data['known']} cases" in text


# The proof ------------------------------------------------------------------------------------------------------------

BLIND = """
    from pytest_peftbench.affected import Reach

    files = Reach.files
    Reach.files = lambda self, experiment: files(self, experiment) - {"tuners/loha/layer.py"}
"""


def test_a_case_that_executes_what_lies_outside_of_its_reach_is_red(bench):
    bench.write("blind.py", BLIND)
    keyword = "structures-linear-loha-default or structures-linear-ia3-default"
    paths = os.pathsep.join([str(bench.path), str(REPOSITORY)])

    result = bench.spawn(
        *(REPOSITORY / "benchmarks/test_life_cycle.py", "-k", keyword, "--peft-check-reach", "-p", "blind", "-rA"),
        PYTHONPATH=paths,
    )

    assert result.returncode == 1, output(result)
    assert re.search(r"^PASSED .*linear-ia3-default", output(result), re.M)
    outside = "executed what --peft-affected would not run it for, were it changed: tuners/loha/layer.py"
    assert f"life-cycle-structures-linear-loha-default {outside}" in output(result)


def test_what_takes_time_records_nothing(bench):
    result = bench.run("--peft-check-reach", "--peft-update-baselines")

    assert_usage_error(result, "peft_check_reach", "drop it")


def test_functions_that_are_called_are_told_from_what_runs_at_import(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    package = tmp_path / "watched"
    package.mkdir()
    (package / "__init__.py").write_text("class A:\n    x = 1\n")
    (package / "called.py").write_text("def f():\n    yield 1\n")
    (package / "left.py").write_text("def g():\n    return 1\n")

    with executed_files(package) as files:
        module = importlib.import_module("watched.called")
        importlib.import_module("watched.left")
        list(module.f())
        counted, _ = count_host_calls(lambda: sum(range(3)))

    assert files == {"called.py"}
    assert counted == count_host_calls(lambda: sum(range(3)))[0]


def test_all_of_a_package_is_imported_but_for_what_cannot_be(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "whole/below").mkdir(parents=True)
    for name in ("__init__", "a", "below/__init__", "below/b"):
        (tmp_path / f"whole/{name}.py").touch()
    (tmp_path / "whole/broken.py").write_text("import no_such_package\n")

    import_all("whole")

    assert {"whole.a", "whole.below.b"} <= sys.modules.keys()
