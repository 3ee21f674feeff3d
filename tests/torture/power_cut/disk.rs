//! What a power cut may leave: the disk as it is after so many events, and images drawn from it.

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::Path;
use std::sync::LazyLock;

use rand::rngs::StdRng;
use rand::{Rng, RngExt, SeedableRng};

use super::recording::{Event, durable_files};

/// What a disk writes whole or not at all.
const SECTOR_BYTES: u64 = 512;

/// What room may hold that was never written.
static NOISE: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let mut noise = vec![0; 64 << 10];
    StdRng::seed_from_u64(1).fill_bytes(&mut noise);
    noise
});

/// The files that a power cut left, by name.
pub type Image = BTreeMap<String, Vec<u8>>;

/// Which of the changes that were not synced are on disk.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Loss {
    /// None.
    All,
    /// All.
    None,
    /// Those up to one of them, of which some sectors are; each file has its own.
    Tail,
    /// Any, each with this chance, whole.
    Some(f64),
    /// Any, each with this chance, and of half of them some sectors only.
    Torn(f64),
}

impl Loss {
    /// One that tells something new: the first two leave one image each at a point.
    pub fn draw(random: &mut StdRng) -> Self {
        let chance = [0.1, 0.5, 0.9][random.random_range(0..3)];
        match random.random_range(0..20) {
            0 => Self::All,
            1 => Self::None,
            2..6 => Self::Tail,
            6..12 => Self::Some(chance),
            _ => Self::Torn(chance),
        }
    }
}

/// A change of a file's content.
#[derive(Debug, Clone, Copy)]
enum Change<'h> {
    Write { offset: u64, content: &'h [u8] },
    Cut { bytes: u64 },
}

/// Of which files, by name, a sync does what it says: of all, but in controls.
pub type Honest = fn(&str) -> bool;

#[derive(Debug, Default, Clone)]
struct File<'h> {
    synced: Vec<u8>,
    unsynced: Vec<Change<'h>>,
    /// Whether its syncs do what they say.
    is_honest: bool,
}

/// What a name stands for, nothing if there is no such file.
#[derive(Debug, Default, Clone)]
struct Name {
    synced: Option<usize>,
    unsynced: Vec<Option<usize>>,
}

/// The disk after so many events.
#[derive(Debug, Clone)]
pub struct Disk<'h> {
    files: Vec<File<'h>>,
    names: BTreeMap<String, Name>,
    honest: Honest,
}

impl<'h> Disk<'h> {
    /// With these files, which are durable.
    pub fn new(files: &[(String, Vec<u8>)], honest: Honest) -> Self {
        let mut disk = Self { files: Vec::new(), names: BTreeMap::new(), honest };
        for (name, content) in files {
            let number = disk.add_file(name);
            disk.files[number].synced = content.clone();
            let name_of = Name { synced: Some(number), unsynced: Vec::new() };
            disk.names.insert(name.clone(), name_of);
        }
        disk
    }

    fn add_file(&mut self, name: &str) -> usize {
        self.files.push(File { is_honest: (self.honest)(name), ..File::default() });
        self.files.len() - 1
    }

    /// Takes in the next event.
    pub fn take_in(&mut self, event: &'h Event) {
        match event {
            Event::Created { name } => {
                let number = self.add_file(name);
                self.names.entry(name.clone()).or_default().unsynced.push(Some(number));
            }
            Event::Deleted { name, durably } => {
                self.names.entry(name.clone()).or_default().unsynced.push(None);
                if *durably && (self.honest)(name) {
                    self.sync_directory();
                }
            }
            Event::Wrote { file, offset, content } => {
                let write = Change::Write { offset: *offset, content };
                self.files[*file].unsynced.push(write);
            }
            Event::Truncated { file, bytes } => {
                self.files[*file].unsynced.push(Change::Cut { bytes: *bytes });
            }
            Event::Synced { file, and_directory } if self.files[*file].is_honest => {
                self.files[*file].sync();
                if *and_directory {
                    self.sync_directory();
                }
            }
            Event::Synced { .. } => {}
        }
    }

    fn sync_directory(&mut self) {
        for name in self.names.values_mut() {
            if let Some(last) = name.unsynced.pop() {
                name.synced = last;
                name.unsynced.clear();
            }
        }
    }

    /// What a power cut at this point may leave.
    pub fn image(&self, loss: Loss, random: &mut StdRng) -> Image {
        let mut image = Image::new();
        for (name, of) in &self.names {
            if let Some(file) = of.left(loss, random) {
                image.insert(name.clone(), self.files[file].left(loss, random));
            }
        }
        image
    }
}

impl Name {
    /// Changes of one name reach the disk in their order.
    fn left(&self, loss: Loss, random: &mut StdRng) -> Option<usize> {
        let number = match loss {
            Loss::All => 0,
            Loss::None => self.unsynced.len(),
            Loss::Tail | Loss::Some(_) | Loss::Torn(_) => {
                random.random_range(0..=self.unsynced.len())
            }
        };
        number.checked_sub(1).map_or(self.synced, |last| self.unsynced[last])
    }
}

impl File<'_> {
    fn sync(&mut self) {
        for change in self.unsynced.drain(..) {
            change.apply(&mut self.synced);
        }
    }

    fn left(&self, loss: Loss, random: &mut StdRng) -> Vec<u8> {
        let mut content = Content { bytes: self.synced.clone(), has_noise: random.random() };
        match loss {
            Loss::All => {}
            Loss::None => self.unsynced.iter().for_each(|change| change.apply(&mut content.bytes)),
            Loss::Tail => {
                let whole = random.random_range(0..=self.unsynced.len());
                self.unsynced[..whole].iter().for_each(|change| content.take(change));
                if let Some(last) = self.unsynced.get(whole) {
                    content.take_some_sectors(last, random);
                }
            }
            Loss::Some(chance) => {
                for change in &self.unsynced {
                    if random.random_bool(chance) {
                        content.take(change);
                    } else if random.random() {
                        content.make_room(change);
                    }
                }
            }
            Loss::Torn(chance) => {
                for change in &self.unsynced {
                    match (random.random_bool(chance), random.random()) {
                        (true, true) => content.take(change),
                        (true, false) => content.take_some_sectors(change, random),
                        (false, true) => content.make_room(change),
                        (false, false) => {}
                    }
                }
            }
        }
        content.bytes
    }
}

impl Change<'_> {
    fn apply(&self, content: &mut Vec<u8>) {
        match *self {
            Self::Write { offset, content: written } => {
                let (begin, end) = (offset as usize, offset as usize + written.len());
                grow(content, end);
                content[begin..end].copy_from_slice(written);
            }
            Self::Cut { bytes } => {
                content.truncate(bytes as usize);
                grow(content, bytes as usize);
            }
        }
    }
}

/// Makes it as long at least; much faster than `resize` in a debug build.
fn grow(content: &mut Vec<u8>, bytes: usize) {
    content.extend_from_slice(&vec![0; bytes.saturating_sub(content.len())]);
}

/// A file as it is put together.
struct Content {
    bytes: Vec<u8>,
    /// Whether room that was never written holds anything, as what was deleted before; else zeros.
    has_noise: bool,
}

impl Content {
    fn take(&mut self, change: &Change<'_>) {
        self.make_room(change);
        change.apply(&mut self.bytes);
    }

    /// The file is as long as a write makes it, but the write itself is not there.
    fn make_room(&mut self, change: &Change<'_>) {
        let Change::Write { offset, content } = change else { return };
        let (old, end) = (self.bytes.len(), *offset as usize + content.len());
        if end > old {
            grow(&mut self.bytes, end);
            if self.has_noise {
                let room = self.bytes[old..].chunks_mut(NOISE.len());
                room.for_each(|room| room.copy_from_slice(&NOISE[..room.len()]));
            }
        }
    }

    /// Any of the sectors that a write touches, and of them what was written only: a sector that is
    /// written does no harm to the bytes beside.
    fn take_some_sectors(&mut self, change: &Change<'_>, random: &mut StdRng) {
        let Change::Write { offset, content } = *change else { return };
        let end = offset + content.len() as u64;
        let mut begin = offset;
        let mut coins = 1_u64;
        while begin < end {
            let next = end.min((begin / SECTOR_BYTES + 1) * SECTOR_BYTES);
            coins >>= 1;
            if coins == 0 {
                coins = random.random::<u64>() | 1 << 63;
            }
            if coins & 1 == 1 {
                let content = &content[(begin - offset) as usize..(next - offset) as usize];
                self.take(&Change::Write { offset: begin, content });
            }
            begin = next;
        }
    }
}

/// Makes a directory hold these files and no others that matter.
pub fn write(image: &Image, directory: &Path) {
    for name in durable_files(directory).iter().filter(|name| !image.contains_key(*name)) {
        fs::remove_file(directory.join(name)).unwrap();
    }
    for (name, content) in image {
        // Over what is there: the file system need not look for room again.
        let mut over = fs::OpenOptions::new();
        over.create(true).write(true).truncate(false);
        let mut file = over.open(directory.join(name)).unwrap();
        file.write_all(content).unwrap();
        file.set_len(content.len() as u64).unwrap();
    }
    // The index of the log lies in memory.
    for entry in fs::read_dir(directory).unwrap() {
        let file = entry.unwrap().path();
        if file.to_string_lossy().ends_with("-shm") {
            fs::remove_file(file).unwrap();
        }
    }
}
