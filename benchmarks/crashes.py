"""Kill runs at seeded random moments while a reader watches their store, and compare what they leave.

Run by `python benchmarks/crashes.py --kills 200 --seed 0`, in a checkout that does not change meanwhile: bundles name
its commit. Prints the figures, and exits with the problems if there are any.
"""

import argparse
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # the tests are no installed package

from mbta_assets_tests.support.killed_runs import run_kills, temporary_directory

KILLS_PER_RESTART = 8
"""Killed runs that follow one another until one may end, which costs less than to let one end after each."""


def main() -> None:
    """Run the kills and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200, help="number of killed runs")
    parser.add_argument("--seed", type=int, default=0, help="seed of the moments")
    arguments = parser.parse_args()
    started = time.monotonic()
    with temporary_directory() as root:
        figures = run_kills(root / "runs", arguments.kills, arguments.seed, KILLS_PER_RESTART, print_progress)
    print(f"\n{figures.to_table()}\n\nThis took {(time.monotonic() - started) / 60:.0f} minutes.")
    if figures.problems:
        sys.exit("\n".join(figures.problems))


def print_progress(line: str) -> None:
    """Print a line at once."""
    print(line, flush=True)


if __name__ == "__main__":
    main()
