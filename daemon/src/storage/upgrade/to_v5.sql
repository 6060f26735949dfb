-- From version 4 to 5: of each answer of the model it is kept which passages of documents it was shown. Its column stands where
-- a new database has it, so the table is made anew.
ALTER TABLE sources RENAME TO before;
CREATE TABLE sources (
    call          TEXT NOT NULL,
    turn          INTEGER NOT NULL,
    source        TEXT NOT NULL,
    model         TEXT,
    entry         INTEGER,
    score         REAL,
    knowledge     TEXT,
    PRIMARY KEY (call, turn)
) STRICT, WITHOUT ROWID;
INSERT INTO sources (call, turn, source, model, entry, score) SELECT call, turn, source, model, entry, score FROM before;
DROP TABLE before;
