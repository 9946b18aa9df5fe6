//! A log for each principal: what backup hosts, drill hosts and owners did, signed by each and
//! chained by hash. See "Log" in `FORMAT.md`.
//!
//! - **Before it happens** (`append.rs`): a record is in at least one replica, or kept here to be
//!   sent later, before its caller goes on. The other replicas get it with the next one.
//! - **A log cannot be cut** where somebody remembers more (`seen.rs`): every principal keeps the
//!   newest records of all others in its state directory, and names them in its own records.
//! - **One hostile replica hides nothing** that another one shows (`backwards.rs`), also by names
//!   that are no records.
//! - **Anybody can check** (`audit.rs`): all logs, in one replica, several, or a copy on disk.
//!
//! A replica is hostile: what it shows counts by its signature and its place in the chain alone.
//! Only vaults with a root have logs: the root says who writes which (`keys/trust/logs.rs`).

mod append;
mod audit;
mod backwards;
mod host;
mod own;
mod reader;
mod seen;

pub use append::{Logbook, Recorded};
pub use audit::{Audit, AuditedLog, Expected, audit};
pub(crate) use backwards::{LogBackwards, fetch_record};
pub use host::HostLog;
pub use reader::{LogReader, LoggedRecord};
pub use seen::{LooksBack, accept_what_is_there, look};
