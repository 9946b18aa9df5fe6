//! The one error of the library.
//!
//! Rules, kept by every caller:
//! - [`Error::message`] says *what* failed and *where* (dataset, replica, file, line);
//! - the source chain says *why*;
//! - [`Error::hint`] says *what to do next*;
//! - none of them ever holds a secret;
//! - [`Class`] decides the exit code, and nothing else does.
//!
//! Modules whose callers branch on the cause have an error of their own and convert it to this one
//! at their border. `ReplicaError` of the crate `lifeboat-store` is an example.

use std::fmt;

/// What kind of thing went wrong; each has its documented exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Class {
    /// Anything without a class of its own, including cancellation. Exit 1.
    Failed,
    /// The command line asks for something that cannot be. Exit 2.
    Usage,
    /// The configuration file or what it names is wrong. Exit 3.
    Configuration,
    /// A database, dump tool or restore target failed. Exit 4.
    Source,
    /// A replica or the local disk failed. Exit 5.
    Storage,
    /// Stored data is missing, damaged, forged or does not prove equal. Exit 6.
    Integrity,
    /// A key is missing, wrong, unreadable or not trusted. Exit 7.
    Keys,
    /// Everything worked, but outside the configured objectives. Exit 8.
    ObjectiveMissed,
    /// A snapshot was committed, but a part of the source is not in it. Exit 9.
    Partial,
    /// A snapshot may or may not be committed: a replica did not answer. Exit 10.
    Unknown,
}

impl Class {
    /// The process exit code of this class.
    #[must_use]
    pub fn exit_code(self) -> u8 {
        match self {
            Self::Failed => 1,
            Self::Usage => 2,
            Self::Configuration => 3,
            Self::Source => 4,
            Self::Storage => 5,
            Self::Integrity => 6,
            Self::Keys => 7,
            Self::ObjectiveMissed => 8,
            Self::Partial => 9,
            Self::Unknown => 10,
        }
    }

    /// The class of a [word](Self::as_str).
    #[must_use]
    pub fn of_word(word: &str) -> Option<Self> {
        let classes = [
            Self::Failed,
            Self::Usage,
            Self::Configuration,
            Self::Source,
            Self::Storage,
            Self::Integrity,
            Self::Keys,
            Self::ObjectiveMissed,
            Self::Partial,
            Self::Unknown,
        ];
        classes.into_iter().find(|class| class.as_str() == word)
    }

    /// The word that scripts see in `--json` errors and logs.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Failed => "failed",
            Self::Usage => "usage",
            Self::Configuration => "configuration",
            Self::Source => "source",
            Self::Storage => "storage",
            Self::Integrity => "integrity",
            Self::Keys => "keys",
            Self::ObjectiveMissed => "objective_missed",
            Self::Partial => "partial",
            Self::Unknown => "unknown",
        }
    }
}

type BoxedCause = Box<dyn std::error::Error + Send + Sync>;

/// What failed, where, why, and what to do next. See the [module](self) for the rules.
pub struct Error {
    class: Class,
    message: String,
    hint: Option<String>,
    cause: Option<BoxedCause>,
}

/// The library's result.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// An error of `class`; `message` says what failed and where.
    pub fn new(class: Class, message: impl Into<String>) -> Self {
        Self { class, message: message.into(), hint: None, cause: None }
    }

    /// [`Class::Failed`].
    pub fn failed(message: impl Into<String>) -> Self {
        Self::new(Class::Failed, message)
    }

    /// [`Class::Usage`].
    pub fn usage(message: impl Into<String>) -> Self {
        Self::new(Class::Usage, message)
    }

    /// [`Class::Configuration`].
    pub fn configuration(message: impl Into<String>) -> Self {
        Self::new(Class::Configuration, message)
    }

    /// [`Class::Source`].
    pub fn source_failed(message: impl Into<String>) -> Self {
        Self::new(Class::Source, message)
    }

    /// [`Class::Storage`].
    pub fn storage(message: impl Into<String>) -> Self {
        Self::new(Class::Storage, message)
    }

    /// [`Class::Integrity`].
    pub fn integrity(message: impl Into<String>) -> Self {
        Self::new(Class::Integrity, message)
    }

    /// [`Class::Keys`].
    pub fn keys(message: impl Into<String>) -> Self {
        Self::new(Class::Keys, message)
    }

    /// The error of work whose cancellation token fired; `what` names the work.
    #[must_use]
    pub fn cancelled(what: &str) -> Self {
        Self::failed(format!("{what} was cancelled")).hint("run it again")
    }

    /// Adds why it failed.
    #[must_use]
    pub fn because(mut self, cause: impl Into<BoxedCause>) -> Self {
        self.cause = Some(cause.into());
        self
    }

    /// Adds what to do next.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Wraps the error in a wider "what and where". Class and hint stay.
    #[must_use]
    pub fn within(self, message: impl Into<String>) -> Self {
        Self { class: self.class, message: message.into(), hint: self.hint.clone(), cause: Some(Box::new(self)) }
    }

    /// Decides the exit code.
    #[must_use]
    pub fn class(&self) -> Class {
        self.class
    }

    /// What failed and where.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.message
    }

    /// What to do next.
    #[must_use]
    pub fn hint_text(&self) -> Option<&str> {
        self.hint.as_deref()
    }

    /// The message and every cause, joined by `: `, without the hint: one line for a log.
    #[must_use]
    pub fn chain(&self) -> String {
        let mut line = self.message.clone();
        let mut cause = std::error::Error::source(self);
        while let Some(error) = cause {
            line.push_str(": ");
            line.push_str(&error.to_string());
            cause = error.source();
        }
        line
    }

    /// [`Self::chain`], and what to do next: for those who see this one line and nothing else.
    #[must_use]
    pub fn chain_and_hint(&self) -> String {
        match self.hint_text() {
            Some(hint) => format!("{} (next: {hint})", self.chain()),
            None => self.chain(),
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{}] {}", self.class.as_str(), self.chain())?;
        match &self.hint {
            Some(hint) => write!(f, " (hint: {hint})"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.cause.as_deref().map(|cause| cause as &(dyn std::error::Error + 'static))
    }
}

/// Says what failed and where for errors of other libraries.
pub trait Context<T> {
    /// Turns an error into an [`Error`] of `class` with the message that `what` gives.
    fn context<S: Into<String>>(self, class: Class, what: impl FnOnce() -> S) -> Result<T>;
}

impl<T, E: Into<BoxedCause>> Context<T> for std::result::Result<T, E> {
    fn context<S: Into<String>>(self, class: Class, what: impl FnOnce() -> S) -> Result<T> {
        self.map_err(|cause| Error::new(class, what()).because(cause))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_says_what_to_do_next() {
        let full = Error::storage("cannot write the status").because(std::io::Error::other("the disk is full"));
        assert_eq!(full.chain_and_hint(), "cannot write the status: the disk is full");
        let hinted = full.hint("make room").chain_and_hint();
        assert_eq!(hinted, "cannot write the status: the disk is full (next: make room)");
    }

    #[test]
    fn every_class_has_its_own_exit_code() {
        let classes = [
            Class::Failed,
            Class::Usage,
            Class::Configuration,
            Class::Source,
            Class::Storage,
            Class::Integrity,
            Class::Keys,
            Class::ObjectiveMissed,
            Class::Partial,
        ];
        let codes: Vec<u8> = classes.iter().map(|class| class.exit_code()).collect();
        assert_eq!(codes, [1, 2, 3, 4, 5, 6, 7, 8, 9]);
    }

    #[test]
    fn wider_context_keeps_class_and_hint() {
        let error = Error::keys("no identity opens it").hint("pass --identity").within("dataset shop");
        assert_eq!(error.class(), Class::Keys);
        assert_eq!(error.hint_text(), Some("pass --identity"));
        assert_eq!(error.chain(), "dataset shop: no identity opens it");
    }
}
