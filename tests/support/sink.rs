//! The receiving hosts of a test: any number of loopback addresses on one port, each with a script.
//!
//! Everything delivered is recorded with its exact bytes. A host accepts all mail until [`Rule`]s
//! say otherwise; the first rule that fits a command decides, and rules may be changed at any time.

use super::{message, runtime};
use std::collections::{BTreeSet, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::net::TcpListener;
use tokio::task::AbortHandle;

/// Where in a session a rule applies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Before the banner.
    Banner,
    /// EHLO or HELO.
    Ehlo,
    /// STARTTLS.
    StartTls,
    /// MAIL.
    Mail,
    /// RCPT.
    Rcpt,
    /// DATA.
    Data,
    /// The last dot, or the last BDAT.
    Dot,
    /// RSET, NOOP.
    Rset,
    /// QUIT.
    Quit,
}

/// What the host does there.
#[derive(Clone, Debug)]
pub enum Act {
    /// Sends this and CRLF; lines of a longer reply have CRLF between them.
    Reply(String),
    /// Sends this and CRLF, then closes.
    ReplyAndClose(String),
    /// Sends nothing and goes on: one reply too few.
    Nothing,
    /// Closes.
    Close,
    /// Sends nothing ever again; reads on.
    Hang,
    /// Sends this line again and again, until the peer closes.
    Endless(String),
    /// Sends this and CRLF one byte at a time.
    Drip(String, Duration),
}

/// An exception to accepting everything.
#[derive(Clone, Debug)]
pub struct Rule {
    pub(super) stage: Stage,
    pub(super) act: Act,
    pub(super) delay: Duration,
    /// Only for command lines that contain this.
    pub(super) containing: Option<String>,
    /// Only for sessions from this address.
    pub(super) client: Option<IpAddr>,
    /// Only for the n-th that would fit, from 1, in the host's life.
    pub(super) nth: Option<u64>,
    /// Ends after that many.
    pub(super) times: u64,
    pub(super) seen: u64,
}

impl Rule {
    /// `act` at `stage`, always.
    pub fn new(stage: Stage, act: Act) -> Self {
        Self {
            stage,
            act,
            delay: Duration::ZERO,
            containing: None,
            client: None,
            nth: None,
            times: u64::MAX,
            seen: 0,
        }
    }

    /// A reply at a stage, always.
    pub fn reply(stage: Stage, text: &str) -> Self {
        Self::new(stage, Act::Reply(text.to_string()))
    }

    /// Only for command lines that contain `text`.
    pub fn containing(mut self, text: &str) -> Self {
        self.containing = Some(text.to_string());
        self
    }

    /// Only for sessions from this address.
    pub fn from(mut self, client: &str) -> Self {
        self.client = Some(client.parse().unwrap());
        self
    }

    /// Only for the n-th that fits, from 1, in the host's life.
    pub fn nth(mut self, n: u64) -> Self {
        self.nth = Some(n);
        self
    }

    /// Only for the first `n`.
    pub fn times(mut self, n: u64) -> Self {
        self.times = n;
        self
    }

    /// After this time.
    pub fn delayed(mut self, delay: Duration) -> Self {
        self.delay = delay;
        self
    }

    fn fits(&mut self, stage: Stage, line: &str, client: IpAddr) -> bool {
        let wanted = self.containing.as_ref().is_none_or(|text| line.contains(text.as_str()));
        let wanted = wanted && self.client.is_none_or(|wanted| wanted == client);
        if self.stage != stage || !wanted {
            return false;
        }
        self.seen += 1;
        self.seen <= self.times && self.nth.is_none_or(|n| n == self.seen)
    }
}

/// One transaction that reached its end.
#[derive(Clone, Debug)]
pub struct Delivered {
    /// Which host took it.
    pub host: IpAddr,
    /// Where it came from.
    pub client: IpAddr,
    /// How the client called itself in EHLO.
    pub hello: String,
    /// Session number, unique in the sink.
    pub session: u64,
    /// Inside the angle brackets of MAIL.
    pub sender: String,
    /// Behind the path of MAIL.
    pub mail_parameters: String,
    /// Inside the angle brackets of each RCPT that was accepted.
    pub recipients: Vec<String>,
    /// Behind the paths of those.
    pub rcpt_parameters: Vec<String>,
    /// The message without dot-stuffing; empty where the sink does not keep bodies.
    pub body: Vec<u8>,
    /// `X-Test-Id`.
    pub id: Option<String>,
    /// When its last byte was here.
    pub at: Instant,
    /// A 2xx reply was sent; false where the rule for the dot did otherwise.
    pub confirmed: bool,
    /// It came by BDAT.
    pub chunked: bool,
    /// Over TLS.
    pub encrypted: bool,
}

/// All hosts of a test; they end when it is dropped.
pub struct Sink {
    port: u16,
    shared: Arc<Shared>,
    listeners: Mutex<Vec<AbortHandle>>,
}

/// What sessions of all hosts share.
pub(super) struct Shared {
    pub(super) delivered: Mutex<Vec<Delivered>>,
    pub(super) sessions: AtomicU64,
    /// Open now, at all hosts.
    pub(super) open: AtomicU64,
    /// Most at once.
    pub(super) peak: AtomicU64,
    pub(super) keep_bodies: AtomicBool,
}

/// One address.
pub struct Host {
    pub(super) address: IpAddr,
    pub(super) script: Mutex<Script>,
    pub(super) counts: Mutex<Counts>,
    /// Sessions open now and the most at once, by where they came from.
    pub(super) clients: Mutex<HashMap<IpAddr, (u64, u64)>>,
    /// Every command line, up to a limit.
    pub(super) commands: Mutex<Vec<String>>,
}

/// What a host is told to do.
pub(super) struct Script {
    pub(super) rules: Vec<Rule>,
    pub(super) extensions: Vec<String>,
    /// Time before each batch of replies leaves.
    pub(super) round_trip: Duration,
    pub(super) sessions_max: u64,
    pub(super) tls: Option<Arc<rustls::ServerConfig>>,
}

/// What a host has seen.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counts {
    /// Connections accepted.
    pub sessions: u64,
    /// Of those, open now.
    pub open: u64,
    /// Most that were open at once.
    pub peak: u64,
    /// Transactions whose MAIL was there before the reply to the last dot of the one before.
    pub rode_on_dot: u64,
}

impl Sink {
    /// Takes a free port; hosts are added by [`Sink::host`].
    pub fn new() -> Self {
        // An address that no host uses, bound as long as the sink lives: two sinks, of whatever
        // process, thus never have the same port.
        let listener = runtime().block_on(TcpListener::bind("127.0.0.254:0")).unwrap();
        let shared = Arc::new(Shared {
            delivered: Mutex::new(Vec::new()),
            sessions: AtomicU64::new(0),
            open: AtomicU64::new(0),
            peak: AtomicU64::new(0),
            keep_bodies: AtomicBool::new(true),
        });
        let port = listener.local_addr().unwrap().port();
        let guard = runtime().spawn(async move {
            let _listener = listener;
            std::future::pending::<()>().await;
        });
        Self { port, shared, listeners: Mutex::new(vec![guard.abort_handle()]) }
    }

    /// For `[delivery] port`.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Starts a host on a loopback address of its own, 127.0.0.2 to 127.255.255.253.
    pub fn host(&self, address: &str) -> Arc<Host> {
        let address: IpAddr = address.parse().unwrap();
        let socket = SocketAddr::new(address, self.port);
        let listener = runtime().block_on(TcpListener::bind(socket)).unwrap();
        let host = Arc::new(Host {
            address,
            script: Mutex::new(Script {
                rules: Vec::new(),
                extensions: EXTENSIONS.map(str::to_string).to_vec(),
                round_trip: Duration::ZERO,
                sessions_max: u64::MAX,
                tls: None,
            }),
            counts: Mutex::default(),
            clients: Mutex::default(),
            commands: Mutex::default(),
        });
        let (shared, served) = (self.shared.clone(), host.clone());
        let task = runtime().spawn(accept(listener, served, shared));
        self.listeners.lock().unwrap().push(task.abort_handle());
        host
    }

    /// Most sessions at once, at all hosts together.
    pub fn peak(&self) -> u64 {
        self.shared.peak.load(Ordering::Relaxed)
    }

    /// Keeps no bodies from now on, only envelopes and ids.
    pub fn without_bodies(self) -> Self {
        self.shared.keep_bodies.store(false, Ordering::Relaxed);
        self
    }

    /// All transactions so far, confirmed or not, in order of arrival.
    pub fn delivered(&self) -> Vec<Delivered> {
        self.shared.delivered.lock().unwrap().clone()
    }

    /// Reads through the transactions so far without copying them.
    pub fn scan<T>(&self, read: impl FnOnce(&[Delivered]) -> T) -> T {
        read(&self.shared.delivered.lock().unwrap())
    }

    /// All transactions so far, confirmed or not, which the sink forgets.
    pub fn take(&self) -> Vec<Delivered> {
        std::mem::take(&mut self.shared.delivered.lock().unwrap())
    }

    /// Confirmed recipients so far: a transaction with three counts three.
    pub fn count(&self) -> usize {
        let count = |d: &Delivered| if d.confirmed { d.recipients.len() } else { 0 };
        self.scan(|all| all.iter().map(count).sum())
    }

    /// Confirmed transactions whose `X-Test-Id` is `id`.
    pub fn with_id(&self, id: &str) -> Vec<Delivered> {
        let wanted = |d: &&Delivered| d.confirmed && d.id.as_deref() == Some(id);
        self.scan(|all| all.iter().filter(wanted).cloned().collect())
    }

    /// Confirmed transactions with this recipient.
    pub fn to(&self, recipient: &str) -> Vec<Delivered> {
        let wanted = |d: &&Delivered| d.confirmed && d.recipients.iter().any(|r| r == recipient);
        self.scan(|all| all.iter().filter(wanted).cloned().collect())
    }

    /// Recipients of confirmed transactions, each once.
    pub fn recipients(&self) -> BTreeSet<String> {
        let confirmed = |all: &[Delivered]| {
            all.iter().filter(|d| d.confirmed).flat_map(|d| d.recipients.clone()).collect()
        };
        self.scan(confirmed)
    }

    /// Waits for the confirmed transaction with this id, the only one.
    #[track_caller]
    pub fn wait_for(&self, id: &str) -> Delivered {
        super::wait_until(super::PATIENCE, &format!("delivery of {id}"), || {
            !self.with_id(id).is_empty()
        });
        let mut found = self.with_id(id);
        assert_eq!(found.len(), 1, "{id} came more than once");
        found.remove(0)
    }

    /// Waits until that many recipients were confirmed.
    #[track_caller]
    pub fn wait_for_count(&self, count: usize) {
        super::wait_until(super::PATIENCE, &format!("{count} deliveries"), || {
            self.count() >= count
        });
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        for task in self.listeners.lock().unwrap().drain(..) {
            task.abort();
        }
    }
}

/// What hosts announce unless told otherwise.
const EXTENSIONS: [&str; 6] =
    ["PIPELINING", "SIZE 104857600", "8BITMIME", "SMTPUTF8", "DSN", "ENHANCEDSTATUSCODES"];

impl Host {
    /// Its address.
    pub fn address(&self) -> IpAddr {
        self.address
    }

    /// Adds a rule behind those that are there.
    pub fn rule(&self, rule: Rule) -> &Self {
        self.script.lock().unwrap().rules.push(rule);
        self
    }

    /// Accepts everything again.
    pub fn accept_all(&self) -> &Self {
        self.script.lock().unwrap().rules.clear();
        self
    }

    /// Announces these instead.
    pub fn extensions(&self, extensions: &[&str]) -> &Self {
        self.script.lock().unwrap().extensions = extensions.iter().map(|e| (*e).into()).collect();
        self
    }

    /// Announces this too.
    pub fn extension(&self, extension: &str) -> &Self {
        self.script.lock().unwrap().extensions.push(extension.to_string());
        self
    }

    /// Every batch of replies leaves this much later.
    pub fn round_trip(&self, time: Duration) -> &Self {
        self.script.lock().unwrap().round_trip = time;
        self
    }

    /// Greets with 421 what comes while so many sessions are open.
    pub fn sessions_max(&self, max: u64) -> &Self {
        self.script.lock().unwrap().sessions_max = max;
        self
    }

    /// Offers STARTTLS with a certificate that nobody signed.
    pub fn tls(&self) -> &Self {
        let made = rcgen::generate_simple_self_signed(vec!["sink.test".to_string()]).unwrap();
        let key = rustls_pki_types::PrivateKeyDer::try_from(made.signing_key.serialize_der());
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![made.cert.der().clone()], key.unwrap())
            .unwrap();
        self.script.lock().unwrap().tls = Some(Arc::new(config));
        self
    }

    /// What it has seen so far.
    pub fn counts(&self) -> Counts {
        *self.counts.lock().unwrap()
    }

    /// Most sessions from this address at once.
    pub fn peak_from(&self, client: &str) -> u64 {
        let client: IpAddr = client.parse().unwrap();
        self.clients.lock().unwrap().get(&client).map_or(0, |(_, peak)| *peak)
    }

    /// Every command line so far, up to 100,000.
    pub fn commands(&self) -> Vec<String> {
        self.commands.lock().unwrap().clone()
    }

    /// How many command lines began so (in upper case).
    pub fn count_commands(&self, start: &str) -> usize {
        let begins =
            |line: &&String| line.to_ascii_uppercase().starts_with(&start.to_ascii_uppercase());
        self.commands.lock().unwrap().iter().filter(begins).count()
    }

    /// What the rules say about this command.
    pub(super) fn decide(
        &self,
        stage: Stage,
        line: &str,
        client: IpAddr,
    ) -> Option<(Act, Duration)> {
        let mut script = self.script.lock().unwrap();
        let mut rules = script.rules.iter_mut();
        let rule = rules.find_map(|rule| rule.fits(stage, line, client).then_some(rule))?;
        Some((rule.act.clone(), rule.delay))
    }
}

async fn accept(listener: TcpListener, host: Arc<Host>, shared: Arc<Shared>) {
    // Dropped with this task, and the sessions with it.
    let mut sessions = tokio::task::JoinSet::new();
    loop {
        let Ok((stream, client)) = listener.accept().await else { continue };
        let _ = stream.set_nodelay(true);
        sessions.spawn(super::sink_session::serve(
            stream,
            client.ip(),
            host.clone(),
            shared.clone(),
        ));
        while sessions.try_join_next().is_some() {}
    }
}

/// For [`Delivered::id`].
pub(super) fn id_of(body: &[u8]) -> Option<String> {
    message::test_id(body)
}
