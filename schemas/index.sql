-- index.sqlite: a cache over the runs of a database. The parts are the truth; this file can be deleted
-- at any time and is rebuilt by the next command that opens the database.
CREATE TABLE meta (
    key   TEXT PRIMARY KEY,
    value TEXT NOT NULL
) WITHOUT ROWID;

CREATE TABLE runs (
    id       INTEGER PRIMARY KEY,
    name     TEXT NOT NULL UNIQUE,
    state    TEXT NOT NULL,               -- recording, complete, failed or recovered, as in run.json
    engine   TEXT NOT NULL,
    created_unix_ms INTEGER NOT NULL,
    manifest TEXT NOT NULL                -- run.json, so that json_extract() reaches all of it
);

CREATE TABLE parts (
    id        INTEGER PRIMARY KEY,
    run_id    INTEGER NOT NULL REFERENCES runs(id) ON DELETE CASCADE,
    file      TEXT NOT NULL,
    bytes     INTEGER NOT NULL,           -- size and time tell whether the file is still the one indexed
    mtime_ns  INTEGER NOT NULL,
    footer    TEXT NOT NULL,              -- ... and BLAKE3 of its last bytes, where a clock is coarse
    rows      INTEGER NOT NULL,
    UNIQUE (run_id, file)
);

CREATE TABLE records (
    id            INTEGER PRIMARY KEY,
    run_id        INTEGER NOT NULL REFERENCES runs(id) ON DELETE CASCADE,
    part_id       INTEGER NOT NULL REFERENCES parts(id) ON DELETE CASCADE,
    part_row      INTEGER NOT NULL,       -- row in the part, from 0
    values_offset INTEGER,                -- byte offset of the f32 values in the part; null where none are kept
    values_count  INTEGER,                -- number of f32 values
    raw_bytes     INTEGER,                -- length of `raw`; null where none is kept
    seq           INTEGER NOT NULL,
    layer         INTEGER NOT NULL,
    stage         TEXT NOT NULL,
    name          TEXT NOT NULL,
    op            TEXT NOT NULL,
    op_index      INTEGER NOT NULL,
    request       INTEGER NOT NULL,
    pass          INTEGER NOT NULL,
    occurrence    INTEGER NOT NULL,
    shape         TEXT NOT NULL,          -- JSON array
    dtype         TEXT NOT NULL,
    num_elements  INTEGER NOT NULL,
    blake3        TEXT NOT NULL,
    rms           REAL,
    mean          REAL,
    min           REAL,
    max           REAL,
    abs_max       REAL,
    nan_count     INTEGER NOT NULL,
    inf_count     INTEGER NOT NULL
);
CREATE INDEX records_by_key ON records (run_id, seq, layer, stage);
CREATE INDEX records_by_part ON records (part_id);
