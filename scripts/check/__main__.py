"""Checks the repository: `python3 -B scripts/check [NAME …]`.

Prints `file:line: problem` for each finding and exits 1; without any, one line a check says what
was looked at.
"""

import pathlib
import sys

import circles
import commits
import documents
import links
import metrics
import names
import prose
import tree

CHECKS = {module.__name__: module.check for module in (circles, commits, documents, links, metrics, names, prose)}


def main(names: list[str]) -> int:
    """Runs the named checks, or all."""
    if unknown := [name for name in names if name not in CHECKS]:
        print(f"usage: scripts/check [NAME …], of {', '.join(CHECKS)}; there is no {', '.join(unknown)}", file=sys.stderr)
        return 2
    files = tree.Tree(pathlib.Path(__file__).resolve().parents[2])
    failed = False
    for name in names or CHECKS:
        findings, looked_at = CHECKS[name](files)
        for finding in findings:
            print(finding)
        failed |= bool(findings)
        print(f"{name}: {looked_at}: " + (f"{len(findings)} findings" if findings else "ok"))
    return int(failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
