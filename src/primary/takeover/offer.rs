//! The place where a successor finds this primary: a unix socket that only the same user can connect to.

use std::fs::{self, Permissions};
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _};
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
    let new = beside(&path);
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
/// ours there, and nothing is there already that is not ours.
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
    let path = folder.join(name);
    for path in [&path, &beside(&path)] {
        if UnixAddr::new(path).is_err() {
            let path = path.display();
            return Err(io::Error::other(format!("{path} is too long for a socket's name")));
        }
    }
    // Listening there replaces it.
    if fs::symlink_metadata(&path).is_ok_and(|about| !about.file_type().is_socket()) {
        return Err(io::Error::other(format!("{} exists and is no socket", path.display())));
    }
    Ok(path)
}

/// Where a socket is made that is to take the place of the one at a path.
fn beside(path: &Path) -> PathBuf {
    path.with_file_name(format!(".{}", std::process::id()))
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

    #[test]
    fn what_is_no_socket_stays_as_it_is() {
        let private = folder("occupied", 0o700);
        let path = private.join("settings");
        fs::write(&path, "precious").unwrap();
        let link = private.join("link");
        std::os::unix::fs::symlink(&path, &link).unwrap();
        let within = private.join("within");
        fs::create_dir(&within).unwrap();
        for occupied in [&path, &link, &within] {
            let error = listen(occupied).unwrap_err().to_string();
            assert!(error.ends_with("exists and is no socket"), "{error}");
        }
        assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
        assert_eq!(fs::read_dir(&private).unwrap().count(), 3);
        let long = private.join("x".repeat(120));
        assert!(listen(&long).unwrap_err().to_string().contains("too long"));
        fs::remove_dir_all(private).unwrap();
    }
}
