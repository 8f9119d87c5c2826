"""Private words for what the field has a term for: `python -m tests.wording` lists them.

Spelling is codespell's; this knows phrases, and the words inside of names (`told_apart`). A word
that is right in one place and wrong in another does not belong here.
"""

import re
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent
PLACES = ("tera_pl", "datamodules", "configs", "docs", "README.md")
SUFFIXES = {".py", ".yaml", ".md"}
# Its questions are data whose hash is fixed.
SKIPPED = ROOT / "datamodules" / "miniworld" / "wordings.py"

# What is looked for, and what to write instead. Underscores count as spaces, case does not count.
WORDS = {
    r"train(ed|able) numbers?": "trainable parameters",
    r"(many|few|fewer|fewest|more|most|all|its|\d) numbers": "parameters, entries",
    r"(count|counts|counted|counting)( the)? numbers": "parameters",
    r"learnt": "supervised, trained, learned",
    r"(?<!\.)tells?(?!\(\))|told|telling": "report, log, print, raise, warn, distinguish",
    r"mistakes?": "user error",
    r"wholes?(?! numbers?\b)|wholly": "complete, full, packed, atomic",
    r"one behind the other": "concatenated",
    r"worst moment": "peak memory",
    r"(goes|go|going|gone|went) on": "resume, continue",
    r"verbs?": "subcommand",
    r"peers?": "Hugging Face Trainer baseline",
    r"timing floor|the floor": "baseline",
    r"for want of": "for lack of, because there are no",
    r"(can|could|cannot|to) be had": "is available",
    r"(?<!there.)(is|are) no (?!longer|more|less|smaller|larger)\w+": "is not a ..., invalid",
    r"(?<!there.)(is|are) (?-i:none)(?! of)": "is not one, invalid, unknown, missing",
    r"none that": "invalid, unknown; not one that",
    r"as \w+ (has|have) it": "as ... defines it",
    r"as told|what is meant so|a wish|wishes": "as given, as intended",
    r"in one go": "uninterrupted",
    r"for nothing": "as a warm-up, discarded",
    r"listen no more": "restore the handlers",
    r"(cores?|vectors?|updates?|weights?) (is|are) held|h[eo]ld (update|delta|weight)s?": "cached",
    r"run'?s?'? folders?|folders? of (a|the) runs?": "run directory",
    r"lest|thereof|whence|hitherto|heed|takes? (its|their) names?": "a plain word",
}
ANY = "|".join(f"(?P<w{n}>{word})" for n, word in enumerate(WORDS)).replace(" ", r"[\s#]+")
PATTERN = re.compile(rf"\b(?:{ANY})\b", re.IGNORECASE)
INSTEAD = {f"w{number}": words for number, words in enumerate(WORDS.values())}


def found(text: str) -> Iterator[tuple[int, str, str]]:
    """Yield line, words and what to write instead, also where a sentence goes over two lines."""
    text = re.sub(r"\btests/[\w/.]+::\w+", "", text)  # tests have names of their own
    for match in PATTERN.finditer(text.replace("_", " ")):
        line = text.count("\n", 0, match.start()) + 1
        yield line, " ".join(match.group().split()), INSTEAD[match.lastgroup]


def main(rooms: list[str]) -> int:
    """Print every place; 1 if there is one.

    Args:
        rooms: Folders and files to look at, or none for all.
    """
    places = 0
    for path in [file for place in rooms or PLACES for file in _files(ROOT / place)]:
        for line, words, instead in found(path.read_text(encoding="utf-8")):
            places += 1
            print(f"{path.relative_to(ROOT)}:{line}: {words!r}: {instead}")  # noqa: T201
    return bool(places)


def _files(place: Path) -> list[Path]:
    files = sorted(place.rglob("*")) if place.is_dir() else [place]
    return [file for file in files if file.suffix in SUFFIXES and file != SKIPPED]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
