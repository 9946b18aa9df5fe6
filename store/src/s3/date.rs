//! What the store's clock says: each answer has a `Date`, whatever else it says. Also a refusal has
//! one, such as that of a request whose own time is wrong.
//!
//! `Date` has whole seconds, and the answer was on its way for some time. So the store's time is
//! known to a second plus the round trip. Only that part of a difference counts which this cannot
//! explain.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use aws_sdk_s3::config::interceptors::{
    BeforeDeserializationInterceptorContextRef, BeforeTransmitInterceptorContextRef,
};
use aws_sdk_s3::config::{ConfigBag, Intercept, RuntimeComponents};
use aws_sdk_s3::error::BoxError;
use aws_smithy_types::config_bag::{Storable, StoreReplace};
use chrono::{DateTime, Datelike, TimeDelta, Utc};
use lifeboat_base::clock::SharedClock;

/// An answer tells the time for so long: clocks drift apart, and are set.
const LONGEST_USE: Duration = Duration::from_secs(600);
/// `Date` is cut to whole seconds.
const DATE_PRECISION: TimeDelta = TimeDelta::seconds(1);

/// A year in a `Date` has four digits.
const LAST_YEAR: i32 = 9999;

/// Remembers what the last answer told.
#[derive(Clone)]
pub(super) struct StoreClock {
    clock: SharedClock,
    told: Arc<Mutex<Option<Told>>>,
}

/// What an answer told.
#[derive(Debug, Clone, Copy)]
struct Told {
    /// The store's clock, at the earliest, when the answer arrived.
    earliest: DateTime<Utc>,
    /// It may have been later by this.
    uncertain: TimeDelta,
    /// When the answer arrived, as [`SentAt`] counts.
    at: Duration,
}

/// When a request was sent, by [`Clock::elapsed_with_sleep`].
///
/// [`Clock::elapsed_with_sleep`]: lifeboat_base::clock::Clock::elapsed_with_sleep
#[derive(Debug)]
struct SentAt(Duration);

impl Storable for SentAt {
    type Storer = StoreReplace<Self>;
}

impl std::fmt::Debug for StoreClock {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("StoreClock")
    }
}

impl StoreClock {
    pub(super) fn new(clock: SharedClock) -> Self {
        Self { clock, told: Arc::default() }
    }

    /// The store's clock minus ours: the least difference that its last answer leaves possible.
    /// `None` if it has not told the time lately, or if that answer leaves it open whether the
    /// difference is more than `tolerance`.
    pub(super) fn offset(&self, tolerance: TimeDelta) -> Option<TimeDelta> {
        let told = (*self.told.lock().unwrap_or_else(PoisonError::into_inner))?;
        let since = self.clock.elapsed_with_sleep().saturating_sub(told.at);
        if since > LONGEST_USE {
            return None;
        }
        let earliest = told.earliest.checked_add_signed(TimeDelta::from_std(since).ok()?)?;
        let least = earliest.signed_duration_since(self.clock.now());
        let most = least.checked_add(&told.uncertain)?;
        let offset = TimeDelta::zero().clamp(least, most);
        let agrees = offset.abs() <= tolerance;
        let may_differ = least.abs().max(most.abs()) > tolerance;
        (!(agrees && may_differ)).then_some(offset)
    }

    fn hear(&self, date: &str, sent: Duration) {
        let Ok(date) = DateTime::parse_from_rfc2822(date) else { return };
        if date.to_utc().year() > LAST_YEAR {
            return;
        }
        let at = self.clock.elapsed_with_sleep();
        let trip = TimeDelta::from_std(at.saturating_sub(sent)).unwrap_or(TimeDelta::MAX);
        let told = Told { earliest: date.to_utc(), uncertain: trip.checked_add(&DATE_PRECISION).unwrap_or(trip), at };
        *self.told.lock().unwrap_or_else(PoisonError::into_inner) = Some(told);
    }
}

impl Intercept for StoreClock {
    fn name(&self) -> &'static str {
        "StoreClock"
    }

    fn read_before_transmit(
        &self,
        _: &BeforeTransmitInterceptorContextRef<'_>,
        _: &RuntimeComponents,
        bag: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        bag.interceptor_state().store_put(SentAt(self.clock.elapsed_with_sleep()));
        Ok(())
    }

    fn read_before_deserialization(
        &self,
        context: &BeforeDeserializationInterceptorContextRef<'_>,
        _: &RuntimeComponents,
        bag: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let headers = context.response().headers();
        // With an age it comes from a cache, and its date is as old.
        if let (Some(date), None, Some(sent)) = (headers.get("date"), headers.get("age"), bag.load::<SentAt>()) {
            self.hear(date, sent.0);
        }
        Ok(())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use lifeboat_base::clock::{Clock, ManualClock};

    use super::*;

    #[test]
    fn only_what_a_second_and_the_round_trip_cannot_explain_is_a_difference() {
        let at = |text: &str| DateTime::parse_from_rfc3339(text).unwrap().to_utc();
        let (second, minute) = (Duration::from_secs(1), Duration::from_secs(60));
        let clock = ManualClock::at(at("2026-11-28T12:00:05.400Z"));
        let store = StoreClock::new(clock.clone());
        assert_eq!(store.offset(TimeDelta::MAX), None, "nothing was heard yet");
        let sent = clock.elapsed_with_sleep();
        clock.advance(4 * second);
        // By now it is 12:00:09.4 here.
        for (date, difference) in [
            ("Sat, 28 Nov 2026 12:00:05 GMT", 0.0),
            ("Sat, 28 Nov 2026 12:00:09 GMT", 0.0),
            ("Sat, 28 Nov 2026 12:00:10 GMT", 0.6),
            ("Sat, 28 Nov 2026 12:00:04 GMT", -0.4),
            ("Sat, 28 Nov 2026 13:00:09 GMT", 3599.6),
            ("Sat, 28 Nov 2026 11:00:09 GMT", -3595.4),
        ] {
            store.hear(date, sent);
            let found = store.offset(TimeDelta::MAX).unwrap().as_seconds_f64();
            assert!((found - difference).abs() < 1e-6, "{date}: {found}");
        }
        store.hear("yesterday", sent);
        assert!(store.offset(TimeDelta::MAX).unwrap() < TimeDelta::minutes(-59), "what is no date changes nothing");

        store.hear("Sat, 28 Nov 2026 12:00:09 GMT", sent);
        clock.advance(5 * minute);
        assert_eq!(store.offset(TimeDelta::MAX), Some(TimeDelta::zero()), "both clocks went on");
        clock.set(clock.now() + TimeDelta::hours(1));
        assert!(store.offset(TimeDelta::MAX).unwrap() < TimeDelta::minutes(-59), "ours was set since then");
        clock.advance(6 * minute);
        assert_eq!(store.offset(TimeDelta::MAX), None, "what it told is old");
    }

    #[test]
    fn an_answer_that_was_long_on_its_way_proves_only_what_it_can() {
        let (minute, skew) = (Duration::from_secs(60), TimeDelta::minutes(5));
        for (trip, told, found) in [
            // In minutes: how long it took, what it told, and which difference that shows.
            (4, 0, Some(0)),
            (4, 4, Some(0)),
            (6, 0, None),
            (6, 6, None),
            (9, 12, None),
            (9, 15, Some(6)),
            (9, -6, Some(-6)),
            (9, -4, None),
        ] {
            let clock = ManualClock::at(DateTime::from_timestamp(1_795_000_000, 0).unwrap());
            let store = StoreClock::new(clock.clone());
            let (sent, date) = (clock.elapsed_with_sleep(), clock.now() + TimeDelta::minutes(told));
            clock.advance(minute * trip);
            store.hear(&date.to_rfc2822(), sent);
            let offset = store.offset(skew).map(|offset| (offset.as_seconds_f64() / 60.0).round());
            assert_eq!(offset, found.map(f64::from), "{trip} {told}");
        }
    }

    #[test]
    fn a_machine_that_slept_is_not_told_that_its_clock_is_wrong() {
        let clock = ManualClock::at(DateTime::from_timestamp(1_795_000_000, 0).unwrap());
        let store = StoreClock::new(clock.clone());
        let hear = || store.hear(&clock.now().to_rfc2822(), clock.elapsed_with_sleep());
        hear();
        clock.sleep(Duration::from_secs(300));
        assert_eq!(store.offset(TimeDelta::MAX), Some(TimeDelta::zero()));
        clock.sleep(Duration::from_secs(8 * 3600));
        assert_eq!(store.offset(TimeDelta::MAX), None, "what it told is old");
        // It slept between a request and its answer, which came before.
        let (date, sent) = (clock.now().to_rfc2822(), clock.elapsed_with_sleep());
        clock.sleep(Duration::from_secs(8 * 3600));
        store.hear(&date, sent);
        assert_eq!(store.offset(TimeDelta::MAX), Some(TimeDelta::zero()));
    }

    #[test]
    fn a_date_that_nobody_lives_to_see_stops_nothing() {
        let clock = ManualClock::at(DateTime::from_timestamp(1_795_000_000, 0).unwrap());
        let store = StoreClock::new(clock.clone());
        for year in ["10000", "262142", "99999999999999999999"] {
            store.hear(&format!("31 Dec {year} 23:59:59 GMT"), clock.elapsed_with_sleep());
            clock.advance(Duration::from_secs(60));
            assert_eq!(store.offset(TimeDelta::MAX), None, "{year}");
        }
        store.hear("31 Dec 9999 23:59:59 GMT", clock.elapsed_with_sleep());
        clock.advance(Duration::from_secs(60));
        assert!(store.offset(TimeDelta::MAX).unwrap() > TimeDelta::days(365 * 7900));
    }
}
