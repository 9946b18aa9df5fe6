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

use crate::database::{Database, Source, SourceCheck, WorkContext};
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
    /// The exit statuses that mean success. If 0 is one of them, another one is worth a warning.
    pub expected_status: Vec<i32>,
    /// Whether a stream without a byte is a snapshot.
    pub allow_empty: bool,
    /// The name of the stream.
    pub stream: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawCommand {
    argv: Option<Spanned<Vec<String>>>,
    #[serde(default)]
    environment: BTreeMap<String, String>,
    expected_status: Option<RawStatus>,
    #[serde(default)]
    allow_empty: bool,
    stream: Option<Text>,
}

/// One status or several.
#[derive(Deserialize)]
#[serde(untagged)]
enum RawStatus {
    One(i32),
    Several(Vec<i32>),
}

impl Database for Command {
    fn kind(&self) -> &'static str {
        COMMAND_KIND
    }

    fn keys(&self) -> &'static [&'static str] {
        &["allow_empty", "argv", "environment", "expected_status", "stream"]
    }

    fn source(&self, section: Section<'_>, reader: &mut SettingsReader<'_>) -> Option<Box<dyn Source>> {
        parse(section, reader).map(|config| Box::new(CommandSource(config)) as Box<dyn Source>)
    }

    fn has_rows(&self, _: &str) -> bool {
        true
    }

    fn highest_level(&self) -> ProofLevel {
        ProofLevel::Fetched
    }

    fn takes_commands(&self) -> bool {
        true
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
    let expected_status = match raw.expected_status {
        None => vec![0],
        Some(RawStatus::One(status)) => vec![status],
        Some(RawStatus::Several(several)) => several,
    };
    if expected_status.is_empty() {
        reader.findings.add(
            argv.span(),
            "expected_status lists no status, so every run would fail",
            "name one, such as 0",
        );
    }
    Some(CommandConfig {
        argv: argv.get_ref().clone(),
        environment: raw.environment,
        expected_status,
        allow_empty: raw.allow_empty,
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

    fn may_be_empty(&self) -> bool {
        self.0.allow_empty
    }

    /// It is not run: only the configuration's author knows what that does.
    async fn check(&self, cx: &WorkContext) -> SourceCheck {
        let program = self.0.argv.first().map(String::as_str).unwrap_or_default();
        let runs = |path: &Path| path.is_file() && rustix::fs::access(path, rustix::fs::Access::EXEC_OK).is_ok();
        let found = if program.contains('/') {
            runs(Path::new(program))
        } else {
            std::env::split_paths(cx.environment.path()).any(|folder| runs(&folder.join(program)))
        };
        if found {
            return SourceCheck::default();
        }
        SourceCheck::of(
            Error::source_failed(format!("the program {program} cannot be run here"))
                .hint(format!("install {program}, or correct the first word of argv; a path from the root is surest")),
        )
    }

    async fn capture(&self, sink: &dyn StreamSink, cx: &WorkContext) -> Result<SourceFacts> {
        let Some((program, arguments)) = self.0.argv.split_first() else {
            return Err(Error::configuration("the command to back up is empty")
                .hint("name a program and its arguments in argv"));
        };
        let environment = self.0.environment.iter().map(|(name, value)| (name.as_str(), OsStr::new(value)));
        let mut tool = Invocation::new(Path::new(program), arguments, cx).envs(environment).start(false)?;
        let mut stream = sink.open(&self.0.stream)?;
        let mut length = 0;
        tool.pump(stream.as_mut(), |piece| {
            length += piece.len();
            Ok(())
        })
        .await?;
        let exit = tool.finish_with(&self.0.expected_status).await.map_err(|error| match error.hint_text() {
            Some(_) => error,
            None => {
                error.hint("run it by hand; if this status is no failure, add it to expected_status, such as [0, 1]")
            }
        })?;
        if length == 0 && !self.0.allow_empty {
            return Err(Error::source_failed(format!("{program} exited with status {exit}, but wrote nothing"))
                .hint("run it by hand to see why; if nothing is right, set allow_empty = true"));
        }
        let mut warnings = Vec::new();
        if exit != 0 && self.0.expected_status.contains(&0) {
            warnings.push(format!(
                "{program} exited with status {exit}, which expected_status allows: its output may be incomplete"
            ));
        }
        stream.finish(exit).await?;
        Ok(SourceFacts { engine: COMMAND_KIND.to_owned(), warnings, ..SourceFacts::default() })
    }
}
