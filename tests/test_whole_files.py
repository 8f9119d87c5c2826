"""Files and folders are there whole or not at all, after a kill and on a full disk."""

import errno
import os
import resource
import signal
from contextlib import contextmanager

import pytest
import torch
from safetensors.torch import save_file

from tera_pl.checkpoint_io import WholeCheckpointIO
from tera_pl.stopped import RunStoppedError
from tera_pl.whole_files import open_whole, whole_folder


@contextmanager
def file_limit(number_of_bytes):
    """Let the kernel refuse what makes a file longer than this."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (number_of_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def kill_in_the_middle(write):
    """Run something in a process that kills itself in it; nothing is cleaned up."""
    process = os.fork()
    if process == 0:
        write()
        os._exit(0)
    _, status = os.waitpid(process, 0)
    assert os.WTERMSIG(status) == signal.SIGKILL


def test_kill_leaves_the_older_file_and_the_next_write_replaces_it(tmp_path):
    path = tmp_path / "new" / "file"
    with open_whole(path) as file:
        file.write(b"older")

    def write():
        with open_whole(path) as file:
            file.write(b"half")
            file.flush()
            os.kill(os.getpid(), signal.SIGKILL)

    kill_in_the_middle(write)
    assert path.read_bytes() == b"older"
    with open_whole(path) as file:
        file.write(b"newer")
    assert path.read_bytes() == b"newer"
    assert [p.name for p in path.parent.iterdir()] == ["file"]


def test_kill_leaves_the_older_folder_and_the_next_write_replaces_it(tmp_path):
    path = tmp_path / "folder"
    with whole_folder(path) as part:
        (part / "older").write_text("whole")

    def write():
        with whole_folder(path) as part:
            (part / "newer").write_text("half")
            os.kill(os.getpid(), signal.SIGKILL)

    kill_in_the_middle(write)
    assert [p.name for p in path.iterdir()] == ["older"]
    with whole_folder(path) as part:
        assert not list(part.iterdir())
        (part / "newer").write_text("whole")
    assert [p.name for p in path.iterdir()] == ["newer"]
    assert [p.name for p in tmp_path.iterdir()] == ["folder"]


def test_bytes_are_on_the_disk_before_the_name(tmp_path, monkeypatch):
    path, seen = tmp_path / "file", []
    monkeypatch.setattr(os, "fsync", lambda _: seen.append(path.exists()))
    with open_whole(path) as file:
        file.write(b"x")
    # The file itself under another name, then the folder that names it.
    assert seen == [False, True]


# Sizes at which the error comes up at another place in torch: at the first byte, on closing.
@pytest.mark.parametrize("numbers", [1, 500, 3_000, 100_000])
def test_full_disk_keeps_the_older_checkpoint_and_nothing_else(tmp_path, numbers):
    path = tmp_path / "last.ckpt"
    io = WholeCheckpointIO()
    io.save_checkpoint({"a": torch.ones(2)}, path)
    with file_limit(64), pytest.raises(RunStoppedError, match=rf"cannot write {path}: File too"):
        io.save_checkpoint({"a": torch.zeros(numbers)}, path)
    assert [p.name for p in tmp_path.iterdir()] == ["last.ckpt"]
    assert torch.equal(io.load_checkpoint(path)["a"], torch.ones(2))


def test_full_disk_keeps_the_older_folder_and_names_what_failed(tmp_path):
    path = tmp_path / "adapter"
    with whole_folder(path) as part:
        save_file({"a": torch.ones(2)}, part / "a.safetensors")
    # safetensors hides the system's number in a text.
    large = {"a": torch.zeros(1000)}
    with (
        file_limit(64),
        pytest.raises(OSError, match="File too large") as error,
        whole_folder(path) as part,
    ):
        save_file(large, part / "a.safetensors")
    assert (error.value.errno, error.value.filename) == (errno.EFBIG, str(path))
    assert [p.name for p in tmp_path.iterdir()] == ["adapter"]


def test_other_errors_pass_and_leave_nothing(tmp_path):
    with pytest.raises(KeyError), open_whole(tmp_path / "file"):
        raise KeyError("mine")
    with pytest.raises(KeyError), whole_folder(tmp_path / "folder"):
        raise KeyError("mine")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("kept", [0.0, 0.5, 0.99])
def test_checkpoint_that_is_cut_off_is_refused(tmp_path, kept):
    path = tmp_path / "last.ckpt"
    torch.save({"a": torch.arange(1000)}, path)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(kept * len(whole))])
    with pytest.raises(ValueError, match=r"last\.ckpt is cut off or damaged"):
        WholeCheckpointIO().load_checkpoint(path)


def test_what_no_digest_is_of_is_damage_to_a_reader_and_an_error_to_a_writer(tmp_path):
    path = tmp_path / "last.ckpt"
    sparse = torch.eye(2).to_sparse()
    torch.save({"a": sparse, "tera_pl_digests": {}}, path)
    with pytest.raises(ValueError, match=rf"ckpt_path: {path} is damaged"):
        WholeCheckpointIO().load_checkpoint(path)
    with pytest.raises(
        ValueError, match="checkpoint: a is a PosixPath: expected tensors and plain"
    ):
        WholeCheckpointIO().save_checkpoint({"a": tmp_path}, path)


class Bomb:
    def __reduce__(self):
        return (os.mkdir, ("executed",))


def test_nothing_in_a_checkpoint_is_executed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"a": Bomb()}, "last.ckpt")
    with pytest.raises(ValueError, match="holds more than tensors and plain values"):
        WholeCheckpointIO().load_checkpoint("last.ckpt")
    assert not (tmp_path / "executed").exists()
