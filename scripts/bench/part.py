"""One table out of a PostgreSQL database: how much of a backup is fetched for it, beside the restore of the whole."""

import argparse
import json
import pathlib
import shutil
import sys

import measure
import postgres
import tools
from measure import say

CASES = ["one-table"]
# Rows of 4 KiB that do not compress: what counts is in how many packs a table lies. `one` has a
# hundredth of all.
FILL = """
CREATE TABLE {table} (n int PRIMARY KEY, noise bytea);
ALTER TABLE {table} ALTER noise SET STORAGE EXTERNAL;
INSERT INTO {table} SELECT n, (SELECT string_agg(sha512(convert_to('{table} ' || n || ' ' || i, 'UTF8')), '') FROM generate_series(1, 64) i)
    FROM generate_series(1, {rows}) n;
"""
ROWS_IN_MIB = 256
ONE = "one"
# As `postgres.Server.sums` knows them, in percent.
SHARES = {"customers": 33, "orders": 33, "events": 33, ONE: 1}


def run(place: pathlib.Path, arguments: argparse.Namespace) -> list[dict]:
    say(f"PostgreSQL, {arguments.pg_mib} MiB: one table that has a hundredth of them restored")
    server = postgres.Server(place / "pa")
    try:
        server.start()
        return _run(server, place, arguments)
    finally:
        server.stop()


def _run(server: postgres.Server, place: pathlib.Path, arguments: argparse.Namespace) -> list[dict]:
    server.sql("postgres", f"CREATE DATABASE {postgres.DATABASE}")
    for table, share in SHARES.items():
        server.sql(postgres.DATABASE, FILL.format(table=table, rows=arguments.pg_mib * ROWS_IN_MIB * share // 100))
    wanted = _sums(server)
    source = f'kind = "postgres"\nsocket = "{server.place}"\nuser = "postgres"\ndatabases = ["{postgres.DATABASE}"]'
    url = f"postgresql:///postgres?host={server.place}&user=postgres"
    restored = {}
    for number in range(arguments.rounds):
        tool = tools.Lifeboat(place / f"pa-lifeboat-{number}", source=source)
        tool.daemon()
        server.fresh()
        for name, words in {"whole restore": [], "lifeboat": ["--table", f"public.{ONE}"]}.items():
            if words:
                server.sql(postgres.DATABASE, f"DROP TABLE {ONE}")
            result = tool.command("--json", "restore", "data", *words, "--to-postgres", url, master=True)
            restored.setdefault(name, []).append({**result, "fetched_bytes": json.loads(result["output"])["fetched_bytes"]})
            if _sums(server) != wanted:
                sys.exit("lifeboat restored something else")
        shutil.rmtree(tool.place)
    fetched = {name: measure.medians(rounds)["fetched_bytes"] for name, rounds in restored.items()}
    also = {
        "server": measure.tell(server.programs / "postgres", "--version").strip(),
        "fetched_mib": fetched["lifeboat"] / 2**20,
        "whole_fetched_mib": fetched["whole restore"] / 2**20,
        "fetched_of_whole": fetched["lifeboat"] / fetched["whole restore"],
    }
    return [measure.case("one-table", restored, **also)]


def _sums(server: postgres.Server) -> str:
    return server.sums() + server.sql(postgres.DATABASE, f"SELECT sum(hashtext(t::text)::bigint) FROM {ONE} t")
