"""The five packages read alike: same rooms, same verbs, same options, same manners."""

import re
import subprocess
import sys
import tomllib

import pytest

from workspace import ROOT, Member, find_packages

PACKAGES = find_packages()
for_each_package = pytest.mark.parametrize("package", PACKAGES, ids=[package.dist for package in PACKAGES])

ROOMS = {
    *(
        "__init__.py",
        "py.typed",
        "config.py",
        "presets",
        "physics",
        "data",
        "models",
        "tasks",
        "cli.py",
        "templates",
    ),
    *("losses.py", "metrics.py", "metrics", "statistics.py", "plots.py", "event_display.py"),
    *("simulate.py", "train.py", "evaluate.py", "predict.py", "export.py", "bench.py", "report.py"),
}
# What a package's own verbs need beside the rooms of all; the import contract gives each of them its floor.
OWN_ROOMS = {
    "chhiggs-pnet": {"compare.py", "heatmap.py", "prepare.py", "tune.py"},
    "fourtop-tokens": {"comparison.py", "ensemble.py"},
    "lhcb-extrap": {"compare.py", "levenberg_marquardt.py"},
    "megii-xec": {
        *("compare.py", "evaluate_hidden.py", "event_page.py", "figures.py", "saliency.py", "uncertainty.py"),
    },
}
VERBS = {
    "simulate": {"--preset", "--out", "--num-events", "--seed"},
    "train": {"--preset", "--config", "--set", "--out", "--resume", "--device"},
    "evaluate": {"--run", "--split"},
    "predict": {"--run", "--input", "--output"},
    "export": {"--run", "--out"},
    "bench": {"--json"},
    "report": {"--out"},
}


def run_cli(package: Member, *args: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", f"{package.module}.cli", *args]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def test_the_workspace_has_packages() -> None:
    assert PACKAGES


@for_each_package
def test_rooms_have_their_names(package: Member) -> None:
    found = {path.name for path in package.source.iterdir() if path.name != "__pycache__"}
    help_text = run_cli(package, "--help").stdout
    verbs = {f"{verb.replace('-', '_')}.py" for verb in re.findall(r"[a-z][a-z-]+", help_text)}
    unknown = found - ROOMS - OWN_ROOMS.get(package.dist, set()) - verbs
    assert not unknown, f"{package.dist} has rooms no other package has: {sorted(unknown)}"
    assert {"config.py", "presets", "physics", "data", "models", "tasks", "train.py", "cli.py"} <= found


@for_each_package
def test_every_dist_has_its_papers(package: Member) -> None:
    for name in ("README.md", "CHANGELOG.md", "LICENSE", "pyproject.toml"):
        assert (package.folder / name).stat().st_size > 0, name
    assert (package.source / "presets" / "quickstart.yaml").exists()


@for_each_package
def test_cli_verbs_and_options(package: Member) -> None:
    for verb, options in VERBS.items():
        completed = run_cli(package, verb, "--help")
        assert completed.returncode == 0, completed.stderr
        found = set(re.findall(r"--[a-z][a-z-]*", completed.stdout))
        assert options <= found, f"{package.scripts[0]} {verb} lacks {sorted(options - found)}"


@for_each_package
def test_help_does_not_import_torch(package: Member) -> None:
    code = (
        f"import sys, {package.module}.cli; sys.exit('torch' in sys.modules or 'matplotlib' in sys.modules)"
    )
    completed = subprocess.run([sys.executable, "-c", code], check=False, timeout=60)
    assert completed.returncode == 0


@for_each_package
def test_public_names_are_few(package: Member) -> None:
    code = f"import {package.module} as m; print(m.__version__, sum(n[0] != '_' for n in vars(m)))"
    command = [sys.executable, "-c", code]
    completed = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    version, count = completed.stdout.split()
    assert version == package.version
    assert int(count) <= 12


@for_each_package
def test_packages_do_not_know_each_other(package: Member) -> None:
    others = [other.module for other in PACKAGES if other.module != package.module]
    for path in package.source.rglob("*.py"):
        imports = re.findall(r"^\s*(?:from|import) (\w+)", path.read_text(), flags=re.MULTILINE)
        assert not set(imports) & set(others), path


def tracked_text_files() -> list[str]:
    completed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if completed.returncode != 0:
        pytest.skip("not a git checkout")
    return [name for name in completed.stdout.split("\0") if name]


def test_the_repository_carries_no_lock_and_no_large_file() -> None:
    names = tracked_text_files()
    assert "uv.lock" not in names
    for name in names:
        path = ROOT / name
        if path.exists():
            assert path.stat().st_size < 1_000_000, f"{name} is too large for the repository"


@for_each_package
def test_every_workspace_member_is_in_the_contract(package: Member) -> None:
    root = tomllib.loads((ROOT / "pyproject.toml").read_text())
    linter = root["tool"]["importlinter"]
    assert package.module in linter["root_packages"]
    assert package.module in linter["contracts"][0]["containers"]
    assert package.dist in root["project"]["dependencies"]
    assert f"packages/{package.dist}/tests" in root["tool"]["pytest"]["testpaths"]
