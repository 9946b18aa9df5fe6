//! What the manual shows of each command: what for, and the line. Tests parse every line.

/// An example: what it does, and the command line.
pub(super) type Example = (&'static str, &'static str);

/// The examples of a command, by its words after `lifeboat`. Empty: what the command does is said
/// with one line.
pub(super) fn of(command: &str) -> &'static [Example] {
    match command {
        "" => &[
            ("Is everything protected, and what needs attention?", "lifeboat status"),
            ("Which snapshots are there?", "lifeboat list shop"),
            ("Restore the newest one into a server", "lifeboat restore shop --to-postgres socket:/var/run/postgresql"),
            ("Prove that it can be restored", "lifeboat drill shop"),
        ],
        "status" => &[
            ("At a glance", "lifeboat status"),
            ("For a script: the exit code is 8 while something needs attention", "lifeboat --json status"),
        ],
        "list" => &[
            ("The snapshots of one dataset", "lifeboat list shop"),
            ("The moments of which every member of a group has a snapshot", "lifeboat list --group shop"),
            ("As the bucket was before somebody deleted", "lifeboat list --as-of 2h\\ ago"),
        ],
        "show" => &[("What a snapshot holds", "lifeboat show shop 20261123T1832")],
        "diff" => &[
            ("What changed since yesterday evening, by bytes", "lifeboat diff shop yesterday\\ 18:00"),
            ("And which tables got or lost rows", "lifeboat diff shop 20261123T1832 latest --rows"),
        ],
        "bisect" => {
            &[("Since when do orders miss?", "lifeboat bisect shop --sql TABLE\\ order_total --at-least 20000")]
        }
        "restore" => &[
            (
                "Into a new PostgreSQL server, with the owner's identity",
                "lifeboat restore shop --identity master.txt --to-postgres socket:/var/run/postgresql",
            ),
            (
                "One database of it, under another name, as it was yesterday evening",
                "lifeboat restore shop --at yesterday\\ 18:00 --database orders --rename orders_old --to-postgres socket:/var/run/postgresql",
            ),
            (
                "Into a MariaDB server",
                "lifeboat restore shop --identity master.txt --to-mariadb mariadb://restorer@new-db --password-file pw",
            ),
            (
                "Into a Redis server that runs",
                "lifeboat restore sessions --identity master.txt --to-redis socket:/run/redis/redis-server.sock",
            ),
            ("Into files", "lifeboat restore shop --to-directory /srv/restored"),
            (
                "One table, back into its database, in the place of the one that is there",
                "lifeboat restore shop --at yesterday\\ 18:00 --table public.orders --overwrite --to-postgres socket:/var/run/postgresql",
            ),
            (
                "The rows of a table, into a file",
                "lifeboat restore shop --table public.orders --format csv --to-file orders.csv",
            ),
            ("Definitions without rows, for pg_restore", "lifeboat restore shop --schema-only --to-file shop.dump"),
            (
                "On a machine that has nothing but the owner's files",
                "lifeboat restore shop --identity master.txt --owner @owner.line --s3-bucket example-backup --s3-region eu-west-1 --to-directory out",
            ),
        ],
        "verify" => &[
            ("Is everything there, in every replica?", "lifeboat verify"),
            ("Read a twentieth of it", "lifeboat verify --read-data-subset 5%"),
            ("Replace what is damaged from another replica", "lifeboat verify shop --repair"),
        ],
        "drill" => &[
            ("Restore into a throw-away server and prove it equal", "lifeboat drill shop"),
            ("From one region, and only until it is loaded", "lifeboat drill shop --replica far --level loaded"),
            ("All that the schedules of the configuration make due", "lifeboat drill --due"),
            ("A whole application: are the files there that its rows name?", "lifeboat drill --group shop"),
            (
                "What if a region is lost? Restore everything without it, and write a page",
                "lifeboat drill --region-loss eu-central-1 --html loss.html",
            ),
        ],
        "drills" => &[("The last drills of a dataset", "lifeboat drills shop --last 5")],
        "report" => &[
            ("What the newest drill proved, and how drills went before", "lifeboat report shop"),
            ("As a page for people and auditors", "lifeboat report shop --html shop.html"),
        ],
        "prune" => &[
            ("What would go?", "lifeboat prune shop --dry-run"),
            ("Let it go without a question", "lifeboat prune shop --yes"),
        ],
        "remove-dataset" => &[("Show what would go, and ask", "lifeboat remove-dataset shop")],
        "repair" => &[
            ("Put back what some replica lost", "lifeboat repair shop"),
            ("Give up what is lost everywhere", "lifeboat repair shop --accept-loss"),
        ],
        "repair clock" => &[("Settle the times of snapshots made under a wrong clock", "lifeboat repair clock shop")],
        "undelete" => &[
            ("What would come back?", "lifeboat undelete --as-of 2h\\ ago --dry-run"),
            ("Bring it back", "lifeboat undelete --as-of 2h\\ ago"),
        ],
        "init" => &[
            ("Make a vault, and the keys of this host", "lifeboat init"),
            ("Take over for a host that is lost", "lifeboat init --identity master.txt"),
        ],
        "setup" => &[
            (
                "Try everything on this machine, with a file of your own",
                "lifeboat setup --try --sqlite /srv/wiki/wiki.db",
            ),
            (
                "A backup host, from what the owner printed",
                "lifeboat setup --root lifeboat-root-1:… --replica near=s3://backup-near?region=eu-central-1 --replica far=s3://backup-far?region=eu-west-1",
            ),
        ],
        "setup host" => &[("Make a backup host's keys, and its line for the owner", "lifeboat setup host")],
        "setup drill-host" => &[
            ("Make a drill host's keys, and its line for the owner", "lifeboat setup drill-host"),
            (
                "Begin to drill",
                "lifeboat setup drill-host --join s3://backup-far?region=eu-west-1 --root lifeboat-root-1:…",
            ),
        ],
        "owner init" => &[
            ("Make an owner's keys, offline", "lifeboat owner init --directory owner"),
            (
                "And the root of the vault of these machines",
                "lifeboat owner init lifeboat-host-1:… lifeboat-drill-host-1:…",
            ),
        ],
        "root show" => &[("Who is believed?", "lifeboat root show")],
        "audit show" => &[("Who restored what?", "lifeboat audit show --dataset shop")],
        "audit verify" => &[("Did somebody cut a log?", "lifeboat audit verify")],
        "veto show" => &[("What is marked?", "lifeboat veto show shop")],
        "veto request" => {
            &[("Forbid that a mark is carried out", "lifeboat veto request shop 20261123T183244123Z-9f2c81aa")]
        }
        "veto install" => &[("What an owner or approver signed", "lifeboat veto install @veto.line")],
        "witness" => &[("Record what is there, by this host's clock", "lifeboat witness")],
        "check" => &[("Does everything answer, with the rights it needs?", "lifeboat check")],
        "kit" => &[("A sheet for the safe", "lifeboat kit")],
        "runs" => &[("The last backups, and why some failed", "lifeboat runs shop")],
        "trigger" => &[("Back up now", "lifeboat trigger shop")],
        "cancel" => &[("Stop a backup that must not go on", "lifeboat cancel shop")],
        "pause" => &[("Start none while the server is worked on", "lifeboat pause shop --for 4h --reason upgrade")],
        "resume" => &[("Start them again", "lifeboat resume --all")],
        "takeover" => &[("Lead a dataset whose host is gone", "lifeboat takeover shop")],
        "acknowledge" => &[("A snapshot that departs from its history is right", "lifeboat acknowledge shop")],
        _ => &[],
    }
}
