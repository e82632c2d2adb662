"""Build the wheel of every dist and use it as a stranger would.

For each member of the workspace: build its wheel, then, in one clean virtual environment that knows nothing
of the source tree, install all wheels and run every console script's `--help` and, where the package ships a
`quickstart` preset, `train --preset quickstart`. New packages are found by themselves.

    uv run python tools/check_wheels.py [--keep DIR] [--only DIST] [--skip-training]
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from workspace import ROOT, find_members


def run(command: list[str], **options: object) -> None:
    """Run a command, echo it with its duration, and stop at the first failure."""
    start = time.perf_counter()
    completed = subprocess.run(command, text=True, **options)  # type: ignore[call-overload]
    print(f"{time.perf_counter() - start:7.1f} s  {' '.join(command)}", flush=True)
    if completed.returncode != 0:
        sys.exit(f"check_wheels: '{' '.join(command)}' ended with exit code {completed.returncode}")


def main() -> None:
    """Build, install, run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--keep", type=Path, help="work in this folder and keep it")
    parser.add_argument("--only", help="run the console scripts of this dist only")
    parser.add_argument("--skip-training", action="store_true", help="stop after --help")
    options = parser.parse_args()

    members = find_members()
    with tempfile.TemporaryDirectory(prefix="check-wheels-") as scratch:
        work = (options.keep or Path(scratch)).resolve()
        wheels, venv = work / "wheels", work / "venv"
        for member in members:
            # --no-sources: resolve as a registry user would, never from the workspace beside it.
            run(["uv", "build", "--wheel", "--no-sources", "--out-dir", str(wheels), str(member.folder)])
        run(["uv", "venv", "--python", f"{sys.version_info.major}.{sys.version_info.minor}", str(venv)])
        run(
            ["uv", "pip", "install", "--python", str(venv / "bin" / "python"), "--find-links", str(wheels)]
            + [str(wheel) for wheel in sorted(wheels.glob("*.whl"))],
            cwd=ROOT,  # exclude-newer of the root project applies
        )
        environment = {k: v for k, v in os.environ.items() if k not in {"PYTHONPATH", "VIRTUAL_ENV"}}
        for member in members:
            if options.only and member.dist != options.only:
                continue
            for script in member.scripts:
                program = str(venv / "bin" / script)
                run([program, "--help"], cwd=work, env=environment, stdout=subprocess.DEVNULL)
                if member.has_quickstart and not options.skip_training:
                    out = str(work / f"run-{script}")
                    run([program, "train", "--preset", "quickstart", "--out", out], cwd=work, env=environment)
    print(f"check_wheels: {len(members)} wheels built, installed and used")


if __name__ == "__main__":
    main()
