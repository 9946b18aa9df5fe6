//! What real servers make of a paced body, and of its head, is in
//! `tests/tests/replica_bandwidth.rs`.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::future::poll_fn;
use std::time::Duration;

use lifeboat_base::clock::SystemClock;

use super::*;
use crate::bandwidth::Bandwidth;

const RATE: u64 = 8 << 20;

fn paced(body: SdkBody, waiting: &Waiting) -> SdkBody {
    let pacer = Pacer::new(&Bandwidth::always(Some(RATE)), SystemClock::shared()).unwrap();
    PacedBody::wrap(body, &pacer, waiting)
}

#[tokio::test]
async fn the_bytes_and_the_length_stay_the_same() {
    let bytes: Vec<u8> = (0..3_000_001_u32).map(|n| (n % 251) as u8).collect();
    let waiting = Waiting::default();
    let mut body = paced(SdkBody::from(bytes.clone()), &waiting);
    let (mut passed, mut pieces) = (Vec::new(), 0);
    loop {
        assert_eq!(body.content_length(), Some((bytes.len() - passed.len()) as u64));
        assert_eq!(body.is_end_stream(), passed.len() == bytes.len());
        match poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await {
            Some(frame) => passed.extend_from_slice(&frame.unwrap().into_data().unwrap()),
            None => break,
        }
        pieces += 1;
    }
    assert!(passed == bytes, "the bytes differ");
    assert!(pieces > 30, "{pieces} pieces");
    // A little over 0.1 s beyond the burst.
    assert!(waiting.total() > Duration::from_millis(90), "{waiting:?}");
}

#[tokio::test]
async fn an_empty_body_stays_as_it_is() {
    let body = paced(SdkBody::empty(), &Waiting::default());
    assert!(body.bytes().is_some_and(<[u8]>::is_empty));
}
