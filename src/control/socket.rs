//! The control socket's place in the file system.
//!
//! It is made in a folder that only its owner may enter, gets its rights there, and is then renamed
//! to its place: at no moment could another user connect, and a stale one is replaced in one step.

use std::os::unix::fs::{DirBuilderExt, FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};
use tokio::net::{UnixListener, UnixStream};

/// A bound control socket; its file goes when this is dropped.
#[derive(Debug)]
pub struct ControlSocket {
    pub(super) listener: UnixListener,
    path: PathBuf,
}

/// Why there is no control socket.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// Another process answers there.
    #[error("another node answers on {0}; stop it first, or give this one its own data_dir")]
    InUse(String),
    /// Not ours to replace.
    #[error("{0} is not a socket; remove it, or set another [control] socket")]
    NotASocket(String),
    /// The system refused.
    #[error("cannot make the control socket {path}: {error}")]
    Io {
        /// Where.
        path: String,
        /// What it said.
        error: std::io::Error,
    },
}

/// Binds the control socket at `path`, with rights 0600. A socket file that nobody answers on is
/// replaced.
///
/// # Errors
/// [`SocketError`].
pub async fn bind(path: &Path) -> Result<ControlSocket, SocketError> {
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
    let listener = bind_private(path).map_err(|error| SocketError::Io { path: shown(), error })?;
    Ok(ControlSocket { listener, path: path.to_path_buf() })
}

fn bind_private(path: &Path) -> std::io::Result<UnixListener> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let dir = path.with_file_name(format!(".{name}"));
    let inner = dir.join("s");
    // Left by a process that was killed in here; whatever else is in the folder stays, and stops
    // us.
    let _ = std::fs::remove_file(&inner);
    let _ = std::fs::remove_dir(&dir);
    std::fs::DirBuilder::new().mode(0o700).create(&dir)?;
    let listener = UnixListener::bind(&inner)?;
    std::fs::set_permissions(&inner, std::fs::Permissions::from_mode(0o600))?;
    std::fs::rename(&inner, path)?;
    std::fs::remove_dir(&dir)?;
    Ok(listener)
}

impl Drop for ControlSocket {
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
        let socket = bind(&path).await.unwrap();
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
        let _live = bind(&path).await.unwrap();
        let error = bind(&path).await.unwrap_err();
        assert!(matches!(error, SocketError::InUse(_)), "{error}");
        assert!(UnixStream::connect(&path).await.is_ok());
    }

    #[tokio::test]
    async fn another_kind_of_file_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("control.sock");
        std::fs::write(&path, "precious").unwrap();
        assert!(matches!(bind(&path).await.unwrap_err(), SocketError::NotASocket(_)));
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "precious");
        let absent = dir.path().join("absent/control.sock");
        assert!(matches!(bind(&absent).await.unwrap_err(), SocketError::Io { .. }));
    }
}
