//! A session for each message, as programs of web servers have them, beside Postfix: in clear, with
//! STARTTLS, and with a login.

use crate::client::{Way, tls};
use crate::postfix::Postfix;
use crate::support::{Setup, binary, tool};
use crate::{House, address, at, newsletter};
use rcgen::{CertificateParams, KeyPair, RsaKeySize};
use rcgen::{PKCS_ECDSA_P256_SHA256, PKCS_RSA_SHA256};
use rustls_pki_types::CertificateDer;
use std::net::SocketAddr;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tempfile::TempDir;
use tokio_rustls::TlsConnector;

const SPAN: Duration = Duration::from_secs(3);
const ROUNDS: usize = 3;
/// "\0ann\0correct horse"
const LOGIN: &str = "AGFubgBjb3JyZWN0IGhvcnNl";
const PARALLEL: [usize; 3] = [1, 20, 50];

pub(crate) fn sessions() {
    println!(
        "medians of {ROUNDS} rounds of {} s in turns; CPU ms a session, of the server alone",
        SPAN.as_secs()
    );
    let ecdsa = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
    let rsa = KeyPair::generate_rsa_for(&PKCS_RSA_SHA256, RsaKeySize::_2048).unwrap();
    let pair = Pair::new(&ecdsa);
    pair.compare("clear", false, false);
    pair.compare("STARTTLS, ECDSA P-256", true, false);
    pair.compare("STARTTLS, ECDSA P-256, AUTH PLAIN", true, true);
    drop(pair);
    Pair::new(&rsa).compare("STARTTLS, RSA 2048", true, false);
}

/// Both, with the same certificate.
struct Pair {
    house: House,
    postfix: Option<Postfix>,
    connector: TlsConnector,
    _dir: TempDir,
}

impl Pair {
    fn new(key: &KeyPair) -> Self {
        let params = CertificateParams::new(vec!["relay.test".to_string()]).unwrap();
        let certificate = params.self_signed(key).unwrap();
        let pem = key.serialize_pem() + &certificate.pem();
        let dir = TempDir::with_prefix("bulkhead-bench-").unwrap();
        let file = |name: &str| dir.path().join(name).display().to_string();
        std::fs::write(file("tls.pem"), &pem).unwrap();
        let add = |setup: Setup| {
            setup.set("tls", "certificate", &format!("{:?}", file("tls.pem"))).set(
                "auth",
                "users",
                &format!("{:?}", file("users")),
            )
        };
        let mut house = House::new(add);
        let mut user = Command::new(binary());
        user.args(["user", "add", "ann", "--config"]).arg(house.node.config());
        tool::run(&mut user, b"correct horse\n");
        house.node.restart();
        let connector = tls(CertificateDer::from(certificate.der().to_vec()));
        Self { house, postfix: Postfix::start(&pem), connector, _dir: dir }
    }

    fn compare(&self, name: &str, has_tls: bool, has_login: bool) {
        for parallel in PARALLEL {
            self.compare_at(parallel, name, has_tls, has_login);
        }
    }

    fn compare_at(&self, parallel: usize, name: &str, has_tls: bool, has_login: bool) {
        let way = |to: SocketAddr| Way {
            to,
            tls: has_tls.then(|| self.connector.clone()),
            login: has_login.then_some(LOGIN),
        };
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            let (pid, begun) = (self.house.node.pid(), Instant::now());
            let cpu = cpu_of(pid);
            let done = load(&way(at(&self.house)), parallel);
            let used = cpu_of(pid) - cpu;
            ours.push((done / begun.elapsed().as_secs_f64(), used * 1e3 / done));
            if let Some(postfix) = &self.postfix {
                let (cpu, begun) = (postfix.cpu(), Instant::now());
                let done = load(&way(postfix.address), parallel);
                let used = postfix.cpu() - cpu;
                theirs.push((done / begun.elapsed().as_secs_f64(), used * 1e3 / done));
            }
        }
        let (rate, cpu) = median(ours);
        print!("{name:34} {parallel:2} at once: {rate:7.0}/s, CPU {cpu:6.3} ms");
        if !theirs.is_empty() {
            let (their_rate, their_cpu) = median(theirs);
            print!(
                "; Postfix {their_rate:6.0}/s, CPU {their_cpu:6.3} ms; ratio {:5.2}, of CPU {:5.1}",
                rate / their_rate,
                their_cpu / cpu
            );
        }
        println!();
    }
}

/// Sessions that were had, so many at once.
fn load(way: &Way, parallel: usize) -> f64 {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let (done, message) = (Arc::new(AtomicU64::new(0)), newsletter());
    let end = Instant::now() + SPAN;
    let clients: Vec<_> = (0..parallel)
        .map(|n| {
            let (way, message, done) = (way.clone(), message.clone(), Arc::clone(&done));
            runtime.spawn(async move {
                while Instant::now() < end {
                    way.send(address(6, n), &message).await.unwrap();
                    done.fetch_add(1, Ordering::Relaxed);
                }
            })
        })
        .collect();
    for client in clients {
        runtime.block_on(client).unwrap();
    }
    done.load(Ordering::Relaxed) as f64
}

/// Seconds of the processor that a process has used so far.
fn cpu_of(pid: u32) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let words: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
    f64::from(words[11].parse::<u32>().unwrap() + words[12].parse::<u32>().unwrap()) / 100.0
}

/// Of each figure by itself.
fn median(figures: Vec<(f64, f64)>) -> (f64, f64) {
    let middle = |mut all: Vec<f64>| {
        all.sort_by(f64::total_cmp);
        all.get(all.len() / 2).copied().unwrap_or(f64::NAN)
    };
    let (rates, cpus) = figures.into_iter().unzip();
    (middle(rates), middle(cpus))
}
