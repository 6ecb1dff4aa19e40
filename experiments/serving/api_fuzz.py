"""Ask a service thousands of requests that schemathesis makes of its OpenAPI description."""

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests"))

import bundles  # noqa: E402
from services import service  # noqa: E402

# any bytes are an image by the schema, which cannot say what a JPEG is
NOT_ASKED = "positive_data_acceptance"


def main() -> None:
    """Exit with 1 if an answer does not fit the description, or too few requests came."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--examples", type=int, default=480, help="of each address, at most")
    parser.add_argument("--least", type=int, default=5000, help="requests that must be made")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    uv = Path(sys.executable).with_name("uv")
    with tempfile.TemporaryDirectory() as place:
        bundle = bundles.write_full(Path(place) / "bundle")
        with service(Path(place), f"bundle={bundle}") as running:
            done = subprocess.run([
                str(uv), "tool", "run", "--from", "schemathesis==4.32.5", "st", "run",
                f"{running.url}/openapi.json", "--max-examples", str(options.examples),
                "--seed", str(options.seed), "--exclude-checks", NOT_ASKED,
            ], cwd=place, env={**os.environ, "PYTHONWARNINGS": "ignore"})  # fmt: skip
            requests = running.events("request")
            alive = running.process.poll() is None and len(running.workers()) == 1
    errors = [line for line in requests if line["status"] >= 500]
    print(f"{len(requests)} requests, {len(errors)} answers with a status of 500 and more")
    if not alive:
        print("the service, or its worker, did not outlive them")
    if len(requests) < options.least:
        print(f"fewer than the {options.least} requests that were wanted: raise --examples")
    sys.exit(bool(done.returncode or errors or not alive or len(requests) < options.least))


if __name__ == "__main__":
    main()
