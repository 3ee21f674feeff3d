//! The server that client commands speak to, and the runtime in which they do.

use std::env;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use tokio::runtime::Builder;

use super::Failure;
use crate::client::{Client, Trust, check_server};

/// The variable that holds a token; a flag for it would show the token to all users of the machine.
const TOKEN: &str = "TALLYD_TOKEN";

/// The flags that say where the server is, and who asks.
#[derive(Debug, clap::Args)]
pub struct Connection {
    /// Speak to the server at this URL
    #[arg(
        long,
        env = "TALLYD_SERVER",
        value_name = "URL",
        default_value = "http://127.0.0.1:8255",
        hide_env_values = true
    )]
    server: String,

    /// Send the token in this file; without it, the one in the variable TALLYD_TOKEN, if any
    #[arg(long, env = "TALLYD_TOKEN_FILE", value_name = "FILE")]
    token_file: Option<PathBuf>,

    /// Trust a server under https only if one of the authorities in this file knows it; without it,
    /// those of the system
    #[arg(long, env = "TALLYD_CA_FILE", value_name = "FILE")]
    ca_file: Option<PathBuf>,

    /// Show the certificate in this file, which holds its key too, to a server that asks for one
    #[arg(long, env = "TALLYD_CLIENT_CERT_FILE", value_name = "FILE")]
    client_cert_file: Option<PathBuf>,
}

/// Why there is nothing where something was named.
#[derive(Debug, thiserror::Error)]
#[error("cannot read the {what} in {}", .file.display())]
struct Unreadable {
    what: &'static str,
    file: PathBuf,
    source: io::Error,
}

impl Connection {
    /// Does what a command has to do with the server.
    ///
    /// # Errors
    ///
    /// Those of the work; there is nothing in a file that was named; or there can be no runtime.
    pub fn run<T>(
        &self,
        work: impl AsyncFnOnce(&Client) -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        check_server(&self.server)?;
        let (ca_file, identity) = (self.ca_file.as_deref(), self.client_cert_file.as_deref());
        let authorities = ca_file.map(|file| read("authorities", file)).transpose()?;
        let identity = identity.map(|file| read("certificate", file)).transpose()?;
        let (authorities, identity) = (authorities.as_deref(), identity.as_deref());
        let mut client = Client::trusting(&self.server, Trust { authorities, identity })?;
        if let Some(token) = self.token()? {
            client = client.with_token(&token)?;
        }
        let runtime = Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| Failure::Other(error.into()))?;
        runtime.block_on(work(&client))
    }

    fn token(&self) -> Result<Option<String>, Failure> {
        match &self.token_file {
            Some(file) => first_line(&read("token", file)?).map(Some).map_err(|source| {
                Failure::Usage(Unreadable { what: "token", file: file.clone(), source }.into())
            }),
            None => {
                let token = env::var(TOKEN).map(|token| token.trim().to_owned());
                Ok(token.ok().filter(|token| !token.is_empty()))
            }
        }
    }
}

/// All of a file.
fn read(what: &'static str, file: &Path) -> Result<Vec<u8>, Failure> {
    let unreadable = |source| Unreadable { what, file: file.to_owned(), source };
    fs::read(file).map_err(|error| Failure::Usage(unreadable(error).into()))
}

/// The first line: `tallyd token new` prints the token there.
fn first_line(bytes: &[u8]) -> io::Result<String> {
    let text =
        str::from_utf8(bytes).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
    Ok(text.lines().next().unwrap_or_default().trim().to_owned())
}
