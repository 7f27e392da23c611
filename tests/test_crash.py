"""A few processes killed while they write; `python tests/fuzz crash` kills many."""

import os

import pytest
from fuzz.running import run
from support import skip_under_an_older_peft

skip_under_an_older_peft()


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGKILL")
def test_what_is_killed_leaves_whole_files_and_loses_its_running_case_alone():
    tally = run("crash", 1, range(4))

    assert not tally.failures, "\n".join(tally.failures)
    assert any(name.startswith("killed") for name in tally.outcomes), tally.text()
