//! The token ids of the requests, as the engine tells them.

use bitnet_trace_schema::Sequence;
use std::collections::BTreeMap;

/// Positions beyond this are not listed in the manifest: its ids are a dense list.
const MAX_POSITIONS: usize = 1 << 24;

/// Ids by request and position, and those of them that the journal does not know yet.
#[derive(Debug, Default)]
pub(crate) struct Sequences {
    by_request: BTreeMap<i32, Sequence>,
    news: Vec<News>,
}

/// An id that was told; -1 is not known.
#[derive(Debug)]
struct News {
    request: i32,
    position: i64,
    id: i32,
    /// How many of the request's positions had changed by then.
    rewrites: u64,
}

/// Takes ids of neighbouring positions: request, first position, how many of the request's positions
/// had changed by then, ids.
pub(crate) type Take<'a> = dyn FnMut(i32, i64, u64, &mut dyn Iterator<Item = i32>) + 'a;

impl Sequences {
    /// Notes ids of positions from `first_seq` on.
    pub fn note(&mut self, request: i32, first_seq: i64, ids: &mut dyn Iterator<Item = i64>) {
        let sequence = self.by_request.entry(request).or_insert_with(|| Sequence {
            request,
            ids: Vec::new(),
            rewrites: 0,
        });
        for (i, id) in ids.enumerate() {
            let position = first_seq
                .checked_add(i as i64)
                .and_then(|p| usize::try_from(p).ok());
            let Some(position) = position.filter(|&p| p < MAX_POSITIONS) else {
                continue;
            };
            if sequence.ids.len() <= position {
                sequence.ids.resize(position + 1, None);
            }
            let id = i32::try_from(id).ok().filter(|&id| id >= 0);
            if let Some(id) = id {
                let before = sequence.ids[position].replace(id);
                sequence.rewrites += u64::from(before.is_some_and(|b| b != id));
            }
            self.news.push(News {
                request,
                position: position as i64,
                id: id.unwrap_or(-1),
                rewrites: sequence.rewrites,
            });
        }
    }

    /// Every request's ids.
    pub fn list(&self) -> Vec<Sequence> {
        self.by_request.values().cloned().collect()
    }

    /// Whether ids came since they were taken.
    pub fn has_news(&self) -> bool {
        !self.news.is_empty()
    }

    /// Hands out the ids that came since the last call, in order.
    pub fn take_news(&mut self, take: &mut Take<'_>) {
        let follows = |a: &News, b: &News| a.request == b.request && a.position + 1 == b.position;
        for run in self.news.chunk_by(follows) {
            if let [first, .., last] | [first @ last] = run {
                let ids = &mut run.iter().map(|news| news.id);
                take(first.request, first.position, last.rewrites, ids);
            }
        }
        self.news.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn news_are_handed_out_once_in_order_and_joined_where_they_follow_each_other() {
        let mut sequences = Sequences::default();
        sequences.note(0, 0, &mut [5, 6].into_iter());
        sequences.note(0, 2, &mut [-7].into_iter());
        sequences.note(0, 1, &mut [9].into_iter());
        sequences.note(3, 2, &mut [1].into_iter());
        sequences.note(3, i64::MAX, &mut [1, 2].into_iter());
        let mut news = Vec::new();
        let mut take = |sequences: &mut Sequences| {
            news.clear();
            sequences.take_news(&mut |request, first, rewrites, ids| {
                news.push((request, first, rewrites, ids.collect::<Vec<_>>()));
            });
            news.clone()
        };
        assert_eq!(
            take(&mut sequences),
            [(0, 0, 0, vec![5, 6, -1]), (0, 1, 1, vec![9]), (3, 2, 0, vec![1])]
        );
        assert!(!sequences.has_news() && take(&mut sequences).is_empty());
        assert_eq!(sequences.list()[0].ids, [Some(5), Some(9), None]);
    }
}
