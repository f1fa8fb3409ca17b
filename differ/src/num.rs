//! Numbers as people and JSON read them.
//!
//! JSON has no infinity and no NaN: a number that is not finite is the string `"inf"`, `"-inf"` or
//! `"nan"`, and `null` means that there is no number at all.

use serde::{Serialize, Serializer};

/// Serialises an f64, with `"inf"`, `"-inf"` and `"nan"` for what JSON cannot hold.
///
/// # Errors
/// The serializer's own.
pub fn json<S: Serializer>(x: &f64, to: S) -> Result<S::Ok, S::Error> {
    if x.is_finite() {
        to.serialize_f64(*x)
    } else if x.is_nan() {
        to.serialize_str("nan")
    } else {
        to.serialize_str(if *x > 0.0 { "inf" } else { "-inf" })
    }
}

/// Serialises an `Option<f64>` as [`json`] does, `None` as null.
///
/// # Errors
/// The serializer's own.
pub fn json_option<S: Serializer>(x: &Option<f64>, to: S) -> Result<S::Ok, S::Error> {
    x.map(Num).serialize(to)
}

/// An f64 that serialises as [`json`] does.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Num(pub f64);

impl Serialize for Num {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        json(&self.0, to)
    }
}

/// An error or a threshold, two digits, in scientific notation where it is small or huge: `3.2e-2`, `1e-4`,
/// `0.96`, `46`, `0`, `inf`, `NaN`.
pub fn sci(x: f64) -> String {
    sci_digits(x, 1)
}

/// [`sci`] of `x`, with as many digits as it takes to differ from `limit`.
pub fn sci_beside(x: f64, limit: f64) -> String {
    let shown = (1..=6).map(|digits| sci_digits(x, digits));
    let limit_shown = |digits| sci_digits(limit, digits);
    let mut last = sci(x);
    for (text, digits) in shown.zip(1..) {
        let differs = text != limit_shown(digits);
        last = text;
        if differs {
            break;
        }
    }
    last
}

fn sci_digits(x: f64, digits: usize) -> String {
    if x == 0.0 {
        return "0".into();
    }
    if !x.is_finite() {
        return format!("{x}");
    }
    let text = format!("{x:.digits$e}");
    let exponent: i32 = text
        .split_once('e')
        .and_then(|(_, e)| e.parse().ok())
        .unwrap_or_default();
    if (-1..3).contains(&exponent) {
        let decimals = (digits as i32 - exponent).max(0) as usize;
        return trim(&format!("{x:.decimals$}")).to_owned();
    }
    match text.split_once('e') {
        Some((mantissa, exponent)) => format!("{}e{exponent}", trim(mantissa)),
        None => text,
    }
}

/// 1.0 is 1.
fn trim(text: &str) -> &str {
    if text.contains('.') {
        text.trim_end_matches('0').trim_end_matches('.')
    } else {
        text
    }
}

/// A value with `digits` significant digits, plain where it is readable: `0.1234`, `17.03`, `3.2e-7`.
pub fn sig(x: f64, digits: usize) -> String {
    if x == 0.0 {
        return "0".into();
    }
    if !x.is_finite() {
        return format!("{x}");
    }
    let magnitude = x.abs().log10().floor();
    if !(-4.0..7.0).contains(&magnitude) {
        return sci_digits(x, digits.saturating_sub(1));
    }
    let decimals = (digits as i64 - 1 - magnitude as i64).max(0) as usize;
    format!("{x:.decimals$}")
}

/// A factor near or far from 1, with four digits of what sets it apart from 1: `1.25`, `10`, `1.000123`.
pub fn factor(x: f64) -> String {
    let apart = (x - 1.0).abs().log10().floor();
    match apart {
        // An infinity too, of a factor that is 1.
        _ if !(-9.0..5.0).contains(&apart) => sig(x, 4),
        _ => trim(&format!("{x:.*}", (3.0 - apart).max(0.0) as usize)).to_owned(),
    }
}

/// A value that may be absent: [`sig`] or `-`.
pub fn sig_option(x: Option<f64>, digits: usize) -> String {
    x.map_or_else(|| "-".into(), |x| sig(x, digits))
}

/// A cosine similarity: seven decimals, cut off and not rounded, so that only 1 reads as 1.
pub fn cosine(x: f64) -> String {
    format!("{:.7}", (x * 1e7).floor() / 1e7)
}

/// `1 record`, `2 records`.
pub fn plural(n: u64, what: &str) -> String {
    format!("{n} {what}{}", if n == 1 { "" } else { "s" })
}

/// Bytes in a readable unit: `512 B`, `1.5 MB`.
pub fn bytes(n: u64) -> String {
    let units = ["kB", "MB", "GB", "TB", "PB", "EB"];
    let mut x = n as f64;
    let mut unit = "B";
    for next in units {
        if x < 1000.0 {
            break;
        }
        x /= 1000.0;
        unit = next;
    }
    if unit == "B" {
        format!("{n} B")
    } else {
        format!("{x:.1} {unit}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_as_people_write_them() {
        assert_eq!(
            (sci(1.0).as_str(), sci(0.96).as_str(), sci(46.4).as_str()),
            ("1", "0.96", "46")
        );
        assert_eq!(
            (sci(1e-4).as_str(), sci(0.0321).as_str(), sci(0.0).as_str()),
            ("1e-4", "3.2e-2", "0")
        );
        assert_eq!(
            (sci(f64::INFINITY).as_str(), sci(f64::NAN).as_str()),
            ("inf", "NaN")
        );
        assert_eq!(
            (sig(0.12345, 4).as_str(), sig(1703.2, 3).as_str()),
            ("0.1235", "1703")
        );
        assert_eq!(
            (sig(3.2e-7, 2).as_str(), sig(-0.5, 2).as_str()),
            ("3.2e-7", "-0.50")
        );
        assert_eq!(
            (cosine(1.0).as_str(), cosine(1.0 - 2e-9).as_str()),
            ("1.0000000", "0.9999999")
        );
        assert_eq!((bytes(999), bytes(1_500_000)), ("999 B".into(), "1.5 MB".into()));
    }

    #[test]
    fn a_factor_shows_what_sets_it_apart_from_one() {
        let shown = [1.25, 10.0, 0.125, -1.0, 1.000_123_4, 1.0].map(factor);
        assert_eq!(shown, ["1.25", "10", "0.125", "-1", "1.0001234", "1.000"]);
    }

    #[test]
    fn a_value_beside_its_limit_never_looks_equal_to_it() {
        assert_eq!(sci_beside(1.04e-4, 1e-4), "1.04e-4");
        assert_eq!(sci_beside(3.2e-2, 1e-4), "3.2e-2");
    }

    #[test]
    fn json_keeps_what_is_not_finite_apart_from_what_is_absent() {
        let text = |x: f64| serde_json::to_string(&Num(x)).expect("JSON");
        assert_eq!(
            [
                text(0.5),
                text(f64::INFINITY),
                text(f64::NEG_INFINITY),
                text(f64::NAN)
            ],
            ["0.5", "\"inf\"", "\"-inf\"", "\"nan\""]
        );
    }
}
