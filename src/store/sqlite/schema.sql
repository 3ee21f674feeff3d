-- Times are milliseconds since the epoch; *_tick are milliseconds on the monotonic clock of the
-- process, rewritten at each start. What a job says, leaves and reports lies in tables of its own,
-- so that a change of its state rewrites none of it.

CREATE TABLE queues (
    id          INTEGER PRIMARY KEY,
    name        TEXT    NOT NULL UNIQUE,
    has_series  INTEGER NOT NULL DEFAULT 0, -- else it counts under __other__, in the totals
    paused      INTEGER NOT NULL DEFAULT 0,
    scheduled   INTEGER NOT NULL DEFAULT 0,
    ready       INTEGER NOT NULL DEFAULT 0,
    retrying    INTEGER NOT NULL DEFAULT 0,
    running     INTEGER NOT NULL DEFAULT 0,
    completed   INTEGER NOT NULL DEFAULT 0,
    cancelled   INTEGER NOT NULL DEFAULT 0,
    dead        INTEGER NOT NULL DEFAULT 0,
    leases_lost INTEGER NOT NULL DEFAULT 0,
    duplicates  INTEGER NOT NULL DEFAULT 0
) STRICT;

CREATE TABLE ledger (
    id                  INTEGER PRIMARY KEY,
    queue               TEXT    NOT NULL,
    kind                TEXT    NOT NULL,
    created             INTEGER NOT NULL DEFAULT 0,
    completed           INTEGER NOT NULL DEFAULT 0,
    cancelled           INTEGER NOT NULL DEFAULT 0,
    discarded           INTEGER NOT NULL DEFAULT 0,
    retried             INTEGER NOT NULL DEFAULT 0,
    died                INTEGER NOT NULL DEFAULT 0,
    requeued            INTEGER NOT NULL DEFAULT 0,
    scheduled           INTEGER NOT NULL DEFAULT 0,
    ready               INTEGER NOT NULL DEFAULT 0,
    retrying            INTEGER NOT NULL DEFAULT 0,
    running             INTEGER NOT NULL DEFAULT 0,
    dead                INTEGER NOT NULL DEFAULT 0,
    started             INTEGER NOT NULL DEFAULT 0,
    ended_completed     INTEGER NOT NULL DEFAULT 0,
    ended_failed        INTEGER NOT NULL DEFAULT 0,
    ended_timed_out     INTEGER NOT NULL DEFAULT 0,
    ended_lease_expired INTEGER NOT NULL DEFAULT 0,
    ended_released      INTEGER NOT NULL DEFAULT 0,
    ended_cancelled     INTEGER NOT NULL DEFAULT 0,
    pruned_completed    INTEGER NOT NULL DEFAULT 0,
    pruned_cancelled    INTEGER NOT NULL DEFAULT 0,
    UNIQUE (queue, kind)
) STRICT;

CREATE TABLE totals (
    id                    INTEGER PRIMARY KEY CHECK (id = 1),
    store                 TEXT    NOT NULL,
    promoted              INTEGER NOT NULL DEFAULT 0,
    expired               INTEGER NOT NULL DEFAULT 0,
    pruned                INTEGER NOT NULL DEFAULT 0,
    overflow_jobs         INTEGER NOT NULL DEFAULT 0,
    leases_lost_elsewhere INTEGER NOT NULL DEFAULT 0,
    duplicates_elsewhere  INTEGER NOT NULL DEFAULT 0,
    greatest_removed      INTEGER NOT NULL DEFAULT 0  -- the greatest jobs.id that is not there any more
) STRICT;

CREATE TABLE jobs (
    id           INTEGER PRIMARY KEY, -- the leading 60 bits of the UUID
    tail         INTEGER NOT NULL,    -- its 62 random bits
    queue        INTEGER NOT NULL,    -- queues.id
    ledger       INTEGER NOT NULL,    -- ledger.id, for ever
    state        TEXT    NOT NULL CHECK (state = 'ready' OR state = 'running' OR state = 'completed'
        OR state = 'retrying' OR state = 'scheduled' OR state = 'cancelled' OR state = 'dead'),
    priority     INTEGER NOT NULL CHECK (priority BETWEEN 0 AND 9),
    run_at       INTEGER NOT NULL,
    created_at   INTEGER NOT NULL,
    attempt      INTEGER NOT NULL DEFAULT 0,
    failures     INTEGER NOT NULL DEFAULT 0,
    max_attempts INTEGER,             -- these two only if the creator set them
    timeout_ms   INTEGER,
    lease        BLOB,                -- the secret of the last attempt, kept after its end
    own          INTEGER NOT NULL DEFAULT 0, -- run by the daemon itself
    lease_ms     INTEGER,
    lease_tick   INTEGER,             -- when the lease ends: present while running, and only then
    timeout_tick INTEGER,             -- when the attempt of an outside worker ends at the latest
    claimed_tick INTEGER,
    expires_at   INTEGER,
    claimed_at   INTEGER,
    ended_at     INTEGER,
    outcome      TEXT,                -- how the last attempt ended
    key_until    TEXT CHECK (key_until IN ('gone', 'done')),
    key_held     INTEGER NOT NULL DEFAULT 0,
    kind         TEXT    NOT NULL,
    unique_key   TEXT,
    worker       TEXT,
    traceparent  TEXT,
    CHECK ((state = 'running') = (lease_tick IS NOT NULL)),
    CHECK (state <> 'running' OR lease IS NOT NULL)
) STRICT;

CREATE INDEX jobs_ready ON jobs (queue, priority, run_at) WHERE state = 'ready';
CREATE INDEX jobs_due ON jobs (run_at) WHERE state IN ('scheduled', 'retrying');
CREATE INDEX jobs_waiting ON jobs (queue, run_at) WHERE state IN ('scheduled', 'retrying');
CREATE INDEX jobs_leases ON jobs (lease_tick) WHERE state = 'running';
CREATE INDEX jobs_ended ON jobs (queue, ended_at) WHERE state IN ('completed', 'cancelled');
CREATE INDEX jobs_dead ON jobs (queue, ended_at) WHERE state = 'dead';
CREATE UNIQUE INDEX jobs_key ON jobs (queue, unique_key) WHERE key_held = 1;

CREATE TABLE payloads (id INTEGER PRIMARY KEY, body BLOB NOT NULL) STRICT;
CREATE TABLE results (id INTEGER PRIMARY KEY, body BLOB NOT NULL) STRICT;
CREATE TABLE errors (
    id      INTEGER PRIMARY KEY,
    attempt INTEGER NOT NULL,
    at      INTEGER NOT NULL,
    outcome TEXT    NOT NULL,
    message TEXT    NOT NULL
) STRICT;
