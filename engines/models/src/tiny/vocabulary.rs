//! A byte-level BPE vocabulary of about 320 tokens.

/// They come first in the vocabulary.
pub(super) const CONTROL_TOKENS: [&str; 4] = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<unk>"];

/// Merges in order of rank; each result is a token. `Ġ` stands for a space.
const MERGES: &str = "h e|i n|Ġ t|Ġ a|e r|o n|r e|a t|Ġt he|Ġ s|Ġ w|o r|e n|Ġ c|i s|o u|i t|e s|a n|n d|\
    Ġ b|Ġ f|e d|Ġ p|in g|Ġ o|Ġa nd|a l|a r|Ġt o|Ġ m|Ġo f|Ġ in|Ġ d|Ġ h|i c|l e|a s|l l|Ġ is|o m|Ġ l|\
    Ġ re|s t|Ġ g|i on|e l|T he|Ġc a|p it|Ġca pit|Ġcapit al|F r|an c|Fr anc|Franc e|Ġ France|it y|Ġc ity";

/// Control tokens, then the 256 bytes, then the merges' results.
pub(super) fn vocabulary() -> (Vec<String>, Vec<String>) {
    let mut tokens: Vec<String> = CONTROL_TOKENS.map(str::to_owned).to_vec();
    tokens.extend(byte_alphabet());
    let merges: Vec<String> = MERGES.split('|').map(str::to_owned).collect();
    tokens.extend(merges.iter().map(|merge| merge.replace(' ', "")));
    (tokens, merges)
}

/// GPT-2's printable character for each byte: itself where printable, else 256 + n.
fn byte_alphabet() -> Vec<String> {
    let mut next = 256;
    let to_char = |byte: u8| {
        let code = match byte {
            b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF => u32::from(byte),
            _ => {
                next += 1;
                next - 1
            }
        };
        char::from_u32(code).map(String::from)
    };
    (0..=u8::MAX).filter_map(to_char).collect()
}
