"""Vaults of a size that grows over years: a hundred thousand snapshots, ten million chunks."""

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

CASES = ["list-100k", "prune-plan-100k", "index-10m"]


def run(place: pathlib.Path, arguments: argparse.Namespace) -> list[dict]:
    wanted = set(arguments.case)
    found = _snapshots(place, arguments) if wanted & {"list-100k", "prune-plan-100k"} else []
    return found + ([_index(place, arguments)] if "index-10m" in wanted else [])


def _snapshots(place: pathlib.Path, arguments: argparse.Namespace) -> list[dict]:
    count = arguments.thousands * 1000
    say(f"{count} snapshots: listed, and what prune would remove")
    retention = "[dataset.retention]\nhourly = 1000\nmonthly = 120\n"
    tool = tools.Lifeboat(place / "many", more=retention)
    tell(PARTS, "seed-snapshots", tool.config, count)
    listed, planned = [], []
    for _ in range(arguments.rounds):
        listed.append(tool.command("--json", "list", "data"))
        planned.append(tool.command("--json", "prune", "data", "--dry-run"))
    found = len(json.loads(listed[0]["output"])["snapshots"])
    plan = json.loads(planned[0]["output"])[0]["plan"]
    removed = sum(not verdict["keep_because"] for verdict in plan["verdicts"])
    if found != count or len(plan["verdicts"]) != count:
        sys.exit(f"{count} snapshots were made, {found} are listed, and the plan has {len(plan['verdicts'])}")
    shutil.rmtree(tool.place)
    return [
        measure.case("list-100k", {"lifeboat": listed}, snapshots=found),
        measure.case("prune-plan-100k", {"lifeboat": planned}, snapshots=found, to_be_removed=removed),
    ]


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
