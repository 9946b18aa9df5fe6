//! `command`: the standard output of a program is the stream.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::path::Path;

use async_trait::async_trait;
use lifeboat_base::facts::SourceFacts;
use lifeboat_base::settings::{Section, SettingsReader, Text};
use lifeboat_base::{Error, Result};
use serde::Deserialize;
use toml::Spanned;

use crate::database::{Database, Source, WorkContext};
use crate::proof::ProofLevel;
use crate::streams::{MAX_STREAM_NAME_BYTES, StreamSink};
use crate::tool::process::Invocation;

const COMMAND_KIND: &str = "command";
const DEFAULT_STREAM: &str = "stdout";

/// The engine of kind `command`.
#[derive(Debug)]
pub struct Command;

/// The validated settings of a program to run.
#[derive(Debug, Clone)]
pub struct CommandConfig {
    /// The program and its arguments. No shell reads them.
    pub argv: Vec<String>,
    /// Variables that are added to a minimal environment (`PATH`, `HOME`, `LC_ALL=C.UTF-8`).
    pub environment: BTreeMap<String, String>,
    /// The exit status that means success.
    pub expected_status: i32,
    /// The name of the stream.
    pub stream: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawCommand {
    argv: Option<Spanned<Vec<String>>>,
    #[serde(default)]
    environment: BTreeMap<String, String>,
    #[serde(default)]
    expected_status: i32,
    stream: Option<Text>,
}

impl Database for Command {
    fn kind(&self) -> &'static str {
        COMMAND_KIND
    }

    fn keys(&self) -> &'static [&'static str] {
        &["argv", "environment", "expected_status", "stream"]
    }

    fn source(&self, section: Section<'_>, reader: &mut SettingsReader<'_>) -> Option<Box<dyn Source>> {
        parse(section, reader).map(|config| Box::new(CommandSource(config)) as Box<dyn Source>)
    }

    fn highest_level(&self) -> ProofLevel {
        ProofLevel::Fetched
    }
}

fn parse(section: Section<'_>, reader: &mut SettingsReader<'_>) -> Option<CommandConfig> {
    let place = section.place();
    let raw: RawCommand = section.read(reader)?;
    let argv = reader.required(raw.argv.as_ref(), "argv", &place)?;
    if argv.get_ref().first().is_none_or(String::is_empty) {
        reader.findings.add(argv.span(), "argv is empty", "name a program and its arguments");
        return None;
    }
    let stream = raw.stream.as_ref().map_or(DEFAULT_STREAM, |stream| stream.get_ref().as_str());
    let is_path = stream.split('/').all(|part| !matches!(part, "" | "." | ".."));
    if stream.len() > MAX_STREAM_NAME_BYTES || stream.chars().any(char::is_control) || !is_path {
        let span = raw.stream.as_ref().map_or(0..0, Spanned::span);
        reader.findings.add(
            span,
            "this stream name is not usable",
            "use a path such as `dump` or `app/dump`, of at most 1024 bytes without control characters",
        );
    }
    Some(CommandConfig {
        argv: argv.get_ref().clone(),
        environment: raw.environment,
        expected_status: raw.expected_status,
        stream: stream.to_owned(),
    })
}

/// Runs the configured program.
#[derive(Debug, Clone)]
pub struct CommandSource(pub CommandConfig);

#[async_trait]
impl Source for CommandSource {
    fn database(&self) -> &'static dyn Database {
        &Command
    }

    async fn capture(&self, sink: &dyn StreamSink, cx: &WorkContext) -> Result<SourceFacts> {
        let Some((program, arguments)) = self.0.argv.split_first() else {
            return Err(Error::configuration("the command to back up is empty")
                .hint("name a program and its arguments in argv"));
        };
        let environment = self.0.environment.iter().map(|(name, value)| (name.as_str(), OsStr::new(value)));
        let mut tool = Invocation::new(Path::new(program), arguments, cx).envs(environment).start(false)?;
        let mut stream = sink.open(&self.0.stream)?;
        tool.pump(stream.as_mut(), |_| Ok(())).await?;
        let exit = tool.finish(self.0.expected_status).await?;
        stream.finish(exit).await?;
        Ok(SourceFacts { engine: COMMAND_KIND.to_owned(), ..SourceFacts::default() })
    }
}
