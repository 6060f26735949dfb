-- From version 1 to 2. The database ends as schema.sql says; `upgrade` fills `party`.
ALTER TABLE calls ADD COLUMN party TEXT NOT NULL DEFAULT '';
CREATE INDEX calls_by_party ON calls (party, started_us);
ALTER TABLE turns ADD COLUMN kind TEXT NOT NULL DEFAULT '';
ALTER TABLE turns ADD COLUMN outcome TEXT NOT NULL DEFAULT '';
ALTER TABLE turns ADD COLUMN failure TEXT;
ALTER TABLE turns ADD COLUMN retries INTEGER NOT NULL DEFAULT 0;
ALTER TABLE turns ADD COLUMN stt_us INTEGER NOT NULL DEFAULT 0;
ALTER TABLE turns ADD COLUMN tts_us INTEGER NOT NULL DEFAULT 0;
CREATE INDEX turns_with_words ON turns (started_us) WHERE caller_text <> '' OR agent_text <> '' OR heard_text <> '';
CREATE TABLE events (
    id INTEGER PRIMARY KEY, at_us INTEGER NOT NULL, kind TEXT NOT NULL, detail TEXT NOT NULL
) STRICT;
CREATE INDEX events_by_time ON events (at_us);
CREATE TABLE audit (
    id INTEGER PRIMARY KEY, at_us INTEGER NOT NULL, who TEXT NOT NULL, action TEXT NOT NULL, object TEXT NOT NULL
) STRICT;
CREATE INDEX audit_by_time ON audit (at_us);
CREATE TABLE erased (
    call TEXT PRIMARY KEY NOT NULL, at_us INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE recordings (
    call TEXT NOT NULL,
    part INTEGER NOT NULL,
    begun_us INTEGER NOT NULL,
    ended INTEGER NOT NULL CHECK (ended IN (0, 1)),
    frames INTEGER NOT NULL,
    lost INTEGER NOT NULL,
    bytes INTEGER NOT NULL,
    key_id TEXT NOT NULL,
    PRIMARY KEY (call, part)
) STRICT, WITHOUT ROWID;
CREATE INDEX recordings_by_begin ON recordings (begun_us);
