//! Under systemd: what it is told, the sockets that it hands over, and the files of
//! `deploy/systemd/`, each checked with its own tools.

mod activation;
mod bad_input;
mod notify;
mod reload;
mod units;
