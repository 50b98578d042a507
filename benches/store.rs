//! How fast the embedded store is, and what a message costs it in CPU time and bytes written.
//!
//! `cargo bench --bench store [-- DIR]`: DIR is where the queue goes, since the disk decides;
//! default: the system's folder for temporary files. Each rate stands beside two of a thread to
//! which as many producers hand their bytes and wait, and which only appends and calls fdatasync:
//! to a new file, and over and over in one of 64 MiB that is there already.
//!
//! `cargo bench --bench store -- DIR backlog COUNT DOMAINS`: what a delivery costs with more and
//! more messages of 1 KiB queued, up to COUNT, for so many domains; then a restart.
//!
//! `cargo bench --bench store -- DIR compression`: what `[store] compression` costs and saves.
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
use std::io::{Seek, Write};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

const TTL: Duration = Duration::from_secs(300);
/// Deliveries claimed and settled together.
const BATCH: u32 = 100;
/// Bytes of a segment of the journal.
const SEGMENT: u64 = 64 << 20;
/// Workers that drain.
const WORKERS: usize = 8;

#[tokio::main]
async fn main() {
    let mut args = std::env::args().skip(1).filter(|arg| !arg.starts_with('-'));
    let base = args.next().map_or_else(std::env::temp_dir, PathBuf::from);
    let options = Options { free_space_min: 0, ..Options::default() };
    match args.next().as_deref() {
        Some("backlog") => {
            let mut number = |or| args.next().map_or(or, |number| number.parse().unwrap());
            let (count, domains) = (number(10_000_000), number(1_000));
            return backlog(&base, &options, count, domains).await;
        }
        Some("compression") => return compression(&base, &options).await,
        _ => {}
    }
    println!("accept      producers  KiB   messages/s   us CPU each   appended   in place");
    for (producers, kib, count) in [
        (1, 4, 2_000),
        (32, 4, 60_000),
        (512, 4, 100_000),
        (1, 50, 1_000),
        (32, 50, 10_000),
        (512, 50, 10_000),
    ] {
        let bench = Bench::new(&base, &options, kib * 1024);
        // Files that are there already, as in a node that has run for a while.
        bench.accept(64, 2 * SEGMENT / bench.body.len() as u64, 1_000).await;
        bench.drain(u64::MAX).await;
        let new = appended(&base, producers, kib * 1024, count, u64::MAX).await;
        let (rate, cpu) = bench.accept(producers, count, 1_000).await;
        let in_place = appended(&base, producers, kib * 1024, count, SEGMENT).await;
        println!(
            "            {producers:9}  {kib:3}   {rate:10.0}   {cpu:11.1}   {new:8.0}   \
             {in_place:8.0}"
        );
    }
    println!("drain          queues  KiB deliveries/s   us CPU each   bytes written, in and out");
    for (queues, kib, count) in [(1, 4, 100_000), (1_000, 4, 100_000), (1_000, 50, 10_000)] {
        let bench = Bench::new(&base, &options, kib * 1024);
        let written = written();
        bench.accept(512, count, queues).await;
        let (rate, cpu) = bench.drain(count).await;
        drop(bench);
        let written = (self::written() - written) / count;
        println!("            {queues:9}  {kib:3}   {rate:10.0}   {cpu:11.1}   {written:9}");
    }
}

/// What compression of messages costs, and what it saves.
async fn compression(base: &std::path::Path, options: &Options) {
    println!(
        "compression    KiB   messages/s   us CPU in   us CPU out   bytes written, in and out"
    );
    for (kib, count) in [(4, 50_000), (50, 10_000)] {
        for (name, compress) in [("none", false), ("zstd", true)] {
            let options = Options { compress, ..options.clone() };
            let bench = Bench { body: newsletter(kib * 1024), ..Bench::new(base, &options, 0) };
            let written = written();
            let (rate, taken) = bench.accept(32, count, 100).await;
            let (_, sent) = bench.drain(count).await;
            drop(bench);
            let written = (self::written() - written) / count;
            println!(
                "{name:11}    {kib:3}   {rate:10.0}   {taken:9.1}   {sent:10.1}   {written:9}"
            );
        }
    }
}

/// As shops send it: rows of a table, each with words and a link that knows who follows it.
fn newsletter(size: usize) -> Bytes {
    const WORDS: &str = "your the of our and now only until new with for from save today free \
        order shipping leather summer shoes colour classic discover delivery percent garden";
    let words: Vec<&str> = WORDS.split_whitespace().collect();
    let mut random = fastrand::Rng::with_seed(7);
    let mut text = String::from("Subject: Spring\r\nContent-Type: text/html\r\n\r\n");
    while text.len() < size {
        let token: String = (0..40).map(|_| random.alphanumeric()).collect();
        let said: Vec<&str> = (0..20).map(|_| words[random.usize(..words.len())]).collect();
        text += "<tr><td align=\"left\" style=\"font-family: Arial, sans-serif; color: #333\">\r\n";
        text +=
            &format!("<a href=\"https://news.shop.example/c/{token}\">{}</a>\r\n", said.join(" "));
        text += "</td></tr>\r\n";
    }
    text.truncate(size);
    text.into()
}

/// What a delivery costs as the queue grows.
async fn backlog(base: &std::path::Path, options: &Options, most: u64, domains: u64) {
    const MEASURED: u64 = 40_000;
    let bench = Bench::new(base, options, 1_024);
    println!("queued        deliveries/s   us CPU each   us CPU of accept   RSS MiB");
    let mut queued = 0;
    for goal in [50_000, 500_000, 2_000_000, 10_000_000] {
        let goal = goal.min(most);
        if goal <= queued {
            break;
        }
        let (_, accept) = bench.accept(256, goal - queued, domains).await;
        let (rate, cpu) = bench.drain(MEASURED).await;
        println!("{goal:10}   {rate:12.0}   {cpu:11.1}   {accept:16.1}   {:7}", resident_mib());
        queued = goal - MEASURED;
    }
    let Bench { store, _dir: dir, .. } = bench;
    let start = Instant::now();
    drop(store);
    println!("closed in {:.1} s", start.elapsed().as_secs_f64());
    let start = Instant::now();
    let store = EmbeddedStore::open(dir.path(), Clock::system(), options.clone()).unwrap();
    let queue = store.backlog(Revision::START).queues.first().unwrap().id;
    assert!(drain_once(&store, queue).await > 0);
    println!("opened, and a delivery settled, in {:.1} s", start.elapsed().as_secs_f64());
}

/// Messages per second that one thread appends for producers who wait: all that waits, then one
/// fdatasync. At `most` bytes it goes back to the beginning of the file, which is there already.
#[allow(clippy::cast_precision_loss)]
async fn appended(
    base: &std::path::Path,
    producers: u64,
    size: usize,
    count: u64,
    most: u64,
) -> f64 {
    type Waits = (Bytes, tokio::sync::oneshot::Sender<()>);
    let (sender, mut waiting) = tokio::sync::mpsc::channel::<Waits>(1_024);
    let mut file = tempfile::tempfile_in(base).unwrap();
    if most < u64::MAX {
        file.write_all(&vec![b'x'; usize::try_from(most).unwrap()]).unwrap();
        file.sync_data().unwrap();
        file.rewind().unwrap();
    }
    let appender = std::thread::spawn(move || {
        let (mut batch, mut at) = (Vec::new(), 0);
        while let Some(first) = waiting.blocking_recv() {
            let (mut answers, mut next) = (Vec::new(), Some(first));
            batch.clear();
            while let Some((bytes, answer)) = next {
                batch.extend_from_slice(&bytes);
                answers.push(answer);
                next = if batch.len() < 2 << 20 { waiting.try_recv().ok() } else { None };
            }
            if at + batch.len() as u64 > most {
                file.rewind().unwrap();
                at = 0;
            }
            file.write_all(&batch).unwrap();
            file.sync_data().unwrap();
            at += batch.len() as u64;
            answers.into_iter().for_each(|answer| answer.send(()).unwrap());
        }
    });
    let (start, bytes) = (Instant::now(), Bytes::from(vec![b'x'; size]));
    let next = Arc::new(AtomicU64::new(0));
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..producers {
        let (sender, bytes, next) = (sender.clone(), bytes.clone(), Arc::clone(&next));
        tasks.spawn(async move {
            while next.fetch_add(1, Ordering::Relaxed) < count {
                let (answer, done) = tokio::sync::oneshot::channel();
                sender.send((bytes.clone(), answer)).await.unwrap();
                done.await.unwrap();
            }
        });
    }
    while tasks.join_next().await.is_some() {}
    let rate = count as f64 / start.elapsed().as_secs_f64();
    drop(sender);
    appender.join().unwrap();
    rate
}

/// Bytes that this process had written to disks so far (proc(5), /proc/self/io).
fn written() -> u64 {
    let io = std::fs::read_to_string("/proc/self/io").unwrap();
    let line = io.lines().find_map(|line| line.strip_prefix("write_bytes: ")).unwrap();
    line.parse().unwrap()
}

/// Memory that this process has (proc(5), /proc/self/status).
fn resident_mib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() / 1_024
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
                    if n == 0 && store.backlog(Revision::START).queues.is_empty() {
                        return;
                    }
                    done.fetch_add(n, Ordering::Relaxed);
                }
            });
        }
        while tasks.join_next().await.is_some() {}
        per(done.load(Ordering::Relaxed), start, cpu)
    }
}

/// As one connection does it. Gives back how many deliveries that was.
async fn drain_once(store: &EmbeddedStore, queue: QueueId) -> u64 {
    let claim = Claim {
        queues: vec![(queue, BATCH)],
        due_until: Timestamp::NEVER,
        fresh_until: Timestamp::NEVER,
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
