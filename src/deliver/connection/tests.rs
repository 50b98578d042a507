//! The shell against peers that do as a script says, over real sockets.

use super::*;
use crate::base::address::{Mailbox, ReversePath};
use crate::base::id::MessageId;
use crate::base::time::Timestamp;
use crate::config::Config;
use crate::config::tests::defaults;
use crate::mail::envelope::Envelope;
use crate::mail::message::{Lane, Origin};
use crate::smtp::reply::REPLY_TEXT_MAX;
use crate::store::{DeliveryId, Lease, QueueId};
use std::net::Ipv4Addr;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::net::{TcpListener, TcpSocket};
use tokio::time::sleep;
use tokio_rustls::TlsAcceptor;

/// No wait of a test is longer.
const PATIENCE: Duration = Duration::from_secs(30);

trait Wire: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Wire for T {}

/// One accepted connection, from the receiving side.
struct Peer(BufReader<Box<dyn Wire>>);

impl Peer {
    async fn accept(listener: &TcpListener) -> Self {
        let accepted = timeout(PATIENCE, listener.accept()).await.expect("a connection");
        Self(BufReader::new(Box::new(accepted.unwrap().0)))
    }

    /// Sends this at once; what the other side does about it is its own affair.
    async fn say(&mut self, text: &str) {
        _ = self.0.write_all(text.as_bytes()).await;
        _ = self.0.flush().await;
    }

    /// The next line without its end; empty where the connection has ended.
    async fn line(&mut self) -> String {
        let mut line = String::new();
        _ = timeout(PATIENCE, self.0.read_line(&mut line)).await.expect("a line or the end");
        line.trim_end().to_string()
    }

    async fn expect(&mut self, start: &str) {
        let line = self.line().await;
        assert!(line.starts_with(start), "{line:?} instead of {start:?}");
    }

    /// Greets, offers these, and takes EHLO.
    async fn greet(&mut self, extensions: &[&str]) {
        self.say("220 mx.test\r\n").await;
        self.ehlo(extensions).await;
    }

    async fn ehlo(&mut self, extensions: &[&str]) {
        self.expect("EHLO relay.test").await;
        // The first line is no extension.
        let offers: String = extensions.iter().map(|e| format!("250-{e}\r\n")).collect();
        self.say(&format!("250-mx.test\r\n{offers}250 HELP\r\n")).await;
    }

    /// Takes one message without its last dot, and answers it.
    async fn take_message(&mut self) -> Vec<u8> {
        for (verb, reply) in [("MAIL", "250"), ("RCPT", "250"), ("DATA", "354")] {
            self.expect(verb).await;
            self.say(&format!("{reply} ok\r\n")).await;
        }
        let mut body = Vec::new();
        while !body.ends_with(b"\r\n.\r\n") {
            let read = timeout(PATIENCE, self.0.read_until(b'\n', &mut body)).await;
            assert_ne!(read.expect("the message").unwrap(), 0, "cut short");
        }
        body.truncate(body.len() - 3);
        self.say("250 2.0.0 taken\r\n").await;
        body
    }

    /// The TLS handshake, with a certificate that nobody signed.
    async fn secure(self) -> Self {
        let made = rcgen::generate_simple_self_signed(vec!["other.test".to_string()]).unwrap();
        let key = rustls_pki_types::PrivateKeyDer::try_from(made.signing_key.serialize_der());
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![made.cert.der().clone()], key.unwrap())
            .unwrap();
        let stream = TlsAcceptor::from(Arc::new(config)).accept(self.0.into_inner()).await;
        Self(BufReader::new(Box::new(stream.unwrap())))
    }
}

/// Our side: a listener to be played by the test, and the way to it.
struct Bench {
    listener: TcpListener,
    dialer: Dialer,
    clock: Clock,
    target: Target,
}

impl Bench {
    fn new(change: impl FnOnce(&mut Config)) -> Self {
        let mut config = defaults();
        change(&mut config);
        let socket = TcpSocket::new_v4().unwrap();
        // Little room, so that whoever does not read is noticed.
        socket.set_recv_buffer_size(16 << 10).unwrap();
        socket.bind((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
        let listener = socket.listen(16).unwrap();
        let address = listener.local_addr().unwrap();
        let source = Arc::clone(config.sources.iter().next().unwrap());
        let target = Target { host: "mx.test".into(), address, source };
        let dialer = Dialer::new(Arc::new(config)).unwrap();
        Self { listener, dialer, clock: Clock::system(), target }
    }

    async fn open(&self) -> Result<Connection, String> {
        let opening = Connection::open(&self.dialer, &self.clock, &self.target);
        let opened = timeout(PATIENCE, opening).await.expect("opening ends");
        opened.map_err(|error| error.to_string())
    }

    fn knows_broken_tls(&self) -> bool {
        self.dialer.tls_is_broken(self.target.address.ip(), self.clock.now())
    }

    /// An open connection, and the peer behind a polite greeting.
    async fn opened(&self, extensions: &[&str]) -> (Connection, Peer) {
        let greeting = async {
            let mut peer = Peer::accept(&self.listener).await;
            peer.greet(extensions).await;
            peer
        };
        let (connection, peer) = tokio::join!(self.open(), greeting);
        (connection.unwrap(), peer)
    }
}

fn transaction(recipients: &[String], body: &[u8]) -> Transaction {
    let message = MessageId::from_number(1).unwrap();
    let head = MessageHead {
        id: message,
        accepted_at: Timestamp(0),
        expires_at: Timestamp::NEVER,
        origin: Origin {
            lane: Lane::Direct,
            reason: String::new(),
            tenant: String::new(),
            campaign: String::new(),
            client: String::new(),
        },
        envelope: Envelope::from(ReversePath::parse("a@s.test").unwrap()),
        size: body.len() as u64,
        recipient_count: u32::try_from(recipients.len()).unwrap(),
    };
    let delivery = |(number, recipient): (u32, &String)| {
        let delivery = DeliveryId { message, number };
        Delivery {
            lease: Lease { delivery, queue: QueueId(1), due_at: Timestamp(0), fence: 1 },
            recipient: Recipient::new(Mailbox::parse(recipient).unwrap()),
            attempts: 0,
            delay_notified: false,
            last_reply: String::new(),
        }
    };
    let deliveries = (0..).zip(recipients).map(delivery).collect();
    Transaction { head: Arc::new(head), body: Bytes::copy_from_slice(body), deliveries }
}

fn one(body: &[u8]) -> Transaction {
    transaction(&["r@d.test".to_string()], body)
}

/// Sends it with nothing behind; what came of each recipient.
async fn send(connection: &mut Connection, transaction: &Transaction) -> Vec<Attempt> {
    let sending = connection.send(transaction, None);
    timeout(PATIENCE, sending).await.expect("sending ends").0.attempts
}

fn is_taken(attempt: &Attempt) -> bool {
    matches!(attempt, Attempt::Reply { stage: Stage::Dot, reply } if reply.is_positive())
}

#[tokio::test]
async fn any_certificate_is_better_than_clear_text() {
    let bench = Bench::new(|_| ());
    let body = b"Subject: x\r\n\r\n.dot\r\n";
    let receiving = async {
        let mut peer = Peer::accept(&bench.listener).await;
        peer.greet(&["STARTTLS"]).await;
        peer.expect("STARTTLS").await;
        peer.say("220 go\r\n").await;
        let mut peer = peer.secure().await;
        peer.ehlo(&[]).await;
        peer.take_message().await
    };
    let sending = async {
        let mut connection = bench.open().await.unwrap();
        assert_eq!(connection.tls(), Some("1.3"));
        send(&mut connection, &one(body)).await
    };
    let (received, attempts) = tokio::join!(receiving, sending);
    assert_eq!(received, b"Subject: x\r\n\r\n..dot\r\n");
    assert!(is_taken(&attempts[0]), "{attempts:?}");
    assert!(!bench.knows_broken_tls());
}

#[tokio::test]
async fn broken_tls_is_given_up_once_and_remembered() {
    let bench = Bench::new(|_| ());
    let receiving = async {
        let mut peer = Peer::accept(&bench.listener).await;
        peer.greet(&["STARTTLS"]).await;
        peer.expect("STARTTLS").await;
        peer.say("220 go\r\n").await;
        peer.say("this is no handshake\r\n").await;
        for _ in 0..2 {
            let mut peer = Peer::accept(&bench.listener).await;
            peer.greet(&["STARTTLS"]).await;
            peer.take_message().await;
        }
    };
    let sending = async {
        for _ in 0..2 {
            let mut connection = bench.open().await.unwrap();
            assert_eq!(connection.tls(), None);
            assert!(is_taken(&send(&mut connection, &one(b"x\r\n")).await[0]));
            assert!(bench.knows_broken_tls());
        }
    };
    tokio::join!(receiving, sending);
}

#[tokio::test]
async fn a_host_that_is_broken_altogether_is_not_taken_for_one_without_tls() {
    let bench = Bench::new(|_| ());
    let receiving = async {
        let mut peer = Peer::accept(&bench.listener).await;
        peer.greet(&["STARTTLS"]).await;
        peer.expect("STARTTLS").await;
        peer.say("454 4.7.0 Not now\r\n").await;
        drop(Peer::accept(&bench.listener).await);
    };
    let (opened, ()) = tokio::join!(bench.open(), receiving);
    let why = opened.unwrap_err();
    assert!(why.starts_with("greeting: "), "{why}");
    assert!(!bench.knows_broken_tls());
}

#[tokio::test]
async fn words_slipped_in_before_the_handshake_end_the_attempt() {
    let bench = Bench::new(|_| ());
    let receiving = async {
        let mut peer = Peer::accept(&bench.listener).await;
        peer.greet(&["STARTTLS"]).await;
        peer.expect("STARTTLS").await;
        peer.say("220 go\r\n250 injected\r\n").await;
        let heard = peer.line().await;
        // As after any other handshake that failed: once more in clear text.
        let mut peer = Peer::accept(&bench.listener).await;
        peer.greet(&["STARTTLS"]).await;
        (heard, peer)
    };
    let (opened, (heard, _peer)) = tokio::join!(bench.open(), receiving);
    assert_eq!(opened.unwrap().tls(), None);
    assert_eq!(heard, "", "nothing more is said over the first one");
}

#[tokio::test]
async fn a_peer_that_hangs_while_opening_is_left_in_time() {
    let soon = Duration::from_millis(200);
    for stage in [Stage::Greeting, Stage::Ehlo, Stage::Tls] {
        let bench = Bench::new(|c| match stage {
            Stage::Greeting => c.delivery.greeting_timeout = soon,
            Stage::Ehlo => c.delivery.command_timeout = soon,
            _ => {
                c.delivery.connect_timeout = soon;
                c.delivery.greeting_timeout = soon;
            }
        });
        let receiving = async {
            let mut peer = Peer::accept(&bench.listener).await;
            if stage == Stage::Ehlo {
                peer.say("220 mx.test\r\n").await;
            }
            if stage == Stage::Tls {
                peer.greet(&["STARTTLS"]).await;
                peer.expect("STARTTLS").await;
                // Then, in clear text, it does not greet either.
                _ = Peer::accept(&bench.listener).await.line().await;
            }
            while !peer.line().await.is_empty() {}
        };
        let (opened, ()) = tokio::join!(bench.open(), receiving);
        let (why, at) = (opened.unwrap_err(), stage.as_str());
        let at = if stage == Stage::Tls { Stage::Greeting.as_str() } else { at };
        assert!(why.starts_with(&format!("{at}: timed out")), "{why}");
    }
}

#[tokio::test]
async fn a_peer_that_hangs_in_a_transaction_is_left_in_time() {
    let soon = Duration::from_millis(200);
    for hang in [Stage::Mail, Stage::Rcpt, Stage::Data, Stage::Body, Stage::Dot] {
        let bench = Bench::new(|c| match hang {
            Stage::Data => c.delivery.data_timeout = soon,
            Stage::Body => c.delivery.block_timeout = soon,
            Stage::Dot => c.delivery.dot_timeout = soon,
            _ => c.delivery.command_timeout = soon,
        });
        let (mut connection, mut peer) = bench.opened(&[]).await;
        // More than all buffers between us take, where it is to be left unread.
        let body = vec![b'x'; if hang == Stage::Body { 32 << 20 } else { 100 }];
        let transaction = one(&body);
        let hanging = async {
            let replies = ["250", "250", "354"];
            let stages = [Stage::Mail, Stage::Rcpt, Stage::Data];
            for (stage, reply) in stages.into_iter().zip(replies) {
                peer.line().await;
                if stage == hang {
                    return peer;
                }
                peer.say(&format!("{reply} ok\r\n")).await;
            }
            peer
        };
        let sending = send(&mut connection, &transaction);
        let (attempts, _peer) = tokio::join!(sending, hanging);
        let Attempt::Lost { stage, error, in_doubt } = &attempts[0] else {
            panic!("{attempts:?}");
        };
        assert_eq!((*stage, *in_doubt), (hang, hang == Stage::Dot), "{error}");
        assert!(error.starts_with("timed out after "), "{error}");
        assert!(!connection.is_open());
    }
}

#[tokio::test]
async fn a_transaction_has_an_end_whatever_the_peer_makes_of_it() {
    let bench = Bench::new(|c| c.delivery.transaction_timeout = Duration::from_millis(500));
    let (mut connection, mut peer) = bench.opened(&[]).await;
    let recipients: Vec<String> = (0..1_000).map(|n| format!("r{n}@d.test")).collect();
    let transaction = transaction(&recipients, b"x\r\n");
    // Every reply is in time, but there are too many of them.
    let dawdling = async {
        while !peer.line().await.is_empty() {
            sleep(Duration::from_millis(20)).await;
            peer.say("250 ok\r\n").await;
        }
    };
    let sending = async {
        let attempts = send(&mut connection, &transaction).await;
        drop(connection);
        attempts
    };
    let (attempts, ()) = tokio::join!(sending, dawdling);
    let lost = |a: &Attempt| matches!(a, Attempt::Lost { in_doubt: false, .. });
    assert!(attempts.len() == 1_000 && attempts.iter().all(lost), "{:?}", attempts[999]);
}

#[tokio::test]
async fn a_peer_that_reads_slowly_gets_all_of_a_large_message() {
    let patience = Duration::from_secs(1);
    let bench = Bench::new(|c| c.delivery.block_timeout = patience);
    let (mut connection, mut peer) = bench.opened(&[]).await;
    let body = b".a line that begins with a dot\r\n".repeat(16 << 15);
    let transaction = one(&body);
    let receiving = async {
        for reply in ["250", "250", "354"] {
            peer.line().await;
            peer.say(&format!("{reply} ok\r\n")).await;
        }
        let (mut piece, mut got) = (vec![0; 512 << 10], Vec::new());
        while !got.ends_with(b"\r\n.\r\n") {
            let count = timeout(PATIENCE, peer.0.read_exact(&mut piece[..1])).await;
            count.expect("more of it").unwrap();
            got.push(piece[0]);
            // As much as is there, up to a piece; then it rests.
            while got.len() % piece.len() != 0 {
                let space = piece.len() - got.len() % piece.len();
                let read = peer.0.read(&mut piece[..space]);
                let Ok(count) = timeout(Duration::from_millis(200), read).await else { break };
                got.extend_from_slice(&piece[..count.unwrap()]);
                if got.ends_with(b"\r\n.\r\n") {
                    break;
                }
            }
            sleep(patience / 10).await;
        }
        peer.say("250 2.0.0 taken\r\n").await;
        got
    };
    let begun = bench.clock.now();
    let (attempts, got) = tokio::join!(send(&mut connection, &transaction), receiving);
    assert!(is_taken(&attempts[0]), "{attempts:?}");
    assert!(bench.clock.now().since(begun) > patience, "it was slow enough to tell");
    assert_eq!(got.len(), body.len() + (16 << 15) + 3);
    assert!(got.chunks_exact(33).all(|line| line == b"..a line that begins with a dot\r\n"));
    assert!(connection.is_open());
}

#[tokio::test]
async fn a_peer_that_answers_before_it_reads_on_does_not_hold_us_up() {
    // Commands and replies are each more than the kernel's buffers take (4 and 6 MiB at most).
    const COUNT: usize = 20_000;
    let bench = Bench::new(|_| ());
    let (mut connection, mut peer) = bench.opened(&["PIPELINING"]).await;
    let (local, domain) = ("l".repeat(50), "d".repeat(62));
    let recipients: Vec<String> =
        (0..COUNT).map(|n| format!("{local}{n}@{domain}.{domain}.{domain}.test")).collect();
    let transaction = transaction(&recipients, b"x\r\n");
    let long = "w".repeat(1_000);
    let receiving = async {
        peer.expect("MAIL").await;
        peer.say("250 ok\r\n").await;
        for n in 0..COUNT {
            let code = if n % 3 == 0 { 550 } else { 250 };
            peer.say(&format!("{code} {n} {long}\r\n")).await;
        }
        for n in 0..COUNT {
            peer.expect(&format!("RCPT TO:<{local}{n}@")).await;
        }
        peer.expect("DATA").await;
        peer.say("354 go\r\n").await;
        while peer.line().await != "." {}
        peer.say("250 taken\r\n").await;
    };
    let (attempts, ()) = tokio::join!(send(&mut connection, &transaction), receiving);
    assert_eq!(attempts.len(), COUNT);
    for (n, attempt) in attempts.iter().enumerate() {
        let Attempt::Reply { stage, reply } = attempt else { panic!("{n}: {attempt:?}") };
        let refused = *stage == Stage::Rcpt && reply.text.starts_with(&format!("{n} w"));
        assert!(if n % 3 == 0 { refused } else { is_taken(attempt) }, "{n}: {attempt:?}");
        assert!(
            reply.text.chars().count() <= REPLY_TEXT_MAX + 1,
            "what is kept of a reply is bounded"
        );
    }
}

#[tokio::test]
async fn an_idle_connection_that_the_peer_ends_is_noticed() {
    for farewell in ["421 4.4.2 Idle for too long\r\n", "250 nobody asked\r\n", ""] {
        let bench = Bench::new(|_| ());
        let (mut connection, mut peer) = bench.opened(&[]).await;
        let transaction = one(b"x\r\n");
        let (attempts, _) = tokio::join!(send(&mut connection, &transaction), peer.take_message());
        assert!(is_taken(&attempts[0]) && connection.is_open());
        peer.say(farewell).await;
        drop(peer);
        timeout(PATIENCE, connection.idle()).await.expect("its end is noticed");
        assert!(!connection.is_open());
        let late = send(&mut connection, &transaction).await;
        assert_eq!(late, [Attempt::NotStarted], "nothing is tried on it");
    }
}

#[tokio::test]
async fn it_stays_until_the_peer_has_closed() {
    let bench = Bench::new(|_| ());
    let (connection, mut peer) = bench.opened(&[]).await;
    let quitting = connection.quit();
    tokio::pin!(quitting);
    let said = async {
        peer.expect("QUIT").await;
        peer.say("221 bye\r\n").await;
    };
    tokio::select! {
        biased;
        () = said => {}
        () = &mut quitting => panic!("it left before the reply"),
    }
    let early = timeout(Duration::from_millis(50), &mut quitting).await;
    assert!(early.is_err(), "the peer still counts it");
    drop(peer);
    timeout(PATIENCE, quitting).await.expect("it leaves");
}

#[tokio::test]
async fn a_goodbye_is_not_waited_for_long() {
    let bench = Bench::new(|_| ());
    let (connection, mut peer) = bench.opened(&[]).await;
    let (left, ()) = tokio::join!(timeout(PATIENCE, connection.quit()), async {
        peer.expect("QUIT").await;
        assert_eq!(peer.line().await, "", "it leaves without a reply");
    });
    left.expect("it leaves");
}
