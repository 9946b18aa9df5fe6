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

CASES = ["vault-100k", "run-kept", "vault-10tib-100", "index-10m"]
RETENTION = "[dataset.retention]\nhourly = 1000\nmonthly = 120\n"
# Packs of 16 MiB in a TiB.
PACKS_IN_TIB = 65536
# So many snapshots are kept beside a run.
KEPT = [100, 1_000, 10_000]
# `lifeboat verify` found something.
FOUND = 6


def run(place: pathlib.Path, arguments: argparse.Namespace) -> list[dict]:
    kinds = {"vault-100k": _snapshots, "run-kept": _kept, "vault-10tib-100": _large, "index-10m": _index}
    return [kinds[case](place, arguments) for case in CASES if case in arguments.case]


def _figures(looks: dict[str, dict]) -> dict[str, float]:
    return {f"{look}_{key}": float(took[key]) for look, took in looks.items() for key in ("seconds", "cpu_seconds", "peak_rss_mib")}


def _verdicts(plan: dict, count: int) -> list[dict]:
    verdicts = json.loads(plan["output"])[0]["plan"]["verdicts"]
    if len(verdicts) != count:
        sys.exit(f"{count} snapshots were made, and the plan has {len(verdicts)}")
    return verdicts


def _snapshots(place: pathlib.Path, arguments: argparse.Namespace) -> dict:
    count = arguments.thousands * 1000
    say(f"{count} snapshots: what prune would remove, and a list")
    tool = tools.Lifeboat(place / "many", more=RETENTION)
    tell(PARTS, "seed-snapshots", tool.config, count)
    # The first look opens and checks everything. The host remembers that.
    looks = {"first_look": tool.command("--json", "prune", "data", "--dry-run")}
    planned, listed = [], []
    for _ in range(arguments.rounds):
        planned.append(tool.command("--json", "prune", "data", "--dry-run"))
        listed.append(tool.command("--json", "list", "data"))
    removed = sum(not verdict["keep_because"] for verdict in _verdicts(planned[0], count))
    found = len(json.loads(listed[0]["output"])["snapshots"])
    if found != count:
        sys.exit(f"{count} snapshots were made, and {found} are listed")
    looks["list"] = measure.medians(listed)
    shutil.rmtree(tool.place)
    return measure.case("vault-100k", {"lifeboat": planned}, snapshots=found, to_be_removed=removed, **_figures(looks))


def _kept(place: pathlib.Path, arguments: argparse.Namespace) -> dict:
    """An unchanged run beside more and more snapshots that are kept. It does not prune."""
    data, looks, last = make(place / "tiny", 1), {}, []
    for kept in KEPT:
        say(f"a run beside {kept} snapshots")
        tool = tools.Lifeboat(place / f"kept-{kept}")
        tell(PARTS, "seed-snapshots", tool.config, kept)
        tool.backup(data)
        last = [tool.daemon() for _ in range(arguments.rounds)]
        looks[f"kept_{kept}"] = measure.medians(last)
        shutil.rmtree(tool.place)
    return measure.case("run-kept", {"lifeboat": last}, **_figures(looks))


def _large(place: pathlib.Path, arguments: argparse.Namespace) -> dict:
    """A hundred snapshots of many packs, which are there in name and size alone, in two replicas. Memory is what this is about, so the
    allocator is set as in the units."""
    unit = {"environment": tools.allocator_of_units()}
    packs = arguments.tib * PACKS_IN_TIB
    say(f"100 snapshots of {arguments.tib} TiB: planned, caught up, listed and verified")
    tool = tools.Lifeboat(place / "large", replicas=2, more=RETENTION)
    tell(PARTS, "seed-large", tool.config, 100, packs)
    # Nothing is written twice into an object, so a second replica takes no room.
    other = tool.place / "replica-1"
    shutil.rmtree(other)
    tell("cp", "-al", tool.repository, other)
    looks = {"first_look": tool.command("--json", "prune", "data", "--dry-run", **unit)}
    planned = [tool.command("--json", "prune", "data", "--dry-run", **unit) for _ in range(arguments.rounds)]
    if not all(verdict["keep_because"] for verdict in _verdicts(looks["first_look"], 100)[-1:]):
        sys.exit("the newest snapshot is to be removed")
    # The second replica lacks a snapshot: its manifest and its signature.
    lost = sorted((other / "datasets/data/snapshots").iterdir())[100:102]
    for path in lost:
        path.unlink()
    looks["catch_up"] = tool.command("--json", "repair", "data", **unit)
    if not all(path.exists() for path in lost):
        sys.exit(f"{lost} were to be put back: {looks['catch_up']['output']}")
    looks["list"] = tool.command("--json", "list", "data", **unit)
    # One pack is read, and is not what its name says.
    looks["verify"] = tool.command("verify", "data", "--read-data-subset", "0.000001%", code=FOUND, **unit)
    shutil.rmtree(tool.place)
    return measure.case("vault-10tib-100", {"lifeboat": planned}, packs=packs, **_figures(looks))


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
