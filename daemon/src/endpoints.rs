//! What the daemon listens on: the metrics endpoint and the control socket.
//!
//! Both are bound before the daemon is ready. At the end, the control socket takes no wish any
//! more, those that it took are answered, and the metrics endpoint ends last.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use lifeboat_engine::base::{Class, Context, Error, Result};
use lifeboat_engine::config::Config;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::control::{self, Wish};
use crate::http;
use crate::live::Live;
use crate::tls::{Certificates, TlsListener};

/// How long each of them may take to end.
pub(crate) const FAREWELL: Duration = Duration::from_secs(2);

pub(crate) struct Endpoints {
    http: JoinHandle<Result<()>>,
    /// `None`: it speaks no TLS.
    certificates: Option<Certificates>,
    stop_http: CancellationToken,
    control: JoinHandle<()>,
    stop_control: CancellationToken,
    socket: PathBuf,
}

impl Endpoints {
    /// Binds both and serves them. Returns the address of the metrics endpoint, too.
    ///
    /// # Errors
    /// An address is in use.
    pub(crate) async fn open(
        config: &Config,
        live: &Arc<Live>,
        wishes: mpsc::Sender<Wish>,
    ) -> Result<(Self, SocketAddr)> {
        let listener = TcpListener::bind(config.listen).await.map_err(|error| {
            Error::failed(format!("cannot listen on {}", config.listen))
                .because(error)
                .hint("stop the program that listens there, or set `listen` to a free address of this host")
        })?;
        let address = listener.local_addr().context(Class::Failed, || "cannot tell the address of the endpoint")?;
        let (stop_http, stop_control) = (CancellationToken::new(), CancellationToken::new());
        let socket = config.control_socket.clone();
        let control = control::serve(control::bind(&socket)?, live.clone(), wishes, stop_control.clone());
        let certificates = config.listen_tls.as_ref().map(Certificates::read).transpose()?;
        let http = match &certificates {
            None => tokio::spawn(http::serve(listener, live.clone(), stop_http.clone())),
            Some(certificates) => {
                let listener = TlsListener::new(listener, certificates.clone());
                let listener = listener.context(Class::Failed, || "cannot tell the address of the endpoint")?;
                tokio::spawn(http::serve(listener, live.clone(), stop_http.clone()))
            }
        };
        let endpoints = Self { http, certificates, control: tokio::spawn(control), stop_http, stop_control, socket };
        Ok((endpoints, address))
    }

    /// Takes in certificates that were replaced. One that does not fit changes nothing.
    pub(crate) fn renew(&self, config: &Config) {
        let Some((certificates, tls)) = self.certificates.as_ref().zip(config.listen_tls.as_ref()) else { return };
        if let Err(error) = certificates.renew(tls) {
            tracing::error!("the metrics endpoint keeps its old certificate: {}", error.chain_and_hint());
        }
    }

    /// Whether the metrics endpoint has ended by itself.
    pub(crate) fn have_crashed(&self) -> bool {
        self.http.is_finished()
    }

    /// The control socket takes nothing more.
    pub(crate) fn refuse_wishes(&self) {
        self.stop_control.cancel();
    }

    /// Ends both.
    pub(crate) async fn end(&mut self) {
        self.stop_control.cancel();
        if timeout(FAREWELL, &mut self.control).await.is_err() {
            self.control.abort();
        }
        if let Err(error) = std::fs::remove_file(&self.socket) {
            tracing::debug!(%error, "the control socket cannot be removed");
        }
        self.stop_http.cancel();
        if timeout(FAREWELL, &mut self.http).await.is_err() {
            self.http.abort();
        }
    }
}
