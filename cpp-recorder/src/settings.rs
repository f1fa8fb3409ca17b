//! The keys of `bnt_set`.

use bitnet_trace::RunInfo;

/// Puts a value into its place in the manifest; false where it is not of the key's kind.
pub fn set(info: &mut RunInfo, key: &str, value: &str) -> bool {
    match key {
        "" => return false,
        "threads" => return number(value, |n| info.settings.threads = Some(n)),
        "batch" => return number(value, |n| info.settings.batch = Some(n)),
        "prompt_tokens" => return number(value, |n: u64| info.prompt_tokens = Some(n)),
        "flash_attention" => return switch(value, |on| info.settings.flash_attention = Some(on)),
        "graph_split" => return switch(value, |on| info.observation.graph_split = on),
        "positions_counted" => return switch(value, |on| info.observation.positions_counted = on),
        "fusion_may_differ" => return switch(value, |on| info.observation.fusion_may_differ = Some(on)),
        "threads_may_differ" => return switch(value, |on| info.observation.threads_may_differ = Some(on)),
        "kv_type" => info.settings.kv_type = Some(value.to_owned()),
        "fault" => info.settings.fault = Some(value.to_owned()),
        "prompt" => info.prompt = Some(value.to_owned()),
        "model_arch" => info.model.get_or_insert_default().arch = Some(value.to_owned()),
        _ => {
            info.settings.extra.insert(key.to_owned(), value.to_owned());
        }
    }
    true
}

fn number<T: std::str::FromStr>(value: &str, put: impl FnOnce(T)) -> bool {
    value.parse().map(put).is_ok()
}

fn switch(value: &str, put: impl FnOnce(bool)) -> bool {
    match value {
        "on" | "true" | "1" => put(true),
        "off" | "false" | "0" => put(false),
        _ => return false,
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_has_its_place_and_its_kind() {
        let mut info = RunInfo::default();
        for (key, value) in [
            ("threads", "2"),
            ("batch", "512"),
            ("prompt_tokens", "6"),
            ("flash_attention", "off"),
            ("graph_split", "true"),
            ("positions_counted", "1"),
            ("fusion_may_differ", "true"),
            ("threads_may_differ", "off"),
            ("kv_type", "F32"),
            ("fault", "none"),
            ("prompt", "What is 2+2?"),
            ("model_arch", "llama"),
            ("rope_base", "10000"),
        ] {
            assert!(set(&mut info, key, value), "{key}");
        }
        assert_eq!(
            (info.settings.threads, info.settings.batch, info.prompt_tokens),
            (Some(2), Some(512), Some(6))
        );
        assert_eq!(info.settings.flash_attention, Some(false));
        assert!(info.observation.graph_split && info.observation.positions_counted);
        assert_eq!(info.observation.fusion_may_differ, Some(true));
        assert_eq!(info.observation.threads_may_differ, Some(false));
        assert_eq!(info.settings.kv_type.as_deref(), Some("F32"));
        assert_eq!(info.model.and_then(|m| m.arch).as_deref(), Some("llama"));
        assert_eq!(
            info.settings.extra.get("rope_base").map(String::as_str),
            Some("10000")
        );
        let mut info = RunInfo::default();
        for (key, value) in [
            ("threads", "-1"),
            ("batch", "many"),
            ("graph_split", "yes"),
            ("", "x"),
        ] {
            assert!(!set(&mut info, key, value), "{key}");
        }
        assert_eq!(info, RunInfo::default());
    }
}
