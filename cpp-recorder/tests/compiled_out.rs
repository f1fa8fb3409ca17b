//! With `BITNET_TRACE_DISABLE` defined, the headers leave no symbol in a program and evaluate no argument.

mod programs;

use programs::{compile, compiler, program, root, run};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Compiles `tests/c/<source>` as it would be in a host that has compiled recording out, and links nothing.
fn compile_out(name: &str, flags: &[&str], source: &str, dir: &Path) -> PathBuf {
    let out = dir.join("program");
    let mut command = compiler(name, flags[0]);
    command.args(&flags[1..]).arg("-DBITNET_TRACE_DISABLE");
    command.arg("-I").arg(root().join("tests/c/ggml"));
    command.arg(root().join("tests/c").join(source));
    run(command.arg("-o").arg(&out));
    out
}

/// What `nm` tells of the symbols whose names have to do with the recorder: type and name.
fn symbols(program: &Path) -> Vec<(char, String)> {
    let output = run(Command::new("nm").arg(program));
    let text = String::from_utf8(output.stdout).expect("text");
    assert!(text.contains(" main"), "{text}");
    let mut symbols = Vec::new();
    for line in text.lines() {
        let mut words = line.split_whitespace().rev();
        let (name, kind) = (words.next().expect("a name"), words.next().expect("a type"));
        if name.contains("bnt") || name.contains("bitnet") {
            symbols.push((kind.chars().next().expect("a letter"), name.to_owned()));
        }
    }
    symbols
}

fn evaluated(path: &Path) -> u32 {
    let output = run(&mut program(path));
    let text = String::from_utf8(output.stdout).expect("text");
    text.trim().parse().expect("a number")
}

#[test]
fn a_c_program_without_recording_has_no_symbol_of_it_and_evaluates_no_argument() {
    let dir = tempfile::tempdir().expect("a directory");
    for (name, standard, language) in [("cc", "-std=c99", "c"), ("c++", "-std=c++17", "c++")] {
        for optimised in ["-O0", "-O2"] {
            let flags = [standard, optimised, "-x", language];
            let out = compile_out(name, &flags, "off.c", dir.path());
            assert_eq!(symbols(&out), [], "{flags:?}");
            assert_eq!(evaluated(&out), 0, "{flags:?}");
        }
    }
    // the same program with the recorder in it, which is off
    let with = compile("cc", "-std=c99", "off.c", false, dir.path());
    assert!(
        symbols(&with)
            .iter()
            .any(|(kind, name)| *kind == 'T' && name == "bnt_record")
    );
    assert_eq!(evaluated(&with), 40);
}

#[test]
fn a_cpp_program_without_recording_needs_no_symbol_of_it_and_has_none_when_optimised() {
    let dir = tempfile::tempdir().expect("a directory");
    let out = compile_out("c++", &["-std=c++17", "-O2"], "off.cpp", dir.path());
    assert_eq!(symbols(&out), []);
    assert_eq!(evaluated(&out), 0);
    // not optimised, the empty functions of the C++ header are there, and call nothing
    let out = compile_out("c++", &["-std=c++17", "-O0"], "off.cpp", dir.path());
    let needed: Vec<_> = (symbols(&out).into_iter())
        .filter(|(kind, name)| *kind == 'U' || name.starts_with("bnt_"))
        .collect();
    assert_eq!(needed, []);
    assert_eq!(evaluated(&out), 0);
}
