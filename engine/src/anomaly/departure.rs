//! One way in which a snapshot departs from its history, and how it is told.

use std::fmt;

use serde::{Deserialize, Serialize};

/// What departs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// A stream is missing. Figures: bytes.
    Missing,
    /// The size fell. Figures: bytes.
    Shrank,
    /// The size rose. Figures: bytes.
    Grew,
    /// The share of new data rose. Figures: parts of 1.
    Rewritten,
    /// New data does not compress as it did. Figures: parts of 1.
    Incompressible,
    /// New data is nearly all the same. Figures: parts of 1.
    Uniform,
}

/// One way in which a snapshot departs from its history.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Departure {
    /// What departs.
    pub kind: Kind,
    /// The stream; `None`: all of them together.
    pub stream: Option<String>,
    /// What was normal.
    pub was: f64,
    /// What is.
    pub is: f64,
}

impl fmt::Display for Departure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kind, stream, was, is } = self;
        match stream {
            // A name is what the source says.
            Some(name) => write!(f, "stream `{}`", name.escape_debug())?,
            None => write!(f, "the snapshot")?,
        }
        match kind {
            Kind::Missing => write!(f, " is missing; it had {}", Bytes(*was)),
            Kind::Shrank => write!(f, " shrank to {}; normal is {}", Bytes(*is), Bytes(*was)),
            Kind::Grew => write!(f, " grew to {}; normal is {}", Bytes(*is), Bytes(*was)),
            Kind::Rewritten => {
                write!(f, " has {:.0} % new data; before, it had at most {:.0} %", is * 100.0, was * 100.0)
            }
            Kind::Incompressible => write!(
                f,
                " has new data that compresses to {:.0} %; normal is at most {:.0} %",
                is * 100.0,
                was * 100.0
            ),
            Kind::Uniform => write!(
                f,
                " is rewritten with nearly the same everywhere: it compresses to {:.1} %; normal is {:.0} %",
                is * 100.0,
                was * 100.0
            ),
        }
    }
}

/// A size as people read it.
struct Bytes(f64);

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let units = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
        let (mut value, mut unit) = (self.0, 0);
        while value >= 1023.95 && unit + 1 < units.len() {
            value /= 1024.0;
            unit += 1;
        }
        if unit == 0 { write!(f, "{value:.0} B") } else { write!(f, "{value:.1} {}", units[unit]) }
    }
}
