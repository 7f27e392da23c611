"""Files that are damaged at random: each must be refused in words, be red, or change nothing: `python tests/fuzz`.

A try is made again by its seed and its number alone. `mutate` damages a file; `baselines`, `experiments` and `imports`
say what must come of it; `crash` kills the processes that write.
"""


class Slipped(AssertionError):
    """What must not happen: a silent pass, a lost file, or one that cannot be read back."""
