//! Measures how a job store is best laid out in SQLite: where the payload goes, which indexes,
//! how many jobs a transaction takes, page and cache size, vacuum and checkpoints.
//!
//! `cargo bench --bench layout -- EXPERIMENT [JOBS] [ROUNDS]`; without arguments, the list.
//! The variants of an experiment take turns on their own files, and the ratio to the first variant
//! is the median over the rounds, because a shared machine is noisy.

mod checkpoints;
mod store;

use std::path::Path;
use std::time::{Duration, Instant};

use store::{Fallible, Indexes, Layout, MIB, Payload, Store, Vacuum};

/// What the command line asked for.
struct Request {
    jobs: usize,
    rounds: usize,
    directory: tempfile::TempDir,
}

/// A layout under test, with a name for the table.
type Variant = (&'static str, Layout);

const TURN: Duration = Duration::from_millis(600);

/// Lets every variant `work` in turns, and prints jobs per second, ratio and WAL bytes per job.
fn compare(
    request: &Request,
    title: &str,
    mut stores: Vec<(String, Store)>,
    work: impl Fn(usize, &mut Store) -> Fallible<usize>,
) -> Fallible {
    let mut rates = vec![Vec::new(); stores.len()];
    let mut wal = vec![Vec::new(); stores.len()];
    for _ in 0..request.rounds {
        for (index, (_, store)) in stores.iter_mut().enumerate() {
            let (start, wal_before, mut done) = (Instant::now(), store.wal_bytes, 0);
            while start.elapsed() < TURN {
                done += work(index, store)?;
            }
            rates[index].push(done as f64 / start.elapsed().as_secs_f64());
            wal[index].push((store.wal_bytes - wal_before) as f64 / done as f64);
        }
    }
    println!("\n{title}\n{:32} {:>9} {:>7} {:>13}", "", "jobs/s", "ratio", "WAL bytes/job");
    for (index, (name, store)) in stores.iter().enumerate() {
        let ratios = rates[index].iter().zip(&rates[0]).map(|(rate, first)| rate / first).collect();
        let (rate, ratio) = (median(rates[index].clone()), median(ratios));
        println!("{name:32} {rate:>9.0} {ratio:>7.2} {:>13.0}", median(wal[index].clone()));
        remove(&store.path);
    }
    Ok(())
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Removes a store's files; what stays goes with the directory.
fn remove(path: &Path) {
    for suffix in ["", "-wal", "-shm"] {
        drop(std::fs::remove_file(format!("{}{suffix}", path.display())));
    }
}

/// Stores with `request.jobs` ready and as many completed jobs, at most 64 MiB of payload each.
fn settled(
    request: &Request,
    variants: &[Variant],
    payload_bytes: usize,
) -> Fallible<Vec<(String, Store)>> {
    let jobs = request.jobs.min((64 << 20) / payload_bytes).next_multiple_of(1000);
    let mut stores = Vec::new();
    for (index, (name, layout)) in variants.iter().enumerate() {
        let path = request.directory.path().join(format!("{index}.db"));
        let mut store = Store::create(&path, layout, payload_bytes)?;
        for _ in 0..jobs / 1000 {
            store.insert(1000)?;
            let claimed = store.claim(1000)?;
            store.finish(&claimed)?;
            store.insert(1000)?;
        }
        stores.push(((*name).to_owned(), store));
    }
    Ok(stores)
}

/// Compares whole lives, `batch` jobs per transaction.
fn lives(
    request: &Request,
    title: &str,
    variants: &[Variant],
    payload: usize,
    batch: usize,
) -> Fallible {
    let stores = settled(request, variants, payload)?;
    let title = format!("{title}, whole life of {payload} bytes, {batch} a transaction");
    compare(request, &title, stores, |_, store| store.live(batch, batch).map(|()| batch))
}

fn payload(request: &Request) -> Fallible {
    let at = |payload| Layout { payload, ..Layout::default() };
    let variants = [
        ("in the row", at(Payload::InRow)),
        ("apart", at(Payload::Apart)),
        ("in the row up to 512", at(Payload::Split(512))),
        ("in the row up to 1024", at(Payload::Split(1024))),
        ("in the row up to 2048", at(Payload::Split(2048))),
    ];
    for bytes in [100, 200, 400, 1024, 2048, 4096, 65_536] {
        lives(request, "payload", &variants, bytes, 100)?;
    }
    for bytes in [100, 200, 400, 700, 1024] {
        lives(request, "payload", &variants[..2], bytes, 10)?;
    }
    Ok(())
}

fn state(request: &Request) -> Fallible {
    let variants = [
        ("TEXT", Layout::default()),
        ("INTEGER", Layout { numbered_states: true, ..Layout::default() }),
    ];
    lives(request, "state column", &variants, 200, 100)
}

fn indexes(request: &Request) -> Fallible {
    let variants = [
        ("partial (state = ready)", Layout::default()),
        ("full (queue, state, …)", Layout { indexes: Indexes::Full, ..Layout::default() }),
    ];
    lives(request, "index of claims", &variants, 200, 100)?;
    let variants = [
        ("none by queue", Layout::default()),
        ("another (queue, run_at)", Layout { waiting_by_queue: true, ..Layout::default() }),
    ];
    lives(request, "index of waiting jobs", &variants, 200, 100)?;
    let stores = settled(request, &variants, 200)?;
    compare(request, "the same, each job scheduled first", stores, |_, store| {
        store.schedule(100)?;
        let claimed = store.claim(100)?;
        store.finish(&claimed)?;
        store.prune(100).map(|()| 100)
    })
}

fn claim(request: &Request) -> Fallible {
    let variants = [
        ("SELECT, then an UPDATE a row", Layout::default()),
        ("UPDATE … RETURNING", Layout { claim_at_once: true, ..Layout::default() }),
    ];
    for batch in [100, 10, 1] {
        let stores = settled(request, &variants, 200)?;
        let title = format!("claim (with insert, finish, prune in 100s) in batches of {batch}");
        compare(request, &title, stores, |_, store| {
            store.insert(100)?;
            for _ in 0..100 / batch {
                let claimed = store.claim(batch)?;
                store.finish(&claimed)?;
            }
            store.prune(100).map(|()| 100)
        })?;
    }
    Ok(())
}

fn batch(request: &Request) -> Fallible {
    let sizes = [1, 4, 16, 64, 256, 1024, 4096];
    let variants = sizes.map(|_| ("", Layout::default()));
    let mut stores = settled(request, &variants, 200)?;
    for ((name, _), size) in stores.iter_mut().zip(sizes) {
        *name = format!("{size} a transaction");
    }
    compare(request, "creates, 200 bytes", stores, |index, store| {
        store.insert(sizes[index]).map(|()| sizes[index])
    })
}

fn vacuum_variants() -> [Variant; 4] {
    let with = |vacuum| Layout { vacuum, ..Layout::default() };
    [
        ("NONE", with(Vacuum::None)),
        ("INCREMENTAL, never", with(Vacuum::Never)),
        ("INCREMENTAL, each prune", with(Vacuum::Above(0))),
        ("INCREMENTAL, above 1/4 free", with(Vacuum::Above(4))),
    ]
}

/// The steady state with pruning, then a million jobs in and out.
fn vacuum(request: &Request) -> Fallible {
    lives(request, "auto_vacuum", &vacuum_variants(), 200, 100)?;
    println!("\n{} jobs inserted, finished and pruned in 1000s", request.jobs * 10);
    println!("{:32} {:>9} {:>9} {:>9} {:>12}", "", "full MiB", "end MiB", "pruned/s", "longest ms");
    for (name, layout) in vacuum_variants() {
        let mut store = Store::create(&request.directory.path().join("v.db"), &layout, 200)?;
        let batches = request.jobs / 100;
        for _ in 0..batches {
            store.insert(1000)?;
            let claimed = store.claim(1000)?;
            store.finish(&claimed)?;
        }
        let full = store.number("page_count")? * layout.page_bytes / MIB;
        let (start, mut longest) = (Instant::now(), Duration::ZERO);
        for _ in 0..batches {
            let before = Instant::now();
            store.prune(1000)?;
            longest = longest.max(before.elapsed());
        }
        let rate = (batches * 1000) as f64 / start.elapsed().as_secs_f64();
        let end = store.number("page_count")? * layout.page_bytes / MIB;
        let longest = longest.as_secs_f64() * 1e3;
        println!("{name:32} {full:>9} {end:>9} {rate:>9.0} {longest:>12.1}");
        remove(&store.path);
    }
    Ok(())
}

/// Claims and finishes among `jobs` × 10 stored jobs, by page and cache size.
fn pages(request: &Request) -> Fallible {
    for (title, priorities) in [("in order of creation", 1), ("spread by priority", 8)] {
        let mut stores = Vec::new();
        for (page_bytes, cache_mib) in
            [(4096, 2), (4096, 16), (4096, 64), (8192, 2), (8192, 16), (16_384, 2), (16_384, 16)]
        {
            let cache_kib = cache_mib << 10;
            let layout = Layout { page_bytes, cache_kib, priorities, ..Layout::default() };
            let name = format!("page {page_bytes}, cache {cache_mib} MiB");
            let path = request.directory.path().join(format!("{page_bytes}-{cache_mib}.db"));
            let mut store = Store::create(&path, &layout, 200)?;
            for _ in 0..request.jobs / 100 {
                store.insert(1000)?;
            }
            store.reopen()?;
            stores.push((name, store));
        }
        let title = format!("claim and finish among {} jobs, {title}", request.jobs * 10);
        compare(request, &title, stores, |_, store| {
            let claimed = store.claim(100)?;
            store.finish(&claimed)?;
            Ok(claimed.len())
        })?;
    }
    Ok(())
}

type Experiment = fn(&Request) -> Fallible;

const EXPERIMENTS: [(&str, Experiment); 8] = [
    ("payload", payload),
    ("state", state),
    ("indexes", indexes),
    ("claim", claim),
    ("batch", batch),
    ("vacuum", vacuum),
    ("pages", pages),
    ("checkpoints", checkpoints::run),
];

fn main() -> Fallible {
    let arguments: Vec<String> =
        std::env::args().skip(1).filter(|argument| !argument.starts_with("--")).collect();
    let wanted = arguments.first().map_or("", String::as_str);
    let Some((_, experiment)) = EXPERIMENTS.iter().find(|(name, _)| *name == wanted) else {
        let names: Vec<_> = EXPERIMENTS.iter().map(|(name, _)| *name).collect();
        println!("experiments: {}", names.join(", "));
        return Ok(());
    };
    let number =
        |index: usize, default| arguments.get(index).map_or(Ok(default), |text| text.parse());
    experiment(&Request {
        jobs: number(1, 20_000)?,
        rounds: number(2, 7)?,
        directory: tempfile::tempdir_in("target")?,
    })
}
