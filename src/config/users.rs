//! The users file on disk: read whole; changed by one at a time, in a way that a crash leaves the
//! old file or the new one.

use super::ConfigErrors;
use super::folder_of;
use crate::policy::users::Users;
use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};

/// Who may read a new file: its owner.
const MODE: u32 = 0o600;

/// Reads the file; without one there are no users.
///
/// # Errors
/// It cannot be read, or each of its lines that is wrong.
pub fn load(path: &Path) -> Result<Users, ConfigErrors> {
    let name = path.display().to_string();
    let whole = |text: String| ConfigErrors::whole(&name, text);
    let text = match fs::read(path) {
        Ok(bytes) => {
            String::from_utf8(bytes).map_err(|_| whole("is not UTF-8 text".to_string()))?
        }
        Err(error) if error.kind() == ErrorKind::NotFound => String::new(),
        Err(error) => return Err(whole(format!("cannot read it: {error}"))),
    };
    Users::parse(&text).map_err(|problems| {
        ConfigErrors::lines(&name, problems.into_iter().map(|problem| (problem.line, problem.text)))
    })
}

/// Reads the file, lets `change` change what is in it, and puts it in place of the old one, with
/// the old one's owner and mode. Durable when it returns. Where `change` fails, nothing has
/// changed.
///
/// Waits for others who are at it. Comments stay.
///
/// # Errors
/// Lines for people: what is wrong with the file, what `change` says, or what the disk says.
pub fn change<T>(
    path: &Path,
    change: impl FnOnce(&mut Users) -> Result<T, String>,
) -> Result<T, String> {
    let failed = |error: io::Error| format!("cannot write {}: {error}", path.display());
    // Where the name is a link, what it leads to is changed.
    let path = match fs::canonicalize(path) {
        Ok(path) => path,
        Err(error) if error.kind() == ErrorKind::NotFound => path.to_path_buf(),
        Err(error) => return Err(failed(error)),
    };
    // The folder is locked and not the file, which is another one afterwards.
    let folder = File::open(folder_of(&path)).map_err(failed)?;
    folder.lock().map_err(failed)?;
    let mut users = load(&path).map_err(|errors| errors.to_string())?;
    let done = change(&mut users)?;
    write(&path, &users.to_string()).and_then(|()| folder.sync_all()).map_err(failed)?;
    Ok(done)
}

/// Into a new file, which then takes the name.
fn write(path: &Path, text: &str) -> io::Result<()> {
    let mut name = path.as_os_str().to_os_string();
    name.push(".new");
    let new = PathBuf::from(name);
    // What a crash left behind.
    match fs::remove_file(&new) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(MODE).open(&new)?;
    let mut put = || {
        match fs::metadata(path) {
            Ok(old) => {
                let made = file.metadata()?;
                if (old.uid(), old.gid()) != (made.uid(), made.gid()) {
                    fchown(&file, Some(old.uid()), Some(old.gid()))?;
                }
                file.set_permissions(Permissions::from_mode(old.mode() & 0o7777))?;
            }
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&new, path)
    };
    let done = put();
    if done.is_err() {
        _ = fs::remove_file(&new);
    }
    done
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use crate::policy::credential::Verifier;
    use crate::policy::users::User;
    use crate::smtp::sasl::Password;

    fn user(name: &str) -> User {
        let verifier = Verifier::scram(&Password::new("pw").unwrap(), &[1; 16]);
        User { name: name.to_string(), verifier, tenant: None }
    }

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o7777
    }

    #[test]
    fn a_new_file_is_its_owners_and_an_old_one_keeps_its_mode_and_comments() {
        let dir = tempfile::tempdir().unwrap();
        let (path, link) = (dir.path().join("users"), dir.path().join("link"));
        assert!(load(&path).unwrap().is_empty());
        change(&path, |users| users.add(user("a"))).unwrap();
        assert_eq!(mode(&path), 0o600);
        fs::write(&path, format!("# ours\n{}", fs::read_to_string(&path).unwrap())).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o640)).unwrap();
        fs::write(dir.path().join("users.new"), "left behind").unwrap();
        std::os::unix::fs::symlink(&path, &link).unwrap();
        change(&link, |users| users.add(user("b"))).unwrap();
        assert_eq!(mode(&path), 0o640);
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.starts_with("# ours\na SCRAM") && text.contains("\nb SCRAM"), "{text}");
        let names: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().path()).collect();
        assert_eq!(names.len(), 2, "{names:?}");
    }

    #[test]
    fn a_change_that_fails_changes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("users");
        change(&path, |users| users.add(user("a"))).unwrap();
        let before = fs::read(&path).unwrap();
        assert!(change(&path, |users| users.add(user("A"))).unwrap_err().contains("already"));
        assert_eq!(fs::read(&path).unwrap(), before);
        let absent = dir.path().join("absent/users");
        assert!(change(&absent, |users| users.add(user("a"))).unwrap_err().contains("cannot"));
    }

    #[test]
    fn changes_at_once_are_all_made() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("users");
        std::thread::scope(|scope| {
            for n in 0..8 {
                let path = &path;
                scope.spawn(move || {
                    change(path, |users| users.add(user(&format!("u{n}")))).unwrap();
                });
            }
        });
        assert_eq!(load(&path).unwrap().iter().count(), 8);
    }

    #[test]
    fn a_configuration_has_its_users_and_names_lines_that_are_none() {
        let dir = tempfile::tempdir().unwrap();
        let (config, path) = (dir.path().join("config.toml"), dir.path().join("people"));
        fs::write(&config, "[auth]\nusers = \"people\"\n").unwrap();
        assert!(Config::load(&config).unwrap().auth.users.is_empty());
        change(&path, |users| users.add(user("Shop"))).unwrap();
        assert!(Config::load(&config).unwrap().auth.users.find("shop").is_some());
        fs::write(&path, "# two\nshop secret\nshop\n").unwrap();
        let said = Config::load(&config).unwrap_err().to_string();
        let lines: Vec<_> = said.lines().collect();
        let name = path.display();
        assert!(lines[0].starts_with(&format!("{name}:2:1: a verifier begins with")), "{said}");
        assert!(lines[1].starts_with(&format!("{name}:3:1: a line is: name")), "{said}");
        assert_eq!(lines[2], format!("2 problems in {name}"));
        assert!(!said.contains("secret"));
        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
        let said = Config::load(&config).unwrap_err().to_string();
        assert!(said.starts_with(&format!("{name}: cannot read it: ")), "{said}");
    }
}
