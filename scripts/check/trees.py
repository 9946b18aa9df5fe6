"""Small trees for the self-tests."""

import contextlib
import pathlib
import tempfile

import tree


@contextlib.contextmanager
def of(files: dict[str, str]):
    """A tree of these files, gone afterwards."""
    with tempfile.TemporaryDirectory() as folder:
        for path, text in files.items():
            file = pathlib.Path(folder, path)
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text, encoding="utf-8")
        yield tree.Tree(pathlib.Path(folder))


def crate(sources: dict[str, str]):
    """A workspace with the crate `it` of these files."""
    return of({"Cargo.toml": '[workspace]\nmembers = ["it"]\n', **{f"it/{path}": text for path, text in sources.items()}})
