//! `bulkhead user`: who may log in. Works on the users file, with or without a node; a running one
//! takes it when told to.

use super::Failure;
use super::args::{Common, UserVerb};
use crate::base::random;
use crate::base::text::printable;
use crate::config::users::change;
use crate::policy::credential::Verifier;
use crate::policy::users::User;
use crate::smtp::sasl::{PASSWORD_MAX, Password, USER_MAX};
use serde_json::json;
use std::io::{self, BufRead, IsTerminal, Read, Write};
use std::path::Path;

/// Longest line read from standard input, with its end.
const LINE_MAX: u64 = PASSWORD_MAX as u64 + 2;

pub(super) fn run(common: &Common, verb: &UserVerb, out: &mut impl Write) -> Result<(), Failure> {
    let config = common.load().map_err(|errors| Failure::Trouble(errors.to_string()))?;
    let file = &config.auth.file;
    match verb {
        UserVerb::Add { name, tenant, argon2, replace } => {
            if config.auth.users.find(name).is_some() && !replace {
                return Err(Failure::Trouble(is_there(name)));
            }
            let verifier = verifier(&ask(name, true)?, *argon2)?;
            let verb = add(file, name, verifier, tenant.as_ref(), *replace)?;
            done(common, out, verb, name, file)
        }
        UserVerb::Blocks | UserVerb::Unblock { .. } => super::tenant::blocks(common, verb, out),
        UserVerb::List => list(common, &config.auth.users.iter().collect::<Vec<_>>(), out),
        UserVerb::Remove { name } => {
            let removed = change(file, |users| {
                users.remove(name).map(|_| ()).ok_or_else(|| is_absent(name, file))
            });
            removed.map_err(Failure::Trouble)?;
            done(common, out, "removed", name, file)
        }
        UserVerb::Test { name } => {
            let user = config.auth.users.find(name);
            let user = user.ok_or_else(|| Failure::Trouble(is_absent(name, file)))?;
            let right = user.verifier.is_of(&ask(name, false)?);
            if common.json {
                writeln!(out, "{}", json!({ "user": user.name, "right": right }))?;
            } else if right {
                writeln!(out, "this is the password of {}", shown(&user.name))?;
            }
            let wrong = || Failure::Trouble(format!("not the password of {}", shown(&user.name)));
            right.then_some(()).ok_or_else(wrong)
        }
    }
}

/// What was done: `added` or `changed`.
fn add(
    file: &Path,
    name: &str,
    verifier: Verifier,
    tenant: Option<&String>,
    replace: bool,
) -> Result<&'static str, Failure> {
    let changed = change(file, |users| {
        let old = if replace { users.find(name).cloned() } else { None };
        let user = match &old {
            Some(old) => {
                User { verifier, tenant: tenant.or(old.tenant.as_ref()).cloned(), ..old.clone() }
            }
            None => User { name: name.to_string(), verifier, tenant: tenant.cloned() },
        };
        match old {
            Some(_) => users.replace(user).map(|()| "changed"),
            None => users.add(user).map(|()| "added"),
        }
    });
    changed.map_err(Failure::Trouble)
}

fn done(
    common: &Common,
    out: &mut impl Write,
    verb: &str,
    name: &str,
    file: &Path,
) -> Result<(), Failure> {
    if common.json {
        writeln!(out, "{}", json!({ verb: name, "file": file.to_string_lossy() }))?;
    } else {
        let (name, file) = (shown(name), file.display());
        writeln!(out, "{verb} {name} in {file}; a running node takes it with `bulkhead reload`")?;
    }
    Ok(())
}

fn list(common: &Common, users: &[&User], out: &mut impl Write) -> Result<(), Failure> {
    if common.json {
        let each = |user: &&User| {
            let User { name, verifier, tenant } = *user;
            json!({ "name": name, "kind": verifier.kind(), "tenant": tenant })
        };
        let all: Vec<_> = users.iter().map(each).collect();
        writeln!(out, "{}", json!(all))?;
        return Ok(());
    }
    let name = |user: &&User| shown(&user.name);
    let width = users.iter().map(|user| name(user).chars().count()).max().unwrap_or(0).max(4);
    writeln!(out, "{:width$}  {:13}  TENANT", "NAME", "KIND")?;
    for user in users {
        let tenant = user.tenant.as_deref().unwrap_or("-");
        writeln!(out, "{:width$}  {:13}  {tenant}", name(user), user.verifier.kind())?;
    }
    Ok(())
}

fn verifier(password: &Password, argon2: bool) -> Result<Verifier, Failure> {
    let salt = random::unforeseeable();
    let salt = salt.map_err(|_| Failure::Trouble("the system has no randomness".to_string()))?;
    match argon2 {
        true => Verifier::argon2(password, &salt).map_err(Failure::Trouble),
        false => Ok(Verifier::scram(password, &salt)),
    }
}

/// The password: from a prompt, twice for a new one, or the first line of standard input.
fn ask(name: &str, is_new: bool) -> Result<Password, Failure> {
    let failed = |error: io::Error| Failure::Trouble(format!("cannot read a password: {error}"));
    let prompt = |what: &str| rpassword::prompt_password(format!("{what} {}: ", shown(name)));
    let text = if io::stdin().is_terminal() {
        let first = prompt("password of").map_err(failed)?;
        if is_new && prompt("once more, the password of").map_err(failed)? != first {
            return Err(Failure::Trouble("the two differ; nothing has changed".to_string()));
        }
        first
    } else {
        let mut line = String::new();
        io::stdin().lock().take(LINE_MAX).read_line(&mut line).map_err(failed)?;
        let line = line.strip_suffix('\n').unwrap_or(&line);
        line.strip_suffix('\r').unwrap_or(line).to_string()
    };
    Password::new(&text).map_err(|why| Failure::Trouble(format!("the password {why}")))
}

fn is_there(name: &str) -> String {
    format!("user {} is there already; --replace gives him another password", shown(name))
}

fn is_absent(name: &str, file: &Path) -> String {
    format!("no user {} in {}", shown(name), file.display())
}

fn shown(name: &str) -> String {
    printable(name.as_bytes(), USER_MAX)
}
