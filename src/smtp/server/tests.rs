//! Dialogues with a session: what the client says, and the codes of all replies.

use super::*;
use crate::smtp::sasl::{Password, ScramVerifier};
use proptest::prelude::*;

fn settings() -> Settings {
    Settings {
        hostname: Domain::parse("relay.test").unwrap(),
        message_size: 1_000,
        line_length: 100,
        recipients: 3,
        messages: 5,
        commands: 60,
        errors: 6,
    }
}

/// May relay, in clear.
fn standing() -> Standing {
    Standing {
        client: "192.0.2.7".parse().unwrap(),
        may_relay: true,
        must_log_in: false,
        tls: Tls::Absent,
        logins: Logins::Never,
        is_proxy: false,
    }
}

fn session(may_relay: bool) -> Session {
    standing_as(Standing { may_relay, ..standing() })
}

fn standing_as(standing: Standing) -> Session {
    Session::new(Arc::new(settings()), standing, "nonce".into())
}

/// What was said and taken, in order: replies as they are, messages as `<sender>|recipients|body`.
#[derive(Debug, Default, PartialEq, Eq)]
struct Heard {
    replies: String,
    messages: Vec<String>,
    domains: Vec<String>,
    /// What the log is told of: command, reverse-path, code.
    refused: Vec<String>,
    closed: bool,
}

/// Plays the client's bytes in pieces of these sizes; keeps parts of messages now and then.
fn play(session: &mut Session, input: &[u8], sizes: &[usize]) -> Heard {
    let mut heard = Heard::default();
    let mut sizes = sizes.iter().copied().cycle();
    let (mut buffer, mut at, mut kept) = (Vec::new(), 0, Vec::new());
    loop {
        let (taken, step) = session.step(&buffer);
        buffer.drain(..taken);
        heard.replies += &String::from_utf8(std::mem::take(session.output())).unwrap();
        match step {
            Step::Read if at == input.len() => return heard,
            Step::Read => {
                let end = (at + sizes.next().unwrap_or(input.len()).max(1)).min(input.len());
                buffer.extend_from_slice(&input[at..end]);
                at = end;
                if at.is_multiple_of(3) {
                    let (before, part) = session.take_body();
                    kept.truncate(before);
                    kept.extend(part);
                }
            }
            Step::Refused(refused) => {
                let from = refused.from.map_or_else(|| "-".to_string(), |from| from.to_string());
                heard.refused.push(format!("{}|{from}|{}", refused.command, refused.reply.code));
            }
            Step::Login(login) => match login {
                Login::Password { user, password } if password.as_bytes() == b"secret" => {
                    session.logged_in(user);
                }
                Login::Proven(user) => session.logged_in(user),
                Login::Verifier(user) => {
                    let password = Password::new("secret").unwrap();
                    let salt = user.as_bytes();
                    session.verify(ScramVerifier::derive(&password, salt, 1.try_into().unwrap()));
                }
                Login::Password { .. } | Login::Wrong(_) => {
                    session.denied(&Refusal::new(535, (5, 7, 8), "Wrong"));
                }
            },
            Step::StartTls => {
                buffer.clear();
                session.secured(false);
            }
            Step::Introduce(proxied) => {
                let standing = Standing {
                    client: proxied.address.unwrap_or(session.standing.client),
                    ..session.standing.clone()
                };
                session.introduced(standing, proxied.helo, proxied.login);
            }
            Step::Recipient(domain) => heard.domains.push(domain.to_string()),
            Step::Message(m) => {
                let to: Vec<&str> =
                    m.envelope.recipients.iter().map(|r| r.mailbox.as_str()).collect();
                let body = [&kept[..m.taken], &m.body].concat();
                let body = String::from_utf8_lossy(&body);
                heard.messages.push(format!("{}|{}|{body}", m.envelope.reverse_path, to.join(",")));
                session.answer(&Refusal::new(250, (2, 0, 0), "Queued"));
            }
            Step::Close => {
                heard.closed = true;
                return heard;
            }
        }
    }
}

/// The codes of the replies, a line of several as one.
fn codes(heard: &Heard) -> String {
    let lines = heard.replies.lines().filter(|line| line.as_bytes().get(3) == Some(&b' '));
    lines.map(|line| line[..3].to_string()).collect::<Vec<_>>().join(" ")
}

fn dialogue(input: &str) -> (String, Heard) {
    let heard = play(&mut session(true), input.as_bytes(), &[]);
    (codes(&heard), heard)
}

const HELLO: &str = "EHLO web1\r\n";
const ENVELOPE: &str = "MAIL FROM:<a@x.test>\r\nRCPT TO:<b@y.test>\r\n";

#[test]
fn takes_a_message_with_all_commands_in_one_go() {
    let (codes, heard) =
        dialogue(&format!("{HELLO}{ENVELOPE}RCPT TO:<c@z.test>\r\nDATA\r\n..x\r\n.\r\nQUIT\r\n"));
    assert_eq!(codes, "220 250 250 250 250 354 250 221");
    assert_eq!(heard.messages, ["a@x.test|b@y.test,c@z.test|.x\r\n"]);
    assert_eq!(heard.domains, ["y.test", "z.test"]);
    assert!(heard.closed);
}

#[test]
fn offers_what_it_does() {
    let (_, heard) = dialogue(HELLO);
    assert_eq!(
        heard.replies,
        "220 relay.test ESMTP Bulkhead\r\n250-relay.test\r\n250-PIPELINING\r\n250-SIZE 1000\r\n\
         250-8BITMIME\r\n\
         250-SMTPUTF8\r\n250-CHUNKING\r\n250-DSN\r\n250-ENHANCEDSTATUSCODES\r\n\
         250 LIMITS MAILMAX=5 RCPTMAX=3\r\n"
    );
}

#[test]
fn takes_chunks() {
    let (codes, heard) =
        dialogue(&format!("{HELLO}{ENVELOPE}BDAT 5\r\na\r\n.\rBDAT 4 LAST\r\n\nbQU"));
    assert_eq!(codes, "220 250 250 250 250 250");
    // What has no line end at its end gets one.
    assert_eq!(heard.messages, ["a@x.test|b@y.test|a\r\n.\r\nbQU\r\n"]);
    let (codes, heard) = dialogue(&format!("{HELLO}{ENVELOPE}BDAT 0 LAST\r\nNOOP\r\n"));
    assert_eq!((codes.as_str(), heard.messages.len()), ("220 250 250 250 250 250", 1));
}

#[test]
fn unwanted_chunks_are_read_and_forgotten() {
    let (codes, heard) = dialogue(&format!("{HELLO}BDAT 6\r\nQUIT\r\nNOOP\r\n"));
    assert_eq!((codes.as_str(), heard.closed), ("220 250 503 250", false));
    let (codes, _) = dialogue(&format!(
        "{HELLO}{ENVELOPE}BDAT 3\r\nabcDATA\r\nRCPT TO:<x@y.test>\r\nRSET\r\nDATA\r\n"
    ));
    assert_eq!(codes, "220 250 250 250 250 503 503 250 503");
}

#[test]
fn refusals_are_told_without_what_may_be_a_password() {
    let (_, heard) = dialogue(&format!(
        "{HELLO}AUTH PLAIN AGFubgBzZWNyZXQ=\r\nAGFubgBzZWNyZXQ=\r\nMAIL FROM:<a b>\r\n\
         MAIL FROM:<a@x.test>\r\nRCPT TO:<b@@>\r\nRCPT TO:<c@x.test>\r\nDATA\r\n\
         a bare\rCR\r\n.\r\n"
    ));
    let told = [
        "AUTH|-|502",
        "?|-|500",
        "MAIL FROM:<a b>|-|501",
        "RCPT TO:<b@@>|a@x.test|501",
        "|a@x.test|550",
    ];
    assert_eq!(heard.refused, told, "{}", heard.replies);
}

#[test]
fn of_many_refusals_the_first_are_told_and_of_the_next_message_again() {
    let settings = Settings { errors: 100, recipients: 100, ..settings() };
    let mut session = Session::new(Arc::new(settings), standing(), "nonce".into());
    let many = "RCPT TO:<@>\r\n".repeat(30);
    let one = format!("{ENVELOPE}DATA\r\n.\r\nRCPT TO:<@>\r\n");
    let heard = play(&mut session, format!("{HELLO}{many}{one}").as_bytes(), &[]);
    assert_eq!(heard.refused.len(), 11, "ten of thirty, and one after the message");
}

#[test]
fn mail_that_there_is_no_space_for_is_refused_before_it_is_sent() {
    let mut session = session(true);
    session.set_room(500);
    let input =
        format!("{HELLO}MAIL FROM:<a@x.test> SIZE=501\r\nMAIL FROM:<a@x.test> SIZE=500\r\n");
    assert!(codes(&play(&mut session, input.as_bytes(), &[])).ends_with(" 452 250"));
    session.set_room(0);
    let heard = play(&mut session, b"RSET\r\nMAIL FROM:<a@x.test>\r\n", &[]);
    assert_eq!(heard.replies, "250 2.0.0 Reset\r\n452 4.3.1 Queue is full, try again later\r\n");
}

#[test]
fn commands_have_an_order() {
    for (input, want) in [
        (
            format!("MAIL FROM:<a@x.test>\r\n{HELLO}RCPT TO:<b@y.test>\r\nDATA\r\n"),
            "220 503 250 503 503",
        ),
        (
            format!("{HELLO}MAIL FROM:<>\r\nDATA\r\nMAIL FROM:<>\r\nRSET\r\nMAIL FROM:<>\r\n"),
            "220 250 250 554 503 250 250",
        ),
        (format!("{HELLO}{ENVELOPE}EHLO again\r\nDATA\r\n"), "220 250 250 250 250 503"),
        (
            "HELO web1\r\nVRFY x\r\nEXPN x\r\nHELP\r\nNOOP x\r\nSTARTTLS\r\n".to_string(),
            "220 250 252 502 214 250 502",
        ),
    ] {
        assert_eq!(dialogue(&input).0, want, "{input}");
    }
}

#[test]
fn strangers_relay_to_nobody() {
    let mut session = session(false);
    let heard = play(&mut session, format!("{HELLO}{ENVELOPE}DATA\r\n").as_bytes(), &[]);
    assert_eq!(codes(&heard), "220 250 250 550 554");
    assert!(heard.replies.contains("550 5.7.1 Relaying not permitted for 192.0.2.7\r\n"));
}

#[test]
fn limits_hold() {
    let (codes, heard) = dialogue(&format!(
        "{HELLO}MAIL FROM:<a@x.test> SIZE=1001\r\n{ENVELOPE}RCPT TO:<c@y.test>\r\n\
         RCPT TO:<d@y.test>\r\nRCPT TO:<e@y.test>\r\n"
    ));
    assert_eq!(codes, "220 250 552 250 250 250 250 452");
    assert!(heard.replies.ends_with("452 4.5.3 Too many recipients\r\n"));
    let big = "12345678\r\n".repeat(101);
    let (codes, heard) = dialogue(&format!("{HELLO}{ENVELOPE}DATA\r\n{big}.\r\nNOOP\r\n"));
    assert_eq!(
        (codes.as_str(), heard.messages.len(), heard.closed),
        ("220 250 250 250 354 552 250", 0, false)
    );
    let (codes, _) =
        dialogue(&format!("{HELLO}{ENVELOPE}BDAT 1010\r\n{big}BDAT 1 LAST\r\nxNOOP\r\n"));
    assert_eq!(codes, "220 250 250 250 552 503 250");
    let (codes, heard) = dialogue(&format!(
        "{HELLO}{}",
        "MAIL FROM:<>\r\nRCPT TO:<a@b.test>\r\nDATA\r\n.\r\n".repeat(6)
    ));
    assert!(codes.ends_with("250 421") && heard.messages.len() == 5 && heard.closed, "{codes}");
    let (codes, heard) = dialogue(&"NOOP\r\n".repeat(70));
    assert!(codes.ends_with("250 421") && heard.closed);
}

#[test]
fn long_lines_are_dropped_in_bounded_memory() {
    let mut session = session(true);
    let line = vec![b'x'; 3 * COMMAND_MAX];
    let (taken, _) = session.step(&line);
    assert_eq!(taken, line.len());
    let heard = play(&mut session, b"\r\nNOOP\r\n", &[]);
    assert!(codes(&heard).ends_with("500 250"), "{}", heard.replies);
    let heard = play(&mut session, &vec![b'x'; LINE_DRAINED_MAX + 1], &[]);
    assert!(heard.closed && codes(&heard) == "421", "{}", heard.replies);
}

#[test]
fn nonsense_ends_the_session() {
    for input in [
        "GET / HTTP/1.1\r\nHost: x\r\n",
        "POST / HTTP/1.1\r\n",
        "EHLO x\nMAIL FROM:<>\r\n",
        "EHLO x\rMAIL FROM:<>\r\n",
        "NOOP\0\r\n",
        "BDAT x LAST\r\nQUIT\r\n",
    ] {
        let (_, heard) = dialogue(input);
        assert!(heard.closed && heard.replies.lines().count() == 2, "{input:?}: {}", heard.replies);
    }
    let (codes, heard) = dialogue(&"WHAT\r\n".repeat(20));
    assert_eq!(codes, "220 500 500 500 500 500 500 421");
    assert!(heard.closed);
}

#[test]
fn a_message_that_could_be_read_in_two_ways_ends_the_session() {
    for end in ["\n.\n", "\n.\r\n", "\r.\r\n", "\r\n.\n", "\r.\r", "\r\n\0.\r\n"] {
        let input = format!(
            "{HELLO}{ENVELOPE}DATA\r\none{end}MAIL FROM:<evil@x.test>\r\nRCPT TO:<v@y.test>\r\n\
             DATA\r\ntwo\r\n.\r\nNOOP\r\n"
        );
        let (codes, heard) = dialogue(&input);
        assert_eq!(codes, "220 250 250 250 354 550", "{end:?}");
        assert!(heard.closed && heard.messages.is_empty(), "{end:?}: {:?}", heard.messages);
    }
}

#[test]
fn a_want_of_room_is_told_at_the_end() {
    let mut session = session(true);
    let begin = format!("{HELLO}{ENVELOPE}DATA\r\nabc\r\n");
    play(&mut session, begin.as_bytes(), &[]);
    assert!(session.is_in_message() && session.body().len() == 5);
    session.overflow(Refusal::new(452, (4, 3, 1), "No room"));
    session.step(&b"more\r\n".repeat(20));
    assert_eq!(session.body().len(), 0, "nothing is kept any more");
    let heard = play(&mut session, b"more\r\n.\r\nNOOP\r\n", &[]);
    assert_eq!((codes(&heard).as_str(), heard.messages.len()), ("452 250", 0));
}

#[test]
fn addresses_beyond_ascii_need_smtputf8() {
    let (codes, heard) = dialogue(&format!(
        "{HELLO}MAIL FROM:<jörg@x.test>\r\nMAIL FROM:<a@x.test>\r\nRCPT TO:<jörg@x.test>\r\n\
         RSET\r\n\
         MAIL FROM:<jörg@x.test> SMTPUTF8\r\nRCPT TO:<jörg@x.test>\r\nDATA\r\n.\r\n"
    ));
    assert_eq!(codes, "220 250 553 250 553 250 250 250 354 250");
    assert_eq!(heard.messages, ["jörg@x.test|jörg@x.test|"]);
}

fn input() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        Just("EHLO x\r\n"),
        Just("MAIL FROM:<a@b.test>\r\n"),
        Just("RCPT TO:<c@d.test>\r\n"),
        Just("DATA\r\n"),
        Just("BDAT 3\r\n"),
        Just("BDAT 2 LAST\r\n"),
        Just("abc"),
        Just(".\r\n"),
        Just("\r\n"),
        Just("RSET\r\n"),
        Just("x\n"),
        Just("QUIT\r\n"),
        Just("\0"),
        Just("GET / HTTP/1.1\r\n")
    ];
    proptest::collection::vec(piece, 0..30).prop_map(|pieces| pieces.concat().into_bytes())
}

proptest! {
    #[test]
    fn any_split_gives_the_same(
        input in input(),
        sizes in proptest::collection::vec(1usize..12, 1..9),
    ) {
        let play = |sizes| play(&mut session(true), &input, sizes);
        prop_assert_eq!(play(&sizes), play(&[]));
    }

    #[test]
    fn no_bytes_make_it_panic(
        input: Vec<u8>,
        sizes in proptest::collection::vec(1usize..12, 1..9),
    ) {
        play(&mut session(true), &input, &sizes);
    }
}

#[test]
fn after_the_handshake_a_session_starts_anew_and_nothing_said_before_it_holds() {
    let offered = || standing_as(Standing { tls: Tls::Offered, ..standing() });
    let heard = play(&mut offered(), b"EHLO web1\r\n", &[]);
    assert!(heard.replies.contains("250-STARTTLS\r\n"), "{}", heard.replies);
    // One write, as an attacker between us would inject it: the rest came in clear.
    let injected = format!("{HELLO}{ENVELOPE}STARTTLS\r\nRCPT TO:<evil@y.test>\r\nDATA\r\n");
    let mut session = offered();
    let heard = play(&mut session, injected.as_bytes(), &[]);
    assert_eq!(codes(&heard), "220 250 250 250 220");
    assert_eq!(session.tls(), Tls::On);
    // Neither the name nor the envelope is there any more.
    let after = play(&mut session, b"DATA\r\nMAIL FROM:<a@x.test>\r\nEHLO web1\r\n", &[]);
    assert_eq!(codes(&after), "503 503 250");
    assert!(!after.replies.contains("STARTTLS"), "{}", after.replies);
    let again = play(&mut session, b"STARTTLS\r\n", &[]);
    assert_eq!(codes(&again), "503");
    let message = format!("{ENVELOPE}DATA\r\nA: b\r\n\r\n.\r\n");
    assert_eq!(play(&mut session, message.as_bytes(), &[]).messages.len(), 1);
    let (without, _) = dialogue("EHLO web1\r\nSTARTTLS\r\n");
    assert_eq!(without, "220 250 502");
}

#[test]
fn what_a_message_came_by_is_told_as_rfc_3848_has_it() {
    let by = |tls, user: Option<&str>| {
        let mut session = standing_as(Standing { tls, ..standing() });
        play(&mut session, HELLO.as_bytes(), &[]);
        session.user = user.map(str::to_string);
        [false, true].map(|utf8| session.protocol(utf8))
    };
    assert_eq!(by(Tls::Offered, None), ["ESMTP", "UTF8SMTP"]);
    assert_eq!(by(Tls::Absent, Some("ann")), ["ESMTPA", "UTF8SMTPA"]);
    assert_eq!(by(Tls::On, None), ["ESMTPS", "UTF8SMTPS"]);
    assert_eq!(by(Tls::On, Some("ann")), ["ESMTPSA", "UTF8SMTPSA"]);
}

#[test]
fn where_a_login_is_needed_nothing_is_sent_without_it() {
    let mut session = standing_as(Standing { must_log_in: true, ..standing() });
    let heard = play(&mut session, format!("{HELLO}{ENVELOPE}DATA\r\n").as_bytes(), &[]);
    assert_eq!(codes(&heard), "220 250 530 503 503");
}

#[test]
fn a_proxy_that_is_believed_speaks_for_others_and_nobody_else_does() {
    let introduced = "XCLIENT ADDR=203.0.113.9 HELO=site.test LOGIN=ann\r\n";
    let (answer, _) = dialogue(&format!("{HELLO}{introduced}XFORWARD ADDR=203.0.113.9\r\n"));
    assert_eq!(answer, "220 250 550 550");

    let proxy = Standing { is_proxy: true, may_relay: false, ..standing() };
    let mut session = standing_as(proxy.clone());
    let heard = play(&mut session, format!("{HELLO}{introduced}").as_bytes(), &[]);
    assert_eq!(codes(&heard), "220 250 220");
    assert!(heard.replies.contains("250-XCLIENT NAME ADDR"), "{}", heard.replies);
    assert_eq!(session.standing.client.to_string(), "203.0.113.9");
    // The name and the login that it gave hold.
    let heard = play(&mut session, ENVELOPE.as_bytes(), &[]);
    assert_eq!(codes(&heard), "250 250");
    let within = play(&mut session, introduced.as_bytes(), &[]);
    assert_eq!(codes(&within), "503");

    let mut session = standing_as(Standing { may_relay: true, ..proxy });
    let forwarded = "XFORWARD NAME=x.test\r\nXFORWARD ADDR=203.0.113.9 HELO=site.test\r\n";
    let message = format!("{ENVELOPE}DATA\r\nA: b\r\n\r\n.\r\n");
    let input = format!("{HELLO}{forwarded}{message}{message}");
    let mut given = Vec::new();
    let mut at = 0;
    loop {
        let (taken, step) = session.step(&input.as_bytes()[at..]);
        at += taken;
        match step {
            Step::Message(m) => {
                given.push((m.helo.clone(), m.forwarded_for.map(|ip| ip.to_string())));
                session.answer(&Refusal::new(250, (2, 0, 0), "Queued"));
            }
            Step::Read => break,
            _ => {}
        }
    }
    let forwarded = ("site.test".to_string(), Some("203.0.113.9".to_string()));
    assert_eq!(given, [forwarded, ("web1".to_string(), None)], "of one transaction");
}

fn with_logins(tls: Tls, logins: Logins) -> Session {
    standing_as(Standing { tls, logins, may_relay: false, ..standing() })
}

fn base64(text: &str) -> String {
    use ::base64::Engine as _;
    ::base64::engine::general_purpose::STANDARD.encode(text)
}

#[test]
fn who_logs_in_may_send_to_anyone_by_every_mechanism() {
    let plain = base64("\0ann\0secret");
    let (ann, secret) = (base64("ann"), base64("secret"));
    for login in [
        format!("AUTH PLAIN {plain}\r\n"),
        format!("auth plain\r\n{plain}\r\n"),
        format!("AUTH LOGIN\r\n{ann}\r\n{secret}\r\n"),
        format!("AUTH LOGIN {ann}\r\n{secret}\r\n"),
    ] {
        let mut session = with_logins(Tls::On, Logins::WithTls);
        let input = format!("{HELLO}{login}{ENVELOPE}DATA\r\nA: b\r\n\r\n.\r\n");
        let heard = play(&mut session, input.as_bytes(), &[1]);
        assert!(heard.replies.contains("250-AUTH SCRAM-SHA-256 PLAIN LOGIN\r\n"));
        assert!(codes(&heard).ends_with("235 250 250 354 250"), "{login}: {}", heard.replies);
        let again = play(&mut session, format!("{HELLO}{login}").as_bytes(), &[]);
        assert!(codes(&again).starts_with("250 503") && !again.replies.contains("AUTH"));
    }
}

#[test]
fn a_login_is_refused_where_it_is_not_to_be() {
    let plain = base64("\0ann\0secret");
    let codes_of = |mut session: Session, input: &str| {
        codes(&play(&mut session, format!("{HELLO}{input}").as_bytes(), &[]))
    };
    let login = format!("AUTH PLAIN {plain}\r\n");
    let secret = || with_logins(Tls::On, Logins::WithTls);
    // In clear the password is not even asked for.
    let clear = with_logins(Tls::Offered, Logins::WithTls);
    assert_eq!(codes_of(clear, &format!("{login}AUTH LOGIN\r\n")), "220 250 538 538");
    assert_eq!(codes_of(with_logins(Tls::On, Logins::Never), &login), "220 250 502");
    assert_eq!(codes_of(with_logins(Tls::Absent, Logins::Always), &login), "220 250 235");
    assert_eq!(codes_of(secret(), "AUTH CRAM-MD5\r\n"), "220 250 504");
    assert_eq!(codes_of(secret(), "AUTH PLAIN =\r\n"), "220 250 501");
    assert_eq!(codes_of(secret(), "AUTH PLAIN !\r\nNOOP\r\n"), "220 250 501 250");
    assert_eq!(codes_of(secret(), "AUTH LOGIN\r\n*\r\nNOOP\r\n"), "220 250 334 501 250");
    // What is said within an exchange is a response, whatever it looks like.
    assert_eq!(codes_of(secret(), "AUTH LOGIN\r\nMAIL FROM:<a@x.test>\r\n"), "220 250 334 501");
    let within = format!("MAIL FROM:<a@x.test>\r\n{login}");
    assert_eq!(codes_of(secret(), &within), "220 250 250 503");
    let wrong = base64("\0ann\0guess");
    let heard = play(&mut secret(), format!("{HELLO}AUTH PLAIN {wrong}\r\n").as_bytes(), &[]);
    assert_eq!(heard.refused, ["AUTH|-|535"], "and the log has no password");
    let heard = play(&mut secret(), format!("{HELLO}AUTH LOGIN\r\nMAIL\r\n").as_bytes(), &[]);
    assert_eq!(heard.refused, ["AUTH|-|501"], "not even one that looks like a command");
}

#[test]
fn a_login_before_starttls_is_gone_after_it() {
    let mut session = with_logins(Tls::Offered, Logins::Always);
    let login = format!("{HELLO}AUTH PLAIN {}\r\n", base64("\0ann\0secret"));
    let heard = play(&mut session, format!("{login}STARTTLS\r\n").as_bytes(), &[]);
    assert_eq!(codes(&heard), "220 250 235 220");
    let heard = play(&mut session, format!("{HELLO}{ENVELOPE}").as_bytes(), &[]);
    assert_eq!(codes(&heard), "250 250 550");
}

#[test]
fn what_follows_a_wrong_password_at_once_is_heard() {
    let [wrong, right] = ["guess", "secret"].map(|p| base64(&format!("\0ann\0{p}")));
    let mut session = with_logins(Tls::Offered, Logins::Always);
    let input = format!("{HELLO}AUTH PLAIN {wrong}\r\nAUTH PLAIN {right}\r\n{ENVELOPE}");
    let heard = play(&mut session, input.as_bytes(), &[]);
    assert_eq!(codes(&heard), "220 250 535 235 250 250");
    assert_eq!((heard.refused, heard.domains), (vec!["AUTH|-|535".into()], vec!["y.test".into()]));
    let mut session = with_logins(Tls::Offered, Logins::Always);
    let input = format!("{HELLO}AUTH PLAIN {wrong}\r\nSTARTTLS\r\n");
    play(&mut session, input.as_bytes(), &[]);
    assert_eq!(session.tls(), Tls::On);
}

#[test]
fn of_a_line_that_is_too_long_the_log_says_nothing() {
    let rest = "MAIL FROM:<secret>".repeat(COMMAND_MAX / 18 + 1);
    for sizes in [&[][..], &[COMMAND_MAX]] {
        let mut session = with_logins(Tls::On, Logins::Always);
        let input = format!("{HELLO}AUTH LOGIN\r\n{rest}\r\n{rest}\r\n");
        let heard = play(&mut session, input.as_bytes(), sizes);
        assert_eq!(heard.refused, ["?|-|500", "?|-|500"]);
    }
}
