"""The width check can fail, and leaves alone what cannot be broken."""

import unittest

import prose
import trees

WIDE = "word " * 30


def found(path: str, text: str) -> list[int]:
    """The lines that it finds in a file."""
    with trees.of({path: text}) as tree:
        return [finding.line for finding in prose.check(tree)[0]]


class Width(unittest.TestCase):
    """A language each."""

    def test_rust(self):
        self.assertEqual(found("a.rs", f"// {WIDE}\nfn f() {{}} // {WIDE}\n    /// {WIDE}\n//! {WIDE}"), [1, 3, 4])
        self.assertEqual(found("a.rs", f'const A: &str = r#"\n// {WIDE}\n"#;\nconst B: &str = "\n// {WIDE}";'), [])

    def test_what_cannot_be_broken(self):
        text = f"| {WIDE} |\n```\n{WIDE}\n```\n[a]: https://{'a' * 120}\n- https://{'a' * 120}\n"
        self.assertEqual(found("a.md", text), [])
        self.assertEqual(found("a.rs", "".join(f"/// {line}\n" for line in text.splitlines())), [])
        self.assertEqual(found("a.md", text + WIDE), [7])
        self.assertEqual(found("a.md", f"[a]: {WIDE}"), [1])

    def test_a_fence_ends_with_the_comment_that_it_is_in(self):
        self.assertEqual(found("a.rs", f"/// ```\n/// {WIDE}\nfn f() {{}}\n/// {WIDE}"), [4])

    def test_hash_comments(self):
        for path in ["a.toml", "a.yml", "systemd/a.service", "Makefile", ".ci/x.yaml"]:
            self.assertEqual(found(path, f"# {WIDE}\na = 1"), [1], path)
        self.assertEqual(found("run", f"#!/bin/sh\n# {WIDE}"), [2])
        self.assertEqual(found("a.toml", f'#key = "{WIDE}"\n#[{WIDE}]'), [])
        self.assertEqual(found("a.py", f'# {WIDE}\nA = """\n# {WIDE}\n"""'), [1])

    def test_columns_are_characters(self):
        self.assertEqual(found("a.md", "é a " * 25), [])
        self.assertEqual(found("a.md", "é a " * 26), [1])


if __name__ == "__main__":
    unittest.main()
