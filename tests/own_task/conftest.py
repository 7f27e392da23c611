"""Makes the task known: this, and a suite in a folder of its name, is all that it takes."""

from mood import SPEC

from pytest_peftbench import register_task

register_task(SPEC)
