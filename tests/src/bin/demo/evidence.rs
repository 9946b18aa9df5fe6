//! What the demonstration showed: judged, printed for people, written for programs.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use lifeboat_tests::s3::Region;
use lifeboat_tests::tools;
use serde_json::{Value, json};

use crate::company::DATASETS;
use crate::{DATASET, Result};

/// As wide as the lines of the story: beside a name and borders, 98 columns.
const VALUE_COLUMNS: usize = 75;

/// Everything that was measured.
pub(crate) struct Evidence {
    /// The drill's own report.
    pub(crate) drill: Value,
    /// What the loss of the region means for all datasets.
    pub(crate) loss: Value,
    /// The region that was killed; its replica has the same name.
    pub(crate) dead: &'static str,
    /// The region that was left.
    pub(crate) alive: &'static str,
    /// Bytes that the first backup left in the living region.
    pub(crate) first: u64,
    /// Bytes that the second one added.
    pub(crate) second: u64,
    /// How long all of it took.
    pub(crate) total: Duration,
}

/// The size of everything that the bucket holds of a dataset, as the store itself lists it.
pub(crate) async fn stored_bytes(region: &Region, dataset: &str) -> Result<u64> {
    let client = region.client();
    let mut pages = client.list_objects_v2().bucket(region.bucket()).into_paginator().send();
    let mut sum = 0;
    let folder = format!("/datasets/{dataset}/");
    while let Some(page) = pages.next().await {
        for object in page?.contents() {
            if object.key().is_some_and(|key| key.contains(&folder)) {
                sum += u64::try_from(object.size().unwrap_or(0))?;
            }
        }
    }
    Ok(sum)
}

/// Where the reports go, `target/demo`.
pub(crate) fn directory() -> Result<PathBuf> {
    let directory = tools::workspace().join("target/demo");
    fs::create_dir_all(&directory)?;
    Ok(directory)
}

impl Evidence {
    /// `Ok` only if the drill proved the data equal, from the living region alone, and noticed the
    /// dead one; and if every other dataset was proved, too.
    pub(crate) fn verdict(&self) -> Result<()> {
        let drill = &self.drill;
        if drill["passed"] != true || drill["reached"] != "proved" {
            return Err(format!("the drill reached {}: {}", drill["reached"], drill["error"]).into());
        }
        if drill["replicas_used"] != json!([self.alive]) {
            return Err(format!("the data came from {}, not from {} alone", drill["replicas_used"], self.alive).into());
        }
        if drill["replicas_unreachable"].get(self.dead).is_none() {
            return Err(format!("{} is dead, and the drill did not notice", self.dead).into());
        }
        let all = &self.loss["datasets"];
        for dataset in DATASETS {
            let found = all.as_array().into_iter().flatten().find(|found| found["dataset"] == dataset);
            match found {
                Some(found) if found["restored"] == true && found["reached"] == "proved" => {}
                found => return Err(format!("{dataset} was not proved: {found:?}").into()),
            }
        }
        if self.second == 0 || self.second * 2 > self.first {
            return Err(format!(
                "the second backup stored {} bytes after {}: nothing was deduplicated",
                self.second, self.first
            )
            .into());
        }
        Ok(())
    }

    /// Writes `target/demo/report.json`.
    pub(crate) fn write(&self) -> Result<PathBuf> {
        let report = json!({
            "proved": self.verdict().is_ok(),
            "dead_regions": [self.dead],
            "replica": self.alive,
            "region_loss": self.loss,
            "total_seconds": self.total.as_secs_f64(),
            "datasets": [{
                "name": DATASET,
                "level": self.drill["reached"],
                "rpo_seconds": self.drill["rpo_seconds"],
                "rto_seconds": self.drill["rto_seconds"],
                "first_stored_bytes": self.first,
                "second_stored_bytes": self.second,
                "drill": self.drill,
            }],
        });
        let file = directory()?.join("report.json");
        fs::write(&file, serde_json::to_string_pretty(&report)? + "\n")?;
        Ok(file)
    }
}

impl fmt::Display for Evidence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let drill = &self.drill;
        let proof = &drill["proof"];
        let seconds = |value: &Value, objective: &Value| match (value.as_f64(), objective.as_f64()) {
            (Some(value), Some(objective)) => format!("{value:.1} s  (objective {objective:.0} s)"),
            (Some(value), None) => format!("{value:.1} s"),
            (None, _) => "not measured".to_owned(),
        };
        let compared = format!(
            "{} definitions, {} rows in {} tables, {} large objects",
            proof["definitions"], proof["rows"], proof["tables"], proof["large_objects"]
        );
        let rows = [
            ("dataset", DATASET.to_owned()),
            (
                "lost",
                format!(
                    "{}: {}",
                    self.dead,
                    drill["replicas_unreachable"][self.dead].as_str().unwrap_or("not noticed!")
                ),
            ),
            ("restored from", names(&drill["replicas_used"])),
            ("snapshot", drill["snapshot"].as_str().unwrap_or("none").to_owned()),
            (
                "restored",
                format!(
                    "{} into {}",
                    megabytes(drill["restored_bytes"].as_u64().unwrap_or(0)),
                    drill["engine"].as_str().unwrap_or("?")
                ),
            ),
            ("level reached", drill["reached"].as_str().unwrap_or("none").to_owned()),
            ("compared, equal", compared),
            ("recovery time", seconds(&drill["rto_seconds"], &drill["rto_objective_seconds"])),
            ("recovery point", seconds(&drill["rpo_seconds"], &drill["rpo_objective_seconds"])),
            ("first backup", format!("{} stored per region", megabytes(self.first))),
            ("second backup", format!("{} stored per region", megabytes(self.second))),
            ("the company", self.loss["verdict"].as_str().unwrap_or("not known").to_owned()),
            (
                "verdict",
                self.verdict()
                    .map_or_else(|error| format!("NOT PROVED: {error}"), |()| "PROVED with one region dead".to_owned()),
            ),
        ];
        let rows = rows.iter().flat_map(|(name, value)| {
            let names = std::iter::once(*name).chain(std::iter::repeat(""));
            names.zip(lines(value, VALUE_COLUMNS))
        });
        let rule = format!("+-{:-<16}-+-{:-<VALUE_COLUMNS$}-+", "", "");
        writeln!(f, "{rule}")?;
        for (name, value) in rows {
            writeln!(f, "| {name:<16} | {value:<VALUE_COLUMNS$} |")?;
        }
        writeln!(f, "{rule}")
    }
}

/// A text in lines of at most `columns`, if its words are not longer; one at least.
pub(crate) fn lines(text: &str, columns: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split_whitespace() {
        match lines.last_mut() {
            Some(line) if line.chars().count() + 1 + word.chars().count() <= columns => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    if lines.is_empty() {
        lines.push(String::new());
    }
    lines
}

/// A file as a person names it here.
pub(crate) fn from_here(file: &Path) -> &Path {
    std::env::current_dir().ok().and_then(|here| file.strip_prefix(here).ok()).unwrap_or(file)
}

fn names(list: &Value) -> String {
    let names: Vec<&str> = list.as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    names.join(" and ")
}

fn megabytes(bytes: u64) -> String {
    format!("{}.{} MB", bytes / 1_000_000, bytes / 100_000 % 10)
}
