"""The tree under check: which files it has, what they say, which crates it is made of.

Every check takes a `Tree` and returns its findings with one line that says what it looked at. A
tree in git is what git tracks or would track; another one (a tarball, a self-test) is every file
but what is built or fetched.
"""

import dataclasses
import functools
import pathlib
import subprocess
import tomllib

BUILT = {".git", ".tools", "__pycache__", "artifacts", "target"}


@dataclasses.dataclass(frozen=True, order=True)
class Finding:
    """One thing that is wrong, and where."""

    path: str
    line: int
    problem: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.problem}"


class Tree:
    """Files by their path from the root, with `/`."""

    def __init__(self, root: pathlib.Path):
        self.root = root

    @functools.cached_property
    def paths(self) -> list[str]:
        """All files, sorted."""
        if (self.root / ".git").exists():
            command = ["git", "-C", str(self.root), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
            listed = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split("\0")
            return sorted({path for path in listed if path and (self.root / path).is_file()})
        found = (path.relative_to(self.root) for path in self.root.rglob("*") if path.is_file())
        return sorted(path.as_posix() for path in found if not BUILT & set(path.parts))

    def ending(self, *suffixes: str) -> list[str]:
        """Files whose name ends so."""
        return [path for path in self.paths if path.endswith(suffixes)]

    def below(self, folder: str, suffix: str = "") -> list[str]:
        """Files in a folder and below it."""
        return [path for path in self.paths if path.startswith(f"{folder}/") and path.endswith(suffix)]

    @functools.cache  # noqa: B019 - one tree lives as long as the program
    def read(self, path: str) -> str:
        """What a file says; what is no text becomes signs of replacement."""
        return (self.root / path).read_text(encoding="utf-8", errors="replace")

    @functools.cached_property
    def members(self) -> list[str]:
        """The folders of the workspace's crates."""
        members = tomllib.loads(self.read("Cargo.toml"))["workspace"]["members"]
        folders = [path.relative_to(self.root) for member in members for path in sorted(self.root.glob(member))]
        return [folder.as_posix() for folder in folders]


def line_of(text: str, offset: int) -> int:
    """The line, from 1, of an offset."""
    return text.count("\n", 0, offset) + 1
