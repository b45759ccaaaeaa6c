//! What processes use, by the kernel's books.

use std::fs;

use crate::support::database::Database;

/// Ticks of `/proc/PID/stat` in a second: 100 on every Linux that PostgreSQL runs on.
const TICKS_PER_SECOND: f64 = 100.0;

/// The load above which figures say more about the machine's other work than about us.
const LOAD_MAX: f64 = 0.3;

/// The fields of `/proc/PID/stat` after the name, which may hold anything.
fn stat(pid: u32) -> Option<Vec<i64>> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, fields) = text.rsplit_once(") ")?;
    // The first one is the state, a letter.
    Some(fields.split(' ').skip(1).map(|field| field.trim().parse().unwrap_or(0)).collect())
}

#[expect(clippy::cast_precision_loss, reason = "ticks are far below 2^52")]
fn seconds(ticks: i64) -> f64 {
    ticks as f64 / TICKS_PER_SECOND
}

/// CPU-seconds that a process has used so far, its threads included.
pub(crate) fn cpu_of(pid: u32) -> f64 {
    stat(pid).map_or(0.0, |fields| seconds(fields[10] + fields[11]))
}

/// CPU-seconds of the PostgreSQL server so far: of all its processes, those that have ended included.
pub(crate) async fn cpu_of_server(database: &Database) -> f64 {
    let backend: i32 = database.value("select pg_backend_pid()").await;
    let parent = |pid: u32| stat(pid).and_then(|fields| u32::try_from(fields[0]).ok());
    let postmaster = parent(backend.cast_unsigned()).unwrap();
    let ended = stat(postmaster).map_or(0, |fields| fields[10..14].iter().sum());
    let children: f64 = fs::read_dir("/proc")
        .unwrap()
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter(|pid| parent(*pid) == Some(postmaster))
        .map(cpu_of)
        .sum();
    seconds(ended) + children
}

/// A line of `/proc/PID/status` that counts kilobytes (`VmRSS`, `VmHWM`), in MB of 2^20 bytes.
pub(crate) fn memory_of(pid: u32, line: &str) -> f64 {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let kilobytes = text.lines().find_map(|l| {
        l.strip_prefix(line)?.trim_start_matches(':').split_whitespace().next()?.parse::<f64>().ok()
    });
    kilobytes.unwrap_or(f64::NAN) / 1024.0
}

/// Refuses to measure beside other work.
///
/// # Panics
///
/// The machine is busy, unless `EVENTLOADER_BENCH_LOAD` names a higher load that is accepted.
pub(crate) fn refuse_a_busy_one() {
    let accepted = std::env::var("EVENTLOADER_BENCH_LOAD")
        .map_or(LOAD_MAX, |text| text.parse().expect("EVENTLOADER_BENCH_LOAD is a number"));
    let text = fs::read_to_string("/proc/loadavg").unwrap();
    let load: f64 = text.split(' ').next().unwrap().parse().unwrap();
    assert!(
        load <= accepted,
        "the load is {load}, above {accepted}: figures of a busy machine say nothing. Wait until it is at rest, or set \
         EVENTLOADER_BENCH_LOAD to a load that you accept"
    );
}
