//! Logs: the journal with fields, JSON lines, or text.

use std::io::IsTerminal;

use lifeboat_engine::error::{Class, Context};
use lifeboat_engine::{Error, Result};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer};

use crate::cli::LogFormat;

/// Starts logging. `by_systemd`: standard error is the journal.
///
/// # Errors
/// The level does not parse, or the journal cannot be reached although it was asked for.
pub(crate) fn start(format: LogFormat, level: &str, by_systemd: bool) -> Result<()> {
    let filter = EnvFilter::try_new(level)
        .map_err(|cause| Error::usage(format!("`{level}` is not a log level")).because(cause))?;
    let format = match format {
        LogFormat::Auto if by_systemd => LogFormat::Journald,
        LogFormat::Auto if std::io::stderr().is_terminal() => LogFormat::Text,
        LogFormat::Auto => LogFormat::Json,
        chosen => chosen,
    };
    let layer = match format {
        LogFormat::Journald => {
            tracing_journald::layer().context(Class::Failed, || "the journal cannot be reached")?.boxed()
        }
        LogFormat::Text => tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_target(false).boxed(),
        LogFormat::Json | LogFormat::Auto => {
            tracing_subscriber::fmt::layer().json().with_writer(std::io::stderr).boxed()
        }
    };
    tracing_subscriber::registry()
        .with(filter)
        .with(layer)
        .try_init()
        .context(Class::Failed, || "logging was started twice")
}
