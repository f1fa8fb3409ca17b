//! A host that forks: one test, as a child of a process with other threads may do little.
#![cfg(all(feature = "trace", target_os = "linux"))]

mod common;

use bitnet_trace::{Recorder, Tap};

#[test]
#[allow(unsafe_code)]
fn a_forked_child_records_nothing_and_its_parent_goes_on() {
    let dir = tempfile::tempdir().expect("a directory");
    let recorder = (Recorder::builder(dir.path()).run("a"))
        .build()
        .expect("a recorder");
    let site = recorder.site("x");
    site.record(site.tap(0, 0), &[1.0f32][..]);
    // SAFETY: the child takes no lock but that of stderr, which no other thread of this program uses, and ends
    // by _exit
    let child = unsafe {
        let child = libc::fork();
        if child == 0 {
            libc::alarm(60);
            let tap = Tap::new("x", 0, 1);
            let off = site.try_record(site.tap(0, 1), &[2.0f32][..]).is_err()
                && !site.wants(0)
                && !recorder.wants(&tap)
                && !recorder.is_on()
                && recorder.try_record(tap, &[2.0f32][..]).is_err()
                && site.try_record(site.tap(0, 1), &[2.0f32][..]).is_ok() // it asks nobody any more
                && recorder.finish().is_err();
            libc::_exit(if off { 7 } else { 1 });
        }
        child
    };
    let mut status = 0;
    // SAFETY: the status is written before the call returns
    assert_eq!(unsafe { libc::waitpid(child, &mut status, 0) }, child);
    assert!(
        libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == 7,
        "{status}"
    );
    assert!(site.wants(0));
    site.record(site.tap(0, 2), &[3.0f32][..]);
    let records = common::read(&recorder.finish().expect("sealed").dir);
    let seqs: Vec<_> = records.iter().map(|r| r.meta.seq).collect();
    assert_eq!(seqs, [0, 2]);
}
