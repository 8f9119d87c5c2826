"""Every call that deletes, replaces or writes is known, with the reason why it is safe.

A new one fails here until it goes through `whole_files`, or is added to the list with its reason.
"""

import ast
from pathlib import Path

ROOT = Path(__file__).parents[2]
# Methods and functions that remove, rename or create something on a disk.
NAMES = {
    *("rmtree", "unlink", "rmdir", "remove", "removedirs", "rename", "renames", "replace", "move"),
    *("truncate", "symlink_to", "hardlink_to", "link", "symlink", "touch", "chmod", "copyfile"),
    *("copy", "copy2", "copytree", "write_text", "write_bytes", "mkdir", "makedirs", "mkdtemp"),
    *("mkstemp", "TemporaryDirectory", "NamedTemporaryFile", "save_pretrained", "savefig"),
    *("savez", "savez_compressed", "save_file", "tofile", "to_csv", "to_json", "push_to_hub"),
    *("open", "fdopen", "save", "dump", "killpg", "kill", "remove_checkpoint", "set_state"),
    *(
        "open_atomically",
        "write_atomically",
        "atomic_folder",
        "claim_folder",
        "mark_new_folder",
        "map",
    ),
}
# What has such a name and no file.
OTHERS = {"map", "pool.map", "to_csv", "tensor.replace"}
IN_OWN_FOLDER = "atomic; into a folder that carries our marker file"
NEW_FOLDER = "fills the new temporary folder of atomic_folder"
READS = "opens to read"
# (file, call): why it touches only what this program made. Counted, so that a second one shows.
ALLOWED = {
    "tera_pl/checkpointing/atomic_writes.py": {
        "part.open": (1, "mode xb: fails if the random name exists"),
        "part.replace": (1, "renames the file that this process made; callers own the folder"),
        "part.unlink": (1, "the file that this process made"),
        "path.parent.mkdir": (2, "exist_ok: makes what is missing"),
        "open_atomically": (1, "in write_atomically"),
        "tempfile.mkdtemp": (1, "unique, made by this process"),
        "new.mkdir": (1, "in the temporary folder"),
        "path.rename": (1, "after check_target; checked again where it then lies, else put back"),
        "new.rename": (1, "the system refuses a target that holds anything"),
        "old.rename": (1, "puts back; the system refuses a target that holds anything"),
        "shutil.rmtree": (1, "the temporary folder of this process, without `old`"),
        "unlink": (1, "files that the marker names as written by this program"),
        "path.rmdir": (1, "empty folders only"),
        "folder.rmdir": (1, "empty folders only"),
        "temporary.rmdir": (1, "empty folders only"),
        "os.open": (1, "read-only, for fsync"),
    },
    "tera_pl/checkpointing/adapter_card.py": {"write_atomically": (1, NEW_FOLDER)},
    "tera_pl/checkpointing/markers.py": {
        "folder.mkdir": (2, "exist_ok: makes what is missing"),
        "open": (1, "mode x: fails if there is a marker"),
    },
    "tera_pl/checkpointing/checkpoint_io.py": {
        "open_atomically": (1, IN_OWN_FOLDER),
        "torch.save": (1, "into the file of open_atomically"),
        "super.remove_checkpoint": (1, "remote storage: Lightning's own"),
        "unlink": (1, "a .ckpt that ModelCheckpoint saved, in its own folder: see BestCheckpoint"),
    },
    "tera_pl/cli/lightning_cli.py": {
        "TemporaryDirectory": (1, "unique, made and removed by this process")
    },
    "tera_pl/benchmarking/hf_trainer.py": {
        "tempfile.TemporaryDirectory": (1, "unique, made and removed by this process"),
        "rows.map": (1, "a dataset: writes to its own cache"),
    },
    "tera_pl/benchmarking/pipeline.py": {
        "atomic_folder": (1, "atomic; replaces what its marker names"),
        "write_atomically": (2, NEW_FOLDER),
    },
    "tera_pl/callbacks/best_adapter.py": {
        "atomic_folder": (1, "atomic; replaces what its marker names, in the run directory"),
        "pl_module.model.save_pretrained": (1, NEW_FOLDER),
        "pl_module.tokenizer.save_pretrained": (1, NEW_FOLDER),
    },
    "tera_pl/callbacks/best_checkpoint.py": {
        "claim_folder": (1, "marks a missing or empty folder"),
    },
    "tera_pl/callbacks/peft_comparison.py": {"write_atomically": (2, IN_OWN_FOLDER)},
    "tera_pl/callbacks/predictions.py": {
        "self._path.parent.mkdir": (1, "exist_ok: makes what is missing"),
        "self._path.open": (1, "appends to the file it began in the run directory"),
    },
    "tera_pl/callbacks/ranks.py": {
        "open_atomically": (1, IN_OWN_FOLDER),
        "np.savez": (1, "into the file of open_atomically"),
        "write_atomically": (1, IN_OWN_FOLDER),
    },
    "tera_pl/callbacks/validations.py": {"write_atomically": (1, IN_OWN_FOLDER)},
    "tera_pl/callbacks/results.py": {"write_atomically": (1, IN_OWN_FOLDER)},
    "tera_pl/checkpointing/run_directory.py": {
        "claim_folder": (1, "marks a run directory that is resumed"),
        "mark_new_folder": (1, "marks a new run directory; fails if it is marked"),
        "path.rename": (1, "an older file of the run, to a name that is free"),
        "self.parser.dump": (1, "to a text"),
        "write_atomically": (1, IN_OWN_FOLDER),
    },
    "tera_pl/adapters/config.py": {"super.save_pretrained": (1, "the caller's folder: PEFT's API")},
    "tera_pl/checkpointing/resume.py": {
        "path.rename": (1, "metrics.csv of a run, to a name that is free"),
        "aside.rename": (1, "puts it back; the logger has removed nothing else"),
    },
    "tera_pl/checkpointing/service_runs.py": {"write_atomically": (1, IN_OWN_FOLDER)},
    "tera_pl/config/yaml_files.py": {"path.open": (1, READS)},
    "tera_pl/reporting/runs.py": {"path.open": (2, READS)},
    "tera_pl/reporting/record_losses.py": {
        "path.open": (1, READS),
        "write_atomically": (1, IN_OWN_FOLDER),
    },
    "tera_pl/reporting/drawing.py": {
        "open_atomically": (1, NEW_FOLDER),
        "figure.savefig": (1, "into the file of open_atomically"),
    },
    "tera_pl/benchmarking/results.py": {
        "atomic_folder": (1, "atomic; replaces what its marker names, with --overwrite"),
        "write_atomically": (2, NEW_FOLDER),
        "save": (1, NEW_FOLDER),
    },
    "tera_pl/export/checkpoint.py": {
        "atomic_folder": (1, "atomic; replaces what its marker names, with --overwrite"),
        "trained.model.save_pretrained": (1, NEW_FOLDER),
        "trained.tokenizer.save_pretrained": (1, NEW_FOLDER),
        "write_atomically": (1, NEW_FOLDER),
    },
    "tera_pl/export/merged_model.py": {"merged.save_pretrained": (1, NEW_FOLDER)},
    "tera_pl/export/model_card.py": {"write_atomically": (1, NEW_FOLDER)},
    "tera_pl/studies/processes.py": {
        "log.open": (1, "appends to a log in the folder of a run of the study"),
        "os.killpg": (1, "a process group that this process started and has not waited for yet"),
    },
    "tera_pl/reporting/report.py": {
        "atomic_folder": (1, "atomic; replaces what its marker names, with --overwrite"),
        "open_atomically": (2, NEW_FOLDER),
        "save": (1, NEW_FOLDER),
    },
    "tera_pl/reporting/text.py": {"write_atomically": (1, NEW_FOLDER)},
    "tera_pl/studies/comparison.py": {
        "claim_folder": (1, "marks a missing or empty folder"),
        "write_atomically": (2, IN_OWN_FOLDER),
    },
    "tera_pl/studies/search.py": {"claim_folder": (1, "marks a missing or empty folder")},
    "tera_pl/studies/runs.py": {
        "dump": (1, "to a text"),
        "claim_folder": (1, "marks a missing or empty folder"),
        "write_atomically": (1, IN_OWN_FOLDER),
        "path.open": (1, READS),
        "os.open": (1, "the marker file, for a lock; nothing is written"),
    },
    "tera_pl/commands/smollm2.py": {
        "atomic_folder": (1, "atomic; refuses a folder that holds anything"),
        "tempfile.TemporaryDirectory": (1, "unique, made by this process"),
        "open": (1, "a new file in that folder"),
        "wheel.open": (1, READS),
        "requirement.write_text": (1, "a new file in that folder"),
        "save_pretrained": (2, NEW_FOLDER),
    },
    "tera_pl/commands/theory.py": {
        "atomic_folder": (1, "atomic; replaces what its marker names, with --overwrite"),
        "open_atomically": (1, NEW_FOLDER),
        "figure.savefig": (1, "into the file of open_atomically"),
    },
    "datamodules/files.py": {"gzip.open": (1, READS), "path.open": (1, READS)},
    "datamodules/tokenization.py": {
        "dataset.map": (1, "the cache file is named by a SHA-256; written aside and renamed"),
        "folder.mkdir": (1, "exist_ok: makes what is missing"),
    },
}


def called(node):
    """The name of a call: `a.b.c` as far as it is made of names."""
    parts, function = [], node.func
    while isinstance(function, ast.Attribute):
        parts.append(function.attr)
        function = function.value
    if isinstance(function, ast.Name):
        parts.append(function.id)
    elif isinstance(function, ast.Call) and isinstance(function.func, ast.Name):
        parts += [function.func.id] if function.func.id == "super" else []
    return ".".join(reversed(parts))


def touches(node):
    name = called(node)
    last = name.rpartition(".")[2]
    if last not in NAMES:
        return False
    # `str.replace` takes two texts, `dataclasses.replace` is no method; a path is renamed to one.
    if last == "replace" and (len(node.args) != 1 or name == last):
        return False
    # Lists have these too.
    if last in {"remove", "copy"}:
        return name.partition(".")[0] in {"os", "shutil"}
    return name not in OTHERS


def calls_of(path):
    found = {}
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and touches(node):
            name = called(node)
            found[name] = found.get(name, 0) + 1
    return found


def test_every_call_that_touches_files_is_on_the_list():
    found = {}
    for package in ("tera_pl", "datamodules"):
        for path in sorted((ROOT / package).rglob("*.py")):
            if calls := calls_of(path):
                found[path.relative_to(ROOT).as_posix()] = calls
    allowed = {
        file: {name: count for name, (count, _) in calls.items()} for file, calls in ALLOWED.items()
    }
    assert found == allowed


def test_a_new_call_is_seen(tmp_path):
    path = tmp_path / "new.py"
    path.write_text(
        "import shutil\nshutil.rmtree(x)\n(a / b).unlink()\nopen(p, 'w')\ny.replace(z)\n"
    )
    assert calls_of(path) == {"shutil.rmtree": 1, "unlink": 1, "open": 1, "y.replace": 1}
