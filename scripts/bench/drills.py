"""Drills of a PostgreSQL database: of the whole snapshot, and of one that has not changed since."""

import argparse
import json
import pathlib
import sys

import measure
import postgres
import tools
from measure import say

CASES = ["drill-unchanged"]
PLAN = 'full_every = "30d"'


def run(place: pathlib.Path, arguments: argparse.Namespace) -> list[dict]:
    say(f"PostgreSQL, about {postgres.units(arguments) * postgres.UNIT} MiB of dump: drilled, whole and in part")
    server = postgres.Server(place / "dr")
    try:
        server.start()
        return _run(server, place, arguments)
    finally:
        server.stop()


def _run(server: postgres.Server, place: pathlib.Path, arguments: argparse.Namespace) -> list[dict]:
    server.sql("postgres", f"CREATE DATABASE {postgres.DATABASE}")
    server.sql(postgres.DATABASE, postgres.TABLES.format(unit=postgres.units(arguments)))
    source = f'kind = "postgres"\nsocket = "{server.place}"\nuser = "postgres"\ndatabases = ["{postgres.DATABASE}"]'
    tool = tools.Lifeboat(place / "dr-lifeboat", source=source)
    config, drilled = tool.drill_host(PLAN), {}
    for _ in range(arguments.rounds):
        tool.daemon()
        # The one in part rests on the other, so it is always the second.
        for name, words in {"whole drill": ["--whole"], "lifeboat": []}.items():
            result = measure.run([tool.programs / "lifeboat", "--config", config, "--quiet", "--json", "drill", "data", *words])
            report = json.loads(result["output"])
            if ("in_part" in report) != (name == "lifeboat") or not report["passed"]:
                sys.exit(f"the drill {name} is not what it should be: {report}")
            drilled.setdefault(name, []).append(result)
    also = {"server": measure.tell(server.programs / "postgres", "--version").strip()}
    return [measure.case("drill-unchanged", drilled, **also)]
