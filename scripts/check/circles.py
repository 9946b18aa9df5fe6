"""No circle between the files of a crate.

A circle is: file A uses an item that B defines, and B, directly or through others, uses one of A's.
Tests, doc links and re-exports (`pub use`) do not count, nor does what a module uses of the modules
it is in; what these only re-export counts as used of the file that defines it. What another module
re-exports counts as used of both. Between crates cargo sees to it.
"""

import collections
import re

import modules
import tree

PATH = re.compile(r"(?<![\w:.$])(?:\$?crate|[A-Za-z_]\w*)(?:\s*::\s*[A-Za-z_]\w*)+")
WORD = re.compile(r"(?<![\w:.])[A-Za-z_]\w*")

Edges = dict[str, dict[str, dict[str, int]]]


def edges(root: modules.Module) -> Edges:
    """Which file uses what of which: `user → definer → name → line`."""
    found: Edges = collections.defaultdict(lambda: collections.defaultdict(dict))

    def uses(module: modules.Module, segments: list[str], line: int) -> None:
        meaning = modules.resolve(module, segments)
        if meaning and meaning.item is not None and not meaning.module.is_test:
            for definer in {meaning.module.file, *meaning.through} - {module.file} - module.ancestors():
                found[module.file][definer].setdefault(meaning.item, line)

    for module in root.everything():
        if module.is_test:
            continue
        for use in module.uses:
            if use.name == "*":
                for name in globbed(module, use):
                    uses(module, [*use.segments[:-1], name], use.line)
            elif not use.public:
                uses(module, use.segments, use.line)
        code = modules.USE.sub(lambda use: re.sub(r"[^\n]", " ", use[0]), module.code)
        for path in PATH.finditer(code):
            segments = [part.strip().lstrip("$") for part in path[0].split("::")]
            uses(module, segments, tree.line_of(code, path.start()))
    return found


def globbed(module: modules.Module, use: modules.Use) -> set[str]:
    """The names that a module really takes from a glob: those it says and does not have itself."""
    own = module.items | set(module.children) | {other.name for other in module.uses if other.name != "*"}
    return set(WORD.findall(module.code)) - own if not use.public else set()


def components(found: Edges) -> list[list[str]]:
    """The files that reach each other, by Tarjan's algorithm; only where there are several."""
    index, low, stack, result = {}, {}, [], []

    def visit(file: str) -> None:
        index[file] = low[file] = len(index)
        stack.append(file)
        for other in found.get(file, ()):
            if other not in index:
                visit(other)
                low[file] = min(low[file], low[other])
            elif other in stack:
                low[file] = min(low[file], index[other])
        if low[file] == index[file]:
            at = stack.index(file)
            if len(stack) - at > 1:
                result.append(sorted(stack[at:]))
            del stack[at:]

    for file in sorted(found):
        if file not in index:
            visit(file)
    return sorted(result)


def check(files: tree.Tree) -> tuple[list[tree.Finding], str]:
    """Each edge of each circle is a finding, and each file that could not be looked at."""
    findings, seen, count = [], set(), 0
    for crate in files.members:
        reached = set()
        for root in modules.roots(files, crate):
            found = edges(root)
            reached |= {module.file for module in root.everything()}
            seen |= {module.file for module in root.everything() if not module.is_test}
            count += sum(len(used) for used in found.values())
            for files_of_circle in components(found):
                findings += circle(files_of_circle, found)
        lost = set(files.below(f"{crate}/src", ".rs")) - reached
        findings += [tree.Finding(path, 1, "no module names this file") for path in sorted(lost)]
    return findings, f"{len(seen)} files, {count} uses between them"


def circle(files_of_circle: list[str], found: Edges) -> list[tree.Finding]:
    """What ties the files of a circle."""
    findings = []
    for user in files_of_circle:
        for definer in sorted(set(files_of_circle) & set(found.get(user, ()))):
            names = found[user][definer]
            problem = f"in a circle of {len(files_of_circle)} files: uses {', '.join(sorted(names))} of {definer}"
            findings.append(tree.Finding(user, min(names.values()), problem))
    return findings
