//! What a capture says about its source. The manifest keeps it, and a restore needs it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// What a capture says about its source. It goes into the manifest, so it never holds a secret.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceFacts {
    /// The kind of the engine: `postgres`, `mariadb`, `redis`, `sqlite`, `files`, `file` or
    /// `command`.
    pub engine: String,
    /// The server's version in its own words, such as `15.14`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server_version: Option<String>,
    /// The versions of the tools by name, such as `15.14` of `pg_dump`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub tools: BTreeMap<String, String>,
    /// What a restore needs to know: for `postgres` the bootstrap superuser, encoding and locale,
    /// for `mariadb` settings that its dumps depend on, and positions in the binary log.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub details: BTreeMap<String, String>,
    /// What an operator should know about this capture, in plain words.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
    /// Databases of the source that are not in the capture although they should be. If there are
    /// any, the snapshot is partial.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub skipped: Vec<String>,
}
