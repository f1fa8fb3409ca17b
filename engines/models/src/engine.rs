//! Loading a model and generating with it.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bitnet_trace::Recorder;
use candle_core::Tensor;

use crate::activations::Activations;
use crate::config::Config;
use crate::error::Error;
#[cfg(feature = "faults")]
use crate::fault::Fault;
use crate::fault::Faults;
use crate::kv_cache::{KvCache, KvType};
use crate::model::Model;
use crate::sampler::greedy;
use crate::taps::{RunFacts, Taps};
use crate::tokenizer::Tokenizer;
use bitnet_gguf::Gguf;

/// What to load.
pub struct LoadOptions {
    /// The GGUF file.
    pub model: PathBuf,
    /// A `tokenizer.json` to use in place of the tokenizer in the GGUF.
    pub tokenizer: Option<PathBuf>,
    /// What products with quantised weights do to their activations.
    pub activations: Activations,
    /// Element type of the KV cache.
    pub kv_type: KvType,
    /// Where tensors are recorded; a recorder that is off records nothing and costs nothing.
    pub recorder: Recorder,
    /// Faults to plant.
    #[cfg(feature = "faults")]
    pub faults: Vec<Fault>,
}

impl LoadOptions {
    /// The model at `model` with its own tokenizer.
    pub fn new(model: impl Into<PathBuf>, recorder: Recorder) -> Self {
        Self {
            model: model.into(),
            tokenizer: None,
            activations: Activations::default(),
            kv_type: KvType::default(),
            recorder,
            #[cfg(feature = "faults")]
            faults: Vec::new(),
        }
    }
}

/// A loaded model with one sequence in progress.
pub struct Engine {
    gguf: Gguf,
    model: Model,
    /// `None` where the file gives none; token ids can still be given.
    tokenizer: Option<Arc<Tokenizer>>,
    activations: Activations,
    kv_type: KvType,
    cache: KvCache,
    taps: Taps,
    #[cfg(feature = "faults")]
    faults: Vec<Fault>,
}

/// The text or the ids to start from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Prompt {
    /// Text, for the tokenizer.
    Text(String),
    /// Token ids, taken as they are: no BOS is added.
    Tokens(Vec<u32>),
}

/// How to generate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GenerateOptions {
    /// What to start from.
    pub prompt: Prompt,
    /// Most tokens to generate. The last one is not computed on, so that the positions computed
    /// are those of the prompt and `max_tokens - 1` more.
    pub max_tokens: usize,
    /// The first tokens of the continuation, fed in place of the engine's own choices so that two engines see
    /// the same tokens; `max_tokens` cuts them off, and no end token among them stops the generation.
    pub teacher_force: Vec<u32>,
    /// Most prompt tokens in one forward call; 1 takes the prompt token by token.
    pub batch: usize,
    /// Take control tokens written in the text (`<|im_start|>`) for those tokens.
    pub special: bool,
    /// Go on after an end-of-generation token.
    pub ignore_eos: bool,
}

impl GenerateOptions {
    /// Up to `max_tokens` greedy tokens after `prompt`, in batches of 512.
    pub fn new(prompt: Prompt, max_tokens: usize) -> Self {
        Self {
            prompt,
            max_tokens,
            teacher_force: Vec::new(),
            batch: 512,
            special: false,
            ignore_eos: false,
        }
    }
}

/// What was generated.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Generation {
    /// The prompt's ids, BOS included where the model wants one.
    pub prompt_ids: Vec<u32>,
    /// The ids after the prompt, an end token included.
    pub generated_ids: Vec<u32>,
    /// Time for the prompt.
    pub prompt_time: Duration,
    /// Time for everything after the prompt.
    pub generate_time: Duration,
}

impl Engine {
    /// Loads a model. `progress` is told the bytes of weights read so far and in all.
    ///
    /// # Errors
    /// See [`Error`]: the file is missing, damaged, of an unknown architecture, or its weights do not
    /// fit its metadata; or a fault would change nothing in this model.
    pub fn load(options: LoadOptions, progress: &mut dyn FnMut(u64, u64)) -> Result<Self, Error> {
        let gguf = Gguf::open(&options.model)?;
        let model = Model::load(&gguf, options.activations, progress)?;
        #[cfg(feature = "faults")]
        for fault in &options.faults {
            fault.check(&model)?;
        }
        let tokenizer = match &options.tokenizer {
            Some(path) => Some(Tokenizer::from_file(path, Some(&gguf))?),
            // What is wrong with it is said when a text needs it.
            None => Tokenizer::from_gguf(&gguf).unwrap_or_default(),
        };
        let cache = KvCache::new(&model.config, options.kv_type)?;
        let taps = Taps::new(options.recorder);
        taps.describe_model(&gguf, &model.config.arch, options.tokenizer.as_deref())?;
        Ok(Self {
            gguf,
            model,
            tokenizer: tokenizer.map(Arc::new),
            activations: options.activations,
            kv_type: options.kv_type,
            cache,
            taps,
            #[cfg(feature = "faults")]
            faults: options.faults,
        })
    }

    /// The model's hyperparameters.
    pub fn config(&self) -> &Config {
        &self.model.config
    }

    /// The model's file.
    pub fn gguf(&self) -> &Gguf {
        &self.gguf
    }

    /// Rows of the embedding table, which is also the length of the logits.
    pub fn n_vocab(&self) -> usize {
        self.model.n_vocab
    }

    /// The tokenizer.
    ///
    /// # Errors
    /// Why the model file gives none: [`Error::NoTokenizer`], [`Error::UnknownTokenizer`],
    /// [`Error::BadTokenizer`].
    pub fn tokenizer(&self) -> Result<&Arc<Tokenizer>, Error> {
        if let Some(tokenizer) = &self.tokenizer {
            return Ok(tokenizer);
        }
        Tokenizer::from_gguf(&self.gguf)?;
        Err(Error::NoTokenizer {
            path: self.gguf.path().to_owned(),
        })
    }

    /// The prompt's ids as [`generate`] would start from them.
    ///
    /// # Errors
    /// Those of [`Engine::tokenizer`] and [`Tokenizer::encode`].
    pub fn tokenize(&self, prompt: &Prompt, special: bool) -> Result<Vec<u32>, Error> {
        match prompt {
            Prompt::Text(text) => self.tokenizer()?.encode(text, special),
            Prompt::Tokens(ids) => Ok(ids.clone()),
        }
    }

    /// Logits of every position of `ids`, computed from an empty cache in batches of `batch` tokens.
    /// Returns one row of [`Engine::n_vocab`] values a token.
    ///
    /// # Errors
    /// [`Error::ZeroBatch`], [`Error::TokenOutOfRange`], [`Error::ContextExceeded`].
    pub fn logits(&mut self, ids: &[u32], batch: usize) -> Result<Vec<Vec<f32>>, Error> {
        self.check(ids, ids.len(), batch)?;
        self.cache.clear();
        let mut rows = Vec::with_capacity(ids.len());
        for chunk in ids.chunks(batch) {
            rows.extend(self.forward(chunk, false)?.to_vec2::<f32>()?);
        }
        Ok(rows)
    }

    fn check(&self, ids: &[u32], positions: usize, batch: usize) -> Result<(), Error> {
        if batch == 0 {
            return Err(Error::ZeroBatch);
        }
        let vocab = self.n_vocab();
        if let Some(&id) = ids.iter().find(|&&id| id as usize >= vocab) {
            return Err(Error::TokenOutOfRange { id, vocab });
        }
        let context = self.config().context_length;
        if positions > context {
            return Err(Error::ContextExceeded {
                needed: positions,
                context,
            });
        }
        Ok(())
    }

    fn forward(&mut self, ids: &[u32], last_only: bool) -> Result<Tensor, Error> {
        let first_pos = self.cache.len();
        let pass = self.taps.begin_pass(first_pos, ids);
        #[cfg(feature = "faults")]
        let faults = Faults::new(&self.faults, first_pos, ids.len());
        #[cfg(not(feature = "faults"))]
        let faults = Faults::none();
        let cache = &mut self.cache;
        self.taps.check_replay()?;
        let logits = self.model.forward(ids, cache, last_only, pass, faults)?;
        self.taps.check_replay()?;
        Ok(logits)
    }

    /// The logits of the last of `ids`. All rows are computed only when they are recorded.
    fn step(&mut self, ids: &[u32]) -> Result<Vec<f32>, Error> {
        let last_only = !self.taps.wants_outputs(self.cache.len());
        let logits = self.forward(ids, last_only)?;
        let last = logits.dim(0)? - 1;
        Ok(logits.get(last)?.to_vec1::<f32>()?)
    }
}

/// Generates from an empty cache; `on_token` is called with each id as it is chosen.
///
/// ```no_run
/// use bitnet_models::{Engine, GenerateOptions, LoadOptions, Prompt, generate};
/// use bitnet_trace::Recorder;
///
/// let recorder = Recorder::from_env(bitnet_models::engine_info());
/// let mut engine = Engine::load(LoadOptions::new("model.gguf", recorder), &mut |_, _| {})?;
/// let options = GenerateOptions::new(Prompt::Text("The capital of France is".to_owned()), 4);
/// let generation = generate(&mut engine, &options, &mut |_| {})?;
/// println!("{:?}", generation.generated_ids);
/// # Ok::<(), bitnet_models::Error>(())
/// ```
///
/// # Errors
/// [`Error::EmptyPrompt`], [`Error::ZeroBatch`], [`Error::TokenOutOfRange`], [`Error::ContextExceeded`], and those of
/// [`Engine::tokenize`].
pub fn generate(
    engine: &mut Engine,
    options: &GenerateOptions,
    on_token: &mut dyn FnMut(u32),
) -> Result<Generation, Error> {
    let prompt_ids = engine.tokenize(&options.prompt, options.special)?;
    if prompt_ids.is_empty() {
        return Err(Error::EmptyPrompt);
    }
    let positions = prompt_ids
        .len()
        .saturating_add(options.max_tokens.saturating_sub(1));
    engine.check(&prompt_ids, positions, options.batch)?;
    engine.check(&options.teacher_force, 0, options.batch)?;
    engine.cache.clear();
    engine.describe_run(options, &prompt_ids);

    let start = Instant::now();
    let mut logits = Vec::new();
    for chunk in prompt_ids.chunks(options.batch) {
        logits = engine.step(chunk)?;
    }
    let prompt_time = start.elapsed();

    let mut generated_ids = Vec::new();
    while generated_ids.len() < options.max_tokens {
        let forced = options.teacher_force.get(generated_ids.len());
        let next = forced.copied().or_else(|| greedy(&logits)).unwrap_or_default();
        generated_ids.push(next);
        on_token(next);
        let ends = engine
            .tokenizer
            .as_ref()
            .is_some_and(|tokenizer| tokenizer.is_end(next));
        if generated_ids.len() == options.max_tokens || (ends && forced.is_none() && !options.ignore_eos) {
            break;
        }
        logits = engine.step(&[next])?;
    }
    let generate_time = start.elapsed() - prompt_time;
    Ok(Generation {
        prompt_ids,
        generated_ids,
        prompt_time,
        generate_time,
    })
}

impl Engine {
    fn describe_run(&self, options: &GenerateOptions, prompt_ids: &[u32]) {
        if !self.taps.is_on() {
            return;
        }
        // Ids are described by their text, so that a person reading the manifest knows the prompt.
        let prompt = match &options.prompt {
            Prompt::Text(text) => text.clone(),
            Prompt::Tokens(ids) => match &self.tokenizer {
                Some(tokenizer) => tokenizer.decode(ids, true).unwrap_or_default(),
                None => String::new(),
            },
        };
        self.taps.describe_run(RunFacts {
            batch: options.batch,
            activations: self.activations,
            kv_type: self.kv_type,
            fault: self.fault_text(),
            prompt: &prompt,
            prompt_tokens: prompt_ids.len(),
        });
    }

    #[cfg(feature = "faults")]
    fn fault_text(&self) -> Option<String> {
        let faults: Vec<_> = self.faults.iter().map(Fault::to_string).collect();
        (!faults.is_empty()).then(|| faults.join(" "))
    }

    #[cfg(not(feature = "faults"))]
    fn fault_text(&self) -> Option<String> {
        None
    }
}

/// Threads that the tensor library computes with: `RAYON_NUM_THREADS`, or one a physical core.
pub fn threads() -> usize {
    candle_core::utils::get_num_threads()
}
