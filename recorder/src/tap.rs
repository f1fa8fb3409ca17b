/// Where a tensor stands: its key, and how it divides into tokens.
///
/// A record is one token's slice. A tap without a [token axis](Tap::token_axis) says that the tensor is
/// the slice of the token at position `seq`; with one, slice i belongs to position `seq + i`
/// (or `positions[i]`).
///
/// ```
/// use bitnet_trace::Tap;
///
/// let one_token = Tap::new("attn_norm", 3, 17);
/// let batch = Tap::new("q_rope", 3, 0).token_axis(0).name("Qcur").op("ROPE");
/// // [heads, tokens, keys]: split axis 1, and of axis 2 keep the keys that token i can see
/// let scores = Tap::new("attn_scores", 3, 0).token_axis(1).causal_axis(2);
/// # let _ = (one_token, batch, scores);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use = "a tap does nothing until it is recorded"]
#[cfg_attr(not(feature = "trace"), allow(dead_code))]
pub struct Tap<'a> {
    pub(crate) stage: &'a str,
    pub(crate) layer: i32,
    pub(crate) seq: i64,
    pub(crate) name: &'a str,
    pub(crate) op: &'a str,
    pub(crate) request: i32,
    pub(crate) positions: Option<&'a [i64]>,
    pub(crate) requests: Option<&'a [i32]>,
    pub(crate) token_axis: Option<usize>,
    pub(crate) causal_axis: Option<usize>,
}

impl<'a> Tap<'a> {
    /// A tensor of `stage` in `layer`: of the token at position `seq`, or of the tokens from there on.
    ///
    /// `layer` counts from 0; -1 where there is none (embeddings, final norm, logits), -2 for
    /// `all_layers_out`. `seq` counts from 0.
    #[inline]
    pub const fn new(stage: &'a str, layer: i32, seq: i64) -> Self {
        Self {
            stage,
            layer,
            seq,
            name: "",
            op: "",
            request: 0,
            positions: None,
            requests: None,
            token_axis: None,
            causal_axis: None,
        }
    }

    /// The axis of the tensor that counts tokens; it does not appear in the records' shapes.
    #[inline]
    pub const fn token_axis(mut self, axis: usize) -> Self {
        self.token_axis = Some(axis);
        self
    }

    /// An axis that counts keys: the slice of position p keeps entries 0 to p of it. The axis is numbered
    /// in the tensor as it is given, with its token axis.
    #[inline]
    pub const fn causal_axis(mut self, axis: usize) -> Self {
        self.causal_axis = Some(axis);
        self
    }

    /// The engine's own name of the tensor.
    #[inline]
    pub const fn name(mut self, name: &'a str) -> Self {
        self.name = name;
        self
    }

    /// The engine's name of the operation that made the tensor.
    #[inline]
    pub const fn op(mut self, op: &'a str) -> Self {
        self.op = op;
        self
    }

    /// Which sequence of a batch all tokens belong to; 0 if not called.
    #[inline]
    pub const fn request(mut self, request: i32) -> Self {
        self.request = request;
        self
    }

    /// Which sequence of a batch each token belongs to, one entry a token.
    #[inline]
    pub const fn requests(mut self, requests: &'a [i32]) -> Self {
        self.requests = Some(requests);
        self
    }

    /// The position of each token, one entry a token, where they do not follow each other from `seq`.
    #[inline]
    pub const fn positions(mut self, positions: &'a [i64]) -> Self {
        self.positions = Some(positions);
        self
    }
}
