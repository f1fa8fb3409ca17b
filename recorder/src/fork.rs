//! Tells a forked child from its parent, without a system call each time.
#![allow(unsafe_code)]

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

/// How many forks lie between this process and the one that asked first.
static FORKS: AtomicU32 = AtomicU32::new(0);
/// Whether forks are counted.
static COUNTED: OnceLock<bool> = OnceLock::new();

/// Runs in a child before `fork` returns there: it may do what a signal handler may.
extern "C" fn in_child() {
    FORKS.fetch_add(1, Ordering::Relaxed);
    crate::life::in_child();
}

/// The process that something belongs to.
#[derive(Debug)]
pub(crate) struct Home {
    forks: u32,
    pid: u32,
    counted: bool,
}

impl Home {
    /// This process.
    pub fn here() -> Self {
        // SAFETY: pthread_atfork keeps the address of a function that lives as long as the program or library
        // (which unregisters it when it is unloaded)
        let counted =
            *COUNTED.get_or_init(|| unsafe { libc::pthread_atfork(None, None, Some(in_child)) } == 0);
        Self {
            forks: FORKS.load(Ordering::Relaxed),
            pid: std::process::id(),
            counted,
        }
    }

    /// Whether this is that process, not a child that it forked.
    #[inline]
    pub fn is_here(&self) -> bool {
        FORKS.load(Ordering::Relaxed) == self.forks && (self.counted || std::process::id() == self.pid)
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.pid
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_forked_child_is_not_at_home_and_has_a_home_of_its_own() {
        let home = Home::here();
        assert!(home.is_here() && home.counted && home.pid() == std::process::id());
        // SAFETY: the child calls nothing but what may be called between fork and exec: loads and _exit
        let child = unsafe {
            let child = libc::fork();
            if child == 0 {
                let right = !home.is_here()
                    && Home {
                        forks: FORKS.load(Ordering::Relaxed),
                        ..home
                    }
                    .is_here();
                libc::_exit(if right { 7 } else { 1 });
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
        assert!(home.is_here(), "the parent still is");
    }
}
