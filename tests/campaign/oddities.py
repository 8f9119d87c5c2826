"""What is accepted although it looks wrong, with the reasons."""

import re

from tests.campaign.case import SILENT, Result

# Kind and pattern of the change, and why it is accepted.
ODDITIES: dict[tuple[str, str], str] = {}


def why_accepted(result: Result) -> str | None:
    """Give the reason why a silent acceptance is right, or nothing: then it is a defect."""
    if result.outcome != SILENT:
        return None
    for (kind, pattern), reason in ODDITIES.items():
        if result.kind == kind and re.search(pattern, result.case.changed):
            return reason
    return None
