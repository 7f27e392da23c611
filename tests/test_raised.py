"""Where an error comes from, as it is told in the line of a case."""

import sysconfig
from pathlib import Path

import pytest

import pytest_peftbench
from pytest_peftbench.results.raised import raised_in

OURS = str(Path(pytest_peftbench.__file__).parent / "cases" / "trained.py")
PACKAGES = "/venv/lib/site-packages"
LAYER, LINEAR = f"{PACKAGES}/peft/tuners/loha/layer.py", f"{PACKAGES}/torch/nn/linear.py"


def raised_through(*files):
    """An error that goes through a function of each of these files, on the third line, from the first to the last."""
    call = None
    for file in reversed(files):
        scope = {"call": call}
        body = "raise ValueError('shapes')" if call is None else "call()"
        exec(compile(f"def step():\n    x = 1\n    {body}", file, "exec"), scope)
        call = scope["step"]
    with pytest.raises(ValueError, match="shapes") as raised:
        call()
    return raised.value


@pytest.mark.parametrize(
    ("files", "place"),
    [
        ((OURS, LAYER), "peft/tuners/loha/layer.py:3"),
        ((OURS, LINEAR, LAYER, LINEAR), "peft/tuners/loha/layer.py:3"),
        ((OURS, LAYER, LINEAR, OURS), "peft/tuners/loha/layer.py:3"),  # counters stand below each operator
        ((OURS, f"{PACKAGES}/my_method/layer.py", LINEAR), "my_method/layer.py:3"),
        ((OURS, str(Path.cwd() / "mine" / "layer.py"), LINEAR), "mine/layer.py:3"),
        ((OURS, "/clone/peft/src/peft/tuners/loha/layer.py"), "/clone/peft/src/peft/tuners/loha/layer.py:3"),
    ],
)
def test_the_method_s_own_file_is_named_and_not_torch_s(files, place):
    assert raised_in(raised_through(*files)) == f" ({place})"


@pytest.mark.parametrize(
    "files",
    [
        (OURS, LINEAR),
        (OURS, "<string>", f"{sysconfig.get_path('stdlib')}/json/decoder.py"),
        (str(Path.cwd() / "benchmarks" / "test_math_reasoning.py"), OURS),
        (str(Path.cwd() / "benchmarks" / "test_math_reasoning.py"),),
    ],
)
def test_no_file_is_named_where_the_method_s_is_not_on_the_way(files):
    assert raised_in(raised_through(*files)) == ""
