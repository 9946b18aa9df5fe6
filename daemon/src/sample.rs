//! A configuration for tests: two directory replicas, and datasets whose source prints a line.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::fmt::Write;
use std::path::Path;

use lifeboat_engine::config::{Config, Surroundings};

pub(crate) const KEY: &str = "age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p";

/// The text of a configuration whose files are below `root`; `datasets` gives names and further
/// lines.
pub(crate) fn text(root: &Path, master: &str, datasets: &[(&str, &str)]) -> String {
    let shown = root.display();
    let mut text = format!(
        r#"host = "db1"
state_directory = "{shown}/state"
control_socket = "{shown}/control.sock"
listen = "127.0.0.1:0"
[keys]
directory = "{shown}/keys"
master_recipients = ["{master}"]
[limits]
shutdown = "5s"
"#
    );
    for (name, region) in [("frankfurt", "eu-central-1"), ("ireland", "eu-west-1")] {
        write!(
            text,
            "[[replica]]\nname = \"{name}\"\nkind = \"directory\"\nregion = \"{region}\"\npath = \"{shown}/{name}\"\n"
        )
        .unwrap();
    }
    for (name, more) in datasets {
        write!(
            text,
            "[[dataset]]\nname = \"{name}\"\nhome_region = \"eu-central-1\"\n{more}\nsource = {{ kind = \"command\", argv = [\"printf\", \"{name}\"] }}\n"
        )
        .unwrap();
    }
    text
}

/// The configuration of [`text`] with a made-up master.
pub(crate) fn config(datasets: &[(&str, &str)]) -> Config {
    let root = Path::new("/nonexistent");
    Config::parse(&text(root, KEY, datasets), Path::new("lifeboat.toml"), &Surroundings::default()).unwrap()
}
