//! In time that stands still unless somebody waits for it.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::sync::atomic::{AtomicUsize, Ordering};

use chrono::{DateTime, Utc};
use lifeboat_base::clock::Clock;
use lifeboat_base::hours::{Days, Hours, parse_time_of_day};
use tokio::time::Instant;

use super::*;
use crate::bandwidth::Window;

const MIB: u64 = 1 << 20;

/// Tokio's time, beginning on Tuesday, 24 November 2026, at 07:59:50 UTC.
struct PausedClock(Instant);

impl Clock for PausedClock {
    fn now(&self) -> DateTime<Utc> {
        "2026-11-24T07:59:50Z".parse::<DateTime<Utc>>().unwrap() + self.0.elapsed()
    }

    fn elapsed(&self) -> Duration {
        self.0.elapsed()
    }

    fn elapsed_with_sleep(&self) -> Duration {
        self.elapsed()
    }
}

fn pacer(bandwidth: &Bandwidth) -> Arc<Pacer> {
    Arc::new(Pacer::with_clock(bandwidth, Arc::new(PausedClock(Instant::now()))))
}

fn capped(rate: u64) -> Arc<Pacer> {
    pacer(&Bandwidth::always(Some(rate)))
}

/// Passes `bytes`, and tells each piece with the time at which it passed.
async fn pass(pacer: &Pacer, mut bytes: usize, start: Instant) -> Vec<(Duration, usize)> {
    let mut pieces = Vec::new();
    while bytes > 0 {
        let leave = pacer.leave(bytes, &Waiting::default()).await;
        assert!(leave > 0 && leave <= bytes);
        bytes -= leave;
        pieces.push((start.elapsed(), leave));
    }
    pieces
}

fn about(found: Duration, expected: f64) {
    let found = found.as_secs_f64();
    assert!((found - expected).abs() < 0.05, "{found} s instead of {expected} s");
}

#[tokio::test(start_paused = true)]
async fn a_transfer_takes_its_length_divided_by_the_rate_less_one_burst() {
    for (rate, bytes) in [(64 << 10, MIB), (2 * MIB, 4 * MIB), (5 * MIB, 16 * MIB), (200 * MIB, 1000 * MIB)] {
        let (pacer, start) = (capped(rate), Instant::now());
        pass(&pacer, bytes as usize, start).await;
        let burst = (rate as f64 / BURSTS_A_SECOND).max(MIN_BURST_BYTES);
        about(start.elapsed(), (bytes as f64 - burst) / rate as f64);
    }
}

#[tokio::test(start_paused = true)]
async fn no_tenth_of_a_second_passes_more_than_its_share_and_a_piece() {
    let (pacer, start) = (capped(2 * MIB), Instant::now());
    let pieces = pass(&pacer, 8 << 20, start).await;
    let (share, piece) = (2 * MIB as usize / 10, piece(2 * MIB));
    // The burst passes at once.
    for tenth in 1..30 {
        let within = Duration::from_millis(tenth * 100)..Duration::from_millis((tenth + 1) * 100);
        let passed: usize = pieces.iter().filter(|(at, _)| within.contains(at)).map(|(_, bytes)| bytes).sum();
        assert!(passed.abs_diff(share) <= piece, "{passed} bytes in tenth {tenth}");
    }
}

#[tokio::test(start_paused = true)]
async fn all_transfers_of_a_replica_share_one_cap_evenly() {
    let (pacer, start) = (capped(4 * MIB), Instant::now());
    // Whoever comes first has the burst.
    pass(&pacer, MIB as usize, start).await;
    let ends = futures::future::join_all((0..4).map(|_| pass(&pacer, 4 << 20, start))).await;
    about(start.elapsed(), 16.0 / 4.0);
    for pieces in ends {
        about(pieces.last().unwrap().0, start.elapsed().as_secs_f64());
    }
}

#[tokio::test(start_paused = true)]
async fn a_small_object_waits_for_one_piece_of_each_transfer_and_not_for_packs() {
    let (pacer, packs) = (capped(64 << 10), AtomicUsize::new(0));
    let pack = || async {
        pass(&pacer, 16 << 20, Instant::now()).await;
        packs.fetch_add(1, Ordering::Relaxed);
    };
    let small = async {
        tokio::time::sleep(Duration::from_secs(10)).await;
        let start = Instant::now();
        pass(&pacer, 1000, start).await;
        assert_eq!(packs.load(Ordering::Relaxed), 0);
        start.elapsed()
    };
    let (_, _, waited) = tokio::join!(pack(), pack(), small);
    // Two pieces of a quarter of a second each.
    assert!(waited <= Duration::from_millis(600), "{waited:?}");
}

#[tokio::test(start_paused = true)]
async fn idling_saves_up_one_burst_and_no_more() {
    let (pacer, start) = (capped(2 * MIB), Instant::now());
    pass(&pacer, 4 << 20, start).await;
    tokio::time::sleep(Duration::from_secs(3600)).await;
    let start = Instant::now();
    let pieces = pass(&pacer, 2 << 20, start).await;
    let at_once: usize = pieces.iter().filter(|(at, _)| at.is_zero()).map(|(_, bytes)| bytes).sum();
    assert!(at_once <= MIB as usize / 2, "{at_once}");
    about(start.elapsed(), 0.75);
}

#[tokio::test(start_paused = true)]
async fn a_change_of_the_schedule_counts_in_the_middle_of_an_object() {
    let office = |rate| Window {
        hours: Hours {
            days: Days::ALL,
            from: parse_time_of_day("08:00").unwrap(),
            to: parse_time_of_day("18:00").unwrap(),
        },
        rate,
    };
    // Ten seconds at 1 MiB/s, then the rest as fast as it goes.
    let (opens, start) = (pacer(&Bandwidth::new(Some(MIB), vec![office(None)], chrono_tz::UTC)), Instant::now());
    pass(&opens, 100 << 20, start).await;
    assert!((10.0..10.3).contains(&start.elapsed().as_secs_f64()), "{:?}", start.elapsed());

    // Even where a piece takes long.
    let slow = Bandwidth::new(Some(64 << 10), vec![office(Some(64 * MIB))], chrono_tz::UTC);
    let (raised, start) = (pacer(&slow), Instant::now());
    pass(&raised, 64 << 20, start).await;
    assert!((10.0..11.5).contains(&start.elapsed().as_secs_f64()), "{:?}", start.elapsed());

    let lowered = Bandwidth::new(Some(64 * MIB), vec![office(Some(64 << 10))], chrono_tz::UTC);
    let (lowered, start) = (pacer(&lowered), Instant::now());
    tokio::time::sleep(Duration::from_secs(10)).await;
    pass(&lowered, MIB as usize, start).await;
    about(start.elapsed() - Duration::from_secs(10), 15.0);

    // What passes before a cap begins leaves nothing to burst with.
    let begins = Bandwidth::new(None, vec![office(Some(MIB))], chrono_tz::UTC);
    let (begins, start) = (pacer(&begins), Instant::now());
    pass(&begins, 100 << 20, start).await;
    assert!(start.elapsed().is_zero());
    tokio::time::sleep(Duration::from_secs(10)).await;
    pass(&begins, 2 << 20, start).await;
    about(start.elapsed(), 10.0 + 1.75);
}

#[tokio::test(start_paused = true)]
async fn who_stops_waiting_takes_nothing_and_holds_nobody_up() {
    let (pacer, start) = (capped(64 << 10), Instant::now());
    pass(&pacer, 64 << 10, start).await;
    let waiting = Waiting::default();
    for _ in 0..100 {
        let abandoned = tokio::time::timeout(Duration::from_millis(1), pacer.leave(16 << 10, &waiting));
        abandoned.await.unwrap_err();
    }
    let already = start.elapsed();
    pass(&pacer, 16 << 10, start).await;
    about(start.elapsed(), already.as_secs_f64().max(0.25));
}

#[tokio::test(start_paused = true)]
async fn what_is_waited_for_leave_is_counted() {
    let (pacer, waiting, start) = (capped(64 << 10), Waiting::default(), Instant::now());
    pass(&pacer, 64 << 10, start).await;
    pacer.leave(16 << 10, &waiting).await;
    about(waiting.total(), 0.25);
}
