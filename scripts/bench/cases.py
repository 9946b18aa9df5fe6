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

BACKUPS = ["first", "unchanged", "append-5pct", "block-change", "restore-fresh"]
INCREMENTS = ["restore-after-30"]
LONG = ["stream-8g", "restore-8g"]
PARTS = tools.PROGRAMS / "bench-parts"


def versions() -> dict[str, str]:
    found = {}
    for tool, flag in [("restic", "version"), ("borg", "--version"), ("rustic", "--version"), ("zstd", "--version"), ("age", "--version")]:
        if shutil.which(tool):
            said = subprocess.run([tool, flag], check=True, capture_output=True, text=True).stdout
            found[tool] = said.strip().splitlines()[0]
    return found


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def make(path: pathlib.Path, mib: int, edits: str = "") -> pathlib.Path:
    with open(path, "wb") as out:
        subprocess.run([PARTS, "data", str(mib), edits], check=True, stdout=out)
    return path


def digest(path: pathlib.Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def limits(source: pathlib.Path, place: pathlib.Path, rounds: int) -> dict[str, float]:
    """Seconds that the machine needs at least: the stages' processor time, each measured alone, over the cores."""
    found: dict[str, list[float]] = {}
    for _ in range(rounds):
        said = json.loads(subprocess.run([PARTS, "stages", source, "auto", place], check=True, capture_output=True).stdout)
        for name in ("first", "unchanged", "restore"):
            found.setdefault(name, []).append(said[name] / os.cpu_count())
    (place / "restored").unlink()
    return {name: sorted(values)[len(values) // 2] for name, values in found.items()}


def backups(place: pathlib.Path, arguments: argparse.Namespace) -> list[dict]:
    """Every tool in turn, round by round, so that a slow minute of the machine strikes all."""
    mib = arguments.mib
    say(f"{mib} MiB: first, unchanged, appended, edited, restored")
    versions_of_data = {
        "first": arguments.file or make(place / "first", mib),
        "append-5pct": make(place / "appended", mib, f"append={max(mib // 20, 1)}"),
        # A block of rows goes, another one comes, far from each other.
        "block-change": make(place / "edited", mib, f"delete={mib * 1000}:{mib * 20},insert={mib * 6000}:{mib * 20}"),
    }
    if arguments.file:
        del versions_of_data["append-5pct"], versions_of_data["block-change"]
    wanted = digest(versions_of_data["first"])
    found: dict[str, dict[str, list[dict]]] = {name: {} for name in BACKUPS}
    for number in range(arguments.rounds):
        for kind in tools.peers():
            tool = kind(place / f"{kind.name.replace('|', '-')}-{number}")

            def note(case: str, result: dict, name: str = kind.name) -> None:
                found[case].setdefault(name, []).append(result)

            note("first", tool.backup(versions_of_data["first"]))
            note("unchanged", tool.backup(versions_of_data["first"]))
            note("restore-fresh", tool.restore())
            if digest(tool.restored()) != wanted:
                sys.exit(f"{kind.name} restored something else")
            shutil.rmtree(tool.out)
            for case in ("append-5pct", "block-change"):
                if case in versions_of_data and kind is not tools.Pipe:
                    note(case, tool.backup(versions_of_data[case]))
            shutil.rmtree(tool.place)
    limit = limits(versions_of_data["first"], place, arguments.rounds)
    limit = {"first": limit["first"], "unchanged": limit["unchanged"], "restore-fresh": limit["restore"]}
    return [measure.case(name, results, limit.get(name)) for name, results in found.items() if results]


def increments(place: pathlib.Path, arguments: argparse.Namespace) -> list[dict]:
    """Thirty snapshots, each with a block of rows changed and some appended; then the newest is restored."""
    mib, edits = arguments.mib, []
    say(f"{mib} MiB: thirty increments, restored")
    kinds = [kind for kind in tools.peers() if kind is not tools.Pipe]
    used = {kind.name: kind(place / f"increments-{kind.name}") for kind in kinds}
    fresh, version = [], place / "version"
    for number in range(31):
        changed = f"delete={mib * 300 * number + 7}:{mib * 8},append={number * mib // 200}"
        make(version, mib, changed)
        for name, tool in used.items():
            tool.backup(version)
            if number == 0 and name == "lifeboat":
                fresh = [tool.restore() for _ in range(arguments.rounds)]
        edits.append(changed)
    wanted, found = digest(version), {}
    for _ in range(arguments.rounds):
        for name, tool in used.items():
            found.setdefault(name, []).append(tool.restore())
            if digest(tool.restored()) != wanted:
                sys.exit(f"{name} restored something else")
    for tool in used.values():
        shutil.rmtree(tool.place)
    before, after = measure.medians(fresh), measure.medians(found["lifeboat"])
    length = version.stat().st_size
    speed = (length / after["seconds"]) / ((mib << 20) / before["seconds"])
    return [
        measure.case("restore-after-30", found, read_amplification=after["read_amplification"], speed_of_fresh=speed)
    ]


def long_streams(place: pathlib.Path, arguments: argparse.Namespace) -> list[dict]:
    """Memory: a long stream, with one replica and with two, both ways."""
    gib, found = arguments.gib, []
    say(f"{gib} GiB: memory of backup and restore, one and two replicas")
    source = make(place / "long", gib << 10)
    backup, restore, also = [], [], {}
    for replicas in (1, 2):
        tool = tools.Lifeboat(place / f"long-{replicas}", replicas)
        backup.append(tool.backup(source))
        also[f"backup_peak_rss_mib_{replicas}_replica"] = backup[-1]["peak_rss_mib"]
        restore.append(tool.restore())
        also[f"restore_peak_rss_mib_{replicas}_replica"] = restore[-1]["peak_rss_mib"]
        if subprocess.run(["cmp", source, tool.restored()]).returncode != 0:
            sys.exit("lifeboat restored something else")
        shutil.rmtree(tool.place)
    source.unlink()
    for name, results, word in (("stream-8g", backup, "backup"), ("restore-8g", restore, "restore")):
        kept = {key: value for key, value in also.items() if key.startswith(word)}
        found.append(measure.case(name, {"lifeboat": results}, gib=gib, **kept))
    return found
