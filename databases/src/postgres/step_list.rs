//! Steps that an archive asks for. Those of many large objects are made only when they are run, so
//! an archive costs no more memory than a few times its list of contents.

use std::sync::Arc;

use lifeboat_base::{Error, Result};

use super::steps::Step;

/// No more memory is taken by all steps of an archive. Its list is at most half as long.
const MAX_STEPS_BYTES: usize = 256 << 20;

/// One step, or one for each of several large objects.
#[derive(Debug)]
pub(crate) struct StepTemplate {
    /// What it does, for people.
    pub(crate) what: String,
    /// What is run before it, and is left out if that fails.
    pub(crate) session: Option<Vec<u8>>,
    /// The statement; or that before and after the number of the large object.
    pub(crate) before: Vec<u8>,
    pub(crate) after: Vec<u8>,
    pub(crate) numbers: Option<Arc<[u32]>>,
}

impl StepTemplate {
    /// One step.
    pub(crate) fn one(what: String, sql: Vec<u8>) -> Self {
        Self { what, session: None, before: sql, after: Vec::new(), numbers: None }
    }

    fn bytes(&self) -> usize {
        let texts = [self.what.len(), self.before.len(), self.after.len(), self.session.as_ref().map_or(0, Vec::len)];
        size_of::<Self>() + texts.iter().sum::<usize>()
    }

    fn step(&self, number: Option<u32>) -> Step {
        let number = number.map(|number| number.to_string()).unwrap_or_default();
        let sql = [&self.before[..], number.as_bytes(), &self.after].concat();
        let Some(session) = &self.session else { return Step::new(self.what.clone(), sql) };
        let mut step =
            Step::new(self.what.clone(), [&session[..], b"; ", &sql, b"; RESET SESSION AUTHORIZATION"].concat());
        step.otherwise = Some(sql);
        step
    }
}

/// Steps in their order.
#[derive(Debug, Default)]
pub(crate) struct StepList {
    all: Vec<StepTemplate>,
    bytes: usize,
}

impl StepList {
    /// Adds a step.
    ///
    /// # Errors
    /// There are too many.
    pub(crate) fn push(&mut self, template: StepTemplate) -> Result<()> {
        self.bytes += template.bytes();
        if self.bytes > MAX_STEPS_BYTES {
            return Err(Error::integrity("the archive has more owners and rights than fit into memory")
                .hint("restore it with --to-directory, and load it with pg_restore by hand"));
        }
        self.all.push(template);
        Ok(())
    }

    /// Adds what another list has.
    ///
    /// # Errors
    /// There are too many.
    pub(crate) fn append(&mut self, other: Self) -> Result<()> {
        other.all.into_iter().try_for_each(|template| self.push(template))
    }

    /// The steps, each made when it is asked for.
    pub(crate) fn steps(&self) -> impl Iterator<Item = Step> {
        self.all.iter().flat_map(|template| {
            let numbers = template.numbers.as_deref();
            let each = numbers.unwrap_or_default().iter().map(|number| template.step(Some(*number)));
            numbers.is_none().then(|| template.step(None)).into_iter().chain(each)
        })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn steps_of_large_objects_are_made_one_by_one() {
        let mut list = StepList::default();
        list.push(StepTemplate::one("a".to_owned(), b"A".to_vec())).unwrap();
        let numbers: Arc<[u32]> = (0..50_000_000).collect();
        for session in [None, Some(b"S".to_vec())] {
            let (what, numbers) = ("b".to_owned(), Some(numbers.clone()));
            list.push(StepTemplate { what, session, before: b"B ".to_vec(), after: b" C".to_vec(), numbers }).unwrap();
        }
        let mut steps = list.steps();
        let sql = |step: Option<Step>| String::from_utf8(step.unwrap().sql).unwrap();
        assert_eq!([sql(steps.next()), sql(steps.next()), sql(steps.next())], ["A", "B 0 C", "B 1 C"]);
        let last = list.all[2].step(Some(7));
        assert_eq!(last.sql, b"S; B 7 C; RESET SESSION AUTHORIZATION");
        assert_eq!(last.otherwise.as_deref(), Some(&b"B 7 C"[..]));
    }

    #[test]
    fn more_steps_than_fit_into_memory_are_refused() {
        let mut list = StepList::default();
        let half = || StepTemplate::one(String::new(), vec![0; MAX_STEPS_BYTES / 2]);
        assert!(list.push(half()).is_ok() && list.push(half()).is_err());
    }
}
