//! Client tools: how they are run, fed and read, and what they inherit. And the processes of
//! throw-away servers.

pub(crate) mod causes;
pub(crate) mod environment;
pub(crate) mod hosts;
pub(crate) mod pipes;
pub(crate) mod places;
pub(crate) mod process;
mod said;
pub(crate) mod secret_file;
pub(crate) mod server;
pub(crate) mod user;
