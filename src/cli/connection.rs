//! The server that client commands speak to, and the runtime in which they do.

use tokio::runtime::Builder;

use super::Failure;
use crate::client::Client;

/// The flag that says where the server is.
#[derive(Debug, clap::Args)]
pub struct Connection {
    /// Speak to the server at this URL
    #[arg(long, env = "TALLYD_SERVER", value_name = "URL", default_value = "http://127.0.0.1:8255",
        hide_env_values = true, value_parser = Client::new)]
    server: Client,
}

impl Connection {
    /// Does what a command has to do with the server.
    ///
    /// # Errors
    ///
    /// Those of the work, or there can be no runtime.
    pub fn run<T>(
        &self,
        work: impl AsyncFnOnce(&Client) -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        let runtime = Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| Failure::Other(error.into()))?;
        runtime.block_on(work(&self.server))
    }
}
