//! Keys of the HTTP interface.

use super::parse::socket;
use super::{Fallback::Is, Section, Shape, key, set};

pub(super) const HTTP: Section = Section {
    name: "http",
    doc: "Where the programs of your customers hand over mail by HTTP, as JSON or as whole \
          messages, each with a token of its customer ([[tenants]] tokens). What it takes is in \
          docs/openapi.yaml, and at /openapi.yaml of a running node.",
    shape: Shape::Table,
    keys: &[
        key(
            "listen",
            Is("\"\""),
            "Address and port, such as \"127.0.0.1:8025\". Empty: none.",
            |c, v| {
                let address = v.parsed("\"127.0.0.1:8025\"", |text| {
                    if text.is_empty() { Ok(None) } else { socket(text).map(Some) }
                });
                set(&mut c.http.listen, address)
            },
        ),
        key(
            "tls",
            Is("false"),
            "HTTPS, with the certificate of [tls]. Without it only on a loopback address: who \
             reads a token on its way may send with it.",
            |c, v| set(&mut c.http.tls, v.flag()),
        ),
        key(
            "connections",
            Is("200"),
            "Connections open at once, each with one request at a time; further ones get 503.",
            |c, v| set(&mut c.http.connections, v.count(1..=100_000)),
        ),
        key(
            "connections_per_address",
            Is("50"),
            "Of these, from one client address (one IPv6 /64); further ones get 429. Behind a \
             proxy of your own, all clients have its address.",
            |c, v| set(&mut c.http.connections_per_address, v.count(1..=100_000)),
        ),
        key(
            "request_timeout",
            Is("\"2m\""),
            "Longest time from the first to the last byte of a request's body.",
            |c, v| set(&mut c.http.request_timeout, v.duration("1s", "1h")),
        ),
        key(
            "recipients",
            Is("1000"),
            "Personal messages (`recipients`) of one request.",
            |c, v| set(&mut c.http.recipients, v.count(1..=100_000)),
        ),
        key(
            "keys_memory",
            Is("\"64 MiB\""),
            "Memory, and about as much of the disk, for the Idempotency-Keys of the last 24 hours: \
             some 300 bytes for each, and 32 for each message. One customer may have a quarter of \
             it; who has more gets 429.",
            |c, v| set(&mut c.http.keys_memory, v.size("1 MiB", "16 GiB")),
        ),
    ],
};
