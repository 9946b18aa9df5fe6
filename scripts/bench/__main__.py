"""Measures Lifeboat beside its peers: the same bytes, interleaved, in one run.

python3 scripts/bench [--mib N] [--rounds N] [--gib N] [--pg-mib N] [--case NAME]...

Every tool reads the data from a file (as its standard input, where it has no other way) and writes to a local directory,
so that programs are measured and not a network. Writes target/bench/results.json and results.svg, and prints a table.
Peers that are not installed are left out, and that is said. Figures are medians over the rounds.
"""

import argparse
import json
import os
import pathlib
import platform
import shutil
import sys
import tempfile

import cases
import chart
import many
import postgres

ROOT = pathlib.Path(__file__).resolve().parents[2]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mib", type=int, default=1024, help="size of the data in MiB (default 1024)")
    parser.add_argument("--rounds", type=int, default=3, help="how often each is measured (default 3)")
    parser.add_argument("--gib", type=int, default=8, help="size of the long stream in GiB (default 8)")
    parser.add_argument("--pg-mib", type=int, default=1024, help="size of the PostgreSQL tables in MiB (default 1024)")
    parser.add_argument("--thousands", type=int, default=100, help="thousands of snapshots (default 100)")
    parser.add_argument("--millions", type=int, default=10, help="millions of chunks in the index (default 10)")
    parser.add_argument("--case", action="append", choices=CASES, help="only this case; may be repeated")
    parser.add_argument("--file", type=pathlib.Path, help="measure with these bytes instead of made ones")
    arguments = parser.parse_args()
    wanted = set(arguments.case or CASES)
    results = []
    with tempfile.TemporaryDirectory(prefix="lifeboat-bench-", dir=os.environ.get("TMPDIR")) as folder:
        place = pathlib.Path(folder)
        place.chmod(0o755)
        for names, run in GROUPS:
            if wanted & set(names):
                results += [case for case in run(place, arguments) if case["name"] in wanted]
    report(results, arguments)


GROUPS = [
    (cases.BACKUPS, cases.backups),
    (cases.INCREMENTS, cases.increments),
    (cases.LONG, cases.long_streams),
    (postgres.CASES, postgres.run),
    (many.CASES, many.run),
]
CASES = [name for names, _ in GROUPS for name in names]


def report(results: list[dict], arguments: argparse.Namespace) -> None:
    machine = {
        "cores": os.cpu_count(),
        "processor": next((line.split(":")[1].strip() for line in open("/proc/cpuinfo") if "model name" in line), "?"),
        "system": platform.platform(),
        "peers": cases.versions(),
    }
    setup = {"mib": arguments.mib, "rounds": arguments.rounds, "gib": arguments.gib, "pg_mib": arguments.pg_mib}
    target = ROOT / "target/bench"
    target.mkdir(parents=True, exist_ok=True)
    text = json.dumps({"machine": machine, "setup": setup, "cases": results}, indent=2)
    (target / "results.json").write_text(text + "\n")
    (target / "results.svg").write_text(chart.draw(results, machine))
    print(f"\n{machine['processor']}, {machine['cores']} cores; medians of {arguments.rounds} rounds")
    print(f"{'case':18}{'tool':14}{'seconds':>9}{'cpu s':>8}{'tree MiB':>10}{'stored MiB':>12}{'ratio':>8}{'effic.':>8}")
    for case in results:
        for tool, figures in {"lifeboat": case["lifeboat"], **case["peers"]}.items():
            stored = figures.get("stored_bytes")
            shown = f"{stored / 2**20:12.1f}" if stored is not None else f"{'':12}"
            ratio = f"{case['ratio'][tool]:8.2f}" if tool in case["ratio"] else f"{'':8}"
            efficiency = case.get("efficiency") if tool == "lifeboat" else None
            efficiency = f"{efficiency:8.2f}" if efficiency else ""
            print(
                f"{case['name']:18}{tool:14}{figures['seconds']:9.2f}{figures['cpu_seconds']:8.2f}"
                f"{figures['peak_rss_mib']:10.0f}{shown}{ratio}{efficiency}"
            )
        for name, value in case.get("also", {}).items():
            print(f"{'':18}{name} {value:.3g}" if isinstance(value, float) else f"{'':18}{name} {value}")
    print(f"\n{target}/results.json, {target}/results.svg")


if __name__ == "__main__":
    if not shutil.which("age"):
        sys.exit("age is not installed: run `make bench`, which sets up what is needed")
    main()
