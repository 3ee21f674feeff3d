//! Files of settings that others on the machine may read or change.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use super::{Config, Runner};

/// Permission to read, for those who are neither the owner nor in the group.
const READ_BY_OTHERS: u32 = 0o004;

/// Permission to write, for anybody but the owner and the group.
const WRITE_BY_OTHERS: u32 = 0o002;

impl Config {
    /// What is wrong with who may use the files that these settings come from, a sentence each.
    ///
    /// A hash of 256 random bits tells nobody the token, so a file of tokens may be read; but whoever
    /// can write to it, or to the configuration, lets in whom they like.
    pub fn exposed(&self, file: Option<&Path>) -> Vec<String> {
        let mut found = Vec::new();
        for file in [file, self.tokens.file.as_deref()].into_iter().flatten() {
            if others_may(file, WRITE_BY_OTHERS) {
                let name = file.display();
                found
                    .push(format!("{name} can be changed by every user of the machine; chmod o-w"));
            }
        }
        let secrets = self.keys_of_secrets();
        if let Some(file) =
            file.filter(|file| !secrets.is_empty() && others_may(file, READ_BY_OTHERS))
        {
            let (name, secrets) = (file.display(), secrets.join(", "));
            found.push(format!(
                "{name} has secrets ({secrets}) and can be read by every user of the machine; chmod o-r"
            ));
        }
        found
    }

    /// The keys whose values are never shown.
    fn keys_of_secrets(&self) -> Vec<String> {
        let mut keys = Vec::new();
        for (name, queue) in &self.queues {
            let mut note = |is_there: bool, key: &str| {
                keys.extend(is_there.then(|| format!("queues.{name}.{key}")));
            };
            match &queue.runner {
                Runner::Lease => {}
                Runner::Exec(exec) => note(!exec.env.is_empty(), "exec.env"),
                Runner::Http(http) => {
                    note(http.secret.is_some(), "http.secret");
                    note(!http.headers.is_empty(), "http.headers");
                }
            }
        }
        keys
    }
}

fn others_may(file: &Path, permission: u32) -> bool {
    // What cannot be looked at has just been read, and is gone.
    fs::metadata(file)
        .is_ok_and(|file| file.is_file() && file.permissions().mode() & permission != 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Overrides;

    /// What is said of a configuration and its tokens under these permissions.
    fn said(config: &str, mode: u32, mode_of_tokens: u32) -> String {
        let directory = tempfile::tempdir().unwrap();
        let put = |name: &str, text: &str, mode: u32| {
            let file = directory.path().join(name);
            fs::write(&file, text).unwrap();
            fs::set_permissions(&file, fs::Permissions::from_mode(mode)).unwrap();
            file
        };
        let hash = "a".repeat(64);
        let block = format!("[[tokens]]\nname = \"t\"\nsha256 = \"{hash}\"\nroles = [\"work\"]\n");
        let tokens = put("tokens.toml", &block, mode_of_tokens);
        let text = format!("token_file = {tokens:?}\n{config}");
        let file = put("tallyd.toml", &text, mode);
        let config = Config::load(Some(&file), &Overrides::default()).unwrap();
        config.exposed(Some(&file)).join("\n").replace(&*directory.path().to_string_lossy(), "")
    }

    const SECRETS: &str = "[queues.a.http]\nurl = \"http://a/\"\nheaders = { b = \"c\" }\n\
        secret = \"whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw\"\n\
        [queues.b.exec]\ncommand = [\"/bin/true\"]\nenv = { A = \"b\" }\n";

    #[test]
    fn a_file_with_secrets_is_not_for_others_to_read() {
        let told = "/tallyd.toml has secrets (queues.a.http.secret, queues.a.http.headers, \
                    queues.b.exec.env) and can be read by every user of the machine; chmod o-r";
        assert_eq!(said(SECRETS, 0o644, 0o644), told);
        assert_eq!(said(SECRETS, 0o640, 0o644), "");
        assert_eq!(said("[queues.b.exec]\ncommand = [\"/bin/true\"]", 0o644, 0o644), "");
    }

    #[test]
    fn the_debug_form_of_a_configuration_has_no_secret() {
        let text =
            SECRETS.replace("= \"c\"", "= \"not-told\"").replace("A = \"b\"", "A = \"not-told\"");
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("tallyd.toml");
        fs::write(&file, text).unwrap();
        let config = Config::load(Some(&file), &Overrides::default()).unwrap();
        let shown = format!("{config:?} {config:#?}");
        assert!(shown.contains("env: [\"A\"]") && shown.contains("headers: [\"b\"]"), "{shown}");
        assert!(!shown.contains("not-told") && !shown.contains("LaLaSw"), "{shown}");
    }

    #[test]
    fn no_file_is_for_others_to_change() {
        let told = "can be changed by every user of the machine; chmod o-w";
        let both = format!("/tallyd.toml {told}\n/tokens.toml {told}");
        assert_eq!(said("", 0o602, 0o602), both);
        assert_eq!(said(SECRETS, 0o660, 0o660), "");
    }
}
