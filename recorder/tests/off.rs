//! What recording leaves in the engine's machine code: nothing where it is compiled out, one load where it is on and
//! the stage is not selected. Read from this program's own code by `objdump` (binutils).
#![cfg(all(target_arch = "x86_64", target_os = "linux"))]

use bitnet_trace::{AsTensor, DType, Recorder, Site, Slice, Tap, TensorError, TensorView, bytes_of, tap};
use std::process::Command;

/// A tensor that an expression gives.
struct Scalar([f32; 1]);

impl AsTensor for Scalar {
    fn with_view(&self, f: &mut dyn FnMut(TensorView<'_>)) -> Result<(), TensorError> {
        f(TensorView::new(DType::F32, &[1], bytes_of(&self.0)));
        Ok(())
    }
}

/// A step of an engine with every kind of call in it.
///
/// # Safety
/// None is needed: the name is that of no other function.
#[allow(unsafe_code)]
#[unsafe(no_mangle)]
#[inline(never)]
pub fn probe_with(recorder: &Recorder, site: &Site, x: &mut [f32; 64], seq: i64) -> f32 {
    recorder.begin_pass();
    recorder.tokens(0, seq, &[1i32, 2]);
    let pass = recorder.pass(0, seq, &[1i32]);
    let (mut sum, mut layer) = (0.0, 0i32);
    for value in x.iter_mut() {
        *value = tap!(pass, ffn_act[layer], Scalar([*value * 0.5])).0[0];
        sum += *value;
        let shape = [1, 1];
        recorder.record(
            Tap::new("ffn_norm", layer, seq).token_axis(0).name("x"),
            &Slice::new(std::slice::from_ref(value), &shape),
        );
        if site.wants(layer) {
            site.record(site.tap(layer, seq), &vec![sum]);
        }
        layer = layer.wrapping_add(1);
    }
    let tap = Tap::new("logits", -1, seq);
    if recorder.is_on() && recorder.wants(&tap) {
        recorder.drop_tensor(tap, "no reason");
    }
    let _ = bitnet_trace::dump_trace("x", &[sum][..], Some(0), None, None);
    sum
}

/// The same step without them.
///
/// # Safety
/// As above.
#[allow(unsafe_code)]
#[unsafe(no_mangle)]
#[inline(never)]
pub fn probe_without(_: &Recorder, _: &Site, x: &mut [f32; 64], _: i64) -> f32 {
    let mut sum = 0.0;
    for value in x.iter_mut() {
        *value *= 0.5;
        sum += *value;
    }
    sum
}

/// A tracepoint's question.
///
/// # Safety
/// As above.
#[allow(unsafe_code)]
#[unsafe(no_mangle)]
#[inline(never)]
pub fn probe_wants(site: &Site, layer: i32) -> bool {
    site.wants(layer)
}

/// Operands but for how far away a constant lies, which depends on where the function does.
fn placeless(word: &str) -> &str {
    word.find("(%rip)").map_or(word, |at| &word[at..])
}

/// The instructions of a function of this program, without addresses; `None` where there is no tool to read them.
fn code(function: &str) -> Option<Vec<String>> {
    let out = Command::new("objdump")
        .args(["-d", "--no-show-raw-insn", "--no-addresses"])
        .arg(format!("--disassemble={function}"))
        .arg(std::env::current_exe().expect("this program"))
        .output();
    let Ok(out) = out else {
        eprintln!("skipped: there is no objdump (of the package binutils) on this machine");
        return None;
    };
    assert!(out.status.success(), "{out:?}");
    let text = String::from_utf8_lossy(&out.stdout).replace(function, "probe");
    let code: Vec<String> = (text.lines().skip_while(|l| !l.contains("<probe>:")).skip(1))
        .map(|line| {
            let words = line.split('#').next().unwrap_or_default().split_whitespace();
            words.map(placeless).collect::<Vec<_>>().join(" ")
        })
        .take_while(|line| !line.is_empty())
        .collect();
    assert!(
        code.iter().any(|line| line.starts_with("ret")),
        "{function}: {text}"
    );
    Some(code)
}

fn call_them() {
    let (recorder, mut x) = (Recorder::off(), [1.0; 64]);
    let site = recorder.site("ffn_norm");
    assert_eq!(probe_with(&recorder, &site, &mut x, 0), 32.0);
    assert_eq!(probe_without(&recorder, &site, &mut x, 0), 16.0);
    assert!(!probe_wants(&site, 0));
}

#[cfg(not(feature = "trace"))]
#[test]
fn compiled_out_the_calls_leave_no_instruction() {
    call_them();
    let (Some(with), Some(without)) = (code("probe_with"), code("probe_without")) else {
        return;
    };
    assert_eq!(with, without);
    assert_eq!(size_of::<(Recorder, Site)>(), 0);
}

#[cfg(feature = "trace")]
#[test]
fn on_but_not_selected_a_tracepoint_is_one_load_and_a_test_of_one_bit() {
    call_them();
    let (Some(with), Some(without), Some(wants)) =
        (code("probe_with"), code("probe_without"), code("probe_wants"))
    else {
        return;
    };
    assert_ne!(with, without, "the comparison sees what is there");
    // what runs where the bit is not set: all up to the branch
    let guard: Vec<_> = wants.iter().take_while(|l| !l.starts_with('j')).collect();
    let loads = guard
        .iter()
        .filter(|l| l.contains("(%r") && !l.starts_with("lea"))
        .count();
    let calls = guard.iter().filter(|l| l.starts_with("call")).count();
    assert_eq!((loads, calls), (1, 0), "{wants:#?}");
    assert!(guard.len() < 12 && guard.len() < wants.len(), "{wants:#?}");
}
