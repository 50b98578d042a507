//! A raw SMTP client: sends exactly the bytes it is told to and reads whole replies.

use super::PATIENCE;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::Duration;

/// One whole reply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    /// Three digits of the last line.
    pub code: u16,
    /// All lines, CRLF between them.
    pub text: String,
}

/// A connection. Every wait is bounded by [`PATIENCE`].
pub struct Client {
    stream: TcpStream,
    input: Vec<u8>,
}

/// A connection that is not greeted for so long has nobody at its other end.
const ORPHANED: Duration = Duration::from_secs(10);

impl Client {
    /// Connects and reads the 220.
    #[track_caller]
    pub fn connect(address: SocketAddr) -> Self {
        let mut client = Self::connect_silently(address);
        client.expect(220);
        client
    }

    /// Connects and says EHLO.
    #[track_caller]
    pub fn hello(address: SocketAddr) -> Self {
        let mut client = Self::connect(address);
        client.command("EHLO client.test", 250);
        client
    }

    /// Connects and says EHLO; `None` where the peer does not listen, or ends before its answer.
    pub fn try_hello(address: SocketAddr) -> Option<Self> {
        let stream = TcpStream::connect_timeout(&address, PATIENCE).ok()?;
        // A listener that is killed while a connection is being made may leave it with nobody at
        // its other end, and the kernel tells only those who send.
        stream.set_read_timeout(Some(ORPHANED)).unwrap();
        stream.peek(&mut [0]).ok().filter(|count| *count > 0)?;
        let mut client = Self::over(stream);
        client.try_reply().filter(|greeting| greeting.code == 220)?;
        client.send_quietly(b"EHLO client.test\r\n");
        client.try_reply().filter(|reply| reply.code == 250)?;
        Some(client)
    }

    /// Connects and reads nothing.
    #[track_caller]
    pub fn connect_silently(address: SocketAddr) -> Self {
        Self::over(TcpStream::connect_timeout(&address, PATIENCE).expect("connect"))
    }

    /// Connects from this address and reads nothing.
    #[track_caller]
    pub fn connect_from(source: Ipv4Addr, address: SocketAddr) -> Self {
        let connecting = async {
            let socket = tokio::net::TcpSocket::new_v4()?;
            socket.bind((source, 0).into())?;
            socket.connect(address).await?.into_std()
        };
        let stream = super::runtime().block_on(connecting).expect("connect");
        stream.set_nonblocking(false).unwrap();
        Self::over(stream)
    }

    fn over(stream: TcpStream) -> Self {
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        stream.set_nodelay(true).unwrap();
        Self { stream, input: Vec::new() }
    }

    /// How long a read waits from now on.
    pub fn patience(&mut self, patience: Duration) {
        self.stream.set_read_timeout(Some(patience)).unwrap();
    }

    /// Our own address and port.
    pub fn local(&self) -> (Ipv4Addr, u16) {
        match self.stream.local_addr().unwrap() {
            SocketAddr::V4(v4) => (*v4.ip(), v4.port()),
            SocketAddr::V6(_) => unreachable!("tests use IPv4"),
        }
    }

    /// Sends bytes as they are.
    #[track_caller]
    pub fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).expect("send");
    }

    /// Sends bytes as they are; false where the peer has closed.
    pub fn send_quietly(&mut self, bytes: &[u8]) -> bool {
        self.stream.write_all(bytes).is_ok()
    }

    /// No more bytes from us.
    pub fn finish_sending(&mut self) {
        let _ = self.stream.shutdown(std::net::Shutdown::Write);
    }

    /// Sends a line and wants this reply code.
    #[track_caller]
    pub fn command(&mut self, line: &str, code: u16) -> Reply {
        self.send(format!("{line}\r\n").as_bytes());
        let reply = self.reply();
        assert_eq!(reply.code, code, "after {line:?}: {}", reply.text);
        reply
    }

    /// Sends a line and gives back whatever is replied.
    #[track_caller]
    pub fn ask(&mut self, line: &str) -> Reply {
        self.send(format!("{line}\r\n").as_bytes());
        self.reply()
    }

    /// Reads one reply and wants this code.
    #[track_caller]
    pub fn expect(&mut self, code: u16) -> Reply {
        let reply = self.reply();
        assert_eq!(reply.code, code, "{}", reply.text);
        reply
    }

    /// Reads one reply; panics where the connection ends.
    #[track_caller]
    pub fn reply(&mut self) -> Reply {
        self.try_reply().expect("the connection ended instead of a reply")
    }

    /// Reads one reply; `None` where the connection ends first.
    #[track_caller]
    pub fn try_reply(&mut self) -> Option<Reply> {
        let mut text = String::new();
        loop {
            let line = self.line()?;
            let code = line.get(..3).and_then(|c| c.parse().ok()).expect("a reply code");
            text.push_str(&line);
            match line.as_bytes().get(3) {
                Some(b'-') => text.push_str("\r\n"),
                _ => return Some(Reply { code, text }),
            }
        }
    }

    /// True where the peer closes without another byte.
    #[track_caller]
    pub fn is_closed(&mut self) -> bool {
        self.input.is_empty() && !self.fill()
    }

    /// Whole transaction over DATA. `body` is dot-stuffed here; gives the reply to the last dot.
    #[track_caller]
    pub fn mail(&mut self, from: &str, to: &[&str], body: &[u8]) -> Reply {
        self.command(&format!("MAIL FROM:<{from}>"), 250);
        for recipient in to {
            self.command(&format!("RCPT TO:<{recipient}>"), 250);
        }
        self.data(body)
    }

    /// Whole transaction over DATA with a peer that may refuse or end at any moment. Gives the
    /// reply to the last dot, or the first one before it that is not as usual; `None` where the
    /// connection ended instead.
    pub fn try_mail(&mut self, from: &str, to: &[&str], body: &[u8]) -> Option<Reply> {
        let mut commands = vec![(format!("MAIL FROM:<{from}>\r\n"), 250)];
        commands.extend(to.iter().map(|recipient| (format!("RCPT TO:<{recipient}>\r\n"), 250)));
        commands.push(("DATA\r\n".to_string(), 354));
        for (command, usual) in commands {
            self.send_quietly(command.as_bytes());
            let reply = self.try_reply()?;
            if reply.code != usual {
                return Some(reply);
            }
        }
        self.send_quietly(&super::message::stuffed(body));
        self.try_reply()
    }

    /// DATA and the message; gives the reply to the last dot.
    #[track_caller]
    pub fn data(&mut self, body: &[u8]) -> Reply {
        self.command("DATA", 354);
        self.send(&super::message::stuffed(body));
        self.reply()
    }

    #[track_caller]
    fn line(&mut self) -> Option<String> {
        loop {
            if let Some(end) = memchr::memmem::find(&self.input, b"\r\n") {
                let rest = self.input.split_off(end + 2);
                let line = std::mem::replace(&mut self.input, rest);
                return Some(String::from_utf8_lossy(&line[..end]).into_owned());
            }
            if !self.fill() {
                return None;
            }
        }
    }

    /// Reads more; false at the end of the connection.
    #[track_caller]
    fn fill(&mut self) -> bool {
        let mut block = [0; 16_384];
        match self.stream.read(&mut block) {
            Ok(0) => false,
            Ok(n) => {
                self.input.extend_from_slice(&block[..n]);
                true
            }
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => false,
            Err(error) => panic!("no byte from the peer: {error}"),
        }
    }
}
