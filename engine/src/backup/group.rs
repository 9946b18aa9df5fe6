//! The part of a backup in the moment of its group.

use lifeboat_base::Result;
use lifeboat_base::facts::SourceFacts;
use lifeboat_databases::streams::StreamSink;
use lifeboat_databases::{SharedMoment, Source, WorkContext};
use lifeboat_format::id::{Name, SnapshotId};
use lifeboat_format::manifest::GroupMoment;

/// The moment that a backup shares with those of the other members of its group.
#[derive(Debug, Clone)]
pub struct MemberMoment {
    /// The group.
    pub group: Name,
    /// Its members, in order.
    pub members: Vec<Name>,
    /// The id of the moment. It has the shape of a snapshot id.
    pub id: SnapshotId,
    /// Where the members wait for each other.
    pub moment: SharedMoment,
}

impl MemberMoment {
    /// What the manifest tells. `None`: there is no common moment, as far as is known by now.
    pub(super) fn told(&self) -> Option<GroupMoment> {
        let at = self.moment.time()?;
        Some(GroupMoment { name: self.group.clone(), members: self.members.clone(), moment: self.id.clone(), at })
    }
}

/// Captures a source, which takes its turn in the moment itself, or has it taken before.
pub(super) async fn capture(source: &dyn Source, sink: &dyn StreamSink, cx: &WorkContext) -> Result<SourceFacts> {
    let moment = sink.moment();
    if !source.knows_moments() {
        moment.turn(&cx.cancel).await?;
    }
    let captured = source.capture(sink, cx).await;
    match &captured {
        Ok(_) => moment.fixed(),
        Err(_) => moment.leave(),
    }
    captured
}
