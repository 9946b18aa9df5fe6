//! Bounds the answers that the SDK reads into memory: all but the bodies of objects, which the
//! caller counts. A store is whoever answers, so an answer may be of any length, and full of tags
//! that take more memory than bytes.

use std::pin::Pin;
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

/// A page of a thousand long keys takes less than 1.5 MiB.
const MAX_ANSWER_BYTES: usize = 2 << 20;
/// A page has about 24 tags for each object. Each opens with this sign, which stands nowhere else.
const TAG: u8 = b'<';
const MAX_ANSWER_TAGS: usize = 64 << 10;
/// The SDK adds this to the address of GetObject alone.
const GET_OBJECT: &str = "x-id=GetObject";

/// `client` with bounded answers.
pub(super) fn bounded(client: SharedHttpClient) -> SharedHttpClient {
    SharedHttpClient::new(BoundedClient(client))
}

#[derive(Debug)]
struct BoundedClient(SharedHttpClient);

impl HttpClient for BoundedClient {
    fn http_connector(&self, settings: &HttpConnectorSettings, components: &RuntimeComponents) -> SharedHttpConnector {
        SharedHttpConnector::new(BoundedConnector(self.0.http_connector(settings, components)))
    }

    fn validate_base_client_config(
        &self,
        components: &RuntimeComponentsBuilder,
        config: &ConfigBag,
    ) -> Result<(), BoxError> {
        HttpClient::validate_base_client_config(&self.0, components, config)
    }

    fn validate_final_config(&self, components: &RuntimeComponents, config: &ConfigBag) -> Result<(), BoxError> {
        HttpClient::validate_final_config(&self.0, components, config)
    }

    fn connector_metadata(&self) -> Option<ConnectorMetadata> {
        self.0.connector_metadata()
    }
}

#[derive(Debug)]
struct BoundedConnector(SharedHttpConnector);

impl HttpConnector for BoundedConnector {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        let is_get_object = request.uri().contains(GET_OBJECT);
        let answer = self.0.call(request);
        HttpConnectorFuture::new(async move {
            let mut answer = answer.await?;
            if !(is_get_object && answer.status().is_success()) {
                let inner = answer.take_body();
                *answer.body_mut() = SdkBody::from_body_1_x(BoundedBody { inner, bytes: 0, tags: 0 });
            }
            Ok(answer)
        })
    }
}

/// A body that ends in an error where it is too long.
struct BoundedBody {
    inner: SdkBody,
    bytes: usize,
    tags: usize,
}

impl Body for BoundedBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let frame = ready!(Pin::new(&mut self.inner).poll_frame(cx));
        if let Some(data) = frame.as_ref().and_then(|frame| frame.as_ref().ok()?.data_ref()) {
            self.bytes += data.len();
            self.tags += data.iter().filter(|byte| **byte == TAG).count();
            if self.bytes > MAX_ANSWER_BYTES || self.tags > MAX_ANSWER_TAGS {
                return Poll::Ready(Some(Err("the answer is longer than any that S3 gives".into())));
            }
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        Body::size_hint(&self.inner)
    }
}
