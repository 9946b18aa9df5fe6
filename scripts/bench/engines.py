"""MariaDB and Redis end to end, on real throw-away servers, beside the tools that come with them."""

import argparse
import os
import pathlib
import pwd
import shlex
import shutil
import subprocess
import sys
import time

import measure
import tools
from measure import say

MARIADB = ["mariadb-capture", "mariadb-restore"]
SCATTER = ["mariadb-scatter"]
REDIS = ["redis"]
CASES = [*MARIADB, *SCATTER, *REDIS]
DATABASE = "bench"
DEADLINE = 60
# Rows a MiB of dump, about.
ROWS = 4000
TABLES = """
CREATE DATABASE {database} CHARACTER SET utf8mb4;
USE {database};
CREATE TABLE customers (id INT PRIMARY KEY, name VARCHAR(80), email VARCHAR(80), token CHAR(32), created DATETIME, country CHAR(2), KEY (email));
INSERT INTO customers SELECT seq, CONCAT('customer ', seq), CONCAT('user', (seq * 7919) % 1000003, '@example.com'), MD5(seq),
    '2026-01-01' + INTERVAL seq SECOND, ELT(1 + seq % 5, 'DE', 'FR', 'IE', 'US', 'SE') FROM seq_1_to_{customers};
CREATE TABLE orders (id INT PRIMARY KEY, customer INT NOT NULL, total DECIMAL(10, 2), status VARCHAR(10), placed DATETIME(6),
    FOREIGN KEY (customer) REFERENCES customers (id));
INSERT INTO orders SELECT seq, 1 + (seq * 31337) % {customers}, (seq * 7 % 50000) / 100, ELT(1 + seq % 4, 'new', 'paid', 'sent', 'returned'),
    '2026-01-01' + INTERVAL seq * 1000 MICROSECOND FROM seq_1_to_{orders};
CREATE TABLE events (id INT PRIMARY KEY, payload JSON, at DATETIME(3));
INSERT INTO events SELECT seq, JSON_OBJECT('type', ELT(1 + seq % 3, 'click', 'view', 'buy'), 'session', seq DIV 13, 'page',
    CONCAT('/products/', seq * 17 % 5000), 'ms', seq * 13 % 900), '2026-01-01' + INTERVAL seq * 1000 MICROSECOND FROM seq_1_to_{events};
"""
# A hundredth of the rows of each table, all over it, and another one for each number.
UPDATES = """
UPDATE {database}.customers SET token = MD5(CONCAT(id, token)) WHERE CRC32(id) % 100 = {number};
UPDATE {database}.orders SET total = total + 1.5 WHERE CRC32(id) % 100 = {number};
UPDATE {database}.events SET payload = JSON_SET(payload, '$.ms', 900 + id % 97) WHERE CRC32(id) % 100 = {number};
"""
SUMS = "CHECKSUM TABLE {database}.customers, {database}.orders, {database}.events"


class Server:
    """A server on a socket of its own, without durability, as its own user where we are root."""

    user = ""

    def __init__(self, place: pathlib.Path) -> None:
        self.place, self.socket = place, place / "socket"
        place.mkdir()
        self.started: subprocess.Popen | None = None
        # Some packages of programs alone make no user.
        known = {entry.pw_name: entry for entry in pwd.getpwall()}
        self.owner = known.get(self.user, known["nobody"]) if os.geteuid() == 0 else None
        if self.owner:
            os.chown(place, self.owner.pw_uid, self.owner.pw_gid)

    def start(self, command: list[str]) -> None:
        switch = {"user": self.owner.pw_uid, "group": self.owner.pw_gid, "extra_groups": []} if self.owner else {}
        with open(self.place / "log", "w") as log:
            self.started = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=self.place, **switch)
        until = time.monotonic() + DEADLINE
        while not self.answers():
            if time.monotonic() > until or self.started.poll() is not None:
                sys.exit(f"{command[0]} does not start: {(self.place / 'log').read_text()}")
            time.sleep(0.1)

    def answers(self) -> bool:
        raise NotImplementedError

    def stop(self) -> None:
        if self.started:
            self.started.kill()
            self.started.wait()


class MariaDb(Server):
    user = "mysql"

    def run(self) -> None:
        usual = ["--no-defaults", f"--datadir={self.place}/data", f"--tmpdir={self.place}", "--innodb-use-native-aio=0"]
        switch = [f"--user={self.owner.pw_name}"] if self.owner else []
        measure.tell("mariadb-install-db", *usual, *switch, "--auth-root-authentication-method=normal", "--skip-test-db", "--force")
        cache = ["--innodb-buffer-pool-size=1G", "--innodb-flush-log-at-trx-commit=0", "--max-allowed-packet=1G"]
        network = ["--skip-networking", "--skip-name-resolve", f"--socket={self.socket}"]
        self.start([shutil.which("mariadbd") or "/usr/sbin/mariadbd", *usual, *cache, *network])

    def tool(self, name: str, *words: str) -> list[str]:
        return [name, "--no-defaults", f"--socket={self.socket}", "--user=root", *words]

    def answers(self) -> bool:
        return self.socket.exists() and subprocess.run(self.tool("mariadb", "-e", "SELECT 1"), check=False, capture_output=True).returncode == 0

    def sql(self, text: str) -> str:
        done = subprocess.run(self.tool("mariadb", "--batch"), check=False, input=text, capture_output=True, text=True)
        if done.returncode != 0:
            sys.exit(f"mariadb: {done.stderr}")
        return done.stdout

    def sums(self) -> str:
        return self.sql(SUMS.format(database=DATABASE))


class Redis(Server):
    user = "redis"

    def run(self) -> None:
        quiet = ["--port", "0", "--save", "", "--unixsocketperm", "777", "--repl-diskless-sync-delay", "0"]
        self.start(["redis-server", *quiet, "--dir", str(self.place), "--unixsocket", str(self.socket)])

    def tool(self, *words: str) -> list[str]:
        return ["redis-cli", "-s", str(self.socket), *words]

    def answers(self) -> bool:
        return subprocess.run(self.tool("PING"), check=False, capture_output=True).stdout.strip() == b"PONG"

    def fill(self, mib: int) -> None:
        """Texts, hashes and sorted sets, as sessions, carts and rankings are."""
        script = """
            for n = tonumber(ARGV[1]), tonumber(ARGV[2]) do
                redis.call('SET', 'session:' .. n, string.rep(redis.sha1hex(n), 5) .. ' user ' .. n % 9999)
                redis.call('HSET', 'cart:' .. n, 'item', n * 17 % 5000, 'count', n % 7, 'note', redis.sha1hex('note ' .. n))
                redis.call('ZADD', 'ranking:' .. n % 1000, n * 13 % 900, 'player ' .. n)
            end"""
        # A script blocks the server, so each makes few keys.
        rows, step = mib * 3000, 20_000
        for first in range(1, rows + 1, step):
            measure.tell(*self.tool("EVAL", script, "0", str(first), str(min(first + step - 1, rows))))


def run(place: pathlib.Path, arguments: argparse.Namespace) -> list[dict]:
    wanted, results = set(arguments.case), []
    if wanted & set(MARIADB):
        say(f"MariaDB, about {arguments.mib} MiB of dump: captured and restored")
        results += _served(MariaDb(place / "my"), _mariadb, place, arguments)
    if wanted & set(SCATTER):
        say(f"MariaDB, about {arguments.mib} MiB of dump: a hundredth of the rows updated")
        results += _served(MariaDb(place / "ms"), _scatter, place, arguments)
    if wanted & set(REDIS):
        say(f"Redis, about {arguments.mib} MiB: captured")
        results += _served(Redis(place / "re"), _redis, place, arguments)
    return results


def _served(server, work, place: pathlib.Path, arguments: argparse.Namespace) -> list[dict]:
    try:
        server.run()
        return work(server, place, arguments)
    finally:
        server.stop()


def _fill(server: MariaDb, mib: int) -> None:
    rows = mib * ROWS
    server.sql(TABLES.format(database=DATABASE, customers=rows, orders=rows * 5 // 2, events=rows * 2))


def _dump(server: MariaDb) -> str:
    return shlex.join(server.tool("mariadb-dump", "--single-transaction", "--routines", "--events", "--triggers", "--databases", DATABASE))


def _source(server: MariaDb) -> str:
    return f'kind = "mariadb"\nsocket = "{server.socket}"\nuser = "root"\ndatabases = ["{DATABASE}"]'


def _mariadb(server: MariaDb, place: pathlib.Path, arguments: argparse.Namespace) -> list[dict]:
    _fill(server, arguments.mib)
    wanted, dump, source = server.sums(), _dump(server), _source(server)
    recipient, file, directory = tools.age_key(place / "my-key"), place / "my.age", place / "my-directory"
    pipe = "mariadb-dump | zstd | age"
    # Neither encrypts, nor syncs what it writes.
    dumps = {pipe: f"{dump} | zstd -q -3 -T2 | age -r {recipient} > '{file}'"}
    loads = {pipe: f"age -d -i '{place}/my-key' '{file}' | zstd -dq | {shlex.join(server.tool('mariadb'))}"}
    if shutil.which("mydumper"):
        words = [f"--socket={server.socket}", "--user=root", "--threads=2"]
        dumps["mydumper"] = ["mydumper", *words, "--compress", "--trx-consistency-only", f"--database={DATABASE}", f"--outputdir={directory}"]
        loads["mydumper"] = ["myloader", *words, f"--directory={directory}", "--overwrite-tables"]
    else:
        say("mydumper is not installed and is left out")
    captured, restored = {}, {}
    for number in range(arguments.rounds):
        tool = tools.Lifeboat(place / f"my-lifeboat-{number}", source=source)
        for name in tools.in_turn(["lifeboat", *dumps], number):
            shutil.rmtree(directory, ignore_errors=True) if name == "mydumper" else None
            result = tool.daemon() if name == "lifeboat" else measure.run(dumps[name])
            written = {"lifeboat": tool.repository, "mydumper": directory}.get(name)
            captured.setdefault(name, []).append({**result, "stored_bytes": tools.size(written) if written else file.stat().st_size})
        for name in tools.in_turn(["lifeboat", *loads], number) if "mariadb-restore" in arguments.case else []:
            server.sql(f"DROP DATABASE {DATABASE};" + ("" if name != "mydumper" else f"CREATE DATABASE {DATABASE} CHARACTER SET utf8mb4"))
            into = f"socket:{server.socket}?user=root"
            ours = name == "lifeboat"
            result = tool.command("restore", "data", "--to-mariadb", into, master=True) if ours else measure.run(loads[name])
            restored.setdefault(name, []).append(result)
            if server.sums() != wanted:
                sys.exit(f"{name} restored something else")
        shutil.rmtree(tool.place)
    also = {"server": measure.tell("mariadbd", "--version").strip(), "dump_mib_about": arguments.mib}
    results = [measure.case("mariadb-capture", captured, **also)]
    return results + ([measure.case("mariadb-restore", restored, **also)] if restored else [])


def _scatter(server: MariaDb, place: pathlib.Path, arguments: argparse.Namespace) -> list[dict]:
    """What the second backup stores: Lifeboat dumps the server, and the peers read a dump."""
    _fill(server, arguments.mib)
    kinds = [kind for kind in (tools.Restic, tools.Borg, tools.Rustic) if kind in tools.peers()]
    dump, figures = place / "ms-dump", {}
    for number in range(arguments.rounds):
        ours = tools.Lifeboat(place / f"ms-lifeboat-{number}", source=_source(server))
        used = {"lifeboat": ours} | {kind.name: kind(place / f"ms-{kind.name}-{number}") for kind in kinds}
        for second in (False, True):
            if second:
                server.sql(UPDATES.format(database=DATABASE, number=number))
            measure.tell("bash", "-c", f"{_dump(server)} --result-file='{dump}'")
            for name in tools.in_turn(list(used), number):
                before = tools.size(used[name].repository)
                result = ours.daemon() if name == "lifeboat" else used[name].backup(dump)
                if second:
                    stored = tools.size(used[name].repository) - before
                    figures.setdefault(name, []).append({**result, "stored_bytes": stored})
        wanted = server.sums()
        server.sql(f"DROP DATABASE {DATABASE}")
        ours.command("restore", "data", "--to-mariadb", f"socket:{server.socket}?user=root", master=True)
        if server.sums() != wanted:
            sys.exit("lifeboat restored something else")
        for tool in used.values():
            shutil.rmtree(tool.place)
    also = {"server": measure.tell("mariadbd", "--version").strip(), "dump_mib": dump.stat().st_size / 2**20}
    stored = {name: measure.medians(rounds)["stored_bytes"] for name, rounds in figures.items()}
    also |= {f"stored_to_{name}": stored["lifeboat"] / size for name, size in stored.items() if name != "lifeboat"}
    return [measure.case("mariadb-scatter", figures, **also)]


def _redis(server: Redis, place: pathlib.Path, arguments: argparse.Namespace) -> list[dict]:
    server.fill(arguments.mib)
    file, recipient = place / "dump.age", tools.age_key(place / "re-key")
    rdb = shlex.join(server.tool("--rdb", "-"))
    dumps = {
        "redis-cli | zstd": f"{rdb} | zstd -q -3 -T2 > '{file}'",
        "redis-cli | zstd | age": f"{rdb} | zstd -q -3 -T2 | age -r {recipient} > '{file}'",
    }
    source = f'kind = "redis"\nsocket = "{server.socket}"'
    captured = {}
    for number in range(arguments.rounds):
        tool = tools.Lifeboat(place / f"re-lifeboat-{number}", source=source)
        for name in tools.in_turn(["lifeboat", *dumps], number):
            result = tool.daemon() if name == "lifeboat" else measure.run(dumps[name])
            stored = tools.size(tool.repository) if name == "lifeboat" else file.stat().st_size
            captured.setdefault(name, []).append({**result, "stored_bytes": stored})
        shutil.rmtree(tool.place)
    return [measure.case("redis", captured, server=measure.tell("redis-server", "--version").strip())]
