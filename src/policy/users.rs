//! The users file: one user a line, `name verifier [tenant]`; lines that begin with `#`, and blank
//! ones, say nothing and stay where they are.
//!
//! # Invariants
//! * No two users have the same name; names are compared in the form of [`user_name`].
//! * What is read and written again without a change is the same text, but for ends of lines.
//! * Who tries names learns nothing of which there are: an unknown one takes the time of a known
//!   one, and gets a SCRAM challenge like his.

use crate::policy::credential::{ITERATIONS, SALT, Verifier};
use crate::policy::tenant::{NAME_MAX, is_name};
use crate::smtp::sasl::{Password, ScramVerifier, user_name};
use std::collections::HashMap;
use std::fmt::{self, Write as _};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::hint::black_box;
use std::num::NonZeroU32;

/// Someone who may log in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    /// As the file has it.
    pub name: String,
    /// Of his password.
    pub verifier: Verifier,
    /// Whose mail his is; `None`: decided as without a login.
    pub tenant: Option<String>,
}

/// What is wrong with a line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LineProblem {
    /// From 1.
    pub line: usize,
    /// What, and what to do; repeats nothing secret.
    pub text: String,
}

/// All users, in the order of the file.
#[derive(Clone, Debug, Default)]
pub struct Users {
    lines: Vec<Line>,
    /// The place in `lines`, by the name as it is compared.
    places: HashMap<String, usize>,
}

#[derive(Clone, Debug)]
enum Line {
    /// A comment, or nothing.
    Words(String),
    User(Box<User>),
}

impl Line {
    fn user(&self) -> Option<&User> {
        match self {
            Self::User(user) => Some(user),
            Self::Words(_) => None,
        }
    }
}

impl Users {
    /// Reads the text of a file.
    ///
    /// # Errors
    /// All lines that are wrong.
    pub fn parse(text: &str) -> Result<Self, Vec<LineProblem>> {
        let mut users = Self::default();
        let mut problems = Vec::new();
        for (n, line) in text.lines().enumerate() {
            if line.trim_start().is_empty() || line.trim_start().starts_with('#') {
                users.lines.push(Line::Words(line.to_string()));
                continue;
            }
            let read = read_user(line).and_then(|user| users.push(user));
            if let Err(text) = read {
                problems.push(LineProblem { line: n + 1, text });
            }
        }
        if problems.is_empty() { Ok(users) } else { Err(problems) }
    }

    fn push(&mut self, user: User) -> Result<(), String> {
        let name = checked_name(&user.name)?;
        if self.places.contains_key(&name) {
            return Err(format!("user {:?} is there already; a user has one line", user.name));
        }
        check_tenant(&user)?;
        self.places.insert(name, self.lines.len());
        self.lines.push(Line::User(Box::new(user)));
        Ok(())
    }

    /// Adds one, below all others.
    ///
    /// # Errors
    /// A sentence: his name or his tenant's cannot be one, or he is there already.
    pub fn add(&mut self, user: User) -> Result<(), String> {
        self.push(user)
    }

    /// Puts one in the place of the one of this name.
    ///
    /// # Errors
    /// A sentence: he is not there, or his tenant's name cannot be one.
    pub fn replace(&mut self, user: User) -> Result<(), String> {
        let place = key(&user.name).and_then(|key| self.places.get(&key).copied());
        let line = place.and_then(|place| self.lines.get_mut(place));
        let line = line.ok_or_else(|| format!("there is no user {:?}", user.name))?;
        check_tenant(&user)?;
        *line = Line::User(Box::new(user));
        Ok(())
    }

    /// Takes one out, and gives him.
    pub fn remove(&mut self, name: &str) -> Option<User> {
        let place = self.places.remove(&key(name)?)?;
        let Line::User(user) = self.lines.remove(place) else { return None };
        self.places.values_mut().filter(|other| **other > place).for_each(|other| *other -= 1);
        Some(*user)
    }

    /// The one of this name, if any.
    #[must_use]
    pub fn find(&self, name: &str) -> Option<&User> {
        self.lines.get(*self.places.get(&key(name)?)?)?.user()
    }

    /// All, in the order of the file.
    pub fn iter(&self) -> impl Iterator<Item = &User> {
        self.lines.iter().filter_map(Line::user)
    }

    /// True where nobody may log in.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    /// The user where it is his password. For a name that is not there, somebody else's verifier
    /// is asked, and its answer thrown away. Takes milliseconds: not on a thread that others wait
    /// for.
    #[must_use]
    pub fn check(&self, name: &str, password: &Password) -> Option<&User> {
        match self.find(name) {
            Some(user) => user.verifier.is_of(password).then_some(user),
            None => {
                match self.stand_in(name, |user| Some(&user.verifier)) {
                    Some(verifier) => _ = black_box(verifier.is_of(password)),
                    None => _ = black_box(Verifier::scram(password, &[0; SALT])),
                }
                None
            }
        }
    }

    /// What SCRAM goes on with: the user's own verifier, or, for who is not there or has none, one
    /// that is made up with `secret` (random, and the same for as long as the node runs).
    #[must_use]
    pub fn for_scram(&self, name: &str, secret: &[u8]) -> ScramVerifier {
        if let Some(own) = self.find(name).and_then(|user| user.verifier.for_scram()) {
            return own.clone();
        }
        let name = &key(name).unwrap_or_default();
        let like = self.stand_in(name, |user| user.verifier.for_scram());
        let like: (NonZeroU32, usize) =
            like.map_or((ITERATIONS, SALT), |verifier| (verifier.iterations, verifier.salt.len()));
        ScramVerifier::made_up(secret, name, like)
    }

    /// One of those that `want` picks, the same one for the same name.
    fn stand_in<'u, T>(&'u self, name: &str, want: impl Fn(&'u User) -> Option<T>) -> Option<T> {
        let mut hasher = DefaultHasher::new();
        name.hash(&mut hasher);
        let count = self.iter().filter_map(&want).count();
        let turn = hasher.finish().checked_rem(u64::try_from(count).ok()?)?;
        self.iter().filter_map(want).nth(usize::try_from(turn).ok()?)
    }
}

/// The text of the file.
impl fmt::Display for Users {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for line in &self.lines {
            match line {
                Line::Words(words) => f.write_str(words)?,
                Line::User(user) => {
                    let User { name, verifier, tenant } = user.as_ref();
                    write!(f, "{name} {verifier}")?;
                    if let Some(tenant) = tenant {
                        write!(f, " {tenant}")?;
                    }
                }
            }
            f.write_char('\n')?;
        }
        Ok(())
    }
}

fn read_user(line: &str) -> Result<User, String> {
    let mut words = line.split_whitespace();
    let (Some(name), Some(verifier), tenant, None) =
        (words.next(), words.next(), words.next(), words.next())
    else {
        return Err("a line is: name verifier [tenant]; `bulkhead user add` writes one".into());
    };
    let verifier = Verifier::parse(verifier)?;
    Ok(User { name: name.to_string(), verifier, tenant: tenant.map(str::to_string) })
}

/// The name as it is compared, of one that can stand in the file.
fn checked_name(name: &str) -> Result<String, String> {
    if name.starts_with('#') || name.contains(|c: char| c.is_whitespace() || c.is_control()) {
        return Err("a user's name has no spaces and does not begin with #".to_string());
    }
    user_name(name).map_err(|why| format!("the user's name {why}"))
}

fn key(name: &str) -> Option<String> {
    user_name(name).ok()
}

/// Names of tenants are as `[[tenants]] name` has them.
fn check_tenant(user: &User) -> Result<(), String> {
    match user.tenant.as_deref() {
        Some(name) if !is_name(name) => {
            let marks = "letters, digits, or - _ . @";
            Err(format!("not a tenant's name; write 1 to {NAME_MAX} {marks}"))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const PENCIL: &str = "SCRAM-SHA-256$4096:W22ZaJ0SNY7soEsUEjb6gQ==$\
                          WG5d8oPm3OtcPnkdi4Uo7BkeZkBFzpcXkuLmtbsT4qY=:\
                          wfPLwcE6nTWhTAmQ7tl2KeoiWGPlZqQxSrmfPwDl2dU=";
    const ARGON: &str = "$argon2id$v=19$m=256,t=2,p=1$c29tZXNhbHQ$\
                         nf65EOgLrQMR/uIPnA4rEsF5h7TKyQwu9U1bMCHGi/4";

    fn text() -> String {
        format!(
            "# web servers\n\nshop {PENCIL} c1842\n  # kept\nNews@Shop.example {PENCIL}\n\
             old {ARGON}\n"
        )
    }

    fn users() -> Users {
        Users::parse(&text()).unwrap()
    }

    fn password(text: &str) -> Password {
        Password::new(text).unwrap()
    }

    #[test]
    fn a_file_is_written_as_it_was_read() {
        assert_eq!(users().to_string(), text());
        assert_eq!(Users::parse(&text().replace('\n', "\r\n")).unwrap().to_string(), text());
        assert!(Users::parse("# nobody\n").unwrap().is_empty() && !users().is_empty());
    }

    #[test]
    fn names_are_found_without_regard_to_case() {
        let users = users();
        assert_eq!(users.find("SHOP").and_then(|user| user.tenant.as_deref()), Some("c1842"));
        assert_eq!(users.find("news@shop.EXAMPLE").unwrap().name, "News@Shop.example");
        assert!(users.find("#").is_none() && users.find("").is_none());
        let names: Vec<_> = users.iter().map(|user| user.name.as_str()).collect();
        assert_eq!(names, ["shop", "News@Shop.example", "old"]);
    }

    #[test]
    fn a_change_leaves_the_rest_in_place() {
        let mut users = users();
        assert_eq!(users.remove("Shop").unwrap().name, "shop");
        assert!(users.remove("shop").is_none());
        assert_eq!(users.find("old").unwrap().verifier.to_string(), ARGON);
        let scram = Verifier::parse(PENCIL).unwrap();
        let old = User { name: "Old".into(), verifier: scram.clone(), tenant: None };
        users.replace(old.clone()).unwrap();
        let absent = User { name: "shop".into(), ..old.clone() };
        assert!(users.replace(absent.clone()).unwrap_err().contains("no user \"shop\""));
        assert!(users.replace(User { tenant: Some(String::new()), ..old }).is_err());
        users.add(User { tenant: Some("c7".to_string()), ..absent }).unwrap();
        let expected = format!(
            "# web servers\n\n  # kept\nNews@Shop.example {PENCIL}\nOld {PENCIL}\nshop {PENCIL} \
             c7\n"
        );
        assert_eq!(users.to_string(), expected);
        let user = |name: &str| User { name: name.into(), verifier: scram.clone(), tenant: None };
        assert!(users.add(user("SHOP")).unwrap_err().contains("there already"));
        for name in ["", "#a", "a b", "a\u{7}", "a\n", &"a".repeat(256)] {
            assert!(users.add(user(name)).is_err(), "{name:?}");
        }
        let tenant = Some("a b".to_string());
        assert!(users.add(User { tenant, ..user("new") }).unwrap_err().contains("tenant"));
        assert_eq!(users.to_string(), expected);
    }

    #[test]
    fn every_line_that_is_wrong_is_named() {
        let text =
            format!("a {PENCIL}\n#\nb\nc secret\nA {PENCIL}\nd {PENCIL} t u\ne {PENCIL} t/u\n");
        let problems = Users::parse(&text).unwrap_err();
        let said: Vec<_> = problems.iter().map(|p| (p.line, &p.text[..16])).collect();
        assert_eq!(
            said,
            [
                (3, "a line is: name "),
                (4, "a verifier begin"),
                (5, "user \"A\" is ther"),
                (6, "a line is: name "),
                (7, "not a tenant's n"),
            ]
        );
    }

    #[test]
    fn a_password_is_right_for_its_user_alone() {
        let users = users();
        assert_eq!(users.check("SHOP", &password("pencil")).unwrap().name, "shop");
        assert!(users.check("shop", &password("pencils")).is_none());
        assert!(users.check("nobody", &password("pencil")).is_none());
        assert!(Users::default().check("shop", &password("pencil")).is_none());
    }

    #[test]
    fn who_is_not_there_is_challenged_like_who_is() {
        let (users, real) = (users(), Verifier::parse(PENCIL).unwrap());
        let real = real.for_scram().unwrap();
        assert_eq!(&users.for_scram("Shop", b"secret"), real);
        for name in ["nobody", "old"] {
            let made_up = users.for_scram(name, b"secret");
            assert_eq!(made_up, users.for_scram(name, b"secret"));
            assert_eq!((made_up.iterations, made_up.salt.len()), (real.iterations, 16));
            assert!(made_up.stored_key != real.stored_key && made_up.salt != real.salt);
        }
        let of = |name| users.for_scram(name, b"secret");
        assert!(of("Nobody") == of("nobody") && of("nobody") != of("nobody2"));
        assert_eq!(Users::default().for_scram("a", b"s").iterations, ITERATIONS);
    }

    proptest! {
        #[test]
        fn what_is_read_is_written_and_read_alike(lines in prop::collection::vec(
            prop_oneof![
                Just(String::new()), "#[ -~]{0,9}",
                "[a-zA-Z@.é]{1,4}".prop_map(|name| format!("{name} {PENCIL}")),
                "[ -~]{0,9}",
            ], 0..6))
        {
            let text: String = lines.iter().map(|line| format!("{line}\n")).collect();
            if let Ok(users) = Users::parse(&text) {
                prop_assert_eq!(users.places.len(), users.iter().count());
                let again = Users::parse(&users.to_string()).unwrap();
                prop_assert_eq!(again.to_string(), users.to_string());
            }
        }
    }
}
