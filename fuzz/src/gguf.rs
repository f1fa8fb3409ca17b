//! GGUF files, and models that claim what their files do not hold.

use bitnet_gguf::Gguf;
use bitnet_referee::{Arithmetic, Recorded, Referee, Token};
use bitnet_trace_schema::DType;

/// An engine that recorded rows of some length at every stage.
struct Rows(usize);

impl Recorded for Rows {
    fn row(&self, _stage: &str, _layer: i32, _token: Token) -> Option<Vec<f64>> {
        Some(vec![0.5; self.0])
    }

    fn id(&self, token: Token) -> Option<u32> {
        u32::try_from(token.seq).ok()
    }
}

/// A file is opened or refused with a reason; of one that is opened every tensor can be read, and its model is
/// refereed or refused, each stage of it, whatever rows are said to have been recorded.
pub fn check(data: &[u8]) {
    let mut file = tempfile::NamedTempFile::new().expect("a file");
    std::io::Write::write_all(&mut file, data).expect("room for it");
    let gguf = match Gguf::open(file.path()) {
        Ok(gguf) => gguf,
        Err(error) => return assert!(!error.to_string().is_empty()),
    };
    for tensor in gguf.tensors() {
        let bytes = gguf.read_tensor(tensor).expect("a tensor lies in its file");
        assert_eq!(bytes.len() as u64, tensor.byte_len);
    }
    let referee = match Referee::open(file.path()) {
        Ok(referee) => referee,
        Err(error) => return assert!(!error.to_string().is_empty()),
    };
    let tokens = [0, 3].map(|seq| Token { request: 0, seq });
    for (layer, stage) in referee.stages().into_iter().take(64) {
        for rows in [0, 1, 32] {
            let arithmetic = Arithmetic::exact(DType::F32);
            if let Ok(rows) = referee.exact(stage, layer, &tokens, &Rows(rows), &arithmetic) {
                assert_eq!(rows.len(), tokens.len());
            }
        }
    }
}
