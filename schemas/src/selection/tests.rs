use super::*;
use SelectionProblem as Problem;
use proptest::prelude::*;

fn parse(text: &str) -> Selection {
    text.parse().unwrap_or_else(|e| panic!("{e}"))
}

/// Whether the record with this key is selected.
fn selects(selection: &str, seq: i64, layer: i32, stage: &str) -> bool {
    parse(selection).tokens(stage, layer).wants(seq, 0)
}

#[test]
fn terms_are_joined_by_and_and_alternatives_by_or() {
    let s = "seq=0-2,layer=6,stage=attn_*;layer=-1";
    assert!(selects(s, 0, 6, "attn_out") && selects(s, 2, 6, "attn_norm"));
    assert!(selects(s, 99, -1, "logits"));
    assert!(!selects(s, 3, 6, "attn_out") && !selects(s, 0, 5, "attn_out") && !selects(s, 0, 6, "q_proj"));
    assert!(!selects(s, 0, -2, "all_layers_out"));
}

#[test]
fn numbers_are_single_listed_in_ranges_or_open() {
    let seqs = |s: &str| (0..12).filter(|&n| selects(s, n, 0, "x")).collect::<Vec<i64>>();
    assert_eq!(seqs("seq=3"), [3]);
    assert_eq!(seqs("seq=0|3|7-9"), [0, 3, 7, 8, 9]);
    assert_eq!(seqs("seq=10-"), [10, 11]);
    assert_eq!(seqs("seq=5-9|4|4-6|11"), [4, 5, 6, 7, 8, 9, 11], "in any order");
    assert_eq!(seqs("seq!=1-9"), [0, 10, 11]);
    assert_eq!(seqs("seq!=0|2-"), [1]);
    assert_eq!(seqs("seq=2-8,seq!=3|5-6"), [2, 4, 7, 8], "terms of the same key");
    assert_eq!(seqs("seq=9223372036854775807|0"), [0]);
    let layers = |s: &str| (-2..4).filter(|&n| selects(s, 0, n, "x")).collect::<Vec<i32>>();
    assert_eq!(layers("layer=-1"), [-1]);
    assert_eq!(layers("layer=-2|1-"), [-2, 1, 2, 3]);
    assert_eq!(layers("layer!=-1|2"), [-2, 0, 1, 3]);
    let requests = parse("request=1,seq=4");
    let tokens = requests.tokens("x", 0);
    assert!(tokens.wants(4, 1) && !tokens.wants(4, 0) && !tokens.wants(5, 1));
}

#[test]
fn stages_are_words_or_globs_of_which_each_stands_for_the_whole_stage() {
    let stage = |s: &str, stage: &str| selects(s, 0, 0, stage);
    assert!(stage("stage=attn_*", "attn_") && !stage("stage=attn_", "attn_out"));
    assert!(stage("stage=?_rope|*_cache", "k_rope") && stage("stage=?_rope|*_cache", "v_cache"));
    assert!(!stage("stage=?_rope", "_rope") && !stage("stage=*norm", "attn_normal"));
    assert!(stage("stage=a*b*c", "axxbyyc") && !stage("stage=a*b", "abc"));
    assert!(!stage("stage!=attn_*|q_?roj", "q_proj") && stage("stage!=attn_*|q_?roj", "q_rope"));
    assert!(!stage("stage=*_proj,stage!=q_*", "q_proj") && stage("stage=*_proj,stage!=q_*", "k_proj"));
    assert!(
        stage("stage=my.own-stage", "my.own-stage"),
        "outside the vocabulary"
    );
    assert!(
        stage("stage=?", "ü") && stage("stage=a??", "aüü"),
        "one character, not one byte"
    );
}

#[test]
fn blanks_may_stand_around_every_token() {
    let spaced = " seq = 0 - 2 | 4 , layer = -1 ; stage != q_* | k_* , seq=7 - ";
    assert_eq!(
        parse(spaced).to_string(),
        "seq=0-2|4,layer=-1;stage!=q_*|k_*,seq=7-"
    );
}

#[test]
fn the_empty_expression_selects_everything() {
    for text in ["", "  \t"] {
        assert!(parse(text).is_everything() && selects(text, 7, -2, "anything"));
        assert_eq!(parse(text).to_string(), "");
    }
    assert!(!parse("seq=0-").is_everything());
}

#[test]
fn whether_any_of_many_positions_is_selected_is_told_at_once() {
    let s = parse("seq=3|10-12,request=0;seq=20-");
    let tokens = s.tokens("x", 0);
    assert!(!tokens.wants_any(4..=9, 0) && tokens.wants_any(4..=10, 0) && tokens.wants_any(0..=5, 0));
    assert!(!tokens.wants_any(0..=19, 1) && tokens.wants_any(0..=i64::MAX, 1));
    assert!(s.tokens("x", 0).wants(11, 0) && !parse("layer=1").tokens("x", 0).wants_any(0..=9, 0));
}

#[test]
fn patterns_that_name_no_known_stage_are_told() {
    let s = parse("stage=atn_out|q_*|logits;stage!=zzz;stage=mine");
    assert_eq!(
        s.strangers(&["attn_out", "q_proj", "logits"]),
        ["atn_out", "mine"]
    );
}

/// The problem, its column and its token.
fn refused(text: &str) -> (Problem, usize, String) {
    let error = text.parse::<Selection>().expect_err(text);
    let told = error.to_string();
    assert!(
        told.contains(&format!("column {}", error.column())) && told.contains(&format!("{text:?}")),
        "{told}"
    );
    (error.problem().clone(), error.column(), error.token().to_owned())
}

#[test]
fn each_wrong_expression_is_refused_with_its_place() {
    let cases = [
        // nothing around a divider
        (";", Problem::EmptyAlternative, 1, ""),
        ("seq=1;", Problem::EmptyAlternative, 7, ""),
        ("seq=1; ;layer=2", Problem::EmptyAlternative, 8, ""),
        (",seq=1", Problem::EmptyTerm, 1, ""),
        ("seq=1,", Problem::EmptyTerm, 7, ""),
        ("seq=1,;layer=2", Problem::EmptyTerm, 7, ""),
        // keys and operators
        ("=3", Problem::MissingKey, 1, "=3"),
        ("!seq=3", Problem::MissingKey, 1, "!seq=3"),
        ("|", Problem::MissingKey, 1, "|"),
        ("seq=1,laye=3", Problem::UnknownKey, 7, "laye"),
        ("Layer=3", Problem::UnknownKey, 1, "Layer"),
        ("seq", Problem::MissingOperator(Key::Seq), 4, ""),
        ("seq 3", Problem::MissingOperator(Key::Seq), 5, "3"),
        ("layer!3", Problem::MissingOperator(Key::Layer), 6, "!3"),
        // values
        ("seq=,layer=six", Problem::MissingValue(Key::Seq), 5, ""),
        ("stage=a|", Problem::MissingValue(Key::Stage), 9, ""),
        ("layer!= ;seq=1", Problem::MissingValue(Key::Layer), 9, ""),
        ("stage=!a", Problem::NegatedValue(Key::Stage), 7, "!a"),
        ("seq=1|!2", Problem::NegatedValue(Key::Seq), 7, "!2"),
        ("seq=0,layer=six", Problem::NotANumber(Key::Layer), 13, "six"),
        ("seq=0..5", Problem::NotANumber(Key::Seq), 5, "0..5"),
        ("seq=+1", Problem::NotANumber(Key::Seq), 5, "+1"),
        ("seq=3-x", Problem::NotANumber(Key::Seq), 7, "x"),
        ("layer=- 1", Problem::NotANumber(Key::Layer), 7, "-"),
        ("seq=١", Problem::NotANumber(Key::Seq), 5, "١"),
        ("seq=-1", Problem::OutOfRange(Key::Seq), 5, "-1"),
        ("layer=-3", Problem::OutOfRange(Key::Layer), 7, "-3"),
        (
            "layer=2147483648",
            Problem::OutOfRange(Key::Layer),
            7,
            "2147483648",
        ),
        ("request=-1", Problem::OutOfRange(Key::Request), 9, "-1"),
        (
            "seq=9223372036854775808",
            Problem::OutOfRange(Key::Seq),
            5,
            "9223372036854775808",
        ),
        ("seq=5-3", Problem::ReversedRange, 5, "5-3"),
        ("layer=-1-3", Problem::NegativeRange, 7, "-1-3"),
        ("layer=-2-", Problem::NegativeRange, 7, "-2-"),
        ("layer=0--1", Problem::NegativeRange, 7, "0--1"),
        ("stage=a[b]", Problem::StageCharacter, 8, "["),
        ("stage=ü", Problem::StageCharacter, 7, "ü"),
        ("stage==a", Problem::StageCharacter, 7, "="),
        // behind a value
        ("layer=6 stage=q_*", Problem::Unexpected, 9, "stage=q_*"),
        ("seq=1=2", Problem::Unexpected, 6, "=2"),
        ("stage=a b", Problem::Unexpected, 9, "b"),
        ("ü=1", Problem::UnknownKey, 1, "ü"),
        // what selects nothing
        (
            "layer=3;seq=1 , seq=2 ;",
            Problem::Contradiction(Key::Seq),
            9,
            "seq=1 , seq=2",
        ),
        (
            "layer!=0-|-1|-2",
            Problem::Contradiction(Key::Layer),
            1,
            "layer!=0-|-1|-2",
        ),
        (
            "request=0,request!=0",
            Problem::Contradiction(Key::Request),
            1,
            "request=0,request!=0",
        ),
        ("stage!=*", Problem::Contradiction(Key::Stage), 1, "stage!=*"),
        (
            "stage=a|b,stage!=?",
            Problem::Contradiction(Key::Stage),
            1,
            "stage=a|b,stage!=?",
        ),
    ];
    for (text, problem, column, token) in cases {
        assert_eq!(refused(text), (problem, column, token.to_owned()), "{text}");
    }
    let many = vec!["seq=1"; MAX_ALTERNATIVES];
    parse(&many.join(";"));
    let more = format!("{};seq=2", many.join(";"));
    assert_eq!(
        refused(&more),
        (Problem::TooManyAlternatives, 6 * 64 + 1, "seq=2".into())
    );
}

#[test]
fn an_excerpt_points_at_the_bad_token() {
    let error = "stage=ä".parse::<Selection>().expect_err("refused");
    assert_eq!(error.excerpt(), "  stage=ä\n        ^");
    let error = "layer=6,\nstage=a,seq=xyz"
        .parse::<Selection>()
        .expect_err("refused");
    let carets = format!("{}^^^", " ".repeat("layer=6, stage=a,seq=".len()));
    assert_eq!(error.excerpt(), format!("  layer=6, stage=a,seq=xyz\n  {carets}"));
    let error = "seq=".parse::<Selection>().expect_err("refused");
    assert_eq!(error.excerpt(), "  seq=\n      ^");
}

/// Text that is often, but not always, an expression.
fn near() -> impl Strategy<Value = String> {
    let token = prop_oneof![
        4 => proptest::sample::select(vec!["seq", "layer", "stage", "request"]).prop_map(str::to_owned),
        6 => proptest::sample::select(vec!["=", "!=", ",", ";", "|", "-", " ", "!"]).prop_map(str::to_owned),
        4 => "[0-9]{1,3}",
        2 => "[a-c_*?.-]{0,4}",
        1 => "\\PC{0,2}",
    ];
    proptest::collection::vec(token, 0..12).prop_map(|tokens| tokens.concat())
}

/// An expression.
fn expression() -> impl Strategy<Value = String> {
    let number = prop_oneof![
        (0..6i64).prop_map(|n| n.to_string()),
        (0..6i64).prop_map(|n| format!("{n}-")),
        (0..6i64, 0..4i64).prop_map(|(n, more)| format!("{n} - {}", n + more)),
    ];
    let layer = prop_oneof![3 => number.clone(), 1 => Just("-1".to_owned()), 1 => Just("-2".to_owned())];
    let list = |value: BoxedStrategy<String>| {
        proptest::collection::vec(value, 1..4).prop_map(|values| values.join("|"))
    };
    let term = prop_oneof![
        ("seq *!?= ?", list(number.clone().boxed())),
        ("request!?=", list(number.boxed())),
        ("layer!?=", list(layer.boxed())),
        ("stage!?=", list("[ab_*?]{1,3}".boxed())),
    ]
    .prop_map(|(key, values)| format!("{key}{values}"));
    let terms = proptest::collection::vec(term, 1..4).prop_map(|terms| terms.join(", "));
    proptest::collection::vec(terms, 1..4).prop_map(|alternatives| alternatives.join(" ;"))
}

/// The same question, answered from the words of the printed expression alone.
fn plainly(selection: &Selection, key: (i64, i32, i32, &str)) -> bool {
    let text = selection.to_string();
    text.split(';').any(|alternative| {
        alternative.split(',').all(|term| {
            let (word, values) = term.split_once('=').expect("an operator");
            let (name, excludes) = match word.strip_suffix('!') {
                Some(name) => (name, true),
                None => (word, false),
            };
            let number = match name {
                "seq" => key.0,
                "layer" => key.1.into(),
                _ => key.2.into(),
            };
            let holds = values.split('|').any(|value| match (name, value.parse::<i64>()) {
                ("stage", _) => glob(value, key.3),
                (_, Ok(n)) => n == number,
                (_, Err(_)) => match value.split_once('-').expect("a range") {
                    (first, "") => first.parse::<i64>().expect("digits") <= number,
                    (first, last) => (first.parse::<i64>().expect("digits")..=last.parse().expect("digits"))
                        .contains(&number),
                },
            });
            holds != excludes
        })
    })
}

proptest! {
    #[test]
    fn any_text_is_parsed_or_refused_with_a_place_in_it(text in prop_oneof![".*", near()]) {
        match text.parse::<Selection>() {
            Ok(selection) => prop_assert_eq!(selection.to_string().parse(), Ok(selection)),
            Err(error) => {
                prop_assert!(text.contains(error.token()));
                prop_assert!(error.column() <= text.chars().count() + 1);
                prop_assert!(!error.to_string().is_empty() && error.excerpt().contains('^'));
            }
        }
    }

    #[test]
    fn a_printed_selection_parses_to_itself_and_means_what_its_words_say(
        text in expression(),
        keys in proptest::collection::vec((0i64..8, -2i32..8, 0i32..8, "[ab_]{1,3}"), 20),
    ) {
        let Ok(selection) = text.parse::<Selection>() else {
            let error = text.parse::<Selection>().expect_err("refused");
            prop_assert!(matches!(error.problem(), Problem::Contradiction(_)), "{error}");
            return Ok(());
        };
        prop_assert_eq!(selection.to_string().parse::<Selection>(), Ok(selection.clone()));
        for (seq, layer, request, stage) in keys {
            let tokens = selection.tokens(&stage, layer);
            let wanted = tokens.wants(seq, request);
            prop_assert_eq!(wanted, plainly(&selection, (seq, layer, request, &stage)), "{:?}", (seq, layer, request, stage));
            let any = (2..=seq.max(2)).any(|seq| tokens.wants(seq, request));
            prop_assert_eq!(any, tokens.wants_any(2..=seq.max(2), request));
            prop_assert!(!tokens.is_empty() || !wanted);
        }
    }
}

proptest! {
    #[test]
    fn a_glob_of_stars_matches_its_own_text(text in "[a-c_]{0,8}", cut in 0usize..9) {
        let cut = cut.min(text.len());
        prop_assert!(glob(&text, &text), "the text itself");
        let pattern = format!("{}*", &text[..cut]);
        prop_assert!(glob(&pattern, &text), "a prefix");
        let pattern = format!("*{}", &text[cut..]);
        prop_assert!(glob(&pattern, &text), "a suffix");
    }
}

#[test]
fn a_glob_is_anchored_at_both_ends() {
    assert!(glob("*", "") && glob("a*b*c", "axxbyyc") && glob("attn_???", "attn_out"));
    assert!(!glob("a*b", "abc") && !glob("", "a") && !glob("?", ""));
}

#[test]
fn a_glob_counts_characters_and_not_bytes() {
    assert!(glob("é?ü*", "éßü") && glob("*ü", "éßü") && !glob("??", "é"));
}
