-- The queue's state, as it lies in DATA_DIR/queue.db (SQLite, write-ahead log, synchronous = NORMAL).
--
-- What is promised lies in DATA_DIR/journal; this file follows it, a second behind at most, and can be made
-- anew from it (`bulkhead queue rebuild`). The bytes of messages are in the journal alone.
--
-- Times are milliseconds since 1970-01-01T00:00:00Z. Ids of messages are numbers here and 12 characters of
-- Crockford's base 32 everywhere else.
--
-- States of a delivery, and how each is left:
--   ready      row in deliveries, attempts = 0, held_due NULL.   Left by a settled attempt, an operator, expiry.
--   deferred   row in deliveries, attempts > 0, held_due NULL.   As ready; tried again from due_at on.
--   held       row in deliveries, held_due NOT NULL.             Left by an operator or by expiry.
--   leased     one of these three, and the running node remembers in memory that a connection has it;
--              left with the outcome, the end of the lease, or the end of the process. Not in this file.
--   delivered, failed, expired, deleted
--              no row in deliveries; a row in settled while the message has other deliveries; then nothing.
-- Each change of state is one record of the journal; a transaction here holds all changes up to the place
-- in the journal that is written with it, and nothing after it.

-- What concerns the file as a whole.
CREATE TABLE meta (
    key   TEXT PRIMARY KEY,   -- 'schema': version of this schema; 'hold_all': 1 while everything is held;
                              -- 'last_id': greatest message id seen;
                              -- 'segment', 'offset': place in the journal that this file has reached
    value INTEGER NOT NULL
) WITHOUT ROWID;

-- Scheduled queues: the deliveries of one lane, tenant, campaign and domain.
-- A row is removed some time after its last delivery; while a node runs no number is given twice.
CREATE TABLE queues (
    id       INTEGER PRIMARY KEY,
    lane     TEXT NOT NULL,   -- 'direct' or 'bulk'
    tenant   TEXT NOT NULL,   -- the hosting customer
    campaign TEXT NOT NULL,   -- the mailing; '' for none
    domain   TEXT NOT NULL    -- of the recipients, lower case
);

-- One row for each message with deliveries; removed with its last delivery.
CREATE TABLE messages (
    id              INTEGER PRIMARY KEY,
    accepted_at     INTEGER NOT NULL,
    expires_at      INTEGER NOT NULL,  -- what is not delivered by then is given up
    lane            TEXT NOT NULL,     -- 'direct' or 'bulk'
    reason          TEXT NOT NULL,     -- why that lane, for people
    tenant          TEXT NOT NULL,
    campaign        TEXT NOT NULL,     -- '' for none
    client          TEXT NOT NULL,     -- address it came from; '' for the node's own
    reverse_path    TEXT NOT NULL,     -- '' for the null reverse-path
    body_type       INTEGER NOT NULL,  -- BODY= (RFC 6152): 0 7BIT, 1 8BITMIME
    smtputf8        INTEGER NOT NULL,  -- 1 where SMTPUTF8 was given (RFC 6531)
    ret             INTEGER,           -- RET= (RFC 3461): 0 HDRS, 1 FULL; NULL where not given
    envid           TEXT,              -- ENVID= (RFC 3461), xtext
    size            INTEGER NOT NULL,  -- length of the body in bytes
    recipient_count INTEGER NOT NULL,  -- deliveries it began with
    open            INTEGER NOT NULL,  -- deliveries left; kept up only where recipient_count > 1
    queues          TEXT NOT NULL,     -- numbers of the queues its deliveries went to, separated by spaces
    segment         INTEGER NOT NULL,  -- its record in the journal: the segment,
    offset          INTEGER NOT NULL,  -- where its frame begins there,
    payload         INTEGER NOT NULL,  -- the length of the frame's payload,
    body            INTEGER NOT NULL   -- and where in the payload header and body begin, as they will be sent
);

-- What lives in each segment of the journal, so that one without messages can be used again.
CREATE TABLE segments (
    number   INTEGER PRIMARY KEY,
    messages INTEGER NOT NULL,
    bytes    INTEGER NOT NULL  -- of their bodies
);

-- The queue itself: one row for each recipient not settled, clustered by queue and due time.
-- There is no other index: each would cost more than all reads it could speed up.
CREATE TABLE deliveries (
    queue          INTEGER NOT NULL,
    due_at         INTEGER NOT NULL,  -- not to be tried before; 9223372036854775807 for held ones
    message        INTEGER NOT NULL,
    number         INTEGER NOT NULL,  -- place in the message's recipient list, from 0
    held_due       INTEGER,           -- of a held delivery: the due time it had
    size           INTEGER NOT NULL,  -- messages.size, so that counting needs no other table
    attempts       INTEGER NOT NULL,
    delay_notified INTEGER NOT NULL,  -- 1 once a delay notification was sent
    recipient      TEXT NOT NULL,     -- address in the sender's spelling
    notify         INTEGER,           -- NOTIFY= (RFC 3461): 1 SUCCESS + 2 FAILURE + 4 DELAY, 0 NEVER;
                                      -- NULL where not given
    orcpt          TEXT,              -- ORCPT= (RFC 3461), xtext
    last_at        INTEGER,           -- last attempt
    last_reply     TEXT NOT NULL,     -- its reply or error; '' before the first
    blame          TEXT,              -- recipient, message, site, source, ourselves
    PRIMARY KEY (queue, due_at, message, number)
) WITHOUT ROWID;

-- Settled deliveries of messages that have others: for `queue show`. Removed with the message.
CREATE TABLE settled (
    message        INTEGER NOT NULL,
    number         INTEGER NOT NULL,
    state          TEXT NOT NULL,     -- delivered, failed, expired, deleted
    attempts       INTEGER NOT NULL,
    recipient      TEXT NOT NULL,
    notify         INTEGER,           -- as in deliveries
    orcpt          TEXT,
    at             INTEGER NOT NULL,  -- when it was settled
    reply          TEXT NOT NULL,
    blame          TEXT,
    PRIMARY KEY (message, number)
) WITHOUT ROWID;
