//! Text to token ids and back, with the ids that llama.cpp gives.
//!
//! The tokenizer is built from the GGUF's own metadata, so that no second file is
//! needed and both engines of a comparison read the same vocabulary.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use tokenizers::models::bpe::{BPE, Vocab};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::digits::Digits;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::{AddedToken, PreTokenizerWrapper};

use crate::error::Error;
use bitnet_gguf::Gguf;

const MODEL_KEY: &str = "tokenizer.ggml.model";
const PRE_KEY: &str = "tokenizer.ggml.pre";

/// `tokenizer.ggml.token_type` of tokens that are no text of their own.
const UNKNOWN: i32 = 2;
const CONTROL: i32 = 3;
const USER_DEFINED: i32 = 4;

/// Tokens that llama.cpp takes for control tokens that end a generation, by their text and whatever
/// the file says of them.
const END_TEXTS: &[&str] = &[
    "<|eot_id|>",
    "<|im_end|>",
    "<|end|>",
    "<|return|>",
    "<|call|>",
    "<|flush|>",
    "<|calls|>",
    "<end_of_turn>",
    "<|endoftext|>",
    "</s>",
    "<|eom_id|>",
    "<EOT>",
    "_<EOT>",
    "[EOT]",
    "[EOS]",
    "<|end_of_text|>",
    "<end_of_utterance>",
    "<eos>",
    "<reponame>",
    "<|repo_name|>",
    "<|fim_repo|>",
    "<|file_sep|>",
    "<|fim_pad|>",
];

/// A tokenizer with the model's special tokens.
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    /// Put before every text.
    bos: Option<u32>,
    /// Let a tokenizer.json add its own first tokens, when the GGUF does not say.
    own_specials: bool,
    end: BTreeSet<u32>,
}

impl Tokenizer {
    /// Builds the tokenizer that `gguf` describes; `None` when it describes none.
    ///
    /// # Errors
    /// [`Error::UnknownTokenizer`] for a kind that is not built in, [`Error::BadTokenizer`] when the
    /// vocabulary and the merges contradict each other, [`Error::Gguf`].
    pub fn from_gguf(gguf: &Gguf) -> Result<Option<Self>, Error> {
        let unknown = |key, value: &str, supported| Error::UnknownTokenizer {
            path: gguf.path().to_owned(),
            key,
            value: value.to_owned(),
            supported,
        };
        match gguf.str_opt(MODEL_KEY)? {
            None | Some("none" | "no_vocab") => return Ok(None),
            Some("gpt2") => {}
            Some(other) => return Err(unknown(MODEL_KEY, other, "gpt2")),
        }
        let pre: PreTokenizerWrapper = match gguf.str(PRE_KEY)? {
            "smollm" => {
                let byte_level = ByteLevel::new(false, true, true);
                Sequence::new(vec![Digits::new(true).into(), byte_level.into()]).into()
            }
            other => return Err(unknown(PRE_KEY, other, "smollm")),
        };
        let tokens = gguf.strings("tokenizer.ggml.tokens")?;
        let types = gguf.i32s_opt("tokenizer.ggml.token_type")?;
        let bad = |reason: String| Error::BadTokenizer {
            path: gguf.path().to_owned(),
            reason,
        };
        if let Some(types) = types
            && types.len() != tokens.len()
        {
            return Err(bad(format!(
                "{} tokens but {} token types",
                tokens.len(),
                types.len()
            )));
        }
        let bpe = bpe(tokens, gguf.strings("tokenizer.ggml.merges")?).map_err(bad)?;
        let mut inner = tokenizers::Tokenizer::new(bpe);
        inner.with_pre_tokenizer(Some(pre));
        inner.with_decoder(Some(ByteLevel::new(false, true, true)));
        let added = tokens.iter().enumerate().filter_map(|(id, token)| {
            let token_type = types.map_or(1, |types| types[id]);
            let special = matches!(token_type, UNKNOWN | CONTROL) || END_TEXTS.contains(&token.as_str());
            let added = special || token_type == USER_DEFINED;
            added.then(|| AddedToken::from(token, special).normalized(false))
        });
        let added: Vec<_> = added.collect();
        inner.add_tokens(added).map_err(|error| bad(error.to_string()))?;
        Self::finish(inner, Some(gguf)).map(Some)
    }

    /// Reads a `tokenizer.json`. Where `gguf` says whether a BOS token is put before the text and which
    /// tokens end a generation, the GGUF counts, as it does for llama.cpp.
    ///
    /// # Errors
    /// [`Error::Open`] when the file cannot be read, [`Error::BadTokenizer`] when it is no tokenizer.
    pub fn from_file(path: &Path, gguf: Option<&Gguf>) -> Result<Self, Error> {
        let bytes = std::fs::read(path).map_err(|source| Error::Open {
            path: path.to_owned(),
            source,
        })?;
        let bad = |reason: String| Error::BadTokenizer {
            path: PathBuf::from(path),
            reason,
        };
        check_json_merges(&bytes).map_err(bad)?;
        let inner = tokenizers::Tokenizer::from_bytes(&bytes).map_err(|error| bad(error.to_string()))?;
        Self::finish(inner, gguf)
    }

    fn finish(mut inner: tokenizers::Tokenizer, gguf: Option<&Gguf>) -> Result<Self, Error> {
        inner.set_encode_special_tokens(true);
        let mut end: BTreeSet<u32> = END_TEXTS
            .iter()
            .filter_map(|text| inner.token_to_id(text))
            .collect();
        let (mut bos, mut own_specials) = (None, true);
        if let Some(gguf) = gguf {
            for key in ["eos_token_id", "eot_token_id", "eom_token_id"] {
                end.extend(gguf.u32_opt(&format!("tokenizer.ggml.{key}"))?);
            }
            if let Some(add_bos) = gguf.bool_opt("tokenizer.ggml.add_bos_token")? {
                own_specials = false;
                if add_bos {
                    bos = Some(gguf.u32("tokenizer.ggml.bos_token_id")?);
                }
            }
        }
        Ok(Self {
            inner,
            bos,
            own_specials,
            end,
        })
    }

    /// The ids of `text`, with the BOS token first where the model wants one. Control tokens written in the
    /// text (`<|im_start|>`) become those tokens when `special` (llama.cpp's `parse_special`) and stay plain
    /// text otherwise.
    ///
    /// # Errors
    /// [`Error::Tokenize`].
    pub fn encode(&self, text: &str, special: bool) -> Result<Vec<u32>, Error> {
        let encoding = if special {
            // The switch is a state of the tokenizer; a copy takes milliseconds and is rarely needed.
            let mut inner = self.inner.clone();
            inner.set_encode_special_tokens(false);
            inner.encode_fast(text, self.own_specials)
        } else {
            self.inner.encode_fast(text, self.own_specials)
        };
        let encoding = encoding.map_err(|error| Error::Tokenize(error.to_string()))?;
        Ok(self.bos.iter().chain(encoding.get_ids()).copied().collect())
    }

    /// The text of `ids`; bytes that are no UTF-8 become U+FFFD. Control tokens are left out unless
    /// `with_special`.
    ///
    /// # Errors
    /// [`Error::Tokenize`].
    pub fn decode(&self, ids: &[u32], with_special: bool) -> Result<String, Error> {
        self.inner
            .decode(ids, !with_special)
            .map_err(|error| Error::Tokenize(error.to_string()))
    }

    /// Whether `id` ends a generation.
    pub fn is_end(&self, id: u32) -> bool {
        self.end.contains(&id)
    }

    /// Tokens of the vocabulary, the added ones included.
    pub fn vocab_size(&self) -> usize {
        self.inner.get_vocab_size(true)
    }

    /// Decodes ids one by one.
    pub fn stream(&self, with_special: bool) -> TextStream<'_> {
        TextStream {
            tokenizer: self,
            with_special,
            ids: Vec::new(),
            context: 0,
            shown: String::new(),
        }
    }
}

/// Text of ids that come one by one. A character whose bytes lie in several tokens comes out with the last.
pub struct TextStream<'a> {
    tokenizer: &'a Tokenizer,
    with_special: bool,
    /// Some ids already shown, which a decoder may need to space the next one, and those held back.
    ids: Vec<u32>,
    /// How many of `ids` have been shown.
    context: usize,
    /// The text of the ones shown.
    shown: String,
}

/// No UTF-8 character has more bytes, so more held-back tokens than this are no unfinished character.
const MAX_HELD: usize = 4;

impl TextStream<'_> {
    /// The text that `id` completes, empty when it only begins a character.
    ///
    /// # Errors
    /// [`Error::Tokenize`].
    pub fn push(&mut self, id: u32) -> Result<String, Error> {
        self.ids.push(id);
        let text = self.tokenizer.decode(&self.ids, self.with_special)?;
        if text.ends_with(char::REPLACEMENT_CHARACTER) && self.ids.len() - self.context < MAX_HELD {
            return Ok(String::new());
        }
        self.show(text)
    }

    /// The rest: an unfinished character as U+FFFD.
    ///
    /// # Errors
    /// [`Error::Tokenize`].
    pub fn finish(mut self) -> Result<String, Error> {
        let text = self.tokenizer.decode(&self.ids, self.with_special)?;
        self.show(text)
    }

    fn show(&mut self, text: String) -> Result<String, Error> {
        let new = text.strip_prefix(self.shown.as_str()).unwrap_or(&text).to_owned();
        self.ids.drain(..self.context);
        self.context = self.ids.len();
        self.shown = self.tokenizer.decode(&self.ids, self.with_special)?;
        Ok(new)
    }
}

/// A BPE model of `tokens` (index = id) and `merges` ("left right" in order of rank).
fn bpe(tokens: &[String], merges: &[String]) -> Result<BPE, String> {
    let count = u32::try_from(tokens.len()).map_err(|_| "more than 2^32 tokens".to_owned())?;
    let vocab: Vocab = tokens.iter().cloned().zip(0..count).collect();
    let mut pairs = Vec::with_capacity(merges.len());
    for (rank, merge) in merges.iter().enumerate() {
        // A token may begin with a space, so the separator is looked for behind the first character.
        let split = merge.char_indices().skip(1).find(|&(_, c)| c == ' ');
        let Some((at, _)) = split else {
            return Err(format!(
                "merge {rank} ({merge:?}) is not two tokens with a space between"
            ));
        };
        let (left, right) = (&merge[..at], &merge[at + 1..]);
        for token in [left, right, &format!("{left}{right}")] {
            if !vocab.contains_key(token) {
                return Err(format!(
                    "merge {rank} ({merge:?}) needs the token {token:?}, which is not there"
                ));
            }
        }
        pairs.push((left.to_owned(), right.to_owned()));
    }
    BPE::builder()
        .vocab_and_merges(vocab, pairs)
        .build()
        .map_err(|error| error.to_string())
}

/// The `tokenizers` crate panics on merges whose result is longer than every token, so they are looked at first.
fn check_json_merges(bytes: &[u8]) -> Result<(), String> {
    let json: serde_json::Value = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
    let model = &json["model"];
    let (Some(vocab), Some(merges)) = (model["vocab"].as_object(), model["merges"].as_array()) else {
        return Ok(());
    };
    let prefix = model["continuing_subword_prefix"].as_str().unwrap_or_default();
    for merge in merges {
        let pair = match merge {
            serde_json::Value::String(text) => text.split_once(' '),
            serde_json::Value::Array(pair) => match pair.as_slice() {
                [left, right] => left.as_str().zip(right.as_str()),
                _ => None,
            },
            _ => None,
        };
        let merged = pair.and_then(|(left, right)| {
            let right = if prefix.is_empty() {
                right
            } else {
                right.strip_prefix(prefix)?
            };
            Some(format!("{left}{right}"))
        });
        if !merged.is_some_and(|merged| vocab.contains_key(&merged)) {
            return Err(format!("merge {merge} does not give a token of the vocabulary"));
        }
    }
    Ok(())
}
