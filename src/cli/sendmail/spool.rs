//! Where mail waits that no relay took: one file for each message, in a folder for each user.
//!
//! Anyone on a web server may send mail, and nobody may read or remove another's. The program gets
//! no rights of its own for that (it is neither set-user-id nor set-group-id): the spool is as open
//! as /tmp (mode 1777), each user makes a folder in it with his number as its name, which is his
//! alone (0700), and files in it (0600). A single folder for all would have to be unreadable to
//! keep names secret (1733), and then nobody could find his own mail again. A folder that does not
//! belong to the user it is named after is not used; an administrator may make folders beforehand.
//!
//! A file is a line of JSON, the envelope, and then the message. It is written under a name that
//! begins with a dot, synced, and gets its real name, and the folder is synced: what has a real
//! name is whole, whenever the machine stops. A real name is the message's id, which tells its age;
//! the file's own time is that of the last attempt; `ID.failed` is kept for people to look at.
//!
//! Who sends a message holds a lock on its file (`flock`), so that two runs never send it both. A
//! crash between a relay's `250` and the removal of the file sends it a second time.

use super::compose::Message;
use super::{Exit, SIZE_MAX, Stop};
use crate::base::address::{Mailbox, ReversePath};
use crate::base::id::MessageId;
use crate::base::random;
use crate::base::time::Timestamp;
use crate::mail::envelope::{BodyType, Envelope, Notify, Recipient, Ret};
use rustix::fs::{self, AtFlags, FileType, FlockOperation, Mode, OFlags, RenameFlags, Stat};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Ends the name of what is not sent any more.
const FAILED: &str = ".failed";
/// A file without a real name so old was left by a crash.
const LEFT_OVER: Duration = Duration::from_secs(24 * 3600);
/// Most bytes of a file: the longest message, and room for its envelope.
const FILE_MAX: u64 = (SIZE_MAX + (16 << 20)) as u64;
/// A file that is no older than this at its last attempt has had none: it was being written.
const WRITING: Duration = Duration::from_secs(10);
/// Longest wait between two attempts.
const WAIT_MAX: Duration = Duration::from_secs(3600);

/// The first line of a file.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Header {
    sender: String,
    recipients: Vec<String>,
    eight_bit: bool,
    smtputf8: bool,
    /// [`Notify::bits`], of all recipients.
    notify: Option<u8>,
    ret_full: Option<bool>,
    envid: Option<String>,
    reason: String,
}

/// What lies in a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Spooled {
    pub(super) message: Message,
    /// Why it waits, or failed; safe to print.
    pub(super) reason: String,
}

/// A file's name and its times.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Listed {
    pub(super) id: MessageId,
    pub(super) has_failed: bool,
    pub(super) size: u64,
    /// When it was tried last, or written.
    pub(super) tried: Timestamp,
}

impl Listed {
    /// When it is to be tried next: at twice its age at the last attempt, or an hour later. What
    /// waits for a relay to come back is due at once, since no attempt was one.
    pub(super) fn due(&self) -> Timestamp {
        let age = self.tried.since(self.id.created_at());
        self.tried.after(if age < WRITING { Duration::ZERO } else { age.min(WAIT_MAX) })
    }

    fn name(&self) -> String {
        format!("{}{}", self.id, if self.has_failed { FAILED } else { "" })
    }
}

/// A message whose file is locked, until this is dropped.
pub(super) struct Held {
    pub(super) listed: Listed,
    pub(super) spooled: Spooled,
    _lock: File,
}

/// One user's folder.
pub(super) struct Folder {
    fd: OwnedFd,
    owner: Stat,
    path: PathBuf,
}

impl Folder {
    /// The folder of a user. `None` where there is none, and it is not to be made.
    ///
    /// # Errors
    /// [`Exit::CantCreat`] where it cannot be made, [`Exit::NoPerm`] where it is another's.
    pub(super) fn open(spool: &Path, user: u32, make: bool) -> Result<Option<Self>, Stop> {
        let path = spool.join(user.to_string());
        let wrong = |exit: Exit, what: &str, remedy: String| {
            exit.because(format!("{}: {what}; {remedy}", path.display()))
        };
        let made = || -> io::Result<()> {
            let parent = fs::open(spool, FOLDER, Mode::empty())?;
            match fs::mkdirat(&parent, user.to_string(), Mode::RWXU) {
                Ok(()) => Ok(fs::fsync(&parent)?),
                Err(Errno::EXIST) => Ok(()),
                Err(error) => Err(error.into()),
            }
        };
        if make {
            let remedy = || format!("as root: install -d -m 1777 {}", spool.display());
            made()
                .map_err(|e| wrong(Exit::CantCreat, &format!("cannot make it: {e}"), remedy()))?;
        }
        let opened = match fs::open(&path, FOLDER, Mode::empty()) {
            Ok(fd) => fs::fstat(&fd).map(|owner| (fd, owner)),
            Err(Errno::NOENT) if !make => return Ok(None),
            Err(error) => Err(error),
        };
        let (fd, owner) = opened.map_err(|error| {
            wrong(Exit::NoPerm, &error.to_string(), "it must be the user's folder".into())
        })?;
        if owner.st_uid != user || owner.st_mode & 0o077 != 0 {
            let remedy = format!("as root: chown {user} and chmod 0700, or remove it");
            return Err(wrong(Exit::NoPerm, "is open to others, or another's", remedy));
        }
        Ok(Some(Self { fd, owner, path }))
    }

    /// The users that have a folder. Names that are no numbers are passed over.
    pub(super) fn users(spool: &Path) -> Vec<u32> {
        let Ok(entries) = std::fs::read_dir(spool) else { return Vec::new() };
        let name =
            |entry: io::Result<std::fs::DirEntry>| entry.ok()?.file_name().into_string().ok();
        let mut users: Vec<u32> = entries.filter_map(|e| name(e)?.parse().ok()).collect();
        users.sort_unstable();
        users
    }

    /// Where it is, for people.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Writes a message under a new id; durable once this returned.
    ///
    /// # Errors
    /// [`Exit::IoErr`], and there is nothing under a real name then.
    pub(super) fn add(
        &self,
        spooled: &Spooled,
        now: Timestamp,
        has_failed: bool,
    ) -> Result<MessageId, Stop> {
        let mut random = random::from_system();
        loop {
            let id = new_id(now, random.i64(0..1 << 20));
            let listed = Listed { id, has_failed, size: 0, tried: now };
            match self.write(&listed, spooled, RenameFlags::NOREPLACE) {
                Err(Errno::EXIST) => {}
                done => return done.map(|()| id).map_err(|error| self.broken(error)),
            }
        }
    }

    /// What is there, the oldest first; removes what a crash left half written.
    pub(super) fn list(&self, now: Timestamp) -> Result<Vec<Listed>, Stop> {
        let broken = |error| self.broken(error);
        let mut found = Vec::new();
        for entry in fs::Dir::read_from(&self.fd).map_err(broken)? {
            let entry = entry.map_err(broken)?;
            let Ok(name) = entry.file_name().to_str() else { continue };
            let plain = name.strip_suffix(FAILED).unwrap_or(name);
            let Ok(id) = plain.trim_start_matches('.').parse::<MessageId>() else { continue };
            if name.starts_with('.') {
                if now.since(id.created_at()) > LEFT_OVER {
                    // Another run may have been faster.
                    let _ = fs::unlinkat(&self.fd, name, AtFlags::empty());
                }
                continue;
            }
            if let Ok(stat) = fs::statat(&self.fd, name, AtFlags::SYMLINK_NOFOLLOW) {
                let seconds = stat.st_mtime.saturating_mul(1000);
                let tried =
                    Timestamp(seconds + i64::try_from(stat.st_mtime_nsec).unwrap_or(0) / 1_000_000);
                let size = u64::try_from(stat.st_size).unwrap_or(0);
                found.push(Listed { id, has_failed: name != plain, size, tried });
            }
        }
        found.sort_by_key(|listed| listed.id);
        Ok(found)
    }

    /// Reads a message without a lock.
    pub(super) fn read(&self, listed: &Listed) -> io::Result<Spooled> {
        self.load(&self.open_file(listed)?)
    }

    /// Locks a message and reads it. `None` where another run has it, or had it.
    pub(super) fn hold(&self, listed: &Listed) -> io::Result<Option<Held>> {
        let file = match self.open_file(listed) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            file => file?,
        };
        match fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Err(Errno::WOULDBLOCK) => return Ok(None),
            locked => locked?,
        }
        // Between the opening and the lock another run may have removed or replaced it.
        let there = match fs::statat(&self.fd, listed.name(), AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => return Ok(None),
            there => there?,
        };
        if there.st_ino != fs::fstat(&file)?.st_ino {
            return Ok(None);
        }
        let spooled = self.load(&file)?;
        Ok(Some(Held { listed: listed.clone(), spooled, _lock: file }))
    }

    /// Removes a message.
    pub(super) fn remove(&self, held: Held) -> Result<(), Stop> {
        let done = fs::unlinkat(&self.fd, held.listed.name(), AtFlags::empty())
            .and_then(|()| fs::fsync(&self.fd));
        done.map_err(|error| self.broken(error))
    }

    /// Puts what is left of a message in its place: it was tried now.
    pub(super) fn replace(&self, held: Held, left: &Spooled) -> Result<(), Stop> {
        let done = self.write(&held.listed, left, RenameFlags::empty());
        done.map_err(|error| self.broken(error))
    }

    fn open_file(&self, listed: &Listed) -> io::Result<File> {
        // Not to wait for the other end of a pipe that the user put here for root.
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = File::from(fs::openat(&self.fd, listed.name(), flags, Mode::empty())?);
        let stat = fs::fstat(&file)?;
        let is_file = FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile;
        if !is_file || stat.st_uid != self.owner.st_uid {
            return Err(io::Error::other("not a file of the folder's owner"));
        }
        Ok(file)
    }

    fn load(&self, file: &File) -> io::Result<Spooled> {
        let mut bytes = Vec::new();
        // A user may put what he likes into his folder, and root reads it, too.
        file.take(FILE_MAX).read_to_end(&mut bytes)?;
        decode(&bytes).ok_or_else(|| io::Error::other("not a spooled message"))
    }

    fn write(&self, listed: &Listed, spooled: &Spooled, how: RenameFlags) -> Result<(), Errno> {
        let hidden = format!(".{}", listed.id);
        if how.is_empty() {
            // Left by a crash, where it is there: who replaces a message has its lock.
            let _ = fs::unlinkat(&self.fd, &hidden, AtFlags::empty());
        }
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let fd = fs::openat(&self.fd, &hidden, flags, Mode::RUSR | Mode::WUSR)?;
        let written = self
            .fill(File::from(fd), &encode(spooled))
            .and_then(|()| fs::renameat_with(&self.fd, &hidden, &self.fd, listed.name(), how));
        if written.is_err() {
            let _ = fs::unlinkat(&self.fd, &hidden, AtFlags::empty());
        }
        written.and_then(|()| fs::fsync(&self.fd))
    }

    fn fill(&self, mut file: File, bytes: &[u8]) -> Result<(), Errno> {
        if !rustix::process::geteuid().as_raw().eq(&self.owner.st_uid) {
            // Root writes for the user.
            let owner = rustix::fs::Uid::from_raw(self.owner.st_uid);
            let group = rustix::fs::Gid::from_raw(self.owner.st_gid);
            fs::fchown(&file, Some(owner), Some(group))?;
        }
        file.write_all(bytes).map_err(|e| Errno::from_io_error(&e).unwrap_or(Errno::IO))?;
        fs::fsync(&file)
    }

    fn broken(&self, error: Errno) -> Stop {
        Exit::IoErr.because(format!("{}: {error}", self.path.display()))
    }
}

const FOLDER: OFlags =
    OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// An id of this moment; `low` tells it from those of other processes.
pub(super) fn new_id(now: Timestamp, low: i64) -> MessageId {
    let floor = MessageId::floor(now);
    MessageId::from_number(floor.number() | low).unwrap_or(floor)
}

fn encode(spooled: &Spooled) -> Vec<u8> {
    let Message { envelope, bytes } = &spooled.message;
    let header = Header {
        sender: envelope.reverse_path.to_string(),
        recipients: envelope.recipients.iter().map(|r| r.mailbox.to_string()).collect(),
        eight_bit: envelope.body == BodyType::EightBitMime,
        smtputf8: envelope.smtputf8,
        notify: envelope.recipients.first().and_then(|r| r.notify).map(Notify::bits),
        ret_full: envelope.ret.map(|ret| ret == Ret::Full),
        envid: envelope.envid.clone(),
        reason: spooled.reason.clone(),
    };
    // Texts and numbers can always be written as JSON.
    let mut out = serde_json::to_vec(&header).unwrap_or_default();
    out.push(b'\n');
    out.extend_from_slice(bytes);
    out
}

fn decode(bytes: &[u8]) -> Option<Spooled> {
    let end = memchr::memchr(b'\n', bytes)?;
    let header: Header = serde_json::from_slice(bytes.get(..end)?).ok()?;
    let mut envelope = Envelope::from(ReversePath::parse(&header.sender).ok()?);
    let notify = header.notify.map(Notify::from_bits);
    for text in &header.recipients {
        let mailbox = Mailbox::parse(text).ok()?;
        envelope.recipients.push(Recipient { notify, ..Recipient::new(mailbox) });
    }
    envelope.smtputf8 = header.smtputf8;
    envelope.ret = header.ret_full.map(|full| if full { Ret::Full } else { Ret::Headers });
    envelope.envid = header.envid;
    if header.eight_bit {
        envelope.body = BodyType::EightBitMime;
    }
    let message = Message { envelope, bytes: bytes.get(end + 1..)?.to_vec() };
    Some(Spooled { message, reason: header.reason })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const AT: Timestamp = Timestamp(1_795_394_728_114);

    #[test]
    fn waits_grow_with_age() {
        let due = |minutes: u64| {
            let tried = AT.after(Duration::from_secs(minutes * 60));
            let listed = Listed { id: new_id(AT, 7), has_failed: false, size: 0, tried };
            listed.due().since(AT).as_secs() / 60
        };
        assert_eq!([0, 1, 30, 60, 600].map(due), [0, 2, 60, 120, 660]);
    }

    #[test]
    fn ids_tell_their_age_and_each_other_apart() {
        let (one, two) = (new_id(AT, 0), new_id(AT, (1 << 20) - 1));
        assert_eq!((one.created_at(), two.created_at()), (AT, AT));
        assert!(one < two && two < new_id(AT.after(Duration::from_millis(1)), 0));
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(
            bytes: Vec<u8>,
            to in prop::collection::vec("[a-z]{1,9}@[a-z]{1,9}\\.test", 1..4),
            sender in prop::option::of("\"[a-z @<>]{1,9}\"@x\\.test"),
            flags in 0..64_u8,
            reason: String,
        ) {
            let path = ReversePath::parse(sender.as_deref().unwrap_or_default()).unwrap();
            let mut envelope = Envelope::from(path);
            let notify = (flags & 8 != 0).then(|| Notify::from_bits(flags & 7));
            for text in &to {
                let mailbox = Mailbox::parse(text).unwrap();
                envelope.recipients.push(Recipient { notify, ..Recipient::new(mailbox) });
            }
            envelope.smtputf8 = flags & 16 != 0;
            envelope.ret = (flags & 32 != 0).then_some(Ret::Headers);
            envelope.envid = sender;
            if flags & 1 != 0 {
                envelope.body = BodyType::EightBitMime;
            }
            let spooled = Spooled { message: Message { envelope, bytes }, reason };
            prop_assert_eq!(decode(&encode(&spooled)), Some(spooled));
        }

        #[test]
        fn any_file_can_be_read(bytes: Vec<u8>) {
            decode(&bytes);
        }
    }
}
