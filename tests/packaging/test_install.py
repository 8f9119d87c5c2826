"""The locks hold what every machine needs and nothing else: no package or hash is missing."""

import importlib.metadata
import json
import re
import tomllib
from functools import cache
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from tests.conftest import ROOT
from tests.packaging.public_metadata import PATH

# What cannot be installed on every machine, as pip's report told it.
PUBLIC = json.loads(PATH.read_text())
BUILDS = {"cuda": "requirements-cuda.lock", "cpu": "requirements-cpu.lock"}
LOCKS = ["requirements.lock", "requirements-docstrings.lock", *BUILDS.values()]
MACHINES = {
    "linux": {"sys_platform": "linux", "platform_system": "Linux", "platform_machine": "x86_64"},
    "arm": {"sys_platform": "linux", "platform_system": "Linux", "platform_machine": "aarch64"},
    "mac": {"sys_platform": "darwin", "platform_system": "Darwin", "platform_machine": "arm64"},
}
CUDA = re.compile(r"triton|(nvidia|cuda)-.+")


@cache
def entries(name: str) -> list[tuple[Requirement, int]]:
    """Every requirement of a lock, and how many hashes it has."""
    text = re.sub(r"^ *#.*\n", "", (ROOT / name).read_text(), flags=re.MULTILINE)
    found = []
    for line in text.replace("\\\n", " ").splitlines():
        requirement, *hashes = line.split("--hash=sha256:")
        assert all(re.fullmatch("[0-9a-f]{64}", value.strip()) for value in hashes)
        found.append((Requirement(requirement.strip()), len(hashes)))
    return found


def environment(machine: str, python: str) -> dict[str, str]:
    common = {"os_name": "posix", "implementation_name": "cpython", "extra": ""}
    common |= {"python_version": python, "python_full_version": f"{python}.0"}
    return common | MACHINES[machine] | {"platform_python_implementation": "CPython"}


def locked(names: list[str], where: dict[str, str]) -> dict[str, str]:
    """Versions by name of what the locks install on a machine."""
    versions = {}
    for requirement, _ in (entry for name in names for entry in entries(name)):
        if requirement.marker is None or requirement.marker.evaluate(where):
            (specifier,) = requirement.specifier
            assert specifier.operator == "=="
            assert versions.setdefault(requirement.name, specifier.version) == specifier.version
    return versions


@cache
def requirements(name: str, version: str) -> list[Requirement]:
    """Requires-Dist of a locked package, from the environment or from what `make lock` kept."""
    if name in PUBLIC and Version(PUBLIC[name]["version"]) == Version(version):
        lines = PUBLIC[name]["requires_dist"]
    else:
        found = importlib.metadata.distribution(name)
        if Version(found.version) != Version(version):
            pytest.skip(f"{name} {version} is not installed here")
        lines = found.requires or []
    return [Requirement(line) for line in lines]


def own_requirements(group: str) -> list[Requirement]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    lines = project["dependency-groups"][group]
    if group == "dev":
        extras = project["project"]["optional-dependencies"]
        lines = sum((extras[name] for name in extras.keys() - {"all"}), lines)
        lines = lines + project["project"]["dependencies"]
    return [Requirement(line) for line in lines]


def assert_closed(wanted: list[Requirement], versions: dict[str, str], where: dict) -> None:
    """Everything wanted is locked in a version that is wanted, and nothing more is."""
    seen = set()
    while wanted:
        requirement = wanted.pop()
        name = canonicalize_name(requirement.name)
        assert name in versions, f"{requirement} is not in the lock"
        assert requirement.specifier.contains(versions[name], prereleases=True), requirement
        for extra in ["", *requirement.extras]:
            if (name, extra) not in seen:
                seen.add((name, extra))
                wanted += [
                    inner
                    for inner in requirements(name, versions[name])
                    if inner.marker is None or inner.marker.evaluate(where | {"extra": extra})
                ]
    assert {name for name, _ in seen} == versions.keys()


@pytest.mark.parametrize("python", ["3.11", "3.12", "3.13", "3.14"])
@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize("build", BUILDS)
def test_lock_is_what_its_packages_require(build, machine, python):
    where = environment(machine, python)
    versions = locked(["requirements.lock", BUILDS[build]], where)
    assert_closed(own_requirements("dev"), versions, where)
    cuda = {name for name in versions if CUDA.fullmatch(name)}
    if build == "cuda" and machine != "mac":
        assert {"cuda-toolkit", "nvidia-cudnn-cu13", "nvidia-nccl-cu13", "triton"} <= cuda
    else:
        assert not cuda


def test_lock_of_pydoclint_is_what_it_requires():
    where = environment("linux", "3.11")
    docstrings = own_requirements("docstrings")
    versions = locked(["requirements-docstrings.lock"], where)
    assert {requirement.name for requirement in docstrings} < versions.keys()
    assert "docstring-parser" not in versions


@pytest.mark.parametrize("name", LOCKS)
def test_every_package_has_hashes_and_no_address(name):
    found = entries(name)
    assert found
    assert all(number for _, number in found)
    assert "://" not in (ROOT / name).read_text()


def test_both_builds_are_of_one_version():
    (cuda,) = {v for r, _ in entries(BUILDS["cuda"]) if r.name == "torch" for v in r.specifier}
    cpu = {specifier.version for r, _ in entries(BUILDS["cpu"]) for specifier in r.specifier}
    assert cpu == {cuda.version, f"{cuda.version}+cpu"}
    mac = {r.name for r, _ in entries("requirements.lock") if "darwin" in str(r.marker)}
    assert set(PUBLIC) == mac | {r.name for r, _ in entries(BUILDS["cuda"])}


def test_nothing_is_downloaded_but_by_make_venv():
    """Tests need no network: what they look for is in the environment."""
    from tests.peft_suite.fetch import FOLDER, locked_requirement

    assert (FOLDER / "peft_tests" / "testing_common.py").is_file()
    assert locked_requirement("peft").count("--hash") == 2  # wheel and sdist
    assert Path(FOLDER).name == importlib.metadata.version("peft")
