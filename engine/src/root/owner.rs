//! An owner's folder, on a machine that need not be connected to anything: the master identity, the
//! key that signs roots, and the root that this owner signed last.

use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use age::secrecy::ExposeSecret;
use chrono::{DateTime, Utc};
use lifeboat_base::secret::{self, SecretRef};
use lifeboat_base::{Class, Context, Error, Result};
use lifeboat_format::id::Name;
use lifeboat_format::layout;
use lifeboat_format::line::{self, OwnerLine, RequestLine, RootLine};
use lifeboat_format::root::{MAX_ROOT_BYTES, Root};
use lifeboat_format::veto::{Veto, VetoLine, VetoRequestLine};
use zeroize::Zeroizing;

use super::change::{KEEP_ONE, differences, locks_out};
use super::signed::SignedRoot;
use crate::keys::local;
use crate::keys::sign::Signer;
use crate::state::replace_file;

const IDENTITY: &str = "identity";
const SIGNER: &str = "signer";
const LINE: &str = "line";
const LAST_ROOT: &str = "last-root.json";

/// An owner's folder.
pub struct OwnerFolder {
    directory: PathBuf,
    signer: Signer,
}

/// A root that this owner may sign.
pub struct ToSign {
    root: SignedRoot,
    /// What changes against the root that this owner signed last.
    pub differences: Vec<String>,
    /// Whether this owner has signed no root of this vault before.
    pub is_first: bool,
    /// What this owner should think about before signing.
    pub warning: Option<&'static str>,
    owner: Name,
}

impl ToSign {
    /// The root.
    #[must_use]
    pub fn root(&self) -> &SignedRoot {
        &self.root
    }
}

impl OwnerFolder {
    /// Makes a folder with a master identity and a signing key. Returns the owner's line. A folder
    /// whose making was cut short is completed.
    ///
    /// # Errors
    /// [`Class::Keys`]: there is one already, or it cannot be written.
    pub fn make(directory: &Path, name: &Name) -> Result<String> {
        let failed = || format!("cannot make the owner's folder {}", directory.display());
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(directory).context(Class::Keys, failed)?;
        // The line is written last.
        if directory.join(LINE).exists() {
            return Err(Error::keys(failed())
                .because(format!("it has a file `{LINE}` already"))
                .hint("name another directory: keys are never overwritten"));
        }
        let unusable = |file: &str| {
            Error::keys(failed())
                .because(format!("it has a file `{file}` already, which is no key"))
                .hint("name another directory: keys are never overwritten")
        };
        let found = |file: &str| SecretRef::file(directory.join(file)).read_if_any();
        let known = found(IDENTITY)?.map(|text| local::parse_identity(&text).ok_or_else(|| unusable(IDENTITY)));
        let (known, signing) = (known.transpose()?, found(SIGNER)?.map(|text| Signer::parse(&text)).transpose()?);
        let is_new = (known.is_none(), signing.is_none());
        let identity = known.unwrap_or_else(age::x25519::Identity::generate);
        let signer = signing.map_or_else(Signer::generate, Ok)?;
        let recipient = identity.to_public().to_string();
        let owner = OwnerLine { name: name.clone(), recipient, signer: signer.public().to_string() };
        let told = line::write(&owner)?;
        if is_new.0 {
            let text = Zeroizing::new(format!(
                "# lifeboat master identity\n# public key: {}\n{}\n",
                owner.recipient,
                identity.to_string().expose_secret()
            ));
            local::write_new(&directory.join(IDENTITY), text.as_bytes())?;
        }
        if is_new.1 {
            local::write_new(&directory.join(SIGNER), signer.to_text()?.as_bytes())?;
        }
        local::write_new(&directory.join(LINE), format!("{told}\n").as_bytes())?;
        Ok(told)
    }

    /// Whether a folder was made before, to its end.
    #[must_use]
    pub fn is_made(directory: &Path) -> bool {
        directory.join(LINE).exists()
    }

    /// Opens a folder.
    ///
    /// # Errors
    /// [`Class::Keys`]: its signing key cannot be read.
    pub fn open(directory: &Path) -> Result<Self> {
        let signer = Signer::parse(&secret::read_given(&directory.join(SIGNER))?)
            .map_err(|error| error.hint("name the directory that `lifeboat owner init` made"))?;
        Ok(Self { directory: directory.to_owned(), signer })
    }

    /// The key that signs roots and the owner's log.
    #[must_use]
    pub fn into_signer(self) -> Signer {
        self.signer
    }

    /// What a request, or a root that others have signed, would change.
    ///
    /// # Errors
    /// [`Class::Usage`]: it is no such line; it is not newer than what this owner has signed, or
    /// follows something else; it is of another vault; it would lock everybody out; or this owner
    /// has no part in it.
    pub fn read(&self, text: &str) -> Result<ToSign> {
        let carried: RequestLine =
            if line::is_of::<RootLine>(text) { line::read::<RootLine>(text)?.0 } else { line::read(text)? };
        let last = self.last()?;
        let root =
            SignedRoot::read(carried.root, &carried.signatures, last.as_ref().map(|(root, _)| root), "the root")?;
        let own = self.signer.public();
        if let Some((last, text)) = last.as_ref().filter(|(_, text)| *text != root.text) {
            let refused = |why: String| {
                Error::usage(format!("root {} of vault {} is refused", root.root.version, root.root.vault)).because(why)
            };
            if last.vault != root.root.vault {
                return Err(refused(format!("this owner has signed roots of vault {}", last.vault))
                    .hint("make a folder of its own for each vault, with `lifeboat owner init`"));
            }
            if root.root.version <= last.version {
                return Err(refused(format!("this owner has already signed root {}", last.version))
                    .hint("make the request again with `lifeboat root request`"));
            }
            let hash = lifeboat_format::id::Digest::of(text.as_bytes());
            if root.root.version == last.version + 1
                && let Some(why) = root.root.breaks_chain(last, hash)
            {
                return Err(refused(format!("{why} than the one that this owner has signed"))
                    .hint("find out who made the request: the vault does not show what you have signed"));
            }
        }
        let before = last.as_ref().map(|(root, _)| root);
        // What this program does not know cannot be told, so nobody should sign it.
        if root.root.to_json()? != root.text.as_bytes() {
            return Err(Error::usage("the root says something that this version does not know").hint(
                "make the request again with `lifeboat root request`, or sign with the newest version of Lifeboat",
            ));
        }
        let mut differences = differences(before, &root.root);
        let is_same = last.as_ref().is_some_and(|(_, text)| *text == root.text);
        if last.is_some() && !is_same && differences.is_empty() {
            return Err(Error::usage(format!("root {} changes nothing that this owner has signed", root.root.version))
                .hint("find out who made the request, and why: there is nothing to sign"));
        }
        let recipient = self.recipient()?;
        if let Some(why) = locks_out(before, &root.root, Some(&recipient)) {
            return Err(Error::usage("this would lock everybody out").because(why).hint(KEEP_ONE));
        }
        let owners = root.root.owners.iter().chain(before.into_iter().flat_map(|before| &before.owners));
        let mut of_own = owners.filter(|owner| owner.signer == own.as_str()).map(|owner| owner.name.clone());
        let owner = of_own.next().ok_or_else(|| {
            Error::usage("the root does not name this owner").hint("pass the --directory of an owner whom it names")
        })?;
        let is_own = |difference: &String| difference.contains(own.as_str()) || difference.contains(&recipient);
        for difference in differences.iter_mut().filter(|difference| is_own(difference)) {
            difference.push_str(" (you)");
        }
        let warning = (!root.root.masters.contains(&recipient))
            .then_some("your own master identity opens nothing after this root");
        Ok(ToSign { differences, is_first: last.is_none(), warning, root, owner })
    }

    /// The recipient of this owner's master identity.
    fn recipient(&self) -> Result<String> {
        Ok(self.line()?.recipient)
    }

    /// This owner's line.
    ///
    /// # Errors
    /// [`Class::Keys`]: it cannot be read.
    pub fn line(&self) -> Result<OwnerLine> {
        let path = self.directory.join(LINE);
        let text = std::fs::read_to_string(&path).context(Class::Keys, || format!("cannot read {}", path.display()))?;
        line::read::<OwnerLine>(text.trim())
    }

    /// When this owner signed the first root of a vault, if that was the last one signed. A root
    /// that is made again at this time is the same.
    ///
    /// # Errors
    /// What was signed cannot be read.
    pub fn first_signed(&self) -> Result<Option<DateTime<Utc>>> {
        Ok(self.last()?.filter(|(root, _)| root.version == 1).map(|(root, _)| root.time))
    }

    /// Signs it, and remembers that. Returns the line to be installed, or to be signed by others,
    /// too.
    ///
    /// # Errors
    /// [`Class::Keys`] if minisign cannot sign, [`Class::Storage`] if it cannot be remembered.
    pub fn sign(&self, to_sign: &ToSign) -> Result<String> {
        let root = &to_sign.root;
        let comment = layout::trusted_comment(&root.root.vault, &layout::root(root.root.version));
        let signature = self.signer.sign(root.text.as_bytes(), &comment)?;
        replace_file(&self.directory.join(LAST_ROOT), root.text.as_bytes())?;
        let mut carried = root.carried();
        carried.signatures.insert(to_sign.owner.to_string(), signature);
        line::write(&RootLine(carried))
    }

    /// Signs a veto in this owner's or approver's name. Returns the line to be installed.
    ///
    /// # Errors
    /// [`Class::Keys`]: minisign cannot sign, or the folder has no name.
    pub fn sign_veto(&self, request: &VetoRequestLine) -> Result<String> {
        let veto = Veto { principal: self.line()?.name, ..request.0.clone() };
        let key = layout::veto(&veto.dataset, &veto.mark, &veto.principal);
        let mut stored = veto.to_line()?;
        let signature = self.signer.sign(&stored, &layout::trusted_comment(&veto.vault, &key))?;
        stored.extend_from_slice(signature.as_bytes());
        let stored = String::from_utf8(stored).map_err(|error| Error::failed("a veto is not text").because(error))?;
        let Veto { vault, dataset, mark, principal, .. } = veto;
        line::write(&VetoLine { vault, dataset, mark, principal, stored })
    }

    fn last(&self) -> Result<Option<(Root, String)>> {
        let path = self.directory.join(LAST_ROOT);
        let text = match std::fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(Error::storage(format!("cannot read {}", path.display())).because(error)),
        };
        let damaged = || Error::integrity(format!("{} is damaged", path.display()));
        if text.len() > MAX_ROOT_BYTES {
            return Err(damaged());
        }
        let text = String::from_utf8(text).map_err(|_| damaged())?;
        Ok(Some((Root::parse(text.as_bytes(), &path.display().to_string())?, text)))
    }
}
