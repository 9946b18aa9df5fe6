"""The circle check can fail, and sees no circle where the rules see none."""

import unittest

import circles
import rust
import trees


def found(**files: str) -> list[str]:
    """What it finds in a crate of these files; `__` in a name stands for `/`."""
    sources = {f"src/{name.replace('__', '/')}.rs": text for name, text in files.items()}
    with trees.crate(sources) as tree:
        return [str(finding) for finding in circles.check(tree)[0]]


class Circles(unittest.TestCase):
    """On small crates."""

    def test_two_files_that_use_each_other(self):
        self.assertEqual(
            found(lib="mod a;\nmod b;", a="use crate::b::B;\npub struct A;", b="pub struct B;\nfn f(_: super::a::A) {}"),
            [
                "it/src/a.rs:1: in a circle of 2 files: uses B of it/src/b.rs",
                "it/src/b.rs:2: in a circle of 2 files: uses A of it/src/a.rs",
            ],
        )

    def test_through_a_third_file_by_braces_alias_self_and_glob(self):
        lines = found(
            lib="mod a; mod b; mod c;",
            a="use crate::{b::{self as other, B}, c};\npub struct A;",
            b="use super::c::*;\npub struct B(C);",
            c="pub struct C; use super::a as x; fn f() -> x::A { x::A }",
        )
        self.assertEqual([line.split(":")[0] for line in lines], ["it/src/a.rs", "it/src/b.rs", "it/src/c.rs"])

    def test_a_glob_counts_for_what_is_taken_from_it(self):
        self.assertEqual(found(lib="mod a; mod b;", a="use crate::b::*; pub struct A;", b="use crate::a::A; pub struct B;"), [])

    def test_a_childs_use_of_its_parent_does_not_count_but_a_siblings_does(self):
        parent = "mod x; mod y; pub use self::x::X; pub struct M; fn f(_: y::Y) {}"
        self.assertEqual(found(lib="mod m;", m__mod=parent, m__x="use super::M; pub struct X;", m__y="pub struct Y;"), [])
        lines = found(lib="mod m;", m__mod=parent, m__x="use super::y::Y; pub struct X;", m__y="use super::X; pub struct Y;")
        self.assertEqual(len(lines), 2)

    def test_what_another_module_re_exports_counts_as_used_of_both(self):
        lines = found(
            lib="mod a; mod m;",
            a="use crate::m::X; pub struct A;",
            m__mod="mod x; pub use x::X; use crate::a::A;",
            m__x="pub struct X;",
        )
        self.assertEqual([line.split(":")[0] for line in lines], ["it/src/a.rs", "it/src/m/mod.rs"])

    def test_a_file_that_no_module_names_is_not_passed_over(self):
        self.assertEqual(found(lib="mod a;", a="", b=""), ["it/src/b.rs:1: no module names this file"])

    def test_tests_comments_strings_and_re_exports_do_not_count(self):
        self.assertEqual(
            found(
                lib="mod a; mod b; #[cfg(test)] mod tests;",
                a="use crate::b::B;\npub struct A;\n#[cfg(test)]\nmod tests { use super::A; }",
                b="""//! [`crate::a::A`]
                    pub struct B; pub use crate::a::A;
                    const TEXT: &str = "crate::a::A"; const RAW: &str = r#" " crate::a::A "#;
                    /* crate::a::A /* nested */ */
                    #[cfg(test)] mod tests { use crate::a::A; fn f(_: &'static str) {} }""",
                tests="use crate::a::A; use crate::b::B;",
            ),
            [],
        )


class Tests(unittest.TestCase):
    """What is there for tests alone."""

    def test_only_what_cfg_test_covers_is_left_out(self):
        text = "struct S { #[cfg(test)] a: Vec<u8>, b: u8 } #[cfg(test)] #[allow(x)] fn f() { g(); } fn h() {}"
        code, _ = rust.without_tests(rust.code(text))
        self.assertEqual(code.split(), "struct S { b: u8 } fn h() {}".split())
        self.assertEqual(rust.without_tests("#[cfg(test)] mod a; mod b;")[1], {"a"})
        self.assertIn("fn f", rust.without_tests("#[cfg(not(test))] fn f() {}")[0])


if __name__ == "__main__":
    unittest.main()
