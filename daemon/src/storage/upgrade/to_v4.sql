-- From version 3 to 4: what came of a change, tokens, and indexes of what calls are looked for by.
ALTER TABLE audit ADD COLUMN result TEXT NOT NULL DEFAULT '';
CREATE INDEX calls_by_direction ON calls (direction, started_us, id);
CREATE INDEX calls_by_agent ON calls (agent, direction, started_us, id);
CREATE INDEX calls_by_reason ON calls (end_reason, direction, started_us, id);
CREATE INDEX calls_by_agent_and_reason ON calls (agent, end_reason, direction, started_us, id);
DROP INDEX calls_by_party;
CREATE INDEX calls_by_party ON calls (party, started_us, id);
CREATE TABLE tokens (
    name          TEXT PRIMARY KEY NOT NULL,
    id            TEXT NOT NULL UNIQUE,
    digest        BLOB NOT NULL,
    scope         TEXT NOT NULL CHECK (scope IN ('viewer', 'operator', 'admin')),
    created_us    INTEGER NOT NULL,
    expires_us    INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
