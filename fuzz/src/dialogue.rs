//! Sessions of words that the server knows, so that deep states are reached: each byte is a command
//! or a part of one.
//!
//! They are first played word by word, since a proof answers a challenge, and then as any bytes
//! are ([`check`]).

use super::login::Prover;
use super::session::{Client, Shell, base64, check};

/// Longest session in bytes.
const MOST: usize = 32 << 10;

/// What is said as it stands here.
const WORDS: &[&str] = &[
    "EHLO web1\r\n",
    "HELO web1\r\n",
    "MAIL FROM:<a@b.test>\r\n",
    "RCPT TO:<c@d.test>\r\n",
    "DATA\r\n",
    "A: b\r\n\r\nx\r\n.\r\n",
    ".\r\n",
    "BDAT 3\r\nabc",
    "BDAT 2 LAST\r\n\r\n",
    "BDAT 0 LAST\r\n",
    "RSET\r\n",
    "STARTTLS\r\n",
    "AUTH LOGIN\r\n",
    "AUTH PLAIN\r\n",
    "AUTH SCRAM-SHA-256\r\n",
    "AUTH PLAIN AGFubgBzZWNyZXQ=\r\n",
    "AUTH PLAIN AGFubgBndWVzcw==\r\n",
    "AUTH LOGIN YW5u\r\n",
    "AGFubgBzZWNyZXQ=\r\n",
    "YW5u\r\n",
    "c2VjcmV0\r\n",
    "=\r\n",
    "*\r\n",
    "\r\n",
    "XCLIENT ADDR=10.0.0.9 HELO=web9\r\n",
    "XCLIENT ADDR=192.0.2.9\r\n",
    "XCLIENT ADDR=192.0.2.9 LOGIN=bob HELO=web9\r\n",
    "XCLIENT ADDR=203.0.113.9\r\n",
    "XCLIENT NAME=[UNAVAILABLE]\r\n",
    "XFORWARD ADDR=192.0.2.8 HELO=web8\r\n",
    "MAIL FROM:<>\r\n",
    "MAIL FROM:<ü@b.test> SMTPUTF8 BODY=8BITMIME\r\n",
    "MAIL FROM:<a@b.test> SIZE=450 RET=HDRS ENVID=x\r\n",
    "MAIL FROM:<a@b.test> SIZE=513\r\n",
    "RCPT TO:<ü@d.test>\r\n",
    "RCPT TO:<Postmaster>\r\n",
    "RCPT TO:<c@@d>\r\n",
    "DATA\r\nlater\r\n.\r\n",
    "BDAT 5\r\nlater",
    "BDAT 4096\r\n",
    "BDAT 18446744073709551615 LAST\r\n",
    "BDAT x\r\n",
    "BDAT 600 LAST\r\n",
    "A: b\r\n\r\n..\r\n",
    "a line that is longer than sixty-four bytes, which is the limit here\r\n",
    "NOOP x\r\n",
    "VRFY a\r\n",
    "EXPN a\r\n",
    "HELP\r\n",
    "QUIT\r\n",
    "WHAT\r\n",
    "GET / HTTP/1.1\r\n",
    "AUTH NONE\r\n",
    "AUTH LOGIN !\r\n",
    "ehlo ",
    "MA",
    "IL FROM:",
    "x",
    "\r",
    "\n",
    "\0",
    ".",
    "é",
    "secret",
];

/// See the head of the file.
pub fn dialogue(data: &[u8]) {
    let [client, piece, words @ ..] = data else { return };
    let client = Client::chosen(*client);
    let mut shell = Shell::new(&client);
    let (mut said, mut prover) = (Vec::new(), Prover::new("ann", "secret"));
    for word in words {
        let word = match usize::from(*word) {
            n if n < WORDS.len() => WORDS[n].to_string(),
            n => made(n - WORDS.len(), &mut prover, shell.output()),
        };
        if said.len() + word.len() > MOST {
            break;
        }
        said.extend_from_slice(word.as_bytes());
        shell.read(word.as_bytes());
    }
    check(&client, usize::from(*piece), &said);
}

/// What depends on what was heard, and what is long.
fn made(n: usize, prover: &mut Prover, heard: &[u8]) -> String {
    let proof = |prover: &Prover| base64(prover.last(heard).unwrap_or_default()) + "\r\n";
    match n % 8 {
        0 => format!("AUTH SCRAM-SHA-256 {}\r\n", base64(prover.first())),
        1 => base64(prover.first()) + "\r\n",
        2 | 3 => proof(prover),
        4 => proof(&Prover::new("ann", "guess")),
        5 => {
            *prover = Prover::new(if n % 16 < 8 { "ann" } else { "late" }, "secret");
            format!("AUTH SCRAM-SHA-256 {}\r\n", base64(prover.first()))
        }
        6 => "x".repeat(1_500),
        _ => "abcdefg\r\n".repeat(20),
    }
}
