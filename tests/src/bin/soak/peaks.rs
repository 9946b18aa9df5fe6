//! What the daemon uses of the machine.

use std::fs;
use std::sync::atomic::{AtomicI32, AtomicU64, Ordering};

/// The most that any life of the daemon used.
#[derive(Debug, Default)]
pub(crate) struct Peaks {
    pub(crate) resident_kib: AtomicU64,
    pub(crate) descriptors: AtomicU64,
    pub(crate) threads: AtomicU64,
}

/// Takes in what the process uses.
pub(crate) fn measure(process: &AtomicI32, peaks: &Peaks) {
    let process = process.load(Ordering::SeqCst);
    if process == 0 {
        return;
    }
    let text = fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
    let value = |name: &str| -> u64 {
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or_default()
    };
    peaks.resident_kib.fetch_max(value("VmHWM:"), Ordering::Relaxed);
    peaks.threads.fetch_max(value("Threads:"), Ordering::Relaxed);
    let open = fs::read_dir(format!("/proc/{process}/fd")).map_or(0, Iterator::count);
    peaks.descriptors.fetch_max(open as u64, Ordering::Relaxed);
}
