//! A private certificate authority for test servers.

#![allow(clippy::expect_used)]

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
};

/// An authority of its own and one certificate by it for `127.0.0.1` and `localhost`, as PEM files.
#[derive(Debug, Clone)]
pub struct Certificates {
    /// What the other side trusts.
    pub ca_file: PathBuf,
    /// What this side shows.
    pub cert_file: PathBuf,
    /// Its private key, mode 0600.
    pub key_file: PathBuf,
}

impl Certificates {
    /// Makes them in `directory`, which must exist. No two calls trust each other.
    ///
    /// # Panics
    /// If they cannot be made or written.
    #[must_use]
    pub fn create(directory: &Path) -> Self {
        Self::of(directory, ExtendedKeyUsagePurpose::ServerAuth)
    }

    /// As [`Self::create`], for a client.
    ///
    /// # Panics
    /// As [`Self::create`].
    #[must_use]
    pub fn of_client(directory: &Path) -> Self {
        Self::of(directory, ExtendedKeyUsagePurpose::ClientAuth)
    }

    fn of(directory: &Path, purpose: ExtendedKeyUsagePurpose) -> Self {
        let mut authority = CertificateParams::default();
        authority.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        authority.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        authority.distinguished_name.push(DnType::CommonName, "Lifeboat test authority");
        let authority_key = KeyPair::generate().expect("a key pair");
        let authority_certificate = authority.self_signed(&authority_key).expect("a self-signed certificate");

        let names = vec!["127.0.0.1".to_owned(), "localhost".to_owned()];
        let mut leaf = CertificateParams::new(names).expect("legal names");
        leaf.distinguished_name.push(DnType::CommonName, "Lifeboat test host");
        leaf.extended_key_usages.push(purpose);
        let leaf_key = KeyPair::generate().expect("a key pair");
        let issuer = Issuer::new(authority, authority_key);
        let leaf_certificate = leaf.signed_by(&leaf_key, &issuer).expect("a signed certificate");

        let write = |name: &str, pem: String| {
            let file = directory.join(name);
            std::fs::write(&file, pem).expect("a writable directory for certificates");
            std::fs::set_permissions(&file, Permissions::from_mode(0o600)).expect("a file of our own");
            file
        };
        Self {
            ca_file: write("ca.pem", authority_certificate.pem()),
            cert_file: write("server.pem", leaf_certificate.pem()),
            key_file: write("server.key", leaf_key.serialize_pem()),
        }
    }
}
