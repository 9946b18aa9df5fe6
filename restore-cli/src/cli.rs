//! The command line: one definition behind parsing, `--help`, completions and the manual.

use std::ffi::OsString;

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};

use crate::commands::{
    acknowledge, audit, bisect, cancel, check, completions, diff, drill, drills, init, kit, list, man, owner, pause,
    prune, remove_dataset, repair, report, restore, root, runs, setup, show, status, takeover, trigger, undelete,
    verify, veto, witness,
};
use crate::exit;
use crate::flags::Globals;

/// Lists, restores, verifies and drills encrypted backups; needs one replica, an identity and
/// trusted signers
#[derive(Debug, Parser)]
#[command(name = "lifeboat", version, propagate_version = false, max_term_width = 110)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) globals: Globals,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What is to be done.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Status(status::Args),
    List(list::Args),
    Show(show::Args),
    Diff(diff::Args),
    Restore(restore::Args),
    Verify(verify::Args),
    Drill(drill::Args),
    Bisect(bisect::Args),
    Drills(drills::Args),
    Report(report::Args),
    Prune(prune::Args),
    RemoveDataset(remove_dataset::Args),
    Repair(repair::Args),
    Undelete(undelete::Args),
    Init(init::Args),
    Setup(setup::Args),
    Owner(owner::Args),
    Root(root::Args),
    Audit(audit::Args),
    Witness(witness::Args),
    Veto(veto::Args),
    Check(check::Args),
    Kit(kit::Args),
    Runs(runs::Args),
    Trigger(trigger::Args),
    Cancel(cancel::Args),
    Pause(pause::Args),
    Resume(pause::ResumeArgs),
    Takeover(takeover::Args),
    Acknowledge(acknowledge::Args),
    Completions(completions::Args),
    Man(man::Args),
}

/// The whole command line, exit codes below every help text.
pub(crate) fn command() -> clap::Command {
    let explained = |command: clap::Command| command.after_help(exit::help());
    explained(Cli::command()).mut_subcommands(|command| explained(command).mut_subcommands(explained))
}

/// Parses `arguments`, program name first.
pub(crate) fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Cli, clap::Error> {
    let mut command = command();
    let mut matches = command.try_get_matches_from_mut(arguments)?;
    Cli::from_arg_matches_mut(&mut matches).map_err(|error| error.format(&mut command))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]
mod tests {
    use super::*;
    use std::path::PathBuf;

    use lifeboat_engine::restore::Selector;

    fn parsed(line: &str) -> Result<Cli, clap::Error> {
        parse(line.split_whitespace().map(OsString::from))
    }

    #[test]
    fn the_definition_is_consistent() {
        command().debug_assert();
    }

    #[test]
    fn global_flags_are_taken_before_and_after_the_command() {
        for line in ["lifeboat --json --config /c list shop", "lifeboat list shop --json --config /c"] {
            let cli = parsed(line).unwrap();
            assert!(cli.globals.json);
            assert_eq!(cli.globals.config, PathBuf::from("/c"));
        }
        let cli = parsed("lifeboat list -i a --identity b -vv").unwrap();
        assert_eq!(cli.globals.identities, [PathBuf::from("a"), PathBuf::from("b")]);
        assert_eq!(cli.globals.verbose, 2);
    }

    #[test]
    fn restore_wants_exactly_one_target() {
        assert!(parsed("lifeboat restore shop").is_err());
        assert!(parsed("lifeboat restore shop --to-directory /d").is_ok());
        assert!(parsed("lifeboat restore shop --to-directory /d --stdout globals").is_err());
        for flag in ["--database a", "--password-file /p", "--database a --rename b"] {
            assert!(parsed(&format!("lifeboat restore shop --to-directory /d {flag}")).is_err(), "{flag}");
            assert!(parsed(&format!("lifeboat restore shop --to-postgres service:x {flag}")).is_ok(), "{flag}");
        }
        assert!(parsed("lifeboat restore shop --to-postgres service:x --rename b").is_err());
    }

    #[test]
    fn a_repair_is_of_a_dataset_or_of_its_clock() {
        for line in ["shop", "shop --accept-loss --yes", "clock shop", "clock shop --yes", "clock clock", "-- clock"] {
            assert!(parsed(&format!("lifeboat repair {line}")).is_ok(), "{line}");
        }
        for line in ["", "clock", "--accept-loss", "--accept-loss clock shop", "clock shop --accept-loss"] {
            assert!(parsed(&format!("lifeboat repair {line}")).is_err(), "{line}");
        }
        let mut command = command();
        let clock = command.find_subcommand_mut("repair").and_then(|repair| repair.find_subcommand_mut("clock"));
        assert!(clock.unwrap().render_help().to_string().contains(&exit::help()));
    }

    #[test]
    fn snapshot_and_time_exclude_each_other() {
        let base = "lifeboat drill shop";
        let Command::Drill(args) = parsed(&format!("{base} --at 2026-11-23T20:00:00+02:00")).unwrap().command else {
            panic!("not a drill")
        };
        let time = "2026-11-23T18:00:00Z".parse().unwrap();
        assert_eq!(args.selection.selector(time), Selector::At(time));
        let Command::Drill(args) = parsed(&format!("{base} --snapshot 20261123T18")).unwrap().command else {
            panic!("not a drill")
        };
        assert_eq!(args.selection.selector(time), Selector::Beginning("20261123T18".to_owned()));
        let Command::Show(args) = parsed("lifeboat show shop").unwrap().command else { panic!("no show") };
        assert_eq!(args.snapshot, Selector::Latest);
        assert!(parsed(&format!("{base} --at yesterday")).is_err());
        assert!(parsed(&format!("{base} --snapshot nonsense")).is_err());
        assert!(parsed(&format!("{base} --snapshot latest --at 2026-11-23T18:00:00Z")).is_err());
    }

    #[test]
    fn every_help_text_explains_the_exit_codes() {
        let mut command = command();
        assert!(command.render_help().to_string().contains(&exit::help()));
        for name in ["restore", "verify", "drill", "check"] {
            let help = command.find_subcommand_mut(name).unwrap().render_help().to_string();
            assert!(help.contains("6  stored data is missing, damaged, forged"), "{name}: {help}");
        }
    }

    #[test]
    fn bad_names_and_levels_are_usage_errors() {
        for line in ["lifeboat list ../x", "lifeboat drill shop --level excellent", "lifeboat list --replica UPPER"] {
            assert_eq!(parsed(line).unwrap_err().exit_code(), 2, "{line}");
        }
    }
}
