//! Dialogues: what the peer says, what we say, what becomes of each recipient.

use super::*;
use crate::base::address::{Mailbox, ReversePath};
use crate::mail::envelope::{BodyType, Envelope, Notify, Recipient, Ret};
use proptest::prelude::*;

const EHLO: &[u8] =
    b"220 mx.test\r\n250-mx.test\r\n250-PIPELINING\r\n250-8BITMIME\r\n250 SIZE 1000\r\n";
const LOCKSTEP: &[u8] = b"220 mx.test\r\n250 mx.test\r\n";

/// Owns what an [`Outgoing`] borrows.
struct Mail {
    envelope: Envelope,
    recipients: Vec<Recipient>,
    body: Vec<u8>,
}

fn mail(recipients: &[&str]) -> Mail {
    Mail {
        envelope: Envelope::from(ReversePath::parse("s@example.net").unwrap()),
        recipients: recipients.iter().map(|r| Recipient::new(Mailbox::parse(r).unwrap())).collect(),
        body: b"Subject: x\r\n\r\n.dot\r\n".to_vec(),
    }
}

impl Mail {
    fn with<T>(&self, use_it: impl FnOnce(&Outgoing<'_>) -> T) -> T {
        let recipients: Vec<&Recipient> = self.recipients.iter().collect();
        use_it(&Outgoing { envelope: &self.envelope, recipients: &recipients, body: &self.body })
    }
}

fn ready(opening: &[u8]) -> Conversation {
    let mut c = Conversation::new("relay.test", false);
    c.receive(opening);
    assert_eq!(c.opening(), &Opening::Ready);
    c.output().clear();
    c
}

fn said(c: &mut Conversation) -> String {
    String::from_utf8(std::mem::take(c.output())).unwrap()
}

/// Sends one message; the peer gives these replies, each when everything before was said.
fn send(
    c: &mut Conversation,
    mail: &Mail,
    replies: &[&str],
    next: Option<&Mail>,
) -> (String, String) {
    let mut heard = String::new();
    let mut replies = replies.iter();
    mail.with(|out| {
        c.begin(out);
        for _ in 0..100 {
            match next {
                Some(next) => next.with(|n| c.advance(out, Some(n))),
                None => c.advance(out, None),
            };
            heard += &said(c);
            if let Some(attempts) = c.take() {
                return (heard, attempts.iter().map(short).collect::<Vec<_>>().join(" | "));
            }
            match replies.next() {
                Some(reply) => c.receive(format!("{reply}\r\n").as_bytes()),
                None => c.lose("connection reset"),
            }
        }
        panic!("no end: {heard}");
    })
}

fn short(attempt: &Attempt) -> String {
    match attempt {
        Attempt::Reply { stage, reply } => format!("{}: {reply}", stage.as_str()),
        Attempt::Lost { stage, error, in_doubt } => {
            format!("{}: {error}{}", stage.as_str(), if *in_doubt { " (in doubt)" } else { "" })
        }
        Attempt::Unable { code, .. } => format!("unable {code}"),
        Attempt::NotStarted => "not started".into(),
    }
}

#[test]
fn the_envelope_goes_in_one_write_and_the_message_in_another() {
    let mut c = ready(EHLO);
    let (heard, result) = send(
        &mut c,
        &mail(&["a@x.test"]),
        &["250 ok", "250 ok", "354 go", "250 2.0.0 stored"],
        None,
    );
    assert_eq!(
        heard,
        "MAIL FROM:<s@example.net> SIZE=20\r\nRCPT TO:<a@x.test>\r\nDATA\r\n\
         Subject: x\r\n\r\n..dot\r\n.\r\n"
    );
    assert_eq!(result, "end of data: 250 2.0.0 stored");
    assert!(c.is_open() && c.uses() == 1);
}

#[test]
fn the_next_envelope_rides_on_the_last_dot() {
    let mut c = ready(EHLO);
    let (first, second) = (mail(&["a@x.test"]), mail(&["b@x.test"]));
    let (heard, _) =
        send(&mut c, &first, &["250 ok", "250 ok", "354 go", "250 first"], Some(&second));
    assert!(
        heard.ends_with(
            "\r\n.\r\nMAIL FROM:<s@example.net> SIZE=20\r\nRCPT TO:<b@x.test>\r\nDATA\r\n"
        )
    );
    c.receive(b"250 ok\r\n250 ok\r\n354 go\r\n");
    let (heard, result) = send(&mut c, &second, &["250 second"], None);
    assert_eq!(
        (heard.as_str(), result.as_str()),
        ("Subject: x\r\n\r\n..dot\r\n.\r\n", "end of data: 250 second")
    );
}

#[test]
fn a_refused_message_does_not_touch_the_one_that_rode_along() {
    let mut c = ready(EHLO);
    let (first, second) = (mail(&["a@x.test"]), mail(&["b@x.test"]));
    let (_, result) =
        send(&mut c, &first, &["250 ok", "250 ok", "354 go", "554 spam"], Some(&second));
    assert_eq!(result, "end of data: 554 spam");
    c.receive(b"250 ok\r\n250 ok\r\n354 go\r\n");
    assert_eq!(send(&mut c, &second, &["250 second"], None).1, "end of data: 250 second");
}

#[test]
fn each_recipient_has_a_reply_of_its_own() {
    let mut c = ready(EHLO);
    let m = mail(&["a@x.test", "b@x.test", "c@x.test"]);
    let replies = ["250 ok", "250 ok", "550 5.1.1 who", "451 later", "354 go", "250 stored"];
    assert_eq!(
        send(&mut c, &m, &replies, None).1,
        "end of data: 250 stored | RCPT: 550 5.1.1 who | RCPT: 451 later"
    );
}

#[test]
fn without_pipelining_each_command_waits() {
    let mut c = ready(LOCKSTEP);
    let m = mail(&["a@x.test", "b@x.test"]);
    let (heard, result) =
        send(&mut c, &m, &["250 ok", "550 no", "250 ok", "354 go", "250 stored"], None);
    assert!(heard.starts_with(
        "MAIL FROM:<s@example.net>\r\nRCPT TO:<a@x.test>\r\nRCPT TO:<b@x.test>\r\nDATA\r\n"
    ));
    assert_eq!(result, "RCPT: 550 no | end of data: 250 stored");
    // Nobody accepted: no DATA, and the next transaction clears the table first.
    assert_eq!(
        send(&mut c, &m, &["250 ok", "550 no", "550 no"], None).1,
        "RCPT: 550 no | RCPT: 550 no"
    );
    let (heard, _) =
        send(&mut c, &m, &["250 ok", "250 ok", "250 ok", "250 ok", "354 go", "250 stored"], None);
    assert!(heard.starts_with("RSET\r\nMAIL"), "{heard}");
}

#[test]
fn data_accepted_for_nobody_gets_nothing() {
    let mut c = ready(EHLO);
    let m = mail(&["a@x.test"]);
    let (heard, result) =
        send(&mut c, &m, &["250 ok", "550 no", "354 go", "554 no valid recipients"], None);
    assert!(heard.ends_with("DATA\r\n.\r\n"), "{heard}");
    assert_eq!(result, "RCPT: 550 no");
    assert!(c.is_open());
}

#[test]
fn a_refused_sender_or_data_is_every_recipients() {
    let m = mail(&["a@x.test", "b@x.test"]);
    let mut c = ready(EHLO);
    let replies = ["550 bad sender", "503 no", "503 no", "503 no"];
    assert_eq!(send(&mut c, &m, &replies, None).1, "MAIL: 550 bad sender | MAIL: 550 bad sender");
    let replies = ["250 ok", "250 ok", "550 no", "451 not now"];
    assert_eq!(send(&mut c, &m, &replies, None).1, "DATA: 451 not now | RCPT: 550 no");
    assert!(send(&mut c, &m, &[], None).0.starts_with("RSET\r\n"));
}

#[test]
fn a_421_ends_it_and_leaves_the_rider_untouched() {
    let mut c = ready(EHLO);
    let (first, second) = (mail(&["a@x.test", "b@x.test"]), mail(&["c@x.test"]));
    let replies = ["250 ok", "250 ok", "421 4.3.2 closing"];
    assert_eq!(
        send(&mut c, &first, &replies, None).1,
        "RCPT: 421 4.3.2 closing | RCPT: 421 4.3.2 closing"
    );
    assert!(!c.is_open());
    let mut c = ready(EHLO);
    let replies = ["250 ok", "250 ok", "250 ok", "354 go", "421 closing"];
    assert_eq!(
        send(&mut c, &first, &replies, Some(&second)).1,
        "end of data: 421 closing | end of data: 421 closing"
    );
    assert_eq!(send(&mut c, &second, &[], None).1, "not started");
}

#[test]
fn enough_for_this_session_is_no_fault_of_the_next_message() {
    let mut c = ready(EHLO);
    let m = mail(&["a@x.test"]);
    send(&mut c, &m, &["250 ok", "250 ok", "354 go", "250 stored"], None);
    assert_eq!(send(&mut c, &m, &["421 4.7.0 too many messages"], None).1, "not started");
    let mut c = ready(EHLO);
    assert_eq!(send(&mut c, &m, &["421 go away"], None).1, "MAIL: 421 go away");
}

#[test]
fn a_lost_connection_is_in_doubt_only_after_the_dot() {
    let m = mail(&["a@x.test"]);
    for (replies, result) in [
        (&["250 ok"][..], "RCPT: connection reset"),
        (&["250 ok", "250 ok", "354 go"], "end of data: connection reset (in doubt)"),
    ] {
        assert_eq!(send(&mut ready(EHLO), &m, replies, None).1, result);
    }
    // Idle too long: nothing of it was heard.
    let mut c = ready(EHLO);
    send(&mut c, &m, &["250 ok", "250 ok", "354 go", "250 stored"], None);
    assert_eq!(send(&mut c, &m, &[], None).1, "not started");
}

#[test]
fn replies_out_of_step_end_the_conversation() {
    let m = mail(&["a@x.test"]);
    for replies in
        [&["354 go"][..], &["250 ok", "250 ok", "250 ok"], &["hello"], &["250-a\r\n251 b"]]
    {
        let mut c = ready(EHLO);
        let (_, result) = send(&mut c, &m, replies, None);
        assert!(result.contains("reply"), "{replies:?}: {result}");
        assert!(!c.is_open());
    }
    // One reply too many.
    let mut c = ready(EHLO);
    send(&mut c, &m, &["250 ok", "250 ok", "354 go", "250 stored\r\n250 again"], None);
    assert!(!c.is_open());
}

#[test]
fn a_refusal_in_the_middle_of_a_large_message_counts() {
    let mut m = mail(&["a@x.test"]);
    m.body = vec![b'x'; 3 * SLICE];
    let mut c = ready(LOCKSTEP);
    m.with(|out| {
        c.begin(out);
        for reply in [&b"250 ok\r\n"[..], b"250 ok\r\n", b"354 go\r\n"] {
            c.receive(reply);
            c.advance(out, None);
        }
        assert_eq!(c.stage(), Stage::Body);
        c.receive(b"552 too big\r\n");
        assert_eq!(
            c.take().unwrap().iter().map(short).collect::<Vec<_>>(),
            ["end of data: 552 too big"]
        );
        assert!(!c.is_open());
    });
}

#[test]
fn what_the_peer_lacks_is_known_before_a_byte_is_sent() {
    let mut big = mail(&["a@x.test"]);
    big.body = vec![b'x'; 1_001];
    let mut wide = mail(&["jörg@x.test"]);
    wide.envelope.smtputf8 = true;
    let mut eight = mail(&["a@x.test"]);
    eight.envelope.body = BodyType::EightBitMime;
    eight.body = "Subject: ö\r\n".into();
    for (m, opening, result) in [
        (&big, EHLO, "unable 5.3.4"),
        (&wide, EHLO, "unable 5.6.7"),
        (&eight, LOCKSTEP, "unable 5.6.3"),
    ] {
        let mut c = ready(opening);
        assert_eq!(send(&mut c, m, &[], None), (String::new(), result.to_string()));
        assert!(c.is_open());
    }
}

#[test]
fn parameters_go_to_those_who_know_them() {
    let mut m = mail(&["a@x.test", "b@x.test"]);
    m.envelope.ret = Some(Ret::Headers);
    m.envelope.envid = Some("QQ".into());
    m.recipients[0].notify = Some(Notify::default());
    m.recipients[1].notify = Some(Notify { success: true, delay: true, failure: false });
    m.recipients[1].orcpt = Some("rfc822;b@x.test".into());
    m.body = "Subject: ö\r\n".into();
    let mut c = ready(
        b"220 x\r\n250-x\r\n250-PIPELINING\r\n250-DSN\r\n250-8BITMIME\r\n250 LIMITS RCPTMAX=1\r\n",
    );
    let (heard, result) = send(&mut c, &m, &["250 ok", "250 ok", "354 go", "250 ok"], None);
    assert!(heard.starts_with(
        "MAIL FROM:<s@example.net> BODY=8BITMIME RET=HDRS ENVID=QQ\r\n\
         RCPT TO:<a@x.test> NOTIFY=NEVER\r\nDATA\r\n"
    ));
    assert_eq!(result, "end of data: 250 ok | not started", "the peer takes one recipient at once");
    m.recipients.remove(0);
    let (heard, _) = send(&mut c, &m, &["250 ok", "250 ok", "354 go", "250 ok"], None);
    assert!(heard.contains("RCPT TO:<b@x.test> NOTIFY=SUCCESS,DELAY ORCPT=rfc822;b@x.test\r\n"));
}

#[test]
fn the_opening_says_where_it_failed() {
    for (heard, stage) in [
        (&b"554 no\r\n"[..], Stage::Greeting),
        (b"421 busy\r\n", Stage::Greeting),
        (b"220 x\r\n451 later\r\n", Stage::Ehlo),
        (b"220 x\r\n500 what\r\n500 what\r\n", Stage::Ehlo),
    ] {
        let mut c = Conversation::new("relay.test", false);
        c.receive(heard);
        assert!(
            matches!(c.opening(), Opening::Failed(s, Some(_), _) if *s == stage),
            "{:?}",
            c.opening()
        );
    }
    let mut c = Conversation::new("relay.test", false);
    c.receive(b"220 x\r\n502 what\r\n250 x\r\n");
    assert_eq!(said(&mut c), "EHLO relay.test\r\nHELO relay.test\r\n");
    assert_eq!(c.opening(), &Opening::Ready);
}

#[test]
fn tls_starts_afresh_and_nothing_may_be_slipped_in_before() {
    let offer = b"220 x\r\n250-x\r\n250-PIPELINING\r\n250 STARTTLS\r\n220 go\r\n";
    let mut c = Conversation::new("relay.test", true);
    c.receive(offer);
    assert_eq!(said(&mut c), "EHLO relay.test\r\nSTARTTLS\r\n");
    assert_eq!(c.opening(), &Opening::StartTls);
    c.tls_started();
    c.receive(b"250 x\r\n");
    assert_eq!(said(&mut c), "EHLO relay.test\r\n");
    assert_eq!(c.opening(), &Opening::Ready);
    assert!(!c.extensions().pipelining);
    let mut c = Conversation::new("relay.test", true);
    c.receive(&[&offer[..], b"250 injected\r\n"].concat());
    assert!(matches!(c.opening(), Opening::Failed(..)));
}

proptest! {
    #[test]
    fn any_replies_give_one_result_per_recipient(
        replies in proptest::collection::vec(
            "(250|354|421|451|503|550|25)[ -]x(\r\n250 y)?",
            0..12,
        ),
        recipients in 1usize..5,
        pipelining: bool,
        split in 1usize..40,
    ) {
        let addresses: Vec<String> = (0..recipients).map(|n| format!("r{n}@x.test")).collect();
        let m = mail(&addresses.iter().map(String::as_str).collect::<Vec<_>>());
        let wire: String = replies.iter().map(|r| format!("{r}\r\n")).collect();
        let run = |split: usize| {
            let mut c = ready(if pipelining { EHLO } else { LOCKSTEP });
            m.with(|out| {
                c.begin(out);
                for piece in wire.as_bytes().chunks(split) {
                    // A peer does not answer what was not said yet.
                    c.advance(out, None);
                    c.receive(piece);
                }
                c.advance(out, None);
                c.lose("reset");
                c.take().unwrap()
            })
        };
        let attempts = run(split);
        prop_assert_eq!(attempts.len(), recipients);
        if pipelining {
            let at_dot = |a: &&Attempt| match a {
                Attempt::Reply { stage: Stage::Dot, reply } => reply.is_positive(),
                _ => false,
            };
            let delivered = |a: &[Attempt]| a.iter().filter(at_dot).count();
            prop_assert!(delivered(&attempts) <= recipients);
        }
    }
}
