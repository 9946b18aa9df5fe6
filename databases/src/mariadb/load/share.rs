//! What one of several clients gets of a dump: the settings at its beginning, and the tables that
//! it claims.
//!
//! The first of them leads: it has the sequences made, tells the others to begin, and puts aside
//! what comes after the tables.

use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use lifeboat_base::{Error, Result};
use tokio::sync::watch;

use super::LoadTarget;
use super::aside::Aside;
use super::sections::{DumpPlace, Sections};
use crate::streams::{Once, StreamReader};

/// A dump is shared only if no more than this comes before its first table.
const MAX_HEAD_BYTES: usize = 16 << 20;

/// Who loads what.
pub(super) struct Claims {
    /// The first table that nobody has claimed. All before it are claimed.
    next: AtomicU64,
    /// Whether the tables are shared, once that is known.
    shared: watch::Sender<Option<bool>>,
}

impl Default for Claims {
    fn default() -> Self {
        Self { next: AtomicU64::new(0), shared: watch::Sender::new(None) }
    }
}

impl Claims {
    /// Claims a table, in the order in which they come.
    fn claim(&self, table: u64) -> bool {
        self.next.compare_exchange(table, table + 1, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }

    /// Waits until the first tables may be made. False: the one that leads loads all of them.
    pub(super) async fn begin_to_share(&self) -> bool {
        let mut told = self.shared.subscribe();
        let shared = told.wait_for(Option::is_some).await;
        shared.is_ok_and(|shared| *shared == Some(true))
    }
}

/// The part of a dump that one client loads.
pub(super) struct Share<'s> {
    stream: Box<dyn StreamReader>,
    sections: Sections,
    claims: &'s Claims,
    before: &'s str,
    /// Only of the first.
    lead: Option<Lead<'s>>,
    /// Whether what the session begins with is in `ready`.
    has_begun: bool,
    /// The table at work, and whether we load it.
    table: Option<(u64, bool)>,
    ready: BytesMut,
    has_ended: bool,
}

/// What only the first client sees to.
struct Lead<'s> {
    target: &'s LoadTarget<'s>,
    shares: bool,
    /// All that comes before the first table.
    head: Vec<u8>,
    has_sequences: bool,
    routines: Aside,
    views: Aside,
}

impl<'s> Share<'s> {
    /// The share of the first client, which lets others load tables if it `shares` them.
    ///
    /// # Errors
    /// Nothing can be put aside.
    pub(super) fn leading(
        stream: Box<dyn StreamReader>,
        target: &'s LoadTarget<'s>,
        claims: &'s Claims,
        shares: bool,
    ) -> Result<Self> {
        let scratch = &target.server.cx.scratch;
        let (routines, views) = (Aside::new(scratch)?, Aside::new(scratch)?);
        let lead = Lead { target, shares, head: Vec::new(), has_sequences: false, routines, views };
        Ok(Self { lead: Some(lead), ..Self::following(stream, target, claims) })
    }

    /// The share of another client.
    pub(super) fn following(stream: Box<dyn StreamReader>, target: &'s LoadTarget<'s>, claims: &'s Claims) -> Self {
        Self {
            stream,
            sections: Sections::default(),
            claims,
            before: target.before,
            lead: None,
            has_begun: false,
            table: None,
            ready: BytesMut::new(),
            has_ended: false,
        }
    }

    /// Events and routines, then views, each after the settings of the dump; `None` but for the
    /// first client.
    pub(super) fn put_aside(self) -> Option<(Aside, Aside)> {
        let lead = self.lead?;
        let settings = self.sections.settings();
        let with_before = Bytes::from([self.before.as_bytes(), settings].concat());
        Some((lead.routines.after(with_before), lead.views.after(Bytes::copy_from_slice(settings))))
    }

    fn sort(&mut self, piece: &[u8]) -> Result<()> {
        let mut sections = std::mem::take(&mut self.sections);
        let done = sections.cut(piece, &mut |place, text| self.take(place, text));
        self.sections = sections;
        match self.sections.odd() {
            Some(odd) => Err(misleading(odd)),
            None => done,
        }
    }

    fn take(&mut self, place: DumpPlace, text: &[u8]) -> Result<()> {
        match (place, &mut self.lead) {
            (DumpPlace::Settings | DumpPlace::Sequences, Some(lead)) => {
                lead.has_sequences |= place == DumpPlace::Sequences;
                match self.has_begun {
                    true => self.ready.extend_from_slice(text),
                    false => lead.head.extend_from_slice(text),
                }
            }
            (DumpPlace::Table(table), _) => {
                let ours = match self.table {
                    Some((at_work, ours)) if at_work == table => ours,
                    _ => self.claims.claim(table),
                };
                self.table = Some((table, ours));
                if ours {
                    self.ready.extend_from_slice(text);
                }
            }
            (DumpPlace::Routines, Some(lead)) => lead.routines.write(text)?,
            (DumpPlace::Views, Some(lead)) => lead.views.write(text)?,
            (_, None) => {}
        }
        Ok(())
    }

    /// Puts before the first table what the session begins with. The first client has the sequences
    /// made, and lets the others begin.
    async fn begin(&mut self) -> Result<()> {
        let settings = self.sections.settings();
        let mut first = [self.before.as_bytes(), settings].concat();
        if let Some(lead) = &mut self.lead {
            let head = [self.before.as_bytes(), &std::mem::take(&mut lead.head)].concat();
            let shared = lead.shares && self.sections.knows_settings() && head.len() <= MAX_HEAD_BYTES;
            if !shared {
                first = head;
            } else if lead.has_sequences {
                lead.target.feed(&mut Once(Some(Bytes::from(head)))).await?;
            }
            self.claims.shared.send_replace(Some(shared));
        }
        let tables = std::mem::replace(&mut self.ready, BytesMut::from(first.as_slice()));
        self.ready.unsplit(tables);
        self.has_begun = true;
        Ok(())
    }

    /// Whether all that comes before the first table is here, or too much to wait for the rest.
    fn can_begin(&self) -> bool {
        let head = self.lead.as_ref().map_or(0, |lead| lead.head.len());
        self.has_ended
            || self.sections.place() > DumpPlace::Sequences
            || !self.sections.knows_settings()
            || head > MAX_HEAD_BYTES
    }
}

fn misleading(odd: &str) -> Error {
    Error::integrity(format!(
        "the dump holds {odd} in a trigger, routine or event: the client and the server read that differently, \
        and what is a text or a comment there could run as a statement here"
    ))
    .hint(
        "read the dump (restore --to-directory), mend what holds it in the source and back up again; if it is harmless, \
        load that dump by hand",
    )
}

#[async_trait]
impl StreamReader for Share<'_> {
    async fn next(&mut self) -> Result<Option<Bytes>> {
        loop {
            if self.has_begun && !self.ready.is_empty() {
                return Ok(Some(self.ready.split().freeze()));
            }
            if self.has_ended {
                return Ok(None);
            }
            match self.stream.next().await? {
                Some(piece) => self.sort(&piece)?,
                None if !self.sections.is_at_end() => {
                    return Err(Error::integrity("the dump does not end with a line break, so it is not whole"));
                }
                None => self.has_ended = true,
            }
            if !self.has_begun && self.can_begin() {
                self.begin().await?;
            }
        }
    }
}
