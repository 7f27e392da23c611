"""Every option, ini name, marker, fixture and command stands in the README."""

import argparse
import re

import pytest
from support import REPOSITORY

from pytest_peftbench import commands as cli
from pytest_peftbench import plugin

README = (REPOSITORY / "README.md").read_text()


def mentioned(name):
    return re.search(rf"(?<![\w-]){re.escape(name)}(?![\w-])", README) is not None


def options():
    """The options of the plugin, and what it adds to the ini file, as it tells pytest."""
    flags, names = [], []

    class Recorder:
        def getgroup(self, *_):
            return self

        def addoption(self, flag, **_):
            flags.append(flag)

        def addini(self, name, *_, **__):
            names.append(name)

    plugin.pytest_addoption(Recorder())
    return flags, names


def commands():
    parser = cli.parser()
    (subparsers,) = (action for action in parser._actions if isinstance(action, argparse._SubParsersAction))
    return subparsers.choices


FLAGS, INI_NAMES = options()


def test_each_option_has_a_twin_in_the_ini_file():
    assert len(FLAGS) >= 8
    assert [flag.removeprefix("--").replace("-", "_") for flag in FLAGS] == INI_NAMES


@pytest.mark.parametrize("name", [*FLAGS, *INI_NAMES])
def test_each_option_and_ini_name_stands_in_the_readme(name):
    assert mentioned(name), f"README.md says nothing about {name}"


@pytest.mark.parametrize("command", sorted(commands()))
def test_each_command_stands_in_the_readme(command):
    assert mentioned(f"peftbench {command}"), f"README.md says nothing about peftbench {command}"


@pytest.mark.parametrize(
    "name",
    [
        "experiment",
        "base_model",
        "task_data",
        "gpu_memory",
        "peft_progress",
        "peft_baseline",
        "peft_task",
        "peft_footprint",
    ],
)
def test_each_fixture_and_marker_stands_in_the_readme(name):
    assert mentioned(name), f"README.md says nothing about {name}"


def test_files_that_the_readme_links_to_exist():
    links = [link for link in re.findall(r"\]\(([^)#]+)[^)]*\)", README) if "://" not in link]

    assert [link for link in links if not (REPOSITORY / link).exists()] == []
