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
