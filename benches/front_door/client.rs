//! Clients of the front door: whole sessions in lockstep, as mail programs of web servers have
//! them, and pieces of sessions for those who mean no good.

use rustls::client::Resumption;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::{CertificateDer, ServerName};
use std::io::{Error, ErrorKind, Result};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::net::{TcpSocket, TcpStream};
use tokio_rustls::TlsConnector;

/// What a client does before it sends.
#[derive(Clone)]
pub(crate) struct Way {
    pub(crate) to: SocketAddr,
    pub(crate) tls: Option<TlsConnector>,
    /// The initial response of AUTH PLAIN.
    pub(crate) login: Option<&'static str>,
}

/// How long it took to be greeted, and the whole session.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Took {
    pub(crate) banner: Duration,
    pub(crate) whole: Duration,
}

impl Way {
    pub(crate) fn clear(to: SocketAddr) -> Self {
        Self { to, tls: None, login: None }
    }

    /// One message in a session of its own.
    pub(crate) async fn send(&self, source: Ipv4Addr, message: &[u8]) -> Result<Took> {
        let begun = Instant::now();
        let mut talk = Talk::new(connect(source, self.to).await?);
        talk.reply(220).await?;
        let banner = begun.elapsed();
        talk.ask("EHLO client.test", 250).await?;
        match &self.tls {
            None => talk.send(self.login, message).await?,
            Some(tls) => {
                talk.ask("STARTTLS", 220).await?;
                let name = ServerName::try_from("relay.test").map_err(Error::other)?;
                let mut talk = Talk::new(tls.connect(name, talk.0.into_inner()).await?);
                talk.ask("EHLO client.test", 250).await?;
                talk.send(self.login, message).await?;
            }
        }
        Ok(Took { banner, whole: begun.elapsed() })
    }
}

/// TLS that believes in this certificate, and begins anew each time as a program does that is
/// started for each message.
pub(crate) fn tls(certificate: CertificateDer<'static>) -> TlsConnector {
    let mut roots = RootCertStore::empty();
    roots.add(certificate).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots);
    let mut config = config.with_no_client_auth();
    config.resumption = Resumption::disabled();
    Arc::new(config).into()
}

/// Connects from this address.
pub(crate) async fn connect(source: Ipv4Addr, to: SocketAddr) -> Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    socket.set_reuseaddr(true)?;
    socket.bind((source, 0).into())?;
    let stream = socket.connect(to).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// A session in lockstep.
pub(crate) struct Talk<S>(BufReader<S>);

impl<S: AsyncRead + AsyncWrite + Unpin> Talk<S> {
    pub(crate) fn new(stream: S) -> Self {
        Self(BufReader::new(stream))
    }

    /// The last line of a reply with this code; any other reply is an error.
    pub(crate) async fn reply(&mut self, code: u16) -> Result<String> {
        let mut line = String::new();
        loop {
            line.clear();
            if self.0.read_line(&mut line).await? == 0 {
                return Err(ErrorKind::UnexpectedEof.into());
            }
            if line.as_bytes().get(3) != Some(&b'-') {
                break;
            }
        }
        if line.starts_with(&code.to_string()) { Ok(line) } else { Err(Error::other(line)) }
    }

    pub(crate) async fn ask(&mut self, command: &str, code: u16) -> Result<String> {
        self.say(format!("{command}\r\n").as_bytes()).await?;
        self.reply(code).await
    }

    pub(crate) async fn say(&mut self, bytes: &[u8]) -> Result<()> {
        self.0.get_mut().write_all(bytes).await?;
        self.0.get_mut().flush().await
    }

    async fn send(&mut self, login: Option<&str>, message: &[u8]) -> Result<()> {
        if let Some(login) = login {
            self.ask(&format!("AUTH PLAIN {login}"), 235).await?;
        }
        self.begin_message().await?;
        self.say(message).await?;
        self.reply(250).await?;
        self.ask("QUIT", 221).await?;
        Ok(())
    }

    /// Up to the reply to DATA.
    pub(crate) async fn begin_message(&mut self) -> Result<()> {
        self.ask("MAIL FROM:<ann@shop.test>", 250).await?;
        self.ask("RCPT TO:<bob@d.test>", 250).await?;
        self.ask("DATA", 354).await?;
        Ok(())
    }

    /// The stream, once nothing is left to be read from it.
    pub(crate) fn into_inner(self) -> S {
        self.0.into_inner()
    }

    /// What comes until the other side closes.
    pub(crate) async fn rest(&mut self) -> String {
        let mut rest = Vec::new();
        _ = self.0.read_to_end(&mut rest).await;
        String::from_utf8_lossy(&rest).into_owned()
    }
}
