-- The database of calls. The truth: a new file is made from this, and every upgrade must end in exactly this.
-- All times are microseconds; an absolute one counts from 1970-01-01 UTC, a duration says what it spans.
-- Nothing references by FOREIGN KEY: records arrive one by one and one may be lost (full queue, full disk) without
-- taking the rest of its call with it.

-- One row per call, written when it is answered and again when it has ended.
CREATE TABLE calls (
    id            TEXT PRIMARY KEY NOT NULL,  -- 16 hexadecimal digits, as in log lines
    agent         TEXT NOT NULL,              -- who answered
    direction     TEXT NOT NULL CHECK (direction IN ('inbound', 'outbound')),
    caller        TEXT NOT NULL,              -- From: a person's number
    callee        TEXT NOT NULL,              -- To
    codec         TEXT NOT NULL,              -- RTP encoding name, '' before there is one
    started_us    INTEGER NOT NULL,           -- the INVITE
    answered_us   INTEGER,                    -- the 200 OK; NULL: never
    ended_us      INTEGER,                    -- NULL: still up, or its daemon died
    end_reason    TEXT,                       -- as in ended_us
    turns         INTEGER NOT NULL,           -- the greeting is not counted
    packets_in    INTEGER NOT NULL,           -- RTP received
    packets_lost  INTEGER NOT NULL,           -- RTP that never came (RFC 3550 A.3)
    packets_late  INTEGER NOT NULL,           -- RTP that came too late to be played
    packets_out   INTEGER NOT NULL,           -- RTP sent
    jitter_us     INTEGER NOT NULL,           -- interarrival jitter at the end (RFC 3550 A.8)
    party         TEXT NOT NULL DEFAULT ''    -- the far end, as it is looked for: one person has one, see privacy/party.rs
) STRICT, WITHOUT ROWID;

-- Newest first, page by page; and the same of what is looked for. Each is in the order of a page, and whole for what it is
-- asked for, so that a page is read from it without looking at a call that does not fit.
CREATE INDEX calls_by_start ON calls (started_us, id);
CREATE INDEX calls_by_direction ON calls (direction, started_us, id);
CREATE INDEX calls_by_agent ON calls (agent, direction, started_us, id);
CREATE INDEX calls_by_reason ON calls (end_reason, direction, started_us, id);
CREATE INDEX calls_by_agent_and_reason ON calls (agent, end_reason, direction, started_us, id);
CREATE INDEX calls_by_party ON calls (party, started_us, id);

-- One row per exchange; turn 0 is the greeting.
CREATE TABLE turns (
    call          TEXT NOT NULL,
    turn          INTEGER NOT NULL,
    started_us    INTEGER NOT NULL,           -- the caller's last voiced sample; of the greeting: the answer
    caller_text   TEXT NOT NULL,              -- what the ears understood
    agent_text    TEXT NOT NULL,              -- what the mind answered
    heard_text    TEXT NOT NULL,              -- what of it was played before the caller interrupted, or all
    interrupted   INTEGER NOT NULL CHECK (interrupted IN (0, 1)),
    prompt_tokens INTEGER NOT NULL,
    cached_tokens INTEGER NOT NULL,           -- of the prompt, not computed again
    answer_tokens INTEGER NOT NULL,
    kind          TEXT NOT NULL DEFAULT '',   -- greeting, answer, silence_prompt, …; '' before version 2
    outcome       TEXT NOT NULL DEFAULT '',   -- completed, interrupted, failed, abandoned; '' before version 2
    failure       TEXT,                       -- whose and which: 'mind internal'; NULL: none
    retries       INTEGER NOT NULL DEFAULT 0, -- work that was done again because the engine refused or failed
    stt_us        INTEGER NOT NULL DEFAULT 0, -- computing of the ears
    tts_us        INTEGER NOT NULL DEFAULT 0, -- computing of the voice
    PRIMARY KEY (call, turn)
) STRICT, WITHOUT ROWID;

-- What there still is to be deleted of what was said.
CREATE INDEX turns_with_words ON turns (started_us) WHERE caller_text <> '' OR agent_text <> '' OR heard_text <> '';

-- Where a turn's time went. Stages that a turn did not pass have no row.
CREATE TABLE stages (
    call          TEXT NOT NULL,
    turn          INTEGER NOT NULL,
    stage         TEXT NOT NULL,              -- pause, stt, prefill, first_clause, tts_first, hold, playout; …
    took_us       INTEGER NOT NULL,
    PRIMARY KEY (call, turn, stage)
) STRICT, WITHOUT ROWID;

-- One row per part of a recording, written when it begins and when it ends. The audio is a sealed file, CALL-PART.callrec.
CREATE TABLE recordings (
    call          TEXT NOT NULL,
    part          INTEGER NOT NULL,           -- 1, and one more for each daemon or disk that died in it
    begun_us      INTEGER NOT NULL,           -- its first frame
    ended         INTEGER NOT NULL CHECK (ended IN (0, 1)),
    frames        INTEGER NOT NULL,           -- of 20 ms
    lost          INTEGER NOT NULL,           -- of them, silence where there was something
    bytes         INTEGER NOT NULL,
    key_id        TEXT NOT NULL,              -- what its key is called
    PRIMARY KEY (call, part)
) STRICT, WITHOUT ROWID;

CREATE INDEX recordings_by_begin ON recordings (begun_us);

-- What befell the box as a whole.
CREATE TABLE events (
    id            INTEGER PRIMARY KEY,
    at_us         INTEGER NOT NULL,
    kind          TEXT NOT NULL,              -- started, stopping, engine_ready, engine_lost, drain, resume, reload
    detail        TEXT NOT NULL               -- one sentence, or ''; never a caller
) STRICT;

CREATE INDEX events_by_time ON events (at_us);

-- Who has looked at what callers said or who they are, and who has changed something.
CREATE TABLE audit (
    id            INTEGER PRIMARY KEY,
    at_us         INTEGER NOT NULL,
    who           TEXT NOT NULL,              -- 'uid 1000' of the control socket, 'token NAME' over TCP
    action        TEXT NOT NULL,              -- a look: call.show, call.list, …; a change: 'POST /api/v1/calls/{id}/say'
    object        TEXT NOT NULL,              -- a call's id, a path, or a count; never a caller
    result        TEXT NOT NULL DEFAULT ''    -- what came of it: a status of HTTP; '': noted before it was done, as a look is
) STRICT;

CREATE INDEX audit_by_time ON audit (at_us);

-- Calls that were erased, for a week: what is still recorded of one that was up is dropped.
CREATE TABLE erased (
    call          TEXT PRIMARY KEY NOT NULL,
    at_us         INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- Who has chosen the agent's words in an exchange. Exchanges of releases that did not know have no row.
CREATE TABLE sources (
    call          TEXT NOT NULL,
    turn          INTEGER NOT NULL,
    source        TEXT NOT NULL,              -- script, model; of a known answer: faq, added, learned
    model         TEXT,                       -- file of the language model (+ adapter), with hashes, if that has chosen them
    entry         INTEGER,                    -- of the cache, if the answer was known
    score         REAL,                       -- how alike the questions were, 1: the same words
    knowledge     TEXT,                       -- passages of documents that the model was shown: names, a line each
    PRIMARY KEY (call, turn)
) STRICT, WITHOUT ROWID;

-- Who may use the control API over TCP. Of a token there is only what recognises it.
CREATE TABLE tokens (
    name          TEXT PRIMARY KEY NOT NULL,
    id            TEXT NOT NULL UNIQUE,       -- the part of the token that is no secret
    digest        BLOB NOT NULL,              -- SHA-256 of the part that is
    scope         TEXT NOT NULL CHECK (scope IN ('viewer', 'operator', 'admin')),
    created_us    INTEGER NOT NULL,
    expires_us    INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
