//! The journal of a part.

use bitnet_trace_schema::journal::{Entry, PageAt, PendingRows, Reader, Rows, header};
use bitnet_trace_schema::{RecordMeta, Sequence};

/// Most positions that token ids may fill.
const ROOM: usize = 1000;

/// Bytes are entries that can be written and read again, up to one that is torn, or an error.
pub fn check(data: &[u8]) {
    let (entries, end) = match read(data) {
        Ok(read) => read,
        Err(error) => return assert!(!error.is_empty()),
    };
    assert!(end <= data.len());
    let whole = read(&data[..end]).expect("the good entries are a journal");
    assert_eq!(whole, (entries, end));
}

/// How many entries there are, and where the last ends.
fn read(data: &[u8]) -> Result<(usize, usize), String> {
    let mut reader = Reader::new(data, data.len() as u64).map_err(|e| e.to_string())?;
    let mut sequence = Sequence {
        request: 0,
        ids: Vec::new(),
        rewrites: 0,
    };
    let (mut entries, mut room) = (0, ROOM);
    while let Some(entry) = reader.next().expect("bytes in memory can be read") {
        entries += 1;
        match entry {
            Entry::Page(page) => again(page.at, page.rows),
            Entry::Rows(rows) => again(
                PageAt {
                    offset: 0,
                    bytes: u32::MAX,
                    checksum: 0,
                },
                rows,
            ),
            Entry::Tokens(tokens) => {
                tokens.replay(&mut sequence, &mut room);
                assert!(sequence.ids.len() + room == ROOM && tokens.ids().count() <= data.len());
            }
        }
    }
    let end = usize::try_from(reader.position()).expect("a place in the bytes");
    match reader.torn() {
        Some(torn) => assert_eq!((torn.at, torn.to_string().is_empty()), (end as u64, false)),
        None => assert_eq!(end, data.len()),
    }
    Ok((entries, end))
}

/// Rows that are written are the rows that are read.
fn again(at: PageAt, rows: Rows<'_>) {
    let first = entry(at, rows);
    let mut journal = Vec::new();
    header("again", 0, "", &mut journal);
    journal.extend_from_slice(&first);
    let mut reader = Reader::new(&journal[..], journal.len() as u64).expect("a journal");
    match reader.next() {
        Ok(Some(Entry::Page(page))) => {
            assert_eq!(page.at, at);
            assert!(entry(page.at, page.rows) == first, "other rows");
        }
        other => panic!("{other:?}"),
    }
}

fn entry(at: PageAt, mut rows: Rows<'_>) -> Vec<u8> {
    let mut pending = PendingRows::default();
    let mut meta = RecordMeta::empty();
    for left in (0..rows.left()).rev() {
        let row = rows.next_into(&mut meta).expect("as many rows as the entry says");
        assert_eq!(rows.left(), left);
        if let (Some(values), Some(floats)) = (row.values, row.floats) {
            assert_eq!(values.len() as u64, 4 * floats);
        }
        pending
            .push(&meta, row.floats, row.raw)
            .expect("a row that was read can be written");
    }
    assert!(rows.next_into(&mut meta).is_none());
    pending.page(&at).to_vec()
}
