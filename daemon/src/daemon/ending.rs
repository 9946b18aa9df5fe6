//! How the daemon ends: the runs first, the endpoints last.

use super::{Daemon, TURN};
use crate::endpoints::FAREWELL;
use crate::live::Turn;
use crate::notify;
use crate::runner::OBEY;

impl Daemon {
    pub(super) async fn stop(mut self) {
        tracing::info!("stopping");
        notify::stopping();
        self.live.stop();
        self.wishes.close();
        self.waiting.clear();
        self.endpoints.refuse_wishes();
        self.upkeep.stop().await;
        self.drain().await;
        while let Ok(wish) = self.wishes.try_recv() {
            drop(wish);
        }
        self.endpoints.end().await;
        tracing::info!("stopped");
    }

    /// Lets the runs finish, then cancels them, then drops them.
    async fn drain(&mut self) {
        let limit = self.live.installation().config.limits.shutdown;
        for run in self.runs.shown() {
            tracing::info!(dataset = %run.dataset, seconds = limit.as_secs(), "waiting for the run to finish");
        }
        let patience = tokio::time::sleep(limit);
        tokio::pin!(patience);
        let mut alive = tokio::time::interval(notify::watchdog().map_or(TURN, |watchdog| TURN.min(watchdog)));
        while !self.runs.is_empty() {
            tokio::select! {
                event = self.runs.event() => self.take_in(event),
                () = &mut patience => break,
                () = self.signals.stop() => break,
                _ = alive.tick() => {
                    self.live.turned(Turn { running: self.runs.shown(), ..Turn::default() });
                    notify::alive();
                }
            }
        }
        for run in self.runs.shown() {
            tracing::warn!(dataset = %run.dataset, "Run cancelled. Unless its commit has begun, it starts again after the next start.");
        }
        self.runs.cancel_all();
        // The run itself gives the flow `OBEY` to obey, and a commit all the time that it takes.
        let patience = tokio::time::sleep(OBEY + FAREWELL);
        tokio::pin!(patience);
        while !self.runs.is_empty() {
            tokio::select! {
                event = self.runs.event() => self.take_in(event),
                () = &mut patience, if !self.runs.commit() => break,
                _ = alive.tick() => notify::alive(),
            }
        }
        self.runs.abort_all();
        while !self.runs.is_empty() {
            let event = self.runs.event().await;
            self.take_in(event);
        }
    }
}
