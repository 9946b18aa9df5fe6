"""The check of names can fail, and lets pass what has a name of its own."""

import unittest

import names
import trees


def found(**sources: str) -> list[str]:
    """What it finds in a crate of these files."""
    with trees.crate({f"src/{name}.rs": text for name, text in sources.items()}) as tree:
        return [str(finding) for finding in names.check(tree)[0]]


class Names(unittest.TestCase):
    """On small crates."""

    def test_a_constant_or_a_type_in_two_files(self):
        self.assertEqual(
            found(a="const PAGE_BYTES: u8 = 1;", b="\npub(crate) static PAGE_BYTES: u8 = 2;"),
            ["it/src/a.rs:1: PAGE_BYTES is defined in it/src/b.rs:2, too", "it/src/b.rs:2: PAGE_BYTES is defined in it/src/a.rs:1, too"],
        )
        self.assertEqual(len(found(a="struct Page<T>(T);", b="mod x { pub enum Page {} }", c="trait Page {}")), 3)

    def test_associated_ones_parameters_tests_and_comments_do_not_count(self):
        text = """
            /// const X_BYTES: u8
            impl<const X_BYTES: usize> A for B { const X_BYTES: u8 = 1; type Item = u8; fn f() { struct In; } }
            pub trait T%s { type Item; const X_BYTES: u8; }
            #[cfg(test)] mod tests { const X_BYTES: u8 = 1; struct In; }
            fn f(_: impl Fn()) {} const F: *const u8 = "const X_BYTES: u8";
        """
        self.assertEqual(found(a=text % 1, b=text.replace("const F:", "const G:") % 2, tests="const X_BYTES: u8 = 1;"), [])

    def test_an_impl_in_a_signature_hides_nothing(self):
        self.assertEqual(len(found(a="fn f(_: impl Fn()) { const A_B: u8 = 1; }", b="const A_B: u8 = 1;")), 2)

    def test_allowed_and_forbidden_names(self):
        self.assertEqual(found(a="pub struct Args;", b="pub struct Args;"), [])
        self.assertEqual(len(found(a="const LIMIT: u8 = 1;")), 1)
        self.assertEqual(found(a="const LIMIT_BYTES: u8 = 1; enum E { LIMIT }"), [])

    def test_the_tests_crate_is_no_product(self):
        same = {f"tests/src/{name}.rs": "struct A;" for name in "ab"}
        with trees.of({"Cargo.toml": '[workspace]\nmembers = ["tests"]', "tests/Cargo.toml": "", **same}) as tree:
            self.assertEqual(names.check(tree)[0], [])


if __name__ == "__main__":
    unittest.main()
