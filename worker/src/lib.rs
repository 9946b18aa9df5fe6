//! Work with databases in a process that holds no key.
//!
//! Whoever can write to a vault, or to a captured database, decides what a restore and a drill run:
//! functions, triggers, whole archives. So the process that holds an identity, the **broker**,
//! starts no server and no client. It decrypts, and gives the plaintext to a **worker**: a process
//! of its own, with another user where that can be, inside Landlock and seccomp. The worker runs
//! the engines of `lifeboat-databases`, and cannot decrypt: no crate below it knows vaults or keys.
//!
//! - **Between them** is one unix socket: first a [job](protocol), then requests and replies. Each
//!   stream of the snapshot has a pipe of its own, which the broker makes and hands over.
//! - **Trust**: the worker trusts the broker. The broker believes a worker nothing but the worker's
//!   own verdict: a reply is bounded, its texts are never published, and a load counts only after
//!   the broker itself has read every stream to its checked end.
//! - **The end**: if either side ends, however it ends, the other sees the end of the socket. The
//!   worker then stops what it started and removes its files. A worker that is killed cannot, so
//!   the broker kills what is left of its session. If both are killed, the next drill sweeps.
//!
//! A hostile snapshot that takes the worker over can make it lie about the verdict, and nothing
//! else. Comparing in the broker would not change that, as the worker has seen everything that it
//! would have to give back.

mod broker;
mod channel;
pub mod disk;
mod leftovers;
pub mod protocol;
pub mod serve;

pub use self::broker::place::{Guard, WorkerPlace};
pub use self::broker::server::ServerByWorker;
pub use self::broker::throw_away::throw_away;
pub use self::leftovers::{DrillDirectory, Swept, sweep};
