//! The selection grammar against a second, slower reading of it.

use bitnet_trace_schema::selection::Selection;

const STAGES: [&str; 5] = ["attn_out", "q_proj", "logits", "a", "ü"];
const LAYERS: [i32; 6] = [-2, -1, 0, 1, 9, i32::MAX];
const SEQS: [i64; 6] = [0, 1, 2, 9, 10, i64::MAX];
const REQUESTS: [i32; 4] = [0, 1, 9, i32::MAX];

/// Text is a selection that prints itself and selects what it says, or an error that shows its place.
pub fn check(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let selection: Selection = match text.parse() {
        Ok(selection) => selection,
        Err(error) => {
            assert!(text.contains(error.token()), "{text:?}: {error:?}");
            assert!((1..=text.chars().count() + 1).contains(&error.column()));
            assert!(!error.to_string().is_empty() && !error.excerpt().is_empty());
            return;
        }
    };
    let printed = selection.to_string();
    assert_eq!(
        printed.parse().as_ref(),
        Ok(&selection),
        "{text:?} as {printed:?}"
    );
    assert_eq!(selection.is_everything(), printed.is_empty());
    for stage in STAGES {
        for layer in LAYERS {
            let tokens = selection.tokens(stage, layer);
            for request in REQUESTS {
                let mut any = false;
                for seq in SEQS {
                    let wanted = wants(&printed, stage, layer, seq, request);
                    assert_eq!(
                        tokens.wants(seq, request),
                        wanted,
                        "{printed:?}: {stage} {layer} {seq} {request}"
                    );
                    any |= wanted;
                }
                assert!(!any || tokens.wants_any(0..=i64::MAX, request));
                assert!(!any || !tokens.is_empty());
            }
        }
    }
    let _ = selection.strangers(&STAGES);
}

/// The selection that `printed` says, read without any of the parser.
fn wants(printed: &str, stage: &str, layer: i32, seq: i64, request: i32) -> bool {
    let term = |term: &str| {
        let (key, values) = term.split_once('=').expect("a term has an operator");
        let excludes = key.ends_with('!');
        let number = match key.trim_end_matches('!') {
            "stage" => return values.split('|').any(|p| matches(p, stage)) != excludes,
            "seq" => seq,
            "layer" => layer.into(),
            "request" => request.into(),
            other => panic!("{other:?} is no key"),
        };
        let holds = |value: &str| match value.char_indices().skip(1).find(|&(_, c)| c == '-') {
            None => value.parse() == Ok(number),
            Some((dash, _)) => {
                let last = &value[dash + 1..];
                let last = if last.is_empty() {
                    Ok(i64::MAX)
                } else {
                    last.parse()
                };
                value[..dash].parse().is_ok_and(|first: i64| first <= number)
                    && last.is_ok_and(|l| number <= l)
            }
        };
        values.split('|').any(holds) != excludes
    };
    printed.is_empty()
        || printed
            .split(';')
            .any(|alternative| alternative.split(',').all(term))
}

/// Glob by a table of what each prefix of the pattern matches.
fn matches(pattern: &str, text: &str) -> bool {
    let text: Vec<char> = text.chars().collect();
    let mut reached = vec![false; text.len() + 1];
    reached[0] = true;
    for p in pattern.chars() {
        if p == '*' {
            let first = reached.iter().position(|&r| r).unwrap_or(reached.len());
            reached[first..].fill(true);
            continue;
        }
        for at in (0..text.len()).rev() {
            reached[at + 1] = reached[at] && (p == '?' || p == text[at]);
        }
        reached[0] = false;
    }
    reached[text.len()]
}
