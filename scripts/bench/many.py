"""Vaults of a size that grows over years: a hundred thousand snapshots, ten million chunks."""

import argparse
import json
import pathlib
import shutil
import subprocess

import measure
import tools
from cases import PARTS, make, say

CASES = ["list-100k", "prune-plan-100k", "index-10m"]


def run(place: pathlib.Path, arguments: argparse.Namespace) -> list[dict]:
    return [*_snapshots(place, arguments), _index(place, arguments)]


def _snapshots(place: pathlib.Path, arguments: argparse.Namespace) -> list[dict]:
    count = arguments.thousands * 1000
    say(f"{count} snapshots: listed, and what prune would remove")
    retention = "[dataset.retention]\nhourly = 1000\nmonthly = 120\n"
    tool = tools.Lifeboat(place / "many", more=retention)
    subprocess.run([PARTS, "seed-snapshots", tool.config, str(count)], check=True)
    listed, planned = [], []
    for _ in range(arguments.rounds):
        listed.append(tool.command("--json", "list", "data"))
        planned.append(tool.command("--json", "prune", "data", "--dry-run"))
    found = len(json.loads(listed[0]["output"])["snapshots"])
    plan = json.loads(planned[0]["output"])[0]["plan"]
    removed = sum(not verdict["keep_because"] for verdict in plan["verdicts"])
    shutil.rmtree(tool.place)
    return [
        measure.case("list-100k", {"lifeboat": listed}, snapshots=found),
        measure.case("prune-plan-100k", {"lifeboat": planned}, to_be_removed=removed),
    ]


def _index(place: pathlib.Path, arguments: argparse.Namespace) -> dict:
    """A small backup beside an index of that size: reading all of it, look-ups and commit included."""
    count = arguments.millions * 1_000_000
    say(f"{count} chunks in the index")
    tool = tools.Lifeboat(place / "index")
    data, results = make(place / "little", 64), []
    empty = tool.backup(data)
    subprocess.run([PARTS, "seed-index", tool.config, str(count)], check=True)
    # The first run fetches the segments and checks their signatures, the others find them in the cache.
    first = tool.backup(data)
    for _ in range(arguments.rounds):
        results.append(tool.backup(data))
    alone = json.loads(subprocess.run([PARTS, "index", str(count)], check=True, capture_output=True).stdout)
    shutil.rmtree(tool.place)
    also = {key: float(alone[key]) for key in ("build_seconds", "table_mib", "lookup_ns", "hash_of_a_chunk_ns")}
    also["without_cache_seconds"], also["without_cache_peak_rss_mib"] = first["seconds"], first["peak_rss_mib"]
    return measure.case("index-10m", {"lifeboat": results}, without_index_seconds=empty["seconds"], **also)
