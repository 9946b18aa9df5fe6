"""Backups and restores over the distance of another continent: a real S3 server behind a proxy that delays. What counts is how many
answers a tool waits for, one after the other."""

import argparse
import json
import os
import pathlib
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request

import measure
import tools
from cases import digest, make
from measure import say

CASES = ["first-rtt200", "unchanged-rtt200", "restore-rtt200"]
ROUND_TRIP_SECONDS = 0.2
KEY, SECRET, BUCKET = "bench", "not-a-secret", "backups"
LONGEST_START_SECONDS = 40


def run(place: pathlib.Path, arguments: argparse.Namespace) -> list[dict]:
    say(f"{arguments.far_mib} MiB over {ROUND_TRIP_SECONDS * 1000:.0f} ms of round trip: first, unchanged, restored")
    data = make(place / "far", arguments.far_mib)
    wanted, found = digest(data), {name: {} for name in CASES}
    kinds = [FarLifeboat] + ([FarBefore] if tools.BEFORE else [FarRestic] if shutil.which("restic") else [])
    with Store(place / "store") as store:
        for number in range(arguments.rounds):
            for kind in tools.in_turn(kinds, number):
                tool = kind(place / f"far-{kind.name}-{number}", store)
                for name, step in zip(CASES, [lambda: tool.backup(data), lambda: tool.backup(data), tool.restore], strict=True):
                    found[name].setdefault(kind.name, []).append(step())
                if digest(tool.restored()) != wanted:
                    sys.exit(f"{kind.name} restored something else")
                shutil.rmtree(tool.place)
    order = [kind.name for kind in kinds]
    return [measure.case(name, {kind: figures[kind] for kind in order}) for name, figures in found.items()]


class Store:
    """A SeaweedFS region, near and far."""

    def __init__(self, place: pathlib.Path) -> None:
        self.place, self.children = place, []
        self.near, self.far = _free(), _free()

    def __enter__(self) -> "Store":
        (self.place / "data").mkdir(parents=True)
        identity = {"name": "bench", "credentials": [{"accessKey": KEY, "secretKey": SECRET}]}
        identity["actions"] = ["Admin", "Read", "Write", "List", "Tagging"]
        (self.place / "s3.json").write_text(json.dumps({"identities": [identity]}))
        ports = {"master.port": _free(), "volume.port": _free(), "filer.port": _free(), "admin.port": _free(), "s3.port": self.near}
        flags = {"dir": self.place / "data", "ip": "127.0.0.1", "ip.bind": "127.0.0.1", "s3.config": self.place / "s3.json", **ports}
        flags |= {"master.telemetry": "false", "webdav": "false", "admin.ui": "false", "s3.port.iceberg": 0, "s3.port.lance": 0}
        weed = shutil.which("weed") or tools.ROOT / ".tools/bin/weed"
        self._start([weed, "mini", *(f"-{name}={value}" for name, value in flags.items())])
        self._start([sys.executable, pathlib.Path(__file__).parent / "delay.py", self.far, self.near, ROUND_TRIP_SECONDS])
        self._wait()
        return self

    def __exit__(self, *_) -> None:
        for child in self.children:
            child.kill()
            child.wait()
        shutil.rmtree(self.place)

    def _start(self, command: list) -> None:
        with open(self.place / "log", "ab") as log:
            argv = [str(word) for word in command]
            self.children.append(subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env={**os.environ, "GOMEMLIMIT": "400MiB"}))

    def _wait(self) -> None:
        end = time.monotonic() + LONGEST_START_SECONDS
        while True:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{self.far}/", timeout=5).close()
                return
            except urllib.error.HTTPError:
                return  # It refuses strangers, so it serves.
            except OSError:
                if time.monotonic() > end:
                    sys.exit(f"the store does not start: {(self.place / 'log').read_text()[-2000:]}")
                time.sleep(0.2)

    def restic(self, folder: str, port: int) -> list[str]:
        return ["restic", "-o", "s3.bucket-lookup=path", "-r", f"s3:http://127.0.0.1:{port}/{BUCKET}/{folder}"]


RESTIC_KEYS = {"AWS_ACCESS_KEY_ID": KEY, "AWS_SECRET_ACCESS_KEY": SECRET, "RESTIC_PASSWORD": "bench"}


class FarLifeboat(tools.Lifeboat):
    """Its vault lies in the store."""

    def __init__(self, place: pathlib.Path, store: Store) -> None:
        # Restic makes the bucket where it is missing.
        with measure.unmeasured():
            measure.run([*store.restic(f"bucket-{place.name}", store.near), "init"], RESTIC_KEYS)
        self.store = store
        super().__init__(place)

    def replica(self, number: int, folder: pathlib.Path) -> str:
        credentials = self.place / "credentials"
        credentials.write_text(f"[default]\naws_access_key_id = {KEY}\naws_secret_access_key = {SECRET}\n")
        credentials.chmod(0o600)
        return (
            f'[[replica]]\nname = "far{number}"\nkind = "s3"\nregion = "far"\nbucket = "{BUCKET}"\npath_style = true\nallow_http = true\n'
            f'endpoint = "http://127.0.0.1:{self.store.far}"\ncredentials = "{credentials}"\n'
        )

    def head(self) -> str:
        return f'vault_prefix = "{self.place.name}"\n'

    def backup(self, source: pathlib.Path) -> dict:
        return self._backup(source)


class FarBefore(FarLifeboat):
    name = tools.Before.name
    programs = tools.Before.programs


class FarRestic(tools.Restic):
    """Its repository lies in the store."""

    def __init__(self, place: pathlib.Path, store: Store) -> None:
        self.line = store.restic(place.name, store.far)
        super().__init__(place)

    def _init(self) -> None:
        self.environment |= RESTIC_KEYS
        with measure.unmeasured():
            measure.run([*self.line, "init"], self.environment)

    def backup(self, source: pathlib.Path) -> dict:
        return measure.run([*self.line, "backup", "--stdin", "--stdin-filename", "data"], self.environment, source)

    def _restore(self) -> dict:
        return measure.run([*self.line, "restore", "latest", "--target", self.out], self.environment)


def _free() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]
