"""PostgreSQL end to end, on a real throw-away server: several large tables, indexes and a foreign key."""

import argparse
import contextlib
import glob
import os
import pathlib
import pwd
import shlex
import shutil
import subprocess
import sys

import measure
import tools
from measure import say

CASES = ["pg-capture", "pg-restore"]
DATABASE = "bench"
# MiB of dump a unit, about, before compression.
UNIT = 230
TABLES = """
CREATE TABLE customers AS SELECT g AS id, 'customer ' || g AS name, 'user' || (g::bigint * 7919 % 1000003) || '@example.com' AS email,
    md5(g::text) AS token, timestamptz '2026-01-01' + g * interval '1 second' AS created, (ARRAY['DE','FR','IE','US','SE'])[1 + g % 5] AS country
    FROM generate_series(1, {unit} * 500000) g;
CREATE TABLE orders AS SELECT g AS id, 1 + (g * 31337::bigint) % ({unit} * 500000) AS customer, (g::bigint * 7 % 50000) / 100.0 AS total,
    (ARRAY['new','paid','sent','returned'])[1 + g % 4] AS status, timestamptz '2026-01-01' + g * interval '1 second' / 7 AS placed
    FROM generate_series(1, {unit} * 1300000) g;
CREATE TABLE events AS SELECT g AS id, jsonb_build_object('type', (ARRAY['click','view','buy'])[1 + g % 3], 'session', g / 13, 'page',
    '/products/' || (g * 17::bigint % 5000), 'ms', g::bigint * 13 % 900) AS payload, timestamptz '2026-01-01' + g * interval '1 millisecond' AS at
    FROM generate_series(1, {unit} * 900000) g;
ALTER TABLE customers ADD PRIMARY KEY (id);
ALTER TABLE orders ADD PRIMARY KEY (id), ADD FOREIGN KEY (customer) REFERENCES customers (id);
ALTER TABLE events ADD PRIMARY KEY (id);
CREATE INDEX ON orders (customer);
CREATE INDEX ON customers (email);
"""


class Server:
    """A server on a socket of its own, without durability; PostgreSQL refuses root."""

    def __init__(self, place: pathlib.Path) -> None:
        found = sorted(map(pathlib.Path, glob.glob("/usr/lib/postgresql/*/bin")), key=lambda path: int(path.parts[-2]))
        if not found:
            sys.exit("PostgreSQL is not installed: run `make bench`, which sets up what is needed")
        self.place, self.programs = place, found[-1]
        place.mkdir()
        place.chmod(0o777)
        self.user = pwd.getpwnam("postgres").pw_name if os.geteuid() == 0 else None

    def tool(self, name: str, *words: str) -> None:
        switch = ["runuser", "-u", self.user, "--"] if self.user else []
        # The server keeps the file that is its output: a pipe would not end before it.
        with open(self.place / f"{name}.log", "w+") as said:
            done = subprocess.run([*switch, self.programs / name, *words], check=False, stdout=said, stderr=said, cwd="/")
            if done.returncode != 0:
                said.seek(0)
                sys.exit(f"{name}: exit {done.returncode}: {said.read()}")

    def start(self) -> None:
        self.tool("initdb", "-D", f"{self.place}/data", "-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C.UTF-8")
        options = f"-k {self.place} -c listen_addresses= -c fsync=off -c jit=off -c shared_buffers=256MB -c max_wal_size=8GB"
        self.tool("pg_ctl", "-D", f"{self.place}/data", "-o", options, "-w", "-l", f"{self.place}/log", "start")

    def stop(self) -> None:
        """At once; whether it runs or not."""
        with contextlib.suppress(SystemExit):
            self.tool("pg_ctl", "-D", f"{self.place}/data", "-m", "immediate", "stop")

    def connected(self, name: str, *words: str) -> list[str]:
        return [str(self.programs / name), "-h", str(self.place), "-U", "postgres", *words]

    def sql(self, database: str, text: str) -> str:
        command = self.connected("psql", "-qXAt", "-v", "ON_ERROR_STOP=1", "-d", database)
        done = subprocess.run(command, check=False, input=text, capture_output=True, text=True)
        if done.returncode != 0:
            sys.exit(f"psql: {done.stderr}")
        return done.stdout.strip()

    def fresh(self) -> None:
        self.sql("postgres", f"DROP DATABASE IF EXISTS {DATABASE} WITH (FORCE);")
        self.sql("postgres", "CHECKPOINT;")

    def sums(self) -> str:
        """Of every row's hash, table by table."""
        tables = ("customers", "orders", "events")
        return self.sql(DATABASE, "SELECT " + ", ".join(f"(SELECT sum(hashtext(t::text)::bigint) FROM {t} t)" for t in tables))


def units(arguments: argparse.Namespace) -> int:
    return max(arguments.pg_mib // UNIT, 1)


def run(place: pathlib.Path, arguments: argparse.Namespace) -> list[dict]:
    say(f"PostgreSQL, about {units(arguments) * UNIT} MiB of dump: captured and restored")
    server = Server(place / "pg")
    try:
        server.start()
        return _run(server, place, arguments)
    finally:
        server.stop()


def _run(server: Server, place: pathlib.Path, arguments: argparse.Namespace) -> list[dict]:
    server.sql("postgres", f"CREATE DATABASE {DATABASE}")
    server.sql(DATABASE, TABLES.format(unit=units(arguments)))
    wanted = server.sums()
    source = f'kind = "postgres"\nsocket = "{server.place}"\nuser = "postgres"\ndatabases = ["{DATABASE}"]'
    recipient = tools.age_key(place / "pg-key")
    directory, file = place / "pg-directory", place / "pg.age"
    url = f"postgresql:///postgres?host={server.place}&user=postgres"
    dumps = {
        "pg_dump -Fc | age": f"{shlex.join(server.connected('pg_dump', '-Fc', DATABASE))} | age -r {recipient} > '{file}'",
        "pg_dump -Fd -j2": server.connected("pg_dump", "-Fd", "-j2", "-f", str(directory), DATABASE),
    }
    load = server.connected("pg_restore", "-j2", "--create", "-d", "postgres", str(directory))
    captured, restored = {}, {}
    for number in range(arguments.rounds):
        shutil.rmtree(directory, ignore_errors=True)
        # Whoever loaded it last, it is captured in the same state.
        server.sql(DATABASE, "VACUUM ANALYZE")
        server.sql(DATABASE, "CHECKPOINT")
        tool = tools.Lifeboat(place / f"pg-lifeboat-{number}", source=source)
        for name in tools.in_turn(["lifeboat", *dumps], number):
            result = tool.daemon() if name == "lifeboat" else measure.run(dumps[name])
            written = {"lifeboat": tool.repository, "pg_dump -Fd -j2": directory}.get(name)
            stored = tools.size(written) if written else file.stat().st_size
            captured.setdefault(name, []).append({**result, "stored_bytes": stored})
        for name in tools.in_turn(["lifeboat", "pg_restore -j2"], number):
            if "pg-restore" not in arguments.case:
                continue
            server.fresh()
            ours = name == "lifeboat"
            result = tool.command("restore", "data", "--to-postgres", url, master=True) if ours else measure.run(load)
            restored.setdefault(name, []).append(result)
            if server.sums() != wanted:
                sys.exit(f"{name} restored something else")
        shutil.rmtree(tool.place)
    also = {"server": measure.tell(server.programs / "postgres", "--version").strip(), "dump_mib_about": units(arguments) * UNIT}
    results = [measure.case("pg-capture", captured, **also)]
    return results + ([measure.case("pg-restore", restored, **also)] if restored else [])
