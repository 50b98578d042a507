//! Whole sessions with the server: any bytes, in any pieces, of any client.
//!
//! A shell plays them as the real one does: it asks `step` until it is to read, answers for
//! messages and logins by what they hold, and shakes hands. After a handshake the same bytes go to
//! a session that begins with TLS, too, which must say the same.

use super::frames;
use bulkhead::base::address::Domain;
use bulkhead::smtp::command::{COMMAND_MAX, Refusal};
use bulkhead::smtp::data::DataLimits;
use bulkhead::smtp::sasl::{Password, ScramVerifier};
use bulkhead::smtp::server::{Login, Logins, Session, Settings, Standing, Step, Tls};
use std::net::{IpAddr, Ipv4Addr};
use std::num::NonZeroU32;

/// Limits that small inputs can meet.
pub const SMALL: DataLimits = DataLimits { size: 512, line: 64 };
/// Recipients of one message.
pub const RECIPIENTS: usize = 3;
/// Bytes that the shell reads at once.
const READ: usize = 16 << 10;
/// Of what the nonce of a session is made.
const NONCE: &str = "n";

/// How a client stands, and whether it shows a known certificate in the handshake.
#[derive(Clone, Debug)]
pub struct Client {
    pub standing: Standing,
    pub has_certificate: bool,
}

/// A message that was handed over: its recipients, and who sends it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Handed {
    pub recipients: usize,
    pub user: Option<String>,
    body: Vec<u8>,
}

/// All that came of a session, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Heard {
    pub output: Vec<u8>,
    pub messages: Vec<Handed>,
    pub closed: bool,
    /// Domains of recipients, and refusals for the log.
    told: Vec<String>,
    /// How much of input and of output there was at each handshake.
    handshakes: Vec<(usize, usize)>,
}

impl Heard {
    fn text(&self) -> String {
        self.output.escape_ascii().to_string()
    }
}

/// The first bytes choose who the client is and how its bytes are cut, the others are what it says.
pub fn session(data: &[u8]) {
    let [client, piece, said @ ..] = data else { return };
    check(&Client::chosen(*client), usize::from(*piece), said);
}

/// Plays `said` as the shell reads it, byte by byte, and otherwise: all that comes of it is the
/// same, and what a server may say.
pub fn check(client: &Client, piece: usize, said: &[u8]) {
    let (whole, standings) = Shell::new(client).play(said, READ);
    for piece in [1, 2 + piece % 97] {
        let (cut, _) = Shell::new(client).play(said, piece);
        assert_eq!(cut.text(), whole.text(), "in pieces of {piece}");
        assert_eq!(cut.told, whole.told, "in pieces of {piece}");
        assert_eq!(cut, whole, "in pieces of {piece}");
    }
    check_lines(&whole.output);
    whole.messages.iter().for_each(|message| check_body(&message.body));
    frames::check(client, said, &whole);
    for ((input, output), standing) in whole.handshakes.iter().zip(standings) {
        let rest = whole.output.get(*output..).unwrap_or_default();
        check_anew(standing, said.get(*input..).unwrap_or_default(), rest);
    }
}

/// Replies are whole lines that a client can read and a terminal can show.
fn check_lines(output: &[u8]) {
    assert!(output.is_empty() || output.ends_with(b"\r\n"));
    for line in output.split_inclusive(|b| *b == b'\n') {
        let line = line.strip_suffix(b"\r\n").expect("a reply ends in CRLF");
        let text = std::str::from_utf8(line).expect("replies are UTF-8");
        // Challenges have a limit of their own (RFC 4954 §4).
        let most = if text.starts_with("334 ") { 12_286 } else { 510 };
        assert!(line.len() <= most, "RFC 5321 §4.5.3.1.5: {text}");
        assert!(!text.contains(|c: char| c.is_control()), "{text:?}");
        let [code @ .., separator] = &line[..4] else { unreachable!() };
        assert!(code.iter().all(u8::is_ascii_digit) && matches!(separator, b' ' | b'-'), "{text}");
        assert!(matches!(code[0], b'2'..=b'5'), "{text}");
    }
}

fn check_body(body: &[u8]) {
    assert!(body.len() <= SMALL.size + 2);
    let bare = |pair: &[u8]| (pair[0] == b'\r') != (pair[1] == b'\n');
    assert!(!body.windows(2).any(bare) && !body.contains(&0), "{}", body.escape_ascii());
}

/// Nothing that was said before the handshake holds after it (RFC 3207 §4.2), but for what counts
/// over the whole session.
fn check_anew(standing: Standing, said: &[u8], expected: &[u8]) {
    let mut shell = Shell::new(&Client { standing, has_certificate: false });
    shell.session.output().clear();
    let (fresh, _) = shell.play(said, READ);
    let lines = |output: &[u8]| -> Vec<String> {
        String::from_utf8_lossy(output).lines().map(str::to_string).collect()
    };
    for (fresh, after) in lines(&fresh.output).iter().zip(&lines(expected)) {
        let is_over = |line: &String| line.starts_with("421 ");
        // A nonce is not given twice, and a proof is of one nonce.
        let is_challenge = |line: &String| line.starts_with("334 cj");
        if is_over(fresh) || is_over(after) || is_challenge(fresh) && is_challenge(after) {
            return;
        }
        assert_eq!(fresh, after, "after a handshake");
    }
}

/// Who may relay has an address in 10.0.0.0/8.
pub fn may_relay(client: IpAddr) -> bool {
    matches!(client, IpAddr::V4(v4) if v4.octets()[0] == 10)
}

/// There is no place for these.
fn is_turned_away(client: IpAddr) -> bool {
    matches!(client, IpAddr::V4(v4) if v4.octets()[0] == 203)
}

impl Client {
    /// Each bit, or two, is one thing about it.
    pub fn chosen(bits: u8) -> Self {
        let bit = |n: u8| bits >> n & 1 == 1;
        let two = |n: u8| usize::from(bits >> n & 3);
        let client = Ipv4Addr::new(if bit(0) { 192 } else { 10 }, 0, 2, 7).into();
        let standing = Standing {
            client,
            may_relay: may_relay(client),
            must_log_in: bit(1),
            tls: [Tls::Offered, Tls::Absent, Tls::On, Tls::Offered][two(2)],
            logins: [Logins::Always, Logins::WithTls, Logins::Never, Logins::Always][two(4)],
            is_proxy: bit(6),
        };
        Self { standing, has_certificate: bit(7) }
    }
}

/// Plays a session.
pub struct Shell {
    session: Session,
    client: Client,
    heard: Heard,
    /// Read, and not yet taken.
    buffer: Vec<u8>,
    /// Taken so far.
    taken: usize,
    /// Parts of a message that the session need not keep.
    kept: Vec<u8>,
    /// How the client stood after each handshake.
    standings: Vec<Standing>,
}

impl Shell {
    pub fn new(client: &Client) -> Self {
        let settings = Settings {
            hostname: Domain::parse("relay.test").expect("a domain"),
            message_size: SMALL.size,
            line_length: SMALL.line,
            recipients: RECIPIENTS,
            messages: 5,
            commands: 60,
            errors: 8,
        };
        let mut session = Session::new(settings.into(), client.standing.clone(), NONCE.into());
        session.set_room(400);
        Self {
            session,
            client: client.clone(),
            heard: Heard::default(),
            buffer: Vec::new(),
            taken: 0,
            kept: Vec::new(),
            standings: Vec::new(),
        }
    }

    /// All of it, in pieces.
    fn play(mut self, said: &[u8], piece: usize) -> (Heard, Vec<Standing>) {
        self.hear();
        said.chunks(piece).for_each(|piece| self.read(piece));
        (self.heard, self.standings)
    }

    /// Takes in what came, as far as it goes. What follows STARTTLS is what comes after the
    /// handshake: the real shell forgets what it had read already, which depends on how it came.
    pub fn read(&mut self, piece: &[u8]) {
        self.buffer.extend_from_slice(piece);
        while !self.heard.closed {
            let (taken, step) = self.session.step(&self.buffer);
            assert!(taken <= self.buffer.len());
            self.buffer.drain(..taken);
            self.taken += taken;
            self.hear();
            assert!(self.session.body().len() <= SMALL.size + 2);
            match step {
                Step::Read => {
                    let left = self.buffer.len();
                    assert!(left < COMMAND_MAX, "{left} bytes are left for later");
                    if self.taken.is_multiple_of(3) {
                        let (before, part) = self.session.take_body();
                        assert!(before == 0 || self.session.is_in_message());
                        self.kept.truncate(before);
                        self.kept.extend(part);
                    }
                    return;
                }
                step => self.answer(step),
            }
        }
    }

    /// All replies so far.
    pub fn output(&self) -> &[u8] {
        &self.heard.output
    }

    fn hear(&mut self) {
        self.heard.output.append(self.session.output());
    }

    fn answer(&mut self, step: Step) {
        match step {
            Step::Read => {}
            Step::Close => self.heard.closed = true,
            Step::Recipient(domain) => self.heard.told.push(domain.to_string()),
            Step::Refused(refused) => {
                is_told(&refused.command);
                self.heard.told.push(format!("{refused:?}"));
            }
            Step::Message(message) => {
                self.is_silent();
                let body = [&self.kept[..message.taken], &message.body].concat();
                let later = memchr::memmem::find(&body, b"later").is_some();
                let (recipients, user) = (message.envelope.recipients.len(), message.user);
                self.heard.messages.push(Handed { recipients, user, body });
                self.session.answer(&match later {
                    true => Refusal::new(451, (4, 3, 0), "Later"),
                    false => Refusal::new(250, (2, 0, 0), "Taken"),
                });
            }
            Step::StartTls => {
                self.is_silent();
                self.heard.handshakes.push((self.taken, self.heard.output.len()));
                let standing = &mut self.client.standing;
                assert_eq!(standing.tls, Tls::Offered);
                (standing.tls, standing.may_relay) =
                    (Tls::On, standing.may_relay || self.client.has_certificate);
                self.standings.push(standing.clone());
                self.session.secured(self.client.has_certificate);
            }
            Step::Introduce(proxied) => {
                self.is_silent();
                let standing = &mut self.client.standing;
                assert!(standing.is_proxy);
                standing.client = proxied.address.unwrap_or(standing.client);
                if is_turned_away(standing.client) {
                    return self.session.abort(&Refusal::new(421, (4, 7, 0), "No place"));
                }
                standing.may_relay = may_relay(standing.client);
                self.session.introduced(standing.clone(), proxied.helo, proxied.login);
            }
            Step::Login(login) => {
                self.is_silent();
                self.log_in(login);
            }
        }
    }

    /// Ann has a password; who is called late may not try.
    fn log_in(&mut self, login: Login) {
        let wrong = Refusal::new(535, (5, 7, 8), "Wrong");
        match login {
            Login::Verifier(user) if user == "late" => self.session.denied(&wrong),
            Login::Verifier(user) => self.session.verify(verifier(&user)),
            Login::Proven(user) => {
                assert_eq!(user, "ann");
                self.session.logged_in(user);
            }
            Login::Password { user, password } => match (user.as_str(), password.as_bytes()) {
                ("ann", b"secret") => self.session.logged_in(user),
                _ => self.session.denied(&wrong),
            },
            Login::Wrong(_) => self.session.denied(&wrong),
        }
    }

    /// Until the shell has answered, nothing is taken and nothing said.
    fn is_silent(&mut self) {
        let (taken, step) = self.session.step(&self.buffer);
        assert!(taken == 0 && matches!(step, Step::Read), "{step:?}");
        assert!(self.session.output().is_empty());
    }
}

/// Of two commands all is told, of the others the verb, since what follows may be a password.
fn is_told(command: &str) {
    let is_path = ["MAIL ", "RCPT "].iter().any(|verb| {
        command.split_at_checked(5).is_some_and(|(begin, _)| begin.eq_ignore_ascii_case(verb))
    });
    assert!(is_path || command == "?" || command.bytes().all(|b| b.is_ascii_uppercase()));
    assert!(!command.contains(|c: char| c.is_control()), "{command:?}");
}

/// Ann's, or a made-up one.
fn verifier(user: &str) -> ScramVerifier {
    let password = Password::new("secret").expect("a password");
    match user {
        "ann" => ScramVerifier::derive(&password, b"salt", NonZeroU32::MIN),
        _ => ScramVerifier::made_up(b"key", user, (NonZeroU32::MIN, 4)),
    }
}

/// As a client sends it.
pub fn base64(text: impl AsRef<[u8]>) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.encode(text)
}
