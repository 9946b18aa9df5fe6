"""The tools that are measured: each backs up a stream into a repository of its own and restores it."""

import functools
import json
import os
import pathlib
import shutil

import measure

ROOT = pathlib.Path(__file__).resolve().parents[2]
PROGRAMS = pathlib.Path(os.environ.get("LIFEBOAT_BIN_DIR", ROOT / "target/release"))
PARTS = PROGRAMS / "bench-parts"
# Programs of an older version: the only peer, where they are named.
BEFORE = os.environ.get("LIFEBOAT_BENCH_BEFORE")


def size(folder: pathlib.Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def age_key(path: pathlib.Path) -> str:
    """Makes an identity; gives its recipient."""
    measure.tell("age-keygen", "-o", path)
    return measure.tell("age-keygen", "-y", path).strip()


class Tool:
    """`backup` and `restore` measure; a backup adds what it stored."""

    name = ""
    # What its default would not say.
    setting = ""
    version = "--version"

    def __init__(self, place: pathlib.Path) -> None:
        self.place, self.repository, self.out = place, place / "repository", place / "out"
        place.mkdir(parents=True)

    def backup(self, source: pathlib.Path) -> dict:
        before = size(self.repository)
        result = self._backup(source)
        return {**result, "stored_bytes": size(self.repository) - before}

    def restore(self) -> dict:
        shutil.rmtree(self.out, ignore_errors=True)
        return self._restore()

    def restored(self) -> pathlib.Path:
        return self.out / "data"

    def _backup(self, source: pathlib.Path) -> dict:
        raise NotImplementedError

    def _restore(self) -> dict:
        raise NotImplementedError


class Lifeboat(Tool):
    name = "lifeboat"
    setting = "source kind file, defaults (compression auto: zstd level 1 or 3)"
    dedup = "rows"
    programs = PROGRAMS

    def __init__(self, place: pathlib.Path, replicas: int = 1, source: str | None = None, more: str = "") -> None:
        super().__init__(place)
        self.master, self.config, self.data = place / "master.txt", place / "lifeboat.toml", place / "data"
        recipient = age_key(self.master)
        text = self.head() + (
            f'host = "bench"\nstate_directory = "{place}/state"\ncontrol_socket = "{place}/control"\n'
            f'[keys]\ndirectory = "{place}/keys"\nmaster_recipients = ["{recipient}"]\n'
        )
        for number in range(replicas):
            folder = self.repository if number == 0 else place / f"replica-{number}"
            folder.mkdir()
            text += self.replica(number, folder)
        source = source or f'kind = "file"\npath = "{self.data}"'
        text += f'[[dataset]]\nname = "data"\nhome_region = "near"\ndedup = "{self.dedup}"\n[dataset.source]\n{source}\n{more}'
        self.config.write_text(text)
        self.vault = json.loads(measure.tell(self.programs / "lifeboat", "--config", self.config, "--json", "init"))

    def head(self) -> str:
        """What else the configuration begins with."""
        return ""

    def replica(self, number: int, folder: pathlib.Path) -> str:
        """Its section of the configuration."""
        return f'[[replica]]\nname = "local{number}"\nkind = "directory"\nregion = "far{number}"\npath = "{folder}"\n'

    def command(self, *words, master: bool = False, code: int = 0, environment: dict[str, str] | None = None) -> dict:
        identity = ["--identity", self.master] if master else []
        argv = [self.programs / "lifeboat", "--config", self.config, "--quiet", *identity, *words]
        return measure.run(argv, environment, code=code)

    def drill_host(self, plan: str) -> pathlib.Path:
        """The configuration of a host that drills by this plan."""
        config = self.place / "drill.toml"
        config.write_text(
            f'host = "drill"\nstate_directory = "{self.place}/drills"\n[keys]\ndirectory = "{self.place}/keys/drill-host"\n'
            f'trusted_signers = ["{self.vault["signer"]}"]\ntrusted_drill_signers = ["{self.vault["drill_signer"]}"]\n'
            f"[drill]\n{plan}\n{self.replica(0, self.repository)}"
        )
        return config

    def daemon(self) -> dict:
        return measure.run([self.programs / "lifeboatd", "--config", self.config, "--log-level", "warn", "--once"])

    def _backup(self, source: pathlib.Path) -> dict:
        self.data.unlink(missing_ok=True)
        os.link(source, self.data)
        return self.daemon()

    def _restore(self) -> dict:
        result = self.command("--json", "restore", "data", "--to-directory", self.out, master=True)
        said = json.loads(result["output"])
        return {**result, "read_amplification": said["read_amplification"]}


def allocator_of_units() -> dict[str, str]:
    """How the units of systemd set the allocator."""
    lines = (ROOT / "systemd/lifeboatd.service").read_text().splitlines()
    settings = next(line.removeprefix("Environment=") for line in lines if line.startswith("Environment=MALLOC_"))
    return dict(setting.split("=", 1) for setting in settings.split())


class Chunks(Lifeboat):
    """Looks for whole chunks alone."""

    name = "chunks"
    dedup = "chunks"


class Before(Lifeboat):
    """An older version of Lifeboat."""

    name = "before"
    programs = pathlib.Path(BEFORE or PROGRAMS)


class Restic(Tool):
    name = "restic"
    setting = "standard input, defaults (compression auto)"
    version = "version"

    def __init__(self, place: pathlib.Path) -> None:
        super().__init__(place)
        self.environment = {"RESTIC_PASSWORD": "bench", "RESTIC_CACHE_DIR": str(place / "cache")}
        self._init()

    def _init(self) -> None:
        with measure.unmeasured():
            measure.run([self.name, "-r", self.repository, "init"], self.environment)

    def _backup(self, source: pathlib.Path) -> dict:
        line = [self.name, "-r", self.repository, "backup", "--stdin", "--stdin-filename", "data"]
        return measure.run(line, self.environment, source)

    def _restore(self) -> dict:
        return measure.run([self.name, "-r", self.repository, "restore", "latest", "--target", self.out], self.environment)


class Rustic(Restic):
    name = "rustic"
    setting = "standard input, defaults"
    version = "--version"

    def __init__(self, place: pathlib.Path) -> None:
        Tool.__init__(self, place)
        self.environment = {"RUSTIC_PASSWORD": "bench", "RUSTIC_CACHE_DIR": str(place / "cache")}
        self._init()

    def _backup(self, source: pathlib.Path) -> dict:
        line = [self.name, "-r", self.repository, "backup", "--stdin-filename", "data", "-"]
        return measure.run(line, self.environment, source)

    def _restore(self) -> dict:
        return measure.run([self.name, "-r", self.repository, "restore", "latest", self.out], self.environment)


class Borg(Tool):
    name = "borg"
    setting = "standard input, repokey-blake2, zstd level 3"

    def __init__(self, place: pathlib.Path) -> None:
        super().__init__(place)
        self.environment = {"BORG_PASSPHRASE": "bench", "BORG_BASE_DIR": str(place / "base")}
        self.archives = 0
        with measure.unmeasured():
            measure.run([self.name, "init", "--encryption", "repokey-blake2", self.repository], self.environment)

    def _backup(self, source: pathlib.Path) -> dict:
        self.archives += 1
        archive = f"{self.repository}::{self.archives}"
        line = [self.name, "create", "--compression", "zstd,3", "--stdin-name", "data", archive, "-"]
        return measure.run(line, self.environment, source)

    def _restore(self) -> dict:
        self.out.mkdir()
        line = f"cd '{self.out}' && borg extract '{self.repository}::{self.archives}'"
        return measure.run(line, self.environment)


class Pipe(Tool):
    """No deduplication, no index, no manifest, nothing synced to disk: the least that anybody would do."""

    name = "zstd|age"
    setting = "standard input, zstd -3 -T2; not synced to disk"

    def __init__(self, place: pathlib.Path) -> None:
        super().__init__(place)
        self.repository.mkdir()
        self.key = place / "key"
        self.recipient = age_key(self.key)

    def backup(self, source: pathlib.Path) -> dict:
        (self.repository / "data").unlink(missing_ok=True)
        return super().backup(source)

    def _backup(self, source: pathlib.Path) -> dict:
        line = f"zstd -q -3 -T2 | age -r {self.recipient} > '{self.repository}/data'"
        return measure.run(line, source=source)

    def _restore(self) -> dict:
        self.out.mkdir()
        return measure.run(f"age -d -i '{self.key}' '{self.repository}/data' | zstd -dq > '{self.out}/data'")


@functools.cache
def peers() -> list[type[Tool]]:
    """Those that are installed, Lifeboat first."""
    if BEFORE:
        return [Lifeboat, Before]
    found: list[type[Tool]] = [Lifeboat, Pipe]
    for tool in (Restic, Borg, Rustic):
        if shutil.which(tool.name):
            found.append(tool)
        else:
            measure.say(f"{tool.name} is not installed and is left out")
    return found


def in_turn(kinds: list, number: int) -> list:
    """Another one begins each round."""
    first = number % len(kinds)
    return kinds[first:] + kinds[:first]


def versions() -> dict[str, str]:
    """Of every program that takes part."""
    commands = [[PROGRAMS / "lifeboat", "--version"], ["zstd", "--version"], ["age", "--version"]]
    commands += [[kind.name, kind.version] for kind in peers() if kind not in (Lifeboat, Before, Pipe)]
    return {pathlib.Path(command[0]).name: measure.tell(*command).strip().splitlines()[0] for command in commands}
