//! Translates errors of the SDK and the store into the kinds that callers must tell apart.
//!
//! Texts of the store are shown, but bounded and without control characters, so that a log line
//! stays one line.

use std::error::Error as StdError;
use std::io;
use std::time::Duration;

use aws_credential_types::provider::error::CredentialsError;
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_s3::primitives::ByteStreamError;
use aws_smithy_runtime_api::client::orchestrator::HttpResponse;

use crate::replica::ReplicaErrorKind as Kind;

const MAX_TEXT_CHARS: usize = 300;
/// What stores answer to too many requests.
const THROTTLING_CODES: [&str; 7] = [
    "BandwidthLimitExceeded",
    "RequestLimitExceeded",
    "SlowDown",
    "Throttling",
    "ThrottlingException",
    "TooManyRequests",
    "TooManyRequestsException",
];

/// The answer for a bucket that does not exist. [`named`] adds its name.
pub(super) const NO_BUCKET: &str = "no such bucket";

/// What resolvers say of a host that does not exist.
const NO_HOST: [&str; 4] = ["lookup address", "Name or service not known", "nodename nor servname", "No such host"];

/// Adds to a failed request what it asked for, where that is what is wrong: the bucket, or the
/// host that the bucket's name made.
pub(super) fn named(kind: Kind, bucket: &str, bucket_host: Option<&str>) -> Kind {
    match (kind, bucket_host) {
        (Kind::Misconfigured(why), _) if why == NO_BUCKET => Kind::Misconfigured(format!("{NO_BUCKET}: {bucket}")),
        (Kind::Unavailable(why), Some(host)) if NO_HOST.iter().any(|no_host| why.contains(no_host)) => {
            Kind::Unavailable(format!(
                "{why}: it asked for the host {host}; if the store addresses buckets as endpoint/bucket, set path_style = true (--s3-path-style)"
            ))
        }
        (kind, _) => kind,
    }
}

/// Classifies any failed request. The caller keeps the deadline, so a timeout here is that of the
/// connection.
pub(super) fn classify<E>(error: &SdkError<E, HttpResponse>) -> Kind
where
    E: ProvideErrorMetadata + StdError + Send + Sync + 'static,
{
    if let Some(response) = error.raw_response() {
        let status = response.status().as_u16();
        let (code, message) = match error.as_service_error() {
            Some(error) => (error.code().unwrap_or_default(), error.message().unwrap_or_default()),
            None => ("", "the answer does not come from an S3 store"),
        };
        let after = response.headers().get("retry-after").and_then(retry_after);
        return classify_answer(status, code, message, after);
    }
    let cause: &(dyn StdError + 'static) = error;
    if let Some(credentials) = find::<CredentialsError>(cause) {
        return classify_credentials(credentials);
    }
    if let Some(tls) = find::<rustls::Error>(cause) {
        return classify_tls(tls);
    }
    let text = tidy(&last_text(cause));
    match error {
        SdkError::DispatchFailure(failure) if failure.is_timeout() => {
            Kind::Unavailable(format!("no connection: {text}"))
        }
        SdkError::ConstructionFailure(_) => Kind::Other(text),
        _ => Kind::Unavailable(text),
    }
}

/// Classifies the failure of a body that had begun to arrive.
pub(super) fn classify_body(error: &ByteStreamError) -> Kind {
    let text = tidy(&last_text(error));
    if find::<io::Error>(error).is_some() {
        Kind::Unavailable(format!("the transfer broke off: {text}"))
    } else {
        Kind::Corrupt(text)
    }
}

/// Classifies an error for one object, in an answer that is none as a whole.
pub(super) fn classify_code(code: &str, message: &str) -> Kind {
    let status = match code {
        "AccessDenied" => 403,
        "InternalError" => 500,
        _ => 200,
    };
    classify_answer(status, code, message, None)
}

/// The seconds of a `Retry-After`. A date is passed over: the clocks may differ.
fn retry_after(header: &str) -> Option<Duration> {
    header.trim().parse().ok().map(Duration::from_secs)
}

/// What an answer means. `code` and `message` are empty if the answer had no body. `after` is the
/// pause that it asks for.
fn classify_answer(status: u16, code: &str, message: &str, after: Option<Duration>) -> Kind {
    let text = || {
        let code = if code.is_empty() { String::new() } else { format!(" {code}") };
        let message = if message.is_empty() { String::new() } else { format!(": {message}") };
        tidy(&format!("HTTP {status}{code}{message}"))
    };
    match (status, code) {
        (_, "NoSuchBucket") => Kind::Misconfigured(NO_BUCKET.to_owned()),
        (_, "ExpiredToken" | "InvalidToken" | "InvalidAccessKeyId" | "SignatureDoesNotMatch") => Kind::Denied(text()),
        (
            _,
            "BadDigest"
            | "InvalidDigest"
            | "IncompleteBody"
            | "XAmzContentSHA256Mismatch"
            | "XAmzContentChecksumMismatch",
        ) => Kind::Corrupt(text()),
        _ if THROTTLING_CODES.contains(&code) || status == 429 || (status == 503 && after.is_some()) => {
            Kind::Throttled { why: text(), after }
        }
        (_, "RequestTimeout") => Kind::Unavailable(text()),
        (_, "InvalidObjectState") => Kind::Frozen(text()),
        (_, "NotImplemented") | (501, _) => Kind::Misconfigured(text()),
        (401 | 403, _) => Kind::Denied(text()),
        (404, "" | "NoSuchKey" | "NotFound") => Kind::NotFound,
        (412, _) => Kind::AlreadyExists,
        (408 | 409 | 425 | 500.., _) => Kind::Unavailable(text()),
        (300..=399, _) => Kind::Misconfigured(format!("{}; the region may be wrong", text())),
        (_, "AuthorizationHeaderMalformed" | "IllegalLocationConstraintException" | "InvalidBucketName") => {
            Kind::Misconfigured(text())
        }
        _ => Kind::Other(text()),
    }
}

fn classify_credentials(error: &CredentialsError) -> Kind {
    let stage = match error {
        CredentialsError::CredentialsNotLoaded(_) => "no credentials were found where the configuration says",
        _ => "the credentials could not be loaded",
    };
    let cause = error.source().map(|cause| format!(": {}", last_text(cause))).unwrap_or_default();
    Kind::Denied(tidy(&format!("{stage}{cause}")))
}

fn classify_tls(error: &rustls::Error) -> Kind {
    match error {
        rustls::Error::InvalidCertificate(reason @ rustls::CertificateError::UnknownIssuer) => {
            Kind::Misconfigured(format!(
                "the certificate of the server is not trusted: {reason}; if an authority of your own signed it, name that one's certificate in ca_file (--s3-ca-file)"
            ))
        }
        rustls::Error::InvalidCertificate(reason) => {
            Kind::Misconfigured(format!("the certificate of the server is not trusted: {reason}"))
        }
        rustls::Error::DecryptError => Kind::Unavailable(error.to_string()),
        _ => Kind::Misconfigured(format!("TLS failed: {error}")),
    }
}

/// Every error of the chain. `source` of an `io::Error` skips its payload, so the payload comes
/// first.
fn chain<'error>(error: &'error (dyn StdError + 'static)) -> impl Iterator<Item = &'error (dyn StdError + 'static)> {
    std::iter::successors(Some(error), |&error| match error.downcast_ref::<io::Error>() {
        Some(io) => io.get_ref().map(|inner| inner as &(dyn StdError + 'static)),
        None => error.source(),
    })
}

fn find<'error, E: StdError + 'static>(error: &'error (dyn StdError + 'static)) -> Option<&'error E> {
    chain(error).find_map(|error| error.downcast_ref::<E>())
}

/// The innermost text, which says most: the outer texts are the SDK's names for its own stages.
fn last_text(error: &(dyn StdError + 'static)) -> String {
    chain(error).last().map(ToString::to_string).unwrap_or_default()
}

fn tidy(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(MAX_TEXT_CHARS).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn word(kind: &Kind) -> &'static str {
        match kind {
            Kind::NotFound => "not found",
            Kind::AlreadyExists => "exists",
            Kind::Denied(_) => "denied",
            Kind::Misconfigured(_) => "misconfigured",
            Kind::Corrupt(_) => "corrupt",
            Kind::Unavailable(_) => "unavailable",
            Kind::Throttled { .. } => "throttled",
            Kind::TimedOut(_) => "timed out",
            Kind::TooLong { .. } => "too long",
            Kind::BadListing(_) => "bad listing",
            Kind::Frozen(_) => "frozen",
            Kind::Other(_) => "other",
        }
    }

    #[test]
    fn answers_mean_what_callers_act_on() {
        for (status, code, expected) in [
            (301, "PermanentRedirect", "misconfigured"),
            (400, "AuthorizationHeaderMalformed", "misconfigured"),
            (400, "BadDigest", "corrupt"),
            (400, "ExpiredToken", "denied"),
            (400, "InvalidArgument", "other"),
            (400, "RequestTimeout", "unavailable"),
            (403, "", "denied"),
            (403, "InvalidObjectState", "frozen"),
            (403, "RequestTimeTooSkewed", "denied"),
            (404, "", "not found"),
            (404, "NoSuchBucket", "misconfigured"),
            (404, "NoSuchKey", "not found"),
            (409, "ConditionalRequestConflict", "unavailable"),
            (412, "PreconditionFailed", "exists"),
            (429, "", "throttled"),
            (500, "InternalError", "unavailable"),
            (501, "NotImplemented", "misconfigured"),
            (503, "SlowDown", "throttled"),
            (503, "", "unavailable"),
        ] {
            assert_eq!(word(&classify_answer(status, code, "", None)), expected, "{status} {code}");
        }
    }

    #[test]
    fn what_was_asked_for_is_named_where_that_is_wrong() {
        let missing = named(classify_answer(404, "NoSuchBucket", "", None), "shop-far", None).to_string();
        assert!(missing.contains("no such bucket: shop-far"), "{missing}");
        let lookup = || Kind::Unavailable("failed to lookup address information: Name or service not known".to_owned());
        let told = named(lookup(), "shop-far", Some("shop-far.s3.example.com")).to_string();
        assert!(told.contains("shop-far.s3.example.com") && told.contains("path_style = true"), "{told}");
        assert!(!named(lookup(), "shop-far", None).to_string().contains("path_style"));
        let refused = named(Kind::Unavailable("Connection refused".to_owned()), "shop-far", Some("h")).to_string();
        assert!(!refused.contains("path_style"), "{refused}");
    }

    #[test]
    fn an_authority_of_ones_own_is_named_in_ca_file() {
        let tls = |reason| classify_tls(&rustls::Error::InvalidCertificate(reason)).to_string();
        assert!(tls(rustls::CertificateError::UnknownIssuer).contains("ca_file"));
        assert!(!tls(rustls::CertificateError::Expired).contains("ca_file"));
    }

    #[test]
    fn a_pause_that_is_asked_for_is_kept_if_it_is_in_seconds() {
        assert_eq!(retry_after(" 7 "), Some(Duration::from_secs(7)));
        assert_eq!(retry_after("Fri, 31 Dec 2027 23:59:59 GMT"), None);
        let kind = classify_answer(503, "", "", retry_after("7"));
        let Kind::Throttled { after, .. } = kind else { panic!("{kind:?}") };
        assert_eq!(after, Some(Duration::from_secs(7)));
    }

    #[test]
    fn texts_of_the_store_are_bounded_and_stay_on_one_line() {
        let kind = classify_answer(500, "InternalError", &format!("a\nb\u{1b}[31m{}", "x".repeat(9999)), None);
        let text = kind.to_string();
        assert!(text.len() < 400 && !text.contains(['\n', '\u{1b}']), "{text}");
    }
}
