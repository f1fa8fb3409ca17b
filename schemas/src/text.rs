use serde::{Serialize, Serializer};
use std::borrow::Borrow;
use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::ops::Deref;
use std::sync::Arc;

/// A short text that many records of a run have, such as the name of a stage: a copy of it shares the bytes.
///
/// ```
/// use bitnet_trace_schema::Text;
/// let stage = Text::from("attn_norm");
/// let same = stage.clone();
/// assert!(same == "attn_norm" && same.starts_with("attn") && std::ptr::eq(&*stage, &*same));
/// ```
#[derive(Clone, Default)]
pub struct Text(Option<Arc<str>>);

impl Text {
    /// The empty text.
    pub const fn new() -> Self {
        Self(None)
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        self.0.as_deref().unwrap_or_default()
    }

    /// Makes it `text`, where it is another.
    pub fn set(&mut self, text: &str) {
        if self.as_str() != text {
            *self = text.into();
        }
    }
}

impl Deref for Text {
    type Target = str;

    fn deref(&self) -> &str {
        self.as_str()
    }
}

impl Borrow<str> for Text {
    fn borrow(&self) -> &str {
        self
    }
}

impl AsRef<str> for Text {
    fn as_ref(&self) -> &str {
        self
    }
}

impl From<&str> for Text {
    fn from(text: &str) -> Self {
        Self((!text.is_empty()).then(|| text.into()))
    }
}

impl From<&String> for Text {
    fn from(text: &String) -> Self {
        text.as_str().into()
    }
}

impl From<String> for Text {
    fn from(text: String) -> Self {
        text.as_str().into()
    }
}

impl From<Text> for String {
    fn from(text: Text) -> Self {
        text.as_str().to_owned()
    }
}

impl PartialEq for Text {
    fn eq(&self, other: &Self) -> bool {
        let shared = match (&self.0, &other.0) {
            (Some(a), Some(b)) => Arc::ptr_eq(a, b),
            _ => false,
        };
        shared || self.as_str() == other.as_str()
    }
}

impl Eq for Text {}

impl PartialEq<str> for Text {
    fn eq(&self, other: &str) -> bool {
        self.as_str() == other
    }
}

impl PartialEq<&str> for Text {
    fn eq(&self, other: &&str) -> bool {
        self.as_str() == *other
    }
}

impl PartialEq<String> for Text {
    fn eq(&self, other: &String) -> bool {
        self.as_str() == other
    }
}

impl PartialEq<Text> for str {
    fn eq(&self, other: &Text) -> bool {
        self == other.as_str()
    }
}

impl PartialEq<Text> for &str {
    fn eq(&self, other: &Text) -> bool {
        *self == other.as_str()
    }
}

impl PartialEq<Text> for String {
    fn eq(&self, other: &Text) -> bool {
        self == other.as_str()
    }
}

impl PartialOrd for Text {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Text {
    fn cmp(&self, other: &Self) -> Ordering {
        self.as_str().cmp(other)
    }
}

// As a `str` has it: a map of texts is asked by one.
impl Hash for Text {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.as_str().hash(state);
    }
}

impl fmt::Debug for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
}

impl fmt::Display for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self.as_str(), f)
    }
}

impl Serialize for Text {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn a_text_is_what_its_string_is() {
        for (a, b) in [("", ""), ("", "a"), ("b", "a"), ("ffn_up", "ffn_up")] {
            let (x, y) = (Text::from(a), Text::from(b.to_owned()));
            assert_eq!((x == y, x.cmp(&y)), (a == b, a.cmp(b)));
            assert_eq!(
                (x.to_string(), format!("{x:?}")),
                (a.to_owned(), format!("{a:?}"))
            );
            assert_eq!(serde_json::to_string(&x).ok(), serde_json::to_string(a).ok());
            assert_eq!(HashSet::from([x]).contains(b), a == b);
        }
        assert_eq!(Text::new(), Text::from(""));
    }

    #[test]
    fn a_text_that_is_set_leaves_its_copies_alone() {
        let mut text = Text::from("q_proj");
        let copy = text.clone();
        text.set("q_proj");
        assert!(std::ptr::eq(&*text, &*copy));
        text.set("k_proj");
        assert_eq!((text.as_str(), copy.as_str()), ("k_proj", "q_proj"));
    }
}
