//! Replicas that fail: each fault becomes the right error in bounded time, passes unnoticed when it
//! passes in time, and never makes two objects of one or none of it.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::Bytes;
use lifeboat_engine::clock::SystemClock;
use lifeboat_engine::config::{ReplicaConfig, ReplicaKind};
use lifeboat_engine::store::bandwidth::Bandwidth;
use lifeboat_engine::store::{Replica, ReplicaErrorKind, S3Replica, SharedReplica, open};
use lifeboat_tests::proxy::{Mode, Proxy};
use lifeboat_tests::s3::Region;

/// No body of these tests is longer.
const MAX_BODY_BYTES: u64 = 64 << 20;

const DEADLINE: Duration = Duration::from_secs(2);

/// The region as seen through what listens at `address`, without TLS.
fn through(region: &Region, address: SocketAddr) -> ReplicaConfig {
    let mut config = region.replica_config("north");
    config.timeout = DEADLINE;
    if let ReplicaKind::S3(s3) = &mut config.kind {
        s3.endpoint = Some(format!("http://{address}").parse().unwrap());
        s3.ca_file = None;
    }
    config
}

async fn behind_proxy(region: &Region) -> (Proxy, SharedReplica) {
    let proxy = Proxy::start(region.plain_address()).await;
    let replica = open(&through(region, proxy.address()), "vault", &SystemClock::shared()).await.unwrap();
    (proxy, replica)
}

#[tokio::test(flavor = "multi_thread")]
async fn faults_of_a_region_become_the_right_errors_or_pass_unnoticed() {
    let region = Region::start("eu-north-1").await;
    hanging_is_noticed_at_the_deadline(&region).await;
    resets_refusals_and_server_errors_are_retried_then_unavailable(&region).await;
    one_failure_passes_unnoticed(&region).await;
    refusals_are_not_repeated(&region).await;
    lost_answer_to_a_put_is_no_conflict_with_ourselves(&region).await;
    lost_answer_does_not_claim_the_object_of_another(&region).await;
    collisions_are_retried_and_existing_objects_are_not(&region).await;
    upload_cut_short_leaves_nothing_and_is_sent_again(&region).await;
    listing_without_a_token_is_refused(&region).await;
    download_cut_short_is_never_taken_for_whole(&region).await;
    damaged_download_is_refused_by_the_replica_itself(&region).await;
    hanging_tls_handshake_is_noticed_at_the_deadline(&region).await;
}

async fn hanging_is_noticed_at_the_deadline(region: &Region) {
    let (proxy, replica) = behind_proxy(region).await;
    proxy.set(Mode::Hang);
    let begin = Instant::now();
    let error = replica.list("").await.unwrap_err();
    assert!(matches!(error.kind, ReplicaErrorKind::TimedOut(DEADLINE)), "{error}");
    assert!(begin.elapsed() < DEADLINE + Duration::from_secs(1), "{:?}", begin.elapsed());
}

async fn resets_refusals_and_server_errors_are_retried_then_unavailable(region: &Region) {
    let (proxy, replica) = behind_proxy(region).await;
    for mode in [Mode::Reset, Mode::Refuse, Mode::Status(500), Mode::Status(503)] {
        proxy.set(mode);
        let outcomes = tokio::join!(
            replica.put_new("object", Bytes::from_static(b"x")),
            async { replica.get("object", MAX_BODY_BYTES).await.map(drop) },
            replica.delete("object"),
            async { replica.list("").await.map(drop) },
        );
        for outcome in [outcomes.0, outcomes.1, outcomes.2, outcomes.3] {
            let error = outcome.unwrap_err();
            assert!(matches!(error.kind, ReplicaErrorKind::Unavailable(_)), "{mode:?}: {error}");
        }
        if mode != Mode::Refuse {
            // Three attempts at least: the fourth may fall behind the short deadline of this test.
            assert!(proxy.connections() >= 12, "{mode:?}: {} attempts", proxy.connections());
        }
    }
}

async fn one_failure_passes_unnoticed(region: &Region) {
    let (proxy, replica) = behind_proxy(region).await;
    for (number, fault) in [Mode::Reset, Mode::Status(500), Mode::CutAfter(10)].into_iter().enumerate() {
        let key = format!("once/{number}");
        proxy.play([fault], Mode::Pass);
        replica.put_replace(&key, Bytes::from_static(b"x")).await.unwrap();
        proxy.play([fault], Mode::Pass);
        assert_eq!(replica.get(&key, MAX_BODY_BYTES).await.unwrap(), "x");
        proxy.play([fault], Mode::Pass);
        assert_eq!(replica.list("once/").await.unwrap().len(), number + 1);
        assert!(proxy.connections() >= 2, "{fault:?} was not met");
    }
    // The connection refused: the server is there again before the attempts end.
    proxy.set(Mode::Refuse);
    let (found, ()) = tokio::join!(replica.head("once/0"), async {
        tokio::time::sleep(Duration::from_millis(200)).await;
        proxy.set(Mode::Pass);
    });
    assert_eq!(found.unwrap().unwrap().size, 1);
}

async fn refusals_are_not_repeated(region: &Region) {
    let proxy = Proxy::standalone(Mode::Status(403)).await;
    let replica = open(&through(region, proxy.address()), "vault", &SystemClock::shared()).await.unwrap();
    let error = replica.get("object", MAX_BODY_BYTES).await.unwrap_err();
    assert!(matches!(error.kind, ReplicaErrorKind::Denied(_)), "{error}");
    assert_eq!(proxy.connections(), 1);
    proxy.set(Mode::Status(404));
    assert!(replica.get("object", MAX_BODY_BYTES).await.unwrap_err().is_not_found());
    assert_eq!(proxy.connections(), 1);
    replica.delete("object").await.unwrap();
}

async fn lost_answer_to_a_put_is_no_conflict_with_ourselves(region: &Region) {
    let (proxy, replica) = behind_proxy(region).await;
    let body = Bytes::from(vec![7; 300_000]);
    proxy.play([Mode::CutAfter(0)], Mode::Pass);
    replica.put_new("lost/ours", body.clone()).await.unwrap();
    assert!(proxy.connections() >= 2, "the fault was not met");
    assert_eq!(replica.get("lost/ours", MAX_BODY_BYTES).await.unwrap(), body);
    let again = replica.put_new("lost/ours", body).await.unwrap_err();
    assert!(matches!(again.kind, ReplicaErrorKind::AlreadyExists), "{again}");
}

async fn lost_answer_does_not_claim_the_object_of_another(region: &Region) {
    let (proxy, replica) = behind_proxy(region).await;
    replica.put_new("lost/theirs", Bytes::from_static(b"theirs")).await.unwrap();
    proxy.play([Mode::CutAfter(0)], Mode::Pass);
    let error = replica.put_new("lost/theirs", Bytes::from_static(b"ours..")).await.unwrap_err();
    assert!(matches!(error.kind, ReplicaErrorKind::AlreadyExists), "{error}");
    assert_eq!(replica.get("lost/theirs", MAX_BODY_BYTES).await.unwrap(), "theirs");
}

async fn collisions_are_retried_and_existing_objects_are_not(region: &Region) {
    let (proxy, replica) = behind_proxy(region).await;
    let body = Bytes::from_static(b"body");
    // 409: another write of the same key is under way. It says nothing of how that one ends.
    proxy.play([Mode::Status(409)], Mode::Pass);
    replica.put_new("collision/once", body.clone()).await.unwrap();
    assert!(proxy.connections() >= 2, "the fault was not met");
    assert_eq!(replica.get("collision/once", MAX_BODY_BYTES).await.unwrap(), body);
    proxy.set(Mode::Status(409));
    let error = replica.put_new("collision/always", body.clone()).await.unwrap_err();
    assert!(matches!(error.kind, ReplicaErrorKind::Unavailable(_)), "{error}");
    assert!(proxy.connections() >= 3, "{} attempts", proxy.connections());
    // 412: it exists, and is ours only if an attempt before may have written it.
    proxy.set(Mode::Status(412));
    let error = replica.put_new("collision/never", body.clone()).await.unwrap_err();
    assert!(matches!(error.kind, ReplicaErrorKind::AlreadyExists), "{error}");
    assert_eq!(proxy.connections(), 1);
    proxy.play([Mode::Status(409), Mode::Status(412)], Mode::Pass);
    let error = replica.put_new("collision/never", body).await.unwrap_err();
    let told = error.to_string();
    assert!(matches!(error.kind, ReplicaErrorKind::Unavailable(_)) && told.contains("no such object"), "{told}");
    assert_eq!(replica.head("collision/never").await.unwrap(), None);
}

async fn upload_cut_short_leaves_nothing_and_is_sent_again(region: &Region) {
    let (proxy, replica) = behind_proxy(region).await;
    let body = Bytes::from(vec![3; 2_000_000]);
    proxy.set(Mode::CutRequestAfter(1_000_000));
    let error = replica.put_new("upload", body.clone()).await.unwrap_err();
    assert!(matches!(error.kind, ReplicaErrorKind::Unavailable(_)), "{error}");
    proxy.set(Mode::Pass);
    assert_eq!(replica.head("upload").await.unwrap(), None, "a part of it is taken for all");
    assert_eq!(replica.list("upload").await.unwrap(), []);
    proxy.play([Mode::CutRequestAfter(1_000_000)], Mode::Pass);
    replica.put_new("upload", body.clone()).await.unwrap();
    assert!(proxy.connections() >= 2, "the fault was not met");
    assert!(replica.get("upload", MAX_BODY_BYTES).await.unwrap() == body, "the bytes differ");
}

async fn listing_without_a_token_is_refused(region: &Region) {
    let (proxy, replica) = behind_proxy(region).await;
    proxy.set(Mode::ListingWithoutToken);
    let error = replica.list("").await.unwrap_err();
    assert!(matches!(error.kind, ReplicaErrorKind::BadListing(_)), "{error}");
    assert_eq!(proxy.connections(), 1, "it was asked again");
}

async fn download_cut_short_is_never_taken_for_whole(region: &Region) {
    let (proxy, replica) = behind_proxy(region).await;
    replica.put_new("large", Bytes::from(vec![1; 2_000_000])).await.unwrap();
    proxy.set(Mode::CutAfter(1_000_000));
    let error = replica.get("large", MAX_BODY_BYTES).await.unwrap_err();
    assert!(matches!(error.kind, ReplicaErrorKind::Unavailable(_) | ReplicaErrorKind::Corrupt(_)), "{error}");
    proxy.play([Mode::CutAfter(1_000_000)], Mode::Pass);
    assert_eq!(replica.get("large", MAX_BODY_BYTES).await.unwrap().len(), 2_000_000);
}

async fn damaged_download_is_refused_by_the_replica_itself(region: &Region) {
    let body = Bytes::from(vec![5; 2_000_000]);
    for cap in [None, Some(64 << 20)] {
        let proxy = Proxy::start(region.plain_address()).await;
        let mut config = through(region, proxy.address());
        config.bandwidth = Bandwidth::always(cap);
        let ReplicaKind::S3(s3) = &config.kind else { unreachable!("regions are S3") };
        let bare = async || S3Replica::open(&config, s3, "vault", SystemClock::shared()).await.unwrap();
        bare().await.put_replace("damaged", body.clone()).await.unwrap();
        // Behind the head, in the middle, and as near to the end as no head is long.
        for place in [4_000, 1_000_000, 2_000_000] {
            proxy.set(Mode::DamageAt(place));
            // A client that was open before may still try the connection that was closed just now.
            let error = bare().await.get("damaged", MAX_BODY_BYTES).await.unwrap_err();
            assert!(matches!(error.kind, ReplicaErrorKind::Corrupt(_)), "{cap:?}, byte {place}: {error}");
            assert!(error.to_string().contains("checksum"), "{cap:?}, byte {place}: {error}");
            assert_eq!(proxy.connections(), 1, "{cap:?}, byte {place}");
        }
        // It is fetched again, and whole then.
        let replica = open(&config, "vault", &SystemClock::shared()).await.unwrap();
        proxy.play([Mode::DamageAt(1_000_000)], Mode::Pass);
        let before = proxy.answered();
        assert!(replica.get("damaged", MAX_BODY_BYTES).await.unwrap() == body, "{cap:?}: the bytes differ");
        assert!(proxy.answered() - before > 2 * body.len(), "{cap:?}: the fault was not met");
    }
}

async fn hanging_tls_handshake_is_noticed_at_the_deadline(region: &Region) {
    let proxy = Proxy::standalone(Mode::Hang).await;
    let mut config = region.replica_config("north");
    config.timeout = DEADLINE;
    if let ReplicaKind::S3(s3) = &mut config.kind {
        s3.endpoint = Some(format!("https://{}", proxy.address()).parse().unwrap());
    }
    let begin = Instant::now();
    let error =
        open(&config, "vault", &SystemClock::shared()).await.unwrap().get("object", MAX_BODY_BYTES).await.unwrap_err();
    assert!(matches!(error.kind, ReplicaErrorKind::TimedOut(_) | ReplicaErrorKind::Unavailable(_)), "{error}");
    assert!(begin.elapsed() < DEADLINE * 2, "{:?}", begin.elapsed());
}
