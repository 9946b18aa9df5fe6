//! The block of commands below "Set it up" in the README: a test runs the words that it shows, in
//! its order, with what they stand for in their place.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::VecDeque;

use crate::tools;

/// The commands that were not run yet, without `sudo`, the program, and where their output goes.
pub struct Block(VecDeque<String>);

impl Block {
    /// The block.
    ///
    /// # Panics
    /// The README shows none.
    #[must_use]
    pub fn of_readme() -> Self {
        let readme = std::fs::read_to_string(tools::workspace().join("README.md")).unwrap();
        let (_, section) = readme.split_once("\n## Set it up\n").unwrap();
        let block = section.split("```").nth(1).unwrap();
        let parts = block.lines().filter(|line| !line.is_empty()).flat_map(|line| {
            let line = line.split(" #").next().unwrap_or_default();
            line.split("&&").map(|part| part.split(" > ").next().unwrap_or_default().trim().to_owned())
        });
        let bare = parts.map(|part| {
            let bare = part.strip_prefix("sudo ").unwrap_or(&part);
            bare.strip_prefix("lifeboat ").unwrap_or_else(|| panic!("not a command of lifeboat: {part}")).to_owned()
        });
        Self(bare.collect())
    }

    /// The words of the next command, which begins with `shown`. `places` are what the README has
    /// in quotes and what is in its place here; `more` answers what a person would be asked.
    ///
    /// # Panics
    /// The README shows another command, or has something in quotes that nothing stands for.
    pub fn take(&mut self, shown: &str, places: &[(&str, &str)], more: &[&str]) -> Vec<String> {
        let next = self.0.pop_front().expect("the README shows no further command");
        assert!(next.starts_with(shown), "the README shows `{next}`, not `{shown}`");
        let mut words = Vec::new();
        for (number, part) in next.split('\'').enumerate() {
            if number % 2 == 0 {
                words.extend(part.split_whitespace().map(str::to_owned));
            } else {
                let real = places.iter().find(|(place, _)| *place == part);
                words.push(real.unwrap_or_else(|| panic!("nothing stands for {part}")).1.to_owned());
            }
        }
        words.extend(more.iter().map(|word| (*word).to_owned()));
        words
    }

    /// # Panics
    /// Something is left.
    pub fn end(&self) {
        assert!(self.0.is_empty(), "the README shows more: {:?}", self.0);
    }
}
