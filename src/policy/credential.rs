//! What is stored of passwords, as text: enough to check one, not enough to learn it.
//!
//! * `SCRAM-SHA-256$<iterations>:<salt>$<StoredKey>:<ServerKey>`, in base64: PostgreSQL's form.
//!   Serves all mechanisms.
//! * `$argon2id$v=19$m=…,t=…,p=…$<salt>$<hash>`: a PHC string, as many programs make it. Serves
//!   PLAIN and LOGIN.
//!
//! What a check may cost is bounded where the text is read.

use crate::smtp::sasl::{Password, ScramVerifier};
use argon2::{Algorithm, Argon2, Params, PasswordHash, PasswordHasher, PasswordVerifier, Version};
use base64::prelude::{BASE64_STANDARD as BASE64, Engine as _};
use std::fmt;
use std::num::NonZeroU32;
use std::ops::RangeInclusive;

/// Bytes of the salt of a new verifier.
pub const SALT: usize = 16;
/// Iterations of a new one: some milliseconds, which every PLAIN login takes; a password of 16
/// random letters is out of reach then. RFC 7677 §4 asks for 4,096 at least.
pub const ITERATIONS: NonZeroU32 = NonZeroU32::MIN.saturating_add(19_999);

/// Iterations that are read.
const ITERATIONS_READ: RangeInclusive<u32> = 4_096..=1_000_000;
/// Bytes of a salt that is read.
const SALT_READ: RangeInclusive<usize> = 8..=64;
/// Memory of argon2 in KiB that is read: 256 MiB at most.
const MEMORY_READ: RangeInclusive<u32> = 8..=262_144;
/// Its passes and lanes.
const PASSES_MAX: u32 = 16;
const LANES_MAX: u32 = 16;
/// Bytes of its hash: one that is shorter is guessed too often.
const OUTPUT_MIN: usize = 16;

const SCRAM: &str = "SCRAM-SHA-256$";
const ARGON2ID: &str = "$argon2id$";

/// A stored verifier. `Debug` shows its kind alone.
#[derive(Clone, PartialEq, Eq)]
pub enum Verifier {
    /// Serves all mechanisms.
    Scram(ScramVerifier),
    /// Serves those that hand over the password.
    Argon2(PasswordHash),
}

impl Verifier {
    /// A new one that serves all mechanisms. `salt` is random.
    #[must_use]
    pub fn scram(password: &Password, salt: &[u8; SALT]) -> Self {
        Self::Scram(ScramVerifier::derive(password, salt, ITERATIONS))
    }

    /// A new one of argon2id, with 19 MiB and two passes. `salt` is random.
    ///
    /// # Errors
    /// What argon2 says; none is known for these figures.
    pub fn argon2(password: &Password, salt: &[u8; SALT]) -> Result<Self, String> {
        let hasher = Argon2::new(Algorithm::Argon2id, Version::V0x13, Params::DEFAULT);
        let hash = hasher.hash_password_with_salt(password.as_bytes(), salt);
        hash.map(Self::Argon2).map_err(|error| format!("argon2: {error}"))
    }

    /// Reads the text of one.
    ///
    /// # Errors
    /// A sentence: what it should be. It repeats nothing of the text.
    pub fn parse(text: &str) -> Result<Self, String> {
        match text.strip_prefix(SCRAM) {
            Some(rest) => scram(rest).map(Self::Scram),
            None if text.starts_with(ARGON2ID) => argon2id(text).map(Self::Argon2),
            None => Err(format!("a verifier begins with {SCRAM} or {ARGON2ID}")),
        }
    }

    /// True for its password. Takes the time that its parameters ask for, and as long where the
    /// password is wrong.
    #[must_use]
    pub fn is_of(&self, password: &Password) -> bool {
        match self {
            Self::Scram(verifier) => verifier.is_of(password),
            // Parameters are those of the text, whatever the default is.
            Self::Argon2(hash) => {
                Argon2::default().verify_password(password.as_bytes(), hash).is_ok()
            }
        }
    }

    /// What SCRAM needs; `None` where the password must be handed over.
    #[must_use]
    pub fn for_scram(&self) -> Option<&ScramVerifier> {
        match self {
            Self::Scram(verifier) => Some(verifier),
            Self::Argon2(_) => None,
        }
    }

    /// Its kind, for people.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Scram(_) => "scram-sha-256",
            Self::Argon2(_) => "argon2id",
        }
    }
}

/// The text that is stored.
impl fmt::Display for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Scram(ScramVerifier { iterations, salt, stored_key, server_key }) => {
                let [salt, stored, server] =
                    [&salt[..], stored_key, server_key].map(|bytes| BASE64.encode(bytes));
                write!(f, "{SCRAM}{iterations}:{salt}${stored}:{server}")
            }
            Self::Argon2(hash) => write!(f, "{hash}"),
        }
    }
}

impl fmt::Debug for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.kind())
    }
}

/// `<iterations>:<salt>$<StoredKey>:<ServerKey>`
fn scram(text: &str) -> Result<ScramVerifier, String> {
    let wrong = || {
        format!("a SCRAM verifier is {SCRAM}<iterations>:<salt>$<StoredKey>:<ServerKey>, in base64")
    };
    let (cost, keys) = text.split_once('$').ok_or_else(wrong)?;
    let (iterations, salt) = cost.split_once(':').ok_or_else(wrong)?;
    let (stored_key, server_key) = keys.split_once(':').ok_or_else(wrong)?;
    let digits = iterations.bytes().all(|byte| byte.is_ascii_digit());
    let iterations = iterations.parse().ok().filter(|n| digits && ITERATIONS_READ.contains(n));
    let iterations = iterations.and_then(NonZeroU32::new).ok_or_else(|| {
        let (least, most) = (ITERATIONS_READ.start(), ITERATIONS_READ.end());
        format!("the iterations of a SCRAM verifier must be {least} to {most}")
    })?;
    let salt = BASE64.decode(salt).map_err(|_| wrong())?;
    if !SALT_READ.contains(&salt.len()) {
        return Err("the salt of a SCRAM verifier must be of 8 to 64 bytes".to_string());
    }
    let key = |text: &str| BASE64.decode(text).ok().and_then(|key| key.try_into().ok());
    let stored_key = key(stored_key).ok_or_else(wrong)?;
    let server_key = key(server_key).ok_or_else(wrong)?;
    Ok(ScramVerifier { iterations, salt, stored_key, server_key })
}

/// A PHC string (<https://github.com/P-H-C/phc-string-format>) of argon2id, whose check is bounded.
fn argon2id(text: &str) -> Result<PasswordHash, String> {
    let wrong = || format!("an argon2id verifier is {ARGON2ID}v=19$m=…,t=…,p=…$<salt>$<hash>");
    let hash = PasswordHash::new(text).map_err(|_| wrong())?;
    let params = Params::try_from(&hash).map_err(|_| wrong())?;
    if hash.version != Some(Version::V0x13.into()) {
        return Err("argon2id must be of version 19 (v=19)".to_string());
    }
    if !MEMORY_READ.contains(&params.m_cost()) {
        let (least, most) = (MEMORY_READ.start(), MEMORY_READ.end());
        return Err(format!("m of argon2id (KiB of memory) must be {least} to {most}"));
    }
    if params.t_cost() > PASSES_MAX || params.p_cost() > LANES_MAX {
        return Err(format!("t and p of argon2id must be at most {PASSES_MAX} and {LANES_MAX}"));
    }
    let output = hash.hash.map_or(0, |output| output.len());
    let salt = hash.salt.map_or(0, |salt| salt.len());
    if output < OUTPUT_MIN || salt < *SALT_READ.start() {
        return Err(wrong());
    }
    Ok(hash)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// As PostgreSQL stores the example of RFC 7677 §3.
    const PENCIL: &str = "SCRAM-SHA-256$4096:W22ZaJ0SNY7soEsUEjb6gQ==$\
                          WG5d8oPm3OtcPnkdi4Uo7BkeZkBFzpcXkuLmtbsT4qY=:\
                          wfPLwcE6nTWhTAmQ7tl2KeoiWGPlZqQxSrmfPwDl2dU=";
    const HASH: &str = "nf65EOgLrQMR/uIPnA4rEsF5h7TKyQwu9U1bMCHGi/4";
    /// Of "password", from the tests of the reference implementation.
    const ARGON: &str = "$argon2id$v=19$m=256,t=2,p=1$c29tZXNhbHQ$\
                         nf65EOgLrQMR/uIPnA4rEsF5h7TKyQwu9U1bMCHGi/4";

    fn password(text: &str) -> Password {
        Password::new(text).unwrap()
    }

    #[test]
    fn a_scram_verifier_is_written_as_it_was_read() {
        let verifier = Verifier::parse(PENCIL).unwrap();
        assert_eq!(verifier.to_string(), PENCIL);
        assert!(verifier.is_of(&password("pencil")));
        assert!(!verifier.is_of(&password("Pencil")));
        let salt = &verifier.for_scram().unwrap().salt;
        let iterations = NonZeroU32::new(4_096).unwrap();
        let derived = ScramVerifier::derive(&password("pencil"), salt, iterations);
        assert!(verifier == Verifier::Scram(derived));
        assert_eq!(format!("{verifier:?}"), "scram-sha-256");
    }

    #[test]
    fn a_new_one_is_of_its_password_alone() {
        let made = [
            Verifier::scram(&password("zwölf"), &[7; SALT]),
            Verifier::argon2(&password("zwölf"), &[7; SALT]).unwrap(),
        ];
        for verifier in made {
            assert!(verifier.is_of(&password("zwo\u{308}lf")), "prepared alike");
            assert!(!verifier.is_of(&password("zwolf")));
            let again = Verifier::parse(&verifier.to_string()).unwrap();
            assert!(again == verifier && again.is_of(&password("zwölf")));
        }
    }

    #[test]
    fn argon2id_serves_who_hands_over_the_password() {
        let made = Verifier::argon2(&password("pencil"), &[1; SALT]).unwrap();
        assert!(made.to_string().starts_with("$argon2id$v=19$m=19456,t=2,p=1$"), "{made}");
        assert!(made.for_scram().is_none());
        let read = Verifier::parse(ARGON).unwrap();
        assert_eq!(read.to_string(), ARGON);
        assert!(read.is_of(&password("password")) && !read.is_of(&password("Password")));
    }

    #[test]
    fn texts_that_cost_too_much_or_are_none_are_refused() {
        let pencil = |from: &str, to: &str| PENCIL.replace(from, to);
        let argon = |from: &str, to: &str| ARGON.replace(from, to);
        for (text, why) in [
            ("secret".to_string(), "begins with"),
            ("$argon2i$v=19$m=64,t=2,p=1$c29tZXNhbHQ$UOR7".to_string(), "begins with"),
            (pencil("4096:", "4095:"), "must be 4096 to 1000000"),
            (pencil("4096:", "1000001:"), "must be 4096 to 1000000"),
            (pencil("4096:", "+4096:"), "must be 4096 to 1000000"),
            (pencil("W22ZaJ0SNY7soEsUEjb6gQ==", "W22Z"), "of 8 to 64 bytes"),
            (pencil("WG5d", "WG5"), "in base64"),
            (pencil("=:w", "=;w"), "in base64"),
            (argon("v=19", "v=16"), "version 19"),
            (argon("v=19$", ""), "version 19"),
            (argon("m=256", "m=262145"), "must be 8 to 262144"),
            (argon("t=2", "t=17"), "at most 16"),
            (argon("p=1", "p=17"), "must be"),
            (argon("m=256", "m=many"), "an argon2id verifier is"),
            (argon(HASH, "nf65EOgLrQ"), "verifier is"),
            (argon(&format!("${HASH}"), ""), "verifier is"),
        ] {
            let said = Verifier::parse(&text).unwrap_err();
            assert!(said.contains(why), "{text}: {said}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(
            text in "(SCRAM-SHA-256\\$|\\$argon2id\\$)?[0-9a-z$:=,+/]*",
        ) {
            let _ = Verifier::parse(&text);
        }
    }
}
