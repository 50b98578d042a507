//! A name server of the test's own: records set by the test, counted queries, failures on demand.
//!
//! It answers as a resolver would: with the records behind a CNAME, NXDOMAIN for names it does not
//! know, no records for types a known name lacks. Served by hickory-server on UDP and TCP.

use super::runtime;
use hickory_server::net::runtime::Time;
use hickory_server::proto::op::{Header, HeaderCounts, Metadata, ResponseCode};
use hickory_server::proto::rr::rdata::{A, AAAA, CNAME, MX, SOA};
use hickory_server::proto::rr::{Name, RData, Record, RecordType};
use hickory_server::server::{Request, RequestHandler, ResponseHandler, ResponseInfo, Server};
use hickory_server::zone_handler::MessageResponseBuilder;
use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// How queries are answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answering {
    /// From the records.
    Normally,
    /// SERVFAIL.
    ServFail,
    /// Not at all.
    Never,
}

/// The server; ends when dropped.
pub struct Dns {
    address: SocketAddr,
    zone: Arc<Zone>,
    _server: Server<Handler>,
}

struct Zone {
    state: Mutex<State>,
}

struct State {
    records: HashMap<String, Vec<RData>>,
    queries: HashMap<String, u64>,
    answering: Answering,
    /// Overrides `answering` for single names.
    names: HashMap<String, Answering>,
    ttl: u32,
}

impl Dns {
    /// Starts on a free loopback port (the same one for UDP and TCP).
    pub fn new() -> Self {
        let zone = Arc::new(Zone {
            state: Mutex::new(State {
                records: HashMap::new(),
                queries: HashMap::new(),
                answering: Answering::Normally,
                names: HashMap::new(),
                ttl: 300,
            }),
        });
        let (address, server) = runtime().block_on(async {
            loop {
                let udp = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
                let address = udp.local_addr().unwrap();
                let Ok(tcp) = tokio::net::TcpListener::bind(address).await else { continue };
                let mut server = Server::new(Handler(zone.clone()));
                server.register_socket(udp);
                server.register_listener(tcp, Duration::from_secs(5), 16);
                return (address, server);
            }
        });
        Self { address, zone, _server: server }
    }

    /// For `[dns] servers`.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// MX records of `domain`, in place of earlier ones.
    pub fn mx(&self, domain: &str, hosts: &[(u16, &str)]) -> &Self {
        let records =
            hosts.iter().map(|(preference, host)| RData::MX(MX::new(*preference, name(host))));
        self.replace(domain, |r| matches!(r, RData::MX(_)), records.collect())
    }

    /// The null MX (RFC 7505): `domain` takes no mail.
    pub fn null_mx(&self, domain: &str) -> &Self {
        self.mx(domain, &[(0, ".")])
    }

    /// One more address of `host`, v4 or v6.
    pub fn a(&self, host: &str, address: &str) -> &Self {
        let data = match address.parse().unwrap() {
            IpAddr::V4(v4) => RData::A(A(v4)),
            IpAddr::V6(v6) => RData::AAAA(AAAA(v6)),
        };
        self.add(host, data)
    }

    /// `alias` is another name of `target`.
    pub fn cname(&self, alias: &str, target: &str) -> &Self {
        self.replace(alias, |_| true, vec![RData::CNAME(CNAME(name(target)))])
    }

    /// Forgets all records of a name: NXDOMAIN from now on.
    pub fn remove(&self, host: &str) -> &Self {
        self.lock().records.remove(&key(host));
        self
    }

    /// TTL of all answers in seconds (300 at first).
    pub fn ttl(&self, seconds: u32) -> &Self {
        self.lock().ttl = seconds;
        self
    }

    /// Changes how every query is answered from now on.
    pub fn answer(&self, answering: Answering) -> &Self {
        self.lock().answering = answering;
        self
    }

    /// Changes how queries for one name are answered from now on.
    pub fn answer_for(&self, host: &str, answering: Answering) -> &Self {
        self.lock().names.insert(key(host), answering);
        self
    }

    /// Queries for this name so far, of any type.
    pub fn queries(&self, host: &str) -> u64 {
        self.lock().queries.get(&key(host)).copied().unwrap_or(0)
    }

    /// Queries so far.
    pub fn queries_total(&self) -> u64 {
        self.lock().queries.values().sum()
    }

    fn add(&self, host: &str, data: RData) -> &Self {
        self.lock().records.entry(key(host)).or_default().push(data);
        self
    }

    fn replace(&self, host: &str, old: impl Fn(&RData) -> bool, new: Vec<RData>) -> &Self {
        let mut state = self.lock();
        let records = state.records.entry(key(host)).or_default();
        records.retain(|r| !old(r));
        records.extend(new);
        drop(state);
        self
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.zone.state.lock().unwrap()
    }
}

fn name(text: &str) -> Name {
    let mut name = Name::from_utf8(text).unwrap();
    name.set_fqdn(true);
    name
}

/// How names are compared: lower case, no final dot.
fn key(text: &str) -> String {
    name(text).to_ascii().trim_end_matches('.').to_lowercase()
}

impl State {
    /// The records for a query, CNAMEs first, and whether the name exists.
    fn find(&self, asked: &Name, kind: RecordType) -> (Vec<Record>, bool) {
        let mut owner = asked.clone();
        let mut found = Vec::new();
        // A chain of CNAMEs has an end, even where a test makes a loop.
        for _ in 0..16 {
            let Some(records) = self.records.get(&key(&owner.to_ascii())) else {
                return (found, false);
            };
            let record = |data: &RData| Record::from_rdata(owner.clone(), self.ttl, data.clone());
            found.extend(records.iter().filter(|r| r.record_type() == kind).map(record));
            let target = records.iter().find_map(|r| match r {
                RData::CNAME(target) => Some(target.0.clone()),
                _ => None,
            });
            match target {
                Some(target) if kind != RecordType::CNAME => {
                    found.push(record(&RData::CNAME(CNAME(target.clone()))));
                    owner = target;
                }
                _ => break,
            }
        }
        (found, true)
    }
}

struct Handler(Arc<Zone>);

impl Handler {
    /// Code and answers; `None` where there is to be no reply.
    fn look_up(&self, asked: &Name, kind: RecordType) -> Option<(ResponseCode, Vec<Record>)> {
        let mut state = self.0.state.lock().unwrap();
        let key = key(&asked.to_ascii());
        *state.queries.entry(key.clone()).or_default() += 1;
        match state.names.get(&key).copied().unwrap_or(state.answering) {
            Answering::Never => None,
            Answering::ServFail => Some((ResponseCode::ServFail, Vec::new())),
            Answering::Normally => Some(match state.find(asked, kind) {
                (records, true) => (ResponseCode::NoError, records),
                (records, false) => (ResponseCode::NXDomain, records),
            }),
        }
    }
}

#[async_trait::async_trait]
impl RequestHandler for Handler {
    async fn handle_request<R: ResponseHandler, T: Time>(
        &self,
        request: &Request,
        mut response: R,
    ) -> ResponseInfo {
        let mut metadata = Metadata::response_from_request(&request.metadata);
        metadata.recursion_available = true;
        let unanswered = ResponseInfo::from(Header { metadata, counts: HeaderCounts::default() });
        let Ok(info) = request.request_info() else { return unanswered };
        let asked = Name::from(info.query.name());
        let Some((code, answers)) = self.look_up(&asked, info.query.query_type()) else {
            return unanswered;
        };
        metadata.response_code = code;
        let soa = SOA::new(name("ns.test"), name("root.test"), 1, 3600, 600, 86400, 60);
        let soa = Record::from_rdata(name("test"), 60, RData::SOA(soa));
        let negative = answers.is_empty().then_some(&soa);
        let reply = MessageResponseBuilder::from_message_request(request)
            .build(metadata, &answers, None, negative, None);
        response.send_response(reply).await.unwrap_or(unanswered)
    }
}
