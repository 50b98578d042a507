//! Those who mean no good: without end, in whatever they do.

use crate::client::{Talk, connect};
use crate::{House, Served, Watch, address, at, beside, gently, honest, mib};
use std::fmt::Write as _;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const GIB: u64 = 1 << 30;
/// What a node may grow by while it bears one of them, in MiB: what it keeps of a queue besides.
const GROWTH_MAX: u64 = 24;
const SPAN: Duration = Duration::from_millis(500);

/// What is said without end.
struct Shape {
    name: &'static str,
    /// Commands that are answered before.
    before: &'static [&'static str],
    /// The n-th piece of what is said, and how many there are.
    piece: fn(u64) -> Vec<u8>,
    pieces: u64,
    /// Said at last, where the session goes on for so long.
    end: &'static str,
    /// What the last words must have in them.
    answer: &'static str,
    sessions: usize,
}

const MAIL: &[&str] = &["EHLO client.test", "MAIL FROM:<a@shop.test>"];
const DATA: &[&str] =
    &["EHLO client.test", "MAIL FROM:<a@shop.test>", "RCPT TO:<bob@d.test>", "DATA"];
const CHUNK: &[&str] = &["EHLO client.test", "MAIL FROM:<a@shop.test>", "RCPT TO:<bob@d.test>"];
const DOT: &str = "\r\n.\r\nQUIT\r\n";

fn shapes() -> Vec<Shape> {
    let one = |name, before, piece, pieces, end, answer| Shape {
        name,
        before,
        piece,
        pieces,
        end,
        answer,
        sessions: 1,
    };
    let pieces = GIB / 65_536;
    let recipients = one("10^6 recipients", MAIL, rcpt, 1_000, "", "421 4.7.0 Too many refused");
    let over = Shape {
        name: "10^6 recipients over 500 sessions",
        pieces: 3,
        sessions: 500,
        ..one("", MAIL, rcpt, 0, "", "421 4.7.0 Too many refused")
    };
    let too_big = "552 5.3.4 Message larger";
    vec![
        recipients,
        over,
        one("a command line of 1 GiB", &[], line, pieces, "", "421 4.7.0 Line without end"),
        one("commands without end", &[], noop, 1_000, "", "421 4.7.0 Too many commands"),
        one("nonsense without end", &[], nonsense, 1_000, "", "421 4.7.0 Too many errors"),
        one("a message with a line of 1 GiB", DATA, line, pieces, DOT, "550 5.6.0 Line longer"),
        one("a header of 1 GiB", DATA, header, pieces, DOT, too_big),
        one("a chunk of 1 GiB", CHUNK, chunk, pieces + 1, "QUIT\r\n", too_big),
    ]
}

fn rcpt(piece: u64) -> Vec<u8> {
    let mut text = String::new();
    for n in piece * 1_000..(piece + 1) * 1_000 {
        write!(text, "RCPT TO:<r{n}@d.test>\r\n").unwrap();
    }
    text.into()
}

fn line(_: u64) -> Vec<u8> {
    vec![b'x'; 65_536]
}

fn noop(_: u64) -> Vec<u8> {
    b"NOOP\r\n".repeat(1_000)
}

fn nonsense(_: u64) -> Vec<u8> {
    b"whatever you say\r\n".repeat(1_000)
}

fn header(_: u64) -> Vec<u8> {
    b"X-Header-Without-End: once more\r\n".repeat(65_536 / 33 + 1)
}

fn chunk(piece: u64) -> Vec<u8> {
    match piece {
        0 => format!("BDAT {GIB} LAST\r\n").into(),
        _ => b"Some thirty bytes of a chunk..\r\n".repeat(2_048),
    }
}

pub(crate) fn hostile() {
    let house = House::new(|setup| setup);
    _ = honest(&house.way(), Duration::from_secs(2));
    let unloaded = honest(&house.way(), Duration::from_secs(5));
    unloaded.say("50 honest alone");
    for shape in shapes() {
        let (before, watch, begun) = (house.rss(), Watch::over(&house), Instant::now());
        let (to, name, answer) = (at(&house), shape.name, shape.answer);
        let pouring = gently(move || pour_all(&shape, to));
        let mut loaded = Served::default();
        while !pouring.is_finished() {
            let some = honest(&house.way(), SPAN);
            loaded.banner.extend(some.banner);
            loaded.whole.extend(some.whole);
            loaded.failed.extend(some.failed);
        }
        let (sent, said) = pouring.join().unwrap();
        let grown = watch.most().saturating_sub(before);
        beside(name, &unloaded, &loaded.sort_again());
        println!(
            "    {:.1} MiB in {:.1} s, RSS {:.1} MiB and {:.1} more at most; told {:?}",
            sent as f64 / f64::from(1 << 20),
            begun.elapsed().as_secs_f64(),
            mib(before),
            mib(grown),
            said.trim_end(),
        );
        assert!(said.contains(answer), "{answer}");
        assert!(grown <= GROWTH_MAX << 10, "memory stays as it is");
    }
}

impl Served {
    fn sort_again(self) -> Self {
        assert!(self.failed.is_empty(), "all honest clients are served");
        self.sort()
    }
}

/// Gives how many bytes were sent, and the last words.
fn pour_all(shape: &Shape, to: SocketAddr) -> (u64, String) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (mut sent, mut said) = (0, String::new());
    for n in 0..shape.sessions {
        let (more, last) = runtime.block_on(pour(shape, address(5, n % 100), to));
        sent += more;
        said = last;
    }
    (sent, said)
}

async fn pour(shape: &Shape, from: Ipv4Addr, to: SocketAddr) -> (u64, String) {
    let mut talk = Talk::new(connect(from, to).await.unwrap());
    talk.reply(220).await.unwrap();
    for command in shape.before {
        let code = if *command == "DATA" { 354 } else { 250 };
        talk.ask(command, code).await.unwrap();
    }
    let (mut reads, mut writes) = talk.into_inner().into_split();
    let heard = async {
        let (mut last, mut block) = (Vec::new(), [0; 65_536]);
        while let Ok(count @ 1..) = reads.read(&mut block).await {
            last.extend_from_slice(&block[..count]);
            last.drain(..last.len().saturating_sub(120));
        }
        String::from_utf8_lossy(&last).into_owned()
    };
    let mut sent = 0;
    let talking = async {
        for piece in 0..shape.pieces {
            let piece = (shape.piece)(piece);
            if writes.write_all(&piece).await.is_err() {
                return;
            }
            sent += piece.len() as u64;
        }
        _ = writes.write_all(shape.end.as_bytes()).await;
    };
    let ((), said) = tokio::join!(talking, heard);
    (sent, said)
}
