//! The facts about the process, as metrics.

use std::time::{SystemTime, UNIX_EPOCH};

use sluice_services::Exposition;

/// Version, start time, memory and open files; what `/proc` does not tell is left out.
pub(super) fn process(started: SystemTime, out: &mut Exposition) {
    out.family("sluice_build_info", "gauge", "The version that runs.");
    out.sample("sluice_build_info", &[("version", env!("CARGO_PKG_VERSION"))], 1.0);
    let start = started.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
    out.family("process_start_time_seconds", "gauge", "When the process started, since the Unix epoch.");
    out.sample("process_start_time_seconds", &[], (start * 1e3).round() / 1e3);
    if let Some(bytes) = resident_bytes() {
        out.family("process_resident_memory_bytes", "gauge", "Resident memory.");
        out.sample("process_resident_memory_bytes", &[], bytes as f64);
    }
    if let Ok(open) = std::fs::read_dir("/proc/self/fd") {
        out.family("process_open_fds", "gauge", "Open file descriptors.");
        out.sample("process_open_fds", &[], open.count() as f64);
    }
}

fn resident_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}
