//! What client tools inherit from the program's environment. The program passes it in, as this
//! library reads no environment.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};

/// Where programs are looked for, and where a tool finds its own files.
const ALWAYS: [&str; 2] = ["PATH", "HOME"];
const DEFAULT_PATH: &str = "/usr/local/bin:/usr/bin:/bin";
const DEFAULT_HOME: &str = "/nonexistent";

/// A few variables by name. Without them, `PATH` has the usual value and `HOME` names a directory
/// that does not exist.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ToolEnvironment(BTreeMap<String, OsString>);

impl ToolEnvironment {
    /// `PATH`, `HOME` and those of `names`, as `variable` looks them up.
    pub fn inherit<'n>(names: impl IntoIterator<Item = &'n str>, variable: impl Fn(&str) -> Option<OsString>) -> Self {
        let names = ALWAYS.into_iter().chain(names);
        Self(names.filter_map(|name| Some((name.to_owned(), variable(name)?))).collect())
    }

    /// The variables and their values.
    pub fn variables(&self) -> impl Iterator<Item = (&str, &OsStr)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value.as_os_str()))
    }

    /// The value of a variable.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&OsStr> {
        self.0.get(name).map(OsString::as_os_str)
    }

    /// `PATH`, or its usual value.
    #[must_use]
    pub fn path(&self) -> &OsStr {
        self.get("PATH").unwrap_or(OsStr::new(DEFAULT_PATH))
    }

    /// `HOME`, or a directory that does not exist.
    #[must_use]
    pub fn home(&self) -> &OsStr {
        self.get("HOME").unwrap_or(OsStr::new(DEFAULT_HOME))
    }
}
