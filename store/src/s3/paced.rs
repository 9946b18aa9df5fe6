//! Paces what the S3 client sends and receives, below everything in the SDK that looks at bodies.
//!
//! When its connector is called, the SDK has already hashed and signed the request. The body is
//! passed on with the same bytes and the same length, so the signature, `Content-Length` and the
//! checksums stay right, and nothing is sent chunked. Hyper asks a body for its next piece when the
//! last one is written, so pieces reach the wire as they get leave. An answer is passed on as its
//! pieces get leave; what arrives earlier waits in the connection's buffers, until TCP holds the
//! sender back.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use aws_sdk_s3::config::{ConfigBag, RuntimeComponents, SharedHttpClient};
use aws_sdk_s3::error::BoxError;
use aws_smithy_runtime_api::client::connector_metadata::ConnectorMetadata;
use aws_smithy_runtime_api::client::http::{
    HttpClient, HttpConnector, HttpConnectorFuture, HttpConnectorSettings, SharedHttpConnector,
};
use aws_smithy_runtime_api::client::orchestrator::HttpRequest;
use aws_smithy_runtime_api::client::runtime_components::RuntimeComponentsBuilder;
use aws_smithy_types::body::SdkBody;
use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tokio_util::sync::ReusableBoxFuture;

use crate::pacer::Pacer;
use crate::waiting::Waiting;

/// `client`, paced by the replica's pacer if it has one.
pub(super) fn paced(client: SharedHttpClient, pacer: Option<Arc<Pacer>>) -> SharedHttpClient {
    match pacer {
        Some(pacer) => SharedHttpClient::new(PacedClient { inner: client, pacer }),
        None => client,
    }
}

#[derive(Debug)]
struct PacedClient {
    inner: SharedHttpClient,
    pacer: Arc<Pacer>,
}

impl HttpClient for PacedClient {
    fn http_connector(&self, settings: &HttpConnectorSettings, components: &RuntimeComponents) -> SharedHttpConnector {
        let inner = self.inner.http_connector(settings, components);
        SharedHttpConnector::new(PacedConnector { inner, pacer: self.pacer.clone() })
    }

    fn validate_base_client_config(
        &self,
        components: &RuntimeComponentsBuilder,
        config: &ConfigBag,
    ) -> Result<(), BoxError> {
        HttpClient::validate_base_client_config(&self.inner, components, config)
    }

    fn validate_final_config(&self, components: &RuntimeComponents, config: &ConfigBag) -> Result<(), BoxError> {
        HttpClient::validate_final_config(&self.inner, components, config)
    }

    fn connector_metadata(&self) -> Option<ConnectorMetadata> {
        self.inner.connector_metadata()
    }
}

#[derive(Debug)]
struct PacedConnector {
    inner: SharedHttpConnector,
    pacer: Arc<Pacer>,
}

impl HttpConnector for PacedConnector {
    fn call(&self, mut request: HttpRequest) -> HttpConnectorFuture {
        // This runs in the operation's own task; the bodies are polled in the connection's task.
        let waiting = Waiting::current();
        let body = request.take_body();
        *request.body_mut() = PacedBody::wrap(body, &self.pacer, &waiting);
        let (answer, pacer) = (self.inner.call(request), self.pacer.clone());
        HttpConnectorFuture::new(async move {
            let mut answer = answer.await?;
            let body = answer.take_body();
            *answer.body_mut() = PacedBody::wrap(body, &pacer, &waiting);
            Ok(answer)
        })
    }
}

/// A body whose pieces are passed on as they get leave.
struct PacedBody {
    inner: SdkBody,
    /// What came from `inner` and was not passed on yet.
    held: Bytes,
    pacer: Arc<Pacer>,
    waiting: Waiting,
    leave: Option<ReusableBoxFuture<'static, usize>>,
}

impl PacedBody {
    /// A body that is known to be empty stays as it is, so that hyper still knows that it is empty.
    fn wrap(inner: SdkBody, pacer: &Arc<Pacer>, waiting: &Waiting) -> SdkBody {
        if inner.content_length() == Some(0) {
            return inner;
        }
        let (pacer, waiting) = (pacer.clone(), waiting.clone());
        SdkBody::from_body_1_x(Self { inner, held: Bytes::new(), pacer, waiting, leave: None })
    }
}

impl Body for PacedBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        loop {
            if let Some(leave) = &mut self.leave {
                let length = ready!(leave.poll(cx));
                self.leave = None;
                return Poll::Ready(Some(Ok(Frame::data(self.held.split_to(length)))));
            }
            if !self.held.is_empty() {
                let (pacer, waiting, wanted) = (self.pacer.clone(), self.waiting.clone(), self.held.len());
                self.leave = Some(ReusableBoxFuture::new(async move { pacer.leave(wanted, &waiting).await }));
                continue;
            }
            match ready!(Pin::new(&mut self.inner).poll_frame(cx)) {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => self.held = data,
                    Err(trailers) => return Poll::Ready(Some(Ok(trailers))),
                },
                end => return Poll::Ready(end),
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.held.is_empty() && self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let (held, inner) = (self.held.len() as u64, Body::size_hint(&self.inner));
        let mut hint = SizeHint::new();
        hint.set_lower(held + inner.lower());
        if let Some(upper) = inner.upper() {
            hint.set_upper(held + upper);
        }
        hint
    }
}

#[cfg(test)]
mod tests;
