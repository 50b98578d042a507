//! `-bs`: SMTP on standard input and output, as Symfony's and TYPO3's mailers speak it.
//!
//! Each command is passed on to the first relay that can be reached, and its reply comes back, so
//! that the program hears of every recipient itself. Over the same connection as all other mail:
//! TLS and AUTH are done before the program says its first word, and are not offered to it. Nothing
//! is spooled: `421` tells the program to keep its mail where no relay is there.

use super::compose::Lines;
use super::submit::Relays;
use super::{Exit, Stop};
use lettre::transport::smtp::Error;
use lettre::transport::smtp::client::SmtpConnection;
use lettre::transport::smtp::response::Response;
use std::error::Error as _;
use std::io::{self, BufRead, Read, Write};

/// Longest command line (RFC 5321 §4.5.3.1.4, and room for extensions).
const LINE_MAX: u64 = 4096;

/// What a program may ask of the relay. Not BDAT, since lines are passed on, and not what the
/// connection has done already.
const VERBS: [&str; 9] = ["EHLO", "HELO", "MAIL", "RCPT", "RSET", "NOOP", "VRFY", "HELP", "EXPN"];

/// Extensions that are not the program's business, or that this dialogue does not speak.
const HIDDEN: [&str; 5] = ["STARTTLS", "AUTH", "CHUNKING", "BINARYMIME", "LIMITS"];

/// Serves the program until it says QUIT or goes away.
///
/// # Errors
/// [`Exit::TempFail`] where no relay can be reached or the connection to it breaks; the program was
/// told by a 421.
pub(super) fn run(
    relays: &mut Relays<'_>,
    size_max: usize,
    mut input: impl BufRead,
    mut out: impl Write,
) -> Result<(), Stop> {
    let Some(mut relay) = relays.first() else {
        say(&mut out, "421 4.3.2 No relay can be reached, try again later")?;
        return Err(Exit::TempFail.because(relays.complaints()));
    };
    say(&mut out, "220 bulkhead sendmail ESMTP")?;
    loop {
        let line = match read_line(&mut input)? {
            Line::End => break,
            Line::Bad => {
                say(&mut out, "500 5.5.2 Line too long, or not text")?;
                continue;
            }
            Line::Text(line) => line,
        };
        let verb = line.split(' ').next().unwrap_or_default().to_ascii_uppercase();
        let reply = match verb.as_str() {
            "QUIT" => {
                let _ = relay.quit();
                say(&mut out, "221 2.0.0 Bye")?;
                return Ok(());
            }
            "DATA" => data(&mut relay, size_max, &mut input, &mut out)?,
            verb if VERBS.contains(&verb) => {
                let reply = relay.command(format!("{line}\r\n"));
                reply.map(|reply| written(&reply, verb == "EHLO"))
            }
            _ => Ok("502 5.5.1 Not here".to_string()),
        };
        match reply.or_else(refusal) {
            Ok(reply) => say(&mut out, &reply)?,
            Err(error) => {
                say(&mut out, "421 4.4.2 The connection to the relay broke, try again later")?;
                return Err(Exit::TempFail.because(error.to_string()));
            }
        }
    }
    let _ = relay.quit();
    Ok(())
}

/// DATA, and the message behind it where the relay wants one.
fn data(
    relay: &mut SmtpConnection,
    size_max: usize,
    input: &mut impl BufRead,
    out: &mut impl Write,
) -> Result<Result<String, Error>, Stop> {
    match relay.command("DATA\r\n") {
        Ok(reply) if reply.has_code(354) => say(out, &written(&reply, false))?,
        Ok(reply) => return Ok(Ok(written(&reply, false))),
        Err(error) => return Ok(Err(error)),
    }
    let mut lines = Lines::new(true);
    loop {
        let mut line = Vec::new();
        let room = (size_max as u64).saturating_sub(lines.len() as u64);
        let read = input.by_ref().take(room.max(1)).read_until(b'\n', &mut line);
        if read.map_err(broken)? == 0 || lines.len() >= size_max {
            // Half a message is none. The relay hears no last dot, and forgets it.
            relay.abort();
            return Err(Exit::IoErr.because("the message has no end, or is too big"));
        }
        if matches!(line.as_slice(), b".\r\n" | b".\n") {
            break;
        }
        lines.push(line.strip_prefix(b".").unwrap_or(&line))?;
    }
    let bytes = lines.finish();
    let sent = relay.message(bytes.strip_suffix(b"\r\n").unwrap_or(&bytes));
    Ok(sent.map(|reply| written(&reply, false)))
}

/// A reply as it came, but for extensions that are not offered here.
fn written(reply: &Response, is_ehlo: bool) -> String {
    let hidden = |line: &&str| {
        let word = line.split([' ', '=']).next().unwrap_or_default();
        is_ehlo && HIDDEN.iter().any(|name| name.eq_ignore_ascii_case(word))
    };
    let lines: Vec<&str> = reply.message().filter(|line| !hidden(line)).collect();
    let code = reply.code();
    let last = lines.len().saturating_sub(1);
    let line =
        |(n, text): (usize, &&str)| format!("{code}{}{text}", if n == last { ' ' } else { '-' });
    let lines: Vec<String> = lines.iter().enumerate().map(line).collect();
    if lines.is_empty() { format!("{code} ") } else { lines.join("\r\n") }
}

/// A refusal is a reply like any other; the rest are errors.
fn refusal(error: Error) -> Result<String, Error> {
    match error.status() {
        Some(code) => {
            let text = error.source().map(ToString::to_string).unwrap_or_default();
            Ok(format!("{code} {text}"))
        }
        None => Err(error),
    }
}

enum Line {
    End,
    /// Too long, or with bytes that no command has.
    Bad,
    Text(String),
}

fn read_line(input: &mut impl BufRead) -> Result<Line, Stop> {
    let mut line = Vec::new();
    input.by_ref().take(LINE_MAX).read_until(b'\n', &mut line).map_err(broken)?;
    if line.is_empty() {
        return Ok(Line::End);
    }
    if !line.ends_with(b"\n") && line.len() as u64 == LINE_MAX {
        // The rest of it is no command either.
        while let Some(next) = input.fill_buf().map_err(broken)?.first() {
            let is_end = *next == b'\n';
            input.consume(1);
            if is_end {
                break;
            }
        }
        return Ok(Line::Bad);
    }
    match std::str::from_utf8(&line).map(|text| text.trim_end_matches(['\r', '\n'])) {
        Ok(text) if !text.chars().any(char::is_control) => Ok(Line::Text(text.to_string())),
        _ => Ok(Line::Bad),
    }
}

fn say(out: &mut impl Write, reply: &str) -> Result<(), Stop> {
    out.write_all(format!("{reply}\r\n").as_bytes()).and_then(|()| out.flush()).map_err(broken)
}

fn broken(error: io::Error) -> Stop {
    Exit::IoErr.because(format!("the program at the other end: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replies_hide_what_is_not_offered() {
        let reply: Response =
            "250-relay\r\n250-PIPELINING\r\n250-AUTH PLAIN\r\n250 STARTTLS\r\n".parse().unwrap();
        assert_eq!(written(&reply, true), "250-relay\r\n250 PIPELINING");
        assert!(written(&reply, false).ends_with("250 STARTTLS"));
    }

    #[test]
    fn lines_are_bounded_and_text() {
        let long = format!("{}\nNOOP\n", "x".repeat(9000));
        let mut input = long.as_bytes();
        assert!(matches!(read_line(&mut input).unwrap(), Line::Bad));
        assert!(matches!(read_line(&mut input).unwrap(), Line::Text(text) if text == "NOOP"));
        assert!(matches!(read_line(&mut input).unwrap(), Line::End));
        assert!(matches!(read_line(&mut &b"MAIL\rRCPT\n"[..]).unwrap(), Line::Bad));
        assert!(matches!(read_line(&mut &b"NOOP \xff\n"[..]).unwrap(), Line::Bad));
    }
}
