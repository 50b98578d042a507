//! One session of a [`Host`](super::Host): plain receiving SMTP with the host's rules on top.
//!
//! Replies to pipelined commands leave together, once no whole command is left to answer, as a real
//! server's do.

use super::message::unstuffed;
use super::sink::{Act, Delivered, Host, Shared, Stage, id_of};
use memchr::memmem;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;

/// Commands remembered per host.
const COMMANDS_MAX: usize = 100_000;

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// Why a session is over: the peer left, or a rule said so.
struct Over;

struct Session {
    host: Arc<Host>,
    shared: Arc<Shared>,
    number: u64,
    client: IpAddr,
    hello: String,
    stream: Box<dyn Stream>,
    encrypted: bool,
    input: Vec<u8>,
    output: Vec<u8>,
    transaction: Option<Transaction>,
    /// MAIL was there before the reply to the last dot left.
    after_dot: bool,
}

#[derive(Default)]
struct Transaction {
    sender: String,
    mail_parameters: String,
    recipients: Vec<String>,
    rcpt_parameters: Vec<String>,
    chunks: Vec<u8>,
}

/// Counts the session as open while it lives.
struct Open(Arc<Host>, Arc<Shared>, IpAddr);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.counts.lock().unwrap().open -= 1;
        self.1.open.fetch_sub(1, Ordering::Relaxed);
        self.0.clients.lock().unwrap().entry(self.2).or_default().0 -= 1;
    }
}

pub(super) async fn serve(stream: TcpStream, client: IpAddr, host: Arc<Host>, shared: Arc<Shared>) {
    let full = {
        let mut counts = host.counts.lock().unwrap();
        counts.sessions += 1;
        counts.open += 1;
        counts.peak = counts.peak.max(counts.open);
        counts.open > host.script.lock().unwrap().sessions_max
    };
    {
        let mut clients = host.clients.lock().unwrap();
        let (open, peak) = clients.entry(client).or_default();
        *open += 1;
        *peak = (*open).max(*peak);
    }
    let open = shared.open.fetch_add(1, Ordering::Relaxed) + 1;
    shared.peak.fetch_max(open, Ordering::Relaxed);
    let _open = Open(host.clone(), shared.clone(), client);
    let number = shared.sessions.fetch_add(1, Ordering::Relaxed);
    let mut session = Session {
        host,
        shared,
        number,
        client,
        hello: String::new(),
        stream: Box::new(stream),
        encrypted: false,
        input: Vec::new(),
        output: Vec::new(),
        transaction: None,
        after_dot: false,
    };
    if full {
        session.output.extend_from_slice(b"421 4.7.0 Too many sessions\r\n");
        let _ = session.flush().await;
        return;
    }
    let _ = session.run().await;
    let _ = session.stream.shutdown().await;
}

impl Session {
    async fn run(&mut self) -> Result<(), Over> {
        self.answer(Stage::Banner, "", "220 sink.test ESMTP").await?;
        loop {
            let line = self.line().await?;
            self.note(&line);
            let verb = line.split(' ').next().unwrap_or("").to_ascii_uppercase();
            let riding = std::mem::take(&mut self.after_dot);
            match verb.as_str() {
                "EHLO" | "HELO" => self.ehlo(&line).await?,
                "STARTTLS" => self.start_tls(&line).await?,
                "MAIL" => self.mail(&line, riding).await?,
                "RCPT" => self.rcpt(&line).await?,
                "DATA" => self.data(&line).await?,
                "BDAT" => self.bdat(&line).await?,
                "RSET" | "NOOP" => {
                    if verb == "RSET" {
                        self.transaction = None;
                    }
                    self.answer(Stage::Rset, &line, "250 2.0.0 Ok").await?;
                }
                "QUIT" => {
                    self.answer(Stage::Quit, &line, "221 2.0.0 Bye").await?;
                    self.flush().await?;
                    return Ok(());
                }
                _ => self.output.extend_from_slice(b"500 5.5.2 Unknown command\r\n"),
            }
        }
    }

    fn note(&self, line: &str) {
        let mut commands = self.host.commands.lock().unwrap();
        if commands.len() < COMMANDS_MAX {
            commands.push(line.to_string());
        }
    }

    async fn ehlo(&mut self, line: &str) -> Result<(), Over> {
        self.transaction = None;
        self.hello = line.split(' ').nth(1).unwrap_or_default().to_string();
        let mut lines = vec!["sink.test".to_string()];
        if line.to_ascii_uppercase().starts_with("EHLO") {
            let script = self.host.script.lock().unwrap();
            lines.extend(script.extensions.iter().cloned());
            if script.tls.is_some() && !self.encrypted {
                lines.push("STARTTLS".to_string());
            }
        }
        let last = lines.len() - 1;
        let mark = |i: usize| if i == last { ' ' } else { '-' };
        let text: Vec<String> =
            lines.iter().enumerate().map(|(i, l)| format!("250{}{l}", mark(i))).collect();
        self.answer(Stage::Ehlo, line, &text.join("\r\n")).await.map(|_| ())
    }

    async fn start_tls(&mut self, line: &str) -> Result<(), Over> {
        let config = self.host.script.lock().unwrap().tls.clone();
        let Some(config) = config else {
            self.output.extend_from_slice(b"502 5.5.1 No TLS here\r\n");
            return Ok(());
        };
        if !self.answer(Stage::StartTls, line, "220 2.0.0 Go ahead").await? {
            return Ok(());
        }
        self.flush().await?;
        let plain = std::mem::replace(&mut self.stream, Box::new(tokio::io::empty()));
        let acceptor = tokio_rustls::TlsAcceptor::from(config);
        self.stream = Box::new(acceptor.accept(plain).await.map_err(|_| Over)?);
        self.encrypted = true;
        self.transaction = None;
        Ok(())
    }

    async fn mail(&mut self, line: &str, riding: bool) -> Result<(), Over> {
        if riding {
            self.host.counts.lock().unwrap().rode_on_dot += 1;
        }
        if self.transaction.is_some() {
            self.output.extend_from_slice(b"503 5.5.1 Nested MAIL\r\n");
        } else if self.answer(Stage::Mail, line, "250 2.1.0 Ok").await? {
            let (sender, mail_parameters) = path(line);
            self.transaction = Some(Transaction { sender, mail_parameters, ..Default::default() });
        }
        Ok(())
    }

    async fn rcpt(&mut self, line: &str) -> Result<(), Over> {
        if self.transaction.is_none() {
            self.output.extend_from_slice(b"503 5.5.1 MAIL first\r\n");
        } else if self.answer(Stage::Rcpt, line, "250 2.1.5 Ok").await? {
            let (recipient, parameters) = path(line);
            if let Some(transaction) = &mut self.transaction {
                transaction.recipients.push(recipient);
                transaction.rcpt_parameters.push(parameters);
            }
        }
        Ok(())
    }

    async fn data(&mut self, line: &str) -> Result<(), Over> {
        if self.transaction.as_ref().is_none_or(|t| t.recipients.is_empty()) {
            self.output.extend_from_slice(b"554 5.5.1 No valid recipients\r\n");
            return Ok(());
        }
        if !self.answer(Stage::Data, line, "354 Go ahead").await? {
            return Ok(());
        }
        let data = self.until_dot().await?;
        self.finish(unstuffed(&data), false).await
    }

    async fn bdat(&mut self, line: &str) -> Result<(), Over> {
        let mut words = line.split_whitespace().skip(1);
        let size: usize = words.next().and_then(|n| n.parse().ok()).ok_or(Over)?;
        let last = words.next().is_some_and(|w| w.eq_ignore_ascii_case("LAST"));
        while self.input.len() < size {
            self.flush().await?;
            self.read().await?;
        }
        let chunk: Vec<u8> = self.input.drain(..size).collect();
        let Some(transaction) = &mut self.transaction else {
            self.output.extend_from_slice(b"503 5.5.1 MAIL first\r\n");
            return Ok(());
        };
        transaction.chunks.extend_from_slice(&chunk);
        if !last {
            self.output.extend_from_slice(b"250 2.0.0 Ok\r\n");
            return Ok(());
        }
        let body = std::mem::take(&mut transaction.chunks);
        self.finish(body, true).await
    }

    /// Answers the end of the message and records it.
    async fn finish(&mut self, body: Vec<u8>, chunked: bool) -> Result<(), Over> {
        let transaction = self.transaction.take().ok_or(Over)?;
        // What the peer wrote together with the dot may need a moment more than the dot itself.
        self.flush().await?;
        if self.input.is_empty() {
            let _ = tokio::time::timeout(Duration::from_millis(2), self.read()).await;
        }
        self.after_dot = self.input.len() >= 4 && self.input[..4].eq_ignore_ascii_case(b"MAIL");
        let mut delivered = Delivered {
            host: self.host.address,
            client: self.client,
            hello: self.hello.clone(),
            session: self.number,
            sender: transaction.sender,
            mail_parameters: transaction.mail_parameters,
            recipients: transaction.recipients,
            rcpt_parameters: transaction.rcpt_parameters,
            id: id_of(&body),
            body: if self.shared.keep_bodies.load(Ordering::Relaxed) { body } else { Vec::new() },
            at: Instant::now(),
            confirmed: false,
            chunked,
            encrypted: self.encrypted,
        };
        let line = delivered.recipients.join(" ");
        let answered = self.answer(Stage::Dot, &line, "250 2.0.0 Taken").await;
        delivered.confirmed = matches!(answered, Ok(true));
        self.shared.delivered.lock().unwrap().push(delivered);
        answered.map(|_| ())
    }

    /// Does what the rules say at a stage; true where the reply is 2xx or 3xx.
    async fn answer(&mut self, stage: Stage, line: &str, usual: &str) -> Result<bool, Over> {
        let (act, delay) = self
            .host
            .decide(stage, line, self.client)
            .unwrap_or_else(|| (Act::Reply(usual.to_string()), Duration::ZERO));
        if !delay.is_zero() {
            self.flush().await?;
            tokio::time::sleep(delay).await;
        }
        match act {
            Act::Reply(text) => {
                self.output.extend_from_slice(format!("{text}\r\n").as_bytes());
                Ok(text.starts_with(['2', '3']))
            }
            Act::Nothing => Ok(true),
            Act::ReplyAndClose(text) => {
                self.output.extend_from_slice(format!("{text}\r\n").as_bytes());
                self.flush().await?;
                Err(Over)
            }
            Act::Close => Err(Over),
            Act::Hang => {
                self.flush().await?;
                loop {
                    self.input.clear();
                    self.read().await?;
                }
            }
            Act::Endless(line) => loop {
                self.output.extend_from_slice(format!("{line}\r\n").as_bytes());
                self.flush().await?;
            },
            Act::Drip(text, pause) => {
                self.flush().await?;
                for byte in format!("{text}\r\n").bytes() {
                    self.output.push(byte);
                    self.flush().await?;
                    tokio::time::sleep(pause).await;
                }
                Ok(text.starts_with(['2', '3']))
            }
        }
    }

    /// The next command line; replies leave before it is waited for.
    async fn line(&mut self) -> Result<String, Over> {
        loop {
            if let Some(end) = memmem::find(&self.input, b"\r\n") {
                let line: Vec<u8> = self.input.drain(..end + 2).collect();
                return Ok(String::from_utf8_lossy(&line[..end]).into_owned());
            }
            self.flush().await?;
            self.read().await?;
        }
    }

    /// What stands before the last dot, dots still doubled.
    async fn until_dot(&mut self) -> Result<Vec<u8>, Over> {
        self.flush().await?;
        let mut seen = 0;
        loop {
            if self.input.starts_with(b".\r\n") {
                self.input.drain(..3);
                return Ok(Vec::new());
            }
            if let Some(at) = memmem::find(&self.input[seen..], b"\r\n.\r\n") {
                let rest = self.input.split_off(seen + at + 5);
                let mut data = std::mem::replace(&mut self.input, rest);
                data.truncate(seen + at + 2);
                return Ok(data);
            }
            seen = self.input.len().saturating_sub(4);
            self.read().await?;
        }
    }

    async fn read(&mut self) -> Result<(), Over> {
        let read = self.stream.read_buf(&mut self.input).await;
        if matches!(read, Ok(n) if n > 0) { Ok(()) } else { Err(Over) }
    }

    async fn flush(&mut self) -> Result<(), Over> {
        if self.output.is_empty() {
            return Ok(());
        }
        let pause = self.host.script.lock().unwrap().round_trip;
        if !pause.is_zero() {
            tokio::time::sleep(pause).await;
        }
        let output = std::mem::take(&mut self.output);
        self.stream.write_all(&output).await.map_err(|_| Over)?;
        self.stream.flush().await.map_err(|_| Over)
    }
}

/// What stands inside the angle brackets, and behind them.
fn path(line: &str) -> (String, String) {
    let inside = line.split_once('<').map_or("", |(_, rest)| rest);
    let (path, parameters) = inside.rsplit_once('>').unwrap_or((inside, ""));
    (path.to_string(), parameters.trim().to_string())
}
