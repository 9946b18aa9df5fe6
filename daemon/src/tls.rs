//! TLS of the metrics endpoint: a certificate of the operator's, and, if wanted, none but clients
//! with a certificate of one authority.
//!
//! - **Version**: TLS 1.3 alone.
//! - **Bounds**: so many handshakes go on at once, and each has little time. Beyond them, the
//!   oldest is given up, so whoever dawdles holds up no other.
//! - **Reload**: a new certificate is used from the next connection on. Files that do not fit
//!   change nothing.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::serve::Listener;
use lifeboat_engine::base::{Class, Context, Error, Result};
use lifeboat_engine::config::ListenTls;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

const TIME_TO_SHAKE_HANDS: Duration = Duration::from_secs(10);
const HANDSHAKES: usize = 32;

/// What the endpoint shows and asks for. Clones change together.
#[derive(Clone)]
pub(crate) struct Certificates {
    acceptor: Arc<Mutex<TlsAcceptor>>,
}

impl Certificates {
    /// Reads the files.
    ///
    /// # Errors
    /// [`Class::Keys`]: a file cannot be read, or they do not fit each other.
    pub(crate) fn read(tls: &ListenTls) -> Result<Self> {
        Ok(Self { acceptor: Arc::new(Mutex::new(acceptor(tls)?)) })
    }

    /// Takes in what the files hold now.
    ///
    /// # Errors
    /// As [`Self::read`]. Nothing has changed then.
    pub(crate) fn renew(&self, tls: &ListenTls) -> Result<()> {
        let renewed = acceptor(tls)?;
        *self.acceptor.lock().unwrap_or_else(PoisonError::into_inner) = renewed;
        Ok(())
    }

    fn acceptor(&self) -> TlsAcceptor {
        self.acceptor.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

fn acceptor(tls: &ListenTls) -> Result<TlsAcceptor> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let unfit = |what: String| move |error: rustls::Error| Error::keys(what).because(error);
    let shown = tls.certificate.display();
    let versions = ServerConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(unfit("TLS 1.3 cannot be used".to_owned()))?;
    let builder = match &tls.client_ca {
        None => versions.with_no_client_auth(),
        Some(path) => {
            let mut roots = RootCertStore::empty();
            for certificate in certificates(path)? {
                roots.add(certificate).map_err(unfit(format!("{} holds no authority", path.display())))?;
            }
            let verifier = WebPkiClientVerifier::builder_with_provider(roots.into(), provider);
            let verifier = verifier.build().context(Class::Keys, || format!("{} cannot be used", path.display()))?;
            versions.with_client_cert_verifier(verifier)
        }
    };
    let key = tls.key.read()?;
    let key = PrivateKeyDer::from_pem_slice(key.expose()).map_err(|error| {
        Error::keys(format!("{} is no private key", tls.key.path().display()))
            .because(error)
            .hint("name a file that begins with -----BEGIN PRIVATE KEY-----")
    })?;
    let mut config = builder.with_single_cert(certificates(&tls.certificate)?, key).map_err(|error| {
        Error::keys(format!("the certificate {shown} and its key cannot be used"))
            .because(error)
            .hint("name the key that belongs to this certificate; one in a credential is handed over only at a restart")
    })?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}

/// The certificates in a PEM file, at least one.
fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>> {
    let cannot = || format!("cannot read certificates in {}", path.display());
    let found: Vec<_> = CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect)
        .context(Class::Keys, cannot)
        .map_err(|error| error.hint("name a readable PEM file of certificates"))?;
    if found.is_empty() {
        return Err(Error::keys(cannot()).because("there is none").hint("name a PEM file of certificates"));
    }
    Ok(found)
}

/// A listener whose connections have shaken hands.
pub(crate) struct TlsListener {
    address: SocketAddr,
    ready: mpsc::Receiver<(TlsStream<TcpStream>, SocketAddr)>,
    shaking: JoinHandle<()>,
}

impl TlsListener {
    /// # Errors
    /// The listener has no address.
    pub(crate) fn new(listener: TcpListener, certificates: Certificates) -> io::Result<Self> {
        let address = listener.local_addr()?;
        let (sender, ready) = mpsc::channel(1);
        let shaking = tokio::spawn(shake_hands(listener, certificates, sender));
        Ok(Self { address, ready, shaking })
    }
}

impl Drop for TlsListener {
    fn drop(&mut self) {
        self.shaking.abort();
    }
}

impl Listener for TlsListener {
    type Io = TlsStream<TcpStream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        match self.ready.recv().await {
            Some(accepted) => accepted,
            // It never ends before this is dropped.
            None => std::future::pending().await,
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.address)
    }
}

async fn shake_hands(
    mut listener: TcpListener,
    certificates: Certificates,
    ready: mpsc::Sender<(TlsStream<TcpStream>, SocketAddr)>,
) {
    let mut shaking: VecDeque<JoinHandle<()>> = VecDeque::new();
    loop {
        // This one waits and goes on when the system has no descriptors left.
        let (stream, from) = Listener::accept(&mut listener).await;
        shaking.retain(|task| !task.is_finished());
        if shaking.len() >= HANDSHAKES
            && let Some(oldest) = shaking.pop_front()
        {
            oldest.abort();
        }
        let (acceptor, ready) = (certificates.acceptor(), ready.clone());
        shaking.push_back(tokio::spawn(async move {
            match tokio::time::timeout(TIME_TO_SHAKE_HANDS, acceptor.accept(stream)).await {
                Ok(Ok(stream)) => drop(ready.send((stream, from)).await),
                Ok(Err(error)) => tracing::debug!(%from, %error, "refused a connection to the metrics"),
                Err(_) => tracing::debug!(%from, "a connection to the metrics did not shake hands in time"),
            }
        }));
    }
}
