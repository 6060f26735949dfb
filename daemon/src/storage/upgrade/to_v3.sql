-- Who has chosen the agent's words in an exchange. Exchanges of releases that did not know have no row.
CREATE TABLE sources (
    call          TEXT NOT NULL,
    turn          INTEGER NOT NULL,
    source        TEXT NOT NULL,              -- script, model; of a known answer: faq, added, learned
    model         TEXT,                       -- file of the language model, if that has chosen them
    entry         INTEGER,                    -- of the cache, if the answer was known
    score         REAL,                       -- how alike the questions were, 1: the same words
    PRIMARY KEY (call, turn)
) STRICT, WITHOUT ROWID;
