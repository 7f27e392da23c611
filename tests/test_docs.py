"""README and docs/: complete, without a broken link, and every command in them is one that runs."""

import argparse
import ast
import importlib
import json
import re
import runpy
import shlex
import shutil
from pathlib import Path

import pytest
import yaml
from support import REPOSITORY, make_result

from pytest_peftbench import commands as cli
from pytest_peftbench import plugin
from pytest_peftbench.compare import GREEN_BY_DEFAULT, SEVERITY
from pytest_peftbench.results.result import CaseId

README = REPOSITORY / "README.md"
OPTIONS = REPOSITORY / "docs" / "options.md"
FILES = [README, REPOSITORY / "CONTRIBUTING.md", *sorted((REPOSITORY / "docs").glob("*.md"))]
PAGES = {file.relative_to(REPOSITORY).as_posix(): file.read_text(encoding="utf-8") for file in FILES}
# Most bytes of a page that one reads before anything else.
README_BYTES = 9_000


def mentioned(name, text):
    return re.search(rf"(?<![\w-]){re.escape(name)}(?![\w-])", text) is not None


def blocks(text, *languages):
    """The fenced blocks in these languages."""
    return [body for language, body in re.findall(r"^```(\w*).*\n((?s:.*?))^```$", text, re.M) if language in languages]


def prose(text):
    """The text without its fenced blocks."""
    return re.sub(r"^```.*\n(?s:.*?)^```$", "", text, flags=re.M)


def section(page, heading):
    """What stands below a heading, up to the next one."""
    found = re.search(rf"^#+ {re.escape(heading)}\n((?s:.*?))(?=^#|\Z)", PAGES[page], re.M)
    assert found, f"{page} has no section {heading!r}"
    return found[1]


# Options, markers, fixtures, verdicts, files --------------------------------------------------------------------------


def options():
    """What the plugin tells pytest: flag -> metavar and help; and the names that it adds to the ini file."""
    flags, names = {}, []

    class Recorder:
        def getgroup(self, *_):
            return self

        def addoption(self, flag, help, metavar="", **_):
            flags[flag] = (metavar, help)

        def addini(self, name, *_, **__):
            names.append(name)

    plugin.pytest_addoption(Recorder())
    return flags, names


FLAGS, INI_NAMES = options()


def test_each_option_has_a_twin_in_the_ini_file():
    assert len(FLAGS) >= 8
    assert [flag.removeprefix("--").replace("-", "_") for flag in FLAGS] == INI_NAMES


def test_the_table_of_options_is_that_of_the_plugin():
    rows = (
        f"| `{f'{flag} {metavar}'.strip()}` | `{name}` | {help} |"
        for (flag, (metavar, help)), name in zip(FLAGS.items(), INI_NAMES, strict=True)
    )
    table = "\n".join(["| option | ini | what it does |", "| --- | --- | --- |", *rows])

    assert table in PAGES["docs/options.md"], (
        f"docs/options.md holds another table than the plugin, whose is\n\n{table}\n"
    )


@pytest.mark.parametrize("page", PAGES)
def test_no_page_speaks_of_an_option_that_is_not_there(page):
    assert set(re.findall(r"--peft-[\w-]*\w", PAGES[page])) <= FLAGS.keys()


def test_each_marker_stands_in_the_table_of_markers(pytestconfig):
    ours = [line.partition(":")[0] for line in pytestconfig.getini("markers") if line.startswith("peft_")]

    assert len(ours) >= 3
    assert [name for name in ours if f"| `{name}` |" not in section("docs/options.md", "Markers")] == []


def test_each_fixture_stands_in_the_table_of_fixtures(bench):
    output = bench.run("--fixtures").stdout.str()
    parts = re.split(r"^-+ fixtures defined from (\S+) -+$", output, flags=re.M)[1:]
    ours = [
        name
        for module, text in zip(parts[::2], parts[1::2], strict=True)
        if module.startswith("pytest_peftbench.")
        for name in re.findall(r"^(\w+)(?: \[.*\])? -- ", text, re.M)
    ]

    assert len(ours) >= 6
    assert [name for name in ours if f"| `{name}` |" not in section("docs/options.md", "Fixtures")] == []


def test_each_verdict_stands_in_the_docs_and_whether_it_passes():
    rows = re.findall(r"^\| `([\w ]+)` \| (yes|no) \|", PAGES["docs/verdicts.md"], re.M)
    asked_for = {"recorded", "not compared"}

    assert {verdict for verdict, _ in rows} | asked_for >= set(SEVERITY)
    assert {verdict for verdict, passes in rows if passes == "yes"} >= GREEN_BY_DEFAULT
    assert {verdict for verdict, passes in rows if passes == "no"} & GREEN_BY_DEFAULT == set()


def test_each_way_to_a_green_run_has_its_test():
    rows = re.findall(r"^\| .* \| `(test_\w+)` \|$", section("docs/verdicts.md", "Ways to a green run"), re.M)
    tests = "".join(file.read_text(encoding="utf-8") for file in Path(__file__).parent.glob("test_*.py"))

    assert len(rows) == section("docs/verdicts.md", "Ways to a green run").count("\n| ") - 2
    assert [name for name in rows if f"def {name}(" not in tests] == []


def test_each_key_of_a_result_stands_in_the_docs():
    block = make_result(CaseId("MetaMathQA", "tiny", "lora", "rank8")).to_json()["peftbench"]

    assert [key for key in block if f"`{key}`" not in section("docs/results.md", "Result files")] == []


# Commands -------------------------------------------------------------------------------------------------------------


def subcommands():
    (subparsers,) = (item for item in cli.parser()._actions if isinstance(item, argparse._SubParsersAction))
    return subparsers.choices


@pytest.mark.parametrize("command", sorted(subcommands()))
def test_each_command_has_a_section_that_names_all_its_options(command):
    text = section("docs/options.md", f"peftbench {command}")
    flags = [flag for action in subcommands()[command]._actions for flag in action.option_strings]

    assert [flag for flag in flags if flag not in ("-h", "--help") and not mentioned(flag, text)] == []


def lines(script):
    """The commands of a shell script, as words: its comments dropped, `&&` and continued lines resolved."""
    for line in script.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        while "&&" in words:
            end = words.index("&&")
            yield words[:end]
            words = words[end + 1 :]
        if words:
            yield words


def steps(workflow):
    """The shell steps of a workflow of GitHub Actions."""
    return [step["run"] for job in yaml.safe_load(workflow)["jobs"].values() for step in job["steps"] if "run" in step]


def documented():
    """Every command of README and docs: of fenced blocks, of workflows, and pytest's and ours in running text."""
    for text in PAGES.values():
        for script in [*blocks(text, "sh"), *(step for block in blocks(text, "yaml") for step in steps(block))]:
            yield from lines(script)
        for span in re.findall(r"`([^`]+)`", prose(text)):
            if re.match(r"(pytest|peftbench)\s", span) and "…" not in span:
                yield shlex.split(span)


COMMANDS = sorted({shlex.join(words) for words in documented()})
# What a reader puts something of their own in place of -> what is there to try the command with.
STANDS_FOR = {
    "path/to/method_comparison": "benchmarks",
    "path/to/benchmarks": "benchmarks",
    "my-method-my-config": "loha-rank8",
    "my-method": "loha",
    "$SLURM_ARRAY_TASK_ID": "1",
    "<name>": "loha",
}
# The methods that documented commands select, the configs of them that are enough, and a structure.
KEPT = ("lora", "loha", "rank8", "rank32", "linear", "llama-bnb4", "default")
OF_WHICH = ("experiments", "lora", "structures")
# A path that begins with one of them is this repository's.
FOLDERS = ("benchmarks", "baselines", "docs", "perf", "pytest_peftbench", "tests")


@pytest.fixture(scope="module")
def benchmarks(tmp_path_factory):
    """This repository's benchmarks with few experiments: collecting all takes a second, and there are many runs."""

    def others(folder, names):
        return [name for name in names if name not in KEPT] if Path(folder).name in OF_WHICH else []

    folder = shutil.copytree(REPOSITORY / "benchmarks", tmp_path_factory.mktemp("docs") / "benchmarks", ignore=others)
    for file in folder.glob("test_*.py"):  # in one process no two test files may have one name
        file.rename(file.with_name(f"test_documented_{file.name}"))
    return folder


@pytest.fixture
def tried(bench, benchmarks):
    return Tried(bench, benchmarks)


def _filled_in(word):
    for placeholder, thing in STANDS_FOR.items():
        word = word.replace(placeholder, thing)
    return word


class Tried:
    """Tries a documented command, as far as that takes no more than a second."""

    def __init__(self, bench, benchmarks):
        self.bench = bench
        self.benchmarks = benchmarks

    def command(self, words):
        trial = getattr(self, words[0].replace(".", "source"), None)
        assert trial, f"{words[0]}: tests/test_docs.py does not know how to try it"
        for word in words:
            assert word.partition("/")[0] not in FOLDERS or (REPOSITORY / word).exists(), f"{word}: no such file"
        trial([_filled_in(word) for word in words[1:]])

    def pytest(self, words):
        """Collects what the command would run; its cases must be there."""
        if words == ["--fixtures"] or shlex.join(["pytest", *words]) in CI_RUNS:
            return
        for folder in ("models", "data"):
            (self.bench.path / folder).mkdir(exist_ok=True)
        words = [self.benchmarks if word == "benchmarks" else word for word in words]
        # the PEFT that is installed here is in no checkout; tests/test_affected.py has one
        words = [word for word in words if not str(word).startswith("--peft-affected=")]
        result = self.bench.run(*words, "--collect-only", "-q")
        assert re.search(r"^(\d+/)?\d+ tests? collected", result.stdout.str(), re.M), result.stderr.str()

    def peftbench(self, words):
        """Has the command's own parser read it. In running text the name alone stands for the command."""
        if words and words[-1] in ("--help", "--version"):
            with pytest.raises(SystemExit, match="0"):
                cli.main(words)
        elif words not in [[name] for name in subcommands()]:
            options, passed_on = cli.parser().parse_known_args(words)
            if passed_on:
                assert options.command.passes_on, passed_on
                self.pytest(["benchmarks", *passed_on])

    def git(self, words):
        assert words[:2] in (["bisect", "start"], ["bisect", "run"])
        if words[1] == "run":
            self.command(words[2:])

    def pip(self, words):
        assert words[0] == "install"
        pyproject = (REPOSITORY / "pyproject.toml").read_text(encoding="utf-8")
        for extras in re.findall(r"^[\w.-]+\[(.+)\]$", "\n".join(words), re.M):
            assert all(f"\n{extra} = [" in pyproject for extra in extras.split(",")), f"no extra {extras}"

    def python(self, words):
        """A script of `perf/`: its own parser reads what is before `--`, pytest what follows."""
        script = runpy.run_path(str(REPOSITORY / words[0]))
        own, others = script["_split"](words[1:])
        script["_parser"]().parse_args(own)
        self.pytest(["benchmarks", *others])

    def python3(self, words):
        assert words == ["-m", "venv", ".venv"]

    def source(self, words):
        assert words == [".venv/bin/activate"]


# `.ci/run` takes these two lines from README and runs them as they are.
CI_RUNS = [line for line in PAGES["README.md"].splitlines() if re.match(r"python3 -m venv|pytest tests", line)]


def test_ci_runs_the_two_commands_of_the_readme():
    ci = (REPOSITORY / ".ci" / "run").read_text(encoding="utf-8")

    assert len(CI_RUNS) == 2
    assert "readme '^python3 -m venv'" in ci
    assert "readme '^pytest tests'" in ci


@pytest.mark.filterwarnings("ignore:Benchmarks are automatically disabled")
@pytest.mark.parametrize("command", COMMANDS)
def test_each_documented_command_can_be_run(command, tried):
    tried.command(shlex.split(command))


@pytest.mark.parametrize(
    "command",
    [
        "pytest benchmarks --peft-sweet path",
        "pytest benchmarks -k no-such-method",
        "peftbench fit --vram much",
        "peftbench fat",
        "peftbench tune benchmarks/no-such-suite",
        "pip install -e '.[no-such-extra]'",
        "make all",
    ],
)
def test_a_command_that_cannot_be_run_is_noticed(command, tried):
    with pytest.raises((AssertionError, SystemExit)):
        tried.command(shlex.split(command))


# Pages ----------------------------------------------------------------------------------------------------------------


def anchors(text):
    """Of a page's headings, as GitHub and MkDocs make them."""
    headings = re.findall(r"^#+ (.+)$", prose(text), re.M)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES)
def test_each_relative_link_resolves(page):
    for link in re.findall(r"\]\(([^)\s]+)\)", prose(PAGES[page])):
        if "://" in link:
            continue
        path, _, anchor = link.partition("#")
        target = ((REPOSITORY / page).parent / path).resolve() if path else REPOSITORY / page
        assert target.is_file(), f"{page}: {link}: no such file"
        if anchor:
            assert anchor in anchors(target.read_text(encoding="utf-8")), f"{page}: {link}: no such heading"


def test_the_readme_is_read_in_a_few_minutes():
    assert len(README.read_bytes()) <= README_BYTES


def test_the_readme_leads_to_every_page():
    pages = [name for name in PAGES if name.startswith("docs/") and name != "docs/index.md"]

    assert [name for name in pages if f"]({name})" not in PAGES["README.md"]] == []
    assert [name for name in pages if f"]({name.removeprefix('docs/')})" not in PAGES["docs/index.md"]] == []


@pytest.mark.parametrize("page", PAGES)
def test_code_on_the_pages_is_well_formed(page):
    for block in blocks(PAGES[page], "python"):
        ast.parse(block)
    for block in blocks(PAGES[page], "json"):
        json.loads(block)


def test_what_the_pages_import_from_the_package_is_there():
    nodes = [node for text in PAGES.values() for block in blocks(text, "python") for node in ast.parse(block).body]
    ours = [node for node in nodes if isinstance(node, ast.ImportFrom) and node.module.startswith("pytest_peftbench")]

    assert ours
    for node in ours:
        module = importlib.import_module(node.module)
        assert [alias.name for alias in node.names if not hasattr(module, alias.name)] == []
