"""A disk that is full while something is saved: one line, the last good checkpoint, the same bits.

The limit of the process on the size of a file stands for the disk: writing fails in the kernel, in
the middle of a file, TensorBoard's and all others included.
"""

import errno
import resource

import pytest
import torch

from tera_pl.checkpointing.checkpoint_io import AtomicCheckpointIO
from tera_pl.cli import guard, main
from tera_pl.errors import RunStoppedError

pytestmark = pytest.mark.slow


@pytest.fixture
def full_at_save(monkeypatch):
    """Fill the disk when the n-th checkpoint is saved; give a function that clears it again."""

    def fill(number):
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        saved, save = [], AtomicCheckpointIO.save_checkpoint

        def full(self, checkpoint, path, storage_options=None):
            saved.append(path)
            if len(saved) == number:
                resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
            save(self, checkpoint, path, storage_options)

        monkeypatch.setattr(AtomicCheckpointIO, "save_checkpoint", full)

        def clear():
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
            monkeypatch.setattr(AtomicCheckpointIO, "save_checkpoint", save)

        return clear

    return fill


# Every validation saves best.ckpt, if it is best, and then last.ckpt.
@pytest.mark.parametrize("number", [3, 4])
def test_run_stops_and_resumes_to_the_same_bits(
    number, full_at_save, tiny_config, tmp_path, monkeypatch, capfd
):
    monkeypatch.chdir(tmp_path)
    assert main(["fit", "--config", str(tiny_config)]) == 0
    capfd.readouterr()
    clear = full_at_save(number)
    try:
        code = main(["fit", "--config", str(tiny_config)])
    finally:
        clear()
    assert code == 1
    text = capfd.readouterr().err
    assert "Traceback" not in text
    (message,) = [line for line in text.splitlines() if line.startswith("stopped: ")]
    folder = tmp_path / "runs" / "run" / "version_1" / "checkpoints"
    assert {path.name for path in folder.iterdir()} == {"best.ckpt", "last.ckpt"}
    last = "runs/run/version_1/checkpoints/last.ckpt"
    command = f"fit --config runs/run/version_1/config.yaml --ckpt_path {last}"
    assert message.endswith(f": File too large; to resume: python -m tera_pl {command}")
    assert torch.load(last, weights_only=True)["global_step"] == 2
    assert main(command.split()) == 0
    uninterrupted, resumed = (
        torch.load(f"runs/run/version_{k}/checkpoints/last.ckpt", weights_only=True) for k in (0, 1)
    )
    assert uninterrupted["state_dict"].keys() == resumed["state_dict"].keys()
    for name, value in uninterrupted["state_dict"].items():
        assert torch.equal(resumed["state_dict"][name], value)


def test_what_stopped_the_run_is_told_though_closing_its_files_fails_too(capsys):
    def run():
        try:
            raise RunStoppedError("no room; to resume: this")
        finally:
            raise OSError(errno.ENOSPC, "No space left on device")

    assert guard(run) == 1
    assert capsys.readouterr().err == "stopped: no room; to resume: this\n"
