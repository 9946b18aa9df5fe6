//! `command`: the standard output of a program is the stream.

use std::ffi::OsStr;
use std::path::Path;

use async_trait::async_trait;

use super::process::Invocation;
use super::{CaptureContext, Source, SourceFacts, StreamSink};
use crate::config::CommandConfig;
use crate::error::{Error, Result};

/// Runs the configured program.
#[derive(Debug, Clone)]
pub(super) struct CommandSource(pub(super) CommandConfig);

#[async_trait]
impl Source for CommandSource {
    async fn capture(&self, sink: &dyn StreamSink, cx: &CaptureContext) -> Result<SourceFacts> {
        let Some((program, arguments)) = self.0.argv.split_first() else {
            return Err(Error::configuration("the command is empty"));
        };
        let environment = self.0.environment.iter().map(|(name, value)| (name.as_str(), OsStr::new(value)));
        let mut tool = Invocation::new(Path::new(program), arguments, cx).envs(environment).start(false)?;
        let mut stream = sink.open(&self.0.stream)?;
        tool.pump(stream.as_mut(), |_| Ok(())).await?;
        let exit = tool.finish(self.0.expected_status).await?;
        stream.finish(exit).await?;
        Ok(SourceFacts { engine: "command".to_owned(), ..SourceFacts::default() })
    }
}
