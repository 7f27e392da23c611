"""`--peft-affected`: what is compared with a revision is in no repository, or the revision in none."""

import shutil

import pytest
from support import assert_usage_error, committed, git

from pytest_peftbench.affected import changes
from pytest_peftbench.commands import main


@pytest.fixture
def checkout(tmp_path):
    """A repository that a small PEFT is in."""
    (tmp_path / "checkout/src/peft").mkdir(parents=True)
    (tmp_path / "checkout/src/peft/__init__.py").write_text("first = 1\n")
    return committed(tmp_path / "checkout")


@pytest.fixture
def installs(monkeypatch):
    """Function that has Python find PEFT in a folder."""
    return lambda folder: monkeypatch.setattr(changes, "folder_of", lambda package: folder)


@pytest.fixture
def ours(bench, checkout, installs):
    """The bench, in a repository of its own."""
    installs(checkout / "src/peft")
    committed(bench.path)
    return bench


def test_a_revision_that_no_repository_knows(ours):
    result = ours.run("--peft-affected=no-such-branch")

    assert_usage_error(result, "--peft-affected no-such-branch: 'no-such-branch' is no revision of", "name a branch")


def test_a_revision_that_only_peft_s_repository_knows(ours, checkout):
    git(checkout, "branch", "other")

    assert_usage_error(ours.run("--peft-affected=other"), f"'other' is no revision of {ours.path.resolve()}")


def test_a_file_or_a_tree_for_a_revision(ours, checkout):
    assert_usage_error(ours.run("--peft-affected=main:src"), "'main:src' is no revision of")


def test_a_shallow_clone_that_lacks_the_revision(ours, checkout, tmp_path, installs):
    first = git(checkout, "rev-parse", "HEAD").strip()
    git(checkout, "commit", "--quiet", "--allow-empty", "--message", "second")
    git(tmp_path, "clone", "--quiet", "--depth", "1", checkout.as_uri(), "clone")
    installs(tmp_path / "clone/src/peft")

    assert_usage_error(ours.run(f"--peft-affected={first}"), "git fetch --unshallow", "fetch-depth: 0")


def test_peft_in_no_repository(ours, tmp_path, monkeypatch, installs):
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path))
    (tmp_path / "peft").mkdir()
    installs(tmp_path / "peft")

    assert_usage_error(ours.run("--peft-affected=main"), "not a git repository", "the installed PEFT", "pip install -e")


def test_peft_in_an_environment_that_a_repository_ignores(ours, checkout, installs):
    (checkout / ".gitignore").write_text(".venv\n")
    (checkout / ".venv/peft").mkdir(parents=True)
    (checkout / ".venv/peft/__init__.py").touch()
    installs(checkout / ".venv/peft")

    assert_usage_error(ours.run("--peft-affected=main"), "is not followed by git in", "pip install -e path/to/peft")


def test_peft_that_nobody_has_committed(ours, checkout, installs):
    shutil.copytree(checkout / "src", checkout / "new")
    installs(checkout / "new/peft")

    assert_usage_error(ours.run("--peft-affected=main"), "is not followed by git in")


def test_a_suite_in_no_repository(bench, checkout, installs, monkeypatch):
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(bench.path.parent))
    installs(checkout / "src/peft")

    assert_usage_error(
        bench.run("--peft-affected=main"), "not a git repository", "a suite: put it under version control"
    )


def test_a_suite_that_git_ignores(ours):
    ours.write(".gitignore", "MetaMathQA\n")
    git(ours.path, "rm", "-r", "--quiet", "--cached", "MetaMathQA")

    assert_usage_error(ours.run("--peft-affected=main"), "a suite, is ignored by git")


@pytest.mark.parametrize("revision", ["--all", "main\nmain"])
def test_what_can_be_no_revision(revision, bench):
    assert_usage_error(bench.run(f"--peft-affected={revision}"), "expected a revision of git, such as origin/main")


def test_without_git(ours, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))

    assert_usage_error(ours.run("--peft-affected=main"), "git cannot be run")


def test_a_method_that_peft_does_not_register_may_execute_any_of_its_files(ours, checkout):
    (checkout / "src/peft/tuners/x").mkdir(parents=True)
    (checkout / "src/peft/tuners/x/layer.py").write_text("new = 1\n")

    ours.run("--peft-affected=main", "--peft-no-compare").assert_outcomes(passed=2, deselected=1)  # not fine-tuning


def test_the_same_of_the_command(ours, capsys):
    with pytest.raises(SystemExit, match="2"):
        main(["affected", "no-such-branch", str(ours.path)])

    assert "'no-such-branch' is no revision of" in capsys.readouterr().err


def test_a_folder_without_suites_for_the_command(checkout, capsys):
    with pytest.raises(SystemExit, match="2"):
        main(["affected", "main", str(checkout)])

    assert "holds no case of a suite" in capsys.readouterr().err
