//! Against a replica whose answers are scripted. What it cannot prove, that real failures look like
//! these, is in `tests/tests/replica_faults.rs`.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use super::*;

/// One answer of the script.
enum Answer {
    Stores,
    Fails(ReplicaErrorKind),
    /// The work is done, but its answer is lost.
    StoresThenFails(ReplicaErrorKind),
    Hangs(Duration),
    /// Has no turn on our side for so long, then fails.
    WaitsThenFails(Duration),
}

#[derive(Default)]
struct Scripted {
    script: Mutex<VecDeque<Answer>>,
    stored: Mutex<Option<Bytes>>,
    calls: Mutex<u32>,
}

impl std::fmt::Debug for Scripted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Scripted")
    }
}

fn error(kind: ReplicaErrorKind) -> ReplicaError {
    ReplicaError { replica: "fake".parse().unwrap(), operation: "put", key: "k".to_owned(), kind }
}

fn unavailable() -> ReplicaErrorKind {
    ReplicaErrorKind::Unavailable("503".to_owned())
}

impl Scripted {
    async fn answer(&self, store: impl FnOnce() -> Result<(), ReplicaErrorKind>) -> Result<(), ReplicaError> {
        *self.calls.lock().unwrap() += 1;
        let next = self.script.lock().unwrap().pop_front().unwrap_or(Answer::Stores);
        match next {
            Answer::Stores => store().map_err(error),
            Answer::Fails(kind) => Err(error(kind)),
            Answer::StoresThenFails(kind) => {
                store().map_err(error)?;
                Err(error(kind))
            }
            Answer::Hangs(time) => {
                tokio::time::sleep(time).await;
                Err(error(ReplicaErrorKind::TimedOut(time)))
            }
            Answer::WaitsThenFails(time) => {
                let _turn = Waiting::current().begin();
                tokio::time::sleep(time).await;
                Err(error(unavailable()))
            }
        }
    }
}

#[async_trait]
impl Replica for Scripted {
    fn name(&self) -> &Name {
        static NAME: std::sync::LazyLock<Name> = std::sync::LazyLock::new(|| "fake".parse().unwrap());
        &NAME
    }

    fn region(&self) -> &'static str {
        "nowhere"
    }

    async fn put_new(&self, _: &str, body: Bytes) -> Result<(), ReplicaError> {
        self.answer(|| {
            let mut stored = self.stored.lock().unwrap();
            if stored.is_some() {
                return Err(ReplicaErrorKind::AlreadyExists);
            }
            *stored = Some(body);
            Ok(())
        })
        .await
    }

    async fn put_replace(&self, _: &str, body: Bytes) -> Result<(), ReplicaError> {
        self.answer(|| {
            *self.stored.lock().unwrap() = Some(body);
            Ok(())
        })
        .await
    }

    async fn get(&self, _: &str, _: u64) -> Result<Bytes, ReplicaError> {
        self.answer(|| Ok(())).await?;
        self.stored.lock().unwrap().clone().ok_or_else(|| error(ReplicaErrorKind::NotFound))
    }

    async fn head(&self, _: &str) -> Result<Option<ObjectMeta>, ReplicaError> {
        self.answer(|| Ok(())).await.map(|()| None)
    }

    async fn list_page(&self, _: &str, _: Option<&str>) -> Result<Page, ReplicaError> {
        self.answer(|| Ok(())).await.map(|()| Page::default())
    }

    async fn delete(&self, _: &str) -> Result<(), ReplicaError> {
        self.answer(|| Ok(())).await
    }

    async fn probe(&self, _: bool) -> Result<Probe, ReplicaError> {
        Err(error(ReplicaErrorKind::NotFound))
    }
}

fn scripted(script: impl IntoIterator<Item = Answer>) -> (Arc<Scripted>, Retry) {
    let fake = Arc::new(Scripted { script: Mutex::new(script.into_iter().collect()), ..Scripted::default() });
    let retry = Retry::new(fake.clone(), RetryPolicy::within(Duration::from_secs(60)));
    (fake, retry)
}

fn calls(fake: &Scripted) -> u32 {
    *fake.calls.lock().unwrap()
}

#[tokio::test(start_paused = true)]
async fn succeeds_after_failures_that_pass() {
    let (fake, retry) = scripted([
        Answer::Fails(unavailable()),
        Answer::Fails(ReplicaErrorKind::Corrupt("short".to_owned())),
        Answer::Hangs(Duration::from_secs(1)),
    ]);
    retry.put_replace("k", Bytes::from_static(b"x")).await.unwrap();
    assert_eq!(calls(&fake), 4);
}

#[tokio::test(start_paused = true)]
async fn gives_up_after_the_last_attempt_with_the_last_error() {
    let (fake, retry) = scripted((0..9).map(|_| Answer::Fails(unavailable())));
    let failed = retry.delete("k").await.unwrap_err();
    assert!(matches!(failed.kind, ReplicaErrorKind::Unavailable(_)));
    assert_eq!(calls(&fake), 4);
}

#[tokio::test(start_paused = true)]
async fn does_not_repeat_what_cannot_succeed() {
    for kind in [
        ReplicaErrorKind::NotFound,
        ReplicaErrorKind::Denied("no".to_owned()),
        ReplicaErrorKind::Misconfigured("no".to_owned()),
        ReplicaErrorKind::Other("no".to_owned()),
    ] {
        let (fake, retry) = scripted([Answer::Fails(kind)]);
        retry.head("k").await.unwrap_err();
        assert_eq!(calls(&fake), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn begins_no_attempt_after_the_deadline() {
    let (fake, retry) = scripted([Answer::Hangs(Duration::from_secs(61))]);
    let start = Instant::now();
    retry.list("").await.unwrap_err();
    assert_eq!(calls(&fake), 1);
    assert_eq!(start.elapsed(), Duration::from_secs(61));

    let (fake, retry) = scripted([Answer::Hangs(Duration::from_secs(59))]);
    retry.list("").await.unwrap();
    assert_eq!(calls(&fake), 2);
}

#[tokio::test(start_paused = true)]
async fn waiting_for_a_turn_on_our_side_costs_no_attempt() {
    let (fake, retry) = scripted((0..9).map(|_| Answer::WaitsThenFails(Duration::from_secs(3600))));
    retry.list("").await.unwrap_err();
    assert_eq!(calls(&fake), 4);
}

#[tokio::test(start_paused = true)]
async fn an_object_stored_by_a_lost_attempt_is_ours() {
    let (fake, retry) = scripted([Answer::StoresThenFails(unavailable())]);
    retry.put_new("k", Bytes::from_static(b"ours")).await.unwrap();
    assert_eq!(calls(&fake), 3, "put, put, get");
}

#[tokio::test(start_paused = true)]
async fn an_object_that_another_stored_meanwhile_is_not_ours() {
    let (fake, retry) = scripted([Answer::Fails(unavailable())]);
    *fake.stored.lock().unwrap() = Some(Bytes::from_static(b"theirs"));
    let failed = retry.put_new("k", Bytes::from_static(b"ours..")).await.unwrap_err();
    assert!(matches!(failed.kind, ReplicaErrorKind::AlreadyExists));
    assert_eq!(*fake.stored.lock().unwrap(), Some(Bytes::from_static(b"theirs")));
}

#[tokio::test(start_paused = true)]
async fn an_object_met_at_the_first_attempt_is_never_ours() {
    let (fake, retry) = scripted([]);
    *fake.stored.lock().unwrap() = Some(Bytes::from_static(b"same"));
    let failed = retry.put_new("k", Bytes::from_static(b"same")).await.unwrap_err();
    assert!(matches!(failed.kind, ReplicaErrorKind::AlreadyExists));
    assert_eq!(calls(&fake), 1);
}

/// The first attempt may have stored the object, whatever the second one is told.
#[tokio::test(start_paused = true)]
async fn after_an_attempt_without_an_answer_a_refusal_is_no_answer_either() {
    let refusals = [
        ReplicaErrorKind::Denied("the token expired".to_owned()),
        ReplicaErrorKind::Misconfigured("301".to_owned()),
        ReplicaErrorKind::NotFound,
        ReplicaErrorKind::Other("400".to_owned()),
    ];
    let kinds = refusals.each_ref().map(ToString::to_string);
    for (refusal, kind) in refusals.into_iter().zip(&kinds) {
        let (fake, retry) = scripted([Answer::StoresThenFails(unavailable()), Answer::Fails(refusal)]);
        let failed = retry.put_new("k", Bytes::from_static(b"ours")).await.unwrap_err();
        assert!(matches!(failed.kind, ReplicaErrorKind::Unavailable(_)), "{failed}");
        assert!(failed.to_string().contains(kind.as_str()), "{failed}");
        assert_eq!(calls(&fake), 2);
        // A first attempt that is refused has an answer.
        let (_, retry) = scripted([Answer::Fails(ReplicaErrorKind::Denied("no".to_owned()))]);
        let refused = retry.put_new("k", Bytes::from_static(b"ours")).await.unwrap_err();
        assert!(matches!(refused.kind, ReplicaErrorKind::Denied(_)), "{refused}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_object_that_cannot_be_compared_may_be_ours() {
    for refusal in [ReplicaErrorKind::Denied("no".to_owned()), ReplicaErrorKind::NotFound] {
        let (fake, retry) = scripted([Answer::StoresThenFails(unavailable()), Answer::Stores, Answer::Fails(refusal)]);
        let failed = retry.put_new("k", Bytes::from_static(b"ours")).await.unwrap_err();
        assert!(matches!(failed.kind, ReplicaErrorKind::Unavailable(_)), "{failed}");
        assert_eq!(calls(&fake), 3, "put, put, get");
    }
}

#[test]
fn pauses_grow_and_stay_bounded() {
    let policy = RetryPolicy::within(Duration::from_secs(60));
    for attempt in 1..40 {
        let full = (policy.pause * (1 << (attempt - 1).min(16))).min(policy.longest_pause);
        let pause = policy.pause_after(attempt);
        assert!(pause <= full && pause >= full / 2, "{pause:?} after attempt {attempt}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_replica_that_asks_to_slow_down_gets_its_pauses_and_costs_no_attempt() {
    let slow = |after| Answer::Fails(ReplicaErrorKind::Throttled { why: "SlowDown".to_owned(), after });
    let after = Duration::from_secs(20);
    let (fake, retry) = scripted((0..9).map(|_| slow(Some(after))));
    let start = Instant::now();
    retry.put_replace("k", Bytes::from_static(b"x")).await.unwrap();
    assert_eq!(calls(&fake), 10);
    assert!(start.elapsed() >= 9 * after && start.elapsed() < 9 * (after + SPREAD), "{:?}", start.elapsed());

    // Others wait, too, and failures after the pauses have all their attempts.
    let (fake, retry) = scripted([slow(Some(after)), Answer::Stores, Answer::Fails(unavailable()), Answer::Stores]);
    let start = Instant::now();
    let second = async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        retry.delete("k").await.unwrap();
        assert!(start.elapsed() >= after, "{:?}", start.elapsed());
    };
    let (first, ()) = tokio::join!(retry.delete("k"), second);
    first.unwrap();
    assert_eq!(calls(&fake), 4);
}

#[tokio::test(start_paused = true)]
async fn a_replica_that_asks_for_pauses_for_ever_fails_the_request_in_the_end() {
    let slow = || Answer::Fails(ReplicaErrorKind::Throttled { why: "SlowDown".to_owned(), after: None });
    let (_, retry) = scripted((0..999).map(|_| slow()));
    let start = Instant::now();
    let failed = retry.delete("k").await.unwrap_err();
    assert!(matches!(failed.kind, ReplicaErrorKind::Throttled { .. }), "{failed}");
    assert!(start.elapsed() < THROTTLED_LIMIT + 5 * LONGEST_SLOW_PAUSE, "{:?}", start.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_replica_that_asks_for_no_pause_gets_one_and_fails_the_request_in_the_end() {
    let slow = || Answer::Fails(ReplicaErrorKind::Throttled { why: "busy".to_owned(), after: Some(Duration::ZERO) });
    let (fake, retry) = scripted((0..10_000).map(|_| slow()));
    let failed = retry.put_replace("k", Bytes::new()).await.unwrap_err();
    assert!(matches!(failed.kind, ReplicaErrorKind::Throttled { .. }), "{failed}");
    assert!(calls(&fake) < 100, "{} calls", calls(&fake));
}

#[tokio::test(start_paused = true)]
async fn of_many_removals_only_those_without_an_answer_are_sent_again() {
    let keys = |keys: &[&str]| keys.iter().map(|key| (*key).to_owned()).collect::<Vec<_>>();
    let (fake, retry) = scripted([Answer::Fails(unavailable())]);
    assert!(retry.delete_all(&keys(&["k", "other"])).await.unwrap().failed.is_empty());
    assert_eq!(calls(&fake), 3, "both, then the first");

    let (fake, retry) = scripted([Answer::Fails(ReplicaErrorKind::Denied("no".to_owned()))]);
    let failed = retry.delete_all(&keys(&["k", "other"])).await.unwrap().failed;
    assert_eq!((failed.len(), failed[0].key.as_str(), calls(&fake)), (1, "k", 2));

    // One that is never answered is a failure of this one.
    let (fake, retry) = scripted((0..4).map(|_| Answer::Fails(unavailable())));
    let failed = retry.delete_all(&keys(&["k"])).await.unwrap().failed;
    assert_eq!((failed.len(), calls(&fake)), (1, 4));

    let (fake, retry) = scripted((0..99).map(|_| Answer::Fails(unavailable())));
    assert!(retry.delete_all(&keys(&["k"; 10])).await.is_err(), "it does not answer at all");
    assert_eq!(calls(&fake), 12);
}
