//! The log: one event per line, to the journal or standard error. On standard error, whatever a
//! terminal would obey is escaped; the journal's own tools do this for the journal.

use std::io::IsTerminal;

use lifeboat_engine::base::escape::{Events, LogWriter};
use lifeboat_engine::base::{Class, Context, Result};
use tracing::level_filters::LevelFilter;
use tracing_subscriber::layer::{Layer, SubscriberExt};
use tracing_subscriber::registry::Registry;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, fmt};

/// How the log is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Format {
    /// journald if standard error goes to the journal, text on a terminal, otherwise json
    Auto,
    /// The journal, with fields
    Journald,
    /// Lines for people, on standard error
    Text,
    /// One JSON document per line, on standard error
    Json,
}

impl Format {
    /// What `auto` stands for here.
    fn resolve(self, under_journald: bool, terminal: bool) -> Self {
        match self {
            Self::Auto if under_journald => Self::Journald,
            Self::Auto if terminal => Self::Text,
            Self::Auto => Self::Json,
            given => given,
        }
    }
}

/// Starts the log. `under_journald`: systemd connected standard error to the journal.
///
/// # Errors
/// The journal cannot be reached.
pub(crate) fn start(format: Format, level: LevelFilter, under_journald: bool) -> Result<()> {
    let layer: Box<dyn Layer<Registry> + Send + Sync> = match format
        .resolve(under_journald, std::io::stderr().is_terminal())
    {
        Format::Journald => tracing_journald::layer().context(Class::Failed, || "cannot reach the journal")?.boxed(),
        Format::Text => {
            fmt::layer().with_writer(|| to_stderr(Events::Text)).with_ansi(false).with_target(false).compact().boxed()
        }
        Format::Json | Format::Auto => {
            fmt::layer().json().flatten_event(true).with_writer(|| to_stderr(Events::Json)).boxed()
        }
    };
    // Other crates' details are not the operator's concern, and may hold more than they should.
    let filter = format!("{},lifeboat={level}", level.min(LevelFilter::WARN));
    let registry = tracing_subscriber::registry().with(layer.with_filter(EnvFilter::new(filter)));
    registry.try_init().context(Class::Failed, || "cannot start the log")
}

fn to_stderr(events: Events) -> LogWriter<std::io::Stderr> {
    LogWriter::new(std::io::stderr(), events)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn auto_goes_where_somebody_reads() {
        assert_eq!(Format::Auto.resolve(true, false), Format::Journald);
        assert_eq!(Format::Auto.resolve(false, true), Format::Text);
        assert_eq!(Format::Auto.resolve(false, false), Format::Json);
        assert_eq!(Format::Text.resolve(true, false), Format::Text);
    }
}
