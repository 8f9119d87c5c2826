"""How much is tried: what a commit needs in `make test`, many times that in `make soak`."""

import os

SOAK = os.environ.get("TERA_PL_SOAK") == "1"


def more(number: int, times: int = 20) -> int:
    """A number of cases or examples, and how many times as many a soak takes."""
    return number * times if SOAK else number
