"""PostgreSQL end to end, on a real throw-away server: several large tables, indexes and a foreign key."""

import argparse
import contextlib
import glob
import os
import pathlib
import pwd
import shutil
import subprocess
import sys

import measure
import tools
from cases import say

CASES = ["pg-capture", "pg-restore"]
DATABASE = "bench"
# Some 230 MiB of dump a unit.
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
        self.place, self.programs = place, pathlib.Path(sorted(glob.glob("/usr/lib/postgresql/*/bin"))[-1])
        place.mkdir()
        place.chmod(0o777)
        self.user = pwd.getpwnam("postgres").pw_name if os.geteuid() == 0 else None

    def tool(self, name: str, *words: str) -> None:
        switch = ["runuser", "-u", self.user, "--"] if self.user else []
        command = [*switch, str(self.programs / name), *words]
        done = subprocess.run(command, capture_output=True, text=True, cwd="/")
        if done.returncode != 0:
            sys.exit(f"{command}: {done.stderr}{done.stdout}")

    def start(self) -> None:
        self.tool("initdb", "-D", f"{self.place}/data", "-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C.UTF-8")
        options = f"-k {self.place} -c listen_addresses= -c fsync=off -c jit=off -c shared_buffers=256MB -c max_wal_size=8GB"
        self.tool("pg_ctl", "-D", f"{self.place}/data", "-o", options, "-w", "-l", f"{self.place}/log", "start")

    def stop(self) -> None:
        with contextlib.suppress(SystemExit):
            self.tool("pg_ctl", "-D", f"{self.place}/data", "-m", "immediate", "stop")

    def connected(self, name: str, *words: str) -> list[str]:
        return [str(self.programs / name), "-h", str(self.place), "-U", "postgres", *words]

    def sql(self, database: str, text: str) -> str:
        command = self.connected("psql", "-qXAt", "-v", "ON_ERROR_STOP=1", "-d", database)
        return subprocess.run(command, input=text, check=True, capture_output=True, text=True).stdout.strip()

    def fresh(self) -> None:
        self.sql("postgres", f"DROP DATABASE IF EXISTS {DATABASE} WITH (FORCE);")
        self.sql("postgres", "CHECKPOINT;")

    def counts(self) -> str:
        tables = ("customers", "orders", "events")
        return self.sql(DATABASE, "SELECT " + ", ".join(f"(SELECT sum(hashtext(t::text)::bigint) FROM {t} t)" for t in tables))


def run(place: pathlib.Path, arguments: argparse.Namespace) -> list[dict]:
    say(f"PostgreSQL, about {arguments.pg_mib} MiB of dump: captured and restored")
    server = Server(place / "pg")
    server.start()
    try:
        return _run(server, place, arguments)
    finally:
        server.stop()


def _run(server: Server, place: pathlib.Path, arguments: argparse.Namespace) -> list[dict]:
    server.sql("postgres", f"CREATE DATABASE {DATABASE}")
    server.sql(DATABASE, TABLES.format(unit=max(arguments.pg_mib // 230, 1)))
    server.sql(DATABASE, "VACUUM ANALYZE")
    wanted = server.counts()
    source = f'kind = "postgres"\nsocket = "{server.place}"\nuser = "postgres"\ndatabases = ["{DATABASE}"]'
    key = place / "pg-key"
    subprocess.run(["age-keygen", "-o", key], check=True, capture_output=True)
    recipient = subprocess.run(["age-keygen", "-y", key], check=True, capture_output=True, text=True).stdout.strip()
    dumps = {
        "pg_dump -Fc | age": " ".join(server.connected("pg_dump", "-Fc", DATABASE)) + f" | age -r {recipient} > '{place}/pg.age'",
        "pg_dump -Fd -j2": server.connected("pg_dump", "-Fd", "-j2", "-f", str(place / "pg-directory"), DATABASE),
    }
    restore = {"pg_restore -j2": server.connected("pg_restore", "-j2", "--create", "-d", "postgres", str(place / "pg-directory"))}
    capture, load = {}, {}
    for number in range(arguments.rounds):
        tool = tools.Lifeboat(place / f"pg-lifeboat-{number}", source=source)
        result = tool.daemon()
        capture.setdefault("lifeboat", []).append({**result, "stored_bytes": tools.size(tool.repository)})
        shutil.rmtree(place / "pg-directory", ignore_errors=True)
        for name, command in dumps.items():
            result = measure.run(command)
            stored = tools.size(place / "pg-directory") if "-Fd" in name else (place / "pg.age").stat().st_size
            capture.setdefault(name, []).append({**result, "stored_bytes": stored})
        url = f"postgresql:///postgres?host={server.place}&user=postgres"
        server.fresh()
        load.setdefault("lifeboat", []).append(tool.command("restore", "data", "--to-postgres", url, master=True))
        if server.counts() != wanted:
            sys.exit("lifeboat restored something else")
        for name, command in restore.items():
            server.fresh()
            load.setdefault(name, []).append(measure.run(command))
        shutil.rmtree(tool.place)
    return [measure.case("pg-capture", capture), measure.case("pg-restore", load)]
