-- A queue as version 1 of the schema had it.
CREATE TABLE meta (
    key   TEXT PRIMARY KEY,
    value INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TABLE queues (
    id       INTEGER PRIMARY KEY,
    lane     TEXT NOT NULL,
    tenant   TEXT NOT NULL,
    campaign TEXT NOT NULL,
    domain   TEXT NOT NULL
);
CREATE TABLE messages (
    id              INTEGER PRIMARY KEY,
    accepted_at     INTEGER NOT NULL,
    expires_at      INTEGER NOT NULL,
    lane            TEXT NOT NULL,
    reason          TEXT NOT NULL,
    tenant          TEXT NOT NULL,
    campaign        TEXT NOT NULL,
    client          TEXT NOT NULL,
    reverse_path    TEXT NOT NULL,
    body_type       INTEGER NOT NULL,
    smtputf8        INTEGER NOT NULL,
    ret             INTEGER,
    envid           TEXT,
    size            INTEGER NOT NULL,
    recipient_count INTEGER NOT NULL,
    open            INTEGER NOT NULL
);
CREATE TABLE bodies (
    message INTEGER PRIMARY KEY,
    queues  TEXT NOT NULL,
    bytes   BLOB NOT NULL
);
CREATE TABLE deliveries (
    queue          INTEGER NOT NULL,
    due_at         INTEGER NOT NULL,
    message        INTEGER NOT NULL,
    number         INTEGER NOT NULL,
    held_due       INTEGER,
    size           INTEGER NOT NULL,
    attempts       INTEGER NOT NULL,
    delay_notified INTEGER NOT NULL,
    recipient      TEXT NOT NULL,
    notify         INTEGER,
    orcpt          TEXT,
    last_at        INTEGER,
    last_reply     TEXT NOT NULL,
    blame          TEXT,
    PRIMARY KEY (queue, due_at, message, number)
) WITHOUT ROWID;
CREATE TABLE settled (
    message        INTEGER NOT NULL,
    number         INTEGER NOT NULL,
    state          TEXT NOT NULL,
    attempts       INTEGER NOT NULL,
    recipient      TEXT NOT NULL,
    notify         INTEGER,
    orcpt          TEXT,
    at             INTEGER NOT NULL,
    reply          TEXT NOT NULL,
    blame          TEXT,
    PRIMARY KEY (message, number)
) WITHOUT ROWID;
INSERT INTO meta VALUES ('schema', 1), ('hold_all', 1), ('last_id', 62605364297728900);
INSERT INTO queues VALUES (1, 'bulk', 'shop', '', 'x.example'), (2, 'bulk', 'shop', '', 'y.example');
INSERT INTO messages VALUES
    (62605364297728001, 1795394728000, 1795398328000, 'bulk', 'X-Newsletter: a', 'shop', '', '192.0.2.1',
     'news@shop.example', 1, 0, NULL, NULL, 18, 2, 1),
    (62605364297728002, 1795394728000, 1795398328000, 'bulk', 'X-Newsletter: a', 'shop', '', '192.0.2.1',
     'news@shop.example', 0, 0, 1, 'env', 18, 1, 1),
    (62605364297728003, 1795394728000, 1795398328000, 'bulk', 'X-Newsletter: a', 'shop', '', '192.0.2.1',
     '', 0, 0, NULL, NULL, 20, 1, 1);
INSERT INTO bodies VALUES
    (62605364297728001, '1 2', CAST('Subject: one' || char(13,10,13,10) || '1' || char(13,10) AS BLOB)),
    (62605364297728002, '1', CAST('Subject: two' || char(13,10,13,10) || '2' || char(13,10) AS BLOB)),
    (62605364297728003, '1', CAST('Subject: three' || char(13,10,13,10) || '3' || char(13,10) AS BLOB));
INSERT INTO deliveries VALUES
    (2, 1795394728000, 62605364297728001, 1, NULL, 18, 0, 0, 'b@y.example', NULL, NULL, NULL, '', NULL),
    (1, 1795394788000, 62605364297728002, 0, NULL, 18, 2, 1, 'c@x.example', 3, NULL, 1795394728000,
     '451 later', 'site'),
    (1, 9223372036854775807, 62605364297728003, 0, 1795394799000, 20, 1, 0, 'd@x.example', NULL, NULL,
     1795394728000, '450 busy', 'recipient');
INSERT INTO settled VALUES
    (62605364297728001, 0, 'delivered', 1, 'a@x.example', NULL, NULL, 1795394728000, '250 ok', NULL);
