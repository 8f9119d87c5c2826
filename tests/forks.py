"""Runs in processes of their own that import nothing: forks of a server that has imported all.

A start of Python costs ten seconds of imports, a fork none.
"""

import multiprocessing
import os
import socket
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["tera_pl.cli", "datamodules"])


def start(folder: Path, *arguments: str, **environment: str) -> BaseProcess:
    """Start a subcommand of the Trainer in a folder, whose `output.log` gets what it prints."""
    process = CONTEXT.Process(target=_run, args=(folder, list(arguments), environment))
    process.start()
    return process


def finish(folder: Path, *arguments: str, processes: int = 1) -> None:
    """Run a subcommand to its end, in processes that find each other as under torchrun."""
    ranks = [{}] if processes == 1 else _ranks(processes)
    started = [start(folder, *arguments, **rank) for rank in ranks]
    for process in started:
        process.join()
    output = (folder / "output.log").read_text()[-2000:]
    assert [process.exitcode for process in started] == [0] * processes, output


def call(function: Callable[..., Any], *calls: tuple[Any, ...]) -> list[int | None]:
    """Call a function of a module at once in as many processes as there are tuples of arguments.

    Returns:
        The exit codes.
    """
    processes = [CONTEXT.Process(target=function, args=arguments) for arguments in calls]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    return [process.exitcode for process in processes]


def _ranks(number: int) -> list[dict[str, str]]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    common = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "NODE_RANK": "0"}
    common["WORLD_SIZE"] = str(number)
    return [common | {"LOCAL_RANK": str(rank)} for rank in range(number)]


def _run(folder: Path, arguments: list[str], environment: dict[str, str]) -> None:
    os.chdir(folder)
    os.environ.update(environment)
    output = os.open("output.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(output, 1)
    os.dup2(output, 2)
    torch.set_num_threads(1)
    from tera_pl.cli import main

    os._exit(main(arguments))
