//! Logins: exchanges with any answers and with a client's own right ones; what is stored of users.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bulkhead::policy::credential::Verifier;
use bulkhead::policy::users::Users;
use bulkhead::smtp::sasl::{
    Exchange, Mechanism, Next, Password, ScramVerifier, USER_MAX, user_name,
};
use std::num::NonZeroU32;

/// The client's side of SCRAM-SHA-256, by the letter of RFC 5802 §3.
pub struct Prover {
    user: String,
    password: String,
}

impl Prover {
    /// Of ASCII.
    pub fn new(user: &str, password: &str) -> Self {
        Self { user: user.to_string(), password: password.to_string() }
    }

    pub fn first(&self) -> String {
        format!("n,,{}", self.bare())
    }

    fn bare(&self) -> String {
        let user = self.user.replace('=', "=3D").replace(',', "=2C");
        format!("n={user},r=client")
    }

    /// The answer to the challenge in the last of these replies; `None` where there is none.
    pub fn last(&self, replies: &[u8]) -> Option<String> {
        let replies = std::str::from_utf8(replies).ok()?;
        let challenge = replies.lines().last()?.strip_prefix("334 ")?;
        self.answer(std::str::from_utf8(&BASE64.decode(challenge).ok()?).ok()?)
    }

    fn answer(&self, challenge: &str) -> Option<String> {
        let mut parts = challenge.split(',');
        let nonce = parts.next()?.strip_prefix("r=")?;
        let salt = BASE64.decode(parts.next()?.strip_prefix("s=")?).ok()?;
        let iterations: NonZeroU32 = parts.next()?.strip_prefix("i=")?.parse().ok()?;
        let unproven = format!("c=biws,r={nonce}");
        let signed = format!("{},{challenge},{unproven}", self.bare());
        let mut salted = [0; 32];
        let password = self.password.as_bytes();
        let algorithm = aws_lc_rs::pbkdf2::PBKDF2_HMAC_SHA256;
        aws_lc_rs::pbkdf2::derive(algorithm, iterations, &salt, password, &mut salted);
        let client_key = hmac(&salted, b"Client Key");
        let stored_key = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &client_key);
        let signature = hmac(stored_key.as_ref(), signed.as_bytes());
        let proof: Vec<u8> = client_key.iter().zip(&signature).map(|(a, b)| a ^ b).collect();
        Some(format!("{unproven},p={}", BASE64.encode(proof)))
    }
}

fn hmac(key: &[u8], data: &[u8]) -> Vec<u8> {
    let key = aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, key);
    aws_lc_rs::hmac::sign(&key, data).as_ref().to_vec()
}

/// Any responses, in lines behind the first byte, which says of what: nobody is proven by them who
/// does not know the password, and names come out in one form. Then the name on the first line logs
/// in with the password on the second, by SCRAM: proven if the password is his, and not otherwise.
pub fn sasl(data: &[u8]) {
    let (n, data) = data.split_first().map_or((0, data), |(n, rest)| (usize::from(*n), rest));
    let lines: Vec<&[u8]> = data.split(|b| *b == b'\n').take(6).collect();
    let mechanism = Mechanism::ALL[n % 3];
    let initial = (n & 4 == 0).then(|| lines[0]);
    let (mut exchange, mut next) = Exchange::begin(mechanism, initial, "server");
    let mut answers = lines.iter().skip(usize::from(initial.is_some()));
    loop {
        next = match next {
            Next::Challenge(challenge) => {
                assert!(challenge.len() < 1_024);
                let Some(answer) = answers.next() else { break };
                exchange.answer(answer)
            }
            Next::Verifier(user) => {
                is_in_form(&user);
                let verifier = ScramVerifier::made_up(b"key", &user, (NonZeroU32::MIN, 16));
                exchange.with_verifier(verifier)
            }
            Next::Password { user, password } => {
                is_in_form(&user);
                assert!(!password.as_bytes().is_empty() && mechanism != Mechanism::ScramSha256);
                break;
            }
            Next::Wrong { user } => break is_in_form(&user),
            Next::Malformed(why) => break assert!(!why.is_empty()),
            Next::Proven { user } => panic!("{user} has no password"),
        };
    }
    // Once it is over, it takes nothing more.
    for _ in 0..2 {
        let next = exchange.answer(b"");
        assert!(!matches!(next, Next::Proven { .. } | Next::Password { .. }), "{next:?}");
    }

    let text = |n: usize| lines.get(n).and_then(|line| std::str::from_utf8(line).ok());
    let (Some(user), Some(password)) = (text(0), text(1)) else { return };
    // Preparation is the server's affair: it is left alone by both of them.
    let (Ok(user), true) = (user_name(user), password.is_ascii()) else { return };
    let Ok(prepared) = Password::new(password) else { return };
    assert_eq!(prepared.as_bytes(), password.as_bytes(), "ASCII stays as it is");
    let other = format!("{password}.");
    for (said, is_his) in [(password, true), (other.as_str(), false)] {
        let prover = Prover::new(&user, said);
        let first = prover.first();
        let begun = Exchange::begin(Mechanism::ScramSha256, Some(first.as_bytes()), "server");
        let (mut exchange, next) = begun;
        assert!(matches!(&next, Next::Verifier(named) if *named == user), "{next:?} of {user:?}");
        let verifier = ScramVerifier::derive(&prepared, b"salt", NonZeroU32::MIN);
        let Next::Challenge(challenge) = exchange.with_verifier(verifier) else { panic!("{user}") };
        let challenge = String::from_utf8(challenge).expect("a challenge is text");
        let answer = prover.answer(&challenge).expect("a challenge");
        let next = exchange.answer(answer.as_bytes());
        assert_eq!(matches!(next, Next::Challenge(_)), is_his, "{next:?}");
        let proven = matches!(exchange.answer(b""), Next::Proven { user: named } if named == user);
        assert_eq!(proven, is_his);
    }
}

/// A name that came out is the one that would come out of it.
fn is_in_form(user: &str) {
    assert!((1..=USER_MAX).contains(&user.len()));
    assert!(!user.contains(|c: char| c.is_control()));
    assert_eq!(user_name(user).as_deref(), Ok(user), "of {}", user.escape_unicode());
}

/// A verifier is written as it was read, and says nothing of it otherwise.
pub fn credential(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    match Verifier::parse(text) {
        Ok(verifier) => {
            let written = verifier.to_string();
            assert!(!written.contains(char::is_whitespace), "{written}");
            assert!(Verifier::parse(&written).as_ref() == Ok(&verifier), "{written}");
            assert_eq!(format!("{verifier:?}"), verifier.kind());
            let serves_scram = written.starts_with("SCRAM-SHA-256$");
            assert_eq!(verifier.for_scram().is_some(), serves_scram);
        }
        Err(why) => assert!(!why.contains(|c: char| c.is_control()), "{why:?}"),
    }
}

/// A file is written as it was read, but for ends of lines and blanks between words; each user is
/// found by his name, and by what a login makes of it.
pub fn users(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let lines = text.lines().count();
    match Users::parse(text) {
        Err(problems) => {
            assert!(!problems.is_empty());
            for problem in problems {
                assert!((1..=lines).contains(&problem.line));
                assert!(!problem.text.contains(|c: char| c.is_control()), "{:?}", problem.text);
            }
        }
        Ok(users) => {
            let written = users.to_string();
            assert_eq!(written.lines().count(), lines);
            let again = Users::parse(&written).expect("what is written can be read");
            let without_cr = |text: &str| text.replace('\r', "");
            assert_eq!(without_cr(&again.to_string()), without_cr(&written));
            assert!(users.iter().eq(again.iter()));
            for user in users.iter() {
                let is_him = |name: &str| users.find(name) == Some(user);
                assert!(is_him(&user.name), "{:?}", user.name);
                let name = user_name(&user.name).expect("a name");
                assert!(is_him(&name), "{}", name.escape_unicode());
            }
            let mut fewer = users.clone();
            if let Some(first) = users.iter().next() {
                assert_eq!(fewer.remove(&first.name).as_ref(), Some(first));
                assert!(users.iter().skip(1).eq(fewer.iter()));
                let found = fewer.iter().all(|user| fewer.find(&user.name) == Some(user));
                assert!(found && fewer.find(&first.name).is_none());
            }
        }
    }
}
