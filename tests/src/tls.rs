//! A private certificate authority for test servers.

#![allow(clippy::expect_used)]

use std::path::{Path, PathBuf};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
};

/// An authority of its own and one server certificate by it for `127.0.0.1` and `localhost`, as PEM
/// files.
#[derive(Debug, Clone)]
pub struct Certificates {
    /// What clients trust.
    pub ca_file: PathBuf,
    /// What the server shows.
    pub cert_file: PathBuf,
    /// The server's private key.
    pub key_file: PathBuf,
}

impl Certificates {
    /// Makes them in `directory`, which must exist. No two calls trust each other.
    ///
    /// # Panics
    /// If they cannot be made or written.
    #[must_use]
    pub fn create(directory: &Path) -> Self {
        let mut authority = CertificateParams::default();
        authority.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        authority.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        authority.distinguished_name.push(DnType::CommonName, "Lifeboat test authority");
        let authority_key = KeyPair::generate().expect("a key pair");
        let authority_certificate = authority.self_signed(&authority_key).expect("a self-signed certificate");

        let names = vec!["127.0.0.1".to_owned(), "localhost".to_owned()];
        let mut server = CertificateParams::new(names).expect("legal names");
        server.distinguished_name.push(DnType::CommonName, "Lifeboat test server");
        server.extended_key_usages.push(ExtendedKeyUsagePurpose::ServerAuth);
        let server_key = KeyPair::generate().expect("a key pair");
        let issuer = Issuer::new(authority, authority_key);
        let server_certificate = server.signed_by(&server_key, &issuer).expect("a signed certificate");

        let write = |name: &str, pem: String| {
            let file = directory.join(name);
            std::fs::write(&file, pem).expect("a writable directory for certificates");
            file
        };
        Self {
            ca_file: write("ca.pem", authority_certificate.pem()),
            cert_file: write("server.pem", server_certificate.pem()),
            key_file: write("server.key", server_key.serialize_pem()),
        }
    }
}
