//! Keys of hosting customers: who they are, and what each may.

use super::parse::{domain_name, fingerprint, names, networks, tenant_name, token_hash};
use super::{Fallback::Inherited, Fallback::Is, Fallback::Required, Section, Shape, key, last};
use crate::config::value::{Read, Value};
use crate::mail::message::Lane;
use crate::policy::tenant::{Beyond, EVERYBODY, TenantRule};

fn domain_names(value: Value<'_>) -> Read<Vec<String>> {
    value.list("\"shop.example\"", |v| v.parsed("\"shop.example\"", domain_name))
}

pub(super) const TENANTS: Section = Section {
    name: "tenants",
    doc: "Your customers, so that they take turns at each receiver: a mailing of half a million \
          from one does not delay the 200 letters of another. Without an entry, a message belongs \
          to the organisational domain of its reverse-path, or to its client's address. One \
          [[tenants]] for each.",
    shape: Shape::List {
        clear: |c| c.tenants.clear(),
        begin: |c| c.tenants.push(TenantRule::default()),
    },
    keys: &[
        key(
            "name",
            Required("\"shop\""),
            "In `queue` output and logs. \"*\": what every customer without an entry of his own \
             may.",
            |c, v| {
                let name = v.parsed("\"shop\"", |text| match text {
                    EVERYBODY => Ok(text.to_string()),
                    _ => tenant_name(text),
                });
                last(&mut c.tenants, name, |t, name| t.name = name)
            },
        ),
        key("networks", Is("[]"), "Clients that are this customer's own.", |c, v| {
            last(&mut c.tenants, networks(v), |t, nets| t.networks = nets)
        }),
        key(
            "certificates",
            Is("[]"),
            "SHA-256 fingerprints of TLS certificates that this customer's own servers show, such \
             as [\"9f:86:d0:…\"] (`openssl x509 -noout -fingerprint -sha256`): they may send to \
             anyone from wherever they are.",
            |c, v| {
                let prints =
                    v.list("\"9f:86:d0:…\"", |v| v.parsed("\"9f:86:d0:…\"", fingerprint));
                last(&mut c.tenants, prints, |t, prints| t.certificates = prints)
            },
        ),
        key(
            "tokens",
            Is("[]"),
            "SHA-256 hashes of the tokens by which this customer's programs send by HTTP ([http]); \
             `bulkhead tenant-token` makes a token and its line here.",
            |c, v| {
                let hashes = v.list("\"9f86d0…\"", |v| v.parsed("\"9f86d0…\"", token_hash));
                last(&mut c.tenants, hashes, |t, hashes| t.tokens = hashes)
            },
        ),
        key(
            "sender_domains",
            Is("[]"),
            "Reverse-paths that are this customer's own: these domains and those below them.",
            |c, v| last(&mut c.tenants, domain_names(v), |t, domains| t.sender_domains = domains),
        ),
        key(
            "may_send_as",
            Is("[]"),
            "Domains that this customer's reverse-paths and From fields may have, or domains below \
             them; other mail is refused. \"own\": the domain that is the customer's name. Empty: \
             any.",
            |c, v| last(&mut c.tenants, domain_names(v), |t, domains| t.may_send_as = domains),
        ),
        key(
            "message_size",
            Inherited("\"10 MiB\""),
            "Largest message. Without this key: as in [limits], which is never exceeded.",
            |c, v| last(&mut c.tenants, v.size("1 KiB", "1 GiB"), |t, n| t.message_size = Some(n)),
        ),
        key(
            "recipients",
            Inherited("100"),
            "Recipients of one message. Without this key: as in [limits], which is never exceeded.",
            |c, v| last(&mut c.tenants, v.count(1..=100_000), |t, n| t.recipients = Some(n)),
        ),
        key(
            "accept_messages",
            Is("\"none\""),
            "Messages taken from this customer in a window, such as [\"200/h\", \"1000/d\"]. Kept \
             over a restart.",
            |c, v| last(&mut c.tenants, v.rates(), |t, rates| t.accept_messages = rates),
        ),
        key("accept_recipients", Is("\"none\""), "The same, of their recipients.", |c, v| {
            last(&mut c.tenants, v.rates(), |t, rates| t.accept_recipients = rates)
        }),
        key(
            "beyond",
            Is("\"bulk\""),
            "What becomes of mail beyond these: \"bulk\" (it takes the bulk lane, where it delays \
             nobody else's), \"defer\" (4xx: the web server keeps it for a while), or \"refuse\" \
             (5xx).",
            |c, v| {
                let words =
                    [("bulk", Beyond::Bulk), ("defer", Beyond::Defer), ("refuse", Beyond::Refuse)];
                last(&mut c.tenants, v.word(&words), |t, beyond| t.beyond = beyond)
            },
        ),
        key("lane", Is("\"direct\""), "The lane of mail in which no header decides.", |c, v| {
            let lanes = [("direct", Lane::Direct), ("bulk", Lane::Bulk)];
            last(&mut c.tenants, v.word(&lanes), |t, lane| t.lane = lane)
        }),
        key(
            "watched",
            Is("true"),
            "Whether [watch] looks at this customer's mail; off for one whose bursts are right, \
             such as a webmail server.",
            |c, v| last(&mut c.tenants, v.flag(), |t, watched| t.watched = watched),
        ),
        key(
            "weight",
            Is("1"),
            "Share against other customers: 2 gets twice the turns of 1.",
            |c, v| last(&mut c.tenants, v.count(1..=1_000), |t, weight| t.weight = weight),
        ),
        key(
            "rate",
            Is("\"none\""),
            "Messages of this customer in a window, to all receivers together, such as \
             [\"2000/h\", \"20000/d\"]; what is more waits in the queue. Newsletters leave a tenth \
             of it to direct mail.",
            |c, v| last(&mut c.tenants, v.rates(), |t, rates| t.rates = rates),
        ),
        key(
            "sources",
            Is("[]"),
            "Names of the [sources] that this customer's mail is sent from, of both lanes; empty: \
             those of the lane.",
            |c, v| last(&mut c.tenants, names(v), |t, sources| t.sources = sources),
        ),
    ],
};
