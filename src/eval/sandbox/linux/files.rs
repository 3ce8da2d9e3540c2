//! What a child may reach of the file system, the network and other processes: Landlock.

use super::super::{Confinement, Python, Unavailable};
use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible, CreateRulesetError, PathBeneath, PathFd,
    Ruleset, RulesetAttr, RulesetCreated, RulesetCreatedAttr, RulesetError, Scope,
};
use std::os::fd::OwnedFd;
use std::path::Path;

/// Devices that programs which mean no harm read.
const DEVICES: [&str; 4] = ["/dev/null", "/dev/zero", "/dev/random", "/dev/urandom"];

/// The rules for a child with this folder; `None` where the kernel has no Landlock, and less than that is asked for.
pub fn ruleset(python: &Python, folder: &Path, confinement: Confinement) -> Result<Option<OwnedFd>, Unavailable> {
    match rules(python, folder) {
        Ok(created) => Ok(created.into()),
        Err(error) if is_missing(&error) && confinement == Confinement::Limits => Ok(None),
        Err(error) if is_missing(&error) => Err(Unavailable::new(
            "sandbox-unavailable",
            format!("generated programs cannot be kept from files: Landlock is not there ({error})"),
        )
        .help(super::LESS)),
        Err(error) => Err(Unavailable::failed("make the rules that keep a program from files", error)),
    }
}

/// Whether the kernel has no Landlock, or not as much of it as is needed; other failures (too many open files) say nothing of
/// that, and nothing less is done because of them.
fn is_missing(error: &RulesetError) -> bool {
    match error {
        RulesetError::HandleAccesses(_) => true,
        RulesetError::CreateRuleset(CreateRulesetError::CreateRulesetCall { source, .. }) => {
            matches!(source.raw_os_error(), Some(libc::ENOSYS | libc::EOPNOTSUPP | libc::EPERM))
        }
        _ => false,
    }
}

fn rules(python: &Python, folder: &Path) -> Result<RulesetCreated, RulesetError> {
    let mut rules = Ruleset::default()
        .set_compatibility(CompatLevel::HardRequirement)
        .handle_access(AccessFs::from_all(ABI::V1))?
        // Of later kernels what there is: the filter of system calls forbids the same.
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(ABI::V5))?
        .handle_access(AccessNet::from_all(ABI::V4))?
        .scope(Scope::from_all(ABI::V6))?
        .create()?;
    for path in &python.readable {
        rules = beneath(rules, path, AccessFs::ReadFile | AccessFs::ReadDir)?;
    }
    for path in &python.executables {
        rules = beneath(rules, path, AccessFs::ReadFile | AccessFs::Execute)?;
    }
    for path in DEVICES {
        rules = beneath(rules, Path::new(path), AccessFs::ReadFile.into())?;
    }
    rules = beneath(rules, Path::new("/dev/null"), AccessFs::WriteFile.into())?;
    beneath(rules, folder, own())
}

/// What a program may do in its folder: all that is done with files and folders; no sockets, devices or programs.
fn own() -> BitFlags<AccessFs> {
    AccessFs::ReadFile
        | AccessFs::ReadDir
        | AccessFs::WriteFile
        | AccessFs::Truncate
        | AccessFs::MakeReg
        | AccessFs::MakeDir
        | AccessFs::MakeSym
        | AccessFs::RemoveFile
        | AccessFs::RemoveDir
        | AccessFs::Refer
}

/// Adds a rule; what is not there needs none.
fn beneath(rules: RulesetCreated, path: &Path, access: BitFlags<AccessFs>) -> Result<RulesetCreated, RulesetError> {
    let Ok(opened) = PathFd::new(path) else { return Ok(rules) };
    let access = if path.is_dir() { access } else { access & AccessFs::from_file(ABI::V5) };
    rules.add_rule(PathBeneath::new(opened, access))
}
