//! Looks up the names of receivers, a few at a time.
//!
//! A lookup holds a thread until the name server answers or the system gives up. The threads are
//! those that jobs are read by: pushes to a name that cannot be looked up must leave some.

use std::net::ToSocketAddrs;
use std::sync::Arc;

use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use tokio::sync::Semaphore;

/// Lookups at once, of all queues: an eighth of the runtime's threads for work that blocks.
const MAX_LOOKUPS: usize = 64;

/// What looks names up; clones share its places.
#[derive(Debug, Clone)]
pub(in crate::worker) struct Lookups(Arc<Semaphore>);

impl Lookups {
    pub(in crate::worker) fn new() -> Self {
        Self(Arc::new(Semaphore::new(MAX_LOOKUPS)))
    }
}

impl Resolve for Lookups {
    fn resolve(&self, name: Name) -> Resolving {
        let places = self.0.clone();
        Box::pin(async move {
            let place = places.acquire_owned().await?;
            let looked_up = tokio::task::spawn_blocking(move || {
                let found = (name.as_str(), 0).to_socket_addrs();
                drop(place); // not before: who gave up waiting must not free the place
                found
            });
            Ok(Box::new(looked_up.await??) as Addrs)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_lookup_waits_for_a_place_and_gives_it_back() {
        let lookups = Lookups(Arc::new(Semaphore::new(0)));
        let mut lookup = lookups.resolve("localhost".parse().expect("a name"));
        tokio::select! {
            biased;
            _ = &mut lookup => panic!("there is no place"),
            () = std::future::ready(()) => {}
        }
        lookups.0.add_permits(1);
        let found = lookup.await.expect("every machine knows it");
        assert!(found.into_iter().any(|address| address.ip().is_loopback()));
        assert_eq!(lookups.0.available_permits(), 1);
    }
}
