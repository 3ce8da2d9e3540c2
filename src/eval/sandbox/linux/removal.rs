//! The end of a program's folder.

use std::fs::{Permissions, read_dir, remove_dir, remove_file, rename, set_permissions};
use std::io::Result;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// Removes everything in a folder that nobody works in any more, however deep it goes. The standard library takes an open
/// file and a stack frame for each level, and a program can make more levels than there are of those; here a folder in
/// another one is moved to the top before it is looked into.
pub fn empty(folder: &Path) -> Result<()> {
    set_permissions(folder, Permissions::from_mode(0o700))?;
    let mut places = (0_u64..).map(|n| folder.join(n.to_string()));
    let mut folders = without_files(folder)?;
    while let Some(next) = folders.pop() {
        for inner in without_files(&next)? {
            // The program may have taken some of these names.
            let Some(place) = places.find(|place| place.symlink_metadata().is_err()) else { continue };
            rename(&inner, &place)?;
            folders.push(place);
        }
        remove_dir(&next)?;
    }
    Ok(())
}

/// Removes the files of a folder; gives the folders in it, with the rights to look into them and to move them.
fn without_files(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut folders = Vec::new();
    for entry in read_dir(folder)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            set_permissions(entry.path(), Permissions::from_mode(0o700))?;
            folders.push(entry.path());
        } else {
            remove_file(entry.path())?;
        }
    }
    Ok(folders)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_left_of_folders_that_are_deep_or_closed() {
        let top = tempfile::tempdir().unwrap();
        let at = |name: &str| top.path().join(name);
        // From the inside out: a path that goes down so far would be too long.
        std::fs::create_dir(at("deep")).unwrap();
        for _ in 0..10_000 {
            std::fs::create_dir(at("outer")).unwrap();
            rename(at("deep"), at("outer").join("1")).unwrap();
            rename(at("outer"), at("deep")).unwrap();
        }
        std::fs::create_dir(at("0")).unwrap();
        std::fs::write(at("0").join("file"), "x").unwrap();
        std::os::unix::fs::symlink("/", at("0").join("link")).unwrap();
        set_permissions(at("0"), Permissions::from_mode(0o000)).unwrap();
        std::fs::write(at("1"), "x").unwrap();
        empty(top.path()).unwrap();
        assert_eq!(read_dir(top.path()).unwrap().count(), 0);
    }
}
