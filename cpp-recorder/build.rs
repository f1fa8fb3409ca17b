//! Gives the shared library the name that the dynamic linker is to look for: that of its ABI.

use std::path::Path;

fn main() {
    let header = Path::new("include/bitnet_trace.h");
    println!("cargo::rerun-if-changed={}", header.display());
    println!("cargo::rerun-if-changed=build.rs");
    let text = std::fs::read_to_string(header).expect("the C header");
    let abi = text
        .lines()
        .find_map(|line| line.strip_prefix("#define BNT_ABI_VERSION "))
        .expect("BNT_ABI_VERSION in the C header")
        .trim_end_matches('u');
    if std::env::var("CARGO_CFG_TARGET_OS").is_ok_and(|os| os == "linux") {
        println!("cargo::rustc-cdylib-link-arg=-Wl,-soname,libbitnet_trace.so.{abi}");
    }
}
