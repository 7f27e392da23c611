"""What installed packages define, read without importing them."""

import pytest

from pytest_peftbench.results.files import InputError
from pytest_peftbench.results.sources import class_in
from pytest_peftbench.tasks.math_reasoning.spec import generation_keys


def test_a_class_is_found_by_file_and_name():
    assert class_in("pytest_peftbench", "results/files.py", "InputError").name == "InputError"


@pytest.mark.parametrize(
    ("place", "words"),
    [
        (("no_such_package", "a.py", "A"), "no_such_package is not installed: pip install no_such_package"),
        (("pytest_peftbench", "results/files.py", "Gone"), "defines no class Gone"),
        (("pytest_peftbench", "gone.py", "Gone"), "gone.py: defines no class Gone"),
    ],
)
def test_what_is_not_there_is_an_error_and_no_empty_answer(place, words):
    with pytest.raises(InputError, match=words):
        class_in(*place)


def test_the_keys_of_a_generation_are_those_of_the_library_itself():
    from transformers import GenerationConfig

    assert {key for key in vars(GenerationConfig()) if not key.startswith("_")} <= generation_keys()
    assert "no_such_key" not in generation_keys()
