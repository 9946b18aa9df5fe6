"""Measures Lifeboat beside its peers: the same bytes, interleaved, in one run.

Every tool works in a local directory, so that programs are measured and not a network; the cases `-rtt200` alone use an S3 server
behind 200 ms of round trip. Peers read the data as their standard input, as a dump comes to them; Lifeboat reads the same file by its
`file` source. Before each run, what was written is synced and the machine's memory touched. Every restore is compared with what went
in. Figures are medians over the rounds. Writes target/bench/results.json and results.svg, and prints a table. Peers that are not
installed are left out, and that is said.
"""

import argparse
import json
import os
import pathlib
import platform
import shutil
import signal
import sys
import tempfile

import cases
import chart
import distance
import drills
import engines
import files
import many
import measure
import part
import postgres
import rows
import tools

GROUPS = [
    (cases.BACKUPS, cases.backups),
    (cases.INCREMENTS, cases.increments),
    (rows.CASES, rows.run),
    (cases.LONG, cases.long_streams),
    (postgres.CASES, postgres.run),
    (drills.CASES, drills.run),
    (part.CASES, part.run),
    (engines.CASES, engines.run),
    (many.CASES, many.run),
    (distance.CASES, distance.run),
    (files.CASES, files.run),
]
CASES = [name for names, _ in GROUPS for name in names]


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="scripts/bench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--mib", type=int, default=1024, help="size of the data in MiB (default 1024)")
    parser.add_argument("--rounds", type=int, default=3, help="how often each is measured (default 3)")
    parser.add_argument("--gib", type=int, default=8, help="size of the long stream in GiB (default 8)")
    parser.add_argument("--pg-mib", type=int, default=1024, help="size of the PostgreSQL dump in MiB, in steps of 230 but for one-table (default 1024)")
    parser.add_argument("--thousands", type=int, default=100, help="thousands of snapshots (default 100)")
    parser.add_argument("--tib", type=int, default=10, help="size of each of a hundred large snapshots in TiB (default 10)")
    parser.add_argument("--millions", type=int, default=10, help="millions of chunks in the index (default 10)")
    parser.add_argument("--far-mib", type=int, default=64, help="size of the data that goes far, in MiB (default 64)")
    parser.add_argument("--kilofiles", type=int, default=100, help="thousands of small files (default 100)")
    parser.add_argument("--case", nargs="+", choices=CASES, metavar="CASE", help=f"only these: {' '.join(CASES)}")
    parser.add_argument("--file", type=pathlib.Path, help="first, unchanged and restore-fresh with these bytes instead of made ones")
    parser.add_argument(
        "--directory", type=pathlib.Path, default=os.environ.get("TMPDIR", "/var/tmp"),
        help="where to work: on the disk to be measured, and open to PostgreSQL's user (default $TMPDIR or /var/tmp)",
    )
    arguments = parser.parse_args()
    arguments.case = arguments.case or CASES
    if min(arguments.mib, arguments.rounds, arguments.gib, arguments.pg_mib, arguments.thousands, arguments.tib, arguments.millions, arguments.far_mib, arguments.kilofiles) < 1:
        parser.error("sizes and rounds begin at 1")
    return arguments


def check(arguments: argparse.Namespace) -> None:
    """Says what is missing before anything takes time."""
    for program in ("lifeboat", "lifeboatd", "bench-parts"):
        if not (tools.PROGRAMS / program).exists():
            sys.exit(f"{tools.PROGRAMS / program} is missing: run `make bench`, which builds it")
    for program in ("age", "age-keygen", "zstd", "findmnt", "cmp"):
        if not shutil.which(program):
            sys.exit(f"{program} is not installed: run `make bench`, which sets up what is needed")
    # Data, repositories and what is restored, at the largest; generously.
    wanted = set(arguments.case)
    needed = [(cases.BACKUPS + cases.INCREMENTS + rows.CASES, 6 * arguments.mib), (cases.LONG, 3072 * arguments.gib)]
    needed += [(postgres.CASES + part.CASES, 8 * arguments.pg_mib), (engines.MARIADB + engines.SCATTER, 8 * arguments.mib)]
    needed += [(engines.REDIS, 3 * arguments.mib)]
    needed += [(files.CASES, 16 * arguments.kilofiles)]
    needed += [(["vault-100k"], 180 * arguments.thousands), (["run-kept"], 1800), (["vault-10tib-100"], 900 * arguments.tib)]
    mib = max((size for names, size in needed if wanted & set(names)), default=0)
    free = shutil.disk_usage(arguments.directory).free >> 20
    if free < mib:
        sys.exit(f"{arguments.directory} has {free} MiB free and some {mib} are needed: take smaller sizes, or another --directory")


def main() -> None:
    arguments = parse()
    check(arguments)
    # Servers and directories are cleared away when this is stopped, too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    machine = {
        "cores": len(os.sched_getaffinity(0)),
        "processor": processor(),
        "memory_mib": os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") >> 20,
        "system": platform.platform(),
        "directory": str(arguments.directory),
        "file_system": measure.tell("findmnt", "-no", "FSTYPE", "-T", arguments.directory).strip(),
        "versions": tools.versions(),
        "settings": {kind.name: kind.setting for kind in tools.peers()},
        "memory_measured_as": measure.MEMORY,
    }
    if machine["file_system"] == "tmpfs":
        measure.say(f"{arguments.directory} lies in memory: no disk is measured, and large sizes may not fit; see --directory")
    results = []
    with tempfile.TemporaryDirectory(prefix="lifeboat-bench-", dir=arguments.directory) as folder:
        place = pathlib.Path(folder)
        place.chmod(0o755)
        for names, run in GROUPS:
            if set(names) & set(arguments.case):
                results += [case for case in run(place, arguments) if case["name"] in arguments.case]
    setup = {key: getattr(arguments, key) for key in ("mib", "rounds", "gib", "pg_mib", "thousands", "tib", "millions", "far_mib", "kilofiles")}
    if arguments.file:
        setup["file"] = str(arguments.file)
    target = tools.ROOT / "target/bench"
    target.mkdir(parents=True, exist_ok=True)
    text = json.dumps({"machine": machine, "setup": setup, "cases": results}, indent=2)
    (target / "results.json").write_text(text + "\n")
    (target / "results.svg").write_text(chart.draw(results, machine, setup))
    table(results, machine, setup)
    print(f"\n{target}/results.json, {target}/results.svg")


def processor() -> str:
    with open("/proc/cpuinfo") as cpuinfo:
        return next((line.split(":")[1].strip() for line in cpuinfo if "model name" in line), platform.machine())


def table(results: list[dict], machine: dict, setup: dict) -> None:
    print(f"\n{machine['processor']}, {machine['cores']} cores, {machine['file_system']}; {setup}")
    for tool, version in machine["versions"].items():
        print(f"  {tool}: {version}")
    print(f"{'case':18}{'tool':18}{'seconds':>9}{'cpu s':>8}{'tree MiB':>10}{'stored MiB':>12}{'ratio':>8}{'effic.':>8}")
    for case in results:
        for tool, figures in {"lifeboat": case["lifeboat"], **case["peers"]}.items():
            stored, ratio = figures.get("stored_bytes"), case["ratio"].get(tool)
            efficiency = case["efficiency"] if tool == "lifeboat" else None
            print(
                f"{case['name']:18}{tool:18}{figures['seconds']:9.2f}{figures['cpu_seconds']:8.2f}{figures['peak_rss_mib']:10.0f}"
                + (f"{stored / 2**20:12.1f}" if stored is not None else f"{'':12}")
                + (f"{ratio:8.2f}" if ratio is not None else f"{'':8}")
                + (f"{efficiency:8.2f}" if efficiency is not None else "")
            )
        for name, value in case.get("also", {}).items():
            print(f"{'':18}{name} {value:.3g}" if isinstance(value, float) else f"{'':18}{name} {value}")
    print("\nratio: seconds of the peer for one of Lifeboat's; effic.: seconds of the stages alone, over all cores, for one of Lifeboat's")
    print("(above 1, the stages met a worse minute than Lifeboat did: take more rounds, or a machine that does nothing else)")


if __name__ == "__main__":
    main()
