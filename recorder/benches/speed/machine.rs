//! Where the numbers come from.
#![allow(unsafe_code)]

use std::ffi::CString;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::Command;

pub const IN_MEMORY: [&str; 2] = ["tmpfs", "ramfs"];

/// The kind of file system that `dir` is on.
pub fn file_system(dir: &Path) -> std::io::Result<String> {
    let path = CString::new(dir.as_os_str().as_bytes())?;
    // SAFETY: all zeros is a statfs, which the call fills; the path is a C string
    let (done, stat) = unsafe {
        let mut stat: libc::statfs = std::mem::zeroed();
        (libc::statfs(path.as_ptr(), &mut stat), stat)
    };
    if done != 0 {
        return Err(std::io::Error::last_os_error());
    }
    Ok(match stat.f_type as u64 {
        0x0102_1994 => "tmpfs".into(),
        0x8584_58f6 => "ramfs".into(),
        0xef53 => "ext4".into(),
        0x5846_5342 => "xfs".into(),
        0x9123_683e => "btrfs".into(),
        0x794c_7630 => "overlayfs".into(),
        other => format!("file system {other:#x}"),
    })
}

fn output(program: &str, args: &[&str]) -> String {
    let run = Command::new(program).args(args).output();
    run.map_or_else(
        |_| format!("{program}: unknown"),
        |out| String::from_utf8_lossy(&out.stdout).trim().to_owned(),
    )
}

/// Machine, versions and date, one a line; all crates have one version.
pub fn facts(krate: &str, file_system: &str) -> Vec<String> {
    let cpu = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpu
        .lines()
        .find_map(|l| l.strip_prefix("model name")?.split_once(": "));
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    vec![
        format!(
            "CPU: {}, {cores} cores",
            model.map_or("unknown", |(_, name)| name)
        ),
        format!("Kernel: {}", output("uname", &["-sr"])),
        format!("File system: {file_system}"),
        format!("Compiler: {}", output("rustc", &["--version"])),
        format!("{krate} {}", env!("CARGO_PKG_VERSION")),
        format!("Date: {}", output("date", &["-u", "+%Y-%m-%d %H:%M UTC"])),
        format!(
            "Load average at the end: {}",
            load.split(' ').next().unwrap_or("unknown")
        ),
    ]
}
