//! Files of settings that others on the machine may read or change.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::{StatVfsMountFlags, statvfs};

use super::{Config, Runner, Web};

/// Permission to read, for those who are neither the owner nor in the group.
const READ_BY_OTHERS: u32 = 0o004;

/// Permission to write, for anybody but the owner and the group.
const WRITE_BY_OTHERS: u32 = 0o002;

/// The same for anybody but the owner.
const WRITE_BY_GROUP_OR_OTHERS: u32 = 0o022;

/// What keeps others from replacing a file in a directory that they may write to.
const STICKY: u32 = 0o1000;

impl Config {
    /// What is wrong with who may use the files that these settings come from, a sentence each.
    ///
    /// A hash of 256 random bits tells nobody the token, so a file of tokens may be read; but whoever
    /// can write to it, or to the configuration, lets in whom they like. A hash of a password may be
    /// guessed. Certificates and keys are written by programs, so that no group needs to.
    pub fn exposed(&self, file: Option<&Path>) -> Vec<String> {
        let (mut found, web) = (Vec::new(), self.web.as_deref());
        let of_web = web.map(|web| web.file.as_path());
        for file in [file, self.tokens.file.as_deref(), of_web].into_iter().flatten() {
            if others_may(file, WRITE_BY_OTHERS) {
                let name = file.display();
                found
                    .push(format!("{name} can be changed by every user of the machine; chmod o-w"));
            }
        }
        let key_file = web.and_then(|web| web.key_file.as_deref());
        let certificates = web.map(|web| &*web.certificate_files).unwrap_or_default();
        let of_tls = || certificates.iter().map(PathBuf::as_path).chain(key_file);
        for file in of_tls().filter(|file| others_may(file, WRITE_BY_GROUP_OR_OTHERS)) {
            let name = file.display();
            found.push(format!("{name} can be changed by others than its owner; chmod go-w"));
        }
        let files = [file, self.tokens.file.as_deref(), of_web].into_iter().flatten();
        let directories = files.chain(of_tls()).filter_map(Path::parent);
        for directory in directories.map(or_here).filter(|it| is_open(it)).collect::<BTreeSet<_>>()
        {
            found.push(format!(
                "the files in {} can be replaced by every user of the machine; chmod o-w, or +t",
                directory.display()
            ));
        }
        for (file, secrets) in [
            (file, self.keys_of_secrets()),
            (of_web, web.map(Web::keys_of_secrets).unwrap_or_default()),
            (key_file, vec!["tls_server_config.key_file".to_owned()]),
        ] {
            let is_exposed = |file: &&Path| !secrets.is_empty() && others_may(file, READ_BY_OTHERS);
            let Some(file) = file.filter(is_exposed) else { continue };
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

/// The directory of a file that is named without one is that which tallyd was started in.
fn or_here(directory: &Path) -> &Path {
    if directory.as_os_str().is_empty() { Path::new(".") } else { directory }
}

/// Whether every user of the machine may replace the files in this directory. Nobody may where it is
/// mounted to be read only, as a ConfigMap of Kubernetes is, whatever its mode.
fn is_open(directory: &Path) -> bool {
    let is_writable = || {
        statvfs(directory).is_ok_and(|system| !system.f_flag.contains(StatVfsMountFlags::RDONLY))
    };
    fs::metadata(directory)
        .is_ok_and(|it| it.permissions().mode() & (WRITE_BY_OTHERS | STICKY) == WRITE_BY_OTHERS)
        && is_writable()
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
    fn keys_and_hashes_of_a_web_configuration_are_not_for_others() {
        let directory = tempfile::tempdir().unwrap();
        let own = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let (cert, key) = (own.cert.pem(), own.signing_key.serialize_pem());
        let said = |web: &str, mode: u32, mode_of_key: u32| {
            for (name, text, mode) in
                [("c.pem", &*cert, 0o644), ("k.pem", &*key, mode_of_key), ("web.yml", web, mode)]
            {
                let file = directory.path().join(name);
                fs::write(&file, text).unwrap();
                fs::set_permissions(&file, fs::Permissions::from_mode(mode)).unwrap();
            }
            let web_config = Some(directory.path().join("web.yml"));
            let overrides = Overrides { web_config, ..Overrides::default() };
            let config = Config::load(None, &overrides).unwrap();
            config.exposed(None).join("\n").replace(&*directory.path().to_string_lossy(), "")
        };
        let plain = "tls_server_config: {cert_file: c.pem, key_file: k.pem}\n";
        let indented: String = key.lines().map(|line| format!("    {line}\n")).collect();
        let inline = format!("tls_server_config:\n  cert_file: c.pem\n  key: |\n{indented}");
        let hash = "$2y$04$QOauhQNbBCuQDKes6eFzPeMqBSjb7Mr5DUmpZ/VcEd00UAV/LDeSi";
        let users = format!("basic_auth_users: {{a: {hash}}}\n");
        let told = |file: &str, key: &str| {
            format!(
                "/{file} has secrets ({key}) and can be read by every user of the machine; chmod o-r"
            )
        };
        assert_eq!(said(plain, 0o644, 0o640), "");
        assert_eq!(said(plain, 0o644, 0o644), told("k.pem", "tls_server_config.key_file"));
        assert_eq!(said(&inline, 0o644, 0o640), told("web.yml", "tls_server_config.key"));
        assert_eq!(said(&users, 0o644, 0o640), told("web.yml", "basic_auth_users"));
        assert_eq!(said(&users, 0o640, 0o640), "");
        let changed = "/web.yml can be changed by every user of the machine; chmod o-w";
        assert_eq!(said(plain, 0o642, 0o640), changed);
    }

    /// What is said of files that belong together, each with its mode, in a directory with this one.
    fn said_of_tls(modes: [u32; 3], mode: u32) -> String {
        let directory = tempfile::tempdir().unwrap();
        let own = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let web = "tls_server_config: {cert_file: c.pem, key_file: k.pem, client_ca_file: ca.pem, \
                   client_auth_type: RequireAndVerifyClientCert}\n";
        let (cert, key) = (own.cert.pem(), own.signing_key.serialize_pem());
        let file = directory.path().join("web.yml");
        fs::write(&file, web).unwrap();
        for ((name, text), mode) in
            [("c.pem", &cert), ("k.pem", &key), ("ca.pem", &cert)].iter().zip(modes)
        {
            let file = directory.path().join(name);
            fs::write(&file, text).unwrap();
            fs::set_permissions(&file, fs::Permissions::from_mode(mode)).unwrap();
        }
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(mode)).unwrap();
        let overrides = Overrides { web_config: Some(file), ..Overrides::default() };
        let config = Config::load(None, &overrides).unwrap();
        let place = directory.path().to_string_lossy().into_owned();
        config.exposed(None).join("\n").replace(&format!("{place}/"), "").replace(&place, "DIR")
    }

    #[test]
    fn no_file_of_tls_is_for_others_than_its_owner_to_change_nor_to_replace() {
        assert_eq!(said_of_tls([0o644, 0o640, 0o644], 0o755), "");
        for mode in [0o664, 0o646] {
            let told = "can be changed by others than its owner; chmod go-w";
            assert_eq!(said_of_tls([mode, 0o640, 0o644], 0o755), format!("c.pem {told}"));
            assert_eq!(said_of_tls([0o644, 0o640, mode], 0o755), format!("ca.pem {told}"));
        }
        let told = "k.pem can be changed by others than its owner; chmod go-w";
        assert_eq!(said_of_tls([0o644, 0o620, 0o644], 0o755), told);
        let told =
            "the files in DIR can be replaced by every user of the machine; chmod o-w, or +t";
        assert_eq!(said_of_tls([0o644, 0o640, 0o644], 0o757), told);
        assert_eq!(
            said_of_tls([0o644, 0o640, 0o644], 0o1777),
            "",
            "as in /tmp, only the owner may"
        );
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
