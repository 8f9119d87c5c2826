"""Writes of files and folders are atomic, after a kill and on a full disk."""

import errno
import os
import re
import resource
import signal
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from tera_pl.checkpointing.atomic_writes import atomic_folder, open_atomically
from tera_pl.checkpointing.checkpoint_io import AtomicCheckpointIO
from tera_pl.checkpointing.markers import claim_folder, mark_new_folder
from tera_pl.errors import RunStoppedError, UserError


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


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def write_folder(path, name="a", **options):
    with atomic_folder(path, "export", **options) as part:
        (part / name).write_text(name)


def test_kill_leaves_the_older_file_and_the_next_write_replaces_it(tmp_path):
    path = tmp_path / "new" / "file"
    with open_atomically(path) as file:
        file.write(b"older")

    def write():
        with open_atomically(path) as file:
            file.write(b"half")
            file.flush()
            os.kill(os.getpid(), signal.SIGKILL)

    kill_in_the_middle(write)
    assert path.read_bytes() == b"older"
    with open_atomically(path) as file:
        file.write(b"newer")
    assert path.read_bytes() == b"newer"
    left = [name for name in names(path.parent) if name != "file"]
    assert [bool(re.fullmatch(r"file\.[0-9a-f]{8}\.part", name)) for name in left] == [True]


def test_names_beside_the_target_are_nobodys_but_the_users(tmp_path):
    for name in ("file.part", "file.old", "out.part", "out.old"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "thesis").write_text("years")
    before = names(tmp_path)
    with open_atomically(tmp_path / "file") as file:
        file.write(b"x")
    write_folder(tmp_path / "out")
    write_folder(tmp_path / "out", replace=True)
    with pytest.raises(KeyError), atomic_folder(tmp_path / "out", "export", replace=True):
        raise KeyError("mine")
    assert names(tmp_path) == sorted([*before, "file", "out"])
    assert all((tmp_path / name / "thesis").read_text() == "years" for name in before)


def test_kill_leaves_the_older_folder_and_the_next_write_replaces_it(tmp_path):
    path = tmp_path / "folder"
    write_folder(path, "older")

    def write():
        with atomic_folder(path, "export", replace=True) as part:
            (part / "newer").write_text("half")
            os.kill(os.getpid(), signal.SIGKILL)

    kill_in_the_middle(write)
    assert names(path) == [".tera_pl", "older"]
    with pytest.warns(UserWarning, match=r"was killed, or is under way. It holds new \(incomplete"):
        write_folder(path, "newer", replace=True)
    assert names(path) == [".tera_pl", "newer"]


def test_kill_between_the_two_renames_loses_nothing(tmp_path, monkeypatch):
    path = tmp_path / "folder"
    write_folder(path, "older")

    def write():
        rename = Path.rename

        def die(self, target):
            if self.name == "new":
                os.kill(os.getpid(), signal.SIGKILL)
            return rename(self, target)

        Path.rename = die
        write_folder(path, "newer", replace=True)

    kill_in_the_middle(write)
    (left,) = tmp_path.iterdir()
    assert (left / "old" / "older").read_text() == "older"
    assert (left / "new" / "newer").read_text() == "newer"
    message = r"new \(complete\) and old \(what was to be replaced\)"
    with pytest.warns(UserWarning, match=message):
        write_folder(path, "third")
    assert names(path) == [".tera_pl", "third"]
    assert left.exists()


def test_what_this_program_did_not_write_is_refused(tmp_path, monkeypatch):
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis").write_text("years")
    (tmp_path / "file").write_text("years")
    (tmp_path / "link").symlink_to(mine)
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    (tmp_path / "forged").mkdir()
    (tmp_path / "forged" / ".tera_pl").write_text("[" * 100_000)
    write_folder(tmp_path / "ours")
    before = names(tmp_path)
    monkeypatch.chdir(mine)
    cases = {
        mine: "was not written by this program as a export|current folder",
        tmp_path / "file": "is not a folder",
        tmp_path / "link": "is a symbolic link",
        tmp_path / "dangling": "is a symbolic link",
        tmp_path / "forged": "was not written by this program",
        tmp_path / "file" / "x": "cannot write .*: .*file is not a folder",
        Path(): "current folder",
        Path(".."): "current folder or holds it",
        Path("/"): "current folder or holds it|not empty",
    }
    for path, message in cases.items():
        with pytest.raises(UserError, match=message):
            write_folder(path, replace=True)
    with pytest.raises(UserError, match="not empty: choose another folder, or --overwrite"):
        write_folder(tmp_path / "ours")
    with (
        pytest.raises(UserError, match="not written by this program as a report"),
        atomic_folder(tmp_path / "ours", "report", replace=True),
    ):
        pass
    assert names(tmp_path) == before
    assert names(mine) == ["thesis"]


def test_a_file_that_was_added_to_our_folder_stays(tmp_path):
    path = tmp_path / "out"
    write_folder(path)
    (path / "sub").mkdir()
    (path / "sub" / "notes").write_text("mine")
    with pytest.raises(UserError, match="holds sub/notes, which this program did not write"):
        write_folder(path, replace=True)
    (path / "sub" / "notes").unlink()

    # Added while the new folder is written: seen after the old one was moved, which goes back.
    def write():
        with atomic_folder(path, "export", replace=True) as part:
            (part / "b").write_text("b")
            (path / "late").write_text("mine")

    with pytest.raises(UserError, match="holds late, which this program did not write"):
        write()
    assert (path / "late").read_text() == "mine"
    assert (path / "a").read_text() == "a"
    assert names(tmp_path) == ["out"]


def test_of_two_that_write_the_same_folder_one_is_refused(tmp_path):
    path = tmp_path / "out"

    def write():
        with atomic_folder(path, "export") as part:
            (part / "second").write_text("x")
            with pytest.warns(UserWarning, match="is under way"):
                write_folder(path, "first")

    with pytest.raises(UserError, match="something was put there meanwhile: it stays"):
        write()
    assert names(path) == [".tera_pl", "first"]
    assert names(tmp_path) == ["out"]


def test_an_empty_folder_is_filled_and_has_the_usual_permissions(tmp_path):
    (tmp_path / "out").mkdir()
    expected = (tmp_path / "out").stat().st_mode
    write_folder(tmp_path / "out")
    assert (tmp_path / "out").stat().st_mode == expected
    with open_atomically(tmp_path / "file") as file:
        file.write(b"x")
    (tmp_path / "usual").touch()
    assert (tmp_path / "file").stat().st_mode == (tmp_path / "usual").stat().st_mode


def test_a_folder_that_takes_no_files_is_one_line(tmp_path, monkeypatch):
    def refuse(*args, **kwargs):
        raise PermissionError(errno.EACCES, "Permission denied", "x")

    # Root may write everywhere: the system's answer to anybody else.
    monkeypatch.setattr(Path, "open", refuse)
    monkeypatch.setattr("tera_pl.checkpointing.atomic_writes.tempfile.mkdtemp", refuse)
    with pytest.raises(UserError, match=r"cannot write .*out: Permission denied"):
        write_folder(tmp_path / "out")
    with pytest.raises(UserError, match=r"cannot write .*file: Permission denied"):
        open_atomically(tmp_path / "file").__enter__()


def test_a_claim_is_for_new_and_own_folders(tmp_path, monkeypatch):
    assert claim_folder(tmp_path / "a", "run")
    assert not claim_folder(tmp_path / "a", "run")
    with pytest.raises(UserError, match="holds a run already"):
        mark_new_folder(tmp_path / "a", "run")
    with pytest.raises(UserError, match="was not written as a study"):
        claim_folder(tmp_path / "a", "study")
    monkeypatch.chdir(tmp_path / "a")
    with pytest.raises(UserError, match="the current folder cannot be a study"):
        claim_folder(Path(), "study")


def test_bytes_are_on_the_disk_before_the_name(tmp_path, monkeypatch):
    path, seen = tmp_path / "file", []
    monkeypatch.setattr(os, "fsync", lambda _: seen.append(path.exists()))
    with open_atomically(path) as file:
        file.write(b"x")
    # The file itself under another name, then the folder that names it.
    assert seen == [False, True]


# Sizes at which the error comes up at another place in torch: at the first byte, on closing.
@pytest.mark.parametrize("length", [1, 500, 3_000, 100_000])
def test_full_disk_keeps_the_older_checkpoint_and_nothing_else(tmp_path, length):
    path = tmp_path / "last.ckpt"
    io = AtomicCheckpointIO()
    io.save_checkpoint({"a": torch.ones(2)}, path)
    with file_limit(64), pytest.raises(RunStoppedError, match=rf"cannot write {path}: File too"):
        io.save_checkpoint({"a": torch.zeros(length)}, path)
    assert [p.name for p in tmp_path.iterdir()] == ["last.ckpt"]
    assert torch.equal(io.load_checkpoint(path)["a"], torch.ones(2))


def test_full_disk_keeps_the_older_folder_and_names_what_failed(tmp_path):
    path = tmp_path / "adapter"
    with atomic_folder(path, "export", replace=True) as part:
        save_file({"a": torch.ones(2)}, part / "a.safetensors")
    # safetensors hides the system's number in a text.
    large = {"a": torch.zeros(1000)}
    with (
        file_limit(64),
        pytest.raises(OSError, match="File too large") as error,
        atomic_folder(path, "export", replace=True) as part,
    ):
        save_file(large, part / "a.safetensors")
    assert (error.value.errno, error.value.filename) == (errno.EFBIG, str(path))
    assert [p.name for p in tmp_path.iterdir()] == ["adapter"]


def test_other_errors_pass_and_leave_nothing(tmp_path):
    with pytest.raises(KeyError), open_atomically(tmp_path / "file"):
        raise KeyError("mine")
    with pytest.raises(KeyError), atomic_folder(tmp_path / "folder", "export"):
        raise KeyError("mine")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("kept", [0.0, 0.5, 0.99])
def test_checkpoint_that_is_cut_off_is_refused(tmp_path, kept):
    path = tmp_path / "last.ckpt"
    torch.save({"a": torch.arange(1000)}, path)
    intact = path.read_bytes()
    path.write_bytes(intact[: int(kept * len(intact))])
    with pytest.raises(ValueError, match=r"last\.ckpt is cut off or damaged"):
        AtomicCheckpointIO().load_checkpoint(path)


def test_what_no_digest_is_of_is_damage_to_a_reader_and_an_error_to_a_writer(tmp_path):
    path = tmp_path / "last.ckpt"
    sparse = torch.eye(2).to_sparse()
    torch.save({"a": sparse, "tera_pl_digests": {}}, path)
    with pytest.raises(ValueError, match=rf"ckpt_path: {path} is damaged"):
        AtomicCheckpointIO().load_checkpoint(path)
    with pytest.raises(
        ValueError, match="checkpoint: a is a PosixPath: expected tensors and plain"
    ):
        AtomicCheckpointIO().save_checkpoint({"a": tmp_path}, path)


class Bomb:
    def __reduce__(self):
        return (os.mkdir, ("executed",))


def test_nothing_in_a_checkpoint_is_executed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"a": Bomb()}, "last.ckpt")
    with pytest.raises(ValueError, match="holds more than tensors and plain values"):
        AtomicCheckpointIO().load_checkpoint("last.ckpt")
    assert not (tmp_path / "executed").exists()
