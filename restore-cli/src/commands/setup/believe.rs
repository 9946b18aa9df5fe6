//! Which root a machine that is set up goes by, and whether somebody looked at it first.
//!
//! - **The owners of the first root are believed for good**, and a stranger could sign one that
//!   names this machine's keys: its line is public. So a person compares the root's eight words
//!   with those that the owner's machine showed, before anything is written.
//! - **A machine never goes back**: a root that is older than the pinned one counts only if the
//!   pinned one follows from it, and then the pinned one is taken.

use lifeboat_engine::root::{self, SignedRoot};
use lifeboat_engine::state::StateDirectory;
use lifeboat_engine::{Error, Result};

use super::place::Installation;
use crate::lines;
use crate::session::Session;

/// How flags say whom to believe.
#[derive(Debug, Clone, Default, clap::Args)]
pub(super) struct RootFlags {
    /// The root that `lifeboat owner init` printed; `-` reads standard input, @FILE a file
    #[arg(long, value_name = "LINE")]
    root: Option<String>,
    /// The eight words that the owner's machine showed for the root; no other root is taken
    /// [default: asked for]
    #[arg(long, value_name = "WORDS", requires = "root")]
    root_words: Option<String>,
}

impl RootFlags {
    /// Whether a root is given.
    pub(super) fn is_given(&self) -> bool {
        self.root.is_some()
    }

    /// The flags for a root of this very machine.
    ///
    /// # Errors
    /// It is none.
    pub(super) fn of_trial(root: String) -> Result<Self> {
        let words = root::read_signed(&root)?.fingerprint();
        Ok(Self { root: Some(root), root_words: Some(words) })
    }

    /// The root that is given, or the pinned one that follows from it. Shows its words.
    ///
    /// # Errors
    /// It is none, its owners did not sign it, it has other words, or this machine knows a newer
    /// one that does not follow from it.
    pub(super) fn read(&self, at: &Installation, session: &Session) -> Result<SignedRoot> {
        let Some(given) = &self.root else {
            return Err(Error::usage("no root is given, so nobody says whom this machine may believe")
                .hint("run `lifeboat setup host` here, let the owner run `lifeboat owner init 'LINE'`, and pass what that prints with --root; or try it on one machine with --try"));
        };
        let given = root::read_signed(lines::given(given)?.trim())?;
        let words = given.fingerprint();
        if self.root_words.as_ref().is_some_and(|wanted| plain(wanted) != words) {
            return Err(Error::keys("the root has other words than --root-words")
                .because(format!("its words are: {words}"))
                .hint("do not go on with this line: get it again from the owner's machine, in a way that nobody can change"));
        }
        // Looking must make no directory.
        let known = if at.state.is_dir() { root::pinned(&StateDirectory::open(&at.state)?)? } else { Vec::new() };
        let version = given.root.version;
        let root = newest(given, known)?;
        if root.root.version > version {
            session.out.note(format!("root {version} is followed by root {}, which is known here", root.root.version));
        }
        let (version, vault) = (root.root.version, &root.root.vault);
        session.out.asked_about(format!("root {version} of vault {vault}: {}", root.fingerprint()));
        Ok(root)
    }

    /// Goes on only if somebody compared the root's words, or answers for it with `yes`. A
    /// configuration that is there names its owners, and is never replaced by one of others.
    ///
    /// # Errors
    /// The person says no, or there is nobody to ask.
    pub(super) async fn believe(
        &self,
        root: &SignedRoot,
        at: &Installation,
        yes: bool,
        session: &Session,
    ) -> Result<()> {
        if self.root_words.is_some() || at.config.exists() {
            return Ok(());
        }
        if yes {
            session.out.warning(format!(
                "nobody compared the root's words with those that the owner's machine showed: {}",
                root.fingerprint()
            ));
            return Ok(());
        }
        let question = "Are these eight words those that the owner's machine showed for the root?".to_owned();
        let hint = "pass these words with --root-words 'WORDS', as the owner's machine showed them";
        session.confirm_by(false, question, "yes".to_owned(), hint.to_owned()).await
    }
}

/// Words as a person types them, as they are shown.
fn plain(words: &str) -> String {
    words.split_whitespace().map(str::to_lowercase).collect::<Vec<_>>().join(" ")
}

/// The root to go by, where `known` are pinned, the newest last.
fn newest(given: SignedRoot, mut known: Vec<SignedRoot>) -> Result<SignedRoot> {
    let is_given = |root: &SignedRoot| root.hash() == given.hash();
    let Some(newest) = known.pop() else { return Ok(given) };
    if is_given(&newest) || newest.root.version < given.root.version {
        return Ok(given);
    }
    if known.iter().any(is_given) {
        return Ok(newest);
    }
    let why = if newest.root.owners == given.root.owners {
        "it does not follow from the one that was given"
    } else {
        "the one that was given has other owners"
    };
    let (known, given) = (newest.root.version, given.root.version);
    Err(Error::keys(format!("root {known} is installed here, and another root {given} was given"))
        .because(why)
        .hint("pass what `lifeboat root show --line` prints here"))
}
