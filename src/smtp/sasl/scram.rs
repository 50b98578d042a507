//! SCRAM-SHA-256 (RFC 5802, RFC 7677), the server's side: what it stores, and the exchange.
//!
//! ```text
//! client: n,,n=user,r=CLIENT            server: r=CLIENT SERVER,s=SALT,i=ITERATIONS
//! client: c=biws,r=CLIENT SERVER,p=PROOF server: v=SIGNATURE
//! client: (empty)                        proven
//! ```

use super::{Next, Password, UNFIT_NAME, is_own, user_name};
use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::{digest, hmac, pbkdf2};
use base64::prelude::{BASE64_STANDARD as BASE64, Engine as _};
use std::fmt;
use std::num::NonZeroU32;

/// Bytes of SHA-256.
const HASH: usize = digest::SHA256_OUTPUT_LEN;
/// Longest nonce of a client, in bytes.
const NONCE_MAX: usize = 256;

const CHANNEL: &str = "channel binding is not offered; begin with n,, or y,,";
const FIRST: &str = "not a first SCRAM message (RFC 5802 §7): n,,n=USER,r=NONCE";
const FINAL: &str = "not a final SCRAM message (RFC 5802 §7): c=biws,r=NONCE,p=PROOF";
const EXTENSION: &str = "mandatory SCRAM extensions are not known";
const OTHER_NONCE: &str = "the nonce is not that of this exchange";
const OTHER_HEADER: &str = "the channel binding is not that of the first message";
const NOT_ACKNOWLEDGED: &str = "the server's last SCRAM message is answered with nothing";
const OUT_OF_TURN: &str = "the user's verifier is not known yet";

/// What is stored of a password: enough to check a proof of it, not enough to make one (RFC 5802
/// §2.2, §3). `Debug` shows none of the keys.
#[derive(Clone, PartialEq, Eq)]
pub struct ScramVerifier {
    /// Rounds of PBKDF2; at least 1.
    pub iterations: NonZeroU32,
    /// Different for each user.
    pub salt: Vec<u8>,
    /// SHA-256 of the key by which the client proves itself.
    pub stored_key: [u8; HASH],
    /// The key by which the server proves itself.
    pub server_key: [u8; HASH],
}

impl ScramVerifier {
    /// Of a password. Takes as long as the iterations do.
    #[must_use]
    pub fn derive(password: &Password, salt: &[u8], iterations: NonZeroU32) -> Self {
        let mut salted = [0; HASH];
        let algorithm = pbkdf2::PBKDF2_HMAC_SHA256;
        pbkdf2::derive(algorithm, iterations, salt, password.as_bytes(), &mut salted);
        let stored_key = sha256(&sign(&salted, b"Client Key"));
        let server_key = sign(&salted, b"Server Key");
        Self { iterations, salt: salt.to_vec(), stored_key, server_key }
    }

    /// True where it is of this password.
    #[must_use]
    pub fn is_of(&self, password: &Password) -> bool {
        let other = Self::derive(password, &self.salt, self.iterations);
        verify_slices_are_equal(&self.stored_key, &other.stored_key).is_ok()
    }

    /// For a user that there is not: the same each time, no password is right, and nobody without
    /// `secret` can tell it from the `like` of a real user.
    #[must_use]
    pub fn made_up(secret: &[u8], user: &str, like: (NonZeroU32, usize)) -> Self {
        let (iterations, length) = like;
        let part = |what: &str| sign(secret, format!("{what}\0{user}").as_bytes());
        let salt = part("salt").into_iter().cycle().take(length).collect();
        Self { iterations, salt, stored_key: part("stored"), server_key: part("server") }
    }

    /// True where `proof` was made with the password that this is of, over `message` (§3).
    fn accepts(&self, proof: &[u8; HASH], message: &[u8]) -> bool {
        let mut client_key = sign(&self.stored_key, message);
        client_key.iter_mut().zip(proof).for_each(|(key, proof)| *key ^= proof);
        verify_slices_are_equal(&sha256(&client_key), &self.stored_key).is_ok()
    }
}

impl fmt::Debug for ScramVerifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ScramVerifier({})", self.iterations)
    }
}

/// HMAC-SHA-256.
fn sign(key: &[u8], data: &[u8]) -> [u8; HASH] {
    let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), data);
    let mut out = [0; HASH];
    out.iter_mut().zip(tag.as_ref()).for_each(|(out, byte)| *out = *byte);
    out
}

fn sha256(data: &[u8]) -> [u8; HASH] {
    let hash = digest::digest(&digest::SHA256, data);
    let mut out = [0; HASH];
    out.iter_mut().zip(hash.as_ref()).for_each(|(out, byte)| *out = *byte);
    out
}

/// Where an exchange stands.
#[derive(Debug)]
pub(super) enum Scram {
    /// The client begins.
    First { nonce: String },
    /// Whose verifier is asked for.
    Named { nonce: String, first: ClientFirst },
    /// The client proves itself. `signed` is what both messages before were.
    Proof { first: ClientFirst, nonce: String, signed: String, verifier: ScramVerifier },
    /// Our proof is on its way.
    Acknowledged { user: String },
}

/// The client's first message.
#[derive(Debug)]
pub(super) struct ClientFirst {
    /// `n,,`, with which the channel binding begins.
    header: String,
    /// What follows it.
    bare: String,
    user: String,
    nonce: String,
}

type Step = (Option<Scram>, Next);

impl Scram {
    pub(super) fn new(nonce: &str) -> Self {
        Self::First { nonce: nonce.to_string() }
    }

    /// The next state, if any, and what comes next.
    pub(super) fn answer(self, text: &str) -> Step {
        match self {
            Self::First { nonce } => match ClientFirst::parse(text) {
                Ok(first) => {
                    let user = first.user.clone();
                    (Some(Self::Named { nonce, first }), Next::Verifier(user))
                }
                Err(why) => (None, Next::Malformed(why)),
            },
            Self::Named { .. } => (None, Next::Malformed(OUT_OF_TURN)),
            Self::Proof { first, nonce, signed, verifier } => {
                match check(text, &first, &nonce, &signed, &verifier) {
                    Ok(Some(signature)) => {
                        let challenge = format!("v={}", BASE64.encode(signature)).into_bytes();
                        let sent = Self::Acknowledged { user: first.user };
                        (Some(sent), Next::Challenge(challenge))
                    }
                    Ok(None) => (None, Next::Wrong { user: first.user }),
                    Err(why) => (None, Next::Malformed(why)),
                }
            }
            Self::Acknowledged { user } if text.is_empty() => (None, Next::Proven { user }),
            Self::Acknowledged { .. } => (None, Next::Malformed(NOT_ACKNOWLEDGED)),
        }
    }

    pub(super) fn with_verifier(self, verifier: ScramVerifier) -> Step {
        let Self::Named { nonce, first } = self else {
            return (None, Next::Malformed(super::OUT_OF_TURN));
        };
        let nonce = format!("{}{nonce}", first.nonce);
        let salt = BASE64.encode(&verifier.salt);
        let challenge = format!("r={nonce},s={salt},i={}", verifier.iterations);
        let signed = format!("{},{challenge}", first.bare);
        let next = Next::Challenge(challenge.into_bytes());
        (Some(Self::Proof { first, nonce, signed, verifier }), next)
    }
}

impl ClientFirst {
    fn parse(text: &str) -> Result<Self, &'static str> {
        let (flag, rest) = text.split_once(',').ok_or(FIRST)?;
        if flag != "n" && flag != "y" {
            return Err(if flag.starts_with("p=") { CHANNEL } else { FIRST });
        }
        let (acts_as, bare) = rest.split_once(',').ok_or(FIRST)?;
        let mut attributes = bare.split(',');
        let named = attributes.next().ok_or(FIRST)?;
        if named.starts_with("m=") {
            return Err(EXTENSION);
        }
        let user = unescape(named.strip_prefix("n=").ok_or(FIRST)?)?;
        let user = user_name(&user).map_err(|_| UNFIT_NAME)?;
        let nonce = attributes.next().and_then(|nonce| nonce.strip_prefix("r=")).ok_or(FIRST)?;
        let printable = nonce.bytes().all(|byte| byte.is_ascii_graphic());
        if nonce.is_empty() || nonce.len() > NONCE_MAX || !printable {
            return Err(FIRST);
        }
        if !acts_as.is_empty() {
            is_own(&unescape(acts_as.strip_prefix("a=").ok_or(FIRST)?)?, &user)?;
        }
        Ok(Self {
            header: format!("{flag},{acts_as},"),
            bare: bare.to_string(),
            user,
            nonce: nonce.to_string(),
        })
    }
}

/// `=2C` is a comma and `=3D` an equals sign; no other stands for itself (§5.1).
fn unescape(name: &str) -> Result<String, &'static str> {
    let plain = name.replace("=2C", ",").replace("=3D", "\0");
    match plain.contains('=') || name.contains('\0') {
        true => Err(FIRST),
        false => Ok(plain.replace('\0', "=")),
    }
}

/// The server's signature where the client's proof is right.
fn check(
    text: &str,
    first: &ClientFirst,
    nonce: &str,
    signed: &str,
    verifier: &ScramVerifier,
) -> Result<Option<[u8; HASH]>, &'static str> {
    let (unproven, proof) = text.rsplit_once(",p=").ok_or(FINAL)?;
    let mut attributes = unproven.split(',');
    let mut attribute = |name: &str| attributes.next()?.strip_prefix(name);
    let header = attribute("c=").ok_or(FINAL)?;
    if BASE64.decode(header).ok().as_deref() != Some(first.header.as_bytes()) {
        return Err(OTHER_HEADER);
    }
    if attribute("r=").ok_or(FINAL)? != nonce {
        return Err(OTHER_NONCE);
    }
    let proof = BASE64.decode(proof).map_err(|_| FINAL)?;
    let proof: [u8; HASH] = proof.try_into().map_err(|_| FINAL)?;
    let signed = format!("{signed},{unproven}");
    let accepted = verifier.accepts(&proof, signed.as_bytes());
    Ok(accepted.then(|| sign(&verifier.server_key, signed.as_bytes())))
}

#[cfg(test)]
mod tests {
    use super::super::{Exchange, Mechanism};
    use super::*;
    use proptest::prelude::*;

    const NONCE: &str = "%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0";
    const CLIENT_FIRST: &str = "n,,n=user,r=rOprNGfwEbeRWgbNEkqO";
    const SERVER_FIRST: &str = "r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,\
                                s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096";
    const CLIENT_FINAL: &str = "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,\
                                p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=";
    const SERVER_FINAL: &str = "v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=";

    fn verifier(password: &str) -> ScramVerifier {
        let salt = BASE64.decode("W22ZaJ0SNY7soEsUEjb6gQ==").unwrap();
        let iterations = NonZeroU32::new(4_096).unwrap();
        ScramVerifier::derive(&Password::new(password).unwrap(), &salt, iterations)
    }

    #[track_caller]
    fn challenge(next: Next) -> String {
        match next {
            Next::Challenge(bytes) => String::from_utf8(bytes).unwrap(),
            other => panic!("{other:?}"),
        }
    }

    #[track_caller]
    fn malformed(next: Next) -> &'static str {
        match next {
            Next::Malformed(why) => why,
            other => panic!("{other:?}"),
        }
    }

    /// An exchange that waits for the client's proof.
    fn begun(first: &str, verifier: ScramVerifier) -> (Exchange, String) {
        let (mut exchange, next) =
            Exchange::begin(Mechanism::ScramSha256, Some(first.as_bytes()), NONCE);
        assert!(matches!(next, Next::Verifier(_)), "{next:?}");
        let first = challenge(exchange.with_verifier(verifier));
        (exchange, first)
    }

    #[test]
    fn the_exchange_of_rfc_7677_comes_out_byte_for_byte() {
        let (mut exchange, next) = Exchange::begin(Mechanism::ScramSha256, None, NONCE);
        assert_eq!(challenge(next), "");
        let next = exchange.answer(CLIENT_FIRST.as_bytes());
        assert!(matches!(next, Next::Verifier(user) if user == "user"));
        assert_eq!(challenge(exchange.with_verifier(verifier("pencil"))), SERVER_FIRST);
        assert_eq!(challenge(exchange.answer(CLIENT_FINAL.as_bytes())), SERVER_FINAL);
        assert!(matches!(exchange.answer(b""), Next::Proven { user } if user == "user"));
        assert_eq!(malformed(exchange.answer(b"")), super::super::OUT_OF_TURN);
    }

    #[test]
    fn a_wrong_password_and_a_made_up_user_prove_nothing() {
        let iterations = NonZeroU32::new(4_096).unwrap();
        let made_up = ScramVerifier::made_up(b"secret", "user", (iterations, 16));
        for verifier in [verifier("pencils"), made_up] {
            let (mut exchange, _) = begun(CLIENT_FIRST, verifier);
            let next = exchange.answer(CLIENT_FINAL.as_bytes());
            assert!(matches!(next, Next::Wrong { user } if user == "user"));
            assert!(matches!(exchange.answer(b""), Next::Malformed(_)));
        }
    }

    #[test]
    fn a_made_up_user_is_the_same_each_time_and_like_nobody_else() {
        let like = (NonZeroU32::new(20_000).unwrap(), 40);
        let of = |secret: &[u8], user| ScramVerifier::made_up(secret, user, like);
        assert_eq!(of(b"s", "a"), of(b"s", "a"));
        assert!(of(b"s", "a").salt != of(b"s", "b").salt);
        assert!(of(b"s", "a").salt != of(b"t", "a").salt);
        assert_eq!((of(b"s", "a").salt.len(), of(b"s", "a").iterations), (40, like.0));
    }

    #[test]
    fn first_messages_that_are_none_are_named() {
        for (text, why) in [
            ("p=tls-unique,,n=user,r=abc", CHANNEL),
            ("n,,m=ext,n=user,r=abc", EXTENSION),
            ("x,,n=user,r=abc", FIRST),
            ("n,,n=user", FIRST),
            ("n,,r=abc,n=user", FIRST),
            ("n,,n=user,r=", FIRST),
            ("n,,n=user,r=a b", FIRST),
            ("n,,n=us=er,r=abc", FIRST),
            ("n,b,n=user,r=abc", FIRST),
            ("n,,n=,r=abc", UNFIT_NAME),
            ("", FIRST),
        ] {
            let (_, next) = Exchange::begin(Mechanism::ScramSha256, Some(text.as_bytes()), NONCE);
            assert_eq!(malformed(next), why, "{text:?}");
        }
        let other = b"n,a=other,n=user,r=abc";
        let (_, next) = Exchange::begin(Mechanism::ScramSha256, Some(other), NONCE);
        assert!(malformed(next).starts_with("nobody acts for another"));
        let own = b"y,a=US=2CER=3D,n=Us=2Cer=3D,r=abc";
        let (_, next) = Exchange::begin(Mechanism::ScramSha256, Some(own), NONCE);
        assert!(matches!(next, Next::Verifier(user) if user == "us,er="));
    }

    #[test]
    fn final_messages_that_are_none_are_named() {
        let with = |from: &str, to: &str| CLIENT_FINAL.replace(from, to);
        for (text, why) in [
            (with("biws", "eSws"), OTHER_HEADER),
            (with("$k0", "$k1"), OTHER_NONCE),
            (with("c=biws,", ""), FINAL),
            (with(",p=", ",q="), FINAL),
            (with("dHzb", "dHz"), FINAL),
            (with("dHzbZapWIk4j", ""), FINAL),
        ] {
            let (mut exchange, _) = begun(CLIENT_FIRST, verifier("pencil"));
            assert_eq!(malformed(exchange.answer(text.as_bytes())), why, "{text}");
        }
        let (mut exchange, _) =
            Exchange::begin(Mechanism::ScramSha256, Some(CLIENT_FIRST.as_bytes()), NONCE);
        assert_eq!(malformed(exchange.answer(b"x")), OUT_OF_TURN);
        let (mut exchange, _) = begun(CLIENT_FIRST, verifier("pencil"));
        challenge(exchange.answer(CLIENT_FINAL.as_bytes()));
        assert_eq!(malformed(exchange.answer(b"more")), NOT_ACKNOWLEDGED);
    }

    proptest! {
        #[test]
        fn any_first_message_is_read_or_refused(
            text in "[nyp],(a=[a-z,=]{0,4})?,[nmr=,a-zA-Z0-9é]*",
        ) {
            let _ = ClientFirst::parse(&text);
        }

        #[test]
        fn names_come_back_as_they_were(name in "[a-z,=éß]{1,20}") {
            let sent = name.replace('=', "=3D").replace(',', "=2C");
            prop_assert_eq!(unescape(&sent).unwrap(), name);
        }
    }
}
