//! SIGHUP: reads the configuration again, applies what can be applied while serving, and tells what
//! waits for a restart. A configuration that is wrong changes nothing.

use std::sync::Arc;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::task::spawn_blocking;
use tracing::{error, info, warn};

use super::Failure;
use super::logs::Level;
use super::settings::Settings;
use crate::config::Config;
use crate::daemon::Notifier;
use crate::server::Guard;

/// What is read again, and what it is compared with.
pub(super) struct Reloading {
    hangups: Signal,
    settings: Arc<Settings>,
    /// What is in effect.
    config: Config,
    level: Level,
    notifier: Notifier,
}

impl Reloading {
    /// Listens from now on; a signal is acted on only in [`Reloading::run`].
    pub(super) fn prepare(
        settings: &Settings,
        config: Config,
        level: Level,
        notifier: Notifier,
    ) -> Result<Self, Failure> {
        let hangups = signal(SignalKind::hangup());
        let hangups = hangups.map_err(|error| Failure::Other(error.into()))?;
        Ok(Self { hangups, settings: Arc::new(settings.clone()), config, level, notifier })
    }

    /// Reloads at each SIGHUP, for ever.
    pub(super) async fn run(mut self, guard: Arc<Guard>) {
        while self.hangups.recv().await.is_some() {
            self.notifier.reloading().await;
            self.reload(&guard).await;
            self.notifier.reloaded().await;
        }
    }

    async fn reload(&mut self, guard: &Guard) {
        let settings = self.settings.clone();
        let found = match spawn_blocking(move || settings.load()).await {
            Ok(Ok(found)) => found,
            Ok(Err(error)) => {
                // Each mistake is a line of its own, and has its place in it.
                for mistake in Failure::from(error).to_string().lines() {
                    error!(event = "reload_failed", error = mistake, "nothing has changed");
                }
                return;
            }
            Err(error) => {
                error!(event = "reload_failed", %error, "nothing has changed");
                return;
            }
        };
        let (was, is) = (self.config.log.level, found.log.level);
        self.config.log.level = is;
        // Whether callers need a token at all is not for a slip in a file to change.
        if found.tokens.are_needed() && self.config.tokens.are_needed() {
            self.config.tokens = found.tokens.clone();
            guard.replace(found.tokens.all());
        }
        let web = guard.replace_web(found.web.clone()).await;
        // The line that tells of it is written if it would be under either.
        self.level.set(if is as u8 > was as u8 { is } else { was });
        let (log_level, mut differing) = (is.name(), self.config.differing_keys(&found));
        if found.tokens.are_needed() != self.config.tokens.are_needed() {
            differing.push("whether callers need tokens".to_owned());
        }
        differing.extend(web.err().map(str::to_owned));
        let tokens = self.config.tokens.all().count();
        // Under systemd it may be a copy that was made at the start.
        let file = self.settings.config.as_ref().map(|file| file.display().to_string());
        if differing.is_empty() {
            info!(event = "reloaded", log_level, tokens, file, "what was read is in effect");
        } else {
            let keys = differing.join(", ");
            warn!(event = "reloaded", log_level, tokens, file, keys, "these keys need a restart");
        }
        self.level.set(is);
    }
}
