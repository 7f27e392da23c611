"""The long runs: `python tests/fuzz`; some of one kind: `python tests/fuzz imports --count 500`; a try: `--only 7`."""

import argparse
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from fuzz.running import COUNTS, run


def main():
    parser = argparse.ArgumentParser(prog="python tests/fuzz", description="Damage files at random; nothing may slip.")
    parser.add_argument("kinds", nargs="*", metavar="KIND", help=f"{', '.join(COUNTS)}; all without one")
    parser.add_argument("--seed", type=int, default=0, help="of all tries (default: 0)")
    parser.add_argument("--count", type=int, help="tries of each kind (default: those of the long run)")
    parser.add_argument("--only", type=int, metavar="NUMBER", help="this one try alone")
    options = parser.parse_args()
    if unknown := [kind for kind in options.kinds if kind not in COUNTS]:
        parser.error(f"{unknown[0]}: no kind; there are {', '.join(COUNTS)}")
    failed = False
    for kind in options.kinds or COUNTS:
        numbers = range(options.count or COUNTS[kind]) if options.only is None else [options.only]
        tally = run(kind, options.seed, numbers, Progress(kind, len(numbers)))
        print(f"{kind}: {tally.text()}", flush=True)
        failed = failed or bool(tally.failures)
    return int(failed)


class Progress:
    """Each failure as it comes, and a line on stderr each ten seconds."""

    def __init__(self, kind, count):
        self.kind, self.count, self.next_s, self.told = kind, count, time.monotonic() + 10, 0

    def __call__(self, tally):
        for failure in tally.failures[self.told :]:
            print(failure, flush=True)
        self.told = len(tally.failures)
        if time.monotonic() >= self.next_s:
            self.next_s = time.monotonic() + 10
            print(f"{self.kind}, {self.count:,} in all: {tally.text()}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
