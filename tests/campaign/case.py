"""One case of the campaign: what was changed, the command that meets it, what may come of it."""

import contextlib
import io
import logging
import os
import random
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch

from tera_pl.__main__ import main
from tests.campaign.oddities import ODDITIES

DOCUMENTED = "accepted, documented"
RAN, REFUSED, STOPPED = "ran as given", "one line, exit 2", "stopped, exit 1 or 130"
TRACEBACK, WRONG_END, FILES, SILENT = (
    "BAD: traceback",
    "BAD: exit code or lines",
    "BAD: touched other files",
    "BAD: silently accepted",
)
LONGEST_LINE = 1_000


def accept(folder: Path) -> str | None:
    """Nothing more to check of what ran."""
    return None


@dataclass
class Case:
    """A command that meets something damaged or invalid.

    Args:
        changed: What was changed.
        args: The command line.
        expect: `refuse` where the change cannot be meant, `run` where it means nothing, `either`
            where both are right; what runs must then pass `wrong`.
        wrong: Tells what is wrong with a result that came with exit 0, or nothing.
        writes: Folders and files, relative to the case's, that the command may write to.
        stops: Whether it may end as stopped: one line, exit 1 or 130.
        oddity: Name of the documented oddity that it is if it runs.
        call: What runs the command line in place of `tera_pl.__main__.main`.
    """

    changed: str
    args: list[str]
    expect: Literal["refuse", "run", "either"] = "either"
    wrong: Callable[[Path], str | None] = accept
    writes: tuple[str, ...] = ("runs", "out")
    stops: bool = False
    oddity: str | None = None
    call: Callable[[list[str]], int] | None = None


@dataclass
class Result:
    """What came of a case.

    Args:
        number: Its seed.
        kind: Name of the generator that made it.
        case: The case.
        outcome: One of the constants above.
        detail: The line that was printed, or what is wrong.
    """

    number: int
    kind: str
    case: Case
    outcome: str
    detail: str = ""
    told: list[str] = field(default_factory=list)

    @property
    def bad(self) -> bool:
        """Whether this is a defect."""
        return self.outcome.startswith("BAD")

    def __str__(self) -> str:
        args = " ".join(self.case.args)
        what = f"case {self.number} ({self.kind}): {self.case.changed}; {args}"
        return f"{what}: {self.outcome}: {self.detail}"


def snapshot(folder: Path) -> dict[str, tuple[int, ...]]:
    """Identify every file below a folder; one that was written anew differs, whatever is in it."""
    found = {}
    for place, _, names in os.walk(folder):
        for name in names:
            path = os.path.join(place, name)  # noqa: PTH118 - thrice as fast as Path, in every case
            state = os.lstat(path)
            identity = (state.st_ino, state.st_mtime_ns, state.st_size, state.st_mode)
            found[os.path.relpath(path, folder)] = identity
    return found


@contextlib.contextmanager
def redirected(errors: io.StringIO) -> Iterator[None]:
    """Collect what goes to stderr, that of handlers too which took the stream long ago."""
    loggers = [logging.getLogger(name) for name in logging.root.manager.loggerDict]
    handlers = {h for logger in loggers for h in logger.handlers}
    kept = {h: h.stream for h in handlers if type(h) is logging.StreamHandler}
    with contextlib.redirect_stderr(errors), contextlib.redirect_stdout(io.StringIO()):
        for handler in kept:
            handler.setStream(errors)
        try:
            yield
        finally:
            for handler, stream in kept.items():
                handler.setStream(stream)


def run_case(number: int, kind: str, case: Case, folder: Path) -> Result:
    """Run a case in its folder and judge what comes of it."""
    before = snapshot(folder.parent)
    errors = io.StringIO()
    state = torch.get_rng_state()
    directory = Path.cwd()
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    os.chdir(folder)
    code: Any = None
    failure: BaseException | None = None
    try:
        with redirected(errors):
            code = (case.call or main)(case.args)
    except SystemExit as error:
        code = 0 if error.code is None else error.code
    except BaseException as error:  # noqa: BLE001 - the outcome of the case
        failure = error
    finally:
        os.chdir(directory)
        for handled in handlers.items():
            signal.signal(*handled)
        torch.set_rng_state(state)
        random.seed(0)
    lines = errors.getvalue().splitlines()
    told = [line for line in lines if line.startswith(("error: ", "stopped: ", "usage:"))]
    result = Result(number, kind, case, RAN, told=told)
    result.outcome, result.detail = _judge(case, code, failure, lines, told, folder)
    if not result.bad and (touched := _touched(case, before, folder, failed=code != 0)):
        result.outcome, result.detail = FILES, touched
    return result


def _judge(
    case: Case,
    code: Any,
    failure: BaseException | None,
    lines: list[str],
    told: list[str],
    folder: Path,
) -> tuple[str, str]:
    if failure is not None:
        return TRACEBACK, f"{type(failure).__name__}: {str(failure)[:300]}"
    if any("Traceback" in line for line in lines):
        return TRACEBACK, lines[-1]
    if code == 0:
        if case.expect == "refuse":
            return SILENT, "it cannot be meant, and ran"
        wrong = case.wrong(folder)
        if wrong:
            return SILENT, wrong
        return (DOCUMENTED, ODDITIES[case.oddity]) if case.oddity else (RAN, "")
    if code == 2 and len(told) == 1 and told[0].startswith("error: "):
        if len(told[0]) > LONGEST_LINE:
            return WRONG_END, f"a line of {len(told[0])} characters: {told[0][:200]}"
        if case.expect == "run":
            return WRONG_END, f"means nothing and is refused: {told[0]}"
        return REFUSED, told[0]
    if code in {1, 130, 143} and len(told) == 1 and told[0].startswith("stopped: ") and case.stops:
        return STOPPED, told[0]
    return WRONG_END, f"exit {code}, {len(told)} lines: {' / '.join(told)[:300] or lines[-3:]}"


def _touched(case: Case, before: dict[str, tuple[int, ...]], folder: Path, *, failed: bool) -> str:
    """Tell which file was changed, removed or made where the command has no business."""
    after = snapshot(folder.parent)

    def allowed(name: str) -> bool:
        inner = name.removeprefix(f"{folder.name}/")
        return inner != name and any(
            inner == place or inner.startswith(f"{place}/") for place in case.writes
        )

    changed = [n for n in before if after.get(n) != before[n] and not allowed(n)]
    made = [n for n in after.keys() - before.keys() if not allowed(n)]
    if changed or made:
        return f"changed or removed {changed[:3]}, made {sorted(made)[:3]}"
    out = [n for n in after if n.startswith(f"{folder.name}/out/")]
    new = [n for n in out if n not in before]
    if failed and new and case.args[0] == "export":
        return f"left {new[:3]} of an export that failed"
    return ""
