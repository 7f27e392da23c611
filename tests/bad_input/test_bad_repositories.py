"""`peftbench init`: folders that are no repository, or would lead out of it, and methods that there are not."""

import pytest
from spoiling import broken, content, folder, loop, nested, rows
from support import write_json

from pytest_peftbench.commands import main


def refused(capsys, *arguments):
    """What the command says that ends with a usage error."""
    with pytest.raises(SystemExit) as stopped:
        main(["init", *map(str, arguments)])
    captured = capsys.readouterr()
    assert stopped.value.code == 2
    assert "Traceback" not in captured.err
    return captured.err


def outside(path):
    """A link that leads out of the repository."""
    target = path.parents[len(path.parts) - path.parts.index("repository") - 2].parent / "outside"
    target.mkdir(exist_ok=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.symlink_to(target, target_is_directory=True)


def schema(path):
    write_json(path, {"schema": 99, "methods": [], "files": {}})


MANIFEST = "benchmarks/.peftbench-init.json"
ROWS = rows(
    ("benchmarks", outside, "benchmarks: is a link that leads out of"),
    ("baselines", outside, "baselines: is a link that leads out of"),
    (".github/workflows", outside, "workflows: is a link that leads out of"),
    ("benchmarks/MetaMathQA", outside, "MetaMathQA: is a link that leads out of"),
    ("benchmarks", content("a file"), "benchmarks: is no folder, and files are to be written there; move it away"),
    (".github", content("a file"), ".github: is no folder, and files are to be written there"),
    ("baselines", broken, "baselines: is no folder"),
    ("baselines", loop, "baselines: "),
    (MANIFEST, content("{"), "no valid JSON"),
    (MANIFEST, content("{}" * 2), "restore it, or delete it"),
    (MANIFEST, content([]), "expected a JSON object, found list"),
    (MANIFEST, nested, "nested too deeply"),
    (MANIFEST, folder, "is a folder, expected a file"),
    (MANIFEST, content({"methods": "loha"}), 'methods: expected `array`, found "loha"'),
    (MANIFEST, content({"files": {"a": 1}}), "files.a: expected `str`, found 1"),
    (MANIFEST, schema, "schema 99 is not 1, the one that is known"),
)


@pytest.mark.parametrize("row", ROWS)
def test_what_stands_in_the_way_is_named_and_nothing_is_written(row, tmp_path, capsys):
    repository = tmp_path / "repository"
    repository.mkdir()
    file = repository / row.file
    file.parent.mkdir(parents=True, exist_ok=True)
    row.change(file)
    before = sorted(tmp_path.rglob("*"))

    assert row.words in refused(capsys, repository, "--methods", "loha")
    assert sorted(tmp_path.rglob("*")) == before


def test_a_link_in_place_of_a_file_is_left_alone(tmp_path, capsys):
    target, repository = tmp_path / "target", tmp_path / "repository"
    target.write_text("mine")
    (repository / "benchmarks").mkdir(parents=True)
    (repository / "benchmarks" / "pytest.ini").symlink_to(target)

    assert main(["init", str(repository), "--methods", "loha"]) == 0

    assert "  benchmarks/pytest.ini\n" in capsys.readouterr().out
    assert target.read_text() == "mine"
    assert (repository / "benchmarks" / "pytest.ini").is_symlink()


@pytest.mark.parametrize(
    ("directory", "words"),
    [
        (__file__, "test_bad_repositories.py: is a file; give the folder of a repository"),
        ("no-such-folder", "no-such-folder: is no folder; give the folder of a repository"),
        ("/proc", "/proc: cannot be written: No such file or directory"),
    ],
)
def test_what_is_no_repository_is_refused(directory, words, capsys):
    assert words in refused(capsys, directory)


def test_a_folder_of_a_repository_that_is_not_its_top_is_refused(tmp_path, capsys):
    (tmp_path / ".git").mkdir()
    (tmp_path / "below").mkdir()

    words = f"lies in the repository {tmp_path}, and GitHub reads workflows from its top alone; give {tmp_path}, or"
    assert words in refused(capsys, tmp_path / "below")


def test_a_folder_without_git_is_told(tmp_path, capsys):
    assert main(["init", str(tmp_path), "--methods", "loha", "--dry-run"]) == 0

    assert "no git repository: GitHub runs the workflows once it is one" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("methods", "words"),
    [
        ("lohra", "--methods lohra: no such method; meant may be lora or loha"),
        ("ln_tuning", "meant may be lntuning"),
        ("LoRA", "meant may be lora"),
        ("zzz", "--methods zzz: no such method; there are adalora, "),
        ("lora,,loha", "'lora,,loha': expected names of methods, separated by commas"),
        ("", "'': expected names of methods"),
        ("all,zzz", "--methods all: no such method"),
    ],
)
def test_a_method_that_there_is_not_is_named_with_those_that_may_be_meant(methods, words, tmp_path, capsys):
    assert words in refused(capsys, tmp_path, "--methods", methods)
    assert list(tmp_path.iterdir()) == []
