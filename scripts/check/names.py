"""Constants and types of a crate have names of their own, and a constant's name says what it
bounds.

Two things of one name in two files of a crate are told apart only by the path before them. Tests
and associated constants and types are not looked at, nor are crates that are not part of the
product.
"""

import collections
import re

import rust
import tree

NOT_PRODUCT = {"tests", "fuzz"}
# Names that may be given more than once in a crate, and why.
REPEATED = {
    "Args": "clap's arguments of one command, named with its module: `list::Args`",
    "Error": "what a module's functions fail with, named with its module",
    "Result": "an alias for the error beside it, named with its module",
}
# A constant says what it bounds and in what unit; these say neither.
SAY_NOTHING = {
    *("AHEAD", "AT_ONCE", "BLOCK", "COUNT", "ENOUGH", "FEW", "LARGE", "LEAST", "LIMIT", "LITTLE", "LONG", "MANY", "MOST"),
    *("PIECE", "REST", "SHIFT", "SIZE", "STEP", "TAIL", "TOLD"),
}
DEFINITION = re.compile(
    r"\b(?:(?P<kind>const|static(?:\s+mut)?)\s+(?P<constant>[A-Z][A-Z0-9_]*)\s*:(?!:)"
    r"|(?P<type>struct|enum|union|trait|type)\s+(?P<name>[A-Z]\w*))"
)
BLOCK_OF_ASSOCIATED = re.compile(r"\b(?:impl\b|(?:unsafe\s+)?(?:auto\s+)?trait\s)")


def associated(code: str) -> list[tuple[int, int]]:
    """Where the bodies of `impl` and `trait` are."""
    ranges = []
    for found in BLOCK_OF_ASSOCIATED.finditer(code):
        # `impl` also stands in types: `fn f(x: impl Fn())`. A block's header begins an item.
        before = code[: found.start()].rstrip()
        begins_item = not before or before[-1] in ";}{]" or re.search(r"\b(?:pub(?:\s*\([^)]*\))?|unsafe|default)$", before)
        opening = code.find("{", found.end())
        if begins_item and opening >= 0:
            ranges.append((opening, rust.closing(code, opening)))
    return ranges


def definitions(files: tree.Tree, path: str) -> list[tuple[str, bool, int]]:
    """What a file names: name, whether it is a constant, line."""
    code, _ = rust.without_tests(rust.code(files.read(path)))
    inside = associated(code)
    found = []
    for match in DEFINITION.finditer(code):
        # `impl<const N: usize>`: a parameter is no definition.
        is_parameter = code[: match.start()].rstrip()[-1:] in ("<", ",")
        if not is_parameter and not any(start < match.start() < end for start, end in inside):
            name = match["constant"] or match["name"]
            found.append((name, bool(match["constant"]), tree.line_of(code, match.start())))
    return found


def check(files: tree.Tree) -> tuple[list[tree.Finding], str]:
    """Each place of a name that is taken is a finding, and each constant that says nothing."""
    findings, count = [], 0
    for crate in files.members:
        if crate in NOT_PRODUCT:
            continue
        places = collections.defaultdict(list)
        for path in files.below(f"{crate}/src", ".rs"):
            if rust.is_test_file(path):
                continue
            for name, is_constant, line in definitions(files, path):
                count += 1
                places[name].append((path, line))
                if is_constant and name in SAY_NOTHING:
                    problem = f"{name} says nothing: a constant says what it bounds and in what unit"
                    findings.append(tree.Finding(path, line, problem))
        for name, defined in places.items():
            if len(defined) > 1 and name not in REPEATED:
                for path, line in defined:
                    others = ", ".join(f"{other}:{at}" for other, at in defined if (other, at) != (path, line))
                    findings.append(tree.Finding(path, line, f"{name} is defined in {others}, too"))
    return sorted(findings), f"{count} constants and types"
