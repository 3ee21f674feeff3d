//! The user as whom a queue's commands run, looked up when the configuration is read.

use std::ffi::CString;

use nix::unistd::{User, getgrouplist};

/// Another user than the daemon's own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExecUser {
    /// As the configuration has it.
    pub name: String,
    /// The number of the user.
    pub uid: u32,
    /// The number of the user's own group.
    pub gid: u32,
    /// All groups that the user is in; of one that is given by numbers, only that.
    pub groups: Vec<u32>,
}

/// A user by name, or by numbers such as `1000:1000`.
pub(super) fn user(text: Option<&str>) -> Result<ExecUser, String> {
    let right = || {
        "must be the name of a user of this machine, or a uid and a gid such as 1000:1000"
            .to_owned()
    };
    let name = text.ok_or_else(right)?;
    if let Some((uid, gid)) = numbers(name) {
        return Ok(ExecUser { name: name.to_owned(), uid, gid, groups: vec![gid] });
    }
    let failed = |error: nix::Error| format!("cannot be looked up ({})", error.desc());
    let found = User::from_name(name).map_err(failed)?.ok_or_else(right)?;
    let called = CString::new(name).map_err(|_| right())?;
    let groups = getgrouplist(&called, found.gid).map_err(failed)?;
    let groups = groups.into_iter().map(|group| group.as_raw()).collect();
    Ok(ExecUser { name: name.to_owned(), uid: found.uid.as_raw(), gid: found.gid.as_raw(), groups })
}

/// `uid:gid`, both digits only.
fn numbers(text: &str) -> Option<(u32, u32)> {
    let (uid, gid) = text.split_once(':')?;
    let number = |digits: &str| {
        let is_number = digits.bytes().all(|byte| byte.is_ascii_digit());
        // The greatest means "leave it as it is" to the kernel.
        digits.parse().ok().filter(|number| is_number && *number != u32::MAX)
    };
    Some((number(uid)?, number(gid)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_is_found_by_name_with_all_its_groups() {
        let nobody = user(Some("nobody")).expect("every Linux has it");
        assert_eq!((nobody.uid, &*nobody.name), (65_534, "nobody"));
        assert!(nobody.groups.contains(&nobody.gid), "{nobody:?}");
    }

    #[test]
    fn numbers_need_no_such_user() {
        let numbered = user(Some("4711:4712")).expect("they are numbers");
        assert_eq!((numbered.uid, numbered.gid), (4711, 4712));
        assert_eq!(numbered.groups, [4712]);
    }

    #[test]
    fn what_is_no_user_is_refused() {
        for wrong in
            ["", "no-such-user", "1000", "1:", ":1", "+1:1", "1:4294967295", "a\0b", "1:2:3"]
        {
            let error = user(Some(wrong)).expect_err(wrong);
            assert!(error.starts_with("must be the name of a user of this machine"), "{error}");
        }
        assert!(user(None).is_err());
    }
}
