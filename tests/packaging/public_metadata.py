"""What packages require that not every machine can install: `make lock` calls this.

From pip's report on standard input to `tests/public_metadata.json`.
"""

import json
import sys
from pathlib import Path

PATH = Path(__file__).with_suffix(".json")


def main() -> None:
    installed = json.load(sys.stdin)["install"]
    found = {
        package["metadata"]["name"]: {
            "version": package["metadata"]["version"],
            "requires_dist": package["metadata"].get("requires_dist", []),
        }
        for package in installed
    }
    PATH.write_text(json.dumps(found, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
