//! Postfix in folders of its own, to go beside Bulkhead: it takes mail, syncs it, and keeps it (no
//! queue manager).

use crate::support::{free_port, wait_until};
use std::fs::{self, Permissions};
use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;
use tempfile::TempDir;

/// Where distributions keep `master.cf` as it was delivered.
const MASTER: &str = "/usr/share/postfix/master.cf.dist";

/// A running instance; stopped when dropped.
pub(crate) struct Postfix {
    dir: TempDir,
    pub(crate) address: SocketAddr,
}

impl Postfix {
    /// `None` with a note where it is not installed. `pem`: its key and its certificate.
    pub(crate) fn start(pem: &str) -> Option<Self> {
        let master = fs::read_to_string(MASTER);
        let (Ok(master), Ok(_)) = (master, Command::new("postconf").arg("mail_version").output())
        else {
            println!("no Postfix here (postconf, {MASTER}): nothing to go beside");
            return None;
        };
        let dir = TempDir::with_prefix("bulkhead-postfix-").unwrap();
        let port = free_port();
        let postfix = Self { address: SocketAddr::from(([127, 0, 0, 1], port)), dir };
        postfix.configure(&master, port, pem);
        run(Command::new("postfix").arg("-c").arg(postfix.conf()).arg("start"));
        wait_until(Duration::from_secs(30), "Postfix listens", || {
            std::net::TcpStream::connect(postfix.address).is_ok()
        });
        Some(postfix)
    }

    fn conf(&self) -> PathBuf {
        self.dir.path().join("etc")
    }

    fn configure(&self, master: &str, port: u16, pem: &str) {
        let dir = self.dir.path();
        for folder in ["", "etc", "queue", "data"] {
            fs::create_dir_all(dir.join(folder)).unwrap();
            fs::set_permissions(dir.join(folder), Permissions::from_mode(0o755)).unwrap();
        }
        run(Command::new("chown").arg("postfix").arg(dir.join("data")));
        fs::write(dir.join("tls.pem"), pem).unwrap();
        serve_logins(&dir.join("logins"));
        // Without chroot, so that its files are where the configuration says; its own port; and
        // no queue manager.
        let port = format!("{port} inet n - n - - smtpd");
        let lines = master.lines().map(|line| match line.split_whitespace().next() {
            Some("smtp") if line.contains("inet") => port.clone(),
            Some("qmgr") => String::new(),
            Some(name) if !name.starts_with('#') && !line.starts_with(' ') => {
                let words: Vec<&str> = line.split_whitespace().collect();
                [&words[..4], &["n"], &words[5..]].concat().join(" ")
            }
            _ => line.to_string(),
        });
        let master: Vec<String> = lines.collect();
        fs::write(dir.join("etc/master.cf"), master.join("\n") + "\n").unwrap();
        let d = dir.display();
        let text = format!(
            "compatibility_level = 3.6\nqueue_directory = {d}/queue\ndata_directory = {d}/data\n\
             maillog_file = {d}/queue/mail.log\nmaillog_file_prefixes = {d}\n\
             myhostname = relay.test\ninet_interfaces = 127.0.0.1\ninet_protocols = ipv4\n\
             mydestination =\nmynetworks = 127.0.0.0/8\nalias_maps =\nalias_database =\n\
             smtpd_relay_restrictions = permit_mynetworks, reject\nsmtpd_peername_lookup = no\n\
             smtpd_client_connection_count_limit = 0\nin_flow_delay = 0\n\
             default_process_limit = 200\nsmtpd_tls_security_level = may\n\
             smtpd_tls_chain_files = {d}/tls.pem\nsmtpd_sasl_auth_enable = yes\n\
             smtpd_sasl_type = dovecot\nsmtpd_sasl_path = {d}/logins\n"
        );
        fs::write(dir.join("etc/main.cf"), text).unwrap();
    }

    /// Seconds of the processor that all of it has used so far.
    pub(crate) fn cpu(&self) -> f64 {
        let pid = fs::read_to_string(self.dir.path().join("queue/pid/master.pid")).unwrap();
        let master: u32 = pid.trim().parse().unwrap();
        let processes = fs::read_dir("/proc").unwrap().flatten();
        let pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
        let all = pids.filter_map(|pid| fs::read_to_string(format!("/proc/{pid}/stat")).ok());
        let ticks = all.filter_map(|stat| {
            // Behind the name, which may have anything in it.
            let words: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
            let word = |at: usize| words.get(at).and_then(|word| word.parse::<u32>().ok());
            let (own, of_dead) = (word(11)? + word(12)?, word(13)? + word(14)?);
            let pid: u32 = stat.split_once(' ')?.0.parse().ok()?;
            match (pid == master, word(1)? == master) {
                (true, _) => Some(own + of_dead),
                (_, true) => Some(own),
                _ => None,
            }
        });
        f64::from(ticks.sum::<u32>()) / 100.0
    }
}

impl Drop for Postfix {
    fn drop(&mut self) {
        let conf = self.conf();
        let stopped = Command::new("postfix").arg("-c").arg(conf).arg("stop").output();
        if !stopped.is_ok_and(|output| output.status.success()) {
            println!("Postfix in {} was not stopped", self.dir.path().display());
        }
    }
}

fn run(command: &mut Command) {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {output:?}");
}

/// Says yes to every login, in the language of Dovecot's authentication clients, version 1.1.
fn serve_logins(socket: &Path) {
    let listener = UnixListener::bind(socket).unwrap();
    fs::set_permissions(socket, Permissions::from_mode(0o666)).unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            std::thread::spawn(move || answer_logins(stream));
        }
    });
}

fn answer_logins(stream: UnixStream) -> std::io::Result<()> {
    let mut replies = stream.try_clone()?;
    replies.write_all(
        b"VERSION\t1\t1\nMECH\tPLAIN\tplaintext\nSPID\t1\nCUID\t1\n\
          COOKIE\t0123456789abcdef0123456789abcdef\nDONE\n",
    )?;
    for line in BufReader::new(stream).lines() {
        let line = line?;
        if let Some(id) = line.strip_prefix("AUTH\t").and_then(|rest| rest.split('\t').next()) {
            replies.write_all(format!("OK\t{id}\tuser=ann\n").as_bytes())?;
        }
    }
    Ok(())
}
