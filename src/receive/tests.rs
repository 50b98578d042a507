//! The shell over loopback, with the queue in memory: patience, room and places that end.

use super::logins::Logins;
use super::tenants::Tenants;
use super::{Ingress, Parts};
use crate::base::address::Domain;
use crate::base::id::IdGenerator;
use crate::base::network::Networks;
use crate::base::time::Clock;
use crate::config::tests::defaults;
use crate::config::{Config, Role};
use crate::net::listen::Listener;
use crate::store::memory::MemoryStore;
use crate::store::{Filter, Handoff, State, Store};
use bytes::Bytes;
use rustls::ServerConfig;
use rustls_pki_types::PrivateKeyDer;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

/// No wait of a test is longer.
const PATIENCE: Duration = Duration::from_secs(30);
/// A time-out that a test waits for.
const SHORT: Duration = Duration::from_millis(300);
const MAIL: &str = "EHLO c.test\r\nMAIL FROM:<a@s.test>\r\nRCPT TO:<b@d.test>\r\nDATA\r\n";

/// An ingress that serves one listener.
struct Server {
    address: SocketAddr,
    store: MemoryStore,
    direct: mpsc::Receiver<Handoff>,
    expected: mpsc::Receiver<Domain>,
    stop: watch::Sender<bool>,
    serving: JoinHandle<()>,
    _data_dir: tempfile::TempDir,
}

async fn server(change: impl FnOnce(&mut Config)) -> Server {
    let (mut config, data_dir) = (defaults(), tempfile::tempdir().unwrap());
    config.data_dir = data_dir.path().to_path_buf();
    change(&mut config);
    let clock = Clock::system();
    let store = MemoryStore::new(clock.clone());
    let ids = Arc::new(Mutex::new(IdGenerator::after(None)));
    let ((direct_in, direct), (expected_in, expected)) = (mpsc::channel(1), mpsc::channel(1));
    let listen = config.listen[0].clone();
    let tls = (listen.role == Role::Submissions).then(certificate);
    let (config, tls) = (Arc::new(config).into(), Arc::new(tls).into());
    let ingress = Ingress::new(Parts {
        store: store.clone(),
        config,
        clock,
        ids,
        direct: direct_in,
        expected: expected_in,
        tls,
        tenants: Arc::new(Tenants::new(mpsc::channel(1).0)),
        logins: Arc::new(Logins::new().unwrap()),
    });
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (stop, stopped) = watch::channel(false);
    let serving = Arc::new(ingress).serve(Listener::Tcp(listener), listen, stopped);
    let serving = tokio::spawn(serving);
    Server { address, store, direct, expected, stop, serving, _data_dir: data_dir }
}

/// TLS with a certificate of its own.
fn certificate() -> Arc<ServerConfig> {
    let made = rcgen::generate_simple_self_signed(vec!["relay.test".to_string()]).unwrap();
    let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let versions =
        ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let config = versions.unwrap().with_no_client_auth();
    Arc::new(config.with_single_cert(vec![made.cert.der().clone()], key).unwrap())
}

impl Server {
    async fn ended(self) {
        timeout(PATIENCE, self.serving).await.expect("serving ends").unwrap();
    }

    /// Deliveries in the store, and how many of them are leased.
    async fn stored(&self) -> (usize, usize) {
        let page = self.store.list(Filter::default(), None, 100).await.unwrap();
        let leased = page.deliveries.iter().filter(|d| d.state == State::Leased);
        (page.deliveries.len(), leased.count())
    }

    /// The messages in the store, oldest first.
    async fn bodies(&self) -> Vec<Bytes> {
        let page = self.store.list(Filter::default(), None, 100).await.unwrap();
        let mut ids: Vec<_> = page.deliveries.iter().map(|d| d.head.id).collect();
        ids.sort();
        let bodies = self.store.bodies(ids).await.unwrap();
        bodies.into_iter().map(|(_, body)| body).collect()
    }
}

struct Client(BufReader<TcpStream>);

impl Client {
    async fn connect(server: &Server) -> Self {
        Self(BufReader::new(TcpStream::connect(server.address).await.unwrap()))
    }

    /// Connects and takes the greeting.
    async fn greeted(server: &Server) -> Self {
        let mut client = Self::connect(server).await;
        client.expect("220 ").await;
        client
    }

    /// One who has sent this much of a message, which has its place now.
    async fn within(server: &Server, part: &str) -> Self {
        let mut client = Self::greeted(server).await;
        let chunk = format!("BDAT {}\r\n{part}", part.len());
        client.say(&MAIL.replace("DATA\r\n", &chunk)).await;
        while !client.line().await.ends_with("bytes so far\r\n") {}
        client
    }

    /// Up to the 354.
    async fn in_data(server: &Server) -> Self {
        let mut client = Self::greeted(server).await;
        client.say(MAIL).await;
        client.expect("354 ").await;
        client
    }

    async fn say(&mut self, text: &str) {
        self.0.write_all(text.as_bytes()).await.unwrap();
    }

    /// The next line; empty at the end.
    async fn line(&mut self) -> String {
        let mut line = String::new();
        let read = timeout(PATIENCE, self.0.read_line(&mut line)).await.expect("a line or the end");
        // A reset is an end, too.
        _ = read;
        line
    }

    /// Reads up to the line that begins so; another refusal is a failure.
    async fn expect(&mut self, start: &str) -> String {
        loop {
            let line = self.line().await;
            if line.starts_with(start) {
                return line;
            }
            assert!(line.starts_with('2'), "{line:?} instead of {start:?}");
        }
    }

    async fn expect_end(&mut self) {
        assert_eq!(self.line().await, "", "nothing more is said");
    }

    /// Says this again and again, byte by byte, until something is replied.
    async fn drip(&mut self, text: &str) {
        let dripping = async {
            for byte in text.as_bytes().iter().cycle() {
                self.0.write_all(&[*byte]).await.unwrap();
                if timeout(SHORT / 10, self.0.get_ref().peek(&mut [0])).await.is_ok() {
                    return;
                }
            }
        };
        timeout(PATIENCE, dripping).await.expect("dripping comes to an end");
    }
}

#[tokio::test]
async fn direct_mail_is_handed_over_while_there_is_room_and_waits_in_the_store_else() {
    let mut server = server(|_| ()).await;
    for _ in 0..2 {
        let mut client = Client::in_data(&server).await;
        client.say("Subject: x\r\n\r\nx\r\n.\r\n").await;
        client.expect("250 2.0.0 Queued").await;
    }
    assert_eq!(server.stored().await, (2, 1), "one was handed over leased, one waits for a claim");
    let handed = server.direct.recv().await.unwrap();
    assert_eq!(handed.claimed.deliveries[0].recipient.mailbox.to_string(), "b@d.test");
    assert!(handed.body.ends_with(b"\r\nSubject: x\r\n\r\nx\r\n"));
    assert!(server.direct.try_recv().is_err());
    assert_eq!(server.expected.recv().await.unwrap().as_str(), "d.test");
}

#[tokio::test]
async fn silence_ends_a_session() {
    let server = server(|c| c.limits.command_timeout = SHORT).await;
    let mut client = Client::greeted(&server).await;
    client.expect("421 4.4.2").await;
    client.expect_end().await;
}

#[tokio::test]
async fn dripping_a_command_gains_no_time() {
    let server = server(|c| c.limits.command_timeout = SHORT).await;
    let mut client = Client::greeted(&server).await;
    client.drip("NOOP and so on ").await;
    client.expect("421 4.4.2").await;
}

#[tokio::test]
async fn silence_in_a_message_ends_the_session_and_keeps_nothing() {
    let server = server(|c| c.limits.data_timeout = SHORT).await;
    let mut client = Client::in_data(&server).await;
    client.say("Subject: half\r\n").await;
    client.expect("421 4.4.2").await;
    client.expect_end().await;
    assert_eq!(server.stored().await, (0, 0));
}

#[tokio::test]
async fn dripping_a_message_ends_with_the_time_for_all_of_it() {
    let server = server(|c| c.limits.message_timeout = SHORT).await;
    let mut client = Client::in_data(&server).await;
    client.drip("so slow\r\n").await;
    client.expect("421 4.4.2").await;
    assert_eq!(server.stored().await, (0, 0));
}

#[tokio::test]
async fn sessions_beyond_the_limits_are_turned_away_until_one_ends() {
    for (per_address, in_all, refusal) in [(2, 9, "421 4.7.0"), (9, 2, "421 4.3.2")] {
        let server = server(|c| {
            c.limits.sessions_per_address = per_address;
            c.limits.sessions = in_all;
        })
        .await;
        let (first, _second) = (Client::greeted(&server).await, Client::greeted(&server).await);
        let mut third = Client::connect(&server).await;
        third.expect(refusal).await;
        third.expect_end().await;
        drop(first);
        let again = async {
            while !Client::connect(&server).await.line().await.starts_with("220") {
                sleep(Duration::from_millis(10)).await;
            }
        };
        timeout(PATIENCE, again).await.expect("a place that was left can be taken");
    }
}

#[tokio::test]
async fn a_stop_ends_sessions_that_idle() {
    let server = server(|_| ()).await;
    let mut client = Client::greeted(&server).await;
    client.say("EHLO c.test\r\nMAIL FROM:<a@s.test>\r\n").await;
    client.expect("250 2.1.0").await;
    server.stop.send(true).unwrap();
    client.expect("421 4.3.2").await;
    client.expect_end().await;
    drop(client);
    let address = server.address;
    server.ended().await;
    assert!(TcpStream::connect(address).await.is_err(), "nobody listens any more");
}

#[tokio::test]
async fn a_stop_waits_for_no_handshake() {
    let server = server(|c| c.listen[0].role = Role::Submissions).await;
    let mut silent = Client::connect(&server).await;
    // It has a place: another one of this address finds the server's side of TLS, too.
    silent.0.write_all(b"\x16\x03\x01").await.unwrap();
    let mut plain = Client::connect(&server).await;
    plain.say("EHLO c.test\r\n").await;
    let mut alert = Vec::new();
    _ = timeout(PATIENCE, plain.0.read_to_end(&mut alert)).await.expect("no TLS, no session");
    assert!(alert.starts_with(b"\x15\x03"), "{alert:?}");
    server.stop.send(true).unwrap();
    timeout(PATIENCE / 3, server.ended()).await.expect("a stop is not held up");
    silent.expect_end().await;
}

#[tokio::test]
async fn a_stop_lets_a_message_under_way_come_in() {
    let server = server(|_| ()).await;
    let mut client = Client::in_data(&server).await;
    client.say("Subject: x\r\n").await;
    server.stop.send(true).unwrap();
    let refused = async { while TcpStream::connect(server.address).await.is_ok() {} };
    timeout(PATIENCE, refused).await.expect("the stop has been heard");
    client.say("\r\nx\r\n.\r\n").await;
    client.expect("250 2.0.0 Queued").await;
    client.expect("421 4.3.2").await;
    assert_eq!(server.stored().await.0, 1);
    drop(client);
    server.ended().await;
}

#[tokio::test]
async fn a_stranger_who_talks_first_is_sent_away_and_a_polite_one_greeted() {
    let server = server(|c| c.relay.networks = Networks::default()).await;
    let mut rude = Client::connect(&server).await;
    rude.say("EHLO c.test\r\n").await;
    assert!(rude.line().await.starts_with("554 5.5.0"), "without a greeting");
    rude.expect_end().await;
    let mut polite = Client::greeted(&server).await;
    polite.say("EHLO c.test\r\nMAIL FROM:<a@s.test>\r\nRCPT TO:<b@d.test>\r\n").await;
    polite.expect("550 5.7.1").await;
}

/// So many bytes of text.
fn text(size: usize) -> String {
    "0123456789 23456789 23456789 23456789 234567\r\n".repeat(size / 46)
}

#[tokio::test]
async fn what_has_no_memory_waits_on_disk_and_keeps_nobody_out() {
    // Memory for 256 KiB that come in, each byte counted twice.
    let server = server(|c| c.limits.memory = 1 << 20).await;
    let (fitting, large) = (text(200 << 10), text(600 << 10));
    let mut holder = Client::within(&server, &fitting).await;
    // They come a bit at a time, all at once.
    let mut others = Vec::new();
    for n in 0..4 {
        let mut client = Client::in_data(&server).await;
        client.say(&format!("X-N: {n}\r\n\r\n")).await;
        others.push(client);
    }
    for part in large.as_bytes().chunks(46 * 3_000) {
        for client in &mut others {
            client.say(std::str::from_utf8(part).unwrap()).await;
        }
    }
    for client in &mut others {
        client.say(".\r\n").await;
        client.expect("250 2.0.0 Queued").await;
    }
    holder.say("BDAT 0 LAST\r\n").await;
    holder.expect("250 2.0.0 Queued").await;
    let bodies = server.bodies().await;
    for n in 0..4 {
        let whole = format!("X-N: {n}\r\n\r\n{large}");
        assert!(bodies.iter().any(|body| body.ends_with(whole.as_bytes())), "{n}");
    }
    assert!(bodies.iter().any(|body| body.ends_with(fitting.as_bytes())));
    assert_eq!(bodies.len(), 5);
}

#[tokio::test]
async fn of_a_message_that_was_given_up_nothing_is_in_the_next() {
    let server = server(|c| c.limits.message_size = 3 << 20).await;
    let mut client = Client::greeted(&server).await;
    let (first, second) = (text(1_400 << 10), text(1_200 << 10).to_uppercase());
    let chunk = |text: &str, last: &str| format!("BDAT {}{last}\r\n{text}", text.len());
    let envelope = "MAIL FROM:<a@s.test>\r\nRCPT TO:<b@d.test>\r\n";
    let said = ["EHLO c.test\r\n", envelope, &chunk(&first, ""), "RSET\r\n"].concat();
    client.say(&said).await;
    client.expect("250 2.0.0 Reset").await;
    client.say(&[envelope, &chunk(&second, " LAST")].concat()).await;
    client.expect("250 2.0.0 Queued").await;
    // One that is too large, and one that is right behind it.
    client.say(&[envelope, "DATA\r\n"].concat()).await;
    client.expect("354 ").await;
    client.say(&[&text(4 << 20), ".\r\n", envelope, &chunk("A: b\r\n", " LAST")].concat()).await;
    assert!(client.line().await.starts_with("552 5.3.4"));
    client.expect("250 2.0.0 Queued").await;
    let bodies = server.bodies().await;
    assert_eq!(bodies.len(), 2);
    let stamp = 1_000;
    assert!(bodies[0].ends_with(second.as_bytes()) && bodies[0].len() < second.len() + stamp);
    assert!(bodies[1].ends_with(b"A: b\r\n") && bodies[1].len() < stamp);
}

#[tokio::test]
async fn disk_for_large_messages_ends_and_is_free_again() {
    let server = server(|c| c.limits.disk = 3 << 20).await;
    let part = text(1_500 << 10);
    let mut holder = Client::within(&server, &part).await;
    let mut second = Client::in_data(&server).await;
    let both = [&*part, &part].concat();
    second.say(&[&*both, ".\r\n"].concat()).await;
    second.expect("452 4.3.1 Too many large messages at once").await;
    holder.say(&format!("BDAT {} LAST\r\n{part}", part.len())).await;
    holder.expect("250 2.0.0 Queued").await;
    second.say("MAIL FROM:<a@s.test>\r\nRCPT TO:<b@d.test>\r\nDATA\r\n").await;
    second.expect("354 ").await;
    second.say(&[&*both, ".\r\n"].concat()).await;
    second.expect("250 2.0.0 Queued").await;
    let bodies = server.bodies().await;
    assert!(bodies.iter().all(|body| body.ends_with(both.as_bytes())));
    assert_eq!(bodies.len(), 2);
}

#[tokio::test]
async fn large_messages_leave_the_disk_its_free_space() {
    let server = server(|c| c.store.free_space_min = 1 << 60).await;
    let mut client = Client::in_data(&server).await;
    client.say(&[&*text(2 << 20), ".\r\n"].concat()).await;
    client.expect("452 4.3.1 Queue is full").await;
    client.say(&MAIL.replace("EHLO", "NOOP")).await;
    client.expect("354 ").await;
    client.say("A: b\r\n.\r\n").await;
    client.expect("250 2.0.0 Queued").await;
}

#[tokio::test]
async fn a_client_that_reads_nothing_holds_its_place_no_longer_than_its_patience() {
    let server = server(|c| {
        c.limits.command_timeout = SHORT;
        c.limits.commands = u32::MAX;
        c.limits.sessions = 1;
    })
    .await;
    let mut deaf = Client::greeted(&server).await;
    // More replies than both sockets' buffers take.
    let flood = "HELP\r\n".repeat(10_000);
    let talk = async { while deaf.0.write_all(flood.as_bytes()).await.is_ok() {} };
    timeout(PATIENCE, talk).await.expect("the session is ended");
    let again = async {
        while !Client::connect(&server).await.line().await.starts_with("220") {
            sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(PATIENCE, again).await.expect("its place is free");
    let mut rest = Vec::new();
    _ = timeout(PATIENCE, deaf.0.read_to_end(&mut rest)).await.expect("the connection is closed");
}

#[tokio::test]
async fn a_header_without_end_takes_no_memory_and_a_body_without_fields_is_none() {
    let server = server(|c| c.limits.header_size = 10_000).await;
    let mut client = Client::in_data(&server).await;
    for _ in 0..100 {
        client.say(&"X-A: b\r\n".repeat(1_000)).await;
    }
    client.say("\r\n\r\n.\r\n").await;
    client.expect("552 5.3.4 Header section larger than 10000 bytes").await;
    client.say("MAIL FROM:<a@s.test>\r\nRCPT TO:<b@d.test>\r\nDATA\r\n").await;
    client.expect("354 ").await;
    client.say(&"no field here\r\n".repeat(10_000)).await;
    client.say(".\r\n").await;
    client.expect("250 ").await;
    client.say("MAIL FROM:<a@s.test>\r\nRCPT TO:<b@d.test>\r\nDATA\r\n").await;
    client.expect("354 ").await;
    client.say(&format!("A: b\r\n\r\n{}.\r\n", "text\r\n".repeat(10_000))).await;
    client.expect("250 ").await;
    assert_eq!(server.stored().await.0, 2);
}
