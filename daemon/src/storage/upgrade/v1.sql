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
    jitter_us     INTEGER NOT NULL            -- interarrival jitter at the end (RFC 3550 A.8)
) STRICT, WITHOUT ROWID;

-- Newest first, page by page.
CREATE INDEX calls_by_start ON calls (started_us, id);

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
    PRIMARY KEY (call, turn)
) STRICT, WITHOUT ROWID;

-- Where a turn's time went. Stages that a turn did not pass have no row.
CREATE TABLE stages (
    call          TEXT NOT NULL,
    turn          INTEGER NOT NULL,
    stage         TEXT NOT NULL,              -- pause, stt, prefill, first_clause, tts_first, hold, playout; …
    took_us       INTEGER NOT NULL,
    PRIMARY KEY (call, turn, stage)
) STRICT, WITHOUT ROWID;
