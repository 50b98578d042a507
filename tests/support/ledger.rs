//! The books on mail that must survive a fault: what was offered, what was answered 250, what
//! arrived.
//!
//! A message follows from its id alone, so that the books of many thousands are small: bytes are
//! made anew to be compared.

use super::message::{assert_relayed, message, test_id};
use super::{Client, Delivered, Reply};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Mutex, MutexGuard};

/// Shared by all clients of a test.
#[derive(Default)]
pub struct Ledger(Mutex<Books>);

#[derive(Default)]
struct Books {
    messages: BTreeMap<String, Entry>,
    /// The last transaction of each session of the sink.
    last_of_session: HashMap<u64, u64>,
    transactions: u64,
    accepted: usize,
    arrived: usize,
}

struct Entry {
    accepted: bool,
    /// For each recipient, where it arrived: session and transaction.
    arrivals: BTreeMap<String, Vec<(u64, u64)>>,
}

impl Entry {
    fn is_complete(&self) -> bool {
        self.arrivals.values().all(|arrivals| !arrivals.is_empty())
    }
}

/// What the books say in the end.
#[derive(Debug, Default)]
pub struct Audit {
    /// Messages answered 250.
    pub accepted: usize,
    /// Recipients of those that got nothing.
    pub lost: Vec<String>,
    /// Messages that arrived though their client never saw a 250.
    pub unanswered: usize,
    /// Transactions with something that had arrived before.
    pub copies: usize,
    /// Most arrivals of one message at one recipient.
    pub most: usize,
    /// Recipients with copies although the first was not the last transaction of its session: its
    /// outcome was on record before the next one's data left.
    pub uncalled_for: Vec<String>,
}

impl Ledger {
    /// Hands over a message of one to three recipients in `domains`. Gives what
    /// [`Client::try_mail`] gives.
    pub fn hand_over(&self, client: &mut Client, id: &str, domains: &[&str]) -> Option<Reply> {
        let number = number(id);
        let spread = if number.is_multiple_of(5) { 3 } else { 1 };
        let recipients: Vec<String> = (0..spread)
            .map(|n| format!("r{n}-{id}@{}", domains[(number + n) % domains.len()]))
            .collect();
        let arrivals = recipients.iter().map(|r| (r.clone(), Vec::new())).collect();
        let entry = Entry { accepted: false, arrivals };
        assert!(self.books().messages.insert(id.to_string(), entry).is_none(), "{id} twice");
        let recipients: Vec<&str> = recipients.iter().map(String::as_str).collect();
        let reply = client.try_mail("news@s.test", &recipients, &made(id))?;
        if reply.code == 250 {
            let mut books = self.books();
            books.accepted += 1;
            books.messages.get_mut(id).expect("it was offered").accepted = true;
        }
        Some(reply)
    }

    /// Enters what a sink took. Panics at anything that was not offered so.
    #[track_caller]
    pub fn enter(&self, delivered: Vec<Delivered>) {
        let mut books = self.books();
        for got in delivered {
            let id = test_id(&got.body).expect("a message of ours");
            assert_relayed(&made(&id), &got.body);
            books.transactions += 1;
            let place = (got.session, books.transactions);
            books.last_of_session.insert(place.0, place.1);
            let entry = books.messages.get_mut(&id).unwrap_or_else(|| panic!("a ghost: {id}"));
            for recipient in &got.recipients {
                let arrivals = entry.arrivals.get_mut(recipient);
                arrivals.unwrap_or_else(|| panic!("{id} was not for {recipient}")).push(place);
            }
            books.arrived += 1;
        }
    }

    /// Messages answered 250, and transactions that arrived.
    pub fn counts(&self) -> (usize, usize) {
        let books = self.books();
        (books.accepted, books.arrived)
    }

    /// True once every recipient of what was answered 250 got it.
    pub fn is_settled(&self) -> bool {
        self.books().messages.values().all(|entry| !entry.accepted || entry.is_complete())
    }

    /// Draws up the account.
    pub fn audit(&self) -> Audit {
        let books = self.books();
        let mut audit = Audit { accepted: books.accepted, ..Audit::default() };
        let mut repeats: HashSet<(u64, u64)> = HashSet::new();
        for entry in books.messages.values() {
            if !entry.accepted && entry.arrivals.values().any(|a| !a.is_empty()) {
                audit.unanswered += 1;
            }
            for (recipient, arrivals) in &entry.arrivals {
                if entry.accepted && arrivals.is_empty() {
                    audit.lost.push(recipient.clone());
                }
                audit.most = audit.most.max(arrivals.len());
                repeats.extend(arrivals.iter().skip(1));
                let before_last = &arrivals[..arrivals.len().saturating_sub(1)];
                if before_last.iter().any(|(s, t)| books.last_of_session[s] != *t) {
                    audit.uncalled_for.push(recipient.clone());
                }
            }
        }
        audit.copies = repeats.len();
        audit
    }

    fn books(&self) -> MutexGuard<'_, Books> {
        self.0.lock().unwrap()
    }
}

/// The number that ends an id.
fn number(id: &str) -> usize {
    id.rsplit('-').next().and_then(|n| n.parse().ok()).expect("an id that ends in a number")
}

/// The message of an id: both lanes, from some hundred bytes to some hundred thousand.
fn made(id: &str) -> Vec<u8> {
    let number = number(id);
    let lines = match number % 20 {
        0 => 4_000,
        1..4 => 900,
        _ => 1 + number % 60,
    };
    let field = if number.is_multiple_of(2) { "X-Newsletter: yes\r\n" } else { "" };
    // Every line is another one: a message that lost or repeated a part is told from the whole.
    let body: String =
        (0..lines).map(|line| format!(".line {line} of {id}, 0123456789\r\n")).collect();
    message(id, field, &body)
}
