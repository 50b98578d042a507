//! How fast the embedded store is, and what a message costs it in CPU time.
//!
//! `cargo bench --bench store [-- DIR [PAGE_SIZE]]`: DIR is where the queue goes, since
//! the disk decides; default: the system's folder for temporary files.
// A measurement: it reads the clock and gives up loudly.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

use bulkhead::base::address::{Mailbox, ReversePath};
use bulkhead::base::id::IdGenerator;
use bulkhead::base::time::{Clock, Timestamp};
use bulkhead::mail::envelope::{Envelope, Recipient};
use bulkhead::mail::message::{Lane, NewMessage, Origin};
use bulkhead::store::embedded::{EmbeddedStore, Options};
use bulkhead::store::{Claim, Outcome, QueueId, Revision, Settled, Settlement, Store};
use bytes::Bytes;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

const TTL: Duration = Duration::from_secs(300);
/// Deliveries claimed and settled together.
const BATCH: u32 = 100;
/// Workers that drain.
const WORKERS: usize = 8;

#[tokio::main]
async fn main() {
    let mut args = std::env::args().skip(1).filter(|arg| !arg.starts_with('-'));
    let base = args.next().map_or_else(std::env::temp_dir, PathBuf::from);
    let mut options = Options { free_space_min: 0, ..Options::default() };
    if let Some(size) = args.next() {
        options.page_size = size.parse().unwrap();
    }
    println!("{options:?}");
    println!("accept      producers  KiB   messages/s   us CPU each");
    for (producers, kib, count) in [
        (1, 4, 2_000),
        (32, 4, 60_000),
        (512, 4, 100_000),
        (1, 50, 1_000),
        (32, 50, 10_000),
        (512, 50, 10_000),
    ] {
        let bench = Bench::new(&base, &options, kib * 1024);
        let (rate, cpu) = bench.accept(producers, count, 1_000).await;
        println!("            {producers:9}  {kib:3}   {rate:10.0}   {cpu:11.1}");
    }
    println!("drain          queues  KiB deliveries/s   us CPU each");
    for (queues, kib, count) in [(1, 4, 100_000), (1_000, 4, 100_000), (1_000, 50, 10_000)] {
        let bench = Bench::new(&base, &options, kib * 1024);
        bench.accept(512, count, queues).await;
        let (rate, cpu) = bench.drain(count).await;
        println!("            {queues:9}  {kib:3}   {rate:10.0}   {cpu:11.1}");
    }
}

struct Bench {
    store: EmbeddedStore,
    ids: Arc<Mutex<IdGenerator>>,
    body: Bytes,
    /// Removed at the end.
    _dir: tempfile::TempDir,
}

impl Bench {
    fn new(base: &std::path::Path, options: &Options, size: usize) -> Self {
        let dir = tempfile::tempdir_in(base).unwrap();
        let store = EmbeddedStore::open(dir.path(), Clock::system(), options.clone()).unwrap();
        let ids = Arc::new(Mutex::new(IdGenerator::after(None)));
        Self { store, ids, body: Bytes::from(vec![b'x'; size]), _dir: dir }
    }

    /// Messages per second and CPU microseconds of each; every producer waits for its answer.
    async fn accept(&self, producers: u64, count: u64, queues: u64) -> (f64, f64) {
        let (start, cpu) = (Instant::now(), cpu_time());
        let next = Arc::new(AtomicU64::new(0));
        let mut tasks = tokio::task::JoinSet::new();
        for _ in 0..producers {
            let (store, ids, body) = (self.store.clone(), Arc::clone(&self.ids), self.body.clone());
            let next = Arc::clone(&next);
            tasks.spawn(async move {
                loop {
                    let n = next.fetch_add(1, Ordering::Relaxed);
                    if n >= count {
                        return;
                    }
                    let message = message(&ids, n, n % queues, body.clone());
                    store.accept(message, None).await.unwrap();
                }
            });
        }
        while tasks.join_next().await.is_some() {}
        per(count, start, cpu)
    }

    /// Deliveries per second and CPU microseconds of each: claim, read bodies, settle.
    async fn drain(&self, count: u64) -> (f64, f64) {
        let backlog = self.store.backlog(Revision::START).queues;
        let queues: Vec<QueueId> = backlog.iter().map(|queue| queue.id).collect();
        let (start, cpu) = (Instant::now(), cpu_time());
        let done = Arc::new(AtomicU64::new(0));
        let mut tasks = tokio::task::JoinSet::new();
        for worker in 0..WORKERS {
            let (store, done) = (self.store.clone(), Arc::clone(&done));
            let many = queues.len() > 1;
            let mine: Vec<QueueId> = queues
                .iter()
                .enumerate()
                .filter(|(n, _)| !many || n % WORKERS == worker)
                .map(|(_, queue)| *queue)
                .collect();
            tasks.spawn(async move {
                for queue in mine.iter().cycle() {
                    if done.load(Ordering::Relaxed) >= count {
                        return;
                    }
                    let n = drain_once(&store, *queue).await;
                    done.fetch_add(n, Ordering::Relaxed);
                }
            });
        }
        while tasks.join_next().await.is_some() {}
        per(count, start, cpu)
    }
}

/// As one connection does it. Gives back how many deliveries that was.
async fn drain_once(store: &EmbeddedStore, queue: QueueId) -> u64 {
    let claim = Claim {
        queues: vec![(queue, BATCH)],
        due_until: Timestamp::NEVER,
        expired_at: None,
        limit: BATCH,
        ttl: TTL,
    };
    let claimed = store.claim(claim).await.unwrap();
    let messages = claimed.iter().map(|claimed| claimed.head.id).collect();
    assert_eq!(store.bodies(messages).await.unwrap().len(), claimed.len());
    let outcomes: Vec<Settled> = claimed
        .iter()
        .flat_map(|claimed| &claimed.deliveries)
        .map(|delivery| Settled {
            lease: delivery.lease,
            outcome: Outcome::Delivered,
            reply: "250 2.0.0 Ok: queued as 4XyZ".into(),
            blame: None,
        })
        .collect();
    let count = outcomes.len() as u64;
    let settlement = Settlement { at: Clock::system().now(), outcomes, notices: Vec::new() };
    if count > 0 {
        assert!(store.settle(settlement).await.unwrap().is_empty());
    }
    count
}

fn message(ids: &Mutex<IdGenerator>, n: u64, queue: u64, body: Bytes) -> NewMessage {
    let now = Clock::system().now();
    let reverse_path = ReversePath::parse("newsletter@shop.example").unwrap();
    let mailbox = Mailbox::parse(&format!("subscriber{n}@domain{queue}.example")).unwrap();
    let mut envelope = Envelope::from(reverse_path);
    envelope.recipients = vec![Recipient::new(mailbox)];
    NewMessage {
        id: ids.lock().unwrap().next(now),
        accepted_at: now,
        due_at: now.after(Duration::from_secs(30)),
        expires_at: now.after(Duration::from_secs(172_800)),
        origin: Origin {
            lane: Lane::Bulk,
            reason: "X-Newsletter: spring".into(),
            tenant: "shop.example".into(),
            campaign: "spring".into(),
            client: "192.0.2.7".into(),
        },
        envelope,
        body,
    }
}

/// Rate since `start`, CPU time of each since `cpu`.
#[allow(clippy::cast_precision_loss)]
fn per(count: u64, start: Instant, cpu: Duration) -> (f64, f64) {
    let rate = count as f64 / start.elapsed().as_secs_f64();
    (rate, (cpu_time() - cpu).as_secs_f64() * 1e6 / count as f64)
}

/// User and system time of this process so far (proc(5), /proc/self/stat, fields 14 and 15, in
/// ticks of 10 ms).
fn cpu_time() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let after_name = stat.rsplit_once(')').unwrap().1;
    let ticks: u64 =
        after_name.split_whitespace().skip(11).take(2).map(|n| n.parse::<u64>().unwrap()).sum();
    Duration::from_millis(ticks * 10)
}
