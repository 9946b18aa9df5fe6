"""The book cannot leave out a section, and none of its links can lead nowhere unnoticed."""

import pathlib
import tempfile
import unittest

import chapters
import hrefs
import places
import reference

SUMMARY = "# Summary\n\n[Front](../../README.md)\n\n- [One](../../A.md#one)\n- [Two, too](../../A.md#two)\n- [P](page.md)\n"
A = "# A\n\n[preamble](#two)\n\n## One\n\ntext\n\n### Deep `x`\n\n```\n## no heading [no](#link)\n```\n\n## Two\n\n"
TREE = {"docs/src/SUMMARY.md": SUMMARY, "README.md": "# R\n", "A.md": A, "docs/src/page.md": "# P\n", "config/x": "x"}


class Book(unittest.TestCase):
    """On a small repository."""

    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.root = pathlib.Path(folder.name)

    def write(self, changes: dict[str, str] | None = None) -> list[chapters.Chapter]:
        for path, text in {**TREE, **(changes or {})}.items():
            (self.root / path).parent.mkdir(parents=True, exist_ok=True)
            (self.root / path).write_text(text, encoding="utf-8")
        return chapters.read(self.root)

    def lead(self, document: str, text: str) -> str:
        every = self.write({document: text})
        source = next(chapter for chapter in every if chapter.document == document)
        return places.Places(self.root, self.root / "book", every).lead(source)

    def test_a_document_is_cut_at_its_sections(self):
        every = self.write()
        self.assertEqual([chapter.page for chapter in every], ["index.md", "a/one.md", "a/two.md", "page.md"])
        self.assertEqual(every[1].text, "# One\n\ntext\n\n## Deep `x`\n\n```\n## no heading [no](#link)\n```\n")
        pages = "[Front](index.md)\n\n- [One](a/one.md)\n- [Two, too](a/two.md)\n- [P](page.md)\n"
        self.assertEqual(chapters.summary(self.root, every), f"# Summary\n\n{pages}")

    def test_what_the_summary_does_not_name_is_an_error(self):
        for change in ({"A.md": A + "## Three\n"}, {"B.md": "# B\n"}, {"docs/src/more.md": "# M\n"}):
            with self.assertRaisesRegex(chapters.BookError, "does not name (A.md#three|B.md|docs/src/more.md):"):
                self.write(change)
            (self.root / next(iter(change))).unlink()
        with self.assertRaisesRegex(chapters.BookError, "no section"):
            self.write({"A.md": "# A\n\n## One\n"})

    def test_links_follow_a_section_to_its_chapter(self):
        led = self.lead("README.md", "[a](A.md#deep-x) [b](A.md#two) [c](A.md) [d](https://e/f) [g](config/x) [h](config)\n")
        self.assertEqual(led, "[a](a/one.md#deep-x) [b](a/two.md) [c](a/one.md) [d](https://e/f) [g](files/config/x) h\n")
        self.assertTrue((self.root / "book/files/config/x").is_file())
        led = self.lead("A.md", "# A\n\n## One\n\n[r](README.md) [t](#two) `[c](#x)`\n\n## Two\n")
        self.assertIn("[r](../index.md) [t](two.md) `[c](#x)`", led)
        self.assertEqual(self.lead("docs/src/page.md", "[o](../../A.md#one)\n[i]: ../../config/x\n"), "[o](a/one.md)\n[i]: files/config/x\n")

    def test_links_that_lead_nowhere(self):
        for link in ("A.md#three", "B.md", "../passwd"):
            with self.assertRaises(chapters.BookError):
                self.lead("README.md", f"[x]({link})\n")

    def test_pages_that_a_browser_would_not_find(self):
        (self.root / "a.html").write_text('<a href="b.html#here">x</a><a id="top"></a><a href="#top"><img src="p.svg">')
        (self.root / "b.html").write_text('<h2 id="here"><a href="a.html#gone">x</a><a href="../c.html"><a href="https://d/e">')
        (self.root / "p.svg").write_text("<svg/>")
        wrong, count = hrefs.check(self.root.resolve())
        self.assertEqual(count, 5)
        self.assertEqual([line.split(" ")[1] for line in wrong], ["a.html#gone:", "../c.html:"])

    def test_every_command_is_shown_once_with_what_it_does_not_take(self):
        program = self.root / "tool"
        program.write_text(
            '#!/bin/sh\ncase "$*" in\n--help) printf "T\\n\\nCommands:\\n  sub   Do\\n        more\\n  help  H\\n\\nOptions of every command:\\n'
            '  -a, --all  x\\n      --one  y\\n" ;;\n"sub --help") printf "S$LIFEBOAT_X\\n\\nOptions of every command:\\n  -a, --all  x\\n" ;;\n*) exit 2 ;;\nesac\n'
        )
        program.chmod(0o755)
        told = "\n".join(reference.command(self.root, ["tool"], ""))
        self.assertIn("## tool\n", told)
        self.assertIn("### tool sub\n\n```text\nS\n```\n\nIt also takes the [options of every command](#lifeboat), but for `--one`.\n", told)
        self.assertEqual(told.count("--all"), 1)
        with self.assertRaisesRegex(chapters.BookError, "ended with 2"):
            reference.run(self.root, ["tool", "gone"])
        with self.assertRaisesRegex(chapters.BookError, "nothing makes weather"):
            reference.fill("<!-- scripts/book puts here: weather -->", self.root, self.root)


    def test_the_configuration_is_the_one_that_the_programs_were_built_with(self):
        program, example = self.root / "lifeboat", 'host = "a-b"\n\n#[keys]\n#x = "\\"\n\n[keys]\n'
        page = ".SH DESCRIPTION\nIn \\-\\-config.\n.PP\nAll.\n.SH KEYS\n.nf\nhost = \"a\\-b\"\n\n#[keys]\n#x = \"\\e\"\n\n[keys]\n.fi\n.SH E\n.nf\n.fi\n"
        program.write_text(f"#!/bin/sh\nmkdir \"$2/man5\" && cat > \"$2/man5/lifeboat.toml.5\" <<'E'\n{page}E\n")
        program.chmod(0o755)
        (self.root / "config").mkdir()
        (self.root / "config/lifeboat.toml").write_text(example)
        told = reference.configuration(self.root, self.root)
        first = '## Beside all tables\n\n```toml\nhost = "a-b"\n```\n\n## `[keys]`\n\n```toml\n#[keys]\n#x = "\\"\n\n[keys]\n```\n'
        self.assertEqual(told, f"In --config.\n\nAll.\n\n{first}")
        (self.root / "config/lifeboat.toml").write_text(f"{example}y = 1\n")
        with self.assertRaisesRegex(chapters.BookError, "other keys"):
            reference.configuration(self.root, self.root)


class Repository(unittest.TestCase):
    """The documents as they are, before the programs are built."""

    def test_the_summary_names_every_section_and_every_link_has_a_place(self):
        root = pathlib.Path(__file__).resolve().parents[2]
        every = chapters.read(root)
        with tempfile.TemporaryDirectory() as book:
            leads = places.Places(root, pathlib.Path(book), every)
            self.assertTrue(all(leads.lead(chapter) for chapter in every))


if __name__ == "__main__":
    unittest.main()
