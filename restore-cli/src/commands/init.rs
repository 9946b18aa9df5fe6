//! `init`: creates the vault and the keys, and says which file belongs on which host.

use std::fmt;

use lifeboat_engine::base::escape;
use lifeboat_engine::format::log::LogEvent;
use lifeboat_engine::keys;
use lifeboat_engine::keys::{InitItem, InitOptions, InitReport};
use lifeboat_engine::{Error, Result};
use serde::Serialize;

use super::root_request::FloorFlags;
use crate::access;
use crate::recording;
use crate::session::Session;
use crate::table::Plain;

/// Create the vault and the keys, or what is missing of them; never overwrites a key, and may be
/// run again
///
/// With --identity MASTER it takes over for a lost host, or applies changed master and drill
/// recipients.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Recipient of keys that are taken over although the host that signed them was revoked, and no
    /// two stores date them from before: only of keys that opened an old snapshot; may be repeated
    #[arg(long, value_name = "RECIPIENT")]
    accept_keys: Vec<String>,
    /// Take datasets over although the configuration names no drill host of before: make keys for a
    /// new one, which alone can open what is backed up from then on
    #[arg(long)]
    new_drill_host: bool,
    #[command(flatten)]
    floors: FloorFlags,
}

#[derive(Serialize)]
#[serde(transparent)]
struct Made(InitReport);

pub(crate) async fn run(args: &Args, session: &Session) -> Result<()> {
    let config = session.configuration()?;
    if session.globals.replica.is_some() {
        return Err(Error::usage("init works on every replica").hint("leave --replica out"));
    }
    let identities = access::given_identities(&session.globals.identities);
    let identities = session.cancellable("reading an identity", identities).await?;
    if identities.is_empty() && !args.accept_keys.is_empty() {
        return Err(
            Error::usage("--accept-keys takes over keys that an identity opens").hint("pass --identity MASTER, too")
        );
    }
    let only_whole = !args.new_drill_host;
    let options =
        InitOptions { identities, accepted: args.accept_keys.clone(), only_whole, floors: args.floors.floors() };
    let replicas = config.open_replicas(&session.clock).await?;
    recording::by_host(session, &config, &replicas, LogEvent::Keyring { user: recording::user() }).await;
    let records = config.open_records(&session.clock).await?;
    let work = async {
        let mut report = keys::init(&config, &replicas, &options, &session.clock).await?;
        report.init_records(&replicas, &records).await?;
        Ok(report)
    };
    let report = session.cancellable("init", work).await?;
    let unreached = report.unreached.clone();
    session.out.result(&Made(report))?;
    match unreached.as_slice() {
        [] => Ok(()),
        _ => Err(Error::storage(format!("some replicas did not answer: {}", unreached.join("; ")))
            .hint("run `lifeboat init` again when they answer; it keeps what it has created so far")),
    }
}

impl fmt::Display for Made {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let report = &self.0;
        writeln!(f, "Vault {}\n\nFiles on this host", report.vault)?;
        writeln!(f, "{}", items(&report.files, "FILE"))?;
        if report.objects.is_empty() {
            writeln!(f, "\nEvery replica that answered has what it needs.")?;
        } else {
            writeln!(f, "\nWritten to the vault\n{}", items(&report.objects, "OBJECT"))?;
        }
        writeln!(f, "\nPublic keys: keep a copy where an intruder on this host cannot change it")?;
        let mut keys = vec![("signer, for trusted_signers of every reader", report.signer.clone())];
        if let Some(signer) = &report.drill_signer {
            keys.push(("drill signer, for trusted_drill_signers", signer.clone()));
        }
        if let Some(recipient) = &report.drill_recipient {
            keys.push(("drill recipient", recipient.clone()));
        }
        write!(f, "{}", Plain::facts(keys))?;
        if let (Some(request), Some(words)) = (&report.request, &report.request_words) {
            write!(
                f,
                "\n\nNobody believes this host yet. Let an owner sign this root, and compare the words: {words}\n\n\
                 lifeboat owner sign --directory DIR '{request}'\n\n\
                 Then run `lifeboat root install` here with what that prints."
            )?;
        }
        for note in &report.notes {
            write!(f, "\n\n note: {}", escape::line(note))?;
        }
        Ok(())
    }
}

fn items(items: &[InitItem], header: &str) -> Plain {
    let mut table = Plain::new(&["", header, "WHAT TO DO WITH IT"]);
    for item in items {
        let state = if item.created { "created" } else { "kept" };
        table.row([state.to_owned(), item.what.clone(), item.advice.clone()]);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shows_the_signer_and_where_each_file_belongs() {
        let made = Made(InitReport {
            vault: "0123".to_owned(),
            signer: "RWsigner".to_owned(),
            drill_signer: Some("RWdrill".to_owned()),
            drill_recipient: None,
            request: None,
            request_words: None,
            files: vec![InitItem {
                what: "/etc/lifeboat/keys/drill-host/drill-identity".to_owned(),
                created: true,
                advice: "MOVE it".to_owned(),
            }],
            objects: Vec::new(),
            unreached: Vec::new(),
            notes: vec!["recipients changed".to_owned()],
        });
        let text = made.to_string();
        for part in
            ["RWsigner", "RWdrill", "created  /etc/lifeboat/keys/drill-host/drill-identity  MOVE it", "note: recip"]
        {
            assert!(text.contains(part), "{part} is not in\n{text}");
        }
        assert!(!text.contains("drill recipient"));
        let json = serde_json::to_value(&made).map(|json| json["signer"].clone()).unwrap_or_default();
        assert_eq!(json, "RWsigner");
    }
}
