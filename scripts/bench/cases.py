"""Backups and restores of one stream: first, unchanged, appended, edited, after thirty increments; and very long ones."""

import argparse
import hashlib
import json
import os
import pathlib
import shutil
import subprocess
import sys

import measure
import tools
from measure import say

BACKUPS = ["first", "unchanged", "append-5pct", "block-change", "restore-fresh"]
INCREMENTS = ["restore-after-30"]
LONG = ["stream-8g", "restore-8g"]
# The newest of many snapshots is restored this often in each round: one restore takes a second or
# two, too little to stand for all.
RESTORES = 3


def make(path: pathlib.Path, mib: int, edits: str = "") -> pathlib.Path:
    with open(path, "wb") as out:
        done = subprocess.run([tools.PARTS, "data", str(mib), edits], check=False, stdout=out, stderr=subprocess.PIPE, text=True)
    if done.returncode != 0:
        sys.exit(f"bench-parts data: {done.stderr}")
    return path


def digest(path: pathlib.Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class Limit:
    """Seconds that the machine needs at least: the stages' time, each measured alone on one thread, over the cores. Of the rounds
    the best counts, as it is a limit."""

    def __init__(self, source: pathlib.Path, place: pathlib.Path) -> None:
        self.source, self.place, self.length = source, place, source.stat().st_size
        self.found: list[dict] = []

    def look(self) -> None:
        said = measure.run([tools.PARTS, "stages", self.source, "auto", self.place])["output"]
        (self.place / "restored").unlink()
        self.found.append(json.loads(said))

    def seconds(self, stages: str, length: int) -> float:
        """`stages` is `first`, `unchanged` or `restore`; for `length` bytes of this kind."""
        cores = len(os.sched_getaffinity(0))
        return min(found[stages] for found in self.found) / cores * length / self.length

    def stages(self) -> dict[str, float]:
        return {name: min(found["stages"][name] for found in self.found) for name in self.found[0]["stages"]}


def first_version(place: pathlib.Path, arguments: argparse.Namespace) -> pathlib.Path:
    if not arguments.file:
        return make(place / "first", arguments.mib)
    # Beside the rest, so that it can be linked.
    return pathlib.Path(shutil.copyfile(arguments.file, place / "first"))


def backups(place: pathlib.Path, arguments: argparse.Namespace) -> list[dict]:
    """Every tool in turn, round by round, so that a slow minute of the machine strikes all."""
    mib = arguments.mib
    say(f"{mib} MiB: " + ", ".join(name for name in BACKUPS if name in arguments.case))
    first = first_version(place, arguments)
    wanted, changed = digest(first), {}
    if "append-5pct" in arguments.case and not arguments.file:
        changed["append-5pct"] = make(place / "appended", mib, f"append={max(mib // 20, 1)}")
    if "block-change" in arguments.case and not arguments.file:
        # A block of rows goes, another one comes, far from each other.
        edits = f"delete={mib * 1000}:{mib * 20},insert={mib * 6000}:{mib * 20}"
        changed["block-change"] = make(place / "edited", mib, edits)
    found: dict[str, dict[str, list[dict]]] = {name: {} for name in BACKUPS}
    kinds = tools.peers() if tools.BEFORE else [*tools.peers(), tools.Chunks]
    limit = Limit(first, place)
    for number in range(arguments.rounds):
        limit.look()
        for kind in tools.in_turn(kinds, number):
            tool = kind(place / f"{kind.name.replace('|', '-')}-{number}")
            steps = [("first", tool.backup, first), ("unchanged", tool.backup, first), ("restore-fresh", tool.restore, None)]
            if kind is tools.Chunks:
                steps = steps[:2]
            elif kind is not tools.Pipe:
                # The pipe knows no increments: its first backup says it all.
                steps += [(name, tool.backup, version) for name, version in changed.items()]
            for name, step, version in steps:
                if name != "first" and name not in arguments.case:
                    continue
                found[name].setdefault(kind.name, []).append(step(version) if version else step())
                if name == "restore-fresh" and digest(tool.restored()) != wanted:
                    sys.exit(f"{kind.name} restored something else")
                shutil.rmtree(tool.out, ignore_errors=True)
            shutil.rmtree(tool.place)
    results = []
    for name, figures in found.items():
        if figures:
            # Of a change, only what every byte needs is counted: so the limit is a little too low.
            stages = {"first": "first", "restore-fresh": "restore"}.get(name, "unchanged")
            length = changed.get(name, first).stat().st_size
            ordered = {kind.name: figures[kind.name] for kind in tools.peers() if kind.name in figures}
            results.append(measure.case(name, ordered, limit.seconds(stages, length), **_beside_chunks(figures)))
    results[0]["limit_stages"] = limit.stages()
    return results


def _beside_chunks(figures: dict[str, list[dict]]) -> dict[str, float]:
    """What it costs to look for rows, too."""
    if tools.Chunks.name not in figures:
        return {}
    seconds = measure.medians(figures[tools.Chunks.name])["seconds"]
    return {"chunks_seconds": seconds, "speed_of_chunks": seconds / measure.medians(figures[tools.Lifeboat.name])["seconds"]}


def restore_each(used: dict[str, tools.Tool], number: int, wanted: str, found: dict[str, list[dict]]) -> None:
    """One restore by each, in turn, compared with what went in."""
    for name in tools.in_turn(list(used), number):
        found.setdefault(name, []).append(used[name].restore())
        if digest(used[name].restored()) != wanted:
            sys.exit(f"{name} restored something else")
        shutil.rmtree(used[name].out)


def increments(place: pathlib.Path, arguments: argparse.Namespace) -> list[dict]:
    """Thirty snapshots, each with another block of rows missing and some appended; then the newest is restored, beside a vault
    that holds nothing but these bytes."""
    mib = arguments.mib
    say(f"{mib} MiB: thirty increments, restored")
    kinds = [kind for kind in tools.peers() if kind is not tools.Pipe]
    used = {kind.name: kind(place / f"increments-{kind.name}") for kind in kinds}
    version = place / "version"
    for number in range(31):
        make(version, mib, f"delete={mib * 300 * number + 7}:{mib * 8},append={number * mib // 200}")
        with measure.unmeasured():
            for tool in used.values():
                tool.backup(version)
    fresh = tools.Lifeboat(place / "increments-fresh")
    fresh.backup(version)
    wanted, found, everybody = digest(version), {}, {**used, "fresh": fresh}
    limit = Limit(version, place)
    for number in range(RESTORES * arguments.rounds):
        if number % RESTORES == 0:
            limit.look()
        restore_each(everybody, number, wanted, found)
    stored = {name: tools.size(tool.repository) for name, tool in used.items()}
    for tool in everybody.values():
        shutil.rmtree(tool.place)
    figures = {name: [{**result, "stored_bytes": stored[name]} for result in found[name]] for name in used}
    also = {"fresh_seconds": measure.medians(found["fresh"])["seconds"]}
    also["speed_of_fresh"] = also["fresh_seconds"] / measure.medians(found["lifeboat"])["seconds"]
    return [measure.case("restore-after-30", figures, limit.seconds("restore", limit.length), **also)]


def long_streams(place: pathlib.Path, arguments: argparse.Namespace) -> list[dict]:
    """Memory: a long stream, both ways, with one replica (the case's figures) and with two. Once: it is not about speed."""
    gib = arguments.gib
    say(f"{gib} GiB: memory of backup and restore, one and two replicas")
    source = make(place / "long", gib << 10)
    limit, backup, restore = Limit(source, place), [], []
    limit.look()
    for replicas in (1, 2):
        tool = tools.Lifeboat(place / f"long-{replicas}", replicas)
        backup.append(tool.backup(source))
        restore.append(tool.restore())
        if subprocess.run(["cmp", source, tool.restored()], check=False).returncode != 0:
            sys.exit("lifeboat restored something else")
        shutil.rmtree(tool.place)
    length = source.stat().st_size
    source.unlink()
    found = []
    for name, (one, two), stages in (("stream-8g", backup, "first"), ("restore-8g", restore, "restore")):
        also = {"gib": gib, "two_replicas_seconds": two["seconds"], "two_replicas_peak_rss_mib": two["peak_rss_mib"]}
        found.append(measure.case(name, {"lifeboat": [one]}, limit.seconds(stages, length), **also))
    return found
