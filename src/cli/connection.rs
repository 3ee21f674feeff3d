//! The server that client commands speak to, and the runtime in which they do.

use std::env;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use tokio::runtime::Builder;

use super::Failure;
use crate::client::Client;

/// The variable that holds a token; a flag for it would show the token to all users of the machine.
const TOKEN: &str = "TALLYD_TOKEN";

/// The flags that say where the server is, and who asks.
#[derive(Debug, clap::Args)]
pub struct Connection {
    /// Speak to the server at this URL
    #[arg(long, env = "TALLYD_SERVER", value_name = "URL", default_value = "http://127.0.0.1:8255",
        hide_env_values = true, value_parser = Client::new)]
    server: Client,

    /// Send the token in this file; without it, the one in the variable TALLYD_TOKEN, if any
    #[arg(long, env = "TALLYD_TOKEN_FILE", value_name = "FILE")]
    token_file: Option<PathBuf>,
}

/// Why there is no token where one was named.
#[derive(Debug, thiserror::Error)]
#[error("cannot read the token in {}", .file.display())]
struct Unreadable {
    file: PathBuf,
    source: io::Error,
}

impl Connection {
    /// Does what a command has to do with the server.
    ///
    /// # Errors
    ///
    /// Those of the work; there is no token where one was named; or there can be no runtime.
    pub fn run<T>(
        &self,
        work: impl AsyncFnOnce(&Client) -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        let client = match self.token()? {
            Some(token) => self.server.clone().with_token(&token)?,
            None => self.server.clone(),
        };
        let runtime = Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| Failure::Other(error.into()))?;
        runtime.block_on(work(&client))
    }

    fn token(&self) -> Result<Option<String>, Failure> {
        match &self.token_file {
            Some(file) => read(file)
                .map(Some)
                .map_err(|source| Failure::Usage(Unreadable { file: file.clone(), source }.into())),
            None => {
                let token = env::var(TOKEN).map(|token| token.trim().to_owned());
                Ok(token.ok().filter(|token| !token.is_empty()))
            }
        }
    }
}

/// The first line of a file: `tallyd token new` prints the token there.
fn read(file: &Path) -> io::Result<String> {
    let text = fs::read_to_string(file)?;
    Ok(text.lines().next().unwrap_or_default().trim().to_owned())
}
