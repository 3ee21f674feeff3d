//! What must hold for any bytes that come as a job, as many jobs, or as the headers of a scrape.

mod jobs;
mod scrapers;
#[cfg(test)]
mod tests;

pub use jobs::{batch, job};
pub use scrapers::accept;
