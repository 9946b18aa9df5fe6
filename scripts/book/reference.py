"""What the book takes from the programs and the example, and nobody writes twice.

A page asks for it with `<!-- scripts/book puts here: NAME -->`.
"""

import os
import pathlib
import re
import subprocess
import tempfile

from chapters import BookError

MARK = re.compile(r"^<!-- scripts/book puts here: (\w+) -->$", re.MULTILINE)
PROGRAMS = ("lifeboat", "lifeboatd")
# What every command says at its end. The book has it once, with the program itself.
SHARED = "\nOptions of every command:\n"
# The commands of a help: names are indented by two, and what goes on stands further right.
COMMANDS = re.compile(r"^Commands:\n((?: .*\n)+)", re.MULTILINE)
TABLE = re.compile(r"^#?\[+([\w.]+)\]+$", re.MULTILINE)


def run(directory: pathlib.Path, words: list[str]) -> str:
    """What a program prints."""
    # Help shows what a variable is set to, and a terminal's width decides where lines end.
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("LIFEBOAT_", "COLUMNS"))}
    command = [str(directory / words[0]), *words[1:]]
    try:
        done = subprocess.run(command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60)
    except OSError as error:
        raise BookError(f"{command[0]}: {error.strerror}; build the programs (cargo build --workspace --bins)") from error
    if done.returncode != 0:
        raise BookError(f"{' '.join(command)} ended with {done.returncode}: {done.stderr.strip()}")
    return done.stdout


def below(told: str) -> list[str]:
    """The commands that a help lists, without `help` itself."""
    listed = COMMANDS.search(told)
    names = re.findall(r"^  (\S+)", listed[1], re.MULTILINE) if listed else []
    return [name for name in names if name != "help"]


def flags(told: str) -> list[str]:
    """The flags that a help describes."""
    return re.findall(r"^ +(?:-\w, +)?(--[\w-]+)", told, re.MULTILINE)


def command(directory: pathlib.Path, words: list[str], shared: str) -> list[str]:
    """A command, then those below it."""
    told = run(directory, [*words, "--help"])
    own, _, tail = told.partition(SHARED)
    level, after = "#" * min(len(words) + 1, 3), ""
    if len(words) == 1:
        own, shared = told, tail
    elif tail:
        lacks = [flag for flag in flags(shared) if flag not in flags(tail)]
        after = "It also takes the [options of every command](#lifeboat)"
        after += f", but for {', '.join(f'`{flag}`' for flag in lacks)}.\n" if lacks else ".\n"
    parts = [f"{level} {' '.join(words)}\n", f"```text\n{own.rstrip()}\n```\n", *([after] if after else [])]
    for name in below(told):
        parts += command(directory, [*words, name], shared)
    return parts


def commands(_: pathlib.Path, directory: pathlib.Path) -> str:
    """Every command of the programs, as it describes itself."""
    return "\n".join(part for program in PROGRAMS for part in command(directory, [program], ""))


def manual(directory: pathlib.Path) -> tuple[str, str]:
    """Of the manual page of the configuration: what it says of all of it, and its keys."""
    with tempfile.TemporaryDirectory() as pages:
        run(directory, ["lifeboat", "man", pages])
        page = (pathlib.Path(pages) / "man5/lifeboat.toml.5").read_text(encoding="utf-8")
    parts = re.search(r"^\.SH DESCRIPTION\n(.*?)^\.SH KEYS\n\.nf\n(.*?)^\.fi$", page, re.MULTILINE | re.DOTALL)
    if not parts:
        raise BookError("lifeboat.toml(5) has no DESCRIPTION before its KEYS")
    # A protected sign is that sign; a line may begin with one that has no width.
    told, keys = (re.sub(r"\\(&|[-\\e])", lambda sign: {"&": "", "-": "-"}.get(sign[1], "\\"), part) for part in parts.groups())
    return told.replace(".PP\n", "\n"), keys


def configuration(root: pathlib.Path, directory: pathlib.Path) -> str:
    """What the manual says, then the annotated example with a heading for each kind of table."""
    text = (root / "config/lifeboat.toml").read_text(encoding="utf-8")
    told, keys = manual(directory)
    if keys.strip() != text.strip():
        raise BookError("lifeboat.toml(5) has other keys than config/lifeboat.toml: build the programs (cargo build --workspace --bins)")
    parts, seen = [("Beside all tables", [])], set()
    for paragraph in re.split(r"\n{2,}", text.strip()):
        table = TABLE.search(paragraph)
        if table and table[1] not in seen:
            seen.add(table[1])
            parts.append((f"`{table[0].lstrip('#')}`", []))
        parts[-1][1].append(paragraph)
    joined = [(name, "\n\n".join(of)) for name, of in parts]
    return "\n".join([told, *(f"## {name}\n\n```toml\n{example}\n```\n" for name, example in joined)])


MADE = {"commands": commands, "configuration": configuration}


def fill(text: str, root: pathlib.Path, directory: pathlib.Path) -> str:
    """The text of a page with what it asks for."""

    def made(mark: re.Match) -> str:
        if mark[1] not in MADE:
            raise BookError(f"nothing makes {mark[1]}: a page may ask for {', '.join(MADE)}")
        return MADE[mark[1]](root, directory).rstrip()

    return MARK.sub(made, text)
