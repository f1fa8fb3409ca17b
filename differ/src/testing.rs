//! Runs in memory, for tests.

use crate::records::{Elements, Records, Side};
use bitnet_trace_schema::{
    DType, Dropped, Engine, Manifest, Observation, Owner, Preset, RecordMeta, RunState, Sequence, Settings,
    Stats, Text, ValuesMode, Writer,
};
use bitnet_trace_store::{Meta, StoreError};

/// Records in memory, in order of execution.
#[derive(Debug, Default)]
pub struct Memory {
    pub rows: Vec<(RecordMeta, Elements)>,
}

/// A stand-in for BLAKE3: 64 hex digits that tell these bytes from others.
fn digest(bytes: &[u8]) -> String {
    let mut state = [0xcbf2_9ce4_8422_2325u64, 1, 2, 3];
    for &b in bytes {
        for s in &mut state {
            *s = (*s ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3).rotate_left(5);
        }
    }
    state.iter().map(|s| format!("{s:016x}")).collect()
}

impl Memory {
    fn add(&mut self, pass: i32, op_index: i64, key: (i64, i32, &str), values: &[f32]) {
        let (seq, layer, stage) = key;
        let bytes: Vec<u8> = values.iter().flat_map(|x| x.to_le_bytes()).collect();
        let meta = RecordMeta {
            seq,
            layer,
            stage: stage.into(),
            name: Text::new(),
            op: Text::new(),
            op_index,
            request: 0,
            pass,
            occurrence: 0,
            shape: vec![values.len() as i64],
            dtype: DType::F32,
            num_elements: values.len() as i64,
            blake3: digest(&bytes),
            stats: Stats::of_f32(values),
        };
        self.rows.push((meta, Elements::Values(values.to_vec())));
    }

    fn next_op(&self) -> i64 {
        self.rows.last().map_or(0, |r| r.0.op_index + 1)
    }

    pub fn push_at(&mut self, pass: i32, seq: i64, layer: i32, stage: &str, values: &[f32]) {
        self.add(pass, self.next_op(), (seq, layer, stage), values);
    }

    pub fn push(&mut self, seq: i64, layer: i32, stage: &str, values: &[f32]) {
        self.push_at(0, seq, layer, stage, values);
    }

    /// Another token of the tensor that was pushed last.
    pub fn same_op(&mut self, seq: i64, layer: i32, stage: &str, values: &[f32]) {
        self.add(0, self.next_op() - 1, (seq, layer, stage), values);
    }

    pub fn shape(&mut self, shape: &[i64]) -> &mut Self {
        self.last().0.shape = shape.to_vec();
        self
    }

    pub fn last(&mut self) -> &mut (RecordMeta, Elements) {
        self.rows.last_mut().expect("a row was pushed")
    }

    /// Replaces the last row's elements by raw bytes of another dtype.
    pub fn raw(&mut self, dtype: DType, bytes: Vec<u8>) {
        let row = self.last();
        row.0.dtype = dtype;
        row.0.num_elements = dtype.elements(bytes.len() as u64).expect("whole elements") as i64;
        row.0.shape = vec![row.0.num_elements];
        row.0.blake3 = digest(&bytes);
        row.1 = Elements::Raw(bytes);
    }

    pub fn side<'a>(&'a self, manifest: &'a Manifest) -> Side<'a> {
        Side {
            name: &manifest.run,
            path: String::new(),
            manifest,
            records: self,
            incomplete: vec![],
        }
    }
}

impl Records for Memory {
    fn len(&self) -> usize {
        self.rows.len()
    }

    fn meta(&self, row: usize) -> Meta<'_> {
        (&self.rows[row].0).into()
    }

    fn elements(&self, row: usize) -> Result<Elements, StoreError> {
        Ok(self.rows[row].1.clone())
    }
}

/// A manifest of a complete run.
pub fn manifest(run: &str, engine: &str, prompt: u64, ids: &[i32]) -> Manifest {
    Manifest {
        format_version: bitnet_trace_schema::FORMAT_VERSION,
        required_features: vec![],
        run: run.into(),
        state: RunState::Complete,
        failure: None,
        created_unix_ms: 0,
        finished_unix_ms: Some(1),
        owner: Owner {
            pid: 1,
            start_ticks: 0,
            boot_id: String::new(),
            host: String::new(),
        },
        writer: Writer {
            name: "bitnet-trace".into(),
            version: "0.1.0".into(),
        },
        engine: Engine::new(engine, "1"),
        command_line: vec![],
        model: None,
        settings: Settings::default(),
        prompt: None,
        prompt_tokens: Some(prompt),
        sequences: vec![Sequence {
            request: 0,
            ids: ids.iter().copied().map(Some).collect(),
            rewrites: 0,
        }],
        values: ValuesMode::Full,
        preset: Preset::Default,
        queue_bytes: None,
        selection: None,
        imported: None,
        replay: None,
        observation: Observation::default(),
        records: 0,
        dropped: Dropped::default(),
        parts: vec![],
        recovery: None,
    }
}
