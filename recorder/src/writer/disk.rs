//! What the standard library can't ask of a file.
#![cfg_attr(target_os = "linux", allow(unsafe_code))]

use std::fs::File;
use std::io::{self, IoSlice, Write};

/// The page cache keeps in one page of this size what is written at once and fills it; a reader then maps it as one, and
/// reads it about one and a half times as fast as in small pages.
pub(super) const LARGE_PAGE: u64 = 2 << 20;

static ZEROS: [u8; LARGE_PAGE as usize] = [0; LARGE_PAGE as usize];

/// Writes all of two slices, with one call as a rule. The same call goes on with `room` zeros: as many of them as the system
/// takes at once, since nothing depends on them.
pub(super) fn write_both(mut file: &File, mut head: &[u8], mut rest: &[u8], room: usize) -> io::Result<()> {
    let zeros = &ZEROS[..room.min(ZEROS.len())];
    while !head.is_empty() || !rest.is_empty() {
        match file.write_vectored(&[head, rest, zeros].map(IoSlice::new)) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(n) => {
                let of_rest = n.saturating_sub(head.len()).min(rest.len());
                (head, rest) = (&head[n.min(head.len())..], &rest[of_rest..]);
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

/// Takes room on the disk for `bytes` bytes from `from` on, without changing the file's length.
#[cfg(target_os = "linux")]
pub(super) fn allocate(file: &File, from: u64, bytes: u64) -> io::Result<()> {
    use std::os::fd::AsRawFd;
    // SAFETY: takes a descriptor, which is open as `file` is, and numbers
    let done = unsafe {
        let mode = libc::FALLOC_FL_KEEP_SIZE;
        libc::fallocate(file.as_raw_fd(), mode, from as i64, bytes as i64)
    };
    match done {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Lets the system begin to bring `bytes` bytes from `from` on to the disk, without waiting for it.
#[cfg(target_os = "linux")]
pub(super) fn start_writing(file: &File, from: u64, bytes: u64) {
    use std::os::fd::AsRawFd;
    // SAFETY: takes a descriptor, which is open as `file` is, and numbers
    unsafe {
        let begin = libc::SYNC_FILE_RANGE_WRITE;
        libc::sync_file_range(file.as_raw_fd(), from as i64, bytes as i64, begin);
    }
}

#[cfg(not(target_os = "linux"))]
pub(super) fn allocate(_: &File, _: u64, _: u64) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

#[cfg(not(target_os = "linux"))]
pub(super) fn start_writing(_: &File, _: u64, _: u64) {}
