//! What a capture tells of its source. The manifest keeps it, and a restore needs it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// What the source tells of a capture; goes into the manifest, so never a secret.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceFacts {
    /// `postgres`, `sqlite`, `file`, `command`.
    pub engine: String,
    /// As the server tells it, such as `15.14`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server_version: Option<String>,
    /// Tool name to version, such as `pg_dump` to `15.14`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub tools: BTreeMap<String, String>,
    /// What a restore needs to know: for `postgres` the bootstrap superuser, encoding and locale.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub details: BTreeMap<String, String>,
    /// What an operator should know of this capture, in plain words.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
}
