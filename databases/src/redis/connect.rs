//! Runs `redis-cli`. A password reaches it by its standard input, never by argv or environment.
//!
//! A client whose password is wrong goes on as the default user. Here that is an error.

use lifeboat_base::secret::Secret;
use lifeboat_base::{Class, Context, Error, Result};
use zeroize::Zeroizing;

use super::address::RedisAddress;
use super::clients::RedisClient;
use super::failures::explained;
use super::replies::{RedisReply, reply};
use crate::database::WorkContext;
use crate::tool::process::{Invocation, Tool};
use crate::tool::secret_file::password_line;

/// No answer is longer.
const MAX_REDIS_ANSWER_BYTES: usize = 64 << 20;
/// What the client says when it was not let in.
const NOT_LET_IN: &str = "AUTH failed";

/// What the client says when there is no such database.
const NO_DATABASE: &str = "DB index is out of range";

/// What newer clients say when they cannot choose a database.
const SELECT_FAILED: &str = "SELECT ";

/// How to reach one server.
#[derive(Debug, Clone)]
pub(super) struct RedisConnection {
    client: RedisClient,
    /// Where it is.
    place: Vec<String>,
    user: Option<String>,
    /// Where it is, and who we are.
    arguments: Vec<String>,
    /// The line with the password; `None` for nobody in particular.
    password: Option<Zeroizing<String>>,
}

impl RedisConnection {
    /// # Errors
    /// The password is no line of text.
    pub(super) fn new(client: RedisClient, to: &RedisAddress, password: Option<&Secret>) -> Result<Self> {
        let place = to.arguments();
        let mut arguments = place.clone();
        let user = to.user();
        // A user who needs no password signs in with any.
        let password = match (password, &user) {
            (None, None) => None,
            (None, Some(_)) => Some(Zeroizing::new("\n".to_owned())),
            (Some(password), _) => Some(Zeroizing::new(format!("{}\n", password_line(password)?))),
        };
        if password.is_some() {
            arguments.push("--askpass".to_owned());
        }
        if let Some(user) = &user {
            arguments.extend(["--user".to_owned(), user.clone()]);
        }
        Ok(Self { client, place, user, arguments, password })
    }

    pub(super) fn client(&self) -> &RedisClient {
        &self.client
    }

    /// Starts the client with these arguments.
    pub(super) async fn start(&self, arguments: &[&str], cx: &WorkContext) -> Result<Tool> {
        let all = self.arguments.iter().map(String::as_str).chain(arguments.iter().copied());
        let mut tool = Invocation::new(&self.client.path, all, cx).start(self.password.is_some())?;
        if let (Some(password), Some(mut input)) = (&self.password, tool.take_stdin()) {
            let given = input.write_all(password.as_bytes()).await;
            given.context(Class::Source, || "redis-cli does not take the password")?;
        }
        Ok(tool)
    }

    /// The client that passes on commands as servers read them, from its standard input. Those of
    /// [`Self::sign_in`] come first.
    pub(super) fn passing_on(&self, cx: &WorkContext) -> Invocation {
        // Without an answer for this long after the last command, it fails. Some take long.
        let patience = cx.stall.as_secs().to_string();
        let words = ["--pipe", "--pipe-timeout", &patience];
        let all = self.place.iter().map(String::as_str).chain(words);
        Invocation::new(&self.client.path, all, cx)
    }

    /// The command that signs in, if one is needed.
    pub(super) fn sign_in(&self) -> Option<Vec<&[u8]>> {
        let password = self.password.as_ref()?.trim_end_matches('\n').as_bytes();
        let user = self.user.as_ref().map(String::as_bytes);
        Some(std::iter::once(&b"AUTH"[..]).chain(user).chain([password]).collect())
    }

    /// The server's answer to a command, in this database.
    ///
    /// # Errors
    /// The server cannot be reached, or does not let us in.
    pub(super) async fn ask_in(&self, database: u64, command: &[&str], cx: &WorkContext) -> Result<RedisReply> {
        let database = database.to_string();
        let arguments = [&["--no-raw", "-n", &database][..], command].concat();
        let mut tool = self.start(&arguments, cx).await?;
        let mut answer = Vec::new();
        while let Some(piece) = tool.read().await.map_err(explained)? {
            answer.extend_from_slice(&piece);
            if answer.len() > MAX_REDIS_ANSWER_BYTES {
                return Err(Error::source_failed("the Redis server gave an answer of more than 64 MiB"));
            }
        }
        self.finish(&mut tool).await?;
        // The client goes on in database 0 then, and does so whatever the reason is.
        match tool.said().contains(NO_DATABASE) || tool.said().contains(SELECT_FAILED) {
            true => Ok(RedisReply::Refused(format!("the server does not choose database {database}"))),
            false => reply(&answer),
        }
    }

    /// As [`Self::ask_in`], in database 0.
    pub(super) async fn ask(&self, command: &[&str], cx: &WorkContext) -> Result<RedisReply> {
        self.ask_in(0, command, cx).await
    }

    /// The elements of the answer, as text.
    ///
    /// # Errors
    /// As [`Self::ask_in`]; or the server refuses.
    pub(super) async fn values(&self, command: &[&str], cx: &WorkContext) -> Result<Vec<String>> {
        match self.ask(command, cx).await? {
            RedisReply::Values(values) => {
                Ok(values.iter().map(|value| String::from_utf8_lossy(value).into_owned()).collect())
            }
            RedisReply::Refused(why) => Err(refused(command, &why)),
        }
    }

    /// Waits for the end of a client, and makes sure that the server let it in.
    pub(super) async fn finish(&self, tool: &mut Tool) -> Result<()> {
        tool.finish(0).await.map_err(explained)?;
        match tool.said().contains(NOT_LET_IN) {
            true => Err(explained(Error::source_failed(format!("the Redis server lets nobody in{}", tool.said())))),
            false => Ok(()),
        }
    }
}

/// The server refused a command.
pub(super) fn refused(command: &[&str], why: &str) -> Error {
    explained(Error::source_failed(format!("the Redis server refuses {}: {}", command.join(" "), why.escape_debug())))
}
