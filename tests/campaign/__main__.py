"""Run cases and print what came of them: `python -m tests.campaign 3000 --start 0 --jobs 1`."""

import argparse
import sys
import tempfile
import time
from pathlib import Path

import pytest

from tests.attempts import share_parsers
from tests.campaign.runner import case, defects, table
from tests.campaign.world import make_world


def main() -> int:
    """Run the cases of a range of seeds; every defect is printed as it is found.

    The table of all comes at the end, and after every 500.
    """
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("cases", type=int)
    parser.add_argument("--start", type=int, default=0, help="first seed")
    parser.add_argument("--only", help="kind")
    options = parser.parse_args()
    found = []
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        share_parsers(patch)
        world = make_world(Path(folder))
        begin = time.process_time()
        for number in range(options.start, options.start + options.cases):
            result = case(number, world, options.only)
            if result is None:
                continue
            found.append(result)
            if defects([result]):
                sys.stdout.write(f"{result}\n")
            if len(found) % 100 == 0:
                sys.stdout.write(
                    f"{len(found)} cases, {time.process_time() - begin:.0f} s of CPU\n"
                )
            if len(found) % 500 == 0:
                sys.stdout.write(f"{table(found)}\n")
            sys.stdout.flush()
        seconds = time.process_time() - begin
    sys.stdout.write(f"{table(found)}\n{len(defects(found))} defects, {seconds:.0f} s of CPU\n")
    return 1 if defects(found) else 0


if __name__ == "__main__":
    sys.exit(main())
