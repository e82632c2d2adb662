"""The members of the workspace, read from the root project so that new ones are found by themselves."""

import tomllib
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Member:
    """One dist of the workspace.

    Attributes:
        dist: Name of the dist, such as `megii-xec`.
        module: Import name, such as `megii_xec`.
        version: Version in its `pyproject.toml`.
        folder: Folder of its `pyproject.toml`.
        scripts: Console scripts; empty for the shared dists.
    """

    dist: str
    module: str
    version: str
    folder: Path
    scripts: tuple[str, ...]

    @property
    def source(self) -> Path:
        """Folder of the import package."""
        return self.folder / "src" / self.module

    @property
    def has_quickstart(self) -> bool:
        """Whether the dist ships a `quickstart` preset."""
        return (self.source / "presets" / "quickstart.yaml").exists()


def find_members() -> list[Member]:
    """Read the workspace globs of the root project.

    Returns:
        Every member, in alphabetical order of its folder.
    """
    workspace = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["uv"]["workspace"]
    members = []
    for folder in sorted(folder for pattern in workspace["members"] for folder in ROOT.glob(pattern)):
        project = tomllib.loads((folder / "pyproject.toml").read_text())["project"]
        members.append(
            Member(
                dist=project["name"],
                module=project["name"].replace("-", "_"),
                version=project["version"],
                folder=folder,
                scripts=tuple(project.get("scripts", {})),
            )
        )
    return members


def find_packages() -> list[Member]:
    """Return the physics packages: the members with a command line."""
    return [member for member in find_members() if member.scripts]
