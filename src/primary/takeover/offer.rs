//! The place where a successor finds this primary: a unix socket that only the same user can connect to.

use std::fs::{self, Permissions};
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use nix::sys::socket::{AddressFamily, UnixAddr, bind};
use nix::sys::stat::{Mode, fchmod};
use nix::unistd::Uid;

use super::is_ours;
use crate::sys::socket;

/// The owner alone may connect.
const MODE: u32 = 0o600;

/// Who may write in the folder besides its owner could put another socket in the place of ours; in one above it, another
/// folder in its place.
const OTHERS_WRITE: u32 = 0o022;

/// What others have made cannot be replaced there.
const STICKY: u32 = 0o1000;

/// Successors that may wait to be let in.
const BACKLOG: i32 = 4;

/// Listens at a path, in the place of whoever was there before.
pub fn listen(path: &Path) -> io::Result<OwnedFd> {
    let path = place(path)?;
    let listener = socket::stream(AddressFamily::Unix)?;
    // In one step, so that there always is one that answers.
    let new = path.with_file_name(format!(".{}", std::process::id()));
    let _ = fs::remove_file(&new);
    // On Linux the file is made with this mode.
    let _ = fchmod(&listener, Mode::from_bits_truncate(MODE as nix::libc::mode_t));
    bind(listener.as_raw_fd(), &UnixAddr::new(&new)?)?;
    let placed = fs::set_permissions(&new, Permissions::from_mode(MODE))
        .and_then(|()| socket::listen(listener.as_fd(), BACKLOG))
        .and_then(|()| fs::rename(&new, &path));
    if placed.is_err() {
        let _ = fs::remove_file(&new);
    }
    placed.map(|()| listener)
}

/// The next one that has come, if it may.
pub fn accept(listener: &OwnedFd) -> io::Result<Option<OwnedFd>> {
    let socket::Accepted { fd, .. } = socket::accept(listener.as_fd())?;
    Ok(is_ours(fd.as_fd())?.then_some(fd))
}

/// Where a path leads to, without links that could lead elsewhere later; if no other user can put something in the place of
/// ours there.
pub fn place(path: &Path) -> io::Result<PathBuf> {
    let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    let folder = folder.unwrap_or(Path::new(".")).canonicalize()?;
    for (above, folder) in folder.ancestors().enumerate() {
        let about = fs::metadata(folder)?;
        let owner = Uid::from_raw(about.uid());
        let shared = about.mode() & OTHERS_WRITE != 0 && (above == 0 || about.mode() & STICKY == 0);
        if shared || !(owner == Uid::effective() || owner.is_root()) {
            let folder = folder.display();
            let reason = format!("{folder} is a folder that other users may write in");
            return Err(io::Error::other(reason));
        }
    }
    Ok(folder.join(name))
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use super::*;

    fn folder(name: &str, mode: u32) -> std::path::PathBuf {
        let name = format!("sticky-listen-{name}-{}", std::process::id());
        let folder = std::env::temp_dir().join(name);
        fs::create_dir_all(&folder).unwrap();
        fs::set_permissions(&folder, Permissions::from_mode(mode)).unwrap();
        folder
    }

    #[test]
    fn guarantee_11_private_nobody_else_may_connect_or_write_there() {
        let private = folder("private", 0o700);
        let path = private.join("socket");
        let first = listen(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, MODE);
        let _client = UnixStream::connect(&path).unwrap();
        assert!(accept(&first).unwrap().is_some());
        // The next one takes its place, without a moment between.
        let second = listen(&path).unwrap();
        let _client = UnixStream::connect(&path).unwrap();
        assert!(accept(&second).unwrap().is_some());
        assert_eq!(accept(&first).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        assert_eq!(fs::read_dir(&private).unwrap().count(), 1);
        fs::remove_dir_all(private).unwrap();

        let shared = folder("shared", 0o777);
        assert!(listen(&shared.join("socket")).is_err());
        // Nor there, as its folder could be replaced.
        let within = shared.join("within");
        fs::create_dir(&within).unwrap();
        fs::set_permissions(&within, Permissions::from_mode(0o700)).unwrap();
        assert!(listen(&within.join("socket")).is_err());
        fs::set_permissions(&shared, Permissions::from_mode(0o1777)).unwrap();
        assert!(listen(&within.join("socket")).is_ok());
        fs::remove_dir_all(shared).unwrap();
        assert!(listen(Path::new("/nowhere/socket")).is_err());
    }
}
