//! What the subcommands do.

use std::io::{self, ErrorKind, Write};
use std::sync::Arc;

use anyhow::Result;
use bitnet_models::{
    Engine, GenerateOptions, Generation, LoadOptions, Prompt, TextStream, TinySpec, Tokenizer,
    dequantize_gguf, engine_info, generate, write_tiny_model,
};
use bitnet_trace::Recorder;

use crate::args::{DequantizeArgs, RunArgs, TinyArgs};
use crate::progress::Progress;

pub fn run(args: RunArgs) -> Result<()> {
    if let Some(threads) = args.threads {
        // The tensor library has two thread pools, and reads the size of each from its own variable.
        for variable in ["RAYON_NUM_THREADS", "CANDLE_NUM_THREADS"] {
            // SAFETY: this is the program's only thread so far: parsing the arguments starts none, and the
            // tensor library and the recorder, which do, come after.
            unsafe { std::env::set_var(variable, threads.to_string()) };
        }
    }
    let recorder = recorder();
    let verbose = args.verbose;
    let done = continue_prompt(args, &recorder);
    if let Err(error) = &done {
        // What was recorded is kept, but nobody may take it for a whole run.
        recorder.fail(&format!("{error:#}"));
    }
    seal(&recorder, verbose && done.is_ok());
    done?;
    match recorder.replay_error() {
        Some(error) => Err(bitnet_models::Error::Replay(error.clone()).into()), // known at the end only
        None => Ok(()),
    }
}

fn continue_prompt(args: RunArgs, recorder: &Recorder) -> Result<()> {
    let mut load = LoadOptions::new(&args.model, recorder.clone());
    load.tokenizer = args.tokenizer;
    load.activations = args.activations;
    load.kv_type = args.kv_type;
    #[cfg(feature = "faults")]
    {
        load.faults = args.fault;
    }
    let mut engine = {
        let mut progress = Progress::new("Loading the model");
        Engine::load(load, &mut |done, total| progress.update(done, total))?
    };

    let prompt = match args.prompt {
        Some(text) => Prompt::Text(text),
        None => Prompt::Tokens(args.tokens.unwrap_or_default()),
    };
    let options = GenerateOptions {
        prompt,
        max_tokens: args.max_tokens,
        teacher_force: args.teacher_force,
        batch: args.batch,
        special: args.special,
        ignore_eos: args.ignore_eos,
    };
    // Without a tokenizer (only possible when ids were given) the ids themselves are printed.
    let tokenizer = engine.tokenizer().ok().cloned();
    let mut printer = Printer::new(tokenizer.as_ref(), args.special);
    let generation = generate(&mut engine, &options, &mut |id| printer.push(id))?;
    printer.finish()?;
    if args.verbose {
        report(&generation);
    }
    Ok(())
}

/// Prints the text of ids as they come.
struct Printer<'a> {
    stream: Option<TextStream<'a>>,
    result: Result<()>,
    printed: bool,
}

impl<'a> Printer<'a> {
    fn new(tokenizer: Option<&'a Arc<Tokenizer>>, special: bool) -> Self {
        let stream = tokenizer.map(|tokenizer| tokenizer.stream(special));
        Self {
            stream,
            result: Ok(()),
            printed: false,
        }
    }

    /// Keeps the first failure for the end: the tokens are still to be computed and recorded.
    fn push(&mut self, id: u32) {
        if self.result.is_err() {
            return;
        }
        self.result = match &mut self.stream {
            Some(stream) => stream.push(id).map_err(Into::into).and_then(|text| print(&text)),
            None if self.printed => print(&format!(",{id}")),
            None => print(&id.to_string()),
        };
        self.printed = true;
    }

    fn finish(self) -> Result<()> {
        self.result?;
        let rest = self
            .stream
            .map(TextStream::finish)
            .transpose()?
            .unwrap_or_default();
        print(&(rest + "\n"))
    }
}

/// A reader that has seen enough (`| head`) is no failure.
fn print(text: &str) -> Result<()> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(()),
    }
}

fn report(generation: &Generation) {
    let join = |ids: &[u32]| ids.iter().map(u32::to_string).collect::<Vec<_>>().join(",");
    let (prompt, generated) = (&generation.prompt_ids, &generation.generated_ids);
    // The last token is not computed on.
    let computed = generated.len().saturating_sub(1);
    let rate = |count: usize, seconds: f64| if count == 0 { 0.0 } else { count as f64 / seconds };
    let (prompt_s, generate_s) = (
        generation.prompt_time.as_secs_f64(),
        generation.generate_time.as_secs_f64(),
    );
    eprintln!("prompt ids:    {}", join(prompt));
    eprintln!("generated ids: {}", join(generated));
    eprintln!(
        "prompt:        {} tokens, {prompt_s:.3} s, {:.1}/s",
        prompt.len(),
        rate(prompt.len(), prompt_s)
    );
    eprintln!(
        "generation:    {computed} tokens, {generate_s:.3} s, {:.1}/s",
        rate(computed, generate_s)
    );
    eprintln!("threads:       {}", bitnet_models::threads());
}

/// The recorder that the environment asks for.
fn recorder() -> Recorder {
    if cfg!(feature = "trace") {
        return Recorder::from_env(engine_info());
    }
    if std::env::var_os("BITNET_TRACE_DIR").is_some_and(|dir| !dir.is_empty()) {
        eprintln!(
            "bitnet-cli: warning: BITNET_TRACE_DIR is set, but this build cannot record; \
             build it with --features trace"
        );
    }
    Recorder::off()
}

/// Seals the trace. The engine's own work is done by then, so a failure is a warning.
fn seal(recorder: &Recorder, verbose: bool) {
    if !recorder.is_on() {
        return;
    }
    match recorder.finish() {
        Ok(summary) if verbose => {
            eprintln!(
                "trace:         {} records in {}",
                summary.records,
                summary.dir.display()
            );
        }
        Ok(_) => {}
        Err(error) => eprintln!("bitnet-cli: warning: {error}"),
    }
}

pub fn dequantize(args: &DequantizeArgs) -> Result<()> {
    let mut progress = Progress::new("Writing F32 weights");
    dequantize_gguf(&args.input, &args.output, &mut |done, total| {
        progress.update(done, total)
    })?;
    Ok(())
}

pub fn tiny(args: &TinyArgs) -> Result<()> {
    let spec = TinySpec {
        weights: args.weights,
        seed: args.seed,
        ..TinySpec::default()
    };
    write_tiny_model(&args.output, &spec)?;
    Ok(())
}
