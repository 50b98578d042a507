//! A Unix socket's place in the file system.
//!
//! It is made in a folder that only its owner may enter, gets its rights there, and is then renamed
//! to its place: at no moment could another user connect, and a stale one is replaced in one step.

use std::os::unix::fs::{DirBuilderExt, FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};
use tokio::net::{UnixListener, UnixStream};

/// A bound socket; its file goes when this is dropped.
#[derive(Debug)]
pub struct UnixSocket {
    /// Its clients.
    pub listener: UnixListener,
    path: PathBuf,
}

/// Why there is no socket.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// Another process answers there.
    #[error("another node answers on {0}; stop it first, or give this one its own data_dir")]
    InUse(String),
    /// Not ours to replace.
    #[error("{0} is not a socket; remove it, or give another path")]
    NotASocket(String),
    /// The system refused.
    #[error("cannot make the socket {path}: {error}")]
    Io {
        /// Where.
        path: String,
        /// What it said.
        error: std::io::Error,
    },
}

/// Binds a socket at `path` with the rights `mode`. A socket file that nobody answers on is
/// replaced.
///
/// # Errors
/// [`SocketError`].
pub async fn bind(path: &Path, mode: u32) -> Result<UnixSocket, SocketError> {
    let shown = || path.display().to_string();
    match std::fs::symlink_metadata(path) {
        Ok(found) if !found.file_type().is_socket() => {
            return Err(SocketError::NotASocket(shown()));
        }
        Ok(_) if UnixStream::connect(path).await.is_ok() => {
            return Err(SocketError::InUse(shown()));
        }
        _ => {}
    }
    let listener =
        bind_private(path, mode).map_err(|error| SocketError::Io { path: shown(), error })?;
    Ok(UnixSocket { listener, path: path.to_path_buf() })
}

fn bind_private(path: &Path, mode: u32) -> std::io::Result<UnixListener> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let dir = path.with_file_name(format!(".{name}"));
    let inner = dir.join("s");
    // Left by a process that was killed in here; whatever else is in the folder stays, and stops
    // us.
    let _ = std::fs::remove_file(&inner);
    let _ = std::fs::remove_dir(&dir);
    std::fs::DirBuilder::new().mode(0o700).create(&dir)?;
    let listener = UnixListener::bind(&inner)?;
    std::fs::set_permissions(&inner, std::fs::Permissions::from_mode(mode))?;
    std::fs::rename(&inner, path)?;
    std::fs::remove_dir(&dir)?;
    Ok(listener)
}

impl Drop for UnixSocket {
    fn drop(&mut self) {
        // A file that stays is replaced at the next start.
        let _ = std::fs::remove_file(&self.path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn only_its_owner_may_connect_and_its_file_goes_with_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("control.sock");
        let socket = bind(&path, 0o600).await.unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(UnixStream::connect(&path).await.is_ok());
        drop(socket);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[tokio::test]
    async fn a_stale_socket_is_replaced_and_a_live_one_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("control.sock");
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        assert!(path.exists());
        let _live = bind(&path, 0o600).await.unwrap();
        let error = bind(&path, 0o600).await.unwrap_err();
        assert!(matches!(error, SocketError::InUse(_)), "{error}");
        assert!(UnixStream::connect(&path).await.is_ok());
    }

    #[tokio::test]
    async fn another_kind_of_file_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("control.sock");
        std::fs::write(&path, "precious").unwrap();
        assert!(matches!(bind(&path, 0o600).await.unwrap_err(), SocketError::NotASocket(_)));
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "precious");
        let absent = dir.path().join("absent/control.sock");
        assert!(matches!(bind(&absent, 0o600).await.unwrap_err(), SocketError::Io { .. }));
    }
}
