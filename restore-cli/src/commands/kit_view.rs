//! How the sheet reads: what to have at hand, then what to type, step by step.

use std::fmt;

use lifeboat_engine::base::escape;

use super::kit::Kit;
use crate::human;

impl fmt::Display for Kit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "HOW TO RESTORE WHAT HOST {} BACKS UP", self.host)?;
        writeln!(
            f,
            "Printed {}. Print it again when hosts, owners, replicas or datasets change.",
            human::time(self.printed)
        )?;
        writeln!(f, "\nVault {}", self.vault)?;
        if let Some(root) = &self.root {
            writeln!(f, "Root {}: {}", root.version, root.fingerprint)?;
            for owner in &root.owners {
                writeln!(f, "Owner {}: {}", owner.name, owner.signer)?;
            }
        }
        for signer in &self.signers {
            writeln!(f, "Snapshots are signed by {signer}")?;
        }
        for recipient in &self.master_recipients {
            writeln!(f, "The identity of {recipient} opens everything")?;
        }
        let directory =
            if self.root.is_some() { ", in the directory `owner` as `lifeboat owner init` made it" } else { "" };
        writeln!(
            f,
            "\n1. NOT ON THIS SHEET, and needed: the master identity as the file master.txt{directory}; and keys that"
        )?;
        writeln!(f, "   may read the store, as the file `credentials`:\n")?;
        writeln!(f, "     [default]\n     aws_access_key_id = …\n     aws_secret_access_key = …")?;
        for replica in &self.replicas {
            if let Some(file) = &replica.ca_file {
                let file = file.display().to_string();
                writeln!(
                    f,
                    "\n   For {}, also a copy of {}, as the file ca.pem.",
                    replica.replica,
                    escape::line(&file)
                )?;
            }
        }
        writeln!(f, "\n2. Any ONE of these regions is enough. Take one that answers, and see what it has:")?;
        for replica in &self.replicas {
            writeln!(f, "\n   # {}, region {}", replica.replica, escape::line(&replica.region))?;
            writeln!(f, "   FLAGS=({})", escape::line(&replica.flags))?;
            writeln!(f, "   lifeboat \"${{FLAGS[@]}}\" --identity master.txt list")?;
        }
        writeln!(
            f,
            "\n3. Restore. `--at \"2026-11-23 18:00:00 UTC\"` chooses a time; without it, the newest comes:\n"
        )?;
        for dataset in &self.datasets {
            writeln!(f, "   # {} ({})", dataset.dataset, dataset.kind)?;
            writeln!(f, "   lifeboat \"${{FLAGS[@]}}\" {}", escape::line(&dataset.restore))?;
        }
        writeln!(
            f,
            "\n4. WITHOUT LIFEBOAT: copy one region, save the script below as recover.sh, and run it. It needs age, zstd,"
        )?;
        writeln!(f, "   minisign, b3sum and python3:\n")?;
        for replica in &self.replicas {
            writeln!(f, "   {}    # {}", escape::line(&replica.copy), replica.replica)?;
        }
        for dataset in &self.datasets {
            for signer in &self.signers {
                let name = &dataset.dataset;
                writeln!(f, "   bash recover.sh vault-copy master.txt {signer} {name} latest recovered-{name}")?;
            }
        }
        write!(f, "\n--- recover.sh ---\n{}--- end of recover.sh ---", self.recovery_script)
    }
}
