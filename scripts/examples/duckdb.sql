-- Run with: duckdb -c ".read scripts/examples/duckdb.sql"   (from a folder that holds `traces/`)
-- Every run of a database; the folder name run=<name> becomes the column `run`.
CREATE VIEW trace AS SELECT * FROM read_parquet('traces/**/*.parquet', hive_partitioning = true);

-- How much was recorded?
SELECT run, count(*) AS records, count(DISTINCT seq) AS positions, count(DISTINCT stage) AS stages
FROM trace GROUP BY run ORDER BY run;

-- Relative L2 of two runs, worst first.
SELECT a.seq, a.layer, a.stage,
       sqrt(list_sum(list_transform(list_zip(a.values, b.values), lambda p: (p[1]::DOUBLE - p[2]) ** 2)))
         / nullif(sqrt(list_sum(list_transform(a.values, lambda x: x::DOUBLE ** 2))), 0) AS rel_l2
FROM trace a JOIN trace b USING (request, seq, layer, stage, occurrence)
WHERE a.run = 'cpp' AND b.run = 'rust' AND len(a.values) = len(b.values)
ORDER BY rel_l2 DESC LIMIT 10;
