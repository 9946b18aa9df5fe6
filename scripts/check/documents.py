"""What documents tell people to run is there: targets of the Makefile, units of systemd, scripts
and files of the tree.

Command lines of the two programs are parsed by tests of their own, against the real command line.
"""

import re

import markdown
import tree

MAKE = re.compile(r"(?:^|[\s(|;&])make((?:\s+(?:[A-Z_]+=(?:\"[^\"]*\"|\S*)|[a-z][\w-]*))+)")
TARGET = re.compile(r"^([a-z][\w-]*):", re.MULTILINE)
UNIT = re.compile(r"\blifeboat[\w-]*(?:@[\w%-]*)?\.(?:service|timer|socket|target|path)\b")
SYSTEMCTL = re.compile(r"\b(?:systemctl|journalctl)\b([^#\n;&|]*)")
SCRIPT = re.compile(r"(?<![\w./-])(?:scripts|config|systemd|\.ci)/[\w./@-]*\w")


def unit_file(name: str) -> str:
    """The file that makes a unit of that name."""
    name = name if re.search(r"\.[a-z]+$", name) else f"{name}.service"
    return re.sub(r"@[^.]*\.", "@.", name)


def units(line: str) -> set[str]:
    """The units of ours that a line names."""
    named = set(UNIT.findall(line))
    for command in SYSTEMCTL.finditer(line):
        named |= {word for word in command[1].split() if re.match(r"lifeboat[\w-]*(?:@[\w-]*)?(?:\.[a-z]+)?$", word)}
    return named


def problems(files: tree.Tree, line: str, targets: set[str]) -> tuple[int, list[str]]:
    """How much a line of code names, and what of it is not there."""
    found, count = [], 0
    for words in MAKE.finditer(line):
        for target in re.findall(r"(?<=\s)[a-z][\w-]*(?![\w=-])", re.sub(r"\S+=(?:\"[^\"]*\"|\S*)", "", words[1])):
            count += 1
            if target not in targets:
                found.append(f"make {target}: the Makefile has no such target")
    for unit in units(line):
        count += 1
        if f"systemd/{unit_file(unit)}" not in files.paths:
            found.append(f"{unit}: there is no systemd/{unit_file(unit)}")
    for path in (named for named in SCRIPT.findall(line) if not named.endswith(".rs")):
        count += 1
        if path not in files.paths and not any(other.startswith(f"{path}/") for other in files.paths):
            found.append(f"{path}: there is no such file")
    return count, found


def check(files: tree.Tree) -> tuple[list[tree.Finding], str]:
    """Each name in code of a document that leads nowhere is a finding."""
    findings, looked_at = [], 0
    targets = set(TARGET.findall(files.read("Makefile")))
    for path in files.ending(".md"):
        if path == "CHANGELOG.md":
            continue  # tells of what was
        prose, fenced = markdown.split(files.read(path))
        for line, code in [*fenced, *markdown.spans(prose)]:
            # What stands behind ` #` is prose.
            count, found = problems(files, code.partition(" #")[0], targets)
            looked_at += count
            findings += [tree.Finding(path, line, problem) for problem in found]
    return sorted(findings), f"{looked_at} targets, units and files named in documents"
