"""The modules of a crate: which file defines which names, and what a path written in one of them
means.

Each root (`lib.rs`, `main.rs`, a program in `bin/`) is a tree of its own. Paths are resolved as the
compiler does, as far as names go: modules, items, imports with `as`, globs, re-exports. Methods,
fields and macros are not looked at.
"""

import dataclasses
import pathlib
import re

import rust
import tree

DEFINES = re.compile(
    r"\b(?:fn|struct|enum|union|trait|type|const|static(?:\s+mut)?|macro_rules\s*!)\s+(?:r#)?([A-Za-z_]\w*)"
)
USE = re.compile(r"(?<![\w#])(?P<public>pub\b(?:\s*\([^)]*\))?\s*)?use\s+(?P<what>[^;]+);")
MODULE = re.compile(r"(?:#\[path\s*=\s*(?P<path>\s+)\]\s*)?(?<![\w#])mod\s+(?P<name>\w+)\s*(?P<next>[;{])")
PATH_ATTRIBUTE = re.compile(r'#\[path\s*=\s*"([^"]*)"\]')


@dataclasses.dataclass
class Use:
    """One name that a `use` brings in; `*` for all of a module."""

    segments: list[str]
    name: str
    public: bool
    line: int


@dataclasses.dataclass
class Module:
    """A module: a file, or a part of one between braces."""

    file: str
    parent: "Module | None"
    code: str
    children: dict[str, "Module"] = dataclasses.field(default_factory=dict)
    items: set[str] = dataclasses.field(default_factory=set)
    uses: list[Use] = dataclasses.field(default_factory=list)
    is_test: bool = False

    def ancestors(self) -> set[str]:
        """The files of the modules that this one is in."""
        return {self.parent.file} | self.parent.ancestors() if self.parent else set()

    def root(self) -> "Module":
        """The crate."""
        return self.parent.root() if self.parent else self

    def everything(self) -> list["Module"]:
        """This module and all below it."""
        return [self, *(below for child in self.children.values() for below in child.everything())]


def expand(what: str) -> list[tuple[list[str], str]]:
    """What the text of a `use` brings in: the path, and the name that it gets here."""
    what = what.strip()
    if (brace := what.find("{")) >= 0:
        prefix = [part.strip() for part in what[:brace].split("::") if part.strip()]
        inner, depth, parts = what[brace + 1 : what.rfind("}")], 0, [""]
        for letter in inner:
            depth += (letter == "{") - (letter == "}")
            if letter == "," and depth == 0:
                parts.append("")
            else:
                parts[-1] += letter
        return [(prefix + path, name) for part in parts if part.strip() for path, name in expand(part)]
    path, _, alias = re.sub(r"\s+", " ", what).partition(" as ")
    segments = [part.strip() for part in path.split("::") if part.strip()]
    return [(segments, alias.strip() or segments[-1])]


def plain(segments: list[str], name: str) -> tuple[list[str], str]:
    """`a::b::{self}` is `a::b` by its own name."""
    if segments[-1] == "self" and len(segments) > 1:
        return segments[:-1], segments[-2] if name == "self" else name
    return segments, name


def depth_zero(code: str) -> str:
    """The code with what is between braces blanked."""
    parts, last, at = [], 0, code.find("{")
    while at >= 0:
        end = rust.closing(code, at)
        parts += [code[last : at + 1], re.sub(r"[^\n]", " ", code[at + 1 : end])]
        last, at = end, code.find("{", end)
    return "".join(parts) + code[last:]


def load(files: tree.Tree, file: str, parent: Module | None = None, is_test: bool = False) -> Module:
    """A file's module and all below it."""
    text = files.read(file)
    code, test_modules = rust.without_tests(rust.code(text))
    module = Module(file, parent, code, is_test=is_test or rust.is_test_file(file))
    at = pathlib.PurePosixPath(file)
    folder = at.parent if parent is None or at.name == "mod.rs" else at.with_suffix("")
    fill(files, module, text, folder)
    for name in test_modules:
        add_file(files, module, name, folder, None, True)
    return module


def fill(files: tree.Tree, module: Module, text: str, folder: pathlib.PurePosixPath) -> None:
    """Finds the names, imports and children of a module whose code is set."""
    for found in list(MODULE.finditer(module.code)):
        before = module.code[: found.start("name")]
        if before.count("{") != before.count("}"):
            continue
        if found["next"] == ";":
            given = PATH_ATTRIBUTE.search(text, found.start(), found.end()) if found["path"] else None
            add_file(files, module, found["name"], folder, given and given[1], module.is_test)
            continue
        end = rust.closing(module.code, found.end() - 1)
        inner = re.sub(r"[^\n]", " ", module.code[: found.end()]) + module.code[found.end() : end]
        child = Module(module.file, module, inner, is_test=module.is_test)
        fill(files, child, text, folder / found["name"])
        module.children[found["name"]] = child
        module.code = rust.blanked(module.code, found.start("name"), end + 1)
    for found in USE.finditer(module.code):
        line = tree.line_of(module.code, found.start("what"))
        for segments, name in expand(found["what"]):
            segments, name = plain(segments, name)
            module.uses.append(Use(segments, name, bool(found["public"]), line))
    module.items = set(DEFINES.findall(depth_zero(module.code)))


def add_file(files, module: Module, name: str, folder, given: str | None, is_test: bool) -> None:
    """Loads `mod name;`, where its file is in the tree."""
    if given:
        base = pathlib.PurePosixPath(module.file).parent
        candidates = [(base / given).as_posix()]
    else:
        candidates = [f"{folder}/{name}.rs", f"{folder}/{name}/mod.rs"]
    for file in candidates:
        if file in files.paths:
            module.children[name] = load(files, file, module, is_test)


def roots(files: tree.Tree, crate: str) -> list[Module]:
    """The roots of a crate: its library and its programs."""
    program = re.compile(rf"{re.escape(crate)}/src/(?:lib|main|bin/[^/]+|bin/[^/]+/main)\.rs")
    return [load(files, path) for path in files.below(f"{crate}/src", ".rs") if program.fullmatch(path)]


@dataclasses.dataclass(frozen=True)
class Meaning:
    """What a path means: an item (none: a module), who defines it, the files that re-export it."""

    module: Module
    item: str | None
    through: tuple[str, ...] = ()


def resolve(module: Module, segments: list[str], seen: frozenset = frozenset()) -> Meaning | None:
    """What a path means where it is written; `None` where it leads to another crate."""
    key = (id(module), *segments)
    if key in seen or not segments:
        return None
    seen |= {key}
    first, rest = segments[0], segments[1:]
    if first == "crate":
        return descend(module.root(), rest, seen)
    if first == "self":
        return descend(module, rest, seen)
    if first == "super":
        return descend(module.parent, rest, seen) if module.parent else None
    return descend(module, segments, seen)


def descend(module: Module, segments: list[str], seen: frozenset) -> Meaning | None:
    """Follows names from a module down."""
    if not segments:
        return Meaning(module, None)
    name, rest = segments[0], segments[1:]
    if name == "super":
        return descend(module.parent, rest, seen) if module.parent else None
    if name in module.children:
        return descend(module.children[name], rest, seen)
    if name in module.items:
        return Meaning(module, name)
    for use in module.uses:
        if use.name == name and use.segments != [name]:
            found = resolve(module, use.segments, seen)
            if found and found.item is None:
                found = descend(found.module, rest, seen)
            if found:
                return dataclasses.replace(found, through=(module.file, *found.through))
    for use in module.uses:
        glob = resolve(module, use.segments[:-1], seen) if use.name == "*" else None
        key = glob and (id(glob.module), name, "*")
        if glob and glob.item is None and key not in seen:
            if found := descend(glob.module, segments, seen | {key}):
                return dataclasses.replace(found, through=(module.file, *found.through))
    return None
