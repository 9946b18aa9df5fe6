"""The table of metrics in OPERATIONS.md has every metric that the programs export, and no other.

A metric of the programs is a literal `"lifeboat_…"` in their sources. A table row names its metrics
in full in its first cell, so that one who searches for a metric finds it.
"""

import re

import markdown
import rust
import tree

DOCUMENT = "OPERATIONS.md"
PROGRAMS = ("daemon/src", "restore-cli/src")
LITERAL = re.compile(r'"(lifeboat_[a-z0-9_]+)"')
NAME = re.compile(r"`(lifeboat_[a-z0-9_]+)`")


def exported(files: tree.Tree) -> dict[str, tuple[str, int]]:
    """Metrics of the programs, and where each is named first."""
    found = {}
    for path in (path for folder in PROGRAMS for path in files.below(folder, ".rs")):
        text = files.read(path)
        for kind, start, end in rust.tokens(text):
            if kind == "literal" and (name := LITERAL.fullmatch(text[start:end])):
                found.setdefault(name[1], (path, tree.line_of(text, start)))
    return found


def described(files: tree.Tree) -> dict[str, int]:
    """Metrics of the table, and their lines."""
    text = files.read(DOCUMENT)
    bounds = [(line, heading) for line, level, heading in markdown.headings(markdown.split(text)[0]) if level == 2]
    first = next((line for line, heading in bounds if heading == "Metrics"), None)
    if first is None:
        return {}
    last = next((line for line, _ in bounds if line > first), text.count("\n") + 2)
    rows = [(line, row) for line, row in enumerate(text.split("\n"), 1) if first < line < last and row.startswith("|")]
    return {name: line for line, row in rows for name in NAME.findall(row.split("|")[1])}


def check(files: tree.Tree) -> tuple[list[tree.Finding], str]:
    """Each metric that only one side has is a finding."""
    code, table = exported(files), described(files)
    findings = [
        tree.Finding(*code[name], f'{name} is missing from the table below "Metrics" in {DOCUMENT}') for name in code.keys() - table.keys()
    ]
    findings += [tree.Finding(DOCUMENT, table[name], f"no program exports {name}") for name in table.keys() - code.keys()]
    return sorted(findings), f"{len(code)} metrics of the programs and {len(table)} of the table"
