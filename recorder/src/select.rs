//! What the run's selection wants, asked before a tensor is touched.

use crate::Tap;
use bitnet_trace_schema::StageGraph;
use bitnet_trace_schema::selection::{Selection, Tokens};

/// Whether any token of the tap may be wanted. A position below 0 is not known, and neither is how many follow
/// the first one where only a token axis tells; then any may be among them.
pub(crate) fn any(tokens: &Tokens<'_>, tap: &Tap<'_>) -> bool {
    if tokens.is_empty() {
        return false;
    }
    // a list of none fits no tensor that has tokens, which is found out later, and counted
    if let Some(positions) = tap.positions.filter(|p| !p.is_empty()) {
        let mut positions = positions.iter().enumerate();
        return positions.any(|(i, &seq)| tokens.wants(seq, request(tap, i)));
    }
    let (first, last) = match tap.token_axis {
        _ if tap.seq < 0 => (0, i64::MAX),
        Some(_) => (tap.seq, i64::MAX),
        None => (tap.seq, tap.seq),
    };
    match tap.requests.filter(|r| !r.is_empty()) {
        None => tokens.wants_any(first..=last, tap.request),
        Some(requests) if tap.seq < 0 => requests.iter().any(|&r| tokens.wants_any(first..=last, r)),
        Some(requests) => (first..=last).zip(requests).any(|(seq, &r)| tokens.wants(seq, r)),
    }
}

/// The request of a token; the tap's own where there are fewer entries than tokens.
pub(crate) fn request(tap: &Tap<'_>, token: usize) -> i32 {
    let requests = tap.requests.unwrap_or_default();
    requests.get(token).copied().unwrap_or(tap.request)
}

/// Why a run with this selection may be empty, in a sentence.
pub(crate) fn matched_nothing(selection: &Selection, run: &str) -> String {
    let graph = StageGraph::builtin();
    let stages: Vec<&str> = graph.stages().iter().map(|s| s.name.as_str()).collect();
    let hint = match selection.strangers(&stages)[..] {
        [] => String::new(),
        [one] => format!("; {one:?} is no stage of the vocabulary"),
        ref more => format!("; no stages of the vocabulary: {}", more.join(", ")),
    };
    format!(
        "the run {run} has no records: the selection \"{selection}\" matched none of the engine's tensors{hint}"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn any_of(selection: &str, tap: Tap<'_>) -> bool {
        let selection: Selection = selection.parse().expect("a selection");
        any(&selection.tokens(tap.stage, tap.layer), &tap)
    }

    #[test]
    fn a_tap_is_wanted_if_any_of_its_tokens_may_be() {
        let tap = Tap::new("q_rope", 3, 5);
        assert!(any_of("seq=5", tap) && !any_of("seq=6", tap) && !any_of("layer!=3", tap));
        assert!(any_of("seq=6", tap.token_axis(0)), "it may have two tokens");
        assert!(!any_of("seq=4", tap.token_axis(0)), "none is before the first");
        assert!(any_of("seq=4", Tap::new("q_rope", 3, -1)), "not known");
        assert!(!any_of("stage=k_*", Tap::new("q_rope", 3, -1)));
        let batch = tap.token_axis(0).positions(&[7, 2]).requests(&[0, 1]);
        assert!(any_of("seq=2,request=1", batch) && !any_of("seq=2,request=0", batch));
        assert!(!any_of("seq=5", batch), "the positions count");
        let counted = tap.token_axis(0).requests(&[0, 1]);
        assert!(any_of("seq=6,request=1", counted) && !any_of("seq=7", counted));
        assert!(any_of("request=9", tap.request(9)) && !any_of("request=9", tap));
        assert!(any_of("seq=5", batch.positions(&[])) && any_of("request=0", tap.requests(&[])));
    }

    #[test]
    fn an_empty_run_is_explained_with_the_stages_that_may_be_misspelt() {
        let told = |s: &str| matched_nothing(&s.parse().expect("a selection"), "r");
        assert!(told("stage=atn_out").contains("\"atn_out\" is no stage"));
        assert!(told("stage=atn_*|x,seq=1").ends_with("atn_*, x"));
        assert!(
            told("stage = logits, layer=3")
                .ends_with("\"stage=logits,layer=3\" matched none of the engine's tensors")
        );
    }
}
