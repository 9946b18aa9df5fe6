//! A cap on the bandwidth of a replica, against a real S3 server and a real directory: it is kept
//! in both directions, smoothly, and no deadline passes because of it.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::time::{Duration, Instant};

use bytes::Bytes;
use lifeboat_engine::clock::SystemClock;
use lifeboat_engine::config::{ReplicaConfig, ReplicaKind};
use lifeboat_engine::store::bandwidth::Bandwidth;
use lifeboat_engine::store::{ReplicaErrorKind, SharedReplica, open};
use lifeboat_tests::checksum::crc64nvme;
use lifeboat_tests::proxy::{Mode, Proxy};
use lifeboat_tests::s3::Region;
use lifeboat_tests::vault::noise;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

/// No body of these tests is longer.
const MAX_BODY_BYTES: u64 = 64 << 20;

const MIB: usize = 1 << 20;
const RATE: usize = 2 * MIB;
/// What may pass at once after idling.
const BURST: usize = RATE / 4;
/// Shorter than any of the transfers.
const DEADLINE: Duration = Duration::from_millis(700);

/// How long `bytes` take at least.
fn least(bytes: usize) -> Duration {
    Duration::from_secs_f64((bytes - BURST) as f64 / RATE as f64)
}

fn capped(mut config: ReplicaConfig, deadline: Duration) -> ReplicaConfig {
    config.bandwidth = Bandwidth::always(Some(RATE as u64));
    config.timeout = deadline;
    config
}

fn through(region: &Region, proxy: &Proxy, deadline: Duration) -> ReplicaConfig {
    let mut config = capped(region.replica_config("north"), deadline);
    if let ReplicaKind::S3(s3) = &mut config.kind {
        s3.endpoint = Some(format!("http://{}", proxy.address()).parse().unwrap());
        s3.ca_file = None;
    }
    config
}

/// Puts and gets 3 MiB, a second and a quarter each at least, within the deadline although that is
/// shorter.
async fn keeps_to_its_cap(replica: &SharedReplica) {
    let body = Bytes::from(noise(3 * MIB, 1));
    let begin = Instant::now();
    replica.put_new("datasets/d/packs/00/p", body.clone()).await.unwrap();
    let put = begin.elapsed();
    let begin = Instant::now();
    assert!(replica.get("datasets/d/packs/00/p", MAX_BODY_BYTES).await.unwrap() == body, "the bytes differ");
    let got = begin.elapsed();
    for took in [put, got] {
        // Between the two a little is saved up.
        assert!(took > least(3 * MIB) - Duration::from_millis(100), "{put:?} {got:?}");
        assert!(took < least(3 * MIB) + Duration::from_millis(1500), "{put:?} {got:?}");
    }
    replica.delete("datasets/d/packs/00/p").await.unwrap();
}

/// Waits until `ready`, for half a minute at most.
async fn eventually(what: &str, ready: impl Fn() -> bool) {
    let began = Instant::now();
    while !ready() {
        assert!(began.elapsed() < Duration::from_secs(30), "{what} did not come");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_capped_directory_keeps_to_its_cap_beyond_its_deadline() {
    let directory = tempfile::TempDir::new().unwrap();
    let config = ReplicaConfig {
        name: "disk".parse().unwrap(),
        region: "attic".to_owned(),
        kind: ReplicaKind::Directory { path: directory.path().to_owned() },
        timeout: DEADLINE,
        bandwidth: Bandwidth::default(),
    };
    let replica = open(&capped(config, DEADLINE), "vault", &SystemClock::shared()).await.unwrap();
    keeps_to_its_cap(&replica).await;
    // A call that is given up ends with its next piece, and leaves nothing behind.
    let put = replica.put_new("given/up", Bytes::from(noise(4 * MIB, 2)));
    let given = directory.path().join("vault/given");
    let left = || std::fs::read_dir(&given).map_or(0, Iterator::count);
    tokio::select! {
        _ = put => panic!("4 MiB came too fast"),
        () = eventually("a piece", || left() > 0) => {}
    }
    eventually("an empty directory", || left() == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_capped_region_keeps_to_its_cap_beyond_its_deadline_and_smoothly() {
    let region = Region::start("eu-north-1").await;
    let proxy = Proxy::start(region.plain_address()).await;
    let replica = open(&through(&region, &proxy, DEADLINE), "vault", &SystemClock::shared()).await.unwrap();
    tokio::join!(keeps_to_its_cap(&replica), pieces_arrive_smoothly(&proxy));
    a_server_that_hangs_is_noticed_at_the_deadline(&region, &proxy).await;
}

/// The head of a request, in small letters; the request is answered like a success.
async fn head_of_a_request(listener: TcpListener) -> String {
    let (mut client, _) = listener.accept().await.unwrap();
    let mut request = Vec::new();
    let end = loop {
        assert!(client.read_buf(&mut request).await.unwrap() > 0, "no whole head");
        if let Some(end) = request.windows(4).position(|window| window == b"\r\n\r\n") {
            break end + 4;
        }
    };
    while request.len() < end + MIB {
        assert!(client.read_buf(&mut request).await.unwrap() > 0, "no whole body");
    }
    assert!(request[end..] == noise(MIB, 4), "the body differs");
    client.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await.unwrap();
    String::from_utf8_lossy(&request[..end]).to_ascii_lowercase()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paced_request_is_announced_and_signed_like_any_other() {
    let region = Region::start("eu-north-1").await;
    let mut heads = Vec::new();
    for rate in [None, Some(RATE as u64)] {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut config = region.replica_config("north");
        config.bandwidth = Bandwidth::always(rate);
        if let ReplicaKind::S3(s3) = &mut config.kind {
            s3.endpoint = Some(format!("http://{}", listener.local_addr().unwrap()).parse().unwrap());
            s3.ca_file = None;
        }
        let replica = open(&config, "vault", &SystemClock::shared()).await.unwrap();
        let body = Bytes::from(noise(MIB, 4));
        let (head, put) = tokio::join!(head_of_a_request(listener), replica.put_new("object", body));
        put.unwrap();
        let named = |line: &&str| {
            ["content-", "x-amz-content-sha256", "x-amz-checksum", "x-amz-trailer", "transfer-"]
                .iter()
                .any(|name| line.starts_with(name))
        };
        let mut lines: Vec<String> = head.lines().filter(named).map(str::to_owned).collect();
        lines.sort();
        heads.push(lines);
    }
    assert_eq!(heads[0], heads[1]);
    assert!(heads[1].contains(&format!("content-length: {MIB}")), "{heads:?}");
    let sha256 = heads[1].iter().find_map(|line| line.strip_prefix("x-amz-content-sha256: ")).unwrap();
    assert!(sha256.len() == 64 && sha256.bytes().all(|byte| byte.is_ascii_hexdigit()), "{heads:?}");
    // What `head_of_a_request` gives is in small letters.
    let checksum = format!("x-amz-checksum-crc64nvme: {}", crc64nvme(&noise(MIB, 4)).to_ascii_lowercase());
    assert!(heads[1].contains(&checksum), "{heads:?} without {checksum}");
    let told = format!("{heads:?}");
    assert!(!told.contains("chunked") && !told.contains("trailer"), "{heads:?}");
}

/// While the put lasts, no 200 ms bring much more than their share. These are real ones: how much
/// comes in how much time is what is tested.
async fn pieces_arrive_smoothly(proxy: &Proxy) {
    const LOOK: Duration = Duration::from_millis(200);
    let begin = (Instant::now(), proxy.requested());
    tokio::time::sleep(LOOK).await;
    let mut last = (Instant::now(), proxy.requested());
    let mut shares = Vec::new();
    while last.1 - begin.1 < 5 * MIB / 2 {
        tokio::time::sleep(LOOK).await;
        let now = (Instant::now(), proxy.requested());
        let share = RATE as f64 * (now.0 - last.0).as_secs_f64();
        let came = (now.1 - last.1) as f64;
        assert!(came < share * 1.5 + 65_536.0, "{came} bytes instead of {share}");
        shares.push(came / share);
        last = now;
        assert!(begin.0.elapsed() < Duration::from_secs(5), "nothing arrives");
    }
    assert!(shares.len() >= 3, "{} looks", shares.len());
    // Of all looks: a busy machine may give no time to send in one of them.
    let slow = shares.iter().filter(|share| **share <= 0.3).count();
    assert!(slow <= 1, "too little came in {slow} looks: {shares:.2?}");
}

async fn a_server_that_hangs_is_noticed_at_the_deadline(region: &Region, proxy: &Proxy) {
    let replica = open(&through(region, proxy, DEADLINE), "vault", &SystemClock::shared()).await.unwrap();
    proxy.set(Mode::Hang);
    let begin = Instant::now();
    let error = replica.put_new("hangs", Bytes::from(noise(100_000, 3))).await.unwrap_err();
    assert!(matches!(error.kind, ReplicaErrorKind::TimedOut(DEADLINE)), "{error}");
    assert!(begin.elapsed() < DEADLINE * 2, "{:?}", begin.elapsed());
}
