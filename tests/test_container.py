"""What the container is made of: linted where no engine runs, and the versions that are tested."""

import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import bundles
import pytest
import yaml
from conftest import ROOT

NAMES = re.compile(r"^([A-Za-z0-9._-]+)==(\S+)", re.MULTILINE)


def locked(name: str) -> set[tuple[str, str]]:
    return set(NAMES.findall((ROOT / name).read_text("utf-8")))


def test_the_container_gets_versions_that_are_tested() -> None:
    assert locked("requirements-serve.lock") <= locked("requirements.lock")
    assert "torch" not in {name for name, _ in locked("requirements-serve.lock")}


def test_tools_of_the_documentation_share_versions() -> None:
    tested = dict(locked("requirements.lock"))
    documentation = locked("requirements-docs.lock")
    assert "mkdocs-material" in dict(documentation)
    shared = {pair for pair in documentation if pair[0] in tested}
    assert shared <= locked("requirements.lock")
    assert "://" not in (ROOT / "requirements-docs.lock").read_text("utf-8")


def test_the_service_imports_nothing_else(tmp_path: Path) -> None:
    bundle = bundles.write(tmp_path / "bundle")
    code = f"""
import json, sys
import signlang.serve, signlang.server.processes, signlang.hydra_app, hydra, uvicorn
from signlang.server.app import create_app
from signlang.server.config import checked_config
from signlang.server.registry import load_models
options = checked_config({{"bundle": {str(bundle)!r}}})
create_app(load_models(options), options)
print(json.dumps(sorted({{name.partition(".")[0] for name in sys.modules}})))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    owners = importlib.metadata.packages_distributions()
    used = {owners[name][0].lower().replace("_", "-") for name in json.loads(done.stdout)
            if name in owners}  # fmt: skip
    installed = {name for name, _ in locked("requirements-serve.lock")}
    # setuptools hooks into every start of Python; rich knows attrs where that is installed
    assert used - {"signlang", "setuptools", "attrs"} <= installed


def test_the_image_is_as_it_should_be() -> None:
    lines = (ROOT / "Dockerfile").read_text("utf-8")
    last = lines[lines.rindex("\nFROM ") :]
    assert re.search(r"^USER [1-9]\d*:[1-9]\d*$", last, re.MULTILINE)  # not root
    assert "-slim" in last
    assert 'ENTRYPOINT ["python", "-m", "signlang.serve"' in last
    service = yaml.safe_load((ROOT / "compose.yaml").read_text("utf-8"))["services"]["signlang"]
    assert service["read_only"] is True
    assert service["ports"] == ["127.0.0.1:8000:8000"]
    assert service["cap_drop"] == ["ALL"]


@pytest.mark.parametrize(
    ("linter", "file"), [("hadolint", "Dockerfile"), ("compose-lint", "compose.yaml")]
)
def test_linters_find_nothing(linter: str, file: str) -> None:
    beside = Path(sys.executable).parent
    found = shutil.which(linter, path=f"{beside}{os.pathsep}{os.environ['PATH']}")
    if found is None:
        pytest.skip(f"no {linter} for this platform")
    done = subprocess.run([found, str(ROOT / file)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_every_lock_is_audited_and_no_package_is_passed_over() -> None:
    """`pip-audit` itself calls packages safe that its database does not know."""
    done = subprocess.run(["make", "-n", "audit"], cwd=ROOT, capture_output=True, text=True)
    assert "for lock in requirements*.lock;" in done.stdout
    assert "--strict" in done.stdout
    assert len(list(ROOT.glob("requirements*.lock"))) == 3
    workflow = yaml.safe_load((ROOT / ".github/workflows/audit.yml").read_text("utf-8"))
    assert any("make audit" in step.get("run", "") for step in
               workflow["jobs"]["vulnerabilities"]["steps"])  # fmt: skip


IMAGES = {"node:24-trixie-slim": "1", "python:3.11-slim-trixie": "2"}


@pytest.mark.parametrize("is_reached", [True, False])
def test_base_images_are_pinned_all_or_none(tmp_path: Path, is_reached: bool) -> None:
    """`docker` is a script here: no registry is reached by tests."""
    for name in ("Makefile", "Dockerfile"):
        shutil.copy(ROOT / name, tmp_path)
    before = (tmp_path / "Dockerfile").read_text("utf-8")
    script = tmp_path / "bin" / "docker"
    script.parent.mkdir()
    cases = "\n".join(f"{name}) echo sha256:{digit * 64};;" for name, digit in IMAGES.items()
                      if is_reached or digit == "1")  # fmt: skip
    script.write_text(f"#!/bin/sh\ncase $4 in\n{cases}\n*) exit 1;;\nesac\n")
    script.chmod(0o755)
    path = f"{script.parent}{os.pathsep}{os.environ['PATH']}"
    for _ in range(2):  # a second time renews them
        done = subprocess.run(
            ["make", "-s", "pin-images"], cwd=tmp_path, env={**os.environ, "PATH": path},
            capture_output=True, text=True,
        )  # fmt: skip
        after = (tmp_path / "Dockerfile").read_text("utf-8")
        assert (done.returncode == 0) == is_reached, done.stderr
        expected = before
        for name, digit in IMAGES.items():
            expected = expected.replace(f"FROM {name}", f"FROM {name}@sha256:{digit * 64}")
        assert after == (expected if is_reached else before)
    assert {file.name for file in tmp_path.iterdir()} == {"Makefile", "Dockerfile", "bin"}
