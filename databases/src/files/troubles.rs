//! What a capture has to tell: the first names of each kind of trouble, and how many there are.

/// So many names are told of each kind of trouble.
const MAX_TOLD_NAMES: usize = 20;

/// Names of one kind of trouble: the first ones, and how many there are.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Trouble {
    told: Vec<String>,
    pub(super) count: usize,
}

impl Trouble {
    pub(super) fn add(&mut self, what: impl FnOnce() -> String) {
        self.count += 1;
        if self.told.len() < MAX_TOLD_NAMES {
            self.told.push(what());
        }
    }

    /// `told` with the names; `None` if there are none.
    pub(super) fn tell<T>(&self, told: impl FnOnce(usize, String) -> T) -> Option<T> {
        let more = match self.count - self.told.len() {
            0 => String::new(),
            more => format!(", and {more} more"),
        };
        (self.count > 0).then(|| told(self.count, format!("{}{more}", self.told.join(", "))))
    }
}

/// What an operator should know of a capture.
#[derive(Default)]
pub(super) struct Troubles {
    pub(super) unreadable: Trouble,
    pub(super) damaged: Trouble,
    pub(super) changed: Trouble,
    pub(super) mounts: Trouble,
    pub(super) sockets: Trouble,
    pub(super) forgot_links: bool,
}

impl Troubles {
    /// How many entries a snapshot does not hold as they are.
    pub(super) fn count(&self) -> usize {
        self.unreadable.count + self.damaged.count + self.changed.count
    }

    pub(super) fn warnings(&self) -> Vec<String> {
        let entries = |count| if count == 1 { "1 entry".to_owned() } else { format!("{count} entries") };
        let unreadable = |count, names| {
            format!("lacks {}, which cannot be read, as allow_unreadable permits: {names}", entries(count))
        };
        let changed = |count, names| {
            let what = "that changed each time it was read, and may mix old and new, or end with zeros";
            format!("holds {} {what}: {names}", entries(count))
        };
        let damaged = |count, names| {
            format!("holds {} with zeros for what cannot be read, as allow_unreadable permits: {names}", entries(count))
        };
        let mounts = |_, names| {
            format!("lacks what is mounted below it, at {names}: exclude that, or set one_file_system = false")
        };
        let links = "holds some files once for each of their names: too many have several names";
        let sockets = |count, names| format!("lacks {}, as sockets mean nothing in a copy: {names}", entries(count));
        let told = [
            self.unreadable.tell(unreadable),
            self.damaged.tell(damaged),
            self.changed.tell(changed),
            self.mounts.tell(mounts),
            self.sockets.tell(sockets),
            self.forgot_links.then(|| links.to_owned()),
        ];
        told.into_iter().flatten().collect()
    }
}
