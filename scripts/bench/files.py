"""Trees of small files: a first backup, and one of what has not changed."""

import argparse
import os
import pathlib
import random
import shutil
import sys
import time

import measure
import tools
from measure import say

CASES = ["files-first", "files-unchanged"]
FILE_BYTES = 4096
FILES_IN_FOLDER = 100
# Lifeboat believes no times that are younger when a backup begins.
SETTLING_SECONDS = 75


class LifeboatTree(tools.Lifeboat):
    setting = "source kind files, defaults"

    def __init__(self, place: pathlib.Path, tree: pathlib.Path) -> None:
        super().__init__(place, source=f'kind = "files"\npath = "{tree}"')

    def _backup(self, source: pathlib.Path) -> dict:
        return self.daemon()

    def restored(self, tree: pathlib.Path) -> pathlib.Path:
        return self.out


class ResticTree(tools.Restic):
    def __init__(self, place: pathlib.Path, tree: pathlib.Path) -> None:
        super().__init__(place)

    def _backup(self, source: pathlib.Path) -> dict:
        return measure.run([self.name, "-r", self.repository, "backup", source], self.environment)

    def restored(self, tree: pathlib.Path) -> pathlib.Path:
        return self.out / tree.relative_to("/")


class BorgTree(tools.Borg):
    def __init__(self, place: pathlib.Path, tree: pathlib.Path) -> None:
        super().__init__(place)

    def _backup(self, source: pathlib.Path) -> dict:
        self.archives += 1
        line = [self.name, "create", "--compression", "zstd,3", f"{self.repository}::{self.archives}", source]
        return measure.run(line, self.environment)

    def restored(self, tree: pathlib.Path) -> pathlib.Path:
        return self.out / tree.relative_to("/")


def _make(tree: pathlib.Path, count: int) -> None:
    """Half of each file compresses."""
    draw = random.Random(7)
    for number in range(count):
        folder = tree / f"{number // (FILES_IN_FOLDER * 100):03}" / f"{number // FILES_IN_FOLDER % 100:02}"
        folder.mkdir(parents=True, exist_ok=True)
        words = f"file {number} ".encode() * FILE_BYTES
        (folder / f"{number:07}.txt").write_bytes(draw.randbytes(FILE_BYTES // 2) + words[: FILE_BYTES // 2])


def run(place: pathlib.Path, arguments: argparse.Namespace) -> list[dict]:
    count = arguments.kilofiles * 1000
    say(f"{count} files of {FILE_BYTES} bytes")
    tree = place / "tree"
    _make(tree, count)
    os.sync()
    time.sleep(SETTLING_SECONDS)
    kinds = [kind for kind in (LifeboatTree, ResticTree, BorgTree) if kind is LifeboatTree or shutil.which(kind.name)]
    found: dict[str, dict[str, list[dict]]] = {name: {} for name in CASES}
    for number in range(arguments.rounds):
        for kind in tools.in_turn(kinds, number):
            tool = kind(place / f"{kind.name}-{number}", tree)
            for name in CASES:
                found[name].setdefault(kind.name, []).append(tool.backup(tree))
            tool.restore()
            measure.tell("diff", "--recursive", "--no-dereference", tree, tool.restored(tree))
            shutil.rmtree(tool.place)
    shutil.rmtree(tree)
    if not all(figures.get("lifeboat") for figures in found.values()):
        sys.exit("nothing was measured of Lifeboat")
    in_order = {name: {kind.name: figures[kind.name] for kind in kinds} for name, figures in found.items()}
    return [measure.case(name, figures, files=count) for name, figures in in_order.items()]
