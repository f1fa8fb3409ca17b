//! What the operating system knows of this process.

use bitnet_trace_schema::Owner;
use std::time::{SystemTime, UNIX_EPOCH};

/// Milliseconds since 1970.
pub(crate) fn unix_ms() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.map_or(0, |t| t.as_millis() as u64)
}

pub(crate) fn command_line() -> Vec<String> {
    std::env::args_os()
        .map(|a| a.to_string_lossy().into_owned())
        .collect()
}

/// This process, told apart from later ones with the same id.
pub(crate) fn owner() -> Owner {
    let read = |path| std::fs::read_to_string(path).unwrap_or_default();
    Owner {
        pid: std::process::id(),
        start_ticks: start_ticks(&read("/proc/self/stat")).unwrap_or(0),
        boot_id: read("/proc/sys/kernel/random/boot_id").trim().to_owned(),
        host: read("/proc/sys/kernel/hostname").trim().to_owned(),
    }
}

/// An owner that is the same in every run.
pub(crate) fn fixed_owner() -> Owner {
    Owner {
        pid: 1,
        start_ticks: 0,
        boot_id: String::new(),
        host: String::new(),
    }
}

/// Field 22 of `/proc/<pid>/stat`; the second field, a name in parentheses, may hold anything.
fn start_ticks(stat: &str) -> Option<u64> {
    let (_, fields) = stat.rsplit_once(')')?;
    fields.split_ascii_whitespace().nth(19)?.parse().ok()
}

/// `yyyymmddThhmmssZ` in UTC.
pub(crate) fn utc_stamp(unix_ms: u64) -> String {
    let seconds = unix_ms / 1000;
    let (year, month, day) = civil(seconds / 86_400);
    let (h, m, s) = (seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
    format!("{year:04}{month:02}{day:02}T{h:02}{m:02}{s:02}Z")
}

/// Year, month and day of a day counted from 1970-01-01, in years that begin in March, so that the leap
/// day is the last one.
fn civil(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468; // from 0000-03-01
    let era = days / 146_097; // 400 years
    let day = days % 146_097;
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let date = day - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    (era * 400 + year + u64::from(month <= 2), month, date)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_become_utc_stamps() {
        for (seconds, stamp) in [
            (0, "19700101T000000Z"),
            (951_782_399, "20000228T235959Z"),
            (951_782_400, "20000229T000000Z"),
            (1_772_323_199, "20260228T235959Z"),
            (1_772_323_200, "20260301T000000Z"),
            (4_102_444_799, "20991231T235959Z"),
        ] {
            assert_eq!(utc_stamp(seconds * 1000 + 7), stamp);
        }
    }

    #[test]
    fn the_start_time_is_found_behind_any_program_name() {
        let stat = "7 (a) b (c) S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 4711 20 21";
        assert_eq!(start_ticks(stat), Some(4711));
        assert_eq!(start_ticks("7 (x"), None);
        #[cfg(target_os = "linux")]
        assert!(owner().start_ticks > 0 && !owner().boot_id.is_empty());
    }
}
