//! The SDK's client. Nothing that matters is left to the SDK's defaults: transport, trust,
//! deadlines, retries, checksums and credentials.

use std::path::Path;
use std::time::Duration;

use aws_config::default_provider::credentials::DefaultCredentialsChain;
use aws_config::profile::ProfileFileCredentialsProvider;
use aws_config::provider_config::ProviderConfig;
use aws_sdk_s3::Client;
use aws_sdk_s3::config::retry::RetryConfig;
use aws_sdk_s3::config::timeout::TimeoutConfig;
use aws_sdk_s3::config::{
    BehaviorVersion, Builder, Region, RequestChecksumCalculation, ResponseChecksumValidation, SharedHttpClient,
    StalledStreamProtectionConfig,
};
use aws_smithy_http_client::tls::rustls_provider::CryptoMode;
use aws_smithy_http_client::tls::{Provider, TlsContext, TrustStore};
use lifeboat_base::clock::SharedClock;
use lifeboat_base::{Class, Context, Error, Result};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

use super::date::StoreClock;
use super::{bounded, credentials, paced};
use crate::pacer::Pacer;
use crate::settings::{ReplicaConfig, S3Config, S3Credentials};

/// A connection must be there within this time, TLS included.
const MAX_CONNECT_TIME: Duration = Duration::from_secs(10);

pub(super) async fn build(
    replica: &ReplicaConfig,
    s3: &S3Config,
    clock: SharedClock,
    store_clock: StoreClock,
) -> Result<Client> {
    let region = Region::new(replica.region.clone());
    let config = Builder::new()
        .behavior_version(BehaviorVersion::v2026_01_12())
        .region(region.clone())
        .force_path_style(s3.path_style)
        .http_client(paced::paced(bounded::bounded(transport(replica, s3)?), Pacer::new(&replica.bandwidth, clock)))
        .interceptor(store_clock)
        .timeout_config(TimeoutConfig::builder().connect_timeout(replica.timeout.min(MAX_CONNECT_TIME)).build())
        .retry_config(RetryConfig::disabled())
        // Every request has a deadline of ours; until then a slow line is not an error.
        .stalled_stream_protection(StalledStreamProtectionConfig::disabled())
        // `WhenRequired` would leave out the checksum that PutObject asks for. It goes into a
        // header, as bodies are in memory; streams would be sent chunked.
        .request_checksum_calculation(RequestChecksumCalculation::WhenSupported)
        // GetObject asks for the checksum by itself. A body that does not match it ends in an
        // error.
        .response_checksum_validation(ResponseChecksumValidation::WhenSupported);
    let config = match &s3.endpoint {
        // The SDK appends paths to the endpoint as text, so it must not end with a slash.
        Some(endpoint) => config.endpoint_url(endpoint.as_str().trim_end_matches('/')),
        None => config,
    };
    let config = match &s3.credentials {
        S3Credentials::File(file) => config.credentials_provider(credentials::parse(file)?),
        S3Credentials::Profile(profile) => config.credentials_provider(
            ProfileFileCredentialsProvider::builder().configure(&surroundings(region)).profile_name(profile).build(),
        ),
        S3Credentials::Default => config
            .credentials_provider(DefaultCredentialsChain::builder().configure(surroundings(region)).build().await),
    };
    Ok(Client::from_conf(config.build()))
}

/// How the credential chain reaches AWS itself: it trusts the system's authorities, whatever the
/// bucket's client trusts.
fn surroundings(region: Region) -> ProviderConfig {
    ProviderConfig::without_region().with_region(Some(region)).with_http_client(https(TlsContext::default()))
}

fn transport(replica: &ReplicaConfig, s3: &S3Config) -> Result<SharedHttpClient> {
    if s3.endpoint.as_ref().is_some_and(|endpoint| endpoint.scheme() == "http") {
        return Ok(aws_smithy_http_client::Builder::new().build_http());
    }
    let Some(ca_file) = &s3.ca_file else { return Ok(https(TlsContext::default())) };
    let pem = read_authorities(ca_file).map_err(|error| error.within(format!("replica {}", replica.name)))?;
    let trust = TrustStore::empty().with_pem_certificate(pem);
    let context = TlsContext::builder().with_trust_store(trust).build();
    Ok(https(context.context(Class::Configuration, || format!("replica {}: cannot set up TLS", replica.name))?))
}

fn https(context: TlsContext) -> SharedHttpClient {
    aws_smithy_http_client::Builder::new()
        .tls_provider(Provider::Rustls(CryptoMode::Ring))
        .tls_context(context)
        .build_https()
}

/// The file's content. It is checked before, as the TLS library would panic on a bad certificate.
fn read_authorities(file: &Path) -> Result<Vec<u8>> {
    let shown = || format!("CA file {}", file.display());
    let pem = std::fs::read(file).context(Class::Configuration, || format!("cannot read {}", shown()))?;
    let mut trusted = rustls::RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(&pem) {
        let certificate = certificate.context(Class::Configuration, || format!("{} is not PEM", shown()))?;
        trusted
            .add(certificate)
            .context(Class::Configuration, || format!("{} holds something that is not a certificate", shown()))?;
    }
    if trusted.is_empty() {
        return Err(Error::configuration(format!("{} holds no certificate", shown()))
            .hint("put the certificate of the authority into it, as PEM: -----BEGIN CERTIFICATE-----"));
    }
    Ok(pem)
}
