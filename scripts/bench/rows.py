"""Rows changed all over: what the next backup stores, and how fast the newest of many such snapshots is restored."""

import argparse
import contextlib
import pathlib
import random
import shutil
import sqlite3
import sys

import measure
import tools
from cases import RESTORES, digest, make, restore_each
from measure import say

EDITS = {
    "scatter-0.1pct": "scatter=1:1",
    "scatter-1pct": "scatter=1:10",
    "scatter-10pct": "scatter=1:100",
    "moved-5pct": "move=1:50",
    "column-added": "column=1",
    # Pages of a database file: made by SQLite itself.
    "sqlite-scatter": None,
}
INCREMENTS = ["increments-30", "restore-increments-30"]
CASES = [*EDITS, *INCREMENTS]
# A pipe knows no increments.
KINDS = [tools.Lifeboat, tools.Before, tools.Restic, tools.Borg, tools.Rustic]


def run(place: pathlib.Path, arguments: argparse.Namespace) -> list[dict]:
    wanted = set(arguments.case)
    found = _edits(place, arguments, [name for name in EDITS if name in wanted]) if wanted & set(EDITS) else []
    return found + (_increments(place, arguments) if wanted & set(INCREMENTS) else [])


def _kinds() -> list[type[tools.Tool]]:
    return [kind for kind in KINDS if kind in tools.peers()]


def _edits(place: pathlib.Path, arguments: argparse.Namespace, names: list[str]) -> list[dict]:
    mib = arguments.mib
    say(f"{mib} MiB: {', '.join(names)}")
    plain, results = make(place / "first", mib), []
    used = {kind.name: kind(place / f"rows-{kind.name}") for kind in _kinds()}
    for name in names:
        figures: dict[str, list[dict]] = {}
        if EDITS[name]:
            first, version = plain, make(place / "version", mib, EDITS[name])
        else:
            first, version = _database(place, mib)
        for number in range(arguments.rounds):
            for kind in tools.in_turn(list(used), number):
                # Anew each time: nobody shall find what an earlier round stored.
                shutil.rmtree(used[kind].place)
                used[kind] = type(used[kind])(used[kind].place)
                with measure.unmeasured():
                    used[kind].backup(first)
                figures.setdefault(kind, []).append(used[kind].backup(version))
        wanted = digest(version)
        for kind, tool in used.items():
            with measure.unmeasured():
                tool.restore()
            if digest(tool.restored()) != wanted:
                sys.exit(f"{kind} restored something else")
            shutil.rmtree(tool.out)
        results.append(_case(name, {kind: figures[kind] for kind in used}))
    for tool in used.values():
        shutil.rmtree(tool.place)
    return results


def _database(place: pathlib.Path, mib: int) -> tuple[pathlib.Path, pathlib.Path]:
    """The file of a database of about this size, and the same after a hundredth of its rows was updated."""
    before, after = place / "before.sqlite", place / "after.sqlite"
    before.unlink(missing_ok=True)
    numbers = random.Random(1)
    with contextlib.closing(sqlite3.connect(before)) as database, database:
        database.execute("CREATE TABLE orders (id INTEGER PRIMARY KEY, customer TEXT, token TEXT, amount INTEGER)")
        rows = ((n, f"customer {numbers.randrange(9999)}", f"{numbers.getrandbits(256):064x}", n % 977) for n in range(mib * 9500))
        database.executemany("INSERT INTO orders VALUES (?, ?, ?, ?)", rows)
    shutil.copyfile(before, after)
    with contextlib.closing(sqlite3.connect(after)) as database, database:
        changed = ((numbers.randrange(5000), row) for row in numbers.sample(range(mib * 9500), mib * 95))
        database.executemany("UPDATE orders SET amount = ? WHERE id = ?", changed)
    return before, after


def _case(name: str, figures: dict[str, list[dict]], **also) -> dict:
    stored = {kind: measure.medians(rounds)["stored_bytes"] for kind, rounds in figures.items()}
    best = min((size for kind, size in stored.items() if kind != "lifeboat"), default=0)
    if best:
        also["stored_to_best_peer"] = stored["lifeboat"] / best
    return measure.case(name, figures, **also)


def _increments(place: pathlib.Path, arguments: argparse.Namespace) -> list[dict]:
    """Thirty snapshots, in each of which another hundredth of the rows was changed."""
    mib = arguments.mib
    say(f"{mib} MiB: thirty increments of 1 %")
    used = {kind.name: kind(place / f"scattered-{kind.name}") for kind in _kinds()}
    version, totals = place / "version", {kind: [] for kind in used}
    for number in range(31):
        make(version, mib, ",".join(f"scatter={seed}:10" for seed in range(1, number + 1)))
        for kind, tool in used.items():
            totals[kind].append(tool.backup(version))
    sums = {
        kind: [{**rounds[-1], **{key: sum(one[key] for one in rounds) for key in ("seconds", "cpu_seconds", "stored_bytes")},
                "peak_rss_mib": max(one["peak_rss_mib"] for one in rounds)}]
        for kind, rounds in totals.items()
    }
    fresh = tools.Lifeboat(place / "scattered-fresh")
    fresh.backup(version)
    wanted, restored, everybody = digest(version), {}, {**used, "fresh": fresh}
    for number in range(RESTORES * arguments.rounds):
        restore_each(everybody, number, wanted, restored)
    newest, beside = measure.medians(restored["lifeboat"]), measure.medians(restored["fresh"])
    also = {
        "fresh_seconds": beside["seconds"],
        "speed_of_fresh": beside["seconds"] / newest["seconds"],
        "cpu_of_fresh": beside["cpu_seconds"] / newest["cpu_seconds"],
    }
    for tool in everybody.values():
        shutil.rmtree(tool.place)
    return [
        _case("increments-30", sums),
        measure.case("restore-increments-30", {kind: restored[kind] for kind in used}, **also),
    ]
