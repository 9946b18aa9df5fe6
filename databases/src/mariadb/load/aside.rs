//! A part of a dump that is put aside on disk, and loaded later.

use std::fs::File;
use std::io::{Read, Seek, Write};
use std::path::Path;

use async_trait::async_trait;
use bytes::Bytes;
use lifeboat_base::{Class, Context, Result};

use crate::streams::StreamReader;

const ASIDE_PIECE_BYTES: usize = 256 << 10;
const NOT_WRITTEN: &str = "cannot put a part of a dump aside";
const NOT_READ: &str = "cannot read again what was put aside of a dump";

/// A part of a dump, in a file without a name.
#[derive(Debug)]
pub(super) struct Aside {
    /// What the session begins with that loads it.
    settings: Option<Bytes>,
    file: File,
    is_empty: bool,
    is_rewound: bool,
}

impl Aside {
    /// An empty one, in the directory `scratch`.
    ///
    /// # Errors
    /// The file cannot be made.
    pub(super) fn new(scratch: &Path) -> Result<Self> {
        let file = tempfile::tempfile_in(scratch).context(Class::Storage, || NOT_WRITTEN)?;
        Ok(Self { settings: None, file, is_empty: true, is_rewound: false })
    }

    pub(super) fn write(&mut self, text: &[u8]) -> Result<()> {
        self.is_empty &= text.is_empty();
        self.file.write_all(text).context(Class::Storage, || NOT_WRITTEN)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.is_empty
    }

    /// The same, after these settings.
    pub(super) fn after(self, settings: Bytes) -> Self {
        Self { settings: Some(settings).filter(|settings| !settings.is_empty()), ..self }
    }
}

#[async_trait]
impl StreamReader for Aside {
    async fn next(&mut self) -> Result<Option<Bytes>> {
        if let Some(settings) = self.settings.take() {
            return Ok(Some(settings));
        }
        if !self.is_rewound {
            self.file.rewind().context(Class::Storage, || NOT_READ)?;
            self.is_rewound = true;
        }
        let mut piece = vec![0; ASIDE_PIECE_BYTES];
        let read = self.file.read(&mut piece).context(Class::Storage, || NOT_READ)?;
        piece.truncate(read);
        Ok((read > 0).then(|| Bytes::from(piece)))
    }
}
