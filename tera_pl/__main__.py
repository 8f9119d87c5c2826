"""`python -m tera_pl`."""

import sys

from tera_pl.cli import main

if __name__ == "__main__":
    sys.exit(main())
