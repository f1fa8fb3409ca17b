//! What many rows share: a row has the numbers of its place, its label and its form.

use bitnet_trace_schema::{DType, Text};
use std::collections::HashMap;

/// Layer and stage.
pub(crate) type Place = (i32, Text);

/// The engine's names of a tensor and of the operation that made it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Label {
    pub(crate) name: Text,
    pub(crate) op: Text,
}

/// What a record's elements look like.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Form {
    pub(crate) shape: Vec<i64>,
    pub(crate) dtype: DType,
    pub(crate) num_elements: i64,
    pub(crate) values_count: Option<u64>,
    pub(crate) raw_bytes: Option<u64>,
}

/// The names of a table.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Names {
    /// Sorted, each once.
    pub places: Vec<Place>,
    pub labels: Vec<Label>,
    pub forms: Vec<Form>,
}

impl Names {
    /// As bytes. None has more than 2³² of anything: a part has fewer rows.
    pub(super) fn write(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        let (count, texts) = self.texts();
        bytes.extend(count.to_ne_bytes());
        let mut numbers: HashMap<&str, u32> = HashMap::new();
        for text in texts {
            let next = numbers.len() as u32;
            numbers.entry(text).or_insert_with(|| {
                bytes.extend((text.len() as u32).to_ne_bytes());
                bytes.extend(text.as_bytes());
                next
            });
        }
        let number = |text: &str| numbers.get(text).copied().unwrap_or(0).to_ne_bytes();
        bytes.extend((self.places.len() as u32).to_ne_bytes());
        for (layer, stage) in &self.places {
            bytes.extend(layer.to_ne_bytes());
            bytes.extend(number(stage));
        }
        bytes.extend((self.labels.len() as u32).to_ne_bytes());
        for label in &self.labels {
            bytes.extend([&label.name, &label.op].into_iter().flat_map(|text| number(text)));
        }
        bytes.extend((self.forms.len() as u32).to_ne_bytes());
        for form in &self.forms {
            bytes.extend(number(form.dtype.name()));
            bytes.extend(form.num_elements.to_ne_bytes());
            for count in [form.values_count, form.raw_bytes] {
                bytes.push(count.is_some().into());
                bytes.extend(count.unwrap_or(0).to_ne_bytes());
            }
            bytes.extend((form.shape.len() as u32).to_ne_bytes());
            bytes.extend(form.shape.iter().flat_map(|dim| dim.to_ne_bytes()));
        }
        bytes
    }

    /// Every text, some of them twice, and how many different ones there are.
    fn texts(&self) -> (u32, Vec<&str>) {
        let stages = self.places.iter().map(|(_, stage)| stage.as_str());
        let labels = self.labels.iter().flat_map(|l| [l.name.as_str(), l.op.as_str()]);
        let dtypes = self.forms.iter().map(|f| f.dtype.name());
        let texts: Vec<&str> = stages.chain(labels).chain(dtypes).collect();
        let different: std::collections::HashSet<&str> = texts.iter().copied().collect();
        (different.len() as u32, texts)
    }

    /// From what [`Names::write`] made; none where it is not whole.
    pub(super) fn read(bytes: &[u8]) -> Option<Self> {
        let mut rest = Rest(bytes);
        let mut texts = Vec::new();
        for _ in 0..rest.number()? {
            texts.push(rest.text()?);
        }
        let mut names = Self::default();
        for _ in 0..rest.number()? {
            let layer = i32::from_ne_bytes(rest.take()?);
            names.places.push((layer, rest.one_of(&texts)?));
        }
        for _ in 0..rest.number()? {
            let (name, op) = (rest.one_of(&texts)?, rest.one_of(&texts)?);
            names.labels.push(Label { name, op });
        }
        for _ in 0..rest.number()? {
            names.forms.push(rest.form(&texts)?);
        }
        let in_order = names.places.is_sorted_by(|a, b| a < b);
        (rest.0.is_empty() && in_order).then_some(names)
    }
}

/// What is not read yet. Numbers of what follows are no reason to reserve anything.
struct Rest<'a>(&'a [u8]);

impl Rest<'_> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (head, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*head)
    }

    fn number(&mut self) -> Option<usize> {
        usize::try_from(u32::from_ne_bytes(self.take()?)).ok()
    }

    fn count(&mut self) -> Option<Option<u64>> {
        let is = self.take::<1>()?[0] != 0;
        let count = u64::from_ne_bytes(self.take()?);
        Some(is.then_some(count))
    }

    fn text(&mut self) -> Option<Text> {
        let length = self.number()?;
        let (text, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(std::str::from_utf8(text).ok()?.into())
    }

    fn one_of(&mut self, texts: &[Text]) -> Option<Text> {
        texts.get(self.number()?).cloned()
    }

    fn form(&mut self, texts: &[Text]) -> Option<Form> {
        let dtype = self.one_of(texts)?.parse().ok()?;
        let num_elements = i64::from_ne_bytes(self.take()?);
        let (values_count, raw_bytes) = (self.count()?, self.count()?);
        let mut shape = Vec::new();
        for _ in 0..self.number()? {
            shape.push(i64::from_ne_bytes(self.take()?));
        }
        Some(Form {
            shape,
            dtype,
            num_elements,
            values_count,
            raw_bytes,
        })
    }
}
