//! Real throw-away servers of Redis and Valkey: a unix socket in a short private path, nothing
//! saved, gone on drop. And a client that speaks with any of them, in any bytes.
//!
//! Root starts it as the user `redis`, or `nobody` where there is none.

#![allow(clippy::expect_used)]

use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use lifeboat_engine::databases::redis::{RedisAddress, RedisConfig};
use rustix::process::{Pid, Signal, kill_process_group};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::process::{Child, Command};

use crate::postgres::unprivileged;
use crate::tools;

const DEADLINE: Duration = Duration::from_secs(30);

/// A Valkey that `make setup` installs. Each writes another form of dumps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ValkeySeries {
    /// 8.1, which writes the form of Redis.
    Eight,
    /// 9.1, which writes a form of its own.
    Nine,
}

impl ValkeySeries {
    /// Where its programs are.
    ///
    /// # Panics
    /// It is not installed.
    #[must_use]
    pub fn programs(self) -> PathBuf {
        let directory = tools::workspace().join(match self {
            Self::Eight => ".tools/valkey8",
            Self::Nine => ".tools/valkey9",
        });
        for program in ["valkey-server", "valkey-check-rdb"] {
            let path = directory.join(program);
            assert!(path.is_file(), "{} is not installed: run `make setup`", path.display());
        }
        directory
    }
}

/// A running server.
pub struct Redis {
    place: TempDir,
    server: Child,
}

impl Redis {
    /// Starts a server that lets everybody in.
    ///
    /// # Panics
    /// It is not installed, or does not start; as all of the harness does.
    pub async fn start() -> Self {
        Self::start_with(&[]).await
    }

    /// Starts a server with these options.
    ///
    /// # Panics
    /// As [`Self::start`].
    pub async fn start_with(options: &[&str]) -> Self {
        Self::launch(&tools::find("redis-server"), options).await
    }

    /// Starts a server of Valkey that lets everybody in.
    ///
    /// # Panics
    /// As [`Self::start`].
    pub async fn start_valkey(series: ValkeySeries) -> Self {
        Self::launch(&series.programs().join("valkey-server"), &[]).await
    }

    async fn launch(program: &Path, options: &[&str]) -> Self {
        let place = tempfile::Builder::new().prefix("lifeboat-re-").tempdir_in("/tmp").expect("a temporary directory");
        std::fs::set_permissions(place.path(), std::fs::Permissions::from_mode(0o711)).expect("permissions");
        let mut server = Command::new(program);
        server.args(["--port", "0", "--save", "", "--unixsocketperm", "777", "--repl-diskless-sync-delay", "0"]);
        server.arg("--dir").arg(place.path()).arg("--unixsocket").arg(place.path().join("socket")).args(options);
        server.current_dir(place.path());
        if let Some((user, group)) = unprivileged("redis") {
            chown(place.path(), Some(user), Some(group)).expect("chown");
            server.uid(user).gid(group);
        }
        let log = std::fs::File::create(place.path().join("log")).expect("a log");
        let server = server.stdin(Stdio::null()).stdout(log.try_clone().expect("a log")).stderr(log).process_group(0);
        let server = server.kill_on_drop(true).spawn().expect("the server runs");
        let started = Self { place, server };
        let began = Instant::now();
        while UnixStream::connect(started.socket()).await.is_err() {
            let log = std::fs::read_to_string(started.place.path().join("log")).unwrap_or_default();
            assert!(began.elapsed() < DEADLINE, "Redis does not start: {log}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        started
    }

    /// Its socket.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.place.path().join("socket")
    }

    /// Its directory.
    #[must_use]
    pub fn directory(&self) -> &Path {
        self.place.path()
    }

    /// All of it, as this user, or as nobody in particular.
    #[must_use]
    pub fn source(&self, user: Option<&str>) -> RedisConfig {
        RedisConfig {
            address: RedisAddress::Socket { path: self.socket(), user: user.map(str::to_owned) },
            password: None,
            client_directories: Vec::new(),
        }
    }

    /// The process id of the server.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.server.id()
    }

    /// A connection as the default user.
    ///
    /// # Panics
    /// It cannot connect.
    pub async fn client(&self) -> RedisClient {
        RedisClient::connect(&self.socket()).await
    }

    /// Runs commands, one a line, of words between blanks, as the default user.
    ///
    /// # Panics
    /// On the first that is refused.
    pub async fn run(&self, commands: &str) {
        self.client().await.run(commands).await;
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        let group = self.server.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
        if let Some(group) = group {
            let _ = kill_process_group(group, Signal::KILL);
        }
        let began = Instant::now();
        while matches!(self.server.try_wait(), Ok(None)) && began.elapsed() < Duration::from_secs(5) {
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// A connection to a server.
pub struct RedisClient(BufReader<UnixStream>);

impl RedisClient {
    /// Connects to the server with this socket.
    ///
    /// # Panics
    /// It cannot connect.
    pub async fn connect(socket: &Path) -> Self {
        Self(BufReader::new(UnixStream::connect(socket).await.expect("a connection")))
    }

    /// Runs commands, one a line, of words between blanks. `''` is an empty word.
    ///
    /// # Panics
    /// On the first that is refused.
    pub async fn run(&mut self, commands: &str) {
        for command in commands.lines().map(str::trim).filter(|line| !line.is_empty()) {
            let words: Vec<&[u8]> =
                command.split_whitespace().map(|word| if word == "''" { "" } else { word }.as_bytes()).collect();
            self.command(&words).await.unwrap_or_else(|error| panic!("{command}: {error}"));
        }
    }

    /// Runs one command. Returns the elements of the answer, those of lists one after the other.
    ///
    /// # Errors
    /// What the server says when it refuses.
    ///
    /// # Panics
    /// The connection ends.
    pub async fn command(&mut self, words: &[&[u8]]) -> Result<Vec<Vec<u8>>, String> {
        let mut sent = format!("*{}\r\n", words.len()).into_bytes();
        for word in words {
            sent.extend(format!("${}\r\n", word.len()).into_bytes());
            sent.extend_from_slice(word);
            sent.extend_from_slice(b"\r\n");
        }
        self.0.get_mut().write_all(&sent).await.expect("the server reads");
        let (mut left, mut values) = (1, Vec::new());
        while left > 0 {
            left -= 1;
            let mut line = String::new();
            self.0.read_line(&mut line).await.expect("an answer");
            let line = line.trim_end();
            let (kind, rest) = line.split_at_checked(1).expect("an answer");
            match kind {
                "-" => return Err(rest.to_owned()),
                "$" if rest != "-1" => {
                    let mut value = vec![0; rest.parse::<usize>().expect("a length") + 2];
                    self.0.read_exact(&mut value).await.expect("an answer");
                    value.truncate(value.len() - 2);
                    values.push(value);
                }
                "*" => left += rest.parse::<i64>().expect("a length").max(0),
                "$" => {}
                _ => values.push(rest.as_bytes().to_vec()),
            }
        }
        Ok(values)
    }

    /// The first element of the answer, as text.
    ///
    /// # Panics
    /// The server refuses.
    pub async fn text(&mut self, command: &str) -> String {
        let words: Vec<&[u8]> = command.split_whitespace().map(str::as_bytes).collect();
        let values = self.command(&words).await.unwrap_or_else(|error| panic!("{command}: {error}"));
        values.first().map(|value| String::from_utf8_lossy(value).into_owned()).unwrap_or_default()
    }
}

/// Fills a server with everything that can go wrong in a dump, a load or a comparison.
///
/// # Panics
/// The server refuses a command.
pub async fn fill_with_awkward_data(server: &Redis) {
    let mut client = server.client().await;
    let elements: Vec<Vec<u8>> = [
        &b""[..],
        b"a",
        b"0",
        b"12",
        b"13",
        b"-1",
        b"128",
        b"4095",
        b"-4097",
        b"32768",
        b"8388608",
        b"-8388609",
        b"2147483648",
        b"9223372036854775807",
        b"-9223372036854775808",
        b"00",
        b"+1",
        b"1.5",
        b"\xff\x00\r\n\x80",
        "\u{5e9}\u{5dc}\u{5d5}\u{5dd} \u{1f6df}".as_bytes(),
    ]
    .into_iter()
    .map(<[u8]>::to_vec)
    .chain([63, 64, 4095, 4097, 9000].map(|length| vec![b'z'; length]))
    .collect();
    let mut run = async |words: &[&[u8]]| {
        client.command(words).await.unwrap_or_else(|error| panic!("{:?}: {error}", String::from_utf8_lossy(words[0])));
    };
    for (number, element) in elements.iter().enumerate() {
        let name = format!("string {number}");
        run(&[b"SET", name.as_bytes(), element]).await;
        run(&[b"SET", element, name.as_bytes()]).await;
        for (command, key) in [("RPUSH", "list"), ("LPUSH", "other list"), ("SADD", "set")] {
            run(&[command.as_bytes(), key.as_bytes(), element]).await;
        }
        run(&[b"HSET", b"hash", element, name.as_bytes()]).await;
        run(&[b"HSET", b"hash", name.as_bytes(), element]).await;
        run(&[b"ZADD", b"zset", name.len().to_string().as_bytes(), element]).await;
        run(&[b"XADD", b"binary stream", b"*", b"f", element, element, b"v"]).await;
    }
    for number in 0..1500_u32 {
        let (text, score) = (number.to_string(), (f64::from(number) * 0.1).to_string());
        run(&[b"HSET", b"wide hash", text.as_bytes(), b"v"]).await;
        run(&[b"SADD", b"wide set", format!("m{number}").as_bytes()]).await;
        run(&[b"SADD", b"integers", (i64::from(number) << 22).to_string().as_bytes()]).await;
        run(&[b"ZADD", b"wide zset", score.as_bytes(), text.as_bytes()]).await;
        run(&[b"RPUSH", b"long list", format!("element {number}").as_bytes()]).await;
        run(&[b"XADD", b"stream", format!("{}-1", number + 100).as_bytes(), b"n", text.as_bytes(), b"t", b"text"])
            .await;
    }
    let mut large = vec![0; 5_000_000];
    blake3::Hasher::new().finalize_xof().fill(&mut large);
    run(&[b"SET", b"large", &large]).await;
    run(&[b"SET", b"repetitive", &vec![b'x'; 3_000_000]]).await;
    client
        .run(
            "ZADD scores inf a -inf b 0 c -0 d 3.0000000000000004 e 1e300 f 1e-300 g
             ZADD equal 1 b 1 a 1 c
             SETBIT bits 90000 1
             PFADD hyperloglog a b c d e
             GEOADD places 13.36 38.11 Palermo
             EXPIREAT integers 4102444800
             PEXPIREAT bits 4102444800123
             XDEL stream 101-1 1599-1
             XGROUP CREATE stream group 0
             XGROUP CREATE stream idle $
             XGROUP CREATECONSUMER stream idle nobody
             XREADGROUP GROUP group first COUNT 40 STREAMS stream >
             XREADGROUP GROUP group second COUNT 5 STREAMS stream >
             XACK stream group 100-1
             XCLAIM stream group second 0 105-1
             XGROUP CREATE nothing group $ MKSTREAM
             XADD emptied 7-7 a b
             XDEL emptied 7-7
             SELECT 15
             SET only here
             SELECT 0
             ACL SETUSER app on >secret ~app:* %R~read:* &news +@read -@dangerous (~queue:* +lpush)
             ACL SETUSER off off",
        )
        .await;
    let function = b"#!lua name=lib\nredis.register_function('f', function() return 1 end)";
    client.command(&[b"FUNCTION", b"LOAD", function]).await.unwrap_or_else(|error| panic!("{error}"));
}
