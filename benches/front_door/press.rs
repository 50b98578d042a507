//! Many clients at once: a crowd, slow ones, floods, and a house that is full.

use crate::client::{Talk, connect};
use crate::support::Setup;
use crate::{
    House, Served, Watch, address, at, beside, honest, mib, ms, newsletter, part, pressing,
};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio::net::TcpStream;
use tokio::runtime::Runtime;
use tokio::task::JoinSet;

const SPAN: Duration = Duration::from_secs(8);
/// Of a flood: a disk that stalls once is not to decide.
const ROUNDS: usize = 5;

fn wide(setup: Setup) -> Setup {
    setup.set("limits", "sessions", "8000").set("limits", "sessions_per_address", "4000")
}

/// 5,000 idle and 500 slow sessions beside the honest ones.
pub(crate) fn crowd() {
    let house = House::new(wide);
    let warm = honest(&house.way(), SPAN / 4);
    assert!(warm.failed.is_empty(), "served while nobody presses");
    let unloaded = honest(&house.way(), SPAN);
    unloaded.say("50 honest alone");
    let before = house.rss();
    let (runtime, watch) = (pressing(), Watch::over(&house));
    let idle = idle(&runtime, at(&house), 5_000, 1);
    let with_idle = house.rss();
    let slow = slow_senders(&runtime, at(&house), 500);
    let with_all = house.rss();
    let loaded = honest(&house.way(), SPAN);
    let ratio = beside("50 honest, 5,000 idle, 500 slow", &unloaded, &loaded);
    println!(
        "    RSS before {:.1}, with the idle {:.1}, with the slow {:.1}, most {:.1} MiB: {:.1} KiB \
         an idle session, {:.1} a slow one",
        mib(before),
        mib(with_idle),
        mib(with_all),
        mib(watch.most()),
        with_idle.saturating_sub(before) as f64 / 5_000.0,
        with_all.saturating_sub(with_idle) as f64 / 500.0,
    );
    drop((idle, slow));
    assert!(loaded.failed.is_empty(), "all honest clients are served");
    assert!(ratio <= 2.0, "the honest wait twice as long at most");
}

/// Sessions that say EHLO and no more.
fn idle(runtime: &Runtime, to: SocketAddr, count: usize, group: u8) -> Vec<Talk<TcpStream>> {
    runtime.block_on(async {
        let mut coming = JoinSet::new();
        let mut come = Vec::new();
        for n in 0..count {
            coming.spawn(async move {
                let mut talk = Talk::new(connect(address(group, n % 100), to).await?);
                talk.reply(220).await?;
                talk.ask("EHLO idle.test", 250).await?;
                std::io::Result::Ok(talk)
            });
            if coming.len() >= 50 {
                come.push(coming.join_next().await.unwrap().unwrap().unwrap());
            }
        }
        while let Some(talk) = coming.join_next().await {
            come.push(talk.unwrap().unwrap());
        }
        come
    })
}

/// Sessions that send a byte of a message each second; they end with what is given back.
fn slow_senders(runtime: &Runtime, to: SocketAddr, count: usize) -> JoinSet<()> {
    let (begun, mut all) = (Arc::new(AtomicU64::new(0)), JoinSet::new());
    for n in 0..count {
        let begun = Arc::clone(&begun);
        let slow = async move {
            let mut talk = Talk::new(connect(address(2, n % 10), to).await?);
            talk.reply(220).await?;
            talk.ask("EHLO slow.test", 250).await?;
            talk.begin_message().await?;
            begun.fetch_add(1, Ordering::Relaxed);
            loop {
                for byte in newsletter().chunks(1) {
                    talk.say(byte).await?;
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
            }
        };
        all.spawn_on(
            async move {
                let ended: std::io::Result<()> = slow.await;
                panic!("a slow sender was sent away: {ended:?}");
            },
            runtime.handle(),
        );
    }
    let end = Instant::now() + Duration::from_secs(30);
    while begun.load(Ordering::Relaxed) < count as u64 {
        assert!(Instant::now() < end, "the slow ones come in");
        std::thread::sleep(Duration::from_millis(10));
    }
    all
}

/// With the limits as they are by default: slow senders and idle strangers, and new clients.
pub(crate) fn slow() {
    let house = House::new(|setup| setup);
    let runtime = pressing();
    let slow = slow_senders(&runtime, at(&house), 100);
    let (mut strangers, mut sent_away) = (Vec::new(), 0);
    for n in 0..300 {
        let talk = runtime.block_on(async {
            let mut talk = Talk::new(connect(address(200, n), at(&house)).await.unwrap());
            talk.reply(220).await.map(|_| talk)
        });
        match talk {
            Ok(talk) => strangers.push(talk),
            Err(error) => {
                assert!(error.to_string().starts_with("421 "), "{error}");
                sent_away += 1;
            }
        }
    }
    println!("strangers: {} came in, {sent_away} got 421", strangers.len());
    let mut served = Served::default();
    let message = newsletter();
    for n in 0..500 {
        served.add(runtime.block_on(house.way().send(address(3, n % 250), &message)));
    }
    let served = served.sort();
    served.say("new clients, one after the other");
    drop((slow, strangers));
    assert!(served.failed.is_empty(), "all honest clients are served");
    assert!(served.banner.last().unwrap() < &Duration::from_secs(1), "the banner comes within 1 s");
}

/// One address that connects as fast as it can: a stranger's, one that may send and stays, and one
/// that may send and goes.
pub(crate) fn flood() {
    // In memory: with the processor taken, a disk's stall is the longest wait of all.
    let house = House::new(|setup| setup.set("store", "engine", "\"memory\""));
    _ = honest(&house.way(), SPAN / 4);
    let kinds = [
        ("a stranger's", Ipv4Addr::new(127, 200, 0, 1), Manner::Reads),
        ("a stranger's, who reads nothing", Ipv4Addr::new(127, 200, 0, 2), Manner::Breaks),
        ("one that may send, and stays", Ipv4Addr::new(127, 4, 0, 1), Manner::Stays),
        ("one that may send, and goes", Ipv4Addr::new(127, 4, 0, 2), Manner::Breaks),
    ];
    for (name, source, manner) in kinds {
        let (mut alone, mut flooded, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            let unloaded = honest(&house.way(), SPAN / 2);
            let (runtime, count) = (pressing(), Arc::new(AtomicU64::new(0)));
            for _ in 0..400 {
                runtime.spawn(connect_for_ever(source, at(&house), manner, Arc::clone(&count)));
            }
            let loaded = honest(&house.way(), SPAN / 2);
            runtime.shutdown_timeout(Duration::from_secs(1));
            let rate = count.load(Ordering::Relaxed) / (SPAN / 2).as_secs();
            ratios.push(beside(&format!("{name} ({rate}/s)"), &unloaded, &loaded));
            assert!(loaded.failed.is_empty(), "all honest clients are served");
            alone.push(part(&unloaded.whole, 0.99));
            flooded.push(part(&loaded.whole, 0.99));
        }
        for figures in [&mut alone, &mut flooded] {
            figures.sort();
        }
        ratios.sort_by(f64::total_cmp);
        let middle = ROUNDS / 2;
        println!(
            "{name}: median p99 alone {:.2}, flooded {:.2} ms, ratio {:.2}",
            ms(alone[middle]),
            ms(flooded[middle]),
            ratios[middle],
        );
    }
}

#[derive(Clone, Copy)]
enum Manner {
    /// What is said, to the end.
    Reads,
    /// Goes without having read.
    Breaks,
    /// As long as it may.
    Stays,
}

async fn connect_for_ever(from: Ipv4Addr, to: SocketAddr, manner: Manner, count: Arc<AtomicU64>) {
    loop {
        let Ok(stream) = connect(from, to).await else {
            tokio::time::sleep(Duration::from_millis(1)).await;
            continue;
        };
        count.fetch_add(1, Ordering::Relaxed);
        match manner {
            Manner::Breaks => {
                _ = stream.set_zero_linger();
            }
            Manner::Reads => {
                let mut talk = Talk::new(stream);
                // One that is let in leaves by itself.
                if talk.reply(220).await.is_ok() {
                    _ = talk.say(b"QUIT\r\n").await;
                }
                talk.rest().await;
            }
            Manner::Stays => _ = Talk::new(stream).rest().await,
        }
    }
}

/// All places taken by idle clients that may send: when is another one served?
pub(crate) fn full() {
    let house = House::new(|setup| setup);
    let runtime = pressing();
    let others = idle(&runtime, at(&house), 1_000, 1);
    let (begun, message) = (Instant::now(), newsletter());
    let mut refusals = std::collections::BTreeMap::<String, usize>::new();
    while let Err(error) = runtime.block_on(house.way().send(address(3, 1), &message)) {
        *refusals.entry(error.to_string().trim_end().to_string()).or_default() += 1;
        assert!(begun.elapsed() < Duration::from_secs(60), "a new client is served");
        std::thread::sleep(Duration::from_millis(100));
    }
    println!("1,000 idle: served after {:.1} s; before: {refusals:?}", ms(begun.elapsed()) / 1e3);
    let (first, rest) = (others.into_iter().next(), house.rss());
    let said = runtime.block_on(async { first.unwrap().rest().await });
    println!("an idle one was told: {:?}; RSS {:.1} MiB", said.trim_end(), mib(rest));
    assert!(said.starts_with("421 4.4.2 "), "who is idle is told why he goes");
}
