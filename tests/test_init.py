"""`peftbench init`: what a repository gets, what a second run leaves alone, and that its workflows do what they say."""

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
import yaml
from support import REPOSITORY, output, skip_under_an_older_peft, unmeasured

from pytest_peftbench import commands as cli
from pytest_peftbench.commands.init import WORKFLOWS, cases, repository
from pytest_peftbench.commands.init.manifest import FILE, sha256

skip_under_an_older_peft()

CASE = "life-cycle-structures-linear-loha-default"
# Names of actions with the commit of the version in the comment.
PINNED = re.compile(r"uses: (actions/[\w-]+)@([0-9a-f]{40}) # (v\d+\.\d+\.\d+)$")


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A git repository that was given the cases of LoHa; not to be changed."""
    folder = tmp_path_factory.mktemp("repository")
    git(folder, "init", "--quiet", "--initial-branch", "main")
    assert cli.main(["init", str(folder), "--methods", "loha"]) == 0
    return folder


@pytest.fixture
def own(written, tmp_path):
    """One that may be changed."""
    return shutil.copytree(written, tmp_path / "own")


def init(capsys, *arguments):
    """What the command says."""
    assert cli.main(["init", *map(str, arguments)]) == 0
    return capsys.readouterr().out


def git(folder, *arguments):
    identity = ("-c", "user.name=A", "-c", "user.email=a@example.org")
    return subprocess.run(["git", *identity, *arguments], cwd=folder, check=True, capture_output=True, text=True).stdout


def contents(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def ours(folder):
    return {name: content for name, content in contents(folder).items() if not name.startswith(".git/")}


# What is written ------------------------------------------------------------------------------------------------------


def test_a_repository_gets_the_method_s_cases_with_a_baseline_for_each(written):
    names = ours(written)
    result = pytest_in(written, "--collect-only", "-q")
    collected = re.findall(r"\[(.+)\]$", result.stdout, re.M)
    baselines = [name for name in names if re.search(r"^baselines/.*/loha--\w+\.json$", name)]

    assert "MetaMathQA-tiny-loha-rank8" in collected
    assert CASE in collected
    assert all("-loha-" in case for case in collected)
    assert f"compared with baselines, which holds {len(collected)} of them" in result.stdout
    assert len(collected) == len(baselines)
    assert not [name for name in names if "/lora/" in name]


def test_without_methods_it_is_all_of_them(tmp_path, capsys):
    text = init(capsys, tmp_path, "--dry-run")
    baselines = [
        path for path in (REPOSITORY / "baselines").rglob("*") if path.is_file() and path.name != "durations.json"
    ]

    assert f"baselines {len(baselines)}, " in text
    assert list(tmp_path.iterdir()) == []
    assert "would be written" in text


def test_a_test_without_a_case_of_the_methods_is_left_out(tmp_path, capsys):
    init(capsys, tmp_path, "--methods", "xlora")

    tests = sorted(path.name for path in (tmp_path / "benchmarks").glob("test_*.py"))
    assert tests == ["test_footprint.py", "test_life_cycle.py", "test_math_reasoning.py"]
    assert not (tmp_path / "benchmarks" / "image-gen").exists()


@pytest.mark.parametrize("package", ["peft", "torch"])
def test_baselines_of_other_versions_are_left_out_and_the_command_that_records_is_told(
    package, tmp_path, capsys, monkeypatch
):
    versions = {name: cases.installed(name) for name in cases.STACK}
    monkeypatch.setattr(cases, "installed", {**versions, package: "99.0"}.get)

    text = init(capsys, tmp_path, "--methods", "loha")

    assert not (tmp_path / "baselines").exists()
    assert "cannot be compared with what is installed" in text
    assert f"{package} {versions[package]}" in text
    assert f"{package} 99.0" in text
    assert "pytest benchmarks -n 2 --peft-update-baselines" in text
    assert "pip install 'pytest-peftbench[recorded]'" in text


def test_constraints_are_the_installed_versions_and_leave_peft_out_where_it_is_developed(written, tmp_path, capsys):
    (tmp_path / "src" / "peft").mkdir(parents=True)
    (tmp_path / "src" / "peft" / "__init__.py").touch()
    (tmp_path / "setup.py").touch()
    text = init(capsys, tmp_path, "--methods", "loha")
    everywhere, of_peft = (
        (folder / "benchmarks" / "constraints.txt").read_text().splitlines() for folder in (written, tmp_path)
    )

    assert f"torch=={repository.installed('torch')}" in everywhere
    assert [line for line in everywhere if line.startswith("peft==")] == [f"peft=={repository.installed('peft')}"]
    assert of_peft[1:] == [line for line in everywhere[1:] if not line.startswith("peft==")]
    assert "PEFT itself" in text
    assert " -e ." in (tmp_path / ".github/workflows/peftbench.yml").read_text()
    assert " -e ." not in (written / ".github/workflows/peftbench.yml").read_text()


@pytest.mark.parametrize(
    ("name", "content", "installs"),
    [
        ("setup.py", "", True),
        ("pyproject.toml", '[project]\nname = "x"\n', True),
        ("pyproject.toml", "[tool.ruff]\nline-length = 120\n", False),
    ],
)
def test_workflows_install_the_repository_where_pip_can(name, content, installs, tmp_path):
    (tmp_path / name).write_text(content)

    assert repository.Repository.at(tmp_path).requirements().endswith(" -e .") == installs


# Again ----------------------------------------------------------------------------------------------------------------


def test_a_second_run_changes_nothing_and_needs_no_methods(own, capsys):
    before = {name: path.stat().st_mtime_ns for name in ours(own) for path in [own / name]}

    text = init(capsys, own)

    assert {name: path.stat().st_mtime_ns for name in ours(own) for path in [own / name]} == before
    assert "as they should be" in text
    assert "written" not in text
    assert "left alone" not in text


def test_what_was_changed_or_removed_is_left_alone_and_named(own, capsys):
    (own / "benchmarks/pytest.ini").write_text("[pytest]\n")
    (own / ".github/workflows/peftbench-nightly.yml").unlink()
    before = ours(own)

    for _ in range(2):
        text = init(capsys, own)

        assert ours(own) == before
        assert "2 files left alone: changed, removed or there before: .github 1, benchmarks 1" in text
        assert "  benchmarks/pytest.ini\n" in text
        assert "  .github/workflows/peftbench-nightly.yml\n" in text


def test_what_was_there_before_is_left_alone(tmp_path, capsys):
    (tmp_path / "benchmarks").mkdir()
    (tmp_path / "benchmarks/conftest.py").write_text("# mine\n")

    text = init(capsys, tmp_path, "--methods", "loha")

    assert (tmp_path / "benchmarks/conftest.py").read_text() == "# mine\n"
    assert "  benchmarks/conftest.py\n" in text


def test_what_an_earlier_version_wrote_is_brought_up_to_date(own, capsys):
    file, new = own / "benchmarks/pytest.ini", (own / "benchmarks/pytest.ini").read_text()
    file.write_text("[pytest]\n")
    manifest = json.loads((own / FILE).read_text())
    manifest["files"]["benchmarks/pytest.ini"] = sha256(b"[pytest]\n")
    (own / FILE).write_text(json.dumps(manifest))

    assert "1 file brought up to date: benchmarks 1" in init(capsys, own)
    assert file.read_text() == new


def test_other_methods_are_added_and_files_of_the_earlier_ones_told(own, capsys):
    text = init(capsys, own, "--methods", "lokr")

    assert (own / "benchmarks/MetaMathQA/tiny/experiments/loha/rank8").is_dir()
    assert (own / "benchmarks/MetaMathQA/tiny/experiments/lokr/rank8").is_dir()
    assert 'addopts = -m "peft_lokr"' in (own / "benchmarks/pytest.ini").read_text()
    assert re.search(r"\d+ files of an earlier run, no longer asked for and left there:\n  \S*loha", text)
    assert "left alone" not in text


# Workflows ------------------------------------------------------------------------------------------------------------


def workflow(folder, name):
    return yaml.safe_load((folder / ".github/workflows" / name).read_text(encoding="utf-8"))


def test_a_linter_of_workflows_finds_nothing(written):
    command = [Path(sys.executable).with_name("zizmor"), "--offline", "--persona", "pedantic", ".github/workflows"]
    result = subprocess.run(command, cwd=written, capture_output=True, text=True, timeout=60)

    assert result.returncode == 0, output(result)


def test_the_linter_would_find_what_is_wrong(own):
    file = own / ".github/workflows/peftbench.yml"
    file.write_text(file.read_text().replace('"$SELECT"', '"${{ github.head_ref }}"'))
    command = [Path(sys.executable).with_name("zizmor"), "--offline", ".github/workflows"]
    result = subprocess.run(command, cwd=own, capture_output=True, text=True, timeout=60)

    assert result.returncode != 0
    assert "template-injection" in output(result)


@pytest.mark.parametrize("template", WORKFLOWS, ids=lambda path: path.name)
def test_actions_are_pinned_and_permissions_are_the_least(template):
    text = template.read_text(encoding="utf-8")
    read = yaml.safe_load(text)
    writes = {scope for job in read["jobs"].values() for scope, may in job["permissions"].items() if may == "write"}

    assert all(PINNED.search(line) for line in text.splitlines() if "uses:" in line)
    assert read["permissions"] == {}
    assert (
        writes
        == {
            "peftbench.yml": set(),
            "peftbench-nightly.yml": set(),
            "peftbench-comment.yml": {"pull-requests"},
            "peftbench-baselines.yml": {"contents", "pull-requests"},
        }[template.name]
    )
    assert text.count("persist-credentials: false") == text.count("actions/checkout@")


def test_each_action_has_one_version_in_all_workflows():
    pins = {
        match.groups() for path in WORKFLOWS for match in map(PINNED.search, path.read_text().splitlines()) if match
    }

    assert len(pins) == len({action for action, _, _ in pins})


class Runner:
    """Runs the `run:` steps of a job as GitHub does, in a repository, with an environment that is installed already."""

    def __init__(self, folder, tools, variables=None):
        self.folder, self.tools, self.variables = folder, tools, variables or {}
        tools.mkdir()
        self.tool("pip", 'echo "$@" > "$TOOLS/pip.txt"')
        self.tool("gh", 'echo "$@" >> "$TOOLS/gh.txt"')
        for name in ("pytest", "peftbench"):
            module = {"pytest": "pytest", "peftbench": "pytest_peftbench.commands"}[name]
            self.tool(name, f'exec "{sys.executable}" -m {module} "$@"')

    def tool(self, name, script):
        file = self.tools / name
        file.write_text(f"#!/bin/sh\n{script}\n")
        file.chmod(0o755)

    def said_to(self, tool):
        return (self.tools / f"{tool}.txt").read_text()

    def environment(self, *scopes):
        """The process's, with `env:` of job and step; an expression has the value that the test gives it."""
        given = {name: text for scope in scopes for name, text in scope.get("env", {}).items()}
        values = {name: self.variables.get(name, "") if "${{" in text else text for name, text in given.items()}
        own = {"TOOLS": str(self.tools), "RUNNER_TEMP": str(self.tools), "PYTHONPATH": str(REPOSITORY)}
        own |= {"PYTEST_XDIST_AUTO_NUM_WORKERS": "1"}
        own |= {"GITHUB_STEP_SUMMARY": str(self.tools / "summary.md"), "CI": "true", "GITHUB_ACTIONS": "true"}
        path = os.pathsep.join([str(self.tools), os.environ["PATH"]])
        return {**unmeasured(), **own, **values, **self.variables, "PATH": path}

    def run(self, job):
        """The results of the steps by name. After one that failed run those alone that say so."""
        results = {}
        for step in job["steps"]:
            failed = any(result.returncode for result in results.values())
            if "run" in step and ("if" in step or not failed):
                script = [
                    "bash",
                    "--noprofile",
                    "--norc",
                    "-eo",
                    "pipefail",
                    "-c",
                    step["run"],
                ]
                environment = self.environment(job, step)
                results[step["name"]] = subprocess.run(
                    script, cwd=self.folder, env=environment, capture_output=True, text=True, timeout=240
                )
        return results


def pytest_in(folder, *arguments):
    environment = {**unmeasured(), "PYTHONPATH": str(REPOSITORY)}
    command = [sys.executable, "-m", "pytest", "benchmarks", *arguments]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=240)


# Settings of a repository's own tests, PEFT's among them, that have no say.
SETTINGS = """
[tool.pytest.ini_options]
addopts = "--cov=src/peft --cov-report=term-missing --no-such-option"
filterwarnings = ["error"]
"""


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash, as GitHub's runners have")
def test_the_steps_of_a_pull_request_run_its_cases_and_fail_where_one_changed(own, tmp_path):
    (own / "pyproject.toml").write_text(SETTINGS)
    (own / "conftest.py").write_text("raise SystemExit('the conftest.py above was loaded')\n")
    baseline = own / "baselines/life-cycle/structures/conv1d/loha--default.json"
    baseline.write_text(re.sub(r'("params.trainable": )\d+', r"\g<1>7", baseline.read_text()))
    runner = Runner(own, tmp_path / "tools", {"SELECT": "structures-linear or structures-conv1d"})

    results = runner.run(workflow(own, "peftbench.yml")["jobs"]["benchmark"])

    result = results["Benchmark"]
    assert (results["Install"].returncode, result.returncode) == (0, 1), output(result)
    assert runner.said_to("pip").split()[:3] == ["install", "-c", "benchmarks/constraints.txt"]
    assert f"pytest-peftbench=={cli.__version__}" in runner.said_to("pip").split()
    assert re.search(r"^2 cases: .*\b1 regressed", result.stdout, re.M)
    assert "params.trainable regressed: 7 -> " in result.stdout
    cases = list(ElementTree.parse(own / "report/junit.xml").iter("testcase"))
    assert len(cases) == 2
    assert len(list((own / "report/results").rglob("*.json"))) == 2
    assert "1 regressed" in (own / "report/report.html").read_text()
    assert "1 regressed" in (runner.tools / "summary.md").read_text()
    assert "params.trainable regressed" in (own / "comment/comment.md").read_text()


@pytest.fixture(scope="module")
def of_peft(tmp_path_factory):
    """The repository that PEFT is developed in, given the cases of LoHa and committed; not to be changed."""
    folder = tmp_path_factory.mktemp("peft")
    (installed,) = importlib.util.find_spec("peft").submodule_search_locations
    shutil.copytree(installed, folder / "src" / "peft", ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "setup.py").touch()
    git(folder, "init", "--quiet", "--initial-branch", "main")
    assert cli.main(["init", str(folder), "--methods", "loha"]) == 0
    git(folder, "add", "--all", "--force")
    git(folder, "commit", "--quiet", "--message", "first")
    git(folder, "update-ref", "refs/remotes/origin/main", "HEAD")
    return folder


def test_where_peft_is_developed_a_pull_request_runs_what_it_can_reach(written, of_peft):
    elsewhere, there = ((folder / ".github/workflows/peftbench.yml").read_text() for folder in (written, of_peft))

    assert '-k "$SELECT" --peft-affected="origin/$GITHUB_BASE_REF" \\\n' in there
    assert 'fetch-depth: "0"' in there
    assert "--peft-affected" not in elsewhere
    assert 'fetch-depth: "1"' in elsewhere


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash, as GitHub's runners have")
def test_the_steps_of_a_pull_request_that_reaches_nothing_are_green_and_say_so(of_peft, tmp_path):
    folder = shutil.copytree(of_peft, tmp_path / "own")
    (folder / "docs").mkdir()
    (folder / "docs/new.md").touch()
    variables = {"SELECT": "structures-linear", "GITHUB_BASE_REF": "main", "OUTCOME": "success"}
    variables["PYTHONPATH"] = os.pathsep.join([str(folder / "src"), str(REPOSITORY)])
    runner = Runner(folder, tmp_path / "tools", variables)

    results = runner.run(workflow(folder, "peftbench.yml")["jobs"]["benchmark"])

    assert [result.returncode for result in results.values()] == [0, 0, 0], output(results["Benchmark"])
    assert "nothing affected: none of 1 case can be reached by 1 changed file" in results["Benchmark"].stdout
    assert "nothing affected" in (runner.tools / "summary.md").read_text()
    assert "Nothing affected" in (folder / "comment/comment.md").read_text()


@pytest.fixture
def proposed(own, tmp_path):
    """The repository with a remote, committed, and what runs the steps of its workflow."""
    remote = tmp_path / "remote.git"
    git(own, "init", "--quiet", "--bare", str(remote))
    git(own, "add", "--all")
    git(own, "commit", "--quiet", "--message", "init")
    git(own, "remote", "add", "origin", str(remote))
    variables = {"GITHUB_RUN_ID": "7", "GITHUB_RUN_ATTEMPT": "1", "GITHUB_REF_NAME": "main"}
    variables |= {"GITHUB_SERVER_URL": "https://github.com", "GITHUB_REPOSITORY": "o/r"}
    return Runner(own, tmp_path / "tools", variables), workflow(own, "peftbench-baselines.yml")["jobs"]["propose"]


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash, as GitHub's runners have")
def test_recorded_baselines_are_proposed_as_a_pull_request(proposed):
    runner, job = proposed
    (runner.folder / "baselines/MetaMathQA/tiny/loha--rank8.json").write_text("{}\n")

    result = runner.run(job)["Propose"]

    assert result.returncode == 0, output(result)
    assert "pr create --base main --head peftbench/baselines-7-1" in runner.said_to("gh")
    changed = git(runner.folder, "diff", "--name-only", "main", "origin/peftbench/baselines-7-1")
    assert changed.split() == ["baselines/MetaMathQA/tiny/loha--rank8.json"]
    assert "https://github.com/o/r/actions/runs/7" in (runner.tools / "body.md").read_text()
    assert "1 file changed" in (runner.tools / "body.md").read_text()


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash, as GitHub's runners have")
def test_where_no_baseline_moved_nothing_is_proposed(proposed):
    runner, job = proposed

    assert runner.run(job)["Propose"].returncode == 0
    assert not (runner.tools / "gh.txt").exists()
    assert "No baseline moved" in (runner.tools / "summary.md").read_text()


# GitHub as the comment's script sees it: what it lists, and what it is asked to write.
GITHUB = """
const pulls = %s, comments = %s, asked = [];
const github = {
  paginate: async (list) => list,
  rest: {
    pulls: { list: pulls },
    issues: {
      listComments: comments,
      createComment: async (what) => asked.push(["create", what]),
      updateComment: async (what) => asked.push(["update", what]),
    },
  },
};
const head_repository = { owner: { login: "fork" } };
const run = { head_sha: "abc", head_branch: "b", head_repository, html_url: "https://run" };
const context = { repo: { owner: "o", repo: "r" }, payload: { workflow_run: run } };
const core = { notice: (text) => asked.push(["notice", text]) };
(async () => {
%s
})().then(() => console.log(JSON.stringify(asked)));
"""
PULLS = [{"number": 1, "head": {"sha": "old"}}, {"number": 2, "head": {"sha": "abc"}}]


@pytest.fixture
def comment(written, tmp_path):
    if shutil.which("node") is None:
        pytest.skip("needs node, which runs the script")
    _, step = workflow(written, "peftbench-comment.yml")["jobs"]["comment"]["steps"]
    (tmp_path / "comment").mkdir()

    def posted(text, pulls=PULLS, comments=()):
        (tmp_path / "comment/comment.md").write_text(text, encoding="utf-8")
        script = GITHUB % (json.dumps(pulls), json.dumps(list(comments)), step["with"]["script"])
        result = subprocess.run(["node", "-e", script], cwd=tmp_path, capture_output=True, text=True, check=True)
        return json.loads(result.stdout)

    return posted


def test_the_comment_goes_to_the_pull_request_of_the_commit(comment):
    ((how, what),) = comment("1 case: 1 regressed, says @somebody")

    assert (how, what["issue_number"]) == ("create", 2)
    assert what["body"].startswith("<!-- peftbench -->\n1 case: 1 regressed, says @\u200bsomebody")
    assert what["body"].endswith("(https://run)")


def test_a_comment_of_ours_is_replaced_and_one_of_somebody_else_is_not(comment):
    theirs = {"id": 5, "user": {"type": "User"}, "body": "<!-- peftbench --> mine"}
    bots = {"id": 6, "user": {"type": "Bot"}, "body": "<!-- peftbench -->\nold"}

    assert comment("new", comments=[theirs])[0][0] == "create"
    ((how, what),) = comment("new", comments=[theirs, bots])
    assert (how, what["comment_id"]) == ("update", 6)


def test_a_long_comment_is_cut(comment):
    ((_, what),) = comment("x" * 100_000)

    assert len(what["body"]) < 65_536
    assert "the rest is in the report" in what["body"]


def test_without_a_pull_request_of_that_commit_nothing_is_posted(comment):
    ((how, text),) = comment("new", pulls=PULLS[:1])

    assert how == "notice"
    assert "abc" in text
