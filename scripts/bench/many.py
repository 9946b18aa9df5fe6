"""Vaults of a size that grows over years: a hundred thousand snapshots, a hundred of ten TiB, ten million chunks."""

import argparse
import json
import pathlib
import shutil
import sys

import measure
import tools
from cases import make
from measure import say, tell
from tools import PARTS

SNAPSHOTS = ["list-100k", "prune-plan-100k", "run-100k"]
CASES = [*SNAPSHOTS, "keep-10tib", "index-10m"]
RETENTION = "[dataset.retention]\nhourly = 1000\nmonthly = 120\n"
# Packs of 16 MiB in a TiB.
PACKS_IN_TIB = 65536
# `lifeboat verify` found something.
FOUND = 6


def run(place: pathlib.Path, arguments: argparse.Namespace) -> list[dict]:
    wanted = set(arguments.case)
    found = _snapshots(place, arguments) if wanted & set(SNAPSHOTS) else []
    found += [_large(place, arguments)] if "keep-10tib" in wanted else []
    return found + ([_index(place, arguments)] if "index-10m" in wanted else [])


def _snapshots(place: pathlib.Path, arguments: argparse.Namespace) -> list[dict]:
    count = arguments.thousands * 1000
    say(f"{count} snapshots: listed, what prune would remove, and another run")
    alone, tool = tools.Lifeboat(place / "one"), tools.Lifeboat(place / "many", more=RETENTION)
    tell(PARTS, "seed-snapshots", tool.config, count)
    # The first look opens and checks everything. The host remembers that.
    first = tool.command("--json", "prune", "data", "--dry-run")
    listed, planned = [], []
    for _ in range(arguments.rounds):
        listed.append(tool.command("--json", "list", "data"))
        planned.append(tool.command("--json", "prune", "data", "--dry-run"))
    found = len(json.loads(listed[0]["output"])["snapshots"])
    plan = json.loads(planned[0]["output"])[0]["plan"]
    removed = sum(not verdict["keep_because"] for verdict in plan["verdicts"])
    if found != count or len(plan["verdicts"]) != count:
        sys.exit(f"{count} snapshots were made, {found} are listed, and the plan has {len(plan['verdicts'])}")
    # A run that does not prune.
    tool.config.write_text(tool.config.read_text().replace(RETENTION, ""))
    data, runs, without = make(place / "tiny", 1), [], []
    for lifeboat in (tool, alone):
        lifeboat.backup(data)
    for _ in range(arguments.rounds):
        runs.append(tool.daemon())
        without.append(alone.daemon())
    little = measure.medians(without)
    for lifeboat in (tool, alone):
        shutil.rmtree(lifeboat.place)
    opened = {"first_look_seconds": first["seconds"], "first_look_peak_rss_mib": first["peak_rss_mib"]}
    fresh = {"fresh_seconds": little["seconds"], "fresh_cpu_seconds": little["cpu_seconds"], "fresh_peak_rss_mib": little["peak_rss_mib"]}
    return [
        measure.case("list-100k", {"lifeboat": listed}, snapshots=found),
        measure.case("prune-plan-100k", {"lifeboat": planned}, snapshots=found, to_be_removed=removed, **opened),
        measure.case("run-100k", {"lifeboat": runs}, snapshots=found, **fresh),
    ]


def _large(place: pathlib.Path, arguments: argparse.Namespace) -> dict:
    """A hundred snapshots of many packs, which are there in name and size alone. Memory is what this is about."""
    packs = arguments.tib * PACKS_IN_TIB
    say(f"100 snapshots of {arguments.tib} TiB: planned, listed and verified")
    tool = tools.Lifeboat(place / "large", more=RETENTION)
    tell(PARTS, "seed-large", tool.config, 100, packs)
    first = tool.command("--json", "prune", "data", "--dry-run")
    planned = [tool.command("--json", "prune", "data", "--dry-run") for _ in range(arguments.rounds)]
    looks = {"first_look": first, "list": tool.command("--json", "list", "data")}
    # One pack is read, and is not what its name says.
    looks["verify"] = tool.command("verify", "data", "--read-data-subset", "0.000001%", code=FOUND)
    verdicts = json.loads(first["output"])[0]["plan"]["verdicts"]
    if len(verdicts) != 100 or not all(verdict["keep_because"] for verdict in verdicts[-1:]):
        sys.exit(f"100 snapshots were made, and the plan has {len(verdicts)}")
    shutil.rmtree(tool.place)
    also = {f"{look}_{key}": float(took[key]) for look, took in looks.items() for key in ("seconds", "peak_rss_mib")}
    return measure.case("keep-10tib", {"lifeboat": planned}, packs=packs, **also)


def _index(place: pathlib.Path, arguments: argparse.Namespace) -> dict:
    """An unchanged small backup beside an index of that size: reading all of it, look-ups and commit included."""
    count = arguments.millions * 1_000_000
    say(f"{count} chunks in the index")
    tool = tools.Lifeboat(place / "index")
    data = make(place / "little", 64)
    tool.backup(data)
    without = [tool.backup(data) for _ in range(arguments.rounds)]
    tell(PARTS, "seed-index", tool.config, count)
    # The first run fetches the segments and checks their signatures. The others find them cached.
    first = tool.backup(data)
    results = [tool.backup(data) for _ in range(arguments.rounds)]
    alone = json.loads(measure.run([PARTS, "index", count])["output"])
    shutil.rmtree(tool.place)
    also = {key: float(alone[key]) for key in ("build_seconds", "table_mib", "lookup_ns", "hash_of_a_chunk_ns")}
    also["without_cache_seconds"], also["without_cache_peak_rss_mib"] = first["seconds"], first["peak_rss_mib"]
    little = measure.medians(without)
    also["without_index_seconds"], also["without_index_peak_rss_mib"] = little["seconds"], little["peak_rss_mib"]
    return measure.case("index-10m", {"lifeboat": results}, chunks=count, **also)
