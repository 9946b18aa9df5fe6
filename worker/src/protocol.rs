//! What broker and worker say to each other. Each message is the length of its JSON (`u32`, little
//! endian), then the JSON.
//!
//! The broker's first message is a [`Job`]. A worker for a restore then loads, and replies once. A
//! worker for a drill replies [`Reply::Started`], then obeys one [`Request`] after the other.
//! Meanwhile it asks for streams: to each [`Reply::Open`] the broker answers with
//! [`Request::Opened`] and the read end of a pipe, then with [`Request::Ended`].

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;
use std::time::Duration;

use lifeboat_base::facts::SourceFacts;
use lifeboat_base::secret::Secret;
use lifeboat_base::{Class, Error};
use lifeboat_databases::DrillCommands;
use lifeboat_databases::proof::{CheckResult, DrillQuery, ProofResult};
use lifeboat_databases::{Listing, RestoreOutcome, ServerAddress, ToolEnvironment, Wanted};
use serde::{Deserialize, Serialize};

/// The longest message of a broker. A job names every stream of a snapshot.
pub(crate) const MAX_REQUEST_BYTES: usize = 256 << 20;
/// The longest message of a worker. The broker holds no more of one.
pub(crate) const MAX_REPLY_BYTES: usize = 4 << 20;

/// What a worker is to do.
#[derive(Debug, Serialize, Deserialize)]
pub struct Job {
    /// The work.
    pub work: Work,
    /// What the capture said about the source.
    pub facts: SourceFacts,
    /// The names of the streams, in the order of capture, and their lengths where they are known.
    pub streams: Vec<(String, Option<u64>)>,
    /// See `StoredStreams::left_out`.
    #[serde(default)]
    pub left_out: Vec<String>,
    /// See `WorkContext::stall`.
    pub stall: Duration,
    /// See `WorkContext::jobs`.
    pub jobs: usize,
    /// What client tools inherit.
    pub environment: Variables,
    /// An empty directory of the worker's user, for temporary files. `None`: the worker makes one.
    pub scratch: Option<PathBuf>,
}

/// The work of a [`Job`].
#[derive(Debug, Serialize, Deserialize)]
pub enum Work {
    /// Load into a throw-away database, check and prove, as [`Request`]s say.
    Drill(DrillTools),
    /// Load into a server.
    Restore {
        /// The kind of the server's engine.
        kind: String,
        /// Its address, as the operator wrote it.
        address: String,
        /// Its password.
        password: Option<Password>,
        /// Where client tools are looked for first.
        client_directories: Vec<PathBuf>,
        /// What to load, and how.
        wanted: Wanted,
    },
}

/// What of this machine a drill uses.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct DrillTools {
    /// Where server programs are looked for first.
    pub directories: Vec<PathBuf>,
    /// What restores and judges a snapshot that only its operator understands.
    pub commands: DrillCommands,
    /// So many bytes must be free where the throw-away database is made.
    #[serde(default)]
    pub needed_disk: u64,
}

/// The password of a server.
#[derive(Serialize, Deserialize)]
pub struct Password(zeroize::Zeroizing<Vec<u8>>);

impl Password {
    /// A copy of `secret`.
    #[must_use]
    pub fn of(secret: &Secret) -> Self {
        Self(secret.expose().to_vec().into())
    }

    /// The password as a secret.
    #[must_use]
    pub fn into_secret(mut self) -> Secret {
        Secret::new(std::mem::take(&mut *self.0))
    }
}

impl std::fmt::Debug for Password {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Password(…)")
    }
}

/// Variables of an environment. A value is bytes.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Variables(BTreeMap<String, Vec<u8>>);

impl Variables {
    /// Those of `environment`.
    #[must_use]
    pub fn of(environment: &ToolEnvironment) -> Self {
        Self(environment.variables().map(|(name, value)| (name.to_owned(), value.as_bytes().to_vec())).collect())
    }

    /// The environment that they make.
    #[must_use]
    pub fn environment(&self) -> ToolEnvironment {
        let names = self.0.keys().map(String::as_str);
        ToolEnvironment::inherit(names, |name| self.0.get(name).map(|value| OsString::from_vec(value.clone())))
    }
}

/// What a broker asks, after its job.
#[derive(Debug, Serialize, Deserialize)]
pub enum Request {
    /// Load the snapshot. The reply is [`Reply::Loaded`].
    Load,
    /// Check the database. The reply is [`Reply::Checked`].
    Check {
        /// The operator's queries.
        queries: Vec<DrillQuery>,
    },
    /// Run these queries alone. The reply is [`Reply::Checked`].
    Ask {
        /// The operator's queries.
        queries: Vec<DrillQuery>,
    },
    /// Compare with the snapshot. The reply is [`Reply::Proved`].
    Prove,
    /// List what is in it. The replies are [`Reply::Items`], as many as there are, then
    /// [`Reply::Listed`].
    List(Listing),
    /// Nobody wants more of the listing. What it still sends ends with [`Reply::Listed`] or
    /// [`Reply::Failed`], as always.
    Enough,
    /// Stop the throw-away database and remove its files. The reply is [`Reply::Stopped`].
    Stop,
    /// Stop what runs, clean up, and say that it failed.
    Cancel,
    /// The read end of this reader's pipe came with this message.
    Opened {
        /// The number that the worker gave the reader.
        reader: u32,
    },
    /// This reader's pipe gets no more.
    Ended {
        /// The number that the worker gave the reader.
        reader: u32,
        /// `Ok`: the stream was read to its checked end, and has this many bytes.
        result: Result<u64, WireError>,
    },
}

/// What a worker says.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum Reply {
    /// The first of its replies: it is confined so, and begins.
    Confined(Confinement),
    /// The throw-away database is there.
    Started(Started),
    /// The engine has no throw-away databases.
    NoThrowAway,
    /// Open this stream for a new reader.
    Open {
        /// A number that no reader of this worker had before.
        reader: u32,
        /// The name of the stream.
        stream: String,
    },
    /// Everything is loaded.
    Loaded,
    /// The restore succeeded.
    Restored(RestoreOutcome),
    /// The checks ran.
    Checked(Vec<CheckResult>),
    /// The comparison ran.
    Proved(ProofResult),
    /// Items of a listing; `None` where a row has no value. An item is bytes, and each character
    /// stands for one, from U+0000 to U+00FF.
    Items(Vec<Option<String>>),
    /// There are no more items.
    Listed,
    /// The throw-away database is gone.
    Stopped,
    /// What was asked failed.
    Failed(WireError),
}

/// What a worker shut behind itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Confinement {
    /// Landlock keeps files from it. `false`: it cannot be used here.
    pub files: bool,
    /// seccomp keeps system calls from it. `false`: it cannot be used here.
    pub calls: bool,
}

/// A throw-away database.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Started {
    /// Its version.
    pub server_version: String,
    /// How to reach it by hand, if it is a server.
    pub address: Option<ServerAddress>,
}

/// An error that crosses the socket.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct WireError {
    class: String,
    message: String,
    hint: Option<String>,
}

impl From<&Error> for WireError {
    fn from(error: &Error) -> Self {
        Self {
            class: error.class().as_str().to_owned(),
            message: error.chain(),
            hint: error.hint_text().map(str::to_owned),
        }
    }
}

impl From<WireError> for Error {
    fn from(error: WireError) -> Self {
        let plain = Self::new(Class::of_word(&error.class).unwrap_or(Class::Failed), error.message);
        match error.hint {
            Some(hint) => plain.hint(hint),
            None => plain,
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn an_error_keeps_class_message_and_hint() {
        let error = Error::integrity("the stream is cut").because(std::io::Error::other("end")).hint("use another");
        let json = serde_json::to_string(&WireError::from(&error)).unwrap();
        let back = Error::from(serde_json::from_str::<WireError>(&json).unwrap());
        assert_eq!(format!("{back:?}"), format!("{error:?}"));
    }

    #[test]
    fn a_password_survives_and_is_not_shown() {
        let password = Password::of(&Secret::new(b"hunter2\xff".to_vec()));
        assert!(!format!("{password:?}").contains("hunter2"));
        let back: Password = serde_json::from_slice(&serde_json::to_vec(&password).unwrap()).unwrap();
        assert_eq!(back.into_secret().expose(), b"hunter2\xff");
    }

    #[test]
    fn an_environment_survives_with_bytes_that_are_no_text() {
        let value = OsString::from_vec(b"/a\xff".to_vec());
        let environment = ToolEnvironment::inherit(["PGSSLROOTCERT"], |_| Some(value.clone()));
        assert_eq!(Variables::of(&environment).environment(), environment);
    }
}
