"""A short run of the fuzzer; the long one is a command, see CONTRIBUTING."""

import pytest
from fuzz.running import run
from support import skip_under_an_older_peft

skip_under_an_older_peft()


@pytest.mark.parametrize(("kind", "count"), [("baselines", 60), ("experiments", 150), ("imports", 40)])
def test_a_damaged_file_is_refused_or_red_or_changes_nothing(kind, count):
    tally = run(kind, 1, range(count))

    assert not tally.failures, "\n".join(tally.failures)
    assert tally.outcomes["refused"] > count / 6  # or nothing was damaged
    assert tally.outcomes.total() == count
